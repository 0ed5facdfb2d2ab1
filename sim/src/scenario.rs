//! One run: a three-node cluster, clients that write and read, faults drawn from the seed, and the verdict.
//!
//! First the cluster forms. Then clients work while faults happen: power cuts, kills, pauses, partitions in one or both
//! directions, failing syncs and reads, full disks, clocks that jump. Then everything is healed and restarted, and every
//! key is read at QUORUM and at ALL. A run ends early at the first broken promise.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use ferrite_cluster::{Member, initial_topology};
use ferrite_lsm::mem_disk::CrashMode;
use ferrite_node::{Placement, ShardSettings};
use ferrite_wire::{
    ClusterId, CoreId, Features, FrameFlags, FrameHeader, FrameKind, HashSeed, Hello, Key, Level, NodeId,
    Order, PROTOCOL_MAX, PROTOCOL_MIN, Parsed, Reply, Request, RequestId, Role, Topology, finish_frame,
    limits, parse_frame, start_frame,
};

use crate::history::{Floor, History, Told, Violation};
use crate::network::SocketId;
use crate::random::Random;
use crate::world::{Death, Director, DiskFaults, Event, World};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;
/// Nodes of the cluster.
const NODES: usize = 3;
/// Cores of each node.
const CORES: u16 = 2;
/// Virtual time within which the healed cluster must have answered everything.
const SETTLE_NS: u64 = 120 * SECOND;

/// A bug to plant for the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// One of the engine's.
    Engine(ferrite_lsm::planted::Bug),
    /// One of the replication logic's.
    Cluster(ferrite_cluster::planted::Bug),
}

impl Bug {
    /// Every bug with its name on the command line.
    pub const ALL: [(&'static str, Bug); 5] = [
        ("ack-before-sync", Bug::Engine(ferrite_lsm::planted::Bug::AckBeforeSync)),
        ("stale-segment-replayed", Bug::Engine(ferrite_lsm::planted::Bug::StaleSegmentReplayed)),
        ("skipped-directory-sync", Bug::Engine(ferrite_lsm::planted::Bug::SkippedDirectorySync)),
        ("quorum-off-by-one", Bug::Cluster(ferrite_cluster::planted::Bug::QuorumOffByOne)),
        ("tail-repeats-node", Bug::Cluster(ferrite_cluster::planted::Bug::TailRepeatsNode)),
    ];

    fn plant(bug: Option<Bug>) {
        let (engine, cluster) = match bug {
            None => (None, None),
            Some(Bug::Engine(bug)) => (Some(bug), None),
            Some(Bug::Cluster(bug)) => (None, Some(bug)),
        };
        ferrite_lsm::planted::plant(engine);
        ferrite_cluster::planted::plant(cluster);
    }
}

/// What a run is made of; all of it follows from the seed.
#[derive(Clone, Copy, Debug)]
struct Plan {
    clients: usize,
    keys: u64,
    work_ns: u64,
    fault_pause_ns: u64,
    deletes_one_in: u64,
    value_bytes_max: u64,
    memtable_bytes: usize,
    disk: DiskFaults,
    power_cuts: bool,
    partitions: bool,
    clock_jumps: bool,
    full_disks: bool,
}

impl Plan {
    /// Options are drawn independently ("swarm testing", Groce et al., 2012): a run with few kinds of faults reaches states
    /// that a run with all of them does not.
    fn draw(random: &mut Random) -> Plan {
        let one_of =
            |random: &mut Random, choices: &[u64]| choices[random.below(choices.len() as u64) as usize];
        Plan {
            clients: random.between(2, 8) as usize,
            keys: one_of(random, &[4, 16, 64]),
            work_ns: random.between(3, 8) * SECOND,
            fault_pause_ns: one_of(random, &[100 * MS, 300 * MS, SECOND]),
            deletes_one_in: one_of(random, &[0, 5, 20]).max(1),
            value_bytes_max: one_of(random, &[64, 512, 4096]),
            memtable_bytes: one_of(random, &[8 * 1024, 32 * 1024, 256 * 1024]) as usize,
            disk: DiskFaults {
                read_one_in: one_of(random, &[0, 0, 200]),
                sync_one_in: one_of(random, &[0, 0, 0, 2_000]),
                slow_one_in: one_of(random, &[0, 100]),
            },
            power_cuts: !random.one_in(5),
            partitions: random.one_in(2),
            clock_jumps: random.one_in(3),
            full_disks: random.one_in(4),
        }
    }
}

/// What a run showed.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Hash of everything that happened.
    pub trace: u64,
    /// How many events that were.
    pub events: u64,
    /// Virtual time, in nanoseconds.
    pub virtual_ns: u64,
    /// Writes acknowledged, not applied, in doubt.
    pub writes: (u64, u64, u64),
    /// Reads that were judged.
    pub reads: u64,
    /// Faults by kind.
    pub faults: Vec<(&'static str, u64)>,
    /// The first broken promise, with the key's history.
    pub violation: Option<(Violation, String)>,
}

/// What a client waits for.
#[derive(Clone, Copy, Debug)]
enum Pending {
    Write { key: u64, id: u64 },
    Read { key: u64, floor: Floor },
}

#[derive(Debug, Default)]
struct Client {
    socket: Option<SocketId>,
    stands: bool,
    greeted: bool,
    pending: Option<(u64, Pending, u64)>,
    requests: u64,
    seen: Order,
}

/// The phases of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Forming,
    Working,
    Settling,
    Done,
}

