//! Claims and reclaims of many clusters, held against what they promise.

use super::*;
use proptest::prelude::*;

fn member(id: usize, rack: usize, weight: u32) -> Member {
    Member {
        id: NodeId(id as u16),
        name: format!("n{id}"),
        rack: format!("r{rack}"),
        datacenter: "dc1".to_owned(),
        contact: format!("127.0.0.1:{}", 7000 + id),
        weight,
    }
}

/// Members of weight 1 in one rack.
fn alike(count: usize) -> Vec<Member> {
    (1..=count).map(|id| member(id, 0, 1)).collect()
}

/// So many racks of so many members of weight 1 each.
fn grid(racks: usize, each: usize) -> Vec<Member> {
    (0..racks * each).map(|at| member(at + 1, at % racks, 1)).collect()
}

fn rack_count<'m>(members: impl Iterator<Item = &'m Member>) -> usize {
    let mut racks: Vec<&str> = members.map(|member| member.rack.as_str()).collect();
    racks.sort_unstable();
    racks.dedup();
    racks.len()
}

fn find(members: &[Member], id: NodeId) -> &Member {
    members.iter().find(|member| member.id == id).expect("a replica is a member")
}

/// Invariants 1 and 2.
fn assert_distinct(lists: &[Vec<NodeId>], members: &[Member], replication: usize) {
    let racks = rack_count(members.iter());
    for (vnode, list) in lists.iter().enumerate() {
        let mut sorted = list.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), replication.min(members.len()), "vnode {vnode} has the nodes {list:?}");
        for len in 1..=list.len() {
            let prefix = list[..len].iter().map(|id| find(members, *id));
            assert_eq!(rack_count(prefix), len.min(racks), "vnode {vnode} has racks twice in {list:?}");
        }
    }
}

fn count(lists: &[Vec<NodeId>], id: NodeId, prefix: usize) -> usize {
    lists.iter().filter(|list| list[..prefix].contains(&id)).count()
}

/// Invariant 3, where neither racks nor members limit the shares: within one vnode, in all and as primary.
fn assert_even(lists: &[Vec<NodeId>], members: &[Member], replication: usize) {
    let weights: u32 = members.iter().map(|member| member.weight).sum();
    let replication = replication.min(members.len());
    for member in members {
        for prefix in [1, replication] {
            let share = (lists.len() * prefix) as f64 * f64::from(member.weight) / f64::from(weights);
            let load = count(lists, member.id, prefix) as f64;
            assert!(
                (load - share).abs() < 1.0,
                "node {} is among the first {prefix} of {load}, not {share}",
                member.id.0
            );
        }
    }
}

/// Replicas in the new lists that were not in the old.
fn moved(old: &[Vec<NodeId>], new: &[Vec<NodeId>]) -> usize {
    old.iter().zip(new).map(|(old, new)| new.iter().filter(|id| !old.contains(id)).count()).sum()
}

#[test]
fn every_small_cluster_is_distinct_at_every_vnode() {
    for count in 1..=12 {
        for racks in 1..=count.min(5) {
            let members: Vec<Member> = (0..count).map(|at| member(at + 1, at % racks, 1)).collect();
            for replication in 1..=6 {
                for vnodes in [1, 2, 4, 64] {
                    assert_distinct(&claim(vnodes, &members, replication), &members, replication);
                }
            }
        }
    }
}

#[test]
fn small_clusters_are_even_to_the_vnode() {
    for count in 1..=12 {
        for replication in 1..=6 {
            assert_even(&claim(64, &alike(count), replication), &alike(count), replication);
        }
    }
    for (racks, each, replication) in [(3, 1, 3), (3, 4, 3), (2, 3, 3), (5, 2, 3), (4, 4, 2), (2, 2, 4)] {
        let members = grid(racks, each);
        let lists = claim(256, &members, replication);
        assert_distinct(&lists, &members, replication);
        assert_even(&lists, &members, replication);
    }
}

