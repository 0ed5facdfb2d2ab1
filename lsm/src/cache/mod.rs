//! The cache of blocks and large values of a core: bounded in bytes, resistant to scans, one read of each however many wait for it.
//!
//! Values that lie apart from their tables ([`crate::ValueFile`]) are held as their readers see them, decompressed, under the same
//! budget and in the same queues as blocks.
//!
//! Eviction is S3-FIFO (Yang et al., SOSP 2023): a new block or value enters a small queue, and moves to the main one only if it was
//! hit meanwhile or was evicted a short while ago; the main queue gives those that were hit another round. A hit
//! therefore moves nothing: it is one hash probe, a counter and a reference count, and never allocates.
//!
//! - What the cache takes never exceeds its budget, its own tables included, and what readers hold beyond their eviction. If
//!   those alone are more than a budget that was lowered, nothing else is kept until they are let go.
//! - Blocks are keyed by table number, which is never used again, and number of the block; values by the number of their file, from
//!   the same counter, and where they lie. Both are written once, so nothing is ever stale.
//! - A value that is a large part of the budget is not kept.
//! - Reads for large scans and compaction do not pass here. What a flush or a merge writes does where it takes the place of, or comes
//!   to lie beside, blocks in use: a merge changes no answer, and would otherwise have each of them read from the device again.

mod flight;
mod item;
mod places;
mod slots;
#[cfg(test)]
mod tests;

use std::cell::{Cell, Ref, RefCell};
use std::ops::Range;

use flight::{Flights, Role};
use item::{Item, ItemKey};
use slots::Slots;

use crate::table::{Block, BlockHandle, Table};
use crate::values::{Pointer, Resolved};
use crate::{Class, Disk, ReadError, ValueFile};

/// Places that are looked through at once for values of files that are gone: some tens of microseconds' work.
const PLACES_AT_ONCE: usize = 8192;
/// Turns in its queues that are looked at in one [`BlockCache::tidy`]: as much.
const TURNS_AT_ONCE: usize = 1024;

/// What the cache did so far, and holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Lookups of blocks answered.
    pub hits: u64,
    /// Lookups of blocks not answered.
    pub misses: u64,
    /// Lookups of values answered.
    pub value_hits: u64,
    /// Reads of values that were not held.
    pub value_misses: u64,
    /// Reads that waited for another's instead of making their own.
    pub coalesced: u64,
    /// Blocks and values evicted to make room.
    pub evictions: u64,
    /// Bytes of blocks and values held.
    pub bytes: usize,
    /// Bytes of what was evicted while a reader held them, and are not known to be let go.
    pub pinned_bytes: usize,
    /// Bytes that it takes beside those.
    pub own_bytes: usize,
    /// Blocks held.
    pub blocks: usize,
    /// Values held.
    pub values: usize,
}

