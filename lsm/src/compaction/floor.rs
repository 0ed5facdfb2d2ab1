//! What a merge may leave out, and what it may only shorten.
//!
//! A tombstone, and an expired record as well, hides what was written before it. Left out too early it lets an older version
//! come back that is delivered late: by a hint, by repair, by a replica that was away. So two things are told apart:
//!
//! | the merge meets | and its order is | then |
//! |---|---|---|
//! | a tombstone | at or below the floor of its vnode and table | it may be purged |
//! | a tombstone | above the floor | it stays |
//! | an expired record | at or below the floor | it may be purged |
//! | an expired record | above the floor | it is *buried*: a tombstone of the same version stays, without its value |
//!
//! "May" because one more thing must hold, which only the engine can see: no source outside the merge holds the key, and
//! nothing that is staged and not yet applied is as old as that. Where it does not hold, a tombstone stays and an expired record
//! is buried.

use std::collections::BTreeMap;

use crate::{Key, Record, RecordFlags, TableMeta};

/// What is to become of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It stays.
    Keep,
    /// A tombstone of its version takes its place.
    Bury,
    /// It goes, if nothing else may hold its key.
    Purge,
}

/// Up to where history is settled: by vnode and table in versions, and for all of them in time. Floors only rise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Floors {
    /// Milliseconds since the Unix epoch: what expires then or before has expired for everybody.
    passed_ms: u64,
    /// By vnode and table: versions up to here will not be delivered any more. At most one for each table of each vnode.
    orders: BTreeMap<(u16, u32), u64>,
}

impl Floors {
    /// Versions of a table in a vnode up to `order` will not be delivered any more.
    pub(crate) fn raise(&mut self, vnode: u16, table: u32, order: u64) {
        let floor = self.orders.entry((vnode, table)).or_default();
        *floor = order.max(*floor);
    }

    /// What expires at `passed_ms` or before has expired for everybody.
    pub(crate) fn pass(&mut self, passed_ms: u64) {
        self.passed_ms = self.passed_ms.max(passed_ms);
    }

    /// As [`Floors::pass`] was told last.
    pub(super) fn passed_ms(&self) -> u64 {
        self.passed_ms
    }

    /// Whether a floor in the range of `table` is at or above all its versions.
    pub(super) fn covers(&self, table: &TableMeta) -> bool {
        let (from, to) = (table.smallest.prefix, table.largest.prefix);
        let range = (from.vnode, 0)..=(to.vnode, u32::MAX);
        from.space == 1
            && from.vnode <= to.vnode
            && self.orders.range(range).any(|(_, &order)| order >= table.max_order)
    }

    /// The order up to which versions of this key are settled; 0 = none are.
    fn order(&self, key: &Key<'_>) -> u64 {
        if key.prefix.space == 0 {
            return 0;
        }
        self.orders.get(&(key.prefix.vnode, key.prefix.table)).copied().unwrap_or(0)
    }

    /// What is to become of `record`.
    #[inline]
    pub(crate) fn verdict(&self, key: &Key<'_>, record: &Record<'_>) -> Verdict {
        let flags = record.flags.0;
        if flags & (RecordFlags::TOMBSTONE | RecordFlags::EXPIRES) == 0 || flags & RecordFlags::SIBLINGS != 0
        {
            return Verdict::Keep;
        }
        let is_tombstone = flags & RecordFlags::TOMBSTONE != 0;
        if !is_tombstone && record.expiry_ms > self.passed_ms {
            return Verdict::Keep;
        }
        match (record.order <= self.order(key), is_tombstone) {
            (true, _) => Verdict::Purge,
            (false, true) => Verdict::Keep,
            (false, false) => Verdict::Bury,
        }
    }
}

/// The tombstone that stays of an expired record.
pub(crate) fn buried<'a>(record: &Record<'_>) -> Record<'a> {
    let dominates = record.flags.0 & RecordFlags::DOMINATES;
    let flags = RecordFlags(dominates | RecordFlags::TOMBSTONE);
    Record { order: record.order, actor: record.actor, flags, expiry_ms: 0, value: b"" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Prefix;

    #[test]
    fn verdicts_follow_the_table() {
        let record = |order, flags, expiry_ms| Record {
            order,
            actor: 1,
            flags: RecordFlags(flags),
            expiry_ms,
            value: b"v",
        };
        let key = |space, vnode| Key {
            prefix: Prefix { space, vnode, table: 4, token: 9 },
            partition: b"",
            sort: b"",
        };
        const TOMBSTONE: u8 = RecordFlags::TOMBSTONE;
        const EXPIRES: u8 = RecordFlags::EXPIRES;
        let mut floors = Floors::default();
        assert_eq!(floors.verdict(&key(1, 3), &record(1, TOMBSTONE, 0)), Verdict::Keep);
        floors.raise(3, 4, 10);
        floors.raise(3, 4, 5);
        floors.pass(100);
        floors.pass(50);
        for (order, flags, expiry_ms, expected) in [
            (10, TOMBSTONE, 0, Verdict::Purge),
            (11, TOMBSTONE, 0, Verdict::Keep),
            (10, 0, 0, Verdict::Keep),
            (10, EXPIRES, 100, Verdict::Purge),
            (11, EXPIRES, 100, Verdict::Bury),
            (10, EXPIRES, 101, Verdict::Keep),
            (10, EXPIRES | RecordFlags::SIBLINGS, 100, Verdict::Keep),
        ] {
            assert_eq!(floors.verdict(&key(1, 3), &record(order, flags, expiry_ms)), expected);
        }
        assert_eq!(floors.verdict(&key(1, 2), &record(1, TOMBSTONE, 0)), Verdict::Keep, "another vnode");
        assert_eq!(floors.verdict(&key(0, 3), &record(1, TOMBSTONE, 0)), Verdict::Keep, "another space");
    }

    #[test]
    fn what_is_buried_keeps_its_version_and_its_mark() {
        let flags = RecordFlags(RecordFlags::EXPIRES | RecordFlags::DOMINATES);
        let buried = buried(&Record { order: 7, actor: 3, flags, expiry_ms: 9, value: b"long" });
        let flags = RecordFlags(RecordFlags::TOMBSTONE | RecordFlags::DOMINATES);
        assert_eq!(buried, Record { order: 7, actor: 3, flags, expiry_ms: 0, value: b"" });
    }
}
