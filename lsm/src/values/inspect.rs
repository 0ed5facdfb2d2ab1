//! Inspects a value file, and whether pointers lead into it.

use super::file::ValueFile;
use super::format::{HEADER_BYTES, Pointer, RECORD_HEADER_BYTES, RecordHeader, ValuesMeta};
use crate::inspect::{
    Field::{Hex, Number},
    Hides, Report, advice,
};
use crate::{BLOCK_BYTES, Class, Damage, Disk, FileName, Prefix, RECORD_BYTES_MAX, ReadError};

/// Inspects a value file of `bytes` bytes. `named` is what the manifest says of it.
pub(crate) async fn inspect<D: Disk>(
    disk: &D,
    name: FileName,
    bytes: u64,
    named: Option<&ValuesMeta>,
    report: &mut Report<'_>,
) -> Result<(), ReadError> {
    let id = named.map(|meta| meta.file_id);
    let file = match ValueFile::open(disk.clone(), name, bytes, id, Class::Background).await {
        Ok(file) => file,
        Err(error) => return report.failure(error, (name, 0), Hides::Unknown, advice::VALUE),
    };
    report.part(name, "header", (0, HEADER_BYTES as u64), &[("file_id", Hex(file.file_id.0))]);
    let (mut at, mut records) = (HEADER_BYTES as u64, 0u64);
    loop {
        let damage = |what, expected, found| Damage { file: name, offset: at, what, expected, found };
        let (header, len) = match record_at(&file, at).await {
            Ok(found) => found,
            Err(error) => {
                report.failure(error, (name, at), Hides::Unknown, advice::VALUE)?;
                // Its length is in doubt as well. If it leads to a record that holds, it is right.
                let Some(next) = beyond(&file, at).await else { return Ok(()) };
                (at, records) = (next, records + 1);
                continue;
            }
        };
        if header.stored_bytes == 0 {
            report.part(name, "end", (at, len), &[("values", Number(header.prefix as u64))]);
            if header.prefix != u128::from(records) {
                let damage = damage("number of values", records, header.prefix as u64);
                report.damage(damage, Hides::Unknown, advice::BUG);
            }
            return padding(&file, at + len, report).await;
        }
        let prefix = Prefix::from_u128(header.prefix);
        let fields = [
            ("vnode", Number(prefix.vnode.into())),
            ("table", Number(prefix.table.into())),
            ("token", Hex(prefix.token.into())),
            ("stored_bytes", Number(header.stored_bytes.into())),
            ("raw_bytes", Number(header.raw_bytes.into())),
        ];
        report.record(name, "value", (at, len), &fields);
        (at, records) = (at + len, records + 1);
    }
}

/// The record at a place, verified, and its length with its header.
async fn record_at<D: Disk>(file: &ValueFile<D>, at: u64) -> Result<(RecordHeader, u64), ReadError> {
    let header = file.read_record(at, Class::Background).await?;
    Ok((header, RECORD_HEADER_BYTES as u64 + u64::from(header.stored_bytes)))
}

/// How long the record at a place says it is, with its header.
async fn length_at<D: Disk>(file: &ValueFile<D>, at: u64) -> Option<u64> {
    let left = file.bytes.saturating_sub(at);
    if left < RECORD_HEADER_BYTES as u64 {
        return None;
    }
    let head = file.read_bytes(at, RECORD_HEADER_BYTES, Class::Background).await.ok()?;
    let stored_bytes = RecordHeader::decode(head[..].try_into().expect("as long as was read")).stored_bytes;
    let len = RECORD_HEADER_BYTES as u64 + u64::from(stored_bytes);
    (len <= left && stored_bytes as usize <= RECORD_BYTES_MAX).then_some(len)
}

/// Where the record behind a damaged one starts, if that one's length leads to a record that holds.
async fn beyond<D: Disk>(file: &ValueFile<D>, at: u64) -> Option<u64> {
    let next = at + length_at(file, at).await?;
    record_at(file, next).await.ok().map(|_| next)
}

async fn padding<D: Disk>(file: &ValueFile<D>, end: u64, report: &mut Report<'_>) -> Result<(), ReadError> {
    let (name, expected) = (file.name(), end.next_multiple_of(BLOCK_BYTES as u64));
    if expected != file.bytes {
        report.damage(file.damage(end, "file length", expected, file.bytes), Hides::Unknown, advice::VALUE);
        return Ok(());
    }
    match file.read_bytes(end, (file.bytes - end) as usize, Class::Background).await {
        Ok(zeros) => {
            if let Some(odd) = zeros.iter().position(|byte| *byte != 0) {
                let damage = file.damage(end + odd as u64, "padding", 0, zeros[odd].into());
                report.notice(damage, Hides::Nothing, advice::UNUSED);
            }
            Ok(())
        }
        Err(error) => report.failure(error, (name, end), Hides::Nothing, advice::UNUSED),
    }
}

/// A value file that pointers lead into.
pub(crate) struct Target<D: Disk> {
    name: FileName,
    /// Every value in it was verified.
    is_whole: bool,
    file: Result<ValueFile<D>, ReadError>,
}

impl<D: Disk> Target<D> {
    /// Opens it; that it cannot be is said of each pointer.
    pub(crate) async fn open(disk: &D, meta: &ValuesMeta, is_whole: bool) -> Target<D> {
        let (name, id) = (meta.file(), Some(meta.file_id));
        let file = ValueFile::open(disk.clone(), name, meta.bytes, id, Class::Background).await;
        Target { name, is_whole, file }
    }

    pub(crate) fn name(&self) -> FileName {
        self.name
    }

    /// Whether a pointer leads to its value. Where all values were verified, their headers tell.
    pub(crate) async fn check(&self, pointer: &Pointer) -> Result<(), ReadError> {
        let file = match &self.file {
            Ok(file) => file,
            Err(error) => return Err(*error),
        };
        if !self.is_whole || pointer.offset + pointer.record_bytes() > file.bytes {
            return file.read_stored(pointer, Class::Background).await.map(|_| ());
        }
        let head = file.read_bytes(pointer.offset, RECORD_HEADER_BYTES, Class::Background).await?;
        let header = RecordHeader::decode(head[..].try_into().expect("as long as was read"));
        let named = (pointer.checksum, pointer.stored_bytes, pointer.raw_bytes);
        if (header.checksum, header.stored_bytes, header.raw_bytes) == named {
            return Ok(());
        }
        Err(file.damage(pointer.offset, "value", pointer.checksum, header.checksum).into())
    }
}
