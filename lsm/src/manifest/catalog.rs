//! What the manifest says: the stores of a core, their tables, and which vnode lives where.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::area::{Area, Areas};
use super::dropped::{Dropped, Drops};
use super::format::Edit;
use crate::layout::LayoutMark;
use crate::planted::{self, Bug};
use crate::{Extent, FileName, TableMeta, TableName, ValueShare, ValuesMeta};

/// Most levels of a store: level 0 and fifteen sorted ones. Leveled compaction fills them from the last one upward, tiered
/// compaction takes each for a sorted run.
pub(crate) const LEVELS: usize = 16;

/// The state that a manifest's edits lead to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Catalog {
    /// How often the engine was opened.
    pub(crate) incarnation: u64,
    /// Set while the engine is closed: the highest sequence number it had made durable.
    pub(crate) closed: Option<u64>,
    /// The file number to use next, without the core's part.
    pub(crate) next_number: u64,
    /// The log is whole from here on: what comes before may have been recycled.
    pub(crate) log_floor: u64,
    /// By number.
    pub(crate) stores: BTreeMap<u16, StoreEntry>,
    /// Where each vnode lives. Shared, since every change begins with a copy of the catalog.
    pub(crate) vnodes: Rc<BTreeMap<u16, VnodeEntry>>,
    /// The store of space 0.
    pub(crate) home: Option<u16>,
    /// The layout of the node that this core belongs to.
    pub(crate) layout: Option<LayoutMark>,
}

/// One store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StoreEntry {
    /// Records up to this sequence number are in its tables.
    pub(crate) flushed_through: u64,
    /// Tables by level; in level 0 oldest first, elsewhere by key, and disjoint.
    pub(crate) levels: [Vec<Rc<TableMeta>>; LEVELS],
    /// Value files, by number. Each is named by a table, or kept.
    pub(crate) values: BTreeMap<u64, ValuesMeta>,
    /// Parts of tables that cannot be read.
    pub(crate) areas: Areas,
    /// Of each table that is gone and has areas, by its number: the value files that it points into. There may be something to save in
    /// them. Earlier versions did not say so of a table.
    kept: BTreeMap<u64, Rc<[u64]>>,
    /// Extents that were dropped and of which something is left.
    pub(crate) drops: Drops,
    /// Numbers of value files that are damaged.
    pub(crate) damaged_values: BTreeSet<u64>,
}

impl StoreEntry {
    /// Says of the areas of a table whether it is gone.
    fn detach(&mut self, number: u64, detached: bool) {
        if detached && planted::active(Bug::MergeForgetsHole) {
            self.areas.retain(|area| area.table.number != number);
        }
        for area in self.areas.iter_mut().filter(|area| area.table.number == number) {
            Rc::make_mut(area).detached = detached;
        }
    }

    /// Whether a table with one of these numbers is there.
    pub(crate) fn names_any(&self, numbers: &[u64]) -> bool {
        let mut tables = self.levels.iter().flatten();
        !numbers.is_empty() && tables.any(|table| numbers.binary_search(&table.name.number).is_ok())
    }

    /// Takes the keys of an extent out of what was lost with tables that are gone.
    fn cut_holes(&mut self, extent: &Extent, of_table: impl Fn(u64) -> bool) {
        let range = extent.range();
        let cut = |area: Rc<Area>| match area.detached && of_table(area.table.number) {
            true => area.without(&range),
            false => vec![area],
        };
        self.areas = std::mem::take(&mut self.areas).into_iter().flat_map(cut).collect();
        let areas = &self.areas;
        self.kept.retain(|number, _| areas.iter().any(|area| area.table.number == *number));
    }

    /// Areas whose tables are gone.
    pub(crate) fn holes(&self) -> impl Iterator<Item = &Rc<Area>> {
        self.areas.iter().filter(|area| area.detached)
    }

