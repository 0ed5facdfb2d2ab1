//! One thing that cannot be done, however often it is tried, holds up nothing else.

use crate::rig::{
    Model, Random, TestEngine, Write, apply, check, open, open_with, run_jobs, run_jobs_on, small_options,
    stage,
};
use ferrite_lsm::mem_disk::run::{block_on, poll_once};
use ferrite_lsm::mem_disk::{MemDisk, MemPace, OpInfo, OpKind};
use ferrite_lsm::{Class, Directory, FileName, Job, NameOp, Options};

const KEYS: u64 = 80;
/// Jobs that a host finds time for between two groups.
const JOBS: usize = 6;
/// Times that a host pauses for writes that are refused.
const PAUSES_MAX: usize = 40;

/// Writes so many groups, and runs jobs as a host does, whatever fails. A write that is refused waits for jobs, not for ever.
fn write_on(engine: &TestEngine, model: &mut Model, groups: u64) {
    let mut order = model.values().map(|write| write.order).max().unwrap_or(0);
    let mut random = Random::new(order + 1);
    for _ in 0..groups {
        let group = [(); 6].map(|()| {
            order += 1;
            let (key, bytes) = (random.below(KEYS), random.below(900) as usize);
            Write { key, order, actor: order, bytes, tombstone: random.below(15) == 0 }
        });
        let mut pauses = 0;
        loop {
            // What was staged before comes twice, which changes nothing.
            let are_staged = group.iter().all(|write| stage(engine, write).is_ok());
            if block_on(engine.commit()).is_ok() && are_staged {
                break;
            }
            pauses += 1;
            assert!(pauses < PAUSES_MAX, "writes are refused for good: {:?}", engine.stats());
            block_on(run_jobs_on(engine, JOBS));
        }
        group.into_iter().for_each(|write| apply(model, write));
        block_on(run_jobs_on(engine, JOBS));
    }
}

fn tables(disk: &MemDisk) -> Vec<FileName> {
    let stores = [Directory::Store(3), Directory::Store(5)];
    let files = stores.iter().flat_map(|&store| disk.list(store)).map(|(name, _)| name);
    files.filter(|name| matches!(name, FileName::Table { .. })).collect()
}

fn segments(disk: &MemDisk) -> Vec<FileName> {
    let files = disk.list(Directory::Core(0)).into_iter().map(|(name, _)| name);
    files.filter(|name| matches!(name, FileName::Segment { .. })).collect()
}

/// A table that could not be unlinked was all that a core went on trying: nothing was flushed or merged any more, and from some moment
/// on each write was refused.
#[test]
fn a_table_that_cannot_be_unlinked_holds_up_nothing_else() {
    let disk = MemDisk::new();
    let (engine, _) = open(&disk, small_options(1)).expect("a fresh disk");
    let mut model = Model::new();
    write_on(&engine, &mut model, 40);
    let stuck = tables(&disk);
    assert!(!stuck.is_empty());
    stuck.iter().for_each(|table| disk.stick(*table));
    let before = engine.stats();
    write_on(&engine, &mut model, 200);
    let after = engine.stats();
    assert!(after.flushes > before.flushes + 5 && after.compactions > before.compactions + 5, "{after:?}");
    check(&engine, &model, KEYS);
    assert!(block_on(run_jobs_on(&engine, 40)) > 0, "it is tried again");
    // Others are unlinked all the while.
    let named = engine.stats().tables.iter().sum::<u64>() as usize;
    assert!(tables(&disk).len() <= named + stuck.len(), "{named} tables of {:?}", tables(&disk));
    assert!(tables(&disk).len() > named);
    disk.heal();
    block_on(run_jobs(&engine)).expect("it can be unlinked");
    assert_eq!(tables(&disk).len(), named);
}

