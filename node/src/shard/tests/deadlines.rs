//! What a core passes on bears the time that is left, so that it is dropped wherever nobody waits for it any more (`expiry.rs`).

use ferrite_wire::{ErrorCode, OVERWRITE, ReadWant, ReplicaAnswer, Reply, Table, Version, WriteAnswer};

use super::coordinator::{Coordinator, What, carts};
use super::*;

/// The time that requests of these tests have, and how late the first answers come, in microseconds.
const GIVEN_US: u32 = 40_000;
const LATE_US: u32 = 15_000;

fn timed(request: &Request<'_>) -> Vec<u8> {
    frame_of(request.kind(), 1, GIVEN_US, |out| request.encode(out))
}

/// Replaces whatever the key has.
fn to_carts(name: &[u8]) -> Request<'_> {
    Request::Put {
        epoch: Epoch(0),
        level: Level::Quorum,
        options: OVERWRITE,
        key: Key { table: carts().id, ..Key::plain(name) },
        ttl_ms: 0,
        context: b"",
        value: b"v",
    }
}

fn late(bench: &Bench) {
    bench.0.now_ns.set(bench.now_ns() + u64::from(LATE_US) * 1_000);
}

#[test]
fn replicas_are_asked_and_repaired_within_the_time_of_the_read() {
    let node = Coordinator::new(3, 3);
    let name = node.key(true);
    node.store(Key::plain(&name), Version { order: Order(8), ..Version::default() }, b"new");
    receive(&node.shard, node.client, &timed(&get(&name, Level::Quorum)));
    let read = node.only_asked();
    assert_eq!((&read.what, read.deadline_us), (&What::Read(ReadWant::Digest), GIVEN_US));
    late(&node.bench);
    node.answer_read(&read, ReplicaAnswer::Absent);
    let repair = node.only_asked();
    assert!(matches!(repair.what, What::Write(..)));
    assert_eq!(repair.deadline_us, GIVEN_US - LATE_US);
    node.answer_write(&repair, WriteAnswer::Applied);
    assert_eq!(node.told(), [Ok(Some(b"new".to_vec()))]);
}

#[test]
fn replicas_are_written_to_within_the_time_of_the_write() {
    let node = Coordinator::new(3, 3);
    let name = node.key(true);
    receive(&node.shard, node.client, &timed(&put(&name, b"v", Level::Quorum)));
    let writes = node.asked();
    assert_eq!(writes.len(), 2);
    assert!(writes.iter().all(|write| matches!(write.what, What::Write(..))));
    assert!(writes.iter().all(|write| write.deadline_us == GIVEN_US), "{writes:?}");
}

/// The coordinator of the set reads its own copy first, and what it ships leaves later.
#[test]
fn a_write_of_siblings_that_reads_first_passes_on_what_is_left() {
    let node = Coordinator::new(3, 3);
    let name = node.key(true);
    receive(&node.shard, node.client, &timed(&to_carts(&name)));
    let read = node.only_asked();
    assert_eq!(read.deadline_us, GIVEN_US);
    late(&node.bench);
    node.answer_read(&read, ReplicaAnswer::Absent);
    node.settle();
    let writes = node.asked();
    assert!(!writes.is_empty());
    assert!(writes.iter().all(|write| write.deadline_us == GIVEN_US - LATE_US), "{writes:?}");
}

#[test]
fn a_write_that_is_handed_on_has_the_time_that_is_left() {
    let node = Coordinator::new(5, 3);
    let name = node.key(false);
    receive(&node.shard, node.client, &timed(&to_carts(&name)));
    let links: Vec<Connection> =
        node.shard.links.borrow().iter().filter_map(|link| link.connection()).collect();
    let handed: Vec<(FrameKind, u32)> = links
        .into_iter()
        .flat_map(|link| node.bench.frames(link))
        .map(|(header, _)| (header.kind, header.deadline_us))
        .collect();
    assert_eq!(handed, [(FrameKind::Put, GIVEN_US)]);
}

