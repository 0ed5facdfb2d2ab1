//! One run: a three-node cluster, clients that write and read, faults drawn from the seed, and the verdict.
//!
//! | phase | what happens | what is checked |
//! |---|---|---|
//! | forming | nodes start and find each other | that they open |
//! | working | clients work while faults happen | every read, against [`History`] |
//! | settling | everything is healed and restarted, then every key is read at ALL and at QUORUM | that all reads are answered, and see what was acknowledged |
//! | degraded | one node is cut off its power for good, then every key is read at QUORUM | the same: two of three replicas suffice |
//!
//! In some runs every third key is of a table with siblings, which clients read, merge and write ([`SetHistory`]). In some every other of
//! the rest is of a table with one or two replicas. Of those a node takes with it what is nowhere else: in
//! the degraded phase they are read at ONE where one of their replicas is left.
//!
//! A run ends early at the first broken promise. What may fail within the promise: any number of power cuts, kills, pauses,
//! partitions, clock jumps and full disks; reads that fail or come back damaged; syncs that fail. A disk never forgets what it said
//! was synced, and there is no sloppy quorum, so acknowledged writes at two of three replicas survive all of it.

mod carts;
mod clients;
mod faults;
mod plan;
#[cfg(test)]
mod stories;
mod value;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use ferrite_cluster::gossip::GossipOptions;
use ferrite_cluster::{Member, initial_topology};
use ferrite_lsm::Strategy;
use ferrite_lsm::mem_disk::CrashMode;
use ferrite_node::{Placement, ShardSettings};
use ferrite_wire::{ClusterId, CoreId, HashSeed, Key, Level, Mode, NodeId, Table, TableId, Tables, Topology};

use self::clients::Client;
use self::plan::{FaultKind, Plan};
use crate::bug::{Bug, Planted};
use crate::history::{History, Violation};
use crate::network::SocketId;
use crate::random::Random;
use crate::report::Report;
use crate::set_history::SetHistory;
use crate::shown::Shown;
use crate::world::{Death, Director, DiskFaults, Event, World};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;
/// Nodes of the cluster.
const NODES: usize = 3;
/// Cores of each node.
const CORES: u16 = 2;
/// Stores of each node.
const STORES: u16 = 4;
/// Slices of the ring.
const VNODES: u32 = 16;
/// The table with fewer replicas, in runs that have one.
const NARROW: &str = "narrow";
/// The table with siblings, in runs that have one.
const CARTS: &str = "carts";
/// Most siblings of a key in it: few enough to be reached.
const MAX_SIBLINGS: u16 = 8;
/// Time for nodes to start and to find each other.
const FORMING_NS: u64 = 2 * SECOND;
/// Time for clients to end what they were at, and for links to come up again.
const HEALING_NS: u64 = 3 * SECOND;
/// Virtual time within which the reads at the end must have been answered.
const SETTLE_NS: u64 = 30 * SECOND;

/// A run to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Everything follows from it.
    pub seed: u64,
    /// A bug to plant.
    pub bug: Option<Bug>,
    /// Whether the placement of replicas is looked at before the cluster starts, or only how the cluster behaves.
    pub checks_placement: bool,
}

impl Run {
    /// A seed, with a bug planted or none.
    pub fn new(seed: u64, bug: Option<Bug>) -> Run {
        Run { seed, bug, checks_placement: true }
    }

    /// Makes the run.
    pub fn go(self) -> Report {
        let _planted = Planted::new(self.bug);
        // Left by a run that panicked, if any.
        let _earlier = ferrite_lsm::cover::take();
        let mut random = Random::new(self.seed);
        let plan = Plan::draw(&mut random).with_carts(self.seed);
        let world = World::new(random.bits(), addresses());
        let scenario = Scenario::new(plan, random);
        if self.checks_placement {
            scenario.judge(check_placement(&scenario.topology));
        }
        if scenario.violation.borrow().is_none() {
            scenario.play(&world);
        }
        let report = scenario.report(self, &world);
        world.end();
        report
    }
}

/// The phases of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Forming,
    Working,
    Settling,
    Degraded,
    Done,
}

