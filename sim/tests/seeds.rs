//! A fixed range of seeds keeps every promise, meets every kind of fault, and takes every path that matters.

use ferrite_sim::{ByName, Run, run_all};

const SEEDS: std::ops::Range<u64> = 1..261;
/// Enough for the cores that there are on small machines; the other tests have theirs.
const THREADS: usize = 2;

/// What the range must have met, faults and paths of the server.
const FAULTS: [&str; 31] = [
    "bit flipped",
    "bit flipped in a log or manifest",
    "clock jump",
    "clock runs fast or slow",
    "connection lost",
    "connection refused",
    "connection reset",
    "copy restored",
    "core stalled",
    "damaged disk replaced",
    "directory wiped",
    "disk stalled",
    "full disk",
    "kill",
    "message late",
    "message lost",
    "message repeated",
    "one-way partition",
    "orderly stop",
    "partition",
    "pause",
    "power cut",
    "power cut of all",
    "read failed",
    "read misplaced",
    "read of a log or manifest misplaced",
    "restart with another clock",
    "restart with other cores",
    "short read",
    "sync failed",
    "write misplaced",
];
const MARKS: [&str; 42] = [
    "actor kept",
    "actor renewed",
    "background work found the disk full",
    "client's request hopped",
    "core count changed",
    "core fenced",
    "expired record buried",
    "hint delivered",
    "hint made of the local record",
    "hint refused for the moment",
    "life renewed",
    "log replayed",
    "log segment recycled",
    "log tail cut",
    "manifest begun afresh",
    "memtable flushed",
    "nothing minted while the wall clock is ahead",
    "orphaned table removed",
    "peer's request hopped",
    "read asked another replica",
    "read hedged",
    "read repaired before its answer",
    "record from afar",
    "record read from a table",
    "replica absent by gossip",
    "replicas differed",
    "set read before it was overwritten",
    "sets of siblings joined",
    "set written apart from its replicas",
    "sibling sets joined",
    "silent gossip link cut",
    "silent peer cut",
    "sloppy hint refused",
    "stand-in asked",
    "strict hint dropped",
    "table moved down",
    "tables compacted",
    "too many siblings",
    "write handed on",
    "write in doubt",
    "write refused on top of a record from afar",
    "write waited for a latch",
];
/// What clients must have met.
const MET: [&str; 6] = [
    "multi-gets answered",
    "multi-puts answered",
    "sessions that moved to another node",
    "sloppy acknowledgements",
    "writes that had reached all replicas when hints had drained",
    "writes with the order of another one of their key",
];
/// Fewest kinds of faults that a run meets.
const KINDS_MIN: usize = 2;
/// Writes that the range must have had acknowledged at least: a cluster that is always down keeps every promise.
const ACKNOWLEDGED_MIN: u64 = 100_000;

#[test]
fn a_range_of_seeds_keeps_every_promise_and_takes_every_path() {
    let runs = SEEDS.map(|seed| Run::new(seed, None));
    let tally = run_all(
        runs,
        THREADS,
        || false,
        |report, _| {
            assert!(report.violation.is_none() && report.counts.faults.len() >= KINDS_MIN, "{report}")
        },
    );
    println!("{tally}");
    let counts = &tally.counts;
    println!("counted: simulated runs {}", tally.runs);
    println!("counted: seconds simulated {}", counts.virtual_ns / 1_000_000_000);
    let missed = |wanted: &[&'static str], met: &ByName| {
        wanted.iter().copied().filter(|name| !met.contains_key(name)).collect::<Vec<_>>()
    };
    assert_eq!(missed(&FAULTS, &counts.faults), [""; 0], "faults that never happened");
    assert_eq!(missed(&MARKS, &counts.marks), [""; 0], "paths that were never taken");
    assert_eq!(missed(&MET, &counts.met), [""; 0], "what clients never met");
    assert!(counts.hints.made > 0 && counts.hints.delivered > 0, "{:?}", counts.hints);
    let acknowledged = counts.writes.0;
    assert!(acknowledged >= ACKNOWLEDGED_MIN, "only {acknowledged} writes were acknowledged");
}
