//! What compaction leaves out is never missed: deletions and expiries stay in force whatever is delivered late.
//!
//! Floors rise behind the writers: nothing staged after a floor was set is at or below it, but what was staged before may be, and
//! may still be on its way when a compaction runs. Whatever the engine purges, a reader that takes tombstones and expired
//! records for absence sees what a map says that forgets nothing.

use std::collections::BTreeMap;

use crate::rig::{self, Random, TestEngine, VNODES, key, open, small_options};
use ferrite_lsm::mem_disk::run::{block_on, poll_once};
use ferrite_lsm::mem_disk::{CrashMode, MemDisk};
use ferrite_lsm::{Options, Record, RecordFlags};

const KEYS: u64 = 90;
const TABLE: u32 = 7;

/// One sorted level, so that most merges reach the bottom.
fn options(entropy: u128) -> Options {
    Options { level_base_bytes: 1 << 20, ..small_options(entropy) }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    order: u64,
    /// Unique, so that no two versions tie.
    actor: u64,
    tombstone: bool,
    expiry_ms: u64,
}

struct History {
    disk: MemDisk,
    engine: TestEngine,
    random: Random,
    clock: u64,
    floor: u64,
    model: BTreeMap<u64, Version>,
    staged: Vec<(u64, Version)>,
    options: fn(u128) -> Options,
    opens: u128,
}

impl History {
    fn new(seed: u64, options: fn(u128) -> Options) -> History {
        let disk = MemDisk::new();
        let (engine, _) = open(&disk, options(1)).expect("a fresh disk");
        let random = Random::new(seed);
        let (model, staged) = (BTreeMap::new(), Vec::new());
        History { disk, engine, random, clock: 1_000, floor: 0, model, staged, options, opens: 1 }
    }

    fn stage(&mut self) {
        self.clock += 1;
        let n = self.random.below(KEYS);
        // As late as the floor allows.
        let order = match self.random.below(4) {
            0 => self.floor + 1 + self.random.below(self.clock - self.floor),
            _ => self.clock,
        };
        let expiry_ms = match self.random.below(4) {
            0 => self.clock + self.random.below(200),
            _ => 0,
        };
        let version = Version { order, actor: self.clock, tombstone: self.random.below(3) == 0, expiry_ms };
        let flags = match version {
            Version { tombstone: true, .. } => RecordFlags::TOMBSTONE,
            Version { expiry_ms: 0, .. } => 0,
            Version { .. } => RecordFlags::EXPIRES,
        };
        let expiry_ms = if version.tombstone { 0 } else { expiry_ms };
        let value = vec![n as u8; if version.tombstone { 0 } else { 600 }];
        let record = Record { order, actor: self.clock, flags: RecordFlags(flags), expiry_ms, value: &value };
        if self.engine.stage(key(n).as_key(), record, 1).is_ok() {
            self.staged.push((n, Version { expiry_ms, ..version }));
        }
    }

    fn commit(&mut self) {
        block_on(self.engine.commit()).expect("no faults");
        for (n, version) in self.staged.drain(..) {
            let slot = self.model.entry(n).or_insert(version);
            if (version.order, version.actor) > (slot.order, slot.actor) {
                *slot = version;
            }
        }
    }

    fn raise(&mut self) {
        self.floor = self.clock.saturating_sub(self.random.below(60)).max(self.floor);
        self.set_floors();
    }

    fn set_floors(&self) {
        (0..VNODES).for_each(|vnode| self.engine.set_floor(vnode, TABLE, self.floor));
        self.engine.set_expired(self.floor);
    }

    fn jobs(&mut self) {
        for _ in 0..1 + self.random.below(6) {
            let Some(job) = self.engine.next_job() else { return };
            block_on(self.engine.run(job)).expect("no faults");
        }
    }

    fn reopen(&mut self) {
        self.opens += 1;
        let (engine, _) = open(&self.disk, (self.options)(self.opens)).expect("nothing was damaged");
        self.engine = engine;
        self.set_floors();
    }

    /// What a reader sees of a key: nothing of what is deleted or has expired.
    fn check(&self) -> Result<(), String> {
        self.check_of(&self.engine)
    }

    fn check_of(&self, engine: &TestEngine) -> Result<(), String> {
        for n in 0..KEYS {
            let found =
                block_on(engine.read(key(n).as_key())).map_err(|error| format!("key {n}: {error}"))?;
            let found = found.and_then(|found| {
                let record = found.record();
                let expired = record.expiry_ms > 0 && record.expiry_ms <= self.floor;
                (record.flags.0 & RecordFlags::TOMBSTONE == 0 && !expired).then_some(record.order)
            });
            let expected = self.model.get(&n).filter(|version| {
                !version.tombstone && (version.expiry_ms == 0 || version.expiry_ms > self.floor)
            });
            if found != expected.map(|version| version.order) {
                return Err(format!(
                    "key {n}: {found:?} is there, not {expected:?}, floor {}, {:?}",
                    self.floor,
                    self.model.get(&n)
                ));
            }
        }
        Ok(())
    }

    fn run(&mut self, rounds: usize) -> Result<(), String> {
        for _ in 0..rounds {
            match self.random.below(100) {
                0..=49 => (0..=self.random.below(6)).for_each(|_| self.stage()),
                50..=69 => self.commit(),
                70..=89 => self.jobs(),
                90..=96 => self.raise(),
                97..=98 => self.check()?,
                _ => {
                    self.commit();
                    self.reopen();
                }
            }
        }
        self.commit();
        self.check()?;
        run_out(&self.engine);
        self.check()
    }
}

fn run(seed: u64) -> Result<History, String> {
    run_with(seed, options)
}

