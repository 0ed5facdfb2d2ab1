//! Work whose time is up is dropped where it waits, was not done, and is counted by what it waited for.

use ferrite_wire::{ErrorCode, Mode, ReadWant, ReplicaAnswer, Reply, Table, TableId, Version, WriteAnswer};

use super::coordinator::Coordinator;
use super::*;

/// The time that requests of these tests have, in milliseconds.
const GIVEN_MS: u64 = 10;

fn timed(number: u64, request: &Request<'_>) -> Vec<u8> {
    frame_of(request.kind(), number, GIVEN_MS as u32 * 1_000, |out| request.encode(out))
}

fn replica_write(number: u64, key: &[u8], value: &[u8]) -> Vec<u8> {
    let version = Version { order: Order(8), ..Version::default() };
    let (vnode_epoch, key) = (Epoch(1), Key::plain(key));
    message_frame(
        number,
        GIVEN_MS as u32 * 1_000,
        &PeerMessage::ReplicaWrite { vnode_epoch, key, version, value },
    )
}

/// The lines of work that was dropped and is not none.
fn dropped(shard: &Rc<Shard<Bench>>) -> Vec<String> {
    let status = shard.status();
    let lines = status.lines().filter_map(|line| line.strip_prefix("expired."));
    lines.filter(|line| !line.ends_with(" 0")).map(str::to_owned).collect()
}

fn is_refused(frames: &[(FrameHeader, Vec<u8>)]) -> bool {
    let [(header, body)] = frames else { panic!("one answer: {frames:?}") };
    let code = match header.kind {
        FrameKind::ReplicaWriteAnswer => match PeerMessage::decode(header.kind, body) {
            Ok(PeerMessage::ReplicaWriteAnswer(WriteAnswer::Refused(code))) => Some(code),
            _ => None,
        },
        _ => match Reply::decode(header.kind, body) {
            Ok(Reply::Error { code, .. }) => Some(code),
            _ => None,
        },
    };
    assert!(code.is_none_or(|code| code == ErrorCode::Expired && code.says_not_applied()));
    code.is_some()
}

/// Lets time pass without anything being done.
fn sleep(bench: &Bench, ms: u64) {
    bench.0.now_ns.set(bench.now_ns() + ms * MS);
}

#[test]
fn a_request_that_waited_too_long_for_its_core_is_dropped_there() {
    for from_peer in [false, true] {
        let (bench, shard) = alone();
        let frame =
            if from_peer { replica_write(7, b"k", b"v") } else { timed(7, &put(b"k", b"v", Level::One)) };
        let connection = Connection { slot: 9, generation: 1 };
        let deadline_ns = bench.now_ns() + GIVEN_MS * MS;
        sleep(&bench, GIVEN_MS);
        shard.on_hop(CoreId(1), Hop::Request { connection, from_peer, deadline_ns, frame });
        shard.on_batch_end();
        bench.run();
        let [(CoreId(1), Hop::Reply { frame, .. })] = &bench.0.hops.borrow()[..] else {
            panic!("it is told")
        };
        let Ok(Parsed::Frame { frame, .. }) = parse_frame(frame, limits::BODY_BYTES_MAX) else {
            panic!("a whole frame")
        };
        assert!(is_refused(&[(frame.header, frame.body.to_vec())]));
        let expected = if from_peer { "at_replica 1" } else { "in_queue 1" };
        assert_eq!(dropped(&shard), [expected]);
        let connection = client(&bench, &shard);
        receive(&shard, connection, &request_frame(1, &get(b"k", Level::One)));
        assert_eq!(bench.frames(connection)[0].0.kind, FrameKind::Absent, "it was not done");
    }
}

