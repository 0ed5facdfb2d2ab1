//! One thread's connections and the operations on them: drawing, routing, sending, receiving, judging.
//!
//! A wake reads each ready socket once into one shared buffer, settles the answers in place, encodes as many new requests
//! as were answered straight into the connection's buffer, and writes that once. Nothing is allocated per operation.
//!
//! Operations go to a connection of the endpoint that owns the key. When all of that endpoint's connections are full, the
//! operation waits in the endpoint's queue: bounded in closed loop by [`CLOSED_QUEUE_OPS_MAX`] (beyond it a random
//! operation is dropped unsent, one of a pass is held back), in open loop by [`OPEN_QUEUE_OPS_MAX`] (beyond it an
//! operation fails as not sent).

use std::{collections::VecDeque, net::SocketAddr, sync::Arc};

use crate::{
    check::{Checker, Verdict},
    chooser::Rng,
    clock::{Clock, Nanos},
    connection::{Connection, Pending, State},
    failure::{Certainty, Failure},
    plan::{Op, Plan},
    poll::{Poll, Ready},
    protocol::{Answer, Garbled, Protocol, Step},
    record::{KeyWriter, Stamp, write_value},
    routes::Routes,
    schedule::LATE_NS,
    tally::Tally,
    workload::Kind,
};

/// Operations waiting for one endpoint in closed loop.
const CLOSED_QUEUE_OPS_MAX: usize = 64;
/// Operations waiting for one endpoint in open loop.
const OPEN_QUEUE_OPS_MAX: usize = 100_000;
/// Draws for one connection in a row that turn out to belong to others.
const FOREIGN_DRAWS_MAX: usize = 64;
/// Size of the shared receive buffer, in bytes; it grows for answers that do not fit.
const RECEIVE_BYTES: usize = 256 * 1024;
/// Longest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Complaints kept for the report.
const COMPLAINTS_MAX: usize = 8;

#[derive(Debug)]
struct Endpoint {
    address: SocketAddr,
    connections: Vec<usize>,
    /// Connections that are ready.
    ready: usize,
    /// Operations that its ready connections have room for.
    room: usize,
    /// Where the search for room begins next.
    turn: usize,
    queue: VecDeque<Op>,
}

/// What a thread's traffic is made with.
pub(crate) struct Parts<P> {
    pub clock: Clock,
    pub protocol: P,
    pub routes: Arc<Routes>,
    pub keys: KeyWriter,
    pub rng: Rng,
    pub checker: Option<Checker>,
    pub run: u32,
    pub value_size: usize,
    /// This thread's connections.
    pub connections: usize,
    /// The first connection goes to this endpoint, the next ones to those after it.
    pub first_endpoint: usize,
    pub depth: u16,
}

/// One thread's traffic.
pub(crate) struct Traffic<P> {
    pub plan: Option<Plan>,
    pub tally: Tally,
    pub in_flight: usize,
    pub complaints: Vec<String>,
    /// When an operation last succeeded.
    pub last_success: Nanos,
    pub rng: Rng,
    poll: Poll,
    parts: Parts<P>,
    connections: Vec<Connection>,
    endpoints: Vec<Endpoint>,
    receive: Vec<u8>,
    value: Vec<u8>,
    /// Connections with something to write.
    listed: Vec<usize>,
    counter: u32,
    turn: usize,
}

impl<P: Protocol> Traffic<P> {
    pub(crate) fn new(parts: Parts<P>) -> std::io::Result<Traffic<P>> {
        let endpoint = |address: &SocketAddr| Endpoint {
            address: *address,
            connections: Vec::new(),
            ready: 0,
            room: 0,
            turn: 0,
            queue: VecDeque::new(),
        };
        let mut endpoints: Vec<Endpoint> = parts.routes.endpoints.iter().map(endpoint).collect();
        let mut connections = Vec::new();
        for index in 0..parts.connections {
            let at = (parts.first_endpoint + index) % endpoints.len();
            endpoints[at].connections.push(index);
            connections.push(Connection::new(at as u16, parts.depth));
        }
        Ok(Traffic {
            plan: None,
            tally: Tally::default(),
            in_flight: 0,
            complaints: Vec::new(),
            last_success: Nanos(0),
            rng: parts.rng.clone(),
            poll: Poll::new()?,
            parts,
            connections,
            endpoints,
            receive: vec![0; RECEIVE_BYTES],
            value: Vec::new(),
            listed: Vec::new(),
            counter: 0,
            turn: 0,
        })
    }

