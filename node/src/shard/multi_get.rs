//! Multi-gets: one request, many keys, those in this core's memory looked up together, answered together in the order of the keys.

use std::rc::Rc;

use ferrite_lsm::cover;
use ferrite_wire::{
    ErrorCode, FrameKind, Item, Key, Keys, Level, Order, Reader, Reply, Request, Siblings, Token, Version,
    VnodeId, limits,
};

use super::batches::PART_GRACE_NS;
use super::gets::BATCH_MAX;
use super::held::Holding;
use super::record::{engine_key, version_of};
use super::requester::Requester;
use super::sets::hash_of;
use super::slab::OperationId;
use super::{Route, Shard};
use crate::env::Env;

/// Most multi-gets in flight on a core.
pub(super) const MULTI_GETS_MAX: usize = 1_024;

/// Names a multi-get in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MultiGetId(pub(super) OperationId);

#[derive(Clone, Debug)]
enum Slot {
    Waiting,
    /// How many replicas answered, here and below.
    Absent(u8),
    Value(u8, Version, Box<[u8]>),
    /// Encoded siblings.
    Siblings(u8, Box<[u8]>),
    Error(ErrorCode),
}

/// One multi-get in flight.
#[derive(Debug)]
pub(super) struct MultiGet {
    requester: Requester,
    slots: Vec<Slot>,
    waiting: usize,
    /// Of what has been found.
    bytes: usize,
    /// Those, and what the slots take.
    holding: Holding,
    /// The highest order among the answers.
    seen: Order,
    /// When nobody waits for it any more.
    pub(super) deadline_ns: u64,
}

impl MultiGet {
    /// Counts what is to be kept for a key. What one reply cannot carry, or this core has no room for, is not; what is small enough after it
    /// still is.
    fn keep(&mut self, bytes: usize) -> Result<(), ErrorCode> {
        if self.bytes + bytes > limits::BODY_BYTES_MAX {
            return Err(ErrorCode::TooLarge);
        }
        if !self.holding.has_room_for(bytes) {
            cover::mark("no room to keep what a multi-get found");
            return Err(ErrorCode::Overloaded);
        }
        self.bytes += bytes;
        self.holding.set(self.slots.len() * size_of::<Slot>() + self.bytes);
        Ok(())
    }
}

impl<E: Env> Shard<E> {
    /// Starts a multi-get. The answer's size is bounded by a frame's: keys whose values no longer fit are answered `TooLarge`.
    pub(super) fn multi_get(
        self: &Rc<Self>,
        requester: Requester,
        level: Level,
        keys: Keys<'_>,
        deadline_ns: u64,
    ) {
        let parts = keys.len();
        if !self.multi_gets.borrow().has_room() {
            return self.answer_error(requester, ErrorCode::Overloaded);
        }
        let Some(holding) = self.held.hold(parts * size_of::<Slot>()) else {
            return self.answer_error(requester, ErrorCode::Overloaded);
        };
        if !self.admit_parts(requester, parts) {
            return self.answer_error(requester, ErrorCode::Overloaded);
        }
        let slots = vec![Slot::Waiting; parts];
        let state =
            MultiGet { requester, slots, waiting: parts, bytes: 0, holding, seen: Order(0), deadline_ns };
        if parts == 0 {
            return self.finish_multi_get(state);
        }
        let id = MultiGetId(self.multi_gets.borrow_mut().insert(state));
        let mut here = Vec::new();
        for (index, key) in keys.iter().enumerate() {
            let item = Requester::Item { multi_get: id, index: index as u32 };
            match self.route(&key) {
                Ok(Route { hop: Some(core), .. }) => {
                    let epoch = self.ring.borrow().epoch();
                    let get = Request::Get { epoch, level, options: 0, key };
                    self.hop_part(core, item, Order(0), &get, deadline_ns);
                }
                Ok(route) if self.answers_alone(&route, level) => here.push((index as u32, route, key)),
                Ok(route) => self.get(item, route, level, &key, deadline_ns),
                Err(refusal) => self.answer_table_refusal(item, refusal),
            }
        }
        // Others first: they work while this core looks its own keys up.
        for together in here.chunks(BATCH_MAX) {
            self.get_items(id, level, together, deadline_ns);
        }
    }

