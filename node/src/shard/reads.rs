//! Coordinating reads: one replica sends the record, the others its digest.
//!
//! What decides is [`ReadQuorum`]; this file carries its messages and keeps the bytes of the best record so far.

use std::rc::Rc;

use ferrite_cluster::{
    Ask, Candidates, ReadAnswer, ReadOutcome, ReadQuorum, ReadStep, Reading, Repairing, ReplicaSet,
    SiblingSet,
};
use ferrite_lsm::cover;
use ferrite_wire::{
    ErrorCode, Key, Level, NodeId, PeerMessage, ReadWant, ReplicaAnswer, Reply, TableId, Version,
    WriteAnswer, limits::REPLICAS_MAX,
};

use super::hedges::Timed;
use super::held::Holding;
use super::record::version_of;
use super::requester::Requester;
use super::set_writes::SetWrite;
use super::sets::{arrived, clock_of, joined};
use super::slab::OperationId;
use super::{Operation, Route, Shard};
use crate::env::{Connection, Env};

/// Whom a read asks, and what it does about those that are behind.
pub(super) struct Plan {
    pub(super) candidates: Candidates,
    /// How many of them must answer.
    pub(super) needed: u8,
    pub(super) repairing: Repairing,
    /// How each replica is reached; this node has no connection to itself.
    pub(super) connections: [Option<Connection>; REPLICAS_MAX],
    /// The replicas' nodes.
    pub(super) nodes: [NodeId; REPLICAS_MAX],
    /// Whether its answers tell how fast others are, and it earns towards the budget of hedges.
    pub(super) is_timed: bool,
}

/// One read in flight.
#[derive(Debug)]
pub(super) struct ReadOperation {
    requester: Requester,
    pub(super) route: Route,
    table: TableId,
    /// The key, partition then sort: asked again if answers differ or a replica fails.
    key: Box<[u8]>,
    partition_len: usize,
    pub(super) deadline_ns: u64,
    quorum: ReadQuorum,
    /// The newest full record that has come; of sets, what all that have come are together.
    kept: Vec<u8>,
    /// What is longer, in bytes, is no record that a replica could take: it is answered as it is found.
    repaired_bytes_max: usize,
    /// The bytes of key and `kept`.
    holding: Holding,
    /// What is to be written on top of what is found, in place of an answer.
    then: Option<Box<SetWrite>>,
    /// How fast its answers come.
    pub(super) timed: Timed,
    /// How each replica is reached; this node has no connection to itself.
    pub(super) connections: [Option<Connection>; REPLICAS_MAX],
}

impl ReadOperation {
    pub(super) fn key(&self) -> Key<'_> {
        let (partition, sort) = self.key.split_at(self.partition_len);
        Key { table: self.table, partition, sort }
    }

    /// The best record so far, or what the sets so far are together.
    pub(super) fn kept(&self) -> &[u8] {
        &self.kept
    }

    /// Those that were asked and have not answered.
    pub(super) fn awaited(&self) -> ReplicaSet {
        self.quorum.awaited()
    }

    /// Whether there is another that it may ask.
    pub(super) fn may_hedge(&self) -> bool {
        self.quorum.may_hedge()
    }

    /// Whether it waits for replicas that it has written to.
    pub(super) fn is_repairing(&self) -> bool {
        self.quorum.repaired_to().is_some()
    }

    /// Asks another.
    pub(super) fn hedge(&mut self) -> Option<Ask> {
        self.quorum.hedge()
    }

    /// The version of what is kept, while replicas are brought up to it.
    pub(super) fn repaired_to(&self) -> Option<Version> {
        self.quorum.repaired_to()
    }

    /// A replica that was written to has answered.
    pub(super) fn on_repaired(&mut self, replica: u8, answer: WriteAnswer) -> ReadStep {
        self.quorum.on_repaired(replica, answer)
    }

    /// All sets have come: tells what they are together.
    fn settle(&mut self) -> ReadStep {
        let set = SiblingSet::decode(&self.kept).expect("a set is checked when it arrives");
        let version = set.version();
        // One of them may have been longer than all are together.
        self.weigh(self.kept.len());
        self.quorum.on_settled(version)
    }

    /// What has so many bytes is written to those that lack it, unless that is more than they take.
    fn weigh(&mut self, bytes: usize) {
        let is_too_long = bytes > self.repaired_bytes_max;
        if is_too_long {
            cover::mark("set too long to be repaired");
        }
        self.quorum.set_too_long(is_too_long);
    }
}

