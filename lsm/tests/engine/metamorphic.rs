//! Options change how the engine works, never what it answers: one random history under many sets of options, and against a map.
//!
//! A history is drawn once from its seed: late writes, deletions, expiries, floors, background work, power cuts in the middle of it,
//! reopenings. Under every set of options each of its questions (gets, batches, walks both ways in pieces) has the answer that
//! the map gives; so any two sets agree. What is deleted or has expired counts as absent: how soon it is purged is an option's business.
//!
//! `FERRITE_HISTORIES=500 cargo test --release -p ferrite-lsm --test engine metamorphic:: -- --nocapture` runs more of them.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use crate::rig::{self, Random, TestEngine, VNODES, open, small_options};
use ferrite_lsm::mem_disk::run::{block_on, poll_once};
use ferrite_lsm::mem_disk::{CrashMode, MemDisk};
use ferrite_lsm::{
    Compression, Direction, Key, KeyBuf, KeyRange, Options, Prefix, Record, RecordFlags, Refusal, ScanLimits,
    Strategy,
};
use xxhash_rust::xxh3::xxh3_64_with_seed;

const KEYS: u64 = 160;
const TABLES: u32 = 2;
const SEED: u64 = 7;
const STEPS: usize = 500;
const HISTORIES: u64 = 4;
/// Jobs that may be due at once; more would never end.
const JOBS_MAX: usize = 500;

/// Some partitions of several sort keys, some keys alone.
fn key(n: u64) -> KeyBuf {
    let partition = format!("partition {}", if n.is_multiple_of(2) { n / 16 } else { n });
    let token = xxh3_64_with_seed(partition.as_bytes(), SEED);
    let prefix = Prefix {
        space: 1,
        vnode: (token >> 32) as u16 % VNODES,
        table: 7 + (token >> 50) as u32 % TABLES,
        token,
    };
    let sort = if n.is_multiple_of(2) { n.to_be_bytes()[6..].into() } else { Box::default() };
    KeyBuf { prefix, partition: partition.into_bytes().into(), sort }
}

/// A record as it was written. Actors are unique, so no two versions tie.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Version {
    order: u64,
    actor: u64,
    tombstone: bool,
    expiry_ms: u64,
    len: usize,
}

impl Version {
    fn value(&self) -> Vec<u8> {
        (0..self.len as u64).map(|at| (self.actor ^ at.wrapping_mul(self.order)) as u8).collect()
    }

    fn is_visible(&self, floor: u64) -> bool {
        !self.tombstone && (self.expiry_ms == 0 || self.expiry_ms > floor)
    }
}

/// What a history consists of.
#[derive(Clone, Debug)]
enum Step {
    Put(u64, Version),
    Commit,
    Jobs(usize),
    /// All that is due, to the end.
    Settle,
    Floor(u64),
    Scrub,
    /// The power goes after so many steps of a job.
    Cut(usize, usize),
    Close,
    Ask(u64),
}

fn history(seed: u64) -> Vec<Step> {
    let mut random = Random::new(seed);
    let (mut clock, mut floor) = (1_000, 0);
    let mut steps = Vec::new();
    for _ in 0..STEPS {
        match random.below(100) {
            0..=59 => {
                for _ in 0..=random.below(8) {
                    clock += 1;
                    // As late as the floor allows.
                    let late = random.below(5) == 0;
                    let order = if late { floor + 1 + random.below(clock - floor) } else { clock };
                    let tombstone = random.below(5) == 0;
                    let expires = !tombstone && random.below(5) == 0;
                    let expiry_ms = if expires { clock + random.below(150) } else { 0 };
                    let len = match random.below(12) {
                        _ if tombstone => 0,
                        0 => 2_500,
                        1..=3 => 400,
                        _ => random.below(100) as usize,
                    };
                    let version = Version { order, actor: clock, tombstone, expiry_ms, len };
                    steps.push(Step::Put(random.below(KEYS), version));
                }
                if random.below(4) > 0 {
                    steps.push(Step::Commit);
                }
            }
            60..=76 => steps.push(Step::Jobs(1 + random.below(4) as usize)),
            77 => steps.push(Step::Settle),
            78..=84 => {
                floor = clock.saturating_sub(random.below(80)).max(floor);
                steps.push(Step::Floor(floor));
            }
            85 => steps.push(Step::Scrub),
            86..=89 => {
                let mode = random.below(CrashMode::EVERY.len() as u64) as usize;
                steps.push(Step::Cut(random.below(40) as usize, mode));
            }
            90 => steps.push(Step::Close),
            _ => steps.push(Step::Ask(random.next())),
        }
    }
    steps.extend([Step::Commit, Step::Floor(clock), Step::Settle, Step::Ask(1), Step::Close, Step::Ask(2)]);
    steps
}

