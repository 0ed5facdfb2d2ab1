//! A store's tables, in the order in which reads ask them. Never changed: a flush or compaction puts a new one in its place.

use std::rc::Rc;

use super::quarantine::whole_area;
use crate::manifest::{Area, Drops, LEVELS, StoreEntry, hides};
use crate::planted::{self, Bug};
use crate::table::{Table, TableMeta};
use crate::{Direction, Disk, DiskError, DiskErrorKind, Key, KeyRange, Prefix, ReadError};

/// See the module.
pub(super) struct Levels<D: Disk> {
    /// Newest first.
    l0: Vec<Rc<Table<D>>>,
    /// Levels 1 and on, down to the last that has tables.
    runs: Vec<Run<D>>,
    /// What cannot be asked for.
    holes: Vec<Hole>,
    /// What was dropped and is still there.
    drops: Drops,
}

/// Keys of which no table that can be asked says what there is.
#[derive(Clone)]
pub(super) struct Hole {
    pub(super) area: Rc<Area>,
    /// The table is there and could not be opened, since the device failed; else it is gone, and the area lost with it.
    is_unreadable: bool,
}

impl Hole {
    /// What whoever asks for a key in it is told.
    pub(super) fn error(&self) -> ReadError {
        let file = self.area.table.file();
        match self.is_unreadable {
            true => DiskError { kind: DiskErrorKind::Io, operation: "open", name: Some(file) }.into(),
            false => ReadError::Quarantined(file),
        }
    }
}

/// A level whose tables are disjoint, by key.
struct Run<D: Disk> {
    /// The last prefix of each table, as an integer.
    ends: Vec<u128>,
    tables: Vec<Rc<Table<D>>>,
}

impl<D: Disk> Levels<D> {
    /// The levels that the manifest names; `find` finds a table among the open ones, which all are but for those that could not be
    /// opened: they are holes.
    pub(super) fn of(
        entry: &StoreEntry,
        mut find: impl FnMut(&TableMeta) -> Option<Rc<Table<D>>>,
    ) -> Levels<D> {
        let lost = entry.holes().map(|area| Hole { area: Rc::clone(area), is_unreadable: false });
        let mut holes: Vec<Hole> = lost.collect();
        let mut open = |meta: &Rc<TableMeta>| {
            let table = find(meta);
            if table.is_none() {
                let parts = shown_of(entry, meta).into_iter();
                holes.extend(parts.map(|area| Hole { area, is_unreadable: true }));
            }
            table
        };
        let l0 = entry.levels[0].iter().rev().filter_map(&mut open).collect();
        let depth = (0..LEVELS).rev().find(|&level| !entry.levels[level].is_empty()).unwrap_or(0);
        let mut runs = Vec::new();
        for tables in &entry.levels[1..=depth.max(1)] {
            let tables: Vec<Rc<Table<D>>> = tables.iter().filter_map(&mut open).collect();
            if !tables.is_empty() {
                let ends = tables.iter().map(|table| table.meta().largest.prefix.to_u128()).collect();
                runs.push(Run { ends, tables });
            }
        }
        Levels { l0, runs, holes, drops: entry.drops.clone() }
    }

