//! Sloppy writes: who stands in for replicas that are away.
//!
//! The members that are no replicas of a key are asked in rendezvous order ([`ferrite_cluster::Ring::fallbacks`]), this node among them: each that can
//! be reached keeps the record as a hint for one of the replicas that cannot, and its acknowledgement counts. A replica without a
//! stand-in is owed a strict hint, as in any write.
//!
//! A stand-in may have a hint that the replica has got otherwise meanwhile, and a replica one that two nodes keep for it: versions are
//! compared, or sets joined, as ever.

use std::rc::Rc;

use ferrite_cluster::ReplicaSet;
use ferrite_lsm::cover;
use ferrite_wire::{ErrorCode, Key, NodeId, PeerMessage, Version, limits::REPLICAS_MAX};

use super::hints::HintThen;
use super::log_pump::Ack;
use super::record::{engine_key, record_of};
use super::requester::Requester;
use super::sets::arrived;
use super::slab::OperationId;
use super::{Route, Shard};
use crate::env::{Connection, Env};

/// Where each replica's share of a write goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spread {
    /// Who is asked: replicas, or others in their stead.
    pub(super) asked: ReplicaSet,
    /// Those in whose stead another is asked.
    pub(super) stood_in: ReplicaSet,
    /// The way to each; none = this node.
    pub(super) connections: [Option<Connection>; REPLICAS_MAX],
}

impl<E: Env> Shard<E> {
    /// Whom to ask for a write.
    pub(super) fn spread(&self, route: Route, sloppy: bool) -> Spread {
        let (asked, connections) = self.live_replicas(route);
        let mut spread = Spread { asked, stood_in: ReplicaSet::default(), connections };
        if sloppy && usize::from(asked.len()) < route.replicas {
            self.find_stand_ins(route, &mut spread);
        }
        spread
    }

    #[cold]
    fn find_stand_ins(&self, route: Route, spread: &mut Spread) {
        let ring = self.ring.borrow();
        let links = self.links.borrow();
        let fallbacks = ring.fallbacks(route.vnode, route.replicas);
        // A hint may lie with any core there, if it does not stand still and is not fenced: one like this, or the first.
        let reachable = fallbacks.into_iter().filter_map(|node| match node == self.settings.node {
            true => Some(None),
            false => {
                let mut ways = links.ways(node, self.settings.core);
                ways.find(|(core, _)| !self.counts_absent(node, Some(*core))).map(|(_, way)| Some(way))
            }
        });
        let away = (0..route.replicas as u8).filter(|replica| !spread.asked.contains(*replica));
        let stands: Vec<(u8, Option<Connection>)> = away.zip(reachable).collect();
        for (replica, way) in stands {
            cover::mark("stand-in asked");
            spread.asked.insert(replica);
            spread.stood_in.insert(replica);
            spread.connections[replica as usize] = way;
        }
    }

    /// Sends a write on its way to one of those that are asked, this node's own copy included. An error is why it certainly did not leave.
    #[expect(clippy::too_many_arguments, reason = "a share of a write is all of these")]
    pub(super) fn send_share(
        self: &Rc<Self>,
        spread: &Spread,
        id: OperationId,
        replica: u8,
        left_ns: u64,
        route: Route,
        key: &Key<'_>,
        version: Version,
        value: &[u8],
    ) -> Result<(), ErrorCode> {
        let vnode_epoch = route.vnode_epoch;
        let target = || self.ring.borrow().replicas(route.vnode)[replica as usize];
        let message = match (spread.connections[replica as usize], spread.stood_in.contains(replica)) {
            (None, false) => {
                let ack = Ack::Local { operation: id, replica };
                let key = engine_key(key, route.vnode, route.token);
                return self.stage(key, record_of(&version, value), vnode_epoch.0, ack);
            }
            (None, true) => {
                let then = HintThen::Local { operation: id, replica };
                return self.keep_hint(target(), key, &version, value, then);
            }
            (Some(_), false) => PeerMessage::ReplicaWrite { vnode_epoch, key: *key, version, value },
            (Some(_), true) => {
                PeerMessage::HintedWrite { target: target(), vnode_epoch, key: *key, version, value }
            }
        };
        let connection = spread.connections[replica as usize].expect("told above");
        let sent = self.ask_replica(connection, id, replica, left_ns, &message);
        if sent { Ok(()) } else { Err(ErrorCode::Overloaded) }
    }

    /// Another node asks this one to keep a record for a replica.
    pub(super) fn on_hinted_write(
        self: &Rc<Self>,
        requester: Requester,
        target: NodeId,
        key: &Key<'_>,
        version: &Version,
        value: &[u8],
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
        self.keep_hint(target, key, version, value, HintThen::Peer(requester))
    }
}
