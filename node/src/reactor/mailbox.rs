//! Messages from other threads to a core: hops, resolved names, the order to stop.
//!
//! One bounded queue per core. A sender that finds it full is told so and keeps its message; a core that sleeps is woken.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use ferrite_wire::CoreId;

use crate::env::{Connection, Hop};
use crate::ring::{Doorbell, Ringer};

/// Most messages that wait for a core.
pub const MAIL_MAX: usize = 8192;

pub(super) enum Mail {
    Hop {
        from: CoreId,
        message: Hop,
    },
    /// What a name stands for, the first to be tried last.
    Resolved {
        connection: Connection,
        addresses: Vec<SocketAddr>,
    },
}

/// What posts and mailbox share beside the queue.
struct Shared {
    ringer: Ringer,
    stop: AtomicBool,
    /// The mailbox is gone.
    ended: AtomicBool,
    /// Bytes of frames in the queue.
    bytes: AtomicUsize,
    /// Most of them, but that one alone may be longer.
    bytes_max: usize,
}

/// Where to send a core its messages. Any thread may hold one.
#[derive(Clone)]
pub struct Post {
    sender: Sender<Mail>,
    shared: Arc<Shared>,
}

/// The core's side of its [`Post`]s.
pub struct Mailbox {
    receiver: Receiver<Mail>,
    post: Post,
}

/// A mailbox for each of `cores`, and the posts to reach them by, indexed by core. Frames that wait for a core have `bytes_max` bytes at most
/// together; one alone may be longer.
///
/// # Errors
/// When descriptors run out.
pub fn mailboxes(cores: usize, bytes_max: usize) -> io::Result<(Vec<Post>, Vec<Mailbox>)> {
    let mut posts = Vec::with_capacity(cores);
    let mut boxes = Vec::with_capacity(cores);
    for _ in 0..cores {
        let (sender, receiver) = bounded(MAIL_MAX);
        let (stop, ended, bytes) = (AtomicBool::new(false), AtomicBool::new(false), AtomicUsize::new(0));
        let shared = Shared { ringer: Ringer::new()?, stop, ended, bytes, bytes_max };
        let post = Post { sender, shared: Arc::new(shared) };
        posts.push(post.clone());
        boxes.push(Mailbox { receiver, post });
    }
    Ok((posts, boxes))
}

impl Post {
    /// Tells the core to stop: it drains and its [`run_core`](super::run_core) returns.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.ringer.ring();
    }

    /// Whether the core has ended: nobody takes what it is sent.
    pub(super) fn has_ended(&self) -> bool {
        self.shared.ended.load(Ordering::Acquire)
    }

    pub(super) fn hop(&self, from: CoreId, message: Hop) -> Result<(), Hop> {
        let bytes = frame_bytes(&message);
        // Relaxed: it bounds memory, it orders nothing.
        let before = self.shared.bytes.fetch_add(bytes, Ordering::Relaxed);
        if before > 0 && before + bytes > self.shared.bytes_max {
            self.shared.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(message);
        }
        match self.sender.try_send(Mail::Hop { from, message }) {
            Ok(()) => {
                self.shared.ringer.ring();
                Ok(())
            }
            Err(TrySendError::Full(mail) | TrySendError::Disconnected(mail)) => match mail {
                Mail::Hop { message, .. } => {
                    self.shared.bytes.fetch_sub(bytes, Ordering::Relaxed);
                    Err(message)
                }
                Mail::Resolved { .. } => unreachable!("what was sent comes back"),
            },
        }
    }

    /// Waits for room: for threads that serve nobody.
    pub(super) fn resolved(&self, connection: Connection, addresses: Vec<SocketAddr>) {
        // Fails only when the core is gone, and then nobody waits for an answer.
        if self.sender.send(Mail::Resolved { connection, addresses }).is_ok() {
            self.shared.ringer.ring();
        }
    }
}

impl Mailbox {
    pub(super) fn take(&self) -> Option<Mail> {
        let mail = self.receiver.try_recv().ok()?;
        if let Mail::Hop { message, .. } = &mail {
            self.post.shared.bytes.fetch_sub(frame_bytes(message), Ordering::Relaxed);
        }
        Some(mail)
    }

    /// Whether something waits to be looked at.
    pub(super) fn has_news(&self) -> bool {
        !self.receiver.is_empty()
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.post.shared.stop.load(Ordering::Acquire)
    }

    pub(super) fn doorbell(&self) -> io::Result<Doorbell> {
        self.post.shared.ringer.doorbell()
    }

    pub(super) fn post(&self) -> Post {
        self.post.clone()
    }
}

impl Drop for Mailbox {
    /// Before the queue goes: whoever finds that gone finds this said.
    fn drop(&mut self) {
        self.post.shared.ended.store(true, Ordering::Release);
    }
}

fn frame_bytes(message: &Hop) -> usize {
    match message {
        Hop::Request { frame, .. } | Hop::Reply { frame, .. } => frame.capacity(),
        Hop::Progress(_) | Hop::Absences(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES_MAX: usize = 1 << 20;

    fn reply(bytes: usize) -> Hop {
        Hop::Reply { connection: Connection { slot: 0, generation: 0 }, frame: Vec::with_capacity(bytes) }
    }

    #[test]
    fn a_full_queue_gives_the_message_back() {
        let (posts, boxes) = mailboxes(1, BYTES_MAX).unwrap();
        for _ in 0..MAIL_MAX {
            posts[0].hop(CoreId(0), reply(1)).unwrap();
        }
        assert!(posts[0].hop(CoreId(0), reply(1)).is_err());
        assert!(boxes[0].take().is_some());
        assert!(posts[0].hop(CoreId(0), reply(1)).is_ok());
    }

    #[test]
    fn a_core_that_has_ended_is_told_from_one_that_is_busy() {
        let (posts, mut boxes) = mailboxes(2, BYTES_MAX).unwrap();
        for _ in 0..MAIL_MAX {
            posts[0].hop(CoreId(1), reply(1)).unwrap();
        }
        drop(boxes.pop());
        assert!(posts.iter().all(|post| post.hop(CoreId(0), reply(1)).is_err()));
        assert_eq!([0, 1].map(|core: usize| posts[core].has_ended()), [false, true]);
    }

    #[test]
    fn bytes_are_bounded_too_and_given_back() {
        let (posts, boxes) = mailboxes(1, BYTES_MAX).unwrap();
        for _ in 0..2 {
            posts[0].hop(CoreId(0), reply(BYTES_MAX / 2)).unwrap();
        }
        assert!(posts[0].hop(CoreId(0), reply(1)).is_err());
        while boxes[0].take().is_some() {}
        assert_eq!(boxes[0].post.shared.bytes.load(Ordering::Relaxed), 0);
        assert!(posts[0].hop(CoreId(0), reply(2 * BYTES_MAX)).is_ok());
        assert!(!boxes[0].is_stopped());
        posts[0].stop();
        assert!(boxes[0].is_stopped() && boxes[0].has_news());
    }
}