/// See the module. One per core, shared as `Rc`.
pub struct BlockCache {
    slots: RefCell<Slots>,
    flights: Flights<Block>,
    value_flights: Flights<Resolved>,
    hits: Cell<u64>,
    misses: Cell<u64>,
    value_hits: Cell<u64>,
    value_misses: Cell<u64>,
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
            value_flights: Flights::default(),
            hits: Cell::new(0),
            misses: Cell::new(0),
            value_hits: Cell::new(0),
            value_misses: Cell::new(0),
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
        let found = self.held_block(ItemKey::block(table, handle));
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.set(counter.get() + 1);
        found
    }

    /// A block, if it is held, without any effect on what is held for how long.
    pub(crate) fn peek(&self, table: u64, handle: BlockHandle) -> Option<Block> {
        self.slots.borrow().peek(ItemKey::block(table, handle))?.as_block().cloned()
    }

    /// Asks for the memory that a lookup of this block reads first.
    #[inline]
    pub(crate) fn prefetch(&self, table: u64, handle: BlockHandle) {
        self.slots.borrow().prefetch(ItemKey::block(table, handle));
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
        let key = ItemKey::block(table.number(), handle);
        loop {
            match self.flights.join(key) {
                Role::Leader(lead) => {
                    // It may have landed between the caller's lookup and now.
                    let result = match self.held_block(key) {
                        Some(block) => Ok(block),
                        None => table.read_block(handle, class).await,
                    };
                    if let Ok(block) = &result {
                        self.slots.borrow_mut().insert(key, Item::Block(block.clone()));
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
        self.slots.borrow_mut().insert(ItemKey::block(table, handle), Item::Block(block));
    }

    /// Whether a block is held and was asked for since it came, or since it last had to be judged whether it may stay.
    pub(crate) fn is_in_use(&self, table: u64, handle: BlockHandle) -> bool {
        self.slots.borrow().is_in_use(ItemKey::block(table, handle))
    }

    /// Puts a block in that takes the place of one in use, and inherits its standing.
    pub(crate) fn succeed(&self, table: u64, handle: BlockHandle, block: Block) {
        self.slots.borrow_mut().succeed(ItemKey::block(table, handle), Item::Block(block));
    }

    /// Lets go of blocks of a table that is gone, by their numbers. Whoever has many of them gives them a few hundred at a time, lets
    /// others run in between, and tidies up at last.
    pub fn forget(&self, table: u64, blocks: Range<u32>) {
        let mut slots = self.slots.borrow_mut();
        blocks.for_each(|block| slots.remove(ItemKey::block(table, BlockHandle(block))));
    }

    /// Clears away a part of what many removals leave behind in the queues, which an eviction would have to pass over at once. Whether
    /// there is more to do.
    pub(crate) fn tidy(&self) -> bool {
        self.slots.borrow_mut().tidy(TURNS_AT_ONCE)
    }

    #[inline]
    fn held_block(&self, key: ItemKey) -> Option<Block> {
        self.slots.borrow().get(key)?.as_block().cloned()
    }

    /// A value, if it is held.
    pub(crate) fn get_value(&self, pointer: &Pointer) -> Option<Resolved> {
        let found = self.held_value(ItemKey::value(pointer)?, pointer)?;
        self.value_hits.set(self.value_hits.get() + 1);
        Some(found)
    }

    /// A value, if it is held, without any effect on what is held for how long.
    pub(crate) fn peek_value(&self, pointer: &Pointer) -> Option<Resolved> {
        let slots = self.slots.borrow();
        slots.peek(ItemKey::value(pointer)?)?.as_value().filter(|value| value.is_of(pointer)).cloned()
    }

    /// The value of a pointer into `file`, held or read, as [`BlockCache::read`] does.
    pub(crate) async fn read_value<D: Disk>(
        &self,
        file: &ValueFile<D>,
        pointer: &Pointer,
        class: Class,
    ) -> Result<Resolved, ReadError> {
        let Some(key) = ItemKey::value(pointer) else { return file.read(pointer, class).await };
        if let Some(value) = self.get_value(pointer) {
            return Ok(value);
        }
        self.value_misses.set(self.value_misses.get() + 1);
        loop {
            match self.value_flights.join(key) {
                Role::Leader(lead) => {
                    let result = match self.held_value(key, pointer) {
                        Some(value) => Ok(value),
                        None => file.read(pointer, class).await,
                    };
                    if let Ok(value) = &result {
                        self.slots.borrow_mut().insert(key, Item::Value(Some(value.clone())));
                    }
                    lead.land(result.clone());
                    return result;
                }
                Role::Follower(wait) => {
                    self.coalesced.set(self.coalesced.get() + 1);
                    match wait.await {
                        // A pointer that is not as it was written leads elsewhere, and is told so.
                        Some(Ok(value)) if !value.is_of(pointer) => return file.read(pointer, class).await,
                        Some(result) => return result,
                        None => {}
                    }
                }
            }
        }
    }

    /// Lets go of the values of files that are gone, a part of the cache at a time: gives where the next call goes on, `None` at the end.
    pub(crate) fn forget_values(&self, files: &[u64], from: usize) -> Option<usize> {
        self.slots.borrow_mut().remove_values(files, from, PLACES_AT_ONCE)
    }

    fn held_value(&self, key: ItemKey, pointer: &Pointer) -> Option<Resolved> {
        self.slots.borrow().get(key)?.as_value().filter(|value| value.is_of(pointer)).cloned()
    }

    /// What it did so far.
    pub fn stats(&self) -> CacheStats {
        let slots = self.slots.borrow();
        CacheStats {
            hits: self.hits.get(),
            misses: self.misses.get(),
            value_hits: self.value_hits.get(),
            value_misses: self.value_misses.get(),
            coalesced: self.coalesced.get(),
            evictions: slots.evictions(),
            bytes: slots.bytes(),
            pinned_bytes: slots.pinned_bytes(),
            own_bytes: slots.own_bytes(),
            blocks: slots.len() - slots.values(),
            values: slots.values(),
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
        self.slots.hit(ItemKey::block(table, handle))
    }

    /// The block at a place that [`Held::find`] gave.
    #[inline]
    pub(crate) fn block(&self, place: usize) -> &Block {
        self.slots.at(place).as_block().expect("a place of a block")
    }

    /// Counts lookups as answered.
    pub(crate) fn count_hits(&self, hits: u64) {
        self.cache.hits.set(self.cache.hits.get() + hits);
    }
}
