//! `ferrite demo`: what the database promises, shown in under a minute on one machine.
//!
//! Three nodes, real sockets, real disks: import, a checked workload, a node killed in the middle and started again, every
//! record read back. Each step says in plain words what it does and what came of it; the first that fails ends the demo.

mod records;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ferrite_client::{BlockingClient, Key, Level, ReadOptions};
use ferrite_loadgen::{Options, Summary, Workload};
use ferrite_node::config::ByteSize;
use ferrite_node::startup;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::import;
use crate::local::{Killer, LocalCluster, LocalError, Shape};
use crate::outcome::Failure;

/// Show what Ferrite does: three nodes, an import, a node killed under load, every record read back
///
/// Everything happens on loopback and in a temporary directory that is removed at the end. Takes less than a minute.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Keep the cluster up at the end, until Ctrl-C
    #[arg(long)]
    stay: bool,
    /// Where to put the temporary directory; its file system must take direct I/O
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// Where the demo's first node listens, if it can.
const FIRST_PORT: u16 = 7100;
const MEMORY: ByteSize = ByteSize::mib(128);
/// The node that is killed.
const VICTIM: usize = 1;
/// Records of the workload, beside the imported ones.
const WORKLOAD_RECORDS: u64 = 5_000;
/// Operations a second: far below what the cluster can, so that latency is the cluster's and not a queue's.
const WORKLOAD_RATE: f64 = 2_000.0;
const WORKLOAD_TIME: Duration = Duration::from_secs(12);
/// How long the workload runs before the kill, and how long the node stays dead.
const BEFORE_KILL: Duration = Duration::from_secs(3);
const DEAD_TIME: Duration = Duration::from_secs(3);
/// Attempts at removing the data of nodes that were just killed.
const REMOVE_TRIES: usize = 50;
/// Longest wait for an answer: on a slow disk, hundreds of writes wait before each.
const ANSWERED_WITHIN: Duration = Duration::from_secs(60);
/// Longest wait for the workload's first records.
const PREFILL_WITHIN: Duration = Duration::from_secs(30);

impl From<LocalError> for Failure {
    fn from(error: LocalError) -> Self {
        Failure::failed(error)
    }
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let started = Instant::now();
    let home = home(args.data.as_deref())?;
    let program = std::env::current_exe().map_err(Failure::failed)?;
    let shape =
        Shape { name: "demo".to_owned(), nodes: 3, cores: 1, memory: MEMORY, first_port: Some(FIRST_PORT) };
    let mut cluster = LocalCluster::create(&program, home.path(), &shape)?;
    end_with_signals(cluster.killer(), home.path().to_owned())?;

    step(1, "Starting three nodes, each a process of its own");
    cluster.start_all()?;
    for index in 0..shape.nodes {
        let (node, pid) = (cluster.node(index), cluster.pid(index).unwrap_or(0));
        println!("   {} listens on {}, process {pid}", node.name, node.address);
    }
    let mut client = connect(&cluster)?;

    step(2, "Importing the 34,924 records of the Unicode Character Database at QUORUM");
    println!("   a write is acknowledged once two of its three replicas have synced it to disk");
    import_records(&mut client)?;

    step(3, "Running a checked workload: half reads, half updates, every value verified");
    let summary = workload_with_a_kill(&mut cluster, &mut client)?;

    step(4, "Reading all imported records back at QUORUM, comparing byte for byte");
    read_back(&cluster)?;

    step(5, "What the workload saw, the kill included");
    summary.text().lines().for_each(|line| println!("   {line}"));
    println!();
    summary.histogram_text().lines().for_each(|line| println!("   {line}"));

    if args.stay {
        return stay(&cluster, started);
    }
    step(6, "Stopping the nodes");
    for index in 0..shape.nodes {
        let name = cluster.node(index).name.clone();
        let status = cluster.stop(index)?;
        if !status.success() {
            return Err(Failure::failed(format!("node {name} did not stop cleanly: {status}")));
        }
    }
    println!("   each finished what was under way, synced its log and exited with 0");
    println!("\nDone in {:.0} s: nothing acknowledged was lost.", started.elapsed().as_secs_f64());
    Ok(())
}

/// From now on a signal ends the process: its nodes are killed and their data is removed.
fn end_with_signals(killer: Killer, directory: PathBuf) -> Result<(), Failure> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(Failure::failed)?;
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            killer.kill_all();
            // A node that is just ending may still be writing.
            for _ in 0..REMOVE_TRIES {
                if std::fs::remove_dir_all(&directory).is_ok() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}

fn step(number: u32, what: &str) {
    println!("\n{number}. {what}");
}

