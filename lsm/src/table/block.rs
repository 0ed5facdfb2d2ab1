//! A block: the unit that is read, checked, cached and searched.
//!
//! ```text
//! payload     := header run{run_count} actor:u64{actor_count} slot{count} entry{count}
//! header      := order_base:u64 count:u16 run_count:u16 actor_count:u16 order_bytes:u8 zero:u8
//! run         := high:u64 token_base:u64 first:u16 last_fingerprint:u16 shape:u8      keys that share space, vnode and table
//! shape       := hashed:1 shift:7
//! slot        := fingerprint:u16 start:u16
//! entry       := flags:u8 token_low{low_bytes} order_delta{order_bytes} actor_index{actor_bytes}
//!                partition_len:varint (sort_len:varint)? (expiry_ms:varint)? partition sort value
//! ```
//!
//! The fingerprint of an entry is `(token - token_base) >> shift`, so a lookup is a search among small integers spread
//! evenly over `0..=65535`; keys are compared only where fingerprints are equal. What the fingerprint leaves out of the
//! token stands in `token_low` (`low_bytes = shift / 8`, rounded up), or nowhere in a hashed run: there the token is XXH3 of
//! the partition key. Orders are deltas to the block's lowest, as wide as the widest; actors are indices into the block's
//! dictionary, `actor_bytes` = 0, 1 or 2 as its length needs. `start` counts from the front of the payload; an entry ends
//! where the next starts. Flags are the record's, [`HAS_SORT`] and [`HAS_EXPIRY`].
//!
//! Most blocks have one run and one actor. Then everything that a lookup reads before the entry stands at places known
//! beforehand, and the processor fetches all of it at once instead of one after the other: [`Block::get`] has a path for that.
//!
//! A payload is checked whole, once, when it was read from the disk; after that a malformed one is a bug.

use std::cmp::Ordering;
use std::rc::Rc;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::format::take;
use crate::prefetch::prefetch_all;
use crate::values::Pointer;
use crate::{Key, Prefix, Record, RecordFlags, varint};

pub(super) const HEADER_BYTES: usize = 16;
pub(super) const RUN_BYTES: usize = 21;
pub(super) const ACTOR_BYTES: usize = 8;
/// Fingerprint and start.
pub(super) const SLOT_BYTES: usize = 4;
/// In a run's shape: tokens are computed from partition keys.
pub(super) const HASHED: u8 = 0x80;
/// `sort_len` is stored.
pub(super) const HAS_SORT: u8 = 1 << 5;
/// `expiry_ms` is stored.
pub(super) const HAS_EXPIRY: u8 = 1 << 6;
const CHECKED: &str = "a payload is checked when it is read";
/// Equal fingerprints up to which keys are compared one by one.
const TIES_WALKED_MAX: usize = 4;

/// Bytes of an actor's index in a dictionary of `actors`.
#[inline]
pub(super) fn actor_bytes(actors: usize) -> usize {
    usize::from(actors > 1) + usize::from(actors > 256)
}

/// Bytes of `token_low` in a run of this shape.
#[inline]
pub(super) fn low_bytes(shape: u8) -> usize {
    if shape & HASHED != 0 { 0 } else { usize::from(shape).div_ceil(8) }
}

/// A checked payload. Cloning shares it.
#[derive(Clone)]
pub struct Block {
    /// The payload, then the seed of the token hash.
    bytes: Rc<[u8]>,
}

/// Bytes of the seed behind the payload.
const SEED_BYTES: usize = 8;
/// Bytes by which a payload's allocation is longer than its block in the file is allowed to be: the seed and the reference
/// counts, less the trailer, which stays on the disk. Builders leave them free, so that a block of a page is a page in memory
/// too, and no allocator rounds it up to the next size it keeps.
pub(super) const MEMORY_OVERHEAD_BYTES: usize =
    SEED_BYTES + 2 * size_of::<usize>() - super::stored::TRAILER_BYTES;
/// Most bytes of a block's head that are fetched ahead: header, run, actor and the slots of a usual block.
const HEAD_BYTES: usize = 192;
/// Most bytes of an entry that are fetched ahead: what follows, the processor fetches by itself.
const ENTRY_BYTES: usize = 512;
/// Where the slots of a block with one run and one actor start.
const PLAIN_SLOTS: usize = HEADER_BYTES + RUN_BYTES + ACTOR_BYTES;

