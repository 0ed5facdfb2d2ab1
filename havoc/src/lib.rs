//! Faults done to clusters of real nodes: each a process of the `ferrite` binary with its own directory, configuration and network.
//!
//! The simulation runs the real shard in a world that it controls; here everything is real and little is controlled, so that what the
//! simulation assumes of sockets, clocks, processes and disks is put to the test. Writers that know what they wrote run through all of
//! it, and what was acknowledged must be there afterwards.
//!
//! | module | what |
//! |---|---|
//! | [`ground`] | what nodes stand on: network namespaces, or loopback behind a userspace fault proxy |
//! | [`nodes`] | their processes, configurations, clocks and disks |
//! | [`home`] | their directory, and what runs that were killed have left |
//! | [`fault`] | what can be done to them, and how |
//! | [`registers`], [`sets`], [`carts`] | the writers; `across` finds them keys with replicas on both sides of a partition |
//! | `written`, [`tally`] | their writes as their judges know them, and what they count |
//! | [`campaign`] | rounds of fault and healing, until time is up or something was lost |
//! | [`report`] | what came of them |
//! | [`figures`] | what faults cost, in tables |
//!
//! It refuses to guess: a write is lost only if it was acknowledged and the faults that were done leave a copy of it. So all registers and sets
//! are written at ALL before a data directory is wiped, and nothing is wiped twice without that; of carts it is known what a wiped
//! directory may have cost.
#![forbid(unsafe_code)]

mod across;
pub mod campaign;
pub mod carts;
pub mod fault;
pub mod figures;
pub mod ground;
pub mod home;
pub mod nodes;
pub mod registers;
pub mod report;
pub mod sets;
pub mod tally;
mod written;

use std::fmt;
use std::time::{Duration, Instant};

/// Why a run could not go on: not what a cluster did wrong ([`report::Report::violations`]) but what stood in the way of finding out.
#[derive(Debug)]
pub struct Obstacle(String);

impl Obstacle {
    /// What was attempted, and what came of it.
    pub fn new(action: impl fmt::Display, why: impl fmt::Display) -> Obstacle {
        Obstacle(format!("cannot {action}: {why}"))
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Obstacle {}

/// Says what was attempted when it failed.
pub(crate) fn failed<E: fmt::Display>(action: impl fmt::Display) -> impl FnOnce(E) -> Obstacle {
    move |error| Obstacle::new(action, error)
}

/// How often something is looked at that tells nobody when it changes.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Looks again and again until there is something to see; `None` = in vain.
pub(crate) fn wait_for<T>(within: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(seen) = look() {
            return Some(seen);
        }
        if Instant::now() > deadline {
            return None;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}
