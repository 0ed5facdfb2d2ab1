//! What the data path asks of a protocol: requests appended to a buffer, answers found at the front of one.
//!
//! The data path is generic over this trait, so each protocol is compiled into its own loop without dispatch.

use crate::failure::Failure;

/// Bytes from the server that no answer begins with: the connection is closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Garbled(pub String);

/// One answer, borrowed from the receive buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer<'a> {
    /// The answer to a greeting.
    Greeted,
    /// A read found this value.
    Value(&'a [u8]),
    /// A read found nothing.
    Absent,
    /// A write was acknowledged.
    Done,
    /// The operation failed.
    Failed(Failure),
}

/// What stands at the front of the receive buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step<'a> {
    /// Not yet a whole answer.
    Partial,
    /// One answer.
    Answer {
        /// Its length in the buffer.
        bytes: usize,
        /// The request it answers; without meaning when [`Protocol::FIFO`].
        request: u64,
        /// Whether the server asks for its topology to be fetched again.
        stale: bool,
        /// The answer.
        answer: Answer<'a>,
    },
}

/// A wire protocol as the load generator speaks it.
pub(crate) trait Protocol {
    /// Answers come in the order of their requests and do not name them.
    const FIFO: bool;

    /// Appends what a fresh connection sends first, and says whether an answer must come before any request.
    fn greet(&mut self, out: &mut Vec<u8>) -> bool;
    /// Appends a read.
    fn get(&mut self, request: u64, key: &[u8], out: &mut Vec<u8>);
    /// Appends a write.
    fn put(&mut self, request: u64, key: &[u8], value: &[u8], out: &mut Vec<u8>);
    /// Looks at the front of `bytes`.
    fn step<'a>(&mut self, bytes: &'a [u8]) -> Result<Step<'a>, Garbled>;
}
