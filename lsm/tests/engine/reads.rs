//! What reads ask of the disk: nothing for nearly all keys that are not there, each block once, and many blocks at a time.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;

use crate::rig::{Random, TestEngine, key, open, open_with, run_jobs, small_options};
use ferrite_lsm::mem_disk::run::{block_on, poll_once};
use ferrite_lsm::mem_disk::{CrashMode, MemDisk, MemPace, OpKind};
use ferrite_lsm::{
    Directory, Disk, FileName, Found, NameOp, OpenError, Options, ReadError, Record, RecordFlags, Refusal,
    Strategy,
};

const KEYS: u64 = 20_000;

type Reading = Pin<Box<dyn Future<Output = Result<Option<Found>, ReadError>>>>;

fn options(entropy: u128, strategy: Strategy) -> Options {
    let mut options = small_options(entropy);
    options.cache_bytes = 16 << 20;
    options.table_bytes = 128 << 10;
    options.level_base_bytes = 128 << 10;
    options.strategy = strategy;
    options
}

/// Options under which there are many tables.
fn small_tables(entropy: u128) -> Options {
    Options { table_bytes: 16 << 10, ..options(entropy, Strategy::Leveled) }
}

fn value(n: u64) -> Vec<u8> {
    n.to_le_bytes().repeat(5)
}

/// A disk with [`KEYS`] keys, nearly all in tables.
fn filled(strategy: Strategy) -> MemDisk {
    filled_with(options(1, strategy))
}

fn filled_with(options: Options) -> MemDisk {
    let (disk, mut random) = (MemDisk::new(), Random::new(7));
    let (engine, _) = open(&disk, options).expect("a fresh disk");
    // In no order of the keys, so that tables overlap.
    for at in 0..KEYS {
        let n = at * 7919 % KEYS;
        let value = value(n);
        let record = Record { order: at + 1, actor: 1, flags: RecordFlags(0), expiry_ms: 0, value: &value };
        while let Err(refusal) = engine.stage(key(n).as_key(), record, 1) {
            assert_eq!(refusal, Refusal::Overloaded);
            block_on(engine.commit()).expect("no faults");
            block_on(run_jobs(&engine)).expect("no faults");
        }
        if at % 64 == 63 {
            block_on(engine.commit()).expect("no faults");
            block_on(run_jobs(&engine)).expect("no faults");
        }
    }
    block_on(engine.commit()).expect("no faults");
    block_on(run_jobs(&engine)).expect("no faults");
    disk.image(CrashMode::EVERY[0], &mut || random.next())
}

/// An engine with nothing in its cache, on a disk whose operations wait.
fn cold(disk: &MemDisk, strategy: Strategy) -> (MemDisk, TestEngine) {
    let disk = disk.image(CrashMode::EVERY[0], &mut || 0);
    let (engine, _) = open(&disk, options(2, strategy)).expect("a power cut is no damage");
    disk.defer();
    (disk, engine)
}

/// Reads in flight; nothing else is.
fn reads_in_flight(disk: &MemDisk) -> usize {
    let in_flight = disk.in_flight(None);
    assert!(in_flight.iter().all(|op| op.kind == OpKind::Read), "{in_flight:?}");
    in_flight.len()
}

fn start(engine: &TestEngine, n: u64) -> Reading {
    Box::pin(engine.read(key(n).as_key()))
}

fn is_value_of(n: u64, found: Result<Option<Found>, ReadError>) -> bool {
    let found = found.expect("no faults").expect("it was written");
    found.record().value == value(n)
}

/// Reads `keys`, `together` at a time; how many reads the disk did, and the most that were in flight.
fn read_all(disk: &MemDisk, engine: &TestEngine, keys: &[u64], together: usize) -> (usize, usize) {
    let (mut done, mut most) = (0, 0);
    for keys in keys.chunks(together) {
        let mut waiting: Vec<(u64, Reading)> = keys.iter().map(|&n| (n, start(engine, n))).collect();
        while !waiting.is_empty() {
            waiting.retain_mut(|(n, reading)| match poll_once(reading.as_mut()) {
                Some(found) => {
                    assert!(is_value_of(*n, found), "key {n}");
                    false
                }
                None => true,
            });
            most = most.max(reads_in_flight(disk));
            done += disk.complete_all();
        }
    }
    (done, most)
}

