//! Multi-puts: one request, many writes, each with an outcome of its own, answered together in the order of the entries.
//!
//! Each entry goes the way of a put or delete of its own: to the core that owns its key or mints for it, over the log that all of a batch share, to the
//! replicas. Nothing of it waits for another entry but the answer. Bounds: so many entries as a frame may have, so many multi-puts on a
//! core, and so many parts ([`super::batches`]); beyond that one is refused whole.

use std::rc::Rc;

use ferrite_wire::{Entries, ErrorCode, FrameKind, Level, Order, Outcome, Outcomes, Reply};

use super::Shard;
use super::batches::PART_GRACE_NS;
use super::requester::Requester;
use super::slab::OperationId;
use super::upkeep::TEND_INTERVAL_NS;
use crate::env::Env;

/// Most multi-puts in flight on a core.
pub(super) const MULTI_PUTS_MAX: usize = 1_024;

/// Names a multi-put in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MultiPutId(pub(super) OperationId);

/// One multi-put in flight.
#[derive(Debug)]
pub(super) struct MultiPut {
    requester: Requester,
    outcomes: Vec<Option<Outcome>>,
    /// Which of them another core was asked for.
    asked: Vec<bool>,
    waiting: usize,
    /// The highest order that was given, or may have been.
    seen: Order,
    /// As high as another core may have minted in time, or may yet, by the wall clock of when it was asked and of each tick since.
    minted_max: Order,
    /// When nobody waits for it any more.
    pub(super) deadline_ns: u64,
}

/// What a request asks of each of its entries.
#[derive(Clone, Copy)]
pub(super) struct Terms {
    pub(super) time: Order,
    pub(super) level: Level,
    pub(super) options: u8,
    pub(super) deadline_ns: u64,
}

impl<E: Env> Shard<E> {
    /// Starts a multi-put.
    pub(super) fn multi_put(self: &Rc<Self>, requester: Requester, entries: Entries<'_>, terms: Terms) {
        let parts = entries.len();
        if !self.multi_puts.borrow().has_room() || !self.admit_parts(requester, parts) {
            return self.answer_error(requester, ErrorCode::Overloaded);
        }
        let (outcomes, deadline_ns) = (vec![None; parts], terms.deadline_ns);
        let asked = vec![false; parts];
        let (seen, minted_max) = (Order(0), self.minted_max_by(deadline_ns));
        let state = MultiPut { requester, outcomes, asked, waiting: parts, seen, minted_max, deadline_ns };
        if parts == 0 {
            return self.finish_multi_put(state);
        }
        let id = MultiPutId(self.multi_puts.borrow_mut().insert(state));
        let epoch = self.ring.borrow().epoch();
        let is_ahead = self.is_wall_ahead();
        for (index, entry) in entries.iter().enumerate() {
            let item = Requester::Entry { multi_put: id, index: index as u32 };
            let request = entry.request(epoch, terms.level, terms.options);
            let route = self.route(entry.key());
            let elsewhere = route.as_ref().ok().and_then(|route| self.elsewhere(&request, *route));
            match elsewhere {
                // That core may not know it yet. It would mint far ahead, and if it does not answer its client had to be told that it may have.
                Some(_) if is_ahead => self.answer_error(item, ErrorCode::ClockDrift),
                Some(core) => {
                    if let Some(multi_put) = self.multi_puts.borrow_mut().get_mut(id.0) {
                        multi_put.asked[index] = true;
                    }
                    self.hop_part(core, item, terms.time, &request, terms.deadline_ns);
                }
                None => self.execute_at(item, terms.time, &request, Some(route), terms.deadline_ns),
            }
        }
    }

    /// Fills in one entry's outcome; the last one sends the whole.
    pub(super) fn answer_entry(&self, id: MultiPutId, index: u32, reply: &Reply<'_>, seen: Order) {
        let mut multi_puts = self.multi_puts.borrow_mut();
        let Some(multi_put) = multi_puts.get_mut(id.0) else { return };
        let outcome = &mut multi_put.outcomes[index as usize];
        if outcome.is_some() {
            return;
        }
        // Of a write in doubt, too: what the client writes next is to win over it.
        multi_put.seen = multi_put.seen.max(seen);
        *outcome = Some(match reply {
            Reply::Done { version, answered, sloppy } => {
                Outcome::Done { version: *version, answered: *answered, sloppy: *sloppy }
            }
            Reply::Error { code, .. } => Outcome::Error(*code),
            _ => unreachable!("a write is done, or answered by an error"),
        });
        multi_put.waiting -= 1;
        if multi_put.waiting == 0 {
            let done = multi_puts.remove(id.0).expect("found above");
            drop(multi_puts);
            self.finish_multi_put(done);
        }
    }

    /// Answers those whose time was up some time ago, whatever their parts wait for. Nobody knows what becomes of these, but how high the orders are that they
    /// can have been given: those of this core lie below what its clock has come to, those of another not above what any clock here may mint, or might while
    /// they waited: the wall clock may have been set meanwhile, and back.
    pub(super) fn end_late_multi_puts(&self, now_ns: u64) {
        // The first tick after the deadline is the last that says what could be minted until then; what a later one said nobody in step would take from a client yet.
        let may_be_minted = |multi_put: &&mut MultiPut| now_ns < multi_put.deadline_ns + TEND_INTERVAL_NS;
        for multi_put in self.multi_puts.borrow_mut().iter_mut().filter(may_be_minted) {
            multi_put.minted_max = multi_put.minted_max.max(self.minted_max_by(multi_put.deadline_ns));
        }
        let late =
            self.multi_puts.borrow().ids_where(|multi_put| now_ns >= multi_put.deadline_ns + PART_GRACE_NS);
        for id in late {
            let parts =
                self.multi_puts.borrow_mut().get_mut(id).map_or(0, |multi_put| multi_put.outcomes.len());
            for index in 0..parts as u32 {
                let waits = |multi_put: &mut MultiPut| {
                    let at = index as usize;
                    multi_put.outcomes[at].is_none().then(|| (multi_put.asked[at], multi_put.minted_max))
                };
                let Some((is_elsewhere, minted_max)) =
                    self.multi_puts.borrow_mut().get_mut(id).and_then(waits)
                else {
                    continue;
                };
                let seen = if is_elsewhere { minted_max } else { self.clock.borrow().latest() };
                let part = Requester::Entry { multi_put: MultiPutId(id), index };
                self.end_late_part(part, ErrorCode::Unknown, seen);
            }
        }
    }

    fn finish_multi_put(&self, done: MultiPut) {
        let mut body = Vec::new();
        let outcomes = done.outcomes.iter().map(|outcome| outcome.expect("all entries are answered"));
        Outcomes::encode_all(outcomes, &mut body);
        let reply = Reply::decode(FrameKind::Outcomes, &body).expect("just encoded");
        self.release_parts(done.requester, done.outcomes.len());
        self.answer_seen(done.requester, &reply, done.seen);
    }
}
