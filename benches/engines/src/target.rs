//! The figures that the goals for the engine are about, of all parts of a final run in one table.

use std::fmt::Write;

use crate::record::{Record, median};
use crate::table::number;

/// Values of one goal: what it is, in words, and how it follows from what was measured of a contestant.
struct Target {
    name: &'static str,
    what: &'static str,
    of: fn(&Measured<'_>, &str) -> f64,
}

const TARGETS: [Target; 15] = [
    Target {
        name: "P5",
        what: "load and settle at 100 B, op/s by the better of RocksDB's and fjall's",
        of: |all, who| all.load_ratio(100, who),
    },
    Target { name: "P5", what: "the same at 1 KiB", of: |all, who| all.load_ratio(1024, who) },
    Target {
        name: "P6",
        what: "cached get, hit: CPU by RocksDB's",
        of: |all, who| all.ratio(100, "hit", "cpu_us_per_op", who),
    },
    Target {
        name: "P6",
        what: "cached get, miss: CPU by RocksDB's",
        of: |all, who| all.ratio(100, "miss", "cpu_us_per_op", who),
    },
    Target {
        name: "P7",
        what: "get from disk at 100 B: op/s by the device's at a depth of 32",
        of: |all, who| {
            all.of(1, 100, "disk", "ops_per_s", who) / all.of(1, 100, "device", "ops_per_s", DEVICES)
        },
    },
    Target {
        name: "P7",
        what: "the same at 1 KiB",
        of: |all, who| {
            all.of(2, 1024, "disk", "ops_per_s", who) / all.of(2, 1024, "device", "ops_per_s", DEVICES)
        },
    },
    Target { name: "P8", what: "p99 of gets beside puts by idle", of: |all, who| all.beside("p99_us", who) },
    Target {
        name: "P8",
        what: "p99.9 of gets beside puts by idle",
        of: |all, who| all.beside("p999_us", who),
    },
    Target {
        name: "P8",
        what: "worst put, ms",
        of: |all, who| all.of(BESIDE, 100, "busy", "worst_us", who) / 1e3,
    },
    Target {
        name: "P9",
        what: "load at 100 B: written x by RocksDB's",
        of: |all, who| all.written_ratio(100, "load", who),
    },
    Target {
        name: "P9",
        what: "overwrite at 100 B: written x by RocksDB's",
        of: |all, who| all.written_ratio(100, "overwrite", who),
    },
    Target {
        name: "P9",
        what: "load at 100 B: disk by RocksDB's",
        of: |all, who| all.ratio(100, "load", "disk_bytes", who),
    },
    Target {
        name: "P9",
        what: "overwrite at 100 B: disk by RocksDB's",
        of: |all, who| all.ratio(100, "overwrite", "disk_bytes", who),
    },
    Target {
        name: "P9",
        what: "load at 10 KiB: written x by RocksDB's",
        of: |all, who| all.written_ratio(10_240, "load", who),
    },
    Target {
        name: "P9",
        what: "overwrite at 10 KiB: written x by RocksDB's",
        of: |all, who| all.written_ratio(10_240, "overwrite", who),
    },
];

/// Who measures the device.
const DEVICES: &str = "ferrite-1";
/// The part of a final run that has gets beside puts.
const BESIDE: usize = 4;

struct Measured<'a>(&'a [Record]);

