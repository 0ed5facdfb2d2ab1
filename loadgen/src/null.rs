//! The null server: answers at once and keeps nothing. It is the yardstick that other servers are measured against, since
//! what it costs is what the kernel's sockets and the protocol cost.
//!
//! One thread, one epoll; a connection speaks the Ferrite protocol or RESP2, told apart by its first bytes. All requests
//! of one read are answered by one write. Nothing here is tuned beyond that.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixStream,
};

use ferrite_wire::{
    ClusterId, CoreId, Epoch, ErrorCode, Features, FrameHeader, FrameKind, FrameView, HashSeed, Hello,
    HelloReply, NodeEntry, NodeId, Order, PROTOCOL_MAX, Parsed, Reply, Request, Tables, Topology, Version,
    finish_frame, limits, parse_frame, start_frame,
};

use crate::{
    ferrite::control_header,
    poll::Poll,
    protocol::Garbled,
    resp::{bulk, line, number},
};

/// Size of the shared receive buffer, in bytes; it grows for requests that do not fit.
const RECEIVE_BYTES: usize = 256 * 1024;
/// Answers waiting to be written on one connection, in bytes; beyond that it is not read from.
const UNSENT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most words of one RESP command.
const WORDS_MAX: usize = 8;
const LISTENER: u64 = u64::MAX;
const STOP: u64 = u64::MAX - 1;

/// What a server that pretends to store things says.
pub trait Answers {
    /// The value of a key, if it has one.
    fn get(&mut self, key: &[u8]) -> Option<&[u8]>;
    /// Takes a value.
    fn put(&mut self, key: &[u8], value: &[u8]);
}

/// The same value for every key.
#[derive(Clone, Debug)]
pub struct Constant {
    value: Vec<u8>,
}

impl Constant {
    /// A value of `size` bytes.
    pub fn new(size: usize) -> Constant {
        Constant { value: vec![b'x'; size] }
    }
}

impl Answers for Constant {
    #[inline]
    fn get(&mut self, _key: &[u8]) -> Option<&[u8]> {
        Some(&self.value)
    }

    #[inline]
    fn put(&mut self, _key: &[u8], _value: &[u8]) {}
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spoken {
    Ferrite,
    Resp,
}

impl Spoken {
    /// A RESP command begins with its number of words; a frame begins with a checksum, which may look like anything, but
    /// the four bytes after a count of one digit are no coincidence. `None` = too few bytes to tell.
    fn of(bytes: &[u8]) -> Option<Spoken> {
        let head = bytes.first_chunk::<5>()?;
        let resp = head[0] == b'*' && head[1].is_ascii_digit() && head[2..] == *b"\r\n$";
        Some(if resp { Spoken::Resp } else { Spoken::Ferrite })
    }
}

#[derive(Debug)]
struct Peer {
    stream: TcpStream,
    /// Known once the first bytes have arrived.
    spoken: Option<Spoken>,
    partial: Vec<u8>,
    out: Vec<u8>,
    written: usize,
    /// Whether it is not read from until its answers are written.
    full: bool,
}

/// Serves as the only node of a cluster until `stop`'s other end is closed; without it, for ever.
pub fn serve(listener: TcpListener, stop: Option<UnixStream>, answers: impl Answers) -> io::Result<()> {
    let topology = own_topology(&listener.local_addr()?.to_string());
    serve_as(listener, stop, answers, &topology)
}

/// Serves as one endpoint of a cluster that looks like `topology`.
pub fn serve_as(
    listener: TcpListener,
    stop: Option<UnixStream>,
    answers: impl Answers,
    topology: &Topology,
) -> io::Result<()> {
    let mut encoded = Vec::new();
    topology.encode(&mut encoded);
    listener.set_nonblocking(true)?;
    let mut poll = Poll::new()?;
    poll.watch(&listener, LISTENER)?;
    if let Some(stop) = &stop {
        poll.watch(stop, STOP)?;
    }
    let mut server = Server { topology: encoded, answers, peers: Vec::new(), buffer: vec![0; RECEIVE_BYTES] };
    loop {
        for index in 0..poll.wait(None)? {
            let ready = poll.ready(index);
            match ready.token {
                STOP if ready.closing => return Ok(()),
                STOP => {}
                LISTENER => server.accept(&listener, &poll)?,
                token => server.serve(token as usize),
            }
        }
    }
}

struct Server<A> {
    /// Encoded.
    topology: Vec<u8>,
    answers: A,
    /// By token; tokens of closed connections are used again.
    peers: Vec<Option<Peer>>,
    buffer: Vec<u8>,
}

impl<A: Answers> Server<A> {
    fn accept(&mut self, listener: &TcpListener, poll: &Poll) -> io::Result<()> {
        loop {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            let free = self.peers.iter().position(Option::is_none).unwrap_or(self.peers.len());
            if free == self.peers.len() {
                self.peers.push(None);
            }
            poll.watch(&stream, free as u64)?;
            let (partial, out) = (Vec::new(), Vec::new());
            self.peers[free] = Some(Peer { stream, spoken: None, partial, out, written: 0, full: false });
        }
    }