impl<E: Env> Shard<E> {
    /// Asks the level's number of replicas.
    pub(super) fn coordinate_read(
        self: &Rc<Self>,
        requester: Requester,
        route: Route,
        level: Level,
        key: &Key<'_>,
        deadline_ns: u64,
    ) {
        self.coordinate_read_for(requester, route, level, key, deadline_ns, None);
    }

    /// The same; with `then`, that is written on top of what is found.
    pub(super) fn coordinate_read_for(
        self: &Rc<Self>,
        requester: Requester,
        route: Route,
        level: Level,
        key: &Key<'_>,
        deadline_ns: u64,
        then: Option<Box<SetWrite>>,
    ) {
        if !self.has_room_to_coordinate() {
            return self.answer_error(requester, ErrorCode::Overloaded);
        }
        let reach = self.reach(route);
        let (nodes, slow) = self.laggards(route);
        let candidates = Candidates {
            replicas: route.replicas as u8,
            live: reach.live,
            slow,
            absent: reach.absent(),
            local: route.position.map(|at| at as u8),
        };
        let needed = level.needed(route.replicas) as u8;
        let repairing = match then {
            // The write that follows replaces on all replicas what is found here.
            Some(_) => Repairing::Never,
            None => Repairing::of_level(needed, candidates.replicas),
        };
        let plan =
            Plan { candidates, needed, repairing, connections: reach.connections, nodes, is_timed: true };
        self.begin_read(requester, route, key, deadline_ns, plan, then);
    }

    /// Asks those that a plan says.
    pub(super) fn begin_read(
        self: &Rc<Self>,
        requester: Requester,
        route: Route,
        key: &Key<'_>,
        deadline_ns: u64,
        plan: Plan,
        then: Option<Box<SetWrite>>,
    ) {
        let Some(holding) = self.held.hold(key.partition.len() + key.sort.len()) else {
            return self.answer_error(requester, ErrorCode::Overloaded);
        };
        let Plan { candidates, needed, repairing, connections, nodes, is_timed } = plan;
        let reading = if route.has_siblings() { Reading::Joined } else { Reading::Newest };
        let Ok((quorum, asks)) = ReadQuorum::start(reading, repairing, candidates, needed) else {
            return self.answer_error(requester, ErrorCode::Unavailable);
        };
        if asks.iter().any(|ask| candidates.absent.contains(ask.replica)) {
            cover::mark("absent replica read");
        }
        let elsewhere: ReplicaSet = asks
            .iter()
            .map(|ask| ask.replica)
            .filter(|replica| is_timed && Some(*replica) != candidates.local)
            .collect();
        let may_hedge = quorum.may_hedge() && !elsewhere.is_empty();
        let operation = ReadOperation {
            requester,
            route,
            table: key.table,
            key: [key.partition, key.sort].concat().into(),
            partition_len: key.partition.len(),
            deadline_ns,
            quorum,
            kept: Vec::new(),
            repaired_bytes_max: self.settings.set_bytes_max(key),
            holding,
            then,
            timed: self.timed(elsewhere, nodes),
            connections,
        };
        let id = self.operations.borrow_mut().insert(Operation::Read(Box::new(operation)));
        self.deadlines.borrow_mut().add(deadline_ns, id);
        if may_hedge {
            self.hedge_later(id);
        }
        // Others first: they work while this node reads its own copy.
        for ask in asks.iter().rev() {
            self.ask_read(id, route, *ask, connections[ask.replica as usize], key, deadline_ns);
        }
    }

    fn ask_read(
        self: &Rc<Self>,
        id: OperationId,
        route: Route,
        ask: Ask,
        connection: Option<Connection>,
        key: &Key<'_>,
        deadline_ns: u64,
    ) {
        let Some(connection) = connection else {
            return self.local_read(route, key, deadline_ns, move |shard, found| {
                let answer = match found {
                    Err(code) => ReplicaAnswer::Refused(code),
                    Ok(None) => ReplicaAnswer::Absent,
                    Ok(Some(record)) => match ask.want {
                        ReadWant::Full => {
                            ReplicaAnswer::Full { version: version_of(&record), value: record.value }
                        }
                        ReadWant::Digest => ReplicaAnswer::Digest { version: version_of(&record) },
                    },
                };
                shard.on_read_answer(id, ask.replica, &answer);
            });
        };
        let left_ns = deadline_ns.saturating_sub(self.env.now_ns());
        let message = PeerMessage::ReplicaRead { vnode_epoch: route.vnode_epoch, want: ask.want, key: *key };
        if !self.ask_replica(connection, id, ask.replica, left_ns, &message) {
            self.on_read_answer(id, ask.replica, &ReplicaAnswer::Refused(ErrorCode::Overloaded));
        }
    }

