//! The middle, event by event: routing, matching, retries, deadlines, bounds.

use crate::frames::{done, encoded, error, header, reply_frame, topology, version};
use crate::script::{Script, Seen, options};
use ferrite_client::{
    Completion, ErrorCode, FOR_EVER, Key, Operation, Options, ReadError, ReadOptions, Replaces, Siblings,
    UnknownReason, WriteOptions, WriteOutcome,
};
use ferrite_wire::{
    FrameFlags, FrameHeader, FrameKind, Item, Order, Reply, Request, RequestId, SLOPPY, TTL_NEVER, TableId,
    limits,
};
use std::time::Duration;

const KEY: Key<'static> = Key { table: TableId::DEFAULT, partition: b"key", sort: b"" };

fn get(key: &[u8]) -> Operation<'_> {
    Operation::Get(Key::plain(key), ReadOptions::default())
}

fn put() -> Operation<'static> {
    Operation::Put(KEY, b"value", WriteOptions::default())
}

/// What is said of a key that has no value, by so many replicas.
fn absent(answered: u8) -> Completion {
    Completion::Read(Ok(Siblings { answered, ..Siblings::default() }))
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn replies_may_come_in_any_order() {
    let mut script = Script::with_nodes(options(&["n1:7101"]), 1);
    for tag in 0..4 {
        script.submit(tag, get(&[tag as u8]));
    }
    let requests: Vec<_> = (0..4).map(|_| script.request()).collect();
    for at in [2usize, 0, 3, 1] {
        let value = [at as u8; 3];
        script.reply(&requests[at], &Reply::Value { version: version(9), answered: 2, value: &value });
        let (tag, Completion::Read(Ok(found))) = script.completion() else { panic!("not a value") };
        let value = found.single().unwrap().unwrap();
        assert_eq!((tag, value.bytes, value.answered), (at as u64, vec![at as u8; 3], 2));
    }
    assert_eq!(script.pipeline.calls_open(), 0);
}

/// Whether stand-ins counted is the caller's to know: it asked for them, and may not have needed them.
#[test]
fn a_sloppy_write_says_so_and_is_told_whether_it_was() {
    let write = WriteOptions { sloppy: true, ..WriteOptions::default() };
    for (operation, kind) in [
        (Operation::Put(KEY, b"value", write), FrameKind::Put),
        (Operation::PutReplacing(KEY, b"value", Replaces::All, write), FrameKind::Put),
        (Operation::Delete(KEY, write), FrameKind::Delete),
        (Operation::DeleteReplacing(KEY, Replaces::All, write), FrameKind::Delete),
    ] {
        let mut script = Script::with_nodes(options(&["n1:7101"]), 1);
        script.submit(1, operation);
        let seen = script.request();
        let Ok(Request::Put { options, .. } | Request::Delete { options, .. }) =
            Request::decode(kind, &seen.body)
        else {
            panic!("not a write")
        };
        assert_eq!(options & SLOPPY, SLOPPY);
        script.reply(&seen, &Reply::Done { version: version(1), answered: 2, sloppy: true });
        let (1, Completion::Write(outcome)) = script.completion() else { panic!("not a write's end") };
        assert!(matches!(outcome, WriteOutcome::Done { answered: 2, sloppy: true, .. }));
    }
}

/// No time to live is the table's, and so nothing could be written for ever where a table has one.
#[test]
fn a_time_to_live_is_told_in_milliseconds_and_for_ever_as_itself() {
    for (ttl, told) in [
        (None, 0),
        (Some(Duration::from_micros(1)), 1),
        (Some(ms(1_500)), 1_500),
        (Some(FOR_EVER), TTL_NEVER),
    ] {
        let mut script = Script::with_nodes(options(&["n1:7101"]), 1);
        script.submit(1, Operation::Put(KEY, b"value", WriteOptions { ttl, ..WriteOptions::default() }));
        let seen = script.request();
        let Ok(Request::Put { ttl_ms, .. }) = Request::decode(FrameKind::Put, &seen.body) else { panic!() };
        assert_eq!(ttl_ms, told, "{ttl:?}");
    }
}

#[test]
fn replies_to_nobody_are_counted_and_harm_nothing() {
    let mut script = Script::with_nodes(options(&["n1:7101"]), 1);
    script.submit(1, put());
    let request = script.request();
    for stray in [1u64, 77, 1 << 32, u64::MAX] {
        script.bytes(request.connection, &crate::frames::reply_to(RequestId(stray), &done()));
    }
    assert!(script.completions.is_empty());
    assert_eq!(script.pipeline.stray_replies(), 4);
    script.reply(&request, &done());
    assert!(matches!(script.completion(), (1, Completion::Write(WriteOutcome::Done { answered: 2, .. }))));
    script.reply(&request, &done());
    assert!(script.completions.is_empty(), "the second answer is late");
}

#[test]
fn a_read_tries_each_replica_and_a_write_only_what_is_safe() {
    for code in ErrorCode::ALL {
        let mut script = Script::with_nodes(options(&["n1:7101"]), 3);
        script.submit(1, put());
        script.connect_all();
        let request = script.request();
        script.reply(&request, &error(code));
        script.advance(ms(50));
        script.connect_all();
        let again = script.requests.pop_front();
        let may_again = code.says_not_applied();
        assert!(again.is_none() || may_again, "{code}: a write was sent twice");
        match again {
            Some(again) => {
                assert_ne!(again.address, request.address, "{code}");
                script.reply(&again, &done());
                assert!(matches!(script.completion(), (1, Completion::Write(WriteOutcome::Done { .. }))));
            }
            None if may_again => {
                let outcome = script.completion().1;
                assert!(
                    matches!(outcome, Completion::Write(WriteOutcome::NotApplied(fault)) if fault.code == code)
                );
            }
            None => {
                let Completion::Write(WriteOutcome::Unknown(UnknownReason::Server(fault))) =
                    script.completion().1
                else {
                    panic!("{code}: not unknown");
                };
                assert_eq!(fault.code, code);
            }
        }
    }
}

/// It ended with the third refusal however many replicas there were: with three of five that had lost their disks it was not applied, where two would have taken it.
#[test]
fn a_write_is_not_applied_only_once_each_replica_has_refused_it() {
    for fenced in 3..=5 {
        let mut script = Script::with_nodes(options(&["n1:7101"]), 5);
        script.submit(1, put());
        let mut asked = Vec::new();
        for _ in 0..fenced {
            script.connect_all();
            let request = script.request();
            script.reply(&request, &error(ErrorCode::Fenced));
            asked.push(request.address);
        }
        if fenced < 5 {
            script.connect_all();
            let request = script.request();
            script.reply(&request, &done());
            asked.push(request.address);
        }
        let outcome = script.completion().1;
        match fenced {
            5 => assert!(
                matches!(&outcome, Completion::Write(WriteOutcome::NotApplied(fault)) if fault.code == ErrorCode::Fenced)
            ),
            _ => assert!(matches!(&outcome, Completion::Write(WriteOutcome::Done { .. }))),
        }
        asked.sort();
        asked.dedup();
        assert_eq!(asked.len(), (fenced + 1).min(5), "each of them once");
    }
}

#[test]
fn a_refused_read_ends_with_the_last_refusal() {
    let mut script = Script::with_nodes(options(&["n1:7101"]), 3);
    script.submit(1, get(b"key"));
    let mut asked = Vec::new();
    for _ in 0..3 {
        script.connect_all();
        let request = script.request();
        script.reply(&request, &error(ErrorCode::Unavailable));
        asked.push(request.address);
    }
    asked.sort();
    assert_eq!(asked, ["n1:7101", "n2:7101", "n3:7101"]);
    let (1, Completion::Read(Err(ReadError::Refused(fault)))) = script.completion() else {
        panic!("not refused")
    };
    assert_eq!(fault.code, ErrorCode::Unavailable);
}

#[test]
fn overload_is_answered_with_a_pause_and_another_try() {
    let mut script = Script::with_nodes(options(&["n1:7101"]), 1);
    script.submit(1, put());
    for _ in 0..10 {
        let request = script.request();
        script.reply(&request, &error(ErrorCode::Overloaded));
        assert!(script.requests.is_empty(), "not at once");
        script.advance(ms(100));
        script.connect_all();
    }
    let request = script.request();
    script.reply(&request, &done());
    assert!(matches!(script.completion(), (1, Completion::Write(WriteOutcome::Done { .. }))));
}

/// All that one server had refused at a moment came back at a moment.
#[test]
fn pauses_after_overload_grow_are_capped_and_differ() {
    let pauses = |jitter_seed| {
        let mut script = Script::with_nodes(Options { jitter_seed, ..options(&["n1:7101"]) }, 3);
        script.submit(1, put());
        let mut pauses = Vec::new();
        for _ in 0..12 {
            script.connect_all();
            let request = script.request();
            script.reply(&request, &error(ErrorCode::Overloaded));
            let refused_at = script.now;
            while script.requests.is_empty() && script.opening.is_empty() {
                script.advance(Duration::from_micros(100));
            }
            pauses.push(script.now - refused_at);
        }
        pauses
    };
    let (mine, yours) = (pauses(1), pauses(2));
    for (round, (mine, yours)) in (1u32..).zip(mine.iter().zip(&yours)) {
        let range = ms(4) * round.min(8)..=ms(8) * round.min(8) + ms(1);
        assert!(range.contains(mine) && range.contains(yours), "{round}: {mine:?}, {yours:?}");
    }
    assert_ne!(mine, yours);
}

#[test]
fn a_lost_connection_leaves_writes_unknown_and_sends_reads_elsewhere() {
    let mut script = Script::with_nodes(options(&["n1:7101"]), 2);
    script.submit(1, put());
    script.submit(2, get(b"key"));
    script.connect_all();
    let (write, read) = (script.request(), script.request());
    assert_eq!(write.connection, read.connection, "one key, one owner");
    script.lose(write.connection);
    let (1, Completion::Write(WriteOutcome::Unknown(UnknownReason::ConnectionLost(detail)))) =
        script.completion()
    else {
        panic!("not unknown");
    };
    assert_eq!(detail, "lost");
    script.connect_all();
    let keyed = |script: &mut Script| loop {
        let request = script.request();
        if request.header.kind != FrameKind::Topology {
            return request;
        }
    };
    let again = keyed(&mut script);
    assert_eq!(again.header.kind, FrameKind::Get);
    assert_ne!(again.address, read.address);
    script.reply(&again, &Reply::Absent { answered: 1 });
    assert_eq!(script.completion(), (2, absent(1)));
}

#[test]
fn what_was_never_sent_is_not_applied_and_goes_elsewhere() {
    let mut script = Script::new(options(&["a:1", "b:1"]));
    script.submit(1, put());
    assert_eq!(script.refuse(), "a:1");
    let (_, address) = script.connect();
    assert_eq!(address, "b:1");
    let request = script.request();
    script.reply(&request, &done());
    assert!(matches!(script.completion(), (1, Completion::Write(WriteOutcome::Done { .. }))));

    // Lost in the middle of the handshake: still never sent.
    let mut script = Script::new(options(&["a:1"]));
    script.submit(1, put());
    let (connection, _) = script.opening.pop_front().unwrap();
    script.pipeline.handle_connected(script.now, connection);
    script.settle();
    script.lose(connection);
    script.advance(ms(4999));
    assert!(script.completions.is_empty());
    script.advance(ms(1));
    let (1, Completion::Write(WriteOutcome::NotApplied(fault))) = script.completion() else {
        panic!("not sent, so not applied");
    };
    assert_eq!(fault.code, ErrorCode::Expired);
}

#[test]
fn deadlines_end_calls_and_late_answers_match_nothing() {
    let mut script = Script::with_nodes(options(&["n1:7101"]), 1);
    let short = Some(ms(100));
    script.submit(1, Operation::Put(KEY, b"v", WriteOptions { timeout: short, ..Default::default() }));
    script.submit(2, Operation::Get(KEY, ReadOptions { timeout: short, ..Default::default() }));
    let (write, read) = (script.request(), script.request());
    assert_eq!(write.header.deadline_us, 100_000);
    assert!(read.header.deadline_us <= 100_000);
    script.advance(ms(200));
    script.completions.sort_by_key(|(tag, _)| *tag);
    let unknown = Completion::Write(WriteOutcome::Unknown(UnknownReason::Deadline));
    assert_eq!(script.completions[0], (1, unknown));
    assert!(matches!(&script.completions[1], (2, Completion::Read(Err(ReadError::Deadline(_))))));
    assert_eq!(script.completions.len(), 2);
    script.reply(&write, &done());
    assert_eq!(script.completions.len(), 2);
}

/// The system went on trying to deliver it for a minute, long after its caller had written something else through another node.
#[test]
fn a_connection_that_owes_a_write_is_reset_and_one_that_owes_a_read_is_closed() {
    for (operation, is_write) in [(put(), true), (get(b"key"), false)] {
        let mut script = Script::with_nodes(options(&["n1:7101"]), 1);
        script.submit(1, operation);
        script.connect_all();
        let asked = script.request();
        script.advance(ms(60_000));
        assert!(script.closed.contains(&asked.connection));
        assert_eq!(script.reset.contains(&asked.connection), is_write);
    }
    // Nor is it sent on when its outcome is unknown for another reason.
    let mut script = Script::with_nodes(options(&["n1:7101"]), 1);
    script.submit(1, put());
    script.connect_all();
    let asked = script.request();
    script.reply(&asked, &Reply::Pong);
    assert_eq!(script.reset, [asked.connection], "what it answers does not fit");
}

/// A node that has answered one write, and whose socket takes nothing more, with that write.
fn with_a_stuck_socket() -> (Script, Seen) {
    let mut script = Script::with_nodes(Options { timeout: ms(1_000), ..options(&["n1:7100"]) }, 1);
    script.submit(0, put());
    script.connect_all();
    let first = script.request();
    script.reply(&first, &done());
    script.completion();
    script.is_stuck = true;
    (script, first)
}

/// It lay in the client until the socket took something again, and was sent then, with all of the time that it had had at first: carried out late, it won over what
/// its caller had written since.
#[test]
fn a_write_whose_time_was_up_before_the_socket_took_it_is_not_sent() {
    let (mut script, first) = with_a_stuck_socket();
    script.submit(1, put());
    script.advance(ms(600));
    script.submit(2, put());
    // Something is heard, so the connection is not given up.
    script.reply(&first, &done());
    script.advance(ms(500));
    assert_eq!(script.completion(), (1, Completion::Write(WriteOutcome::Unknown(UnknownReason::Deadline))));
    script.unstick();
    let second = script.request();
    assert_eq!(second.header.deadline_us, 500_000, "what is left of it, not what it had");
    assert!(script.requests.is_empty(), "the other one is over");
    script.reply(&second, &done());
    assert!(matches!(script.completion(), (2, Completion::Write(WriteOutcome::Done { .. }))));
}

/// All that waited for a socket went into one buffer with the time that was left then, and lay there: what its caller had long given up was carried out.
#[test]
fn what_does_not_fit_one_output_is_told_the_time_that_is_left_when_it_leaves() {
    let (mut script, _) = with_a_stuck_socket();
    let long = vec![7; 40 * 1024];
    let put = |timeout| {
        let options = WriteOptions { timeout: Some(timeout), ..Default::default() };
        Operation::Put(KEY, &long[..], options)
    };
    script.submit(1, put(ms(500)));
    script.submit(2, put(ms(500)));
    script.submit(3, put(ms(5_000)));
    script.unstick_once();
    let sent = script.request();
    assert!(script.requests.is_empty(), "two of them are more than an output takes");
    script.advance(ms(100));
    script.reply(&sent, &done());
    assert!(matches!(script.completion(), (1, Completion::Write(WriteOutcome::Done { .. }))));
    script.advance(ms(1_000));
    assert_eq!(script.completion(), (2, Completion::Write(WriteOutcome::Unknown(UnknownReason::Deadline))));
    script.unstick();
    let last = script.request();
    assert_eq!(last.header.deadline_us, 3_900_000);
    assert!(script.requests.is_empty(), "the second one is over");
    script.reply(&last, &done());
    assert!(matches!(script.completion(), (3, Completion::Write(WriteOutcome::Done { .. }))));
    assert!(script.closed.is_empty(), "what had not left is owed by no connection");
}

/// As long as a connection answered other calls it stayed, with a write under way on it that its caller had given up.
#[test]
fn a_write_that_was_given_up_ends_its_connection_unless_it_has_arrived() {
    for has_arrived in [true, false] {
        let mut script = Script::with_nodes(options(&["n1:7101"]), 1);
        let short = WriteOptions { timeout: Some(ms(100)), ..Default::default() };
        script.submit(0, get(b"key"));
        script.connect_all();
        let before = script.request();
        script.submit(1, Operation::Put(KEY, b"v", short));
        let write = script.request();
        script.submit(2, get(b"key"));
        let behind = script.request();
        assert!(write.connection == before.connection && write.connection == behind.connection);
        script.advance(ms(50));
        script.reply(if has_arrived { &behind } else { &before }, &Reply::Absent { answered: 1 });
        script.completion();
        script.advance(ms(50));
        assert!(matches!(script.completion(), (1, Completion::Write(WriteOutcome::Unknown(_)))));
        script.reply(if has_arrived { &before } else { &behind }, &Reply::Absent { answered: 1 });
        script.completion();
        assert_eq!(script.reset.contains(&write.connection), !has_arrived);
        // The address has not failed, and is used as before.
        script.submit(3, get(b"key"));
        script.connect_all();
        assert_eq!(script.request().address, write.address);
    }
}

#[test]
fn a_silent_replica_is_left_for_the_next_within_the_deadline() {
    let mut script = Script::with_nodes(options(&["n1:7101"]), 2);
    script.submit(1, get(b"key"));
    script.connect_all();
    let first = script.request();
    script.advance(ms(2500));
    script.connect_all();
    let second = script.requests.iter().find(|seen| seen.header.kind == FrameKind::Get).cloned();
    let second = second.expect("asked elsewhere");
    assert_ne!(second.address, first.address);
    script.reply(&second, &Reply::Absent { answered: 1 });
    assert_eq!(script.completion(), (1, absent(1)));
    assert!(script.closed.contains(&first.connection), "nobody waits on the silent connection any more");
}

#[test]
fn a_connection_never_has_more_than_its_bound_in_flight() {
    let mut bounded = options(&["n1:7101"]);
    bounded.in_flight_per_connection = 3;
    let mut script = Script::with_nodes(bounded, 1);
    for tag in 0..10 {
        script.submit(tag, put());
    }
    assert_eq!(script.requests.len(), 3);
    for answered in 1..=10 {
        let request = script.request();
        script.reply(&request, &done());
        assert_eq!(script.requests.len(), 3.min(10 - answered));
    }
    assert_eq!(script.completions.len(), 10);
}

#[test]
fn too_many_calls_are_refused_at_once() {
    let mut bounded = options(&["n1:7101"]);
    bounded.calls_max = 2;
    let mut script = Script::with_nodes(bounded, 1);
    for tag in 0..3 {
        script.submit(tag, put());
    }
    let (2, Completion::Write(WriteOutcome::NotApplied(fault))) = script.completion() else {
        panic!("not refused")
    };
    assert_eq!(fault.code, ErrorCode::Overloaded);
}

#[test]
fn what_is_too_large_is_never_sent() {
    let mut script = Script::with_nodes(options(&["n1:7101"]), 1);
    let value = vec![0; limits::VALUE_BYTES_MAX + 1];
    script.submit(1, Operation::Put(KEY, &value, WriteOptions::default()));
    let long = vec![0; limits::KEY_BYTES_MAX + 1];
    script.submit(2, get(&long));
    let (2, Completion::Read(Err(ReadError::Refused(fault)))) = script.completions.pop().unwrap() else {
        panic!()
    };
    assert_eq!(fault.code, ErrorCode::TooLarge);
    let (1, Completion::Write(WriteOutcome::NotApplied(fault))) = script.completion() else { panic!() };
    assert_eq!(fault.code, ErrorCode::TooLarge);
    assert!(script.requests.is_empty());
}

#[test]
fn the_highest_time_seen_travels_with_every_request() {
    let mut script = Script::with_nodes(options(&["n1:7101"]), 1);
    let mut carried = Vec::new();
    for (tag, time) in [(1u64, 500u64), (2, 300), (3, 900)] {
        script.submit(tag, put());
        let request = script.request();
        carried.push(request.header.time);
        let time = FrameHeader { time: Order(time), ..header(FrameKind::Done, request.header.request) };
        script.bytes(request.connection, &reply_frame(time, &done()));
    }
    assert_eq!(carried, [Order(0), Order(500), Order(500)]);
    assert_eq!(script.pipeline.highest_time(), Order(900));
}

#[test]
fn a_stale_topology_is_fetched_once_and_used() {
    let mut script = Script::with_nodes(options(&["n1:7101"]), 1);
    let mut fetches = Vec::new();
    for tag in 0..3 {
        script.submit(tag, get(b"key"));
        let request = script.requests.pop_back().expect("the newest is the get");
        fetches.extend(script.requests.drain(..));
        let stale = FrameFlags(FrameFlags::STALE_TOPOLOGY);
        let stale = FrameHeader { flags: stale, ..header(FrameKind::Absent, request.header.request) };
        script.bytes(request.connection, &reply_frame(stale, &Reply::Absent { answered: 1 }));
        assert_eq!(script.completion(), (tag, absent(1)));
    }
    let [fetch] = &fetches[..] else { panic!("one fetch, however many replies ask for it: {fetches:?}") };
    assert_eq!(fetch.header.kind, FrameKind::Topology);
    let moved = topology(2, &[("m:1".to_owned(), vec!["m:2".to_owned()])]);
    script.reply(fetch, &Reply::Topology(&encoded(&moved)));
    script.submit(9, get(b"key"));
    assert_eq!(script.opening.back().unwrap().1, "m:2");
    script.connect_all();
    let Ok(Request::Get { epoch, .. }) = Request::decode(FrameKind::Get, &script.request().body) else {
        panic!()
    };
    assert_eq!(epoch.0, 2, "requests name the topology they were routed by");
}

#[test]
fn an_incomplete_topology_is_fetched_again_until_it_is_complete() {
    let mut script = Script::new(options(&["n1:7100"]));
    let nodes = |cores: usize| [("n1:7100".to_owned(), vec!["n1:7101".to_owned(); cores])];
    script.submit(1, Operation::Topology(None, ReadOptions::default()));
    script.connect_all();
    for round in 0..4 {
        let fetch = script.request();
        assert_eq!(fetch.header.kind, FrameKind::Topology);
        let cores = usize::from(round == 3);
        script.reply(&fetch, &Reply::Topology(&encoded(&topology(1, &nodes(cores)))));
        assert!(script.requests.is_empty(), "not at once");
        for _ in 0..600 {
            if script.requests.is_empty() {
                script.advance(ms(100));
            }
        }
        assert_eq!(script.requests.is_empty(), round == 3, "until it is complete, and no longer");
    }
    script.submit(2, get(b"key"));
    assert_eq!(script.opening.back().unwrap().1, "n1:7101");
}

#[test]
fn a_refused_endpoint_is_tried_again_ever_later() {
    let mut script = Script::new(options(&["a:1"]));
    script.submit(1, Operation::Get(KEY, ReadOptions { timeout: Some(ms(60_000)), ..Default::default() }));
    let start = script.now;
    let mut waits = Vec::new();
    let mut last = start;
    while waits.len() < 12 {
        while script.opening.is_empty() {
            script.advance(ms(1));
        }
        waits.push(script.now - last);
        last = script.now;
        script.refuse();
    }
    assert!(waits[1] >= ms(5) && waits[1] <= ms(12), "{waits:?}");
    assert!(waits[11] >= ms(1000) && waits[11] <= ms(2002), "capped: {waits:?}");
}

#[test]
fn a_multi_get_is_split_by_owner_and_merged_in_order() {
    let mut script = Script::with_nodes(options(&["n1:7101"]), 3);
    let names: Vec<Vec<u8>> = (0..40u8).map(|name| vec![name]).collect();
    let keys: Vec<Key<'_>> = names.iter().map(|name| Key::plain(name)).collect();
    script.submit(1, Operation::MultiGet(&keys, ReadOptions::default()));
    script.connect_all();
    let parts: Vec<_> = script.requests.drain(..).collect();
    assert_eq!(parts.len(), 3, "four vnodes, three owners");
    for part in parts {
        let Ok(Request::MultiGet { keys, .. }) = Request::decode(FrameKind::MultiGet, &part.body) else {
            panic!()
        };
        let items = keys.iter().map(|key| match key.partition[0] {
            name if name % 3 == 0 => Item::Absent { answered: 2 },
            7 => Item::Error(ErrorCode::TooLarge),
            8 => Item::Error(ErrorCode::Damaged),
            _ => Item::Value { answered: 3, version: version(1), value: key.partition },
        });
        let items: Vec<_> = items.collect();
        let mut body = Vec::new();
        Reply::encode_values(items.into_iter(), &mut body);
        script.reply(&part, &Reply::decode(FrameKind::Values, &body).unwrap());
    }
    assert!(script.completions.is_empty(), "a value that had no room is asked for alone");
    let alone = script.request();
    assert_eq!(alone.header.kind, FrameKind::Get);
    script.reply(&alone, &Reply::Value { version: version(1), answered: 1, value: b"large" });
    let (1, Completion::Reads(answers)) = script.completion() else { panic!("not reads") };
    assert_eq!(answers.len(), 40);
    for (name, answer) in (0u8..).zip(answers) {
        let answered = answer.as_ref().map(|found| found.answered).map_err(|_| ());
        let value = answer.map(|found| found.single().unwrap().map(|value| (value.bytes, value.answered)));
        if let (Ok(Some((_, of_value))), Ok(of_key)) = (&value, answered) {
            assert_eq!(*of_value, of_key, "a value says it, too");
        }
        match (name, value.map(|value| value.map(|(bytes, _)| bytes)), answered) {
            (7, Ok(Some(value)), Ok(1)) => assert_eq!(value, b"large"),
            (8, Err(ReadError::Refused(fault)), _) => assert_eq!(fault.code, ErrorCode::Damaged),
            (name, Ok(None), Ok(2)) => assert_eq!(name % 3, 0),
            (name, Ok(Some(value)), Ok(3)) => assert_eq!(value, [name]),
            (name, value, answered) => panic!("{name}: {value:?}, {answered:?} answered"),
        }
    }
}

#[test]
fn a_reply_that_does_not_fit_loses_the_connection() {
    for reply in [Reply::Pong, Reply::Absent { answered: 1 }, Reply::Topology(b"")] {
        let mut script = Script::with_nodes(options(&["n1:7101"]), 1);
        script.submit(1, put());
        let request = script.request();
        script.reply(&request, &reply);
        let outcome = script.completion().1;
        assert!(matches!(
            outcome,
            Completion::Write(WriteOutcome::Unknown(UnknownReason::ConnectionLost(_)))
        ));
        assert_eq!(script.closed, [request.connection]);
    }
}

#[test]
fn more_connections_open_only_under_load() {
    let mut two = options(&["n1:7101"]);
    two.connections_per_core = 2;
    let mut script = Script::with_nodes(two, 1);
    script.submit(1, put());
    assert!(script.opening.is_empty(), "the idle connection serves");
    script.submit(2, put());
    assert_eq!(script.opening.len(), 1, "the busy one gets company");
    script.connect_all();
    script.submit(3, put());
    assert!(script.opening.is_empty(), "but no more than asked for");
    let connections: Vec<_> = script.requests.iter().map(|seen| seen.connection).collect();
    assert_ne!(connections[0], connections[1]);
}
