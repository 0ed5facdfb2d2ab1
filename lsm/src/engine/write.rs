//! Writes: staged into the log's next group, committed, applied; and what holds them back when background work lags.

use super::Core;
use super::outcome::{CommitError, Refusal};
use super::store::APPLIED_TOGETHER;
use crate::log::{CommitError as LogCommitError, StageError};
use crate::manifest::Edit;
use crate::{Disk, DiskError, DiskErrorKind, Key, Pace, Record, Seq, cover};

impl<D: Disk, P: Pace> Core<D, P> {
    #[inline]
    pub(super) fn stage(&self, key: Key<'_>, record: Record<'_>, vnode_epoch: u64) -> Result<Seq, Refusal> {
        if let Some(refusal) = self.refusal.get() {
            return Err(refusal);
        }
        if self.stores.borrow().index_of(&key).is_none() {
            return Err(Refusal::UnknownVnode);
        }
        let seq = self.log.stage(key, record, vnode_epoch).map_err(|error| match error {
            StageError::Full => Refusal::Overloaded,
            StageError::TooLarge => Refusal::TooLarge,
            StageError::Fenced => Refusal::Fenced,
        })?;
        self.pending.staged(seq.0, record.order);
        Ok(seq)
    }

    pub(super) async fn commit(&self) -> Result<Seq, CommitError> {
        match self.log.commit().await {
            Ok(Some(group)) => {
                let mut stores = self.stores.borrow_mut();
                let mut entries = group.iter();
                loop {
                    let mut together = [None; APPLIED_TOGETHER];
                    let read = together.iter_mut().zip(entries.by_ref()); // The slots end first: no entry is taken that has none.
                    let count = read.map(|(slot, (seq, key, record, _epoch))| {
                        let index = stores.index_of(&key).expect("looked up when it was staged");
                        *slot = Some((index, seq, key, record));
                    });
                    if count.count() == 0 {
                        break;
                    }
                    stores.prefetch(together.iter().flatten().map(|(index, _, key, _)| (*index, *key)));
                    for (index, seq, key, record) in together.into_iter().flatten() {
                        stores.apply(index, seq.0, key, record);
                    }
                }
                self.pending.applied(stores.applied);
                self.counters.records.add(group.len() as u64);
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
                self.weigh();
                return Err(CommitError::DiskFull);
            }
        }
        self.weigh();
        Ok(Seq(self.stores.borrow().applied))
    }

    /// Freezes what is due for a flush, and decides anew whether and how much writers are held back. Called when either may have changed.
    pub(super) fn weigh(&self) {
        let options = &self.options;
        let mut stores = self.stores.borrow_mut();
        while stores.active_bytes > options.memtable_bytes {
            let Some(index) = stores.largest() else { break };
            stores.freeze(index);
        }
        let (log_bytes, log_bytes_max) = (self.log.bytes(), options.log_bytes_max());
        // By files, not by their content: each start opens a new segment, and many short lives must not make a long recovery.
        if self.log.live_file_bytes() > log_bytes_max
            && let Some((index, _)) = stores.oldest()
            && stores.stores[index].frozen.is_empty()
        {
            stores.freeze(index);
        }
        let l0_tables = stores.l0_tables_max();
        let frozen_bytes_max = options.memtable_bytes * FROZEN_BUDGETS_MAX;
        let refusal = if self.fenced.get() {
            Some(Refusal::Fenced)
        } else if self.disk_full.get() {
            Some(Refusal::DiskFull)
        } else if stores.frozen_bytes > frozen_bytes_max
            || l0_tables >= options.l0_tables_max
            || log_bytes > log_bytes_max.saturating_mul(LOG_OVERSHOOT_MAX)
        {
            Some(Refusal::Overloaded)
        } else {
            None
        };
        self.refusal.set(refusal);
        let l0_lag = ratio(
            l0_tables.saturating_sub(options.l0_tables_slow),
            options.l0_tables_max.saturating_sub(options.l0_tables_slow),
        );
        let frozen_lag = ratio(
            stores.frozen_bytes.saturating_sub(options.memtable_bytes),
            frozen_bytes_max - options.memtable_bytes,
        );
        // Squared: gentle at first, steep near the limit.
        let lag = l0_lag.max(frozen_lag);
        self.write_delay_us.set((lag * lag * options.write_delay_max_us as f64) as u64);
    }

    /// Takes no writes any more.
    pub(super) fn fence(&self) {
        if !self.fenced.replace(true) {
            cover::mark("core fenced");
        }
        self.refusal.set(Some(Refusal::Fenced));
    }

    /// Makes a change of the manifest durable. A failure other than a full disk fences: what the file holds is not known then.
    pub(super) async fn change(&self, edits: &[Edit]) -> Result<(), crate::manifest::CommitError> {
        let changed = self.manifest.commit(edits).await;
        if let Err(failed) = &changed
            && failed.error.kind != DiskErrorKind::NoSpace
        {
            self.fence();
        }
        if changed.is_ok() {
            self.obsolete.borrow_mut().settle();
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

/// Frozen memtables may take this many memtable budgets before writes are refused.
const FROZEN_BUDGETS_MAX: usize = 2;
/// The log may grow to this many times its limit before writes are refused.
const LOG_OVERSHOOT_MAX: u64 = 2;

fn ratio(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { (part as f64 / whole as f64).min(1.0) }
}
