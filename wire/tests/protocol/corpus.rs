//! The corpus of the fuzz targets, replayed: what once was found, or is worth starting from, stays tested on stable.

use crate::exercise;
use std::path::Path;

fn replay(target: &str, exercise: impl Fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&corpus).expect("the corpus is part of the project");
    let mut count = 0;
    for entry in entries {
        exercise(&std::fs::read(entry.expect("readable").path()).expect("readable"));
        count += 1;
    }
    assert!(count >= 5, "{count} inputs for {target}");
}

#[test]
fn frames() {
    replay("frame", exercise::frame);
}

#[test]
fn bodies() {
    replay("request", exercise::body);
    replay("reply", exercise::body);
    replay("peer", exercise::body);
}

#[test]
fn topologies() {
    replay("topology", exercise::topology);
}
