//! What the world tells a shard: connections, bytes, messages of other cores, timers, the end.
//!
//! Bytes become frames here, and frames go to whatever the connection is for. Nothing is decided here but whether a connection lives.

use ferrite_wire::{
    CoreId, ErrorCode, FrameKind, Parsed, PeerMessage, Request, RequestId, limits, parse_frame,
};

use super::Shard;
use super::expiry::Waited;
use super::requester::Requester;
use super::session::{HalfSent, Next, SessionKind};
use crate::env::{Connection, Env, Handler, Hop, Received, Sent};

impl<E: Env> Handler for Shard<E> {
    fn on_accepted(&self, connection: Connection) {
        if self.stopping.get() {
            return self.env.close(connection);
        }
        self.sessions.borrow_mut().open(connection, SessionKind::New, self.env.now_ns());
    }

    fn on_connected(&self, connection: Connection) {
        self.hello(connection);
    }

    fn on_received(&self, connection: Connection, bytes: &[u8]) -> Received {
        let shard = self.rc();
        let mut used = 0;
        let mut had_begun =
            self.sessions.borrow_mut().get_mut(connection).is_some_and(|session| session.half_sent.is_some());
        loop {
            if used > 0 && std::mem::take(&mut had_begun) {
                // It is whole, and what comes behind it has not begun as early.
                if let Some(session) = self.sessions.borrow_mut().get_mut(connection) {
                    session.half_sent = None;
                }
            }
            // Asked anew for each frame: the first changes it, and any may close the connection.
            let Some(kind) = self.sessions.borrow().kind(connection) else { return Received::Close };
            if kind == SessionKind::Client {
                let several = shard.get_several(connection, &bytes[used..]);
                if several > 0 {
                    used += several;
                    continue;
                }
            }
            let parsed = match kind {
                SessionKind::New => self.parse_greeting(&bytes[used..]),
                SessionKind::Client | SessionKind::Peer | SessionKind::Link(_) => {
                    parse_frame(&bytes[used..], limits::BODY_BYTES_MAX)
                }
                SessionKind::Gossip(_) | SessionKind::GossipLink(_) => {
                    parse_frame(&bytes[used..], limits::GOSSIP_BYTES_MAX)
                }
            };
            match parsed {
                Ok(Parsed::Frame { frame, bytes: len }) => {
                    match shard.on_frame(connection, kind, &frame, &bytes[used..used + len]) {
                        Next::Frame => used += len,
                        Next::Later => {
                            if let Some(session) = self.sessions.borrow_mut().get_mut(connection) {
                                session.half_sent = None;
                            }
                            return Received::Consumed { used, need: 0 };
                        }
                        Next::Close => {
                            self.forget(connection);
                            return Received::Close;
                        }
                    }
                }
                Ok(Parsed::Need { bytes: need }) => {
                    let left = bytes.len() - used;
                    let now_ns = self.env.now_ns();
                    if let Some(session) = self.sessions.borrow_mut().get_mut(connection)
                        && kind != SessionKind::New
                    {
                        // A frame that grows by a byte now and then is stuck as one that stands still is.
                        let (before, is_same) = (session.half_sent, used == 0);
                        session.half_sent =
                            (left > 0).then(|| HalfSent::again(before, is_same, now_ns, need));
                    }
                    return Received::Consumed { used, need: if left == 0 { 0 } else { need } };
                }
                Err(error) => {
                    self.refuse_bytes(connection, RequestId(0), error);
                    self.forget(connection);
                    return Received::Close;
                }
            }
        }
    }

    fn on_closed(&self, connection: Connection) {
        self.forget(connection);
    }

    fn on_hop(&self, from: CoreId, message: Hop) {
        let shard = self.rc();
        match message {
            Hop::Progress(progress) => self.on_progress(from, progress),
            Hop::Absences(absences) => self.on_absences(absences),
            Hop::Reply { connection, frame } => {
                self.core_answered(from, connection);
                if shard.take_part_reply(connection, &frame) {
                    return;
                }
                if let Some(session) = self.sessions.borrow_mut().get_mut(connection) {
                    session.in_flight = session.in_flight.saturating_sub(1);
                }
                let sent = self.env.send(connection, |out| out.extend_from_slice(&frame));
                if matches!(sent, Sent::Full | Sent::Crowded) {
                    let Ok(Parsed::Frame { frame, .. }) = parse_frame(&frame, limits::BODY_BYTES_MAX) else {
                        unreachable!("the other core made this frame");
                    };
                    self.answer_without_room(connection, frame.header.request, frame.header.kind);
                }
            }
            Hop::Request { connection, from_peer, deadline_ns, frame } => {
                let Ok(Parsed::Frame { frame, .. }) = parse_frame(&frame, limits::BODY_BYTES_MAX) else {
                    unreachable!("the other core checked this frame");
                };
                let requester = Requester::Core { core: from, connection, request: frame.header.request };
                if from_peer && matches!(frame.header.kind, FrameKind::Put | FrameKind::Delete) {
                    let request =
                        Request::decode(frame.header.kind, frame.body).expect("the other core decoded it");
                    shard.take_over(requester, frame.header.time, &request, deadline_ns);
                } else if from_peer {
                    let message = PeerMessage::decode(frame.header.kind, frame.body)
                        .expect("the other core decoded it");
                    if self.is_expired(deadline_ns, Waited::AtReplica) {
                        self.refuse_message(requester, &message, ErrorCode::Expired);
                    } else {
                        shard.on_peer_message(requester, &frame, &message, deadline_ns);
                    }
                } else if self.is_expired(deadline_ns, Waited::InQueue) {
                    self.answer_error(requester, ErrorCode::Expired);
                } else if self.stopping.get() {
                    self.answer_error(requester, ErrorCode::Stopping);
                } else {
                    let request =
                        Request::decode(frame.header.kind, frame.body).expect("the other core decoded it");
                    shard.execute(requester, frame.header.time, &request, deadline_ns);
                }
            }
        }
    }

    fn on_batch_end(&self) {
        self.liveness.turn();
        self.flush_hops();
        self.rc().start_pump();
    }

    fn next_timer(&self) -> Option<u64> {
        let (deadline, hedge) = (self.deadlines.borrow().next(), self.next_hedge());
        let timers = [Some(self.tend_ns.get()), deadline, hedge, self.next_gossip_ns()];
        timers.into_iter().flatten().min()
    }

    fn on_timer(&self, now_ns: u64) {
        let shard = self.rc();
        shard.hedge_due(now_ns);
        let mut due = Vec::new();
        self.deadlines.borrow_mut().take_due(now_ns, &mut due);
        for operation in due {
            shard.on_deadline(operation);
        }
        if now_ns >= self.tend_ns.get() {
            shard.tend(now_ns);
        }
        shard.tick_gossip(now_ns);
        self.flush_hops();
        shard.start_pump();
    }

    fn on_stop(&self) {
        self.rc().begin_stop();
    }

    fn is_drained(&self) -> bool {
        let is_closed = self.closed.get().is_some();
        if !is_closed {
            self.rc().go_on_stopping();
        }
        is_closed
    }

    fn end(&self) -> Result<(), String> {
        self.rc().how_it_ends()
    }
}
