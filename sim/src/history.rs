//! What was written, what was acknowledged, and what every read must therefore see.
//!
//! Truth is in versions, not in the order of wall clocks: last write wins by `(order, actor)`, and an acknowledgement names
//! the version it was given. So the checks hold under any clock skew:
//!
//! 1. *Nothing is invented.* A value read was written by somebody, to that key, and if its write was acknowledged or seen
//!    before then it has the same version as then, its expiry included.
//! 2. *Nothing acknowledged is lost, and nothing that was replaced, deleted or has expired comes back.* A read returns the version of the
//!    newest write that it must know of ([`Holdings::meet`]), or a newer one.
//! 3. *A session goes forward.* A client's acknowledged write has a higher order than everything it had seen.
//! 4. *A node goes forward.* Of two writes to a key through one node the later one has the higher order, also when the node was
//!    restarted in between, with whatever wall clock, unless its disk was emptied. (Through different nodes this is promised up to their
//!    drift only.)
//!
//! An answer "absent" names no version. It is right if the newest write that the read must know of is a delete, or may have expired by the
//! clock of some node, or there is none, or some delete or expiring put whose outcome nobody knows may be newer.

use std::collections::BTreeMap;

use ferrite_wire::{Order, Version};

use crate::facts::{Facts, Holders, Holdings, Reading, Written};

/// What a write was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// Nothing yet, or that the outcome is unknown.
    InDoubt,
    /// That it was not applied.
    NotApplied,
    /// That it has this version.
    Acknowledged(Version),
}

impl Told {
    /// Writes acknowledged, not applied, and in doubt.
    pub(crate) fn count(all: impl Iterator<Item = Told>) -> (u64, u64, u64) {
        let mut counts = (0, 0, 0);
        for told in all {
            match told {
                Told::Acknowledged(_) => counts.0 += 1,
                Told::NotApplied => counts.1 += 1,
                Told::InDoubt => counts.2 += 1,
            }
        }
        counts
    }

    /// The version that was acknowledged.
    pub(crate) fn version(self) -> Option<Version> {
        match self {
            Told::Acknowledged(version) => Some(version),
            Told::InDoubt | Told::NotApplied => None,
        }
    }
}

/// A write as it is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Intent {
    /// To which key.
    pub(crate) key: u64,
    /// Whether it deletes.
    pub(crate) is_delete: bool,
    /// Whether it puts a value that expires.
    pub(crate) expires: bool,
    /// Through which node.
    pub(crate) node: usize,
    /// How many replicas must confirm it.
    pub(crate) needed: usize,
    /// The replicas of the key.
    pub(crate) holders: Holders,
    /// When, in virtual nanoseconds.
    pub(crate) now_ns: u64,
}

impl Intent {
    /// The write, acknowledged at a moment.
    pub(crate) fn acknowledged(&self, told_ns: u64) -> Written {
        Written { sent_ns: self.now_ns, told_ns, needed: self.needed, holders: self.holders }
    }
}

/// One write.
#[derive(Clone, Debug)]
struct Write {
    /// Its number: for puts also the value's content.
    id: u64,
    sent: Intent,
    /// The highest order of a write to this key through this node that had been acknowledged by then.
    above: Order,
    /// What its client was told.
    told: Told,
    told_ns: u64,
    held: Holdings,
    /// The version under which a read has shown it.
    seen: Option<Version>,
}

impl Write {
    /// The version that it was given, if anybody has learnt of it.
    fn version(&self) -> Option<Version> {
        self.told.version().or(self.seen)
    }
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The key.
    pub key: u64,
    /// What is wrong.
    pub what: String,
}

/// All writes by key.
#[derive(Debug, Default)]
pub(crate) struct History {
    keys: BTreeMap<u64, Vec<Write>>,
    next: u64,
}

impl History {
    /// Begins a write and numbers it.
    pub(crate) fn begin(&mut self, sent: Intent, facts: &Facts) -> u64 {
        self.next += 1;
        let id = self.next;
        let writes = self.keys.entry(sent.key).or_default();
        // What a node minted before its disk was emptied it does not know of.
        let since_ns = facts.last_loss_ns(sent.node);
        let earlier =
            writes.iter().filter(|write| write.sent.node == sent.node && write.sent.now_ns > since_ns);
        let acknowledged = earlier.filter_map(|write| write.told.version());
        let above = acknowledged.map(|version| version.order).max().unwrap_or(Order(0));
        writes.push(Write {
            id,
            sent,
            above,
            told: Told::InDoubt,
            told_ns: 0,
            held: Holdings::default(),
            seen: None,
        });
        id
    }

