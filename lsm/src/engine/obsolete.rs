//! Tables and value files that nothing names any more, until they are gone.
//!
//! A dropped table may still serve reads that began before; it is unlinked when the last of them has ended,
//! and the value files that it points into not before it. A file whose
//! edit is *in doubt* ([`super::doubt`]) stays until a later change of
//! the manifest, which begins a new file, has settled that it is not named. A table with a quarantined area stays on the disk
//! when it is dropped: there may be something to save in it. So do the value files that it points into, which the manifest names then.
//!
//! What is left of a table in memory, its index, its filter and its blocks in the cache, goes a part at a time, and others run in
//! between: a merge of many long tables leaves some ten thousands of blocks. How far that is stands here, so that it is gone on with
//! when whoever does it is dropped half-way.

use std::ops::Range;
use std::rc::Rc;

use crate::planted::{self, Bug};
use crate::table::Table;
use crate::{BlockCache, Disk, DiskError, DiskErrorKind, FileName, NameOp};

/// See the module.
pub(super) struct Obsolete<D: Disk> {
    /// Dropped from the manifest; perhaps still read.
    dropped: Vec<Dropped<D>>,
    /// Value files dropped from the manifest; perhaps still named by tables above.
    dropped_values: Vec<FileName>,
    /// Named by a change that is in doubt.
    doubtful: Vec<FileName>,
    /// To be unlinked.
    litter: Vec<FileName>,
    /// Tables that are gone, and the numbers of their blocks that may be in the cache yet.
    cached: Vec<(u64, Range<u32>)>,
}

/// Blocks that the cache is asked to let go of at once: some tens of microseconds' work.
const BLOCKS_AT_ONCE: u32 = 32;

struct Dropped<D: Disk> {
    table: Rc<Table<D>>,
    stays: bool,
}

impl<D: Disk> Dropped<D> {
    fn is_free(&self) -> bool {
        Rc::strong_count(&self.table) == 1
    }
}

impl<D: Disk> Default for Obsolete<D> {
    fn default() -> Self {
        Obsolete {
            dropped: Vec::new(),
            dropped_values: Vec::new(),
            doubtful: Vec::new(),
            litter: Vec::new(),
            cached: Vec::new(),
        }
    }
}

impl<D: Disk> Obsolete<D> {
    /// `stays` = its file is not to be unlinked.
    pub(super) fn drop_table(&mut self, table: Rc<Table<D>>, stays: bool) {
        self.dropped.push(Dropped { table, stays });
    }

    /// Bytes that dropped tables keep in memory.
    pub(super) fn memory_bytes(&self) -> usize {
        self.dropped.iter().map(|dropped| dropped.table.memory_bytes()).sum()
    }

    pub(super) fn drop_values(&mut self, file: FileName) {
        self.dropped_values.push(file);
    }

    pub(super) fn doubt(&mut self, files: impl Iterator<Item = FileName>) {
        self.doubtful.extend(files);
    }

    pub(super) fn discard(&mut self, files: impl Iterator<Item = FileName>) {
        self.litter.extend(files);
    }

    /// A change of the manifest was made: what was in doubt is not named.
    pub(super) fn settle(&mut self) {
        self.litter.append(&mut self.doubtful);
    }

    /// Whether there is something to unlink, or to let go of.
    pub(super) fn is_due(&self) -> bool {
        !self.litter.is_empty()
            || !self.cached.is_empty()
            || self.dropped.iter().any(Dropped::is_free)
            || self.dropped_values.iter().any(|&file| is_free(&self.dropped, file))
    }

    /// Closes a table that nobody reads any more. False if there is none.
    pub(super) fn close_table(&mut self) -> bool {
        let Some(at) = self.dropped.iter().position(Dropped::is_free) else { return false };
        let Dropped { table, stays } = self.dropped.remove(at);
        self.cached.push((table.number(), 0..table.blocks()));
        if !stays {
            self.litter.push(table.meta().name.file());
        }
        true
    }

    /// Has the cache let go of blocks of a table that is not there, with the next sweep.
    pub(super) fn uncache(&mut self, table: u64, blocks: Range<u32>) {
        self.cached.push((table, blocks));
    }

    /// Has the cache let go of some blocks of closed tables. False if there are none.
    pub(super) fn forget_some(&mut self, cache: &BlockCache) -> bool {
        let Some((table, blocks)) = self.cached.last_mut() else { return false };
        let end = blocks.end.min(blocks.start.saturating_add(BLOCKS_AT_ONCE));
        cache.forget(*table, blocks.start..end);
        blocks.start = end;
        if end == blocks.end {
            self.cached.pop();
        }
        true
    }

    /// What may be unlinked now, of closed tables and beside them.
    pub(super) fn take(&mut self) -> Vec<FileName> {
        let dropped = &self.dropped;
        self.litter.extend(self.dropped_values.extract_if(.., |file| is_free(dropped, *file)));
        std::mem::take(&mut self.litter)
    }
}

/// Whether none of the dropped tables points into a value file. Those that are not dropped do not, or it would not be.
fn is_free<D: Disk>(dropped: &[Dropped<D>], file: FileName) -> bool {
    let FileName::Values { number, .. } = file else { return true };
    planted::active(Bug::LiveValuesUnlinked)
        || dropped.iter().all(|dropped| dropped.table.meta().values.iter().all(|share| share.file != number))
}

/// Removes files; those that cannot be removed are given back with the first error.
pub(super) async fn unlink<D: Disk>(
    disk: &D,
    files: Vec<FileName>,
) -> Result<(), (Vec<FileName>, DiskError)> {
    let mut left = Vec::new();
    let mut failed = None;
    for file in files {
        match disk.names(NameOp::Unlink(file)).await {
            Ok(_) | Err(DiskError { kind: DiskErrorKind::NotFound, .. }) => {}
            Err(error) => {
                left.push(file);
                failed = failed.or(Some(error));
            }
        }
    }
    failed.map_or(Ok(()), |error| Err((left, error)))
}
