//! How long what a connection sent may have lain here, in its socket or received, because it was not read from: its answers had piled up, there was no room for its long
//! frame, or it waited for its share of a turn.
//!
//! A client that has waited for as long as it meant to has given up by then, and may have written something else since. So whoever takes in what was sent then counts
//! the time that it lay there ([`Env::lay_ns`](crate::env::Env::lay_ns)): until the socket is found empty, or as much was received as sockets hold. What the
//! client's own system kept because the socket here was full may come after that, and seem new.

use std::io::ErrorKind;
use std::mem::MaybeUninit;
use std::net::TcpStream;

use socket2::SockRef;

/// What is received after less has waited no longer than any may in a long turn, in nanoseconds.
const LYING_NS_MIN: u64 = 250_000_000;
/// Most that is taken to lie in a socket, and in the one at the other end, in bytes.
const LYING_BYTES_MAX: usize = 4 << 20;

/// Of one connection.
#[derive(Debug, Default)]
pub(super) struct Unread {
    /// When it was no longer read from, while it is not. What was received before may be delivered meanwhile, a part at a time.
    since_ns: Option<u64>,
    /// How long that has lasted by this delivery.
    so_far_ns: u64,
    /// So long lay what is there, but for that.
    lay_ns: u64,
    left_bytes: usize,
}

impl Unread {
    /// It is not read from.
    pub(super) fn begins(&mut self, now_ns: u64) {
        self.since_ns.get_or_insert(now_ns);
    }

    /// What was received is delivered, be it read from again or not.
    pub(super) fn delivers(&mut self, now_ns: u64) {
        self.so_far_ns = self.since_ns.map_or(0, |since_ns| now_ns.saturating_sub(since_ns));
    }

    /// It is read from.
    pub(super) fn ends(&mut self, now_ns: u64) {
        self.delivers(now_ns);
        let lasted_ns = std::mem::take(&mut self.so_far_ns);
        self.since_ns = None;
        if lasted_ns < LYING_NS_MIN {
            return;
        }
        if self.lay_ns == 0 {
            self.left_bytes = LYING_BYTES_MAX;
        }
        // What was left from the time before has waited for both.
        self.lay_ns += lasted_ns;
    }

    /// By how much what is being delivered may be older than it seems, in nanoseconds.
    pub(super) fn lay_ns(&self) -> u64 {
        let lay_ns = self.lay_ns + self.so_far_ns;
        if lay_ns < LYING_NS_MIN { 0 } else { lay_ns }
    }

    /// So much was received.
    pub(super) fn received(&mut self, bytes: usize) {
        self.left_bytes = self.left_bytes.saturating_sub(bytes);
    }

    /// More is to be received, and of what was nothing whole is left; `is_all_gone`: nor a part of anything. Whether anything lies there is asked of the socket if
    /// need be.
    pub(super) fn goes_on(&mut self, stream: &TcpStream, is_all_gone: bool) {
        if self.lay_ns > 0 && (self.left_bytes == 0 || is_all_gone && is_empty(stream)) {
            self.lay_ns = 0;
        }
    }
}

/// Whether nothing is to be received at this moment.
fn is_empty(stream: &TcpStream) -> bool {
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    let peeked = SockRef::from(stream).recv_with_flags(&mut [MaybeUninit::uninit()], flags);
    peeked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn what_lay_there_is_as_old_until_the_socket_is_empty() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut client = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        let (mut stream, _) = listener.accept().expect("it has connected");
        let mut unread = Unread::default();
        unread.begins(10);
        unread.ends(10 + LYING_NS_MIN - 1);
        assert_eq!(unread.lay_ns(), 0, "a long turn");
        unread.begins(20);
        unread.begins(30);
        unread.ends(20 + LYING_NS_MIN);
        unread.ends(10 * LYING_NS_MIN);
        assert_eq!(unread.lay_ns(), LYING_NS_MIN);
        client.write_all(b"ab").expect("it has room");
        stream.read_exact(&mut [0; 1]).expect("it comes");
        unread.goes_on(&stream, true);
        assert_eq!(unread.lay_ns(), LYING_NS_MIN, "there is more");
        stream.read_exact(&mut [0; 1]).expect("it comes");
        unread.goes_on(&stream, false);
        assert_eq!(unread.lay_ns(), LYING_NS_MIN, "the rest of a frame that lay there is to come");
        unread.goes_on(&stream, true);
        assert_eq!(unread.lay_ns(), 0, "what comes now is new");
    }

    /// Each part that was delivered took the time before it away, and what lay behind all of them seemed new.
    #[test]
    fn what_is_delivered_a_part_at_a_time_grows_older() {
        let part_ns = LYING_NS_MIN / 3 + 1;
        let mut unread = Unread::default();
        for nth in 1..=4 {
            unread.begins(10 + (nth - 1) * part_ns);
            unread.delivers(10 + nth * part_ns);
            assert_eq!(unread.lay_ns(), if nth < 3 { 0 } else { nth * part_ns });
        }
        unread.ends(10 + 5 * part_ns);
        assert_eq!(unread.lay_ns(), 5 * part_ns, "so does what lies in the socket meanwhile");
    }

    /// A connection that sends as fast as it is read never leaves a socket empty.
    #[test]
    fn what_came_after_as_much_as_sockets_hold_is_new() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut client = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        let (stream, _) = listener.accept().expect("it has connected");
        client.write_all(b"more").expect("it has room");
        stream.peek(&mut [0; 1]).expect("it comes");
        let mut unread = Unread::default();
        for turn in 0..4 {
            assert_eq!(unread.lay_ns(), turn * LYING_NS_MIN);
            unread.begins(10);
            unread.ends(10 + LYING_NS_MIN);
            unread.received(LYING_BYTES_MAX / 4);
            unread.goes_on(&stream, true);
        }
        assert_eq!(unread.lay_ns(), 0);
    }
}
