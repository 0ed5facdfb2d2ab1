//! What a key's table makes of a request, and peers that were told of other tables.

use ferrite_wire::{ErrorCode, Item, Mode, ReplicaAnswer, Reply, Table, TableId, WriteAnswer};

use super::*;
use crate::shard::reach::Reach;
use crate::shard::tables::TableRefusal;

fn named(name: &str, replication: u8) -> Table {
    Table { id: TableId::of(name), name: name.to_owned(), ..Table::default_of(replication) }
}

fn tables(more: &[Table]) -> Tables {
    Tables::new([&[Table::default_of(3)][..], more].concat()).expect("a sound list")
}

fn siblings(name: &str) -> Table {
    Table { mode: Mode::Siblings, max_siblings: 8, ..named(name, 3) }
}

fn open_with(nodes: u16, tables: Tables) -> (Bench, Rc<Shard<Bench>>) {
    let bench = Bench::new(MemDisk::new());
    let shard = open(&bench, settings_with(nodes, 1, 2, tables)).expect("an empty disk opens");
    (bench, shard)
}

fn encoded(tables: &Tables) -> Vec<u8> {
    let mut out = Vec::new();
    tables.encode(&mut out);
    out
}

/// The only answer on a connection: its code and text.
fn refusal(bench: &Bench, connection: Connection) -> (ErrorCode, String) {
    let frames = bench.frames(connection);
    let [(header, body)] = &frames[..] else { panic!("one answer: {frames:?}") };
    match Reply::decode(header.kind, body) {
        Ok(Reply::Error { code, text }) => (code, text.to_owned()),
        other => panic!("not an error: {other:?}"),
    }
}

/// Answers the hello of every link that has said it.
pub(super) fn accept_links(bench: &Bench, shard: &Shard<Bench>) {
    pass(bench, shard, 40);
    let links: Vec<_> =
        shard.links.borrow().iter().map(|link| (link.node, link.core, link.connection())).collect();
    for (node, core, connection) in links {
        let connection = connection.expect("it is tried");
        shard.on_connected(connection);
        bench.frames(connection);
        receive(shard, connection, &accepted_by(node, core));
    }
}

/// The frame with which a core accepts this node.
pub(super) fn accepted_by(node: NodeId, core: CoreId) -> Vec<u8> {
    let reply = ferrite_wire::HelloReply {
        version: PROTOCOL_MAX,
        features: Features(0),
        cluster: CLUSTER,
        node,
        core,
        cores: 1,
        incarnation: 9,
        epoch: Epoch(1),
        body_bytes_max: limits::BODY_BYTES_MAX as u32,
    };
    frame_of(FrameKind::HelloReply, u64::MAX, 0, |out| reply.encode(out))
}

#[test]
fn a_narrow_table_is_on_the_first_of_the_replicas_only() {
    let narrow = named("narrow", 1);
    let (bench, shard) = open_with(3, tables(&[narrow.clone(), named("wide", 16)]));
    accept_links(&bench, &shard);
    let (mut first, mut later) = (0, 0);
    for number in 0..200u32 {
        let partition = number.to_le_bytes();
        let whole = shard.route(&Key::plain(&partition)).expect("the default table is there");
        let wide = Key { table: TableId::of("wide"), partition: &partition, sort: b"" };
        let wide = shard.route(&wide).expect("a table that is declared");
        assert_eq!((wide.replicas, wide.position), (3, whole.position), "no more than there are nodes");
        let route = shard.route(&narrow.key(&partition)).expect("a table that is declared");
        assert_eq!((whole.replicas, route.replicas, route.vnode), (3, 1, whole.vnode));
        assert_eq!(route.position, whole.position.filter(|position| *position == 0));
        assert_eq!(shard.reach(whole).live.len(), 3);
        let Reach { live, connections, .. } = shard.reach(route);
        assert!(live.is_within(1) && live.len() == 1, "{live:?}");
        assert_eq!(connections[0].is_none(), route.position.is_some(), "this node, or the one that is it");
        assert!(connections[1..].iter().all(Option::is_none));
        *(if route.position.is_some() { &mut first } else { &mut later }) += 1;
    }
    assert!(first > 20 && later > 60, "{first} {later}");
}

