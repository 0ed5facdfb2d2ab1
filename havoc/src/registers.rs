//! Registers: records that one writer each writes and reads at QUORUM, and that must never go back.
//!
//! What may be read is `ferrite-promises`' to say, as in the simulation; here is who writes. Records differ in what is done to them, by their numbers:
//!
//! | number mod 4 | writes |
//! |---|---|
//! | 0 | puts |
//! | 1 | puts and deletes |
//! | 2 | puts, some of them with a time to live |
//! | 3 | all of these, and puts that others may stand in for |
//!
//! Single ones and batches, single reads and reads of many. A writer is a session: each of its writes that was given a version has a higher
//! one than all it had been told of, whichever node coordinated them and whatever its clock said. Values expire by the clocks of nodes, which
//! differ: a round says by how much at most.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ferrite_client::{
    BlockingClient, Entry, Key, Level, ReadOptions, ReadResult, WriteOptions, WriteOutcome,
};
use ferrite_loadgen::chooser::Rng;
use ferrite_loadgen::record::KeyWriter;
use ferrite_promises::{Facts, History, Holders, Intent, Reading, Told, Violation};
use ferrite_wire::Order;

use crate::tally::Tally;
use crate::written::{answer_of, id_of, value_of};

/// Records of one writer that are in use.
const IN_USE: usize = 64;
/// Writes of a record, all of which each read is judged against; after that another record takes its place.
const WRITES_MAX: u32 = 1_024;
/// The same of writes of unknown outcome: each widens what may be read.
const UNKNOWN_MAX: u32 = 64;
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

/// What a write does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// Writes a value.
    Put,
    /// Writes a value that expires after this time.
    Expiring(Duration),
    /// Deletes.
    Delete,
}

/// A record in use.
#[derive(Clone, Copy)]
struct InUse {
    record: u64,
    writes: u32,
    unknown: u32,
    /// One of the writes was acknowledged.
    is_written: bool,
}

impl InUse {
    fn new(record: u64) -> InUse {
        InUse { record, writes: 0, unknown: 0, is_written: false }
    }
}

/// A write that is about to be sent.
struct Sent {
    place: usize,
    id: u64,
    what: What,
    value: Vec<u8>,
}

/// The records of one writer.
pub struct Registers {
    name: String,
    /// Of each record.
    replicas: usize,
    /// What tells its values from those of other writers.
    mark: u64,
    keys: KeyWriter,
    rng: Rng,
    in_use: Vec<InUse>,
    next: u64,
    terms: Terms,
    began: Instant,
    history: History,
    /// The clocks. No copy is ever lost for good: all is written at ALL before one is.
    facts: Facts,
    /// The highest order that it has been told of.
    seen: Order,
    tally: Tally,
    violations: Vec<String>,
}

