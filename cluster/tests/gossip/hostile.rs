//! Bytes that are not packets, and packets from where they should not come: typed faults, and nothing has changed.

use ferrite_cluster::gossip::{
    CoreDigest, DIGEST_BYTES_MAX, Digest, Fault, Fence, Generation, GossipOptions, Identity, Membership,
    Output, PACKET_BYTES_MAX, Scope, Start, TablesHash, VERSION_BYTES_MAX, Verdict,
};
use ferrite_wire::{ClusterId, DecodeError, Epoch, NodeId, Reader, limits};
use proptest::prelude::*;

use crate::world::{Random, SCOPE, address, node_id};

fn member(node: usize, scope: Scope) -> Membership {
    let start = Start {
        me: Identity::new(node_id(node), Generation(100), address(node)),
        scope,
        version: "1.2.3".to_owned(),
        name: format!("n{node}"),
        seeds: (0..3).map(address).collect(),
        random_seed: node as u64,
        options: GossipOptions::default(),
    };
    Membership::new(0, start)
}

fn sends(out: &mut Vec<Output>) -> Vec<(std::net::SocketAddr, Vec<u8>)> {
    let sent = std::mem::take(out).into_iter().filter_map(|output| match output {
        Output::Send { to, bytes, .. } => Some((to, bytes)),
        Output::Verdict { .. } | Output::Core { .. } | Output::Renewed { .. } => None,
    });
    sent.collect()
}

/// Two members that know each other, and every packet that went from the first to the second.
fn pair() -> (Membership, Membership, Vec<Vec<u8>>) {
    let (mut one, mut two) = (member(0, SCOPE), member(1, SCOPE));
    let (mut packets, mut out) = (Vec::new(), Vec::new());
    for now_ms in (0..6_000).step_by(50) {
        one.tick(now_ms, &mut out);
        let mut to_two: Vec<Vec<u8>> = Vec::new();
        to_two
            .extend(sends(&mut out).into_iter().filter(|(to, _)| *to == address(1)).map(|(_, bytes)| bytes));
        two.tick(now_ms, &mut out);
        let mut to_one: Vec<Vec<u8>> = Vec::new();
        to_one
            .extend(sends(&mut out).into_iter().filter(|(to, _)| *to == address(0)).map(|(_, bytes)| bytes));
        while !to_one.is_empty() || !to_two.is_empty() {
            for bytes in std::mem::take(&mut to_two) {
                two.on_message(now_ms, &bytes, &mut out).expect("sound");
                packets.push(bytes);
            }
            to_one.extend(sends(&mut out).into_iter().map(|(_, bytes)| bytes));
            for bytes in std::mem::take(&mut to_one) {
                one.on_message(now_ms, &bytes, &mut out).expect("sound");
            }
            to_two.extend(sends(&mut out).into_iter().map(|(_, bytes)| bytes));
        }
    }
    assert_eq!(two.members().count(), 1);
    assert!(packets.len() > 10, "{}", packets.len());
    (one, two, packets)
}

fn state(of: &Membership) -> String {
    let members: Vec<_> = of.members().collect();
    let digests: Vec<_> = (0..10).map(|node| of.digest(node_id(node))).collect();
    format!("{:?} {members:?} {digests:?} {}", of.me(), of.next_tick_ms())
}

#[test]
fn every_truncation_of_every_packet_is_a_fault_and_changes_nothing() {
    let (_, mut two, packets) = pair();
    let before = state(&two);
    let mut out = Vec::new();
    for packet in &packets {
        for len in 0..packet.len() {
            assert!(matches!(two.on_message(6_000, &packet[..len], &mut out), Err(Fault::Malformed(_))));
        }
        let longer = [packet.as_slice(), &[0]].concat();
        let trailing = Fault::Malformed(DecodeError::Trailing);
        assert_eq!(two.on_message(6_000, &longer, &mut out), Err(trailing));
    }
    assert_eq!((state(&two), out.len()), (before, 0));
}

#[test]
fn any_flipped_byte_is_taken_or_is_a_fault_and_never_a_panic() {
    let (_, _, packets) = pair();
    let mut random = Random(5);
    let mut refused = 0;
    for packet in packets.iter().rev().take(12) {
        let (_, mut two, _) = pair();
        for at in 0..packet.len() {
            let mut bytes = packet.clone();
            bytes[at] ^= 1 << random.below(8);
            let (before, mut out) = (state(&two), Vec::new());
            if two.on_message(6_000, &bytes, &mut out).is_err() {
                refused += 1;
                assert_eq!(state(&two), before);
            }
        }
        two.tick(9_000, &mut Vec::new());
    }
    assert!(refused > 100);
}

#[test]
fn a_packet_that_is_too_long_is_not_looked_at() {
    let mut two = member(1, SCOPE);
    let bytes = vec![1; PACKET_BYTES_MAX + 1];
    let fault = two.on_message(0, &bytes, &mut Vec::new()).expect_err("too long");
    assert!(matches!(fault, Fault::Malformed(DecodeError::TooLong { field: "packet", .. })), "{fault}");
}

