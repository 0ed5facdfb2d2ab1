//! Coordinating writes: to all replicas at once, answered when the level is met.
//!
//! What decides is [`WriteQuorum`]; this file carries its messages.

use std::rc::Rc;

use ferrite_cluster::{ReplicaSet, WriteOutcome, WriteQuorum};
use ferrite_wire::{ErrorCode, Key, Level, Reply, Version, WriteAnswer, limits::REPLICAS_MAX};

use super::debts::Subject;
use super::latches::LatchId;
use super::requester::Requester;
use super::slab::OperationId;
use super::stand_ins::Spread;
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
    stood_in: ReplicaSet,
    /// Those that refused, and would again.
    pub(super) refused_for_good: ReplicaSet,
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
    /// A write that has been started, with the way to each replica.
    pub(super) fn new(
        requester: Requester,
        version: Version,
        quorum: WriteQuorum,
        spread: &Spread,
        (route, subject): (Route, Option<Rc<Subject>>),
    ) -> WriteOperation {
        WriteOperation {
            requester,
            version,
            quorum,
            asked: spread.connections,
            wanted: (0..route.replicas as u8).collect(),
            stood_in: spread.stood_in,
            refused_for_good: ReplicaSet::default(),
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

    /// Whether its level was not met by replicas alone.
    fn is_sloppy(&self) -> bool {
        self.quorum.acked().without(self.stood_in).len() < self.quorum.needed()
    }
}

impl<E: Env> Shard<E> {
    /// The replicas of a route that can be reached at this moment, and that gossip does not hold to be absent.
    pub(super) fn live_replicas(&self, route: Route) -> (ReplicaSet, [Option<Connection>; REPLICAS_MAX]) {
        let ring = self.ring.borrow();
        let links = self.links.borrow();
        let mut live = ReplicaSet::default();
        let mut connections = [None; REPLICAS_MAX];
        for (at, node) in ring.replicas(route.vnode)[..route.replicas].iter().enumerate() {
            if Some(at) == route.position {
                live.insert(at as u8);
                continue;
            }
            let core = ring.core_of(*node, route.vnode);
            if self.counts_absent(*node, core) {
                ferrite_lsm::cover::mark("replica absent by gossip");
            } else if let Some(connection) = links.route(*node, core) {
                live.insert(at as u8);
                connections[at] = Some(connection);
            }
        }
        (live, connections)
    }

    /// Sends a record to every live replica of its key, and if it is `sloppy` to stand-ins for others. `given` is the version that the client is
    /// told.
    #[expect(clippy::too_many_arguments, reason = "a write is all of these")]
    pub(super) fn coordinate_write(
        self: &Rc<Self>,
        requester: Requester,
        route: Route,
        level: Level,
        key: &Key<'_>,
        version: Version,
        value: &[u8],
        given: Version,
        sloppy: bool,
        deadline_ns: u64,
    ) {
        let started =
            self.start_write(requester, route, level, key, version, value, given, sloppy, deadline_ns, None);
        if let Err(code) = started {
            self.answer_error(requester, code);
        }
    }

    /// The same; with the latch of a write `apart` from its replicas, which is let go when that ends. After an error nothing was sent, nobody was
    /// answered, and the latch is still held.
    #[expect(clippy::too_many_arguments, reason = "a write is all of these")]
    pub(super) fn start_write(
        self: &Rc<Self>,
        requester: Requester,
        route: Route,
        level: Level,
        key: &Key<'_>,
        version: Version,
        value: &[u8],
        given: Version,
        sloppy: bool,
        deadline_ns: u64,
        apart: Option<LatchId>,
    ) -> Result<(), ErrorCode> {
        if !self.has_room_to_coordinate() {
            return Err(ErrorCode::Overloaded);
        }
        let spread = self.spread(route, sloppy);
        let quorum =
            WriteQuorum::start(route.replicas as u8, spread.asked, level.needed(route.replicas) as u8)
                .map_err(|_| ErrorCode::Unavailable)?;
        let about = (route, Subject::new(&self.debts_held, route, key, version, value));
        let mut operation = WriteOperation::new(requester, given, quorum, &spread, about);
        operation.apart = apart;
        let id = self.operations.borrow_mut().insert(Operation::Write(operation));
        self.deadlines.borrow_mut().add(deadline_ns, id);
        let left_ns = deadline_ns.saturating_sub(self.env.now_ns());
        for replica in spread.asked.iter() {
            if let Err(code) = self.send_share(&spread, id, replica, left_ns, route, key, version, value) {
                self.on_write_answer(id, replica, WriteAnswer::Refused(code));
            }
        }
        Ok(())
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
            Some((false, false)) | None => return,
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
        let outcome = self.with_write(id, |write| Some(write.quorum.on_deadline()));
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
                // Its client is told the time of it: what the client writes next is to win over it.
                self.counters.count_error(ErrorCode::Unknown);
                let reply = Reply::Error { code: ErrorCode::Unknown, text: "" };
                self.answer_seen(requester, &reply, version.order);
            }
        }
        self.settle_debts(id, &outcome);
        if let Some(latch) = apart {
            self.end_apart(latch, !matches!(outcome, WriteOutcome::NotApplied(_)));
        }
    }
}
