//! The calls that are open, in slots whose memory is used again.

use super::ConnectionId;
use crate::router::{EndpointId, Target};
use crate::session::BUFFER_KEPT_BYTES;
use ferrite_wire::{Epoch, Fault, FrameKind, RequestId};
use std::time::Instant;

/// Most addresses one round of a call remembers to have tried.
pub(super) const TRIED_MAX: usize = 16;

/// Who waits for a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// The front, under this tag.
    Front(u64),
    /// A multi-get, with the places of this part's keys in it.
    Part { gather: u32, places: Vec<u32> },
    /// A batch of writes, with the places of this part's entries in it.
    Writes { batch: u32, places: Vec<u32> },
    /// The client itself: it refreshes its topology.
    Refresh,
}

/// Where a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the queue of a connection, never sent.
    Waiting(ConnectionId),
    /// Sent as the connection's call of that number, and given up on it after `by`.
    Sent { connection: ConnectionId, number: u64, at: Instant, by: Instant },
    /// Not sent, or certainly not applied; tried again then.
    Paused(Instant),
}

/// One open call.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) owner: Owner,
    pub(super) kind: FrameKind,
    pub(super) target: Target,
    /// The request's encoded body; the topology epoch in front is set when it is sent.
    pub(super) body: Vec<u8>,
    pub(super) deadline: Instant,
    pub(super) place: Place,
    /// Numbers the attempts of all calls, so that a late reply matches nothing.
    pub(super) attempt: u32,
    pub(super) attempts: u32,
    /// Errors that servers answered.
    pub(super) faults: u32,
    pub(super) last_fault: Option<Fault>,
    pub(super) tried: [EndpointId; TRIED_MAX],
    pub(super) tried_len: usize,
    /// Its answer says whether an address that was slow still is.
    pub(super) is_probe: bool,
}

impl Call {
    pub(super) fn is_write(&self) -> bool {
        matches!(self.kind, FrameKind::Put | FrameKind::Delete | FrameKind::MultiPut)
    }

    /// A call for some of what this one asked for in vain, which goes on from where this one is.
    pub(super) fn rest(
        &self,
        now: Instant,
        owner: Owner,
        kind: FrameKind,
        target: Target,
        body: Vec<u8>,
    ) -> Call {
        Call {
            owner,
            kind,
            target,
            body,
            deadline: self.deadline,
            place: Place::Paused(now),
            attempt: 0,
            attempts: self.attempts,
            faults: self.faults,
            last_fault: None,
            tried: self.tried,
            tried_len: self.tried_len,
            is_probe: false,
        }
    }

    pub(super) fn has_tried(&self, endpoint: EndpointId) -> bool {
        self.tried[..self.tried_len].contains(&endpoint)
    }

    pub(super) fn remember(&mut self, endpoint: EndpointId) {
        if self.tried_len < TRIED_MAX {
            self.tried[self.tried_len] = endpoint;
            self.tried_len += 1;
        }
    }

    /// Writes the epoch of the client's topology into requests that carry one.
    pub(super) fn set_epoch(&mut self, epoch: Epoch) {
        if self.is_write() || matches!(self.kind, FrameKind::Get | FrameKind::MultiGet) {
            self.body[..8].copy_from_slice(&epoch.0.to_le_bytes());
        }
    }
}

/// The id that a call's request travels under: the attempt in the upper half, the slot in the lower. Never 0.
pub(super) fn request_id(slot: u32, attempt: u32) -> RequestId {
    RequestId(u64::from(attempt) << 32 | u64::from(slot))
}

/// The slot and attempt of a request id.
pub(super) fn slot_and_attempt(request: RequestId) -> (u32, u32) {
    (request.0 as u32, (request.0 >> 32) as u32)
}

/// All open calls.
#[derive(Debug, Default)]
pub(super) struct Calls {
    slots: Vec<Option<Call>>,
    free: Vec<u32>,
    /// Body buffers of finished calls.
    spare: Vec<Vec<u8>>,
    next_attempt: u32,
}

const SPARE_MAX: usize = 256;

impl Calls {
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn slots(&self) -> u32 {
        self.slots.len() as u32
    }

    pub(super) fn get(&self, slot: u32) -> Option<&Call> {
        self.slots.get(slot as usize)?.as_ref()
    }

    /// The call in a slot that is known to be open.
    pub(super) fn open(&mut self, slot: u32) -> &mut Call {
        self.slots[slot as usize].as_mut().expect("an open call")
    }

    pub(super) fn buffer(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    pub(super) fn insert(&mut self, call: Call) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as u32 - 1
        });
        self.slots[slot as usize] = Some(call);
        slot
    }

    pub(super) fn remove(&mut self, slot: u32) -> Call {
        self.free.push(slot);
        self.slots[slot as usize].take().expect("an open call")
    }

    pub(super) fn recycle(&mut self, mut body: Vec<u8>) {
        if self.spare.len() < SPARE_MAX && body.capacity() <= BUFFER_KEPT_BYTES {
            body.clear();
            self.spare.push(body);
        }
    }

    /// Numbers a new attempt.
    pub(super) fn next_attempt(&mut self) -> u32 {
        self.next_attempt = self.next_attempt.checked_add(1).unwrap_or(1);
        self.next_attempt
    }
}
