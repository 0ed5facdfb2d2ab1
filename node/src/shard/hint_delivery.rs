//! Delivering hints: read in order, sent as replica writes with their versions as they are, over this core's own links.
//!
//! A fetch is a task that reads a window's worth behind what was fetched last; its hints are operations like a coordinator's, each with
//! a deadline. Whatever goes wrong ends in the lane being sent again from its watermark, after a pause. A hint goes to the core that owns its
//! key at the target *now*, so that neither side's number of cores matters.
//!
//! What cannot be read is tried a few times, and then passed over and counted: one bad block does not keep from a target all that comes behind it.

use std::ops::ControlFlow;
use std::rc::Rc;

use ferrite_cluster::hints::{Fetch, LaneId};
use ferrite_lsm::{Direction, Key, ReadError, Record, ScanLimits, cover};
use ferrite_wire::{ErrorCode, PeerMessage, WriteAnswer};

use super::hint_store::{Hint, behind_unreadable, decode_hint, range_of};
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
    hints: Vec<Hint>,
    /// There is nothing else up to where it was to read.
    all: bool,
}

impl<E: Env> Shard<E> {
    /// Sees to every lane: what may be sent is.
    pub(super) fn deliver_hints(self: &Rc<Self>) {
        let owed: Vec<LaneId> = {
            let hints = self.hints.borrow();
            hints.lanes().filter(|(_, lane)| lane.count() > 0).map(|(id, _)| id).collect()
        };
        owed.into_iter().for_each(|id| self.pump_lane(id));
    }

    /// Starts a fetch for a lane, if its target is there and its window has room. What clients write goes first: while that waits for
    /// the log, nothing more is sent.
    fn pump_lane(self: &Rc<Self>, id: LaneId) {
        if self.stopping.get() || !self.is_there(id.target) || !self.waiting.borrow().is_empty() {
            return;
        }
        let Some(fetch) = self.hints.borrow_mut().fetch(id, self.env.now_ns()) else { return };
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
            return self.hints.borrow_mut().fetch_failed(id, now_ns);
        }
        if !self.hints.borrow_mut().fetch_unreadable(id, now_ns) {
            return;
        }
        let through = match behind_unreadable::<E>(&self.engine, &range_of(id, fetch)).await {
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
            records: fetch.records as usize,
            bytes: usize::try_from(fetch.bytes).unwrap_or(usize::MAX).max(1),
        };
        let visit = |key: Key<'_>, record: Record<'_>| {
            match decode_hint(&key, record.value) {
                Some(hint) => hints.push(hint),
                None => tracing::error!(target_node = id.target.0, "a hint is none: it is passed over"),
            }
            ControlFlow::Continue(())
        };
        let left = self.engine.scan(&range_of(id, fetch), Direction::Forward, limits, visit).await;
        match left {
            // What comes before the unreadable goes first; the next fetch begins there.
            Err(_) if !hints.is_empty() => Ok(Fetched { hints, all: false }),
            left => Ok(Fetched { hints, all: left?.is_none() }),
        }
    }

    fn send_hints(self: &Rc<Self>, id: LaneId, fetch: &Fetch, found: &Fetched) {
        let now_ns = self.env.now_ns();
        let told: Vec<(u64, u64)> = found.hints.iter().map(|hint| (hint.at, hint.bytes)).collect();
        if !self.hints.borrow_mut().fetched(id, fetch, &told, found.all, now_ns) {
            return;
        }
        for hint in &found.hints {
            let key = ferrite_wire::Key { table: hint.table, partition: &hint.partition, sort: &hint.sort };
            if !self.send_hint(id, fetch.attempt, hint, &key) {
                self.hints.borrow_mut().failed(id, fetch.attempt, now_ns);
                return;
            }
        }
    }

    /// False = it did not leave.
    fn send_hint(
        self: &Rc<Self>,
        lane: LaneId,
        attempt: u32,
        hint: &Hint,
        key: &ferrite_wire::Key<'_>,
    ) -> bool {
        let (connection, vnode_epoch) = {
            let ring = self.ring.borrow();
            let vnode = key.token(ring.hash_seed()).vnode(ring.vnodes());
            let replicas = ring.table(key.table).map_or(0, |table| ring.replicas_of(table, vnode));
            if !ring.replicas(vnode)[..replicas].contains(&lane.target) {
                // It was a replica when the hint was taken.
                self.hints.borrow_mut().undeliverable(lane, attempt, hint.at);
                return true;
            }
            let core = ring.core_of(lane.target, vnode);
            (self.links.borrow().route(lane.target, core), ring.vnode_epoch(vnode))
        };
        let Some(connection) = connection else { return false };
        if !self.has_room_to_coordinate() {
            return false;
        }
        let operation = DeliveryOperation { lane, attempt, at: hint.at, connection };
        let id = self.operations.borrow_mut().insert(Operation::Delivery(operation));
        let left_ns = self.settings.request_timeout_ns;
        self.deadlines.borrow_mut().add(self.env.now_ns() + left_ns, id);
        let version = self.version_to_deliver(hint.version);
        let message = PeerMessage::ReplicaWrite { vnode_epoch, key: *key, version, value: &hint.payload };
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
                tracing::error!(
                    core = self.settings.core.0,
                    target_node = lane.target.0,
                    %code,
                    "a hint will never be taken: it is dropped"
                );
                self.hints.borrow_mut().undeliverable(lane, attempt, at);
            }
            WriteAnswer::Refused(_) => {
                cover::mark("hint refused for the moment");
                self.hints.borrow_mut().failed(lane, attempt, now_ns);
            }
        }
        self.pump_lane(lane);
        true
    }

    /// A hint in flight will not be answered: its time is up, or the connection is gone that it went over.
    pub(super) fn on_delivery_lost(self: &Rc<Self>, id: OperationId, gone: Option<Connection>) {
        let lost = self.end_delivery(id, |delivery| gone.is_none_or(|gone| delivery.connection == gone));
        if let Some(DeliveryOperation { lane, attempt, .. }) = lost {
            self.hints.borrow_mut().failed(lane, attempt, self.env.now_ns());
        }
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
