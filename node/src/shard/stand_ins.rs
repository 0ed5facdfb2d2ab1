//! Sloppy writes: who stands in for replicas that are away.
//!
//! The members that are no replicas of a key are asked in rendezvous order ([`ferrite_cluster::Ring::fallbacks`]), this node among them: each that can
//! be reached keeps the record as a hint for one of the replicas that cannot, and its acknowledgement counts. A replica without a
//! stand-in is owed a strict hint, as in any write. One that refuses is followed by the next, each being asked once.
//! Replicas that gossip holds to be absent and that can be reached are asked themselves where these are too few ([`super::reach`]).
//!
//! A stand-in may have a hint that the replica has got otherwise meanwhile, and a replica one that two nodes keep for it: versions are
//! compared, or sets joined, as ever.

use std::rc::Rc;

use ferrite_cluster::ReplicaSet;
use ferrite_lsm::cover;
use ferrite_wire::{CoreId, ErrorCode, Key, NodeId, PeerMessage, Version, limits::REPLICAS_MAX};

use super::debts::may_take_it_later;
use super::expiry::NEVER_NS;
use super::hints::HintThen;
use super::liveness::Absence;
use super::log_pump::Ack;
use super::record::{engine_key, record_of};
use super::requester::Requester;
use super::sets::arrived;
use super::slab::OperationId;
use super::writes::Write;
use super::{Route, Shard};
use crate::env::{Connection, Env};

/// Where each replica's share of a write goes.
#[derive(Clone, Debug)]
pub(super) struct Spread {
    /// Who is asked: replicas, or others in their stead.
    pub(super) asked: ReplicaSet,
    /// Those in whose stead another is asked.
    pub(super) stood_in: ReplicaSet,
    /// Who they are.
    pub(super) stand_ins: Vec<NodeId>,
    /// The way to each; none = this node.
    pub(super) connections: [Option<Connection>; REPLICAS_MAX],
}

/// Most nodes that are asked in the stead of a write's replicas, those that have refused included.
pub(super) const STAND_INS_MAX: usize = 2 * REPLICAS_MAX;

impl<E: Env> Shard<E> {
    /// Whom to ask for a write, of which `needed` must acknowledge it.
    pub(super) fn spread(&self, route: Route, sloppy: bool, needed: u8) -> Spread {
        let reach = self.reach(route);
        let mut spread = Spread {
            asked: reach.live,
            stood_in: ReplicaSet::default(),
            stand_ins: Vec::new(),
            connections: reach.connections,
        };
        if usize::from(spread.asked.len()) < route.replicas {
            self.spread_further(route, sloppy, needed.max(1), reach.doubtful, &mut spread);
        }
        spread
    }

    #[cold]
    fn spread_further(
        &self,
        route: Route,
        sloppy: bool,
        needed: u8,
        doubtful: ReplicaSet,
        spread: &mut Spread,
    ) {
        if sloppy {
            self.find_stand_ins(route, spread, false);
        }
        let more = doubtful.without(spread.asked);
        if spread.asked.len() < needed && !more.is_empty() {
            // Where one verdict is wrong the others may be.
            cover::mark("write sent to absent replicas");
            spread.asked = spread.asked.union(more);
        }
        if sloppy && spread.asked.len() < needed {
            self.find_stand_ins(route, spread, true);
        }
    }

    fn find_stand_ins(&self, route: Route, spread: &mut Spread, may_be_absent: bool) {
        let fallbacks = self.ring.borrow().fallbacks(route.vnode, route.replicas);
        let away = (0..route.replicas as u8).filter(|replica| !spread.asked.contains(*replica));
        for replica in away.collect::<Vec<_>>() {
            let next = self.next_stand_in(&fallbacks, &spread.stand_ins, may_be_absent);
            let Some((node, way)) = next else { return };
            cover::mark("stand-in asked");
            spread.asked.insert(replica);
            spread.stood_in.insert(replica);
            spread.stand_ins.push(node);
            spread.connections[replica as usize] = way;
        }
    }

    /// The first of `fallbacks` that can be reached and is not `taken`, with the way to it; none = this node. A hint may lie with any core there, if it does not
    /// stand still and is not fenced: one like this, or the first.
    fn next_stand_in(
        &self,
        fallbacks: &[NodeId],
        taken: &[NodeId],
        may_be_absent: bool,
    ) -> Option<(NodeId, Option<Connection>)> {
        let links = self.links.borrow();
        let takes_hints = |node: NodeId, core: CoreId| match self.absence(node, Some(core)) {
            None => true,
            Some(Absence::Silent) => may_be_absent,
            Some(Absence::Fenced) => false,
        };
        fallbacks.iter().filter(|node| !taken.contains(node)).find_map(|node| {
            if *node == self.settings.node {
                return Some((*node, None));
            }
            let way = links
                .ways(*node, self.settings.core)
                .find(|(core, _)| takes_hints(*node, *core))
                .map(|(_, way)| way)?;
            Some((*node, Some(way)))
        })
    }

