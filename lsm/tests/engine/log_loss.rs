//! A log that lacks its beginning: a missing part refuses by name, damage in place says what it lost, and nothing is lost without a word.
//!
//! The story: where every group of the oldest life in the log was missing or damaged, recovery had nothing to count from. It began with
//! what it found, the engine compared only what was replayed with what it needed, and where nothing was replayed it opened as if
//! all were well. And a start that had been refused left a new segment behind, which the next start took for the log.

use ferrite_lsm::inspect::{self, Event, Hides};
use ferrite_lsm::log::{ASIDE_SLOT_MIN, LOG_END};
use ferrite_lsm::mem_disk::run::block_on;
use ferrite_lsm::mem_disk::{CrashMode, MemDisk};
use ferrite_lsm::{Directory, Disk, FileName, NameOp, OpenError, Options, Recovery};

use crate::rig::{TestEngine, Write, key, open, run_jobs, run_jobs_on, small_options, stage};

const BLOCK: u64 = 4096;
/// Keys that each life writes, a group each.
const PER_LIFE: u64 = 5;

fn options(entropy: u128) -> Options {
    let mut options = small_options(entropy);
    // Nothing is flushed unless a test says so.
    options.memtable_bytes = 64 << 20;
    options
}

/// The same, with a log that is synced now and then.
fn periodic(entropy: u128) -> Options {
    let mut options = options(entropy);
    options.log.sync = ferrite_lsm::log::CommitlogSync::Periodic;
    options
}

fn write(engine: &TestEngine, keys: std::ops::Range<u64>) {
    for n in keys {
        stage(engine, &Write { key: n, order: n + 1, actor: 1, bytes: 10, tombstone: false })
            .expect("it fits");
        block_on(engine.commit()).expect("no fault");
    }
}

fn killed(disk: &MemDisk) -> MemDisk {
    disk.crash(CrashMode::None, &mut || 1)
}

/// A log of some lives, each of which wrote [`PER_LIFE`] keys where `writes` says so, with the lives' segments in order.
fn lives(writes: &[bool]) -> (MemDisk, Vec<FileName>) {
    let mut disk = MemDisk::new();
    let mut next = 0;
    for (life, &does_write) in writes.iter().enumerate() {
        let (engine, recovery) = open(&disk, options(life as u128 + 1)).expect("nothing is wrong yet");
        assert!(recovery.damage.is_empty() && recovery.cut_tail.is_none());
        if does_write {
            write(&engine, next..next + PER_LIFE);
            next += PER_LIFE;
        }
        drop(engine);
        disk = killed(&disk);
    }
    let segments = segments(&disk);
    (disk, segments)
}

fn segments(disk: &MemDisk) -> Vec<FileName> {
    let files = disk.list(Directory::Core(0)).into_iter().map(|(name, _)| name);
    files.filter(|name| matches!(name, FileName::Segment { .. })).collect()
}

/// Flips a bit in each group of a segment.
fn flip_groups(disk: &MemDisk, segment: FileName) {
    let bytes = disk.read_all(segment).expect("it is there");
    let groups = bytes
        .chunks(BLOCK as usize)
        .enumerate()
        .skip(1)
        .filter(|(_, block)| block.iter().any(|byte| *byte != 0));
    for (block, _) in groups {
        assert!(disk.corrupt(segment, block as u64 * BLOCK + 70, 1));
    }
}

fn spoil_header(disk: &MemDisk, segment: FileName) {
    let mut bytes = disk.read_all(segment).expect("it is there");
    bytes[..BLOCK as usize].fill(0xEE);
    disk.write_all(segment, &bytes);
}

fn remove(disk: &MemDisk, segment: FileName) {
    block_on(disk.names(NameOp::Unlink(segment))).expect("it is there");
}

fn lost(recovery: &Recovery) -> Vec<(u64, u64)> {
    recovery.damage.iter().filter_map(|damage| damage.lost).map(|(first, last)| (first.0, last.0)).collect()
}

fn present(engine: &TestEngine, keys: u64) -> Vec<u64> {
    (0..keys)
        .filter(|&n| block_on(engine.read(key(n).as_key())).expect("the disk is sound").is_some())
        .collect()
}

