//! What is due when, in the time in which this process ran.
//!
//! A process that stood still finds all its timers due at once, and unread answers behind them: judged by the clock, every member
//! it had asked has failed. So when the first timer is late by more than is usual, the time it was late by is taken out of all
//! of them, as if the clock had stood still too.
//!
//! Rejected: to read first and judge then. It helps where answers wait to be read, and not where the question was never sent.

use std::collections::BTreeMap;

use foca::Timer;

use super::Identity;

/// Something to do.
#[derive(Debug)]
pub(super) enum Due {
    /// Foca's; `is_patient` = it was put off once already.
    Swim { timer: Timer<Identity>, is_patient: bool },
    /// Pass news on.
    Gossip,
    /// Look for seeds, and for members to forget.
    Join,
}

/// What is due.
#[derive(Debug)]
pub(super) struct Timers {
    /// By time, then by number, so that what is due together comes in the order it was asked for.
    due: BTreeMap<(u64, u64), Due>,
    number: u64,
    /// Time that does not count.
    stood_ms: u64,
    late_ms: u64,
}

impl Timers {
    pub(super) fn new(late_ms: u64) -> Timers {
        Timers { due: BTreeMap::new(), number: 0, stood_ms: 0, late_ms }
    }

    /// The time that counts.
    pub(super) fn local_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.stood_ms)
    }

    /// Takes out the time in which this process stood still, if it did.
    pub(super) fn arrive(&mut self, now_ms: u64) {
        let local_ms = self.local_ms(now_ms);
        let late_ms = self.due.keys().next().map_or(0, |&(due_ms, _)| local_ms.saturating_sub(due_ms));
        if late_ms > self.late_ms {
            self.stood_ms += late_ms;
        }
    }

    pub(super) fn after(&mut self, now_ms: u64, wait_ms: u64, due: Due) {
        self.number += 1;
        self.due.insert((self.local_ms(now_ms) + wait_ms, self.number), due);
    }

    /// Foca begins anew: what an earlier one asked for means nothing to it.
    pub(super) fn drop_swim(&mut self) {
        self.due.retain(|_, due| match due {
            Due::Swim { .. } => false,
            Due::Gossip | Due::Join => true,
        });
    }

    pub(super) fn pop(&mut self, now_ms: u64) -> Option<Due> {
        let first = self.due.first_entry()?;
        (first.key().0 <= now_ms.saturating_sub(self.stood_ms)).then(|| first.remove())
    }

    /// When the first is due, by the host's clock.
    pub(super) fn next_ms(&self) -> Option<u64> {
        self.due.keys().next().map(|&(due_ms, _)| due_ms + self.stood_ms)
    }
}
