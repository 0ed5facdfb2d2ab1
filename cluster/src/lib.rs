//! Ferrite's replication logic: ring, claim, clocks, quorum coordinators and gossip as pure state machines.
//!
//! No I/O and no clock: time is an argument, messages are return values.
#![forbid(unsafe_code)]

mod claim;
mod clock;
mod founding;
pub mod gossip;
mod hedging;
pub mod hints;
pub mod planted;
mod read_quorum;
mod replica_set;
mod ring;
mod siblings;
mod walls;
mod write_quorum;

pub use claim::{Member, claim, reclaim};
pub use clock::{Clock, ClockSettings, MintError};
pub use founding::initial_topology;
pub use hedging::{Hedging, Latencies, READS_PER_HEDGE};
pub use read_quorum::{
    Ask, Asks, Candidates, ReadAnswer, ReadOutcome, ReadQuorum, ReadStep, Reading, Repairing,
};
pub use replica_set::ReplicaSet;
pub use ring::Ring;
pub use siblings::{
    ACTORS_MAX, Clock as CausalClock, Context, ContextError, Dot, Full, SetLimits, Sibling, SiblingSet,
};
pub use walls::{COUNTS_MS, Walls};
pub use write_quorum::{Unavailable, WriteOutcome, WriteQuorum};
