//! The task that turns staged records into durable groups, and the acknowledgements that wait for them.
//!
//! Records become durable in the order they were staged, so what waits is a queue, not a map: after each group its front is
//! answered up to the group's last sequence number. One group is in flight at a time; what arrives meanwhile is the next.

use std::collections::VecDeque;
use std::rc::Rc;

use ferrite_cluster::hints::LaneId;
use ferrite_lsm::{CommitError, Key, Record, Refusal, Seq};
use ferrite_wire::{ErrorCode, Order, PeerMessage, Reply, Version, WriteAnswer};

use super::Shard;
use super::debts::HINTS_AT_ONCE;
use super::expiry::{NEVER_NS, Waited};
use super::hints::HintAck;
use super::latches::LatchId;
use super::requester::Requester;
use super::slab::OperationId;
use crate::env::Env;

/// What is to be done once a record is durable.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ack {
    /// Answer a client whose key has this node as its only replica.
    Client {
        /// Who.
        requester: Requester,
        /// The version it was given.
        version: Version,
        /// When it is told that nobody knows.
        deadline_ns: u64,
    },
    /// Answer the coordinator on another node.
    Peer(Requester),
    /// Count for an operation coordinated by this core.
    Local {
        /// Which.
        operation: OperationId,
        /// This node's place in the key's preference list.
        replica: u8,
    },
    /// Count for a read of this core that repairs its own copy.
    Repair {
        /// Which.
        operation: OperationId,
        /// This node's place in the key's preference list.
        replica: u8,
    },
    /// As `Local`, of a set of siblings that this core has made: then its key's latch is let go.
    Set {
        /// Which.
        operation: OperationId,
        /// This node's place in the key's preference list.
        replica: u8,
        /// The latch.
        latch: LatchId,
    },
    /// A hint is kept.
    Hint(HintAck),
    /// The watermark of a lane of hints is known after a restart, too.
    HintMark {
        /// Which lane.
        lane: LaneId,
        /// The watermark.
        mark: u64,
    },
    /// The clock may now mint up to here.
    ClockBound(Order),
    /// Later lives of this node know that there are records from afar up to here.
    Afar(Order),
    /// Nobody waits: it is for later lives of this node, which do without.
    Nobody,
}

/// Acknowledgements waiting for their groups.
#[derive(Debug, Default)]
pub(super) struct AckQueue {
    waiting: VecDeque<(Seq, Ack)>,
    /// The first of them at the last tick.
    first_before: Option<Seq>,
}

impl AckQueue {
    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    fn push(&mut self, seq: Seq, ack: Ack) {
        debug_assert!(self.waiting.back().is_none_or(|(last, _)| *last < seq), "records are staged in order");
        self.waiting.push_back((seq, ack));
    }

    fn pop_through(&mut self, durable: Seq) -> Option<Ack> {
        match self.waiting.front() {
            Some((seq, _)) if *seq <= durable => self.waiting.pop_front().map(|(_, ack)| ack),
            _ => None,
        }
    }

    /// Clients whose time is up, with what they were given: they are not answered again. Looked for while the log stands still, so that while it does not this
    /// costs a comparison.
    fn take_late(&mut self, now_ns: u64) -> Vec<(Requester, Version)> {
        let first = self.waiting.front().map(|(seq, _)| *seq);
        let mut late = Vec::new();
        if first.is_none() || std::mem::replace(&mut self.first_before, first) != first {
            return late;
        }
        for (_, ack) in &mut self.waiting {
            if let Ack::Client { requester, version, deadline_ns } = *ack
                && now_ns >= deadline_ns
            {
                late.push((requester, version));
                *ack = Ack::Nobody;
            }
        }
        late
    }
}

/// The error code a refusal is answered with.
pub(super) fn refusal_code(refusal: Refusal) -> ErrorCode {
    match refusal {
        Refusal::Fenced => ErrorCode::Fenced,
        Refusal::DiskFull => ErrorCode::DiskFull,
        Refusal::Overloaded => ErrorCode::Overloaded,
        Refusal::TooLarge => ErrorCode::TooLarge,
        Refusal::UnknownVnode => ErrorCode::Unavailable,
    }
}

impl<E: Env> Shard<E> {
    /// Puts a record into the next group; `ack` is acted on when it is durable.
    pub(super) fn stage(
        &self,
        key: Key<'_>,
        record: Record<'_>,
        vnode_epoch: u64,
        ack: Ack,
    ) -> Result<(), ErrorCode> {
        self.stage_by(NEVER_NS, key, record, vnode_epoch, ack)
    }

