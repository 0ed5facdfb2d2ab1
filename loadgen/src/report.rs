//! A run's result in words: a table for people, and a line for scripts.

use std::{collections::BTreeMap, fmt::Write as _};

use crate::{
    bars::draw,
    options::Distribution,
    summary::{Percentiles, Summary},
    tally::Verdicts,
};

impl Summary {
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

    /// The latency histograms of reads and writes, drawn: a bar per doubling of the latency.
    pub fn histogram_text(&self) -> String {
        let kinds = [("read", &self.reads), ("write", &self.writes)];
        let drawn = kinds.iter().filter_map(|(kind, latencies)| {
            let latencies = latencies.as_ref()?;
            Some(format!("{kind} latency, operations per bar\n{}", draw(&latencies.histogram)))
        });
        drawn.collect()
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
    use crate::{
        failure::Failure,
        summary::fixture::{measured, options, summary, thousand_reads},
        workload::Kind,
    };

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
    fn thousands_are_grouped() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
