//! A compaction: the runs that the plan names are merged into one, a slice at a time.
//!
//! Between two slices everything else runs that waits, the next flush first; so a long merge holds back neither reads nor
//! flushes by more than a slice. There, too, it can be abandoned: its outputs, which nothing names yet, become litter, and
//! the store is as it was.

use std::rc::Rc;

use super::Core;
use super::output::{BUFFER_TRIES_MAX, Output};
use crate::compaction::{Chain, Plan, Verdict, buried};
use crate::manifest::Edit;
use crate::planted::{self, Bug};
use crate::{
    Class, Disk, DiskError, JoinByFlag, Key, KeyBuf, KeyHash, Merge, Pace, Record, RecordFlags, TableName,
    cover,
};

/// Table lengths of the next run below that one output may overlap: so many bytes a later merge of it rewrites at most.
const OVERLAP_TABLES_MAX: u64 = 10;

/// The compaction that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Compacting {
    store: u16,
    abandoned: bool,
}

/// What a merge minds beside its records.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Duties {
    /// Values that lie apart are written anew, all of them: the output is another store's.
    pub(super) moves_values: bool,
    /// Whoever merges has the turn of flushes: none can be done on the way.
    pub(super) holds_flushes: bool,
}

/// Marks a compaction as running until it is dropped.
struct Mark<'a, D: Disk, P: Pace>(&'a Core<D, P>);

impl<D: Disk, P: Pace> Drop for Mark<'_, D, P> {
    fn drop(&mut self) {
        self.0.compacting.set(None);
    }
}

impl<D: Disk, P: Pace> Core<D, P> {
    /// Runs a plan, or a trim. Nothing has changed after an error, or if it was abandoned.
    pub(super) async fn compact(&self, plan: Plan, is_trim: bool) -> Result<(), DiskError> {
        self.compacting.set(Some(Compacting { store: plan.store, abandoned: false }));
        let _mark = Mark(self);
        if is_trim {
            return self.trim(plan).await;
        }
        if plan.is_move {
            return self.move_down(&plan).await;
        }
        let inputs: Vec<TableName> = plan.inputs().collect();
        let (merge, max_seq) = self.merge_of(&plan);
        let mut output = Output::new(self, plan.store, Class::Background, max_seq);
        output.mind(self.below(&plan), OVERLAP_TABLES_MAX * self.options.table_bytes);
        if !self.merge_into(&mut output, merge, &inputs, Duties::default()).await? {
            return Ok(());
        }
        let written = output.bytes;
        let numbers = output.numbers();
        output.commit(plan.output_level as u8, &inputs, std::iter::empty(), |_| {}).await?;
        if plan.is_for_garbage {
            cover::mark("table of garbage rewritten");
            self.rewritten.borrow_mut().extend(numbers);
            self.survey();
        }
        self.counters.compaction_bytes.add(written);
        self.counters.compaction_read_bytes.add(plan.bytes);
        self.count_of_store(plan.store, |counts| counts.compaction_bytes += written);
        self.counters.compactions.add(1);
        cover::mark("tables compacted");
        Ok(())
    }

    /// Writes what is left of a merge; false if it was abandoned.
    pub(super) async fn merge_into(
        &self,
        output: &mut Output<'_, D, P>,
        mut merge: Merge<Chain<D>, JoinByFlag>,
        inputs: &[TableName],
        duties: Duties,
    ) -> Result<bool, DiskError> {
        let mut tries = BUFFER_TRIES_MAX;
        loop {
            match merge.next().await {
                // They are bounded in a row, and not in all: a long merge may wait often.
                Ok(true) => tries = BUFFER_TRIES_MAX,
                Ok(false) => break,
                Err(error) => {
                    self.no_read_buffer(error, &mut tries).await?;
                    continue;
                }
            }
            let (key, record) = merge.current().expect("it stands on a key");
            match self.settle(&key, record, inputs) {
                Some(record) => {
                    let stored = self.collect(&key, &record, duties.moves_values).await?;
                    output.ready(stored.is_some() || output.is_large(&record)).await?;
                    output.set_in_use(merge.is_in_use());
                    match stored {
                        Some(stored) => output.add_collected(key, record, &stored),
                        None => output.add(key, record),
                    }
                    output.skip(&key, &record, merge.width() - 1);
                }
                None => output.skip(&key, &record, merge.width()),
            }
            if output.wants_pause() {
                output.pause().await?;
                if output.is_full() {
                    output.finish().await?;
                }
                if !duties.holds_flushes {
                    self.do_urgent().await;
                }
                if self.is_abandoned() {
                    cover::mark("compaction abandoned");
                    return Ok(false);
                }
            }
        }
        output.end().await?;
        Ok(true)
    }

