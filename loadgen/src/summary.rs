//! The result of a run: as a table for people, a line for scripts, and JSON.

use std::{collections::BTreeMap, fmt::Write as _};

use crate::{
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
}

impl KindLatencies {
    fn new(latencies: &Latencies) -> Option<KindLatencies> {
        let latency = Percentiles::new(&latencies.total)?;
        Some(KindLatencies { latency, service: Percentiles::new(&latencies.service) })
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

    /// One line of `name=value` fields, for scripts; latencies in microseconds, those of the slower kind.
    pub fn line(&self) -> String {
        let kinds = [&self.reads, &self.writes];
        let slowest = |of: fn(&Percentiles) -> f64| {
            kinds.iter().filter_map(|kind| kind.as_ref()).map(|kind| of(&kind.latency)).fold(0.0, f64::max)
        };
        let errors: u64 = self.read_errors.values().chain(self.write_errors.values()).sum();
        let mut line = format!(
            "ops={} ops_per_second={:.0} p50_us={:.1} p99_us={:.1} p999_us={:.1} max_us={:.1} errors={errors} absent={} \
             client_us_per_op={:.3} client_cores={:.3} saturated={}",
            self.operations,
            self.ops_per_second,
            slowest(|latency| latency.p50),
            slowest(|latency| latency.p99),
            slowest(|latency| latency.p99_9),
            slowest(|latency| latency.max),
            self.absent,
            self.client.us_per_op,
            self.client.cores,
            u8::from(self.saturated.is_some()),
        );
        if let Some(server) = self.server {
            let _ =
                write!(line, " server_us_per_op={:.3} server_cores={:.3}", server.us_per_op, server.cores);
        }
        line
    }

    /// A table for people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        self.write_text(&mut out).expect("writing to a string succeeds");
        out
    }

