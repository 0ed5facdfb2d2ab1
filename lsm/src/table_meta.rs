//! What is known about a sorted table without opening it.

use crate::KeyBuf;

/// A finished table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableMeta {
    /// The store whose directory it lies in.
    pub(crate) store: u16,
    /// Its file number, unique within the node.
    pub(crate) number: u64,
    /// Length of the file, in bytes.
    pub(crate) bytes: u64,
    /// Records.
    pub(crate) entries: u64,
    /// Records that are deletions.
    pub(crate) tombstones: u64,
    /// Keys and values before encoding, in bytes.
    pub(crate) raw_bytes: u64,
    /// Lowest order of a record.
    pub(crate) min_order: u64,
    /// Highest order of a record.
    pub(crate) max_order: u64,
    /// Highest log sequence number its records came from.
    pub(crate) max_seq: u64,
    /// Random; seeds its checksums.
    pub(crate) file_id: u128,
    /// First key.
    pub(crate) smallest: KeyBuf,
    /// Last key.
    pub(crate) largest: KeyBuf,
}
