//! The memtable: the newest records of a store, in memory and in key order.
//!
//! One thread owns it, so there are no locks and no atomics: a B+-tree over integers points into a bump arena. A key is in
//! it once; of two records of a key the one with the higher (order, actor) stays, in whichever order they arrive. A
//! memtable only grows. Once frozen (put behind an `Rc` and left alone) it may be walked with a [`MemCursor`] across
//! awaits; while it still changes, walk it with [`Memtable::iter_from`] and seek again by key after an await.
//!
//! It does not know the log: which sequence it pins is its owner's business.

mod arena;
mod share;
mod sketch;
mod tree;

use std::rc::Rc;

use arena::{Arena, EntryRef};
pub(crate) use arena::{CHUNK_BYTES_MAX, CHUNK_BYTES_MIN};
use sketch::Sketch;
pub(crate) use tree::STEP_BYTES;
use tree::{Spot, Tree};

use crate::{Key, KeyRange, Prefix, Record};

/// Bytes that are given back to the allocator at once, unless a chunk is longer: some tens of microseconds' work.
const FREED_AT_ONCE_BYTES: usize = 1 << 20;

/// Keys that are put into a growing sketch with each that is inserted: it is full long before the next one is due.
const SKETCHED_AT_ONCE: usize = 32;
/// Prefixes are below this.
const PREFIXES_END: u128 = 1 << 120;

/// See the module.
pub struct Memtable {
    tree: Tree,
    arena: Arena,
    sketch: Sketch,
    /// The sketch that takes its place once it is filled.
    growing: Option<Growing>,
    len: usize,
    newest_order: u64,
}

/// A sketch of twice the size, which is filled while keys are inserted: filling it at once would take milliseconds.
struct Growing {
    sketch: Sketch,
    /// Prefixes below this are in it, and those that were inserted since it was begun.
    from: u128,
}

/// A place in a memtable, as long as nothing is inserted.
#[derive(Clone, Copy)]
pub(crate) struct Leaf(u32);

impl Default for Memtable {
    fn default() -> Self {
        Self::new()
    }
}

impl Memtable {
    /// An empty memtable.
    pub fn new() -> Memtable {
        Memtable::with_chunks(CHUNK_BYTES_MAX)
    }

    /// An empty memtable that takes memory in chunks of so many bytes at most.
    pub(crate) fn with_chunks(chunk_bytes_max: usize) -> Memtable {
        Memtable {
            tree: Tree::new(),
            arena: Arena::new(chunk_bytes_max),
            sketch: Sketch::default(),
            growing: None,
            len: 0,
            newest_order: 0,
        }
    }

    /// Number of keys.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was inserted.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes it has reserved from the allocator, superseded records included. Of a sketch that grows the new one counts, and not the old
    /// one of half its size.
    #[inline]
    pub fn bytes(&self) -> usize {
        let sketch = self.growing.as_ref().map_or(&self.sketch, |growing| &growing.sketch);
        self.arena.bytes() + self.tree.bytes() + sketch.bytes()
    }

    /// Whether it has a key of a range.
    pub(crate) fn holds(&self, range: &KeyRange) -> bool {
        self.iter_from(&range.low()).next().is_some_and(|(key, _)| range.contains(&key))
    }

    /// Gives a part of its memory back to the allocator, of which it may have so much that it takes milliseconds. Whether there is
    /// more. Nothing may be asked of it any more but this and [`Memtable::bytes`].
    pub(crate) fn dissolve(&mut self) -> bool {
        let left = self.bytes().saturating_sub(FREED_AT_ONCE_BYTES);
        while self.bytes() > left {
            if !self.arena.pop() && !self.tree.pop() {
                return false;
            }
        }
        true
    }

    /// Highest order ever inserted; 0 when empty.
    #[inline]
    pub fn newest_order(&self) -> u64 {
        self.newest_order
    }

    /// Inserts a record, unless the one that is there for its key wins or is the same. Returns by how much [`Memtable::bytes`] grew.
    pub fn insert(&mut self, key: Key<'_>, record: Record<'_>) -> usize {
        self.put(key, record, |present| record.beats(present))
    }

