//! One connection: its socket, what is still to be written, what was read in part, and the operations under way.
//!
//! The number of operations under way is the number of slots, fixed at the start. A request's number is its slot and the
//! connection's generation, so an answer finds its operation without a search and an answer from before a reconnect
//! finds nothing.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, ipproto, socket_with};

use crate::{clock::Nanos, workload::Kind};

/// First pause before connecting again, in nanoseconds; it doubles with each failure.
const BACKOFF_NS_MIN: u64 = 10_000_000;
/// Longest pause before connecting again, in nanoseconds.
const BACKOFF_NS_MAX: u64 = 500_000_000;

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Closed until a time.
    Down { until: Nanos },
    /// The kernel is connecting since a time.
    Connecting { since: Nanos },
    /// The greeting was sent at a time and is not answered yet.
    Greeting { since: Nanos },
    /// Operations may be sent.
    Ready,
}

/// An operation under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    pub kind: Kind,
    pub record: u64,
    /// When it should have been sent.
    pub intended: Nanos,
    /// When it was sent.
    pub sent: Nanos,
    /// A write's counter, or the floor of a checked read.
    pub counter: u32,
    /// Whether the checker waits for its outcome.
    pub checked: bool,
}

/// One connection to one endpoint.
#[derive(Debug)]
pub(crate) struct Connection {
    pub endpoint: u16,
    pub state: State,
    pub stream: Option<TcpStream>,
    /// Requests not yet written.
    pub out: Vec<u8>,
    written: usize,
    /// An answer of which only the beginning has arrived.
    pub partial: Vec<u8>,
    slots: Vec<Option<Pending>>,
    free: Vec<u16>,
    /// Slots in the order they were sent, for protocols that answer in order.
    order: VecDeque<u16>,
    generation: u32,
    backoff_ns: u64,
    /// Whether it is listed for writing at the end of this wake.
    pub listed: bool,
}

impl Connection {
    pub(crate) fn new(endpoint: u16, depth: u16) -> Connection {
        Connection {
            endpoint,
            state: State::Down { until: Nanos(0) },
            stream: None,
            out: Vec::new(),
            written: 0,
            partial: Vec::new(),
            slots: vec![None; usize::from(depth)],
            free: (0..depth).rev().collect(),
            order: VecDeque::with_capacity(usize::from(depth)),
            generation: 0,
            backoff_ns: BACKOFF_NS_MIN,
            listed: false,
        }
    }

