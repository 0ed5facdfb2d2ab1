//! One put or delete: sent to every live replica, answered when its level is met.
//!
//! ```text
//!            live < needed                  acks = needed
//!   start ───────────────► Unavailable   ┌───────────────► Done
//!     └────► waiting ──(ack, refusal, loss, deadline)──┤ the level can no longer be met, or time is up:
//!                                        ├─ nobody acknowledged and nobody may have kept it ─► NotApplied
//!                                        └─ otherwise ─► Unknown
//! ```
//!
//! | replica | counts as |
//! |---|---|
//! | acknowledged | has it |
//! | refused | does not have it |
//! | lost: its connection broke, or its sync failed | may have it |
//! | silent at the deadline | may have it |
//!
//! Rejected: answering `NotApplied` as soon as the level is out of reach although another replica is still silent. That
//! one may keep the record, and a client told "not applied" would see the value appear.

use ferrite_wire::{ErrorCode, WriteAnswer};

use crate::{ReplicaSet, planted};

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// The level is met.
    Done {
        /// Replicas that had acknowledged by then.
        answered: u8,
    },
    /// No replica has it, nor will.
    NotApplied(ErrorCode),
    /// It may be on some replicas and may become visible.
    Unknown,
}

/// Fewer replicas are live than the level needs; nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unavailable {
    /// How many are live.
    pub live: u8,
    /// How many the level needs.
    pub needed: u8,
}

/// A write in flight.
#[derive(Clone, Copy, Debug)]
pub struct WriteQuorum {
    needed: u8,
    waiting: ReplicaSet,
    acked: ReplicaSet,
    lost: ReplicaSet,
    refusal: Option<ErrorCode>,
}

impl WriteQuorum {
    /// Begins a write to the `live` of `replicas`, of which `needed` must acknowledge.
    pub fn start(replicas: u8, live: ReplicaSet, needed: u8) -> Result<WriteQuorum, Unavailable> {
        assert!(needed >= 1, "a level needs at least one replica");
        let needed = if planted::active(planted::Bug::QuorumOffByOne) { (needed - 1).max(1) } else { needed };
        if needed > replicas || live.len() < needed {
            return Err(Unavailable { live: live.len(), needed });
        }
        Ok(WriteQuorum {
            needed,
            waiting: live,
            acked: ReplicaSet::default(),
            lost: ReplicaSet::default(),
            refusal: None,
        })
    }

    /// A replica acknowledged or refused. Answers that come twice or unasked are ignored.
    pub fn on_answer(&mut self, replica: u8, answer: WriteAnswer) -> Option<WriteOutcome> {
        if !self.waiting.contains(replica) {
            return None;
        }
        self.waiting.remove(replica);
        match answer {
            WriteAnswer::Applied => self.acked.insert(replica),
            WriteAnswer::Refused(code) => self.refusal = Some(self.refusal.unwrap_or(code)),
        }
        self.verdict()
    }

    /// A replica will not answer; it may have the record.
    pub fn on_lost(&mut self, replica: u8) -> Option<WriteOutcome> {
        if !self.waiting.contains(replica) {
            return None;
        }
        self.waiting.remove(replica);
        self.lost.insert(replica);
        self.verdict()
    }

    /// Time is up.
    pub fn on_deadline(&mut self) -> WriteOutcome {
        self.lost = self.lost.iter().chain(self.waiting.iter()).collect();
        self.waiting = ReplicaSet::default();
        self.verdict().expect("with nobody left to wait for there is a verdict")
    }

    fn verdict(&self) -> Option<WriteOutcome> {
        if self.acked.len() >= self.needed {
            return Some(WriteOutcome::Done { answered: self.acked.len() });
        }
        if self.acked.len() + self.waiting.len() >= self.needed {
            return None;
        }
        if !self.acked.is_empty() || !self.lost.is_empty() {
            return Some(WriteOutcome::Unknown);
        }
        if self.waiting.is_empty() {
            return Some(WriteOutcome::NotApplied(self.refusal.unwrap_or(ErrorCode::Unavailable)));
        }
        None
    }
}
