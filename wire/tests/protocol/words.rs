//! What a frame means, in words: each field by its name, so that who writes another client can compare.

use std::fmt::Write;

use ferrite_wire::{
    Entry, Epoch, FrameHeader, FrameView, Hello, HelloReply, Item, Key, Level, NodeEntry, OVERWRITE, Outcome,
    Parsed, PeerMessage, ReadWant, ReplicaAnswer, Reply, Request, Role, SLOPPY, SiblingValue, Siblings,
    Table, Tables, Topology, Version, WriteAnswer, limits, parse_frame,
};

fn quoted(bytes: &[u8]) -> String {
    let mut text = String::from("\"");
    for byte in bytes {
        match byte {
            b'"' | b'\\' => write!(text, "\\{}", char::from(*byte)).unwrap(),
            b' '..=b'~' => text.push(char::from(*byte)),
            _ => write!(text, "\\x{byte:02x}").unwrap(),
        }
    }
    text + "\""
}

fn key_words(key: &Key<'_>) -> String {
    format!("table={} partition={} sort={}", key.table.0, quoted(key.partition), quoted(key.sort))
}

fn version_words(version: &Version) -> String {
    let Version { order, actor, flags, expiry_ms } = version;
    format!("order={:#x} actor={:#x} expiry_ms={expiry_ms} version_flags={}", order.0, actor.0, flags.0)
}

fn request_words(request: &Request<'_>) -> String {
    let common = |epoch: &Epoch, level: &Level| format!("epoch={} level={}", epoch.0, level.to_u8());
    let options = |options: &u8| {
        let words = [(OVERWRITE, " overwrite"), (SLOPPY, " sloppy")];
        words.map(|(bit, word)| if options & bit != 0 { word } else { "" }).concat()
    };
    match request {
        Request::Ping | Request::Status => String::new(),
        Request::Hints(action) => format!("action={action:?}"),
        Request::Topology { have } => format!("have={}", have.0),
        Request::Get { epoch, level, key, .. } => format!("{} {}", common(epoch, level), key_words(key)),
        Request::Put { epoch, level, options: bits, key, ttl_ms, context, value } => {
            let (common, key, context, value) =
                (common(epoch, level), key_words(key), quoted(context), quoted(value));
            let options = options(bits);
            format!("{common} {key} ttl_ms={ttl_ms} context={context} value={value}{options}")
        }
        Request::Delete { epoch, level, options: bits, key, context } => {
            let (common, key, context) = (common(epoch, level), key_words(key), quoted(context));
            format!("{common} {key} context={context}{}", options(bits))
        }
        Request::MultiGet { epoch, level, keys, .. } => {
            let mut words = format!("{} count={}", common(epoch, level), keys.len());
            keys.iter().for_each(|key| write!(words, " [{}]", key_words(&key)).unwrap());
            words
        }
        Request::MultiPut { epoch, level, options: bits, entries } => {
            let mut words = format!("{} count={}{}", common(epoch, level), entries.len(), options(bits));
            for entry in entries.iter() {
                match entry {
                    Entry::Put { key, ttl_ms, context, value } => {
                        let (key, context, value) = (key_words(&key), quoted(context), quoted(value));
                        write!(words, " [put {key} ttl_ms={ttl_ms} context={context} value={value}]")
                            .unwrap();
                    }
                    Entry::Delete { key, context } => {
                        write!(words, " [delete {} context={}]", key_words(&key), quoted(context)).unwrap();
                    }
                }
            }
            words
        }
    }
}

fn siblings_words(siblings: &Siblings<'_>) -> String {
    let mut words = format!("context={} count={}", quoted(siblings.context()), siblings.len());
    for SiblingValue { version, value } in siblings.iter() {
        write!(words, " [{} value={}]", version_words(&version), quoted(value)).unwrap();
    }
    words
}

