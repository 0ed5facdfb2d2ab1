//! What a core has done with hints, and what it still owes, as numbers: for whoever watches a whole node from within its process.

use std::collections::BTreeMap;

use super::Shard;
use crate::env::Env;

/// What a core has done with hints since it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HintCounts {
    /// Hints that became durable here.
    pub made: u64,
    /// Hints that their targets have acknowledged.
    pub delivered: u64,
    /// Hints that were not kept, or not delivered in the end, by the name of the reason.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Stretches of hints that were passed over since they cannot be read.
    pub unreadable: u64,
}

impl HintCounts {
    /// Adds what another core has done.
    pub fn add(&mut self, other: &HintCounts) {
        self.made += other.made;
        self.delivered += other.delivered;
        self.unreadable += other.unreadable;
        for (reason, count) in &other.dropped {
            *self.dropped.entry(reason).or_default() += count;
        }
    }

    /// Whether nothing that was owed was left out.
    pub fn is_complete(&self) -> bool {
        self.dropped.is_empty() && self.unreadable == 0
    }
}

impl<E: Env> Shard<E> {
    /// What this core has done with hints since it was opened.
    pub fn hint_counts(&self) -> HintCounts {
        let hints = self.hints.borrow();
        let (made, delivered) = hints.made_and_delivered();
        let mut counts =
            HintCounts { made, delivered, unreadable: hints.unreadable(), ..HintCounts::default() };
        for (_, reason, count) in hints.drops() {
            *counts.dropped.entry(reason.name()).or_default() += count;
        }
        counts
    }

    /// Hints that this core has not delivered yet, those that are yet to be made, and writes that may still come to owe some.
    pub fn owes(&self) -> u64 {
        self.hints_owed() + self.owed.borrow().len() as u64 + self.debts.get() as u64
    }
}
