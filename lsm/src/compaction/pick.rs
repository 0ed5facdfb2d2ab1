//! The picker: scores, and the tables of the plan with the highest.

use std::cmp::Ordering;
use std::rc::Rc;

use crate::{TableMeta, TableName};

/// Lengths at which levels are compacted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) l0_tables: usize,
    pub(crate) level_base_bytes: u64,
    pub(crate) level_fanout: u64,
}

impl Limits {
    /// The length that level `level` ≥ 1 should not pass, in bytes.
    fn level_bytes(&self, level: usize) -> u64 {
        (1..level).fold(self.level_base_bytes, |bytes, _| bytes.saturating_mul(self.level_fanout)).max(1)
    }
}

/// A store's tables by level; in level 0 oldest first, elsewhere by key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StoreShape<'a> {
    pub(crate) store: u16,
    pub(crate) levels: &'a [Vec<Rc<TableMeta>>],
}

/// A compaction to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) store: u16,
    /// Where `upper` stands; `lower` stands one below, and so will the output.
    pub(crate) level: usize,
    /// The tables to merge down; in level 0 oldest first.
    pub(crate) upper: Vec<TableName>,
    /// The tables they overlap, by key.
    pub(crate) lower: Vec<TableName>,
    /// Nothing is to be merged: the only table of `upper` changes its level.
    pub(crate) is_move: bool,
    /// No table below the output can hold a key of the merge.
    pub(crate) is_bottom: bool,
    pub(crate) bytes: u64,
}

/// A score of a level, in thousandths: 1,000 and more asks for a compaction.
fn score(limits: &Limits, level: usize, tables: &[Rc<TableMeta>]) -> u64 {
    if level == 0 {
        return tables.len() as u64 * 1000 / limits.l0_tables.max(1) as u64;
    }
    let bytes: u64 = tables.iter().map(|table| table.bytes).sum();
    (u128::from(bytes) * 1000 / u128::from(limits.level_bytes(level))) as u64
}

/// Bytes that stand above their limits in a store: what compaction is behind by.
pub(crate) fn debt_bytes(limits: &Limits, shape: StoreShape<'_>) -> u64 {
    let mut debt = 0;
    for (level, tables) in shape.levels.iter().enumerate() {
        let bytes: u64 = tables.iter().map(|table| table.bytes).sum();
        debt += match level {
            0 if tables.len() < limits.l0_tables => 0,
            0 => bytes,
            _ if level + 1 == shape.levels.len() => 0,
            _ => bytes.saturating_sub(limits.level_bytes(level)),
        };
    }
    debt
}