    /// The merge of a plan's runs, and the highest sequence number in them.
    pub(super) fn merge_of(&self, plan: &Plan) -> (Merge<Chain<D>, JoinByFlag>, u64) {
        let tables = self.tables.borrow();
        let table = |name: &TableName| tables.get(&name.number).expect("named tables are open").clone();
        let cut = |name: &TableName| (table(name), self.dead_parts(*name));
        let sources = plan.runs.iter().map(|run| Chain::new(&self.cache, run.tables.iter().map(cut)));
        let max_seq = plan.inputs().map(|name| table(&name).meta().max_seq).max().unwrap_or(0);
        (Merge::new(sources.collect(), self.options.join), max_seq)
    }

    /// Ends and lengths of the tables of the next run below a plan's output.
    fn below(&self, plan: &Plan) -> Vec<(KeyBuf, u64)> {
        let catalog = self.manifest.catalog();
        let mut below = catalog.stores[&plan.store].levels.iter().skip(plan.output_level + 1);
        let run = below.find(|tables| !tables.is_empty());
        run.into_iter().flatten().map(|table| (table.largest.clone(), table.bytes)).collect()
    }

    /// What stays of a merged record: the record, its tombstone, or nothing.
    #[inline]
    fn settle<'r>(&self, key: &Key<'_>, record: Record<'r>, inputs: &[TableName]) -> Option<Record<'r>> {
        let verdict = self.floors.borrow().verdict(key, &record);
        match verdict {
            Verdict::Keep => Some(record),
            Verdict::Leave => {
                cover::mark("retired record left out");
                None
            }
            Verdict::Purge if self.is_held_elsewhere(key, record.order, inputs) => {
                // What hides another version needs no value for it; and what stayed as it is would be due again at once.
                Some(if record.flags.0 & RecordFlags::TOMBSTONE == 0 { buried(&record) } else { record })
            }
            Verdict::Purge => {
                cover::mark("tombstone purged");
                None
            }
            Verdict::Bury => {
                cover::mark("expired record buried");
                Some(buried(&record))
            }
        }
    }

    async fn move_down(&self, plan: &Plan) -> Result<(), DiskError> {
        let level = plan.output_level as u8;
        let edits = {
            let tables = self.tables.borrow();
            let table = |name: TableName| tables.get(&name.number).expect("named tables are open");
            let removed = plan.inputs().map(|table| Edit::Remove { table });
            let added = plan.inputs().map(|name| {
                let table = Rc::new(table(name).meta().clone());
                Edit::Add { level, table }
            });
            removed.chain(added).collect()
        };
        let put = self.put_tables(plan.store, (&[], &[]), &[], edits, |_| {}).await;
        put.map_err(|failed| failed.error)?;
        self.counters.moves.add(1);
        cover::mark("table moved down");
        Ok(())
    }

    /// Has the compaction that runs in `store` end without a change, at its next slice. It is the caller's to wait for that.
    pub(super) fn abandon_compaction(&self, store: u16) {
        if let Some(compacting) = self.compacting.get()
            && compacting.store == store
        {
            self.compacting.set(Some(Compacting { abandoned: true, ..compacting }));
        }
    }

    fn is_abandoned(&self) -> bool {
        self.compacting.get().is_some_and(|compacting| compacting.abandoned)
    }

    /// Whether anything outside the merge may hold the key in a version of `order` or older: then what the merge leaves out
    /// could let it come back. Looked at anew for each key, for what was pending a moment ago is in a memtable now.
    fn is_held_elsewhere(&self, key: &Key<'_>, order: u64, inputs: &[TableName]) -> bool {
        let is_pending = self.pending.order_min() <= order && !planted::active(Bug::PurgeIgnoresPending);
        let stores = self.stores.borrow();
        let Some(index) = stores.index_of(key) else { return true };
        let store = &stores.stores[index];
        let hash = KeyHash::of(key);
        let in_memtable = || {
            let frozen = || store.frozen.iter().any(|frozen| frozen.memtable.get(key).is_some());
            (store.active.get(key).is_some() || frozen()) && !planted::active(Bug::PurgeIgnoresMemtable)
        };
        let in_table = || {
            let mut candidates = store.levels.candidates(key);
            !planted::active(Bug::PurgeIgnoresTables)
                && candidates.any(|table| !inputs.contains(&table.meta().name) && table.may_contain(hash))
        };
        // What is being taken in was written elsewhere, and may be older than anything here.
        let is_taken_in = || {
            stores.ingests.iter().any(|(_, extent)| extent.contains(key.prefix))
                && !planted::active(Bug::PurgeIgnoresIngest)
        };
        is_pending || in_memtable() || in_table() || is_taken_in() || store.levels.lost(key).is_some()
    }
}
