//! A fixed range of seeds keeps every promise, meets every kind of fault, and takes every path that matters.

use std::collections::BTreeMap;

use ferrite_sim::Run;

const SEEDS: std::ops::Range<u64> = 1..81;

/// What the range must have met, faults and paths of the server.
const FAULTS: [&str; 15] = [
    "bit flipped",
    "clock jump",
    "connection reset",
    "disk stalled",
    "full disk",
    "kill",
    "one-way partition",
    "partition",
    "pause",
    "power cut",
    "power cut of all",
    "read failed",
    "restart with another clock",
    "short read",
    "sync failed",
];
const MARKS: [&str; 29] = [
    "actor renewed",
    "background work found the disk full",
    "client's request hopped",
    "core fenced",
    "life renewed",
    "log replayed",
    "log segment recycled",
    "log tail cut",
    "manifest begun afresh",
    "memtable flushed",
    "orphaned table removed",
    "peer's request hopped",
    "read asked another replica",
    "read hedged",
    "read repaired before its answer",
    "record read from a table",
    "replica absent by gossip",
    "replicas differed",
    "set read before it was overwritten",
    "sets of siblings joined",
    "sibling sets joined",
    "silent gossip link cut",
    "silent peer cut",
    "table moved down",
    "tables compacted",
    "too many siblings",
    "write handed on",
    "write in doubt",
    "write waited for a latch",
];
/// Fewest kinds of faults that a run meets.
const KINDS_MIN: usize = 2;
/// Writes that the range must have had acknowledged at least: a cluster that is always down keeps every promise.
const ACKNOWLEDGED_MIN: u64 = 20_000;

#[test]
fn a_range_of_seeds_keeps_every_promise_and_takes_every_path() {
    let (mut faults, mut marks) = (BTreeMap::new(), BTreeMap::new());
    let mut acknowledged = 0;
    for seed in SEEDS {
        let report = Run::new(seed, None).go();
        assert!(report.violation.is_none(), "{report}");
        assert!(report.faults.len() >= KINDS_MIN, "a dull run:\n{report}");
        acknowledged += report.writes.0;
        for (sums, counts) in [(&mut faults, &report.faults), (&mut marks, &report.marks)] {
            for (name, count) in counts {
                *sums.entry(*name).or_insert(0) += count;
            }
        }
    }
    println!("{acknowledged} acknowledged\n{faults:#?}\n{marks:#?}");
    let missed = |wanted: &[&'static str], met: &BTreeMap<&str, u64>| {
        wanted.iter().copied().filter(|name| !met.contains_key(name)).collect::<Vec<_>>()
    };
    assert_eq!(missed(&FAULTS, &faults), [""; 0], "faults that never happened");
    assert_eq!(missed(&MARKS, &marks), [""; 0], "paths that were never taken");
    assert!(acknowledged >= ACKNOWLEDGED_MIN, "only {acknowledged} writes were acknowledged");
}
