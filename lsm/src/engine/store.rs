//! The stores of a core, and which vnode lives in which.
//!
//! **Early stop.** Tables are not in the order of their records' versions: a hint or a repair delivers old versions late, so a
//! read that has found a record must, in general, go on. A record that was newer, when it was applied, than *everything* in
//! its store's frozen memtables and tables ([`Store::ceiling`]) is marked [`RecordFlags::DOMINATES`], and a read stops at it.
//! Why that holds for as long as the record is found at all:
//!
//! 1. Sources are asked so that what was applied later comes first (invariant 2 of [`super`]). So the sources behind the one
//!    that holds record r hold, for r's key, only records that were applied before r.
//! 2. Of those, the ones that were in the same active memtable met r there, and the memtable kept the winner. The others
//!    were in frozen memtables and tables already, and none of them has r's order or a higher one: that is what the mark says.
//! 3. A flush copies. A merge takes sources that are neighbours in that order, keeps for each key the winner with its
//!    mark, and puts it where its inputs stood: what is behind it is a part of what was behind the winner before.
//!
//! The ceiling never sinks while the engine is open, also when compaction drops the record that raised it: too high only costs marks.

use std::rc::{Rc, Weak};

use super::doubt::Doubt;
use super::levels::Levels;
use super::outcome::Refusal;
use super::stats::StoreCounts;
use crate::planted::{self, Bug};
use crate::record_cache::RecordCache;
use crate::{Disk, Extent, Join, JoinByFlag, Joined, Key, Memtable, Record, RecordBuf, RecordFlags};

/// All stores of a core.
pub(super) struct Stores<D: Disk> {
    /// By vnode: the index of its store, or [`NOWHERE`].
    places: Vec<u16>,
    /// The index of the store of space 0.
    home: usize,
    join: JoinByFlag,
    /// Told of what is applied.
    pub(super) records: Rc<RecordCache>,
    pub(super) stores: Vec<Store<D>>,
    /// The highest sequence number applied.
    pub(super) applied: u64,
    /// Vnodes that are being dropped, or were, and the number up to which records of them that come back from the log are left out.
    pub(super) barred: Vec<(u16, u64)>,
    /// Changes of the manifest that may be on the disk.
    pub(super) doubt: Doubt,
    /// Extents that are being ingested, each with a number of its own: no record of them is marked. One for each ingest of the host's.
    pub(super) ingests: Vec<(u64, Extent)>,
    pub(super) ingests_begun: u64,
    /// Bytes of the active memtables.
    pub(super) active_bytes: usize,
    /// Bytes of the frozen memtables.
    pub(super) frozen_bytes: usize,
    /// A vnode is about to go to another store.
    pub(super) handover: Option<Handover>,
    /// Memtables that were flushed; scans may still walk them.
    walked: Vec<Weak<Memtable>>,
    /// Memtables that were flushed and nobody walks, until their memory is given back.
    dissolving: Vec<Memtable>,
    /// Largest chunks in which memtables take memory, in bytes.
    chunk_bytes: usize,
}

const NOWHERE: u16 = u16::MAX;
/// Records that are applied together: enough to hide cache misses, few enough for what was fetched to stay.
pub(super) const APPLIED_TOGETHER: usize = 16;

/// Joins a sibling set with the one that the memtable has for its key. It is never marked: a read joins what all sources hold.
#[cold]
fn join_into(memtable: &mut Memtable, mut join: JoinByFlag, key: Key<'_>, record: Record<'_>) -> usize {
    let record = Record { flags: RecordFlags(record.flags.0 & RecordFlags::OUTSIDE), ..record };
    let mut joined = RecordBuf::default();
    let made = match memtable.get(&key) {
        Some(present) => join.join(&key, &record, &present, &mut joined),
        None => Joined::Left,
    };
    match made {
        Joined::Left => memtable.replace(key, record),
        Joined::Right => 0,
        Joined::Both => memtable.replace(key, joined.as_record()),
    }
}

