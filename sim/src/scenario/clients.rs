//! Simulated clients: they speak the real frames, each with one request in flight, and judge every answer.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use ferrite_wire::{ErrorCode, FrameKind, Item, Key, Level, Order, Reply, Request, Version};

use super::frames::{Came, each_frame, greeting, question};
use super::shape::address;
use super::value::{id_of, value_of};
use super::{MS, Phase, Scenario, Task};
use crate::facts::Reading;
use crate::history::{Intent, Told, Violation};
use crate::network::SocketId;
use crate::world::{Event, World};

/// A server that is silent for so long is given up on.
const PATIENCE_NS: u64 = 1_500 * MS;
/// Most keys of a multi-get; some may come twice.
const MULTI_GET_KEYS: u64 = 6;
/// A client with nothing in flight closes its connection once in so many turns.
const LEAVES_ONE_IN: u64 = 200;
/// The shortest and the longest time to live that a put bears.
const TTL_MS: (u64, u64) = (200, 3_000);

/// The wall clock of the node that a request went to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wall {
    ms: u64,
    /// How often it had been set.
    jumps: u64,
}

/// A read of one key.
#[derive(Clone, Debug)]
pub(super) struct Read {
    /// Which.
    pub(super) key: u64,
    /// Which writes it must know of.
    pub(super) reading: Reading,
    wall: Wall,
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
        /// How long what it puts lives; 0 = for ever.
        ttl_ms: u64,
        /// When it was sent, by the clock of its node.
        wall: Wall,
        /// One of the writes at the end, which must be done.
        is_final: bool,
    },
    /// A put or delete of a key with siblings.
    WriteSet {
        /// Of which key.
        key: u64,
        /// Its number in the history.
        id: u64,
        /// Whether it deletes.
        is_delete: bool,
        /// One of the writes at the end, which must be done.
        is_final: bool,
    },
    /// A read.
    Read {
        /// What, and what it must see.
        read: Read,
        /// At which level.
        level: Level,
        /// One of the reads at the end, which must be answered.
        is_final: bool,
    },
    /// A multi-get.
    ReadMany(Vec<Read>),
}

impl Pending {
    /// The key, or one of the keys.
    fn key(&self) -> u64 {
        match self {
            Pending::Write { key, .. } | Pending::WriteSet { key, .. } => *key,
            Pending::Read { read, .. } => read.key,
            Pending::ReadMany(reads) => reads[0].key,
        }
    }