/// The next compaction among all stores of a core, if any level is due.
pub(crate) fn pick<'a>(limits: &Limits, shapes: impl Iterator<Item = StoreShape<'a>>) -> Option<Plan> {
    let mut best: Option<(u64, StoreShape<'a>, usize)> = None;
    for shape in shapes {
        // The last level has nowhere to go.
        for (level, tables) in shape.levels[..shape.levels.len() - 1].iter().enumerate() {
            let score = score(limits, level, tables);
            if score >= 1000 && best.is_none_or(|(highest, _, _)| score > highest) {
                best = Some((score, shape, level));
            }
        }
    }
    let (_, shape, level) = best?;
    Some(plan(shape, level))
}

fn plan(shape: StoreShape<'_>, level: usize) -> Plan {
    let upper_level = &shape.levels[level];
    let lower_level = &shape.levels[level + 1];
    let upper: Vec<&Rc<TableMeta>> = if level == 0 {
        upper_level.iter().collect()
    } else {
        let cost = |table: &TableMeta| {
            let rewritten: u64 = overlapping(lower_level, table, table).map(|lower| lower.bytes).sum();
            u128::from(rewritten) * 1000 / u128::from(table.bytes.max(1))
        };
        upper_level.iter().min_by_key(|table| cost(table)).into_iter().collect()
    };
    let smallest = upper.iter().copied().min_by(|a, b| a.smallest.cmp(&b.smallest));
    let largest = upper.iter().copied().max_by(|a, b| a.largest.cmp(&b.largest));
    let (smallest, largest) = smallest.zip(largest).expect("a level that is due has tables");
    let lower: Vec<&Rc<TableMeta>> = overlapping(lower_level, smallest, largest).collect();
    let is_bottom = shape.levels[level + 2..].iter().all(|tables| tables.is_empty());
    Plan {
        store: shape.store,
        level,
        is_move: upper.len() == 1 && lower.is_empty(),
        is_bottom,
        bytes: upper.iter().chain(&lower).map(|table| table.bytes).sum(),
        upper: upper.iter().map(|table| table.name).collect(),
        lower: lower.iter().map(|table| table.name).collect(),
    }
}

/// The tables of a sorted level that overlap the range from the first key of `from` to the last of `to`.
fn overlapping<'a>(
    level: &'a [Rc<TableMeta>],
    from: &TableMeta,
    to: &TableMeta,
) -> impl Iterator<Item = &'a Rc<TableMeta>> {
    let start = level.partition_point(|table| table.largest.cmp(&from.smallest) == Ordering::Less);
    let end = level.partition_point(|table| table.smallest.cmp(&to.largest) != Ordering::Greater);
    level.get(start..end).unwrap_or_default().iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FileId, KeyBuf, Prefix};

    const LIMITS: Limits = Limits { l0_tables: 4, level_base_bytes: 100, level_fanout: 10 };

    fn table(number: u64, from: u64, to: u64, bytes: u64) -> Rc<TableMeta> {
        let key = |token| KeyBuf {
            prefix: Prefix { space: 1, vnode: 0, table: 0, token },
            partition: Box::default(),
            sort: Box::default(),
        };
        Rc::new(TableMeta {
            name: TableName { store: 7, number },
            bytes,
            file_id: FileId(0),
            blocks: 1,
            entries: 1,
            tombstones: 0,
            raw_bytes: bytes,
            min_order: 0,
            max_order: 0,
            max_seq: 0,
            token_seed: None,
            smallest: key(from),
            largest: key(to),
        })
    }

    fn numbers(tables: &[TableName]) -> Vec<u64> {
        tables.iter().map(|table| table.number).collect()
    }

    fn choose(levels: [Vec<Rc<TableMeta>>; 4]) -> Option<Plan> {
        pick(&LIMITS, [StoreShape { store: 7, levels: &levels }].into_iter())
    }

    #[test]
    fn nothing_is_due_below_the_limits() {
        let l0 = (1..4).map(|n| table(n, 0, 9, 50)).collect();
        assert_eq!(choose([l0, vec![table(9, 0, 9, 99)], vec![table(8, 0, 9, 999)], vec![]]), None);
        assert_eq!(choose(Default::default()), None);
    }

    #[test]
    fn level_0_goes_down_whole_with_what_it_overlaps() {
        let l0 = vec![table(1, 20, 30, 10), table(2, 10, 20, 10), table(3, 22, 44, 10), table(4, 30, 31, 10)];
        let l1 = vec![table(5, 0, 9, 10), table(6, 10, 12, 10), table(7, 40, 50, 10), table(8, 51, 60, 10)];
        let plan = choose([l0, l1, vec![], vec![]]).expect("level 0 is due");
        assert_eq!((plan.store, plan.level, plan.bytes), (7, 0, 60));
        assert_eq!((numbers(&plan.upper), numbers(&plan.lower)), (vec![1, 2, 3, 4], vec![6, 7]));
        assert!(!plan.is_move && plan.is_bottom);
    }

    #[test]
    fn the_cheapest_table_of_a_long_level_goes_down() {
        let l1 = vec![table(1, 0, 9, 60), table(2, 10, 19, 60)];
        let l2 = vec![table(3, 0, 4, 500), table(4, 5, 9, 100), table(5, 15, 16, 300)];
        let plan = choose([vec![], l1, l2, vec![table(6, 90, 99, 1)]]).expect("level 1 is due");
        assert_eq!((plan.level, numbers(&plan.upper), numbers(&plan.lower)), (1, vec![2], vec![5]));
        assert!(!plan.is_move && !plan.is_bottom);
    }

    #[test]
    fn a_table_that_overlaps_nothing_moves() {
        let l1 = vec![table(1, 0, 9, 60), table(2, 10, 19, 60)];
        let l2 = vec![table(3, 0, 4, 100)];
        let plan = choose([vec![], l1, l2, vec![]]).expect("level 1 is due");
        assert_eq!((numbers(&plan.upper), plan.is_move), (vec![2], true));
    }

    #[test]
    fn the_last_level_is_never_due_and_the_neediest_store_goes_first() {
        let deep = [vec![], vec![], vec![], vec![table(1, 0, 9, u64::MAX / 2)]];
        assert_eq!(choose(deep), None);
        let some: [Vec<Rc<TableMeta>>; 4] =
            [(1..5).map(|n| table(n, 0, 9, 1)).collect(), vec![], vec![], vec![]];
        let more: [Vec<Rc<TableMeta>>; 4] =
            [(1..7).map(|n| table(n, 0, 9, 1)).collect(), vec![], vec![], vec![]];
        let shapes = [StoreShape { store: 1, levels: &some }, StoreShape { store: 2, levels: &more }];
        assert_eq!(pick(&LIMITS, shapes.into_iter()).map(|plan| plan.store), Some(2));
        assert_eq!(debt_bytes(&LIMITS, shapes[1]), 6);
    }
}
