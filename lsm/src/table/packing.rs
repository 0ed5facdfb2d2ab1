//! What a payload leaves out before it is compressed: what follows from the rest of it.
//!
//! A slot's four bytes look random to a compressor, and a tenth of a block of small records are slots. Packed, a slot is
//!
//! ```text
//! slot := fingerprint:u16 length:u16       in a hashed run the fingerprint is 0
//! ```
//!
//! The length of the entry before it stands in place of its own start (the first has 0), which is the same from slot to slot where records are of
//! one size; and the fingerprint of a hashed run follows from the partition key, a hash of some nanoseconds. Everything else
//! stays as it is, and a packed payload is as long as the payload. Measured with 16-byte keys and 100-byte values of which half compresses: what
//! LZ4 leaves of a record is 4 bytes less.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::block::{HASHED, Header, SLOT_BYTES, check_head, decode, read_u16};

/// Packs a payload in its place.
pub(super) fn pack(payload: &mut [u8]) {
    let header = Header::of(payload);
    let slots = header.slots();
    let mut before = header.entries();
    for at in 0..header.count {
        let start = usize::from(read_u16(payload, slots + SLOT_BYTES * at + 2));
        put(payload, slots + SLOT_BYTES * at + 2, (start - before) as u16);
        before = start;
    }
    for number in 0..header.runs {
        let run = header.run(payload, number);
        if run.shape & HASHED != 0 {
            (run.first..run.end).for_each(|at| put(payload, slots + SLOT_BYTES * at, 0));
        }
    }
}

/// Unpacks what [`pack`] made, in its place. The error names what cannot have come from there; what it leaves is checked as any payload.
pub(super) fn unpack(payload: &mut [u8], token_seed: u64) -> Result<(), &'static str> {
    let header = check_head(payload)?;
    let slots = header.slots();
    let mut start = header.entries();
    for at in 0..header.count {
        start += usize::from(read_u16(payload, slots + SLOT_BYTES * at + 2));
        let narrow = u16::try_from(start).map_err(|_| "block entry start")?;
        put(payload, slots + SLOT_BYTES * at + 2, narrow);
    }
    for number in 0..header.runs {
        let run = header.run(payload, number);
        if run.shape & HASHED == 0 {
            continue;
        }
        if run.first >= run.end || run.end > header.count || run.shift() > 48 {
            return Err("block run");
        }
        for at in run.first..run.end {
            let (start, end) = header.bounds(payload, at);
            let entry = decode(payload, &header, run.shape, start, end).ok_or("block entry")?;
            let token = xxh3_64_with_seed(entry.partition, token_seed);
            let print = token.checked_sub(run.token_base).map(|above| above >> run.shift());
            let print = print.and_then(|print| u16::try_from(print).ok()).ok_or("block fingerprints")?;
            put(payload, slots + SLOT_BYTES * at, print);
        }
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
                    expiry_ms: n % 2,
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

    #[test]
    fn what_is_packed_comes_back() {
        for payload in payloads() {
            let mut packed = payload.clone();
            pack(&mut packed);
            assert!(packed.len() == payload.len() && (packed != payload || payload.len() < 100));
            unpack(&mut packed, SEED).expect("it was packed");
            assert_eq!(packed, payload);
        }
    }

    #[test]
    fn slots_of_equal_records_with_hashed_keys_are_all_alike() {
        let mut packed = payloads()[0].clone();
        let header = Header::of(&packed);
        let (slots, entries) = (header.slots(), header.entries());
        pack(&mut packed);
        let prints = packed[slots..entries].chunks(SLOT_BYTES).map(|slot| (slot[0], slot[1]));
        assert!(prints.clone().all(|print| print == (0, 0)), "{:?}", prints.collect::<Vec<_>>());
    }

    /// The checksum keeps damage out; what a foreign writer may have stored under a good one is still no reason to panic.
    #[test]
    fn any_byte_may_be_wrong() {
        for payload in payloads() {
            let mut packed = payload.clone();
            pack(&mut packed);
            for at in 0..packed.len() {
                for mask in [1, 0x80, 0xff] {
                    let mut wrong = packed.clone();
                    wrong[at] ^= mask;
                    if unpack(&mut wrong, SEED).is_ok() {
                        let _ = Block::parse(&wrong, SEED);
                    }
                }
            }
            for len in 0..packed.len() {
                let mut short = packed[..len].to_vec();
                if unpack(&mut short, SEED).is_ok() {
                    let _ = Block::parse(&short, SEED);
                }
            }
        }
    }
}
