//! Sorted tables: files of records in key order, written once, read by block.
//!
//! - [`TableBuilder`] writes one, [`Table`] reads it, [`TableCursor`] walks it.
//! - A lookup asks the filter ([`Table::may_contain`]), then the index ([`Table::locate`]); both are in memory. The block comes from
//!   the cache ([`crate::BlockCache`]) or from the disk ([`Table::read_block`]), and answers with [`Block::get`].
//! - Nothing in a table depends on the core or the store that owns it, nor on the table's number.
//! - Every length is checked before it is trusted, every byte that is read is under a checksum: what is damaged is reported as
//!   [`crate::Damage`], never returned.
//!
//! What it does not do: choose between records of a key in several tables (that is the merge's and the engine's), name
//! or remove files (the manifest's), or interpret a record (only tombstones are counted).

mod block;
mod block_builder;
mod builder;
mod cursor;
mod filter;
mod format;
mod index;
mod inspect;
mod packing;
mod reader;
mod share;
mod stored;
#[cfg(test)]
mod tests;
mod transfer;
mod verify;
mod walk;

pub use block::Block;
pub use builder::{BuildError, TableBuilder};
pub use cursor::TableCursor;
pub use filter::KeyHash;
pub use format::{
    Compression, FileId, RECORD_BYTES_MAX, TABLE_BYTES_MAX, TABLE_FORMAT, TableMeta, TableName, TableOptions,
};
pub(crate) use format::{TABLE_FORMAT_FIELD, bears_magic, encode_key, take, take_key};
pub use index::BlockHandle;
pub(crate) use inspect::{Targets, inspect};
pub use reader::Table;
pub(crate) use stored::Compressor;
pub(crate) use transfer::{InFlight, Port};
pub(crate) use walk::TableWalk;