    /// The same of a record that is refused if it finds no room until then.
    pub(super) fn stage_by(
        &self,
        deadline_ns: u64,
        key: Key<'_>,
        record: Record<'_>,
        vnode_epoch: u64,
        ack: Ack,
    ) -> Result<(), ErrorCode> {
        let mut waiting = self.waiting.borrow_mut();
        let refusal = if waiting.is_empty() {
            match self.engine.stage(key, record, vnode_epoch) {
                Ok(seq) => {
                    self.acks.borrow_mut().push(seq, ack);
                    return Ok(());
                }
                Err(refusal) => refusal,
            }
        } else {
            Refusal::Overloaded
        };
        if refusal == Refusal::Overloaded && waiting.enter(deadline_ns, key, record, vnode_epoch, ack) {
            return Ok(());
        }
        Err(refusal_code(refusal))
    }

    /// As [`Shard::stage`], but what finds no room is refused instead of kept waiting.
    pub(super) fn stage_now(
        &self,
        key: Key<'_>,
        record: Record<'_>,
        vnode_epoch: u64,
        ack: Ack,
    ) -> Result<(), ErrorCode> {
        if !self.waiting.borrow().is_empty() {
            return Err(ErrorCode::Overloaded);
        }
        self.stage_past_waiting(key, record, vnode_epoch, ack)
    }

    /// The same of a record that may overtake those that wait: whose key is nobody else's, and which is one of a few.
    pub(super) fn stage_past_waiting(
        &self,
        key: Key<'_>,
        record: Record<'_>,
        vnode_epoch: u64,
        ack: Ack,
    ) -> Result<(), ErrorCode> {
        let seq = self.engine.stage(key, record, vnode_epoch).map_err(refusal_code)?;
        self.acks.borrow_mut().push(seq, ack);
        Ok(())
    }

    /// Stages what has waited, as far as there is room. Called whenever there may be more than before.
    pub(super) fn admit_waiting(self: &Rc<Self>) {
        loop {
            let (refused, ack) = {
                let mut waiting = self.waiting.borrow_mut();
                let Some(first) = waiting.first() else { return };
                if let Err(code) = self.in_time(first.deadline_ns, Waited::ForLog) {
                    (code, waiting.leave().expect("it was first").ack)
                } else {
                    let staged = self.engine.stage(first.key.as_key(), first.record(), first.vnode_epoch);
                    if staged == Err(Refusal::Overloaded) {
                        return;
                    }
                    let left = waiting.leave().expect("it was first");
                    match staged {
                        Ok(seq) => {
                            self.acks.borrow_mut().push(seq, left.ack);
                            continue;
                        }
                        Err(refusal) => (refusal_code(refusal), left.ack),
                    }
                }
            };
            self.refuse_ack(ack, refused);
        }
    }

    /// Answers whoever waited for a record that was certainly not applied here, or perhaps was (`Unknown`).
    pub(super) fn refuse_ack(self: &Rc<Self>, ack: Ack, code: ErrorCode) {
        match ack {
            Ack::Client { requester, version, .. } if code == ErrorCode::Unknown => {
                self.answer_in_doubt(requester, version);
            }
            Ack::Client { requester, .. } => self.answer_error(requester, code),
            Ack::Peer(requester) => {
                self.answer_peer(requester, &PeerMessage::ReplicaWriteAnswer(WriteAnswer::Refused(code)));
            }
            Ack::Local { operation, replica } => self.refuse_own(operation, replica, code),
            Ack::Repair { operation, replica } => {
                self.on_repair_answer(operation, replica, WriteAnswer::Refused(code));
            }
            Ack::Set { operation, replica, latch } => {
                // Others may have the set, and this replica has not.
                self.renew_actor();
                self.refuse_own(operation, replica, code);
                self.release_latch(latch);
            }
            Ack::Hint(hint) => self.hint_written(hint, Some(code)),
            Ack::HintMark { lane, .. } => self.hint_marked(lane, None),
            Ack::ClockBound(_) => self.bound_refused(),
            Ack::Afar(_) => self.afar.refused(),
            Ack::Nobody => {}
        }
    }

    /// Answers the clients of writes that have no operation, for this node has their only replica, once their time is up: nobody knows what becomes of these. Those
    /// that have no place in a group yet are not written, whoever waits for them.
    pub(super) fn end_late_puts(self: &Rc<Self>, now_ns: u64) {
        let late = self.waiting.borrow_mut().take_late(now_ns);
        for waiting in late {
            self.count_expired(Waited::ForLog);
            self.refuse_ack(waiting.ack, ErrorCode::Expired);
        }
        let late = self.acks.borrow_mut().take_late(now_ns);
        late.into_iter().for_each(|(requester, version)| self.answer_in_doubt(requester, version));
    }

