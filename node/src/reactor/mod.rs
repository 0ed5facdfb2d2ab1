//! The reactor: one pinned thread per core that runs a shard over the core's ring.
//!
//! ```text
//!            ┌──────────────────────────── a turn ────────────────────────────┐
//!            │ completions → handler → out-buffers → end of batch → sends     │
//!            └────────────────────────────────────────────────────────────────┘
//!   tasks runnable?  yes: submit, let the executor run each once, next turn
//!                    no:  submit, spin a little, then block in the ring
//! ```
//!
//! Why it blocks in its own ring rather than in the executor: a round trip of a lone client costs 20 µs of CPU this way and
//! 50 µs when the executor sleeps on the ring's eventfd (`tuning/experiments/parking.md`). The price is that nothing but the
//! core's own ring, timers and mailbox may wake its tasks; see `tasks`.
//!
//! Bounds: connections, out-buffers, in-buffers and mail each have one, in [`ReactorOptions`] or beside their use. A client
//! that does not read its answers is no longer read from; one that breaks the protocol is closed alone. Clients leave places for other nodes, and whoever
//! has not said who it is gives its own up when there are no others.

mod breath;
mod buffers;
mod deferred;
mod driver;
mod env;
mod large;
mod listeners;
mod mailbox;
mod options;
mod pace;
mod shared;
mod sleeps;
mod spin;
mod strangers;
mod table;
mod tasks;
mod unread;

use std::cell::RefCell;
use std::fmt;
use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::net::TcpListener;
use std::path::PathBuf;
use std::rc::Rc;

use ferrite_wire::CoreId;
use glommio::{LocalExecutorBuilder, Placement};

use crate::disk::{DiskOptions, RingDisk};
use crate::env::Handler;
use crate::ring::Ring;

pub use env::RingEnv;
pub use mailbox::{MAIL_MAX, Mailbox, Post, mailboxes};
pub use options::{PEER_CONNECTIONS, ReactorOptions};
pub use pace::RingPace;
pub use shared::ReactorCounters;

use driver::Driver;
use shared::Shared;

/// Memory of the executor's own I/O, in bytes: it does none.
const EXECUTOR_IO_BYTES: usize = 64 * 1024;
/// Depth of the executor's own rings: likewise.
const EXECUTOR_RING_DEPTH: usize = 8;

/// Everything a core needs to run.
pub struct CoreSetup {
    /// Which core of the node.
    pub core: CoreId,
    /// Which processor to pin its thread to; `None` leaves that to the system.
    pub cpu: Option<usize>,
    /// Sockets to accept connections from.
    pub listeners: Vec<TcpListener>,
    /// The data directory.
    pub data: PathBuf,
    /// A file that stays open until the core's last operation has ended, even when the process is killed: the data
    /// directory's lock, so that nobody opens the directory while the kernel still writes for the dead.
    pub held: Option<File>,
    /// Bounds and habits.
    pub options: ReactorOptions,
    /// Of the disk.
    pub disk: DiskOptions,
    /// This core's mailbox.
    pub mailbox: Mailbox,
    /// How to reach every core of the node, by number.
    pub posts: Vec<Post>,
}

/// Why a core ended other than by being told to, or not in order.
#[derive(Debug)]
pub enum CoreError<E> {
    /// No ring, no executor, or no data directory.
    Start(io::Error),
    /// The shard could not start.
    Shard(E),
    /// The ring broke.
    Ring(io::Error),
    /// It was told to stop, and did not end in order: why not.
    Disorder(String),
}

impl<E: fmt::Display> fmt::Display for CoreError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CoreError::Start(error) => write!(f, "cannot start a core: {error}"),
            CoreError::Shard(error) => write!(f, "cannot start a shard: {error}"),
            CoreError::Ring(error) => write!(f, "the core's io_uring failed: {error}"),
            CoreError::Disorder(why) => write!(f, "did not stop in order: {why}"),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> std::error::Error for CoreError<E> {}

/// Runs a core on the calling thread until its [`Post::stop`] is heard and everything is drained.
///
/// `start` makes the shard; connections are accepted once it is there. Meanwhile it may use the environment, but for
/// connecting: there is nobody to tell of it yet.
///
/// # Errors
/// See [`CoreError`].
pub fn run_core<H, E, F, S>(setup: CoreSetup, start: S) -> Result<(), CoreError<E>>
where
    H: Handler,
    E: 'static,
    F: Future<Output = Result<H, E>> + 'static,
    S: FnOnce(RingEnv) -> F,
{
    let placement = setup.cpu.map_or(Placement::Unbound, Placement::Fixed);
    let executor = LocalExecutorBuilder::new(placement)
        .name(&format!("core-{}", setup.core.0))
        .io_memory(EXECUTOR_IO_BYTES)
        .ring_depth(EXECUTOR_RING_DEPTH)
        .make()
        .map_err(|error| CoreError::Start(io::Error::other(error.to_string())))?;
    executor.run(async move {
        let ring = Ring::new(setup.cpu).map_err(CoreError::Start)?;
        if let Some(held) = &setup.held {
            ring.hold(held).map_err(CoreError::Start)?;
        }
        let disk = RingDisk::new(ring.clone(), &setup.data, setup.disk).map_err(CoreError::Start)?;
        let seed = std::hash::RandomState::new().build_hasher().finish();
        let shared = Shared::new(setup.core, ring, disk, setup.options, setup.mailbox, setup.posts, seed);
        let started = Rc::new(RefCell::new(None));
        let starting = start(RingEnv(shared.clone()));
        shared.tasks.spawn({
            let started = started.clone();
            async move {
                let handler = starting.await;
                *started.borrow_mut() = Some(handler);
            }
        });
        Driver::new(shared, setup.listeners, started).map_err(CoreError::Start)?.run().await
    })
}
