//! Reads a value file: one value with one read of at most [`READ_BYTES_MAX`], longer ones in pieces, or all of it to verify it.

use super::format::{HEADER_BYTES, LZ4_RATIO_MAX, Pointer, RECORD_HEADER_BYTES, RecordHeader, decode_header};
use super::resolved::Resolved;
use crate::table::Port;
use crate::{BLOCK_BYTES, Class, Damage, Disk, FileId, FileName, Open, Prefix, RECORD_BYTES_MAX, ReadError};

/// Most bytes of one read.
const READ_BYTES_MAX: u64 = 1 << 20;
const RAW: u32 = 0;
const LZ4: u32 = 1;

/// An open value file.
pub struct ValueFile<D: Disk> {
    port: Port<D>,
    pub(super) bytes: u64,
    pub(super) file_id: FileId,
}

/// A value as it lies in its file, verified.
pub(crate) struct StoredValue {
    /// With the record's header in front.
    record: Vec<u8>,
    pub(super) codec: u32,
    pub(super) raw_bytes: u32,
}

impl StoredValue {
    pub(super) fn stored(&self) -> &[u8] {
        &self.record[RECORD_HEADER_BYTES..]
    }
}

impl<D: Disk> ValueFile<D> {
    /// Opens a file of `bytes` bytes and checks its header, its length, and its id where one is expected.
    pub async fn open(
        disk: D,
        name: FileName,
        bytes: u64,
        file_id: Option<FileId>,
        class: Class,
    ) -> Result<ValueFile<D>, ReadError> {
        let file = disk.open(name, Open::Read).await?;
        let port = Port { disk, file, name };
        let page = BLOCK_BYTES as u64;
        if bytes < page || !bytes.is_multiple_of(page) {
            let expected = bytes.next_multiple_of(page).max(page);
            return Err(Damage { file: name, offset: 0, what: "file length", expected, found: bytes }.into());
        }
        let found = decode_header(name, &port.read(0, BLOCK_BYTES, class).await?)?;
        if let Some(id) = file_id.filter(|id| *id != found) {
            let (expected, found) = (id.0 as u64, found.0 as u64);
            return Err(Damage { file: name, offset: 16, what: "file id", expected, found }.into());
        }
        if bytes > page {
            port.read(bytes - page, BLOCK_BYTES, class).await?;
        }
        Ok(ValueFile { port, bytes, file_id: found })
    }

    /// As [`ValueFile::open`], without a look into it: for a file that has this id if it is whole, and of which the device does not
    /// give what would say so. What is read of it is verified as ever.
    pub(crate) async fn open_unread(
        disk: D,
        name: FileName,
        bytes: u64,
        file_id: FileId,
    ) -> Result<ValueFile<D>, ReadError> {
        let file = disk.open(name, Open::Read).await?;
        Ok(ValueFile { port: Port { disk, file, name }, bytes, file_id })
    }

    /// Its name.
    pub fn name(&self) -> FileName {
        self.port.name
    }

    /// Reads and verifies the value of a pointer, as it is stored.
    pub(crate) async fn read_stored(
        &self,
        pointer: &Pointer,
        class: Class,
    ) -> Result<StoredValue, ReadError> {
        let end = pointer.offset + pointer.record_bytes();
        if end > self.bytes {
            return Err(self.damage(pointer.offset, "value end", self.bytes, end).into());
        }
        let record = self.read_bytes(pointer.offset, pointer.record_bytes() as usize, class).await?;
        let header = self.check_record(pointer.offset, &record)?;
        let named = (pointer.checksum, pointer.stored_bytes, pointer.raw_bytes);
        if (header.checksum, header.stored_bytes, header.raw_bytes) != named {
            return Err(self.damage(pointer.offset, "value", pointer.checksum, header.checksum).into());
        }
        Ok(StoredValue { record, codec: header.codec, raw_bytes: header.raw_bytes })
    }

    /// Reads and verifies the value of a pointer.
    pub(crate) async fn read(&self, pointer: &Pointer, class: Class) -> Result<Resolved, ReadError> {
        let stored = self.read_stored(pointer, class).await?;
        if stored.codec == RAW {
            return Ok(Resolved::new(pointer, RECORD_HEADER_BYTES, stored.record.into_boxed_slice()));
        }
        let mut value = vec![0; stored.raw_bytes as usize];
        match lz4_flex::block::decompress_into(stored.stored(), &mut value) {
            Ok(len) if len == value.len() => Ok(Resolved::new(pointer, 0, value.into_boxed_slice())),
            Ok(len) => {
                Err(self.damage(pointer.offset, "value length", value.len() as u64, len as u64).into())
            }
            Err(_) => Err(self.damage(pointer.offset, "value compression", 0, 0).into()),
        }
    }

