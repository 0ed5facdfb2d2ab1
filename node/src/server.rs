//! A node's process: checks, cores, signals, and the way down.
//!
//! The thread that calls [`serve`] starts one thread per core and then waits: for a signal, or for a core that ended by
//! itself. Either way all cores are told to stop, each drains and syncs, and only then does `serve` return.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::rc::Rc;

use crossbeam_channel::{Receiver, Sender, unbounded};
use ferrite_cluster::Member;
use ferrite_cluster::gossip::SEEDS_MAX;
use ferrite_lsm::OpenError;
use ferrite_lsm::layout::Layout;
use ferrite_wire::{CoreId, DecodeError, Topology, limits};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::Placement;
use crate::config::{ByteSize, CommitlogSync, Compaction, Config, Gossip, Hints, Node, Spin};
use crate::identity::DataDirectory;
use crate::layout;
use crate::memory::{self, CoreMemory};
use crate::place::Place;
use crate::reactor::{CoreError, CoreSetup, PEER_CONNECTIONS, ReactorOptions, mailboxes, run_core};
use crate::shard::{Joining, Shard, ShardSettings, UNLISTED_MAX};
use crate::startup::{self, StartupError};
use crate::table_shapes;

/// A read that waits for the disk is allowed for so many bytes of a core's reserve: a task of some kilobytes, beside its block, which is counted elsewhere.
const DISK_READ_BYTES: usize = 16 * 1024;
/// Fewest of them that a core may have under way.
const DISK_READS_MIN: usize = 64;

/// What the shortest answer takes while it waits for another core, with what keeps it, in bytes.
const HOP_ANSWER_BYTES: usize = 192;
/// Fewest questions to other cores that may be in flight.
const HOPS_MIN: usize = 1024;
/// Fewest parts of requests of many keys that may be: four of the longest requests.
const PARTS_MIN: usize = 4 * limits::MULTI_GET_KEYS_MAX;

/// Most connections that wait to be accepted, per port.
const ACCEPT_BACKLOG: u16 = 1024;

/// Why a node ended other than by being told to.
#[derive(Debug)]
pub enum ServeError {
    /// It could not start.
    Startup(StartupError),
    /// The cluster is too large for a topology to travel in one frame.
    TooLarge(DecodeError),
    /// The system refused a thread, a descriptor or a signal handler.
    System(io::Error),
    /// A core ended.
    Core {
        /// Which.
        core: CoreId,
        /// Why.
        error: CoreError<OpenError>,
    },
    /// A core's thread panicked: a bug.
    Panicked(CoreId),
    /// A sync failed on every core: nothing can be written until the device is well and the node starts again.
    AllFenced,
}

impl ServeError {
    /// What the process exits with.
    pub fn exit_code(&self) -> u8 {
        match self {
            ServeError::Startup(error) => error.exit_code(),
            ServeError::TooLarge(_) => startup::EXIT_CONFIGURATION,
            // The data is sound; it is the configuration that has changed.
            ServeError::Core {
                error: CoreError::Shard(OpenError::MovedVnode(_) | OpenError::TooLittle { .. }),
                ..
            } => startup::EXIT_CONFIGURATION,
            ServeError::System(_)
            | ServeError::Core { .. }
            | ServeError::Panicked(_)
            | ServeError::AllFenced => startup::EXIT_ENVIRONMENT,
        }
    }
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServeError::Startup(error) => write!(f, "{error}"),
            ServeError::TooLarge(error) => {
                write!(
                    f,
                    "this many nodes, vnodes and replicas do not fit together: {error}; use fewer vnodes"
                )
            }
            ServeError::System(error) => write!(f, "the system refused a thread or descriptor: {error}"),
            ServeError::Core { core, error } => write!(f, "core {}: {error}", core.0),
            ServeError::Panicked(core) => write!(f, "core {} panicked; see the log above", core.0),
            ServeError::AllFenced => {
                write!(
                    f,
                    "a sync failed on every core: check the device, then start the node again to recover"
                )
            }
        }
    }
}

impl std::error::Error for ServeError {}

impl From<StartupError> for ServeError {
    fn from(error: StartupError) -> Self {
        ServeError::Startup(error)
    }
}

impl From<io::Error> for ServeError {
    fn from(error: io::Error) -> Self {
        ServeError::System(error)
    }
}

