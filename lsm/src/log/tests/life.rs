//! Lives: recycling, retiring, cuts that must stay cut, and files of others.

use super::*;
use crate::Directory;
use crate::mem_disk::{CrashMode, Fault};

#[test]
fn retired_segments_are_reused_and_their_groups_never_replay() {
    let disk = MemDisk::new();
    let (log, ..) = recover(&disk, options(1));
    let mut number = 1;
    for _ in 0..40 {
        write(&log, number..number + 3, 3000);
        number += 3;
        log.retire_below(Seq(number - 2));
    }
    let slots = disk.list(Directory::Core(0)).len();
    assert!(slots <= 3, "{slots} files for ten segments' worth");
    let live_from = log.segments()[0].first;
    assert!(live_from > 60);
    let (log, recovery, replayed) = recover(&disk.crash(CrashMode::All, &mut random(1)), options(2));
    let from = replayed[0].0;
    assert!(from <= live_from);
    assert_eq!(replayed, pairs(from..number));
    assert_eq!((recovery.damage, recovery.cut_tail), (vec![], None), "leftovers are not reported");
    assert_eq!(log.next_seq(), Seq(number));
}

/// Five segments stayed for good however small the data was: forty megabytes beside a small data set.
#[test]
fn a_resting_log_keeps_one_segment_ready_and_a_write_ends_its_rest() {
    let disk = MemDisk::new();
    let (log, ..) = recover(&disk, options(1));
    let trim = |log: &Log<MemDisk>| {
        while log.wants_trim() {
            block_on(log.trim()).expect("the disk works");
        }
        disk.list(Directory::Core(0)).len()
    };
    write(&log, 1..120, 3000);
    log.retire_below(Seq(119));
    let busy = trim(&log);
    assert!(busy >= 4, "the current one and three spare, not {busy}");
    log.rest();
    assert_eq!(trim(&log), busy - 2, "of three spare one is left");
    block_on(log.append_mark()).expect("the disk works");
    write(&log, 120..240, 3000);
    log.retire_below(Seq(239));
    assert_eq!(trim(&log), busy, "what comes after a rest is kept ready as before");
    let (_, recovery, replayed) = recover(&disk.crash(CrashMode::None, &mut random(1)), options(2));
    assert_eq!((recovery.damage, recovery.cut_tail), (vec![], None), "a gap is not missed");
    assert_eq!(replayed.last(), Some(&(239, 239)));
}

/// A write found no room when all of it was there, and the log was fenced. The next life showed what it had written, though nothing had made that durable,
/// and lost it with the power.
#[test]
fn what_a_life_has_replayed_outlives_a_power_cut() {
    let disk = MemDisk::new();
    let (log, ..) = recover(&disk, options(1));
    write(&log, 1..3, 10);
    disk.fail_at(0, Fault::NoSpaceAfter { blocks: usize::MAX });
    stage(&log, 3, 10).unwrap();
    assert!(block_on(log.commit()).is_err() && log.is_fenced());
    let left = disk.kill(&mut random(1));
    assert_eq!(
        recover(&left.image(CrashMode::None, &mut random(1)), options(2)).2,
        pairs(1..3),
        "not durable"
    );
    assert_eq!(recover(&left, options(2)).2, pairs(1..4));
    let (_, recovery, replayed) = recover(&left.crash(CrashMode::None, &mut random(1)), options(3));
    assert_eq!((replayed, recovery.damage), (pairs(1..4), vec![]));
}

/// The sync that was to make a new segment's name durable failed, and the process with it. The next life found the file, long enough and without a
/// group, and wrote into it what it acknowledged; its name went with the power, and all that.
#[test]
fn a_segment_whose_name_may_not_be_durable_is_made_anew() {
    let begin = |disk: &MemDisk| block_on(Log::recover(disk.clone(), 0, options(1), &mut |_, _, _, _| {}));
    let steps = {
        let whole = MemDisk::new();
        begin(&whole).unwrap();
        whole.steps()
    };
    let mut found = 0;
    for step in 0..steps {
        let disk = MemDisk::new();
        disk.fail_at(step, Fault::Io);
        assert!(begin(&disk).is_err());
        let disk = disk.kill(&mut random(1));
        found += disk.list(Directory::Core(0)).len();
        let (log, ..) = recover(&disk, options(2));
        write(&log, 1..4, 10);
        let known = LogOptions { needed: Seq(1), ..options(3) };
        let (_, recovery, replayed) = recover(&disk.crash(CrashMode::None, &mut random(1)), known);
        assert_eq!((replayed, recovery.damage), (pairs(1..4), vec![]), "step {step}");
    }
    assert!(found > 0, "a file without a header was left");
}

