//! What the driver of a core and the environment of its shard both reach: one value per core, on one thread.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::rc::Rc;
use std::sync::OnceLock;
use std::task::Poll;
use std::time::{Duration, Instant};

use ferrite_wire::CoreId;
use socket2::SockRef;

use super::buffers::Output;
use super::large::Rooms;
use super::mailbox::{Mailbox, Post};
use super::options::ReactorOptions;
use super::sleeps::Sleeps;
use super::table::{Link, Table, token};
use super::tasks::Tasks;
use crate::disk::RingDisk;
use crate::env::{Caller, Connection, Sent};
use crate::ring::Ring;

/// Most names being resolved at once; each takes a thread while it lasts.
const RESOLVES_MAX: u32 = 8;
/// Longest frame that may use an out-buffer's reserve: errors and acknowledgements, whose number the requests in flight bound.
const SHORT_BYTES: usize = 256;
/// Most addresses of a name that are tried.
const ADDRESSES_MAX: usize = 8;

/// What a core has done since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReactorCounters {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections turned away because the core has its most, or its most of clients.
    pub refused: u64,
    /// Connections that gave their places to others because they had not said who they are.
    pub strangers: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Bytes handed to sockets.
    pub sent_bytes: u64,
    /// Sends; one per connection and batch.
    pub sends: u64,
    /// Times a connection was no longer read from because its answers piled up.
    pub pauses: u64,
    /// Most bytes that all accepted connections left unread together.
    pub unread_bytes_max: u64,
    /// Answers that found no room because all connections together left too much unread.
    pub crowded: u64,
    /// Times a connection was not read from because long frames of others had the room.
    pub large_waits: u64,
    /// Connections closed because they did not read, while others were short of room.
    pub slow_readers: u64,
    /// Turns of the driver's loop.
    pub turns: u64,
    /// Times the core blocked.
    pub parks: u64,
    /// Times a core that had been busy for long let others on its processor run, because it waits for files.
    pub yields: u64,
    /// Times spinning found something.
    pub spin_hits: u64,
}

pub(super) struct Shared {
    pub(super) core: CoreId,
    pub(super) ring: Ring,
    pub(super) disk: RingDisk,
    pub(super) options: ReactorOptions,
    pub(super) mailbox: Mailbox,
    pub(super) posts: Vec<Post>,
    pub(super) table: RefCell<Table>,
    pub(super) dirty: RefCell<Vec<Connection>>,
    /// Bytes that accepted connections leave unread.
    pub(super) unread: Rc<Cell<usize>>,
    /// Bytes of room that long frames of clients have.
    pub(super) large: Rc<Rooms>,
    /// Connections that failed before the ring had a part in them; told to the handler in the next turn.
    pub(super) failed: RefCell<Vec<Connection>>,
    pub(super) sleeps: RefCell<Sleeps>,
    pub(super) tasks: Tasks,
    pub(super) now_ns: Cell<u64>,
    /// The wall clock in milliseconds, and the `now_ns` of the batch in which it was read.
    pub(super) wall: Cell<(u64, u64)>,
    pub(super) slice_start: Cell<Instant>,
    pub(super) counters: RefCell<ReactorCounters>,
    resolving: Cell<u32>,
    background_free_ns: Cell<u64>,
    random: Cell<u64>,
}