    /// What is to be done again if this fails, because it must be done.
    fn task(&self) -> Option<Task> {
        match self {
            Pending::Write { key, is_final: true, .. } | Pending::WriteSet { key, is_final: true, .. } => {
                Some(Task::Write(*key))
            }
            Pending::Read { read, level, is_final: true } => Some(Task::Read(read.key, *level)),
            _ => None,
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
        if let Some((_, pending, _)) = pending {
            self.left.borrow_mut().extend(pending.task());
        }
    }

    fn connect(&self, world: &World, client: usize) {
        let node = self.draw(self.shape.nodes as u64) as usize;
        let place = self.draw(u64::from(self.shape.cores) + 1) as usize;
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
        let bytes = question(kind, state.requests, state.seen, encode);
        drop(clients);
        world.client_send(socket, &bytes);
    }

    /// Lets a client do its next thing.
    fn act(&self, world: &Rc<World>, client: usize) {
        if self.phase.get() != Phase::Working {
            let next = self.left.borrow_mut().pop_front();
            return match next {
                Some(Task::Read(key, level)) => self.read(world, client, key, level, true),
                Some(Task::Write(key)) if self.has_siblings(key) => self.overwrite_set(world, client, key),
                Some(Task::Write(key)) => self.write(world, client, key, Level::All, true),
                None => {}
            };
        }
        let key = self.draw(self.plan.keys);
        match self.draw(16) {
            0..=4 => self.read(world, client, key, Level::Quorum, false),
            5 => self.read(world, client, key, Level::All, false),
            6 => self.read(world, client, key, Level::One, false),
            7 => self.read_many(world, client, key),
            _ if self.has_siblings(key) => self.write_set(world, client, key),
            _ => self.write(world, client, key, self.draw_write_level(key), false),
        }
    }

    /// The level of a write.
    pub(super) fn draw_write_level(&self, key: u64) -> Level {
        let replicas = self.replicas_of(key);
        match self.draw(8) {
            0 => Level::All,
            1 if self.plan.has_weak_writes => Level::One,
            2 if self.plan.has_weak_writes => Level::Number(1),
            1..=4 => Level::Quorum,
            5 if replicas >= 2 => Level::Two,
            _ => Level::Number(replicas.min(2) as u8),
        }
    }

    /// Whether a write is to delete.
    pub(super) fn draws_delete(&self) -> bool {
        self.plan.deletes_one_in > 0 && self.draw(self.plan.deletes_one_in) == 0
    }

    /// The time to live that a put asks for; 0 = none.
    pub(super) fn draw_ttl_ms(&self) -> u64 {
        let lives_briefly = self.plan.ttl_one_in > 0 && self.draw(self.plan.ttl_one_in) == 0;
        if lives_briefly { TTL_MS.0 + self.draw(TTL_MS.1 - TTL_MS.0) } else { 0 }
    }

    /// A write that is about to be sent.
    pub(super) fn intent(
        &self,
        world: &World,
        client: usize,
        key: u64,
        is_delete: bool,
        ttl_ms: u64,
        level: Level,
    ) -> Intent {
        let table = self.shape.table_of(key);
        Intent {
            key,
            is_delete,
            expires: !is_delete && (ttl_ms > 0 || table.ttl_ms > 0),
            node: self.clients.borrow()[client].node,
            needed: level.needed(usize::from(table.replication)),
            holders: self.shape.holders_of(key),
            now_ns: world.now_ns(),
        }
    }

    fn wall(&self, world: &World, client: usize) -> Wall {
        let node = self.clients.borrow()[client].node;
        Wall { ms: world.wall_ms(node), jumps: self.jumps.borrow()[node] }
    }

    fn write(&self, world: &Rc<World>, client: usize, key: u64, level: Level, is_final: bool) {
        let is_delete = !is_final && self.draws_delete();
        let ttl_ms = if is_delete || is_final { 0 } else { self.draw_ttl_ms() };
        let intent = self.intent(world, client, key, is_delete, ttl_ms, level);
        let id = self.history.borrow_mut().begin(intent, &self.facts.borrow());
        let name = key.to_be_bytes();
        let key_name = self.shape.key(key, &name);
        let epoch = self.shape.topology.epoch;
        let value = value_of(id, self.draw(self.shape.value_bytes_max) as usize);
        let request = if is_delete {
            Request::Delete { epoch, level, options: 0, key: key_name, context: b"" }
        } else {
            Request::Put { epoch, level, options: 0, key: key_name, ttl_ms, context: b"", value: &value }
        };
        let lives_ms = match (intent.expires, ttl_ms) {
            (false, _) => 0,
            (true, 0) => self.shape.table_of(key).ttl_ms,
            (true, asked) => asked,
        };
        let wall = self.wall(world, client);
        self.send(world, client, &request, Pending::Write { key, id, ttl_ms: lives_ms, wall, is_final });
    }

    fn read_of(&self, world: &World, client: usize, key: u64, level: Level) -> Read {
        let needed = level.needed(self.replicas_of(key));
        Read { key, reading: Reading { begun_ns: world.now_ns(), needed }, wall: self.wall(world, client) }
    }

    fn read(&self, world: &Rc<World>, client: usize, key: u64, level: Level, is_final: bool) {
        let read = self.read_of(world, client, key, level);
        let name = key.to_be_bytes();
        let epoch = self.shape.topology.epoch;
        let request = Request::Get { epoch, level, options: 0, key: self.shape.key(key, &name) };
        self.send(world, client, &request, Pending::Read { read, level, is_final });
    }

    fn read_many(&self, world: &Rc<World>, client: usize, first: u64) {
        let count = self.plan.keys.min(MULTI_GET_KEYS);
        let keys: Vec<u64> = (0..count).map(|more| (first + more * more) % self.plan.keys).collect();
        let names: Vec<[u8; 8]> = keys.iter().map(|key| key.to_be_bytes()).collect();
        let asked: Vec<Key<'_>> =
            keys.iter().zip(&names).map(|(key, name)| self.shape.key(*key, name)).collect();
        let epoch = self.shape.topology.epoch;
        let reads = keys.iter().map(|key| self.read_of(world, client, *key, Level::Quorum)).collect();
        let encode = |out: &mut Vec<u8>| Request::encode_multi_get(epoch, Level::Quorum, &asked, out);
        self.send_body(world, client, FrameKind::MultiGet, encode, Pending::ReadMany(reads));
    }

    fn on_item(&self, world: &World, client: usize, read: &Read, item: &Item<'_>) {
        match item {
            Item::Value { version, value, .. } => self.on_value(world, client, read, *version, value, false),
            Item::Siblings { siblings, .. } => self.on_siblings(world, client, read, siblings, false),
            Item::Absent { .. } => self.on_absent(world, read, false),
            Item::Error(code) => self.count_error(*code),
        }
    }

    fn on_value(
        &self,
        world: &World,
        client: usize,
        read: &Read,
        version: Version,
        value: &[u8],
        is_final: bool,
    ) {
        let key = read.key;
        if self.has_siblings(key) {
            let what = format!("a value that is no sibling, as {version:?}");
            return self.judge(Err(Violation { key, what }));
        }
        self.judge_shown(world, client, read, &version);
        let state = &mut self.clients.borrow_mut()[client];
        state.seen = state.seen.max(version.order);
        let facts = self.facts.borrow();
        let verdict = self.history.borrow_mut().saw_value(
            key,
            (read.reading, world.now_ns()),
            &facts,
            id_of(value),
            version,
        );
        self.answered(verdict, is_final);
    }

    fn on_absent(&self, world: &World, read: &Read, is_final: bool) {
        let (key, facts) = (read.key, self.facts.borrow());
        let verdict = match self.has_siblings(key) {
            false => self.history.borrow().saw_nothing(key, read.reading, &facts),
            true => self.sets.borrow_mut().saw(key, (read.reading, world.now_ns()), &facts, &[]),
        };
        self.answered(verdict, is_final);
    }

    /// No node shows what had expired by its own clock when it was asked.
    pub(super) fn judge_shown(&self, world: &World, client: usize, read: &Read, version: &Version) {
        let was_set = self.wall(world, client).jumps != read.wall.jumps;
        if version.expiry_ms != 0 && version.expiry_ms <= read.wall.ms && !was_set {
            let what = format!(
                "{version:?} was shown, which had expired when it was asked for, at {} ms",
                read.wall.ms
            );
            self.judge(Err(Violation { key: read.key, what }));
        }
    }

    /// What a put lives is counted once, from when its node got it, by that node's clock.
    fn judge_expiry(
        &self,
        world: &World,
        client: usize,
        key: u64,
        ttl_ms: u64,
        sent: Wall,
        version: &Version,
    ) {
        let now = self.wall(world, client);
        let right = sent.ms + ttl_ms..=now.ms + ttl_ms;
        if ttl_ms > 0 && now.jumps == sent.jumps && !right.contains(&version.expiry_ms) {
            let what =
                format!("a put that lives {ttl_ms} ms expires at {} ms, not in {right:?}", version.expiry_ms);
            self.judge(Err(Violation { key, what }));
        }
    }

    fn count_error(&self, code: ErrorCode) {
        *self.errors.borrow_mut().entry(code.name()).or_default() += 1;
    }

    fn on_reply(&self, world: &World, client: usize, request: u64, reply: &Reply<'_>) {
        let pending = {
            let mut clients = self.clients.borrow_mut();
            let state = &mut clients[client];
            match state.pending.take_if(|(waited, ..)| *waited == request) {
                Some((_, pending, _)) => pending,
                None => return,
            }
        };
        let now_ns = world.now_ns();
        (0..self.shape.nodes).for_each(|node| self.facts.borrow_mut().saw_wall(world.wall_ms(node)));
        if let Reply::Error { code, .. } = reply {
            self.count_error(*code);
            self.left.borrow_mut().extend(pending.task());
        }
        let told = |code: ErrorCode| if code.says_not_applied() { Told::NotApplied } else { Told::InDoubt };
        match (pending, reply) {
            (Pending::Write { key, id, ttl_ms, wall, is_final }, Reply::Done { version, .. }) => {
                let seen = self.clients.borrow()[client].seen;
                if version.order <= seen {
                    let what = format!("write {id} got {version:?}, but its client had seen {seen:?}");
                    self.judge(Err(Violation { key, what }));
                }
                self.clients.borrow_mut()[client].seen = version.order;
                self.judge_expiry(world, client, key, ttl_ms, wall, version);
                self.done(
                    self.history.borrow_mut().told(key, id, Told::Acknowledged(*version), now_ns),
                    is_final,
                );
            }
            (Pending::Write { key, id, .. }, Reply::Error { code, .. }) => {
                self.judge(self.history.borrow_mut().told(key, id, told(*code), now_ns));
            }
            (Pending::WriteSet { key, id, is_delete, is_final }, Reply::Done { version, .. }) => {
                let seen = self.clients.borrow()[client].seen;
                if version.order <= seen && !is_delete {
                    let what = format!("sibling {id} got {version:?}, but its client had seen {seen:?}");
                    self.judge(Err(Violation { key, what }));
                }
                self.clients.borrow_mut()[client].seen = seen.max(version.order);
                let (told, facts) = (Told::Acknowledged(*version), self.facts.borrow());
                self.done(self.sets.borrow_mut().told(key, id, told, now_ns, &facts), is_final);
            }
            (Pending::WriteSet { key, id, .. }, Reply::Error { code, .. }) => {
                let facts = self.facts.borrow();
                self.judge(self.sets.borrow_mut().told(key, id, told(*code), now_ns, &facts));
            }
            (Pending::Read { read, is_final, .. }, Reply::Value { version, value, .. }) => {
                self.on_value(world, client, &read, *version, value, is_final);
            }
            (Pending::Read { read, is_final, .. }, Reply::Siblings { siblings, .. }) => {
                self.on_siblings(world, client, &read, siblings, is_final);
            }
            (Pending::Read { read, is_final, .. }, Reply::Absent { .. }) => {
                self.on_absent(world, &read, is_final);
            }
            (Pending::Read { .. } | Pending::ReadMany(_), Reply::Error { .. }) => {}
            (Pending::ReadMany(reads), Reply::Values(items)) if items.len() == reads.len() => {
                for (read, item) in reads.iter().zip(items.iter()) {
                    self.on_item(world, client, read, &item);
                }
            }
            (pending, reply) => {
                let what = format!("{pending:?} was answered by {reply:?}");
                self.judge(Err(Violation { key: pending.key(), what }));
            }
        }
    }

    fn done(&self, verdict: Result<(), Violation>, is_final: bool) {
        self.judge(verdict);
        if is_final {
            self.outstanding.set(self.outstanding.get() - 1);
        }
    }

    pub(super) fn answered(&self, verdict: Result<(), Violation>, is_final: bool) {
        self.reads.set(self.reads.get() + 1);
        self.done(verdict, is_final);
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
            Ok(Came::Greeting) => self.clients.borrow_mut()[client].greeted = true,
            Ok(Came::Answer(request, reply)) => self.on_reply(world, client, request, &reply),
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
