//! Simulated clients: they speak the real frames, each with one request in flight, and judge every answer.
//!
//! A client is a session: it keeps the highest order that any node has told it of, in whatever frame, and tells that to whichever node it is connected to.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use ferrite_promises::Violation;
use ferrite_wire::{FrameKind, Level, Order, Request};

use super::frames::{Came, each_frame, greeting, question};
use super::reads::Read;
use super::shape::address;
use super::writes::Write;
use super::{MS, Phase, Scenario, Task};
use crate::network::SocketId;
use crate::world::{Event, World};

/// A server that is silent for so long is given up on.
const PATIENCE_NS: u64 = 1_500 * MS;
/// A client with nothing in flight closes its connection once in so many turns.
const LEAVES_ONE_IN: u64 = 200;
/// One write in so many is a multi-put.
const MULTI_PUT_ONE_IN: u64 = 12;

/// The wall clock of the node that a request went to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wall {
    pub(super) ms: u64,
    /// No node judges by an earlier time what has expired.
    pub(super) earliest_ms: u64,
    /// How often it had been set.
    pub(super) jumps: u64,
}

/// What a client waits for.
#[derive(Clone, Debug)]
pub(super) enum Pending {
    /// A put or delete.
    Write {
        /// Which.
        write: Write,
        /// One of the writes at the end, which must be done.
        is_final: bool,
    },
    /// A multi-put.
    WriteMany(Vec<Write>),
    /// A read.
    Read {
        /// What, and what it must see.
        read: Read,
        /// One of the reads at the end, which must be answered.
        task: Option<Task>,
    },
    /// A multi-get.
    ReadMany(Vec<Read>),
}

impl Pending {
    /// The key, or one of the keys.
    pub(super) fn key(&self) -> u64 {
        match self {
            Pending::Write { write, .. } => write.key,
            Pending::WriteMany(writes) => writes[0].key,
            Pending::Read { read, .. } => read.key,
            Pending::ReadMany(reads) => reads[0].key,
        }
    }

    /// What is to be done again if this fails, because it must be done.
    pub(super) fn task(&self) -> Option<Task> {
        match self {
            Pending::Write { write, is_final: true } => Some(Task::Write(write.key)),
            Pending::Read { task, .. } => *task,
            Pending::Write { .. } | Pending::WriteMany(_) | Pending::ReadMany(_) => None,
        }
    }
}

/// One client.
#[derive(Debug, Default)]
pub(super) struct Client {
    pub(super) socket: Option<SocketId>,
    /// The node it is connected to.
    pub(super) node: usize,
    /// The node that it connects to next, if it matters.
    pub(super) wanted: Option<usize>,
    pub(super) greeted: bool,
    pub(super) pending: Option<(u64, Pending, u64)>,
    requests: u64,
    /// The highest order it has seen, sent along with each request.
    pub(super) seen: Order,
    /// By key: the context of the last read, and what that read showed.
    pub(super) contexts: BTreeMap<u64, (Vec<u8>, BTreeSet<u64>)>,
}

impl Client {
    /// It has been told of an order.
    fn saw(&mut self, time: Order) {
        self.seen = self.seen.max(time);
    }
}