/// One LSM tree.
pub(super) struct Store<D: Disk> {
    pub(super) number: u16,
    /// Takes writes.
    pub(super) active: Memtable,
    /// The first sequence number applied to the active memtable.
    pub(super) active_first: Option<u64>,
    /// How often the active memtable was frozen.
    pub(super) freezes: u64,
    /// Memtables that wait for their flush, newest first.
    pub(super) frozen: Vec<Frozen>,
    pub(super) levels: Rc<Levels<D>>,
    /// No order in a frozen memtable or a table is above this.
    pub(super) ceiling: u64,
    /// Sequence numbers up to here are in tables: replay leaves them out.
    pub(super) flushed_through: u64,
    pub(super) counts: StoreCounts,
    /// What a byte written to it costs, in picoseconds.
    pub(super) price_ps: u64,
    /// Its level 0 is full: it takes no writes.
    pub(super) is_overloaded: bool,
}

/// Records of a vnode, which are to be copied into the store where it goes. See [`super::vnode_move`].
pub(super) struct Handover {
    /// The store that has them.
    pub(super) index: usize,
    /// The store where they go.
    pub(super) target: usize,
    /// Those with higher sequence numbers than this.
    pub(super) seq: u64,
    /// What a group adds at most.
    pub(super) group_bytes: usize,
}

/// A memtable that is not written to any more.
#[derive(Clone)]
pub(super) struct Frozen {
    pub(super) memtable: Rc<Memtable>,
    /// The first sequence number in it.
    pub(super) first: u64,
    /// All of the store's records up to this sequence number are in it, in an older one, or in tables.
    pub(super) through: u64,
}

impl<D: Disk> Stores<D> {
    /// `chunk_bytes`: the largest chunks in which memtables take memory.
    pub(super) fn new(
        mut stores: Vec<Store<D>>,
        home: u16,
        join: JoinByFlag,
        records: Rc<RecordCache>,
        chunk_bytes: usize,
    ) -> Stores<D> {
        stores.iter_mut().for_each(|store| store.active = Memtable::with_chunks(chunk_bytes));
        let home = stores.iter().position(|store| store.number == home).expect("a store of this core");
        let active_bytes = stores.iter().map(|store| store.active.bytes()).sum();
        Stores {
            places: Vec::new(),
            home,
            join,
            records,
            stores,
            applied: 0,
            barred: Vec::new(),
            doubt: Doubt::default(),
            ingests: Vec::new(),
            ingests_begun: 0,
            active_bytes,
            frozen_bytes: 0,
            handover: None,
            walked: Vec::new(),
            dissolving: Vec::new(),
            chunk_bytes,
        }
    }

    /// Bytes of all memtables, flushed ones included as long as somebody walks them.
    pub(super) fn memory_bytes(&self) -> usize {
        let walked = self.walked.iter().filter_map(Weak::upgrade).map(|memtable| memtable.bytes());
        let dissolving = self.dissolving.iter().map(Memtable::bytes);
        self.active_bytes + self.frozen_bytes + walked.chain(dissolving).sum::<usize>()
    }

    /// The same, with what is set aside.
    pub(super) fn claimed_bytes(&self) -> usize {
        self.memory_bytes() + self.handover.as_ref().map_or(0, |handover| self.copied_bytes_max(handover))
    }

    /// Most bytes that a hand-over may copy: all that is in memory above its sequence number, and what is applied before anybody looks
    /// at the budget again.
    #[cold]
    fn copied_bytes_max(&self, handover: &Handover) -> usize {
        let store = &self.stores[handover.index];
        let above = store.frozen.iter().filter(|frozen| frozen.through > handover.seq);
        let frozen_bytes: usize = above.map(|frozen| frozen.memtable.bytes()).sum();
        frozen_bytes + store.active.bytes() + handover.group_bytes
    }

    /// Whether a store is about to get records of a vnode that are older than some in its active memtable. That must not be frozen before
    /// they are in it: its flush would say that they are in tables ([`Store::flushed_through`]).
    pub(super) fn is_target(&self, index: usize) -> bool {
        self.handover.as_ref().is_some_and(|handover| handover.target == index)
            && !planted::active(Bug::MoveLetsTargetFreeze)
    }

    /// A frozen memtable is in a table now.
    pub(super) fn flushed(&mut self, memtable: Rc<Memtable>) {
        self.frozen_bytes -= memtable.bytes();
        self.walked.retain(|memtable| memtable.strong_count() > 0);
        match Rc::try_unwrap(memtable) {
            Ok(memtable) => self.dissolving.push(memtable),
            Err(memtable) => self.walked.push(Rc::downgrade(&memtable)),
        }
    }

