//! The format of a value file, and of the pointers into it. All integers are little-endian.
//!
//! ```text
//! file    := header record* end zeros                      zeros to the end of the page
//! header  := magic:u64 format:u32 zero:u32 file_id:u128 checksum:u64
//! record  := checksum:u64 prefix:u128 stored_bytes:u32 raw_bytes:u32 codec:u32 stored
//! end     := a record without bytes, whose prefix is the number of records before it
//! codec   := 0 raw | 1 lz4
//! pointer := file:u64 offset:u64 checksum:u64 stored_bytes:u32 raw_bytes:u32
//! ```
//!
//! Checksums are XXH3 over what follows them in their record, seeded with the file's id and the record's offset; the header's covers what
//! is before it. A pointer repeats that of its record. `prefix` is that of the record's key, for whoever reads the file by itself.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::table::take;
use crate::{Damage, FileId, FileName, RECORD_BYTES_MAX};

const MAGIC: u64 = u64::from_le_bytes(*b"FeValue\0");
/// The format that this build writes, and the only one it reads.
pub const VALUES_FORMAT: u32 = 1;
/// What is found to differ in a value file of another format.
pub(crate) const VALUES_FORMAT_FIELD: &str = "value file format";
pub(super) const HEADER_BYTES: usize = 40;
const HEADER_SEED: u64 = 0x4665_5661_6c75_6531;
/// Bytes before a record's stored value.
pub(super) const RECORD_HEADER_BYTES: usize = 36;
/// Length of a pointer in a table, in bytes.
pub const POINTER_BYTES: usize = 32;
/// No LZ4 stream expands more than this many times.
pub(super) const LZ4_RATIO_MAX: usize = 255;
/// Longest value file that a manifest or a table may speak of, in bytes: as many of them as a manifest can name add up to no more than
/// 64 bits hold. Builders end theirs long before.
pub(crate) const VALUES_BYTES_MAX: u64 = 64 << 30;

/// How much of a value file the pointers of one table name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValueShare {
    /// The file's number.
    pub file: u64,
    /// Bytes of the records named, as they are stored.
    pub bytes: u64,
}

/// What the manifest keeps of a value file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValuesMeta {
    /// Its store.
    pub store: u16,
    /// Its number, from the same counter as those of tables.
    pub number: u64,
    /// Length of the file.
    pub bytes: u64,
    /// Bytes of its records: what was live when it was written.
    pub record_bytes: u64,
    /// Random id of its content.
    pub file_id: FileId,
}

impl ValuesMeta {
    /// Its file.
    pub fn file(&self) -> FileName {
        FileName::Values { store: self.store, number: self.number }
    }
}

/// Where a value is: what a table's record holds instead of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pointer {
    pub(crate) file: u64,
    pub(crate) offset: u64,
    pub(crate) checksum: u64,
    pub(crate) stored_bytes: u32,
    pub(crate) raw_bytes: u32,
}

impl Pointer {
    pub(crate) fn encode(&self) -> [u8; POINTER_BYTES] {
        let mut out = [0; POINTER_BYTES];
        out[..8].copy_from_slice(&self.file.to_le_bytes());
        out[8..16].copy_from_slice(&self.offset.to_le_bytes());
        out[16..24].copy_from_slice(&self.checksum.to_le_bytes());
        out[24..28].copy_from_slice(&self.stored_bytes.to_le_bytes());
        out[28..].copy_from_slice(&self.raw_bytes.to_le_bytes());
        out
    }

    /// `None`: this is no pointer.
    pub(crate) fn decode(mut bytes: &[u8]) -> Option<Pointer> {
        let bytes = &mut bytes;
        let (file, offset) = (u64::from_le_bytes(take(bytes)?), u64::from_le_bytes(take(bytes)?));
        let checksum = u64::from_le_bytes(take(bytes)?);
        let (stored_bytes, raw_bytes) = (u32::from_le_bytes(take(bytes)?), u32::from_le_bytes(take(bytes)?));
        let is_sound = bytes.is_empty()
            && stored_bytes > 0
            && stored_bytes <= raw_bytes
            && raw_bytes as usize <= RECORD_BYTES_MAX
            && offset >= HEADER_BYTES as u64
            && offset < u64::MAX / 2;
        is_sound.then_some(Pointer { file, offset, checksum, stored_bytes, raw_bytes })
    }

