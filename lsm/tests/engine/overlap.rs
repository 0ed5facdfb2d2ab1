//! Operations on vnodes that overlap one another, writes, jobs, reads and scans.
//!
//! Each of them has tests of its own, beside writes and jobs. What these leave out is two of them at once: a checkpoint beside a move, a
//! purge beside an ingest, an assignment beside a drop. Here a seed begins them, polls their futures and completes what they ask of
//! the disk, in an order of its own, and a model ([`model`]) knows after each poll what may be the answer. The power is cut in the
//! middle; at the end everything is compared.
//!
//! A refusal that is typed is an answer. That each pair of operations did overlap, on the same vnode, and that each refusal came to
//! pass is asserted over all seeds.
//!
//! `FERRITE_OVERLAPS=1000` replays as many histories instead of a few; `FERRITE_OVERLAPS_FROM` is the first seed.

mod crash;
mod effect;
mod history;
mod mended;
mod model;
mod operation;

use crate::rig::{self, small_options};
use ferrite_lsm::log::LogOptions;
use ferrite_lsm::{Options, Strategy};
use history::{Tally, run};
use operation::Kind;

const HISTORIES: u64 = 100;

/// Small enough for many flushes, and for groups that leave a move room in memory.
fn small(entropy: u128) -> Options {
    let mut options = small_options(entropy);
    options.memtable_bytes = 80 << 10;
    // Reads and scans wait for the disk.
    options.cache_bytes = 12 << 10;
    options.record_cache_bytes = Some(4 << 10);
    options.log = LogOptions { group_bytes: 8 << 10, ..options.log };
    options
}

/// One sorted level, so that most merges reach the bottom, where they purge.
fn flat(entropy: u128) -> Options {
    Options { level_base_bytes: 1 << 20, ..small(entropy) }
}

fn apart(entropy: u128) -> Options {
    Options { large_value_bytes: Some(150), ..flat(entropy) }
}

fn tiered(entropy: u128) -> Options {
    Options { strategy: Strategy::Tiered, ..small(entropy) }
}

const SETS: [fn(u128) -> Options; 4] = [small, flat, apart, tiered];

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Each of these must have been done while each of them was under way, on the same vnode.
const CHANGES: [Kind; 6] =
    [Kind::Assign, Kind::DropVnode, Kind::DropTable, Kind::Move, Kind::Ingest, Kind::Checkpoint];
/// And each of these as well.
const OTHERS: [Kind; 6] = [Kind::Export, Kind::Read, Kind::Scan, Kind::Commit, Kind::Merge, Kind::Upkeep];

#[test]
fn operations_that_overlap_answer_as_if_one_came_after_the_other() {
    let (first, histories) =
        (number("FERRITE_OVERLAPS_FROM").unwrap_or(0), number("FERRITE_OVERLAPS").unwrap_or(HISTORIES));
    let mut tally = Tally::default();
    for seed in first..first + histories {
        let ran = std::panic::catch_unwind(|| run(seed, SETS[seed as usize % SETS.len()]));
        match ran {
            Ok(ran) => tally.add(ran.unwrap_or_else(|error| panic!("{error}"))),
            Err(panic) => {
                eprintln!("seed {seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    rig::count("overlapping histories", histories);
    rig::count("operations that overlapped", tally.beside.values().sum());
    rig::count("crash states", tally.images);
    println!("{:?}, {} flushes, {} merges", tally.refused, tally.flushes, tally.merges);
    if histories < HISTORIES {
        return;
    }
    let pairs = |one| CHANGES.map(|two| (one, two)).into_iter().chain(OTHERS.map(|two| (two, one)));
    let pairs = CHANGES.into_iter().flat_map(pairs);
    let missing: Vec<(Kind, Kind)> = pairs.filter(|pair| !tally.beside.contains_key(pair)).collect();
    assert_eq!(missing, [], "the first of these was never done beside the second");
    for what in ["UnknownVnode", "Overloaded", "LivesElsewhere", "Superseded", "future dropped"] {
        assert!(tally.refused.contains_key(what), "never: {what}");
    }
    assert!(tally.flushes > 100 && tally.merges > 100, "{} flushes, {} merges", tally.flushes, tally.merges);
}

#[cfg(feature = "planted-bugs")]
mod planted {
    use super::{flat, run, small};
    use crate::rig::planted::caught;
    use ferrite_lsm::planted::Bug;

    #[test]
    fn a_purge_that_ignores_an_ingest_is_caught() {
        caught(Bug::PurgeIgnoresIngest, 0..200, |seed| run(seed, flat).map(drop));
    }

    #[test]
    fn a_flush_that_freezes_before_its_turn_is_caught() {
        caught(Bug::FreezesBeforeTurn, 0..200, |seed| run(seed, small).map(drop));
    }

    #[test]
    fn a_target_that_is_frozen_during_a_move_is_caught() {
        caught(Bug::MoveLetsTargetFreeze, 0..200, |seed| run(seed, small).map(drop));
    }

    #[test]
    fn what_arrives_during_a_drop_and_comes_back_is_caught() {
        caught(Bug::DropOverlooksArrivals, 0..200, |seed| run(seed, small).map(drop));
    }

    #[test]
    fn an_assignment_that_does_not_wait_is_caught() {
        caught(Bug::AssignTakesNoTurn, 0..200, |seed| run(seed, small).map(drop));
    }
}
