//! What the record cache is worth: CPU time of a get with and without it, interleaved.
//!
//! `cargo bench -p ferrite-benches --bench record_cache -- 1000000` measures with a million records of 100 bytes in 16 stores on a
//! disk in memory; without a number it runs at a size that proves only that it works. A second number is the record cache's
//! bytes in place of the default. Each row is one load under one cache: the medians of the rounds, in nanoseconds of this thread's
//! CPU time per get, without and with the record cache, their ratio, and the part of the gets that it answered.

use std::hint::black_box;

use ferrite_lsm::mem_disk::{CrashMode, MemDisk, MemPace, run::block_on};
use ferrite_lsm::{Engine, Key, Options, Prefix, Record, RecordFlags};
use xxhash_rust::xxh3::xxh3_64_with_seed;

const SEED: u64 = 7;
const VNODES: u16 = 4096;
const VALUE: [u8; 100] = [7; 100];
const GROUP: usize = 128;
/// Bytes of a record as tables have it, about: the small cache is a tenth of them.
const RECORD_BYTES: usize = 120;
const THETA: f64 = 0.99;
const ROUNDS: usize = 7;
const BATCH: usize = 16;

type MemEngine = Engine<MemDisk, MemPace>;

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|arg| arg.parse::<usize>().ok());
    let records = numbers.next().unwrap_or(10_000);
    let record_cache = numbers.next();
    println!("{records} records of {} bytes", VALUE.len());
    let disk = filled(records);
    let gets = records.min(1_000_000);
    println!("{:<44}{:>9}{:>9}{:>7}{:>9}", "", "without", "with", "ratio", "answered");
    for (cache, cache_bytes) in
        [("all cached", 2 * records * RECORD_BYTES), ("cache 10 %", records * RECORD_BYTES / 10)]
    {
        let engines = [Some(0), record_cache].map(|record_cache_bytes| {
            let copy = disk.image(CrashMode::EVERY[0], &mut || 0);
            let options = Options { cache_bytes, record_cache_bytes, ..options(43) };
            block_on(Engine::open(copy, MemPace::new(), options)).expect("a power cut is no damage").0
        });
        for (load, draws) in [("uniform", uniform(records, gets)), ("zipfian 0.99", zipfian(records, gets))] {
            let partitions: Vec<[u8; 16]> = draws.into_iter().map(partition).collect();
            for (mode, batch) in [("alone", 1), ("16 at once", BATCH)] {
                for engine in &engines {
                    measure(engine, &partitions, batch);
                }
                let (mut ns, before) = ([Vec::new(), Vec::new()], engines[1].stats());
                for _ in 0..ROUNDS {
                    for (engine, ns) in engines.iter().zip(&mut ns) {
                        ns.push(measure(engine, &partitions, batch));
                    }
                }
                let [without, with] = ns.map(median);
                let hits = engines[1].stats().record_cache_hits - before.record_cache_hits;
                let answered = hits as f64 / (ROUNDS * gets) as f64;
                println!(
                    "{:<44}{without:>9.0}{with:>9.0}{:>7.2}{:>8.1}%",
                    format!("{cache}, {load}, {mode}"),
                    with / without,
                    100.0 * answered
                );
            }
        }
        let memory = engines.map(|engine| engine.stats().memory);
        println!(
            "  record cache {} KiB, block caches {:?} KiB",
            memory[1].record_cache_bytes >> 10,
            memory.map(|memory| memory.cache_bytes >> 10)
        );
    }
}

fn options(entropy: u128) -> Options {
    let mut options = Options::new(0, (0..16).collect(), entropy);
    options.memory_bytes = 2 << 30;
    options.table.token_seed = Some(SEED);
    options
}

/// A disk with everything in tables.
fn filled(records: usize) -> MemDisk {
    let disk = MemDisk::new();
    let options = Options { memtable_bytes: 8 << 20, ..options(42) };
    let (engine, _) = block_on(Engine::open(disk.clone(), MemPace::new(), options)).expect("an empty disk");
    let places: Vec<(u16, u16)> = (0..VNODES).map(|vnode| (vnode, vnode % 16)).collect();
    block_on(engine.assign(&places)).expect("a memory disk does not fail");
    for first in (0..records).step_by(GROUP) {
        for n in first..records.min(first + GROUP) {
            let partition = partition(n);
            let record =
                Record { order: n as u64 + 1, actor: 2, flags: RecordFlags(0), expiry_ms: 0, value: &VALUE };
            engine.stage(key(&partition), record, 0).expect("background work keeps up");
        }
        block_on(engine.commit()).expect("a memory disk does not fail");
        while let Some(job) = engine.next_job() {
            block_on(engine.run(job)).expect("a memory disk does not fail");
        }
    }
    block_on(engine.close()).expect("a memory disk does not fail");
    disk
}

/// Gets all of them, what is not in memory from the disk; nanoseconds a get.
fn measure(engine: &MemEngine, partitions: &[[u8; 16]], batch: usize) -> f64 {
    let start = cpu_ns();
    let mut missed = Vec::with_capacity(batch);
    for together in partitions.chunks(batch) {
        if let [one] = together {
            if engine.get(key(one), |record| black_box(record.map(|record| record.order))).is_err() {
                missed.push(0);
            }
        } else {
            let mut keys = [key(&together[0]); BATCH];
            keys.iter_mut().zip(together).for_each(|(slot, partition)| *slot = key(partition));
            engine.get_batch(&keys[..together.len()], |at, record| match record {
                Ok(record) => drop(black_box(record.map(|record| record.order))),
                Err(_) => missed.push(at),
            });
        }
        for at in missed.drain(..) {
            black_box(block_on(engine.read(key(&together[at]))).expect("a memory disk does not fail"));
        }
    }
    (cpu_ns() - start) as f64 / partitions.len() as f64
}

fn uniform(records: usize, gets: usize) -> Vec<usize> {
    let mut random = Random(SEED);
    (0..gets).map(|_| (random.unit() * records as f64) as usize).collect()
}

/// As Gray et al. draw it (SIGMOD 1994), with the ranks strewn over the keys.
fn zipfian(records: usize, gets: usize) -> Vec<usize> {
    let zeta: f64 = (1..=records).map(|rank| (rank as f64).powf(-THETA)).sum();
    let zeta_two = 1.0 + 0.5f64.powf(THETA);
    let (n, alpha) = (records as f64, 1.0 / (1.0 - THETA));
    let eta = (1.0 - (2.0 / n).powf(1.0 - THETA)) / (1.0 - zeta_two / zeta);
    let mut random = Random(SEED);
    let draw = |_| {
        let unit = random.unit();
        let rank = match unit * zeta {
            share if share < 1.0 => 0,
            share if share < zeta_two => 1,
            _ => (n * (eta * unit - eta + 1.0).powf(alpha)) as usize,
        };
        xxh3_64_with_seed(&rank.to_le_bytes(), SEED) as usize % records
    };
    (0..gets).map(draw).collect()
}

struct Random(u64);

impl Random {
    /// From 0 on, below 1.
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        (xxh3_64_with_seed(&self.0.to_le_bytes(), SEED) >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
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

/// CPU time of this thread in nanoseconds: wall time says little on a shared machine.
fn cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux has schedstat");
    text.split_ascii_whitespace()
        .next()
        .and_then(|ns| ns.parse().ok())
        .expect("its first field is time on CPU")
}
