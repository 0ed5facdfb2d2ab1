//! What the engine counts.

use std::cell::Cell;

use super::{Core, Memory};
use crate::manifest::LEVELS;
use crate::{Disk, Pace, Seq};

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
    /// Number of the last record that reads find: the last of a durable group, or while that is being applied one in the middle of it.
    pub applied: Seq,
    /// Tables of all stores, by level.
    pub tables: Vec<u64>,
    /// Their bytes, by level.
    pub table_bytes: Vec<u64>,
    /// Tables in level 0 of the store that has most.
    pub l0_tables_max: u64,
    /// Gets answered by a memtable.
    pub gets_memtable: u64,
    /// Gets answered by a table whose blocks were in memory, and so was the value if it lies apart.
    pub gets_cached: u64,
    /// Gets that found nothing, without asking the disk.
    pub gets_absent: u64,
    /// Gets that asked the disk.
    pub gets_disk: u64,
    /// Tables whose filter said that they may hold the key.
    pub filter_positives: u64,
    /// Those of them that did not hold it.
    pub filter_false_positives: u64,
    /// Bytes of tables and value files written by flushes.
    pub flush_bytes: u64,
    /// Bytes of tables and value files written by compactions.
    pub compaction_bytes: u64,
    /// Bytes of tables read by compactions.
    pub compaction_read_bytes: u64,
    /// Bytes of keys and values made durable.
    pub written_bytes: u64,
    /// Bytes written to the log, its groups' padding included.
    pub log_written_bytes: u64,
    /// Bytes of values that compactions wrote anew because their file was mostly garbage.
    pub collected_bytes: u64,
    /// Value files of all stores.
    pub value_files: u64,
    /// Their bytes.
    pub value_bytes: u64,
    /// Bytes of the values in them that tables name.
    pub value_live_bytes: u64,
    /// By store.
    pub stores: Vec<StoreStats>,
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
    /// Values of value files found in the cache.
    pub cache_value_hits: u64,
    /// Values of value files read, since the cache did not have them.
    pub cache_value_misses: u64,
    /// Values of value files in the cache.
    pub cached_values: u64,
    /// Bytes of blocks and values in the cache.
    pub cache_bytes: u64,
    /// Gets answered by the record cache.
    pub record_cache_hits: u64,
    /// Gets that asked it in vain; where it is of little use, most gets do not ask.
    pub record_cache_misses: u64,
    /// Records that it let go of to make room.
    pub record_cache_evictions: u64,
    /// Records in it.
    pub cached_records: u64,
    /// What is in memory, by part.
    pub memory: Memory,
    /// Bytes that stand above their level's limit: what compaction is behind by.
    pub debt_bytes: u64,
    /// Files of which something is known to be damaged, or suspected to be.
    pub damaged_tables: u64,
    /// Runs of blocks that are quarantined.
    pub quarantined_areas: u64,
    /// Bytes scrubbed.
    pub scrubbed_bytes: u64,
    /// Times that scrubbing has been through everything.
    pub scrub_passes: u64,
    /// How far the pass is that goes on, in thousandths of the files.
    pub scrub_progress: u64,
    /// By how much a group of 64 KiB to the store that lags most would be delayed so that background work keeps up, in microseconds.
    pub write_delay_us: u64,
    /// Writes are refused because the disk is full.
    pub disk_full: bool,
    /// Writes are refused because a sync failed.
    pub fenced: bool,
}

impl Stats {
    /// Bytes written to the disk for each byte of keys and values written by callers, the log included; 0 before the first.
    pub fn write_amplification(&self) -> f64 {
        let written = self.log_written_bytes + self.flush_bytes + self.compaction_bytes;
        ratio(written, self.written_bytes)
    }

    /// Bytes of tables and value files for each byte of the stores' longest sorted runs, which hold about what is live; 1 where
    /// all is in one.
    pub fn space_amplification(&self) -> f64 {
        ratio(
            self.stores.iter().map(|store| store.table_bytes + store.value_bytes).sum(),
            self.stores.iter().map(|store| store.longest_run_bytes).sum(),
        )
    }

    /// Sorted runs that a get may have to ask, on average over the stores by their length.
    pub fn read_amplification(&self) -> f64 {
        let weighted = self.stores.iter().map(|store| store.runs.saturating_mul(store.table_bytes));
        ratio(weighted.fold(0, u64::saturating_add), self.stores.iter().map(|store| store.table_bytes).sum())
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// Figures of one store: counts since the engine was opened, and sizes at the moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Its number.
    pub store: u16,
    /// Bytes of keys and values applied to its memtables.
    pub written_bytes: u64,
    /// Bytes of its tables written by flushes.
    pub flush_bytes: u64,
    /// Bytes of its tables written by compactions.
    pub compaction_bytes: u64,
    /// Bytes of its tables.
    pub table_bytes: u64,
    /// Bytes of its value files.
    pub value_bytes: u64,
    /// Bytes of the values in them that tables name.
    pub value_live_bytes: u64,
    /// Bytes of its longest sorted run, the values that its tables name included.
    pub longest_run_bytes: u64,
    /// Its sorted runs: tables of level 0, and levels below that hold any.
    pub runs: u64,
    /// Tables in its level 0.
    pub l0_tables: u64,
    /// Bytes that stand above their level's limit.
    pub debt_bytes: u64,
}

impl StoreStats {
    /// As [`Stats::write_amplification`], without the log, which the stores of a core share.
    pub fn write_amplification(&self) -> f64 {
        ratio(self.flush_bytes + self.compaction_bytes, self.written_bytes)
    }

