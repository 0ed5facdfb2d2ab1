//! A run of the set test: clients that add to sets, a node that is cut off now and then, and what is left in the end.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

use ferrite_wire::{Level, Mode, Order, Reply, Request, Table};

use super::frames::{Came, each_frame, greeting, question};
use super::shape::{CARTS, Shape, address, named};
use super::{FORMING_NS, HEALING_NS, MS, SECOND, SETTLE_NS};
use crate::bug::Planted;
use crate::network::SocketId;
use crate::random::Random;
use crate::set_test::SetCounts;
use crate::world::{Director, Event, World};

/// Clients, as many to each node.
const CLIENTS: usize = 6;
/// Sets.
const KEYS: u64 = 8;
/// How long they are added to.
const WORK_NS: u64 = 6 * SECOND;
/// Longest pause of a client between two requests.
const THINK_MS_MAX: u64 = 20;
/// Between two changes of what is cut off, on average.
const FAULT_PAUSE_NS: u64 = 400 * MS;
/// A request without an answer is given up after so long.
const PATIENCE_NS: u64 = 1_500 * MS;

/// What a client waits for.
#[derive(Clone, Debug)]
enum Wait {
    /// A set, to put an element in.
    Get { key: u64, element: u64 },
    /// That a put is acknowledged; whether its client's node was cut off when it was sent, if any was.
    Put { element: u64, of_minority: Option<bool> },
    /// A set, at the end.
    Last { key: u64 },
}

#[derive(Debug, Default)]
struct Client {
    socket: Option<SocketId>,
    greeted: bool,
    requests: u64,
    seen: Order,
    waits: Option<(u64, u64, Wait)>,
}

/// A run.
pub(crate) struct Adding {
    shape: Shape,
    random: RefCell<Random>,
    clients: RefCell<Vec<Client>>,
    is_over: Cell<bool>,
    /// The node that is cut off.
    cut: Cell<Option<usize>>,
    elements: Cell<u64>,
    acknowledged: RefCell<BTreeSet<u64>>,
    counts: Cell<SetCounts>,
    /// Sets that are still to be read.
    left: RefCell<Vec<u64>>,
    outstanding: Cell<usize>,
    found: RefCell<BTreeSet<u64>>,
}

impl Adding {
    /// Makes the run of a seed, in a table of this mode.
    pub(crate) fn go(seed: u64, mode: Mode) -> Result<SetCounts, String> {
        let _planted = Planted::new(None);
        let max_siblings = if mode == Mode::Siblings { 32 } else { 0 };
        let mut random = Random::new(seed);
        let sets = Table { mode, max_siblings, ..named(CARTS, 3) };
        let shape = Shape::plain(vec![Table::default_of(3), sets]);
        let world = World::new(random.bits(), shape.addresses());
        let adding = Adding {
            shape,
            random: RefCell::new(random),
            clients: RefCell::new((0..CLIENTS).map(|_| Client::default()).collect()),
            is_over: Cell::new(false),
            cut: Cell::new(None),
            elements: Cell::new(0),
            acknowledged: RefCell::default(),
            counts: Cell::default(),
            left: RefCell::default(),
            outstanding: Cell::new(0),
            found: RefCell::default(),
        };
        let counts = adding.play(&world).ok_or_else(|| format!("seed {seed}: some set could not be read"));
        world.end();
        ferrite_lsm::cover::take();
        counts
    }

    fn play(&self, world: &Rc<World>) -> Option<SetCounts> {
        (0..self.shape.nodes).for_each(|node| self.shape.start(world, node));
        self.run_until(world, world.now_ns() + FORMING_NS, || false);
        (0..CLIENTS).for_each(|client| world.after(client as u64 * MS, Event::Client(client)));
        world.after(FAULT_PAUSE_NS, Event::Fault);
        self.run_until(world, world.now_ns() + WORK_NS, || false);
        self.is_over.set(true);
        world.heal();
        self.run_until(world, world.now_ns() + HEALING_NS, || false);
        self.outstanding.set(KEYS as usize);
        *self.left.borrow_mut() = (0..KEYS).map(key_of).collect();
        self.run_until(world, world.now_ns() + SETTLE_NS, || self.outstanding.get() == 0);
        let lost = self.acknowledged.borrow().difference(&self.found.borrow()).count() as u64;
        (self.outstanding.get() == 0).then_some(SetCounts { lost, ..self.counts.get() })
    }

