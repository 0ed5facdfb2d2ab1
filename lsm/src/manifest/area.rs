//! Quarantined areas: parts of tables that cannot be read, durably marked.

use std::rc::Rc;

use crate::{Key, KeyBuf, KeyRange, TableName};

/// A run of blocks of one table that is damaged, and the keys that may have been in it.
///
/// While its table is in the store's levels, reads come upon the blocks themselves. Once the table is gone, merged into
/// others without these blocks, the area is *detached*: then it stands for what was lost, and for no key in it is anything
/// an answer that is not newer than `order_max`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Area {
    pub(crate) table: TableName,
    /// The first block.
    pub(crate) block: u32,
    /// Their number.
    pub(crate) blocks: u32,
    /// The table is not among the store's any more.
    pub(crate) detached: bool,
    /// No record in it has an order above this.
    pub(crate) order_max: u64,
    /// The first key that may be in it.
    pub(crate) low: KeyBuf,
    /// The first key behind it.
    pub(crate) high: KeyBuf,
}

impl Area {
    /// Whether a key may have been in it.
    #[inline]
    pub(crate) fn contains(&self, key: &Key<'_>) -> bool {
        self.low.as_key() <= *key && *key < self.high.as_key()
    }

    /// Whether a key of a range may have been in it.
    pub(crate) fn meets(&self, range: &KeyRange) -> bool {
        self.low.as_key() < range.high() && range.low() < self.high.as_key()
    }

    /// What is left of it outside of a range: one part, or two, or nothing.
    pub(crate) fn without(self: Rc<Area>, range: &KeyRange) -> Vec<Rc<Area>> {
        if range.high() <= self.low.as_key() || self.high.as_key() <= range.low() {
            return vec![self];
        }
        let mut left = Vec::new();
        if self.low.as_key() < range.low() {
            left.push(Rc::new(Area { high: range.low().to_buf(), ..Area::clone(&self) }));
        }
        if range.high() < self.high.as_key() {
            left.push(Rc::new(Area { low: range.high().to_buf(), ..Area::clone(&self) }));
        }
        left
    }
}

/// The areas of a store, by table and first key. Shared, since every change of the manifest begins with a copy.
pub(crate) type Areas = Vec<Rc<Area>>;
