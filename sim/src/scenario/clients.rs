//! Simulated clients: they speak the real frames, each with one request in flight, and judge every answer.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use ferrite_wire::{
    ErrorCode, Features, FrameFlags, FrameHeader, FrameKind, Hello, Item, Key, Level, Order, PROTOCOL_MAX,
    PROTOCOL_MIN, Parsed, Reply, Request, RequestId, Role, Version, finish_frame, limits, parse_frame,
    start_frame,
};

use super::value::{id_of, value_of};
use super::{CORES, MS, NODES, Phase, Scenario, address};
use crate::history::{Floor, Told, Violation};
use crate::network::SocketId;
use crate::set_history::SetFloor;
use crate::shown::Shown;
use crate::world::{Event, World};

/// Deadline of a request, in microseconds.
const DEADLINE_US: u32 = 1_000_000;
/// A server that is silent for so long is given up on.
const PATIENCE_NS: u64 = 1_500 * MS;
/// Most keys of a multi-get; some may come twice.
const MULTI_GET_KEYS: u64 = 6;
/// Replicas that every write waits for, or all of them where there are fewer.
const WRITTEN_MIN: usize = 2;
/// A client with nothing in flight closes its connection once in so many turns.
const LEAVES_ONE_IN: u64 = 200;

/// What a read must see at least.
#[derive(Clone, Debug)]
pub(super) enum Expected {
    /// Of the last write.
    Last(Floor),
    /// Of siblings.
    Set(SetFloor),
}

/// What a client waits for.
#[derive(Clone, Debug)]
pub(super) enum Pending {
    /// A put or delete.
    Write {
        /// Of which key.
        key: u64,
        /// Its number in the history.
        id: u64,
    },
    /// A put or delete of a key with siblings.
    WriteSet {
        /// Of which key.
        key: u64,
        /// Its number in the history.
        id: u64,
        /// Whether it deletes.
        is_delete: bool,
    },
    /// A read.
    Read {
        /// Of which key.
        key: u64,
        /// At which level.
        level: Level,
        /// What it must see at least.
        floor: Expected,
        /// One of the reads at the end, which must be answered.
        is_final: bool,
    },
    /// A multi-get at QUORUM: the keys, and what it must see of each at least.
    ReadMany(Vec<(u64, Expected)>),
}

impl Pending {
    /// The key, or one of the keys.
    fn key(&self) -> u64 {
        match self {
            Pending::Write { key, .. } | Pending::WriteSet { key, .. } | Pending::Read { key, .. } => *key,
            Pending::ReadMany(keys) => keys[0].0,
        }
    }
}

