//! CPU time of the whole engine apart from the device: writes through log and memtable, background work, reads by source.
//!
//! `cargo bench -p ferrite-benches --bench engine -- 1000000` measures with a million records of 100 bytes in 16 stores on a disk in
//! memory (whose copying is part of what is measured); without a number it runs at a size that proves only that it works.
//! Each row says nanoseconds of this thread's CPU time per operation.

use std::hint::black_box;

use ferrite_lsm::mem_disk::{MemDisk, MemPace, run::block_on};
use ferrite_lsm::{Engine, Key, Options, Prefix, Record, RecordFlags};
use xxhash_rust::xxh3::xxh3_64_with_seed;

const SEED: u64 = 7;
const VNODES: u16 = 4096;
const VALUE: [u8; 100] = [7; 100];
/// Records of a group, as at a few hundred connections.
const GROUP: usize = 128;

type MemEngine = Engine<MemDisk, MemPace>;

fn main() {
    let records = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(10_000);
    println!("{records} records of {} bytes", VALUE.len());
    let mut options = Options::new(0, (0..16).collect(), 42);
    options.memory_bytes = 2 << 30;
    options.cache_bytes = 1 << 30;
    options.table.token_seed = Some(SEED);
    let (engine, _) = block_on(Engine::open(MemDisk::new(), MemPace::new(), options)).expect("an empty disk");
    let places: Vec<(u16, u16)> = (0..VNODES).map(|vnode| (vnode, vnode % 16)).collect();
    block_on(engine.assign(&places)).expect("a memory disk does not fail");

    let (mut writing, mut working) = (0, 0);
    for first in (0..records).step_by(GROUP) {
        let start = cpu_ns();
        for n in first..records.min(first + GROUP) {
            let partition = partition(n);
            let record =
                Record { order: n as u64 + 1, actor: 2, flags: RecordFlags(0), expiry_ms: 0, value: &VALUE };
            engine.stage(key(&partition), record, 0).expect("background work keeps up");
        }
        block_on(engine.commit()).expect("a memory disk does not fail");
        writing += cpu_ns() - start;
        working += run_jobs(&engine);
    }
    row("put: stage, commit, apply", writing, records);
    row("put: flush and compaction", working, records);

    let warm = |n: usize| {
        let partition = partition(n);
        drop(black_box(block_on(engine.read(key(&partition))).expect("a memory disk does not fail")));
    };
    (0..records).for_each(warm);
    let before = engine.stats();
    reads(&engine, "get, hit in memory", records, 0);
    let after = engine.stats();
    reads(&engine, "get, absent", records, records);
    println!(
        "hits by source: {} memtable, {} cached block; tables by level {:?}; written {:.2} times",
        after.gets_memtable - before.gets_memtable,
        after.gets_cached - before.gets_cached,
        after.tables,
        (after.flush_bytes + after.compaction_bytes) as f64 / (records * 116) as f64
    );
}

/// Looks up as many keys as there are records, in an order that the caches do not like.
fn reads(engine: &MemEngine, name: &str, records: usize, offset: usize) {
    let mut missed = 0;
    let start = cpu_ns();
    let mut n = 0;
    for _ in 0..records {
        n = (n + 1_000_003) % records;
        let partition = partition(n + offset);
        let found = engine.get(key(&partition), |record| record.map_or(0, |record| record.order));
        missed += u64::from(black_box(found).is_err());
    }
    row(name, cpu_ns() - start, records);
    if missed > 0 {
        println!("  {missed} of them needed the disk");
    }
}

fn run_jobs(engine: &MemEngine) -> u64 {
    let Some(mut job) = engine.next_job() else { return 0 };
    let start = cpu_ns();
    loop {
        block_on(engine.run(job)).expect("a memory disk does not fail");
        match engine.next_job() {
            Some(next) => job = next,
            None => return cpu_ns() - start,
        }
    }
}

fn partition(n: usize) -> [u8; 16] {
    let mut partition = [0; 16];
    partition[..8].copy_from_slice(&(n as u64).to_be_bytes());
    partition
}

fn key(partition: &[u8; 16]) -> Key<'_> {
    let token = xxh3_64_with_seed(partition, SEED);
    let vnode = (token >> 52) as u16;
    Key { prefix: Prefix { space: 1, vnode, table: 1, token }, partition, sort: b"" }
}

fn row(name: &str, ns: u64, operations: usize) {
    println!("{name:<40}{:>8.0} ns", ns as f64 / operations as f64);
}

/// CPU time of this thread in nanoseconds: wall time says little on a shared machine.
fn cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux has schedstat");
    text.split_ascii_whitespace()
        .next()
        .and_then(|ns| ns.parse().ok())
        .expect("its first field is time on CPU")
}
