//! Tables of what was measured: medians over rounds, and ratios to RocksDB's.

use std::fmt::Write;

use crate::record::{Record, median};

const MIB: f64 = 1_048_576.0;
const BASE: &str = "rocksdb";

/// One table for each part, of rows or of a curve.
pub fn all(records: &[Record]) -> String {
    let mut text = String::new();
    for part in firsts(records, |record| record.part) {
        let of: Vec<&Record> = records.iter().filter(|record| record.part == part).collect();
        let sets = firsts(of.iter().copied(), |record| record.keys);
        writeln!(text, "\n### Part {part}: {}\n", of[0].title).expect("memory");
        if sets.len() > 1 {
            curve(&mut text, &of, &sets);
        } else {
            rows(&mut text, &of);
        }
    }
    text
}

/// What occurs, in the order of its first time.
fn firsts<'a, T: PartialEq>(
    records: impl IntoIterator<Item = &'a Record>,
    of: impl Fn(&Record) -> T,
) -> Vec<T> {
    let mut firsts = Vec::new();
    for value in records.into_iter().map(of) {
        if !firsts.contains(&value) {
            firsts.push(value);
        }
    }
    firsts
}

fn rows(text: &mut String, records: &[&Record]) {
    let rounds = records.iter().map(|record| record.round).max().unwrap_or_default();
    let records_of = |row: &str, contestant: &str| -> Vec<&Record> {
        records.iter().copied().filter(|r| r.row == row && r.contestant == contestant).collect()
    };
    let mut add = |line: std::fmt::Arguments<'_>| writeln!(text, "{line}").expect("memory");
    add(format_args!(
        "{} records of 16 bytes of key, {:.0} MiB of keys and values; medians of {rounds} round(s) by turns; ratios to RocksDB.\n",
        records[0].keys,
        records[0].data_bytes as f64 / MIB
    ));
    add(format_args!(
        "| row | engine | op/s | ratio | CPU us/op | ratio | p50 us | p99 us | p99.9 us | worst ms | written MiB | written x | ratio | disk MiB | ratio | peak memory MiB |"
    ));
    add(format_args!("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"));
    let (names, contestants) = (
        firsts(records.iter().copied(), |record| record.row.clone()),
        firsts(records.iter().copied(), |record| record.contestant.clone()),
    );
    for row in &names {
        let base = records_of(row, BASE);
        for contestant in &contestants {
            let these = records_of(row, contestant);
            if these.is_empty() {
                continue;
            }
            let of = |name| median(these.iter().copied(), name);
            let base_of = |name| median(base.iter().copied(), name);
            let ratio = |name| number(of(name) / base_of(name), 2);
            // Only where there are bytes put is there something to divide by, and only the last row of a process knows its disk.
            let times = of("written_bytes") / of("logical_bytes");
            let base_times = base_of("written_bytes") / base_of("logical_bytes");
            let disk = of("disk_bytes");
            add(format_args!(
                "| {row} | {contestant} | {:.0} | {} | {:.3} | {} | {:.1} | {:.1} | {:.1} | {:.1} | {:.0} | {} | {} | {} | {} | {:.0} |",
                of("ops_per_s"),
                ratio("ops_per_s"),
                of("cpu_us_per_op"),
                ratio("cpu_us_per_op"),
                of("p50_us"),
                of("p99_us"),
                of("p999_us"),
                of("worst_us") / 1e3,
                of("written_bytes") / MIB,
                number(times, 2),
                number(times / base_times, 2),
                if disk > 0.0 { number(disk / MIB, 0) } else { "-".into() },
                if disk > 0.0 { ratio("disk_bytes") } else { "-".into() },
                of("peak_bytes") / MIB,
            ));
        }
    }
    add(format_args!(
        "\nLatencies of load and overwrite are a group's, and busy's worst is a put's. What the engines say, and what takes the disk:\n"
    ));
    // The last row of a process, and hits: what they say of the rows between them follows.
    let telling = |record: &Record| record.figures.get("disk_bytes").is_some() || record.row == "hit";
    for record in records.iter().filter(|record| record.round == rounds && telling(record)) {
        let of = |name| record.figures.get(name).unwrap_or_default() / MIB;
        let disk = if of("disk_bytes") > 0.0 {
            format!(
                " disk: log {:.1} MiB, tables {:.1}, values {:.1}, other {:.1};",
                of("disk_log_bytes"),
                of("disk_table_bytes"),
                of("disk_value_bytes"),
                of("disk_other_bytes")
            )
        } else {
            String::new()
        };
        let cancelled = match of("cancelled_bytes") {
            0.0 => String::new(),
            mib => format!(" cancelled {mib:.0} MiB;"),
        };
        let beside = match record.figures.get("puts_per_s") {
            Some(puts) => format!(" {puts:.0} puts/s beside;"),
            None => String::new(),
        };
        add(format_args!(
            "- {}, {}:{beside}{disk}{cancelled} {}",
            record.row, record.contestant, record.figures.note
        ));
    }
}

