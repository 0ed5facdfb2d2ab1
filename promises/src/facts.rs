//! What befell the nodes and bears on what may be expected of them: what their disks have forgotten, and how far their clocks have been.
//!
//! A write that was acknowledged at a level of W is on W of its N replicas at least; a read at a level of R asks R of them. They meet, so that
//! the read must know of the write, if R + W > N. Each replica whose disk has since forgotten what it had is one less of the W. That is the
//! whole fault budget: no other fault may cost anything. Where an answer says that more have answered than its level asks for, R or W is as many.
//!
//! Of a write that was acknowledged sloppily, some of those W only stood in for replicas. Until they have delivered it no read must know of it. From
//! then on it counts like any other, but that each node whose disk has forgotten something in between, replica or not, is one less: it may have
//! been the one that stood in.
//!
//! A node whose process has run since before it coordinated a write, and which has dropped no hint, has seen to it that all N have the write, once
//! nobody owes anything any more.
//!
//! A read whose level is a majority promises more than what it shows: as many replicas hold that by then as its level needs, whether or not
//! the write was ever acknowledged. From then on it counts like a write to so many. Of siblings it promises that no more once any set was together longer
//! than a replica takes: such sets are shown, and stay where they are ([`Facts::sets_are_too_long`]).

use std::fmt;

/// The nodes that hold a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holders(u64);

impl Holders {
    /// These nodes.
    pub fn of(nodes: impl Iterator<Item = usize>) -> Holders {
        Holders(nodes.fold(0, |mask, node| mask | 1 << node))
    }

    /// How many there are.
    pub fn count(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether a node is one of them.
    pub fn contains(self, node: usize) -> bool {
        self.0 & 1 << node != 0
    }

    /// Each node.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..64).filter(move |node| self.contains(*node))
    }
}

/// When a read was sent, how many replicas it asks, and how many have answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// When it was sent, in nanoseconds.
    pub begun_ns: u64,
    /// How many replicas must answer it.
    pub needed: usize,
    /// How many have, by its answer; 0 = it has not come.
    pub answered: usize,
}

impl Reading {
    /// A read that was sent.
    pub fn new(begun_ns: u64, needed: usize) -> Reading {
        Reading { begun_ns, needed, answered: 0 }
    }
}

/// Why a read must know of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// So many replicas have confirmed it.
    Acknowledged,
    /// Whoever still owed it has delivered it.
    Delivered,
    /// A read whose level is a majority has shown it.
    Shown,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Why::Acknowledged => "since it was acknowledged",
            Why::Delivered => "since all hints were delivered",
            Why::Shown => "since a read had shown it",
        })
    }
}

/// When a write was sent and acknowledged, by how many replicas, and who they may have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    /// When it was sent, in nanoseconds.
    pub(crate) sent_ns: u64,
    /// When it was acknowledged.
    pub(crate) told_ns: u64,
    /// How many replicas have confirmed it at least.
    pub(crate) needed: usize,
    /// The replicas.
    pub(crate) holders: Holders,
    /// Until when others may have held it in their stead; 0 = never.
    pub(crate) apart_until_ns: u64,
    /// How that is known.
    pub(crate) why: Why,
}

/// The acknowledgements of one write, and the reads of a majority that have shown it: each says of some replicas that they hold it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Holdings(Vec<Written>);

impl Holdings {
    /// A read that was answered just now has shown the write.
    pub(crate) fn shown(&mut self, reading: Reading, holders: Holders, told_ns: u64, facts: &Facts) {
        if reading.needed <= holders.count() / 2 {
            return;
        }
        let Reading { begun_ns, needed, .. } = reading;
        let (sent_ns, why) = (begun_ns, Why::Shown);
        let shown = Written { sent_ns, told_ns, needed, holders, apart_until_ns: 0, why };
        // One is enough, until a disk has forgotten something or a read asks more.
        let is_known = |held: &Written| held.needed >= needed && held.sent_ns >= facts.last_loss_of_any_ns();
        if !self.0.iter().any(is_known) {
            self.0.push(shown);
        }
    }

    /// It was acknowledged.
    pub(crate) fn acknowledged(&mut self, written: Written) {
        self.0.push(written);
    }

    /// Why a read must know of it, if it must.
    pub(crate) fn meet(&self, reading: Reading, facts: &Facts) -> Option<Why> {
        self.0.iter().find(|held| facts.meet(reading, held)).map(|held| held.why)
    }
}

/// A disk has forgotten what it was told from one moment to another.
#[derive(Clone, Copy, Debug)]
struct Loss {
    node: usize,
    since_ns: u64,
    at_ns: u64,
}

/// What befell the nodes so far.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    losses: Vec<Loss>,
    wall_highest_ms: u64,
    are_sets_too_long: bool,
}

impl Facts {
    /// Nothing so far.
    #[cfg(test)]
    pub(crate) const fn new() -> Facts {
        Facts { losses: Vec::new(), wall_highest_ms: 0, are_sets_too_long: false }
    }

    /// A node's disk has forgotten, just now, what it was told since a moment (0 = all that it ever was).
    pub fn lost(&mut self, node: usize, since_ns: u64, at_ns: u64) {
        self.losses.push(Loss { node, since_ns, at_ns });
    }

