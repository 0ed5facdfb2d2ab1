//! One history under many options: whatever the engine is told to be like, and however often it is stopped, it says the same.
//!
//! A history is a list of steps that is drawn from a seed and knows nothing of options: writes in and out of order, deletions,
//! expiries, slices of background work that other steps overtake, power cuts, floors, reads of every kind. It is replayed
//! under each set of options, and every answer is compared with a map that forgets nothing; so all sets agree with each
//! other. What a reader takes for absence (nothing, a tombstone, an expired record) is one answer: which of them is there
//! depends on what was merged already.
//!
//! `FERRITE_HISTORIES=100` replays as many histories instead of a few; `FERRITE_HISTORIES_FROM` is the first seed.

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;

use crate::rig::{Random, TestEngine, VNODES, small_options};
use ferrite_lsm::layout;
use ferrite_lsm::mem_disk::run::{block_on, poll_once, try_run};
use ferrite_lsm::mem_disk::{CrashMode, MemDisk, MemPace};
use ferrite_lsm::{
    Compression, Direction, DiskError, Engine, Key, KeyBuf, KeyRange, OpenError, Options, Prefix, Record,
    RecordFlags, Refusal, ScanLimits, Strategy,
};

const HISTORIES: u64 = 8;
const STEPS: usize = 450;
const KEYS: u64 = 240;
/// Sort keys of a partition.
const SORTS: u64 = 12;
const TABLES: u32 = 2;
/// Jobs that may come one after the other with nothing written in between: far more than there are tables.
const JOBS_MAX: usize = 2_000;

/// A set of options.
#[derive(Clone, Copy)]
struct Set {
    name: &'static str,
    stores: u16,
    /// Of each open, from 1.
    cores: fn(u64) -> u16,
    change: fn(&mut Options, u64),
}

const SETS: [Set; 13] = [
    Set { name: "small", stores: 2, cores: |_| 1, change: |_, _| {} },
    Set { name: "tiered", stores: 2, cores: |_| 1, change: |o, _| o.strategy = Strategy::Tiered },
    Set { name: "one store", stores: 1, cores: |_| 1, change: |o, _| o.level_base_bytes = 1 << 20 },
    Set { name: "four stores", stores: 4, cores: |_| 1, change: |o, _| o.level_fanout = 4 },
    Set {
        name: "tiny blocks, compressed",
        stores: 2,
        cores: |_| 1,
        change: |o, _| (o.table.block_bytes, o.table.compression) = (512, Compression::Lz4),
    },
    Set {
        name: "long blocks, no cache",
        stores: 2,
        cores: |_| 1,
        change: |o, _| (o.table.block_bytes, o.cache_bytes) = (32 << 10, 0),
    },
    Set {
        name: "no filters, all cached",
        stores: 2,
        cores: |_| 1,
        change: |o, _| (o.table.filter_bits_per_key, o.cache_bytes) = (0, 8 << 20),
    },
    Set {
        name: "tokens left out",
        stores: 3,
        cores: |_| 1,
        change: |o, _| (o.table.token_seed, o.table.block_bytes) = (Some(TOKEN_SEED), 1024),
    },
    Set { name: "values apart", stores: 2, cores: |_| 1, change: |o, _| o.large_value_bytes = Some(100) },
    Set {
        name: "values apart, tiered, compressed",
        stores: 2,
        cores: |_| 1,
        change: |o, _| {
            o.large_value_bytes = Some(40);
            o.strategy = Strategy::Tiered;
            o.table.compression = Compression::Lz4;
        },
    },
    Set { name: "hardly a flush", stores: 2, cores: |_| 1, change: |o, _| o.memtable_bytes = 4 << 20 },
    Set { name: "one core and two", stores: 4, cores: |open| 1 + (open % 2) as u16, change: |_, _| {} },
    Set {
        name: "another with each open",
        stores: 3,
        cores: |open| [1, 3, 2, 2][open as usize % 4],
        change: |o, open| {
            o.large_value_bytes = (open % 3 == 1).then_some(200);
            o.strategy = if open % 2 == 0 { Strategy::Tiered } else { Strategy::Leveled };
            o.table.compression = if open % 5 < 2 { Compression::Lz4 } else { Compression::None };
            o.table.block_bytes = [700, 4096, 9000][open as usize % 3];
            o.cache_bytes = [0, 64 << 10, 1 << 20][open as usize % 3];
        },
    },
];