    /// Connections that are ready, and all.
    pub(crate) fn readiness(&self) -> (usize, usize) {
        (self.endpoints.iter().map(|endpoint| endpoint.ready).sum(), self.connections.len())
    }

    /// Whether every connection is ready or was refused.
    pub(crate) fn were_all_tried(&self) -> bool {
        self.connections.iter().all(Connection::was_tried)
    }

    /// Whether nothing is left to draw, to send or to hear of.
    pub(crate) fn is_spent(&self) -> bool {
        let drawn_out = self.plan.as_ref().is_none_or(Plan::is_drawn_out);
        drawn_out && self.in_flight == 0 && self.queued() == 0
    }

    /// Operations of a pass that have not succeeded.
    pub(crate) fn undone(&self) -> u64 {
        (self.in_flight + self.queued()) as u64 + self.plan.as_ref().map_or(0, Plan::undone)
    }

    fn queued(&self) -> usize {
        self.endpoints.iter().map(|endpoint| endpoint.queue.len()).sum()
    }

    fn is_open_loop(&self) -> bool {
        self.plan.as_ref().is_some_and(|plan| plan.open_loop)
    }

    /// Stops drawing; what was not sent is forgotten in closed loop, and goes on being sent in open loop.
    pub(crate) fn stop_drawing(&mut self) {
        let Some(plan) = &mut self.plan else { return };
        plan.stop();
        if !plan.open_loop {
            self.endpoints.iter_mut().for_each(|endpoint| endpoint.queue.clear());
        }
    }

    /// Gives up on everything that was due and not sent.
    pub(crate) fn abandon_queues(&mut self, now: Nanos) {
        for at in 0..self.endpoints.len() {
            while let Some(op) = self.endpoints[at].queue.pop_front() {
                self.unsent(op, Failure::NotSent, now);
            }
        }
    }

    /// Waits for readiness and serves what is ready; says how many sockets were.
    pub(crate) fn wake(&mut self, timeout_ns: u64) -> std::io::Result<usize> {
        let count = self.poll.wait(Some(std::time::Duration::from_nanos(timeout_ns)))?;
        for index in 0..count {
            let ready = self.poll.ready(index);
            self.serve(ready);
        }
        Ok(count)
    }

    /// Opens the connections whose pause is over, and closes those that have not answered for `silence_ns`.
    pub(crate) fn tend(&mut self, now: Nanos, silence_ns: u64) {
        for at in 0..self.connections.len() {
            let since = match self.connections[at].state {
                State::Down { until } => {
                    if until <= now {
                        self.open(at, now);
                    }
                    None
                }
                State::Connecting { since } | State::Greeting { since } => Some(since),
                State::Ready => self.connections[at].oldest(),
            };
            if since.is_some_and(|since| now.since(since) > silence_ns) {
                self.lose(at, Failure::TimedOut, "no answer in time", now);
            }
        }
    }

    /// Gives every ready connection work.
    pub(crate) fn poke(&mut self, now: Nanos) {
        for at in 0..self.connections.len() {
            self.fill(at, now);
        }
    }

    fn open(&mut self, at: usize, now: Nanos) {
        let connection = &mut self.connections[at];
        let address = self.endpoints[usize::from(connection.endpoint)].address;
        let opened = connection.open(address, now).and_then(|()| match &connection.stream {
            Some(stream) => self.poll.watch(stream, at as u64),
            None => Ok(()),
        });
        if let Err(error) = opened {
            self.lose(at, Failure::ConnectionLost, &error.to_string(), now);
        }
    }

    fn serve(&mut self, ready: Ready) {
        let at = ready.token as usize;
        if let State::Connecting { .. } = self.connections[at].state
            && (ready.writable || ready.closing)
        {
            let now = self.parts.clock.now();
            let error =
                self.connections[at].stream.as_ref().and_then(|stream| stream.take_error().transpose());
            match error {
                None => {
                    let connection = &mut self.connections[at];
                    if self.parts.protocol.greet(&mut connection.out) {
                        connection.state = State::Greeting { since: now };
                        self.list(at);
                    } else {
                        self.become_ready(at, now);
                    }
                }
                Some(Ok(error)) | Some(Err(error)) => {
                    return self.lose(at, Failure::ConnectionLost, &error.to_string(), now);
                }
            }
        }
        if ready.readable {
            self.receive(at, ready.closing);
        }
        if ready.writable && !self.connections[at].out.is_empty() {
            self.list(at);
        }
    }

