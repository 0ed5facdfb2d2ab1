//! Tables whose checksums are right and whose keys are not in order: what a bug or a bit that flipped before it was written leaves.

#[path = "../readers/reseal.rs"]
#[allow(dead_code, reason = "of tables only here")]
mod reseal;

use std::ops::ControlFlow;

use crate::rig::{TestEngine, open, run_jobs, small_options};
use ferrite_lsm::mem_disk::MemDisk;
use ferrite_lsm::mem_disk::run::block_on;
use ferrite_lsm::{
    Class, Compression, Direction, Directory, FileName, KeyBuf, KeyRange, Options, Prefix, ReadError, Record,
    RecordFlags, ScanLimits, Table, TableName,
};

const KEYS: u64 = 400;

/// Keys of one length and a vnode, evenly spread: all blocks of their tables but the last are of one length.
fn key(n: u64) -> KeyBuf {
    let prefix = Prefix { space: 1, vnode: 0, table: 7, token: n << 40 };
    KeyBuf { prefix, partition: b"p"[..].into(), sort: Box::default() }
}

fn options(entropy: u128) -> Options {
    let mut options = small_options(entropy);
    options.table.compression = Compression::None;
    options.table_bytes = 1 << 20;
    options
}

fn put_all(engine: &TestEngine, order: u64) {
    for n in 0..KEYS {
        let record =
            Record { order, actor: 1, flags: RecordFlags(0), expiry_ms: 0, value: &[order as u8; 200] };
        while engine.stage(key(n).as_key(), record, 0).is_err() {
            block_on(engine.commit()).expect("no faults");
            block_on(run_jobs(engine)).expect("no faults");
        }
    }
    block_on(engine.commit()).expect("no faults");
    block_on(run_jobs(engine)).expect("no faults");
}

fn tables(disk: &MemDisk) -> Vec<(FileName, u64)> {
    let files = disk.list(Directory::Store(3)).into_iter();
    files.filter(|(name, _)| matches!(name, FileName::Table { .. })).collect()
}

/// Exchanges the first block of a table for its second, each with the checksum of its new place.
fn exchange_blocks(disk: &MemDisk, (file, bytes): (FileName, u64)) -> bool {
    let FileName::Table { store, number } = file else { unreachable!("tables were asked for") };
    let open = Table::open(disk.clone(), TableName { store, number }, bytes, None, Class::Read);
    let blocks = block_on(open).expect("sound").blocks();
    let mut content = disk.read_all(file).expect("it is there");
    if blocks < 3 {
        return false;
    }
    let (first, rest) = content.split_at_mut(4096);
    first.swap_with_slice(&mut rest[..4096]);
    reseal::table(&mut content);
    disk.write_all(file, &content);
    true
}

/// Merges trusted the order of what they read, and met it in an assertion: the core was gone, and gone again after each start.
#[test]
fn keys_out_of_order_under_right_checksums_are_damage_and_no_merge_panics() {
    let disk = MemDisk::new();
    let (engine, _) = open(&disk, options(1)).expect("a fresh disk");
    (1..4).for_each(|order| put_all(&engine, order));
    drop(engine);
    let exchanged = tables(&disk).into_iter().filter(|&table| exchange_blocks(&disk, table)).count();
    assert!(exchanged > 0);
    let (engine, recovery) = open(&disk, options(2)).expect("opening reads no block");
    assert_eq!(recovery.quarantined, []);
    // The keys of the blocks are not where they are looked for: that is no reason to say that they are not there.
    let mut lost = 0;
    for n in 0..KEYS {
        match block_on(engine.read(key(n).as_key())) {
            Ok(found) => assert_eq!(found.map(|found| found.record().order), Some(3), "key {n}"),
            Err(ReadError::Damage(_) | ReadError::Quarantined(_)) => lost += 1,
            Err(other) => panic!("key {n}: {other}"),
        }
    }
    assert!(lost > 0);
    let mut shown = Vec::new();
    let ended = block_on(engine.scan(
        &KeyRange::vnode(1, 0),
        Direction::Forward,
        ScanLimits::records(1000),
        |key, _| {
            shown.push(key.to_buf());
            ControlFlow::Continue(())
        },
    ));
    assert!(ended.is_err() && shown.is_sorted());
    // Merges go on, over what is right.
    for order in 4..8 {
        let mut failures = 0;
        for n in 0..KEYS {
            let value = [order as u8; 200];
            let record = Record { order, actor: 1, flags: RecordFlags(0), expiry_ms: 0, value: &value };
            while engine.stage(key(n).as_key(), record, 0).is_err() {
                block_on(engine.commit()).expect("no faults");
                while let Some(job) = engine.next_job() {
                    failures += u64::from(block_on(engine.run(job)).is_err());
                    assert!(failures < 50, "a job fails for ever");
                }
            }
        }
        block_on(engine.commit()).expect("no faults");
        while let Some(job) = engine.next_job() {
            failures += u64::from(block_on(engine.run(job)).is_err());
            assert!(failures < 50, "a job fails for ever");
        }
    }
    assert!(!engine.quarantined().is_empty(), "what was out of order is marked");
    for n in 0..KEYS {
        let found = block_on(engine.read(key(n).as_key())).expect("it is newer than what was out of order");
        assert_eq!(found.map(|found| found.record().order), Some(7), "key {n}");
    }
}

/// The keys that a table says to span are those that the manifest says, or it is not the table that was named.
#[test]
fn a_table_that_spans_other_keys_than_the_manifest_says_is_damaged() {
    let disk = MemDisk::new();
    let (engine, _) = open(&disk, options(1)).expect("a fresh disk");
    (1..4).for_each(|order| put_all(&engine, order));
    drop(engine);
    let (file, bytes) = *tables(&disk).first().expect("there is one");
    let mut content = disk.read_all(file).expect("it is there");
    let FileName::Table { store, number } = file else { unreachable!("tables were asked for") };
    let open_table = Table::open(disk.clone(), TableName { store, number }, bytes, None, Class::Read);
    let last = block_on(open_table).expect("sound").meta().largest.prefix.token;
    // Its properties are the last section.
    let at = content.windows(8).rposition(|window| window == last.to_le_bytes()).expect("its last key");
    content[at] ^= 1;
    reseal::table(&mut content);
    disk.write_all(file, &content);
    let (_, recovery) = open(&disk, options(2)).expect("the others are sound");
    let found: Vec<FileName> = recovery.quarantined.iter().map(|found| found.file).collect();
    assert_eq!(found, [file]);
}
