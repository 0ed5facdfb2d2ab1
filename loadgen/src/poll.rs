//! Readiness of many sockets on one thread: epoll, edge-triggered, each socket registered once for both directions.
//!
//! Edge-triggered, because a level-triggered socket is visited again by the kernel on the wake after each read. The price
//! is a rule that callers keep: read until a read comes back short or would block, and on [`Ready::closing`] until the end.

use std::{io, os::fd::AsFd, time::Duration};

use rustix::event::{Timespec, epoll};

/// Most sockets reported in one wake.
const EVENTS_PER_WAKE: usize = 256;

/// One epoll instance.
pub(crate) struct Poll {
    epoll: std::os::fd::OwnedFd,
    events: Vec<epoll::Event>,
}

/// What a socket is ready for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ready {
    /// The token it was registered with.
    pub token: u64,
    /// There may be bytes to read.
    pub readable: bool,
    /// There may be room to write.
    pub writable: bool,
    /// The other side has closed, or the connection failed: the end is to be read.
    pub closing: bool,
}

impl Poll {
    pub(crate) fn new() -> io::Result<Poll> {
        Ok(Poll {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            events: Vec::with_capacity(EVENTS_PER_WAKE),
        })
    }

    /// Watches a socket until it is closed.
    pub(crate) fn watch(&self, socket: impl AsFd, token: u64) -> io::Result<()> {
        use epoll::EventFlags as Flags;
        let flags = Flags::IN | Flags::OUT | Flags::RDHUP | Flags::ET;
        Ok(epoll::add(&self.epoll, socket, epoll::EventData::new_u64(token), flags)?)
    }

    /// Waits until a socket is ready or `timeout` has passed (`None` = for ever), and says how many are.
    pub(crate) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        let timeout = timeout.map(|time| Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(time.subsec_nanos()),
        });
        self.events.clear();
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(count) => Ok(count),
            Err(rustix::io::Errno::INTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// The `index`th ready socket of the last wait.
    pub(crate) fn ready(&self, index: usize) -> Ready {
        use epoll::EventFlags as Flags;
        let event = self.events[index];
        let flags = event.flags;
        let closing = flags.intersects(Flags::RDHUP | Flags::HUP | Flags::ERR);
        Ready {
            token: event.data.u64(),
            readable: closing || flags.contains(Flags::IN),
            writable: flags.contains(Flags::OUT),
            closing,
        }
    }
}
