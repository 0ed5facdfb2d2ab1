//! How old what is on its way into the memtables may be.
//!
//! A record that is staged or being synced is in no memtable yet, and a merge that purges a tombstone must not overlook it: an
//! older version among them would come back. Nobody looks for keys in the log's buffers; that everything on its way is newer
//! than the tombstone is enough, and cheap to know: two lowest orders, of two generations that take turns as groups are applied.

use std::cell::Cell;

/// See the module.
pub(super) struct Pending {
    /// Numbers up to here belong to the older generation.
    until: Cell<u64>,
    /// The last number staged.
    last: Cell<u64>,
    older_order_min: Cell<u64>,
    newer_order_min: Cell<u64>,
}

impl Default for Pending {
    fn default() -> Self {
        Pending {
            until: Cell::new(0),
            last: Cell::new(0),
            older_order_min: Cell::new(u64::MAX),
            newer_order_min: Cell::new(u64::MAX),
        }
    }
}

impl Pending {
    /// A record was staged.
    #[inline]
    pub(super) fn staged(&self, seq: u64, order: u64) {
        self.last.set(seq);
        self.newer_order_min.set(self.newer_order_min.get().min(order));
    }

    /// Everything up to this number is in memtables.
    pub(super) fn applied(&self, through: u64) {
        if through >= self.last.get() {
            self.older_order_min.set(u64::MAX);
            self.newer_order_min.set(u64::MAX);
        } else if through >= self.until.get() {
            self.older_order_min.set(self.newer_order_min.replace(u64::MAX));
            self.until.set(self.last.get());
        }
    }

    /// No record on its way has a lower order. It may be lower than it is, and is never higher.
    pub(super) fn order_min(&self) -> u64 {
        self.older_order_min.get().min(self.newer_order_min.get())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nothing_on_its_way_is_older(steps in prop::collection::vec((any::<bool>(), 0u64..50), 0..300)) {
            let pending = Pending::default();
            let mut waiting = VecDeque::new();
            let mut seq = 0;
            for (stage, value) in steps {
                if stage {
                    seq += 1;
                    pending.staged(seq, value);
                    waiting.push_back((seq, value));
                } else {
                    let through = waiting.get(value as usize % 7).map_or(seq, |&(seq, _)| seq);
                    waiting.retain(|&(seq, _)| seq > through);
                    pending.applied(through);
                }
                let least = waiting.iter().map(|&(_, order)| order).min().unwrap_or(u64::MAX);
                prop_assert!(pending.order_min() <= least);
                prop_assert!(!waiting.is_empty() || pending.order_min() == u64::MAX);
            }
        }
    }
}
