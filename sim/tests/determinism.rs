//! The same seed gives the same run, event by event.

use ferrite_sim::Run;

/// Runs each seed twice.
fn assert_repeatable(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let (one, other) = (Run::new(seed, None).go(), Run::new(seed, None).go());
        assert_eq!((one.trace, one.counts), (other.trace, other.counts), "seed {seed}");
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    assert_repeatable(1..11);
}

#[test]
fn other_seeds_too_give_the_same_trace_again() {
    assert_repeatable(1_000_001..1_000_011);
}

#[test]
fn different_seeds_give_different_traces() {
    let traces: Vec<u64> = (1..6).map(|seed| Run::new(seed, None).go().trace).collect();
    assert!((1..traces.len()).all(|at| !traces[..at].contains(&traces[at])));
}
