//! A server that does nothing, over the real protocol and the real reactor: the yardstick for everything above them.
//!
//! Every key is found and has the same value, every write is done at once, nothing is stored. What a benchmark of the real
//! server costs more than this one is the shard, the engine and the replication; the rest is the reactor and the kernel.
//! It stores nothing, owns no data directory worth keeping, and must not be mistaken for a database.

use std::cell::Cell;
use std::convert::Infallible;
use std::net::SocketAddr;

use ferrite_wire::{
    Actor, ClusterId, CoreId, DecodeError, Epoch, ErrorCode, Features, FrameFlags, FrameHeader, FrameKind,
    FrameView, HashSeed, Hello, HelloReply, Item, NodeEntry, NodeId, Order, PROTOCOL_MAX, Parsed, Reply,
    Request, Tables, Topology, Version, VersionFlags, finish_frame, limits, parse_frame, start_frame,
};

use crate::env::{Connection, Env, Handler, Hop, Received};
use crate::reactor::{CoreError, CoreSetup, run_core};

/// The cluster that null servers claim to be.
const CLUSTER: ClusterId = ClusterId(*b"ferrite null 000");
/// Vnodes of that cluster.
const VNODES: usize = 16;

/// A shard without storage.
pub struct NullShard<E> {
    env: E,
    value: Vec<u8>,
    topology: Vec<u8>,
    stopping: Cell<bool>,
}

/// Runs one core of a null server until it is told to stop. `contact`: where clients are told to find it.
///
/// # Errors
/// See [`CoreError`].
pub fn serve(setup: CoreSetup, contact: SocketAddr, value_bytes: usize) -> Result<(), CoreError<Infallible>> {
    run_core(setup, move |env| async move { Ok(NullShard::new(env, contact, value_bytes)) })
}

impl<E: Env> NullShard<E> {
    /// A shard whose every value is `value_bytes` long.
    ///
    /// # Panics
    /// If that is longer than a value may be.
    pub fn new(env: E, contact: SocketAddr, value_bytes: usize) -> NullShard<E> {
        assert!(
            value_bytes <= limits::VALUE_BYTES_MAX,
            "a value has at most {} bytes",
            limits::VALUE_BYTES_MAX
        );
        let mut topology = Vec::new();
        let contact = contact.to_string();
        Topology {
            epoch: Epoch(1),
            cluster: CLUSTER,
            hash_seed: HashSeed(0),
            nodes: vec![NodeEntry {
                id: NodeId(0),
                incarnation: 1,
                name: "null".into(),
                rack: "null".into(),
                datacenter: "null".into(),
                endpoints: vec![contact.clone()],
                contact,
                core_of_vnode: vec![CoreId(0); VNODES],
            }],
            tables: Tables::only_default(1),
            replicas: vec![vec![NodeId(0)]; VNODES],
            vnode_epochs: vec![Epoch(1); VNODES],
        }
        .encode(&mut topology);
        NullShard { env, value: vec![b'0'; value_bytes], topology, stopping: Cell::new(false) }
    }

    /// Answers a frame; false if nothing can follow it.
    fn answer(&self, frame: &FrameView<'_>, out: &mut Vec<u8>) -> bool {
        let version =
            Version { order: Order(1), actor: Actor(1), flags: VersionFlags::default(), expiry_ms: 0 };
        let reply = match frame.header.kind {
            FrameKind::Get => Reply::Value { version, answered: 1, value: &self.value },
            FrameKind::Put | FrameKind::Delete => Reply::Done { version, answered: 1, sloppy: false },
            FrameKind::Ping => Reply::Pong,
            FrameKind::Status => Reply::Status("server null\n"),
            FrameKind::Topology => Reply::Topology(&self.topology),
            FrameKind::MultiGet => return self.answer_many(frame, version, out),
            FrameKind::Hello => return self.greet(frame, out),
            FrameKind::HelloReply
            | FrameKind::MultiPut
            | FrameKind::Hints
            | FrameKind::Pong
            | FrameKind::TopologyReply
            | FrameKind::StatusReply
            | FrameKind::Value
            | FrameKind::Absent
            | FrameKind::Done
            | FrameKind::Values
            | FrameKind::Siblings
            | FrameKind::Outcomes
            | FrameKind::Error
            | FrameKind::ReplicaWrite
            | FrameKind::ReplicaRead
            | FrameKind::HintedWrite
            | FrameKind::ReplicaWriteAnswer
            | FrameKind::ReplicaReadAnswer
            | FrameKind::Gossip => {
                encode(frame, out, &error(ErrorCode::Unsupported));
                return false;
            }
        };
        encode(frame, out, &reply);
        true
    }

