//! Registers: records that one writer each writes and reads at QUORUM, and that must never go back.
//!
//! What may be read is `memory`'s to say; here is who writes. Records differ in what is done to them, by their numbers:
//!
//! | number mod 4 | writes |
//! |---|---|
//! | 0 | puts |
//! | 1 | puts and deletes |
//! | 2 | puts, some of them with a time to live |
//! | 3 | all of these, and puts that others may stand in for |
//!
//! Single ones and batches, single reads and reads of many. Each write of a session that was given a version has a higher one than its
//! earlier ones, whichever node coordinated them and whatever its clock said.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ferrite_client::{
    BlockingClient, Entry, Key, Level, ReadOptions, ReadResult, WriteOptions, WriteOutcome,
};
use ferrite_loadgen::chooser::Rng;
use ferrite_loadgen::record::{KeyWriter, Stamp, stamp_of, write_value};

use crate::memory::{Fate, Memory, Moment, What, Wrong};
use crate::tally::Tally;

/// Records of one writer that are in use.
const IN_USE: usize = 64;
/// Bytes of a value: enough for memtables to be flushed now and then.
const VALUE_BYTES: usize = 1_500;
/// Shortest and longest time to live: values expire while faults last.
const TTL_MS: (u64, u64) = (200, 4_000);
/// Entries of a batch, and keys of a read of many, at most.
const TOGETHER_MAX: u64 = 8;
/// Longest time of one operation under faults.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Longest wait for a record to be readable, or writable at ALL, once all is whole again.
const HEALED_WITHIN: Duration = Duration::from_secs(30);
/// Rest between attempts at that.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// What holds while a round lasts.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Clocks of nodes differ by so much at most.
    pub drift: Duration,
    /// Others may stand in for replicas: nobody who does loses what he keeps for them.
    pub sloppy: bool,
}

/// A record in use.
struct InUse {
    record: u64,
    memory: Memory,
}

/// A write that is about to be sent.
struct Sent {
    place: usize,
    counter: u32,
    what: What,
    value: Vec<u8>,
}

/// The records of one writer.
pub struct Registers {
    name: String,
    run: u32,
    keys: KeyWriter,
    rng: Rng,
    in_use: Vec<InUse>,
    next: u64,
    terms: Terms,
    tally: Tally,
    violations: Vec<String>,
}

