//! A cluster on this machine: each node a process of its own, on loopback, in one directory.
//!
//! The demo runs on it, and so do the tests of the real binary. A node's log goes to `NAME.log` beside its data; its standard
//! input is a pipe that nobody writes to: when this process ends, however it ends, the pipe closes and the nodes stop.
//!
//! Ports are searched below the range that the system hands out to outgoing connections. A node that is down for a moment
//! would otherwise find its port taken by somebody's outgoing connection, or a client's attempts would connect to themselves.

use std::fmt;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use ferrite_node::config::{Address, Birth, ByteSize, Config, ConfigError, Node};
use ferrite_node::startup::{self, StartupError};
use ferrite_wire::{ClusterId, HashSeed};
use rustix::process::{Pid, Signal, kill_process};

/// Longest wait for a node to accept connections.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// Longest wait for a node that was told to stop.
const STOP_WITHIN: Duration = Duration::from_secs(30);
/// How often a stopping node is looked at.
const STOP_POLL: Duration = Duration::from_millis(5);
/// Ports of a node lie in a block of this many.
const PORT_BLOCK: u16 = 10;
/// Where ports are searched: above what servers usually use, below what the system gives to outgoing connections.
const PORTS: std::ops::Range<u16> = 10_000..30_000;
/// Blocks of ports tried before giving up.
const PORT_TRIES: usize = 500;
/// Lines of a log that are shown when its node fails.
const LOG_LINES_SHOWN: usize = 5;

/// What a cluster should be like.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Its name.
    pub name: String,
    /// How many nodes.
    pub nodes: usize,
    /// Cores of each, less than 10.
    pub cores: usize,
    /// Memory of each.
    pub memory: ByteSize,
    /// Where to look for free ports first.
    pub first_port: Option<u16>,
}

/// Why a cluster is not as it should be.
#[derive(Debug)]
pub enum LocalError {
    /// The system refused something.
    System {
        /// What was attempted.
        action: &'static str,
        /// Its answer.
        error: io::Error,
    },
    /// The machine does not say what it has.
    Machine(StartupError),
    /// There are not enough free ports.
    NoPorts,
    /// The configuration that was made is not one.
    Config(ConfigError),
    /// A node ended instead of becoming ready.
    Ended {
        /// Which.
        node: String,
        /// How.
        status: ExitStatus,
        /// The end of its log.
        log: String,
    },
    /// A node did not become ready, or did not stop, in time.
    TooSlow {
        /// Which.
        node: String,
        /// The end of its log.
        log: String,
    },
}

impl fmt::Display for LocalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LocalError::System { action, error } => write!(f, "cannot {action}: {error}"),
            LocalError::Machine(error) => write!(f, "{error}"),
            LocalError::NoPorts => write!(f, "no free ports were found on 127.0.0.1"),
            LocalError::Config(error) => write!(f, "{error}"),
            LocalError::Ended { node, status, log } => write!(f, "node {node} ended with {status}: {log}"),
            LocalError::TooSlow { node, log } => write!(f, "node {node} takes too long: {log}"),
        }
    }
}

impl std::error::Error for LocalError {}

fn refused(action: &'static str) -> impl FnOnce(io::Error) -> LocalError {
    move |error| LocalError::System { action, error }
}

/// A cluster of processes. Those still running are killed when it is dropped.
#[derive(Debug)]
pub struct LocalCluster {
    program: PathBuf,
    directory: PathBuf,
    config_file: PathBuf,
    config: Config,
    running: Vec<Option<Child>>,
    pids: Arc<Mutex<Vec<Option<u32>>>>,
}

/// Kills the nodes of a cluster from another thread.
#[derive(Clone, Debug)]
pub struct Killer(Arc<Mutex<Vec<Option<u32>>>>);

