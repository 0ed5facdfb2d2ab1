//! Carrying what reads write to replicas that are behind: records as they were found, with the versions they have.
//!
//! Which replicas, and whether an answer waits for them, is decided by [`ReadQuorum`](ferrite_cluster::ReadQuorum). What an answer waits for is
//! part of its read and ends with it. What is written afterwards is an operation of its own: so many of them at a time, and beyond that
//! the repair is dropped, and counted, for the next read of the key will find the same.

use std::rc::Rc;

use ferrite_cluster::{ReadStep, ReplicaSet, planted};
use ferrite_lsm::cover;
use ferrite_wire::{ErrorCode, Key, PeerMessage, Version, WriteAnswer, limits::REPLICAS_MAX};

use super::log_pump::Ack;
use super::reads::ReadOperation;
use super::record::{engine_key, record_of};
use super::slab::OperationId;
use super::{Operation, Route, Shard};
use crate::env::{Connection, Env};

/// Most repairs of a core that nobody waits for, in flight at a time.
pub(super) const BACKGROUND_REPAIRS_MAX: usize = 256;

/// A repair that no answer waits for.
#[derive(Debug)]
pub(super) struct RepairOperation {
    waiting: ReplicaSet,
    connections: [Option<Connection>; REPLICAS_MAX],
}

/// What is written, and how replicas are reached.
struct Repair<'r> {
    route: Route,
    key: Key<'r>,
    version: Version,
    value: &'r [u8],
    connections: [Option<Connection>; REPLICAS_MAX],
    deadline_ns: u64,
}

impl<E: Env> Shard<E> {
    /// Writes what a read has kept to replicas that its answer waits for.
    pub(super) fn repair_first(self: &Rc<Self>, id: OperationId, replicas: ReplicaSet) {
        let (refused, may_hedge) = {
            let mut operations = self.operations.borrow_mut();
            let Some(Operation::Read(read)) = operations.get_mut(id) else { return };
            let version = read.repaired_to().expect("it repairs");
            let repair = Repair {
                route: read.route,
                key: read.key(),
                version,
                value: read.kept(),
                connections: read.connections,
                deadline_ns: read.deadline_ns,
            };
            cover::mark("read repaired before its answer");
            (self.write_repair(id, &repair, replicas), read.may_hedge())
        };
        if may_hedge {
            self.hedge_repair_later(id);
        }
        for (replica, code) in refused {
            self.on_repair_answer(id, replica, WriteAnswer::Refused(code));
        }
    }

    /// Writes what an ended read has found to replicas that lack it; nobody waits for it.
    pub(super) fn repair_afterwards(
        self: &Rc<Self>,
        read: &ReadOperation,
        version: Version,
        value: &[u8],
        replicas: ReplicaSet,
    ) {
        let counters = &self.counters.repairs;
        let has_room = counters.in_flight.get() < BACKGROUND_REPAIRS_MAX;
        if !has_room || self.stopping.get() || !self.has_room_to_coordinate() {
            counters.dropped.set(counters.dropped.get() + 1);
            return;
        }
        counters.in_flight.set(counters.in_flight.get() + 1);
        counters.after.set(counters.after.get() + 1);
        cover::mark("read repaired after its answer");
        let connections = read.connections;
        let operation = RepairOperation { waiting: replicas, connections };
        let id = self.operations.borrow_mut().insert(Operation::Repair(Box::new(operation)));
        let deadline_ns = self.env.now_ns() + self.settings.request_timeout_ns;
        self.deadlines.borrow_mut().add(deadline_ns, id);
        let repair = Repair { route: read.route, key: read.key(), version, value, connections, deadline_ns };
        for (replica, code) in self.write_repair(id, &repair, replicas) {
            self.on_repair_answer(id, replica, WriteAnswer::Refused(code));
        }
    }

