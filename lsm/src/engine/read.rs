//! Reads: newest source first, last write wins, and a stop at the first record that dominates.
//!
//! [`Core::get`] asks the record cache, then walks the sources as long as everything it needs is in memory. [`read`] does the same walk over a snapshot of
//! the tables, and waits for the blocks that are not. Both skip tables whose orders are all below what was found already.
//!
//! Where a newer version may have been lost, in a block that cannot be read or with a table that is gone, nothing is answered
//! but an error: never an older version.

use std::future::Future;
use std::rc::Rc;

use super::Core;
use super::levels::Levels;
use super::outcome::{Found, Miss, Value};
use super::store::Store;
use crate::planted::{self, Bug};
use crate::table::{Block, KeyHash};
use crate::values::Pointer;
use crate::{
    Class, Disk, Join, JoinByFlag, Joined, Key, Pace, ReadError, Record, RecordBuf, RecordFlags, cover,
};

/// The best record so far, and where it is.
enum Best<'a> {
    None,
    Memory(Record<'a>),
    /// In this block, of this (order, actor).
    Block(Block, (u64, u64)),
}

impl Best<'_> {
    /// The (order, actor) to beat.
    #[inline]
    fn version(&self) -> Option<(u64, u64)> {
        match self {
            Best::None => None,
            Best::Memory(record) => Some((record.order, record.actor)),
            Best::Block(_, version) => Some(*version),
        }
    }
}

#[inline]
pub(super) fn dominates(record: &Record<'_>) -> bool {
    record.flags.0 & RecordFlags::DOMINATES != 0 || planted::active(Bug::StopsWithoutMark)
}

/// Whether the record's value is a pointer into a value file.
#[inline]
pub(super) fn is_separated(record: &Record<'_>) -> bool {
    record.flags.0 & RecordFlags::SEPARATED != 0
}

/// The record as the engine's callers see it.
#[inline]
pub(super) fn outside(record: Record<'_>) -> Record<'_> {
    Record { flags: RecordFlags(record.flags.0 & RecordFlags::OUTSIDE), ..record }
}

/// What the memtables hold: the best record, and whether it is the answer.
#[inline]
fn search_memtables<'a, D: Disk>(store: &'a Store<D>, key: &Key<'_>) -> (Option<Record<'a>>, bool) {
    let mut best = store.active.get(key);
    if best.as_ref().is_some_and(dominates) {
        return (best, true);
    }
    for frozen in store.frozen.iter().filter(|frozen| store.levels.shows_frozen(frozen.through, key.prefix)) {
        let Some(record) = frozen.memtable.get(key) else { continue };
        let last = dominates(&record);
        if best.is_none_or(|best| record.beats(&best)) {
            best = Some(record);
        }
        if last {
            return (best, true);
        }
    }
    (best, store.levels.is_empty())
}

