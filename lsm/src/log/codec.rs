//! Records within a group.
//!
//! ```text
//! record := head:u8 flags:u8 [space:u8] vnode:u16 table:varint [token:u64] order:delta [actor:u64] [epoch:varint] [expiry:varint]
//!           partition_len:varint [sort_len:varint] value_len:varint partition sort value
//! head   := 1 actor present | 2 epoch present | 4 expiry present | 8 sort key present | 16 space present | 32 token left out
//! delta  := zigzag varint, against the order of the record before it in the group (0 before the first)
//! ```
//!
//! What is absent is the same as in the record before (actor, vnode epoch), or its usual value (no expiry, no sort key, space 1,
//! and as token XXH3-64 of the partition key with the group's seed).
//! All of that starts anew with each group, so that a group is read by itself.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::format::GroupHeader;
use crate::{Key, Prefix, Record, RecordFlags, Seq, varint};

const ACTOR: u8 = 1;
const EPOCH: u8 = 2;
const EXPIRY: u8 = 4;
const SORT: u8 = 8;
const SPACE: u8 = 16;
const HASHED: u8 = 32;
const KNOWN: u8 = ACTOR | EPOCH | EXPIRY | SORT | SPACE | HASHED;

/// Most that a record takes beside its key's and value's bytes.
const OVERHEAD_MAX: usize = 3 + 2 + 5 + 8 + 10 + 8 + 10 + 10 + 3 * 10;

/// A record of the log: its number, key, record, and the epoch of its vnode.
pub type Entry<'a> = (Seq, Key<'a>, Record<'a>, u64);

/// Most bytes that a record may take.
#[inline]
pub(super) fn encoded_len_max(key: &Key<'_>, record: &Record<'_>) -> usize {
    OVERHEAD_MAX + key.partition.len() + key.sort.len() + record.value.len()
}

/// What a record is encoded against: the one before it in its group.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Before {
    order: u64,
    actor: u64,
    epoch: u64,
}

/// Appends to a buffer that is known to be long enough.
struct Cursor<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl Cursor<'_> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    #[inline]
    fn put_byte(&mut self, byte: u8) {
        self.bytes[self.at] = byte;
        self.at += 1;
    }

    #[inline]
    fn put_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.put_byte(value as u8 | 0x80);
            value >>= 7;
        }
        self.put_byte(value as u8);
    }
}

impl Before {
    /// Writes a record to the front of `bytes`, which has room for [`encoded_len_max`]; returns its length. A token that follows
    /// from the partition key by `token_seed` is left out.
    #[inline]
    pub(super) fn encode(
        &mut self,
        bytes: &mut [u8],
        key: &Key<'_>,
        record: &Record<'_>,
        vnode_epoch: u64,
        token_seed: Option<u64>,
    ) -> usize {
        let follows = |seed| xxh3_64_with_seed(key.partition, seed) == key.prefix.token;
        let head = if record.actor != self.actor { ACTOR } else { 0 }
            | if vnode_epoch != self.epoch { EPOCH } else { 0 }
            | if record.expiry_ms != 0 { EXPIRY } else { 0 }
            | if key.sort.is_empty() { 0 } else { SORT }
            | if key.prefix.space != 1 { SPACE } else { 0 }
            | if token_seed.is_some_and(follows) { HASHED } else { 0 };
        let mut out = Cursor { bytes, at: 0 };
        out.put_byte(head);
        out.put_byte(record.flags.0);
        if head & SPACE != 0 {
            out.put_byte(key.prefix.space);
        }
        out.put(&key.prefix.vnode.to_le_bytes());
        out.put_varint(key.prefix.table.into());
        if head & HASHED == 0 {
            out.put(&key.prefix.token.to_le_bytes());
        }
        out.put_varint(zigzag(record.order.wrapping_sub(self.order)));
        if head & ACTOR != 0 {
            out.put(&record.actor.to_le_bytes());
        }
        if head & EPOCH != 0 {
            out.put_varint(vnode_epoch);
        }
        if head & EXPIRY != 0 {
            out.put_varint(record.expiry_ms);
        }
        out.put_varint(key.partition.len() as u64);
        if head & SORT != 0 {
            out.put_varint(key.sort.len() as u64);
        }
        out.put_varint(record.value.len() as u64);
        out.put(key.partition);
        out.put(key.sort);
        out.put(record.value);
        *self = Before { order: record.order, actor: record.actor, epoch: vnode_epoch };
        out.at
    }