const TOKEN_SEED: u64 = 77;

/// Few partitions with many sort keys; the tokens of half of them follow from the partition.
fn key(n: u64) -> KeyBuf {
    let number = n / SORTS;
    let partition = format!("partition {number}").into_bytes();
    let token = match number % 2 {
        0 => xxhash_rust::xxh3::xxh3_64_with_seed(&partition, TOKEN_SEED),
        _ => number % 3,
    };
    let vnode = (number % u64::from(VNODES)) as u16;
    let table = (number / u64::from(VNODES)) as u32 % TABLES;
    let sort = n % SORTS;
    let sort = if sort == 0 { Box::default() } else { sort.to_be_bytes()[(sort % 8) as usize..].into() };
    KeyBuf { prefix: Prefix { space: 1, vnode, table, token }, partition: partition.into(), sort }
}

#[derive(Clone, Copy, Debug)]
struct Write {
    key: u64,
    order: u64,
    /// Unique, so that no two versions tie.
    actor: u64,
    bytes: usize,
    tombstone: bool,
    /// 0 = never.
    expiry_ms: u64,
}

impl Write {
    fn value(&self) -> Vec<u8> {
        if self.tombstone {
            return Vec::new();
        }
        // Half of it compresses.
        let mut random = Random::new(self.actor);
        (0..self.bytes).map(|at| if at % 2 == 0 { self.order as u8 } else { random.next() as u8 }).collect()
    }

    fn stage(&self, engine: &TestEngine) -> Result<(), Refusal> {
        let flags = match (self.tombstone, self.expiry_ms) {
            (true, _) => RecordFlags::TOMBSTONE,
            (false, 0) => 0,
            (false, _) => RecordFlags::EXPIRES,
        };
        let (key, value) = (key(self.key), self.value());
        let flags = RecordFlags(flags);
        let record =
            Record { order: self.order, actor: self.actor, flags, expiry_ms: self.expiry_ms, value: &value };
        engine.stage(key.as_key(), record, 1).map(drop)
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// One group.
    Write(Vec<Write>),
    /// So many polls of a job of each core; what follows overtakes it.
    Slices(u64),
    /// Every job that is due.
    RunOut,
    /// A power cut; what was staged and not committed is gone. `again` = another, so many steps into the next open.
    Cut {
        staged: Vec<Write>,
        mode: CrashMode,
        again: Option<u64>,
    },
    /// A power cut so many steps into background work.
    CutJobs {
        steps: u64,
        mode: CrashMode,
    },
    Close,
    /// Compactions are stopped after so many polls, and the engine is closed.
    Abandon(u64),
    /// Nothing comes at or below `floor` any more; what expires until `passed_ms` has expired.
    Raise {
        floor: u64,
        passed_ms: u64,
    },
    Mark,
    Scrub(u64),
    /// Of each key by itself.
    Gets,
    Batch(Vec<u64>),
    /// In pieces of so many records, with slices of background work between them.
    Walk {
        range: KeyRange,
        direction: Direction,
        records: usize,
    },
}

/// Draws a history.
struct Source {
    random: Random,
    clock: u64,
    actor: u64,
    floor: u64,
    passed_ms: u64,
}

impl Source {
    fn write(&mut self) -> Write {
        self.clock += 1 + self.random.below(2);
        self.actor += 1;
        let order = match self.random.below(5) {
            // As late as the floor allows.
            0 => self.floor + 1 + self.random.below(self.clock - self.floor),
            _ => self.clock,
        };
        let bytes = match self.random.below(14) {
            0 => 2_000 + self.random.below(5_000),
            1 | 2 => 0,
            _ => self.random.below(300),
        } as usize;
        let tombstone = self.random.below(7) == 0;
        let expires = !tombstone && self.random.below(6) == 0;
        let expiry_ms = if expires { self.clock + self.random.below(300) } else { 0 };
        Write { key: self.random.below(KEYS), order, actor: self.actor, bytes, tombstone, expiry_ms }
    }