    /// Inserts a record in place of the one that is there for its key, if any. Returns by how much [`Memtable::bytes`] grew.
    pub fn replace(&mut self, key: Key<'_>, record: Record<'_>) -> usize {
        self.put(key, record, |_| true)
    }

    #[inline]
    fn put(&mut self, key: Key<'_>, record: Record<'_>, replaces: impl FnOnce(&Record<'_>) -> bool) -> usize {
        let before = self.bytes();
        self.newest_order = self.newest_order.max(record.order);
        let prefix = key.prefix.to_u128();
        let path = self.tree.seek(prefix, |entry| self.arena.compare(entry, &key));
        match self.tree.found(&path) {
            Some(old) => {
                if !replaces(&self.arena.entry(old).record) {
                    return 0;
                }
                if !self.arena.replace(old, &key, &record) {
                    let entry = self.arena.push(&key, &record);
                    self.tree.set(&path, entry);
                }
            }
            None => {
                let entry = self.arena.push(&key, &record);
                self.tree.insert(&path, prefix, entry);
                self.len += 1;
                self.note(prefix);
            }
        }
        self.bytes() - before
    }

    /// The record of a key.
    #[inline]
    pub fn get(&self, key: &Key<'_>) -> Option<Record<'_>> {
        let prefix = key.prefix.to_u128();
        if !self.sketch.may_contain(prefix) {
            return None;
        }
        let path = self.tree.seek(prefix, |entry| self.arena.compare(entry, key));
        self.tree.found(&path).map(|entry| self.arena.entry(entry).record)
    }

    /// False only if it holds no key with this prefix. Reads one word.
    #[inline]
    pub(crate) fn may_contain(&self, prefix: u128) -> bool {
        self.sketch.may_contain(prefix)
    }

    /// Asks for what [`Memtable::may_contain`] reads.
    #[inline]
    pub(crate) fn prefetch(&self, prefix: u128) {
        self.sketch.prefetch(prefix);
    }

    /// Where a key is or would be; asks for what [`Memtable::prefetch_entry`] reads.
    #[inline]
    pub(crate) fn approach(&self, key: &Key<'_>) -> Leaf {
        let leaf = self.tree.leaf_of(key.prefix.to_u128(), |entry| self.arena.compare(entry, key));
        self.tree.prefetch_leaf(leaf);
        Leaf(leaf)
    }

    /// Asks for what [`Memtable::get_near`], or an insertion of the key, reads besides.
    #[inline]
    pub(crate) fn prefetch_entry(&self, leaf: Leaf, key: &Key<'_>) {
        if let Some(entry) = self.tree.first_in(leaf.0, key.prefix.to_u128()) {
            self.arena.prefetch(entry);
        }
    }

    /// The record of a key, given what [`Memtable::approach`] said of it since when nothing was inserted.
    #[inline]
    pub(crate) fn get_near(&self, leaf: Leaf, key: &Key<'_>) -> Option<Record<'_>> {
        let compare = |entry| self.arena.compare(entry, key);
        let entry = self.tree.find_in(leaf.0, key.prefix.to_u128(), compare)?;
        Some(self.arena.entry(entry).record)
    }

    /// Puts the prefix of a new key into the sketch.
    #[inline]
    fn note(&mut self, prefix: u128) {
        if self.growing.is_none() && self.sketch.has_room(self.len) {
            self.sketch.insert(prefix);
        } else {
            self.note_growing(prefix);
        }
    }

    /// As [`Memtable::note`], in a sketch that is to grow. Until the new one is filled, the old one has a few keys more than its size is for.
    #[cold]
    fn note_growing(&mut self, prefix: u128) {
        if self.sketch.is_empty() {
            self.sketch = self.sketch.doubled();
            self.sketch.insert(prefix);
            return;
        }
        self.sketch.insert(prefix);
        let begun = self.growing.take();
        let mut growing = begun.unwrap_or_else(|| Growing { sketch: self.sketch.doubled(), from: 0 });
        growing.sketch.insert(prefix);
        let from = Key { prefix: Prefix::from_u128(growing.from), partition: b"", sort: b"" };
        let mut spot = self.seek(&from);
        for _ in 0..SKETCHED_AT_ONCE {
            let next = if growing.from < PREFIXES_END { self.tree.at(&mut spot) } else { None };
            let Some((prefix, _)) = next else {
                self.sketch = growing.sketch;
                return;
            };
            growing.sketch.insert(prefix);
            growing.from = prefix + 1;
            spot = spot.next();
        }
        self.growing = Some(growing);
    }

    /// All keys and records, in order.
    pub fn iter(&self) -> MemIter<'_> {
        MemIter { table: self, spot: self.tree.first() }
    }

    /// Keys not before `key` and their records, in order.
    pub fn iter_from(&self, key: &Key<'_>) -> MemIter<'_> {
        MemIter { table: self, spot: self.seek(key) }
    }

    /// Keys before `key` and their records, last first.
    pub fn iter_back(&self, key: &Key<'_>) -> MemBackIter<'_> {
        MemBackIter { table: self, spot: self.before(key) }
    }

    fn before(&self, key: &Key<'_>) -> Option<Spot> {
        self.tree.before(&self.tree.seek(key.prefix.to_u128(), |entry| self.arena.compare(entry, key)))
    }

    fn seek(&self, key: &Key<'_>) -> Spot {
        self.tree.seek(key.prefix.to_u128(), |entry| self.arena.compare(entry, key)).spot()
    }

    #[inline]
    fn pair(&self, (prefix, entry): (u128, EntryRef)) -> (Key<'_>, Record<'_>) {
        let entry = self.arena.entry(entry);
        (entry.key(prefix), entry.record)
    }
}

/// Walks a memtable in key order.
pub struct MemIter<'a> {
    table: &'a Memtable,
    spot: Spot,
}

impl<'a> Iterator for MemIter<'a> {
    type Item = (Key<'a>, Record<'a>);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let here = self.table.tree.at(&mut self.spot)?;
        self.spot = self.spot.next();
        Some(self.table.pair(here))
    }
}

/// Walks a memtable against key order.
pub struct MemBackIter<'a> {
    table: &'a Memtable,
    spot: Option<Spot>,
}

impl<'a> Iterator for MemBackIter<'a> {
    type Item = (Key<'a>, Record<'a>);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let mut spot = self.spot?;
        let here = self.table.pair(self.table.tree.at(&mut spot)?);
        // Leaves know the next one only: the one before is found from above.
        self.spot = spot.previous().or_else(|| self.table.before(&here.0));
        Some(here)
    }
}

