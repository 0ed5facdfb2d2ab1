//! Leveled compaction with targets that follow the data.
//!
//! Levels are O'Neil's and LevelDB's: each is one sorted run. Their target lengths are derived from the deepest one upward, as
//! in Dong et al., "Optimizing Space Amplification in RocksDB" (CIDR 2017): the last level has what it has, the one above it a
//! part of that, and so on until a level would be shorter than the base length. That one is the *base level*, into which
//! level 0 is merged; the levels above it stay empty. So a small store has one level, nearly all data is in the last
//! level at any time, and what is superseded takes a bounded share of the space.
//!
//! Unlike there the factor between levels is not fixed: a store of n base lengths has as few levels as keep the factor
//! at most `level_fanout`, with the same factor between all of them, which is where the sum of rewriting is least.
//!
//! Each level has a *score*, its length against its target in thousandths; from 1,000 on it is due.
//!
//! - Level 0 counts tables. Its oldest go, as many as a plan may take, with all they overlap in the base level. (Newer ones
//!   alone would let an older version of a key stand above a newer one.)
//! - Of a sorted level goes the table that rewrites the fewest bytes below it for each of its own; if it overlaps none, it
//!   is moved, not rewritten.
//!
//! Bounds: a plan takes at most `l0_bytes_max` of level 0 and one table of another level; what it overlaps below is bounded
//! where tables are cut ([`crate::engine`]'s output ends a table before it overlaps much of the level below).

use std::rc::Rc;

use super::pick::{Limits, StoreShape};
use super::plan::{Plan, bytes, overlapping};
use crate::TableMeta;

/// What the levels of a store should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Targets {
    /// The level into which level 0 is merged.
    pub(super) base: usize,
    /// Bytes by level; 0 above the base level.
    pub(super) bytes: Vec<u64>,
}

impl Targets {
    pub(super) fn of(limits: &Limits, levels: &[Vec<Rc<TableMeta>>]) -> Targets {
        let last = levels.len() - 1;
        let longest = levels[1..].iter().map(|tables| bytes(tables)).max().unwrap_or(0);
        let base_bytes = limits.level_base_bytes.max(1);
        let mut targets = Targets { base: last, bytes: vec![0; levels.len()] };
        targets.bytes[last] = longest.max(base_bytes);
        let above = levels_above_last(longest, base_bytes, limits.level_fanout).min(last - 1);
        if above > 0 {
            targets.base = last - above;
            let factor = (longest as f64 / base_bytes as f64).powf(1.0 / above as f64);
            for level in targets.base..last {
                let length = base_bytes as f64 * factor.powi((level - targets.base) as i32);
                targets.bytes[level] = length.round() as u64;
            }
        }
        targets
    }
}

/// Levels between level 0 and the last one. One more is worth its own rewriting only when the last is well longer than it.
fn levels_above_last(longest: u64, base_bytes: u64, fanout: u64) -> usize {
    if longest <= base_bytes.saturating_mul(WORTH_A_LEVEL) {
        return 0;
    }
    let mut levels = 1;
    let mut reach = base_bytes.saturating_mul(fanout.max(2));
    while longest > reach {
        levels += 1;
        reach = reach.saturating_mul(fanout.max(2));
    }
    levels
}

/// Base lengths that the last level has before there is a level above it.
const WORTH_A_LEVEL: u64 = 3;

/// What is due in a store, with its score in thousandths.
pub(super) fn plans(shape: &StoreShape<'_>) -> Vec<(u64, Plan)> {
    let targets = Targets::of(&shape.limits, shape.levels);
    let last = shape.levels.len() - 1;
    let mut due = Vec::new();
    for level in 0..last {
        let score = score(shape, &targets, level);
        if score >= 1000
            && let Some(plan) = plan(shape, &targets, level)
        {
            due.push((score, plan));
        }
    }
    due
}

/// All of level 0, as far as one plan goes, whatever its length.
pub(super) fn of_level_0(shape: &StoreShape<'_>) -> Option<Plan> {
    plan(shape, &Targets::of(&shape.limits, shape.levels), 0)
}

/// Bytes above the targets.
pub(super) fn debt_bytes(shape: &StoreShape<'_>) -> u64 {
    let targets = Targets::of(&shape.limits, shape.levels);
    let last = shape.levels.len() - 1;
    let level_debt = |level: usize| match level {
        0 if shape.levels[0].len() < shape.limits.l0_tables => 0,
        _ => bytes(&shape.levels[level]).saturating_sub(targets.bytes[level]),
    };
    (0..last).map(level_debt).sum()
}