fn assert_missing(disk: &MemDisk, needed: u64, found: Option<u64>) {
    // A refusal changes nothing: the second one is the same, and what is put back is all that was lacking.
    for entropy in 50..53 {
        let refused = open(disk, options(entropy)).err();
        assert_eq!(refused, Some(OpenError::MissingLog { needed, found }));
    }
}

/// Opens, and expects to be told of these lost records and to find all others.
fn assert_lost(disk: &MemDisk, keys: u64, ranges: &[(u64, u64)]) {
    let (engine, recovery) = open(disk, options(60)).expect("damage in place is reported");
    assert_eq!(lost(&recovery), ranges);
    assert!(!recovery.clean && !recovery.damage.is_empty());
    let kept = |n: &u64| !ranges.iter().any(|(first, last)| (*first..=*last).contains(&(n + 1)));
    assert_eq!(present(&engine, keys), (0..keys).filter(kept).collect::<Vec<_>>());
    // New numbers are above all that were given out.
    let write = Write { key: 100, order: 1000, actor: 1, bytes: 10, tombstone: false };
    assert!(stage(&engine, &write).expect("it fits").0 > keys);
    block_on(engine.commit()).expect("no fault");
    drop(engine);
    let (engine, _) = open(&killed(disk), options(61)).expect("what was said once does not refuse later");
    assert_eq!(present(&engine, 101).last(), Some(&100));
}

#[test]
fn the_first_life_taken_away_is_missed_though_nothing_is_replayed() {
    let (disk, segments) = lives(&[true, false]);
    let whole = disk.read_all(segments[0]).expect("it is there");
    remove(&disk, segments[0]);
    assert_missing(&disk, 1, Some(PER_LIFE + 1));
    disk.write_all(segments[0], &whole);
    let (engine, recovery) = open(&disk, options(60)).expect("it is whole again");
    assert_eq!((recovery.damage, recovery.cut_tail), (vec![], None));
    assert_eq!(present(&engine, PER_LIFE).len() as u64, PER_LIFE);
}

#[test]
fn the_first_life_taken_away_is_missed_with_one_or_two_lives_after_it() {
    for after in [&[true][..], &[true, true], &[false, true], &[true, false], &[false, false]] {
        let (disk, segments) = lives(&[&[true], after].concat());
        remove(&disk, segments[0]);
        assert_missing(&disk, 1, Some(PER_LIFE + 1));
    }
}

#[test]
fn a_refused_start_without_any_log_is_refused_again() {
    let (disk, segments) = lives(&[true]);
    segments.iter().for_each(|&segment| remove(&disk, segment));
    assert_missing(&disk, 1, None);
}

#[test]
fn a_first_life_of_which_every_group_is_damaged_says_what_it_lost() {
    for after in [&[false][..], &[true], &[true, true], &[false, true], &[false, false]] {
        let (disk, segments) = lives(&[&[true], after].concat());
        flip_groups(&disk, segments[0]);
        let lives = 1 + after.iter().filter(|writes| **writes).count() as u64;
        assert_lost(&disk, lives * PER_LIFE, &[(1, PER_LIFE)]);
    }
}

#[test]
fn a_first_life_whose_header_and_groups_are_damaged_says_what_it_lost() {
    for after in [&[false][..], &[true], &[false, true]] {
        let (disk, segments) = lives(&[&[true], after].concat());
        flip_groups(&disk, segments[0]);
        spoil_header(&disk, segments[0]);
        let lives = 1 + after.iter().filter(|writes| **writes).count() as u64;
        assert_lost(&disk, lives * PER_LIFE, &[(1, PER_LIFE)]);
    }
}

#[test]
fn a_life_of_one_group_says_what_it_lost() {
    let disk = MemDisk::new();
    let (engine, _) = open(&disk, options(1)).expect("a fresh disk");
    write(&engine, 0..1);
    drop(engine);
    let disk = killed(&disk);
    drop(open(&disk, options(2)).expect("nothing is wrong yet"));
    let disk = killed(&disk);
    flip_groups(&disk, segments(&disk)[0]);
    assert_lost(&disk, 1, &[(1, 1)]);
}

#[test]
fn a_header_alone_is_not_needed() {
    for after in [&[][..], &[true], &[true, true]] {
        let (disk, segments) = lives(&[&[true], after].concat());
        spoil_header(&disk, segments[0]);
        let keys = (1 + after.len() as u64) * PER_LIFE;
        let (engine, _) = open(&disk, options(60)).expect("its groups say whose they are");
        assert_eq!(present(&engine, keys).len() as u64, keys);
    }
}