/// Every block that a merge wrote was read from the device once more, a few in a hundred of the reads that had all been answered from memory.
#[test]
fn what_is_in_use_is_still_in_memory_after_it_was_merged_and_what_is_not_stays_out() {
    for in_use in [true, false] {
        let (engine, _) =
            open(&filled(Strategy::Leveled), options(2, Strategy::Leveled)).expect("a power cut");
        // Twice: a block is in use when it is asked for again.
        for n in (0..KEYS).chain(0..KEYS).filter(|_| in_use) {
            assert!(is_value_of(n, block_on(start(&engine, n))));
        }
        for at in 0..KEYS {
            let n = at * 7919 % KEYS;
            let value = value(n);
            let order = KEYS + at + 1;
            let record = Record { order, actor: 1, flags: RecordFlags(0), expiry_ms: 0, value: &value };
            while engine.stage(key(n).as_key(), record, 1).is_err() {
                block_on(engine.commit()).expect("no faults");
                block_on(run_jobs(&engine)).expect("no faults");
            }
        }
        block_on(engine.commit()).expect("no faults");
        block_on(engine.checkpoint(1)).expect("no faults");
        block_on(run_jobs(&engine)).expect("no faults");
        let before = engine.stats();
        assert!(before.flushes > 4 && before.compactions > 2, "{before:?}");
        if !in_use {
            assert!(before.cache_bytes < 64 << 10, "{} bytes that nobody asked for", before.cache_bytes);
            continue;
        }
        for n in 0..KEYS {
            assert!(is_value_of(n, block_on(start(&engine, n))));
        }
        let missed = engine.stats().cache_misses - before.cache_misses;
        assert!(missed * 1000 < KEYS, "{missed} blocks of {KEYS} reads had to be read again");
    }
}

/// What was put into the cache for a table that then was not written is let go of.
#[test]
fn an_abandoned_output_leaves_nothing_in_the_cache() {
    let disk = filled(Strategy::Leveled);
    let (engine, _) = open(&disk, options(2, Strategy::Leveled)).expect("a power cut");
    for n in (0..KEYS).chain(0..KEYS) {
        assert!(is_value_of(n, block_on(start(&engine, n))));
    }
    let before = engine.stats().cache_bytes;
    let value = value(1);
    for n in 0..500 {
        let record = Record { order: KEYS + 1, actor: 1, flags: RecordFlags(0), expiry_ms: 0, value: &value };
        engine.stage(key(n).as_key(), record, 1).expect("there is room");
    }
    block_on(engine.commit()).expect("no faults");
    let mut flush = Box::pin(engine.checkpoint(1));
    // Into the middle of the first table.
    let mut most = before;
    while poll_once(flush.as_mut()).is_none() && engine.stats().cache_bytes < before + 8192 {
        most = most.max(engine.stats().cache_bytes);
    }
    assert!(engine.stats().cache_bytes >= before + 8192, "blocks go in while the table is written, {most}");
    drop(flush);
    block_on(engine.run(engine.next_job().expect("a sweep, before anything else"))).expect("no faults");
    assert_eq!(engine.stats().cache_bytes, before);
}

#[test]
fn keys_that_are_not_there_seldom_ask_the_disk() {
    const ABSENT: u64 = 100_000;
    for strategy in [Strategy::Leveled, Strategy::Tiered] {
        let (disk, engine) = cold(&filled(strategy), strategy);
        let stats = engine.stats();
        // Of a store's tables, one of each sorted level can hold a key, and each of level 0.
        let sources =
            stats.l0_tables_max + stats.tables.iter().skip(1).filter(|&&tables| tables > 0).count() as u64;
        assert!(sources > 0);
        let mut asked = 0;
        for n in KEYS..KEYS + ABSENT {
            let quick = engine.get(key(n).as_key(), |record| assert!(record.is_none(), "key {n}")).is_ok();
            let slow = poll_once(start(&engine, n).as_mut());
            assert_eq!(quick, slow.is_some(), "key {n}: what memory cannot answer asks the disk");
            if let Some(found) = slow {
                assert!(found.expect("no faults").is_none(), "key {n}");
            }
            asked += u64::from(!quick);
            disk.complete_all();
        }
        println!(
            "{strategy:?}: {asked} of {ABSENT} gets of absent keys asked the disk ({:.3} %), at most {sources} tables each",
            asked as f64 * 100.0 / ABSENT as f64
        );
        // A hundredth for each table that is asked, and half as much again for chance and for filters that are rounded to lines.
        assert!(asked > 0 && asked * 200 <= 3 * sources * ABSENT, "{asked} of {ABSENT}, {sources} sources");
    }
}