/// A process was stopped for some seconds. What had come in was then carried out as if it were new: minted after what its client had written
/// through another node since, and so it won.
#[test]
fn a_write_that_came_while_the_core_stood_still_is_not_minted_when_it_goes_on() {
    let (bench, shard) = alone();
    let connection = client(&bench, &shard);
    pass(&bench, &shard, 1);
    let short =
        |key: &[u8]| frame_of(FrameKind::Put, 1, 1_000_000, |out| put(key, b"v", Level::One).encode(out));
    sleep(&bench, 3_000);
    receive(&shard, connection, &short(b"k"));
    assert!(is_refused(&bench.frames(connection)));
    // Not all is read in the first turn.
    shard.on_timer(bench.now_ns());
    receive(&shard, connection, &short(b"k"));
    assert!(is_refused(&bench.frames(connection)));
    assert_eq!(dropped(&shard), ["in_socket 2"]);
    receive(&shard, connection, &request_frame(2, &get(b"k", Level::One)));
    assert_eq!(bench.frames(connection)[0].0.kind, FrameKind::Absent, "it was not done");
    for _ in 0..110 {
        pass(&bench, &shard, 20);
    }
    receive(&shard, connection, &short(b"k"));
    pass(&bench, &shard, 1);
    assert!(!is_refused(&bench.frames(connection)), "what comes now is new");
}

/// A replica that had stood still wrote and read all that had come in meanwhile, which no coordinator waited for any more, before it came to what somebody did.
#[test]
fn what_peers_sent_while_the_core_stood_still_is_dropped_when_it_goes_on() {
    let bench = Bench::new(MemDisk::new());
    let shard = open(&bench, settings(3, 1, 2)).expect("an empty disk opens");
    let from = peer(&bench, &shard);
    pass(&bench, &shard, 1);
    sleep(&bench, 3_000);
    let (vnode_epoch, key, want) = (Epoch(1), Key::plain(b"k"), ReadWant::Full);
    let read = PeerMessage::ReplicaRead { vnode_epoch, want, key };
    for frame in [replica_write(7, b"k", b"v"), message_frame(8, GIVEN_MS as u32 * 1_000, &read)] {
        receive(&shard, from, &frame);
        shard.on_batch_end();
        bench.run();
        let answers = bench.frames(from);
        let answer = PeerMessage::decode(answers[0].0.kind, &answers[0].1).expect("sound");
        let expired = ErrorCode::Expired;
        let expected = match answer {
            PeerMessage::ReplicaWriteAnswer(_) => {
                PeerMessage::ReplicaWriteAnswer(WriteAnswer::Refused(expired))
            }
            _ => PeerMessage::ReplicaReadAnswer(ReplicaAnswer::Refused(expired)),
        };
        assert_eq!(answer, expected);
    }
    assert_eq!(dropped(&shard), ["at_replica 2"]);
    for _ in 0..14 {
        pass(&bench, &shard, 20);
    }
    receive(&shard, from, &replica_write(9, b"k", b"v"));
    pass(&bench, &shard, 1);
    assert!(!is_refused(&bench.frames(from)), "what comes now is new");
    assert_eq!(dropped(&shard), ["at_replica 2"]);
}

