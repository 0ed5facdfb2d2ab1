//! The hints of one target and one stream: which are in flight, and how far they are acknowledged.

use std::collections::VecDeque;

use super::{Found, HintOptions, Throttle};
use crate::planted;

/// Reads in a row that come upon what cannot be read before it is passed over: with the pauses in between, seconds for a device to come back.
const UNREADABLE_TRIES: u32 = 6;

/// What is to be read next: hints with times behind `after`, up to `through`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// The last time that is not wanted.
    pub after: u64,
    /// The last time that is.
    pub through: u64,
    /// Most hints.
    pub records: u32,
    /// Most bytes of them, unless the first is longer.
    pub bytes: u64,
    /// Which attempt this is: what is fetched for an earlier one is not sent.
    pub attempt: u32,
}

#[derive(Clone, Copy, Debug)]
struct InFlight {
    at: u64,
    bytes: u64,
    sent_ns: u64,
    is_settled: bool,
}

/// See the module. Times are of hints: unique and rising within a lane.
#[derive(Clone, Debug)]
pub struct Lane {
    /// Everything up to here was acknowledged.
    watermark: u64,
    /// The mark that the host has durably; after a crash this is the watermark.
    mark: u64,
    /// A mark is on its way.
    marking: bool,
    /// Hints up to here were fetched.
    fetched: u64,
    /// A fetch is under way.
    fetching: bool,
    /// Hints up to here are durable.
    durable: u64,
    /// No hint has a later time.
    last: u64,
    /// No hint has an earlier time, as far as is known.
    first: u64,
    in_flight: VecDeque<InFlight>,
    /// Of those, how many wait for an answer.
    unsettled: u32,
    attempt: u32,
    /// Reads in a row that found nothing since it cannot be read.
    unreadable: u32,
    count: u64,
    bytes: u64,
    throttle: Throttle,
}

impl Lane {
    /// A lane of which this was found.
    pub fn new(options: &HintOptions, found: Found) -> Lane {
        let Found { mark, first, last, count, bytes } = found;
        let last = last.max(mark);
        Lane {
            watermark: mark,
            mark,
            marking: false,
            fetched: mark,
            fetching: false,
            durable: last,
            last,
            first,
            in_flight: VecDeque::new(),
            unsettled: 0,
            attempt: 1,
            unreadable: 0,
            count,
            bytes,
            throttle: Throttle::new(options),
        }
    }

    /// Takes a hint in that is about to be written, and gives its time: not before `at`, and after every other's.
    pub fn admit(&mut self, at: u64, bytes: u64) -> u64 {
        self.last = at.max(self.last.saturating_add(1));
        if self.count == 0 {
            self.first = self.last;
        }
        self.count += 1;
        self.bytes += bytes;
        self.last
    }

    /// It is durable. Hints become so in the order of their times.
    pub fn written(&mut self, at: u64) {
        self.durable = self.durable.max(at);
    }

    /// It was not written after all.
    pub fn forget(&mut self, bytes: u64) {
        self.drop_one(bytes);
    }

    /// What to read next, if anything is to be sent. [`Lane::fetched`] or [`Lane::fetch_failed`] must follow.
    pub fn fetch(&mut self, options: &HintOptions, now_ns: u64) -> Option<Fetch> {
        let in_flight_bytes: u64 = self.in_flight.iter().map(|hint| hint.bytes).sum();
        let room = self.throttle.window().saturating_sub(self.in_flight.len() as u32);
        if self.fetching
            || self.fetched >= self.durable
            // Few at a time would be a walk for each.
            || room < self.throttle.window().div_ceil(2)
            || in_flight_bytes >= options.window_bytes_max
            || self.throttle.rests(now_ns)
        {
            return None;
        }
        self.fetching = true;
        Some(Fetch {
            after: self.fetched,
            through: self.durable,
            records: room,
            bytes: options.window_bytes_max - in_flight_bytes,
            attempt: self.attempt,
        })
    }

    /// What a fetch found, `(time, bytes)` in order, is about to be sent. `all` = that is all there is up to its `through`.
    /// False = it is out of date: nothing of it is to be sent.
    pub fn fetched(&mut self, fetch: &Fetch, hints: &[(u64, u64)], all: bool, now_ns: u64) -> bool {
        self.fetching = false;
        self.unreadable = 0;
        if fetch.attempt != self.attempt {
            return false;
        }
        for &(at, bytes) in hints {
            assert!(at > self.fetched && at <= fetch.through, "hints are fetched in order, each once");
            self.in_flight.push_back(InFlight { at, bytes, sent_ns: now_ns, is_settled: false });
            self.unsettled += 1;
            self.fetched = at;
            if planted::active(planted::Bug::HintMarkBeforeAck) {
                self.watermark = at;
            }
        }
        if all {
            self.fetched = fetch.through;
        }
        self.advance();
        true
    }

