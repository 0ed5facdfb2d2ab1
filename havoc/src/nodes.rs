//! A cluster of processes, each with a directory, a configuration and a clock of its own.
//!
//! ```text
//! HOME/nI.toml    the configuration of node I; addresses may differ between nodes, what decides about data does not
//! HOME/nI/        its data directory
//! HOME/nI.log     what it says, over all its lives
//! ```
//!
//! A node's standard input is a pipe that nobody writes to: when the harness ends, however it ends, the pipe closes and the nodes stop.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufRead, BufReader, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use ferrite_client::{BlockingClient, Builder, ClusterId, ReadOptions};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_getaffinity};

use crate::ground::Ground;
use crate::{Obstacle, failed, wait_for};

/// Longest wait for a node to accept connections, or to end.
const WITHIN: Duration = Duration::from_secs(60);
/// Longest time a client beside a node takes for a call that names none.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest time such a client takes to connect: what is cut does not answer.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(200);
/// Size of the file system that a disk which fills up has: the first segments of a log, and room for a while.
const SMALL_DISK: &str = "512m";
/// What takes all room of a small disk.
const FILLER: &str = "filler";
/// The table with siblings that every cluster has beside the default one.
pub const SIBLINGS_TABLE: &str = "sets";

/// What a cluster should be like.
#[derive(Clone, Debug)]
pub struct Shape {
    /// How many nodes.
    pub nodes: usize,
    /// Cores of each.
    pub cores: usize,
    /// Replicas of each record.
    pub replication: usize,
    /// Lines below `[server]`.
    pub server: String,
    /// Lines at the end of the configuration.
    pub more: String,
    /// A node whose data lies on a small file system of its own, which can be filled.
    pub small_disk: Option<usize>,
    /// The CPUs that cores share out among them; none = all that there are for this thread.
    pub cpus: Vec<usize>,
}

/// The processes. Those that still run are killed when this is dropped.
pub struct Nodes {
    /// Their network.
    pub ground: Ground,
    shape: Shape,
    program: PathBuf,
    home: PathBuf,
    running: Vec<Option<Child>>,
    clock_offsets_ms: Vec<i64>,
    cluster: ClusterId,
}

impl Nodes {
    /// Writes the configurations; nothing runs yet. `program` is the `ferrite` binary.
    pub fn configure(program: &Path, home: &Path, ground: Ground, shape: Shape) -> Result<Nodes, Obstacle> {
        let nodes = Nodes {
            running: (0..shape.nodes).map(|_| None).collect(),
            clock_offsets_ms: vec![0; shape.nodes],
            // Keys of each state come from the system's random source: two clusters never take each other for one.
            cluster: ClusterId(
                [RandomState::new().hash_one(0u8) | 1, RandomState::new().hash_one(1u8)]
                    .map(u64::to_le_bytes)
                    .concat()
                    .try_into()
                    .expect("two numbers of eight bytes"),
            ),
            program: program.to_owned(),
            home: home.to_owned(),
            ground,
            shape,
        };
        for node in 0..nodes.shape.nodes {
            nodes.write_configuration(node)?;
            fs::create_dir_all(nodes.data(node)).map_err(failed("make a data directory"))?;
        }
        if let Some(node) = nodes.shape.small_disk {
            let mounted = Command::new("mount")
                .args(["-t", "tmpfs", "-o", &format!("size={SMALL_DISK}"), "ferrite-havoc"])
                .arg(nodes.disk(node))
                .status()
                .map_err(failed("mount a small disk"))?;
            if !mounted.success() {
                return Err(Obstacle::new("mount a small disk", mounted));
            }
        }
        Ok(nodes)
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.shape.nodes
    }

    /// Never: a cluster has nodes.
    pub fn is_empty(&self) -> bool {
        self.shape.nodes == 0
    }

    /// The node whose disk can be filled.
    pub fn small_disk(&self) -> Option<usize> {
        self.shape.small_disk
    }

    /// The process of a node, if it runs.
    pub fn pid(&self, node: usize) -> Option<u32> {
        self.running[node].as_ref().map(Child::id)
    }