    /// Begins to connect.
    pub(crate) fn open(&mut self, address: SocketAddr, now: Nanos) -> io::Result<()> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
        match connect(&socket, &address) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        self.stream = Some(stream);
        self.state = State::Connecting { since: now };
        Ok(())
    }

    /// Marks the connection as usable.
    pub(crate) fn ready(&mut self) {
        self.state = State::Ready;
        self.backoff_ns = BACKOFF_NS_MIN;
    }

    /// Closes the socket and forgets what was buffered; the operations under way stay until they are taken.
    pub(crate) fn close(&mut self, now: Nanos) {
        self.stream = None;
        self.out.clear();
        self.partial.clear();
        self.written = 0;
        self.generation = self.generation.wrapping_add(1);
        self.state = State::Down { until: now.plus(self.backoff_ns) };
        self.backoff_ns = (self.backoff_ns * 2).min(BACKOFF_NS_MAX);
    }

    /// Takes an operation under way, whichever; for a connection that was closed.
    pub(crate) fn take_any(&mut self) -> Option<Pending> {
        self.order.clear();
        let slot = self.slots.iter().position(Option::is_some)?;
        self.free.push(slot as u16);
        self.slots[slot].take()
    }

    /// Whether the latest attempt to connect has come to an end, good or bad.
    pub(crate) fn was_tried(&self) -> bool {
        self.state == State::Ready || self.backoff_ns > BACKOFF_NS_MIN
    }

    /// Whether another operation may be sent.
    #[inline]
    pub(crate) fn has_room(&self) -> bool {
        !self.free.is_empty() && self.state == State::Ready
    }

    /// How many more operations may be sent.
    pub(crate) fn room(&self) -> usize {
        self.free.len()
    }

    /// Remembers an operation and gives its request number. There must be room.
    #[inline]
    pub(crate) fn begin(&mut self, pending: Pending, fifo: bool) -> u64 {
        let slot = self.free.pop().expect("the caller looked for room");
        self.slots[usize::from(slot)] = Some(pending);
        if fifo {
            self.order.push_back(slot);
        }
        u64::from(self.generation) << 32 | u64::from(slot)
    }

    /// The operation that an answer belongs to: the oldest when answers come in order, otherwise the one named.
    #[inline]
    pub(crate) fn finish(&mut self, request: u64, fifo: bool) -> Option<Pending> {
        let slot = if fifo {
            self.order.pop_front()?
        } else {
            if (request >> 32) as u32 != self.generation {
                return None;
            }
            u16::try_from(request & u64::from(u32::MAX)).ok()?
        };
        let pending = self.slots.get_mut(usize::from(slot))?.take()?;
        self.free.push(slot);
        Some(pending)
    }

    /// When the oldest operation under way was sent.
    pub(crate) fn oldest(&self) -> Option<Nanos> {
        self.slots.iter().flatten().map(|pending| pending.sent).min()
    }

    /// Reads once into `buffer`; `None` = nothing there now.
    #[inline]
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let Some(stream) = &mut self.stream else { return Ok(None) };
        loop {
            return match stream.read(buffer) {
                Ok(count) => Ok(Some(count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
        }
    }

    /// Writes what is to be written, as far as the kernel takes it.
    #[inline]
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        while self.written < self.out.len() {
            match stream.write(&self.out[self.written..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.written = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(record: u64) -> Pending {
        let at = Nanos(record);
        Pending { kind: Kind::Read, record, intended: at, sent: at, counter: 0, checked: false }
    }

    #[test]
    fn numbered_answers_find_their_operations_in_any_order() {
        let mut connection = Connection::new(0, 3);
        let requests: Vec<u64> = (0..3).map(|record| connection.begin(pending(record), false)).collect();
        assert_eq!(connection.room(), 0);
        assert_eq!(connection.oldest(), Some(Nanos(0)));
        for record in [2, 0, 1] {
            let found = connection.finish(requests[record], false).map(|pending| pending.record);
            assert_eq!(found, Some(record as u64));
        }
        assert!(connection.finish(requests[0], false).is_none(), "answered twice");
        assert!(connection.finish(u64::from(u32::MAX), false).is_none(), "no such slot");
        assert_eq!(connection.room(), 3);
    }

    #[test]
    fn ordered_answers_are_taken_from_the_front() {
        let mut connection = Connection::new(0, 4);
        for round in 0..10 {
            for at in 0..4 {
                connection.begin(pending(round * 4 + at), true);
            }
            for at in 0..4 {
                let found = connection.finish(0, true).map(|pending| pending.record);
                assert_eq!(found, Some(round * 4 + at));
            }
            assert!(connection.finish(0, true).is_none());
        }
    }

    #[test]
    fn an_answer_from_before_a_reconnect_finds_nothing() {
        let mut connection = Connection::new(0, 2);
        let old = connection.begin(pending(1), false);
        connection.close(Nanos(0));
        assert_eq!(connection.take_any().map(|pending| pending.record), Some(1));
        assert!(connection.take_any().is_none());
        let new = connection.begin(pending(2), false);
        assert!(connection.finish(old, false).is_none());
        assert_eq!(connection.finish(new, false).map(|pending| pending.record), Some(2));
    }

    #[test]
    fn pauses_grow_up_to_a_bound() {
        let mut connection = Connection::new(0, 1);
        let mut pauses = Vec::new();
        for _ in 0..12 {
            connection.close(Nanos(0));
            let State::Down { until } = connection.state else { panic!("closed") };
            pauses.push(until.0);
        }
        assert_eq!(pauses[0], BACKOFF_NS_MIN);
        assert_eq!(pauses.last(), Some(&BACKOFF_NS_MAX));
        connection.ready();
        connection.close(Nanos(0));
        assert_eq!(connection.state, State::Down { until: Nanos(BACKOFF_NS_MIN) });
    }
}
