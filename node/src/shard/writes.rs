//! Coordinating writes: to all replicas at once, answered when the level is met.
//!
//! What decides is [`WriteQuorum`]; this file carries its messages.

use std::rc::Rc;

use ferrite_cluster::{ReplicaSet, WriteOutcome, WriteQuorum, planted};
use ferrite_wire::{ErrorCode, Key, Level, NodeId, Reply, Version, WriteAnswer, limits::REPLICAS_MAX};

use super::debts::Subject;
use super::latches::LatchId;
use super::requester::Requester;
use super::slab::OperationId;
use super::stand_ins::{STAND_INS_MAX, Spread};
use super::{Operation, Route, Shard};
use crate::env::{Connection, Env};

/// How it stands with this node's own copy of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Own {
    /// It is no replica.
    Nowhere,
    /// On its way to the log.
    Coming,
    /// Durable, and readable.
    There,
    /// The log did not take it, or cannot say whether it did.
    Refused,
}

/// A record on its way to the replicas of its key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Write<'w> {
    pub(super) requester: Requester,
    pub(super) route: Route,
    pub(super) level: Level,
    /// Others may stand in for replicas that are away.
    pub(super) sloppy: bool,
    pub(super) key: Key<'w>,
    /// As it is sent.
    pub(super) version: Version,
    pub(super) value: &'w [u8],
    /// The version that its client is told.
    pub(super) given: Version,
    pub(super) deadline_ns: u64,
}

impl Write<'_> {
    /// How many must acknowledge it.
    fn needed(&self) -> u8 {
        self.level.needed(self.route.replicas) as u8
    }
}

/// One write in flight, or one that has ended and still owes ([`super::debts`]).
#[derive(Debug)]
pub(super) struct WriteOperation {
    requester: Requester,
    /// The version that its client is told.
    version: Version,
    pub(super) quorum: WriteQuorum,
    /// Over which connection each replica was asked, to know who is lost when one breaks.
    asked: [Option<Connection>; REPLICAS_MAX],
    /// All replicas of the key's table.
    pub(super) wanted: ReplicaSet,
    /// Those in whose stead others were asked.
    pub(super) stood_in: ReplicaSet,
    /// Those others, whatever has become of it.
    stand_ins: Vec<NodeId>,
    deadline_ns: u64,
    /// Those that refused, and would again.
    pub(super) refused_for_good: ReplicaSet,
    /// Those that were asked and had too much to do: they said so, or nothing in time.
    pub(super) pressed: ReplicaSet,
    pub(super) route: Route,
    /// What it may owe, if there was room to keep it in mind.
    pub(super) subject: Option<Rc<Subject>>,
    /// This node's own copy.
    pub(super) own: Own,
    /// Those that missed it and are owed a hint, which cannot be made before this node has its own copy.
    pub(super) owed: ReplicaSet,
    /// It was answered.
    pub(super) ended: bool,
    /// Whoever has not answered is not waited for any more.
    pub(super) foreclosed: bool,
    /// The latch that it holds until it ends: it is apart from its replicas.
    apart: Option<LatchId>,
}

impl WriteOperation {
    /// A write that is about to be sent as it is spread.
    fn new(
        write: &Write<'_>,
        quorum: WriteQuorum,
        spread: &Spread,
        subject: Option<Rc<Subject>>,
    ) -> WriteOperation {
        let route = write.route;
        WriteOperation {
            requester: write.requester,
            version: write.given,
            quorum,
            asked: spread.connections,
            wanted: (0..route.replicas as u8).collect(),
            stood_in: spread.stood_in,
            stand_ins: spread.stand_ins.clone(),
            deadline_ns: write.deadline_ns,
            refused_for_good: ReplicaSet::default(),
            pressed: ReplicaSet::default(),
            route,
            subject,
            own: if route.position.is_some() { Own::Coming } else { Own::Nowhere },
            owed: ReplicaSet::default(),
            ended: false,
            foreclosed: false,
            apart: None,
        }
    }

