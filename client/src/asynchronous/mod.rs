//! The tokio front: a handle to share, one driving task, one task per connection.
//!
//! A call encodes its request into the shared [`Pipeline`] and waits for its completion; the driving task owns what the
//! pipeline asks for: sockets and the timer. Dropping a call's future gives up waiting, not the call: a write that was
//! accepted goes on. Dropping the last handle closes the connections.

mod driver;
mod siblings;
mod socket;

use crate::options::Builder;
use crate::outcome::{ReadError, ReadResult, WriteOutcome};
use crate::pipeline::{Completion, Operation, Pipeline};
use crate::siblings::Siblings;
use crate::{ReadOptions, WriteOptions};
use ferrite_wire::{Entry, ErrorCode, Key, Table, Topology};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;
use tokio::sync::{Notify, oneshot};

/// A client to share between tasks: clones are handles to the same connections.
#[derive(Clone)]
pub struct Client {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.lock().is_closed = true;
        self.shared.wake.notify_one();
    }
}

/// What handles and the driving task share. The lock is held for a submission or a batch of events, never across an
/// await.
struct Shared {
    core: Mutex<Core>,
    wake: Notify,
}

struct Core {
    pipeline: Pipeline,
    /// Who waits, by tag; at most the pipeline's `calls_max`.
    waiters: Vec<Option<oneshot::Sender<Completion>>>,
    free: Vec<usize>,
    is_closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().expect("no panic while the client's state is locked")
    }
}

impl Core {
    fn wait(&mut self) -> (u64, oneshot::Receiver<Completion>) {
        let (sender, receiver) = oneshot::channel();
        let at = self.free.pop().unwrap_or_else(|| {
            self.waiters.push(None);
            self.waiters.len() - 1
        });
        self.waiters[at] = Some(sender);
        (at as u64, receiver)
    }

    /// Hands completions to those who still wait.
    fn deliver(&mut self) {
        while let Some((tag, completion)) = self.pipeline.poll_completion() {
            let waiter = self.waiters[tag as usize].take().expect("each call completes once");
            self.free.push(tag as usize);
            let _ = waiter.send(completion);
        }
    }
}

impl Builder {
    /// Connects to the cluster: returns once a seed has answered with the topology. Needs a tokio runtime with time and
    /// I/O enabled.
    pub async fn connect(self) -> Result<Client, ReadError> {
        let core = Core {
            pipeline: Pipeline::new(self.options.clone()),
            waiters: Vec::new(),
            free: Vec::new(),
            is_closed: false,
        };
        let shared = Arc::new(Shared { core: Mutex::new(core), wake: Notify::new() });
        tokio::spawn(driver::drive(shared.clone(), self.options.connect_timeout));
        let client = Client { handle: Arc::new(Handle { shared }) };
        match client.topology().await {
            // A server without a topology is spoken to where it is.
            Err(ReadError::Refused(fault)) if fault.code == ErrorCode::Unsupported => Ok(client),
            Err(error) => Err(error),
            Ok(_) => Ok(client),
        }
    }
}

impl Client {
    /// Collects options, then connects with [`Builder::connect`] or [`Builder::connect_blocking`].
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Reads one key. One with several siblings is answered [`ReadError::Siblings`]: see [`Client::get_siblings`].
    pub async fn get(&self, key: Key<'_>, options: ReadOptions) -> ReadResult {
        self.call(Operation::Get(key, options)).await.read().and_then(Siblings::single)
    }

    /// Reads several keys; the answers are in their order. Each is for itself: there is no snapshot across keys.
    pub async fn multi_get(&self, keys: &[Key<'_>], options: ReadOptions) -> Vec<ReadResult> {
        let found = self.call(Operation::MultiGet(keys, options)).await.reads();
        found.into_iter().map(|found| found.and_then(Siblings::single)).collect()
    }

    /// Writes one key. In a table with siblings the value stands beside all others: see [`Client::update`] and [`Client::put_replacing`].
    pub async fn put(&self, key: Key<'_>, value: &[u8], options: WriteOptions) -> WriteOutcome {
        self.call(Operation::Put(key, value, options)).await.write()
    }

    /// Writes and deletes several keys, each for itself: the outcomes are in their order, and some may be done where others are not. They
    /// are not ordered among each other, not even those of one key. A put without a time to live of its own (0) has that of the options.
    pub async fn put_batch(&self, entries: &[Entry<'_>], options: WriteOptions) -> Vec<WriteOutcome> {
        self.call(Operation::MultiPut(entries, options)).await.writes()
    }

    /// Deletes one key. Deleting what is not there is done like any other delete. A table with siblings refuses it, for it does not say
    /// what to delete: see [`Client::delete_replacing`].
    pub async fn delete(&self, key: Key<'_>, options: WriteOptions) -> WriteOutcome {
        self.call(Operation::Delete(key, options)).await.write()
    }

    /// Asks `address` (`host:port`), or any member, for an answer and nothing else.
    pub async fn ping(&self, address: Option<&str>, options: ReadOptions) -> Result<(), ReadError> {
        self.call(Operation::Ping(address, options)).await.pong()
    }

    /// The state of the server at `address` (`host:port`), or of any member, as `name value` lines.
    pub async fn status(&self, address: Option<&str>, options: ReadOptions) -> Result<String, ReadError> {
        self.call(Operation::Status(address, options)).await.status()
    }

    /// Fetches the topology from any member, and uses it.
    pub async fn topology(&self) -> Result<Arc<Topology>, ReadError> {
        self.call(Operation::Topology(None, ReadOptions::default())).await.topology()
    }

    /// The table of a name, as the cluster declares it: its [`Table::key`] and [`Table::item`] make keys. A name that the topology at
    /// hand does not have is looked for once more in a new one, which is fetched at most every half second, whoever asks; one that is not
    /// there either is refused with [`ErrorCode::NoTable`].
    pub async fn table(&self, name: &str) -> Result<Table, ReadError> {
        self.call(Operation::Table(name)).await.table()
    }

    /// The topology in use, without asking anyone; `None` = not learned yet.
    pub fn known_topology(&self) -> Option<Arc<Topology>> {
        self.handle.shared.lock().pipeline.topology().cloned()
    }

    async fn call(&self, operation: Operation<'_>) -> Completion {
        let shared = &self.handle.shared;
        let receiver = {
            let mut core = shared.lock();
            let (tag, receiver) = core.wait();
            core.pipeline.submit(Instant::now(), tag, operation);
            core.deliver();
            receiver
        };
        shared.wake.notify_one();
        receiver.await.expect("the driving task outlives the handles")
    }
}
