//! Reads of sets, which are joined: no version that the quorum holds may be left out.

use std::collections::BTreeSet;

use super::*;

fn joined(replicas: u8, local: Option<u8>, needed: u8, answers: &[(u8, ReadAnswer)]) -> Vec<String> {
    script_of(Reading::Joined, replicas, local, needed, answers)
}

#[test]
fn sets_that_agree_are_asked_for_once() {
    let told = joined(3, Some(1), 2, &[(0, digest(7)), (1, full(7))]);
    assert_eq!(told, ["ask 1 Full, ask 0 Digest", "wait", "keep, found 7 of 2"]);
}

#[test]
fn every_set_that_differs_is_asked_for_the_older_ones_too() {
    let answers = [(0, full(8)), (1, digest(7)), (2, digest(9)), (1, full(7)), (2, full(9))];
    let told = joined(3, None, 3, &answers);
    let asks = "ask 0 Full, ask 1 Digest, ask 2 Digest";
    // The first of them while the last digest is still out, one at a time.
    assert_eq!(
        told,
        [asks, "keep", "wait", "ask 1 Full", "keep, ask 2 Full", "keep, found 100 of 3, repair 0 1 2"]
    );
}

#[test]
fn one_of_several_equal_sets_stands_for_them() {
    let answers = [(0, full(8)), (1, digest(7)), (2, digest(7)), (1, full(7))];
    let told = joined(3, None, 3, &answers);
    assert_eq!(told[3..], ["ask 1 Full", "keep, found 100 of 3, repair 0 1 2"]);
}

#[test]
fn a_set_that_has_grown_since_its_digest_says_all_that_the_digest_did() {
    let answers = [(0, full(8)), (1, digest(7)), (2, digest(7)), (1, full(9))];
    let told = joined(3, None, 3, &answers);
    assert_eq!(told[3..], ["ask 1 Full", "keep, found 100 of 3, repair 0 1 2"]);
}

#[test]
fn a_set_that_nobody_can_give_leaves_with_its_holder() {
    let answers = [(0, full(7)), (1, digest(6)), (1, DAMAGED), (2, digest(7))];
    let told = joined(3, None, 2, &answers);
    assert_eq!(told, ["ask 0 Full, ask 1 Digest", "keep", "ask 1 Full", "ask 2 Digest", "found 7 of 2"]);
    assert_eq!(joined(2, None, 2, &answers[..3])[3], "failed: damaged");
}

/// A read with its questions on the way, and what the host has joined.
#[derive(Clone)]
struct Host {
    read: ReadQuorum,
    open: Vec<Ask>,
    joined: BTreeSet<u64>,
    asked: usize,
}

fn explore_joined(host: &Host, replicas: &[Replica], needed: u8) -> usize {
    let mut ends = 0;
    for at in 0..host.open.len() {
        let mut next = host.clone();
        let ask = next.open.remove(at);
        let replica = replicas[ask.replica as usize];
        let mut step = next.read.on_answer(ask.replica, replica.answer(ask.want));
        if step.keep {
            next.joined.insert(replica.order);
        }
        if step.settle {
            step = next.read.on_settled(version(100));
        }
        next.open.extend(step.ask);
        next.asked += step.ask.iter().len();
        assert!(next.asked <= 2 * replicas.len(), "a replica is asked at most twice");
        ends += match step.outcome {
            None => {
                assert!(!next.open.is_empty(), "a read that has not ended waits for somebody");
                explore_joined(&next, replicas, needed)
            }
            Some(outcome) => {
                let left_out =
                    |replica: &&Replica| replica.order > 0 && !next.joined.contains(&replica.order);
                let missed = replicas.iter().filter(left_out).count();
                if !matches!(outcome, ReadOutcome::Failed(_)) {
                    assert!(
                        missed <= replicas.len() - needed as usize,
                        "{missed} sets are left out: {replicas:?}"
                    );
                }
                1
            }
        };
    }
    ends
}

/// The overlap of sets: whoever R + W > N protects is in the answer, not only the newest.
#[test]
fn every_history_of_up_to_three_replicas_joins_every_set_of_its_quorum() {
    const KINDS: usize = 12;
    let kind = |at: usize| Replica {
        order: at as u64 % 4,
        health: [Health::Answers, Health::Fails, Health::FailsFull][at / 4],
    };
    let mut ends = 0;
    for count in 1..=3u32 {
        for seed in 0..KINDS.pow(count) {
            let replicas: Vec<Replica> = (0..count).map(|at| kind(seed / KINDS.pow(at) % KINDS)).collect();
            for needed in 1..=count as u8 {
                for local in (0..count as u8).map(Some).chain([None]) {
                    let live = (0..count as u8).collect();
                    let candidates = among(count as u8, live, local);
                    let (read, asks) =
                        ReadQuorum::start(Reading::Joined, Repairing::After, candidates, needed)
                            .expect("all are live");
                    let host = Host { read, open: asks.to_vec(), joined: BTreeSet::new(), asked: asks.len() };
                    ends += explore_joined(&host, &replicas, needed);
                }
            }
        }
    }
    assert!(ends > 10_000, "only {ends} histories were tried");
}
