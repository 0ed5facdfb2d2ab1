//! Power cuts at every I/O step of a history, in every mode.
//!
//! One history runs on a disk whose operations wait until the test lets them complete, in a random order; commits and jobs
//! overlap. Before each completion the test takes an image of what a power cut would leave then, opens it, and compares:
//! every acknowledged write is there or a newer one is, and whatever is there is a record that was written, whole. What
//! somebody has read counts as acknowledged: it must not be taken back.
//!
//! `FERRITE_CRASH_SEEDS=100 cargo test --release -p ferrite-lsm --test engine crash::no_power_cut -- --nocapture` takes more histories.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;

use crate::rig::{self, Random, TestEngine, Write, apart_options, key, open_with, small_options, stage};
use ferrite_lsm::mem_disk::run::{block_on, poll_once, try_run};
use ferrite_lsm::mem_disk::{CrashMode, MemDisk, MemPace};
use ferrite_lsm::{CommitError, DiskError, Options, Seq, Strategy};

const KEYS: u64 = 120;
const OPERATIONS: usize = 500;

/// What was written, and what of it was acknowledged.
#[derive(Clone, Default)]
struct Ledger {
    written: BTreeMap<u64, Vec<Write>>,
    /// The winner per key.
    acknowledged: BTreeMap<u64, Write>,
}

impl Ledger {
    fn acknowledge(&mut self, write: Write) {
        rig::apply(&mut self.acknowledged, write);
    }

    fn check(&self, engine: &TestEngine) -> Result<(), String> {
        for n in 0..KEYS {
            let least = self.acknowledged.get(&n);
            let found =
                block_on(engine.read(key(n).as_key())).map_err(|error| format!("key {n}: {error}"))?;
            let Some(found) = found else {
                if let Some(least) = least {
                    return Err(format!("key {n}: {least:?} was acknowledged, and nothing is there"));
                }
                continue;
            };
            let record = found.record();
            let written = self.written.get(&n).map_or(&[][..], |written| written);
            let Some(write) = written.iter().find(|write| write.record(&write.value()) == record) else {
                return Err(format!("key {n}: nobody wrote {record:?}"));
            };
            if least.is_some_and(|least| (write.order, write.actor) < (least.order, least.actor)) {
                return Err(format!("key {n}: {least:?} was acknowledged, and {write:?} is there"));
            }
        }
        Ok(())
    }
}

type Pending<T> = Option<Pin<Box<dyn Future<Output = T>>>>;

/// The history, one completion at a time.
struct History {
    disk: MemDisk,
    engine: TestEngine,
    random: Random,
    ledger: Ledger,
    clock: u64,
    staged: Vec<(Seq, Write)>,
    commit: Pending<Result<Seq, CommitError>>,
    job: Pending<Result<(), DiskError>>,
    steps: u64,
    images: u64,
    opens: u128,
    /// Of each open.
    options: fn(u128) -> Options,
    /// So many writes come at once now and then.
    burst: usize,
    /// The last number of the group that is being committed, and of what is known to be durable.
    committing: Seq,
    durable: Seq,
    /// Steps at which a group was in memory in part.
    halves: u64,
}

impl History {
    fn new(seed: u64, options: fn(u128) -> Options, burst: usize) -> History {
        let disk = MemDisk::new();
        // Something always waits where groups are long.
        let pace = MemPace::yielding(if burst > 0 { 1 } else { 3 });
        let (engine, _) = block_on(open_with(&disk, pace, options(1))).expect("a fresh disk");
        disk.defer();
        History {
            disk,
            engine,
            random: Random::new(seed),
            ledger: Ledger::default(),
            clock: 0,
            staged: Vec::new(),
            commit: None,
            job: None,
            steps: 0,
            images: 0,
            opens: 1,
            options,
            burst,
            committing: Seq(0),
            durable: Seq(0),
            halves: 0,
        }
    }

    fn options(&self, entropy: u128) -> Options {
        (self.options)(entropy)
    }

    fn run(&mut self) -> Result<(), String> {
        let mut operations = 0;
        while operations < OPERATIONS {
            if self.random.below(3) > 0 || self.staged.len() < 8 {
                self.write(700);
                operations += 1;
            }
            if self.burst > 0 && self.commit.is_none() && self.random.below(8) == 0 {
                (0..self.burst).for_each(|_| self.write(60));
                operations += self.burst;
            }
            if self.commit.is_none() && (self.staged.len() > 3 || self.random.below(4) == 0) {
                let engine = self.engine.clone();
                self.committing = self.staged.last().map_or(self.committing, |(seq, _)| *seq);
                self.commit = Some(Box::pin(async move { engine.commit().await }));
            }
            if self.job.is_none()
                && let Some(job) = self.engine.next_job()
            {
                let engine = self.engine.clone();
                self.job = Some(Box::pin(async move { engine.run(job).await }));
            }
            self.poll();
            // Sometimes several completions pass before anything else happens.
            for _ in 0..=self.random.below(4) {
                self.step()?;
            }
        }
        while self.commit.is_some() || self.job.is_some() {
            self.step()?;
        }
        Ok(())
    }

