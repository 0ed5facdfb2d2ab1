//! The seam between a shard and its world.
//!
//! A shard is a [`Handler`]: the world tells it what happened. The world is an [`Env`]: the shard asks it for time,
//! randomness, disk, connections and other cores. The reactor (glommio and io_uring) is one world, the simulator the other.
//!
//! Everything here happens on one thread per core. Handlers take `&self`; they never hold a borrow of their state while
//! calling the environment's futures.

use std::future::Future;
use std::sync::Arc;

use ferrite_wire::CoreId;

use crate::shard::{Absences, Progress};

/// A connection of this core. Never reused while anyone may still hold it: a slot and its generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Connection {
    /// The slot, from 0, dense: usable as an index.
    pub slot: u32,
    /// Grows each time the slot is reused.
    pub generation: u32,
}

/// What became of bytes given to [`Env::send`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// They are in the connection's out-buffer and leave with the others of this batch.
    Queued,
    /// The out-buffer is over its bound: nothing was added. What is as short as an error has room for longer.
    Full,
    /// This connection has nothing before it, but all others together leave so much unread that there is no room for this: nothing was
    /// added. What is as short as an error has room.
    Crowded,
    /// The connection is closed: nothing was encoded.
    Gone,
}

/// Who is at the other end of an accepted connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Whoever wants to read and write.
    Client,
    /// A core of another node, or its gossip.
    Peer,
}

/// What a handler made of received bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// `used` bytes were consumed; the rest is the start of a frame that will be at least `need` bytes long in all (0 = unknown).
    Consumed {
        /// Bytes consumed from the front.
        used: usize,
        /// Length of the frame that is not whole yet, counted from the first unconsumed byte; 0 if nothing is left, or if
        /// what is left waits until the connection's out-buffer has room: it is shown again then.
        need: usize,
    },
    /// The peer broke the protocol: what is queued for it leaves, then the connection closes.
    Close,
}

/// A message between cores of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hop {
    /// A request frame that arrived at a core that does not own its vnode.
    Request {
        /// The connection it came by, on the sending core.
        connection: Connection,
        /// Whether it came from a peer's core rather than from a client.
        from_peer: bool,
        /// When it must be answered, in nanoseconds of [`Env::now_ns`] (all cores of a node share that clock).
        deadline_ns: u64,
        /// The whole frame.
        frame: Vec<u8>,
    },
    /// The answer to a hopped request: a whole frame to be sent as it is.
    Reply {
        /// The connection on the core that receives this hop.
        connection: Connection,
        /// The whole frame.
        frame: Vec<u8>,
    },
    /// A core tells the first one how it is.
    Progress(Progress),
    /// The first core tells another one who is absent.
    Absences(Arc<Absences>),
}

impl Hop {
    /// Bytes of the frame that it carries.
    pub fn frame_bytes(&self) -> usize {
        match self {
            Hop::Request { frame, .. } | Hop::Reply { frame, .. } => frame.len(),
            Hop::Progress(_) | Hop::Absences(_) => 0,
        }
    }
}

