//! A frozen memtable becomes a table of level 0, and the log that held its records is let go.

use super::Core;
use super::output::Output;

use crate::manifest::Edit;
use crate::planted::{self, Bug};
use crate::{Class, Disk, DiskError, DiskErrorKind, Key, MemCursor, Pace, Seq, cover};

impl<D: Disk, P: Pace> Core<D, P> {
    /// Writes everything that is applied into tables, while writes go on.
    pub(super) async fn flush_applied(&self) -> Result<(), DiskError> {
        let freeze = || {
            let mut stores = self.stores.borrow_mut();
            (0..stores.stores.len()).for_each(|index| stores.freeze(index));
            stores.applied
        };
        let early = planted::active(Bug::FreezesBeforeTurn).then(freeze);
        // The turn is held from before the freezing on: a move of a vnode that had it in between would carry what is frozen here
        // into another store's active memtable, and the flush would leave it out.
        let _turn = self.flush_turn.take().await;
        let through = early.unwrap_or_else(freeze);
        self.weigh();
        self.flush_frozen(&self.options.stores, through).await
    }

    /// Writes what these stores froze up to `through` into tables. For whoever has the turn of flushes.
    pub(super) async fn flush_frozen(&self, stores: &[u16], through: u64) -> Result<(), DiskError> {
        while self.has_frozen(stores, through) {
            self.flush_oldest().await?;
            self.weigh();
        }
        Ok(())
    }

    fn has_frozen(&self, stores: &[u16], through: u64) -> bool {
        let all = self.stores.borrow();
        let mut these = all.stores.iter().filter(|store| stores.contains(&store.number));
        these.any(|store| store.frozen.iter().any(|frozen| frozen.through <= through))
    }

    /// Whether a block of a store that may hold the key is in use: then what is written of the key is likely to be asked for, too.
    fn is_near_use(&self, index: usize, key: &Key<'_>) -> bool {
        let stores = self.stores.borrow();
        stores.stores[index]
            .levels
            .candidates(key)
            .any(|table| table.locate(key).is_some_and(|block| self.cache.is_in_use(table.number(), block)))
    }

    /// Flushes the frozen memtable that pins most of the log. Nothing has changed after an error.
    pub(super) async fn flush(&self) -> Result<(), DiskError> {
        let _turn = self.flush_turn.take().await;
        self.flush_oldest().await
    }

    async fn flush_oldest(&self) -> Result<(), DiskError> {
        let Some((index, frozen)) = self.stores.borrow().next_frozen() else { return Ok(()) };
        let store = self.stores.borrow().stores[index].number;
        let mut cursor = MemCursor::new(frozen.memtable.clone(), None);
        let mut output = Output::new(self, store, Class::Flush, frozen.through);
        while let Some((key, record)) = cursor.current() {
            if self.is_left_out(index, &key, frozen.through) {
                output.skip(&key, &record, 1);
                cursor.advance();
                if output.wants_pause() {
                    output.pause().await?;
                }
                continue;
            }
            let is_large = output.is_large(&record);
            output.set_in_use(self.is_near_use(index, &key));
            output.ready(is_large).await?;
            while let Some((key, record)) = cursor.current()
                && output.takes(&record)
                && !self.is_left_out(index, &key, frozen.through)
                && !output.wants_pause()
            {
                output.add(key, record);
                cursor.advance();
            }
            output.pause().await?;
        }
        output.end().await?;
        // A log that is not synced at each commit could lose what the manifest is about to say is not needed in it, and
        // number new records alike.
        if self.log.synced_seq().0 < frozen.through && self.log.sync_now().await.is_err() {
            self.fence();
            return Err(DiskError { kind: DiskErrorKind::Io, operation: "sync the log", name: None });
        }
        let floor = self.stores.borrow().log_floor_after_flush(index);
        let bytes = output.bytes;
        let through = frozen.through;
        let others = [Edit::Flushed { store, seq: through }, Edit::LogFloor { seq: floor }];
        let install = |store: &mut super::store::Store<D>| {
            let flushed = store.frozen.pop();
            assert_eq!(
                flushed.map(|flushed| flushed.through),
                Some(through),
                "one flush at a time, oldest first"
            );
            store.flushed_through = through;
        };
        output.commit(0, &[], others.into_iter(), install).await?;
        drop(cursor);
        self.stores.borrow_mut().flushed(frozen.memtable);
        let floor = self.manifest.catalog().log_floor;
        self.log.retire_below(Seq(floor));
        while self.stores.borrow_mut().dissolve_some() {
            self.give_way().await;
        }
        self.counters.flush_bytes.add(bytes);
        self.count_of_store(store, |counts| counts.flush_bytes += bytes);
        self.counters.flushes.add(1);
        cover::mark("memtable flushed");
        Ok(())
    }
}
