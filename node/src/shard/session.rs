//! Accepted and outgoing connections of a shard, and how far each has come.

use ferrite_wire::NodeId;

use crate::env::Connection;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SessionKind {
    /// Accepted; its hello has not come yet.
    New,
    /// A client.
    Client,
    /// A core of another node that connected to us: it asks, we answer.
    Peer,
    /// We connected to a core of another node: we ask, it answers. The number finds the link.
    Link(u32),
    /// The gossip of another node, which connected to us: it tells.
    Gossip(NodeId),
    /// We connected to another node for gossip: we tell. The number finds the link.
    GossipLink(u32),
}

/// What comes after a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The next frame.
    Frame,
    /// This frame again, once some of the connection's answers have left.
    Later,
    /// Nothing: the connection closes.
    Close,
}

impl Next {
    pub(super) fn close_unless(sound: bool) -> Next {
        if sound { Next::Frame } else { Next::Close }
    }
}

/// Most gets of a connection looked up together.
pub(super) const GETS_TOGETHER_MAX: u8 = 16;

/// Least rate at which a frame comes in, in bytes per second: its time is this much longer for its length.
pub(super) const FRAME_BYTES_PER_S_MIN: u64 = 64 * 1024;

/// A handshake or a frame that is not whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HalfSent {
    /// When the connection came, or the first byte of the frame, in nanoseconds.
    since_ns: u64,
    /// The same, whatever part of the time it was not read.
    began_ns: u64,
    /// Its length, as far as it is known.
    bytes: usize,
}

impl HalfSent {
    /// The same frame, or the next one, is not whole at this time.
    pub(super) fn again(before: Option<HalfSent>, is_same: bool, now_ns: u64, bytes: usize) -> HalfSent {
        match before.filter(|_| is_same) {
            Some(before) => HalfSent { bytes: before.bytes.max(bytes), ..before },
            None => HalfSent { since_ns: now_ns, began_ns: now_ns, bytes },
        }
    }

    /// The same, when it was not read for so long until now: that is not its time.
    pub(super) fn put_off(self, by_ns: u64, now_ns: u64) -> HalfSent {
        HalfSent { since_ns: self.since_ns.saturating_add(by_ns).min(now_ns), ..self }
    }

    /// How long ago its first byte was read, in nanoseconds.
    pub(super) fn age_ns(&self, now_ns: u64) -> u64 {
        now_ns.saturating_sub(self.began_ns)
    }

    /// Whether it has taken longer than it may, however steadily it comes in.
    pub(super) fn is_late(&self, now_ns: u64, timeout_ns: u64) -> bool {
        let for_length_ns = self.bytes as u64 * 1_000_000_000 / FRAME_BYTES_PER_S_MIN;
        now_ns.saturating_sub(self.since_ns) > timeout_ns + for_length_ns
    }
}

/// One connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Session {
    generation: u32,
    /// What it is for.
    pub(super) kind: SessionKind,
    /// Requests that have not been answered.
    pub(super) in_flight: u32,
    /// The handshake, or the frame that has begun.
    pub(super) half_sent: Option<HalfSent>,
    /// So many of its gets are looked up together.
    pub(super) gets_together: u8,
    /// When another node's gossip said something last, or the connection came, in nanoseconds.
    pub(super) heard_ns: u64,
}

/// The sessions by connection slot.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    slots: Vec<Option<Session>>,
}

impl Sessions {
    /// Adds a connection.
    pub(super) fn open(&mut self, connection: Connection, kind: SessionKind, now_ns: u64) {
        let slot = connection.slot as usize;
        if slot >= self.slots.len() {
            self.slots.resize(slot + 1, None);
        }
        let half_sent =
            (kind == SessionKind::New).then_some(HalfSent { since_ns: now_ns, began_ns: now_ns, bytes: 0 });
        let (generation, gets_together) = (connection.generation, GETS_TOGETHER_MAX);
        let (in_flight, heard_ns) = (0, now_ns);
        self.slots[slot] = Some(Session { generation, kind, in_flight, half_sent, gets_together, heard_ns });
    }