impl Killer {
    /// Kills every node that runs; whoever owns the cluster cannot start another while this is held.
    pub fn kill_all(&self) {
        // A poisoned lock guards a plain list all the same.
        let mut pids = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for pid in pids.iter_mut().filter_map(Option::take) {
            if let Some(pid) = Pid::from_raw(pid as i32) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

impl LocalCluster {
    /// Writes the configuration of a new cluster into `directory`. `program` is the `ferrite` binary.
    pub fn create(program: &Path, directory: &Path, shape: &Shape) -> Result<LocalCluster, LocalError> {
        let birth = Birth {
            name: shape.name.clone(),
            id: ClusterId((u128::from(random()) << 64 | u128::from(random()) | 1).to_le_bytes()),
            hash_seed: HashSeed(random()),
            nodes: shape.nodes,
            addresses: free_addresses(shape)?,
            cores: shape.cores,
            cpus: startup::allowed_cpus().map_err(LocalError::Machine)?,
            vnodes: None,
            replication: None,
            memory: Some(shape.memory),
            allow_insecure_network: false,
            data: directory.join("data"),
        };
        let text = birth.render().ok_or(LocalError::NoPorts)?;
        let config_file = directory.join("ferrite.toml");
        std::fs::write(&config_file, &text).map_err(refused("write the configuration"))?;
        let config = Config::parse(&text, &config_file).map_err(LocalError::Config)?;
        let running = config.nodes.iter().map(|_| None).collect();
        let pids = Arc::new(Mutex::new(vec![None; config.nodes.len()]));
        let (program, directory) = (program.to_owned(), directory.to_owned());
        Ok(LocalCluster { program, directory, config_file, config, running, pids })
    }

    /// The configuration all nodes read.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where it is.
    pub fn config_file(&self) -> &Path {
        &self.config_file
    }

    /// A node, from 0.
    pub fn node(&self, index: usize) -> &Node {
        &self.config.nodes[index]
    }

    /// The contact addresses of all nodes.
    pub fn addresses(&self) -> Vec<String> {
        self.config.nodes.iter().map(|node| node.address.to_string()).collect()
    }

    /// The process of a node, if it runs.
    pub fn pid(&self, index: usize) -> Option<u32> {
        self.running[index].as_ref().map(Child::id)
    }

    /// For killing the nodes from another thread, on the way out.
    pub fn killer(&self) -> Killer {
        Killer(Arc::clone(&self.pids))
    }

    /// Where a node's log goes.
    pub fn log_file(&self, index: usize) -> PathBuf {
        self.directory.join(format!("{}.log", self.node(index).name))
    }

    /// Starts every node that does not run, all at once, and waits until they accept connections.
    pub fn start_all(&mut self) -> Result<(), LocalError> {
        let mut waiting = Vec::new();
        for index in 0..self.config.nodes.len() {
            if self.running[index].is_none() {
                waiting.push((index, self.spawn(index)?));
            }
        }
        waiting.into_iter().try_for_each(|(index, ready)| self.await_ready(index, &ready))
    }

    /// Starts a node and waits until it accepts connections.
    pub fn start(&mut self, index: usize) -> Result<(), LocalError> {
        let ready = self.spawn(index)?;
        self.await_ready(index, &ready)
    }

    /// Kills a node without a warning, and waits until it is gone.
    pub fn kill(&mut self, index: usize) -> Result<(), LocalError> {
        let Some(mut child) = self.take(index) else { return Ok(()) };
        child.kill().and_then(|()| child.wait()).map(|_| ()).map_err(refused("kill a node"))
    }

    /// Tells a node to stop, and waits until it has; one that does not is killed, and that is an error.
    pub fn stop(&mut self, index: usize) -> Result<ExitStatus, LocalError> {
        let mut child = self.take(index).ok_or_else(|| LocalError::System {
            action: "stop a node",
            error: io::Error::other("it does not run"),
        })?;
        if let Some(pid) = Pid::from_raw(child.id() as i32) {
            kill_process(pid, Signal::TERM).map_err(|error| refused("stop a node")(error.into()))?;
        }
        let deadline = Instant::now() + STOP_WITHIN;
        loop {
            if let Some(status) = child.try_wait().map_err(refused("wait for a node"))? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                let _ = child.kill().and_then(|()| child.wait());
                return Err(LocalError::TooSlow {
                    node: self.node(index).name.clone(),
                    log: self.log_end(index),
                });
            }
            std::thread::sleep(STOP_POLL);
        }
    }

    fn spawn(&mut self, index: usize) -> Result<mpsc::Receiver<()>, LocalError> {
        assert!(self.running[index].is_none(), "a node runs once at a time");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_file(index))
            .map_err(refused("open a node's log"))?;
        let mut child = Command::new(&self.program)
            .args(["serve", "--stop-with-stdin", "--config"])
            .arg(&self.config_file)
            .args(["--node", &self.node(index).name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(refused("start a node"))?;
        let (told, ready) = mpsc::channel();
        if let Some(output) = child.stdout.take() {
            std::thread::spawn(move || {
                let mut line = String::new();
                if BufReader::new(output).read_line(&mut line).is_ok() && line.starts_with("ready") {
                    let _ = told.send(());
                }
            });
        }
        self.pids.lock().unwrap_or_else(PoisonError::into_inner)[index] = Some(child.id());
        self.running[index] = Some(child);
        Ok(ready)
    }

    /// Takes a node's process out of the list, before it is waited for and its number may be given to another.
    fn take(&mut self, index: usize) -> Option<Child> {
        self.pids.lock().unwrap_or_else(PoisonError::into_inner)[index] = None;
        self.running[index].take()
    }

    fn await_ready(&mut self, index: usize, ready: &mpsc::Receiver<()>) -> Result<(), LocalError> {
        let node = self.node(index).name.clone();
        match ready.recv_timeout(READY_WITHIN) {
            Ok(()) => Ok(()),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                Err(LocalError::TooSlow { node, log: self.log_end(index) })
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                let ended = self.take(index).map(|mut child| child.wait());
                let status =
                    ended.unwrap_or(Ok(ExitStatus::default())).map_err(refused("wait for a node"))?;
                Err(LocalError::Ended { node, status, log: self.log_end(index) })
            }
        }
    }

    fn log_end(&self, index: usize) -> String {
        let text = std::fs::read_to_string(self.log_file(index)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join(" | ")
    }
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        for child in self.running.iter_mut().flatten() {
            // Already gone is as good as killed.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A contact address for each node whose following ports are free for its cores.
fn free_addresses(shape: &Shape) -> Result<Vec<Address>, LocalError> {
    assert!(shape.cores < usize::from(PORT_BLOCK), "a node's ports fit into its block");
    let wished =
        shape.first_port.into_iter().flat_map(|first| (first..).step_by(usize::from(PORT_BLOCK)).take(20));
    let mut found: Vec<Address> = Vec::new();
    for port in wished.chain((0..PORT_TRIES).map(|_| next_block())) {
        let mut ports = port..=port + shape.cores as u16;
        let is_taken = found.iter().any(|address| address.port == port);
        if !is_taken && ports.all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            found.push(Address { host: "127.0.0.1".to_owned(), port });
        }
        if found.len() == shape.nodes {
            return Ok(found);
        }
    }
    Err(LocalError::NoPorts)
}

/// The first port of a block that nobody else in this process was given, and other processes hardly.
fn next_block() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let blocks = u32::from((PORTS.end - PORTS.start) / PORT_BLOCK);
    // A prime, so that processes with neighbouring numbers begin far apart.
    let first = std::process::id().wrapping_mul(7919);
    let block = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % blocks;
    PORTS.start + block as u16 * PORT_BLOCK
}

fn random() -> u64 {
    // Each state's keys come from the system's random source.
    RandomState::new().hash_one(0u64)
}
