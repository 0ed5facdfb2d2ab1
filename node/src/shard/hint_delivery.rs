//! Delivering hints: read in order, sent as replica writes with their versions as they are, over this core's own links.
//!
//! A fetch is a task that reads a window's worth behind what was fetched last; its hints are operations like a coordinator's, each with
//! a deadline. A hint goes to the core that owns its key at the target *now*, so that neither side's number of cores matters. What goes wrong with one
//! core of several is that core's, and its hints are sent again after a pause, or when it is there; what goes wrong with the node is the whole lane's.
//!
//! What the target will never take is dropped if it is strict, and held back if it counted towards the level of its write ([`ferrite_cluster::hints`]).
//!
//! What cannot be read is tried a few times, and then passed over and counted: one bad block does not keep from a target all that comes behind it.

use std::ops::ControlFlow;
use std::rc::Rc;

use ferrite_cluster::hints::{Fetch, HintKind, LaneId, Seen};
use ferrite_lsm::{Direction, Key, ReadError, Record, ScanLimits, cover};
use ferrite_wire::{CoreId, ErrorCode, NodeId, PeerMessage, VnodeId, WriteAnswer};

use super::hint_store::{Hint, decode_hint, range_of};
use super::liveness::Absence;
use super::slab::OperationId;
use super::{Operation, Shard};
use crate::env::{Connection, Env};

/// A hint in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct DeliveryOperation {
    lane: LaneId,
    attempt: u32,
    at: u64,
    connection: Connection,
}

/// What a fetch found.
struct Fetched {
    /// Those that it wants, with the cores that they are for.
    hints: Vec<(Hint, Option<CoreId>)>,
    /// Everything was read up to here.
    reached: u64,
}

/// Most records that a fetch goes through, wanted or not.
const WALKED_MAX: usize = 1_024;

impl<E: Env> Shard<E> {
    /// Sees to every lane, at each tick: what may be sent is, one fetch of a lane also where clients' writes wait.
    pub(super) fn deliver_hints(self: &Rc<Self>) {
        let owed: Vec<LaneId> = {
            let hints = self.hints.borrow();
            hints.lanes().filter(|(_, lane)| lane.owes()).map(|(id, _)| id).collect()
        };
        owed.into_iter().for_each(|id| self.start_fetch(id));
    }

    /// Goes on with a lane. What clients write goes first: while that waits for the log, the lane waits for the next tick.
    pub(super) fn pump_lane(self: &Rc<Self>, id: LaneId) {
        if self.waiting.borrow().is_empty() {
            self.start_fetch(id);
        }
    }

    /// Starts a fetch for a lane, if its target is there and its window has room.
    fn start_fetch(self: &Rc<Self>, id: LaneId) {
        if self.stopping.get() || !self.is_there(id.target) {
            return;
        }
        let (cores, now_ns) = (self.cores_of(id.target), self.env.now_ns());
        let is_absent = |core| self.has_absent(id.target, core);
        let Some(fetch) = self.hints.borrow_mut().fetch(id, cores, &is_absent, now_ns) else { return };
        self.hint_fetches.set(self.hint_fetches.get() + 1);
        let shard = self.clone();
        self.env.spawn(async move {
            match shard.fetch_hints(id, &fetch).await {
                Ok(found) => shard.send_hints(id, &fetch, &found),
                Err(error) => shard.fetch_unreadable(id, &fetch, error).await,
            }
            shard.hint_fetches.set(shard.hint_fetches.get() - 1);
        });
    }

    async fn fetch_unreadable(&self, id: LaneId, fetch: &Fetch, error: ReadError) {
        let (core, target_node, now_ns) = (self.settings.core.0, id.target.0, self.env.now_ns());
        tracing::warn!(core, target_node, %error, "hints cannot be read");
        if error == ReadError::NoBuffer {
            // Nothing is wrong with them.
            return self.hints.borrow_mut().fetch_failed(id, fetch, now_ns);
        }
        if !self.hints.borrow_mut().fetch_unreadable(id, fetch, now_ns) {
            return;
        }
        let through = match self.engine.behind_unreadable(&range_of(id, fetch)).await {
            Some(rest) => rest.low().prefix.token - 1,
            None => fetch.through,
        };
        tracing::error!(core, target_node, %error, "hints are passed over: they cannot be read");
        cover::mark("unreadable hints passed over");
        self.hints.borrow_mut().pass_over(id, fetch, through);
    }

