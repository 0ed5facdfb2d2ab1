//! Writes a table: keys go in in order, whole blocks come out, and large aligned writes go to the disk one behind the other.
//!
//! Blocks are stored raw or compressed (see [`super::stored`]) and lie back to back, except that a raw block is made to end
//! with a page: where it starts inside one it is cut shorter, and a small rest of a page is skipped. So a block of small
//! records is one page and read with one, while records that would waste the rest of a page are packed.
//!
//! Nothing names the file until the owner's manifest does: an abandoned builder leaves a file to be removed.

use std::collections::BTreeMap;

use crate::planted::{self, Bug};
use crate::values::Pointer;
use crate::{
    BLOCK_BYTES, Class, Disk, DiskError, FileName, Key, KeyBuf, Open, Prefix, Record, RecordFlags, Sync,
    ValueShare,
};

use super::block::{Block, Header, MEMORY_OVERHEAD_BYTES};
use super::block_builder::BlockBuilder;
use super::filter::{Filter, Hashes, KeyHash};
use super::format::{
    Compression, FOOTER_BYTES, FileId, Footer, RECORD_BYTES_MAX, Section, TABLE_BYTES_MAX, TableMeta,
    TableName, TableOptions,
};
use super::index::{BlockHandle, Index, Place};
use super::packing;
use super::stored::{self, Compressor, TRAILER_BYTES};
use super::transfer::{InFlight, Port};

/// Largest rest of a page that is skipped so that the next block starts with one, in bytes.
const SKIP_BYTES_MAX: usize = BLOCK_BYTES / 8;

/// Why a table could not be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildError {
    /// The disk failed; the table is lost.
    Disk(DiskError),
    /// The budget for I/O buffers is spent. Nothing is lost: call the same again later.
    NoBuffer,
}

impl std::fmt::Display for BuildError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BuildError::Disk(error) => error.fmt(f),
            BuildError::NoBuffer => write!(f, "the budget for I/O buffers is spent"),
        }
    }
}

impl std::error::Error for BuildError {}

impl From<DiskError> for BuildError {
    fn from(error: DiskError) -> Self {
        BuildError::Disk(error)
    }
}

/// See the module.
pub struct TableBuilder<D: Disk> {
    port: Port<D>,
    class: Class,
    options: TableOptions,
    meta: TableMeta,
    block: BlockBuilder,
    /// Payload bytes that the block being gathered may take.
    room: usize,
    block_first: Prefix,
    block_separator: Option<(Vec<u8>, Vec<u8>)>,
    last_partition: Vec<u8>,
    last_sort: Vec<u8>,
    index: Index,
    hashes: Hashes,
    /// The filter, once it is being built, and the pieces of the hashes that are in it.
    filter: Option<(Filter, usize)>,
    /// When its records expire that do, in milliseconds since the Unix epoch.
    expiries: Vec<u64>,
    /// Bytes that its pointers name, by value file.
    shares: BTreeMap<u64, u64>,
    compressor: Compressor,
    payload: Vec<u8>,
    /// The payload, packed for compression.
    packed: Vec<u8>,
    raw_before: bool,
    /// Entries of the block being gathered that are in use.
    in_use: usize,
    /// Blocks of which most is in use, by number.
    used: Vec<(BlockHandle, Block)>,
    /// What is not handed to the disk yet, and its place in the file, a multiple of a page.
    out: Vec<u8>,
    out_at: u64,
    in_flight: Option<(u64, InFlight<D>)>,
    sealed: bool,
}

impl<D: Disk> TableBuilder<D> {
    /// Creates the file. `file_id` is random; `class` is flush or background.
    pub async fn create(
        disk: D,
        name: TableName,
        file_id: FileId,
        options: TableOptions,
        class: Class,
    ) -> Result<TableBuilder<D>, DiskError> {
        assert!(options.block_bytes <= 1 << 16, "entries start in the first 64 KiB");
        assert!(options.block_bytes >= 512, "blocks are at least 512 bytes");
        assert!(
            options.write_bytes > 0 && options.write_bytes.is_multiple_of(BLOCK_BYTES),
            "writes are whole pages"
        );
        let file = disk.open(name.file(), Open::Create).await?;
        let nobody = KeyBuf { prefix: Prefix::from_u128(0), partition: Box::default(), sort: Box::default() };
        let meta = TableMeta {
            name,
            bytes: 0,
            file_id,
            blocks: 0,
            entries: 0,
            tombstones: 0,
            expiring: 0,
            expiry_median_ms: 0,
            raw_bytes: 0,
            min_order: u64::MAX,
            max_order: 0,
            max_seq: 0,
            token_seed: options.token_seed,
            smallest: nobody.clone(),
            largest: nobody,
            values: Vec::new(),
        };
        Ok(TableBuilder {
            port: Port { disk, file, name: name.file() },
            class,
            meta,
            block: BlockBuilder::new(options.token_seed),
            room: 0,
            block_first: Prefix::from_u128(0),
            block_separator: None,
            last_partition: Vec::new(),
            last_sort: Vec::new(),
            index: Index::default(),
            hashes: Hashes::default(),
            filter: None,
            expiries: Vec::new(),
            shares: BTreeMap::new(),
            compressor: Compressor::default(),
            payload: Vec::new(),
            packed: Vec::new(),
            raw_before: true,
            in_use: 0,
            used: Vec::new(),
            out: Vec::with_capacity(options.write_bytes + BLOCK_BYTES),
            out_at: 0,
            in_flight: None,
            sealed: false,
            options,
        })
    }