/// A coordinator that counts on a replica beyond the table's would be answered by one whose copy no quorum knows of.
#[test]
fn what_lies_beyond_a_tables_replicas_is_neither_taken_nor_shown() {
    let narrow = named("narrow", 1);
    let (bench, shard) = open_with(3, tables(std::slice::from_ref(&narrow)));
    let connection = peer(&bench, &shard);
    for number in 0..60u32 {
        let partition = number.to_le_bytes();
        let key = narrow.key(&partition);
        let vnode = shard.route(&key).expect("a table").vnode;
        let is_replica = shard.ring.borrow().position_of_me(vnode) == Some(0);
        let version = ferrite_wire::Version { order: Order(7), ..Default::default() };
        let write = PeerMessage::ReplicaWrite { vnode_epoch: Epoch(1), key, version, value: b"value" };
        receive(&shard, connection, &message_frame(1, 1_000_000, &write));
        shard.on_batch_end();
        bench.run();
        let read =
            PeerMessage::ReplicaRead { vnode_epoch: Epoch(1), want: ferrite_wire::ReadWant::Full, key };
        receive(&shard, connection, &message_frame(2, 1_000_000, &read));
        bench.run();
        let frames = bench.frames(connection);
        let answers: Vec<_> = frames
            .iter()
            .map(|(header, body)| PeerMessage::decode(header.kind, body).expect("an answer"))
            .collect();
        let expected = if is_replica {
            [
                PeerMessage::ReplicaWriteAnswer(WriteAnswer::Applied),
                PeerMessage::ReplicaReadAnswer(ReplicaAnswer::Full { version, value: b"value" }),
            ]
        } else {
            [
                PeerMessage::ReplicaWriteAnswer(WriteAnswer::Refused(ErrorCode::Unavailable)),
                PeerMessage::ReplicaReadAnswer(ReplicaAnswer::Refused(ErrorCode::Unavailable)),
            ]
        };
        assert_eq!(answers, expected, "key {number}");
    }
}

/// Found by a simulated run with a table of one replica: a node that is none minted on whichever of its cores a client had reached. After a
/// jump of the wall clock, the second of two acknowledged writes through that node had the lower order, and was lost to the first.
#[test]
fn writes_through_a_node_that_is_no_replica_are_minted_by_one_core() {
    let bench = Bench::new(MemDisk::new());
    let narrow = named("narrow", 1);
    let shard = open(&bench, settings_with(3, 2, 2, tables(std::slice::from_ref(&narrow))));
    let shard = shard.expect("an empty disk opens");
    let connection = client(&bench, &shard);
    let (mut here, mut hopped) = (0, 0);
    for number in 0..100u32 {
        let partition = number.to_le_bytes();
        let key = narrow.key(&partition);
        let route = shard.route(&key).expect("a table");
        if route.position.is_some() {
            continue;
        }
        let core = shard.settings.placement.core(route.vnode);
        let (epoch, level, context) = (Epoch(0), Level::One, b"");
        for request in [
            Request::Put { epoch, level, options: 0, key, ttl_ms: 0, context, value: b"v" },
            Request::Delete { epoch, level, options: 0, key, context },
        ] {
            receive(&shard, connection, &request_frame(1, &request));
            let hops: Vec<CoreId> = bench.0.hops.borrow_mut().drain(..).map(|(core, _)| core).collect();
            assert_eq!(hops, [core].into_iter().filter(|core| *core != CoreId(0)).collect::<Vec<_>>());
            *(if core == CoreId(0) { &mut here } else { &mut hopped }) += 1;
        }
        receive(&shard, connection, &request_frame(1, &Request::Get { epoch, level, options: 0, key }));
        assert!(bench.0.hops.borrow().is_empty(), "a read mints nothing: any core may ask for it");
    }
    assert!(here > 20 && hopped > 20, "{here} {hopped}");
}