/// Runs `node` until SIGTERM or SIGINT, then drains. `ready` is called once all cores accept connections.
pub fn serve(config: &Config, node: &Node, ready: impl FnOnce(&Started)) -> Result<(), ServeError> {
    let startup::Ready { cpus, memory, directory } = startup::prepare(config, node)?;
    let offset_ms = config.testing.clock_offset_ms;
    if offset_ms != 0 {
        tracing::warn!(offset_ms, "the configuration sets this node's clock off: for tests only");
    }
    let cores = cpus.len() as u16;
    let topology = initial_topology(config);
    topology.check().map_err(ServeError::TooLarge)?;
    // Before signals are taken: a change that takes long may be ended at any time, and is done again.
    let plan = Plan::new(config, node, (cores, memory), topology);
    let layout = layout::settle(&plan, cpus[0], &directory)?;
    // Stores are never fewer than there were.
    memory::check(memory, &config.server, cores, plan.stores.max(layout.stores()))?;
    table_shapes::settle(directory.path(), &config.tables).map_err(StartupError::Tables)?;
    let plan = plan.placed(node, layout, Place::take(directory.path()));
    let (posts, boxes) = mailboxes(cpus.len(), plan.plan.memory.reserve.mail)?;
    // Signals are taken before threads exist, so that no thread is killed by one.
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let handle = signals.handle();
    let (events, happened) = unbounded();
    let signalled = events.clone();
    let watcher = std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in &mut signals {
            signalled.send(Event::Signal(signal)).ok();
        }
    })?;
    let mut threads = Vec::new();
    for (mailbox, (at, cpu)) in boxes.into_iter().zip(cpus.iter().enumerate()) {
        let core = CoreId(at as u16);
        let Listening { listeners, contact } = Listening::start(node, core)?;
        let setup = CoreSetup {
            core,
            cpu: Some(*cpu),
            listeners,
            data: directory.path().to_owned(),
            held: Some(directory.lock()?),
            options: plan.plan.reactor,
            disk: plan.plan.memory.disk,
            mailbox,
            posts: posts.clone(),
        };
        // Whoever lists this node goes by what is written there; whoever does not, by what this node says.
        let settings = ShardSettings { resolved: contact, ..plan.settings(core) };
        let events = events.clone();
        let name = format!("core-{at}");
        threads.push(std::thread::Builder::new().name(name).spawn(move || run(setup, settings, &events))?);
    }
    let outcome =
        supervise(&happened, cores, &Started { topology: plan.plan.topology, cores, directory }, ready);
    posts.iter().for_each(|post| post.stop());
    let mut ended = outcome;
    for (at, thread) in threads.into_iter().enumerate() {
        let core = CoreId(at as u16);
        match thread.join() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => ended = worse(ended, ServeError::Core { core, error }),
            Err(_) => ended = Err(ServeError::Panicked(core)),
        }
    }
    handle.close();
    watcher.join().ok();
    ended
}

/// What is told of a node one more of whose cores has ended with an error: the first, but one that did not stop in order may have been told to because of another.
fn worse(ended: Result<(), ServeError>, error: ServeError) -> Result<(), ServeError> {
    match ended {
        Ok(()) | Err(ServeError::Core { error: CoreError::Disorder(_), .. }) => Err(error),
        Err(first) => Err(first),
    }
}

/// A node that has started.
#[derive(Debug)]
pub struct Started {
    /// Members and placement, with this node's endpoints.
    pub topology: Topology,
    /// How many cores it has.
    pub cores: u16,
    /// The data directory, locked.
    pub directory: DataDirectory,
}

enum Event {
    Signal(i32),
    Ready,
    Fenced,
    Ended,
}

/// Waits until the node is to stop.
fn supervise(
    happened: &Receiver<Event>,
    cores: u16,
    started: &Started,
    ready: impl FnOnce(&Started),
) -> Result<(), ServeError> {
    let mut ready = Some(ready);
    let (mut opened, mut fenced) = (0, 0);
    while let Ok(event) = happened.recv() {
        match event {
            Event::Ready => {
                opened += 1;
                if opened == cores
                    && let Some(ready) = ready.take()
                {
                    ready(started);
                }
            }
            Event::Fenced => {
                fenced += 1;
                if fenced == cores {
                    return Err(ServeError::AllFenced);
                }
            }
            Event::Signal(signal) => {
                tracing::info!(signal, "stopping: draining requests and syncing the log");
                return Ok(());
            }
            Event::Ended => return Ok(()),
        }
    }
    Ok(())
}

