//! A node under one set of options, to which a history happens, and a map that forgets nothing, with which its answers are compared.

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;

use super::sets::Set;
use super::steps::{KEYS, Step, TABLES, Write, key};
use crate::rig::{Random, TestEngine, VNODES, small_options};
use ferrite_lsm::layout;
use ferrite_lsm::mem_disk::run::{block_on, poll_once, try_run};
use ferrite_lsm::mem_disk::{CrashMode, MemDisk, MemPace};
use ferrite_lsm::{
    Direction, DiskError, Engine, Key, KeyBuf, KeyRange, OpenError, Options, Record, RecordFlags, Refusal,
    ScanLimits,
};

/// Jobs that may come one after the other with nothing written in between: far more than there are tables.
pub(super) const JOBS_MAX: usize = 2_000;

pub(super) type Running = Option<Pin<Box<dyn Future<Output = Result<(), DiskError>>>>>;

/// A core that runs.
pub(super) struct Core {
    pub(super) engine: TestEngine,
    pub(super) running: Running,
}

impl Core {
    pub(super) fn poll(&mut self) {
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

    pub(super) async fn finish(&mut self) {
        if let Some(running) = self.running.take() {
            running.await.expect("no faults");
        }
    }

    pub(super) async fn run_out(&mut self) {
        self.finish().await;
        for _ in 0..JOBS_MAX {
            let Some(job) = self.engine.next_job() else { return };
            self.engine.run(job).await.expect("no faults");
        }
        panic!("background work without an end: {:?}", self.engine.stats());
    }
}

/// A node under one set of options, and what is in it.
pub(super) struct Replay {
    pub(super) set: Set,
    pub(super) disk: MemDisk,
    pub(super) opens: u64,
    pub(super) cores: Vec<Core>,
    pub(super) core_of: BTreeMap<u16, usize>,
    pub(super) model: BTreeMap<KeyBuf, Write>,
    pub(super) floor: u64,
    pub(super) passed_ms: u64,
    pub(super) cuts: u64,
    pub(super) answers: u64,
    pub(super) random: Random,
}

pub(super) type Answer = Option<(u64, u64, Vec<u8>)>;

impl Replay {
    pub(super) fn new(set: Set) -> Replay {
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

    pub(super) fn options(&self, core: u16, stores: Vec<u16>) -> Options {
        let entropy = u128::from(self.opens) << 32 | u128::from(core);
        let mut options = Options { core, stores, ..small_options(entropy) };
        (self.set.change)(&mut options, self.opens);
        options
    }

    pub(super) async fn start(&self) -> Result<(Vec<Core>, BTreeMap<u16, usize>), OpenError> {
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

    pub(super) fn open(&mut self) {
        self.opens += 1;
        let started = block_on(self.start());
        (self.cores, self.core_of) = started.unwrap_or_else(|error| panic!("{}: {error}", self.set.name));
        self.raise();
    }

    pub(super) fn cut(&mut self, mode: CrashMode) {
        self.cuts += 1;
        let disk = self.disk.crash(mode, &mut || self.random.next());
        self.cores.clear();
        self.disk = disk;
    }

    pub(super) fn raise(&self) {
        for (&vnode, &core) in &self.core_of {
            let engine = &self.cores[core].engine;
            (0..TABLES).for_each(|table| engine.set_floor(vnode, table, self.floor));
        }
        self.cores.iter().for_each(|core| core.engine.set_expired(self.passed_ms));
    }

    pub(super) fn at(&self, key: &KeyBuf) -> usize {
        self.core_of[&key.prefix.vnode]
    }

    pub(super) fn write(&mut self, writes: &[Write]) {
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
    pub(super) fn seen(&self, record: Record<'_>) -> Answer {
        assert_eq!(record.flags.0 & !RecordFlags::OUTSIDE, 0, "the engine's marks stay inside");
        let expired = record.expiry_ms > 0 && record.expiry_ms <= self.passed_ms;
        let absent = record.flags.0 & RecordFlags::TOMBSTONE != 0 || expired;
        (!absent).then(|| (record.order, record.actor, record.value.to_vec()))
    }

    pub(super) fn expected(&self, key: &KeyBuf) -> Answer {
        let write = self.model.get(key)?;
        let expired = write.expiry_ms > 0 && write.expiry_ms <= self.passed_ms;
        (!write.tombstone && !expired).then(|| (write.order, write.actor, write.value()))
    }

    pub(super) fn gets(&mut self) {
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

    pub(super) fn batch(&mut self, numbers: &[u64]) {
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

    pub(super) fn walk(&mut self, range: &KeyRange, direction: Direction, records: usize) {
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

    pub(super) fn close(&mut self) {
        for core in &mut self.cores {
            block_on(core.finish());
            block_on(core.engine.close()).expect("no faults");
        }
        self.cores.clear();
        self.open();
    }

    pub(super) fn step(&mut self, step: &Step) {
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