/// The highest score of a sorted level of a store, in thousandths: how far merging down is behind.
pub(super) fn worst_score(shape: &StoreShape<'_>) -> u64 {
    let targets = Targets::of(&shape.limits, shape.levels);
    let last = shape.levels.len() - 1;
    (1..last).map(|level| score(shape, &targets, level)).max().unwrap_or(0)
}

fn score(shape: &StoreShape<'_>, targets: &Targets, level: usize) -> u64 {
    let tables = &shape.levels[level];
    if level == 0 {
        return tables.len() as u64 * 1000 / shape.limits.l0_tables.max(1) as u64;
    }
    let bytes = u128::from(bytes(tables));
    if level < targets.base {
        // It should be empty; it stands between level 0 and the base level, so it goes soon.
        let base_bytes = u128::from(shape.limits.level_base_bytes.max(1));
        return if bytes == 0 { 0 } else { 1000 + (bytes * 1000 / base_bytes) as u64 };
    }
    (bytes * 1000 / u128::from(targets.bytes[level].max(1))) as u64
}

/// Where what leaves `level` goes: the next level that holds anything, and the base level at the furthest.
fn output_level(shape: &StoreShape<'_>, targets: &Targets, level: usize) -> usize {
    let last = shape.levels.len() - 1;
    (level + 1..last).find(|&below| below >= targets.base || !shape.levels[below].is_empty()).unwrap_or(last)
}

fn plan(shape: &StoreShape<'_>, targets: &Targets, level: usize) -> Option<Plan> {
    let output_level = output_level(shape, targets, level);
    let lower = &shape.levels[output_level];
    let upper: Vec<&Rc<TableMeta>> = if level == 0 {
        let mut taken = 0;
        let fits = |table: &&Rc<TableMeta>| {
            let first = taken == 0;
            taken += table.bytes;
            (first || taken <= shape.limits.l0_bytes_max()) && !shape.is_damaged(table)
        };
        shape.levels[0].iter().take_while(fits).collect()
    } else {
        let cost = |table: &&Rc<TableMeta>| {
            u128::from(bytes(overlapping(lower, &[*table]))) * 1000 / u128::from(table.bytes.max(1))
        };
        let sound = |table: &&Rc<TableMeta>| {
            !shape.is_damaged(table)
                && !overlapping(lower, &[*table]).iter().any(|lower| shape.is_damaged(lower))
        };
        shape.levels[level].iter().filter(sound).min_by_key(cost).into_iter().collect()
    };
    let overlapped: Vec<&Rc<TableMeta>> = overlapping(lower, &upper).iter().collect();
    if upper.is_empty() || overlapped.iter().any(|table| shape.is_damaged(table)) {
        return None;
    }
    if level == 0 && overlapped.is_empty() && upper.is_sorted_by(|a, b| a.largest < b.smallest) {
        // Written in the order of the keys: there is nothing to merge.
        return Some(Plan::moving(shape.store, 0, &upper, output_level));
    }
    let mut runs: Vec<(usize, Vec<&Rc<TableMeta>>)> = match level {
        // Oldest first in level 0, newest first in a plan.
        0 => upper.into_iter().rev().map(|table| (0, vec![table])).collect(),
        _ => vec![(level, upper)],
    };
    runs.push((output_level, overlapped));
    Some(Plan::of(shape.store, runs, output_level))
}

#[cfg(test)]
mod tests {
    use super::super::pick::tests::{LIMITS, LevelsOf, numbers, shape, table};
    use super::*;

    fn targets(last: u64) -> (usize, Vec<u64>) {
        let levels: LevelsOf<5> = [vec![], vec![], vec![], vec![], vec![table(1, 0, 9, last)]];
        let targets = Targets::of(&LIMITS, &levels);
        (targets.base, targets.bytes)
    }

    #[test]
    fn targets_are_derived_from_the_last_level_upward() {
        assert_eq!(targets(0), (4, vec![0, 0, 0, 0, 100]));
        assert_eq!(targets(300), (4, vec![0, 0, 0, 0, 300]));
        assert_eq!(targets(301), (3, vec![0, 0, 0, 100, 301]));
        assert_eq!(targets(1000), (3, vec![0, 0, 0, 100, 1000]));
        assert_eq!(targets(1600), (2, vec![0, 0, 100, 400, 1600]));
        assert_eq!(targets(800_000), (1, vec![0, 100, 2000, 40_000, 800_000]), "there are no more levels");
    }

    #[test]
    fn nothing_is_due_below_the_limits() {
        let l0 = (1..4).map(|n| table(n, 0, 9, 50)).collect();
        let levels: LevelsOf<4> = [l0, vec![], vec![table(9, 0, 9, 99)], vec![table(8, 0, 9, 999)]];
        assert_eq!(plans(&shape(&levels)), []);
        assert_eq!(plans(&shape(&LevelsOf::<4>::default())), []);
    }

