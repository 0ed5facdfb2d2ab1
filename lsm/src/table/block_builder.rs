//! Builds the payload of a block; the format is in [`super::block`].
//!
//! How wide a block's fields are is known when its last entry is, so entries are gathered first and written at the end. The
//! exact size that they will take is kept up to date meanwhile, and the caller asks for it before it adds.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::block::{
    ACTOR_BYTES, HAS_EXPIRY, HAS_SORT, HASHED, HEADER_BYTES, RUN_BYTES, SLOT_BYTES, actor_bytes, high_of,
    low_bytes,
};
use crate::{Key, Record, RecordFlags, varint};

/// Most entries in a block: what its starts can address holds fewer.
const ENTRIES_MAX: usize = u16::MAX as usize;

struct Pending {
    token: u64,
    order: u64,
    expiry_ms: u64,
    actor_index: u16,
    flags: u8,
    /// Where its partition key, sort key and value are in `bytes`; they end where the next entry's start.
    at: u32,
    partition_len: u32,
    sort_len: u32,
}

struct Run {
    high: u64,
    first: usize,
    token_base: u64,
    token_last: u64,
    hashed: bool,
}

impl Run {
    fn shape(&self) -> u8 {
        let span = 64 - (self.token_last - self.token_base).leading_zeros();
        span.saturating_sub(16) as u8 | if self.hashed { HASHED } else { 0 }
    }
}

/// See the module.
pub(super) struct BlockBuilder {
    token_seed: Option<u64>,
    entries: Vec<Pending>,
    bytes: Vec<u8>,
    runs: Vec<Run>,
    actors: Vec<u64>,
    /// Bytes of entries but for the fields whose width depends on the block.
    plain_bytes: usize,
    /// Bytes of `token_low` in all runs but the last.
    low_bytes_before: usize,
    order_min: u64,
    order_max: u64,
}

impl BlockBuilder {
    /// Bytes it has in memory.
    pub(super) fn memory_bytes(&self) -> usize {
        self.bytes.capacity() + self.entries.capacity() * size_of::<Pending>()
    }

