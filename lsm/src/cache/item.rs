//! What the cache holds, and by which name: a block of a table, or a value of a value file.

use crate::table::{Block, BlockHandle};
use crate::values::{Pointer, Resolved};

/// A block larger than this part of the budget is not kept (a divisor).
const BLOCK_PART: usize = 8;
/// A value larger than this part of the budget is not kept (a divisor): the small queue, a tenth of it, is to hold several.
const VALUE_PART: usize = 32;
/// Bytes of a block's allocation beside its own: two counts.
const BLOCK_HEADER_BYTES: usize = 16;
/// Values start further apart than this in their file, for each has a header: so many bytes to a number.
const VALUE_APART_BYTES: u64 = 32;

/// An item among all of a node: tables and value files are numbered by one counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ItemKey {
    pub(super) file: u64,
    /// Of a block its number, of a value where it starts.
    pub(super) part: u32,
}

impl ItemKey {
    #[inline]
    pub(super) fn block(table: u64, handle: BlockHandle) -> ItemKey {
        ItemKey { file: table, part: handle.0 }
    }

    /// `None` so far behind in a file that numbers end: what is there is read each time.
    #[inline]
    pub(super) fn value(pointer: &Pointer) -> Option<ItemKey> {
        let part = u32::try_from(pointer.offset / VALUE_APART_BYTES).ok()?;
        Some(ItemKey { file: pointer.file, part })
    }

    #[inline]
    pub(super) fn hash(self) -> u64 {
        let mixed = (self.file.rotate_left(32) ^ u64::from(self.part)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ mixed >> 29
    }
}

/// What a place holds. A place is half a cache line, so this is two words, which a block takes: a value takes one, and nothing is
/// the lack of a value.
pub(super) enum Item {
    Block(Block),
    Value(Option<Resolved>),
}

const _: () = assert!(size_of::<Item>() == 16);

impl Item {
    pub(super) const NONE: Item = Item::Value(None);

    #[inline]
    pub(super) fn is_none(&self) -> bool {
        matches!(self, Item::Value(None))
    }

    #[inline]
    pub(super) fn as_block(&self) -> Option<&Block> {
        match self {
            Item::Block(block) => Some(block),
            Item::Value(_) => None,
        }
    }

    #[inline]
    pub(super) fn as_value(&self) -> Option<&Resolved> {
        match self {
            Item::Block(_) => None,
            Item::Value(value) => value.as_ref(),
        }
    }

    pub(super) fn is_value(&self) -> bool {
        self.as_value().is_some()
    }

    /// Whether a reader holds it, too.
    pub(super) fn is_shared(&self) -> bool {
        match self {
            Item::Block(block) => block.is_shared(),
            Item::Value(value) => value.as_ref().is_some_and(Resolved::is_shared),
        }
    }

    /// Bytes it keeps in memory.
    pub(super) fn cost(&self) -> usize {
        match self {
            Item::Block(block) => block.bytes() + BLOCK_HEADER_BYTES,
            Item::Value(value) => value.as_ref().map_or(0, Resolved::memory_bytes),
        }
    }

    /// The most of its kind that is kept under a budget.
    pub(super) fn cost_max(&self, budget: usize) -> usize {
        match self {
            Item::Block(_) => budget / BLOCK_PART,
            Item::Value(_) => budget / VALUE_PART,
        }
    }
}
