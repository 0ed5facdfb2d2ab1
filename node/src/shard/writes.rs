//! Coordinating writes: to all replicas at once, answered when the level is met.
//!
//! What decides is [`WriteQuorum`]; this file carries its messages.

use std::rc::Rc;

use ferrite_cluster::{ReplicaSet, WriteOutcome, WriteQuorum};
use ferrite_wire::{ErrorCode, Key, Level, PeerMessage, Reply, Version, WriteAnswer};

use super::log_pump::Ack;
use super::record::{engine_key, record_of};
use super::requester::Requester;
use super::slab::OperationId;
use super::{Operation, Route, Shard};
use crate::env::{Connection, Env};

/// One write in flight.
#[derive(Debug)]
pub(super) struct WriteOperation {
    requester: Requester,
    version: Version,
    quorum: WriteQuorum,
    /// Over which connection each replica was asked, to know who is lost when one breaks.
    asked: [Option<Connection>; ferrite_wire::limits::REPLICAS_MAX],
}

impl WriteOperation {
    /// A write that has been started, with the way to each replica.
    pub(super) fn new(
        requester: Requester,
        version: Version,
        quorum: WriteQuorum,
        asked: [Option<Connection>; ferrite_wire::limits::REPLICAS_MAX],
    ) -> WriteOperation {
        WriteOperation { requester, version, quorum, asked }
    }
}

impl<E: Env> Shard<E> {
    /// The replicas of a route that can be reached at this moment, and that gossip does not hold to be absent.
    pub(super) fn live_replicas(
        &self,
        route: Route,
    ) -> (ReplicaSet, [Option<Connection>; ferrite_wire::limits::REPLICAS_MAX]) {
        let ring = self.ring.borrow();
        let links = self.links.borrow();
        let mut live = ReplicaSet::default();
        let mut connections = [None; ferrite_wire::limits::REPLICAS_MAX];
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

    /// Sends a write to every live replica of its key.
    #[expect(clippy::too_many_arguments, reason = "a write is all of these")]
    pub(super) fn coordinate_write(
        self: &Rc<Self>,
        requester: Requester,
        route: Route,
        level: Level,
        key: &Key<'_>,
        version: Version,
        value: &[u8],
        deadline_ns: u64,
    ) {
        if !self.operations.borrow().has_room() {
            return self.answer_error(requester, ErrorCode::Overloaded);
        }
        let (live, connections) = self.live_replicas(route);
        let Ok(quorum) = WriteQuorum::start(route.replicas as u8, live, level.needed(route.replicas) as u8)
        else {
            return self.answer_error(requester, ErrorCode::Unavailable);
        };
        let operation = WriteOperation { requester, version, quorum, asked: connections };
        let id = self.operations.borrow_mut().insert(Operation::Write(operation));
        self.deadlines.borrow_mut().add(deadline_ns, id);
        let left_ns = deadline_ns.saturating_sub(self.env.now_ns());
        let message = PeerMessage::ReplicaWrite { vnode_epoch: route.vnode_epoch, key: *key, version, value };
        for replica in live.iter() {
            let refused = match connections[replica as usize] {
                Some(connection) => {
                    let sent = self.ask_replica(connection, id, replica, left_ns, &message);
                    (!sent).then_some(ErrorCode::Overloaded)
                }
                None => {
                    let ack = Ack::Local { operation: id, replica };
                    let key = engine_key(key, route.vnode, route.token);
                    self.stage(key, record_of(&version, value), route.vnode_epoch.0, ack).err()
                }
            };
            if let Some(code) = refused {
                self.on_write_answer(id, replica, WriteAnswer::Refused(code));
            }
        }
    }

    /// A replica, perhaps this node, has answered.
    pub(super) fn on_write_answer(self: &Rc<Self>, id: OperationId, replica: u8, answer: WriteAnswer) {
        let outcome = match answer {
            // A replica that cannot say whether it kept the record counts like one that was lost.
            WriteAnswer::Refused(ErrorCode::Unknown) => {
                self.with_write(id, |write| write.quorum.on_lost(replica))
            }
            answer => self.with_write(id, |write| write.quorum.on_answer(replica, answer)),
        };
        self.settle_write(id, outcome);
    }

    /// A replica will not answer: it may or may not have the record.
    pub(super) fn on_write_lost(self: &Rc<Self>, id: OperationId, replica: u8) {
        let outcome = self.with_write(id, |write| write.quorum.on_lost(replica));
        self.settle_write(id, outcome);
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
        let outcome = self.with_write(id, |write| Some(write.quorum.on_deadline()));
        self.settle_write(id, outcome);
    }

    fn with_write<R>(
        &self,
        id: OperationId,
        act: impl FnOnce(&mut WriteOperation) -> Option<R>,
    ) -> Option<R> {
        match self.operations.borrow_mut().get_mut(id) {
            Some(Operation::Write(write)) => act(write),
            Some(Operation::Read(_) | Operation::Repair(_) | Operation::Forward(_)) | None => None,
        }
    }

    fn settle_write(&self, id: OperationId, outcome: Option<WriteOutcome>) {
        let Some(outcome) = outcome else { return };
        let Some(Operation::Write(write)) = self.operations.borrow_mut().remove(id) else {
            unreachable!("an outcome comes from a write in flight");
        };
        match outcome {
            WriteOutcome::Done { answered } => {
                self.answer(
                    write.requester,
                    &Reply::Done { version: write.version, answered, sloppy: false },
                );
            }
            WriteOutcome::NotApplied(code) => self.answer_error(write.requester, code),
            WriteOutcome::Unknown => {
                ferrite_lsm::cover::mark("write in doubt");
                // Its client is told the time of it: what the client writes next is to win over it.
                self.counters.count_error(ErrorCode::Unknown);
                let reply = Reply::Error { code: ErrorCode::Unknown, text: "" };
                self.answer_seen(write.requester, &reply, write.version.order);
            }
        }
    }
}