    /// A replica, perhaps this node, has answered.
    pub(super) fn on_read_answer(self: &Rc<Self>, id: OperationId, replica: u8, answer: &ReplicaAnswer<'_>) {
        let (short, bytes): (ReadAnswer, &[u8]) = match answer {
            ReplicaAnswer::Absent => (ReadAnswer::Absent, b""),
            ReplicaAnswer::Full { version, value } => (ReadAnswer::Full(*version), value),
            ReplicaAnswer::Digest { version } => (ReadAnswer::Digest(*version), b""),
            ReplicaAnswer::Refused(code) => (ReadAnswer::Failed(*code), b""),
        };
        let step = {
            let mut operations = self.operations.borrow_mut();
            let Some(Operation::Read(read)) = operations.get_mut(id) else { return };
            let short = match short {
                // A set that is none, or not the one that its version says.
                ReadAnswer::Full(version)
                    if read.route.has_siblings() && arrived(&version, bytes).is_none() =>
                {
                    ReadAnswer::Failed(ErrorCode::Damaged)
                }
                ReadAnswer::Full(_) if !read.holding.has_room_for(bytes.len()) => {
                    cover::mark("no room to keep what a read found");
                    ReadAnswer::Failed(ErrorCode::Overloaded)
                }
                short => short,
            };
            let joins = read.quorum.joins() && matches!(short, ReadAnswer::Full(_));
            let joined = joins.then(|| joined(&read.kept, bytes)).flatten();
            let short = match joined {
                // What it has cannot be shown beside the rest: it does not count as having answered.
                None if joins => ReadAnswer::Failed(ErrorCode::TooLarge),
                Some(_) | None => short,
            };
            if !matches!(short, ReadAnswer::Failed(_)) {
                self.on_timed(&mut read.timed, replica);
            }
            if bytes.len() > read.repaired_bytes_max && matches!(short, ReadAnswer::Full(_)) {
                // Longer than a log takes again.
                read.weigh(bytes.len());
            }
            let step = read.quorum.on_answer(replica, short);
            if let Some(joined) = joined.filter(|_| step.keep) {
                read.kept = joined;
            } else if step.keep && (step.outcome.is_none() || read.route.has_siblings()) {
                // What ends the read now is answered from where it lies.
                read.kept.clear();
                read.kept.extend_from_slice(bytes);
            }
            read.holding.set(read.key.len() + read.kept.len());
            step
        };
        self.follow_read(id, step, bytes);
    }

    /// The connection is gone: every read that waits for a replica behind it asks another.
    pub(super) fn on_read_connection_lost(self: &Rc<Self>, id: OperationId, connection: Connection) {
        let lost = match self.operations.borrow_mut().get_mut(id) {
            Some(Operation::Read(read)) => {
                read.connections.iter().position(|asked| *asked == Some(connection))
            }
            Some(
                Operation::Repair(_) | Operation::Write(_) | Operation::Forward(_) | Operation::Delivery(_),
            )
            | None => None,
        };
        if let Some(replica) = lost {
            self.on_read_answer(id, replica as u8, &ReplicaAnswer::Refused(ErrorCode::Unavailable));
        }
    }

    /// Time is up.
    pub(super) fn on_read_deadline(self: &Rc<Self>, id: OperationId) {
        let outcome = match self.operations.borrow_mut().get_mut(id) {
            Some(Operation::Read(read)) => read.quorum.on_deadline(),
            Some(
                Operation::Repair(_) | Operation::Write(_) | Operation::Forward(_) | Operation::Delivery(_),
            )
            | None => return,
        };
        self.follow_read(id, ReadStep { outcome: Some(outcome), ..ReadStep::default() }, b"");
    }

