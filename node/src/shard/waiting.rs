//! Records that found the log's buffer full, or the engine behind, and wait for room.
//!
//! A burst of large values outgrows the buffer of one group long before the disk is the limit; refusing it would turn a
//! pause of a millisecond into an error. So records wait here, in the order they came: while one waits, none overtakes it.
//! What waits is bounded in bytes, but one alone may be longer; beyond that the answer is `Overloaded`, and it is an honest one. What nobody waits for any more
//! leaves without having been written ([`super::expiry`]).

use std::collections::VecDeque;

use ferrite_lsm::{Key, KeyBuf, Record, RecordFlags};

use super::log_pump::Ack;

/// A record that waits, with what is to be done once it is durable.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) key: KeyBuf,
    order: u64,
    actor: u64,
    flags: RecordFlags,
    expiry_ms: u64,
    value: Box<[u8]>,
    pub(super) vnode_epoch: u64,
    pub(super) ack: Ack,
    /// When nobody waits for it any more.
    pub(super) deadline_ns: u64,
}

impl Waiting {
    /// The record, borrowed.
    pub(super) fn record(&self) -> Record<'_> {
        Record {
            order: self.order,
            actor: self.actor,
            flags: self.flags,
            expiry_ms: self.expiry_ms,
            value: &self.value,
        }
    }

    fn bytes(&self) -> usize {
        Waiting::bytes_of(self.key.as_key(), &self.value)
    }

    fn bytes_of(key: Key<'_>, value: &[u8]) -> usize {
        size_of::<Waiting>() + key.partition.len() + key.sort.len() + value.len()
    }
}

/// The queue of records that wait.
#[derive(Debug)]
pub(super) struct WaitingRoom {
    queue: VecDeque<Waiting>,
    bytes: usize,
    bytes_max: usize,
    /// How many have left.
    left: u64,
    /// The same at the last tick.
    left_before: u64,
}

impl WaitingRoom {
    /// An empty room for so many bytes.
    pub(super) fn new(bytes_max: usize) -> WaitingRoom {
        WaitingRoom { queue: VecDeque::new(), bytes: 0, bytes_max, left: 0, left_before: 0 }
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Bytes that wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes a record in. False = there is no room for it, and nothing of it was copied.
    pub(super) fn enter(
        &mut self,
        deadline_ns: u64,
        key: Key<'_>,
        record: Record<'_>,
        vnode_epoch: u64,
        ack: Ack,
    ) -> bool {
        let bytes = Waiting::bytes_of(key, record.value);
        if self.bytes > 0 && self.bytes + bytes > self.bytes_max {
            return false;
        }
        self.bytes += bytes;
        self.queue.push_back(Waiting {
            key: key.to_buf(),
            order: record.order,
            actor: record.actor,
            flags: record.flags,
            expiry_ms: record.expiry_ms,
            value: record.value.into(),
            vnode_epoch,
            ack,
            deadline_ns,
        });
        true
    }

    /// The record that has waited longest.
    pub(super) fn first(&self) -> Option<&Waiting> {
        self.queue.front()
    }

    /// Lets it go.
    pub(super) fn leave(&mut self) -> Option<Waiting> {
        let waiting = self.queue.pop_front()?;
        self.bytes -= waiting.bytes();
        self.left += 1;
        Some(waiting)
    }

    /// All of them: nothing leaves any more.
    pub(super) fn take_all(&mut self) -> VecDeque<Waiting> {
        self.bytes = 0;
        std::mem::take(&mut self.queue)
    }

    /// Those whose time is up, wherever they stand. Looked for while nothing leaves, so that while the log moves this costs a comparison: then they are told
    /// of when they come to the front.
    pub(super) fn take_late(&mut self, now_ns: u64) -> Vec<Waiting> {
        if self.queue.is_empty() || std::mem::replace(&mut self.left_before, self.left) != self.left {
            return Vec::new();
        }
        let is_late = |waiting: &Waiting| now_ns >= waiting.deadline_ns;
        if !self.queue.iter().any(is_late) {
            // Mostly so: nothing is moved for it.
            return Vec::new();
        }
        let (late, waits): (VecDeque<_>, VecDeque<_>) = self.queue.drain(..).partition(is_late);
        self.queue = waits;
        self.bytes = self.queue.iter().map(Waiting::bytes).sum();
        late.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrite_lsm::Prefix;
    use ferrite_wire::Order;

    #[test]
    fn the_room_is_bounded_and_keeps_the_order() {
        let mut room = WaitingRoom::new(4 * (size_of::<Waiting>() + 101));
        let key =
            Key { prefix: Prefix { space: 1, vnode: 0, table: 1, token: 7 }, partition: b"k", sort: b"" };
        let record =
            |order| Record { order, actor: 1, flags: RecordFlags(0), expiry_ms: 0, value: &[7; 100] };
        let entered =
            (0..10).filter(|order| room.enter(1, key, record(*order), 0, Ack::ClockBound(Order(0)))).count();
        assert_eq!(entered, 4);
        let orders: Vec<u64> =
            std::iter::from_fn(|| room.leave()).map(|waiting| waiting.record().order).collect();
        assert_eq!(orders, [0, 1, 2, 3]);
        assert_eq!((room.bytes(), room.is_empty()), (0, true));
        let long = Record { value: &[7; 10_000], ..record(4) };
        assert!(room.enter(1, key, long, 0, Ack::Nobody), "one alone");
        assert!(!room.enter(1, key, record(5), 0, Ack::Nobody), "and nothing beside it");
    }
}