#[test]
fn the_first_group_of_a_single_life_says_what_it_lost() {
    let (disk, segments) = lives(&[true]);
    assert!(disk.corrupt(segments[0], BLOCK + 70, 1));
    assert_lost(&disk, PER_LIFE, &[(1, 1)]);
}

#[test]
fn a_single_life_of_which_nothing_can_be_read_is_a_cut_tail_or_missing() {
    let (disk, segments) = lives(&[true]);
    flip_groups(&disk, segments[0]);
    let left = disk.image(CrashMode::None, &mut || 1);
    let (_, recovery) = open(&left, options(60)).expect("nothing says that it was synced");
    assert!(recovery.cut_tail.is_some());
    spoil_header(&disk, segments[0]);
    assert_missing(&disk, 1, None);
}

/// What stands behind a gap that nothing tells of counts for nothing, though it reaches as far as the log did when it was closed: such a log is not whole.
#[test]
fn a_closed_log_that_is_cut_before_its_end_is_told_of() {
    let disk = MemDisk::new();
    let (engine, _) = open(&disk, periodic(1)).expect("a fresh disk");
    write(&engine, 0..4);
    block_on(engine.close()).expect("no fault");
    drop(engine);
    let segment = segments(&disk)[0];
    let mut bytes = disk.read_all(segment).expect("it is there");
    let mark = bytes.iter().rposition(|byte| *byte != 0).expect("it was written") / BLOCK as usize;
    bytes[mark * BLOCK as usize..][..BLOCK as usize].fill(0);
    bytes[(mark - 2) * BLOCK as usize + 100] ^= 1;
    disk.write_all(segment, &bytes);
    let (engine, recovery) = open(&disk, periodic(2)).expect("nothing says that it was synced");
    assert!(!recovery.clean && recovery.cut_tail.is_some(), "{recovery:?}");
    assert_eq!(present(&engine, 4), [0, 1]);
}

/// The last segment, taken away whole, took with it all that nothing else spoke of: an engine that had been closed opened as clean, and
/// without it.
#[test]
fn the_end_taken_away_from_a_log_that_was_closed_is_missed() {
    for flushed in [0, 2, PER_LIFE] {
        let (disk, _) = lives(&[true]);
        let (engine, _) = open(&disk, options(2)).expect("nothing is wrong yet");
        write(&engine, PER_LIFE..PER_LIFE + flushed);
        if flushed > 0 {
            block_on(engine.checkpoint(1)).expect("no fault");
        }
        write(&engine, PER_LIFE + flushed..2 * PER_LIFE);
        block_on(engine.close()).expect("no fault");
        drop(engine);
        let disk = killed(&disk);
        let last = *segments(&disk).last().expect("each life has one");
        let whole = disk.image(CrashMode::None, &mut || 1);
        let (_, recovery) = open(&whole, options(50)).expect("nothing is wrong yet");
        assert!(recovery.clean && recovery.damage.is_empty());
        remove(&disk, last);
        let mut found = Vec::new();
        let inspected = block_on(inspect::log(&disk, 0, None, &mut |event| {
            if let Event::Finding(finding) = event {
                found.push((finding.damage.what, finding.damage.expected, finding.hides.clone()));
            }
        }));
        assert_eq!(inspected.expect("buffers are there").damage, found.len() as u64);
        if flushed < PER_LIFE {
            let (first, last) = (PER_LIFE + flushed + 1, 2 * PER_LIFE);
            assert_eq!(
                found,
                [(LOG_END, last, Hides::Records { first, last })],
                "an inspection finds it, too"
            );
            let left = disk.image(CrashMode::None, &mut || 1);
            let (engine, _) = open(&left, options(70)).expect("it is told, and goes on");
            block_on(engine.checkpoint(2)).expect("no faults");
            engine.rest();
            block_on(run_jobs(&engine)).expect("no faults");
            let is_aside =
                |name: &FileName| matches!(name, FileName::Segment { slot, .. } if *slot >= ASIDE_SLOT_MIN);
            assert_eq!(segments(&left).into_iter().find(is_aside), None, "what is whole is not set aside");
        } else {
            assert_eq!(found, []);
        }
        if flushed < PER_LIFE {
            assert_lost(&disk, 2 * PER_LIFE, &[(PER_LIFE + flushed + 1, 2 * PER_LIFE)]);
        } else {
            let (engine, recovery) = open(&disk, options(60)).expect("everything is in tables");
            assert_eq!(lost(&recovery), []);
            assert_eq!(present(&engine, 2 * PER_LIFE).len() as u64, 2 * PER_LIFE);
        }
    }
}