impl<D: Disk, P: Pace> Core<D, P> {
    #[inline]
    pub(super) fn get<R>(
        &self,
        key: Key<'_>,
        found: impl FnOnce(Option<Record<'_>>) -> R,
    ) -> Result<R, Miss> {
        if !self.records.asks(1) {
            return self.get_from_store(key, false, found);
        }
        {
            let held = self.records.held();
            let record = held.find(KeyHash::of(&key), &key);
            self.records.count(1, u32::from(record.is_some()));
            if record.is_some() {
                return Ok(found(record));
            }
        }
        self.get_from_store(key, true, found)
    }

    /// The rest of a get that the record cache did not answer; `offers` = it asked, and what it lacked may enter.
    #[inline]
    pub(super) fn get_from_store<R>(
        &self,
        key: Key<'_>,
        offers: bool,
        found: impl FnOnce(Option<Record<'_>>) -> R,
    ) -> Result<R, Miss> {
        let stores = self.stores.borrow();
        let Some(index) = stores.index_of(&key) else { return Ok(found(None)) };
        let store = &stores.stores[index];
        let (best, is_answer) = search_memtables(store, &key);
        if best.as_ref().is_some_and(JoinByFlag::joins) {
            return self.get_joined(store, &key, found);
        }
        if is_answer {
            self.counters.gets_memtable.add(u64::from(best.is_some()));
            self.counters.gets_absent.add(u64::from(best.is_none()));
            return Ok(found(best.map(outside)));
        }
        if store.levels.lost(&key).is_some() {
            return Err(Miss);
        }
        let hash = KeyHash::of(&key);
        let offered = (offers && best.is_none()).then_some(hash);
        let mut best = best.map_or(Best::None, Best::Memory);
        for table in store.levels.candidates(&key) {
            if best.version().is_some_and(|(order, _)| order > table.meta().max_order)
                || !table.may_contain(hash)
            {
                continue;
            }
            let Some(handle) = table.locate(&key) else { continue };
            let Some(block) = self.cache.get(table.number(), handle) else { return Err(Miss) };
            self.counters.filter_positives.add(1);
            let Some(record) = block.get(&key) else {
                self.counters.filter_false_positives.add(1);
                continue;
            };
            if JoinByFlag::joins(&record) {
                return self.get_joined(store, &key, found);
            }
            let version = (record.order, record.actor);
            let last = dominates(&record);
            if best.version().is_none_or(|best| version > best) {
                if last {
                    return self.show(&key, record, offered, found);
                }
                best = Best::Block(block, version);
            }
            if last {
                break;
            }
        }
        match best {
            Best::None => {
                self.counters.gets_absent.add(1);
                Ok(found(None))
            }
            Best::Memory(record) => {
                self.counters.gets_memtable.add(1);
                Ok(found(Some(outside(record))))
            }
            Best::Block(block, _) => {
                self.show(&key, block.get(&key).expect("it was found there"), offered, found)
            }
        }
    }

    /// Shows a record of a table as it is outside, if its value is in memory; `offered` to the record cache, if no memtable holds its key.
    #[inline]
    fn show<R>(
        &self,
        key: &Key<'_>,
        record: Record<'_>,
        offered: Option<KeyHash>,
        found: impl FnOnce(Option<Record<'_>>) -> R,
    ) -> Result<R, Miss> {
        if is_separated(&record) {
            return self.show_separated(record, found);
        }
        self.counters.gets_cached.add(1);
        let record = outside(record);
        if let Some(hash) = offered {
            self.records.offer(hash, key, &record);
        }
        Ok(found(Some(record)))
    }

    /// Keeps what a read had from these tables alone in the record cache, if that is what the store says still: no memtable holds the
    /// key, and the tables are the same. What was applied meanwhile is in a memtable, or was flushed into another table.
    fn keep_read(&self, key: &Key<'_>, hash: KeyHash, levels: &Rc<Levels<D>>, record: &Record<'_>) {
        let stores = self.stores.borrow();
        let Some(index) = stores.index_of(key) else { return };
        let store = &stores.stores[index];
        let prefix = key.prefix.to_u128();
        let is_unwritten = !store.active.may_contain(prefix)
            && store.frozen.iter().all(|frozen| !frozen.memtable.may_contain(prefix));
        if Rc::ptr_eq(&store.levels, levels) && is_unwritten {
            self.records.keep(hash, key, record);
        } else {
            cover::mark("read not kept since the store has changed");
        }
    }

    #[inline(never)]
    fn show_separated<R>(
        &self,
        record: Record<'_>,
        found: impl FnOnce(Option<Record<'_>>) -> R,
    ) -> Result<R, Miss> {
        let held = Pointer::decode(record.value).and_then(|pointer| self.cache.get_value(&pointer));
        let value = held.ok_or(Miss)?;
        self.counters.gets_cached.add(1);
        Ok(found(Some(outside(Record { value: value.value(), ..record }))))
    }
}

/// What sources hold of a key whose records join, newest first.
struct Joining {
    join: JoinByFlag,
    joined: Option<RecordBuf>,
    scratch: RecordBuf,
}

impl Joining {
    fn new(join: JoinByFlag) -> Joining {
        Joining { join, joined: None, scratch: RecordBuf::default() }
    }

    fn add(&mut self, key: &Key<'_>, record: Record<'_>) {
        let Some(joined) = &mut self.joined else {
            self.joined = Some(own(&outside(record)));
            return;
        };
        match self.join.join(key, &joined.as_record(), &outside(record), &mut self.scratch) {
            Joined::Left => {}
            Joined::Right => *joined = own(&outside(record)),
            Joined::Both => std::mem::swap(joined, &mut self.scratch),
        }
    }

    /// Adds what memtables hold, but for what was dropped.
    fn add_memtables<D: Disk>(&mut self, store: &Store<D>, key: &Key<'_>) {
        let shown =
            store.frozen.iter().filter(|frozen| store.levels.shows_frozen(frozen.through, key.prefix));
        let frozen = shown.filter_map(|frozen| frozen.memtable.get(key));
        store.active.get(key).into_iter().chain(frozen).for_each(|record| self.add(key, record));
    }
}

fn own(record: &Record<'_>) -> RecordBuf {
    let Record { order, actor, flags, expiry_ms, value } = *record;
    RecordBuf { order, actor, flags, expiry_ms, value: value.to_vec() }
}

impl<D: Disk, P: Pace> Core<D, P> {
    /// The rest of a get that came upon a sibling set: no source can be left out.
    #[cold]
    fn get_joined<R>(
        &self,
        store: &Store<D>,
        key: &Key<'_>,
        found: impl FnOnce(Option<Record<'_>>) -> R,
    ) -> Result<R, Miss> {
        if store.levels.lost(key).is_some() {
            return Err(Miss);
        }
        let mut joining = Joining::new(self.options.join);
        joining.add_memtables(store, key);
        let hash = KeyHash::of(key);
        for table in store.levels.candidates(key).filter(|table| table.may_contain(hash)) {
            let Some(handle) = table.locate(key) else { continue };
            let Some(block) = self.cache.get(table.number(), handle) else { return Err(Miss) };
            block.get(key).into_iter().for_each(|record| joining.add(key, record));
        }
        self.counters.gets_cached.add(1);
        Ok(found(joining.joined.as_ref().map(RecordBuf::as_record)))
    }
}

/// The rest of a read that came upon a sibling set: what all tables hold is joined.
async fn read_joined<D: Disk, P: Pace>(
    core: &Core<D, P>,
    mut joining: Joining,
    levels: &Levels<D>,
    key: &Key<'_>,
) -> Result<Option<Found>, ReadError> {
    if let Some(hole) = levels.lost(key) {
        return Err(hole.error());
    }
    let hash = KeyHash::of(key);
    for table in levels.candidates(key).filter(|table| table.may_contain(hash)) {
        let Some(handle) = table.locate(key) else { continue };
        let block = core.cache.read(table, handle, Class::Read).await;
        let block = block.inspect_err(|error| core.suspect(error))?;
        block.get(key).into_iter().for_each(|record| joining.add(key, record));
    }
    core.counters.gets_disk.add(1);
    cover::mark("sibling sets joined");
    Ok(joining.joined.as_ref().map(|joined| Found::copy(joined.as_record())))
}

/// See [`super::Engine::read`]. Memtables and tables are looked up at the first poll: what is applied later may be missed, as
/// with any read that began before a write ended.
pub(super) fn read<D: Disk, P: Pace>(
    core: Rc<Core<D, P>>,
    key: Key<'_>,
) -> impl Future<Output = Result<Option<Found>, ReadError>> + 'static {
    let key = key.to_buf();
    async move {
        let key = key.as_key();
        let (mut best, joining, levels) = {
            let stores = core.stores.borrow();
            let Some(index) = stores.index_of(&key) else { return Ok(None) };
            let store = &stores.stores[index];
            let (best, is_answer) = search_memtables(store, &key);
            let joins = best.as_ref().is_some_and(JoinByFlag::joins);
            let best = best.map(|record| Found::copy(outside(record)));
            let joining = joins.then(|| {
                let mut joining = Joining::new(core.options.join);
                joining.add_memtables(store, &key);
                joining
            });
            if is_answer && joining.is_none() {
                core.counters.gets_memtable.add(u64::from(best.is_some()));
                core.counters.gets_absent.add(u64::from(best.is_none()));
                return Ok(best);
            }
            (best, joining, Rc::clone(&store.levels))
        };
        if let Some(joining) = joining {
            return read_joined(&core, joining, &levels, &key).await;
        }
        core.counters.gets_disk.add(1);
        let is_of_tables = best.is_none();
        let mut pointer = None;
        let hash = KeyHash::of(&key);
        for table in levels.candidates(&key) {
            if best.as_ref().is_some_and(|best| best.order > table.meta().max_order)
                || !table.may_contain(hash)
            {
                continue;
            }
            let Some(handle) = table.locate(&key) else { continue };
            let block = core.cache.read(table, handle, Class::Read).await;
            let block = block.inspect_err(|error| core.suspect(error))?;
            core.counters.filter_positives.add(1);
            let Some(record) = block.get(&key) else {
                core.counters.filter_false_positives.add(1);
                continue;
            };
            if JoinByFlag::joins(&record) {
                // No memtable had one, and no table before this.
                return read_joined(&core, Joining::new(core.options.join), &levels, &key).await;
            }
            if best.as_ref().is_none_or(|best| (record.order, record.actor) > (best.order, best.actor)) {
                pointer = is_separated(&record).then(|| core.pointer(&key, &record)).transpose()?;
                best = Some(Found::copy(outside(record)));
                cover::mark("record read from a table");
            }
            if dominates(&record) {
                break;
            }
        }
        if let Some(hole) = levels.lost(&key)
            && best.as_ref().is_none_or(|best| best.order <= hole.area.order_max)
        {
            cover::mark("read of what was lost refused");
            return Err(hole.error());
        }
        // The levels are held until here, and with them the value file.
        if let (Some(best), Some((file, pointer))) = (&mut best, pointer) {
            let value = core.cache.read_value(&file, &pointer, Class::Read).await;
            best.value = Value::Shared(value.inspect_err(|error| core.suspect(error))?);
            cover::mark("value read from a value file");
        } else if let Some(best) = best.as_ref().filter(|_| is_of_tables) {
            core.keep_read(&key, hash, &levels, &best.record());
        }
        Ok(best)
    }
}
