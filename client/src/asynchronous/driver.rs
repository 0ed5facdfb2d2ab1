//! The driving task: events from connections and the timer into the pipeline, its actions out to connections.

use super::Shared;
use super::socket::{self, Event, What};
use crate::pipeline::{Action, ConnectionId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Most events of connections that wait for the driving task; then connections stop reading.
const EVENTS_QUEUED_MAX: usize = 256;
/// Longest sleep without looking at the clock again.
const NAP_MAX: Duration = Duration::from_millis(500);

/// A connection's tasks, as the driver sees them.
struct Link {
    /// Bytes to write; holds one buffer, so that what is asked for meanwhile gathers in the pipeline.
    writes: mpsc::Sender<Vec<u8>>,
    /// Output was asked for while the writer was busy.
    is_behind: bool,
    /// Closes the socket when it is dropped.
    task: socket::Task,
}

/// Runs until the last handle is dropped.
pub(super) async fn drive(shared: Arc<Shared>, connect_timeout: Duration) {
    let (events_in, mut events) = mpsc::channel(EVENTS_QUEUED_MAX);
    let mut links: BTreeMap<ConnectionId, Link> = BTreeMap::new();
    let mut spare: Vec<Vec<u8>> = Vec::new();
    loop {
        let nap = {
            let mut core = shared.lock();
            core.pipeline.handle_timeout(Instant::now());
            while let Some(action) = core.pipeline.poll_action() {
                match action {
                    Action::Connect { connection, address } => {
                        let (writes, to_write) = mpsc::channel(1);
                        let events = events_in.clone();
                        let task = socket::open(connection, address, connect_timeout, to_write, events);
                        links.insert(connection, Link { writes, is_behind: false, task });
                    }
                    Action::Send(connection) => {
                        let Some(link) = links.get_mut(&connection) else { continue };
                        match link.writes.try_reserve() {
                            Ok(room) => {
                                let mut bytes = spare.pop().unwrap_or_default();
                                core.pipeline.take_output(Instant::now(), connection, &mut bytes);
                                room.send(bytes);
                            }
                            // Busy: it says when it is not. Closed: its loss is on its way.
                            Err(_) => link.is_behind = true,
                        }
                    }
                    Action::Close(connection) => {
                        links.remove(&connection);
                    }
                    Action::Reset(connection) => {
                        if let Some(link) = links.remove(&connection) {
                            link.task.reset();
                        }
                    }
                }
            }
            core.deliver();
            if core.is_closed {
                for (connection, link) in links {
                    if core.pipeline.owes_write(connection) {
                        link.task.reset();
                    }
                }
                return;
            }
            let now = Instant::now();
            core.pipeline.wake_at().map_or(NAP_MAX, |at| at.saturating_duration_since(now).min(NAP_MAX))
        };
        let first = tokio::select! {
            event = events.recv() => event,
            () = shared.wake.notified() => None,
            () = tokio::time::sleep(nap) => None,
        };
        let mut core = shared.lock();
        let more = std::iter::from_fn(|| events.try_recv().ok());
        for Event { connection, what } in first.into_iter().chain(more).take(EVENTS_QUEUED_MAX) {
            let now = Instant::now();
            match what {
                What::Connected => core.pipeline.handle_connected(now, connection),
                What::Bytes(bytes) => core.pipeline.handle_bytes(now, connection, &bytes),
                What::Written(buffer) => {
                    spare.push(buffer);
                    // Without room yet, the buffer that takes it will be written and reported too.
                    if let Some(link) = links.get_mut(&connection)
                        && link.is_behind
                        && let Ok(room) = link.writes.try_reserve()
                    {
                        link.is_behind = false;
                        let mut bytes = spare.pop().unwrap_or_default();
                        core.pipeline.take_output(Instant::now(), connection, &mut bytes);
                        room.send(bytes);
                    }
                }
                What::Lost(detail) => {
                    links.remove(&connection);
                    core.pipeline.handle_lost(now, connection, &detail);
                }
            }
        }
        core.deliver();
    }
}
