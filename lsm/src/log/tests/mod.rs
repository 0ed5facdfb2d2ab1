//! The log over a disk that crashes: what the tests share.

mod aside;
mod commit;
mod crash;
mod damage;
mod life;

use crate::mem_disk::run::block_on;
use crate::mem_disk::{MemDisk, random};
use crate::{FileName, Prefix, RecordFlags};

use super::*;

const SEGMENT: u64 = 64 << 10;
const GROUP: usize = 16 << 10;

fn options(life: u64) -> LogOptions {
    LogOptions { segment_bytes: SEGMENT, group_bytes: GROUP, ..LogOptions::new(life) }
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

fn segment(slot: u32) -> FileName {
    FileName::Segment { core: 0, slot }
}