struct Scenario {
    plan: Plan,
    topology: Topology,
    random: RefCell<Random>,
    clients: RefCell<Vec<Client>>,
    history: RefCell<History>,
    violation: RefCell<Option<Violation>>,
    phase: Cell<Phase>,
    /// In the end: what remains to be read, and at which level.
    left: RefCell<Vec<(u64, Level)>>,
    outstanding: Cell<usize>,
    reads: Cell<u64>,
}

fn address(node: usize, place: usize) -> String {
    format!("10.0.0.{}:{}", node + 1, 7000 + place)
}

/// Runs a seed, with a bug planted or none.
pub fn run(seed: u64, bug: Option<Bug>) -> Report {
    Bug::plant(bug);
    let report = run_planted(seed);
    Bug::plant(None);
    report
}

fn run_planted(seed: u64) -> Report {
    let mut random = Random::new(seed);
    let plan = Plan::draw(&mut random);
    let addresses = (0..NODES).map(|node| (0..=CORES as usize).map(|place| address(node, place)).collect());
    let world = World::new(random.bits(), addresses.collect());
    let member = |node: usize| Member {
        id: NodeId(node as u16 + 1),
        name: format!("n{}", node + 1),
        rack: format!("r{}", node + 1),
        datacenter: "dc1".to_owned(),
        contact: address(node, 0),
        weight: 1,
    };
    let members: Vec<Member> = (0..NODES).map(member).collect();
    let topology = initial_topology(ClusterId([9; 16]), HashSeed(random.bits()), 16, &members, 3);
    let scenario = Scenario {
        plan,
        random: RefCell::new(random),
        clients: RefCell::new((0..plan.clients).map(|_| Client::default()).collect()),
        history: RefCell::default(),
        violation: RefCell::new(check_placement(&topology)),
        topology,
        phase: Cell::new(Phase::Forming),
        left: RefCell::default(),
        outstanding: Cell::new(0),
        reads: Cell::new(0),
    };
    if scenario.violation.borrow().is_none() {
        scenario.play(&world);
    }
    scenario.report(seed, &world)
}

/// Each vnode's replicas are on distinct nodes, as many as were asked for.
fn check_placement(topology: &Topology) -> Option<Violation> {
    let repeats = |list: &Vec<NodeId>| (1..list.len()).any(|at| list[..at].contains(&list[at]));
    let vnode = topology.replicas.iter().position(|list| list.len() != 3 || repeats(list))?;
    let what = format!("vnode {vnode} has the replicas {:?}", topology.replicas[vnode]);
    Some(Violation { key: vnode as u64, what })
}

