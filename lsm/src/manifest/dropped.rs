//! Dropped extents: what of a store's files and of the log is dead, until nothing of it is left.
//!
//! A drop holds for exactly the tables that it names, which are those that the store had then, and for log records up to a
//! sequence number. What is written later, flushed or merged has other numbers and is not touched; so a vnode that was dropped
//! and comes back shows nothing of before, and no table needs to say how old its records are.

use std::collections::BTreeMap;

use super::Catalog;
use super::format::Edit;
use crate::{Extent, Prefix};

/// A drop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dropped {
    /// Records of the log up to this number are dead.
    pub(crate) seq: u64,
    /// Numbers of the tables whose records in the extent are dead, in order; of those that are gone nothing follows.
    pub(crate) tables: Vec<u64>,
}

/// The drops of a store.
pub(crate) type Drops = BTreeMap<Extent, Dropped>;

/// The drop that hides records with this prefix from a source of which `is_of` says that it belongs to the drop.
pub(crate) fn hides(drops: &Drops, prefix: Prefix, is_of: impl Fn(&Dropped) -> bool) -> bool {
    if prefix.space == 0 {
        return false;
    }
    let extents = [Extent::vnode(prefix.vnode), Extent::table(prefix.vnode, prefix.table)];
    extents.iter().filter_map(|extent| drops.get(extent)).any(is_of)
}

impl Catalog {
    /// Whether a record of the log was dropped.
    pub(crate) fn is_dropped(&self, prefix: Prefix, seq: u64) -> bool {
        self.stores.values().any(|store| hides(&store.drops, prefix, |dropped| seq <= dropped.seq))
    }

    /// The highest sequence number for which a drop holds; 0 without any.
    pub(crate) fn dropped_through(&self) -> u64 {
        self.stores
            .values()
            .flat_map(|store| store.drops.values())
            .map(|dropped| dropped.seq)
            .max()
            .unwrap_or(0)
    }

    /// What may be forgotten: drops whose tables are gone, and whose records no replay will see.
    pub(crate) fn spent_drops(&self) -> Vec<Edit> {
        let mut spent = Vec::new();
        for (&store, entry) in &self.stores {
            for (&extent, dropped) in &entry.drops {
                if self.log_floor > dropped.seq && !entry.names_any(&dropped.tables) {
                    spent.push(Edit::ForgetDrop { store, extent, seq: dropped.seq });
                }
            }
        }
        spent
    }
}
