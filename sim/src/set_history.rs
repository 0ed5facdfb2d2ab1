//! What was written to keys with siblings, and what every read of them must therefore show.
//!
//! A put or delete bears the context of a read, or none. What that read showed is what the write *saw*, and replaces. Whatever the
//! clocks, and whichever node was asked:
//!
//! 1. *Nothing is invented.* A sibling is the value of a put to that key that was not reported as not applied, under the version that
//!    the put was acknowledged with.
//! 2. *Nothing acknowledged is lost.* A read whose level overlaps with the writes' shows every put acknowledged before it began, but
//!    for those that some other write saw.
//! 3. *Nothing replaced comes back.* Such a read shows nothing that a write saw which was acknowledged before it began.
//!
//! A write that overwrites saw what nobody knows: it may have seen whatever was there.

use std::collections::{BTreeMap, BTreeSet};

use ferrite_wire::Version;

use crate::history::{Told, Violation};

/// Numbers of these writes begin here: none is that of a write of the other history.
const FIRST: u64 = 1 << 40;

/// What a write saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Saw {
    /// These puts.
    These(BTreeSet<u64>),
    /// Perhaps anything: it overwrites.
    Anything,
}

/// One write.
#[derive(Clone, Debug)]
struct Write {
    id: u64,
    is_delete: bool,
    saw: Saw,
    sent_ns: u64,
    told: Told,
    /// The version under which a read has shown it.
    seen: Option<Version>,
}

impl Write {
    fn may_have_seen(&self, id: u64) -> bool {
        let saw = match &self.saw {
            Saw::These(ids) => ids.contains(&id),
            Saw::Anything => true,
        };
        saw && self.id != id && self.told != Told::NotApplied
    }
}

/// What a read must show, and must not: fixed when it is sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SetFloor {
    /// Puts that had been acknowledged.
    there: BTreeSet<u64>,
    /// Puts that an acknowledged write had seen.
    gone: BTreeSet<u64>,
}

impl SetFloor {
    /// These must be shown, too: a read of a majority has shown them.
    pub(crate) fn and_shown(mut self, ids: impl Iterator<Item = u64>) -> SetFloor {
        self.there.extend(ids);
        self
    }
}

/// All writes by key.
#[derive(Debug, Default)]
pub(crate) struct SetHistory {
    keys: BTreeMap<u64, Vec<Write>>,
    next: u64,
}

impl SetHistory {
    /// Begins a write and numbers it.
    pub(crate) fn begin(&mut self, key: u64, is_delete: bool, saw: Saw, now_ns: u64) -> u64 {
        self.next += 1;
        let id = FIRST + self.next;
        let write = Write { id, is_delete, saw, sent_ns: now_ns, told: Told::InDoubt, seen: None };
        self.keys.entry(key).or_default().push(write);
        id
    }

    fn find(&mut self, key: u64, id: u64) -> Option<&mut Write> {
        self.keys.get_mut(&key)?.iter_mut().find(|write| write.id == id)
    }

    /// A write's client was told something.
    pub(crate) fn told(&mut self, key: u64, id: u64, told: Told) -> Result<(), Violation> {
        let write = self.find(key, id).expect("told of a write that was begun");
        write.told = told;
        match (told, write.seen) {
            (Told::Acknowledged(version), Some(seen)) if version != seen => Err(Violation {
                key,
                what: format!("sibling {id} was seen as {seen:?} and acknowledged as {version:?}"),
            }),
            (Told::NotApplied, Some(seen)) => Err(Violation {
                key,
                what: format!("sibling {id} was seen as {seen:?} and then reported as not applied"),
            }),
            _ => Ok(()),
        }
    }

    /// What a read that begins now must show.
    pub(crate) fn floor(&self, key: u64) -> SetFloor {
        let mut floor = SetFloor::default();
        for write in self.keys.get(&key).into_iter().flatten() {
            if let Told::Acknowledged(_) = write.told {
                if !write.is_delete {
                    floor.there.insert(write.id);
                }
                if let Saw::These(ids) = &write.saw {
                    floor.gone.extend(ids);
                }
            }
        }
        floor
    }

