//! What a core takes on at a time: parts of requests, bytes, time, half-sent frames, connections.

use ferrite_wire::{Entry, ErrorCode, Item, Reply, RequestId};

use super::tables::accept_links;
use super::*;
use crate::shard::session::FRAME_BYTES_PER_S_MIN;
use crate::shard::{DEADLINE_MAX_NS, PARTS_MAX};

fn multi_get(number: u64, level: Level, keys: usize) -> Vec<u8> {
    let names: Vec<_> = (0..keys as u32).map(u32::to_le_bytes).collect();
    let keys: Vec<_> = names.iter().map(|name| Key::plain(name)).collect();
    frame_of(FrameKind::MultiGet, number, 0, |out| Request::encode_multi_get(Epoch(0), level, &keys, out))
}

fn multi_put(number: u64, level: Level, entries: usize) -> Vec<u8> {
    let names: Vec<_> = (0..entries as u32).map(u32::to_le_bytes).collect();
    let entries =
        names.iter().map(|name| Entry::Put { key: Key::plain(name), ttl_ms: 0, context: b"", value: b"v" });
    frame_of(FrameKind::MultiPut, number, 0, |out| {
        Request::encode_multi_put(Epoch(0), level, 0, entries, out);
    })
}

/// The code that the only answer on a connection is; `None` = it is another answer.
fn code(frames: &[(FrameHeader, Vec<u8>)]) -> Option<ErrorCode> {
    let [(header, body)] = frames else { panic!("one answer: {frames:?}") };
    match Reply::decode(header.kind, body) {
        Ok(Reply::Error { code, .. }) => Some(code),
        _ => None,
    }
}

/// One of three nodes, of which the others are there and say nothing.
fn among_the_silent(requests_max: u32) -> (Bench, Rc<Shard<Bench>>, Connection) {
    let bench = Bench::new(MemDisk::new());
    let mut settings = settings(3, 1, 2);
    settings.requests_per_connection_max = requests_max;
    settings.request_timeout_ns = 500 * MS;
    settings.peer_timeout_ns = u64::MAX;
    let shard = open(&bench, settings).expect("an empty disk opens");
    accept_links(&bench, &shard);
    let connection = client(&bench, &shard);
    (bench, shard, connection)
}

/// A thousand frames of a thousand keys each were a thousand requests, against a bound of four thousand.
#[test]
fn each_key_and_entry_counts_against_the_bound_of_its_connection() {
    for request in [multi_get, multi_put] {
        let (bench, shard, connection) = among_the_silent(10);
        receive(&shard, connection, &request(1, Level::Quorum, 8));
        receive(&shard, connection, &request(2, Level::Quorum, 3));
        let refused = bench.frames(connection);
        assert_eq!((code(&refused), refused[0].0.request), (Some(ErrorCode::Overloaded), RequestId(2)));
        receive(&shard, connection, &request(3, Level::Quorum, 2));
        receive(&shard, connection, &request_frame(4, &get(b"k", Level::Quorum)));
        assert_eq!(code(&bench.frames(connection)), Some(ErrorCode::Overloaded), "ten are in flight");
        let other = client(&bench, &shard);
        receive(&shard, other, &request(1, Level::Quorum, 9));
        assert_eq!((bench.frames(other).len(), shard.parts.get()), (0, 19), "it is another connection's");
        pass(&bench, &shard, 600);
        assert_eq!((bench.frames(connection).len(), bench.frames(other).len()), (2, 1));
        assert_eq!(shard.parts.get(), 0);
        let in_flight = |connection| shard.sessions.borrow_mut().get_mut(connection).expect("open").in_flight;
        assert_eq!([connection, other].map(in_flight), [0, 0]);
        // One alone has room, however many parts it has.
        receive(&shard, connection, &request(5, Level::Quorum, 50));
        assert_eq!((bench.frames(connection).len(), shard.parts.get()), (0, 50));
        shard.on_closed(connection);
        pass(&bench, &shard, 600);
        assert_eq!(shard.parts.get(), 0, "nor do those count whose client has gone");
    }
}

