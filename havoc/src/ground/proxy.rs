//! A proxy that can hold back or delay what it forwards, each way for itself.
//!
//! ```text
//! one connection:  dialler ⇄ [reader → queue → writer] there ⇄ target
//!                          ⇄ [writer ← queue ← reader] back  ⇄
//! ```
//!
//! What is read is stamped with the time at which it is due and waits in a queue, at most [`CHUNKS_QUEUED_MAX`] chunks of
//! [`CHUNK_BYTES`]; beyond that nothing more is read, and the sender feels it as it would feel a full network. A way that is cut
//! forwards nothing and says nothing: connections stand and are silent, and a new one is accepted but leads nowhere. What was held
//! back goes on when the way is mended, as what a network lost is sent again.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Most bytes read at once.
const CHUNK_BYTES: usize = 16 * 1024;
/// Most chunks under way in one direction of a connection.
const CHUNKS_QUEUED_MAX: usize = 256;
/// Most connections of one proxy; more are closed as soon as they are accepted.
const CONNECTIONS_MAX: usize = 4_096;
/// Longest wait for the target to accept.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);

/// How one node's bytes get to another.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Way {
    pub(super) is_cut: bool,
    pub(super) delay: Duration,
}

/// A way, and those who wait for it to be mended.
#[derive(Clone, Default)]
pub(super) struct SharedWay(Arc<(Mutex<Way>, Condvar)>);

impl SharedWay {
    pub(super) fn change(&self, change: impl FnOnce(&mut Way)) {
        // A poisoned lock guards two plain values all the same.
        change(&mut self.0.0.lock().unwrap_or_else(PoisonError::into_inner));
        self.0.1.notify_all();
    }

    fn delay(&self) -> Duration {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).delay
    }

    fn wait_until_whole(&self) {
        let way = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.0.1.wait_while(way, |way| way.is_cut));
    }
}

/// The ways from every node to every other.
pub(super) struct Ways {
    nodes: usize,
    ways: Vec<SharedWay>,
}

impl Ways {
    pub(super) fn new(nodes: usize) -> Ways {
        Ways { nodes, ways: (0..nodes * nodes).map(|_| SharedWay::default()).collect() }
    }

    pub(super) fn way(&self, from: usize, to: usize) -> SharedWay {
        self.ways[from * self.nodes + to].clone()
    }
}

/// Accepts connections that lead to one target.
pub(super) struct Proxy;

impl Proxy {
    /// Listens on a free port, which is returned, until the process ends.
    pub(super) fn start(target: SocketAddr, there: SharedWay, back: SharedWay) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let accept = move || {
            let open = Arc::new(AtomicUsize::new(0));
            for accepted in listener.incoming() {
                let Ok(dialler) = accepted else { continue };
                if open.load(Ordering::Relaxed) >= CONNECTIONS_MAX {
                    continue;
                }
                open.fetch_add(1, Ordering::Relaxed);
                let (there, back, open) = (there.clone(), back.clone(), Arc::clone(&open));
                let serve = move || {
                    // Whatever the end was, both sides have been told of it as far as they can be.
                    let _ = lead(&dialler, target, there, back);
                    open.fetch_sub(1, Ordering::Relaxed);
                };
                if thread::Builder::new().name("proxy".to_owned()).spawn(serve).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new().name("proxy".to_owned()).spawn(accept)?;
        Ok(address)
    }
}

/// Forwards both ways until both have ended.
fn lead(dialler: &TcpStream, target: SocketAddr, there: SharedWay, back: SharedWay) -> io::Result<()> {
    // A handshake needs both ways.
    there.wait_until_whole();
    back.wait_until_whole();
    let server = TcpStream::connect_timeout(&target, CONNECT_WITHIN)?;
    dialler.set_nodelay(true)?;
    server.set_nodelay(true)?;
    thread::scope(|scope| {
        for (from, to, way) in [(dialler, &server, &there), (&server, dialler, &back)] {
            let (queue, due) = sync_channel(CHUNKS_QUEUED_MAX);
            scope.spawn(move || read(from, way, &queue));
            scope.spawn(move || write(to, from, way, &due));
        }
    });
    Ok(())
}

/// Something that was read, and when it is to arrive.
struct Chunk {
    due: Instant,
    bytes: Vec<u8>,
}

fn read(mut from: &TcpStream, way: &SharedWay, queue: &SyncSender<Chunk>) {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(len) => {
                let chunk = Chunk { due: Instant::now() + way.delay(), bytes: buffer[..len].to_vec() };
                if queue.send(chunk).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

fn write(mut to: &TcpStream, from: &TcpStream, way: &SharedWay, due: &Receiver<Chunk>) {
    while let Ok(chunk) = due.recv() {
        thread::sleep(chunk.due.saturating_duration_since(Instant::now()));
        way.wait_until_whole();
        if to.write_all(&chunk.bytes).is_err() {
            break;
        }
    }
    way.wait_until_whole();
    // The end of one direction; an error says that it has ended already.
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A target that sends back what it gets, behind a proxy.
    fn echo() -> (TcpStream, SharedWay, SharedWay) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let target = listener.local_addr().expect("it is bound");
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let mut copy = stream.try_clone().expect("a descriptor");
                thread::spawn(move || io::copy(&mut stream, &mut copy));
            }
        });
        let (there, back) = (SharedWay::default(), SharedWay::default());
        let proxy = Proxy::start(target, there.clone(), back.clone()).expect("a port");
        (TcpStream::connect(proxy).expect("it listens"), there, back)
    }

    fn echoed(stream: &mut TcpStream, text: &[u8]) -> Vec<u8> {
        stream.write_all(text).expect("the proxy reads");
        let mut answer = vec![0; text.len()];
        stream.read_exact(&mut answer).expect("it comes back");
        answer
    }

    #[test]
    fn what_is_sent_arrives_and_comes_back_late_where_it_is_delayed() {
        let (mut stream, there, back) = echo();
        assert_eq!(echoed(&mut stream, b"at once"), b"at once");
        there.change(|way| way.delay = Duration::from_millis(20));
        back.change(|way| way.delay = Duration::from_millis(30));
        let sent = Instant::now();
        assert_eq!(echoed(&mut stream, b"late"), b"late");
        assert!(sent.elapsed() >= Duration::from_millis(50), "both ways took their time");
        stream.shutdown(Shutdown::Write).expect("it is open");
        assert_eq!(stream.read(&mut [0; 1]).expect("an end"), 0, "an end is forwarded");
    }

    #[test]
    fn a_way_that_is_cut_is_silent_and_the_other_goes_on() {
        for cut_there in [true, false] {
            let (mut stream, there, back) = echo();
            assert_eq!(echoed(&mut stream, b"whole"), b"whole");
            let way = if cut_there { there } else { back };
            way.change(|way| way.is_cut = true);
            stream.write_all(b"held back").expect("the proxy reads");
            stream.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
            let silent = stream.read(&mut [0; 1]).expect_err("nothing comes");
            assert!(matches!(silent.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{silent}");
            way.change(|way| *way = Way::default());
            stream.set_read_timeout(None).expect("a timeout");
            let mut answer = [0; 9];
            stream.read_exact(&mut answer).expect("it comes when the way is mended");
            assert_eq!(&answer, b"held back");
        }
    }
}
