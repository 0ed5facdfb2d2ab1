//! What a scan merges: memtables, tables of level 0, runs of tables.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

use super::Core;
use super::store::{Frozen, Store};
use crate::merge::Source;
use crate::table::{Table, TableWalk};
use crate::{
    BlockCache, Direction, Disk, Key, KeyBuf, KeyRange, Memtable, Pace, ReadError, Record, RecordBuf,
};

/// Records that are copied from a memtable at once at first: most scans take few.
const CHUNK_MIN: usize = 4;
/// And at most.
const CHUNK_MAX: usize = 64;
/// Bytes of keys and values from which no more are copied at once, however few they are: about what a walk of a table has at hand.
const CHUNK_BYTES_MAX: usize = 256 << 10;

/// A source of any kind.
pub(super) enum ScanSource<'a, D: Disk, P: Pace> {
    Memory(MemWalk<'a, D, P>),
    Run(RunWalk<D>),
}

/// The sources of a store that may hold a key of `range`, newest first.
pub(super) fn sources<'a, D: Disk, P: Pace>(
    core: &'a Core<D, P>,
    index: usize,
    range: &KeyRange,
    direction: Direction,
    is_stale: &Rc<Cell<bool>>,
) -> Vec<ScanSource<'a, D, P>> {
    let stores = core.stores.borrow();
    let store: &Store<D> = &stores.stores[index];
    let memory = |memory| ScanSource::Memory(MemWalk::new(core, memory, range, direction, is_stale));
    let active = memory(Memory::Active { index, freezes: store.freezes });
    // Of what was dropped, the range has all or nothing.
    let prefix = range.low().prefix;
    let frozen = store.frozen.iter().filter(|frozen| store.levels.shows_frozen(frozen.through, prefix));
    let frozen = frozen.map(|frozen: &Frozen| memory(Memory::Frozen(frozen.memtable.clone())));
    let runs = store.levels.runs_in(range).map(|tables| {
        ScanSource::Run(RunWalk {
            ahead: tables.iter().filter(|table| store.levels.shows(table, prefix)).cloned().collect(),
            cache: core.cache.clone(),
            range: range.clone(),
            direction,
            walk: None,
        })
    });
    std::iter::once(active).chain(frozen).chain(runs).collect()
}

/// A memtable from which records are copied a few at a time, so that it may change in between.
pub(super) struct MemWalk<'a, D: Disk, P: Pace> {
    core: &'a Core<D, P>,
    memory: Memory,
    direction: Direction,
    /// What is not copied yet.
    left: KeyRange,
    chunk: Vec<(KeyBuf, RecordBuf)>,
    at: usize,
    chunk_len: usize,
    /// Set when the active memtable was frozen, and is not where this looks for it any more.
    is_stale: Rc<Cell<bool>>,
}

enum Memory {
    Active { index: usize, freezes: u64 },
    Frozen(Rc<Memtable>),
}

impl<'a, D: Disk, P: Pace> MemWalk<'a, D, P> {
    fn new(
        core: &'a Core<D, P>,
        memory: Memory,
        range: &KeyRange,
        direction: Direction,
        is_stale: &Rc<Cell<bool>>,
    ) -> Self {
        let (left, is_stale) = (range.clone(), is_stale.clone());
        MemWalk { core, memory, direction, left, chunk: Vec::new(), at: 0, chunk_len: CHUNK_MIN, is_stale }
    }

    fn refill(&mut self) {
        self.chunk.clear();
        self.at = 0;
        match &self.memory {
            Memory::Frozen(memtable) => {
                copy(memtable, &self.left, self.direction, self.chunk_len, &mut self.chunk);
            }
            Memory::Active { index, freezes } => {
                let stores = self.core.stores.borrow();
                let store = &stores.stores[*index];
                if store.freezes != *freezes {
                    self.is_stale.set(true);
                    return;
                }
                copy(&store.active, &self.left, self.direction, self.chunk_len, &mut self.chunk);
            }
        }
        self.chunk_len = (self.chunk_len * 2).min(CHUNK_MAX);
        if let Some((last, _)) = self.chunk.last() {
            self.left = match self.direction {
                Direction::Forward => self.left.after(&last.as_key()),
                Direction::Reverse => self.left.before(&last.as_key()),
            };
        }
    }
}