impl Registers {
    /// Records that nobody has written. Writers of a cluster differ in their names.
    pub fn new(name: &str, seed: u64) -> Registers {
        let in_use = (0..IN_USE as u64).map(|record| InUse { record, memory: Memory::default() });
        Registers {
            name: name.to_owned(),
            run: seed as u32,
            keys: KeyWriter::new(name, false),
            rng: Rng::new(seed),
            in_use: in_use.collect(),
            next: IN_USE as u64,
            terms: Terms { drift: Duration::ZERO, sloppy: false },
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

    /// A round begins.
    pub fn begin_round(&mut self, terms: Terms) {
        self.terms = terms;
    }

    /// Writes and reads until told to stop, whatever becomes of it.
    pub fn run(&mut self, client: &mut BlockingClient, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            match self.rng.below(10) {
                0 => self.write_batch(client),
                1..5 => drop(self.write_one(client)),
                5 => {
                    let places = self.draw_places();
                    self.read(client, &places);
                }
                _ => {
                    let place = self.rng.below(IN_USE as u64) as usize;
                    self.read(client, &[place]);
                }
            }
        }
    }

    /// Different places.
    fn draw_places(&mut self) -> Vec<usize> {
        let count = 2 + self.rng.below(TOGETHER_MAX - 1);
        let mut places: Vec<usize> = (0..count).map(|_| self.rng.below(IN_USE as u64) as usize).collect();
        places.sort_unstable();
        places.dedup();
        places
    }

    /// What is done to the record next, and whether others may stand in for its replicas.
    fn draw_write(&mut self, place: usize) -> (What, bool) {
        let (drawn, time) = (self.rng.below(8), TTL_MS.0 + self.rng.below(TTL_MS.1 - TTL_MS.0 + 1));
        let expiring = What::Expiring(Duration::from_millis(time));
        match (self.in_use[place].record % 4, drawn) {
            (1, 0..4) | (3, 0..2) => (What::Delete, false),
            (2, 0..4) | (3, 2..4) => (expiring, false),
            (3, 4..7) => (What::Put, self.terms.sloppy),
            _ => (What::Put, false),
        }
    }

    fn begin(&mut self, place: usize, what: What) -> Sent {
        if self.in_use[place].memory.is_full() {
            self.give_up(place);
        }
        let begun = Moment { at: Instant::now(), drift: self.terms.drift };
        let InUse { record, memory } = &mut self.in_use[place];
        let counter = memory.begin(what, begun);
        let mut value = Vec::new();
        if what != What::Delete {
            write_value(*record, Stamp { run: self.run, counter }, VALUE_BYTES, &mut value);
        }
        Sent { place, counter, what, value }
    }

    /// Writes a record once.
    fn write_one(&mut self, client: &mut BlockingClient) -> bool {
        let place = self.rng.below(IN_USE as u64) as usize;
        let (what, sloppy) = self.draw_write(place);
        self.write(client, place, what, Level::Quorum, sloppy)
    }

    /// Writes a record once; false = it was not acknowledged.
    fn write(
        &mut self,
        client: &mut BlockingClient,
        place: usize,
        what: What,
        level: Level,
        sloppy: bool,
    ) -> bool {
        let sent = self.begin(place, what);
        let key = Key::plain(self.keys.key(self.in_use[place].record));
        let options =
            WriteOptions { level: Some(level), timeout: Some(TIMEOUT), sloppy, ..WriteOptions::default() };
        let outcome = match what {
            What::Put => client.put(key, &sent.value, options),
            What::Expiring(ttl) => client.put(key, &sent.value, WriteOptions { ttl: Some(ttl), ..options }),
            What::Delete => client.delete(key, options),
        };
        self.tally.sloppy += u64::from(sloppy);
        self.end(&sent, &outcome)
    }

    /// Writes several records at once, each for itself.
    fn write_batch(&mut self, client: &mut BlockingClient) {
        let places = self.draw_places();
        let mut sent = Vec::new();
        for place in places {
            let (what, _) = self.draw_write(place);
            sent.push(self.begin(place, what));
        }
        let keys = self.keys_of(sent.iter().map(|sent| sent.place));
        let entries: Vec<Entry<'_>> = sent
            .iter()
            .zip(&keys)
            .map(|(sent, key)| {
                let (key, context, value) = (Key::plain(key), &b""[..], sent.value.as_slice());
                match sent.what {
                    What::Put => Entry::Put { key, ttl_ms: 0, context, value },
                    What::Expiring(ttl) => Entry::Put { key, ttl_ms: ttl.as_millis() as u64, context, value },
                    What::Delete => Entry::Delete { key, context },
                }
            })
            .collect();
        let options =
            WriteOptions { level: Some(Level::Quorum), timeout: Some(TIMEOUT), ..WriteOptions::default() };
        let outcomes = client.put_batch(&entries, options);
        assert_eq!(outcomes.len(), sent.len(), "each entry has an outcome");
        self.tally.batches += 1;
        self.tally.batched += sent.len() as u64;
        for (sent, outcome) in sent.iter().zip(&outcomes) {
            self.end(sent, outcome);
        }
    }

    /// Notes how a write ended; false = it was not acknowledged.
    fn end(&mut self, sent: &Sent, outcome: &WriteOutcome) -> bool {
        self.tally.count(outcome);
        match sent.what {
            What::Put => self.tally.puts += 1,
            What::Expiring(_) => self.tally.expiring += 1,
            What::Delete => self.tally.deletes += 1,
        }
        let (fate, version) = match outcome {
            WriteOutcome::Done { version, sloppy: false, .. } => (Fate::Acknowledged, Some(*version)),
            WriteOutcome::Done { version, sloppy: true, .. } => {
                self.tally.stood_in += 1;
                (Fate::StoodIn, Some(*version))
            }
            WriteOutcome::NotApplied(_) => (Fate::NotApplied, None),
            WriteOutcome::Unknown(_) => (Fate::Unknown, None),
        };
        let InUse { record, memory } = &mut self.in_use[sent.place];
        let record = *record;
        if let Some(earlier) = memory.end(fate, version, Instant::now()) {
            self.violations.push(format!(
                "{}{record}: write {} was acknowledged as version {version:?}, an earlier one as {earlier:?}",
                self.name, sent.counter
            ));
            self.give_up(sent.place);
        }
        version.is_some()
    }

    fn keys_of(&mut self, places: impl Iterator<Item = usize>) -> Vec<Vec<u8>> {
        places.map(|place| self.keys.key(self.in_use[place].record).to_vec()).collect()
    }

    /// Reads records once, one alone or several together; false = not all were answered.
    fn read(&mut self, client: &mut BlockingClient, places: &[usize]) -> bool {
        let keys = self.keys_of(places.iter().copied());
        let keys: Vec<Key<'_>> = keys.iter().map(|key| Key::plain(key)).collect();
        let options = ReadOptions { level: Some(Level::Quorum), timeout: Some(TIMEOUT) };
        let begun = Instant::now();
        let found = match keys.as_slice() {
            [key] => vec![client.get(*key, options)],
            keys => {
                self.tally.multi_gets += 1;
                client.multi_get(keys, options)
            }
        };
        let ended = Instant::now();
        assert_eq!(found.len(), places.len(), "each key has an answer");
        places
            .iter()
            .zip(found)
            .fold(true, |all, (place, found)| self.judge(*place, begun, ended, found) && all)
    }

    fn judge(&mut self, place: usize, begun: Instant, ended: Instant, found: ReadResult) -> bool {
        let Ok(found) = found else {
            self.tally.unread += 1;
            return false;
        };
        self.tally.reads += 1;
        let drift = self.terms.drift;
        let InUse { record, memory } = &mut self.in_use[place];
        let (record, floor) = (*record, memory.floor());
        let stamp = found.as_ref().map(|value| stamp_of(record, &value.bytes, VALUE_BYTES));
        let verdict = match stamp {
            None => {
                self.tally.read_absent += u64::from(floor > 0);
                memory.read(begun, ended, drift, None)
            }
            Some(Some(Stamp { run, counter })) if run == self.run => {
                memory.read(begun, ended, drift, Some(counter))
            }
            Some(_) => Err(Wrong::Bytes),
        };
        if let Err(wrong) = verdict {
            let told = memory.tell_of(floor);
            self.violations.push(format!(
                "{}{record}: {wrong:?}: found {stamp:?} of version {:?} while {told} was promised",
                self.name,
                found.map(|value| value.version)
            ));
            self.give_up(place);
        }
        true
    }

    /// Takes a new record in place of one that nothing more can be learned from, for the same kind of writes.
    fn give_up(&mut self, place: usize) {
        let kind = self.in_use[place].record % 4;
        let record = self.next.next_multiple_of(4) + kind;
        self.next = record + 1;
        self.in_use[place] = InUse { record, memory: Memory::default() };
    }

    /// All that others stood in for has been delivered, so that it is promised from now on.
    pub fn delivered(&mut self) {
        self.in_use.iter_mut().for_each(|used| used.memory.delivered());
    }

    /// Reads all records, once all is whole again.
    pub fn check(&mut self, client: &mut BlockingClient) {
        self.all("read at QUORUM", |registers, place| registers.read(client, &[place]));
    }

    /// Writes all records at ALL, so that any one copy may be lost.
    pub fn level(&mut self, client: &mut BlockingClient) {
        self.all("written at ALL", |registers, place| {
            registers.write(client, place, What::Put, Level::All, false)
        });
    }

    fn all(&mut self, what: &str, mut attempt: impl FnMut(&mut Registers, usize) -> bool) {
        for place in 0..self.in_use.len() {
            let deadline = Instant::now() + HEALED_WITHIN;
            while !attempt(self, place) {
                if Instant::now() > deadline {
                    self.violations.push(format!(
                        "{}{} cannot be {what} {} s after all was whole again",
                        self.name,
                        self.in_use[place].record,
                        HEALED_WITHIN.as_secs()
                    ));
                    return;
                }
                std::thread::sleep(RETRY_PAUSE);
            }
        }
    }
}
