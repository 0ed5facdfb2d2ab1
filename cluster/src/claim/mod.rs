//! The claim: which nodes replicate each vnode, and in which order.
//!
//! ```text
//!   shares ──► fill ──────────► spread racks ──► even out ──► order
//!   who        walk the circle  old lists only:  move single  primaries and
//!   carries    clockwise, the   racks that have  replicas     each prefix even,
//!   how much   neediest first   been added       along paths  distinct racks first
//! ```
//!
//! The walk takes, for each vnode, distinct nodes, in distinct racks as long as there are racks, always the one that is
//! furthest behind its share; near ties are drawn by a hash, so that a node shares vnodes with all others and its work
//! spreads over all of them when it dies. Evening out moves a replica from a node above its share to one below, over others
//! in between where racks forbid it directly.
//!
//! A [reclaim] after members have come or gone starts from the old lists and touches what it must: an empty cluster is the
//! special case that the first claim is. It depends on its arguments alone, so all nodes that compute it agree.
//!
//! The lists are explicit: they *are* the preference lists, and a table with fewer replicas takes a prefix. Rejected:
//! deriving them by walking the owners of the following vnodes, as the first Dynamo systems did. There a join shifts replicas
//! between bystanders, and at the tail of the circle, where the walk wraps, two replicas of a vnode have ended up on one node.
//! Rejected too: rendezvous hashing per vnode, whose load varies by the square root of the share.
//!
//! Invariants, each tested:
//!
//! 1. A list has min(N, members) distinct nodes at every vnode, the last ones included.
//! 2. It has min(N, racks) distinct racks, and so has each prefix as far as it is long enough.
//! 3. A node's replicas, and the vnodes it is first for, are its share by weight, rounded down or up. A share is at most
//!    every vnode once, and what racks leave it: where a rack is too small for its share, distinct racks win over even load.
//! 4. In clusters whose racks are alike a join moves what the newcomer is to carry, a leave what the leaver carried, and
//!    nothing between bystanders.

mod order;
mod plan;
mod share;

use ferrite_wire::{NodeId, limits};

use crate::planted;
use plan::Plan;

/// A member as the claim sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its number.
    pub id: NodeId,
    /// Its name, for people.
    pub name: String,
    /// Its rack.
    pub rack: String,
    /// Its datacenter.
    pub datacenter: String,
    /// `host:port` that serves everything.
    pub contact: String,
    /// How much it can carry in relation to the others; at least 1.
    pub weight: u32,
}

/// A replica list for each of `vnodes` vnodes of a new cluster.
pub fn claim(vnodes: u32, members: &[Member], replication: usize) -> Vec<Vec<NodeId>> {
    reclaim(&vec![Vec::new(); vnodes as usize], members, replication)
}

/// The replica lists after members have come or gone, or their weights, racks or the replication have changed. Members have
/// distinct ids; their order does not matter.
pub fn reclaim(old: &[Vec<NodeId>], members: &[Member], replication: usize) -> Vec<Vec<NodeId>> {
    assert!(replication <= limits::REPLICAS_MAX, "preference lists are bounded");
    assert!(members.len() <= limits::NODES_MAX && old.len() <= limits::VNODES_MAX, "clusters are bounded");
    let mut members: Vec<&Member> = members.iter().collect();
    members.sort_by_key(|member| member.id);
    assert!(members.windows(2).all(|pair| pair[0].id != pair[1].id), "members have distinct ids");
    if members.is_empty() || replication == 0 {
        return vec![Vec::new(); old.len()];
    }
    let weights: Vec<u32> = members.iter().map(|member| member.weight.max(1)).collect();
    let mut plan = Plan::of(old, &members, replication);
    let wanted = share::shares(&plan.racks, &weights, old.len() as u32, plan.width, &plan.loads);
    plan.fill(&wanted);
    plan.spread_racks(&wanted);
    plan.even_out(&wanted);
    plan.order();
    let named = |list: &[u16]| list.iter().map(|member| members[*member as usize].id).collect();
    let mut lists: Vec<Vec<NodeId>> = plan.seats.chunks(plan.width).map(named).collect();
    if planted::active(planted::Bug::TailRepeatsNode) {
        let tail = lists.len().saturating_sub(plan.width - 1);
        for list in &mut lists[tail..] {
            list[1] = list[0];
        }
    }
    lists
}

#[cfg(test)]
mod tests;
