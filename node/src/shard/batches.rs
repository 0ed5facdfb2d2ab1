//! Requests of many keys: how many parts there may be of them at a time, and how a part gets to another core and back.
//!
//! A multi-get or multi-put is carried out by the core that its frame reached; each part goes its own way from there
//! ([`super::multi_get`], [`super::multi_put`]). One that is another core's hops there as a request of its own, under a connection that no client
//! has; its answer comes back under the same.
//!
//! | bound | over it |
//! |---|---|
//! | requests in flight of a connection: each part counts as one | the whole is refused as overload |
//! | [`PARTS_MAX`](super::PARTS_MAX) of a core, or fewer where there is little memory | the same |
//!
//! One request alone always has room, however many parts a frame may have.
//!
//! A part has the deadline of its request, and is answered by it wherever it waits. One whose answer does not come, since the core that it is for stands still or
//! the log does, is given up a moment later ([`PART_GRACE_NS`]): the request is answered with what is known then, and what comes later is nobody's.

use std::rc::Rc;

use ferrite_wire::{
    CoreId, ErrorCode, FrameHeader, Order, Parsed, Reply, Request, RequestId, finish_frame, limits,
    parse_frame, start_frame,
};

use super::Shard;
use super::expiry::Waited;
use super::multi_get::MultiGetId;
use super::multi_put::MultiPutId;
use super::requester::Requester;
use super::slab::OperationId;
use crate::env::{Connection, Env, Hop};

/// So long after its deadline a request is answered without the parts that still wait, in nanoseconds: several grains of deadlines and turns of a core.
pub(super) const PART_GRACE_NS: u64 = 25_000_000;

/// The slots that mark a hop's connection as a part of a multi-get or of a multi-put: no real connection reaches them.
const MULTI_GET_SLOT: u32 = u32::MAX;
const MULTI_PUT_SLOT: u32 = u32::MAX - 1;

/// Whether what hops under this connection is a part of a request of many keys, or the answer to one.
pub(super) fn is_part(connection: Connection) -> bool {
    [MULTI_GET_SLOT, MULTI_PUT_SLOT].contains(&connection.slot)
}

impl<E: Env> Shard<E> {
    /// Counts the parts of a request against the bounds of its connection and of this core. False = they are over one of them, and do not count.
    pub(super) fn admit_parts(&self, requester: Requester, parts: usize) -> bool {
        let others = self.parts.get();
        if others > 0 && others + parts > self.settings.parts_max {
            return false;
        }
        if let Requester::Connection { connection, .. } = requester
            && let Some(session) = self.sessions.borrow_mut().get_mut(connection)
        {
            // The request itself counts already.
            let more = parts.saturating_sub(1) as u32;
            let is_alone = session.in_flight <= 1;
            if !is_alone && session.in_flight + more > self.settings.requests_per_connection_max {
                return false;
            }
            session.in_flight += more;
        }
        self.parts.set(others + parts);
        true
    }

    /// The parts of a request are answered, all of them: they do not count any more. The request does until its own answer is sent.
    pub(super) fn release_parts(&self, requester: Requester, parts: usize) {
        self.parts.set(self.parts.get() - parts);
        if let Requester::Connection { connection, .. } = requester
            && let Some(session) = self.sessions.borrow_mut().get_mut(connection)
        {
            session.in_flight = session.in_flight.saturating_sub(parts.saturating_sub(1) as u32);
        }
    }

    /// Gives up a part that was not answered in time. `seen`: it may have been given an order up to this.
    pub(super) fn end_late_part(&self, part: Requester, code: ErrorCode, seen: Order) {
        self.count_expired(Waited::ForPart);
        self.counters.count_error(code);
        self.answer_seen(part, &Reply::Error { code, text: "" }, seen);
    }

    /// Sends a part to the core that carries it out; one that finds no room in its queue, or has none there because of
    /// those that were given up, is answered as overload, and one whose core has ended as a stop.
    pub(super) fn hop_part(
        &self,
        core: CoreId,
        part: Requester,
        time: Order,
        request: &Request<'_>,
        deadline_ns: u64,
    ) {
        let (slot, id, index) = match part {
            Requester::Item { multi_get, index } => (MULTI_GET_SLOT, multi_get.0, index),
            Requester::Entry { multi_put, index } => (MULTI_PUT_SLOT, multi_put.0, index),
            Requester::Connection { .. } | Requester::Core { .. } | Requester::Nobody => {
                unreachable!("these are whole requests")
            }
        };
        let mut frame = Vec::new();
        let start = start_frame(&mut frame);
        request.encode(&mut frame);
        let header = FrameHeader {
            kind: request.kind(),
            flags: Default::default(),
            deadline_us: 0,
            request: RequestId(id.to_request(0)),
            time,
        };
        finish_frame(&mut frame, start, &header);
        let connection = Connection { slot, generation: index };
        let hop = Hop::Request { connection, from_peer: false, deadline_ns, frame };
        let asked =
            if self.may_ask_part(core) { self.ask_core(core, hop) } else { Err(ErrorCode::Overloaded) };
        if let Err(code) = asked {
            self.answer_error(part, code);
        }
    }

    /// A hop's reply belongs to a part if its connection says so: then this takes it.
    pub(super) fn take_part_reply(self: &Rc<Self>, connection: Connection, bytes: &[u8]) -> bool {
        if !is_part(connection) {
            return false;
        }
        let Ok(Parsed::Frame { frame, .. }) = parse_frame(bytes, limits::BODY_BYTES_MAX) else {
            unreachable!("the other core of this process encoded this frame");
        };
        let reply = Reply::decode(frame.header.kind, frame.body)
            .expect("the other core of this process encoded this reply");
        let (id, _) = OperationId::from_request(frame.header.request.0);
        let (index, time) = (connection.generation, frame.header.time);
        match connection.slot {
            MULTI_GET_SLOT => self.answer_item(MultiGetId(id), index, &reply, time),
            _ => self.answer_entry(MultiPutId(id), index, &reply, time),
        }
        true
    }
}
