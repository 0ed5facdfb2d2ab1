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
//!
//! Space 0 is the host's own, and has floors of another kind: what the host has *retired*, up to a token of a table there, it will not ask for
//! again. Such records go whatever else holds them: nothing that is older can be missed either.

use std::collections::BTreeMap;

use crate::{Key, KeyRange, Prefix, Record, RecordFlags, TableMeta};

/// What is to become of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It stays.
    Keep,
    /// A tombstone of its version takes its place.
    Bury,
    /// It goes, if nothing else may hold its key.
    Purge,
    /// It goes, whatever else holds its key.
    Leave,
}

/// Up to where history is settled: by vnode and table in versions, and for all of them in time. Floors only rise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Floors {
    /// Milliseconds since the Unix epoch: what expires then or before has expired for everybody.
    passed_ms: u64,
    /// By vnode and table: versions up to here will not be delivered any more. At most one for each table of each vnode.
    orders: BTreeMap<(u16, u32), u64>,
    /// By vnode and table of space 0: tokens up to here, 0 left out, are not asked for any more.
    retired: BTreeMap<(u16, u32), u64>,
}

impl Floors {
    /// Versions of a table in a vnode up to `order` will not be delivered any more.
    pub(crate) fn raise(&mut self, vnode: u16, table: u32, order: u64) {
        let floor = self.orders.entry((vnode, table)).or_default();
        *floor = order.max(*floor);
    }

    /// Keys of a table in a vnode of space 0 with tokens from 1 to `token` will not be asked for any more. Says whether that is news.
    pub(crate) fn retire(&mut self, vnode: u16, table: u32, token: u64) -> bool {
        let retired = self.retired.entry((vnode, table)).or_default();
        let is_news = token > *retired;
        *retired = token.max(*retired);
        is_news
    }

    /// Whether a key was retired.
    #[inline]
    pub(crate) fn is_retired(&self, prefix: Prefix) -> bool {
        prefix.space == 0
            && prefix.token > 0
            && self.retired.get(&(prefix.vnode, prefix.table)).is_some_and(|&retired| prefix.token <= retired)
    }

    /// What was retired, as ranges.
    pub(crate) fn retired(&self) -> impl Iterator<Item = KeyRange> + '_ {
        self.retired.iter().map(|(&(vnode, table), &token)| {
            let key =
                |token| Key { prefix: Prefix { space: 0, vnode, table, token }, partition: b"", sort: b"" };
            let behind = KeyRange::table(0, vnode, table);
            match token.checked_add(1) {
                Some(next) => behind.from(&key(1)).before(&key(next)),
                None => behind.from(&key(1)),
            }
        })
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
        if self.is_retired(key.prefix) {
            return Verdict::Leave;
        }
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
    fn what_was_retired_leaves_up_to_its_token_and_not_its_mark() {
        let record = Record { order: 9, actor: 1, flags: RecordFlags(0), expiry_ms: 0, value: b"v" };
        let key = |space, vnode, table, token| Key {
            prefix: Prefix { space, vnode, table, token },
            partition: b"p",
            sort: b"",
        };
        let mut floors = Floors::default();
        assert!(floors.retire(3, 1, 10) && !floors.retire(3, 1, 5) && !floors.retire(3, 1, 10));
        for (key, expected) in [
            (key(0, 3, 1, 0), Verdict::Keep),
            (key(0, 3, 1, 1), Verdict::Leave),
            (key(0, 3, 1, 10), Verdict::Leave),
            (key(0, 3, 1, 11), Verdict::Keep),
            (key(0, 3, 2, 1), Verdict::Keep),
            (key(0, 4, 1, 1), Verdict::Keep),
            (key(1, 3, 1, 1), Verdict::Keep),
        ] {
            assert_eq!(floors.verdict(&key, &record), expected, "{key:?}");
            let is_in = floors.retired().any(|range| range.contains(&key));
            assert_eq!(is_in, expected == Verdict::Leave, "{key:?}");
        }
        floors.retire(3, 1, u64::MAX);
        assert!(floors.retired().any(|range| range.contains(&key(0, 3, 1, u64::MAX))));
    }

    #[test]
    fn what_is_buried_keeps_its_version_and_its_mark() {
        let flags = RecordFlags(RecordFlags::EXPIRES | RecordFlags::DOMINATES);
        let buried = buried(&Record { order: 7, actor: 3, flags, expiry_ms: 9, value: b"long" });
        let flags = RecordFlags(RecordFlags::TOMBSTONE | RecordFlags::DOMINATES);
        assert_eq!(buried, Record { order: 7, actor: 3, flags, expiry_ms: 0, value: b"" });
    }
}
