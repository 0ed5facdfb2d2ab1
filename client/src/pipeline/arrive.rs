//! What arrives from servers: handshakes, replies, errors; and what follows for the call each belongs to.

use super::batch::outcomes_of;
use super::call::{Call, Owner, Place, slot_and_attempt};
use super::{Completion, ConnectionId, Pipeline, REFRESH_INTERVAL, REFRESH_INTERVAL_MAX, Stage};
use crate::backoff::{backoff, jittered};
use crate::outcome::{ReadError, UnknownReason, Value, WriteOutcome};
use crate::retry::{Next, after};
use crate::router::{Last, Stop};
use crate::session::{Arrival, Session, SessionError};
use crate::siblings::{Context, Siblings};
use ferrite_wire::{Epoch, ErrorCode, Fault, FrameHeader, FrameKind, Item, Key, Reply, Request, Topology};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// So many faults servers may answer a call with at least before the last one is its answer. They may be as many as its key has replicas.
const FAULTS_LEAST: usize = 3;

/// Longest pause after a server said for the first time that it is overloaded. It is drawn from the upper half of this, so that not all whom one server refused at a
/// moment come back at a moment.
const OVERLOAD_PAUSE: Duration = Duration::from_millis(8);
/// A call that meets one overloaded server after another pauses at most this many times as long.
const PAUSES_MAX: u32 = 8;

impl Pipeline {
    /// Bytes arrived on a connection.
    pub fn handle_bytes(&mut self, now: Instant, connection: ConnectionId, bytes: &[u8]) {
        let Some(open) = self.connection_mut(connection) else { return };
        open.heard_at = now;
        open.session.as_mut().expect("not being read").receive(bytes);
        // The session lends its replies while calls and other connections change; until it is back, calls for this
        // connection wait.
        let Some(mut session) = open.session.take() else {
            unreachable!("bytes are not read within reading")
        };
        let ended = self.read_all(now, connection, &mut session);
        let at = connection.slot as usize;
        self.connection_mut(connection).expect("open while it is read").session = Some(session);
        match ended {
            Ok(()) => self.settle(now, at),
            Err(error) => {
                let endpoint = self.connection_mut(connection).expect("open while it is read").endpoint;
                self.router.endpoint_mut(endpoint).refusal = error.refusal();
                self.close(connection);
                self.lose(now, at, &error.to_string());
            }
        }
    }

    fn read_all(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        session: &mut Session,
    ) -> Result<(), SessionError> {
        loop {
            match session.poll_arrival()? {
                None => return Ok(()),
                Some(Arrival::Ready { server, time }) => {
                    self.highest_time = self.highest_time.max(time);
                    let open = self.connection_mut(connection).expect("open while it is read");
                    open.stage = Stage::Ready;
                    let endpoint = open.endpoint;
                    let endpoint = self.router.endpoint_mut(endpoint);
                    (endpoint.failures, endpoint.retry_at) = (0, None);
                    endpoint.last_error.clear();
                    endpoint.refusal = None;
                    if self.router.topology().is_some_and(|topology| topology.epoch < server.epoch) {
                        self.want_refresh(now);
                    }
                }
                Some(Arrival::Reply { header, reply }) => {
                    self.take_reply(now, connection, header, reply)?;
                }
            }
        }
    }

    /// After replies: send what waited for room, close what has drained.
    fn settle(&mut self, now: Instant, at: usize) {
        let connection = self.connections[at].as_ref().expect("an open connection");
        match connection.stage {
            Stage::Opening => {}
            Stage::Ready => self.pump(now, at),
            Stage::Draining if connection.in_flight == 0 => {
                let id = connection.id;
                self.close(id);
                self.connections[at] = None;
            }
            Stage::Draining => {}
        }
    }