struct Scenario {
    plan: Plan,
    topology: Topology,
    random: RefCell<Random>,
    clients: RefCell<Vec<Client>>,
    history: RefCell<History>,
    sets: RefCell<SetHistory>,
    shown: RefCell<Shown>,
    violation: RefCell<Option<Violation>>,
    phase: Cell<Phase>,
    /// In the end: what remains to be read, and at which level.
    left: RefCell<VecDeque<(u64, Level)>>,
    outstanding: Cell<usize>,
    reads: Cell<u64>,
    errors: RefCell<BTreeMap<&'static str, u64>>,
    /// The node whose disk stands still; its power fails at the next tick.
    stalled: Cell<Option<usize>>,
    /// Kinds of faults that are still to come in this round.
    deck: RefCell<Vec<FaultKind>>,
}

/// Several times faster than a node's, so that verdicts come and go within a run, and slow enough to cost it little.
fn gossip_options() -> GossipOptions {
    GossipOptions {
        probe_period_ms: 200,
        probe_timeout_ms: 80,
        suspicion_ms: 600,
        gossip_period_ms: 100,
        join_period_ms: 200,
        announce_period_ms: 2_000,
        stall_ms: 1_000,
        digest_gap_ms: 200,
        digest_period_ms: 4_000,
        late_ms: 60,
        ..GossipOptions::default()
    }
}

/// For each node its contact address, then one per core.
fn addresses() -> Vec<Vec<String>> {
    let of_node = |node| (0..=CORES as usize).map(|place| address(node, place)).collect();
    (0..NODES).map(of_node).collect()
}

fn address(node: usize, place: usize) -> String {
    format!("10.0.0.{}:{}", node + 1, 7000 + place)
}

/// Each vnode's replicas are on distinct nodes, as many as were asked for.
fn check_placement(topology: &Topology) -> Result<(), Violation> {
    let repeats = |list: &Vec<NodeId>| (1..list.len()).any(|at| list[..at].contains(&list[at]));
    match topology.replicas.iter().position(|list| list.len() != NODES || repeats(list)) {
        None => Ok(()),
        Some(vnode) => {
            let what = format!("vnode {vnode} has the replicas {:?}", topology.replicas[vnode]);
            Err(Violation { key: vnode as u64, what })
        }
    }
}

impl Scenario {
    fn new(plan: Plan, mut random: Random) -> Scenario {
        let member = |node: usize| Member {
            id: NodeId(node as u16 + 1),
            name: format!("n{}", node + 1),
            rack: format!("r{}", node + 1),
            datacenter: "dc1".to_owned(),
            contact: address(node, 0),
            weight: 1,
        };
        let members: Vec<Member> = (0..NODES).map(member).collect();
        let seed = HashSeed(random.bits());
        let narrow = plan.narrow.map(|replication| Table {
            id: TableId::of(NARROW),
            name: NARROW.to_owned(),
            ..Table::default_of(replication)
        });
        let carts = plan.carts.map(|replication| Table {
            id: TableId::of(CARTS),
            name: CARTS.to_owned(),
            mode: Mode::Siblings,
            max_siblings: MAX_SIBLINGS,
            ..Table::default_of(replication)
        });
        let list = [Table::default_of(NODES as u8)].into_iter().chain(narrow).chain(carts).collect();
        let tables = Tables::new(list).expect("the tables of a run are sound");
        Scenario {
            topology: initial_topology(ClusterId([9; 16]), seed, VNODES, &members, tables),
            clients: RefCell::new((0..plan.clients).map(|_| Client::default()).collect()),
            plan,
            random: RefCell::new(random),
            history: RefCell::default(),
            sets: RefCell::default(),
            shown: RefCell::default(),
            violation: RefCell::default(),
            phase: Cell::new(Phase::Forming),
            left: RefCell::default(),
            outstanding: Cell::new(0),
            reads: Cell::new(0),
            errors: RefCell::default(),
            stalled: Cell::new(None),
            deck: RefCell::default(),
        }
    }