    fn answer_many(&self, frame: &FrameView<'_>, version: Version, out: &mut Vec<u8>) -> bool {
        let keys = match Request::decode(frame.header.kind, frame.body) {
            Ok(Request::MultiGet { keys, .. }) => keys.len(),
            Ok(_) => unreachable!("a multi-get frame decodes to a multi-get"),
            Err(refusal) => {
                encode(frame, out, &error(refusal.code()));
                return false;
            }
        };
        if keys * (self.value.len() + 64) > limits::BODY_BYTES_MAX {
            encode(frame, out, &error(ErrorCode::TooLarge));
            return true;
        }
        let start = start_frame(out);
        Reply::encode_values(
            (0..keys).map(|_| Item::Value { answered: 1, version, value: &self.value }),
            out,
        );
        finish_frame(out, start, &header(frame, FrameKind::Values));
        true
    }

    fn greet(&self, frame: &FrameView<'_>, out: &mut Vec<u8>) -> bool {
        if let Err(refusal) = Hello::decode(frame.body) {
            encode(frame, out, &error(refusal.code()));
            return false;
        }
        let start = start_frame(out);
        HelloReply {
            version: PROTOCOL_MAX,
            features: Features::default(),
            cluster: CLUSTER,
            node: NodeId(0),
            core: CoreId(0),
            cores: 1,
            incarnation: 1,
            epoch: Epoch(1),
            body_bytes_max: limits::BODY_BYTES_MAX as u32,
        }
        .encode(out);
        finish_frame(out, start, &header(frame, FrameKind::HelloReply));
        true
    }

    /// Answers every whole frame of `bytes`: what was consumed, what is needed, or that the connection is to close.
    fn answer_all(&self, bytes: &[u8], out: &mut Vec<u8>) -> Received {
        let mut used = 0;
        loop {
            match parse_frame(&bytes[used..], limits::BODY_BYTES_MAX) {
                Ok(Parsed::Frame { frame, bytes }) => {
                    if !self.answer(&frame, out) {
                        return Received::Close;
                    }
                    used += bytes;
                }
                Ok(Parsed::Need { bytes: need }) => {
                    return Received::Consumed { used, need: if used == bytes.len() { 0 } else { need } };
                }
                Err(refusal) => {
                    refuse(&refusal, out);
                    return Received::Close;
                }
            }
        }
    }
}

impl<E: Env> Handler for NullShard<E> {
    fn on_accepted(&self, _connection: Connection) {}

    fn on_connected(&self, _connection: Connection) {
        unreachable!("a null server connects to nobody")
    }

    fn on_received(&self, connection: Connection, bytes: &[u8]) -> Received {
        let mut received = Received::Consumed { used: 0, need: 0 };
        // One call for the whole batch. If the out-buffer is full nothing is consumed, and the bytes are shown again.
        self.env.send(connection, |out| received = self.answer_all(bytes, out));
        received
    }

    fn on_closed(&self, _connection: Connection) {}

    fn on_hop(&self, _from: CoreId, _message: Hop) {}

    fn on_batch_end(&self) {}

    fn next_timer(&self) -> Option<u64> {
        None
    }

    fn on_timer(&self, _now_ns: u64) {}

    fn on_stop(&self) {
        self.stopping.set(true);
    }

    fn is_drained(&self) -> bool {
        self.stopping.get()
    }

    fn end(&self) -> Result<(), String> {
        Ok(())
    }
}

fn header(request: &FrameView<'_>, kind: FrameKind) -> FrameHeader {
    FrameHeader {
        kind,
        flags: FrameFlags::default(),
        deadline_us: 0,
        request: request.header.request,
        time: request.header.time,
    }
}

fn encode(request: &FrameView<'_>, out: &mut Vec<u8>, reply: &Reply<'_>) {
    let start = start_frame(out);
    reply.encode(out);
    finish_frame(out, start, &header(request, reply.kind()));
}

fn error(code: ErrorCode) -> Reply<'static> {
    Reply::Error { code, text: "" }
}

/// Answers bytes that are no frame: there is no request to name.
fn refuse(refusal: &DecodeError, out: &mut Vec<u8>) {
    let start = start_frame(out);
    error(refusal.code()).encode(out);
    let header = FrameHeader {
        kind: FrameKind::Error,
        flags: FrameFlags::default(),
        deadline_us: 0,
        request: ferrite_wire::RequestId(0),
        time: Order(0),
    };
    finish_frame(out, start, &header);
}
