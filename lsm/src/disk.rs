//! The engine's disk: files by name, queued reads and writes on aligned buffers, explicit syncs.
//!
//! Contract, relied on everywhere in the engine and honoured by every implementation:
//!
//! - An operation is queued when its method is *called*, not when its future is polled; dropping the future detaches it.
//! - Two operations in flight at once may take effect in either order, and a crash may keep any subset of their sectors.
//! - A write with [`Sync::Data`] is durable when it completes. Everything else is durable only after a [`Disk::sync`] of its
//!   file that was *called* after the write completed.
//! - A created, renamed, linked or unlinked name is durable only after [`NameOp::SyncDirectory`].
//! - A read or write may be short; the result says how many bytes were moved.
//! - After a failed sync nothing may be assumed about any unsynced write: the caller fences itself.

use std::future::Future;
use std::ops::{Deref, DerefMut};

/// Unit of alignment of offsets, lengths and buffers, in bytes.
pub const BLOCK_BYTES: usize = 4096;

/// What an I/O is for; decides its priority and whose budget its buffers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// The log: acknowledgements wait for it.
    Log,
    /// A read that a client waits for.
    Read,
    /// Flush of a memtable.
    Flush,
    /// Compaction and other background work.
    Background,
}

/// A file of the engine. Paths are an implementation's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileName {
    /// A log segment of a core; slots are recycled.
    Segment {
        /// The core.
        core: u16,
        /// The slot, from 0.
        slot: u32,
    },
    /// A core's manifest; the highest complete number is the current one.
    Manifest {
        /// The core.
        core: u16,
        /// Its number, from 1.
        number: u64,
    },
    /// A sorted table of a store.
    Table {
        /// The store.
        store: u16,
        /// Its number, from 1, unique within the node.
        number: u64,
    },
    /// Large values of a store, apart from its tables.
    Values {
        /// The store.
        store: u16,
        /// Its number, from the same counter as those of tables.
        number: u64,
    },
}

impl FileName {
    /// The directory that holds this file.
    pub fn directory(self) -> Directory {
        match self {
            FileName::Segment { core, .. } | FileName::Manifest { core, .. } => Directory::Core(core),
            FileName::Table { store, .. } | FileName::Values { store, .. } => Directory::Store(store),
        }
    }
}

/// A directory of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Directory {
    /// Log and manifest of a core.
    Core(u16),
    /// Tables and value files of a store.
    Store(u16),
}

/// How to open a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// An existing file, for reading only.
    Read,
    /// An existing file, for reading and writing.
    Write,
    /// A new, empty file, for reading and writing; fails with [`DiskErrorKind::Exists`] if the name is taken.
    Create,
}

/// What is durable when a write completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// Nothing.
    No,
    /// This write's data, and what is needed to read it back.
    Data,
}

/// An operation on names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameOp {
    /// Makes a directory; done already is fine.
    CreateDirectory(Directory),
    /// Makes a new file of `bytes` written zeros (not a hole), synced. A power cut meanwhile may leave a shorter one, of whole blocks
    /// of zeros, and never an empty one.
    CreateZeroed {
        /// The file.
        name: FileName,
        /// Its length.
        bytes: u64,
    },
    /// Renames, replacing the target.
    Rename {
        /// The present name.
        from: FileName,
        /// The name to come.
        to: FileName,
    },
    /// Adds a second name.
    Link {
        /// The present name.
        from: FileName,
        /// The name to add.
        to: FileName,
    },
    /// Removes a name.
    Unlink(FileName),
    /// Lists the files of a directory, sorted; a missing directory is empty.
    List(Directory),
    /// Makes name operations in this directory durable.
    SyncDirectory(Directory),
    /// Makes the directory of a checkpoint, durably; done already is fine. See [`Disk::checkpoint`].
    CreateCheckpoint(u64),
    /// Adds a second name for a file, the same in a checkpoint.
    LinkInto {
        /// The file, which is never written again.
        name: FileName,
        /// The checkpoint.
        checkpoint: u64,
    },
    /// Removes the directories of a checkpoint that hold no files, and with the last one its own; what holds files stays.
    RemoveCheckpoint(u64),
    /// Lists the checkpoints that have a directory, whole or not.
    ListCheckpoints,
}

/// The answer to a [`NameOp`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameReply {
    /// It is done.
    Done,
    /// The files of a directory with their lengths in bytes, sorted by name.
    Files(Vec<(FileName, u64)>),
    /// Numbers of checkpoints, in order.
    Checkpoints(Vec<u64>),
}

