//! All lanes of a core: what may be taken in, what was dropped and why, and whether anything is delivered at all.

use std::collections::BTreeMap;

use ferrite_wire::{CoreId, NodeId};

use super::{Fetch, HintOptions, Lane, Seen};

/// Milliseconds since the Unix epoch in the upper bits of a hint's time, as in an order: a store tells by orders what is newer than all it has, whatever it is.
const TIME_BITS: u32 = 16;

/// Whose hints, and which core's writes they come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId {
    /// Who they are for.
    pub target: NodeId,
    /// The core that wrote them, by its number when it did.
    pub stream: u16,
}

/// Streams from here on are of hints that are held back. No node has as many cores.
const HELD_BACK_STREAM: u16 = 1 << 15;

impl LaneId {
    /// The lane of what a core of so many holds back for a node. Its stream is one that the core owns: its remainder by the number of cores is the core's.
    pub fn held_back(target: NodeId, core: CoreId, cores: u16) -> LaneId {
        LaneId { target, stream: HELD_BACK_STREAM.next_multiple_of(cores) + core.0 }
    }

    /// Whether it is of hints that are held back.
    pub fn is_held_back(self) -> bool {
        self.stream >= HELD_BACK_STREAM
    }
}

/// What a hint is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HintKind {
    /// A replica missed a write that is done without it.
    Strict,
    /// It counts towards the level of its write.
    Sloppy,
}

/// Why a hint was not taken, or not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DropReason {
    /// As many bytes are kept as may be.
    Full,
    /// The target has been away for too long.
    TooOld,
    /// The target is there and was only slow, and has had as many hints for that as it gets.
    Storm,
    /// What a write in flight owes could not be kept in mind any more.
    Untracked,
    /// The record was not to be found here any more, or could not be read.
    NoRecord,
    /// The log refused it.
    NotWritten,
    /// The target will never take it.
    Undeliverable,
}

impl DropReason {
    /// Every reason.
    pub const ALL: [DropReason; 7] = [
        DropReason::Full,
        DropReason::TooOld,
        DropReason::Storm,
        DropReason::Untracked,
        DropReason::NoRecord,
        DropReason::NotWritten,
        DropReason::Undeliverable,
    ];

    /// The reason as a name in lists.
    pub fn name(self) -> &'static str {
        match self {
            DropReason::Full => "full",
            DropReason::TooOld => "too_old",
            DropReason::Storm => "storm",
            DropReason::Untracked => "untracked",
            DropReason::NoRecord => "no_record",
            DropReason::NotWritten => "not_written",
            DropReason::Undeliverable => "undeliverable",
        }
    }
}

/// A hint was not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HintRefusal {
    /// Why.
    pub reason: DropReason,
}

/// What a start found of a lane: its mark, and the hints behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Everything up to here was acknowledged before.
    pub mark: u64,
    /// The time of the first hint behind it.
    pub first: u64,
    /// The time of the last hint.
    pub last: u64,
    /// How many hints.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// How it stands with a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneState {
    /// Nothing is owed.
    Empty,
    /// Delivery is held up by an operator.
    Paused,
    /// The target is not there.
    Waiting,
    /// The target refused, and is left alone for a moment.
    Throttled,
    /// Hints are on their way.
    Draining,
    /// It refused what is kept for good, and is not asked again in this life.
    HeldBack,
}

impl LaneState {
    /// The state as a name in lists.
    pub fn name(self) -> &'static str {
        match self {
            LaneState::Empty => "empty",
            LaneState::Paused => "paused",
            LaneState::Waiting => "waiting",
            LaneState::Throttled => "throttled",
            LaneState::Draining => "draining",
            LaneState::HeldBack => "held-back",
        }
    }
}

/// Hints for a target that is only slow: a bucket that fills by so many a second, and holds a second's worth.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: u32,
    filled_ns: u64,
}