    /// The areas of a table.
    pub(crate) fn areas_of(&self, number: u64) -> impl Iterator<Item = &Rc<Area>> {
        self.areas.iter().filter(move |area| area.table.number == number)
    }

    /// What each table names of each value file.
    pub(crate) fn value_shares(&self) -> impl Iterator<Item = &ValueShare> {
        self.levels.iter().flatten().flat_map(|table| &table.values)
    }

    /// Numbers of value files that nothing names. None goes while it is not known what a table that is gone and quarantined points into.
    fn dead_values(&self) -> Vec<u64> {
        let is_unknown = |area: &Rc<Area>| !self.kept.contains_key(&area.table.number);
        if self.values.is_empty() || self.holes().any(is_unknown) {
            return Vec::new();
        }
        let kept = self.kept.values().flat_map(|files| files.iter().copied());
        let named: BTreeSet<u64> = self.value_shares().map(|share| share.file).chain(kept).collect();
        self.values.keys().copied().filter(|number| !named.contains(number)).collect()
    }

    /// Every value file with the bytes of its records that tables name.
    pub(crate) fn live_values(&self) -> BTreeMap<u64, (ValuesMeta, u64)> {
        let mut live: BTreeMap<_, _> =
            self.values.iter().map(|(&number, &values)| (number, (values, 0))).collect();
        for share in self.value_shares() {
            if let Some((_, bytes)) = live.get_mut(&share.file) {
                *bytes += share.bytes;
            }
        }
        live
    }
}

/// Where a vnode lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VnodeEntry {
    pub(crate) store: u16,
    /// The vnode's epoch when it came here; 0 until vnodes move.
    pub(crate) epoch: u64,
}

/// An edit that cannot follow what is there: the bytes hold, the story does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Contradiction {
    pub(crate) what: &'static str,
    /// The store, vnode or number it is about.
    pub(crate) subject: u64,
}

