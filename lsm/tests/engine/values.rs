//! Gets of values that lie apart: the device is asked once for each, what changed since is seen, and what is damaged is marked.

use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;

use crate::rig::{TestEngine, VNODES, Write, key, open, run_jobs, small_options, stage};
use ferrite_lsm::mem_disk::run::{block_on, poll_once};
use ferrite_lsm::mem_disk::{CrashMode, MemDisk, OpKind};
use ferrite_lsm::{
    Compression, Direction, Directory, Extent, FileName, Found, Key, KeyRange, Miss, Options, ReadError,
    Record, ScanLimits,
};

const KEYS: u64 = 40;
/// From here on values lie apart.
const LARGE_BYTES: usize = 4096;

fn options(entropy: u128) -> Options {
    let mut options = small_options(entropy);
    options.large_value_bytes = Some(LARGE_BYTES);
    options.cache_bytes = 4 << 20;
    options.log.segment_bytes = 512 << 10;
    options.memtable_bytes = 256 << 10;
    options.table_bytes = 96 << 10;
    options
}

fn large(n: u64, order: u64) -> Write {
    Write { key: n, order, actor: 1, bytes: LARGE_BYTES + 200 * n as usize, tombstone: false }
}

fn write(engine: &TestEngine, write: &Write) {
    stage(engine, write).expect("background work keeps up");
    block_on(engine.commit()).expect("no faults");
}

/// Flushes everything.
fn settle(engine: &TestEngine) {
    for vnode in 0..VNODES {
        let extent = Extent { vnode, table: Some(99) };
        // Nothing of this table is there; its drop freezes what the store has in memory.
        block_on(engine.drop_extent(extent)).expect("no faults");
    }
    block_on(run_jobs(engine)).expect("no faults");
    assert_eq!(engine.stats().frozen_bytes, 0);
}

/// An engine with [`KEYS`] large values in files, none of which was read.
fn filled(options: Options) -> (MemDisk, TestEngine) {
    let disk = MemDisk::new();
    let (engine, _) = open(&disk, options).expect("a fresh disk");
    for n in 0..KEYS {
        write(&engine, &large(n, 1));
        block_on(run_jobs(&engine)).expect("no faults");
    }
    settle(&engine);
    (disk, engine)
}

type Seen = Option<(u64, Vec<u8>)>;

fn seen(record: Option<Record<'_>>) -> Seen {
    record.map(|record| (record.order, record.value.to_vec()))
}

fn expected(write: &Write) -> Seen {
    Some((write.order, write.value()))
}

fn get(engine: &TestEngine, n: u64) -> Result<Seen, Miss> {
    engine.get(key(n).as_key(), seen)
}

fn get_batch(engine: &TestEngine, numbers: &[u64]) -> Vec<Result<Seen, Miss>> {
    let bufs: Vec<_> = numbers.iter().map(|&n| key(n)).collect();
    let keys: Vec<Key<'_>> = bufs.iter().map(|key| key.as_key()).collect();
    let mut found = Vec::new();
    engine.get_batch(&keys, |_, record| found.push(record.map(seen)));
    found
}

fn read(engine: &TestEngine, n: u64) -> Seen {
    block_on(engine.read(key(n).as_key())).expect("no faults").and_then(|found| seen(Some(found.record())))
}

#[test]
fn a_value_is_read_once_and_then_answered_from_memory() {
    for compression in [Compression::None, Compression::Lz4] {
        let mut options = options(1);
        options.table.compression = compression;
        let (disk, engine) = filled(options);
        assert!(engine.stats().value_files > 0);
        for n in 0..KEYS {
            assert_eq!(get(&engine, n), Err(Miss), "key {n} was not read yet");
            assert_eq!(read(&engine, n), expected(&large(n, 1)), "key {n}");
        }
        let (reads, before) = (disk.counts().reads, engine.stats());
        assert_eq!((before.cached_values, before.cache_value_misses), (KEYS, KEYS));
        for n in 0..KEYS {
            assert_eq!(get(&engine, n), Ok(expected(&large(n, 1))), "key {n}");
            assert_eq!(read(&engine, n), expected(&large(n, 1)), "key {n}, by read");
        }
        let numbers: Vec<u64> = (0..KEYS).collect();
        let batch = get_batch(&engine, &numbers);
        for (&n, found) in numbers.iter().zip(batch) {
            assert_eq!(found, Ok(expected(&large(n, 1))), "key {n}, in a batch");
        }
        let after = engine.stats();
        assert_eq!(disk.counts().reads, reads, "nothing more was read, {compression:?}");
        assert_eq!(after.cache_value_hits - before.cache_value_hits, 3 * KEYS);
        assert_eq!(after.gets_cached - before.gets_cached, 2 * KEYS);
        // They are held as they are read, whatever they take in their file.
        let bytes: usize = (0..KEYS).map(|n| large(n, 1).value().len()).sum();
        assert!(after.cache_bytes >= bytes as u64, "{} of {bytes} bytes", after.cache_bytes);
    }
}