/// Sets of options, by name. What differs is what is named.
fn sets() -> Vec<(&'static str, Options)> {
    let set = |name, change: &dyn Fn(&mut Options)| {
        let mut options = small_options(1);
        options.memtable_bytes = 48 << 10;
        options.table.token_seed = Some(SEED);
        // No group has to go early because it owes much: what is committed when is the history's business.
        options.write_delay_max_us = u64::MAX;
        change(&mut options);
        (name, options)
    };
    vec![
        set("two stores, leveled", &|_| {}),
        set("tokens kept", &|options| options.table.token_seed = None),
        set("one store", &|options| options.stores = vec![3]),
        set("four stores", &|options| options.stores = vec![3, 5, 8, 9]),
        set("tiered", &|options| options.strategy = Strategy::Tiered),
        set("each its own strategy", &|options| options.strategy_of = [(5, Strategy::Tiered)].into()),
        set("one sorted level", &|options| options.level_base_bytes = 1 << 20),
        set("small blocks, not compressed", &|options| {
            options.table.block_bytes = 512;
            options.table.compression = Compression::None;
        }),
        set("long values apart", &|options| options.large_value_bytes = Some(150)),
        set("nearly all values apart, tiered", &|options| {
            options.large_value_bytes = Some(10);
            options.strategy = Strategy::Tiered;
        }),
        set("no filter, no cache", &|options| {
            options.table.filter_bits_per_key = 0;
            options.cache_bytes = 8 << 10;
        }),
        set("small tables and segments", &|options| {
            options.table_bytes = 8 << 10;
            options.log.segment_bytes = 64 << 10;
            options.manifest_bytes_max = 4 << 10;
        }),
        set("no record cache", &|options| options.record_cache_bytes = Some(0)),
        set("all in the record cache", &|options| {
            options.cache_bytes = 1 << 20;
            options.record_cache_bytes = Some(512 << 10);
        }),
        set("all in memory", &|options| options.memtable_bytes = 4 << 20),
    ]
}

/// What a run came by.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    answers: u64,
    cuts: u64,
    flushes: u64,
    merges: u64,
}

struct Run {
    disk: MemDisk,
    engine: TestEngine,
    options: Options,
    random: Random,
    floor: u64,
    model: BTreeMap<u64, Version>,
    staged: Vec<(u64, Version)>,
    tally: Tally,
}