    fn run_until(&self, world: &Rc<World>, until_ns: u64, done: impl Fn() -> bool) {
        while !done() && world.step(until_ns, self) {}
    }

    fn draw(&self, bound: u64) -> u64 {
        self.random.borrow_mut().below(bound)
    }

    /// The node that a client speaks to: always the same, so that both sides of a partition have clients.
    fn node_of(&self, client: usize) -> usize {
        client % self.shape.nodes
    }

    fn send(&self, world: &World, client: usize, request: &Request<'_>, wait: Wait) {
        let mut clients = self.clients.borrow_mut();
        let state = &mut clients[client];
        let Some(socket) = state.socket else { return };
        state.requests += 1;
        state.waits = Some((state.requests, world.now_ns(), wait));
        let bytes = question(request.kind(), state.requests, state.seen, |out| request.encode(out));
        drop(clients);
        world.client_send(socket, &bytes);
    }

    fn get(&self, world: &World, client: usize, level: Level, key: u64, wait: Wait) {
        let name = key.to_be_bytes();
        let epoch = self.shape.topology.epoch;
        let request = Request::Get { epoch, level, options: 0, key: self.shape.key(key, &name) };
        self.send(world, client, &request, wait);
    }

    fn put(&self, world: &World, client: usize, key: u64, element: u64, context: &[u8], set: BTreeSet<u64>) {
        let value = set.iter().flat_map(|element| element.to_le_bytes()).collect::<Vec<_>>();
        let name = key.to_be_bytes();
        let (epoch, key, level) = (self.shape.topology.epoch, self.shape.key(key, &name), Level::One);
        let request = Request::Put { epoch, level, options: 0, key, ttl_ms: 0, context, value: &value };
        let of_minority = self.cut.get().map(|cut| cut == self.node_of(client));
        self.send(world, client, &request, Wait::Put { element, of_minority });
    }

    /// What a client was answered; what it does then.
    fn on_reply(&self, world: &World, client: usize, request: u64, reply: &Reply<'_>) {
        let waits = self.clients.borrow_mut()[client].waits.take_if(|(waited, ..)| *waited == request);
        let Some((_, _, wait)) = waits else { return };
        let (mut set, mut context) = (BTreeSet::new(), &b""[..]);
        match reply {
            Reply::Value { value, .. } => set.extend(elements_of(value)),
            Reply::Siblings { siblings, .. } => {
                context = siblings.context();
                siblings.iter().for_each(|sibling| set.extend(elements_of(sibling.value)));
            }
            _ => {}
        }
        let is_found = !matches!(reply, Reply::Error { .. });
        match wait {
            Wait::Get { key, element } if is_found => {
                set.insert(element);
                self.put(world, client, key, element, context, set);
            }
            Wait::Put { element, of_minority } if is_found => {
                self.acknowledged.borrow_mut().insert(element);
                let mut counts = self.counts.get();
                counts.added += 1;
                counts.added_by_minority += u64::from(of_minority == Some(true));
                counts.added_by_majority += u64::from(of_minority == Some(false));
                self.counts.set(counts);
            }
            Wait::Last { .. } if is_found => {
                self.found.borrow_mut().extend(set);
                self.outstanding.set(self.outstanding.get() - 1);
            }
            Wait::Last { key } => self.left.borrow_mut().push(key),
            Wait::Get { .. } | Wait::Put { .. } => {}
        }
    }

