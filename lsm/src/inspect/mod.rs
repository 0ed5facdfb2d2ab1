//! Looks at files without opening an engine on them: prints what is in them, and finds everything that is wrong.
//!
//! Why: when a node refuses to start, or answers that a table is damaged, somebody has to see what is there, what is lost
//! with it and what is not. Opening tells the first thing that is wrong; an inspection goes on behind it as far as the format allows.
//!
//! How: each format is walked by the code that reads it elsewhere (the same decoders, and for a log the same verdicts as
//! recovery's). Every piece is shown to the caller as an [`Event`] when it has been read, so that memory stays bounded: by one
//! group, one block, one value, and the index and filter of one table.
//!
//! It only reads. It asks its [`Disk`] for [`crate::NameOp::List`], opens with [`crate::Open::Read`], and nothing else. A log or a
//! manifest that is being written to meanwhile looks cut or damaged: the caller sees to it that nobody does.

pub(crate) mod advice;
mod report;
mod store;

pub(crate) use advice::Advice;
pub use report::{Event, FINDINGS_MAX, Field, Finding, Hides, Part, Verdict, Weight};
pub(crate) use report::{Report, key_range};

use crate::manifest::{self, list};
use crate::{
    BLOCK_BYTES, Disk, DiskError, DiskErrorKind, FileName, ReadError, TableName, log, table, values,
};

/// Inspects the log of a core, or one segment of it by itself. Of one segment it cannot be told what the others knew to be
/// synced: what is damage by their marks may look like a cut tail.
pub async fn log<D: Disk>(
    disk: &D,
    core: u16,
    slot: Option<u32>,
    see: &mut dyn FnMut(Event<'_>),
) -> Result<Verdict, ReadError> {
    let mut report = Report::new(see);
    log::inspect(disk, core, slot, &mut report).await?;
    Ok(report.verdict())
}

/// Inspects the manifests of a core, or one of them.
pub async fn manifest<D: Disk>(
    disk: &D,
    core: u16,
    number: Option<u64>,
    see: &mut dyn FnMut(Event<'_>),
) -> Result<Verdict, ReadError> {
    let mut report = Report::new(see);
    manifest::inspect(disk, core, number, &mut report).await?;
    Ok(report.verdict())
}

/// Inspects a table: every part of it, every record, and whether its index, filter and properties agree with them.
pub async fn table<D: Disk>(
    disk: &D,
    name: TableName,
    see: &mut dyn FnMut(Event<'_>),
) -> Result<Verdict, ReadError> {
    let bytes = length_of(disk, name.file()).await?;
    let mut report = Report::new(see);
    table::inspect::<D>(disk, (name, bytes), None, None, &mut report).await?;
    Ok(report.verdict())
}

/// Inspects a value file: every value in it.
pub async fn values<D: Disk>(
    disk: &D,
    (store, number): (u16, u64),
    see: &mut dyn FnMut(Event<'_>),
) -> Result<Verdict, ReadError> {
    let name = FileName::Values { store, number };
    let bytes = length_of(disk, name).await?;
    let mut report = Report::new(see);
    values::inspect(disk, name, bytes, None, &mut report).await?;
    Ok(report.verdict())
}

/// Inspects a store, or all of a node: the files that the manifests name, whether they are what was named, every record and value
/// in them, and whether every pointer of a table leads to its value.
pub async fn store<D: Disk>(
    disk: &D,
    only: Option<u16>,
    see: &mut dyn FnMut(Event<'_>),
) -> Result<Verdict, ReadError> {
    let mut report = Report::new(see);
    store::inspect(disk, only, &mut report).await?;
    Ok(report.verdict())
}

/// Bytes at either end of a file by which it is told whose it is.
pub const MARK_BYTES: usize = BLOCK_BYTES;

/// Whether a file of this name could be what its first and last [`MARK_BYTES`] bytes belong to: they bear the mark of that format, sound
/// or not. For files whose names say nothing; in its place a file is what it is called, and without the mark it is damaged.
pub fn bears_mark(name: FileName, first: &[u8], last: &[u8]) -> bool {
    match name {
        FileName::Segment { .. } => log::format::bears_magic(first),
        FileName::Manifest { .. } => manifest::bears_magic(first),
        FileName::Table { .. } => table::bears_magic(last),
        FileName::Values { .. } => values::bears_magic(first),
    }
}

async fn length_of<D: Disk>(disk: &D, name: FileName) -> Result<u64, ReadError> {
    let files = list(disk, name.directory()).await?;
    let found = files.into_iter().find(|(file, _)| *file == name);
    let missing = DiskError { kind: DiskErrorKind::NotFound, operation: "find", name: Some(name) };
    Ok(found.ok_or(missing)?.1)
}