    /// The file.
    pub fn file(&self) -> FileName {
        self.port.name
    }

    /// Keys added.
    pub fn entries(&self) -> u64 {
        self.meta.entries
    }

    /// Bytes of blocks so far, the one being gathered left out.
    pub fn bytes(&self) -> u64 {
        self.out_at + self.out.len() as u64
    }

    /// Bytes it has in memory, and will take to finish.
    pub(crate) fn memory_bytes(&self) -> usize {
        // To finish, both are encoded, and the filter is built first.
        let filter_bytes = self.hashes.len() * self.options.filter_bits_per_key as usize / 8;
        self.out.capacity()
            + self.hashes.bytes()
            + self.expiries.capacity() * size_of::<u64>()
            + 3 * filter_bytes
            + 3 * self.index.bytes()
            + self.payload.capacity()
            + self.compressor.memory_bytes()
            + self.packed.capacity()
            + self.used.iter().map(|(_, block)| block.bytes()).sum::<usize>()
            + self.block.memory_bytes()
    }

    /// Adds a key, which must be after all others. Does no I/O; see [`TableBuilder::wants_flush`].
    ///
    /// # Panics
    /// If the key is not after the last one, the record is larger than [`RECORD_BYTES_MAX`], or the table than
    /// [`TABLE_BYTES_MAX`]: bugs of the caller, who bounds all three.
    pub fn add(&mut self, key: Key<'_>, record: Record<'_>) {
        assert!(!self.sealed && self.filter.is_none(), "nothing is added once it is being finished");
        let last =
            Key { prefix: self.meta.largest.prefix, partition: &self.last_partition, sort: &self.last_sort };
        assert!(self.meta.entries == 0 || last < key, "keys are added in order");
        let raw_bytes = key.partition.len() + key.sort.len() + record.value.len();
        assert!(raw_bytes <= RECORD_BYTES_MAX, "records are bounded where they enter");
        if record.flags.0 & RecordFlags::SEPARATED != 0 {
            let pointer = Pointer::decode(record.value).expect("pointers are checked where they are met");
            *self.shares.entry(pointer.file).or_default() += pointer.record_bytes();
        }
        let hashed = self.block.is_hash(&key);
        let size = self.block.size_with(&key, &record, hashed);
        if !self.block.is_empty() && size.is_none_or(|size| size > self.room) {
            self.cut_block();
        }
        if self.block.is_empty() {
            self.start_block(&key, &record, hashed);
        }
        self.block.add(&key, &record, hashed);
        if self.options.filter_bits_per_key > 0 {
            self.hashes.push(KeyHash::of(&key));
        }
        let meta = &mut self.meta;
        if meta.entries == 0 {
            meta.smallest = key.to_buf();
        }
        meta.entries += 1;
        meta.tombstones += u64::from(record.flags.0 & RecordFlags::TOMBSTONE != 0);
        if record.flags.0 & (RecordFlags::EXPIRES | RecordFlags::SIBLINGS) == RecordFlags::EXPIRES {
            meta.expiring += 1;
            self.expiries.push(record.expiry_ms);
        }
        meta.raw_bytes += raw_bytes as u64;
        meta.min_order = meta.min_order.min(record.order);
        meta.max_order = meta.max_order.max(record.order);
        meta.largest.prefix = key.prefix;
        replace(&mut self.last_partition, key.partition);
        replace(&mut self.last_sort, key.sort);
    }

    /// Says of the key that was just added that it is in use. A block of which at least half is has a place in the cache.
    #[inline]
    pub(crate) fn mark_in_use(&mut self) {
        self.in_use += 1;
    }