impl Scenario {
    fn play(&self, world: &Rc<World>) {
        for node in 0..NODES {
            self.start(world, node);
        }
        self.run_until(world, world.now_ns() + 2 * SECOND, || false);
        self.phase.set(Phase::Working);
        world.set_disk_faults(self.plan.disk);
        for client in 0..self.plan.clients {
            world.after(client as u64 * MS, Event::Client(client));
        }
        world.after(self.plan.fault_pause_ns, Event::Fault);
        self.run_until(world, world.now_ns() + self.plan.work_ns, || false);
        self.settle(world);
    }

    fn run_until(&self, world: &Rc<World>, until_ns: u64, done: impl Fn() -> bool) {
        while self.violation.borrow().is_none() && !done() && world.step(until_ns, self) {}
    }

    /// Heals and restarts everything, waits, and reads every key.
    fn settle(&self, world: &Rc<World>) {
        self.phase.set(Phase::Settling);
        world.set_disk_faults(DiskFaults::default());
        world.heal();
        for node in 0..NODES {
            world.disk(node).set_full(false);
            world.set_wall_offset_ms(node, 0);
            if world.is_fenced(node) {
                world.stop(node, Death::Kill);
            }
            if !world.is_running(node) {
                self.start(world, node);
            }
        }
        // Clients end what they were at; links come up again.
        self.run_until(world, world.now_ns() + 8 * SECOND, || false);
        let keys = self.history.borrow().keys();
        let wanted: Vec<(u64, Level)> =
            keys.iter().flat_map(|key| [(*key, Level::All), (*key, Level::Quorum)]).collect();
        self.outstanding.set(wanted.len());
        *self.left.borrow_mut() = wanted;
        for client in 0..self.plan.clients {
            world.after(client as u64 * MS, Event::Client(client));
        }
        self.run_until(world, world.now_ns() + SETTLE_NS, || self.outstanding.get() == 0);
        if self.violation.borrow().is_none() && self.outstanding.get() > 0 {
            let what = format!("{} reads found no answer in a healed cluster", self.outstanding.get());
            *self.violation.borrow_mut() = Some(Violation { key: 0, what });
        }
        self.phase.set(Phase::Done);
    }

    fn report(&self, seed: u64, world: &World) -> Report {
        let history = self.history.borrow();
        let violation = self.violation.borrow().clone();
        Report {
            seed,
            trace: world.trace().hash(),
            events: world.trace().events(),
            virtual_ns: world.now_ns(),
            writes: history.counts(),
            reads: self.reads.get(),
            faults: world.counts().into_iter().collect(),
            violation: violation.map(|violation| {
                let described = history.describe(violation.key);
                (violation, described)
            }),
        }
    }

    fn start(&self, world: &Rc<World>, node: usize) {
        let id = NodeId(node as u16 + 1);
        world.start(node, CORES, |core, incarnation| {
            let mut topology = self.topology.clone();
            let placement = Placement::deal(&topology, id, 4, CORES);
            let entry = &mut topology.nodes[node];
            entry.incarnation = incarnation;
            entry.endpoints = (1..=CORES as usize).map(|place| address(node, place)).collect();
            entry.core_of_vnode = placement.core_map();
            let entropy = u128::from(world.random()) << 64 | u128::from(world.random());
            let mut engine = ferrite_lsm::Options::new(core, placement.stores_of(CoreId(core)), entropy);
            engine.memtable_bytes = self.plan.memtable_bytes;
            engine.cache_bytes = 64 * 1024;
            engine.log_bytes_max = Some(4 * self.plan.memtable_bytes.max(64 * 1024) as u64);
            engine.log.segment_bytes = 128 * 1024;
            engine.log.group_bytes = 64 * 1024;
            engine.table_bytes = 32 * 1024;
            engine.level_base_bytes = 64 * 1024;
            let mut settings =
                ShardSettings::new(id, CoreId(core), CORES, incarnation, topology, placement, engine);
            settings.request_timeout_ns = SECOND;
            settings
        });
    }

    fn draw(&self, bound: u64) -> u64 {
        self.random.borrow_mut().below(bound)
    }

    fn judge(&self, verdict: Result<(), Violation>) {
        if let Err(violation) = verdict {
            self.violation.borrow_mut().get_or_insert(violation);
        }
    }

