//! Positions in a core's log.

/// The sequence number of a record in its core's log, from 1 and without end; 0 stands before all records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);
