//! A bump arena of encoded entries, in chunks that never move.
//!
//! ```text
//! entry := flags:u8 partition_len:varint sort_len:varint value_len:varint order:u64 actor:u64 (expiry_ms:u64)? partition sort value
//! ```
//!
//! `flags` are the record's, and [`HAS_EXPIRY`]. The bytes never leave the process: they are written and read by this module
//! alone, so a malformed entry is a bug and panics.

use std::cmp::Ordering;

use crate::prefetch::prefetch_all;
use crate::{Key, Prefix, Record, RecordFlags, varint};

/// Size of the first chunk, in bytes; each next one is twice as large, up to the largest.
pub(crate) const CHUNK_BYTES_MIN: usize = 16 * 1024;
/// Largest chunk made for more than one entry, in bytes, unless the owner wants smaller ones.
pub(crate) const CHUNK_BYTES_MAX: usize = 1024 * 1024;
/// Most bytes of an entry that are fetched ahead: what follows, the processor fetches by itself.
const PREFETCH_BYTES: usize = 192;
/// `expiry_ms` is stored.
const HAS_EXPIRY: u8 = 1 << 6;

/// Where an entry starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct EntryRef {
    chunk: u32,
    at: u32,
}

/// An entry, taken apart.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a> {
    pub(super) partition: &'a [u8],
    pub(super) sort: &'a [u8],
    pub(super) record: Record<'a>,
}

impl<'a> Entry<'a> {
    pub(super) fn key(&self, prefix: u128) -> Key<'a> {
        Key { prefix: Prefix::from_u128(prefix), partition: self.partition, sort: self.sort }
    }
}

/// See the module.
pub(super) struct Arena {
    chunks: Vec<Vec<u8>>,
    /// The chunk that small entries are added to.
    current: usize,
    chunk_bytes_max: usize,
    bytes: usize,
}

impl Arena {
    /// Without entries. Chunks are no larger than this, but for entries that would not fit.
    pub(super) fn new(chunk_bytes_max: usize) -> Arena {
        Arena { chunks: Vec::new(), current: 0, chunk_bytes_max, bytes: 0 }
    }

    /// Bytes reserved from the allocator.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds an entry.
    pub(super) fn push(&mut self, key: &Key<'_>, record: &Record<'_>) -> EntryRef {
        let header = Header::of(key, record);
        let len = header.len + key.partition.len() + key.sort.len() + record.value.len();
        let chunk = self.room(len);
        let out = &mut self.chunks[chunk];
        let at = out.len() as u32;
        out.extend_from_slice(header.bytes());
        out.extend_from_slice(key.partition);
        out.extend_from_slice(key.sort);
        out.extend_from_slice(record.value);
        EntryRef { chunk: chunk as u32, at }
    }

    /// Writes an entry of the same key over an older one if it fits there. What it leaves of the old one is lost until the
    /// arena is dropped.
    pub(super) fn replace(&mut self, old: EntryRef, key: &Key<'_>, record: &Record<'_>) -> bool {
        let (_, old_len) = decode(self.from(old));
        let header = Header::of(key, record);
        let len = header.len + key.partition.len() + key.sort.len() + record.value.len();
        if len > old_len {
            return false;
        }
        let mut out = &mut self.chunks[old.chunk as usize][old.at as usize..][..len];
        for part in [header.bytes(), key.partition, key.sort, record.value] {
            let (here, rest) = out.split_at_mut(part.len());
            here.copy_from_slice(part);
            out = rest;
        }
        true
    }

