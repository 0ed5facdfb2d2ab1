//! What was written, what was acknowledged, and what every read must therefore see.
//!
//! Truth is in versions, not in the order of wall clocks: last write wins by `(order, actor)`, and an acknowledgement names
//! the version it was given. So the checks hold under any clock skew:
//!
//! 1. *Nothing is invented.* A value read was written by somebody, to that key, and if its write was acknowledged or seen
//!    before then it has the same version as then.
//! 2. *Nothing acknowledged is lost.* A read whose level overlaps with the writes' returns the version of the newest write
//!    acknowledged before the read began, or a newer one.
//! 3. *A session goes forward.* A client's acknowledged write has a higher order than everything it had seen.
//! 4. *A node goes forward.* Of two writes to a key through one node the later one has the higher order, also when the node was
//!    restarted in between, with whatever wall clock. (Through different nodes this is promised up to their drift only.)
//!
//! An answer "absent" names no version. It is right if the newest acknowledged write is a delete, or there is none, or some
//! delete whose outcome nobody knows may be newer.

use std::collections::BTreeMap;

use ferrite_wire::{Order, Version};

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
}

/// One write.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Write {
    /// Its number: for puts also the value's content.
    pub(crate) id: u64,
    /// Whether it deletes.
    pub(crate) is_delete: bool,
    /// When it was sent, in virtual nanoseconds.
    pub(crate) sent_ns: u64,
    /// Through which node.
    pub(crate) node: usize,
    /// The highest order of a write to this key through this node that had been acknowledged by then.
    pub(crate) above: Order,
    /// What its client was told.
    pub(crate) told: Told,
    /// The version under which a read has shown it.
    pub(crate) seen: Option<Version>,
}