/// What is counted of a target, over all its lanes.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    written: u64,
    delivered: u64,
    /// Delivered in the second that is under way, and in the one before.
    this_second: u64,
    last_second: u64,
    second: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Ledger {
    options: HintOptions,
    stream: u16,
    lanes: BTreeMap<LaneId, Lane>,
    counts: BTreeMap<NodeId, Counts>,
    buckets: BTreeMap<NodeId, Bucket>,
    drops: BTreeMap<(NodeId, DropReason), u64>,
    unreadable: u64,
    /// Hints and bytes for who is no member.
    orphans: BTreeMap<NodeId, (u64, u64)>,
    is_paused: bool,
}

impl Ledger {
    /// An empty one. Hints that are taken in are of stream `stream`.
    pub fn new(options: HintOptions, stream: u16) -> Ledger {
        Ledger {
            options,
            stream,
            lanes: BTreeMap::new(),
            counts: BTreeMap::new(),
            buckets: BTreeMap::new(),
            drops: BTreeMap::new(),
            unreadable: 0,
            orphans: BTreeMap::new(),
            is_paused: false,
        }
    }

    /// Adds a lane that a start has found.
    pub fn restore(&mut self, id: LaneId, found: Found) {
        let lane = match id.is_held_back() {
            true => Lane::held_back(&self.options, found),
            false => Lane::new(&self.options, found),
        };
        self.lanes.insert(id, lane);
    }

    /// Takes in a hint of so many bytes that is about to be written, and gives its lane and time; or says why not, which is counted.
    /// [`Ledger::written`], [`Ledger::not_written`] or [`Ledger::put_off`] must follow.
    pub fn admit(
        &mut self,
        target: NodeId,
        kind: HintKind,
        bytes: u64,
        wall_ms: u64,
    ) -> Result<(LaneId, u64), HintRefusal> {
        if let Some(reason) = self.refusal(target, kind, bytes, wall_ms) {
            self.count_drop(target, reason);
            return Err(HintRefusal { reason });
        }
        let id = LaneId { target, stream: self.stream };
        let options = &self.options;
        let lane = self.lanes.entry(id).or_insert_with(|| Lane::new(options, Found::default()));
        Ok((id, lane.admit(wall_ms << TIME_BITS, bytes)))
    }

    /// Takes in again a hint that stands in the way where it is: one that its target will never take, and that is not to be dropped, into a lane of such; or one
    /// for a core that is behind, into a lane as it is in. It has been counted before, and is taken whatever is full. Gives its time.
    /// [`Ledger::written_again`] or [`Ledger::put_off`] must follow.
    pub fn write_again(&mut self, into: LaneId, bytes: u64, wall_ms: u64) -> u64 {
        let options = &self.options;
        let lane = self.lanes.entry(into).or_insert_with(|| match into.is_held_back() {
            true => Lane::held_back(options, Found::default()),
            false => Lane::new(options, Found::default()),
        });
        lane.admit(wall_ms << TIME_BITS, bytes)
    }

    /// It is durable there: where it was it is done with.
    pub fn written_again(&mut self, into: LaneId, at: u64, from: LaneId, from_at: u64) {
        if let Some(lane) = self.lanes.get_mut(&into) {
            lane.written(at);
        }
        if let Some(lane) = self.lanes.get_mut(&from) {
            lane.written_again(from_at);
        }
    }

    /// See [`Lane::no_room`].
    pub fn no_room(&mut self, id: LaneId, attempt: u32, at: u64, now_ns: u64) {
        if let Some(lane) = self.lanes.get_mut(&id) {
            lane.no_room(&self.options, attempt, at, now_ns);
        }
    }

    /// How many hints are held back for a target.
    pub fn count_held_back(&self, target: NodeId) -> u64 {
        self.of(target).filter(|(id, _)| id.is_held_back()).map(|(_, lane)| lane.count()).sum()
    }

    /// Bytes of them.
    pub fn bytes_held_back(&self, target: NodeId) -> u64 {
        self.of(target).filter(|(id, _)| id.is_held_back()).map(|(_, lane)| lane.bytes()).sum()
    }

