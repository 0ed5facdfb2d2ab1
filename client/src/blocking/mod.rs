//! The blocking front: `std::net` sockets, one reading thread per connection, the caller's thread for the rest.
//!
//! A connection's thread opens the socket and hands on what it reads; the calling thread drives the [`Pipeline`] and
//! writes. Between calls nothing is driven: what arrives meanwhile waits, at most [`READS_QUEUED_MAX`] reads of
//! [`READ_BYTES`], and then in the kernel. One client serves one thread; make another for another.

mod batch;
mod siblings;
mod socket;

use crate::options::Builder;
use crate::outcome::{ReadError, ReadResult, WriteOutcome};
use crate::pipeline::{Action, Completion, ConnectionId, Operation, Pipeline};
use crate::siblings::Siblings;
use crate::{ReadOptions, WriteOptions};
pub use batch::BatchSummary;
use ferrite_wire::{Entry, ErrorCode, HintsAction, Key, Table, Topology};
use socket::{Event, What};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// Most reads that wait for the calling thread, all connections together.
pub(crate) const READS_QUEUED_MAX: usize = 64;
/// Most bytes of one read.
pub(crate) const READ_BYTES: usize = 64 * 1024;
/// Longest sleep without looking at the clock again.
const NAP_MAX: Duration = Duration::from_millis(500);

/// Opens a connection to an address, `host:port`, within a time: what a client does by itself unless it is told how. It is called on
/// the connection's own thread, which serves nothing else.
pub type Dial = Arc<dyn Fn(&str, Duration) -> io::Result<TcpStream> + Send + Sync>;

/// A client for one thread. Dropping it closes its connections.
pub struct BlockingClient {
    pipeline: Pipeline,
    streams: BTreeMap<ConnectionId, TcpStream>,
    events: Receiver<Event>,
    events_in: SyncSender<Event>,
    connect_timeout: Duration,
    write_timeout: Duration,
    dial: Option<Dial>,
    calls_max: usize,
    spare: Vec<u8>,
    calls: u64,
}

impl Builder {
    /// Connects to the cluster: returns once a seed has answered with the topology.
    pub fn connect_blocking(self) -> Result<BlockingClient, ReadError> {
        let mut client = self.start_blocking();
        match client.topology() {
            // A server without a topology is spoken to where it is.
            Err(ReadError::Refused(fault)) if fault.code == ErrorCode::Unsupported => Ok(client),
            Err(error) => Err(error),
            Ok(_) => Ok(client),
        }
    }

    /// A client that connects when it is first used, and until then knows only the seeds.
    pub fn start_blocking(self) -> BlockingClient {
        let (events_in, events) = sync_channel(READS_QUEUED_MAX);
        BlockingClient {
            connect_timeout: self.options.connect_timeout,
            write_timeout: self.options.timeout,
            dial: None,
            calls_max: self.options.calls_max,
            pipeline: Pipeline::new(self.options),
            streams: BTreeMap::new(),
            events,
            events_in,
            spare: Vec::new(),
            calls: 0,
        }
    }

    /// The same as [`Builder::start_blocking`], for a network that has to be reached in a way of its own.
    pub fn start_blocking_through(self, dial: Dial) -> BlockingClient {
        let mut client = self.start_blocking();
        client.dial = Some(dial);
        client
    }
}

impl BlockingClient {
    /// Collects options, then connects with [`Builder::connect_blocking`].
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Reads one key. One with several siblings is answered [`ReadError::Siblings`]: see [`BlockingClient::get_siblings`].
    pub fn get(&mut self, key: Key<'_>, options: ReadOptions) -> ReadResult {
        self.call(Operation::Get(key, options)).read().and_then(Siblings::single)
    }

