//! Who waits for an answer, and how it gets there.

use ferrite_wire::{
    CoreId, ErrorCode, FrameFlags, FrameHeader, FrameKind, Order, PeerMessage, ReplicaAnswer, Reply,
    RequestId, finish_frame, start_frame,
};

use super::Shard;
use super::multi_get::MultiGetId;
use super::multi_put::MultiPutId;
use super::questions::share;
use crate::env::{Connection, Env, Hop, Sent};

/// Who waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Requester {
    /// A connection of this core.
    Connection {
        /// Which.
        connection: Connection,
        /// The number it gave the request.
        request: RequestId,
        /// Its topology is older than ours.
        stale: bool,
    },
    /// A connection of another core of this node.
    Core {
        /// Which core.
        core: CoreId,
        /// The connection there.
        connection: Connection,
        /// The number it gave the request.
        request: RequestId,
    },
    /// A multi-get of this core.
    Item {
        /// Which.
        multi_get: MultiGetId,
        /// Which of its keys.
        index: u32,
    },
    /// A multi-put of this core.
    Entry {
        /// Which.
        multi_put: MultiPutId,
        /// Which of its entries.
        index: u32,
    },
    /// Nobody: replicas are compared.
    Nobody,
}

/// An answer that can be encoded: a reply to a client or a message to a peer.
pub(super) trait Answer {
    /// The kind of its frame.
    fn kind(&self) -> FrameKind;
    /// Appends its body.
    fn encode(&self, out: &mut Vec<u8>);
}

impl Answer for Reply<'_> {
    fn kind(&self) -> FrameKind {
        Reply::kind(self)
    }
    fn encode(&self, out: &mut Vec<u8>) {
        Reply::encode(self, out);
    }
}

impl Answer for PeerMessage<'_> {
    fn kind(&self) -> FrameKind {
        PeerMessage::kind(self)
    }
    fn encode(&self, out: &mut Vec<u8>) {
        PeerMessage::encode(self, out);
    }
}

/// Appends a whole reply frame.
#[inline]
pub(super) fn frame(answer: &impl Answer, request: RequestId, stale: bool, time: Order, out: &mut Vec<u8>) {
    let start = start_frame(out);
    answer.encode(out);
    let flags = FrameFlags(if stale { FrameFlags::STALE_TOPOLOGY } else { 0 });
    finish_frame(out, start, &FrameHeader { kind: answer.kind(), flags, deadline_us: 0, request, time });
}

/// Appends "overloaded" in place of an answer of `kind`, in the words of whoever asked. False = there are none: the answer says
/// that something was done, or failed, and is short itself; and that nobody knows what became of a write must not be told as if it had not
/// been tried.
fn overloaded(kind: FrameKind, request: RequestId, out: &mut Vec<u8>) -> bool {
    let code = ErrorCode::Overloaded;
    match kind {
        FrameKind::Done | FrameKind::Outcomes | FrameKind::Error | FrameKind::ReplicaWriteAnswer => {
            return false;
        }
        FrameKind::ReplicaReadAnswer => {
            let answer = PeerMessage::ReplicaReadAnswer(ReplicaAnswer::Refused(code));
            frame(&answer, request, false, Order(0), out);
        }
        _ => frame(&Reply::Error { code, text: "" }, request, false, Order(0), out),
    }
    true
}

impl<E: Env> Shard<E> {
    /// Answers a client's request.
    pub(super) fn answer(&self, requester: Requester, reply: &Reply<'_>) {
        let seen = match reply {
            Reply::Value { version, .. } | Reply::Done { version, .. } => version.order,
            _ => Order(0),
        };
        self.answer_seen(requester, reply, seen);
    }

    /// Answers a client's request; `seen` is the order of the record that decided the answer. An absence that a tombstone
    /// decided has one too: a client that writes after it must write above it, wherever it asks next.
    pub(super) fn answer_seen(&self, requester: Requester, reply: &Reply<'_>, seen: Order) {
        match requester {
            Requester::Item { multi_get, index } => self.answer_item(multi_get, index, reply, seen),
            Requester::Entry { multi_put, index } => self.answer_entry(multi_put, index, reply, seen),
            Requester::Nobody => self.on_compared(),
            _ => self.deliver(requester, reply, seen),
        }
    }

