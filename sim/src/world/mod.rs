//! The world: virtual time, an ordered queue of what happens next, and the nodes, clients, disks and wires it happens to.
//!
//! One step takes the earliest event, tells whoever it concerns, runs every task that this woke, and lets the batch end: what
//! was written leaves, timers are asked for, disk operations that were called get their completion scheduled. Nothing is
//! borrowed while a handler or a task runs, for they call back.

mod connections;
mod disks;
mod messages;
mod processes;

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::future::Future;
use std::rc::Rc;
use std::task::{Poll, Waker};

use ferrite_lsm::mem_disk::{MemDisk, OpId};
use ferrite_node::{Handler, HintCounts, Hop, Shard};
use ferrite_wire::CoreId;

use crate::counts::ByName;
use crate::env::SimEnv;
use crate::executor::{Executor, ProcessId};
use crate::network::{Network, SocketId};
use crate::random::Random;
use crate::trace::Trace;

pub(crate) use connections::ConnectionFaults;
pub(crate) use disks::{DiskFaults, Untrusted};
pub(crate) use messages::MessageFaults;
pub(crate) use processes::{Death, Launch};

/// Where the wall clocks start: some day in 2023, in milliseconds.
const WALL_START_MS: u64 = 1_700_000_000_000;

/// What happens.
#[derive(Debug)]
pub(crate) enum Event {
    /// Bytes may have arrived at a socket, or its end is known.
    Arrival(SocketId),
    /// A connection attempt reaches its address.
    Connect(SocketId, String),
    /// An attempt has succeeded (true) or failed.
    Connected(SocketId, bool),
    /// A message between cores arrives.
    Hop(ProcessId, u16, CoreId, Hop),
    /// A core's timer.
    Timer(ProcessId, u16),
    /// A disk operation completes.
    Disk(ProcessId, OpId),
    /// A sleeping task of a process wakes.
    Wake(ProcessId, u64),
    /// A task may run whose core stood still.
    Resume(u64),
    /// A client acts.
    Client(usize),
    /// The fault schedule acts.
    Fault,
    /// A connection breaks that was doomed when it was made.
    Break(SocketId),
    /// A message leaves a socket that was late, or is repeated.
    Message(SocketId, Vec<u8>),
}

/// One core of a running process.
struct Core {
    shard: Option<Rc<Shard<SimEnv>>>,
    timer_ns: Option<u64>,
    hops_waiting: usize,
    /// Until when it does nothing at all, while the others of its process go on.
    stalled_until_ns: u64,
}

/// A running process.
struct Process {
    id: ProcessId,
    cores: Vec<Core>,
    disk: MemDisk,
    last_op: Option<OpId>,
    started_ns: u64,
    /// Until when it does nothing at all, as under SIGSTOP.
    paused_until_ns: u64,
    /// When it was asked to stop: each core ends when it has drained.
    stopping_ns: Option<u64>,
    /// Each core that has ended has closed its log.
    is_closed: bool,
}

/// A node: its disk outlives its processes.
struct Node {
    addresses: Vec<String>,
    process: Option<Process>,
    /// What the last process left on the disk.
    disk: MemDisk,
    lives: u32,
    /// Where the last process left the disk; 0 = another one was put in its place.
    place: u64,
    /// By how much its wall clock was off when it was set last, when that was, and how fast it has run since, in thousandths.
    wall_offset_ns: i64,
    wall_set_ns: u64,
    wall_rate_permille: u64,
    /// Nothing that is asked of its disk from now on is done.
    is_stalled: bool,
    /// Its disk has no room left.
    is_full: bool,
    /// The last process ended by itself, and closed the log of each of its cores.
    is_closed: bool,
}

/// Told of everything that concerns clients and faults; the rest of the world is told of nothing else.
pub(crate) trait Director {
    /// A client's time to act has come.
    fn on_client(&self, world: &Rc<World>, client: usize);
    /// A client's connection stands, or could not be made.
    fn on_client_connected(&self, world: &Rc<World>, client: usize, socket: SocketId, stands: bool);
    /// Bytes for a client: everything unconsumed; returns how many were consumed.
    fn on_client_bytes(&self, world: &Rc<World>, client: usize, socket: SocketId, bytes: &[u8]) -> usize;
    /// A client's connection is gone.
    fn on_client_closed(&self, world: &Rc<World>, client: usize, socket: SocketId);
    /// The next fault is due.
    fn on_fault(&self, world: &Rc<World>);
    /// A node could not start.
    fn on_open_failed(&self, world: &Rc<World>, node: usize, error: String);
    /// A node that had stopped in order does not know it.
    fn on_stop_forgotten(&self, world: &Rc<World>, node: usize);
}

