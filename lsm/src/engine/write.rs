//! Writes: staged into the log's next group, committed, applied. What holds them back is in [`super::pressure`].

use super::Core;
use super::doubt::Changing;
use super::outcome::{CommitError, Refusal};
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
        let _turn = self.commit_turn.take().await;
        self.owed_ps.set(0);
        match self.log.commit().await {
            Ok(Some(group)) => self.apply(&group).await,
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

    /// Makes a change of the manifest durable. A failure other than a full disk fences, unless nothing was begun: what the file holds is not
    /// known then. So does a sync that fails when the change is made, of the removal of older files. The files
    /// that it names are the manifest's, and where that does not name them to be removed when it is sure not to ([`super::doubt`]). Value
    /// files that nothing names after it are gone; what still reads them must be among the dropped tables before anything is waited for.
    pub(super) async fn change(&self, edits: &[Edit]) -> Result<(), crate::manifest::CommitError> {
        let changing = Changing::begin(self, edits);
        let committed = self.manifest.commit(edits).await;
        if committed.as_ref().map_or_else(|failed| failed.fences(), |made| made.fences) {
            self.fence();
        }
        let changed = committed.map(|made| {
            let mut obsolete = self.obsolete.borrow_mut();
            made.dead.into_iter().for_each(|file| obsolete.drop_values(file));
        });
        changing.ended(&changed);
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

    pub(super) fn stop_work(&self) {
        if planted::active(Bug::WorkBehindTheEnd) {
            return;
        }
        assert!(!self.running.is_any(), "whoever closes waits for the jobs that run");
        self.work_ended.set(true);
    }

    pub(super) async fn close(&self) -> Result<(), DiskError> {
        self.stop_work();
        let fenced = DiskError { kind: DiskErrorKind::Io, operation: "close", name: None };
        while self.log.has_staged() {
            match self.commit().await {
                // What found no room is not there, and nobody waits for it.
                Ok(_) | Err(CommitError::DiskFull | CommitError::Overloaded) => {}
                Err(CommitError::Fenced) => return Err(fenced),
            }
        }
        // A group that another task commits is applied by then.
        let _turn = self.commit_turn.take().await;
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
