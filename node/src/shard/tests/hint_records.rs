//! Hints on the disk: after crashes, on damaged and full disks, and for nodes that have left.

use ferrite_lsm::mem_disk::CrashMode;
use ferrite_lsm::{Directory, FileName};
use ferrite_wire::{HintsAction, WriteAnswer};

use super::hints::{answer, comes, patient, take_all, told, without_the_third, write, write_and_ack, writes};
use super::*;
use crate::shard::hint_store::{local_record, mark_key};
use crate::shard::log_pump::Ack;

#[test]
fn a_holder_that_crashes_goes_on_behind_its_mark() {
    let (bench, shard, second, from) = without_the_third(patient(3));
    write_and_ack(&bench, &shard, from, second, 30);
    pass(&bench, &shard, 20);
    let third = comes(&bench, &shard, 3);
    pass(&bench, &shard, 20);
    let sent = writes(&bench, third);
    assert!(sent.len() < 30, "a window's worth: {}", sent.len());
    for (number, ..) in &sent[..4] {
        answer(&bench, &shard, third, *number, WriteAnswer::Applied);
    }
    pass(&bench, &shard, 40);
    let later = Bench::new(bench.0.disk.crash(CrashMode::None, &mut || 0));
    later.0.wall_ms.set(bench.wall_ms());
    drop((shard, bench));
    let bench = later;
    let shard = open(&bench, patient(3)).expect("a sound disk opens");
    assert_eq!(shard.hints_owed(), 26, "what was acknowledged is marked, and nothing else");
    let third = comes(&bench, &shard, 3);
    let values: Vec<_> = take_all(&bench, &shard, third).into_iter().map(|(value, _)| value).collect();
    let expected: Vec<_> = (5..=30u64).map(|number| number.to_le_bytes().to_vec()).collect();
    assert_eq!((values, shard.hints_owed()), (expected, 0));
    pass(&bench, &shard, 100);
    let later = Bench::new(bench.0.disk.crash(CrashMode::None, &mut || 0));
    later.0.wall_ms.set(bench.wall_ms());
    let shard = open(&later, patient(3)).expect("a sound disk opens");
    assert_eq!(shard.hints_owed(), 0, "drained stays drained");
}

/// One bad block among the hints kept the node from starting; found at run time, it kept from its target all hints behind it, for ever.
#[test]
fn a_damaged_block_of_hints_costs_what_was_in_it_and_neither_the_start_nor_the_rest() {
    const WRITES: u64 = 600;
    let small = || {
        let mut settings = patient(3);
        settings.engine.memtable_bytes = 128 << 10;
        settings
    };
    // Not to be made shorter by any compression.
    let value_of = |number: u64| {
        let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let next = |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        (0..400).map(next).collect::<Vec<u8>>()
    };
    let (bench, shard, second, from) = without_the_third(small());
    for number in 1..=WRITES {
        write(&bench, &shard, from, number, &put(&number.to_be_bytes(), &value_of(number), Level::Quorum));
        let [(at, ..)] = writes(&bench, second)[..] else { panic!("one write") };
        answer(&bench, &shard, second, at, WriteAnswer::Applied);
        bench.frames(from);
    }
    pass(&bench, &shard, 100);
    assert_eq!(shard.hints_owed(), WRITES);
    let later = Bench::new(bench.0.disk.crash(CrashMode::None, &mut || 0));
    later.0.wall_ms.set(bench.wall_ms());
    drop((shard, bench));
    let bench = later;
    let files = bench.0.disk.list(Directory::Store(0));
    let table = files.iter().map(|(name, _)| *name).find(|name| matches!(name, FileName::Table { .. }));
    // Behind the core's own records, which sort first, and before those of its clients.
    assert!(bench.0.disk.corrupt(table.expect("memtables were flushed"), 30_000, 0x10));
    let shard = open(&bench, small()).expect("all but one block is sound");
    let owed = shard.hints_owed();
    assert!((WRITES / 2..WRITES).contains(&owed), "{owed}");
    assert!(shard.hints_text(HintsAction::Tell).contains("hints.unreadable 1\n"));
    let third = comes(&bench, &shard, 3);
    let delivered: Vec<Vec<u8>> =
        take_all(&bench, &shard, third).into_iter().map(|(value, _)| value).collect();
    assert_eq!((delivered.len() as u64, shard.hints_owed()), (owed, 0), "all that can be read, each once");
    assert_eq!((&delivered[0], delivered.last()), (&value_of(1), Some(&value_of(WRITES))));
    assert!(shard.hints_text(HintsAction::Tell).contains("hints.unreadable 2\n"), "and it is told");
}

/// Their mark finds no room, so the next life knows of no delivery.
#[test]
fn a_full_disk_that_takes_no_mark_loses_no_hint() {
    let (bench, shard, second, from) = without_the_third(patient(3));
    write_and_ack(&bench, &shard, from, second, 30);
    pass(&bench, &shard, 20);
    assert_eq!(shard.hints_owed(), 30);
    let third = comes(&bench, &shard, 3);
    bench.0.disk.set_full(true);
    let is_full = (100..200u64).any(|number| {
        let value = [7; 30_000];
        write(&bench, &shard, from, number, &put(&number.to_be_bytes(), &value, Level::One));
        // Without its own copy it waits for another's.
        told(&bench, from).is_empty()
    });
    assert!(is_full, "the log has used up what it had");
    writes(&bench, third);
    pass(&bench, &shard, 20);
    let sent = writes(&bench, third);
    for (number, ..) in &sent[..4] {
        answer(&bench, &shard, third, *number, WriteAnswer::Applied);
    }
    pass(&bench, &shard, 100);
    let watermark = shard.hints.borrow().lanes().map(|(_, lane)| lane.watermark()).max();
    assert!(watermark > Some(0), "four were delivered");
    // After a crash all is sent again that no mark says was delivered.
    let later = Bench::new(bench.0.disk.crash(CrashMode::None, &mut || 0));
    later.0.wall_ms.set(bench.wall_ms());
    later.0.disk.set_full(false);
    let again = open(&later, patient(3)).expect("a sound disk opens");
    assert_eq!(again.hints_owed(), 30, "nothing is lost");
}