#[test]
fn a_request_that_goes_to_another_core_takes_its_deadline_along() {
    let bench = Bench::new(MemDisk::new());
    let shard = open(&bench, settings(1, 2, 2)).expect("an empty disk opens");
    let client = client(&bench, &shard);
    let theirs = |key: &[u8; 4]| shard.route(&Key::plain(key)).expect("a table").hop.is_some();
    let key = (0u32..).map(u32::to_le_bytes).find(theirs).expect("some key");
    let until_ns = bench.now_ns() + u64::from(GIVEN_US) * 1_000;
    receive(&shard, client, &timed(&put(&key, b"v", Level::One)));
    shard.on_batch_end();
    let hops = bench.0.hops.borrow();
    let [(CoreId(1), Hop::Request { deadline_ns, from_peer: false, .. })] = &hops[..] else {
        panic!("it goes to the other core: {hops:?}")
    };
    assert_eq!(*deadline_ns, until_ns);
}

/// The code of an error, or none if it was done.
fn refusals(bench: &Bench, client: Connection) -> Vec<Option<ErrorCode>> {
    let code = |(header, body): (FrameHeader, Vec<u8>)| match Reply::decode(header.kind, &body) {
        Ok(Reply::Error { code, .. }) => Some(code),
        _ => None,
    };
    bench.frames(client).into_iter().map(code).collect()
}

/// It was given all its time anew once it was whole. By then its client had given it up and written something else, over which it won.
#[test]
fn a_write_whose_frame_took_longer_than_its_time_is_not_carried_out() {
    let (bench, shard) = alone();
    let client = client(&bench, &shard);
    let slow = timed(&put(b"k", &[7; 1_000], Level::One));
    shard.on_received(client, &slow[..500]);
    pass(&bench, &shard, u64::from(GIVEN_US) / 2_000);
    shard.on_received(client, &slow[..900]);
    pass(&bench, &shard, u64::from(GIVEN_US) / 2_000);
    // What comes behind it is new.
    let both = [&slow[..], &timed(&put(b"k", b"new", Level::One))].concat();
    receive(&shard, client, &both);
    pass(&bench, &shard, 1);
    assert_eq!(refusals(&bench, client), [Some(ErrorCode::Expired), None]);
    // One that nobody reads is as old.
    shard.on_received(client, &slow[..500]);
    bench.0.is_not_read.set(true);
    pass(&bench, &shard, u64::from(GIVEN_US) / 1_000);
    bench.0.is_not_read.set(false);
    receive(&shard, client, &slow);
    pass(&bench, &shard, 1);
    assert_eq!(refusals(&bench, client), [Some(ErrorCode::Expired)]);
}

/// Nobody read from its connection, because of answers or long frames of others; then it was carried out as if it were new.
#[test]
fn a_write_that_lay_in_its_socket_for_as_long_as_its_time_is_not_carried_out() {
    let (bench, shard) = alone();
    let client = client(&bench, &shard);
    bench.0.lay_ns.set(u64::from(GIVEN_US) * 1_000);
    receive(&shard, client, &timed(&put(b"k", b"v", Level::One)));
    receive(&shard, client, &timed(&get(b"k", Level::One)));
    bench.0.lay_ns.set(u64::from(GIVEN_US) * 1_000 - 1);
    receive(&shard, client, &timed(&put(b"k", b"v", Level::One)));
    pass(&bench, &shard, 1);
    let told = refusals(&bench, client);
    let refused: Vec<ErrorCode> = told.iter().flatten().copied().collect();
    assert_eq!((told.len(), &refused[..]), (3, &[ErrorCode::Expired][..]), "a read harms nobody");
}

/// It was given its time anew by the replica that it was handed on to, however long it had lain there.
#[test]
fn a_write_that_was_handed_on_and_lay_in_its_socket_is_not_carried_out() {
    let node = Coordinator::new(3, 3);
    let name = node.key(true);
    let peer = peer(&node.bench, &node.shard);
    node.bench.0.lay_ns.set(u64::from(GIVEN_US) * 1_000);
    receive(&node.shard, peer, &timed(&to_carts(&name)));
    assert_eq!(refusals(&node.bench, peer), [Some(ErrorCode::Expired)]);
    node.bench.0.lay_ns.set(0);
    receive(&node.shard, peer, &timed(&to_carts(&name)));
    assert_eq!(refusals(&node.bench, peer), [], "it is under way");
}