#[test]
fn each_key_and_entry_counts_against_the_bound_of_the_core() {
    for request in [multi_get, multi_put] {
        let (bench, shard, connection) = among_the_silent(4_096);
        shard.parts.set(PARTS_MAX - 2);
        receive(&shard, connection, &request(1, Level::Quorum, 3));
        assert_eq!(code(&bench.frames(connection)), Some(ErrorCode::Overloaded));
        receive(&shard, connection, &request(2, Level::Quorum, 2));
        assert_eq!(bench.frames(connection).len(), 0);
        pass(&bench, &shard, 600);
        assert_eq!(code(&bench.frames(connection)), None, "each part has an outcome of its own");
        assert_eq!(shard.parts.get(), PARTS_MAX - 2);
    }
}

/// Answers that were too many for the queue between two cores waited by the hundred thousand, bounded in number by the requests in flight: they took a node of
/// little memory beyond what it was given.
#[test]
fn what_other_cores_are_asked_is_bounded_and_who_asks_for_little_is_not_refused() {
    let bench = Bench::new(MemDisk::new());
    let mut settings = settings(1, 2, 2);
    settings.hops_max = 100;
    let shard = open(&bench, settings).expect("an empty disk opens");
    let theirs = |key: &[u8; 4]| shard.route(&Key::plain(key)).expect("a table").hop.is_some();
    let key = (0u32..).map(u32::to_le_bytes).find(theirs).expect("some key");
    let [much, little] = [0, 1].map(|_| client(&bench, &shard));
    let ask = |connection, count: u64| {
        for number in 1..=count {
            receive(&shard, connection, &request_frame(number, &get(&key, Level::One)));
        }
        bench.frames(connection).len() as u64
    };
    assert_eq!((ask(much, 300), shard.questions.len()), (200, 100), "beyond the bound they are refused");
    assert_eq!((ask(little, 16), shard.questions.len()), (0, 116), "a few are always taken");
    assert_eq!(ask(little, 1), 1);
    for (core, hop) in bench.0.hops.take() {
        let Hop::Request { connection, frame, .. } = hop else { panic!("{hop:?}") };
        let Ok(Parsed::Frame { frame, .. }) = parse_frame(&frame, limits::BODY_BYTES_MAX) else {
            panic!("a whole frame")
        };
        let absent = Reply::Absent { answered: 1 };
        let answer = frame_of(absent.kind(), frame.header.request.0, 0, |out| absent.encode(out));
        if connection == much {
            // Also where whoever asked has gone.
            shard.on_closed(much);
        }
        shard.on_hop(core, Hop::Reply { connection, frame: answer });
    }
    assert_eq!((bench.frames(little).len(), shard.questions.len()), (16, 0));
    assert_eq!((ask(little, 100), shard.questions.len()), (0, 100));
}

/// Names of keys that are this core's.
fn names_of(shard: &Shard<Bench>, core: u16) -> impl Iterator<Item = [u8; 4]> {
    let is_its =
        move |name: &[u8; 4]| shard.route(&Key::plain(name)).expect("a table").hop == Some(CoreId(core));
    (0u32..).map(u32::to_le_bytes).filter(is_its)
}

/// One bound was for the questions to all cores. One that stood still took it up, and whoever asked for much was refused by the others, too, which were well.
#[test]
fn a_core_that_stands_still_takes_up_its_own_share_of_questions_and_no_other_cores() {
    let bench = Bench::new(MemDisk::new());
    let mut settings = settings(1, 3, 3);
    settings.hops_max = 100;
    let shard = open(&bench, settings).expect("an empty disk opens");
    let [still, well] = [1, 2].map(|core| names_of(&shard, core).next().expect("endless"));
    let [first, second] = [0, 1].map(|_| client(&bench, &shard));
    let ask = |connection, key: &[u8], count: u64| {
        for number in 1..=count {
            receive(&shard, connection, &request_frame(number, &get(key, Level::One)));
        }
        bench.frames(connection).len()
    };
    assert_eq!((ask(first, &still, 150), shard.questions.len()), (100, 50), "half of the bound");
    assert_eq!((ask(second, &well, 40), shard.questions.len()), (0, 90), "as if nobody stood still");
    assert_eq!((ask(second, &well, 20), shard.questions.len()), (10, 100), "it has a bound, too");
}