/// A node whose third has taken four of its thirty hints, in the same turn, and its client.
fn with_four_of_thirty_delivered() -> (Bench, Rc<Shard<Bench>>, Connection) {
    let mut settings = patient(3);
    settings.engine.memtable_bytes = 128 << 10;
    let (bench, shard, second, from) = without_the_third(settings);
    write_and_ack(&bench, &shard, from, second, 30);
    pass(&bench, &shard, 20);
    let third = comes(&bench, &shard, 3);
    pass(&bench, &shard, 20);
    let sent = writes(&bench, third);
    for (number, ..) in &sent[..4] {
        answer(&bench, &shard, third, *number, WriteAnswer::Applied);
    }
    (bench, shard, from)
}

/// Writes until memtables are flushed, and with them what is retired is left out.
fn fill_memtables(bench: &Bench, shard: &Rc<Shard<Bench>>, from: Connection) {
    let flushes = shard.engine.stats().flushes;
    for number in 0..200u64 {
        write(bench, shard, from, number, &put(&number.to_be_bytes(), &[7; 1_000], Level::One));
    }
    assert!(shard.engine.stats().flushes > flushes);
}

/// Hints that were delivered stayed while a full disk had no room for their mark; and it was full of them.
#[test]
fn what_was_delivered_is_left_out_of_tables_when_its_mark_was_refused() {
    let (bench, shard, from) = with_four_of_thirty_delivered();
    // No tick comes in between that would write it.
    let (lane, mark) = {
        let mut hints = shard.hints.borrow_mut();
        let lane = hints.lanes().next().expect("one").0;
        (lane, hints.mark(lane))
    };
    assert!(mark.is_some());
    shard.hint_marked(lane, None);
    fill_memtables(&bench, &shard, from);
    assert_eq!(stored(&shard).0, 26);
}

/// The hints for the third node that the engine has, and the marks.
fn stored(shard: &Shard<Bench>) -> (usize, usize) {
    let (mut hints, mut marks) = (0, 0);
    let visit = |key: ferrite_lsm::Key<'_>, _: ferrite_lsm::Record<'_>| {
        *if key.prefix.token > 0 { &mut hints } else { &mut marks } += 1;
        std::ops::ControlFlow::Continue(())
    };
    let limits = ferrite_lsm::ScanLimits::records(1_000);
    let range = ferrite_lsm::KeyRange::vnode(0, 3);
    block_on(shard.engine.scan(&range, ferrite_lsm::Direction::Forward, limits, visit)).expect("no faults");
    (hints, marks)
}

/// A log that takes nothing refuses a mark before it is staged. What may be done away with then was passed on to nobody: hints that were delivered stayed, and with
/// them the full disk.
#[test]
fn what_was_delivered_is_left_out_of_tables_when_its_mark_was_not_even_staged() {
    let (bench, shard, from) = with_four_of_thirty_delivered();
    let lane = shard.hints.borrow().lanes().next().expect("one").0;
    let key = mark_key(lane);
    // A mark overtakes nobody who waits for room.
    assert!(shard.waiting.borrow_mut().enter(u64::MAX, key, local_record(1, b""), 0, Ack::Nobody));
    shard.mark_hints();
    shard.waiting.borrow_mut().leave();
    fill_memtables(&bench, &shard, from);
    assert_eq!(stored(&shard), (26, 0), "and no mark did it");
}

/// Nobody looked for hints for a node that had left the configuration: they lay there for good, and nobody was told.
#[test]
fn hints_for_a_node_that_is_no_member_any_more_are_kept_counted_and_let_go_of_when_that_is_said() {
    let (bench, shard, second, from) = without_the_third(patient(3));
    write_and_ack(&bench, &shard, from, second, 7);
    pass(&bench, &shard, 20);
    assert_eq!(shard.hints_owed(), 7);
    let disk = bench.0.disk.clone();
    drop((shard, bench));
    let restart = |forget: &[u16], nodes: u16| {
        let mut settings = patient(3);
        settings.topology.nodes.retain(|node| node.id.0 <= nodes);
        settings.forget_hints_for = forget.iter().copied().map(NodeId).collect();
        let later = Bench::new(disk.crash(CrashMode::None, &mut || 0));
        later.0.wall_ms.set(1_700_000_100_000);
        let shard = open(&later, settings).expect("a sound disk opens");
        (shard.hints_owed(), shard.hints_text(HintsAction::Tell))
    };
    let (owed, told) = restart(&[], 2);
    assert_eq!(owed, 0);
    assert!(
        told.contains("hints.orphaned 7\n") && told.contains("hints.for.node-3 orphaned count=7 "),
        "{told}"
    );
    let (owed, told) = restart(&[9], 3);
    assert_eq!((owed, told.contains("hints.orphaned 0\n")), (7, true), "it is a member again: {told}");
    let (_, told) = restart(&[3], 2);
    assert!(told.contains("hints.orphaned 0\n") && !told.contains("node-3"), "{told}");
}
