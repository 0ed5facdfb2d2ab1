//! How operations of a campaign ended, and which there were.

use std::fmt;

use ferrite_client::WriteOutcome;

/// Counts of operations.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Writes that reached their level.
    pub acknowledged: u64,
    /// Writes that certainly had no effect.
    pub not_applied: u64,
    /// Writes nobody can tell of.
    pub unknown: u64,
    /// Reads that were answered, and checked.
    pub reads: u64,
    /// Reads that were not.
    pub unread: u64,
    /// Of the writes: puts of values that do not expire.
    pub puts: u64,
    /// Puts with a time to live.
    pub expiring: u64,
    /// Deletes.
    pub deletes: u64,
    /// Writes that others might stand in for.
    pub sloppy: u64,
    /// Of those, how many were acknowledged by others in the place of replicas.
    pub stood_in: u64,
    /// Batches.
    pub batches: u64,
    /// Writes in them.
    pub batched: u64,
    /// Reads of many keys at once.
    pub multi_gets: u64,
    /// Reads of records that had been written, which found nothing.
    pub read_absent: u64,
    /// Writes in place of siblings: of those that a read had shown, or of whatever there was.
    pub replacing: u64,
    /// Reads that found several siblings.
    pub read_siblings: u64,
}

impl Tally {
    /// All operations.
    pub fn operations(&self) -> u64 {
        self.acknowledged + self.not_applied + self.unknown + self.reads + self.unread
    }

    /// The sum of two.
    pub fn plus(self, other: Tally) -> Tally {
        Tally {
            acknowledged: self.acknowledged + other.acknowledged,
            not_applied: self.not_applied + other.not_applied,
            unknown: self.unknown + other.unknown,
            reads: self.reads + other.reads,
            unread: self.unread + other.unread,
            puts: self.puts + other.puts,
            expiring: self.expiring + other.expiring,
            deletes: self.deletes + other.deletes,
            sloppy: self.sloppy + other.sloppy,
            stood_in: self.stood_in + other.stood_in,
            batches: self.batches + other.batches,
            batched: self.batched + other.batched,
            multi_gets: self.multi_gets + other.multi_gets,
            read_absent: self.read_absent + other.read_absent,
            replacing: self.replacing + other.replacing,
            read_siblings: self.read_siblings + other.read_siblings,
        }
    }

    pub(crate) fn count(&mut self, outcome: &WriteOutcome) {
        match outcome {
            WriteOutcome::Done { sloppy, .. } => {
                self.acknowledged += 1;
                self.stood_in += u64::from(*sloppy);
            }
            WriteOutcome::NotApplied(_) => self.not_applied += 1,
            WriteOutcome::Unknown(_) => self.unknown += 1,
        }
    }
}

/// Which operations there were; those that were not are left out.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [
            ("puts", self.puts),
            ("puts that expire", self.expiring),
            ("deletes", self.deletes),
            ("writes in place of siblings", self.replacing),
            ("writes in batches", self.batched),
            ("batches", self.batches),
            ("sloppy writes", self.sloppy),
            ("writes that others stood in for", self.stood_in),
            ("reads of many", self.multi_gets),
            ("reads of what was there no more", self.read_absent),
            ("reads of several siblings", self.read_siblings),
        ];
        let told =
            kinds.iter().filter(|(_, count)| *count > 0).map(|(kind, count)| format!("{kind} {count}"));
        f.write_str(&told.collect::<Vec<_>>().join(", "))
    }
}
