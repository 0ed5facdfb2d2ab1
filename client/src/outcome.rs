//! What calls end in.
//!
//! A write has three outcomes, and the type does not let the third be overlooked: it was done; it certainly was not
//! applied, and may be sent again; or nobody can say. A read has an answer or an error and can always be repeated.

use ferrite_wire::{ErrorCode, Fault, Table, TableId, Topology, Version};
use std::time::Duration;

/// A value that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// The value.
    pub bytes: Vec<u8>,
    /// The version of the write that it comes from.
    pub version: Version,
    /// How many replicas answered. Where there is no value, [`Siblings`](crate::Siblings) say it.
    pub answered: u8,
}

/// How a put or delete ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a write may have failed, or its outcome may be unknown"]
pub enum WriteOutcome {
    /// The write reached its level.
    Done {
        /// The version it was given.
        version: Version,
        /// How many had acknowledged it: replicas, and with [`WriteOptions::sloppy`](crate::WriteOptions::sloppy) nodes that stand in for
        /// replicas.
        answered: u8,
        /// Whether one of those only stands in for a replica that was away: the level was not met by replicas alone, and until the write
        /// is delivered, reads at any level may miss it.
        sloppy: bool,
    },
    /// The write certainly reached no replica, now or later. Sending it again is safe.
    NotApplied(Fault),
    /// The write may have been applied, may become visible later, or may never. Sending it again is safe only if
    /// applying it twice is.
    Unknown(UnknownReason),
}

impl WriteOutcome {
    /// Whether the write reached its level.
    pub fn is_done(&self) -> bool {
        matches!(self, WriteOutcome::Done { .. })
    }
}

impl std::fmt::Display for WriteOutcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            WriteOutcome::Done { answered, sloppy: false, .. } => write!(f, "done on {answered} replicas"),
            WriteOutcome::Done { answered, sloppy: true, .. } => {
                write!(
                    f,
                    "done on {answered} nodes, not all of them replicas: some keep it for replicas that are away"
                )
            }
            WriteOutcome::NotApplied(fault) => write!(f, "not applied: {fault}"),
            WriteOutcome::Unknown(reason) => write!(f, "unknown: {reason}"),
        }
    }
}

/// Why the outcome of a write is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnknownReason {
    /// The server said so: too few replicas acknowledged in time, or its error leaves it open.
    Server(Fault),
    /// The deadline passed after the request was sent.
    Deadline,
    /// The connection was lost after the request was sent.
    ConnectionLost(String),
}

impl std::fmt::Display for UnknownReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            UnknownReason::Server(fault) => write!(f, "{fault}"),
            UnknownReason::Deadline => write!(f, "no answer before the deadline"),
            UnknownReason::ConnectionLost(detail) => write!(f, "the connection was lost: {detail}"),
        }
    }
}

/// Why a read, a ping or another call that changes nothing has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// The last server asked refused, and so did the others that were tried.
    Refused(Fault),
    /// The deadline passed. The text names the last obstacle; it may be empty.
    Deadline(String),
    /// The key has several values that were written apart from each other. The calls that give all of them are named
    /// [`get_siblings`](crate::Client::get_siblings) and [`get_merged`](crate::Client::get_merged).
    Siblings {
        /// How many.
        count: usize,
    },
}

impl std::fmt::Display for ReadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ReadError::Refused(fault) => write!(f, "{fault}"),
            ReadError::Deadline(detail) if detail.is_empty() => write!(f, "no answer before the deadline"),
            ReadError::Deadline(detail) => write!(f, "no answer before the deadline: {detail}"),
            ReadError::Siblings { count } => {
                write!(f, "the key has {count} siblings: read all of them, and merge")
            }
        }
    }
}

impl std::error::Error for ReadError {}

/// The table of a name in a topology that was fetched just now.
pub(crate) fn table_in(topology: &Topology, name: &str) -> Result<Table, ReadError> {
    topology.tables.named(name).cloned().ok_or_else(|| no_table(name))
}

pub(crate) fn no_table(name: &str) -> ReadError {
    let text = format!("there is no table \"{name}\"");
    ReadError::Refused(Fault { code: ErrorCode::NoTable, text })
}

/// What a read ends in; `None` = the key has no value.
pub type ReadResult = Result<Option<Value>, ReadError>;

/// A key and its value, owned: what [`crate::BlockingClient::put_many`] takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The table.
    pub table: TableId,
    /// The partition key.
    pub partition: Vec<u8>,
    /// The sort key, possibly empty.
    pub sort: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
    /// Time to live; `None` = that of the batch, else the table's.
    pub ttl: Option<Duration>,
}

impl Record {
    /// A record of the default table, without sort key and expiry.
    pub fn plain(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Record {
        Record {
            table: TableId::DEFAULT,
            partition: key.into(),
            sort: Vec::new(),
            value: value.into(),
            ttl: None,
        }
    }
}
