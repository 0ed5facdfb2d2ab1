//! Tables that are due for what is dead in them, whatever the length of their level.
//!
//! Nothing pushes the tables of a store down that is not written to any more, and the last level is never due: its expired
//! records and settled tombstones would stay for ever. A sorted level's table is due by itself when
//!
//! - at least half of its records expire, and half of those have expired: they are buried, or go; or
//! - at least half of its records are tombstones, and the floors are above all its versions; or
//! - its file could not be opened again: it is written anew while its index is in memory; or
//! - most of it was retired by the host: what is left is written anew; or
//! - it points into a value file that is mostly garbage: the merge writes those values anew, so that the file can go.
//!
//! It is merged with what it overlaps in the next run, so that what it hides goes too, and at the bottom rewritten where it
//! stands. What that writes is marked, and not rewritten for its tombstones again: one that some other source holds in place
//! goes with that one. Expired records need no mark: what is rewritten has not expired.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::floor::Floors;
use super::leveled;
use super::pick::StoreShape;
use super::plan::{Plan, overlapping};
use crate::TableMeta;

/// The compaction of a table that is mostly garbage, if there is one. `rewritten` are tables that were written so.
pub(super) fn plan(shape: &StoreShape<'_>, floors: &Floors, rewritten: &BTreeSet<u64>) -> Option<Plan> {
    // Only space 0 is retired, and only a few tables of level 0 hold any: they go down together, in their order.
    let retired = shape.levels[0].iter().filter(|table| shape.frail.contains(&table.name.number)).count();
    if retired > 0
        && retired * 2 >= shape.levels[0].len()
        && let Some(plan) = leveled::of_level_0(shape)
    {
        return Some(plan);
    }
    for (level, tables) in shape.levels.iter().enumerate().skip(1) {
        for table in tables.iter().filter(|table| !shape.is_damaged(table)) {
            let is_old = shape.frail.contains(&table.name.number)
                || is_expired(table, floors)
                || is_deleted(table, floors, rewritten)
                || table.values.iter().any(|share| shape.wasteful.contains(&share.file));
            if is_old && let Some(plan) = downward(shape, level, table) {
                return Some(plan);
            }
        }
    }
    None
}

/// When the next table of the store is due for its expired records, in milliseconds since the Unix epoch.
pub(crate) fn due_ms(shape: &StoreShape<'_>) -> Option<u64> {
    let sorted = shape.levels.iter().skip(1).flatten();
    sorted.filter(|table| expires(table)).map(|table| table.expiry_median_ms).min()
}

fn expires(table: &TableMeta) -> bool {
    table.expiring > 0 && table.expiring * 2 >= table.entries
}

fn is_expired(table: &TableMeta, floors: &Floors) -> bool {
    expires(table) && table.expiry_median_ms <= floors.passed_ms()
}

fn is_deleted(table: &TableMeta, floors: &Floors, rewritten: &BTreeSet<u64>) -> bool {
    table.tombstones > 0
        && table.tombstones * 2 >= table.entries
        && floors.covers(table)
        && !rewritten.contains(&table.name.number)
}

fn downward(shape: &StoreShape<'_>, level: usize, table: &Rc<TableMeta>) -> Option<Plan> {
    let below = (level + 1..shape.levels.len()).find(|&below| !shape.levels[below].is_empty());
    let overlapped = below.map_or(&[][..], |below| overlapping(&shape.levels[below], &[table]));
    if overlapped.iter().any(|table| shape.is_damaged(table)) {
        return None;
    }
    // Where it overlaps nothing it stays at its level: a move would leave its garbage.
    let output_level = below.filter(|_| !overlapped.is_empty()).unwrap_or(level);
    let runs = [(level, vec![table]), (output_level, overlapped.iter().collect())];
    let mut plan = Plan::of(shape.store, runs, output_level);
    plan.is_for_garbage = true;
    Some(plan)
}

#[cfg(test)]
mod tests {
    use super::super::pick::tests::{LevelsOf, numbers, shape, table};
    use super::*;

    fn with(number: u64, from: u64, to: u64, change: impl FnOnce(&mut TableMeta)) -> Rc<TableMeta> {
        let mut meta = TableMeta::clone(&table(number, from, to, 100));
        meta.entries = 10;
        change(&mut meta);
        Rc::new(meta)
    }

    #[test]
    fn expired_tables_are_due_when_half_has_passed() {
        let expiring = with(1, 0, 9, |meta| (meta.expiring, meta.expiry_median_ms) = (5, 100));
        let levels: LevelsOf<4> =
            [vec![], vec![expiring], vec![], vec![table(2, 0, 4, 9), table(3, 10, 12, 9)]];
        let mut floors = Floors::default();
        assert_eq!(due_ms(&shape(&levels)), Some(100));
        floors.pass(99);
        assert_eq!(plan(&shape(&levels), &floors, &BTreeSet::new()), None);
        floors.pass(100);
        let plan = plan(&shape(&levels), &floors, &BTreeSet::new()).expect("it is due");
        assert_eq!((plan.output_level, plan.is_move), (3, false));
        assert_eq!((numbers(&plan.runs[0].tables), numbers(&plan.runs[1].tables)), (vec![1], vec![2]));
    }

    #[test]
    fn settled_tombstones_are_due_once() {
        let deleted = with(1, 0, 9, |meta| (meta.tombstones, meta.max_order) = (5, 70));
        let levels: LevelsOf<4> = [vec![], vec![], vec![deleted], vec![table(3, 10, 12, 9)]];
        let mut floors = Floors::default();
        floors.raise(0, 0, 69);
        assert_eq!(plan(&shape(&levels), &floors, &BTreeSet::new()), None);
        floors.raise(0, 0, 70);
        let due = plan(&shape(&levels), &floors, &BTreeSet::new()).expect("it is due");
        assert_eq!(
            (due.output_level, due.runs.len(), due.is_move),
            (2, 1, false),
            "it is rewritten in place"
        );
        assert_eq!(plan(&shape(&levels), &floors, &[1].into()), None, "not again");
    }
}