    fn become_ready(&mut self, at: usize, now: Nanos) {
        let connection = &mut self.connections[at];
        connection.ready();
        let endpoint = &mut self.endpoints[usize::from(connection.endpoint)];
        endpoint.ready += 1;
        endpoint.room += connection.room();
        self.fill(at, now);
    }

    /// Reads what has arrived, settles it, and refills the connection.
    fn receive(&mut self, at: usize, closing: bool) {
        let mut buffer = std::mem::take(&mut self.receive);
        loop {
            let connection = &mut self.connections[at];
            let have = connection.partial.len();
            if buffer.len() < have + RECEIVE_BYTES / 2 {
                buffer.resize(have * 2 + RECEIVE_BYTES, 0);
            }
            buffer[..have].copy_from_slice(&connection.partial);
            let read = connection.read(&mut buffer[have..]);
            let now = self.parts.clock.now();
            let count = match read {
                Ok(None) => break,
                Ok(Some(0)) => {
                    self.lose(at, Failure::ConnectionLost, "closed by the server", now);
                    break;
                }
                Ok(Some(count)) => count,
                Err(error) => {
                    self.lose(at, Failure::ConnectionLost, &error.to_string(), now);
                    break;
                }
            };
            match self.settle_all(at, &buffer[..have + count], now) {
                Ok(used) if have + count - used <= ANSWER_BYTES_MAX => {
                    let connection = &mut self.connections[at];
                    connection.partial.clear();
                    connection.partial.extend_from_slice(&buffer[used..have + count]);
                }
                Ok(_) => {
                    self.lose(at, Failure::ConnectionLost, "an answer without an end", now);
                    break;
                }
                Err(Garbled(why)) => {
                    self.lose(at, Failure::ConnectionLost, &why, now);
                    break;
                }
            }
            self.fill(at, now);
            // A read that did not fill the buffer emptied the socket; only the end may be left to read.
            if have + count < buffer.len() && !closing {
                break;
            }
        }
        self.receive = buffer;
    }

    /// Settles every whole answer at the front of `bytes`, and says how many bytes they took.
    #[inline]
    fn settle_all(&mut self, at: usize, bytes: &[u8], now: Nanos) -> Result<usize, Garbled> {
        let mut used = 0;
        while let Step::Answer { bytes: len, request, stale, answer } =
            self.parts.protocol.step(&bytes[used..])?
        {
            used += len;
            self.tally.stale_topology += u64::from(stale);
            if let State::Greeting { .. } = self.connections[at].state {
                match answer {
                    Answer::Greeted => self.become_ready(at, now),
                    Answer::Failed(failure) => return Err(Garbled(format!("refused as {}", failure.name()))),
                    Answer::Value(_) | Answer::Absent | Answer::Done => {
                        return Err(Garbled("an answer before the greeting's".to_owned()));
                    }
                }
                continue;
            }
            let Some(pending) = self.connections[at].finish(request, P::FIFO) else {
                return Err(Garbled("an answer to no request".to_owned()));
            };
            self.endpoints[usize::from(self.connections[at].endpoint)].room += 1;
            self.in_flight -= 1;
            self.settle(&pending, answer, now)?;
        }
        Ok(used)
    }

    /// Counts and judges one outcome.
    #[inline]
    fn settle(&mut self, pending: &Pending, answer: Answer<'_>, now: Nanos) -> Result<(), Garbled> {
        let Some(plan) = &self.plan else { return Ok(()) };
        let (counted, open_loop) = (plan.counts(pending.intended, now), plan.open_loop);
        let record = pending.record;
        let checker = self.parts.checker.as_mut().filter(|_| pending.checked);
        let failure = match (pending.kind, answer) {
            (Kind::Read, Answer::Value(_) | Answer::Absent) => {
                let value = if let Answer::Value(value) = answer { Some(value) } else { None };
                self.tally.absent += u64::from(counted && value.is_none());
                if let Some(checker) = checker {
                    let verdict = checker.end_read(record, pending.counter, value);
                    self.tally.verdicts.count(verdict);
                    self.complain_of(verdict, record, pending.counter, value);
                }
                None
            }
            (Kind::Write, Answer::Done) => {
                if let Some(checker) = checker {
                    checker.acknowledged(record, pending.counter);
                }
                None
            }
            (Kind::Read, Answer::Failed(failure)) => Some(failure),
            (Kind::Write, Answer::Failed(failure)) => {
                if let Some(checker) = checker {
                    match failure.certainty() {
                        Certainty::NotApplied => checker.refused(record, pending.counter),
                        Certainty::Unknown => checker.unknown(record, pending.counter),
                    }
                }
                Some(failure)
            }
            (Kind::Read, Answer::Done)
            | (Kind::Write, Answer::Value(_) | Answer::Absent)
            | (_, Answer::Greeted) => {
                // The outcome is not known, and the connection can no longer be trusted.
                self.settle(pending, Answer::Failed(Failure::ConnectionLost), now)?;
                return Err(Garbled("an answer of another kind than the request".to_owned()));
            }
        };
        match failure {
            None => {
                self.last_success = now;
                if counted {
                    let service = open_loop.then(|| now.since(pending.sent));
                    self.tally.answered(pending.kind, now.since(pending.intended), service);
                }
            }
            Some(failure) => {
                if counted {
                    self.tally.failed(pending.kind, failure);
                }
                if let Some(plan) = &mut self.plan {
                    plan.failed(pending.kind, record, now);
                }
            }
        }
        Ok(())
    }

