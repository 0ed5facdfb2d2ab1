//! The world: virtual time, an ordered queue of what happens next, and the nodes, clients, disks and wires it happens to.
//!
//! One step takes the earliest event, tells whoever it concerns, runs every task that this woke, and lets the batch end: what
//! was written leaves, timers are asked for, disk operations that were called get their completion scheduled. Nothing is
//! borrowed while a handler or a task runs, for they call back.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::future::Future;
use std::rc::Rc;
use std::task::{Poll, Waker};

use ferrite_lsm::Sync;
use ferrite_lsm::mem_disk::{Fault, MemDisk, OpId, OpKind, ReadFault};
use ferrite_node::{Connection, Handler, Hop, Received, Sent, Shard};
use ferrite_wire::CoreId;

use crate::env::SimEnv;
use crate::executor::{Executor, ProcessId};
use crate::network::{Network, Owner, QUEUED_BYTES_MAX, SocketId};
use crate::random::Random;
use crate::trace::Trace;

/// Most hops that wait for a core.
const HOPS_MAX: usize = 64;

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
    /// A sleeping task wakes.
    Wake(u64),
    /// A client acts.
    Client(usize),
    /// The fault schedule acts.
    Fault,
}

/// How likely the disks misbehave; each is "one in so many", 0 = never.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DiskFaults {
    /// A read fails with EIO.
    pub(crate) read_one_in: u64,
    /// A synced write or a sync fails.
    pub(crate) sync_one_in: u64,
    /// An operation takes long.
    pub(crate) slow_one_in: u64,
}

/// One core of a running process.
struct Core {
    shard: Option<Rc<Shard<SimEnv>>>,
    timer_ns: Option<u64>,
    hops_waiting: usize,
}

/// A running process.
struct Process {
    id: ProcessId,
    cores: Vec<Core>,
    disk: MemDisk,
    last_op: Option<OpId>,
    /// Until when it does nothing at all, as under SIGSTOP.
    paused_until_ns: u64,
}

/// A node: its disk outlives its processes.
struct Node {
    addresses: Vec<String>,
    process: Option<Process>,
    /// What the last process left on the disk.
    disk: MemDisk,
    lives: u32,
    wall_offset_ms: i64,
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
    faults_seen: RefCell<BTreeMap<&'static str, u64>>,
    failed_opens: RefCell<Vec<(usize, String)>>,
    wall_start_ms: u64,
}