impl Registers {
    /// Records that nobody has written. Writers of a cluster differ in their names.
    pub fn new(name: &str, seed: u64, replicas: usize) -> Registers {
        let in_use = (0..IN_USE as u64).map(InUse::new);
        Registers {
            name: name.to_owned(),
            replicas,
            mark: seed << 32,
            keys: KeyWriter::new(name, false),
            rng: Rng::new(seed),
            in_use: in_use.collect(),
            next: IN_USE as u64,
            terms: Terms { drift: Duration::ZERO, sloppy: false },
            began: Instant::now(),
            history: History::default(),
            facts: Facts::default(),
            seen: Order(0),
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

    fn begin(&mut self, place: usize, what: What, level: Level, sloppy: bool) -> Sent {
        let InUse { writes, unknown, .. } = self.in_use[place];
        if writes >= WRITES_MAX || unknown >= UNKNOWN_MAX {
            self.give_up(place);
        }
        let now_ns = self.now_ns();
        let used = &mut self.in_use[place];
        used.writes += 1;
        let intent = Intent {
            key: used.record,
            is_delete: what == What::Delete,
            expires: matches!(what, What::Expiring(_)),
            // Whoever coordinated it, the next one is above it.
            node: 0,
            needed: level.needed(self.replicas),
            holders: Holders::of(0..self.replicas),
            may_be_sloppy: sloppy,
            may_come_again: false,
            seen: self.seen,
            now_ns,
            // It may lie in sockets that nobody reads for as long as a node stands still.
            minted_by_ns: u64::MAX,
        };
        let id = self.history.begin(intent, &self.facts);
        let value = match what {
            What::Put | What::Expiring(_) => value_of(self.mark | intent.key, id, VALUE_BYTES),
            What::Delete => Vec::new(),
        };
        Sent { place, id, what, value }
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
        let sent = self.begin(place, what, level, sloppy);
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
            sent.push(self.begin(place, what, Level::Quorum, false));
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
        let answer = answer_of(outcome, self.now_ns());
        let version = answer.told.version();
        self.seen = version.map_or(self.seen, |version| self.seen.max(version.order));
        let used = &mut self.in_use[sent.place];
        used.is_written |= version.is_some();
        used.unknown += u32::from(answer.told == Told::InDoubt);
        let verdict = self.history.told(used.record, sent.id, answer);
        self.judge(sent.place, verdict);
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
        let (begun_ns, begun_wall_ms) = (self.now_ns(), wall_ms());
        let found = match keys.as_slice() {
            [key] => vec![client.get(*key, options)],
            keys => {
                self.tally.multi_gets += 1;
                client.multi_get(keys, options)
            }
        };
        self.facts.saw_wall(wall_ms() + self.drift_ms());
        assert_eq!(found.len(), places.len(), "each key has an answer");
        places
            .iter()
            .zip(found)
            .fold(true, |all, (place, found)| self.found(*place, (begun_ns, begun_wall_ms), found) && all)
    }

    fn now_ns(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    fn drift_ms(&self) -> u64 {
        self.terms.drift.as_millis() as u64
    }

    /// What a read found that began at a moment, by either clock; false = it was not answered.
    fn found(&mut self, place: usize, (begun_ns, begun_wall_ms): (u64, u64), found: ReadResult) -> bool {
        let Ok(found) = found else {
            self.tally.unread += 1;
            return false;
        };
        self.tally.reads += 1;
        let InUse { record: key, is_written, .. } = self.in_use[place];
        let mut reading = Reading::new(begun_ns, Level::Quorum.needed(self.replicas));
        let now_ns = self.now_ns();
        let Some(value) = found else {
            self.tally.read_absent += u64::from(is_written);
            let verdict = self.history.saw_nothing(key, (reading, now_ns), &self.facts);
            self.judge(place, verdict);
            return true;
        };
        self.seen = self.seen.max(value.version.order);
        reading.answered = usize::from(value.answered);
        let id = id_of(self.mark | key, &value.bytes, VALUE_BYTES);
        let verdict =
            self.history.saw_value(key, (reading, now_ns), &self.facts, id, value.version).and_then(|()| {
                let expiry_ms = value.version.expiry_ms;
                let what =
                    || format!("value {id:?}, whose time was over at {expiry_ms} ms, at {begun_wall_ms} ms");
                match expiry_ms > 0 && expiry_ms + self.drift_ms() < begun_wall_ms {
                    true => Err(Violation { key, what: what() }),
                    false => Ok(()),
                }
            });
        self.judge(place, verdict);
        true
    }

    fn judge(&mut self, place: usize, verdict: Result<(), Violation>) {
        if let Err(Violation { key, what }) = verdict {
            let history = self.history.writes.describe(key, |_| String::new());
            self.violations.push(format!("{}{key}: {what}; all writes to it:\n{history}", self.name));
            self.give_up(place);
        }
    }

    /// Takes a new record in place of one that nothing more can be learned from, for the same kind of writes.
    fn give_up(&mut self, place: usize) {
        let kind = self.in_use[place].record % 4;
        let record = self.next.next_multiple_of(4) + kind;
        self.next = record + 1;
        self.history.forget(self.in_use[place].record);
        self.in_use[place] = InUse::new(record);
    }

    /// All that others stood in for has been delivered, so that it is promised from now on.
    pub fn delivered(&mut self) {
        let now_ns = self.now_ns();
        self.history.writes.drained(now_ns, |_| false);
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

/// The machine's clock, from which those of its nodes are set off.
fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}
