//! A shard alone on a bench: a disk in memory, a clock that stands still until it is moved, connections that are buffers.
//!
//! Whole clusters are the simulator's business; here one shard is brought into one exact state.

mod admission;
mod afar;
mod clocks;
mod cluster;
mod comebacks;
mod comparisons;
mod coordinator;
mod deadlines;
mod drain;
mod durability;
mod expiry;
mod gets;
mod gossip;
mod hedges;
mod held_back;
mod hint_records;
mod hint_targets;
mod hints;
mod joining;
mod lifetimes;
mod memory;
mod multi_get;
mod multi_put;
mod opening;
mod pressure;
mod reach;
mod repairs;
mod replica_siblings;
mod replies;
mod siblings;
mod sloppy;
mod tables;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use ferrite_cluster::{Member, initial_topology};
use ferrite_lsm::mem_disk::run::{block_on, poll_once};
use ferrite_lsm::mem_disk::{MemDisk, MemPace};
use ferrite_lsm::{OpenError, Options};
use ferrite_wire::{
    ClusterId, CoreId, Epoch, Features, FrameFlags, FrameHeader, FrameKind, HashSeed, Hello, Key, Level,
    NodeId, Order, PROTOCOL_MAX, PROTOCOL_MIN, Parsed, PeerMessage, Request, RequestId, Role, TableList,
    Tables, finish_frame, limits, parse_frame, start_frame,
};

use super::{Joining, Shard, ShardSettings};
use crate::Placement;
use crate::env::{Caller, Connection, Env, Handler, Hop, Received, Sent};

const MS: u64 = 1_000_000;
/// Rounds of polls after which what is still pending waits for something outside.
const ROUNDS: usize = 64;

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// The world of one shard. Clones are handles to it.
#[derive(Clone)]
struct Bench(Rc<State>);

struct State {
    disk: MemDisk,
    now_ns: Cell<u64>,
    wall_ms: Cell<u64>,
    random: Cell<u64>,
    tasks: RefCell<Vec<Task>>,
    sent: RefCell<BTreeMap<Connection, Vec<u8>>>,
    closed: RefCell<Vec<Connection>>,
    connections: Cell<u32>,
    /// Connections that are being tried.
    attempts: RefCell<Vec<(Connection, String)>>,
    hops: RefCell<Vec<(CoreId, Hop)>>,
    /// Hops are given back.
    hops_full: Cell<bool>,
    /// The other cores have ended: hops are given back, too.
    others_ended: Cell<bool>,
    /// Sends are refused for want of room.
    out_full: Cell<bool>,
    /// Sends of more than a few bytes are.
    out_nearly_full: Cell<bool>,
    /// Connections are not read from.
    is_not_read: Cell<bool>,
    /// So long what is told lay in its socket.
    lay_ns: Cell<u64>,
    /// There is no place for another client.
    has_no_place: Cell<bool>,
}

impl Bench {
    fn new(disk: MemDisk) -> Bench {
        Bench(Rc::new(State {
            disk,
            now_ns: Cell::new(1_000 * MS),
            wall_ms: Cell::new(1_700_000_000_000),
            random: Cell::new(1),
            tasks: RefCell::default(),
            sent: RefCell::default(),
            closed: RefCell::default(),
            connections: Cell::new(0),
            attempts: RefCell::default(),
            hops: RefCell::default(),
            hops_full: Cell::new(false),
            others_ended: Cell::new(false),
            out_full: Cell::new(false),
            out_nearly_full: Cell::new(false),
            is_not_read: Cell::new(false),
            lay_ns: Cell::new(0),
            has_no_place: Cell::new(false),
        }))
    }

    fn new_connection(&self) -> Connection {
        let slot = self.0.connections.replace(self.0.connections.get() + 1);
        Connection { slot, generation: 1 }
    }

    /// Polls every task until none gets any further; how many are left.
    fn run(&self) -> usize {
        for _ in 0..ROUNDS {
            let tasks = std::mem::take(&mut *self.0.tasks.borrow_mut());
            let left: Vec<Task> = tasks
                .into_iter()
                .filter_map(|mut task| poll_once(task.as_mut()).is_none().then_some(task))
                .collect();
            self.0.tasks.borrow_mut().extend(left);
        }
        self.0.tasks.borrow().len()
    }

    /// The frames sent to a connection since the last call.
    fn frames(&self, connection: Connection) -> Vec<(FrameHeader, Vec<u8>)> {
        let bytes = self.0.sent.borrow_mut().remove(&connection).unwrap_or_default();
        let (mut frames, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            let Ok(Parsed::Frame { frame, bytes: len }) = parse_frame(&bytes[at..], limits::BODY_BYTES_MAX)
            else {
                panic!("a shard sends whole frames");
            };
            frames.push((frame.header, frame.body.to_vec()));
            at += len;
        }
        frames
    }
}