/// Runs one core on this thread.
fn run(
    setup: CoreSetup,
    settings: ShardSettings,
    events: &Sender<Event>,
) -> Result<(), CoreError<OpenError>> {
    /// Says that the thread has ended, also when it panics.
    struct Farewell<'e>(&'e Sender<Event>);
    impl Drop for Farewell<'_> {
        fn drop(&mut self) {
            self.0.send(Event::Ended).ok();
        }
    }
    let _farewell = Farewell(events);
    let events = events.clone();
    run_core(setup, move |env| async move {
        let told = events.clone();
        let shard: Rc<Shard<_>> = Shard::open(env, settings).await?;
        shard.on_fence(move || {
            told.send(Event::Fenced).ok();
        });
        events.send(Event::Ready).ok();
        Ok(shard)
    })
}

/// What is the same for all cores of the node.
#[derive(Clone)]
pub(crate) struct Plan {
    topology: Topology,
    pub(crate) reactor: ReactorOptions,
    pub(crate) memory: CoreMemory,
    pub(crate) cores: u16,
    /// Stores that the configuration asks for; there may be more.
    pub(crate) stores: u16,
    node: ferrite_wire::NodeId,
    server: crate::config::Server,
    gossip: Gossip,
    joining: Vec<Joining>,
    hints: Hints,
}

/// A plan for data that is laid out.
struct Placed {
    plan: Plan,
    placement: Placement,
    layout: Layout,
    incarnation: u64,
    place: Place,
}

impl Plan {
    /// `memory` is the whole node's.
    fn new(config: &Config, node: &Node, (cores, memory): (u16, ByteSize), topology: Topology) -> Plan {
        let stores = config.server.stores_for(cores as usize) as u16;
        let spin_us = match config.server.spin {
            Spin::Off => 0,
            Spin::For(time) => time.as_micros() as u64,
            Spin::Auto => ReactorOptions::default().spin_us,
        };
        let clock_offset_ms = config.testing.clock_offset_ms;
        let memory = CoreMemory::of(memory, &config.server, cores);
        let defaults = ReactorOptions::default();
        // Each core of each other node connects to each core here, and may do so anew before the old connection has gone; gossip does so once a node.
        let others = config.nodes.len().saturating_sub(1);
        // And so does the gossip of nodes that are not listed, and of seeds.
        let unlisted = 2 * UNLISTED_MAX + SEEDS_MAX;
        let peer_connections = PEER_CONNECTIONS.max(2 * others * (usize::from(cores) + 1)) + unlisted;
        let connections_max = defaults.connections_max - defaults.peer_connections + peer_connections;
        let reactor = ReactorOptions {
            spin_us,
            in_all_bytes_max: memory.reserve.coming,
            clock_offset_ms,
            out_all_bytes_max: memory.reserve.unread,
            peer_connections,
            connections_max,
            ..defaults
        };
        let (server, gossip, hints) = (config.server.clone(), config.gossip.clone(), config.hints.clone());
        let joining = config.nodes.iter().filter(|node| node.joining).map(|node| Joining {
            node: node.id,
            name: node.name.clone(),
            contact: node.address.to_string(),
        });
        let joining = joining.collect();
        Plan { topology, reactor, memory, cores, stores, node: node.id, server, gossip, joining, hints }
    }

    /// Where a first start puts this node's vnodes.
    pub(crate) fn deal(&self, stores: u16, cores: u16) -> Placement {
        Placement::deal(&self.topology, self.node, stores, cores)
    }

    /// Gives every vnode of this node its store and core.
    fn placed(mut self, node: &Node, layout: Layout, place: Place) -> Placed {
        let stores = self.stores.max(layout.stores());
        let placement =
            Placement::keep(&self.topology, self.node, stores, self.cores, layout.vnodes().iter().copied());
        let incarnation = random_u64();
        if let Ok(at) = self.topology.nodes.binary_search_by_key(&node.id, |entry| entry.id) {
            let entry = &mut self.topology.nodes[at];
            entry.incarnation = incarnation;
            entry.endpoints =
                (0..self.cores).map(|core| node.core_address(CoreId(core)).to_string()).collect();
            entry.core_of_vnode = placement.core_map();
        }
        Placed { plan: self, placement, layout, incarnation, place }
    }