    /// A stand-in has refused: the next one is asked, each once. False = it was no stand-in, there is no next, or another would refuse as well.
    pub(super) fn ask_next_stand_in(
        self: &Rc<Self>,
        id: OperationId,
        replica: u8,
        refusal: ErrorCode,
    ) -> bool {
        if !refusal.says_not_applied() || !may_take_it_later(refusal) {
            return false;
        }
        loop {
            let open = self.with_write(id, |write| write.may_stand_in(replica));
            let Some((subject, taken, deadline_ns)) = open else { return false };
            let Some((version, value)) = subject.record() else { return false };
            if self.env.now_ns() >= deadline_ns {
                return false;
            }
            let route = subject.route();
            let fallbacks = self.ring.borrow().fallbacks(route.vnode, route.replicas);
            let Some((node, way)) = self.next_stand_in(&fallbacks, &taken, false) else { return false };
            cover::mark("next stand-in asked");
            self.with_write(id, |write| {
                write.stand_in(replica, node, way);
                Some(())
            });
            let key = subject.key();
            if self.send_to_stand_in(id, replica, way, (route, &key, version, value), deadline_ns).is_ok() {
                return true;
            }
        }
    }

    /// Sends a write on its way to one of those that are asked, this node's own copy included. An error is why it certainly did not leave.
    pub(super) fn send_share(
        self: &Rc<Self>,
        spread: &Spread,
        id: OperationId,
        replica: u8,
        write: &Write<'_>,
    ) -> Result<(), ErrorCode> {
        let Write { route, key, version, value, deadline_ns, .. } = *write;
        let way = spread.connections[replica as usize];
        if spread.stood_in.contains(replica) {
            return self.send_to_stand_in(id, replica, way, (route, &key, version, value), deadline_ns);
        }
        let vnode_epoch = route.vnode_epoch;
        let Some(connection) = way else {
            let ack = Ack::Local { operation: id, replica };
            let key = engine_key(&key, route.vnode, route.token);
            return self.stage(key, record_of(&version, value), vnode_epoch.0, ack);
        };
        let message = PeerMessage::ReplicaWrite { vnode_epoch, key, version, value };
        let left_ns = deadline_ns.saturating_sub(self.env.now_ns());
        let sent = self.ask_replica(connection, id, replica, left_ns, &message);
        if sent { Ok(()) } else { Err(ErrorCode::Overloaded) }
    }

    /// The same to a stand-in: over `way`, or this node itself.
    fn send_to_stand_in(
        self: &Rc<Self>,
        id: OperationId,
        replica: u8,
        way: Option<Connection>,
        (route, key, version, value): (Route, &Key<'_>, Version, &[u8]),
        deadline_ns: u64,
    ) -> Result<(), ErrorCode> {
        let target = self.ring.borrow().replicas(route.vnode)[replica as usize];
        let Some(connection) = way else {
            let then = HintThen::Local { operation: id, replica };
            // As a copy of its own.
            return self.keep_hint(NEVER_NS, target, key, &version, value, then);
        };
        let vnode_epoch = route.vnode_epoch;
        let message = PeerMessage::HintedWrite { target, vnode_epoch, key: *key, version, value };
        let left_ns = deadline_ns.saturating_sub(self.env.now_ns());
        let sent = self.ask_replica(connection, id, replica, left_ns, &message);
        if sent { Ok(()) } else { Err(ErrorCode::Overloaded) }
    }

    /// Another node asks this one to keep a record for a replica.
    pub(super) fn on_hinted_write(
        self: &Rc<Self>,
        requester: Requester,
        target: NodeId,
        key: &Key<'_>,
        (version, value): (&Version, &[u8]),
        deadline_ns: u64,
    ) -> Result<(), ErrorCode> {
        let route = self.route(key).map_err(super::tables::TableRefusal::code)?;
        let is_sound = route.has_siblings() == version.flags.has_siblings()
            && (!route.has_siblings() || arrived(version, value).is_some());
        if !is_sound {
            return Err(ErrorCode::Malformed);
        }
        if self.stopping.get() {
            return Err(ErrorCode::Stopping);
        }
        let is_replica = self.ring.borrow().replicas(route.vnode)[..route.replicas].contains(&target);
        // It may know other replicas than this node does; and what is for this node is no hint.
        if !is_replica || target == self.settings.node {
            return Err(ErrorCode::Unavailable);
        }
        self.keep_hint(deadline_ns, target, key, version, value, HintThen::Peer(requester))
    }
}