/// A temporary directory whose file system takes direct I/O: where temporary files go, or else here.
fn home(wanted: Option<&Path>) -> Result<tempfile::TempDir, Failure> {
    let here = || PathBuf::from(".");
    let candidates = match wanted {
        Some(directory) => vec![directory.to_owned()],
        None => vec![std::env::temp_dir(), here()],
    };
    let mut last = Failure::failed("no directory for the demo");
    for parent in candidates {
        let parent = std::path::absolute(parent).map_err(Failure::failed)?;
        match tempfile::Builder::new().prefix("ferrite-demo-").tempdir_in(&parent) {
            Ok(directory) => match startup::check_direct_io(directory.path()) {
                Ok(()) => return Ok(directory),
                Err(error) => last = Failure::failed(error),
            },
            Err(error) => last = Failure::failed(format!("{}: {error}", parent.display())),
        }
    }
    Err(last)
}

fn connect(cluster: &LocalCluster) -> Result<BlockingClient, Failure> {
    let builder = BlockingClient::builder()
        .seeds(cluster.addresses())
        .cluster(cluster.config().cluster.id)
        .timeout(ANSWERED_WITHIN);
    builder.connect_blocking().map_err(Failure::failed)
}

fn import_records(client: &mut BlockingClient) -> Result<(), Failure> {
    let failures = import::import_delimited(client, "UnicodeData", records::TEXT, b';', Level::Quorum)?;
    if failures != import::Failures::default() {
        return Err(Failure::failed("not every record was imported"));
    }
    Ok(())
}

/// Runs the workload; kills a node while it runs, and starts it again.
fn workload_with_a_kill(cluster: &mut LocalCluster, client: &mut BlockingClient) -> Result<Summary, Failure> {
    let target = cluster.addresses()[0].parse().map_err(Failure::failed)?;
    let options = Options {
        workload: Workload::A,
        records: WORKLOAD_RECORDS,
        connections: 6,
        depth: 16,
        rate: Some(WORKLOAD_RATE),
        duration: WORKLOAD_TIME,
        level: Level::Quorum,
        load: true,
        check: true,
        progress: false,
        ..Options::new(target)
    };
    let last_key =
        ferrite_loadgen::record::KeyWriter::new(&options.key_prefix, false).key(options.records - 1).to_vec();
    let workload = std::thread::spawn(move || ferrite_loadgen::run(&options));
    await_key(client, &last_key)?;
    let name = cluster.node(VICTIM).name.clone();
    println!("   {WORKLOAD_RECORDS} records are written; {WORKLOAD_RATE} operations a second follow");
    std::thread::sleep(BEFORE_KILL);
    println!("   killing {name} with SIGKILL, in the middle of it");
    cluster.kill(VICTIM)?;
    std::thread::sleep(DEAD_TIME);
    println!("   starting {name} again: it replays its log");
    let restarted = Instant::now();
    cluster.start(VICTIM)?;
    println!("   {name} serves again after {:.1} s", restarted.elapsed().as_secs_f64());
    let summary = workload.join().map_err(|_| Failure::failed("the workload panicked"))?;
    let summary = summary.map_err(Failure::failed)?;
    match summary.failure() {
        None => Ok(summary),
        Some(failure) => {
            print!("{}", summary.text());
            Err(Failure::failed(failure))
        }
    }
}

/// Waits until a key has a value.
fn await_key(client: &mut BlockingClient, key: &[u8]) -> Result<(), Failure> {
    let deadline = Instant::now() + PREFILL_WITHIN;
    while Instant::now() < deadline {
        if let Ok(Some(_)) = client.get(Key::plain(key), ReadOptions::default()) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(Failure::failed("the workload's first records were not written in time"))
}

fn read_back(cluster: &LocalCluster) -> Result<(), Failure> {
    let begun = Instant::now();
    let comparison = records::compare(&mut connect(cluster)?);
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "   {} are the same, {} absent, {} different, {} could not be read ({seconds:.1} s)",
        import::grouped(comparison.same),
        comparison.absent,
        comparison.different,
        comparison.failed
    );
    match comparison.first {
        None => Ok(()),
        Some(first) => Err(Failure::failed(format!("not every record came back: {first}"))),
    }
}

/// Says how to talk to the cluster and leaves it alone until a signal comes.
fn stay(cluster: &LocalCluster, started: Instant) -> Result<(), Failure> {
    let (config, first) = (cluster.config_file().display(), &cluster.node(0).address);
    println!(
        "\nDone in {:.0} s: nothing acknowledged was lost. The cluster stays up; try:",
        started.elapsed().as_secs_f64()
    );
    println!("   ferrite get --config {config} 1F600");
    println!("   ferrite put --config {config} greeting hello");
    println!("   ferrite status --config {config}");
    println!("   ferrite load --target {first} --load --records 100k --workload b");
    if let Some(pid) = cluster.pid(VICTIM) {
        println!("   kill -9 {pid}  (that is {}, and the rest still works)", cluster.node(VICTIM).name);
    }
    println!("Ctrl-C stops it and removes its data.");
    loop {
        std::thread::park();
    }
}
