//! One budget of memory for a core: who gets how much of it, and what there is.
//!
//! Each part of [`Memory`] takes what it must, in this order, and what comes last gives way:
//!
//! 1. *Buffers* have their share set aside, whether they use it or not: they come and go within one step.
//! 2. *Open tables* keep filter and index in memory: what they take follows from the data. *Builds* follow from the merges.
//! 3. *Memtables* get at most what those two and the least of the cache leave. A third of it at most is written to before the
//!    largest is frozen, so that the pressure of [`super::pressure`], which begins at half and ends at all of it, has something to
//!    work with. What a group may add is set aside. With nothing left at all, writes are refused: reads need no more memory.
//! 4. *The record cache* and *the block cache* have what is left at the moment, the former a small part of it. They are resized
//!    whenever one of the others has changed, and evict at once, so the sum never exceeds the budget; and the block cache is what
//!    grows when nothing else needs the memory.
//!
//! Two things break it, and both show in [`Memory`]: tables that alone are larger than the budget, and a log that is recovered
//! under a smaller budget than it was written under. Then there is no cache, and no writes are taken until flushes or merges
//! have helped.

use super::{Core, Options};
use crate::planted::{self, Bug};
use crate::{Disk, Pace, memtable};

/// Memtables may take this many times what they take before the largest is frozen.
pub(super) const MEMTABLES_MAX: usize = 3;
/// Least memtables that are written to before the largest is frozen, in bytes: with less, level 0 would be dust.
const MEMTABLE_BYTES_MIN: usize = 256 << 10;
/// Least cache that memtables leave, as a part of the budget (a divisor).
pub(super) const CACHE_PART_MIN: usize = 16;
/// Part of the caches that is the record cache's, without a setting (a divisor).
const RECORD_CACHE_PART: usize = 64;
/// And the most that it takes then: what is asked for most, where few keys are, fits; where many are, it is of no use.
const RECORD_CACHE_BYTES_MAX: usize = 6 << 20;
/// With a setting, part of the caches that it takes at most (a divisor).
const RECORD_CACHE_PART_MAX: usize = 2;
/// A table ends when building it takes this part of the budget (a divisor), whatever its length.
const BUILD_PART_MAX: usize = 16;
/// Bytes of memtables for a byte of a group: the smallest records are a few bytes there, and a node's entry here.
const GROUP_GROWTH: usize = 4;
/// Memtables take memory in chunks of this part of the budget at most (a divisor).
const CHUNKS_MIN: usize = 512;
/// A memtable's sketch doubles with it; the new one is at most this part of all memtables (a divisor).
const SKETCH_PART: usize = 16;

/// Bytes that the engine of a core has in memory at the moment, by what they are for, and what they may come to.
///
/// Not in it: the engine's own structures, which have a size that no load changes, what its caller makes of a record, and the
/// blocks and values in the hands of reads, scans and merges under way, which are bounded by their number: of a scan, runs of
/// blocks and of records of memtables, a quarter of a MiB of each source, or one record where that is longer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// What the parts may come to together: [`super::Options::memory_bytes`].
    pub budget_bytes: u64,
    /// Memtables: those that are written to, those that wait for their flush, and flushed ones that a scan still walks.
    pub memtable_bytes: u64,
    /// The cache: its blocks and large values, those evicted that a reader still holds, and its own tables.
    pub cache_bytes: u64,
    /// The record cache: its records, and its own tables.
    pub record_cache_bytes: u64,
    /// Filters, indexes and descriptions of the open tables.
    pub table_bytes: u64,
    /// Tables and value files under construction: their indexes, filters to be, and what is not written yet.
    pub build_bytes: u64,
    /// Buffers of I/O, lent or ready: those of the log, in which groups are staged, of reads, flushes and merges.
    pub buffer_bytes: u64,
}

impl Memory {
    /// All parts together, in bytes.
    pub fn used_bytes(&self) -> u64 {
        let caches = self.cache_bytes + self.record_cache_bytes;
        self.memtable_bytes + caches + self.table_bytes + self.build_bytes + self.buffer_bytes
    }
}

