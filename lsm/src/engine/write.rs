//! Writes: staged, committed as a group, applied.

use std::collections::VecDeque;

use super::outcome::{Fenced, Found, Refusal};
use super::{Core, Stats};
use crate::manifest::{Edit, LEVELS};
use crate::{Disk, DiskError, Key, KeyBuf, Pace, Record, Seq};

/// Records staged for the next group.
#[derive(Default)]
pub(super) struct Pending {
    records: VecDeque<(KeyBuf, Found)>,
    next: u64,
}

impl<D: Disk, P: Pace> Core<D, P> {
    pub(super) fn stage(&self, key: Key<'_>, record: Record<'_>, _epoch: u64) -> Result<Seq, Refusal> {
        if self.fenced.get() {
            return Err(Refusal::Fenced);
        }
        if self.stores.borrow().index_of(&key).is_none() {
            return Err(Refusal::UnknownVnode);
        }
        let mut pending = self.pending.borrow_mut();
        pending.next += 1;
        pending.records.push_back((key.to_buf(), Found::copy(record)));
        Ok(Seq(pending.next))
    }

    pub(super) fn has_staged(&self) -> bool {
        !self.pending.borrow().records.is_empty()
    }

    pub(super) async fn commit(&self) -> Result<Seq, Fenced> {
        if self.fenced.get() {
            return Err(Fenced);
        }
        let mut stores = self.stores.borrow_mut();
        for (key, staged) in self.pending.borrow_mut().records.drain(..) {
            let index = stores.index_of(&key.as_key()).expect("checked when it was staged");
            stores.stores[index].apply(key.as_key(), staged.record());
            stores.applied += 1;
        }
        Ok(Seq(stores.applied))
    }

    pub(super) async fn close(&self) -> Result<(), DiskError> {
        let seq = self.stores.borrow().applied;
        self.change(&[Edit::Closed { seq }]).await
    }

    pub(super) fn stats(&self) -> Stats {
        let stores = self.stores.borrow();
        let memtable_bytes = stores.stores.iter().map(|store| store.active.bytes() as u64).sum();
        let catalog = self.manifest.catalog();
        let tables = (0..LEVELS)
            .map(|level| catalog.stores.values().map(|store| store.levels[level].len() as u64).sum())
            .collect();
        Stats { memtable_bytes, tables, fenced: self.fenced.get(), ..self.counters.stats() }
    }
}
