//! How often compaction writes a byte, and how much space and how many sorted runs it leaves, by what it is told.
//!
//! `cargo run --release -p ferrite-tuning --example compaction -- [SCALE]` (default 16)
//!
//! Ten million records of 100 bytes in random order and as many overwrites, twice, over the memory disk; everything is divided by
//! the scale: records, memtable, log. Counts only, so every run prints the same.

use ferrite_lsm::mem_disk::run::block_on;
use ferrite_lsm::mem_disk::{MemDisk, MemPace};
use ferrite_lsm::{Engine, Key, Options, Prefix, Record, RecordFlags, Stats, Strategy};

const RECORDS: u64 = 10_000_000;
const MEMTABLE_BYTES: u64 = 64 << 20;
const VALUE_BYTES: usize = 100;
const GROUP: u64 = 100;
const VNODES: u16 = 1024;

fn main() {
    let scale = std::env::args().nth(1).map_or(16, |text| text.parse().expect("a number"));
    println!("| stores | strategy | level 0 | base MiB | fanout | load | overwritten once | twice |");
    println!("|---:|---|---:|---:|---:|---|---|---|");
    for stores in [1, 16] {
        for l0_tables in [4, 6, 8] {
            let base_bytes = l0_tables as u64 * MEMTABLE_BYTES / u64::from(stores);
            for (base_bytes, fanout) in [(base_bytes / 2, 8), (base_bytes, 8)] {
                let case = Case { stores, strategy: Strategy::Leveled, l0_tables, base_bytes, fanout };
                case.print(scale);
            }
            let (base_bytes, fanout) = (0, 0);
            Case { stores, strategy: Strategy::Tiered, l0_tables, base_bytes, fanout }.print(scale);
        }
    }
}

struct Case {
    stores: u16,
    strategy: Strategy,
    l0_tables: usize,
    base_bytes: u64,
    fanout: u64,
}

impl Case {
    fn options(&self, scale: u64) -> Options {
        let mut options = Options::new(0, (0..self.stores).collect(), 7);
        options.strategy = self.strategy;
        options.l0_tables_trigger = self.l0_tables;
        options.level_base_bytes = self.base_bytes / scale;
        options.level_fanout = self.fanout;
        options.memtable_bytes = (MEMTABLE_BYTES / scale) as usize;
        options.table_bytes /= scale;
        options.log.segment_bytes = (16 << 20) / scale / 4096 * 4096;
        options.log.group_bytes = 128 << 10;
        options.cache_bytes = 0;
        options
    }

    fn print(&self, scale: u64) {
        let cells = self.run(scale).map(|(written, space, runs)| {
            format!("written {written:.2}x, space {space:.2}x, {runs:.1} runs")
        });
        println!(
            "| {} | {:?} | {} | {} | {} | {} |",
            self.stores,
            self.strategy,
            self.l0_tables,
            self.base_bytes >> 20,
            self.fanout,
            cells.join(" | ")
        );
    }

    /// After the load and after each round of overwrites: bytes written by bytes put, space, sorted runs.
    fn run(&self, scale: u64) -> [(f64, f64, f64); 3] {
        let opened = block_on(Engine::open(MemDisk::new(), MemPace::new(), self.options(scale)));
        let (engine, _) = opened.expect("a fresh disk");
        let vnodes: Vec<(u16, u16)> = (0..VNODES).map(|vnode| (vnode, vnode % self.stores)).collect();
        block_on(engine.assign(&vnodes)).expect("a memory disk does not fail");
        let records = RECORDS / scale / GROUP * GROUP;
        let (mut state, mut order) = (88_172_645_463_325_252u64, 0);
        let mut before = Stats::default();
        [false, true, true].map(|overwrite| {
            for n in 0..records {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                order += 1;
                put(&engine, if overwrite { state % records } else { n }, order);
                if n % GROUP == GROUP - 1 {
                    settle(&engine);
                }
            }
            let after = engine.stats();
            let written =
                |stats: &Stats| stats.log_written_bytes + stats.flush_bytes + stats.compaction_bytes;
            let bytes = (after.written_bytes - before.written_bytes) as f64;
            let amplification = (written(&after) - written(&before)) as f64 / bytes;
            let figures = (amplification, after.space_amplification(), after.read_amplification());
            before = after;
            figures
        })
    }
}

fn put(engine: &Engine<MemDisk, MemPace>, n: u64, order: u64) {
    let token = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let prefix = Prefix { space: 1, vnode: (token >> 54) as u16, table: 1, token };
    let partition = u128::from(n).to_be_bytes();
    let key = Key { prefix, partition: &partition, sort: b"" };
    let value = [order as u8; VALUE_BYTES];
    let record = Record { order, actor: 1, flags: RecordFlags(0), expiry_ms: 0, value: &value };
    engine.stage(key, record, 0).expect("jobs keep up");
}

fn settle(engine: &Engine<MemDisk, MemPace>) {
    block_on(engine.commit()).expect("a memory disk does not fail");
    while let Some(job) = engine.next_job() {
        block_on(engine.run(job)).expect("a memory disk does not fail");
    }
}
