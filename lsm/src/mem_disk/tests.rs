//! The disk against its contract.

use std::pin::pin;

use super::run::{block_on, poll_once, try_run};
use super::*;
use crate::DiskErrorKind;

const DIRECTORY: Directory = Directory::Store(1);

fn table(number: u64) -> FileName {
    FileName::Table { store: 1, number }
}

fn block(disk: &MemDisk, byte: u8, blocks: usize) -> MemBuf {
    let mut buf = disk.buf(blocks * BLOCK_BYTES, Class::Flush).unwrap();
    buf.fill(byte);
    buf
}

fn write(
    disk: &MemDisk,
    file: &MemFile,
    at: u64,
    byte: u8,
    blocks: usize,
    sync: Sync,
) -> Result<usize, DiskError> {
    block_on(disk.write(file, at, block(disk, byte, blocks), sync, Class::Flush)).1
}

/// A disk with a directory and one durable, empty file.
fn one_file() -> (MemDisk, MemFile) {
    let disk = MemDisk::new();
    block_on(disk.names(NameOp::CreateDirectory(DIRECTORY))).unwrap();
    let file = block_on(disk.open(table(1), Open::Create)).unwrap();
    block_on(disk.names(NameOp::SyncDirectory(DIRECTORY))).unwrap();
    (disk, file)
}

#[test]
fn a_power_cut_keeps_what_was_synced_and_none_or_all_of_the_rest() {
    let (disk, file) = one_file();
    write(&disk, &file, 0, 1, 1, Sync::Data).unwrap();
    write(&disk, &file, 4096, 2, 1, Sync::No).unwrap();
    block_on(disk.open(table(2), Open::Create)).unwrap();
    let none = disk.image(CrashMode::None, &mut random(1));
    assert_eq!(none.list(DIRECTORY), [(table(1), 4096)]);
    let all = disk.crash(CrashMode::All, &mut random(1));
    assert_eq!(all.list(DIRECTORY), [(table(1), 8192), (table(2), 0)]);
    assert_eq!(all.read_all(table(1)).unwrap()[4096], 2);
    assert!(try_run(disk.sync(&file)).is_none(), "a dead disk never answers");
}

#[test]
fn a_sync_makes_completed_writes_durable() {
    let (disk, file) = one_file();
    write(&disk, &file, 0, 1, 2, Sync::No).unwrap();
    block_on(disk.sync(&file)).unwrap();
    let left = disk.crash(CrashMode::None, &mut random(1));
    assert_eq!(left.read_all(table(1)).unwrap(), vec![1; 8192]);
}

#[test]
fn random_cuts_keep_whole_sectors_and_torn_ones_show_garbage() {
    let (disk, file) = one_file();
    write(&disk, &file, 0, 1, 4, Sync::No).unwrap();
    let (mut mixed, mut garbage) = (0, 0);
    for seed in 0..64 {
        for mode in [CrashMode::Prefix, CrashMode::Random, CrashMode::Torn] {
            let left = disk.image(mode, &mut random(seed));
            let bytes = left.read_all(table(1)).unwrap();
            let kinds: Vec<u8> = bytes
                .chunks(512)
                .map(|sector| match sector {
                    s if s.iter().all(|b| *b == 0) => 0,
                    s if s.iter().all(|b| *b == 1) => 1,
                    _ => 2,
                })
                .collect();
            garbage += kinds.iter().filter(|kind| **kind == 2).count();
            mixed += usize::from(kinds.contains(&0) && kinds.contains(&1));
            assert!(mode == CrashMode::Torn || !kinds.contains(&2));
            assert!(mode != CrashMode::Prefix || kinds.is_sorted_by(|a, b| a >= b));
        }
    }
    assert!(mixed > 20, "{mixed} cuts were mixed");
    assert_eq!(garbage, 64, "each torn cut has one garbage sector");
}

#[test]
fn names_wait_for_their_directory() {
    let (disk, _) = one_file();
    block_on(disk.names(NameOp::CreateZeroed { name: table(2), bytes: 8192 })).unwrap();
    block_on(disk.names(NameOp::Rename { from: table(1), to: table(3) })).unwrap();
    let none = disk.image(CrashMode::None, &mut random(1));
    assert_eq!(none.list(DIRECTORY), [(table(1), 0)]);
    block_on(disk.names(NameOp::SyncDirectory(DIRECTORY))).unwrap();
    let synced = disk.image(CrashMode::None, &mut random(1));
    assert_eq!(synced.list(DIRECTORY), [(table(2), 8192), (table(3), 0)]);
    block_on(disk.names(NameOp::Unlink(table(2)))).unwrap();
    assert_eq!(disk.image(CrashMode::None, &mut random(1)).list(DIRECTORY).len(), 2);
    assert_eq!(disk.image(CrashMode::All, &mut random(1)).list(DIRECTORY).len(), 1);
}

