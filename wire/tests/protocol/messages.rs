//! Arbitrary messages of every kind, owned, and the one way to put each into a frame.

use ferrite_wire::{
    Actor, ClusterId, CoreId, Entry, Epoch, ErrorCode, Features, FrameFlags, FrameHeader, FrameKind,
    HashSeed, Hello, HelloReply, HintsAction, Item, Key, Level, Mode, NodeEntry, NodeId, OVERWRITE, Order,
    Outcome, Outcomes, PROTOCOL_MAX, PeerMessage, ReadWant, Reader, ReplicaAnswer, Reply, Request, RequestId,
    Role, SLOPPY, SiblingValue, Siblings, Table, TableId, TableList, Tables, Topology, Version, VersionFlags,
    WriteAnswer, finish_frame, start_frame,
};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A key that owns its bytes.
#[derive(Clone, Debug)]
pub(crate) struct OwnedKey {
    table: u32,
    partition: Vec<u8>,
    sort: Vec<u8>,
}

impl OwnedKey {
    pub(crate) fn view(&self) -> Key<'_> {
        Key { table: TableId(self.table), partition: &self.partition, sort: &self.sort }
    }
}

pub(crate) fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..40)
}

pub(crate) fn key() -> impl Strategy<Value = OwnedKey> {
    (any::<u32>(), bytes(), bytes()).prop_map(|(table, partition, sort)| OwnedKey { table, partition, sort })
}

pub(crate) fn level() -> impl Strategy<Value = Level> {
    prop_oneof![
        prop::sample::select(vec![
            Level::One,
            Level::Two,
            Level::Quorum,
            Level::All,
            Level::LocalOne,
            Level::LocalQuorum,
            Level::EachQuorum
        ]),
        (1u8..=16).prop_map(Level::Number),
    ]
}

pub(crate) fn version() -> impl Strategy<Value = Version> {
    (any::<u64>(), any::<u64>(), 0u8..8, any::<u64>()).prop_map(|(order, actor, flags, expiry_ms)| Version {
        order: Order(order),
        actor: Actor(actor),
        flags: VersionFlags(flags),
        expiry_ms,
    })
}

pub(crate) fn code() -> impl Strategy<Value = ErrorCode> {
    prop::sample::select(ErrorCode::ALL.to_vec())
}

/// One frame's worth of message: its kind and its encoded body.
pub(crate) type Body = (FrameKind, Vec<u8>);

fn request_body(request: &Request<'_>) -> Body {
    let mut out = Vec::new();
    request.encode(&mut out);
    (request.kind(), out)
}

fn reply_body(reply: &Reply<'_>) -> Body {
    let mut out = Vec::new();
    reply.encode(&mut out);
    (reply.kind(), out)
}

fn peer_body(message: &PeerMessage<'_>) -> Body {
    let mut out = Vec::new();
    message.encode(&mut out);
    (message.kind(), out)
}

/// One write of many that owns its bytes; without a value it deletes.
#[derive(Clone, Debug)]
struct OwnedEntry {
    key: OwnedKey,
    context: Vec<u8>,
    value: Option<(u64, Vec<u8>)>,
}

impl OwnedEntry {
    fn view(&self) -> Entry<'_> {
        let (key, context) = (self.key.view(), &self.context[..]);
        match &self.value {
            Some((ttl_ms, value)) => Entry::Put { key, ttl_ms: *ttl_ms, context, value },
            None => Entry::Delete { key, context },
        }
    }
}

fn entry() -> impl Strategy<Value = OwnedEntry> {
    (key(), bytes(), prop::option::of((any::<u64>(), bytes()))).prop_map(|(key, context, value)| OwnedEntry {
        key,
        context,
        value,
    })
}

