//! The deterministic world in which whole Ferrite clusters are simulated.
//!
//! The code under test is the shard that the server runs, unchanged: real frames, real log, real tables. Simulated are time,
//! network, disks, clocks and processes. The same seed gives the same run, event by event.

mod env;
mod executor;
mod history;
mod network;
mod random;
mod scenario;
mod trace;
mod world;

pub use history::Violation;
pub use scenario::{Bug, Report, run};
