//! Reads that find replicas behind: what they write to whom, and when they are answered.

use ferrite_cluster::{CausalClock, Dot, SetLimits, Sibling, SiblingSet};
use ferrite_wire::{Actor, ErrorCode, ReadWant, ReplicaAnswer, Version, VersionFlags, WriteAnswer};

use super::coordinator::{Coordinator, TIMEOUT_MS, Told, What, carts};
use super::*;
use crate::shard::repairs::BACKGROUND_REPAIRS_MAX;

fn version(order: u64) -> Version {
    Version { order: Order(order), actor: Actor(3), ..Version::default() }
}

fn digest(order: u64) -> ReplicaAnswer<'static> {
    ReplicaAnswer::Digest { version: version(order) }
}

fn value(value: &[u8]) -> Vec<Told> {
    vec![Ok(Some(value.to_vec()))]
}

#[test]
fn a_read_at_quorum_is_answered_when_the_replica_that_was_behind_has_the_record() {
    let mut node = Coordinator::new(3, 3);
    let name = node.key(true);
    let key = Key::plain(&name);
    node.store(key, version(8), b"new");
    node.get(key, Level::Quorum);
    let other = node.only_asked();
    assert_eq!(other.what, What::Read(ReadWant::Digest));
    node.answer_read(&other, digest(7));
    let repair = node.only_asked();
    assert_eq!(repair.connection, other.connection);
    assert_eq!(repair.what, What::Write(version(8), b"new".to_vec()), "as it is, with the version it has");
    assert_eq!(node.told(), []);
    node.answer_write(&repair, WriteAnswer::Applied);
    assert_eq!(node.told(), value(b"new"));
    assert_eq!((node.status("read_repairs.before_answer"), node.status("read_repairs.records")), (1, 1));
    assert_eq!(node.shard.operations.borrow().len(), 0);
}

#[test]
fn a_coordinator_that_is_behind_itself_syncs_the_record_first() {
    let mut node = Coordinator::new(3, 3);
    let name = node.key(true);
    let key = Key::plain(&name);
    node.store(key, version(7), b"old");
    node.get(key, Level::Quorum);
    let other = node.only_asked();
    node.answer_read(&other, digest(8));
    let other = node.only_asked();
    assert_eq!(other.what, What::Read(ReadWant::Full));
    node.answer_read(&other, ReplicaAnswer::Full { version: version(8), value: b"new" });
    assert_eq!(node.told(), [], "the log has not been synced");
    node.settle();
    assert_eq!(node.told(), value(b"new"));
    node.get(key, Level::One);
    assert_eq!(node.told(), value(b"new"), "its own copy is the new one");
    assert!(node.asked().is_empty());
}

#[test]
fn a_read_at_all_waits_for_all() {
    let mut node = Coordinator::new(3, 3);
    let name = node.key(true);
    let key = Key::plain(&name);
    let deleted = Version { flags: VersionFlags(VersionFlags::TOMBSTONE), ..version(8) };
    node.store(key, deleted, b"");
    node.get(key, Level::All);
    for other in node.asked() {
        node.answer_read(&other, digest(7));
    }
    let repairs = node.asked();
    assert_eq!(repairs.len(), 2);
    for repair in &repairs {
        assert_eq!(node.told(), []);
        assert_eq!(repair.what, What::Write(deleted, Vec::new()), "what was deleted stays so everywhere");
        node.answer_write(repair, WriteAnswer::Applied);
    }
    assert_eq!(node.told(), [Ok(None)]);
}

/// Until a majority has it, another read may not find it: no answer is better than one that comes and goes.
#[test]
fn a_repair_that_is_not_answered_is_a_timeout() {
    let mut node = Coordinator::new(3, 3);
    let name = node.key(true);
    let key = Key::plain(&name);
    node.store(key, version(8), b"new");
    node.get(key, Level::Quorum);
    let other = node.only_asked();
    node.answer_read(&other, ReplicaAnswer::Absent);
    let repair = node.only_asked();
    pass(&node.bench, &node.shard, TIMEOUT_MS - 1);
    assert_eq!(node.told(), []);
    pass(&node.bench, &node.shard, 10);
    assert_eq!(node.told(), [Err(ErrorCode::Timeout)]);
    node.answer_write(&repair, WriteAnswer::Applied);
    assert_eq!(node.told(), []);
}

#[test]
fn the_third_replica_is_written_to_when_the_second_refuses_or_is_lost() {
    for is_lost in [false, true] {
        let mut node = Coordinator::new(3, 3);
        let name = node.key(true);
        let key = Key::plain(&name);
        node.store(key, version(8), b"new");
        node.get(key, Level::Quorum);
        let other = node.only_asked();
        node.answer_read(&other, digest(7));
        let repair = node.only_asked();
        if is_lost {
            node.shard.on_closed(repair.connection);
        } else {
            node.answer_write(&repair, WriteAnswer::Refused(ErrorCode::DiskFull));
        }
        let third = node.only_asked();
        assert_ne!(third.connection, repair.connection);
        assert_eq!(third.what, repair.what);
        node.answer_write(&third, WriteAnswer::Applied);
        assert_eq!(node.told(), value(b"new"));
    }
}