#[derive(Clone, Copy)]
pub(super) struct Header {
    order_base: u64,
    pub(super) count: usize,
    pub(super) runs: usize,
    actors: usize,
    order_bytes: usize,
}

#[derive(Clone, Copy)]
pub(super) struct Run {
    high: u64,
    pub(super) token_base: u64,
    pub(super) first: usize,
    pub(super) end: usize,
    last: u32,
    pub(super) shape: u8,
}

impl Run {
    #[inline]
    pub(super) fn shift(&self) -> u32 {
        u32::from(self.shape & !HASHED)
    }
}

pub(super) struct Entry<'a> {
    token_low: u64,
    pub(super) partition: &'a [u8],
    sort: &'a [u8],
    pub(super) record: Record<'a>,
}

impl Block {
    /// Checks a payload and takes a copy. The error names what is wrong.
    pub(super) fn parse(payload: &[u8], token_seed: u64) -> Result<Block, &'static str> {
        check(payload, token_seed)?;
        Ok(Block::copied(payload, token_seed))
    }

    /// A payload that was built here.
    pub(super) fn built(payload: &[u8], token_seed: u64) -> Block {
        debug_assert_eq!(check(payload, token_seed), Ok(()));
        Block::copied(payload, token_seed)
    }

    fn copied(payload: &[u8], token_seed: u64) -> Block {
        let mut bytes = Vec::with_capacity(payload.len() + SEED_BYTES);
        bytes.extend_from_slice(payload);
        bytes.extend_from_slice(&token_seed.to_le_bytes());
        Block { bytes: bytes.into() }
    }

    /// Number of entries.
    #[inline]
    pub fn len(&self) -> usize {
        self.header().count
    }

    /// Never: a block has at least one entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether somebody else holds it, too.
    #[inline]
    pub(crate) fn is_shared(&self) -> bool {
        Rc::strong_count(&self.bytes) > 1
    }

    /// Bytes it keeps in memory.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The record of a key.
    #[inline]
    pub fn get(&self, key: &Key<'_>) -> Option<Record<'_>> {
        let header = self.header();
        if header.runs == 1 && header.actors == 1 {
            let plain = Header { runs: 1, actors: 1, ..header };
            let run = self.run(&plain, 0);
            return if run.high == high_of(&key.prefix) {
                self.get_in(&plain, &run, PLAIN_SLOTS, key)
            } else {
                None
            };
        }
        self.get_anywhere(key)
    }

    /// Asks for what [`Block::get`] reads first.
    #[inline]
    pub(crate) fn prefetch_head(&self) {
        prefetch_all(&self.bytes[..self.bytes.len().min(HEAD_BYTES)]);
    }

    /// Asks for what [`Block::get`] reads last.
    #[inline]
    pub(crate) fn prefetch_entry(&self, key: &Key<'_>) {
        let header = self.header();
        let slots = header.slots();
        if let Some(run) = self.run_of(&header, high_of(&key.prefix))
            && let Some((at, _)) = self.ties(&run, slots, key.prefix.token)
        {
            let (start, end) = header.bounds_in(&self.bytes[..self.payload_bytes()], slots, at);
            prefetch_all(&self.bytes[start..end.min(start + ENTRY_BYTES)]);
        }
    }

    /// As [`Block::get`], in a block with several runs or actors.
    #[inline(never)]
    fn get_anywhere(&self, key: &Key<'_>) -> Option<Record<'_>> {
        let header = self.header();
        let run = self.run_of(&header, high_of(&key.prefix))?;
        self.get_in(&header, &run, header.slots(), key)
    }

    #[inline(always)]
    fn get_in(&self, header: &Header, run: &Run, slots: usize, key: &Key<'_>) -> Option<Record<'_>> {
        let (from, to) = self.ties(run, slots, key.prefix.token)?;
        if to - from > TIES_WALKED_MAX {
            let at = self.lower_bound(header, run, from, to, key);
            let entry = (at < to).then(|| self.entry(header, run, at))?;
            return self.is_key(run, &entry, key).then_some(entry.record);
        }
        let payload = &self.bytes[..self.payload_bytes()];
        for at in from..to {
            let (start, end) = header.bounds_in(payload, slots, at);
            let entry = decode(payload, header, run.shape, start, end).expect(CHECKED);
            if self.is_key(run, &entry, key) {
                return Some(entry.record);
            }
        }
        None
    }

    /// The key and record of entry `at`.
    pub fn entry_at(&self, at: usize) -> (Key<'_>, Record<'_>) {
        let header = self.header();
        assert!(at < header.count);
        let run = (0..header.runs)
            .rev()
            .map(|number| self.run(&header, number))
            .find(|run| run.first <= at)
            .expect("the first run starts at entry 0");
        let entry = self.entry(&header, &run, at);
        let token = self.token(&header, &run, at, &entry);
        let prefix = Prefix::from_u128(u128::from(run.high) << 64 | u128::from(token));
        (Key { prefix, partition: entry.partition, sort: entry.sort }, entry.record)
    }

    /// The first entry whose key is not before `key`; `len()` if none.
    pub fn seek(&self, key: &Key<'_>) -> usize {
        let header = self.header();
        let high = high_of(&key.prefix);
        for number in 0..header.runs {
            let run = self.run(&header, number);
            match run.high.cmp(&high) {
                Ordering::Less => {}
                Ordering::Equal => return self.lower_bound(&header, &run, run.first, run.end, key),
                Ordering::Greater => return run.first,
            }
        }
        header.count
    }

    #[inline]
    fn payload_bytes(&self) -> usize {
        self.bytes.len() - SEED_BYTES
    }

    #[inline]
    fn header(&self) -> Header {
        Header::of(&self.bytes)
    }

    #[inline]
    fn run(&self, header: &Header, number: usize) -> Run {
        header.run(&self.bytes, number)
    }

    #[inline]
    fn run_of(&self, header: &Header, high: u64) -> Option<Run> {
        (0..header.runs).map(|number| self.run(header, number)).find(|run| run.high == high)
    }

    /// Entries of `run` whose fingerprint is that of `token`, as a range; `None` = there are none.
    #[inline(always)]
    fn ties(&self, run: &Run, slots: usize, token: u64) -> Option<(usize, usize)> {
        let wanted = token.checked_sub(run.token_base)? >> run.shift();
        if wanted > u64::from(run.last) {
            return None;
        }
        let wanted = wanted as u32;
        let slots = self.bytes[slots + SLOT_BYTES * run.first..][..SLOT_BYTES * (run.end - run.first)]
            .as_chunks::<SLOT_BYTES>()
            .0;
        let print = |at: usize| u32::from(u16::from_le_bytes([slots[at][0], slots[at][1]]));
        // Tokens are uniform, so the guess is off by a few entries.
        let mut at = (wanted * slots.len() as u32 / (run.last + 1)) as usize;
        while at > 0 && print(at - 1) >= wanted {
            at -= 1;
        }
        while print(at) < wanted {
            at += 1;
        }
        if print(at) != wanted {
            return None;
        }
        let mut end = at + 1;
        while end < slots.len() && print(end) == wanted {
            end += 1;
        }
        Some((run.first + at, run.first + end))
    }

    /// The first entry in `from..to` of `run` whose key is not before `key`.
    fn lower_bound(
        &self,
        header: &Header,
        run: &Run,
        mut from: usize,
        mut to: usize,
        key: &Key<'_>,
    ) -> usize {
        while from < to {
            let middle = from + (to - from) / 2;
            let entry = self.entry(header, run, middle);
            let token = self.token(header, run, middle, &entry);
            let order = token
                .cmp(&key.prefix.token)
                .then_with(|| entry.partition.cmp(key.partition))
                .then_with(|| entry.sort.cmp(key.sort));
            if order == Ordering::Less { from = middle + 1 } else { to = middle }
        }
        from
    }

    #[inline(always)]
    fn is_key(&self, run: &Run, entry: &Entry<'_>, key: &Key<'_>) -> bool {
        let mask = !(u64::MAX << run.shift());
        same(entry.partition, key.partition)
            && same(entry.sort, key.sort)
            && (run.shape & HASHED != 0
                || entry.token_low == key.prefix.token.wrapping_sub(run.token_base) & mask)
    }

    #[inline]
    fn token(&self, header: &Header, run: &Run, at: usize, entry: &Entry<'_>) -> u64 {
        let print = read_u16(&self.bytes, header.slots() + SLOT_BYTES * at);
        token_of(run, print, entry, read_u64(&self.bytes, self.payload_bytes()))
    }

    #[inline(never)]
    fn entry(&self, header: &Header, run: &Run, at: usize) -> Entry<'_> {
        let payload = &self.bytes[..self.payload_bytes()];
        let (start, end) = header.bounds(payload, at);
        decode(payload, header, run.shape, start, end).expect(CHECKED)
    }
}

/// Space, vnode and table as one integer.
#[inline]
pub(super) fn high_of(prefix: &Prefix) -> u64 {
    (prefix.to_u128() >> 64) as u64
}

impl Header {
    #[inline]
    pub(super) fn of(bytes: &[u8]) -> Header {
        let header: &[u8; HEADER_BYTES] = bytes.first_chunk().expect("a payload has a header");
        Header {
            order_base: read_u64(header, 0),
            count: usize::from(read_u16(header, 8)),
            runs: usize::from(read_u16(header, 10)),
            actors: usize::from(read_u16(header, 12)),
            order_bytes: usize::from(header[14]),
        }
    }

    #[inline]
    fn dictionary(&self) -> usize {
        HEADER_BYTES + self.runs * RUN_BYTES
    }

    #[inline]
    pub(super) fn slots(&self) -> usize {
        self.dictionary() + self.actors * ACTOR_BYTES
    }

    /// Bytes of an entry's fields of fixed width, in a run of this shape.
    pub(super) fn head_bytes(&self, shape: u8) -> usize {
        1 + low_bytes(shape) + self.order_bytes + actor_bytes(self.actors)
    }

    #[inline]
    pub(super) fn entries(&self) -> usize {
        self.slots() + SLOT_BYTES * self.count
    }

    #[inline]
    pub(super) fn run(&self, bytes: &[u8], number: usize) -> Run {
        let at = HEADER_BYTES + number * RUN_BYTES;
        let last = number + 1 == self.runs;
        let end = if last { self.count } else { usize::from(read_u16(bytes, at + RUN_BYTES + 16)) };
        Run {
            high: read_u64(bytes, at),
            token_base: read_u64(bytes, at + 8),
            first: usize::from(read_u16(bytes, at + 16)),
            end,
            last: u32::from(read_u16(bytes, at + 18)),
            shape: bytes[at + 20],
        }
    }

    #[inline]
    pub(super) fn bounds(&self, bytes: &[u8], at: usize) -> (usize, usize) {
        self.bounds_in(bytes, self.slots(), at)
    }

    /// Where entry `at` starts and ends; `slots` is where the slots start.
    #[inline(always)]
    fn bounds_in(&self, bytes: &[u8], slots: usize, at: usize) -> (usize, usize) {
        let slot = slots + SLOT_BYTES * at;
        let start = usize::from(read_u16(bytes, slot + 2));
        let last = at + 1 == self.count;
        let end = if last { bytes.len() } else { usize::from(read_u16(bytes, slot + SLOT_BYTES + 2)) };
        (start, end)
    }
}

/// Takes an entry apart; `None` = malformed.
#[inline(always)]
pub(super) fn decode<'a>(
    bytes: &'a [u8],
    header: &Header,
    shape: u8,
    start: usize,
    end: usize,
) -> Option<Entry<'a>> {
    let mut rest = bytes.get(start..end)?;
    let [flags] = take(&mut rest)?;
    let token_low = take_uint(&mut rest, low_bytes(shape))?;
    let order = header.order_base.checked_add(take_uint(&mut rest, header.order_bytes)?)?;
    let actor_index = take_uint(&mut rest, actor_bytes(header.actors))? as usize;
    if actor_index >= header.actors {
        return None;
    }
    let partition_len = varint::take(&mut rest)?;
    let sort_len = if flags & HAS_SORT != 0 { varint::take(&mut rest)? } else { 0 };
    let expiry_ms = if flags & HAS_EXPIRY != 0 { varint::take(&mut rest)? } else { 0 };
    let (partition, rest) = rest.split_at_checked(usize::try_from(partition_len).ok()?)?;
    let (sort, value) = rest.split_at_checked(usize::try_from(sort_len).ok()?)?;
    let actor = read_u64(bytes, header.dictionary() + actor_index * ACTOR_BYTES);
    let flags = RecordFlags(flags & !(HAS_SORT | HAS_EXPIRY));
    Some(Entry { token_low, partition, sort, record: Record { order, actor, flags, expiry_ms, value } })
}

