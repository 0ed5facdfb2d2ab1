//! Everything a run depends on, checked.

use std::{path::PathBuf, time::Duration};

use ferrite_wire::{Level, Table, limits};

use crate::{
    record::{KEY_PREFIX_BYTES_MAX, RECORDS_MAX, VALUE_BYTES_MIN},
    schedule::Arrivals,
    target::Target,
    workload::Workload,
};

/// Most load threads.
pub(crate) const THREADS_MAX: usize = 256;
/// Most connections.
pub(crate) const CONNECTIONS_MAX: usize = 65_536;
/// Most operations under way on one connection.
pub(crate) const DEPTH_MAX: usize = 4096;

/// How records are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Distribution {
    /// A few records take most of the traffic: scrambled zipfian, 0.99.
    Zipfian,
    /// Every record is as likely as any other.
    Uniform,
}

/// How keys are spelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum KeyOrder {
    /// Neighbouring records have neighbouring keys.
    Ordered,
    /// Neighbouring records lie apart.
    Hashed,
}

/// A run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the load goes.
    pub target: Target,
    /// What it consists of.
    pub workload: Workload,
    /// How records are chosen.
    pub distribution: Distribution,
    /// How many records there are.
    pub records: u64,
    /// Length of a value, in bytes.
    pub value_size: usize,
    /// How keys are spelled.
    pub key_order: KeyOrder,
    /// What every key begins with.
    pub key_prefix: String,
    /// Connections in all.
    pub connections: usize,
    /// Operations under way on each connection.
    pub depth: usize,
    /// Load threads.
    pub threads: usize,
    /// How long operations are measured.
    pub duration: Duration,
    /// Operations at most; then `duration` only bounds the run.
    pub ops: Option<u64>,
    /// How long the load runs before it is measured.
    pub warmup: Duration,
    /// Operations a second, in open loop; `None` = closed loop.
    pub rate: Option<f64>,
    /// How due times are spaced in open loop.
    pub arrivals: Arrivals,
    /// The table that keys are of; Ferrite's only.
    pub table: String,
    /// How many replicas must answer.
    pub level: Level,
    /// Deadline of each operation.
    pub timeout: Duration,
    /// Seed of all draws.
    pub seed: u64,
    /// Whether every record is written first.
    pub load: bool,
    /// Whether values are checked, and read back at the end.
    pub check: bool,
    /// Whether threads never wait in the kernel.
    pub spin: bool,
    /// Processes whose CPU time is reported per operation.
    pub server_pids: Vec<u32>,
    /// Where the histogram log goes.
    pub hlog: Option<PathBuf>,
    /// Where the JSON summary goes.
    pub json: Option<PathBuf>,
    /// Whether a line a second goes to the terminal.
    pub progress: bool,
}

impl Options {
    /// The defaults, against a target.
    pub fn new(target: Target) -> Options {
        Options {
            target,
            workload: Workload::A,
            distribution: Distribution::Zipfian,
            records: 1_000_000,
            value_size: 100,
            key_order: KeyOrder::Ordered,
            key_prefix: "user".to_owned(),
            connections: 50,
            depth: 1,
            threads: 1,
            duration: Duration::from_secs(10),
            ops: None,
            warmup: Duration::ZERO,
            rate: None,
            arrivals: Arrivals::Even,
            table: Table::DEFAULT_NAME.to_owned(),
            level: Level::Quorum,
            timeout: Duration::from_secs(2),
            seed: 1,
            load: false,
            check: false,
            spin: false,
            server_pids: Vec::new(),
            hlog: None,
            json: None,
            progress: false,
        }
    }

    /// Checks bounds; the error is one line for people.
    pub fn validate(&self) -> Result<(), String> {
        let within = |name: &str, value: u64, min: u64, max: u64| {
            if (min..=max).contains(&value) {
                return Ok(());
            }
            Err(format!("{name} is {value}, and must be from {min} to {max}"))
        };
        within("the number of threads", self.threads as u64, 1, THREADS_MAX as u64)?;
        within(
            "the number of connections",
            self.connections as u64,
            self.threads as u64,
            CONNECTIONS_MAX as u64,
        )?;
        within("the depth", self.depth as u64, 1, DEPTH_MAX as u64)?;
        within("the number of records", self.records, self.threads as u64, RECORDS_MAX)?;
        let value_max = limits::VALUE_BYTES_MAX as u64;
        within("the value size", self.value_size as u64, VALUE_BYTES_MIN as u64, value_max)?;
        within("the key prefix's length", self.key_prefix.len() as u64, 0, KEY_PREFIX_BYTES_MAX as u64)?;
        within("the timeout in milliseconds", self.timeout.as_millis() as u64, 1, 3_600_000)?;
        if self.rate.is_some_and(|rate| !(rate > 0.0 && rate.is_finite())) {
            return Err("the rate must be above zero".to_owned());
        }
        if self.duration.is_zero() && self.ops.is_none() {
            return Err("the duration must be above zero".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_checked_and_named() {
        let good = Options::new("127.0.0.1:1".parse().expect("a target"));
        assert_eq!(good.validate(), Ok(()));
        type Break = fn(&mut Options);
        let bad: [(Break, &str); 8] = [
            (|options| options.threads = 0, "threads"),
            (|options| options.connections = 0, "connections"),
            (|options| (options.connections, options.threads) = (2, 3), "connections"),
            (|options| options.depth = DEPTH_MAX + 1, "depth"),
            (|options| options.records = 0, "records"),
            (|options| options.value_size = 7, "value size"),
            (|options| options.rate = Some(0.0), "rate"),
            (|options| options.duration = Duration::ZERO, "duration"),
        ];
        for (spoil, named) in bad {
            let mut options = good.clone();
            spoil(&mut options);
            let error = options.validate().expect_err(named);
            assert!(error.contains(named), "{error}");
        }
    }
}
