//! Repairs, against replicas that are really written to: what a read of a majority has shown is on as many as its level needs.

use super::*;

/// What a replica does when it is asked or written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Sound,
    RefusesWrites,
    /// Takes a write, and its answer is lost.
    LosesAcks,
    FailsReads,
}

/// Its record: of last-write-wins the order, of sets a bit for each sibling; 0 = none.
#[derive(Clone, Copy, Debug)]
struct Store {
    record: u8,
    manner: Manner,
}

fn join(reading: Reading, one: u8, other: u8) -> u8 {
    match reading {
        Reading::Newest => one.max(other),
        Reading::Joined => one | other,
    }
}

fn version_of(reading: Reading, record: u8) -> Version {
    match reading {
        Reading::Newest => version(u64::from(record)),
        Reading::Joined => {
            let order = u64::from(8 - record.leading_zeros());
            Version { actor: Actor(u64::from(record)), ..version(order) }
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Open {
    Ask(Ask),
    Write(u8),
}

/// A coordinator, its replicas, and what is on the way between them.
#[derive(Clone, Debug)]
struct Cluster {
    reading: Reading,
    repairing: Repairing,
    needed: u8,
    live: ReplicaSet,
    read: ReadQuorum,
    stores: Vec<Store>,
    open: Vec<Open>,
    kept: u8,
    written: ReplicaSet,
    /// Whether one more may still be asked.
    may_hedge: bool,
    outcome: Option<ReadOutcome>,
}

impl Cluster {
    fn follow(&mut self, mut step: ReadStep) {
        if step.settle {
            assert_eq!(self.reading, Reading::Joined);
            step = self.read.on_settled(version_of(self.reading, self.kept));
        }
        self.open.extend(step.ask.map(Open::Ask));
        for replica in step.repair.iter() {
            assert!(!self.written.contains(replica), "a replica is written to once: {self:?}");
            self.written.insert(replica);
            self.open.push(Open::Write(replica));
        }
        if let Some(outcome) = step.outcome {
            assert_eq!(self.outcome, None, "a read ends once");
            self.outcome = Some(outcome);
            self.check();
        }
        assert!(self.outcome.is_some() || !self.open.is_empty(), "it waits for somebody: {self:?}");
    }

    fn deliver(&mut self, at: usize) {
        match self.open.remove(at) {
            Open::Ask(ask) => {
                let store = self.stores[ask.replica as usize];
                let version = version_of(self.reading, store.record);
                let answer = match (store.manner, ask.want) {
                    (Manner::FailsReads, _) => DAMAGED,
                    _ if store.record == 0 => ReadAnswer::Absent,
                    (_, ReadWant::Full) => ReadAnswer::Full(version),
                    (_, ReadWant::Digest) => ReadAnswer::Digest(version),
                };
                let step = self.read.on_answer(ask.replica, answer);
                if step.keep {
                    self.kept = if self.read.joins() { self.kept | store.record } else { store.record };
                }
                self.follow(step);
            }
            Open::Write(replica) => {
                let store = &mut self.stores[replica as usize];
                let answer = match store.manner {
                    Manner::RefusesWrites => WriteAnswer::Refused(ErrorCode::DiskFull),
                    Manner::LosesAcks => WriteAnswer::Refused(ErrorCode::Unknown),
                    Manner::Sound | Manner::FailsReads => WriteAnswer::Applied,
                };
                if store.manner != Manner::RefusesWrites {
                    store.record = join(self.reading, store.record, self.kept);
                }
                let step = self.read.on_repaired(replica, answer);
                if self.outcome.is_some() {
                    assert_eq!(step, ReadStep::default(), "nothing follows the end");
                } else {
                    self.follow(step);
                }
            }
        }
    }

    fn check(&self) {
        let sound = |at: &u8| self.stores[*at as usize].manner == Manner::Sound;
        match self.outcome.expect("called at the end") {
            ReadOutcome::Found { version, answered } => {
                assert_eq!(version, version_of(self.reading, self.kept), "what is kept is the answer");
                assert!(answered >= self.needed);
                let holds = |store: &&Store| join(self.reading, store.record, self.kept) == store.record;
                let holding = self.stores.iter().filter(holds).count();
                if self.repairing == Repairing::Before {
                    assert!(holding >= self.needed as usize, "answered before enough hold it: {self:?}");
                }
            }
            ReadOutcome::Absent { answered } => assert!(answered >= self.needed && self.kept == 0),
            ReadOutcome::Failed(code) => {
                assert!([ErrorCode::Damaged, ErrorCode::DiskFull, ErrorCode::Timeout].contains(&code));
                let able = self.live.iter().filter(sound).count();
                assert!(able < self.needed as usize, "enough could answer and be written to: {self:?}");
            }
        }
    }

    /// Everything was delivered: whoever answered a read that found something has it.
    fn check_rest(&self) {
        let Some(ReadOutcome::Found { .. }) = self.outcome else { return };
        for replica in self.written.iter() {
            let Store { record, manner } = self.stores[replica as usize];
            assert!(manner == Manner::RefusesWrites || join(self.reading, record, self.kept) == record);
        }
        if self.repairing == Repairing::Never {
            assert!(self.written.is_empty());
        }
    }
}

fn explore_repairs(cluster: &Cluster) -> usize {
    if cluster.open.is_empty() {
        cluster.check_rest();
        return 1;
    }
    let mut hedged = cluster.clone();
    let hedge = hedged.read.hedge().filter(|_| std::mem::take(&mut hedged.may_hedge));
    hedged.open.extend(hedge.map(Open::Ask));
    let ends_hedged = if hedge.is_some() { explore_repairs(&hedged) } else { 0 };
    let ends: usize = (0..cluster.open.len())
        .map(|at| {
            let mut next = cluster.clone();
            next.deliver(at);
            explore_repairs(&next)
        })
        .sum();
    ends + ends_hedged
}

fn explore_all(reading: Reading, records: u8) -> usize {
    const MANNERS: [Manner; 4] =
        [Manner::Sound, Manner::RefusesWrites, Manner::LosesAcks, Manner::FailsReads];
    let kinds = usize::from(records) * MANNERS.len();
    let kind = |at: usize| Store {
        record: (at % usize::from(records)) as u8,
        manner: MANNERS[at / usize::from(records)],
    };
    let mut ends = 0;
    for seed in 0..kinds.pow(3) {
        let stores: Vec<Store> = (0..3u32).map(|at| kind(seed / kinds.pow(at) % kinds)).collect();
        for needed in 1..=3 {
            for repairing in [Repairing::Never, Repairing::of_level(needed, 3)] {
                let live = (0..3).collect();
                let (read, asks) = ReadQuorum::start(reading, repairing, among(3, live, Some(1)), needed)
                    .expect("enough are live");
                let cluster = Cluster {
                    reading,
                    repairing,
                    needed,
                    live,
                    read,
                    stores: stores.clone(),
                    open: asks.iter().copied().map(Open::Ask).collect(),
                    kept: 0,
                    written: ReplicaSet::default(),
                    may_hedge: true,
                    outcome: None,
                };
                ends += explore_repairs(&cluster);
            }
        }
    }
    ends
}

#[test]
fn what_a_read_of_a_majority_shows_is_on_as_many_as_its_level_needs() {
    let ends = explore_all(Reading::Newest, 3);
    assert!(ends > 10_000, "only {ends} histories were tried");
}

#[test]
fn what_a_read_of_a_majority_joins_is_on_as_many_as_its_level_needs() {
    let ends = explore_all(Reading::Joined, 4);
    assert!(ends > 10_000, "only {ends} histories were tried");
}

#[test]
fn levels_below_a_majority_are_not_held_up() {
    let before: Vec<u8> =
        (1..=5).filter(|needed| Repairing::of_level(*needed, 5) == Repairing::Before).collect();
    assert_eq!(before, [3, 4, 5]);
    assert_eq!(Repairing::of_level(2, 4), Repairing::After, "two of four are no majority");
    assert_eq!(Repairing::of_level(1, 1), Repairing::Before);
}

fn read_at_quorum() -> ReadQuorum {
    let live = (0..3).collect();
    ReadQuorum::start(Reading::Newest, Repairing::Before, among(3, live, None), 2).expect("all are live").0
}

const APPLIED: WriteAnswer = WriteAnswer::Applied;

#[test]
fn an_answer_waits_until_a_majority_has_it() {
    let mut read = read_at_quorum();
    read.on_answer(0, full(8));
    let step = read.on_answer(1, digest(7));
    assert_eq!((step.outcome, step.repair), (None, [1].into_iter().collect()));
    assert_eq!(read.on_repaired(0, APPLIED), ReadStep::default(), "it was not written to");
    let outcome = Some(ReadOutcome::Found { version: version(8), answered: 2 });
    assert_eq!(read.on_repaired(1, APPLIED), ReadStep { outcome, ..ReadStep::default() });
    assert_eq!(read.on_repaired(1, APPLIED), ReadStep::default());
}

/// This node's own set is too long to be written again. Alone it is left to others' reads; together with another that replaces it it may be short.
#[test]
fn what_is_too_long_is_answered_and_not_repaired_unless_it_is_short_when_joined() {
    let live = (0..2).collect();
    let candidates = || among(2, live, Some(0));
    let start =
        || ReadQuorum::start(Reading::Joined, Repairing::Before, candidates(), 2).expect("both are live").0;
    let mut alone = start();
    alone.set_too_long(true);
    alone.on_answer(0, full(8));
    let step = alone.on_answer(1, ReadAnswer::Absent);
    let found = Some(ReadOutcome::Found { version: version(8), answered: 2 });
    assert_eq!((step.outcome, step.repair), (found, ReplicaSet::default()));
    for is_too_long in [true, false] {
        let mut joined = start();
        joined.set_too_long(true);
        joined.on_answer(0, full(8));
        joined.on_answer(1, digest(9));
        assert!(joined.on_answer(1, full(9)).settle);
        joined.set_too_long(is_too_long);
        let step = joined.on_settled(version(9));
        assert_eq!((step.outcome.is_some(), step.repair.contains(0)), (is_too_long, !is_too_long));
    }
}

/// A replica whose disk is full must not stand in the way of reads for as long as it is full.
#[test]
fn another_is_written_to_in_place_of_one_that_refuses() {
    let mut read = read_at_quorum();
    read.on_answer(0, full(8));
    read.on_answer(1, ReadAnswer::Absent);
    let step = read.on_repaired(1, WriteAnswer::Refused(ErrorCode::DiskFull));
    assert_eq!((step.outcome, step.repair), (None, [2].into_iter().collect()));
    let mut other = read.clone();
    let outcome = Some(ReadOutcome::Found { version: version(8), answered: 2 });
    assert_eq!(read.on_repaired(2, APPLIED).outcome, outcome);
    let outcome = Some(ReadOutcome::Failed(ErrorCode::DiskFull));
    assert_eq!(other.on_repaired(2, WriteAnswer::Refused(ErrorCode::Stopping)).outcome, outcome);
}

/// Whether it took the record nobody knows; of a read that is a matter of time, not of an unknown outcome.
#[test]
fn a_lost_repair_and_the_deadline_are_a_timeout() {
    let mut read = read_at_quorum();
    read.on_answer(0, full(8));
    read.on_answer(1, digest(7));
    let mut late = read.clone();
    assert_eq!(late.on_deadline(), ReadOutcome::Failed(ErrorCode::Timeout));
    assert_eq!(late.on_repaired(1, APPLIED), ReadStep::default());
    let lost = WriteAnswer::Refused(ErrorCode::Unknown);
    assert_eq!(read.on_repaired(1, lost).repair, [2].into_iter().collect());
    assert_eq!(read.on_repaired(2, lost).outcome, Some(ReadOutcome::Failed(ErrorCode::Timeout)));
}

#[test]
fn a_deleted_record_is_brought_to_a_majority_as_any_other() {
    let flags = ferrite_wire::VersionFlags(ferrite_wire::VersionFlags::TOMBSTONE);
    let tombstone = Version { flags, ..version(8) };
    let mut read = read_at_quorum();
    read.on_answer(0, full(7));
    assert_eq!(read.on_answer(1, ReadAnswer::Digest(tombstone)).ask.map(|ask| ask.replica), Some(1));
    let step = read.on_answer(1, ReadAnswer::Full(tombstone));
    assert_eq!((step.keep, step.outcome, step.repair), (true, None, [0].into_iter().collect()));
    let outcome = Some(ReadOutcome::Found { version: tombstone, answered: 2 });
    assert_eq!(read.on_repaired(0, APPLIED).outcome, outcome);
}

#[test]
fn a_silent_replica_is_hedged_by_another_whichever_was_asked_for_the_record() {
    // The digest is awaited: another digest will do.
    let mut read = read_at_quorum();
    read.on_answer(0, full(8));
    assert_eq!(read.awaited(), [1].into_iter().collect());
    assert_eq!(read.hedge(), Some(Ask { replica: 2, want: ReadWant::Digest }));
    assert_eq!(read.hedge(), None, "nobody is left");
    let outcome = Some(ReadOutcome::Found { version: version(8), answered: 2 });
    assert_eq!(read.on_answer(2, digest(8)).outcome, outcome);
    // The record is: another sends its own, and neither is waited for twice.
    let mut read = read_at_quorum();
    read.on_answer(1, digest(8));
    assert_eq!(read.hedge(), Some(Ask { replica: 2, want: ReadWant::Full }));
    assert_eq!(read.on_answer(2, full(7)).ask, Some(Ask { replica: 1, want: ReadWant::Full }));
    let step = read.on_answer(1, full(8));
    assert_eq!((step.keep, step.outcome, step.repair), (true, None, [2].into_iter().collect()));
    // The silent one speaks at last, and has it: the repair need not be waited for.
    assert_eq!(read.on_answer(0, full(8)).outcome, outcome);
}

#[test]
fn there_is_no_hedge_once_the_first_answers_are_there() {
    let mut read = read_at_quorum();
    read.on_answer(0, full(7));
    read.on_answer(1, digest(8));
    assert_eq!(read.hedge(), None, "the record of one that has answered is awaited");
}

#[test]
fn those_that_come_last_are_asked_only_where_the_others_are_too_few() {
    let slow = [0, 1].into_iter().collect();
    let asked = |needed, local| {
        let candidates = Candidates { slow, ..among(3, (0..3).collect(), local) };
        let (_, asks) =
            ReadQuorum::start(Reading::Newest, Repairing::After, candidates, needed).expect("all are live");
        asks.iter().map(|ask| ask.replica).collect::<Vec<_>>()
    };
    assert_eq!(asked(1, None), [2]);
    assert_eq!(asked(2, None), [2, 0]);
    assert_eq!(asked(2, Some(1)), [1, 2], "this node's own copy comes first");
    assert_eq!(asked(3, None), [2, 0, 1]);
}

/// A verdict may be wrong: whoever can be reached is asked before a read is refused, and after all others.
#[test]
fn those_that_are_said_to_be_absent_are_asked_only_where_all_others_are_too_few() {
    let live: ReplicaSet = [1, 2].into_iter().collect();
    let (slow, absent) = ([1].into_iter().collect(), [0].into_iter().collect());
    let candidates = Candidates { slow, absent, ..among(4, live, None) };
    let start = |needed| ReadQuorum::start(Reading::Newest, Repairing::After, candidates, needed);
    let asked = |needed| {
        let (_, asks) = start(needed).expect("three can be reached");
        asks.iter().map(|ask| ask.replica).collect::<Vec<_>>()
    };
    assert_eq!([1, 2, 3].map(asked), [vec![2], vec![2, 1], vec![2, 1, 0]]);
    assert_eq!(start(4).err(), Some(Unavailable { live: 3, needed: 4 }));
    let (mut read, _) = start(2).expect("two are live");
    let step = read.on_answer(1, DAMAGED);
    assert_eq!(step.ask, Some(Ask { replica: 0, want: ReadWant::Digest }), "in place of one that fails");
}

/// The second replica is there and does not get round to writing. Waited for, the read ended with its time, though the third may hold the record.
#[test]
fn a_repair_that_is_slow_asks_the_third_replica_whether_it_holds_the_record() {
    let repairing = || {
        let mut read = read_at_quorum();
        read.on_answer(0, full(8));
        assert_eq!(read.on_answer(1, digest(7)).repair, [1].into_iter().collect());
        assert!(read.may_hedge());
        assert_eq!(read.hedge(), Some(Ask { replica: 2, want: ReadWant::Digest }));
        assert_eq!((read.may_hedge(), read.hedge()), (false, None), "one more and no further");
        read
    };
    let outcome = Some(ReadOutcome::Found { version: version(8), answered: 2 });
    let found = ReadStep { outcome, ..ReadStep::default() };
    assert_eq!(repairing().on_answer(2, digest(8)), found, "a majority holds it");
    // It lacks it: it is written to, and a majority is waited for all the same, whichever of the two comes first.
    for late in [ReadAnswer::Absent, digest(7)] {
        for first in [1, 2] {
            let mut read = repairing();
            let step = read.on_answer(2, late);
            assert_eq!((step.outcome, step.repair), (None, [2].into_iter().collect()));
            assert_eq!(read.on_repaired(first, APPLIED), found);
            assert_eq!(read.on_repaired(3 - first, APPLIED), ReadStep::default());
        }
    }
    let mut read = repairing();
    assert_eq!(read.on_answer(2, DAMAGED), ReadStep::default(), "the second may still take it");
    assert_eq!(read.on_repaired(1, APPLIED), found);
    let mut read = repairing();
    assert_eq!(read.on_repaired(1, WriteAnswer::Refused(ErrorCode::DiskFull)), ReadStep::default());
    assert_eq!(read.on_answer(2, digest(8)), found);
}
