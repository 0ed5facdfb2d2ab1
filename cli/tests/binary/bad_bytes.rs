//! What comes over a socket and is no request: a typed error and a closed connection, and nobody else notices.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use ferrite_cli::local::LocalCluster;
use ferrite_client::{BlockingClient, Key, ReadOptions, WriteOptions};
use ferrite_wire::{
    ClusterId, CoreId, ErrorCode, FRAME_HEADER_BYTES, Features, FrameFlags, FrameHeader, FrameKind, Hello,
    NodeId, Order, PROTOCOL_MAX, PROTOCOL_MIN, Parsed, Reply, RequestId, Role, TableList, Tables,
    finish_frame, limits, parse_frame, start_frame,
};

use crate::{client, cluster, directory};

/// Bound on waiting for an answer, so that a server that never answers fails the test instead of hanging it.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

fn frame(kind: FrameKind, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let start = start_frame(&mut out);
    out.extend_from_slice(body);
    let header =
        FrameHeader { kind, flags: FrameFlags(0), deadline_us: 0, request: RequestId(1), time: Order(0) };
    finish_frame(&mut out, start, &header);
    out
}

fn hello(cluster: ClusterId, role: Role<'_>) -> Vec<u8> {
    let hello = Hello { min: PROTOCOL_MIN, max: PROTOCOL_MAX, features: Features(0), cluster, role };
    let mut body = Vec::new();
    hello.encode(&mut body);
    frame(FrameKind::Hello, &body)
}

fn connect(cluster: &LocalCluster) -> TcpStream {
    let stream = TcpStream::connect(cluster.node(0).address.to_string()).unwrap();
    stream.set_read_timeout(Some(ANSWER_WITHIN)).unwrap();
    stream
}

/// Everything the server says until it closes, as frames.
fn until_closed(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        // Closing with unread bytes resets the connection; what was sent before has been read.
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("the server neither answers nor closes: {error}"),
    }
    bytes
}

/// The code of the error that is the last frame of `bytes`.
fn last_error(bytes: &[u8]) -> Option<ErrorCode> {
    let (mut rest, mut code) = (bytes, None);
    while let Ok(Parsed::Frame { frame, bytes }) = parse_frame(rest, limits::BODY_BYTES_MAX) {
        if let Ok(Reply::Error { code: found, .. }) = Reply::decode(frame.header.kind, frame.body) {
            code = Some(found);
        }
        rest = &rest[bytes..];
    }
    code
}

/// A connection that was there before, and must not notice.
struct Bystander(BlockingClient);

impl Bystander {
    fn is_served(&mut self) {
        let outcome = self.0.put(Key::plain(b"bystander"), b"here", WriteOptions::default());
        assert!(outcome.is_done(), "{outcome}");
        let value = self.0.get(Key::plain(b"bystander"), ReadOptions::default()).unwrap().unwrap();
        assert_eq!(value.bytes, b"here");
    }
}

#[test]
fn bad_bytes_close_their_own_connection_only() {
    let home = directory();
    let cluster = cluster(home.path(), 1);
    let ours = cluster.config().cluster.id;
    let mut bystander = Bystander(client(&cluster));
    bystander.is_served();
    let any = ClusterId([0; 16]);

    let mut flipped = hello(any, Role::Client);
    flipped[FRAME_HEADER_BYTES + 9] ^= 1;
    let mut oversize = hello(any, Role::Client);
    oversize[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut unknown_kind = hello(any, Role::Client);
    unknown_kind[8] = 0xee;
    let mut future = Vec::new();
    Hello { min: 900, max: 901, features: Features(0), cluster: any, role: Role::Client }.encode(&mut future);
    let mut list = Vec::new();
    cluster.config().tables.encode(&mut list);
    let tables = TableList::new(&list).expect("it was encoded");
    let stranger = Role::Peer { node: NodeId(77), core: CoreId(0), incarnation: 1, tables };
    let otherwise = Tables::only_default(2);
    let mut other_list = Vec::new();
    otherwise.encode(&mut other_list);
    let other_tables = TableList::new(&other_list).expect("it was encoded");
    let misled = Role::Peer { node: NodeId(1), core: CoreId(0), incarnation: 1, tables: other_tables };
    let after_hello = |bytes: Vec<u8>| [hello(ours, Role::Client), bytes].concat();
    let mut long = frame(FrameKind::Get, b"");
    long[4..8].copy_from_slice(&(limits::BODY_BYTES_MAX as u32 + 1).to_le_bytes());

    for (name, bytes, expected) in [
        ("not the protocol", b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n".to_vec(), None),
        ("noise", (0..4096u32).map(|at| ((at * 151) >> 2) as u8).collect(), None),
        ("a flipped bit", flipped, Some(ErrorCode::Malformed)),
        ("an oversize length", oversize, None),
        ("an unknown kind of frame", unknown_kind, None),
        ("a request before the hello", frame(FrameKind::Ping, b""), Some(ErrorCode::Malformed)),
        ("a future version", frame(FrameKind::Hello, &future), Some(ErrorCode::Version)),
        ("another cluster", hello(ClusterId([9; 16]), Role::Client), Some(ErrorCode::ForeignCluster)),
        ("a node that is no member", hello(ours, stranger), Some(ErrorCode::ForeignCluster)),
        ("a member with other tables", hello(ours, misled), Some(ErrorCode::TablesDiffer)),
        ("a second hello", after_hello(hello(ours, Role::Client)), None),
        ("a body that is cut", after_hello(frame(FrameKind::Get, b"\x01\x02")), Some(ErrorCode::Malformed)),
        ("a body over the limit", after_hello(long), None),
        ("a peer's message from a client", after_hello(frame(FrameKind::ReplicaWrite, b"")), None),
    ] {
        let mut stream = connect(&cluster);
        stream.write_all(&bytes).unwrap();
        let answer = until_closed(&mut stream);
        let code = last_error(&answer).unwrap_or_else(|| panic!("{name}: closed without a typed error"));
        assert!(expected.is_none_or(|expected| code == expected), "{name}: {code:?}");
        bystander.is_served();
    }
}

#[test]
fn half_a_header_holds_nobody_up_and_is_given_up() {
    let home = directory();
    let cluster = cluster(home.path(), 1);
    let mut bystander = Bystander(client(&cluster));
    let whole = hello(ClusterId([0; 16]), Role::Client);
    let mut before_hello = connect(&cluster);
    before_hello.write_all(&whole[..FRAME_HEADER_BYTES / 2]).unwrap();
    let mut after_hello = connect(&cluster);
    after_hello.write_all(&whole).unwrap();
    after_hello.write_all(&frame(FrameKind::Ping, b"")[..7]).unwrap();
    let silent = &mut connect(&cluster);
    bystander.is_served();
    for (name, stream) in [("before", &mut before_hello), ("after", &mut after_hello), ("silent", silent)] {
        let answer = until_closed(stream);
        assert_eq!(last_error(&answer), Some(ErrorCode::Malformed), "{name}");
        bystander.is_served();
    }
}
