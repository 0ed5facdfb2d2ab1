//! What cannot be read: suspected, confirmed, durably marked, reported, and never answered around.
//!
//! Whoever comes upon damage or a read that fails, a get, a scan, a merge or scrubbing, makes its file a *suspect*, which merges
//! leave alone. A job reads the suspect again, block by block: what then is sound clears it (a bit may flip on its way, too);
//! what is not is marked in the manifest as an [`Area`] of its table, with its keys. From then on
//!
//! - reads of keys in these blocks fail, those of the table's other keys go on;
//! - merges take the table as any other and pass over the blocks, so that nothing waits behind them for ever. With the
//!   table gone the area is a *hole* of its store: a key in it is answered only by a version newer than everything in the
//!   table, which new writes are, and by nothing else, for what was lost may have been newer than what is left. A scan
//!   ends at it in any case, for it cannot say which keys there were; its caller may go on behind it;
//! - the table's file stays on the disk, and with it the value files that it points into, whatever becomes of the table, until the area is
//!   released: there may be something to save in them.
//!
//! A table that is too damaged to be opened is such an area as a whole, and goes at once. Of a table of which no block can be read,
//! since the device fails each time, nothing is concluded: that says something of the device, not of the table.
//!
//! Nor is anything concluded of a table that the device does not let be opened, for one sector of its footer, index or filter. It is
//! *unreadable* until the next start, which tries again: a hole in memory that the manifest knows nothing of. Reads of its keys
//! fail as those of a hole do, with the device's error, and no merge takes it or passes its keys by on the way down, so that
//! all of it is there when it can be read. What a merge could not do without it waits; a store whose level 0 it holds up
//! refuses writes in the end. Where the device does not recover, a copy of the file with anything in place of what cannot be
//! read is a damaged table, as above.
//!
//! A damaged value file is marked so that nothing is collected from it; each of its values is under a checksum of its own. One that the
//! device does not give somewhere, as often as it is tried, is not: nothing is collected from it until scrubbing comes through it,
//! or the next start.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::Core;
use crate::manifest::{Area, Catalog, Edit};
use crate::table::Table;
use crate::{
    Class, Disk, DiskError, DiskErrorKind, FileName, KeyBuf, Pace, ReadError, TableMeta, TableName,
    ValueFile, cover,
};

/// Times that a value is read before it is taken for what it seems to be.
const READS_MAX: usize = 3;
/// Areas of one table; what is damaged in more places is quarantined from the first of them to the last.
const AREAS_PER_TABLE_MAX: usize = 256;

/// A range of keys that cannot be read, or not surely.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// The file that is damaged.
    pub file: FileName,
    /// The blocks that are, of a table: the first, and their number.
    pub blocks: Option<(u32, u32)>,
    /// Whether the store uses the rest of the file.
    pub is_used: bool,
    /// The first key that may be concerned.
    pub low: KeyBuf,
    /// The first key behind those.
    pub high: KeyBuf,
    /// Versions with an order above this are not concerned.
    pub order_max: u64,
}

impl std::fmt::Display for Quarantined {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.file {
            FileName::Table { store, number } => write!(f, "table {number} of store {store}")?,
            FileName::Values { store, number } => write!(f, "value file {number} of store {store}")?,
            FileName::Segment { .. } | FileName::Manifest { .. } => unreachable!("they are not quarantined"),
        }
        let (low, high) = (self.low.prefix, self.high.prefix);
        write!(
            f,
            ": vnode {} table {} token {:#018x} to vnode {} table {} token {:#018x}",
            low.vnode, low.table, low.token, high.vnode, high.table, high.token
        )
    }
}

/// What a catalog says is quarantined.
pub(super) fn quarantined_in(catalog: &Catalog) -> Vec<Quarantined> {
    let mut found = Vec::new();
    for (&store, entry) in &catalog.stores {
        found.extend(entry.areas.iter().map(|area| Quarantined {
            file: area.table.file(),
            blocks: Some((area.block, area.blocks)),
            is_used: !area.detached,
            low: area.low.clone(),
            high: area.high.clone(),
            order_max: area.order_max,
        }));
        for &number in &entry.damaged_values {
            let named = |table: &&Rc<TableMeta>| table.values.iter().any(|share| share.file == number);
            let tables = || entry.levels.iter().flatten().filter(named);
            let Some(low) = tables().map(|table| table.smallest.clone()).min() else { continue };
            let high = tables().map(|table| table.end()).max().expect("there is one");
            let order_max = tables().map(|table| table.max_order).max().expect("there is one");
            let file = FileName::Values { store, number };
            found.push(Quarantined { file, blocks: None, is_used: true, low, high, order_max });
        }
    }
    found
}

