//! A cluster of real processes that is configured for trouble: its own directory, small memtables, what it says of itself.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ferrite_cli::local::{LocalCluster, Shape};
use ferrite_client::{BlockingClient, ReadOptions};
use ferrite_node::config::ByteSize;
use tempfile::TempDir;

/// Bound on anything that must happen at all, so that a test whose wait is in vain fails instead of hanging.
pub(crate) const WITHIN: Duration = Duration::from_secs(60);
/// How often something is looked at that tells nobody when it changes.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// What a cluster should be like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    /// How many nodes.
    pub(crate) nodes: usize,
    /// Cores of each.
    pub(crate) cores: usize,
    /// Lines below `[server]`.
    pub(crate) server: &'a str,
}

/// A cluster and the directory it lives in. Nodes still running are killed when it is dropped.
pub(crate) struct Cluster {
    /// Its processes.
    pub(crate) local: LocalCluster,
    _home: TempDir,
}

/// The binary under test.
pub(crate) fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_ferrite"))
}

/// A directory whose file system is the build's own: temporary directories may not take direct I/O.
pub(crate) fn directory() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary directory")
}

/// Looks again and again until there is something to see.
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + WITHIN;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(LOOK_EVERY);
    }
}

impl Cluster {
    /// A cluster whose nodes do not run yet. Each has little memory.
    pub(crate) fn configure(program: &Path, home: TempDir, wanted: Wanted<'_>) -> Cluster {
        Cluster::configure_with(program, home, wanted, ByteSize::mib(64))
    }

    fn configure_with(program: &Path, home: TempDir, wanted: Wanted<'_>, memory: ByteSize) -> Cluster {
        let shape = Shape {
            name: "adversity".into(),
            nodes: wanted.nodes,
            cores: wanted.cores,
            memory,
            first_port: None,
        };
        let local = LocalCluster::create(program, home.path(), &shape).expect("a configuration");
        let text = std::fs::read_to_string(local.config_file()).expect("it was written");
        let text = text.replacen("[server]\n", &format!("[server]\n{}\n", wanted.server), 1);
        std::fs::write(local.config_file(), text).expect("it can be written again");
        Cluster { local, _home: home }
    }

    /// A cluster that runs.
    pub(crate) fn start(wanted: Wanted<'_>) -> Cluster {
        Cluster::configure(program(), directory(), wanted).started()
    }

    /// A cluster that runs, whose nodes have so much memory each.
    pub(crate) fn start_with(wanted: Wanted<'_>, memory: ByteSize) -> Cluster {
        Cluster::configure_with(program(), directory(), wanted, memory).started()
    }

    fn started(mut self) -> Cluster {
        self.local.start_all().expect("all nodes start");
        self
    }

    /// A client that knows all nodes.
    pub(crate) fn client(&self) -> BlockingClient {
        let builder = BlockingClient::builder()
            .seeds(self.local.addresses())
            .cluster(self.local.config().cluster.id)
            .timeout(WITHIN);
        builder.connect_blocking().expect("the cluster answers")
    }

    /// Runs a node outside the cluster's care: what a supervisor that starts it too often does.
    pub(crate) fn spawn(&self, index: usize) -> Child {
        Command::new(program())
            .args(["serve", "--config"])
            .arg(self.local.config_file())
            .args(["--node", &self.local.node(index).name])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("ferrite starts")
    }

    /// Memory of a node's process that is really there, in bytes.
    pub(crate) fn resident_bytes(&self, index: usize) -> u64 {
        memory_line(self.local.pid(index).expect("it runs"), "VmRSS")
    }

    /// The most that it has been.
    pub(crate) fn resident_bytes_max(&self, index: usize) -> u64 {
        memory_line(self.local.pid(index).expect("it runs"), "VmHWM")
    }

    /// What the core behind a node's contact address says of itself.
    pub(crate) fn status(&self, client: &mut BlockingClient, index: usize) -> Status {
        let address = self.local.node(index).address.to_string();
        let options = ReadOptions { level: None, timeout: Some(WITHIN) };
        let text = client.status_at(&address, options).expect("the node answers");
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        Status(lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }
}

/// A line of what the kernel says of a process, in bytes.
fn memory_line(pid: u32, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib = line.expect("the kernel counts it").trim().trim_end_matches(" kB");
    kib.parse::<u64>().expect("a number") << 10
}

/// The `name value` lines of a core.
#[derive(Debug)]
pub(crate) struct Status(BTreeMap<String, String>);

impl Status {
    /// A truth by its name.
    pub(crate) fn says(&self, name: &str) -> bool {
        let value = self.0.get(name).unwrap_or_else(|| panic!("no line {name} in {self:?}"));
        value.parse().unwrap_or_else(|_| panic!("{name} is {value}"))
    }

    /// A line by its name.
    pub(crate) fn line(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// A number by its name.
    pub(crate) fn number(&self, name: &str) -> u64 {
        let value = self.0.get(name).unwrap_or_else(|| panic!("no line {name} in {self:?}"));
        value.parse().unwrap_or_else(|_| panic!("{name} is {value}"))
    }
}
