//! The result of a run, as it is serialised, and whether it failed.

use std::collections::BTreeMap;

use crate::{
    bars::{Bar, bars},
    failure::{FAILURES, Failure},
    options::{Distribution, Options},
    tally::{Latencies, Tally, Verdicts},
    workload::Workload,
};

/// A thread that spent more than this share of its time on the CPU was not waiting for the server.
const SATURATED_SHARE: f64 = 0.95;
/// A spinning client whose wakes found nothing less often than this had no time to spare.
const IDLE_WAKES_MIN: f64 = 0.05;
/// More than this share of operations sent late means that the client could not keep the schedule.
const LATE_SHARE_MAX: f64 = 0.01;

/// What the measured phase brought.
#[derive(Debug)]
pub(crate) struct Measured {
    pub seconds: f64,
    pub tally: Tally,
    pub client_cpu_ns: u64,
    pub client_cpu_ns_busiest: u64,
    pub wakes: u64,
    pub idle_wakes: u64,
    pub server_cpu_ns: Option<u64>,
}

/// What one pass over every record brought.
#[derive(Debug)]
pub(crate) struct PassOutcome {
    pub seconds: f64,
    pub undone: u64,
    pub tally: Tally,
}

/// Latencies in microseconds.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Percentiles {
    /// How many.
    pub count: u64,
    /// Their mean.
    pub mean: f64,
    /// Half were no slower.
    pub p50: f64,
    /// 90 % were no slower.
    pub p90: f64,
    /// 99 % were no slower.
    pub p99: f64,
    /// 99.9 % were no slower.
    pub p99_9: f64,
    /// 99.99 % were no slower.
    pub p99_99: f64,
    /// The slowest.
    pub max: f64,
}

impl Percentiles {
    fn new(histogram: &hdrhistogram::Histogram<u64>) -> Option<Percentiles> {
        let micros = |ns: u64| ns as f64 / 1e3;
        let at = |quantile| micros(histogram.value_at_quantile(quantile));
        (!histogram.is_empty()).then(|| Percentiles {
            count: histogram.len(),
            mean: histogram.mean() / 1e3,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            p99_99: at(0.9999),
            max: micros(histogram.max()),
        })
    }
}

/// Latencies of one kind of operation, in microseconds.
#[derive(Clone, Debug, serde::Serialize)]
pub struct KindLatencies {
    /// From the intended start in open loop, from sending in closed loop.
    pub latency: Percentiles,
    /// From sending; open loop only.
    pub service: Option<Percentiles>,
    /// The histogram of `latency`, a bar per doubling.
    pub histogram: Vec<Bar>,
}

impl KindLatencies {
    fn new(latencies: &Latencies) -> Option<KindLatencies> {
        let latency = Percentiles::new(&latencies.total)?;
        let (service, histogram) = (Percentiles::new(&latencies.service), bars(&latencies.total));
        Some(KindLatencies { latency, service, histogram })
    }
}

/// CPU time of one side.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct CpuUse {
    /// Microseconds per answered operation.
    pub us_per_op: f64,
    /// CPU time by time passed: 1.0 = one core kept busy.
    pub cores: f64,
}

/// A pass over every record.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Pass {
    /// Records that succeeded.
    pub operations: u64,
    /// How long it took.
    pub seconds: f64,
    /// Records a second.
    pub ops_per_second: f64,
    /// Records that never succeeded.
    pub undone: u64,
    /// Failed tries, by kind.
    pub errors: BTreeMap<&'static str, u64>,
}

impl Pass {
    fn new(outcome: &PassOutcome) -> Pass {
        let operations = outcome.tally.completed();
        Pass {
            operations,
            seconds: outcome.seconds,
            ops_per_second: operations as f64 / outcome.seconds.max(1e-9),
            undone: outcome.undone,
            errors: named(
                outcome.tally.read_failures.iter().zip(&outcome.tally.write_failures).map(|(r, w)| r + w),
            ),
        }
    }
}

/// What the checker found, over all phases.
#[derive(Clone, Debug, serde::Serialize)]
pub struct CheckResult {
    /// Verdicts on all reads.
    #[serde(flatten)]
    pub verdicts: Verdicts,
    /// The read of every record at the end.
    pub read_back: Pass,
}