impl Catalog {
    /// Applies one edit. After an error the catalog is not to be used.
    pub(crate) fn apply(&mut self, edit: &Edit) -> Result<(), Contradiction> {
        let wrong = |what, subject: u64| Contradiction { what, subject };
        self.closed = None;
        match edit {
            Edit::Opened { incarnation } => self.incarnation = *incarnation,
            Edit::Store { store } => {
                self.stores.entry(*store).or_default();
            }
            Edit::Assign { vnode, store, epoch } => {
                if !self.stores.contains_key(store) {
                    return Err(wrong("a vnode of a store that does not exist", (*store).into()));
                }
                Rc::make_mut(&mut self.vnodes).insert(*vnode, VnodeEntry { store: *store, epoch: *epoch });
            }
            Edit::Add { level, table } => {
                let entry = self.store(table.name.store)?;
                if let Some(share) = table.values.iter().find(|share| !entry.values.contains_key(&share.file))
                {
                    return Err(wrong("a table that names a value file that does not exist", share.file));
                }
                let tables = entry.levels.get_mut(usize::from(*level));
                let tables = tables.ok_or(wrong("a level that does not exist", (*level).into()))?;
                let at = match level {
                    0 => tables.len(),
                    _ => tables.partition_point(|other| other.smallest < table.smallest),
                };
                let before = at.checked_sub(1).and_then(|before| tables.get(before));
                let overlaps = before.is_some_and(|before| before.largest >= table.smallest)
                    || tables.get(at).is_some_and(|after| after.smallest <= table.largest);
                if *level > 0 && overlaps {
                    return Err(wrong("a table that overlaps another of its level", table.name.number));
                }
                tables.insert(at, Rc::clone(table));
                entry.detach(table.name.number, false);
                entry.kept.remove(&table.name.number);
            }
            Edit::Remove { table } => {
                let entry = self.store(table.store)?;
                let level = entry.levels.iter_mut().find_map(|level| {
                    level.iter().position(|present| present.name == *table).map(|at| (level, at))
                });
                let missing = wrong("the removal of a table that does not exist", table.number);
                let (level, at) = level.ok_or(missing)?;
                let removed = level.remove(at);
                entry.detach(table.number, true);
                if entry.areas_of(table.number).next().is_some() {
                    let files = removed.values.iter().map(|share| share.file);
                    entry.kept.insert(table.number, files.collect());
                }
                let names = |dropped: &&Dropped| dropped.tables.contains(&table.number);
                let dropped = entry.drops.iter().filter(|(_, dropped)| names(dropped));
                for extent in dropped.map(|(&extent, _)| extent).collect::<Vec<_>>() {
                    entry.cut_holes(&extent, |number| number == table.number);
                }
            }
            Edit::Flushed { store, seq } => {
                let entry = self.store(*store)?;
                entry.flushed_through = entry.flushed_through.max(*seq);
            }
            Edit::NextNumber { number } => self.next_number = self.next_number.max(*number),
            Edit::LogFloor { seq } => self.log_floor = self.log_floor.max(*seq),
            Edit::Closed { seq } => self.closed = Some(*seq),
            Edit::Layout(mark) => self.layout = Some(*mark),
            Edit::Home { store } => {
                self.store(*store)?;
                self.home = Some(*store);
            }
            Edit::AddValues { values } => {
                let present = self.store(values.store)?.values.insert(values.number, *values);
                if present.is_some() {
                    return Err(wrong("a value file that exists already", values.number));
                }
            }
            Edit::RemoveValues { store, number } => {
                let entry = self.store(*store)?;
                if entry.values.remove(number).is_none() {
                    return Err(wrong("the removal of a value file that does not exist", *number));
                }
                if entry.value_shares().any(|share| share.file == *number) {
                    return Err(wrong("the removal of a value file that a table names", *number));
                }
                entry.damaged_values.remove(number);
                // Earlier versions kept none.
                for files in entry.kept.values_mut().filter(|files| files.contains(number)) {
                    *files = files.iter().copied().filter(|file| file != number).collect();
                }
            }
            Edit::Drop { store, extent, seq, tables } => {
                let entry = self.store(*store)?;
                // What was dropped of it before is named again, as far as it is there.
                entry.drops.retain(|other, _| !extent.includes(other));
                entry.drops.insert(*extent, Dropped { seq: *seq, tables: tables.clone() });
                // What was lost of it is dropped, too.
                entry.cut_holes(extent, |_| true);
            }
            Edit::ForgetDrop { store, extent, seq } => {
                let drops = &mut self.store(*store)?.drops;
                if drops.get(extent).is_some_and(|dropped| dropped.seq == *seq) {
                    drops.remove(extent);
                }
            }
            Edit::Unassign { vnode } => {
                Rc::make_mut(&mut self.vnodes).remove(vnode);
            }
            Edit::Quarantine(area) => {
                let entry = self.store(area.table.store)?;
                let is_present =
                    entry.levels.iter().flatten().any(|table| table.name.number == area.table.number);
                if is_present == area.detached {
                    // It was merged away while its damage was being confirmed: its records had been read.
                    return if is_present {
                        Err(wrong("a detached area of a table that exists", area.table.number))
                    } else {
                        Ok(())
                    };
                }
                let order = |other: &Rc<Area>| {
                    other.table.number.cmp(&area.table.number).then_with(|| other.low.cmp(&area.low))
                };
                match entry.areas.binary_search_by(order) {
                    Ok(at) => entry.areas[at] = Rc::clone(area),
                    Err(at) => entry.areas.insert(at, Rc::clone(area)),
                }
            }
            Edit::Release { table } => {
                let entry = self.store(table.store)?;
                entry.areas.retain(|area| area.table.number != table.number);
                entry.kept.remove(&table.number);
            }
            Edit::Keep { table, values } => {
                let entry = self.store(table.store)?;
                if !entry.areas_of(table.number).any(|area| area.detached) {
                    return Err(wrong("value files of a table that has no detached area", table.number));
                }
                if let Some(&file) = values.iter().find(|file| !entry.values.contains_key(*file)) {
                    return Err(wrong("a lost table that names a value file that does not exist", file));
                }
                entry.kept.insert(table.number, values[..].into());
            }
            Edit::DamagedValues { store, number } => {
                let entry = self.store(*store)?;
                if entry.values.contains_key(number) {
                    entry.damaged_values.insert(*number);
                }
            }
        }
        Ok(())
    }