    /// Gives back a part of the memory of flushed memtables. False if there is none. Others run in between.
    pub(super) fn dissolve_some(&mut self) -> bool {
        let Some(memtable) = self.dissolving.last_mut() else { return false };
        if !memtable.dissolve() {
            self.dissolving.pop();
        }
        true
    }

    pub(super) fn place(&mut self, vnode: u16, store: u16) {
        let index = self.index_of_store(store);
        let vnode = usize::from(vnode);
        if self.places.len() <= vnode {
            self.places.resize(vnode + 1, NOWHERE);
        }
        self.places[vnode] = index as u16;
    }

    /// A vnode lives here no more.
    pub(super) fn unplace(&mut self, vnode: u16) {
        if let Some(place) = self.places.get_mut(usize::from(vnode)) {
            *place = NOWHERE;
        }
    }

    /// Why records of this key may not be staged although its vnode lives here, if they may not: of whole vnodes only, for of all that is
    /// being changed or in doubt only a drop of one leaves no place for them ([`super::doubt`]).
    #[inline]
    pub(super) fn closed(&self, key: &Key<'_>) -> Option<Refusal> {
        if self.barred.is_empty() && !self.doubt.closes_any() || key.prefix.space == 0 {
            return None;
        }
        self.closed_vnode(key.prefix.vnode)
    }

    #[cold]
    fn closed_vnode(&self, vnode: u16) -> Option<Refusal> {
        if self.barred.contains(&(vnode, u64::MAX)) {
            return Some(Refusal::UnknownVnode);
        }
        self.doubt.closes(vnode)
    }

    /// Ends the ingests that touch an extent.
    pub(super) fn end_ingests(&mut self, extent: &Extent) {
        self.ingests.retain(|(_, other)| !extent.includes(other) && !other.includes(extent));
    }

    /// Whether a record that comes back from the log was dropped on its way.
    #[inline]
    pub(super) fn is_barred(&self, seq: u64, key: &Key<'_>) -> bool {
        !self.barred.is_empty()
            && key.prefix.space > 0
            && self
                .barred
                .iter()
                .any(|(vnode, through)| *vnode == key.prefix.vnode && *through < u64::MAX && seq <= *through)
    }

    /// Everything up to `seq` has come back from the log.
    pub(super) fn came_back(&mut self, seq: u64) {
        self.applied = self.applied.max(seq);
        self.barred.retain(|(_, through)| *through > seq);
    }

    pub(super) fn index_of_store(&self, number: u16) -> usize {
        self.stores.iter().position(|store| store.number == number).expect("a store of this core")
    }

    /// Where a key lives: space 0 in its own store, else where the vnode does.
    #[inline]
    pub(super) fn index_of(&self, key: &Key<'_>) -> Option<usize> {
        if key.prefix.space == 0 {
            return Some(self.home);
        }
        match self.places.get(usize::from(key.prefix.vnode)) {
            Some(&NOWHERE) | None => None,
            Some(&index) => Some(usize::from(index)),
        }
    }

    pub(super) fn number_of(&self, vnode: u16) -> Option<u16> {
        match self.places.get(usize::from(vnode)) {
            Some(&NOWHERE) | None => None,
            Some(&index) => Some(self.stores[usize::from(index)].number),
        }
    }

