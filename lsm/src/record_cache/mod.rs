//! The record cache of a core, ahead of its trees: the records that are asked for most, each with its whole key.
//!
//! Why: a get of a cached block walks a memtable's sketch, filters, an index, a place of the block cache and the block. Where few keys
//! get most of the gets, theirs are answered from two places in memory, and a block that holds one of them need not be held at all.
//!
//! **Coherence.** What it says of a key is what the store would say:
//!
//! 1. A record enters only as the whole answer of tables: no memtable held its key, and the tables were, when it entered, those that
//!    had been asked ([`crate::Engine::read`] waits in between, and looks again). So no key is here and in a memtable.
//! 2. Whatever is applied to a memtable is removed from here by the same call, before anybody can read.
//! 3. What else changes answers, a drop of an extent and the end of an ingest, forgets the extent in the step that makes it seen.
//! 4. Flushes, merges and moves of a vnode to another store change no answer. A tombstone or an expired record may stay here when a
//!    merge has purged it: it says the same as nothing, and what the host promised of floors holds for its order.
//! 5. An entry stays when the block that it came from is quarantined later: it was verified, it was the newest version then, and
//!    anything newer would have removed it. When a quarantine is released everything is forgotten: from then on the stores are
//!    what replicas wrote again, and a record that they did not have must not come and go with this cache.
//! 6. Sibling sets stay out: a read of one joins all sources, and its answer is nobody's record. So do values that lie apart; the block
//!    cache has them.
//!
//! Scans and merges do not pass here.
//!
//! **Cost.** What is not worth caching should cost nothing. Of the answers that cached blocks gave one in [`ADMITTED_PART`] enters, and
//! all that asked the device. If of the last [`WINDOW`] lookups few were answered ([`HITS_PART`]), only one in [`SAMPLED_PART`] asks
//! here and may enter, until of those more are. It counts lookups, and knows no time.

mod entry;
mod shelf;
#[cfg(test)]
mod tests;

use std::cell::{Cell, Ref, RefCell};

use shelf::Shelf;

use crate::table::KeyHash;
use crate::{Extent, Key, Record};

/// Of the answers that needed no device, one in so many enters.
const ADMITTED_PART: u32 = 8;
/// Lookups after which it is decided anew whether all ask.
const WINDOW: u32 = 1024;
/// All lookups ask as long as one in so many was answered.
const HITS_PART: u32 = 8;
/// Otherwise one in so many asks.
const SAMPLED_PART: u32 = 32;

/// What the record cache did so far, and holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RecordCacheStats {
    /// Lookups answered.
    pub(crate) hits: u64,
    /// Lookups not answered. Those that did not ask are not counted.
    pub(crate) misses: u64,
    /// Records that went to make room.
    pub(crate) evictions: u64,
    /// Records held.
    pub(crate) records: usize,
}

/// See the module. One per core, shared as `Rc`.
#[derive(Default)]
pub(crate) struct RecordCache {
    shelf: RefCell<Shelf>,
    /// It has room for something.
    is_open: Cell<bool>,
    /// Few lookups are answered: most do not ask.
    is_vain: Cell<bool>,
    /// Lookups until the next that asks.
    passed_over: Cell<u32>,
    window_lookups: Cell<u32>,
    window_hits: Cell<u32>,
    offered: Cell<u32>,
    hits: Cell<u64>,
    misses: Cell<u64>,
}

impl RecordCache {
    /// Takes at most so many bytes from now on; nothing if that is less than a page and its buckets.
    pub(crate) fn resize(&self, budget: usize) {
        let mut shelf = self.shelf.borrow_mut();
        shelf.resize(budget);
        self.is_open.set(shelf.is_open());
    }

    /// Bytes that it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.shelf.borrow().bytes()
    }

    /// Whether so many lookups that come now are to ask, all of them.
    #[inline]
    pub(crate) fn asks(&self, lookups: u32) -> bool {
        if !self.is_open.get() {
            return false;
        }
        if !self.is_vain.get() {
            return true;
        }
        let left = self.passed_over.get();
        let asks = left < lookups;
        self.passed_over.set(if asks { (SAMPLED_PART - 1) * lookups } else { left - lookups });
        asks
    }

    /// Counts lookups that asked, and how many of them were answered.
    #[inline]
    pub(crate) fn count(&self, lookups: u32, hits: u32) {
        self.hits.set(self.hits.get() + u64::from(hits));
        self.misses.set(self.misses.get() + u64::from(lookups - hits));
        let (lookups, hits) = (self.window_lookups.get() + lookups, self.window_hits.get() + hits);
        if lookups < WINDOW {
            self.window_lookups.set(lookups);
            self.window_hits.set(hits);
        } else {
            self.is_vain.set(hits * HITS_PART < lookups);
            self.window_lookups.set(0);
            self.window_hits.set(0);
        }
    }

    /// What is held, to look into.
    #[inline]
    pub(crate) fn held(&self) -> HeldRecords<'_> {
        HeldRecords(self.shelf.borrow())
    }

    /// A lookup that asked was answered from memory otherwise: keeps the record now and then.
    #[inline]
    pub(crate) fn offer(&self, hash: KeyHash, key: &Key<'_>, record: &Record<'_>) {
        let offered = self.offered.get() + 1;
        self.offered.set(offered % ADMITTED_PART);
        if offered == ADMITTED_PART {
            self.keep(hash, key, record);
        }
    }

    /// Keeps a record, if it is not too long. Does nothing while somebody is shown another.
    #[inline(never)]
    pub(crate) fn keep(&self, hash: KeyHash, key: &Key<'_>, record: &Record<'_>) {
        if self.is_open.get()
            && let Ok(mut shelf) = self.shelf.try_borrow_mut()
        {
            shelf.insert(hash, key, record);
        }
    }

    /// Asks for what [`RecordCache::remove`] reads first.
    #[inline]
    pub(crate) fn prefetch(&self, key: &Key<'_>) {
        if self.is_open.get() {
            self.shelf.borrow().prefetch(KeyHash::of(key));
        }
    }

    /// A record of this key is applied.
    #[inline]
    pub(crate) fn remove(&self, key: &Key<'_>) {
        if self.is_open.get() {
            self.shelf.borrow_mut().remove(KeyHash::of(key), key);
        }
    }

    /// What an extent holds has changed. Walks everything.
    pub(crate) fn forget(&self, extent: Extent) {
        self.shelf.borrow_mut().forget(|prefix| extent.contains(prefix));
    }

    /// Lets go of every record.
    pub(crate) fn clear(&self) {
        self.shelf.borrow_mut().clear();
    }

    /// What it did so far.
    pub(crate) fn stats(&self) -> RecordCacheStats {
        let shelf = self.shelf.borrow();
        RecordCacheStats {
            hits: self.hits.get(),
            misses: self.misses.get(),
            evictions: shelf.evictions(),
            records: shelf.len(),
        }
    }
}

/// See [`RecordCache::held`].
pub(crate) struct HeldRecords<'a>(Ref<'a, Shelf>);

impl HeldRecords<'_> {
    /// Asks for what [`HeldRecords::approach`] reads.
    #[inline]
    pub(crate) fn prefetch(&self, hash: KeyHash) {
        self.0.prefetch(hash);
    }

    /// Whether the record of a key with this hash may be held; asks for it, if so.
    #[inline]
    pub(crate) fn approach(&self, hash: KeyHash) -> bool {
        self.0.approach(hash)
    }

    /// The record of a key, if it is held.
    #[inline]
    pub(crate) fn find(&self, hash: KeyHash, key: &Key<'_>) -> Option<Record<'_>> {
        self.0.find(hash, key)
    }
}
