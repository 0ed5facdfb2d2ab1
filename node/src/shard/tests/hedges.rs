//! Reads whose answers are slow to come: when another replica is asked, how often at most, and what a slow one costs.

use ferrite_wire::{ErrorCode, ReadWant, ReplicaAnswer, Version, WriteAnswer};

use super::coordinator::{Asked, Coordinator, TIMEOUT_MS, What};
use super::*;
use crate::shard::hedges::REPAIR_DELAYS;

const US: u64 = 1_000;
/// How long a sound replica takes.
const SOUND_NS: u64 = 300 * US;

fn version() -> Version {
    Version { order: Order(8), ..Version::default() }
}

fn coordinator() -> (Coordinator, Vec<u8>) {
    let node = Coordinator::new(3, 3);
    let name = node.key(true);
    node.store(Key::plain(&name), version(), b"value");
    (node, name)
}

impl Coordinator {
    fn advance(&self, ns: u64) {
        self.bench.0.now_ns.set(self.bench.now_ns() + ns);
        if self.shard.next_timer().is_some_and(|at| at <= self.bench.now_ns()) {
            self.shard.on_timer(self.bench.now_ns());
        }
    }

    fn agree(&self, asked: &Asked) {
        let answer = match asked.what {
            What::Read(ReadWant::Digest) => ReplicaAnswer::Digest { version: version() },
            What::Read(ReadWant::Full) => ReplicaAnswer::Full { version: version(), value: b"value" },
            What::Write(..) => panic!("nothing is behind"),
        };
        self.answer_read(asked, answer);
    }

    /// Reads that are answered in time, until it is known how long that takes.
    fn learn(&mut self, name: &[u8]) {
        for _ in 0..200 {
            self.get(Key::plain(name), Level::Quorum);
            let other = self.only_asked();
            self.advance(SOUND_NS);
            self.agree(&other);
            assert_eq!(self.told().len(), 1);
        }
        let delay_us = self.status("hedges.delay_us");
        assert!((300..=340).contains(&delay_us), "{delay_us} us");
    }
}

#[test]
fn another_replica_is_asked_when_one_does_not_answer() {
    let (mut node, name) = coordinator();
    node.learn(&name);
    let begun_ns = node.bench.now_ns();
    node.get(Key::plain(&name), Level::Quorum);
    let silent = node.only_asked();
    let delay_ns = node.status("hedges.delay_us") * US;
    assert_eq!(node.shard.next_timer(), Some(begun_ns + delay_ns), "to the moment");
    node.advance(delay_ns - 1);
    assert!(node.asked().is_empty());
    node.advance(1);
    let third = node.only_asked();
    assert_ne!(third.connection, silent.connection);
    assert_eq!(third.what, What::Read(ReadWant::Digest), "this node's own record is in hand");
    node.advance(SOUND_NS);
    assert_eq!(node.told(), []);
    node.agree(&third);
    assert_eq!(node.told(), [Ok(Some(b"value".to_vec()))]);
    node.agree(&silent);
    assert_eq!(node.told(), []);
    assert_eq!((node.status("hedges.sent"), node.status("hedges.won")), (1, 1));
    assert_eq!(node.status("hedges.reads"), 201);
}

/// A timer for each read, though nearly all end before theirs, would wake a core for nothing all the time.
#[test]
fn reads_that_end_in_time_wake_nobody() {
    let (mut node, name) = coordinator();
    node.learn(&name);
    node.get(Key::plain(&name), Level::Quorum);
    let other = node.only_asked();
    let hedge_ns = node.shard.next_timer().expect("it waits");
    node.agree(&other);
    let next_ns = node.shard.next_timer().expect("links are tended");
    assert!(next_ns > hedge_ns + MS, "{next_ns} is what deadlines and links want, not {hedge_ns}");
    node.advance(2 * MS);
    assert!(node.asked().is_empty());
    assert_eq!(node.status("hedges.sent"), 0);
}

#[test]
fn without_a_budget_a_read_waits() {
    let (mut node, name) = coordinator();
    node.get(Key::plain(&name), Level::Quorum);
    let silent = node.only_asked();
    node.advance(50 * MS);
    assert!(node.asked().is_empty());
    assert_eq!((node.status("hedges.sent"), node.status("hedges.refused_by_budget")), (0, 1));
    node.agree(&silent);
    assert_eq!(node.told().len(), 1);
}

