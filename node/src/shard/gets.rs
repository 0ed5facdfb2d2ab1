//! Gets that this core answers from memory, alone or several of one receive together.
//!
//! A record is encoded from where it lies straight into the connection's out-buffer. Whole get frames that follow each other in a
//! receive are looked up as a batch, so that the memory each of them needs is fetched while the others are worked on.
//! What is not in memory, not this core's, or needs more than one replica takes the long way ([`super::requests`]).

use std::rc::Rc;

use ferrite_wire::{
    Epoch, FRAME_HEADER_BYTES, FrameFlags, FrameHeader, FrameKind, Key, Level, Order, Parsed, Reply, Request,
    RequestId, finish_frame, limits, parse_frame, start_frame,
};

use super::record::{engine_key, version_of};
use super::session::GETS_TOGETHER_MAX;
use super::sets::hash_of;
use super::{Next, Route, Shard};
use crate::env::{Connection, Env, Sent};

/// Most gets looked up together.
pub(super) const BATCH_MAX: usize = GETS_TOGETHER_MAX as usize;
/// Bytes of answers after which the rest of a batch is the next one: each is held against the bound of the out-buffer.
const BATCH_BYTES_MAX: usize = 64 * 1024;
/// Room for what surrounds a value in an answer, in bytes.
const AROUND_BYTES: usize = 96;

/// A get of a batch.
#[derive(Clone, Copy)]
struct Asked {
    id: RequestId,
    stale: bool,
    /// Where its frame starts.
    at: usize,
}

impl<E: Env> Shard<E> {
    /// The short way of a get: this core owns the key, one replica suffices, and the record is in memory. `None` = take the long
    /// way.
    #[inline]
    pub(super) fn get_here(
        &self,
        connection: Connection,
        id: RequestId,
        epoch: Epoch,
        level: Level,
        key: &Key<'_>,
    ) -> Option<Next> {
        let (route, engine_key) = self.key_here(level, key)?;
        let next = self.get_one(connection, &engine_key, id, self.is_stale(epoch))?;
        if self.is_compared_after(1, route.replicas) {
            self.rc().compare_replicas(route, key);
        }
        Some(next)
    }

    #[inline]
    fn get_one(
        &self,
        connection: Connection,
        key: &ferrite_lsm::Key<'_>,
        id: RequestId,
        stale: bool,
    ) -> Option<Next> {
        let (mut answered, mut fits) = (false, true);
        let sent = self.env.send_fitting(connection, |out, room| {
            let result = self.engine.get(*key, |record| {
                fits = bytes_about(record.as_ref()) <= room;
                if fits {
                    self.encode_found(key, record.as_ref(), id, stale, out);
                }
            });
            answered = result.is_ok() && fits;
            fits
        });
        self.counters.gets.set(self.counters.gets.get() + u64::from(answered));
        match sent {
            Sent::Queued => answered.then_some(Next::Frame),
            Sent::Gone => Some(Next::Frame),
            // A burst of reads has outgrown the out-buffer, which says nothing about how fast its answers are read.
            Sent::Full => Some(Next::Later),
            // Nothing of its own will leave and make room: it is told so.
            Sent::Crowded => {
                self.answer_without_room(connection, id, FrameKind::Value);
                Some(Next::Frame)
            }
        }
    }

    /// Answers the gets at the front of `bytes` together if there are several; says how many bytes they take.
    #[inline]
    pub(super) fn get_several(self: &Rc<Self>, connection: Connection, bytes: &[u8]) -> usize {
        let several = whole_get(bytes).and_then(|first| whole_get(&bytes[first..])).is_some();
        if several { self.get_batch(connection, bytes) } else { 0 }
    }

