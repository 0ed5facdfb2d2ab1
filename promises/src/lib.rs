//! What is promised: given what was written, what was acknowledged and what befell the nodes, what a read must find, and what it must not.
//!
//! Simulated clusters and real ones are judged by the same code. It is told of each write before that is sent, of what befell nodes before they
//! answer anybody again, and of answers once they have come: the later of those, the less it sees, and it accuses nobody wrongly.
//!
//! | part | what |
//! |---|---|
//! | `facts` | what befell the nodes and bears on what may be expected of them |
//! | `history` | what was written where the last write wins, and what every read must therefore see |
//! | `set_history` | the same of keys with siblings |
//!
//! Time is an argument: nanoseconds since any moment, as long as it is the same one for all. Nothing here does anything to a cluster.
#![forbid(unsafe_code)]

mod facts;
mod history;
mod set_history;

pub use facts::{Facts, Holders, Reading};
pub use history::writes::Writes;
pub use history::{Answer, History, Intent, Minted, Told, Violation};
pub use set_history::{Replaced, Saw, SetHistory};
