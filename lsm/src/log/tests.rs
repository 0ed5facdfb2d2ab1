//! The log over a disk that crashes.

use crate::mem_disk::run::block_on;
use crate::mem_disk::{CrashMode, MemDisk};
use crate::{Prefix, RecordFlags};

use super::*;

const SEGMENT: u64 = 64 << 10;
const GROUP: usize = 16 << 10;

fn options(life: u64) -> LogOptions {
    LogOptions { segment_bytes: SEGMENT, group_bytes: GROUP, ..LogOptions::new(life) }
}

/// A small generator (splitmix64).
fn random(mut seed: u64) -> impl FnMut() -> u64 {
    move || {
        seed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

fn stage(log: &Log<MemDisk>, number: u64, len: usize) -> Result<Seq, StageError> {
    let partition = number.to_be_bytes();
    let value = vec![number as u8; len];
    let prefix = Prefix { space: 1, vnode: number as u16, table: 3, token: number << 48 };
    let record =
        Record { order: 1000 + number, actor: 5, flags: RecordFlags::default(), expiry_ms: 0, value: &value };
    log.stage(Key { prefix, partition: &partition, sort: &[] }, record, 9)
}

/// What a recovery replays: number and staged number of each record, checked against what was staged.
fn recover(disk: &MemDisk, options: LogOptions) -> (Log<MemDisk>, LogRecovery, Vec<(u64, u64)>) {
    let mut replayed = Vec::new();
    let (log, recovery) = block_on(Log::recover(disk.clone(), 0, options, &mut |seq, key, record, epoch| {
        let number = u64::from_be_bytes(key.partition.try_into().unwrap());
        assert_eq!((record.order, record.actor, epoch, key.prefix.table), (1000 + number, 5, 9, 3));
        assert!(record.value.iter().all(|byte| *byte == number as u8), "a whole record or none");
        replayed.push((seq.0, number));
    }))
    .unwrap();
    (log, recovery, replayed)
}

/// Stages and commits one record per group.
fn write(log: &Log<MemDisk>, numbers: std::ops::Range<u64>, len: usize) {
    for number in numbers {
        stage(log, number, len).unwrap();
        assert_eq!(block_on(log.commit()).unwrap().unwrap().len(), 1);
    }
}

fn pairs(range: std::ops::Range<u64>) -> Vec<(u64, u64)> {
    range.map(|number| (number, number)).collect()
}

#[test]
fn what_is_committed_comes_back_in_order() {
    let disk = MemDisk::new();
    let (log, recovery, _) = recover(&disk, options(1));
    assert!(recovery.fresh);
    for number in 1..=5 {
        assert_eq!(stage(&log, number, 100), Ok(Seq(number)));
    }
    let group = block_on(log.commit()).unwrap().unwrap();
    assert_eq!((group.first_seq(), group.last_seq(), group.len()), (Seq(1), Seq(5), 5));
    assert_eq!(group.iter().map(|(seq, ..)| seq.0).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    drop(group);
    assert!(block_on(log.commit()).unwrap().is_none());
    write(&log, 6..60, 3000);
    assert!(log.segments().len() > 2);
    let (log, recovery, replayed) = recover(&disk.crash(CrashMode::None, &mut random(1)), options(2));
    assert_eq!(replayed, pairs(1..60));
    assert_eq!((recovery.records, recovery.cut_tail, recovery.damage), (59, None, vec![]));
    assert_eq!(log.next_seq(), Seq(60));
}
