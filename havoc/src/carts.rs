//! Carts: keys with siblings that clients on both sides fill and empty at once.
//!
//! What lies in a cart are its siblings, each of which names the write that put it there. What may be read is `ferrite-promises`' to say,
//! as in the simulation: what was acknowledged is there, unless a write that may have seen it took it away, and what a write that was
//! acknowledged had seen does not come back. Here is who writes. Of sixteen turns of a client on a cart
//!
//! | turns | are |
//! |---|---|
//! | 4 | reads, one half of them of several carts |
//! | 4 | puts beside what there is |
//! | 3 | puts in place of what a read has shown |
//! | 3 | deletes of what a read has shown |
//! | 1 | a batch of these puts and deletes, after a read of several carts |
//! | 1 | a put or delete of whatever there is, which the coordinator reads; to one cart in four only, as one of unknown outcome may have taken anything away |
//!
//! at ONE or QUORUM, the writes sloppy or not. Nothing is spared a fault: a disk that has lost what it had counts as one copy less of what had
//! been written until then, and all else must be there.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use ferrite_client::{
    BlockingClient, Context, Entry, Key, Level, ReadError, ReadOptions, Replaces, Siblings, TableId,
    Topology, WriteOptions, WriteOutcome,
};
use ferrite_loadgen::chooser::Rng;
use ferrite_promises::{Facts, Holders, Intent, Reading, Saw, SetHistory};
use ferrite_wire::Order;

use crate::across::{Across, keys_across};
use crate::nodes::SIBLINGS_TABLE;
use crate::tally::Tally;
use crate::wait_for;
use crate::written::{answer_of, id_of, value_of};

/// Bytes of what is put.
const VALUE_BYTES: usize = 200;
/// Longest time of one call under faults.
const TIMEOUT: Duration = Duration::from_millis(600);
/// The same once all is whole again.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest wait for a cart to be readable once all is whole again.
const HEALED_WITHIN: Duration = Duration::from_secs(30);
/// Rest between turns of one client: carts are judged whole, against all that was written to them.
const TURN_PAUSE: Duration = Duration::from_millis(5);
/// Writes to a cart; after that it is only read.
const WRITES_MAX: u64 = 1_024;
/// Carts that are read again after later rounds; older ones are let go.
const KEPT_MAX: usize = 24;
/// Carts in a batch, and in a read of several, at most.
const TOGETHER_MAX: u64 = 4;

/// A cart.
struct Cart {
    number: u64,
    key: Vec<u8>,
    holders: Holders,
    history: SetHistory,
    writes: u64,
    /// Something was wrong with it: nothing more is to be learned from it.
    is_given_up: bool,
}

impl Cart {
    fn name(&self) -> String {
        String::from_utf8_lossy(&self.key).into_owned()
    }
}

/// All carts of a campaign, and what befell the nodes that hold them.
pub struct Carts {
    began: Instant,
    facts: RwLock<Facts>,
    carts: Vec<Mutex<Cart>>,
    /// Those before this place are of earlier rounds.
    open_from: usize,
    opened: u64,
}

impl Default for Carts {
    fn default() -> Carts {
        Carts { began: Instant::now(), facts: RwLock::default(), carts: Vec::new(), open_from: 0, opened: 0 }
    }
}

/// What was wrong with a cart, and all that had been written to it.
pub struct Spoilt {
    /// What was wrong.
    pub what: String,
    /// The cart's name.
    pub cart: String,
    /// What had been written, line by line.
    pub history: String,
}

impl Carts {
    /// So many new carts whose replicas are on both sides.
    pub fn open(&mut self, topology: &Topology, count: usize, is_left: impl Fn(usize) -> bool) {
        let surplus = self.carts.len().saturating_sub(KEPT_MAX);
        self.carts.drain(..surplus);
        self.open_from = self.carts.len();
        let name = format!("cart {}", self.opened);
        let keys = keys_across(topology, &name, TableId::of(SIBLINGS_TABLE), count, is_left);
        for (number, Across { key, replicas }) in (self.opened..).zip(keys) {
            let (holders, history) = (Holders::of(replicas.into_iter()), SetHistory::default());
            let cart = Cart { number, key, holders, history, writes: 0, is_given_up: false };
            self.carts.push(Mutex::new(cart));
            self.opened = number + 1;
        }
    }

    /// A node that does not run has just lost all it had.
    pub fn lost(&self, node: usize) {
        let at_ns = self.now_ns();
        self.facts.write().unwrap_or_else(PoisonError::into_inner).lost(node, 0, at_ns);
    }

