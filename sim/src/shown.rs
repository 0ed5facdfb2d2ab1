//! What reads of a majority have shown, and later ones must therefore show.
//!
//! A write that was never acknowledged may be on one replica, seen by one read and missed by the next. A read whose level is a majority
//! promises more: what it shows is on as many replicas as its level needs by then, so that a read that begins later, at a
//! level that overlaps, shows it too, or something newer. Of siblings: it shows them, too, unless something has replaced them.

use std::collections::{BTreeMap, BTreeSet};

use ferrite_wire::{Level, Version};

/// What has been shown, by key.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    newest: BTreeMap<u64, Version>,
    siblings: BTreeMap<u64, BTreeSet<u64>>,
}

impl Shown {
    /// Whether a read at this level promises that what it shows stays.
    pub(crate) fn holds(level: Level, replicas: usize) -> bool {
        level.needed(replicas) > replicas / 2
    }

    /// A read of a majority has shown a value.
    pub(crate) fn value(&mut self, key: u64, version: Version) {
        let newest = self.newest.entry(key).or_insert(version);
        if version.beats(newest) {
            *newest = version;
        }
    }

    /// A read of a majority has shown these siblings.
    pub(crate) fn siblings(&mut self, key: u64, ids: impl Iterator<Item = u64>) {
        self.siblings.entry(key).or_default().extend(ids);
    }

    /// What a read that begins now must show at least: this, or what was acknowledged.
    pub(crate) fn floor(&self, key: u64, acknowledged: Option<Version>) -> Option<Version> {
        let shown = self.newest.get(&key).copied();
        acknowledged.into_iter().chain(shown).max_by_key(|version| (version.order, version.actor))
    }

    /// The siblings that it must show unless something has replaced them.
    pub(crate) fn siblings_of(&self, key: u64) -> impl Iterator<Item = u64> {
        self.siblings.get(&key).into_iter().flatten().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrite_wire::{Actor, Order};

    #[test]
    fn the_newest_of_what_was_shown_and_acknowledged_must_be_seen() {
        let version = |order| Version { order: Order(order), actor: Actor(1), ..Version::default() };
        let mut shown = Shown::default();
        assert_eq!(shown.floor(1, None), None);
        assert_eq!(shown.floor(1, Some(version(3))), Some(version(3)));
        shown.value(1, version(7));
        shown.value(1, version(5));
        assert_eq!(shown.floor(1, Some(version(3))), Some(version(7)));
        assert_eq!(shown.floor(1, Some(version(9))), Some(version(9)));
        assert_eq!(shown.floor(2, None), None, "of another key");
    }

    #[test]
    fn only_reads_of_a_majority_promise_anything() {
        let holding: Vec<usize> = (1..=3).filter(|replicas| Shown::holds(Level::One, *replicas)).collect();
        assert_eq!(holding, [1]);
        assert!((1..=7).all(|replicas| Shown::holds(Level::Quorum, replicas)));
    }
}