    /// Reads several keys; the answers are in their order. Each is for itself: there is no snapshot across keys.
    pub fn multi_get(&mut self, keys: &[Key<'_>], options: ReadOptions) -> Vec<ReadResult> {
        let found = self.call(Operation::MultiGet(keys, options)).reads();
        found.into_iter().map(|found| found.and_then(Siblings::single)).collect()
    }

    /// Writes one key. In a table with siblings the value stands beside all others: see [`BlockingClient::update`] and
    /// [`BlockingClient::put_replacing`].
    pub fn put(&mut self, key: Key<'_>, value: &[u8], options: WriteOptions) -> WriteOutcome {
        self.call(Operation::Put(key, value, options)).write()
    }

    /// Writes and deletes several keys, each for itself: the outcomes are in their order, and some may be done where others are not. They
    /// are not ordered among each other, not even those of one key. A put without a time to live of its own (0) has that of the options.
    pub fn put_batch(&mut self, entries: &[Entry<'_>], options: WriteOptions) -> Vec<WriteOutcome> {
        self.call(Operation::MultiPut(entries, options)).writes()
    }

    /// Deletes one key. Deleting what is not there is done like any other delete. A table with siblings refuses it, for it does not say
    /// what to delete: see [`BlockingClient::delete_replacing`].
    pub fn delete(&mut self, key: Key<'_>, options: WriteOptions) -> WriteOutcome {
        self.call(Operation::Delete(key, options)).write()
    }

    /// Asks any member for an answer and nothing else.
    pub fn ping(&mut self, options: ReadOptions) -> Result<(), ReadError> {
        self.ping_call(None, options)
    }

    /// Asks the server at `address` (`host:port`) for an answer and nothing else.
    pub fn ping_at(&mut self, address: &str, options: ReadOptions) -> Result<(), ReadError> {
        self.ping_call(Some(address), options)
    }

    fn ping_call(&mut self, at: Option<&str>, options: ReadOptions) -> Result<(), ReadError> {
        self.call(Operation::Ping(at, options)).pong()
    }

    /// The state of any member, as `name value` lines.
    pub fn status(&mut self, options: ReadOptions) -> Result<String, ReadError> {
        self.status_call(None, options)
    }

    /// The state of the server at `address` (`host:port`), as `name value` lines.
    pub fn status_at(&mut self, address: &str, options: ReadOptions) -> Result<String, ReadError> {
        self.status_call(Some(address), options)
    }

    /// Asks the core behind `address` what it keeps for other nodes, as `name value` lines, after an action.
    pub fn hints_at(
        &mut self,
        address: &str,
        action: HintsAction,
        options: ReadOptions,
    ) -> Result<String, ReadError> {
        self.call(Operation::Hints(Some(address), action, options)).status()
    }

    fn status_call(&mut self, at: Option<&str>, options: ReadOptions) -> Result<String, ReadError> {
        self.call(Operation::Status(at, options)).status()
    }

    /// Fetches the topology from any member, and uses it.
    pub fn topology(&mut self) -> Result<Arc<Topology>, ReadError> {
        self.call(Operation::Topology(None, ReadOptions::default())).topology()
    }

    /// The table of a name, as the cluster declares it: its [`Table::key`] and [`Table::item`] make keys. A name that the topology at
    /// hand does not have is looked for once more in a new one, which is fetched at most every half second, whoever asks; one that is not
    /// there either is refused with [`ErrorCode::NoTable`].
    pub fn table(&mut self, name: &str) -> Result<Table, ReadError> {
        self.call(Operation::Table(name)).table()
    }

    /// The topology in use, without asking anyone; `None` = not learned yet.
    pub fn known_topology(&self) -> Option<&Arc<Topology>> {
        self.pipeline.topology()
    }

    fn call(&mut self, operation: Operation<'_>) -> Completion {
        // What arrived since the last call comes first: a connection may be gone.
        self.take_events();
        self.calls += 1;
        let tag = self.calls;
        self.pipeline.submit(Instant::now(), tag, operation);
        loop {
            while let Some((done, completion)) = self.pipeline.poll_completion() {
                if done == tag {
                    self.act();
                    return completion;
                }
            }
            self.turn();
        }
    }

    /// Does what is to do, then waits for something to happen.
    fn turn(&mut self) {
        self.act();
        let now = Instant::now();
        let nap =
            self.pipeline.wake_at().map_or(NAP_MAX, |at| at.saturating_duration_since(now).min(NAP_MAX));
        match self.events.recv_timeout(nap) {
            Ok(event) => self.take_event(event),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => unreachable!("the client holds a sender"),
        }
        self.take_events();
        self.pipeline.handle_timeout(Instant::now());
    }

    fn take_events(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            self.take_event(event);
        }
    }

    fn take_event(&mut self, event: Event) {
        let (now, connection) = (Instant::now(), event.connection);
        match event.what {
            What::Connected(stream) if !self.pipeline.is_open(connection) => {
                // It came too late; the reading thread ends with the socket.
                let _ = stream.shutdown(Shutdown::Both);
            }
            What::Connected(stream) => {
                self.streams.insert(connection, stream);
                self.pipeline.handle_connected(now, connection);
            }
            What::Bytes(bytes) => self.pipeline.handle_bytes(now, connection, &bytes),
            What::Lost(detail) => {
                self.reset(connection);
                self.pipeline.handle_lost(now, connection, &detail);
            }
        }
    }

    fn act(&mut self) {
        while let Some(action) = self.pipeline.poll_action() {
            match action {
                Action::Connect { connection, address } => {
                    socket::open(
                        connection,
                        address,
                        self.connect_timeout,
                        self.write_timeout,
                        self.dial.clone(),
                        &self.events_in,
                    );
                }
                Action::Send(connection) => self.send(connection),
                Action::Close(connection) => self.close(connection),
                Action::Reset(connection) => self.reset(connection),
            }
        }
    }

    fn send(&mut self, connection: ConnectionId) {
        let mut bytes = std::mem::take(&mut self.spare);
        self.pipeline.take_output(Instant::now(), connection, &mut bytes);
        if let Some(stream) = self.streams.get_mut(&connection)
            && let Err(error) = stream.write_all(&bytes)
        {
            self.reset(connection);
            self.pipeline.handle_lost(Instant::now(), connection, &error.to_string());
        }
        self.spare = bytes;
    }

    /// Closes a connection, and what the system has not sent on it is not sent any more.
    fn reset(&mut self, connection: ConnectionId) {
        if let Some(stream) = self.streams.remove(&connection) {
            socket::forget_unsent(&stream);
            // Wakes the reading thread, with which the socket closes; shut down for writing it would end in good order, behind what is unsent.
            let _ = stream.shutdown(Shutdown::Read);
        }
    }

    fn close(&mut self, connection: ConnectionId) {
        if let Some(stream) = self.streams.remove(&connection) {
            // Wakes the reading thread; an error says that the socket is closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for BlockingClient {
    fn drop(&mut self) {
        let open: Vec<ConnectionId> = self.streams.keys().copied().collect();
        for connection in open {
            match self.pipeline.owes_write(connection) {
                true => self.reset(connection),
                false => self.close(connection),
            }
        }
    }
}
