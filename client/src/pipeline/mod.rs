//! The whole client without sockets, clock and threads: calls in, bytes out; bytes in, completions out.
//!
//! ```text
//! submit ──► route ──► waits on a connection ──► sent ──► completion
//!              ▲            │ lost before it was sent       │ read: error, loss, attempt's time
//!              └────────────┴── paused ◄────────────────────┘ write: only if it was not applied
//! ```
//!
//! A front owns the sockets and the clock. It calls, in any order, what happened: [`Pipeline::submit`],
//! [`Pipeline::handle_connected`], [`Pipeline::handle_bytes`], [`Pipeline::handle_lost`], [`Pipeline::handle_timeout`]
//! (no later than [`Pipeline::wake_at`]); and after each, until they are empty, what to do: [`Pipeline::poll_action`]
//! and [`Pipeline::poll_completion`].
//!
//! Invariants:
//! - A write is put into a connection's output at most once whose outcome is not certainly "not applied".
//! - Each accepted call completes exactly once, no later than the first `handle_timeout` after its deadline.
//! - A connection never has more than `in_flight_per_connection` requests out; the rest wait, at most `calls_max`.
//! - A reply is matched by request id *and* attempt: a late one never answers a later call.

mod arrive;
mod batch;
mod call;
mod completion;
mod gather;
mod lookup;
mod order;
mod route;

use crate::backoff::{Random, backoff};
use crate::options::{CONNECTIONS_PER_CORE_MAX, IN_FLIGHT_MAX};
use crate::outcome::ReadError;
use crate::router::{EndpointId, Router};
use crate::session::Session;
use crate::siblings::Replaces;
use crate::{Options, ReadOptions, WriteOptions};
use batch::Batch;
use call::{Call, Calls, Place, request_id};
pub use completion::Completion;
use ferrite_wire::{Entry, FrameFlags, FrameHeader, HintsAction, Key, Order, Topology};
use gather::Gather;
use lookup::Lookup;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Shortest time between two fetches of the topology.
pub(crate) const REFRESH_INTERVAL: Duration = Duration::from_millis(500);
/// Longest time between two fetches while the topology does not say which core owns what at some replica.
pub(crate) const REFRESH_INTERVAL_MAX: Duration = Duration::from_secs(30);