    fn write_text(&self, out: &mut String) -> std::fmt::Result {
        if let Some(prefill) = &self.prefill {
            writeln!(
                out,
                "load        {} records in {:.2} s, {} op/s{}",
                grouped(prefill.operations),
                prefill.seconds,
                grouped(prefill.ops_per_second as u64),
                errors_after(&prefill.errors)
            )?;
        }
        let pace = match self.rate {
            Some(rate) => format!("open loop at {} op/s", grouped(rate as u64)),
            None => "closed loop".to_owned(),
        };
        let distribution = match self.distribution {
            Distribution::Zipfian => "scrambled zipfian 0.99",
            Distribution::Uniform => "uniform",
        };
        writeln!(
            out,
            "run         {pace}, {} × {} deep, {} thread{}, {}",
            self.connections,
            self.depth,
            self.threads,
            if self.threads == 1 { "" } else { "s" },
            self.target
        )?;
        writeln!(
            out,
            "            {}, {} records of {} bytes, {distribution}",
            self.workload.describe(),
            grouped(self.records),
            self.value_size
        )?;
        writeln!(
            out,
            "throughput  {} op/s: {} operations in {:.2} s",
            grouped(self.ops_per_second as u64),
            grouped(self.operations),
            self.seconds
        )?;
        let columns = ["", "count", "p50", "p90", "p99", "p99.9", "p99.99", "max", "mean"];
        let [name, count, rest @ ..] = columns;
        write!(out, "latency µs  {name:<15}{count:>12}")?;
        rest.iter().try_for_each(|column| write!(out, "{column:>11}"))?;
        writeln!(out)?;
        for (name, kind) in [("read", &self.reads), ("write", &self.writes)] {
            let Some(kind) = kind else { continue };
            write_row(out, name, &kind.latency)?;
            if let Some(service) = &kind.service {
                write_row(out, &format!("{name} (service)"), service)?;
            }
        }
        if self.rate.is_some() {
            writeln!(
                out,
                "            latency counts from the intended start; service from the actual sending"
            )?;
        }
        if self.absent > 0 {
            writeln!(out, "absent      {} reads found nothing", grouped(self.absent))?;
        }
        for (name, errors) in [("read", &self.read_errors), ("write", &self.write_errors)] {
            if !errors.is_empty() {
                writeln!(out, "errors      {name}{}", errors_after(errors))?;
            }
        }
        if self.read_errors.is_empty() && self.write_errors.is_empty() {
            writeln!(out, "errors      none")?;
        }
        if self.disconnects > 0 {
            writeln!(out, "            {} connections lost", grouped(self.disconnects))?;
        }
        if self.stale_topology > 0 {
            writeln!(out, "            {} answers named a newer topology", grouped(self.stale_topology))?;
        }
        let spinning = if self.spinning { ", spinning" } else { "" };
        writeln!(
            out,
            "client CPU  {:.3} µs/op, {:.2} cores{spinning}",
            self.client.us_per_op, self.client.cores
        )?;
        if let Some(server) = self.server {
            writeln!(out, "server CPU  {:.3} µs/op, {:.2} cores", server.us_per_op, server.cores)?;
        }
        if let Some(check) = &self.check {
            let Verdicts { checked, weak, stale, lost, wrong } = check.verdicts;
            writeln!(
                out,
                "check       {} values read: {lost} lost, {stale} gone back, {wrong} wrong; {} of {} records read back{}",
                grouped(checked),
                grouped(check.read_back.operations),
                grouped(self.records),
                errors_after(&check.read_back.errors)
            )?;
            if weak > 0 {
                writeln!(out, "            {} old or absent values that the level allows", grouped(weak))?;
            }
        }
        for complaint in &self.complaints {
            writeln!(out, "note        {complaint}")?;
        }
        if let Some(why) = &self.saturated {
            writeln!(
                out,
                "WARNING     the client was saturated: {why}; this measures the client, not the server"
            )?;
        }
        Ok(())
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

fn write_row(out: &mut String, name: &str, row: &Percentiles) -> std::fmt::Result {
    write!(out, "            {name:<15}{:>12}", grouped(row.count))?;
    for value in [row.p50, row.p90, row.p99, row.p99_9, row.p99_99, row.max, row.mean] {
        write!(out, "{value:>11.1}")?;
    }
    writeln!(out)
}

fn errors_after(errors: &BTreeMap<&'static str, u64>) -> String {
    let each: Vec<String> =
        errors.iter().map(|(name, count)| format!("{name} {}", grouped(*count))).collect();
    if each.is_empty() { String::new() } else { format!(": {}", each.join(", ")) }
}

/// A number with commas between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Kind;

    fn measured(fill: impl Fn(&mut Tally)) -> Measured {
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

    fn summary(options: &Options, measured: Measured, read_back: Option<PassOutcome>) -> Summary {
        Summary::new(options, 3, measured, None, read_back, vec!["something".to_owned()])
    }

    fn options() -> Options {
        Options::new("redis://h:1".parse().expect("a target"))
    }

    fn thousand_reads(tally: &mut Tally) {
        (1..=1000).for_each(|micros| tally.answered(Kind::Read, micros * 1000, None));
    }

    #[test]
    fn the_text_says_what_was_measured() {
        let found = summary(&options(), measured(thousand_reads), None);
        let text = found.text();
        for part in [
            "closed loop, 50 × 1 deep, 1 thread, redis://h:1",
            "workload A (50 % reads, 50 % updates), 1,000,000 records of 100 bytes, scrambled zipfian 0.99",
            "throughput  500 op/s: 1,000 operations in 2.00 s",
            "errors      none",
            "client CPU  1.000 µs/op",
            "server CPU  4.000 µs/op",
            "note        something",
        ] {
            assert!(text.contains(part), "no \"{part}\" in\n{text}");
        }
        let row = text.lines().find(|line| line.contains(" read ")).expect("a row of reads");
        let cells: Vec<f64> = row.split_whitespace().skip(2).filter_map(|cell| cell.parse().ok()).collect();
        for (cell, expected) in cells.iter().zip([500.0, 900.0, 990.0, 999.0, 1000.0, 1000.0, 500.5]) {
            assert!((cell / expected - 1.0).abs() < 0.002, "{row}");
        }
        assert!(!text.contains("WARNING") && !text.contains("check"));
        assert!(found.line().starts_with("ops=1000 ops_per_second=500 p50_us=500."), "{}", found.line());
        assert!(found.line().ends_with("server_us_per_op=4.000 server_cores=0.002"), "{}", found.line());
    }

    #[test]
    fn errors_stand_beside_latencies() {
        let found = summary(
            &options(),
            measured(|tally| {
                thousand_reads(tally);
                tally.failed(Kind::Read, Failure::ConnectionLost);
                tally.failed(Kind::Write, Failure::TimedOut);
            }),
            None,
        );
        let text = found.text();
        assert!(text.contains("errors      read: connection_lost 1\n"), "{text}");
        assert!(text.contains("errors      write: no_answer 1\n"), "{text}");
        assert!(found.line().contains(" errors=2 "));
        let json = serde_json::to_value(&found).expect("JSON");
        assert_eq!(json["write_errors"]["no_answer"], 1);
        assert_eq!(json["loop"], "closed");
    }

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

    #[test]
    fn thousands_are_grouped() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
