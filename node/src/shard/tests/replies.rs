//! What an answer carries, and when it finds no room.

use ferrite_wire::{ErrorCode, Level, ReadWant, Reply, Version};

use super::*;

/// An absence that a tombstone decided told the client of no time when it came by way of a multi-get or a quorum. Its next write,
/// through a coordinator whose clock is behind, was then acknowledged and lost to the tombstone.
#[test]
fn an_absence_tells_the_time_of_its_tombstone() {
    let (bench, shard) = alone();
    let connection = client(&bench, &shard);
    receive(&shard, connection, &request_frame(1, &delete(b"key", Level::One)));
    shard.on_batch_end();
    bench.run();
    let (deleted, _) = bench.frames(connection).remove(0);
    assert!(deleted.time > Order(0));

    receive(&shard, connection, &request_frame(2, &get(b"key", Level::One)));
    let (absent, _) = bench.frames(connection).remove(0);
    assert_eq!((absent.kind, absent.time), (FrameKind::Absent, deleted.time));

    let keys = [Key::plain(b"key"), Key::plain(b"other")];
    let both = frame_of(FrameKind::MultiGet, 3, 0, |out| {
        Request::encode_multi_get(Epoch(0), Level::One, &keys, out);
    });
    receive(&shard, connection, &both);
    let (values, _) = bench.frames(connection).remove(0);
    assert_eq!((values.kind, values.time), (FrameKind::Values, deleted.time));
}

/// A pipelined burst of reads whose answers outgrow the out-buffer used to cost the client its connection, again after each
/// reconnect. Now the rest of the burst stays unread until there is room.
#[test]
fn a_burst_of_reads_waits_for_room_in_the_out_buffer() {
    let (bench, shard) = alone();
    let connection = client(&bench, &shard);
    receive(&shard, connection, &request_frame(1, &put(b"key", b"value", Level::One)));
    shard.on_batch_end();
    bench.run();
    bench.frames(connection);
    let read = request_frame(2, &get(b"key", Level::One));
    bench.0.out_full.set(true);
    let burst = [&read[..], &read[..]].concat();
    assert_eq!(shard.on_received(connection, &burst), Received::Consumed { used: 0, need: 0 });
    pass(&bench, &shard, 10_000);
    assert!(bench.0.closed.borrow().is_empty(), "it is not taken for half-sent either");
    bench.0.out_full.set(false);
    receive(&shard, connection, &burst);
    assert_eq!(bench.frames(connection).len(), 2);
}

/// Gets that arrive together are looked up together, as far as their answers have room; the others are the next batch.
#[test]
fn gets_that_arrive_together_are_each_answered_once() {
    let (bench, shard) = alone();
    let connection = client(&bench, &shard);
    let value = [7; 40 * 1024];
    receive(&shard, connection, &request_frame(1, &put(b"large", &value, Level::One)));
    shard.on_batch_end();
    bench.run();
    bench.frames(connection);
    let keys = [b"large".as_slice(), b"absent"];
    let burst: Vec<u8> = (0..50)
        .flat_map(|number| request_frame(number, &get(keys[number as usize % 2], Level::One)))
        .collect();
    receive(&shard, connection, &burst);
    let mut answers: Vec<_> =
        bench.frames(connection).iter().map(|(header, _)| (header.request.0, header.kind)).collect();
    answers.sort_unstable_by_key(|(number, _)| *number);
    let kinds = [FrameKind::Value, FrameKind::Absent];
    assert_eq!(answers, (0..50).map(|number| (number, kinds[number as usize % 2])).collect::<Vec<_>>());
}