/// The token of an entry with this fingerprint.
#[inline]
fn token_of(run: &Run, print: u16, entry: &Entry<'_>, token_seed: u64) -> u64 {
    if run.shape & HASHED != 0 {
        return xxh3_64_with_seed(entry.partition, token_seed);
    }
    run.token_base.wrapping_add(u64::from(print) << run.shift() | entry.token_low)
}

/// The header, if everything up to the entries is there.
pub(super) fn check_head(bytes: &[u8]) -> Result<Header, &'static str> {
    if bytes.len() < HEADER_BYTES {
        return Err("block header");
    }
    let header = Header::of(bytes);
    let shaped = header.count > 0 && header.runs > 0 && header.actors > 0 && header.order_bytes <= 8;
    if !shaped || header.entries() > bytes.len() {
        return Err("block header");
    }
    Ok(header)
}

/// Everything that reading a payload relies on: that its parts are where they should be, and its keys in order, without which a lookup
/// passes by what is there, and a merge brings it out of order.
fn check(bytes: &[u8], token_seed: u64) -> Result<(), &'static str> {
    let header = check_head(bytes)?;
    let mut before = None;
    for number in 0..header.runs {
        let run = header.run(bytes, number);
        let first_fits = if number == 0 { run.first == 0 } else { true };
        let ascends = before.is_none_or(|before| before < run.high);
        let fits = run.first < run.end && run.end <= header.count && run.shift() <= 48;
        if !(first_fits && ascends && fits) {
            return Err("block run");
        }
        before = Some(run.high);
        let mut print_before = 0;
        let mut key_before = None;
        for at in run.first..run.end {
            let print = read_u16(bytes, header.slots() + SLOT_BYTES * at);
            if print < print_before {
                return Err("block fingerprints");
            }
            print_before = print;
            let (start, end) = header.bounds(bytes, at);
            if start < header.entries() || start > end {
                return Err("block entry start");
            }
            let Some(entry) = decode(bytes, &header, run.shape, start, end) else {
                return Err("block entry");
            };
            let token = token_of(&run, print, &entry, token_seed);
            // Lookups take the fingerprint's word for it.
            let offset = token.checked_sub(run.token_base).map(|offset| offset >> run.shift());
            let key = (token, entry.partition, entry.sort);
            if offset != Some(u64::from(print)) || key_before.is_some_and(|before| before >= key) {
                return Err("block key order");
            }
            key_before = Some(key);
            let record = entry.record;
            // Reads and merges follow it, and count on its being one.
            if record.flags.0 & RecordFlags::SEPARATED != 0 && Pointer::decode(record.value).is_none() {
                return Err("block pointer");
            }
        }
        if u32::from(print_before) != run.last {
            return Err("block fingerprints");
        }
    }
    Ok(())
}

/// Whether two keys are equal. Most are a few words long, for which a call to compare memory costs more than the comparison.
#[inline(always)]
fn same(left: &[u8], right: &[u8]) -> bool {
    if left.len() != right.len() {
        return false;
    }
    let ((left, left_rest), (right, right_rest)) = (left.as_chunks::<8>(), right.as_chunks::<8>());
    let words = left.iter().zip(right).all(|(left, right)| left == right);
    words && left_rest.iter().zip(right_rest).all(|(left, right)| left == right)
}

#[inline]
fn take_uint(bytes: &mut &[u8], len: usize) -> Option<u64> {
    // One wide load where there is room; entries are rarely at the very end.
    if let Some(wide) = bytes.first_chunk::<8>() {
        *bytes = &bytes[len..];
        let mask = if len == 8 { u64::MAX } else { !(u64::MAX << (8 * len)) };
        return Some(u64::from_le_bytes(*wide) & mask);
    }
    let (field, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(field.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
}

#[inline]
pub(super) fn read_u16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(*bytes[at..].first_chunk().expect("inside the payload"))
}

#[inline]
fn read_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("inside the payload"))
}
