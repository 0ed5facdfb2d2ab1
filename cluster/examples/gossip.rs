//! How fast and at what cost gossip works, by the number of nodes: the table in `tuning/experiments/gossip.md`.
//!
//! `cargo run --release -p ferrite-cluster --example gossip -- [--steady] [NODES…]`. Virtual time and a seed: every machine prints the same.

#[path = "../tests/gossip/world.rs"]
#[allow(dead_code)] // The tests use the rest.
mod world;

use ferrite_cluster::gossip::{CoreVerdict, GossipOptions, Verdict};
use world::{Counts, World};

const ROUND_MS: u64 = 1_000;
/// How long a loss is watched, in milliseconds of all nodes together: 30 node-hours, and a minute at least.
const WATCHED_NODE_MS: u64 = 30 * HOUR_MS;
const HOUR_MS: u64 = 60 * 60 * 1_000;
/// Each event is brought about so often; the table shows the slowest.
const TIMES: usize = 5;
const WAIT_MAX_MS: u64 = 300 * ROUND_MS;

fn main() {
    let asked: Vec<usize> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let sizes = if asked.is_empty() { vec![10, 30, 100, 300, 1_000] } else { asked };
    let only_steady = std::env::args().any(|arg| arg == "--steady");
    println!("| nodes | log2 | join | restart | fence | suspect | down | of that suspicion |");
    println!("|---:|---:|---:|---:|---:|---:|---:|---:|");
    for &nodes in sizes.iter().filter(|_| !only_steady) {
        convergence(nodes);
    }
    println!();
    println!(
        "| nodes | loss | false suspicions / node-hour | false downs | packets / node / s | bytes / node / s |"
    );
    println!("|---:|---:|---:|---:|---:|---:|");
    for &nodes in &sizes {
        steady(nodes);
    }
}

/// Rounds until every node that lives holds what is so.
fn convergence(nodes: usize) {
    let mut world = World::formed(1, nodes, nodes + TIMES);
    let (mut join, mut restart, mut fence, mut suspect, mut down) = (0, 0, 0, 0, 0);
    let wait = |world: &mut World, slowest: &mut u64, is_so: &dyn Fn(&World) -> bool| {
        let took_ms = world.run_until(WAIT_MAX_MS, is_so).expect("it converges");
        *slowest = took_ms.max(*slowest);
    };
    for time in 0..TIMES {
        let joins = nodes + time;
        world.start(joins);
        let known = nodes + time;
        wait(&mut world, &mut join, &|world| {
            world.all_hold_this_life(joins) && world.members_up(joins) == known
        });
        world.run_for(2 * ROUND_MS);
    }
    world
        .run_until(WAIT_MAX_MS, |world| world.all_hold_core(1, 0, CoreVerdict::Live))
        .expect("digests arrive");
    for time in 0..TIMES {
        world.kill(time);
        world.run_for(200);
        world.start(time);
        wait(&mut world, &mut restart, &|world| world.all_hold_this_life(time));
        let heard = |world: &World| world.all_hold_core(time, 0, CoreVerdict::Live);
        world.run_until(WAIT_MAX_MS, heard).expect("digests arrive");
        world.run_for(2 * ROUND_MS);
        world.fence(time, 0);
        wait(&mut world, &mut fence, &|world| world.all_hold_core(time, 0, CoreVerdict::Fenced));
    }
    for time in 0..TIMES {
        world.kill(nodes - 1 - time);
        let killed_ms = world.now_ms;
        let dead = nodes - 1 - time;
        wait(&mut world, &mut suspect, &|world| {
            world.all_others(dead, |membership| {
                membership.member(world::node_id(dead)).is_some_and(|held| held.verdict != Verdict::Up)
            })
        });
        world.run_until(WAIT_MAX_MS, |world| world.all_hold(dead, Verdict::Down)).expect("it converges");
        down = down.max(world.now_ms - killed_ms);
        world.run_for(5 * ROUND_MS);
    }
    let rounds = |ms: u64| ms as f64 / ROUND_MS as f64;
    println!(
        "| {nodes} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} |",
        (nodes as f64).log2(),
        rounds(join),
        rounds(restart),
        rounds(fence),
        rounds(suspect),
        rounds(down),
        rounds(GossipOptions::default().suspicion_of_ms(nodes)),
    );
}

/// What a cluster in which nothing happens costs, and how often it is wrong.
fn steady(nodes: usize) {
    let mut world = World::formed(2, nodes, nodes);
    for loss_permille in [0, 10, 50] {
        // What forming, or the loss before, has left to say is said.
        world.loss_permille = 0;
        world.run_for(30 * ROUND_MS);
        world.counts = Counts::default();
        world.loss_permille = loss_permille;
        let ms = (WATCHED_NODE_MS / nodes as u64).max(60 * ROUND_MS);
        world.run_for(ms);
        let Counts { packets, bytes, false_suspicions, false_downs, .. } = world.counts;
        let node_s = (nodes as u64 * ms) as f64 / 1_000.0;
        println!(
            "| {nodes} | {} % | {:.2} | {false_downs} | {:.1} | {:.0} |",
            loss_permille / 10,
            false_suspicions as f64 / (node_s / 3_600.0),
            packets as f64 / node_s,
            bytes as f64 / node_s,
        );
    }
}
