//! Where the records of the record cache lie: buckets of eight slots that name entries, and pages of entries.
//!
//! A key has one bucket, a cache line, by its hash; a slot there has 32 more bits of the hash, the entry's place, and whether it was
//! hit. So a lookup reads one line and, if it is there, the entry. Entries are appended to a page; when all pages are full the oldest
//! is filled anew: what was hit since it came there or was last looked at stays, but for room for an entry, the rest goes (the
//! second chance of a clock, a page at a time). An entry that no slot names is dead, and goes in the same way.
//!
//! All that there is counts: buckets, pages, and the list of pages. It never exceeds the budget.

use std::cell::Cell;

use super::entry::{ENTRY_BYTES_MAX, UNIT_BYTES, decode, encode, entry_bytes};
use crate::prefetch::{prefetch, prefetch_all};
use crate::table::KeyHash;
use crate::{Key, Prefix, Record};

/// Length of a page: refilling one is a few microseconds' work.
const PAGE_BYTES: usize = 16 << 10;
/// Of a page that is filled anew, so much may stay: there is room for an entry then, whatever was hit.
const STAYS_BYTES_MAX: usize = PAGE_BYTES - ENTRY_BYTES_MAX;
/// Part of the budget that is for buckets, rounded down to a power of two (a divisor): more slots than usual entries.
const BUCKETS_PART: usize = 8;
/// Buckets are as they are until they should be so many times more or fewer: all is forgotten then.
const BUCKETS_OFF_MAX: usize = 2;
const SLOTS: usize = 8;
/// What the list of pages takes beside its pages: it has twice as many places as it needs at most, and never fewer than four.
const LIST_BYTES_MIN: usize = 4 * size_of::<Page>();
const PAGE_COST_BYTES: usize = PAGE_BYTES + 2 * size_of::<Page>();
/// Bytes of an entry that are fetched ahead.
const AHEAD_BYTES: usize = 192;
/// In a slot: the entry was hit since it came into its page.
const HIT: u64 = 1;

/// Slots: `tag:32 place:31 hit:1`; the place counts units from 1, so that an empty slot is 0.
#[repr(align(64))]
#[derive(Default)]
struct Bucket([Cell<u64>; SLOTS]);

struct Page {
    bytes: Box<[u8]>,
    /// Entries stand up to here.
    filled: usize,
}

/// See the module.
#[derive(Default)]
pub(super) struct Shelf {
    /// A power of two of them, or none.
    buckets: Vec<Bucket>,
    pages: Vec<Page>,
    pages_max: usize,
    /// The page that is being filled.
    page: usize,
    /// Which of a full bucket's entries goes, of those that were hit.
    hand: usize,
    len: usize,
    evictions: u64,
}

impl Shelf {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn evictions(&self) -> u64 {
        self.evictions
    }

    /// Whether it can hold anything.
    pub(super) fn is_open(&self) -> bool {
        !self.buckets.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.buckets.capacity() * size_of::<Bucket>()
            + self.pages.capacity() * size_of::<Page>()
            + self.pages.len() * PAGE_BYTES
    }

    /// Takes at most so many bytes from now on.
    pub(super) fn resize(&mut self, budget: usize) {
        let wanted = buckets_for(budget);
        let present = self.buckets.len();
        if wanted > present * BUCKETS_OFF_MAX || wanted * BUCKETS_OFF_MAX < present || wanted == 0 {
            *self = Shelf { evictions: self.evictions + self.len as u64, ..Shelf::default() };
            self.buckets = std::iter::repeat_with(Bucket::default).take(wanted).collect();
        }
        let left = budget.saturating_sub(self.buckets.capacity() * size_of::<Bucket>() + LIST_BYTES_MIN);
        self.pages_max = if self.is_open() { left / PAGE_COST_BYTES } else { 0 };
        if self.pages.len() > self.pages_max {
            while self.pages.len() > self.pages_max {
                self.empty_page(self.pages.len() - 1);
                self.pages.pop();
            }
            self.pages.shrink_to_fit();
            self.page = self.page.min(self.pages.len().saturating_sub(1));
        }
    }

    /// Lets go of every record.
    pub(super) fn clear(&mut self) {
        self.forget(|_| true);
    }

    /// Asks for what a lookup reads first.
    #[inline]
    pub(super) fn prefetch(&self, hash: KeyHash) {
        if let Some(bucket) = self.buckets.get(self.bucket_of(hash)) {
            prefetch(bucket);
        }
    }

    /// Whether the record of a key with this hash may be here; asks for it, if so.
    #[inline]
    pub(super) fn approach(&self, hash: KeyHash) -> bool {
        let Some(bucket) = self.buckets.get(self.bucket_of(hash)) else { return false };
        let slot = bucket.0.iter().find(|slot| slot.get() != 0 && tag(slot.get()) == hash_tag(hash));
        if let Some(slot) = slot {
            let bytes = self.entry_at(slot.get());
            prefetch_all(&bytes[..bytes.len().min(AHEAD_BYTES)]);
        }
        slot.is_some()
    }

