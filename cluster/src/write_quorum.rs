//! One put or delete: sent to every live replica, answered when its level is met.
//!
//! ```text
//!             live < needed                     acks = needed
//!   start ────────────────► Unavailable    ┌─────────────────► Done
//!     └──► waiting ──(ack, refusal, loss)──┤ the level is out of reach, or time is up:
//!             ▲                │           ├─ one has it or may have it ──────────► Unknown
//!             └── otherwise ───┘           └─ all were asked and all refused ─────► NotApplied
//! ```
//!
//! | a replica | counts as |
//! |---|---|
//! | acknowledged | has it |
//! | refused, with a code that [says so](ErrorCode::says_not_applied) or before anything was sent | does not have it |
//! | refused with any other code | may have it |
//! | lost: its connection broke | may have it |
//! | silent at the deadline | may have it |
//!
//! | have it | may have it | unanswered | outcome |
//! |---|---|---|---|
//! | ≥ needed | any | any | `Done` |
//! | fewer, but reachable with the unanswered | any | > 0 | wait |
//! | out of reach, ≥ 1 | any | any | `Unknown` |
//! | out of reach, 0 | ≥ 1 | any | `Unknown` |
//! | out of reach, 0 | 0 | > 0 | wait |
//! | out of reach, 0 | 0 | 0 | `NotApplied`, with the first refusal's code |
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

impl Unavailable {
    /// Refuses a level that `live` of `replicas` cannot meet; otherwise how many must answer.
    pub(crate) fn check(replicas: u8, live: ReplicaSet, needed: u8) -> Result<u8, Unavailable> {
        assert!(live.is_within(replicas), "a live replica is a replica");
        let needed =
            if planted::active(planted::Bug::QuorumOffByOne) { needed.saturating_sub(1) } else { needed };
        // Of no replicas all are none; no level is met by nobody.
        let needed = needed.max(1);
        if live.len() < needed { Err(Unavailable { live: live.len(), needed }) } else { Ok(needed) }
    }
}

/// A write in flight.
#[derive(Clone, Copy, Debug)]
pub struct WriteQuorum {
    needed: u8,
    /// Asked and not answered. Every live replica is in exactly one of this, `acked`, `doubtful` and those that refused.
    waiting: ReplicaSet,
    acked: ReplicaSet,
    /// May have it.
    doubtful: ReplicaSet,
    /// The first code of a replica that does not have it.
    refusal: Option<ErrorCode>,
    ended: bool,
}

impl WriteQuorum {
    /// Begins a write to the `live` of `replicas`, of which `needed` must acknowledge.
    pub fn start(replicas: u8, live: ReplicaSet, needed: u8) -> Result<WriteQuorum, Unavailable> {
        let needed = Unavailable::check(replicas, live, needed)?;
        Ok(WriteQuorum {
            needed,
            waiting: live,
            acked: ReplicaSet::default(),
            doubtful: ReplicaSet::default(),
            refusal: None,
            ended: false,
        })
    }

    /// A replica acknowledged or refused, or could not be sent the write. Answers that come twice, unasked or after the
    /// end are ignored.
    #[inline]
    pub fn on_answer(&mut self, mut replica: u8, answer: WriteAnswer) -> Option<WriteOutcome> {
        if !self.waiting.contains(replica) {
            let counts = planted::active(planted::Bug::RepeatedAckCounts) && self.acked.contains(replica);
            replica = self.waiting.first().filter(|_| counts)?;
        }
        self.waiting.remove(replica);
        match answer {
            WriteAnswer::Applied => self.acked.insert(replica),
            WriteAnswer::Refused(code) if code.says_not_applied() => {
                self.refusal.get_or_insert(code);
            }
            WriteAnswer::Refused(_) => self.doubtful.insert(replica),
        }
        self.verdict()
    }

    /// A replica will not answer; it may have the record.
    pub fn on_lost(&mut self, replica: u8) -> Option<WriteOutcome> {
        if !self.waiting.contains(replica) {
            return None;
        }
        self.waiting.remove(replica);
        match planted::active(planted::Bug::LostCountsAsAck) {
            true => self.acked.insert(replica),
            false => self.doubtful.insert(replica),
        }
        self.verdict()
    }

