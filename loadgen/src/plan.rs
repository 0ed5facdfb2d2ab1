//! What one thread has to do in a phase: which operations are left, which count, which failed and come again.

use std::collections::VecDeque;

use crate::{
    chooser::Rng,
    clock::Nanos,
    workload::{Kind, Source},
};

/// Pause before the failed operations of a pass are tried again, in nanoseconds.
const RETRY_PAUSE_NS: u64 = 100_000_000;

/// An operation that is not sent yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Op {
    pub kind: Kind,
    pub record: u64,
    /// When it should be sent.
    pub intended: Nanos,
}

/// When operations count: those completed (closed loop) or due (open loop) from `from` until `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub from: Nanos,
    pub to: Nanos,
}

/// One thread's share of a phase.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Whether operations have a due time of their own.
    pub open_loop: bool,
    window: Window,
    source: Source,
    /// Operations that may still be drawn from the source.
    remaining: u64,
    /// An operation of a pass that could not be queued.
    held: Option<Op>,
    /// Failed operations of a pass, and when to try them again. Bounded by the operations under way: while it is not
    /// empty and due, nothing else is drawn.
    retries: VecDeque<(Kind, u64)>,
    retry_at: Nanos,
}

impl Plan {
    /// At most `ops` operations from `source`.
    pub(crate) fn new(source: Source, ops: u64, open_loop: bool, window: Window) -> Plan {
        let retries = VecDeque::new();
        Plan { open_loop, window, source, remaining: ops, held: None, retries, retry_at: Nanos(0) }
    }

    /// Whether an operation is measured.
    #[inline]
    pub(crate) fn counts(&self, intended: Nanos, completed: Nanos) -> bool {
        let at = if self.open_loop { intended } else { completed };
        self.window.from <= at && at < self.window.to
    }

    /// Whether every record has to be reached: nothing may be dropped, what fails is tried again.
    pub(crate) fn is_pass(&self) -> bool {
        matches!(self.source, Source::Pass { .. })
    }

    /// The next operation, if one may be sent now.
    #[inline]
    pub(crate) fn draw(&mut self, rng: &mut Rng, intended: Nanos, now: Nanos) -> Option<Op> {
        if let Some(op) = self.held.take() {
            return Some(op);
        }
        if !self.retries.is_empty() {
            let (kind, record) = if self.retry_at <= now { self.retries.pop_front() } else { None }?;
            return Some(Op { kind, record, intended });
        }
        if self.remaining == 0 {
            return None;
        }
        let (kind, record) = self.source.draw(rng)?;
        self.remaining -= 1;
        Some(Op { kind, record, intended })
    }

    /// Takes an operation back that could not be queued: one of a pass is drawn next, a random one is forgotten and does
    /// not count as drawn. Says whether it comes again.
    pub(crate) fn give_back(&mut self, op: Op) -> bool {
        if self.is_pass() {
            assert!(self.held.is_none(), "one operation is drawn at a time");
            self.held = Some(op);
        } else {
            self.remaining = self.remaining.saturating_add(1);
        }
        self.is_pass()
    }

    /// An operation failed: one of a pass is tried again after a pause.
    pub(crate) fn failed(&mut self, kind: Kind, record: u64, now: Nanos) {
        if self.is_pass() {
            self.retries.push_back((kind, record));
            self.retry_at = now.plus(RETRY_PAUSE_NS);
        }
    }

    /// Whether there is nothing left to draw, now or later.
    pub(crate) fn is_drawn_out(&self) -> bool {
        self.held.is_none()
            && self.retries.is_empty()
            && (self.remaining == 0 || self.source.left() == Some(0))
    }

    /// Operations of a pass that are not under way and have not succeeded.
    pub(crate) fn undone(&self) -> u64 {
        let left = self.source.left().unwrap_or(0).min(self.remaining);
        left + self.retries.len() as u64 + u64::from(self.held.is_some())
    }

    /// Draws nothing from now on.
    pub(crate) fn stop(&mut self) {
        self.remaining = 0;
        self.held = None;
        self.retries.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Share;

    const ALWAYS: Window = Window { from: Nanos(0), to: Nanos(u64::MAX) };

    fn pass(records: u64) -> Plan {
        let share = Share { thread: 0, threads: 1 };
        Plan::new(Source::pass(Kind::Write, records, share), u64::MAX, false, ALWAYS)
    }

    #[test]
    fn what_fails_in_a_pass_comes_again_after_a_pause() {
        let (mut plan, mut rng) = (pass(2), Rng::new(0));
        let mut draw = |plan: &mut Plan, now| plan.draw(&mut rng, Nanos(now), Nanos(now)).map(|op| op.record);
        assert_eq!(draw(&mut plan, 0), Some(0));
        plan.failed(Kind::Write, 0, Nanos(5));
        assert_eq!((plan.undone(), draw(&mut plan, 6)), (2, None), "a pause");
        let later = 5 + RETRY_PAUSE_NS;
        assert_eq!((draw(&mut plan, later), draw(&mut plan, later)), (Some(0), Some(1)));
        assert!(plan.is_drawn_out());
        assert_eq!(draw(&mut plan, later), None);
    }

    #[test]
    fn what_is_given_back_comes_first() {
        let (mut plan, mut rng) = (pass(5), Rng::new(0));
        let first = plan.draw(&mut rng, Nanos(0), Nanos(0)).expect("the first");
        assert!(plan.give_back(first));
        assert_eq!(plan.undone(), 5);
        assert_eq!(plan.draw(&mut rng, Nanos(9), Nanos(9)), Some(first));
    }

    #[test]
    fn the_window_looks_at_completion_in_closed_loop_and_at_intent_in_open_loop() {
        let window = Window { from: Nanos(10), to: Nanos(20) };
        let mut plan = pass(1);
        plan.window = window;
        assert!(plan.counts(Nanos(5), Nanos(15)) && !plan.counts(Nanos(15), Nanos(20)));
        plan.open_loop = true;
        assert!(!plan.counts(Nanos(5), Nanos(15)) && plan.counts(Nanos(15), Nanos(25)));
    }
}