#[test]
fn a_put_lives_as_long_as_it_says_and_else_as_long_as_its_table_says() {
    let brief = Table { ttl_ms: 60_000, ..named("brief", 3) };
    let (bench, shard) = open_with(1, tables(std::slice::from_ref(&brief)));
    let connection = client(&bench, &shard);
    for (key, ttl_ms, expected) in [
        (brief.key(b"k"), 0, Some(60_000)),
        (brief.key(b"k"), 5, Some(5)),
        (brief.key(b"lasting for ever"), ferrite_wire::TTL_NEVER, None),
        (Key::plain(b"k"), 0, None),
        (Key::plain(b"k"), 7, Some(7)),
    ] {
        let (epoch, level, context) = (Epoch(0), Level::One, b"");
        let put = Request::Put { epoch, level, options: 0, key, ttl_ms, context, value: b"v" };
        receive(&shard, connection, &request_frame(1, &put));
        shard.on_batch_end();
        bench.run();
        let (header, body) = bench.frames(connection).remove(0);
        let Ok(Reply::Done { version, .. }) = Reply::decode(header.kind, &body) else {
            panic!("{:?}", header.kind)
        };
        assert_eq!(version.expiry_ms, expected.map_or(0, |ttl_ms: u64| bench.wall_ms() + ttl_ms), "{ttl_ms}");
    }
    // The default table's key is gone after its seven milliseconds, the other after its table's minute; written again it is there.
    let shows = |key: Key<'_>| {
        let get = Request::Get { epoch: Epoch(0), level: Level::One, options: 0, key };
        receive(&shard, connection, &request_frame(2, &get));
        bench.frames(connection).remove(0).0.kind == FrameKind::Value
    };
    let lasting = Request::Put {
        epoch: Epoch(0),
        level: Level::One,
        options: 0,
        key: brief.key(b"lasting"),
        ttl_ms: 0,
        context: b"",
        value: b"v",
    };
    receive(&shard, connection, &request_frame(3, &lasting));
    pass(&bench, &shard, 8);
    bench.frames(connection);
    assert_eq!((shows(Key::plain(b"k")), shows(brief.key(b"lasting"))), (false, true));
    bench.0.wall_ms.set(bench.wall_ms() + 60_000);
    assert!(!shows(brief.key(b"lasting")));
}

#[test]
fn unknown_tables_are_refused_in_words() {
    let (bench, shard) = open_with(1, tables(&[siblings("carts")]));
    let connection = client(&bench, &shard);
    let (epoch, level) = (Epoch(0), Level::One);
    let carts = Key { table: TableId::of("carts"), partition: b"k", sort: b"" };
    let key = Key { table: TableId(9), ..carts };
    for request in [
        Request::Get { epoch, level, options: 0, key },
        Request::Get { epoch, level: Level::All, options: 0, key },
        Request::Put { epoch, level, options: 0, key, ttl_ms: 0, context: b"", value: b"v" },
        Request::Delete { epoch, level, options: 0, key, context: b"" },
    ] {
        receive(&shard, connection, &request_frame(1, &request));
        let (code, text) = refusal(&bench, connection);
        assert_eq!(code, TableRefusal::Unknown.code(), "{request:?}");
        assert!(text.contains("knows no table"), "{text}");
    }
    let both = frame_of(FrameKind::MultiGet, 2, 0, |out| {
        Request::encode_multi_get(epoch, level, &[Key::plain(b"k"), carts, key], out);
    });
    receive(&shard, connection, &both);
    let (header, body) = bench.frames(connection).remove(0);
    let Ok(Reply::Values(items)) = Reply::decode(header.kind, &body) else { panic!("{:?}", header.kind) };
    let absent = Item::Absent { answered: 1 };
    let expected = [absent, absent, Item::Error(ErrorCode::NoTable)];
    assert_eq!(items.iter().collect::<Vec<_>>(), expected);
}

