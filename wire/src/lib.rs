//! Ferrite's wire protocol: identifiers, tables, version envelopes, frames, requests, replies and peer messages.
//!
//! This crate has no I/O and no clock. Decoding borrows keys and values from the receive buffer; encoding appends to a
//! caller's `Vec<u8>`. Every length read from outside is checked against a [`limits`] constant before it is used.
//! `PROTOCOL.md` beside this crate describes every byte.
#![forbid(unsafe_code)]

mod bytes;
mod error;
mod frame;
mod handshake;
mod ids;
mod key;
mod level;
pub mod limits;
mod multi_put;
mod peer;
mod reply;
mod request;
mod siblings;
mod table;
mod tables;
mod topology;
mod version;

pub use bytes::{Reader, Short};
pub use error::{DecodeError, ErrorCode, Fault};
pub use frame::{
    FRAME_HEADER_BYTES, FrameFlags, FrameHeader, FrameKind, FrameView, Parsed, finish_frame, parse_frame,
    start_frame,
};
pub use handshake::{Features, Hello, HelloReply, PROTOCOL_MAX, PROTOCOL_MIN, PeerPart, Role};
pub use ids::{Actor, ClusterId, CoreId, Epoch, NodeId, Order, RequestId, TableId, Token, VnodeId};
pub use key::{HashSeed, Key};
pub use level::{Level, NoLevel};
pub use multi_put::{Entries, Entry, Outcome, Outcomes};
pub use peer::{PeerMessage, ReadWant, ReplicaAnswer, WriteAnswer, payload_bytes_max};
pub use reply::{Item, Items, Reply};
pub use request::{HintsAction, Keys, OVERWRITE, Request, SLOPPY, TTL_NEVER};
pub use siblings::{SiblingValue, Siblings};
pub use table::{Mode, Table};
pub use tables::{TableList, Tables};
pub use topology::{NodeEntry, Topology};
pub use version::{Version, VersionFlags};