    /// Tables whose key range may hold the key, in the order in which they are asked.
    #[inline]
    pub(super) fn candidates<'a>(&'a self, key: &'a Key<'_>) -> impl Iterator<Item = &'a Rc<Table<D>>> {
        let prefix = key.prefix.to_u128();
        let tables = self.l0.iter().chain(self.runs.iter().filter_map(move |run| run.find(prefix, key)));
        tables.filter(|table| self.shows(table, key.prefix))
    }

    /// Whether records with this prefix in a table count: they were not dropped.
    #[inline]
    pub(super) fn shows(&self, table: &Table<D>, prefix: Prefix) -> bool {
        self.drops.is_empty() || {
            let number = table.number();
            !hides(&self.drops, prefix, |dropped| dropped.tables.binary_search(&number).is_ok())
        }
    }

    /// Whether records with this prefix in a memtable that was frozen at `through` count.
    #[inline]
    pub(super) fn shows_frozen(&self, through: u64, prefix: Prefix) -> bool {
        self.drops.is_empty() || !hides(&self.drops, prefix, |dropped| through <= dropped.seq)
    }

    /// The part of `range`, at the end from which `direction` goes, that was dropped as a whole or not at all.
    pub(super) fn piece(&self, range: &KeyRange, direction: Direction) -> KeyRange {
        let mut piece = range.clone();
        for extent in self.drops.keys() {
            let dropped = extent.range();
            for bound in [dropped.low().to_buf(), dropped.high().to_buf()] {
                let bound = bound.as_key();
                if piece.low() < bound && bound < piece.high() {
                    piece = match direction {
                        Direction::Forward => piece.before(&bound),
                        Direction::Reverse => piece.from(&bound),
                    };
                }
            }
        }
        piece
    }

    /// All tables.
    pub(super) fn tables(&self) -> impl Iterator<Item = &Rc<Table<D>>> {
        self.l0.iter().chain(self.runs.iter().flat_map(|run| &run.tables))
    }

    /// The sorted runs that may hold a key of `range`, newest first, each as its tables by key: every table of level 0 alone,
    /// then the levels.
    pub(super) fn runs_in<'a>(&'a self, range: &'a KeyRange) -> impl Iterator<Item = &'a [Rc<Table<D>>]> {
        let may_hold = |table: &Table<D>| {
            table.meta().smallest.as_key() < range.high() && table.meta().largest.as_key() >= range.low()
        };
        let l0 = self.l0.iter().filter(move |table| may_hold(table)).map(std::slice::from_ref);
        let runs = self.runs.iter().map(move |run| {
            let from = run.tables.partition_point(|table| table.meta().largest.as_key() < range.low());
            let to = run.tables.partition_point(|table| table.meta().smallest.as_key() < range.high());
            run.tables.get(from..to).unwrap_or_default()
        });
        l0.chain(runs.filter(|run| !run.is_empty()))
    }

    pub(super) fn l0_tables(&self) -> usize {
        self.l0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.l0.is_empty() && self.runs.is_empty() && self.holes.is_empty()
    }

    /// What cannot be asked for.
    pub(super) fn holes(&self) -> &[Hole] {
        &self.holes
    }

    /// Of the holes in which the key may be, the one that may hold the newest version of it. Only a record above the `order_max` of
    /// its area is an answer.
    #[inline]
    pub(super) fn lost(&self, key: &Key<'_>) -> Option<&Hole> {
        if self.holes.is_empty() { None } else { self.find_lost(key) }
    }

    #[cold]
    fn find_lost(&self, key: &Key<'_>) -> Option<&Hole> {
        if planted::active(Bug::HoleIgnored) {
            return None;
        }
        self.holes.iter().filter(|hole| hole.area.contains(key)).max_by_key(|hole| hole.area.order_max)
    }

    /// The first hole, in this direction, in which a key of `range` may be.
    pub(super) fn first_lost(&self, range: &KeyRange, direction: Direction) -> Option<Hole> {
        let inside = |hole: &&Hole| hole.area.meets(range);
        let holes = self.holes.iter().filter(inside);
        match direction {
            Direction::Forward => holes.min_by(|a, b| a.area.low.cmp(&b.area.low)).cloned(),
            Direction::Reverse => holes.max_by(|a, b| a.area.high.cmp(&b.area.high)).cloned(),
        }
    }
}

/// The keys of a table without those that were dropped of it.
fn shown_of(entry: &StoreEntry, table: &TableMeta) -> Vec<Rc<Area>> {
    let mut parts = vec![Rc::new(whole_area(table))];
    for (extent, dropped) in entry.drops.iter() {
        if dropped.tables.binary_search(&table.name.number).is_ok() {
            let range = extent.range();
            parts = parts.into_iter().flat_map(|area| area.without(&range)).collect();
        }
    }
    parts
}

impl<D: Disk> Run<D> {
    #[inline]
    fn find(&self, prefix: u128, key: &Key<'_>) -> Option<&Rc<Table<D>>> {
        let mut at = self.ends.partition_point(|end| *end < prefix);
        // Only tables that end with this very prefix are told apart by the rest of the key.
        while *self.ends.get(at)? == prefix && self.tables[at].meta().largest.as_key() < *key {
            at += 1;
        }
        self.tables.get(at)
    }
}