/// The world.
pub(crate) struct World {
    now_ns: Cell<u64>,
    sequence: Cell<u64>,
    events: RefCell<BinaryHeap<Reverse<(u64, u64)>>>,
    what: RefCell<BTreeMap<u64, Event>>,
    random: RefCell<Random>,
    trace: RefCell<Trace>,
    network: RefCell<Network>,
    executor: RefCell<Executor>,
    nodes: RefCell<Vec<Node>>,
    sleepers: RefCell<BTreeMap<u64, Waker>>,
    dirty: RefCell<Vec<SocketId>>,
    disk_faults: Cell<DiskFaults>,
    untrusted: Cell<Option<Untrusted>>,
    /// The disk that cannot be trusted has damaged something.
    damage: Cell<bool>,
    connections: Cell<ConnectionFaults>,
    messages: Cell<MessageFaults>,
    faults_seen: RefCell<ByName>,
    failed_opens: RefCell<Vec<(usize, String)>>,
    forgotten_stops: RefCell<Vec<usize>>,
    /// What cores that have ended did with hints.
    hints: RefCell<HintCounts>,
    wall_start_ms: u64,
    /// Woken tasks run in a random order rather than that of waking.
    shuffles: bool,
}

impl World {
    /// An empty world for a seed; node `i` is reached at `addresses[i]`: the contact address, then one per core.
    pub(crate) fn new(seed: u64, addresses: Vec<Vec<String>>) -> Rc<World> {
        let node = |addresses| Node {
            addresses,
            process: None,
            disk: MemDisk::new(),
            lives: 0,
            place: 0,
            wall_offset_ns: 0,
            wall_set_ns: 0,
            wall_rate_permille: 1_000,
            is_stalled: false,
            is_full: false,
            is_closed: false,
        };
        Rc::new(World {
            now_ns: Cell::new(1_000_000_000),
            sequence: Cell::new(0),
            events: RefCell::default(),
            what: RefCell::default(),
            random: RefCell::new(Random::new(seed)),
            trace: RefCell::default(),
            network: RefCell::default(),
            executor: RefCell::default(),
            nodes: RefCell::new(addresses.into_iter().map(node).collect()),
            sleepers: RefCell::default(),
            dirty: RefCell::default(),
            disk_faults: Cell::default(),
            untrusted: Cell::default(),
            damage: Cell::default(),
            connections: Cell::default(),
            messages: Cell::default(),
            faults_seen: RefCell::default(),
            failed_opens: RefCell::default(),
            forgotten_stops: RefCell::default(),
            hints: RefCell::default(),
            wall_start_ms: WALL_START_MS,
            shuffles: seed.is_multiple_of(2),
        })
    }

    /// Virtual time, in nanoseconds.
    pub(crate) fn now_ns(&self) -> u64 {
        self.now_ns.get()
    }

    /// What a wall clock shows that is right, in milliseconds.
    pub(crate) fn true_wall_ms(&self) -> u64 {
        self.wall_start_ms + self.now_ns.get() / 1_000_000
    }

    /// A node's wall clock, in milliseconds.
    pub(crate) fn wall_ms(&self, node: usize) -> u64 {
        // In nanoseconds, so that rounding does not set it back.
        let wall_ns = self.wall_start_ms * 1_000_000 + self.now_ns.get();
        wall_ns.saturating_add_signed(self.wall_offset_ns(node)) / 1_000_000
    }

    /// By how much a node's wall clock is off, in nanoseconds.
    fn wall_offset_ns(&self, node: usize) -> i64 {
        let Node { wall_offset_ns, wall_set_ns, wall_rate_permille, .. } = self.nodes.borrow()[node];
        let elapsed_ns = (self.now_ns.get() - wall_set_ns) as i64;
        wall_offset_ns + elapsed_ns * (wall_rate_permille as i64 - 1_000) / 1_000
    }

    /// Random bits.
    pub(crate) fn random(&self) -> u64 {
        self.random.borrow_mut().bits()
    }

    /// A random number from `low` to `high`.
    pub(crate) fn between(&self, low: u64, high: u64) -> u64 {
        self.random.borrow_mut().between(low, high)
    }

    /// The trace so far.
    pub(crate) fn trace(&self) -> Trace {
        *self.trace.borrow()
    }

