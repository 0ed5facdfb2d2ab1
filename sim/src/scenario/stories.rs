//! What seeds have found, told again on purpose: each story plays one fault, and nothing else happens.

use std::rc::Rc;

use ferrite_promises::Violation;
use ferrite_wire::{Mode, Table};

use super::plan::Plan;
use super::shape::{CARTS, Shape, named};
use super::{SECOND, Scenario};
use crate::bug::{Bug, Planted};
use crate::counts::ByName;
use crate::random::Random;
use crate::world::{ConnectionFaults, Death, DiskFaults, MessageFaults, World};

/// A formed cluster in which clients work and nothing fails by itself.
fn calm(seed: u64) -> (Scenario, Rc<World>) {
    let (scenario, world) = calm_with(seed, vec![Table::default_of(3)], 64);
    scenario.form(&world);
    (scenario, world)
}

/// One that has not formed yet.
fn calm_with(seed: u64, tables: Vec<Table>, keys: u64) -> (Scenario, Rc<World>) {
    let mut random = Random::new(seed);
    let shape = Shape::plain(tables);
    let plan = Plan {
        clients: 6,
        keys,
        work_ns: 0,
        think_ms_max: 5,
        fault_pause_ns: SECOND,
        deletes_one_in: 0,
        ttl_one_in: 0,
        has_weak_writes: false,
        sloppy_one_in: 0,
        is_skewed: false,
        changes_cores: false,
        disk: DiskFaults::default(),
        untrusted: None,
        connections: ConnectionFaults::default(),
        messages: MessageFaults::default(),
        kinds: Vec::new(),
        losses_max: 0,
        avoided: None,
    };
    let world = World::new(random.bits(), shape.addresses());
    (Scenario::new(shape, plan, random), world)
}

/// A node with a full disk cannot raise its clock's persisted bound, so after a second it mints no version any more. It said
/// "overloaded" then, which asks clients to come back in a moment and operators to look for load.
#[test]
fn a_node_that_cannot_mint_because_its_disk_is_full_says_so() {
    let _planted = Planted::new(None);
    let (scenario, world) = calm(1);
    scenario.run_until(&world, world.now_ns() + SECOND, || false);
    assert!(scenario.errors.borrow().is_empty(), "{:?}", scenario.errors.borrow());
    world.set_full(0, true);
    scenario.run_until(&world, world.now_ns() + 5 * SECOND, || false);
    let errors = scenario.errors.borrow().clone();
    assert!(errors.get("disk full").is_some_and(|count| *count > 20), "{errors:?}");
    assert!(!errors.contains_key("overloaded"), "{errors:?}");
    assert_eq!(*scenario.violation.borrow(), None);
    world.end();
}

/// A node forgets, all of it or what came since a copy, and is back under its address before anybody has told it of what it had told them.
fn amnesia(seed: u64, from_copy: bool, bug: Option<Bug>) -> Option<Violation> {
    let _planted = Planted::new(bug);
    let carts = Table { mode: Mode::Siblings, max_siblings: 32, ..named(CARTS, 3) };
    let (scenario, world) = calm_with(seed, vec![Table::default_of(3), carts], 256);
    scenario.form(&world);
    scenario.run_until(&world, world.now_ns() + SECOND / 2, || false);
    let (copy, taken_ns) = (from_copy.then(|| world.copy_disk(0)), world.now_ns());
    scenario.run_until(&world, world.now_ns() + SECOND / 2, || false);
    world.stop(0, Death::Kill);
    world.replace_disk(0, copy);
    scenario.facts.borrow_mut().lost(0, if from_copy { taken_ns } else { 0 }, world.now_ns());
    scenario.shape.start(&world, 0);
    scenario.run_until(&world, world.now_ns() + 2 * SECOND, || false);
    scenario.heal(&world);
    scenario.drain(&world);
    scenario.settle(&world);
    world.end();
    scenario.violation.take()
}

/// Not with every seed: a read may tell the node of a key before the node's next write to it.
fn assert_only_the_same_actor_does_harm(from_copy: bool) {
    let reused = Bug::named("actor-reused");
    let mut harmed = 0;
    for seed in 1..5 {
        assert_eq!(amnesia(seed, from_copy, None), None, "seed {seed}");
        if let Some(violation) = amnesia(seed, from_copy, reused) {
            assert!(violation.what.contains("is lost"), "seed {seed}: {violation:?}");
            harmed += 1;
        }
    }
    assert!(harmed > 0, "an actor that is used again was not caught");
}

/// What one node had written to a set was counted as seen wherever the node's next write came, also where the node itself did not remember
/// it: with the same actor as before, what it had forgotten was taken from those that still had it.
#[test]
fn a_node_that_comes_back_with_an_empty_directory_takes_no_sibling_from_the_others() {
    assert_only_the_same_actor_does_harm(false);
}

/// The same where the directory is put back from a copy that was taken while the node ran.
#[test]
fn a_node_that_comes_back_with_an_old_copy_takes_no_sibling_from_the_others() {
    assert_only_the_same_actor_does_harm(true);
}

