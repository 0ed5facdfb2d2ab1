//! The real binary: its command line, its processes, its sockets, its files.

mod bad_bytes;
mod commands;
mod configuration;
mod cores;
mod debug;
mod demo;
mod hints;
mod imports;
mod kills;
mod tables;

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use ferrite_cli::local::{LocalCluster, Shape};
use ferrite_client::BlockingClient;
use ferrite_node::config::ByteSize;
use tempfile::TempDir;

/// A directory whose file system is the build's own: temporary directories may not take direct I/O.
fn directory() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary directory")
}

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_ferrite"))
}

/// Bound on what must be answered at all, so that a test that waits in vain fails instead of hanging.
const ANSWERED_WITHIN: Duration = Duration::from_secs(60);

/// Runs `ferrite` in a directory until it ends. Commands that ask nodes have [`ANSWERED_WITHIN`] if they do not say how long.
fn ferrite(directory: &Path, arguments: &[&str]) -> Output {
    let asks = ["get", "put", "del", "status", "hints", "tables", "import"];
    let is_asking = arguments.first().is_some_and(|command| asks.contains(command));
    let within = format!("--timeout={}s", ANSWERED_WITHIN.as_secs());
    let given = (is_asking && !arguments.contains(&"--timeout")).then_some(within);
    let mut command = Command::new(program());
    command.args(arguments).args(given).current_dir(directory).output().expect("ferrite starts")
}

/// Its exit code, and what it said on stderr.
fn outcome(output: &Output) -> (i32, String) {
    (output.status.code().expect("it exits by itself"), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A cluster of so many nodes, none of which runs.
fn configured(directory: &Path, nodes: usize) -> LocalCluster {
    let shape = Shape { name: "test".into(), nodes, cores: 1, memory: ByteSize::mib(64), first_port: None };
    LocalCluster::create(program(), directory, &shape).expect("a configuration")
}

/// A cluster of so many nodes, running.
fn cluster(directory: &Path, nodes: usize) -> LocalCluster {
    let mut cluster = configured(directory, nodes);
    cluster.start_all().expect("all nodes start");
    cluster
}

fn client(cluster: &LocalCluster) -> BlockingClient {
    let builder = BlockingClient::builder()
        .seeds(cluster.addresses())
        .cluster(cluster.config().cluster.id)
        .timeout(ANSWERED_WITHIN);
    builder.connect_blocking().expect("the cluster answers")
}
