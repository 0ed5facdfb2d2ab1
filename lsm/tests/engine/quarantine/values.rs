//! Value files that a damaged table points into.

use std::future::Future;
use std::pin::Pin;

use super::{copy, run_all, scrub_all, tables, value_files};
use crate::doubt::drive;
use crate::rig::{TestEngine, VNODES, Write, apart_options, open, run_jobs, stage};
use ferrite_lsm::mem_disk::MemDisk;
use ferrite_lsm::mem_disk::run::{block_on, poll_once};
use ferrite_lsm::{DiskError, Extent, FileName, TableName};

/// Keys of vnode 0.
const KEYS: u64 = 10;

fn put_all(engine: &TestEngine, order: u64, bytes: usize) {
    for n in 0..KEYS {
        let write = Write { key: n * u64::from(VNODES), order, actor: 1, bytes, tombstone: false };
        stage(engine, &write).expect("nothing holds writes back");
        block_on(engine.commit()).expect("no faults");
    }
}

/// Flushes what a store has in memory: nothing of the table is there, whose drop freezes it.
fn flush(engine: &TestEngine) {
    block_on(engine.drop_extent(Extent::table(0, 99))).expect("no faults");
    block_on(run_jobs(engine)).expect("no faults");
}

/// A disk with a table, damaged somewhere, the value file that it alone points into, and records in the log.
fn damaged(at: fn(u64) -> u64) -> (MemDisk, TableName) {
    let disk = MemDisk::new();
    let (engine, _) = open(&disk, apart_options(1)).expect("a fresh disk");
    put_all(&engine, 5, 400);
    flush(&engine);
    put_all(&engine, 6, 20);
    drop(engine);
    let [file @ FileName::Table { store, number }] = tables(&disk)[..] else { panic!("{:?}", tables(&disk)) };
    assert_eq!(value_files(&disk).len(), 1);
    let bytes = disk.read_all(file).expect("it is there").len() as u64;
    assert!(disk.corrupt(file, at(bytes), 0x10));
    (disk, TableName { store, number })
}

fn in_the_footer(bytes: u64) -> u64 {
    bytes - 4096 + 20
}

fn in_the_first_block(_: u64) -> u64 {
    40
}

type Doing<'a> = Pin<Box<dyn Future<Output = Result<(), DiskError>> + 'a>>;

/// Does the first so many polls long, and then both. False if it ended before that.
fn beside(disk: &MemDisk, mut one: Doing<'_>, polls: usize, mut other: Doing<'_>) -> bool {
    for _ in 0..polls {
        if poll_once(one.as_mut()).is_some() {
            return false;
        }
        disk.complete_all();
    }
    let (mut first, mut second) = (None, None);
    while first.is_none() || second.is_none() {
        first = first.or_else(|| poll_once(one.as_mut()));
        second = second.or_else(|| poll_once(other.as_mut()));
        disk.complete_all();
    }
    assert_eq!((first, second), (Some(Ok(())), Some(Ok(()))), "after {polls} polls");
    true
}

/// Of two changes that waited for each other both took a value file that nothing named any more, and the second panicked.
#[test]
fn two_changes_at_once_take_a_value_file_that_nothing_names_once() {
    let (disk, table) = damaged(in_the_footer);
    let release = async |engine: TestEngine| engine.release_quarantined(table).await.map(drop);
    let checkpoint = async |engine: TestEngine| engine.checkpoint(1).await;
    for is_checkpoint in [true, false] {
        for polls in 0.. {
            let disk = copy(&disk);
            let (engine, recovery) = open(&disk, apart_options(2)).expect("nothing else is damaged");
            assert_eq!(recovery.quarantined.len(), 1);
            disk.defer();
            let one: Doing<'_> = match is_checkpoint {
                true => Box::pin(checkpoint(engine.clone())),
                false => Box::pin(release(engine.clone())),
            };
            if !beside(&disk, one, polls, Box::pin(release(engine.clone()))) {
                assert!(polls > 2, "{polls} polls");
                break;
            }
            drive(&disk, run_jobs(&engine)).expect("no faults");
            assert_eq!((tables(&disk).contains(&table.file()), value_files(&disk)), (false, vec![]));
            drop(engine);
            open(&copy(&disk), apart_options(3)).expect("nothing is missing");
        }
    }
}

/// A value file went with the next change once the damaged table that pointed into it was gone from the store, although the table's file was
/// kept: there may be something to save in it, and its values were what there was.
#[test]
fn value_files_stay_as_long_as_the_damaged_table_that_points_into_them() {
    for at in [in_the_footer, in_the_first_block] {
        let (disk, table) = damaged(at);
        let kept = value_files(&disk);
        let are_kept = |disk: &MemDisk| kept.iter().all(|file| value_files(disk).contains(file));
        for order in 10..13 {
            let (engine, _) =
                open(&disk, apart_options(order.into())).expect("the log and the manifest are sound");
            scrub_all(&engine);
            put_all(&engine, order, 300);
            flush(&engine);
            let found = engine.quarantined();
            assert!(!found.is_empty() && found.iter().all(|found| found.file == table.file()), "{found:?}");
            assert!(tables(&disk).contains(&table.file()) && are_kept(&disk), "order {order}");
        }
        for is_release in [true, false] {
            let disk = copy(&disk);
            let (engine, recovery) = open(&disk, apart_options(20)).expect("as before");
            assert!(recovery.quarantined.iter().all(|found| !found.is_used), "merges have taken it");
            match is_release {
                true => assert_eq!(block_on(engine.release_quarantined(table)), Ok(true)),
                false => block_on(engine.drop_extent(Extent::vnode(0))).expect("no faults"),
            }
            run_all(&engine);
            assert!(!are_kept(&disk), "nothing points into it any more");
            assert_eq!(engine.quarantined(), []);
            drop(engine);
            let (engine, recovery) = open(&disk, apart_options(21)).expect("nothing is missing");
            run_all(&engine);
            assert_eq!((recovery.quarantined, tables(&disk).contains(&table.file())), (vec![], false));
        }
    }
}