    fn writes(&mut self, most: u64) -> Vec<Write> {
        (0..=self.random.below(most)).map(|_| self.write()).collect()
    }

    fn mode(&mut self) -> CrashMode {
        CrashMode::EVERY[self.random.below(CrashMode::EVERY.len() as u64) as usize]
    }

    fn range(&mut self) -> KeyRange {
        let some = key(self.random.below(KEYS));
        let Prefix { vnode, table, .. } = some.prefix;
        match self.random.below(5) {
            0 => KeyRange::vnode(1, vnode),
            1 => KeyRange::table(1, vnode, table),
            2 => KeyRange::partition(some.prefix, &some.partition),
            3 => KeyRange::vnode(1, vnode).after(&some.as_key()),
            _ => KeyRange::table(1, vnode, table).before(&some.as_key()),
        }
    }

    fn step(&mut self) -> Step {
        match self.random.below(100) {
            0..=49 => Step::Write(self.writes(20)),
            50..=64 => Step::Slices(1 + self.random.below(40)),
            65..=67 => Step::RunOut,
            68..=70 => {
                let again = (self.random.below(2) == 0).then(|| self.random.below(30));
                Step::Cut { staged: self.writes(6), mode: self.mode(), again }
            }
            71 | 72 => Step::CutJobs { steps: self.random.below(60), mode: self.mode() },
            73 => Step::Close,
            74 => Step::Abandon(self.random.below(60)),
            75..=78 => {
                self.floor = self.floor.max(self.clock.saturating_sub(self.random.below(300)));
                self.passed_ms = self.passed_ms.max(self.clock.saturating_sub(self.random.below(300)));
                Step::Raise { floor: self.floor, passed_ms: self.passed_ms }
            }
            79 => Step::Mark,
            80 => Step::Scrub(1 << 14),
            81..=84 => Step::Gets,
            85..=91 => Step::Batch((0..self.random.below(50)).map(|_| self.random.below(KEYS)).collect()),
            _ => {
                let direction =
                    if self.random.below(2) == 0 { Direction::Forward } else { Direction::Reverse };
                let records = [1, 3, 10, 70, 1_000][self.random.below(5) as usize];
                Step::Walk { range: self.range(), direction, records }
            }
        }
    }
}

fn draw(seed: u64) -> Vec<Step> {
    let mut source = Source { random: Random::new(seed), clock: 1_000, actor: 0, floor: 0, passed_ms: 0 };
    (0..STEPS)
        .map(|_| source.step())
        .chain([Step::Gets, Step::RunOut, Step::Gets, Step::Close, Step::Gets])
        .collect()
}

type Running = Option<Pin<Box<dyn Future<Output = Result<(), DiskError>>>>>;

/// A core that runs.
struct Core {
    engine: TestEngine,
    running: Running,
}

impl Core {
    fn poll(&mut self) {
        if self.running.is_none()
            && let Some(job) = self.engine.next_job()
        {
            let engine = self.engine.clone();
            self.running = Some(Box::pin(async move { engine.run(job).await }));
        }
        if let Some(running) = &mut self.running
            && let Some(result) = poll_once(running.as_mut())
        {
            result.expect("no faults");
            self.running = None;
        }
    }

    async fn finish(&mut self) {
        if let Some(running) = self.running.take() {
            running.await.expect("no faults");
        }
    }