#[test]
fn a_rack_too_small_for_its_share_keeps_vnodes_distinct() {
    // Two single members beside a rack of four: both are at every vnode, and the four share what is left.
    let members: Vec<Member> =
        [0, 0, 0, 0, 1, 2].iter().enumerate().map(|(at, rack)| member(at + 1, *rack, 1)).collect();
    let lists = claim(64, &members, 3);
    assert_distinct(&lists, &members, 3);
    let loads: Vec<usize> = members.iter().map(|member| count(&lists, member.id, 3)).collect();
    assert_eq!(loads, [16, 16, 16, 16, 64, 64]);
}

#[test]
fn racks_of_two_datacenters_with_one_name_are_two_racks() {
    let mut members = alike(4);
    members[2].datacenter = "dc2".to_owned();
    members[3].datacenter = "dc2".to_owned();
    let near = |id: &NodeId| id.0 <= 2;
    assert!(claim(64, &members, 2).iter().all(|list| near(&list[0]) != near(&list[1])));
}

#[test]
fn nobody_and_nothing_are_claimed() {
    assert_eq!(claim(4, &[], 3), vec![Vec::new(); 4]);
    assert_eq!(claim(4, &alike(3), 0), vec![Vec::new(); 4]);
}

#[test]
fn a_dead_nodes_work_spreads_over_all_others() {
    for (members, partners_min) in [(alike(6), 5), (alike(12), 11), (grid(3, 5), 10)] {
        let lists = claim(1024, &members, 3);
        for dead in &members {
            let mut partners: Vec<NodeId> =
                lists.iter().filter(|list| list.contains(&dead.id)).flatten().copied().collect();
            partners.sort_unstable();
            partners.dedup();
            assert!(partners.len() > partners_min, "node {} shares vnodes with {partners:?} only", dead.id.0);
        }
    }
}

#[test]
fn a_join_moves_the_newcomers_share_and_nothing_else() {
    for (before, after) in [(1, 2), (2, 3), (3, 4), (5, 6), (11, 12)] {
        let (old_members, members) = (alike(before), alike(after));
        let old = claim(512, &old_members, 3);
        let new = reclaim(&old, &members, 3);
        assert_distinct(&new, &members, 3);
        assert_even(&new, &members, 3);
        let newcomer = members.last().expect("there is one").id;
        assert_eq!(moved(&old, &new), count(&new, newcomer, 3.min(after)), "from {before} members");
    }
}

#[test]
fn a_leave_moves_what_the_leaver_carried_and_nothing_else() {
    for leaver in [1, 4, 7] {
        let old = claim(512, &alike(7), 3);
        let members: Vec<Member> =
            alike(7).into_iter().filter(|member| member.id != NodeId(leaver)).collect();
        let new = reclaim(&old, &members, 3);
        assert_distinct(&new, &members, 3);
        assert_even(&new, &members, 3);
        assert_eq!(moved(&old, &new), count(&old, NodeId(leaver), 3));
    }
}

#[test]
fn joins_and_leaves_among_racks_move_little_more_than_their_share() {
    let members = grid(3, 4);
    let old = claim(512, &members, 3);
    for rack in 0..3 {
        let mut more = members.clone();
        more.push(member(99, rack, 1));
        let new = reclaim(&old, &more, 3);
        assert_distinct(&new, &more, 3);
        // Its rack must not carry a vnode twice: it relieves its own rack only.
        assert_eq!(moved(&old, &new), count(&new, NodeId(99), 3));
        let fewer: Vec<Member> = members[1..].to_vec();
        let new = reclaim(&old, &fewer, 3);
        assert_distinct(&new, &fewer, 3);
        assert_eq!(moved(&old, &new), count(&old, NodeId(1), 3));
    }
}

#[test]
fn a_new_rack_is_spread_over_at_once() {
    let old = claim(256, &grid(2, 3), 3);
    let mut members = grid(2, 3);
    members.extend([member(21, 2, 1), member(22, 2, 1), member(23, 2, 1)]);
    let new = reclaim(&old, &members, 3);
    assert_distinct(&new, &members, 3);
    assert_even(&new, &members, 3);
    assert_eq!(moved(&old, &new), 256, "one replica of each vnode");
}

