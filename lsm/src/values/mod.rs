//! Value files: large values, apart from the tables that name them.
//!
//! Why: a merge copies whole records. Values of many kilobytes would be copied once for each level that they pass; a pointer of
//! [`POINTER_BYTES`] costs next to nothing there. After WiscKey (Lu et al., FAST 2016), with the difference that values leave the log
//! with their memtable, in key order, rather than stay in it.
//!
//! How: a flush or merge writes values of at least a threshold into a file of its own, in key order; the table's record is marked
//! [`crate::RecordFlags::SEPARATED`] and holds a [`Pointer`]. Each table says in its properties how many bytes of which value file its pointers name
//! ([`ValueShare`]). So what is live in a file is a sum over the tables that the manifest names: it changes with the very group
//! that changes the tables, and cannot differ from it. A file that no table names goes with that group, too.
//!
//! Collection: a merge that meets a pointer into a file that is mostly garbage writes the value anew beside its output. It replaces a
//! pointer by another in the same version of the same record, so it races with no write.
//!
//! Invariants:
//! 1. A value file and its directory are synced before a group of the manifest names it; a table that names it comes with it or later.
//! 2. It is unlinked only after the manifest has dropped it durably, and no table that is open still, however dropped, names it.
//! 3. It is written once. What is read is checked against the file's id, its place, and the pointer.

mod builder;
mod file;
mod format;
mod inspect;
mod resolved;
#[cfg(test)]
mod tests;

pub(crate) use builder::ValueBuilder;
pub(crate) use file::StoredValue;
pub use file::ValueFile;
pub use format::{POINTER_BYTES, VALUES_FORMAT, ValueShare, ValuesMeta};
pub(crate) use format::{Pointer, VALUES_BYTES_MAX, VALUES_FORMAT_FIELD, bears_magic};
pub(crate) use inspect::{Target, inspect};
pub(crate) use resolved::Resolved;