    /// Removes a connection and says what it was.
    pub(super) fn close(&mut self, connection: Connection) -> Option<SessionKind> {
        let session = *self.get_mut(connection)?;
        self.slots[connection.slot as usize] = None;
        Some(session.kind)
    }

    /// The session of a connection that still stands.
    #[inline]
    pub(super) fn get_mut(&mut self, connection: Connection) -> Option<&mut Session> {
        let session = self.slots.get_mut(connection.slot as usize)?.as_mut()?;
        (session.generation == connection.generation).then_some(session)
    }

    /// What a connection is for.
    #[inline]
    pub(super) fn kind(&self, connection: Connection) -> Option<SessionKind> {
        let session = self.slots.get(connection.slot as usize)?.as_ref()?;
        (session.generation == connection.generation).then_some(session.kind)
    }

    /// Whether a client waits for an answer.
    pub(super) fn has_waiting_client(&self) -> bool {
        let waits = |session: &Session| session.kind == SessionKind::Client && session.in_flight > 0;
        self.slots.iter().flatten().any(waits)
    }

    /// How many there are of clients and of peers that connected to us.
    pub(super) fn counts(&self) -> (usize, usize) {
        let of = |kind| self.slots.iter().flatten().filter(|session| session.kind == kind).count();
        (of(SessionKind::Client), of(SessionKind::Peer))
    }

    /// Connections of the gossip of other nodes that connected to us, whose they are, and when they said something last.
    pub(super) fn gossip(&self) -> impl Iterator<Item = (Connection, NodeId, u64)> {
        self.slots.iter().enumerate().filter_map(|(slot, session)| {
            let session = session.as_ref()?;
            let SessionKind::Gossip(node) = session.kind else { return None };
            let connection = Connection { slot: slot as u32, generation: session.generation };
            Some((connection, node, session.heard_ns))
        })
    }

    /// Connections whose handshake or frame is not whole.
    pub(super) fn half_sent(&self) -> Vec<(Connection, HalfSent)> {
        let named = |(slot, session): (usize, &Option<Session>)| {
            let session = session.as_ref()?;
            let connection = Connection { slot: slot as u32, generation: session.generation };
            Some((connection, session.half_sent?))
        };
        self.slots.iter().enumerate().filter_map(named).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_slot_is_another_session() {
        let mut sessions = Sessions::default();
        let old = Connection { slot: 3, generation: 1 };
        let new = Connection { slot: 3, generation: 2 };
        sessions.open(old, SessionKind::New, 10);
        assert_eq!(sessions.close(old), Some(SessionKind::New));
        sessions.open(new, SessionKind::Client, 20);
        assert!(sessions.get_mut(old).is_none());
        assert_eq!(sessions.close(old), None);
        assert_eq!(sessions.kind(new), Some(SessionKind::Client));
    }

    #[test]
    fn only_the_half_sent_are_late() {
        let mut sessions = Sessions::default();
        let slow = Connection { slot: 0, generation: 1 };
        let fine = Connection { slot: 1, generation: 1 };
        sessions.open(slow, SessionKind::New, 10);
        sessions.open(fine, SessionKind::Client, 10);
        let [(connection, greeting)] = sessions.half_sent()[..] else { panic!("one of them") };
        assert_eq!((connection, greeting.is_late(15, 5), greeting.is_late(16, 5)), (slow, false, true));
        let half = HalfSent::again(None, false, 20, FRAME_BYTES_PER_S_MIN as usize);
        let grown = HalfSent::again(Some(half), true, 30, 100);
        assert_eq!(grown, half, "its time is that of its first byte, and its length what its header said");
        assert_ne!(HalfSent::again(Some(half), false, 30, 100), half, "the next frame");
        let late_ns = 20 + 5 + 1_000_000_000;
        assert!(!half.is_late(late_ns, 5) && half.is_late(late_ns + 1, 5));
        let half = half.put_off(7, 50);
        assert!(
            !half.is_late(late_ns + 7, 5) && half.is_late(late_ns + 8, 5),
            "the rest of its time is left"
        );
        assert_eq!((half.age_ns(50), half.put_off(100, 50).age_ns(50)), (30, 30), "it is as old as it is");
    }
}
