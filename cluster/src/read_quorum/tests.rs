//! Reads over replicas whose records do not change while they are read.

mod joined;
mod repairs;

use super::*;
use proptest::prelude::*;

/// What a replica does when it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Answers,
    Fails,
    /// Answers the digest from memory, and fails to read the record.
    FailsFull,
}

#[derive(Clone, Copy, Debug)]
struct Replica {
    /// Its record's order; 0 = it has none.
    order: u64,
    health: Health,
}

fn version(order: u64) -> Version {
    Version { order: Order(order), ..Version::default() }
}

impl Replica {
    fn answer(self, want: ReadWant) -> ReadAnswer {
        match (self.health, want) {
            (Health::Fails, _) | (Health::FailsFull, ReadWant::Full) => {
                ReadAnswer::Failed(ErrorCode::Damaged)
            }
            _ if self.order == 0 => ReadAnswer::Absent,
            (_, ReadWant::Full) => ReadAnswer::Full(version(self.order)),
            (_, ReadWant::Digest) => ReadAnswer::Digest(version(self.order)),
        }
    }
}

/// A read with its questions on the way.
#[derive(Clone, Debug)]
struct World {
    read: ReadQuorum,
    open: Vec<Ask>,
    /// The version of the bytes the host has kept.
    bytes: Option<u64>,
    asked: usize,
    /// Whom the read would have repaired.
    behind: ReplicaSet,
}

impl World {
    /// The replica of one open question answers.
    fn deliver(&mut self, at: usize, replicas: &[Replica]) -> Option<ReadOutcome> {
        let ask = self.open.remove(at);
        let replica = replicas[ask.replica as usize];
        let step = self.read.on_answer(ask.replica, replica.answer(ask.want));
        if step.keep {
            assert_eq!(ask.want, ReadWant::Full, "a digest has no bytes to keep");
            self.bytes = Some(replica.order);
        }
        self.open.extend(step.ask);
        self.behind = step.repair;
        self.asked += step.ask.iter().len();
        assert!(self.asked <= 2 * replicas.len(), "a replica is asked at most twice");
        assert!(
            step.outcome.is_some() || !self.open.is_empty(),
            "a read that has not ended waits for somebody"
        );
        step.outcome
    }

    /// What must hold of any outcome.
    fn check(&self, outcome: ReadOutcome, replicas: &[Replica], live: ReplicaSet, needed: u8) {
        let healthy = |replica: &u8| replicas[*replica as usize].health == Health::Answers;
        let found = match outcome {
            ReadOutcome::Failed(code) => {
                assert_eq!(code, ErrorCode::Damaged);
                assert!((live.iter().filter(healthy).count() as u8) < needed, "enough were able to answer");
                return;
            }
            ReadOutcome::Found { version, answered } => {
                assert!(answered >= needed);
                assert_eq!(self.bytes, Some(version.order.0), "the kept bytes are the answer's");
                version.order.0
            }
            ReadOutcome::Absent { answered } => {
                assert!(answered >= needed);
                0
            }
        };
        // The overlap: a write that R + W > N protects is on more replicas than a read may miss.
        let newer = replicas.iter().filter(|replica| replica.order > found).count();
        assert!(newer <= replicas.len() - needed as usize, "{newer} hold a newer record than {found}");
        assert!(self.behind.iter().all(|replica| replicas[replica as usize].order < found));
        assert!(self.behind.is_within(replicas.len() as u8));
    }
}

/// Those that are live, and nobody else.
fn among(replicas: u8, live: ReplicaSet, local: Option<u8>) -> Candidates {
    Candidates { replicas, live, local, ..Candidates::default() }
}

fn start(replicas: &[Replica], live: ReplicaSet, local: Option<u8>, needed: u8) -> World {
    let candidates = among(replicas.len() as u8, live, local);
    let (read, asks) =
        ReadQuorum::start(Reading::Newest, Repairing::After, candidates, needed).expect("enough are live");
    assert_eq!(asks.len(), needed as usize);
    assert_eq!(asks.iter().filter(|ask| ask.want == ReadWant::Full).count(), 1);
    let first = local.filter(|local| live.contains(*local)).or(live.first());
    assert_eq!(asks.first().map(|ask| (ask.replica, ask.want)), first.map(|first| (first, ReadWant::Full)));
    World { read, open: asks.to_vec(), bytes: None, asked: asks.len(), behind: ReplicaSet::default() }
}

