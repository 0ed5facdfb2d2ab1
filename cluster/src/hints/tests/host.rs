//! The dumb model that the ledger is compared with: a list of hints, each acknowledged or not, and the host that keeps and sends them.

use std::collections::{BTreeMap, BTreeSet};

use ferrite_wire::{CoreId, NodeId};
use proptest::prelude::*;

use crate::hints::*;

pub(super) const TARGET: NodeId = NodeId(4);
pub(super) const LANE: LaneId = LaneId { target: TARGET, stream: 1 };
/// Of the target; of every fourth hint it is not known which.
const CORES: u64 = 3;
/// Most hints that a fetch goes through.
const WALKED_MAX: usize = 8;
/// Most hints that the log takes again at a time.
const ROOM: usize = 3;

/// So long each step takes.
pub(super) const STEP_NS: u64 = 1_000_000;

pub(super) fn options() -> HintOptions {
    HintOptions {
        strict_bytes_max: 5_000,
        bytes_max: 10_000,
        window_max: 16,
        window_bytes_max: 600,
        storm_per_s: 5,
        pinned_bytes_max: 300,
        ..HintOptions::default()
    }
}

/// What happens next.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Take(bool, u64),
    /// The log made what was staged durable.
    Commit,
    /// Nothing of what was staged was written.
    Refuse,
    Fetch,
    /// The answer to one of those in flight: taken, refused, never taken.
    Answer(usize, u8),
    /// All connections broke.
    Lose,
    /// A core of the target is absent, or there again.
    Absent(u16, bool),
    /// The target has dealt its keys anew.
    Deal,
    Mark,
    /// The mark on its way is durable, or not.
    Marked(bool),
    Pause(bool),
    /// The holder crashes and starts again.
    Crash,
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (any::<bool>(), 1u64..200).prop_map(|(sloppy, bytes)| Step::Take(sloppy, bytes)),
        4 => Just(Step::Commit),
        1 => Just(Step::Refuse),
        4 => Just(Step::Fetch),
        8 => (any::<usize>(), 0u8..10).prop_map(|(which, kind)| Step::Answer(which, kind)),
        1 => Just(Step::Lose),
        2 => (0..CORES as u16, any::<bool>()).prop_map(|(core, is_absent)| Step::Absent(core, is_absent)),
        1 => Just(Step::Deal),
        2 => Just(Step::Mark),
        2 => any::<bool>().prop_map(Step::Marked),
        1 => any::<bool>().prop_map(Step::Pause),
        1 => Just(Step::Crash),
    ]
}

/// The host: what is stored, what is in flight, and what the target has.
pub(super) struct Host {
    pub(super) ledger: Ledger,
    pub(super) staged: Vec<(u64, u64)>,
    /// Written again and not durable: time and bytes, and the attempt and time that it had.
    pub(super) again: Vec<(u64, u64, u32, u64)>,
    /// Those that were, and are durable, since the start.
    pub(super) copied: BTreeSet<u64>,
    /// The time that such had at first.
    pub(super) first_at: BTreeMap<u64, u64>,
    pub(super) stored: BTreeMap<u64, u64>,
    /// `(attempt, time)` of what waits for an answer.
    pub(super) sent: Vec<(u32, u64)>,
    pub(super) has: BTreeSet<u64>,
    /// The mark on its way, and the durable one.
    pub(super) marking: Option<u64>,
    pub(super) mark: u64,
    pub(super) now_ns: u64,
    pub(super) absent: BTreeSet<CoreId>,
    pub(super) dealt: u64,
    /// Hints may have been counted that were delivered.
    pub(super) is_rough: bool,
    /// How often there was no room to write one again.
    pub(super) refused: u32,
}

impl Host {
    pub(super) fn new() -> Host {
        Host {
            ledger: Ledger::new(options(), 1),
            staged: Vec::new(),
            again: Vec::new(),
            copied: BTreeSet::new(),
            first_at: BTreeMap::new(),
            stored: BTreeMap::new(),
            sent: Vec::new(),
            has: BTreeSet::new(),
            marking: None,
            mark: 0,
            now_ns: 1,
            absent: BTreeSet::new(),
            dealt: 0,
            is_rough: false,
            refused: 0,
        }
    }

    pub(super) fn core_of(&self, at: u64) -> Option<CoreId> {
        let at = self.first_at.get(&at).copied().unwrap_or(at);
        (!at.is_multiple_of(4)).then(|| CoreId(((at + self.dealt) % CORES) as u16))
    }

