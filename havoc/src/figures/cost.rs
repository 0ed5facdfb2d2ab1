//! What an operation costs: siblings against the last write, ONE against QUORUM against ALL, in CPU time of all nodes.
//!
//! Three nodes with one core each, all of them replicas of everything. Puts of a table with siblings bear the context of a read that is
//! not counted, and so replace what is there; so each record is put once in a round. Rounds go through all rows by turns, and medians are
//! shown.

use std::path::Path;
use std::sync::Mutex;

use ferrite_client::{BlockingClient, Context, Key, Level, ReadOptions, Replaces, TableId, WriteOptions};
use ferrite_loadgen::CpuSample;

use super::load::{each_once, fill, key};
use crate::ground::Kind;
use crate::nodes::{Nodes, SIBLINGS_TABLE};
use crate::{Obstacle, failed};

/// How much.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Options {
    /// Records; each is put or read once in a round
    #[arg(long, default_value_t = 2_000)]
    pub records: u64,
    /// Rounds
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// Clients, each with one operation under way
    #[arg(long, default_value_t = 50)]
    pub clients: usize,
    /// Length of a value, in bytes
    #[arg(long, default_value_t = 100)]
    pub value_size: usize,
}

const LEVELS: [(&str, Level); 3] = [("ONE", Level::One), ("QUORUM", Level::Quorum), ("ALL", Level::All)];

/// CPU of all nodes per operation, in microseconds: by put or get, level, and last write or siblings; one for each round.
type Costs = [[[Vec<f64>; 2]; 3]; 2];

/// Measures, and prints a table.
pub fn run(program: &Path, home: &Path, options: Options) -> Result<(), Obstacle> {
    let nodes = super::start(program, home, Kind::Plain, 3)?;
    let mut clients: Vec<BlockingClient> =
        (0..options.clients.max(1)).map(|number| nodes.client(number % 3)).collect();
    let value = vec![b'v'; options.value_size];
    fill(&mut clients, options.records, &value)?;
    let mut costs = Costs::default();
    let contexts: Vec<Mutex<Context>> = (0..options.records).map(|_| Mutex::default()).collect();
    for round in 0..options.rounds.max(1) {
        for (at, (_, level)) in LEVELS.iter().enumerate() {
            let read = ReadOptions { level: Some(*level), ..ReadOptions::default() };
            let write = WriteOptions { level: Some(*level), ..WriteOptions::default() };
            let sees = ReadOptions { level: Some(Level::All), ..ReadOptions::default() };
            let learned = each_once(&mut clients, options.records, &|client, record| {
                let found = client.get_siblings(of_siblings(&key(record)), sees);
                found.is_ok_and(|found| {
                    *lock(&contexts, record) = found.context;
                    true
                })
            });
            if learned.failed > 0 {
                return Err(Obstacle::new("read contexts", format!("{} reads failed", learned.failed)));
            }
            let cost = |clients: &mut Vec<BlockingClient>, operation: &super::load::Operation<'_>| {
                let before = samples(&nodes)?;
                let measured = each_once(clients, options.records, operation);
                let after = samples(&nodes)?;
                let spent: u64 = before.iter().zip(&after).map(|(before, after)| after.since(before)).sum();
                if measured.failed > 0 {
                    let why = format!("{} operations failed in round {}", measured.failed, round + 1);
                    return Err(Obstacle::new("measure", why));
                }
                Ok(spent as f64 / 1e3 / measured.done as f64)
            };
            costs[0][at][0].push(cost(&mut clients, &|client, record| {
                client.put(Key::plain(&key(record)), &value, write).is_done()
            })?);
            costs[0][at][1].push(cost(&mut clients, &|client, record| {
                let seen = lock(&contexts, record);
                client
                    .put_replacing(of_siblings(&key(record)), &value, Replaces::Seen(&seen), write)
                    .is_done()
            })?);
            costs[1][at][0].push(cost(&mut clients, &|client, record| {
                client.get(Key::plain(&key(record)), read).is_ok()
            })?);
            costs[1][at][1].push(cost(&mut clients, &|client, record| {
                client.get_siblings(of_siblings(&key(record)), read).is_ok()
            })?);
        }
    }
    print(&costs, options);
    Ok(())
}

fn of_siblings(partition: &[u8]) -> Key<'_> {
    Key { table: TableId::of(SIBLINGS_TABLE), partition, sort: b"" }
}

fn lock(contexts: &[Mutex<Context>], record: u64) -> std::sync::MutexGuard<'_, Context> {
    contexts[record as usize].lock().expect("a record is one client's at a time, and none panics")
}

fn samples(nodes: &Nodes) -> Result<Vec<CpuSample>, Obstacle> {
    let pids = (0..nodes.len()).filter_map(|node| nodes.pid(node));
    pids.map(|pid| CpuSample::of_process(pid).map_err(failed("read the CPU time of a node"))).collect()
}

fn print(costs: &Costs, options: Options) {
    println!(
        "CPU of three nodes per operation in µs, {} clients with one operation under way, values of {} bytes, medians of {} rounds of {}",
        options.clients, options.value_size, options.rounds, options.records
    );
    println!();
    println!("| operation | level | lww | siblings | siblings / lww | lww / its ONE | siblings / its ONE |");
    println!("|---|---|---:|---:|---:|---:|---:|");
    for (operation, costs) in ["put", "get"].iter().zip(costs) {
        let one = costs[0].each_ref().map(|rounds| super::median(rounds.iter().copied()));
        for ((level, _), costs) in LEVELS.iter().zip(costs) {
            let [last_write, siblings] = costs.each_ref().map(|rounds| super::median(rounds.iter().copied()));
            println!(
                "| {operation} | {level} | {last_write:.1} | {siblings:.1} | {:.2} | {:.2} | {:.2} |",
                siblings / last_write,
                last_write / one[0],
                siblings / one[1]
            );
        }
    }
}