impl Write {
    /// The version it was acknowledged with.
    fn version(&self) -> Option<Version> {
        match self.told {
            Told::Acknowledged(version) => Some(version),
            Told::InDoubt | Told::NotApplied => None,
        }
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

/// What a read must see at least: fixed when it is sent.
pub(crate) type Floor = Option<Version>;

impl History {
    /// Begins a write and numbers it.
    pub(crate) fn begin(&mut self, key: u64, is_delete: bool, node: usize, now_ns: u64) -> u64 {
        self.next += 1;
        let id = self.next;
        let writes = self.keys.entry(key).or_default();
        let acknowledged = writes.iter().filter(|write| write.node == node).filter_map(Write::version);
        let above = acknowledged.map(|version| version.order).max().unwrap_or(Order(0));
        let write = Write { id, is_delete, sent_ns: now_ns, node, above, told: Told::InDoubt, seen: None };
        writes.push(write);
        id
    }

    /// A write's client was told something.
    pub(crate) fn told(&mut self, key: u64, id: u64, told: Told) -> Result<(), Violation> {
        let write = self.find(key, id).expect("told of a write that was begun");
        write.told = told;
        match (told, write.seen) {
            (Told::Acknowledged(version), Some(seen)) if version != seen => Err(Violation {
                key,
                what: format!("write {id} was seen as {seen:?} and acknowledged as {version:?}"),
            }),
            (Told::NotApplied, Some(seen)) => Err(Violation {
                key,
                what: format!("write {id} was seen as {seen:?} and then reported as not applied"),
            }),
            (Told::Acknowledged(version), _) if version.order <= write.above => Err(Violation {
                key,
                what: format!(
                    "write {id} got {version:?}, and {:?} had been acknowledged through node {} before it was sent",
                    write.above,
                    write.node + 1
                ),
            }),
            _ => Ok(()),
        }
    }

    fn find(&mut self, key: u64, id: u64) -> Option<&mut Write> {
        self.keys.get_mut(&key)?.iter_mut().find(|write| write.id == id)
    }

    /// The newest version acknowledged so far.
    pub(crate) fn floor(&self, key: u64) -> Floor {
        let writes = self.keys.get(&key)?;
        writes.iter().filter_map(Write::version).max_by_key(|version| (version.order, version.actor))
    }

    /// Judges a value that a read returned; `id` is what its content says, if it says anything.
    pub(crate) fn saw_value(
        &mut self,
        key: u64,
        floor: Floor,
        id: Option<u64>,
        version: Version,
    ) -> Result<(), Violation> {
        let violation = |what: String| Err(Violation { key, what });
        let Some(id) = id else { return violation(format!("a value that nobody wrote, as {version:?}")) };
        let Some(write) = self.find(key, id) else {
            return violation(format!("value {id}, which nobody wrote to this key, as {version:?}"));
        };
        if write.is_delete {
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
        match floor {
            Some(floor) if floor.beats(&version) => {
                violation(format!("value {id} as {version:?}, older than what was acknowledged: {floor:?}"))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Judges a read that found nothing.
    pub(crate) fn saw_nothing(&self, key: u64, floor: Floor) -> Result<(), Violation> {
        let Some(floor) = floor else { return Ok(()) };
        if floor.flags.is_tombstone() {
            return Ok(());
        }
        let writes = self.keys.get(&key).map_or(&[][..], Vec::as_slice);
        let may_have_deleted = |write: &Write| match write.told {
            Told::InDoubt => write.is_delete,
            Told::Acknowledged(version) => write.is_delete && version.beats(&floor),
            Told::NotApplied => false,
        };
        if writes.iter().any(may_have_deleted) {
            return Ok(());
        }
        Err(Violation { key, what: format!("nothing, but {floor:?} was acknowledged") })
    }

    /// All keys that were written.
    pub(crate) fn keys(&self) -> Vec<u64> {
        self.keys.keys().copied().collect()
    }

    /// The writes of a key, for people.
    pub(crate) fn describe(&self, key: u64) -> String {
        let line = |write: &Write| {
            let kind = if write.is_delete { "delete" } else { "put" };
            format!(
                "  {kind} {} at {} ns through node {}: {:?}, seen {:?}\n",
                write.id,
                write.sent_ns,
                write.node + 1,
                write.told,
                write.seen
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

    #[test]
    fn a_lost_write_is_a_violation() {
        let mut history = History::default();
        let first = history.begin(1, false, 0, 0);
        history.told(1, first, Told::Acknowledged(version(10))).unwrap();
        let second = history.begin(1, false, 0, 5);
        history.told(1, second, Told::Acknowledged(version(20))).unwrap();
        let floor = history.floor(1);
        assert!(history.saw_value(1, floor, Some(second), version(20)).is_ok());
        assert!(history.saw_value(1, floor, Some(first), version(10)).is_err());
        assert!(history.saw_nothing(1, floor).is_err());
    }

    #[test]
    fn a_write_in_doubt_may_be_seen_or_not() {
        let mut history = History::default();
        let acknowledged = history.begin(1, false, 0, 0);
        history.told(1, acknowledged, Told::Acknowledged(version(10))).unwrap();
        let doubtful = history.begin(1, false, 0, 5);
        let floor = history.floor(1);
        assert!(history.saw_value(1, floor, Some(acknowledged), version(10)).is_ok());
        assert!(history.saw_value(1, floor, Some(doubtful), version(30)).is_ok());
        assert!(history.told(1, doubtful, Told::NotApplied).is_err(), "it has been seen");
    }

    #[test]
    fn a_node_that_goes_back_is_a_violation() {
        let mut history = History::default();
        let first = history.begin(1, false, 0, 0);
        let at_once = history.begin(1, false, 0, 1);
        history.told(1, first, Told::Acknowledged(version(10))).unwrap();
        history.told(1, at_once, Told::Acknowledged(version(9))).expect("they were in flight together");
        let elsewhere = history.begin(1, false, 1, 2);
        history.told(1, elsewhere, Told::Acknowledged(version(5))).expect("another node");
        let later = history.begin(1, false, 0, 3);
        assert!(history.told(1, later, Told::Acknowledged(version(10))).is_err());
    }

    #[test]
    fn an_invented_or_changed_value_is_a_violation() {
        let mut history = History::default();
        let id = history.begin(1, false, 0, 0);
        assert!(history.saw_value(1, None, None, version(10)).is_err());
        assert!(history.saw_value(1, None, Some(id + 7), version(10)).is_err());
        assert!(history.saw_value(2, None, Some(id), version(10)).is_err());
        assert!(history.saw_value(1, None, Some(id), version(10)).is_ok());
        assert!(history.saw_value(1, None, Some(id), version(11)).is_err());
    }

    #[test]
    fn absence_needs_a_delete() {
        let mut history = History::default();
        let put = history.begin(1, false, 0, 0);
        history.told(1, put, Told::Acknowledged(version(10))).unwrap();
        let floor = history.floor(1);
        let delete = history.begin(1, true, 0, 1);
        assert!(history.saw_nothing(1, floor).is_ok(), "the delete is in doubt");
        history.told(1, delete, Told::NotApplied).unwrap();
        assert!(history.saw_nothing(1, floor).is_err());
        let again = history.begin(1, true, 0, 2);
        history.told(1, again, Told::Acknowledged(tombstone(20))).unwrap();
        assert!(history.saw_nothing(1, history.floor(1)).is_ok());
    }
}