    /// Counts a fault by kind.
    pub(crate) fn count(&self, kind: &'static str) {
        *self.faults_seen.borrow_mut().entry(kind).or_default() += 1;
    }

    /// Faults by kind.
    pub(crate) fn counts(&self) -> ByName {
        self.faults_seen.borrow().clone()
    }

    /// Schedules an event.
    pub(crate) fn at(&self, time_ns: u64, event: Event) {
        let sequence = self.sequence.get();
        self.sequence.set(sequence + 1);
        self.events.borrow_mut().push(Reverse((time_ns.max(self.now_ns.get()), sequence)));
        self.what.borrow_mut().insert(sequence, event);
    }

    /// Schedules an event after some time.
    pub(crate) fn after(&self, nanoseconds: u64, event: Event) {
        self.at(self.now_ns.get() + nanoseconds, event);
    }

    /// Adds a task of a core.
    pub(crate) fn spawn(&self, process: ProcessId, core: u16, task: impl Future<Output = ()> + 'static) {
        self.executor.borrow_mut().spawn(process, core, task);
    }

    /// A future that is ready after some virtual time.
    pub(crate) fn sleep(
        self: Rc<World>,
        process: ProcessId,
        nanoseconds: u64,
    ) -> impl Future<Output = ()> + 'static {
        let until_ns = self.now_ns.get() + nanoseconds;
        std::future::poll_fn(move |context| {
            if self.now_ns.get() >= until_ns {
                return Poll::Ready(());
            }
            let id = self.sequence.get();
            self.at(until_ns, Event::Wake(process, id));
            self.sleepers.borrow_mut().insert(id, context.waker().clone());
            Poll::Pending
        })
    }

    /// Takes the next event and all that follows from it. False = nothing is left to happen before `until_ns`.
    pub(crate) fn step(self: &Rc<World>, until_ns: u64, director: &dyn Director) -> bool {
        let next = self.events.borrow().peek().map(|Reverse(next)| *next);
        let Some((time_ns, sequence)) = next.filter(|(time_ns, _)| *time_ns <= until_ns) else {
            self.now_ns.set(until_ns.max(self.now_ns.get()));
            return false;
        };
        self.events.borrow_mut().pop();
        let event = self.what.borrow_mut().remove(&sequence).expect("every queued event is known");
        self.now_ns.set(time_ns);
        self.happen(event, director);
        self.run_tasks();
        self.end_batch();
        self.end_drained();
        let failed = std::mem::take(&mut *self.failed_opens.borrow_mut());
        for (node, error) in failed {
            director.on_open_failed(self, node, error);
        }
        let forgotten = std::mem::take(&mut *self.forgotten_stops.borrow_mut());
        forgotten.into_iter().for_each(|node| director.on_stop_forgotten(self, node));
        true
    }

    fn happen(self: &Rc<World>, event: Event, director: &dyn Director) {
        match event {
            Event::Arrival(socket) => self.arrive(socket, director),
            Event::Connect(socket, address) => self.reach(socket, &address),
            Event::Connected(socket, stands) => self.connected(socket, stands, director),
            Event::Hop(process, core, from, message) => {
                self.note(4, [process.node as u64, u64::from(core), u64::from(from.0)]);
                if self.postpone(process, Some(core), || Event::Hop(process, core, from, message.clone())) {
                    return;
                }
                if let Some(running) = self.nodes.borrow_mut()[process.node].process.as_mut()
                    && running.id == process
                {
                    running.cores[core as usize].hops_waiting -= 1;
                }
                if let Some(shard) = self.shard(process, core) {
                    shard.on_hop(from, message);
                }
            }
            Event::Timer(process, core) => {
                if self.postpone(process, Some(core), || Event::Timer(process, core)) {
                    return;
                }
                let set_ns = self.core_mut(process, core, |core| core.timer_ns).flatten();
                let due = set_ns.is_some_and(|at| at <= self.now_ns());
                if due {
                    self.core_mut(process, core, |core| core.timer_ns = None);
                    if let Some(shard) = self.shard(process, core) {
                        self.note(5, [process.node as u64, u64::from(core), 0]);
                        shard.on_timer(self.now_ns());
                    }
                }
            }
            Event::Disk(process, operation) => self.complete(process, operation),
            Event::Wake(process, id) => {
                if self.postpone(process, None, || Event::Wake(process, id)) {
                    return;
                }
                let waker = self.sleepers.borrow_mut().remove(&id);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            Event::Resume(task) => self.executor.borrow_mut().wake(task),
            Event::Client(client) => director.on_client(self, client),
            Event::Fault => director.on_fault(self),
            Event::Break(socket) => self.break_connection(socket),
            Event::Message(socket, message) => self.on_message(socket, message),
        }
    }

    fn note(&self, kind: u8, numbers: [u64; 3]) {
        self.trace.borrow_mut().note(self.now_ns.get(), kind, numbers);
    }

    fn core_mut<R>(&self, process: ProcessId, core: u16, act: impl FnOnce(&mut Core) -> R) -> Option<R> {
        let mut nodes = self.nodes.borrow_mut();
        let running = nodes[process.node].process.as_mut().filter(|running| running.id == process)?;
        running.cores.get_mut(core as usize).map(act)
    }

    fn shard(&self, process: ProcessId, core: u16) -> Option<Rc<Shard<SimEnv>>> {
        self.core_mut(process, core, |core| core.shard.clone()).flatten()
    }

    /// Until when a process, or this core of it, does nothing.
    fn still_until_ns(&self, process: ProcessId, core: Option<u16>) -> u64 {
        match &self.nodes.borrow()[process.node].process {
            Some(running) if running.id == process => {
                let core = core.and_then(|core| running.cores.get(usize::from(core)));
                running.paused_until_ns.max(core.map_or(0, |core| core.stalled_until_ns))
            }
            Some(_) | None => 0,
        }
    }

    /// A paused process sees its events when it goes on, and so does a core that stands still.
    fn postpone(&self, process: ProcessId, core: Option<u16>, event: impl FnOnce() -> Event) -> bool {
        let until_ns = self.still_until_ns(process, core);
        if until_ns > self.now_ns() {
            self.at(until_ns, event());
            return true;
        }
        false
    }

    /// Lets go of everything, tasks first: they hold the world, and the world holds them.
    pub(crate) fn end(&self) {
        let tasks = self.executor.borrow_mut().take_all();
        let processes: Vec<_> =
            self.nodes.borrow_mut().iter_mut().filter_map(|node| node.process.take()).collect();
        let sleepers = std::mem::take(&mut *self.sleepers.borrow_mut());
        drop((tasks, sleepers, processes));
    }

    fn run_tasks(self: &Rc<World>) {
        loop {
            let waiting = self.executor.borrow().woken();
            let turn = if self.shuffles && waiting > 1 { self.between(0, waiting as u64 - 1) } else { 0 };
            let running = self.executor.borrow_mut().take_woken(turn as usize);
            let Some(mut running) = running else { break };
            let (process, core) = running.core();
            let until_ns = self.still_until_ns(process, Some(core));
            if until_ns > self.now_ns() {
                self.at(until_ns, Event::Resume(running.id()));
                self.executor.borrow_mut().put_back(running, false);
                continue;
            }
            let ended = running.poll();
            self.executor.borrow_mut().put_back(running, ended);
            self.schedule_disk();
        }
    }

    /// The end of a batch, for every core: groups start, bytes leave, timers are set.
    fn end_batch(self: &Rc<World>) {
        let cores: Vec<(ProcessId, u16, Rc<Shard<SimEnv>>)> = {
            let nodes = self.nodes.borrow();
            let of = |process: &Process| {
                let id = process.id;
                let runs = |core: &Core| core.stalled_until_ns <= self.now_ns();
                let open = process.cores.iter().enumerate().filter(move |(_, core)| runs(core));
                open.filter_map(move |(at, core)| Some((id, at as u16, core.shard.clone()?)))
                    .collect::<Vec<_>>()
            };
            nodes
                .iter()
                .filter_map(|node| node.process.as_ref())
                .filter(|p| p.paused_until_ns <= self.now_ns())
                .flat_map(of)
                .collect()
        };
        for (_, _, shard) in &cores {
            shard.on_batch_end();
        }
        self.run_tasks();
        self.schedule_disk();
        self.flush_sockets();
        for (process, core, shard) in &cores {
            let wanted = shard.next_timer();
            let set = self.core_mut(*process, *core, |core| match wanted {
                Some(at) if core.timer_ns.is_none_or(|set| at < set) => {
                    core.timer_ns = Some(at);
                    Some(at)
                }
                _ => None,
            });
            if let Some(Some(at)) = set {
                self.at(at, Event::Timer(*process, *core));
            }
        }
    }
}
