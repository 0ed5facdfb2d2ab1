//! Fences, syncs, and commits that are refused.

use std::cell::Cell;
use std::rc::Rc;

use ferrite_lsm::Class;
use ferrite_lsm::mem_disk::{CrashMode, Fault, MemDisk};
use ferrite_wire::{ErrorCode, Level, Reply};

use super::*;

/// Completes what is in flight until nothing is, with the bench's tasks in between.
fn let_disk_work(bench: &Bench) {
    for _ in 0..ROUNDS {
        bench.run();
        if bench.0.disk.complete_all() == 0 {
            break;
        }
    }
}

/// Writes that came while a group was in flight are staged when its sync fails. They used to stay staged: the core asked
/// for a commit after every batch, failed it, said so in the log again, and never drained.
#[test]
fn a_fenced_core_keeps_nothing_staged_and_drains() {
    let (bench, shard) = alone();
    let told = Rc::new(Cell::new(0));
    let count = told.clone();
    shard.on_fence(move || count.set(count.get() + 1));
    let connection = client(&bench, &shard);
    bench.0.disk.defer();
    receive(&shard, connection, &request_frame(1, &put(b"a", b"1", Level::One)));
    shard.on_batch_end();
    bench.run();
    receive(&shard, connection, &request_frame(2, &put(b"b", b"2", Level::One)));
    let write = bench.0.disk.in_flight(None)[0].id;
    assert!(bench.0.disk.fail(write, Fault::Io));
    let_disk_work(&bench);

    assert!(shard.is_fenced());
    assert_eq!(told.get(), 1);
    assert!(!shard.engine.has_staged(), "nothing is left that asks for a commit");
    let codes: Vec<_> = bench.frames(connection).iter().map(|(header, body)| code_of(header, body)).collect();
    assert_eq!(codes, [Some(ErrorCode::Unknown); 2]);
    receive(&shard, connection, &request_frame(3, &put(b"c", b"3", Level::One)));
    assert_eq!(code_of_last(&bench, connection), Some(ErrorCode::Fenced));
    shard.on_batch_end();
    assert_eq!(bench.run(), 0, "no pump was started");

    shard.on_stop();
    for _ in 0..4 {
        shard.is_drained();
        let_disk_work(&bench);
    }
    assert!(shard.is_drained());
}

/// The client of a write that nobody but this node holds was not told its time when the sync failed. Its next write, through a node whose clock
/// is behind, had an earlier version, and lost to the one in doubt where that was found after the restart.
#[test]
fn a_write_in_doubt_of_which_there_is_one_replica_tells_its_time() {
    let (bench, shard) = alone();
    let connection = client(&bench, &shard);
    bench.0.disk.defer();
    receive(&shard, connection, &request_frame(1, &put(b"a", b"1", Level::One)));
    let minted = shard.clock.borrow().latest();
    shard.on_batch_end();
    bench.run();
    let write = bench.0.disk.in_flight(None)[0].id;
    assert!(bench.0.disk.fail(write, Fault::Io));
    let_disk_work(&bench);
    let frames = bench.frames(connection);
    let [(header, body)] = &frames[..] else { panic!("one answer: {frames:?}") };
    assert_eq!(code_of(header, body), Some(ErrorCode::Unknown));
    assert!(minted > Order(0));
    assert_eq!(header.time, minted);
}

