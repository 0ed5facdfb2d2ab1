//! From an accepted call to a connection: which address, which of its connections, when to pause, when to give up.
//!
//! A round visits the addresses for the call in order ([`super::order`]), each once, leaving out those in backoff. When a round is spent,
//! an error that a server answered ends the call; otherwise nobody was reached, and the call pauses until the first
//! address may be tried again.

use super::call::{Call, Owner, Place, TRIED_MAX};
use super::order::measured;
use super::{Completion, Operation, Pipeline, Stage};
use crate::WriteOptions;
use crate::outcome::{ReadError, UnknownReason, WriteOutcome};
use crate::pace::Class;
use crate::router::{EndpointId, Last, Stop, Target};
use crate::siblings::Replaces;
use ferrite_wire::{
    Epoch, ErrorCode, Fault, FrameKind, Key, Level, OVERWRITE, Request, SLOPPY, TTL_NEVER, limits,
};
use std::time::{Duration, Instant};

/// Most attempts of one call, refused connections included.
pub(super) const ATTEMPTS_MAX: u32 = 64;
/// A read is given at least this long by one replica before the next is asked.
const ATTEMPT_MIN: Duration = Duration::from_millis(20);
/// Pause between two rounds in which no address was in backoff.
const ROUND_PAUSE: Duration = Duration::from_millis(5);

impl Pipeline {
    pub(super) fn accept(&mut self, now: Instant, tag: u64, operation: Operation<'_>) {
        let timeout = match operation {
            Operation::Table(_) => None,
            Operation::Get(_, options)
            | Operation::MultiGet(_, options)
            | Operation::Ping(_, options)
            | Operation::Status(_, options)
            | Operation::Hints(_, _, options)
            | Operation::Topology(_, options) => options.timeout,
            Operation::MultiPut(_, options)
            | Operation::Put(_, _, options)
            | Operation::Delete(_, options)
            | Operation::PutReplacing(_, _, _, options)
            | Operation::DeleteReplacing(_, _, options) => options.timeout,
        };
        let deadline = now + timeout.unwrap_or(self.options.timeout);
        if let Some(table) = self.known_table(&operation) {
            self.completions.push_back((tag, Completion::Table(Ok(table))));
            return;
        }
        if let Some(fault) = self.refusal(&operation) {
            self.completions.push_back((tag, refused(&operation, fault)));
            return;
        }
        let (target, level) = match operation {
            Operation::Table(name) => return self.accept_lookup(now, tag, name),
            Operation::MultiGet(keys, options) => {
                let level = options.level.unwrap_or(self.options.level);
                return self.accept_multi_get(now, tag, keys, level, deadline);
            }
            Operation::MultiPut(entries, write) => {
                let options = if write.sloppy { SLOPPY } else { 0 };
                return self.accept_batch(now, tag, entries, write, options, deadline);
            }
            Operation::Get(key, options) => (self.router.target(&key), options.level),
            Operation::Put(key, _, options)
            | Operation::Delete(key, options)
            | Operation::PutReplacing(key, _, _, options)
            | Operation::DeleteReplacing(key, _, options) => (self.router.target(&key), options.level),
            Operation::Ping(at, _)
            | Operation::Status(at, _)
            | Operation::Hints(at, _, _)
            | Operation::Topology(at, _) => {
                (at.map_or(Target::Anyone, |at| Target::Address(self.router.endpoint_at(at))), None)
            }
        };
        let (epoch, level) = (Epoch(0), level.unwrap_or(self.options.level));
        let sloppy = |write: WriteOptions| if write.sloppy { SLOPPY } else { 0 };
        let request = match operation {
            Operation::Get(key, _) => Request::Get { epoch, level, options: 0, key },
            Operation::Put(key, value, write) => {
                let options = sloppy(write);
                Request::Put { epoch, level, options, key, ttl_ms: ttl_ms(write), context: b"", value }
            }
            Operation::PutReplacing(key, value, replaces, write) => {
                let (overwrites, context) = what_is_replaced(replaces);
                let options = overwrites | sloppy(write);
                Request::Put { epoch, level, options, key, ttl_ms: ttl_ms(write), context, value }
            }
            Operation::Delete(key, write) => {
                Request::Delete { epoch, level, options: sloppy(write), key, context: b"" }
            }
            Operation::DeleteReplacing(key, replaces, write) => {
                let (overwrites, context) = what_is_replaced(replaces);
                let options = overwrites | sloppy(write);
                Request::Delete { epoch, level, options, key, context }
            }
            Operation::Ping(..) => Request::Ping,
            Operation::Status(..) => Request::Status,
            Operation::Hints(_, action, _) => Request::Hints(action),
            Operation::Topology(..) => Request::Topology { have: Epoch(0) },
            Operation::MultiGet(..) | Operation::MultiPut(..) | Operation::Table(..) => {
                unreachable!("accepted above")
            }
        };
        let mut body = self.calls.buffer();
        request.encode(&mut body);
        self.start(now, Owner::Front(tag), request.kind(), target, body, deadline);
    }