    fn write(&mut self, bytes_max: u64) {
        self.clock += 1 + self.random.below(2);
        let late = if self.random.below(8) == 0 { self.random.below(100) } else { 0 };
        let write = Write {
            key: self.random.below(KEYS),
            order: self.clock.saturating_sub(late) + 1,
            // Unique, so that no two writes are alike.
            actor: self.clock,
            bytes: self.random.below(bytes_max) as usize,
            tombstone: self.random.below(12) == 0,
        };
        // An overloaded engine has refused: nothing was written.
        if let Ok(seq) = stage(&self.engine, &write) {
            self.ledger.written.entry(write.key).or_default().push(write);
            self.staged.push((seq, write));
        }
    }

    fn poll(&mut self) {
        if let Some(commit) = &mut self.commit
            && let Some(result) = poll_once(Pin::new(commit))
        {
            self.commit = None;
            let durable = result.expect("no faults");
            self.durable = durable;
            let ledger = &mut self.ledger;
            self.staged.retain(|(seq, write)| {
                if *seq <= durable {
                    ledger.acknowledge(*write);
                }
                *seq > durable
            });
        }
        if let Some(job) = &mut self.job
            && let Some(result) = poll_once(Pin::new(job))
        {
            self.job = None;
            result.expect("no faults");
        }
    }

    /// Reads a key from memory. Whoever saw a record relies on it.
    fn look(&mut self) {
        let n = self.random.below(KEYS);
        let seen =
            self.engine.get(key(n).as_key(), |record| record.map(|record| (record.order, record.actor)));
        let Ok(Some(version)) = seen else { return };
        let written = self.ledger.written.get(&n).map_or(&[][..], Vec::as_slice);
        if let Some(&write) = written.iter().find(|write| (write.order, write.actor) == version) {
            self.ledger.acknowledge(write);
        }
    }

    /// Takes the images, then lets one operation complete.
    fn step(&mut self) -> Result<(), String> {
        self.look();
        let in_flight = self.disk.in_flight(None);
        let is_half = self.is_half();
        self.halves += u64::from(is_half);
        if is_half || !in_flight.is_empty() {
            for mode in CrashMode::EVERY {
                self.cut(mode).map_err(|error| format!("step {}, {mode:?}: {error}", self.steps))?;
            }
        }
        if !in_flight.is_empty() {
            let chosen = in_flight[self.random.below(in_flight.len() as u64) as usize].id;
            assert!(self.disk.complete(chosen));
            self.steps += 1;
        }
        self.poll();
        Ok(())
    }

    /// Whether a group is in memory in part.
    fn is_half(&self) -> bool {
        self.burst > 0 && self.commit.is_some() && {
            let applied = self.engine.stats().applied;
            self.durable < applied && applied < self.committing
        }
    }

    fn cut(&mut self, mode: CrashMode) -> Result<(), String> {
        self.images += 1;
        self.opens += 1;
        let random = &mut self.random;
        let mut disk = self.disk.image(mode, &mut || random.next());
        if self.images.is_multiple_of(7) {
            // The power fails again while the engine opens.
            disk.crash_at(disk.steps() + random.below(12));
            let options = (self.options)(self.opens << 32);
            let _gone = try_run(open_with(&disk, MemPace::new(), options));
            disk = disk.crash(mode, &mut || random.next());
        }
        let opened = block_on(open_with(&disk, MemPace::new(), self.options(self.opens)));
        let (engine, recovery) = opened.map_err(|error| format!("not opened: {error}"))?;
        if !recovery.damage.is_empty() || recovery.clean {
            return Err(format!("a power cut is neither damage nor clean: {recovery:?}"));
        }
        self.ledger.check(&engine)?;
        if self.images.is_multiple_of(11) {
            self.go_on(&disk, engine)?;
        }
        Ok(())
    }

