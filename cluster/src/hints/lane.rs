//! The hints of one target and one stream: which are in flight, and how far they are acknowledged.
//!
//! Hints are sent in order of time, by one [`Track`] that reads them all. A core of the target that refuses, falls silent or is known to be absent
//! *falls behind*: from its first hint that was not acknowledged on, its hints are left to a track of its own, which reads them again once the core
//! is there. The first track goes on with those for other cores. A track of a core ends where it has caught up with the first.
//!
//! ```text
//! time ──►      watermark          fetched by core 1's         fetched by the first
//!    ───────────────┼───────────────────────┼────────────────────────────┼──────────────► durable
//!     acknowledged    those for core 1 are owed; all others are sent here  nothing is sent
//! ```
//!
//! The watermark is as far as all tracks have come, and what lies behind it is kept, delivered or not. So that a core that is behind for hours does not keep all that
//! others were sent meanwhile on the disk, its hints are *written again* at the end of the lane once enough was delivered behind them: then the watermark
//! goes on. What is kept is bounded by half as much again as is owed, and [`HintOptions::pinned_bytes_max`]; for each byte that is written again half a
//! byte was delivered.
//!
//! So each core takes a track's few bytes, however much it has missed, and its hints are read
//! twice. Rejected: a lane for each core of the target. That many would read all of it always, or stored hints would have to name a core, which
//! changes with the target's number of cores.

use std::collections::{BTreeMap, BTreeSet};

use ferrite_wire::CoreId;

use super::track::Track;
use super::{Found, HintOptions, Throttle};
use crate::planted;

/// Most cores of a target that are behind by themselves: with one more, nothing is sent to any until it works again.
const BEHIND_MAX: usize = 256;
/// Most bytes that are read at a time to be written again: about as many as a small group of the log takes, so that little is read in vain.
const REWRITTEN_BYTES_MAX: u64 = 64 << 10;
/// Most hints that are known to have been written again, and lie where they may be read once more: four windows.
const AGAIN_MAX: usize = 1_024;

/// What is to be read next: hints with times behind `after`, up to `through`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// The core that it is for alone; `None` = all but those that are behind.
    pub of: Option<CoreId>,
    /// That core is absent: what is found is not sent, but written again at the end of the lane.
    pub rewrites: bool,
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

