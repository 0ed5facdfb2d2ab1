//! When a core that has no rest lets others on its processor run.
//!
//! The kernel ends a write that is to be durable in threads of its own, one after the other, on the processor that the disk interrupts: for most that of
//! the core whose write it is. A core that blocks between turns leaves them room. One that is busy all the time has to be preempted, which takes the
//! scheduler some milliseconds for each of them, and all writes are as late. So such a core yields now and then while it waits for files.

/// Longest time that a core which waits for files goes on without others having had the processor, in nanoseconds. To yield to nobody takes less than a
/// microsecond.
const RUN_NS_MAX: u64 = 100_000;

/// Since when a core has not rested.
#[derive(Debug)]
pub(super) struct Breath {
    rested_ns: u64,
}

impl Breath {
    pub(super) fn new(now_ns: u64) -> Breath {
        Breath { rested_ns: now_ns }
    }

    /// The core has blocked or yielded.
    pub(super) fn rested(&mut self, now_ns: u64) {
        self.rested_ns = now_ns;
    }

    /// Whether it is time to yield, with so many operations on files in flight.
    pub(super) fn is_due(&self, now_ns: u64, files_in_flight: usize) -> bool {
        files_in_flight > 0 && now_ns.saturating_sub(self.rested_ns) >= RUN_NS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_yields_only_if_it_waits_for_files_and_has_not_rested_for_long() {
        let mut breath = Breath::new(1_000);
        assert!(!breath.is_due(1_000 + RUN_NS_MAX - 1, 1), "it may go on for a while");
        assert!(!breath.is_due(1_000 + RUN_NS_MAX, 0), "nobody works for it");
        assert!(breath.is_due(1_000 + RUN_NS_MAX, 1));
        breath.rested(1_000 + RUN_NS_MAX);
        assert!(!breath.is_due(1_001 + RUN_NS_MAX, 1));
    }
}
