//! What becomes of a payload before it is compressed: what follows from the rest of it is left out, and what is alike is brought together.
//!
//! A compressor finds what is repeated in one piece. In a block of small records little is: between two random keys, or a key and
//! its value, stand a few bytes that are the same in every entry, and each such place costs it three. So the front of the entries
//! is stored by columns.
//!
//! ```text
//! packed  := header run{run_count} actor{actor_count} slot{count} (columns rest{count})...      one pair for each run
//! header  := as the payload's, its last byte = tail
//! slot    := fingerprint:u16 length:u16             in a hashed run the fingerprint is 0
//! columns := (byte{entries of the run}){head + tail}
//! rest    := what the columns left of an entry
//! ```
//!
//! An entry's head are its fields of fixed width: flags, token, order and actor. Its tail are the bytes behind these, of which `tail` go into
//! columns as well: all up to the value, where that is equally long in all entries; none otherwise, for what keys of different
//! lengths have in common stands in different places. The length of the entry before
//! it stands in place of a slot's own start (the first has 0), which is the same from slot to slot where records are of one size; and
//! the fingerprint of a hashed run follows from the partition key, a hash of some nanoseconds.
//!
//! A packed payload is as long as the payload. Measured in `lsm/tests`' records (16-byte keys, 100-byte values of which half compresses) and in
//! `benches/engines`: `tuning/experiments/packing.md`.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::block::{
    HAS_EXPIRY, HAS_SORT, HASHED, HEADER_BYTES, Header, Run, SLOT_BYTES, check_head, decode, read_u16,
};

/// Where the header says how many bytes of the tails are in columns; 0 in a payload.
const TAIL_AT: usize = HEADER_BYTES - 1;
/// Most such bytes.
const TAIL_BYTES_MAX: usize = u8::MAX as usize;

/// Packs a payload into `packed`.
pub(super) fn pack(payload: &[u8], packed: &mut Vec<u8>) {
    let header = Header::of(payload);
    let (slots, entries) = (header.slots(), header.entries());
    packed.clear();
    packed.extend_from_slice(&payload[..entries]);
    let mut before = entries;
    for at in 0..header.count {
        let start = usize::from(read_u16(payload, slots + SLOT_BYTES * at + 2));
        put(packed, slots + SLOT_BYTES * at + 2, (start - before) as u16);
        before = start;
    }
    let tail = tail_bytes(payload, &header);
    packed[TAIL_AT] = tail as u8;
    for number in 0..header.runs {
        let run = header.run(payload, number);
        if run.shape & HASHED != 0 {
            (run.first..run.end).for_each(|at| put(packed, slots + SLOT_BYTES * at, 0));
        }
        let columns = header.head_bytes(run.shape) + tail;
        let start_of = |at: usize| header.bounds(payload, at).0;
        for column in 0..columns {
            packed.extend((run.first..run.end).map(|at| payload[start_of(at) + column]));
        }
        for at in run.first..run.end {
            let (start, end) = header.bounds(payload, at);
            packed.extend_from_slice(&payload[start + columns..end]);
        }
    }
    debug_assert_eq!(packed.len(), payload.len());
}

/// How many bytes behind the heads go into columns: all up to the value, if the entries are of one shape.
fn tail_bytes(payload: &[u8], header: &Header) -> usize {
    let mut first = None;
    for number in 0..header.runs {
        let run = header.run(payload, number);
        for at in run.first..run.end {
            let (start, end) = header.bounds(payload, at);
            let entry = decode(payload, header, run.shape, start, end).expect("built here");
            let tail = end - start - header.head_bytes(run.shape) - entry.record.value.len();
            let shape = (payload[start] & (HAS_SORT | HAS_EXPIRY), tail);
            if tail > TAIL_BYTES_MAX || *first.get_or_insert(shape) != shape {
                return 0;
            }
        }
    }
    let (_, tail) = first.expect("a block has an entry");
    if header.count > 1 { tail } else { 0 }
}

/// Unpacks what [`pack`] made. The error names what cannot have come from there; what is given back is checked as any payload.
pub(super) fn unpack(packed: &[u8], token_seed: u64) -> Result<Vec<u8>, &'static str> {
    let header = check_head(packed)?;
    let (slots, entries) = (header.slots(), header.entries());
    let tail = usize::from(packed[TAIL_AT]);
    let mut payload = Vec::with_capacity(packed.len());
    payload.extend_from_slice(&packed[..entries]);
    payload[TAIL_AT] = 0;
    let mut start = entries;
    for at in 0..header.count {
        start += usize::from(read_u16(packed, slots + SLOT_BYTES * at + 2));
        let narrow = u16::try_from(start).map_err(|_| "block entry start")?;
        put(&mut payload, slots + SLOT_BYTES * at + 2, narrow);
    }
    payload.resize(packed.len(), 0);
    let (mut from, mut next) = (entries, 0);
    for number in 0..header.runs {
        let run = header.run(packed, number);
        if run.first != next || run.first >= run.end || run.end > header.count || run.shift() > 48 {
            return Err("block run");
        }
        next = run.end;
        let columns = header.head_bytes(run.shape) + tail;
        let (count, first_column) = (run.end - run.first, from);
        from += columns * count;
        for at in run.first..run.end {
            let (start, end) = header.bounds(&payload, at);
            let rest =
                end.checked_sub(start).and_then(|len| len.checked_sub(columns)).ok_or("block entry")?;
            let bytes = packed.get(from..).and_then(|left| left.get(..rest)).ok_or("block entry")?;
            let entry = payload.get_mut(start..end).ok_or("block entry start")?;
            let (front, behind) = entry.split_at_mut(columns);
            let column = packed[first_column + (at - run.first)..].iter().step_by(count);
            front.iter_mut().zip(column).for_each(|(byte, stored)| *byte = *stored);
            behind.copy_from_slice(bytes);
            from += rest;
        }
        if run.shape & HASHED != 0 {
            fingerprints(&mut payload, &header, &run, token_seed)?;
        }
    }
    if from != packed.len() || next != header.count { Err("block entry") } else { Ok(payload) }
}