/// One core of a node stands still, and the node answers all the while, for its other cores do. Writes waited for it until they were late, each of
/// them, as long as nobody but that core's own silence told of it.
#[test]
fn a_core_that_stands_still_counts_as_absent_and_holds_up_nobody() {
    for core in [0, 1] {
        let _planted = Planted::new(None);
        let (mut scenario, world) = calm_with(2, vec![Table::default_of(3)], 64);
        scenario.plan.avoided = Some(0);
        scenario.form(&world);
        scenario.run_until(&world, world.now_ns() + SECOND, || false);
        assert!(world.stall_core(0, core, 8 * SECOND), "core {core} runs");
        // Time for gossip to find it out.
        scenario.run_until(&world, world.now_ns() + 3 * SECOND, || false);
        ferrite_lsm::cover::take();
        let before = (scenario.history.borrow().writes.counts(), scenario.errors.borrow().clone());
        scenario.run_until(&world, world.now_ns() + 3 * SECOND, || false);
        let (done, _, doubtful) = scenario.history.borrow().writes.counts();
        let ((done_before, _, doubtful_before), errors) = before;
        assert!(done > done_before + 500, "{done_before} writes, then {done}");
        // Writes at ALL cannot be done; none of the others is held up.
        let unavailable = |errors: &ByName| {
            errors.iter().filter(|(name, _)| **name != "unavailable").map(|(_, count)| count).sum::<u64>()
        };
        assert_eq!(unavailable(&errors), unavailable(&scenario.errors.borrow()), "core {core}");
        // One request of each client may be in flight.
        assert!(doubtful <= doubtful_before + 6, "{doubtful_before} in doubt, then {doubtful}");
        let absences = ferrite_lsm::cover::take().get("replica absent by gossip").copied();
        assert!(absences.is_some_and(|count| count > 100), "core {core}: {absences:?}");
        scenario.heal(&world);
        scenario.run_until(&world, world.now_ns() + 2 * SECOND, || false);
        scenario.drain(&world);
        scenario.settle(&world);
        assert_eq!(*scenario.violation.borrow(), None, "core {core}");
        world.end();
    }
}

/// Two clients write the same keys at the same instant through two nodes whose clocks agree to the tick, so that now and then both mint the
/// same order. The actor decides, and must on every replica, in whatever order the two arrived there.
#[test]
fn two_writes_of_the_same_tick_through_two_nodes_end_alike_on_all_replicas() {
    let mut ties = 0;
    for seed in 1..5 {
        let _planted = Planted::new(None);
        let (mut scenario, world) = calm_with(seed, vec![Table::default_of(3)], 64);
        scenario.plan.clients = 2;
        scenario.clients.borrow_mut().truncate(2);
        scenario.form(&world);
        // They do nothing by themselves, but connect.
        scenario.phase.set(super::Phase::Settling);
        for key in 0..64 {
            for client in 0..2 {
                scenario.clients.borrow_mut()[client].wanted = Some(client);
            }
            let ready = || {
                let clients = scenario.clients.borrow();
                clients.iter().all(|client| client.greeted && client.pending.is_none())
            };
            scenario.run_until(&world, world.now_ns() + SECOND, ready);
            for client in 0..2 {
                scenario.write(&world, client, key);
            }
        }
        scenario.run_until(&world, world.now_ns() + SECOND, || false);
        ties += scenario.history.borrow().ties();
        scenario.drain(&world);
        scenario.settle(&world);
        assert_eq!(*scenario.violation.borrow(), None, "seed {seed}");
        world.end();
    }
    assert!(ties >= 10, "only {ties} pairs of writes had the same order");
}

/// Stops each node in turn, and starts it again, while clients write and disks are slow.
fn stopped_in_turn(seed: u64, bug: Option<Bug>) -> Option<Violation> {
    let _planted = Planted::new(bug);
    let (mut scenario, world) = calm_with(seed, vec![Table::default_of(3)], 256);
    scenario.plan.think_ms_max = 1;
    scenario.form(&world);
    world.set_disk_faults(DiskFaults { latency_ns: 8_000_000, ..DiskFaults::default() });
    for stop in 0..30 {
        let node = stop % 3;
        scenario.run_until(&world, world.now_ns() + SECOND / 4, || false);
        // As soon as it has opened.
        scenario.run_until(&world, world.now_ns() + 10 * SECOND, || world.ask_to_stop(node));
        let is_over = || !world.is_running(node) || scenario.violation.borrow().is_some();
        scenario.run_until(&world, world.now_ns() + 10 * SECOND, is_over);
        assert!(!world.is_running(node) || scenario.violation.borrow().is_some(), "it ends in its time");
        if scenario.violation.borrow().is_some() {
            break;
        }
        scenario.shape.start(&world, node);
    }
    world.end();
    scenario.violation.take()
}

/// Nodes that had stopped in order were found to have been killed: a flush that was due began while the log was being closed, and what it changed took back that it was.
#[test]
fn a_node_that_stops_in_order_is_found_to_have_done_so() {
    ferrite_lsm::cover::take();
    for seed in 1..5 {
        assert_eq!(stopped_in_turn(seed, None), None, "seed {seed}");
    }
    let due = ferrite_lsm::cover::take().get("log closed while work was due").copied();
    assert!(due.is_some_and(|times| times > 20), "else there is nothing to begin: {due:?}");
    let bug = Bug::named("work-behind-the-end");
    let caught = (1..5).find_map(|seed| stopped_in_turn(seed, bug));
    assert!(caught.is_some_and(|violation| violation.what.contains("does not know it")));
}