    /// Judges what a read showed; a sibling is what its content names, if it names anything, and its version.
    pub(crate) fn saw(
        &mut self,
        key: u64,
        floor: &SetFloor,
        siblings: &[(Option<u64>, Version)],
    ) -> Result<(), Violation> {
        let violation = |what: String| Err(Violation { key, what });
        let mut shown = BTreeSet::new();
        for (id, version) in siblings {
            let Some(id) = *id else {
                return violation(format!("a sibling that nobody wrote, as {version:?}"));
            };
            let Some(write) = self.find(key, id).filter(|write| !write.is_delete) else {
                return violation(format!("sibling {id}, which nobody put to this key, as {version:?}"));
            };
            match (write.told, write.seen) {
                (Told::NotApplied, _) => {
                    return violation(format!("sibling {id} as {version:?}, reported as not applied"));
                }
                (Told::Acknowledged(told), _) if told != *version => {
                    return violation(format!("sibling {id} as {version:?}, acknowledged as {told:?}"));
                }
                (_, Some(seen)) if seen != *version => {
                    return violation(format!("sibling {id} as {version:?}, seen before as {seen:?}"));
                }
                _ => write.seen = Some(*version),
            }
            if !shown.insert(id) {
                return violation(format!("sibling {id} twice"));
            }
        }
        if let Some(id) = floor.gone.intersection(&shown).next() {
            return violation(format!(
                "sibling {id} again, which an acknowledged write had seen and replaced"
            ));
        }
        let writes = self.keys.get(&key).map_or(&[][..], Vec::as_slice);
        let is_lost = |id: &&u64| !writes.iter().any(|write| write.may_have_seen(**id));
        match floor.there.difference(&shown).find(is_lost) {
            Some(id) => violation(format!(
                "sibling {id} is lost: it was acknowledged, and nothing that was written saw it"
            )),
            None => Ok(()),
        }
    }

    /// All keys that were written.
    pub(crate) fn keys(&self) -> Vec<u64> {
        self.keys.keys().copied().collect()
    }

    /// The writes of a key, for people.
    pub(crate) fn describe(&self, key: u64) -> String {
        let line = |write: &Write| {
            let Write { id, is_delete, saw, sent_ns, told, seen } = write;
            let kind = if *is_delete { "delete" } else { "put" };
            format!("  {kind} {id} at {sent_ns} ns, on top of {saw:?}: {told:?}, seen {seen:?}\n")
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
    use ferrite_wire::{Actor, Order};

    fn version(order: u64) -> Version {
        Version { order: Order(order), actor: Actor(1), ..Version::default() }
    }

    fn nothing() -> Saw {
        Saw::These(BTreeSet::new())
    }

    fn these(ids: &[u64]) -> Saw {
        Saw::These(ids.iter().copied().collect())
    }

    fn put(history: &mut SetHistory, saw: Saw, order: u64) -> u64 {
        let id = history.begin(1, false, saw, order);
        history.told(1, id, Told::Acknowledged(version(order))).expect("new");
        id
    }

    #[test]
    fn a_lost_sibling_is_a_violation_unless_something_saw_it() {
        let mut history = SetHistory::default();
        let first = put(&mut history, nothing(), 10);
        let second = put(&mut history, nothing(), 20);
        let floor = history.floor(1);
        let (one, two) = ((Some(first), version(10)), (Some(second), version(20)));
        assert!(history.saw(1, &floor, &[one, two]).is_ok());
        assert!(history.saw(1, &floor, &[two]).is_err());
        let doubtful = history.begin(1, true, these(&[first]), 30);
        assert!(history.saw(1, &floor, &[two]).is_ok(), "the delete may have been done");
        assert!(history.saw(1, &floor, &[one, two]).is_ok(), "or not");
        history.told(1, doubtful, Told::NotApplied).expect("nobody saw it");
        assert!(history.saw(1, &floor, &[two]).is_err());
        history.begin(1, false, Saw::Anything, 40);
        assert!(history.saw(1, &floor, &[]).is_ok());
    }

    #[test]
    fn what_was_replaced_must_not_come_back() {
        let mut history = SetHistory::default();
        let first = put(&mut history, nothing(), 10);
        let before = history.floor(1);
        let second = put(&mut history, these(&[first]), 20);
        let (one, two) = ((Some(first), version(10)), (Some(second), version(20)));
        assert!(history.saw(1, &before, &[one]).is_ok(), "it began before");
        let floor = history.floor(1);
        assert!(history.saw(1, &floor, &[one, two]).is_err());
        assert!(history.saw(1, &floor, &[two]).is_ok());
        let delete = history.begin(1, true, these(&[second]), 30);
        history.told(1, delete, Told::Acknowledged(version(20))).expect("a delete");
        let floor = history.floor(1);
        assert!(history.saw(1, &floor, &[two]).is_err());
        assert!(history.saw(1, &floor, &[]).is_ok());
    }

    #[test]
    fn an_invented_changed_or_repeated_sibling_is_a_violation() {
        let mut history = SetHistory::default();
        let id = put(&mut history, nothing(), 10);
        let other = history.begin(1, false, nothing(), 11);
        history.told(1, other, Told::NotApplied).expect("nobody saw it");
        let delete = history.begin(1, true, nothing(), 12);
        let floor = history.floor(1);
        let good = (Some(id), version(10));
        for bad in [
            (None, version(10)),
            (Some(id + 9), version(10)),
            (Some(id), version(11)),
            (Some(other), version(11)),
            (Some(delete), version(12)),
            good,
        ] {
            assert!(history.saw(1, &floor, &[good, bad]).is_err(), "{bad:?}");
        }
        assert!(history.saw(2, &SetFloor::default(), &[good]).is_err(), "another key's");
        assert!(history.saw(1, &floor, &[good]).is_ok());
    }
}
