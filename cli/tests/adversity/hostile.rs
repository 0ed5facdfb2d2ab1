//! Bytes that no client would send: a typed error, at worst a closed connection, and nobody else notices.

use ferrite_wire::{
    ClusterId, Epoch, ErrorCode, Features, FrameKind, Hello, Key, Level, Order, PeerMessage, ReadWant,
    Request, RequestId, Role, TableId, Version, WriteAnswer, limits,
};

use crate::bystander::Bystander;
use crate::cluster::{Cluster, Wanted};
use crate::random::Random;
use crate::wire::{self, Raw, frame, frame_of, hello, peer, request, with_header_byte};

const TWO_CORES: Wanted<'static> = Wanted { nodes: 1, cores: 2, server: "memtable = \"1MiB\"" };
/// Where flags and reserved bytes are in a header.
const FLAGS_AT: usize = 9;
const RESERVED_AT: usize = 10;
const NOISY_FRAMES: usize = 600;

/// What a connection is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// An error, and then the connection closes.
    Closed(ErrorCode),
    /// An error for this request, and the connection goes on.
    Refused(ErrorCode),
}
use Fate::{Closed, Refused};

/// Sends `bytes` over a connection that has been greeted in `role`, or not at all.
fn meets(cluster: &Cluster, role: Option<Role<'_>>, name: &str, bytes: &[u8], fate: Fate) {
    let mut raw = match role {
        Some(role) => Raw::greeted(cluster, role),
        None => Raw::connect(cluster),
    };
    raw.send(bytes);
    let said = match fate {
        Closed(_) => raw.until_closed(),
        Refused(_) => {
            let (said, goes_on) = raw.until_pong_or_closed();
            assert!(goes_on, "{name}: closed after {said:?}");
            said
        }
    };
    let (Closed(code) | Refused(code)) = fate;
    let last = said.last().unwrap_or_else(|| panic!("{name}: closed without a word"));
    assert_eq!(last.code, Some(code), "{name}: {said:?}");
    if let Refused(_) = fate {
        assert_eq!((last.request, said.len()), (wire::REQUEST, 1), "{name}: one answer");
    }
}

/// A body of `common key`, with lengths as told rather than as they are.
fn key_body(level: u8, options: u8, table: u32, partition_len: u32, sort_len: u32, bytes: &[u8]) -> Vec<u8> {
    let mut body = vec![0; 8];
    body.extend_from_slice(&[level, options]);
    for number in [table, partition_len, sort_len] {
        body.extend_from_slice(&number.to_le_bytes());
    }
    body.extend_from_slice(bytes);
    body
}

fn put_body(context_len: u32, value_len: u32, bytes: &[u8]) -> Vec<u8> {
    let mut body = key_body(3, 0, 1, 1, 0, b"k");
    body.extend_from_slice(&[0; 8]);
    body.extend_from_slice(&context_len.to_le_bytes());
    body.extend_from_slice(&value_len.to_le_bytes());
    body.extend_from_slice(bytes);
    body
}

fn peer_message(message: &PeerMessage<'_>) -> Vec<u8> {
    let mut body = Vec::new();
    message.encode(&mut body);
    frame(message.kind(), &body)
}

#[test]
fn strange_greetings_are_refused_in_words() {
    let cluster = Cluster::start(TWO_CORES);
    let mut bystander = Bystander::start(&cluster);
    let ours = cluster.local.config().cluster.id;
    let greeting = |min, max, cluster, role| {
        let mut body = Vec::new();
        Hello { min, max, features: Features(0), cluster, role }.encode(&mut body);
        body
    };
    let good = greeting(1, 1, ours, Role::Client);
    let mut role = good.clone();
    role[36] = 9;
    let mut node_of_a_client = good.clone();
    node_of_a_client[37] = 1;
    let mut magic = good.clone();
    magic[0] ^= 0x20;
    let longer = [&good[..], b"!"].concat();
    for (name, bytes, fate) in [
        ("an old version", frame(FrameKind::Hello, &greeting(0, 0, ours, Role::Client)), ErrorCode::Version),
        ("a new version", frame(FrameKind::Hello, &greeting(2, 9, ours, Role::Client)), ErrorCode::Version),
        (
            "versions the wrong way round",
            frame(FrameKind::Hello, &greeting(9, 1, ours, Role::Client)),
            ErrorCode::Version,
        ),
        ("another cluster", hello(ClusterId([1; 16]), Role::Client), ErrorCode::ForeignCluster),
        ("a peer of another cluster", hello(ClusterId([1; 16]), peer()), ErrorCode::ForeignCluster),
        ("a peer that does not say whose", hello(ClusterId([0; 16]), peer()), ErrorCode::ForeignCluster),
        ("an unknown role", frame(FrameKind::Hello, &role), ErrorCode::Malformed),
        ("a client with a node", frame(FrameKind::Hello, &node_of_a_client), ErrorCode::Malformed),
        ("another magic", frame(FrameKind::Hello, &magic), ErrorCode::Malformed),
        ("a byte too many", frame(FrameKind::Hello, &longer), ErrorCode::Malformed),
        ("a body cut short", frame(FrameKind::Hello, &good[..30]), ErrorCode::Malformed),
        ("a body over the limit before hello", frame(FrameKind::Hello, &[0; 1025]), ErrorCode::TooLarge),
        ("a server's answer", frame(FrameKind::HelloReply, &[0; 60]), ErrorCode::Malformed),
        ("a peer's write", frame(FrameKind::ReplicaWrite, b""), ErrorCode::Malformed),
    ] {
        meets(&cluster, None, name, &bytes, Closed(fate));
        bystander.is_served(name);
    }
}

