//! How large a vnode, or a table in it, is: from the tables' indexes and the memtables, without reading the disk.

use super::Core;
use crate::{Disk, Extent, Pace};

/// About how much an extent holds.
///
/// A key counts once for each source that holds a version of it, tombstones and expired records included: beside what is live it
/// shows what merges will drop. What a table holds is right to within two blocks of it, as far as its keys are spread evenly over
/// its bytes (which tables with records of very different lengths in one vnode are not); what was dropped is not counted, unless it
/// is a table and the estimate is of its vnode; of a memtable 1,024 keys of each table are counted, and the density of more than these is taken from them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Keys with their versions.
    pub keys: u64,
    /// Bytes: of table files their share, of value files what is pointed to, of memtables keys and values.
    pub bytes: u64,
    /// By how much the share of table files may be wrong, in bytes: at most one block of each that lies in it only partly.
    pub error_bytes: u64,
}

impl<D: Disk, P: Pace> Core<D, P> {
    /// See [`super::Engine::estimate`].
    pub(super) fn estimate(&self, extent: Extent) -> Estimate {
        let stores = self.stores.borrow();
        let range = extent.range();
        let mut estimate = Estimate::default();
        let Some(index) = stores.index_of(&range.low()) else { return estimate };
        let store = &stores.stores[index];
        let prefix = range.low().prefix;
        let frozen = store.frozen.iter().filter(|frozen| store.levels.shows_frozen(frozen.through, prefix));
        let frozen = frozen.map(|frozen| &*frozen.memtable);
        for memtable in std::iter::once(&store.active).chain(frozen) {
            let share = memtable.share(&range);
            estimate.keys += share.keys;
            estimate.bytes += share.bytes;
        }
        for table in store.levels.runs_in(&range).flatten().filter(|table| store.levels.shows(table, prefix))
        {
            let share = table.share(&range);
            estimate.keys += share.entries;
            estimate.bytes += share.bytes + share.value_bytes;
            estimate.error_bytes += share.error_bytes;
        }
        estimate
    }
}
