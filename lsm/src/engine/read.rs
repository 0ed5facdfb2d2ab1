//! Reads: newest source first, last write wins.

use std::future::Future;
use std::rc::Rc;

use super::Core;
use super::outcome::{Found, Miss};
use crate::{Disk, Key, Pace, ReadError, Record, RecordFlags};

impl<D: Disk, P: Pace> Core<D, P> {
    #[inline]
    pub(super) fn get<R>(
        &self,
        key: Key<'_>,
        found: impl FnOnce(Option<Record<'_>>) -> R,
    ) -> Result<R, Miss> {
        let stores = self.stores.borrow();
        let Some(index) = stores.index_of(&key) else { return Ok(found(None)) };
        let record = stores.stores[index].active.get(&key);
        self.counters.count_memtable(record.is_some());
        Ok(found(record.map(outside)))
    }
}

/// The record as the engine's callers see it.
#[inline]
fn outside(record: Record<'_>) -> Record<'_> {
    Record { flags: RecordFlags(record.flags.0 & RecordFlags::OUTSIDE), ..record }
}

pub(super) fn read<D: Disk, P: Pace>(
    core: Rc<Core<D, P>>,
    key: Key<'_>,
) -> impl Future<Output = Result<Option<Found>, ReadError>> + 'static {
    let key = key.to_buf();
    async move { Ok(core.get(key.as_key(), |record| record.map(Found::copy)).unwrap_or(None)) }
}
