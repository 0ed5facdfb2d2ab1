//! The budget of a core's memory under every kind of load: what the engine says it has stays within it, and is what the
//! allocator says it has.

#![allow(unsafe_code, reason = "a counting allocator")]

#[path = "rig/heap.rs"]
mod heap;
#[path = "rig/plain_disk.rs"]
mod plain_disk;
mod rig;

use std::ops::ControlFlow;
use std::pin::pin;

use ferrite_lsm::log::LogOptions;
use ferrite_lsm::mem_disk::MemPace;
use ferrite_lsm::mem_disk::run::{block_on, poll_once};
use ferrite_lsm::{
    Direction, Engine, KeyBuf, KeyRange, Memory, Options, Record, RecordFlags, Refusal, ScanLimits,
    TableOptions,
};
use heap::{CountingAllocator, live_bytes, take_peak_bytes};
use plain_disk::PlainDisk;
use rig::{Random, VNODES, key};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

type HeapEngine = Engine<PlainDisk, MemPace>;

const MIB: usize = 1 << 20;
/// What the engine has beside the parts of its budget: itself, its catalog and manifest, the state of what runs.
const STRUCTURES_BYTES_MAX: i64 = 128 << 10;
const STORES: u16 = 6;
const KEYS: u64 = 50_000;
/// What the disk may lend: runs of blocks for each source of a merge, and groups.
const BUFFER_BYTES: usize = 2 * MIB;

fn options(entropy: u128, memory_bytes: usize) -> Options {
    let mut options = Options::new(0, (1..=STORES).collect(), entropy);
    options.memory_bytes = memory_bytes;
    options.buffer_bytes = BUFFER_BYTES;
    options.memtable_bytes = 2 * MIB;
    options.log = LogOptions { segment_bytes: 2 << 20, group_bytes: 128 << 10, ..LogOptions::new(1) };
    options.table = TableOptions { write_bytes: 32 << 10, ..TableOptions::default() };
    options.table_bytes = 512 << 10;
    options.l0_tables_trigger = 3;
    options.level_base_bytes = 512 << 10;
    options.large_value_bytes = Some(3_000);
    options
}

async fn open(disk: &PlainDisk, options: Options) -> HeapEngine {
    let opened = Engine::open(disk.clone(), MemPace::yielding(50), options).await;
    let (engine, _) = opened.expect("nothing fails");
    let missing = (0..VNODES).filter(|&vnode| engine.vnode_store(vnode).is_none());
    let missing: Vec<(u16, u16)> = missing.map(|vnode| (vnode, 1 + vnode % STORES)).collect();
    engine.assign(&missing).await.expect("nothing fails");
    engine
}

struct Load {
    disk: PlainDisk,
    engine: HeapEngine,
    random: Random,
    order: u64,
    base_bytes: i64,
    refused: u64,
}

impl Load {
    fn new(seed: u64, memory_bytes: usize) -> Load {
        let base_bytes = live_bytes();
        // The peak of another load, which may have ended in a panic, is not this one's.
        take_peak_bytes();
        let disk = PlainDisk::default();
        let engine = block_on(open(&disk, options(u128::from(seed), memory_bytes)));
        let random = Random::new(seed);
        Load { disk, engine, random, order: 0, base_bytes, refused: 0 }
    }

    /// Between steps.
    fn check(&mut self) {
        let memory = self.check_inside();
        let live = live_bytes() - self.base_bytes;
        let beside = live - memory.used_bytes() as i64;
        assert!(beside <= STRUCTURES_BYTES_MAX, "{beside} bytes alive beside {memory:?}");
        // Builds count what they will come to, and tables a little more than what they have.
        let tables: u64 = self.engine.stats().tables.iter().sum();
        let early = memory.build_bytes as i64 + tables as i64 * 1024;
        assert!(beside >= -early, "{beside} bytes alive beside {memory:?}");
        let over = take_peak_bytes() - self.base_bytes - memory.budget_bytes as i64;
        assert!(over <= STRUCTURES_BYTES_MAX, "{over} bytes alive above the budget: {memory:?}");
    }

    /// Stages and commits a few writes; what is refused is left out.
    fn write(&mut self, keys: u64, value_bytes: u64) {
        for _ in 0..1 + self.random.below(40) {
            self.order += 1;
            let value = vec![self.order as u8; self.random.below(value_bytes + 1) as usize];
            let flags = RecordFlags(0);
            let record = Record { order: self.order, actor: 1, flags, expiry_ms: 0, value: &value };
            let key: KeyBuf = key(self.random.below(keys));
            match self.engine.stage(key.as_key(), record, 0) {
                Ok(_) => {}
                Err(Refusal::Overloaded) => {
                    self.refused += 1;
                    break;
                }
                Err(refusal) => panic!("{refusal:?}"),
            }
        }
        block_on(self.engine.commit()).expect("nothing fails");
    }

    /// Writes while no job is done, until that is refused.
    fn burst(&mut self) {
        let before = self.refused;
        while self.refused < before + 20 {
            self.write(KEYS, 1_000);
            self.check();
        }
    }

    fn read(&mut self, keys: u64) {
        for _ in 0..20 {
            let key = key(self.random.below(keys));
            block_on(self.engine.read(key.as_key())).expect("nothing fails");
        }
    }

    /// Scans a vnode; at its end a job is done, which may drop what the scan holds.
    fn scan(&mut self) {
        let vnode = self.random.below(u64::from(VNODES)) as u16;
        let range = KeyRange::vnode(1, vnode);
        let limits = ScanLimits::records(1 + self.random.below(300) as usize);
        let engine = self.engine.clone();
        let walk = engine.scan(&range, Direction::Forward, limits, |_, _| ControlFlow::Continue(()));
        let mut walk = pin!(walk);
        while poll_once(walk.as_mut()).is_none() {
            self.work();
            self.check_inside();
        }
    }