/// All of a table as an area.
pub(super) fn whole_area(table: &TableMeta) -> Area {
    Area {
        table: table.name,
        block: 0,
        blocks: table.blocks,
        detached: false,
        order_max: table.max_order,
        low: table.smallest.clone(),
        high: table.end(),
    }
}

/// The edits by which a table that cannot be opened goes, leaving an area.
pub(super) fn whole(table: &TableMeta) -> [Edit; 2] {
    [Edit::Quarantine(Rc::new(whole_area(table))), Edit::Remove { table: table.name }]
}

/// What the tables of a catalog with these numbers hold.
pub(super) fn unreadable_in(catalog: &Catalog, numbers: &BTreeSet<u64>) -> Vec<Quarantined> {
    let tables = catalog.tables().filter(|table| numbers.contains(&table.name.number));
    let all_of = |table: &Rc<TableMeta>| {
        let Area { table, block, blocks, order_max, low, high, .. } = whole_area(table);
        Quarantined { file: table.file(), blocks: Some((block, blocks)), is_used: true, low, high, order_max }
    };
    tables.map(all_of).collect()
}

impl<D: Disk, P: Pace> Core<D, P> {
    pub(super) fn quarantined(&self) -> Vec<Quarantined> {
        quarantined_in(&self.manifest.catalog())
    }

    /// See [`super::Engine::unreadable`].
    pub(super) fn unreadable_tables(&self) -> Vec<Quarantined> {
        unreadable_in(&self.manifest.catalog(), &self.unreadable.borrow())
    }

    /// Numbers of the tables that no merge may take: what is suspected until it is known which blocks to pass over, and what could
    /// not be opened.
    pub(super) fn avoided(&self) -> BTreeSet<u64> {
        self.suspects.borrow().union(&self.unreadable.borrow()).copied().collect()
    }

    /// Files that are damaged, or suspected to be, or cannot be read.
    pub(super) fn damaged_files(&self) -> u64 {
        let mut files: Vec<FileName> = self.quarantined().into_iter().map(|found| found.file).collect();
        files.dedup();
        let suspects = self.suspects.borrow().len() + self.suspect_values.borrow().len();
        let unread = self.unreadable.borrow().len() + self.withheld_values.borrow().len();
        (files.len() + suspects + self.frail.borrow().len() + unread) as u64
    }

    /// Makes a suspect of a file that could not be read.
    #[cold]
    pub(super) fn suspect(&self, error: &ReadError) {
        let file = match error {
            ReadError::Damage(damage) => Some(damage.file),
            ReadError::Disk(error) if error.kind == DiskErrorKind::Io => error.name,
            ReadError::Disk(_) | ReadError::Quarantined(_) | ReadError::NoBuffer => None,
        };
        let is_new = match file {
            Some(FileName::Table { number, .. }) if self.tables.borrow().contains_key(&number) => {
                self.suspects.borrow_mut().insert(number)
            }
            Some(FileName::Values { number, .. }) if self.values.borrow().contains_key(&number) => {
                // What the device does not give is known to be so.
                let is_known =
                    matches!(error, ReadError::Disk(_)) && self.withheld_values.borrow().contains(&number);
                !is_known && self.suspect_values.borrow_mut().insert(number)
            }
            Some(_) | None => false,
        };
        if is_new {
            cover::mark("file suspected to be damaged");
            self.survey_due.set(true);
        }
    }

    /// Reads a suspected table, and marks what is damaged in it.
    pub(super) async fn verify_table(&self, number: u64) -> Result<(), DiskError> {
        let table = self.tables.borrow().get(&number).cloned();
        let mut bad = Vec::new();
        if let Some(table) = &table {
            let (mut next, mut sound, mut unreadable) = (0, 0, 0);
            while next < table.blocks() {
                let run = table.verify_run(next, Class::Background).await;
                let run = run.map_err(|error| self.unreadable(error))?;
                (next, sound, unreadable) = (run.next, sound + run.sound, unreadable + run.unreadable.len());
                bad.extend(run.damaged.into_iter().chain(run.unreadable));
                self.give_way().await;
                self.do_urgent().await;
            }
            if unreadable > 0 && sound == 0 {
                let name = Some(table.meta().name.file());
                return Err(DiskError { kind: DiskErrorKind::Io, operation: "verify", name });
            }
        }
        match table {
            Some(table) if !bad.is_empty() => {
                bad.sort_unstable();
                self.quarantine(&table, &bad).await?;
            }
            Some(_) | None => cover::mark("suspicion cleared"),
        }
        self.suspects.borrow_mut().remove(&number);
        self.survey_due.set(true);
        Ok(())
    }

