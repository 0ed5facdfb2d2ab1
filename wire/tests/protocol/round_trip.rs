//! Whatever is encoded is decoded to the same, for every message; and what every bound refuses.

use crate::exercise::recode;
use crate::messages::{
    OwnedKey, any_body, bytes, frame, header, hello, hello_reply, key, tables, topology, version,
};
use ferrite_wire::{
    ClusterId, DecodeError, Entry, Epoch, ErrorCode, Features, FrameKind, Hello, HelloReply, Item, Key,
    Level, PROTOCOL_MAX, Parsed, Reader, Reply, Request, Role, SLOPPY, TableList, Tables, Topology, Version,
    limits, parse_frame,
};
use proptest::prelude::*;

proptest! {
    #[test]
    fn every_body_survives(body in any_body()) {
        prop_assert_eq!(recode(&body), Ok(body.1));
    }

    #[test]
    fn every_frame_survives_in_pieces(body in any_body(), header in header(), cut in any::<prop::sample::Index>()) {
        let bytes = frame(header, &body);
        let part = &bytes[..cut.index(bytes.len())];
        match parse_frame(part, limits::BODY_BYTES_MAX).unwrap() {
            Parsed::Need { bytes: need } => prop_assert!(need > part.len() && need <= bytes.len()),
            Parsed::Frame { .. } => prop_assert!(false, "a part was taken for the whole"),
        }
        let mut stream = bytes.clone();
        stream.extend_from_slice(b"the next frame");
        let Parsed::Frame { frame, bytes: len } = parse_frame(&stream, limits::BODY_BYTES_MAX).unwrap() else {
            return Err(TestCaseError::fail("a whole frame was not seen"));
        };
        prop_assert_eq!(len, bytes.len());
        prop_assert_eq!(frame.body, &body.1[..]);
        prop_assert_eq!(frame.header, ferrite_wire::FrameHeader { kind: body.0, ..header });
    }

    #[test]
    fn handshakes_survive(hello in hello(), reply in hello_reply()) {
        let mut out = Vec::new();
        hello.view().encode(&mut out);
        prop_assert_eq!(Hello::decode(&out), Ok(hello.view()));
        out.clear();
        reply.encode(&mut out);
        prop_assert_eq!(HelloReply::decode(&out), Ok(reply));
    }

    #[test]
    fn tables_survive_and_are_equal_where_their_bytes_are(tables in tables(), other in tables()) {
        let encoded = |tables: &Tables| {
            let mut out = Vec::new();
            tables.encode(&mut out);
            out
        };
        let bytes = encoded(&tables);
        prop_assert_eq!(bytes.len(), tables.encoded_len());
        prop_assert!(bytes.len() <= limits::TABLES_BYTES_MAX);
        let mut reader = Reader::new(&bytes);
        prop_assert_eq!(Tables::decode(&mut reader), Ok(tables.clone()));
        prop_assert!(reader.rest().is_empty());
        let list = TableList::new(&bytes).unwrap();
        prop_assert_eq!((list.as_bytes(), list.tables()), (&bytes[..], tables.clone()));
        let differ = tables.difference("here", &other, "there").is_some();
        prop_assert_eq!(differ, bytes != encoded(&other));
        prop_assert_eq!(tables.difference("here", &tables, "there"), None);
    }

    #[test]
    fn topologies_survive(topology in topology()) {
        prop_assert_eq!(topology.check(), Ok(()));
        let mut out = Vec::new();
        topology.encode(&mut out);
        prop_assert_eq!(out.len(), topology.encoded_len());
        prop_assert_eq!(Topology::decode(&out), Ok(topology));
    }

    #[test]
    fn multi_get_views_are_the_keys(keys in proptest::collection::vec(key(), 0..9)) {
        let keys: Vec<Key<'_>> = keys.iter().map(|key| key.view()).collect();
        let mut out = Vec::new();
        Request::encode_multi_get(Epoch(3), Level::Quorum, &keys, &mut out);
        let Ok(Request::MultiGet { keys: view, .. }) = Request::decode(FrameKind::MultiGet, &out) else {
            return Err(TestCaseError::fail("not a multi-get"));
        };
        prop_assert_eq!(view.len(), keys.len());
        prop_assert_eq!(view.iter().collect::<Vec<_>>(), keys);
    }

    #[test]
    fn multi_put_views_are_the_entries(
        keys in proptest::collection::vec((key(), proptest::option::of(bytes())), 0..9),
    ) {
        fn entry((key, value): &(OwnedKey, Option<Vec<u8>>)) -> Entry<'_> {
            match value {
                Some(value) => Entry::Put { key: key.view(), ttl_ms: 7, context: b"", value },
                None => Entry::Delete { key: key.view(), context: b"seen" },
            }
        }
        let entries: Vec<Entry<'_>> = keys.iter().map(entry).collect();
        let mut out = Vec::new();
        Request::encode_multi_put(Epoch(3), Level::Quorum, SLOPPY, entries.iter().copied(), &mut out);
        let lengths: usize = entries.iter().map(Entry::encoded_len).sum();
        prop_assert_eq!(out.len(), 10 + 4 + lengths);
        let Ok(Request::MultiPut { entries: view, .. }) = Request::decode(FrameKind::MultiPut, &out) else {
            return Err(TestCaseError::fail("not a multi-put"));
        };
        prop_assert_eq!(view.len(), entries.len());
        prop_assert_eq!(view.iter().collect::<Vec<_>>(), entries);
    }

    #[test]
    fn last_write_wins_is_a_total_order(a in version(), b in version()) {
        let same = (a.order, a.actor) == (b.order, b.actor);
        prop_assert_eq!(a.beats(&b) as u8 + b.beats(&a) as u8, u8::from(!same));
    }
}

