//! The cluster of a run: its nodes, tables and options, all of them drawn from the seed.
//!
//! Options are drawn independently ("swarm testing", Groce et al., 2012): a run in which few of them are odd reaches states that a run with
//! all of them odd does not.

use std::cell::Cell;
use std::rc::Rc;

use ferrite_cluster::gossip::GossipOptions;
use ferrite_cluster::hints::HintOptions;
use ferrite_cluster::{Member, initial_topology};
use ferrite_lsm::Strategy;
use ferrite_lsm::layout::Layout;
use ferrite_lsm::log::CommitlogSync;
use ferrite_node::{Placement, ShardSettings};
use ferrite_promises::{Holders, Violation};
use ferrite_wire::{ClusterId, CoreId, HashSeed, Key, Mode, NodeId, Table, TableId, Tables, Topology};

use super::{MS, SECOND, one_of};
use crate::random::Random;
use crate::world::{Launch, World};

/// The second table: the last write wins as in the default one, with replicas of its own.
const NARROW: &str = "narrow";
/// The table with siblings; in the set test, of either mode.
pub(super) const CARTS: &str = "carts";
/// Most cores of a node; there are at least as many stores.
pub(super) const CORES_MAX: u16 = 3;
/// Each option that servers rarely change is odd in one run of so many.
const ODD_ONE_IN: u64 = 32;
/// Gossip is in one run of so many.
const ODD_GOSSIP_ONE_IN: u64 = 10;
/// In one run of so many replicas are compared far more often than servers do it: in all, comparisons would mend what hints have lost before it is seen.
const OFTEN_COMPARED_ONE_IN: u64 = 8;
/// Behind one read in so many they are compared then.
const READS_PER_COMPARISON: u32 = 7;
/// Longest value in runs with large ones.
const LARGE_BYTES: u64 = 48 * 1024;

/// What nodes are told when they start.
#[derive(Clone, Debug)]
pub(super) struct Options {
    /// Memtable budget of a core, small enough to be flushed many times, and not below what the memtables of its stores take at
    /// least: then any frozen one would be over the bound, and writes be refused until it is flushed. Together with reads that
    /// fail, each of which makes a flush pause before it is tried again, a node would refuse most of what it is asked.
    memtable_bytes: usize,
    /// Length of a log segment, small enough to be recycled many times.
    segment_bytes: u64,
    group_bytes: usize,
    cache_bytes: usize,
    record_cache_bytes: Option<usize>,
    large_value_bytes: Option<usize>,
    level_fanout: u64,
    sync_interval_ns: Option<u64>,
    drift_max_ms: u64,
    peer_timeout_ns: u64,
    request_timeout_ns: u64,
    operations_max: usize,
    waiting_bytes_max: usize,
    disk_reads_max: usize,
    scrub_bytes_per_s: u64,
    ping_interval_ns: u64,
    reconnect_pause_max_ns: u64,
    half_sent_timeout_ns: u64,
    mark_after_ns: u64,
    operation_bytes_max: usize,
    hop_backlog_bytes_max: usize,
    hints: HintOptions,
    gossip: GossipOptions,
    is_often_compared: bool,
}

impl Options {
    /// How far a wall clock may be ahead of another without anything being refused.
    pub(super) fn drift_max_ms(&self) -> u64 {
        self.drift_max_ms
    }

    /// How long a core may stand still before it counts as absent.
    pub(super) fn stall_ms(&self) -> u64 {
        self.gossip.stall_ms
    }

    /// Whether acknowledgements wait for their sync.
    pub(super) fn syncs_first(&self) -> bool {
        self.sync_interval_ns.is_none()
    }

