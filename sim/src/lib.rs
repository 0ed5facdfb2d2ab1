//! The deterministic world in which whole Ferrite clusters are simulated.
//!
//! The code under test is the shard that the server runs, unchanged: real frames, real log, real tables. Simulated are time,
//! network, disks, clocks and processes. The same seed gives the same run, event by event, so a failure is replayed by its seed.
//!
//! | part | what it stands for |
//! |---|---|
//! | `world` | what happens next, and to whom: connections, disks, processes |
//! | `network` | sockets: ordered bytes that are late, arrive in pieces, stall and break |
//! | `executor` | tasks on virtual time, dropped where they stand when their process dies |
//! | `env` | the world as a shard sees it |
//! | `scenario` | one run: the plan drawn from the seed, clients, faults, phases |
//! | `set_test` | how many acknowledged elements of sets are lost in each mode of a table |
//! | `counts` | what one run or many met, as numbers |
//! | `campaign` | many runs, and what they showed together |
//! | `bug` | bugs to plant, to see that they are caught |
//!
//! What every read must see is `ferrite-promises` to say.
//!
//! What it refuses: real time, threads, files and sockets. Nothing in here, and nothing that runs in here, may ask for them, or
//! for a random number other than the world's.
//!
//! What it does not simulate yet: changes of membership, anti-entropy.

mod bug;
mod campaign;
mod counts;
mod env;
mod executor;
mod network;
mod random;
mod report;
mod scenario;
mod set_test;
mod trace;
mod world;

pub use bug::Bug;
pub use campaign::{MARKS, Tally, run_all};
pub use counts::{ByName, Counts};
pub use ferrite_promises::Violation;
pub use report::Report;
pub use scenario::Run;
pub use set_test::{SetCounts, SetTest};