    fn take_reply(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        header: FrameHeader,
        reply: Reply<'_>,
    ) -> Result<(), SessionError> {
        self.highest_time = self.highest_time.max(header.time);
        let (slot, attempt) = slot_and_attempt(header.request);
        let awaited = self.calls.get(slot).and_then(|call| match call.place {
            Place::Sent { connection: on, at, number, .. } if on == connection && call.attempt == attempt => {
                Some((call.kind, now.saturating_duration_since(at), call.is_probe, number))
            }
            Place::Waiting(_) | Place::Sent { .. } | Place::Paused(_) => None,
        });
        let Some((kind, took, is_probe, number)) = awaited else {
            self.stray_replies += 1;
            return Ok(());
        };
        let open = self.connection_mut(connection).expect("open while it is read");
        open.in_flight -= 1;
        open.answered = open.answered.max(number);
        let endpoint = open.endpoint;
        // How fast somebody refuses says nothing of how fast it serves.
        if !matches!(reply, Reply::Error { .. }) {
            self.note_pace(endpoint, kind, took, is_probe);
        }
        if header.flags.is_stale() {
            self.want_refresh(now);
        }
        let completion = match (kind, reply) {
            (_, Reply::Error { code, text }) => {
                self.take_fault(now, slot, Fault { code, text: text.to_owned() });
                return Ok(());
            }
            (FrameKind::Get, Reply::Value { version, answered, value }) => {
                let value = Value { bytes: value.to_vec(), version, answered };
                Completion::Read(Ok(Siblings::of_one(Some(value), answered)))
            }
            (FrameKind::Get, Reply::Absent { answered }) => {
                Completion::Read(Ok(Siblings::of_one(None, answered)))
            }
            (FrameKind::Get, Reply::Siblings { answered, siblings }) => {
                Completion::Read(Ok(own(&siblings, answered)))
            }
            (FrameKind::Put | FrameKind::Delete, Reply::Done { version, answered, sloppy }) => {
                Completion::Write(WriteOutcome::Done { version, answered, sloppy })
            }
            (FrameKind::MultiGet, Reply::Values(items)) => {
                let call = self.calls.open(slot);
                let Ok(Request::MultiGet { keys, .. }) = Request::decode(call.kind, &call.body) else {
                    unreachable!("the client encoded it");
                };
                if keys.len() != items.len() {
                    return Err(misfit(header));
                }
                Completion::Reads(items.iter().map(|item| item_result(&item)).collect())
            }
            (FrameKind::MultiPut, Reply::Outcomes(outcomes)) => {
                let call = self.calls.open(slot);
                let Ok(Request::MultiPut { entries, .. }) = Request::decode(call.kind, &call.body) else {
                    unreachable!("the client encoded it");
                };
                if entries.len() != outcomes.len() {
                    return Err(misfit(header));
                }
                Completion::Writes(outcomes_of(&outcomes))
            }
            (FrameKind::Ping, Reply::Pong) => Completion::Pong(Ok(())),
            (FrameKind::Status | FrameKind::Hints, Reply::Status(text)) => {
                Completion::Status(Ok(text.to_owned()))
            }
            (FrameKind::Topology, Reply::Topology(bytes)) => {
                let topology = Arc::new(Topology::decode(bytes)?);
                Completion::Topology(self.learn(now, topology))
            }
            // The call is lost with its connection: a write may well have been applied.
            _ => return Err(misfit(header)),
        };
        self.complete(now, slot, completion);
        Ok(())
    }

    fn learn(&mut self, now: Instant, topology: Arc<Topology>) -> Result<Arc<Topology>, ReadError> {
        let expected = self.options.cluster.or(self.router.topology().map(|known| known.cluster));
        if expected.is_some_and(|expected| expected != topology.cluster) {
            let text = format!("the topology is that of cluster {}", topology.cluster);
            return Err(ReadError::Refused(Fault { code: ErrorCode::ForeignCluster, text }));
        }
        self.router.install(topology.clone());
        self.expect_the_rest(now);
        Ok(topology)
    }

    /// A member learns another's endpoints and cores from it, some time after they have met, and without a newer epoch:
    /// as long as some are missing the topology is fetched again, ever more rarely.
    fn expect_the_rest(&mut self, now: Instant) {
        if self.router.is_complete() {
            (self.refresh.incomplete, self.refresh.due_at) = (0, None);
            return;
        }
        self.refresh.incomplete = self.refresh.incomplete.saturating_add(1);
        let wait =
            backoff(self.refresh.incomplete, 2 * REFRESH_INTERVAL, REFRESH_INTERVAL_MAX, &mut self.random);
        self.refresh.due_at = Some(now + wait);
        self.wake_by(now + wait);
    }

    pub(super) fn take_fault(&mut self, now: Instant, slot: u32, fault: Fault) {
        let call = self.calls.open(slot);
        let next = after(fault.code, call.is_write());
        call.place = Place::Paused(now);
        call.faults += 1;
        let (faults, target) = (call.faults, call.target);
        if next == Next::Unknown {
            let outcome = WriteOutcome::Unknown(UnknownReason::Server(fault));
            return self.complete(now, slot, Completion::Write(outcome));
        }
        call.last_fault = Some(fault);
        let faults_max = self.router.replicas_count(target).max(FAULTS_LEAST);
        match next {
            Next::Answer | Next::Unknown => self.finish_spent(now, slot),
            Next::OtherReplica if faults as usize >= faults_max => self.finish_spent(now, slot),
            Next::OtherReplica => self.route(now, slot),
            Next::AfterPause => self.pause_after_overload(now, slot, faults),
        }
    }

    /// The other addresses come first; once all of them are overloaded the round begins anew.
    fn pause_after_overload(&mut self, now: Instant, slot: u32, faults: u32) {
        let until = now + jittered(OVERLOAD_PAUSE * faults.min(PAUSES_MAX), &mut self.random);
        let call = self.calls.get(slot).expect("an open call");
        let mut has_others = false;
        self.router.candidates(call.target, &Last::NONE, |endpoint| {
            has_others = !call.has_tried(endpoint);
            if has_others { Stop::Yes } else { Stop::No }
        });
        let tried_len = if has_others { call.tried_len } else { 0 };
        self.pause(slot, until);
        self.calls.open(slot).tried_len = tried_len;
    }

