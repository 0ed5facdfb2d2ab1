//! The cache's table: open addressing with linear probing, at most a little more than half full, that grows a few places at a time.
//!
//! A table of a million places takes some tens of milliseconds to make and to fill, which nobody who waits for a block or for the core
//! should pay at once. So each insertion into one that is half full makes some places of a table twice as large; when all are
//! there it becomes the table, and each insertion moves some items into it, from the end of the former one, which shrinks.
//! Until that is empty an item is looked for in both.

use std::cell::Cell;

use super::item::{Item, ItemKey};
use crate::prefetch::prefetch;

/// Places of an empty table.
const PLACES_MIN: usize = 64;
/// Places made with each insertion while a larger table is in the making: it is there when the present one is 9/16 full.
const MADE_PER_STEP: usize = 32;
/// Places of the former table emptied with each insertion: it is gone long before the next one is needed.
const MOVED_PER_STEP: usize = 16;
/// Most hits that count: each buys a round in the main queue.
const HITS_MAX: u8 = 3;

const HITS: u32 = 3;
const IN_SMALL: u32 = 1 << 2;
/// Of a place of the former table: the item that was here was removed, and others may be behind it.
const GONE: u32 = 1 << 3;
const STAMP_SHIFT: u32 = 8;

/// A place in the table: half a cache line.
pub(super) struct Place {
    file: u64,
    part: u32,
    /// Stamp:24, unused:4, gone:1, in the small queue:1, hits:2.
    state: Cell<u32>,
    pub(super) item: Item,
}

const _: () = assert!(size_of::<Place>() == 32);

impl Place {
    pub(super) fn new(key: ItemKey, item: Item, stamp: u32, in_small: bool) -> Place {
        let state = stamp << STAMP_SHIFT | if in_small { IN_SMALL } else { 0 };
        Place { file: key.file, part: key.part, state: Cell::new(state), item }
    }

    fn empty() -> Place {
        Place { file: 0, part: 0, state: Cell::new(0), item: Item::NONE }
    }

    fn gone() -> Place {
        Place { state: Cell::new(GONE), ..Place::empty() }
    }

    pub(super) fn file(&self) -> u64 {
        self.file
    }

    pub(super) fn key(&self) -> ItemKey {
        ItemKey { file: self.file, part: self.part }
    }

    #[inline]
    fn is(&self, key: ItemKey) -> bool {
        self.file == key.file && self.part == key.part
    }

    pub(super) fn hits(&self) -> u8 {
        (self.state.get() & HITS) as u8
    }

    #[inline]
    pub(super) fn hit(&self) {
        if self.hits() < HITS_MAX {
            self.set_hits(self.hits() + 1);
        }
    }

    #[inline]
    pub(super) fn set_hits(&self, hits: u8) {
        self.state.set(self.state.get() & !HITS | u32::from(hits.min(HITS_MAX)));
    }

    pub(super) fn in_small(&self) -> bool {
        self.state.get() & IN_SMALL != 0
    }

    pub(super) fn leave_small(&self) {
        self.state.set(self.state.get() & !IN_SMALL);
    }

    pub(super) fn stamp(&self) -> u32 {
        self.state.get() >> STAMP_SHIFT
    }
}

/// See the module. Places are named by numbers, which hold until the next change.
pub(super) struct Places {
    /// Where items are put.
    table: Vec<Place>,
    /// The next table: places of it that are made already, all empty.
    coming: Vec<Place>,
    /// What is left of the table before this one; behind its end everything was moved.
    former: Vec<Place>,
    former_mask: usize,
}

impl Places {
    pub(super) fn new() -> Places {
        Places { table: empty(PLACES_MIN), coming: Vec::new(), former: Vec::new(), former_mask: 0 }
    }

    /// Bytes of all tables.
    pub(super) fn bytes(&self) -> usize {
        (self.table.capacity() + self.coming.capacity() + self.former.capacity()) * size_of::<Place>()
    }

    /// Places that may hold something: those with lower numbers than this.
    pub(super) fn len(&self) -> usize {
        self.table.len() + self.former.len()
    }

    /// Bytes that a table begun for the `items`th item takes; 0 if none is begun for it.
    pub(super) fn growth_bytes(&self, items: usize) -> usize {
        let begins = items * 2 > self.table.len() && self.coming.capacity() == 0;
        if begins { 2 * self.table.len() * size_of::<Place>() } else { 0 }
    }

    #[inline]
    pub(super) fn at(&self, place: usize) -> &Place {
        match self.table.get(place) {
            Some(place) => place,
            None => &self.former[place - self.table.len()],
        }
    }

    /// Asks for what a lookup reads first.
    #[inline]
    pub(super) fn prefetch(&self, key: ItemKey) {
        prefetch(&self.table[key.hash() as usize & (self.table.len() - 1)]);
    }

    #[inline]
    pub(super) fn find(&self, key: ItemKey) -> Option<usize> {
        let mask = self.table.len() - 1;
        let mut at = key.hash() as usize & mask;
        loop {
            let place = &self.table[at];
            if place.item.is_none() {
                break;
            }
            if place.is(key) {
                return Some(at);
            }
            at = (at + 1) & mask;
        }
        if self.former.is_empty() { None } else { self.find_former(key) }
    }

    fn find_former(&self, key: ItemKey) -> Option<usize> {
        let mut at = key.hash() as usize & self.former_mask;
        // What is behind the end was moved: probing goes on at the front, once.
        let mut has_wrapped = at >= self.former.len();
        if has_wrapped {
            at = 0;
        }
        loop {
            let Some(place) = self.former.get(at) else {
                if has_wrapped {
                    return None;
                }
                (at, has_wrapped) = (0, true);
                continue;
            };
            if !place.item.is_none() && place.is(key) {
                return Some(self.table.len() + at);
            }
            if place.item.is_none() && place.state.get() & GONE == 0 {
                return None;
            }
            at += 1;
        }
    }

