//! Memory, and how long established clients wait, while thousands of connections do nothing good.
//!
//! The node has one CPU for itself, if there are two. Established clients share another with the others, which are a process of their own that
//! runs when nobody else wants to (`chrt --idle`, where there is one): it is the node that is measured. The figure is wrong where its memory was
//! ever more than it was given and a tenth, and where the established clients have not their share: the 99th percentile of what
//! they do is at most twice what it is when they are alone.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use clap::ValueEnum as _;
use ferrite_client::{BlockingClient, Key, Level, ReadOptions, WriteOptions};
use ferrite_wire::{
    ClusterId, Epoch, Features, FrameFlags, FrameHeader, FrameKind, Hello, Order, PROTOCOL_MAX, PROTOCOL_MIN,
    Request, RequestId, Role, finish_frame, start_frame,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::load::{Measured, fill, for_a_time, key};
use crate::nodes::Nodes;
use crate::{Obstacle, failed};

/// How much.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Connections of those who do nothing good
    #[arg(long, default_value_t = 2_000)]
    pub connections: usize,
    /// Time of each row in a round
    #[arg(long, default_value = "1s", value_parser = ferrite_loadgen::cli::duration)]
    pub turn: Duration,
    /// Rounds, each with all rows by turns
    #[arg(long, default_value_t = 1)]
    pub rounds: usize,
    /// Established clients, each with one operation under way
    #[arg(long, default_value_t = 8)]
    pub clients: usize,
    /// Records of the established clients
    #[arg(long, default_value_t = 2_000)]
    pub records: u64,
    /// Only these rows, and the one without others
    #[arg(long, value_enum, value_delimiter = ',')]
    pub only: Vec<Behaviour>,
}

/// What those connections do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Behaviour {
    /// There are none
    Absent,
    /// They greet, are there, leave all at once, and come again
    Flood,
    /// They send half the header of a frame
    HalfHeader,
    /// They ask for large values and never read
    NeverRead,
}

const ROWS: [(&str, Behaviour); 4] = [
    ("alone", Behaviour::Absent),
    ("connections flood in", Behaviour::Flood),
    ("half a header each", Behaviour::HalfHeader),
    ("replies never read", Behaviour::NeverRead),
];
/// Threads that keep them up.
const THREADS: usize = 4;
/// Rest of such a thread after it has seen to all its connections.
const PAUSE: Duration = Duration::from_millis(20);
/// Rest between rows: what they left behind is cleared away.
const BETWEEN: Duration = Duration::from_secs(1);
/// How often memory is looked at.
const SAMPLE_EVERY: Duration = Duration::from_millis(50);
/// The large value, and how often each connection asks for it.
const LARGE_BYTES: usize = 64 * 1024;
const GETS: u64 = 64;
const LARGE: &[u8] = b"large";

/// Most operations of a hundred that may fail: of more, the 99th percentile is no longer that of those that were done.
const FAILED_PERCENT_MAX: u64 = 1;

/// What one row came to.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    done: u64,
    failed: u64,
    p99_us: f32,
    /// Most connections of others that were there at a time; `None` = there were to be none.
    open: Option<u64>,
}

impl Row {
    /// What is wrong with how long established clients waited, against a row without others.
    fn wrong(&self, alone: &Row) -> Option<String> {
        let all = self.done + self.failed;
        let ratio = super::ratio(self.p99_us, alone.p99_us);
        if self.done == 0 {
            Some("nothing was done for the established clients".to_owned())
        } else if self.failed * 100 > all * FAILED_PERCENT_MAX {
            let failed = self.failed;
            Some(format!("{failed} of {all} operations failed, more than {FAILED_PERCENT_MAX} %"))
        } else if self.open == Some(0) {
            Some("nobody else was ever connected".to_owned())
        } else if ratio > super::P99_RATIO_MAX {
            let most = super::P99_RATIO_MAX;
            Some(format!("p99 is {ratio:.2} times what it is alone, more than {most:.0}"))
        } else {
            None
        }
    }
}

/// What is being measured of one row.
#[derive(Default)]
struct Measuring {
    measured: Measured,
    resident_bytes: u64,
    open: u64,
    arrived: u64,
}

impl Measuring {
    fn row(&mut self, behaviour: Behaviour) -> Row {
        let p99_us = self.measured.quantile_us(0.99);
        let open = (behaviour != Behaviour::Absent).then_some(self.open);
        Row { done: self.measured.done, failed: self.measured.failed, p99_us, open }
    }

