//! Sockets on the ring: queued under a token, answered by an [`Event`].

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd};
use std::rc::Rc;

use super::operation::{Key, Operation};
use super::{Ring, cancel_entry};

/// The caller's name for what an event is about; the ring only carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token(pub u64);

/// A completed network operation.
#[derive(Debug)]
pub enum Event {
    /// A listener accepted a connection, or failed to.
    Accepted {
        /// Of the listener.
        token: Token,
        /// The connection.
        stream: io::Result<TcpStream>,
    },
    /// A connection stands, or could not be made.
    Connected {
        /// As given to [`Ring::connect`].
        token: Token,
        /// The connection.
        stream: io::Result<TcpStream>,
    },
    /// Bytes were appended to the buffer; none means that the peer has closed.
    Received {
        /// As given to [`Ring::receive`].
        token: Token,
        /// The buffer that was lent.
        buffer: Vec<u8>,
        /// How many bytes were appended.
        result: io::Result<usize>,
    },
    /// Bytes were handed to the socket, all unless something failed.
    Sent {
        /// As given to [`Ring::send`].
        token: Token,
        /// The buffer that was lent.
        buffer: Vec<u8>,
        /// Where in it sending had started.
        from: usize,
        /// How many bytes the socket took.
        result: io::Result<usize>,
    },
    /// The doorbell was rung.
    Rung {
        /// As given to [`Ring::watch`](Ring::watch).
        token: Token,
    },
}

/// A listener that waits for a connection; needed to stop it.
#[derive(Debug)]
pub struct Listening(Key);

impl Ring {
    /// Accepts one connection.
    pub fn accept(&self, listener: Rc<TcpListener>, token: Token) -> Listening {
        Listening(self.queue_event(Operation::Accept { listener }, token))
    }

    /// Stops a listener; an [`Event::Accepted`] follows, with an error unless a connection came just before.
    pub fn stop_listening(&self, listening: Listening) {
        self.0.borrow_mut().others.push(cancel_entry(listening.0));
    }

    /// Starts connecting.
    ///
    /// # Errors
    /// When no socket can be made.
    pub fn connect(&self, to: SocketAddr, token: Token) -> io::Result<()> {
        let family = if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        // SAFETY: socket takes no pointers; a descriptor it returns is ours alone.
        let stream = unsafe {
            let fd = libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            TcpStream::from_raw_fd(fd)
        };
        let (address, address_bytes) = socket_address(to);
        self.queue_event(Operation::Connect { stream, address: vec![address], address_bytes }, token);
        Ok(())
    }

    /// Receives once into the spare capacity of `buffer`, which must not be nothing.
    pub fn receive(&self, stream: &Rc<TcpStream>, buffer: Vec<u8>, token: Token) {
        assert!(buffer.capacity() > buffer.len(), "nothing can be received into a full buffer");
        self.queue_event(Operation::Receive { stream: stream.clone(), buffer }, token);
    }

    /// Sends `buffer[from..]`.
    pub fn send(&self, stream: &Rc<TcpStream>, buffer: Vec<u8>, from: usize, token: Token) {
        assert!(from < buffer.len(), "nothing to send");
        self.queue_event(Operation::Send { stream: stream.clone(), buffer, from }, token);
    }
}

/// A listener with a backlog that survives many clients connecting at once (the standard library's is 128).
///
/// # Errors
/// When the address cannot be bound.
pub fn listen(address: SocketAddr, backlog: u16) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    // SAFETY: listen takes no pointers; on a listening socket it only changes the backlog.
    if unsafe { libc::listen(listener.as_raw_fd(), i32::from(backlog)) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(listener)
}

/// The kernel's form of an address, and its length in bytes.
fn socket_address(address: SocketAddr) -> (libc::sockaddr_storage, u32) {
    // SAFETY: sockaddr_storage is plain bytes, and large and aligned enough for every address family.
    unsafe {
        let mut storage: libc::sockaddr_storage = std::mem::zeroed();
        let bytes = match address {
            SocketAddr::V4(v4) => {
                let raw = &mut *(&raw mut storage).cast::<libc::sockaddr_in>();
                raw.sin_family = libc::AF_INET as libc::sa_family_t;
                raw.sin_port = v4.port().to_be();
                raw.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
                size_of::<libc::sockaddr_in>()
            }
            SocketAddr::V6(v6) => {
                let raw = &mut *(&raw mut storage).cast::<libc::sockaddr_in6>();
                raw.sin6_family = libc::AF_INET6 as libc::sa_family_t;
                raw.sin6_port = v6.port().to_be();
                raw.sin6_addr.s6_addr = v6.ip().octets();
                raw.sin6_flowinfo = v6.flowinfo();
                raw.sin6_scope_id = v6.scope_id();
                size_of::<libc::sockaddr_in6>()
            }
        };
        (storage, bytes as u32)
    }
}