/// A run's result.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Summary {
    /// Where the load went.
    pub target: String,
    /// `open` or `closed`.
    pub r#loop: &'static str,
    /// The rate asked for, in operations a second; open loop only.
    pub rate: Option<f64>,
    /// The mix.
    pub workload: Workload,
    /// How records were chosen.
    pub distribution: Distribution,
    /// How many records there are.
    pub records: u64,
    /// Length of a value, in bytes.
    pub value_size: usize,
    /// Connections in all.
    pub connections: usize,
    /// Operations under way on each.
    pub depth: usize,
    /// Load threads.
    pub threads: usize,
    /// Replicas of a key, as far as the server said.
    pub replicas: usize,
    /// Seed of all draws.
    pub seed: u64,
    /// How long was measured.
    pub seconds: f64,
    /// Operations answered.
    pub operations: u64,
    /// Operations answered a second.
    pub ops_per_second: f64,
    /// Reads that found nothing.
    pub absent: u64,
    /// Latencies of reads.
    pub reads: Option<KindLatencies>,
    /// Latencies of writes.
    pub writes: Option<KindLatencies>,
    /// Failed reads, by kind.
    pub read_errors: BTreeMap<&'static str, u64>,
    /// Failed writes, by kind.
    pub write_errors: BTreeMap<&'static str, u64>,
    /// Connections that were lost.
    pub disconnects: u64,
    /// Answers that named a newer topology.
    pub stale_topology: u64,
    /// The load threads' own CPU time.
    pub client: CpuUse,
    /// Whether the load threads never waited in the kernel; then their CPU time says nothing.
    pub spinning: bool,
    /// Operations sent late although a connection was free; open loop only.
    pub late: u64,
    /// Why the figures are the client's rather than the server's, if they are.
    pub saturated: Option<String>,
    /// The server processes' CPU time, if they were named.
    pub server: Option<CpuUse>,
    /// The pass that wrote every record first.
    pub prefill: Option<Pass>,
    /// What the checker found.
    pub check: Option<CheckResult>,
    /// What went wrong, in words; the first few.
    pub complaints: Vec<String>,
}

fn named(failures: impl Iterator<Item = u64>) -> BTreeMap<&'static str, u64> {
    Failure::all().map(Failure::name).zip(failures).filter(|(_, count)| *count > 0).collect()
}

impl Summary {
    pub(crate) fn new(
        options: &Options,
        replicas: usize,
        measured: Measured,
        prefill: Option<PassOutcome>,
        read_back: Option<PassOutcome>,
        complaints: Vec<String>,
    ) -> Summary {
        let tally = &measured.tally;
        let seconds = measured.seconds.max(1e-9);
        let operations = tally.completed();
        let cpu = |ns: u64| CpuUse {
            us_per_op: ns as f64 / 1e3 / operations.max(1) as f64,
            cores: ns as f64 / 1e9 / seconds,
        };
        let check = read_back.map(|outcome| {
            let mut all = tally.clone();
            all.add(&outcome.tally);
            if let Some(prefill) = &prefill {
                all.add(&prefill.tally);
            }
            CheckResult { verdicts: all.verdicts, read_back: Pass::new(&outcome) }
        });
        let failures = |counts: &[u64; FAILURES]| named(counts.iter().copied());
        Summary {
            target: options.target.to_string(),
            r#loop: if options.rate.is_some() { "open" } else { "closed" },
            rate: options.rate,
            workload: options.workload,
            distribution: options.distribution,
            records: options.records,
            value_size: options.value_size,
            connections: options.connections,
            depth: options.depth,
            threads: options.threads,
            replicas,
            seed: options.seed,
            seconds: measured.seconds,
            operations,
            ops_per_second: operations as f64 / seconds,
            absent: tally.absent,
            reads: KindLatencies::new(&tally.reads),
            writes: KindLatencies::new(&tally.writes),
            read_errors: failures(&tally.read_failures),
            write_errors: failures(&tally.write_failures),
            disconnects: tally.disconnects,
            stale_topology: tally.stale_topology,
            client: cpu(measured.client_cpu_ns),
            spinning: options.spin,
            late: tally.late,
            saturated: saturation(options, &measured),
            server: measured.server_cpu_ns.map(cpu),
            prefill: prefill.as_ref().map(Pass::new),
            check,
            complaints,
        }
    }

    /// Why the run has failed, if it has: something lost or wrong, records out of reach, or no answers at all.
    pub fn failure(&self) -> Option<String> {
        if let Some(CheckResult { verdicts, read_back }) = &self.check {
            if !verdicts.is_clean() {
                let Verdicts { checked, stale, lost, wrong, .. } = verdicts;
                return Some(format!(
                    "check failed: {lost} lost, {stale} gone back to an older value, {wrong} wrong, of {checked} values read"
                ));
            }
            if read_back.undone > 0 {
                return Some(format!("check failed: {} records could not be read back", read_back.undone));
            }
        }
        if let Some(Pass { undone: undone @ 1.., .. }) = self.prefill {
            return Some(format!("{undone} records could not be written first"));
        }
        (self.operations == 0).then(|| "no operation was answered".to_owned())
    }
}