    async fn run_out(&mut self) {
        self.finish().await;
        for _ in 0..JOBS_MAX {
            let Some(job) = self.engine.next_job() else { return };
            self.engine.run(job).await.expect("no faults");
        }
        panic!("background work without an end: {:?}", self.engine.stats());
    }
}

/// A node under one set of options, and what is in it.
struct Replay {
    set: Set,
    disk: MemDisk,
    opens: u64,
    cores: Vec<Core>,
    core_of: BTreeMap<u16, usize>,
    model: BTreeMap<KeyBuf, Write>,
    floor: u64,
    passed_ms: u64,
    cuts: u64,
    answers: u64,
    random: Random,
}

type Answer = Option<(u64, u64, Vec<u8>)>;

impl Replay {
    fn new(set: Set) -> Replay {
        let mut replay = Replay {
            set,
            disk: MemDisk::new(),
            opens: 0,
            cores: Vec::new(),
            core_of: BTreeMap::new(),
            model: BTreeMap::new(),
            floor: 0,
            passed_ms: 0,
            cuts: 0,
            answers: 0,
            random: Random::new(9),
        };
        replay.open();
        replay
    }

    fn options(&self, core: u16, stores: Vec<u16>) -> Options {
        let entropy = u128::from(self.opens) << 32 | u128::from(core);
        let mut options = Options { core, stores, ..small_options(entropy) };
        (self.set.change)(&mut options, self.opens);
        options
    }

    async fn start(&self) -> Result<(Vec<Core>, BTreeMap<u16, usize>), OpenError> {
        let (disk, wanted, pace) = (&self.disk, (self.set.cores)(self.opens), MemPace::yielding(2));
        let from = layout::find(disk).await?;
        if let Some(from) = &from {
            layout::clean(disk, &from.layout).await?;
        }
        let layout = match &from {
            Some(from) if from.layout.cores() == wanted => from.layout.clone(),
            Some(_) | None => {
                let opened = |core, stores| self.options(core, stores);
                let shape = (wanted, self.set.stores);
                layout::change(disk, &pace, from.as_ref(), shape, opened, |_| {}).await?.layout
            }
        };
        let store_of: BTreeMap<u16, u16> = layout.vnodes().iter().copied().collect();
        let place = |vnode: u16| store_of.get(&vnode).copied().unwrap_or(vnode % self.set.stores);
        let (mut cores, mut core_of) = (Vec::new(), BTreeMap::new());
        for index in 0..wanted {
            let owned: Vec<u16> = (0..layout.stores()).filter(|store| store % wanted == index).collect();
            let options = self.options(layout.core_number(index), owned.clone());
            let options = Options { layout: Some(layout.mark(index)), ..options };
            let (engine, recovery) = Engine::open(disk.clone(), MemPace::yielding(2), options).await?;
            assert!(recovery.damage.is_empty(), "{}: a power cut is no damage: {recovery:?}", self.set.name);
            let mine = (0..VNODES).map(|vnode| (vnode, place(vnode)));
            let mine: Vec<(u16, u16)> = mine.filter(|(_, store)| owned.contains(store)).collect();
            engine.assign(&mine).await?;
            core_of.extend(mine.iter().map(|&(vnode, _)| (vnode, usize::from(index))));
            cores.push(Core { engine, running: None });
        }
        Ok((cores, core_of))
    }

    fn open(&mut self) {
        self.opens += 1;
        let started = block_on(self.start());
        (self.cores, self.core_of) = started.unwrap_or_else(|error| panic!("{}: {error}", self.set.name));
        self.raise();
    }

    fn cut(&mut self, mode: CrashMode) {
        self.cuts += 1;
        let disk = self.disk.crash(mode, &mut || self.random.next());
        self.cores.clear();
        self.disk = disk;
    }