    fn serve(&mut self, token: usize) {
        let Some(Some(peer)) = self.peers.get_mut(token) else { return };
        if !matches!(drive(peer, &mut self.buffer, &mut self.answers, &self.topology), Ok(true)) {
            self.peers[token] = None;
        }
    }
}

/// Reads, answers and writes until the kernel has nothing more or takes nothing more; `false` = the end was read.
fn drive(
    peer: &mut Peer,
    buffer: &mut Vec<u8>,
    answers: &mut impl Answers,
    topology: &[u8],
) -> io::Result<bool> {
    loop {
        flush(peer)?;
        peer.full = peer.out.len() - peer.written > UNSENT_BYTES_MAX;
        if peer.full {
            return Ok(true);
        }
        let have = peer.partial.len();
        if buffer.len() < have + RECEIVE_BYTES / 2 {
            buffer.resize(have * 2 + RECEIVE_BYTES, 0);
        }
        buffer[..have].copy_from_slice(&peer.partial);
        let count = match peer.stream.read(&mut buffer[have..]) {
            Ok(0) => return Ok(false),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let bytes = &buffer[..have + count];
        peer.spoken = peer.spoken.or_else(|| Spoken::of(bytes));
        let used = match peer.spoken {
            Some(Spoken::Resp) => answer_resp(bytes, answers, &mut peer.out),
            Some(Spoken::Ferrite) => answer_ferrite(bytes, answers, topology, &mut peer.out),
            None => Ok(0),
        };
        let used = used.map_err(|Garbled(why)| io::Error::new(ErrorKind::InvalidData, why))?;
        peer.partial.clear();
        peer.partial.extend_from_slice(&bytes[used..]);
        if peer.partial.len() > limits::BODY_BYTES_MAX * 2 {
            return Err(ErrorKind::InvalidData.into());
        }
    }
}

fn flush(peer: &mut Peer) -> io::Result<()> {
    while peer.written < peer.out.len() {
        match peer.stream.write(&peer.out[peer.written..]) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => peer.written += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    peer.out.clear();
    peer.written = 0;
    Ok(())
}

/// Answers every whole frame at the front of `bytes`, and says how many bytes they took.
fn answer_ferrite(
    bytes: &[u8],
    answers: &mut impl Answers,
    topology: &[u8],
    out: &mut Vec<u8>,
) -> Result<usize, Garbled> {
    let garbled = |error: ferrite_wire::DecodeError| Garbled(error.to_string());
    let mut used = 0;
    while let Parsed::Frame { frame, bytes } =
        parse_frame(&bytes[used..], limits::BODY_BYTES_MAX).map_err(garbled)?
    {
        used += bytes;
        answer_frame(frame, answers, topology, out).map_err(garbled)?;
    }
    Ok(used)
}

#[inline]
fn answer_frame(
    frame: FrameView<'_>,
    answers: &mut impl Answers,
    topology: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), ferrite_wire::DecodeError> {
    let start = start_frame(out);
    if frame.header.kind == FrameKind::Hello {
        Hello::decode(frame.body)?;
        hello_reply().encode(out);
        finish_frame(out, start, &control_header(FrameKind::HelloReply));
        return Ok(());
    }
    let version = Version { order: Order(1), ..Version::default() };
    let reply = match Request::decode(frame.header.kind, frame.body)? {
        Request::Get { key, .. } => match answers.get(key.partition) {
            Some(value) => Reply::Value { version, answered: 1, value },
            None => Reply::Absent { answered: 1 },
        },
        Request::Put { key, value, .. } => {
            answers.put(key.partition, value);
            Reply::Done { version, answered: 1, sloppy: false }
        }
        Request::Ping => Reply::Pong,
        Request::Status => Reply::Status("null server\n"),
        Request::Topology { .. } => Reply::Topology(topology),
        Request::Delete { .. } | Request::MultiGet { .. } | Request::MultiPut { .. } | Request::Hints(_) => {
            Reply::Error {
                code: ErrorCode::Unsupported,
                text: "the null server reads and writes single keys",
            }
        }
    };
    reply.encode(out);
    let header =
        FrameHeader { request: frame.header.request, time: version.order, ..control_header(reply.kind()) };
    finish_frame(out, start, &header);
    Ok(())
}

fn hello_reply() -> HelloReply {
    HelloReply {
        version: PROTOCOL_MAX,
        features: Features::default(),
        cluster: ClusterId([0; 16]),
        node: NodeId(1),
        core: CoreId(0),
        cores: 1,
        incarnation: 1,
        epoch: Epoch(1),
        body_bytes_max: limits::BODY_BYTES_MAX as u32,
    }
}

fn own_topology(address: &str) -> Topology {
    let node = NodeEntry {
        id: NodeId(1),
        incarnation: 1,
        name: "null".to_owned(),
        rack: String::new(),
        datacenter: String::new(),
        contact: address.to_owned(),
        endpoints: vec![address.to_owned()],
        core_of_vnode: vec![CoreId(0)],
    };
    Topology {
        epoch: Epoch(1),
        cluster: ClusterId([0; 16]),
        hash_seed: HashSeed(0),
        nodes: vec![node],
        tables: Tables::only_default(1),
        replicas: vec![vec![NodeId(1)]],
        vnode_epochs: vec![Epoch(1)],
    }
}

/// Answers every whole command at the front of `bytes`, and says how many bytes they took.
fn answer_resp(bytes: &[u8], answers: &mut impl Answers, out: &mut Vec<u8>) -> Result<usize, Garbled> {
    let mut used = 0;
    let mut words = [&[][..]; WORDS_MAX];
    while let Some((len, count)) = command(&bytes[used..], &mut words)? {
        used += len;
        match &words[..count] {
            [name, key] if name.eq_ignore_ascii_case(b"get") => match answers.get(key) {
                Some(value) => bulk(value, out),
                None => out.extend_from_slice(b"$-1\r\n"),
            },
            [name, key, value, ..] if name.eq_ignore_ascii_case(b"set") => {
                answers.put(key, value);
                out.extend_from_slice(b"+OK\r\n");
            }
            [name] if name.eq_ignore_ascii_case(b"ping") => out.extend_from_slice(b"+PONG\r\n"),
            _ => out.extend_from_slice(b"-ERR the null server knows GET, SET and PING\r\n"),
        }
    }
    Ok(used)
}

/// The words of the command at the front of `bytes`: its length and their number, or `None` while it is not whole.
#[inline]
fn command<'a>(
    bytes: &'a [u8],
    words: &mut [&'a [u8]; WORDS_MAX],
) -> Result<Option<(usize, usize)>, Garbled> {
    let mut at = 0;
    let length = |kind: u8, at: &mut usize| -> Result<Option<usize>, Garbled> {
        let Some(first) = bytes.get(*at) else { return Ok(None) };
        if *first != kind {
            return Err(Garbled(format!("a command that begins with byte {first}")));
        }
        let Some(line) = line(&bytes[*at + 1..])? else { return Ok(None) };
        *at += line.len() + 3;
        number(line).map(Some)
    };
    let Some(count) = length(b'*', &mut at)? else { return Ok(None) };
    if count == 0 || count > WORDS_MAX {
        return Err(Garbled(format!("a command of {count} words")));
    }
    for word in &mut words[..count] {
        let Some(len) = length(b'$', &mut at)? else { return Ok(None) };
        let Some(whole) = bytes.get(at..at + len + 2) else { return Ok(None) };
        *word = &whole[..len];
        at += len + 2;
    }
    Ok(Some((at, count)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_answered_only_when_whole() {
        let bytes =
            b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\nab\r\n*2\r\n$3\r\nget\r\n$1\r\nk\r\n*1\r\n$4\r\nPING\r\n";
        let mut out = Vec::new();
        assert_eq!(answer_resp(bytes, &mut Constant::new(3), &mut out), Ok(bytes.len()));
        assert_eq!(out, b"+OK\r\n$3\r\nxxx\r\n+PONG\r\n");
        let first = 28;
        for cut in 0..first {
            out.clear();
            assert_eq!(answer_resp(&bytes[..cut], &mut Constant::new(3), &mut out), Ok(0), "cut at {cut}");
            assert!(out.is_empty());
        }
    }

    #[test]
    fn frames_are_not_taken_for_commands() {
        assert_eq!(Spoken::of(b"*2\r\n$3"), Some(Spoken::Resp));
        assert_eq!(Spoken::of(b"*2ab\0\0\0"), Some(Spoken::Ferrite));
        assert_eq!(Spoken::of(b"*2\r"), None);
    }

    #[test]
    fn nonsense_closes_the_connection() {
        for bytes in [&b"*0\r\n"[..], b"*99\r\n", b"*1\r\nPING\r\n", b"*x\r\n"] {
            assert!(answer_resp(bytes, &mut Constant::new(3), &mut Vec::new()).is_err());
        }
        assert!(answer_ferrite(&[0xff; 64], &mut Constant::new(3), &[], &mut Vec::new()).is_err());
    }

    #[test]
    fn its_topology_names_itself() {
        let mut bytes = Vec::new();
        own_topology("127.0.0.1:9").encode(&mut bytes);
        let topology = Topology::decode(&bytes).expect("whole");
        assert_eq!(topology.nodes[0].endpoints, ["127.0.0.1:9"]);
    }
}