pub(crate) fn request() -> impl Strategy<Value = Body> {
    let common = || (any::<u64>().prop_map(Epoch), level());
    prop_oneof![
        Just(request_body(&Request::Ping)),
        Just(request_body(&Request::Status)),
        prop::sample::select(HintsAction::ALL.to_vec())
            .prop_map(|action| request_body(&Request::Hints(action))),
        any::<u64>().prop_map(|have| request_body(&Request::Topology { have: Epoch(have) })),
        (common(), key()).prop_map(|((epoch, level), key)| {
            request_body(&Request::Get { epoch, level, options: 0, key: key.view() })
        }),
        (common(), 0..=(OVERWRITE | SLOPPY), key(), any::<u64>(), bytes(), bytes()).prop_map(
            |((epoch, level), options, key, ttl_ms, context, value)| {
                let (context, value) = (&context[..], &value[..]);
                request_body(&Request::Put { epoch, level, options, key: key.view(), ttl_ms, context, value })
            }
        ),
        (common(), 0..=(OVERWRITE | SLOPPY), key(), bytes()).prop_map(
            |((epoch, level), options, key, context)| {
                request_body(&Request::Delete { epoch, level, options, key: key.view(), context: &context })
            }
        ),
        (common(), vec(key(), 0..6)).prop_map(|((epoch, level), keys)| {
            let mut out = Vec::new();
            let keys: Vec<Key<'_>> = keys.iter().map(OwnedKey::view).collect();
            Request::encode_multi_get(epoch, level, &keys, &mut out);
            (FrameKind::MultiGet, out)
        }),
        (common(), 0..=(OVERWRITE | SLOPPY), vec(entry(), 0..6)).prop_map(
            |((epoch, level), options, entries)| {
                let mut out = Vec::new();
                let entries: Vec<Entry<'_>> = entries.iter().map(OwnedEntry::view).collect();
                Request::encode_multi_put(epoch, level, options, entries.into_iter(), &mut out);
                (FrameKind::MultiPut, out)
            }
        ),
    ]
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        (version(), any::<u8>(), any::<bool>()).prop_map(|(version, answered, sloppy)| Outcome::Done {
            version,
            answered,
            sloppy
        }),
        code().prop_map(Outcome::Error),
    ]
}

/// The encoded siblings of a key.
fn siblings() -> impl Strategy<Value = Vec<u8>> {
    (bytes(), vec((version(), bytes()), 0..4)).prop_map(|(context, siblings)| {
        let mut out = Vec::new();
        let parts = siblings.iter().map(|(version, value)| SiblingValue { version: *version, value });
        Siblings::encode_parts(&context, parts, &mut out);
        out
    })
}

pub(crate) fn reply() -> impl Strategy<Value = Body> {
    #[derive(Clone, Debug)]
    enum OwnedItem {
        Absent(u8),
        Error(ErrorCode),
        Value(u8, Version, Vec<u8>),
        Siblings(u8, Vec<u8>),
    }
    let item = || {
        prop_oneof![
            any::<u8>().prop_map(OwnedItem::Absent),
            code().prop_map(OwnedItem::Error),
            (any::<u8>(), version(), bytes())
                .prop_map(|(answered, version, value)| OwnedItem::Value(answered, version, value)),
            (any::<u8>(), siblings()).prop_map(|(answered, bytes)| OwnedItem::Siblings(answered, bytes)),
        ]
    };
    fn read(bytes: &[u8]) -> Siblings<'_> {
        Siblings::decode(&mut Reader::new(bytes)).expect("just encoded")
    }
    prop_oneof![
        Just(reply_body(&Reply::Pong)),
        bytes().prop_map(|bytes| reply_body(&Reply::Topology(&bytes))),
        "[ -~é]{0,30}".prop_map(|text| reply_body(&Reply::Status(&text))),
        (version(), any::<u8>(), bytes()).prop_map(|(version, answered, value)| {
            reply_body(&Reply::Value { version, answered, value: &value })
        }),
        any::<u8>().prop_map(|answered| reply_body(&Reply::Absent { answered })),
        (version(), any::<u8>(), any::<bool>()).prop_map(|(version, answered, sloppy)| {
            reply_body(&Reply::Done { version, answered, sloppy })
        }),
        vec(item(), 0..6).prop_map(|items| {
            let mut out = Vec::new();
            let items = items.iter().map(|item| match item {
                OwnedItem::Absent(answered) => Item::Absent { answered: *answered },
                OwnedItem::Error(code) => Item::Error(*code),
                OwnedItem::Value(answered, version, value) => {
                    Item::Value { answered: *answered, version: *version, value }
                }
                OwnedItem::Siblings(answered, bytes) => {
                    Item::Siblings { answered: *answered, siblings: read(bytes) }
                }
            });
            Reply::encode_values(items, &mut out);
            (FrameKind::Values, out)
        }),
        (any::<u8>(), siblings())
            .prop_map(|(answered, bytes)| reply_body(&Reply::Siblings { answered, siblings: read(&bytes) })),
        vec(outcome(), 0..6).prop_map(|outcomes| {
            let mut out = Vec::new();
            Outcomes::encode_all(outcomes.into_iter(), &mut out);
            (FrameKind::Outcomes, out)
        }),
        (code(), "[ -~é]{0,30}").prop_map(|(code, text)| reply_body(&Reply::Error { code, text: &text })),
    ]
}