    /// As [`Stats::space_amplification`].
    pub fn space_amplification(&self) -> f64 {
        ratio(self.table_bytes + self.value_bytes, self.longest_run_bytes)
    }
}

/// What is counted of a store where it happens.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StoreCounts {
    pub(super) written_bytes: u64,
    pub(super) flush_bytes: u64,
    pub(super) compaction_bytes: u64,
    /// As the last survey found it.
    pub(super) debt_bytes: u64,
    /// As the last survey found it: length of its worst sorted level against its target, in thousandths.
    pub(super) level_score: u64,
}

/// A count.
#[derive(Default)]
pub(super) struct Counter(Cell<u64>);

impl Counter {
    #[inline]
    pub(super) fn add(&self, more: u64) {
        self.0.set(self.0.get() + more);
    }

    pub(super) fn get(&self) -> u64 {
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
    pub(super) compaction_read_bytes: Counter,
    pub(super) collected_bytes: Counter,
    pub(super) log_written_bytes: Counter,
    pub(super) flushes: Counter,
    pub(super) compactions: Counter,
    pub(super) moves: Counter,
    pub(super) quarantines: Counter,
}

impl<D: Disk, P: Pace> Core<D, P> {
    pub(super) fn stats(&self) -> Stats {
        let counters = &self.counters;
        let (memtable_bytes, frozen_bytes, l0_tables_max, applied) = {
            let stores = self.stores.borrow();
            let memtable_bytes = stores.active_bytes + stores.frozen_bytes;
            (memtable_bytes, stores.frozen_bytes, stores.l0_tables_max(), Seq(stores.applied))
        };
        let (tables, table_bytes) = {
            let catalog = self.manifest.catalog();
            let levels = |level: usize| catalog.stores.values().flat_map(move |store| &store.levels[level]);
            (
                (0..LEVELS).map(|level| levels(level).count() as u64).collect(),
                (0..LEVELS).map(|level| levels(level).map(|table| table.bytes).sum()).collect(),
            )
        };
        let stores = self.store_stats();
        let (cache, records) = (self.cache.stats(), self.records.stats());
        let value_files =
            self.manifest.catalog().stores.values().map(|store| store.values.len() as u64).sum();
        Stats {
            memtable_bytes: memtable_bytes as u64,
            frozen_bytes: frozen_bytes as u64,
            log_bytes: self.log.bytes(),
            groups: self.log.groups(),
            log_syncs: self.log.syncs(),
            records: counters.records.get(),
            applied,
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
            compaction_read_bytes: counters.compaction_read_bytes.get(),
            written_bytes: stores.iter().map(|store| store.written_bytes).sum(),
            log_written_bytes: counters.log_written_bytes.get(),
            collected_bytes: counters.collected_bytes.get(),
            value_files,
            value_bytes: stores.iter().map(|store| store.value_bytes).sum(),
            value_live_bytes: stores.iter().map(|store| store.value_live_bytes).sum(),
            stores,
            flushes: counters.flushes.get(),
            compactions: counters.compactions.get(),
            moves: counters.moves.get(),
            cache_hits: cache.hits,
            cache_misses: cache.misses,
            cache_value_hits: cache.value_hits,
            cache_value_misses: cache.value_misses,
            cached_values: cache.values as u64,
            cache_bytes: cache.bytes as u64,
            record_cache_hits: records.hits,
            record_cache_misses: records.misses,
            record_cache_evictions: records.evictions,
            cached_records: records.records as u64,
            memory: self.memory(),
            debt_bytes: self.debt_bytes.get(),
            damaged_tables: self.damaged_files(),
            quarantined_areas: self.quarantined().len() as u64,
            scrubbed_bytes: self.scrub.bytes(),
            scrub_passes: self.scrub.passes(),
            scrub_progress: self.scrub_progress(),
            write_delay_us: self.typical_delay_us(),
            disk_full: self.disk_full.get(),
            fenced: self.fenced.get(),
        }
    }

    fn store_stats(&self) -> Vec<StoreStats> {
        let (stores, catalog) = (self.stores.borrow(), self.manifest.catalog());
        let figures = |store: &super::store::Store<D>| {
            let counts = store.counts;
            let mut figures = StoreStats {
                store: store.number,
                written_bytes: counts.written_bytes,
                flush_bytes: counts.flush_bytes,
                compaction_bytes: counts.compaction_bytes,
                debt_bytes: counts.debt_bytes,
                ..StoreStats::default()
            };
            let Some(entry) = catalog.stores.get(&store.number) else { return figures };
            let l0 = entry.levels[0].chunks(1);
            let sorted = entry.levels[1..].iter().map(|tables| &tables[..]).filter(|run| !run.is_empty());
            for run in l0.chain(sorted) {
                let tables: u64 = run.iter().map(|table| table.bytes).sum();
                // What an older run names and this one supersedes is garbage, though its file counts it as live until they meet.
                let values: u64 = run.iter().flat_map(|table| &table.values).map(|share| share.bytes).sum();
                figures.runs += 1;
                figures.table_bytes += tables;
                figures.longest_run_bytes = figures.longest_run_bytes.max(tables + values);
            }
            figures.value_bytes = entry.values.values().map(|values| values.bytes).sum();
            figures.value_live_bytes = entry.value_shares().map(|share| share.bytes).sum();
            figures.l0_tables = entry.levels[0].len() as u64;
            figures
        };
        stores.stores.iter().map(figures).collect()
    }

    /// Changes the counts of a store.
    pub(super) fn count_of_store(&self, store: u16, count: impl FnOnce(&mut StoreCounts)) {
        let mut stores = self.stores.borrow_mut();
        let index = stores.index_of_store(store);
        count(&mut stores.stores[index].counts);
    }
}