fn reply_words(reply: &Reply<'_>) -> String {
    match reply {
        Reply::Pong => String::new(),
        Reply::Topology(bytes) => topology_words(&Topology::decode(bytes).unwrap()),
        Reply::Status(text) => format!("text={}", quoted(text.as_bytes())),
        Reply::Value { version, answered, value } => {
            format!("{} answered={answered} value={}", version_words(version), quoted(value))
        }
        Reply::Absent { answered } => format!("answered={answered}"),
        Reply::Done { version, answered, sloppy } => {
            let sloppy = if *sloppy { " sloppy" } else { "" };
            format!("{} answered={answered}{sloppy}", version_words(version))
        }
        Reply::Values(items) => {
            let mut words = format!("count={}", items.len());
            for item in items.iter() {
                match item {
                    Item::Absent { answered } => write!(words, " [absent answered={answered}]").unwrap(),
                    Item::Error(code) => write!(words, " [error={}]", code as u16).unwrap(),
                    Item::Siblings { answered, siblings } => {
                        let siblings = siblings_words(&siblings);
                        write!(words, " [siblings answered={answered} {siblings}]").unwrap();
                    }
                    Item::Value { answered, version, value } => {
                        let (version, value) = (version_words(&version), quoted(value));
                        write!(words, " [answered={answered} {version} value={value}]").unwrap();
                    }
                }
            }
            words
        }
        Reply::Outcomes(outcomes) => {
            let mut words = format!("count={}", outcomes.len());
            for outcome in outcomes.iter() {
                match outcome {
                    Outcome::Done { version, answered, sloppy } => {
                        let (version, sloppy) =
                            (version_words(&version), if sloppy { " sloppy" } else { "" });
                        write!(words, " [{version} answered={answered}{sloppy}]").unwrap();
                    }
                    Outcome::Error(code) => write!(words, " [error={}]", code as u16).unwrap(),
                }
            }
            words
        }
        Reply::Siblings { answered, siblings } => {
            format!("answered={answered} {}", siblings_words(siblings))
        }
        Reply::Error { code, text } => format!("code={} text={}", *code as u16, quoted(text.as_bytes())),
    }
}

fn tables_words(tables: &Tables) -> String {
    let mut words = String::new();
    for Table { id, name, mode, replication, ttl_ms, max_siblings } in tables.as_slice() {
        write!(words, " [table id={} name={name:?} mode={mode} replication={replication}", id.0).unwrap();
        write!(words, " ttl_ms={ttl_ms} max_siblings={max_siblings}]").unwrap();
    }
    words
}

fn topology_words(topology: &Topology) -> String {
    let Topology { epoch, cluster, hash_seed, nodes, tables, replicas, vnode_epochs } = topology;
    let mut words =
        format!("epoch={} cluster={cluster} hash_seed={} vnodes={}", epoch.0, hash_seed.0, replicas.len());
    for node in nodes {
        let NodeEntry { id, incarnation, name, rack, datacenter, contact, endpoints, .. } = node;
        write!(words, " [node id={} incarnation={incarnation:#x} name={name:?} rack={rack:?}", id.0).unwrap();
        write!(words, " datacenter={datacenter:?} contact={contact:?} endpoints={endpoints:?}]").unwrap();
    }
    words.push_str(&tables_words(tables));
    for (vnode, (list, epoch)) in replicas.iter().zip(vnode_epochs).enumerate() {
        write!(words, " [vnode epoch={}", epoch.0).unwrap();
        for id in list {
            let core = topology.node(*id).unwrap().core_of_vnode.get(vnode);
            let core = core.map_or("none".to_owned(), |core| core.0.to_string());
            write!(words, " node={} core={core}", id.0).unwrap();
        }
        words.push(']');
    }
    words
}

