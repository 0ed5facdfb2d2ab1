//! What the cache holds: slots in an array, found through an open-addressed table, queued as S3-FIFO says.
//!
//! A slot is in exactly one queue from its insertion until the queue gives it up; a removed block leaves an empty slot in
//! its queue, which is freed when its turn comes.

use std::collections::VecDeque;

use super::BlockKey;
use crate::table::Block;

/// Part of the budget that is the small queue's, as a divisor.
const SMALL_PART: usize = 10;
/// Most hits that count: each buys a round in the main queue.
const HITS_MAX: u8 = 3;
/// Bytes kept beside a block: its slot, its places in table, queue and ghosts, and the allocation's own.
const OVERHEAD_BYTES: usize = 96;
/// A block larger than this part of the budget is not kept.
const BLOCK_PART: usize = 8;
/// Bytes of a usual block, to size the memory of evicted ones.
const USUAL_BYTES: usize = 4096;
/// Empty slots that may be queued before a sweep, beside half as many as are filled.
const DEAD_MIN: usize = 64;
/// An unused place in the table.
const EMPTY: u32 = u32::MAX;

#[derive(Default)]
struct Slot {
    key: BlockKey,
    block: Option<Block>,
    hits: u8,
    in_small: bool,
}

/// A place in the table: a part of the hash, so that most foreign slots are not touched, and the slot.
#[derive(Clone, Copy)]
struct Place {
    tag: u32,
    slot: u32,
}

/// See the module.
pub(super) struct Slots {
    budget: usize,
    bytes: usize,
    small_bytes: usize,
    len: usize,
    slots: Vec<Slot>,
    free: Vec<u32>,
    places: Box<[Place]>,
    small: VecDeque<u32>,
    main: VecDeque<u32>,
    ghosts: Ghosts,
    /// Empty slots that are still queued.
    dead: usize,
    evictions: u64,
}

impl Slots {
    pub(super) fn new(budget: usize) -> Slots {
        Slots {
            budget,
            bytes: 0,
            small_bytes: 0,
            len: 0,
            slots: Vec::new(),
            free: Vec::new(),
            places: vec![Place { tag: 0, slot: EMPTY }; 64].into(),
            small: VecDeque::new(),
            main: VecDeque::new(),
            ghosts: Ghosts::new(budget / USUAL_BYTES),
            dead: 0,
            evictions: 0,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn evictions(&self) -> u64 {
        self.evictions
    }

    #[inline]
    pub(super) fn get(&mut self, key: BlockKey) -> Option<Block> {
        let at = self.find(key)?;
        let slot = &mut self.slots[self.places[at].slot as usize];
        slot.hits = (slot.hits + 1).min(HITS_MAX);
        slot.block.clone()
    }

    pub(super) fn insert(&mut self, key: BlockKey, block: Block) {
        let bytes = cost(&block);
        if bytes > self.budget / BLOCK_PART || self.find(key).is_some() {
            return;
        }
        while self.bytes + bytes > self.budget {
            if !self.evict() {
                return;
            }
        }
        let returns = self.ghosts.take(key.hash());
        let filled = Slot { key, block: Some(block), hits: 0, in_small: !returns };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = filled;
                slot
            }
            None => {
                self.slots.push(filled);
                self.slots.len() as u32 - 1
            }
        };
        if returns {
            self.main.push_back(slot);
        } else {
            self.small.push_back(slot);
            self.small_bytes += bytes;
        }
        self.bytes += bytes;
        self.len += 1;
        if self.len * 2 > self.places.len() {
            self.grow();
        }
        place(&mut self.places, key.hash(), slot);
    }

    pub(super) fn remove(&mut self, key: BlockKey) {
        let Some(at) = self.find(key) else { return };
        let slot = &mut self.slots[self.places[at].slot as usize];
        let bytes = slot.block.take().map_or(0, |block| cost(&block));
        self.bytes -= bytes;
        self.small_bytes -= if slot.in_small { bytes } else { 0 };
        self.len -= 1;
        self.dead += 1;
        self.unplace(at);
        if self.dead > self.len / 2 + DEAD_MIN {
            self.sweep();
        }
    }

