//! Which replicas of a key a coordinator can reach, and in what order it asks them.
//!
//! | gossip holds it to be | its link from this core | a read asks it | a write is sent to it |
//! |---|---|---|---|
//! | there, suspected, or never heard of | up, or that to its node's first core is | first | always |
//! | down, or standing still | up, and heard of lately | where the others are too few | where its level cannot be met otherwise |
//! | fenced | the same | where the others are too few | never: it would refuse |
//! | whatever it is | none of these | never | never |
//!
//! So a verdict orders and does not exclude. Gossip has connections of its own, and is run by a node's first core: where those alone fail, or that core
//! alone stands still, everybody would be absent who answers all the same. Whoever is absent is asked over its own link only, and if that has
//! answered a ping of late; of a core behind the link to its node's first core nothing is known. Where there is none a level that needs more is
//! refused at once.

use ferrite_cluster::ReplicaSet;
use ferrite_lsm::cover;
use ferrite_wire::limits::REPLICAS_MAX;

use super::liveness::Absence;
use super::{Route, Shard};
use crate::env::{Connection, Env};

/// The replicas of a route that can be reached at this moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reach {
    /// Those that gossip does not hold to be absent; this node is one if it is a replica.
    pub(super) live: ReplicaSet,
    /// Those that it does, and that have been heard of lately over their own links.
    pub(super) doubtful: ReplicaSet,
    /// The same of those that serve reads only.
    pub(super) fenced: ReplicaSet,
    /// The way to each; this node has no connection to itself.
    pub(super) connections: [Option<Connection>; REPLICAS_MAX],
}

impl Reach {
    /// Those that are asked where the live are too few.
    pub(super) fn absent(&self) -> ReplicaSet {
        self.doubtful.union(self.fenced)
    }

    /// The first other node that takes a write and has not had it, with the way to it.
    pub(super) fn first_elsewhere(&self, had: ReplicaSet) -> Option<(u8, Connection)> {
        let first = |among: ReplicaSet| {
            let replica = among.without(had).first()?;
            Some((replica, self.connections[replica as usize]?))
        };
        first(self.live).or_else(|| first(self.doubtful))
    }
}

impl<E: Env> Shard<E> {
    /// Whom a coordinator of this core may ask about a key.
    pub(super) fn reach(&self, route: Route) -> Reach {
        let ring = self.ring.borrow();
        let links = self.links.borrow();
        let none = ReplicaSet::default();
        let mut reach = Reach { live: none, doubtful: none, fenced: none, connections: [None; REPLICAS_MAX] };
        for (at, node) in ring.replicas(route.vnode)[..route.replicas].iter().enumerate() {
            if Some(at) == route.position {
                reach.live.insert(at as u8);
                continue;
            }
            let core = ring.core_of(*node, route.vnode);
            let absence = self.absence(*node, core);
            let way = match absence {
                None => links.route(*node, core),
                Some(_) => links.heard_since(self.lately_ns(), *node, core),
            };
            if absence.is_some() {
                cover::mark("replica absent by gossip");
            }
            if way.is_none() {
                continue;
            }
            reach.connections[at] = way;
            let among = match absence {
                None => &mut reach.live,
                Some(Absence::Silent) => &mut reach.doubtful,
                Some(Absence::Fenced) => &mut reach.fenced,
            };
            among.insert(at as u8);
        }
        reach
    }

    /// Since when a link that works has been heard of: the answer to its last ping, or to the one before.
    pub(super) fn lately_ns(&self) -> u64 {
        self.env.now_ns().saturating_sub(2 * self.settings.ping_interval_ns)
    }
}
