//! Deletes that come back, where others lost them: a hint that comes late, a directory of before, another number of cores.

use ferrite_lsm::mem_disk::CrashMode;
use ferrite_wire::{ErrorCode, HintsAction, Reply, TableId, WriteAnswer};

use super::cluster::Cluster;
use super::hints::{answer, comes, take_all, without_the_third};
use super::replica_siblings::laid_out_for;
use super::siblings::settings_of;
use super::*;

/// A key of the table that keeps the last write, and the same of one with siblings.
fn keys(partition: &[u8]) -> [Key<'_>; 2] {
    [TableId::DEFAULT, TableId::of("carts")].map(|table| Key { table, partition, sort: b"" })
}

/// What a client finds: values, and the context to delete them with; no values where there is nothing.
fn found(header: &FrameHeader, body: &[u8]) -> (Vec<Vec<u8>>, Vec<u8>) {
    match Reply::decode(header.kind, body).expect("a reply") {
        Reply::Value { value, .. } => (vec![value.to_vec()], Vec::new()),
        Reply::Absent { .. } => (Vec::new(), Vec::new()),
        Reply::Siblings { siblings, .. } => {
            (siblings.iter().map(|sibling| sibling.value.to_vec()).collect(), siblings.context().to_vec())
        }
        other => panic!("{other:?} answers no get"),
    }
}

/// Asks a shard that has all that it needs at hand. While flushes are behind writers wait, or are told to come again.
fn ask(bench: &Bench, shard: &Shard<Bench>, request: &Request<'_>) -> (FrameHeader, Vec<u8>) {
    let from = client(bench, shard);
    for _ in 0..100 {
        receive(shard, from, &request_frame(1, request));
        shard.on_batch_end();
        bench.run();
        let answered = (0..1_000).find_map(|_| {
            let answered = bench.frames(from).pop();
            pass(bench, shard, u64::from(answered.is_none()));
            answered
        });
        let (header, body) = answered.expect("an answer within a second");
        match Reply::decode(header.kind, &body) {
            Ok(Reply::Error { code: ErrorCode::Overloaded, .. }) => pass(bench, shard, 20),
            _ => return (header, body),
        }
    }
    panic!("told to come again a hundred times");
}

fn read(bench: &Bench, shard: &Shard<Bench>, key: Key<'_>) -> (Vec<Vec<u8>>, Vec<u8>) {
    let (header, body) =
        ask(bench, shard, &Request::Get { epoch: Epoch(0), level: Level::One, options: 0, key });
    found(&header, &body)
}

fn put_in<'r>(key: Key<'r>, value: &'r [u8], level: Level) -> Request<'r> {
    Request::Put { epoch: Epoch(0), level, options: 0, key, ttl_ms: 0, context: b"", value }
}

fn delete_in<'r>(key: Key<'r>, context: &'r [u8], level: Level) -> Request<'r> {
    Request::Delete { epoch: Epoch(0), level, options: 0, key, context }
}

/// Hands to another shard what was sent to it, each of which it takes; the bodies.
fn hand_over(
    bench: &Bench,
    shard: &Shard<Bench>,
    link: Connection,
    to: (&Bench, &Shard<Bench>),
) -> Vec<Vec<u8>> {
    let mut handed = Vec::new();
    for (header, body) in bench.frames(link) {
        if header.kind != FrameKind::ReplicaWrite {
            continue;
        }
        let from = peer(to.0, to.1);
        receive(to.1, from, &frame_of(header.kind, header.request.0, 0, |out| out.extend(&body)));
        to.1.on_batch_end();
        to.0.run();
        let (told, text) = to.0.frames(from).remove(0);
        let taken = PeerMessage::decode(told.kind, &text);
        assert_eq!(taken, Ok(PeerMessage::ReplicaWriteAnswer(WriteAnswer::Applied)));
        answer(bench, shard, link, header.request.0, WriteAnswer::Applied);
        handed.push(body);
    }
    handed
}