impl Scenario {
    /// A client's turn has come.
    pub(super) fn take_turn(&self, world: &Rc<World>, client: usize) {
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
            (Some(socket), Some(since)) if now_ns - since > PATIENCE_NS => self.leave(world, client, socket),
            (Some(socket), None) if self.draw(LEAVES_ONE_IN) == 0 => self.leave(world, client, socket),
            (Some(_), None) if greeted => self.act(world, client),
            (Some(_), _) => {}
        }
        world.after((1 + self.draw(self.plan.think_ms_max)) * MS, Event::Client(client));
    }

    fn leave(&self, world: &World, client: usize, socket: SocketId) {
        self.give_up(client);
        self.clients.borrow_mut()[client].socket = None;
        world.shut(socket);
    }

    /// Gives up what a client waits for: nobody knows what became of it.
    fn give_up(&self, client: usize) {
        let pending = self.clients.borrow_mut()[client].pending.take();
        if let Some((_, pending, _)) = pending {
            self.left.borrow_mut().extend(pending.task());
        }
    }

    fn connect(&self, world: &World, client: usize) {
        let wanted = self.clients.borrow_mut()[client].wanted.take();
        let drawn = || match self.draw(self.shape.nodes as u64) as usize {
            node if self.plan.avoided == Some(node) => (node + 1) % self.shape.nodes,
            node => node,
        };
        let node = wanted.unwrap_or_else(drawn);
        let place = self.draw(u64::from(self.shape.cores_of(node)) + 1) as usize;
        let socket = world.client_connect(client, &address(node, place));
        let state = &mut self.clients.borrow_mut()[client];
        if state.seen > Order(0) && state.node != node {
            self.count("sessions that moved to another node");
        }
        (state.socket, state.node, state.greeted) = (Some(socket), node, false);
    }

    pub(super) fn send(&self, world: &World, client: usize, request: &Request<'_>, pending: Pending) {
        self.send_body(world, client, request.kind(), |bytes| request.encode(bytes), pending);
    }

    pub(super) fn send_body(
        &self,
        world: &World,
        client: usize,
        kind: FrameKind,
        encode: impl FnOnce(&mut Vec<u8>),
        pending: Pending,
    ) {
        let mut clients = self.clients.borrow_mut();
        let state = &mut clients[client];
        let Some(socket) = state.socket else { return };
        state.requests += 1;
        state.pending = Some((state.requests, pending, world.now_ns()));
        let bytes = question(kind, state.requests, state.seen, encode);
        drop(clients);
        world.client_send(socket, &bytes);
    }

    /// Lets a client do its next thing.
    fn act(&self, world: &Rc<World>, client: usize) {
        if self.phase.get() != Phase::Working {
            return self.do_task(world, client);
        }
        let key = self.draw(self.plan.keys);
        match self.draw(16) {
            0..=4 => self.read(world, client, key, Level::Quorum, None),
            5 => self.read(world, client, key, Level::All, None),
            6 => self.read(world, client, key, Level::One, None),
            7 => self.read_many(world, client, key),
            _ if self.draw(MULTI_PUT_ONE_IN) == 0 => self.write_many(world, client, key),
            _ => self.write(world, client, key),
        }
    }

    /// Lets a client do the first thing that is left to do and that it can do where it is; otherwise it goes where one can be done.
    fn do_task(&self, world: &Rc<World>, client: usize) {
        let here = self.clients.borrow()[client].node;
        let is_here = |task: &Task| task.node().is_none_or(|node| node == here);
        let (first, at) = {
            let left = self.left.borrow();
            (left.front().copied(), left.iter().position(is_here))
        };
        let task = at.and_then(|at| self.left.borrow_mut().remove(at));
        match task {
            Some(task @ Task::Read(key, level)) => self.read(world, client, key, level, Some(task)),
            Some(task @ Task::ReadAt(key, _)) => self.read(world, client, key, Level::One, Some(task)),
            Some(Task::Write(key)) => self.write_last(world, client, key),
            None => {
                let elsewhere = first.and_then(Task::node);
                let socket = self.clients.borrow()[client].socket;
                if let (Some(_), Some(socket)) = (elsewhere, socket) {
                    self.leave(world, client, socket);
                    self.clients.borrow_mut()[client].wanted = elsewhere;
                }
            }
        }
    }

    pub(super) fn wall(&self, world: &World, client: usize) -> Wall {
        let node = self.clients.borrow()[client].node;
        let ms = world.wall_ms(node);
        Wall { ms, earliest_ms: self.earliest_ms(world, ms), jumps: self.jumps.borrow()[node] }
    }

    /// The earliest time that a node whose clock shows this may go by: of three nodes, one that is out of step with most others goes by what they
    /// have told of their clocks lately, which may have been set since.
    fn earliest_ms(&self, world: &World, ms: u64) -> u64 {
        (0..self.shape.nodes).for_each(|node| self.note_clock(world, node));
        let (lowest_ms, highest_ms) = self.offsets_ms.get();
        let were_in_step = (highest_ms - lowest_ms) as u64 <= self.shape.options.drift_max_ms();
        match were_in_step || self.shape.nodes < 3 {
            true => ms,
            false => ms.min(world.true_wall_ms().saturating_add_signed(lowest_ms)),
        }
    }

    /// A client's connection stands, or could not be made.
    pub(super) fn connected(&self, world: &Rc<World>, client: usize, socket: SocketId, stands: bool) {
        if self.clients.borrow()[client].socket != Some(socket) {
            return;
        }
        if !stands {
            self.clients.borrow_mut()[client].socket = None;
            return;
        }
        world.client_send(socket, &greeting(self.shape.topology.cluster));
    }

    /// Bytes for a client; returns how many it has consumed.
    pub(super) fn received(&self, world: &World, client: usize, socket: SocketId, bytes: &[u8]) -> usize {
        if self.clients.borrow()[client].socket != Some(socket) {
            return bytes.len();
        }
        each_frame(bytes, |came| match came {
            Ok(Came::Greeting(time)) => {
                let state = &mut self.clients.borrow_mut()[client];
                state.greeted = true;
                state.saw(time);
            }
            Ok(Came::Answer(request, time, reply)) => {
                self.clients.borrow_mut()[client].saw(time);
                self.on_reply(world, client, request, time, &reply);
            }
            Err(error) => {
                self.judge(Err(Violation { key: 0, what: format!("a frame does not decode: {error}") }));
            }
        })
    }

    /// A client's connection is gone.
    pub(super) fn closed(&self, client: usize, socket: SocketId) {
        if self.clients.borrow()[client].socket == Some(socket) {
            self.give_up(client);
            self.clients.borrow_mut()[client].socket = None;
        }
    }
}