/// Monotonic time since the process first asked, the same for all its threads.
pub(super) fn clock_ns() -> u64 {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    ORIGIN.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

impl Shared {
    pub(super) fn new(
        core: CoreId,
        ring: Ring,
        disk: RingDisk,
        options: ReactorOptions,
        mailbox: Mailbox,
        posts: Vec<Post>,
        seed: u64,
    ) -> Rc<Shared> {
        Rc::new(Shared {
            core,
            ring,
            disk,
            options,
            mailbox,
            posts,
            table: RefCell::default(),
            dirty: RefCell::default(),
            unread: Rc::default(),
            large: Rc::default(),
            failed: RefCell::default(),
            sleeps: RefCell::default(),
            tasks: Tasks::new(),
            now_ns: Cell::new(clock_ns()),
            wall: Cell::new((u64::MAX, 0)),
            slice_start: Cell::new(Instant::now()),
            counters: RefCell::default(),
            resolving: Cell::new(0),
            background_free_ns: Cell::new(0),
            random: Cell::new(seed),
        })
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut ReactorCounters)) {
        change(&mut self.counters.borrow_mut());
    }

    /// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
    pub(super) fn random(&self) -> u64 {
        let state = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn send_fitting(
        &self,
        connection: Connection,
        encode: impl FnOnce(&mut Vec<u8>, usize) -> bool,
    ) -> Sent {
        let options = &self.options;
        let (mut buffer, room) = match self.table.borrow_mut().get(connection) {
            None => return Sent::Gone,
            Some(link) if link.closing => return Sent::Gone,
            Some(link) if link.output.queued_bytes() >= options.out_bytes_max + options.out_reserve_bytes => {
                return Sent::Full;
            }
            Some(link) => {
                let room = self.room_of(&link.output);
                (link.output.take(), room)
            }
        };
        // Outside the borrow, so that an encoder may look at the world.
        let had = buffer.len();
        // One answer is as long as it is; several of one turn are held to a burst.
        let in_burst = if had == 0 { usize::MAX } else { options.burst_bytes.saturating_sub(had) };
        let fits = encode(&mut buffer, room.min(in_burst).max(SHORT_BYTES));
        let more = buffer.len() - had;
        let mut table = self.table.borrow_mut();
        let Some(link) = table.get(connection) else { return Sent::Gone };
        if !fits || (more > SHORT_BYTES && more > room) {
            buffer.truncate(had);
            link.output.restore(buffer, had);
            if link.output.bytes() == 0 {
                self.count(|counters| counters.crowded += 1);
                return Sent::Crowded;
            }
            link.had_no_room = true;
            return Sent::Full;
        }
        link.output.restore(buffer, had);
        self.mark_dirty(connection, link);
        self.count(|counters| {
            counters.unread_bytes_max = counters.unread_bytes_max.max(self.unread.get() as u64);
        });
        Sent::Queued
    }

    /// Bytes that a connection may queue beside what it has, by its own bound and that of all together.
    fn room_of(&self, output: &Output) -> usize {
        output.room(self.options.out_bytes_max, self.options.out_all_bytes_max)
    }

    /// An accepted connection has said who it is. False = there is no place for another client.
    pub(super) fn greeted(&self, connection: Connection, caller: Caller) -> bool {
        let clients_max = self.options.connections_max.saturating_sub(self.options.peer_connections);
        let mut table = self.table.borrow_mut();
        let has_place = table.greeted(connection, caller, clients_max);
        if caller == Caller::Client
            && let Some(stream) = table.get(connection).and_then(|link| link.stream.as_ref())
        {
            // Fails on a socket that is already reset, which the next receive will tell.
            let _ = SockRef::from(&**stream).set_tcp_notsent_lowat(self.options.unsent_bytes);
        }
        drop(table);
        self.count(|counters| counters.refused += u64::from(!has_place));
        has_place
    }

    /// Whether clients leave so much unread that those that do not read are in the way of others.
    pub(super) fn is_crowded(&self) -> bool {
        self.unread.get() >= self.options.out_all_bytes_max / 2
    }

    pub(super) fn mark_dirty(&self, connection: Connection, link: &mut Link) {
        if !link.dirty {
            link.dirty = true;
            self.dirty.borrow_mut().push(connection);
        }
    }

    pub(super) fn connect(&self, address: &str) -> Connection {
        let connection = self.table.borrow_mut().insert(Link::new(None, self.options.receive_bytes));
        match address.parse::<SocketAddr>() {
            Ok(address) => self.connect_to(connection, vec![address]),
            Err(_) => self.resolve(connection, address.to_owned()),
        }
        connection
    }

    /// Connects to the last of `addresses`; the others are tried if that fails.
    pub(super) fn connect_to(&self, connection: Connection, addresses: Vec<SocketAddr>) {
        if let Some(link) = self.table.borrow_mut().get(connection) {
            link.candidates = addresses;
        }
        if !self.connect_next(connection) {
            self.failed.borrow_mut().push(connection);
        }
    }

    /// Starts connecting to the next address there is; false if there is none, or the connection was given up.
    pub(super) fn connect_next(&self, connection: Connection) -> bool {
        let mut table = self.table.borrow_mut();
        let Some(link) = table.get(connection) else { return false };
        while let Some(address) = link.candidates.pop() {
            if self.ring.connect(address, token(connection)).is_ok() {
                return true;
            }
        }
        false
    }

    pub(super) fn resolved(&self) {
        self.resolving.set(self.resolving.get() - 1);
    }

    /// Asks the system's resolver, which blocks, on a thread of its own.
    fn resolve(&self, connection: Connection, address: String) {
        if self.resolving.get() >= RESOLVES_MAX {
            self.failed.borrow_mut().push(connection);
            return;
        }
        let post = self.mailbox.post();
        let resolver = std::thread::Builder::new().name("resolve".into());
        let started = resolver.spawn(move || {
            let mut found: Vec<_> = address.to_socket_addrs().map(Iterator::collect).unwrap_or_default();
            found.truncate(ADDRESSES_MAX);
            found.reverse();
            post.resolved(connection, found);
        });
        match started {
            Ok(_) => self.resolving.set(self.resolving.get() + 1),
            Err(_) => self.failed.borrow_mut().push(connection),
        }
    }

    pub(super) fn close(&self, connection: Connection) {
        let mut table = self.table.borrow_mut();
        let Some(link) = table.get(connection) else { return };
        link.closing = true;
        if link.stream.is_none() {
            // Nothing was promised to a peer that is not there yet.
            table.remove(connection);
            return;
        }
        self.mark_dirty(connection, link);
    }

    /// Adopts a socket that stands.
    pub(super) fn adopt(&self, stream: TcpStream) -> Rc<TcpStream> {
        // Fails on a socket that is already reset, which the first receive will tell.
        let _ = stream.set_nodelay(true);
        Rc::new(stream)
    }

    /// The same, of one that this side connected. When it is closed, however that comes about, what the kernel has not sent is not sent any more, and the other side is told
    /// so: a write that was handed on and given up would lie there until the way is free again, and be carried out over what its client has written since.
    pub(super) fn adopt_outgoing(&self, stream: TcpStream) -> Rc<TcpStream> {
        // Fails as the above does.
        let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        self.adopt(stream)
    }

    pub(super) fn sleep(self: &Rc<Self>, nanoseconds: u64) -> impl Future<Output = ()> + 'static {
        let until_ns = clock_ns().saturating_add(nanoseconds);
        self.clone().sleep_until(until_ns)
    }

    pub(super) fn sleep_until(self: Rc<Self>, until_ns: u64) -> impl Future<Output = ()> + 'static {
        let mut asleep = false;
        poll_fn(move |context| {
            if clock_ns() >= until_ns {
                return Poll::Ready(());
            }
            if !asleep {
                asleep = true;
                self.sleeps.borrow_mut().add(until_ns, context.waker().clone());
            }
            Poll::Pending
        })
    }

    /// Books `bytes` of background transfer; when it may start, if not now.
    pub(super) fn background_delay(&self, bytes: usize) -> Option<u64> {
        let rate = self.options.background_bytes_per_second;
        if rate == 0 {
            return None;
        }
        let now = clock_ns();
        let start = self.background_free_ns.get().max(now);
        let takes = (bytes as u128 * Duration::from_secs(1).as_nanos() / u128::from(rate)) as u64;
        self.background_free_ns.set(start.saturating_add(takes));
        (start > now).then_some(start)
    }
}