fn hello_frame(role: Role<'_>) -> Vec<u8> {
    let (min, max, features) = (PROTOCOL_MIN, PROTOCOL_MAX, Features(0));
    let hello = Hello { min, max, features, cluster: CLUSTER, role };
    frame_of(FrameKind::Hello, 0, 0, |out| hello.encode(out))
}

fn peer_with(tables: &[u8], node: u16) -> Role<'_> {
    let tables = TableList::new(tables).expect("a sound list");
    Role::Peer { node: NodeId(node), core: CoreId(0), incarnation: 1, tables }
}

#[test]
fn a_peer_with_other_tables_is_refused_by_the_first_difference() {
    let (bench, shard) = open_with(2, tables(&[named("flags", 3)]));
    let greet = |theirs: &Tables| {
        let list = encoded(theirs);
        let connection = bench.new_connection();
        shard.on_accepted(connection);
        (connection, shard.on_received(connection, &hello_frame(peer_with(&list, 2))))
    };
    for (theirs, words) in [
        (tables(&[]), "table flags is not known on n2"),
        (tables(&[named("flags", 2)]), "table flags: replication 3 on n1, 2 on n2"),
        (tables(&[siblings("flags")]), "table flags: mode lww on n1, siblings on n2"),
        (tables(&[named("flags", 3), named("more", 3)]), "table more is not known on n1"),
        (
            Tables::new(vec![Table::default_of(1), named("flags", 3)]).unwrap(),
            "table default: replication 3 on n1, 1 on n2",
        ),
    ] {
        // However often it tries, it is told each time, and the log only once.
        for _ in 0..3 {
            let (connection, received) = greet(&theirs);
            assert_eq!(received, Received::Close, "{words}");
            assert_eq!(refusal(&bench, connection), (ErrorCode::TablesDiffer, words.to_owned()));
        }
        assert_eq!(shard.differing.borrow().get(&NodeId(2)).map(String::as_str), Some(words));
    }
    let (connection, received) = greet(&tables(&[named("flags", 3)]));
    assert!(matches!(received, Received::Consumed { need: 0, .. }), "{received:?}");
    assert_eq!(bench.frames(connection)[0].0.kind, FrameKind::HelloReply);
    assert!(shard.differing.borrow().is_empty(), "its next difference is news again");
}

/// All tables that there can be are far more than a stranger may send before he has said who he is.
#[test]
fn only_a_member_is_listened_to_for_longer_than_a_strangers_hello() {
    let long = |number: usize| named(&format!("{number:0>width$}", width = limits::TABLE_NAME_BYTES_MAX), 3);
    let most = tables(&(1..limits::TABLES_MAX).map(long).collect::<Vec<_>>());
    let list = encoded(&most);
    let (bench, shard) = open_with(2, most);
    let whole = hello_frame(peer_with(&list, 2));
    let head = ferrite_wire::FRAME_HEADER_BYTES + Hello::HEAD_BYTES;
    let connection = bench.new_connection();
    shard.on_accepted(connection);
    for (shown, need) in
        [(20, 32), (32, head), (head - 1, head), (head, whole.len()), (whole.len() - 1, whole.len())]
    {
        let received = shard.on_received(connection, &whole[..shown]);
        assert_eq!(received, Received::Consumed { used: 0, need }, "{shown} bytes shown");
    }
    receive(&shard, connection, &whole);
    assert_eq!(bench.frames(connection)[0].0.kind, FrameKind::HelloReply);

    let mut foreign = whole.clone();
    foreign[ferrite_wire::FRAME_HEADER_BYTES + 20] ^= 1;
    let mut of_a_client = whole.clone();
    of_a_client[ferrite_wire::FRAME_HEADER_BYTES + 36] = 0;
    let mut too_long = whole.clone();
    let body = (Hello::HEAD_BYTES + limits::TABLES_BYTES_MAX + 1) as u32;
    too_long[4..8].copy_from_slice(&body.to_le_bytes());
    let mut no_hello = whole.clone();
    no_hello[8] = FrameKind::Put as u8;
    // Gossip of any node of the cluster is listened to.
    let tables = TableList::new(&list).expect("a sound list");
    let gossip = hello_frame(Role::Gossip { node: NodeId(7), incarnation: 1, tables });
    let connection = bench.new_connection();
    shard.on_accepted(connection);
    receive(&shard, connection, &gossip);
    assert_eq!(bench.frames(connection)[0].0.kind, FrameKind::HelloReply);
    let mut foreign_gossip = gossip.clone();
    foreign_gossip[ferrite_wire::FRAME_HEADER_BYTES + 20] ^= 1;

    let no_member = hello_frame(peer_with(&list, 7));
    for (what, bytes) in [
        ("a foreign cluster", foreign),
        ("a foreign cluster's gossip", foreign_gossip),
        ("a client", of_a_client),
        ("more than all tables", too_long),
        ("a put", no_hello),
        ("no member", no_member),
    ] {
        let connection = bench.new_connection();
        shard.on_accepted(connection);
        assert_eq!(shard.on_received(connection, &bytes[..head]), Received::Close, "{what}");
        let (code, text) = refusal(&bench, connection);
        assert_eq!(code, ErrorCode::TooLarge, "{what}: {text}");
        assert!(text.ends_with("more than 1024"), "{what}: {text}");
    }
}