    /// Blocks for the cache, by number, since the last call. For a caller who marks keys, after some of them each time.
    pub(crate) fn take_used(&mut self) -> Vec<(BlockHandle, Block)> {
        std::mem::take(&mut self.used)
    }

    /// Whether [`TableBuilder::flush`] has a full write to make.
    #[inline]
    pub fn wants_flush(&self) -> bool {
        self.out.len() >= self.options.write_bytes
    }

    /// Hands full writes to the disk. Returns while the last one is in flight, so that the next is built meanwhile.
    pub async fn flush(&mut self) -> Result<(), BuildError> {
        while self.out.len() >= self.options.write_bytes {
            self.write(self.options.write_bytes).await?;
        }
        Ok(())
    }

    /// Builds a part of the filter, which is milliseconds' work in a long table. Whether there is more to build. Called over and over
    /// before [`TableBuilder::finish`], which otherwise does all of it at once. Nothing can be added after it.
    pub(crate) fn build_filter(&mut self) -> bool {
        let bits_per_key = self.options.filter_bits_per_key;
        let (filter, pieces) =
            self.filter.get_or_insert_with(|| (Filter::for_keys(self.hashes.len(), bits_per_key), 0));
        let is_more = filter.add_piece(&self.hashes, *pieces);
        *pieces += usize::from(is_more);
        is_more
    }

    /// Writes everything out, syncs the file and says what is in it. `max_seq` is the highest log sequence that the table
    /// covers. The name is not durable: syncing the directory is the caller's.
    ///
    /// # Panics
    /// If nothing was added.
    pub async fn finish(&mut self, max_seq: u64) -> Result<TableMeta, BuildError> {
        if !self.sealed {
            self.seal(max_seq);
        }
        while !self.out.is_empty() {
            self.write(self.options.write_bytes.min(self.out.len())).await?;
        }
        self.settle().await?;
        if !(planted::active(Bug::TableNamedBeforeSync) && self.class == Class::Background) {
            self.port.disk.sync(&self.port.file).await?;
        }
        Ok(self.meta.clone())
    }

    /// Starts a block at the end of the file: decides where that is and how long it may get.
    fn start_block(&mut self, key: &Key<'_>, record: &Record<'_>, hashed: bool) {
        let size =
            self.block.size_with(key, record, hashed).expect("an empty block takes an entry") + TRAILER_BYTES;
        let mut total = self.options.block_bytes;
        if self.options.compression == Compression::None {
            let rest = self.rest_of_page();
            if size > rest && rest <= SKIP_BYTES_MAX {
                self.skip(rest);
            } else if size <= rest && self.options.block_bytes >= BLOCK_BYTES {
                total = self.options.block_bytes - (BLOCK_BYTES - rest);
            }
        }
        self.room = total - TRAILER_BYTES - MEMORY_OVERHEAD_BYTES;
        self.block_first = key.prefix;
        let continues = self.meta.entries > 0 && self.meta.largest.prefix == key.prefix;
        self.block_separator = continues.then(|| separator(&self.last_partition, &self.last_sort, key));
    }

    fn cut_block(&mut self) {
        self.payload.clear();
        self.block.finish(&mut self.payload);
        if 2 * std::mem::take(&mut self.in_use) >= Header::of(&self.payload).count {
            let block = Block::built(&self.payload, self.meta.token_seed.unwrap_or(0));
            self.used.push((BlockHandle(self.index.len() as u32), block));
        }
        let (codec, stored) = if self.options.compression == Compression::None {
            stored::raw(&self.payload)
        } else {
            packing::pack(&self.payload, &mut self.packed);
            let (codec, stored) = self.compressor.choose(&self.packed, self.options.compression);
            if stored::is_raw(codec) { stored::raw(&self.payload) } else { (codec, stored) }
        };
        let len = stored.len() + TRAILER_BYTES;
        // Among compressed blocks, a run of raw ones is brought to page boundaries once.
        let position = self.out_at + self.out.len() as u64;
        let rest = BLOCK_BYTES - position as usize % BLOCK_BYTES;
        if self.options.compression != Compression::None
            && stored::is_raw(codec)
            && len > rest
            && (rest <= SKIP_BYTES_MAX || self.raw_before)
        {
            self.out.resize(self.out.len() + rest, 0);
        }
        self.raw_before = stored::is_raw(codec);
        let offset = self.out_at + self.out.len() as u64;
        assert!(offset + len as u64 <= TABLE_BYTES_MAX, "tables are finished before they are this large");
        stored::write(&mut self.out, codec, stored, self.payload.len(), self.meta.file_id, offset);
        let separator = self.block_separator.as_ref().map(|(partition, sort)| (&partition[..], &sort[..]));
        let place = Place { offset: offset as u32, bytes: len as u32 };
        self.index.push(self.block_first, separator, place);
    }

