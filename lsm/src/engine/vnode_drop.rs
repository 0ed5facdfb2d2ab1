//! Dropping a vnode, or a table in it: at once for readers, later for the disk.
//!
//! One change of the manifest makes it so. It names the tables that hold records of the extent (those that lie wholly inside are
//! removed with it), and the sequence number up to which records of the log are dead. Before it, the active memtable is frozen;
//! so every source is either older than the drop as a whole, or younger:
//!
//! | source | is older than the drop if | then |
//! |---|---|---|
//! | active memtable | never | it is read |
//! | frozen memtable | all in it was applied before ([`super::store::Frozen::through`]) | its records in the extent are hidden, and not flushed |
//! | table | the drop names it | its records in the extent are hidden, and left out of merges |
//! | log record | its number is not above the drop's | replay leaves it out |
//!
//! No flush and no merge goes on meanwhile, so none brings records of an older source into a younger one. What is named is merged,
//! or rewritten in its place without the extent ([`Core::trim`]), and when nothing of it is left and the log has moved on, the
//! drop is forgotten.
//!
//! A whole vnode is taken from its store with it. Records of it that were staged and not applied yet have numbers up to the drop's, and
//! are left out when their group comes back; none is staged while the drop goes on. Those whose group comes back before the change is
//! durable are applied, for it may fail; then they are frozen, and the vnode cannot come back to this store until they are flushed. Nor
//! can it come back anywhere until all those numbers have: a full disk gives numbers that are only staged out again, and the drop
//! holds for whatever has them then.
//!
//! A drop that failed may be on the disk all the same ([`super::doubt`]). Until that is settled the vnode is as it was, but takes no
//! writes: a start would find them with no vnode to put them into.

use std::rc::Rc;

use super::Core;
use super::compact::Duties;
use super::output::Output;
use crate::compaction::{Plan, Run};
use crate::manifest::Edit;
use crate::planted::{self, Bug};
use crate::{Class, Disk, DiskError, Extent, Key, Pace, TableName, cover};

/// Keeps records of a vnode from being staged, until it is dropped.
struct Barred<'a, D: Disk, P: Pace> {
    core: &'a Core<D, P>,
    vnode: u16,
}

impl<D: Disk, P: Pace> Drop for Barred<'_, D, P> {
    fn drop(&mut self) {
        let barred = &mut self.core.stores.borrow_mut().barred;
        barred.retain(|(vnode, seq)| (*vnode, *seq) != (self.vnode, u64::MAX));
    }
}

impl<D: Disk, P: Pace> Core<D, P> {
    /// See [`super::Engine::drop_extent`].
    pub(super) async fn drop_extent(&self, extent: Extent) -> Result<(), DiskError> {
        self.abandon_any_compaction();
        let _merging = self.compact_turn.take().await;
        let _flushing = self.flush_turn.take().await;
        let lives_in = self.stores.borrow().index_of(&extent.range().low());
        let Some(index) = lives_in else {
            // It may live on the disk yet, and be on its way here.
            self.settle_doubt().await?;
            self.stores.borrow_mut().end_ingests(&extent);
            return Ok(());
        };
        let is_vnode = extent.table.is_none();
        let _barred = is_vnode.then(|| {
            self.stores.borrow_mut().barred.push((extent.vnode, u64::MAX));
            Barred { core: self, vnode: extent.vnode }
        });
        let (store, seq) = {
            let mut stores = self.stores.borrow_mut();
            stores.freeze(index);
            let staged = self.log.next_seq().0 - 1;
            (stores.stores[index].number, if is_vnode { staged } else { stores.applied })
        };
        self.weigh();
        let (removed, edits) = self.dropping(store, extent, seq);
        let put = self.put_tables(store, (&[], &[]), &removed, edits, |_| {}).await;
        put.map_err(|failed| failed.error)?;
        // No waiting from where the store's tables were changed to here.
        self.records.forget(extent);
        let mut stores = self.stores.borrow_mut();
        stores.end_ingests(&extent);
        if is_vnode {
            stores.unplace(extent.vnode);
            if seq > stores.applied {
                stores.barred.push((extent.vnode, seq));
            }
            // What came back from the log while the change was written is in memory. Its flush leaves it out, as the vnode lives nowhere;
            // until then it would be seen again if the vnode came back here, so that is refused ([`Core::is_taken`]).
            let has_arrived = stores.stores[index].active.holds(&extent.range());
            if has_arrived && !planted::active(Bug::DropOverlooksArrivals) {
                cover::mark("records arrived during the drop of their vnode");
                stores.freeze(index);
            }
        }
        drop(stores);
        self.weigh();
        cover::mark("extent dropped");
        Ok(())
    }