    fn complain_of(&mut self, verdict: Verdict, record: u64, floor: u32, value: Option<&[u8]>) {
        let Some(what) = verdict.complaint() else { return };
        if self.complaints.len() < COMPLAINTS_MAX {
            let key = self.parts.keys.key(record).escape_ascii().to_string();
            let head = value.map(|value| value[..value.len().min(16)].escape_ascii().to_string());
            let found = head.map_or(String::new(), |head| format!(", found \"{head}\""));
            self.complaints.push(format!("key {key} {what} (write {floor} was acknowledged or seen{found})"));
        }
    }

    /// Closes a connection; what was under way on it fails.
    fn lose(&mut self, at: usize, failure: Failure, why: &str, now: Nanos) {
        let connection = &mut self.connections[at];
        let at_endpoint = usize::from(connection.endpoint);
        if connection.state == State::Ready {
            self.endpoints[at_endpoint].ready -= 1;
            self.endpoints[at_endpoint].room -= connection.room();
            self.tally.disconnects += 1;
        }
        connection.close(now);
        let complaint = format!("{}: {why}", self.endpoints[at_endpoint].address);
        if self.complaints.len() < COMPLAINTS_MAX && !self.complaints.contains(&complaint) {
            self.complaints.push(complaint);
        }
        while let Some(pending) = self.connections[at].take_any() {
            self.in_flight -= 1;
            let settled = self.settle(&pending, Answer::Failed(failure), now);
            assert!(settled.is_ok(), "a failure answers either kind of operation");
        }
        if self.endpoints[at_endpoint].ready == 0 {
            let stranded = std::mem::take(&mut self.endpoints[at_endpoint].queue);
            for op in stranded {
                self.submit(op, now);
            }
        }
    }

    /// The endpoint an operation goes to: the first of its owners that has a connection, or any that has one.
    #[inline]
    fn route(&mut self, record: u64) -> Option<usize> {
        let ready = |at: usize| self.endpoints[at].ready > 0;
        if self.endpoints.len() > 1 {
            let key = self.parts.keys.key(record);
            let owners = self.parts.routes.owners(key).iter().map(|at| usize::from(*at));
            let owner = { owners }.find(|at| ready(*at));
            if owner.is_some() {
                return owner;
            }
            self.turn += 1;
        }
        let count = self.endpoints.len();
        (0..count).map(|at| (at + self.turn) % count).find(|at| ready(*at))
    }

    /// Sends on a connection as long as it has room: what waits for its endpoint, then, in closed loop, new draws.
    #[inline]
    fn fill(&mut self, at: usize, now: Nanos) {
        let mut foreign = 0;
        let own = usize::from(self.connections[at].endpoint);
        while self.connections[at].has_room() {
            if let Some(op) = self.endpoints[own].queue.pop_front() {
                self.start(at, op, now);
                continue;
            }
            if foreign == FOREIGN_DRAWS_MAX {
                return;
            }
            let drawn = match &mut self.plan {
                Some(plan) if !plan.open_loop => plan.draw(&mut self.rng, now, now),
                Some(_) | None => None,
            };
            let Some(op) = drawn else { return };
            let to = self.route(op.record).expect("this connection is ready, so there is a way");
            if to == own {
                self.start(at, op, now);
                continue;
            }
            foreign += 1;
            if let Some(op) = self.hand_over(to, op, CLOSED_QUEUE_OPS_MAX, now)
                && let Some(plan) = &mut self.plan
                && plan.give_back(op)
            {
                return;
            }
        }
    }

