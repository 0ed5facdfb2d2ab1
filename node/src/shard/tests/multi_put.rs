//! Multi-puts: each entry is a write for itself, wherever it belongs, and all outcomes come in the order of the entries.

use ferrite_wire::{
    Entry, ErrorCode, Item, Mode, Outcome, Reply, SLOPPY, Table, TableId, Version, VersionFlags, WriteAnswer,
};

use super::coordinator::{Coordinator, TIMEOUT_MS, What};
use super::*;
use crate::shard::multi_put::MULTI_PUTS_MAX;

pub(super) fn entry<'a>(key: &'a [u8], value: &'a [u8]) -> Entry<'a> {
    Entry::Put { key: Key::plain(key), ttl_ms: 0, context: b"", value }
}

fn asked(number: u64, level: Level, entries: &[Entry<'_>]) -> Vec<u8> {
    frame_of(FrameKind::MultiPut, number, 0, |out| {
        Request::encode_multi_put(Epoch(0), level, 0, entries.iter().copied(), out);
    })
}

/// The only answer on a connection.
fn outcomes(bench: &Bench, connection: Connection) -> Vec<Outcome> {
    let frames = bench.frames(connection);
    let [(header, body)] = &frames[..] else { panic!("one answer: {frames:?}") };
    match Reply::decode(header.kind, body) {
        Ok(Reply::Outcomes(outcomes)) => {
            let highest = outcomes.iter().filter_map(|outcome| match outcome {
                Outcome::Done { version, .. } => Some(version.order),
                Outcome::Error(_) => None,
            });
            assert!(header.time >= highest.max().unwrap_or(Order(0)), "its client writes above all of them");
            outcomes.iter().collect()
        }
        other => panic!("no outcomes: {other:?}"),
    }
}

fn is_done(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Done { answered: 1, sloppy: false, .. })
}