    /// How a node's process ended that nobody ended; `None` = it runs, or was ended from here.
    pub fn ended(&mut self, node: usize) -> Option<ExitStatus> {
        self.running[node].as_mut().and_then(|child| child.try_wait().ok().flatten())
    }

    /// Where a node's log goes.
    pub fn log_file(&self, node: usize) -> PathBuf {
        self.home.join(format!("n{}.log", node + 1))
    }

    /// Where all of it is.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The contact address of a node, as those who are told of it by the node itself see it.
    pub fn contact(&self, node: usize) -> String {
        let (host, port) = self.ground.address(node, node);
        format!("{host}:{port}")
    }

    /// A mount point, where the disk is small; on it, or else there, is the data.
    fn disk(&self, node: usize) -> PathBuf {
        self.home.join(format!("n{}", node + 1))
    }

    fn data(&self, node: usize) -> PathBuf {
        self.disk(node)
    }

    fn write_configuration(&self, node: usize) -> Result<(), Obstacle> {
        let Shape { nodes, cores, replication, server, more, cpus, .. } = &self.shape;
        let allowed = sched_getaffinity(None).map_err(failed("learn which CPUs there are"))?;
        let all: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
        let cpus = if cpus.is_empty() { &all } else { cpus };
        let mut text = format!(
            "[cluster]\nname = \"havoc\"\nid = \"{cluster}\"\nhash_seed = \"{:016x}\"\nvnodes = 256\n\
             replication = {replication}\n\n[server]\nallow_insecure_network = true\n{server}\n\n\
             [[table]]\nname = \"{SIBLINGS_TABLE}\"\nmode = \"siblings\"\n",
            0x1f3a_90c2_d4e5_b687u64,
            cluster = self.cluster,
        );
        for other in 0..*nodes {
            let (host, port) = self.ground.address(other, node);
            let used: Vec<usize> =
                (0..*cores).map(|core| cpus[(other * cores + core) % cpus.len()]).collect();
            let number = other + 1;
            let ports = self.ground.core_ports(other, *cores);
            // Writing into a String cannot fail.
            let _ = write!(
                text,
                "\n[[nodes]]\nname = \"n{number}\"\nid = {number}\naddress = \"{host}:{port}\"\nports = {ports:?}\n\
                 cores = {used:?}\ndata = \"n{number}\"\n"
            );
        }
        let offset_ms = self.clock_offsets_ms[node];
        let _ = write!(text, "\n{more}\n[testing]\nclock_offset = \"{offset_ms}ms\"\n");
        fs::write(self.configuration(node), text).map_err(failed("write a configuration"))
    }

    /// A node's configuration.
    pub fn configuration(&self, node: usize) -> PathBuf {
        self.home.join(format!("n{}.toml", node + 1))
    }

    /// Starts all nodes that do not run, and waits until they accept connections.
    pub fn start_all(&mut self) -> Result<(), Obstacle> {
        let mut waiting = Vec::new();
        for node in 0..self.len() {
            if self.running[node].is_none() {
                waiting.push((node, self.spawn(node)?));
            }
        }
        waiting.into_iter().try_for_each(|(node, ready)| self.await_ready(node, &ready))
    }

    /// Starts a node and waits until it accepts connections.
    pub fn start(&mut self, node: usize) -> Result<(), Obstacle> {
        let ready = self.spawn(node)?;
        self.await_ready(node, &ready)
    }

