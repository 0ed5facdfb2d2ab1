//! The Ferrite server: shards over an [`Env`], and the reactor that is the real one.

pub mod config;
pub mod disk;
pub mod env;
pub mod identity;
mod layout;
mod memory;
pub mod null;
mod place;
mod placement;
pub mod reactor;
mod recovered;
pub mod ring;
pub mod server;
pub mod shard;
pub mod startup;
pub mod table_shapes;

pub use env::{Caller, Connection, Env, Handler, Hop, Received, Sent};
pub use layout::lay_out;
pub use place::Place;
pub use placement::Placement;
pub use shard::{HintCounts, Joining, Shard, ShardSettings};
