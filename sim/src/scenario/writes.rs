//! What clients write, one key at a time or several at once. Where the last write wins they just write. Keys with siblings they read, merge and write,
//! and some write blindly or on top of what they saw long ago.

use std::rc::Rc;

use ferrite_promises::{Intent, Saw};
use ferrite_wire::{Entry, FrameKind, Level, OVERWRITE, Request, SLOPPY};

use super::clients::{Pending, Wall};
use super::frames::DEADLINE_US;
use super::value::value_of;
use super::{MS, Scenario};
use crate::world::World;

/// The shortest and the longest time to live that a put bears.
const TTL_MS: (u64, u64) = (200, 3_000);
/// One write of a key with siblings in so many overwrites what is there.
const OVERWRITES_ONE_IN: u64 = 24;
/// One in so many bears no context although there is one.
const BLIND_ONE_IN: u64 = 3;
/// A context is used again once in so many writes: such a client writes on top of what it saw long ago.
const REUSED_ONE_IN: u64 = 4;
/// A node counts the time of a request from when it reads it. That is later than it was sent by the way of its pieces, a few tens of milliseconds, and by a
/// standstill of the core that is too short to be taken off: 250 ms, and the 20 between two turns of its upkeep. Both together are less than this.
const UNCOUNTED_NS: u64 = 800 * MS;
/// Fewest and most entries of a multi-put; several may be of one key.
const MULTI_PUT_ENTRIES: (u64, u64) = (2, 5);

/// A put or delete that a client waits for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Write {
    /// Of which key.
    pub(super) key: u64,
    /// Its number in the history.
    pub(super) id: u64,
    /// How many must have acknowledged it when it is done.
    pub(super) needed: usize,
    /// How long what it puts lives, if its node counts that; 0 = for ever.
    pub(super) ttl_ms: u64,
    /// When it was sent, by the clock of its node.
    pub(super) wall: Wall,
}

/// What a request asks of its writes.
#[derive(Clone, Copy, Debug)]
struct Terms {
    level: Level,
    overwrites: bool,
    sloppy: bool,
    /// One of those at the end.
    is_final: bool,
}

impl Terms {
    fn options(self) -> u8 {
        (u8::from(self.overwrites) * OVERWRITE) | (u8::from(self.sloppy) * SLOPPY)
    }
}

/// A write that is about to be sent.
struct Prepared {
    write: Write,
    name: [u8; 8],
    is_delete: bool,
    ttl_ms: u64,
    context: Vec<u8>,
    value: Vec<u8>,
}

impl Scenario {
    /// Writes a key somehow.
    pub(super) fn write(&self, world: &Rc<World>, client: usize, key: u64) {
        let terms = self.draw_terms(self.replicas_of(key), self.has_siblings(key));
        self.write_one(world, client, key, terms);
    }

    /// Writes a key over whatever is there, at ALL.
    pub(super) fn write_last(&self, world: &Rc<World>, client: usize, key: u64) {
        let overwrites = self.has_siblings(key);
        let terms = Terms { level: Level::All, overwrites, sloppy: false, is_final: true };
        self.write_one(world, client, key, terms);
    }

    fn write_one(&self, world: &Rc<World>, client: usize, key: u64, terms: Terms) {
        let prepared = self.prepare(world, client, key, terms);
        let request = self.entry(&prepared).request(self.shape.topology.epoch, terms.level, terms.options());
        let pending = Pending::Write { write: prepared.write, is_final: terms.is_final };
        self.send(world, client, &request, pending);
    }

    /// Writes several keys at once, or one several times.
    pub(super) fn write_many(&self, world: &Rc<World>, client: usize, first: u64) {
        let (fewest, most) = MULTI_PUT_ENTRIES;
        let count = fewest + self.draw(most - fewest + 1);
        let step = self.draw(3);
        let keys: Vec<u64> = (0..count).map(|more| (first + more * step) % self.plan.keys).collect();
        let replicas = keys.iter().map(|key| self.replicas_of(*key)).min().expect("several");
        let terms = self.draw_terms(replicas, keys.iter().any(|key| self.has_siblings(*key)));
        let prepared: Vec<Prepared> =
            keys.iter().map(|key| self.prepare(world, client, *key, terms)).collect();
        let (epoch, Terms { level, .. }) = (self.shape.topology.epoch, terms);
        let encode = |out: &mut Vec<u8>| {
            let entries = prepared.iter().map(|prepared| self.entry(prepared));
            Request::encode_multi_put(epoch, level, terms.options(), entries, out);
        };
        let pending = Pending::WriteMany(prepared.iter().map(|prepared| prepared.write).collect());
        self.send_body(world, client, FrameKind::MultiPut, encode, pending);
    }