    /// The tables that go at once, and the change that drops an extent.
    pub(super) fn dropping(&self, store: u16, extent: Extent, seq: u64) -> (Vec<TableName>, Vec<Edit>) {
        let catalog = self.manifest.catalog();
        let entry = &catalog.stores[&store];
        let tables = || entry.levels.iter().flatten();
        let inside = |table: &&Rc<crate::TableMeta>| extent.encloses(table);
        let removed: Vec<TableName> = tables().filter(inside).map(|table| table.name).collect();
        let mut named: Vec<u64> = tables()
            .filter(|table| extent.meets(table) && !extent.encloses(table))
            .map(|table| table.name.number)
            .collect();
        named.sort_unstable();
        // What was lost in them was dropped, too.
        let lost = removed.iter().filter(|table| entry.areas_of(table.number).next().is_some());
        let mut edits: Vec<Edit> = lost.map(|&table| Edit::Release { table }).collect();
        edits.extend(removed.iter().map(|&table| Edit::Remove { table }));
        // One that was dropped before with records on their way is not back before they are, so they stay dead in the log.
        let before = entry.drops.get(&extent).map_or(0, |dropped| dropped.seq);
        assert!(seq >= before, "{extent:?} was back before what was dropped of it");
        edits.push(Edit::Drop { store, extent, seq, tables: named });
        if extent.table.is_none() {
            edits.push(Edit::Unassign { vnode: extent.vnode });
        }
        (removed, edits)
    }

    /// Has the compaction that runs, if one does, end without a change.
    pub(super) fn abandon_any_compaction(&self) {
        self.options.stores.iter().for_each(|&store| self.abandon_compaction(store));
    }

    /// The next table to be rewritten without what was dropped of it.
    pub(super) fn trim_plan(&self) -> Option<Plan> {
        let (catalog, avoided) = (self.manifest.catalog(), self.avoided());
        catalog.stores.iter().find_map(|(&store, entry)| {
            let named = |number| {
                entry.drops.values().any(|dropped| dropped.tables.binary_search(&number).is_ok())
                    && !avoided.contains(&number)
            };
            entry.levels.iter().enumerate().find_map(|(level, tables)| {
                let table = tables.iter().find(|table| named(table.name.number))?;
                let runs = vec![Run { level, tables: vec![table.name] }];
                let bytes = table.bytes;
                Some(Plan { store, runs, output_level: level, is_move: false, is_for_garbage: false, bytes })
            })
        })
    }

    /// Rewrites a table in its place without what was dropped of it. Nothing has changed after an error, or if it was abandoned.
    pub(super) async fn trim(&self, plan: Plan) -> Result<(), DiskError> {
        let inputs: Vec<TableName> = plan.inputs().collect();
        let (merge, max_seq) = self.merge_of(&plan);
        let mut output = Output::new(self, plan.store, Class::Background, max_seq);
        if !self.merge_into(&mut output, merge, &inputs, Duties::default()).await? {
            return Ok(());
        }
        let written = output.bytes;
        // The order of level 0 is that of its edits: what is newer than the table is added behind it once more, and none may come
        // between.
        let _flushing = self.flush_turn.take().await;
        let newer: Vec<Edit> = {
            let catalog = self.manifest.catalog();
            let level = &catalog.stores[&plan.store].levels[plan.output_level];
            let at = level.iter().position(|table| table.name == inputs[0]).expect("it is this job's");
            let newer = if plan.output_level == 0 { &level[at + 1..] } else { &[] };
            let again = |table: &Rc<crate::TableMeta>| {
                [Edit::Remove { table: table.name }, Edit::Add { level: 0, table: Rc::clone(table) }]
            };
            newer.iter().flat_map(again).collect()
        };
        output.commit(plan.output_level as u8, &inputs, newer.into_iter(), |_| {}).await?;
        self.counters.compaction_bytes.add(written);
        self.counters.compaction_read_bytes.add(plan.bytes);
        self.count_of_store(plan.store, |counts| counts.compaction_bytes += written);
        cover::mark("table trimmed");
        Ok(())
    }

    /// The parts of a table that were dropped.
    pub(super) fn dead_parts(&self, table: TableName) -> Vec<Extent> {
        let catalog = self.manifest.catalog();
        let drops = &catalog.stores[&table.store].drops;
        let of_table =
            drops.iter().filter(|(_, dropped)| dropped.tables.binary_search(&table.number).is_ok());
        of_table.map(|(extent, _)| *extent).collect()
    }

    /// Whether a record of a frozen memtable is not flushed: it was dropped, or its vnode went to another store.
    pub(super) fn is_left_out(&self, index: usize, key: &Key<'_>, through: u64) -> bool {
        let stores = self.stores.borrow();
        stores.index_of(key) != Some(index)
            || !stores.stores[index].levels.shows_frozen(through, key.prefix)
            || self.floors.borrow().is_retired(key.prefix)
    }
}