#[test]
fn a_link_that_is_refused_says_why_until_it_is_accepted() {
    let (bench, shard) = open_with(2, tables(&[]));
    let asked = |shard: &Shard<Bench>| {
        let tries = || {
            pass(&bench, shard, 1);
            shard.links.borrow().iter().next().expect("the other node").connection()
        };
        let connection = (0..5_000).find_map(|_| tries()).expect("it tries again and again");
        shard.on_connected(connection);
        let frames = bench.frames(connection);
        let Ok(Hello { role: Role::Peer { tables, .. }, .. }) = Hello::decode(&frames[0].1) else {
            panic!("not a peer's hello")
        };
        assert_eq!(tables.as_bytes(), shard.tables);
        connection
    };
    let line = |shard: &Shard<Bench>| {
        let status = shard.status();
        status.lines().find(|line| line.starts_with("peer.2.0 ")).expect("its line").to_owned()
    };
    for _ in 0..2 {
        let connection = asked(&shard);
        let text = "table flags is not known on n1";
        let refused = Reply::Error { code: ErrorCode::TablesDiffer, text };
        let frame = frame_of(refused.kind(), u64::MAX, 0, |out| refused.encode(out));
        assert_eq!(shard.on_received(connection, &frame), Received::Close);
        assert!(line(&shard).starts_with("peer.2.0 down "), "{}", line(&shard));
        assert!(line(&shard).ends_with(", refused: tables differ: table flags is not known on n1"));
    }
    let connection = asked(&shard);
    receive(&shard, connection, &accepted_by(NodeId(2), CoreId(0)));
    assert!(
        line(&shard).starts_with("peer.2.0 up ") && !line(&shard).contains("refused"),
        "{}",
        line(&shard)
    );
}

/// They were counted over all replicas whatever the datacenter: EACH_QUORUM was done without a majority in each.
#[test]
fn levels_of_datacenters_are_refused_where_there_are_several() {
    for (datacenter, refused) in [("dc1", false), ("dc2", true)] {
        let mut settings = settings(3, 1, 3);
        settings.topology.nodes[2].datacenter = datacenter.to_owned();
        let bench = Bench::new(MemDisk::new());
        let shard = open(&bench, settings).expect("a sound disk opens");
        let connection = client(&bench, &shard);
        for level in [Level::LocalOne, Level::LocalQuorum, Level::EachQuorum] {
            let key = Key::plain(b"k");
            let request = Request::Get { epoch: Epoch(0), level, options: 0, key };
            receive(&shard, connection, &request_frame(1, &request));
            let is_refused = bench.frames(connection).iter().any(|(header, body)| {
                matches!(
                    Reply::decode(header.kind, body),
                    Ok(Reply::Error { code: ErrorCode::Unsupported, .. })
                )
            });
            assert_eq!(is_refused, refused, "{level:?} {datacenter}");
        }
    }
}
