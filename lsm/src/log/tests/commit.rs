//! Staging, committing, marks, and what fences the log.

use std::pin::pin;

use super::*;
use crate::mem_disk::run::poll_once;
use crate::mem_disk::{CrashMode, Fault};

#[test]
fn what_is_committed_comes_back_in_order() {
    let disk = MemDisk::new();
    let (log, recovery, _) = recover(&disk, options(1));
    assert!(recovery.fresh);
    for number in 1..=5 {
        assert_eq!(stage(&log, number, 100), Ok(Seq(number)));
    }
    let group = block_on(log.commit()).unwrap().unwrap();
    assert_eq!((group.first_seq(), group.last_seq(), group.len()), (Seq(1), Seq(5), 5));
    assert_eq!(group.iter().map(|(seq, ..)| seq.0).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    drop(group);
    assert!(block_on(log.commit()).unwrap().is_none());
    write(&log, 6..60, 3000);
    assert!(log.segments().len() > 2);
    let (log, recovery, replayed) = recover(&disk.crash(CrashMode::None, &mut random(1)), options(2));
    assert_eq!(replayed, pairs(1..60));
    assert_eq!((recovery.records, recovery.cut_tail, recovery.damage), (59, None, vec![]));
    assert_eq!(log.next_seq(), Seq(60));
}

#[test]
fn each_group_is_one_synced_write() {
    let disk = MemDisk::new();
    let (log, ..) = recover(&disk, options(1));
    let before = disk.counts();
    for group in 0..3 {
        for number in 0..4 {
            stage(&log, 1 + group * 4 + number, 10).unwrap();
        }
        block_on(log.commit()).unwrap().unwrap();
    }
    let after = disk.counts();
    assert_eq!(after.synced_writes - before.synced_writes, 3);
    assert_eq!(after.plain_writes - before.plain_writes, 0);
    assert_eq!(after.written_bytes - before.written_bytes, 3 * 4096);
}

#[test]
fn a_commit_waits_for_its_write_and_the_next_group_fills_meanwhile() {
    let disk = MemDisk::new();
    let (log, ..) = recover(&disk, options(1));
    disk.defer();
    stage(&log, 1, 10).unwrap();
    let mut first = pin!(log.commit());
    assert!(poll_once(first.as_mut()).is_none());
    stage(&log, 2, 10).unwrap();
    stage(&log, 3, 10).unwrap();
    let mut second = pin!(log.commit());
    assert!(poll_once(second.as_mut()).is_none());
    assert_eq!(disk.in_flight(None).len(), 1, "one group in flight");
    assert_eq!(log.synced_seq(), Seq(0));
    disk.complete_all();
    assert_eq!(poll_once(first.as_mut()).unwrap().unwrap().unwrap().last_seq(), Seq(1));
    assert_eq!(log.synced_seq(), Seq(1));
    assert!(poll_once(second.as_mut()).is_none());
    disk.complete_all();
    assert_eq!(poll_once(second.as_mut()).unwrap().unwrap().unwrap().len(), 2);
}

#[test]
fn staging_is_bounded_by_two_buffers() {
    let disk = MemDisk::new();
    let (log, ..) = recover(&disk, options(1));
    assert_eq!(stage(&log, 1, GROUP), Err(StageError::TooLarge));
    let mut number = 0;
    while stage(&log, number + 1, 1000).is_ok() {
        number += 1;
    }
    assert_eq!(number, 15);
    assert_eq!(stage(&log, number + 1, 1000), Err(StageError::Full));
    let first = block_on(log.commit()).unwrap().unwrap();
    stage(&log, number + 1, 10).unwrap();
    let second = block_on(log.commit()).unwrap().unwrap();
    assert_eq!(stage(&log, number + 2, 10), Err(StageError::Full), "both buffers are being applied");
    drop(first);
    assert_eq!(stage(&log, number + 2, 10), Ok(Seq(number + 2)));
    assert_eq!(disk.buffer_bytes(Class::Log), 2 * GROUP);
    drop(second);
}

#[test]
fn failed_and_short_writes_fence_for_good() {
    for fault in [Fault::Io, Fault::Short] {
        let disk = MemDisk::new();
        let (log, ..) = recover(&disk, options(1));
        write(&log, 1..3, 10);
        stage(&log, 3, 9000).unwrap();
        disk.fail_at(0, fault);
        assert_eq!(block_on(log.commit()).unwrap_err(), CommitError::Fenced, "{fault:?}");
        assert!(log.is_fenced());
        assert_eq!(stage(&log, 4, 10), Err(StageError::Fenced));
        assert_eq!(block_on(log.commit()).unwrap_err(), CommitError::Fenced);
        assert_eq!(block_on(log.append_mark()).unwrap_err(), CommitError::Fenced);
        let (_, recovery, replayed) = recover(&disk.crash(CrashMode::None, &mut random(1)), options(2));
        assert_eq!(replayed, pairs(1..3));
        assert_eq!(recovery.damage, []);
    }
}

/// A file system may find no space even for what was set aside. As long as nothing was written, nothing is in doubt.
#[test]
fn a_group_that_found_no_space_never_was() {
    let disk = MemDisk::new();
    let (log, ..) = recover(&disk, options(1));
    write(&log, 1..3, 10);
    for _ in 0..3 {
        stage(&log, 90, 9000).unwrap();
        disk.fail_at(0, Fault::NoSpace);
        assert!(matches!(block_on(log.commit()), Err(CommitError::NoSpace(_))));
        assert!(!log.has_staged() && !log.is_fenced());
    }
    disk.fail_at(0, Fault::NoSpace);
    assert!(matches!(block_on(log.append_mark()), Err(CommitError::NoSpace(_))));
    write(&log, 3..6, 10);
    stage(&log, 90, 10).unwrap();
    assert_eq!(fail_with_no_space(&disk, &log, None), CommitError::NoSpace(no_space()));
    assert!(!log.has_staged(), "what was staged behind it goes with it");
    assert_eq!(log.next_seq(), Seq(6));
    let (_, recovery, replayed) = recover(&disk.crash(CrashMode::None, &mut random(1)), options(2));
    assert_eq!((replayed, recovery.damage, recovery.cut_tail), (pairs(1..6), vec![], None));
}

/// The look at what is there took a buffer of its own: where none was left just then, a full disk fenced the core.
#[test]
fn a_group_that_found_no_space_is_looked_for_without_another_buffer() {
    let disk = MemDisk::new();
    let (log, ..) = recover(&disk, options(1));
    write(&log, 1..3, 10);
    disk.limit_buffers(Class::Log, disk.buffer_bytes(Class::Log));
    for len in [9000, 10] {
        stage(&log, 90, len).unwrap();
        disk.fail_at(0, Fault::NoSpace);
        assert!(matches!(block_on(log.commit()), Err(CommitError::NoSpace(_))), "{len} bytes");
        assert!(!log.has_staged() && !log.is_fenced());
    }
    // The buffer has its whole length again.
    write(&log, 3..6, 9000);
    let (_, recovery, replayed) = recover(&disk.crash(CrashMode::None, &mut random(1)), options(2));
    assert_eq!((replayed, recovery.damage, recovery.cut_tail), (pairs(1..6), vec![], None));
}

/// The write says that there was no space, and the group is there: it may be found, so nothing may take its number.
#[test]
fn a_group_that_is_there_after_all_fences() {
    let twin = MemDisk::new();
    let (log, ..) = recover(&twin, options(1));
    write(&log, 1..4, 10);
    let written = twin.read_all(FileName::Segment { core: 0, slot: 0 });
    let disk = MemDisk::new();
    let (log, ..) = recover(&disk, options(1));
    write(&log, 1..3, 10);
    stage(&log, 3, 10).unwrap();
    assert_eq!(fail_with_no_space(&disk, &log, written), CommitError::Fenced);
    assert!(log.is_fenced());
}

/// A commit whose write fails for want of space, although the segment has become `written` by then. Records are staged meanwhile.
fn fail_with_no_space(disk: &MemDisk, log: &Log<MemDisk>, written: Option<Vec<u8>>) -> CommitError {
    disk.defer();
    let mut commit = pin!(log.commit());
    assert!(poll_once(commit.as_mut()).is_none());
    stage(log, 91, 10).unwrap();
    if let Some(written) = written {
        disk.write_all(FileName::Segment { core: 0, slot: 0 }, &written);
    }
    let write = disk.in_flight(None)[0].id;
    assert!(disk.fail(write, Fault::NoSpace));
    loop {
        if let Some(ended) = poll_once(commit.as_mut()) {
            return ended.expect_err("there was no space");
        }
        disk.complete_all();
    }
}

fn no_space() -> DiskError {
    let name = Some(FileName::Segment { core: 0, slot: 0 });
    DiskError { kind: DiskErrorKind::NoSpace, operation: "write", name }
}

#[test]
fn a_full_disk_refuses_and_goes_on_when_there_is_space() {
    let disk = MemDisk::new();
    let (log, ..) = recover(&disk, options(1));
    write(&log, 1..6, 12_000);
    stage(&log, 6, 12_000).unwrap();
    for _ in 0..2 {
        disk.set_full(true);
        assert!(matches!(block_on(log.commit()), Err(CommitError::NoSpace(_))));
        assert!(log.has_staged() && !log.is_fenced());
        disk.set_full(false);
        disk.fail_at(0, Fault::NoSpace);
        assert!(matches!(block_on(log.commit()), Err(CommitError::NoSpace(_))));
    }
    assert_eq!(block_on(log.commit()).unwrap().unwrap().last_seq(), Seq(6));
    assert_eq!(log.segments().iter().map(|s| s.slot).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(recover(&disk.crash(CrashMode::None, &mut random(1)), options(2)).2, pairs(1..7));
}

/// On a full disk the one file that said that there is a log was removed for another in its place, for which there was no room: the next start found no log, and
/// refused the data for good.
#[test]
fn starts_and_attempts_on_a_full_disk_leave_a_log_that_opens() {
    for segment_bytes in [SEGMENT, 2 * SEGMENT] {
        let disk = MemDisk::new();
        drop(recover(&disk, options(1)));
        let later = |life| {
            let options = LogOptions { segment_bytes, needed: Seq(3), seq_min: Seq(3), ..options(life) };
            recover(&disk, options)
        };
        disk.set_full(true);
        for life in 2..5 {
            let (log, ..) = later(life);
            if block_on(log.prepare()).is_ok() {
                assert_eq!(segment_bytes, SEGMENT, "there is a file for it");
            }
        }
        disk.set_full(false);
        let (log, ..) = later(5);
        write(&log, 1..3, 100);
        assert_eq!(later(6).2, [(3, 1), (4, 2)]);
    }
}

/// A budget that was spent refused as a full disk does, to which an operator adds a disk; and left a file that was made for nothing.
#[test]
fn a_spent_budget_is_no_full_disk_and_touches_nothing() {
    let disk = MemDisk::new();
    let (log, ..) = recover(&disk, options(1));
    write(&log, 1..6, 12_000);
    stage(&log, 6, 12_000).unwrap();
    let steps = disk.steps();
    disk.limit_buffers(Class::Log, disk.buffer_bytes(Class::Log));
    for _ in 0..3 {
        assert_eq!(block_on(log.commit()).unwrap_err(), CommitError::NoBuffer);
        assert!(log.has_staged() && !log.is_fenced());
    }
    assert_eq!(disk.steps(), steps, "the disk was not touched");
    disk.limit_buffers(Class::Log, usize::MAX);
    assert_eq!(block_on(log.commit()).unwrap().unwrap().last_seq(), Seq(6));
    assert_eq!(log.segments().iter().map(|s| s.slot).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(recover(&disk.crash(CrashMode::None, &mut random(1)), options(2)).2, pairs(1..7));
}

#[test]
fn what_is_discarded_never_was() {
    let disk = MemDisk::new();
    let (log, ..) = recover(&disk, options(1));
    write(&log, 1..3, 10);
    stage(&log, 90, 10).unwrap();
    stage(&log, 91, 10).unwrap();
    log.discard_staged();
    assert!(!log.has_staged() && !log.is_fenced());
    assert_eq!(stage(&log, 3, 10), Ok(Seq(3)));
    disk.defer();
    {
        let mut commit = pin!(log.commit());
        assert!(poll_once(commit.as_mut()).is_none());
        assert_eq!(stage(&log, 92, 10), Ok(Seq(4)));
        log.discard_staged();
        disk.complete_all();
        assert_eq!(poll_once(commit.as_mut()).unwrap().unwrap().unwrap().last_seq(), Seq(3));
    }
    assert_eq!(log.next_seq(), Seq(4), "what was in flight stays");
    let left = disk.crash(CrashMode::None, &mut random(1));
    assert_eq!(recover(&left, options(2)).2, pairs(1..4));
}

#[test]
fn a_commit_dropped_in_flight_fences() {
    let disk = MemDisk::new();
    let (log, ..) = recover(&disk, options(1));
    disk.defer();
    stage(&log, 1, 10).unwrap();
    {
        let mut commit = pin!(log.commit());
        assert!(poll_once(commit.as_mut()).is_none());
    }
    assert!(log.is_fenced());
}

#[test]
fn the_next_segment_is_ready_before_it_is_needed() {
    let disk = MemDisk::new();
    let (log, ..) = recover(&disk, options(1));
    assert!(!log.wants_segment());
    write(&log, 1..4, 12_000);
    assert!(log.wants_segment());
    block_on(log.prepare()).unwrap();
    assert!(!log.wants_segment());
    let names = disk.counts().name_changes;
    write(&log, 4..8, 12_000);
    assert_eq!(log.segments().len(), 2);
    assert_eq!(disk.counts().name_changes, names, "the switch made no file");
    assert_eq!(recover(&disk.crash(CrashMode::None, &mut random(1)), options(2)).2, pairs(1..8));
}

#[test]
fn an_idle_log_marks_once() {
    let disk = MemDisk::new();
    let (log, ..) = recover(&disk, options(1));
    assert!(!log.wants_mark(), "nothing to say");
    write(&log, 1..3, 10);
    assert!(log.wants_mark());
    block_on(log.append_mark()).unwrap();
    assert!(!log.wants_mark());
    let groups = log.groups();
    assert_eq!(log.syncs(), groups, "each group is synced");
    block_on(log.append_mark()).unwrap();
    assert_eq!(log.groups(), groups);
    stage(&log, 3, 10).unwrap();
    block_on(log.append_mark()).unwrap();
    assert!(log.has_staged(), "a mark does not commit");
    block_on(log.commit()).unwrap();
    let (log, recovery, replayed) = recover(&disk, options(2));
    assert_eq!((replayed, recovery.groups), (pairs(1..4), 4));
    assert!(!log.wants_mark());
}

#[test]
fn periodic_mode_is_durable_after_its_sync_only() {
    let periodic = LogOptions { sync: CommitlogSync::Periodic, ..options(1) };
    let disk = MemDisk::new();
    let (log, ..) = recover(&disk, periodic);
    write(&log, 1..8, 12_000);
    assert!(log.segments().len() > 1);
    let segments_left = log.segments().len() as u64 - 1;
    assert_eq!(log.syncs(), segments_left);
    let synced = log.synced_seq();
    assert!(synced < Seq(7) && synced > Seq(0), "a segment is synced when it is left");
    let lost = recover(&disk.image(CrashMode::None, &mut random(1)), options(2)).2;
    assert_eq!(lost, pairs(1..synced.0 + 1));
    let killed = recover(&disk.image(CrashMode::All, &mut random(1)), options(2)).2;
    assert_eq!(killed, pairs(1..8));
    let syncs = disk.counts().syncs;
    assert_eq!(block_on(log.sync_now()), Ok(Seq(7)));
    assert_eq!(block_on(log.sync_now()), Ok(Seq(7)));
    assert_eq!(disk.counts().syncs, syncs + 1, "nothing new, nothing to sync");
    assert_eq!(log.syncs(), segments_left + 1);
    assert_eq!(recover(&disk.image(CrashMode::None, &mut random(1)), options(2)).2, pairs(1..8));
    write(&log, 8..9, 10);
    disk.fail_at(0, Fault::Io);
    assert_eq!(block_on(log.sync_now()), Err(Fenced));
    assert!(log.is_fenced());
}