    fn play(&self, world: &Rc<World>) {
        for node in 0..NODES {
            self.start(world, node);
        }
        self.run_until(world, world.now_ns() + FORMING_NS, || false);
        self.phase.set(Phase::Working);
        world.set_disk_faults(self.plan.disk);
        for client in 0..self.plan.clients {
            world.after(client as u64 * MS, Event::Client(client));
        }
        world.after(self.plan.fault_pause_ns, Event::Fault);
        self.run_until(world, world.now_ns() + self.plan.work_ns, || false);
        self.settle(world);
        self.degrade(world);
        self.phase.set(Phase::Done);
    }

    fn run_until(&self, world: &Rc<World>, until_ns: u64, done: impl Fn() -> bool) {
        while self.violation.borrow().is_none() && !done() && world.step(until_ns, self) {}
    }

    /// Heals and restarts everything, and reads every key.
    fn settle(&self, world: &Rc<World>) {
        self.phase.set(Phase::Settling);
        world.set_disk_faults(DiskFaults::default());
        world.heal();
        if let Some(stalled) = self.stalled.take() {
            world.stop(stalled, Death::Kill);
        }
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
        self.run_until(world, world.now_ns() + HEALING_NS, || false);
        self.read_all(world, |_| vec![Level::All, Level::Quorum], "a healed cluster");
    }

    /// Cuts one node off its power for good, and reads every key from the others.
    fn degrade(&self, world: &Rc<World>) {
        self.phase.set(Phase::Degraded);
        let gone = self.draw(NODES as u64) as usize;
        world.stop(gone, Death::PowerCut(CrashMode::None));
        self.run_until(world, world.now_ns() + HEALING_NS, || false);
        let levels = |key| self.levels_without(NodeId(gone as u16 + 1), key);
        self.read_all(world, levels, "a cluster with one node down");
    }

    /// The levels at which a key can be read while a node is down.
    fn levels_without(&self, gone: NodeId, key: u64) -> Vec<Level> {
        let name = key.to_be_bytes();
        let vnode = self.key(key, &name).token(self.topology.hash_seed).vnode(VNODES);
        let replicas = &self.topology.preference_list(vnode)[..self.replicas_of(key)];
        match replicas.iter().filter(|node| **node != gone).count() {
            0 => Vec::new(),
            left if left >= Level::Quorum.needed(replicas.len()) => vec![Level::Quorum],
            _ => vec![Level::One],
        }
    }