    /// Walks the whole file and verifies every byte of it; shows `visit` each value's key prefix, offset, stored and raw length.
    /// Gives the number of values.
    pub async fn verify(
        &self,
        class: Class,
        mut visit: impl FnMut(Prefix, u64, u32, u32),
    ) -> Result<u64, ReadError> {
        let (mut at, mut records) = (HEADER_BYTES as u64, 0);
        loop {
            let header = self.read_record(at, class).await?;
            let len = RECORD_HEADER_BYTES as u64 + u64::from(header.stored_bytes);
            at += len;
            if header.stored_bytes == 0 {
                if header.prefix != u128::from(records) {
                    return Err(self.damage(at, "number of values", records, header.prefix as u64).into());
                }
                break;
            }
            visit(Prefix::from_u128(header.prefix), at - len, header.stored_bytes, header.raw_bytes);
            records += 1;
        }
        if at.next_multiple_of(BLOCK_BYTES as u64) != self.bytes {
            return Err(self
                .damage(at, "file length", at.next_multiple_of(BLOCK_BYTES as u64), self.bytes)
                .into());
        }
        let zeros = self.read_bytes(at, (self.bytes - at) as usize, class).await?;
        if let Some(found) = zeros.iter().find(|byte| **byte != 0) {
            return Err(self.damage(at, "padding", 0, u64::from(*found)).into());
        }
        Ok(records)
    }

    /// Where its first value is, for [`ValueFile::verify_record`]; `None` if it has none.
    pub(crate) fn first_record(&self) -> Option<u64> {
        (self.bytes > HEADER_BYTES as u64).then_some(HEADER_BYTES as u64)
    }

    /// Reads and verifies the value at `at`; gives where the next one is, `None` at the end.
    pub(crate) async fn verify_record(&self, at: u64, class: Class) -> Result<Option<u64>, ReadError> {
        let header = self.read_record(at, class).await?;
        let next = at + RECORD_HEADER_BYTES as u64 + u64::from(header.stored_bytes);
        Ok((header.stored_bytes > 0).then_some(next))
    }

    /// Reads and verifies the record at `at`.
    pub(super) async fn read_record(&self, at: u64, class: Class) -> Result<RecordHeader, ReadError> {
        let left = self.bytes.saturating_sub(at);
        if left < RECORD_HEADER_BYTES as u64 {
            return Err(self.damage(at, "end record", RECORD_HEADER_BYTES as u64, left).into());
        }
        let head = self.read_bytes(at, RECORD_HEADER_BYTES, class).await?;
        let lengths = RecordHeader::decode(head[..].try_into().expect("as long as was read"));
        let len = RECORD_HEADER_BYTES as u64 + u64::from(lengths.stored_bytes);
        if len > left || lengths.stored_bytes as usize > RECORD_BYTES_MAX {
            return Err(self.damage(at, "value end", self.bytes, at.saturating_add(len)).into());
        }
        let record = self.read_bytes(at, len as usize, class).await?;
        Ok(self.check_record(at, &record)?)
    }

    /// Reads bytes that lie in the file, in pieces.
    pub(super) async fn read_bytes(
        &self,
        offset: u64,
        len: usize,
        class: Class,
    ) -> Result<Vec<u8>, ReadError> {
        let page = BLOCK_BYTES as u64;
        let mut bytes = Vec::with_capacity(len);
        let end = offset + len as u64;
        let mut at = offset / page * page;
        while at < end {
            let piece = (end.next_multiple_of(page) - at).min(READ_BYTES_MAX);
            let buf = self.port.read(at, piece as usize, class).await?;
            let (from, to) = (offset.max(at) - at, end.min(at + piece) - at);
            bytes.extend_from_slice(&buf[from as usize..to as usize]);
            at += piece;
        }
        Ok(bytes)
    }

    fn check_record(&self, offset: u64, record: &[u8]) -> Result<RecordHeader, Damage> {
        let damage = |what, expected, found| self.damage(offset, what, expected, found);
        let Some((head, stored)) = record.split_first_chunk::<RECORD_HEADER_BYTES>() else {
            return Err(damage("value length", RECORD_HEADER_BYTES as u64, record.len() as u64));
        };
        let header = RecordHeader::decode(head);
        let expected = self.file_id.checksum(offset, &record[8..]);
        if header.checksum != expected {
            return Err(damage("value checksum", expected, header.checksum));
        }
        // The checksum holds: what is odd from here on was written so.
        let raw_bytes = header.raw_bytes as usize;
        let lengths_agree = match header.codec {
            RAW => raw_bytes == stored.len(),
            LZ4 => raw_bytes <= RECORD_BYTES_MAX.min(stored.len().saturating_mul(LZ4_RATIO_MAX)),
            other => return Err(damage("value codec", LZ4.into(), other.into())),
        };
        if header.stored_bytes as usize != stored.len() || !lengths_agree {
            return Err(damage("value length", header.raw_bytes.into(), stored.len() as u64));
        }
        Ok(header)
    }

    pub(super) fn damage(&self, offset: u64, what: &'static str, expected: u64, found: u64) -> Damage {
        Damage { file: self.port.name, offset, what, expected, found }
    }
}
