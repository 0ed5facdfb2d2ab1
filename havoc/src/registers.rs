//! Registers: records that one writer each writes and reads at QUORUM, and that must never go back.
//!
//! What may be read is [`Checker`]'s to say; here is who writes, and what else holds in a table that keeps the last write: each
//! acknowledged write of a session has a higher version than its earlier ones, whichever node coordinated them and whatever its clock
//! said.
//!
//! A write of unknown outcome that a read has seen stays, too: before a read at QUORUM is answered a majority holds what it found.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ferrite_client::{BlockingClient, Key, Level, ReadOptions, Version, WriteOptions, WriteOutcome};
use ferrite_loadgen::chooser::Rng;
use ferrite_loadgen::record::{KeyWriter, Stamp, stamp_of, write_value};
use ferrite_loadgen::{Checker, Verdict};

/// Records of one writer that are in use.
const IN_USE: usize = 64;
/// Records that it can use in all: one with too many writes of unknown outcome, or with a violation, is given up for a new one.
const RECORDS_MAX: u64 = 200_000;
/// Bytes of a value: enough for memtables to be flushed now and then.
const VALUE_BYTES: usize = 1_500;
/// Longest time of one operation under faults.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Longest wait for a record to be readable, or writable at ALL, once all is whole again.
const HEALED_WITHIN: Duration = Duration::from_secs(30);
/// Rest between attempts at that.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// How operations ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Writes that reached their level.
    pub acknowledged: u64,
    /// Writes that certainly had no effect.
    pub not_applied: u64,
    /// Writes nobody can tell of.
    pub unknown: u64,
    /// Reads that were answered, and checked.
    pub reads: u64,
    /// Reads that were not.
    pub unread: u64,
}

impl Tally {
    /// All operations.
    pub fn operations(&self) -> u64 {
        self.acknowledged + self.not_applied + self.unknown + self.reads + self.unread
    }

    /// The sum of two.
    pub fn plus(self, other: Tally) -> Tally {
        Tally {
            acknowledged: self.acknowledged + other.acknowledged,
            not_applied: self.not_applied + other.not_applied,
            unknown: self.unknown + other.unknown,
            reads: self.reads + other.reads,
            unread: self.unread + other.unread,
        }
    }

    pub(crate) fn count(&mut self, outcome: &WriteOutcome) {
        match outcome {
            WriteOutcome::Done { .. } => self.acknowledged += 1,
            WriteOutcome::NotApplied(_) => self.not_applied += 1,
            WriteOutcome::Unknown(_) => self.unknown += 1,
        }
    }
}

/// The records of one writer.
pub struct Registers {
    name: String,
    run: u32,
    keys: KeyWriter,
    checker: Checker,
    rng: Rng,
    in_use: Vec<u64>,
    next: u64,
    /// Versions of the last acknowledged writes.
    versions: BTreeMap<u64, Version>,
    tally: Tally,
    violations: Vec<String>,
}

impl Registers {
    /// Records that nobody has written. Writers of a cluster differ in their names.
    pub fn new(name: &str, seed: u64) -> Registers {
        let run = seed as u32;
        Registers {
            name: name.to_owned(),
            run,
            keys: KeyWriter::new(name, false),
            checker: Checker::new(run, RECORDS_MAX, 1, VALUE_BYTES, true),
            rng: Rng::new(seed),
            in_use: (0..IN_USE as u64).collect(),
            next: IN_USE as u64,
            versions: BTreeMap::new(),
            tally: Tally::default(),
            violations: Vec::new(),
        }
    }

    /// How its operations ended so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// What was wrong, since this was asked last.
    pub fn take_violations(&mut self) -> Vec<String> {
        std::mem::take(&mut self.violations)
    }