impl World {
    /// An empty world for a seed; node `i` is reached at `addresses[i]`: the contact address, then one per core.
    pub(crate) fn new(seed: u64, addresses: Vec<Vec<String>>) -> Rc<World> {
        let node =
            |addresses| Node { addresses, process: None, disk: MemDisk::new(), lives: 0, wall_offset_ms: 0 };
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
            faults_seen: RefCell::default(),
            failed_opens: RefCell::default(),
            wall_start_ms: 1_700_000_000_000,
        })
    }

    /// Virtual time, in nanoseconds.
    pub(crate) fn now_ns(&self) -> u64 {
        self.now_ns.get()
    }

    /// A node's wall clock, in milliseconds.
    pub(crate) fn wall_ms(&self, node: usize) -> u64 {
        let offset = self.nodes.borrow()[node].wall_offset_ms;
        (self.wall_start_ms + self.now_ns.get() / 1_000_000).saturating_add_signed(offset)
    }

    /// Sets a node's wall clock off by so much.
    pub(crate) fn set_wall_offset_ms(&self, node: usize, offset_ms: i64) {
        self.nodes.borrow_mut()[node].wall_offset_ms = offset_ms;
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
    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.faults_seen.borrow().clone()
    }

    /// Sets how likely disks misbehave.
    pub(crate) fn set_disk_faults(&self, faults: DiskFaults) {
        self.disk_faults.set(faults);
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

    /// Adds a task.
    pub(crate) fn spawn(&self, process: ProcessId, task: impl Future<Output = ()> + 'static) {
        self.executor.borrow_mut().spawn(process, task);
    }

    /// A future that is ready after some virtual time.
    pub(crate) fn sleep(self: Rc<World>, nanoseconds: u64) -> impl Future<Output = ()> + 'static {
        let until_ns = self.now_ns.get() + nanoseconds;
        std::future::poll_fn(move |context| {
            if self.now_ns.get() >= until_ns {
                return Poll::Ready(());
            }
            let id = self.sequence.get();
            self.at(until_ns, Event::Wake(id));
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
        let failed = std::mem::take(&mut *self.failed_opens.borrow_mut());
        for (node, error) in failed {
            director.on_open_failed(self, node, error);
        }
        true
    }

    fn happen(self: &Rc<World>, event: Event, director: &dyn Director) {
        match event {
            Event::Arrival(socket) => self.arrive(socket, director),
            Event::Connect(socket, address) => self.reach(socket, &address),
            Event::Connected(socket, stands) => self.connected(socket, stands, director),
            Event::Hop(process, core, from, message) => {
                self.note(4, [process.node as u64, u64::from(core), u64::from(from.0)]);
                if self.postpone(process, || Event::Hop(process, core, from, message.clone())) {
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
                if self.postpone(process, || Event::Timer(process, core)) {
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
            Event::Wake(id) => {
                let waker = self.sleepers.borrow_mut().remove(&id);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            Event::Client(client) => director.on_client(self, client),
            Event::Fault => director.on_fault(self),
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

    /// A paused process sees its events when it goes on.
    fn postpone(&self, process: ProcessId, event: impl FnOnce() -> Event) -> bool {
        let until_ns = match &self.nodes.borrow()[process.node].process {
            Some(running) if running.id == process => running.paused_until_ns,
            Some(_) | None => 0,
        };
        if until_ns > self.now_ns() {
            self.at(until_ns, event());
            return true;
        }
        false
    }

    fn run_tasks(self: &Rc<World>) {
        loop {
            let running = self.executor.borrow_mut().take_woken();
            let Some(mut running) = running else { break };
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
                let open = process.cores.iter().enumerate();
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

/// Disks.
impl World {
    fn schedule_disk(&self) {
        let mut calls = Vec::new();
        for node in self.nodes.borrow_mut().iter_mut() {
            let Some(process) = node.process.as_mut() else { continue };
            for operation in process.disk.in_flight(process.last_op) {
                process.last_op = Some(operation.id);
                calls.push((process.id, operation.id));
            }
        }
        for (process, operation) in calls {
            let slow = self.disk_faults.get().slow_one_in;
            let mut random = self.random.borrow_mut();
            let slow = slow > 0 && random.one_in(slow);
            let latency_ns =
                if slow { random.between(2_000_000, 30_000_000) } else { random.between(20_000, 200_000) };
            drop(random);
            self.after(latency_ns, Event::Disk(process, operation));
        }
    }

    fn complete(&self, process: ProcessId, operation: OpId) {
        let disk = {
            let nodes = self.nodes.borrow();
            match &nodes[process.node].process {
                Some(running) if running.id == process => running.disk.clone(),
                Some(_) | None => return,
            }
        };
        self.note(6, [process.node as u64, operation.0, 0]);
        let faults = self.disk_faults.get();
        let before = operation.0.checked_sub(1).map(OpId);
        let Some(info) = disk.in_flight(before).into_iter().next().filter(|info| info.id == operation) else {
            return;
        };
        let one_in = |times: u64| times > 0 && self.random.borrow_mut().one_in(times);
        if info.kind == OpKind::Read {
            if one_in(faults.read_one_in) {
                self.count("read failed");
                disk.fail_read(operation, ReadFault::Io);
                return;
            }
        } else if matches!(info.kind, OpKind::Write(Sync::Data) | OpKind::Sync) && one_in(faults.sync_one_in)
        {
            self.count("sync failed");
            disk.fail(operation, Fault::Io);
            return;
        }
        disk.complete(operation);
    }
}

/// Connections.
impl World {
    /// Lets a core write to a connection.
    pub(crate) fn send(
        &self,
        process: ProcessId,
        core: u16,
        connection: Connection,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> Sent {
        let mut network = self.network.borrow_mut();
        let Some(id) = network.of_core(process, core, connection) else { return Sent::Gone };
        let peer = network.sockets.get(&id).and_then(|socket| socket.peer);
        if peer.is_some_and(|peer| network.queued_bytes(peer) > QUEUED_BYTES_MAX) {
            return Sent::Full;
        }
        let Some(socket) = network.sockets.get_mut(&id) else { return Sent::Gone };
        let mut outbox = std::mem::take(&mut socket.outbox);
        drop(network);
        encode(&mut outbox);
        if let Some(socket) = self.network.borrow_mut().sockets.get_mut(&id) {
            socket.outbox = outbox;
        }
        self.dirty.borrow_mut().push(id);
        Sent::Queued
    }

    /// Lets a client write.
    pub(crate) fn client_send(&self, socket: SocketId, bytes: &[u8]) {
        if let Some(socket) = self.network.borrow_mut().sockets.get_mut(&socket) {
            socket.outbox.extend_from_slice(bytes);
        }
        self.dirty.borrow_mut().push(socket);
    }

    fn flush_sockets(&self) {
        let dirty = std::mem::take(&mut *self.dirty.borrow_mut());
        dirty.into_iter().for_each(|id| self.flush_socket(id));
    }

    /// Sends what a socket has queued, in pieces, each later than the last.
    fn flush_socket(&self, id: SocketId) {
        let mut network = self.network.borrow_mut();
        let Some(socket) = network.sockets.get_mut(&id) else { return };
        let mut bytes = std::mem::take(&mut socket.outbox);
        if bytes.is_empty() {
            return;
        }
        self.trace.borrow_mut().note_bytes(&bytes);
        let Some(peer) = socket.peer else { return };
        let mut arrivals = Vec::new();
        if let Some(target) = network.sockets.get_mut(&peer) {
            let mut time_ns = target.arriving.back().map_or(0, |(at, _)| *at).max(self.now_ns());
            while !bytes.is_empty() {
                let mut random = self.random.borrow_mut();
                let cut = if random.one_in(8) {
                    random.between(1, bytes.len() as u64) as usize
                } else {
                    bytes.len()
                };
                time_ns += if random.one_in(50) {
                    random.between(1_000_000, 20_000_000)
                } else {
                    random.between(10_000, 300_000)
                };
                let rest = bytes.split_off(cut);
                target.arriving.push_back((time_ns, bytes));
                arrivals.push(time_ns);
                bytes = rest;
            }
        }
        drop(network);
        arrivals.into_iter().for_each(|time_ns| self.at(time_ns, Event::Arrival(peer)));
    }

    /// A core starts to connect.
    pub(crate) fn connect(&self, process: ProcessId, core: u16, address: &str) -> Connection {
        let (id, connection) = self.network.borrow_mut().open_for_core(process, core);
        let latency_ns = self.between(20_000, 500_000);
        self.after(latency_ns, Event::Connect(id, address.to_owned()));
        connection
    }

    /// A client starts to connect.
    pub(crate) fn client_connect(&self, client: usize, address: &str) -> SocketId {
        let id = self.network.borrow_mut().open_for_client(client);
        let latency_ns = self.between(20_000, 500_000);
        self.after(latency_ns, Event::Connect(id, address.to_owned()));
        id
    }

    /// An attempt reaches its address: somebody listens there, or not.
    fn reach(&self, id: SocketId, address: &str) {
        let Some(owner) = self.network.borrow().sockets.get(&id).map(|socket| socket.owner) else { return };
        let listener = {
            let nodes = self.nodes.borrow();
            nodes.iter().enumerate().find_map(|(node, at)| {
                let place = at.addresses.iter().position(|known| known == address)?;
                // The contact address comes first and is served by core 0.
                Some((node, at.process.as_ref().map(|process| process.id), place.saturating_sub(1) as u16))
            })
        };
        let Some((node, process, core)) = listener else {
            return self.after(1_000, Event::Connected(id, false));
        };
        let from = Network::node_of(owner);
        let cut = from.is_some_and(|from| {
            let network = self.network.borrow();
            network.cut.contains(&(from, node)) || network.cut.contains(&(node, from))
        });
        if cut {
            // Nobody answers; the attempt hangs until it is given up.
            return;
        }
        let accepting = process.and_then(|process| self.shard(process, core).map(|shard| (process, shard)));
        match accepting {
            Some((process, shard)) => {
                let (other, connection) = self.network.borrow_mut().open_for_core(process, core);
                self.network.borrow_mut().join(id, other);
                shard.on_accepted(connection);
                self.after(10_000, Event::Connected(id, true));
            }
            None => self.after(10_000, Event::Connected(id, false)),
        }
    }

    fn connected(self: &Rc<World>, id: SocketId, stands: bool, director: &dyn Director) {
        let Some(owner) = self.network.borrow().sockets.get(&id).map(|socket| socket.owner) else { return };
        self.note(2, [id, u64::from(stands), 0]);
        if !stands {
            self.network.borrow_mut().close(id, None);
        }
        match owner {
            Owner::Client(client) => director.on_client_connected(self, client, id, stands),
            Owner::Core(process, core, connection) => {
                if let Some(shard) = self.shard(process, core) {
                    if stands { shard.on_connected(connection) } else { shard.on_closed(connection) }
                }
            }
        }
    }

    fn arrive(self: &Rc<World>, id: SocketId, director: &dyn Director) {
        let Some(owner) = self.network.borrow().sockets.get(&id).map(|socket| socket.owner) else { return };
        if let Owner::Core(process, ..) = owner
            && self.postpone(process, || Event::Arrival(id))
        {
            return;
        }
        if !self.network.borrow().is_open(id) {
            return self.after(5_000_000, Event::Arrival(id));
        }
        let now_ns = self.now_ns();
        let (inbox, closed) = {
            let mut network = self.network.borrow_mut();
            let Some(socket) = network.sockets.get_mut(&id) else { return };
            let mut arrived = false;
            while socket.arriving.front().is_some_and(|(at, _)| *at <= now_ns) {
                let (_, piece) = socket.arriving.pop_front().expect("just seen");
                socket.inbox.extend_from_slice(&piece);
                arrived = true;
            }
            let closed = socket.arriving.is_empty() && socket.closing.is_some_and(|at| at <= now_ns);
            (arrived.then(|| std::mem::take(&mut socket.inbox)), closed)
        };
        if let Some(inbox) = inbox {
            self.note(1, [id, inbox.len() as u64, 0]);
            let used = match owner {
                Owner::Client(client) => Some(director.on_client_bytes(self, client, id, &inbox)),
                Owner::Core(process, core, connection) => match self.shard(process, core) {
                    Some(shard) => match shard.on_received(connection, &inbox) {
                        Received::Consumed { used, .. } => Some(used),
                        Received::Close => None,
                    },
                    None => None,
                },
            };
            match used {
                Some(used) => {
                    if let Some(socket) = self.network.borrow_mut().sockets.get_mut(&id) {
                        socket.inbox = inbox[used..].to_vec();
                    }
                }
                None => self.shut(id),
            }
        }
        if closed && self.network.borrow_mut().close(id, None).is_none() {
            self.note(3, [id, 0, 0]);
            match owner {
                Owner::Client(client) => director.on_client_closed(self, client, id),
                Owner::Core(process, core, connection) => {
                    if let Some(shard) = self.shard(process, core) {
                        shard.on_closed(connection);
                    }
                }
            }
        }
    }

    /// A core closes a connection: what is queued leaves first.
    pub(crate) fn close(&self, process: ProcessId, core: u16, connection: Connection) {
        let id = self.network.borrow().of_core(process, core, connection);
        if let Some(id) = id {
            self.shut(id);
        }
    }

    /// Closes a socket from its own side.
    pub(crate) fn shut(&self, id: SocketId) {
        self.flush_socket(id);
        let known_ns = self.now_ns() + self.between(20_000, 1_000_000);
        let peer = self.network.borrow_mut().close(id, Some(known_ns));
        if let Some(peer) = peer {
            let last_ns = self.network.borrow().sockets[&peer].arriving.back().map_or(0, |(at, _)| *at);
            self.at(known_ns.max(last_ns), Event::Arrival(peer));
        }
    }

    /// A core sends to another of its process.
    pub(crate) fn hop(&self, process: ProcessId, from: u16, to: CoreId, message: Hop) -> Result<(), Hop> {
        let room = self.core_mut(process, to.0, |core| {
            let room = core.hops_waiting < HOPS_MAX;
            core.hops_waiting += usize::from(room);
            room
        });
        if room != Some(true) {
            return Err(message);
        }
        let latency_ns = self.between(1_000, 50_000);
        self.after(latency_ns, Event::Hop(process, to.0, CoreId(from), message));
        Ok(())
    }

    /// Cuts or heals the direction from one node to another.
    pub(crate) fn set_cut(&self, from: usize, to: usize, is_cut: bool) {
        let mut network = self.network.borrow_mut();
        if is_cut {
            network.cut.insert((from, to))
        } else {
            network.cut.remove(&(from, to))
        };
    }

    /// Heals everything.
    pub(crate) fn heal(&self) {
        self.network.borrow_mut().cut.clear();
    }
}

/// How a process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Death {
    /// The power fails; of what was not synced the mode decides. Nobody is told.
    PowerCut(ferrite_lsm::mem_disk::CrashMode),
    /// SIGKILL: what was written is seen by the next life; connections are reset.
    Kill,
}

/// Processes.
impl World {
    /// Whether a node's process runs.
    pub(crate) fn is_running(&self, node: usize) -> bool {
        self.nodes.borrow()[node].process.is_some()
    }

    /// Whether any core of a node is fenced.
    pub(crate) fn is_fenced(&self, node: usize) -> bool {
        let nodes = self.nodes.borrow();
        let fenced = |core: &Core| core.shard.as_ref().is_some_and(|shard| shard.is_fenced());
        nodes[node].process.as_ref().is_some_and(|process| process.cores.iter().any(fenced))
    }

    /// The disk of a node.
    pub(crate) fn disk(&self, node: usize) -> MemDisk {
        let nodes = self.nodes.borrow();
        nodes[node].process.as_ref().map_or_else(|| nodes[node].disk.clone(), |process| process.disk.clone())
    }

    /// Starts a node's process with so many cores; `settings` makes each core's, given its number and a random incarnation.
    pub(crate) fn start(
        self: &Rc<World>,
        node: usize,
        cores: u16,
        settings: impl Fn(u16, u64) -> ferrite_node::ShardSettings,
    ) {
        let process = {
            let mut nodes = self.nodes.borrow_mut();
            let at = &mut nodes[node];
            assert!(at.process.is_none(), "a node runs one process");
            at.lives += 1;
            let id = ProcessId { node, life: at.lives };
            at.disk.defer();
            let core = || Core { shard: None, timer_ns: None, hops_waiting: 0 };
            at.process = Some(Process {
                id,
                cores: (0..cores).map(|_| core()).collect(),
                disk: at.disk.clone(),
                last_op: None,
                paused_until_ns: 0,
            });
            id
        };
        self.note(7, [node as u64, u64::from(process.life), 0]);
        let disk = self.disk(node);
        let incarnation = self.random();
        for core in 0..cores {
            let env = SimEnv { world: self.clone(), process, core, disk: disk.clone() };
            let settings = settings(core, incarnation);
            let world = self.clone();
            self.spawn(process, async move {
                match Shard::open(env, settings).await {
                    Ok(shard) => {
                        world.core_mut(process, core, |core| core.shard = Some(shard));
                    }
                    Err(error) => world.failed_opens.borrow_mut().push((process.node, error.to_string())),
                }
            });
        }
    }

    /// Ends a node's process.
    pub(crate) fn stop(self: &Rc<World>, node: usize, death: Death) {
        let Some(process) = self.nodes.borrow_mut()[node].process.take() else { return };
        self.note(8, [node as u64, u64::from(process.id.life), 0]);
        let mut bits = || self.random.borrow_mut().bits();
        let left = match death {
            Death::PowerCut(mode) => process.disk.crash(mode, &mut bits),
            Death::Kill => process.disk.kill(&mut bits),
        };
        self.nodes.borrow_mut()[node].disk = left;
        let tasks = self.executor.borrow_mut().take_process(process.id);
        let sockets = self.network.borrow().of_process(process.id);
        for socket in sockets {
            let known_ns = match death {
                Death::PowerCut(_) => None,
                Death::Kill => Some(self.now_ns() + self.between(20_000, 500_000)),
            };
            let peer = self.network.borrow_mut().close(socket, known_ns);
            if let (Some(peer), Some(known_ns)) = (peer, known_ns) {
                self.at(known_ns, Event::Arrival(peer));
            }
        }
        drop(tasks);
        drop(process);
    }

    /// Stops the clock of a node's process for a while.
    pub(crate) fn pause(&self, node: usize, nanoseconds: u64) {
        let until_ns = self.now_ns() + nanoseconds;
        if let Some(process) = self.nodes.borrow_mut()[node].process.as_mut() {
            process.paused_until_ns = until_ns;
        }
    }
}
