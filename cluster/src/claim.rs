//! The claim: which nodes replicate each vnode.
//!
//! The circle is walked clockwise. Each vnode takes N distinct nodes, in distinct racks as long as there are racks, always the
//! one that carries least for its weight; ties go round the members so that neighbours on the circle differ. Then an evening
//! pass moves single replicas from the fullest node to the emptiest that may take them.
//!
//! The lists are explicit: they *are* the preference lists. Rejected: deriving them by walking the owners of the following
//! vnodes, as the first Dynamo systems did. There a join shifts replicas between bystanders, and at the tail of the circle,
//! where the walk wraps, two replicas of a vnode have ended up on one node.
//!
//! Invariants, each tested: a list has min(N, members) distinct nodes at every vnode, the last ones included; where racks
//! leave the choice, total and primary load lie within max(5 %, one vnode) of a member's share by weight. Where one rack is
//! too small for its share, distinct racks win over even load.

use ferrite_wire::{ClusterId, Epoch, HashSeed, NodeEntry, NodeId, Topology};

use crate::planted;

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

/// The topology of a new cluster. `vnodes` is a power of two; ids are distinct.
pub fn initial_topology(
    cluster: ClusterId,
    hash_seed: HashSeed,
    vnodes: u32,
    members: &[Member],
    replication: usize,
) -> Topology {
    let mut members = members.to_vec();
    members.sort_by_key(|member| member.id);
    assert!(members.windows(2).all(|pair| pair[0].id != pair[1].id), "members have distinct ids");
    assert!(vnodes.is_power_of_two(), "the number of vnodes is a power of two");
    let replicas = claim(vnodes, &members, replication);
    let entry = |member: Member| NodeEntry {
        id: member.id,
        incarnation: 0,
        name: member.name,
        rack: member.rack,
        datacenter: member.datacenter,
        contact: member.contact,
        endpoints: Vec::new(),
        core_of_vnode: Vec::new(),
    };
    Topology {
        epoch: Epoch(1),
        cluster,
        hash_seed,
        nodes: members.into_iter().map(entry).collect(),
        vnode_epochs: vec![Epoch(1); replicas.len()],
        replicas,
    }
}

/// A replica list for each of `vnodes` vnodes.
pub fn claim(vnodes: u32, members: &[Member], replication: usize) -> Vec<Vec<NodeId>> {
    let replication = replication.min(members.len());
    let mut plan = Plan {
        racks: rack_numbers(members),
        members,
        lists: Vec::with_capacity(vnodes as usize),
        primaries: vec![0; members.len()],
        totals: vec![0; members.len()],
    };
    for vnode in 0..vnodes as usize {
        plan.place(vnode, replication);
    }
    plan.even_out();
    let named = |list: Vec<usize>| list.into_iter().map(|member| members[member].id).collect();
    let mut lists: Vec<Vec<NodeId>> = plan.lists.into_iter().map(named).collect();
    if planted::active(planted::Bug::TailRepeatsNode)
        && let Some([first, second, ..]) = lists.last_mut().map(Vec::as_mut_slice)
    {
        *second = *first;
    }
    lists
}

fn rack_numbers(members: &[Member]) -> Vec<usize> {
    let same = |a: &Member, b: &Member| a.rack == b.rack && a.datacenter == b.datacenter;
    members.iter().map(|member| members.iter().position(|other| same(member, other)).unwrap_or(0)).collect()
}

/// The claim in the making; members are named by their place.
struct Plan<'m> {
    members: &'m [Member],
    racks: Vec<usize>,
    lists: Vec<Vec<usize>>,
    primaries: Vec<u64>,
    totals: Vec<u64>,
}

