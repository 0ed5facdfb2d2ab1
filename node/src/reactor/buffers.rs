//! The two buffers of a connection: what came in and is not consumed yet, and what is to go out.
//!
//! Room for a whole frame is reserved when its header has told its length, which the handler has checked by then. A peer that
//! announces much and sends little costs address space, not memory: the system gives pages as bytes arrive.

use std::cell::Cell;
use std::rc::Rc;

/// Least room for a receive, in bytes.
const RECEIVE_ROOM_MIN: usize = 2048;
/// A connection whose receives fill its buffer gets a larger one, up to this, in bytes.
const RECEIVE_GROWTH_MAX: usize = 256 * 1024;
/// An out-buffer larger than this is not kept for the next batch, in bytes: there may be thousands of connections.
const OUT_KEPT_MAX: usize = 32 * 1024;

/// Received bytes: the unconsumed ones are contiguous, and new ones are received behind them.
#[derive(Debug)]
pub(super) struct Input {
    bytes: Vec<u8>,
    consumed: usize,
    wanted: usize,
}

impl Input {
    pub(super) fn new(receive_bytes: usize) -> Input {
        Input { bytes: Vec::new(), consumed: 0, wanted: receive_bytes }
    }

    /// What the handler has not consumed yet.
    pub(super) fn unread(&self) -> &[u8] {
        &self.bytes[self.consumed..]
    }

    /// # Panics
    /// If the handler consumed more than there is.
    pub(super) fn consume(&mut self, used: usize) {
        assert!(used <= self.unread().len(), "the handler consumed bytes that are not there");
        self.consumed += used;
    }

    /// Room of the next receive for a frame of `need` bytes in all, in bytes.
    pub(super) fn wants(&self, need: usize) -> usize {
        self.wanted.max(need)
    }

    /// Receives no more at a time than at first.
    pub(super) fn want_less(&mut self, receive_bytes: usize) {
        self.wanted = receive_bytes;
    }

    /// Keeps no more room than for what is unread: nothing is received for a while.
    pub(super) fn keep_unread(&mut self, receive_bytes: usize) {
        let unread = self.unread().len();
        if self.bytes.capacity() > receive_bytes.max(2 * unread) {
            self.bytes = self.unread().to_vec();
            self.consumed = 0;
        }
    }

    /// Takes the buffer for a receive behind the unread bytes, with room for a frame of `need` bytes in all.
    pub(super) fn lend(&mut self, receive_bytes: usize, need: usize) -> Vec<u8> {
        let unread = self.bytes.len() - self.consumed;
        let capacity = self.wanted.max(need).max(unread + RECEIVE_ROOM_MIN);
        let is_too_large = self.bytes.capacity() > capacity.max(receive_bytes);
        if self.bytes.capacity() < capacity || (is_too_large && capacity <= receive_bytes) {
            // Grows for a large frame, and shrinks once it is consumed.
            let mut larger = Vec::with_capacity(capacity);
            larger.extend_from_slice(self.unread());
            self.bytes = larger;
        } else if self.consumed > 0 {
            self.bytes.copy_within(self.consumed.., 0);
            self.bytes.truncate(unread);
        }
        self.consumed = 0;
        std::mem::take(&mut self.bytes)
    }

    /// Takes the buffer back after `received` bytes were appended.
    pub(super) fn give_back(&mut self, bytes: Vec<u8>, received: usize, receive_bytes: usize) {
        if bytes.len() == bytes.capacity() {
            // The socket may have held more: fewer system calls next time.
            self.wanted = (self.wanted * 2).min(RECEIVE_GROWTH_MAX.max(receive_bytes));
        } else if received < receive_bytes / 2 {
            self.wanted = receive_bytes;
        }
        self.bytes = bytes;
        self.consumed = 0;
    }
}

/// Bytes to be sent: encoded frames gather in one buffer while another is with the kernel.
#[derive(Debug, Default)]
pub(super) struct Output {
    queued: Vec<u8>,
    spare: Vec<u8>,
    sending: bool,
    sending_bytes: usize,
    /// When what is being sent was handed to the kernel, or a part of it last taken.
    since_ns: u64,
    /// What all clients of the core leave unread, if this is a client's.
    all: Option<Rc<Cell<usize>>>,
    /// As much of that is this one's.
    counted: usize,
}

impl Output {
    /// That of a client: its bytes count with those of all others.
    pub(super) fn counted_in(all: Rc<Cell<usize>>) -> Output {
        let mut output = Output::default();
        output.all = Some(all);
        output
    }