/// The log's files come first in a sweep, and one that could not be unlinked ended it.
#[test]
fn a_log_segment_that_cannot_be_unlinked_keeps_no_table_from_it() {
    let disk = MemDisk::new();
    let mut options = small_options(1);
    // Nothing is flushed for its size, so each life leaves a segment.
    options.memtable_bytes = 64 << 20;
    let mut model = Model::new();
    for life in 0..6 {
        options.entropy = 10 + life;
        let (engine, _) = open(&disk, options.clone()).expect("no faults");
        write_on(&engine, &mut model, 1);
    }
    let orphan = FileName::Table { store: 3, number: 999 };
    disk.write_all(orphan, &[7; 8192]);
    let (engine, _) = open(&disk, small_options(2)).expect("an orphan is no damage");
    block_on(engine.checkpoint(1)).expect("no faults");
    let oldest = segments(&disk)[0];
    disk.stick(oldest);
    let swept = block_on(engine.run(engine.next_job().expect("there is something to sweep")));
    assert_eq!(swept.map_err(|error| error.name), Err(Some(oldest)));
    assert!(!tables(&disk).contains(&orphan));
    disk.heal();
    block_on(run_jobs(&engine)).expect("it can be unlinked");
    assert!(!segments(&disk).contains(&oldest));
    check(&engine, &model, KEYS);
}

/// Without room for a log segment, making one failed for ever and went before the flush that would have freed an old one for it; and what
/// an attempt had left behind was taken for the slot to use next, though it had no file.
#[test]
fn a_log_segment_for_which_there_is_no_room_takes_the_place_of_an_old_one() {
    let disk = MemDisk::new();
    let options = small_options(1);
    let segment_bytes = options.log.segment_bytes;
    let (engine, _) = open(&disk, options).expect("a fresh disk");
    let mut model = Model::new();
    while segments(&disk).len() < 3 {
        write_on(&engine, &mut model, 1);
    }
    disk.limit_zeroed(segment_bytes - 1);
    let before = engine.stats();
    write_on(&engine, &mut model, 300);
    let after = engine.stats();
    assert!(after.log_written_bytes - before.log_written_bytes > 6 * segment_bytes);
    assert!(after.flushes > before.flushes + 5 && after.compactions > before.compactions + 5, "{after:?}");
    assert_eq!(segments(&disk).len(), 3, "none was made");
    check(&engine, &model, KEYS);
    drop(engine);
    let (engine, recovery) = open(&disk.kill(&mut || 0), small_options(2)).expect("no fault");
    assert_eq!(recovery.damage, []);
    check(&engine, &model, KEYS);
}

/// A file under a number near the end of all was counted on from: the manifest that said so was refused at the next start.
#[test]
fn an_orphan_with_a_number_that_nobody_minted_is_removed_and_not_counted_on_from() {
    // Half of all numbers is what a manifest may say that is next.
    for number in [(1 << 47) - 1, 1 << 47, (1 << 48) - 1] {
        let disk = MemDisk::new();
        let (engine, _) = open(&disk, small_options(1)).expect("a fresh disk");
        let mut model = Model::new();
        write_on(&engine, &mut model, 30);
        drop(engine);
        for orphan in [FileName::Table { store: 3, number }, FileName::Values { store: 5, number }] {
            disk.write_all(orphan, &[7; 8192]);
            let (engine, _) = open(&disk, small_options(2)).expect("an orphan is no damage");
            let before = engine.stats().flushes;
            write_on(&engine, &mut model, 60);
            assert!(engine.stats().flushes > before);
            block_on(run_jobs(&engine)).expect("no faults");
            assert_eq!(disk.read_all(orphan), None, "it is litter all the same");
            drop(engine);
            let (engine, _) =
                open(&disk, small_options(3)).expect("the next number is one that a manifest may say");
            check(&engine, &model, KEYS);
        }
    }
}

/// Keys of a long merge.
const MANY_KEYS: u64 = 600;

fn merge_options(entropy: u128) -> Options {
    let (table_bytes, l0_tables_trigger, level_base_bytes) = (8 << 10, 4, 1 << 20);
    let cache_bytes = 4 << 20;
    Options { table_bytes, l0_tables_trigger, level_base_bytes, cache_bytes, ..small_options(entropy) }
}

