//! What a call came to, and how a front takes it: which of these it is follows from the operation, and is said there.

use crate::outcome::{ReadError, WriteOutcome};
use crate::siblings::Siblings;
use ferrite_wire::{Table, Topology};
use std::sync::Arc;

/// What a call came to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is named after its operation")]
pub enum Completion {
    Read(Result<Siblings, ReadError>),
    Reads(Vec<Result<Siblings, ReadError>>),
    Write(WriteOutcome),
    Writes(Vec<WriteOutcome>),
    Pong(Result<(), ReadError>),
    Status(Result<String, ReadError>),
    Topology(Result<Arc<Topology>, ReadError>),
    Table(Result<Table, ReadError>),
}

/// Each panics if it is another: whoever takes it knows what its operation completes with.
impl Completion {
    pub(crate) fn read(self) -> Result<Siblings, ReadError> {
        match self {
            Completion::Read(found) => found,
            other => other.instead_of("a read"),
        }
    }

    pub(crate) fn reads(self) -> Vec<Result<Siblings, ReadError>> {
        match self {
            Completion::Reads(found) => found,
            other => other.instead_of("reads"),
        }
    }

    pub(crate) fn write(self) -> WriteOutcome {
        match self {
            Completion::Write(outcome) => outcome,
            other => other.instead_of("a write"),
        }
    }

    pub(crate) fn writes(self) -> Vec<WriteOutcome> {
        match self {
            Completion::Writes(outcomes) => outcomes,
            other => other.instead_of("writes"),
        }
    }

    pub(crate) fn pong(self) -> Result<(), ReadError> {
        match self {
            Completion::Pong(result) => result,
            other => other.instead_of("a pong"),
        }
    }

    pub(crate) fn status(self) -> Result<String, ReadError> {
        match self {
            Completion::Status(text) => text,
            other => other.instead_of("a status"),
        }
    }

    pub(crate) fn topology(self) -> Result<Arc<Topology>, ReadError> {
        match self {
            Completion::Topology(fetched) => fetched,
            other => other.instead_of("a topology"),
        }
    }

    pub(crate) fn table(self) -> Result<Table, ReadError> {
        match self {
            Completion::Table(found) => found,
            other => other.instead_of("a table"),
        }
    }

    fn instead_of(self, wanted: &str) -> ! {
        unreachable!("what completes with {wanted} has ended as {self:?}")
    }
}
