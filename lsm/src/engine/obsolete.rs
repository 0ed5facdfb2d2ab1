//! Tables that nothing names any more, until their files are gone.
//!
//! A dropped table may still serve reads that began before; it is unlinked when the last of them has ended. A table whose
//! edit is *in doubt* (the manifest's write failed, and may be found on the disk all the same) stays until a later change of
//! the manifest, which begins a new file, has settled that it is not named.

use std::rc::Rc;

use crate::table::{Table, TableName};
use crate::{BlockCache, Disk, DiskError, DiskErrorKind, NameOp};

/// See the module.
pub(super) struct Obsolete<D: Disk> {
    /// Dropped from the manifest; perhaps still read.
    dropped: Vec<Rc<Table<D>>>,
    /// Named by a change that failed.
    doubtful: Vec<TableName>,
    /// To be unlinked.
    litter: Vec<TableName>,
}

impl<D: Disk> Default for Obsolete<D> {
    fn default() -> Self {
        Obsolete { dropped: Vec::new(), doubtful: Vec::new(), litter: Vec::new() }
    }
}

impl<D: Disk> Obsolete<D> {
    pub(super) fn drop_table(&mut self, table: Rc<Table<D>>) {
        self.dropped.push(table);
    }

    pub(super) fn doubt(&mut self, tables: impl Iterator<Item = TableName>) {
        self.doubtful.extend(tables);
    }

    pub(super) fn discard(&mut self, tables: impl Iterator<Item = TableName>) {
        self.litter.extend(tables);
    }

    /// A change of the manifest was made: what was in doubt is not named.
    pub(super) fn settle(&mut self) {
        self.litter.append(&mut self.doubtful);
    }

    /// Whether [`Obsolete::take`] has something.
    pub(super) fn is_due(&self) -> bool {
        !self.litter.is_empty() || self.dropped.iter().any(|table| Rc::strong_count(table) == 1)
    }

    /// What may be unlinked now.
    pub(super) fn take(&mut self, cache: &BlockCache) -> Vec<TableName> {
        let free = |table: &mut Rc<Table<D>>| Rc::strong_count(table) == 1;
        for table in self.dropped.extract_if(.., free) {
            cache.forget(table.number(), table.blocks());
            self.litter.push(table.meta().name);
        }
        std::mem::take(&mut self.litter)
    }
}

/// Removes files; those that cannot be removed are given back with the last error.
pub(super) async fn unlink<D: Disk>(
    disk: &D,
    tables: Vec<TableName>,
) -> Result<(), (Vec<TableName>, DiskError)> {
    let mut left = Vec::new();
    let mut failed = None;
    for table in tables {
        match disk.names(NameOp::Unlink(table.file())).await {
            Ok(_) | Err(DiskError { kind: DiskErrorKind::NotFound, .. }) => {}
            Err(error) => {
                left.push(table);
                failed = Some(error);
            }
        }
    }
    failed.map_or(Ok(()), |error| Err((left, error)))
}