pub(crate) fn peer() -> impl Strategy<Value = Body> {
    prop_oneof![
        (any::<u64>(), key(), version(), bytes()).prop_map(|(epoch, key, version, value)| {
            let vnode_epoch = Epoch(epoch);
            peer_body(&PeerMessage::ReplicaWrite { vnode_epoch, key: key.view(), version, value: &value })
        }),
        (any::<(u16, u64)>(), key(), version(), bytes()).prop_map(
            |((target, epoch), key, version, value)| {
                let (target, vnode_epoch, key) = (NodeId(target), Epoch(epoch), key.view());
                peer_body(&PeerMessage::HintedWrite { target, vnode_epoch, key, version, value: &value })
            }
        ),
        (any::<u64>(), key(), any::<bool>()).prop_map(|(epoch, key, full)| {
            let want = if full { ReadWant::Full } else { ReadWant::Digest };
            peer_body(&PeerMessage::ReplicaRead { vnode_epoch: Epoch(epoch), want, key: key.view() })
        }),
        Just(peer_body(&PeerMessage::ReplicaWriteAnswer(WriteAnswer::Applied))),
        code().prop_map(|code| peer_body(&PeerMessage::ReplicaWriteAnswer(WriteAnswer::Refused(code)))),
        Just(peer_body(&PeerMessage::ReplicaReadAnswer(ReplicaAnswer::Absent))),
        (version(), bytes()).prop_map(|(version, value)| {
            peer_body(&PeerMessage::ReplicaReadAnswer(ReplicaAnswer::Full { version, value: &value }))
        }),
        version().prop_map(|version| peer_body(&PeerMessage::ReplicaReadAnswer(ReplicaAnswer::Digest {
            version
        }))),
        code().prop_map(|code| peer_body(&PeerMessage::ReplicaReadAnswer(ReplicaAnswer::Refused(code)))),
    ]
}

/// A table without its name.
fn table() -> impl Strategy<Value = (bool, u8, u64, u16)> {
    (any::<bool>(), 1u8..=16, any::<u64>(), 1u16..=1024)
}

pub(crate) fn tables() -> impl Strategy<Value = Tables> {
    let named = proptest::collection::btree_map("[a-z0-9_-]{1,12}", table(), 0..5);
    (table(), named).prop_map(|((_, replication, ttl_ms, _), named)| {
        let default = Table { ttl_ms, ..Table::default_of(replication) };
        // By number: the last of two names that meet stays, if any ever do.
        let mut list = BTreeMap::from([(default.id, default)]);
        for (name, (keeps_siblings, replication, ttl_ms, most)) in named {
            let (mode, max_siblings) = if keeps_siblings { (Mode::Siblings, most) } else { (Mode::Lww, 0) };
            let id = TableId::of(&name);
            if id != TableId::DEFAULT {
                list.insert(id, Table { id, name, mode, replication, ttl_ms, max_siblings });
            }
        }
        Tables::new(list.into_values().collect()).expect("a sound list")
    })
}

/// A hello that owns its list of tables.
#[derive(Clone, Debug)]
pub(crate) struct OwnedHello {
    max: u16,
    min: u16,
    features: u64,
    cluster: [u8; 16],
    /// Without a core it is a node's gossip.
    peer: Option<(u16, Option<u16>, u64, Vec<u8>)>,
}

impl OwnedHello {
    pub(crate) fn view(&self) -> Hello<'_> {
        Hello {
            min: self.min,
            max: self.max,
            features: Features(self.features),
            cluster: ClusterId(self.cluster),
            role: match &self.peer {
                None => Role::Client,
                Some((node, core, incarnation, tables)) => {
                    let (node, incarnation) = (NodeId(*node), *incarnation);
                    let tables = TableList::new(tables).expect("a list that was encoded");
                    match core {
                        Some(core) => Role::Peer { node, core: CoreId(*core), incarnation, tables },
                        None => Role::Gossip { node, incarnation, tables },
                    }
                }
            },
        }
    }
}

pub(crate) fn hello() -> impl Strategy<Value = OwnedHello> {
    let tables = tables().prop_map(|tables| {
        let mut bytes = Vec::new();
        tables.encode(&mut bytes);
        bytes
    });
    let peer = prop::option::of((any::<u16>(), any::<Option<u16>>(), any::<u64>(), tables));
    (0u16..=1, PROTOCOL_MAX..9, any::<u64>(), any::<[u8; 16]>(), peer)
        .prop_map(|(min, max, features, cluster, peer)| OwnedHello { min, max, features, cluster, peer })
}

