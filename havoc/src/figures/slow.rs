//! Reads at QUORUM while one replica is slow: how long they take, and how many more reads that costs.
//!
//! Three nodes behind the proxy, which takes so much longer with everything between the slow node and the others; half of it each way.
//! Some clients have the other two coordinate, the others all three: a coordinator that is slow itself is the client's to avoid. Healthy and
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
    #[arg(long, default_value = "50ms", value_parser = ferrite_loadgen::cli::duration)]
    pub delay: Duration,
    /// Time of each of the turns
    #[arg(long, default_value = "1s", value_parser = ferrite_loadgen::cli::duration)]
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
    let number = options.clients.max(1);
    let of_two = |at: usize| nodes.client_of(COORDINATORS[at % 2], &COORDINATORS);
    let mut groups = [
        Group::of("of the other two", (0..number).map(of_two).collect()),
        Group::of("of all three", (0..number).map(|at| nodes.client(COORDINATORS[at % 2])).collect()),
    ];
    let read = ReadOptions { level: Some(Level::Quorum), ..ReadOptions::default() };
    let get = |client: &mut BlockingClient, record| client.get(Key::plain(&key(record)), read).is_ok();
    for _ in 0..options.rounds.max(1) {
        for (turn, delay) in [Duration::ZERO, options.delay / 2].into_iter().enumerate() {
            for other in COORDINATORS {
                nodes.ground.delay(SLOW, other, delay)?;
                nodes.ground.delay(other, SLOW, delay)?;
            }
            for group in &mut groups {
                for_a_time(&mut group.clients, SETTLE, options.records, &get);
                let before = sent_hedges(&nodes);
                group.measured[turn].add(for_a_time(&mut group.clients, options.turn, options.records, &get));
                let sent = before.zip(sent_hedges(&nodes)).map(|(before, after)| after - before);
                group.hedges[turn] = group.hedges[turn].zip(sent).map(|(sum, sent)| sum + sent);
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
    println!("| clients | | reads | failed | p50 µs | p99 µs | p99.9 µs | extra reads | p99 / healthy |");
    println!("|---|---|---:|---:|---:|---:|---:|---:|---:|");
    for group in &mut groups {
        let healthy = group.measured[0].quantile_us(0.99).max(1.0);
        for (turn, name) in ["healthy", "one slow"].into_iter().enumerate() {
            let measured = &mut group.measured[turn];
            let extra = group.hedges[turn].map_or_else(
                || "not counted".to_owned(),
                |sent| format!("{:.1} %", 100.0 * sent as f64 / measured.done.max(1) as f64),
            );
            let [p50, p99, p99_9] = [0.5, 0.99, 0.999].map(|quantile| measured.quantile_us(quantile));
            println!(
                "| {} | {name} | {} | {} | {p50:.0} | {p99:.0} | {p99_9:.0} | {extra} | {:.2} |",
                group.name,
                measured.done,
                measured.failed,
                p99 / healthy
            );
        }
    }
    Ok(())
}

/// Clients that choose among the same coordinators.
struct Group {
    name: &'static str,
    clients: Vec<BlockingClient>,
    /// Healthy, and with one slow.
    measured: [Measured; 2],
    /// Reads that were asked of one more replica then; `None` = they are not counted.
    hedges: [Option<u64>; 2],
}

impl Group {
    fn of(name: &'static str, clients: Vec<BlockingClient>) -> Group {
        Group { name, clients, measured: Default::default(), hedges: [Some(0); 2] }
    }
}

/// Reads that were asked of one more replica, by the coordinators that are not slow; `None` = they do not count them.
fn sent_hedges(nodes: &Nodes) -> Option<u64> {
    COORDINATORS.into_iter().map(|node| nodes.number(node, "hedges.sent")).sum()
}
