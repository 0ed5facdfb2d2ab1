//! Whom a read may ask, and in what order.
//!
//! | order | who |
//! |---|---|
//! | first | this node, if it is a replica: its record is at hand |
//! | then | whoever is there and answers in time |
//! | where these are too few, or fail | who is there and has been slow |
//! | where these are, too | who is said to be absent, and can be reached all the same |
//!
//! By place in the preference list within each.

use crate::ReplicaSet;

/// The replicas that can be reached.
#[derive(Clone, Copy, Debug, Default)]
pub struct Candidates {
    /// How many replicas the key has.
    pub replicas: u8,
    /// Those that are there, this node included.
    pub live: ReplicaSet,
    /// Those of them that have been slow.
    pub slow: ReplicaSet,
    /// Those that are said to be absent and can be reached. None of them is live.
    pub absent: ReplicaSet,
    /// This node's own place, if it is a replica.
    pub local: Option<u8>,
}

impl Candidates {
    /// All that can be reached.
    pub(super) fn all(&self) -> ReplicaSet {
        self.live.union(self.absent)
    }

    /// Whom of `left` to ask next.
    pub(super) fn next(&self, left: ReplicaSet) -> Option<u8> {
        let there = left.without(self.absent);
        there.without(self.slow).first().or(there.first()).or(left.first())
    }
}