    /// Bytes of the record that it names.
    pub(crate) fn record_bytes(&self) -> u64 {
        RECORD_HEADER_BYTES as u64 + u64::from(self.stored_bytes)
    }
}

/// Whether a value file's first page bears the mark of one.
pub(crate) fn bears_magic(page: &[u8]) -> bool {
    page.starts_with(&MAGIC.to_le_bytes())
}

pub(super) fn encode_header(id: FileId) -> [u8; HEADER_BYTES] {
    let mut out = [0; HEADER_BYTES];
    out[..8].copy_from_slice(&MAGIC.to_le_bytes());
    out[8..12].copy_from_slice(&VALUES_FORMAT.to_le_bytes());
    out[16..32].copy_from_slice(&id.0.to_le_bytes());
    let checksum = xxh3_64_with_seed(&out[..32], HEADER_SEED);
    out[32..].copy_from_slice(&checksum.to_le_bytes());
    out
}

/// Reads the header at the front of `page`.
pub(super) fn decode_header(file: FileName, page: &[u8]) -> Result<FileId, Damage> {
    let damage = |what, expected, found| Damage { file, offset: 0, what, expected, found };
    let short = || damage("header length", HEADER_BYTES as u64, page.len() as u64);
    let header = page.get(..HEADER_BYTES).ok_or_else(short)?;
    let mut rest = header;
    let magic = u64::from_le_bytes(take(&mut rest).ok_or_else(short)?);
    if magic != MAGIC {
        return Err(damage("header magic", MAGIC, magic));
    }
    let format = u32::from_le_bytes(take(&mut rest).ok_or_else(short)?);
    if format != VALUES_FORMAT {
        return Err(damage(VALUES_FORMAT_FIELD, VALUES_FORMAT.into(), format.into()));
    }
    let _zero: [u8; 4] = take(&mut rest).ok_or_else(short)?;
    let id = FileId(u128::from_le_bytes(take(&mut rest).ok_or_else(short)?));
    let found = u64::from_le_bytes(take(&mut rest).ok_or_else(short)?);
    let expected = xxh3_64_with_seed(&header[..32], HEADER_SEED);
    if found != expected {
        return Err(damage("header checksum", expected, found));
    }
    Ok(id)
}

/// What stands before a stored value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordHeader {
    pub(super) checksum: u64,
    pub(super) prefix: u128,
    pub(super) stored_bytes: u32,
    pub(super) raw_bytes: u32,
    pub(super) codec: u32,
}

impl RecordHeader {
    /// Its bytes may say anything: they are under the record's checksum, with the value.
    pub(super) fn decode(bytes: &[u8; RECORD_HEADER_BYTES]) -> RecordHeader {
        let mut rest = &bytes[..];
        let whole = "it has its length";
        RecordHeader {
            checksum: u64::from_le_bytes(take(&mut rest).expect(whole)),
            prefix: u128::from_le_bytes(take(&mut rest).expect(whole)),
            stored_bytes: u32::from_le_bytes(take(&mut rest).expect(whole)),
            raw_bytes: u32::from_le_bytes(take(&mut rest).expect(whole)),
            codec: u32::from_le_bytes(take(&mut rest).expect(whole)),
        }
    }
}

/// Appends a record that will stand at `offset`; gives its checksum.
pub(super) fn encode_record(
    out: &mut Vec<u8>,
    id: FileId,
    offset: u64,
    prefix: u128,
    codec: u32,
    raw_bytes: u32,
    stored: &[u8],
) -> u64 {
    let start = out.len();
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&prefix.to_le_bytes());
    out.extend_from_slice(&(stored.len() as u32).to_le_bytes());
    out.extend_from_slice(&raw_bytes.to_le_bytes());
    out.extend_from_slice(&codec.to_le_bytes());
    out.extend_from_slice(stored);
    let checksum = id.checksum(offset, &out[start + 8..]);
    out[start..start + 8].copy_from_slice(&checksum.to_le_bytes());
    checksum
}
