//! Who is held to live, in clusters of 10 to 100; `examples/gossip.rs` goes to 1,000.

use ferrite_cluster::gossip::{GossipOptions, Verdict};

use crate::world::{Counts, World, node_id};

const ROUND_MS: u64 = 1_000;

/// Rounds that news may take to reach all of a cluster, beyond what it waits for: twice the binary logarithm.
fn spread_ms(nodes: usize) -> u64 {
    2 * u64::from(nodes.ilog2() + 1) * ROUND_MS
}

fn suspicion_ms(nodes: usize) -> u64 {
    GossipOptions::default().suspicion_of_ms(nodes)
}

#[test]
fn a_node_that_dies_is_suspect_then_down_everywhere_and_nobody_else_is() {
    for nodes in [10, 30, 100] {
        let mut world = World::formed(nodes as u64, nodes, nodes);
        world.counts = Counts::default();
        world.kill(nodes / 2);
        let suspect = world.run_until(spread_ms(nodes), |world| world.all_hold(nodes / 2, Verdict::Suspect));
        assert!(suspect.is_some(), "{nodes}: not suspect everywhere");
        let down = world.run_until(suspicion_ms(nodes) + spread_ms(nodes), |world| {
            world.all_hold(nodes / 2, Verdict::Down)
        });
        let waited_ms = suspect.expect("above") + down.expect("not down everywhere");
        assert!(waited_ms >= suspicion_ms(nodes), "{nodes}: down before it could object");
        let Counts { false_suspicions, false_downs, renewals, faults, .. } = world.counts;
        assert_eq!((false_suspicions, false_downs, renewals, faults), (0, 0, 0, 0), "{nodes}");
    }
}

#[test]
fn a_restarted_node_takes_the_place_of_its_former_self_at_once() {
    for nodes in [10, 30] {
        let mut world = World::formed(2, nodes, nodes);
        let before = world.membership(4).me().generation();
        world.kill(4);
        world.run_for(300);
        world.start(4);
        assert!(world.membership(4).me().generation() > before);
        let took = world.run_until(spread_ms(nodes), |world| world.all_hold_this_life(4));
        assert!(took.is_some(), "{nodes}: the new life is not known everywhere");
        world.counts = Counts::default();
        world.run_for(20 * ROUND_MS);
        assert!(
            world.all_hold_this_life(4),
            "what was said of the former life does not stick to the new one"
        );
        assert_eq!(world.counts.false_downs, 0);
    }
}

#[test]
fn a_node_that_was_down_comes_back_with_a_new_life() {
    let mut world = World::formed(3, 10, 10);
    world.kill(7);
    world.run_until(30_000, |world| world.all_hold(7, Verdict::Down)).expect("down everywhere");
    world.start(7);
    world.run_until(spread_ms(10), |world| world.all_hold_this_life(7)).expect("up everywhere");
    assert_eq!(world.members_up(7), 9);
}

#[test]
fn a_node_whose_clock_fell_back_goes_above_the_life_that_the_cluster_has_seen() {
    let mut world = World::formed(4, 10, 10);
    let before = world.membership(7).me().generation();
    world.kill(7);
    world.run_for(300);
    world.start_as(7, before.0 - 500_000);
    world.run_until(spread_ms(10), |world| world.all_hold_this_life(7)).expect("up everywhere");
    assert!(world.membership(7).me().generation() > before);
}

#[test]
fn a_node_joins_by_a_seed() {
    for nodes in [10, 30, 100] {
        let mut world = World::formed(5, nodes, nodes + 1);
        world.start(nodes);
        let took = world.run_until(spread_ms(nodes), |world| {
            world.all_hold_this_life(nodes) && world.members_up(nodes) == nodes
        });
        assert!(took.is_some(), "{nodes}: who joins is not known everywhere, or does not know all");
    }
}

#[test]
fn a_node_that_leaves_is_down_without_a_suspicion() {
    let mut world = World::formed(6, 30, 30);
    world.leave(3);
    world.run_for(50);
    world.kill(3);
    let took = world.run_until(spread_ms(30), |world| world.all_hold(3, Verdict::Down)).expect("down");
    assert!(took < suspicion_ms(30), "it was not waited for: {took} ms");
}

/// In the first runs nodes began new lives that nobody had declared down. Where a suspicion was cleared in time foca 2.0 says nothing
/// to its members, but it tells the suspect all the same that it was declared down.
#[test]
fn a_suspicion_that_was_cleared_has_no_sequel() {
    let mut world = World::formed(14, 10, 10);
    world.counts = Counts::default();
    world.cut.extend((0..10).flat_map(|other| [(other, 4), (4, other)]));
    world.run_until(10 * ROUND_MS, |world| {
        (0..10).any(|node| world.held(node, 4).is_some_and(|held| held.verdict == Verdict::Suspect))
    });
    world.cut.clear();
    world.run_for(30 * ROUND_MS);
    assert!(world.counts.false_suspicions > 0);
    assert_eq!((world.counts.renewals, world.counts.false_downs), (0, 0));
    assert!(world.all_hold_all(10));
}

