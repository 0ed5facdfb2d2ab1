//! Who wrote what, how each write ended, and what may therefore be read.
//!
//! A key is written again and again, one write at a time, each with the next count. A read must find the last acknowledged
//! write or one whose version is higher; and whatever it finds, nothing that was refused as "not applied".

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use ferrite_client::{
    BlockingClient, Key, Level, ReadOptions, Record, Value, Version, WriteOptions, WriteOutcome,
};

use crate::cluster::WITHIN;
use crate::random::Random;

/// Writes of one writer under way.
const WINDOW: usize = 24;
/// How long a write may take: short, so that those whose node was killed do not hold up the test.
const WRITE_TIMEOUT: Duration = Duration::from_secs(3);
/// Keys of one multi-get: together below a frame's length.
const READ_KEYS: usize = 64;

/// What is known of one key.
#[derive(Clone, Debug, Default)]
struct Known {
    tried: u64,
    acknowledged: Option<(Version, u64)>,
    unknown: BTreeSet<u64>,
}

/// How many writes ended how.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) acknowledged: u64,
    pub(crate) not_applied: u64,
    pub(crate) unknown: u64,
}

/// Acknowledged writes of all writers, for those who wait for some.
#[derive(Default)]
pub(crate) struct Progress {
    acknowledged: Mutex<u64>,
    grown: Condvar,
}

impl Progress {
    fn add(&self) {
        *self.acknowledged.lock().expect("no writer panicked") += 1;
        self.grown.notify_all();
    }

    /// Waits until so many more writes have been acknowledged.
    pub(crate) fn wait_for(&self, more: u64) {
        let acknowledged = self.acknowledged.lock().expect("no writer panicked");
        let goal = *acknowledged + more;
        let (acknowledged, _) = self
            .grown
            .wait_timeout_while(acknowledged, WITHIN, |acknowledged| *acknowledged < goal)
            .expect("no writer panicked");
        assert!(*acknowledged >= goal, "writes stopped being acknowledged: {acknowledged} of {goal}");
    }
}

/// Lets the writers end, also when the test has failed: they are waited for.
pub(crate) struct StopAtEnd<'a>(pub(crate) &'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The keys of one writer.
pub(crate) struct Ledger {
    prefix: String,
    keys: Vec<Known>,
    tally: Tally,
    longest: usize,
}

impl Ledger {
    /// So many keys that nothing is known of; values are up to `longest` bytes.
    pub(crate) fn new(prefix: &str, keys: usize, longest: usize) -> Ledger {
        let (prefix, keys) = (prefix.to_owned(), vec![Known::default(); keys]);
        Ledger { prefix, keys, tally: Tally::default(), longest }
    }

    pub(crate) fn tally(&self) -> Tally {
        self.tally
    }

    fn name(&self, key: usize) -> String {
        format!("{} {key}", self.prefix)
    }

    /// A value that says which write it is from and is good for nothing when a byte of it is wrong.
    fn value(&self, key: usize, count: u64) -> Vec<u8> {
        let mut random = Random((key as u64) << 32 | count);
        let mut bytes = format!("{key} {count} ").into_bytes();
        let len = bytes.len() + random.below(self.longest);
        while bytes.len() < len {
            bytes.extend_from_slice(&random.next().to_le_bytes());
        }
        bytes
    }

    fn count_of(&self, key: usize, bytes: &[u8]) -> u64 {
        let count = bytes.split(|byte| *byte == b' ').nth(1).and_then(|text| std::str::from_utf8(text).ok());
        let count = count.and_then(|text| text.parse().ok()).expect("a value begins with its key and count");
        assert!(self.value(key, count) == bytes, "{}: a value is as it was written", self.name(key));
        count
    }

