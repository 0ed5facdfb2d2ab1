//! How a record lies in a page of the record cache. In memory only; integers are little-endian.
//!
//! ```text
//! entry := prefix:u128 order:u64 actor:u64 expiry_ms:u64 value_len:u16 partition_len:u16 sort_len:u16 flags:u8 zero:u8
//!          partition sort value zeros                                      zeros to a multiple of eight bytes
//! ```

use crate::{Key, Prefix, Record, RecordFlags};

/// Entries start at multiples of this.
pub(super) const UNIT_BYTES: usize = 8;
/// Longest entry: a page holds several.
pub(super) const ENTRY_BYTES_MAX: usize = 2 << 10;
const HEAD_BYTES: usize = 48;

/// Bytes of a record's entry; `None` if it is longer than one may be.
#[inline]
pub(super) fn entry_bytes(key: &Key<'_>, record: &Record<'_>) -> Option<usize> {
    // Each alone first: their sum cannot overflow then.
    let parts = [key.partition.len(), key.sort.len(), record.value.len()];
    let fits = parts.iter().all(|&len| len <= ENTRY_BYTES_MAX);
    let bytes = fits.then(|| (HEAD_BYTES + parts.iter().sum::<usize>()).next_multiple_of(UNIT_BYTES))?;
    (bytes <= ENTRY_BYTES_MAX).then_some(bytes)
}

/// Writes an entry into exactly the bytes that it takes.
pub(super) fn encode(out: &mut [u8], key: &Key<'_>, record: &Record<'_>) {
    out[..16].copy_from_slice(&key.prefix.to_u128().to_le_bytes());
    out[16..24].copy_from_slice(&record.order.to_le_bytes());
    out[24..32].copy_from_slice(&record.actor.to_le_bytes());
    out[32..40].copy_from_slice(&record.expiry_ms.to_le_bytes());
    let lens = [record.value.len(), key.partition.len(), key.sort.len()];
    for (at, len) in lens.into_iter().enumerate() {
        out[40 + 2 * at..42 + 2 * at].copy_from_slice(&(len as u16).to_le_bytes());
    }
    out[46] = record.flags.0;
    out[47] = 0;
    let mut at = HEAD_BYTES;
    for part in [key.partition, key.sort, record.value] {
        out[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    out[at..].fill(0);
}

/// The entry at the front of `bytes`: its key, its record, and how many bytes it takes.
#[inline]
pub(super) fn decode(bytes: &[u8]) -> (Key<'_>, Record<'_>, usize) {
    let (head, rest) = bytes.split_first_chunk::<HEAD_BYTES>().expect("an entry has a head");
    let word = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
    let len = |at: usize| usize::from(u16::from_le_bytes([head[at], head[at + 1]]));
    let prefix = Prefix::from_u128(u128::from(word(8)) << 64 | u128::from(word(0)));
    let (value_len, partition_len, sort_len) = (len(40), len(42), len(44));
    let (partition, rest) = rest.split_at(partition_len);
    let (sort, rest) = rest.split_at(sort_len);
    let record = Record {
        order: word(16),
        actor: word(24),
        flags: RecordFlags(head[46]),
        expiry_ms: word(32),
        value: &rest[..value_len],
    };
    let bytes = (HEAD_BYTES + partition_len + sort_len + value_len).next_multiple_of(UNIT_BYTES);
    (Key { prefix, partition, sort }, record, bytes)
}