#[test]
fn nothing_moves_when_nothing_has_changed() {
    for (members, replication) in [(alike(7), 3), (grid(3, 3), 3), (grid(2, 3), 3), (grid(5, 2), 4)] {
        let lists = claim(256, &members, replication);
        assert_eq!(reclaim(&lists, &members, replication), lists);
    }
}

#[test]
fn more_or_fewer_replicas_keep_the_rest_in_place() {
    let old = claim(256, &alike(6), 2);
    let more = reclaim(&old, &alike(6), 3);
    assert_even(&more, &alike(6), 3);
    assert_eq!(moved(&old, &more), 256);
    assert_eq!(moved(&more, &reclaim(&more, &alike(6), 2)), 0);
}

#[test]
fn lists_that_repeat_a_node_are_healed() {
    let mut old = claim(64, &alike(5), 3);
    old[63] = vec![NodeId(2), NodeId(2), NodeId(2)];
    assert_distinct(&reclaim(&old, &alike(5), 3), &alike(5), 3);
}

#[test]
fn a_large_cluster_is_even_too() {
    let members = grid(5, 20);
    let lists = claim(4096, &members, 3);
    assert_distinct(&lists, &members, 3);
    assert_even(&lists, &members, 3);
}

#[cfg(feature = "planted-bugs")]
#[test]
fn the_planted_bug_repeats_a_node_at_the_tail_only() {
    planted::plant(Some(planted::Bug::TailRepeatsNode));
    let lists = claim(64, &alike(5), 3);
    planted::plant(None);
    let repeats: Vec<usize> = (0..64).filter(|vnode| lists[*vnode][0] == lists[*vnode][1]).collect();
    assert_eq!(repeats, [62, 63]);
}

fn cluster() -> impl Strategy<Value = Vec<Member>> {
    prop::collection::vec((0usize..5, 1u32..17), 1..14).prop_map(|members| {
        members.iter().enumerate().map(|(at, (rack, weight))| member(at + 1, *rack, *weight)).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn load_follows_weight(weights in prop::collection::vec(1u32..5, 15..25), replication in 1usize..4) {
        let members: Vec<Member> = weights.iter().enumerate().map(|(at, weight)| member(at + 1, 0, *weight)).collect();
        // The heaviest are at less than every vnode: nothing limits the shares.
        prop_assume!(weights.iter().all(|weight| *weight as usize * replication <= weights.iter().sum::<u32>() as usize));
        let lists = claim(512, &members, replication);
        assert_distinct(&lists, &members, replication);
        assert_even(&lists, &members, replication);
    }

    /// Through any history of members, racks, weights and replication: distinct, and each member within one vnode of its
    /// share, which the limits are part of.
    #[test]
    fn every_history_keeps_the_invariants(
        clusters in prop::collection::vec((cluster(), 1usize..5), 1..4),
        vnodes in prop::sample::select(vec![16u32, 64, 256]),
    ) {
        let mut lists = vec![Vec::new(); vnodes as usize];
        for (members, replication) in &clusters {
            lists = reclaim(&lists, members, *replication);
            assert_distinct(&lists, members, *replication);
            let width = (*replication).min(members.len());
            let refs: Vec<&Member> = members.iter().collect();
            let weights: Vec<u32> = members.iter().map(|member| member.weight).collect();
            let loads: Vec<u32> = members.iter().map(|member| count(&lists, member.id, width) as u32).collect();
            let plan = Plan::of(&lists, &refs, *replication);
            prop_assert_eq!(&share::shares(&plan.racks, &weights, vnodes, width, &loads), &loads);
            for member in members {
                let share = count(&lists, member.id, width) as f64 / width as f64;
                let first = count(&lists, member.id, 1) as f64;
                prop_assert!((first - share).abs() < 1.0, "first of {} of {}", first, share);
            }
        }
    }
}
