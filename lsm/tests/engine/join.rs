//! Sibling sets join wherever two of them meet: in the memtable, in reads of several sources, in merges, after a power cut.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use crate::rig::{Random, TestEngine, VNODES, key, open, run_jobs, small_options};
use ferrite_lsm::mem_disk::run::block_on;
use ferrite_lsm::mem_disk::{CrashMode, MemDisk};
use ferrite_lsm::{
    Direction, Extent, JoinByFlag, Joined, Key, KeyBuf, KeyRange, Options, Record, RecordBuf, RecordFlags,
    ScanLimits, Strategy,
};

const KEYS: u64 = 60;

/// The union of two sets of bytes.
fn union(_: &Key<'_>, left: &Record<'_>, right: &Record<'_>, out: &mut RecordBuf) -> Joined {
    let all: BTreeSet<u8> = left.value.iter().chain(right.value).copied().collect();
    out.order = left.order.max(right.order);
    out.actor = left.actor.max(right.actor);
    out.flags = RecordFlags(RecordFlags::SIBLINGS);
    out.expiry_ms = 0;
    out.value = all.into_iter().collect();
    Joined::Both
}

fn options(entropy: u128, seed: u64) -> Options {
    let mut options = small_options(entropy);
    options.memtable_bytes = 24 << 10;
    options.join = JoinByFlag(union);
    options.large_value_bytes = seed.is_multiple_of(2).then_some(8);
    options.strategy = if seed.is_multiple_of(3) { Strategy::Tiered } else { Strategy::Leveled };
    options
}

type Sets = BTreeMap<u64, (u64, BTreeSet<u8>)>;

fn expected(model: &Sets, n: u64) -> Option<(u64, Vec<u8>)> {
    model.get(&n).map(|(order, set)| (*order, set.iter().copied().collect()))
}

fn check(engine: &TestEngine, model: &Sets) {
    let own = |record: Record<'_>| {
        assert_eq!(record.flags, RecordFlags(RecordFlags::SIBLINGS));
        (record.order, record.value.to_vec())
    };
    let bufs: Vec<KeyBuf> = (0..KEYS).map(key).collect();
    for (n, key) in (0..KEYS).zip(&bufs) {
        if let Ok(found) = engine.get(key.as_key(), |record| record.map(own)) {
            assert_eq!(found, expected(model, n), "key {n}");
        }
        let found = block_on(engine.read(key.as_key())).expect("no faults");
        assert_eq!(found.map(|found| own(found.record())), expected(model, n), "key {n}, by read");
    }
    let keys: Vec<Key<'_>> = bufs.iter().map(KeyBuf::as_key).collect();
    engine.get_batch(&keys, |at, record| {
        if let Ok(record) = record {
            assert_eq!(record.map(own), expected(model, at as u64), "key {at}, in a batch");
        }
    });
    for direction in [Direction::Forward, Direction::Reverse] {
        let mut shown = BTreeMap::new();
        for vnode in 0..VNODES {
            let visit = |key: Key<'_>, record: Record<'_>| {
                shown.insert(key.to_buf(), own(record));
                ControlFlow::Continue(())
            };
            let range = KeyRange::vnode(1, vnode);
            block_on(engine.scan(&range, direction, ScanLimits::records(1000), visit)).expect("no faults");
        }
        let all: BTreeMap<KeyBuf, _> =
            (0..KEYS).filter_map(|n| Some((key(n), expected(model, n)?))).collect();
        assert_eq!(shown, all);
    }
}

fn history(seed: u64) -> (u64, u64) {
    let (mut disk, mut random, mut model) = (MemDisk::new(), Random::new(seed), Sets::new());
    let (mut engine, _) = open(&disk, options(1, seed)).expect("a fresh disk");
    let (mut opens, mut clock, mut flushes, mut merges) = (1, 100, 0, 0);
    for _ in 0..400 {
        match random.below(20) {
            0..=13 => {
                let mut staged = Vec::new();
                for _ in 0..random.below(20) {
                    clock += 1;
                    let n = random.below(KEYS);
                    // Also far behind others, as sets of other replicas come.
                    let order = clock - random.below(80);
                    let set: BTreeSet<u8> = (0..=random.below(20)).map(|_| random.next() as u8).collect();
                    let value: Vec<u8> = set.iter().copied().collect();
                    let flags = RecordFlags(RecordFlags::SIBLINGS);
                    let record = Record { order, actor: 1, flags, expiry_ms: 0, value: &value };
                    if engine.stage(key(n).as_key(), record, 1).is_ok() {
                        staged.push((n, order, set));
                    }
                }
                block_on(engine.commit()).expect("no faults");
                for (n, order, set) in staged {
                    let slot = model.entry(n).or_default();
                    slot.0 = slot.0.max(order);
                    slot.1.extend(set);
                }
            }
            14..=17 => {
                if let Some(job) = engine.next_job() {
                    block_on(engine.run(job)).expect("no faults");
                }
            }
            18 => block_on(run_jobs(&engine)).expect("no faults"),
            _ => {
                let stats = engine.stats();
                flushes += stats.flushes;
                merges += stats.compactions;
                opens += 1;
                disk = disk
                    .image(CrashMode::EVERY[opens as usize % CrashMode::EVERY.len()], &mut || random.next());
                engine = open(&disk, options(opens, seed)).expect("a power cut is no damage").0;
            }
        }
        if random.below(10) == 0 {
            check(&engine, &model);
        }
    }
    check(&engine, &model);
    let stats = engine.stats();
    (flushes + stats.flushes, merges + stats.compactions)
}

#[test]
fn sets_are_the_union_of_all_that_was_written() {
    let done = (0..12).map(history).fold((0, 0), |sum, done| (sum.0 + done.0, sum.1 + done.1));
    assert!(done.0 > 50 && done.1 > 20, "{done:?}");
}

/// A get that comes upon a sibling set asks every memtable, and so also one whose records were dropped.
#[test]
fn what_was_dropped_joins_nothing() {
    let (engine, _) = open(&MemDisk::new(), options(1, 0)).expect("a fresh disk");
    let put = |order, value: &[u8]| {
        let flags = RecordFlags(RecordFlags::SIBLINGS);
        let record = Record { order, actor: 1, flags, expiry_ms: 0, value };
        engine.stage(key(0).as_key(), record, 1).expect("there is room");
        block_on(engine.commit()).expect("no faults");
    };
    put(1, b"dropped");
    block_on(engine.drop_extent(Extent::table(0, 7))).expect("no faults");
    check(&engine, &Sets::new());
    put(2, b"z");
    let model = Sets::from([(0, (2, BTreeSet::from([b'z'])))]);
    check(&engine, &model);
    block_on(run_jobs(&engine)).expect("no faults");
    check(&engine, &model);
}