    /// Time is up. Not to be called after the end.
    pub fn on_deadline(&mut self) -> WriteOutcome {
        assert!(!self.ended, "a write ends once");
        self.doubtful = self.doubtful.iter().chain(self.waiting.iter()).collect();
        self.waiting = ReplicaSet::default();
        self.verdict().expect("with nobody left to wait for there is a verdict")
    }

    /// Who has acknowledged, also after the end.
    #[inline]
    pub fn acked(&self) -> ReplicaSet {
        self.acked
    }

    /// Who was asked and has not answered, also after the end.
    #[inline]
    pub fn waiting(&self) -> ReplicaSet {
        self.waiting
    }

    /// How many must acknowledge.
    #[inline]
    pub fn needed(&self) -> u8 {
        self.needed
    }

    fn verdict(&mut self) -> Option<WriteOutcome> {
        if self.ended {
            return None;
        }
        let reachable = self.acked.len() + self.waiting.len();
        let outcome = if self.acked.len() >= self.needed {
            WriteOutcome::Done { answered: self.acked.len() }
        } else if reachable >= self.needed {
            return None;
        } else if planted::active(planted::Bug::TimeoutSaysNotApplied) && self.waiting.is_empty() {
            WriteOutcome::NotApplied(ErrorCode::Unavailable)
        } else if !self.acked.is_empty() || !self.doubtful.is_empty() {
            WriteOutcome::Unknown
        } else if self.waiting.is_empty() {
            WriteOutcome::NotApplied(self.refusal.expect("whoever was asked has refused"))
        } else {
            return None;
        };
        self.ended = true;
        Some(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of one replica's share of a write.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Fate {
        Acks,
        Refuses,
        CannotSay,
        BreaksOff,
        Silent,
    }

    const FATES: [Fate; 5] = [Fate::Acks, Fate::Refuses, Fate::CannotSay, Fate::BreaksOff, Fate::Silent];

    /// The model: what may be said once these replicas' fates are known and `open` more are not.
    fn model(known: &[Fate], open: usize, needed: usize) -> Option<WriteOutcome> {
        let count = |fates: &[Fate]| known.iter().filter(|fate| fates.contains(fate)).count();
        let have = count(&[Fate::Acks]);
        let may_have = count(&[Fate::CannotSay, Fate::BreaksOff, Fate::Silent]);
        let out_of_reach = have + open < needed;
        match () {
            () if have >= needed => Some(WriteOutcome::Done { answered: have as u8 }),
            () if out_of_reach && have + may_have > 0 => Some(WriteOutcome::Unknown),
            () if out_of_reach && open == 0 => Some(WriteOutcome::NotApplied(ErrorCode::Overloaded)),
            () => None,
        }
    }

    fn tell(write: &mut WriteQuorum, replica: u8, fate: Fate) -> Option<WriteOutcome> {
        match fate {
            Fate::Acks => write.on_answer(replica, WriteAnswer::Applied),
            Fate::Refuses => write.on_answer(replica, WriteAnswer::Refused(ErrorCode::Overloaded)),
            Fate::CannotSay => write.on_answer(replica, WriteAnswer::Refused(ErrorCode::Unknown)),
            Fate::BreaksOff => write.on_lost(replica),
            Fate::Silent => unreachable!("the silent are told by the deadline"),
        }
    }

    /// Tells every fate in every order, and the deadline after each.
    fn explore(write: &WriteQuorum, waiting: ReplicaSet, known: &mut Vec<Fate>, needed: u8) -> usize {
        let mut ends = 1;
        let mut late = *write;
        let silent = known.iter().copied().chain(waiting.iter().map(|_| Fate::Silent)).collect::<Vec<_>>();
        assert_eq!(Some(late.on_deadline()), model(&silent, 0, needed as usize), "{silent:?} of {needed}");
        for replica in waiting.iter() {
            for fate in &FATES[..4] {
                let (mut next, mut left) = (*write, waiting);
                left.remove(replica);
                known.push(*fate);
                let outcome = tell(&mut next, replica, *fate);
                assert_eq!(
                    outcome,
                    model(known, left.len() as usize, needed as usize),
                    "{known:?} of {needed}"
                );
                match outcome {
                    Some(_) => {
                        ends += 1;
                        for after in left.iter() {
                            assert_eq!(tell(&mut next, after, Fate::Acks), None, "a write ends once");
                        }
                    }
                    None => ends += explore(&next, left, known, needed),
                }
                known.pop();
            }
        }
        ends
    }

    #[test]
    fn every_history_of_up_to_five_replicas_ends_as_the_table_says() {
        let mut ends = 0;
        for replicas in 1..=5u8 {
            let live: ReplicaSet = (0..replicas).collect();
            for needed in 1..=replicas {
                let write = WriteQuorum::start(replicas, live, needed).expect("all are live");
                ends += explore(&write, live, &mut Vec::new(), needed);
            }
        }
        assert!(ends > 100_000, "only {ends} histories were tried");
    }

    #[test]
    fn only_live_replicas_are_waited_for() {
        for bits in 0..32u8 {
            let live: ReplicaSet = (0..5).filter(|replica| bits & (1 << replica) != 0).collect();
            for needed in 0..=6 {
                match WriteQuorum::start(5, live, needed) {
                    Ok(write) => {
                        assert!(needed <= live.len());
                        explore_some(&write, live, needed.max(1));
                    }
                    Err(refusal) => {
                        assert!(live.len() < needed.max(1));
                        assert_eq!(refusal, Unavailable { live: live.len(), needed: needed.max(1) });
                    }
                }
            }
        }
    }

    fn explore_some(write: &WriteQuorum, live: ReplicaSet, needed: u8) {
        let mut write = *write;
        for dead in (0..5).filter(|replica| !live.contains(*replica)) {
            assert_eq!(tell(&mut write, dead, Fate::Acks), None, "it was not asked");
        }
        let outcomes: Vec<_> =
            live.iter().filter_map(|replica| tell(&mut write, replica, Fate::Acks)).collect();
        assert_eq!(outcomes, [WriteOutcome::Done { answered: needed }]);
    }

    #[test]
    fn an_answer_that_comes_twice_counts_once() {
        let live = (0..3).collect();
        let mut write = WriteQuorum::start(3, live, 2).expect("all are live");
        assert_eq!(write.on_answer(1, WriteAnswer::Applied), None);
        assert_eq!(write.on_answer(1, WriteAnswer::Applied), None);
        assert_eq!(write.on_lost(1), None);
        assert_eq!(write.on_answer(0, WriteAnswer::Applied), Some(WriteOutcome::Done { answered: 2 }));
    }

    #[test]
    fn not_applied_names_the_first_refusal() {
        let mut write = WriteQuorum::start(2, (0..2).collect(), 1).expect("both are live");
        assert_eq!(write.on_answer(1, WriteAnswer::Refused(ErrorCode::DiskFull)), None);
        let outcome = write.on_answer(0, WriteAnswer::Refused(ErrorCode::Fenced));
        assert_eq!(outcome, Some(WriteOutcome::NotApplied(ErrorCode::DiskFull)));
    }

    #[test]
    fn every_code_is_either_a_refusal_or_a_doubt() {
        for code in ErrorCode::ALL {
            let mut write = WriteQuorum::start(1, (0..1).collect(), 1).expect("live");
            let outcome = write.on_answer(0, WriteAnswer::Refused(code));
            let expected =
                if code.says_not_applied() { WriteOutcome::NotApplied(code) } else { WriteOutcome::Unknown };
            assert_eq!(outcome, Some(expected), "{code}");
        }
    }

    #[cfg(feature = "planted-bugs")]
    #[test]
    fn the_planted_bug_needs_one_too_few() {
        planted::plant(Some(planted::Bug::QuorumOffByOne));
        let mut write = WriteQuorum::start(3, (0..3).collect(), 2).expect("all are live");
        let outcome = write.on_answer(0, WriteAnswer::Applied);
        planted::plant(None);
        assert_eq!(outcome, Some(WriteOutcome::Done { answered: 1 }));
    }
}
