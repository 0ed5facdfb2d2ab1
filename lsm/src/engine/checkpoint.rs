//! Checkpoints: the engine's files as they are, under second names, in a directory that opens by itself.
//!
//! Tables and value files never change, so a link is as good as a copy and costs nothing. What the memtables hold is flushed
//! first, so that a checkpoint needs no log: its manifest says that the stores have everything, and the log that an open
//! begins there follows on.
//!
//! ```text
//! checkpoint-N/core-C/manifest-1        written last
//! checkpoint-N/store-S/table-…          links
//! checkpoint-N/store-S/values-…         links
//! ```
//!
//! A checkpoint is one point in time per core, not across cores: each part holds what was acknowledged when it was called for, and
//! perhaps later records: of a group that is durable and not all applied, what is. Of these it may hold those of one store and lack earlier ones of another, which flush by themselves.
//!
//! Each core makes its own part, whose directories no other core touches; with the parts of all cores a checkpoint is a node's
//! data directory. A part counts once its manifest holds, which comes after the links were made durable; it counts no more
//! once its manifest is gone for good, after which the links go. So a power cut leaves a part that opens, or one that
//! [`Core::checkpoint`] under the same number, or [`Core::remove_checkpoint`], clears away.
//!
//! What is linked stays there while it is being linked: the open tables are held, and with them the value files that they name.

use std::rc::Rc;

use super::Core;
use crate::manifest::{self, Catalog, LoadError, Manifest};
use crate::{Directory, Disk, DiskError, DiskErrorKind, FileName, NameOp, NameReply, Pace, Table, cover};

impl<D: Disk, P: Pace> Core<D, P> {
    /// See [`super::Engine::checkpoint`].
    pub(super) async fn checkpoint(&self, number: u64) -> Result<(), DiskError> {
        let failed = |kind| DiskError { kind, operation: "make a checkpoint", name: None };
        if self.fenced.get() {
            return Err(failed(DiskErrorKind::Io));
        }
        let inside = self.disk.checkpoint(number);
        self.disk.names(NameOp::CreateCheckpoint(number)).await?;
        for directory in self.directories() {
            inside.names(NameOp::CreateDirectory(directory)).await?;
        }
        if self.is_whole(&inside).await? {
            return Err(failed(DiskErrorKind::Exists));
        }
        self.clear(&inside).await?;
        self.flush_applied().await?;
        let (catalog, _held) = self.snapshot();
        let values = catalog.stores.values().flat_map(|store| store.values.values());
        let tables = catalog.tables().map(|table| table.name.file());
        for name in tables.chain(values.map(|values| values.file())) {
            self.disk.names(NameOp::LinkInto { name, checkpoint: number }).await?;
        }
        for &store in &self.options.stores {
            manifest::sync_directory(&inside, Directory::Store(store)).await?;
        }
        let life = self.options.entropy.rotate_left(64) ^ u128::from(number);
        Manifest::begin(inside, self.options.core, life, 0, catalog, &[]).await?;
        cover::mark("checkpoint made");
        Ok(())
    }

    /// What the checkpoint's manifest says, and the tables that it names, which keeps them from being unlinked.
    fn snapshot(&self) -> (Catalog, Vec<Rc<Table<D>>>) {
        let mut catalog = self.manifest.catalog().clone();
        // Numbers up to here are spent: the log that begins in the checkpoint gives out later ones.
        let through = catalog.stores.values().map(|store| store.flushed_through).max().unwrap_or(0);
        catalog.stores.values_mut().for_each(|store| store.flushed_through = through);
        catalog.log_floor = 0;
        catalog.closed = Some(through);
        let tables = self.tables.borrow();
        // One that could not be opened is linked as the others, and so is a value file that only a quarantined table points into. If it
        // is dropped, or released, meanwhile, the link fails, and the checkpoint.
        let held = catalog.tables().filter_map(|table| tables.get(&table.name.number).cloned()).collect();
        (catalog, held)
    }

    /// See [`super::Engine::checkpoints`].
    pub(super) async fn checkpoints(&self) -> Result<Vec<u64>, DiskError> {
        let mut whole = Vec::new();
        let numbers = match self.disk.names(NameOp::ListCheckpoints).await? {
            NameReply::Checkpoints(numbers) => numbers,
            NameReply::Done | NameReply::Files(_) => unreachable!("checkpoints were asked for"),
        };
        for number in numbers {
            if self.is_whole(&self.disk.checkpoint(number)).await? {
                whole.push(number);
            }
        }
        Ok(whole)
    }

    /// See [`super::Engine::remove_checkpoint`].
    pub(super) async fn remove_checkpoint(&self, number: u64) -> Result<(), DiskError> {
        self.clear(&self.disk.checkpoint(number)).await?;
        self.disk.names(NameOp::RemoveCheckpoint(number)).await.map(drop)
    }

    /// Whether this core's part of a checkpoint counts. A manifest that cannot be read counts: it is for whoever opens it to see.
    async fn is_whole(&self, inside: &D) -> Result<bool, DiskError> {
        match manifest::load(inside, self.options.core).await {
            Ok(found) => Ok(found.catalog.is_some()),
            Err(LoadError::Read(crate::ReadError::Disk(error))) => Err(error),
            Err(LoadError::Read(_) | LoadError::Version { .. }) => Ok(true),
        }
    }

    /// Removes this core's part of a checkpoint: its manifests, older ones first so that never one of them comes to count, then the rest.
    async fn clear(&self, inside: &D) -> Result<(), DiskError> {
        for directory in self.directories() {
            let files = manifest::list(inside, directory).await?;
            if files.is_empty() {
                continue;
            }
            let is_manifest = |name: &FileName| matches!(name, FileName::Manifest { .. });
            let (manifests, others): (Vec<_>, Vec<_>) =
                files.into_iter().map(|(name, _)| name).partition(is_manifest);
            for name in manifests {
                inside.names(NameOp::Unlink(name)).await?;
                manifest::sync_directory(inside, directory).await?;
            }
            for name in others {
                inside.names(NameOp::Unlink(name)).await?;
            }
            manifest::sync_directory(inside, directory).await?;
        }
        Ok(())
    }

    /// The directories of this core, its own first.
    fn directories(&self) -> impl Iterator<Item = Directory> {
        let stores = self.options.stores.iter().copied().map(Directory::Store);
        std::iter::once(Directory::Core(self.options.core)).chain(stores)
    }
}
