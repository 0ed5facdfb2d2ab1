//! Messages from other threads to a core: hops, resolved names, the order to stop.
//!
//! One bounded queue per core. A sender that finds it full is told so and keeps its message; a core that sleeps is woken.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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

/// Where to send a core its messages. Any thread may hold one.
#[derive(Clone)]
pub struct Post {
    sender: Sender<Mail>,
    ringer: Ringer,
    stop: Arc<AtomicBool>,
}

/// The core's side of its [`Post`]s.
pub struct Mailbox {
    receiver: Receiver<Mail>,
    ringer: Ringer,
    stop: Arc<AtomicBool>,
    post: Post,
}

/// A mailbox for each of `cores`, and the posts to reach them by, indexed by core.
///
/// # Errors
/// When descriptors run out.
pub fn mailboxes(cores: usize) -> io::Result<(Vec<Post>, Vec<Mailbox>)> {
    let mut posts = Vec::with_capacity(cores);
    let mut boxes = Vec::with_capacity(cores);
    for _ in 0..cores {
        let (sender, receiver) = bounded(MAIL_MAX);
        let (ringer, stop) = (Ringer::new()?, Arc::new(AtomicBool::new(false)));
        let post = Post { sender, ringer: ringer.clone(), stop: stop.clone() };
        posts.push(post.clone());
        boxes.push(Mailbox { receiver, ringer, stop, post });
    }
    Ok((posts, boxes))
}

impl Post {
    /// Tells the core to stop: it drains and its [`run_core`](super::run_core) returns.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.ringer.ring();
    }

    pub(super) fn hop(&self, from: CoreId, message: Hop) -> Result<(), Hop> {
        match self.sender.try_send(Mail::Hop { from, message }) {
            Ok(()) => {
                self.ringer.ring();
                Ok(())
            }
            Err(TrySendError::Full(mail) | TrySendError::Disconnected(mail)) => match mail {
                Mail::Hop { message, .. } => Err(message),
                Mail::Resolved { .. } => unreachable!("what was sent comes back"),
            },
        }
    }

    /// Waits for room: for threads that serve nobody.
    pub(super) fn resolved(&self, connection: Connection, addresses: Vec<SocketAddr>) {
        // Fails only when the core is gone, and then nobody waits for an answer.
        if self.sender.send(Mail::Resolved { connection, addresses }).is_ok() {
            self.ringer.ring();
        }
    }
}

impl Mailbox {
    pub(super) fn take(&self) -> Option<Mail> {
        self.receiver.try_recv().ok()
    }

    /// Whether something waits to be looked at.
    pub(super) fn has_news(&self) -> bool {
        !self.receiver.is_empty()
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    pub(super) fn doorbell(&self) -> io::Result<Doorbell> {
        self.ringer.doorbell()
    }

    pub(super) fn post(&self) -> Post {
        self.post.clone()
    }
}