    /// Reads the record at the front of `rest` and moves past it; `None` = there is none that makes sense.
    #[inline]
    fn decode<'a>(&mut self, rest: &mut &'a [u8], token_seed: u64) -> Option<(Key<'a>, Record<'a>, u64)> {
        let head = take_byte(rest)?;
        if head & !KNOWN != 0 {
            return None;
        }
        let flags = RecordFlags(take_byte(rest)?);
        let space = if head & SPACE != 0 { take_byte(rest)? } else { 1 };
        let vnode = u16::from_le_bytes(take_array(rest)?);
        let table = u32::try_from(varint::take(rest)?).ok()?;
        let token = if head & HASHED == 0 { Some(u64::from_le_bytes(take_array(rest)?)) } else { None };
        let order = self.order.wrapping_add(unzigzag(varint::take(rest)?));
        let actor = if head & ACTOR != 0 { u64::from_le_bytes(take_array(rest)?) } else { self.actor };
        let epoch = if head & EPOCH != 0 { varint::take(rest)? } else { self.epoch };
        let expiry_ms = if head & EXPIRY != 0 { varint::take(rest)? } else { 0 };
        let partition_len = varint::take(rest)?;
        let sort_len = if head & SORT != 0 { varint::take(rest)? } else { 0 };
        let value_len = varint::take(rest)?;
        let partition = take_bytes(rest, partition_len)?;
        let token = token.unwrap_or_else(|| xxh3_64_with_seed(partition, token_seed));
        let sort = take_bytes(rest, sort_len)?;
        let value = take_bytes(rest, value_len)?;
        *self = Before { order, actor, epoch };
        let key = Key { prefix: Prefix { space, vnode, table, token }, partition, sort };
        Some((key, Record { order, actor, flags, expiry_ms, value }, epoch))
    }
}

/// A group's records do not decode: its checksum was right, so it was written so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordFault {
    /// The record, counted from the group's first.
    pub index: u32,
}

/// The records of a group, in order.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
    before: Before,
    first: u64,
    index: u32,
    count: u32,
    token_seed: u64,
}

impl<'a> Records<'a> {
    /// Over what [`super::format::decode_group`] gave.
    pub fn of(group: &GroupHeader, body: &'a [u8]) -> Records<'a> {
        let GroupHeader { first, count, token_seed, .. } = *group;
        Records { rest: body, before: Before::default(), first, index: 0, count, token_seed }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Entry<'a>, RecordFault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.index == self.count {
            return None;
        }
        let index = self.index;
        let Some((key, record, epoch)) = self.before.decode(&mut self.rest, self.token_seed) else {
            self.index = self.count;
            return Some(Err(RecordFault { index }));
        };
        self.index += 1;
        if self.index == self.count && !self.rest.is_empty() {
            return Some(Err(RecordFault { index: self.index }));
        }
        Some(Ok((Seq(self.first + u64::from(index)), key, record, epoch)))
    }
}

#[inline]
fn zigzag(delta: u64) -> u64 {
    let signed = delta as i64;
    ((signed << 1) ^ (signed >> 63)) as u64
}

#[inline]
fn unzigzag(value: u64) -> u64 {
    (value >> 1) ^ (value & 1).wrapping_neg()
}

#[inline]
fn take_byte(rest: &mut &[u8]) -> Option<u8> {
    let (byte, after) = rest.split_first()?;
    *rest = after;
    Some(*byte)
}

#[inline]
fn take_array<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (array, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*array)
}

