//! CPU time of the log apart from the device: staging, the commit (sealing, reading back, and a disk in memory that copies), replay.
//!
//! `cargo bench -p ferrite-benches --bench log -- --full` measures; without `--full` it only shows that it still runs.

use std::hint::black_box;

use ferrite_lsm::log::{Log, LogOptions};
use ferrite_lsm::mem_disk::{MemDisk, run::block_on};
use ferrite_lsm::{Key, Prefix, Record, RecordFlags};

fn main() {
    let full = std::env::args().any(|argument| argument == "--full");
    let records: u64 = if full { 4_000_000 } else { 4_000 };
    println!("value bytes   group of  stage ns/rec  commit ns/rec  replay ns/rec  overhead bytes");
    for (value_bytes, group) in [(100, 1), (100, 16), (100, 128), (100, 4096), (1024, 512), (16384, 32)] {
        let records =
            (records * 100 / (value_bytes as u64 + 60)).min(if group == 1 { records / 16 } else { records });
        measure(value_bytes, group, records);
    }
}

/// CPU time of this thread in nanoseconds: wall time says little on a shared machine.
fn cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux has schedstat");
    text.split_ascii_whitespace()
        .next()
        .and_then(|ns| ns.parse().ok())
        .expect("its first field is time on CPU")
}

fn measure(value_bytes: usize, group_records: u64, records: u64) {
    let disk = MemDisk::new();
    let (log, _) = block_on(Log::recover(disk.clone(), 0, LogOptions::new(1), &mut |_, _, _, _| {})).unwrap();
    let value = vec![7; value_bytes];
    let mut staged_bytes = 0;
    let (mut staging, mut committing) = (0, 0);
    let mut number = 0;
    while number < records {
        let start = cpu_ns();
        for _ in 0..group_records {
            let token = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let partition = token.to_le_bytes();
            let key = Key {
                prefix: Prefix { space: 1, vnode: (token >> 52) as u16, table: 1, token },
                partition: &partition,
                sort: &[],
            };
            let record = Record {
                order: (1 << 60) + number,
                actor: 42,
                flags: RecordFlags::default(),
                expiry_ms: 0,
                value: &value,
            };
            log.stage(key, record, 3).unwrap();
            number += 1;
        }
        let staged = cpu_ns();
        staging += staged - start;
        staged_bytes += log.staged_bytes() as u64;
        let group = block_on(log.commit()).unwrap().unwrap();
        black_box(group.iter().map(|(seq, ..)| seq.0).sum::<u64>());
        drop(group);
        committing += cpu_ns() - staged;
    }
    let start = cpu_ns();
    let mut seen = 0u64;
    let replay =
        &mut |_, _: Key<'_>, record: Record<'_>, _| seen += black_box(record.value.len() as u64).min(1);
    block_on(Log::recover(disk, 0, LogOptions::new(2), replay)).unwrap();
    let replaying = cpu_ns() - start;
    assert_eq!(seen, number);
    // Reading the clock costs more than staging a record: take its share out.
    let clock =
        (0..1000).map(|_| -(cpu_ns() as f64 - cpu_ns() as f64)).sum::<f64>() / 1000.0 / group_records as f64;
    let per_record = |ns: u64| (ns as f64 / number as f64 - clock).max(0.0);
    println!(
        "{value_bytes:>11} {group_records:>10} {:>12.0} {:>13.0} {:>13.0} {:>15.1}",
        per_record(staging),
        per_record(committing),
        replaying as f64 / number as f64,
        staged_bytes as f64 / number as f64 - value_bytes as f64,
    );
}