#[test]
fn a_reply_of_many_large_values_stays_within_a_body() {
    let value = vec![7; limits::VALUE_BYTES_MAX];
    let version = Version::default();
    let mut out = Vec::new();
    let items = (0..limits::MULTI_GET_KEYS_MAX).map(|_| Item::Value { answered: 1, version, value: &value });
    Reply::encode_values(items, &mut out);
    assert!(out.len() <= limits::BODY_BYTES_MAX);
    let Ok(Reply::Values(items)) = Reply::decode(FrameKind::Values, &out) else { panic!("not values") };
    assert_eq!(items.len(), limits::MULTI_GET_KEYS_MAX);
    let fits = items.iter().take_while(|item| matches!(item, Item::Value { .. })).count();
    assert_eq!(fits, 3, "three values of 1 MiB fit 4 MiB with the refusals of the rest");
    assert!(items.iter().skip(fits).all(|item| item == Item::Error(ErrorCode::TooLarge)));
}

#[test]
fn writes_of_a_multi_put_are_bounded_in_number() {
    let delete = Entry::Delete { key: Key::plain(b"k"), context: b"" };
    for (count, is_taken) in
        [(limits::MULTI_PUT_ENTRIES_MAX, true), (limits::MULTI_PUT_ENTRIES_MAX + 1, false)]
    {
        let mut out = Vec::new();
        Request::encode_multi_put(Epoch(0), Level::One, 0, vec![delete; count].into_iter(), &mut out);
        let decoded = Request::decode(FrameKind::MultiPut, &out);
        assert_eq!(decoded.is_ok(), is_taken, "{count}");
        assert!(is_taken || decoded.unwrap_err().code() == ErrorCode::TooLarge);
    }
}

#[test]
fn lengths_are_refused_before_their_bytes_are_there() {
    let long_key = vec![0; limits::KEY_BYTES_MAX + 1];
    let long_value = vec![0; limits::VALUE_BYTES_MAX + 1];
    let (epoch, level) = (Epoch(0), Level::One);
    let get = Request::Get { epoch, level, options: 0, key: Key::plain(&long_key) };
    let put = |value| Request::Put {
        epoch,
        level,
        options: 0,
        key: Key::plain(b"k"),
        ttl_ms: 0,
        context: b"",
        value,
    };
    for (request, field) in [(get, "key"), (put(&long_value), "value")] {
        let mut out = Vec::new();
        request.encode(&mut out);
        let refused = Request::decode(request.kind(), &out);
        assert!(matches!(refused, Err(DecodeError::TooLong { field: named, .. }) if named == field));
        assert_eq!(refused.unwrap_err().code(), ErrorCode::TooLarge);
    }
    // A body length over the limit is refused with nothing but the header at hand.
    let mut head = [0u8; ferrite_wire::FRAME_HEADER_BYTES];
    head[4..8].copy_from_slice(&(limits::BODY_BYTES_MAX as u32 + 1).to_le_bytes());
    head[8] = FrameKind::Ping as u8;
    assert!(matches!(parse_frame(&head, limits::BODY_BYTES_MAX), Err(DecodeError::TooLong { .. })));
}

#[test]
fn versions_without_overlap_are_told_apart_from_nonsense() {
    let hello = Hello {
        min: PROTOCOL_MAX + 1,
        max: PROTOCOL_MAX + 4,
        features: Features(0),
        cluster: ClusterId([0; 16]),
        role: Role::Client,
    };
    let mut out = Vec::new();
    hello.encode(&mut out);
    // What follows `features` belongs to the newer version and may be anything, nothing included.
    for tail in [out.clone(), out[..20].to_vec()] {
        let refused = Hello::decode(&tail).unwrap_err();
        assert_eq!(refused, DecodeError::Version { min: PROTOCOL_MAX + 1, max: PROTOCOL_MAX + 4 });
        assert_eq!(refused.code(), ErrorCode::Version);
    }
    out[0] ^= 1;
    assert_eq!(Hello::decode(&out), Err(DecodeError::Magic));
}

#[test]
fn a_topology_past_its_limits_is_refused_where_it_is_made() {
    let mut topology = Topology {
        epoch: Epoch(1),
        cluster: ClusterId([1; 16]),
        hash_seed: ferrite_wire::HashSeed(0),
        nodes: Vec::new(),
        tables: Tables::only_default(16),
        replicas: vec![Vec::new(); 3],
        vnode_epochs: vec![Epoch(1); 3],
    };
    assert!(topology.check().is_err(), "three vnodes are no power of two");
    topology.nodes = (0..16)
        .map(|id| ferrite_wire::NodeEntry {
            id: ferrite_wire::NodeId(id),
            incarnation: 0,
            name: String::new(),
            rack: String::new(),
            datacenter: String::new(),
            contact: String::new(),
            endpoints: Vec::new(),
            core_of_vnode: Vec::new(),
        })
        .collect();
    let everyone: Vec<_> = topology.nodes.iter().map(|node| node.id).collect();
    topology.replicas = vec![everyone[..5].to_vec(); limits::VNODES_MAX];
    topology.vnode_epochs = vec![Epoch(1); limits::VNODES_MAX];
    assert_eq!(topology.check(), Ok(()), "the most vnodes at five replicas fit");
    topology.replicas = vec![everyone; limits::VNODES_MAX];
    assert!(matches!(topology.check(), Err(DecodeError::TooLong { field: "topology", .. })));
}