    fn refusal(&self, target: NodeId, kind: HintKind, bytes: u64, wall_ms: u64) -> Option<DropReason> {
        // What is held back never drains: it must not stand in the way of what does.
        let drains = |(id, _): &(LaneId, &Lane)| !id.is_held_back();
        let all: u64 = self.lanes().filter(drains).map(|(_, lane)| lane.bytes()).sum();
        let of_target = || self.of(target).filter(drains).map(|(_, lane)| lane.bytes()).sum::<u64>();
        match kind {
            HintKind::Sloppy => {
                // It is never dropped, so there is no more of it for who will not take what there is: for nobody else.
                let is_full = all + bytes > self.options.bytes_max
                    || self.bytes_held_back(target) + bytes > self.options.strict_bytes_max;
                is_full.then_some(DropReason::Full)
            }
            HintKind::Strict => {
                let is_full = all + bytes > self.options.bytes_max / 4 * 3
                    || of_target() + bytes > self.options.strict_bytes_max;
                let is_old = self.oldest_ms(target).is_some_and(|oldest_ms| {
                    oldest_ms.saturating_add(self.options.strict_age_max_ms) < wall_ms
                });
                if is_full { Some(DropReason::Full) } else { is_old.then_some(DropReason::TooOld) }
            }
        }
    }

    /// Whether a target that is there, and did not answer in time or was overloaded, may have one more strict hint for it. If not,
    /// that is counted.
    pub fn may_hint_live(&mut self, target: NodeId, now_ns: u64) -> bool {
        let most = self.options.storm_per_s;
        let bucket = self.buckets.entry(target).or_insert(Bucket { left: most, filled_ns: now_ns });
        let since_ns = now_ns.saturating_sub(bucket.filled_ns);
        let fill = u128::from(since_ns) * u128::from(most) / 1_000_000_000;
        if fill > 0 {
            bucket.left = u128::from(bucket.left).saturating_add(fill).min(u128::from(most)) as u32;
            bucket.filled_ns = now_ns;
        }
        if bucket.left == 0 {
            self.count_drop(target, DropReason::Storm);
            return false;
        }
        bucket.left -= 1;
        true
    }

    /// A hint is durable.
    pub fn written(&mut self, id: LaneId, at: u64) {
        self.counts.entry(id.target).or_default().written += 1;
        if let Some(lane) = self.lanes.get_mut(&id) {
            lane.written(at);
        }
    }

    /// The log refused a hint.
    pub fn not_written(&mut self, id: LaneId, at: u64, bytes: u64) {
        if let Some(lane) = self.lanes.get_mut(&id) {
            lane.forget(at, bytes);
        }
        self.count_drop(id.target, DropReason::NotWritten);
    }

    /// There is no room in the log for a hint at this moment: it will be admitted again.
    pub fn put_off(&mut self, id: LaneId, at: u64, bytes: u64) {
        if let Some(lane) = self.lanes.get_mut(&id) {
            lane.forget(at, bytes);
        }
    }

    /// Counts something that is not kept.
    pub fn count_drop(&mut self, target: NodeId, reason: DropReason) {
        *self.drops.entry((target, reason)).or_default() += 1;
    }

    /// What to read next of a lane whose target is there and has so many cores. Lanes that owe something share what may be in flight.
    pub fn fetch(
        &mut self,
        id: LaneId,
        cores: usize,
        is_absent: &dyn Fn(CoreId) -> bool,
        now_ns: u64,
    ) -> Option<Fetch> {
        let in_flight_bytes: u64 = self.lanes.values().map(Lane::in_flight_bytes).sum();
        let left = self.options.delivery_bytes_max.saturating_sub(in_flight_bytes);
        if self.is_paused || left == 0 {
            return None;
        }
        let owing = self.lanes.values().filter(|lane| lane.owes()).count().max(1) as u64;
        let bytes_max = self.options.window_bytes_max.min(self.options.delivery_bytes_max / owing);
        self.lanes.get_mut(&id)?.fetch(bytes_max, cores, is_absent, now_ns)
    }

    /// See [`Lane::wants`].
    pub fn wants(&self, id: LaneId, fetch: &Fetch, core: Option<CoreId>) -> bool {
        self.lanes.get(&id).is_some_and(|lane| lane.wants(fetch, core))
    }