impl Run {
    fn new(options: Options) -> Run {
        let disk = MemDisk::new();
        let (engine, _) = open(&disk, options.clone()).expect("a fresh disk");
        let random = Random::new(9);
        let (model, staged, tally) = (BTreeMap::new(), Vec::new(), Tally::default());
        Run { disk, engine, options, random, floor: 0, model, staged, tally }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Put(n, version) => self.put(*n, version),
            Step::Commit => self.commit(),
            Step::Jobs(jobs) => drop(self.jobs(*jobs)),
            Step::Settle => assert!(self.jobs(JOBS_MAX), "background work without an end"),
            Step::Floor(floor) => {
                self.floor = *floor;
                self.set_floors();
            }
            Step::Scrub => {
                self.engine.allow_scrub(64 << 10);
                self.jobs(2);
            }
            Step::Cut(polls, mode) => self.cut(*polls, CrashMode::EVERY[*mode]),
            Step::Close => {
                self.commit();
                block_on(self.engine.close()).expect("no faults");
                self.reopen();
            }
            Step::Ask(seed) => self.ask(&mut Random::new(*seed)),
        }
    }

    fn put(&mut self, n: u64, version: &Version) {
        let flags = match version {
            Version { tombstone: true, .. } => RecordFlags::TOMBSTONE,
            Version { expiry_ms: 0, .. } => 0,
            Version { .. } => RecordFlags::EXPIRES,
        };
        let value = version.value();
        let record = Record {
            order: version.order,
            actor: version.actor,
            flags: RecordFlags(flags),
            expiry_ms: version.expiry_ms,
            value: &value,
        };
        let key = key(n);
        let mut tries = 0;
        // A group is never full here: only background work makes room, so that every set of options commits the same.
        while let Err(refusal) = self.engine.stage(key.as_key(), record, 1) {
            assert_eq!(refusal, Refusal::Overloaded);
            self.jobs(1);
            tries += 1;
            assert!(tries < JOBS_MAX, "no room, whatever is done");
        }
        self.staged.push((n, version.clone()));
        let bytes: usize = self.staged.iter().map(|(_, version)| version.len + 100).sum();
        if bytes > 16 << 10 {
            self.commit();
        }
    }

    fn commit(&mut self) {
        block_on(self.engine.commit()).expect("no faults");
        for (n, version) in self.staged.drain(..) {
            let slot = self.model.entry(n).or_insert_with(|| version.clone());
            if (version.order, version.actor) > (slot.order, slot.actor) {
                *slot = version;
            }
        }
    }

    /// Runs up to so many jobs; whether none is due after that.
    fn jobs(&mut self, jobs: usize) -> bool {
        for _ in 0..jobs {
            let Some(job) = self.engine.next_job() else { return true };
            block_on(self.engine.run(job)).expect("no faults");
        }
        self.engine.next_job().is_none()
    }

    fn set_floors(&self) {
        for vnode in 0..VNODES {
            (7..7 + TABLES).for_each(|table| self.engine.set_floor(vnode, table, self.floor));
        }
        self.engine.set_expired(self.floor);
    }

    fn reopen(&mut self) {
        let stats = self.engine.stats();
        self.tally.flushes += stats.flushes;
        self.tally.merges += stats.compactions;
        self.options.entropy += 1;
        let (engine, recovery) = open(&self.disk, self.options.clone()).expect("nothing was damaged");
        assert_eq!(recovery.damage, []);
        self.engine = engine;
        self.set_floors();
    }

    /// The power goes while a job runs. What is staged is lost, what was committed is not.
    fn cut(&mut self, polls: usize, mode: CrashMode) {
        if let Some(job) = self.engine.next_job() {
            self.disk.defer();
            let engine = self.engine.clone();
            let mut running = Box::pin(async move { engine.run(job).await });
            for _ in 0..polls {
                if poll_once(running.as_mut()).is_some() {
                    break;
                }
                self.disk.complete_all();
            }
        }
        let random = &mut self.random;
        self.disk = self.disk.image(mode, &mut || random.next());
        self.staged.clear();
        self.tally.cuts += 1;
        self.reopen();
    }

    fn expected(&self, n: u64) -> Option<&Version> {
        self.model.get(&n).filter(|version| version.is_visible(self.floor))
    }

    /// What a reader makes of a record.
    fn visible(&self, record: Option<Record<'_>>) -> Option<(u64, u64, Vec<u8>)> {
        let record = record?;
        assert_eq!(record.flags.0 & !RecordFlags::OUTSIDE, 0, "the engine's marks stay inside");
        let expired = record.expiry_ms > 0 && record.expiry_ms <= self.floor;
        let deleted = record.flags.0 & RecordFlags::TOMBSTONE != 0;
        (!deleted && !expired).then(|| (record.order, record.actor, record.value.to_vec()))
    }

    fn ask(&mut self, random: &mut Random) {
        let told = |version: &Version| (version.order, version.actor, version.value());
        for n in 0..KEYS {
            let expected = self.expected(n).map(told);
            let buf = key(n);
            if let Ok(found) = self.engine.get(buf.as_key(), |record| self.visible(record)) {
                assert_eq!(found, expected, "key {n}");
            }
            let found = block_on(self.engine.read(buf.as_key())).expect("no faults");
            assert_eq!(
                self.visible(found.as_ref().map(ferrite_lsm::Found::record)),
                expected,
                "key {n}, by read"
            );
        }
        let numbers: Vec<u64> = (0..random.below(40)).map(|_| random.below(KEYS)).collect();
        let bufs: Vec<KeyBuf> = numbers.iter().map(|n| key(*n)).collect();
        let keys: Vec<Key<'_>> = bufs.iter().map(KeyBuf::as_key).collect();
        self.engine.get_batch(&keys, |at, record| {
            if let Ok(record) = record {
                let n = numbers[at];
                assert_eq!(self.visible(record), self.expected(n).map(told), "key {n}, in a batch");
            }
        });
        for direction in [Direction::Forward, Direction::Reverse] {
            self.walk(random, direction);
        }
        self.tally.answers += 2 * KEYS + numbers.len() as u64 + 2;
    }

    fn walk(&self, random: &mut Random, direction: Direction) {
        let some = key(random.below(KEYS));
        let vnode = random.below(VNODES.into()) as u16;
        let range = match random.below(5) {
            0 => KeyRange::vnode(1, vnode),
            1 => KeyRange::table(1, vnode, 7 + random.below(TABLES.into()) as u32),
            2 => KeyRange::partition(some.prefix, &some.partition),
            3 => KeyRange::vnode(1, some.prefix.vnode).after(&some.as_key()),
            _ => KeyRange::vnode(1, some.prefix.vnode).before(&some.as_key()),
        };
        let limits = ScanLimits::records([1, 3, 20, 1000][random.below(4) as usize]);
        let (mut shown, mut left) = (Vec::new(), Some(range.clone()));
        while let Some(rest) = left {
            let visit = |key: Key<'_>, record: Record<'_>| {
                shown.extend(self.visible(Some(record)).map(|seen| (key.to_buf(), seen)));
                ControlFlow::Continue(())
            };
            left = block_on(self.engine.scan(&rest, direction, limits, visit)).expect("no faults");
        }
        let inside = (0..KEYS).filter(|n| range.contains(&key(*n).as_key()));
        let mut expected: Vec<_> = inside
            .filter_map(|n| {
                self.expected(n).map(|version| (key(n), (version.order, version.actor, version.value())))
            })
            .collect();
        expected.sort();
        if direction == Direction::Reverse {
            expected.reverse();
        }
        assert_eq!(shown, expected, "{range:?} {direction:?}");
    }
}