impl Plan<'_> {
    fn place(&mut self, vnode: usize, replication: usize) {
        let mut list: Vec<usize> = Vec::with_capacity(replication);
        while list.len() < replication {
            let loads = if list.is_empty() { &self.primaries } else { &self.totals };
            let count = self.members.len();
            let best = (0..count)
                .map(|step| (vnode + step) % count)
                .filter(|member| !list.contains(member))
                .min_by_key(|member| {
                    let rack_taken = list.iter().any(|taken| self.racks[*taken] == self.racks[*member]);
                    // Load per weight, compared as integers.
                    (
                        rack_taken,
                        (loads[*member] + 1) * 1_000_000 / u64::from(self.members[*member].weight.max(1)),
                    )
                })
                .expect("fewer replicas than members");
            if list.is_empty() {
                self.primaries[best] += 1;
            }
            self.totals[best] += 1;
            list.push(best);
        }
        self.lists.push(list);
    }

    /// How far a member is above its share, in parts per million of its weight.
    fn fullness(&self, member: usize) -> u64 {
        self.totals[member] * 1_000_000 / u64::from(self.members[member].weight.max(1))
    }

    /// Moves replicas from fuller to emptier members while that evens the load and costs no rack.
    fn even_out(&mut self) {
        for vnode in 0..self.lists.len() {
            for at in 1..self.lists[vnode].len() {
                let full = self.lists[vnode][at];
                let racks_of_others = |list: &Vec<usize>| -> Vec<usize> {
                    list.iter()
                        .enumerate()
                        .filter(|(other, _)| *other != at)
                        .map(|(_, member)| self.racks[*member])
                        .collect()
                };
                let others = racks_of_others(&self.lists[vnode]);
                let full_repeats_rack = others.contains(&self.racks[full]);
                let candidate = (0..self.members.len())
                    .filter(|member| !self.lists[vnode].contains(member))
                    .filter(|member| full_repeats_rack || !others.contains(&self.racks[*member]))
                    .min_by_key(|member| self.fullness(*member));
                let Some(empty) = candidate else { continue };
                // A move helps if the receiver, with one more, is still below the giver.
                let after =
                    (self.totals[empty] + 1) * 1_000_000 / u64::from(self.members[empty].weight.max(1));
                if after < self.fullness(full) {
                    self.totals[full] -= 1;
                    self.totals[empty] += 1;
                    self.lists[vnode][at] = empty;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn members(racks: &[u8], weights: &[u32]) -> Vec<Member> {
        let member = |(at, rack): (usize, &u8)| Member {
            id: NodeId(at as u16 + 1),
            name: format!("n{}", at + 1),
            rack: format!("r{rack}"),
            datacenter: "dc1".to_owned(),
            contact: format!("127.0.0.1:{}", 7000 + at),
            weight: weights.get(at).copied().unwrap_or(1),
        };
        racks.iter().enumerate().map(member).collect()
    }

    fn assert_distinct(lists: &[Vec<NodeId>], members: usize, replication: usize) {
        for (vnode, list) in lists.iter().enumerate() {
            let mut sorted = list.clone();
            sorted.sort_unstable();
            sorted.dedup();
            assert_eq!(sorted.len(), replication.min(members), "vnode {vnode}: {list:?}");
        }
    }

    fn assert_even(lists: &[Vec<NodeId>], members: &[Member], replication: usize) {
        let weights: u32 = members.iter().map(|member| member.weight).sum();
        for member in members {
            let share = |copies: usize| {
                lists.len() as f64 * copies as f64 * f64::from(member.weight) / f64::from(weights)
            };
            let total = lists.iter().flatten().filter(|id| **id == member.id).count() as f64;
            let primary = lists.iter().filter(|list| list[0] == member.id).count() as f64;
            let ok = |load: f64, share: f64| (load - share).abs() <= (share * 0.05).max(1.0);
            assert!(ok(total, share(replication)), "node {:?}: {total} of {}", member.id, share(replication));
            assert!(ok(primary, share(1)), "node {:?}: {primary} primaries of {}", member.id, share(1));
        }
    }

    #[test]
    fn the_tail_of_the_circle_has_distinct_nodes_too() {
        for count in 1..12 {
            for replication in 1..6 {
                let members = members(&vec![0; count], &[]);
                let lists = claim(64, &members, replication);
                assert_distinct(&lists, count, replication);
            }
        }
    }

    #[test]
    fn racks_are_spread_when_there_are_enough() {
        let members = members(&[0, 0, 1, 1, 2, 2], &[]);
        let racks = rack_numbers(&members);
        for list in claim(256, &members, 3) {
            let mut of: Vec<usize> = list.iter().map(|id| racks[id.0 as usize - 1]).collect();
            of.sort_unstable();
            of.dedup();
            assert_eq!(of.len(), 3);
        }
    }

    proptest! {
        #[test]
        fn load_is_even_in_one_rack(count in 1usize..40, replication in 1usize..5) {
            let members = members(&vec![0; count], &[]);
            let lists = claim(1024, &members, replication);
            assert_distinct(&lists, count, replication);
            assert_even(&lists, &members, replication.min(count));
        }

        #[test]
        fn load_follows_weight(weights in prop::collection::vec(1u32..4, 6..20)) {
            let members = members(&vec![0; weights.len()], &weights);
            let lists = claim(4096, &members, 2);
            assert_distinct(&lists, members.len(), 2);
            assert_even(&lists, &members, 2);
        }

        #[test]
        fn the_order_of_members_does_not_matter(count in 1usize..9, turn in 0usize..9) {
            let members = members(&vec![0; count], &[]);
            let mut turned = members.clone();
            turned.rotate_left(turn % count);
            let topology = |members: &[Member]| initial_topology(ClusterId([1; 16]), HashSeed(7), 64, members, 3);
            prop_assert_eq!(topology(&members), topology(&turned));
        }
    }
}