    fn draw(random: &mut Random, value_bytes_max: u64) -> Options {
        let is_large = value_bytes_max > 4096;
        let peer_timeout_ns = one_of(random, &[400 * MS, SECOND, SECOND, 2_500 * MS]);
        Options {
            memtable_bytes: match is_large {
                false => one_of(random, &[96 * 1024, 192 * 1024, 512 * 1024]) as usize,
                true => one_of(random, &[2 << 20, 4 << 20]) as usize,
            },
            segment_bytes: if is_large { 2 << 20 } else { one_of(random, &[72 * 1024, 128 * 1024]) },
            group_bytes: if is_large { (1 << 20) + (128 << 10) } else { 64 * 1024 },
            cache_bytes: one_of(random, &[16 * 1024, 64 * 1024, 1 << 20]) as usize,
            record_cache_bytes: [None, Some(0), Some(64 * 1024)][random.below(3) as usize],
            large_value_bytes: [None, Some(512), Some(4096)][random.below(3) as usize],
            level_fanout: random.between(2, 8),
            sync_interval_ns: random.one_in(8).then(|| random.between(50, 200) * MS),
            drift_max_ms: one_of(random, &[100, 500, 500, 2_000]),
            peer_timeout_ns,
            request_timeout_ns: one_of(random, &[200 * MS, SECOND, 5 * SECOND]),
            operations_max: one_of(random, &[8, 64, 65_536]) as usize,
            waiting_bytes_max: one_of(random, &[128 << 10, 32 << 20]) as usize,
            disk_reads_max: one_of(random, &[4, 4_096, 4_096]) as usize,
            scrub_bytes_per_s: one_of(random, &[0, 0, 256 << 10]),
            ping_interval_ns: peer_timeout_ns / 4,
            reconnect_pause_max_ns: SECOND,
            half_sent_timeout_ns: 5 * SECOND,
            mark_after_ns: 100 * MS,
            operation_bytes_max: 32 << 20,
            hop_backlog_bytes_max: 16 << 20,
            hints: draw_hints(random),
            gossip: gossip_options(),
            is_often_compared: false,
        }
    }

    /// Draws what is as servers have it by default in most runs, each for itself.
    fn draw_odd(&mut self, random: &mut Random, value_bytes_max: u64) {
        let is_large = value_bytes_max > 4096;
        let mut odd = |usual: u64, choices: &[u64]| match random.one_in(ODD_ONE_IN) {
            true => one_of(random, choices),
            false => usual,
        };
        self.ping_interval_ns = self.peer_timeout_ns / odd(4, &[3, 8]);
        self.reconnect_pause_max_ns = odd(self.reconnect_pause_max_ns, &[100 * MS]);
        self.half_sent_timeout_ns = odd(self.half_sent_timeout_ns, &[SECOND]);
        self.mark_after_ns = odd(self.mark_after_ns, &[10 * MS]);
        if !is_large {
            // A set of siblings, and what its writes owe, must find room when nothing else is under way.
            self.operation_bytes_max = odd(self.operation_bytes_max as u64, &[4 << 20]) as usize;
        }
        self.hop_backlog_bytes_max = odd(self.hop_backlog_bytes_max as u64, &[64 << 10]) as usize;
        let hints = &mut self.hints;
        hints.window_bytes_max = odd(hints.window_bytes_max, &[2 << 10]);
        hints.delivery_bytes_max = odd(hints.delivery_bytes_max, &[4 << 10]);
        hints.strict_age_max_ms = odd(hints.strict_age_max_ms, &[1_000]);
        hints.pause_min_ns = odd(hints.pause_min_ns, &[10 * MS]);
        hints.storm_per_s = odd(u64::from(hints.storm_per_s), &[10, 1_000]) as u32;
        if random.one_in(ODD_GOSSIP_ONE_IN) {
            self.gossip = draw_gossip(random);
        }
    }

    /// Draws a bound so low, or a chance so high, that runs meet it, which they do not by far with the one that servers have.
    fn draw_tight(&mut self, random: &mut Random) {
        if random.one_in(4) {
            self.hints.pinned_bytes_max = one_of(random, &[0, 4 << 10, 32 << 10]);
        }
        self.is_often_compared = random.one_in(OFTEN_COMPARED_ONE_IN);
    }

    fn apply_to_engine(&self, engine: &mut ferrite_lsm::Options) {
        engine.memtable_bytes = self.memtable_bytes;
        engine.cache_bytes = self.cache_bytes;
        engine.record_cache_bytes = self.record_cache_bytes;
        engine.large_value_bytes = self.large_value_bytes;
        engine.log.segment_bytes = self.segment_bytes;
        engine.log.group_bytes = self.group_bytes;
        engine.table_bytes = 8 * 1024;
        engine.level_base_bytes = 16 * 1024;
        engine.level_fanout = self.level_fanout;
        engine.manifest_bytes_max = 64 * 1024;
        // At each start another: a store takes either as it is.
        engine.strategy = [Strategy::Leveled, Strategy::Tiered][(engine.entropy & 1) as usize];
        if !self.syncs_first() {
            engine.log.sync = CommitlogSync::Periodic;
        }
    }