#[test]
fn a_value_that_is_a_large_part_of_the_budget_is_not_kept() {
    let (disk, engine) = filled(Options { cache_bytes: 256 << 10, ..options(1) });
    // 8 KiB, a thirty-second part, is between the lengths.
    let (short, long) = (3, KEYS - 1);
    for n in [short, long] {
        read(&engine, n);
    }
    let reads = disk.counts().reads;
    assert_eq!(get(&engine, short), Ok(expected(&large(short, 1))));
    assert_eq!(get(&engine, long), Err(Miss));
    assert_eq!(read(&engine, long), expected(&large(long, 1)));
    assert!(disk.counts().reads > reads);
    assert_eq!(engine.stats().cached_values, 1);
}

#[test]
fn values_give_way_to_each_other_within_the_budget() {
    let cache_bytes = 160 << 10;
    // All of it is for blocks and values.
    let (_disk, engine) = filled(Options { cache_bytes, record_cache_bytes: Some(0), ..options(1) });
    let mut hits = 0;
    for round in 0..6 {
        for n in 0..KEYS {
            // Half of them come every time, the others now and then.
            if n % 2 == 0 || n % 6 == round {
                hits += u64::from(get(&engine, n).is_ok());
                assert_eq!(read(&engine, n), expected(&large(n, 1)), "key {n}");
            }
            let memory = engine.stats().memory;
            assert!(memory.cache_bytes <= cache_bytes as u64, "{memory:?}");
        }
    }
    let stats = engine.stats();
    assert!(hits > 0 && stats.cached_values > 0 && stats.cached_values < KEYS, "{hits} hits, {stats:?}");
}

type Reading = Pin<Box<dyn Future<Output = Result<Option<Found>, ReadError>>>>;

#[test]
fn who_misses_the_same_value_waits_for_one_read_even_if_its_reader_goes_away() {
    let (disk, engine) = filled(options(1));
    // A block holds pointers to several values: the one of a value that was read is in memory.
    let n = (0..KEYS).find(|&n| {
        let blocks = engine.stats().cache_misses;
        get(&engine, n) == Err(Miss) && engine.stats().cache_misses == blocks || {
            read(&engine, n);
            false
        }
    });
    let n = n.expect("a value alone is not in memory");
    disk.defer();
    let start = || -> Reading { Box::pin(engine.read(key(n).as_key())) };
    let mut readings: Vec<Reading> = (0..8).map(|_| start()).collect();
    let in_flight = || disk.in_flight(None).iter().filter(|op| op.kind == OpKind::Read).count();
    let mut left = false;
    let mut most = 0;
    while !readings.is_empty() {
        let misses = engine.stats().cache_value_misses;
        readings.retain_mut(|reading| match poll_once(reading.as_mut()) {
            Some(found) => {
                let found = found.expect("no faults").expect("it was written");
                assert_eq!(seen(Some(found.record())), expected(&large(n, 1)));
                false
            }
            None => true,
        });
        most = most.max(in_flight());
        // The leader of the value's read goes.
        if !left && engine.stats().cache_value_misses > misses {
            drop(readings.remove(0));
            left = true;
            readings.iter_mut().for_each(|reading| assert!(poll_once(reading.as_mut()).is_none()));
            assert!((1..=2).contains(&in_flight()), "that of the reader who left, and its successor's");
        }
        disk.complete_all();
    }
    assert!(left && most == 1, "{most} reads in flight for one value");
    assert_eq!(get(&engine, n), Ok(expected(&large(n, 1))));
}

#[test]
fn what_is_written_dropped_or_ingested_later_is_seen() {
    let (_, source) = filled(options(7));
    let vnode = Extent::vnode(1);
    let of_vnode = |n: &u64| key(*n).prefix.vnode == 1;
    for n in (0..KEYS).filter(of_vnode) {
        write(&source, &large(n, 5));
    }
    let exported = block_on(source.export(&vnode.range(), 8 << 20)).expect("no faults");
    assert!(exported.left.is_none());

    let (_disk, engine) = filled(options(1));
    (0..KEYS).for_each(|n| drop(read(&engine, n)));
    let [overwritten, deleted, lost] = [0, 2, 4];
    write(&engine, &large(overwritten, 3));
    write(&engine, &Write { tombstone: true, ..large(deleted, 3) });
    // What comes late loses.
    write(&engine, &Write { actor: 0, ..large(lost, 1) });
    for flushed in [false, true] {
        if flushed {
            settle(&engine);
        }
        for (n, order) in [(overwritten, 3), (deleted, 3), (lost, 1)] {
            let deleted = n == deleted;
            let expected = if deleted { Some((order, Vec::new())) } else { expected(&large(n, order)) };
            let quick = get(&engine, n);
            assert!(quick == Err(Miss) || quick == Ok(expected.clone()), "key {n}: {quick:?}");
            assert_eq!(read(&engine, n), expected, "key {n}");
            assert_eq!(get(&engine, n), Ok(expected), "key {n}");
        }
    }
    let mut ingest = block_on(engine.ingest(vnode, 5)).expect("no faults");
    block_on(ingest.add(&exported.chunk)).expect("what was exported");
    block_on(ingest.finish()).expect("no faults");
    for n in (0..KEYS).filter(of_vnode) {
        assert_eq!(get(&engine, n), Err(Miss), "key {n} has another value now");
        assert_eq!(read(&engine, n), expected(&large(n, 5)));
        assert_eq!(get(&engine, n), Ok(expected(&large(n, 5))));
    }
    block_on(engine.drop_extent(vnode)).expect("no faults");
    for n in (0..KEYS).filter(of_vnode) {
        assert_eq!(get(&engine, n), Ok(None), "key {n} was dropped");
        assert_eq!(read(&engine, n), None);
    }
}