#[test]
fn killing_the_process_keeps_everything_but_does_not_make_it_durable() {
    let (disk, file) = one_file();
    write(&disk, &file, 0, 1, 1, Sync::No).unwrap();
    let left = disk.kill(&mut random(1));
    assert_eq!(left.read_all(table(1)).unwrap(), vec![1; 4096]);
    let cut = left.crash(CrashMode::None, &mut random(1));
    assert_eq!(cut.read_all(table(1)).unwrap(), vec![]);
}

#[test]
fn nothing_completes_from_the_crash_step_on() {
    let (disk, file) = one_file();
    let steps = disk.steps();
    disk.crash_at(steps + 1);
    write(&disk, &file, 0, 1, 1, Sync::Data).unwrap();
    let second = disk.write(&file, 4096, block(&disk, 2, 1), Sync::Data, Class::Flush);
    assert!(try_run(second).is_none());
    assert!(disk.is_off());
    let lengths: Vec<usize> = [CrashMode::None, CrashMode::All]
        .map(|mode| disk.image(mode, &mut random(1)).read_all(table(1)).unwrap().len())
        .to_vec();
    assert_eq!(lengths, [4096, 8192], "the write in flight may be kept or lost");
}

#[test]
fn a_file_made_in_flight_is_nobody_elses() {
    let (disk, _) = one_file();
    disk.crash_at(disk.steps());
    assert!(try_run(disk.open(table(2), Open::Create)).is_none());
    let left = disk.crash(CrashMode::All, &mut random(1));
    let third = block_on(left.open(table(3), Open::Create)).unwrap();
    write(&left, &third, 0, 3, 1, Sync::Data).unwrap();
    let cut = left.crash(CrashMode::All, &mut random(1));
    assert_eq!(cut.list(DIRECTORY), [(table(1), 0), (table(2), 0), (table(3), 4096)]);
}

#[test]
fn deferred_operations_complete_when_told_in_any_order() {
    let (disk, file) = one_file();
    disk.defer();
    let mut first = pin!(disk.write(&file, 0, block(&disk, 1, 1), Sync::No, Class::Log));
    let mut sync = pin!(disk.sync(&file));
    let ops = disk.in_flight(None);
    assert_eq!(ops.iter().map(|op| op.kind).collect::<Vec<_>>(), [OpKind::Write(Sync::No), OpKind::Sync]);
    assert!(poll_once(first.as_mut()).is_none());
    assert!(disk.complete(ops[0].id));
    assert!(!disk.complete(ops[0].id), "completes once");
    assert_eq!(poll_once(first.as_mut()).unwrap().1, Ok(4096));
    assert!(disk.complete(ops[1].id));
    assert_eq!(poll_once(sync.as_mut()), Some(Ok(())));
    let cut = disk.image(CrashMode::None, &mut random(1));
    assert_eq!(cut.read_all(table(1)).unwrap().len(), 0, "the sync was called before the write completed");
}

#[test]
fn dropping_a_future_detaches_its_operation() {
    let (disk, file) = one_file();
    disk.defer();
    drop(disk.write(&file, 0, block(&disk, 1, 1), Sync::Data, Class::Log));
    assert_eq!(disk.complete_all(), 1);
    assert_eq!(disk.image(CrashMode::None, &mut random(1)).read_all(table(1)).unwrap().len(), 4096);
    assert_eq!(disk.buffer_bytes(Class::Flush), 0, "its buffer came back");
}

#[test]
fn faults_hit_the_step_they_were_planned_for() {
    let (disk, file) = one_file();
    disk.fail_at(1, Fault::NoSpace);
    disk.fail_at(2, Fault::Short);
    disk.fail_at(3, Fault::Io);
    assert_eq!(write(&disk, &file, 0, 1, 2, Sync::No), Ok(8192));
    assert_eq!(write(&disk, &file, 0, 1, 2, Sync::No).unwrap_err().kind, DiskErrorKind::NoSpace);
    assert_eq!(write(&disk, &file, 0, 2, 2, Sync::No), Ok(4096));
    assert_eq!(block_on(disk.sync(&file)).unwrap_err().kind, DiskErrorKind::Io);
    block_on(disk.sync(&file)).unwrap();
    let cut = disk.image(CrashMode::None, &mut random(1));
    assert_eq!(cut.read_all(table(1)).unwrap().len(), 0, "a later sync says success and the data is lost");
}