    /// The record of a key. Counts as a hit of it.
    #[inline]
    pub(super) fn find(&self, hash: KeyHash, key: &Key<'_>) -> Option<Record<'_>> {
        let bucket = self.buckets.get(self.bucket_of(hash))?;
        for slot in &bucket.0 {
            let named = slot.get();
            if named != 0 && tag(named) == hash_tag(hash) {
                let (present, record, _) = decode(self.entry_at(named));
                if present == *key {
                    if named & HIT == 0 {
                        slot.set(named | HIT);
                    }
                    return Some(record);
                }
            }
        }
        None
    }

    /// Removes the record of a key.
    #[inline]
    pub(super) fn remove(&mut self, hash: KeyHash, key: &Key<'_>) {
        let Some(bucket) = self.buckets.get(self.bucket_of(hash)) else { return };
        for slot in &bucket.0 {
            let named = slot.get();
            if named != 0 && tag(named) == hash_tag(hash) && decode(self.entry_at(named)).0 == *key {
                slot.set(0);
                self.len -= 1;
                return;
            }
        }
    }

    /// Puts a record in, in place of the one that is there for its key. One that is too long is not kept.
    pub(super) fn insert(&mut self, hash: KeyHash, key: &Key<'_>, record: &Record<'_>) {
        self.remove(hash, key);
        let Some(bytes) = entry_bytes(key, record) else { return };
        if self.pages_max == 0 || !self.make_room(bytes) {
            return;
        }
        let at = self.pages[self.page].filled;
        encode(&mut self.pages[self.page].bytes[at..at + bytes], key, record);
        self.pages[self.page].filled += bytes;
        let named = hash_tag(hash) << 32 | place(self.page, at);
        let bucket = &self.buckets[self.bucket_of(hash)].0;
        let slot = bucket.iter().find(|slot| slot.get() == 0);
        let slot = slot.or_else(|| bucket.iter().find(|slot| slot.get() & HIT == 0));
        self.hand = (self.hand + 1) % SLOTS;
        let slot = slot.unwrap_or(&bucket[self.hand]);
        if slot.replace(named) == 0 {
            self.len += 1;
        } else {
            self.evictions += 1;
        }
    }

    /// Removes what `is_gone` says of a prefix.
    pub(super) fn forget(&mut self, is_gone: impl Fn(Prefix) -> bool) {
        for page in 0..self.pages.len() {
            let mut at = 0;
            while at < self.pages[page].filled {
                let (key, _, bytes) = decode(&self.pages[page].bytes[at..]);
                if is_gone(key.prefix)
                    && let Some(slot) = self.slot_of(KeyHash::of(&key), place(page, at))
                {
                    slot.set(0);
                    self.len -= 1;
                }
                at += bytes;
            }
        }
    }

    /// Makes the page that is filled have room for an entry.
    fn make_room(&mut self, bytes: usize) -> bool {
        if self.pages.get(self.page).is_some_and(|page| page.filled + bytes <= PAGE_BYTES) {
            return true;
        }
        if self.pages.len() < self.pages_max {
            self.pages.push(Page { bytes: vec![0; PAGE_BYTES].into(), filled: 0 });
            self.page = self.pages.len() - 1;
        } else {
            self.page = (self.page + 1) % self.pages.len();
            self.refill(self.page);
        }
        self.pages[self.page].filled + bytes <= PAGE_BYTES
    }

    /// Leaves in a page what was hit, but for an entry's room.
    fn refill(&mut self, page: usize) {
        let (mut from, mut to) = (0, 0);
        while from < self.pages[page].filled {
            let (key, _, bytes) = decode(&self.pages[page].bytes[from..]);
            if let Some(slot) = self.slot_of(KeyHash::of(&key), place(page, from)) {
                if slot.get() & HIT != 0 && to + bytes <= STAYS_BYTES_MAX {
                    slot.set(tag(slot.get()) << 32 | place(page, to));
                    self.pages[page].bytes.copy_within(from..from + bytes, to);
                    to += bytes;
                } else {
                    slot.set(0);
                    self.len -= 1;
                    self.evictions += 1;
                }
            }
            from += bytes;
        }
        self.pages[page].filled = to;
    }

    fn empty_page(&mut self, page: usize) {
        let mut at = 0;
        while at < self.pages[page].filled {
            let (key, _, bytes) = decode(&self.pages[page].bytes[at..]);
            if let Some(slot) = self.slot_of(KeyHash::of(&key), place(page, at)) {
                slot.set(0);
                self.len -= 1;
                self.evictions += 1;
            }
            at += bytes;
        }
        self.pages[page].filled = 0;
    }

    /// The slot that names the entry at a place; `None` if it is dead.
    fn slot_of(&self, hash: KeyHash, place: u64) -> Option<&Cell<u64>> {
        let bucket = &self.buckets[self.bucket_of(hash)].0;
        bucket.iter().find(|slot| slot.get() & 0xffff_ffff & !HIT == place)
    }

    #[inline]
    fn bucket_of(&self, hash: KeyHash) -> usize {
        hash.bits() as usize & self.buckets.len().wrapping_sub(1)
    }

    /// From where a slot's entry starts to the end of its page.
    #[inline]
    fn entry_at(&self, named: u64) -> &[u8] {
        let unit = ((named & 0xffff_ffff) >> 1) as usize - 1;
        let at = unit * UNIT_BYTES;
        &self.pages[at / PAGE_BYTES].bytes[at % PAGE_BYTES..]
    }
}

fn buckets_for(budget: usize) -> usize {
    if budget < LIST_BYTES_MIN + PAGE_COST_BYTES + budget / BUCKETS_PART {
        return 0;
    }
    let buckets = budget / BUCKETS_PART / size_of::<Bucket>();
    (buckets + 1).next_power_of_two() / 2
}

#[inline]
fn tag(named: u64) -> u64 {
    named >> 32
}

#[inline]
fn hash_tag(hash: KeyHash) -> u64 {
    hash.bits() >> 32
}

/// A place as slots have it, without the bit for hits.
#[inline]
fn place(page: usize, at: usize) -> u64 {
    (((page * PAGE_BYTES + at) / UNIT_BYTES + 1) << 1) as u64
}
