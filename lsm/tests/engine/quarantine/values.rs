//! Value files that only a table named which is too damaged to be opened.

use std::future::Future;
use std::pin::Pin;

use super::{copy, tables, value_files};
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

/// A disk with a table that cannot be opened, the value file that it alone points into, and records in the log.
fn lost() -> (MemDisk, TableName) {
    let disk = MemDisk::new();
    let (engine, _) = open(&disk, apart_options(1)).expect("a fresh disk");
    put_all(&engine, 5, 400);
    flush(&engine);
    put_all(&engine, 6, 20);
    drop(engine);
    let [file @ FileName::Table { store, number }] = tables(&disk)[..] else { panic!("{:?}", tables(&disk)) };
    assert_eq!(value_files(&disk).len(), 1);
    let bytes = disk.read_all(file).expect("it is there").len() as u64;
    assert!(disk.corrupt(file, bytes - 4096 + 20, 0x10), "the footer");
    (disk, TableName { store, number })
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
    let (disk, table) = lost();
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
                assert!(polls > 3, "{polls} polls");
                break;
            }
            drive(&disk, run_jobs(&engine)).expect("no faults");
            assert_eq!((tables(&disk).contains(&table.file()), value_files(&disk)), (false, vec![]));
            drop(engine);
            open(&copy(&disk), apart_options(3)).expect("nothing is missing");
        }
    }
}
