//! Whom coordinators ask while gossip holds somebody to be absent.

use ferrite_cluster::hints::HintOptions;
use ferrite_lsm::mem_disk::Fault;
use ferrite_wire::{ErrorCode, ReadWant, ReplicaAnswer, Reply, Version, WriteAnswer};

use super::cluster::Cluster;
use super::coordinator::{Coordinator, TIMEOUT_MS, What};
use super::*;
use crate::shard::Absences;

/// What a client of a core is told of a request, once it is.
fn ask(
    cluster: &mut Cluster,
    node: usize,
    core: usize,
    within_ms: u64,
    request: &Request<'_>,
) -> Result<Option<Vec<u8>>, ErrorCode> {
    let place = cluster.place(node, core);
    let client = client(&place.bench, &place.shard);
    receive(&place.shard, client, &request_frame(1, request));
    let is_told = |cluster: &Cluster| {
        let sent = cluster.place(node, core).bench.0.sent.borrow();
        sent.get(&client).is_some_and(|bytes| !bytes.is_empty())
    };
    cluster.until(within_ms, is_told);
    let (header, body) = cluster.place(node, core).bench.frames(client).remove(0);
    match Reply::decode(header.kind, &body) {
        Ok(Reply::Done { .. } | Reply::Absent { .. }) => Ok(None),
        Ok(Reply::Value { value, .. }) => Ok(Some(value.to_vec())),
        Ok(Reply::Error { code, .. }) => Err(code),
        other => panic!("{other:?} answers neither"),
    }
}

fn value(value: &[u8]) -> Result<Option<Vec<u8>>, ErrorCode> {
    Ok(Some(value.to_vec()))
}

/// The first core runs the gossip; a node whose gossip alone failed held all others to be down, and refused whatever needed one of them, though its links
/// to them worked.
#[test]
fn a_node_whose_gossip_alone_fails_goes_on() {
    let mut cluster = Cluster::formed(3, 1);
    cluster.gossip_cut.insert(0);
    cluster.until(10_000, |cluster| cluster.is_absent(0, 1, 0) && cluster.is_absent(0, 2, 0));
    assert_eq!(ask(&mut cluster, 0, 0, 200, &put(b"k", b"v", Level::Quorum)), Ok(None));
    assert_eq!(ask(&mut cluster, 0, 0, 200, &get(b"k", Level::All)), value(b"v"));
    // The others hold it to be down, and need it for all.
    cluster.until(10_000, |cluster| cluster.is_absent(1, 0, 0));
    assert_eq!(ask(&mut cluster, 1, 0, 200, &put(b"k", b"w", Level::All)), Ok(None));
    assert_eq!(ask(&mut cluster, 0, 0, 200, &get(b"k", Level::One)), value(b"w"));
    // Where no link is up, what needs more is refused at once.
    cluster.set_cut_off(0, true);
    cluster.run_for(3_000);
    assert_eq!(ask(&mut cluster, 0, 0, 20, &put(b"k", b"x", Level::Quorum)), Err(ErrorCode::Unavailable));
    assert_eq!(ask(&mut cluster, 0, 0, 20, &get(b"k", Level::Quorum)), Err(ErrorCode::Unavailable));
}

/// A key of a core of the second node, with the core of the first that has it.
fn key_on(cluster: &Cluster, core: u16) -> (usize, Vec<u8>) {
    let shard = &cluster.place(0, 0).shard;
    let route_of = |key: &[u8]| shard.route(&Key::plain(key)).expect("a table");
    let is_there =
        |key: &Vec<u8>| shard.ring.borrow().core_of(NodeId(2), route_of(key).vnode) == Some(CoreId(core));
    let key = (0..10_000u32).map(|number| number.to_le_bytes().to_vec()).find(is_there).expect("some key");
    (usize::from(route_of(&key).hop.unwrap_or(CoreId(0)).0), key)
}

/// The second core answers, and nobody asked it: its node was absent as a whole.
#[test]
fn the_other_cores_of_a_node_whose_first_stands_still_go_on() {
    let mut cluster = Cluster::formed(2, 2);
    cluster.places[2].is_stalled = true;
    cluster.until(10_000, |cluster| cluster.is_absent(0, 1, 0) && cluster.is_absent(0, 1, 1));
    let (at, works) = key_on(&cluster, 1);
    assert_eq!(ask(&mut cluster, 0, at, 200, &put(&works, b"v", Level::All)), Ok(None));
    assert_eq!(ask(&mut cluster, 0, at, 200, &get(&works, Level::All)), value(b"v"));
    let (at, stands) = key_on(&cluster, 0);
    let refused = ask(&mut cluster, 0, at, 20, &put(&stands, b"v", Level::All));
    assert_eq!(refused, Err(ErrorCode::Unavailable), "at once");
}