    /// Writes and reads until told to stop, whatever becomes of it.
    pub fn run(&mut self, client: &mut BlockingClient, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            let record = self.in_use[self.rng.below(IN_USE as u64) as usize];
            if self.rng.below(2) == 0 {
                self.write(client, record, Level::Quorum);
            } else {
                self.read(client, record);
            }
        }
    }

    /// Writes a record once; false = it was not acknowledged.
    fn write(&mut self, client: &mut BlockingClient, record: u64, level: Level) -> bool {
        let Some(counter) = self.checker.begin_write(record) else {
            // Too many writes of it have unknown outcomes.
            self.give_up(record);
            return true;
        };
        let mut value = Vec::new();
        write_value(record, Stamp { run: self.run, counter }, VALUE_BYTES, &mut value);
        let options = WriteOptions { level: Some(level), timeout: Some(TIMEOUT), ..WriteOptions::default() };
        let outcome = client.put(Key::plain(self.keys.key(record)), &value, options);
        self.tally.count(&outcome);
        match outcome {
            WriteOutcome::Done { version, .. } => {
                self.checker.acknowledged(record, counter);
                let earlier = self.versions.insert(record, version);
                if let Some(earlier) = earlier.filter(|earlier| order(earlier) >= order(&version)) {
                    self.give_up(record);
                    self.violations.push(format!(
                        "{} {record}: write {counter} was acknowledged as version {version:?}, an earlier one as {earlier:?}",
                        self.name
                    ));
                }
                true
            }
            WriteOutcome::NotApplied(_) => {
                self.checker.refused(record, counter);
                false
            }
            WriteOutcome::Unknown(_) => {
                self.checker.unknown(record, counter);
                false
            }
        }
    }

    /// Reads a record once; false = there was no answer.
    fn read(&mut self, client: &mut BlockingClient, record: u64) -> bool {
        let floor = self.checker.begin_read(record);
        let options = ReadOptions { level: Some(Level::Quorum), timeout: Some(TIMEOUT) };
        let Ok(found) = client.get(Key::plain(self.keys.key(record)), options) else {
            self.tally.unread += 1;
            return false;
        };
        self.tally.reads += 1;
        let stamp = found.as_ref().and_then(|value| stamp_of(record, &value.bytes, VALUE_BYTES));
        let verdict =
            self.checker.end_read(record, floor, found.as_ref().map(|value| value.bytes.as_slice()));
        if !matches!(verdict, Verdict::Fine) {
            self.give_up(record);
            self.violations.push(format!(
                "{} {record}: {verdict:?}: found {stamp:?} of version {:?}, write {floor} was acknowledged as {:?}",
                self.name,
                found.map(|value| value.version),
                self.versions.get(&record)
            ));
        }
        true
    }

    /// Takes a new record in place of one that nothing more can be learned from.
    fn give_up(&mut self, record: u64) {
        assert!(self.next < RECORDS_MAX, "a writer has records for days");
        if let Some(slot) = self.in_use.iter_mut().find(|used| **used == record) {
            *slot = self.next;
            self.next += 1;
        }
    }

    /// Reads all records, once all is whole again.
    pub fn check(&mut self, client: &mut BlockingClient) {
        self.all("read at QUORUM", |registers, record| registers.read(client, record));
    }

    /// Writes all records at ALL, so that any one copy may be lost.
    pub fn level(&mut self, client: &mut BlockingClient) {
        self.all("written at ALL", |registers, record| registers.write(client, record, Level::All));
    }

    fn all(&mut self, what: &str, mut attempt: impl FnMut(&mut Registers, u64) -> bool) {
        for record in self.in_use.clone() {
            let deadline = Instant::now() + HEALED_WITHIN;
            while !attempt(self, record) {
                if Instant::now() > deadline {
                    self.violations.push(format!(
                        "{} {record} cannot be {what} {} s after all was whole again",
                        self.name,
                        HEALED_WITHIN.as_secs()
                    ));
                    return;
                }
                std::thread::sleep(RETRY_PAUSE);
            }
        }
    }
}

/// What decides between two versions.
fn order(version: &Version) -> (u64, u64) {
    (version.order.0, version.actor.0)
}
