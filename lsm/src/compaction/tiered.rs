//! Size-tiered compaction: runs of about one length are merged into one of the next (the strategy of Cassandra's first
//! compaction, after the log-structured merge-tree's analysis by Dayan et al., "Monkey", SIGMOD 2017: each record is
//! rewritten once for each power of the width).
//!
//! Levels 1 and on are slots for runs. Level 0 is merged into the free slot above the newest run; neighbours of about
//! one length are merged into the slot of the oldest of them. Where the first slot is taken, runs are moved down to
//! make room, which rewrites nothing; where every slot is taken, the shortest pair of neighbours is merged.
//!
//! Bounds: a merge takes whole runs, so it may be as long as the store, and is abandoned rather than waited for. A store has
//! at most `width` − 1 runs of each length, and takes at most about `width` times the space of its live data.

use std::rc::Rc;

use super::pick::StoreShape;
use super::plan::{Plan, bytes};
use crate::TableMeta;

/// A sorted run of the store: its level, and its tables.
type SortedRun<'a> = (usize, Vec<&'a Rc<TableMeta>>);

/// A run joins its newer neighbours if it is at most so many times as long as they are on average.
const SIMILAR_FACTOR: u64 = 2;

/// What is due in a store, with its score in thousandths.
pub(super) fn plans(shape: &StoreShape<'_>) -> Vec<(u64, Plan)> {
    let runs = runs(shape);
    let l0_tables = shape.levels[0].len();
    let width = shape.limits.l0_tables.max(2);
    let mut due = Vec::new();
    if l0_tables + 1 >= width
        && let Some(plan) = make_room(shape)
    {
        // Before level 0 is due: else it would be merged with the run in the first slot, whatever its length.
        due.push((u64::MAX, plan));
        return due;
    }
    for start in 0..runs.len() {
        // Level 0 goes with its oldest tables or not at all: what it leaves must be newer than what goes.
        let end = similar(&runs, start).max(if start < l0_tables { l0_tables } else { 0 });
        if end - start < width {
            continue;
        }
        let window = &runs[start..end];
        let score = (window.len() * 1000 / width) as u64;
        if window.iter().flat_map(|(_, tables)| tables).all(|table| !shape.is_damaged(table)) {
            due.push((score, Plan::of(shape.store, window.iter().cloned(), slot(shape, window))));
        }
    }
    due
}

/// Bytes of what is due.
pub(super) fn debt_bytes(shape: &StoreShape<'_>) -> u64 {
    plans(shape).iter().filter(|(_, plan)| !plan.is_move).map(|(_, plan)| plan.bytes).max().unwrap_or(0)
}

/// Every run, newest first.
fn runs<'a>(shape: &StoreShape<'a>) -> Vec<SortedRun<'a>> {
    let l0 = shape.levels[0].iter().rev().map(|table| (0, vec![table]));
    let sorted = shape.levels.iter().enumerate().skip(1).filter(|(_, tables)| !tables.is_empty());
    l0.chain(sorted.map(|(level, tables)| (level, tables.iter().collect()))).collect()
}

fn run_bytes(run: &SortedRun<'_>) -> u64 {
    run.1.iter().map(|table| table.bytes).sum()
}

/// The end of the runs from `start` on that are of about one length. A shorter older one always joins: it costs little.
fn similar(runs: &[SortedRun<'_>], start: usize) -> usize {
    let mut sum = run_bytes(&runs[start]);
    let mut end = start + 1;
    while end < runs.len() {
        let next = run_bytes(&runs[end]);
        if next > SIMILAR_FACTOR * sum / (end - start) as u64 {
            break;
        }
        sum += next;
        end += 1;
    }
    end
}

/// Where the output of a merge of `window` stands.
fn slot(shape: &StoreShape<'_>, window: &[SortedRun<'_>]) -> usize {
    let oldest = window.last().map_or(0, |(level, _)| *level);
    if oldest > 0 {
        return oldest;
    }
    let taken = (1..shape.levels.len()).find(|&level| !shape.levels[level].is_empty());
    taken.unwrap_or(shape.levels.len()) - 1
}

/// Frees the first slot, if it is taken: by a move where some slot is free, else by a merge of the shortest pair.
fn make_room(shape: &StoreShape<'_>) -> Option<Plan> {
    let levels = shape.levels;
    if levels[1].is_empty() {
        return None;
    }
    let run = |level: usize| (level, levels[level].iter().collect::<Vec<_>>());
    if let Some(free) = (2..levels.len()).find(|&level| levels[level].is_empty()) {
        return Some(Plan::of(shape.store, [run(free - 1)], free));
    }
    let sound = |level: usize| levels[level].iter().all(|table| !shape.is_damaged(table));
    let pairs = (1..levels.len() - 1).filter(|&level| sound(level) && sound(level + 1));
    let shortest = pairs.min_by_key(|&level| bytes(&levels[level]) + bytes(&levels[level + 1]))?;
    Some(Plan::of(shape.store, [run(shortest), run(shortest + 1)], shortest + 1))
}

#[cfg(test)]
mod tests {
    use super::super::pick::tests::{LevelsOf, shape, table};
    use super::*;

    fn due(levels: &[Vec<Rc<TableMeta>>]) -> Vec<(u64, Vec<usize>, usize, bool)> {
        let plans = plans(&shape(levels));
        let levels = |plan: &Plan| plan.runs.iter().map(|run| run.level).collect();
        plans.iter().map(|(score, plan)| (*score, levels(plan), plan.output_level, plan.is_move)).collect()
    }

    fn l0(tables: u64, bytes: u64) -> Vec<Rc<TableMeta>> {
        (1..=tables).map(|number| table(number, 0, 9, bytes)).collect()
    }

    fn run(number: u64, bytes: u64) -> Vec<Rc<TableMeta>> {
        vec![table(number, 0, 9, bytes)]
    }

    #[test]
    fn level_0_becomes_a_run_above_the_newest_one() {
        let levels: LevelsOf<5> = [l0(4, 10), vec![], vec![], vec![], vec![]];
        assert_eq!(due(&levels), [(1000, vec![0, 0, 0, 0], 4, false)]);
        let levels: LevelsOf<5> = [l0(5, 10), vec![], vec![], run(11, 40), vec![]];
        assert_eq!(due(&levels)[0], (1250, vec![0, 0, 0, 0, 0], 2, false), "the longer run is left alone");
    }

    #[test]
    fn runs_of_one_length_become_one() {
        let levels: LevelsOf<7> =
            [l0(1, 10), vec![], run(11, 40), run(12, 50), run(13, 45), run(14, 40), run(15, 300)];
        assert_eq!(due(&levels), [(1000, vec![2, 3, 4, 5], 5, false)]);
    }

    #[test]
    fn a_taken_first_slot_is_freed_by_moves_and_at_last_by_a_merge() {
        let levels: LevelsOf<5> = [l0(3, 10), run(11, 400), run(12, 900), vec![], run(13, 9000)];
        assert_eq!(due(&levels), [(u64::MAX, vec![2], 3, true)]);
        let levels: LevelsOf<5> = [l0(3, 10), run(11, 400), vec![], run(12, 900), run(13, 9000)];
        assert_eq!(due(&levels), [(u64::MAX, vec![1], 2, true)]);
        let levels: LevelsOf<5> = [l0(3, 10), run(11, 400), run(12, 900), run(13, 2000), run(14, 9000)];
        assert_eq!(due(&levels), [(u64::MAX, vec![1, 2], 2, false)]);
    }
}