/// It serves reads of what was synced: two of three replicas are a quorum though one of them is fenced and the third is gone.
#[test]
fn a_fenced_core_is_read_and_not_written_to() {
    let mut cluster = Cluster::formed(3, 1);
    assert_eq!(ask(&mut cluster, 0, 0, 200, &put(b"k", b"v", Level::All)), Ok(None));
    let place = cluster.place(1, 0);
    place.bench.0.disk.fail_at(0, Fault::Io);
    assert!(ask(&mut cluster, 1, 0, 3_000, &put(b"other", b"v", Level::All)).is_err());
    assert!(cluster.place(1, 0).shard.is_fenced());
    cluster.set_cut_off(2, true);
    cluster.until(10_000, |cluster| cluster.is_absent(0, 1, 0) && cluster.is_absent(0, 2, 0));
    assert_eq!(ask(&mut cluster, 0, 0, 200, &get(b"k", Level::Quorum)), value(b"v"));
    assert_eq!(ask(&mut cluster, 0, 0, 20, &put(b"k", b"w", Level::Quorum)), Err(ErrorCode::Unavailable));
    assert_eq!(ask(&mut cluster, 0, 0, 200, &get(b"k", Level::Quorum)), value(b"v"), "it was not sent");
}

impl Coordinator {
    fn holds_absent(&self, nodes: &[u16]) {
        let nodes = nodes.iter().map(|node| NodeId(*node)).collect();
        self.shard.on_absences(Absences::of_nodes(nodes).into());
    }

    fn node_of(&self, connection: Connection) -> u16 {
        let links = self.shard.links.borrow();
        links.iter().find(|link| link.up() == Some(connection)).expect("a link").node.0
    }

    fn put(&mut self, key: &[u8], level: Level) {
        self.number += 1;
        receive(&self.shard, self.client, &request_frame(self.number, &put(key, b"v", level)));
        self.settle();
    }
}

#[test]
fn whoever_is_absent_is_asked_only_where_the_live_are_too_few() {
    for level in [Level::Quorum, Level::All] {
        let mut node = Coordinator::new(3, 3);
        let name = node.key(true);
        let version = Version { order: Order(8), ..Version::default() };
        node.store(Key::plain(&name), version, b"v");
        node.holds_absent(&[2]);
        node.get(Key::plain(&name), level);
        let asked = node.asked();
        let nodes: Vec<u16> = asked.iter().map(|asked| node.node_of(asked.connection)).collect();
        assert_eq!(nodes.contains(&2), level == Level::All, "{nodes:?}");
        for asked in &asked {
            assert_eq!(asked.what, What::Read(ReadWant::Digest));
            node.answer_read(asked, ReplicaAnswer::Digest { version });
        }
        assert_eq!(node.told(), [Ok(Some(b"v".to_vec()))]);
        node.put(&name, level);
        let asked = node.asked();
        let nodes: Vec<u16> = asked.iter().map(|asked| node.node_of(asked.connection)).collect();
        assert_eq!(nodes.contains(&2), level == Level::All, "{nodes:?}");
        asked.iter().for_each(|asked| node.answer_write(asked, WriteAnswer::Applied));
        assert_eq!(node.bench.frames(node.client)[0].0.kind, FrameKind::Done);
        node.settle();
        let owed = node.shard.hints.borrow().owed(NodeId(2)).0;
        assert_eq!(owed, u64::from(level == Level::Quorum), "where it has not got the write");
    }
}

/// It was written to because no level could be met without it; silent, it is owed what any replica is.
#[test]
fn an_absent_replica_that_was_written_to_in_vain_is_owed_a_hint() {
    let mut node = Coordinator::new(3, 3);
    node.shard.hints.replace(ferrite_cluster::hints::Ledger::new(HintOptions::default(), 0));
    let name = node.key(true);
    node.holds_absent(&[2, 3]);
    node.put(&name, Level::Quorum);
    let asked = node.asked();
    assert_eq!(asked.len(), 2);
    node.answer_write(&asked[0], WriteAnswer::Applied);
    assert_eq!(node.bench.frames(node.client)[0].0.kind, FrameKind::Done);
    assert_eq!(node.shard.hints_owed(), 0, "the other may yet answer");
    pass(&node.bench, &node.shard, TIMEOUT_MS + 20);
    let silent = NodeId(node.node_of(asked[1].connection));
    assert_eq!((node.shard.hints_owed(), node.shard.hints.borrow().owed(silent).0), (1, 1));
}
