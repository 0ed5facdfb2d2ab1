//! The set test: clients on both sides of a partition add to the same sets at once, by reading, merging and writing.
//!
//! A set is a value with its elements one after the other. Each side adds at level ONE, so that both are acknowledged; after healing a
//! read at ALL finds what there is. With siblings it is everything that was acknowledged. A table that keeps the last write keeps one
//! side's: that is no fault of it, and the reason for siblings.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ferrite_client::{
    BlockingClient, Key, Level, Mode, ReadError, ReadOptions, Replaces, TableId, Topology, Value,
    WriteOptions, WriteOutcome,
};

use crate::across::{Across, keys_across};
use crate::nodes::SIBLINGS_TABLE;
use crate::tally::Tally;

/// Longest time of one call of an add: a side goes on to its next set while it is not known who is silent.
const TIMEOUT: Duration = Duration::from_millis(600);
/// The same of a call once all is whole again.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest wait for a set to be readable at ALL once all is whole again.
const HEALED_WITHIN: Duration = Duration::from_secs(30);
/// Rest between attempts at that.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// Rest between adds of one side: sets stay small, and each is read and written whole.
const ADD_PAUSE: Duration = Duration::from_millis(10);

/// A set.
#[derive(Clone, Debug)]
pub struct Set {
    key: Vec<u8>,
    mode: Mode,
    acknowledged: BTreeSet<u64>,
}

/// An element that a side added.
#[derive(Clone, Copy, Debug)]
struct Added {
    set: usize,
    element: u64,
}

/// One side: a client, and what it was told.
pub struct Side {
    /// Sides differ in it, and so do their elements.
    number: u64,
    next: u64,
    added: Vec<Added>,
    /// How its writes ended.
    pub tally: Tally,
}

impl Side {
    /// A side that has added nothing.
    pub fn new(number: u64) -> Side {
        Side { number, next: 0, added: Vec::new(), tally: Tally::default() }
    }

    /// Adds to the sets in turn until told to stop.
    pub fn run(&mut self, client: &mut BlockingClient, sets: &[Set], level: Level, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            let set = self.next as usize % sets.len();
            let element = self.number << 48 | self.next;
            self.next += 1;
            match sets[set].add(client, element, level) {
                Ok(outcome) => {
                    self.tally.count(&outcome);
                    if outcome.is_done() {
                        self.added.push(Added { set, element });
                    }
                }
                Err(_) => self.tally.unread += 1,
            }
            std::thread::sleep(ADD_PAUSE);
        }
    }

    /// Notes in the sets what was acknowledged; how many adds to sets of each mode: siblings, last write.
    pub fn settle(&mut self, sets: &mut [Set]) -> (u64, u64) {
        let mut counts = (0, 0);
        for added in std::mem::take(&mut self.added) {
            let set = &mut sets[added.set];
            set.acknowledged.insert(added.element);
            match set.mode {
                Mode::Siblings => counts.0 += 1,
                Mode::Lww => counts.1 += 1,
            }
        }
        counts
    }
}

impl Set {
    /// So many sets of each mode whose replicas are on both sides. `name` tells them from all others.
    pub fn across(
        topology: &Topology,
        name: &str,
        of_each: usize,
        is_left: impl Fn(usize) -> bool,
    ) -> Vec<Set> {
        let of_mode = |mode| {
            let keys = keys_across(topology, name, table_of(mode), of_each, &is_left);
            keys.into_iter().map(move |Across { key, .. }| Set { key, mode, acknowledged: BTreeSet::new() })
        };
        [Mode::Siblings, Mode::Lww].into_iter().flat_map(of_mode).collect()
    }

    /// Whether concurrent adds are kept.
    pub fn keeps_siblings(&self) -> bool {
        self.mode == Mode::Siblings
    }

    fn key(&self) -> Key<'_> {
        Key { table: table_of(self.mode), partition: &self.key, sort: b"" }
    }

    fn add(
        &self,
        client: &mut BlockingClient,
        element: u64,
        level: Level,
    ) -> Result<WriteOutcome, ReadError> {
        let write = WriteOptions { level: Some(level), timeout: Some(TIMEOUT), ..WriteOptions::default() };
        let with = |values: &[Value]| {
            let mut elements = union(values);
            elements.insert(element);
            encode(&elements)
        };
        match self.mode {
            Mode::Siblings => client.update(self.key(), write, |values| Some(with(values))),
            Mode::Lww => {
                let read = ReadOptions { level: Some(level), timeout: Some(TIMEOUT) };
                let found = client.get(self.key(), read)?;
                Ok(client.put(self.key(), &with(found.as_slice()), write))
            }
        }
    }

    /// The acknowledged elements that a read at ALL does not find, once all is whole again; `None` = there is no such read.
    pub fn missing(&self, client: &mut BlockingClient) -> Option<Vec<u64>> {
        let found = insist(|| self.elements(client))?;
        Some(self.acknowledged.difference(&found).copied().collect())
    }

    fn elements(&self, client: &mut BlockingClient) -> Option<BTreeSet<u64>> {
        let read = ReadOptions { level: Some(Level::All), timeout: Some(CHECK_TIMEOUT) };
        client.get_siblings(self.key(), read).ok().map(|found| union(&found.values))
    }

    /// Writes what there is at ALL, so that any one copy may be lost; false = it cannot be done.
    pub fn level(&self, client: &mut BlockingClient) -> bool {
        let read = ReadOptions { level: Some(Level::All), timeout: Some(CHECK_TIMEOUT) };
        let write =
            WriteOptions { level: Some(Level::All), timeout: Some(CHECK_TIMEOUT), ..WriteOptions::default() };
        let levelled = insist(|| {
            let found = client.get_siblings(self.key(), read).ok()?;
            let value = encode(&union(&found.values));
            let outcome = match self.mode {
                Mode::Siblings => {
                    client.put_replacing(self.key(), &value, Replaces::Seen(&found.context), write)
                }
                Mode::Lww => client.put(self.key(), &value, write),
            };
            outcome.is_done().then_some(())
        });
        levelled.is_some()
    }

    /// Its name, for people.
    pub fn name(&self) -> String {
        String::from_utf8_lossy(&self.key).into_owned()
    }
}

fn table_of(mode: Mode) -> TableId {
    match mode {
        Mode::Siblings => TableId::of(SIBLINGS_TABLE),
        Mode::Lww => TableId::DEFAULT,
    }
}

/// Tries until there is an answer or the time for healing is over.
fn insist<T>(mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + HEALED_WITHIN;
    loop {
        if let Some(answer) = attempt() {
            return Some(answer);
        }
        if Instant::now() > deadline {
            return None;
        }
        std::thread::sleep(RETRY_PAUSE);
    }
}

fn union(values: &[Value]) -> BTreeSet<u64> {
    let elements = |value: &Value| {
        let words: Vec<u64> = value.bytes.chunks_exact(8).map(word).collect();
        words
    };
    values.iter().flat_map(elements).collect()
}

fn word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

fn encode(elements: &BTreeSet<u64>) -> Vec<u8> {
    elements.iter().flat_map(|element| element.to_le_bytes()).collect()
}