/// What a node sends to its seeds at its first tick.
fn first_packet(from: &mut Membership) -> Vec<u8> {
    let mut out = Vec::new();
    from.tick(0, &mut out);
    sends(&mut out).pop().expect("it asks its seeds").1
}

#[test]
fn another_cluster_is_refused() {
    let foreign = Scope { cluster: ClusterId([8; 16]), ..SCOPE };
    let packet = first_packet(&mut member(0, foreign));
    let (mut two, mut out) = (member(1, SCOPE), Vec::new());
    let fault = two.on_message(0, &packet, &mut out);
    assert_eq!(fault, Err(Fault::ForeignCluster { cluster: foreign.cluster }));
    assert!(out.is_empty(), "a stranger gets no answer");
}

#[test]
fn other_tables_are_refused_on_both_sides() {
    let other = Scope { tables: TablesHash(0xbad), ..SCOPE };
    let mut one = member(0, other);
    let packet = first_packet(&mut one);
    let (mut two, mut out) = (member(1, SCOPE), Vec::new());
    let fault = two.on_message(0, &packet, &mut out).expect_err("other tables");
    assert_eq!(fault, Fault::TablesDiffer { node: node_id(0), theirs: other.tables, ours: SCOPE.tables });
    assert_eq!(
        fault.to_string(),
        "node 1 was configured with other tables: their hash is 0000000000000bad, here it is 00000000007ab1e5"
    );
    let answer = sends(&mut out).pop().expect("so that the other side knows").1;
    let fault = one.on_message(0, &answer, &mut out);
    assert_eq!(
        fault,
        Err(Fault::TablesDiffer { node: node_id(1), theirs: SCOPE.tables, ours: other.tables })
    );
    assert_eq!((one.members().count(), two.members().count()), (0, 0));
}

#[test]
fn a_second_process_of_this_node_is_noticed() {
    let mut twin = {
        let start = Start {
            me: Identity::new(node_id(1), Generation(200), address(9)),
            scope: SCOPE,
            version: String::new(),
            name: String::new(),
            seeds: vec![address(1)],
            random_seed: 3,
            options: GossipOptions::default(),
        };
        Membership::new(0, start)
    };
    let packet = first_packet(&mut twin);
    let fault = member(1, SCOPE).on_message(0, &packet, &mut Vec::new());
    assert_eq!(fault, Err(Fault::Twin { generation: Generation(200), address: address(9) }));
    let own = first_packet(&mut member(1, SCOPE));
    assert_eq!(member(1, SCOPE).on_message(0, &own, &mut Vec::new()), Ok(()), "it is among its own seeds");
}

#[test]
fn a_member_that_does_not_answer_is_suspected_and_then_down_by_the_other_alone() {
    let (mut one, _, _) = pair();
    let mut out = Vec::new();
    let mut heard = Vec::new();
    for now_ms in (6_000..20_000).step_by(50) {
        one.tick(now_ms, &mut out);
        heard.extend(std::mem::take(&mut out).into_iter().filter_map(|output| match output {
            Output::Verdict { verdict, .. } => Some(verdict),
            Output::Send { .. } | Output::Core { .. } | Output::Renewed { .. } => None,
        }));
    }
    assert_eq!(heard, [Verdict::Suspect, Verdict::Down]);
}

#[test]
fn who_is_suspected_is_told_so_when_the_news_of_it_has_long_been_passed_on() {
    let (mut one, mut two, _) = pair();
    let mut out = Vec::new();
    let (mut now_ms, mut suspect_ms) = (6_000, None);
    // What is said while the suspicion is news is lost.
    while suspect_ms.is_none_or(|at_ms| now_ms < at_ms + 2_500) {
        now_ms += 50;
        one.tick(now_ms, &mut out);
        out.clear();
        let verdict = one.member(node_id(1)).expect("known").verdict;
        assert_ne!(verdict, Verdict::Down);
        suspect_ms = suspect_ms.or((verdict == Verdict::Suspect).then_some(now_ms));
    }
    let probe = loop {
        now_ms += 50;
        one.tick(now_ms, &mut out);
        if let Some((_, probe)) = sends(&mut out).pop() {
            break probe;
        }
    };
    two.on_message(now_ms, &probe, &mut out).expect("sound");
    for (_, bytes) in sends(&mut out) {
        one.on_message(now_ms, &bytes, &mut out).expect("sound");
    }
    assert_eq!(one.member(node_id(1)).expect("known").verdict, Verdict::Up, "it has objected");
}

