//! The orderly stop: what a core does between the order to stop and its end.
//!
//! It takes nothing new. What is in flight goes on until it is answered; then hints are made of what writes still owe, and the log is closed. Whoever waits for the core to end
//! does so for [`DRAIN_MS`], and what is not done by then is not done in order. So each part has its time, and together they are no more than that:
//!
//! ```text
//!   order to stop ── nothing is in flight, or OPEN_NS ──► the last hints ── LAST_HINTS_NS at most ──► the log is closed
//! ```
//!
//! A client may give an operation longer than there is. What is open after [`OPEN_NS`] ends as it does at its deadline, so that the one who waits longest takes nothing
//! from all that is owed.

use std::rc::Rc;

use ferrite_lsm::cover;
use ferrite_wire::ErrorCode;

use super::Shard;
use crate::env::Env;

/// How long whoever has told a core to stop waits for its end, in milliseconds.
pub const DRAIN_MS: u64 = 10_000;
/// So long after the order to stop whatever is open ends, in nanoseconds: longer than operations take that are given no time of their own, where the configuration leaves that at 2 s.
pub(super) const OPEN_NS: u64 = 5_000_000_000;
/// How long a core that stops makes hints of what is owed, from when it can, in nanoseconds.
pub(super) const LAST_HINTS_NS: u64 = 4_000_000_000;

/// What is left of the drain for closing the log, however late the last hints could be made, in nanoseconds.
const CLOSING_NS: u64 = 1_000_000_000;
const DRAIN_NS: u64 = DRAIN_MS * 1_000_000;

const _: () = assert!(OPEN_NS + LAST_HINTS_NS + CLOSING_NS <= DRAIN_NS);

impl<E: Env> Shard<E> {
    /// The core is to stop.
    pub(super) fn begin_stop(self: &Rc<Self>) {
        self.stopping.set(true);
        self.stopped_ns.set(self.env.now_ns());
        self.leave_gossip();
        self.engine.stop_compactions();
    }

    /// Goes on with the stop as far as that can be done at this moment.
    pub(super) fn go_on_stopping(self: &Rc<Self>) {
        let is_late = self.env.now_ns() >= self.open_until_ns();
        if is_late {
            self.end_open();
        }
        let is_idle = self.is_idle();
        if !is_idle && !is_late {
            return;
        }
        // Hints are made beside what does not end; the log is closed behind it.
        if self.settle_before_end() || !is_idle {
            return;
        }
        // What makes room is done first, one job after the other; what finds none then is given up.
        if self.has_time_for_hints() && !self.owed.borrow().is_empty() {
            self.start_job();
            if self.job_runs.get() {
                return;
            }
        }
        self.drop_owed();
        self.pump_runs.set(true);
        if self.engine.next_job().is_some() {
            cover::mark("log closed while work was due");
        }
        // Nor does any job begin: what one changed behind the mark of a closed log would take that back.
        self.engine.stop_work();
        let shard = self.clone();
        self.env.spawn(async move {
            shard.leave_actor();
            shard.closed.set(Some(shard.engine.close().await));
        });
    }

    /// Until when what is open goes on.
    pub(super) fn open_until_ns(&self) -> u64 {
        self.stopped_ns.get() + OPEN_NS
    }

    /// Ends what is open, as at its deadline. What has found no place in the log by now gets none, whoever waits for it: where the engine is behind, and compacts no more, it
    /// would wait for ever.
    fn end_open(self: &Rc<Self>) {
        let waiting = self.waiting.borrow_mut().take_all();
        waiting.into_iter().for_each(|record| self.refuse_ack(record.ack, ErrorCode::Stopping));
        let open = self.operations.borrow().ids();
        open.into_iter().for_each(|id| self.on_deadline(id));
        // Their parts here have ended. Those that are other cores' end there, or are given up at the next ticks.
        let until_ns = self.open_until_ns();
        for multi_get in self.multi_gets.borrow_mut().iter_mut() {
            multi_get.deadline_ns = multi_get.deadline_ns.min(until_ns);
        }
        for multi_put in self.multi_puts.borrow_mut().iter_mut() {
            multi_put.deadline_ns = multi_put.deadline_ns.min(until_ns);
        }
    }

    /// From now on hints can be made of what is owed: their time begins with the first call.
    pub(super) fn begin_last_hints(&self) {
        if self.last_hints_ns.get().is_none() {
            let end_ns = self.stopped_ns.get() + DRAIN_NS - CLOSING_NS;
            self.last_hints_ns.set(Some(end_ns.min(self.env.now_ns() + LAST_HINTS_NS)));
        }
    }

    fn has_time_for_hints(&self) -> bool {
        self.last_hints_ns.get().is_some_and(|until_ns| self.env.now_ns() < until_ns)
    }

    /// Whether nothing is in flight that the end waits for.
    fn is_idle(&self) -> bool {
        self.in_flight().iter().all(|(count, _)| *count == 0)
    }

    /// What is in flight that the end waits for.
    fn in_flight(&self) -> [(usize, &'static str); 11] {
        let log =
            [self.pump_runs.get(), self.sync_runs.get(), self.lease_staged.get(), self.engine.has_staged()];
        [
            // What writes still owe is not waited for: hints are made of it. Nor is what nobody waits for.
            (self.operations.borrow().len().abs_diff(self.debts.get() + self.comparing()), "operations"),
            (self.multi_gets.borrow().len() + self.multi_puts.borrow().len(), "requests of many keys"),
            (self.acks.borrow().len(), "records on their way to the log"),
            (self.waiting.borrow().len(), "records that wait for room in it"),
            (log.into_iter().filter(|is_so| *is_so).count(), "tasks of the log"),
            (usize::from(self.job_runs.get()), "background job"),
            (self.disk_reads.get(), "reads of the disk"),
            (self.hint_fetches.get(), "reads of hints"),
            (self.latches.borrow().len(), "keys latched"),
            (usize::from(!self.backlog.borrow().is_empty()), "backlog for other cores"),
            (usize::from(self.awaits_answers()), "answer of another core awaited"),
        ]
    }

    /// Whether this core has ended in order; else why not.
    pub(super) fn how_it_ends(&self) -> Result<(), String> {
        let why = match self.closed.get() {
            Some(Ok(())) => return Ok(()),
            Some(Err(error)) => error.to_string(),
            None => {
                let open = self.in_flight().into_iter().filter(|(count, _)| *count > 0);
                let open: Vec<String> = open.map(|(count, what)| format!("{count} {what}")).collect();
                let after_ms = self.env.now_ns().saturating_sub(self.stopped_ns.get()) / 1_000_000;
                format!("after {after_ms} ms there were still {}", open.join(", "))
            }
        };
        let text = format!("the log is not closed, {why}; the next start reads it as after a kill");
        tracing::error!(core = self.settings.core.0, "{text}");
        Err(text)
    }
}