    /// See [`Lane::fetched`].
    pub fn fetched(
        &mut self,
        id: LaneId,
        fetch: &Fetch,
        seen: &[Seen],
        reached: u64,
        is_absent: &dyn Fn(CoreId) -> bool,
        now_ns: u64,
    ) -> Vec<bool> {
        let lane = self.lanes.get_mut(&id);
        lane.map_or_else(Vec::new, |lane| lane.fetched(fetch, seen, reached, is_absent, now_ns))
    }

    /// See [`Lane::fetch_failed`].
    pub fn fetch_failed(&mut self, id: LaneId, fetch: &Fetch, now_ns: u64) {
        if let Some(lane) = self.lanes.get_mut(&id) {
            lane.fetch_failed(&self.options, fetch, now_ns);
        }
    }

    /// See [`Lane::fetch_unreadable`].
    pub fn fetch_unreadable(&mut self, id: LaneId, fetch: &Fetch, now_ns: u64) -> bool {
        self.lanes.get_mut(&id).is_some_and(|lane| lane.fetch_unreadable(&self.options, fetch, now_ns))
    }

    /// See [`Lane::pass_over`]. It is counted.
    pub fn pass_over(&mut self, id: LaneId, fetch: &Fetch, through: u64) {
        self.count_unreadable();
        if let Some(lane) = self.lanes.get_mut(&id) {
            lane.pass_over(fetch, through);
        }
    }

    /// Counts a stretch of hints that cannot be read and is passed over: how many there were in it is not known.
    pub fn count_unreadable(&mut self) {
        self.unreadable += 1;
    }

    /// Counts hints for a node that is no member: they are kept, and neither delivered nor counted in any bound.
    pub fn add_orphans(&mut self, target: NodeId, count: u64, bytes: u64) {
        let found = self.orphans.entry(target).or_default();
        *found = (found.0 + count, found.1 + bytes);
    }

    /// Hints and bytes for nodes that are no members.
    pub fn orphans(&self) -> impl Iterator<Item = (NodeId, u64, u64)> {
        self.orphans.iter().map(|(&target, &(count, bytes))| (target, count, bytes))
    }

    /// How often hints were passed over since they cannot be read.
    pub fn unreadable(&self) -> u64 {
        self.unreadable
    }

    /// The target has it.
    pub fn acked(&mut self, id: LaneId, attempt: u32, at: u64, now_ns: u64) {
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        if lane.acked(&self.options, attempt, at, now_ns) {
            let counts = self.counts.entry(id.target).or_default();
            counts.delivered += 1;
            counts.turn(now_ns);
            counts.this_second += 1;
        }
    }

    /// The target will never take it.
    pub fn undeliverable(&mut self, id: LaneId, attempt: u32, at: u64) {
        if self.lanes.get_mut(&id).is_some_and(|lane| lane.undeliverable(attempt, at)) {
            self.count_drop(id.target, DropReason::Undeliverable);
        }
    }

    /// See [`Lane::waits_for`].
    pub fn waits_for(&mut self, id: LaneId, attempt: u32, at: u64) -> bool {
        self.lanes.get_mut(&id).is_some_and(|lane| lane.waits_for(attempt, at))
    }

    /// See [`Lane::failed`].
    pub fn failed(&mut self, id: LaneId, attempt: u32, at: u64, of_one_core: bool, now_ns: u64) {
        if let Some(lane) = self.lanes.get_mut(&id) {
            lane.failed(&self.options, attempt, at, of_one_core, now_ns);
        }
    }

    /// See [`Lane::cores_changed`].
    pub fn cores_changed(&mut self, target: NodeId) {
        self.lanes.range_mut(of(target)).for_each(|(_, lane)| lane.cores_changed());
    }

    /// The target is there again.
    pub fn is_back(&mut self, target: NodeId) {
        for (_, lane) in self.lanes.range_mut(of(target)) {
            lane.is_back(&self.options);
        }
    }

    /// The mark of a lane that is to be written next.
    pub fn mark(&mut self, id: LaneId) -> Option<u64> {
        self.lanes.get_mut(&id)?.mark()
    }

