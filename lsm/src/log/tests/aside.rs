//! Files in which damage was found: kept, under another name in the end, for whoever looks into it.

use std::pin::pin;

use super::*;
use crate::Directory;
use crate::mem_disk::run::{poll_once, try_run};
use crate::mem_disk::{CrashMode, Fault};

/// A log of eight segments of which the third is damaged, recovered, and told so. The damaged segment, and what its file holds.
fn harmed() -> (MemDisk, Log<MemDisk>, LogDamage, Vec<u8>) {
    let disk = MemDisk::new();
    let (log, ..) = recover(&disk, options(1));
    write(&log, 1..120, 3000);
    let harmed = log.segments()[2];
    assert!(disk.corrupt(segment(harmed.slot), 4096 + 60, 1));
    let bytes = disk.read_all(segment(harmed.slot)).unwrap();
    let disk = disk.crash(CrashMode::None, &mut random(1));
    let (log, recovery, _) = recover(&disk, options(2));
    let told = recovery.damage[0];
    assert_eq!((recovery.damage.len(), told.damage.file), (1, segment(harmed.slot)));
    (disk, log, told, bytes)
}

fn trim(log: &Log<MemDisk>) {
    while log.wants_trim() {
        block_on(log.trim()).expect("the disk works");
    }
}

/// The slots of the files that are set aside.
fn aside(disk: &MemDisk) -> Vec<u32> {
    let files = disk.list(Directory::Core(0)).into_iter();
    let slots = files
        .filter_map(|(name, _)| if let FileName::Segment { slot, .. } = name { Some(slot) } else { None });
    slots.filter(|slot| *slot >= ASIDE_SLOT_MIN).collect()
}

/// A start reports damage in the log and asks for a copy of the file; ten seconds without a write later the file was gone.
#[test]
fn a_file_that_was_found_damaged_is_neither_written_over_nor_removed() {
    let (disk, log, told, bytes) = harmed();
    let (_, again, _) = recover(&disk.image(CrashMode::None, &mut random(1)), options(3));
    assert_eq!(again.damage, [told], "while it is needed each start says so");
    log.retire_below(Seq(120));
    write(&log, 120..180, 3000);
    assert_eq!(disk.read_all(told.damage.file), Some(bytes.clone()), "its turn came, and others were used");
    assert!(aside(&disk).is_empty());
    log.rest();
    trim(&log);
    assert_eq!(disk.read_all(told.damage.file), None);
    assert_eq!(disk.read_all(segment(ASIDE_SLOT_MIN)), Some(bytes.clone()));
    write(&log, 180..300, 3000);
    log.retire_below(Seq(299));
    trim(&log);
    assert_eq!(disk.read_all(segment(ASIDE_SLOT_MIN)), Some(bytes));
    let (_, recovery, replayed) = recover(&disk.crash(CrashMode::None, &mut random(1)), options(3));
    assert_eq!((recovery.damage, recovery.cut_tail), (vec![], None), "no recovery looks there");
    assert_eq!(replayed.last(), Some(&(299, 299)));
}

#[test]
fn the_last_few_files_that_were_set_aside_stay() {
    let disk = MemDisk::new();
    let mut number = 1;
    for life in 0..ASIDE_MAX as u64 + 3 {
        let (log, recovery, _) = recover(&disk, options(1 + life));
        assert_eq!(recovery.damage.len(), usize::from(life > 0));
        log.retire_below(Seq(number));
        trim(&log);
        write(&log, number..number + 20, 3000);
        number += 20;
        assert!(disk.corrupt(segment(log.segments()[0].slot), 2 * 4096 + 60, 1));
    }
    let first = ASIDE_SLOT_MIN + 2;
    assert_eq!(aside(&disk), (first..first + ASIDE_MAX as u32).collect::<Vec<_>>());
}