    /// Looks up keys of a multi-get that this core answers alone, together, so that the memory each of them needs is fetched while
    /// the others are worked on. What is not in memory waits for the disk alone.
    fn get_items(
        self: &Rc<Self>,
        id: MultiGetId,
        level: Level,
        items: &[(u32, Route, Key<'_>)],
        deadline_ns: u64,
    ) {
        let mut keys = [engine_key(&Key::plain(b""), VnodeId(0), Token(0)); BATCH_MAX];
        for (slot, (_, route, key)) in keys.iter_mut().zip(items) {
            *slot = engine_key(key, route.vnode, route.token);
        }
        // One bit for each key that is not in memory.
        let mut missed = 0u32;
        self.engine.get_batch(&keys[..items.len()], |at, found| match found {
            Ok(Some(record)) => {
                let version = version_of(&record);
                self.with_reply(
                    || hash_of(&keys[at]),
                    &version,
                    record.value,
                    1,
                    |reply| self.answer_item(id, items[at].0, reply, version.order),
                );
            }
            Ok(None) => self.answer_item(id, items[at].0, &Reply::Absent { answered: 1 }, Order(0)),
            Err(_) => missed |= 1 << at,
        });
        for (index, route, key) in
            items.iter().zip(0..).filter(|(_, at)| missed & (1 << at) != 0).map(|(item, _)| item)
        {
            let item = Requester::Item { multi_get: id, index: *index };
            self.get(item, *route, level, key, deadline_ns);
        }
        for (_, route, key) in items {
            if self.is_compared_after(1, route.replicas) {
                self.compare_replicas(*route, key);
            }
        }
    }

    /// Fills in one key's answer; the last one sends the whole.
    pub(super) fn answer_item(&self, id: MultiGetId, index: u32, reply: &Reply<'_>, seen: Order) {
        let mut multi_gets = self.multi_gets.borrow_mut();
        let Some(multi_get) = multi_gets.get_mut(id.0) else { return };
        if !matches!(multi_get.slots[index as usize], Slot::Waiting) {
            return;
        }
        multi_get.slots[index as usize] = match reply {
            Reply::Value { version, answered, value } => {
                match multi_get.keep(value.len() + Version::BYTES + 8) {
                    Ok(()) => Slot::Value(*answered, *version, (*value).into()),
                    Err(code) => Slot::Error(code),
                }
            }
            Reply::Siblings { answered, siblings } => {
                let mut bytes = Vec::new();
                Siblings::encode_parts(siblings.context(), siblings.iter(), &mut bytes);
                match multi_get.keep(bytes.len()) {
                    Ok(()) => Slot::Siblings(*answered, bytes.into()),
                    Err(code) => Slot::Error(code),
                }
            }
            Reply::Absent { answered } => Slot::Absent(*answered),
            Reply::Error { code, .. } => Slot::Error(*code),
            Reply::Pong
            | Reply::Topology(_)
            | Reply::Status(_)
            | Reply::Done { .. }
            | Reply::Values(_)
            | Reply::Outcomes(_) => {
                unreachable!("a get is answered by a value, its absence or an error")
            }
        };
        multi_get.seen = multi_get.seen.max(seen);
        multi_get.waiting -= 1;
        if multi_get.waiting == 0 {
            let done = multi_gets.remove(id.0).expect("found above");
            drop(multi_gets);
            self.finish_multi_get(done);
        }
    }

    /// Answers those whose time was up some time ago, whatever their parts wait for: a part that will still be answered knows more than that.
    pub(super) fn end_late_multi_gets(&self, now_ns: u64) {
        let late =
            self.multi_gets.borrow().ids_where(|multi_get| now_ns >= multi_get.deadline_ns + PART_GRACE_NS);
        for id in late {
            let slots = self.multi_gets.borrow_mut().get_mut(id).map_or(0, |multi_get| multi_get.slots.len());
            for index in 0..slots as u32 {
                let waits =
                    |multi_get: &mut MultiGet| matches!(multi_get.slots[index as usize], Slot::Waiting);
                if self.multi_gets.borrow_mut().get_mut(id).is_some_and(waits) {
                    self.end_late_part(
                        Requester::Item { multi_get: MultiGetId(id), index },
                        ErrorCode::Timeout,
                        Order(0),
                    );
                }
            }
        }
    }

    fn finish_multi_get(&self, done: MultiGet) {
        let mut body = Vec::new();
        let items = done.slots.iter().map(|slot| match slot {
            Slot::Waiting => unreachable!("all keys are answered"),
            Slot::Absent(answered) => Item::Absent { answered: *answered },
            Slot::Value(answered, version, value) => {
                Item::Value { answered: *answered, version: *version, value }
            }
            Slot::Siblings(answered, bytes) => {
                let siblings = Siblings::decode(&mut Reader::new(bytes)).expect("just encoded");
                Item::Siblings { answered: *answered, siblings }
            }
            Slot::Error(code) => Item::Error(*code),
        });
        Reply::encode_values(items, &mut body);
        let reply = Reply::decode(FrameKind::Values, &body).expect("just encoded");
        self.release_parts(done.requester, done.slots.len());
        self.answer_seen(done.requester, &reply, done.seen);
    }
}