/// What to do.
#[derive(Clone, Copy, Debug)]
pub enum Operation<'a> {
    /// Reads one key. Completes with [`Completion::Read`].
    Get(Key<'a>, ReadOptions),
    /// Reads several keys. Completes with [`Completion::Reads`], in their order.
    MultiGet(&'a [Key<'a>], ReadOptions),
    /// Writes one key. Completes with [`Completion::Write`].
    Put(Key<'a>, &'a [u8], WriteOptions),
    /// Deletes one key. Completes with [`Completion::Write`].
    Delete(Key<'a>, WriteOptions),
    /// Writes one key of a table with siblings in place of others. Completes with [`Completion::Write`].
    PutReplacing(Key<'a>, &'a [u8], Replaces<'a>, WriteOptions),
    /// Writes and deletes several keys. Completes with [`Completion::Writes`], in their order. The options are those of each; a put without a
    /// time to live of its own has theirs.
    MultiPut(&'a [Entry<'a>], WriteOptions),
    /// Deletes siblings of one key. Completes with [`Completion::Write`].
    DeleteReplacing(Key<'a>, Replaces<'a>, WriteOptions),
    /// Asks for an answer and nothing else, of this address or of any member. Completes with [`Completion::Pong`].
    Ping(Option<&'a str>, ReadOptions),
    /// Asks this address or any member for its state. Completes with [`Completion::Status`].
    Status(Option<&'a str>, ReadOptions),
    /// Asks this address or any member what it keeps for other nodes, after an action. Completes with [`Completion::Status`].
    Hints(Option<&'a str>, HintsAction, ReadOptions),
    /// Fetches the topology, of this address or of any member. Completes with [`Completion::Topology`].
    Topology(Option<&'a str>, ReadOptions),
    /// Finds the table of a name: in the topology at hand, else in a new one, unless that was fetched just now; within the client's timeout.
    /// Completes with [`Completion::Table`].
    Table(&'a str),
}

/// Most bytes of requests in one output, unless it is a single one. What is in it is sent even if its caller has given it up meanwhile.
const OUTPUT_BYTES_MAX: usize = 64 * 1024;

/// A connection, as the front knows it; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId {
    slot: u32,
    serial: u32,
}

/// What the front has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Open a connection to `address`, then say `handle_connected` or `handle_lost`.
    Connect {
        /// The connection's name from now on.
        connection: ConnectionId,
        /// `host:port`.
        address: String,
    },
    /// Take the connection's output ([`Pipeline::take_output`]) and send it.
    Send(ConnectionId),
    /// Close the connection; nothing more is said about it.
    Close(ConnectionId),
    /// The same, and what the system has not sent is not to be sent any more: the server may have been sent a write that was given up, and that must not
    /// be carried out long after, over what its caller has written since.
    Reset(ConnectionId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The socket is not there yet, or the handshake is under way.
    Opening,
    Ready,
    /// Takes no more calls; closed when its last is answered.
    Draining,
}

struct Connection {
    id: ConnectionId,
    endpoint: EndpointId,
    /// Out while what arrived is read.
    session: Option<Session>,
    stage: Stage,
    is_connected: bool,
    /// Whether a `Send` action is queued.
    is_sending: bool,
    in_flight: usize,
    /// Calls that were sent on it, those in `leaving` included. Each has its number.
    sent: u64,
    /// The highest number of one that was answered. What was sent before it has arrived.
    answered: u64,
    /// A write that was sent on it was given up, and perhaps never arrived.
    owes_write: bool,
    /// Calls (slot, attempt) that wait for the handshake or for room.
    waiting: VecDeque<(u32, u32)>,
    /// Calls (slot, attempt) that leave with the next output, unless they have ended by then.
    leaving: VecDeque<(u32, u32)>,
    /// The handshake is late after this.
    ready_by: Instant,
    heard_at: Instant,
    /// When it came to owe something after it had owed nothing.
    busy_since: Instant,
}

#[derive(Debug, Default)]
struct Refresh {
    is_running: bool,
    is_wanted: bool,
    not_before: Option<Instant>,
    /// Fetched again then, because the last one was incomplete.
    due_at: Option<Instant>,
    /// Topologies in a row that left a replica's cores open.
    incomplete: u32,
    /// Why the last fetch brought nothing; `None` = it did.
    failed: Option<ReadError>,
    /// Who waits for the fetch that is under way; at most the client's `calls_max`, calls included.
    lookups: Vec<Lookup>,
}

/// The client's protocol state; see the module.
pub struct Pipeline {
    options: Options,
    router: Router,
    calls: Calls,
    connections: Vec<Option<Connection>>,
    connection_serial: u32,
    gathers: BTreeMap<u32, Gather>,
    batches: BTreeMap<u32, Batch>,
    gather_serial: u32,
    refresh: Refresh,
    actions: VecDeque<Action>,
    completions: VecDeque<(u64, Completion)>,
    highest_time: Order,
    random: Random,
    wake_at: Option<Instant>,
    stray_replies: u64,
}

impl Pipeline {
    /// A client that has not connected yet. There must be at least one seed.
    pub fn new(mut options: Options) -> Pipeline {
        assert!(!options.seeds.is_empty(), "a client needs at least one seed");
        options.connections_per_core = options.connections_per_core.clamp(1, CONNECTIONS_PER_CORE_MAX);
        options.in_flight_per_connection = options.in_flight_per_connection.clamp(1, IN_FLIGHT_MAX);
        Pipeline {
            router: Router::new(&options.seeds),
            random: Random::new(options.jitter_seed),
            options,
            calls: Calls::default(),
            connections: Vec::new(),
            connection_serial: 0,
            gathers: BTreeMap::new(),
            batches: BTreeMap::new(),
            gather_serial: 0,
            refresh: Refresh::default(),
            actions: VecDeque::new(),
            completions: VecDeque::new(),
            highest_time: Order(0),
            wake_at: None,
            stray_replies: 0,
        }
    }

    /// The topology at hand.
    pub fn topology(&self) -> Option<&Arc<Topology>> {
        self.router.topology()
    }

    /// The highest hybrid logical time seen in any reply; every request carries it.
    pub fn highest_time(&self) -> Order {
        self.highest_time
    }

    /// Calls accepted and not completed, the client's own included.
    pub fn calls_open(&self) -> usize {
        self.calls.len() + self.refresh.lookups.len()
    }

    /// Replies that matched no call: late ones, mostly.
    pub fn stray_replies(&self) -> u64 {
        self.stray_replies
    }

    /// Accepts a call. Its completion carries `tag`, and may be there at once.
    pub fn submit(&mut self, now: Instant, tag: u64, operation: Operation<'_>) {
        self.accept(now, tag, operation);
    }

    /// What to do next; `None` = wait for something to happen.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// A call that came to an end: its tag and what it came to.
    pub fn poll_completion(&mut self) -> Option<(u64, Completion)> {
        self.completions.pop_front()
    }

    /// When [`Pipeline::handle_timeout`] is due; `None` = not before something else happens.
    pub fn wake_at(&self) -> Option<Instant> {
        self.wake_at
    }

    /// Exchanges the bytes that a connection has to send, or the first of them, for an empty buffer. Answers [`Action::Send`]; another one follows if there are more. What
    /// is told of the time left is told as of now; a call that has ended while its connection was not ready to send is not sent.
    pub fn take_output(&mut self, now: Instant, connection: ConnectionId, empty: &mut Vec<u8>) {
        empty.clear();
        let Some(open) = self.connections.get_mut(connection.slot as usize).and_then(Option::as_mut) else {
            return;
        };
        if open.id != connection {
            return;
        }
        open.is_sending = false;
        let session = open.session.as_mut().expect("not being read");
        while let Some(&(slot, attempt)) = open.leaving.front() {
            let call = self.calls.get(slot).filter(|call| call.attempt == attempt);
            let by = match call.map(|call| call.place) {
                Some(Place::Sent { by, .. }) if by > now => by,
                Some(_) | None => {
                    open.leaving.pop_front();
                    continue;
                }
            };
            let call = call.expect("it has a place");
            if session.has_output() && session.output_bytes() + call.body.len() > OUTPUT_BYTES_MAX {
                break;
            }
            open.leaving.pop_front();
            let left = by - now;
            let header = FrameHeader {
                kind: call.kind,
                flags: FrameFlags(0),
                deadline_us: u32::try_from(left.as_micros()).unwrap_or(u32::MAX).max(1),
                request: request_id(slot, attempt),
                time: self.highest_time,
            };
            session.request(&header, &call.body);
        }
        session.take_output(empty);
        self.want_send(connection.slot as usize);
    }

    /// Whether the pipeline still wants this connection.
    pub fn is_open(&self, connection: ConnectionId) -> bool {
        let slot = self.connections.get(connection.slot as usize);
        slot.is_some_and(|open| open.as_ref().is_some_and(|open| open.id == connection))
    }

    /// The socket is open.
    pub fn handle_connected(&mut self, _now: Instant, connection: ConnectionId) {
        let Some(open) = self.connection_mut(connection) else { return };
        open.is_connected = true;
        self.want_send(connection.slot as usize);
    }

    /// The socket could not be opened, or is closed by the other side, or failed.
    pub fn handle_lost(&mut self, now: Instant, connection: ConnectionId, detail: &str) {
        if self.connection_mut(connection).is_some() {
            self.lose(now, connection.slot as usize, detail);
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.wake_at.is_none_or(|at| at > now) {
            return;
        }
        self.wake_at = None;
        for slot in 0..self.connections.len() {
            let Some(connection) = &self.connections[slot] else { continue };
            if connection.stage == Stage::Opening {
                if connection.ready_by <= now {
                    self.actions.push_back(Action::Close(connection.id));
                    self.lose(now, slot, "no handshake in time");
                } else {
                    let ready_by = connection.ready_by;
                    self.wake_by(ready_by);
                }
            }
        }
        for slot in 0..self.calls.slots() {
            self.check_call(now, slot);
        }
        match self.refresh.due_at {
            Some(at) if at > now => self.wake_by(at),
            Some(_) => self.refresh.is_wanted = true,
            None => {}
        }
        if self.refresh.is_wanted {
            self.want_refresh(now);
        }
    }

    fn check_call(&mut self, now: Instant, slot: u32) {
        let Some(call) = self.calls.get(slot) else { return };
        let due = match call.place {
            Place::Waiting(_) => call.deadline,
            Place::Sent { by, .. } => by,
            Place::Paused(until) => until.min(call.deadline),
        };
        if due > now {
            self.wake_by(due);
            return;
        }
        if let Place::Sent { connection, at, number, .. } = call.place {
            self.stop_waiting_for(now, slot, connection, at, number);
        } else if call.deadline <= now {
            self.finish_late(now, slot);
        } else {
            self.route(now, slot);
        }
    }

    fn wake_by(&mut self, at: Instant) {
        self.wake_at = Some(self.wake_at.map_or(at, |known| known.min(at)));
    }

    fn connection_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.connections.get_mut(id.slot as usize)?.as_mut().filter(|connection| connection.id == id)
    }

    /// Whether a write that was sent on a connection has no answer, be it waited for or given up: whoever closes the connection resets it.
    pub fn owes_write(&self, connection: ConnectionId) -> bool {
        let slot = self.connections.get(connection.slot as usize).and_then(Option::as_ref);
        let is_sent =
            |call: &Call| matches!(call.place, Place::Sent { connection: on, .. } if on == connection);
        let mut calls = (0..self.calls.slots()).filter_map(|slot| self.calls.get(slot));
        slot.is_some_and(|open| open.id == connection && open.owes_write)
            || calls.any(|call| call.is_write() && is_sent(call))
    }

    /// Has the front close a connection, with all that is owed on it given up.
    fn close(&mut self, connection: ConnectionId) {
        self.actions.push_back(match self.owes_write(connection) {
            true => Action::Reset(connection),
            false => Action::Close(connection),
        });
    }

    fn want_send(&mut self, slot: usize) {
        let connection = self.connections[slot].as_mut().expect("an open connection");
        let has_output = connection
            .session
            .as_ref()
            .is_some_and(|session| session.has_output() || !connection.leaving.is_empty());
        if connection.is_connected && !connection.is_sending && has_output {
            connection.is_sending = true;
            self.actions.push_back(Action::Send(connection.id));
        }
    }

    fn open(&mut self, now: Instant, endpoint: EndpointId) -> usize {
        let slot = self.connections.iter().position(Option::is_none).unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        self.connection_serial = self.connection_serial.wrapping_add(1);
        let id = ConnectionId { slot: slot as u32, serial: self.connection_serial };
        let cluster = self.router.topology().map(|topology| topology.cluster).or(self.options.cluster);
        let ready_by = now + self.options.connect_timeout;
        self.connections[slot] = Some(Connection {
            id,
            endpoint,
            session: Some(Session::new(cluster)),
            stage: Stage::Opening,
            is_connected: false,
            is_sending: false,
            in_flight: 0,
            sent: 0,
            answered: 0,
            owes_write: false,
            waiting: VecDeque::new(),
            leaving: VecDeque::new(),
            ready_by,
            heard_at: now,
            busy_since: now,
        });
        let endpoint = self.router.endpoint_mut(endpoint);
        endpoint.connections.push(slot);
        let address = endpoint.address.clone();
        self.actions.push_back(Action::Connect { connection: id, address });
        self.wake_by(ready_by);
        slot
    }

    /// Forgets a connection: what was not sent goes elsewhere, so do reads; writes that were sent are unknown.
    fn lose(&mut self, now: Instant, slot: usize, detail: &str) {
        let connection = self.connections[slot].take().expect("an open connection");
        self.note_failure(now, connection.endpoint, slot, detail);
        for call_slot in 0..self.calls.slots() {
            let Some(call) = self.calls.get(call_slot) else { continue };
            match call.place {
                Place::Waiting(id) if id == connection.id => self.route(now, call_slot),
                Place::Sent { connection: id, .. } if id == connection.id => {
                    if call.is_write() {
                        self.finish_lost(now, call_slot, detail);
                    } else {
                        self.route(now, call_slot);
                    }
                }
                Place::Waiting(_) | Place::Sent { .. } | Place::Paused(_) => {}
            }
        }
        self.want_refresh(now);
    }

    fn note_failure(&mut self, now: Instant, endpoint: EndpointId, slot: usize, detail: &str) {
        let (min, max) = (self.options.backoff_min, self.options.backoff_max);
        let endpoint = self.router.endpoint_mut(endpoint);
        endpoint.connections.retain(|known| *known != slot);
        endpoint.failures = endpoint.failures.saturating_add(1);
        endpoint.retry_at = Some(now + backoff(endpoint.failures, min, max, &mut self.random));
        endpoint.last_error.clear();
        endpoint.last_error.push_str(detail);
    }

    /// Fetches the topology, unless that is under way or was done just now.
    fn want_refresh(&mut self, now: Instant) {
        if self.router.topology().is_none() {
            return;
        }
        if self.refresh.is_running {
            // What is under way may answer from before.
            self.refresh.is_wanted = true;
            return;
        }
        match self.refresh.not_before {
            Some(at) if at > now => {
                self.refresh.is_wanted = true;
                self.wake_by(at);
            }
            Some(_) | None => self.refresh_now(now),
        }
    }

    fn refresh_now(&mut self, now: Instant) {
        (self.refresh.is_wanted, self.refresh.due_at) = (false, None);
        self.refresh.is_running = true;
        self.fetch_topology(now);
    }
}