/// It has its new name for good before what is younger is used: else a power cut could bring it back, with a gap behind it.
#[test]
fn a_file_that_was_set_aside_does_not_come_back() {
    let (disk, log, told, bytes) = harmed();
    // Fifteen records a segment: the third is damaged, the fourth is reused at last.
    log.retire_below(Seq(61));
    write(&log, 120..165, 3000);
    trim(&log);
    write(&log, 165..180, 3000);
    let left = disk.crash(CrashMode::None, &mut random(1));
    assert_eq!(left.read_all(segment(ASIDE_SLOT_MIN)), Some(bytes));
    assert_eq!(left.read_all(told.damage.file), None);
    let (_, recovery, replayed) = recover(&left, options(3));
    assert_eq!((recovery.damage, recovery.cut_tail), (vec![], None));
    assert_eq!(replayed, pairs(61..180));
}

/// At each step of it the power fails, or the step does.
#[test]
fn a_file_that_is_being_set_aside_has_one_of_its_names_and_leaves_no_gap() {
    let check = |left: &MemDisk, told: LogDamage, bytes: &[u8], what: &str| {
        let names = [told.damage.file, segment(ASIDE_SLOT_MIN)];
        let is_there = |name: &&FileName| left.read_all(**name).is_some_and(|found| found == bytes);
        assert_eq!(names.iter().filter(is_there).count(), 1, "{what}");
        let (_, recovery, replayed) = recover(left, options(3));
        for found in recovery.damage {
            let is_known = found.lost.is_none() || found.lost == told.lost;
            assert!(is_known && found.damage.file == told.damage.file, "{what}: {found:?}");
        }
        assert_eq!(replayed.last(), Some(&(149, 149)), "{what}");
    };
    let ready = || {
        let (disk, log, told, bytes) = harmed();
        write(&log, 120..150, 3000);
        log.retire_below(Seq(150));
        log.rest();
        (disk, log, told, bytes)
    };
    let run = |log: &Log<MemDisk>| {
        while log.wants_trim() {
            match try_run(log.trim()) {
                Some(Ok(())) => {}
                Some(Err(_)) => continue,
                None => return,
            }
        }
    };
    let (mut steps, mut fenced) = (0, 0);
    loop {
        let (disk, log, told, bytes) = ready();
        disk.crash_at(disk.steps() + steps);
        run(&log);
        for mode in CrashMode::EVERY {
            let left = disk.image(mode, &mut random(steps));
            check(&left, told, &bytes, &format!("step {steps}, {mode:?}"));
        }
        if !disk.is_off() {
            break;
        }
        let (disk, log, told, bytes) = ready();
        disk.fail_at(steps, Fault::Io);
        run(&log);
        for mode in CrashMode::EVERY {
            let left = disk.image(mode, &mut random(steps));
            check(&left, told, &bytes, &format!("step {steps} failed, {mode:?}"));
        }
        if log.is_fenced() {
            fenced += 1;
        } else {
            assert_eq!(aside(&disk), [ASIDE_SLOT_MIN], "it is tried again");
        }
        check(&disk, told, &bytes, &format!("step {steps} failed"));
        steps += 1;
    }
    assert!(steps > 4 && fenced > 1 && fenced < steps, "{steps} steps, {fenced} of them fence");
}

/// Runs to its end what waits for a deferred disk.
fn drive<T>(disk: &MemDisk, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    loop {
        match poll_once(future.as_mut()) {
            Some(done) => return done,
            None => assert!(disk.complete_all() > 0, "it waits for nothing"),
        }
    }
}

/// What was on its way out was forgotten: what is younger was used before its name was gone for good, and a power cut brought it back,
/// with a gap behind it that passed for damage. And the number that it had got was given to the next one, which went over it.
#[test]
fn a_trim_that_is_given_up_half_way_is_gone_on_with() {
    for polls in 0..3 {
        let (disk, log, told, bytes) = harmed();
        log.retire_below(Seq(61));
        write(&log, 120..165, 3000);
        disk.defer();
        {
            let mut trim = pin!(log.trim());
            assert!(poll_once(trim.as_mut()).is_none(), "it renames");
            for _ in 0..polls {
                disk.complete_all();
                let _half_way = poll_once(trim.as_mut());
            }
        }
        disk.complete_all();
        stage_all(&disk, &log, 165..180);
        let left = disk.image(CrashMode::None, &mut random(1));
        let (_, recovery, replayed) = recover(&left, options(3));
        let is_told = |found: &LogDamage| {
            found.damage.file == told.damage.file && (found.lost.is_none() || found.lost == told.lost)
        };
        assert!(recovery.damage.iter().all(is_told), "{polls} polls: {recovery:?}");
        assert_eq!(replayed.last(), Some(&(179, 179)));
        while log.wants_trim() {
            drive(&disk, log.trim()).expect("the disk works");
        }
        let left = disk.image(CrashMode::None, &mut random(1));
        assert_eq!(aside(&left), [ASIDE_SLOT_MIN], "{polls} polls");
        assert_eq!(left.read_all(segment(ASIDE_SLOT_MIN)), Some(bytes));
        let (_, recovery, _) = recover(&left, options(3));
        assert_eq!((recovery.damage, recovery.cut_tail), (vec![], None));
    }
}

