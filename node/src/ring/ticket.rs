//! The future of a file operation.

use std::fs::File;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::Ring;
use super::aligned::AlignedBuffer;
use super::operation::{Key, Payload};

/// What a finished file operation gives back.
pub struct Outcome {
    result: i32,
    payload: Payload,
}

impl Outcome {
    /// The kernel's count, or its error.
    ///
    /// # Errors
    /// The operation's.
    pub fn count(&self) -> io::Result<usize> {
        if self.result < 0 {
            Err(io::Error::from_raw_os_error(-self.result))
        } else {
            Ok(self.result as usize)
        }
    }

    /// The buffer that was lent, and the count or error.
    ///
    /// # Panics
    /// If the operation was neither a read nor a write.
    pub fn into_buffer(self) -> (AlignedBuffer, io::Result<usize>) {
        let count = self.count();
        match self.payload {
            Payload::Buffer(buffer) => (buffer, count),
            Payload::Nothing | Payload::File(_) => panic!("only reads and writes give back a buffer"),
        }
    }

    /// The file that was opened.
    ///
    /// # Errors
    /// The operation's.
    ///
    /// # Panics
    /// If the operation was not an open.
    pub fn into_file(self) -> io::Result<File> {
        self.count()?;
        match self.payload {
            Payload::File(file) => Ok(file),
            Payload::Nothing | Payload::Buffer(_) => panic!("only an open gives a file"),
        }
    }
}

/// A queued file operation. Dropping it detaches the operation, which runs to its end regardless.
#[must_use = "the operation runs anyway, but its outcome is lost"]
pub struct Ticket {
    ring: Ring,
    key: Option<Key>,
}

impl Ticket {
    pub(super) fn new(ring: Ring, key: Key) -> Ticket {
        Ticket { ring, key: Some(key) }
    }
}

impl Future for Ticket {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let key = self.key.expect("a ticket is not polled after its outcome");
        let polled = self.ring.0.borrow_mut().slots.poll(key, context);
        match polled {
            Poll::Pending => Poll::Pending,
            Poll::Ready((result, payload)) => {
                self.key = None;
                Poll::Ready(Outcome { result, payload })
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            let payload = self.ring.0.borrow_mut().slots.detach(key);
            // After the borrow has ended: a buffer goes back to its pool, a file closes.
            drop(payload);
        }
    }
}