#[test]
fn values_of_files_that_are_gone_are_let_go() {
    let (_disk, engine) = filled(options(1));
    (0..KEYS).for_each(|n| drop(read(&engine, n)));
    assert_eq!(engine.stats().cached_values, KEYS);
    let before = engine.stats().cache_bytes;
    for order in 2..4 {
        for n in 0..KEYS {
            write(&engine, &large(n, order));
            block_on(run_jobs(&engine)).expect("no faults");
        }
    }
    // All of the store's tables become one, and the old files are named no more.
    settle(&engine);
    let stats = engine.stats();
    assert!(stats.compactions > 0);
    let held = stats.cached_values;
    assert!(held < KEYS / 4, "{held} values are held that nothing names");
    assert!(stats.cache_bytes < before);
}

#[test]
fn scans_use_what_is_held_and_leave_it_as_it_is() {
    let (disk, engine) = filled(options(1));
    let range = KeyRange::vnode(1, 1);
    let walk = || {
        let (mut count, reads) = (0, disk.counts().reads);
        let visit = |_: Key<'_>, record: Record<'_>| {
            assert!(record.value.len() >= LARGE_BYTES);
            count += 1;
            ControlFlow::Continue(())
        };
        let left =
            block_on(engine.scan(&range, Direction::Forward, ScanLimits::records(KEYS as usize), visit));
        assert!(left.expect("no faults").is_none());
        (count, disk.counts().reads - reads)
    };
    let (count, cold) = walk();
    assert_eq!(engine.stats().cached_values, 0);
    (0..KEYS).filter(|n| key(*n).prefix.vnode == 1).for_each(|n| drop(read(&engine, n)));
    let before = engine.stats();
    let (again, warm) = walk();
    assert_eq!(count, again);
    assert!(cold >= count && warm == 0, "{cold} reads, then {warm}, for {count} values");
    assert_eq!(engine.stats().cache_value_hits, before.cache_value_hits);
}

/// Whoever read a damaged value was told, and nobody else was: its file went on as a sound one until scrubbing came by.
#[test]
fn a_value_file_is_marked_when_a_read_or_a_scan_meets_damage() {
    let (disk, engine) = filled(options(1));
    drop(engine);
    let stores = [Directory::Store(3), Directory::Store(5)];
    let files = stores.iter().flat_map(|&store| disk.list(store)).map(|(name, _)| name);
    let files: Vec<_> = files.filter(|name| matches!(name, FileName::Values { .. })).collect();
    assert!(files.len() > 1, "{files:?}");
    for file in files {
        for scans in [false, true] {
            let disk = disk.image(CrashMode::All, &mut || 0);
            assert!(disk.corrupt(file, 60, 0x10), "the first value");
            let (engine, _) = open(&disk, options(2)).expect("the damage lies behind what opening reads");
            block_on(run_jobs(&engine)).expect("no faults");
            assert_eq!(engine.quarantined(), [], "nobody has read it");
            let mut told = 0;
            if scans {
                for vnode in 0..VNODES {
                    let range = KeyRange::vnode(1, vnode);
                    let limits = ScanLimits::records(1000);
                    let scan =
                        engine.scan(&range, Direction::Forward, limits, |_, _| ControlFlow::Continue(()));
                    told += u64::from(matches!(block_on(scan), Err(ReadError::Damage(_))));
                }
            } else {
                for n in 0..KEYS {
                    let read = block_on(engine.read(key(n).as_key()));
                    told += u64::from(matches!(read, Err(ReadError::Damage(_))));
                }
            }
            assert_eq!(told, 1, "{file:?}, scans: {scans}");
            block_on(run_jobs(&engine)).expect("no faults");
            let quarantined = engine.quarantined();
            let [found] = &quarantined[..] else { panic!("{file:?}, scans: {scans}: {quarantined:?}") };
            assert_eq!(found.file, file);
        }
    }
}