    /// Bytes that the peer has not taken yet, as far as is known.
    pub(super) fn bytes(&self) -> usize {
        self.queued.len() + self.sending_bytes
    }

    /// What all clients of the core leave unread, if this is a client's.
    pub(super) fn bytes_of_all(&self) -> Option<usize> {
        self.all.as_ref().map(|all| all.get())
    }

    /// Bytes that may be queued beside what is there: none from `own_bytes_max` on; and to a client as many as are left of `all_bytes_max` after what all
    /// clients leave unread, less what this one does. So the fewer leave much unread, the more each may.
    pub(super) fn room(&self, own_bytes_max: usize, all_bytes_max: usize) -> usize {
        if self.queued_bytes() >= own_bytes_max {
            return 0;
        }
        let left = |all: usize| all_bytes_max.saturating_sub(all).saturating_sub(self.bytes());
        self.bytes_of_all().map_or(usize::MAX, left)
    }

    /// Whether something is on its way of which nothing was taken since then.
    pub(super) fn is_sending_since(&self, since_ns: u64) -> bool {
        self.sending && self.since_ns <= since_ns
    }

    fn count(&mut self) {
        let bytes = self.bytes();
        if let Some(all) = &self.all {
            all.set(all.get() - self.counted + bytes);
            self.counted = bytes;
        }
    }

    /// Bytes that have not been handed to the kernel.
    pub(super) fn queued_bytes(&self) -> usize {
        self.queued.len()
    }

    /// Whether everything has left.
    pub(super) fn is_clear(&self) -> bool {
        !self.sending && self.queued.is_empty()
    }

