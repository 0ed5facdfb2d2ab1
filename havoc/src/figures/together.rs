//! What replication costs where nothing else differs: three nodes together on one core, against one node alone on it.
//!
//! Puts at QUORUM, which is two of three replicas here and the only one there; the load is another core's. Both clusters run all the
//! time and take turns, so that a machine that changes from minute to minute changes for both.

use std::path::Path;
use std::time::Duration;

use ferrite_client::Level;
use ferrite_loadgen::{Distribution, Options as Load, Summary, Workload};

use crate::ground::Kind;
use crate::nodes::Nodes;
use crate::{Obstacle, failed};

/// How much.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Options {
    /// Time of each turn
    #[arg(long, default_value = "1s", value_parser = ferrite_loadgen::cli::duration)]
    pub turn: Duration,
    /// Turns of each kind
    #[arg(long, default_value_t = 1)]
    pub rounds: usize,
    /// Records
    #[arg(long, default_value_t = 100_000)]
    pub records: u64,
}

const CONNECTIONS: usize = 50;
const DEPTHS: [usize; 2] = [1, 16];

/// What came of one turn.
#[derive(Clone, Copy, Debug)]
struct Turn {
    per_second: f64,
    cpu_us: f64,
    p99_us: f64,
}

/// Measures, and prints a table.
pub fn run(program: &Path, home: &Path, options: Options) -> Result<(), Obstacle> {
    let (alone_home, together_home) = (home.join("alone"), home.join("together"));
    for home in [&alone_home, &together_home] {
        std::fs::create_dir(home).map_err(failed("make a directory"))?;
    }
    let on_one =
        |home: &Path, nodes| super::start_on(program, home, Kind::Plain, nodes, vec![super::NODES_CPU]);
    let clusters = [on_one(&alone_home, 1)?, on_one(&together_home, 3)?];
    super::keep_to_others_cpu()?;
    let mut turns: [[Vec<Turn>; 2]; 2] = Default::default();
    for round in 0..options.rounds.max(1) {
        for (depth, turns) in DEPTHS.iter().zip(&mut turns) {
            for (cluster, turns) in clusters.iter().zip(turns) {
                turns.push(turn(cluster, *depth, round == 0, options)?);
            }
        }
    }
    println!(
        "puts at QUORUM of 100 bytes to {} records drawn uniformly, closed loop, medians of {} turns of {:.1} s; all nodes on one CPU, the load on another",
        options.records,
        options.rounds,
        options.turn.as_secs_f64()
    );
    println!();
    println!("| load | nodes | op/s | p99 µs | CPU µs/op, all nodes | op/s against one node |");
    println!("|---|---:|---:|---:|---:|---:|");
    for (depth, turns) in DEPTHS.iter().zip(&turns) {
        let medians = turns.each_ref().map(|turns| {
            [|turn: &Turn| turn.per_second, |turn: &Turn| turn.p99_us, |turn: &Turn| turn.cpu_us]
                .map(|figure| super::median(turns.iter().map(figure)))
        });
        for (nodes, [per_second, p99_us, cpu_us]) in [1, 3].into_iter().zip(medians) {
            println!(
                "| {CONNECTIONS} x {depth} | {nodes} | {per_second:.0} | {p99_us:.0} | {cpu_us:.2} | {:.2} |",
                per_second / medians[0][0]
            );
        }
    }
    Ok(())
}

fn turn(nodes: &Nodes, depth: usize, is_first: bool, options: Options) -> Result<Turn, Obstacle> {
    let target = nodes.contact(0).parse().map_err(failed("find a node"))?;
    let load = Load {
        workload: Workload::Update,
        distribution: Distribution::Uniform,
        records: options.records,
        connections: CONNECTIONS,
        depth,
        duration: options.turn,
        level: Level::Quorum,
        load: is_first && depth == DEPTHS[0],
        server_pids: (0..nodes.len()).filter_map(|node| nodes.pid(node)).collect(),
        ..Load::new(target)
    };
    let summary: Summary = ferrite_loadgen::run(&load).map_err(failed("load the nodes"))?;
    let errors: u64 = summary.write_errors.values().sum();
    if errors > 0 {
        return Err(Obstacle::new("load the nodes", format!("{errors} writes failed")));
    }
    Ok(Turn {
        per_second: summary.ops_per_second,
        cpu_us: summary.server.map_or(0.0, |server| server.us_per_op),
        p99_us: summary.writes.map_or(0.0, |writes| writes.latency.p99),
    })
}