fn holds(body: &[u8], value: &[u8]) -> bool {
    body.windows(value.len()).any(|window| window == value)
}

/// The replica had the delete, and nothing of what it deleted; then came the write of before it, from one who had kept it all the time.
#[test]
fn a_hint_of_before_the_delete_that_comes_late_does_not_bring_the_value_back() {
    const VALUE: &[u8] = b"of before the delete";
    for key in keys(b"k") {
        let mut settings = settings_of(3, 1, 3);
        (settings.peer_timeout_ns, settings.ping_interval_ns) = (1_000_000 * MS, 1_000_000 * MS);
        let (bench, shard, second, _) = without_the_third(settings.clone());
        let open_target = || {
            let its = Bench::new(MemDisk::new());
            // Its wall clock has come as far.
            its.0.wall_ms.set(bench.wall_ms());
            let shard = open(&its, settings.clone()).expect("an empty disk opens");
            (its, shard)
        };
        assert_eq!(ask(&bench, &shard, &put_in(key, VALUE, Level::One)).0.kind, FrameKind::Done);
        assert_eq!(take_all(&bench, &shard, second).len(), 1);
        assert_eq!(shard.hints_owed(), 1);
        shard.hints_text(HintsAction::Pause);
        let third = comes(&bench, &shard, 3);
        let (values, context) = read(&bench, &shard, key);
        assert_eq!(values, [VALUE]);
        assert_eq!(ask(&bench, &shard, &delete_in(key, &context, Level::One)).0.kind, FrameKind::Done);
        let (target, control) = (open_target(), open_target());
        let deletes = hand_over(&bench, &shard, third, (&target.0, &target.1));
        assert!(deletes.len() == 1 && !holds(&deletes[0], VALUE), "the delete comes first");
        assert_eq!(read(&target.0, &target.1, key).0, [b""; 0]);

        shard.hints_text(HintsAction::Resume);
        pass(&bench, &shard, 40);
        let hints = hand_over(&bench, &shard, third, (&target.0, &target.1));
        assert!(hints.len() == 1 && holds(&hints[0], VALUE), "then the hint, as it was kept");
        assert_eq!(shard.hints_owed(), 0);
        assert_eq!(read(&target.0, &target.1, key).0, [b""; 0], "{key:?} is back");

        // Whoever has no delete is shown it: it is the delete that hides it.
        let from = peer(&control.0, &control.1);
        receive(&control.1, from, &frame_of(FrameKind::ReplicaWrite, 1, 0, |out| out.extend(&hints[0])));
        control.1.on_batch_end();
        control.0.run();
        assert_eq!(read(&control.0, &control.1, key).0, [VALUE]);
    }
}

/// What a client of a node is answered.
fn ask_at(cluster: &mut Cluster, node: usize, request: &Request<'_>) -> (FrameHeader, Vec<u8>) {
    let place = cluster.place(node, 0);
    let from = client(&place.bench, &place.shard);
    receive(&place.shard, from, &request_frame(1, request));
    for _ in 0..200 {
        cluster.run_for(5);
        if let Some(frame) = cluster.place(node, 0).bench.frames(from).pop() {
            return frame;
        }
    }
    panic!("no answer within a second");
}

fn read_at(cluster: &mut Cluster, node: usize, name: &[u8], level: Level) -> Vec<Vec<u8>> {
    let (header, body) = ask_at(cluster, node, &get(name, level));
    found(&header, &body).0
}

