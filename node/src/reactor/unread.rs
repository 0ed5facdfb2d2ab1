//! How long what a connection sent may have lain here, in its socket or received, because it was not read from: its answers had piled up, there was no room for its long
//! frame, or it waited for its share of a turn.
//!
//! A client that has waited for as long as it meant to has given up by then, and may have written something else since. So whoever takes in what was sent then counts
//! the time that it lay there ([`Env::lay_ns`](crate::env::Env::lay_ns)), from when its connection was no longer read from. Where what lay there ends is asked of the
//! socket when the connection is read from again; what the other end's system kept because the socket was full comes behind that, and is counted with it until the
//! socket is found empty. What comes after that, with the network between, may be as old and seems new.

use std::net::TcpStream;

use rustix::io::ioctl_fionread;

/// What is received after less has waited no longer than any may in a long turn, in nanoseconds.
const LYING_NS_MIN: u64 = 250_000_000;
/// Most that is taken to lie in the other end's system, behind what lies in the socket here, in bytes.
const AFAR_BYTES_MAX: u64 = 4 << 20;
/// What is taken to lie in a socket that does not say it, in bytes.
const HERE_BYTES_MAX: u64 = 32 << 20;

/// What lay there while a connection was not read from.
#[derive(Clone, Copy, Debug)]
struct Lain {
    /// Since when it was not read from.
    since_ns: u64,
    /// Where that ends: the number of bytes of the connection before the first that is new.
    until: u64,
}

/// Of one connection.
#[derive(Debug, Default)]
pub(super) struct Unread {
    /// When it was no longer read from, while it is not. What was received before may be delivered meanwhile, a part at a time.
    since_ns: Option<u64>,
    /// How many bytes of it were received.
    received: u64,
    /// What is not delivered yet of what lay there before it was read from again, and then what lay there once more, or several times more.
    older: Option<Lain>,
    newer: Option<Lain>,
    /// So old is the first of what is being delivered.
    lay_ns: u64,
}

impl Unread {
    /// It is not read from.
    pub(super) fn begins(&mut self, now_ns: u64) {
        self.since_ns.get_or_insert(now_ns);
    }

    /// So many received bytes are delivered, be it read from again or not.
    pub(super) fn delivers(&mut self, now_ns: u64, bytes: usize) {
        self.forget_delivered(bytes);
        let since_ns = self.older.map(|lain| lain.since_ns).or(self.since_ns);
        self.lay_ns = since_ns.map_or(0, |since_ns| now_ns.saturating_sub(since_ns));
    }

    /// It is read from; so many received bytes are not delivered.
    pub(super) fn ends(&mut self, now_ns: u64, stream: &TcpStream, bytes: usize) {
        let Some(since_ns) = self.since_ns.take() else { return };
        if now_ns.saturating_sub(since_ns) < LYING_NS_MIN {
            return;
        }
        self.forget_delivered(bytes);
        let until = match lying_bytes(stream) {
            0 => self.received,
            lying_bytes => self.received + lying_bytes + AFAR_BYTES_MAX,
        };
        if until == self.received - bytes as u64 {
            return;
        }
        match (self.older, &mut self.newer) {
            (None, _) => self.older = Some(Lain { since_ns, until }),
            (Some(_), None) => self.newer = Some(Lain { since_ns, until }),
            // The last of it is taken to be as old as the first. The oldest is not: it would grow older with each pause for as long as the socket is never found empty.
            (Some(_), Some(newer)) => newer.until = until,
        }
    }

    /// By how much what is being delivered may be older than it seems, in nanoseconds.
    pub(super) fn lay_ns(&self) -> u64 {
        if self.lay_ns < LYING_NS_MIN { 0 } else { self.lay_ns }
    }

    /// So much was received.
    pub(super) fn received(&mut self, bytes: usize) {
        self.received += bytes as u64;
    }

    /// More is to be received; so many received bytes are not delivered, perhaps because they are a part of something. Whether anything lies there is asked of the
    /// socket if need be.
    pub(super) fn goes_on(&mut self, stream: &TcpStream, bytes: usize) {
        self.forget_delivered(bytes);
        let is_to_come = |lain: Option<Lain>| lain.is_some_and(|lain| lain.until > self.received);
        if (is_to_come(self.older) || is_to_come(self.newer)) && lying_bytes(stream) == 0 {
            for lain in self.older.iter_mut().chain(&mut self.newer) {
                lain.until = lain.until.min(self.received);
            }
            self.forget_delivered(bytes);
        }
    }

    /// What lay there is past but for what the last so many received bytes are of it.
    fn forget_delivered(&mut self, bytes: usize) {
        let delivered = self.received - bytes as u64;
        if self.older.is_some_and(|lain| lain.until <= delivered) {
            self.older = self.newer.take();
        }
        if self.older.is_some_and(|lain| lain.until <= delivered) {
            self.older = None;
        }
    }
}

