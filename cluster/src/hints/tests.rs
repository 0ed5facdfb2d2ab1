//! The ledger against a dumb model: a list of hints, each acknowledged or not.

use std::collections::{BTreeMap, BTreeSet};

use ferrite_wire::NodeId;
use proptest::prelude::*;

use super::*;

const TARGET: NodeId = NodeId(4);
const LANE: LaneId = LaneId { target: TARGET, stream: 1 };

fn options() -> HintOptions {
    HintOptions {
        strict_bytes_max: 5_000,
        bytes_max: 10_000,
        window_max: 16,
        window_bytes_max: 600,
        storm_per_s: 5,
        ..HintOptions::default()
    }
}

/// What happens next.
#[derive(Clone, Copy, Debug)]
enum Step {
    Take(bool, u64),
    /// The log made what was staged durable.
    Commit,
    /// Nothing of what was staged was written.
    Refuse,
    Fetch,
    /// The answer to one of those in flight: taken, refused, never taken.
    Answer(usize, u8),
    /// The connection broke.
    Lose,
    Mark,
    /// The mark on its way is durable, or not.
    Marked(bool),
    Pause(bool),
    /// The holder crashes and starts again.
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (any::<bool>(), 1u64..200).prop_map(|(sloppy, bytes)| Step::Take(sloppy, bytes)),
        4 => Just(Step::Commit),
        1 => Just(Step::Refuse),
        4 => Just(Step::Fetch),
        8 => (any::<usize>(), 0u8..10).prop_map(|(which, kind)| Step::Answer(which, kind)),
        1 => Just(Step::Lose),
        2 => Just(Step::Mark),
        2 => any::<bool>().prop_map(Step::Marked),
        1 => any::<bool>().prop_map(Step::Pause),
        1 => Just(Step::Crash),
    ]
}

/// The host: what is stored, what is in flight, and what the target has.
struct Host {
    ledger: Ledger,
    staged: Vec<(u64, u64)>,
    stored: BTreeMap<u64, u64>,
    /// `(attempt, time)` of what waits for an answer.
    sent: Vec<(u32, u64)>,
    has: BTreeSet<u64>,
    /// The mark on its way, and the durable one.
    marking: Option<u64>,
    mark: u64,
    now_ns: u64,
}

impl Host {
    fn new() -> Host {
        Host {
            ledger: Ledger::new(options(), 1),
            staged: Vec::new(),
            stored: BTreeMap::new(),
            sent: Vec::new(),
            has: BTreeSet::new(),
            marking: None,
            mark: 0,
            now_ns: 1,
        }
    }

    fn model_bytes(&self) -> u64 {
        let owed = self.stored.range(self.watermark() + 1..).map(|(_, bytes)| bytes);
        owed.sum::<u64>() + self.staged.iter().map(|(_, bytes)| bytes).sum::<u64>()
    }

    fn watermark(&self) -> u64 {
        self.ledger.lanes().next().map_or(0, |(_, lane)| lane.watermark())
    }