    /// The buffer to encode into; goes back by [`Output::restore`].
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.queued)
    }

    /// # Panics
    /// If the encoder took bytes away that were there.
    pub(super) fn restore(&mut self, buffer: Vec<u8>, had: usize) {
        assert!(buffer.len() >= had, "an encoder only appends");
        // What was encoded in vain leaves no room behind.
        self.queued = if buffer.is_empty() && buffer.capacity() > OUT_KEPT_MAX { Vec::new() } else { buffer };
        self.count();
    }

    /// What to send now: nothing while a send is in flight.
    pub(super) fn start(&mut self, now_ns: u64) -> Option<Vec<u8>> {
        if self.sending || self.queued.is_empty() {
            return None;
        }
        (self.sending, self.sending_bytes, self.since_ns) = (true, self.queued.len(), now_ns);
        Some(std::mem::replace(&mut self.queued, std::mem::take(&mut self.spare)))
    }

    /// A part of what is being sent was taken.
    pub(super) fn went_on(&mut self, now_ns: u64) {
        self.since_ns = now_ns;
    }

    /// A send has ended and its buffer is back.
    pub(super) fn finish(&mut self, mut buffer: Vec<u8>) {
        assert!(self.sending, "a send ended that had not started");
        (self.sending, self.sending_bytes) = (false, 0);
        self.count();
        if buffer.capacity() <= OUT_KEPT_MAX {
            buffer.clear();
            self.spare = buffer;
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        (self.queued, self.sending_bytes) = (Vec::new(), 0);
        self.count();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECEIVE: usize = 4096;

    #[test]
    fn a_partial_tail_moves_to_the_front() {
        let mut input = Input::new(RECEIVE);
        let mut bytes = input.lend(RECEIVE, 0);
        bytes.extend_from_slice(b"abcdef");
        input.give_back(bytes, 6, RECEIVE);
        input.consume(4);
        assert_eq!(input.unread(), b"ef");
        let mut bytes = input.lend(RECEIVE, 0);
        assert_eq!(bytes, b"ef");
        bytes.extend_from_slice(b"gh");
        input.give_back(bytes, 2, RECEIVE);
        assert_eq!(input.unread(), b"efgh");
    }

    #[test]
    fn a_large_frame_gets_its_room_and_gives_it_up() {
        let mut input = Input::new(RECEIVE);
        let mut bytes = input.lend(RECEIVE, 0);
        bytes.extend_from_slice(b"head");
        input.give_back(bytes, 4, RECEIVE);
        let mut bytes = input.lend(RECEIVE, 1 << 20);
        assert_eq!(bytes, b"head");
        assert!(bytes.capacity() >= 1 << 20);
        bytes.resize(1 << 20, 0);
        input.give_back(bytes, (1 << 20) - 4, RECEIVE);
        input.consume(1 << 20);
        input.wanted = RECEIVE;
        assert!(input.lend(RECEIVE, 0).capacity() < 1 << 16);
    }

    #[test]
    fn full_receives_grow_the_buffer_within_its_bound() {
        let mut input = Input::new(RECEIVE);
        for _ in 0..20 {
            let mut bytes = input.lend(RECEIVE, 0);
            let room = bytes.capacity();
            bytes.resize(room, 0);
            input.give_back(bytes, room, RECEIVE);
            input.consume(room);
        }
        assert_eq!(input.wanted, RECEIVE_GROWTH_MAX);
        let bytes = input.lend(RECEIVE, 0);
        input.give_back(bytes, 1, RECEIVE);
        assert_eq!(input.wanted, RECEIVE);
    }

    #[test]
    fn one_send_at_a_time_and_its_buffer_is_used_again() {
        let mut output = Output::default();
        assert!(output.start(0).is_none());
        let mut buffer = output.take();
        buffer.extend_from_slice(b"one");
        output.restore(buffer, 0);
        let sent = output.start(0).unwrap();
        assert_eq!(sent, b"one");
        let mut buffer = output.take();
        buffer.extend_from_slice(b"two");
        output.restore(buffer, 0);
        assert!(output.start(0).is_none(), "one at a time");
        assert!(!output.is_clear());
        output.finish(sent);
        let sent = output.start(0).unwrap();
        assert_eq!(sent, b"two");
        output.went_on(7);
        assert!(!output.is_sending_since(6), "a part of it was taken since");
        assert!(output.is_sending_since(7));
        output.finish(sent);
        assert!(output.is_clear());
        assert!(output.spare.capacity() > 0);
    }

    #[test]
    fn what_clients_leave_unread_is_counted_together_until_it_has_left_or_they_have() {
        let all = Rc::new(Cell::new(0));
        let mut outputs = [Output::counted_in(all.clone()), Output::counted_in(all.clone())];
        for output in &mut outputs {
            let mut buffer = output.take();
            buffer.extend_from_slice(&[7; 100]);
            output.restore(buffer, 0);
        }
        assert_eq!((all.get(), outputs[0].bytes()), (200, 100));
        let sent = outputs[0].start(5).unwrap();
        assert!(outputs[0].is_sending_since(5) && !outputs[0].is_sending_since(4));
        assert_eq!(outputs[0].bytes_of_all(), Some(200), "the kernel has it, and memory holds it");
        outputs[0].finish(sent);
        assert_eq!(all.get(), 100);
        drop(outputs);
        assert_eq!(all.get(), 0);
    }

    /// Two thousand connections that are refused a large answer each kept the room it had been encoded in: 250 MiB of a node of 256.
    #[test]
    fn the_room_of_a_client_is_what_all_leave_less_what_it_has_itself() {
        fn queue(output: &mut Output, bytes: usize) {
            let mut buffer = output.take();
            let had = buffer.len();
            buffer.resize(had + bytes, 7);
            output.restore(buffer, had);
        }
        let all = Rc::new(Cell::new(0));
        let mut outputs = [Output::counted_in(all.clone()), Output::counted_in(all.clone())];
        outputs.iter_mut().for_each(|output| queue(output, 100));
        assert_eq!(outputs[0].room(1_000, 1_000), 700);
        assert_eq!(outputs[0].room(1_000, 250), 0, "the other one has it");
        assert_eq!((outputs[0].room(101, 1_000), outputs[0].room(100, 1_000)), (700, 0));
        let sent = outputs[0].start(0).unwrap();
        assert_eq!(outputs[0].room(100, 1_000), 700, "what is with the kernel is not queued, and not read");
        queue(&mut outputs[0], 50);
        assert_eq!((all.get(), outputs[0].room(100, 1_000)), (250, 600));
        outputs[0].finish(sent);
        assert_eq!(outputs[0].room(100, 1_000), 800);
        assert_eq!(Output::default().room(1, 0), usize::MAX, "a link to another node is not a client's");
    }

    #[test]
    fn what_was_encoded_in_vain_leaves_no_room_behind() {
        let mut output = Output::default();
        let mut buffer = output.take();
        buffer.extend_from_slice(&[7; 2 * OUT_KEPT_MAX]);
        buffer.truncate(0);
        output.restore(buffer, 0);
        assert_eq!(output.queued.capacity(), 0);
    }

    #[test]
    #[should_panic(expected = "not there")]
    fn consuming_too_much_is_a_bug() {
        Input::new(RECEIVE).consume(1);
    }
}