    /// What was recovered takes writes, and keeps them through a process's death.
    fn go_on(&mut self, disk: &MemDisk, engine: TestEngine) -> Result<(), String> {
        let mut ledger = self.ledger.clone();
        for n in 0..40 {
            let key = self.random.below(KEYS);
            let write = Write { key, order: self.clock + 50 + n, actor: 1, bytes: 100, tombstone: false };
            stage(&engine, &write).map_err(|refusal| format!("refused after recovery: {refusal}"))?;
            ledger.written.entry(key).or_default().push(write);
            ledger.acknowledge(write);
        }
        block_on(engine.commit()).map_err(|error| format!("after recovery: {error}"))?;
        block_on(rig::run_jobs(&engine)).map_err(|error| format!("after recovery: {error}"))?;
        ledger.check(&engine)?;
        drop(engine);
        let disk = disk.kill(&mut || 0);
        let opened = block_on(open_with(&disk, MemPace::new(), self.options(self.opens << 64)));
        let (engine, _) = opened.map_err(|error| format!("not opened again: {error}"))?;
        ledger.check(&engine)
    }
}

/// A history that passes for each seed from `first` on: one, or as many as are asked for.
fn enumerate_all(first: u64, options: fn(u128) -> Options) -> History {
    enumerate_bursts(first, options, 0)
}

/// As [`enumerate_all`], with so many writes at once now and then.
fn enumerate_bursts(first: u64, options: fn(u128) -> Options, burst: usize) -> History {
    let asked = std::env::var("FERRITE_CRASH_SEEDS").ok();
    let seeds = asked.map_or(1, |text| text.parse().expect("FERRITE_CRASH_SEEDS is a number"));
    let mut last = None;
    for seed in first..first + u64::max(seeds, 1) {
        let history = enumerate_with(seed, options, burst).unwrap_or_else(|error| panic!("{error}"));
        rig::count("crash states", history.images);
        last = Some(history);
    }
    last.expect("there is at least one seed")
}

#[cfg(feature = "planted-bugs")]
fn enumerate(seed: u64) -> Result<History, String> {
    enumerate_with(seed, small_options, 0)
}

fn enumerate_with(seed: u64, options: fn(u128) -> Options, burst: usize) -> Result<History, String> {
    let mut history = History::new(seed, options, burst);
    history.run().map_err(|error| format!("seed {seed}, {error}"))?;
    Ok(history)
}

#[test]
fn no_power_cut_loses_an_acknowledged_write() {
    let history = enumerate_all(1, small_options);
    let stats = history.engine.stats();
    assert!(stats.flushes > 4 && stats.compactions > 1, "{stats:?}");
    assert!(history.steps > 200 && history.images > 5 * 200, "{} steps", history.steps);
}

#[test]
fn no_power_cut_loses_an_acknowledged_write_of_tiered_stores() {
    let tiered = |entropy| Options { strategy: Strategy::Tiered, ..small_options(entropy) };
    let history = enumerate_all(2, tiered);
    let stats = history.engine.stats();
    assert!(stats.flushes > 4 && stats.compactions > 1, "{stats:?}");
}

#[test]
fn no_power_cut_loses_an_acknowledged_write_whose_value_is_apart() {
    let history = enumerate_all(3, apart_options);
    let stats = history.engine.stats();
    assert!(stats.flushes > 4 && stats.compactions > 1, "{stats:?}");
    assert!(stats.value_files > 1 && stats.collected_bytes > 0, "{stats:?}");
}

/// Groups of the other histories go into memory in one piece.
#[test]
fn no_power_cut_loses_an_acknowledged_write_of_a_group_that_is_applied_in_pieces() {
    let history = enumerate_bursts(4, small_options, 110);
    assert!(
        history.halves > 5,
        "the power was cut {} times while a group was in memory in part",
        history.halves
    );
    #[cfg(feature = "cover-marks")]
    assert!(ferrite_lsm::cover::take().contains_key("something ran while a group was applied"));
}

#[cfg(feature = "planted-bugs")]
mod planted {
    use super::{enumerate, enumerate_with};
    use crate::rig::apart_options;
    use crate::rig::planted::caught;
    use ferrite_lsm::planted::Bug;

    fn run(seed: u64) -> Result<(), String> {
        enumerate(seed).map(drop)
    }

    fn run_apart(seed: u64) -> Result<(), String> {
        enumerate_with(seed, apart_options, 0).map(drop)
    }

    #[test]
    fn an_acknowledgement_before_the_sync_is_caught() {
        caught(Bug::AckBeforeSync, 1..2, run);
    }

    #[test]
    fn a_record_that_is_read_before_its_sync_is_caught() {
        caught(Bug::AppliedBeforeSync, 1..3, run);
    }

    #[test]
    fn a_value_file_unlinked_while_tables_name_it_is_caught() {
        caught(Bug::LiveValuesUnlinked, 3..4, run_apart);
    }

    #[test]
    fn a_value_file_named_before_its_sync_is_caught() {
        caught(Bug::ValuesNamedBeforeSync, 3..5, run_apart);
    }

    #[test]
    fn a_skipped_directory_sync_is_caught() {
        caught(Bug::SkippedDirectorySync, 1..2, run);
    }
}