    fn refusal(&self, operation: &Operation<'_>) -> Option<Fault> {
        if self.calls_open() >= self.options.calls_max {
            let text = format!("this client already has {} calls open", self.options.calls_max);
            return Some(Fault { code: ErrorCode::Overloaded, text });
        }
        let key_too_long = |key: &Key<'_>| {
            (key.partition.len() + key.sort.len() > limits::KEY_BYTES_MAX)
                .then(|| format!("a key has at most {} bytes", limits::KEY_BYTES_MAX))
        };
        let value_too_long = |value: &[u8]| {
            (value.len() > limits::VALUE_BYTES_MAX)
                .then(|| format!("a value has at most {} bytes", limits::VALUE_BYTES_MAX))
        };
        let context_too_long = |replaces: &Replaces<'_>| {
            (what_is_replaced(*replaces).1.len() > limits::CONTEXT_BYTES_MAX)
                .then(|| format!("a context has at most {} bytes", limits::CONTEXT_BYTES_MAX))
        };
        let too_large = match operation {
            Operation::Get(key, _) | Operation::Delete(key, _) => key_too_long(key),
            Operation::DeleteReplacing(key, replaces, _) => {
                key_too_long(key).or_else(|| context_too_long(replaces))
            }
            Operation::PutReplacing(key, value, replaces, _) => {
                key_too_long(key).or_else(|| value_too_long(value)).or_else(|| context_too_long(replaces))
            }
            Operation::MultiGet(keys, _) => keys.iter().find_map(key_too_long),
            Operation::Put(key, value, _) => key_too_long(key).or_else(|| value_too_long(value)),
            // Each entry of a batch has an outcome of its own.
            Operation::MultiPut(..)
            | Operation::Ping(..)
            | Operation::Status(..)
            | Operation::Hints(..)
            | Operation::Topology(..)
            | Operation::Table(..) => None,
        };
        if let Some(text) = too_large {
            return Some(Fault { code: ErrorCode::TooLarge, text });
        }
        let level = match operation {
            Operation::Get(_, options) | Operation::MultiGet(_, options) => options.level,
            Operation::MultiPut(_, options)
            | Operation::Put(_, _, options)
            | Operation::Delete(_, options)
            | Operation::PutReplacing(_, _, _, options)
            | Operation::DeleteReplacing(_, _, options) => options.level,
            Operation::Ping(..)
            | Operation::Status(..)
            | Operation::Hints(..)
            | Operation::Topology(..)
            | Operation::Table(..) => None,
        };
        match level.unwrap_or(self.options.level) {
            Level::Number(count) if !(1..=limits::REPLICAS_MAX as u8).contains(&count) => Some(Fault {
                code: ErrorCode::Unsupported,
                text: format!("a numbered level is 1 to {}", limits::REPLICAS_MAX),
            }),
            _ => None,
        }
    }

    pub(super) fn start(
        &mut self,
        now: Instant,
        owner: Owner,
        kind: FrameKind,
        target: Target,
        body: Vec<u8>,
        deadline: Instant,
    ) {
        let slot = self.calls.insert(Call {
            owner,
            kind,
            target,
            body,
            deadline,
            place: Place::Paused(now),
            attempt: 0,
            attempts: 0,
            faults: 0,
            last_fault: None,
            tried: [EndpointId(0); TRIED_MAX],
            tried_len: 0,
            is_probe: false,
        });
        self.wake_by(deadline);
        self.route(now, slot);
    }

    pub(super) fn fetch_topology(&mut self, now: Instant) {
        let have = self.router.topology().map_or(Epoch(0), |topology| topology.epoch);
        let mut body = self.calls.buffer();
        Request::Topology { have }.encode(&mut body);
        let deadline = now + self.options.timeout;
        self.start(now, Owner::Refresh, FrameKind::Topology, Target::Anyone, body, deadline);
    }

    /// Finds the call's next connection, or a time to try again, or an end.
    pub(super) fn route(&mut self, now: Instant, slot: u32) {
        let call = self.calls.open(slot);
        // Whatever becomes of it, no reply to an earlier attempt may match any more.
        call.place = Place::Paused(now);
        if call.deadline <= now {
            return self.finish_late(now, slot);
        }
        if call.attempts >= ATTEMPTS_MAX {
            return self.finish_spent(now, slot);
        }
        let (target, is_first) = (call.target, call.attempts == 0);
        let may_probe = is_first && measured(call.kind).is_some();
        let class = if call.is_write() { Class::Write } else { Class::Read };
        let (last, is_probe) = self.tried_last(now, target, class, may_probe);
        self.calls.open(slot).is_probe = is_probe;
        let call = &self.calls.get(slot).expect("an open call");
        let (mut chosen, mut earliest) = (None, None::<Instant>);
        let (mut is_hopeless, mut refusal) = (true, None);
        self.router.candidates(target, &last, |endpoint| {
            let known = self.router.endpoint(endpoint);
            is_hopeless &= known.refusal.is_some();
            refusal = known.refusal.as_ref().or(refusal);
            if call.has_tried(endpoint) {
                return Stop::No;
            }
            match known.retry_at {
                Some(at) if at > now => {
                    earliest = Some(earliest.map_or(at, |known| known.min(at)));
                    Stop::No
                }
                Some(_) | None => {
                    chosen = Some(endpoint);
                    Stop::Yes
                }
            }
        });
        let refusal = refusal.filter(|_| is_hopeless).cloned();
        match chosen {
            Some(endpoint) => self.queue(now, slot, endpoint),
            None if call.last_fault.is_some() => self.finish_spent(now, slot),
            None if refusal.is_some() => {
                self.calls.open(slot).last_fault = refusal;
                self.finish_spent(now, slot);
            }
            None => self.pause(slot, earliest.unwrap_or(now + ROUND_PAUSE)),
        }
    }

    /// Ends the round: every address may be tried again from `until` on.
    pub(super) fn pause(&mut self, slot: u32, until: Instant) {
        let call = self.calls.open(slot);
        call.tried_len = 0;
        call.place = Place::Paused(until);
        let wake = until.min(call.deadline);
        self.wake_by(wake);
    }

    /// Puts a call into the queue of the address's least busy connection and sends what may be sent.
    fn queue(&mut self, now: Instant, slot: u32, endpoint: EndpointId) {
        let open = &self.router.endpoint(endpoint).connections;
        let is_full = open.len() >= self.options.connections_per_core;
        let load = |at: usize| {
            let connection = self.connections[at].as_ref().expect("endpoints know their connections");
            connection.in_flight + connection.waiting.len()
        };
        let least = open.iter().map(|at| (load(*at), *at)).min();
        let at = match least {
            Some((load, at)) if load == 0 || is_full => at,
            Some(_) | None => self.open(now, endpoint),
        };
        let attempt = self.calls.next_attempt();
        let connection = self.connections[at].as_mut().expect("just found");
        let call = self.calls.open(slot);
        call.remember(endpoint);
        call.attempts += 1;
        call.attempt = attempt;
        call.place = Place::Waiting(connection.id);
        connection.waiting.push_back((slot, attempt));
        let deadline = call.deadline;
        self.wake_by(deadline);
        self.pump(now, at);
    }

    /// Sends waiting calls while the connection has room.
    pub(super) fn pump(&mut self, now: Instant, at: usize) {
        loop {
            let connection = self.connections[at].as_mut().expect("an open connection");
            if connection.stage != Stage::Ready
                || connection.session.is_none()
                || connection.in_flight >= self.options.in_flight_per_connection
            {
                break;
            }
            let Some((slot, attempt)) = connection.waiting.pop_front() else { break };
            let id = connection.id;
            let is_current = self
                .calls
                .get(slot)
                .is_some_and(|call| call.attempt == attempt && call.place == Place::Waiting(id));
            if is_current {
                self.send(now, at, slot);
            }
        }
        self.want_send(at);
    }

    fn send(&mut self, now: Instant, at: usize, slot: u32) {
        let connection = self.connections[at].as_mut().expect("an open connection");
        let session = connection.session.as_ref().expect("not being read");
        let call = self.calls.open(slot);
        if call.deadline <= now {
            return self.finish_late(now, slot);
        }
        if call.body.len() > session.body_bytes_max() {
            let text = format!("the server takes at most {} bytes", session.body_bytes_max());
            call.last_fault = Some(Fault { code: ErrorCode::TooLarge, text });
            return self.finish_spent(now, slot);
        }
        let left = call.deadline - now;
        // A read that one replica sits on still has time for another; a write is sent once and waits to the end.
        let has_others = !matches!(call.target, Target::Address(_));
        let given = if call.is_write() || !has_others { left } else { (left / 2).max(ATTEMPT_MIN).min(left) };
        let by = now + given;
        call.set_epoch(self.router.topology().map_or(Epoch(0), |topology| topology.epoch));
        connection.sent += 1;
        call.place = Place::Sent { connection: connection.id, number: connection.sent, at: now, by };
        connection.leaving.push_back((slot, call.attempt));
        if connection.in_flight == 0 {
            connection.busy_since = now;
        }
        connection.in_flight += 1;
        self.wake_by(by);
    }

    /// Ends a call at its deadline.
    pub(super) fn finish_late(&mut self, now: Instant, slot: u32) {
        let call = self.calls.get(slot).expect("an open call");
        let detail = match &call.last_fault {
            Some(fault) => fault.to_string(),
            None => self.obstacle(call.target),
        };
        let was_sent = matches!(call.place, Place::Sent { .. });
        let kind = call.kind;
        let fault = call.last_fault.clone();
        self.finish(now, slot, |is_write| {
            if !is_write {
                return Ended::Read(ReadError::Deadline(detail));
            }
            if was_sent {
                return Ended::Write(WriteOutcome::Unknown(UnknownReason::Deadline));
            }
            let late =
                || Fault { code: ErrorCode::Expired, text: format!("never sent {}: {detail}", name(kind)) };
            Ended::Write(WriteOutcome::NotApplied(fault.unwrap_or_else(late)))
        });
    }

    /// Ends a call that nobody is left to try for.
    pub(super) fn finish_spent(&mut self, now: Instant, slot: u32) {
        let call = self.calls.get(slot).expect("an open call");
        let fault = call.last_fault.clone().unwrap_or_else(|| Fault {
            code: ErrorCode::Unavailable,
            text: format!(
                "no server was reached in {} attempts: {}",
                call.attempts,
                self.obstacle(call.target)
            ),
        });
        self.finish(now, slot, |is_write| {
            if is_write {
                Ended::Write(WriteOutcome::NotApplied(fault))
            } else {
                Ended::Read(ReadError::Refused(fault))
            }
        });
    }

    /// Ends a write whose connection was lost after it was sent.
    pub(super) fn finish_lost(&mut self, now: Instant, slot: u32, detail: &str) {
        let reason = UnknownReason::ConnectionLost(detail.to_owned());
        self.finish(now, slot, |_| Ended::Write(WriteOutcome::Unknown(reason)));
    }

    fn finish(&mut self, now: Instant, slot: u32, ended: impl FnOnce(bool) -> Ended) {
        let call = self.calls.open(slot);
        let completion = match (ended(call.is_write()), call.kind) {
            (Ended::Write(outcome), _) => Completion::Write(outcome),
            (Ended::Read(error), FrameKind::Ping) => Completion::Pong(Err(error)),
            (Ended::Read(error), FrameKind::Status | FrameKind::Hints) => Completion::Status(Err(error)),
            (Ended::Read(error), FrameKind::Topology) => Completion::Topology(Err(error)),
            (Ended::Read(error), _) => Completion::Read(Err(error)),
        };
        self.complete(now, slot, completion);
    }

    /// What last stood in the way of reaching an address for `target`.
    fn obstacle(&self, target: Target) -> String {
        let mut text = String::new();
        self.router.candidates(target, &Last::NONE, |endpoint| {
            let endpoint = self.router.endpoint(endpoint);
            if endpoint.last_error.is_empty() {
                return Stop::No;
            }
            text = format!("{}: {}", endpoint.address, endpoint.last_error);
            Stop::Yes
        });
        text
    }
}

