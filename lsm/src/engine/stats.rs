//! What the engine counts.

use std::cell::Cell;

/// Counts since the engine was opened, and sizes at the moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes of all memtables, those being flushed included.
    pub memtable_bytes: u64,
    /// Bytes of memtables that wait for their flush.
    pub frozen_bytes: u64,
    /// Bytes of log segments that are needed.
    pub log_bytes: u64,
    /// Log groups made durable.
    pub groups: u64,
    /// Syncs of the log.
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
    /// By how much the next write should be delayed so that background work keeps up, in microseconds.
    pub write_delay_us: u64,
    /// Writes are refused because the disk is full.
    pub disk_full: bool,
    /// Writes are refused because a sync failed.
    pub fenced: bool,
}

/// The counters behind [`Stats`].
#[derive(Default)]
pub(super) struct Counters {
    gets_memtable: Cell<u64>,
    gets_absent: Cell<u64>,
}

impl Counters {
    #[inline]
    pub(super) fn count_memtable(&self, found: bool) {
        let counter = if found { &self.gets_memtable } else { &self.gets_absent };
        counter.set(counter.get() + 1);
    }

    pub(super) fn stats(&self) -> Stats {
        Stats {
            gets_memtable: self.gets_memtable.get(),
            gets_absent: self.gets_absent.get(),
            ..Stats::default()
        }
    }
}