/// The log found the file that it began in ready and the manifest found no room, so that the one on the disk went on asking for the
/// damaged part. The first sweep set that part's file aside, and no start after it found the place where it had been.
#[test]
fn what_the_manifest_on_disk_asks_for_stays_in_its_place_while_an_opening_is_put_off() {
    let (disk, segments) = lives(&[true, false]);
    flip_groups(&disk, segments[0]);
    let harmed = disk.read_all(segments[0]);
    disk.set_full(true);
    let (engine, recovery) = open(&disk, options(40)).expect("a full disk is opened all the same");
    assert_eq!(lost(&recovery), [(1, PER_LIFE)]);
    assert!(engine.stats().disk_full, "its manifest has no room");
    assert!(block_on(run_jobs_on(&engine, 16)) > 0, "nor has it later");
    assert_eq!(disk.read_all(segments[0]), harmed);
    assert_lost(&killed(&disk.image(CrashMode::All, &mut || 1)), PER_LIFE, &[(1, PER_LIFE)]);
    // With room for the manifest its turn comes.
    disk.set_full(false);
    block_on(run_jobs(&engine)).expect("there is room");
    assert_eq!(disk.read_all(segments[0]), None);
    let aside = FileName::Segment { core: 0, slot: ASIDE_SLOT_MIN };
    assert_eq!(disk.read_all(aside), harmed);
    drop(engine);
    let (_, recovery) = open(&killed(&disk), options(61)).expect("nothing in it is needed");
    assert_eq!(recovery.damage, []);
}

/// What was flushed is not needed of the log any more: of what is damaged, only the rest is lost.
#[test]
fn a_floor_above_the_first_record_counts() {
    for flushed in [2, PER_LIFE] {
        let disk = MemDisk::new();
        let (engine, _) = open(&disk, options(1)).expect("a fresh disk");
        write(&engine, 0..flushed);
        block_on(engine.checkpoint(1)).expect("no fault");
        write(&engine, flushed..PER_LIFE);
        drop(engine);
        let disk = killed(&disk);
        drop(open(&disk, options(2)).expect("nothing is wrong yet"));
        let disk = killed(&disk);
        let segment = segments(&disk)[0];
        let harmed = disk.image(CrashMode::None, &mut || 1);
        flip_groups(&harmed, segment);
        let taken = disk.image(CrashMode::None, &mut || 1);
        if segments(&disk).len() > 1 {
            remove(&taken, segment);
        }
        if flushed == PER_LIFE {
            for disk in [harmed, taken] {
                let (engine, recovery) = open(&disk, options(60)).expect("everything is in tables");
                assert_eq!(lost(&recovery), []);
                assert_eq!(present(&engine, PER_LIFE).len() as u64, PER_LIFE);
            }
        } else {
            assert_lost(&harmed, PER_LIFE, &[(flushed + 1, PER_LIFE)]);
            assert_missing(&taken, flushed + 1, Some(PER_LIFE + 1));
        }
    }
}

/// In periodic mode a power cut may take the first group of all and leave the one after it: that is a cut, and no damage.
#[test]
fn a_first_group_that_was_never_synced_is_cut_and_not_missed() {
    let disk = MemDisk::new();
    let (engine, _) = open(&disk, periodic(1)).expect("a fresh disk");
    write(&engine, 0..2);
    drop(engine);
    let disk = disk.crash(CrashMode::All, &mut || 1);
    let segment = segments(&disk)[0];
    let mut bytes = disk.read_all(segment).expect("it is there");
    bytes[BLOCK as usize..2 * BLOCK as usize].fill(0);
    disk.write_all(segment, &bytes);
    let (engine, recovery) = open(&disk, periodic(2)).expect("a power cut is no damage");
    assert!(recovery.damage.is_empty() && recovery.cut_tail.is_some());
    assert_eq!(present(&engine, 2), Vec::<u64>::new());
}