/// It was answered when the log had it, however late. Its client had given it up by then without having been told any time, and what that wrote next, through a node
/// whose clock is behind, lay below and was hidden though it was acknowledged.
#[test]
fn a_write_of_which_there_is_one_replica_is_in_doubt_at_its_deadline_and_tells_its_time() {
    let (bench, shard) = alone();
    let connection = client(&bench, &shard);
    bench.0.disk.defer();
    let short = put(b"a", b"1", Level::One);
    receive(&shard, connection, &frame_of(short.kind(), 1, 100_000, |out| short.encode(out)));
    let minted = shard.clock.borrow().latest();
    assert!(minted > Order(0));
    receive(&shard, connection, &request_frame(2, &put(b"b", b"2", Level::One)));
    pass(&bench, &shard, 99);
    assert!(bench.frames(connection).is_empty());
    pass(&bench, &shard, 45);
    let frames = bench.frames(connection);
    let [(header, body)] = &frames[..] else { panic!("one answer: {frames:?}") };
    let told = (header.request, code_of(header, body), header.time);
    assert_eq!(told, (RequestId(1), Some(ErrorCode::Unknown), minted));
    let_disk_work(&bench);
    let frames = bench.frames(connection);
    let [(header, body)] = &frames[..] else { panic!("one answer: {frames:?}") };
    assert_eq!(
        (header.request, code_of(header, body)),
        (RequestId(2), None),
        "the first is not answered again"
    );
    let in_flight = shard.sessions.borrow_mut().get_mut(connection).expect("open").in_flight;
    assert_eq!(in_flight, 0);
    assert_eq!(shard.acks.borrow().len(), 0);
}

/// The node ends itself when all its cores are fenced, so it must hear of every fence: also of one that no commit met.
#[test]
fn a_fence_that_background_work_found_is_told() {
    let bench = Bench::new(MemDisk::new());
    let mut settings = settings(1, 1, 2);
    settings.engine.log.sync = ferrite_lsm::log::CommitlogSync::Periodic;
    settings.sync_interval_ns = Some(100 * MS);
    let shard = open(&bench, settings).expect("an empty disk opens");
    let told = Rc::new(Cell::new(false));
    let tell = told.clone();
    shard.on_fence(move || tell.set(true));
    let connection = client(&bench, &shard);
    receive(&shard, connection, &request_frame(1, &put(b"a", b"1", Level::One)));
    shard.on_batch_end();
    bench.run();
    assert!(code_of_last(&bench, connection).is_none(), "acknowledged");
    bench.0.disk.fail_at(0, Fault::Io);
    pass(&bench, &shard, 200);
    assert!(shard.is_fenced() && told.get());
}

/// A periodic sync used to wait for the pump to rest, which under load it never does.
#[test]
fn a_periodic_sync_comes_while_the_pump_is_busy() {
    let bench = Bench::new(MemDisk::new());
    let mut settings = settings(1, 1, 2);
    settings.engine.log.sync = ferrite_lsm::log::CommitlogSync::Periodic;
    settings.sync_interval_ns = Some(100 * MS);
    // Large enough that no other segment is begun, which would sync by itself.
    settings.engine.log.segment_bytes = 4 << 20;
    let shard = open(&bench, settings).expect("an empty disk opens");
    let connection = client(&bench, &shard);
    bench.0.disk.defer();
    let syncs = || bench.0.disk.counts().data_syncs();
    let before = syncs();
    let mut number = 0;
    for _ in 0..200 {
        // A record is staged before each group completes, so the pump always finds another.
        number += 1;
        receive(&shard, connection, &request_frame(number, &put(b"a", b"1", Level::One)));
        shard.on_batch_end();
        bench.run();
        assert!(shard.pump_runs.get(), "the pump never rests in this test");
        number += 1;
        receive(&shard, connection, &request_frame(number, &put(b"a", b"1", Level::One)));
        bench.0.disk.complete_all();
        bench.0.now_ns.set(bench.now_ns() + MS);
        shard.on_timer(bench.now_ns());
        bench.run();
    }
    assert!(syncs() > before, "200 ms under load, and no sync at an interval of 100 ms");
}

