//! A compaction: what the plan names is merged into the next level, one block at a time.

use super::Core;
use super::output::Output;
use crate::compaction::{Chain, Plan, Verdict, buried};
use crate::planted::{self, Bug};
use crate::{Class, Disk, DiskError, Key, KeyHash, LastWriteWins, Merge, Pace, ReadError, TableName, cover};

/// Times that a merge asks for a buffer, yielding in between, before it fails.
const BUFFER_TRIES_MAX: usize = 1000;

impl<D: Disk, P: Pace> Core<D, P> {
    /// Runs a plan. Nothing has changed after an error.
    pub(super) async fn compact(&self, plan: Plan) -> Result<(), DiskError> {
        let level = plan.level as u8 + 1;
        if plan.is_move {
            return self.move_down(&plan, level).await;
        }
        let inputs: Vec<TableName> = plan.upper.iter().chain(&plan.lower).copied().collect();
        let (mut merge, max_seq) = {
            let tables = self.tables.borrow();
            let table = |name: &TableName| tables.get(&name.number).expect("named tables are open").clone();
            // Newest first: level 0 backwards, each table by itself; every other level is one source.
            let mut sources: Vec<Chain<D>> = if plan.level == 0 {
                plan.upper.iter().rev().map(|name| Chain::new(std::iter::once(table(name)))).collect()
            } else {
                vec![Chain::new(plan.upper.iter().map(table))]
            };
            sources.push(Chain::new(plan.lower.iter().map(table)));
            let max_seq = inputs.iter().map(|name| table(name).meta().max_seq).max().unwrap_or(0);
            (Merge::new(sources, LastWriteWins), max_seq)
        };
        let mut output = Output::new(self, plan.store, Class::Background, max_seq);
        let mut tries = BUFFER_TRIES_MAX;
        loop {
            match merge.next().await {
                Ok(true) => {}
                Ok(false) => break,
                Err(ReadError::NoBuffer) if tries > 0 => {
                    tries -= 1;
                    self.pace.yield_now().await;
                    continue;
                }
                Err(error) => return Err(self.unreadable(error, plan.store)),
            }
            let (key, mut record) = merge.current().expect("it stands on a key");
            let verdict = self.floors.borrow().verdict(&key, &record);
            match verdict {
                Verdict::Keep => {}
                Verdict::Purge if self.is_held_elsewhere(&key, record.order, &inputs) => {}
                Verdict::Purge => {
                    cover::mark("tombstone purged");
                    continue;
                }
                Verdict::Bury => {
                    cover::mark("expired record buried");
                    record = buried(&record);
                }
            }
            output.ready().await?;
            output.add(key, record);
            if output.wants_pause() {
                output.pause().await?;
                if output.is_full() {
                    output.finish().await?;
                }
                self.do_urgent().await;
            }
        }
        output.finish().await?;
        let bytes = output.bytes;
        output.commit(level, &inputs, std::iter::empty(), |_| {}).await?;
        self.counters.compaction_bytes.add(bytes);
        self.counters.compactions.add(1);
        cover::mark("tables compacted");
        Ok(())
    }

    async fn move_down(&self, plan: &Plan, level: u8) -> Result<(), DiskError> {
        let table = self.tables.borrow().get(&plan.upper[0].number).expect("named tables are open").clone();
        let edits = self.move_edits(&table, level);
        self.put_tables(plan.store, &[], &[], edits, |_| {}).await?;
        self.counters.moves.add(1);
        cover::mark("table moved down");
        Ok(())
    }

    fn move_edits(&self, table: &crate::Table<D>, level: u8) -> Vec<crate::manifest::Edit> {
        use crate::manifest::Edit;
        let meta = table.meta();
        vec![Edit::Remove { table: meta.name }, Edit::Add { level, table: std::rc::Rc::new(meta.clone()) }]
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
            candidates.any(|table| !inputs.contains(&table.meta().name) && table.may_contain(hash))
        };
        is_pending || in_memtable() || in_table()
    }
}