/// The same of the segments behind the first.
#[test]
fn a_next_segment_whose_name_may_not_be_durable_is_made_anew() {
    let disk = MemDisk::new();
    let (log, ..) = recover(&disk, options(1));
    write(&log, 1..4, 10);
    disk.fail_at(1, Fault::Io);
    assert!(block_on(log.prepare()).is_err() && log.is_fenced());
    let disk = disk.kill(&mut random(1));
    assert!(disk.read_all(segment(1)).is_some_and(|bytes| bytes.iter().all(|byte| *byte == 0)));
    // Two such files: one is for this life's first segment, and one for the next.
    disk.write_all(segment(2), &vec![0; SEGMENT as usize]);
    let (log, ..) = recover(&disk, options(2));
    write(&log, 4..60, 3000);
    let (_, recovery, replayed) = recover(&disk.crash(CrashMode::None, &mut random(1)), options(3));
    assert_eq!((replayed, recovery.damage), (pairs(1..60), vec![]));
}

/// A file stood in for the segment that there was no room to write into it. When there was, the segment in it counted as two, of which the
/// older was retired: the next segment was written over the younger.
#[test]
fn a_file_that_stood_in_for_its_own_segment_is_not_retired_under_it() {
    let blank = MemDisk::new();
    drop(recover(&blank, options(1)));
    let mut found = 0;
    for step in 0..8 {
        let disk = blank.image(CrashMode::None, &mut random(1));
        disk.fail_at(step, Fault::NoSpace);
        let opened = block_on(Log::recover(disk.clone(), 0, options(2), &mut |_, _, _, _| {}));
        let Some((log, _)) = opened.ok().filter(|(log, _)| !log.is_begun()) else { continue };
        found += 1;
        block_on(log.prepare()).unwrap();
        write(&log, 1..2, 3000);
        log.retire_below(Seq(1));
        write(&log, 2..60, 3000);
        let (_, recovery, replayed) = recover(&disk.crash(CrashMode::None, &mut random(1)), options(3));
        assert_eq!((replayed, recovery.damage), (pairs(1..60), vec![]), "step {step}");
    }
    assert!(found > 0, "a log was opened on a full disk");
}

#[test]
fn lives_follow_each_other() {
    let mut disk = MemDisk::new();
    for life in 0..6 {
        let (log, recovery, replayed) = recover(&disk, options(life));
        assert_eq!(replayed, pairs(1..1 + life * 9));
        assert_eq!((recovery.damage, recovery.cut_tail), (vec![], None));
        write(&log, 1 + life * 9..10 + life * 9, 3000);
        disk = disk.crash(CrashMode::None, &mut random(life));
    }
}

#[test]
fn an_unused_life_costs_no_file() {
    let mut disk = MemDisk::new();
    for life in 0..6 {
        recover(&disk, options(life));
        disk = disk.crash(CrashMode::None, &mut random(life));
    }
    assert_eq!(disk.list(Directory::Core(0)).len(), 1);
}

/// In periodic mode a power cut may lose a group in the middle and keep the ones after it. What is cut for that must not come back
/// when the numbers it would have had are taken by others.
#[test]
fn what_was_cut_stays_cut() {
    let periodic = LogOptions { sync: CommitlogSync::Periodic, ..options(1) };
    let disk = MemDisk::new();
    let (log, ..) = recover(&disk, periodic);
    write(&log, 1..6, 10);
    assert_eq!(log.segments()[0].bytes, 6 * 4096);
    // Groups stand in blocks 1 to 5: the third is lost.
    let mut bytes = disk.read_all(segment(0)).unwrap();
    bytes[3 * 4096..4 * 4096].fill(0);
    let disk = disk.crash(CrashMode::All, &mut random(1));
    disk.write_all(segment(0), &bytes);
    let mut expected = pairs(1..3);
    for life in 2..5 {
        let (log, recovery, replayed) = recover(&disk, LogOptions { life, ..periodic });
        assert_eq!(replayed, expected, "life {life}");
        assert_eq!(recovery.damage, []);
        assert_eq!(recovery.cut_tail.is_some(), life == 2, "reported once");
        let number = 10 * life;
        let seq = stage(&log, number, 10).unwrap();
        assert!(seq > Seq(5), "the numbers of what was cut are not used again");
        block_on(log.commit()).unwrap().unwrap();
        expected.push((seq.0, number));
    }
}

#[test]
fn a_change_of_segment_size_keeps_the_log_and_replaces_files() {
    let disk = MemDisk::new();
    let (log, ..) = recover(&disk, options(1));
    write(&log, 1..30, 3000);
    drop(log);
    let larger = LogOptions { segment_bytes: 2 * SEGMENT, ..options(2) };
    let (log, _, replayed) = recover(&disk, larger);
    assert_eq!(replayed, pairs(1..30));
    log.retire_below(Seq(30));
    write(&log, 30..120, 3000);
    log.retire_below(log.next_seq());
    write(&log, 120..180, 3000);
    let (_, recovery, replayed) = recover(&disk, options(3));
    assert_eq!(replayed.last(), Some(&(179, 179)));
    assert_eq!((recovery.damage, recovery.cut_tail), (vec![], None));
}