    /// The entry at `at`.
    #[inline]
    pub(super) fn entry(&self, at: EntryRef) -> Entry<'_> {
        decode(self.from(at)).0
    }

    /// Asks for an entry's head and key.
    #[inline]
    pub(super) fn prefetch(&self, at: EntryRef) {
        let bytes = self.from(at);
        prefetch_all(&bytes[..bytes.len().min(PREFETCH_BYTES)]);
    }

    /// How the entry's key compares with `key`, whose prefix is the same.
    #[inline]
    pub(super) fn compare(&self, at: EntryRef, key: &Key<'_>) -> Ordering {
        let entry = self.entry(at);
        entry.partition.cmp(key.partition).then_with(|| entry.sort.cmp(key.sort))
    }

    /// Gives a chunk back to the allocator, with what is in it. False if there is none.
    pub(super) fn pop(&mut self) -> bool {
        let chunk = self.chunks.pop();
        self.bytes -= chunk.as_ref().map_or(0, Vec::capacity);
        chunk.is_some()
    }

    #[inline]
    fn from(&self, at: EntryRef) -> &[u8] {
        &self.chunks[at.chunk as usize][at.at as usize..]
    }

    /// The chunk in which `len` more bytes fit without moving it.
    fn room(&mut self, len: usize) -> usize {
        if let Some(chunk) = self.chunks.get(self.current)
            && chunk.capacity() - chunk.len() >= len
        {
            return self.current;
        }
        let doubled = CHUNK_BYTES_MIN << self.chunks.len().min(16);
        let size = doubled.min(self.chunk_bytes_max);
        let alone = len > size / 4;
        let chunk = Vec::with_capacity(if alone { len } else { size });
        self.bytes += chunk.capacity();
        self.chunks.push(chunk);
        let made = self.chunks.len() - 1;
        // A large entry gets a chunk of its own, and the room left in the current one stays in use.
        if !alone || made == 0 {
            self.current = made;
        }
        made
    }
}

/// What stands before the bytes of an entry.
struct Header {
    buffer: [u8; Header::BYTES_MAX],
    len: usize,
}

impl Header {
    const BYTES_MAX: usize = 1 + 3 * varint::BYTES_MAX + 24;

    #[inline]
    fn of(key: &Key<'_>, record: &Record<'_>) -> Header {
        let flags = record.flags.0;
        assert!(flags & RecordFlags::STORAGE == 0, "storage bits are the storage's");
        let mut header = Header { buffer: [0; Header::BYTES_MAX], len: 0 };
        header.push(&[flags | if record.expiry_ms != 0 { HAS_EXPIRY } else { 0 }]);
        for len in [key.partition.len(), key.sort.len(), record.value.len()] {
            header.push_varint(len as u64);
        }
        header.push(&record.order.to_le_bytes());
        header.push(&record.actor.to_le_bytes());
        if record.expiry_ms != 0 {
            header.push(&record.expiry_ms.to_le_bytes());
        }
        header
    }

    #[inline]
    fn push(&mut self, bytes: &[u8]) {
        self.buffer[self.len..][..bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    #[inline]
    fn push_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.push(&[value as u8 | 0x80]);
            value >>= 7;
        }
        self.push(&[value as u8]);
    }

    fn bytes(&self) -> &[u8] {
        &self.buffer[..self.len]
    }
}

/// Takes an entry apart; also says how long it is.
#[inline]
fn decode(bytes: &[u8]) -> (Entry<'_>, usize) {
    let mut rest = bytes;
    let flags = rest[0];
    rest = &rest[1..];
    let mut len = || varint::take(&mut rest).expect("the arena wrote this length") as usize;
    let (partition_len, sort_len, value_len) = (len(), len(), len());
    let mut fixed = || {
        let (field, tail) = rest.split_first_chunk::<8>().expect("the arena wrote this field");
        rest = tail;
        u64::from_le_bytes(*field)
    };
    let (order, actor) = (fixed(), fixed());
    let expiry_ms = if flags & HAS_EXPIRY != 0 { fixed() } else { 0 };
    let (partition, tail) = rest.split_at(partition_len);
    let (sort, tail) = tail.split_at(sort_len);
    let value = &tail[..value_len];
    let len = bytes.len() - tail.len() + value_len;
    let record = Record { order, actor, flags: RecordFlags(flags & !HAS_EXPIRY), expiry_ms, value };
    (Entry { partition, sort, record }, len)
}