impl Measured<'_> {
    fn of(&self, part: usize, value_bytes: u64, row: &str, figure: &str, who: &str) -> f64 {
        let of = |record: &&Record| {
            record.part == part
                && record.data_bytes == record.keys * (16 + value_bytes)
                && record.row == row
                && record.contestant == who
        };
        median(self.0.iter().filter(of), figure)
    }

    /// The part that is about values of this length, with compression.
    fn part_of(value_bytes: u64) -> usize {
        match value_bytes {
            100 => 1,
            1024 => 2,
            10_240 => 3,
            other => unreachable!("no goal is about values of {other} bytes"),
        }
    }

    fn here(&self, value_bytes: u64, row: &str, figure: &str, who: &str) -> f64 {
        self.of(Self::part_of(value_bytes), value_bytes, row, figure, who)
    }

    fn ratio(&self, value_bytes: u64, row: &str, figure: &str, who: &str) -> f64 {
        self.here(value_bytes, row, figure, who) / self.here(value_bytes, row, figure, "rocksdb")
    }

    fn load_ratio(&self, value_bytes: u64, who: &str) -> f64 {
        let rate = |who: &str| self.here(value_bytes, "load", "ops_per_s", who);
        rate(who) / rate("rocksdb").max(rate("fjall"))
    }

    fn written_ratio(&self, value_bytes: u64, row: &str, who: &str) -> f64 {
        let times = |who: &str| {
            let of = |figure| self.here(value_bytes, row, figure, who);
            of("written_bytes") / of("logical_bytes")
        };
        times(who) / times("rocksdb")
    }

    fn beside(&self, figure: &str, who: &str) -> f64 {
        self.of(BESIDE, 100, "busy", figure, who) / self.of(BESIDE, 100, "idle", figure, who)
    }
}

/// A line for each goal, of the records of a final run.
pub fn table(records: &[Record]) -> String {
    let (all, who) = (Measured(records), ["ferrite-16", "ferrite-1", "rocksdb"]);
    let mut text = format!("\n### What the goals are about\n\n| goal | figure | {} |\n", who.join(" | "));
    text.push_str("|---|---|---:|---:|---:|\n");
    for Target { name, what, of } in TARGETS {
        let figures = who.map(|who| number(of(&all, who), 2));
        writeln!(text, "| {name} | {what} | {} |", figures.join(" | ")).expect("memory");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Figures;

    fn record(part: usize, row: &str, contestant: &str, figures: &[(&str, f64)]) -> Record {
        let mut all = Figures::default();
        figures.iter().for_each(|(name, value)| all.set(name, *value));
        Record {
            part,
            title: String::new(),
            keys: 10,
            data_bytes: 1160,
            round: 1,
            contestant: contestant.into(),
            row: row.into(),
            figures: all,
        }
    }

    #[test]
    fn each_goal_is_read_from_its_own_part_and_by_its_own_peer() {
        let records = [
            record(
                1,
                "load",
                "ferrite-16",
                &[("ops_per_s", 300.0), ("written_bytes", 9.0), ("logical_bytes", 3.0)],
            ),
            record(
                1,
                "load",
                "rocksdb",
                &[("ops_per_s", 100.0), ("written_bytes", 6.0), ("logical_bytes", 3.0)],
            ),
            record(1, "load", "fjall", &[("ops_per_s", 150.0)]),
            record(1, "disk", "ferrite-16", &[("ops_per_s", 90.0)]),
            record(1, "device", DEVICES, &[("ops_per_s", 100.0)]),
            record(4, "idle", "ferrite-16", &[("p99_us", 2.0)]),
            record(4, "busy", "ferrite-16", &[("p99_us", 5.0), ("worst_us", 7000.0)]),
            // Another part's row of the same name.
            record(5, "load", "ferrite-16", &[("ops_per_s", 1.0)]),
        ];
        let text = table(&records);
        for line in [
            "| P5 | load and settle at 100 B, op/s by the better of RocksDB's and fjall's | 2.00 | - | 0.67 |",
            "| P7 | get from disk at 100 B: op/s by the device's at a depth of 32 | 0.90 | - | - |",
            "| P8 | p99 of gets beside puts by idle | 2.50 | - | - |",
            "| P8 | worst put, ms | 7.00 | - | - |",
            "| P9 | load at 100 B: written x by RocksDB's | 1.50 | - | 1.00 |",
        ] {
            assert!(text.contains(line), "{line}\nis not in{text}");
        }
    }
}
