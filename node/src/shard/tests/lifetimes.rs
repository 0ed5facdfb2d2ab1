//! What has expired is invisible at once, whichever way a read goes; and it stays the newest that there is of its key.

use ferrite_wire::{Actor, Item, ReadWant, ReplicaAnswer, Reply, Version, VersionFlags, WriteAnswer};

use super::coordinator::{Coordinator, What};
use super::*;

/// How long what is written here lives.
const LIFE_MS: u64 = 50;

/// A version that lives until then.
fn until(order: u64, expiry_ms: u64) -> Version {
    let flags = VersionFlags(VersionFlags::EXPIRES);
    Version { order: Order(order), actor: Actor(3), flags, expiry_ms }
}

fn put_for<'a>(key: &'a [u8], ttl_ms: u64) -> Request<'a> {
    let (epoch, level, key) = (Epoch(0), Level::One, Key::plain(key));
    Request::Put { epoch, level, options: 0, key, ttl_ms, context: b"", value: b"value" }
}

/// Moves the wall clock alone, to the last millisecond in which something lives, or the first in which it does not.
fn set_wall(bench: &Bench, ms: u64) {
    bench.0.wall_ms.set(ms);
}

fn multi_get(number: u64, keys: &[Key<'_>], level: Level) -> Vec<u8> {
    frame_of(FrameKind::MultiGet, number, 0, |out| Request::encode_multi_get(Epoch(0), level, keys, out))
}

/// Which keys of a multi-get have values.
fn found(frame: &(FrameHeader, Vec<u8>)) -> Vec<bool> {
    match Reply::decode(frame.0.kind, &frame.1) {
        Ok(Reply::Values(items)) => items.iter().map(|item| matches!(item, Item::Value { .. })).collect(),
        other => panic!("no values: {other:?}"),
    }
}

#[test]
fn in_a_get_a_batch_of_gets_and_a_multi_get() {
    let (bench, shard) = alone();
    let connection = client(&bench, &shard);
    let from_ms = bench.wall_ms();
    for (number, ttl_ms) in [(1, LIFE_MS), (2, 0), (3, LIFE_MS)] {
        receive(&shard, connection, &request_frame(number, &put_for(&[number as u8], ttl_ms)));
    }
    shard.on_batch_end();
    bench.run();
    bench.frames(connection);
    let keys = [[1], [2], [3]];
    let all = keys.each_ref().map(|key| Key::plain(key));
    for (ms, lives) in [(from_ms + LIFE_MS - 1, true), (from_ms + LIFE_MS, false)] {
        set_wall(&bench, ms);
        let expected = [lives, true, lives];
        receive(&shard, connection, &multi_get(9, &all, Level::One));
        assert_eq!(found(&bench.frames(connection)[0]), expected);
        let gets: Vec<Vec<u8>> =
            keys.iter().map(|key| request_frame(u64::from(key[0]), &get(key, Level::One))).collect();
        for bytes in gets.iter().chain([&gets.concat()]) {
            receive(&shard, connection, bytes);
        }
        let answers = bench.frames(connection);
        assert_eq!(answers.len(), 6, "one by one, and together");
        for (header, _) in answers {
            let is_there = expected[header.request.0 as usize - 1];
            assert_eq!(header.kind, if is_there { FrameKind::Value } else { FrameKind::Absent });
        }
    }
}

#[test]
fn over_a_hop_between_cores() {
    let bench = Bench::new(MemDisk::new());
    let shard = open(&bench, settings(1, 2, 2)).expect("an empty disk opens");
    let is_here = |key: &[u8; 4]| shard.route(&Key::plain(key)).is_ok_and(|route| route.hop.is_none());
    let key = (0..1_000u32).map(u32::to_le_bytes).find(is_here).expect("some key is this core's");
    let from_ms = bench.wall_ms();
    let ask = |request: &Request<'_>| {
        let connection = Connection { slot: 9, generation: 1 };
        let (deadline_ns, frame) = (bench.now_ns() + 1_000 * MS, request_frame(7, request));
        shard.on_hop(CoreId(1), Hop::Request { connection, from_peer: false, deadline_ns, frame });
        shard.on_batch_end();
        bench.run();
        let (_, hop) = bench.0.hops.borrow_mut().pop().expect("an answer");
        let Hop::Reply { frame, .. } = hop else { panic!("{hop:?}") };
        let Ok(Parsed::Frame { frame, .. }) = parse_frame(&frame, limits::BODY_BYTES_MAX) else {
            panic!("a whole frame")
        };
        frame.header.kind
    };
    assert_eq!(ask(&put_for(&key, LIFE_MS)), FrameKind::Done);
    set_wall(&bench, from_ms + LIFE_MS - 1);
    assert_eq!(ask(&get(&key, Level::One)), FrameKind::Value);
    set_wall(&bench, from_ms + LIFE_MS);
    assert_eq!(ask(&get(&key, Level::One)), FrameKind::Absent);
}

