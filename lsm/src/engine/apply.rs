//! A durable group goes into the memtables, some records at a time.
//!
//! Between them everything else may run, for a group of the log's full length takes some milliseconds. Whoever reads meanwhile finds
//! the records of a group up to one and not those behind it, as after groups of their own; they were staged in that order, and none is
//! acknowledged before all are applied. One group is applied at a time, in the log's order: whoever commits has
//! [`Core::commit_turn`] until it is done.

use super::Core;
use super::store::APPLIED_TOGETHER;
use crate::log::{Entry, Group};
use crate::planted::{self, Bug};
use crate::{Disk, Pace, cover};

/// Rounds of [`APPLIED_TOGETHER`] records between two looks at whether something else waits: some tens of microseconds' work. Each
/// look that finds so costs a turn of the host's loop, a few microseconds.
const ROUNDS_BETWEEN: usize = 2;

/// A group that is being applied. The log has it, so memory must too: what is left is applied at once when this is dropped, as it is
/// where nobody waits for the end of a commit.
struct Applying<'g, D: Disk, P: Pace, I: Iterator<Item = Entry<'g>>> {
    core: &'g Core<D, P>,
    group: &'g Group<D>,
    entries: I,
}

impl<'g, D: Disk, P: Pace, I: Iterator<Item = Entry<'g>>> Applying<'g, D, P, I> {
    /// Applies the next records. False = there are none.
    fn apply_some(&mut self) -> bool {
        let mut stores = self.core.stores.borrow_mut();
        let mut together = [None; APPLIED_TOGETHER];
        let read = together.iter_mut().zip(self.entries.by_ref()); // The slots end first: no entry is taken that has none.
        let count = read.map(|(slot, (seq, key, record, _epoch))| {
            if !stores.is_barred(seq.0, &key) {
                let index = stores.index_of(&key).expect("looked up when it was staged");
                *slot = Some((index, seq, key, record));
            }
        });
        if count.count() == 0 {
            return false;
        }
        stores.prefetch(together.iter().flatten().map(|(index, _, key, _)| (*index, *key)));
        for (index, seq, key, record) in together.into_iter().flatten() {
            let bytes = key.partition.len() + key.sort.len() + record.value.len();
            stores.stores[index].counts.written_bytes += bytes as u64;
            stores.apply(index, seq.0, key, record);
        }
        true
    }
}

impl<'g, D: Disk, P: Pace, I: Iterator<Item = Entry<'g>>> Drop for Applying<'g, D, P, I> {
    fn drop(&mut self) {
        while !planted::active(Bug::AbandonedGroupHalfApplied) && self.apply_some() {}
        let mut stores = self.core.stores.borrow_mut();
        stores.came_back(self.group.last_seq().0);
        self.core.pending.applied(stores.applied);
        self.core.counters.records.add(self.group.len() as u64);
        self.core.counters.log_written_bytes.add(self.group.bytes() as u64);
    }
}

impl<D: Disk, P: Pace> Core<D, P> {
    /// Applies a group that is durable. For whoever has the turn of commits.
    pub(super) async fn apply(&self, group: &Group<D>) {
        let mut applying = Applying { core: self, group, entries: group.iter() };
        let mut rounds = 0;
        while applying.apply_some() {
            rounds += 1;
            if rounds % ROUNDS_BETWEEN == 0 && self.pace.should_yield() {
                cover::mark("something ran while a group was applied");
                self.pace.yield_now().await;
            }
        }
    }
}