    /// Sends a record to each of `replicas`; tells those that certainly do not get it.
    fn write_repair(
        self: &Rc<Self>,
        id: OperationId,
        repair: &Repair<'_>,
        replicas: ReplicaSet,
    ) -> Vec<(u8, ErrorCode)> {
        let Repair { route, key, mut version, value, connections, deadline_ns } = *repair;
        if planted::active(planted::Bug::RepairMintsAnew) && !route.has_siblings() {
            version.order = self.mint(version.order).unwrap_or(version.order);
        }
        let left_ns = deadline_ns.saturating_sub(self.env.now_ns());
        let message = PeerMessage::ReplicaWrite { vnode_epoch: route.vnode_epoch, key, version, value };
        let write = |replica: u8| match connections[replica as usize] {
            Some(connection) => {
                let sent = self.ask_replica(connection, id, replica, left_ns, &message);
                (!sent).then_some((replica, ErrorCode::Overloaded))
            }
            None => {
                let ack = Ack::Repair { operation: id, replica };
                let key = engine_key(&key, route.vnode, route.token);
                let noted = self.take_note(&route, version.order);
                let staged =
                    noted.and_then(|_| self.stage(key, record_of(&version, value), route.vnode_epoch.0, ack));
                staged.err().map(|code| (replica, code))
            }
        };
        let written = &self.counters.repairs.written;
        written.set(written.get() + u64::from(replicas.len()));
        replicas.iter().filter_map(write).collect()
    }

    /// A replica, perhaps this node, has answered what it was sent as a write.
    pub(super) fn on_wrote(self: &Rc<Self>, id: OperationId, replica: u8, answer: WriteAnswer) {
        let is_write = matches!(self.operations.borrow_mut().get_mut(id), Some(Operation::Write(_)));
        if is_write {
            return self.on_write_answer(id, replica, answer);
        }
        let answer = match answer {
            // A record from afar is there, newer than this hint or repair, which is not a client's write: all is well.
            WriteAnswer::Refused(ErrorCode::ClockDrift) => WriteAnswer::Applied,
            answer => answer,
        };
        if !self.on_delivery_answer(id, answer) {
            self.on_repair_answer(id, replica, answer);
        }
    }

    /// A replica has taken a repair, or has not.
    pub(super) fn on_repair_answer(self: &Rc<Self>, id: OperationId, replica: u8, answer: WriteAnswer) {
        let step = match self.operations.borrow_mut().get_mut(id) {
            Some(Operation::Read(read)) => read.on_repaired(replica, answer),
            Some(Operation::Repair(repair)) if repair.waiting.contains(replica) => {
                repair.waiting.remove(replica);
                if !repair.waiting.is_empty() {
                    return;
                }
                ReadStep::default()
            }
            _ => return,
        };
        if !self.end_repair(id) {
            self.follow_read(id, step, b"");
        }
    }

    /// The connection is gone that a repair went over.
    pub(super) fn on_repair_connection_lost(self: &Rc<Self>, id: OperationId, connection: Connection) {
        let lost = match self.operations.borrow_mut().get_mut(id) {
            Some(Operation::Read(read)) => read.connections,
            Some(Operation::Repair(repair)) => repair.connections,
            Some(Operation::Write(_) | Operation::Forward(_) | Operation::Delivery(_)) | None => return,
        };
        if let Some(replica) = lost.iter().position(|asked| *asked == Some(connection)) {
            self.on_repair_answer(id, replica as u8, WriteAnswer::Refused(ErrorCode::Unknown));
        }
    }

    /// Ends a repair that nobody waits for, whatever has become of it. False = that is no such repair.
    pub(super) fn end_repair(&self, id: OperationId) -> bool {
        let mut operations = self.operations.borrow_mut();
        let is_repair = matches!(operations.get_mut(id), Some(Operation::Repair(_)));
        if is_repair {
            operations.remove(id);
            let in_flight = &self.counters.repairs.in_flight;
            in_flight.set(in_flight.get() - 1);
        }
        is_repair
    }
}
