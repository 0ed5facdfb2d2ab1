//! Moving a vnode from one store of a core to another, while it is read and written.
//!
//! 1. What the tables of its old store hold of it is merged into tables of the new one, which nothing names yet. No merge goes on
//!    meanwhile, so the old tables stay as they are; flushes do go on, and what they add is taken over in a second round, which is short.
//! 2. Flushes wait. Both stores' memtables are frozen, at sequence number s, and flushed, and a last round takes over what that added.
//! 3. One change of the manifest adds the new tables, drops the vnode from the old store up to s ([`super::vnode_drop`]), and
//!    says where it lives. Before it a crash finds the vnode in the old store, after it in the new one; either way log records above s
//!    are replayed into that store, which has flushed nothing above s.
//! 4. At the same moment in memory, records above s go from the old store's memtables into the new one's. Copies stay behind in
//!    memtables that are frozen then; a flush leaves out records of vnodes that do not live in its store. The new store's active memtable is
//!    not frozen from step 2 on: what comes into it is older than some of what is in it, and both are flushed, or replayed, together.
//!
//! What the copies of step 4 may take is known to be at most what the old store's memtables have above s. From step 2 on that counts as
//! taken: whoever writes beyond it is told to come again, as ever when memory is short.
//!
//! Marks ([`super::store`]) stay right: a merge keeps them, the new store had nothing of the vnode before, its ceiling is raised above
//! all that came, and records of memtables are marked anew.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::Core;
use super::compact::Duties;
use super::output::Output;
use super::store::Handover;
use crate::compaction::{Chain, Plan, Run};
use crate::manifest::Edit;
use crate::planted::{self, Bug};
use crate::{
    Class, Disk, DiskError, DiskErrorKind, Extent, Memtable, Merge, Pace, TableMeta, TableName, cover,
};

/// A vnode's records in memory are about to be copied into another store: what that may take is set aside meanwhile.
struct HandingOver<'a, D: Disk, P: Pace>(&'a Core<D, P>);

impl<'a, D: Disk, P: Pace> HandingOver<'a, D, P> {
    fn begin(core: &'a Core<D, P>, (index, target): (usize, usize), seq: u64) -> Self {
        let group_bytes = core.options.applied_bytes_max();
        let mut stores = core.stores.borrow_mut();
        assert!(stores.handover.is_none(), "one move at a time: it has the turn of merges");
        stores.handover = Some(Handover { index, target, seq, group_bytes });
        HandingOver(core)
    }
}

impl<D: Disk, P: Pace> Drop for HandingOver<'_, D, P> {
    fn drop(&mut self) {
        self.0.stores.borrow_mut().handover = None;
    }
}

impl<D: Disk, P: Pace> Core<D, P> {
    /// See [`super::Engine::move_vnode`].
    pub(super) async fn move_vnode(&self, vnode: u16, to: u16) -> Result<(), DiskError> {
        assert!(self.options.stores.contains(&to), "store {to} is not this core's");
        let extent = Extent::vnode(vnode);
        self.abandon_any_compaction();
        let _merging = self.compact_turn.take().await;
        let from = self.stores.borrow().number_of(vnode);
        let Some(from) = from.filter(|&from| from != to) else {
            // It may live elsewhere on the disk.
            return self.settle_doubt().await;
        };
        let refused = |kind| DiskError { kind, operation: "move a vnode", name: None };
        if self.has_lost(from, extent) {
            return Err(refused(DiskErrorKind::Io));
        }
        let max_seq = self.stores.borrow().applied;
        let mut output = Output::new(self, to, Class::Background, max_seq);
        let mut taken = BTreeSet::new();
        let duties = Duties { moves_values: true, holds_flushes: false };
        self.take_over(&mut output, (from, extent), &mut taken, duties).await?;
        let deep = output.finished().count();
        self.take_over(&mut output, (from, extent), &mut taken, duties).await?;

        let _flushing = self.flush_turn.take().await;
        let seq = {
            let mut stores = self.stores.borrow_mut();
            for store in [from, to] {
                let index = stores.index_of_store(store);
                stores.freeze(index);
            }
            stores.applied
        };
        let indexes = [from, to].map(|store| self.stores.borrow().index_of_store(store));
        let handing_over = HandingOver::begin(self, indexes.into(), seq);
        self.flush_frozen(&[from, to], seq).await?;
        self.take_over(&mut output, (from, extent), &mut taken, Duties { holds_flushes: true, ..duties })
            .await?;
        if self.stores.borrow().number_of(vnode) != Some(from) || self.has_lost(from, extent) {
            return Err(refused(DiskErrorKind::Io));
        }
        let (removed, mut edits) = self.dropping(from, extent, seq);
        edits.push(Edit::Assign { vnode, store: to, epoch: 0 });
        let level = self.deepest_level_for(to, output.finished().take(deep));
        let ceiling = output.finished().map(|table| table.max_order).max().unwrap_or(0);
        let install = |store: &mut super::store::Store<D>| store.ceiling = store.ceiling.max(ceiling);
        let level_of = |at| if at < deep { level } else { 0 };
        output.commit_at(level_of, &[], edits.into_iter(), install).await?;
        // No waiting from here to where the memtables are right.
        self.renew(from, &removed);
        self.hand_over(extent, seq, from, to);
        drop(handing_over);
        self.weigh();
        cover::mark("vnode moved");
        // What stays behind in memory is hidden, and goes with this flush or a later one.
        let through = self.stores.borrow().applied;
        let _later = self.flush_frozen(&[from], through).await;
        self.survey();
        Ok(())
    }

