//! What the engine counts.

use std::cell::Cell;

use super::Core;
use crate::manifest::LEVELS;
use crate::{Disk, Pace};

/// Counts since the engine was opened, and sizes at the moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes of all memtables, those being flushed included.
    pub memtable_bytes: u64,
    /// Bytes of memtables that wait for their flush.
    pub frozen_bytes: u64,
    /// Bytes of log segments that are needed.
    pub log_bytes: u64,
    /// Log groups written, marks included.
    pub groups: u64,
    /// Syncs of the log, counted where they are done: with each group, or in a periodic log as they are asked for.
    pub log_syncs: u64,
    /// Records made durable.
    pub records: u64,
    /// Tables of all stores, by level.
    pub tables: Vec<u64>,
    /// Their bytes, by level.
    pub table_bytes: Vec<u64>,
    /// Tables in level 0 of the store that has most.
    pub l0_tables_max: u64,
    /// Gets answered by a memtable.
    pub gets_memtable: u64,
    /// Gets answered by a table whose blocks were in memory.
    pub gets_cached: u64,
    /// Gets that found nothing, without asking the disk.
    pub gets_absent: u64,
    /// Gets that asked the disk.
    pub gets_disk: u64,
    /// Tables whose filter said that they may hold the key.
    pub filter_positives: u64,
    /// Those of them that did not hold it.
    pub filter_false_positives: u64,
    /// Bytes of tables written by flushes.
    pub flush_bytes: u64,
    /// Bytes of tables written by compactions.
    pub compaction_bytes: u64,
    /// Memtables flushed.
    pub flushes: u64,
    /// Compactions done.
    pub compactions: u64,
    /// Tables moved to the next level as they are.
    pub moves: u64,
    /// Blocks found in the cache.
    pub cache_hits: u64,
    /// Blocks not found in the cache.
    pub cache_misses: u64,
    /// Bytes of blocks in the cache.
    pub cache_bytes: u64,
    /// Bytes that stand above their level's limit: what compaction is behind by.
    pub debt_bytes: u64,
    /// Stores that are not compacted because a table of theirs is damaged.
    pub damaged_stores: u64,
    /// By how much the next write should be delayed so that background work keeps up, in microseconds.
    pub write_delay_us: u64,
    /// Writes are refused because the disk is full.
    pub disk_full: bool,
    /// Writes are refused because a sync failed.
    pub fenced: bool,
}

/// A count.
#[derive(Default)]
pub(super) struct Counter(Cell<u64>);

impl Counter {
    #[inline]
    pub(super) fn add(&self, more: u64) {
        self.0.set(self.0.get() + more);
    }

    fn get(&self) -> u64 {
        self.0.get()
    }
}

/// What is counted where it happens.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) records: Counter,
    pub(super) gets_memtable: Counter,
    pub(super) gets_cached: Counter,
    pub(super) gets_absent: Counter,
    pub(super) gets_disk: Counter,
    pub(super) filter_positives: Counter,
    pub(super) filter_false_positives: Counter,
    pub(super) flush_bytes: Counter,
    pub(super) compaction_bytes: Counter,
    pub(super) flushes: Counter,
    pub(super) compactions: Counter,
    pub(super) moves: Counter,
}

impl<D: Disk, P: Pace> Core<D, P> {
    pub(super) fn stats(&self) -> Stats {
        let counters = &self.counters;
        let (memtable_bytes, frozen_bytes, l0_tables_max) = {
            let stores = self.stores.borrow();
            (stores.active_bytes + stores.frozen_bytes, stores.frozen_bytes, stores.l0_tables_max())
        };
        let (tables, table_bytes) = {
            let catalog = self.manifest.catalog();
            let levels = |level: usize| catalog.stores.values().flat_map(move |store| &store.levels[level]);
            (
                (0..LEVELS).map(|level| levels(level).count() as u64).collect(),
                (0..LEVELS).map(|level| levels(level).map(|table| table.bytes).sum()).collect(),
            )
        };
        let cache = self.cache.stats();
        Stats {
            memtable_bytes: memtable_bytes as u64,
            frozen_bytes: frozen_bytes as u64,
            log_bytes: self.log.bytes(),
            groups: self.log.groups(),
            log_syncs: self.log.syncs(),
            records: counters.records.get(),
            tables,
            table_bytes,
            l0_tables_max: l0_tables_max as u64,
            gets_memtable: counters.gets_memtable.get(),
            gets_cached: counters.gets_cached.get(),
            gets_absent: counters.gets_absent.get(),
            gets_disk: counters.gets_disk.get(),
            filter_positives: counters.filter_positives.get(),
            filter_false_positives: counters.filter_false_positives.get(),
            flush_bytes: counters.flush_bytes.get(),
            compaction_bytes: counters.compaction_bytes.get(),
            flushes: counters.flushes.get(),
            compactions: counters.compactions.get(),
            moves: counters.moves.get(),
            cache_hits: cache.hits,
            cache_misses: cache.misses,
            cache_bytes: cache.bytes as u64,
            debt_bytes: self.debt_bytes.get(),
            damaged_stores: self.damaged_stores.borrow().len() as u64,
            write_delay_us: self.write_delay_us.get(),
            disk_full: self.disk_full.get(),
            fenced: self.fenced.get(),
        }
    }
}