/// A hint that a fetch found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its time.
    pub at: u64,
    /// Its bytes.
    pub bytes: u64,
    /// The core of the target that it is for, if that is known.
    pub core: Option<CoreId>,
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
    /// A fetch is under way.
    fetching: bool,
    /// The latest hint that is durable.
    durable: u64,
    /// The times of hints that were taken in, and are neither durable nor refused: as many as the log has waiting.
    staged: BTreeSet<u64>,
    /// What comes later is not delivered in this life: it was held back in it.
    until: u64,
    /// No hint has a later time.
    last: u64,
    /// No hint has an earlier time, as far as is known.
    first: u64,
    /// Reads all but what is for cores that are behind.
    main: Track,
    behind: BTreeMap<CoreId, Track>,
    /// How far those came that have caught up, while hints before that are owed: should they be sent again, they were counted off before.
    ended: BTreeMap<CoreId, u64>,
    /// Bytes that were delivered and are kept, for something before them was not.
    pinned: u64,
    /// From so many on, and half of what is owed, that is written again.
    pinned_max: u64,
    /// Up to here what is for absent cores is written again.
    rewritten_until: u64,
    /// Hints behind the watermark that were written again. They are not once more, should they be read again.
    again: BTreeSet<u64>,
    /// The last fetch was for a core that is behind.
    is_mains_turn: bool,
    attempts: u32,
    /// Up to here some were counted off that may be sent again: there, none is.
    recounted: u64,
    count: u64,
    bytes: u64,
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
            fetching: false,
            durable: last,
            staged: BTreeSet::new(),
            until: u64::MAX,
            last,
            first,
            main: Track::new(Throttle::new(options), mark, 1),
            behind: BTreeMap::new(),
            ended: BTreeMap::new(),
            pinned: 0,
            pinned_max: options.pinned_bytes_max,
            rewritten_until: 0,
            again: BTreeSet::new(),
            is_mains_turn: false,
            attempts: 1,
            recounted: 0,
            count,
            bytes,
        }
    }

    /// One for hints that were held back: those that were found are tried once, and what is added is not.
    pub fn held_back(options: &HintOptions, found: Found) -> Lane {
        let lane = Lane::new(options, found);
        Lane { until: lane.last, ..lane }
    }

    /// Takes a hint in that is about to be written, and gives its time: not before `at`, and after every other's.
    pub fn admit(&mut self, at: u64, bytes: u64) -> u64 {
        self.last = at.max(self.last.saturating_add(1));
        if self.count == 0 {
            self.first = self.last;
        }
        self.staged.insert(self.last);
        self.count += 1;
        self.bytes += bytes;
        self.last
    }

    /// It is durable. Not all become so in the order of their times: one may wait for room that a shorter one found.
    pub fn written(&mut self, at: u64) {
        self.staged.remove(&at);
        self.durable = self.durable.max(at);
    }

    /// It was not written after all.
    pub fn forget(&mut self, at: u64, bytes: u64) {
        self.staged.remove(&at);
        self.drop_one(bytes);
    }

    /// Up to here no hint will come any more that is to be delivered.
    fn settled(&self) -> u64 {
        let durable = self.durable.min(self.until);
        self.staged.first().map_or(durable, |first| durable.min(first.saturating_sub(1)))
    }

    /// What to read next, if anything is to be sent, for a target with so many cores, and with at most so many bytes in flight on each track.
    /// [`Lane::fetched`], [`Lane::fetch_failed`], [`Lane::fetch_unreadable`] or [`Lane::pass_over`] must follow.
    pub fn fetch(
        &mut self,
        bytes_max: u64,
        cores: usize,
        is_absent: &dyn Fn(CoreId) -> bool,
        now_ns: u64,
    ) -> Option<Fetch> {
        if self.fetching {
            return None;
        }
        self.advance();
        let bytes_max = (bytes_max / (1 + self.behind.len() as u64)).max(1);
        let first = self.is_mains_turn.then(|| self.fetch_main(bytes_max, cores, now_ns)).flatten();
        let of_behind = || self.fetch_behind(bytes_max, is_absent, now_ns);
        let fetch = first.or_else(of_behind).or_else(|| self.fetch_main(bytes_max, cores, now_ns));
        let fetch = fetch.or_else(|| self.fetch_rewritten(bytes_max, is_absent, now_ns))?;
        self.is_mains_turn = fetch.of.is_some();
        self.fetching = true;
        Some(fetch)
    }

    fn fetch_main(&self, bytes_max: u64, cores: usize, now_ns: u64) -> Option<Fetch> {
        let track = &self.main;
        // There is nobody that it could send anything to.
        let is_behind = |track: &Track| track.fetched < self.main.fetched || !track.is_idle();
        if self.behind.len() >= cores.max(1) && self.behind.values().any(is_behind) {
            return None;
        }
        let (records, bytes) = track.room(self.settled(), bytes_max, now_ns)?;
        let (after, through, attempt) = (track.fetched, self.settled(), track.attempt);
        Some(Fetch { of: None, rewrites: false, after, through, records, bytes, attempt })
    }

    fn fetch_behind(&self, bytes_max: u64, is_absent: &dyn Fn(CoreId) -> bool, now_ns: u64) -> Option<Fetch> {
        let through = self.main.fetched;
        let mut there = self.behind.iter().filter(|(core, _)| !is_absent(**core));
        there.find_map(|(&core, track)| {
            let (records, bytes) = track.room(through, bytes_max, now_ns)?;
            let (after, attempt) = (track.fetched, track.attempt);
            Some(Fetch { of: Some(core), rewrites: false, after, through, records, bytes, attempt })
        })
    }

    /// What is to be written again, where nothing can be sent.
    fn fetch_rewritten(
        &mut self,
        bytes_max: u64,
        is_absent: &dyn Fn(CoreId) -> bool,
        now_ns: u64,
    ) -> Option<Fetch> {
        if self.pinned > self.pinned_max.saturating_add(self.bytes / 2) && self.until == u64::MAX {
            (self.pinned, self.rewritten_until) = (0, self.main.fetched);
        }
        let through = self.main.fetched.min(self.rewritten_until);
        let mut away = self.behind.iter().filter(|(core, _)| is_absent(**core));
        away.find_map(|(&core, track)| {
            let (records, room) = track.room(through, bytes_max, now_ns)?;
            let (after, attempt) = (track.fetched, track.attempt);
            let bytes = room.min(REWRITTEN_BYTES_MAX);
            Some(Fetch { of: Some(core), rewrites: true, after, through, records, bytes, attempt })
        })
    }

    /// Whether a fetch is to find a hint for this core of the target.
    pub fn wants(&self, fetch: &Fetch, core: Option<CoreId>) -> bool {
        match fetch.of {
            Some(of) => core == Some(of),
            None => core.is_none_or(|core| !self.behind.contains_key(&core)),
        }
    }

    /// What a fetch found of what it wants, in order, is about to be sent; it has read everything up to `reached`. Gives of each whether it is to be
    /// sent: none is if the fetch is out of date, and those for cores that are behind are not.
    pub fn fetched(
        &mut self,
        fetch: &Fetch,
        seen: &[Seen],
        reached: u64,
        is_absent: &dyn Fn(CoreId) -> bool,
        now_ns: u64,
    ) -> Vec<bool> {
        self.fetching = false;
        let Some(track) = self.track(fetch) else { return vec![false; seen.len()] };
        track.has_read();
        let mut fetched = fetch.after;
        let mut sent = Vec::with_capacity(seen.len());
        for &Seen { at, bytes, core } in seen {
            assert!(
                at > fetched && at <= reached && reached <= fetch.through,
                "they are found in order, each once"
            );
            let is_left = fetch.of.is_none()
                && core.is_some_and(|core| {
                    self.behind.contains_key(&core) || is_absent(core) && self.leave_behind(core).is_some()
                });
            let is_again = self.again.contains(&at);
            let track = self.track(fetch).expect("it was there");
            (fetched, track.fetched) = (at, at);
            if !is_left {
                track.send(at, bytes, core, now_ns);
                if is_again {
                    track.settle(at);
                }
                if planted::active(planted::Bug::HintMarkBeforeAck) {
                    self.watermark = at;
                }
            }
            sent.push(!is_left && !is_again);
        }
        self.track(fetch).expect("it was there").fetched = reached;
        self.advance();
        sent
    }

    /// A fetch found out nothing: it is tried again after a pause.
    pub fn fetch_failed(&mut self, options: &HintOptions, fetch: &Fetch, now_ns: u64) {
        self.fetching = false;
        if let Some(track) = self.track(fetch) {
            track.throttle.failed(options, now_ns);
        }
    }

    /// A fetch came upon what cannot be read, with nothing before it. False = it is tried again after a pause; true = so often in a row that it is to be
    /// passed over now: [`Lane::pass_over`] must follow.
    pub fn fetch_unreadable(&mut self, options: &HintOptions, fetch: &Fetch, now_ns: u64) -> bool {
        let is_enough = self.track(fetch).is_some_and(|track| track.is_unreadable(options, now_ns));
        self.fetching = is_enough;
        is_enough
    }

    /// What a fetch was to read is not read any more, up to `through`: as if nothing had ever been there.
    pub fn pass_over(&mut self, fetch: &Fetch, through: u64) {
        self.fetching = false;
        if let Some(track) = self.track(fetch) {
            track.has_read();
            track.fetched = track.fetched.max(through.min(fetch.through));
            self.advance();
        }
    }

    /// The target has it. Says whether that was news.
    pub fn acked(&mut self, options: &HintOptions, attempt: u32, at: u64, now_ns: u64) -> bool {
        let Some(track) = self.track_of(attempt) else { return false };
        let Some(sent_ns) = track.settle(at) else { return false };
        let others = track.unsettled();
        track.throttle.acked(options, now_ns.saturating_sub(sent_ns), others);
        self.advance();
        true
    }

    /// The target will never take it: it is passed over. Says whether that was news.
    pub fn undeliverable(&mut self, attempt: u32, at: u64) -> bool {
        let is_news = self.track_of(attempt).is_some_and(|track| track.settle(at).is_some());
        self.advance();
        is_news
    }

    /// It is durable where it was written again: here it is done with, whatever has been tried since.
    pub fn written_again(&mut self, at: u64) {
        if at <= self.watermark {
            return;
        }
        self.again.insert(at);
        if self.again.len() > AGAIN_MAX {
            // One that is read again after all is written again once more, which does no harm.
            self.again.pop_first();
        }
        for track in std::iter::once(&mut self.main).chain(self.behind.values_mut()) {
            track.settle(at);
        }
        self.advance();
    }

    /// There was no room for a hint that was to be written again: after a pause it is read again, and what was read after it. At once it
    /// would be read, copied and refused with each tick of a busy log.
    pub fn no_room(&mut self, options: &HintOptions, attempt: u32, at: u64, now_ns: u64) {
        if let Some(track) = self.track_of(attempt).filter(|track| track.waits_for(at).is_some()) {
            track.read_again(at);
            track.throttle.rest(options, now_ns);
        }
    }

    /// Whether a hint is in flight, and waits for its answer.
    pub fn waits_for(&mut self, attempt: u32, at: u64) -> bool {
        self.track_of(attempt).is_some_and(|track| track.waits_for(at).is_some())
    }

    /// The target refused a hint for the moment, or did not answer. What is `of_one_core` says nothing of its others: that one falls behind. Else,
    /// after a pause, everything is sent again that was not acknowledged.
    pub fn failed(&mut self, options: &HintOptions, attempt: u32, at: u64, of_one_core: bool, now_ns: u64) {
        let Some(hint) = self.track_of(attempt).and_then(|track| track.waits_for(at)) else { return };
        if let Some(core) = hint.core.filter(|_| of_one_core) {
            let next = self.attempts + 1;
            let is_main = attempt == self.main.attempt;
            let track = if is_main { self.leave_behind(core) } else { self.behind.get_mut(&core) };
            if let Some(track) = track {
                track.rewind(track.clear(), next);
                track.throttle.failed(options, now_ns);
                self.attempts = next;
                self.advance();
                return;
            }
        }
        for track in std::iter::once(&mut self.main).chain(self.behind.values_mut()) {
            self.attempts += 1;
            track.rewind(track.clear(), self.attempts);
            track.throttle.failed(options, now_ns);
        }
    }

    /// The target is there again.
    pub fn is_back(&mut self, options: &HintOptions) {
        let tracks = std::iter::once(&mut self.main).chain(self.behind.values_mut());
        tracks.for_each(|track| track.throttle.is_back(options));
    }

    /// What belongs to which core of the target has changed: those that are behind are so with what may be others' now, and what is in flight may be
    /// another's that fails. All is sent again from the watermark on. What was counted off of that is not known any more, so it is not again until
    /// nothing is left.
    pub fn cores_changed(&mut self) {
        if self.behind.is_empty() && self.main.is_idle() && !self.fetching {
            return;
        }
        if !self.behind.is_empty() || !self.ended.is_empty() {
            let fetched = self.tracks().map(|track| track.fetched).chain(self.ended.values().copied());
            self.recounted = fetched.fold(self.recounted, u64::max);
        }
        self.behind.clear();
        self.ended.clear();
        (self.pinned, self.rewritten_until) = (0, 0);
        self.attempts += 1;
        self.main.rewind(self.watermark, self.attempts);
    }

    /// The mark to write next, if there is one. [`Lane::marked`] must follow.
    pub fn mark(&mut self) -> Option<u64> {
        if self.marking || self.watermark <= self.mark {
            return None;
        }
        self.marking = true;
        Some(self.watermark)
    }

    /// The mark is durable, or was refused (`None`) and is tried again. Gives the time up to which hints may be done away with. Where marks are
    /// refused that is the watermark: on a full disk, what was delivered has to go before there is room for a mark. After a crash what is left of it
    /// is sent once more.
    pub fn marked(&mut self, mark: Option<u64>) -> u64 {
        self.marking = false;
        self.mark = self.mark.max(mark.unwrap_or(0));
        if mark.is_some() { self.mark } else { self.watermark }
    }

    /// Hints that are kept and not known to be delivered.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether anything is to be delivered, now or later.
    pub fn owes(&self) -> bool {
        self.watermark < self.until && (self.count > 0 || self.watermark < self.durable)
    }

    /// Hints in flight that wait for an answer.
    pub fn in_flight(&self) -> u32 {
        self.tracks().map(Track::unsettled).sum()
    }

    /// Their bytes, and those of hints that came behind one of them and were acknowledged.
    pub fn in_flight_bytes(&self) -> u64 {
        self.tracks().map(Track::in_flight_bytes).sum()
    }

    /// Cores of the target that are behind by themselves.
    pub fn cores_behind(&self) -> usize {
        self.behind.len()
    }

    /// Not after the time of any hint that is owed.
    pub fn oldest(&self) -> u64 {
        self.first.max(self.watermark + 1)
    }

    /// No hint has a later time.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// As far as everything was acknowledged.
    pub fn watermark(&self) -> u64 {
        self.watermark
    }

    /// How many may be in flight, but for cores that are behind.
    pub fn window(&self) -> u32 {
        self.main.throttle.window()
    }

    /// Whether it pauses after a refusal, for whoever anything is left to be sent to.
    pub fn rests(&self, now_ns: u64) -> bool {
        match self.behind.is_empty() {
            true => self.main.throttle.rests(now_ns),
            false => self.main.is_idle() && self.behind.values().all(|track| track.throttle.rests(now_ns)),
        }
    }

    fn tracks(&self) -> impl Iterator<Item = &Track> {
        std::iter::once(&self.main).chain(self.behind.values())
    }

    /// The track that a fetch is for, unless it has begun anew.
    fn track(&mut self, fetch: &Fetch) -> Option<&mut Track> {
        let track = match fetch.of {
            Some(core) => self.behind.get_mut(&core)?,
            None => &mut self.main,
        };
        (track.attempt == fetch.attempt).then_some(track)
    }

    fn track_of(&mut self, attempt: u32) -> Option<&mut Track> {
        let mut tracks = std::iter::once(&mut self.main).chain(self.behind.values_mut());
        tracks.find(|track| track.attempt == attempt)
    }

    /// From its first hint that is in flight on, or from here, a core's hints are left to a track of its own. `None` = too many have one.
    fn leave_behind(&mut self, core: CoreId) -> Option<&mut Track> {
        if self.behind.len() >= BEHIND_MAX {
            return None;
        }
        let from = self.main.take_of(core).map_or(self.main.fetched, |first| first - 1);
        let from = self.behind.get(&core).map_or(from, |track| track.clear().min(from));
        self.attempts += 1;
        let track = Track::new(self.main.throttle.forked(), from, self.attempts);
        self.behind.insert(core, track);
        self.behind.get_mut(&core)
    }

    /// Moves the watermark over what is settled, in order, on all tracks. Ends those that have caught up; but while a fetch is under way, which passes
    /// over what was theirs when it began, none has.
    fn advance(&mut self) {
        let Lane { main, behind, ended, count, bytes, recounted, pinned, .. } = self;
        let mut is_main = true;
        for track in std::iter::once(&mut *main).chain(behind.values_mut()) {
            while let Some(hint) = track.pop_settled() {
                *pinned += if is_main { hint.bytes } else { 0 };
                let before = hint.core.and_then(|core| ended.get(&core).copied()).unwrap_or(0);
                if hint.at > before.max(*recounted) {
                    *count = count.saturating_sub(1);
                    *bytes = bytes.saturating_sub(hint.bytes);
                }
            }
            is_main = false;
        }
        if !self.fetching {
            behind.retain(|core, track| {
                let is_behind = track.fetched != main.fetched || !track.is_idle();
                if !is_behind {
                    main.throttle.narrow_to(&track.throttle);
                    ended.insert(*core, track.fetched);
                }
                is_behind
            });
        }
        let clear = self.tracks().map(Track::clear).min().expect("there is always one");
        self.watermark = self.watermark.max(clear);
        if clear == self.main.clear() {
            self.pinned = 0;
        }
        let watermark = self.watermark;
        self.ended.retain(|_, fetched| *fetched > watermark);
        while self.again.first().is_some_and(|at| *at <= watermark) {
            self.again.pop_first();
        }
        if self.staged.is_empty() && self.watermark >= self.durable {
            // Those that were passed over are owed no more.
            (self.count, self.bytes) = (0, 0);
        }
    }

    fn drop_one(&mut self, bytes: u64) {
        self.count = self.count.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}