    #[test]
    fn level_0_goes_to_the_base_level_with_what_it_overlaps() {
        let l0 = vec![table(1, 20, 30, 10), table(2, 10, 20, 10), table(3, 22, 44, 10), table(4, 30, 31, 10)];
        let l3 = vec![table(5, 0, 9, 10), table(6, 10, 12, 10), table(7, 40, 50, 10), table(8, 51, 60, 10)];
        let levels: LevelsOf<4> = [l0, vec![], vec![], l3];
        let due = plans(&shape(&levels));
        let [(1000, plan)] = &due[..] else { panic!("{due:?}") };
        assert_eq!((plan.store, plan.output_level, plan.bytes, plan.is_move), (7, 3, 60, false));
        let runs: Vec<_> = plan.runs.iter().map(|run| (run.level, numbers(&run.tables))).collect();
        assert_eq!(runs, [(0, vec![4]), (0, vec![3]), (0, vec![2]), (0, vec![1]), (3, vec![6, 7])]);
    }

    #[test]
    fn a_plan_takes_the_oldest_of_a_long_level_0() {
        let l0 = (1..9).map(|n| table(n, 0, 9, 60)).collect();
        let levels: LevelsOf<3> = [l0, vec![], vec![]];
        let due = plans(&shape(&levels));
        let [(2000, plan)] = &due[..] else { panic!("{due:?}") };
        let runs: Vec<_> = plan.runs.iter().map(|run| numbers(&run.tables)).collect();
        assert_eq!(runs, [vec![3], vec![2], vec![1]], "as much as two base lengths");
    }

    #[test]
    fn level_0_never_passes_a_level_that_holds_something() {
        let l0 = (1..5).map(|n| table(n, 0, 9, 10)).collect();
        let levels: LevelsOf<4> = [l0, vec![table(9, 0, 9, 10)], vec![], vec![table(8, 0, 9, 50)]];
        let due = plans(&shape(&levels));
        let levels: Vec<_> = due.iter().map(|(score, plan)| (*score, plan.output_level)).collect();
        assert_eq!(levels, [(1000, 1), (1100, 3)], "what stands above the base level goes to it first");
    }

    #[test]
    fn the_cheapest_table_of_a_long_level_goes_down() {
        let l2 = vec![table(1, 0, 9, 60), table(2, 10, 19, 60)];
        let l3 = vec![table(3, 0, 4, 500), table(4, 5, 9, 100), table(5, 15, 16, 300)];
        let levels: LevelsOf<4> = [vec![], vec![], l2, l3];
        let due = plans(&shape(&levels));
        let [(1200, plan)] = &due[..] else { panic!("{due:?}") };
        assert_eq!((numbers(&plan.runs[0].tables), numbers(&plan.runs[1].tables)), (vec![2], vec![5]));
        assert!(!plan.is_move);
        let mut hurt = shape(&levels);
        let damaged = [5].into();
        hurt.damaged = &damaged;
        assert_eq!(numbers(&plans(&hurt)[0].1.runs[0].tables), [1], "what is damaged is left out");
    }

    #[test]
    fn a_table_that_overlaps_nothing_moves() {
        let l2 = vec![table(1, 0, 9, 60), table(2, 10, 19, 60)];
        let levels: LevelsOf<4> = [vec![], vec![], l2, vec![table(3, 0, 4, 900)]];
        let due = plans(&shape(&levels));
        assert_eq!((numbers(&due[0].1.runs[0].tables), due[0].1.is_move), (vec![2], true));
    }

    #[test]
    fn what_was_written_in_the_order_of_its_keys_moves() {
        let l0 = (1..5).map(|n| table(n, 10 * n, 10 * n + 9, 10)).collect();
        let levels: LevelsOf<3> = [l0, vec![], vec![table(9, 0, 9, 10)]];
        let due = plans(&shape(&levels));
        let [(1000, plan)] = &due[..] else { panic!("{due:?}") };
        assert_eq!((plan.runs.len(), plan.output_level, plan.is_move), (4, 2, true));
    }

    #[test]
    fn the_last_level_is_never_due_and_debt_is_what_stands_above_targets() {
        let levels: LevelsOf<4> = [vec![], vec![], vec![], vec![table(1, 0, 9, u64::MAX / 2)]];
        assert_eq!((plans(&shape(&levels)), debt_bytes(&shape(&levels))), (vec![], 0));
        let l0 = (1..7).map(|n| table(n, 0, 9, 1)).collect();
        let levels: LevelsOf<4> = [l0, vec![], vec![table(8, 0, 9, 250)], vec![table(9, 0, 9, 900)]];
        assert_eq!(debt_bytes(&shape(&levels)), 6 + 150);
    }
}
