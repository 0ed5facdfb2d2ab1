//! Liveness: what gossip finds, and what coordinators make of it.

use ferrite_cluster::gossip::{Generation, GossipOptions, Verdict};
use ferrite_lsm::mem_disk::Fault;
use ferrite_wire::{ErrorCode, Reply};

use super::cluster::{Cluster, settings_at};
use super::*;
use crate::shard::gossip_links::PACKETS_WAITING_MAX;
use crate::shard::{Route, generation};

pub(super) fn generation_of(shard: &Shard<Bench>) -> Generation {
    shard.gossip.borrow().as_ref().expect("a first core gossips").membership.me().generation()
}

/// A line of a node's status.
pub(super) fn line(cluster: &Cluster, at: usize, name: &str) -> String {
    let status = cluster.place(at, 0).shard.status();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no line {name} in\n{status}")).to_owned()
}

#[test]
fn a_node_that_is_cut_off_is_suspect_then_down_then_up_again() {
    let mut cluster = Cluster::formed(3, 1);
    assert!(cluster.is_present(0, 2, 0));
    let before = generation_of(&cluster.place(2, 0).shard);
    cluster.set_cut_off(2, true);
    cluster.until(3_000, |cluster| cluster.verdict(0, 2) == Some(Verdict::Suspect));
    assert!(cluster.is_present(0, 2, 0), "who is suspected may yet object");
    assert!(line(&cluster, 0, "member.3").starts_with("suspect 0s "));
    cluster.until(3_000, |cluster| cluster.verdict(0, 2) == Some(Verdict::Down));
    assert!(cluster.is_absent(0, 2, 0));
    assert!(line(&cluster, 0, "member.3").starts_with("down 0s "));
    cluster.run_for(2_000);
    assert!(line(&cluster, 0, "member.3").starts_with("down 2s "), "{}", line(&cluster, 0, "member.3"));
    // The one that is cut off holds both others to be down, and is believed by nobody when it comes back.
    cluster.until(10_000, |cluster| cluster.is_absent(2, 0, 0) && cluster.is_absent(2, 1, 0));
    cluster.set_cut_off(2, false);
    let all_present = |cluster: &Cluster| {
        [(0, 2), (1, 2), (2, 0), (2, 1)]
            .iter()
            .all(|(at, of)| cluster.verdict(*at, *of) == Some(Verdict::Up) && cluster.is_present(*at, *of, 0))
    };
    cluster.until(10_000, all_present);
    assert!(cluster.is_present(0, 1, 0) && cluster.is_present(1, 0, 0), "they never lost each other");
    // It went on under another life, and begins its next one above that.
    let place = cluster.place(2, 0);
    let renewed = generation_of(&place.shard);
    assert!(renewed > before, "{renewed} after {before}");
    place.bench.0.wall_ms.set(0);
    let next = block_on(generation::begin(&place.bench, &place.shard.engine));
    assert_eq!(next, Generation(renewed.0 + 1));
}

/// The connections over which a node's gossip comes in from another.
fn gossip_from(cluster: &Cluster, at: usize, of: usize) -> Vec<Connection> {
    let sessions = cluster.place(at, 0).shard.sessions.borrow();
    let of_it = sessions.gossip().filter(|(_, node, _)| *node == NodeId(of as u16 + 1));
    of_it.map(|(connection, ..)| connection).collect()
}

/// A node whose power went said no goodbye, and its connections took their places for ever.
#[test]
fn connections_of_gossip_end_by_themselves_where_their_nodes_have_vanished_and_stay_where_they_have_not() {
    let mut cluster = Cluster::formed(3, 1);
    let before = gossip_from(&cluster, 0, 1);
    cluster.set_cut_off(2, true);
    assert_eq!((before.len(), gossip_from(&cluster, 0, 2).len()), (1, 1));
    cluster.until(10_000, |cluster| (0..2).all(|at| gossip_from(cluster, at, 2).is_empty()));
    assert_eq!(cluster.verdict(0, 2), Some(Verdict::Down));
    cluster.set_cut_off(2, false);
    cluster.until(10_000, |cluster| gossip_from(cluster, 0, 2).len() == 1);
    cluster.run_for(10_000);
    assert_eq!(gossip_from(&cluster, 0, 1), before, "who is there keeps its own");
}

/// Of a node that is there, an earlier connection that was lost on its way.
#[test]
fn a_former_connection_of_gossip_ends_once_it_has_been_silent_for_long_and_the_latest_does_not() {
    let bench = Bench::new(MemDisk::new());
    let shard = open(&bench, settings(2, 1, 2)).expect("an empty disk opens");
    let tables = TableList::new(&shard.tables).expect("the shard encoded them");
    let role = Role::Gossip { node: NodeId(2), incarnation: 1, tables };
    let [former, latest] = [0, 1].map(|_| greeted(&bench, &shard, role));
    let is_closed = |connection| bench.0.closed.borrow().contains(&connection);
    for second in 0..40 {
        receive(&shard, latest, &request_frame(1, &Request::Ping));
        pass(&bench, &shard, 1_000);
        assert!(!is_closed(latest));
        assert_eq!(is_closed(former), second >= 20, "after {second} s");
    }
    pass(&bench, &shard, 21_000);
    assert!(is_closed(latest), "gossip knows nothing of it");
}

