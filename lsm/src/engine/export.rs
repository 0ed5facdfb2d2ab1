//! Exporting: keys and records of a range in order, in chunks that another engine ingests.
//!
//! ```text
//! chunk  := magic:u32 format:u16 zero:u16 records:u32 bytes:u32 checksum:u64 record{records}     bytes of all records
//! record := prefix:u128 order:u64 actor:u64 expiry_ms:u64 flags:u8 partition_len:u32 sort_len:u32 value_len:u32
//!           partition sort value
//! ```
//!
//! All integers are little-endian. The checksum is XXH3 of everything else, the fields before it first. A chunk says nothing of where
//! it came from: its records are whole, values that lie apart among them, and the engine's own marks are not.

use std::ops::ControlFlow;

use xxhash_rust::xxh3::Xxh3;

use super::Core;
use super::scan::ScanLimits;
use crate::table::take;
use crate::{Direction, Disk, Key, KeyRange, Pace, Prefix, RECORD_BYTES_MAX, ReadError, Record, RecordFlags};

/// The format that this build writes, and the only one it reads.
pub const CHUNK_FORMAT: u16 = 1;
/// Most bytes that a chunk may be asked to have; one record more than that is in it.
pub const CHUNK_BYTES_MAX: usize = 16 << 20;
const MAGIC: u32 = u32::from_le_bytes(*b"FeCh");
const HEADER_BYTES: usize = 24;
const CHECKSUM_AT: usize = 16;
/// Bytes of a record beside its key's and value's.
const RECORD_HEADER_BYTES: usize = 16 + 3 * 8 + 1 + 3 * 4;

/// A chunk, and what is left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// The chunk; see the module for its bytes.
    pub chunk: Vec<u8>,
    /// Records in it.
    pub records: u32,
    /// What comes next; `None` = this was the last.
    pub left: Option<KeyRange>,
}

impl<D: Disk, P: Pace> Core<D, P> {
    /// See [`super::Engine::export`].
    pub(super) async fn export(&self, range: &KeyRange, bytes_max: usize) -> Result<Exported, ReadError> {
        assert!(bytes_max <= CHUNK_BYTES_MAX, "a chunk of {bytes_max} bytes");
        let (mut chunk, mut records) = (vec![0; HEADER_BYTES], 0);
        let push = |key: Key<'_>, record: Record<'_>| {
            encode(&key, &record, &mut chunk);
            records += 1;
            if chunk.len() >= bytes_max { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let limits = ScanLimits { records: usize::MAX, bytes: bytes_max.max(1) };
        let left = self.scan(range, Direction::Forward, limits, push).await?;
        seal(&mut chunk, records);
        Ok(Exported { chunk, records, left })
    }
}

fn encode(key: &Key<'_>, record: &Record<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(&key.prefix.to_u128().to_le_bytes());
    for field in [record.order, record.actor, record.expiry_ms] {
        out.extend_from_slice(&field.to_le_bytes());
    }
    out.push(record.flags.0);
    for part in [key.partition, key.sort, record.value] {
        out.extend_from_slice(&(part.len() as u32).to_le_bytes());
    }
    for part in [key.partition, key.sort, record.value] {
        out.extend_from_slice(part);
    }
}

fn seal(chunk: &mut [u8], records: u32) {
    let bytes = (chunk.len() - HEADER_BYTES) as u32;
    chunk[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    chunk[4..6].copy_from_slice(&CHUNK_FORMAT.to_le_bytes());
    chunk[8..12].copy_from_slice(&records.to_le_bytes());
    chunk[12..16].copy_from_slice(&bytes.to_le_bytes());
    let checksum = checksum(chunk);
    chunk[CHECKSUM_AT..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
}

fn checksum(chunk: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(&chunk[..CHECKSUM_AT]);
    hash.update(&chunk[HEADER_BYTES..]);
    hash.digest()
}

/// Why bytes are no chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkError {
    /// They are not what was written.
    Damaged,
    /// Another version of this software wrote them.
    Format(u16),
    /// They are what was written, and make no sense: keys out of order or out of place, or records that no engine has.
    Malformed(&'static str),
}

impl std::fmt::Display for ChunkError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ChunkError::Damaged => write!(f, "the chunk is damaged"),
            ChunkError::Format(found) => write!(f, "the chunk has format {found}, which is not known here"),
            ChunkError::Malformed(what) => write!(f, "the chunk makes no sense: {what}"),
        }
    }
}

impl std::error::Error for ChunkError {}

/// The records of a chunk whose bytes hold. `None` in its place: the rest makes no sense.
#[derive(Clone, Debug)]
pub(super) struct Records<'a> {
    rest: &'a [u8],
    left: u32,
}

