//! What the cache holds: a table with the items in its [`Places`], and two queues of keys, as S3-FIFO says.
//!
//! A hit touches one place and the item, nothing else. Places move when others are emptied, so queues name items by key,
//! and by a stamp: what was removed and came back is queued twice, and only its last turn counts. Turns of removed items
//! are skipped when they come up, and swept when they become many: a few with each removal and insertion, for a queue is as long
//! as the cache is large. For the same reason an eviction judges a bounded number of items.
//!
//! What counts against the budget is all that there is: the items, the table, queues and ghosts, and evicted items as long as a
//! reader holds them. The last cannot be taken away: if readers hold more than the budget, nothing else is kept.

#[cfg(test)]
use std::cell::Cell;
use std::collections::VecDeque;

use super::item::{Item, ItemKey};
use super::places::{Place, Places};

/// Part of the budget that is the small queue's, as a divisor.
const SMALL_PART: usize = 10;
/// A table with so many places an item is made anew when the budget changes: it was for many more.
const PLACES_PER_ITEM_MAX: usize = 16;
/// Bytes of a usual block, to size the memory of evicted ones.
const USUAL_BYTES: usize = 4096;
/// Turns of removed items that may be queued before a sweep begins, beside half as many as there are items.
const DEAD_MIN: usize = 64;
/// Turns of removed items that [`Slots::tidy`] leaves alone beside those: such a part of the items (a divisor).
const UNTIDY_PART: usize = 8;
/// Turns that a sweep under way looks at with each removal and insertion: it is through before another half of the items is gone.
const SWEPT_PER_CHANGE: usize = 8;
/// Items that an eviction gives another round before it takes the next, hit or not. In a cache of which all was hit, it would
/// otherwise judge everything several times to make room for one.
const JUDGED_MAX: usize = 256;
/// Evicted items that readers hold are looked through when there are so many more of them than last time, or a quarter more:
/// what was let go since is at most that many items and those that were held then.
const PINNED_UNSWEPT_MIN: usize = 8;
/// See [`PINNED_UNSWEPT_MIN`].
const PINNED_PART: usize = 4;
/// Stamps wrap here; a turn would have to stay queued for as many insertions to be mistaken for another.
const STAMP_MAX: u32 = (1 << 24) - 1;

/// An item's turn to be judged.
#[derive(Clone, Copy)]
struct Turn {
    key: ItemKey,
    stamp: u32,
}

/// A sweep under way. Of the queue that it is in, the turns before `kept` stay, those from there to `next` are of removed items, and
/// those behind were not looked at yet.
#[derive(Clone, Copy, Default)]
struct Sweep {
    /// The small queue is done.
    in_main: bool,
    kept: usize,
    next: usize,
}

/// See the module.
pub(super) struct Slots {
    budget: usize,
    /// Bytes of the items in places.
    bytes: usize,
    small_bytes: usize,
    len: usize,
    /// Of them values.
    values: usize,
    places: Places,
    small: VecDeque<Turn>,
    main: VecDeque<Turn>,
    stamp: u32,
    /// Turns whose item was removed.
    dead: usize,
    sweep: Option<Sweep>,
    ghosts: Ghosts,
    /// Evicted items that readers held then, and their bytes.
    pinned: Vec<Item>,
    pinned_bytes: usize,
    /// As many pinned items make it look which of them were let go.
    pinned_swept_at: usize,
    evictions: u64,
    /// Turns looked up so far.
    #[cfg(test)]
    looks: Cell<usize>,
}

