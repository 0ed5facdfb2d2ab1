//! One connection's socket and the task that opens, reads and writes it.

use crate::pipeline::ConnectionId;
use crate::unsent;
use socket2::SockRef;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Most bytes of one read.
const READ_BYTES: usize = 64 * 1024;

/// Something that happened to a connection.
pub(super) struct Event {
    pub(super) connection: ConnectionId,
    pub(super) what: What,
}

pub(super) enum What {
    Connected,
    Bytes(Vec<u8>),
    /// A buffer was written and is free again.
    Written(Vec<u8>),
    /// The socket could not be opened, or ended.
    Lost(String),
}

/// The connection's task; dropping it closes the socket, whatever it was doing.
pub(super) struct Task {
    task: JoinHandle<()>,
    resets: Arc<AtomicBool>,
}

impl Task {
    /// Closes the socket, and what the system has not sent on it is not sent any more.
    pub(super) fn reset(self) {
        self.resets.store(true, Ordering::Relaxed);
    }
}

/// A socket, and what becomes of what the system has not sent when it is closed.
struct Socket {
    stream: TcpStream,
    resets: Arc<AtomicBool>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.resets.load(Ordering::Relaxed) {
            // Fails on a socket that is closed already.
            let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts a connection's task.
pub(super) fn open(
    connection: ConnectionId,
    address: String,
    connect_timeout: Duration,
    to_write: mpsc::Receiver<Vec<u8>>,
    events: mpsc::Sender<Event>,
) -> Task {
    let resets = Arc::new(AtomicBool::new(false));
    let resets_too = resets.clone();
    let run = async move {
        let ended = run(connection, &address, connect_timeout, to_write, &events, resets_too).await;
        let detail = ended.err().map_or_else(|| "the server closed it".to_owned(), |error| error.to_string());
        // A client that is gone needs no last word.
        let _ = events.send(Event { connection, what: What::Lost(detail) }).await;
    };
    Task { task: tokio::spawn(run), resets }
}

async fn run(
    connection: ConnectionId,
    address: &str,
    connect_timeout: Duration,
    to_write: mpsc::Receiver<Vec<u8>>,
    events: &mpsc::Sender<Event>,
    resets: Arc<AtomicBool>,
) -> io::Result<()> {
    let late = || io::Error::new(ErrorKind::TimedOut, "no connection in time");
    let stream =
        tokio::time::timeout(connect_timeout, TcpStream::connect(address)).await.map_err(|_| late())??;
    stream.set_nodelay(true)?;
    unsent::bound(&SockRef::from(&stream));
    let mut socket = Socket { stream, resets };
    let (reads, writes) = socket.stream.split();
    say(events, connection, What::Connected).await?;
    let ended = tokio::select! {
        ended = read_all(connection, reads, events) => ended,
        ended = write_all(connection, writes, to_write, events) => ended,
    };
    // All that is owed on it is given up.
    socket.resets.store(true, Ordering::Relaxed);
    ended
}

async fn say(events: &mpsc::Sender<Event>, connection: ConnectionId, what: What) -> io::Result<()> {
    let gone = |_| io::Error::new(ErrorKind::BrokenPipe, "the client is gone");
    events.send(Event { connection, what }).await.map_err(gone)
}

async fn read_all(
    connection: ConnectionId,
    mut reads: ReadHalf<'_>,
    events: &mpsc::Sender<Event>,
) -> io::Result<()> {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let len = reads.read(&mut buffer).await?;
        if len == 0 {
            return Ok(());
        }
        say(events, connection, What::Bytes(buffer[..len].to_vec())).await?;
    }
}

async fn write_all(
    connection: ConnectionId,
    mut writes: WriteHalf<'_>,
    mut to_write: mpsc::Receiver<Vec<u8>>,
    events: &mpsc::Sender<Event>,
) -> io::Result<()> {
    while let Some(buffer) = to_write.recv().await {
        writes.write_all(&buffer).await?;
        say(events, connection, What::Written(buffer)).await?;
    }
    Ok(())
}
