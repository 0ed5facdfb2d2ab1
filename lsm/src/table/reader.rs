//! An open table: its index and filter in memory, its blocks on the disk.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use super::block::Block;
use super::filter::{Filter, KeyHash};
use super::format::{FOOTER_BYTES, FileId, Footer, Section, TABLE_BYTES_MAX, TableMeta, TableName};
use super::index::{BlockHandle, Index, Place};
use super::stored;
use super::transfer::Port;
use crate::{BLOCK_BYTES, Class, Damage, Disk, Key, KeyBuf, Open, ReadError};

/// Largest read made when a table is opened, in bytes.
const OPEN_READ_BYTES_MAX: usize = 256 * 1024;
/// What an open table takes in memory beside what grows with its length: itself, its file, the manifest's entry, in bytes.
const OVERHEAD_BYTES: usize = 1024;

/// See the module. Shared as `Rc`; it never changes.
pub struct Table<D: Disk> {
    pub(super) port: Port<D>,
    meta: TableMeta,
    pub(super) index: Index,
    filter: Filter,
    /// First and last prefix.
    range: (u128, u128),
    memory_bytes: usize,
    /// Blocks that are known to be damaged: not read any more.
    quarantined: RefCell<BTreeSet<u32>>,
}

impl<D: Disk> Table<D> {
    /// Opens the table that the manifest calls `name`, whose file is `bytes` long and, where that is known, has this id.
    /// What is not so is damage, as is everything else that is not what a builder wrote.
    pub async fn open(
        disk: D,
        name: TableName,
        bytes: u64,
        file_id: Option<FileId>,
        class: Class,
    ) -> Result<Rc<Table<D>>, ReadError> {
        let file = disk.open(name.file(), Open::Read).await?;
        let port = Port { disk, file, name: name.file() };
        let damage =
            |offset, what, expected, found| Damage { file: port.name, offset, what, expected, found };
        let least = 2 * FOOTER_BYTES as u64;
        if bytes < least || !bytes.is_multiple_of(BLOCK_BYTES as u64) || bytes > 2 * TABLE_BYTES_MAX {
            return Err(damage(bytes, "file length", least, bytes).into());
        }
        let footer_at = bytes - FOOTER_BYTES as u64;
        let page = port.read(footer_at, FOOTER_BYTES, class).await?;
        let footer = Footer::decode(port.name, bytes, &page)?;
        if let Some(id) = file_id.filter(|&id| id != footer.file_id) {
            return Err(damage(footer_at, "file id", id.0 as u64, footer.file_id.0 as u64).into());
        }
        let malformed = |section: Section, what| damage(section.offset, what, 0, 0);
        let properties =
            read_section(&port, footer.file_id, footer.properties, "properties checksum", class).await?;
        let meta = TableMeta::decode(&mut &properties[..])
            .ok_or_else(|| malformed(footer.properties, "properties"))?;
        if meta.bytes != bytes || meta.file_id != footer.file_id || meta.smallest > meta.largest {
            return Err(
                damage(footer.properties.offset, "file length in properties", bytes, meta.bytes).into()
            );
        }
        let encoded = read_section(&port, footer.file_id, footer.index, "index checksum", class).await?;
        let index =
            Index::decode(&encoded, footer.index.offset).ok_or_else(|| malformed(footer.index, "index"))?;
        if index.len() != meta.blocks as usize {
            let (expected, found) = (u64::from(meta.blocks), index.len() as u64);
            return Err(damage(footer.index.offset, "number of blocks", expected, found).into());
        }
        let encoded = read_section(&port, footer.file_id, footer.filter, "filter checksum", class).await?;
        let filter = Filter::decode(&encoded).ok_or_else(|| malformed(footer.filter, "filter"))?;
        let meta = TableMeta { name, ..meta };
        let range = (meta.smallest.prefix.to_u128(), meta.largest.prefix.to_u128());
        let quarantined = RefCell::new(BTreeSet::new());
        let ends = [&meta.smallest, &meta.largest].map(|key| key.partition.len() + key.sort.len());
        let memory_bytes = OVERHEAD_BYTES + 2 * ends.iter().sum::<usize>() + index.bytes() + filter.bytes();
        Ok(Rc::new(Table { port, meta, index, filter, range, memory_bytes, quarantined }))
    }

    /// What is known of it.
    pub fn meta(&self) -> &TableMeta {
        &self.meta
    }

    /// Its number, unique within the node.
    #[inline]
    pub fn number(&self) -> u64 {
        self.meta.name.number
    }

    /// Number of blocks.
    pub fn blocks(&self) -> u32 {
        self.meta.blocks
    }

    /// Bytes in memory: index, filter, and what is known of it, here and in the manifest.
    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// False only if no key with this hash is in it.
    #[inline]
    pub fn may_contain(&self, hash: KeyHash) -> bool {
        self.filter.may_contain(hash)
    }

    /// Asks for what [`Table::may_contain`] reads.
    #[inline]
    pub(crate) fn prefetch_filter(&self, hash: KeyHash) {
        self.filter.prefetch(hash);
    }

    /// Asks for what [`Table::locate`] reads first.
    #[inline]
    pub(crate) fn prefetch_directory(&self, key: &Key<'_>) {
        self.index.prefetch_directory(key.prefix);
    }