    /// Frees the empty slots, which a cache below its budget would otherwise never come to.
    fn sweep(&mut self) {
        for queue in [&mut self.small, &mut self.main] {
            queue.retain(|&slot| {
                let filled = self.slots[slot as usize].block.is_some();
                if !filled {
                    self.free.push(slot);
                }
                filled
            });
        }
        self.dead = 0;
    }

    #[inline]
    fn find(&self, key: BlockKey) -> Option<usize> {
        let (hash, mask) = (key.hash(), self.places.len() - 1);
        let mut at = hash as usize & mask;
        loop {
            let place = self.places[at];
            if place.slot == EMPTY {
                return None;
            }
            if place.tag == tag(hash) && self.slots[place.slot as usize].key == key {
                return Some(at);
            }
            at = (at + 1) & mask;
        }
    }

    /// Makes room by one block. False = there is nothing to evict.
    fn evict(&mut self) -> bool {
        let before = self.evictions;
        while self.evictions == before {
            let small = self.small_bytes > self.budget / SMALL_PART || self.main.is_empty();
            let Some(slot) = (if small { self.small.pop_front() } else { self.main.pop_front() }) else {
                return false;
            };
            self.pass(slot, small);
        }
        true
    }

    /// Decides about the slot at the front of a queue.
    fn pass(&mut self, number: u32, small: bool) {
        let slot = &mut self.slots[number as usize];
        let Some(block) = &slot.block else {
            self.free.push(number);
            self.dead -= 1;
            return;
        };
        let bytes = cost(block);
        if small {
            self.small_bytes -= bytes;
            slot.in_small = false;
        }
        if slot.hits > 0 {
            slot.hits = if small { 0 } else { slot.hits - 1 };
            self.main.push_back(number);
            return;
        }
        let key = slot.key;
        slot.block = None;
        self.bytes -= bytes;
        self.len -= 1;
        self.evictions += 1;
        if small {
            self.ghosts.put(key.hash());
        }
        let at = self.find(key).expect("a filled slot has a place");
        self.unplace(at);
        self.free.push(number);
    }

    /// Empties a place, and moves those after it that probing would no longer reach.
    fn unplace(&mut self, mut hole: usize) {
        let mask = self.places.len() - 1;
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let place = self.places[at];
            if place.slot == EMPTY {
                break;
            }
            let home = self.slots[place.slot as usize].key.hash() as usize & mask;
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.places[hole] = place;
                hole = at;
            }
        }
        self.places[hole].slot = EMPTY;
    }

    fn grow(&mut self) {
        let mut places = vec![Place { tag: 0, slot: EMPTY }; self.places.len() * 2].into_boxed_slice();
        for old in self.places.iter().filter(|place| place.slot != EMPTY) {
            place(&mut places, self.slots[old.slot as usize].key.hash(), old.slot);
        }
        self.places = places;
    }
}

fn cost(block: &Block) -> usize {
    block.bytes() + OVERHEAD_BYTES
}

fn tag(hash: u64) -> u32 {
    (hash >> 32) as u32
}

fn place(places: &mut [Place], hash: u64, slot: u32) {
    let mask = places.len() - 1;
    let mut at = hash as usize & mask;
    while places[at].slot != EMPTY {
        at = (at + 1) & mask;
    }
    places[at] = Place { tag: tag(hash), slot };
}

/// Blocks that left the small queue without a hit, by hash: a memory that forgets by being overwritten, about as long as
/// the cache itself remembers.
struct Ghosts {
    hashes: Box<[u32]>,
}

impl Ghosts {
    fn new(blocks: usize) -> Ghosts {
        Ghosts { hashes: vec![0; blocks.next_power_of_two().clamp(16, 1 << 24)].into() }
    }

    fn put(&mut self, hash: u64) {
        self.hashes[hash as usize & (self.hashes.len() - 1)] = tag(hash) | 1;
    }

    fn take(&mut self, hash: u64) -> bool {
        let ghost = &mut self.hashes[hash as usize & (self.hashes.len() - 1)];
        let found = *ghost == tag(hash) | 1;
        if found {
            *ghost = 0;
        }
        found
    }
}
