//! A server made of threads, on a free port of loopback. What it answers is up to a closure.

use crate::frames::{CLUSTER, encoded, error, hello_reply_frame, reply_to, topology, version};
use ferrite_wire::{
    ClusterId, Entry, ErrorCode, FrameHeader, FrameKind, Item, Key, Outcome, Outcomes, Parsed, Reply,
    Request, RequestId, TableId, Topology, limits, parse_frame,
};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longest that a server waits for what should come.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a server does about a request.
pub(crate) enum Answer {
    /// Sends these bytes.
    Bytes(Vec<u8>),
    /// Nothing.
    Silence,
    /// Closes the connection without an answer.
    HangUp,
}

impl Answer {
    pub(crate) fn reply(request: RequestId, reply: &Reply<'_>) -> Answer {
        Answer::Bytes(reply_to(request, reply))
    }
}

type Handler = dyn Fn(&FrameHeader, &Request<'_>) -> Answer + Send + Sync;

struct State {
    handler: Box<Handler>,
    cluster: ClusterId,
    is_stopped: AtomicBool,
    /// Data requests seen.
    asked: AtomicUsize,
    accepted: AtomicUsize,
    open: Mutex<Vec<TcpStream>>,
    /// Connections that ended.
    ended: Mutex<usize>,
    ending: Condvar,
}

/// The server; dropping it stops it.
pub(crate) struct Fake {
    pub(crate) address: String,
    state: Arc<State>,
    acceptor: Option<JoinHandle<()>>,
}

impl Fake {
    pub(crate) fn start(
        handler: impl Fn(&FrameHeader, &Request<'_>) -> Answer + Send + Sync + 'static,
    ) -> Fake {
        Fake::start_at("127.0.0.1:0", CLUSTER, handler)
    }

    pub(crate) fn start_at(
        address: &str,
        cluster: ClusterId,
        handler: impl Fn(&FrameHeader, &Request<'_>) -> Answer + Send + Sync + 'static,
    ) -> Fake {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(State {
            handler: Box::new(handler),
            cluster,
            is_stopped: AtomicBool::new(false),
            asked: AtomicUsize::new(0),
            accepted: AtomicUsize::new(0),
            open: Mutex::new(Vec::new()),
            ended: Mutex::new(0),
            ending: Condvar::new(),
        });
        let accepting = state.clone();
        let acceptor = std::thread::spawn(move || accept(&listener, &accepting));
        Fake { address, state, acceptor: Some(acceptor) }
    }

    pub(crate) fn asked(&self) -> usize {
        self.state.asked.load(Ordering::SeqCst)
    }

    pub(crate) fn accepted(&self) -> usize {
        self.state.accepted.load(Ordering::SeqCst)
    }

    /// Waits until this many connections have ended.
    pub(crate) fn wait_for_ends(&self, count: usize) {
        let mut ended = self.state.ended.lock().unwrap();
        while *ended < count {
            ended = self.state.ending.wait(ended).unwrap();
        }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.state.is_stopped.store(true, Ordering::SeqCst);
        // Wakes the acceptor.
        let _ = TcpStream::connect(&self.address);
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.join().unwrap();
        }
    }
}

/// A server that answers the handshake, has no topology, and then reads nothing for a while.
pub(crate) struct Stuck {
    pub(crate) address: String,
    begun: Receiver<()>,
    goes_on: Sender<()>,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Stuck {
    pub(crate) fn start() -> Stuck {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (goes_on, waits) = channel();
        let (begins, begun) = channel();
        let serving = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut bytes = vec![0; 64 * 1024];
            let mut hello_and_request = Vec::new();
            let mut next = |answers: &mut TcpStream| loop {
                if let Parsed::Frame { frame, bytes } =
                    parse_frame(&hello_and_request, limits::BODY_BYTES_MAX).unwrap()
                {
                    let request = frame.header.request;
                    hello_and_request.drain(..bytes);
                    return request;
                }
                let len = answers.read(&mut bytes).unwrap();
                hello_and_request.extend_from_slice(&bytes[..len]);
            };
            next(&mut stream);
            stream.write_all(&hello_reply_frame(CLUSTER)).unwrap();
            let asked = next(&mut stream);
            stream.write_all(&reply_to(asked, &error(ErrorCode::Unsupported))).unwrap();
            stream.peek(&mut [0]).unwrap();
            begins.send(()).unwrap();
            waits.recv().unwrap();
            let began = Instant::now();
            while began.elapsed() < PATIENCE {
                if let Some(error) = stream.take_error()? {
                    return Err(error);
                }
                std::thread::yield_now();
            }
            Ok(())
        });
        Stuck { address, begun, goes_on, serving }
    }

    /// Waits until something lies there that it does not read.
    pub(crate) fn has_begun(&self) {
        self.begun.recv().unwrap();
    }

    /// It is told that nothing more comes before it has read what has come.
    pub(crate) fn hears_of_a_reset(self) {
        self.goes_on.send(()).unwrap();
        let ended = self.serving.join().unwrap();
        assert_eq!(ended.map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
    }
}

fn accept(listener: &TcpListener, state: &Arc<State>) {
    let mut serving = Vec::new();
    while let Ok((stream, _)) = listener.accept() {
        if state.is_stopped.load(Ordering::SeqCst) {
            break;
        }
        state.accepted.fetch_add(1, Ordering::SeqCst);
        state.open.lock().unwrap().push(stream.try_clone().unwrap());
        let state = state.clone();
        serving.push(std::thread::spawn(move || {
            serve(stream, &state);
            *state.ended.lock().unwrap() += 1;
            state.ending.notify_all();
        }));
    }
    for stream in state.open.lock().unwrap().drain(..) {
        let _ = stream.shutdown(Shutdown::Both);
    }
    serving.into_iter().for_each(|thread| thread.join().unwrap());
}

/// Answers until either side closes. Whole batches of requests are answered back to front: order is not promised.
fn serve(mut stream: TcpStream, state: &State) {
    let mut inbox = Vec::new();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(len) => inbox.extend_from_slice(&buffer[..len]),
        }
        let mut handled = 0;
        let mut answers = Vec::new();
        while let Parsed::Frame { frame, bytes } =
            parse_frame(&inbox[handled..], limits::BODY_BYTES_MAX).unwrap()
        {
            handled += bytes;
            if frame.header.kind == FrameKind::Hello {
                answers.push(hello_reply_frame(state.cluster));
                continue;
            }
            let request = Request::decode(frame.header.kind, frame.body).unwrap();
            if !matches!(request, Request::Topology { .. }) {
                state.asked.fetch_add(1, Ordering::SeqCst);
            }
            match (state.handler)(&frame.header, &request) {
                Answer::Bytes(bytes) => answers.push(bytes),
                Answer::Silence => {}
                Answer::HangUp => {
                    let _ = stream.shutdown(Shutdown::Both);
                    return;
                }
            }
        }
        inbox.drain(..handled);
        answers.reverse();
        if stream.write_all(&answers.concat()).is_err() {
            return;
        }
    }
}