/// What is to be received at this moment, in bytes.
fn lying_bytes(stream: &TcpStream) -> u64 {
    ioctl_fionread(stream).unwrap_or(HERE_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::os::fd::OwnedFd;

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        let (stream, _) = listener.accept().expect("it has connected");
        (client, stream)
    }

    /// One that has something in its socket.
    fn with(bytes: &[u8]) -> (TcpStream, TcpStream) {
        let (mut client, stream) = pair();
        client.write_all(bytes).expect("it has room");
        stream.peek(&mut [0; 1]).expect("it comes");
        (client, stream)
    }

    /// How old that seems that is delivered now.
    fn lay_ns(unread: &mut Unread, now_ns: u64, bytes: usize) -> u64 {
        unread.delivers(now_ns, bytes);
        unread.lay_ns()
    }

    #[test]
    fn what_lay_there_is_as_old_until_the_socket_is_empty() {
        let (_client, mut stream) = with(b"ab");
        let mut unread = Unread::default();
        unread.begins(10);
        let now_ns = 10 + LYING_NS_MIN;
        unread.ends(now_ns - 1, &stream, 0);
        assert_eq!(lay_ns(&mut unread, now_ns, 0), 0, "a long turn");
        unread.begins(10);
        unread.begins(30);
        unread.ends(now_ns, &stream, 0);
        unread.ends(10 * now_ns, &stream, 0);
        unread.goes_on(&stream, 0);
        stream.read_exact(&mut [0; 1]).expect("it comes");
        unread.received(1);
        assert_eq!(lay_ns(&mut unread, now_ns, 1), LYING_NS_MIN);
        unread.goes_on(&stream, 0);
        stream.read_exact(&mut [0; 1]).expect("it comes");
        unread.received(1);
        assert_eq!(lay_ns(&mut unread, now_ns, 1), LYING_NS_MIN, "there is more");
        unread.goes_on(&stream, 1);
        unread.received(100);
        assert_eq!(lay_ns(&mut unread, now_ns, 101), LYING_NS_MIN, "the first part of it lay there");
        unread.goes_on(&stream, 0);
        unread.received(100);
        assert_eq!(lay_ns(&mut unread, now_ns, 100), 0, "what comes now is new");
    }

    /// Each part that was delivered took the time before it away, and what lay behind all of them seemed new.
    #[test]
    fn what_is_delivered_a_part_at_a_time_grows_older() {
        let (_client, stream) = with(b"more");
        let part_ns = LYING_NS_MIN / 3 + 1;
        let mut unread = Unread::default();
        unread.received(5);
        for nth in 1..=4 {
            unread.begins(10 + (nth - 1) * part_ns);
            let parts_ns = if nth < 3 { 0 } else { nth * part_ns };
            assert_eq!(lay_ns(&mut unread, 10 + nth * part_ns, 5), parts_ns);
        }
        unread.ends(10 + 5 * part_ns, &stream, 1);
        assert_eq!(lay_ns(&mut unread, 10 + 5 * part_ns, 1), 5 * part_ns);
        unread.received(1);
        assert_eq!(
            lay_ns(&mut unread, 10 + 5 * part_ns, 1),
            5 * part_ns,
            "so does what lies in the socket meanwhile"
        );
    }

    /// What lay there through the first pause was so long that what lay behind it, through the second one only, was taken to be no older than new.
    #[test]
    fn what_lay_through_the_last_of_several_pauses_is_as_old_as_that() {
        let (_client, stream) = with(b"more");
        let mut unread = Unread::default();
        unread.begins(10);
        unread.ends(10 + LYING_NS_MIN, &stream, 0);
        let first = 4 + AFAR_BYTES_MAX as usize;
        unread.received(first - 1);
        let (second_ns, now_ns) = (20 + LYING_NS_MIN, 10 + 30 * LYING_NS_MIN);
        unread.begins(second_ns);
        unread.ends(now_ns, &stream, 0);
        unread.received(2);
        assert_eq!(lay_ns(&mut unread, now_ns, 2), now_ns - 10, "the first of it lay through both");
        assert_eq!(lay_ns(&mut unread, now_ns, 1), now_ns - second_ns);
        unread.goes_on(&stream, 0);
        unread.received(first);
        assert_eq!(lay_ns(&mut unread, now_ns, 3), now_ns - second_ns);
        assert_eq!(lay_ns(&mut unread, now_ns, 2), 0, "and that is all");
    }

    /// The process was stopped once a pause had ended, and what lay there through both was taken to be no older than the pause.
    #[test]
    fn what_lies_there_grows_older_until_it_is_delivered() {
        let (_client, stream) = with(b"more");
        let mut unread = Unread::default();
        unread.begins(10);
        unread.ends(10 + LYING_NS_MIN, &stream, 0);
        unread.received(4);
        assert_eq!(lay_ns(&mut unread, 10 + 3 * LYING_NS_MIN, 4), 3 * LYING_NS_MIN);
    }

    /// A connection that sends as fast as it is read never leaves a socket empty.
    #[test]
    fn what_came_after_as_much_as_sockets_hold_is_new() {
        const FOR_NS: u64 = 10 * LYING_NS_MIN;
        let (_client, stream) = with(b"more");
        let mut unread = Unread::default();
        for nth in 0..100 {
            let now_ns = 10 + nth * FOR_NS;
            // A quarter of what lay there is taken in between two pauses.
            let lay_ns = lay_ns(&mut unread, now_ns, 0);
            assert!(lay_ns <= 8 * FOR_NS, "{lay_ns}");
            assert!(lay_ns >= nth.min(4) * FOR_NS, "{lay_ns}");
            unread.begins(now_ns);
            unread.ends(now_ns + LYING_NS_MIN, &stream, 0);
            unread.received(AFAR_BYTES_MAX as usize / 4);
            unread.goes_on(&stream, 0);
        }
        unread.received(AFAR_BYTES_MAX as usize);
        assert_eq!(lay_ns(&mut unread, 1_000 * FOR_NS, 0), 0);
    }

    #[test]
    fn a_socket_that_does_not_say_what_lies_there_is_taken_for_full() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let silent = TcpStream::from(OwnedFd::from(listener));
        let mut unread = Unread::default();
        unread.begins(10);
        unread.ends(10 + LYING_NS_MIN, &silent, 0);
        let full = (HERE_BYTES_MAX + AFAR_BYTES_MAX) as usize;
        unread.received(full);
        assert_eq!(lay_ns(&mut unread, 10 + LYING_NS_MIN, 1), LYING_NS_MIN);
        assert_eq!(lay_ns(&mut unread, 10 + LYING_NS_MIN, 0), 0);
    }
}
