//! Which tables to merge next: pure decisions over what the stores look like.
//!
//! The strategy is *leveled* (O'Neil et al., "The log-structured merge-tree"; the levels are LevelDB's). Level 0 holds flushed
//! memtables, whose key ranges overlap; every level below is one run of tables with disjoint ranges, `fanout` times longer
//! than the one above it. A read looks at each table of level 0 and at one table of each other level, so what bounds its cost
//! is how many tables level 0 may hold and how many levels there are.
//!
//! Each level has a *score*, its length against its limit; the level of all the core's stores with the highest score of at
//! least one is compacted into the next:
//!
//! - Level 0: all its tables at once with all they overlap in level 1. (Some newer ones alone would let an older version of a
//!   key stand above a newer one; older ones alone would rewrite level 1 more often.)
//! - Level n: the table that rewrites the fewest bytes of level n + 1 for each of its own; if it overlaps none there, it is moved, not rewritten.
//!
//! Invariant kept for reads: of two tables that hold the same key, the one whose record was applied later stands above, or later in level 0.
//!
//! What is superseded goes with the merge; what is deleted or expired goes as far as [`floor`] says.

mod chain;
mod floor;
mod pick;

pub(crate) use chain::Chain;
pub(crate) use floor::{Floors, Verdict, buried};
pub(crate) use pick::{Limits, Plan, StoreShape, debt_bytes, pick};