    fn saw(&self, client: usize, order: Order) {
        let state = &mut self.clients.borrow_mut()[client];
        state.seen = state.seen.max(order);
    }
}

/// The key of a set: every third one is of the table that the sets are in.
fn key_of(set: u64) -> u64 {
    3 * set + 2
}

fn elements_of(value: &[u8]) -> impl Iterator<Item = u64> {
    value.chunks_exact(8).map(|chunk| u64::from_le_bytes(chunk.try_into().expect("eight bytes")))
}

impl Director for Adding {
    fn on_client(&self, world: &Rc<World>, client: usize) {
        let now_ns = world.now_ns();
        world.after((1 + self.draw(THINK_MS_MAX)) * MS, Event::Client(client));
        let (socket, greeted, waits) = {
            let clients = self.clients.borrow();
            (clients[client].socket, clients[client].greeted, clients[client].waits.clone())
        };
        match (socket, waits) {
            (None, _) => {
                let place = self.draw(u64::from(self.shape.cores_of(self.node_of(client))) + 1) as usize;
                let socket = world.client_connect(client, &address(self.node_of(client), place));
                let state = &mut self.clients.borrow_mut()[client];
                (state.socket, state.greeted) = (Some(socket), false);
            }
            (Some(socket), Some((_, since_ns, _))) if now_ns - since_ns > PATIENCE_NS => {
                self.on_client_closed(world, client, socket);
                world.shut(socket);
            }
            (Some(_), None) if greeted && self.is_over.get() => {
                let next = self.left.borrow_mut().pop();
                if let Some(key) = next {
                    self.get(world, client, Level::All, key, Wait::Last { key });
                }
            }
            (Some(_), None) if greeted => {
                self.elements.set(self.elements.get() + 1);
                let (key, element) = (key_of(self.draw(KEYS)), self.elements.get());
                self.get(world, client, Level::One, key, Wait::Get { key, element });
            }
            (Some(_), _) => {}
        }
    }

    fn on_client_connected(&self, world: &Rc<World>, client: usize, socket: SocketId, stands: bool) {
        match stands {
            true => world.client_send(socket, &greeting(self.shape.topology.cluster)),
            false => self.clients.borrow_mut()[client].socket = None,
        }
    }

    fn on_client_bytes(&self, world: &Rc<World>, client: usize, _: SocketId, bytes: &[u8]) -> usize {
        each_frame(bytes, |came| match came.expect("servers speak the protocol") {
            Came::Greeting(time) => {
                self.clients.borrow_mut()[client].greeted = true;
                self.saw(client, time);
            }
            Came::Answer(request, time, reply) => {
                self.saw(client, time);
                self.on_reply(world, client, request, &reply);
            }
        })
    }

    fn on_client_closed(&self, _: &Rc<World>, client: usize, _: SocketId) {
        let state = &mut self.clients.borrow_mut()[client];
        state.socket = None;
        if let Some((_, _, Wait::Last { key })) = state.waits.take() {
            self.left.borrow_mut().push(key);
        }
    }

    fn on_fault(&self, world: &Rc<World>) {
        if self.is_over.get() {
            return;
        }
        match self.cut.take() {
            Some(_) => world.heal(),
            None => {
                let node = self.draw(self.shape.nodes as u64) as usize;
                for other in (0..self.shape.nodes).filter(|other| *other != node) {
                    world.set_cut(node, other, true);
                    world.set_cut(other, node, true);
                }
                self.cut.set(Some(node));
            }
        }
        world.after(FAULT_PAUSE_NS / 2 + self.draw(FAULT_PAUSE_NS), Event::Fault);
    }

    fn on_open_failed(&self, _: &Rc<World>, node: usize, error: String) {
        panic!("node {} does not open on a sound disk: {error}", node + 1);
    }

    fn on_stop_forgotten(&self, _: &Rc<World>, node: usize) {
        panic!("node {} does not know that it stopped in order", node + 1);
    }
}
