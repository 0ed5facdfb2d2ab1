//! Stopping, and work that nobody waits for.

use ferrite_cluster::hints::DropReason;
use ferrite_wire::{Entry, ErrorCode, Level, Outcome, ReadWant, ReplicaAnswer, Reply, Version, WriteAnswer};

use super::hints::{answer, comes, drops, patient, told, without_the_third, write_and_ack, writes};
use super::multi_put::entry;
use super::pressure::{soon_behind, with_memtables_of};
use super::*;
use crate::shard::stop::{DRAIN_MS, OPEN_NS};
use crate::shard::upkeep::TEND_INTERVAL_NS;

/// Longer than any stop takes, in microseconds.
const LONG_US: u32 = 30_000_000;

fn write_frame(number: u64, deadline_us: u32, key: &[u8]) -> Vec<u8> {
    let version = Version { order: Order(5), ..Version::default() };
    let message =
        PeerMessage::ReplicaWrite { vnode_epoch: Epoch(1), key: Key::plain(key), version, value: b"value" };
    message_frame(number, deadline_us, &message)
}

fn write_answers(bench: &Bench, connection: Connection) -> Vec<WriteAnswer> {
    let answers = bench.frames(connection).into_iter();
    let answer = |(header, body): (FrameHeader, Vec<u8>)| match PeerMessage::decode(header.kind, &body) {
        Ok(PeerMessage::ReplicaWriteAnswer(answer)) => answer,
        other => panic!("{other:?} is no answer to a write"),
    };
    answers.map(answer).collect()
}

/// Peers go on writing while a node drains. It used to take their writes, so that under load it was never idle and was
/// stopped by the clock, without the mark of a clean end.
#[test]
fn a_stopping_shard_takes_no_writes_of_peers() {
    let bench = Bench::new(MemDisk::new());
    let shard = open(&bench, settings(3, 1, 2)).expect("an empty disk opens");
    let connection = peer(&bench, &shard);
    receive(&shard, connection, &write_frame(1, 1_000_000, b"before"));
    shard.on_stop();
    receive(&shard, connection, &write_frame(2, 1_000_000, b"after"));
    shard.on_batch_end();
    bench.run();
    let mut answers = write_answers(&bench, connection);
    answers.sort_by_key(|answer| *answer != WriteAnswer::Applied);
    assert_eq!(answers, [WriteAnswer::Applied, WriteAnswer::Refused(ErrorCode::Stopping)]);
    assert!(!shard.is_drained(), "it closes its log first");
    bench.run();
    assert!(shard.is_drained());
}

/// A question of a peer for another core of this node used to wait for room in that core's queue, in a queue of its own that
/// nothing bounded.
#[test]
fn a_peers_question_that_finds_the_other_core_busy_is_refused() {
    let bench = Bench::new(MemDisk::new());
    let shard = open(&bench, settings(3, 2, 4)).expect("an empty disk opens");
    let connection = peer(&bench, &shard);
    bench.0.hops_full.set(true);
    let elsewhere = (0..100u8).find(|key| shard.route(&Key::plain(&[*key])).expect("a table").hop.is_some());
    let key = [elsewhere.expect("the other core owns some keys")];
    receive(&shard, connection, &write_frame(1, 1_000_000, &key));
    assert_eq!(write_answers(&bench, connection), [WriteAnswer::Refused(ErrorCode::Overloaded)]);
    assert!(shard.backlog.borrow().is_empty());
}

/// What has waited for this core beyond its deadline is not carried out: nobody waits for it any more.
#[test]
fn a_hop_that_comes_after_its_deadline_is_not_carried_out() {
    let (bench, shard) = alone();
    let connection = Connection { slot: 77, generation: 1 };
    let hop = |deadline_ns| Hop::Request {
        connection,
        from_peer: true,
        deadline_ns,
        frame: write_frame(1, 1_000, b"key"),
    };
    shard.on_hop(CoreId(1), hop(bench.now_ns()));
    assert!(!shard.engine.has_staged());
    shard.on_hop(CoreId(1), hop(bench.now_ns() + MS));
    assert!(shard.engine.has_staged());
    shard.on_batch_end();
    bench.run();
    let replies = bench.0.hops.borrow();
    let answers: Vec<_> = replies.iter().map(|(_, hop)| matches!(hop, Hop::Reply { .. })).collect();
    assert_eq!(answers, [true, true], "both are answered");
}