/// What no coordinator waits for any more took the place in the log of what somebody does.
#[test]
fn a_record_that_waited_too_long_for_room_in_the_log_is_not_written() {
    // Each key has one replica, so that this node's clients wait for its own log.
    let Coordinator { bench, shard, client: reader, .. } = Coordinator::new(3, 1);
    let from = peer(&bench, &shard);
    let is_here = |number: &u64| {
        let route = shard.route(&Key::plain(&number.to_le_bytes())).expect("a table");
        route.position.is_some()
    };
    let mut keys = (0u64..).filter(is_here).map(|number| number.to_le_bytes());
    let value = [7; 8 * 1024];
    let mut written = Vec::new();
    while shard.waiting.borrow().bytes() == 0 {
        written.push(keys.next().expect("endless"));
        receive(&shard, from, &replica_write(1, written.last().expect("just pushed"), &value));
    }
    let (late, mine) = (written.pop().expect("it waits"), keys.next().expect("endless"));
    receive(&shard, reader, &timed(1, &put(&mine, b"v", Level::One)));
    assert_eq!((bench.frames(from).len(), dropped(&shard).len()), (0, 0));
    sleep(&bench, GIVEN_MS);
    shard.admit_waiting();
    assert!(
        is_refused(&bench.frames(from)) && is_refused(&bench.frames(reader)),
        "no group was needed for it"
    );
    assert_eq!(dropped(&shard), ["waiting_for_log 2"]);
    assert!(shard.waiting.borrow().is_empty());
    shard.on_batch_end();
    bench.run();
    assert_eq!(bench.frames(from).len(), written.len(), "what was in the log's group is written");
    for (key, kind) in [(late, FrameKind::Absent), (mine, FrameKind::Absent), (written[0], FrameKind::Value)]
    {
        receive(&shard, reader, &request_frame(2, &get(&key, Level::One)));
        assert_eq!(bench.frames(reader)[0].0.kind, kind);
    }
}

/// Only the first that waits was looked at: behind one with more time, a put of a key whose only replica is here was not answered until the log moved again.
#[test]
fn what_waits_for_the_log_behind_one_with_more_time_is_told_when_its_own_is_up() {
    let (bench, shard) = alone();
    let connection = client(&bench, &shard);
    bench.0.disk.defer();
    let value = [7; 8 * 1024];
    let mut number = 100;
    while shard.waiting.borrow().bytes() == 0 {
        receive(&shard, connection, &request_frame(number, &put(&number.to_le_bytes(), &value, Level::One)));
        shard.on_batch_end();
        bench.run();
        number += 1;
    }
    receive(&shard, connection, &timed(1, &put(b"hurried", b"v", Level::One)));
    pass(&bench, &shard, GIVEN_MS + 45);
    assert!(is_refused(&bench.frames(connection)));
    assert_eq!(dropped(&shard), ["waiting_for_log 1"]);
    assert!(shard.waiting.borrow().bytes() > value.len(), "the one before it waits on");
    receive(&shard, connection, &request_frame(2, &get(b"hurried", Level::One)));
    assert_eq!(bench.frames(connection)[0].0.kind, FrameKind::Absent);
}

/// A stand-in wrote what its coordinator had given up on, and had asked the next one for.
#[test]
fn a_hint_that_waited_too_long_for_room_in_the_log_is_not_kept() {
    let bench = Bench::new(MemDisk::new());
    let shard = open(&bench, settings(5, 1, 2)).expect("an empty disk opens");
    let from = peer(&bench, &shard);
    let target = {
        let route = shard.route(&Key::plain(b"k")).expect("a table");
        let ring = shard.ring.borrow();
        *ring.replicas(route.vnode)[..3].iter().find(|node| **node != NodeId(1)).expect("three of them")
    };
    let (version, value) = (Version { order: Order(8), ..Version::default() }, [7; 8 * 1024]);
    let (vnode_epoch, key) = (Epoch(1), Key::plain(b"k"));
    let message = PeerMessage::HintedWrite { target, vnode_epoch, key, version, value: &value };
    let mut sent = 0;
    while shard.waiting.borrow().bytes() == 0 {
        sent += 1;
        receive(&shard, from, &message_frame(sent, GIVEN_MS as u32 * 1_000, &message));
    }
    assert_eq!((bench.frames(from).len(), dropped(&shard).len()), (0, 0));
    sleep(&bench, GIVEN_MS);
    shard.admit_waiting();
    assert!(is_refused(&bench.frames(from)));
    assert_eq!(dropped(&shard), ["waiting_for_log 1"]);
    shard.on_batch_end();
    bench.run();
    assert_eq!(bench.frames(from).len() as u64, sent - 1, "what was in the log's group is kept");
    assert_eq!(shard.hints_owed(), sent - 1);
    assert_eq!(shard.hints.borrow().drops().count(), 0, "nobody counted on it");
}