    async fn quarantine(&self, table: &Table<D>, bad: &[u32]) -> Result<(), DiskError> {
        let name = table.meta().name;
        let runs = runs(bad);
        let edits: Vec<Edit> = runs
            .iter()
            .map(|&(block, blocks)| {
                let (low, high) = table.keys_of(block, blocks);
                let order_max = table.meta().max_order;
                let area = Area { table: name, block, blocks, detached: false, order_max, low, high };
                Edit::Quarantine(Rc::new(area))
            })
            .collect();
        // A merge that has read the blocks while they could be read would leave an area where nothing is lost.
        self.abandon_compaction(name.store);
        self.change(&edits).await.map_err(|failed| failed.error)?;
        runs.iter().for_each(|&(block, blocks)| table.quarantine(block, blocks));
        self.counters.quarantines.add(1);
        cover::mark("blocks quarantined");
        Ok(())
    }

    /// Reads a suspected value file, and marks it if it is damaged.
    pub(super) async fn verify_values(&self, number: u64) -> Result<(), DiskError> {
        let file = self.values.borrow().get(&number).cloned();
        let mut is_withheld = false;
        if let Some(file) = file {
            let mut at = file.first_record();
            while let Some(from) = at {
                at = match self.verify_value(&file, from).await {
                    Ok(next) => next,
                    Err(ReadError::Damage(_) | ReadError::Quarantined(_)) => {
                        let FileName::Values { store, number } = file.name() else {
                            unreachable!("it is a value file")
                        };
                        let edit = Edit::DamagedValues { store, number };
                        self.change(&[edit]).await.map_err(|failed| failed.error)?;
                        self.counters.quarantines.add(1);
                        cover::mark("value file marked as damaged");
                        break;
                    }
                    // Where the next value starts is not known either.
                    Err(ReadError::Disk(_)) => {
                        cover::mark("value file withheld by the device");
                        is_withheld = true;
                        break;
                    }
                    Err(error @ ReadError::NoBuffer) => return Err(self.unreadable(error)),
                };
                self.give_way().await;
                self.do_urgent().await;
            }
        }
        self.suspect_values.borrow_mut().remove(&number);
        self.withhold_values(number, is_withheld);
        self.survey_due.set(true);
        Ok(())
    }

    /// Reads and verifies the value at `at`, several times if it must; gives where the next one is.
    pub(super) async fn verify_value(&self, file: &ValueFile<D>, at: u64) -> Result<Option<u64>, ReadError> {
        let mut last = file.verify_record(at, Class::Background).await;
        for _ in 1..READS_MAX {
            if matches!(last, Ok(_) | Err(ReadError::NoBuffer)) {
                break;
            }
            last = file.verify_record(at, Class::Background).await;
        }
        last
    }

    /// Says of a value file whether the device withholds something of it.
    pub(super) fn withhold_values(&self, number: u64, is_withheld: bool) {
        let mut withheld = self.withheld_values.borrow_mut();
        let is_news = if is_withheld { withheld.insert(number) } else { withheld.remove(&number) };
        if is_news {
            self.survey_due.set(true);
        }
    }

    /// See [`super::Engine::release_quarantined`].
    pub(super) async fn release(&self, table: TableName) -> Result<bool, DiskError> {
        let is_hole = {
            let catalog = self.manifest.catalog();
            let entry = catalog.stores.get(&table.store);
            entry.is_some_and(|entry| entry.areas_of(table.number).any(|area| area.detached))
        };
        if is_hole {
            let edits = vec![Edit::Release { table }];
            let put = self.put_tables(table.store, (&[], &[]), &[], edits, |_| {}).await;
            put.map_err(|failed| failed.error)?;
            self.records.clear();
            self.obsolete.borrow_mut().discard(std::iter::once(table.file()));
            cover::mark("quarantine released");
        }
        Ok(is_hole)
    }
}

/// Neighbouring blocks as runs, `(first, number)`.
fn runs(blocks: &[u32]) -> Vec<(u32, u32)> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for &block in blocks {
        match runs.last_mut() {
            Some((first, number)) if *first + *number == block => *number += 1,
            Some(_) | None => runs.push((block, 1)),
        }
    }
    match (runs.first(), runs.last()) {
        (Some(&(first, _)), Some(&(last, number))) if runs.len() > AREAS_PER_TABLE_MAX => {
            vec![(first, last + number - first)]
        }
        _ => runs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_area_and_many_areas_are_one() {
        assert_eq!(runs(&[]), []);
        assert_eq!(runs(&[3, 4, 5, 9, 11, 12]), [(3, 3), (9, 1), (11, 2)]);
        let scattered: Vec<u32> = (0..AREAS_PER_TABLE_MAX as u32 + 1).map(|n| 5 + 2 * n).collect();
        assert_eq!(runs(&scattered), [(5, 2 * AREAS_PER_TABLE_MAX as u32 + 1)]);
    }
}
