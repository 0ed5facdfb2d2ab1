//! Reads at QUORUM while one replica is slow: how long they take, and how many more reads that costs.
//!
//! Three nodes behind the proxy, which takes so much longer with everything between the slow node and the others; half of it each way.
//! Clients have the other two coordinate: a client that asks the slow node itself waits for it whatever the cluster does. Healthy and
//! slow take turns.

use std::path::Path;
use std::time::Duration;

use ferrite_client::{BlockingClient, Key, Level, ReadOptions};

use super::load::{Measured, fill, for_a_time, key};
use crate::Obstacle;
use crate::ground::Kind;
use crate::nodes::Nodes;

/// How much.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Options {
    /// How much later the slow node's answers come
    #[arg(long, default_value = "50ms", value_parser = crate::figures::duration)]
    pub delay: Duration,
    /// Time of each of the turns
    #[arg(long, default_value = "1s", value_parser = crate::figures::duration)]
    pub turn: Duration,
    /// Turns of each kind
    #[arg(long, default_value_t = 2)]
    pub rounds: usize,
    /// Clients, each with one read under way
    #[arg(long, default_value_t = 8)]
    pub clients: usize,
    /// Records
    #[arg(long, default_value_t = 2_000)]
    pub records: u64,
}

const SLOW: usize = 2;
const COORDINATORS: [usize; 2] = [0, 1];
/// Turns begin with so much that is not measured: who is slow has to be found out.
const SETTLE: Duration = Duration::from_millis(500);

/// Measures, and prints a table.
pub fn run(program: &Path, home: &Path, options: Options) -> Result<(), Obstacle> {
    let nodes = super::start(program, home, Kind::Loopback, 3)?;
    let mut fillers: Vec<BlockingClient> = (0..8).map(|_| nodes.client(0)).collect();
    fill(&mut fillers, options.records, &[b'v'; 100])?;
    drop(fillers);
    let mut clients: Vec<BlockingClient> = (0..options.clients.max(1))
        .map(|number| nodes.client_of(COORDINATORS[number % 2], &COORDINATORS))
        .collect();
    let read = ReadOptions { level: Some(Level::Quorum), ..ReadOptions::default() };
    let get = |client: &mut BlockingClient, record| client.get(Key::plain(&key(record)), read).is_ok();
    let mut measured = [Measured::default(), Measured::default()];
    let mut hedges = [0, 0];
    let mut is_counted = true;
    for _ in 0..options.rounds.max(1) {
        for (turn, delay) in [Duration::ZERO, options.delay / 2].into_iter().enumerate() {
            for other in COORDINATORS {
                nodes.ground.delay(SLOW, other, delay)?;
                nodes.ground.delay(other, SLOW, delay)?;
            }
            for_a_time(&mut clients, SETTLE, options.records, &get);
            let before = sent_hedges(&nodes);
            measured[turn].add(for_a_time(&mut clients, options.turn, options.records, &get));
            match (before, sent_hedges(&nodes)) {
                (Some(before), Some(after)) => hedges[turn] += after - before,
                (None, _) | (_, None) => is_counted = false,
            }
        }
    }
    println!(
        "reads at QUORUM of three nodes behind a proxy, one of them {} ms later, {} clients with one read under way, {} turns of {:.1} s",
        options.delay.as_millis(),
        options.clients,
        options.rounds,
        options.turn.as_secs_f64()
    );
    println!();
    println!("| | reads | failed | p50 µs | p99 µs | p99.9 µs | extra reads |");
    println!("|---|---:|---:|---:|---:|---:|---:|");
    let mut p99 = [0.0; 2];
    for (turn, name) in ["healthy", "one slow"].into_iter().enumerate() {
        let measured = &mut measured[turn];
        let extra = match is_counted {
            true => format!("{:.1} %", 100.0 * hedges[turn] as f64 / measured.done.max(1) as f64),
            false => "not counted".to_owned(),
        };
        let [p50, p99_us, p99_9] = [0.5, 0.99, 0.999].map(|quantile| measured.quantile_us(quantile));
        p99[turn] = p99_us;
        println!(
            "| {name} | {} | {} | {p50:.0} | {p99_us:.0} | {p99_9:.0} | {extra} |",
            measured.done, measured.failed,
        );
    }
    println!("\np99 with one slow replica is {:.2} times the healthy one", p99[1] / p99[0].max(1.0));
    Ok(())
}

/// Reads that were asked of one more replica, by all coordinators; `None` = they do not count them.
fn sent_hedges(nodes: &Nodes) -> Option<u64> {
    COORDINATORS.into_iter().map(|node| nodes.number(node, "hedges.sent")).sum()
}
