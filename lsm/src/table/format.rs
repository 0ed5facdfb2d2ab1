//! The format of a table file, its footer and its properties. All integers are little-endian.
//!
//! ```text
//! file       := block* zeros index filter properties zeros footer          the footer is the last 4 KiB, and starts on a multiple
//! footer     := magic:u64 format:u32 zero:u32 file_id:u128 section{3} zeros checksum:u64          index, filter, properties
//! section    := offset:u64 bytes:u64 checksum:u64
//! properties := store:u16 number:u64 bytes:u64 file_id:u128 blocks:u32 entries:u64 tombstones:u64 expiring:u64 expiry_median_ms:u64
//!               raw_bytes:u64 min_order:u64 max_order:u64 max_seq:u64 token_seed:u64 has_token_seed:u8 key key shares        smallest, largest
//! shares     := count:u32 (file:u64 bytes:u64){count}         what its pointers name of value files, by number
//! key        := prefix:u128 partition_len:u32 sort_len:u32 partition sort
//! ```
//!
//! Checksums are XXH3. Those of sections and blocks are seeded with the file's id and the offset, so that a block of another
//! file, of an earlier life of this file's space, or of another place in this file never passes. The footer's covers its page.
//! Zeros between blocks are read by nobody.
//!
//! Numbers of the properties are trusted only if they can be, checksum or not, since those of all tables are added up: lengths up
//! to the longest files, no more tombstones or records that expire than keys, and of these at most 2^40.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::values::VALUES_BYTES_MAX;
use crate::{BLOCK_BYTES, Damage, FileName, KeyBuf, Prefix, ValueShare};

/// First bytes of a footer.
const MAGIC: u64 = u64::from_le_bytes(*b"FeTable\0");
/// The format that this build writes, and the only one it reads.
pub const TABLE_FORMAT: u32 = 5;
/// What is found to differ in a table of another format.
pub(crate) const TABLE_FORMAT_FIELD: &str = "table format";
/// Bytes of a share.
const SHARE_BYTES: usize = 16;
/// Bytes of the footer.
pub(super) const FOOTER_BYTES: usize = BLOCK_BYTES;
/// Seed of the footer's own checksum: the file's id is not known before it is read.
const FOOTER_SEED: u64 = 0x4665_5461_626c_6531;
/// Largest record that a table takes, key included, in bytes.
pub const RECORD_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Largest table, in bytes: places in it are 32 bits wide. Builders are finished long before.
pub const TABLE_BYTES_MAX: u64 = u32::MAX as u64;

/// Most keys of a table.
const ENTRIES_MAX: u64 = 1 << 40;

/// Random name of a file's content, from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId(pub u128);

impl FileId {
    /// Checksum of what stands at `offset` of this file.
    #[inline]
    pub(crate) fn checksum(self, offset: u64, bytes: &[u8]) -> u64 {
        let seed = (self.0 as u64) ^ ((self.0 >> 64) as u64).rotate_left(23);
        xxh3_64_with_seed(bytes, seed ^ offset.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}

/// A table among all tables of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableName {
    /// Its store.
    pub store: u16,
    /// Its number, from 1, unique within the node and never used again.
    pub number: u64,
}

impl TableName {
    /// Its file.
    pub fn file(self) -> FileName {
        FileName::Table { store: self.store, number: self.number }
    }
}

/// How blocks are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// LZ4, where it saves an eighth.
    Lz4,
}

/// How a table is written. Whatever is chosen, any build of this format reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableOptions {
    /// Largest block before compression, trailer included, in bytes; a larger record gets a block of its own. Default 4096, at most 65536.
    pub block_bytes: usize,
    /// Default none.
    pub compression: Compression,
    /// Bits of filter per key; 0 = no filter. Default 10 (about one false positive in a hundred).
    pub filter_bits_per_key: u32,
    /// Seed of the token hash (XXH3 of the partition key): where a token is that hash it is not stored but computed. Default none: tokens are stored.
    pub token_seed: Option<u64>,
    /// Bytes gathered before they are written. Default 256 KiB; a multiple of 4096.
    pub write_bytes: usize,
}

impl Default for TableOptions {
    fn default() -> Self {
        TableOptions {
            block_bytes: BLOCK_BYTES,
            compression: Compression::None,
            filter_bits_per_key: 10,
            token_seed: None,
            write_bytes: 256 * 1024,
        }
    }
}