/// Walks a frozen memtable in key order, and owns a share of it.
pub struct MemCursor {
    table: Rc<Memtable>,
    spot: Spot,
    here: Option<(u128, EntryRef)>,
}

impl MemCursor {
    /// Stands on the first key not before `key`, or on the first at all.
    pub fn new(table: Rc<Memtable>, key: Option<&Key<'_>>) -> MemCursor {
        let mut spot = key.map_or_else(|| table.tree.first(), |key| table.seek(key));
        let here = table.tree.at(&mut spot);
        MemCursor { table, spot, here }
    }

    /// What it stands on; `None` past the last key.
    #[inline]
    pub fn current(&self) -> Option<(Key<'_>, Record<'_>)> {
        self.here.map(|here| self.table.pair(here))
    }

    /// Goes to the next key. Past the last one it stays there.
    #[inline]
    pub fn advance(&mut self) {
        if self.here.is_some() {
            self.spot = self.spot.next();
            self.here = self.table.tree.at(&mut self.spot);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::{KeyBuf, RecordFlags};

    type Model = BTreeMap<KeyBuf, (u64, u64, u64, Vec<u8>)>;

    fn key(bits: u64) -> KeyBuf {
        // Few tokens and few bytes, so that equal tokens, equal partition keys and empty keys are common.
        let prefix = Prefix {
            space: (bits & 1) as u8,
            vnode: (bits >> 1 & 3) as u16,
            table: (bits >> 3 & 1) as u32,
            token: (bits >> 4 & 7) << 60,
        };
        let partition = vec![7; (bits >> 8 & 3) as usize].into();
        let sort = (bits >> 10 & 0x3fff).to_be_bytes()[(bits >> 24 & 7) as usize..].into();
        KeyBuf { prefix, partition, sort }
    }

    fn check(memtable: &Memtable, model: &Model) {
        assert_eq!(memtable.len(), model.len());
        let mut expected = model.iter();
        for (key, record) in memtable.iter() {
            let (key_expected, (order, actor, expiry_ms, value)) = expected.next().expect("no extra key");
            assert_eq!(key, key_expected.as_key());
            assert_eq!((record.order, record.actor, record.expiry_ms), (*order, *actor, *expiry_ms));
            assert_eq!(record.value, &value[..]);
        }
        assert!(expected.next().is_none());
    }

    fn insert(memtable: &mut Memtable, model: &mut Model, key: KeyBuf, order: u64, actor: u64, len: usize) {
        let value = vec![(order ^ actor) as u8; len];
        let expiry_ms = order % 3;
        let record = Record { order, actor, flags: RecordFlags(0), expiry_ms, value: &value };
        let before = memtable.bytes();
        let grown = memtable.insert(key.as_key(), record);
        assert_eq!(memtable.bytes(), before + grown);
        let slot = model.entry(key).or_insert((order, actor, expiry_ms, value.clone()));
        if (order, actor) > (slot.0, slot.1) {
            *slot = (order, actor, expiry_ms, value);
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_map(inserts in prop::collection::vec((any::<u64>(), 0u64..8, 0u64..3, 0usize..300), 0..700), probes in prop::collection::vec(any::<u64>(), 50)) {
            let (mut memtable, mut model) = (Memtable::new(), Model::new());
            for &(bits, order, actor, len) in &inserts {
                insert(&mut memtable, &mut model, key(bits), order, actor, len);
            }
            check(&memtable, &model);
            for bits in probes.iter().copied().chain(inserts.iter().map(|insert| insert.0)) {
                let key = key(bits);
                prop_assert_eq!(memtable.get(&key.as_key()).map(|record| record.order), model.get(&key).map(|slot| slot.0));
                let leaf = memtable.approach(&key.as_key());
                memtable.prefetch_entry(leaf, &key.as_key());
                prop_assert_eq!(memtable.get_near(leaf, &key.as_key()), memtable.get(&key.as_key()));
                prop_assert!(!model.contains_key(&key) || memtable.may_contain(key.prefix.to_u128()));
                let next = model.range(key.clone()..).next().map(|(key, _)| key.as_key());
                prop_assert_eq!(memtable.iter_from(&key.as_key()).next().map(|(key, _)| key), next);
                let back: Vec<Key<'_>> = memtable.iter_back(&key.as_key()).map(|(key, _)| key).collect();
                let expected: Vec<Key<'_>> = model.range(..key.clone()).rev().map(|(key, _)| key.as_key()).collect();
                prop_assert_eq!(back, expected);
            }
        }
    }

    #[test]
    fn deep_trees_of_ascending_descending_and_scattered_keys() {
        let keys: [fn(u64) -> u64; 3] = [|n| n, |n| u64::MAX - n, |n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)];
        for token in keys {
            let (mut memtable, mut model) = (Memtable::new(), Model::new());
            for n in 0..150_000 {
                let prefix = Prefix { space: 1, vnode: 0, table: 0, token: token(n) };
                let key = KeyBuf { prefix, partition: Box::default(), sort: Box::default() };
                insert(&mut memtable, &mut model, key, n, 0, 1);
            }
            check(&memtable, &model);
            assert_eq!(memtable.newest_order(), 149_999);
            let behind = Prefix { space: 2, vnode: 0, table: 0, token: 0 };
            let behind = KeyBuf { prefix: behind, partition: Box::default(), sort: Box::default() };
            let back = memtable.iter_back(&behind.as_key()).map(|(key, _)| key);
            assert!(back.eq(model.keys().rev().map(KeyBuf::as_key)));
        }
    }

    /// A sketch that was full was filled anew at once, in twice the size: the insertion that it met took milliseconds.
    #[test]
    fn a_sketch_grows_by_a_few_keys_at_a_time_and_misses_none() {
        const KEYS: u64 = 9_000;
        let mut memtable = Memtable::new();
        let prefix = |n: u64| {
            let token = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (n % 3);
            Prefix { space: 1, vnode: 0, table: 0, token }
        };
        let sketched = |memtable: &Memtable| {
            let from = memtable.growing.as_ref()?.from;
            Some(memtable.iter().take_while(|(key, _)| key.prefix.to_u128() < from).count())
        };
        let (mut steps, mut swaps) = (0, 0);
        for n in 0..KEYS {
            let before = sketched(&memtable);
            let record = Record { order: n, actor: 0, flags: RecordFlags(0), expiry_ms: 0, value: b"" };
            memtable.insert(Key { prefix: prefix(n), partition: b"p", sort: b"" }, record);
            let after = sketched(&memtable);
            // One more if the key itself is among them.
            let grown = after.map_or(0, |after| after.saturating_sub(before.unwrap_or(0)));
            assert!(grown <= SKETCHED_AT_ONCE + 1, "{grown} at key {n}");
            steps += usize::from(after.is_some());
            swaps += usize::from(before.is_some() && after.is_none());
            if n % 50 == 0 || before.is_some() != after.is_some() {
                assert!((0..=n).all(|n| memtable.may_contain(prefix(n).to_u128())), "at key {n}");
            }
        }
        assert!(swaps >= 4 && steps > KEYS as usize / 100, "{swaps} swaps in {steps} steps");
        let held = (KEYS..11 * KEYS).filter(|&n| memtable.may_contain(prefix(n).to_u128())).count() as u64;
        assert!(held < KEYS / 3, "{held} of {} that are not there", 10 * KEYS);
    }

    #[test]
    fn one_token_with_many_sort_keys() {
        let (mut memtable, mut model) = (Memtable::new(), Model::new());
        for n in 0u64..20_000 {
            let sort = n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
            let prefix = Prefix { space: 1, vnode: 9, table: 3, token: 5 };
            let key = KeyBuf { prefix, partition: b"p"[..].into(), sort: sort[..].into() };
            insert(&mut memtable, &mut model, key, n, 0, 1);
        }
        check(&memtable, &model);
        for (key, slot) in &model {
            assert_eq!(memtable.get(&key.as_key()).map(|record| record.order), Some(slot.0));
        }
    }

    #[test]
    fn large_records_do_not_waste_a_chunk() {
        let (mut memtable, mut model) = (Memtable::new(), Model::new());
        for n in 0..40 {
            insert(&mut memtable, &mut model, key(n << 10), n, 0, if n % 2 == 0 { 1 << 20 } else { 10 });
        }
        check(&memtable, &model);
        assert!(memtable.bytes() < 22 << 20, "20 MiB of values take {} bytes", memtable.bytes());
    }

    #[test]
    fn overwriting_a_key_in_place_does_not_grow() {
        let (mut memtable, mut model) = (Memtable::new(), Model::new());
        insert(&mut memtable, &mut model, key(3), 0, 0, 200);
        let bytes = memtable.bytes();
        for order in 1..100_000 {
            insert(&mut memtable, &mut model, key(3), order * 3, 0, 200);
        }
        assert_eq!(memtable.bytes(), bytes);
        check(&memtable, &model);
    }

    #[test]
    fn a_cursor_walks_a_frozen_memtable() {
        let (mut memtable, mut model) = (Memtable::new(), Model::new());
        for n in 0..1000 {
            insert(&mut memtable, &mut model, key(n * 0x0123_4567), n, 0, 5);
        }
        let table = Rc::new(memtable);
        let start = key(0x4567_0123);
        let mut cursor = MemCursor::new(table, Some(&start.as_key()));
        for (key, slot) in model.range(start..) {
            let (found, record) = cursor.current().expect("the model has this key");
            assert_eq!((found, record.order), (key.as_key(), slot.0));
            cursor.advance();
        }
        assert!(cursor.current().is_none());
        cursor.advance();
        assert!(cursor.current().is_none());
    }
}