    /// Asks for what [`Table::locate`] reads next.
    #[inline]
    pub(crate) fn prefetch_index(&self, key: &Key<'_>) {
        self.index.prefetch_firsts(key.prefix);
    }

    /// Whether the key's prefix lies between those of the first and the last key.
    #[inline]
    pub fn covers(&self, key: &Key<'_>) -> bool {
        let prefix = key.prefix.to_u128();
        self.range.0 <= prefix && prefix <= self.range.1
    }

    /// The only block that may hold a key.
    #[inline]
    pub fn locate(&self, key: &Key<'_>) -> Option<BlockHandle> {
        if self.covers(key) { self.index.locate(key) } else { None }
    }

    /// The block that may hold a key, or else the last one before it; `None` = the key is before the first block.
    pub(super) fn block_before(&self, key: &Key<'_>) -> Option<BlockHandle> {
        self.index.locate(key)
    }

    /// Has a run of blocks not be read any more: reads of keys in them fail, merges leave them out.
    pub(crate) fn quarantine(&self, block: u32, blocks: u32) {
        self.quarantined.borrow_mut().extend(block..(block + blocks).min(self.blocks()));
    }

    /// Whether a block is quarantined.
    pub(crate) fn is_quarantined(&self, block: u32) -> bool {
        self.quarantined.borrow().contains(&block)
    }

    /// The first block from `block` on that is not quarantined; the number of blocks if there is none.
    pub(super) fn sound_from(&self, mut block: u32) -> u32 {
        while self.is_quarantined(block) {
            block += 1;
        }
        block
    }

    /// The keys that may be in a run of blocks: the first, and the first behind it.
    pub(crate) fn keys_of(&self, block: u32, blocks: u32) -> (KeyBuf, KeyBuf) {
        (self.low_of(block), self.low_of(block + blocks))
    }

    /// The first key that may be in a block; of the one past the last, the first that is in none.
    pub(super) fn low_of(&self, block: u32) -> KeyBuf {
        if block < self.blocks() { self.index.low(BlockHandle(block)) } else { self.meta.end() }
    }

    /// Reads bytes as they are stored; `at` and `len` are multiples of a page.
    pub(super) async fn read_bytes(&self, at: u64, len: usize, class: Class) -> Result<D::Buf, ReadError> {
        self.port.read(at, len, class).await
    }

    /// Reads and checks a block, past any cache.
    pub async fn read_block(&self, handle: BlockHandle, class: Class) -> Result<Block, ReadError> {
        if self.is_quarantined(handle.0) {
            return Err(ReadError::Quarantined(self.port.name));
        }
        let place = self.place(handle);
        let from = u64::from(place.offset) / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
        let len = (place.end().next_multiple_of(BLOCK_BYTES as u64) - from) as usize;
        let buf = self.port.read(from, len, class).await?;
        self.check_block(handle, &buf, from)
    }

    /// Checks a block in bytes read from `at`: that it is what was written, and that its keys are those that are looked for in it.
    pub(super) fn check_block(&self, handle: BlockHandle, bytes: &[u8], at: u64) -> Result<Block, ReadError> {
        let place = self.place(handle);
        let offset = u64::from(place.offset);
        let stored = &bytes[(offset - at) as usize..][..place.bytes as usize];
        let (id, seed) = (self.meta.file_id, self.meta.token_seed.unwrap_or(0));
        let block = stored::read(stored, self.port.name, id, offset, seed)?;
        if !self.is_in_place(handle, &block) {
            let (what, expected, found) = ("block key range", 0, 0);
            return Err(Damage { file: self.port.name, offset, what, expected, found }.into());
        }
        Ok(block)
    }

    /// Whether the keys of a block are not before those that the index says, and before those of the next one. So the keys of all
    /// blocks are in order if those of each are.
    fn is_in_place(&self, handle: BlockHandle, block: &Block) -> bool {
        let (first, _) = block.entry_at(0);
        let (last, _) = block.entry_at(block.len() - 1);
        let next = handle.0 + 1;
        self.index.is_from(handle, &first)
            && self.meta.smallest.as_key() <= first
            && (next >= self.blocks() || !self.index.is_from(BlockHandle(next), &last))
            && last <= self.meta.largest.as_key()
    }

    pub(super) fn place(&self, handle: BlockHandle) -> Place {
        self.index.place(handle).expect("a handle is of the table that gave it")
    }
}

/// Reads a section and verifies its checksum. That it lies in the file was checked with the footer.
pub(super) async fn read_section<D: Disk>(
    port: &Port<D>,
    id: FileId,
    section: Section,
    what: &'static str,
    class: Class,
) -> Result<Vec<u8>, ReadError> {
    let page = BLOCK_BYTES as u64;
    let mut bytes = Vec::with_capacity(section.bytes as usize);
    let mut at = section.offset / page * page;
    let end = section.end().next_multiple_of(page);
    while at < end {
        let len = (end - at).min(OPEN_READ_BYTES_MAX as u64) as usize;
        let buf = port.read(at, len, class).await?;
        let from = section.offset.max(at) - at;
        let to = section.end().min(at + len as u64) - at;
        bytes.extend_from_slice(&buf[from as usize..to as usize]);
        at += len as u64;
    }
    let (expected, found) = (section.checksum, id.checksum(section.offset, &bytes));
    if expected != found {
        return Err(Damage { file: port.name, offset: section.offset, what, expected, found }.into());
    }
    Ok(bytes)
}