    /// Takes note of an answer that is about this node's own copy. Says whether it is.
    fn own_answered(&mut self, replica: u8, answer: WriteAnswer) -> bool {
        let is_own = self.own == Own::Coming && self.route.position == Some(usize::from(replica));
        if is_own {
            self.own = if answer == WriteAnswer::Applied { Own::There } else { Own::Refused };
        }
        is_own
    }

    /// Another is asked in the stead of a replica, for the one before has refused; `way` leads there, and none to this node itself.
    pub(super) fn stand_in(&mut self, replica: u8, node: NodeId, way: Option<Connection>) {
        self.stand_ins.push(node);
        self.asked[replica as usize] = way;
    }

    /// What a stand-in for a replica is to be sent instead of the one that has refused, with all that have been asked so far, and until when. `None` = the
    /// write has ended, the replica has no stand-in, or the record is not in mind.
    pub(super) fn may_stand_in(&self, replica: u8) -> Option<(Rc<Subject>, Vec<NodeId>, u64)> {
        let is_open = !self.ended && self.stood_in.contains(replica);
        if !is_open || self.stand_ins.len() >= STAND_INS_MAX {
            return None;
        }
        Some((self.subject.clone()?, self.stand_ins.clone(), self.deadline_ns))
    }

    /// Whether its level was not met by replicas alone.
    fn is_sloppy(&self) -> bool {
        self.quorum.acked().without(self.stood_in).len() < self.quorum.needed()
    }
}

impl<E: Env> Shard<E> {
    /// Sends a record to the replicas of its key, and if it is sloppy to stand-ins for those that are away.
    pub(super) fn coordinate_write(self: &Rc<Self>, write: &Write<'_>) {
        if let Err(code) = self.start_write(write, None) {
            self.answer_error(write.requester, code);
        }
    }

    /// The same; with the latch of a write `apart` from its replicas, which is let go when that ends. After an error nothing was sent, nobody was
    /// answered, and the latch is still held.
    pub(super) fn start_write(
        self: &Rc<Self>,
        write: &Write<'_>,
        apart: Option<LatchId>,
    ) -> Result<(), ErrorCode> {
        let (mut operation, spread) = self.prepare_write(write)?;
        operation.apart = apart;
        let id = self.operations.borrow_mut().insert(Operation::Write(operation));
        self.deadlines.borrow_mut().add(write.deadline_ns, id);
        for replica in spread.asked.iter() {
            if let Err(code) = self.send_share(&spread, id, replica, write) {
                self.on_write_answer(id, replica, WriteAnswer::Refused(code));
            }
        }
        Ok(())
    }

    /// Makes the operation of a write, and says whom to send it to. An error is why it cannot begin.
    pub(super) fn prepare_write(&self, write: &Write<'_>) -> Result<(WriteOperation, Spread), ErrorCode> {
        if !self.has_room_to_coordinate() {
            return Err(ErrorCode::Overloaded);
        }
        let (replicas, needed) = (write.route.replicas as u8, write.needed());
        let spread = self.spread(write.route, write.sloppy, needed);
        let quorum =
            WriteQuorum::start(replicas, spread.asked, needed).map_err(|_| ErrorCode::Unavailable)?;
        let subject = Subject::new(&self.debts_held, write, !spread.stood_in.is_empty());
        Ok((WriteOperation::new(write, quorum, &spread, subject), spread))
    }