    /// Sends on any connection of an endpoint, or queues; gives the operation back when the queue is full.
    fn hand_over(&mut self, to: usize, op: Op, queue_ops_max: usize, now: Nanos) -> Option<Op> {
        let endpoint = &mut self.endpoints[to];
        if endpoint.room > 0 {
            let count = endpoint.connections.len();
            let turns = (0..count).map(|turn| endpoint.connections[(endpoint.turn + turn) % count]);
            let at = { turns }.find(|at| self.connections[*at].has_room());
            endpoint.turn = (endpoint.turn + 1) % count;
            self.start(at.expect("an endpoint's room is its ready connections' room"), op, now);
            return None;
        }
        if endpoint.queue.len() >= queue_ops_max {
            return Some(op);
        }
        endpoint.queue.push_back(op);
        None
    }

    /// Open loop: draws the operation that was due at `due` and sends or queues it; `false` when there is none left.
    #[inline]
    pub(crate) fn issue(&mut self, due: Nanos, now: Nanos) -> bool {
        let drawn = self.plan.as_mut().and_then(|plan| plan.draw(&mut self.rng, due, now));
        if let Some(op) = drawn {
            self.submit(op, now);
        }
        drawn.is_some()
    }

    /// Routes an operation by itself, not for a connection that asks for one.
    fn submit(&mut self, op: Op, now: Nanos) {
        let open_loop = self.is_open_loop();
        let Some(to) = self.route(op.record) else {
            return self.unsent(op, Failure::NotConnected, now);
        };
        if open_loop && self.endpoints[to].room > 0 && now.since(op.intended) > LATE_NS {
            self.tally.late += 1;
        }
        let queue_ops_max = if open_loop { OPEN_QUEUE_OPS_MAX } else { CLOSED_QUEUE_OPS_MAX };
        if let Some(op) = self.hand_over(to, op, queue_ops_max, now) {
            self.unsent(op, Failure::NotSent, now);
        }
    }

    /// Counts an operation that was never sent.
    fn unsent(&mut self, op: Op, failure: Failure, now: Nanos) {
        let Op { kind, record, intended } = op;
        let pending = Pending { kind, record, intended, sent: now, counter: 0, checked: false };
        let settled = self.settle(&pending, Answer::Failed(failure), now);
        assert!(settled.is_ok(), "a failure answers either kind of operation");
    }

    /// Encodes an operation on a connection that has room.
    #[inline]
    fn start(&mut self, at: usize, op: Op, now: Nanos) {
        let Op { mut kind, record, intended } = op;
        let open_loop = self.is_open_loop();
        let counter = match (&mut self.parts.checker, kind) {
            (None, Kind::Read) => 0,
            (None, Kind::Write) => {
                self.counter = self.counter.wrapping_add(1).max(1);
                self.counter
            }
            (Some(checker), Kind::Read) => checker.begin_read(record),
            (Some(checker), Kind::Write) => checker.begin_write(record).unwrap_or_else(|| {
                kind = Kind::Read;
                checker.begin_read(record)
            }),
        };
        let pending = Pending {
            kind,
            record,
            intended: if open_loop { intended } else { now },
            sent: now,
            counter,
            checked: self.parts.checker.is_some(),
        };
        let connection = &mut self.connections[at];
        let request = connection.begin(pending, P::FIFO);
        self.endpoints[usize::from(connection.endpoint)].room -= 1;
        self.in_flight += 1;
        let key = self.parts.keys.key(record);
        match kind {
            Kind::Read => self.parts.protocol.get(request, key, &mut connection.out),
            Kind::Write => {
                let stamp = Stamp { run: self.parts.run, counter };
                write_value(record, stamp, self.parts.value_size, &mut self.value);
                self.parts.protocol.put(request, key, &self.value, &mut connection.out);
            }
        }
        self.list(at);
    }

    #[inline]
    fn list(&mut self, at: usize) {
        if !self.connections[at].listed {
            self.connections[at].listed = true;
            self.listed.push(at);
        }
    }

    /// Writes what this wake has encoded, once per connection.
    pub(crate) fn flush(&mut self, now: Nanos) {
        while let Some(at) = self.listed.pop() {
            self.connections[at].listed = false;
            if let Err(error) = self.connections[at].flush() {
                self.lose(at, Failure::ConnectionLost, &error.to_string(), now);
            }
        }
    }
}
