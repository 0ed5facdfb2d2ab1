//! The log's knobs, its errors, and its numbers.

use crate::{Damage, DiskError, Seq};

/// When the log is synced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CommitlogSync {
    /// Each group, before its commit returns.
    #[default]
    Batch,
    /// When the host calls [`super::Log::sync_now`]; a power cut loses what came after.
    Periodic,
}

/// How a log is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// Length of a segment's file in bytes, whole blocks. Default 8 MiB: what is kept ready beside what counts takes a few of them.
    pub segment_bytes: u64,
    /// Longest group in bytes, whole blocks; bounds what is staged too: one such buffer fills while another is written.
    /// Default 1 MiB and 128 KiB, so that the longest value fits with the longest key.
    pub group_bytes: usize,
    /// When the log is synced. Default [`CommitlogSync::Batch`].
    pub sync: CommitlogSync,
    /// A random number minted anew at each open: tells the groups of this life of the log from those of any other.
    pub life: u64,
    /// Seed of the hash (XXH3-64) by which tokens follow from partition keys: tokens that do are not written. Default none.
    pub token_seed: Option<u64>,
    /// Numbers below this are known to the owner from elsewhere: records of this life get this one or higher. Default 1.
    pub seq_min: Seq,
    /// The owner needs the log from this number on: a log that lacks the part where it begins is refused, and damage there says
    /// what it lost. 0 = it does not know: then the log may begin anywhere. Default 0.
    pub needed: Seq,
    /// The owner knows that the log was synced up to this number: one that ends before has lost its end, which is damage as far as it is
    /// needed. 0 = it does not know. Default 0.
    pub through: Seq,
}

impl LogOptions {
    /// The defaults, and this life's random number.
    pub fn new(life: u64) -> LogOptions {
        LogOptions {
            segment_bytes: 8 << 20,
            group_bytes: (1 << 20) + (128 << 10),
            sync: CommitlogSync::default(),
            life,
            token_seed: None,
            seq_min: Seq(1),
            needed: Seq(0),
            through: Seq(0),
        }
    }
}

/// Why a record was not staged. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StageError {
    /// The buffer is full, or there is none: commit first.
    Full,
    /// No group can hold it.
    TooLarge,
    /// The log is fenced.
    Fenced,
}

impl std::fmt::Display for StageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StageError::Full => write!(f, "the log's staging buffer is full"),
            StageError::TooLarge => write!(f, "the record is longer than a log group"),
            StageError::Fenced => write!(f, "{Fenced}"),
        }
    }
}

impl std::error::Error for StageError {}

/// A write or sync of the log failed, or a commit was abandoned half-way: what is on disk is not known any more. The log
/// writes nothing until it is recovered anew; what was staged and not committed is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fenced;

impl std::fmt::Display for Fenced {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the log is fenced after a failed write, until restart and recovery")
    }
}

impl std::error::Error for Fenced {}

/// Why nothing was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitError {
    /// Never again, in this life.
    Fenced,
    /// No space for another segment: nothing was written, what is staged stays staged, and the same call may succeed later. Or
    /// none for the group in a segment that was there: then it was let go of, with all that was staged behind it, and their
    /// numbers are given out again.
    NoSpace(DiskError),
    /// The budget for I/O buffers is spent, and another segment needs one: nothing was written, what is staged stays staged, and the
    /// same call may succeed later.
    NoBuffer,
}

impl std::fmt::Display for CommitError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CommitError::Fenced => write!(f, "{Fenced}"),
            CommitError::NoSpace(error) => write!(f, "the log cannot grow: {error}"),
            CommitError::NoBuffer => write!(f, "the log cannot grow: the budget for I/O buffers is spent"),
        }
    }
}

impl std::error::Error for CommitError {}

impl From<Fenced> for CommitError {
    fn from(_: Fenced) -> Self {
        CommitError::Fenced
    }
}

/// Why a log could not be recovered. Nothing that counts was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogError {
    /// The disk failed.
    Disk(DiskError),
    /// The budget for I/O buffers is spent.
    NoBuffer,
    /// A segment was written by another version.
    Version {
        /// The file's slot.
        slot: u32,
        /// Its version.
        found: u16,
    },
    /// A segment belongs to another core.
    WrongCore {
        /// The file's slot.
        slot: u32,
        /// Its core.
        found: u16,
    },
    /// Two segments claim to be the same one: not damage but a mix-up of files.
    Twice(Damage),
    /// A part of the log that its owner needs is not there, and nothing stands where it was: it was taken away, and may be put
    /// back. (What is there and cannot be read is reported as damage.)
    Missing {
        /// The owner needs the log from this number on.
        needed: u64,
        /// It begins here; `None` if no segment says anything.
        found: Option<u64>,
    },
}

impl std::fmt::Display for LogError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LogError::Disk(error) => error.fmt(f),
            LogError::NoBuffer => write!(f, "the budget for I/O buffers is spent"),
            LogError::Version { slot, found } => {
                write!(f, "log segment {slot} has format version {found}, not {}", super::format::VERSION)
            }
            LogError::WrongCore { slot, found } => write!(f, "log segment {slot} belongs to core {found}"),
            LogError::Twice(damage) => damage.fmt(f),
            LogError::Missing { needed, found: Some(found) } => {
                write!(f, "the log starts at record {found}, and is needed from record {needed}")
            }
            LogError::Missing { needed, found: None } => {
                write!(f, "there is no log, and one is needed from record {needed}")
            }
        }
    }
}

impl std::error::Error for LogError {}

impl From<DiskError> for LogError {
    fn from(error: DiskError) -> Self {
        LogError::Disk(error)
    }
}
