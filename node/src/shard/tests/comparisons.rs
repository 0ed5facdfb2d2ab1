//! Comparisons of replicas behind reads at ONE: when, with whom, and what comes of them.

use std::collections::BTreeSet;

use ferrite_wire::{Actor, ErrorCode, ReadWant, ReplicaAnswer, Version, WriteAnswer};

use super::coordinator::{Coordinator, TIMEOUT_MS, Told, What};
use super::*;
use crate::shard::comparisons::{COMPARISONS_MAX, READS_PER_COMPARISON};

fn version(order: u64) -> Version {
    Version { order: Order(order), actor: Actor(3), ..Version::default() }
}

fn value(value: &[u8]) -> Told {
    Ok(Some(value.to_vec()))
}

/// Reads at ONE until replicas are compared: all are answered at once, whatever the others do.
fn read_until_compared(node: &mut Coordinator, key: Key<'_>, found: &[u8]) {
    for _ in 1..READS_PER_COMPARISON {
        node.get(key, Level::One);
        assert!(node.asked().is_empty(), "too early");
    }
    node.get(key, Level::One);
    assert_eq!(node.told(), vec![value(found); READS_PER_COMPARISON as usize]);
}

/// A replica whose hints had been dropped stayed as it was for as long as a key was only read at ONE: each such read sees one copy and has
/// nothing to compare it with.
#[test]
fn reads_at_one_bring_a_replica_up_to_date_for_which_no_hint_is_left() {
    let mut node = Coordinator::new(3, 3);
    let name = node.key(true);
    let key = Key::plain(&name);
    node.store(key, version(8), b"new");
    read_until_compared(&mut node, key, b"new");
    let first = node.only_asked();
    assert_eq!(first.what, What::Read(ReadWant::Digest));
    node.answer_read(&first, ReplicaAnswer::Absent);
    let repair = node.only_asked();
    assert_eq!(repair.connection, first.connection);
    assert_eq!(repair.what, What::Write(version(8), b"new".to_vec()), "as it is, with the version it has");
    node.answer_write(&repair, WriteAnswer::Applied);
    assert_eq!((node.status("read_repairs.comparisons"), node.status("read_repairs.after_answer")), (1, 1));
    assert_eq!(node.shard.operations.borrow().len(), 0);
    assert_eq!(node.told(), [], "nobody waited for any of it");

    read_until_compared(&mut node, key, b"new");
    let second = node.only_asked();
    node.answer_read(&second, ReplicaAnswer::Digest { version: version(8) });
    assert!(node.asked().is_empty(), "equal: nothing is written");
    // Any of the others: both in time.
    let is_first = |node: &mut Coordinator| {
        read_until_compared(node, key, b"new");
        let asked = node.only_asked();
        node.answer_read(&asked, ReplicaAnswer::Digest { version: version(8) });
        asked.connection == first.connection
    };
    let times = (0..20).filter(|_| is_first(&mut node)).count();
    assert!((1..20).contains(&times), "{times} of 20");
}

/// Every 64th read was followed by a comparison, and of keys that are read round and round those were always the same.
#[test]
fn of_keys_that_are_read_round_and_round_each_is_compared() {
    for keys in [2u64, 10, 32, 64, 100, 128] {
        let node = Coordinator::new(3, 3);
        let mut compared = BTreeSet::new();
        for read in 0..keys * 2 * u64::from(READS_PER_COMPARISON) {
            if node.shard.is_compared_after(1, 3) {
                compared.insert(read % keys);
            }
        }
        assert_eq!(compared.len() as u64, keys);
    }
}

#[test]
fn the_own_copy_is_the_one_that_is_brought_up() {
    let mut node = Coordinator::new(3, 3);
    let name = node.key(true);
    let key = Key::plain(&name);
    node.store(key, version(7), b"old");
    read_until_compared(&mut node, key, b"old");
    let other = node.only_asked();
    node.answer_read(&other, ReplicaAnswer::Digest { version: version(8) });
    let other = node.only_asked();
    assert_eq!(other.what, What::Read(ReadWant::Full));
    node.answer_read(&other, ReplicaAnswer::Full { version: version(8), value: b"new" });
    node.settle();
    assert!(node.asked().is_empty());
    node.get(key, Level::One);
    assert_eq!(node.told(), [value(b"new")]);
    assert_eq!(node.shard.operations.borrow().len(), 0);
}

