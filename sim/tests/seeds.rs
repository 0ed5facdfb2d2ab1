//! A fixed range of seeds keeps every promise, meets every kind of fault, and takes every path that matters.

use ferrite_sim::{ByName, MARKS, Run, run_all};

const SEEDS: std::ops::Range<u64> = 1..261;
/// Enough for the cores that there are on small machines; the other tests have theirs.
const THREADS: usize = 2;

/// The faults that the range must have met.
const FAULTS: [&str; 33] = [
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
    "no room to rename or remove",
    "no room to write within a file",
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
/// Paths that no run takes, each with what keeps it from that. All others are demanded, also those that are yet to come.
const NOT_TAKEN: [(&str, &[&str]); 8] = [
    (
        "no vnode moves, and no member comes or goes",
        &[
            "drop of a vnode in doubt",
            "extent dropped",
            "hints for no member forgotten",
            "ingested below",
            "ingested on top",
            "records arrived during the drop of their vnode",
            "table trimmed",
            "vnode moved",
        ],
    ),
    ("no replica knows, without anti-entropy, that all others have a tombstone", &["tombstone purged"]),
    ("no operator asks for it", &["checkpoint made", "held back hints forgotten"]),
    (
        "a stand-in knows the same tables as its target, which refuses nothing for good",
        &["sloppy hint held back"],
    ),
    ("the disk in memory has as many buffers as are asked for", &["commit found no log buffer"]),
    (
        "ten clients with one request each do not fill what a core may hold",
        &["no room to keep what a multi-get found", "no room to keep what a read found"],
    ),
    ("removals fail one at a time, not over and over", &["manifest not begun behind attempts that stay"]),
    (
        "what a disk holds is damaged for a few seconds only, and then replaced: the engine's own tests take these",
        &[
            "blocks quarantined",
            "quarantine released",
            "read of what was lost refused",
            "unreadable hints passed over",
            "value file opened unread",
            "value file withheld by the device",
        ],
    ),
];
/// Paths that hardly any seed takes: these seeds may, and whatever changes elsewhere may take that from them. A long run says which it has not taken.
const RARE: [&str; 17] = [
    "clock begun above what may have been minted",
    "clock's bound still not known",
    "compaction abandoned",
    "file quarantined when it could not be opened",
    "first start ended before cores changed",
    "gossip connection of a vanished node closed",
    "hint written again behind others",
    "manifest tail cut",
    "no room to write a hint again",
    "scrubbing found damage",
    "set too long to be repaired",
    "something ran while a group was applied",
    "space 0 passed over where it is damaged",
    "start passed over unreadable hints",
    "table that cannot be read left alone",
    "too much was asked of other cores",
    "value file marked as damaged",
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
            assert!(report.violation.is_none() && report.counts.faults.len() >= KINDS_MIN, "{report}");
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
    let not_taken = || NOT_TAKEN.iter().flat_map(|(_, paths)| *paths).copied();
    let demanded: Vec<_> = MARKS
        .iter()
        .copied()
        .filter(|mark| !RARE.contains(mark) && !not_taken().any(|path| path == *mark))
        .collect();
    assert_eq!(missed(&demanded, &counts.marks), [""; 0], "paths that were never taken");
    let surprising: Vec<_> = not_taken().filter(|path| counts.marks.contains_key(path)).collect();
    assert_eq!(surprising, [""; 0], "paths that are taken: demand them");
    let unknown: Vec<_> = not_taken()
        .chain(RARE)
        .chain(counts.marks.keys().copied())
        .filter(|name| !MARKS.contains(name))
        .collect();
    assert_eq!(unknown, [""; 0], "no such paths are found in the sources");
    assert_eq!(missed(&MET, &counts.met), [""; 0], "what clients never met");
    assert!(counts.hints.made > 0 && counts.hints.delivered > 0, "{:?}", counts.hints);
    let acknowledged = counts.writes.0;
    assert!(acknowledged >= ACKNOWLEDGED_MIN, "only {acknowledged} writes were acknowledged");
}