/// A read is no write: it is answered to the end.
#[test]
fn a_stopping_shard_still_answers_what_is_in_memory() {
    let (bench, shard) = alone();
    let connection = client(&bench, &shard);
    receive(&shard, connection, &request_frame(1, &put(b"key", b"value", Level::One)));
    shard.on_batch_end();
    bench.run();
    shard.on_stop();
    bench.frames(connection);
    receive(&shard, connection, &request_frame(2, &get(b"key", Level::One)));
    assert_eq!(bench.frames(connection).remove(0).0.kind, FrameKind::Value);
}

/// A core of two, a client of it, and a request for a key of the other core with much time.
fn beside_another() -> (Bench, Rc<Shard<Bench>>, Connection, Vec<u8>) {
    let bench = Bench::new(MemDisk::new());
    let shard = open(&bench, settings(1, 2, 4)).expect("an empty disk opens");
    let theirs = |key: &[u8; 1]| shard.route(&Key::plain(key)).expect("a table").hop.is_some();
    let key = (0..=u8::MAX).map(|byte| [byte]).find(theirs).expect("the other core owns some keys");
    let request = put(&key, b"value", Level::One);
    let frame = frame_of(request.kind(), 1, LONG_US, |out| request.encode(out));
    let from = client(&bench, &shard);
    (bench, shard, from, frame)
}

/// The other core says that the only request that hopped there is done.
fn other_core_answers(bench: &Bench, shard: &Shard<Bench>) {
    let hops = bench.0.hops.take();
    let [(core, Hop::Request { connection, .. })] = hops[..] else { panic!("one question: {hops:?}") };
    let done = Reply::Done { version: Version::default(), answered: 1, sloppy: false };
    let frame = frame_of(done.kind(), 1, 0, |out| done.encode(out));
    shard.on_hop(core, Hop::Reply { connection, frame });
}

/// What was asked of another core was no operation of this one, which ended before the answer, and its clients went without.
#[test]
fn a_core_that_stops_waits_for_what_others_owe_its_clients() {
    let (bench, shard, from, frame) = beside_another();
    receive(&shard, from, &frame);
    shard.on_stop();
    assert_eq!(drained_after(&bench, &shard, 1_000), None);
    other_core_answers(&bench, &shard);
    assert_eq!(bench.frames(from).len(), 1);
    assert!(drained_after(&bench, &shard, 100).is_some());
}

/// Not longer than for its own operations, where the other core stands still; and not for a core that has ended, or a client that has gone.
#[test]
fn a_core_that_stops_waits_for_no_answer_that_does_not_come() {
    let (bench, shard, from, frame) = beside_another();
    receive(&shard, from, &frame);
    shard.on_stop();
    let after_ms = drained_after(&bench, &shard, DRAIN_MS - 1_000).expect("it stops in order");
    assert!(after_ms >= OPEN_NS / MS, "{after_ms} ms");
    for gone in [false, true] {
        let (bench, shard, from, frame) = beside_another();
        receive(&shard, from, &frame);
        shard.on_stop();
        match gone {
            true => shard.on_closed(from),
            false => bench.0.others_ended.set(true),
        }
        assert!(drained_after(&bench, &shard, 100).is_some(), "{gone}");
    }
}

/// Peers ask for as long as they reach this core. What of that is another core's holds up no stop, also where a client's question was open there before.
#[test]
fn a_core_that_stops_waits_for_no_answer_to_a_peer() {
    let (bench, shard, from, frame) = beside_another();
    receive(&shard, from, &frame);
    other_core_answers(&bench, &shard);
    let theirs = |key: &[u8; 1]| shard.route(&Key::plain(key)).expect("a table").hop.is_some();
    let key = (0..=u8::MAX).map(|byte| [byte]).find(theirs).expect("the other core owns some keys");
    let other = peer_of(&bench, &shard, NodeId(1));
    receive(&shard, other, &write_frame(1, LONG_US, &key));
    assert_eq!(shard.questions.len(), 1);
    shard.on_stop();
    assert!(drained_after(&bench, &shard, 100).is_some());
}