#[test]
fn a_core_that_stands_still_counts_as_absent_though_its_node_answers() {
    let mut cluster = Cluster::formed(2, 2);
    assert!(cluster.is_present(0, 1, 0) && cluster.is_present(0, 1, 1));
    cluster.places[3].is_stalled = true;
    cluster.until(5_000, |cluster| cluster.is_absent(0, 1, 1));
    assert!(cluster.is_present(0, 1, 0), "the other core works");
    assert_eq!(cluster.verdict(0, 1), Some(Verdict::Up), "its node answers");
    let cores = line(&cluster, 0, "member.2.cores");
    assert!(cores.starts_with("0:running:") && cores.contains(",1:stalled:1s"), "{cores}");
    let own = line(&cluster, 1, "member.2.cores");
    assert!(own.contains(",1:stalled:"), "its own node says so too: {own}");
    // A coordinator asks it no more: what needs it is refused at once, not after the request's time.
    let place = cluster.place(0, 1);
    let client = client(&place.bench, &place.shard);
    let is_on_it = |route: &Route| {
        place.shard.ring.borrow().core_of(NodeId(2), route.vnode) == Some(CoreId(1)) && route.hop.is_none()
    };
    let partition = (0..1_000u32)
        .map(u32::to_le_bytes)
        .find(|partition| place.shard.route(&Key::plain(partition)).is_ok_and(|route| is_on_it(&route)))
        .expect("some key is on the core that stands still");
    receive(&place.shard, client, &request_frame(1, &put(&partition, b"v", Level::All)));
    let (header, body) = place.bench.frames(client).remove(0);
    let refused = Reply::decode(header.kind, &body);
    assert!(matches!(refused, Ok(Reply::Error { code: ErrorCode::Unavailable, .. })), "{refused:?}");
    cluster.places[3].is_stalled = false;
    cluster.until(5_000, |cluster| cluster.is_present(0, 1, 1));
    assert!(line(&cluster, 0, "member.2.cores").contains(",1:running:0s"));
}

#[test]
fn a_fenced_core_counts_as_absent() {
    let mut cluster = Cluster::formed(2, 1);
    let place = cluster.place(1, 0);
    let connection = client(&place.bench, &place.shard);
    place.bench.0.disk.fail_at(0, Fault::Io);
    receive(&place.shard, connection, &request_frame(1, &put(b"k", b"v", Level::One)));
    place.shard.on_batch_end();
    place.bench.run();
    assert!(place.shard.is_fenced());
    cluster.until(5_000, |cluster| cluster.is_absent(0, 1, 0));
    assert_eq!(cluster.verdict(0, 1), Some(Verdict::Up));
    assert!(line(&cluster, 0, "member.2.cores").starts_with("0:fenced:"));
    assert!(line(&cluster, 1, "member.2.cores").starts_with("0:fenced:"));
}

#[test]
fn a_node_that_stops_in_order_is_known_to_be_down_at_once() {
    let mut cluster = Cluster::formed(3, 2);
    cluster.place(2, 0).shard.on_stop();
    cluster.place(2, 1).shard.on_stop();
    cluster.until(100, |cluster| cluster.is_absent(0, 2, 0) && cluster.is_absent(1, 2, 1));
    assert!(cluster.is_present(0, 1, 0));
}

/// The list of who is absent travels whole, so that one that found no room does not leave a core behind for ever.
#[test]
fn a_core_whose_queue_was_full_learns_who_is_absent_later() {
    let mut cluster = Cluster::formed(2, 2);
    cluster.place(0, 0).bench.0.hops_full.set(true);
    cluster.set_cut_off(1, true);
    cluster.until(5_000, |cluster| cluster.verdict(0, 1) == Some(Verdict::Down));
    let knows = |core| cluster.place(0, core).shard.counts_absent(NodeId(2), None);
    assert!(knows(0) && !knows(1));
    cluster.place(0, 0).bench.0.hops_full.set(false);
    cluster.until(1_000, |cluster| cluster.is_absent(0, 1, 0));
}

pub(super) fn greet(bench: &Bench, shard: &Shard<Bench>, role: Role<'_>) -> (Connection, Received) {
    let connection = bench.new_connection();
    shard.on_accepted(connection);
    let (min, max, features) = (PROTOCOL_MIN, PROTOCOL_MAX, Features(0));
    let hello = Hello { min, max, features, cluster: CLUSTER, role };
    let received = shard.on_received(connection, &frame_of(FrameKind::Hello, 0, 0, |out| hello.encode(out)));
    (connection, received)
}

