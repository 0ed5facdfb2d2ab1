//! Writes: staged into the log's next group, committed, applied. What holds them back is in [`super::pressure`].

use super::Core;
use super::doubt::Changing;
use super::outcome::{CommitError, Refusal};
use super::store::APPLIED_TOGETHER;
use crate::log::{CommitError as LogCommitError, StageError};
use crate::manifest::Edit;
use crate::planted::{self, Bug};
use crate::{Disk, DiskError, DiskErrorKind, Key, Pace, Record, Seq, cover};

impl<D: Disk, P: Pace> Core<D, P> {
    #[inline]
    pub(super) fn stage(&self, key: Key<'_>, record: Record<'_>, vnode_epoch: u64) -> Result<Seq, Refusal> {
        if let Some(refusal) = self.refusal.get() {
            return Err(refusal);
        }
        let price_ps = {
            let stores = self.stores.borrow();
            if let Some(refusal) = stores.closed(&key) {
                return Err(refusal);
            }
            let store = &stores.stores[stores.index_of(&key).ok_or(Refusal::UnknownVnode)?];
            if store.is_overloaded || self.is_group_dear() {
                return Err(Refusal::Overloaded);
            }
            store.price_ps
        };
        let seq = self.log.stage(key, record, vnode_epoch).map_err(|error| match error {
            StageError::Full => Refusal::Overloaded,
            StageError::TooLarge => Refusal::TooLarge,
            StageError::Fenced => Refusal::Fenced,
        })?;
        self.pending.staged(seq.0, record.order);
        if planted::active(Bug::AppliedBeforeSync) {
            let mut stores = self.stores.borrow_mut();
            let index = stores.index_of(&key).expect("looked up above");
            stores.apply(index, seq.0, key, record);
        }
        self.charge(price_ps, key.partition.len() + key.sort.len() + record.value.len());
        Ok(seq)
    }

    pub(super) async fn commit(&self) -> Result<Seq, CommitError> {
        self.owed_ps.set(0);
        match self.log.commit().await {
            Ok(Some(group)) => {
                let mut stores = self.stores.borrow_mut();
                let mut entries = group.iter();
                loop {
                    let mut together = [None; APPLIED_TOGETHER];
                    let read = together.iter_mut().zip(entries.by_ref()); // The slots end first: no entry is taken that has none.
                    let count = read.map(|(slot, (seq, key, record, _epoch))| {
                        if !stores.is_barred(seq.0, &key) {
                            let index = stores.index_of(&key).expect("looked up when it was staged");
                            *slot = Some((index, seq, key, record));
                        }
                    });
                    if count.count() == 0 {
                        break;
                    }
                    stores.prefetch(together.iter().flatten().map(|(index, _, key, _)| (*index, *key)));
                    for (index, seq, key, record) in together.into_iter().flatten() {
                        let bytes = key.partition.len() + key.sort.len() + record.value.len();
                        stores.stores[index].counts.written_bytes += bytes as u64;
                        stores.apply(index, seq.0, key, record);
                    }
                }
                stores.came_back(group.last_seq().0);
                self.pending.applied(stores.applied);
                self.counters.records.add(group.len() as u64);
                self.counters.log_written_bytes.add(group.bytes() as u64);
            }
            Ok(None) => {}
            Err(LogCommitError::Fenced) => {
                // What is staged will never be written: kept, it would ask for a commit for ever.
                self.log.discard_staged();
                self.fence();
                return Err(CommitError::Fenced);
            }
            Err(LogCommitError::NoSpace(_)) => {
                self.log.discard_staged();
                cover::mark("commit found the disk full");
                self.disk_full.set(true);
                self.log_full.set(true);
                self.weigh();
                return Err(CommitError::DiskFull);
            }
            Err(LogCommitError::NoBuffer) => {
                // Whoever waits for it would wait for buffers that nobody may give back.
                self.log.discard_staged();
                cover::mark("commit found no log buffer");
                return Err(CommitError::Overloaded);
            }
        }
        self.weigh();
        Ok(Seq(self.stores.borrow().applied))
    }

    /// Takes no writes any more.
    pub(super) fn fence(&self) {
        if !self.fenced.replace(true) {
            cover::mark("core fenced");
        }
        self.refusal.set(Some(Refusal::Fenced));
    }

    /// Makes a change of the manifest durable. A failure other than a full disk fences: what the file holds is not known then. The files
    /// that it names are the manifest's, and where that does not name them to be removed when it is sure not to ([`super::doubt`]).
    pub(super) async fn change(&self, edits: &[Edit]) -> Result<(), crate::manifest::CommitError> {
        let changing = Changing::begin(self, edits);
        let changed = self.manifest.commit(edits).await;
        changing.ended(&changed);
        if let Err(failed) = &changed
            && failed.error.kind != DiskErrorKind::NoSpace
        {
            self.fence();
        }
        if changed.is_ok() {
            if self.is_put_off.replace(false) {
                self.log.retire_below(Seq(self.manifest.catalog().log_floor));
                cover::mark("opening made good when there was room");
            }
            self.obsolete.borrow_mut().settle();
            self.stores.borrow_mut().doubt.settle();
        }
        changed
    }

    pub(super) async fn close(&self) -> Result<(), DiskError> {
        let fenced = DiskError { kind: DiskErrorKind::Io, operation: "close", name: None };
        while self.log.has_staged() {
            self.commit().await.map_err(|_| fenced)?;
        }
        let synced = self.log.sync_now().await.map_err(|_| fenced)?;
        self.mark().await;
        self.change(&[Edit::Closed { seq: synced.0 }]).await.map_err(|failed| failed.error)
    }

    pub(super) async fn mark(&self) {
        // A mark that found no space is tried again at the next quiet moment.
        if let Err(LogCommitError::Fenced) = self.log.append_mark().await {
            self.fence();
        }
    }
}