fn run_with(seed: u64, options: fn(u128) -> Options) -> Result<History, String> {
    let mut history = History::new(seed, options);
    history.run(1_500).map_err(|error| format!("seed {seed}, {error}"))?;
    Ok(history)
}

#[test]
fn what_is_purged_is_never_missed() {
    for seed in 0..10 {
        run(seed).unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn nothing_that_is_purged_on_its_way_down_is_missed() {
    for seed in 0..10 {
        run_with(seed, small_options).unwrap_or_else(|error| panic!("{error}"));
    }
}

/// The floors are forgotten with the process: what was purged before is gone all the same, and nothing that it hid is back.
#[test]
fn a_power_cut_at_any_step_of_a_purge_brings_nothing_back() {
    let mut history = History::new(5, options);
    history.run(600).unwrap_or_else(|error| panic!("{error}"));
    let (mut cuts, mut purges) = (0, 0);
    while purges < 6 {
        // Work to purge, and a floor above all of it.
        while history.engine.next_job().is_none_or(|job| !job.is_compaction()) {
            (0..6).for_each(|_| history.stage());
            history.commit();
            history.raise();
            match history.engine.next_job() {
                Some(job) if !job.is_compaction() => block_on(history.engine.run(job)).expect("no faults"),
                Some(_) | None => {}
            }
        }
        history.floor = history.clock;
        history.set_floors();
        let before: u64 = history.engine.stats().table_bytes.iter().sum();
        history.disk.defer();
        let engine = history.engine.clone();
        let mut job = Box::pin(async move { engine.run(engine.next_job().expect("it is due")).await });
        while poll_once(job.as_mut()).is_none() {
            for mode in CrashMode::EVERY {
                cuts += 1;
                let image = history.disk.image(mode, &mut || history.random.next());
                let (engine, recovery) =
                    open(&image, options(1_000 + cuts)).expect("a power cut is no damage");
                assert!(recovery.damage.is_empty());
                history.check_of(&engine).unwrap_or_else(|error| panic!("{mode:?}, cut {cuts}: {error}"));
            }
            history.disk.complete_all();
        }
        purges += u64::from(history.engine.stats().table_bytes.iter().sum::<u64>() < before);
        drop(job);
        history.disk = history.disk.kill(&mut || 0);
        history.reopen();
        history.check().unwrap_or_else(|error| panic!("{error}"));
    }
    rig::count("crash states", cuts as u64);
    assert!(cuts > 200, "{cuts} power cuts");
}

/// Runs jobs until none is due, which must come to pass.
fn run_out(engine: &TestEngine) {
    for _ in 0..200 {
        let Some(job) = engine.next_job() else { return };
        block_on(engine.run(job)).expect("no faults");
    }
    panic!("background work without an end: {:?}", engine.stats());
}

/// An expired record whose key lives on in a memtable could not be left out, was written again as it was, and so its table was due
/// again, for ever. It is buried instead, once.
#[test]
fn an_expired_record_that_hides_another_is_not_rewritten_for_ever() {
    let disk = MemDisk::new();
    let (engine, _) = open(&disk, options(1)).expect("a fresh disk");
    let put = |n: u64, order: u64, record: Record<'_>| {
        engine.stage(key(n).as_key(), Record { order, ..record }, 1).expect("there is room");
        block_on(engine.commit()).expect("no faults");
    };
    let expiring = |flags| Record {
        order: 0,
        actor: 1,
        flags: RecordFlags(RecordFlags::EXPIRES | flags),
        expiry_ms: 50,
        value: &[7; 600],
    };
    for n in 0..40 {
        // A set of siblings stays whatever its expiry, which must not make its table due either.
        let flags = if n % 2 == 0 { 0 } else { RecordFlags::SIBLINGS };
        put(n, 10, expiring(flags));
    }
    // Enough beside them for flushes, and merges down to the last level.
    let long = vec![1; 20 << 10];
    let plain = Record { flags: RecordFlags(0), expiry_ms: 0, ..expiring(0) };
    for order in 20..24 {
        (40..48).for_each(|n| put(n, order, Record { value: &long, ..plain }));
        run_out(&engine);
    }
    assert!(engine.stats().compactions > 0);
    // The keys live on in the memtables, in an older version.
    (0..40).for_each(|n| put(n, 5, Record { value: b"old", ..plain }));
    (0..VNODES).for_each(|vnode| engine.set_floor(vnode, TABLE, 100));
    engine.set_expired(100);
    run_out(&engine);
    let before = engine.stats().compaction_bytes;
    engine.set_expired(101);
    run_out(&engine);
    assert_eq!(engine.stats().compaction_bytes, before, "nothing is left to gain");
    for n in (0..40).step_by(2) {
        let found = block_on(engine.read(key(n).as_key())).expect("no faults").expect("it hides the old one");
        assert_eq!((found.record().order, found.record().flags.0), (10, RecordFlags::TOMBSTONE), "key {n}");
    }
}

#[cfg(feature = "planted-bugs")]
mod planted {
    use super::{run, run_with};
    use crate::rig::planted::caught;
    use crate::rig::small_options;
    use ferrite_lsm::planted::Bug;

    fn run_one(seed: u64) -> Result<(), String> {
        run(seed).map(drop)
    }

    #[test]
    fn a_purge_that_ignores_the_memtable_is_caught() {
        caught(Bug::PurgeIgnoresMemtable, 0..40, run_one);
    }

    #[test]
    fn a_purge_that_ignores_what_is_on_its_way_is_caught() {
        caught(Bug::PurgeIgnoresPending, 0..40, run_one);
    }

    #[test]
    fn a_purge_that_ignores_tables_outside_the_merge_is_caught() {
        // Deep stores: what the tombstone hides lies below the level that is merged into.
        caught(Bug::PurgeIgnoresTables, 0..40, |seed| run_with(seed, small_options).map(drop));
    }
}