    /// Starts the pump unless it runs or has nothing to do. Called when a whole batch of requests has been staged.
    pub(super) fn start_pump(self: &Rc<Self>) {
        if self.pump_runs.get() || !self.engine.has_staged() {
            return;
        }
        self.pump_runs.set(true);
        let shard = self.clone();
        self.env.spawn(async move {
            while shard.engine.has_staged() {
                // Writers are slowed down while background work is behind, so that they need not be refused.
                let delay_us = shard.engine.write_delay_us();
                if delay_us > 0 && !shard.stopping.get() {
                    shard.env.sleep_ns(delay_us * 1_000).await;
                }
                match shard.engine.commit().await {
                    Ok(durable) => {
                        shard.acknowledge(durable);
                        shard.make_hints(HINTS_AT_ONCE);
                        shard.admit_waiting();
                    }
                    Err(error) => {
                        shard.fail_waiting(error);
                        break;
                    }
                }
            }
            shard.pump_runs.set(false);
            let now_ns = shard.env.now_ns();
            shard.wrote_ns.set(Some(now_ns));
            shard.busy_ns.set(Some(now_ns));
            shard.start_job();
        });
    }

    fn acknowledge(self: &Rc<Self>, durable: Seq) {
        loop {
            let ack = self.acks.borrow_mut().pop_through(durable);
            let Some(ack) = ack else { break };
            match ack {
                Ack::Client { requester, version, .. } => {
                    self.answer(requester, &Reply::Done { version, answered: 1, sloppy: false });
                }
                Ack::Peer(requester) => {
                    self.answer_peer(requester, &PeerMessage::ReplicaWriteAnswer(WriteAnswer::Applied));
                }
                Ack::Local { operation, replica } => {
                    self.on_write_answer(operation, replica, WriteAnswer::Applied);
                }
                Ack::Repair { operation, replica } => {
                    self.on_repair_answer(operation, replica, WriteAnswer::Applied);
                }
                Ack::Set { operation, replica, latch } => {
                    self.on_write_answer(operation, replica, WriteAnswer::Applied);
                    self.release_latch(latch);
                }
                Ack::Hint(hint) => self.hint_written(hint, None),
                Ack::HintMark { lane, mark } => self.hint_marked(lane, Some(mark)),
                Ack::ClockBound(bound) => {
                    self.bound_written(bound);
                }
                Ack::Afar(mark) => self.afar.written(mark),
                Ack::Nobody => {}
            }
        }
        self.start_job();
    }

    /// A commit failed. If a sync did, what was in flight may or may not be found after a restart: nobody is told that it was not
    /// applied. If there was no space or no buffer, nothing was written.
    fn fail_waiting(self: &Rc<Self>, error: CommitError) {
        let code = match error {
            CommitError::Fenced => {
                self.tell_fence();
                ErrorCode::Unknown
            }
            CommitError::DiskFull => {
                tracing::warn!(core = self.settings.core.0, "the disk is full: this core refuses writes");
                ErrorCode::DiskFull
            }
            CommitError::Overloaded => ErrorCode::Overloaded,
        };
        let waiting = std::mem::take(&mut self.acks.borrow_mut().waiting);
        for (_, ack) in waiting {
            self.refuse_ack(ack, code);
        }
        self.admit_waiting();
    }

    /// Says once that this core takes no writes any more, whatever failed: a commit, a periodic sync, or background work.
    pub(super) fn tell_fence(&self) {
        if !self.engine.is_fenced() || self.fence_told.replace(true) {
            return;
        }
        tracing::error!(
            core = self.settings.core.0,
            "a sync failed: this core is fenced and serves reads only until the node is restarted"
        );
        if let Some(told) = self.on_fence.borrow_mut().take() {
            told();
        }
    }

    /// Runs flushes, compactions and the log's housekeeping, one at a time. A core that stops runs what makes room for those who wait for it, and nothing else: the rest is as well
    /// done after the next start, and may take longer than a stop has.
    pub(super) fn start_job(self: &Rc<Self>) {
        if self.job_runs.get() || self.stopping.get() && !self.waits_for_room() {
            return;
        }
        let Some(first) = self.engine.next_job() else { return };
        self.job_runs.set(true);
        let shard = self.clone();
        self.env.spawn(async move {
            let mut next = Some(first);
            while let Some(job) = next {
                if let Err(error) = shard.engine.run(job).await {
                    tracing::warn!(core = shard.settings.core.0, %error, "background work failed; it is tried again");
                    shard.counters.jobs_failed.set(shard.counters.jobs_failed.get() + 1);
                    shard.env.sleep_ns(JOB_RETRY_PAUSE_NS).await;
                }
                shard.admit_waiting();
                shard.start_pump();
                next = if shard.stopping.get() { None } else { shard.engine.next_job() };
            }
            shard.job_runs.set(false);
        });
    }

    fn waits_for_room(&self) -> bool {
        !self.waiting.borrow().is_empty() || !self.owed.borrow().is_empty() || self.engine.has_staged()
    }
}

/// Pause after failed background work: a full disk is asked again this often.
const JOB_RETRY_PAUSE_NS: u64 = 500_000_000;
