//! A pipeline with a scripted world: the clock is a field, connections are names, bytes are looked at.

use crate::frames::{CLUSTER, encoded, hello_reply_frame, reply_to, topology};
use ferrite_client::{Action, Completion, ConnectionId, Operation, Options, Pipeline};
use ferrite_wire::{FrameHeader, FrameKind, Parsed, Reply, limits, parse_frame};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// A request as a server would see it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) connection: ConnectionId,
    pub(crate) address: String,
    pub(crate) header: FrameHeader,
    pub(crate) body: Vec<u8>,
}

pub(crate) struct Script {
    pub(crate) pipeline: Pipeline,
    pub(crate) now: Instant,
    /// Asked to be opened, not answered yet.
    pub(crate) opening: VecDeque<(ConnectionId, String)>,
    pub(crate) open: BTreeMap<ConnectionId, String>,
    pub(crate) closed: Vec<ConnectionId>,
    /// Those of them on which nothing more is to be sent.
    pub(crate) reset: Vec<ConnectionId>,
    /// Requests that were sent and not looked at yet.
    pub(crate) requests: VecDeque<Seen>,
    pub(crate) completions: Vec<(u64, Completion)>,
    /// Sockets take nothing.
    pub(crate) is_stuck: bool,
    /// Connections that would send.
    unsent: Vec<ConnectionId>,
}

pub(crate) fn options(seeds: &[&str]) -> Options {
    Options {
        seeds: seeds.iter().map(|seed| (*seed).to_owned()).collect(),
        jitter_seed: 1,
        ..Options::default()
    }
}

impl Script {
    pub(crate) fn new(options: Options) -> Script {
        Script {
            pipeline: Pipeline::new(options),
            now: Instant::now(),
            opening: VecDeque::new(),
            open: BTreeMap::new(),
            closed: Vec::new(),
            reset: Vec::new(),
            requests: VecDeque::new(),
            completions: Vec::new(),
            is_stuck: false,
            unsent: Vec::new(),
        }
    }

    /// One that has learned a topology of nodes `n1`, `n2` … with one core each.
    pub(crate) fn with_nodes(options: Options, count: usize) -> Script {
        let mut script = Script::new(options);
        let nodes: Vec<_> =
            (1..=count).map(|node| (format!("n{node}:7100"), vec![format!("n{node}:7101")])).collect();
        script.submit(u64::MAX, Operation::Topology(None, Default::default()));
        script.connect_all();
        let request = script.request();
        script.reply(&request, &Reply::Topology(&encoded(&topology(1, &nodes))));
        assert!(matches!(script.completion(), (u64::MAX, Completion::Topology(Ok(_)))));
        script
    }

    pub(crate) fn submit(&mut self, tag: u64, operation: Operation<'_>) {
        self.pipeline.submit(self.now, tag, operation);
        self.settle();
    }

    /// Does what the pipeline asks, as far as it goes without the servers.
    pub(crate) fn settle(&mut self) {
        while let Some(action) = self.pipeline.poll_action() {
            match action {
                Action::Connect { connection, address } => self.opening.push_back((connection, address)),
                Action::Send(connection) if self.is_stuck => self.unsent.push(connection),
                Action::Send(connection) => self.look(connection),
                Action::Close(connection) | Action::Reset(connection) => {
                    self.reset.extend(matches!(action, Action::Reset(_)).then_some(connection));
                    self.opening.retain(|(opening, _)| *opening != connection);
                    self.open.remove(&connection);
                    self.closed.push(connection);
                }
            }
        }
        while let Some(completion) = self.pipeline.poll_completion() {
            self.completions.push(completion);
        }
    }

    /// Sockets take something again.
    pub(crate) fn unstick(&mut self) {
        self.is_stuck = false;
        for connection in std::mem::take(&mut self.unsent) {
            self.look(connection);
        }
        self.settle();
    }

    /// Sockets take one output.
    pub(crate) fn unstick_once(&mut self) {
        let connection = self.unsent.remove(0);
        self.look(connection);
        self.settle();
    }

    fn look(&mut self, connection: ConnectionId) {
        let mut bytes = Vec::new();
        self.pipeline.take_output(self.now, connection, &mut bytes);
        let Some(address) = self.open.get(&connection).cloned() else { return };
        let mut rest = &bytes[..];
        while let Parsed::Frame { frame, bytes } = parse_frame(rest, limits::BODY_BYTES_MAX).unwrap() {
            rest = &rest[bytes..];
            if frame.header.kind != FrameKind::Hello {
                let (header, body) = (frame.header, frame.body.to_vec());
                self.requests.push_back(Seen { connection, address: address.clone(), header, body });
            }
        }
        assert!(rest.is_empty(), "the client sends whole frames");
    }

    /// The oldest connection asked for is opened and its handshake answered.
    pub(crate) fn connect(&mut self) -> (ConnectionId, String) {
        let (connection, address) = self.opening.pop_front().expect("a connection was asked for");
        self.open.insert(connection, address.clone());
        self.pipeline.handle_connected(self.now, connection);
        self.settle();
        self.bytes(connection, &hello_reply_frame(CLUSTER));
        (connection, address)
    }

    pub(crate) fn connect_all(&mut self) {
        while !self.opening.is_empty() {
            self.connect();
        }
    }

    pub(crate) fn refuse(&mut self) -> String {
        let (connection, address) = self.opening.pop_front().expect("a connection was asked for");
        self.lose(connection);
        address
    }

    pub(crate) fn lose(&mut self, connection: ConnectionId) {
        self.open.remove(&connection);
        self.pipeline.handle_lost(self.now, connection, "lost");
        self.settle();
    }

    pub(crate) fn bytes(&mut self, connection: ConnectionId, bytes: &[u8]) {
        self.pipeline.handle_bytes(self.now, connection, bytes);
        self.settle();
    }

    pub(crate) fn reply(&mut self, request: &Seen, reply: &Reply<'_>) {
        self.bytes(request.connection, &reply_to(request.header.request, reply));
    }

    /// The oldest request nobody has looked at.
    pub(crate) fn request(&mut self) -> Seen {
        self.requests.pop_front().expect("a request was sent")
    }

    /// The only completion there is.
    pub(crate) fn completion(&mut self) -> (u64, Completion) {
        assert_eq!(self.completions.len(), 1, "{:?}", self.completions);
        self.completions.pop().expect("just counted")
    }

    pub(crate) fn advance(&mut self, time: Duration) {
        let end = self.now + time;
        // As a front does: wake when asked to, not only at the end.
        while let Some(at) = self.pipeline.wake_at()
            && at <= end
        {
            self.now = self.now.max(at);
            self.pipeline.handle_timeout(self.now);
            self.settle();
        }
        self.now = end;
        self.pipeline.handle_timeout(self.now);
        self.settle();
    }
}
