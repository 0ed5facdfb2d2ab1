//! `tests/vectors.txt`: frames in hex with what they mean, for writers of other clients.
//!
//! Checked both ways. The frames below, encoded, are the file's bytes; the file's bytes, decoded, are the file's words.
//! After a change that is meant, the failure prints the whole file as it should be.

use ferrite_wire::{
    Actor, ClusterId, CoreId, Entry, Epoch, ErrorCode, Features, FrameFlags, FrameHeader, FrameKind,
    HashSeed, Hello, HelloReply, HintsAction, Item, Key, Level, Mode, NodeEntry, NodeId, OVERWRITE, Order,
    Outcome, Outcomes, PeerMessage, ReadWant, Reader, ReplicaAnswer, Reply, Request, RequestId, Role, SLOPPY,
    SiblingValue, Siblings, TTL_NEVER, Table, TableId, TableList, Tables, Topology, Version, VersionFlags,
    WriteAnswer, finish_frame, limits, start_frame,
};
use std::fmt::Write;

use crate::words::{hex, words};

const FILE: &str = include_str!("../vectors.txt");
const HEAD: &str = "\
# Ferrite protocol 1: test vectors, described in PROTOCOL.md.
#
# A block is a name, the bytes in hex, and their meaning: the header's fields, then the body's. Texts and keys are
# quoted; bytes outside printable ASCII are written \\xNN. \"refused\" blocks are bytes that must be refused, with why.
# Token blocks give the partition key in hex, the seed of the hash, the token, and its vnode of 4096; table blocks a
# table's name and its number.
";

const VERSION: Version = Version {
    order: Order(0x0196_0000_0000_0007),
    actor: Actor(0xa1b2_c3d4_e5f6_0718),
    flags: VersionFlags(VersionFlags::EXPIRES),
    expiry_ms: 1_800_000_000_000,
};

fn frame(kind: FrameKind, encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let is_reply = (0x20..0x40).contains(&(kind as u8));
    let is_hello = matches!(kind, FrameKind::Hello | FrameKind::HelloReply);
    let header = FrameHeader {
        kind,
        flags: FrameFlags(u8::from(kind == FrameKind::Absent)),
        deadline_us: if is_reply || is_hello { 0 } else { 5_000_000 },
        request: RequestId(if is_hello { 0 } else { 0x0102_0304 }),
        time: Order(if is_hello { 0 } else { 0x0196_0000_0000_0007 }),
    };
    let mut out = Vec::new();
    let start = start_frame(&mut out);
    encode(&mut out);
    finish_frame(&mut out, start, &header);
    out
}

fn request(request: &Request<'_>) -> Vec<u8> {
    frame(request.kind(), |out| request.encode(out))
}

fn reply(reply: &Reply<'_>) -> Vec<u8> {
    frame(reply.kind(), |out| reply.encode(out))
}

fn peer(message: &PeerMessage<'_>) -> Vec<u8> {
    frame(message.kind(), |out| message.encode(out))
}

fn tables() -> Tables {
    let carts = Table {
        id: TableId::of("carts"),
        name: "carts".to_owned(),
        mode: Mode::Siblings,
        replication: 1,
        ttl_ms: 2_592_000_000,
        max_siblings: 32,
    };
    Tables::new(vec![carts, Table::default_of(2)]).unwrap()
}

fn topology() -> Topology {
    let node = |id: u16, cores: u16| NodeEntry {
        id: NodeId(id),
        incarnation: 0x1111 * u64::from(id),
        name: format!("node{id}"),
        rack: "r1".to_owned(),
        datacenter: "dc1".to_owned(),
        contact: format!("127.0.0.1:7{id}00"),
        endpoints: (0..cores).map(|core| format!("127.0.0.1:7{id}0{}", core + 1)).collect(),
        core_of_vnode: if cores == 0 { Vec::new() } else { vec![CoreId(1), CoreId(0)] },
    };
    Topology {
        epoch: Epoch(5),
        cluster: ClusterId(*b"0123456789abcdef"),
        hash_seed: HashSeed(42),
        nodes: vec![node(1, 2), node(2, 0)],
        tables: tables(),
        replicas: vec![vec![NodeId(1), NodeId(2)], vec![NodeId(2), NodeId(1)]],
        vnode_epochs: vec![Epoch(5), Epoch(4)],
    }
}

