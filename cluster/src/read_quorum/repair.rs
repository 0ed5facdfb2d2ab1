//! The part of a read that makes replicas equal: who lacks what it found, and whether its answer waits for them.
//!
//! | the level needs | replicas that are behind are written to | the answer |
//! |---|---|---|
//! | a majority or more | first | waits until as many hold what it says as the level needs |
//! | fewer | afterwards | is not held up |
//!
//! So two reads of a majority never see a value come and go: whatever the first one showed is on a majority by then, and the
//! second one asks one of those. A write that failed on a minority would flicker otherwise. Sets of siblings may be together longer than a
//! replica takes: those flicker ([`ReadQuorum::set_too_long`](super::ReadQuorum::set_too_long)).
//!
//! ```text
//!                         enough hold it ──────────────────────────────────────────────────────► Found
//! joined or newest known ──┤
//!                         └─ those behind are written to ──(each says: applied)──► enough hold it ► Found
//!                                    │ one refuses, or is lost
//!                                    ├──► one that was never asked is written to in its place; none left ──► Failed
//!                                    │ they are slow
//!                                    └──► one that was never asked is asked: it may hold it; if not, it is written to as well
//! ```
//!
//! What is written is the record as it was found, with its version. A replica that has something newer by then keeps that, and
//! holds what the read shows none the less. Those that did not answer the read are not written to: nobody knows that they are behind.

use ferrite_wire::{ErrorCode, Version, WriteAnswer};

use crate::ReplicaSet;

/// When a read writes to replicas that are behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repairing {
    /// Not at all: a write follows that replaces what is found.
    Never,
    /// After its answer.
    After,
    /// Before its answer.
    Before,
}

impl Repairing {
    /// Of a read that `needed` of `replicas` must answer.
    pub fn of_level(needed: u8, replicas: u8) -> Repairing {
        if needed > replicas / 2 { Repairing::Before } else { Repairing::After }
    }
}

/// How far the repairs have come that an answer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Enough hold the record.
    Held,
    /// Enough may come to hold it.
    Waits,
    /// Another replica must be written to.
    Short,
}

/// The repairs that an answer waits for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Repairs {
    /// What the answer shows, and the others are brought up to.
    pub(super) version: Version,
    /// Known to hold it, or something newer.
    holding: ReplicaSet,
    /// Written to.
    written: ReplicaSet,
    /// Those of them that have not answered.
    waiting: ReplicaSet,
    /// They are slow, and another was asked.
    hurried: bool,
    /// Why the first that was written to in vain would not take it.
    refusal: Option<ErrorCode>,
}

impl Repairs {
    pub(super) fn new(version: Version, holding: ReplicaSet, behind: ReplicaSet) -> Repairs {
        Repairs { version, holding, written: behind, waiting: behind, hurried: false, refusal: None }
    }

    /// A replica that was written to has answered.
    pub(super) fn on_answer(&mut self, replica: u8, answer: WriteAnswer) -> bool {
        let waited = self.waiting.contains(replica);
        if waited {
            self.waiting.remove(replica);
            match answer {
                WriteAnswer::Applied => self.holding.insert(replica),
                WriteAnswer::Refused(code) => {
                    self.refusal.get_or_insert(code);
                }
            }
        }
        waited
    }

    /// Those that were written to are slow: another is asked.
    pub(super) fn hurry(&mut self) {
        self.hurried = true;
    }

    /// Whether another was asked.
    pub(super) fn is_hurried(&self) -> bool {
        self.hurried
    }

    /// A replica has said late that it has it.
    pub(super) fn holds(&mut self, replica: u8) {
        self.waiting.remove(replica);
        self.holding.insert(replica);
    }

    /// Whether a replica was written to.
    pub(super) fn has_written_to(&self, replica: u8) -> bool {
        self.written.contains(replica)
    }

    /// Another replica is written to.
    pub(super) fn write_to(&mut self, replica: u8) {
        self.written.insert(replica);
        self.waiting.insert(replica);
    }

    pub(super) fn progress(&self, needed: u8) -> Progress {
        match (self.holding.len(), self.waiting.len()) {
            (holding, _) if holding >= needed => Progress::Held,
            (holding, waiting) if holding + waiting >= needed => Progress::Waits,
            _ => Progress::Short,
        }
    }

    /// What a read is told that too few replicas would take the record of. It has no unknown outcome: of that only a write can speak.
    pub(super) fn code(&self) -> ErrorCode {
        match self.refusal {
            None | Some(ErrorCode::Unknown) => ErrorCode::Timeout,
            Some(code) => code,
        }
    }
}
