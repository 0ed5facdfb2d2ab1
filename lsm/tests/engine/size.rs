//! Estimates of vnodes and of tables in them, against what is there.

use std::ops::ControlFlow;

use crate::rig::{Random, TestEngine, VNODES, apart_options, open, run_jobs, small_options};
use ferrite_lsm::mem_disk::MemDisk;
use ferrite_lsm::mem_disk::run::block_on;
use ferrite_lsm::{Direction, Extent, Key, KeyBuf, Options, Prefix, Record, RecordFlags, ScanLimits};

const TABLES: u32 = 3;

fn put(engine: &TestEngine, random: &mut Random, order: u64, keys: u64) {
    let n = random.below(keys);
    let (vnode, table) = ((n % u64::from(VNODES)) as u16, (n / 4 % u64::from(TABLES)) as u32);
    let token = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let prefix = Prefix { space: 1, vnode, table, token };
    let key = KeyBuf { prefix, partition: n.to_be_bytes()[..].into(), sort: Box::default() };
    let value = vec![n as u8; 40 + 60 * (n / 12 % 3) as usize];
    let record = Record { order, actor: 1, flags: RecordFlags(0), expiry_ms: 0, value: &value };
    while engine.stage(key.as_key(), record, 0).is_err() {
        block_on(engine.commit()).expect("no faults");
        block_on(run_jobs(engine)).expect("no faults");
    }
}

/// Keys, and bytes of keys and values.
fn truth(engine: &TestEngine, extent: Extent) -> (u64, u64) {
    let (mut keys, mut bytes) = (0, 0);
    let count = |key: Key<'_>, record: Record<'_>| {
        keys += 1;
        bytes += (key.partition.len() + key.sort.len() + record.value.len()) as u64;
        ControlFlow::Continue(())
    };
    let all = ScanLimits::records(usize::MAX);
    let left = block_on(engine.scan(&extent.range(), Direction::Forward, all, count)).expect("no faults");
    assert_eq!(left, None);
    (keys, bytes)
}

fn extents() -> impl Iterator<Item = Extent> {
    (0..VNODES).flat_map(|vnode| {
        std::iter::once(Extent::vnode(vnode)).chain((0..TABLES).map(move |table| Extent::table(vnode, table)))
    })
}

fn near(found: u64, truth: u64, slack: u64) -> bool {
    found.abs_diff(truth) <= truth / 5 + slack
}

/// Bytes that files take for each record, beside its key and value.
fn overhead(engine: &TestEngine) -> u64 {
    let stats = engine.stats();
    if stats.flushes == 0 {
        return 0;
    }
    let of_files: u64 = stats.table_bytes.iter().sum::<u64>() + stats.value_live_bytes;
    let vnodes = extents().filter(|extent| extent.table.is_none());
    let all = vnodes.map(|vnode| truth(engine, vnode)).reduce(|a, b| (a.0 + b.0, a.1 + b.1));
    let (keys, bytes) = all.expect("there are vnodes");
    of_files.saturating_sub(bytes) / keys
}

fn check(engine: &TestEngine) {
    let mut of_tables = (0, 0);
    let overhead = overhead(engine);
    for extent in extents() {
        let (estimate, (keys, bytes)) = (engine.estimate(extent), truth(engine, extent));
        // What the blocks at its edges may hold, and may not.
        let edge_keys = estimate.error_bytes / (bytes / keys.max(1)).max(1);
        assert!(near(estimate.keys, keys, edge_keys), "{extent:?}: {estimate:?}, and there are {keys}");
        let taken = bytes + keys * overhead;
        assert!(
            near(estimate.bytes, taken, estimate.error_bytes),
            "{extent:?}: {estimate:?}, and there are {bytes}, which take {taken}"
        );
        let tables: u64 = engine.stats().tables.iter().sum();
        assert!(estimate.error_bytes <= tables * 4200, "a block for each table at most: {estimate:?}");
        if extent.table.is_some() {
            of_tables = (of_tables.0 + estimate.keys, of_tables.1 + keys);
        }
    }
    assert!(near(of_tables.0, of_tables.1, of_tables.1 / 10), "{of_tables:?}: errors even out");
}

fn estimates_are_near(options: Options, memtable_bytes: usize) {
    let disk = MemDisk::new();
    // Long enough that what a file has beside its blocks does not count for much.
    let options = Options { memtable_bytes, table_bytes: 256 << 10, level_base_bytes: 256 << 10, ..options };
    let (engine, _) = open(&disk, options).expect("a fresh disk");
    let mut random = Random::new(4);
    for extent in extents() {
        assert_eq!(engine.estimate(extent).keys, 0);
    }
    for round in 0..24 {
        for n in 0..1000 {
            put(&engine, &mut random, round * 1000 + n, 24_000 * 1000);
            if n % 50 == 0 {
                block_on(engine.commit()).expect("no faults");
                block_on(run_jobs(&engine)).expect("no faults");
            }
        }
        block_on(engine.commit()).expect("no faults");
        block_on(run_jobs(&engine)).expect("no faults");
        if round % 8 == 7 {
            if engine.stats().flushes > 0 {
                // Everything goes into tables for it.
                block_on(engine.checkpoint(round)).expect("no faults");
                block_on(run_jobs(&engine)).expect("no faults");
            }
            check(&engine);
        }
    }
    assert_eq!(engine.estimate(Extent::vnode(VNODES)), ferrite_lsm::Estimate::default(), "it lives nowhere");
}

#[test]
fn estimates_of_tables_are_near_the_truth() {
    estimates_are_near(small_options(1), 512 << 10);
}

#[test]
fn estimates_of_memtables_are_near_the_truth() {
    let mut options = small_options(1);
    options.log_bytes_max = Some(64 << 20);
    estimates_are_near(options, 32 << 20);
}

#[test]
fn estimates_count_values_apart() {
    estimates_are_near(apart_options(1), 512 << 10);
}