impl Env for Bench {
    type Disk = MemDisk;
    type Pace = MemPace;

    fn now_ns(&self) -> u64 {
        self.0.now_ns.get()
    }
    fn wall_ms(&self) -> u64 {
        self.0.wall_ms.get()
    }
    fn random(&self) -> u64 {
        self.0.random.set(self.0.random.get() + 1);
        self.0.random.get()
    }
    fn disk(&self) -> MemDisk {
        self.0.disk.clone()
    }
    fn pace(&self) -> MemPace {
        MemPace::new()
    }
    fn core(&self) -> CoreId {
        CoreId(0)
    }
    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.0.tasks.borrow_mut().push(Box::pin(task));
    }
    fn sleep_ns(&self, nanoseconds: u64) -> impl Future<Output = ()> + 'static {
        let (bench, until_ns) = (self.clone(), self.now_ns() + nanoseconds);
        std::future::poll_fn(move |_| {
            if bench.now_ns() >= until_ns { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
    }
    fn send_fitting(&self, connection: Connection, encode: impl FnOnce(&mut Vec<u8>, usize) -> bool) -> Sent {
        if self.0.closed.borrow().contains(&connection) {
            return Sent::Gone;
        }
        if self.0.out_full.get() {
            return Sent::Full;
        }
        let mut out = self.0.sent.borrow_mut().remove(&connection).unwrap_or_default();
        let had = out.len();
        let room = if self.0.out_nearly_full.get() { 256 } else { usize::MAX };
        let fits = encode(&mut out, room);
        assert!(fits || out.len() == had, "what does not fit is not there");
        let is_over = !fits || out.len() - had > room;
        if is_over {
            out.truncate(had);
        }
        self.0.sent.borrow_mut().insert(connection, out);
        if is_over { Sent::Full } else { Sent::Queued }
    }
    fn connect(&self, address: &str) -> Connection {
        let connection = self.new_connection();
        self.0.attempts.borrow_mut().push((connection, address.to_owned()));
        connection
    }
    fn close(&self, connection: Connection) {
        self.0.closed.borrow_mut().push(connection);
    }
    fn greeted(&self, _: Connection, caller: Caller) -> bool {
        caller == Caller::Peer || !self.0.has_no_place.get()
    }
    fn is_read(&self, _: Connection) -> bool {
        !self.0.is_not_read.get()
    }
    fn lay_ns(&self, _: Connection) -> u64 {
        self.0.lay_ns.get()
    }
    fn hop(&self, to: CoreId, message: Hop) -> Result<(), Hop> {
        if self.0.hops_full.get() || self.0.others_ended.get() {
            return Err(message);
        }
        self.0.hops.borrow_mut().push((to, message));
        Ok(())
    }
    fn has_ended(&self, _: CoreId) -> bool {
        self.0.others_ended.get()
    }
}

const CLUSTER: ClusterId = ClusterId([9; 16]);

/// Core 0 of node 1 of a cluster of so many nodes, with so many cores and stores.
fn settings(nodes: u16, cores: u16, stores: u16) -> ShardSettings {
    settings_with(nodes, cores, stores, Tables::only_default(3))
}

/// The same with these tables.
fn settings_with(nodes: u16, cores: u16, stores: u16, tables: Tables) -> ShardSettings {
    let member = |id: u16| Member {
        id: NodeId(id),
        name: format!("n{id}"),
        rack: "r1".to_owned(),
        datacenter: "dc1".to_owned(),
        contact: format!("10.0.0.{id}:7000"),
        weight: 1,
    };
    let members: Vec<Member> = (1..=nodes).map(member).collect();
    let topology = initial_topology(CLUSTER, HashSeed(7), 16, &members, tables);
    let placement = Placement::deal(&topology, NodeId(1), stores, cores);
    let mut engine = Options::new(0, placement.stores_of(CoreId(0)), 11);
    engine.log.segment_bytes = 256 * 1024;
    engine.log.group_bytes = 64 * 1024;
    let mut settings = ShardSettings::new(NodeId(1), CoreId(0), cores, 5, topology, placement, engine);
    // Nobody is there who would tell the time.
    settings.judging_ns_max = 0;
    settings
}

fn open(bench: &Bench, settings: ShardSettings) -> Result<Rc<Shard<Bench>>, OpenError> {
    // Seconds after whatever ran before: nothing waits for the clock.
    bench.0.wall_ms.set(bench.wall_ms() + 2_000);
    let shard = block_on(Shard::open(bench.clone(), settings))?;
    bench.run();
    Ok(shard)
}

/// A shard of a node that is alone and has one core.
fn alone() -> (Bench, Rc<Shard<Bench>>) {
    let bench = Bench::new(MemDisk::new());
    let shard = open(&bench, settings(1, 1, 2)).expect("an empty disk opens");
    (bench, shard)
}

fn frame_of(kind: FrameKind, request: u64, deadline_us: u32, encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    let start = start_frame(&mut out);
    encode(&mut out);
    let header =
        FrameHeader { kind, flags: FrameFlags(0), deadline_us, request: RequestId(request), time: Order(0) };
    finish_frame(&mut out, start, &header);
    out
}

fn request_frame(number: u64, request: &Request<'_>) -> Vec<u8> {
    frame_of(request.kind(), number, 0, |out| request.encode(out))
}

fn put<'a>(key: &'a [u8], value: &'a [u8], level: Level) -> Request<'a> {
    let key = Key::plain(key);
    Request::Put { epoch: Epoch(0), level, options: 0, key, ttl_ms: 0, context: b"", value }
}

fn delete(key: &[u8], level: Level) -> Request<'_> {
    Request::Delete { epoch: Epoch(0), level, options: 0, key: Key::plain(key), context: b"" }
}