    fn apply(&self, settings: &mut ShardSettings) {
        settings.sync_interval_ns = self.sync_interval_ns;
        settings.clock_drift_max_ms = self.drift_max_ms;
        settings.peer_timeout_ns = self.peer_timeout_ns;
        settings.ping_interval_ns = self.ping_interval_ns;
        settings.reconnect_pause_max_ns = self.reconnect_pause_max_ns;
        settings.half_sent_timeout_ns = self.half_sent_timeout_ns;
        settings.mark_after_ns = self.mark_after_ns;
        settings.operation_bytes_max = self.operation_bytes_max;
        settings.hop_backlog_bytes_max = self.hop_backlog_bytes_max;
        settings.request_timeout_ns = self.request_timeout_ns;
        settings.operations_max = self.operations_max;
        if self.is_often_compared {
            settings.reads_per_comparison = READS_PER_COMPARISON;
        }
        settings.waiting_bytes_max = self.waiting_bytes_max;
        settings.disk_reads_max = self.disk_reads_max;
        settings.scrub_bytes_per_s = self.scrub_bytes_per_s;
        settings.hints = self.hints.clone();
        settings.gossip = self.gossip.clone();
    }
}

/// In half of all runs so little is kept that some is refused and dropped; windows of a few hints are filled and emptied over and over.
fn draw_hints(random: &mut Random) -> HintOptions {
    let defaults = HintOptions::default();
    let bytes_max = one_of(random, &[defaults.bytes_max, defaults.bytes_max, 16 << 10, 4 << 10]);
    HintOptions {
        bytes_max,
        strict_bytes_max: defaults.strict_bytes_max.min(bytes_max / 2),
        window_max: one_of(random, &[u64::from(defaults.window_max), 4]) as u32,
        ..defaults
    }
}

/// Several times faster than a node's by default, as those below.
fn draw_gossip(random: &mut Random) -> GossipOptions {
    let probe_period_ms = one_of(random, &[100, 200, 200, 400]);
    let options = GossipOptions {
        probe_period_ms,
        probe_timeout_ms: probe_period_ms * one_of(random, &[20, 40, 50]) / 100,
        fanout: random.between(1, 3) as u8,
        suspicion_ms: probe_period_ms * one_of(random, &[1, 3, 3, 6]),
        gossip_period_ms: one_of(random, &[50, 100, 200]),
        transmissions: random.between(2, 8) as u8,
        announce_period_ms: one_of(random, &[1_000, 2_000, 4_000]),
        stall_ms: one_of(random, &[600, 1_000, 1_000, 2_000]),
        digest_gap_ms: one_of(random, &[100, 200]),
        digest_period_ms: one_of(random, &[1_000, 4_000]),
        late_ms: one_of(random, &[20, 60, 200]),
        ..gossip_options()
    };
    options.check().expect("they keep the rules");
    options
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

/// The cluster of a run.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    /// Nodes.
    pub(super) nodes: usize,
    /// Cores, by node.
    cores: Vec<Cell<u16>>,
    /// Longest value that clients write.
    pub(super) value_bytes_max: u64,
    stores: u16,
    /// What nodes are told.
    pub(super) options: Options,
    /// Members, tables, and who holds what.
    pub(super) topology: Topology,
}