    /// Hints and bytes that are kept for sure, and that may be.
    pub(super) fn kept(&self) -> ((u64, u64), (u64, u64)) {
        let sum = |hints: &mut dyn Iterator<Item = (u64, u64)>| {
            hints.fold((0, 0), |(count, all), (_, bytes)| (count + 1, all + bytes))
        };
        let again = self.again.iter().map(|(at, bytes, ..)| (*at, *bytes));
        let staged = sum(&mut self.staged.iter().copied().chain(again));
        let stored = || self.stored.iter().map(|(at, bytes)| (*at, *bytes));
        let owed = sum(&mut stored().filter(|(at, _)| !self.has.contains(at)));
        let kept = sum(&mut stored().filter(|(at, _)| *at > self.watermark()));
        let most = if self.is_rough { (u64::MAX, u64::MAX) } else { (kept.0 + staged.0, kept.1 + staged.1) };
        ((owed.0 + staged.0, owed.1 + staged.1), most)
    }

    pub(super) fn watermark(&self) -> u64 {
        self.ledger.lanes().next().map_or(0, |(_, lane)| lane.watermark())
    }

    pub(super) fn step(&mut self, step: Step) {
        self.now_ns += STEP_NS;
        let wall_ms = 1_000 + self.now_ns / 1_000_000_000;
        match step {
            Step::Take(sloppy, bytes) => {
                let kind = if sloppy { HintKind::Sloppy } else { HintKind::Strict };
                let (_, before) = self.ledger.owed(TARGET);
                match self.ledger.admit(TARGET, kind, bytes, wall_ms) {
                    Ok((id, at)) => {
                        assert_eq!(id, LANE);
                        let last = self.stored.keys().next_back().max(self.staged.last().map(|(at, _)| at));
                        assert!(last.is_none_or(|last| at > *last), "times rise");
                        assert!(before + bytes <= if sloppy { 10_000 } else { 5_000 });
                        self.staged.push((at, bytes));
                    }
                    Err(HintRefusal { reason }) => {
                        assert_eq!(reason, DropReason::Full);
                        assert!(before + bytes > if sloppy { 10_000 } else { 5_000 });
                    }
                }
            }
            Step::Commit => {
                for (at, bytes) in std::mem::take(&mut self.staged) {
                    self.stored.insert(at, bytes);
                    self.ledger.written(LANE, at);
                }
                for (at, bytes, _, from) in std::mem::take(&mut self.again) {
                    self.stored.insert(at, bytes);
                    self.first_at.insert(at, self.first_at.get(&from).copied().unwrap_or(from));
                    self.has.insert(from);
                    self.copied.insert(from);
                    self.ledger.written_again(LANE, at, LANE, from);
                }
            }
            Step::Refuse => {
                for (at, bytes) in std::mem::take(&mut self.staged) {
                    self.ledger.not_written(LANE, at, bytes);
                }
                for (at, bytes, attempt, from) in std::mem::take(&mut self.again) {
                    self.ledger.put_off(LANE, at, bytes);
                    self.ledger.failed(LANE, attempt, from, true, self.now_ns);
                }
            }
            Step::Fetch => {
                let absent = self.absent.clone();
                let is_absent = |core| absent.contains(&core);
                let fetched = self.ledger.fetch(LANE, CORES as usize, &is_absent, self.now_ns);
                let Some(fetch) = fetched else { return };
                assert!(!self.ledger.is_paused());
                assert!(
                    fetch.of.is_none_or(|core| is_absent(core) == fetch.rewrites),
                    "nothing is sent to who is not there"
                );
                let (mut hints, mut walked, mut bytes) = (Vec::new(), 0, 0);
                let mut reached = fetch.after;
                let mut range = self.stored.range(fetch.after + 1..=fetch.through).peekable();
                while let Some((&at, &len)) = range.next_if(|_| {
                    hints.len() < fetch.records as usize
                        && (walked == 0 || walked < WALKED_MAX && bytes < fetch.bytes)
                }) {
                    (reached, walked, bytes) = (at, walked + 1, bytes + len);
                    let core = self.core_of(at);
                    if self.ledger.wants(LANE, &fetch, core) {
                        hints.push(Seen { at, bytes: len, core });
                    }
                }
                if range.peek().is_none() {
                    reached = fetch.through;
                }
                let sent = self.ledger.fetched(LANE, &fetch, &hints, reached, &is_absent, self.now_ns);
                for (hint, is_sent) in hints.iter().zip(sent) {
                    if fetch.rewrites && is_sent {
                        assert!(!self.copied.contains(&hint.at), "each is written again once");
                        if self.again.len() == ROOM {
                            self.refused += 1;
                            self.ledger.no_room(LANE, fetch.attempt, hint.at, self.now_ns);
                            let ledger = &mut self.ledger;
                            let mut those_before = self.again.iter().filter(|again| again.2 == fetch.attempt);
                            assert!(
                                those_before.all(|(.., from)| ledger.waits_for(LANE, fetch.attempt, *from)),
                                "they are on their way"
                            );
                            break;
                        }
                        let at = self.ledger.write_again(LANE, hint.bytes, wall_ms);
                        self.again.push((at, hint.bytes, fetch.attempt, hint.at));
                        continue;
                    }
                    assert!(!is_sent || hint.core.is_none_or(|core| !is_absent(core)));
                    self.sent.extend(is_sent.then_some((fetch.attempt, hint.at)));
                }
                let lane = self.ledger.lanes().next().expect("it was fetched").1;
                assert!(lane.in_flight() <= 16 * (1 + lane.cores_behind() as u32), "windows are bounded");
            }
            Step::Answer(which, kind) => {
                if self.sent.is_empty() {
                    return;
                }
                let (attempt, at) = self.sent.swap_remove(which % self.sent.len());
                match kind {
                    0 => self.ledger.failed(LANE, attempt, at, true, self.now_ns),
                    1 => {
                        self.ledger.undeliverable(LANE, attempt, at);
                        self.has.insert(at);
                    }
                    _ => {
                        self.has.insert(at);
                        self.ledger.acked(LANE, attempt, at, self.now_ns);
                    }
                }
            }
            Step::Lose => {
                let lost = std::mem::take(&mut self.sent);
                for (attempt, at) in lost {
                    self.ledger.failed(LANE, attempt, at, false, self.now_ns);
                }
            }
            Step::Absent(core, true) => drop(self.absent.insert(CoreId(core))),
            Step::Absent(core, false) => drop(self.absent.remove(&CoreId(core))),
            Step::Deal => {
                self.dealt += 1;
                self.is_rough = true;
                self.ledger.cores_changed(TARGET);
            }
            Step::Mark => {
                if let Some(mark) = self.ledger.mark(LANE) {
                    assert_eq!(self.marking.replace(mark), None, "one at a time");
                    assert!(mark > self.mark);
                }
            }
            Step::Marked(durable) => {
                let Some(mark) = self.marking.take() else { return };
                self.mark = if durable { mark } else { self.mark };
                let done = self.ledger.marked(LANE, durable.then_some(mark));
                assert_eq!(done, if durable { mark } else { self.watermark() });
                // That may be done away with.
                self.stored.retain(|at, _| *at > done);
            }
            Step::Pause(is_paused) => self.ledger.pause(is_paused),
            Step::Crash => {
                self.staged.clear();
                self.again.clear();
                self.copied.clear();
                self.sent.clear();
                (self.marking, self.is_rough) = (None, false);
                self.ledger = Ledger::new(options(), 1);
                let found = Found {
                    mark: self.mark,
                    first: self.stored.keys().next().copied().unwrap_or(0),
                    last: self.stored.keys().next_back().copied().unwrap_or(0),
                    count: self.stored.len() as u64,
                    bytes: self.stored.values().sum(),
                };
                self.ledger.restore(LANE, found);
            }
        }
    }

