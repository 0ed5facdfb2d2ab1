//! What a turn does only a little of, so that those who ask for little are not held up by it: connections that ask for much wait
//! here for their share of each turn, and ended ones for their sockets to be closed, which takes the kernel as long as some requests.
//!
//! A connection asks for much if what it sent last was answered from memory with [`HEAVY_BYTES`] or more. Those take turns among each other, in
//! the order in which they came: deficit round robin (Shreedhar, Varghese: Efficient fair queuing using deficit round-robin, 1995), with
//! one queue for all that are light and without a deficit carried on, for a delivery may pass its share by one burst at most.

use std::collections::VecDeque;

use super::table::{Link, Table};
use crate::env::Connection;

/// Bytes of answers to one delivery from which on a connection waits for its share.
const HEAVY_BYTES: usize = 32 * 1024;
/// Bytes of answers after which those that ask for much wait for the next turn.
const HEAVY_BYTES_PER_TURN: usize = 128 * 1024;
/// Most deliveries of them in a turn.
const HEAVY_PER_TURN: usize = 4;
/// Most sockets closed in a turn. As many are accepted.
const CLOSED_PER_TURN: usize = 1;

/// Whether a connection whose delivery was answered with so many bytes waits for its share the next time.
pub(super) fn is_heavy(answered_bytes: usize) -> bool {
    answered_bytes >= HEAVY_BYTES
}

/// What is left of a turn for those that ask for much.
#[derive(Debug)]
pub(super) struct Share {
    deliveries: usize,
    bytes: usize,
}

impl Share {
    pub(super) fn of_a_turn() -> Share {
        Share { deliveries: HEAVY_PER_TURN, bytes: HEAVY_BYTES_PER_TURN }
    }

    /// Takes a delivery off that was answered with so many bytes.
    pub(super) fn spend(&mut self, bytes: usize) {
        self.deliveries = self.deliveries.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

/// The queues. None is longer than there are connections.
#[derive(Debug, Default)]
pub(super) struct Deferred {
    /// What these sent is there, and nothing more is received from them meanwhile.
    heavy: VecDeque<Connection>,
    /// These wait for room for a long frame, and nothing is received from them meanwhile.
    waiting: VecDeque<Connection>,
    ended: VecDeque<Link>,
}

impl Deferred {
    /// Whether the next turn has nothing to do for those here. Who waits for room is not looked at: something has to happen first.
    pub(super) fn is_idle(&self) -> bool {
        self.heavy.is_empty() && self.ended.is_empty()
    }

    /// Puts a delivery off.
    pub(super) fn push(&mut self, connection: Connection) {
        self.heavy.push_back(connection);
    }

    /// The next delivery, if the turn has something left for it.
    pub(super) fn pop(&mut self, share: &Share) -> Option<Connection> {
        if share.deliveries == 0 || share.bytes == 0 {
            return None;
        }
        self.heavy.pop_front()
    }

    /// Puts a connection off until there is room for its frame: behind all others, unless it was its turn.
    pub(super) fn wait(&mut self, connection: Connection, was_its_turn: bool, table: &mut Table) {
        if was_its_turn {
            return self.waiting.push_front(connection);
        }
        if self.waiting.len() >= 2 * table.len() {
            // Those that have gone meanwhile.
            self.waiting.retain(|name| table.get(*name).is_some());
        }
        self.waiting.push_back(connection);
    }

    /// Whether anybody waits for that.
    pub(super) fn is_awaited(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Who has waited longest for that.
    pub(super) fn next_waiting(&mut self) -> Option<Connection> {
        self.waiting.pop_front()
    }

    /// Takes a connection that has ended.
    pub(super) fn end(&mut self, link: Link) {
        self.ended.push_back(link);
    }

    /// Connections that have ended and keep a descriptor still.
    pub(super) fn ended(&self) -> usize {
        self.ended.len()
    }

    /// Closes some of the sockets that have ended.
    pub(super) fn close_some(&mut self) {
        self.ended.drain(..self.ended.len().min(CLOSED_PER_TURN));
    }

    /// Closes them all.
    pub(super) fn close_all(&mut self) {
        self.ended.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(slot: u32) -> Connection {
        Connection { slot, generation: 0 }
    }

    #[test]
    fn a_turn_serves_those_that_ask_for_much_within_its_share_and_in_their_order() {
        let mut deferred = Deferred::default();
        (0..20).for_each(|slot| deferred.push(named(slot)));
        let mut share = Share::of_a_turn();
        let served: Vec<Connection> = std::iter::from_fn(|| {
            let next = deferred.pop(&share);
            share.spend(1);
            next
        })
        .collect();
        assert_eq!(served, (0..4).map(named).collect::<Vec<_>>(), "as many as a turn takes");
        let mut share = Share::of_a_turn();
        assert_eq!(deferred.pop(&share), Some(named(4)), "who waited longest comes first");
        share.spend(HEAVY_BYTES_PER_TURN + 1);
        assert_eq!(deferred.pop(&share), None, "its answers were all that a turn takes");
        assert!(!deferred.is_idle());
    }

    #[test]
    fn ended_connections_are_closed_a_few_at_a_time() {
        let mut deferred = Deferred::default();
        (0..20).for_each(|_| deferred.end(Link::new(None, 4096)));
        deferred.close_some();
        assert_eq!(deferred.ended(), 20 - CLOSED_PER_TURN);
        deferred.close_all();
        assert!(deferred.is_idle());
    }
}
