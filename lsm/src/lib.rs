//! Ferrite's storage engine: one log per core, and several LSM trees ("stores") behind it.
//!
//! The engine has no network, no clock and no threads. Its disk is the [`Disk`] trait, its sense of sharing a core the
//! [`Pace`] trait; it spawns nothing and offers its host the next job instead.

mod cache;
mod compaction;
pub mod cover;
mod damage;
mod disk;
mod engine;
mod extent;
pub mod inspect;
mod key;
mod key_range;
pub mod layout;
pub mod log;
mod manifest;
pub mod mem_disk;
mod memtable;
mod merge;
mod overlap;
mod pace;
pub mod planted;
mod prefetch;
mod record;
mod record_cache;
mod seq;
mod table;
mod values;
mod varint;

pub use cache::{BlockCache, CacheStats};
pub use compaction::Strategy;
pub use damage::{Damage, ReadError};
pub use disk::{
    AlignedBuf, BLOCK_BYTES, Class, Directory, Disk, DiskError, DiskErrorKind, FileName, NameOp, NameReply,
    Open, Sync,
};
pub use engine::{
    AssignError, CHUNK_BYTES_MAX, CHUNK_FORMAT, ChunkError, CommitError, Engine, Estimate, Exported, Found,
    Ingest, IngestError, Job, Memory, Miss, OpenError, Options, Quarantined, Recovery, Refusal,
    SCRUB_BYTES_AHEAD_MAX, ScanLimits, Stats, StoreStats,
};
pub use extent::Extent;
pub use key::{Key, KeyBuf, Prefix};
pub use key_range::{BOUND_BYTES_MAX, KeyRange};
pub use memtable::{MemBackIter, MemCursor, MemIter, Memtable};
pub use merge::{
    AnySource, Direction, Join, JoinByFlag, JoinSiblings, Joined, LastWriteWins, Merge, RecordBuf, Source,
};
pub use pace::Pace;
pub use record::{Record, RecordFlags};
pub use seq::Seq;
pub use table::{
    Block, BlockHandle, BuildError, Compression, FileId, KeyHash, RECORD_BYTES_MAX, TABLE_BYTES_MAX,
    TABLE_FORMAT, Table, TableBuilder, TableCursor, TableMeta, TableName, TableOptions,
};
pub use values::{POINTER_BYTES, VALUES_FORMAT, ValueFile, ValueShare, ValuesMeta};