#[test]
fn options_do_not_change_answers() {
    let asked = std::env::var("FERRITE_HISTORIES").ok();
    let histories = asked.map_or(HISTORIES, |text| text.parse().expect("FERRITE_HISTORIES is a number"));
    let (mut total, mut runs) = (Tally::default(), 0);
    for seed in 0..histories {
        let steps = history(seed);
        for (name, options) in sets() {
            let mut run = Run::new(options);
            for (at, step) in steps.iter().enumerate() {
                let where_ = Where { seed, name, at };
                run.step(step);
                std::mem::forget(where_);
            }
            run.reopen();
            runs += 1;
            total.answers += run.tally.answers;
            total.cuts += run.tally.cuts;
            total.flushes += run.tally.flushes;
            total.merges += run.tally.merges;
        }
    }
    println!("{histories} histories, {runs} runs: {total:?}");
    rig::count("histories replayed", runs);
    rig::count("power cuts in histories", total.cuts);
    rig::count("answers compared", total.answers);
    assert!(total.cuts > 100 && total.flushes > 500 && total.merges > 500, "{total:?}");
}

#[test]
#[cfg(feature = "planted-bugs")]
fn a_record_cache_that_is_not_told_of_a_write_is_found() {
    use ferrite_lsm::planted::{Bug, plant};
    let caught = std::panic::catch_unwind(|| {
        plant(Some(Bug::RecordCacheMissesWrite));
        let mut run = Run::new(small_options(1));
        history(0).iter().for_each(|step| run.step(step));
    });
    plant(None);
    assert!(caught.is_err());
}

/// Says where a run was when it failed.
struct Where {
    seed: u64,
    name: &'static str,
    at: usize,
}

impl Drop for Where {
    fn drop(&mut self) {
        eprintln!("history {}, \"{}\", step {}", self.seed, self.name, self.at);
    }
}
