//! What faults and levels cost, in tables: each figure is one command, whose defaults are short enough for a try.
//!
//! All run on loopback, whose latency is that of the machine. CPU is that of the nodes' processes, all their threads.
//!
//! Those that have a goal say in one line where it is missed. That is judged by functions of the numbers alone.

pub mod cost;
pub mod down;
pub mod flood;
mod load;
pub mod slow;
pub mod together;

use std::path::Path;

use rustix::thread::{CpuSet, sched_setaffinity};

use crate::ground::{Ground, Kind};
use crate::nodes::{Nodes, Shape};
use crate::{Obstacle, failed};

/// Memory and habits of the nodes of figures.
const SERVER: &str = "memory = \"256MiB\"\nspin = \"off\"";
/// The memory that these lines give a node.
const MEMORY_BYTES: u64 = 256 << 20;

/// A 99th percentile is at most so many times what it is when all is well: the goal, with a slow replica as with others who do nothing good.
const P99_RATIO_MAX: f32 = 2.0;

/// A cluster that runs, all of its nodes replicas of everything up to three.
fn start(program: &Path, home: &Path, kind: Kind, nodes: usize) -> Result<Nodes, Obstacle> {
    start_on(program, home, kind, nodes, Vec::new())
}

/// The CPU of the nodes, and that of everybody else where there are two.
const NODES_CPU: usize = 1;
const OTHERS_CPU: usize = 0;

/// A cluster that has one CPU for itself, if there are two: this process keeps to another.
fn start_beside(program: &Path, home: &Path, nodes: usize) -> Result<Nodes, Obstacle> {
    let nodes = start_on(program, home, Kind::Plain, nodes, vec![NODES_CPU])?;
    keep_to_others_cpu()?;
    Ok(nodes)
}

/// Threads that this one makes stay where it is.
fn keep_to_others_cpu() -> Result<(), Obstacle> {
    if std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() > NODES_CPU) {
        let mut cpus = CpuSet::new();
        cpus.set(OTHERS_CPU);
        sched_setaffinity(None, &cpus).map_err(failed("keep to a CPU"))?;
    }
    Ok(())
}

/// The same, on these CPUs; none = all there are.
fn start_on(
    program: &Path,
    home: &Path,
    kind: Kind,
    nodes: usize,
    cpus: Vec<usize>,
) -> Result<Nodes, Obstacle> {
    let shape = Shape {
        nodes,
        cores: 1,
        replication: nodes.min(3),
        server: SERVER.to_owned(),
        more: String::new(),
        small_disk: None,
        cpus,
    };
    let ground = Ground::new(kind, nodes, 1)?;
    let mut nodes = Nodes::configure(program, home, ground, shape)?;
    nodes.start_all()?;
    Ok(nodes)
}

/// How many times the other one percentile is; of none there is nothing to say.
fn ratio(of: f32, to: f32) -> f32 {
    of / to.max(1.0)
}

/// All that is wrong, in one line.
fn in_one_line(wrong: Vec<String>) -> Option<String> {
    (!wrong.is_empty()).then(|| wrong.join("; "))
}

/// The one in the middle.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}
