//! One history under many options: whatever the engine is told to be like, and however often it is stopped, it says the same.
//!
//! A history is a list of steps that is drawn from a seed and knows nothing of options: writes in and out of order, deletions,
//! expiries, slices of background work that other steps overtake, power cuts, floors, reads of every kind. It is replayed
//! under each set of options, and every answer is compared with a map that forgets nothing; so all sets agree with each
//! other. What a reader takes for absence (nothing, a tombstone, an expired record) is one answer: which of them is there
//! depends on what was merged already.
//!
//! `FERRITE_HISTORIES=100` replays as many histories instead of a few; `FERRITE_HISTORIES_FROM` is the first seed.

mod replay;
mod sets;
mod steps;

use replay::Replay;
use sets::SETS;
use steps::draw;

const HISTORIES: u64 = 8;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn one_history_has_the_same_answers_under_all_options() {
    let first = number("FERRITE_HISTORIES_FROM").unwrap_or(0);
    let (mut replays, mut cuts, mut answers, mut jobs) = (0, 0, 0, [0; 2]);
    for seed in first..first + number("FERRITE_HISTORIES").unwrap_or(HISTORIES) {
        let steps = draw(seed);
        for set in SETS {
            let mut replay = Replay::new(set);
            for (at, step) in steps.iter().enumerate() {
                let stepped = std::panic::AssertUnwindSafe(|| replay.step(step));
                if let Err(panic) = std::panic::catch_unwind(stepped) {
                    eprintln!("seed {seed}, {}, step {at} of {}: {step:?}", set.name, steps.len());
                    std::panic::resume_unwind(panic);
                }
                for core in &replay.cores {
                    let stats = core.engine.stats();
                    jobs = [jobs[0].max(stats.flushes), jobs[1].max(stats.compactions)];
                }
            }
            (replays, cuts, answers) = (replays + 1, cuts + replay.cuts, answers + replay.answers);
        }
    }
    println!("counted: histories replayed {replays}");
    println!("counted: power cuts in histories {cuts}");
    println!("counted: answers compared {answers}");
    assert!(jobs[0] > 1 && jobs[1] > 1 && cuts > replays, "{jobs:?}, {cuts} cuts");
}