    /// A replica, perhaps this node, has answered.
    pub(super) fn on_write_answer(self: &Rc<Self>, id: OperationId, replica: u8, answer: WriteAnswer) {
        let news = self.with_write(id, |write| {
            let is_own = write.own_answered(replica, answer);
            Some((write.quorum.waiting().contains(replica), is_own))
        });
        match news {
            Some((true, _)) => {}
            // After the deadline: what is owed has waited for it.
            Some((false, true)) => return self.follow_debt(id, replica, false),
            // An answer that comes twice says nothing new.
            Some((false, false)) if planted::active(planted::Bug::RepeatedAckCounts) => {}
            Some((false, false)) | None => return,
        }
        if let WriteAnswer::Refused(code) = answer
            && self.ask_next_stand_in(id, replica, code)
        {
            return;
        }
        let outcome = match answer {
            // A replica that cannot say whether it kept the record counts like one that was lost.
            WriteAnswer::Refused(ErrorCode::Unknown) => {
                self.with_write(id, |write| write.quorum.on_lost(replica))
            }
            answer => self.with_write(id, |write| {
                if let WriteAnswer::Refused(code) = answer {
                    write.refused(replica, code);
                }
                write.quorum.on_answer(replica, answer)
            }),
        };
        let missed = match answer {
            WriteAnswer::Applied => false,
            WriteAnswer::Refused(_) => {
                self.with_write(id, |write| Some(!write.has_refused_for_good(replica))).unwrap_or(false)
            }
        };
        self.follow_write(id, replica, outcome, missed);
    }

    /// A replica will not answer: it may or may not have the record.
    pub(super) fn on_write_lost(self: &Rc<Self>, id: OperationId, replica: u8) {
        let is_news = self.with_write(id, |write| Some(write.quorum.waiting().contains(replica)));
        if is_news == Some(true) {
            let outcome = self.with_write(id, |write| write.quorum.on_lost(replica));
            self.follow_write(id, replica, outcome, true);
        }
    }

    /// The connection is gone: every write asked over it has lost that replica.
    pub(super) fn on_write_connection_lost(self: &Rc<Self>, id: OperationId, connection: Connection) {
        let lost = |write: &WriteOperation| write.asked.iter().position(|asked| *asked == Some(connection));
        if let Some(replica) = self.with_write(id, |write| lost(write)) {
            self.on_write_lost(id, replica as u8);
        }
    }

    /// Time is up.
    pub(super) fn on_write_deadline(self: &Rc<Self>, id: OperationId) {
        if self.foreclose(id) {
            return;
        }
        let outcome = self.with_write(id, |write| {
            write.give_up_silent();
            Some(write.quorum.on_deadline())
        });
        self.settle_write(id, outcome);
    }

    fn follow_write(
        self: &Rc<Self>,
        id: OperationId,
        replica: u8,
        outcome: Option<WriteOutcome>,
        missed: bool,
    ) {
        match outcome {
            Some(_) => self.settle_write(id, outcome),
            None => self.follow_debt(id, replica, missed),
        }
    }

    pub(super) fn with_write<R>(
        &self,
        id: OperationId,
        act: impl FnOnce(&mut WriteOperation) -> Option<R>,
    ) -> Option<R> {
        match self.operations.borrow_mut().get_mut(id) {
            Some(Operation::Write(write)) => act(write),
            Some(
                Operation::Read(_) | Operation::Repair(_) | Operation::Forward(_) | Operation::Delivery(_),
            )
            | None => None,
        }
    }

    fn settle_write(self: &Rc<Self>, id: OperationId, outcome: Option<WriteOutcome>) {
        let Some(outcome) = outcome else { return };
        let told = self.with_write(id, |write| {
            Some((write.requester, write.version, write.is_sloppy(), write.apart.take()))
        });
        let (requester, version, sloppy, apart) = told.expect("an outcome comes from a write in flight");
        match outcome {
            WriteOutcome::Done { answered } => {
                self.answer(requester, &Reply::Done { version, answered, sloppy });
            }
            WriteOutcome::NotApplied(code) => self.answer_error(requester, code),
            WriteOutcome::Unknown => {
                ferrite_lsm::cover::mark("write in doubt");
                self.answer_in_doubt(requester, version);
            }
        }
        self.settle_debts(id, &outcome);
        if let Some(latch) = apart {
            self.end_apart(latch, !matches!(outcome, WriteOutcome::NotApplied(_)));
        }
    }
    /// Nobody knows what became of a write. Its client is told the time of it: what the client writes next is to win over it.
    pub(super) fn answer_in_doubt(&self, requester: Requester, version: Version) {
        self.counters.count_error(ErrorCode::Unknown);
        let reply = Reply::Error { code: ErrorCode::Unknown, text: "" };
        self.answer_seen(requester, &reply, version.order);
    }
}
