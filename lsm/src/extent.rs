//! What an operation on stored vnodes is about: a vnode of the ring, or one table in it.
//!
//! Space 0 is the node's own and has no extents: nothing that is done to vnodes reaches it.

use crate::{KeyRange, Prefix, TableMeta};

/// The space of the ring.
const RING: u8 = 1;

/// A vnode, or a table in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Extent {
    /// The vnode.
    pub vnode: u16,
    /// The table; `None` = all of the vnode's.
    pub table: Option<u32>,
}

impl Extent {
    /// A whole vnode.
    pub fn vnode(vnode: u16) -> Extent {
        Extent { vnode, table: None }
    }

    /// A table in a vnode.
    pub fn table(vnode: u16, table: u32) -> Extent {
        Extent { vnode, table: Some(table) }
    }

    /// Its keys.
    pub fn range(&self) -> KeyRange {
        match self.table {
            Some(table) => KeyRange::table(RING, self.vnode, table),
            None => KeyRange::vnode(RING, self.vnode),
        }
    }

    /// Whether keys with this prefix are in it.
    #[inline]
    pub fn contains(&self, prefix: Prefix) -> bool {
        prefix.space == RING
            && prefix.vnode == self.vnode
            && self.table.is_none_or(|table| table == prefix.table)
    }

    /// Whether all keys of a table file are in it.
    pub(crate) fn encloses(&self, table: &TableMeta) -> bool {
        self.contains(table.smallest.prefix) && self.contains(table.largest.prefix)
    }

    /// Whether a table file may hold a key of it, going by its first and last.
    pub(crate) fn meets(&self, table: &TableMeta) -> bool {
        let range = self.range();
        table.smallest.as_key() < range.high() && table.largest.as_key() >= range.low()
    }

    /// Whether every key of `other` is in it.
    pub fn includes(&self, other: &Extent) -> bool {
        self.vnode == other.vnode && (self.table.is_none() || self.table == other.table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_hold_their_own_keys_and_no_others() {
        let prefix = |space, vnode, table| Prefix { space, vnode, table, token: 5 };
        let (vnode, table) = (Extent::vnode(3), Extent::table(3, 7));
        for (prefix, in_vnode, in_table) in [
            (prefix(1, 3, 7), true, true),
            (prefix(1, 3, 8), true, false),
            (prefix(1, 4, 7), false, false),
            (prefix(0, 3, 7), false, false),
        ] {
            assert_eq!((vnode.contains(prefix), table.contains(prefix)), (in_vnode, in_table));
            let key = crate::Key { prefix, partition: b"p", sort: b"" };
            let ranges = (vnode.range().contains(&key), table.range().contains(&key));
            assert_eq!(ranges, (in_vnode, in_table), "a range says the same");
        }
        assert!(vnode.includes(&table) && !table.includes(&vnode) && table.includes(&table));
    }
}
