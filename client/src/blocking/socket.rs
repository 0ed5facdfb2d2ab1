//! One connection's socket and the thread that opens and reads it.

use super::{Dial, READ_BYTES};
use crate::pipeline::ConnectionId;
use crate::unsent;
use socket2::SockRef;
use std::io::{self, ErrorKind, Read};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::mpsc::SyncSender;
use std::thread;
use std::time::Duration;

/// Something that happened to a connection.
pub(super) struct Event {
    pub(super) connection: ConnectionId,
    pub(super) what: What,
}

pub(super) enum What {
    /// The socket is open; this half is for writing and closing.
    Connected(TcpStream),
    Bytes(Vec<u8>),
    /// It could not be opened, or ended. The thread's last word.
    Lost(String),
}

/// Starts the connection's thread. It ends when the socket does, or when the client is gone.
pub(super) fn open(
    connection: ConnectionId,
    address: String,
    connect_timeout: Duration,
    write_timeout: Duration,
    dial: Option<Dial>,
    events: &SyncSender<Event>,
) {
    let events_out = events.clone();
    let run = move || {
        let opened = match dial {
            Some(dial) => dial(&address, connect_timeout),
            None => connect(&address, connect_timeout),
        };
        let ended = opened.and_then(|stream| read_all(connection, stream, write_timeout, &events_out));
        let detail = ended.err().map_or_else(|| "the server closed it".to_owned(), |error| error.to_string());
        // A client that is gone needs no last word.
        let _ = events_out.send(Event { connection, what: What::Lost(detail) });
    };
    thread::Builder::new()
        .name("ferrite-client".to_owned())
        .spawn(run)
        .expect("the system has room for a connection's thread");
}

fn read_all(
    connection: ConnectionId,
    mut stream: TcpStream,
    write_timeout: Duration,
    events: &SyncSender<Event>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    unsent::bound(&SockRef::from(&stream));
    stream.set_write_timeout(Some(write_timeout.max(Duration::from_millis(1))))?;
    if events.send(Event { connection, what: What::Connected(stream.try_clone()?) }).is_err() {
        return Ok(());
    }
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(len) => {
                let what = What::Bytes(buffer[..len].to_vec());
                if events.send(Event { connection, what }).is_err() {
                    return Ok(());
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// When the socket is closed, what the system has not sent is not sent any more, and the other side is told so.
pub(super) fn forget_unsent(stream: &TcpStream) {
    // Fails on a socket that is closed already.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

fn connect(address: &str, timeout: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, timeout.max(Duration::from_millis(1))) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}
