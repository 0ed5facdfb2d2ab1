//! Gets of several keys at once: the same answers as one [`Core::get`] after the other, at less cost.
//!
//! A get is a chain of dependent reads all over memory: a word of the memtable's sketch, a line of a filter, the index, a
//! place of the cache, the block's head, its entry. Alone, each is a cache miss that nothing else can use. Here
//! every key takes one step, asks the processor for what its next step reads, and makes room for the next key; by the time a
//! key's turn comes again its memory is there.
//!
//! The steps follow the usual ways only: the record cache holds the key; the active memtable does; or no memtable does, the first table whose filter
//! says so does, and its block is in the cache. If then the record dominates, it is the answer. Whatever leaves these
//! ways is answered by [`Core::get`], from the beginning.

use super::Core;
use super::outcome::Miss;
use super::read::{dominates, is_separated, outside};
use crate::memtable::Leaf;
use crate::table::{BlockHandle, KeyHash, Table};
use crate::{Disk, Key, Pace, Record};

/// Most keys that take their steps together: enough to hide the misses, few enough for what was fetched to stay.
const LANES_MAX: usize = 16;

/// A key on its way.
struct Lane<'a, D: Disk> {
    hash: KeyHash,
    store: usize,
    step: Step<'a, D>,
}

enum Step<'a, D: Disk> {
    /// No source holds the key.
    Absent,
    /// The record cache may have it.
    Record,
    /// The usual ways ended.
    Alone,
    /// Where the key is looked for next.
    Store,
    Memtable(Leaf),
    Table(&'a Table<D>),
    Cache(&'a Table<D>, BlockHandle),
    Block(usize),
}

impl<D: Disk, P: Pace> Core<D, P> {
    /// See [`super::Engine::get_batch`].
    pub(super) fn get_batch(
        &self,
        keys: &[Key<'_>],
        mut found: impl FnMut(usize, Result<Option<Record<'_>>, Miss>),
    ) {
        for (number, keys) in keys.chunks(LANES_MAX).enumerate() {
            self.get_lanes(keys, |at, record| found(number * LANES_MAX + at, record));
        }
    }

    fn get_lanes(&self, keys: &[Key<'_>], mut found: impl FnMut(usize, Result<Option<Record<'_>>, Miss>)) {
        let stores = self.stores.borrow();
        let mut lanes: [Lane<'_, D>; LANES_MAX] =
            std::array::from_fn(|_| Lane { hash: KeyHash::default(), store: 0, step: Step::Alone });
        let lanes = &mut lanes[..keys.len()];
        for (lane, key) in lanes.iter_mut().zip(keys) {
            let Some(index) = stores.index_of(key) else { continue };
            *lane = Lane { hash: KeyHash::of(key), store: index, step: Step::Store };
        }
        let asks = self.records.asks(keys.len() as u32);
        if asks {
            let held = self.records.held();
            lanes.iter().for_each(|lane| held.prefetch(lane.hash));
            for lane in lanes.iter_mut().filter(|lane| matches!(lane.step, Step::Store)) {
                if held.approach(lane.hash) {
                    lane.step = Step::Record;
                }
            }
        }
        for (lane, key) in lanes.iter().zip(keys) {
            let Step::Store = lane.step else { continue };
            let store = &stores.stores[lane.store];
            store.active.prefetch(key.prefix.to_u128());
            store.levels.candidates(key).for_each(|table| table.prefetch_filter(lane.hash));
        }
        for (lane, key) in lanes.iter_mut().zip(keys) {
            let Step::Store = lane.step else { continue };
            let store = &stores.stores[lane.store];
            let prefix = key.prefix.to_u128();
            lane.step = if store.active.may_contain(prefix) {
                Step::Memtable(store.active.approach(key))
            } else if store.frozen.iter().any(|frozen| frozen.memtable.may_contain(prefix))
                || store.levels.lost(key).is_some()
            {
                Step::Alone
            } else {
                let may_hold = |table: &&_| Table::covers(table, key) && table.may_contain(lane.hash);
                match store.levels.candidates(key).map(|table| &**table).find(may_hold) {
                    Some(table) => {
                        table.prefetch_directory(key);
                        Step::Table(table)
                    }
                    None => Step::Absent,
                }
            };
        }
        for (lane, key) in lanes.iter().zip(keys) {
            match lane.step {
                Step::Table(table) => table.prefetch_index(key),
                Step::Memtable(leaf) => stores.stores[lane.store].active.prefetch_entry(leaf, key),
                _ => {}
            }
        }
        for (lane, key) in lanes.iter_mut().zip(keys) {
            if let Step::Table(table) = lane.step {
                lane.step = table.locate(key).map_or(Step::Alone, |handle| {
                    self.cache.prefetch(table.number(), handle);
                    Step::Cache(table, handle)
                });
            }
        }
        let held = self.cache.held();
        for lane in lanes.iter_mut() {
            if let Step::Cache(table, handle) = lane.step {
                lane.step = held.find(table.number(), handle).map_or(Step::Alone, |place| {
                    held.block(place).prefetch_head();
                    Step::Block(place)
                });
            }
        }
        for (lane, key) in lanes.iter().zip(keys) {
            if let Step::Block(place) = lane.step {
                held.block(place).prefetch_entry(key);
            }
        }
        let (mut hits, mut memtable_hits, mut record_hits) = (0, 0, 0);
        for (at, (lane, key)) in lanes.iter().zip(keys).enumerate() {
            match lane.step {
                Step::Absent => {
                    self.counters.gets_absent.add(1);
                    found(at, Ok(None));
                    continue;
                }
                Step::Record => {
                    let held = self.records.held();
                    if let Some(record) = held.find(lane.hash, key) {
                        record_hits += 1;
                        found(at, Ok(Some(record)));
                        continue;
                    }
                }
                Step::Block(place) => {
                    if let Some(record) = held.block(place).get(key).filter(dominates)
                        && !is_separated(&record)
                    {
                        hits += 1;
                        let record = outside(record);
                        if asks {
                            // No memtable holds the key.
                            self.records.offer(lane.hash, key, &record);
                        }
                        found(at, Ok(Some(record)));
                        continue;
                    }
                }
                Step::Memtable(leaf) => {
                    let record = stores.stores[lane.store].active.get_near(leaf, key);
                    if let Some(record) = record.filter(dominates) {
                        memtable_hits += 1;
                        found(at, Ok(Some(outside(record))));
                        continue;
                    }
                }
                Step::Alone | Step::Store | Step::Table(_) | Step::Cache(..) => {}
            }
            if let Err(miss) = self.get_from_store(*key, asks, |record| found(at, Ok(record))) {
                found(at, Err(miss));
            }
        }
        if asks {
            self.records.count(keys.len() as u32, record_hits);
        }
        held.count_hits(hits);
        self.counters.gets_memtable.add(memtable_hits);
        self.counters.gets_cached.add(hits);
        self.counters.filter_positives.add(hits);
    }
}