    /// A write's client was told something.
    pub(crate) fn told(&mut self, key: u64, id: u64, told: Told, now_ns: u64) -> Result<(), Violation> {
        let write = self.find(key, id).expect("told of a write that was begun");
        (write.told, write.told_ns) = (told, now_ns);
        if told.version().is_some() {
            write.held.acknowledged(write.sent.acknowledged(now_ns));
        }
        let violation = |what: String| Err(Violation { key, what });
        match (told, write.seen) {
            (Told::Acknowledged(version), Some(seen)) if version != seen => {
                violation(format!("write {id} was seen as {seen:?} and acknowledged as {version:?}"))
            }
            (Told::NotApplied, Some(seen)) => {
                violation(format!("write {id} was seen as {seen:?} and then reported as not applied"))
            }
            (Told::Acknowledged(version), _) if version.order <= write.above => violation(format!(
                "write {id} got {version:?}, and {:?} had been acknowledged through node {} before it was sent",
                write.above,
                write.sent.node + 1
            )),
            (Told::Acknowledged(version), _) if (version.expiry_ms > 0) != write.sent.expires => {
                violation(format!(
                    "write {id} was acknowledged as {version:?}, which expires when it should not, or never"
                ))
            }
            _ => Ok(()),
        }
    }

    fn find(&mut self, key: u64, id: u64) -> Option<&mut Write> {
        let writes = self.keys.get_mut(&key)?;
        writes.binary_search_by_key(&id, |write| write.id).ok().map(|at| &mut writes[at])
    }

    /// The newest version that a read must know of.
    fn floor(&self, key: u64, reading: Reading, facts: &Facts) -> Option<Version> {
        let known = self.keys.get(&key)?.iter().filter(|write| write.held.meet(reading, facts));
        let known = known.filter_map(Write::version);
        known.max_by_key(|version| (version.order, version.actor))
    }