    fn raise(&self) {
        for (&vnode, &core) in &self.core_of {
            let engine = &self.cores[core].engine;
            (0..TABLES).for_each(|table| engine.set_floor(vnode, table, self.floor));
        }
        self.cores.iter().for_each(|core| core.engine.set_expired(self.passed_ms));
    }

    fn at(&self, key: &KeyBuf) -> usize {
        self.core_of[&key.prefix.vnode]
    }

    fn write(&mut self, writes: &[Write]) {
        for write in writes {
            let at = self.at(&key(write.key));
            let core = &mut self.cores[at];
            if let Err(refusal) = write.stage(&core.engine) {
                assert_eq!(refusal, Refusal::Overloaded);
                block_on(core.engine.commit()).expect("no faults");
                block_on(core.run_out());
                write.stage(&core.engine).expect("all work is done");
            }
        }
        for core in &self.cores {
            block_on(core.engine.commit()).expect("no faults");
        }
        for write in writes {
            let slot = self.model.entry(key(write.key)).or_insert(*write);
            if (write.order, write.actor) > (slot.order, slot.actor) {
                *slot = *write;
            }
        }
    }

    /// What a reader sees of a record.
    fn seen(&self, record: Record<'_>) -> Answer {
        assert_eq!(record.flags.0 & !RecordFlags::OUTSIDE, 0, "the engine's marks stay inside");
        let expired = record.expiry_ms > 0 && record.expiry_ms <= self.passed_ms;
        let absent = record.flags.0 & RecordFlags::TOMBSTONE != 0 || expired;
        (!absent).then(|| (record.order, record.actor, record.value.to_vec()))
    }

    fn expected(&self, key: &KeyBuf) -> Answer {
        let write = self.model.get(key)?;
        let expired = write.expiry_ms > 0 && write.expiry_ms <= self.passed_ms;
        (!write.tombstone && !expired).then(|| (write.order, write.actor, write.value()))
    }

    fn gets(&mut self) {
        for n in 0..KEYS {
            let key = key(n);
            let engine = &self.cores[self.at(&key)].engine;
            let expected = self.expected(&key);
            let quick = engine.get(key.as_key(), |record| record.and_then(|record| self.seen(record)));
            if let Ok(quick) = quick {
                assert_eq!(quick, expected, "{}: get of key {n}", self.set.name);
            }
            let found = block_on(engine.read(key.as_key())).expect("the disk is sound");
            let found = found.and_then(|found| self.seen(found.record()));
            assert_eq!(found, expected, "{}: read of key {n}", self.set.name);
        }
        self.answers += KEYS;
    }

    fn batch(&mut self, numbers: &[u64]) {
        for (at, core) in self.cores.iter().enumerate() {
            let bufs: Vec<KeyBuf> =
                numbers.iter().map(|n| key(*n)).filter(|key| self.at(key) == at).collect();
            let keys: Vec<Key<'_>> = bufs.iter().map(KeyBuf::as_key).collect();
            let mut shown = 0;
            core.engine.get_batch(&keys, |at, record| {
                assert_eq!(at, shown);
                shown += 1;
                if let Ok(record) = record {
                    let seen = record.and_then(|record| self.seen(record));
                    assert_eq!(seen, self.expected(&bufs[at]), "{}: {:?}", self.set.name, bufs[at]);
                }
            });
            assert_eq!(shown, keys.len());
        }
        self.answers += numbers.len() as u64;
    }

    fn walk(&mut self, range: &KeyRange, direction: Direction, records: usize) {
        let at = self.at(&range.low().to_buf());
        let mut shown = Vec::new();
        let mut left = Some(range.clone());
        while let Some(range) = left {
            let engine = self.cores[at].engine.clone();
            let visit = |key: Key<'_>, record: Record<'_>| {
                if let Some(seen) = self.seen(record) {
                    shown.push((key.to_buf(), seen));
                }
                ControlFlow::Continue(())
            };
            let walked = block_on(engine.scan(&range, direction, ScanLimits::records(records), visit));
            left = walked.expect("the disk is sound");
            self.cores[at].poll();
        }
        let inside = self.model.keys().filter(|key| range.contains(&key.as_key()));
        let mut expected: Vec<_> =
            inside.filter_map(|key| Some((key.clone(), self.expected(key)?))).collect();
        if direction == Direction::Reverse {
            expected.reverse();
        }
        assert_eq!(shown, expected, "{}: {direction:?} by {records} in {range:?}", self.set.name);
        self.answers += 1;
    }

