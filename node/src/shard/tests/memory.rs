//! What outsiders can make a shard keep.

use ferrite_wire::{HelloReply, Level};

use super::*;
use crate::shard::slab::OperationId;
use crate::shard::upkeep::DEADLINES_LEFT_MAX;

/// A deadline may be an hour away, and its entry used to stay for as long though the write had ended in a millisecond: fifty
/// thousand writes a second came to gigabytes.
#[test]
fn deadlines_of_ended_operations_are_bounded() {
    let bench = Bench::new(MemDisk::new());
    let shard = open(&bench, settings(3, 1, 2)).expect("an empty disk opens");
    // The first tick connects to the others; they answer here.
    shard.on_timer(bench.now_ns() + 100 * MS);
    for (slot, node) in [(0, NodeId(2)), (1, NodeId(3))] {
        let connection = Connection { slot, generation: 1 };
        let reply = HelloReply {
            version: PROTOCOL_MAX,
            features: Features(0),
            cluster: CLUSTER,
            node,
            core: CoreId(0),
            cores: 1,
            incarnation: 1,
            epoch: Epoch(1),
            body_bytes_max: limits::BODY_BYTES_MAX as u32,
        };
        receive(&shard, connection, &frame_of(FrameKind::HelloReply, 0, 0, |out| reply.encode(out)));
    }
    let connection = client(&bench, &shard);
    let read = get(b"key", Level::Number(2));
    let hour = frame_of(read.kind(), 1, u32::MAX, |out| read.encode(out));
    let absent = PeerMessage::ReplicaReadAnswer(ferrite_wire::ReplicaAnswer::Absent);
    receive(&shard, connection, &hour);
    let asked = bench.frames(Connection { slot: 0, generation: 1 });
    let asked = asked.into_iter().find(|(header, _)| header.kind == FrameKind::ReplicaRead);
    let (header, _) = asked.expect("the second replica is asked");
    receive(&shard, Connection { slot: 0, generation: 1 }, &message_frame(header.request.0, 0, &absent));
    assert_eq!(shard.deadlines.borrow().len(), 1, "its deadline stays behind");
    // As many more as there may be, of the same ended operation.
    let (ended, _) = OperationId::from_request(header.request.0);
    for _ in 0..DEADLINES_LEFT_MAX {
        shard.deadlines.borrow_mut().add(bench.now_ns() + 3_600_000 * MS, ended);
    }
    assert_eq!(shard.operations.borrow().len(), 0, "all have ended");
    pass(&bench, &shard, 130);
    assert_eq!(shard.deadlines.borrow().len(), 0);
}

/// Each read of a level keeps what it has found until enough replicas have answered. A request of a few bytes made a core keep a value of a
/// megabyte for each of a thousand keys, and nothing counted them.
#[test]
fn what_reads_keep_while_they_wait_is_bounded_together() {
    const VALUE_BYTES: usize = 40_000;
    let bench = Bench::new(MemDisk::new());
    let mut settings = settings(3, 1, 2);
    settings.operation_bytes_max = 1 << 20;
    let shard = open(&bench, settings).expect("an empty disk opens");
    tables::accept_links(&bench, &shard);
    let connection = client(&bench, &shard);
    receive(&shard, connection, &request_frame(1, &put(b"long", &[7; VALUE_BYTES], Level::One)));
    pass(&bench, &shard, 1);
    assert_eq!(bench.frames(connection).len(), 1, "the local replica has it");
    let keys = [Key::plain(b"long"); 500];
    let read = frame_of(FrameKind::MultiGet, 2, 0, |out| {
        Request::encode_multi_get(Epoch(0), Level::Quorum, &keys, out);
    });
    receive(&shard, connection, &read);
    bench.run();
    let held = shard.held.bytes();
    assert!(held > (1 << 20) - 2 * VALUE_BYTES && held <= 1 << 20, "{held} bytes");
    pass(&bench, &shard, 3_000);
    assert_eq!(bench.frames(connection).len(), 1, "the others did not answer");
    assert_eq!(shard.held.bytes(), 0);
}