    /// Whether each table and each value file is there once. Not for each edit: it looks at all of them.
    pub(super) fn check(&self) -> Result<(), Contradiction> {
        let tables = self.tables().map(|table| table.name.number);
        let values = self.stores.values().flat_map(|store| store.values.keys().copied());
        let again = twice(tables).map(|subject| ("a table that is there already", subject));
        let again = again.or_else(|| twice(values).map(|subject| ("a value file of two stores", subject)));
        again.map_or(Ok(()), |(what, subject)| Err(Contradiction { what, subject }))
    }

    fn store(&mut self, store: u16) -> Result<&mut StoreEntry, Contradiction> {
        self.stores
            .get_mut(&store)
            .ok_or(Contradiction { what: "a store that does not exist", subject: store.into() })
    }

    /// All tables.
    pub(crate) fn tables(&self) -> impl Iterator<Item = &Rc<TableMeta>> {
        self.stores.values().flat_map(|store| store.levels.iter().flatten())
    }

    /// Value files that nothing names: they go with the change that leaves them so.
    pub(super) fn dead_values(&self) -> Vec<FileName> {
        let stores = self.stores.iter();
        let dead = stores.map(|(&store, entry)| (store, entry.dead_values()));
        dead.flat_map(|(store, dead)| dead.into_iter().map(move |number| FileName::Values { store, number }))
            .collect()
    }

    /// Edits that lead from nothing to this.
    pub(crate) fn to_edits(&self) -> Vec<Edit> {
        let mut edits = vec![
            Edit::Opened { incarnation: self.incarnation },
            Edit::NextNumber { number: self.next_number },
            Edit::LogFloor { seq: self.log_floor },
        ];
        for (&store, entry) in &self.stores {
            edits.push(Edit::Store { store });
            edits.push(Edit::Flushed { store, seq: entry.flushed_through });
            edits.extend(entry.values.values().map(|&values| Edit::AddValues { values }));
            for (level, tables) in entry.levels.iter().enumerate() {
                let level = level as u8;
                edits.extend(tables.iter().map(|table| Edit::Add { level, table: Rc::clone(table) }));
            }
            edits.extend(entry.drops.iter().map(|(&extent, Dropped { seq, tables })| Edit::Drop {
                store,
                extent,
                seq: *seq,
                tables: tables.clone(),
            }));
            edits.extend(entry.areas.iter().map(|area| Edit::Quarantine(Rc::clone(area))));
            edits.extend(entry.kept.iter().map(|(&number, files)| Edit::Keep {
                table: TableName { store, number },
                values: files.to_vec(),
            }));
            edits.extend(entry.damaged_values.iter().map(|&number| Edit::DamagedValues { store, number }));
        }
        edits.extend(self.vnodes.iter().map(|(&vnode, entry)| Edit::Assign {
            vnode,
            store: entry.store,
            epoch: entry.epoch,
        }));
        edits.extend(self.home.map(|store| Edit::Home { store }));
        edits.extend(self.layout.map(Edit::Layout));
        if let Some(seq) = self.closed {
            edits.push(Edit::Closed { seq });
        }
        edits
    }
}

/// The first number that comes twice.
fn twice(mut numbers: impl Iterator<Item = u64>) -> Option<u64> {
    let mut seen = BTreeSet::new();
    numbers.find(|number| !seen.insert(*number))
}
