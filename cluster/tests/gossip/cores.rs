//! What nodes say of their cores, and what others hold of them.

use ferrite_cluster::gossip::{CoreVerdict, GossipOptions, Verdict};
use ferrite_wire::{CoreId, Epoch};

use crate::world::{CORES, SCOPE, World, node_id};

const STALL_MS: u64 = 2_000;

#[test]
fn a_core_that_stands_still_counts_as_absent_though_its_node_answers() {
    let mut world = World::formed(1, 30, 30);
    let live = world.run_until(30_000, |world| world.all_hold_core(3, 1, CoreVerdict::Live));
    assert!(live.is_some());
    world.stall(3, 1, true);
    let took = world.run_until(STALL_MS + 6_000, |world| world.all_hold_core(3, 1, CoreVerdict::Stalled));
    assert!(took.expect("stalled everywhere") >= STALL_MS - 500, "not before it has stood for so long");
    assert!(world.all_hold(3, Verdict::Up), "the node answers");
    let absent = |membership: &ferrite_cluster::gossip::Membership, core: u16| {
        membership.counts_absent(node_id(3), CoreId(core))
    };
    assert!(world.all_others(3, |membership| absent(membership, 1) && !absent(membership, 0)));
    let since_ms = world.membership(9).core(node_id(3), CoreId(1)).expect("known").since_ms;
    assert!(
        world.now_ms - since_ms >= STALL_MS - 500,
        "stalled since it stands still, not since it was heard"
    );
    world.stall(3, 1, false);
    let again = world.run_until(8_000, |world| world.all_hold_core(3, 1, CoreVerdict::Live));
    assert!(again.is_some(), "a core that moves again is taken back");
}

#[test]
fn a_fence_is_known_everywhere_soon_and_gone_with_the_next_life() {
    let mut world = World::formed(2, 30, 30);
    world.run_until(30_000, |world| world.all_hold_core(3, 2, CoreVerdict::Live)).expect("digests arrive");
    world.fence(3, 2);
    world.run_until(7_000, |world| world.all_hold_core(3, 2, CoreVerdict::Fenced)).expect("known");
    world.kill(3);
    world.start(3);
    world.run_until(12_000, |world| world.all_hold_core(3, 2, CoreVerdict::Live)).expect("a new life");
}

#[test]
fn digests_come_to_all_and_are_renewed() {
    let mut world = World::formed(3, 10, 10);
    world.run_for(12_000);
    let read = |world: &World| {
        let digest = world.membership(8).digest(node_id(2)).expect("it has come").clone();
        assert_eq!((digest.tables, digest.version.as_str()), (SCOPE.tables, "1.2.3"));
        assert_eq!(digest.epoch, Epoch(3));
        assert_eq!((digest.load_permille, digest.cores.len()), (100, CORES));
        digest
    };
    let first = read(&world);
    world.run_for(2 * GossipOptions::default().digest_period_ms);
    assert!(read(&world).is_newer_than(&first));
    assert!(read(&world).cores[0].progress > first.cores[0].progress);
}

#[test]
fn a_node_that_is_down_takes_its_cores_with_it() {
    let mut world = World::formed(4, 10, 10);
    world.run_for(12_000);
    assert!(!world.membership(1).counts_absent(node_id(5), CoreId(0)));
    world.kill(5);
    world.run_until(30_000, |world| world.all_hold(5, Verdict::Down)).expect("down everywhere");
    assert!(world.membership(1).counts_absent(node_id(5), CoreId(0)));
}