/// What a put and a get cost as the data grows.
fn curve(text: &mut String, records: &[&Record], sets: &[u64]) {
    let mut add = |line: std::fmt::Arguments<'_>| writeln!(text, "{line}").expect("memory");
    add(format_args!(
        "| records | engine | put and settle, CPU us | written x | disk MiB | get hit, CPU us | p99 us | get miss, CPU us |"
    ));
    add(format_args!("|---:|---|---:|---:|---:|---:|---:|---:|"));
    for &keys in sets {
        for contestant in firsts(records.iter().copied(), |record| record.contestant.clone()) {
            let of = |row: &str, name| {
                let these = records
                    .iter()
                    .copied()
                    .filter(|r| r.keys == keys && r.contestant == contestant && r.row == row);
                median(these, name)
            };
            add(format_args!(
                "| {keys} | {contestant} | {} | {} | {} | {} | {} | {} |",
                number(of("load", "cpu_us_per_op"), 2),
                number(of("load", "written_bytes") / of("load", "logical_bytes"), 2),
                number(of("load", "disk_bytes") / MIB, 0),
                number(of("hit", "cpu_us_per_op"), 2),
                number(of("hit", "p99_us"), 1),
                number(of("miss", "cpu_us_per_op"), 2),
            ));
        }
    }
}

/// With so many digits; a dash where there is none, because something was not measured or is not there.
pub fn number(value: f64, digits: usize) -> String {
    if value.is_finite() && value > 0.0 { format!("{value:.digits$}") } else { "-".into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Figures;

    fn record(contestant: &str, row: &str, keys: u64, figures: &[(&str, f64)]) -> Record {
        let mut all = Figures::default();
        figures.iter().for_each(|(name, value)| all.set(name, *value));
        Record {
            part: 1,
            title: "a title".into(),
            keys,
            data_bytes: keys * 116,
            round: 1,
            contestant: contestant.into(),
            row: row.into(),
            figures: all,
        }
    }

    #[test]
    fn ratios_are_to_rocksdbs_row_whichever_comes_first() {
        let records = [
            record(
                "ferrite-16",
                "load",
                9,
                &[("ops_per_s", 30.0), ("written_bytes", 6.0), ("logical_bytes", 2.0)],
            ),
            record(
                "rocksdb",
                "load",
                9,
                &[("ops_per_s", 10.0), ("written_bytes", 4.0), ("logical_bytes", 2.0)],
            ),
        ];
        let text = all(&records);
        assert!(text.contains("| load | ferrite-16 | 30 | 3.00 |"), "{text}");
        assert!(text.contains("| 3.00 | 1.50 |"), "written x and its ratio: {text}");
        assert!(text.contains("| load | rocksdb | 10 | 1.00 |"), "{text}");
    }

    #[test]
    fn several_sets_make_a_curve_and_what_is_missing_is_a_dash() {
        let records = [
            record("ferrite-16", "load", 9, &[("cpu_us_per_op", 2.5)]),
            record("ferrite-16", "load", 18, &[("cpu_us_per_op", 3.5)]),
            record("ferrite-16", "hit", 18, &[("cpu_us_per_op", 0.25)]),
        ];
        let text = all(&records);
        assert!(text.contains("| 9 | ferrite-16 | 2.50 | - | - | - | - | - |"), "{text}");
        assert!(text.contains("| 18 | ferrite-16 | 3.50 | - | - | 0.25 | - | - |"), "{text}");
    }
}