/// Many gets of one receive, and many keys of one request, count each.
#[test]
fn gets_that_come_together_are_counted_each() {
    let node = Coordinator::new(3, 3);
    let name = node.key(true);
    let key = Key::plain(&name);
    node.store(key, version(8), b"new");
    let get = Request::Get { epoch: Epoch(0), level: Level::One, options: 0, key };
    let frames: Vec<u8> =
        (0..u64::from(READS_PER_COMPARISON) * 3).flat_map(|number| request_frame(number, &get)).collect();
    receive(&node.shard, node.client, &frames);
    assert_eq!(node.told(), vec![value(b"new"); READS_PER_COMPARISON as usize * 3]);
    assert_eq!(node.asked().len(), 3);
    let keys = vec![key; READS_PER_COMPARISON as usize];
    let frame = frame_of(FrameKind::MultiGet, 1_000, 0, |out| {
        Request::encode_multi_get(Epoch(0), Level::One, &keys, out);
    });
    receive(&node.shard, node.client, &frame);
    assert_eq!(node.bench.frames(node.client).len(), 1);
    assert_eq!(node.asked().len(), 1);
}

/// Where a replica says nothing, or says no, it is no error of anybody's, and so many wait for it at most.
#[test]
fn comparisons_are_bounded_and_fail_in_silence() {
    let mut node = Coordinator::new(3, 3);
    let name = node.key(true);
    let key = Key::plain(&name);
    node.store(key, version(8), b"new");
    let mut asked = Vec::new();
    for _ in 0..COMPARISONS_MAX {
        read_until_compared(&mut node, key, b"new");
        asked.push(node.only_asked());
    }
    read_until_compared(&mut node, key, b"new");
    assert!(node.asked().is_empty(), "so many are in flight");
    node.answer_read(&asked[0], ReplicaAnswer::Refused(ErrorCode::Overloaded));
    read_until_compared(&mut node, key, b"new");
    assert_eq!(node.asked().len(), 1, "one has ended");
    pass(&node.bench, &node.shard, TIMEOUT_MS + 10);
    assert_eq!(node.shard.operations.borrow().len(), 0, "their time is over");
    assert_eq!(node.told(), []);
    let status = node.shard.status();
    assert!(!status.lines().any(|line| line.starts_with("errors.")), "{status}");
    read_until_compared(&mut node, key, b"new");
    assert_eq!(node.asked().len(), 1, "there is room again");
}

/// Reads from memory went a longer way where a comparison was due, which refused them while the node stopped or had stood still: one, and all after it.
#[test]
fn a_comparison_that_is_due_refuses_no_read_and_holds_up_no_stop() {
    let mut node = Coordinator::new(3, 3);
    let name = node.key(true);
    let key = Key::plain(&name);
    node.store(key, version(8), b"new");
    read_until_compared(&mut node, key, b"new");
    assert_eq!(node.asked().len(), 1, "and nobody answers it");
    node.shard.on_stop();
    for _ in 0..2 * READS_PER_COMPARISON {
        node.get(key, Level::One);
    }
    assert_eq!(node.told(), vec![value(b"new"); 2 * READS_PER_COMPARISON as usize]);
    assert!(node.asked().is_empty(), "a node that stops compares nothing");
    for _ in 0..3 {
        node.shard.is_drained();
        node.settle();
    }
    assert!(node.shard.is_drained());
}

/// A comparison keeps a value until the other replica answers: where operations keep much, there is no room for any.
#[test]
fn comparisons_leave_the_room_of_operations_to_clients() {
    let mut node = Coordinator::new(3, 3);
    let name = node.key(true);
    let key = Key::plain(&name);
    node.store(key, version(8), b"new");
    let holding = node.shard.held.hold(node.shard.settings.operation_bytes_max / 4 + 1);
    read_until_compared(&mut node, key, b"new");
    assert!(holding.is_some() && node.asked().is_empty());
    drop(holding);
    read_until_compared(&mut node, key, b"new");
    assert_eq!(node.asked().len(), 1);
}

#[test]
fn what_a_majority_answers_or_a_lone_replica_is_not_compared() {
    let mut node = Coordinator::new(3, 3);
    let name = node.key(true);
    let key = Key::plain(&name);
    for _ in 0..3 * READS_PER_COMPARISON {
        node.get(key, Level::Quorum);
    }
    assert_eq!(node.status("read_repairs.comparisons"), 0);
    let mut node = Coordinator::new(3, 1);
    let name = node.key(true);
    let key = Key::plain(&name);
    node.store(key, version(8), b"new");
    for _ in 0..3 * READS_PER_COMPARISON {
        node.get(key, Level::One);
    }
    assert!(node.asked().is_empty());
    assert_eq!(node.status("read_repairs.comparisons"), 0);
}

/// A coordinator that has no copy compares two that others have.
#[test]
fn a_coordinator_without_a_copy_compares_others() {
    let mut node = Coordinator::new(5, 3);
    let name = node.key(false);
    let key = Key::plain(&name);
    for _ in 1..READS_PER_COMPARISON {
        node.get(key, Level::One);
        let asked = node.only_asked();
        node.answer_read(&asked, ReplicaAnswer::Absent);
    }
    node.get(key, Level::One);
    let asked = node.asked();
    assert_eq!(asked.len(), 3, "one for the client, two that are compared");
}