impl Shape {
    /// Draws one. Most have three nodes and three replicas, as most clusters do.
    pub(super) fn draw(random: &mut Random) -> Shape {
        let nodes = [3, 3, 3, 1, 2, 4, 5, 5, 6, 7][random.below(10) as usize];
        let mut replicas = |choices: &[u64]| one_of(random, choices).min(nodes as u64) as u8;
        let (of_default, of_narrow, of_carts) =
            (replicas(&[3, 3, 3, 3, 2, 5]), replicas(&[1, 2, 2]), replicas(&[3, 3, 2, 1, 4, 5]));
        let ttl_ms = one_of(random, &[0, 0, 0, 1_500]);
        let mut tables = vec![Table::default_of(of_default)];
        if random.one_in(3) {
            tables.push(Table { ttl_ms, ..named(NARROW, of_narrow) });
        }
        if random.one_in(2) {
            let ttl_ms = one_of(random, &[0, 0, 0, 2_500]);
            let max_siblings = one_of(random, &[8, 8, 32]) as u16;
            tables.push(Table { mode: Mode::Siblings, max_siblings, ttl_ms, ..named(CARTS, of_carts) });
        }
        let cores = [2, 2, 1, 3][random.below(4) as usize];
        let stores = one_of(random, &[4, 4, 3, 6]) as u16;
        let vnodes = one_of(random, &[16, 16, 4, 32]) as u32;
        let value_bytes_max = one_of(random, &[64, 1024, 4096, 4096, LARGE_BYTES]);
        let options = Options::draw(random, value_bytes_max);
        let shape = Shape::of(nodes, tables, vnodes, HashSeed(random.bits()));
        let cores = vec![Cell::new(cores); nodes];
        Shape { cores, stores, value_bytes_max, options, ..shape }
    }

    /// Makes some of the options odd.
    pub(super) fn draw_odd(&mut self, random: &mut Random) {
        self.options.draw_odd(random, self.value_bytes_max);
    }

    /// Makes a bound tight.
    pub(super) fn draw_tight(&mut self, random: &mut Random) {
        self.options.draw_tight(random);
    }

    /// Three nodes as servers are by default, with these tables.
    pub(super) fn plain(tables: Vec<Table>) -> Shape {
        Shape::of(3, tables, 16, HashSeed(7))
    }

    fn of(nodes: usize, tables: Vec<Table>, vnodes: u32, hash_seed: HashSeed) -> Shape {
        let member = |node: usize| Member {
            id: NodeId(node as u16 + 1),
            name: format!("n{}", node + 1),
            rack: format!("r{}", node + 1),
            datacenter: "dc1".to_owned(),
            contact: address(node, 0),
            weight: 1,
        };
        let members: Vec<Member> = (0..nodes).map(member).collect();
        let tables = Tables::new(tables).expect("the tables of a run are sound");
        let options = Options {
            memtable_bytes: 96 * 1024,
            segment_bytes: 128 * 1024,
            group_bytes: 64 * 1024,
            cache_bytes: 64 * 1024,
            record_cache_bytes: None,
            large_value_bytes: None,
            level_fanout: 4,
            sync_interval_ns: None,
            drift_max_ms: 500,
            peer_timeout_ns: SECOND,
            request_timeout_ns: SECOND,
            operations_max: 65_536,
            waiting_bytes_max: 32 << 20,
            disk_reads_max: 4_096,
            scrub_bytes_per_s: 0,
            ping_interval_ns: SECOND / 4,
            reconnect_pause_max_ns: SECOND,
            half_sent_timeout_ns: 5 * SECOND,
            mark_after_ns: 100 * MS,
            operation_bytes_max: 32 << 20,
            hop_backlog_bytes_max: 16 << 20,
            hints: HintOptions::default(),
            gossip: gossip_options(),
            is_often_compared: false,
        };
        Shape {
            nodes,
            cores: vec![Cell::new(2); nodes],
            stores: 4,
            value_bytes_max: 4096,
            options,
            topology: initial_topology(ClusterId([9; 16]), hash_seed, vnodes, &members, tables),
        }
    }

    /// For each node its contact address, then one for each core that it may have.
    pub(super) fn addresses(&self) -> Vec<Vec<String>> {
        let of_node = |node| (0..=usize::from(CORES_MAX)).map(|place| address(node, place)).collect();
        (0..self.nodes).map(of_node).collect()
    }

    /// The table of a key, by its number.
    pub(super) fn table_of(&self, key: u64) -> &Table {
        let tables = &self.topology.tables;
        let carts = tables.named(CARTS).filter(|_| key % 3 == 2);
        let narrow = tables.named(NARROW).filter(|_| key % 2 == 1);
        carts.or(narrow).unwrap_or(&tables.as_slice()[0])
    }