/// What was for a core that had ended found its queue as if it were full, for ever: the core that had answered was stopped by the clock.
#[test]
fn an_answer_for_a_core_that_has_ended_holds_up_no_stop() {
    let (bench, shard, _, _) = beside_another();
    let ours = |key: &[u8; 1]| shard.route(&Key::plain(key)).expect("a table").hop.is_none();
    let key = (0..=u8::MAX).map(|byte| [byte]).find(ours).expect("this core owns some keys");
    let connection = Connection { slot: 9, generation: 1 };
    let (frame, deadline_ns) =
        (request_frame(1, &put(&key, b"value", Level::One)), bench.now_ns() + 1_000 * MS);
    bench.0.hops_full.set(true);
    shard.on_hop(CoreId(1), Hop::Request { connection, from_peer: false, deadline_ns, frame });
    pass(&bench, &shard, 1);
    assert!(!shard.backlog.borrow().is_empty());
    shard.on_stop();
    assert_eq!(drained_after(&bench, &shard, 100), None, "it may be busy");
    bench.0.others_ended.set(true);
    assert!(drained_after(&bench, &shard, 100).is_some());
    shard.send_hop(CoreId(1), Hop::Reply { connection, frame: vec![] });
    assert!(shard.backlog.borrow().is_empty(), "nor does one that is made later");
}

/// What belongs to a core that has ended was refused as overload, which is tried again here.
#[test]
fn a_request_for_a_core_that_has_ended_is_told_of_the_stop() {
    let (bench, shard, from, frame) = beside_another();
    bench.0.others_ended.set(true);
    receive(&shard, from, &frame);
    assert_eq!(told(&bench, from), [(1, Err(ErrorCode::Stopping))]);
}

/// Lets a core that was told to stop go on for so long at most; after how many milliseconds it has drained.
fn drained_after(bench: &Bench, shard: &Shard<Bench>, ms_max: u64) -> Option<u64> {
    (1..=ms_max).find(|_| {
        pass(bench, shard, 1);
        shard.is_drained()
    })
}

/// While one operation went on that its client gave half a minute, no hints were made, and the node was stopped by the clock: what all other writes owed to a replica that
/// stood still was owed by nobody.
#[test]
fn one_long_operation_takes_no_hints_from_all_that_is_owed() {
    let (bench, shard, second, from) = without_the_third(patient(3));
    comes(&bench, &shard, 3);
    write_and_ack(&bench, &shard, from, second, 100);
    assert_eq!((told(&bench, from).len(), shard.debts.get()), (100, 100), "the third is silent");
    let (write, read) = (put(b"long", b"value", Level::All), get(b"long", Level::All));
    for (number, request) in [(101, &write), (102, &read)] {
        let frame = frame_of(request.kind(), number, LONG_US, |out| request.encode(out));
        receive(&shard, from, &frame);
    }
    let [(at, ..)] = writes(&bench, second)[..] else { panic!("one write") };
    answer(&bench, &shard, second, at, WriteAnswer::Applied);
    shard.on_stop();
    let after_ms = drained_after(&bench, &shard, DRAIN_MS - 1_000).expect("it stops in order");
    assert!(after_ms >= OPEN_NS / MS, "{after_ms} ms: whoever answers until then is waited for");
    assert_eq!(told(&bench, from), [(101, Err(ErrorCode::Unknown)), (102, Err(ErrorCode::Timeout))]);
    assert_eq!((shard.hints_owed(), drops(&shard, DropReason::NotWritten)), (101, 0));
    drop(shard);
    let shard = open(&bench, patient(3)).expect("the same data");
    assert_eq!(shard.hints_owed(), 101);
}

