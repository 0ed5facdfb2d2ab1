//! Handing a write on: a put or delete of a key with siblings is coordinated by a replica of it, and this node is none.
//!
//! The client's frame goes to the first replica that can be reached, with a number of this core's, and its answer comes back the same way.
//! One that says that nothing was applied, and why another might do better (its disk is full, it is fenced, stops, has too much to do or too few others),
//! is followed by the next, each being asked once; the last one's answer is the client's.
//! Whoever is handed a write does not hand it on again. What becomes of a write whose answer does not come is not known.

use std::rc::Rc;

use ferrite_cluster::ReplicaSet;
use ferrite_wire::{
    ErrorCode, FrameHeader, FrameKind, FrameView, Order, Reply, Request, RequestId, SLOPPY, finish_frame,
    start_frame,
};

use super::expiry::Waited;
use super::held::Holding;
use super::requester::Requester;
use super::slab::OperationId;
use super::{Operation, Route, Shard};
use crate::env::{Connection, Env, Hop, Sent};

/// A write that another node coordinates for this one.
#[derive(Debug)]
pub(super) struct ForwardOperation {
    requester: Requester,
    /// The way it went last.
    connection: Connection,
    /// The replica at the end of it.
    at: u8,
    /// All that have had it.
    asked: ReplicaSet,
    frame: Rc<Frame>,
    _holding: Holding,
}

/// What is handed on.
#[derive(Debug)]
struct Frame {
    route: Route,
    kind: FrameKind,
    time: Order,
    body: Vec<u8>,
    deadline_ns: u64,
}

/// Bytes of a write that are more than a few.
fn bytes_of(request: &Request<'_>) -> usize {
    let (key, context, value) = match *request {
        Request::Put { key, context, value, .. } => (key, context, value),
        Request::Delete { key, context, .. } => (key, context, &b""[..]),
        _ => unreachable!("only puts and deletes are handed on"),
    };
    key.partition.len() + key.sort.len() + context.len() + value.len()
}

/// Whether another replica might take what one refused with this code.
fn may_do_elsewhere(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::ClockDrift
            | ErrorCode::DiskFull
            | ErrorCode::Expired
            | ErrorCode::Fenced
            | ErrorCode::NotJoined
            | ErrorCode::Overloaded
            | ErrorCode::Stopping
            | ErrorCode::Unavailable
    )
}

impl<E: Env> Shard<E> {
    /// Hands a client's write on to a replica of its key.
    pub(super) fn forward(
        self: &Rc<Self>,
        requester: Requester,
        route: Route,
        time: Order,
        request: &Request<'_>,
        deadline_ns: u64,
    ) {
        if !self.has_room_to_coordinate() {
            return self.answer_error(requester, ErrorCode::Overloaded);
        }
        let Some((at, connection)) = self.reach(route).first_elsewhere(ReplicaSet::default()) else {
            let (Request::Put { options, .. } | Request::Delete { options, .. }) = request else {
                unreachable!("only puts and deletes are handed on")
            };
            if options & SLOPPY != 0 {
                return self.write_set(requester, route, time, request, deadline_ns);
            }
            return self.answer_error(requester, ErrorCode::Unavailable);
        };
        let Some(holding) = self.held.hold(size_of::<Frame>() + bytes_of(request)) else {
            return self.answer_error(requester, ErrorCode::Overloaded);
        };
        let mut body = Vec::new();
        request.encode(&mut body);
        let frame = Rc::new(Frame { route, kind: request.kind(), time, body, deadline_ns });
        let asked = [at].into_iter().collect();
        let operation =
            ForwardOperation { requester, connection, at, asked, frame: frame.clone(), _holding: holding };
        let id = self.operations.borrow_mut().insert(Operation::Forward(operation));
        self.deadlines.borrow_mut().add(deadline_ns, id);
        ferrite_lsm::cover::mark("write handed on");
        if !self.hand_on(id, connection, at, &frame) && !self.hand_on_again(id) {
            self.end_forward(id, &Reply::Error { code: ErrorCode::Overloaded, text: "" }, Order(0));
        }
    }

    /// Sends a write to a replica. False = it certainly did not leave.
    fn hand_on(&self, id: OperationId, connection: Connection, at: u8, frame: &Frame) -> bool {
        let left_ns = frame.deadline_ns.saturating_sub(self.env.now_ns());
        let sent = self.env.send(connection, |out| {
            let start = start_frame(out);
            out.extend_from_slice(&frame.body);
            let header = FrameHeader {
                kind: frame.kind,
                flags: Default::default(),
                deadline_us: (left_ns / 1_000).clamp(1, u64::from(u32::MAX)) as u32,
                request: RequestId(id.to_request(at)),
                time: frame.time,
            };
            finish_frame(out, start, &header);
        });
        sent == Sent::Queued
    }

