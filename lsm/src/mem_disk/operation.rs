//! An operation from its call to its outcome, and the future in between.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::{MemBuf, MemFile};
use crate::{Class, DiskError, FileName, NameOp, NameReply, Open, Sync};

/// An operation in flight on a deferred disk; grows with each call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u64);

/// What an operation in flight is, for whoever decides when it completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpKind {
    /// An open.
    Open(Open),
    /// A read.
    Read,
    /// A write.
    Write(Sync),
    /// A file sync.
    Sync,
    /// An operation on names.
    Names(NameOp),
}

/// An operation in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpInfo {
    /// Which.
    pub id: OpId,
    /// What it does.
    pub kind: OpKind,
    /// On which file, if on one.
    pub name: Option<FileName>,
    /// Bytes to move.
    pub bytes: usize,
    /// What it is for; [`Class::Background`] where the call does not say.
    pub class: Class,
}

#[derive(Debug)]
pub(super) enum Op {
    Open { name: FileName, mode: Open },
    Read { file: MemFile, at: u64, buf: MemBuf, class: Class },
    Write { file: MemFile, at: u64, buf: MemBuf, sync: Sync, class: Class },
    Sync { file: MemFile },
    Names(NameOp),
}

impl Op {
    pub(super) fn info(&self, id: OpId) -> OpInfo {
        let (kind, name, bytes, class) = match self {
            Op::Open { name, mode } => (OpKind::Open(*mode), Some(*name), 0, Class::Background),
            Op::Read { file, buf, class, .. } => (OpKind::Read, Some(file.name), buf.len(), *class),
            Op::Write { file, buf, sync, class, .. } => {
                (OpKind::Write(*sync), Some(file.name), buf.len(), *class)
            }
            Op::Sync { file } => (OpKind::Sync, Some(file.name), 0, Class::Background),
            Op::Names(op) => (OpKind::Names(*op), subject(*op), 0, Class::Background),
        };
        OpInfo { id, kind, name, bytes, class }
    }
}

/// The file that an operation on names is about.
pub(super) fn subject(op: NameOp) -> Option<FileName> {
    match op {
        NameOp::CreateZeroed { name, .. } | NameOp::Unlink(name) => Some(name),
        NameOp::Rename { from, .. } | NameOp::Link { from, .. } => Some(from),
        NameOp::LinkInto { name, .. } => Some(name),
        NameOp::CreateDirectory(_)
        | NameOp::List(_)
        | NameOp::SyncDirectory(_)
        | NameOp::CreateCheckpoint(_)
        | NameOp::RemoveCheckpoint(_)
        | NameOp::ListCheckpoints => None,
    }
}

#[derive(Debug)]
pub(super) enum Outcome {
    Open(Result<MemFile, DiskError>),
    Transfer(MemBuf, Result<usize, DiskError>),
    Sync(Result<(), DiskError>),
    Names(Result<NameReply, DiskError>),
}

/// Where a deferred operation's outcome and its waiter meet.
#[derive(Debug, Default)]
pub(super) struct Slot {
    outcome: Option<Outcome>,
    waker: Option<Waker>,
}

impl Slot {
    /// Gives the outcome; the waker is returned to be woken when no borrow of the disk is held.
    pub(super) fn fill(&mut self, outcome: Outcome) -> Option<Waker> {
        self.outcome = Some(outcome);
        self.waker.take()
    }
}

/// The outcome to come.
pub(super) enum Completion {
    Ready(Option<Outcome>),
    Waiting(Rc<RefCell<Slot>>),
}

impl Future for Completion {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        match &mut *self {
            Completion::Ready(outcome) => Poll::Ready(outcome.take().expect("polled after it was ready")),
            Completion::Waiting(slot) => {
                let mut slot = slot.borrow_mut();
                match slot.outcome.take() {
                    Some(outcome) => Poll::Ready(outcome),
                    None => {
                        slot.waker = Some(context.waker().clone());
                        Poll::Pending
                    }
                }
            }
        }
    }
}
