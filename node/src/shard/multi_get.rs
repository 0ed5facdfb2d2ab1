//! Multi-gets: one request, many keys, those in this core's memory looked up together, answered together in the order of the keys.

use std::rc::Rc;

use ferrite_wire::{
    ErrorCode, FrameKind, Item, Key, Keys, Level, Order, Reader, Reply, RequestId, Siblings, Token, Version,
    VnodeId, start_frame,
};

use super::gets::BATCH_MAX;
use super::record::{engine_key, version_of};
use super::requester::Requester;
use super::sets::hash_of;
use super::slab::OperationId;
use super::{Route, Shard};
use crate::env::{Connection, Env, Hop};

/// Names a multi-get in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MultiGetId(pub(super) OperationId);

/// The slot that marks a hop's connection as a multi-get's key: no real connection reaches it.
const MULTI_GET_SLOT: u32 = u32::MAX;

#[derive(Clone, Debug)]
enum Slot {
    Waiting,
    Absent,
    Value(Version, Box<[u8]>),
    /// Encoded siblings.
    Siblings(Box<[u8]>),
    Error(ErrorCode),
}

/// One multi-get in flight.
#[derive(Debug)]
pub(super) struct MultiGet {
    requester: Requester,
    slots: Vec<Slot>,
    waiting: usize,
    bytes: usize,
    /// The highest order among the answers.
    seen: Order,
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
        if !self.multi_gets.borrow().has_room() {
            return self.answer_error(requester, ErrorCode::Overloaded);
        }
        if keys.is_empty() {
            return self.finish_multi_get(MultiGet {
                requester,
                slots: Vec::new(),
                waiting: 0,
                bytes: 0,
                seen: Order(0),
            });
        }
        let waiting = keys.len();
        let state =
            MultiGet { requester, slots: vec![Slot::Waiting; waiting], waiting, bytes: 0, seen: Order(0) };
        let id = MultiGetId(self.multi_gets.borrow_mut().insert(state));
        let mut here = Vec::new();
        for (index, key) in keys.iter().enumerate() {
            let item = Requester::Item { multi_get: id, index: index as u32 };
            match self.route(&key) {
                Ok(Route { hop: Some(core), .. }) => {
                    let mut out = Vec::new();
                    let start = start_frame(&mut out);
                    let request = ferrite_wire::Request::Get {
                        epoch: self.ring.borrow().epoch(),
                        level,
                        options: 0,
                        key,
                    };
                    request.encode(&mut out);
                    let header = ferrite_wire::FrameHeader {
                        kind: FrameKind::Get,
                        flags: Default::default(),
                        deadline_us: 0,
                        request: RequestId(id.0.to_request(0)),
                        time: Order(0),
                    };
                    ferrite_wire::finish_frame(&mut out, start, &header);
                    let connection = Connection { slot: MULTI_GET_SLOT, generation: index as u32 };
                    let hop = Hop::Request { connection, from_peer: false, deadline_ns, frame: out };
                    if self.env.hop(core, hop).is_err() {
                        self.answer_error(item, ErrorCode::Overloaded);
                    }
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
    }

    /// A hop's reply belongs to a multi-get if its connection says so: then this takes it.
    pub(super) fn take_item_reply(&self, connection: Connection, bytes: &[u8]) -> bool {
        if connection.slot != MULTI_GET_SLOT {
            return false;
        }
        let parsed = ferrite_wire::parse_frame(bytes, ferrite_wire::limits::BODY_BYTES_MAX);
        let Ok(ferrite_wire::Parsed::Frame { frame, .. }) = parsed else {
            unreachable!("the other core of this process encoded this frame");
        };
        let reply = Reply::decode(frame.header.kind, frame.body)
            .expect("the other core of this process encoded this reply");
        let (id, _) = OperationId::from_request(frame.header.request.0);
        self.answer_item(MultiGetId(id), connection.generation, &reply, frame.header.time);
        true
    }

    /// Fills in one key's answer; the last one sends the whole.
    pub(super) fn answer_item(&self, id: MultiGetId, index: u32, reply: &Reply<'_>, seen: Order) {
        let mut multi_gets = self.multi_gets.borrow_mut();
        let Some(multi_get) = multi_gets.get_mut(id.0) else { return };
        let slot = &mut multi_get.slots[index as usize];
        if !matches!(slot, Slot::Waiting) {
            return;
        }
        *slot = match reply {
            Reply::Value { version, value, .. } => {
                // What one reply cannot carry is not kept; what is small enough after it still is.
                let bytes = value.len() + Version::BYTES + 8;
                if multi_get.bytes + bytes > ferrite_wire::limits::BODY_BYTES_MAX {
                    Slot::Error(ErrorCode::TooLarge)
                } else {
                    multi_get.bytes += bytes;
                    Slot::Value(*version, (*value).into())
                }
            }
            Reply::Siblings { siblings, .. } => {
                let mut bytes = Vec::new();
                Siblings::encode_parts(siblings.context(), siblings.iter(), &mut bytes);
                if multi_get.bytes + bytes.len() > ferrite_wire::limits::BODY_BYTES_MAX {
                    Slot::Error(ErrorCode::TooLarge)
                } else {
                    multi_get.bytes += bytes.len();
                    Slot::Siblings(bytes.into())
                }
            }
            Reply::Absent { .. } => Slot::Absent,
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

    fn finish_multi_get(&self, done: MultiGet) {
        let mut body = Vec::new();
        let items = done.slots.iter().map(|slot| match slot {
            Slot::Waiting => unreachable!("all keys are answered"),
            Slot::Absent => Item::Absent,
            Slot::Value(version, value) => Item::Value { version: *version, value },
            Slot::Siblings(bytes) => {
                Item::Siblings(Siblings::decode(&mut Reader::new(bytes)).expect("just encoded"))
            }
            Slot::Error(code) => Item::Error(*code),
        });
        Reply::encode_values(items, &mut body);
        let reply = Reply::decode(FrameKind::Values, &body).expect("just encoded");
        self.answer_seen(done.requester, &reply, done.seen);
    }
}
