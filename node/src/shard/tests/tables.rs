//! What a key's table makes of a request.

use ferrite_wire::{ErrorCode, Item, Mode, ReplicaAnswer, Reply, Table, TableId, WriteAnswer};

use super::*;
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
fn accept_links(bench: &Bench, shard: &Shard<Bench>) {
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
fn accepted_by(node: NodeId, core: CoreId) -> Vec<u8> {
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
        assert_eq!(shard.live_replicas(whole).0.len(), 3);
        let (live, connections) = shard.live_replicas(route);
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
fn tables_with_siblings_and_unknown_ones_are_refused_in_words() {
    let (bench, shard) = open_with(1, tables(&[siblings("carts")]));
    let connection = client(&bench, &shard);
    let (epoch, level) = (Epoch(0), Level::One);
    let carts = Key { table: TableId::of("carts"), partition: b"k", sort: b"" };
    let nowhere = Key { table: TableId(9), ..carts };
    for (key, expected) in [(carts, TableRefusal::Siblings), (nowhere, TableRefusal::Unknown)] {
        for request in [
            Request::Get { epoch, level, options: 0, key },
            Request::Get { epoch, level: Level::All, options: 0, key },
            Request::Put { epoch, level, options: 0, key, ttl_ms: 0, context: b"", value: b"v" },
            Request::Delete { epoch, level, options: 0, key, context: b"" },
        ] {
            receive(&shard, connection, &request_frame(1, &request));
            let (code, text) = refusal(&bench, connection);
            assert_eq!(code, expected.code(), "{request:?}");
            let part = if expected == TableRefusal::Siblings { "siblings" } else { "knows no table" };
            assert!(text.contains(part), "{text}");
        }
    }
    let both = frame_of(FrameKind::MultiGet, 2, 0, |out| {
        Request::encode_multi_get(epoch, level, &[Key::plain(b"k"), carts, nowhere], out);
    });
    receive(&shard, connection, &both);
    let (header, body) = bench.frames(connection).remove(0);
    let Ok(Reply::Values(items)) = Reply::decode(header.kind, &body) else { panic!("{:?}", header.kind) };
    let expected = [Item::Absent, Item::Error(ErrorCode::Unsupported), Item::Error(ErrorCode::NoTable)];
    assert_eq!(items.iter().collect::<Vec<_>>(), expected);
}
