//! The Ferrite client library: token-aware, pipelined, async and blocking.
//!
//! Three layers, each of use by itself:
//!
//! - [`Session`]: one connection's protocol without its socket.
//! - [`Pipeline`]: the whole client without sockets, clock and threads: routing, pipelining, deadlines, retries.
//! - Two fronts that own sockets: [`Client`] on tokio, [`BlockingClient`] on `std::net`.
//!
//! The client learns the topology from its seeds and sends each request to the owning core of a replica of its key.
//! Every call has a deadline and ends in a typed outcome; a write ends in one of three ([`WriteOutcome`]). Only what is
//! safe is tried again: reads within their deadline, writes that certainly were not applied.
//!
//! ```no_run
//! use ferrite_client::{Client, Key, ReadOptions, WriteOptions};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut client = Client::builder().seeds(["127.0.0.1:7100"]).connect_blocking()?;
//! let outcome = client.put(Key::plain(b"greeting"), b"hello", WriteOptions::default());
//! assert!(outcome.is_done(), "{outcome}");
//! let value = client.get(Key::plain(b"greeting"), ReadOptions::default())?;
//! assert_eq!(value.unwrap().bytes, b"hello");
//!
//! // A key of another table than the default one; the name is looked up once.
//! let carts = client.table("carts")?;
//! let outcome = client.put(carts.key(b"user:7"), b"3 apples", WriteOptions::default());
//! assert!(outcome.is_done(), "{outcome}");
//!
//! // Where carts keep siblings, concurrent changes are merged and none is lost.
//! let outcome = client.update(carts.key(b"user:7"), WriteOptions::default(), |carts| {
//!     let mut lines: Vec<&[u8]> = carts.iter().flat_map(|cart| cart.bytes.split(|byte| *byte == b'\n')).collect();
//!     lines.push(b"1 pear");
//!     lines.sort();
//!     lines.dedup();
//!     Some(lines.join(&b'\n'))
//! })?;
//! assert!(outcome.is_done(), "{outcome}");
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod asynchronous;
mod backoff;
mod blocking;
mod options;
mod outcome;
mod pace;
mod pipeline;
mod retry;
mod router;
mod session;
mod siblings;
mod unsent;

pub use asynchronous::Client;
pub use blocking::{BatchSummary, BlockingClient, Dial};
pub use ferrite_wire::{
    ClusterId, Entry, ErrorCode, Fault, HintsAction, Key, Level, Mode, Table, TableId, Topology, Version,
};
pub use options::{
    Builder, CONNECTIONS_PER_CORE_MAX, FOR_EVER, IN_FLIGHT_MAX, Options, ReadOptions, WriteOptions,
};
pub use outcome::{ReadError, ReadResult, Record, UnknownReason, Value, WriteOutcome};
pub use pipeline::{Action, Completion, ConnectionId, Operation, Pipeline};
pub use session::{Arrival, CONNECTION_REQUEST, Session, SessionError};
pub use siblings::{Context, Merged, Replaces, Siblings, UPDATE_ATTEMPTS_MAX};
