//! Ingesting: chunks become tables beside the tree, and one change of the manifest puts them all in, with the vnode if it is new.
//!
//! What is ingested may be older or newer than what is there and than what is written meanwhile. A read stays right because of what
//! it may stop at (see [`super::store`]): a record that is marked as newer than everything behind it. So no source that was asked before
//! the ingested tables may hold a marked record that one of theirs beats.
//!
//! 1. The ingested records have no marks.
//! 2. From the beginning on, records that are applied to the extent get none either ([`super::store::Stores::ingests`]).
//! 3. If the extent held nothing when it began, no source has a marked record of it: the tables may stand anywhere, and go as deep as
//!    they fit, where they need no merge.
//! 4. If it held something, everything applied is flushed before the change, and the tables go on top of level 0: what is asked before
//!    them was applied after the beginning, and is not marked.
//! 5. With the change the store's ceiling is raised above all of theirs, so what is marked from then on beats them.
//!
//! In case 3 a record that was applied later may stand below: nothing but ties depends on that, and two records of one (order, actor)
//! are the same record.
//!
//! The order of durability is that of every new table ([`super::output`]). An ingest that is dropped, or cut by a crash, leaves
//! litter and no trace; while it makes its change it is in doubt then ([`super::doubt`]). A drop that touches its extent ends it.

use super::Core;
use super::export::{ChunkError, parse};
use super::outcome::AssignError;
use super::output::Output;
use super::scan::ScanLimits;
use crate::manifest::{Edit, StoreEntry};
use crate::planted::{self, Bug};
use crate::{Class, Direction, Disk, DiskError, Extent, KeyBuf, Pace, ReadError, TableMeta, cover};

use std::ops::ControlFlow;

/// Length of a table of level 0 that an ingest writes: few and long, since writers wait when there are many.
const L0_TABLE_BYTES: u64 = 1 << 30;

/// Why an ingest goes on no more. Nothing of it is or will be there, unless that is in doubt (see [`Engine`](super::Engine)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IngestError {
    /// The disk failed.
    Disk(DiskError),
    /// What was given is not what an export gave, or does not follow it.
    Chunk(ChunkError),
    /// The vnode was dropped, or came to live in another store, meanwhile.
    Superseded,
    /// The vnode lives nowhere, and cannot live here yet: [`AssignError::Taken`] says until when. Then ingest it again.
    Taken {
        /// The vnode.
        vnode: u16,
    },
}

impl std::fmt::Display for IngestError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            IngestError::Disk(error) => error.fmt(f),
            IngestError::Chunk(error) => error.fmt(f),
            IngestError::Superseded => write!(f, "the vnode was dropped or assigned meanwhile"),
            IngestError::Taken { vnode } => AssignError::Taken { vnode: *vnode }.fmt(f),
        }
    }
}

impl std::error::Error for IngestError {}

impl From<DiskError> for IngestError {
    fn from(error: DiskError) -> Self {
        IngestError::Disk(error)
    }
}

impl From<ChunkError> for IngestError {
    fn from(error: ChunkError) -> Self {
        IngestError::Chunk(error)
    }
}

/// An ingest that goes on: given chunks in order, then finished. Dropped before that it was never there.
pub struct Ingest<'a, D: Disk, P: Pace> {
    core: &'a Core<D, P>,
    extent: Extent,
    store: u16,
    output: Output<'a, D, P>,
    /// The extent held nothing when this began.
    was_empty: bool,
    last: Option<KeyBuf>,
    max_order: u64,
    records: u64,
    has_failed: bool,
    registered: Registered<'a, D, P>,
}

/// Keeps records of an extent from being marked.
struct Registered<'a, D: Disk, P: Pace> {
    core: &'a Core<D, P>,
    id: u64,
}

impl<D: Disk, P: Pace> Registered<'_, D, P> {
    /// Whether no drop has ended it.
    fn holds(&self) -> bool {
        self.core.stores.borrow().ingests.iter().any(|(id, _)| *id == self.id)
    }
}

impl<D: Disk, P: Pace> Drop for Registered<'_, D, P> {
    fn drop(&mut self) {
        self.core.stores.borrow_mut().ingests.retain(|(id, _)| *id != self.id);
    }
}

impl<D: Disk, P: Pace> Core<D, P> {
    /// See [`super::Engine::ingest`].
    pub(super) async fn ingest(&self, extent: Extent, store: u16) -> Result<Ingest<'_, D, P>, ReadError> {
        assert!(self.options.stores.contains(&store), "store {store} is not this core's");
        let store = self.stores.borrow().number_of(extent.vnode).unwrap_or(store);
        let registered = {
            let mut stores = self.stores.borrow_mut();
            stores.ingests_begun += 1;
            let id = stores.ingests_begun;
            stores.ingests.push((id, extent));
            Registered { core: self, id }
        };
        let mut was_empty = true;
        let see = |_: crate::Key<'_>, _: crate::Record<'_>| {
            was_empty = false;
            ControlFlow::Break(())
        };
        self.scan(&extent.range(), Direction::Forward, ScanLimits::records(1), see).await?;
        let max_seq = self.stores.borrow().applied;
        let output = Output::new(self, store, Class::Background, max_seq);
        Ok(Ingest {
            core: self,
            extent,
            store,
            output,
            was_empty,
            last: None,
            max_order: 0,
            records: 0,
            has_failed: false,
            registered,
        })
    }
}

