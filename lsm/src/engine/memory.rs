//! What the engine of a core keeps in memory, part by part.

use super::Core;
use crate::{Disk, Pace};

/// Bytes that the engine of a core has in memory at the moment, by what they are for, and what they may come to.
///
/// Not in it: the engine's own structures, which have a size that no load changes, what its caller makes of a record, and the
/// blocks and values in the hands of reads and scans under way, which the host bounds by their number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// What the parts may come to together: [`super::Options::memory_bytes`].
    pub budget_bytes: u64,
    /// Memtables: those that are written to, those that wait for their flush, and flushed ones that a scan still walks.
    pub memtable_bytes: u64,
    /// The block cache: its blocks, those evicted that a reader still holds, and its own tables.
    pub cache_bytes: u64,
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
        self.memtable_bytes + self.cache_bytes + self.table_bytes + self.build_bytes + self.buffer_bytes
    }
}

impl<D: Disk, P: Pace> Core<D, P> {
    /// What there is at the moment.
    pub(super) fn memory(&self) -> Memory {
        let memtable_bytes = self.stores.borrow_mut().memory_bytes();
        Memory {
            budget_bytes: self.options.memory_bytes as u64,
            memtable_bytes: memtable_bytes as u64,
            cache_bytes: self.cache.stats().bytes as u64,
            table_bytes: self.open_bytes.get() as u64,
            build_bytes: self.build_bytes.get() as u64,
            buffer_bytes: self.disk.buffer_bytes() as u64,
        }
    }

    /// Counts anew what the open tables keep in memory. Called after each change of them.
    pub(super) fn count_tables(&self) {
        let named: usize = self.tables.borrow().values().map(|table| table.memory_bytes()).sum();
        self.open_bytes.set(named + self.obsolete.borrow().memory_bytes());
    }
}