    /// Gives up what a client waits for: nobody knows what became of it.
    fn give_up(&self, client: usize) {
        let pending = self.clients.borrow_mut()[client].pending.take();
        if let Some((_, Pending::Read { key, .. }, _)) = pending {
            self.put_back(key);
        }
    }

    /// A final read that got no answer is asked again.
    fn put_back(&self, key: u64) {
        if self.phase.get() == Phase::Settling && self.outstanding.get() > 0 {
            self.left.borrow_mut().push((key, Level::All));
        }
    }

    fn send(&self, world: &World, client: usize, request: &Request<'_>, pending: Pending) {
        let mut clients = self.clients.borrow_mut();
        let state = &mut clients[client];
        let Some(socket) = state.socket else { return };
        state.requests += 1;
        state.pending = Some((state.requests, pending, world.now_ns()));
        let mut bytes = Vec::new();
        let start = start_frame(&mut bytes);
        request.encode(&mut bytes);
        let header = FrameHeader {
            kind: request.kind(),
            flags: FrameFlags(0),
            deadline_us: 1_000_000,
            request: RequestId(state.requests),
            time: state.seen,
        };
        finish_frame(&mut bytes, start, &header);
        drop(clients);
        world.client_send(socket, &bytes);
    }

    /// Lets a client do its next thing.
    fn act(&self, world: &Rc<World>, client: usize) {
        if self.phase.get() == Phase::Settling {
            let next = self.left.borrow_mut().pop();
            if let Some((key, level)) = next {
                self.read(world, client, key, level);
            }
            return;
        }
        let key = self.draw(self.plan.keys);
        if self.draw(2) == 0 {
            return self.read(world, client, key, Level::Quorum);
        }
        let is_delete = self.plan.deletes_one_in > 1 && self.draw(self.plan.deletes_one_in) == 0;
        let id = self.history.borrow_mut().begin(key, is_delete, world.now_ns());
        let name = key.to_be_bytes();
        let key_name = Key::plain(&name);
        let epoch = self.topology.epoch;
        let value = value_of(id, self.draw(self.plan.value_bytes_max) as usize);
        let level = if self.draw(2) == 0 { Level::Quorum } else { Level::Number(2) };
        let request = if is_delete {
            Request::Delete { epoch, level, options: 0, key: key_name, context: b"" }
        } else {
            Request::Put { epoch, level, options: 0, key: key_name, ttl_ms: 0, context: b"", value: &value }
        };
        self.send(world, client, &request, Pending::Write { key, id });
    }

    fn read(&self, world: &Rc<World>, client: usize, key: u64, level: Level) {
        let floor = self.history.borrow().floor(key);
        let name = key.to_be_bytes();
        let request = Request::Get { epoch: self.topology.epoch, level, options: 0, key: Key::plain(&name) };
        self.send(world, client, &request, Pending::Read { key, floor });
    }

    fn on_reply(&self, client: usize, request: u64, reply: &Reply<'_>) {
        let pending = {
            let mut clients = self.clients.borrow_mut();
            let state = &mut clients[client];
            match state.pending {
                Some((waited, pending, _)) if waited == request => {
                    state.pending = None;
                    pending
                }
                Some(_) | None => return,
            }
        };
        match (pending, reply) {
            (Pending::Write { key, id }, Reply::Done { version, .. }) => {
                let seen = self.clients.borrow()[client].seen;
                if version.order <= seen {
                    let what = format!("write {id} got {version:?}, but its client had seen {seen:?}");
                    self.judge(Err(Violation { key, what }));
                }
                self.clients.borrow_mut()[client].seen = version.order;
                let verdict = self.history.borrow_mut().told(key, id, Told::Acknowledged(*version));
                self.judge(verdict);
            }
            (Pending::Write { key, id }, Reply::Error { code, .. }) => {
                let told = if code.says_not_applied() { Told::NotApplied } else { Told::InDoubt };
                let verdict = self.history.borrow_mut().told(key, id, told);
                self.judge(verdict);
            }
            (Pending::Read { key, floor }, Reply::Value { version, value, .. }) => {
                let state = &mut self.clients.borrow_mut()[client];
                state.seen = state.seen.max(version.order);
                let verdict = self.history.borrow_mut().saw_value(key, floor, id_of(value), *version);
                self.answered(verdict);
            }
            (Pending::Read { key, floor }, Reply::Absent { .. }) => {
                let verdict = self.history.borrow().saw_nothing(key, floor);
                self.answered(verdict);
            }
            (Pending::Read { key, .. }, Reply::Error { .. }) => self.put_back(key),
            (pending, reply) => {
                let key = match pending {
                    Pending::Write { key, .. } | Pending::Read { key, .. } => key,
                };
                self.judge(Err(Violation { key, what: format!("{pending:?} was answered by {reply:?}") }));
            }
        }
    }