/// The same of requests of many keys, a part of which another core does not answer.
#[test]
fn a_stop_waits_for_no_part_longer_than_for_anything_else() {
    let bench = Bench::new(MemDisk::new());
    let shard = open(&bench, settings(1, 2, 4)).expect("an empty disk opens");
    let from = client(&bench, &shard);
    let names: Vec<[u8; 4]> = (0..20u32).map(u32::to_le_bytes).collect();
    let entries: Vec<Entry<'_>> = names.iter().map(|name| entry(name, b"v")).collect();
    let keys: Vec<Key<'_>> = names.iter().map(|name| Key::plain(name)).collect();
    let puts = frame_of(FrameKind::MultiPut, 1, LONG_US, |out| {
        Request::encode_multi_put(Epoch(0), Level::One, 0, entries.iter().copied(), out);
    });
    let gets = frame_of(FrameKind::MultiGet, 2, LONG_US, |out| {
        Request::encode_multi_get(Epoch(0), Level::One, &keys, out);
    });
    [puts, gets].iter().for_each(|frame| receive(&shard, from, frame));
    shard.on_stop();
    let after_ms = drained_after(&bench, &shard, DRAIN_MS - 1_000).expect("it stops in order");
    assert!(after_ms >= OPEN_NS / MS, "{after_ms} ms: the other core may answer until then");
    let frames = bench.frames(from);
    let replies: Vec<Reply<'_>> =
        frames.iter().map(|(header, body)| Reply::decode(header.kind, body).expect("a reply")).collect();
    let [Reply::Values(_), Reply::Outcomes(outcomes)] = &replies[..] else { panic!("{replies:?}") };
    let in_doubt = outcomes.iter().filter(|outcome| *outcome == Outcome::Error(ErrorCode::Unknown)).count();
    assert!((1..20).contains(&in_doubt), "those that are the other core's: {in_doubt}");
}

/// While the log was closed, which takes the disk longer than a tick where it is busy, the next tick began a flush that was due. What that changed came behind the mark of
/// a closed log: a node that had stopped in order, and had said so, was found to have been killed.
#[test]
fn no_work_begins_while_a_core_that_stops_closes_its_log() {
    let bench = Bench::new(MemDisk::new());
    let small = || with_memtables_of(2, 32 * 1024);
    let shard = open(&bench, small()).expect("an empty disk opens");
    let from = client(&bench, &shard);
    for number in 0..20u64 {
        receive(
            &shard,
            from,
            &request_frame(number, &put(&number.to_le_bytes(), &[7; 8 * 1024], Level::One)),
        );
    }
    shard.on_stop();
    assert!(shard.end().is_err_and(|why| why.contains("records on their way to the log")), "given no time");
    // A tick comes between each look whether it has drained, which begins to close the log, and what that asks of the disk.
    let mut ticks = 0;
    while !shard.is_drained() {
        ticks += 1;
        assert!(ticks < 100, "it stops in order");
        // Nothing else holds it between two turns.
        let is_closing = shard.pump_runs.get();
        assert!(!is_closing || shard.engine.next_job().is_none(), "no work is offered behind the end");
        bench.0.now_ns.set(bench.now_ns() + TEND_INTERVAL_NS);
        shard.on_timer(bench.now_ns());
        bench.run();
    }
    assert_eq!(shard.end(), Ok(()));
    assert!(shard.engine.stats().frozen_bytes > 0, "a flush was due");
    drop(shard);
    let shard = open(&bench, small()).expect("the same data");
    assert!(shard.was_closed_in_order());
}

/// A core whose engine was behind when it was told to stop, and which compacts no more from then on, waited for room that did not come until it was stopped by the clock.
#[test]
fn what_finds_no_room_in_a_core_that_stops_is_refused_in_its_time() {
    let bench = Bench::new(MemDisk::new());
    let shard = open(&bench, soon_behind()).expect("an empty disk opens");
    let from = client(&bench, &shard);
    let value = [7; 8 * 1024];
    let mut number = 0u64;
    while shard.waiting.borrow().is_empty() || shard.engine.has_staged() {
        number += 1;
        assert!(number < 1_000, "level 0 is full in the end");
        let key = number.to_le_bytes();
        let request = put(&key, &value, Level::One);
        receive(&shard, from, &frame_of(request.kind(), number, LONG_US, |out| request.encode(out)));
        pass(&bench, &shard, 50);
    }
    bench.frames(from);
    shard.on_stop();
    let after_ms = drained_after(&bench, &shard, DRAIN_MS - 1_000).expect("it stops in order");
    assert!(after_ms >= OPEN_NS / MS, "{after_ms} ms: until then there may be room");
    let told = told(&bench, from);
    assert!(!told.is_empty() && told.iter().all(|(_, told)| *told == Err(ErrorCode::Stopping)), "{told:?}");
    assert_eq!(shard.end(), Ok(()));
}