/// Parts counted as single requests do, though as many may be there by their own bound: two batches filled the share of each core, and every client with more than a
/// few requests in flight was refused until they were answered.
#[test]
fn parts_that_are_waited_for_take_nothing_of_what_single_requests_are_held_to() {
    let bench = Bench::new(MemDisk::new());
    let mut settings = settings(1, 3, 3);
    settings.hops_max = 100;
    let shard = open(&bench, settings).expect("an empty disk opens");
    let [batches, single] = [0, 1].map(|_| client(&bench, &shard));
    let names: Vec<[u8; 4]> = names_of(&shard, 1).take(60).collect();
    let keys: Vec<Key<'_>> = names.iter().map(|name| Key::plain(name)).collect();
    let get_all = frame_of(FrameKind::MultiGet, 1, 0, |out| {
        Request::encode_multi_get(Epoch(0), Level::One, &keys, out);
    });
    receive(&shard, batches, &get_all);
    assert_eq!(
        (bench.frames(batches).len(), shard.questions.len()),
        (0, 60),
        "more than the share of a core"
    );
    let ask = |connection| {
        for number in 1..=20 {
            receive(&shard, connection, &request_frame(number, &get(&names[0], Level::One)));
        }
        bench.frames(connection).len()
    };
    assert_eq!((ask(single), shard.questions.len()), (0, 80));
    // Given up they are bounded by nothing else.
    pass(&bench, &shard, shard.settings.request_timeout_ns / MS + 60);
    assert_eq!((bench.frames(batches).len(), shard.parts.get()), (1, 0));
    assert_eq!((ask(client(&bench, &shard)), shard.questions.len()), (4, 96), "sixteen are always taken");
}

/// Parts that were given up stayed in the queue of the core that stood still, and counted nowhere: with each timeout as many more came.
#[test]
fn parts_that_were_given_up_take_up_the_share_of_the_core_that_they_wait_at() {
    let bench = Bench::new(MemDisk::new());
    let mut settings = settings(1, 3, 3);
    settings.hops_max = 100;
    settings.request_timeout_ns = 500 * MS;
    let shard = open(&bench, settings).expect("an empty disk opens");
    let connection = client(&bench, &shard);
    let ask = |core: u16| {
        let names: Vec<[u8; 4]> = names_of(&shard, core).take(30).collect();
        let keys: Vec<Key<'_>> = names.iter().map(|name| Key::plain(name)).collect();
        let get = frame_of(FrameKind::MultiGet, 1, 0, |out| {
            Request::encode_multi_get(Epoch(0), Level::One, &keys, out);
        });
        receive(&shard, connection, &get);
        pass(&bench, &shard, 600);
        let frames = bench.frames(connection);
        let [(header, body)] = &frames[..] else { panic!("one answer: {frames:?}") };
        let Ok(Reply::Values(items)) = Reply::decode(header.kind, body) else { panic!("{header:?}") };
        items.iter().filter(|item| matches!(item, Item::Error(ErrorCode::Overloaded))).count()
    };
    assert_eq!(
        [1, 1, 1, 1].map(ask),
        [0, 0, 10, 30],
        "fifty that were given up, besides those that were not"
    );
    assert_eq!(shard.questions.len(), 80);
    assert_eq!(ask(2), 0, "another core has its own");
    for (core, hop) in bench.0.hops.take() {
        let Hop::Request { connection, frame, .. } = hop else { continue };
        let Ok(Parsed::Frame { frame, .. }) = parse_frame(&frame, limits::BODY_BYTES_MAX) else {
            panic!("a whole frame")
        };
        let absent = Reply::Absent { answered: 1 };
        let answer = frame_of(absent.kind(), frame.header.request.0, 0, |out| absent.encode(out));
        shard.on_hop(core, Hop::Reply { connection, frame: answer });
    }
    assert_eq!((shard.questions.len(), ask(1)), (0, 0), "it went on");
}