/// Why an operation failed, as far as the engine tells causes apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskErrorKind {
    /// No such file.
    NotFound,
    /// The name is taken.
    Exists,
    /// No space is left on the device.
    NoSpace,
    /// The device failed.
    Io,
    /// Anything else, by the system's error number.
    Os(i32),
}

/// A failed disk operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskError {
    /// Why.
    pub kind: DiskErrorKind,
    /// What was tried: "open", "read", "write", "sync", …
    pub operation: &'static str,
    /// On which file, if on one.
    pub name: Option<FileName>,
}

/// Linux's number for "out of memory".
const ENOMEM: i32 = 12;

impl DiskError {
    /// The budget for buffers is spent, which an operation needs.
    pub(crate) fn no_buffer(operation: &'static str, name: Option<FileName>) -> DiskError {
        DiskError { kind: DiskErrorKind::Os(ENOMEM), operation, name }
    }
}

impl std::fmt::Display for DiskError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cannot {}", self.operation)?;
        match self.name {
            Some(FileName::Segment { core, slot }) => write!(f, " log segment {slot} of core {core}")?,
            Some(FileName::Manifest { core, number }) => write!(f, " manifest {number} of core {core}")?,
            Some(FileName::Table { store, number }) => write!(f, " table {number} of store {store}")?,
            Some(FileName::Values { store, number }) => write!(f, " value file {number} of store {store}")?,
            None => {}
        }
        match self.kind {
            DiskErrorKind::NotFound => write!(f, ": not found"),
            DiskErrorKind::Exists => write!(f, ": exists already"),
            DiskErrorKind::NoSpace => write!(f, ": no space is left on the device"),
            DiskErrorKind::Io => write!(f, ": the device failed"),
            DiskErrorKind::Os(errno) => write!(f, ": system error {errno}"),
        }
    }
}

impl std::error::Error for DiskError {}

/// A buffer aligned to [`BLOCK_BYTES`], owned by one holder at a time.
pub trait AlignedBuf: Deref<Target = [u8]> + DerefMut + 'static {
    /// Shortens or lengthens the visible part, up to the length it was made with.
    fn set_len(&mut self, len: usize);
    /// The length it was made with, in bytes.
    fn capacity(&self) -> usize;
}

/// Files by name, with queued I/O. See the module for the contract.
pub trait Disk: Clone + 'static {
    /// An open file.
    type File: Clone + 'static;
    /// A buffer for I/O.
    type Buf: AlignedBuf;

    /// A buffer of `len` bytes (a multiple of [`BLOCK_BYTES`]); its content is undefined but initialised. `None` = the class's budget is spent.
    fn buf(&self, len: usize, class: Class) -> Option<Self::Buf>;
    /// Bytes of all its buffers, lent or kept ready for the next taker.
    fn buffer_bytes(&self) -> usize;
    /// Opens a file.
    fn open(
        &self,
        name: FileName,
        mode: Open,
    ) -> impl Future<Output = Result<Self::File, DiskError>> + 'static;
    /// Reads up to `buf.len()` bytes at `at`; both are multiples of [`BLOCK_BYTES`]. Fewer only at the end of the file or when short.
    fn read(
        &self,
        file: &Self::File,
        at: u64,
        buf: Self::Buf,
        class: Class,
    ) -> impl Future<Output = (Self::Buf, Result<usize, DiskError>)> + 'static;
    /// Writes `buf` at `at`; both are multiples of [`BLOCK_BYTES`].
    fn write(
        &self,
        file: &Self::File,
        at: u64,
        buf: Self::Buf,
        sync: Sync,
        class: Class,
    ) -> impl Future<Output = (Self::Buf, Result<usize, DiskError>)> + 'static;
    /// Makes the file's completed writes and its length durable.
    fn sync(&self, file: &Self::File) -> impl Future<Output = Result<(), DiskError>> + 'static;
    /// The same disk, rooted in a checkpoint: what is opened, listed and changed there is the checkpoint's. Its directory is
    /// made by [`NameOp::CreateCheckpoint`]. A checkpoint has no checkpoints.
    fn checkpoint(&self, number: u64) -> Self;
    /// Operates on names.
    fn names(&self, operation: NameOp) -> impl Future<Output = Result<NameReply, DiskError>> + 'static;
}