    fn get_batch(self: &Rc<Self>, connection: Connection, bytes: &[u8]) -> usize {
        let nothing = Key::plain(b"");
        let mut keys = [engine_key(&nothing, ferrite_wire::VnodeId(0), ferrite_wire::Token(0)); BATCH_MAX];
        let mut asked = [Asked { id: RequestId(0), stale: false, at: 0 }; BATCH_MAX];
        let together = match self.sessions.borrow_mut().get_mut(connection) {
            Some(session) => usize::from(session.gets_together),
            None => return 0,
        };
        let (mut len, mut used) = (0, 0);
        let mut compared = None;
        while len < together && whole_get(&bytes[used..]).is_some() {
            // Whatever is wrong with a frame is found again, and answered, on its own.
            let Ok(Parsed::Frame { frame, bytes: frame_bytes }) =
                parse_frame(&bytes[used..], limits::BODY_BYTES_MAX)
            else {
                break;
            };
            let Ok(Request::Get { epoch, level, key, .. }) = Request::decode(FrameKind::Get, frame.body)
            else {
                break;
            };
            let Some((route, engine_key)) = self.key_here(level, &key) else { break };
            if self.is_compared_after(1, route.replicas) {
                compared = Some((route, key));
            }
            keys[len] = engine_key;
            asked[len] = Asked { id: frame.header.request, stale: self.is_stale(epoch), at: used };
            len += 1;
            used += frame_bytes;
        }
        if len == 0 {
            // The first of them takes the long way, which says nothing about room.
            return 0;
        }
        let (keys, asked) = (&keys[..len], &asked[..len]);
        // One bit for each get whose answer is not in memory; and the first get for whose answer there was no room.
        let (mut missed, mut no_room_from) = (0u32, len);
        let sent = self.env.send_fitting(connection, |out, room| {
            let start = out.len();
            self.engine.get_batch(keys, |at, found| match found {
                _ if at >= no_room_from => {}
                Ok(record) => {
                    let before = out.len() - start;
                    if before >= BATCH_BYTES_MAX || before + bytes_about(record.as_ref()) > room {
                        no_room_from = at;
                        return;
                    }
                    let Asked { id, stale, .. } = asked[at];
                    self.encode_found(&keys[at], record.as_ref(), id, stale, out);
                }
                Err(_) => missed |= 1 << at,
            });
            no_room_from > 0
        });
        if let Some(session) = self.sessions.borrow_mut().get_mut(connection) {
            // Where values are long, or there is little room, most of a batch would be looked up in vain, again and again.
            let next = if no_room_from < len { no_room_from } else { 2 * together };
            session.gets_together = next.clamp(1, BATCH_MAX) as u8;
        }
        match sent {
            Sent::Queued => {}
            Sent::Gone => return used,
            // The first of them will find none again, alone.
            Sent::Full => return 0,
            // Each for itself: those that are short have room. One batch after the other would look all of them up for each that is refused.
            Sent::Crowded => {
                let told = |one: &(&ferrite_lsm::Key<'_>, &Asked)| {
                    self.get_one(connection, one.0, one.1.id, one.1.stale) != Some(Next::Frame)
                };
                return keys.iter().zip(asked).find(told).map_or(used, |(_, next)| next.at);
            }
        }
        if let Some((route, key)) = compared {
            self.compare_replicas(route, &key);
        }
        let answered = no_room_from as u64 - u64::from(missed.count_ones());
        self.counters.gets.set(self.counters.gets.get() + answered);
        while missed != 0 {
            let from = asked[missed.trailing_zeros() as usize].at;
            missed &= missed - 1;
            let Ok(Parsed::Frame { frame, bytes: frame_bytes }) =
                parse_frame(&bytes[from..], limits::BODY_BYTES_MAX)
            else {
                unreachable!("this frame was whole");
            };
            let request = Request::decode(FrameKind::Get, frame.body).expect("decoded above");
            self.on_request(connection, &frame, &bytes[from..from + frame_bytes], &request);
        }
        asked.get(no_room_from).map_or(used, |next| next.at)
    }

    /// The route and the engine's key, if this core may answer a get of it alone.
    #[inline]
    fn key_here<'k>(&self, level: Level, key: &Key<'k>) -> Option<(Route, ferrite_lsm::Key<'k>)> {
        let route: Route = self.route(key).ok()?;
        self.answers_alone(&route, level).then(|| (route, engine_key(key, route.vnode, route.token)))
    }

    /// Whether this core's own copy of a key is all that a read of it needs.
    #[inline]
    pub(super) fn answers_alone(&self, route: &Route, level: Level) -> bool {
        route.hop.is_none() && route.position.is_some() && level.needed(route.replicas) == 1
    }

    #[inline]
    fn is_stale(&self, epoch: Epoch) -> bool {
        epoch != Epoch(0) && epoch < self.ring.borrow().epoch()
    }

    #[inline]
    fn encode_found(
        &self,
        key: &ferrite_lsm::Key<'_>,
        record: Option<&ferrite_lsm::Record<'_>>,
        request: RequestId,
        stale: bool,
        out: &mut Vec<u8>,
    ) {
        let start = start_frame(out);
        let version = record.map(version_of);
        let mut encode = |reply: &Reply<'_>| {
            reply.encode(out);
            reply.kind()
        };
        let kind = match (record, &version) {
            (Some(record), Some(version)) => {
                self.with_reply(|| hash_of(key), version, record.value, 1, encode)
            }
            _ => encode(&Reply::Absent { answered: 1 }),
        };
        let time = version.map_or(Order(0), |version| version.order);
        let flags = FrameFlags(u8::from(stale) * FrameFlags::STALE_TOPOLOGY);
        finish_frame(out, start, &FrameHeader { kind, flags, deadline_us: 0, request, time });
    }
}

/// The length of the frame at the front of `bytes`, if it is a get and looks whole.
#[inline]
fn whole_get(bytes: &[u8]) -> Option<usize> {
    let head = bytes.first_chunk::<FRAME_HEADER_BYTES>()?;
    let body_bytes = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
    let len = FRAME_HEADER_BYTES.checked_add(body_bytes)?;
    (head[8] == FrameKind::Get as u8 && len <= bytes.len()).then_some(len)
}

/// About how long the answer will be, in bytes: its value, and a little more than what surrounds it.
#[inline]
fn bytes_about(record: Option<&ferrite_lsm::Record<'_>>) -> usize {
    AROUND_BYTES + record.map_or(0, |record| record.value.len())
}