    /// A sent call's time on its connection is up. A connection that has said nothing since takes no more calls. Nor does one that may not have delivered a write yet, for
    /// nothing that was sent behind it is answered: it is reset once it owes no other call anything.
    pub(super) fn stop_waiting_for(
        &mut self,
        now: Instant,
        slot: u32,
        connection: ConnectionId,
        sent_at: Instant,
        number: u64,
    ) {
        let owed = self.calls.get(slot).map(|call| (call.kind, call.is_probe));
        if let (Some((kind, is_probe)), Some(open)) = (owed, self.connection_mut(connection)) {
            let endpoint = open.endpoint;
            self.note_pace(endpoint, kind, now.saturating_duration_since(sent_at), is_probe);
        }
        let is_write = self.calls.get(slot).is_some_and(Call::is_write);
        if self.calls.get(slot).is_some_and(|call| call.deadline <= now) {
            self.finish_late(now, slot);
        } else {
            self.route(now, slot);
        }
        let Some(open) = self.connection_mut(connection) else { return };
        open.in_flight -= 1;
        let has_left = number + open.leaving.len() as u64 <= open.sent;
        let owes_write = is_write && has_left && open.answered < number;
        open.owes_write |= owes_write;
        let at = connection.slot as usize;
        let is_silent = open.heard_at <= sent_at;
        if open.stage == Stage::Ready && (is_silent || owes_write) {
            open.stage = Stage::Draining;
            let (endpoint, waiting) = (open.endpoint, std::mem::take(&mut open.waiting));
            if is_silent {
                self.note_failure(now, endpoint, at, "no reply in time");
            } else {
                self.router.endpoint_mut(endpoint).connections.retain(|known| *known != at);
            }
            for (slot, attempt) in waiting {
                if self
                    .calls
                    .get(slot)
                    .is_some_and(|call| call.attempt == attempt && call.place == Place::Waiting(connection))
                {
                    self.route(now, slot);
                }
            }
            self.want_refresh(now);
        }
        if self.connection_mut(connection).is_some() {
            self.settle(now, at);
        }
    }

    /// Hands a call's end to whoever waits for it.
    pub(super) fn complete(&mut self, now: Instant, slot: u32, completion: Completion) {
        let call = self.calls.remove(slot);
        match &call.owner {
            Owner::Front(tag) => self.completions.push_back((*tag, completion)),
            Owner::Refresh => {
                let Completion::Topology(fetched) = completion else {
                    unreachable!("a fetch of the topology ends as one, not {completion:?}");
                };
                self.refresh.is_running = false;
                self.refresh.not_before = Some(now + REFRESH_INTERVAL);
                self.answer_lookups(&fetched);
                self.refresh.failed = fetched.err();
                if self.refresh.is_wanted {
                    self.want_refresh(now);
                }
            }
            Owner::Writes { batch, places } => {
                let again = match &completion {
                    Completion::Writes(outcomes) => self.writes_again(now, &call, *batch, places, outcomes),
                    _ => Vec::new(),
                };
                self.take_part(now, *batch, places, completion, again);
            }
            Owner::Part { gather, places } => {
                let mut again = Vec::new();
                if let (FrameKind::MultiGet, Completion::Reads(answers)) = (call.kind, &completion) {
                    let Ok(Request::MultiGet { keys, level, .. }) = Request::decode(call.kind, &call.body)
                    else {
                        unreachable!("the client encoded it");
                    };
                    for ((key, answer), place) in keys.iter().zip(answers).zip(places) {
                        if is_crowded_out(answer) {
                            again.push((*place, self.router.target(&key), encode_get(level, key)));
                        }
                    }
                }
                self.gather_part(now, *gather, places, completion, call.deadline, again);
            }
        }
        self.calls.recycle(call.body);
    }
}

/// A reply that does not fit its request.
fn misfit(header: FrameHeader) -> SessionError {
    SessionError::Unexpected(header.kind)
}

fn item_result(item: &Item<'_>) -> Result<Siblings, ReadError> {
    match *item {
        Item::Value { answered, version, value } => {
            let value = Value { bytes: value.to_vec(), version, answered };
            Ok(Siblings::of_one(Some(value), answered))
        }
        Item::Absent { answered } => Ok(Siblings::of_one(None, answered)),
        Item::Siblings { answered, ref siblings } => Ok(own(siblings, answered)),
        Item::Error(code) => Err(ReadError::Refused(Fault { code, text: String::new() })),
    }
}

fn own(siblings: &ferrite_wire::Siblings<'_>, answered: u8) -> Siblings {
    let value = |sibling: ferrite_wire::SiblingValue<'_>| Value {
        bytes: sibling.value.to_vec(),
        version: sibling.version,
        answered,
    };
    let context = Context::from_bytes(siblings.context());
    Siblings { values: siblings.iter().map(value).collect(), context, answered }
}

/// Whether a multi-get's reply had no room for this value.
fn is_crowded_out(answer: &Result<Siblings, ReadError>) -> bool {
    matches!(answer, Err(ReadError::Refused(fault)) if fault.code == ErrorCode::TooLarge)
}

fn encode_get(level: ferrite_wire::Level, key: Key<'_>) -> Vec<u8> {
    let mut body = Vec::new();
    Request::Get { epoch: Epoch(0), level, options: 0, key }.encode(&mut body);
    body
}
