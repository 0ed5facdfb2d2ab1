//! Waking a core that sleeps in its ring, from another thread.
//!
//! The sleeper announces itself before it looks into its queues for the last time; the waker puts its message into the queue
//! before it looks for a sleeper. Both sides fence in between, so one of them sees the other: no wake-up is lost, and a core
//! that is awake costs its callers no system call.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::FromRawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use super::operation::Operation;
use super::{Ring, Token};

struct Shared {
    event: File,
    sleeping: AtomicBool,
}

/// The owner's side; one thread sleeps by it.
pub struct Doorbell {
    shared: Arc<Shared>,
    event: Rc<File>,
}

/// The others' side.
#[derive(Clone)]
pub struct Ringer(Arc<Shared>);

impl Ringer {
    /// A bell that nobody sleeps by yet.
    ///
    /// # Errors
    /// When no descriptor can be made.
    pub fn new() -> io::Result<Ringer> {
        // SAFETY: eventfd takes no pointers; a descriptor it returns is ours alone.
        let event = unsafe {
            let fd = libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            File::from_raw_fd(fd)
        };
        Ok(Ringer(Arc::new(Shared { event, sleeping: AtomicBool::new(false) })))
    }

    /// Wakes the owner if it sleeps. Call it after the message is where the owner will look.
    pub fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.0.sleeping.swap(false, Ordering::SeqCst) {
            // It fails only when 2^64 - 1 rings were not heard, and then the owner is awake.
            let _ = (&self.0.event).write(&1u64.to_ne_bytes());
        }
    }

    /// The owner's side of this bell, for the thread that will sleep by it.
    ///
    /// # Errors
    /// When the descriptor cannot be duplicated.
    pub fn doorbell(&self) -> io::Result<Doorbell> {
        Ok(Doorbell { shared: self.0.clone(), event: Rc::new(self.0.event.try_clone()?) })
    }
}

impl Doorbell {
    /// Announces sleep; look into every queue after it, and sleep only if they are empty.
    pub fn before_sleep(&self) {
        self.shared.sleeping.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Ends what [`Doorbell::before_sleep`] announced.
    pub fn after_sleep(&self) {
        self.shared.sleeping.store(false, Ordering::Relaxed);
    }
}

impl Ring {
    /// Watches a doorbell: one [`Event::Rung`](super::Event::Rung) follows, then it must be watched again.
    pub fn watch(&self, doorbell: &Doorbell, token: Token) {
        self.queue_event(Operation::Doorbell { event: doorbell.event.clone(), word: vec![0] }, token);
    }
}
