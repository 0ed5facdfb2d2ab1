//! Large values in the engine: finding what a pointer names, and which value files are worth collecting.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::Core;
use super::output::BUFFER_TRIES_MAX;
use super::read::is_separated;
use crate::values::{Pointer, Resolved, StoredValue};
use crate::{Class, Damage, Disk, DiskError, FileName, Key, Pace, ReadError, Record, ValueFile, cover};

/// A value file is collected when less than one byte in so many of its records is named by a table. So what is dead and known to be takes at most
/// as much space as what is live, but for one round of merges.
const LIVE_SHARE_MIN: u64 = 2;

impl<D: Disk, P: Pace> Core<D, P> {
    /// What the pointer in a record names. Whoever holds the table that the record came from may read it.
    pub(super) fn pointer(
        &self,
        key: &Key<'_>,
        record: &Record<'_>,
    ) -> Result<(Rc<ValueFile<D>>, Pointer), ReadError> {
        let pointer = Pointer::decode(record.value);
        let number = pointer.map_or(0, |pointer| pointer.file);
        let file = self.values.borrow().get(&number).cloned();
        file.zip(pointer).ok_or_else(|| {
            if let Some(file) = self.damaged_value_file(number) {
                return ReadError::Quarantined(file);
            }
            let stores = self.stores.borrow();
            let store = stores.index_of(key).map_or(0, |index| stores.stores[index].number);
            let file = FileName::Values { store, number };
            Damage { file, offset: 0, what: "pointer", expected: 0, found: number }.into()
        })
    }

    /// The value of a record that holds a pointer: what the cache has is used, what it lacks is read past it.
    pub(super) async fn value_of(&self, key: &Key<'_>, record: &Record<'_>) -> Result<Resolved, ReadError> {
        let (file, pointer) = self.pointer(key, record)?;
        match self.cache.peek_value(&pointer) {
            Some(value) => Ok(value),
            None => file.read(&pointer, Class::Read).await,
        }
    }

    /// The value of a merged record, if it lies in a file that is to be collected and can be read. What cannot be read keeps its
    /// pointer, and whoever asks for it is told. If it `moves`, it is to be collected whichever file it lies in, and an error if it
    /// cannot be read.
    pub(super) async fn collect(
        &self,
        key: &Key<'_>,
        record: &Record<'_>,
        moves: bool,
    ) -> Result<Option<StoredValue>, DiskError> {
        if !is_separated(record) {
            return Ok(None);
        }
        let is_wasteful = |pointer: Pointer| moves || self.wasteful.borrow().contains(&pointer.file);
        if !Pointer::decode(record.value).is_some_and(is_wasteful) {
            return Ok(None);
        }
        let (file, pointer) = self.pointer(key, record).map_err(|error| self.unreadable(error))?;
        let mut tries = BUFFER_TRIES_MAX;
        loop {
            match file.read_stored(&pointer, Class::Background).await {
                Ok(stored) => {
                    cover::mark("value collected");
                    return Ok(Some(stored));
                }
                Err(ReadError::NoBuffer) if tries > 0 => {
                    tries -= 1;
                    self.pace.yield_now().await;
                }
                Err(ReadError::NoBuffer) => return Err(self.unreadable(ReadError::NoBuffer)),
                Err(error) if moves => return Err(self.unreadable(error)),
                Err(ReadError::Disk(_) | ReadError::Damage(_) | ReadError::Quarantined(_)) => {
                    self.suspect_values.borrow_mut().insert(pointer.file);
                    self.wasteful.borrow_mut().remove(&pointer.file);
                    return Ok(None);
                }
            }
        }
    }

    /// Numbers of the value files that are mostly garbage.
    pub(super) fn wasteful_values(&self) -> BTreeSet<u64> {
        let (catalog, suspects) = (self.manifest.catalog(), self.suspect_values.borrow());
        let withheld = self.withheld_values.borrow();
        let files = catalog.stores.values().flat_map(|store| {
            store.live_values().into_iter().filter(|(number, _)| !store.damaged_values.contains(number))
        });
        let wasteful = files.filter(|(number, (values, live))| {
            // What a table says of its pointers may be anything that bears the right checksum.
            let is_garbage = live.saturating_mul(LIVE_SHARE_MIN) < values.record_bytes;
            is_garbage && !suspects.contains(number) && !withheld.contains(number)
        });
        wasteful.map(|(number, _)| number).collect()
    }

    fn damaged_value_file(&self, number: u64) -> Option<FileName> {
        let catalog = self.manifest.catalog();
        let mut stores = catalog.stores.iter();
        let (&store, _) = stores.find(|(_, entry)| entry.damaged_values.contains(&number))?;
        Some(FileName::Values { store, number })
    }
}