    /// Does what a read wants next. `bytes` are of the answer that made it want that.
    pub(super) fn follow_read(self: &Rc<Self>, id: OperationId, mut step: ReadStep, bytes: &[u8]) {
        if step.settle {
            let mut operations = self.operations.borrow_mut();
            let Some(Operation::Read(read)) = operations.get_mut(id) else { return };
            step = read.settle();
        }
        if let Some(outcome) = step.outcome {
            let Some(Operation::Read(mut read)) = self.operations.borrow_mut().remove(id) else {
                unreachable!("an outcome comes from a read in flight");
            };
            if let Some(write) = read.then.take() {
                return self.follow_overwrite(*write, outcome, &read.kept);
            }
            match outcome {
                ReadOutcome::Found { version, answered } if read.route.has_siblings() => {
                    self.with_reply(
                        || read.route.context_hash(&read.key()),
                        &version,
                        &read.kept,
                        answered,
                        |reply| self.answer_seen(read.requester, reply, version.order),
                    );
                    self.after_read(&read, version, &read.kept, step.repair);
                }
                ReadOutcome::Found { version, answered } => {
                    let value = if step.keep { bytes } else { &read.kept };
                    let reply = self.client_reply(&version, value, answered);
                    self.answer_seen(read.requester, &reply, version.order);
                    self.after_read(&read, version, value, step.repair);
                }
                ReadOutcome::Absent { answered } => self.answer(read.requester, &Reply::Absent { answered }),
                ReadOutcome::Failed(code) => self.answer_error(read.requester, code),
            }
        } else if !step.repair.is_empty() {
            self.repair_first(id, step.repair);
        } else if let Some(ask) = step.ask {
            cover::mark("read asked another replica");
            self.ask_again(id, ask);
        }
    }

    /// Asks a replica for a read that is under way.
    pub(super) fn ask_again(self: &Rc<Self>, id: OperationId, ask: Ask) {
        let (route, table, key, partition_len, connection, deadline_ns) = {
            let mut operations = self.operations.borrow_mut();
            let Some(Operation::Read(read)) = operations.get_mut(id) else { return };
            let connection = read.connections[ask.replica as usize];
            (read.route, read.table, read.key.clone(), read.partition_len, connection, read.deadline_ns)
        };
        let (partition, sort) = key.split_at(partition_len);
        self.ask_read(id, route, ask, connection, &Key { table, partition, sort }, deadline_ns);
    }
}

impl<E: Env> Shard<E> {
    /// A read has been answered: replicas that lack what it found are written to.
    fn after_read(self: &Rc<Self>, read: &ReadOperation, version: Version, value: &[u8], behind: ReplicaSet) {
        let waited = read.repaired_to().is_some();
        if !waited && behind.is_empty() {
            return;
        }
        cover::mark("replicas differed");
        let (mismatches, before) = (&self.counters.digest_mismatches, &self.counters.repairs.before);
        mismatches.set(mismatches.get() + 1);
        before.set(before.get() + u64::from(waited));
        if !behind.is_empty() {
            self.repair_afterwards(read, version, value, behind);
        }
    }

    /// The read before a write that overwrites has ended: what it found is replaced.
    fn follow_overwrite(self: &Rc<Self>, mut write: SetWrite, outcome: ReadOutcome, kept: &[u8]) {
        match outcome {
            ReadOutcome::Found { .. } => {
                write.has_seen(&clock_of(kept));
                self.latch_set_write(write);
            }
            ReadOutcome::Absent { .. } => self.latch_set_write(write),
            // Nothing has been written: whatever says otherwise of a write is not the word for it.
            ReadOutcome::Failed(ErrorCode::Timeout) => {
                self.answer_error(write.requester(), ErrorCode::Expired);
            }
            ReadOutcome::Failed(code) if code.says_not_applied() => {
                self.answer_error(write.requester(), code);
            }
            ReadOutcome::Failed(_) => self.answer_error(write.requester(), ErrorCode::Unavailable),
        }
    }

    /// An operation's time is up.
    pub(super) fn on_deadline(self: &Rc<Self>, id: OperationId) {
        self.on_write_deadline(id);
        self.on_read_deadline(id);
        self.end_repair(id);
        self.on_forward_lost(id, None);
        self.on_delivery_lost(id, None);
    }

    /// A connection to another node is gone: the operations that waited for answers over it are told.
    pub(super) fn on_replica_connection_lost(self: &Rc<Self>, connection: Connection) {
        let ids = self.operations.borrow().ids();
        for id in ids {
            self.on_write_connection_lost(id, connection);
            self.on_read_connection_lost(id, connection);
            self.on_repair_connection_lost(id, connection);
            self.on_forward_lost(id, Some(connection));
            self.on_delivery_lost(id, Some(connection));
        }
    }
}