#[test]
fn no_node_is_declared_down_for_lost_packets() {
    for (nodes, loss_permille) in [(10, 10), (30, 10), (20, 50)] {
        let mut world = World::formed(7, nodes, nodes);
        world.counts = Counts::default();
        world.loss_permille = loss_permille;
        world.run_for(120 * ROUND_MS);
        let Counts { false_downs, renewals, faults, .. } = world.counts;
        assert_eq!((false_downs, renewals, faults), (0, 0, 0), "{nodes} at {loss_permille} permille");
        let all_up = world.run_until(20 * ROUND_MS, |world| world.all_hold_all(nodes));
        assert!(all_up.is_some(), "{nodes} at {loss_permille} permille: suspicions are not cleared");
    }
}

#[test]
fn a_way_that_is_cut_in_one_direction_between_two_hurts_neither() {
    let mut world = World::formed(8, 10, 10);
    world.counts = Counts::default();
    world.cut.insert((2, 5));
    world.run_for(120 * ROUND_MS);
    assert_eq!((world.counts.false_suspicions, world.counts.false_downs), (0, 0), "others ask for them");
}

/// In the first run the deaf node was down everywhere, and still every other node began a new life: foca obeys who says that it was
/// declared down, whoever says it.
#[test]
fn a_node_that_is_heard_but_hears_nobody_is_down_and_takes_nobody_with_it() {
    for (seed, nodes) in [(1, 10), (2, 10), (3, 10), (4, 10), (5, 10), (6, 30)] {
        let mut world = World::formed(seed, nodes, nodes);
        world.counts = Counts::default();
        world.cut.extend((0..nodes).map(|other| (other, 4)));
        let down =
            world.run_until(suspicion_ms(nodes) + spread_ms(nodes), |world| world.all_hold(4, Verdict::Down));
        assert!(down.is_some(), "{nodes}: the deaf node is not down");
        world.run_for(40 * ROUND_MS);
        assert_eq!(world.counts.renewals, 0, "{nodes}: by what the deaf one said");
        for node in (0..nodes).filter(|node| *node != 4) {
            let others = (0..nodes).filter(|other| ![4, node].contains(other));
            for other in others {
                let held = world.held(node, other).expect("known");
                assert_eq!(held.verdict, Verdict::Up, "{node} of {other}, by what the deaf one said");
            }
        }
        world.cut.clear();
        world.counts = Counts::default();
        let healed = world.run_until(90 * ROUND_MS, |world| world.all_hold_all(nodes));
        assert!(healed.is_some(), "{nodes}: it does not come back");
        world.run_for(40 * ROUND_MS);
        assert_eq!(
            (world.counts.renewals, world.counts.false_downs),
            (1, 0),
            "and forces nobody into a new life"
        );
    }
}

#[test]
fn halves_that_lost_each_other_find_each_other() {
    let nodes = 10;
    let mut world = World::formed(10, nodes, nodes);
    for (from, to) in (0..5).flat_map(|from| (5..nodes).map(move |to| (from, to))) {
        world.cut.extend([(from, to), (to, from)]);
    }
    let apart = world.run_until(60 * ROUND_MS, |world| {
        (0..5).all(|node| {
            (5..nodes).all(|other| world.held(node, other).is_some_and(|held| held.verdict == Verdict::Down))
        })
    });
    assert!(apart.is_some(), "the halves hold each other down");
    world.cut.clear();
    let healed = world.run_until(180 * ROUND_MS, |world| world.all_hold_all(nodes));
    assert!(healed.is_some(), "the halves stay apart");
}

#[test]
fn a_process_that_stood_still_suspects_nobody_for_it() {
    let mut world = World::formed(11, 30, 30);
    world.counts = Counts::default();
    world.pause(6);
    world.run_for(2_500);
    world.go_on(6);
    world.run_for(20 * ROUND_MS);
    assert_eq!(world.counts.false_downs, 0);
    assert!(world.counts.false_suspicions <= 1, "itself at most: {:?}", world.counts);
    assert!(world.all_hold_all(30));
}

#[test]
fn a_member_that_is_down_can_be_forgotten_and_one_that_lives_cannot() {
    let mut world = World::formed(12, 10, 10);
    world.kill(7);
    world.run_until(30_000, |world| world.all_hold(7, Verdict::Down)).expect("down everywhere");
    // What was still to be passed on is said.
    world.run_for(10 * ROUND_MS);
    for node in (0..10).filter(|node| *node != 7) {
        world.forget(node, 7);
        world.forget(node, 1);
        assert!(world.membership(node).member(node_id(7)).is_none());
        assert!(node == 1 || world.membership(node).member(node_id(1)).is_some());
    }
    world.run_for(60 * ROUND_MS);
    assert!(world.all_others(7, |membership| membership.member(node_id(7)).is_none()), "nobody speaks of it");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = || {
        let mut world = World::formed(13, 30, 30);
        world.loss_permille = 50;
        world.run_for(30 * ROUND_MS);
        (world.now_ms, world.counts.packets, world.counts.bytes, world.counts.false_suspicions)
    };
    assert_eq!(run(), run());
}