#[test]
fn below_a_majority_the_answer_comes_first_and_repairs_are_bounded() {
    let mut node = Coordinator::new(4, 4);
    let name = node.key(true);
    let key = Key::plain(&name);
    node.store(key, version(8), b"new");
    let mut repairs = Vec::new();
    for _ in 0..BACKGROUND_REPAIRS_MAX + 5 {
        node.get(key, Level::Two);
        let other = node.only_asked();
        node.answer_read(&other, digest(7));
        assert_eq!(node.told(), value(b"new"), "nobody waits for the repair");
        repairs.extend(node.asked());
    }
    assert_eq!(repairs.len(), BACKGROUND_REPAIRS_MAX);
    assert!(repairs.iter().all(|repair| repair.what == What::Write(version(8), b"new".to_vec())));
    assert_eq!(node.status("read_repairs.dropped"), 5);
    for repair in &repairs[1..] {
        node.answer_write(repair, WriteAnswer::Applied);
    }
    assert_eq!(node.shard.operations.borrow().len(), 1);
    pass(&node.bench, &node.shard, TIMEOUT_MS + 10);
    assert_eq!(node.shard.operations.borrow().len(), 0, "what nobody answers ends with its time");
    node.get(key, Level::Two);
    let other = node.only_asked();
    node.answer_read(&other, digest(7));
    assert_eq!(node.asked().len(), 1, "there is room again");
    node.shard.on_closed(other.connection);
    assert_eq!(node.shard.operations.borrow().len(), 0, "as it does with its connection");
}

fn set_of<'v>(dots: &[(u64, u64, &'v [u8])]) -> SiblingSet<'v> {
    let mut set = SiblingSet::default();
    for (actor, number, value) in dots {
        let dot = Dot { actor: Actor(*actor), number: *number };
        let sibling = Sibling { dot, order: Order(*number), expiry_ms: 0, value };
        set.put(&CausalClock::default(), sibling, &SetLimits::default()).expect("within limits");
    }
    set
}

fn encoded(set: &SiblingSet<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    set.encode(&mut bytes);
    bytes
}

/// Neither replica has what both have together, so both lack something.
#[test]
fn sets_that_differ_are_joined_on_both_replicas_before_the_answer() {
    let mut node = Coordinator::new(3, 3);
    let name = node.key(true);
    let key = Key { table: carts().id, partition: &name, sort: b"" };
    let (apple, pear) = (set_of(&[(1, 5, b"apple")]), set_of(&[(2, 6, b"pear")]));
    let both = set_of(&[(1, 5, b"apple"), (2, 6, b"pear")]);
    node.store(key, apple.version(), &encoded(&apple));
    node.get(key, Level::Quorum);
    let other = node.only_asked();
    node.answer_read(&other, ReplicaAnswer::Digest { version: pear.version() });
    let other = node.only_asked();
    assert_eq!(other.what, What::Read(ReadWant::Full));
    node.answer_read(&other, ReplicaAnswer::Full { version: pear.version(), value: &encoded(&pear) });
    let repair = node.only_asked();
    assert_eq!(repair.what, What::Write(both.version(), encoded(&both)));
    node.settle();
    assert_eq!(node.told(), [], "its own copy is not a majority");
    node.answer_write(&repair, WriteAnswer::Applied);
    assert_eq!(node.told(), value(b"applepear"));
    node.get(key, Level::Quorum);
    let other = node.only_asked();
    node.answer_read(&other, ReplicaAnswer::Digest { version: both.version() });
    assert_eq!(node.told(), value(b"applepear"), "they agree from now on");
    assert!(node.asked().is_empty());
}

/// The write that follows is sent to all replicas and replaces what was found.
#[test]
fn a_read_before_an_overwrite_repairs_nothing() {
    let mut node = Coordinator::new(3, 3);
    let name = node.key(true);
    let key = Key { table: carts().id, partition: &name, sort: b"" };
    let apple = set_of(&[(1, 5, b"apple")]);
    node.store(key, apple.version(), &encoded(&apple));
    let (epoch, level, options) = (Epoch(0), Level::Quorum, ferrite_wire::OVERWRITE);
    let put = Request::Put { epoch, level, options, key, ttl_ms: 0, context: b"", value: b"plum" };
    node.number += 1;
    receive(&node.shard, node.client, &request_frame(node.number, &put));
    let other = node.only_asked();
    node.answer_read(&other, ReplicaAnswer::Absent);
    let writes = node.asked();
    assert_eq!(writes.len(), 2, "the write itself, to both: {writes:?}");
    assert_eq!(node.status("read_repairs.records"), 0);
}

/// What two replicas had was more together than a group of the log takes: each refused the repair, and every read at QUORUM failed with it, for good.
#[test]
fn sets_that_are_longer_together_than_a_log_takes_are_told_and_not_repaired() {
    let mut node = Coordinator::new(3, 3);
    let name = node.key(true);
    let key = Key { table: carts().id, partition: &name, sort: b"" };
    let (apples, pears): (&[u8], &[u8]) = (&[b'a'; 40_000], &[b'p'; 40_000]);
    let (apple, pear) = (set_of(&[(1, 5, apples)]), set_of(&[(2, 6, pears)]));
    node.store(key, apple.version(), &encoded(&apple));
    node.get(key, Level::Quorum);
    let other = node.only_asked();
    node.answer_read(&other, ReplicaAnswer::Digest { version: pear.version() });
    let other = node.only_asked();
    node.answer_read(&other, ReplicaAnswer::Full { version: pear.version(), value: &encoded(&pear) });
    node.settle();
    assert_eq!(node.told(), value(&[apples, pears].concat()));
    assert!(node.asked().is_empty(), "no replica could take it");
}
