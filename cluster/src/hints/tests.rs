//! The ledger against a dumb model: a list of hints, each acknowledged or not.

use std::collections::{BTreeMap, BTreeSet};

use ferrite_wire::{CoreId, NodeId};
use proptest::prelude::*;

use super::*;

const TARGET: NodeId = NodeId(4);
const LANE: LaneId = LaneId { target: TARGET, stream: 1 };
/// Of the target; of every fourth hint it is not known which.
const CORES: u64 = 3;
/// Most hints that a fetch goes through.
const WALKED_MAX: usize = 8;
/// Most hints that the log takes again at a time.
const ROOM: usize = 3;

/// So long each step takes.
const STEP_NS: u64 = 1_000_000;

fn options() -> HintOptions {
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
enum Step {
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

fn step() -> impl Strategy<Value = Step> {
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
struct Host {
    ledger: Ledger,
    staged: Vec<(u64, u64)>,
    /// Written again and not durable: time and bytes, and the attempt and time that it had.
    again: Vec<(u64, u64, u32, u64)>,
    /// Those that were, and are durable, since the start.
    copied: BTreeSet<u64>,
    /// The time that such had at first.
    first_at: BTreeMap<u64, u64>,
    stored: BTreeMap<u64, u64>,
    /// `(attempt, time)` of what waits for an answer.
    sent: Vec<(u32, u64)>,
    has: BTreeSet<u64>,
    /// The mark on its way, and the durable one.
    marking: Option<u64>,
    mark: u64,
    now_ns: u64,
    absent: BTreeSet<CoreId>,
    dealt: u64,
    /// Hints may have been counted that were delivered.
    is_rough: bool,
    /// How often there was no room to write one again.
    refused: u32,
}

impl Host {
    fn new() -> Host {
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

    fn core_of(&self, at: u64) -> Option<CoreId> {
        let at = self.first_at.get(&at).copied().unwrap_or(at);
        (!at.is_multiple_of(4)).then(|| CoreId(((at + self.dealt) % CORES) as u16))
    }

    /// Hints and bytes that are kept for sure, and that may be.
    fn kept(&self) -> ((u64, u64), (u64, u64)) {
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

    fn watermark(&self) -> u64 {
        self.ledger.lanes().next().map_or(0, |(_, lane)| lane.watermark())
    }

    fn step(&mut self, step: Step) {
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

    fn check(&self) {
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
            assert!(oldest_ms <= at >> 20 && oldest_ms >= 1_000, "{oldest_ms} of {}", at >> 20);
        }
    }

    /// From here on everything works.
    fn drain(&mut self) {
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

/// A target's core that stood still kept its other cores from getting theirs.
#[test]
fn a_core_that_does_not_take_its_hints_holds_up_no_other_and_gets_them_later() {
    let mut host = Host::new();
    for _ in 0..40 {
        host.step(Step::Take(true, 10));
    }
    host.step(Step::Commit);
    let times: Vec<u64> = host.stored.keys().copied().collect();
    let broken = CoreId(1);
    let of_broken = |host: &Host, at: u64| host.core_of(at) == Some(broken);
    let first = *times.iter().find(|at| of_broken(&host, **at)).expect("a third of them");
    // It refuses what it is sent, and then it is known to be absent.
    let mut sent = Vec::new();
    for round in 0..60 {
        host.step(Step::Fetch);
        for (attempt, at) in std::mem::take(&mut host.sent) {
            sent.push(at);
            if of_broken(&host, at) {
                host.ledger.failed(LANE, attempt, at, true, host.now_ns);
            } else {
                host.has.insert(at);
                host.ledger.acked(LANE, attempt, at, host.now_ns);
            }
        }
        if round == 3 {
            host.step(Step::Absent(1, true));
        }
        host.check();
    }
    let others: Vec<u64> = times.iter().copied().filter(|at| !of_broken(&host, *at)).collect();
    assert!(others.iter().all(|at| host.has.contains(at)), "all others have all of theirs");
    sent.retain(|at| !of_broken(&host, *at));
    assert_eq!(sent, others, "each once, in order");
    assert_eq!(host.watermark(), first - 1);
    host.drain();
    assert!(times.iter().all(|at| host.has.contains(at)));
}

/// While one core stood still for hours, all that its node's others were sent stayed on the disk, beyond the bounds of hints, and was counted as owed by the next
/// life, which refused sloppy writes for it.
#[test]
fn what_others_were_sent_is_not_kept_for_a_core_that_stays_away() {
    let mut host = Host::new();
    host.step(Step::Absent(1, true));
    let mut most = 0;
    for _ in 0..200 {
        (0..4).for_each(|_| host.step(Step::Take(true, 50)));
        host.step(Step::Commit);
        for _ in 0..6 {
            // What found no room rests for a moment.
            host.now_ns += options().pause_min_ns;
            host.step(Step::Fetch);
            (0..host.sent.len()).for_each(|_| host.step(Step::Answer(0, 9)));
            host.step(Step::Commit);
            host.step(Step::Mark);
            host.step(Step::Marked(true));
        }
        host.check();
        let (_, owed) = host.ledger.owed(TARGET);
        let stored: u64 = host.stored.values().sum();
        most = most.max(stored.saturating_sub(owed + owed / 2));
    }
    let (count, owed) = host.ledger.owed(TARGET);
    let of_absent = host.stored.keys().filter(|at| host.core_of(**at) == Some(CoreId(1))).count() as u64;
    assert!(count == of_absent && count > 100, "{count} {of_absent}");
    assert!(most <= 300 + 600, "{most} bytes beside {owed} that are owed: more than the bound and a window");
    host.drain();
}

/// What had become durable in its new place after all was tried again for another's sake was written again once more, each time.
#[test]
fn what_was_written_again_is_not_once_more_though_others_were_refused() {
    let mut host = Host::new();
    host.step(Step::Absent(1, true));
    let mut refused = 0;
    for _ in 0..100 {
        (0..4).for_each(|_| host.step(Step::Take(true, 50)));
        host.step(Step::Commit);
        for _ in 0..6 {
            host.now_ns += 100_000_000;
            host.step(Step::Fetch);
            (0..host.sent.len()).for_each(|_| host.step(Step::Answer(0, 9)));
            if host.again.len() > 1 {
                let (at, bytes, attempt, from) = host.again.pop().expect("just seen");
                host.ledger.put_off(LANE, at, bytes);
                host.ledger.failed(LANE, attempt, from, false, host.now_ns);
                refused += 1;
            }
            host.step(Step::Commit);
            host.step(Step::Mark);
            host.step(Step::Marked(true));
        }
        host.check();
    }
    assert!(refused > 1 && host.copied.len() > 10, "{refused} {}", host.copied.len());
    host.drain();
}

/// It was read again with each tick, fifty times a second: a hint of a megabyte, that fits a group only where nothing else is in it, kept a busy core busier.
#[test]
fn a_hint_that_finds_no_room_to_be_written_again_is_read_again_after_a_pause() {
    let mut host = Host::new();
    host.step(Step::Absent(1, true));
    // No time passes while it does.
    let fetch = |host: &mut Host| {
        let now_ns = host.now_ns;
        for _ in 0..6 {
            host.now_ns = now_ns - STEP_NS;
            host.step(Step::Fetch);
            (0..host.sent.len()).for_each(|_| host.step(Step::Answer(0, 9)));
        }
        host.now_ns = now_ns;
    };
    let is_refused = |_: u32| {
        (0..4).for_each(|_| host.step(Step::Take(true, 50)));
        host.step(Step::Commit);
        fetch(&mut host);
        host.refused > 0
    };
    assert!((0..200).any(is_refused));
    let pause_ns = options().pause_min_ns;
    assert_eq!(host.refused, 1, "there is no more room than before");
    host.now_ns += pause_ns - 1;
    fetch(&mut host);
    assert_eq!(host.refused, 1);
    host.now_ns += 1;
    fetch(&mut host);
    assert_eq!(host.refused, 2, "it is tried again");
    host.step(Step::Commit);
    host.now_ns += pause_ns;
    let copied = host.copied.len();
    fetch(&mut host);
    host.step(Step::Commit);
    assert!(host.copied.len() > copied);
    host.drain();
}

/// What was left to a core's own way would have been looked for among another's.
#[test]
fn when_the_target_deals_its_keys_anew_all_that_was_left_behind_is_sent_again() {
    let mut host = Host::new();
    for _ in 0..12 {
        host.step(Step::Take(true, 10));
    }
    host.step(Step::Commit);
    host.step(Step::Absent(0, true));
    for _ in 0..12 {
        host.step(Step::Fetch);
        (0..host.sent.len()).for_each(|_| host.step(Step::Answer(0, 9)));
    }
    let owed = host.stored.keys().filter(|at| !host.has.contains(at)).count() as u64;
    assert!(owed > 1 && host.ledger.owed(TARGET).0 == owed, "{owed}");
    host.step(Step::Deal);
    host.drain();
    assert!(host.has.len() == 12);
}

/// Each target had a window of its own, and so many of them were bounded by nothing.
#[test]
fn all_lanes_share_what_may_be_in_flight() {
    let bounds = HintOptions { delivery_bytes_max: 1_000, ..options() };
    let mut ledger = Ledger::new(bounds, 1);
    let mut lanes = Vec::new();
    for target in (0..10).map(NodeId) {
        for _ in 0..8 {
            let (id, at) = ledger.admit(target, HintKind::Sloppy, 50, 9).expect("there is room");
            ledger.written(id, at);
            lanes.push((id, at));
        }
    }
    let mut in_flight = 0;
    for target in (0..10).map(NodeId) {
        let id = LaneId { target, stream: 1 };
        let fetch = ledger.fetch(id, 1, &|_| false, 1).expect("each gets a share");
        assert_eq!(fetch.bytes, 100);
        let hints: Vec<Seen> = lanes
            .iter()
            .filter(|(lane, _)| *lane == id)
            .take(2)
            .copied()
            .map(|(_, at)| Seen { at, bytes: 50, core: None })
            .collect();
        in_flight += ledger.fetched(id, &fetch, &hints, hints[1].at, &|_| false, 1).len();
    }
    assert_eq!(in_flight, 20);
    let full = (0..10)
        .map(NodeId)
        .all(|target| ledger.fetch(LaneId { target, stream: 1 }, 1, &|_| false, 1).is_none());
    assert!(full, "1,000 bytes are in flight");
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

/// What one node would never take filled the room of all: no other got hints, and sloppy writes for any were refused, until an operator let go of it.
#[test]
fn what_is_held_back_for_one_takes_no_room_from_others_and_is_bounded_itself() {
    let mut ledger = Ledger::new(HintOptions { strict_bytes_max: 1_000, bytes_max: 1_200, ..options() }, 1);
    let back = LaneId::held_back(TARGET, CoreId(1), 2);
    let sloppy = |ledger: &mut Ledger, target| ledger.admit(target, HintKind::Sloppy, 100, 9).is_ok();
    for round in 0..10 {
        assert!(sloppy(&mut ledger, TARGET), "{round}");
        let (id, at) = (LANE, ledger.lanes().find(|(id, _)| *id == LANE).expect("it is there").1.last());
        ledger.written(id, at);
        let fetch = ledger.fetch(id, 1, &|_| false, 1).expect("it is due");
        let seen = [Seen { at, bytes: 100, core: None }];
        assert_eq!(ledger.fetched(id, &fetch, &seen, at, &|_| false, 1), [true]);
        let again = ledger.write_again(back, 100, 9);
        ledger.written_again(back, again, id, at);
    }
    assert_eq!((ledger.count_held_back(TARGET), ledger.bytes_held_back(TARGET)), (10, 1_000));
    assert!(!sloppy(&mut ledger, TARGET), "what it will not take is not kept for ever more of");
    assert!((0..8).all(|_| ledger.admit(NodeId(5), HintKind::Strict, 100, 9).is_ok()), "another target");
    assert!((0..4).all(|_| sloppy(&mut ledger, NodeId(6))) && !sloppy(&mut ledger, NodeId(6)));
    ledger.restore(back, Found::default());
    assert!(!sloppy(&mut ledger, TARGET), "all of it is taken");
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

/// A hint that waited for room in the log while a shorter one of a later time found it was read past: it came behind the watermark, was never delivered,
/// and had been counted towards its write.
#[test]
fn what_is_written_out_of_turn_is_not_read_past() {
    let mut lane = Lane::new(&options(), Found { mark: 0, first: 0, last: 0, count: 0, bytes: 0 });
    let waits = lane.admit(10, 100);
    let finds_room = lane.admit(10, 10);
    lane.written(finds_room);
    let nobody = |_: CoreId| false;
    let through = lane.fetch(1_000, 1, &nobody, 0).map_or(0, |fetch| fetch.through);
    assert!(through < waits, "read through {through}, and {waits} is to come");
    let mut lane = Lane::new(&options(), Found { mark: 0, first: 0, last: 0, count: 0, bytes: 0 });
    let refused = lane.admit(10, 100);
    let finds_room = lane.admit(10, 10);
    lane.written(finds_room);
    lane.forget(refused, 100);
    assert_eq!(lane.fetch(1_000, 1, &nobody, 0).map(|fetch| fetch.through), Some(finds_room));
}