/// What a shard can ask of its world.
pub trait Env: Clone + 'static {
    /// The disk.
    type Disk: ferrite_lsm::Disk;
    /// How background work shares the core.
    type Pace: ferrite_lsm::Pace;

    /// Monotonic time in nanoseconds, the same clock on all cores of a node. Taken once per batch: it may stand still within one.
    fn now_ns(&self) -> u64;
    /// Wall-clock time in milliseconds since the Unix epoch; may jump. Taken at most once per batch, like [`Env::now_ns`].
    fn wall_ms(&self) -> u64;
    /// Random bits.
    fn random(&self) -> u64;
    /// The disk.
    fn disk(&self) -> Self::Disk;
    /// How background work shares the core.
    fn pace(&self) -> Self::Pace;
    /// This core.
    fn core(&self) -> CoreId;
    /// Runs a task on this core until it is done. It must end by itself: nothing cancels it.
    fn spawn(&self, task: impl Future<Output = ()> + 'static);
    /// Waits. For background tasks only; requests use [`Handler::next_timer`].
    fn sleep_ns(&self, nanoseconds: u64) -> impl Future<Output = ()> + 'static;
    /// Lets `encode` append whole frames to the connection's out-buffer. All that is queued within a batch leaves in one send.
    fn send(&self, connection: Connection, encode: impl FnOnce(&mut Vec<u8>)) -> Sent {
        self.send_fitting(connection, |out, _| {
            encode(out);
            true
        })
    }
    /// The same for who can do without: `encode` is told for how many bytes there is room, and gives false, having appended nothing, if that
    /// is too little. What is as short as an error always fits.
    fn send_fitting(&self, connection: Connection, encode: impl FnOnce(&mut Vec<u8>, usize) -> bool) -> Sent;
    /// Starts connecting to `address` (`host:port`). [`Handler::on_connected`] or [`Handler::on_closed`] follows, never within this call.
    fn connect(&self, address: &str) -> Connection;
    /// Sends what is queued, then closes; on a connection that this side made, nothing that has not left leaves any more. [`Handler::on_closed`] does not follow.
    fn close(&self, connection: Connection);
    /// An accepted connection has said who it is. False = there is no place for it: clients leave some to peers. It is to be closed then.
    fn greeted(&self, connection: Connection, caller: Caller) -> bool {
        let _ = (connection, caller);
        true
    }
    /// Whether the connection is being read from: not while what it was answered piles up.
    fn is_read(&self, connection: Connection) -> bool {
        let _ = connection;
        true
    }
    /// By how much what a connection sent, and is being told now, may be older than it seems, in nanoseconds: it was not read from that long ago. What the core stood still
    /// since then is in it.
    fn lay_ns(&self, connection: Connection) -> u64 {
        let _ = connection;
        0
    }
    /// Sends to another core of this node; gives the message back when that core's queue is full, or the core has ended.
    fn hop(&self, to: CoreId, message: Hop) -> Result<(), Hop>;
    /// Whether a core of this node has ended: it takes no message any more, and what it has sent is in the queue of whom it is for.
    fn has_ended(&self, core: CoreId) -> bool;
}

/// What a world tells a shard.
pub trait Handler: 'static {
    /// A connection was accepted.
    fn on_accepted(&self, connection: Connection);
    /// A connection started by [`Env::connect`] stands.
    fn on_connected(&self, connection: Connection);
    /// Bytes are there: everything unconsumed so far, in one slice.
    fn on_received(&self, connection: Connection, bytes: &[u8]) -> Received;
    /// The peer closed, the connection broke, or connecting failed.
    fn on_closed(&self, connection: Connection);
    /// Another core of this node sent a message.
    fn on_hop(&self, from: CoreId, message: Hop);
    /// Everything that had arrived has been told: the moment to start a log group.
    fn on_batch_end(&self);
    /// When [`Handler::on_timer`] is wanted next, in nanoseconds of [`Env::now_ns`]. Asked after each batch.
    fn next_timer(&self) -> Option<u64>;
    /// The time asked for has come.
    fn on_timer(&self, now_ns: u64);
    /// The process is to stop: accept nothing new, finish what is in flight.
    fn on_stop(&self);
    /// After [`Handler::on_stop`]: whether everything is drained and synced.
    fn is_drained(&self) -> bool;
    /// The core ends, drained or out of time. The error says what is not as it should be then, for whoever runs the node.
    fn end(&self) -> Result<(), String>;
}

impl<H: Handler> Handler for std::rc::Rc<H> {
    fn on_accepted(&self, connection: Connection) {
        (**self).on_accepted(connection);
    }
    fn on_connected(&self, connection: Connection) {
        (**self).on_connected(connection);
    }
    fn on_received(&self, connection: Connection, bytes: &[u8]) -> Received {
        (**self).on_received(connection, bytes)
    }
    fn on_closed(&self, connection: Connection) {
        (**self).on_closed(connection);
    }
    fn on_hop(&self, from: CoreId, message: Hop) {
        (**self).on_hop(from, message);
    }
    fn on_batch_end(&self) {
        (**self).on_batch_end();
    }
    fn next_timer(&self) -> Option<u64> {
        (**self).next_timer()
    }
    fn on_timer(&self, now_ns: u64) {
        (**self).on_timer(now_ns);
    }
    fn on_stop(&self) {
        (**self).on_stop();
    }
    fn is_drained(&self) -> bool {
        (**self).is_drained()
    }
    fn end(&self) -> Result<(), String> {
        (**self).end()
    }
}
