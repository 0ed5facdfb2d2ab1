//! A record's key and value: both functions of numbers, so that whatever comes back can be checked without keeping it.
//!
//! ```text
//! key   := prefix digits                        12 decimal digits: 16 bytes with the prefix `user`
//! value := run:u32 counter:u32 word*            cut to the value's size
//! word  := mix(seed + n × golden)               seed = mix(record, run, counter): random bytes, so nothing compresses
//! ```
//!
//! `run` marks the process that wrote the value, `counter` grows with each write to a record, from 1.

use crate::chooser::{GOLDEN, mix};

/// Digits of a key after its prefix.
pub const KEY_DIGITS: usize = 12;
/// Longest prefix, in bytes.
pub const KEY_PREFIX_BYTES_MAX: usize = 64;
/// Most records: what [`KEY_DIGITS`] can number, and what a checker keeps in memory.
pub const RECORDS_MAX: u64 = 1 << 32;
/// Shortest value: it has to name its version.
pub const VALUE_BYTES_MIN: usize = 8;

/// Writes keys into a buffer of its own.
#[derive(Clone, Debug)]
pub struct KeyWriter {
    bytes: Vec<u8>,
    prefix: usize,
    hashed: bool,
}

impl KeyWriter {
    /// Keys that start with `prefix`. `hashed` spreads neighbouring records over the key order.
    pub fn new(prefix: &str, hashed: bool) -> KeyWriter {
        assert!(prefix.len() <= KEY_PREFIX_BYTES_MAX, "the prefix is bounded where it enters");
        let mut bytes = prefix.as_bytes().to_vec();
        bytes.resize(prefix.len() + KEY_DIGITS, b'0');
        KeyWriter { bytes, prefix: prefix.len(), hashed }
    }

    /// The key of a record, until the next call.
    #[inline]
    pub fn key(&mut self, record: u64) -> &[u8] {
        let mut number = if self.hashed { scatter(record) } else { record };
        for digits in self.bytes[self.prefix..].rchunks_exact_mut(2) {
            let pair = (number % 100) as u8;
            number /= 100;
            digits[0] = b'0' + pair / 10;
            digits[1] = b'0' + pair % 10;
        }
        &self.bytes
    }
}

/// A bijection on `0..10^12` (multiplication by a number that shares no factor with 10).
fn scatter(record: u64) -> u64 {
    ((u128::from(record) * 618_033_988_749 + 271_828_182_845) % 1_000_000_000_000) as u64
}

/// Which write of a record a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The process that wrote it.
    pub run: u32,
    /// Which write to the record, from 1.
    pub counter: u32,
}

#[inline]
fn words(record: u64, stamp: Stamp) -> impl Iterator<Item = [u8; 8]> {
    let seed = mix(mix(record ^ GOLDEN).wrapping_add(u64::from(stamp.run) << 32 | u64::from(stamp.counter)));
    (1u64..).map(move |n| mix(seed.wrapping_add(n.wrapping_mul(GOLDEN))).to_le_bytes())
}

/// Replaces `out` by the value of `record` at `stamp`, `size` bytes long.
#[inline]
pub fn write_value(record: u64, stamp: Stamp, size: usize, out: &mut Vec<u8>) {
    assert!(size >= VALUE_BYTES_MIN, "the size is checked where it enters");
    out.clear();
    out.resize(size, 0);
    let (head, body) = out.split_at_mut(VALUE_BYTES_MIN);
    head[..4].copy_from_slice(&stamp.run.to_le_bytes());
    head[4..].copy_from_slice(&stamp.counter.to_le_bytes());
    for (chunk, word) in body.chunks_mut(8).zip(words(record, stamp)) {
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
}

/// The write that `value` comes from, if every byte is what that write to `record` sent.
pub fn stamp_of(record: u64, value: &[u8], size: usize) -> Option<Stamp> {
    if value.len() != size {
        return None;
    }
    let (run, rest) = value.split_first_chunk::<4>()?;
    let (counter, body) = rest.split_first_chunk::<4>()?;
    let stamp = Stamp { run: u32::from_le_bytes(*run), counter: u32::from_le_bytes(*counter) };
    let whole = body.chunks(8).zip(words(record, stamp)).all(|(chunk, word)| chunk == &word[..chunk.len()]);
    whole.then_some(stamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_sixteen_bytes_and_in_order() {
        let mut keys = KeyWriter::new("user", false);
        assert_eq!(keys.key(0), b"user000000000000");
        assert_eq!(keys.key(1_234_567), b"user000001234567");
        assert_eq!(keys.key(RECORDS_MAX - 1), b"user004294967295");
    }

    #[test]
    fn hashed_keys_are_distinct_and_out_of_order() {
        let mut keys = KeyWriter::new("k", true);
        let all: Vec<Vec<u8>> = (0..10_000).map(|record| keys.key(record).to_vec()).collect();
        let mut sorted = all.clone();
        sorted.sort();
        assert_ne!(all, sorted);
        sorted.dedup();
        assert_eq!(sorted.len(), all.len());
    }

    #[test]
    fn a_value_names_its_write_and_no_other_bytes_pass() {
        let stamp = Stamp { run: 77, counter: 3 };
        for size in [8, 9, 15, 16, 100, 1024] {
            let mut value = Vec::new();
            write_value(41, stamp, size, &mut value);
            assert_eq!(value.len(), size);
            assert_eq!(stamp_of(41, &value, size), Some(stamp));
            assert_eq!(stamp_of(41, &value[1..], size), None, "a cut value");
            if size >= 16 {
                assert_eq!(stamp_of(42, &value, size), None, "another record's value");
                for at in 0..size {
                    let mut damaged = value.clone();
                    damaged[at] ^= 0x10;
                    assert_eq!(stamp_of(41, &damaged, size), None, "byte {at} of {size}");
                }
            }
        }
    }
}
