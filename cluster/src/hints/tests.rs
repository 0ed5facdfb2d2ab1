//! The ledger against a dumb model, and what was found with it.

mod host;

use ferrite_wire::{CoreId, NodeId};
use proptest::prelude::*;

use self::host::{Host, LANE, STEP_NS, Step, TARGET, options, step};
use super::*;

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
