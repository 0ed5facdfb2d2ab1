//! The picker: of everything that is due in the stores of a core, what has the highest score.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::floor::Floors;
use super::plan::Plan;
use super::{Strategy, garbage, leveled, tiered};
use crate::TableMeta;

/// Lengths at which levels are compacted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Tables of level 0, and with [`Strategy::Tiered`] runs of about one length, from which they are merged.
    pub(crate) l0_tables: usize,
    pub(crate) level_base_bytes: u64,
    pub(crate) level_fanout: u64,
}

impl Limits {
    /// Most bytes of level 0 that one plan takes, unless one table is longer.
    pub(super) fn l0_bytes_max(&self) -> u64 {
        self.level_base_bytes.saturating_mul(2)
    }
}

/// A store's tables by level; in level 0 oldest first, elsewhere by key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StoreShape<'a> {
    pub(crate) store: u16,
    pub(crate) strategy: Strategy,
    pub(crate) limits: Limits,
    pub(crate) levels: &'a [Vec<Rc<TableMeta>>],
    /// Numbers of tables that cannot be read: no plan takes one.
    pub(crate) damaged: &'a BTreeSet<u64>,
    /// Numbers of value files that are mostly garbage.
    pub(crate) wasteful: &'a BTreeSet<u64>,
    /// Numbers of tables to be written anew: they could not be opened again and are open still, or are mostly retired records.
    pub(crate) frail: &'a BTreeSet<u64>,
}

impl StoreShape<'_> {
    pub(super) fn is_damaged(&self, table: &TableMeta) -> bool {
        self.damaged.contains(&table.name.number)
    }
}

/// Bytes that a store's compactions are behind by.
pub(crate) fn debt_bytes(shape: &StoreShape<'_>) -> u64 {
    match shape.strategy {
        Strategy::Leveled => leveled::debt_bytes(shape),
        Strategy::Tiered => tiered::debt_bytes(shape),
    }
}

/// The highest score of a sorted level, in thousandths: how far merging down is behind. With [`Strategy::Tiered`] only level 0 waits.
pub(crate) fn level_score(shape: &StoreShape<'_>) -> u64 {
    match shape.strategy {
        Strategy::Leveled => leveled::worst_score(shape),
        Strategy::Tiered => 0,
    }
}

/// The next compaction among all stores of a core, if any is due. Lengths come first, garbage after them.
pub(crate) fn pick<'a>(
    shapes: impl Iterator<Item = StoreShape<'a>> + Clone,
    floors: &Floors,
    rewritten: &BTreeSet<u64>,
) -> Option<Plan> {
    let due = shapes.clone().flat_map(|shape| match shape.strategy {
        Strategy::Leveled => leveled::plans(&shape),
        Strategy::Tiered => tiered::plans(&shape),
    });
    // Of equal scores the first, so that the choice does not depend on how they are gathered.
    let highest = due.reduce(|best, next| if next.0 > best.0 { next } else { best });
    let mut shapes = shapes;
    highest
        .map(|(_, plan)| plan)
        .or_else(|| shapes.find_map(|shape| garbage::plan(&shape, floors, rewritten)))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{FileId, KeyBuf, Prefix, TableName};

    pub(in super::super) const LIMITS: Limits =
        Limits { l0_tables: 4, level_base_bytes: 100, level_fanout: 10 };

    pub(in super::super) type LevelsOf<const N: usize> = [Vec<Rc<TableMeta>>; N];

    static NONE_DAMAGED: BTreeSet<u64> = BTreeSet::new();

    pub(in super::super) fn shape(levels: &[Vec<Rc<TableMeta>>]) -> StoreShape<'_> {
        StoreShape {
            store: 7,
            strategy: Strategy::Leveled,
            limits: LIMITS,
            levels,
            damaged: &NONE_DAMAGED,
            wasteful: &NONE_DAMAGED,
            frail: &NONE_DAMAGED,
        }
    }

    pub(in super::super) fn table(number: u64, from: u64, to: u64, bytes: u64) -> Rc<TableMeta> {
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
            expiring: 0,
            expiry_median_ms: 0,
            raw_bytes: bytes,
            min_order: 0,
            max_order: 0,
            max_seq: 0,
            token_seed: None,
            smallest: key(from),
            largest: key(to),
            values: Vec::new(),
        })
    }

    pub(in super::super) fn numbers(tables: &[TableName]) -> Vec<u64> {
        tables.iter().map(|table| table.number).collect()
    }

    #[test]
    fn the_neediest_store_goes_first_whatever_its_strategy() {
        let l0 = |tables: u64| (1..=tables).map(|n| table(n, 0, 9, 1)).collect::<Vec<_>>();
        let some: LevelsOf<4> = [l0(4), vec![], vec![], vec![]];
        let more: LevelsOf<4> = [l0(6), vec![], vec![], vec![]];
        for (strategy, expected) in [(Strategy::Leveled, 2), (Strategy::Tiered, 2)] {
            let shapes =
                [StoreShape { store: 1, ..shape(&some) }, StoreShape { store: 2, strategy, ..shape(&more) }];
            let plan = pick(shapes.iter().copied(), &Floors::default(), &BTreeSet::new());
            assert_eq!(plan.map(|plan| plan.store), Some(expected));
            assert_eq!(debt_bytes(&shapes[1]), 6);
        }
    }
}
