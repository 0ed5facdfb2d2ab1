//! Stopping, and work that nobody waits for.

use ferrite_wire::{ErrorCode, Level, Version, WriteAnswer};

use super::*;

fn write_frame(number: u64, deadline_us: u32, key: &[u8]) -> Vec<u8> {
    let version = Version { order: Order(5), ..Version::default() };
    let message =
        PeerMessage::ReplicaWrite { vnode_epoch: Epoch(1), key: Key::plain(key), version, value: b"value" };
    message_frame(number, deadline_us, &message)
}

fn write_answers(bench: &Bench, connection: Connection) -> Vec<WriteAnswer> {
    let answers = bench.frames(connection).into_iter();
    let answer = |(header, body): (FrameHeader, Vec<u8>)| match PeerMessage::decode(header.kind, &body) {
        Ok(PeerMessage::ReplicaWriteAnswer(answer)) => answer,
        other => panic!("{other:?} is no answer to a write"),
    };
    answers.map(answer).collect()
}

/// Peers go on writing while a node drains. It used to take their writes, so that under load it was never idle and was
/// stopped by the clock, without the mark of a clean end.
#[test]
fn a_stopping_shard_takes_no_writes_of_peers() {
    let bench = Bench::new(MemDisk::new());
    let shard = open(&bench, settings(3, 1, 2)).expect("an empty disk opens");
    let connection = peer(&bench, &shard);
    receive(&shard, connection, &write_frame(1, 1_000_000, b"before"));
    shard.on_stop();
    receive(&shard, connection, &write_frame(2, 1_000_000, b"after"));
    shard.on_batch_end();
    bench.run();
    let mut answers = write_answers(&bench, connection);
    answers.sort_by_key(|answer| *answer != WriteAnswer::Applied);
    assert_eq!(answers, [WriteAnswer::Applied, WriteAnswer::Refused(ErrorCode::Stopping)]);
    assert!(!shard.is_drained(), "it closes its log first");
    bench.run();
    assert!(shard.is_drained());
}

/// A question of a peer for another core of this node used to wait for room in that core's queue, in a queue of its own that
/// nothing bounded.
#[test]
fn a_peers_question_that_finds_the_other_core_busy_is_refused() {
    let bench = Bench::new(MemDisk::new());
    let shard = open(&bench, settings(3, 2, 4)).expect("an empty disk opens");
    let connection = peer(&bench, &shard);
    bench.0.hops_full.set(true);
    let elsewhere = (0..100u8).find(|key| shard.route(&Key::plain(&[*key])).expect("a table").hop.is_some());
    let key = [elsewhere.expect("the other core owns some keys")];
    receive(&shard, connection, &write_frame(1, 1_000_000, &key));
    assert_eq!(write_answers(&bench, connection), [WriteAnswer::Refused(ErrorCode::Overloaded)]);
    assert!(shard.backlog.borrow().is_empty());
}

/// What has waited for this core beyond its deadline is not carried out: nobody waits for it any more.
#[test]
fn a_hop_that_comes_after_its_deadline_is_not_carried_out() {
    let (bench, shard) = alone();
    let connection = Connection { slot: 77, generation: 1 };
    let hop = |deadline_ns| Hop::Request {
        connection,
        from_peer: true,
        deadline_ns,
        frame: write_frame(1, 1_000, b"key"),
    };
    shard.on_hop(CoreId(1), hop(bench.now_ns()));
    assert!(!shard.engine.has_staged());
    shard.on_hop(CoreId(1), hop(bench.now_ns() + MS));
    assert!(shard.engine.has_staged());
    shard.on_batch_end();
    bench.run();
    let replies = bench.0.hops.borrow();
    let answers: Vec<_> = replies.iter().map(|(_, hop)| matches!(hop, Hop::Reply { .. })).collect();
    assert_eq!(answers, [true, true], "both are answered");
}

/// A read is no write: it is answered to the end.
#[test]
fn a_stopping_shard_still_answers_what_is_in_memory() {
    let (bench, shard) = alone();
    let connection = client(&bench, &shard);
    receive(&shard, connection, &request_frame(1, &put(b"key", b"value", Level::One)));
    shard.on_batch_end();
    bench.run();
    shard.on_stop();
    bench.frames(connection);
    receive(&shard, connection, &request_frame(2, &get(b"key", Level::One)));
    assert_eq!(bench.frames(connection).remove(0).0.kind, FrameKind::Value);
}