    fn draw_terms(&self, replicas: usize, may_overwrite: bool) -> Terms {
        let sloppy = self.plan.sloppy_one_in > 0 && self.draw(self.plan.sloppy_one_in) == 0;
        let may_be_weak = self.plan.has_weak_writes || sloppy;
        let level = match self.draw(8) {
            0 => Level::All,
            1 if may_be_weak => Level::One,
            2 if may_be_weak => Level::Number(1),
            1..=4 => Level::Quorum,
            5 if replicas >= 2 => Level::Two,
            _ => Level::Number(replicas.min(2) as u8),
        };
        let overwrites = may_overwrite && self.draw(OVERWRITES_ONE_IN) == 0;
        Terms { level, overwrites, sloppy, is_final: false }
    }

    /// Whether a write is to delete.
    fn draws_delete(&self) -> bool {
        self.plan.deletes_one_in > 0 && self.draw(self.plan.deletes_one_in) == 0
    }

    /// The time to live that a put asks for; 0 = none.
    fn draw_ttl_ms(&self) -> u64 {
        let lives_briefly = self.plan.ttl_one_in > 0 && self.draw(self.plan.ttl_one_in) == 0;
        if lives_briefly { TTL_MS.0 + self.draw(TTL_MS.1 - TTL_MS.0) } else { 0 }
    }

    /// Begins a write, on top of what the client has read, or of nothing.
    fn prepare(&self, world: &World, client: usize, key: u64, terms: Terms) -> Prepared {
        let has_siblings = self.has_siblings(key);
        let (mut saw, mut context, mut may_delete) = (None, Vec::new(), true);
        if has_siblings {
            let read = if terms.is_final { None } else { self.draw_context(client, key) };
            may_delete = read.is_some() || terms.overwrites;
            let (bytes, shown) = read.unwrap_or_default();
            context = bytes;
            saw = Some(if terms.overwrites { Saw::ItsOwnRead } else { Saw::These(shown) });
        }
        let is_delete = !terms.is_final && may_delete && self.draws_delete();
        let ttl_ms = if is_delete || terms.is_final { 0 } else { self.draw_ttl_ms() };
        let table = self.shape.table_of(key);
        let replicas = usize::from(table.replication);
        let (node, seen) = {
            let clients = self.clients.borrow();
            (clients[client].node, clients[client].seen)
        };
        let holders = self.shape.holders_of(key);
        let is_handed_on = has_siblings && !holders.contains(node);
        let is_apart = is_handed_on && terms.sloppy;
        let now_ns = world.now_ns();
        // What is handed on is given anew what it waited on its way, and links outlive a partition for longer than these runs would gain by a bound.
        let minted_by_ns =
            if is_handed_on { u64::MAX } else { now_ns + u64::from(DEADLINE_US) * 1_000 + UNCOUNTED_NS };
        let intent = Intent {
            key,
            is_delete,
            expires: !is_delete && (ttl_ms > 0 || table.ttl_ms > 0),
            node,
            needed: terms.level.needed(replicas),
            holders,
            may_be_sloppy: terms.sloppy && self.shape.nodes > replicas,
            may_come_again: is_apart && self.plan.messages.repeated_percent > 0,
            seen,
            now_ns,
            minted_by_ns,
        };
        let id = match &saw {
            Some(saw) => self.sets.borrow_mut().begin(intent, saw),
            None => self.history.borrow_mut().begin(intent, &self.facts.borrow()),
        };
        let lives_ms = match (intent.expires && !has_siblings, ttl_ms) {
            // Of siblings another node may count it.
            (false, _) => 0,
            (true, 0) => table.ttl_ms,
            (true, asked) => asked,
        };
        let value = value_of(id, self.draw(self.shape.value_bytes_max) as usize);
        let wall = self.wall(world, client);
        let write = Write { key, id, needed: intent.needed, ttl_ms: lives_ms, wall };
        Prepared { write, name: key.to_be_bytes(), is_delete, ttl_ms, context, value }
    }

    /// The context that a write bears, and what it has seen, if it bears any.
    fn draw_context(&self, client: usize, key: u64) -> Option<(Vec<u8>, std::collections::BTreeSet<u64>)> {
        let is_blind = self.draw(BLIND_ONE_IN) == 0;
        let is_kept = self.draw(REUSED_ONE_IN) == 0;
        let contexts = &mut self.clients.borrow_mut()[client].contexts;
        match (is_blind, is_kept) {
            (true, _) => None,
            (false, true) => contexts.get(&key).cloned(),
            (false, false) => contexts.remove(&key),
        }
    }

    fn entry<'p>(&self, prepared: &'p Prepared) -> Entry<'p> {
        let Prepared { write, name, is_delete, ttl_ms, context, value } = prepared;
        let key = self.shape.key(write.key, name);
        match is_delete {
            true => Entry::Delete { key, context },
            false => Entry::Put { key, ttl_ms: *ttl_ms, context, value },
        }
    }
}