/// With a log that is synced at intervals the bound of the clock counted once it was written. After a power cut an older one was found, and
/// with a clock that had been set back versions were given out a second time.
#[test]
fn no_version_is_given_out_twice_though_the_log_is_synced_at_intervals() {
    let mut settings = settings(1, 1, 2);
    settings.engine.log.sync = ferrite_lsm::log::CommitlogSync::Periodic;
    settings.sync_interval_ns = Some(3_600_000 * MS);
    settings.engine.log.segment_bytes = 4 << 20;
    let bench = Bench::new(MemDisk::new());
    let shard = open(&bench, settings.clone()).expect("an empty disk opens");
    let began_ms = bench.wall_ms();
    let connection = client(&bench, &shard);
    let mut highest = Order(0);
    for number in 1..40 {
        receive(&shard, connection, &request_frame(number, &put(b"a", b"1", Level::One)));
        pass(&bench, &shard, 100);
        highest = highest.max(order_of_last(&bench, connection));
    }
    assert!(highest.wall_ms() > began_ms + 3_000, "several bounds were needed");
    bench.0.tasks.borrow_mut().clear();
    let after = Bench::new(bench.0.disk.crash(CrashMode::None, &mut || 0));
    after.0.wall_ms.set(began_ms);
    let shard = open(&after, settings).expect("what a power cut leaves opens");
    let connection = client(&after, &shard);
    receive(&shard, connection, &request_frame(1, &put(b"a", b"1", Level::One)));
    pass(&after, &shard, 5_000);
    let frames = after.frames(connection);
    for (header, body) in &frames {
        match Reply::decode(header.kind, body).expect("a reply") {
            Reply::Done { version, .. } => assert!(version.order > highest, "{:?} again", version.order),
            Reply::Error { code, .. } => assert_eq!(code, ErrorCode::ClockDrift),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(frames.len(), 1);
}

fn order_of_last(bench: &Bench, connection: Connection) -> Order {
    let frames = bench.frames(connection);
    let (header, body) = frames.last().expect("an answer");
    match Reply::decode(header.kind, body).expect("a reply") {
        Reply::Done { version, .. } => version.order,
        other => panic!("{other:?}"),
    }
}

/// It was answered as a full disk is, which an operator cannot mend by waiting, and a client does not try again.
#[test]
fn a_spent_budget_of_log_buffers_is_answered_as_overload() {
    let (bench, shard) = alone();
    let connection = client(&bench, &shard);
    let disk = &bench.0.disk;
    let write = |number| {
        receive(&shard, connection, &request_frame(number, &put(b"a", &[7; 3000], Level::One)));
        shard.on_batch_end();
        bench.run();
        code_of_last(&bench, connection)
    };
    assert_eq!(write(1), None, "acknowledged");
    disk.limit_buffers(Class::Log, disk.buffer_bytes(Class::Log));
    // A group takes a block: a segment is full after a few.
    assert_eq!((2..200).find_map(write), Some(ErrorCode::Overloaded));
    disk.limit_buffers(Class::Log, usize::MAX);
    assert_eq!(write(200), None, "acknowledged");
}

fn code_of(header: &FrameHeader, body: &[u8]) -> Option<ErrorCode> {
    match Reply::decode(header.kind, body).expect("a reply") {
        Reply::Error { code, .. } => Some(code),
        _ => None,
    }
}

fn code_of_last(bench: &Bench, connection: Connection) -> Option<ErrorCode> {
    let frames = bench.frames(connection);
    let (header, body) = frames.last().expect("an answer");
    code_of(header, body)
}

/// A group that found no buffer refused the mark in it, and the record that waited behind it was taken alone: no further record came to bring its mark, and after
/// a restart nobody looked for it.
#[test]
fn a_mark_of_a_record_from_afar_that_was_refused_is_written_though_no_other_record_comes() {
    let bench = Bench::new(MemDisk::new());
    let shard = open(&bench, settings(2, 1, 2)).expect("an empty disk opens");
    let mark = Order::from_wall_ms(bench.wall_ms() + 3_600_000);
    shard.afar.raise(mark);
    shard.afar.refused();
    pass(&bench, &shard, 100);
    drop(shard);
    let shard = open(&bench, settings(2, 1, 2)).expect("the same data");
    assert_eq!(shard.afar.mark(), mark);
}
