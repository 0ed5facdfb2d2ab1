//! Which tables to merge next: pure decisions over what the stores look like.
//!
//! A store is a sequence of *sorted runs*, newest first: each table of level 0 (a flushed memtable) is one, and so is every
//! level below it, whose tables are disjoint. A read asks the runs in this order. A compaction takes runs that are
//! neighbours in it, or tables of them, and puts what it makes where the oldest of them stood.
//!
//! Invariant kept for reads, by both strategies: of two tables that hold the same key, the one whose record was applied later is
//! asked first. It follows from *neighbours only*, and from taking level 0 from its oldest table on. So a store may be given
//! the other strategy whenever it is opened: each finds runs, in order, and goes on from there.
//!
//! - [`leveled`]: few runs, each much longer than the one above it. Reads and space are cheap, writes are rewritten more often.
//! - [`tiered`]: several runs of each length. Writes are cheap, reads and space cost more.
//!
//! What is superseded goes with the merge; what is deleted or expired goes as far as [`floor`] says. A table that is mostly
//! such garbage is due by itself ([`garbage`]).

mod chain;
mod floor;
mod garbage;
mod leveled;
mod pick;
mod plan;
mod tiered;

pub(crate) use chain::Chain;
pub(crate) use floor::{Floors, Verdict, buried};
pub(crate) use garbage::due_ms as garbage_due_ms;
pub(crate) use pick::{Limits, StoreShape, debt_bytes, level_score, pick};
pub(crate) use plan::{Plan, Run};

/// How a store's tables are merged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// Levels that grow by a factor, each one sorted run: for reads and space.
    #[default]
    Leveled,
    /// Several sorted runs of about each length: for writes.
    Tiered,
}