/// The node was given a copy of its directory of before the deletes, while the others went on: what they had buried all at once was there
/// again on it, and must be hidden by them, and gone from it once it is read.
#[test]
fn a_directory_of_before_the_deletes_that_is_restored_into_a_live_ring_brings_nothing_back() {
    const RESTORED: usize = 2;
    let names: [&[u8]; 3] = [b"a", b"b", b"c"];
    let mut cluster = Cluster::formed(3, 1);
    for name in names {
        let (header, _) = ask_at(&mut cluster, 0, &put(name, name, Level::All));
        assert_eq!(header.kind, FrameKind::Done);
    }
    let copy = cluster.place(RESTORED, 0).bench.0.disk.image(CrashMode::All, &mut || 1);
    for name in names {
        let (header, _) = ask_at(&mut cluster, 1, &delete(name, Level::All));
        assert_eq!(header.kind, FrameKind::Done);
        assert_eq!(read_at(&mut cluster, RESTORED, name, Level::One), [b""; 0]);
    }
    cluster.restart_on(RESTORED, vec![copy]);
    cluster.run_for(2_000);
    let all = |cluster: &Cluster| {
        (0..3).all(|at| (0..3).filter(|of| *of != at).all(|of| cluster.is_present(at, of, 0)))
    };
    cluster.until(20_000, all);
    for (through, name) in names.into_iter().enumerate() {
        assert_eq!(read_at(&mut cluster, RESTORED, name, Level::One), [name], "its directory is of before");
        assert_eq!(read_at(&mut cluster, through, name, Level::Quorum), [b""; 0], "through node {through}");
        assert_eq!(read_at(&mut cluster, RESTORED, name, Level::Quorum), [b""; 0], "through itself");
        assert_eq!(read_at(&mut cluster, RESTORED, name, Level::One), [b""; 0], "it has the delete again");
    }
}

/// Records lay in tables of the cores of before and their deletes in the logs only, which others apply after a change of the number of cores.
#[test]
fn a_restart_with_another_number_of_cores_brings_no_delete_back() {
    const MEMTABLE_BYTES: usize = 64 * 1024;
    const KEPT: u16 = 0;
    let value = [b'v'; 700];
    let names: Vec<[u8; 2]> = (0..120_u16).map(u16::to_be_bytes).collect();
    let opened = |bench: &Bench, cores: u16| -> Vec<Rc<Shard<Bench>>> {
        let open_core = |core| {
            let mut settings = laid_out_for(bench, 1, cores, core);
            settings.engine.memtable_bytes = MEMTABLE_BYTES;
            open(bench, settings).expect("laid out for it")
        };
        (0..cores).map(open_core).collect()
    };
    let core_of = |shards: &[Rc<Shard<Bench>>], key: &Key<'_>| {
        let is_here = |shard: &Rc<Shard<Bench>>| shard.route(key).is_ok_and(|route| route.hop.is_none());
        shards.iter().find(|shard| is_here(shard)).expect("some core has it").clone()
    };
    for (before, after) in [(2, 1), (1, 2)] {
        let bench = Bench::new(MemDisk::new());
        let shards = opened(&bench, before);
        let all: Vec<Key<'_>> = names.iter().flat_map(|name| keys(name)).collect();
        for key in &all {
            let shard = core_of(&shards, key);
            let (header, body) = ask(&bench, &shard, &put_in(*key, &value, Level::One));
            assert_eq!(header.kind, FrameKind::Done, "{:?}", Reply::decode(header.kind, &body));
        }
        assert!(shards.iter().all(|shard| shard.engine.stats().flushes > 0), "most of it lies in tables");
        let is_kept = |key: &Key<'_>| key.partition == KEPT.to_be_bytes();
        for key in all.iter().filter(|key| !is_kept(key)) {
            let shard = core_of(&shards, key);
            let (_, context) = read(&bench, &shard, *key);
            let (header, _) = ask(&bench, &shard, &delete_in(*key, &context, Level::One));
            assert_eq!(header.kind, FrameKind::Done);
        }
        let image = bench.0.disk.crash(CrashMode::All, &mut || 1);
        bench.0.tasks.borrow_mut().clear();
        let later = Bench::new(image);
        later.0.wall_ms.set(bench.wall_ms());
        let shards = opened(&later, after);
        for key in &all {
            let values = read(&later, &core_of(&shards, key), *key).0;
            let expected: &[&[u8]] = if is_kept(key) { &[&value] } else { &[] };
            assert_eq!(values, expected, "{key:?}, from {before} to {after} cores");
        }
    }
}
