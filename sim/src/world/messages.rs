//! Messages between nodes: whole frames that are lost, come twice, or come late, on connections that live on.
//!
//! TCP does none of that. A middlebox that keeps streams of its own may, and so would a bug of ours that sends a frame twice or drops
//! one from a queue. So no message between nodes may take for granted that what was asked before it has come, nor that it comes once: each is
//! idempotent, or bears a number by which it is known again.
//!
//! Greetings are exempt, without which a connection does not begin, and so is all that clients send and are sent: a put that comes twice is
//! two puts, and nothing that its client says tells them apart. One that a node hands on to a replica is such a put, too: it may be lost or late, but is
//! not repeated.
//!
//! What rests on it that a message comes once: a replica that has refused a write may take it when it comes again. So where messages are
//! repeated, "not applied" is no promise.

use ferrite_wire::{FrameKind, Parsed, limits, parse_frame};

use super::{Event, World};
use crate::network::SocketId;

/// How messages between nodes fail, each in percent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MessageFaults {
    /// So many never arrive.
    pub(crate) lost_percent: u64,
    /// So many arrive a second time, at once or within [`REPEATED_NS_MAX`].
    pub(crate) repeated_percent: u64,
    /// So many are overtaken by what was sent after them, within [`LATE_NS_MAX`].
    pub(crate) late_percent: u64,
}

/// A message that is late is not later.
const LATE_NS_MAX: u64 = 400_000_000;
/// A message is not repeated later: longer than its answer is waited for.
const REPEATED_NS_MAX: u64 = 3_000_000_000;

impl World {
    /// Sets how messages between nodes fail from now on; what is late already still comes.
    pub(crate) fn set_message_faults(&self, faults: MessageFaults) {
        self.messages.set(faults);
    }

    /// What of the frames that a node sends to another leaves now.
    pub(super) fn pass(&self, socket: SocketId, bytes: Vec<u8>) -> Vec<u8> {
        let faults = self.messages.get();
        if faults == MessageFaults::default() {
            return bytes;
        }
        let chance = |percent| percent > 0 && self.between(1, 100) <= percent;
        let mut left = Vec::with_capacity(bytes.len());
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let Ok(Parsed::Frame { frame, bytes: len }) = parse_frame(rest, limits::BODY_BYTES_MAX) else {
                panic!("a node sends whole frames");
            };
            let kind = frame.header.kind;
            let (message, after) = rest.split_at(len);
            rest = after;
            if matches!(kind, FrameKind::Hello | FrameKind::HelloReply) {
                left.extend_from_slice(message);
                continue;
            }
            if chance(faults.lost_percent) {
                self.count("message lost");
                continue;
            }
            if chance(faults.late_percent) {
                self.count("message late");
                self.after(self.between(1, LATE_NS_MAX), Event::Message(socket, message.to_vec()));
            } else {
                left.extend_from_slice(message);
            }
            let is_handed_on = matches!(kind, FrameKind::Put | FrameKind::Delete);
            if !is_handed_on && chance(faults.repeated_percent) {
                self.count("message repeated");
                match self.between(0, 1) {
                    0 => left.extend_from_slice(message),
                    _ => {
                        let later_ns = self.between(1, REPEATED_NS_MAX);
                        self.after(later_ns, Event::Message(socket, message.to_vec()));
                    }
                }
            }
        }
        left
    }

    /// A message that was late, or is repeated, leaves: behind what is on its way, if its connection still stands.
    pub(super) fn on_message(&self, socket: SocketId, message: Vec<u8>) {
        let stands = self.network.borrow().sockets.get(&socket).is_some_and(|socket| socket.peer.is_some());
        if stands {
            self.carry(socket, message);
        }
    }
}