    /// Judges a value that a read returned just now; `id` is what its content says, if it says anything.
    pub(crate) fn saw_value(
        &mut self,
        key: u64,
        (reading, now_ns): (Reading, u64),
        facts: &Facts,
        id: Option<u64>,
        version: Version,
    ) -> Result<(), Violation> {
        let violation = |what: String| Err(Violation { key, what });
        let floor = self.floor(key, reading, facts);
        let Some(id) = id else { return violation(format!("a value that nobody wrote, as {version:?}")) };
        let Some(write) = self.find(key, id) else {
            return violation(format!("value {id}, which nobody wrote to this key, as {version:?}"));
        };
        if write.sent.is_delete {
            return violation(format!("value {id}, which was a delete, as {version:?}"));
        }
        match write.told {
            Told::Acknowledged(told) if told != version => {
                return violation(format!("value {id} as {version:?}, acknowledged as {told:?}"));
            }
            Told::NotApplied => {
                return violation(format!("value {id} as {version:?}, reported as not applied"));
            }
            Told::Acknowledged(_) | Told::InDoubt => {}
        }
        if let Some(seen) = write.seen
            && seen != version
        {
            return violation(format!("value {id} as {version:?}, seen before as {seen:?}"));
        }
        write.seen = Some(version);
        write.held.shown(reading, write.sent.holders, now_ns, facts);
        match floor {
            Some(floor) if floor.beats(&version) => {
                violation(format!("value {id} as {version:?}, older than what had to be seen: {floor:?}"))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Judges a read that found nothing.
    pub(crate) fn saw_nothing(&self, key: u64, reading: Reading, facts: &Facts) -> Result<(), Violation> {
        let Some(floor) = self.floor(key, reading, facts) else { return Ok(()) };
        if floor.flags.is_tombstone() || facts.may_have_passed(floor.expiry_ms) {
            return Ok(());
        }
        let writes = self.keys.get(&key).map_or(&[][..], Vec::as_slice);
        let may_hide = |write: &Write| match write.told {
            Told::InDoubt => write.sent.is_delete || write.sent.expires,
            Told::Acknowledged(version) => {
                let is_gone = write.sent.is_delete || facts.may_have_passed(version.expiry_ms);
                is_gone && version.beats(&floor)
            }
            Told::NotApplied => false,
        };
        if writes.iter().any(may_hide) {
            return Ok(());
        }
        Err(Violation { key, what: format!("nothing, but {floor:?} had to be seen") })
    }

    /// All keys that were written.
    pub(crate) fn keys(&self) -> Vec<u64> {
        self.keys.keys().copied().collect()
    }

    /// The writes of a key, for people.
    pub(crate) fn describe(&self, key: u64) -> String {
        let line = |write: &Write| {
            let Write { id, sent, told, told_ns, seen, .. } = write;
            let Intent { now_ns, node, needed, .. } = sent;
            let kind = if sent.is_delete { "delete" } else { "put" };
            let node = node + 1;
            format!(
                "  {kind} {id} at {now_ns} ns through node {node}, to {needed}: {told:?} at {told_ns} ns, seen {seen:?}\n"
            )
        };
        self.keys.get(&key).map_or_else(String::new, |writes| writes.iter().map(line).collect())
    }

    /// Writes acknowledged, not applied, and in doubt.
    pub(crate) fn counts(&self) -> (u64, u64, u64) {
        Told::count(self.keys.values().flatten().map(|write| write.told))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrite_wire::{Actor, VersionFlags};

    fn version(order: u64) -> Version {
        Version { order: Order(order), actor: Actor(1), ..Version::default() }
    }

    fn tombstone(order: u64) -> Version {
        Version { flags: VersionFlags(VersionFlags::TOMBSTONE), ..version(order) }
    }

    fn expiring(order: u64, expiry_ms: u64) -> Version {
        Version { flags: VersionFlags(VersionFlags::EXPIRES), expiry_ms, ..version(order) }
    }

    /// A write to two of three replicas through the first node.
    fn intent(now_ns: u64) -> Intent {
        let holders = Holders::of(0..3);
        Intent { key: 1, is_delete: false, expires: false, node: 0, needed: 2, holders, now_ns }
    }

    fn begin(history: &mut History, sent: Intent) -> u64 {
        history.begin(sent, &Facts::default())
    }

    /// A read of two replicas, long after.
    const READING: Reading = Reading { begun_ns: 1_000, needed: 2 };
    const NOW: (Reading, u64) = (READING, 2_000);

    #[test]
    fn a_lost_write_is_a_violation() {
        let (mut history, mut facts) = (History::default(), Facts::default());
        let first = begin(&mut history, intent(0));
        history.told(1, first, Told::Acknowledged(version(10)), 1).unwrap();
        let second = begin(&mut history, intent(5));
        history.told(1, second, Told::Acknowledged(version(20)), 6).unwrap();
        assert!(history.saw_value(1, NOW, &facts, Some(second), version(20)).is_ok());
        assert!(history.saw_value(1, NOW, &facts, Some(first), version(10)).is_err());
        assert!(history.saw_nothing(1, READING, &facts).is_err());
        let at_one = Reading { needed: 1, ..READING };
        assert!(
            history.saw_value(1, (at_one, 2_000), &facts, Some(first), version(10)).is_ok(),
            "they need not meet"
        );
        facts.lost(2, 0, 7);
        assert!(history.saw_value(1, NOW, &facts, Some(first), version(10)).is_ok(), "it may be on one only");
    }

    #[test]
    fn a_write_in_doubt_may_be_seen_or_not() {
        let (mut history, facts) = (History::default(), Facts::default());
        let acknowledged = begin(&mut history, intent(0));
        history.told(1, acknowledged, Told::Acknowledged(version(10)), 1).unwrap();
        let doubtful = begin(&mut history, intent(5));
        assert!(history.saw_value(1, NOW, &facts, Some(acknowledged), version(10)).is_ok());
        assert!(history.saw_value(1, NOW, &facts, Some(doubtful), version(30)).is_ok());
        assert!(history.told(1, doubtful, Told::NotApplied, 9).is_err(), "it has been seen");
    }

    #[test]
    fn a_node_that_goes_back_is_a_violation_unless_it_was_emptied() {
        let mut history = History::default();
        let first = begin(&mut history, intent(1));
        let at_once = begin(&mut history, intent(2));
        history.told(1, first, Told::Acknowledged(version(10)), 3).unwrap();
        history.told(1, at_once, Told::Acknowledged(version(9)), 3).expect("they were in flight together");
        let elsewhere = begin(&mut history, Intent { node: 1, ..intent(4) });
        history.told(1, elsewhere, Told::Acknowledged(version(5)), 5).expect("another node");
        let later = begin(&mut history, intent(6));
        assert!(history.told(1, later, Told::Acknowledged(version(10)), 7).is_err());
        let mut facts = Facts::default();
        facts.lost(0, 0, 8);
        let emptied = history.begin(intent(9), &facts);
        history.told(1, emptied, Told::Acknowledged(version(3)), 10).expect("it knows of nothing");
    }

    #[test]
    fn an_invented_or_changed_value_is_a_violation() {
        let (mut history, facts) = (History::default(), Facts::default());
        let id = begin(&mut history, intent(0));
        for (key, id, version, is_right) in [
            (1, None, version(10), false),
            (1, Some(id + 7), version(10), false),
            (2, Some(id), version(10), false),
            (1, Some(id), version(10), true),
            (1, Some(id), version(11), false),
        ] {
            assert_eq!(history.saw_value(key, NOW, &facts, id, version).is_ok(), is_right, "{key} {id:?}");
        }
    }

    /// A write that was never acknowledged may be on one replica; what a read of a majority has shown is on as many.
    #[test]
    fn what_a_read_of_a_majority_has_shown_does_not_go_away() {
        let (mut history, facts) = (History::default(), Facts::default());
        let acknowledged = begin(&mut history, intent(0));
        history.told(1, acknowledged, Told::Acknowledged(version(10)), 1).unwrap();
        let doubtful = begin(&mut history, intent(5));
        let at_one = Reading { needed: 1, ..READING };
        assert!(history.saw_value(1, (at_one, 1_100), &facts, Some(doubtful), version(30)).is_ok());
        assert!(history.saw_value(1, (READING, 1_200), &facts, Some(acknowledged), version(10)).is_ok());
        assert!(history.saw_value(1, (READING, 1_300), &facts, Some(doubtful), version(30)).is_ok());
        let later = Reading { begun_ns: 1_400, ..READING };
        assert!(history.saw_value(1, (later, 1_500), &facts, Some(acknowledged), version(10)).is_err());
        assert!(history.saw_nothing(1, later, &facts).is_err());
    }

    #[test]
    fn absence_needs_a_delete() {
        let (mut history, facts) = (History::default(), Facts::default());
        let put = begin(&mut history, intent(0));
        history.told(1, put, Told::Acknowledged(version(10)), 1).unwrap();
        let delete = begin(&mut history, Intent { is_delete: true, ..intent(2) });
        assert!(history.saw_nothing(1, READING, &facts).is_ok(), "the delete is in doubt");
        history.told(1, delete, Told::NotApplied, 3).unwrap();
        assert!(history.saw_nothing(1, READING, &facts).is_err());
        let again = begin(&mut history, Intent { is_delete: true, ..intent(4) });
        history.told(1, again, Told::Acknowledged(tombstone(20)), 5).unwrap();
        assert!(history.saw_nothing(1, READING, &facts).is_ok());
    }

    #[test]
    fn what_has_expired_hides_what_it_replaced() {
        let (mut history, mut facts) = (History::default(), Facts::default());
        let old = begin(&mut history, intent(0));
        history.told(1, old, Told::Acknowledged(version(10)), 1).unwrap();
        let brief = begin(&mut history, Intent { expires: true, ..intent(2) });
        history.told(1, brief, Told::Acknowledged(expiring(20, 500)), 3).unwrap();
        facts.saw_wall(499);
        assert!(history.saw_nothing(1, READING, &facts).is_err(), "it has not expired anywhere");
        facts.saw_wall(500);
        assert!(history.saw_nothing(1, READING, &facts).is_ok());
        assert!(
            history.saw_value(1, NOW, &facts, Some(brief), expiring(20, 500)).is_ok(),
            "by another clock"
        );
        assert!(history.saw_value(1, NOW, &facts, Some(brief), expiring(20, 501)).is_err());
        assert!(history.saw_value(1, NOW, &facts, Some(old), version(10)).is_err(), "it came back");
        let for_ever = begin(&mut history, Intent { expires: true, ..intent(4) });
        assert!(history.told(1, for_ever, Told::Acknowledged(version(30)), 5).is_err(), "it should expire");
    }
}