/// A multi-get keeps what has been found until the last key is answered: a thousand of them kept four gigabytes.
#[test]
fn what_multi_gets_keep_is_bounded_by_its_bytes() {
    const VALUE_BYTES: usize = 40_000;
    let bench = Bench::new(MemDisk::new());
    let mut settings = settings(1, 1, 2);
    settings.operation_bytes_max = 100_000;
    let shard = open(&bench, settings).expect("an empty disk opens");
    let connection = client(&bench, &shard);
    for number in 0..4u32 {
        let value = [7; VALUE_BYTES];
        let value = if number < 3 { &value[..] } else { b"short" };
        receive(&shard, connection, &request_frame(1, &put(&number.to_le_bytes(), value, Level::One)));
        pass(&bench, &shard, 1);
    }
    bench.frames(connection);
    let ask = || {
        receive(&shard, connection, &multi_get(2, Level::One, 4));
        let (header, body) = bench.frames(connection).remove(0);
        let Ok(Reply::Values(items)) = Reply::decode(header.kind, &body) else { panic!("{:?}", header.kind) };
        items.iter().map(|item| matches!(item, Item::Error(ErrorCode::Overloaded))).collect::<Vec<_>>()
    };
    assert_eq!(ask(), [false; 4], "one alone has room");
    let others = shard.held.hold(50_000).expect("there is room");
    assert_eq!(ask(), [false, true, true, false], "what is short enough still fits");
    drop(others);
    assert_eq!(shard.held.bytes(), 0);
}

/// A write that looks first at what is there keeps its value meanwhile. Nothing counted that: where it was on the disk, four thousand writes of
/// a megabyte kept four gigabytes.
#[test]
fn what_writes_keep_that_look_first_is_bounded_by_its_bytes() {
    const VALUE_BYTES: usize = 4_000;
    let bench = Bench::new(MemDisk::new());
    let mut settings = settings(1, 1, 1);
    (settings.engine.memtable_bytes, settings.engine.cache_bytes) = (16 * 1024, 0);
    settings.operation_bytes_max = 10_000;
    let shard = open(&bench, settings).expect("an empty disk opens");
    let connection = client(&bench, &shard);
    for number in 0..200u64 {
        receive(&shard, connection, &request_frame(1, &put(&number.to_le_bytes(), &[7; 1_000], Level::One)));
        pass(&bench, &shard, 1);
    }
    bench.frames(connection);
    // Some other key has a record from afar.
    shard.afar.raise(Order::from_wall_ms(bench.wall_ms() + 3_600_000));
    for number in 0..4u64 {
        let value = [8; VALUE_BYTES];
        receive(&shard, connection, &request_frame(number, &put(&number.to_le_bytes(), &value, Level::One)));
    }
    let refused = bench.frames(connection);
    let numbers: Vec<u64> = refused.iter().map(|(header, _)| header.request.0).collect();
    assert_eq!((numbers, shard.disk_reads.get()), (vec![2, 3], 2));
    refused.into_iter().for_each(|frame| assert_eq!(code(&[frame]), Some(ErrorCode::Overloaded)));
    assert!(shard.held.bytes() >= 2 * VALUE_BYTES);
    pass(&bench, &shard, 10);
    let done = bench.frames(connection);
    assert!(done.len() == 2 && done.iter().all(|(header, _)| header.kind == FrameKind::Done), "{done:?}");
    assert_eq!(shard.held.bytes(), 0);
}

/// A header could say 71 minutes, and all that a request keeps was kept for as long.
#[test]
fn no_request_takes_longer_than_a_server_lets_it() {
    assert_eq!(DEADLINE_MAX_NS, 60_000 * MS);
    for (deadline_max_ms, until_ms) in [(800, 800), (100, 500)] {
        let bench = Bench::new(MemDisk::new());
        let mut settings = settings(3, 1, 2);
        (settings.request_timeout_ns, settings.deadline_max_ns) = (500 * MS, deadline_max_ms * MS);
        settings.peer_timeout_ns = u64::MAX;
        let shard = open(&bench, settings).expect("an empty disk opens");
        accept_links(&bench, &shard);
        let connection = client(&bench, &shard);
        let read = get(b"k", Level::All);
        let forever = frame_of(read.kind(), 1, u32::MAX, |out| read.encode(out));
        receive(&shard, connection, &forever);
        pass(&bench, &shard, until_ms - 1);
        assert_eq!(bench.frames(connection).len(), 0);
        pass(&bench, &shard, 10);
        assert_eq!(code(&bench.frames(connection)), Some(ErrorCode::Timeout));
    }
}