/// Delivers answers in every order. Returns the number of ends.
fn explore(world: &World, replicas: &[Replica], live: ReplicaSet, needed: u8) -> usize {
    let mut ends = 0;
    for at in 0..world.open.len() {
        let mut next = world.clone();
        ends += match next.deliver(at, replicas) {
            Some(outcome) => {
                next.check(outcome, replicas, live, needed);
                let late = next.read.on_answer(0, ReadAnswer::Full(version(99)));
                assert_eq!(late, ReadStep::default(), "a read ends once");
                1
            }
            None => explore(&next, replicas, live, needed),
        };
    }
    ends
}

/// Every replica of every kind, up to three of them.
#[test]
fn every_history_of_up_to_three_replicas_overlaps_with_every_write() {
    const KINDS: usize = 9;
    let kind = |at: usize| Replica {
        order: at as u64 % 3,
        health: [Health::Answers, Health::Fails, Health::FailsFull][at / 3],
    };
    let mut ends = 0;
    for count in 1..=3u32 {
        for seed in 0..KINDS.pow(count) {
            let replicas: Vec<Replica> = (0..count).map(|at| kind(seed / KINDS.pow(at) % KINDS)).collect();
            for bits in 1..1u32 << count {
                let live: ReplicaSet = (0..count as u8).filter(|at| bits & (1 << at) != 0).collect();
                for needed in 1..=live.len() {
                    for local in (0..count as u8).map(Some).chain([None]) {
                        let world = start(&replicas, live, local, needed);
                        ends += explore(&world, &replicas, live, needed);
                    }
                }
            }
        }
    }
    assert!(ends > 10_000, "only {ends} histories were tried");
}

fn replica() -> impl Strategy<Value = Replica> {
    let health =
        prop_oneof![5 => Just(Health::Answers), 2 => Just(Health::Fails), 2 => Just(Health::FailsFull)];
    (0u64..5, health).prop_map(|(order, health)| Replica { order, health })
}

proptest! {
    #[test]
    fn larger_reads_overlap_with_every_write(
        replicas in prop::collection::vec(replica(), 4..=REPLICAS_MAX),
        dead in prop::collection::btree_set(0u8..16, 0..5),
        local in prop::option::of(0u8..16),
        needed in 1u8..=16,
        turns in prop::collection::vec(any::<usize>(), 2 * REPLICAS_MAX),
    ) {
        let live: ReplicaSet = (0..replicas.len() as u8).filter(|replica| !dead.contains(replica)).collect();
        prop_assume!(!live.is_empty());
        let needed = needed.min(live.len());
        let mut world = start(&replicas, live, local, needed);
        for turn in turns {
            if let Some(outcome) = world.deliver(turn % world.open.len(), &replicas) {
                world.check(outcome, &replicas, live, needed);
                return Ok(());
            }
        }
        prop_assert!(false, "a read ends");
    }
}

/// A read told step by step. `replica answer` lines are what comes; `→` lines are what the read wants of it.
fn script(replicas: u8, local: Option<u8>, needed: u8, answers: &[(u8, ReadAnswer)]) -> Vec<String> {
    script_of(Reading::Newest, replicas, local, needed, answers)
}

fn script_of(
    reading: Reading,
    replicas: u8,
    local: Option<u8>,
    needed: u8,
    answers: &[(u8, ReadAnswer)],
) -> Vec<String> {
    let name = |ask: &Ask| format!("ask {} {:?}", ask.replica, ask.want);
    let live = (0..replicas).collect();
    let (mut read, asks) = ReadQuorum::start(reading, Repairing::After, among(replicas, live, local), needed)
        .expect("all are live");
    let mut told = vec![asks.iter().map(name).collect::<Vec<_>>().join(", ")];
    for (replica, answer) in answers {
        let mut step = read.on_answer(*replica, *answer);
        if step.settle {
            step = ReadStep { keep: step.keep, ..read.on_settled(version(100)) };
        }
        let keep = step.keep.then(|| "keep".to_owned());
        let outcome = step.outcome.map(|outcome| match outcome {
            ReadOutcome::Found { version, answered } => format!("found {} of {answered}", version.order.0),
            ReadOutcome::Absent { answered } => format!("absent of {answered}"),
            ReadOutcome::Failed(code) => format!("failed: {code}"),
        });
        let behind: Vec<String> = step.repair.iter().map(|replica| replica.to_string()).collect();
        let repair = (!behind.is_empty()).then(|| format!("repair {}", behind.join(" ")));
        let said: Vec<String> =
            [keep, step.ask.as_ref().map(name), outcome, repair].into_iter().flatten().collect();
        told.push(if said.is_empty() { "wait".to_owned() } else { said.join(", ") });
    }
    told
}

fn full(order: u64) -> ReadAnswer {
    ReadAnswer::Full(version(order))
}

fn digest(order: u64) -> ReadAnswer {
    ReadAnswer::Digest(version(order))
}

const DAMAGED: ReadAnswer = ReadAnswer::Failed(ErrorCode::Damaged);