/// What a value is kept under: its table and partition key.
type Place = (TableId, Vec<u8>);

/// Values by table and key, shared by the servers of one cluster.
#[derive(Clone, Default)]
pub(crate) struct Shelf {
    values: Arc<Mutex<BTreeMap<Place, Vec<u8>>>>,
    topology: Arc<Mutex<Option<Topology>>>,
}

impl Shelf {
    pub(crate) fn len(&self) -> usize {
        self.values.lock().unwrap().len()
    }

    pub(crate) fn set_topology(&self, topology: Topology) {
        *self.topology.lock().unwrap() = Some(topology);
    }

    /// What a server that keeps its values here answers.
    pub(crate) fn answer(&self, header: &FrameHeader, request: &Request<'_>) -> Answer {
        let id = header.request;
        let place = |key: &Key<'_>| -> Place { (key.table, key.partition.to_vec()) };
        let mut values = self.values.lock().unwrap();
        match request {
            Request::Ping => Answer::reply(id, &Reply::Pong),
            Request::Status => Answer::reply(id, &Reply::Status("keys 1\n")),
            Request::Topology { .. } => match &*self.topology.lock().unwrap() {
                Some(topology) => Answer::reply(id, &Reply::Topology(&encoded(topology))),
                None => Answer::reply(id, &error(ErrorCode::Unsupported)),
            },
            Request::Hints(_) => Answer::reply(id, &error(ErrorCode::Unsupported)),
            Request::Get { key, .. } => match values.get(&place(key)) {
                Some(value) => Answer::reply(id, &Reply::Value { version: version(1), answered: 2, value }),
                None => Answer::reply(id, &Reply::Absent { answered: 2 }),
            },
            Request::Put { key, value, .. } => {
                values.insert(place(key), value.to_vec());
                Answer::reply(id, &crate::frames::done())
            }
            Request::Delete { key, .. } => {
                values.remove(&place(key));
                Answer::reply(id, &crate::frames::done())
            }
            Request::MultiPut { entries, .. } => {
                let outcomes: Vec<Outcome> = entries
                    .iter()
                    .map(|entry| {
                        match entry {
                            Entry::Put { key, value, .. } => values.insert(place(&key), value.to_vec()),
                            Entry::Delete { key, .. } => values.remove(&place(&key)),
                        };
                        Outcome::Done { version: version(1), answered: 2, sloppy: false }
                    })
                    .collect();
                let mut body = Vec::new();
                Outcomes::encode_all(outcomes.into_iter(), &mut body);
                Answer::reply(id, &Reply::decode(FrameKind::Outcomes, &body).unwrap())
            }
            Request::MultiGet { keys, .. } => {
                let items: Vec<_> = keys
                    .iter()
                    .map(|key| match values.get(&place(&key)) {
                        Some(value) => Item::Value { answered: 3, version: version(1), value },
                        None => Item::Absent { answered: 2 },
                    })
                    .collect();
                let mut body = Vec::new();
                Reply::encode_values(items.into_iter(), &mut body);
                Answer::reply(id, &Reply::decode(FrameKind::Values, &body).unwrap())
            }
        }
    }

    pub(crate) fn serve(&self) -> Fake {
        self.serve_at("127.0.0.1:0")
    }

    pub(crate) fn serve_at(&self, address: &str) -> Fake {
        let shelf = self.clone();
        Fake::start_at(address, CLUSTER, move |header, request| shelf.answer(header, request))
    }
}

/// A cluster of two nodes with two cores each: for each node its contact server, then its cores' servers.
pub(crate) fn cluster(shelf: &Shelf) -> [Vec<Fake>; 2] {
    cluster_at("127.0.0.1:0", shelf)
}

/// The same, where all of them are found.
pub(crate) fn cluster_at(address: &str, shelf: &Shelf) -> [Vec<Fake>; 2] {
    let servers = [(); 2].map(|()| (0..3).map(|_| shelf.serve_at(address)).collect::<Vec<Fake>>());
    let nodes: Vec<(String, Vec<String>)> = servers
        .iter()
        .map(|node| (node[0].address.clone(), node[1..].iter().map(|core| core.address.clone()).collect()))
        .collect();
    shelf.set_topology(topology(1, &nodes));
    servers
}