    pub(super) fn check(&self) {
        let watermark = self.watermark();
        let passed = self.stored.range(..=watermark).find(|(at, _)| !self.has.contains(at));
        assert_eq!(passed, None, "the watermark at {watermark} has passed a hint that was not acknowledged");
        assert!(self.mark <= watermark);
        let ((least, least_bytes), (most, most_bytes)) = self.kept();
        let (count, bytes) = self.ledger.owed(TARGET);
        assert!((least..=most).contains(&count), "{count} of {least} to {most}");
        assert!(
            (least_bytes..=most_bytes).contains(&bytes),
            "{bytes} of {least_bytes} to {most_bytes} bytes"
        );
        if let (Some(oldest_ms), Some((at, _))) =
            (self.ledger.oldest_ms(TARGET), self.stored.range(watermark + 1..).next())
        {
            assert!(oldest_ms <= at >> 16 && oldest_ms >= 1_000, "{oldest_ms} of {}", at >> 16);
        }
    }

    /// From here on everything works.
    pub(super) fn drain(&mut self) {
        self.step(Step::Pause(false));
        self.absent.clear();
        self.step(Step::Commit);
        self.step(Step::Lose);
        self.step(Step::Marked(true));
        for _ in 0..10_000 {
            if self.ledger.lanes().all(|(_, lane)| !lane.owes()) {
                break;
            }
            self.now_ns += 100_000_000;
            self.step(Step::Fetch);
            for _ in 0..self.sent.len() {
                self.step(Step::Answer(0, 9));
            }
            self.check();
        }
        self.step(Step::Mark);
        self.step(Step::Marked(true));
        assert_eq!(self.ledger.owed(TARGET), (0, 0), "drained");
        assert!(self.stored.is_empty(), "and nothing of it is kept");
        assert_eq!(self.ledger.state(TARGET, true, self.now_ns), LaneState::Empty);
    }
}