fn frames() -> Vec<(&'static str, Vec<u8>)> {
    let key = Key { table: TableId(1), partition: b"user:7", sort: b"cart" };
    let (epoch, level, options) = (Epoch(5), Level::Quorum, 0);
    let hello = Hello {
        min: 1,
        max: 1,
        features: Features(0),
        cluster: ClusterId(*b"0123456789abcdef"),
        role: Role::Client,
    };
    let mut list = Vec::new();
    tables().encode(&mut list);
    let role = Role::Peer {
        node: NodeId(2),
        core: CoreId(1),
        incarnation: 0x2222,
        tables: TableList::new(&list).unwrap(),
    };
    let (node, incarnation) = (NodeId(2), 0x2222);
    let gossip = Role::Gossip { node, incarnation, tables: TableList::new(&list).unwrap() };
    let hello_reply = HelloReply {
        version: 1,
        features: Features(0),
        cluster: hello.cluster,
        node: NodeId(1),
        core: CoreId(0),
        cores: 2,
        incarnation: 0x1111,
        epoch,
        body_bytes_max: limits::BODY_BYTES_MAX as u32,
    };
    let delete = Version { flags: VersionFlags(VersionFlags::TOMBSTONE), expiry_ms: 0, ..VERSION };
    let of_carts = Key { table: TableId::of("carts"), partition: b"user:7", sort: b"" };
    let other = Version { actor: Actor(5), flags: VersionFlags(0), expiry_ms: 0, ..VERSION };
    let (mut two, mut none) = (Vec::new(), Vec::new());
    let values = [(VERSION, b"v"), (other, b"w")].map(|(version, value)| SiblingValue { version, value });
    Siblings::encode_parts(b"seen", values.into_iter(), &mut two);
    Siblings::encode_parts(b"seen", [].into_iter(), &mut none);
    let read = |bytes| Siblings::decode(&mut Reader::new(bytes)).unwrap();
    let (two, none) = (read(&two), read(&none));
    let items = [
        Item::Value { answered: 3, version: VERSION, value: b"v" },
        Item::Absent { answered: 2 },
        Item::Error(ErrorCode::Damaged),
    ];
    vec![
        ("hello of a client", frame(FrameKind::Hello, |out| hello.encode(out))),
        ("hello of a peer", frame(FrameKind::Hello, |out| Hello { role, ..hello }.encode(out))),
        (
            "hello of a node's gossip",
            frame(FrameKind::Hello, |out| Hello { role: gossip, ..hello }.encode(out)),
        ),
        ("hello reply", frame(FrameKind::HelloReply, |out| hello_reply.encode(out))),
        ("ping", request(&Request::Ping)),
        ("topology request", request(&Request::Topology { have: Epoch(4) })),
        ("status request", request(&Request::Status)),
        ("hints request", request(&Request::Hints(HintsAction::Pause))),
        ("get", request(&Request::Get { epoch, level, options, key })),
        (
            "get at a number",
            request(&Request::Get { epoch, level: Level::Number(3), options, key: Key::plain(b"k") }),
        ),
        (
            "put",
            request(&Request::Put {
                epoch,
                level,
                options,
                key,
                ttl_ms: 60_000,
                context: b"",
                value: b"two\0",
            }),
        ),
        (
            "put for ever, into a table whose records else expire",
            request(&Request::Put {
                epoch,
                level,
                options,
                key: of_carts,
                ttl_ms: TTL_NEVER,
                context: b"",
                value: b"v",
            }),
        ),
        (
            "put that may be stood in for",
            request(&Request::Put {
                epoch,
                level,
                options: SLOPPY,
                key: Key::plain(b"k"),
                ttl_ms: 0,
                context: b"",
                value: b"v",
            }),
        ),
        ("delete", request(&Request::Delete { epoch, level: Level::One, options, key, context: b"" })),
        (
            "delete that overwrites",
            request(&Request::Delete { epoch, level, options: OVERWRITE, key: of_carts, context: b"" }),
        ),
        (
            "delete of what a read had seen",
            request(&Request::Delete { epoch, level, options, key: of_carts, context: b"seen" }),
        ),
        (
            "multi-get",
            frame(FrameKind::MultiGet, |out| {
                Request::encode_multi_get(epoch, level, &[key, Key::plain(b"k")], out);
            }),
        ),
        (
            "multi-put",
            frame(FrameKind::MultiPut, |out| {
                let put = Entry::Put { key, ttl_ms: 60_000, context: b"", value: b"two\0" };
                let delete = Entry::Delete { key: of_carts, context: b"seen" };
                Request::encode_multi_put(epoch, level, SLOPPY, [put, delete].into_iter(), out);
            }),
        ),
        ("pong", reply(&Reply::Pong)),
        (
            "topology reply",
            frame(FrameKind::TopologyReply, |out| {
                topology().encode(out);
            }),
        ),
        ("status reply", reply(&Reply::Status("node 1\nuptime_s 17\n"))),
        ("value", reply(&Reply::Value { version: VERSION, answered: 2, value: b"two\0" })),
        ("absent, with a newer topology to fetch", reply(&Reply::Absent { answered: 2 })),
        ("done", reply(&Reply::Done { version: VERSION, answered: 3, sloppy: false })),
        ("done, with a stand-in", reply(&Reply::Done { version: VERSION, answered: 2, sloppy: true })),
        ("values", frame(FrameKind::Values, |out| Reply::encode_values(items.into_iter(), out))),
        ("siblings", reply(&Reply::Siblings { answered: 2, siblings: two })),
        ("siblings of a deleted key", reply(&Reply::Siblings { answered: 2, siblings: none })),
        (
            "values with siblings",
            frame(FrameKind::Values, |out| {
                let siblings = Item::Siblings { answered: 3, siblings: two };
                Reply::encode_values([Item::Absent { answered: 2 }, siblings].into_iter(), out);
            }),
        ),
        (
            "outcomes",
            frame(FrameKind::Outcomes, |out| {
                let done = Outcome::Done { version: VERSION, answered: 3, sloppy: false };
                let others = [ErrorCode::TooManySiblings, ErrorCode::Unknown].map(Outcome::Error);
                Outcomes::encode_all([done, others[0], others[1]].into_iter(), out);
            }),
        ),
        ("error", reply(&Reply::Error { code: ErrorCode::Unavailable, text: "1 of 2 replicas" })),
        (
            "refusal of a peer",
            reply(&Reply::Error {
                code: ErrorCode::TablesDiffer,
                text: "table carts: mode siblings on n1, lww on n2",
            }),
        ),
        (
            "replica write",
            peer(&PeerMessage::ReplicaWrite {
                vnode_epoch: Epoch(4),
                key,
                version: VERSION,
                value: b"two\0",
            }),
        ),
        (
            "replica write of a delete",
            peer(&PeerMessage::ReplicaWrite { vnode_epoch: Epoch(4), key, version: delete, value: b"" }),
        ),
        (
            "hinted write",
            peer(&PeerMessage::HintedWrite {
                target: NodeId(2),
                vnode_epoch: Epoch(4),
                key,
                version: VERSION,
                value: b"two\0",
            }),
        ),
        (
            "replica read",
            peer(&PeerMessage::ReplicaRead { vnode_epoch: Epoch(4), want: ReadWant::Digest, key }),
        ),
        ("replica write answer", peer(&PeerMessage::ReplicaWriteAnswer(WriteAnswer::Applied))),
        (
            "replica write refusal",
            peer(&PeerMessage::ReplicaWriteAnswer(WriteAnswer::Refused(ErrorCode::DiskFull))),
        ),
        ("replica read answer: absent", peer(&PeerMessage::ReplicaReadAnswer(ReplicaAnswer::Absent))),
        (
            "replica read answer: full",
            peer(&PeerMessage::ReplicaReadAnswer(ReplicaAnswer::Full { version: VERSION, value: b"two\0" })),
        ),
        (
            "replica read answer: digest",
            peer(&PeerMessage::ReplicaReadAnswer(ReplicaAnswer::Digest { version: VERSION })),
        ),
        ("gossip: who is there?", frame(FrameKind::Gossip, gossip_who)),
    ]
}

