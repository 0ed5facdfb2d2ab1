//! How often a byte is written, and how much space it takes: a load in random order, then as many overwrites, twice.
//!
//! The sizes are a sixty-fourth of a node's, and jobs run as soon as they are due, so level 0 is never longer than it has to
//! be: under load it lags, and merges are fewer. The counts are exact and the same on every machine.

use ferrite_lsm::mem_disk::run::block_on;
use ferrite_lsm::mem_disk::{MemDisk, MemPace};
use ferrite_lsm::{Engine, Key, Options, Prefix, Record, RecordFlags, Stats, Strategy};

const RECORDS: u64 = 120_000;
const VALUE_BYTES: usize = 100;
const STORES: u16 = 4;
const GROUP: u64 = 100;

fn options(strategy: Strategy) -> Options {
    let mut options = Options::new(0, (0..STORES).collect(), 1);
    options.strategy = strategy;
    options.memtable_bytes = 1 << 20;
    options.cache_bytes = 0;
    options.table_bytes = 512 << 10;
    options.log.segment_bytes = 256 << 10;
    options.log.group_bytes = 64 << 10;
    options
}

fn put(engine: &Engine<MemDisk, MemPace>, n: u64, order: u64) {
    let token = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let prefix = Prefix { space: 1, vnode: (token >> 60) as u16, table: 1, token };
    let partition = u128::from(n).to_be_bytes();
    let key = Key { prefix, partition: &partition, sort: b"" };
    let record =
        Record { order, actor: 1, flags: RecordFlags(0), expiry_ms: 0, value: &[order as u8; VALUE_BYTES] };
    engine.stage(key, record, 0).expect("jobs keep up");
}

/// The state after each third, settled.
fn run(strategy: Strategy) -> [Stats; 3] {
    let opened = block_on(Engine::open(MemDisk::new(), MemPace::new(), options(strategy)));
    let (engine, _) = opened.expect("a fresh disk");
    let vnodes: Vec<(u16, u16)> = (0..16).map(|vnode| (vnode, vnode % STORES)).collect();
    block_on(engine.assign(&vnodes)).expect("no faults");
    let (mut state, mut order) = (88_172_645_463_325_252u64, 0);
    [false, true, true].map(|overwrite| {
        for n in 0..RECORDS {
            order += 1;
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            put(&engine, if overwrite { state % RECORDS } else { n }, order);
            if n % GROUP == GROUP - 1 {
                block_on(engine.commit()).expect("no faults");
                while let Some(job) = engine.next_job() {
                    block_on(engine.run(job)).expect("no faults");
                }
            }
        }
        engine.stats()
    })
}

/// Bytes written between two states by bytes put, without the log.
fn rewritten(before: &Stats, after: &Stats) -> f64 {
    let tables = |stats: &Stats| stats.flush_bytes + stats.compaction_bytes;
    (tables(after) - tables(before)) as f64 / (after.written_bytes - before.written_bytes) as f64
}

fn figures(strategy: Strategy) -> ([f64; 3], [f64; 3]) {
    let [load, once, twice] = run(strategy);
    let written = [rewritten(&Stats::default(), &load), rewritten(&load, &once), rewritten(&once, &twice)];
    let space = [&load, &once, &twice].map(Stats::space_amplification);
    let runs = [&load, &once, &twice].map(Stats::read_amplification);
    println!("{strategy:?}: written {written:.2?}, space {space:.2?}, runs {runs:.1?}");
    (written, space)
}

#[test]
fn amplification_stays_within_what_was_tuned() {
    let (leveled, leveled_space) = figures(Strategy::Leveled);
    let (tiered, tiered_space) = figures(Strategy::Tiered);
    for (found, most) in leveled.iter().zip([3.2, 4.7, 5.0]) {
        assert!(*found <= most, "{found:.2}, not {most} at most");
    }
    assert!(leveled_space.iter().all(|space| *space <= 1.25), "{leveled_space:?}");
    assert!(tiered.iter().zip(leveled).all(|(tiered, leveled)| *tiered < 0.8 * leveled), "{tiered:?}");
    assert!(tiered_space.iter().all(|space| *space <= 6.0), "{tiered_space:?}");
}
