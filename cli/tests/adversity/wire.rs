//! A connection without a client library: bytes go out as they are, and what comes back is read frame by frame.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::LazyLock;

use ferrite_wire::{
    ClusterId, CoreId, ErrorCode, Features, FrameFlags, FrameHeader, FrameKind, Hello, Key, Level, NodeId,
    Order, PROTOCOL_MAX, PROTOCOL_MIN, Parsed, Reply, Request, RequestId, Role, TableList, Tables,
    finish_frame, limits, parse_frame, start_frame,
};

use crate::cluster::{Cluster, WITHIN};

/// A peer that says it is another core of the first node, and so is a member; of a cluster of one node, whose tables it knows.
pub(crate) fn peer() -> Role<'static> {
    static TABLES: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut list = Vec::new();
        Tables::only_default(1).encode(&mut list);
        list
    });
    let tables = TableList::new(&TABLES).expect("it was encoded");
    Role::Peer { node: NodeId(1), core: CoreId(0), incarnation: 7, tables }
}

/// The number of every request made here but the last one.
pub(crate) const REQUEST: RequestId = RequestId(17);
const LAST_REQUEST: RequestId = RequestId(u64::MAX);

/// A whole frame with a right length and checksum.
pub(crate) fn frame(kind: FrameKind, body: &[u8]) -> Vec<u8> {
    frame_of(kind, REQUEST, Order(0), body)
}

/// The same with a number and a time.
pub(crate) fn frame_of(kind: FrameKind, request: RequestId, time: Order, body: &[u8]) -> Vec<u8> {
    with_header(&FrameHeader { kind, flags: FrameFlags(0), deadline_us: 0, request, time }, body)
}

fn with_header(header: &FrameHeader, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let start = start_frame(&mut out);
    out.extend_from_slice(body);
    finish_frame(&mut out, start, header);
    out
}

/// A frame whose header was changed behind its sender's back, but for the checksum, which is right.
pub(crate) fn with_header_byte(mut frame: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
    frame[at] = value;
    let checksum = crc32c::crc32c(&frame[4..]);
    frame[..4].copy_from_slice(&checksum.to_le_bytes());
    frame
}

/// A request's frame, that has as long as a test waits: a slow disk is no reason to leave it in doubt.
pub(crate) fn request(request: &Request<'_>) -> Vec<u8> {
    request_of(REQUEST.0, WITHIN.as_micros() as u32, request)
}

/// A request's frame with a number, that has so many microseconds.
pub(crate) fn request_of(number: u64, deadline_us: u32, request: &Request<'_>) -> Vec<u8> {
    let mut body = Vec::new();
    request.encode(&mut body);
    let (kind, request) = (request.kind(), RequestId(number));
    with_header(&FrameHeader { kind, flags: FrameFlags(0), deadline_us, request, time: Order(0) }, &body)
}

/// A put at the default level.
pub(crate) fn put<'a>(key: &'a [u8], value: &'a [u8]) -> Request<'a> {
    let (epoch, level, key) = (ferrite_wire::Epoch(0), Level::Quorum, Key::plain(key));
    Request::Put { epoch, level, options: 0, key, ttl_ms: 0, context: b"", value }
}

/// A get of one replica.
pub(crate) fn get(key: &[u8]) -> Request<'_> {
    Request::Get { epoch: ferrite_wire::Epoch(0), level: Level::One, options: 0, key: Key::plain(key) }
}

/// The first frame of a connection.
pub(crate) fn hello(cluster: ClusterId, role: Role<'_>) -> Vec<u8> {
    let hello = Hello { min: PROTOCOL_MIN, max: PROTOCOL_MAX, features: Features(0), cluster, role };
    let mut body = Vec::new();
    hello.encode(&mut body);
    frame_of(FrameKind::Hello, RequestId(0), Order(0), &body)
}

/// A frame that came back.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) kind: FrameKind,
    pub(crate) request: RequestId,
    /// If it is an error.
    pub(crate) code: Option<ErrorCode>,
}

/// A connection.
pub(crate) struct Raw {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Raw {
    /// To the contact address of the first node; nothing has been said.
    pub(crate) fn connect(cluster: &Cluster) -> Raw {
        let stream = TcpStream::connect(cluster.local.node(0).address.to_string()).expect("the node accepts");
        stream.set_read_timeout(Some(WITHIN)).expect("a timeout is set");
        stream.set_write_timeout(Some(WITHIN)).expect("a timeout is set");
        Raw { stream, unread: Vec::new() }
    }

    /// The same, greeted.
    pub(crate) fn greeted(cluster: &Cluster, role: Role<'_>) -> Raw {
        let mut raw = Raw::connect(cluster);
        raw.send(&hello(cluster.local.config().cluster.id, role));
        assert_eq!(raw.next().map(|said| said.kind), Some(FrameKind::HelloReply));
        raw
    }

    /// Its socket.
    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends bytes. That the server has already closed is found out by reading.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        match self.stream.write_all(bytes) {
            Ok(()) => {}
            Err(error) if is_closed(&error) => {}
            Err(error) => panic!("the server neither reads nor closes: {error}"),
        }
    }

    /// Says that nothing more will be sent.
    pub(crate) fn finish(&mut self) {
        // Closed by the server already, perhaps.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// The next frame; `None` once the server has closed.
    pub(crate) fn next(&mut self) -> Option<Said> {
        loop {
            match parse_frame(&self.unread, limits::BODY_BYTES_MAX).expect("the server's frames are good") {
                Parsed::Frame { frame, bytes } => {
                    let reply = Reply::decode(frame.header.kind, frame.body);
                    let code = match reply {
                        Ok(Reply::Error { code, .. }) => Some(code),
                        Ok(_) | Err(_) => None,
                    };
                    let said = Said { kind: frame.header.kind, request: frame.header.request, code };
                    self.unread.drain(..bytes);
                    return Some(said);
                }
                Parsed::Need { .. } => {
                    let mut buffer = [0; 64 * 1024];
                    match self.stream.read(&mut buffer) {
                        Ok(0) => return None,
                        Ok(count) => self.unread.extend_from_slice(&buffer[..count]),
                        Err(error) if is_closed(&error) => return None,
                        Err(error) => panic!("the server neither answers nor closes: {error}"),
                    }
                }
            }
        }
    }

    /// Everything said until the server closes.
    pub(crate) fn until_closed(&mut self) -> Vec<Said> {
        std::iter::from_fn(|| self.next()).collect()
    }

    /// Everything said before the answer to a ping, and whether that came or the server closed. Requests are answered in any
    /// order: what takes long may be answered later.
    pub(crate) fn until_pong_or_closed(&mut self) -> (Vec<Said>, bool) {
        self.send(&frame_of(FrameKind::Ping, LAST_REQUEST, Order(0), b""));
        let mut said = Vec::new();
        while let Some(next) = self.next() {
            if next.kind == FrameKind::Pong && next.request == LAST_REQUEST {
                return (said, true);
            }
            said.push(next);
        }
        (said, false)
    }
}

fn is_closed(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted)
}
