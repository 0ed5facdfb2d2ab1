//! One connection's socket and the task that opens, reads and writes it.

use crate::pipeline::ConnectionId;
use std::io::{self, ErrorKind};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
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
    let run = async move {
        let ended = run(connection, &address, connect_timeout, to_write, &events).await;
        let detail = ended.err().map_or_else(|| "the server closed it".to_owned(), |error| error.to_string());
        // A client that is gone needs no last word.
        let _ = events.send(Event { connection, what: What::Lost(detail) }).await;
    };
    Task { task: tokio::spawn(run) }
}

async fn run(
    connection: ConnectionId,
    address: &str,
    connect_timeout: Duration,
    to_write: mpsc::Receiver<Vec<u8>>,
    events: &mpsc::Sender<Event>,
) -> io::Result<()> {
    let late = || io::Error::new(ErrorKind::TimedOut, "no connection in time");
    let stream =
        tokio::time::timeout(connect_timeout, TcpStream::connect(address)).await.map_err(|_| late())??;
    stream.set_nodelay(true)?;
    let (reads, writes) = stream.into_split();
    say(events, connection, What::Connected).await?;
    tokio::select! {
        ended = read_all(connection, reads, events) => ended,
        ended = write_all(connection, writes, to_write, events) => ended,
    }
}

async fn say(events: &mpsc::Sender<Event>, connection: ConnectionId, what: What) -> io::Result<()> {
    let gone = |_| io::Error::new(ErrorKind::BrokenPipe, "the client is gone");
    events.send(Event { connection, what }).await.map_err(gone)
}

async fn read_all(
    connection: ConnectionId,
    mut reads: OwnedReadHalf,
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
    mut writes: OwnedWriteHalf,
    mut to_write: mpsc::Receiver<Vec<u8>>,
    events: &mpsc::Sender<Event>,
) -> io::Result<()> {
    while let Some(buffer) = to_write.recv().await {
        writes.write_all(&buffer).await?;
        say(events, connection, What::Written(buffer)).await?;
    }
    Ok(())
}