/// What is known of a table without opening it; the manifest keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableMeta {
    /// Which table.
    pub name: TableName,
    /// Length of its file.
    pub bytes: u64,
    /// Random id of its content.
    pub file_id: FileId,
    /// Number of blocks.
    pub blocks: u32,
    /// Number of keys, tombstones included.
    pub entries: u64,
    /// Number of tombstones.
    pub tombstones: u64,
    /// Number of records that expire, sibling sets left out.
    pub expiring: u64,
    /// When half of those have expired, in milliseconds since the Unix epoch; 0 without any.
    pub expiry_median_ms: u64,
    /// Bytes of keys and values, uncompressed and without overhead.
    pub raw_bytes: u64,
    /// Lowest order of a record.
    pub min_order: u64,
    /// Highest order of a record.
    pub max_order: u64,
    /// Highest log sequence in it, as the builder was told.
    pub max_seq: u64,
    /// Seed from which tokens that are not stored are computed.
    pub token_seed: Option<u64>,
    /// First key.
    pub smallest: KeyBuf,
    /// Last key.
    pub largest: KeyBuf,
    /// What its pointers name of value files, by number.
    pub values: Vec<ValueShare>,
}

impl TableMeta {
    /// The first key behind all of its keys.
    pub(crate) fn end(&self) -> KeyBuf {
        let sort = [&self.largest.sort[..], &[0]].concat().into();
        KeyBuf { sort, ..self.largest.clone() }
    }

    /// Appends the properties; see the module for the grammar.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.name.store.to_le_bytes());
        out.extend_from_slice(&self.name.number.to_le_bytes());
        out.extend_from_slice(&self.bytes.to_le_bytes());
        out.extend_from_slice(&self.file_id.0.to_le_bytes());
        out.extend_from_slice(&self.blocks.to_le_bytes());
        for field in [
            self.entries,
            self.tombstones,
            self.expiring,
            self.expiry_median_ms,
            self.raw_bytes,
            self.min_order,
            self.max_order,
            self.max_seq,
            self.token_seed.unwrap_or(0),
        ] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.push(u8::from(self.token_seed.is_some()));
        encode_key(&self.smallest, out);
        encode_key(&self.largest, out);
        out.extend_from_slice(&(self.values.len() as u32).to_le_bytes());
        for share in &self.values {
            out.extend_from_slice(&share.file.to_le_bytes());
            out.extend_from_slice(&share.bytes.to_le_bytes());
        }
    }

    /// Whether its numbers can be.
    fn is_sound(&self) -> bool {
        // A little more than its blocks take the sections behind them.
        self.bytes <= 2 * TABLE_BYTES_MAX
            && self.entries <= ENTRIES_MAX
            && self.tombstones <= self.entries
            && self.expiring <= self.entries
            && self.values.iter().all(|share| share.bytes <= VALUES_BYTES_MAX)
    }

    /// Reads properties from the front of `bytes` and moves past them. `None` = they are cut short or malformed.
    pub fn decode(bytes: &mut &[u8]) -> Option<TableMeta> {
        let store = u16::from_le_bytes(take(bytes)?);
        let number = u64::from_le_bytes(take(bytes)?);
        let file_bytes = u64::from_le_bytes(take(bytes)?);
        let file_id = FileId(u128::from_le_bytes(take(bytes)?));
        let blocks = u32::from_le_bytes(take(bytes)?);
        let mut fields = [0; 9];
        for field in &mut fields {
            *field = u64::from_le_bytes(take(bytes)?);
        }
        let [
            entries,
            tombstones,
            expiring,
            expiry_median_ms,
            raw_bytes,
            min_order,
            max_order,
            max_seq,
            token_seed,
        ] = fields;
        let [has_token_seed] = take(bytes)?;
        if has_token_seed > 1 {
            return None;
        }
        let smallest = take_key(bytes)?;
        let largest = take_key(bytes)?;
        let values = take_shares(bytes)?;
        let meta = TableMeta {
            name: TableName { store, number },
            bytes: file_bytes,
            file_id,
            blocks,
            entries,
            tombstones,
            expiring,
            expiry_median_ms,
            raw_bytes,
            min_order,
            max_order,
            max_seq,
            token_seed: (has_token_seed == 1).then_some(token_seed),
            smallest,
            largest,
            values,
        };
        meta.is_sound().then_some(meta)
    }
}

fn take_shares(bytes: &mut &[u8]) -> Option<Vec<ValueShare>> {
    let count = u32::from_le_bytes(take(bytes)?) as usize;
    if count > bytes.len() / SHARE_BYTES {
        return None;
    }
    let mut shares = Vec::with_capacity(count);
    for _ in 0..count {
        let file = u64::from_le_bytes(take(bytes)?);
        shares.push(ValueShare { file, bytes: u64::from_le_bytes(take(bytes)?) });
    }
    shares.is_sorted_by_key(|share| share.file).then_some(shares)
}

