//! What keeping values apart from the tables spares in writes and costs in space, by their length.
//!
//! `cargo run --release -p ferrite-tuning --example large_values`
//!
//! 64 MiB of values of one length in random order and as many overwrites, twice, in the tables and apart from them, over the memory
//! disk, with memtables of 4 MiB. Counts only, so every run prints the same.

use ferrite_lsm::mem_disk::run::block_on;
use ferrite_lsm::mem_disk::{MemDisk, MemPace};
use ferrite_lsm::{Engine, Key, Options, Prefix, Record, RecordFlags};

const LIVE_BYTES: u64 = 64 << 20;
const GROUP_BYTES: u64 = 64 << 10;
const VNODES: u16 = 64;

fn main() {
    println!("| value bytes | where | written, load | overwritten once | twice | space after it |");
    println!("|---:|---|---:|---:|---:|---:|");
    for value_bytes in [512, 1 << 10, 2 << 10, 4 << 10, 8 << 10, 16 << 10, 64 << 10] {
        for large_value_bytes in [None, Some(1)] {
            let (written, space) = run(value_bytes, large_value_bytes);
            let place = if large_value_bytes.is_some() { "apart" } else { "in tables" };
            let [load, once, twice] = written;
            println!("| {value_bytes} | {place} | {load:.2}x | {once:.2}x | {twice:.2}x | {space:.2}x |");
        }
    }
}

/// Bytes written by bytes put in each round, and bytes of tables and value files by those of live keys and values after the last.
fn run(value_bytes: usize, large_value_bytes: Option<usize>) -> ([f64; 3], f64) {
    let mut options = Options::new(0, vec![0], 7);
    options.large_value_bytes = large_value_bytes;
    options.memtable_bytes = 4 << 20;
    options.table_bytes = 2 << 20;
    options.level_base_bytes = 24 << 20;
    options.log.segment_bytes = 1 << 20;
    options.log.group_bytes = 256 << 10;
    options.cache_bytes = 0;
    let (engine, _) = block_on(Engine::open(MemDisk::new(), MemPace::new(), options)).expect("a fresh disk");
    let vnodes: Vec<(u16, u16)> = (0..VNODES).map(|vnode| (vnode, 0)).collect();
    block_on(engine.assign(&vnodes)).expect("a memory disk does not fail");
    let records = LIVE_BYTES / value_bytes as u64;
    let (mut state, mut order, mut before) = (88_172_645_463_325_252u64, 0, (0, 0));
    let written = [false, true, true].map(|overwrite| {
        for n in 0..records {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            order += 1;
            put(&engine, if overwrite { state % records } else { n }, order, value_bytes);
            if ((n + 1) * value_bytes as u64).is_multiple_of(GROUP_BYTES) {
                settle(&engine);
            }
        }
        let stats = engine.stats();
        let written = stats.log_written_bytes + stats.flush_bytes + stats.compaction_bytes;
        let amplification = (written - before.0) as f64 / (stats.written_bytes - before.1) as f64;
        before = (written, stats.written_bytes);
        amplification
    });
    let stats = engine.stats();
    let space = stats.table_bytes.iter().sum::<u64>() + stats.value_bytes;
    (written, space as f64 / (records * (value_bytes as u64 + 16)) as f64)
}

fn put(engine: &Engine<MemDisk, MemPace>, n: u64, order: u64, value_bytes: usize) {
    let token = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let prefix = Prefix { space: 1, vnode: (token >> 58) as u16, table: 1, token };
    let partition = u128::from(n).to_be_bytes();
    let key = Key { prefix, partition: &partition, sort: b"" };
    let value = vec![order as u8; value_bytes];
    let record = Record { order, actor: 1, flags: RecordFlags(0), expiry_ms: 0, value: &value };
    engine.stage(key, record, 0).expect("jobs keep up");
}

fn settle(engine: &Engine<MemDisk, MemPace>) {
    block_on(engine.commit()).expect("a memory disk does not fail");
    while let Some(job) = engine.next_job() {
        block_on(engine.run(job)).expect("a memory disk does not fail");
    }
}
