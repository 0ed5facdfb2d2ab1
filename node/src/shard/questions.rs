//! What this core asks of others: how much may be in flight to each.
//!
//! An answer may wait at the other core until this one has room for it, and however short it is, it takes some bytes. Each core has a bound of its own, an equal
//! share of that of all, so that one which stands still takes nobody else's:
//!
//! | asked | over the share of a core |
//! |---|---|
//! | a client's request | refused as overload, unless the connection has few in flight; parts that were not given up take nothing of the share from these |
//! | a part of a request of many keys | refused as overload once so many that were given up still wait there: those that are not are bounded as parts |
//! | a peer's request | asked all the same: only answers may wait for room |
//!
//! A core that stops waits for the answers that its clients may yet get ([`Shard::awaits_answers`]): ended before, it would leave them without.

use std::cell::Cell;

use ferrite_wire::{CoreId, ErrorCode};

use super::Shard;
use super::batches::is_part;
use crate::env::{Connection, Env, Hop};

/// Requests of a client in flight that may go to other cores however many others' do.
const HOPS_OF_ONE_MIN: u32 = 16;

/// So long after its deadline a question is answered at the latest, unless the core that it is for stands still, in nanoseconds: some grains of deadlines, ticks and turns of
/// two cores.
const ANSWER_GRACE_NS: u64 = 100_000_000;

/// What was asked of one core, and is not answered.
#[derive(Debug, Default)]
struct OfCore {
    all: Cell<usize>,
    /// Those that are parts of requests of many keys, with such as were given up.
    parts: Cell<usize>,
    /// The last deadline of a client's request, parts aside.
    until_ns: Cell<u64>,
}

/// What was asked of other cores, and is not answered.
#[derive(Debug)]
pub(super) struct Questions {
    by_core: Vec<OfCore>,
    each_max: usize,
}

impl Questions {
    /// Of a core among so many.
    pub(super) fn new(cores: u16, all_max: usize) -> Questions {
        let by_core = (0..cores).map(|_| OfCore::default()).collect();
        Questions { by_core, each_max: share(all_max, cores) }
    }

    /// In flight to all cores.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_core.iter().map(|of| of.all.get()).sum()
    }

    fn of(&self, core: CoreId) -> &OfCore {
        &self.by_core[usize::from(core.0)]
    }
}

/// What each of the other cores may have of something that is bounded for all of them.
pub(super) fn share(all_max: usize, cores: u16) -> usize {
    (all_max / usize::from(cores.saturating_sub(1).max(1))).max(1)
}

impl<E: Env> Shard<E> {
    /// Asks another core; its answer is counted off when it comes. An error says why it was not asked.
    pub(super) fn ask_core(&self, core: CoreId, question: Hop) -> Result<(), ErrorCode> {
        let is_part = matches!(&question, Hop::Request { connection, .. } if is_part(*connection));
        let until_ns = match &question {
            Hop::Request { from_peer: false, deadline_ns, .. } if !is_part => *deadline_ns,
            _ => 0,
        };
        if self.env.hop(core, question).is_err() {
            let has_ended = self.env.has_ended(core);
            return Err(if has_ended { ErrorCode::Stopping } else { ErrorCode::Overloaded });
        }
        let of = self.questions.of(core);
        of.all.set(of.all.get() + 1);
        of.parts.set(of.parts.get() + usize::from(is_part));
        of.until_ns.set(of.until_ns.get().max(until_ns));
        Ok(())
    }

    /// Another core has answered what was asked under this connection.
    pub(super) fn core_answered(&self, core: CoreId, connection: Connection) {
        // What was never asked is not counted off.
        let Some(of) = self.questions.by_core.get(usize::from(core.0)) else { return };
        of.all.set(of.all.get().saturating_sub(1));
        of.parts.set(of.parts.get().saturating_sub(usize::from(is_part(connection))));
    }

    /// Whether a client of this core, which stops, waits for an answer that another core may yet send. Parts are waited for as the requests that they are of; and peers ask for
    /// as long as they reach this core: a stop that waited for their answers would take as long as they do.
    pub(super) fn awaits_answers(&self) -> bool {
        let now_ns = self.env.now_ns();
        let may_answer = |(core, of): (u16, &OfCore)| {
            let is_in_time = now_ns < of.until_ns.get().min(self.open_until_ns()) + ANSWER_GRACE_NS;
            of.all.get() > of.parts.get() && is_in_time && !self.env.has_ended(CoreId(core))
        };
        (0..).zip(&self.questions.by_core).any(may_answer) && self.sessions.borrow().has_waiting_client()
    }

    /// Whether a client's request may go to another core: who has few requests in flight always may, and who has more only while those to that core
    /// are within its bound. Parts are bounded by themselves, and take of it only what those that were given up leave there.
    pub(super) fn may_ask_core(&self, core: CoreId, connection: Connection) -> bool {
        let has_few = || {
            let mut sessions = self.sessions.borrow_mut();
            sessions.get_mut(connection).is_some_and(|session| session.in_flight <= HOPS_OF_ONE_MIN)
        };
        let of = self.questions.of(core);
        let whole = of.all.get().saturating_sub(of.parts.get());
        let given_up = of.parts.get().saturating_sub(self.parts.get());
        whole + given_up < self.questions.each_max || has_few()
    }

    /// Whether a part may go to another core. It counts as one of this core already, and so do all that were not given up.
    pub(super) fn may_ask_part(&self, core: CoreId) -> bool {
        self.questions.of(core).parts.get() < self.parts.get() + self.questions.each_max
    }
}