#[test]
fn what_a_client_may_not_say_is_refused_and_hurts_nobody_else() {
    let cluster = Cluster::start(TWO_CORES);
    let mut bystander = Bystander::start(&cluster);
    let ours = cluster.local.config().cluster.id;
    let ping = || frame(FrameKind::Ping, b"");
    let mut flipped = request(&wire::put(b"k", b"value"));
    *flipped.last_mut().expect("it has a value") ^= 1;
    let mut unknown_kind = ping();
    unknown_kind[8] = 0x7f;
    let mut oversize = ping();
    oversize[4..8].copy_from_slice(&(limits::BODY_BYTES_MAX as u32 + 1).to_le_bytes());
    let mut endless = ping();
    endless[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    let long = vec![b'x'; limits::VALUE_BYTES_MAX + 1];
    let key_max = limits::KEY_BYTES_MAX as u32;
    let long_key = key_body(3, 0, 1, key_max, 1, &long[..limits::KEY_BYTES_MAX + 1]);
    let keys = [Key::plain(b"k"); limits::MULTI_GET_KEYS_MAX + 1];
    let mut many = Vec::new();
    Request::encode_multi_get(Epoch(0), Level::One, &keys, &mut many);
    let get = |body: Vec<u8>| frame(FrameKind::Get, &body);
    let mut put = Vec::new();
    wire::put(b"k", b"v").encode(&mut put);
    let version = Version { order: Order(1), ..Version::default() };
    let write =
        PeerMessage::ReplicaWrite { vnode_epoch: Epoch(1), key: Key::plain(b"k"), version, value: b"v" };

    for (name, bytes, fate) in [
        ("a wrong checksum", flipped, Closed(ErrorCode::Malformed)),
        ("an unknown kind", with_header_byte(unknown_kind, 8, 0x7f), Closed(ErrorCode::Malformed)),
        ("a reserved flag", with_header_byte(ping(), FLAGS_AT, 0x80), Closed(ErrorCode::Malformed)),
        ("a reserved byte", with_header_byte(ping(), RESERVED_AT, 1), Closed(ErrorCode::Malformed)),
        (
            "the other reserved byte",
            with_header_byte(ping(), RESERVED_AT + 1, 1),
            Closed(ErrorCode::Malformed),
        ),
        ("a body over the limit", oversize, Closed(ErrorCode::TooLarge)),
        ("a body over all limits", endless, Closed(ErrorCode::TooLarge)),
        ("a second hello", hello(ours, Role::Client), Closed(ErrorCode::Unsupported)),
        ("an answer", frame(FrameKind::Pong, b""), Closed(ErrorCode::Unsupported)),
        ("a peer's write", peer_message(&write), Closed(ErrorCode::Unsupported)),
        ("a peer's answer", frame(FrameKind::ReplicaWriteAnswer, &[0]), Closed(ErrorCode::Unsupported)),
        ("a ping with a body", frame(FrameKind::Ping, b"?"), Closed(ErrorCode::Malformed)),
        ("a get without a body", get(Vec::new()), Closed(ErrorCode::Malformed)),
        ("level 0", get(key_body(0, 0, 1, 1, 0, b"k")), Closed(ErrorCode::Malformed)),
        ("level 17", get(key_body(0x91, 0, 1, 1, 0, b"k")), Closed(ErrorCode::Malformed)),
        ("an option", get(key_body(3, 1, 1, 1, 0, b"k")), Closed(ErrorCode::Malformed)),
        ("a byte after the key", get(key_body(3, 0, 1, 1, 0, b"kk")), Closed(ErrorCode::Malformed)),
        ("a key that is not all there", get(key_body(3, 0, 1, 9, 0, b"k")), Closed(ErrorCode::Malformed)),
        (
            "a value that is not all there",
            frame(FrameKind::Put, &put_body(0, 9, b"v")),
            Closed(ErrorCode::Malformed),
        ),
        (
            "a put cut in its middle",
            frame(FrameKind::Put, &put[..put.len() / 2]),
            Closed(ErrorCode::Malformed),
        ),
        ("a key over its limit", get(long_key), Refused(ErrorCode::TooLarge)),
        (
            "lengths that overflow",
            get(key_body(3, 0, 1, u32::MAX, u32::MAX, b"k")),
            Refused(ErrorCode::TooLarge),
        ),
        ("a value over its limit", request(&wire::put(b"k", &long)), Refused(ErrorCode::TooLarge)),
        (
            "a context over its limit",
            frame(FrameKind::Put, &put_body(u32::MAX, 0, b"")),
            Refused(ErrorCode::TooLarge),
        ),
        ("too many keys", frame(FrameKind::MultiGet, &many), Refused(ErrorCode::TooLarge)),
        ("an unknown table", get(key_body(1, 0, 2, 1, 0, b"k")), Refused(ErrorCode::NoTable)),
        (
            "a level above the replicas",
            get(key_body(0x90, 0, 1, 1, 0, b"k")),
            Refused(ErrorCode::Unavailable),
        ),
        (
            "a time from the end of days",
            frame_of(FrameKind::Put, wire::REQUEST, Order(u64::MAX), &put),
            Refused(ErrorCode::ClockDrift),
        ),
    ] {
        meets(&cluster, Some(Role::Client), name, &bytes, fate);
        bystander.is_served(name);
    }
}

#[test]
fn what_a_peer_may_not_say_is_refused_and_hurts_nobody_else() {
    let cluster = Cluster::start(TWO_CORES);
    let mut bystander = Bystander::start(&cluster);
    let ours = cluster.local.config().cluster.id;
    let read = |key| PeerMessage::ReplicaRead { vnode_epoch: Epoch(1), want: ReadWant::Full, key };
    let mut cut = Vec::new();
    read(Key::plain(b"k")).encode(&mut cut);
    cut.pop();
    let answer = PeerMessage::ReplicaWriteAnswer(WriteAnswer::Applied);
    for (name, bytes, fate) in [
        ("a client's get", request(&wire::get(b"k")), ErrorCode::Unsupported),
        ("a client's put", request(&wire::put(b"k", b"v")), ErrorCode::Unsupported),
        ("a status request", frame(FrameKind::Status, b""), ErrorCode::Unsupported),
        ("an answer nobody waits for", peer_message(&answer), ErrorCode::Unsupported),
        ("a second hello", hello(ours, peer()), ErrorCode::Unsupported),
        ("a read that is cut", frame(FrameKind::ReplicaRead, &cut), ErrorCode::Malformed),
    ] {
        meets(&cluster, Some(peer()), name, &bytes, Closed(fate));
        bystander.is_served(name);
    }
    // Of an unknown table: refused in the answer, as a coordinator expects it.
    let mut raw = Raw::greeted(&cluster, peer());
    raw.send(&peer_message(&read(Key { table: TableId(9), partition: b"k", sort: b"" })));
    let (said, goes_on) = raw.until_pong_or_closed();
    assert!(goes_on);
    assert_eq!(said.iter().map(|said| said.kind).collect::<Vec<_>>(), [FrameKind::ReplicaReadAnswer]);
    bystander.is_served("at the end");
}

#[test]
fn noise_of_all_kinds_closes_its_own_connection_only() {
    let cluster = Cluster::start(TWO_CORES);
    let mut bystander = Bystander::start(&cluster);
    let mut random = Random(1);
    for at in 0..64usize {
        let mut raw = if at % 2 == 0 { Raw::connect(&cluster) } else { Raw::greeted(&cluster, Role::Client) };
        raw.send(&random.bytes(1 << (at % 17)));
        raw.finish();
        raw.until_closed();
    }
    bystander.is_served("after noise");

    // Right frames around wrong bodies, so that decoders see them: noise, and requests with some bytes changed.
    let mut many = Vec::new();
    Request::encode_multi_get(Epoch(0), Level::One, &[Key::plain(b"a"), Key::plain(b"b")], &mut many);
    let mut bodies = vec![(FrameKind::MultiGet, many)];
    for request in [wire::put(b"key", b"value"), wire::get(b"key")] {
        let mut body = Vec::new();
        request.encode(&mut body);
        bodies.push((request.kind(), body));
    }
    let (mut closed, mut refused, mut passed) = (0, 0, 0);
    for at in 0..NOISY_FRAMES {
        let (mut kind, mut body) = bodies[random.below(bodies.len())].clone();
        if at % 3 == 0 {
            let len = random.below(200);
            (kind, body) = (FrameKind::ALL[random.below(FrameKind::ALL.len())], random.bytes(len));
        }
        for _ in 0..at % 4 {
            let place = random.below(body.len().max(1));
            if let Some(byte) = body.get_mut(place) {
                *byte = random.next() as u8;
            }
        }
        let mut raw = Raw::greeted(&cluster, Role::Client);
        raw.send(&frame_of(kind, RequestId(1 + random.next() / 2), Order(random.next()), &body));
        match raw.until_pong_or_closed() {
            (said, false) => {
                assert!(said.last().is_some_and(|said| said.code.is_some()), "{kind:?} {body:?}: {said:?}");
                closed += 1;
            }
            (said, true) if said.iter().any(|said| said.code.is_some()) => refused += 1,
            (_, true) => passed += 1,
        }
    }
    println!(
        "{NOISY_FRAMES} frames of noise: {closed} closed with an error, {refused} refused, {passed} passed"
    );
    assert!(closed > 100 && refused > 20 && passed > 50, "noise got through to the decoders and behind them");
    bystander.is_served("after right frames around noise");
}