    /// When a node's disk last forgot anything; 0 = never.
    pub fn last_loss_ns(&self, node: usize) -> u64 {
        self.losses.iter().filter(|loss| loss.node == node).map(|loss| loss.at_ns).max().unwrap_or(0)
    }

    fn last_loss_of_any_ns(&self) -> u64 {
        self.losses.iter().map(|loss| loss.at_ns).max().unwrap_or(0)
    }

    /// Some read has found more siblings than a replica takes: it, and those that come, may leave replicas as they are.
    pub fn sets_are_too_long(&mut self) {
        self.are_sets_too_long = true;
    }

    /// Whether reads of siblings may leave replicas as they are.
    pub(crate) fn are_sets_too_long(&self) -> bool {
        self.are_sets_too_long
    }

    /// Takes note of a wall clock.
    pub fn saw_wall(&mut self, wall_ms: u64) {
        self.wall_highest_ms = self.wall_highest_ms.max(wall_ms);
    }

    /// Whether some node may have taken it, by its own clock, that this moment has passed (0 = never does).
    pub fn may_have_passed(&self, expiry_ms: u64) -> bool {
        expiry_ms != 0 && expiry_ms <= self.wall_highest_ms
    }

    /// Whether a read must know of a write.
    fn meet(&self, reading: Reading, write: &Written) -> bool {
        if write.told_ns > reading.begun_ns {
            return false;
        }
        let forgot = |loss: &&Loss| loss.at_ns > write.sent_ns && loss.since_ns < write.told_ns;
        let may_have_had_it =
            |loss: &&Loss| write.holders.contains(loss.node) || loss.at_ns <= write.apart_until_ns;
        let lost = self.losses.iter().filter(forgot).filter(may_have_had_it);
        let lost = Holders::of(lost.map(|loss| loss.node)).count();
        reading.needed.max(reading.answered) + write.needed > write.holders.count() + lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(needed: usize) -> Written {
        let holders = Holders::of([0, 1, 4].into_iter());
        Written { sent_ns: 10, told_ns: 20, needed, holders, apart_until_ns: 0, why: Why::Acknowledged }
    }

    fn reading(needed: usize) -> Reading {
        Reading::new(30, needed)
    }

    #[test]
    fn reads_and_writes_meet_where_they_overlap() {
        let facts = Facts::default();
        for (read, write, meet) in [(2, 2, true), (1, 2, false), (1, 3, true), (3, 1, true), (2, 1, false)] {
            assert_eq!(facts.meet(reading(read), &written(write)), meet, "{read} {write}");
        }
        assert!(!facts.meet(Reading::new(19, 3), &written(3)), "it was not acknowledged yet");
    }

    #[test]
    fn an_answer_of_more_than_were_asked_for_knows_what_they_know() {
        let facts = Facts::default();
        assert!(!facts.meet(reading(1), &written(2)));
        assert!(facts.meet(Reading { answered: 2, ..reading(1) }, &written(2)));
        assert!(facts.meet(Reading { answered: 1, ..reading(2) }, &written(2)), "it is its level's at least");
    }

    #[test]
    fn each_replica_that_has_forgotten_it_is_one_less() {
        let mut facts = Facts::default();
        facts.lost(2, 0, 25);
        facts.lost(0, 0, 9);
        facts.lost(1, 20, 26);
        assert!(
            facts.meet(reading(2), &written(2)),
            "no replica; before it was sent; not what came before it"
        );
        facts.lost(1, 0, 25);
        assert!(!facts.meet(reading(2), &written(2)));
        assert!(facts.meet(reading(2), &written(3)) && facts.meet(reading(3), &written(2)));
        facts.lost(1, 0, 27);
        assert!(facts.meet(reading(3), &written(2)), "the same replica again");
        facts.lost(4, 19, 27);
        assert!(!facts.meet(reading(3), &written(2)));
    }

    #[test]
    fn whoever_may_have_stood_in_is_one_less_if_it_forgot_before_it_delivered() {
        let mut facts = Facts::default();
        let sloppy = Written { apart_until_ns: 20, ..written(2) };
        facts.lost(2, 0, 21);
        assert!(facts.meet(reading(2), &sloppy), "it had delivered by then");
        facts.lost(3, 0, 15);
        assert!(!facts.meet(reading(2), &sloppy) && facts.meet(reading(3), &sloppy));
        assert!(facts.meet(reading(2), &written(2)), "nobody stood in");
    }

    #[test]
    fn what_a_read_of_a_majority_has_shown_is_held_by_so_many() {
        let (mut held, mut facts) = (Holdings::default(), Facts::default());
        let holders = Holders::of(0..3);
        held.shown(Reading::new(10, 1), holders, 12, &facts);
        assert_eq!(held.meet(reading(3), &facts), None, "a read of one repairs nothing");
        held.shown(Reading::new(10, 2), holders, 12, &facts);
        assert_eq!(held.meet(reading(2), &facts), Some(Why::Shown));
        assert_eq!(held.meet(reading(1), &facts), None);
        assert_eq!(held.meet(Reading::new(11, 2), &facts), None, "it had not been answered");
        facts.lost(1, 0, 20);
        assert_eq!(held.meet(reading(2), &facts), None, "one of them may have forgotten it");
        held.shown(Reading::new(21, 2), holders, 22, &facts);
        assert_eq!(held.meet(reading(2), &facts), Some(Why::Shown));
    }
}
