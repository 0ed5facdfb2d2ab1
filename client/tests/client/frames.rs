//! Frames and topologies as servers make them.

use ferrite_wire::{
    ClusterId, CoreId, Epoch, ErrorCode, Features, FrameFlags, FrameHeader, FrameKind, HashSeed, HelloReply,
    NodeEntry, NodeId, Order, PROTOCOL_MAX, Reply, RequestId, Tables, Topology, Version, finish_frame,
    limits, start_frame,
};

pub(crate) const CLUSTER: ClusterId = ClusterId([7; 16]);

pub(crate) fn hello_reply(cluster: ClusterId) -> HelloReply {
    HelloReply {
        version: PROTOCOL_MAX,
        features: Features(0),
        cluster,
        node: NodeId(1),
        core: CoreId(0),
        cores: 1,
        incarnation: 1,
        epoch: Epoch(1),
        body_bytes_max: limits::BODY_BYTES_MAX as u32,
    }
}

pub(crate) fn hello_reply_frame(cluster: ClusterId) -> Vec<u8> {
    let mut out = Vec::new();
    let start = start_frame(&mut out);
    hello_reply(cluster).encode(&mut out);
    finish_frame(&mut out, start, &header(FrameKind::HelloReply, RequestId(0)));
    out
}

pub(crate) fn header(kind: FrameKind, request: RequestId) -> FrameHeader {
    FrameHeader { kind, flags: FrameFlags(0), deadline_us: 0, request, time: Order(0) }
}

pub(crate) fn reply_frame(header: FrameHeader, reply: &Reply<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    let start = start_frame(&mut out);
    reply.encode(&mut out);
    finish_frame(&mut out, start, &FrameHeader { kind: reply.kind(), ..header });
    out
}

pub(crate) fn reply_to(request: RequestId, reply: &Reply<'_>) -> Vec<u8> {
    reply_frame(header(FrameKind::Pong, request), reply)
}

pub(crate) fn error(code: ErrorCode) -> Reply<'static> {
    Reply::Error { code, text: "" }
}

pub(crate) fn version(order: u64) -> Version {
    Version { order: Order(order), ..Version::default() }
}

pub(crate) fn done() -> Reply<'static> {
    Reply::Done { version: version(1), answered: 2, sloppy: false }
}

/// Four vnodes on the nodes whose cores listen at these addresses, every node a replica of each; node `v mod n` first.
pub(crate) fn topology(epoch: u64, nodes: &[(String, Vec<String>)]) -> Topology {
    const VNODES: usize = 4;
    let entry = |(at, (contact, endpoints)): (usize, &(String, Vec<String>))| NodeEntry {
        id: NodeId(at as u16 + 1),
        incarnation: 1,
        name: format!("node{}", at + 1),
        rack: String::new(),
        datacenter: String::new(),
        contact: contact.clone(),
        endpoints: endpoints.clone(),
        core_of_vnode: match endpoints.len() {
            0 => Vec::new(),
            cores => (0..VNODES).map(|vnode| CoreId((vnode % cores) as u16)).collect(),
        },
    };
    let count = nodes.len();
    let tables = Tables::only_default(count.clamp(1, 16) as u8);
    let list = |vnode| (0..count).map(|step| NodeId(((vnode + step) % count) as u16 + 1)).collect();
    Topology {
        epoch: Epoch(epoch),
        cluster: CLUSTER,
        hash_seed: HashSeed(1),
        nodes: nodes.iter().enumerate().map(entry).collect(),
        tables,
        replicas: (0..VNODES).map(list).collect(),
        vnode_epochs: vec![Epoch(1); VNODES],
    }
}

pub(crate) fn encoded(topology: &Topology) -> Vec<u8> {
    let mut out = Vec::new();
    topology.encode(&mut out);
    out
}