/// Receives a frame of which so many bytes come in each time, so many times a second at most, until it is whole or its connection is closed. How long that
/// took.
fn drip(bench: &Bench, shard: &Rc<Shard<Bench>>, frame: &[u8], bytes: usize, every_ms: u64) -> (bool, u64) {
    let connection = client(bench, shard);
    let mut passed_ms = 0;
    for end in (bytes..frame.len()).step_by(bytes) {
        if bench.0.closed.borrow().contains(&connection) {
            assert_eq!(code(&bench.frames(connection)), Some(ErrorCode::Malformed), "it is told why");
            return (false, passed_ms);
        }
        let received = shard.on_received(connection, &frame[..end]);
        assert!(matches!(received, Received::Consumed { used: 0, .. }));
        pass(bench, shard, every_ms);
        passed_ms += every_ms;
    }
    receive(shard, connection, frame);
    (true, passed_ms)
}

/// A byte every few seconds kept a connection, and what it had sent, for as long as it liked.
#[test]
fn a_frame_is_whole_in_a_time_that_goes_by_its_length_however_steadily_it_comes() {
    let (bench, shard) = alone();
    let short = request_frame(1, &put(b"k", &[7; 1_000], Level::One));
    let (is_whole, passed_ms) = drip(&bench, &shard, &short, 1, 100);
    assert!(!is_whole && (5_000..5_300).contains(&passed_ms), "{is_whole} {passed_ms}");
    // What comes at the rate that is asked for is in time, though it takes longer than a short one may.
    let value = vec![7; limits::VALUE_BYTES_MAX];
    let long = request_frame(1, &put(b"k", &value, Level::One));
    let a_tenth = FRAME_BYTES_PER_S_MIN as usize / 10;
    let (is_whole, passed_ms) = drip(&bench, &shard, &long, a_tenth, 100);
    assert!(is_whole && passed_ms > 15_000, "{is_whole} {passed_ms}");
    let (is_whole, passed_ms) = drip(&bench, &shard, &long, a_tenth / 2, 100);
    assert!(!is_whole && (20_000..22_000).contains(&passed_ms), "{is_whole} {passed_ms}");
}

/// Whose answers pile up is not read from: that its frame does not get on is not its doing.
#[test]
fn a_frame_that_is_not_read_has_its_time_left() {
    let (bench, shard) = alone();
    let connection = client(&bench, &shard);
    let frame = request_frame(1, &put(b"k", b"v", Level::One));
    shard.on_received(connection, &frame[..10]);
    bench.0.is_not_read.set(true);
    pass(&bench, &shard, 20_000);
    bench.0.is_not_read.set(false);
    pass(&bench, &shard, 4_000);
    assert!(bench.0.closed.borrow().is_empty());
    pass(&bench, &shard, 2_000);
    assert_eq!(*bench.0.closed.borrow(), [connection], "from then on it has");
}

#[test]
fn a_client_for_whom_there_is_no_place_is_told_so_and_other_nodes_get_in() {
    let bench = Bench::new(MemDisk::new());
    let shard = open(&bench, settings(2, 1, 2)).expect("an empty disk opens");
    bench.0.has_no_place.set(true);
    let connection = bench.new_connection();
    shard.on_accepted(connection);
    let (min, max, features) = (PROTOCOL_MIN, PROTOCOL_MAX, Features(0));
    let hello = Hello { min, max, features, cluster: CLUSTER, role: Role::Client };
    let bytes = frame_of(FrameKind::Hello, 0, 0, |out| hello.encode(out));
    assert_eq!(shard.on_received(connection, &bytes), Received::Close);
    assert_eq!(code(&bench.frames(connection)), Some(ErrorCode::Overloaded));
    peer(&bench, &shard);
    let tables = TableList::new(&shard.tables).expect("the shard encoded them");
    greeted(&bench, &shard, Role::Gossip { node: NodeId(2), incarnation: 1, tables });
}