pub(super) fn refusal(bench: &Bench, connection: Connection) -> (ErrorCode, String) {
    let (header, body) = bench.frames(connection).pop().expect("an answer");
    match Reply::decode(header.kind, &body) {
        Ok(Reply::Error { code, text }) => (code, text.to_owned()),
        other => panic!("not an error: {other:?}"),
    }
}

#[test]
fn gossip_of_a_node_with_other_tables_is_refused_with_the_difference() {
    let bench = Bench::new(MemDisk::new());
    let shard = open(&bench, settings(2, 1, 2)).expect("an empty disk opens");
    let mut bytes = Vec::new();
    Tables::only_default(1).encode(&mut bytes);
    let gossip = |node| Role::Gossip {
        node: NodeId(node),
        incarnation: 1,
        tables: TableList::new(&bytes).expect("a sound list"),
    };
    let (connection, received) = greet(&bench, &shard, gossip(2));
    assert_eq!(received, Received::Close);
    let expected = (ErrorCode::TablesDiffer, "table default: replication 3 on n1, 1 on n2".to_owned());
    assert_eq!(refusal(&bench, connection), expected);
    // So is one that the configuration does not list.
    let (connection, received) = greet(&bench, &shard, gossip(9));
    assert_eq!(received, Received::Close);
    let expected = (ErrorCode::TablesDiffer, "table default: replication 3 on n1, 1 on node-9".to_owned());
    assert_eq!(refusal(&bench, connection), expected);
}

#[test]
fn gossip_goes_to_the_first_core_and_is_nothing_but_gossip() {
    let bench = Bench::new(MemDisk::new());
    let shard = open(&bench, settings_at(2, 2, 0, 1)).expect("an empty disk opens");
    let tables = TableList::new(&shard.tables).expect("the shard encoded them");
    let role = Role::Gossip { node: NodeId(2), incarnation: 1, tables };
    let (connection, received) = greet(&bench, &shard, role);
    assert_eq!(received, Received::Close);
    assert_eq!(refusal(&bench, connection).0, ErrorCode::Unsupported);

    let bench = Bench::new(MemDisk::new());
    let shard = open(&bench, settings_at(2, 2, 0, 0)).expect("an empty disk opens");
    let noise = frame_of(FrameKind::Gossip, 0, 0, |out| out.extend_from_slice(b"noise"));
    let write = request_frame(1, &put(b"k", b"v", Level::One));
    let mut too_long = noise.clone();
    too_long[4..8].copy_from_slice(&(limits::GOSSIP_BYTES_MAX as u32 + 1).to_le_bytes());
    for (bytes, code) in
        [(noise, ErrorCode::Malformed), (write, ErrorCode::Unsupported), (too_long, ErrorCode::TooLarge)]
    {
        let (connection, received) = greet(&bench, &shard, role);
        assert!(matches!(received, Received::Consumed { .. }));
        assert_eq!(shard.on_received(connection, &bytes), Received::Close);
        assert_eq!(refusal(&bench, connection).0, code);
    }
}

/// A peer that never accepts holds up nothing, and what waits for it is bounded.
#[test]
fn packets_for_a_node_that_does_not_accept_are_dropped_and_counted() {
    let bench = Bench::new(MemDisk::new());
    let mut settings = settings(2, 1, 2);
    settings.gossip = GossipOptions {
        join_period_ms: 10,
        probe_period_ms: 10_000,
        suspicion_ms: 10_000,
        ..GossipOptions::default()
    };
    let shard = open(&bench, settings).expect("an empty disk opens");
    let (mut waiting_max, mut dropped) = (0, 0);
    for _ in 0..600 {
        pass(&bench, &shard, 1);
        let gossip = shard.gossip.borrow();
        let gossip = gossip.as_ref().expect("a first core gossips");
        let waiting: usize = gossip.links.iter().map(|link| link.waiting.len()).sum();
        (waiting_max, dropped) = (waiting_max.max(waiting), gossip.counts.dropped);
    }
    assert_eq!(waiting_max, PACKETS_WAITING_MAX);
    assert!(dropped > 20, "{dropped}");
}

/// The clock may come back earlier, as of a machine whose battery is dead: the node begins above its last life all the same.
#[test]
fn a_start_with_an_earlier_clock_begins_a_higher_life() {
    let bench = Bench::new(MemDisk::new());
    let first = open(&bench, settings(1, 1, 2)).expect("an empty disk opens");
    assert_eq!(generation_of(&first), Generation(bench.wall_ms()));
    // An hour ahead of the clock that the next start finds.
    let last = Generation(bench.wall_ms() + 3_600_000);
    first.keep_generation(last);
    first.on_batch_end();
    bench.run();
    drop(first);
    for life in 1..3 {
        let next = open(&bench, settings(1, 1, 2)).expect("the same data");
        assert_eq!(generation_of(&next), Generation(last.0 + life));
    }
}