    /// How the engine of a core is opened; `core` names its directory.
    pub(crate) fn engine(&self, core: u16, stores: Vec<u16>) -> ferrite_lsm::Options {
        let entropy = u128::from(random_u64()) << 64 | u128::from(random_u64());
        let mut engine = ferrite_lsm::Options::new(core, stores, entropy);
        self.memory.apply(&mut engine);
        engine.table.token_seed = Some(self.topology.hash_seed.0);
        engine.large_value_bytes = Some(self.server.large_value_threshold.0 as usize);
        engine.strategy = match self.server.compaction {
            Compaction::Leveled => ferrite_lsm::Strategy::Leveled,
            Compaction::Tiered => ferrite_lsm::Strategy::Tiered,
        };
        engine
    }
}

impl Placed {
    fn settings(&self, core: CoreId) -> ShardSettings {
        let server = &self.plan.server;
        let number = self.layout.core_number(core.0);
        let mut engine = self.plan.engine(number, self.placement.stores_of(core));
        engine.layout = Some(self.layout.mark(core.0));
        let mut settings = ShardSettings::new(
            self.plan.node,
            core,
            self.plan.cores,
            self.incarnation,
            self.plan.topology.clone(),
            self.placement.clone(),
            engine,
        );
        settings.place = self.place;
        settings.value_bytes_max = (server.max_value_size.0 as usize).min(limits::VALUE_BYTES_MAX);
        let reserve = self.plan.memory.reserve;
        settings.waiting_bytes_max = settings.waiting_bytes_max.min(reserve.waiting);
        settings.operation_bytes_max = settings.operation_bytes_max.min(reserve.operations);
        settings.hop_backlog_bytes_max = settings.hop_backlog_bytes_max.min(reserve.backlog);
        let hops_max = (reserve.hops / HOP_ANSWER_BYTES).max(HOPS_MIN);
        settings.hops_max = settings.hops_max.min(hops_max);
        settings.parts_max = settings.parts_max.min(hops_max.max(PARTS_MIN));
        settings.debt_bytes_max = settings.debt_bytes_max.min(reserve.debts);
        settings.apart_bytes_max = settings.apart_bytes_max.min(reserve.apart);
        settings.disk_reads_max =
            settings.disk_reads_max.min((reserve.bytes / DISK_READ_BYTES).max(DISK_READS_MIN));
        settings.reserve_bytes = reserve.bytes;
        settings.gossip = self.plan.gossip.options.clone();
        settings.seeds = self.plan.gossip.seeds.iter().map(ToString::to_string).collect();
        settings.joining = self.plan.joining.clone();
        settings.hints = self.plan.hints.options.clone();
        settings.forget_hints_for = self.plan.hints.forget.clone();
        settings.forget_held_back_for = self.plan.hints.forget_held_back.clone();
        settings.request_timeout_ns = server.request_timeout.as_nanos() as u64;
        settings.scrub_bytes_per_s = server.scrub_rate.0;
        settings.clock_drift_max_ms = server.max_clock_drift.as_millis() as u64;
        settings.sync_interval_ns = match server.commitlog_sync {
            CommitlogSync::Batch => None,
            CommitlogSync::Periodic(every) => {
                settings.engine.log.sync = ferrite_lsm::log::CommitlogSync::Periodic;
                Some(every.as_nanos() as u64)
            }
        };
        settings
    }
}

/// Members and replica lists as the configuration determines them: the same on every node, whether it lists who is joining or not.
pub fn initial_topology(config: &Config) -> Topology {
    let members: Vec<Member> = config
        .nodes
        .iter()
        .filter(|node| !node.joining)
        .map(|node| Member {
            id: node.id,
            name: node.name.clone(),
            rack: node.rack.clone(),
            datacenter: node.datacenter.clone(),
            contact: node.address.to_string(),
            weight: 1,
        })
        .collect();
    let cluster = &config.cluster;
    ferrite_cluster::initial_topology(
        cluster.id,
        cluster.hash_seed,
        cluster.vnodes,
        &members,
        config.tables.clone(),
    )
}

/// Where a core accepts connections.
struct Listening {
    listeners: Vec<TcpListener>,
    /// What the node's contact address leads to, on the core that serves it.
    contact: Option<SocketAddr>,
}

