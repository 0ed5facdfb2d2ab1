//! What seeds have found, told again on purpose: each story plays one fault, and nothing else happens.

use std::rc::Rc;

use super::plan::Plan;
use super::{FORMING_NS, MS, NODES, Phase, SECOND, Scenario, addresses};
use crate::bug::Planted;
use crate::random::Random;
use crate::world::{DiskFaults, Event, World};

/// A formed cluster in which clients work and nothing fails by itself.
fn calm(seed: u64) -> (Scenario, Rc<World>) {
    let mut random = Random::new(seed);
    let plan = Plan {
        clients: 6,
        keys: 64,
        think_ms_max: 5,
        deletes_one_in: 0,
        value_bytes_max: 4096,
        memtable_bytes: 96 * 1024,
        disk: DiskFaults::default(),
        kinds: Vec::new(),
        narrow: None,
        carts: None,
        ..Plan::draw(&mut random)
    };
    let world = World::new(random.bits(), addresses());
    let scenario = Scenario::new(plan, random);
    (0..NODES).for_each(|node| scenario.start(&world, node));
    scenario.run_until(&world, world.now_ns() + FORMING_NS, || false);
    scenario.phase.set(Phase::Working);
    (0..scenario.plan.clients as u64)
        .for_each(|client| world.after(client * MS, Event::Client(client as usize)));
    (scenario, world)
}

/// A node with a full disk cannot raise its clock's persisted bound, so after a second it mints no version any more. It said
/// "overloaded" then, which asks clients to come back in a moment and operators to look for load.
#[test]
fn a_node_that_cannot_mint_because_its_disk_is_full_says_so() {
    let _planted = Planted::new(None);
    let (scenario, world) = calm(1);
    scenario.run_until(&world, world.now_ns() + SECOND, || false);
    assert!(scenario.errors.borrow().is_empty(), "{:?}", scenario.errors.borrow());
    world.disk(0).set_full(true);
    scenario.run_until(&world, world.now_ns() + 5 * SECOND, || false);
    let errors = scenario.errors.borrow().clone();
    assert!(errors.get("disk full").is_some_and(|count| *count > 20), "{errors:?}");
    assert!(!errors.contains_key("overloaded"), "{errors:?}");
    assert_eq!(*scenario.violation.borrow(), None);
    world.end();
}