fn get(key: &[u8], level: Level) -> Request<'_> {
    Request::Get { epoch: Epoch(0), level, options: 0, key: Key::plain(key) }
}

/// A connection that has shaken hands.
fn greeted(bench: &Bench, shard: &Shard<Bench>, role: Role<'_>) -> Connection {
    let connection = bench.new_connection();
    shard.on_accepted(connection);
    let (min, max, features) = (PROTOCOL_MIN, PROTOCOL_MAX, Features(0));
    let hello = Hello { min, max, features, cluster: CLUSTER, role };
    receive(shard, connection, &frame_of(FrameKind::Hello, 0, 0, |out| hello.encode(out)));
    let frames = bench.frames(connection);
    assert_eq!(frames.iter().map(|(header, _)| header.kind).collect::<Vec<_>>(), [FrameKind::HelloReply]);
    connection
}

fn client(bench: &Bench, shard: &Shard<Bench>) -> Connection {
    greeted(bench, shard, Role::Client)
}

fn peer(bench: &Bench, shard: &Shard<Bench>) -> Connection {
    peer_of(bench, shard, NodeId(2))
}

/// A core of a member, with the tables that the shard has.
fn peer_of(bench: &Bench, shard: &Shard<Bench>, node: NodeId) -> Connection {
    let tables = TableList::new(&shard.tables).expect("the shard encoded them");
    greeted(bench, shard, Role::Peer { node, core: CoreId(0), incarnation: 1, tables })
}

/// Shows the shard bytes that it takes in whole.
fn receive(shard: &Shard<Bench>, connection: Connection, bytes: &[u8]) {
    let received = shard.on_received(connection, bytes);
    assert_eq!(received, Received::Consumed { used: bytes.len(), need: 0 });
}

fn message_frame(number: u64, deadline_us: u32, message: &PeerMessage<'_>) -> Vec<u8> {
    frame_of(message.kind(), number, deadline_us, |out| message.encode(out))
}

/// Has the data laid out for so many cores and at least so many stores, by engines of these options. The settings are then those of one of the cores.
fn laid_out_by(
    engine: &Options,
    bench: &Bench,
    mut settings: ShardSettings,
    (cores, stores): (u16, u16),
    core: u16,
) -> ShardSettings {
    let options = |core, stores| Options { core, stores, ..engine.clone() };
    let deal = |stores, cores| Placement::deal(&settings.topology, settings.node, stores, cores);
    let layout = block_on(crate::lay_out(bench, (cores, stores), options, deal)).expect("the disk is sound");
    let kept = layout.vnodes().iter().copied();
    settings.placement = Placement::keep(&settings.topology, settings.node, layout.stores(), cores, kept);
    (settings.engine.core, settings.engine.layout) = (layout.core_number(core), Some(layout.mark(core)));
    (settings.core, settings.engine.stores) = (CoreId(core), settings.placement.stores_of(CoreId(core)));
    settings
}

/// Lets time pass in ticks, with everything that is due.
fn pass(bench: &Bench, shard: &Shard<Bench>, ms: u64) {
    for _ in 0..ms {
        bench.0.now_ns.set(bench.now_ns() + MS);
        bench.0.wall_ms.set(bench.wall_ms() + 1);
        if shard.next_timer().is_some_and(|at| at <= bench.now_ns()) {
            shard.on_timer(bench.now_ns());
        }
        shard.on_batch_end();
        bench.run();
    }
}