    async fn fetch_hints(&self, id: LaneId, fetch: &Fetch) -> Result<Fetched, ReadError> {
        let mut hints = Vec::new();
        let limits = ScanLimits {
            records: WALKED_MAX,
            bytes: usize::try_from(fetch.bytes).unwrap_or(usize::MAX).max(1),
        };
        let mut reached = fetch.after;
        let visit = |key: Key<'_>, record: Record<'_>| {
            reached = key.prefix.token;
            match decode_hint(&key, record.value) {
                Some(hint) => {
                    let (vnode, _) = self.vnode_of(&hint);
                    let core = self.ring.borrow().core_of(id.target, vnode);
                    if self.hints.borrow().wants(id, fetch, core) {
                        hints.push((hint, core));
                    }
                }
                None => tracing::error!(target_node = id.target.0, "a hint is none: it is passed over"),
            }
            match hints.len() >= fetch.records as usize {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        let left = self.engine.scan(&range_of(id, fetch), Direction::Forward, limits, visit).await;
        match left {
            // What comes before the unreadable goes first; the next fetch begins there.
            Err(_) if reached > fetch.after => Ok(Fetched { hints, reached }),
            left => Ok(Fetched { hints, reached: if left?.is_none() { fetch.through } else { reached } }),
        }
    }

    /// The vnode of a hint's key, and how many replicas its table has; none = there is no such table any more.
    fn vnode_of(&self, hint: &Hint) -> (VnodeId, usize) {
        let ring = self.ring.borrow();
        let vnode = hint.key().token(ring.hash_seed()).vnode(ring.vnodes());
        (vnode, ring.table(hint.table).map_or(0, |table| ring.replicas_of(table, vnode)))
    }

    fn send_hints(self: &Rc<Self>, id: LaneId, fetch: &Fetch, found: &Fetched) {
        let now_ns = self.env.now_ns();
        let seen =
            |(hint, core): &(Hint, Option<CoreId>)| Seen { at: hint.at, bytes: hint.bytes, core: *core };
        let seen: Vec<Seen> = found.hints.iter().map(seen).collect();
        let is_absent = |core| self.has_absent(id.target, core);
        let sent = self.hints.borrow_mut().fetched(id, fetch, &seen, found.reached, &is_absent, now_ns);
        let sent = found.hints.iter().zip(sent).filter(|(_, is_sent)| *is_sent);
        for ((hint, core), _) in sent {
            // One that did not leave may have taken others of its core along.
            let is_due = self.hints.borrow_mut().waits_for(id, fetch.attempt, hint.at);
            if is_due && fetch.rewrites {
                if !self.write_behind(id, fetch.attempt, hint) {
                    break;
                }
            } else if is_due && !self.send_hint(id, fetch.attempt, hint, *core) {
                let of_one_core = self.has_room_to_coordinate() && self.is_for_one_core(id.target);
                self.hints.borrow_mut().failed(id, fetch.attempt, hint.at, of_one_core, now_ns);
            }
        }
    }

    /// How many cores a node has, as far as is known.
    fn cores_of(&self, node: NodeId) -> usize {
        let ring = self.ring.borrow();
        ring.topology().node(node).map_or(1, |node| node.endpoints.len().max(1))
    }

    /// The way to a core of a node for a hint. Whom gossip holds to be absent and was heard of all the same gets its hints; who would refuse them
    /// does not.
    fn way_for_hints(&self, node: NodeId, core: Option<CoreId>) -> Option<Connection> {
        let links = self.links.borrow();
        match self.absence(node, core) {
            None => links.route(node, core),
            Some(Absence::Silent) => links.heard_since(self.lately_ns(), node, core),
            Some(Absence::Fenced) => None,
        }
    }

    fn has_absent(&self, node: NodeId, core: CoreId) -> bool {
        self.way_for_hints(node, Some(core)).is_none()
    }

    /// Whether what goes wrong with one core of a node says nothing of the others.
    fn is_for_one_core(&self, node: NodeId) -> bool {
        self.cores_of(node) > 1 && self.is_there(node)
    }

    /// False = it did not leave.
    fn send_hint(self: &Rc<Self>, lane: LaneId, attempt: u32, hint: &Hint, core: Option<CoreId>) -> bool {
        let (vnode, replicas) = self.vnode_of(hint);
        let vnode_epoch = {
            let ring = self.ring.borrow();
            if !ring.replicas(vnode)[..replicas].contains(&lane.target) {
                // It was a replica when the hint was taken.
                drop(ring);
                self.give_up(lane, attempt, hint);
                return true;
            }
            ring.vnode_epoch(vnode)
        };
        let Some(connection) = self.way_for_hints(lane.target, core) else { return false };
        if !self.has_room_to_coordinate() {
            return false;
        }
        let operation = DeliveryOperation { lane, attempt, at: hint.at, connection };
        let id = self.operations.borrow_mut().insert(Operation::Delivery(operation));
        let left_ns = self.settings.request_timeout_ns;
        self.deadlines.borrow_mut().add(self.env.now_ns() + left_ns, id);
        let version = self.version_to_deliver(hint.version);
        let message =
            PeerMessage::ReplicaWrite { vnode_epoch, key: hint.key(), version, value: &hint.payload };
        let sent = self.ask_replica(connection, id, 0, left_ns, &message);
        if !sent {
            self.operations.borrow_mut().remove(id);
        }
        sent
    }

    /// The target of a hint has answered. False = the operation is none of these.
    pub(super) fn on_delivery_answer(self: &Rc<Self>, id: OperationId, answer: WriteAnswer) -> bool {
        let Some(delivery) = self.end_delivery(id, |_| true) else { return false };
        let DeliveryOperation { lane, attempt, at, .. } = delivery;
        let now_ns = self.env.now_ns();
        match answer {
            WriteAnswer::Applied => {
                cover::mark("hint delivered");
                self.hints.borrow_mut().acked(lane, attempt, at, now_ns);
            }
            WriteAnswer::Refused(
                code @ (ErrorCode::TooLarge | ErrorCode::Malformed | ErrorCode::NoTable),
            ) => {
                tracing::error!(core = self.settings.core.0, target_node = lane.target.0, %code, "a hint will never be taken");
                self.give_up_at(lane, attempt, at);
            }
            WriteAnswer::Refused(_) => {
                cover::mark("hint refused for the moment");
                self.delivery_failed(lane, attempt, at);
            }
        }
        self.pump_lane(lane);
        true
    }

    /// A hint in flight will never be taken.
    fn give_up(self: &Rc<Self>, lane: LaneId, attempt: u32, hint: &Hint) {
        match hint.kind {
            HintKind::Strict => self.hints.borrow_mut().undeliverable(lane, attempt, hint.at),
            HintKind::Sloppy => self.hold_back(lane, attempt, hint),
        }
    }

    /// The same where what it is has to be read again.
    fn give_up_at(self: &Rc<Self>, lane: LaneId, attempt: u32, at: u64) {
        self.hint_fetches.set(self.hint_fetches.get() + 1);
        let shard = self.clone();
        self.env.spawn(async move {
            let fetch = Fetch {
                of: None,
                rewrites: false,
                after: at - 1,
                through: at,
                records: 1,
                bytes: 1,
                attempt,
            };
            let mut hint = None;
            let visit = |key: Key<'_>, record: Record<'_>| {
                hint = decode_hint(&key, record.value);
                ControlFlow::Continue(())
            };
            let walked = shard
                .engine
                .scan(&range_of(lane, &fetch), Direction::Forward, ScanLimits::records(1), visit)
                .await;
            shard.hint_fetches.set(shard.hint_fetches.get() - 1);
            let is_due = shard.hints.borrow_mut().waits_for(lane, attempt, at);
            match (walked, hint) {
                _ if !is_due => {}
                (_, Some(hint)) => shard.give_up(lane, attempt, &hint),
                (Ok(_), None) => shard.hints.borrow_mut().undeliverable(lane, attempt, at),
                (Err(_), None) => shard.delivery_failed(lane, attempt, at),
            }
            shard.start_pump();
            shard.pump_lane(lane);
        });
    }

    /// A hint in flight will not be answered: its time is up, or the connection is gone that it went over.
    pub(super) fn on_delivery_lost(self: &Rc<Self>, id: OperationId, gone: Option<Connection>) {
        let lost = self.end_delivery(id, |delivery| gone.is_none_or(|gone| delivery.connection == gone));
        if let Some(DeliveryOperation { lane, attempt, at, .. }) = lost {
            self.delivery_failed(lane, attempt, at);
        }
    }

    pub(super) fn delivery_failed(&self, lane: LaneId, attempt: u32, at: u64) {
        let of_one_core = self.is_for_one_core(lane.target);
        self.hints.borrow_mut().failed(lane, attempt, at, of_one_core, self.env.now_ns());
    }

    fn end_delivery(
        &self,
        id: OperationId,
        ends: impl FnOnce(&DeliveryOperation) -> bool,
    ) -> Option<DeliveryOperation> {
        let mut operations = self.operations.borrow_mut();
        match operations.get_mut(id) {
            Some(Operation::Delivery(delivery)) if ends(delivery) => {}
            _ => return None,
        }
        match operations.remove(id) {
            Some(Operation::Delivery(delivery)) => Some(delivery),
            _ => unreachable!("just found"),
        }
    }
}
