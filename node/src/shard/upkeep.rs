//! What a core looks after every few milliseconds, whatever else it does: links and gossip, connections that stand still, deadlines that are over,
//! the clock's bound, the log's marks, hints, scrubbing, and background work.
//!
//! Each part is short and says itself whether it is due; nothing here waits.

use std::rc::Rc;

use ferrite_wire::{ErrorCode, RequestId};

use super::debts::HINTS_AT_ONCE;
use super::{Shard, status};
use crate::env::Env;

/// How often links and sessions are looked after, in nanoseconds.
pub(super) const TEND_INTERVAL_NS: u64 = 20_000_000;
/// After so long without writes the log gives back the space that it keeps ready for them, in nanoseconds.
const REST_AFTER_NS: u64 = 10_000_000_000;
/// Deadlines of operations that have ended, from which they are pruned: 4 MiB of them.
pub(super) const DEADLINES_LEFT_MAX: usize = 1 << 18;

impl<E: Env> Shard<E> {
    /// Looks after all of it.
    pub(super) fn tend(self: &Rc<Self>, now_ns: u64) {
        let due_ns = self.tend_ns.replace(now_ns + TEND_INTERVAL_NS);
        self.standstill.kept_up(now_ns, due_ns);
        let since_last_ns = (now_ns + TEND_INTERVAL_NS).saturating_sub(due_ns);
        self.tend_links(now_ns);
        self.tend_progress(now_ns);
        self.tend_gossip(now_ns);
        let half_sent = self.sessions.borrow().half_sent();
        for (connection, half) in half_sent {
            if !self.env.is_read(connection) {
                // What it sends is not taken: that is not its time.
                if let Some(session) = self.sessions.borrow_mut().get_mut(connection) {
                    session.half_sent = Some(half.put_off(since_last_ns, now_ns));
                }
                continue;
            }
            if !half.is_late(now_ns, self.settings.half_sent_timeout_ns) {
                continue;
            }
            let text = "a handshake or frame was not finished in time";
            self.refuse(connection, RequestId(0), ErrorCode::Malformed, text);
            self.drop_connection(connection);
        }
        self.tell_fence();
        let operations = self.operations.borrow();
        let mut deadlines = self.deadlines.borrow_mut();
        if deadlines.len() > operations.len() + DEADLINES_LEFT_MAX {
            deadlines.prune(|id| operations.contains(*id));
        }
        drop((operations, deadlines));
        self.end_late_multi_gets(now_ns);
        self.end_late_multi_puts(now_ns);
        self.end_late_puts(now_ns);
        self.tend_clock();
        self.tend_log(now_ns);
        self.mark_hints();
        if !self.stopping.get() && self.waiting.borrow().is_empty() {
            self.make_hints(HINTS_AT_ONCE);
        }
        self.deliver_hints();
        self.tend_scrub(now_ns);
        self.admit_waiting();
        if let Some(expired_ms) = self.expired_ms(now_ns) {
            self.engine.set_expired(expired_ms);
        }
        self.start_job();
    }

    /// Allows scrubbing its share, and tells of what was found damaged.
    fn tend_scrub(&self, now_ns: u64) {
        let since_ns = now_ns.saturating_sub(self.scrubbed_ns.replace(now_ns));
        let bytes = u128::from(self.settings.scrub_bytes_per_s) * u128::from(since_ns) / 1_000_000_000;
        self.engine.allow_scrub(bytes as u64);
        let quarantines = self.engine.quarantines();
        if self.quarantines_told.replace(quarantines) != quarantines {
            self.renew_actor();
            status::log_quarantined(self.settings.core, &self.engine.quarantined());
        }
    }

    /// The log's own rhythm: periodic syncs, and a mark once writing has paused.
    fn tend_log(self: &Rc<Self>, now_ns: u64) {
        if self.engine.is_fenced() {
            return;
        }
        let sync_due = |every| now_ns.saturating_sub(self.synced_ns.get()) >= every;
        // Beside the pump, not in its turn: under load the pump never rests, and the interval is a promise.
        if self.settings.sync_interval_ns.is_some_and(sync_due) && !self.sync_runs.replace(true) {
            self.synced_ns.set(now_ns);
            let shard = self.rc();
            self.env.spawn(async move {
                // A failure fences the engine, which is told of at the next tick.
                shard.engine.sync_now().await.ok();
                shard.sync_runs.set(false);
            });
        }
        if self.busy_ns.get().is_some_and(|at| now_ns.saturating_sub(at) >= REST_AFTER_NS) {
            self.busy_ns.set(None);
            self.engine.rest();
        }
        let mark_due = |at| now_ns.saturating_sub(at) >= self.settings.mark_after_ns;
        if self.wrote_ns.get().is_some_and(mark_due) && !self.pump_runs.replace(true) {
            let shard = self.rc();
            self.env.spawn(async move {
                shard.wrote_ns.set(None);
                shard.engine.mark().await;
                shard.pump_runs.set(false);
                shard.start_pump();
            });
        }
    }
}