/// Others have it by then: a copy fewer than the client was told of, for a pause of the disk.
#[test]
fn a_coordinators_own_copy_is_kept_when_its_time_is_up() {
    let node = Coordinator::new(3, 3);
    let name = node.key(true);
    let from = peer(&node.bench, &node.shard);
    let value = [7; 8 * 1024];
    while node.shard.waiting.borrow().bytes() == 0 {
        receive(&node.shard, from, &replica_write(1, b"other", &value));
    }
    receive(&node.shard, node.client, &timed(1, &put(&name, b"v", Level::One)));
    sleep(&node.bench, GIVEN_MS);
    node.shard.admit_waiting();
    assert_eq!(dropped(&node.shard), ["waiting_for_log 1"], "the peer's");
    node.settle();
    node.bench.frames(node.client);
    receive(&node.shard, node.client, &request_frame(2, &get(&name, Level::One)));
    assert!(node.bench.frames(node.client).iter().any(|(header, _)| header.kind == FrameKind::Value));
}

#[test]
fn a_write_that_waited_too_long_for_its_latch_is_not_done() {
    let bench = Bench::new(MemDisk::new());
    let name = "carts".to_owned();
    let id = TableId::of(&name);
    let carts = Table { id, name, mode: Mode::Siblings, max_siblings: 4, ..Table::default_of(1) };
    let tables = Tables::new(vec![Table::default_of(1), carts]).expect("a sound list");
    let shard = open(&bench, settings_with(1, 1, 2, tables)).expect("an empty disk opens");
    let connection = client(&bench, &shard);
    let put = |value| {
        let key = Key { table: id, partition: b"k", sort: b"" };
        Request::Put { epoch: Epoch(0), level: Level::One, options: 0, key, ttl_ms: 0, context: b"", value }
    };
    receive(&shard, connection, &request_frame(1, &put(b"first")));
    receive(&shard, connection, &timed(2, &put(b"second")));
    sleep(&bench, GIVEN_MS);
    shard.on_batch_end();
    bench.run();
    let frames = bench.frames(connection);
    let of = |number| {
        let found = frames.iter().find(|(header, _)| header.request == RequestId(number));
        is_refused(&[found.expect("an answer").clone()])
    };
    assert_eq!((frames.len(), of(1), of(2)), (2, false, true));
    assert_eq!(dropped(&shard), ["waiting_for_latch 1"]);
    assert_eq!(shard.latches.borrow().len(), 0);
}

#[test]
fn a_read_that_waited_too_long_for_the_disk_does_not_read_it() {
    let bench = Bench::new(MemDisk::new());
    let mut settings = settings(1, 1, 1);
    (settings.engine.memtable_bytes, settings.engine.cache_bytes) = (16 * 1024, 0);
    let shard = open(&bench, settings).expect("an empty disk opens");
    let connection = client(&bench, &shard);
    let value = [7; 1_000];
    for number in 0..200u64 {
        receive(&shard, connection, &request_frame(1, &put(&number.to_le_bytes(), &value, Level::One)));
        pass(&bench, &shard, 1);
    }
    bench.frames(connection);
    let key = 0u64.to_le_bytes();
    receive(&shard, connection, &timed(2, &get(&key, Level::One)));
    assert_eq!(shard.disk_reads.get(), 1, "it is in a table, and nothing is cached");
    sleep(&bench, GIVEN_MS);
    let reads = bench.0.disk.counts().reads;
    bench.run();
    assert!(is_refused(&bench.frames(connection)));
    assert_eq!((bench.0.disk.counts().reads, shard.disk_reads.get()), (reads, 0));
    assert_eq!(dropped(&shard), ["waiting_for_disk 1"]);
    receive(&shard, connection, &timed(3, &get(&key, Level::One)));
    bench.run();
    assert_eq!(bench.frames(connection)[0].0.kind, FrameKind::Value, "in time it is read");
}