    fn spawn(&mut self, node: usize) -> Result<mpsc::Receiver<()>, Obstacle> {
        assert!(self.running[node].is_none(), "a node runs once at a time");
        let action = || format!("start node {}", node + 1);
        let log = File::options().create(true).append(true).open(self.log_file(node));
        let mut child = self
            .ground
            .command(node, self.program.as_os_str())
            .args(["serve", "--stop-with-stdin", "--config"])
            .arg(self.configuration(node))
            .args(["--node", &format!("n{}", node + 1)])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log.map_err(failed(action()))?)
            .spawn()
            .map_err(failed(action()))?;
        let (told, ready) = mpsc::channel();
        if let Some(output) = child.stdout.take() {
            std::thread::spawn(move || {
                let mut line = String::new();
                if BufReader::new(output).read_line(&mut line).is_ok() && line.starts_with("ready") {
                    let _ = told.send(());
                }
            });
        }
        self.running[node] = Some(child);
        Ok(ready)
    }

    fn await_ready(&mut self, node: usize, ready: &mpsc::Receiver<()>) -> Result<(), Obstacle> {
        ready.recv_timeout(WITHIN).map_err(|_| {
            let log = fs::read_to_string(self.log_file(node)).unwrap_or_default();
            let last: Vec<&str> = log.lines().rev().take(3).collect();
            Obstacle::new(format!("start node {}", node + 1), last.join(" | "))
        })
    }

    /// Kills a node without a warning, and waits until it is gone.
    pub fn kill(&mut self, node: usize) -> Result<(), Obstacle> {
        let Some(mut child) = self.running[node].take() else { return Ok(()) };
        child.kill().and_then(|()| child.wait()).map(drop).map_err(failed(format!("kill node {}", node + 1)))
    }

    /// Tells a node to stop, and waits until it has.
    pub fn stop(&mut self, node: usize) -> Result<(), Obstacle> {
        self.signal(node, Signal::TERM)?;
        let Some(mut child) = self.running[node].take() else { return Ok(()) };
        let ended = wait_for(WITHIN, || child.try_wait().transpose());
        match ended {
            Some(Ok(status)) if status.success() => Ok(()),
            Some(Ok(status)) => Err(Obstacle::new(format!("stop node {}", node + 1), status)),
            Some(Err(error)) => Err(Obstacle::new(format!("stop node {}", node + 1), error)),
            None => {
                let _ = child.kill().and_then(|()| child.wait());
                Err(Obstacle::new(format!("stop node {}", node + 1), "it takes too long"))
            }
        }
    }

    /// Stops a node's process in the middle of everything, without its knowing.
    pub fn pause(&self, node: usize) -> Result<(), Obstacle> {
        self.signal(node, Signal::STOP)
    }

    /// Lets it go on.
    pub fn resume(&self, node: usize) -> Result<(), Obstacle> {
        self.signal(node, Signal::CONT)
    }

    fn signal(&self, node: usize, signal: Signal) -> Result<(), Obstacle> {
        let pid = self.pid(node).and_then(|pid| Pid::from_raw(pid as i32));
        let action = format!("signal node {}", node + 1);
        let pid = pid.ok_or_else(|| Obstacle::new(&action, "it does not run"))?;
        kill_process(pid, signal).map_err(failed(action))
    }

    /// Sets a node's clock off, from its next start on.
    pub fn set_clock_offset(&mut self, node: usize, offset_ms: i64) -> Result<(), Obstacle> {
        self.clock_offsets_ms[node] = offset_ms;
        self.write_configuration(node)
    }

    /// Removes all that a node that does not run has stored.
    pub fn wipe(&self, node: usize) -> Result<(), Obstacle> {
        assert!(self.running[node].is_none(), "a node that runs has its directory open");
        let action = format!("wipe node {}", node + 1);
        for entry in fs::read_dir(self.data(node)).map_err(failed(&action))? {
            let path = entry.map_err(failed(&action))?.path();
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(failed(&action))?;
        }
        Ok(())
    }

    /// Takes all room on the small disk.
    pub fn fill_disk(&self) -> Result<(), Obstacle> {
        let Some(node) = self.shape.small_disk else {
            return Err(Obstacle::new("fill a disk", "none is small"));
        };
        let mut filler = File::create(self.disk(node).join(FILLER)).map_err(failed("fill a disk"))?;
        let chunk = [0; 64 * 1024];
        loop {
            match filler.write(&chunk) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(Obstacle::new("fill a disk", error)),
            }
        }
    }

    /// Gives that room back.
    pub fn free_disk(&self) -> Result<(), Obstacle> {
        let Some(node) = self.shape.small_disk else { return Ok(()) };
        match fs::remove_file(self.disk(node).join(FILLER)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(Obstacle::new("free a disk", error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// What a client beside a node starts from; it knows all nodes.
    pub fn builder(&self, at: usize) -> Builder {
        // Its own node first.
        let seeds = (0..self.len()).map(|step| self.contact((at + step) % self.len()));
        BlockingClient::builder()
            .seeds(seeds)
            .cluster(self.cluster)
            .timeout(CLIENT_TIMEOUT)
            .connect_timeout(CONNECT_TIMEOUT)
    }

    /// A client beside a node: what is cut for the node is cut for the client.
    pub fn client(&self, at: usize) -> BlockingClient {
        self.builder(at).start_blocking_through(self.ground.dial(at))
    }

    /// A client beside a node that reaches these nodes only: others coordinate nothing for it.
    pub fn client_of(&self, at: usize, reached: &[usize]) -> BlockingClient {
        let dial = self.ground.dial(at);
        let refused: Vec<String> = (0..self.len())
            .filter(|node| !reached.contains(node))
            .flat_map(|node| self.names_of(node))
            .collect();
        self.builder(at).start_blocking_through(Arc::new(move |address: &str, timeout| {
            if refused.iter().any(|refused| refused == address) {
                return Err(io::Error::new(ErrorKind::ConnectionRefused, "this client avoids the node"));
            }
            dial(address, timeout)
        }))
    }

    /// All addresses by which anyone knows a node.
    fn names_of(&self, node: usize) -> Vec<String> {
        let (host, _) = self.ground.address(node, node);
        let cores = self.ground.core_ports(node, self.shape.cores);
        let cores = cores.iter().map(|port| format!("{host}:{port}"));
        let seen = (0..self.len()).map(|seen_by| self.ground.address(node, seen_by));
        seen.map(|(host, port)| format!("{host}:{port}")).chain(cores).collect()
    }

    /// What each core of a node says of itself, asked from beside it; those that do not answer are left out.
    pub fn statuses(&self, node: usize) -> Vec<String> {
        let (host, _) = self.ground.address(node, node);
        let mut client = self.client(node);
        let ports = self.ground.core_ports(node, self.shape.cores).into_iter();
        ports
            .filter_map(|port| client.status_at(&format!("{host}:{port}"), ReadOptions::default()).ok())
            .collect()
    }

    /// Whether a node holds another to be down.
    pub fn holds_down(&self, node: usize, of: usize) -> bool {
        let line = format!("member.{} down ", of + 1);
        self.statuses(node).iter().any(|text| text.lines().any(|said| said.starts_with(&line)))
    }

    /// Whether any core of a node says that its disk is full.
    pub fn feels_full_disk(&self, node: usize) -> bool {
        self.statuses(node).iter().any(|text| text.contains("engine.disk_full true"))
    }

    /// Whether any core of a node says that its wall clock is out of step with most others'.
    pub fn knows_its_clock_is_off(&self, node: usize) -> bool {
        let is_off = |line: &str| {
            ["wall_clock ahead of ", "wall_clock behind "].iter().any(|off| line.starts_with(off))
        };
        self.statuses(node).iter().any(|text| text.lines().any(is_off))
    }

    /// The sum of a number over all cores of a node; `None` = not all of them say it.
    pub fn number(&self, node: usize, name: &str) -> Option<u64> {
        let statuses = self.statuses(node);
        let said = |text: &String| {
            let found = text.lines().filter_map(|line| line.split_once(' ')).find(|(line, _)| *line == name);
            found.and_then(|(_, value)| value.trim().parse::<u64>().ok())
        };
        let numbers: Vec<u64> = statuses.iter().filter_map(said).collect();
        (numbers.len() == self.shape.cores).then(|| numbers.iter().sum())
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for child in self.running.iter_mut().flatten() {
            // Already gone is as good as killed.
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Some(node) = self.shape.small_disk {
            // Seen by nobody but this process; its end would do as well.
            let _ = Command::new("umount").arg("--lazy").arg(self.disk(node)).status();
        }
    }
}