    /// Cuts the last block, and appends what comes after the blocks.
    fn seal(&mut self, max_seq: u64) {
        assert!(self.meta.entries > 0, "a table has a key");
        self.cut_block();
        self.meta.largest.partition = self.last_partition[..].into();
        self.meta.largest.sort = self.last_sort[..].into();
        self.meta.blocks = self.index.len() as u32;
        self.meta.max_seq = max_seq;
        self.meta.values = self.shares.iter().map(|(&file, &bytes)| ValueShare { file, bytes }).collect();
        if let Some(middle) = self.expiries.len().checked_sub(1).map(|last| last / 2) {
            self.meta.expiry_median_ms = *self.expiries.select_nth_unstable(middle).1;
        }
        let rest = self.rest_of_page();
        self.skip(rest % BLOCK_BYTES);
        let mut bytes = Vec::new();
        self.index.encode(&mut bytes);
        let index = self.push_section(&bytes);
        bytes.clear();
        while self.build_filter() {}
        let (filter, _) = self.filter.take().expect("just built");
        filter.encode(&mut bytes);
        let filter = self.push_section(&bytes);
        // The length of the file is among the properties, whose own length does not depend on it.
        bytes.clear();
        self.meta.encode(&mut bytes);
        let end = self.bytes() + bytes.len() as u64;
        self.meta.bytes = end.next_multiple_of(BLOCK_BYTES as u64) + FOOTER_BYTES as u64;
        bytes.clear();
        self.meta.encode(&mut bytes);
        let properties = self.push_section(&bytes);
        let rest = self.rest_of_page();
        self.skip(rest % BLOCK_BYTES);
        let footer = Footer { file_id: self.meta.file_id, index, filter, properties };
        self.out.extend_from_slice(&footer.encode());
        assert_eq!(self.bytes(), self.meta.bytes);
        self.sealed = true;
    }

    fn push_section(&mut self, bytes: &[u8]) -> Section {
        let offset = self.bytes();
        self.out.extend_from_slice(bytes);
        Section { offset, bytes: bytes.len() as u64, checksum: self.meta.file_id.checksum(offset, bytes) }
    }

    /// Bytes from the end of what was written to the end of its page; a whole page at a page's start.
    fn rest_of_page(&self) -> usize {
        BLOCK_BYTES - self.bytes() as usize % BLOCK_BYTES
    }

    fn skip(&mut self, bytes: usize) {
        self.out.resize(self.out.len() + bytes, 0);
    }

    /// Waits for the write in flight, then starts one of the first `len` bytes.
    async fn write(&mut self, len: usize) -> Result<(), BuildError> {
        self.settle().await?;
        let mut buf = self.port.disk.buf(len, self.class).ok_or(BuildError::NoBuffer)?;
        buf.copy_from_slice(&self.out[..len]);
        let future = self.port.disk.write(&self.port.file, self.out_at, buf, Sync::No, self.class);
        self.in_flight = Some((self.out_at, Box::pin(future)));
        self.out.drain(..len);
        self.out_at += len as u64;
        Ok(())
    }

    async fn settle(&mut self) -> Result<(), BuildError> {
        // The write stays in its place until it is done, so that whoever drops this future half-way may call again.
        let Some((at, future)) = &mut self.in_flight else { return Ok(()) };
        let (at, moved) = (*at, future.as_mut().await);
        self.in_flight = None;
        self.port.complete_write(at, moved, self.class).await
    }
}

/// A short (partition, sort) that is after the last key and not after `key`, which has the same prefix.
fn separator(last_partition: &[u8], last_sort: &[u8], key: &Key<'_>) -> (Vec<u8>, Vec<u8>) {
    let cut = |last: &[u8], next: &[u8]| {
        let common = last.iter().zip(next).take_while(|(left, right)| left == right).count();
        next[..next.len().min(common + 1)].to_vec()
    };
    if last_partition == key.partition {
        (key.partition.to_vec(), cut(last_sort, key.sort))
    } else {
        (cut(last_partition, key.partition), Vec::new())
    }
}

fn replace(buffer: &mut Vec<u8>, bytes: &[u8]) {
    buffer.clear();
    buffer.extend_from_slice(bytes);
}
