//! What an answer carries, and when it finds no room.

use ferrite_wire::Level;

use super::*;

/// An absence that a tombstone decided told the client of no time when it came by way of a multi-get or a quorum. Its next write,
/// through a coordinator whose clock is behind, was then acknowledged and lost to the tombstone.
#[test]
fn an_absence_tells_the_time_of_its_tombstone() {
    let (bench, shard) = alone();
    let connection = client(&bench, &shard);
    receive(&shard, connection, &request_frame(1, &delete(b"key", Level::One)));
    shard.on_batch_end();
    bench.run();
    let (deleted, _) = bench.frames(connection).remove(0);
    assert!(deleted.time > Order(0));

    receive(&shard, connection, &request_frame(2, &get(b"key", Level::One)));
    let (absent, _) = bench.frames(connection).remove(0);
    assert_eq!((absent.kind, absent.time), (FrameKind::Absent, deleted.time));

    let keys = [Key::plain(b"key"), Key::plain(b"other")];
    let both = frame_of(FrameKind::MultiGet, 3, 0, |out| {
        Request::encode_multi_get(Epoch(0), Level::One, &keys, out);
    });
    receive(&shard, connection, &both);
    let (values, _) = bench.frames(connection).remove(0);
    assert_eq!((values.kind, values.time), (FrameKind::Values, deleted.time));
}

/// A pipelined burst of reads whose answers outgrow the out-buffer used to cost the client its connection, again after each
/// reconnect. Now the rest of the burst stays unread until there is room.
#[test]
fn a_burst_of_reads_waits_for_room_in_the_out_buffer() {
    let (bench, shard) = alone();
    let connection = client(&bench, &shard);
    receive(&shard, connection, &request_frame(1, &put(b"key", b"value", Level::One)));
    shard.on_batch_end();
    bench.run();
    bench.frames(connection);
    let read = request_frame(2, &get(b"key", Level::One));
    bench.0.out_full.set(true);
    let burst = [&read[..], &read[..]].concat();
    assert_eq!(shard.on_received(connection, &burst), Received::Consumed { used: 0, need: 0 });
    pass(&bench, &shard, 10_000);
    assert!(bench.0.closed.borrow().is_empty(), "it is not taken for half-sent either");
    bench.0.out_full.set(false);
    receive(&shard, connection, &burst);
    assert_eq!(bench.frames(connection).len(), 2);
}

/// Gets that arrive together are looked up together, as far as their answers have room; the others are the next batch.
#[test]
fn gets_that_arrive_together_are_each_answered_once() {
    let (bench, shard) = alone();
    let connection = client(&bench, &shard);
    let value = [7; 40 * 1024];
    receive(&shard, connection, &request_frame(1, &put(b"large", &value, Level::One)));
    shard.on_batch_end();
    bench.run();
    bench.frames(connection);
    let keys = [b"large".as_slice(), b"absent"];
    let burst: Vec<u8> = (0..50)
        .flat_map(|number| request_frame(number, &get(keys[number as usize % 2], Level::One)))
        .collect();
    receive(&shard, connection, &burst);
    let mut answers: Vec<_> =
        bench.frames(connection).iter().map(|(header, _)| (header.request.0, header.kind)).collect();
    answers.sort_unstable_by_key(|(number, _)| *number);
    let kinds = [FrameKind::Value, FrameKind::Absent];
    assert_eq!(answers, (0..50).map(|number| (number, kinds[number as usize % 2])).collect::<Vec<_>>());
}