    /// Whether something of an extent cannot be read.
    fn has_lost(&self, store: u16, extent: Extent) -> bool {
        let (catalog, unreadable) = (self.manifest.catalog(), self.unreadable.borrow());
        let range = extent.range();
        catalog.stores.get(&store).is_some_and(|entry| {
            let mut tables = entry.levels.iter().flatten();
            entry.areas.iter().any(|area| area.meets(&range))
                || tables.any(|table| unreadable.contains(&table.name.number) && extent.meets(table))
        })
    }

    /// Merges what tables of a store hold of an extent into the output, those that were taken before left out.
    async fn take_over(
        &self,
        output: &mut Output<'_, D, P>,
        (store, extent): (u16, Extent),
        taken: &mut BTreeSet<u64>,
        duties: Duties,
    ) -> Result<(), DiskError> {
        let plan = {
            let catalog = self.manifest.catalog();
            let levels = &catalog.stores[&store].levels;
            let is_new = |table: &&Rc<TableMeta>| extent.meets(table) && !taken.contains(&table.name.number);
            let l0 = levels[0].iter().rev().filter(is_new);
            let mut runs: Vec<Run> = l0.map(|table| Run { level: 0, tables: vec![table.name] }).collect();
            for (level, tables) in levels.iter().enumerate().skip(1) {
                let tables: Vec<TableName> = tables.iter().filter(is_new).map(|table| table.name).collect();
                if !tables.is_empty() {
                    runs.push(Run { level, tables });
                }
            }
            Plan { store, runs, output_level: 0, is_move: false, is_for_garbage: false, bytes: 0 }
        };
        let inputs: Vec<TableName> = plan.inputs().collect();
        let merge = {
            let tables = self.tables.borrow();
            let part = |name: &TableName| (Rc::clone(&tables[&name.number]), self.dead_parts(*name));
            let sources =
                plan.runs.iter().map(|run| Chain::within(extent, &self.cache, run.tables.iter().map(part)));
            Merge::new(sources.collect(), self.options.join)
        };
        self.merge_into(output, merge, &inputs, duties).await?;
        taken.extend(inputs.iter().map(|table| table.number));
        Ok(())
    }

    /// Gives the records above `seq` that are in memtables to another store, with the vnode. Nothing comes between: a reader finds
    /// either store whole. The copies are the only ones, and there is room for them ([`Handover`]).
    fn hand_over(&self, extent: Extent, seq: u64, from: u16, to: u16) {
        let mut stores = self.stores.borrow_mut();
        let (old, new) = (stores.index_of_store(from), stores.index_of_store(to));
        let range = extent.range();
        stores.freeze(old);
        let above = |frozen: &&super::store::Frozen| frozen.through > seq;
        let oldest_first = stores.stores[old].frozen.iter().rev();
        let memtables: Vec<Rc<Memtable>> =
            oldest_first.filter(above).map(|frozen| Rc::clone(&frozen.memtable)).collect();
        stores.place(extent.vnode, to);
        let mut is_any = false;
        for memtable in memtables {
            let inside = memtable.iter_from(&range.low()).take_while(|(key, _)| range.contains(key));
            let known = inside.take(if planted::active(Bug::MoveForgetsMemtable) { 0 } else { usize::MAX });
            for (key, record) in known {
                stores.apply(new, seq + 1, key, record);
                is_any = true;
            }
        }
        if is_any {
            let first = &mut stores.stores[new].active_first;
            *first = first.map(|first| first.min(seq + 1));
        }
    }
}
