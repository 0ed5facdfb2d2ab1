//! When operations are due in open loop: evenly spaced or at random, whatever the server does.
//!
//! A closed loop waits for a slow answer and so forgets the requests that should have been sent meanwhile ("coordinated
//! omission"). Here each operation has a due time fixed in advance, and its latency is counted from that.

use crate::{chooser::Rng, clock::Nanos};

/// An operation sent this much after it was due, in nanoseconds, although a connection was free, was delayed by the load
/// generator itself.
pub(crate) const LATE_NS: u64 = 1_000_000;

/// How due times are spaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Arrivals {
    /// At equal distances.
    Even,
    /// At exponentially distributed distances: independent users.
    Poisson,
}

/// Due times, one after the other.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    start: Nanos,
    interval_ns: f64,
    offset_ns: f64,
    arrivals: Arrivals,
}

impl Schedule {
    /// `rate` operations a second from `start`, delayed by `phase` of an interval, so that threads take turns.
    pub(crate) fn new(start: Nanos, rate: f64, phase: f64, arrivals: Arrivals) -> Schedule {
        let interval_ns = Nanos::SECOND as f64 / rate;
        Schedule { start, interval_ns, offset_ns: interval_ns * phase, arrivals }
    }

    /// When the next operation is due.
    #[inline]
    pub(crate) fn due(&self) -> Nanos {
        self.start.plus(self.offset_ns as u64)
    }

    /// Goes on to the one after.
    #[inline]
    pub(crate) fn advance(&mut self, rng: &mut Rng) {
        self.offset_ns += match self.arrivals {
            Arrivals::Even => self.interval_ns,
            Arrivals::Poisson => -self.interval_ns * (1.0 - rng.unit()).ln(),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spacings_keep_the_rate_over_a_minute() {
        for arrivals in [Arrivals::Even, Arrivals::Poisson] {
            let mut schedule = Schedule::new(Nanos(500), 10_000.0, 0.0, arrivals);
            let mut rng = Rng::new(4);
            assert_eq!(schedule.due(), Nanos(500));
            (0..600_000).for_each(|_| schedule.advance(&mut rng));
            let minute = 60 * Nanos::SECOND;
            let error = schedule.due().0.abs_diff(minute);
            assert!(error < minute / 100, "{arrivals:?}: off by {error} ns");
        }
    }

    #[test]
    fn threads_take_turns() {
        let due = |phase| Schedule::new(Nanos(0), 1000.0, phase, Arrivals::Even).due();
        assert_eq!((due(0.0), due(0.25)), (Nanos(0), Nanos(250_000)));
    }
}