    /// A key by its number, under this name.
    pub(super) fn key<'k>(&self, key: u64, name: &'k [u8]) -> Key<'k> {
        Key { table: self.table_of(key).id, partition: name, sort: b"" }
    }

    /// The nodes that hold a key, the preferred one first.
    pub(super) fn replicas_of(&self, key: u64) -> impl Iterator<Item = usize> {
        let name = key.to_be_bytes();
        let vnodes = self.topology.replicas.len() as u32;
        let vnode = self.key(key, &name).token(self.topology.hash_seed).vnode(vnodes);
        let count = usize::from(self.table_of(key).replication);
        self.topology.preference_list(vnode)[..count].iter().map(|node| usize::from(node.0) - 1)
    }

    /// The same, in no order.
    pub(super) fn holders_of(&self, key: u64) -> Holders {
        Holders::of(self.replicas_of(key))
    }

    /// Each vnode's replicas are on distinct nodes, as many as were asked for.
    pub(super) fn check_placement(&self) -> Result<(), Violation> {
        let repeats = |list: &Vec<NodeId>| (1..list.len()).any(|at| list[..at].contains(&list[at]));
        let wanted = self.topology.tables.replication_max().min(self.nodes);
        let lists = &self.topology.replicas;
        match lists.iter().position(|list| list.len() != wanted || repeats(list)) {
            None => Ok(()),
            Some(vnode) => {
                let what = format!("vnode {vnode} has the replicas {:?}", lists[vnode]);
                Err(Violation { key: vnode as u64, what })
            }
        }
    }

    /// How many cores a node has, or will have when it is started.
    pub(super) fn cores_of(&self, node: usize) -> u16 {
        self.cores[node].get()
    }

    /// Gives a node another number of cores from its next start on.
    pub(super) fn set_cores(&self, node: usize, cores: u16) {
        assert!((1..=CORES_MAX).contains(&cores), "{cores} cores");
        self.cores[node].set(cores);
    }

    /// Starts a node.
    pub(super) fn start(&self, world: &Rc<World>, node: usize) {
        let (options, topology) = (self.options.clone(), self.topology.clone());
        let (cores, stores) = (self.cores_of(node), self.stores);
        world.start(node, Start { world: world.clone(), node, cores, stores, options, topology });
    }
}

/// A start of a node.
struct Start {
    world: Rc<World>,
    node: usize,
    cores: u16,
    stores: u16,
    options: Options,
    topology: Topology,
}

impl Launch for Start {
    fn cores(&self) -> u16 {
        self.cores
    }

    fn stores(&self) -> u16 {
        self.stores
    }

    fn engine(&self, core: u16, stores: Vec<u16>) -> ferrite_lsm::Options {
        let entropy = u128::from(self.world.random()) << 64 | u128::from(self.world.random());
        let mut engine = ferrite_lsm::Options::new(core, stores, entropy);
        engine.table.token_seed = Some(self.topology.hash_seed.0);
        self.options.apply_to_engine(&mut engine);
        engine
    }

    fn deal(&self, stores: u16, cores: u16) -> Placement {
        Placement::deal(&self.topology, NodeId(self.node as u16 + 1), stores, cores)
    }

    fn settings(&self, layout: &Layout, core: u16, incarnation: u64) -> ShardSettings {
        let (id, cores) = (NodeId(self.node as u16 + 1), self.cores);
        let mut topology = self.topology.clone();
        let stores = self.stores.max(layout.stores());
        let placement = Placement::keep(&topology, id, stores, cores, layout.vnodes().iter().copied());
        let entry = &mut topology.nodes[self.node];
        entry.incarnation = incarnation;
        entry.endpoints = (1..=usize::from(cores)).map(|place| address(self.node, place)).collect();
        entry.core_of_vnode = placement.core_map();
        let mut engine = self.engine(layout.core_number(core), placement.stores_of(CoreId(core)));
        engine.layout = Some(layout.mark(core));
        let mut settings =
            ShardSettings::new(id, CoreId(core), cores, incarnation, topology, placement, engine);
        self.options.apply(&mut settings);
        settings
    }
}

/// A table of this name, otherwise like the default one.
pub(super) fn named(name: &str, replication: u8) -> Table {
    Table { id: TableId::of(name), name: name.to_owned(), ..Table::default_of(replication) }
}

/// Where a core of a node is reached: the contact address comes first.
pub(super) fn address(node: usize, place: usize) -> String {
    format!("10.0.0.{}:{}", node + 1, 7000 + place)
}