    pub(super) fn new(token_seed: Option<u64>) -> BlockBuilder {
        BlockBuilder {
            token_seed,
            entries: Vec::new(),
            bytes: Vec::new(),
            runs: Vec::new(),
            actors: Vec::new(),
            plain_bytes: 0,
            low_bytes_before: 0,
            order_min: u64::MAX,
            order_max: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The size of the payload if an entry were added now, in bytes; `None` = it cannot be. `hashed` = its token is the hash
    /// of its partition key, as [`BlockBuilder::is_hash`] says.
    pub(super) fn size_with(&self, key: &Key<'_>, record: &Record<'_>, hashed: bool) -> Option<usize> {
        if self.entries.len() == ENTRIES_MAX {
            return None;
        }
        let (high, token) = (high_of(&key.prefix), key.prefix.token);
        let count = self.entries.len() + 1;
        let actors = self.actors.len() + usize::from(!self.actors.contains(&record.actor));
        let order_span = self.order_max.max(record.order) - self.order_min.min(record.order);
        let (runs, low) = match self.runs.last() {
            Some(run) if run.high == high => {
                let grown = Run { token_last: token, hashed: run.hashed && hashed, ..*run };
                (self.runs.len(), self.low_bytes_before + low_bytes(grown.shape()) * (count - run.first))
            }
            _ => (self.runs.len() + 1, self.low_bytes_before + self.low_bytes_last()),
        };
        let entry = plain_entry_bytes(key, record);
        Some(
            HEADER_BYTES
                + runs * RUN_BYTES
                + actors * ACTOR_BYTES
                + count * (SLOT_BYTES + order_bytes(order_span) + actor_bytes(actors))
                + low
                + self.plain_bytes
                + entry,
        )
    }

    /// Adds an entry whose key is after all others'.
    pub(super) fn add(&mut self, key: &Key<'_>, record: &Record<'_>, hashed: bool) {
        let (high, token) = (high_of(&key.prefix), key.prefix.token);
        match self.runs.last_mut() {
            Some(run) if run.high == high => {
                run.token_last = token;
                run.hashed &= hashed;
            }
            _ => {
                self.low_bytes_before += self.low_bytes_last();
                let first = self.entries.len();
                self.runs.push(Run { high, first, token_base: token, token_last: token, hashed });
            }
        }
        let actor_index = match self.actors.iter().position(|&actor| actor == record.actor) {
            Some(at) => at,
            None => {
                self.actors.push(record.actor);
                self.actors.len() - 1
            }
        };
        let mut flags = record.flags.0;
        assert!(flags & RecordFlags::STORAGE == 0, "storage bits are the storage's");
        flags |= if key.sort.is_empty() { 0 } else { HAS_SORT };
        flags |= if record.expiry_ms == 0 { 0 } else { HAS_EXPIRY };
        self.entries.push(Pending {
            token,
            order: record.order,
            expiry_ms: record.expiry_ms,
            actor_index: actor_index as u16,
            flags,
            at: self.bytes.len() as u32,
            partition_len: key.partition.len() as u32,
            sort_len: key.sort.len() as u32,
        });
        for part in [key.partition, key.sort, record.value] {
            self.bytes.extend_from_slice(part);
        }
        self.plain_bytes += plain_entry_bytes(key, record);
        self.order_min = self.order_min.min(record.order);
        self.order_max = self.order_max.max(record.order);
    }

    /// Appends the payload of what was added and starts afresh.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        assert!(!self.entries.is_empty(), "a block has an entry");
        let origin = out.len();
        let order_bytes = order_bytes(self.order_max - self.order_min);
        let actor_bytes = actor_bytes(self.actors.len());
        out.extend_from_slice(&self.order_min.to_le_bytes());
        for len in [self.entries.len(), self.runs.len(), self.actors.len()] {
            out.extend_from_slice(&(len as u16).to_le_bytes());
        }
        out.extend_from_slice(&[order_bytes as u8, 0]);
        for run in &self.runs {
            out.extend_from_slice(&run.high.to_le_bytes());
            out.extend_from_slice(&run.token_base.to_le_bytes());
            out.extend_from_slice(&(run.first as u16).to_le_bytes());
            let last = (run.token_last - run.token_base) >> (run.shape() & !HASHED);
            out.extend_from_slice(&(last as u16).to_le_bytes());
            out.push(run.shape());
        }
        self.actors.iter().for_each(|actor| out.extend_from_slice(&actor.to_le_bytes()));
        let slots = out.len();
        out.resize(slots + SLOT_BYTES * self.entries.len(), 0);
        let ends = self.runs.iter().skip(1).map(|run| run.first).chain([self.entries.len()]);
        for (run, end) in self.runs.iter().zip(ends) {
            let (shift, low_bytes) = (run.shape() & !HASHED, low_bytes(run.shape()));
            for at in run.first..end {
                let start = out.len() - origin;
                assert!(start <= usize::from(u16::MAX), "entries start in the first 64 KiB");
                let entry = &self.entries[at];
                let print = ((entry.token - run.token_base) >> shift) as u16;
                let slot = &mut out[slots + SLOT_BYTES * at..][..SLOT_BYTES];
                slot[..2].copy_from_slice(&print.to_le_bytes());
                slot[2..].copy_from_slice(&(start as u16).to_le_bytes());
                let bytes_end = self.entries.get(at + 1).map_or(self.bytes.len(), |next| next.at as usize);
                let low = (entry.token - run.token_base) & !(u64::MAX << shift);
                out.push(entry.flags);
                out.extend_from_slice(&low.to_le_bytes()[..low_bytes]);
                out.extend_from_slice(&(entry.order - self.order_min).to_le_bytes()[..order_bytes]);
                out.extend_from_slice(&entry.actor_index.to_le_bytes()[..actor_bytes]);
                varint::put(out, u64::from(entry.partition_len));
                if entry.flags & HAS_SORT != 0 {
                    varint::put(out, u64::from(entry.sort_len));
                }
                if entry.flags & HAS_EXPIRY != 0 {
                    varint::put(out, entry.expiry_ms);
                }
                out.extend_from_slice(&self.bytes[entry.at as usize..bytes_end]);
            }
        }
        self.clear();
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.bytes.clear();
        self.runs.clear();
        self.actors.clear();
        (self.plain_bytes, self.low_bytes_before) = (0, 0);
        (self.order_min, self.order_max) = (u64::MAX, 0);
    }

    fn low_bytes_last(&self) -> usize {
        self.runs.last().map_or(0, |run| low_bytes(run.shape()) * (self.entries.len() - run.first))
    }

    /// Whether the token need not be stored.
    pub(super) fn is_hash(&self, key: &Key<'_>) -> bool {
        self.token_seed.is_some_and(|seed| xxh3_64_with_seed(key.partition, seed) == key.prefix.token)
    }
}

fn order_bytes(span: u64) -> usize {
    (64 - span.leading_zeros() as usize).div_ceil(8)
}

/// Bytes of an entry but for the fields whose width depends on the block.
fn plain_entry_bytes(key: &Key<'_>, record: &Record<'_>) -> usize {
    let varint = |present: bool, value: u64| if present { varint::len(value) } else { 0 };
    1 + varint(true, key.partition.len() as u64)
        + varint(!key.sort.is_empty(), key.sort.len() as u64)
        + varint(record.expiry_ms != 0, record.expiry_ms)
        + key.partition.len()
        + key.sort.len()
        + record.value.len()
}