/// Many large answers that came late, from the disk, another core or other nodes, used to cost a client its connection though it
/// read them as fast as it could; what it had written over it meanwhile ended as unknown. They are answered "overloaded" now.
#[test]
fn a_large_answer_that_finds_no_room_is_overload_and_the_connection_lives() {
    let (bench, shard) = alone();
    let connection = client(&bench, &shard);
    let hop = |number: u64, reply: &Reply<'_>| {
        let frame = frame_of(reply.kind(), number, 0, |out| reply.encode(out));
        shard.on_hop(CoreId(1), Hop::Reply { connection, frame });
    };
    let value = Reply::Value { version: Version::default(), answered: 1, value: &[7; 1000] };
    let done = Reply::Done { version: Version::default(), answered: 1, sloppy: false };
    bench.0.out_nearly_full.set(true);
    hop(1, &value);
    hop(2, &done);
    let frames = bench.frames(connection);
    let answered: Vec<_> = frames
        .iter()
        .map(|(header, body)| {
            let code = match Reply::decode(header.kind, body) {
                Ok(Reply::Error { code, .. }) => Some(code),
                Ok(_) | Err(_) => None,
            };
            (header.request.0, header.kind, code)
        })
        .collect();
    let expected = [(1, FrameKind::Error, Some(ErrorCode::Overloaded)), (2, FrameKind::Done, None)];
    assert_eq!(answered, expected);
    assert!(bench.0.closed.borrow().is_empty());
    bench.0.out_full.set(true);
    hop(3, &done);
    assert_eq!(*bench.0.closed.borrow(), [connection], "what was done cannot be called overload");
}

/// The same between nodes: the coordinator asks another replica, and no other question over the connection is lost.
#[test]
fn a_replica_whose_answer_finds_no_room_refuses_the_read() {
    let (bench, shard) = alone();
    let connection = client(&bench, &shard);
    receive(&shard, connection, &request_frame(1, &put(b"key", &[7; 1000], Level::One)));
    shard.on_batch_end();
    bench.run();
    let bench_peer = peer_of(&bench, &shard, NodeId(1));
    bench.0.out_nearly_full.set(true);
    let read =
        PeerMessage::ReplicaRead { vnode_epoch: Epoch(1), want: ReadWant::Full, key: Key::plain(b"key") };
    receive(&shard, bench_peer, &message_frame(9, 1_000_000, &read));
    let frames = bench.frames(bench_peer);
    let [(header, body)] = &frames[..] else { panic!("one answer: {frames:?}") };
    let answer = PeerMessage::decode(header.kind, body);
    let refused = ferrite_wire::ReplicaAnswer::Refused(ErrorCode::Overloaded);
    assert_eq!((header.request.0, answer), (9, Ok(PeerMessage::ReplicaReadAnswer(refused))));
    assert!(bench.0.closed.borrow().is_empty());
}

/// The first key that is this core's.
fn own_key(shard: &Shard<Bench>) -> [u8; 4] {
    let is_own = |key: &[u8; 4]| shard.route(&Key::plain(key)).is_ok_and(|route| route.hop.is_none());
    (0..).map(u32::to_le_bytes).find(is_own).expect("some key is")
}

/// Large answers to another core, whose queue was full, used to wait without a bound on their bytes: eight connections that did not
/// read their answers came to more than a gigabyte.
#[test]
fn answers_that_wait_for_another_core_are_bounded_in_bytes() {
    let bench = Bench::new(MemDisk::new());
    let mut two_cores = settings(1, 2, 2);
    two_cores.hop_backlog_bytes_max = 5_000;
    let shard = open(&bench, two_cores).expect("an empty disk opens");
    let key = own_key(&shard);
    let connection = Connection { slot: 7, generation: 1 };
    let ask = |number: u64, request: &Request<'_>| {
        let (deadline_ns, frame) = (bench.now_ns() + 1_000 * MS, request_frame(number, request));
        shard.on_hop(CoreId(1), Hop::Request { connection, from_peer: false, deadline_ns, frame });
        shard.on_batch_end();
        bench.run();
    };
    bench.0.hops_full.set(true);
    for number in 1..=20 {
        ask(number, &put(&key, &[7; 1000], Level::One));
    }
    for number in 21..=120 {
        ask(number, &get(&key, Level::One));
    }
    let bytes = || shard.backlog.borrow().bytes_of(CoreId(1));
    assert!(bytes() < 15_000, "{}", bytes());
    bench.0.hops_full.set(false);
    shard.flush_hops();
    assert_eq!(bytes(), 0);
    let mut kinds = BTreeMap::new();
    for (core, hop) in bench.0.hops.borrow().iter() {
        let Hop::Reply { frame, .. } = hop else { panic!("only answers: {hop:?}") };
        let Ok(Parsed::Frame { frame, .. }) = parse_frame(frame, limits::BODY_BYTES_MAX) else {
            panic!("a whole frame");
        };
        assert_eq!(*core, CoreId(1));
        *kinds.entry(frame.header.kind as u8).or_insert(0) += 1;
    }
    let of = |kind: FrameKind| kinds.get(&(kind as u8)).copied().unwrap_or(0);
    assert_eq!((of(FrameKind::Done), of(FrameKind::Value) + of(FrameKind::Error)), (20, 100), "each once");
    assert!(of(FrameKind::Value) > 0 && of(FrameKind::Error) > 0);
}

