//! Damaged tables and value files: what is damaged fails, what is not is right, never is an older version an answer, and
//! nothing waits for it. Through restarts, merges, power cuts and failing disks.

mod blocks;
mod opening;
mod scans;
mod scrubbing;
mod steps;
mod values;

use std::collections::BTreeSet;

use crate::rig::{Model, Random, TestEngine, VNODES, Write, apply, key, open, small_options, stage};
use ferrite_lsm::mem_disk::run::block_on;
use ferrite_lsm::mem_disk::{CrashMode, MemDisk};
use ferrite_lsm::{Direction, Directory, FileName, KeyBuf, KeyRange, Options, ReadError, ScanLimits};

const KEYS: u64 = 80;

fn fill(engine: &TestEngine, model: &mut Model, groups: u64, seed: u64) {
    let mut random = Random::new(seed);
    let mut clock = model.values().map(|write| write.order).max().unwrap_or(0);
    for _ in 0..groups {
        let mut staged = Vec::new();
        for _ in 0..6 {
            clock += 1;
            let (key, bytes) = (random.below(KEYS), random.below(900) as usize);
            let write = Write { key, order: clock, actor: clock, bytes, tombstone: random.below(15) == 0 };
            stage(engine, &write).expect("nothing holds writes back");
            staged.push(write);
        }
        block_on(engine.commit()).expect("no faults");
        staged.into_iter().for_each(|write| apply(model, write));
        run_all(engine);
    }
}

/// Runs what is due, also after jobs that fail.
fn run_all(engine: &TestEngine) -> u64 {
    let mut failures = 0;
    while let Some(job) = engine.next_job() {
        failures += u64::from(block_on(engine.run(job)).is_err());
        assert!(failures < 100, "a job fails for ever");
    }
    failures
}

/// What is answered is right; gives the keys that are not answered.
fn check_what_is_answered(engine: &TestEngine, model: &Model, context: &str) -> BTreeSet<u64> {
    let mut lost = BTreeSet::new();
    for n in 0..KEYS {
        let key = key(n);
        let expected = model.get(&n).map(|write| (write.order, write.value()));
        let quick =
            engine.get(key.as_key(), |record| record.map(|found| (found.order, found.value.to_vec())));
        let slow = block_on(engine.read(key.as_key()));
        if let Ok(quick) = &quick {
            assert_eq!(*quick, expected, "{context}: a get of key {n}");
        }
        match slow {
            Ok(found) => {
                let found = found.map(|found| (found.record().order, found.record().value.to_vec()));
                assert_eq!(found, expected, "{context}: a read of key {n}");
            }
            Err(ReadError::Damage(_) | ReadError::Quarantined(_) | ReadError::Disk(_)) => {
                assert!(quick.is_err() || engine.stats().cache_bytes > 0, "{context}: key {n}");
                lost.insert(n);
            }
            Err(ReadError::NoBuffer) => panic!("buffers are not bounded here"),
        }
    }
    let keys: Vec<KeyBuf> = (0..KEYS).map(key).collect();
    let keys: Vec<_> = keys.iter().map(KeyBuf::as_key).collect();
    engine.get_batch(&keys, |at, record| {
        let expected = model.get(&(at as u64)).map(|write| write.order);
        if let Ok(record) = record {
            assert_eq!(record.map(|record| record.order), expected, "{context}: a batch, key {at}");
        }
    });
    check_scans(engine, model, &lost, context);
    lost
}

/// A scan shows what there is, in order, up to what it says that it cannot read.
fn check_scans(engine: &TestEngine, model: &Model, lost: &BTreeSet<u64>, context: &str) {
    for vnode in 0..VNODES {
        for direction in [Direction::Forward, Direction::Reverse] {
            let mut expected: Vec<_> =
                (0..KEYS).filter(|n| n % u64::from(VNODES) == u64::from(vnode)).collect();
            expected.sort_by_key(|&n| key(n));
            if direction == Direction::Reverse {
                expected.reverse();
            }
            let mut shown = Vec::new();
            let range = KeyRange::vnode(1, vnode);
            let ended = block_on(engine.scan(&range, direction, ScanLimits::records(1000), |key, record| {
                shown.push((key.to_buf(), record.order));
                std::ops::ControlFlow::Continue(())
            }));
            let there = expected.iter().filter_map(|n| Some((key(*n), model.get(n)?.order)));
            let there: Vec<_> = there.take(shown.len()).collect();
            assert_eq!(shown, there, "{context}: a scan of vnode {vnode}, {direction:?}");
            if expected.iter().any(|n| lost.contains(n)) {
                assert!(ended.is_err(), "{context}: a scan over what is lost, vnode {vnode}");
            }
        }
    }
}

fn tables(disk: &MemDisk) -> Vec<FileName> {
    let stores = [Directory::Store(3), Directory::Store(5)];
    let files = stores.iter().flat_map(|&store| disk.list(store)).map(|(name, _)| name);
    files.filter(|name| matches!(name, FileName::Table { .. })).collect()
}

fn copy(disk: &MemDisk) -> MemDisk {
    disk.image(CrashMode::All, &mut || 0)
}

fn filled(options: fn(u128) -> Options) -> (MemDisk, Model) {
    let disk = MemDisk::new();
    let (engine, _) = open(&disk, options(1)).expect("a fresh disk");
    let mut model = Model::new();
    fill(&engine, &mut model, 70, 7);
    (disk, model)
}

/// Merges that take everything.
fn eager(entropy: u128) -> Options {
    let mut options = small_options(entropy);
    options.l0_tables_trigger = 1;
    options.level_base_bytes = 1;
    options
}

fn value_files(disk: &MemDisk) -> Vec<(FileName, u64)> {
    let stores = [Directory::Store(3), Directory::Store(5)];
    let files = stores.iter().flat_map(|&store| disk.list(store));
    files.filter(|(name, _)| matches!(name, FileName::Values { .. })).collect()
}

fn scrub_all(engine: &TestEngine) {
    let passes = engine.stats().scrub_passes;
    while engine.stats().scrub_passes == passes {
        engine.allow_scrub(1 << 20);
        run_all(engine);
    }
}