#[inline]
fn take_bytes<'a>(rest: &mut &'a [u8], len: u64) -> Option<&'a [u8]> {
    let (bytes, after) = rest.split_at_checked(usize::try_from(len).ok()?)?;
    *rest = after;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::format::Identity;
    use super::*;
    use proptest::prelude::*;

    type Owned = (u128, Vec<u8>, Vec<u8>, (u64, u64, u8, u64, u64), Vec<u8>);

    fn record() -> impl Strategy<Value = Owned> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..40);
        let small_or_any = || prop_oneof![Just(0u64), 0u64..300, any::<u64>()];
        let numbers = (small_or_any(), small_or_any(), any::<u8>(), small_or_any(), small_or_any());
        (any::<u128>().prop_map(|bits| bits >> 8), bytes(), bytes(), numbers, bytes())
    }

    const SEED: u64 = 77;

    fn group(first: u64, count: u32) -> GroupHeader {
        let identity = Identity { segment: 1, life: 1 };
        GroupHeader { identity, first, count, mark: 0, token_seed: SEED, body: 0, blocks: 1 }
    }

    #[test]
    fn a_token_that_follows_from_the_key_takes_no_room() {
        let record = Record { order: 1, actor: 2, flags: RecordFlags(0), expiry_ms: 0, value: b"v" };
        let len = |token, token_seed| {
            let prefix = Prefix { space: 1, vnode: 3, table: 4, token };
            let key = Key { prefix, partition: b"partition", sort: b"" };
            let mut bytes = vec![0; 200];
            let len = Before::default().encode(&mut bytes, &key, &record, 0, token_seed);
            let read: Vec<_> = Records::of(&group(9, 1), &bytes[..len]).collect();
            assert_eq!(read, [Ok((Seq(9), key, record, 0))]);
            len
        };
        let token = xxh3_64_with_seed(b"partition", SEED);
        let full = len(token, None);
        assert_eq!(len(token, Some(SEED)), full - 8);
        assert_eq!(len(token ^ 1, Some(SEED)), full, "of another hash");
    }

    proptest! {
        #[test]
        fn records_round_trip(records in prop::collection::vec(record(), 1..20), first in 1u64..1000, hashed: bool) {
            let (mut bytes, mut at, mut before) = (vec![0; 1 << 16], 0, Before::default());
            let mut records = records;
            for (prefix, partition, ..) in records.iter_mut().filter(|_| hashed) {
                let token = xxh3_64_with_seed(partition, SEED);
                *prefix = Prefix { token, ..Prefix::from_u128(*prefix) }.to_u128();
            }
            for (prefix, partition, sort, (order, actor, flags, expiry_ms, epoch), value) in &records {
                let key = Key { prefix: Prefix::from_u128(*prefix), partition, sort };
                let record = Record { order: *order, actor: *actor, flags: RecordFlags(*flags), expiry_ms: *expiry_ms, value };
                let len = before.encode(&mut bytes[at..], &key, &record, *epoch, hashed.then_some(SEED));
                prop_assert!(len <= encoded_len_max(&key, &record));
                at += len;
            }
            let read: Vec<Owned> = Records::of(&group(first, records.len() as u32), &bytes[..at])
                .enumerate()
                .map(|(index, entry)| {
                    let (seq, key, r, epoch) = entry.unwrap();
                    assert_eq!(seq.0, first + index as u64);
                    let numbers = (r.order, r.actor, r.flags.0, r.expiry_ms, epoch);
                    (key.prefix.to_u128(), key.partition.to_vec(), key.sort.to_vec(), numbers, r.value.to_vec())
                })
                .collect();
            prop_assert_eq!(read, records);
            for cut in 0..at {
                let faults = Records::of(&group(first, 20), &bytes[..cut]).filter(|entry| entry.is_err()).count();
                prop_assert_eq!(faults, 1, "cut at {}", cut);
            }
        }

        #[test]
        fn decoding_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..100), count in 0u32..10) {
            for entry in Records::of(&group(1, count), &bytes) {
                let _either = entry;
            }
        }
    }
}