    /// Answers with an error.
    pub(super) fn answer_error(&self, requester: Requester, code: ErrorCode) {
        if requester != Requester::Nobody {
            self.counters.count_error(code);
        }
        let text = if code == ErrorCode::ClockDrift { self.drift_text() } else { "" };
        self.answer(requester, &Reply::Error { code, text });
    }

    /// Answers with this time in the header, whoever asked.
    pub(super) fn answer_at(&self, requester: Requester, reply: &Reply<'_>, time: Order) {
        self.deliver(requester, reply, time);
    }

    /// Answers a peer's message. Peers never ask for items of a multi-get.
    pub(super) fn answer_peer(&self, requester: Requester, message: &PeerMessage<'_>) {
        self.deliver(requester, message, self.clock.borrow().latest());
    }

    fn deliver(&self, requester: Requester, answer: &impl Answer, time: Order) {
        match requester {
            Requester::Connection { connection, request, stale } => {
                if let Some(session) = self.sessions.borrow_mut().get_mut(connection) {
                    session.in_flight = session.in_flight.saturating_sub(1);
                }
                let sent = self.env.send(connection, |out| frame(answer, request, stale, time, out));
                if matches!(sent, Sent::Full | Sent::Crowded) {
                    self.answer_without_room(connection, request, answer.kind());
                }
            }
            Requester::Core { core, connection, request } => {
                let mut out = Vec::new();
                let bytes_max = share(self.settings.hop_backlog_bytes_max, self.settings.cores);
                let has_room = self.backlog.borrow().bytes_of(core) < bytes_max;
                if has_room || !overloaded(answer.kind(), request, &mut out) {
                    frame(answer, request, true, time, &mut out);
                }
                self.send_hop(core, Hop::Reply { connection, frame: out });
            }
            Requester::Item { .. } | Requester::Entry { .. } | Requester::Nobody => {
                unreachable!("these are answered by reply")
            }
        }
    }

    /// An answer found no room in its connection's out-buffer, because many large ones were under way. What only told something
    /// is answered "overloaded" instead, which is short; when there is no room for that either, or what was done cannot be
    /// told, the connection closes: no answer is lost silently.
    pub(super) fn answer_without_room(&self, connection: Connection, request: RequestId, kind: FrameKind) {
        let mut instead = Vec::new();
        let sent = if overloaded(kind, request, &mut instead) {
            self.env.send(connection, |out| out.extend_from_slice(&instead))
        } else {
            Sent::Full
        };
        match sent {
            Sent::Full | Sent::Crowded => self.drop_connection(connection),
            Sent::Queued | Sent::Gone => self.counters.count_error(ErrorCode::Overloaded),
        }
    }

    /// Sends to another core, or keeps the message until that core's queue has room again. What waits is bounded in number by
    /// what that core has asked, for every message here is the one answer of one of its questions; and in bytes, for over that core's
    /// share of the bound answers are short.
    pub(super) fn send_hop(&self, core: CoreId, message: Hop) {
        self.backlog.borrow_mut().send(core, message, |core, message| self.hop_or_drop(core, message));
    }

    /// Tries again to send what found a full queue.
    pub(super) fn flush_hops(&self) {
        self.backlog.borrow_mut().flush(|core, message| self.hop_or_drop(core, message));
    }

    /// Gives back what finds a full queue. What is for a core that has ended is nobody's: kept, it would wait for ever, and this core's end for it.
    fn hop_or_drop(&self, core: CoreId, message: Hop) -> Result<(), Hop> {
        self.env.hop(core, message).or_else(|message| match self.env.has_ended(core) {
            true => Ok(()),
            false => Err(message),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A write of which nobody knows what became was told as overload where answers had no room, and the client sent it again.
    #[test]
    fn an_outcome_is_never_told_as_overload() {
        for kind in FrameKind::ALL {
            let mut out = Vec::new();
            let is_outcome = matches!(
                kind,
                FrameKind::Done | FrameKind::Outcomes | FrameKind::Error | FrameKind::ReplicaWriteAnswer
            );
            assert_eq!(overloaded(kind, RequestId(1), &mut out), !is_outcome, "{kind:?}");
            assert_eq!(out.is_empty(), is_outcome);
        }
    }
}