    fn arrived_per_second(&self) -> f64 {
        self.arrived as f64 / self.measured.time.as_secs_f64().max(1e-9)
    }
}

/// What is wrong with a node that took that much memory at most, in one line.
fn wrong_memory(most_bytes: u64) -> Option<String> {
    let bound = super::MEMORY_BYTES / 10 * 11;
    (most_bytes == 0 || most_bytes > bound).then(|| {
        format!(
            "the node took {} MiB of memory at most; {} MiB are what it was given and a tenth",
            most_bytes >> 20,
            bound >> 20
        )
    })
}

/// Measures, and prints a table; what is wrong with it, in one line.
pub fn run(program: &Path, home: &Path, options: &Options) -> Result<Option<String>, Obstacle> {
    raise_descriptors();
    let nodes = super::start_beside(program, home, 1)?;
    let mut clients: Vec<BlockingClient> = (0..options.clients.max(1)).map(|_| nodes.client(0)).collect();
    fill(&mut clients, options.records, &[b'v'; 100])?;
    let large = clients[0].put(Key::plain(LARGE), &vec![b'l'; LARGE_BYTES], WriteOptions::default());
    if !large.is_done() {
        return Err(Obstacle::new("write a large value", large));
    }
    let mut rows: [Measuring; ROWS.len()] = Default::default();
    for _ in 0..options.rounds.max(1) {
        for ((_, behaviour), row) in ROWS.iter().zip(&mut rows) {
            if !is_wanted(options, *behaviour) {
                continue;
            }
            turn(&nodes, &mut clients, *behaviour, options, row)?;
            std::thread::sleep(BETWEEN);
        }
    }
    println!(
        "one node with one core and memory = \"256MiB\"; {} established clients read and write by turns; up to {} other connections; {} rounds of {:.1} s",
        options.clients,
        options.connections,
        options.rounds,
        options.turn.as_secs_f64()
    );
    println!();
    println!(
        "| others | open at most | arrived /s | op/s | failed | p50 µs | p99 µs | p99 / alone | goal {:.0} × | memory MiB |",
        super::P99_RATIO_MAX
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|---|---:|");
    let mut wrong = Vec::new();
    let mut alone = Row::default();
    for ((name, behaviour), measuring) in ROWS.iter().zip(&mut rows) {
        if !is_wanted(options, *behaviour) {
            continue;
        }
        let row = measuring.row(*behaviour);
        if *behaviour == Behaviour::Absent {
            alone = row;
        }
        let missed = row.wrong(&alone);
        println!(
            "| {name} | {} | {:.0} | {:.0} | {} | {:.0} | {:.0} | {:.2} | {} | {} |",
            measuring.open,
            measuring.arrived_per_second(),
            measuring.measured.per_second(),
            row.failed,
            measuring.measured.quantile_us(0.5),
            row.p99_us,
            super::ratio(row.p99_us, alone.p99_us),
            if missed.is_none() { "within" } else { "missed" },
            measuring.resident_bytes >> 20
        );
        wrong.extend(missed.map(|missed| format!("{name}: {missed}")));
    }
    let most_bytes = nodes.pid(0).map_or(0, |pid| memory_line(pid, "VmHWM:"));
    wrong.extend(wrong_memory(most_bytes));
    Ok(super::in_one_line(wrong))
}

fn is_wanted(options: &Options, behaviour: Behaviour) -> bool {
    behaviour == Behaviour::Absent || options.only.is_empty() || options.only.contains(&behaviour)
}

fn turn(
    nodes: &Nodes,
    clients: &mut [BlockingClient],
    behaviour: Behaviour,
    options: &Options,
    row: &mut Measuring,
) -> Result<(), Obstacle> {
    let address: SocketAddr =
        nodes.contact(0).parse().map_err(|error| Obstacle::new("read an address", error))?;
    let pid = nodes.pid(0).ok_or_else(|| Obstacle::new("look at the node", "it does not run"))?;
    let stop = AtomicBool::new(false);
    let [most_open, arrived, resident] = [const { AtomicU64::new(0) }; 3];
    let crowd = CrowdOptions { address, behaviour, connections: options.connections };
    let mut crowd = (behaviour != Behaviour::Absent).then(|| Crowd::start(crowd)).transpose()?;
    let told = crowd.as_mut().and_then(|crowd| crowd.0.stdout.take());
    let measured = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                resident.fetch_max(memory_line(pid, "VmRSS:"), Ordering::Relaxed);
                std::thread::sleep(SAMPLE_EVERY);
            }
        });
        scope.spawn(|| {
            let lines = told.into_iter().flat_map(|told| BufReader::new(told).lines());
            for (open, so_far) in lines.map_while(Result::ok).filter_map(|line| told_by_crowd(&line)) {
                most_open.fetch_max(open, Ordering::Relaxed);
                arrived.fetch_max(so_far, Ordering::Relaxed);
            }
        });
        let read = ReadOptions { level: Some(Level::One), ..ReadOptions::default() };
        let measured = for_a_time(clients, options.turn, options.records, &|client, record| {
            let key = key(record);
            match record % 2 {
                0 => client.get(Key::plain(&key), read).is_ok(),
                _ => client.put(Key::plain(&key), &[b'v'; 100], WriteOptions::default()).is_done(),
            }
        });
        stop.store(true, Ordering::Relaxed);
        drop(crowd);
        measured
    });
    row.measured.add(measured);
    row.resident_bytes = row.resident_bytes.max(resident.into_inner());
    row.open = row.open.max(most_open.into_inner());
    row.arrived += arrived.into_inner();
    Ok(())
}