impl<D: Disk, P: Pace> Ingest<'_, D, P> {
    /// Adds the records of a chunk, which must be behind those of the chunks before it, and in the extent. After an error there is
    /// nothing to be done but drop this, and begin another.
    pub async fn add(&mut self, chunk: &[u8]) -> Result<(), IngestError> {
        assert!(!self.has_failed, "an ingest that failed goes on no more");
        // Until the whole chunk is in.
        self.has_failed = true;
        for record in parse(chunk)? {
            let (key, record) = record?;
            if !self.extent.contains(key.prefix) {
                return Err(ChunkError::Malformed("a key outside of what is ingested").into());
            }
            if self.last.as_ref().is_some_and(|last| last.as_key() >= key) {
                return Err(ChunkError::Malformed("keys out of order").into());
            }
            self.output.ready(self.output.is_large(&record)).await?;
            self.output.add(key, record);
            self.max_order = self.max_order.max(record.order);
            self.records += 1;
            self.last = Some(key.to_buf());
            if self.output.wants_pause() {
                self.output.pause().await?;
                let is_full = match self.was_empty {
                    true => self.output.is_full(),
                    false => self.output.table_length() >= L0_TABLE_BYTES,
                };
                if is_full {
                    self.output.finish().await?;
                }
            }
        }
        self.has_failed = false;
        Ok(())
    }

    /// Puts everything that was added in, durably when it returns: all of it, or after an error nothing, unless that is in doubt (see
    /// [`Engine`](super::Engine)). A vnode that lived nowhere lives in the store from then on. Returns the number of records.
    pub async fn finish(mut self) -> Result<u64, IngestError> {
        assert!(!self.has_failed, "an ingest that failed goes on no more");
        let core = self.core;
        self.output.end().await?;
        if !self.was_empty {
            core.flush_applied().await?;
        }
        let _merging = core.compact_turn.take().await;
        let _flushing = core.flush_turn.take().await;
        let lives_in = core.stores.borrow().number_of(self.extent.vnode);
        if !self.registered.holds() || lives_in.is_some_and(|store| store != self.store) {
            return Err(IngestError::Superseded);
        }
        let assign = lives_in.is_none().then_some((self.extent.vnode, self.store));
        if assign.is_some() && core.is_taken(self.extent.vnode, self.store) {
            return Err(IngestError::Taken { vnode: self.extent.vnode });
        }
        let level =
            if self.was_empty { core.deepest_level_for(self.store, self.output.finished()) } else { 0 };
        let edits = assign.map(|(vnode, store)| Edit::Assign { vnode, store, epoch: 0 });
        let (max_order, records) = (self.max_order, self.records);
        let max_order = if planted::active(Bug::IngestKeepsCeiling) { 0 } else { max_order };
        let install = |store: &mut super::store::Store<D>| store.ceiling = store.ceiling.max(max_order);
        self.output.commit(level, &[], edits.into_iter(), install).await?;
        // No waiting from where the store's tables were changed to here.
        core.records.forget(self.extent);
        if let Some((vnode, store)) = assign {
            core.stores.borrow_mut().place(vnode, store);
        }
        core.weigh();
        cover::mark(if level == 0 { "ingested on top" } else { "ingested below" });
        Ok(records)
    }
}

impl<D: Disk, P: Pace> Core<D, P> {
    /// The deepest sorted level of a store in which no table overlaps one of `new`; level 0 if there is none.
    pub(super) fn deepest_level_for<'t>(
        &self,
        store: u16,
        new: impl Iterator<Item = &'t TableMeta> + Clone,
    ) -> u8 {
        let catalog = self.manifest.catalog();
        let Some(entry) = catalog.stores.get(&store) else { return 0 };
        let StoreEntry { levels, .. } = entry;
        let fits = |level: &&usize| {
            new.clone().all(|new| {
                let from = levels[**level].partition_point(|table| table.largest < new.smallest);
                levels[**level].get(from).is_none_or(|table| table.smallest > new.largest)
            })
        };
        let sorted: Vec<usize> = (1..levels.len()).rev().collect();
        sorted.iter().find(fits).map_or(0, |level| *level as u8)
    }

    /// Whether a vnode that lives nowhere cannot live in a store yet: the log numbers for which a drop of it holds come back first, since
    /// those that are only staged are given out again after a full disk; and what is left of it in the store's frozen memtables is
    /// flushed first.
    pub(super) fn is_taken(&self, vnode: u16, store: u16) -> bool {
        let range = Extent::vnode(vnode).range();
        let prefix = range.low().prefix;
        let stores = self.stores.borrow();
        let seq = match planted::active(Bug::BackBeforeItsNumbers) {
            true => self.log.next_seq().0,
            false => stores.applied + 1,
        };
        let store = &stores.stores[stores.index_of_store(store)];
        let mut shown =
            store.frozen.iter().filter(|frozen| store.levels.shows_frozen(frozen.through, prefix));
        shown.any(|frozen| frozen.memtable.holds(&range)) || self.manifest.catalog().is_dropped(prefix, seq)
    }
}