    /// Puts in an item that is not there, as the `items`th; growth is gone on with.
    pub(super) fn put(&mut self, place: Place, items: usize) {
        if self.growth_bytes(items) > 0 {
            self.coming.reserve_exact(2 * self.table.len());
        }
        put(&mut self.table, place);
        self.grow();
    }

    /// Goes on with growing. Whether there is more to do.
    pub(super) fn grow(&mut self) -> bool {
        if self.coming.capacity() > 0 {
            let whole = 2 * self.table.len();
            let made = (self.coming.len() + MADE_PER_STEP).min(whole);
            self.coming.resize_with(made, Place::empty);
            // The one before is emptied first: there are never more than two to look through.
            if made == whole && self.former.is_empty() {
                self.former_mask = self.table.len() - 1;
                self.former = std::mem::replace(&mut self.table, std::mem::take(&mut self.coming));
            }
        }
        for _ in 0..MOVED_PER_STEP {
            match self.former.pop() {
                Some(place) if place.item.is_none() => {}
                Some(place) => put(&mut self.table, place),
                None => break,
            }
        }
        if self.former.is_empty() {
            self.former = Vec::new();
        }
        self.coming.capacity() > 0 || !self.former.is_empty()
    }

    /// Empties a place, and moves those after it that probing would no longer reach.
    pub(super) fn take(&mut self, place: usize) -> Place {
        if let Some(of_former) = place.checked_sub(self.table.len()) {
            return std::mem::replace(&mut self.former[of_former], Place::gone());
        }
        let mut hole = place;
        let taken = std::mem::replace(&mut self.table[hole], Place::empty());
        let mask = self.table.len() - 1;
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            if self.table[at].item.is_none() {
                return taken;
            }
            let home = self.table[at].key().hash() as usize & mask;
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.table.swap(at, hole);
                hole = at;
            }
        }
    }

    /// Moves to a small table at once if there are more than `most` places an item.
    pub(super) fn shrink(&mut self, items: usize, most: usize) -> bool {
        if self.len() + self.coming.capacity() <= PLACES_MIN.max(items * most) {
            return false;
        }
        let mut table = empty((items * 4).next_power_of_two().max(PLACES_MIN));
        let former = std::mem::take(&mut self.former);
        let places = std::mem::take(&mut self.table).into_iter().chain(former);
        places.filter(|place| !place.item.is_none()).for_each(|place| put(&mut table, place));
        (self.table, self.coming) = (table, Vec::new());
        true
    }
}

fn empty(places: usize) -> Vec<Place> {
    std::iter::repeat_with(Place::empty).take(places).collect()
}

fn put(places: &mut [Place], place: Place) {
    let mask = places.len() - 1;
    let mut at = place.key().hash() as usize & mask;
    while !places[at].item.is_none() {
        at = (at + 1) & mask;
    }
    places[at] = place;
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::cache::tests::one_block;

    fn key(number: u64) -> ItemKey {
        ItemKey { file: number >> 4, part: (number & 15) as u32 }
    }

    /// Puts, removals and lookups at every stage of growth, and of shrinking, against a map.
    #[test]
    fn items_are_found_whatever_stage_growth_is_at() {
        let block = one_block();
        let mut random = 1_u64;
        let mut below = move |end: u64| {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            (random >> 33) % end
        };
        let mut places = Places::new();
        let mut model = BTreeMap::new();
        let (mut stages, mut shrunk) = ([0; 4], 0);
        for step in 0..60_000_u64 {
            // Waves: what came goes again, so that removals meet both tables.
            let number = below(6_000);
            let removes = if step / 10_000 % 2 == 0 { below(4) == 0 } else { below(4) > 0 };
            let found = places.find(key(number));
            assert_eq!(
                found.map(|at| places.at(at).stamp()),
                model.get(&number).copied(),
                "{number} at {step}"
            );
            match found {
                Some(at) if removes => {
                    assert!(places.take(at).is(key(number)));
                    model.remove(&number);
                }
                None if !removes => {
                    let stamp = step as u32;
                    places.put(
                        Place::new(key(number), Item::Block(block.clone()), stamp, false),
                        model.len() + 1,
                    );
                    model.insert(number, stamp);
                }
                Some(_) | None => {}
            }
            let stage =
                usize::from(places.coming.capacity() > 0) + 2 * usize::from(!places.former.is_empty());
            stages[stage] += 1;
            assert!(model.len() * 16 <= places.table.len() * 10, "{} of {}", model.len(), places.table.len());
            if step % 9_999 == 0 && places.shrink(model.len(), 4) {
                shrunk += 1;
            }
        }
        for (number, stamp) in &model {
            let at = places.find(key(*number)).expect("it was put in");
            assert_eq!(places.at(at).stamp(), *stamp);
        }
        assert!(stages[..3].iter().all(|steps| *steps > 100) && shrunk > 0, "{stages:?} {shrunk}");
    }

    /// The work of a step is bounded: no insertion makes or moves more than its share.
    #[test]
    fn no_insertion_pays_for_the_whole_table() {
        let block = one_block();
        let mut places = Places::new();
        for number in 0..20_000 {
            let (made, left) = (places.coming.len(), places.former.len());
            places.put(Place::new(key(number), Item::Block(block.clone()), 1, false), number as usize + 1);
            assert!(places.coming.len() <= made + MADE_PER_STEP);
            assert!(left <= places.former.len() + MOVED_PER_STEP);
        }
        while places.grow() {}
        assert_eq!((places.table.len(), places.former.len(), places.coming.capacity()), (65_536, 0, 0));
    }
}