/// Peers go on reading, too, and a disk that always has one more read for them to do never rests.
#[test]
fn a_stopping_shard_reads_nothing_for_peers() {
    let bench = Bench::new(MemDisk::new());
    let shard = open(&bench, settings(3, 1, 2)).expect("an empty disk opens");
    let connection = peer(&bench, &shard);
    let read = |number| {
        let key = Key::plain(b"key");
        let message = PeerMessage::ReplicaRead { want: ReadWant::Full, vnode_epoch: Epoch(1), key };
        receive(&shard, connection, &message_frame(number, 1_000_000, &message));
        let (header, body) = bench.frames(connection).remove(0);
        match PeerMessage::decode(header.kind, &body) {
            Ok(PeerMessage::ReplicaReadAnswer(ReplicaAnswer::Refused(code))) => Some(code),
            Ok(PeerMessage::ReplicaReadAnswer(_)) => None,
            other => panic!("{other:?} is no answer to a read"),
        }
    };
    assert_eq!(read(1), None);
    shard.on_stop();
    assert_eq!(read(2), Some(ErrorCode::Stopping));
}

/// A flush takes as long as the disk does, and no stop needs it: what it would write is in the log.
#[test]
fn a_core_that_stops_begins_no_work_that_nobody_waits_for() {
    let bench = Bench::new(MemDisk::new());
    let small = || with_memtables_of(1, 16 * 1024);
    let shard = open(&bench, small()).expect("an empty disk opens");
    let from = client(&bench, &shard);
    // One group, and no more than fits it.
    for number in 0..4u64 {
        receive(
            &shard,
            from,
            &request_frame(number, &put(&number.to_le_bytes(), &[7; 8 * 1024], Level::One)),
        );
    }
    assert!(shard.waiting.borrow().is_empty());
    let before = shard.engine.stats().flushes;
    shard.on_stop();
    assert!(drained_after(&bench, &shard, 100).is_some());
    let stats = shard.engine.stats();
    assert!(stats.frozen_bytes > 0, "a flush was due");
    assert_eq!(stats.flushes, before);
    assert!(told(&bench, from).iter().all(|(_, told)| told.is_ok()));
    drop(shard);
    assert!(open(&bench, small()).expect("the same data").was_closed_in_order());
}

/// What was owed when a core stopped while its engine was behind found no room, and was given up, though a flush that was due and had not begun would have made it.
#[test]
fn a_core_that_stops_makes_room_for_what_it_owes() {
    let mut settings = patient(3);
    settings.engine.memtable_bytes = 32 * 1024;
    let (bench, shard, second, from) = without_the_third(settings);
    comes(&bench, &shard, 3);
    write_and_ack(&bench, &shard, from, second, 20);
    assert_eq!((told(&bench, from).len(), shard.debts.get()), (20, 20), "the third is silent");
    // While a job runs that takes long, others write until memory is spent, and give up what waits then.
    shard.job_runs.set(true);
    let other = peer_of(&bench, &shard, NodeId(2));
    for number in 1..1_000u64 {
        let (name, value) = (number.to_le_bytes(), [7; 8 * 1024]);
        let version = Version { order: Order(5), ..Version::default() };
        let (vnode_epoch, key) = (Epoch(1), Key::plain(&name));
        let message = PeerMessage::ReplicaWrite { vnode_epoch, key, version, value: &value };
        receive(&shard, other, &message_frame(number, LONG_US, &message));
        pass(&bench, &shard, 50);
        if !shard.waiting.borrow().is_empty() && !shard.engine.has_staged() {
            break;
        }
    }
    let waiting = shard.waiting.borrow_mut().take_all();
    assert_eq!(waiting.len(), 1, "memory is spent in the end");
    waiting.into_iter().for_each(|record| shard.refuse_ack(record.ack, ErrorCode::Expired));
    shard.job_runs.set(false);
    assert_eq!((shard.hints_owed(), shard.debts.get()), (0, 20));
    shard.on_stop();
    assert!(drained_after(&bench, &shard, 1_000).is_some());
    assert_eq!((shard.hints_owed(), drops(&shard, DropReason::NotWritten)), (20, 0));
}
