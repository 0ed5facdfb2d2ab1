//! Which tables to merge next: pure decisions over what the stores look like.
//!
//! The strategy is *leveled* (O'Neil et al., "The log-structured merge-tree"; the levels are LevelDB's). Level 0 holds flushed
//! memtables, whose key ranges overlap; every level below is one run of tables with disjoint ranges, `fanout` times longer
//! than the one above it. A read looks at each table of level 0 and at one table of each other level, so what bounds its cost
//! is how many tables level 0 may hold and how many levels there are.
//!
//! Each level has a *score*, its length against its limit; the level of all the core's stores with the highest score of at
//! least one is compacted into the next:
//!
//! - Level 0: all its tables at once with all they overlap in level 1. (Some newer ones alone would let an older version of a
//!   key stand above a newer one; older ones alone would rewrite level 1 more often.)
//! - Level n: the table that rewrites the fewest bytes of level n + 1 for each of its own; if it overlaps none there, it is moved, not rewritten.
//!
//! Invariant kept for reads: of two tables that hold the same key, the one whose record was applied later stands above, or later in level 0.
//!
//! Tombstones and expired records are kept: [`Floor::NONE`] is what callers have until anti-entropy raises floors.

mod chain;
mod pick;

pub(crate) use chain::Chain;
pub(crate) use pick::{Limits, Plan, StoreShape, debt_bytes, pick};

use crate::{Record, RecordFlags};

/// What a compaction may leave out, if nothing older than the merge holds the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Floor {
    /// Tombstones of this order and below.
    pub(crate) tombstone_order: u64,
    /// Records that expired at this time and before, in milliseconds since the Unix epoch.
    pub(crate) expiry_ms: u64,
}

impl Floor {
    /// Nothing may be left out.
    pub(crate) const NONE: Floor = Floor { tombstone_order: 0, expiry_ms: 0 };

    /// Whether this permits to leave out `record`.
    pub(crate) fn covers(&self, record: &Record<'_>) -> bool {
        let flags = record.flags.0;
        let dead = flags & RecordFlags::TOMBSTONE != 0 && record.order <= self.tombstone_order;
        let expired = flags & RecordFlags::EXPIRES != 0 && record.expiry_ms <= self.expiry_ms;
        dead || expired
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_floor_covers_old_tombstones_and_expired_records_only() {
        let record = |order, flags, expiry_ms| Record {
            order,
            actor: 1,
            flags: RecordFlags(flags),
            expiry_ms,
            value: b"",
        };
        let floor = Floor { tombstone_order: 10, expiry_ms: 100 };
        assert!(floor.covers(&record(10, RecordFlags::TOMBSTONE, 0)));
        assert!(!floor.covers(&record(11, RecordFlags::TOMBSTONE, 0)));
        assert!(!floor.covers(&record(10, 0, 0)));
        assert!(floor.covers(&record(50, RecordFlags::EXPIRES, 100)));
        assert!(!floor.covers(&record(50, RecordFlags::EXPIRES, 101)));
        assert!(!Floor::NONE.covers(&record(1, RecordFlags::TOMBSTONE, 0)));
    }
}