/// Computes the fingerprints of a hashed run.
fn fingerprints(payload: &mut [u8], header: &Header, run: &Run, token_seed: u64) -> Result<(), &'static str> {
    for at in run.first..run.end {
        let (start, end) = header.bounds(payload, at);
        let entry = decode(payload, header, run.shape, start, end).ok_or("block entry")?;
        let token = xxh3_64_with_seed(entry.partition, token_seed);
        let print = token.checked_sub(run.token_base).map(|above| above >> run.shift());
        let print = print.and_then(|print| u16::try_from(print).ok()).ok_or("block fingerprints")?;
        put(payload, header.slots() + SLOT_BYTES * at, print);
    }
    Ok(())
}

fn put(payload: &mut [u8], at: usize, value: u16) {
    payload[at..][..2].copy_from_slice(&value.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::super::block::Block;
    use super::super::block_builder::BlockBuilder;
    use super::*;
    use crate::{Key, Prefix, Record, RecordFlags};

    const SEED: u64 = 77;

    /// Payloads of all shapes: keys that are hashed and that are not, sort keys, several tables and actors, one record alone.
    fn payloads() -> Vec<Vec<u8>> {
        let mut payloads = Vec::new();
        for (hashed, tables, actors, sorts, count) in [
            (true, 1, 1, 1, 30),
            (false, 1, 1, 1, 30),
            (true, 3, 2, 1, 20),
            (false, 4, 300, 1, 400),
            (true, 1, 1, 9, 40),
            (true, 1, 1, 1, 1),
        ] {
            let mut entries: Vec<_> = (0..count as u64)
                .map(|n| {
                    let partition = (n / sorts).to_le_bytes();
                    let token = xxh3_64_with_seed(&partition, if hashed { SEED } else { SEED + 1 });
                    let prefix = Prefix { space: 1, vnode: 3, table: (n % tables) as u32, token };
                    (prefix, partition, if sorts > 1 { n.to_be_bytes().to_vec() } else { Vec::new() }, n)
                })
                .collect();
            entries.sort();
            let mut builder = BlockBuilder::new(Some(SEED));
            for (prefix, partition, sort, n) in &entries {
                let key = Key { prefix: *prefix, partition, sort };
                let value = vec![*n as u8; (n % 50) as usize];
                let record = Record {
                    order: 1000 - n,
                    actor: n % actors,
                    flags: RecordFlags(0),
                    expiry_ms: if actors > 1 { n % 2 } else { 1 << 40 | n },
                    value: &value,
                };
                let is_hash = builder.is_hash(&key);
                assert_eq!(is_hash, hashed);
                builder.add(&key, &record, is_hash);
            }
            let mut payload = Vec::new();
            builder.finish(&mut payload);
            payloads.push(payload);
        }
        payloads
    }

    fn packed(payload: &[u8]) -> Vec<u8> {
        let mut packed = Vec::new();
        pack(payload, &mut packed);
        packed
    }

    /// Eight bytes of key of which six are zero in small numbers: they stand together, and so does what no entry has in common.
    #[test]
    fn keys_of_one_shape_are_stored_by_columns_and_others_are_not() {
        let payloads = payloads();
        let tails: Vec<_> = payloads.iter().map(|payload| packed(payload)[TAIL_AT]).collect();
        // The length of the key, six bytes of expiry, the key; in the fifth the length of a sort key and that key.
        assert_eq!(
            tails,
            [15, 15, 0, 0, 24, 0],
            "where only some expire, or one is alone, all stays as it is"
        );
        let header = Header::of(&payloads[0]);
        let columns = &packed(&payloads[0])[header.entries()..];
        let head = header.head_bytes(header.run(&payloads[0], 0).shape);
        for column in [head, head + 3, head + 14] {
            let bytes = &columns[column * header.count..][..header.count];
            assert!(bytes.iter().all(|byte| *byte == bytes[0]), "column {column}: {bytes:?}");
        }
    }

    #[test]
    fn what_is_packed_comes_back() {
        for payload in payloads() {
            let packed = packed(&payload);
            assert!(packed.len() == payload.len() && (packed != payload || payload.len() < 100));
            assert_eq!(unpack(&packed, SEED).expect("it was packed"), payload);
        }
    }

    #[test]
    fn slots_of_equal_records_with_hashed_keys_are_all_alike() {
        let payload = &payloads()[0];
        let header = Header::of(payload);
        let (slots, entries) = (header.slots(), header.entries());
        let packed = packed(payload);
        let prints = packed[slots..entries].chunks(SLOT_BYTES).map(|slot| (slot[0], slot[1]));
        assert!(prints.clone().all(|print| print == (0, 0)), "{:?}", prints.collect::<Vec<_>>());
    }

    /// The checksum keeps damage out; what a foreign writer may have stored under a good one is still no reason to panic.
    #[test]
    fn any_byte_may_be_wrong() {
        for payload in payloads() {
            let packed = packed(&payload);
            for at in 0..packed.len() {
                for mask in [1, 0x80, 0xff] {
                    let mut wrong = packed.clone();
                    wrong[at] ^= mask;
                    if let Ok(payload) = unpack(&wrong, SEED) {
                        let _ = Block::parse(&payload, SEED);
                    }
                }
            }
            for len in 0..packed.len() {
                if let Ok(payload) = unpack(&packed[..len], SEED) {
                    let _ = Block::parse(&payload, SEED);
                }
            }
        }
    }
}