/// An engine of which a merge is due that reads many tables, one after the other.
fn long_merge() -> (MemDisk, TestEngine, Model, Job) {
    /// Tables below level 0 from which on it is long.
    const TABLES: u64 = 16;
    /// More than are needed for those.
    const WRITES_MAX: u64 = 10_000;
    let disk = MemDisk::new();
    let (engine, _) = open(&disk, merge_options(1)).expect("a fresh disk");
    let (mut random, mut model) = (Random::new(3), Model::new());
    let mut is_long = false;
    for order in 1..WRITES_MAX {
        let (key, bytes) = (random.below(MANY_KEYS), random.below(900) as usize);
        let write = Write { key, order, actor: order, bytes, tombstone: false };
        stage(&engine, &write).expect("flushes keep up");
        block_on(engine.commit()).expect("no faults");
        apply(&mut model, write);
        while let Some(job) = engine.next_job() {
            is_long = job.is_compaction() && engine.stats().tables.iter().skip(1).sum::<u64>() > TABLES;
            if is_long {
                break;
            }
            block_on(engine.run(job)).expect("no faults");
        }
        if is_long {
            break;
        }
    }
    assert!(is_long, "{:?}", engine.stats());
    drop(engine);
    let opened = block_on(open_with(&disk, MemPace::yielding(1), merge_options(2)));
    let (engine, _) = opened.expect("no faults");
    loop {
        let job = engine.next_job().expect("the merge is due");
        if job.is_compaction() {
            return (disk, engine, model, job);
        }
        block_on(engine.run(job)).expect("no faults");
    }
}

/// A thousand waits for a buffer ended a merge, though each was short: where buffers are few, a long one never came to its end.
#[test]
fn a_merge_that_waits_for_buffers_often_and_never_long_comes_to_its_end() {
    const WAITS: usize = 8;
    /// Fewer than a merge waits in a row.
    const POLLS: usize = 900;
    let (disk, engine, model, merge) = long_merge();
    let mut merge = Box::pin(engine.run(merge));
    for _ in 0..WAITS {
        disk.limit_buffers(Class::Background, usize::MAX);
        assert_eq!(poll_once(merge.as_mut()), None, "it has more to read");
        disk.limit_buffers(Class::Background, 0);
        for _ in 0..POLLS {
            assert_eq!(poll_once(merge.as_mut()), None);
        }
    }
    disk.limit_buffers(Class::Background, usize::MAX);
    block_on(merge).expect("no wait was long");
    assert_eq!(engine.stats().compactions, 1);
    check(&engine, &model, MANY_KEYS);
}

/// The first table that was finished, and found no buffer to be opened with at once, ended the merge that wrote it.
#[test]
fn a_merge_waits_for_a_buffer_to_open_what_it_has_written() {
    let (disk, engine, model, merge) = long_merge();
    disk.defer();
    let mut merge = Box::pin(engine.run(merge));
    let mut opened = 0;
    let merged = loop {
        if let Some(merged) = poll_once(merge.as_mut()) {
            break merged;
        }
        // What comes next is the opening.
        let last = |op: &OpInfo| matches!(op.kind, OpKind::Names(NameOp::SyncDirectory(Directory::Store(_))));
        if disk.in_flight(None).iter().any(last) {
            disk.limit_buffers(Class::Background, 0);
            for _ in 0..20 {
                disk.complete_all();
                assert_eq!(poll_once(merge.as_mut()), None);
            }
            disk.limit_buffers(Class::Background, usize::MAX);
            opened += 1;
        }
        disk.complete_all();
    };
    merged.expect("buffers came back");
    assert!(opened > 4, "{opened} tables");
    assert_eq!(engine.stats().compactions, 1);
    drop(merge);
    drop(engine);
    let (engine, _) = open(&disk.kill(&mut || 0), merge_options(3)).expect("no faults");
    check(&engine, &model, MANY_KEYS);
}