    fn step(&mut self, step: Step) {
        self.now_ns += 1_000_000;
        let wall_ms = 1_000 + self.now_ns / 1_000_000_000;
        match step {
            Step::Take(sloppy, bytes) => {
                let kind = if sloppy { HintKind::Sloppy } else { HintKind::Strict };
                let before = self.model_bytes();
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
            }
            Step::Refuse => {
                for (_, bytes) in std::mem::take(&mut self.staged) {
                    self.ledger.not_written(LANE, bytes);
                }
            }
            Step::Fetch => {
                let Some(fetch) = self.ledger.fetch(LANE, self.now_ns) else { return };
                assert!(!self.ledger.is_paused());
                let mut hints = Vec::new();
                let mut bytes = 0;
                let mut range = self.stored.range(fetch.after + 1..=fetch.through).peekable();
                while let Some((at, len)) = range.next_if(|_| {
                    hints.len() < fetch.records as usize && (bytes < fetch.bytes || hints.is_empty())
                }) {
                    hints.push((*at, *len));
                    bytes += len;
                }
                let all = range.peek().is_none();
                if self.ledger.fetched(LANE, &fetch, &hints, all, self.now_ns) {
                    self.sent.extend(hints.iter().map(|(at, _)| (fetch.attempt, *at)));
                }
                let lane = self.ledger.lanes().next().expect("it was fetched").1;
                assert!(lane.in_flight() <= 16, "the window is bounded");
            }
            Step::Answer(which, kind) => {
                if self.sent.is_empty() {
                    return;
                }
                let (attempt, at) = self.sent.swap_remove(which % self.sent.len());
                match kind {
                    0 => self.ledger.failed(LANE, attempt, self.now_ns),
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
                lost.iter().for_each(|(attempt, _)| self.ledger.failed(LANE, *attempt, self.now_ns));
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
                assert_eq!(self.ledger.marked(LANE, durable.then_some(mark)), self.mark);
                // What is behind the mark may be done away with.
                self.stored.retain(|at, _| *at > self.mark);
            }
            Step::Pause(is_paused) => self.ledger.pause(is_paused),
            Step::Crash => {
                self.staged.clear();
                self.sent.clear();
                self.marking = None;
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

    fn check(&self) {
        let watermark = self.watermark();
        let passed = self.stored.range(..=watermark).find(|(at, _)| !self.has.contains(at));
        assert_eq!(passed, None, "the watermark at {watermark} has passed a hint that was not acknowledged");
        assert!(self.mark <= watermark);
        let owed = self.stored.range(watermark + 1..).count() + self.staged.len();
        assert_eq!(self.ledger.owed(TARGET), (owed as u64, self.model_bytes()));
        if let (Some(oldest_ms), Some((at, _))) =
            (self.ledger.oldest_ms(TARGET), self.stored.range(watermark + 1..).next())
        {
            assert!(oldest_ms <= at >> 20 && oldest_ms >= 1_000, "{oldest_ms} of {}", at >> 20);
        }
    }

    /// From here on everything works.
    fn drain(&mut self) {
        self.step(Step::Pause(false));
        self.step(Step::Commit);
        self.step(Step::Lose);
        self.step(Step::Marked(true));
        for _ in 0..10_000 {
            if self.ledger.owed(TARGET).0 == 0 {
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

proptest! {
    #[test]
    fn nothing_is_passed_over_and_all_of_it_arrives(steps in prop::collection::vec(step(), 0..200)) {
        let mut host = Host::new();
        for step in steps {
            host.step(step);
            host.check();
        }
        host.drain();
    }
}

#[cfg(feature = "planted-bugs")]
#[test]
fn the_planted_bug_passes_over_what_was_not_acknowledged() {
    let mut host = Host::new();
    host.step(Step::Take(true, 10));
    host.step(Step::Commit);
    crate::planted::plant(Some(crate::planted::Bug::HintMarkBeforeAck));
    host.step(Step::Fetch);
    crate::planted::plant(None);
    assert!(host.watermark() >= host.sent[0].1, "before any answer");
}

#[test]
fn strict_hints_end_at_three_quarters_and_leave_room_for_sloppy_ones() {
    let mut ledger = Ledger::new(HintOptions { strict_bytes_max: 1_000_000, ..options() }, 1);
    let mut taken = 0;
    while ledger.admit(NodeId(taken % 3), HintKind::Strict, 100, 9).is_ok() {
        taken += 1;
    }
    assert_eq!(taken, 75);
    let mut sloppy = 0;
    while ledger.admit(NodeId(9), HintKind::Sloppy, 100, 9).is_ok() {
        sloppy += 1;
    }
    assert_eq!(sloppy, 25);
    assert_eq!(
        ledger.drops().map(|(_, reason, count)| (reason, count)).collect::<Vec<_>>(),
        [(DropReason::Full, 1), (DropReason::Full, 1)]
    );
}

#[test]
fn who_has_been_away_for_too_long_gets_no_more_strict_hints() {
    let options = HintOptions { strict_age_max_ms: 1_000, ..options() };
    let mut ledger = Ledger::new(options, 1);
    ledger.admit(TARGET, HintKind::Strict, 1, 5_000).expect("the first");
    ledger.admit(TARGET, HintKind::Strict, 1, 6_000).expect("young enough");
    let refused = ledger.admit(TARGET, HintKind::Strict, 1, 6_001);
    assert_eq!(refused, Err(HintRefusal { reason: DropReason::TooOld }));
    ledger.admit(TARGET, HintKind::Sloppy, 1, 9_000).expect("it counts towards a level");
    ledger.admit(NodeId(5), HintKind::Strict, 1, 9_000).expect("another target");
}

#[test]
fn a_target_that_is_only_slow_gets_so_many_hints_a_second() {
    let mut ledger = Ledger::new(options(), 1);
    let mut in_a_second =
        |from_ns: u64| (0..100).filter(|at| ledger.may_hint_live(TARGET, from_ns + at * 10_000_000)).count();
    assert_eq!(in_a_second(0), 5 + 4, "a bucketful, and what comes in meanwhile");
    assert!((4..=6).contains(&in_a_second(1_000_000_000)));
    let dropped: u64 = ledger.drops().map(|(_, _, count)| count).sum();
    assert!(dropped >= 185, "{dropped}");
}
