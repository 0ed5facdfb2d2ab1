//! One way through the hints of a lane: how far it has read, and what of that waits for answers.

use std::collections::VecDeque;

use ferrite_wire::CoreId;

use super::{HintOptions, Throttle};

/// Reads in a row that come upon what cannot be read before it is passed over: with the pauses in between, seconds for a device to come back.
const UNREADABLE_TRIES: u32 = 6;

/// A hint that was sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct InFlight {
    pub(super) at: u64,
    pub(super) bytes: u64,
    pub(super) core: Option<CoreId>,
    sent_ns: u64,
    is_settled: bool,
}

/// What it reads is its owner's to say: all hints of a lane, or those for one core of the target.
#[derive(Clone, Debug)]
pub(super) struct Track {
    /// No other of its lane has had it: what was sent in an earlier attempt says nothing any more.
    pub(super) attempt: u32,
    /// What it reads was read up to here.
    pub(super) fetched: u64,
    in_flight: VecDeque<InFlight>,
    /// Of those, how many wait for an answer.
    unsettled: u32,
    /// Reads in a row that found nothing since it cannot be read.
    unreadable: u32,
    pub(super) throttle: Throttle,
}

impl Track {
    /// One that has read everything up to a time.
    pub(super) fn new(throttle: Throttle, fetched: u64, attempt: u32) -> Track {
        Track { attempt, fetched, in_flight: VecDeque::new(), unsettled: 0, unreadable: 0, throttle }
    }

    /// How many more hints and bytes of what is stored up to `through` may be read now, of at most `bytes_max` in flight.
    pub(super) fn room(&self, through: u64, bytes_max: u64, now_ns: u64) -> Option<(u32, u64)> {
        let in_flight_bytes = self.in_flight_bytes();
        let room = self.throttle.window().saturating_sub(self.in_flight.len() as u32);
        // Few at a time would be a walk for each.
        let is_worth_it = room >= self.throttle.window().div_ceil(2);
        let is_open = self.fetched < through && in_flight_bytes < bytes_max && !self.throttle.rests(now_ns);
        (is_open && is_worth_it).then(|| (room, bytes_max - in_flight_bytes))
    }

    /// A hint that was read is about to be sent.
    pub(super) fn send(&mut self, at: u64, bytes: u64, core: Option<CoreId>, now_ns: u64) {
        self.in_flight.push_back(InFlight { at, bytes, core, sent_ns: now_ns, is_settled: false });
        self.unsettled += 1;
    }

    /// A read found something.
    pub(super) fn has_read(&mut self) {
        self.unreadable = 0;
    }

    /// A read found out nothing, since it cannot be read. True = for the last time.
    pub(super) fn is_unreadable(&mut self, options: &HintOptions, now_ns: u64) -> bool {
        self.unreadable += 1;
        let is_enough = self.unreadable >= UNREADABLE_TRIES;
        if !is_enough {
            self.throttle.failed(options, now_ns);
        }
        is_enough
    }

    /// A hint, if it waits for its answer.
    pub(super) fn waits_for(&self, at: u64) -> Option<InFlight> {
        self.place(at).map(|place| self.in_flight[place]).filter(|hint| !hint.is_settled)
    }

    /// A hint needs nothing more. Gives when it was sent, if that is news.
    pub(super) fn settle(&mut self, at: u64) -> Option<u64> {
        let place = self.place(at)?;
        let hint = &mut self.in_flight[place];
        if std::mem::replace(&mut hint.is_settled, true) {
            return None;
        }
        self.unsettled -= 1;
        Some(hint.sent_ns)
    }

    /// Takes out the first hint, if it is settled.
    pub(super) fn pop_settled(&mut self) -> Option<InFlight> {
        match self.in_flight.front() {
            Some(hint) if hint.is_settled => self.in_flight.pop_front(),
            Some(_) | None => None,
        }
    }

    /// Takes out all that went to one core, and gives the time of the first of it.
    pub(super) fn take_of(&mut self, core: CoreId) -> Option<u64> {
        let first = self.in_flight.iter().find(|hint| hint.core == Some(core))?.at;
        self.in_flight.retain(|hint| hint.core != Some(core));
        self.unsettled = self.in_flight.iter().filter(|hint| !hint.is_settled).count() as u32;
        Some(first)
    }

    /// Everything behind a time is to be read again.
    pub(super) fn rewind(&mut self, to: u64, attempt: u32) {
        self.attempt = attempt;
        self.in_flight.clear();
        self.unsettled = 0;
        self.fetched = to;
    }

    /// This hint and those that were read after it are to be read again; what was sent before it waits on.
    pub(super) fn read_again(&mut self, from: u64) {
        self.in_flight.retain(|hint| hint.at < from);
        self.unsettled = self.in_flight.iter().filter(|hint| !hint.is_settled).count() as u32;
        self.fetched = self.fetched.min(from - 1);
    }

    /// Up to here nothing of what it reads is owed.
    pub(super) fn clear(&self) -> u64 {
        self.in_flight.front().map_or(self.fetched, |hint| hint.at - 1)
    }

    /// Whether nothing that it has read is owed any more.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Hints that wait for an answer.
    pub(super) fn unsettled(&self) -> u32 {
        self.unsettled
    }

    /// Bytes of those that wait for one, or come behind one that does.
    pub(super) fn in_flight_bytes(&self) -> u64 {
        self.in_flight.iter().map(|hint| hint.bytes).sum()
    }

    fn place(&self, at: u64) -> Option<usize> {
        self.in_flight.binary_search_by_key(&at, |hint| hint.at).ok()
    }
}