enum Ended {
    Write(WriteOutcome),
    Read(ReadError),
}

/// The options and the context of a write.
fn what_is_replaced(replaces: Replaces<'_>) -> (u8, &[u8]) {
    match replaces {
        Replaces::Seen(context) => (0, context.as_bytes()),
        Replaces::All => (OVERWRITE, b""),
    }
}

/// The time to live of a put; 0 = the table's. One shorter than a millisecond must not become that, and one longer than can be told
/// ([`crate::FOR_EVER`] is) has no end.
pub(super) fn ttl_ms(write: WriteOptions) -> u64 {
    write.ttl.map_or(0, |ttl| u64::try_from(ttl.as_millis()).unwrap_or(TTL_NEVER).max(1))
}

fn name(kind: FrameKind) -> &'static str {
    match kind {
        FrameKind::Delete => "the delete",
        FrameKind::MultiPut => "the batch",
        _ => "the put",
    }
}

fn refused(operation: &Operation<'_>, fault: Fault) -> Completion {
    let error = |fault| ReadError::Refused(fault);
    match operation {
        Operation::Get(..) => Completion::Read(Err(error(fault))),
        Operation::MultiGet(keys, _) => {
            Completion::Reads(keys.iter().map(|_| Err(error(fault.clone()))).collect())
        }
        Operation::MultiPut(entries, _) => {
            Completion::Writes(entries.iter().map(|_| WriteOutcome::NotApplied(fault.clone())).collect())
        }
        Operation::Put(..)
        | Operation::Delete(..)
        | Operation::PutReplacing(..)
        | Operation::DeleteReplacing(..) => Completion::Write(WriteOutcome::NotApplied(fault)),
        Operation::Ping(..) => Completion::Pong(Err(error(fault))),
        Operation::Status(..) | Operation::Hints(..) => Completion::Status(Err(error(fault))),
        Operation::Topology(..) => Completion::Topology(Err(error(fault))),
        Operation::Table(..) => Completion::Table(Err(error(fault))),
    }
}