/// Half of the reads want the slow one, and one in twenty may ask another as well: it must be asked last.
#[test]
fn a_replica_that_is_always_slow_slows_few_reads_and_costs_no_more_than_the_budget() {
    const SLOW_NS: u64 = 50 * MS;
    const READS: usize = 10_000;
    let (mut node, name) = coordinator();
    let key = Key::plain(&name);
    node.get(key, Level::Quorum);
    let first = node.only_asked();
    let slow = first.connection;
    node.agree(&first);
    node.told();
    // What is on its way back, by when it arrives.
    let mut late: Vec<(u64, Asked)> = Vec::new();
    let (mut slowed, mut asked_slow) = (0, 0);
    for _ in 0..READS {
        let begun_ns = node.bench.now_ns();
        node.get(key, Level::Quorum);
        while node.told().is_empty() {
            for asked in node.asked() {
                let is_slow = asked.connection == slow;
                asked_slow += usize::from(is_slow);
                let takes_ns = if is_slow { SLOW_NS } else { SOUND_NS };
                late.push((node.bench.now_ns() + takes_ns, asked));
            }
            node.advance(20 * US);
            let now_ns = node.bench.now_ns();
            for (_, asked) in late.extract_if(.., |(at_ns, _)| *at_ns <= now_ns) {
                node.agree(&asked);
            }
        }
        slowed += usize::from(node.bench.now_ns() - begun_ns > 2 * SOUND_NS + 100 * US);
    }
    let (sent, reads) = (node.status("hedges.sent"), node.status("hedges.reads"));
    assert!(sent * 20 <= reads, "{sent} hedges of {reads} reads");
    assert!(slowed * 100 <= READS, "{slowed} of {READS} reads were slow");
    assert!((3..READS / 100).contains(&asked_slow), "it is tried again, and seldom: {asked_slow}");
    // It recovers, and a probe finds out.
    while node.status("hedges.nodes_asked_last") > 0 {
        node.get(key, Level::Quorum);
        node.advance(SOUND_NS);
        node.asked().iter().for_each(|asked| node.agree(asked));
        assert_eq!(node.told().len(), 1);
    }
    node.get(key, Level::Quorum);
    assert_eq!(node.only_asked().connection, slow);
}

impl Coordinator {
    /// A read at a majority that has found the other replica behind, and waits for it to write; what that was sent.
    fn repairs(&mut self, name: &[u8]) -> Asked {
        self.get(Key::plain(name), Level::Quorum);
        let other = self.only_asked();
        let behind = Version { order: Order(7), ..Version::default() };
        self.answer_read(&other, ReplicaAnswer::Digest { version: behind });
        let repair = self.only_asked();
        assert_eq!(repair.what, What::Write(version(), b"value".to_vec()));
        repair
    }

    /// As long as a read waits for a replica that it has written to.
    fn wait(&self) {
        self.advance(REPAIR_DELAYS * self.status("hedges.delay_us") * US);
    }
}

/// The second replica answers reads and does not get round to writing. Nobody asked the third, which may have the record, and the read ended with its
/// time.
#[test]
fn a_read_that_repairs_a_slow_replica_is_answered_by_way_of_the_third() {
    let (mut node, name) = coordinator();
    node.learn(&name);
    let found = [Ok(Some(b"value".to_vec()))];
    for holds in [true, false] {
        let slow = node.repairs(&name);
        assert_eq!(node.told(), []);
        node.wait();
        let third = node.only_asked();
        assert_ne!(third.connection, slow.connection);
        assert_eq!(third.what, What::Read(ReadWant::Digest));
        if holds {
            node.agree(&third);
            assert_eq!(node.told(), found, "a majority has it");
        } else {
            node.answer_read(&third, ReplicaAnswer::Absent);
            assert_eq!(node.told(), [], "one copy is none");
            let repair = node.only_asked();
            assert_eq!((repair.connection, &repair.what), (third.connection, &slow.what));
            node.answer_write(&repair, WriteAnswer::Applied);
            assert_eq!(node.told(), found);
        }
        node.answer_write(&slow, WriteAnswer::Applied);
        assert_eq!(node.told(), []);
    }
    assert_eq!(node.status("hedges.sent"), 2);
    assert_eq!(node.shard.operations.borrow().len(), 0);
}

/// More reads than the budget has questions for wait longer, and are answered when it has one; or with their time, never before a majority has it.
#[test]
fn repairs_ask_a_third_replica_within_the_budget_of_reads() {
    let (mut node, name) = coordinator();
    let slow = node.repairs(&name);
    node.wait();
    assert!(node.asked().is_empty());
    assert_eq!((node.status("hedges.sent"), node.status("hedges.refused_by_budget")), (0, 1));
    for _ in 0..20 {
        node.get(Key::plain(&name), Level::Quorum);
        node.asked().iter().for_each(|asked| node.agree(asked));
    }
    assert_eq!(node.told().len(), 20);
    node.wait();
    let third = node.only_asked();
    node.agree(&third);
    assert_eq!(node.told(), [Ok(Some(b"value".to_vec()))]);
    node.answer_write(&slow, WriteAnswer::Applied);
    node.repairs(&name);
    pass(&node.bench, &node.shard, TIMEOUT_MS + 10);
    assert_eq!(node.told(), [Err(ErrorCode::Timeout)]);
}
