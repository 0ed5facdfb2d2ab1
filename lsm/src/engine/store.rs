//! The stores of a core, and which vnode lives in which.

use crate::{Key, Memtable, Record, RecordFlags};

/// All stores of a core.
pub(super) struct Stores {
    /// By vnode: the index of its store, or [`NOWHERE`].
    places: Vec<u16>,
    pub(super) stores: Vec<Store>,
    /// The highest sequence number applied.
    pub(super) applied: u64,
}

const NOWHERE: u16 = u16::MAX;

/// One LSM tree.
pub(super) struct Store {
    pub(super) number: u16,
    /// Takes writes.
    pub(super) active: Memtable,
    /// No order in a frozen memtable or a table is above this.
    pub(super) ceiling: u64,
}

impl Stores {
    pub(super) fn new(numbers: &[u16]) -> Stores {
        let stores =
            numbers.iter().map(|&number| Store { number, active: Memtable::new(), ceiling: 0 }).collect();
        Stores { places: Vec::new(), stores, applied: 0 }
    }

    pub(super) fn place(&mut self, vnode: u16, store: u16) {
        let index = self.stores.iter().position(|candidate| candidate.number == store);
        let index = index.expect("a store of this core");
        let vnode = usize::from(vnode);
        if self.places.len() <= vnode {
            self.places.resize(vnode + 1, NOWHERE);
        }
        self.places[vnode] = index as u16;
    }

    /// Where a key lives: space 0 in the first store, else where its vnode does.
    #[inline]
    pub(super) fn index_of(&self, key: &Key<'_>) -> Option<usize> {
        if key.prefix.space == 0 {
            return Some(0);
        }
        match self.places.get(usize::from(key.prefix.vnode)) {
            Some(&NOWHERE) | None => None,
            Some(&index) => Some(usize::from(index)),
        }
    }

    pub(super) fn number_of(&self, vnode: u16) -> Option<u16> {
        match self.places.get(usize::from(vnode)) {
            Some(&NOWHERE) | None => None,
            Some(&index) => Some(self.stores[usize::from(index)].number),
        }
    }
}

impl Store {
    /// Applies a durable record to the active memtable.
    pub(super) fn apply(&mut self, key: Key<'_>, mut record: Record<'_>) {
        record.flags.0 &= RecordFlags::OUTSIDE;
        if record.order > self.ceiling {
            record.flags.0 |= RecordFlags::DOMINATES;
        }
        self.active.insert(key, record);
    }
}