fn saturation(options: &Options, measured: &Measured) -> Option<String> {
    let operations = measured.tally.completed() + measured.tally.failures();
    let late = measured.tally.late as f64 / operations.max(1) as f64;
    let busiest = measured.client_cpu_ns_busiest as f64 / 1e9 / measured.seconds.max(1e-9);
    let idle = measured.idle_wakes as f64 / measured.wakes.max(1) as f64;
    if options.rate.is_some() {
        let why =
            || format!("{:.1} % of operations were sent late although a connection was free", late * 100.0);
        (late > LATE_SHARE_MAX).then(why)
    } else if options.spin {
        (idle < IDLE_WAKES_MIN)
            .then(|| format!("only {:.1} % of its looks found nothing to do", idle * 100.0))
    } else {
        (busiest >= SATURATED_SHARE)
            .then(|| format!("a thread was busy {:.0} % of the time", busiest * 100.0))
    }
}

/// Made-up results, for the tests of what is said about them.
#[cfg(test)]
pub(crate) mod fixture {
    use super::*;
    use crate::workload::Kind;

    pub(crate) fn measured(fill: impl Fn(&mut Tally)) -> Measured {
        let mut tally = Tally::default();
        fill(&mut tally);
        Measured {
            seconds: 2.0,
            tally,
            client_cpu_ns: 1_000_000,
            client_cpu_ns_busiest: 1_000_000,
            wakes: 100,
            idle_wakes: 50,
            server_cpu_ns: Some(4_000_000),
        }
    }

    pub(crate) fn summary(options: &Options, measured: Measured, read_back: Option<PassOutcome>) -> Summary {
        Summary::new(options, 3, measured, None, read_back, vec!["something".to_owned()])
    }

    pub(crate) fn options() -> Options {
        Options::new("redis://h:1".parse().expect("a target"))
    }

    pub(crate) fn thousand_reads(tally: &mut Tally) {
        (1..=1000).for_each(|micros| tally.answered(Kind::Read, micros * 1000, None));
    }
}

#[cfg(test)]
mod tests {
    use super::{
        fixture::{measured, options, summary, thousand_reads},
        *,
    };

    #[test]
    fn a_saturated_client_is_named() {
        let mut busy = measured(thousand_reads);
        busy.client_cpu_ns_busiest = 1_950_000_000;
        assert!(summary(&options(), busy, None).text().contains("WARNING     the client was saturated"));

        let open = Options { rate: Some(1000.0), ..options() };
        let late = measured(|tally| {
            thousand_reads(tally);
            tally.late = 20;
        });
        assert!(summary(&open, late, None).saturated.is_some());
        assert!(summary(&open, measured(thousand_reads), None).saturated.is_none());

        let spin = Options { spin: true, ..options() };
        assert!(summary(&spin, measured(thousand_reads), None).saturated.is_none());
        let mut breathless = measured(thousand_reads);
        breathless.idle_wakes = 1;
        assert!(summary(&spin, breathless, None).saturated.is_some());
    }

    #[test]
    fn whatever_is_lost_or_out_of_reach_fails_the_run() {
        let read_back = |undone, fill: fn(&mut Tally)| {
            let mut tally = Tally::default();
            fill(&mut tally);
            Some(PassOutcome { seconds: 1.0, undone, tally })
        };
        assert_eq!(summary(&options(), measured(thousand_reads), read_back(0, |_| {})).failure(), None);
        for (undone, fill, named) in [
            (0, (|tally| tally.verdicts.lost = 2) as fn(&mut Tally), "2 lost"),
            (0, |tally| tally.verdicts.wrong = 1, "1 wrong"),
            (0, |tally| tally.verdicts.stale = 3, "3 gone back"),
            (7, |_| {}, "7 records could not be read back"),
        ] {
            let failure = summary(&options(), measured(thousand_reads), read_back(undone, fill)).failure();
            assert!(failure.as_ref().is_some_and(|failure| failure.contains(named)), "{failure:?}");
        }
        assert!(summary(&options(), measured(|_| {}), None).failure().is_some(), "nothing was answered");
    }
}