    /// All that others stood in for has been delivered, so that it is promised from now on.
    pub fn delivered(&mut self) {
        let now_ns = self.now_ns();
        // Who coordinated what is the clients' secret: of none is it known that it reached all.
        for mut cart in self.carts() {
            cart.history.writes.drained(now_ns, |_| false);
        }
    }

    /// Reads all carts at these levels in turn, once all is whole again.
    pub fn check(&self, shopper: &mut Shopper, client: &mut BlockingClient, levels: &[Level]) {
        for (level, place) in
            levels.iter().flat_map(|level| (0..self.carts.len()).map(move |at| (*level, at)))
        {
            let is_judged = || {
                let found = shopper.read(self, client, &[place], level).pop().flatten();
                (found.is_some() || self.cart(place).is_given_up).then_some(())
            };
            if wait_for(HEALED_WITHIN, is_judged).is_none() {
                let within_s = HEALED_WITHIN.as_secs();
                let what = format!("cannot be read at {level} {within_s} s after all was whole again");
                shopper.spoil(&mut self.cart(place), what);
            }
        }
    }

    fn now_ns(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    fn cart(&self, place: usize) -> MutexGuard<'_, Cart> {
        // Whoever panicked with it in his hands has said so.
        self.carts[place].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn carts(&self) -> impl Iterator<Item = MutexGuard<'_, Cart>> {
        (0..self.carts.len()).map(|place| self.cart(place))
    }

    fn facts(&self) -> RwLockReadGuard<'_, Facts> {
        self.facts.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a read of a cart has shown, and the context that stands for it.
struct Found {
    shown: BTreeSet<u64>,
    context: Context,
}

/// How a write is sent.
#[derive(Clone, Copy)]
struct Manner {
    level: Level,
    sloppy: bool,
}

impl Manner {
    fn options(self) -> WriteOptions {
        WriteOptions {
            level: Some(self.level),
            timeout: Some(TIMEOUT),
            sloppy: self.sloppy,
            ..WriteOptions::default()
        }
    }
}

/// A write that is about to be sent.
struct Sent {
    place: usize,
    id: u64,
    is_delete: bool,
    key: Vec<u8>,
    value: Vec<u8>,
    context: Context,
}

impl Sent {
    fn key(&self) -> Key<'_> {
        Key { table: TableId::of(SIBLINGS_TABLE), partition: &self.key, sort: b"" }
    }

    fn entry(&self) -> Entry<'_> {
        let (key, context) = (self.key(), self.context.as_bytes());
        match self.is_delete {
            true => Entry::Delete { key, context },
            false => Entry::Put { key, ttl_ms: 0, context, value: &self.value },
        }
    }
}

/// A client of carts: a session.
pub struct Shopper {
    /// The node that it stands beside.
    at: usize,
    rng: Rng,
    /// The highest order that it has been told of.
    seen: Order,
    /// How its operations ended.
    pub tally: Tally,
    spoilt: Vec<Spoilt>,
}

impl Shopper {
    /// One that has seen nothing.
    pub fn new(at: usize, seed: u64) -> Shopper {
        Shopper { at, rng: Rng::new(seed), seen: Order(0), tally: Tally::default(), spoilt: Vec::new() }
    }

    /// The node that it stands beside.
    pub fn at(&self) -> usize {
        self.at
    }

    /// What was wrong, since this was asked last.
    pub fn take_spoilt(&mut self) -> Vec<Spoilt> {
        std::mem::take(&mut self.spoilt)
    }

