//! Damage: bytes on disk that are not what was written there, told apart from a device that fails.
//!
//! Damage is found, reported with its place, and never returned as data. What to do about it (quarantine, repair from
//! replicas, refuse to open) is the caller's decision.

use crate::{DiskError, FileName};

/// Bytes that are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: FileName,
    /// Where the damaged part starts, in bytes.
    pub offset: u64,
    /// What is damaged: "block checksum", "footer magic", …
    pub what: &'static str,
    /// The value that should be there.
    pub expected: u64,
    /// The value that is there.
    pub found: u64,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write_file(f, self.file)?;
        write!(
            f,
            " is damaged at byte {}: {}, expected {:#x}, found {:#x}",
            self.offset, self.what, self.expected, self.found
        )
    }
}

impl std::error::Error for Damage {}

fn write_file(f: &mut std::fmt::Formatter<'_>, file: FileName) -> std::fmt::Result {
    match file {
        FileName::Segment { core, slot } => write!(f, "log segment {slot} of core {core}"),
        FileName::Manifest { core, number } => write!(f, "manifest {number} of core {core}"),
        FileName::Table { store, number } => write!(f, "table {number} of store {store}"),
        FileName::Values { store, number } => write!(f, "value file {number} of store {store}"),
    }
}

/// Why stored data could not be read. Nothing was returned and nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// The disk failed; other parts of the file may be readable.
    Disk(DiskError),
    /// The bytes were read, and are wrong.
    Damage(Damage),
    /// A part of this file is known to be damaged and quarantined, and the newest version of the key may have been in it. An
    /// older one is no answer.
    Quarantined(FileName),
    /// The budget for I/O buffers is spent; the same read may succeed later.
    NoBuffer,
}

impl std::fmt::Display for ReadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ReadError::Disk(error) => error.fmt(f),
            ReadError::Damage(damage) => damage.fmt(f),
            ReadError::Quarantined(file) => {
                write_file(f, *file)?;
                write!(f, " is damaged and quarantined where the key may have been")
            }
            ReadError::NoBuffer => write!(f, "the budget for I/O buffers is spent"),
        }
    }
}

impl std::error::Error for ReadError {}

impl From<DiskError> for ReadError {
    fn from(error: DiskError) -> Self {
        ReadError::Disk(error)
    }
}

impl From<Damage> for ReadError {
    fn from(damage: Damage) -> Self {
        ReadError::Damage(damage)
    }
}