/// Verifies a chunk.
pub(super) fn parse(chunk: &[u8]) -> Result<Records<'_>, ChunkError> {
    let mut fields = chunk;
    let mut read = || {
        let magic = u32::from_le_bytes(take(&mut fields)?);
        let (format, zero) = (u16::from_le_bytes(take(&mut fields)?), u16::from_le_bytes(take(&mut fields)?));
        let (records, bytes) =
            (u32::from_le_bytes(take(&mut fields)?), u32::from_le_bytes(take(&mut fields)?));
        let stored = u64::from_le_bytes(take(&mut fields)?);
        Some((magic, format, zero, records, bytes, stored))
    };
    let (magic, format, zero, records, bytes, stored) = read().ok_or(ChunkError::Damaged)?;
    let len = chunk.len() - HEADER_BYTES;
    if magic != MAGIC || bytes as usize != len || stored != checksum(chunk) {
        return Err(ChunkError::Damaged);
    }
    if format != CHUNK_FORMAT {
        return Err(ChunkError::Format(format));
    }
    if zero != 0 || records as usize > len / RECORD_HEADER_BYTES {
        return Err(ChunkError::Malformed("header"));
    }
    Ok(Records { rest: &chunk[HEADER_BYTES..], left: records })
}

impl<'a> Records<'a> {
    fn decode(&mut self) -> Option<(Key<'a>, Record<'a>)> {
        let prefix = u128::from_le_bytes(take(&mut self.rest)?);
        let mut number = || take(&mut self.rest).map(u64::from_le_bytes);
        let (order, actor, expiry_ms) = (number()?, number()?, number()?);
        let [flags] = take(&mut self.rest)?;
        let mut len = || take(&mut self.rest).map(|bytes| u32::from_le_bytes(bytes) as usize);
        let (partition_len, sort_len, value_len) = (len()?, len()?, len()?);
        let mut bytes = |len| {
            let (taken, rest) = self.rest.split_at_checked(len)?;
            self.rest = rest;
            Some(taken)
        };
        let (partition, sort, value) = (bytes(partition_len)?, bytes(sort_len)?, bytes(value_len)?);
        let is_sane = prefix >> 120 == 0
            && flags & !RecordFlags::OUTSIDE == 0
            && partition.len() + sort.len() + value.len() <= RECORD_BYTES_MAX / 2;
        let key = Key { prefix: Prefix::from_u128(prefix), partition, sort };
        is_sane.then_some((key, Record { order, actor, flags: RecordFlags(flags), expiry_ms, value }))
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<(Key<'a>, Record<'a>), ChunkError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            let behind = !std::mem::take(&mut self.rest).is_empty();
            return behind.then_some(Err(ChunkError::Malformed("bytes behind the last record")));
        }
        self.left -= 1;
        let decoded = self.decode();
        if decoded.is_none() {
            (self.left, self.rest) = (0, &[]);
        }
        Some(decoded.ok_or(ChunkError::Malformed("record")))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(n: u64) -> (Prefix, [u8; 8]) {
        (Prefix { space: 1, vnode: 3, table: 2, token: n }, n.to_be_bytes())
    }

    fn chunk(values: &[Vec<u8>]) -> Vec<u8> {
        let mut chunk = vec![0; HEADER_BYTES];
        for (n, value) in values.iter().enumerate() {
            let (prefix, partition) = key(n as u64);
            let key = Key { prefix, partition: &partition, sort: b"s" };
            encode(
                &key,
                &Record { order: 7, actor: 8, flags: RecordFlags(2), expiry_ms: 9, value },
                &mut chunk,
            );
        }
        seal(&mut chunk, values.len() as u32);
        chunk
    }

    proptest! {
        #[test]
        fn chunks_come_back(values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..20)) {
            let chunk = chunk(&values);
            let read: Vec<Vec<u8>> =
                parse(&chunk).unwrap().map(|record| record.unwrap().1.value.to_vec()).collect();
            prop_assert_eq!(read, values);
        }

        #[test]
        fn sealed_nonsense_never_panics(body in prop::collection::vec(any::<u8>(), 0..300), records in 0u32..9) {
            let mut chunk = vec![0; HEADER_BYTES];
            chunk.extend_from_slice(&body);
            seal(&mut chunk, records);
            if let Ok(records) = parse(&chunk) {
                let _faults = records.filter(Result::is_err).count();
            }
        }
    }

    #[test]
    fn every_flipped_byte_and_every_truncation_is_seen() {
        let whole = chunk(&[vec![1; 30], vec![], vec![2; 5]]);
        for at in 0..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 1 << (at % 8);
            assert!(parse(&bad).is_err(), "byte {at}");
            assert!(parse(&whole[..at]).is_err(), "length {at}");
        }
    }
}