/// While a process is stopped a frame that has begun grows older, and so does all else that is read next: the same time was taken off twice.
#[test]
fn what_a_core_stood_still_is_not_taken_off_twice() {
    for (stopped_ms, is_late) in [(2_600, false), (5_100, true)] {
        let (bench, shard) = alone();
        let client = client(&bench, &shard);
        let request = put(b"k", &[7; 1_000], Level::One);
        let frame = frame_of(request.kind(), 1, 5_000_000, |out| request.encode(out));
        shard.on_received(client, &frame[..500]);
        bench.0.now_ns.set(bench.now_ns() + stopped_ms * MS);
        receive(&shard, client, &frame);
        pass(&bench, &shard, 1);
        assert_eq!(refusals(&bench, client), [is_late.then_some(ErrorCode::Expired)]);
    }
}

/// After a standstill its connection was not read from, because of the answers to what had come meanwhile: only the longer of the two was taken off.
#[test]
fn a_write_that_lay_in_its_socket_after_a_standstill_waited_for_both() {
    for (stopped_ms, is_late) in [(1_900, false), (2_100, true)] {
        let (bench, shard) = alone();
        let client = client(&bench, &shard);
        bench.0.now_ns.set(bench.now_ns() + stopped_ms * MS);
        pass(&bench, &shard, 1);
        pass(&bench, &shard, 3_000);
        bench.0.lay_ns.set(3_000 * MS);
        let request = put(b"k", b"v", Level::One);
        receive(&shard, client, &frame_of(request.kind(), 1, 5_000_000, |out| request.encode(out)));
        pass(&bench, &shard, 1);
        assert_eq!(refusals(&bench, client), [is_late.then_some(ErrorCode::Expired)], "{stopped_ms}");
    }
}

/// What a write found at its key decided whether it was minted, however long that took to be read: by then its client had given it up and written something
/// else, and what was minted now lay above that.
#[test]
fn a_write_whose_key_was_looked_at_for_longer_than_its_time_is_not_carried_out() {
    let bench = Bench::new(MemDisk::new());
    let tables = Tables::new(vec![Table::default_of(3), carts()]).expect("a sound list");
    let mut settings = settings_with(2, 1, 1, tables);
    (settings.engine.memtable_bytes, settings.engine.cache_bytes) = (16 * 1024, 0);
    let shard = open(&bench, settings).expect("an empty disk opens");
    let (client, peer) = (client(&bench, &shard), peer(&bench, &shard));
    let cart = Request::Put {
        epoch: Epoch(0),
        level: Level::One,
        options: 0,
        key: Key { table: carts().id, ..Key::plain(b"cart") },
        ttl_ms: 0,
        context: b"",
        value: b"v",
    };
    receive(&shard, client, &request_frame(1, &cart));
    for number in 0..200u64 {
        receive(&shard, client, &request_frame(1, &put(&number.to_le_bytes(), &[7; 1_000], Level::One)));
        pass(&bench, &shard, 1);
    }
    pass(&bench, &shard, 100);
    bench.frames(client);
    // Some other key has a record from afar, and these lie on a disk that is slow.
    shard.afar.raise(Order::from_wall_ms(bench.wall_ms() + 3_600_000));
    bench.0.disk.defer();
    let [cold, theirs] = [0, 1].map(u64::to_le_bytes);
    receive(&shard, client, &timed(&put(&cold, b"new", Level::One)));
    receive(&shard, client, &timed(&cart));
    let version = Version { order: Order::from_wall_ms(bench.wall_ms()), ..Version::default() };
    let share =
        PeerMessage::ReplicaWrite { vnode_epoch: Epoch(1), key: Key::plain(&theirs), version, value: b"new" };
    receive(&shard, peer, &message_frame(2, GIVEN_US, &share));
    bench.run();
    assert_eq!(shard.disk_reads.get(), 3, "all three are looked at");
    bench.0.now_ns.set(bench.now_ns() + u64::from(GIVEN_US) * 1_000);
    for _ in 0..ROUNDS {
        bench.0.disk.complete_all();
        bench.run();
    }
    assert_eq!(refusals(&bench, client), [Some(ErrorCode::Expired); 2]);
    assert_eq!((shard.acks.borrow().len(), shard.engine.has_staged()), (0, false), "nothing was staged");
    let (header, body) = bench.frames(peer).remove(0);
    let refused = PeerMessage::ReplicaWriteAnswer(WriteAnswer::Refused(ErrorCode::Expired));
    assert_eq!(PeerMessage::decode(header.kind, &body), Ok(refused));
}