    /// A key by its number, under this name.
    fn key<'k>(&self, key: u64, name: &'k [u8]) -> Key<'k> {
        Key { table: self.table_of(key).id, partition: name, sort: b"" }
    }

    fn table_of(&self, key: u64) -> &Table {
        let carts = self.topology.tables.named(CARTS).filter(|_| key % 3 == 2);
        let narrow = self.topology.tables.named(NARROW).filter(|_| key % 2 == 1);
        carts.or(narrow).unwrap_or(&self.topology.tables.as_slice()[0])
    }

    /// Whether a key has siblings.
    fn has_siblings(&self, key: u64) -> bool {
        self.table_of(key).mode == Mode::Siblings
    }

    /// How many replicas a key has.
    fn replicas_of(&self, key: u64) -> usize {
        usize::from(self.table_of(key).replication)
    }

    fn read_all(&self, world: &Rc<World>, levels: impl Fn(u64) -> Vec<Level>, of_what: &str) {
        let keys = [self.history.borrow().keys(), self.sets.borrow().keys()].concat();
        let wanted: VecDeque<(u64, Level)> =
            keys.iter().flat_map(|key| levels(*key).into_iter().map(|level| (*key, level))).collect();
        self.outstanding.set(wanted.len());
        *self.left.borrow_mut() = wanted;
        self.run_until(world, world.now_ns() + SETTLE_NS, || self.outstanding.get() == 0);
        if self.outstanding.get() > 0 {
            let left = self.left.borrow().front().copied();
            let (key, level) = left.unwrap_or((0, Level::Quorum));
            let what = format!("{} reads found no answer in {of_what}, at {level:?}", self.outstanding.get());
            self.judge(Err(Violation { key, what }));
        }
    }

    fn report(&self, run: Run, world: &World) -> Report {
        let (history, sets) = (self.history.borrow(), self.sets.borrow());
        let (of_last, of_sets) = (history.counts(), sets.counts());
        let violation = self.violation.borrow().clone();
        Report {
            seed: run.seed,
            bug: run.bug,
            trace: world.trace().hash(),
            events: world.trace().events(),
            virtual_ns: world.now_ns(),
            writes: (of_last.0 + of_sets.0, of_last.1 + of_sets.1, of_last.2 + of_sets.2),
            reads: self.reads.get(),
            faults: world.counts(),
            errors: self.errors.borrow().clone(),
            marks: ferrite_lsm::cover::take(),
            violation: violation.map(|violation| {
                let key = violation.key;
                let described =
                    if self.has_siblings(key) { sets.describe(key) } else { history.describe(key) };
                (violation, described)
            }),
        }
    }

    fn start(&self, world: &Rc<World>, node: usize) {
        let id = NodeId(node as u16 + 1);
        world.start(node, CORES, |core, incarnation| {
            let mut topology = self.topology.clone();
            let placement = Placement::deal(&topology, id, STORES, CORES);
            let entry = &mut topology.nodes[node];
            entry.incarnation = incarnation;
            entry.endpoints = (1..=CORES as usize).map(|place| address(node, place)).collect();
            entry.core_of_vnode = placement.core_map();
            let entropy = u128::from(world.random()) << 64 | u128::from(world.random());
            let mut engine = ferrite_lsm::Options::new(core, placement.stores_of(CoreId(core)), entropy);
            engine.memtable_bytes = self.plan.memtable_bytes;
            engine.cache_bytes = 64 * 1024;
            engine.log.segment_bytes = self.plan.segment_bytes;
            engine.log.group_bytes = 64 * 1024;
            engine.table_bytes = 8 * 1024;
            engine.level_base_bytes = 16 * 1024;
            engine.level_fanout = 4;
            // At each start another: a store takes either as it is.
            engine.strategy = [Strategy::Leveled, Strategy::Tiered][(entropy & 1) as usize];
            engine.manifest_bytes_max = 64 * 1024;
            let mut settings =
                ShardSettings::new(id, CoreId(core), CORES, incarnation, topology, placement, engine);
            settings.request_timeout_ns = SECOND;
            settings.gossip = gossip_options();
            settings
        });
    }

    fn draw(&self, bound: u64) -> u64 {
        self.random.borrow_mut().below(bound)
    }

    /// Keeps the first broken promise.
    fn judge(&self, verdict: Result<(), Violation>) {
        if let Err(violation) = verdict {
            self.violation.borrow_mut().get_or_insert(violation);
        }
    }
}

impl Director for Scenario {
    fn on_client(&self, world: &Rc<World>, client: usize) {
        self.take_turn(world, client);
    }

    fn on_client_connected(&self, world: &Rc<World>, client: usize, socket: SocketId, stands: bool) {
        self.connected(world, client, socket, stands);
    }

    fn on_client_bytes(&self, _: &Rc<World>, client: usize, socket: SocketId, bytes: &[u8]) -> usize {
        self.received(client, socket, bytes)
    }

    fn on_client_closed(&self, _: &Rc<World>, client: usize, socket: SocketId) {
        self.closed(client, socket);
    }

    fn on_fault(&self, world: &Rc<World>) {
        if self.phase.get() == Phase::Working {
            self.inject(world);
            let pause_ns = self.plan.fault_pause_ns / 2 + self.draw(self.plan.fault_pause_ns);
            world.after(pause_ns, Event::Fault);
        }
    }

    fn on_open_failed(&self, world: &Rc<World>, node: usize, error: String) {
        let may_fail = self.phase.get() == Phase::Working
            && (!self.plan.disk.are_sound() || self.plan.kinds.contains(&FaultKind::FullDisk));
        if !may_fail {
            let what = format!("node {} does not open its data on a sound disk: {error}", node + 1);
            self.judge(Err(Violation { key: 0, what }));
        }
        world.count("open failed");
        world.stop(node, Death::Kill);
    }
}
