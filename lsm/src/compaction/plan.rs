//! What one compaction takes and where it puts what it makes.

use std::cmp::Ordering;
use std::rc::Rc;

use crate::{TableMeta, TableName};

/// Tables of one sorted run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// Where they stand.
    pub(crate) level: usize,
    /// By key; one alone in level 0, where each is a run.
    pub(crate) tables: Vec<TableName>,
}

/// A compaction to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) store: u16,
    /// What to merge, newest first: neighbours in the order in which reads ask.
    pub(crate) runs: Vec<Run>,
    /// Where the output will stand.
    pub(crate) output_level: usize,
    /// Nothing is to be merged: the tables, which are disjoint, change their level.
    pub(crate) is_move: bool,
    /// It is due for what is dead in its tables, not for their length.
    pub(crate) is_for_garbage: bool,
    /// Length of all inputs.
    pub(crate) bytes: u64,
}

impl Plan {
    /// A plan over tables of runs, newest first. Runs without tables are left out.
    pub(super) fn of<'a>(
        store: u16,
        runs: impl IntoIterator<Item = (usize, Vec<&'a Rc<TableMeta>>)>,
        output_level: usize,
    ) -> Plan {
        let mut plan =
            Plan { store, runs: Vec::new(), output_level, is_move: false, is_for_garbage: false, bytes: 0 };
        for (level, tables) in runs {
            if tables.is_empty() {
                continue;
            }
            plan.bytes += tables.iter().map(|table| table.bytes).sum::<u64>();
            plan.runs.push(Run { level, tables: tables.iter().map(|table| table.name).collect() });
        }
        plan.is_move = plan.runs.len() == 1 && plan.runs[0].level != output_level;
        plan
    }

    /// A plan that changes the level of disjoint tables.
    pub(super) fn moving(store: u16, level: usize, tables: &[&Rc<TableMeta>], output_level: usize) -> Plan {
        let plan = Plan::of(store, tables.iter().map(|&table| (level, vec![table])), output_level);
        Plan { is_move: true, ..plan }
    }

    /// Every input.
    pub(crate) fn inputs(&self) -> impl Iterator<Item = TableName> {
        self.runs.iter().flat_map(|run| run.tables.iter().copied())
    }
}

/// The tables of a sorted level that overlap the range that `tables` span.
pub(super) fn overlapping<'a>(level: &'a [Rc<TableMeta>], tables: &[&Rc<TableMeta>]) -> &'a [Rc<TableMeta>] {
    let smallest = tables.iter().map(|table| &table.smallest).min();
    let largest = tables.iter().map(|table| &table.largest).max();
    let Some((smallest, largest)) = smallest.zip(largest) else { return &[] };
    let start = level.partition_point(|table| table.largest.cmp(smallest) == Ordering::Less);
    let end = level.partition_point(|table| table.smallest.cmp(largest) != Ordering::Greater);
    level.get(start..end).unwrap_or_default()
}

/// Length of tables.
pub(super) fn bytes(tables: &[Rc<TableMeta>]) -> u64 {
    tables.iter().map(|table| table.bytes).sum()
}