    /// See [`Lane::marked`].
    pub fn marked(&mut self, id: LaneId, mark: Option<u64>) -> u64 {
        self.lanes.get_mut(&id).map_or(0, |lane| lane.marked(mark))
    }

    /// Stops delivery, or lets it go on.
    pub fn pause(&mut self, is_paused: bool) {
        self.is_paused = is_paused;
    }

    /// Whether delivery is stopped.
    pub fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// Its bounds.
    pub fn options(&self) -> &HintOptions {
        &self.options
    }

    /// Every lane.
    pub fn lanes(&self) -> impl Iterator<Item = (LaneId, &Lane)> {
        self.lanes.iter().map(|(id, lane)| (*id, lane))
    }

    /// Every target of which anything is to be told.
    pub fn targets(&self) -> Vec<NodeId> {
        let lanes = self.lanes.keys().map(|id| id.target);
        let mut targets: Vec<NodeId> = lanes.chain(self.drops.keys().map(|(target, _)| *target)).collect();
        targets.sort_unstable();
        targets.dedup();
        targets
    }

    /// Hints and bytes that are owed to a target.
    pub fn owed(&self, target: NodeId) -> (u64, u64) {
        self.of(target).fold((0, 0), |(count, bytes), (_, lane)| (count + lane.count(), bytes + lane.bytes()))
    }

    /// Hints and bytes that are owed to anybody.
    pub fn owed_to_all(&self) -> (u64, u64) {
        self.lanes.values().fold((0, 0), |(count, bytes), lane| (count + lane.count(), bytes + lane.bytes()))
    }

    /// When the oldest hint of a target was taken in or somewhat before, in milliseconds since the Unix epoch.
    pub fn oldest_ms(&self, target: NodeId) -> Option<u64> {
        // What is held back says nothing of how long the target has been away.
        let owed = self.of(target).filter(|(id, lane)| lane.count() > 0 && !id.is_held_back());
        owed.map(|(_, lane)| lane.oldest() >> TIME_BITS).min()
    }

    /// Hints written for and delivered to a target since the start, and delivered in a whole second of late.
    pub fn delivered(&mut self, target: NodeId, now_ns: u64) -> (u64, u64, u64) {
        let counts = self.counts.entry(target).or_default();
        counts.turn(now_ns);
        (counts.written, counts.delivered, counts.last_second.max(counts.this_second))
    }

    /// Hints written for and delivered to anybody since the start.
    pub fn made_and_delivered(&self) -> (u64, u64) {
        let of_all = self.counts.values();
        of_all.fold((0, 0), |(made, delivered), of| (made + of.written, delivered + of.delivered))
    }

    /// How often each thing was dropped.
    pub fn drops(&self) -> impl Iterator<Item = (NodeId, DropReason, u64)> {
        self.drops.iter().map(|(&(target, reason), &count)| (target, reason, count))
    }

    /// How it stands with a target.
    pub fn state(&self, target: NodeId, is_live: bool, now_ns: u64) -> LaneState {
        let kept = || self.of(target).filter(|(_, lane)| lane.count() > 0);
        let owed = || kept().filter(|(_, lane)| lane.owes());
        if kept().next().is_none() {
            LaneState::Empty
        } else if owed().next().is_none() {
            LaneState::HeldBack
        } else if self.is_paused {
            LaneState::Paused
        } else if !is_live {
            LaneState::Waiting
        } else if owed().all(|(_, lane)| lane.rests(now_ns)) {
            LaneState::Throttled
        } else {
            LaneState::Draining
        }
    }

    fn of(&self, target: NodeId) -> impl Iterator<Item = (LaneId, &Lane)> {
        self.lanes.range(of(target)).map(|(id, lane)| (*id, lane))
    }
}

fn of(target: NodeId) -> std::ops::RangeInclusive<LaneId> {
    LaneId { target, stream: 0 }..=LaneId { target, stream: u16::MAX }
}

impl Counts {
    fn turn(&mut self, now_ns: u64) {
        let second = now_ns / 1_000_000_000;
        if second != self.second {
            self.last_second = if second == self.second + 1 { self.this_second } else { 0 };
            (self.second, self.this_second) = (second, 0);
        }
    }
}