    /// Writes keys in turn until told to stop, whatever becomes of the writes.
    pub(crate) fn write(&mut self, client: &mut BlockingClient, stop: &AtomicBool, progress: &Progress) {
        // No key is under way twice: its outcomes could not be told apart.
        let free: RefCell<VecDeque<usize>> = RefCell::new((0..self.keys.len()).collect());
        let taken = RefCell::new(BTreeMap::new());
        let ledger = RefCell::new(self);
        let mut next = 0u64;
        let records = std::iter::from_fn(|| {
            if stop.load(Ordering::Relaxed) {
                return None;
            }
            let mut ledger = ledger.borrow_mut();
            let key = free.borrow_mut().pop_front().expect("more keys than writes under way");
            ledger.keys[key].tried += 1;
            let count = ledger.keys[key].tried;
            taken.borrow_mut().insert(next, (key, count));
            next += 1;
            Some(Record::plain(ledger.name(key), ledger.value(key, count)))
        });
        let (level, timeout) = (Some(Level::Quorum), Some(WRITE_TIMEOUT));
        let options = WriteOptions { level, timeout, ..WriteOptions::default() };
        client.put_many(records, options, WINDOW, |number, outcome| {
            let (key, count) = taken.borrow_mut().remove(&number).expect("it was tried");
            free.borrow_mut().push_back(key);
            let ledger = &mut *ledger.borrow_mut();
            match outcome {
                WriteOutcome::Done { version, .. } => {
                    ledger.keys[key].acknowledge(version, count);
                    ledger.tally.acknowledged += 1;
                    progress.add();
                }
                WriteOutcome::NotApplied(_) => ledger.tally.not_applied += 1,
                WriteOutcome::Unknown(_) => {
                    ledger.keys[key].unknown.insert(count);
                    ledger.tally.unknown += 1;
                }
            }
            ControlFlow::Continue(())
        });
    }

    /// Reads every key at QUORUM; how many were found.
    pub(crate) fn check(&self, client: &mut BlockingClient, when: &str) -> usize {
        let options = ReadOptions { level: Some(Level::Quorum), timeout: Some(WITHIN) };
        let mut found = 0;
        let numbers: Vec<usize> = (0..self.keys.len()).collect();
        for batch in numbers.chunks(READ_KEYS) {
            let names: Vec<String> = batch.iter().map(|key| self.name(*key)).collect();
            let keys: Vec<Key<'_>> = names.iter().map(|name| Key::plain(name.as_bytes())).collect();
            for (key, result) in batch.iter().zip(client.multi_get(&keys, options)) {
                let value = result.unwrap_or_else(|error| panic!("{when}: {}: {error}", self.name(*key)));
                found += usize::from(value.is_some());
                self.check_one(*key, value.as_ref(), when);
            }
        }
        found
    }

    fn check_one(&self, key: usize, value: Option<&Value>, when: &str) {
        let (known, name) = (&self.keys[key], self.name(key));
        let Some(value) = value else {
            assert!(known.acknowledged.is_none(), "{when}: {name} is lost: {known:?}");
            return;
        };
        let count = self.count_of(key, &value.bytes);
        match known.acknowledged {
            Some((version, acknowledged)) if order(&value.version) == order(&version) => {
                assert_eq!(count, acknowledged, "{when}: {name} has another write's value");
            }
            Some((version, _)) if order(&value.version) < order(&version) => {
                panic!("{when}: {name} went back to write {count}: {known:?}, read {:?}", value.version)
            }
            Some(_) | None => {
                assert!(
                    known.unknown.contains(&count),
                    "{when}: {name} has write {count}, of all: {known:?}"
                );
            }
        }
    }
}

impl Known {
    fn acknowledge(&mut self, version: Version, count: u64) {
        // A write that nobody could say anything about may have a later time than this one: it wins then, here too.
        let is_newer = |(last, _): &(Version, u64)| order(last) < order(&version);
        assert!(
            self.acknowledged.as_ref().is_none_or(is_newer),
            "a client never writes before what it has seen: {self:?}, now {version:?}"
        );
        self.acknowledged = Some((version, count));
    }
}

/// What decides between two versions.
fn order(version: &Version) -> (u64, u64) {
    (version.order.0, version.actor.0)
}