    /// Does a job; reads and writes go on meanwhile.
    fn work(&mut self) {
        let Some(job) = self.engine.next_job() else { return };
        let engine = self.engine.clone();
        let mut run = pin!(async move { engine.run(job).await });
        while poll_once(run.as_mut()).is_none() {
            match self.random.below(8) {
                0 => self.write(KEYS, 300),
                1..3 => self.read(KEYS),
                _ => {}
            }
            self.check_inside();
        }
    }

    /// At any moment: with the share of buffers that is set aside in place of those in use, the parts stay within the budget.
    fn check_inside(&self) -> Memory {
        let memory = self.engine.stats().memory;
        assert!(memory.buffer_bytes <= BUFFER_BYTES as u64, "{memory:?}");
        let set_aside = BUFFER_BYTES as u64 - memory.buffer_bytes;
        assert!(memory.used_bytes() + set_aside <= memory.budget_bytes, "{memory:?}");
        memory
    }

    /// Gives every key a value, so that the tables are several times the budget.
    fn fill(&mut self) {
        let value = [7; 300];
        for n in 0..KEYS {
            self.order += 1;
            let record =
                Record { order: self.order, actor: 1, flags: RecordFlags(0), expiry_ms: 0, value: &value };
            while self.engine.stage(key(n).as_key(), record, 0).is_err() {
                block_on(self.engine.commit()).expect("nothing fails");
                self.work();
            }
        }
    }

    fn reopen(&mut self, memory_bytes: usize) {
        if self.random.below(2) == 0 {
            block_on(self.engine.close()).expect("nothing fails");
        }
        let entropy = u128::from(self.random.next());
        // The old one is gone before the new one comes.
        let placeholder = PlainDisk::default();
        self.engine = block_on(open(&placeholder, options(1, memory_bytes)));
        self.engine = block_on(open(&self.disk, options(entropy, memory_bytes)));
    }
}

fn load(seed: u64, memory_bytes: usize, steps: usize) -> Load {
    let mut load = Load::new(seed, memory_bytes);
    load.fill();
    for _ in 0..steps {
        match load.random.below(64) {
            0..24 => load.write(KEYS, 300),
            24..28 => load.write(KEYS, 4_000),
            28 => load.write(KEYS, 100_000),
            29..44 => load.read(KEYS),
            44..46 => load.scan(),
            46..63 => load.work(),
            _ if load.random.below(20) == 0 => load.burst(),
            _ if load.random.below(20) == 0 => load.reopen(memory_bytes),
            _ => load.read(KEYS),
        }
        load.check();
    }
    load
}

#[test]
fn no_load_exceeds_the_budget_and_the_parts_are_what_is_alive() {
    for (seed, memory_bytes) in (1..).zip([6 * MIB, 8 * MIB, 12 * MIB, 16 * MIB, 64 * MIB]) {
        let load = load(seed, memory_bytes, 8_000);
        assert!(load.refused > 0, "it was never short of memory");
    }
}

/// A move copied what was written since its last flush, twice, and asked nobody whether there was room for it.
#[test]
fn a_move_among_a_flood_of_writes_stays_within_the_budget() {
    // Made before memory is counted.
    let mut taken = Vec::with_capacity(1 << 18);
    let mut load = Load::new(1, 8 * MIB);
    let keyed = |vnode: u16, n: u64| key(u64::from(VNODES) * n + u64::from(vnode));
    let stage = |load: &mut Load, vnode: u16, value_bytes: usize| {
        load.order += 1;
        let value = vec![vnode as u8; value_bytes];
        let record =
            Record { order: load.order, actor: 1, flags: RecordFlags(0), expiry_ms: 0, value: &value };
        let staged = load.engine.stage(keyed(vnode, load.order).as_key(), record, 0);
        staged.map(|_| block_on(load.engine.commit()).expect("nothing fails")).is_ok().then_some(load.order)
    };
    // But for the buffers of merges of so many small tables: a real disk refuses those.
    let check = |load: &Load| {
        let memory = load.engine.stats().memory;
        let parts = memory.used_bytes() - memory.buffer_bytes + BUFFER_BYTES as u64;
        assert!(parts <= memory.budget_bytes, "{memory:?}");
    };
    let mut came_meanwhile = 0;
    for round in 0..7 {
        let (vnode, to) = (load.random.below(u64::from(VNODES)) as u16, 1 + round % STORES);
        for _ in 0..1_000 {
            while stage(&mut load, vnode, 300).is_none() {
                load.work();
            }
        }
        let engine = load.engine.clone();
        let mut moving = pin!(engine.move_vnode(vnode, to));
        while poll_once(moving.as_mut()).is_none() {
            while let Some(order) = stage(&mut load, vnode, 2_000) {
                taken.push(order);
                check(&load);
            }
        }
        assert_eq!(load.engine.vnode_store(vnode), Some(to));
        check(&load);
        came_meanwhile += taken.len();
        assert!(taken.len() < taken.capacity());
        for order in taken.drain(..) {
            let found = block_on(load.engine.read(keyed(vnode, order).as_key())).expect("nothing fails");
            assert!(found.is_some(), "{order}");
        }
        while load.engine.next_job().is_some() {
            load.work();
        }
    }
    assert!(came_meanwhile > 3_000, "{came_meanwhile} writes");
}

#[test]
#[cfg(feature = "planted-bugs")]
fn a_cache_that_does_not_give_way_is_found() {
    rig::planted::caught(ferrite_lsm::planted::Bug::CacheKeepsItsShare, 0..12, |seed| {
        load(seed, 8 * MIB, 8_000);
        Ok(())
    });
}