pub(crate) fn hello_reply() -> impl Strategy<Value = HelloReply> {
    (any::<u64>(), any::<[u8; 16]>(), any::<[u16; 3]>(), any::<u64>(), any::<u64>(), any::<u32>()).prop_map(
        |(features, cluster, [node, core, cores], incarnation, epoch, body_bytes_max)| HelloReply {
            version: PROTOCOL_MAX,
            features: Features(features),
            cluster: ClusterId(cluster),
            node: NodeId(node),
            core: CoreId(core),
            cores,
            incarnation,
            epoch: Epoch(epoch),
            body_bytes_max,
        },
    )
}

fn handshake() -> impl Strategy<Value = Body> {
    prop_oneof![
        hello().prop_map(|hello| {
            let mut out = Vec::new();
            hello.view().encode(&mut out);
            (FrameKind::Hello, out)
        }),
        hello_reply().prop_map(|reply| {
            let mut out = Vec::new();
            reply.encode(&mut out);
            (FrameKind::HelloReply, out)
        }),
    ]
}

/// A message of any kind.
pub(crate) fn any_body() -> impl Strategy<Value = Body> {
    prop_oneof![request(), reply(), peer(), handshake()]
}

pub(crate) fn header() -> impl Strategy<Value = FrameHeader> {
    (0u8..=1, any::<u32>(), any::<u64>(), any::<u64>()).prop_map(|(flags, deadline_us, request, time)| {
        FrameHeader {
            kind: FrameKind::Ping,
            flags: FrameFlags(flags),
            deadline_us,
            request: RequestId(request),
            time: Order(time),
        }
    })
}

/// A topology that [`Topology::check`] accepts and that survives the wire unchanged.
pub(crate) fn topology() -> impl Strategy<Value = Topology> {
    let node = (
        "[a-z]{0,8}",
        "[a-z]{0,4}",
        "[a-z]{0,4}",
        "[a-z0-9.]{1,9}:7100",
        any::<u64>(),
        0u16..4,
        any::<u16>(),
    );
    let list = (any::<u64>(), vec(any::<prop::sample::Index>(), 0..4), any::<[u16; 4]>());
    (
        any::<[u64; 2]>(),
        any::<[u8; 16]>(),
        vec((1u16..9, node), 0..5),
        tables(),
        (0u32..7).prop_flat_map(move |bits| vec(list.clone(), 1usize << bits)),
    )
        .prop_map(|([epoch, seed], cluster, members, tables, lists)| {
            let mut nodes: Vec<NodeEntry> = Vec::new();
            for (step, (name, rack, datacenter, contact, incarnation, cores, mapped)) in members {
                let id = NodeId(nodes.last().map_or(0, |last| last.id.0) + step);
                let endpoints = (0..cores).map(|core| format!("{name}.example:{}", 7101 + core)).collect();
                let core_of_vnode =
                    if cores > 0 && mapped % 3 > 0 { vec![CoreId(0); lists.len()] } else { Vec::new() };
                nodes.push(NodeEntry {
                    id,
                    incarnation,
                    name,
                    rack,
                    datacenter,
                    contact,
                    endpoints,
                    core_of_vnode,
                });
            }
            let (mut replicas, mut vnode_epochs) = (Vec::new(), Vec::new());
            let mut met = vec![false; nodes.len()];
            for (vnode, (vnode_epoch, picks, cores)) in lists.iter().enumerate() {
                let mut list = Vec::new();
                for (pick, core) in picks.iter().zip(cores) {
                    if nodes.is_empty() {
                        break;
                    }
                    let at = pick.index(nodes.len());
                    if list.contains(&nodes[at].id) {
                        continue;
                    }
                    let node = &mut nodes[at];
                    list.push(node.id);
                    met[at] = true;
                    if !node.core_of_vnode.is_empty() {
                        node.core_of_vnode[vnode] = CoreId(core % node.endpoints.len() as u16);
                    }
                }
                replicas.push(list);
                vnode_epochs.push(Epoch(*vnode_epoch));
            }
            for (node, met) in nodes.iter_mut().zip(met) {
                if !met {
                    node.core_of_vnode.clear();
                }
            }
            let (epoch, cluster, hash_seed) = (Epoch(epoch), ClusterId(cluster), HashSeed(seed));
            Topology { epoch, cluster, hash_seed, nodes, tables, replicas, vnode_epochs }
        })
}

/// The body in a frame.
pub(crate) fn frame(header: FrameHeader, body: &Body) -> Vec<u8> {
    let mut out = Vec::new();
    let start = start_frame(&mut out);
    out.extend_from_slice(&body.1);
    finish_frame(&mut out, start, &FrameHeader { kind: body.0, ..header });
    out
}