#[test]
fn a_process_that_stood_still_does_not_take_its_own_silence_for_that_of_others() {
    let (mut one, _, _) = pair();
    let mut out = Vec::new();
    // Its last questions are on the way when it stops, and their answers are lost to it for now.
    for now_ms in (6_050..=6_500).step_by(50) {
        one.tick(now_ms, &mut out);
    }
    assert!(!sends(&mut out).is_empty());
    one.tick(17_000, &mut out);
    let is_verdict = |output: &Output| matches!(output, Output::Verdict { .. });
    assert!(!out.iter().any(is_verdict), "nobody had ten seconds to answer");
    for now_ms in (17_050..20_000).step_by(50) {
        one.tick(now_ms, &mut out);
    }
    assert!(out.iter().any(is_verdict), "time counts again");
}

fn core() -> impl Strategy<Value = CoreDigest> {
    (any::<u32>(), any::<u32>(), any::<bool>()).prop_map(|(progress, still_ms, is_fenced)| {
        let fence = if is_fenced { Fence::Fenced } else { Fence::Open };
        CoreDigest { progress, still_ms, fence }
    })
}

fn digest() -> impl Strategy<Value = Digest> {
    let head = (any::<u16>(), any::<u64>(), any::<u64>(), any::<u64>(), any::<u16>());
    let text = |bytes_max| prop::collection::vec(prop::char::range(' ', '~'), 0..=bytes_max);
    let texts = (text(VERSION_BYTES_MAX), text(limits::NAME_BYTES_MAX));
    let cores = prop::collection::vec(core(), 0..70);
    (head, texts, cores).prop_map(
        |((node, generation, sequence, tables, load_permille), (version, name), cores)| Digest {
            node: NodeId(node),
            generation: Generation(generation),
            sequence,
            tables: TablesHash(tables),
            epoch: Epoch(sequence ^ tables),
            load_permille,
            version: version.into_iter().collect(),
            name: name.into_iter().collect(),
            cores,
        },
    )
}

proptest! {
    #[test]
    fn digests_round_trip_and_their_truncations_are_faults(digest in digest()) {
        let mut bytes = Vec::new();
        digest.encode(&mut bytes);
        prop_assert_eq!(bytes.len(), digest.encoded_len());
        prop_assert!(bytes.len() <= DIGEST_BYTES_MAX);
        let mut reader = Reader::new(&bytes);
        prop_assert_eq!(Digest::decode(&mut reader), Ok(digest.clone()));
        prop_assert!(reader.rest().is_empty());
        for len in 0..bytes.len() {
            prop_assert_eq!(Digest::decode(&mut Reader::new(&bytes[..len])), Err(DecodeError::Short));
        }
    }

    #[test]
    fn any_bytes_are_a_digest_of_one_encoding_or_a_fault(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut reader = Reader::new(&bytes);
        if let Ok(digest) = Digest::decode(&mut reader) {
            let mut again = Vec::new();
            digest.encode(&mut again);
            prop_assert_eq!(&again[..], &bytes[..bytes.len() - reader.rest().len()]);
        }
    }

    #[test]
    fn any_bytes_after_a_sound_head_do_no_harm(rest in prop::collection::vec(any::<u8>(), 0..300), kind in 1u8..4) {
        let mut two = member(1, SCOPE);
        let before = state(&two);
        let mut packet = first_packet(&mut member(0, SCOPE));
        packet.truncate(27);
        packet.push(kind);
        packet.extend(rest);
        if two.on_message(0, &packet, &mut Vec::new()).is_err() {
            prop_assert_eq!(state(&two), before);
        }
    }
}

#[test]
fn a_digest_with_more_than_a_node_may_have_is_refused() {
    let digest = Digest {
        node: NodeId(1),
        generation: Generation(1),
        sequence: 1,
        tables: TablesHash(1),
        epoch: Epoch(1),
        load_permille: 0,
        version: "v".to_owned(),
        name: "n".to_owned(),
        cores: Vec::new(),
    };
    let mut bytes = Vec::new();
    digest.encode(&mut bytes);
    let cores_at = bytes.len() - 2;
    bytes[cores_at..].copy_from_slice(&(limits::CORES_MAX as u16 + 1).to_le_bytes());
    let fault = Digest::decode(&mut Reader::new(&bytes));
    assert!(matches!(fault, Err(DecodeError::TooLong { field: "cores", .. })), "{fault:?}");
    bytes[36] = VERSION_BYTES_MAX as u8 + 1;
    let fault = Digest::decode(&mut Reader::new(&bytes));
    assert!(matches!(fault, Err(DecodeError::TooLong { field: "version", .. })), "{fault:?}");
    // What is shown in lines must not end one.
    for (at, field) in [(37, "version"), (39, "name of a node")] {
        let mut bytes = Vec::new();
        digest.encode(&mut bytes);
        bytes[at] = b'\n';
        let fault = Digest::decode(&mut Reader::new(&bytes));
        assert_eq!(fault, Err(DecodeError::Unknown { field, value: 10 }));
    }
}
