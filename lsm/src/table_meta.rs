//! What is known about a sorted table without opening it.

use crate::KeyBuf;

/// A finished table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableMeta {
    /// The store whose directory it lies in.
    pub store: u16,
    /// Its file number, unique within the node.
    pub number: u64,
    /// Length of the file, in bytes.
    pub bytes: u64,
    /// Records.
    pub entries: u64,
    /// Records that are deletions.
    pub tombstones: u64,
    /// Keys and values before encoding, in bytes.
    pub raw_bytes: u64,
    /// Lowest order of a record.
    pub min_order: u64,
    /// Highest order of a record.
    pub max_order: u64,
    /// Highest log sequence number its records came from.
    pub max_seq: u64,
    /// Random; seeds its checksums.
    pub file_id: u128,
    /// First key.
    pub smallest: KeyBuf,
    /// Last key.
    pub largest: KeyBuf,
}
