//! What an engine is told when it opens: who it is, and the bound of every buffer, queue and level.

use std::collections::BTreeMap;

use super::memory::{CACHE_PART_MIN, MEMTABLES_MAX};
use super::outcome::OpenError;
use crate::compaction::Strategy;
use crate::layout::LayoutMark;
use crate::log::LogOptions;
use crate::memtable::{CHUNK_BYTES_MIN, Memtable};
use crate::{JoinByFlag, TableOptions};

/// Options of one core's engine. Sizes are in bytes.
#[derive(Clone, Debug)]
pub struct Options {
    /// The core; its log and manifest live in its directory.
    pub core: u16,
    /// The stores of this core. Stores may be added when the engine is opened again; one that holds data may not be left out.
    pub stores: Vec<u16>,
    /// The vnodes that this core will be asked for, in order. If others live here, or some of these do not although some
    /// do, opening is refused before anything is changed. Default `None`: whatever lives here.
    pub vnodes: Option<Vec<u16>>,
    /// What the manifest says of the node's layout; see [`crate::layout`]. Default `None`: it says nothing new.
    pub layout: Option<LayoutMark>,
    /// 128 random bits, fresh at each open: file ids and the log's life are derived from them.
    pub entropy: u128,
    /// What all parts of [`super::Memory`] may come to together. Default 512 MiB.
    pub memory_bytes: usize,
    /// The part of it that is kept for buffers of I/O: as much as the disk lends and keeps ready at most. Default 64 MiB.
    pub buffer_bytes: usize,
    /// Memtables of all stores together that are still being written to, before the largest is flushed; less where the other parts
    /// leave less than three times as much. Default 64 MiB.
    pub memtable_bytes: usize,
    /// Most bytes of the caches of blocks and records, for all stores together. Default: what the other parts leave.
    pub cache_bytes: usize,
    /// Most bytes of the record cache, which come out of those of the cache of blocks, at most half of them; `Some(0)` = there is none.
    /// Default `None`: a 64th of them, and at most 6 MiB.
    pub record_cache_bytes: Option<usize>,
    /// The log's format and bounds. `life` is derived from `entropy`, and `seq_min` is the engine's own: both are overwritten.
    pub log: LogOptions,
    /// The log's length from which the store that pins its oldest segment is flushed; at twice that, writes are refused. Default
    /// `None`: 4 × `memtable_bytes`, and at least 3 segments.
    pub log_bytes_max: Option<u64>,
    /// Format of new tables.
    pub table: TableOptions,
    /// How the tables of a store are merged. Any store may be given another strategy whenever it is opened. Default leveled.
    pub strategy: Strategy,
    /// Stores whose tables are merged otherwise.
    pub strategy_of: BTreeMap<u16, Strategy>,
    /// How sibling sets of a key become one. Default: the one with the higher (order, actor) stays.
    pub join: JoinByFlag,
    /// Values from this length on are kept apart from the tables, and are not copied by merges. Default `None`: all stay in tables.
    pub large_value_bytes: Option<usize>,
    /// Length at which a compaction starts its next table, and any writer its next value file. Default 32 MiB.
    pub table_bytes: u64,
    /// Tables in level 0 from which it is compacted, and with [`Strategy::Tiered`] runs of about one length that are merged. Default 6.
    pub l0_tables_trigger: usize,
    /// Tables in level 0 of a store from which its writers are delayed. Default 10.
    pub l0_tables_slow: usize,
    /// Tables in level 0 of a store from which its writes are refused. Default 28.
    pub l0_tables_max: usize,
    /// Most bytes of the first sorted level of one store, once it has more than one; it is not longer than what level 0 brings at once. Default 1 GiB.
    pub level_base_bytes: u64,
    /// How many times longer each level may be than the one above it before there is one more. Default 8.
    pub level_fanout: u64,
    /// Longest delay of a group of writes while background work is behind. Default 30,000 µs.
    pub write_delay_max_us: u64,
    /// Length of the manifest's edits from which it is written afresh. Default 1 MiB.
    pub manifest_bytes_max: u64,
}

impl Options {
    /// The defaults, for a core and its stores.
    pub fn new(core: u16, stores: Vec<u16>, entropy: u128) -> Options {
        Options {
            core,
            stores,
            vnodes: None,
            layout: None,
            entropy,
            memory_bytes: 512 << 20,
            buffer_bytes: 64 << 20,
            memtable_bytes: 64 << 20,
            cache_bytes: usize::MAX,
            record_cache_bytes: None,
            log: LogOptions::new(entropy as u64),
            log_bytes_max: None,
            table: TableOptions::default(),
            strategy: Strategy::default(),
            strategy_of: BTreeMap::new(),
            join: JoinByFlag::default(),
            large_value_bytes: None,
            table_bytes: 32 << 20,
            l0_tables_trigger: 6,
            l0_tables_slow: 10,
            l0_tables_max: 28,
            level_base_bytes: 1 << 30,
            level_fanout: 8,
            write_delay_max_us: 30_000,
            manifest_bytes_max: 1 << 20,
        }
    }

    /// The least `memtable_bytes` for so many stores. With less, writes would be refused for ever: the memtables that wait for nothing
    /// but a first record take more than what memtables may have.
    pub fn memtable_bytes_min(stores: usize) -> usize {
        least_memtables(stores).div_ceil(MEMTABLES_MAX)
    }

    /// The least `memory_bytes` with these stores, buffers, memtables and groups, while there are no tables. With less, writes would be
    /// refused for ever.
    pub fn memory_bytes_min(&self) -> usize {
        // Chunks of memtables and the least of the cache are parts of the budget, so a larger one needs more. It settles: chunks
        // have a greatest length, and from there on sixteen bytes of budget need one more.
        let mut least = 0;
        loop {
            let options = Options { memory_bytes: least, ..self.clone() };
            let beside = self.buffer_bytes + options.memtable_growth_bytes() + least / CACHE_PART_MIN;
            let needed = beside + least_memtables(self.stores.len());
            if needed <= least {
                return least;
            }
            least = needed;
        }
    }

    /// Whether an engine with these options could take writes.
    pub fn check(&self) -> Result<(), OpenError> {
        let too_little =
            |what, bytes, least| Err(OpenError::TooLittle { what, bytes: bytes as u64, least: least as u64 });
        let memtables = Options::memtable_bytes_min(self.stores.len());
        if self.memtable_bytes < memtables {
            return too_little("memtable_bytes", self.memtable_bytes, memtables);
        }
        let memory = self.memory_bytes_min();
        if self.memory_bytes < memory {
            return too_little("memory_bytes", self.memory_bytes, memory);
        }
        Ok(())
    }

    pub(super) fn log_bytes_max(&self) -> u64 {
        self.log_bytes_max.unwrap_or((4 * self.memtable_bytes as u64).max(3 * self.log.segment_bytes))
    }
}

/// What the memtables of so many stores take that hold nothing yet, and one that gets its first record.
fn least_memtables(stores: usize) -> usize {
    stores * Memtable::new().bytes() + CHUNK_BYTES_MIN
}