#[test]
fn reads_of_many_keys_overlap_and_read_each_block_once() {
    let filled = filled(Strategy::Leveled);
    let mut random = Random::new(3);
    let keys: Vec<u64> = (0..2000).map(|_| random.below(KEYS)).collect();
    let (disk, engine) = cold(&filled, Strategy::Leveled);
    let (alone, most_alone) = read_all(&disk, &engine, &keys, 1);
    let (disk, engine) = cold(&filled, Strategy::Leveled);
    let (together, most_together) = read_all(&disk, &engine, &keys, 64);
    println!(
        "{} keys: {alone} reads alone, {together} together, at most {most_together} in flight",
        keys.len()
    );
    assert_eq!(most_alone, 1);
    assert_eq!(together, alone, "a block that several wait for is read once");
    let distinct = keys.iter().collect::<BTreeSet<_>>().len();
    assert!(together < distinct, "{together} reads for {distinct} keys: blocks hold several");
    assert!(most_together > 32, "{most_together} in flight");
}

#[test]
fn reads_of_one_block_wait_for_one_read_even_if_its_reader_goes_away() {
    let (disk, engine) = cold(&filled(Strategy::Leveled), Strategy::Leveled);
    let n = (0..KEYS).find(|&n| engine.get(key(n).as_key(), |_| ()).is_err()).expect("tables hold it");
    let mut readings: Vec<Reading> = (0..8).map(|_| start(&engine, n)).collect();
    assert!(readings.iter_mut().all(|reading| poll_once(reading.as_mut()).is_none()));
    assert_eq!(reads_in_flight(&disk), 1);
    // The first leads.
    drop(readings.remove(0));
    assert!(readings.iter_mut().all(|reading| poll_once(reading.as_mut()).is_none()));
    assert!((1..=2).contains(&reads_in_flight(&disk)), "that of the reader who left, and its successor's");
    while !readings.is_empty() {
        disk.complete_all();
        readings.retain_mut(|reading| match poll_once(reading.as_mut()) {
            Some(found) => {
                assert!(is_value_of(n, found));
                false
            }
            None => true,
        });
        assert!(reads_in_flight(&disk) <= 1);
    }
}

/// What opening a core did: its result, reads in all, and the most that were in flight.
fn open_deferred(disk: &MemDisk, options: Options) -> (Result<TestEngine, OpenError>, usize, usize) {
    disk.defer();
    let mut opening = Box::pin(open_with(disk, MemPace::new(), options));
    let (mut reads, mut most) = (0, 0);
    loop {
        if let Some(opened) = poll_once(opening.as_mut()) {
            return (opened.map(|(engine, _)| engine), reads, most);
        }
        let in_flight = disk.in_flight(None).iter().filter(|op| op.kind == OpKind::Read).count();
        (reads, most) = (reads + in_flight, most.max(in_flight));
        assert!(disk.complete_all() > 0, "it waits for the disk");
    }
}

#[test]
fn tables_are_opened_together_and_what_fails_is_told_as_if_they_were_not() {
    let filled = filled_with(small_tables(1));
    let tables: Vec<FileName> = [3, 5]
        .into_iter()
        .flat_map(|store| filled.list(Directory::Store(store)))
        .map(|(name, _)| name)
        .filter(|name| matches!(name, FileName::Table { .. }))
        .collect();
    assert!(tables.len() >= 40, "{} tables", tables.len());
    let copy = || filled.image(CrashMode::EVERY[0], &mut || 0);

    let (opened, reads, most) = open_deferred(&copy(), small_tables(2));
    let engine = opened.expect("a power cut is no damage");
    println!("{} tables opened by {reads} reads, at most {most} in flight", tables.len());
    assert_eq!(most, 16, "many, and no more than their bound");
    assert!(engine.quarantined().is_empty());
    assert!(reads >= 3 * tables.len());

    // One of those opened together is damaged, and is quarantined alone.
    let damaged = copy();
    let lost = tables[tables.len() / 2];
    let bytes = damaged.read_all(lost).expect("it is there").len() as u64;
    assert!(damaged.corrupt(lost, bytes - 4000, 0xff));
    let (opened, _, _) = open_deferred(&damaged, small_tables(2));
    let quarantined = opened.expect("the others are sound").quarantined();
    assert!(!quarantined.is_empty());
    assert!(quarantined.iter().all(|range| range.file == lost), "{quarantined:?}");

    // Two are missing: the same one is told of, whichever is found out first.
    let missing = copy();
    for name in [tables[1], tables[5]] {
        block_on(missing.names(NameOp::Unlink(name))).expect("it is there");
    }
    let at_once = open(&missing, small_tables(2)).err();
    let (opened, _, _) = open_deferred(&missing, small_tables(2));
    let error = opened.err();
    assert!(matches!(error, Some(OpenError::MissingTable(_))), "{error:?}");
    assert_eq!(error, at_once);
}
