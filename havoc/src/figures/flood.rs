//! Memory, and how long established clients wait, while thousands of connections do nothing good.
//!
//! The node has one CPU for itself, if there are two; established clients and the others share another, where the others get what the clients
//! leave: it is the node that is measured.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ferrite_client::{BlockingClient, Key, Level, ReadOptions, WriteOptions};
use ferrite_wire::{
    ClusterId, Epoch, Features, FrameFlags, FrameHeader, FrameKind, Hello, Order, PROTOCOL_MAX, PROTOCOL_MIN,
    Request, RequestId, Role, finish_frame, start_frame,
};
use rustix::process::{Resource, Rlimit, getrlimit, setpriority_process, setrlimit};

use super::load::{Measured, fill, for_a_time, key};
use crate::Obstacle;
use crate::nodes::Nodes;

/// How much.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Connections of those who do nothing good
    #[arg(long, default_value_t = 2_000)]
    pub connections: usize,
    /// Time of each row in a round
    #[arg(long, default_value = "1s", value_parser = crate::figures::duration)]
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
/// Their priority, the least there is.
const LAST: i32 = 19;
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

/// What one row came to.
#[derive(Default)]
struct Row {
    measured: Measured,
    resident_bytes: u64,
    open: u64,
}

/// Measures, and prints a table.
pub fn run(program: &Path, home: &Path, options: &Options) -> Result<(), Obstacle> {
    raise_descriptors();
    let nodes = super::start_beside(program, home, 1)?;
    let mut clients: Vec<BlockingClient> = (0..options.clients.max(1)).map(|_| nodes.client(0)).collect();
    fill(&mut clients, options.records, &[b'v'; 100])?;
    let large = clients[0].put(Key::plain(LARGE), &vec![b'l'; LARGE_BYTES], WriteOptions::default());
    if !large.is_done() {
        return Err(Obstacle::new("write a large value", large));
    }
    let mut rows: [Row; ROWS.len()] = Default::default();
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
    println!("| others | open at most | op/s | failed | p50 µs | p99 µs | p99 / alone | memory MiB |");
    println!("|---|---:|---:|---:|---:|---:|---:|---:|");
    let mut alone = 0.0;
    for ((name, behaviour), row) in ROWS.iter().zip(&mut rows) {
        if !is_wanted(options, *behaviour) {
            continue;
        }
        let (p50, p99) = (row.measured.quantile_us(0.5), row.measured.quantile_us(0.99));
        if *behaviour == Behaviour::Absent {
            alone = p99.max(1.0);
        }
        println!(
            "| {name} | {} | {:.0} | {} | {p50:.0} | {p99:.0} | {:.2} | {} |",
            row.open,
            row.measured.per_second(),
            row.measured.failed,
            p99 / alone,
            row.resident_bytes >> 20
        );
    }
    Ok(())
}

fn is_wanted(options: &Options, behaviour: Behaviour) -> bool {
    behaviour == Behaviour::Absent || options.only.is_empty() || options.only.contains(&behaviour)
}

fn turn(
    nodes: &Nodes,
    clients: &mut [BlockingClient],
    behaviour: Behaviour,
    options: &Options,
    row: &mut Row,
) -> Result<(), Obstacle> {
    let address: SocketAddr =
        nodes.contact(0).parse().map_err(|error| Obstacle::new("read an address", error))?;
    let pid = nodes.pid(0).ok_or_else(|| Obstacle::new("look at the node", "it does not run"))?;
    let (stop, open) = (AtomicBool::new(false), AtomicU64::new(0));
    let (resident, most_open) = (AtomicU64::new(0), AtomicU64::new(0));
    let measured = std::thread::scope(|scope| {
        if behaviour != Behaviour::Absent {
            for _ in 0..THREADS {
                let (stop, open) = (&stop, &open);
                let share = options.connections / THREADS;
                scope.spawn(move || misbehave(address, behaviour, share, stop, open));
            }
        }
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                resident.fetch_max(resident_bytes(pid), Ordering::Relaxed);
                most_open.fetch_max(open.load(Ordering::Relaxed), Ordering::Relaxed);
                std::thread::sleep(SAMPLE_EVERY);
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
        measured
    });
    row.measured.add(measured);
    row.resident_bytes = row.resident_bytes.max(resident.into_inner());
    row.open = row.open.max(most_open.into_inner());
    Ok(())
}

/// Keeps so many connections up that do nothing good.
fn misbehave(address: SocketAddr, behaviour: Behaviour, share: usize, stop: &AtomicBool, open: &AtomicU64) {
    // That of this thread alone. Where it is refused they are as fast as the clients.
    let _ = setpriority_process(None, LAST);
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

/// Memory of a process that is really there, in bytes.
fn resident_bytes(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

/// As many descriptors as the system lets this process and the node, which inherits them, have.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    // Where it is refused there are fewer connections, and the table says how many.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