    fn answered(&self, verdict: Result<(), Violation>) {
        self.judge(verdict);
        self.reads.set(self.reads.get() + 1);
        if self.phase.get() == Phase::Settling {
            self.outstanding.set(self.outstanding.get().saturating_sub(1));
        }
    }

    fn connect(&self, world: &World, client: usize) {
        let node = self.draw(NODES as u64) as usize;
        let place = self.draw(u64::from(CORES) + 1) as usize;
        let socket = world.client_connect(client, &address(node, place));
        let state = &mut self.clients.borrow_mut()[client];
        (state.socket, state.stands, state.greeted) = (Some(socket), false, false);
    }

    fn inject(&self, world: &Rc<World>) {
        let node = self.draw(NODES as u64) as usize;
        let other = (node + 1 + self.draw(NODES as u64 - 1) as usize) % NODES;
        match self.draw(12) {
            0..=2 if self.plan.power_cuts && world.is_running(node) => {
                let mode = CrashMode::EVERY[self.draw(CrashMode::EVERY.len() as u64) as usize];
                world.count("power cut");
                world.stop(node, Death::PowerCut(mode));
            }
            3 if self.plan.power_cuts => {
                world.count("power cut of all");
                for node in 0..NODES {
                    let mode = CrashMode::EVERY[self.draw(CrashMode::EVERY.len() as u64) as usize];
                    world.stop(node, Death::PowerCut(mode));
                }
            }
            4 if world.is_running(node) => {
                world.count("kill");
                world.stop(node, Death::Kill);
            }
            5 => {
                world.count("pause");
                world.pause(node, (10 + self.draw(3_000)) * MS);
            }
            6 if self.plan.partitions => {
                world.count("partition");
                world.set_cut(node, other, true);
                world.set_cut(other, node, true);
            }
            7 if self.plan.partitions => {
                world.count("one-way partition");
                world.set_cut(node, other, true);
            }
            8 if self.plan.clock_jumps => {
                world.count("clock jump");
                world.set_wall_offset_ms(node, self.draw(10_000) as i64 - 5_000);
            }
            9 if self.plan.full_disks => {
                world.count("full disk");
                world.disk(node).set_full(true);
            }
            10 => world.heal(),
            11 => world.disk(node).set_full(false),
            _ => {}
        }
        // What is down comes back sooner or later; a fenced node is restarted as an operator would.
        for node in 0..NODES {
            if world.is_fenced(node) && self.draw(3) == 0 {
                world.stop(node, Death::Kill);
            }
            if !world.is_running(node) && self.draw(2) == 0 {
                self.start(world, node);
            }
        }
    }
}

impl Director for Scenario {
    fn on_client(&self, world: &Rc<World>, client: usize) {
        if self.phase.get() == Phase::Done {
            return;
        }
        let (socket, greeted, waiting_since) = {
            let clients = self.clients.borrow();
            let state = &clients[client];
            (state.socket, state.greeted, state.pending.as_ref().map(|(_, _, since)| *since))
        };
        let now_ns = world.now_ns();
        match (socket, waiting_since) {
            (None, _) => self.connect(world, client),
            (Some(socket), Some(since)) if now_ns - since > 4 * SECOND => {
                // The server is silent beyond its deadline: give up on this connection.
                self.give_up(client);
                self.clients.borrow_mut()[client].socket = None;
                world.shut(socket);
            }
            (Some(_), None) if greeted => self.act(world, client),
            (Some(socket), None) if self.draw(200) == 0 => {
                self.clients.borrow_mut()[client].socket = None;
                world.shut(socket);
            }
            (Some(_), _) => {}
        }
        world.after((1 + self.draw(20)) * MS, Event::Client(client));
    }