fn value(bench: &Bench, shard: &Rc<Shard<Bench>>, connection: Connection, key: &[u8]) -> Option<Vec<u8>> {
    receive(shard, connection, &request_frame(77, &get(key, Level::One)));
    let (header, body) = bench.frames(connection).remove(0);
    match Reply::decode(header.kind, &body) {
        Ok(Reply::Value { value, .. }) => Some(value.to_vec()),
        Ok(Reply::Absent { .. }) => None,
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_entry_has_an_outcome_of_its_own() {
    let bench = Bench::new(MemDisk::new());
    let name = "carts".to_owned();
    let id = TableId::of(&name);
    let carts = Table { id, name, mode: Mode::Siblings, max_siblings: 4, ..Table::default_of(1) };
    let tables = Tables::new(vec![Table::default_of(1), carts]).expect("a sound list");
    let mut settings = settings_with(1, 1, 2, tables);
    settings.value_bytes_max = 100;
    let shard = open(&bench, settings).expect("an empty disk opens");
    let connection = client(&bench, &shard);
    let of_carts = Key { table: id, partition: b"k", sort: b"" };
    let nowhere = Key { table: TableId(9), partition: b"k", sort: b"" };
    let long = [7; 101];
    let entries = [
        entry(b"a", b"one"),
        entry(b"b", &long),
        Entry::Delete { key: Key::plain(b"c"), context: b"" },
        Entry::Put { key: nowhere, ttl_ms: 0, context: b"", value: b"v" },
        Entry::Delete { key: of_carts, context: b"" },
        Entry::Put { key: of_carts, ttl_ms: 60_000, context: b"", value: b"apple" },
        Entry::Put { key: Key::plain(b"d"), ttl_ms: 60_000, context: b"", value: b"short-lived" },
    ];
    receive(&shard, connection, &asked(1, Level::One, &entries));
    assert!(bench.frames(connection).is_empty(), "nothing is told before it is durable");
    shard.on_batch_end();
    bench.run();
    let told = outcomes(&bench, connection);
    let flags = |outcome: &Outcome| match outcome {
        Outcome::Done { version, .. } => version.flags.0,
        Outcome::Error(code) => panic!("{code}"),
    };
    assert_eq!(flags(&told[0]), 0);
    assert_eq!(told[1], Outcome::Error(ErrorCode::TooLarge));
    assert_eq!(flags(&told[2]), VersionFlags::TOMBSTONE);
    assert_eq!(told[3], Outcome::Error(ErrorCode::NoTable));
    assert_eq!(told[4], Outcome::Error(ErrorCode::BadContext), "a delete there says what it deletes");
    assert_eq!((flags(&told[5]), flags(&told[6])), (VersionFlags::EXPIRES, VersionFlags::EXPIRES));
    assert_eq!(told.len(), entries.len());
    assert_eq!(value(&bench, &shard, connection, b"a"), Some(b"one".to_vec()));
    assert_eq!(value(&bench, &shard, connection, b"b"), None);
    let status = shard.status();
    assert!(status.contains("puts 4\n") && status.contains("deletes 2\n"), "each of a table counts as one");
}

#[test]
fn none_is_answered_at_once_and_too_many_are_refused_whole() {
    let (bench, shard) = alone();
    let connection = client(&bench, &shard);
    receive(&shard, connection, &asked(1, Level::One, &[]));
    assert_eq!(outcomes(&bench, connection), []);
    for number in 0..MULTI_PUTS_MAX as u64 {
        receive(&shard, connection, &asked(number, Level::One, &[entry(&number.to_le_bytes(), b"v")]));
    }
    receive(&shard, connection, &asked(9, Level::One, &[entry(b"one too many", b"v")]));
    let frames = bench.frames(connection);
    let [(header, body)] = &frames[..] else { panic!("{frames:?}") };
    let refused = Reply::decode(header.kind, body);
    assert!(matches!(refused, Ok(Reply::Error { code: ErrorCode::Overloaded, .. })), "{refused:?}");
    shard.on_batch_end();
    bench.run();
    assert_eq!(bench.frames(connection).len(), MULTI_PUTS_MAX);
    receive(&shard, connection, &asked(9, Level::One, &[entry(b"there is room again", b"v")]));
    shard.on_batch_end();
    bench.run();
    assert!(is_done(&outcomes(&bench, connection)[0]));
}

#[test]
fn entries_of_other_cores_hop_and_come_back() {
    let bench = Bench::new(MemDisk::new());
    let shard = open(&bench, settings(1, 2, 4)).expect("an empty disk opens");
    let connection = client(&bench, &shard);
    let names: Vec<[u8; 4]> = (0..20u32).map(u32::to_le_bytes).collect();
    let entries: Vec<Entry<'_>> = names.iter().map(|name| entry(name, b"v")).collect();
    receive(&shard, connection, &asked(1, Level::One, &entries));
    shard.on_batch_end();
    bench.run();
    assert!(bench.frames(connection).is_empty(), "the other core has not answered");
    let hops = std::mem::take(&mut *bench.0.hops.borrow_mut());
    assert!(hops.len() > 3 && hops.len() < 17, "some are here and some are there: {}", hops.len());
    let other = Version { order: Order(u64::MAX / 2), ..Version::default() };
    for (at, (core, hop)) in hops.iter().enumerate() {
        let Hop::Request { connection, from_peer: false, frame, .. } = hop else { panic!("{hop:?}") };
        let Ok(Parsed::Frame { frame, .. }) = parse_frame(frame, limits::BODY_BYTES_MAX) else {
            panic!("a whole frame")
        };
        assert_eq!(frame.header.kind, FrameKind::Put);
        let reply = match at {
            0 => Reply::Error { code: ErrorCode::Unknown, text: "" },
            _ => Reply::Done { version: other, answered: 1, sloppy: false },
        };
        let mut answer = frame_of(reply.kind(), frame.header.request.0, 0, |out| reply.encode(out));
        let header = FrameHeader { kind: reply.kind(), time: other.order, deadline_us: 0, ..frame.header };
        finish_frame(&mut answer, 0, &header);
        for _ in 0..2 {
            // Said twice, it counts once.
            shard.on_hop(*core, Hop::Reply { connection: *connection, frame: answer.clone() });
        }
    }
    let told = outcomes(&bench, connection);
    assert_eq!(told.iter().filter(|outcome| is_done(outcome)).count(), names.len() - 1);
    let unknown = told.iter().position(|outcome| *outcome == Outcome::Error(ErrorCode::Unknown));
    let is_here = |name: &[u8]| shard.route(&Key::plain(name)).expect("a table").hop.is_none();
    assert!(!is_here(&names[unknown.expect("one is")]), "in the place of its entry");
    for (name, outcome) in names.iter().zip(&told) {
        let is_other = matches!(outcome, Outcome::Done { version, .. } if *version == other);
        assert!(!is_here(name) || !is_other);
    }
    // A queue between cores that is full refuses what would go there, and nothing else.
    bench.0.hops_full.set(true);
    receive(&shard, connection, &asked(2, Level::One, &entries));
    shard.on_batch_end();
    bench.run();
    for (name, outcome) in names.iter().zip(outcomes(&bench, connection)) {
        assert_eq!(is_done(&outcome), is_here(name), "{outcome:?}");
    }
}

/// The parts for a core that stood still were waited for until it went on, long after whoever had asked was gone; they took the places of others', and a node
/// that stopped waited for them.
#[test]
fn parts_that_are_not_answered_in_time_are_given_up_and_what_comes_later_is_nobodys() {
    let bench = Bench::new(MemDisk::new());
    let shard = open(&bench, settings(1, 2, 4)).expect("an empty disk opens");
    let connection = client(&bench, &shard);
    let names: Vec<[u8; 4]> = (0..20u32).map(u32::to_le_bytes).collect();
    let entries: Vec<Entry<'_>> = names.iter().map(|name| entry(name, b"v")).collect();
    let keys: Vec<Key<'_>> = names.iter().map(|name| Key::plain(name)).collect();
    receive(&shard, connection, &asked(1, Level::One, &entries));
    let get = frame_of(FrameKind::MultiGet, 2, 0, |out| {
        Request::encode_multi_get(Epoch(0), Level::One, &keys, out);
    });
    receive(&shard, connection, &get);
    let timeout_ms = shard.settings.request_timeout_ns / MS;
    pass(&bench, &shard, timeout_ms - 1);
    assert!(bench.frames(connection).is_empty(), "the other core may answer yet");
    pass(&bench, &shard, 60);
    let frames = bench.frames(connection);
    let is_here = |name: &[u8; 4]| shard.route(&Key::plain(name)).expect("a table").hop.is_none();
    let here: Vec<bool> = names.iter().map(is_here).collect();
    let replies: Vec<Reply<'_>> =
        frames.iter().map(|(header, body)| Reply::decode(header.kind, body).expect("a reply")).collect();
    let [Reply::Values(items), Reply::Outcomes(outcomes)] = &replies[..] else { panic!("{replies:?}") };
    for ((is_here, outcome), item) in here.iter().zip(outcomes.iter()).zip(items.iter()) {
        assert_eq!(*is_here, is_done(&outcome));
        assert!(*is_here || outcome == Outcome::Error(ErrorCode::Unknown), "it may be done yet");
        assert!(*is_here || matches!(item, Item::Error(ErrorCode::Timeout)), "{item:?}");
    }
    let late = 2 * here.iter().filter(|is_here| !**is_here).count();
    assert!(shard.status().contains(&format!("expired.waiting_for_part {late}\n")), "{}", shard.status());
    assert_eq!(shard.parts.get(), 0);
    for (core, hop) in bench.0.hops.take() {
        let Hop::Request { connection, frame, .. } = hop else { continue };
        let Ok(Parsed::Frame { frame, .. }) = parse_frame(&frame, limits::BODY_BYTES_MAX) else {
            panic!("a whole frame")
        };
        let done = Reply::Error { code: ErrorCode::Expired, text: "" };
        let answer = frame_of(done.kind(), frame.header.request.0, 0, |out| done.encode(out));
        shard.on_hop(core, Hop::Reply { connection, frame: answer });
    }
    assert!(bench.frames(connection).is_empty());
    shard.on_stop();
    let is_drained = |_: u64| {
        pass(&bench, &shard, 1);
        shard.is_drained()
    };
    assert!((0..100).any(is_drained), "nothing is waited for");
}

/// Parts that were given up were told as in doubt, but not how high they may have been minted: what their client wrote next, elsewhere, could lie below, and was
/// hidden though it was acknowledged.
#[test]
fn parts_that_are_given_up_tell_their_client_the_time_that_they_may_have_been_minted_at() {
    const GIVEN_MS: u64 = 100;
    let names: Vec<[u8; 4]> = (0..20u32).map(u32::to_le_bytes).collect();
    let entries: Vec<Entry<'_>> = names.iter().map(|name| entry(name, b"v")).collect();
    let asked = frame_of(FrameKind::MultiPut, 1, (GIVEN_MS * 1_000) as u32, |out| {
        Request::encode_multi_put(Epoch(0), Level::One, 0, entries.iter().copied(), out);
    });
    let time_of = |frames: Vec<(FrameHeader, Vec<u8>)>| {
        let [(header, body)] = &frames[..] else { panic!("one answer: {frames:?}") };
        let Ok(Reply::Outcomes(outcomes)) = Reply::decode(header.kind, body) else { panic!("{header:?}") };
        assert!(outcomes.iter().any(|outcome| outcome == Outcome::Error(ErrorCode::Unknown)));
        header.time
    };
    // Another core that stands still: by its deadline it may have minted them as far ahead as is tolerated, of a wall clock that was set back since, too. Or set
    // forward after it was asked, and back before this is told.
    for (forward_ms, back_ms) in [(0, 0), (0, 300), (300, 300)] {
        let bench = Bench::new(MemDisk::new());
        let shard = open(&bench, settings(1, 2, 4)).expect("an empty disk opens");
        let connection = client(&bench, &shard);
        let minted_max_ms = bench.wall_ms() + forward_ms + GIVEN_MS + shard.settings.clock_drift_max_ms;
        receive(&shard, connection, &asked);
        bench.0.wall_ms.set(bench.wall_ms() + forward_ms);
        pass(&bench, &shard, GIVEN_MS / 2);
        bench.0.wall_ms.set(bench.wall_ms() - back_ms);
        let answer = |_: u64| {
            pass(&bench, &shard, 1);
            Some(bench.frames(connection)).filter(|frames| !frames.is_empty())
        };
        let told = time_of((0..GIVEN_MS / 2 + 60).find_map(answer).expect("it is given up"));
        assert!(told.wall_ms() > minted_max_ms, "{} <= {minted_max_ms}", told.wall_ms());
        if back_ms == 0 {
            // It was told with the tick, a moment after the deadline, and lay a millisecond beyond what a node takes whose clock agrees.
            assert!(shard.mint(told).is_ok(), "who is told it may write at once");
        }
    }
    // This one, whose log does.
    let (bench, shard) = alone();
    let connection = client(&bench, &shard);
    let ahead = Order::from_wall_ms(bench.wall_ms() + 400);
    assert!(shard.observe(ahead));
    receive(&shard, connection, &asked);
    let minted = shard.clock.borrow().latest();
    assert!(minted > ahead);
    for _ in 0..GIVEN_MS + 60 {
        bench.0.now_ns.set(bench.now_ns() + MS);
        bench.0.wall_ms.set(bench.wall_ms() + 1);
        shard.on_timer(bench.now_ns());
    }
    assert_eq!(time_of(bench.frames(connection)), minted);
}

/// A core that knew its node's wall clock to be ahead told the time by others' for parts of another core, which did not know it: that had minted by its own.
#[test]
fn a_core_that_knows_its_wall_clock_to_be_ahead_asks_no_other_to_mint() {
    let bench = Bench::new(MemDisk::new());
    let shard = open(&bench, settings(1, 2, 4)).expect("an empty disk opens");
    let connection = client(&bench, &shard);
    let names: Vec<[u8; 4]> = (0..20u32).map(u32::to_le_bytes).collect();
    let entries: Vec<Entry<'_>> = names.iter().map(|name| entry(name, b"v")).collect();
    let tell_ahead_by = |ms: u64| {
        for node in [2, 3] {
            let (now_ms, told_ms) = (bench.now_ns() / MS, bench.wall_ms() - ms);
            shard.walls.borrow_mut().tell(now_ms, NodeId(node), now_ms, told_ms);
        }
    };
    tell_ahead_by(600);
    receive(&shard, connection, &asked(1, Level::One, &entries));
    let refused = outcomes(&bench, connection);
    assert!(refused.iter().all(|outcome| *outcome == Outcome::Error(ErrorCode::ClockDrift)), "{refused:?}");
    assert_eq!(shard.questions.len(), 0);
    tell_ahead_by(400);
    let timeout_ms = shard.settings.request_timeout_ns / MS;
    let may_mint_ms = bench.wall_ms() + timeout_ms + shard.settings.clock_drift_max_ms;
    receive(&shard, connection, &asked(2, Level::One, &entries));
    assert!(shard.questions.len() > 0, "that much is tolerated");
    // Found out after they were asked.
    tell_ahead_by(600);
    pass(&bench, &shard, timeout_ms + 60);
    let frames = bench.frames(connection);
    assert!(frames[0].0.time.wall_ms() > may_mint_ms, "{frames:?}");
}

/// The whole of a batch is neither done nor not because one of its writes is in doubt.
#[test]
fn one_write_in_doubt_leaves_the_others_done() {
    let node = Coordinator::new(3, 3);
    let entries = [entry(b"first", b"1"), entry(b"second", b"2")];
    receive(&node.shard, node.client, &asked(1, Level::All, &entries));
    node.settle();
    let writes = node.asked();
    assert_eq!(writes.len(), 4);
    for write in writes.iter().filter(|write| matches!(&write.what, What::Write(_, value) if value == b"1")) {
        node.answer_write(write, WriteAnswer::Applied);
    }
    assert!(node.bench.frames(node.client).is_empty());
    pass(&node.bench, &node.shard, TIMEOUT_MS + 10);
    let minted = writes.iter().map(|write| match &write.what {
        What::Write(version, _) => version.order,
        What::Read(_) => panic!("nothing is read"),
    });
    let time = node.bench.0.sent.borrow().get(&node.client).map(|bytes| {
        let Ok(Parsed::Frame { frame, .. }) = parse_frame(bytes, limits::BODY_BYTES_MAX) else {
            panic!("a whole frame")
        };
        frame.header.time
    });
    assert_eq!(time, minted.max(), "that of the write in doubt as well");
    let told = outcomes(&node.bench, node.client);
    assert!(matches!(told[0], Outcome::Done { answered: 3, .. }), "{told:?}");
    assert_eq!(told[1], Outcome::Error(ErrorCode::Unknown));
    assert!(!ErrorCode::Unknown.says_not_applied());
}

#[test]
fn an_option_that_no_write_has_is_refused() {
    let (bench, shard) = alone();
    let connection = client(&bench, &shard);
    let frame = frame_of(FrameKind::MultiPut, 1, 0, |out| {
        Request::encode_multi_put(Epoch(0), Level::One, SLOPPY << 1, [entry(b"k", b"v")].into_iter(), out);
    });
    assert_eq!(shard.on_received(connection, &frame), Received::Close);
}