/// The shortest packet: node 2 in its life 7 asks who is at the address that it sends this to.
fn gossip_who(out: &mut Vec<u8>) {
    let tables_hash = 0x1234_5678_9abc_def0_u64;
    out.push(1);
    out.extend_from_slice(b"0123456789abcdef");
    out.extend_from_slice(&tables_hash.to_le_bytes());
    out.extend_from_slice(&2u16.to_le_bytes());
    out.push(1);
    out.extend_from_slice(&2u16.to_le_bytes());
    out.extend_from_slice(&7u64.to_le_bytes());
    out.extend_from_slice(&[4, 127, 0, 0, 1]);
    out.extend_from_slice(&7_200u16.to_le_bytes());
}

fn refusals() -> Vec<(&'static str, Vec<u8>)> {
    let ping = request(&Request::Ping);
    let damaged = |at: usize, value: u8| {
        let mut bytes = ping.clone();
        bytes[at] = value;
        let checksum = crc32c::crc32c(&bytes[4..]);
        bytes[..4].copy_from_slice(&checksum.to_le_bytes());
        bytes
    };
    let mut flipped = ping.clone();
    flipped[16] ^= 1;
    let newer =
        Hello { min: 2, max: 3, features: Features(0), cluster: ClusterId([0; 16]), role: Role::Client };
    let oversize = [0, 0, 0, 0, 1, 0, 64, 0];
    let mut long = ping.clone();
    long[..8].copy_from_slice(&oversize);
    vec![
        ("a flipped bit", flipped),
        ("an unknown kind", damaged(8, 0x77)),
        ("an unknown flag", damaged(9, 2)),
        ("a reserved byte that is set", damaged(10, 1)),
        ("a body over the limit, refused at its header", long),
        ("a hello of newer versions only", frame(FrameKind::Hello, |out| newer.encode(out))),
        (
            "a get with bytes left over",
            frame(FrameKind::Get, |out| {
                Request::Get { epoch: Epoch(0), level: Level::One, options: 0, key: Key::plain(b"k") }
                    .encode(out);
                out.push(0);
            }),
        ),
    ]
}

fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2), "whole bytes");
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn tokens() -> Vec<String> {
    let keys: [(&[u8], u64); 6] = [
        (b"", 0),
        (b"a", 0),
        (b"user:7", 0),
        (b"user:7", 42),
        (b"The quick brown fox jumps over", 42),
        (&[0xff; 300], 42),
    ];
    keys.iter()
        .map(|(partition, seed)| {
            let token = Key::plain(partition).token(HashSeed(*seed));
            let vnode = token.vnode(4096).0;
            format!("token partition={} seed={seed} token={:#018x} vnode={vnode}", hex(partition), token.0)
        })
        .collect()
}

fn table_numbers() -> Vec<String> {
    let line = |name: &&str| format!("table name={name} id={:#010x}", TableId::of(name).0);
    ["default", "carts", "a", "device-state_2"].iter().map(line).collect()
}

#[test]
fn encoding_gives_the_files_bytes() {
    let mut file = HEAD.to_owned();
    for (name, bytes) in frames().into_iter().chain(refusals()) {
        write!(file, "\n[{name}]\nhex   {}\nmeans {}\n", hex(&bytes), words(&bytes)).unwrap();
    }
    file.push('\n');
    tokens().iter().chain(&table_numbers()).for_each(|line| writeln!(file, "{line}").unwrap());
    assert!(file == FILE, "vectors.txt should be:\n{file}");
}

#[test]
fn decoding_the_files_bytes_gives_its_words() {
    let mut blocks = 0;
    let mut lines = FILE.lines();
    while let Some(line) = lines.next() {
        if let Some(digits) = line.strip_prefix("hex   ") {
            let means =
                lines.next().and_then(|line| line.strip_prefix("means ")).expect("bytes have a meaning");
            assert_eq!(words(&unhex(digits)), means);
            blocks += 1;
        }
    }
    assert_eq!(blocks, frames().len() + refusals().len());
}

#[test]
fn every_kind_has_a_vector_and_every_refusal_is_one() {
    for kind in FrameKind::ALL {
        assert!(frames().iter().any(|(_, bytes)| bytes[8] == kind as u8), "{kind:?}");
    }
    assert!(frames().iter().all(|(_, bytes)| !words(bytes).starts_with("refused")));
    assert!(refusals().iter().all(|(_, bytes)| words(bytes).starts_with("refused")));
}

/// PROTOCOL.md is written by hand; at least its numbers are held to the code.
#[test]
fn the_page_says_what_the_code_does() {
    let page = include_str!("../../PROTOCOL.md");
    for code in ErrorCode::ALL {
        let start = format!("| {} | ", code as u16);
        let is_row = |line: &&str| line.starts_with(&start) && line.matches(" | ").count() == 4;
        let row = page.lines().find(is_row).unwrap_or_else(|| panic!("no row for {code}"));
        assert_eq!(row.contains("| not applied |"), code.says_not_applied(), "{row}");
    }
    for kind in FrameKind::ALL {
        assert!(page.contains(&format!("{:#04x}", kind as u8)), "{kind:?}");
    }
    for (partition, seed) in [("a", 0), ("user:7", 0), ("user:7", 42), ("The quick brown fox jumps over", 42)]
    {
        let token = Key::plain(partition.as_bytes()).token(HashSeed(seed));
        let row = format!("| `{partition}` | {seed} | {:#018x} | {} |", token.0, token.vnode(4096).0);
        assert!(page.contains(&row), "{row}");
    }
    for name in ["default", "carts"] {
        let row = format!("| `{name}` | {:#010x} |", TableId::of(name).0);
        assert!(page.contains(&row), "{row}");
    }
}
