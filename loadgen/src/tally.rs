//! What was measured: latencies and counts, mergeable across threads and intervals.

use hdrhistogram::Histogram;

use crate::{
    check::Verdict,
    failure::{FAILURES, Failure},
    workload::Kind,
};

/// Latencies are told apart down to this, in nanoseconds.
const LATENCY_NS_MIN: u64 = 100;
/// Longer latencies count as this, in nanoseconds.
const LATENCY_NS_MAX: u64 = 120_000_000_000;
/// Significant digits of a latency.
const DIGITS: u8 = 3;

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(LATENCY_NS_MIN, LATENCY_NS_MAX, DIGITS)
        .expect("the bounds are constants in range")
}

/// Latencies of one kind of operation.
#[derive(Clone, Debug)]
pub(crate) struct Latencies {
    /// From the intended start (open loop), or from sending (closed loop), to the answer; in nanoseconds.
    pub total: Histogram<u64>,
    /// From sending to the answer, in nanoseconds; kept in open loop only.
    pub service: Histogram<u64>,
}

/// Verdicts on what was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Verdicts {
    /// Reads judged.
    pub checked: u64,
    /// Old values, or none, that the level allows.
    pub weak: u64,
    /// Acknowledged writes undone: an older value came back.
    pub stale: u64,
    /// Acknowledged writes undone: no value came back.
    pub lost: u64,
    /// Bytes that should not exist.
    pub wrong: u64,
}

impl Verdicts {
    pub(crate) fn count(&mut self, verdict: Verdict) {
        self.checked += 1;
        match verdict {
            Verdict::Fine => {}
            Verdict::Weak => self.weak += 1,
            Verdict::Stale => self.stale += 1,
            Verdict::Lost => self.lost += 1,
            Verdict::Wrong => self.wrong += 1,
        }
    }

    /// Whether anything was lost or wrong.
    pub fn is_clean(&self) -> bool {
        self.stale + self.lost + self.wrong == 0
    }

    fn add(&mut self, other: &Verdicts) {
        self.checked += other.checked;
        self.weak += other.weak;
        self.stale += other.stale;
        self.lost += other.lost;
        self.wrong += other.wrong;
    }
}

/// Measurements of one thread, one interval, or both summed up.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    /// Reads that were answered.
    pub reads: Latencies,
    /// Writes that were acknowledged.
    pub writes: Latencies,
    /// Reads that found nothing.
    pub absent: u64,
    /// Failed reads, by [`Failure::index`].
    pub read_failures: [u64; FAILURES],
    /// Failed writes, by [`Failure::index`].
    pub write_failures: [u64; FAILURES],
    /// Answers that named a newer topology.
    pub stale_topology: u64,
    /// Open loop: operations sent more than [`crate::schedule::LATE_NS`] late although a connection was free.
    pub late: u64,
    /// Connections that were lost.
    pub disconnects: u64,
    /// Verdicts of the checker.
    pub verdicts: Verdicts,
}

impl Default for Tally {
    fn default() -> Tally {
        let latencies = || Latencies { total: histogram(), service: histogram() };
        Tally {
            reads: latencies(),
            writes: latencies(),
            absent: 0,
            read_failures: [0; FAILURES],
            write_failures: [0; FAILURES],
            stale_topology: 0,
            late: 0,
            disconnects: 0,
            verdicts: Verdicts::default(),
        }
    }
}

impl Tally {
    /// Counts an answered operation. `service_ns` is kept when it differs in meaning, in open loop.
    #[inline]
    pub(crate) fn answered(&mut self, kind: Kind, total_ns: u64, service_ns: Option<u64>) {
        let latencies = match kind {
            Kind::Read => &mut self.reads,
            Kind::Write => &mut self.writes,
        };
        latencies.total.saturating_record(total_ns);
        if let Some(service_ns) = service_ns {
            latencies.service.saturating_record(service_ns);
        }
    }

    pub(crate) fn failed(&mut self, kind: Kind, failure: Failure) {
        let failures = match kind {
            Kind::Read => &mut self.read_failures,
            Kind::Write => &mut self.write_failures,
        };
        failures[failure.index()] += 1;
    }

    /// Operations that were answered.
    pub(crate) fn completed(&self) -> u64 {
        self.reads.total.len() + self.writes.total.len()
    }

    /// Operations that failed.
    pub(crate) fn failures(&self) -> u64 {
        self.read_failures.iter().chain(&self.write_failures).sum()
    }

    /// Adds what another thread or interval measured.
    pub(crate) fn add(&mut self, other: &Tally) {
        for (mine, theirs) in [(&mut self.reads, &other.reads), (&mut self.writes, &other.writes)] {
            mine.total.add(&theirs.total).expect("all histograms have the same bounds");
            mine.service.add(&theirs.service).expect("all histograms have the same bounds");
        }
        let mine = self.read_failures.iter_mut().chain(&mut self.write_failures);
        for (mine, theirs) in mine.zip(other.read_failures.iter().chain(&other.write_failures)) {
            *mine += theirs;
        }
        self.absent += other.absent;
        self.stale_topology += other.stale_topology;
        self.late += other.late;
        self.disconnects += other.disconnects;
        self.verdicts.add(&other.verdicts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_add_up() {
        let mut one = Tally::default();
        one.answered(Kind::Read, 1_000, None);
        one.failed(Kind::Write, Failure::TimedOut);
        one.verdicts.count(Verdict::Lost);
        let mut two = Tally::default();
        two.answered(Kind::Write, u64::MAX, Some(2_000));
        two.verdicts.count(Verdict::Fine);
        two.add(&one);
        assert_eq!((two.completed(), two.failures()), (2, 1));
        assert_eq!(two.write_failures[Failure::TimedOut.index()], 1);
        assert_eq!((two.verdicts.checked, two.verdicts.lost, two.verdicts.is_clean()), (2, 1, false));
        assert!(two.writes.total.max() >= LATENCY_NS_MAX, "a latency above the bound is not dropped");
    }
}