/// Answers for one core that stood still took the room of all: whoever asked through another core was answered "overloaded".
#[test]
fn answers_that_wait_for_a_core_that_stands_still_take_no_other_cores_room() {
    let bench = Bench::new(MemDisk::new());
    let mut three_cores = settings(1, 3, 3);
    three_cores.hop_backlog_bytes_max = 10_000;
    let shard = open(&bench, three_cores).expect("an empty disk opens");
    let key = own_key(&shard);
    let connection = Connection { slot: 7, generation: 1 };
    let ask = |core: u16, number: u64, request: &Request<'_>| {
        let (deadline_ns, frame) = (bench.now_ns() + 1_000 * MS, request_frame(number, request));
        shard.on_hop(CoreId(core), Hop::Request { connection, from_peer: false, deadline_ns, frame });
        shard.on_batch_end();
        bench.run();
    };
    let bytes_of = |core| shard.backlog.borrow().bytes_of(CoreId(core));
    ask(1, 1, &put(&key, &[7; 1000], Level::One));
    bench.0.hops.take();
    bench.0.hops_full.set(true);
    for number in 2..=41 {
        ask(1, number, &get(&key, Level::One));
    }
    assert!((5_000..10_000).contains(&bytes_of(1)), "its share of two: {}", bytes_of(1));
    for number in 1..=3 {
        ask(2, number, &get(&key, Level::One));
    }
    bench.0.hops_full.set(false);
    shard.flush_hops();
    assert_eq!([1, 2].map(bytes_of), [0, 0]);
    let hops = bench.0.hops.take();
    let of_second = hops.iter().filter(|(core, _)| *core == CoreId(2)).map(|(_, hop)| hop.frame_bytes());
    assert!(of_second.clone().count() == 3 && of_second.clone().all(|bytes| bytes > 1_000), "values");
}

/// A client was not told the time of a write in doubt. Its next write, through a node whose clock is behind, had an earlier version, and
/// lost to the one in doubt where that was kept after all.
#[test]
fn a_write_in_doubt_tells_its_time() {
    let bench = Bench::new(MemDisk::new());
    let shard = open(&bench, settings(3, 1, 2)).expect("an empty disk opens");
    tables::accept_links(&bench, &shard);
    let connection = client(&bench, &shard);
    receive(&shard, connection, &request_frame(1, &put(b"a", b"1", Level::All)));
    let links: Vec<Connection> = shard.links.borrow().iter().filter_map(|link| link.up()).collect();
    let minted = links.into_iter().flat_map(|link| bench.frames(link)).find_map(|(header, body)| {
        match PeerMessage::decode(header.kind, &body) {
            Ok(PeerMessage::ReplicaWrite { version, .. }) => Some(version.order),
            _ => None,
        }
    });
    assert!(minted.is_some(), "it was sent");
    pass(&bench, &shard, 3_000);
    let frames = bench.frames(connection);
    let [(header, body)] = &frames[..] else { panic!("one answer: {frames:?}") };
    let reply = Reply::decode(header.kind, body).expect("a reply");
    assert!(matches!(reply, Reply::Error { code: ErrorCode::Unknown, .. }), "{reply:?}");
    assert_eq!(Some(header.time), minted);
}