/// Copies the next records of a range: at most so many, and none behind the one with which they come to [`CHUNK_BYTES_MAX`].
fn copy(
    memtable: &Memtable,
    range: &KeyRange,
    direction: Direction,
    most: usize,
    out: &mut Vec<(KeyBuf, RecordBuf)>,
) {
    let own = |(key, record): (Key<'_>, Record<'_>)| {
        let Record { order, actor, flags, expiry_ms, value } = record;
        (key.to_buf(), RecordBuf { order, actor, flags, expiry_ms, value: value.to_vec() })
    };
    let mut bytes = 0;
    let next = |(key, record): &(Key<'_>, Record<'_>)| {
        let has_room = bytes < CHUNK_BYTES_MAX;
        bytes += key.partition.len() + key.sort.len() + record.value.len();
        has_room && range.contains(key)
    };
    match direction {
        Direction::Forward => {
            out.extend(memtable.iter_from(&range.low()).take(most).take_while(next).map(own));
        }
        Direction::Reverse => {
            out.extend(memtable.iter_back(&range.high()).take(most).take_while(next).map(own));
        }
    }
}

impl<D: Disk, P: Pace> Source for ScanSource<'_, D, P> {
    #[inline]
    fn current(&self) -> Option<(Key<'_>, Record<'_>)> {
        match self {
            ScanSource::Memory(walk) => {
                walk.chunk.get(walk.at).map(|(key, record)| (key.as_key(), record.as_record()))
            }
            ScanSource::Run(run) => run.walk.as_ref().and_then(|walk| walk.current()),
        }
    }

    #[inline]
    fn advance(&mut self) -> bool {
        match self {
            ScanSource::Memory(walk) => {
                walk.at += 1;
                walk.at < walk.chunk.len()
            }
            ScanSource::Run(run) => run.walk.as_mut().is_some_and(|walk| walk.advance()),
        }
    }

    async fn fill(&mut self) -> Result<(), ReadError> {
        match self {
            ScanSource::Memory(walk) => {
                if walk.at >= walk.chunk.len() {
                    walk.refill();
                }
                Ok(())
            }
            ScanSource::Run(run) => run.fill().await,
        }
    }
}

/// Tables with disjoint ranges, one after the other.
pub(super) struct RunWalk<D: Disk> {
    /// By key; the next one is at the end from which the direction goes.
    ahead: VecDeque<Rc<Table<D>>>,
    cache: Rc<BlockCache>,
    range: KeyRange,
    direction: Direction,
    walk: Option<TableWalk<D>>,
}

impl<D: Disk> RunWalk<D> {
    async fn fill(&mut self) -> Result<(), ReadError> {
        loop {
            if let Some(walk) = &mut self.walk {
                walk.fill().await?;
                if walk.current().is_some() {
                    return Ok(());
                }
            }
            let next = match self.direction {
                Direction::Forward => self.ahead.pop_front(),
                Direction::Reverse => self.ahead.pop_back(),
            };
            self.walk =
                next.map(|table| TableWalk::new(table, self.cache.clone(), &self.range, self.direction));
            if self.walk.is_none() {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Prefix, RecordFlags};

    /// Up to 64 records were copied from each memtable however long they are: of the longest ones hundreds of megabytes, beside the
    /// budget of the core's memory.
    #[test]
    fn a_few_long_records_are_copied_at_once_and_many_short_ones() {
        for (value_bytes, at_once) in [(100, CHUNK_MAX), (64 << 10, 4), (300 << 10, 1)] {
            let (mut memtable, value) = (Memtable::new(), vec![7; value_bytes]);
            for n in 0..100u64 {
                let prefix = Prefix { space: 1, vnode: 0, table: 0, token: n };
                let record =
                    Record { order: n, actor: 0, flags: RecordFlags(0), expiry_ms: 0, value: &value };
                memtable.insert(Key { prefix, partition: b"p", sort: b"" }, record);
            }
            for direction in [Direction::Forward, Direction::Reverse] {
                let (mut left, mut shown) = (KeyRange::vnode(1, 0), Vec::new());
                loop {
                    let mut chunk = Vec::new();
                    copy(&memtable, &left, direction, CHUNK_MAX, &mut chunk);
                    let Some((last, _)) = chunk.last() else { break };
                    assert_eq!(chunk.len(), at_once.min(100 - shown.len()), "of {value_bytes} bytes each");
                    left = match direction {
                        Direction::Forward => left.after(&last.as_key()),
                        Direction::Reverse => left.before(&last.as_key()),
                    };
                    shown.extend(chunk.iter().map(|(_, record)| record.order));
                }
                if direction == Direction::Reverse {
                    shown.reverse();
                }
                assert!(shown.into_iter().eq(0..100), "each once, in order");
            }
        }
    }
}
