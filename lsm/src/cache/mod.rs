//! The cache of blocks of a core: bounded in bytes, resistant to scans, one read per block however many wait for it.
//!
//! Eviction is S3-FIFO (Yang et al., SOSP 2023): a new block enters a small queue, and moves to the main one only if it was
//! hit meanwhile or was evicted a short while ago; the main queue gives blocks that were hit another round. A hit
//! therefore moves nothing: it is one hash probe, a counter and a reference count, and never allocates.
//!
//! - What the cache takes never exceeds its budget, its own tables included, and blocks that readers hold beyond their eviction. If
//!   those alone are more than a budget that was lowered, nothing else is kept until they are let go.
//! - Blocks are keyed by table number, which is never used again, and number of the block, so nothing is ever stale.
//! - Reads for large scans and compaction do not pass here.

mod flight;
mod slots;
#[cfg(test)]
mod tests;

use std::cell::{Cell, Ref, RefCell};

use flight::{Flights, Role};
use slots::Slots;

use crate::table::{Block, BlockHandle, Table};
use crate::{Class, Disk, ReadError};

/// What the cache did so far, and holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Lookups answered.
    pub hits: u64,
    /// Lookups not answered.
    pub misses: u64,
    /// Reads that waited for another's instead of making their own.
    pub coalesced: u64,
    /// Blocks evicted to make room.
    pub evictions: u64,
    /// Bytes of blocks held.
    pub bytes: usize,
    /// Bytes of blocks that were evicted while a reader held them, and are not known to be let go.
    pub pinned_bytes: usize,
    /// Bytes that it takes beside blocks.
    pub own_bytes: usize,
    /// Blocks held.
    pub blocks: usize,
}

/// A block among all of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct BlockKey {
    table: u64,
    block: u32,
}

impl BlockKey {
    #[inline]
    fn hash(self) -> u64 {
        let mixed = (self.table.rotate_left(32) ^ u64::from(self.block)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ mixed >> 29
    }
}

/// See the module. One per core, shared as `Rc`.
pub struct BlockCache {
    slots: RefCell<Slots>,
    flights: Flights,
    hits: Cell<u64>,
    misses: Cell<u64>,
    coalesced: Cell<u64>,
}

impl CacheStats {
    /// All bytes that it takes.
    pub fn all_bytes(&self) -> usize {
        self.bytes + self.pinned_bytes + self.own_bytes
    }
}

impl BlockCache {
    /// A cache that takes at most `budget_bytes`, and some KiB where that is less.
    pub fn new(budget_bytes: usize) -> BlockCache {
        BlockCache {
            slots: RefCell::new(Slots::new(budget_bytes)),
            flights: Flights::default(),
            hits: Cell::new(0),
            misses: Cell::new(0),
            coalesced: Cell::new(0),
        }
    }

    /// Changes its budget; evicts at once what is beyond a smaller one.
    pub fn resize(&self, budget_bytes: usize) {
        self.slots.borrow_mut().resize(budget_bytes);
    }

    /// A block, if it is held.
    #[inline]
    pub fn get(&self, table: u64, handle: BlockHandle) -> Option<Block> {
        let found = self.slots.borrow().get(BlockKey { table, block: handle.0 });
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.set(counter.get() + 1);
        found
    }

    /// A block, if it is held, without any effect on what is held for how long.
    pub(crate) fn peek(&self, table: u64, handle: BlockHandle) -> Option<Block> {
        self.slots.borrow().peek(BlockKey { table, block: handle.0 })
    }

    /// Asks for the memory that a lookup of this block reads first.
    #[inline]
    pub(crate) fn prefetch(&self, table: u64, handle: BlockHandle) {
        self.slots.borrow().prefetch(BlockKey { table, block: handle.0 });
    }

    /// A view of what is held, for several lookups in which nothing is inserted.
    #[inline]
    pub(crate) fn held(&self) -> Held<'_> {
        Held { cache: self, slots: self.slots.borrow() }
    }

    /// A block, held or read. Whoever asks for a block that is being read waits for that read; if its reader goes away, one
    /// of those who wait reads instead.
    pub async fn read<D: Disk>(
        &self,
        table: &Table<D>,
        handle: BlockHandle,
        class: Class,
    ) -> Result<Block, ReadError> {
        if let Some(block) = self.get(table.number(), handle) {
            return Ok(block);
        }
        self.read_missed(table, handle, class).await
    }

    /// As [`BlockCache::read`] after a [`BlockCache::get`] that found nothing, without counting that again.
    pub async fn read_missed<D: Disk>(
        &self,
        table: &Table<D>,
        handle: BlockHandle,
        class: Class,
    ) -> Result<Block, ReadError> {
        let key = BlockKey { table: table.number(), block: handle.0 };
        loop {
            match self.flights.join(key) {
                Role::Leader(lead) => {
                    // It may have landed between the caller's lookup and now.
                    let held = self.slots.borrow().get(key);
                    let result = match held {
                        Some(block) => Ok(block),
                        None => table.read_block(handle, class).await,
                    };
                    if let Ok(block) = &result {
                        self.slots.borrow_mut().insert(key, block.clone());
                    }
                    lead.land(result.clone());
                    return result;
                }
                Role::Follower(wait) => {
                    self.coalesced.set(self.coalesced.get() + 1);
                    if let Some(result) = wait.await {
                        return result;
                    }
                }
            }
        }
    }

    /// Puts a block in that was come by otherwise.
    pub fn insert(&self, table: u64, handle: BlockHandle, block: Block) {
        self.slots.borrow_mut().insert(BlockKey { table, block: handle.0 }, block);
    }

    /// Lets go of all blocks of a table that is gone.
    pub fn forget(&self, table: u64, blocks: u32) {
        let mut slots = self.slots.borrow_mut();
        (0..blocks).for_each(|block| slots.remove(BlockKey { table, block }));
    }

    /// What it did so far.
    pub fn stats(&self) -> CacheStats {
        let slots = self.slots.borrow();
        CacheStats {
            hits: self.hits.get(),
            misses: self.misses.get(),
            coalesced: self.coalesced.get(),
            evictions: slots.evictions(),
            bytes: slots.bytes(),
            pinned_bytes: slots.pinned_bytes(),
            own_bytes: slots.own_bytes(),
            blocks: slots.len(),
        }
    }
}

/// See [`BlockCache::held`].
pub(crate) struct Held<'a> {
    cache: &'a BlockCache,
    slots: Ref<'a, Slots>,
}

impl Held<'_> {
    /// The place of a block, if it is held. Counts as a hit of the block.
    #[inline]
    pub(crate) fn find(&self, table: u64, handle: BlockHandle) -> Option<usize> {
        self.slots.hit(BlockKey { table, block: handle.0 })
    }

    /// The block at a place that [`Held::find`] gave.
    #[inline]
    pub(crate) fn block(&self, place: usize) -> &Block {
        self.slots.at(place)
    }

    /// Counts lookups as answered.
    pub(crate) fn count_hits(&self, hits: u64) {
        self.cache.hits.set(self.cache.hits.get() + hits);
    }
}