    fn close(&mut self) {
        for core in &mut self.cores {
            block_on(core.finish());
            block_on(core.engine.close()).expect("no faults");
        }
        self.cores.clear();
        self.open();
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Write(writes) => self.write(writes),
            Step::Slices(polls) => {
                (0..*polls).for_each(|_| self.cores.iter_mut().for_each(Core::poll));
            }
            Step::RunOut => self.cores.iter_mut().for_each(|core| block_on(core.run_out())),
            Step::Cut { staged, mode, again } => {
                for write in staged {
                    // A full engine refuses: that is lost as well.
                    let _refused = write.stage(&self.cores[self.at(&key(write.key))].engine);
                }
                self.cut(*mode);
                if let Some(steps) = again {
                    self.opens += 1;
                    self.disk.crash_at(self.disk.steps() + steps);
                    let _gone = try_run(self.start());
                    self.cut(*mode);
                }
                self.open();
            }
            Step::CutJobs { steps, mode } => {
                self.disk.crash_at(self.disk.steps() + steps);
                // Polls, not jobs: after the cut nothing completes any more.
                for _ in 0..400 {
                    self.cores.iter_mut().for_each(Core::poll);
                }
                self.cut(*mode);
                self.open();
            }
            Step::Close => self.close(),
            Step::Abandon(polls) => {
                (0..*polls).for_each(|_| self.cores.iter_mut().for_each(Core::poll));
                self.cores.iter().for_each(|core| core.engine.stop_compactions());
                self.close();
            }
            Step::Raise { floor, passed_ms } => {
                (self.floor, self.passed_ms) = (*floor, *passed_ms);
                self.raise();
            }
            Step::Mark => self.cores.iter().for_each(|core| block_on(core.engine.mark())),
            Step::Scrub(bytes) => self.cores.iter().for_each(|core| core.engine.allow_scrub(*bytes)),
            Step::Gets => self.gets(),
            Step::Batch(keys) => self.batch(keys),
            Step::Walk { range, direction, records } => self.walk(range, *direction, *records),
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn one_history_has_the_same_answers_under_all_options() {
    let first = number("FERRITE_HISTORIES_FROM").unwrap_or(0);
    let (mut replays, mut cuts, mut answers, mut jobs) = (0, 0, 0, [0; 2]);
    for seed in first..first + number("FERRITE_HISTORIES").unwrap_or(HISTORIES) {
        let steps = draw(seed);
        for set in SETS {
            let mut replay = Replay::new(set);
            for (at, step) in steps.iter().enumerate() {
                let stepped = std::panic::AssertUnwindSafe(|| replay.step(step));
                if let Err(panic) = std::panic::catch_unwind(stepped) {
                    eprintln!("seed {seed}, {}, step {at} of {}: {step:?}", set.name, steps.len());
                    std::panic::resume_unwind(panic);
                }
                for core in &replay.cores {
                    let stats = core.engine.stats();
                    jobs = [jobs[0].max(stats.flushes), jobs[1].max(stats.compactions)];
                }
            }
            (replays, cuts, answers) = (replays + 1, cuts + replay.cuts, answers + replay.answers);
        }
    }
    println!("counted: histories replayed {replays}");
    println!("counted: power cuts in histories {cuts}");
    println!("counted: answers compared {answers}");
    assert!(jobs[0] > 1 && jobs[1] > 1 && cuts > replays, "{jobs:?}, {cuts} cuts");
}