    /// Puts, deletes and reads until told to stop, whatever becomes of it.
    pub fn run(&mut self, client: &mut BlockingClient, carts: &Carts, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            self.take_turn(client, carts);
            std::thread::sleep(TURN_PAUSE);
        }
    }

    fn take_turn(&mut self, client: &mut BlockingClient, carts: &Carts) {
        let open = (carts.carts.len() - carts.open_from) as u64;
        let place = carts.open_from + self.rng.below(open) as usize;
        let level = if self.rng.below(2) == 0 { Level::One } else { Level::Quorum };
        let manner = Manner { level, sloppy: self.rng.below(3) == 0 };
        let turn = self.rng.below(16);
        let is_full = carts.cart(place).writes >= WRITES_MAX;
        match turn {
            0..2 => drop(self.read(carts, client, &[place], level)),
            2..4 => {
                let places = self.draw_places(carts);
                self.read(carts, client, &places, level);
            }
            _ if is_full => {}
            4..8 => self.write(carts, client, (place, false), None, manner),
            8..14 => {
                let found = self.read(carts, client, &[place], level).pop().flatten();
                // Of a cart that was never written there is nothing to take away.
                let is_delete = turn >= 11 && found.as_ref().is_some_and(|found| !found.context.is_empty());
                if found.is_some() {
                    self.write(carts, client, (place, is_delete), found, manner);
                }
            }
            14 => self.write_batch(carts, client, manner),
            _ if carts.cart(place).number.is_multiple_of(4) => {
                let is_delete = self.rng.below(2) == 0;
                self.write_over(carts, client, (place, is_delete), manner);
            }
            _ => {}
        }
    }

    /// Different open carts.
    fn draw_places(&mut self, carts: &Carts) -> Vec<usize> {
        let open = (carts.carts.len() - carts.open_from) as u64;
        let count = 2 + self.rng.below(TOGETHER_MAX - 1);
        let drawn = (0..count).map(|_| carts.open_from + self.rng.below(open) as usize);
        drawn.collect::<BTreeSet<_>>().into_iter().collect()
    }

    fn begin(&mut self, carts: &Carts, (place, is_delete): (usize, bool), saw: &Saw, manner: Manner) -> Sent {
        let mut cart = carts.cart(place);
        let intent = Intent {
            key: cart.number,
            is_delete,
            expires: false,
            node: self.at,
            needed: manner.level.needed(cart.holders.count()),
            holders: cart.holders,
            may_be_sloppy: manner.sloppy,
            may_come_again: false,
            seen: self.seen,
            now_ns: carts.now_ns(),
            // It may lie in sockets that nobody reads for as long as a node stands still.
            minted_by_ns: u64::MAX,
        };
        cart.writes += 1;
        let id = cart.history.begin(intent, saw);
        let value = if is_delete { Vec::new() } else { value_of(cart.number, id, VALUE_BYTES) };
        Sent { place, id, is_delete, key: cart.key.clone(), value, context: Context::default() }
    }

    /// Begins a write in place of what was found, or beside all there is.
    fn begin_on(&mut self, carts: &Carts, what: (usize, bool), found: Option<Found>, manner: Manner) -> Sent {
        self.tally.replacing += u64::from(found.as_ref().is_some_and(|found| !found.context.is_empty()));
        let (shown, context) = found.map_or_else(Default::default, |found| (found.shown, found.context));
        Sent { context, ..self.begin(carts, what, &Saw::These(shown), manner) }
    }

    fn write(
        &mut self,
        carts: &Carts,
        client: &mut BlockingClient,
        what: (usize, bool),
        found: Option<Found>,
        manner: Manner,
    ) {
        let sent = self.begin_on(carts, what, found, manner);
        let (seen, options) = (Replaces::Seen(&sent.context), manner.options());
        let outcome = match (sent.is_delete, sent.context.is_empty()) {
            (true, _) => client.delete_replacing(sent.key(), seen, options),
            (false, true) => client.put(sent.key(), &sent.value, options),
            (false, false) => client.put_replacing(sent.key(), &sent.value, seen, options),
        };
        self.end(carts, &sent, manner, &outcome);
    }

    /// Writes in place of whatever there is.
    fn write_over(
        &mut self,
        carts: &Carts,
        client: &mut BlockingClient,
        what: (usize, bool),
        manner: Manner,
    ) {
        let sent = self.begin(carts, what, &Saw::ItsOwnRead, manner);
        let options = manner.options();
        let outcome = match sent.is_delete {
            true => client.delete_replacing(sent.key(), Replaces::All, options),
            false => client.put_replacing(sent.key(), &sent.value, Replaces::All, options),
        };
        self.tally.replacing += 1;
        self.end(carts, &sent, manner, &outcome);
    }

    /// Reads several carts at once, and writes to all of them at once.
    fn write_batch(&mut self, carts: &Carts, client: &mut BlockingClient, manner: Manner) {
        let places = self.draw_places(carts);
        let found = self.read(carts, client, &places, manner.level);
        let mut sent = Vec::new();
        for (place, found) in places.into_iter().zip(found) {
            let found = found.filter(|found| !found.context.is_empty() && self.rng.below(3) > 0);
            let is_delete = found.is_some() && self.rng.below(2) == 0;
            if carts.cart(place).writes < WRITES_MAX {
                sent.push(self.begin_on(carts, (place, is_delete), found, manner));
            }
        }
        if sent.is_empty() {
            return;
        }
        let entries: Vec<Entry<'_>> = sent.iter().map(Sent::entry).collect();
        let outcomes = client.put_batch(&entries, manner.options());
        assert_eq!(outcomes.len(), sent.len(), "each entry has an outcome");
        self.tally.batches += 1;
        self.tally.batched += sent.len() as u64;
        for (sent, outcome) in sent.iter().zip(&outcomes) {
            self.end(carts, sent, manner, outcome);
        }
    }

    /// Notes how a write ended.
    fn end(&mut self, carts: &Carts, sent: &Sent, manner: Manner, outcome: &WriteOutcome) {
        self.tally.count(outcome);
        self.tally.sloppy += u64::from(manner.sloppy);
        match sent.is_delete {
            true => self.tally.deletes += 1,
            false => self.tally.puts += 1,
        }
        let answer = answer_of(outcome, carts.now_ns());
        let version = answer.told.version();
        self.seen = version.map_or(self.seen, |version| self.seen.max(version.order));
        let mut cart = carts.cart(sent.place);
        let number = cart.number;
        if let Err(violation) = cart.history.told(number, sent.id, answer, &carts.facts()) {
            self.spoil(&mut cart, violation.what);
        }
    }

    /// Reads carts, one alone or several together, and judges what is found; `None` where there was no answer, or a wrong one.
    fn read(
        &mut self,
        carts: &Carts,
        client: &mut BlockingClient,
        places: &[usize],
        level: Level,
    ) -> Vec<Option<Found>> {
        let keys: Vec<Vec<u8>> = places.iter().map(|place| carts.cart(*place).key.clone()).collect();
        let table = TableId::of(SIBLINGS_TABLE);
        let keys: Vec<Key<'_>> = keys.iter().map(|key| Key { table, partition: key, sort: b"" }).collect();
        let timeout = if level == Level::All { CHECK_TIMEOUT } else { TIMEOUT };
        let options = ReadOptions { level: Some(level), timeout: Some(timeout) };
        let begun_ns = carts.now_ns();
        let found = match keys.as_slice() {
            [key] => vec![client.get_siblings(*key, options)],
            keys => {
                self.tally.multi_gets += 1;
                client.multi_get_siblings(keys, options)
            }
        };
        assert_eq!(found.len(), places.len(), "each key has an answer");
        let judge = |(place, found): (&usize, _)| self.judge(carts, *place, (begun_ns, level), found);
        places.iter().zip(found).map(judge).collect()
    }

    fn judge(
        &mut self,
        carts: &Carts,
        place: usize,
        (begun_ns, level): (u64, Level),
        found: Result<Siblings, ReadError>,
    ) -> Option<Found> {
        let Ok(Siblings { values, context, answered }) = found else {
            self.tally.unread += 1;
            return None;
        };
        let mut cart = carts.cart(place);
        if cart.is_given_up {
            return None;
        }
        self.tally.reads += 1;
        self.tally.read_siblings += u64::from(values.len() > 1);
        self.tally.read_absent += u64::from(values.is_empty() && cart.writes > 0);
        let needed = level.needed(cart.holders.count());
        let reading = Reading { begun_ns, needed, answered: usize::from(answered) };
        let siblings: Vec<_> = values
            .iter()
            .map(|value| (id_of(cart.number, &value.bytes, VALUE_BYTES), value.version))
            .collect();
        let highest = values.iter().map(|value| value.version.order).max();
        self.seen = self.seen.max(highest.unwrap_or(Order(0)));
        let (number, now_ns) = (cart.number, carts.now_ns());
        match cart.history.saw(number, (reading, now_ns), &carts.facts(), &siblings) {
            Ok(()) => Some(Found { shown: siblings.iter().filter_map(|(id, _)| *id).collect(), context }),
            Err(violation) => {
                self.spoil(&mut cart, format!("a read at {level} showed {siblings:?}: {}", violation.what));
                None
            }
        }
    }

    /// Something was wrong with a cart.
    fn spoil(&mut self, cart: &mut Cart, what: String) {
        if std::mem::replace(&mut cart.is_given_up, true) {
            return;
        }
        let history = cart.history.describe(cart.number);
        let name = cart.name();
        self.spoilt.push(Spoilt { what: format!("{name}: {what}"), cart: name, history });
    }
}
