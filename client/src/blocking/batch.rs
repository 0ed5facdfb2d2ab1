//! Many puts at once: a window of them under way, outcomes as they come.

use super::BlockingClient;
use crate::WriteOptions;
use crate::outcome::{Record, WriteOutcome};
use crate::pipeline::Operation;
use crate::siblings::Replaces;
use ferrite_wire::Key;
use std::ops::ControlFlow;
use std::time::Instant;

/// What a batch came to, in records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchSummary {
    /// Reached their level.
    pub done: u64,
    /// Certainly not applied.
    pub not_applied: u64,
    /// Nobody can say.
    pub unknown: u64,
}

impl BatchSummary {
    /// Records taken.
    pub fn total(&self) -> u64 {
        self.done + self.not_applied + self.unknown
    }
}

impl BlockingClient {
    /// Puts every record, at most `window` of them under way at any time (and never more than the client's `calls_max`).
    ///
    /// `on_outcome` gets each record's place in the batch, from 0, and its outcome, in the order in which they end, which
    /// is not that of the records. When it breaks, no further record is taken and those under way are waited for.
    /// Records of equal keys are not ordered among each other.
    pub fn put_many(
        &mut self,
        records: impl IntoIterator<Item = Record>,
        options: WriteOptions,
        window: usize,
        on_outcome: impl FnMut(u64, WriteOutcome) -> ControlFlow<()>,
    ) -> BatchSummary {
        self.write_many(records, None, options, window, on_outcome)
    }

    /// The same for a table with siblings: each record takes the place of all siblings that its key has. Of records of equal keys several
    /// may stay.
    pub fn overwrite_many(
        &mut self,
        records: impl IntoIterator<Item = Record>,
        options: WriteOptions,
        window: usize,
        on_outcome: impl FnMut(u64, WriteOutcome) -> ControlFlow<()>,
    ) -> BatchSummary {
        self.write_many(records, Some(Replaces::All), options, window, on_outcome)
    }

    fn write_many(
        &mut self,
        records: impl IntoIterator<Item = Record>,
        replaces: Option<Replaces<'_>>,
        options: WriteOptions,
        window: usize,
        mut on_outcome: impl FnMut(u64, WriteOutcome) -> ControlFlow<()>,
    ) -> BatchSummary {
        let window = window.clamp(1, self.calls_max.saturating_sub(1).max(1)) as u64;
        let mut records = records.into_iter().fuse();
        let mut summary = BatchSummary::default();
        let (first_tag, mut taken) = (self.calls + 1, 0);
        let mut is_open = true;
        self.take_events();
        loop {
            while is_open && taken - summary.total() < window {
                let Some(record) = records.next() else {
                    is_open = false;
                    break;
                };
                let key = Key { table: record.table, partition: &record.partition, sort: &record.sort };
                let options = WriteOptions { ttl: record.ttl.or(options.ttl), ..options };
                self.calls += 1;
                taken += 1;
                let operation = match replaces {
                    None => Operation::Put(key, &record.value, options),
                    Some(replaces) => Operation::PutReplacing(key, &record.value, replaces, options),
                };
                self.pipeline.submit(Instant::now(), self.calls, operation);
            }
            let ended_before = summary.total();
            while let Some((tag, completion)) = self.pipeline.poll_completion() {
                let outcome = completion.write();
                match &outcome {
                    WriteOutcome::Done { .. } => summary.done += 1,
                    WriteOutcome::NotApplied(_) => summary.not_applied += 1,
                    WriteOutcome::Unknown(_) => summary.unknown += 1,
                }
                is_open &= on_outcome(tag - first_tag, outcome).is_continue();
            }
            if summary.total() == taken && !is_open {
                self.act();
                return summary;
            }
            if summary.total() == ended_before {
                self.turn();
            }
        }
    }
}
