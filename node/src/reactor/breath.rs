//! When a core that has no rest lets others on its processor run.
//!
//! The kernel ends a write that is to be durable in threads of its own, one after the other, on the processor that the disk interrupts: for most that of
//! the core whose write it is. A core that blocks between turns leaves them room. One that is busy all the time has to be preempted, which takes the
//! scheduler some milliseconds for each of them, and all writes are as late. So such a core yields now and then while it waits for files.
//!
//! Those threads are done in some microseconds. Where a yield takes much longer, somebody else works there who takes whatever is left to him, and Linux
//! gives him the rest of the slice each time: then it is not tried again for a while, the longer the more often that happens in a row.

/// Longest time that a core which waits for files goes on without others having had the processor, in nanoseconds. To yield to nobody takes less than a
/// microsecond.
const RUN_NS: u64 = 100_000;
/// A yield that takes longer went to somebody else, in nanoseconds.
const LONG_NS: u64 = 500_000;
/// Shortest and longest time without another one after that, in nanoseconds.
const PAUSE_NS_MIN: u64 = 16_000_000;
const PAUSE_NS_MAX: u64 = 1_000_000_000;

/// Since when a core has not rested.
#[derive(Debug)]
pub(super) struct Breath {
    rested_ns: u64,
    /// So long it goes on.
    run_ns: u64,
}

impl Breath {
    pub(super) fn new(now_ns: u64) -> Breath {
        Breath { rested_ns: now_ns, run_ns: RUN_NS }
    }

    /// The core has blocked.
    pub(super) fn rested(&mut self, now_ns: u64) {
        self.rested_ns = now_ns;
    }

    /// Whether it is time to yield, with so many operations on files in flight.
    pub(super) fn is_due(&self, now_ns: u64, files_in_flight: usize) -> bool {
        files_in_flight > 0 && now_ns.saturating_sub(self.rested_ns) >= self.run_ns
    }

    /// The core has yielded from one time to another.
    pub(super) fn yielded(&mut self, from_ns: u64, until_ns: u64) {
        let was_long = until_ns.saturating_sub(from_ns) > LONG_NS;
        self.run_ns = if was_long { (2 * self.run_ns).clamp(PAUSE_NS_MIN, PAUSE_NS_MAX) } else { RUN_NS };
        self.rested_ns = until_ns;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_yields_only_if_it_waits_for_files_and_has_not_rested_for_long() {
        let mut breath = Breath::new(1_000);
        assert!(!breath.is_due(1_000 + RUN_NS - 1, 1), "it may go on for a while");
        assert!(!breath.is_due(1_000 + RUN_NS, 0), "nobody works for it");
        assert!(breath.is_due(1_000 + RUN_NS, 1));
        breath.rested(1_000 + RUN_NS);
        assert!(!breath.is_due(1_001 + RUN_NS, 1));
        breath.yielded(2_000_000, 2_000_500);
        assert!(breath.is_due(2_000_500 + RUN_NS, 1), "the threads that it is for are quick");
    }

    /// A process that computes on the same processor got a slice of milliseconds for each hundred microseconds of ours.
    #[test]
    fn yields_that_others_take_for_themselves_become_rare() {
        let (mut breath, mut now_ns, mut yields) = (Breath::new(0), 0, 0);
        let end_ns = 10 * PAUSE_NS_MAX;
        while now_ns < end_ns {
            now_ns += 10_000;
            if breath.is_due(now_ns, 1) {
                breath.yielded(now_ns, now_ns + 3_000_000);
                now_ns += 3_000_000;
                yields += 1;
            }
        }
        assert!((8..=20).contains(&yields), "{yields} in ten seconds");
        breath.yielded(now_ns, now_ns + 1_000);
        assert!(breath.is_due(now_ns + 1_000 + RUN_NS, 1), "he has gone");
    }
}