/// This node has a copy that expires; and one that is behind, if there is to be one.
fn quorum(is_replica: bool) -> (Coordinator, Vec<u8>, Version) {
    let node = Coordinator::new(4, 3);
    let name = node.key(is_replica);
    let version = until(8, node.bench.wall_ms() + LIFE_MS);
    if is_replica {
        node.store(Key::plain(&name), version, b"value");
    }
    (node, name, version)
}

#[test]
fn in_a_quorum_whose_replicas_agree() {
    for is_replica in [true, false] {
        let (mut node, name, version) = quorum(is_replica);
        let value = b"value".to_vec();
        for (ms, told) in [(version.expiry_ms - 1, Some(value)), (version.expiry_ms, None)] {
            set_wall(&node.bench, ms);
            node.get(Key::plain(&name), Level::Quorum);
            for asked in node.asked() {
                node.answer_read(
                    &asked,
                    match asked.what {
                        What::Read(ReadWant::Full) => ReplicaAnswer::Full { version, value: b"value" },
                        _ => ReplicaAnswer::Digest { version },
                    },
                );
            }
            assert_eq!(node.told(), [Ok(told)]);
            assert!(node.asked().is_empty(), "they agree, whatever a client sees of it");
        }
        let multi = multi_get(77, &[Key::plain(&name)], Level::Two);
        receive(&node.shard, node.client, &multi);
        for asked in node.asked() {
            node.answer_read(
                &asked,
                match asked.what {
                    What::Read(ReadWant::Full) => ReplicaAnswer::Full { version, value: b"value" },
                    _ => ReplicaAnswer::Digest { version },
                },
            );
        }
        assert_eq!(found(&node.bench.frames(node.client)[0]), [false]);
    }
}

/// What has expired is newer than what it replaced: an older value must not come back through it, and replicas that have that are brought up to it.
#[test]
fn in_a_quorum_that_repairs() {
    for is_here in [true, false] {
        let (mut node, name, version) = quorum(true);
        let key = Key::plain(&name);
        let older = Version { order: Order(7), ..Version::default() };
        let newer = Version { order: Order(9), ..version };
        set_wall(&node.bench, version.expiry_ms);
        node.get(key, Level::Quorum);
        let other = node.only_asked();
        assert_eq!(other.what, What::Read(ReadWant::Digest));
        if is_here {
            node.answer_read(&other, ReplicaAnswer::Digest { version: older });
            let repair = node.only_asked();
            assert_eq!(repair.what, What::Write(version, b"value".to_vec()), "as it is");
            assert_eq!(node.told(), []);
            node.answer_write(&repair, WriteAnswer::Applied);
        } else {
            // The newest is on the other one, and has expired as well: this node's own copy is brought up to it.
            node.answer_read(&other, ReplicaAnswer::Digest { version: newer });
            let again = node.only_asked();
            node.answer_read(&again, ReplicaAnswer::Full { version: newer, value: b"newer" });
            assert_eq!(node.told(), []);
            node.settle();
        }
        assert_eq!(node.told(), [Ok(None)]);
        node.get(key, Level::One);
        assert_eq!(node.told(), [Ok(None)]);
    }
}

/// A replica tells what it holds: what its clock makes of it is nobody's business but its clients'.
#[test]
fn replicas_tell_coordinators_of_what_has_expired_as_of_anything() {
    let (node, name, version) = quorum(true);
    set_wall(&node.bench, version.expiry_ms + 1_000);
    let from = peer(&node.bench, &node.shard);
    for (want, expected) in [
        (ReadWant::Digest, ReplicaAnswer::Digest { version }),
        (ReadWant::Full, ReplicaAnswer::Full { version, value: b"value" }),
    ] {
        let read = PeerMessage::ReplicaRead { vnode_epoch: Epoch(1), want, key: Key::plain(&name) };
        receive(&node.shard, from, &message_frame(9, 1_000_000, &read));
        let (header, body) = node.bench.frames(from).remove(0);
        let answer = PeerMessage::decode(header.kind, &body);
        assert_eq!(answer, Ok(PeerMessage::ReplicaReadAnswer(expected)));
    }
}