#[test]
fn read_faults_flip_shorten_and_fail() {
    let (disk, file) = one_file();
    write(&disk, &file, 0, 0, 2, Sync::Data).unwrap();
    disk.fail_read_at(0, ReadFault::Flip { bit: 9 });
    disk.fail_read_at(1, ReadFault::Short);
    disk.fail_read_at(2, ReadFault::Io);
    let read = || block_on(disk.read(&file, 0, block(&disk, 7, 2), Class::Read));
    assert_eq!(read().0[..2], [0, 2]);
    assert_eq!(read().1, Ok(4096));
    assert_eq!(read().1.unwrap_err().kind, DiskErrorKind::Io);
    assert_eq!(read().1, Ok(8192));
}

#[test]
fn a_full_disk_refuses_growth_and_nothing_else() {
    let (disk, file) = one_file();
    write(&disk, &file, 0, 1, 1, Sync::Data).unwrap();
    disk.set_full(true);
    assert_eq!(write(&disk, &file, 0, 2, 1, Sync::Data), Ok(4096));
    assert_eq!(write(&disk, &file, 4096, 2, 1, Sync::Data).unwrap_err().kind, DiskErrorKind::NoSpace);
    assert_eq!(block_on(disk.open(table(2), Open::Create)).unwrap_err().kind, DiskErrorKind::NoSpace);
    disk.set_full(false);
    assert_eq!(write(&disk, &file, 4096, 2, 1, Sync::Data), Ok(4096));
}

#[test]
fn what_was_written_before_space_ran_out_is_seen_and_not_durable() {
    let (disk, file) = one_file();
    for (blocks, kept) in [(0, 0), (2, 8192), (usize::MAX, 12288)] {
        disk.fail_at(0, Fault::NoSpaceAfter { blocks });
        let failed = write(&disk, &file, 0, 1, 3, Sync::Data).unwrap_err();
        assert_eq!(failed.kind, DiskErrorKind::NoSpace);
        assert_eq!(disk.read_all(table(1)).unwrap().len(), kept);
    }
    assert_eq!(disk.image(CrashMode::None, &mut random(1)).read_all(table(1)).unwrap().len(), 0);
}

#[test]
fn damage_and_replacement_are_durable() {
    let (disk, file) = one_file();
    write(&disk, &file, 0, 1, 1, Sync::Data).unwrap();
    assert!(disk.corrupt(table(1), 5, 0xFF));
    assert!(!disk.corrupt(table(1), 4096, 0xFF));
    let cut = disk.image(CrashMode::None, &mut random(1));
    assert_eq!(cut.read_all(table(1)).unwrap()[4..7], [1, 0xFE, 1]);
    cut.write_all(table(1), b"short");
    assert_eq!(cut.read_all(table(1)).unwrap(), b"short");
    let file = block_on(cut.open(table(1), Open::Read)).unwrap();
    assert_eq!(block_on(cut.read(&file, 0, block(&cut, 7, 1), Class::Read)).1, Ok(5));
}

#[test]
#[should_panic(expected = "not on a block boundary")]
fn unaligned_offsets_are_bugs() {
    let (disk, file) = one_file();
    let _refused = write(&disk, &file, 512, 1, 1, Sync::No);
}

#[test]
fn what_is_misplaced_is_read_from_elsewhere_and_destroys_two_places() {
    let (disk, file) = one_file();
    for at in 0..4 {
        write(&disk, &file, at * 4096, 1 + at as u8, 1, Sync::Data).unwrap();
    }
    let other = block_on(disk.open(table(2), Open::Create)).unwrap();
    write(&disk, &other, 0, 9, 1, Sync::Data).unwrap();
    let mut came = std::collections::BTreeSet::new();
    for choice in 0..64 {
        disk.fail_read_at(0, ReadFault::Misplaced { choice });
        let (buf, read) = block_on(disk.read(&file, 0, block(&disk, 0, 1), Class::Read));
        assert_eq!(read.unwrap(), BLOCK_BYTES, "it says that all is well");
        came.insert(buf[0]);
    }
    assert_eq!(came.into_iter().collect::<Vec<_>>(), [1, 2, 3, 4, 9]);
    disk.fail_at(0, Fault::Misplaced { choice: 2 });
    assert_eq!(write(&disk, &file, 0, 7, 1, Sync::Data), Ok(BLOCK_BYTES));
    disk.fail_at(0, Fault::Misplaced { choice: 2 });
    block_on(disk.sync(&file)).expect("nothing to misplace");
    let left = disk.crash(CrashMode::None, &mut random(1)).read_all(table(1)).unwrap();
    assert_eq!([0, 1, 2, 3].map(|at| left[at * 4096]), [1, 2, 7, 4]);
}