impl Slots {
    pub(super) fn new(budget: usize) -> Slots {
        Slots {
            budget,
            bytes: 0,
            small_bytes: 0,
            len: 0,
            values: 0,
            places: Places::new(),
            small: VecDeque::new(),
            main: VecDeque::new(),
            stamp: 0,
            dead: 0,
            sweep: None,
            ghosts: Ghosts::new(ghosts_for(budget)),
            pinned: Vec::new(),
            pinned_bytes: 0,
            pinned_swept_at: PINNED_UNSWEPT_MIN,
            evictions: 0,
            #[cfg(test)]
            looks: Cell::new(0),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of items that were evicted and are held by readers, or were when room was last needed.
    pub(super) fn pinned_bytes(&self) -> usize {
        self.pinned_bytes
    }

    /// Bytes of the table, the queues and the ghosts.
    pub(super) fn own_bytes(&self) -> usize {
        self.places.bytes()
            + (self.small.capacity() + self.main.capacity()) * size_of::<Turn>()
            + self.pinned.capacity() * size_of::<Item>()
            + self.ghosts.hashes.len() * size_of::<u32>()
    }

    fn all_bytes(&self) -> usize {
        self.bytes + self.pinned_bytes + self.own_bytes()
    }

    /// Changes the budget. What is beyond a smaller one is evicted at once.
    pub(super) fn resize(&mut self, budget: usize) {
        self.budget = budget;
        if self.all_bytes() <= budget && !self.ghosts.is_far_from(ghosts_for(budget)) {
            return;
        }
        let ghosts = ghosts_for(budget);
        if self.ghosts.is_far_from(ghosts) {
            self.ghosts = Ghosts::new(ghosts);
        }
        self.make_room(0);
        if self.places.shrink(self.len, PLACES_PER_ITEM_MAX) {
            self.sweep = Some(Sweep::default());
            self.sweep_some(usize::MAX);
            let least = self.len;
            self.small.shrink_to(least);
            self.main.shrink_to(least);
            self.pinned.shrink_to_fit();
        }
    }

    /// Makes room for `bytes` more in items, and for another place. False = there is nothing left to evict.
    fn make_room(&mut self, bytes: usize) -> bool {
        while self.all_bytes() + bytes + self.growth_bytes(bytes > 0) > self.budget {
            if !self.unpin() && !self.evict() {
                return false;
            }
        }
        true
    }

    /// What one more item would have table and queues grow by.
    fn growth_bytes(&self, one_more: bool) -> usize {
        let queue = |queue: &VecDeque<Turn>| {
            let full = one_more && queue.len() == queue.capacity();
            if full { queue.capacity().max(4) * size_of::<Turn>() } else { 0 }
        };
        let table = if one_more { self.places.growth_bytes(self.len + 1) } else { 0 };
        table + queue(&self.small) + queue(&self.main)
    }

    /// Lets go of the evicted items that no reader holds any more. False = there were none.
    fn unpin(&mut self) -> bool {
        let before = self.pinned.len();
        self.pinned.retain(Item::is_shared);
        self.pinned_bytes = self.pinned.iter().map(Item::cost).sum();
        self.pinned_swept_at = self.pinned.len() + PINNED_UNSWEPT_MIN.max(self.pinned.len() / PINNED_PART);
        self.pinned.len() < before
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Values among them.
    pub(super) fn values(&self) -> usize {
        self.values
    }

    pub(super) fn evictions(&self) -> u64 {
        self.evictions
    }

    #[cfg(test)]
    pub(super) fn queued(&self) -> usize {
        self.small.len() + self.main.len()
    }

    #[cfg(test)]
    pub(super) fn looks(&self) -> usize {
        self.looks.get()
    }

    /// An item; counts the hit.
    #[inline]
    pub(super) fn get(&self, key: ItemKey) -> Option<&Item> {
        self.hit(key).map(|at| self.at(at))
    }

    /// An item, without counting a hit.
    pub(super) fn peek(&self, key: ItemKey) -> Option<&Item> {
        self.find(key).map(|at| self.at(at))
    }

    /// The place of an item; counts the hit.
    #[inline]
    pub(super) fn hit(&self, key: ItemKey) -> Option<usize> {
        let at = self.find(key)?;
        self.places.at(at).hit();
        Some(at)
    }

    /// The item at a place.
    #[inline]
    pub(super) fn at(&self, place: usize) -> &Item {
        &self.places.at(place).item
    }

    /// Asks for what a lookup reads first.
    #[inline]
    pub(super) fn prefetch(&self, key: ItemKey) {
        self.places.prefetch(key);
    }

    /// Whether an item is held, and was hit since its last turn.
    pub(super) fn is_in_use(&self, key: ItemKey) -> bool {
        self.find(key).is_some_and(|at| self.places.at(at).hits() > 0)
    }

    /// Puts an item in unless it is there or is too large.
    pub(super) fn insert(&mut self, key: ItemKey, item: Item) {
        let to_small = !self.ghosts.take(key.hash());
        self.put_in(key, item, to_small);
    }

    /// As [`Slots::insert`], past the small queue, of what takes the place of an item in use: it counts as hit once, so that it is in use
    /// itself until room is needed and nobody has asked for it.
    pub(super) fn succeed(&mut self, key: ItemKey, item: Item) {
        self.put_in(key, item, false);
        if let Some(at) = self.find(key) {
            self.places.at(at).set_hits(1);
        }
    }

    fn put_in(&mut self, key: ItemKey, item: Item, small: bool) {
        let bytes = item.cost();
        if bytes > item.cost_max(self.budget) || self.find(key).is_some() {
            return;
        }
        if !self.make_room(bytes) {
            return;
        }
        self.sweep_some(SWEPT_PER_CHANGE);
        self.stamp = (self.stamp + 1) & STAMP_MAX;
        let turn = Turn { key, stamp: self.stamp };
        if small {
            self.small.push_back(turn);
            self.small_bytes += bytes;
        } else {
            self.main.push_back(turn);
        }
        self.bytes += bytes;
        self.len += 1;
        self.values += usize::from(item.is_value());
        self.places.put(Place::new(key, item, self.stamp, small), self.len);
    }

    /// Removes an item. The list of those that readers hold may grow by it, so that another one has to go.
    pub(super) fn remove(&mut self, key: ItemKey) {
        if let Some(at) = self.find(key) {
            self.remove_at(at);
            self.make_room(0);
        }
    }

    /// Removes the values of these files from the next `places` places, `from` on; gives where to go on, `None` at the end. An item that
    /// moves meanwhile, because another one is evicted, may be passed over: then it goes when its turn comes.
    pub(super) fn remove_values(&mut self, files: &[u64], from: usize, places: usize) -> Option<usize> {
        let end = from.saturating_add(places);
        let mut at = from;
        while self.values > 0 && at < self.places.len() && at < end {
            let place = self.places.at(at);
            if place.item.is_value() && files.contains(&place.file()) {
                // What moved into its place is looked at next.
                self.remove_at(at);
            } else {
                at += 1;
            }
        }
        self.make_room(0);
        (self.values > 0 && at < self.places.len()).then_some(at)
    }

    fn remove_at(&mut self, at: usize) {
        self.take(at);
        self.dead += 1;
        if self.sweep.is_none() && self.dead > self.len / 2 + DEAD_MIN {
            self.sweep = Some(Sweep::default());
        }
        self.sweep_some(SWEPT_PER_CHANGE);
    }

    /// Looks at the next `turns` turns of a sweep, and begins one if turns of removed items are many. Whether there is more to do.
    pub(super) fn tidy(&mut self, turns: usize) -> bool {
        if self.sweep.is_none() && self.dead > self.len / UNTIDY_PART + DEAD_MIN {
            self.sweep = Some(Sweep::default());
        }
        let grows = self.places.grow();
        self.sweep_some(turns);
        grows || self.sweep.is_some()
    }

    /// Goes on with the sweep under way, if one is, for so many turns: it drops those of removed items, which a cache below its budget
    /// would otherwise never come to.
    fn sweep_some(&mut self, turns: usize) {
        let Some(mut sweep) = self.sweep else { return };
        for _ in 0..turns {
            let queue = if sweep.in_main { &self.main } else { &self.small };
            let turn = queue.get(sweep.next).copied();
            let stays = turn.is_some_and(|turn| self.find_turn(turn).is_some());
            let queue = if sweep.in_main { &mut self.main } else { &mut self.small };
            if turn.is_none() {
                self.dead -= queue.len() - sweep.kept;
                queue.truncate(sweep.kept);
                if sweep.in_main {
                    self.sweep = None;
                    return;
                }
                sweep = Sweep { in_main: true, ..Sweep::default() };
                continue;
            }
            if stays {
                queue.swap(sweep.kept, sweep.next);
                sweep.kept += 1;
            }
            sweep.next += 1;
        }
        self.sweep = Some(sweep);
    }

    /// Takes the next turn of a queue, of which a sweep may be half through.
    fn pop(&mut self, in_main: bool) -> Option<Turn> {
        let turn = if in_main { self.main.pop_front() } else { self.small.pop_front() }?;
        if let Some(sweep) = self.sweep.as_mut().filter(|sweep| sweep.in_main == in_main) {
            sweep.kept = sweep.kept.saturating_sub(1);
            sweep.next = sweep.next.saturating_sub(1);
        }
        Some(turn)
    }

    #[inline]
    fn find(&self, key: ItemKey) -> Option<usize> {
        self.places.find(key)
    }

    fn find_turn(&self, turn: Turn) -> Option<usize> {
        #[cfg(test)]
        self.looks.set(self.looks.get() + 1);
        self.find(turn.key).filter(|&at| self.places.at(at).stamp() == turn.stamp)
    }

    /// Makes room by one item. False = there is nothing to evict.
    fn evict(&mut self) -> bool {
        let before = self.evictions;
        let mut judged = 0;
        while self.evictions == before {
            let small = self.small_bytes > self.budget / SMALL_PART || self.main.is_empty();
            let Some(turn) = self.pop(!small) else { return false };
            self.judge(turn, judged < JUDGED_MAX);
            judged += 1;
        }
        true
    }

    /// Decides about the item at the front of a queue. It is evicted, or gets another round if it was hit and one `may_stay`.
    fn judge(&mut self, turn: Turn, may_stay: bool) {
        let Some(at) = self.find_turn(turn) else {
            self.dead -= 1;
            return;
        };
        let place = self.places.at(at);
        let (small, hits) = (place.in_small(), place.hits());
        if hits > 0 && may_stay {
            place.set_hits(if small { 0 } else { hits - 1 });
            if small {
                place.leave_small();
                self.small_bytes -= place.item.cost();
            }
            self.main.push_back(turn);
            return;
        }
        self.take(at);
        self.evictions += 1;
        if small {
            self.ghosts.put(turn.key.hash());
        }
    }

    /// Lets go of an item, or of this hold of it.
    fn take(&mut self, at: usize) {
        let place = self.places.take(at);
        let bytes = place.item.cost();
        self.bytes -= bytes;
        self.small_bytes -= if place.in_small() { bytes } else { 0 };
        self.len -= 1;
        self.values -= usize::from(place.item.is_value());
        if place.item.is_shared() {
            self.pinned.push(place.item);
            self.pinned_bytes += bytes;
            if self.pinned.len() >= self.pinned_swept_at {
                self.unpin();
            }
        }
    }
}

/// Ghosts of a cache of this budget: as many as it holds blocks.
fn ghosts_for(budget: usize) -> usize {
    (budget / USUAL_BYTES).next_power_of_two().clamp(16, 1 << 24)
}

/// Items that left the small queue without a hit, by hash: a memory that forgets by being overwritten, about as long as
/// the cache itself remembers.
struct Ghosts {
    hashes: Box<[u32]>,
}

impl Ghosts {
    /// So many, a power of two.
    fn new(ghosts: usize) -> Ghosts {
        Ghosts { hashes: vec![0; ghosts].into() }
    }

    /// Whether it is worth forgetting all to have so many.
    fn is_far_from(&self, ghosts: usize) -> bool {
        ghosts > self.hashes.len() * 2 || ghosts < self.hashes.len() / 2
    }

    fn put(&mut self, hash: u64) {
        self.hashes[hash as usize & (self.hashes.len() - 1)] = (hash >> 32) as u32 | 1;
    }

    fn take(&mut self, hash: u64) -> bool {
        let ghost = &mut self.hashes[hash as usize & (self.hashes.len() - 1)];
        let found = *ghost == (hash >> 32) as u32 | 1;
        if found {
            *ghost = 0;
        }
        found
    }
}