fn peer_words(message: &PeerMessage<'_>) -> String {
    match message {
        PeerMessage::ReplicaWrite { vnode_epoch, key, version, value } => {
            let (key, version, value) = (key_words(key), version_words(version), quoted(value));
            format!("vnode_epoch={} {key} {version} value={value}", vnode_epoch.0)
        }
        PeerMessage::HintedWrite { target, vnode_epoch, key, version, value } => {
            let (key, version, value) = (key_words(key), version_words(version), quoted(value));
            format!("target={} vnode_epoch={} {key} {version} value={value}", target.0, vnode_epoch.0)
        }
        PeerMessage::ReplicaRead { vnode_epoch, want, key } => {
            let want = if *want == ReadWant::Full { "full" } else { "digest" };
            format!("vnode_epoch={} want={want} {}", vnode_epoch.0, key_words(key))
        }
        PeerMessage::ReplicaWriteAnswer(WriteAnswer::Applied) => "applied".to_owned(),
        PeerMessage::ReplicaReadAnswer(ReplicaAnswer::Absent) => "absent".to_owned(),
        PeerMessage::ReplicaReadAnswer(ReplicaAnswer::Full { version, value }) => {
            format!("full {} value={}", version_words(version), quoted(value))
        }
        PeerMessage::ReplicaReadAnswer(ReplicaAnswer::Digest { version }) => {
            format!("digest {}", version_words(version))
        }
        PeerMessage::ReplicaWriteAnswer(WriteAnswer::Refused(code))
        | PeerMessage::ReplicaReadAnswer(ReplicaAnswer::Refused(code)) => {
            format!("refused code={}", *code as u16)
        }
    }
}

fn hello_words(hello: &Hello<'_>) -> String {
    let Hello { min, max, features, cluster, role } = hello;
    let role = match role {
        Role::Client => "client".to_owned(),
        Role::Peer { node, core, incarnation, tables } => {
            let tables = tables_words(&tables.tables());
            format!("peer node={} core={} incarnation={incarnation:#x}{tables}", node.0, core.0)
        }
        Role::Gossip { node, incarnation, tables } => {
            let tables = tables_words(&tables.tables());
            format!("gossip node={} incarnation={incarnation:#x}{tables}", node.0)
        }
    };
    format!("min={min} max={max} features={} cluster={cluster} role={role}", features.0)
}

fn hello_reply_words(reply: &HelloReply) -> String {
    let HelloReply { version, features, cluster, node, core, cores, incarnation, epoch, body_bytes_max } =
        reply;
    let at = format!("node={} core={} cores={cores} incarnation={incarnation:#x}", node.0, core.0);
    let epoch = epoch.0;
    format!(
        "version={version} features={} cluster={cluster} {at} epoch={epoch} body_max={body_bytes_max}",
        features.0
    )
}

fn body_words(frame: &FrameView<'_>) -> Result<String, ferrite_wire::DecodeError> {
    let (kind, body) = (frame.header.kind, frame.body);
    Ok(match kind as u8 {
        0x01 => hello_words(&Hello::decode(body)?),
        0x02 => hello_reply_words(&HelloReply::decode(body)?),
        0x10..=0x1f => request_words(&Request::decode(kind, body)?),
        0x20..=0x2f => reply_words(&Reply::decode(kind, body)?),
        0x60 => format!("packet={}", quoted(body)),
        _ => peer_words(&PeerMessage::decode(kind, body)?),
    })
}

/// The whole meaning of one frame, or why it is refused.
pub(crate) fn words(bytes: &[u8]) -> String {
    let frame = match parse_frame(bytes, limits::BODY_BYTES_MAX) {
        Ok(Parsed::Frame { frame, bytes: len }) => {
            assert_eq!(len, bytes.len(), "one frame a vector");
            frame
        }
        Ok(Parsed::Need { .. }) => panic!("a vector is a whole frame"),
        Err(error) => return format!("refused: {error}"),
    };
    let FrameHeader { kind, flags, deadline_us, request, time } = frame.header;
    match body_words(&frame) {
        Ok(body) => {
            let head = format!("kind={:#04x} flags={} deadline_us={deadline_us}", kind as u8, flags.0);
            format!("{head} request={} time={:#x} | {body}", request.0, time.0).trim_end().to_owned()
        }
        Err(error) => format!("refused: {error}"),
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