/// Appends a key: `prefix:u128 partition_len:u32 sort_len:u32 partition sort`.
pub(crate) fn encode_key(key: &KeyBuf, out: &mut Vec<u8>) {
    out.extend_from_slice(&key.prefix.to_u128().to_le_bytes());
    out.extend_from_slice(&(key.partition.len() as u32).to_le_bytes());
    out.extend_from_slice(&(key.sort.len() as u32).to_le_bytes());
    out.extend_from_slice(&key.partition);
    out.extend_from_slice(&key.sort);
}

/// Takes what [`encode_key`] wrote from the front. `None` = it is cut short or malformed.
pub(crate) fn take_key(bytes: &mut &[u8]) -> Option<KeyBuf> {
    let prefix = u128::from_le_bytes(take(bytes)?);
    let (partition_len, sort_len) =
        (u32::from_le_bytes(take(bytes)?) as usize, u32::from_le_bytes(take(bytes)?) as usize);
    let (partition, rest) = bytes.split_at_checked(partition_len)?;
    let (sort, rest) = rest.split_at_checked(sort_len)?;
    *bytes = rest;
    if prefix >> 120 != 0 {
        return None;
    }
    Some(KeyBuf { prefix: Prefix::from_u128(prefix), partition: partition.into(), sort: sort.into() })
}

/// Takes a fixed number of bytes from the front.
#[inline]
pub(crate) fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (front, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*front)
}

/// Whether a table's last page bears the mark of a footer.
pub(crate) fn bears_magic(footer: &[u8]) -> bool {
    footer.starts_with(&MAGIC.to_le_bytes())
}

/// A part of a table file that is read whole when it is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) offset: u64,
    pub(super) bytes: u64,
    pub(super) checksum: u64,
}

impl Section {
    pub(super) fn end(&self) -> u64 {
        self.offset + self.bytes
    }
}

/// Where everything is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Footer {
    pub(super) file_id: FileId,
    pub(super) index: Section,
    pub(super) filter: Section,
    pub(super) properties: Section,
}

impl Footer {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FOOTER_BYTES);
        out.extend_from_slice(&MAGIC.to_le_bytes());
        out.extend_from_slice(&TABLE_FORMAT.to_le_bytes());
        out.extend_from_slice(&0u32.to_le_bytes());
        out.extend_from_slice(&self.file_id.0.to_le_bytes());
        for section in [self.index, self.filter, self.properties] {
            for field in [section.offset, section.bytes, section.checksum] {
                out.extend_from_slice(&field.to_le_bytes());
            }
        }
        out.resize(FOOTER_BYTES - 8, 0);
        let checksum = xxh3_64_with_seed(&out, FOOTER_SEED);
        out.extend_from_slice(&checksum.to_le_bytes());
        out
    }

    /// Reads the last page of `file`, which is `file_bytes` long. What it says is checked to lie in the file, in order.
    pub(super) fn decode(file: FileName, file_bytes: u64, page: &[u8]) -> Result<Footer, Damage> {
        let offset = file_bytes - FOOTER_BYTES as u64;
        let damage = |what, expected, found| Damage { file, offset, what, expected, found };
        let mut rest = page;
        let short = || damage("footer length", FOOTER_BYTES as u64, page.len() as u64);
        let magic = u64::from_le_bytes(take(&mut rest).ok_or_else(short)?);
        if magic != MAGIC {
            return Err(damage("footer magic", MAGIC, magic));
        }
        let format = u32::from_le_bytes(take(&mut rest).ok_or_else(short)?);
        if format != TABLE_FORMAT {
            return Err(damage(TABLE_FORMAT_FIELD, u64::from(TABLE_FORMAT), u64::from(format)));
        }
        let (covered, checksum) = page.split_last_chunk::<8>().ok_or_else(short)?;
        let (checksum, expected) = (u64::from_le_bytes(*checksum), xxh3_64_with_seed(covered, FOOTER_SEED));
        if checksum != expected || page.len() != FOOTER_BYTES {
            return Err(damage("footer checksum", expected, checksum));
        }
        let _zero: [u8; 4] = take(&mut rest).ok_or_else(short)?;
        let file_id = FileId(u128::from_le_bytes(take(&mut rest).ok_or_else(short)?));
        let mut sections = [Section::default(); 3];
        let mut end = 0;
        for section in &mut sections {
            let mut field = || take(&mut rest).map(u64::from_le_bytes).ok_or_else(short);
            *section = Section { offset: field()?, bytes: field()?, checksum: field()? };
            let fits =
                section.offset >= end && section.bytes <= offset && section.offset <= offset - section.bytes;
            if !fits {
                return Err(damage("section end", offset, section.offset.saturating_add(section.bytes)));
            }
            end = section.end();
        }
        let [index, filter, properties] = sections;
        Ok(Footer { file_id, index, filter, properties })
    }
}