impl Listening {
    /// Core 0 serves the contact port beside its own. What its name leads to is what is listened at: asked for a second time, it may lead nowhere.
    fn start(node: &Node, core: CoreId) -> Result<Listening, StartupError> {
        let mut listeners = vec![listen(&node.core_address(core).to_string())?];
        let mut contact = None;
        if core.0 == 0 {
            let address = node.address.to_string();
            let listener = listen(&address)?;
            let bound = listener.local_addr();
            contact = Some(bound.map_err(|error| startup::listen_error(&address, error))?);
            listeners.push(listener);
        }
        Ok(Listening { listeners, contact })
    }
}

fn listen(address: &str) -> Result<TcpListener, StartupError> {
    let attempt = || -> io::Result<TcpListener> {
        let resolved = address.to_socket_addrs()?.next().ok_or(io::ErrorKind::NotFound)?;
        crate::ring::listen(resolved, ACCEPT_BACKLOG)
    };
    attempt().map_err(|error| startup::listen_error(address, error))
}

fn random_u64() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // Each hasher's keys come from the system's random source.
    std::hash::RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "[cluster]\nname = \"c\"\nid = \"8c1f7d2a54e94f0b9a3c6b1de2f40718\"\nhash_seed = \"1f3a90c2d4e5b687\"\n\
                        vnodes = 64\nreplication = 2\n";

    fn config(nodes: &[(u16, bool)]) -> Config {
        let node = |(id, joining): &(u16, bool)| {
            format!(
                "\n[[nodes]]\nname = \"n{id}\"\nid = {id}\naddress = \"127.0.0.1:{}\"\ndata = \"n{id}\"\ncores = 2\njoining = {joining}\n",
                7000 + 10 * id
            )
        };
        let text = TEXT.to_owned() + &nodes.iter().map(node).collect::<String>();
        Config::parse(&text, std::path::Path::new("ferrite.toml")).expect("a correct file")
    }

    #[test]
    fn placement_is_the_same_whether_a_node_that_is_joining_is_listed_or_not() {
        let without = initial_topology(&config(&[(2, false), (7, false)]));
        assert_eq!(initial_topology(&config(&[(2, false), (5, true), (7, false)])), without);
        assert!(without.replicas.iter().all(|list| list.len() == 2));
        assert_ne!(initial_topology(&config(&[(2, false), (5, false), (7, false)])), without);
    }

    /// It was looked up beside what was listened at: where that failed for a moment the node said that it was nowhere, and whoever did not list it never found it.
    #[test]
    fn where_a_node_says_that_it_is_is_where_it_listens() {
        let (contact, Listening { listeners, contact: said }) = loop {
            // Ports that nobody has at this moment; somebody may have taken one by the next.
            let free = [0, 1].map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"));
            let [contact, own] = free.map(|listener| listener.local_addr().expect("it is bound").port());
            let text = format!(
                "{TEXT}[[nodes]]\nname = \"n2\"\nid = 2\naddress = \"localhost:{contact}\"\nports = [{own}]\ndata = \"n2\"\ncores = 1\n"
            )
            .replace("replication = 2", "replication = 1");
            let config = Config::parse(&text, std::path::Path::new("ferrite.toml")).expect("a correct file");
            match Listening::start(&config.nodes[0], CoreId(0)) {
                Err(StartupError::PortInUse { .. }) => {}
                listening => break (contact, listening.expect("the ports are free")),
            }
        };
        let said = said.expect("the first core serves it");
        assert!(said.ip().is_loopback() && said.port() == contact && listeners.len() == 2);
        std::net::TcpStream::connect(said).expect("it is there");
    }
    /// Cores that are stopped because one could not start may not stop in order, and hid why that one had not.
    #[test]
    fn what_went_wrong_first_is_told_and_not_what_came_of_it() {
        let of = |core: u16, error| ServeError::Core { core: CoreId(core), error };
        let disorder = |core| of(core, CoreError::Disorder("its log is not closed".to_owned()));
        let moved = || of(1, CoreError::Shard(OpenError::MissingStore(3)));
        let told = |ended: Result<(), ServeError>| ended.expect_err("an error").to_string();
        assert_eq!(told(worse(Ok(()), disorder(0))), disorder(0).to_string());
        assert_eq!(told(worse(Err(disorder(0)), moved())), moved().to_string());
        assert_eq!(told(worse(Err(moved()), disorder(2))), moved().to_string());
        assert_eq!(told(worse(Err(ServeError::AllFenced), disorder(0))), ServeError::AllFenced.to_string());
    }
}