    /// Asks for what applying these records will touch, so that their misses overlap.
    pub(super) fn prefetch<'k>(&self, keys: impl Iterator<Item = (usize, Key<'k>)> + Clone) {
        let mut leaves = [None; APPLIED_TOGETHER];
        for ((index, key), leaf) in keys.clone().zip(&mut leaves) {
            let active = &self.stores[index].active;
            active.prefetch(key.prefix.to_u128());
            self.records.prefetch(&key);
            *leaf = Some(active.approach(&key));
        }
        for ((index, key), leaf) in keys.zip(leaves.into_iter().flatten()) {
            self.stores[index].active.prefetch_entry(leaf, &key);
        }
    }

    /// Applies a durable record to the active memtable of its store.
    #[inline]
    pub(super) fn apply(&mut self, index: usize, seq: u64, key: Key<'_>, record: Record<'_>) {
        let store = &mut self.stores[index];
        let is_ingested =
            !self.ingests.is_empty() && self.ingests.iter().any(|(_, extent)| extent.contains(key.prefix));
        let dominates = if record.order > store.ceiling && !is_ingested { RecordFlags::DOMINATES } else { 0 };
        let flags = RecordFlags(record.flags.0 & RecordFlags::OUTSIDE | dominates);
        store.active_first.get_or_insert(seq);
        if !planted::active(Bug::RecordCacheMissesWrite) {
            self.records.remove(&key);
        }
        self.active_bytes += if JoinByFlag::joins(&record) {
            join_into(&mut store.active, self.join, key, record)
        } else {
            store.active.insert(key, Record { flags, ..record })
        };
        self.applied = self.applied.max(seq);
    }

    /// Freezes the active memtable of a store; it waits for its flush then.
    pub(super) fn freeze(&mut self, index: usize) {
        let through = self.applied;
        let store = &mut self.stores[index];
        let Some(first) = store.active_first.take() else { return };
        let memtable = std::mem::replace(&mut store.active, Memtable::with_chunks(self.chunk_bytes));
        store.freezes += 1;
        store.ceiling = store.ceiling.max(memtable.newest_order());
        self.active_bytes -= memtable.bytes();
        self.active_bytes += store.active.bytes();
        self.frozen_bytes += memtable.bytes();
        store.frozen.insert(0, Frozen { memtable: Rc::new(memtable), first, through });
    }

    /// The store whose active memtable is largest.
    pub(super) fn largest(&self) -> Option<usize> {
        let written = self.stores.iter().enumerate().filter(|(_, store)| store.active_first.is_some());
        written.max_by_key(|(_, store)| store.active.bytes()).map(|(index, _)| index)
    }

    /// The store that needs the oldest part of the log, and from where on.
    pub(super) fn oldest(&self) -> Option<(usize, u64)> {
        let needed =
            self.stores.iter().enumerate().filter_map(|(index, store)| Some((index, store.needs()?)));
        needed.min_by_key(|(_, first)| *first)
    }

    /// The log is needed from this sequence number on.
    pub(super) fn log_floor(&self) -> u64 {
        self.oldest().map_or(self.applied + 1, |(_, first)| first)
    }

    /// The log is needed from this sequence number on, once the oldest frozen memtable of a store is flushed.
    pub(super) fn log_floor_after_flush(&self, flushed: usize) -> u64 {
        let needed = self.stores.iter().enumerate().filter_map(|(index, store)| {
            if index != flushed {
                return store.needs();
            }
            let next = store.frozen.len().checked_sub(2).map(|next| store.frozen[next].first);
            next.or(store.active_first)
        });
        needed.min().unwrap_or(self.applied + 1)
    }

    /// The frozen memtable to flush next, and its store: of all the oldest of their stores the one that pins most of the log.
    pub(super) fn next_frozen(&self) -> Option<(usize, Frozen)> {
        let oldest = self.stores.iter().enumerate();
        let oldest = oldest.filter_map(|(index, store)| Some((index, store.frozen.last()?)));
        oldest.min_by_key(|(_, frozen)| frozen.first).map(|(index, frozen)| (index, frozen.clone()))
    }

    pub(super) fn l0_tables_max(&self) -> usize {
        self.stores.iter().map(|store| store.levels.l0_tables()).max().unwrap_or(0)
    }
}

impl<D: Disk> Store<D> {
    pub(super) fn new(number: u16, levels: Levels<D>, flushed_through: u64) -> Store<D> {
        // What cannot be asked for counts as there: a record that dominates is newer than that too.
        let lost = levels.holes().iter().map(|hole| hole.area.order_max);
        let ceiling = levels.tables().map(|table| table.meta().max_order).chain(lost).max().unwrap_or(0);
        Store {
            number,
            active: Memtable::new(),
            active_first: None,
            freezes: 0,
            frozen: Vec::new(),
            levels: Rc::new(levels),
            ceiling,
            flushed_through,
            counts: StoreCounts::default(),
            price_ps: 0,
            is_overloaded: false,
        }
    }

    /// From where on this store needs the log.
    fn needs(&self) -> Option<u64> {
        self.frozen.last().map(|frozen| frozen.first).or(self.active_first)
    }
}
