//! The Ferrite server: shards over an [`Env`], and the reactor that is the real one.

pub mod config;
pub mod disk;
pub mod env;
pub mod identity;
pub mod null;
pub mod reactor;
pub mod ring;
pub mod startup;

pub use env::{Connection, Env, Handler, Hop, Received, Sent};