/// How many connections are open, and how many there have been, as the crowd's process says it.
fn told_by_crowd(line: &str) -> Option<(u64, u64)> {
    let (open, arrived) = line.split_once(' ')?;
    Some((open.parse().ok()?, arrived.parse().ok()?))
}

/// A process of connections that do nothing good. It ends with this.
struct Crowd(Child);

impl Crowd {
    fn start(options: CrowdOptions) -> Result<Crowd, Obstacle> {
        let own = std::env::current_exe().map_err(failed("find this program"))?;
        let mut idle = Command::new("chrt");
        idle.args(["--idle", "0"]).arg(&own);
        // Without chrt they are as fast as the clients.
        let started = [idle, Command::new(&own)].into_iter().find_map(|mut command| {
            command.args(options.arguments()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()
        });
        started.map(Crowd).ok_or_else(|| Obstacle::new("start other connections", "no process could be made"))
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        // It ends when its input does.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// The process of the others: ends when its input does, and says on its output how many connections are open and how many have come so far.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct CrowdOptions {
    /// Of the node
    address: SocketAddr,
    /// What they do
    behaviour: Behaviour,
    /// How many
    connections: usize,
}

impl CrowdOptions {
    fn arguments(&self) -> [String; 4] {
        let behaviour =
            self.behaviour.to_possible_value().map_or_else(String::new, |value| value.get_name().into());
        ["crowd".into(), self.address.to_string(), behaviour, self.connections.to_string()]
    }

    /// Keeps so many connections up that do nothing good, until the input ends.
    pub fn run(self) {
        raise_descriptors();
        let (stop, counts) = (AtomicBool::new(false), Counts::default());
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    misbehave(self.address, self.behaviour, self.connections / THREADS, &stop, &counts);
                });
            }
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let [open, arrived] =
                        [&counts.open, &counts.arrived].map(|count| count.load(Ordering::Relaxed));
                    println!("{open} {arrived}");
                    std::thread::sleep(SAMPLE_EVERY);
                }
            });
            // Nothing is ever said there; that it ends is what counts.
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            stop.store(true, Ordering::Relaxed);
        });
    }
}

/// Connections of all threads.
#[derive(Default)]
struct Counts {
    open: AtomicU64,
    /// All there have been.
    arrived: AtomicU64,
}