#[test]
fn digests_that_agree_end_the_read() {
    let told = script(3, Some(1), 2, &[(0, digest(7)), (1, full(7))]);
    assert_eq!(told, ["ask 1 Full, ask 0 Digest", "wait", "keep, found 7 of 2"]);
}

#[test]
fn a_newer_digest_is_followed_to_its_holder() {
    let told = script(3, None, 2, &[(0, full(7)), (1, digest(8)), (1, full(8))]);
    let expected = ["ask 0 Full, ask 1 Digest", "keep", "ask 1 Full", "keep, found 8 of 2, repair 0"];
    assert_eq!(told, expected);
}

#[test]
fn an_older_digest_needs_no_second_round() {
    let told = script(3, None, 2, &[(0, full(8)), (1, digest(7))]);
    assert_eq!(told, ["ask 0 Full, ask 1 Digest", "keep", "found 8 of 2, repair 1"]);
}

#[test]
fn a_replica_that_fails_is_replaced_while_there_are_others() {
    let told = script(3, None, 2, &[(0, DAMAGED), (1, digest(8)), (2, full(8))]);
    assert_eq!(told, ["ask 0 Full, ask 1 Digest", "ask 2 Full", "wait", "keep, found 8 of 2"]);
    let told = script(3, None, 3, &[(0, DAMAGED)]);
    assert_eq!(told, ["ask 0 Full, ask 1 Digest, ask 2 Digest", "failed: damaged"]);
}

#[test]
fn another_holder_gives_the_record_when_the_first_cannot() {
    let answers = [(0, full(7)), (1, digest(8)), (2, digest(8)), (1, DAMAGED), (2, full(8))];
    let told = script(3, None, 3, &answers);
    let asks = "ask 0 Full, ask 1 Digest, ask 2 Digest";
    assert_eq!(told, [asks, "keep", "wait", "ask 1 Full", "ask 2 Full", "keep, found 8 of 3, repair 0"]);
}

#[test]
fn a_version_that_nobody_can_give_leaves_with_its_holder() {
    let told = script(3, None, 2, &[(0, full(7)), (1, digest(8)), (1, DAMAGED), (2, digest(7))]);
    assert_eq!(told, ["ask 0 Full, ask 1 Digest", "keep", "ask 1 Full", "ask 2 Digest", "found 7 of 2"]);
}

#[test]
fn a_record_that_has_gone_or_grown_since_its_digest_is_taken_as_it_is() {
    let told = script(2, None, 2, &[(0, full(7)), (1, digest(8)), (1, ReadAnswer::Absent)]);
    assert_eq!(told[3], "found 7 of 2, repair 1");
    let told = script(2, None, 2, &[(0, full(7)), (1, digest(8)), (1, full(9))]);
    assert_eq!(told[3], "keep, found 9 of 2, repair 0");
}

#[test]
fn a_digest_in_place_of_the_record_is_a_failure_and_not_a_loop() {
    let told = script(2, None, 2, &[(0, full(7)), (1, digest(8)), (1, digest(9))]);
    assert_eq!(told[3], "failed: malformed");
}

#[test]
fn equal_times_are_told_apart_by_their_actor() {
    let by = |order, actor| Version { actor: Actor(actor), ..version(order) };
    let answers = [(0, ReadAnswer::Full(by(7, 1))), (1, ReadAnswer::Digest(by(7, 2)))];
    assert_eq!(script(2, None, 2, &answers), ["ask 0 Full, ask 1 Digest", "keep", "ask 1 Full"]);
}

#[test]
fn the_deadline_is_a_timeout_and_the_end() {
    let candidates = among(3, (0..3).collect(), None);
    let (mut read, _) =
        ReadQuorum::start(Reading::Newest, Repairing::After, candidates, 2).expect("all are live");
    assert_eq!(read.on_deadline(), ReadOutcome::Failed(ErrorCode::Timeout));
    assert_eq!(read.on_answer(0, full(7)), ReadStep::default());
}

#[test]
fn too_few_live_replicas_are_told_at_once() {
    let unavailable = |live: &[u8], needed| {
        let candidates = among(3, live.iter().copied().collect(), None);
        ReadQuorum::start(Reading::Newest, Repairing::After, candidates, needed).err()
    };
    assert_eq!(unavailable(&[2], 2), Some(Unavailable { live: 1, needed: 2 }));
    assert_eq!(unavailable(&[], 1), Some(Unavailable { live: 0, needed: 1 }));
    assert_eq!(unavailable(&[0, 1, 2], 4), Some(Unavailable { live: 3, needed: 4 }));
    assert_eq!(unavailable(&[0, 2], 2), None);
}