    /// Hands a write on that nobody has applied, to the next replica that can be reached and has not had it. False = there is none, or no time
    /// is left.
    fn hand_on_again(&self, id: OperationId) -> bool {
        loop {
            let (frame, asked) = match self.operations.borrow_mut().get_mut(id) {
                Some(Operation::Forward(forward)) => (forward.frame.clone(), forward.asked),
                _ => unreachable!("found by the caller"),
            };
            if frame.deadline_ns <= self.env.now_ns() {
                return false;
            }
            let next = self.reach(frame.route).first_elsewhere(asked);
            let Some((at, connection)) = next else { return false };
            if let Some(Operation::Forward(forward)) = self.operations.borrow_mut().get_mut(id) {
                (forward.at, forward.connection) = (at, connection);
                forward.asked.insert(at);
            }
            if self.hand_on(id, connection, at, &frame) {
                ferrite_lsm::cover::mark("write handed on to another");
                return true;
            }
        }
    }

    /// A write that a peer hands on to this node. False = the connection closes.
    pub(super) fn on_handed_on(
        self: &Rc<Self>,
        connection: Connection,
        requester: Requester,
        frame: &FrameView<'_>,
        raw: &[u8],
    ) -> bool {
        let request = match Request::decode(frame.header.kind, frame.body) {
            Ok(request) => request,
            Err(error) => return self.refuse_bytes(connection, frame.header.request, error),
        };
        let (Request::Put { key, .. } | Request::Delete { key, .. }) = &request else {
            unreachable!("only puts and deletes are handed on")
        };
        let route = self.route(key);
        if route.as_ref().is_ok_and(|route| !route.has_siblings()) {
            // Both nodes have the same tables, so this is no slip of theirs.
            let text = "a write of a table without siblings";
            return self.refuse(connection, frame.header.request, ErrorCode::Unsupported, text);
        }
        let came_late_ns = self.came_late_ns(connection, frame, &request);
        let deadline_ns = self.env.now_ns() + self.timeout_ns(frame.header.deadline_us, came_late_ns);
        if let Ok(Route { hop: Some(core), .. }) = route {
            let hop = Hop::Request { connection, from_peer: true, deadline_ns, frame: raw.to_vec() };
            self.counters.hops.set(self.counters.hops.get() + 1);
            if let Err(code) = self.ask_core(core, hop) {
                self.answer_error(requester, code);
            }
            return true;
        }
        self.take_over(requester, frame.header.time, &request, deadline_ns);
        true
    }

    /// Carries out a write that was handed on, on the core that owns its key.
    pub(super) fn take_over(
        self: &Rc<Self>,
        requester: Requester,
        time: Order,
        request: &Request<'_>,
        deadline_ns: u64,
    ) {
        let (Request::Put { key, .. } | Request::Delete { key, .. }) = request else {
            unreachable!("only puts and deletes are handed on")
        };
        let code = match self.route(key) {
            _ if self.stopping.get() => ErrorCode::Stopping,
            _ if self.is_expired(deadline_ns, Waited::AtReplica) => ErrorCode::Expired,
            Err(refusal) => return self.answer_table_refusal(requester, refusal),
            Ok(route) if !route.has_siblings() => ErrorCode::Unsupported,
            // The other node knows other replicas than this one does.
            Ok(route) if route.position.is_none() => ErrorCode::Unavailable,
            Ok(route) => return self.write_set(requester, route, time, request, deadline_ns),
        };
        self.answer_error(requester, code);
    }

    /// The answer to a write that was handed on, unless that has ended without it.
    pub(super) fn on_forward_answer(self: &Rc<Self>, header: &FrameHeader, reply: &Reply<'_>) {
        let (id, at) = OperationId::from_request(header.request.0);
        let is_open = matches!(
            self.operations.borrow_mut().get_mut(id),
            Some(Operation::Forward(forward)) if forward.at == at
        );
        if !is_open {
            return;
        }
        if let Reply::Error { code, .. } = reply
            && may_do_elsewhere(*code)
            && self.hand_on_again(id)
        {
            return;
        }
        self.end_forward(id, reply, header.time);
    }

    fn end_forward(&self, id: OperationId, reply: &Reply<'_>, seen: Order) {
        let Some(Operation::Forward(forward)) = self.operations.borrow_mut().remove(id) else {
            unreachable!("found by the caller");
        };
        if let Reply::Error { code, .. } = reply {
            self.counters.count_error(*code);
        }
        self.answer_seen(forward.requester, reply, seen);
    }

    /// Time is up, or the connection is gone that it went over: nobody knows what became of it.
    pub(super) fn on_forward_lost(&self, id: OperationId, gone: Option<Connection>) {
        let is_lost = match self.operations.borrow_mut().get_mut(id) {
            Some(Operation::Forward(forward)) => gone.is_none_or(|gone| forward.connection == gone),
            Some(
                Operation::Read(_) | Operation::Repair(_) | Operation::Write(_) | Operation::Delivery(_),
            )
            | None => false,
        };
        if is_lost {
            self.end_forward(id, &Reply::Error { code: ErrorCode::Unknown, text: "" }, Order(0));
        }
    }
}