/// One client.
#[derive(Debug, Default)]
pub(super) struct Client {
    socket: Option<SocketId>,
    /// The node it is connected to.
    node: usize,
    greeted: bool,
    pending: Option<(u64, Pending, u64)>,
    requests: u64,
    /// The highest order it has seen, sent along with each request.
    seen: Order,
    /// By key: the context of the last read, and what that read showed.
    pub(super) contexts: BTreeMap<u64, (Vec<u8>, BTreeSet<u64>)>,
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
        if let Some((_, Pending::Read { key, level, is_final: true, .. }, _)) = pending {
            self.left.borrow_mut().push_back((key, level));
        }
    }

    fn connect(&self, world: &World, client: usize) {
        let node = self.draw(NODES as u64) as usize;
        let place = self.draw(u64::from(CORES) + 1) as usize;
        let socket = world.client_connect(client, &address(node, place));
        let state = &mut self.clients.borrow_mut()[client];
        (state.socket, state.node, state.greeted) = (Some(socket), node, false);
    }

    pub(super) fn send(&self, world: &World, client: usize, request: &Request<'_>, pending: Pending) {
        self.send_body(world, client, request.kind(), |bytes| request.encode(bytes), pending);
    }

    fn send_body(
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
        let mut bytes = Vec::new();
        let start = start_frame(&mut bytes);
        encode(&mut bytes);
        let header = FrameHeader {
            kind,
            flags: FrameFlags(0),
            deadline_us: DEADLINE_US,
            request: RequestId(state.requests),
            time: state.seen,
        };
        finish_frame(&mut bytes, start, &header);
        drop(clients);
        world.client_send(socket, &bytes);
    }

    /// Lets a client do its next thing.
    fn act(&self, world: &Rc<World>, client: usize) {
        if self.phase.get() != Phase::Working {
            let next = self.left.borrow_mut().pop_front();
            if let Some((key, level)) = next {
                self.read(world, client, key, level, true);
            }
            return;
        }
        let key = self.draw(self.plan.keys);
        match self.draw(16) {
            0..=5 => self.read(world, client, key, Level::Quorum, false),
            6 => self.read(world, client, key, Level::One, false),
            7 => self.read_many(world, client, key),
            _ if self.has_siblings(key) => self.write_set(world, client, key),
            _ => self.write(world, client, key),
        }
    }

    fn write(&self, world: &Rc<World>, client: usize, key: u64) {
        let is_delete = self.plan.deletes_one_in > 0 && self.draw(self.plan.deletes_one_in) == 0;
        let node = self.clients.borrow()[client].node;
        let id = self.history.borrow_mut().begin(key, is_delete, node, world.now_ns());
        let name = key.to_be_bytes();
        let key_name = self.key(key, &name);
        let epoch = self.topology.epoch;
        let value = value_of(id, self.draw(self.plan.value_bytes_max) as usize);
        let level = match self.draw(8) {
            0 => Level::All,
            1..=4 => Level::Quorum,
            _ => Level::Number(2),
        };
        let request = if is_delete {
            Request::Delete { epoch, level, options: 0, key: key_name, context: b"" }
        } else {
            Request::Put { epoch, level, options: 0, key: key_name, ttl_ms: 0, context: b"", value: &value }
        };
        self.send(world, client, &request, Pending::Write { key, id });
    }

    fn read(&self, world: &Rc<World>, client: usize, key: u64, level: Level, is_final: bool) {
        // Where reads and writes need not meet, a read promises nothing but that what it shows was written.
        let replicas = self.replicas_of(key);
        let meets = level.needed(replicas) + WRITTEN_MIN.min(replicas) > replicas;
        let floor = match self.has_siblings(key) {
            true if !meets => Expected::Set(SetFloor::default()),
            false if !meets => Expected::Last(None),
            _ => self.floor(key),
        };
        let name = key.to_be_bytes();
        let request =
            Request::Get { epoch: self.topology.epoch, level, options: 0, key: self.key(key, &name) };
        self.send(world, client, &request, Pending::Read { key, level, floor, is_final });
    }

    fn read_many(&self, world: &Rc<World>, client: usize, first: u64) {
        let count = self.plan.keys.min(MULTI_GET_KEYS);
        let keys: Vec<u64> = (0..count).map(|more| (first + more * more) % self.plan.keys).collect();
        let names: Vec<[u8; 8]> = keys.iter().map(|key| key.to_be_bytes()).collect();
        let asked: Vec<Key<'_>> = keys.iter().zip(&names).map(|(key, name)| self.key(*key, name)).collect();
        let epoch = self.topology.epoch;
        let floors = keys.iter().map(|key| (*key, self.floor(*key))).collect();
        let encode = |out: &mut Vec<u8>| Request::encode_multi_get(epoch, Level::Quorum, &asked, out);
        self.send_body(world, client, FrameKind::MultiGet, encode, Pending::ReadMany(floors));
    }

    /// What a read that begins now, and overlaps with the writes, must see at least.
    fn floor(&self, key: u64) -> Expected {
        let shown = self.shown.borrow();
        match self.has_siblings(key) {
            true => Expected::Set(self.sets.borrow().floor(key).and_shown(shown.siblings_of(key))),
            false => Expected::Last(shown.floor(key, self.history.borrow().floor(key))),
        }
    }

    /// Keeps what a read of a majority has shown.
    fn has_shown(&self, key: u64, level: Level, reply: &Reply<'_>) {
        if !Shown::holds(level, self.replicas_of(key)) {
            return;
        }
        match reply {
            Reply::Value { version, .. } => self.shown.borrow_mut().value(key, *version),
            Reply::Siblings { siblings, .. } => {
                let ids = siblings.iter().filter_map(|sibling| id_of(sibling.value));
                self.shown.borrow_mut().siblings(key, ids);
            }
            _ => {}
        }
    }

    fn on_item(&self, client: usize, key: u64, floor: &Expected, item: &Item<'_>) {
        match item {
            Item::Value { version, value } => self.on_value(client, key, floor, *version, value, false),
            Item::Siblings(siblings) => self.on_siblings(client, key, floor, siblings, false),
            Item::Absent => self.on_absent(key, floor, false),
            Item::Error(code) => self.count_error(*code),
        }
    }

    fn on_value(
        &self,
        client: usize,
        key: u64,
        floor: &Expected,
        version: Version,
        value: &[u8],
        is_final: bool,
    ) {
        let state = &mut self.clients.borrow_mut()[client];
        state.seen = state.seen.max(version.order);
        let verdict = match floor {
            Expected::Last(floor) => self.history.borrow_mut().saw_value(key, *floor, id_of(value), version),
            Expected::Set(_) => {
                Err(Violation { key, what: format!("a value that is no sibling, as {version:?}") })
            }
        };
        self.answered(verdict, is_final);
    }

    fn on_absent(&self, key: u64, floor: &Expected, is_final: bool) {
        let verdict = match floor {
            Expected::Last(floor) => self.history.borrow().saw_nothing(key, *floor),
            Expected::Set(floor) => self.sets.borrow_mut().saw(key, floor, &[]),
        };
        self.answered(verdict, is_final);
    }

    fn count_error(&self, code: ErrorCode) {
        *self.errors.borrow_mut().entry(code.name()).or_default() += 1;
    }

    fn on_reply(&self, client: usize, request: u64, reply: &Reply<'_>) {
        let pending = {
            let mut clients = self.clients.borrow_mut();
            let state = &mut clients[client];
            match state.pending.take_if(|(waited, ..)| *waited == request) {
                Some((_, pending, _)) => pending,
                None => return,
            }
        };
        if let Reply::Error { code, .. } = reply {
            self.count_error(*code);
        }
        if let Pending::Read { key, level, .. } = &pending {
            self.has_shown(*key, *level, reply);
        }
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
            (Pending::WriteSet { key, id, is_delete }, Reply::Done { version, .. }) => {
                let seen = self.clients.borrow()[client].seen;
                if version.order <= seen && !is_delete {
                    let what = format!("sibling {id} got {version:?}, but its client had seen {seen:?}");
                    self.judge(Err(Violation { key, what }));
                }
                self.clients.borrow_mut()[client].seen = seen.max(version.order);
                let verdict = self.sets.borrow_mut().told(key, id, Told::Acknowledged(*version));
                self.judge(verdict);
            }
            (Pending::WriteSet { key, id, .. }, Reply::Error { code, .. }) => {
                let told = if code.says_not_applied() { Told::NotApplied } else { Told::InDoubt };
                let verdict = self.sets.borrow_mut().told(key, id, told);
                self.judge(verdict);
            }
            (Pending::Read { key, floor, is_final, .. }, Reply::Value { version, value, .. }) => {
                self.on_value(client, key, &floor, *version, value, is_final);
            }
            (Pending::Read { key, floor, is_final, .. }, Reply::Siblings { siblings, .. }) => {
                self.on_siblings(client, key, &floor, siblings, is_final);
            }
            (Pending::Read { key, floor, is_final, .. }, Reply::Absent { .. }) => {
                self.on_absent(key, &floor, is_final);
            }
            (Pending::Read { key, level, is_final, .. }, Reply::Error { .. }) => {
                if is_final {
                    self.left.borrow_mut().push_back((key, level));
                }
            }
            (Pending::ReadMany(keys), Reply::Values(items)) if items.len() == keys.len() => {
                for ((key, floor), item) in keys.into_iter().zip(items.iter()) {
                    self.on_item(client, key, &floor, &item);
                }
            }
            (Pending::ReadMany(_), Reply::Error { .. }) => {}
            (pending, reply) => {
                let what = format!("{pending:?} was answered by {reply:?}");
                self.judge(Err(Violation { key: pending.key(), what }));
            }
        }
    }

    pub(super) fn answered(&self, verdict: Result<(), Violation>, is_final: bool) {
        self.judge(verdict);
        self.reads.set(self.reads.get() + 1);
        if is_final {
            self.outstanding.set(self.outstanding.get() - 1);
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
        world.client_send(socket, &bytes);
    }

    /// Bytes for a client; returns how many it has consumed.
    pub(super) fn received(&self, client: usize, socket: SocketId, bytes: &[u8]) -> usize {
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

    /// A client's connection is gone.
    pub(super) fn closed(&self, client: usize, socket: SocketId) {
        if self.clients.borrow()[client].socket == Some(socket) {
            self.give_up(client);
            self.clients.borrow_mut()[client].socket = None;
        }
    }
}
