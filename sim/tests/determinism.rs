//! The same seed gives the same run, event by event.

use ferrite_sim::Run;

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 1..6 {
        let (one, other) = (Run::new(seed, None).go(), Run::new(seed, None).go());
        assert_eq!(
            (one.trace, one.events, one.writes, &one.marks),
            (other.trace, other.events, other.writes, &other.marks),
            "seed {seed}"
        );
    }
}

#[test]
fn different_seeds_give_different_traces() {
    let traces: Vec<u64> = (1..6).map(|seed| Run::new(seed, None).go().trace).collect();
    assert!((1..traces.len()).all(|at| !traces[..at].contains(&traces[at])));
}