    /// A fetch found out nothing: it is tried again after a pause.
    pub fn fetch_failed(&mut self, options: &HintOptions, now_ns: u64) {
        self.fetching = false;
        self.throttle.failed(options, now_ns);
    }

    /// A fetch came upon what cannot be read, with nothing before it. False = it is tried again after a pause; true = so often in a row that it is to be
    /// passed over now: [`Lane::pass_over`] must follow.
    pub fn fetch_unreadable(&mut self, options: &HintOptions, now_ns: u64) -> bool {
        self.unreadable += 1;
        let is_enough = self.unreadable >= UNREADABLE_TRIES;
        if !is_enough {
            self.fetch_failed(options, now_ns);
        }
        is_enough
    }

    /// What a fetch was to read is not read any more, up to `through`: as if nothing had ever been there.
    pub fn pass_over(&mut self, fetch: &Fetch, through: u64) {
        self.fetching = false;
        self.unreadable = 0;
        if fetch.attempt == self.attempt {
            self.fetched = self.fetched.max(through.min(fetch.through));
            self.advance();
        }
    }

    /// The target has it. Says whether that was news.
    pub fn acked(&mut self, options: &HintOptions, attempt: u32, at: u64, now_ns: u64) -> bool {
        let Some(sent_ns) = self.settle(attempt, at) else { return false };
        self.throttle.acked(options, now_ns.saturating_sub(sent_ns), self.unsettled);
        true
    }

    /// The target will never take it: it is passed over. Says whether that was news.
    pub fn undeliverable(&mut self, attempt: u32, at: u64) -> bool {
        self.settle(attempt, at).is_some()
    }

    /// The target refused for the moment, or did not answer: after a pause everything behind the watermark is sent again.
    pub fn failed(&mut self, options: &HintOptions, attempt: u32, now_ns: u64) {
        if attempt != self.attempt {
            return;
        }
        self.throttle.failed(options, now_ns);
        self.rewind();
    }

    /// The target is there again.
    pub fn is_back(&mut self, options: &HintOptions) {
        self.throttle.is_back(options);
    }

    /// The mark to write next, if there is one. [`Lane::marked`] must follow.
    pub fn mark(&mut self) -> Option<u64> {
        if self.marking || self.watermark <= self.mark {
            return None;
        }
        self.marking = true;
        Some(self.watermark)
    }

    /// The mark is durable, or was refused (`None`) and is tried again. Gives the time up to which hints may be done away with.
    pub fn marked(&mut self, mark: Option<u64>) -> u64 {
        self.marking = false;
        self.mark = self.mark.max(mark.unwrap_or(0));
        self.mark
    }

    /// Hints that are owed.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Hints in flight that wait for an answer.
    pub fn in_flight(&self) -> u32 {
        self.unsettled
    }

    /// Not after the time of any hint that is owed.
    pub fn oldest(&self) -> u64 {
        self.in_flight.front().map_or(self.first.max(self.watermark + 1), |hint| hint.at)
    }

    /// No hint has a later time.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// As far as everything was acknowledged.
    pub fn watermark(&self) -> u64 {
        self.watermark
    }

    /// How many may be in flight.
    pub fn window(&self) -> u32 {
        self.throttle.window()
    }

    /// Whether it pauses after a refusal.
    pub fn rests(&self, now_ns: u64) -> bool {
        self.throttle.rests(now_ns)
    }

    fn settle(&mut self, attempt: u32, at: u64) -> Option<u64> {
        let place = self.in_flight.binary_search_by_key(&at, |hint| hint.at).ok()?;
        let hint = &mut self.in_flight[place];
        if attempt != self.attempt || hint.is_settled {
            return None;
        }
        hint.is_settled = true;
        let sent_ns = hint.sent_ns;
        self.unsettled -= 1;
        self.advance();
        Some(sent_ns)
    }

    /// Moves the watermark over what is settled, in order.
    fn advance(&mut self) {
        while let Some(hint) = self.in_flight.front().copied().filter(|hint| hint.is_settled) {
            self.in_flight.pop_front();
            self.watermark = self.watermark.max(hint.at);
            self.drop_one(hint.bytes);
        }
        // Between two hints there is nothing that is owed.
        let clear = self.in_flight.front().map_or(self.fetched, |hint| hint.at - 1);
        self.watermark = self.watermark.max(clear);
        if self.in_flight.is_empty() && self.watermark >= self.last {
            // Those that were passed over are owed no more.
            (self.count, self.bytes) = (0, 0);
        }
    }

    fn rewind(&mut self) {
        self.attempt = self.attempt.wrapping_add(1);
        self.in_flight.clear();
        self.unsettled = 0;
        self.fetched = self.watermark;
    }

    fn drop_one(&mut self, bytes: u64) {
        self.count = self.count.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}