    fn on_client_connected(&self, world: &Rc<World>, client: usize, socket: SocketId, stands: bool) {
        if self.clients.borrow()[client].socket != Some(socket) {
            return;
        }
        if !stands {
            self.clients.borrow_mut()[client].socket = None;
            return;
        }
        let hello = Hello {
            min: PROTOCOL_MIN,
            max: PROTOCOL_MAX,
            features: Features(0),
            cluster: self.topology.cluster,
            role: Role::Client,
        };
        let mut bytes = Vec::new();
        let start = start_frame(&mut bytes);
        hello.encode(&mut bytes);
        let header = FrameHeader {
            kind: FrameKind::Hello,
            flags: FrameFlags(0),
            deadline_us: 0,
            request: RequestId(0),
            time: Order(0),
        };
        finish_frame(&mut bytes, start, &header);
        self.clients.borrow_mut()[client].stands = true;
        world.client_send(socket, &bytes);
    }

    fn on_client_bytes(&self, _: &Rc<World>, client: usize, socket: SocketId, bytes: &[u8]) -> usize {
        let mut used = 0;
        if self.clients.borrow()[client].socket != Some(socket) {
            return bytes.len();
        }
        loop {
            match parse_frame(&bytes[used..], limits::BODY_BYTES_MAX) {
                Ok(Parsed::Need { .. }) => return used,
                Ok(Parsed::Frame { frame, bytes: len }) => {
                    used += len;
                    if frame.header.kind == FrameKind::HelloReply {
                        self.clients.borrow_mut()[client].greeted = true;
                        continue;
                    }
                    match Reply::decode(frame.header.kind, frame.body) {
                        Ok(reply) => self.on_reply(client, frame.header.request.0, &reply),
                        Err(error) => self.judge(Err(Violation {
                            key: 0,
                            what: format!("a reply does not decode: {error}"),
                        })),
                    }
                }
                Err(error) => {
                    self.judge(Err(Violation { key: 0, what: format!("a frame does not decode: {error}") }));
                    return bytes.len();
                }
            }
        }
    }

    fn on_client_closed(&self, _: &Rc<World>, client: usize, socket: SocketId) {
        if self.clients.borrow()[client].socket == Some(socket) {
            self.give_up(client);
            self.clients.borrow_mut()[client].socket = None;
        }
    }

    fn on_fault(&self, world: &Rc<World>) {
        if self.phase.get() == Phase::Working {
            self.inject(world);
            let pause_ns = self.plan.fault_pause_ns / 2 + self.draw(self.plan.fault_pause_ns);
            world.after(pause_ns, Event::Fault);
        }
    }

    fn on_open_failed(&self, world: &Rc<World>, node: usize, error: String) {
        let full = world.disk(node);
        full.set_full(false);
        world.stop(node, Death::Kill);
        world.count("open failed");
        if self.phase.get() == Phase::Settling {
            let what = format!("node {node} does not open its data on a sound disk: {error}");
            self.judge(Err(Violation { key: 0, what }));
        }
    }
}

/// A value that names its write and fills up with bytes that depend on it.
fn value_of(id: u64, len: usize) -> Vec<u8> {
    let mut value = id.to_le_bytes().to_vec();
    let mut random = Random::new(id);
    value.extend((0..len).map(|_| random.bits() as u8));
    value
}

/// The write that a value names, if the value is whole.
fn id_of(value: &[u8]) -> Option<u64> {
    let id = u64::from_le_bytes(*value.first_chunk::<8>()?);
    (value_of(id, value.len() - 8) == value).then_some(id)
}

/// Not written by anybody: for the checkers' own tests.
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_value_names_nobody() {
        let mut value = value_of(7, 100);
        assert_eq!(id_of(&value), Some(7));
        value[50] ^= 1;
        assert_eq!(id_of(&value), None);
        assert_eq!(id_of(b"short"), None);
    }
}