/// Keeps a thread's share of the connections up.
fn misbehave(address: SocketAddr, behaviour: Behaviour, share: usize, stop: &AtomicBool, counts: &Counts) {
    let Counts { open, arrived } = counts;
    let (hello, gets) = (hello(), gets());
    let mut connections: Vec<TcpStream> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let before = connections.len();
        connections.retain(|connection| match behaviour {
            // What they do not read is still there when the other side closes: only a failed write tells.
            Behaviour::NeverRead => is_taken(connection, &gets[..1]),
            Behaviour::Absent | Behaviour::Flood | Behaviour::HalfHeader => !has_ended(connection),
        });
        open.fetch_sub((before - connections.len()) as u64, Ordering::Relaxed);
        while connections.len() < share && !stop.load(Ordering::Relaxed) {
            let Ok(connection) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else { break };
            let said = match behaviour {
                Behaviour::HalfHeader => &hello[..hello.len().min(12)],
                Behaviour::Absent | Behaviour::Flood | Behaviour::NeverRead => &hello[..],
            };
            let greeted = (&connection).write_all(said).and_then(|()| connection.set_nonblocking(true));
            if greeted.is_ok() {
                if behaviour == Behaviour::NeverRead {
                    // As much as is taken.
                    let _ = (&connection).write(&gets);
                }
                connections.push(connection);
                open.fetch_add(1, Ordering::Relaxed);
                arrived.fetch_add(1, Ordering::Relaxed);
            }
        }
        if behaviour == Behaviour::Flood && connections.len() >= share {
            open.fetch_sub(connections.len() as u64, Ordering::Relaxed);
            connections.clear();
        }
        std::thread::sleep(PAUSE);
    }
}

fn has_ended(mut connection: &TcpStream) -> bool {
    let mut bytes = [0; 512];
    match connection.read(&mut bytes) {
        Ok(len) => len == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

fn is_taken(mut connection: &TcpStream, bytes: &[u8]) -> bool {
    // One byte is taken whole or not at all.
    connection.write_all(bytes).map_or_else(|error| error.kind() == ErrorKind::WouldBlock, |()| true)
}

fn framed(kind: FrameKind, request: u64, encode: impl FnOnce(&mut Vec<u8>), out: &mut Vec<u8>) {
    let start = start_frame(out);
    encode(out);
    let request = RequestId(request);
    finish_frame(
        out,
        start,
        &FrameHeader { kind, flags: FrameFlags(0), deadline_us: 0, request, time: Order(0) },
    );
}

fn hello() -> Vec<u8> {
    let mut out = Vec::new();
    let (cluster, features) = (ClusterId([0; 16]), Features(0));
    let hello = Hello { min: PROTOCOL_MIN, max: PROTOCOL_MAX, features, cluster, role: Role::Client };
    framed(FrameKind::Hello, 0, |out| hello.encode(out), &mut out);
    out
}

fn gets() -> Vec<u8> {
    let mut out = Vec::new();
    let get = Request::Get { epoch: Epoch(0), level: Level::One, options: 0, key: Key::plain(LARGE) };
    for number in 1..=GETS {
        framed(FrameKind::Get, number, |out| get.encode(out), &mut out);
    }
    out
}

/// Memory of a process that is really there, or the most there was, in bytes; 0 = the process is gone.
fn memory_line(pid: u32, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

/// As many descriptors as the system lets this process and the node, which inherits them, have.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    // Where it is refused there are fewer connections, and the table says how many.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_the_memory_and_a_tenth_is_wrong_and_so_is_a_node_that_is_gone() {
        assert_eq!(wrong_memory(281 << 20), None);
        assert!(wrong_memory(282 << 20).is_some_and(|said| said.contains("282 MiB")));
        assert!(wrong_memory(0).is_some());
    }

    #[test]
    fn clients_that_wait_twice_as_long_fail_or_are_beside_nobody_are_wrong() {
        let alone = Row { done: 1_000, failed: 0, p99_us: 500.0, open: None };
        let beside = Row { p99_us: 1_000.0, open: Some(1), ..alone };
        assert_eq!((alone.wrong(&alone), beside.wrong(&alone)), (None, None));
        assert_eq!(Row { done: 990, failed: 10, ..beside }.wrong(&alone), None);
        for (row, words) in [
            (Row { p99_us: 1_010.0, ..beside }, "p99 is 2.02 times what it is alone, more than 2"),
            (Row { done: 989, failed: 11, ..beside }, "11 of 1000 operations failed, more than 1 %"),
            (Row { open: Some(0), ..beside }, "nobody else was ever connected"),
            (Row { done: 0, p99_us: 0.0, ..beside }, "nothing was done for the established clients"),
        ] {
            assert_eq!(row.wrong(&alone).as_deref(), Some(words));
        }
    }

    #[test]
    fn a_crowd_tells_how_many_are_open_and_how_many_came() {
        assert_eq!(told_by_crowd("12 340"), Some((12, 340)));
        assert_eq!((told_by_crowd("12"), told_by_crowd("12 x"), told_by_crowd("")), (None, None, None));
    }
}