#[test]
fn numbers_known_from_elsewhere_are_not_given_out() {
    let disk = MemDisk::new();
    let (log, ..) = recover(&disk, options(1));
    write(&log, 1..4, 10);
    let (log, ..) = recover(&disk, LogOptions { seq_min: Seq(100), ..options(2) });
    assert_eq!(stage(&log, 7, 10), Ok(Seq(100)));
    block_on(log.commit()).unwrap();
    let (_, recovery, replayed) = recover(&disk, LogOptions { seq_min: Seq(50), ..options(3) });
    assert_eq!(replayed, [(1, 1), (2, 2), (3, 3), (100, 7)]);
    assert_eq!((recovery.damage, recovery.cut_tail), (vec![], None), "the gap was meant");
}

#[test]
fn a_rotated_segment_can_retire() {
    let disk = MemDisk::new();
    let (log, ..) = recover(&disk, options(1));
    block_on(log.rotate()).unwrap();
    assert_eq!(log.segments().len(), 1, "an empty segment is not left");
    write(&log, 1..4, 10);
    block_on(log.rotate()).unwrap();
    assert_eq!(log.segments().len(), 2);
    log.retire_below(log.next_seq());
    assert_eq!(log.segments().len(), 1);
    assert_eq!(log.bytes(), 4096);
    write(&log, 4..6, 10);
    assert_eq!(recover(&disk, options(2)).2.last(), Some(&(5, 5)));
}

#[test]
fn files_of_another_version_core_or_log_are_refused() {
    let disk = MemDisk::new();
    let (log, ..) = recover(&disk, options(1));
    write(&log, 1..3, 10);
    let bytes = disk.read_all(segment(0)).unwrap();
    let open = |disk: &MemDisk| block_on(Log::recover(disk.clone(), 0, options(2), &mut |_, _, _, _| {}));

    let twice = MemDisk::new();
    twice.write_all(segment(0), &bytes);
    twice.write_all(segment(3), &bytes);
    assert!(matches!(open(&twice).err(), Some(LogError::Twice(damage)) if damage.file == segment(3)));

    let other_core = MemDisk::new();
    other_core.write_all(FileName::Segment { core: 1, slot: 0 }, &bytes);
    let refused = block_on(Log::recover(other_core, 1, options(2), &mut |_, _, _, _| {})).err();
    assert_eq!(refused, Some(LogError::WrongCore { slot: 0, found: 0 }));

    let newer = MemDisk::new();
    let mut changed = bytes;
    for copy in [0, 4096 - 512] {
        changed[copy + 8] = 99;
        format::reseal(&mut changed[copy..copy + 64]);
    }
    newer.write_all(segment(0), &changed);
    assert_eq!(open(&newer).err(), Some(LogError::Version { slot: 0, found: 99 }));
    assert_eq!(newer.read_all(segment(0)).unwrap(), changed, "untouched");
}

#[cfg(feature = "planted-bugs")]
mod planted_bugs {
    use super::*;
    use crate::planted::{Bug, plant};

    struct Planted;

    impl Planted {
        fn new(bug: Bug) -> Planted {
            plant(Some(bug));
            Planted
        }
    }

    impl Drop for Planted {
        fn drop(&mut self) {
            plant(None);
        }
    }

    #[test]
    fn ack_before_sync_loses_what_was_acknowledged() {
        let _planted = Planted::new(Bug::AckBeforeSync);
        let disk = MemDisk::new();
        let (log, ..) = recover(&disk, options(1));
        write(&log, 1..4, 10);
        assert_eq!(recover(&disk.crash(CrashMode::None, &mut random(1)), options(2)).2, []);
    }

    #[test]
    fn stale_groups_replay_and_take_the_numbers_back() {
        let disk = MemDisk::new();
        let (log, ..) = recover(&disk, options(1));
        write(&log, 1..16, 10);
        block_on(log.rotate()).unwrap();
        log.retire_below(Seq(16));
        write(&log, 16..20, 10);
        block_on(log.rotate()).unwrap();
        write(&log, 20..23, 10);
        let disk = disk.crash(CrashMode::None, &mut random(1));
        let clean = disk.image(CrashMode::None, &mut random(1));
        assert_eq!(recover(&clean, options(2)).0.next_seq(), Seq(23));
        let _planted = Planted::new(Bug::StaleSegmentReplayed);
        let (log, _, replayed) = recover(&disk, options(2));
        assert!(replayed.contains(&(10, 10)) && log.next_seq() < Seq(23), "{replayed:?}");
        // The new life takes what it replayed last for the end: what was acknowledged after that is gone next time.
        plant(None);
        assert!(!recover(&disk, options(3)).2.contains(&(22, 22)));
    }
}