fn stage_all(disk: &MemDisk, log: &Log<MemDisk>, numbers: std::ops::Range<u64>) {
    for number in numbers {
        stage(log, number, 3000).unwrap();
        drive(disk, log.commit()).expect("the disk works");
    }
}

/// It was tried again, and believed. After a failed sync a later one says nothing of what the first should have covered.
#[test]
fn a_sync_of_names_that_fails_fences_the_log() {
    let (disk, log, ..) = harmed();
    log.retire_below(Seq(120));
    log.rest();
    disk.fail_at(1, Fault::Io);
    assert!(block_on(log.trim()).is_err());
    assert!(log.is_fenced() && !log.wants_trim());
    assert_eq!(stage(&log, 120, 10), Err(StageError::Fenced));
    // A name that cannot be changed is known to be what it was.
    let (disk, log, ..) = harmed();
    log.retire_below(Seq(120));
    log.rest();
    disk.fail_at(0, Fault::Io);
    assert!(block_on(log.trim()).is_err());
    assert!(!log.is_fenced() && log.wants_trim());
    // Where there was no room for the sync, it was not done, and is done when there is.
    disk.fail_at(1, Fault::NoSpace);
    assert!(block_on(log.trim()).is_err());
    assert!(!log.is_fenced() && log.wants_trim());
    trim(&log);
}

/// The log went by every file that was there, made a new one for each segment and let none go.
#[test]
fn a_file_that_cannot_be_set_aside_holds_up_nothing() {
    let (disk, log, told, bytes) = harmed();
    disk.stick(told.damage.file);
    let mut through = 119;
    for round in 0..10 {
        write(&log, through + 1..through + 61, 3000);
        through += 60;
        log.retire_below(Seq(through + 1));
        while log.wants_trim() && block_on(log.trim()).is_ok() {}
        let files = disk.list(Directory::Core(0)).len();
        assert!(round == 0 || files <= 10, "{files} files after round {round}");
    }
    log.rest();
    while log.wants_trim() && block_on(log.trim()).is_ok() {}
    assert_eq!(disk.list(Directory::Core(0)).len(), 3, "itself, the current one, and one for the next");
    assert_eq!(disk.read_all(told.damage.file), Some(bytes.clone()));
    // What is younger was used before it, and none of that is lost.
    let known = LogOptions { needed: Seq(through), ..options(3) };
    let (_, recovery, _) = recover(&disk.image(CrashMode::None, &mut random(1)), known);
    let is_told = |found: &LogDamage| {
        found.damage.file == told.damage.file && (found.lost.is_none() || found.lost == told.lost)
    };
    assert!(!recovery.damage.is_empty() && recovery.damage.iter().all(is_told), "{recovery:?}");
    disk.heal();
    trim(&log);
    assert_eq!(disk.read_all(segment(ASIDE_SLOT_MIN)), Some(bytes));
    assert_eq!(disk.read_all(told.damage.file), None);
}

/// One more than its slot is where no recovery looks: segments went there, and every start left them out.
#[test]
fn a_stray_file_of_the_last_slot_takes_no_write_along() {
    for byte in [0, 0xEE] {
        let disk = MemDisk::new();
        disk.write_all(segment(ASIDE_SLOT_MIN - 1), &vec![byte; SEGMENT as usize]);
        let (log, ..) = recover(&disk, options(1));
        write(&log, 1..60, 3000);
        let (log, _, replayed) = recover(&disk.crash(CrashMode::None, &mut random(1)), options(2));
        assert_eq!(replayed, pairs(1..60));
        write(&log, 60..90, 3000);
    }
}