impl Options {
    /// Largest chunks in which memtables take memory: many stores may take one each at once.
    pub(super) fn chunk_bytes(&self) -> usize {
        (self.memory_bytes / CHUNKS_MIN).clamp(memtable::CHUNK_BYTES_MIN, memtable::CHUNK_BYTES_MAX)
    }

    /// What memtables may grow by between two looks at the budget: the group that is applied and the one that fills, and what
    /// memtables take ahead of need.
    pub(super) fn memtable_growth_bytes(&self) -> usize {
        let ahead = self.stores.len() * (self.chunk_bytes() + memtable::STEP_BYTES);
        self.applied_bytes_max() + ahead + self.memtable_bytes / SKETCH_PART
    }

    /// Most bytes that a group comes to in memtables.
    pub(super) fn applied_bytes_max(&self) -> usize {
        GROUP_GROWTH * self.log.group_bytes
    }
}

impl<D: Disk, P: Pace> Core<D, P> {
    /// What there is at the moment.
    pub(super) fn memory(&self) -> Memory {
        Memory {
            budget_bytes: self.options.memory_bytes as u64,
            memtable_bytes: self.stores.borrow().memory_bytes() as u64,
            cache_bytes: self.cache.stats().all_bytes() as u64,
            record_cache_bytes: self.records.bytes() as u64,
            table_bytes: self.open_bytes.get() as u64,
            build_bytes: self.build_bytes.get() as u64,
            buffer_bytes: self.disk.buffer_bytes() as u64,
        }
    }

    /// What memtables and the caches may have together.
    fn shared_bytes(&self) -> usize {
        let buffers = self.options.buffer_bytes.max(self.disk.buffer_bytes());
        let taken = buffers + self.open_bytes.get() + self.build_bytes.get();
        (self.options.memory_bytes).saturating_sub(taken + self.options.memtable_growth_bytes())
    }

    /// What memtables may come to that are written to, before the largest is frozen.
    pub(super) fn memtable_target_bytes(&self) -> usize {
        let cache_min = self.options.memory_bytes / CACHE_PART_MIN;
        let room = self.shared_bytes().saturating_sub(cache_min) / MEMTABLES_MAX;
        self.options.memtable_bytes.min(room.max(MEMTABLE_BYTES_MIN))
    }

    /// Whether memtables of so many bytes leave no room for another group.
    pub(super) fn is_memory_spent(&self, memtable_bytes: usize) -> bool {
        memtable_bytes > self.shared_bytes()
    }

    /// Gives the caches what the other parts leave. Called after each change of them.
    pub(super) fn share_memory(&self, memtable_bytes: usize) {
        let left = self.shared_bytes().saturating_sub(memtable_bytes);
        let kept = if planted::active(Bug::CacheKeepsItsShare) { self.cache.stats().all_bytes() } else { 0 };
        let caches = left.min(self.options.cache_bytes);
        let records = match self.options.record_cache_bytes {
            Some(bytes) => bytes.min(caches / RECORD_CACHE_PART_MAX),
            None => (caches / RECORD_CACHE_PART).min(RECORD_CACHE_BYTES_MAX),
        };
        self.records.resize(records);
        self.cache.resize((caches - records).max(kept));
    }

    /// Counts anew what the open tables keep in memory. Called after each change of them.
    pub(super) fn count_tables(&self) {
        let named: usize = self.tables.borrow().values().map(|table| table.memory_bytes()).sum();
        self.open_bytes.set(named + self.obsolete.borrow().memory_bytes());
        let memtable_bytes = self.stores.borrow().claimed_bytes();
        self.share_memory(memtable_bytes);
    }

    /// Counts what a build takes: `before` of it was counted, and is not any more.
    pub(super) fn count_build(&self, before: usize, now: usize) {
        self.build_bytes.set(self.build_bytes.get() - before + now);
        let memtable_bytes = self.stores.borrow().claimed_bytes();
        self.share_memory(memtable_bytes);
    }

    /// Most bytes that a table may take while it is built.
    pub(super) fn build_bytes_max(&self) -> usize {
        self.options.memory_bytes / BUILD_PART_MAX
    }
}
