//! The command line's front: `load`'s and `null`'s arguments, and what they do.

use std::{io::IsTerminal, net::TcpListener, path::PathBuf, process::ExitCode, time::Duration};

use ferrite_wire::{Level, Table};

use crate::{
    null,
    options::{Distribution, KeyOrder, Options},
    schedule::Arrivals,
    summary::Summary,
    target::Target,
    workload::Workload,
};

/// Exit code of a run that could not be made as asked.
const USAGE: u8 = 2;

/// Load a Ferrite cluster, or a server that speaks RESP, and say how fast it answered.
///
/// Without --rate each connection keeps --depth operations under way and waits for answers (closed loop): that finds the
/// highest throughput. With --rate operations are due at fixed times whatever the server does (open loop), and latency
/// counts from the due time: that finds how long users wait.
///
/// Exit codes: 0 = done; 1 = the target cannot be reached or, with --check, something was lost or wrong; 2 = wrong usage.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    ferrite load --target ferrite://127.0.0.1:7100 --load --workload b --duration 30s\n  \
    ferrite load --target 127.0.0.1:7100 --load --check --workload a --level quorum\n  \
    ferrite load --target 127.0.0.1:7100 --workload c --rate 50000 --connections 20 --depth 64 --hlog run.hlog\n  \
    ferrite load --target redis://127.0.0.1:6379 --workload c --depth 16")]
pub struct Args {
    /// ferrite://host:port (any member), redis://host:port, or null://host:port (one address, no topology)
    #[arg(long, default_value = "ferrite://127.0.0.1:7100")]
    pub target: Target,
    /// The mix of operations; a, b and c are YCSB's
    #[arg(long, value_enum, default_value = "a")]
    pub workload: Workload,
    /// How records are chosen
    #[arg(long, value_enum, default_value = "zipfian")]
    pub distribution: Distribution,
    /// How many records there are; k and M are understood
    #[arg(long, default_value = "1M", value_parser = count)]
    pub records: u64,
    /// Length of a value, in bytes
    #[arg(long, default_value_t = 100)]
    pub value_size: usize,
    /// How keys are spelled: prefix and 12 digits, in record order or scattered
    #[arg(long, value_enum, default_value = "ordered")]
    pub keys: KeyOrder,
    /// What every key begins with
    #[arg(long, default_value = "user")]
    pub key_prefix: String,
    /// Connections in all
    #[arg(long, short = 'c', default_value_t = 50)]
    pub connections: usize,
    /// Operations under way on each connection
    #[arg(long, short = 'd', default_value_t = 1)]
    pub depth: usize,
    /// Load threads
    #[arg(long, short = 't', default_value_t = 1)]
    pub threads: usize,
    /// How long to measure, like 500ms, 30s or 1h
    #[arg(long, default_value = "10s", value_parser = duration, value_name = "TIME")]
    pub duration: Duration,
    /// Stop after so many operations instead; k and M are understood
    #[arg(long, value_parser = count)]
    pub ops: Option<u64>,
    /// How long to load before measuring
    #[arg(long, default_value = "0s", value_parser = duration)]
    pub warmup: Duration,
    /// Operations a second, whatever the server does (open loop)
    #[arg(long, value_parser = rate)]
    pub rate: Option<f64>,
    /// How due times are spaced in open loop
    #[arg(long, value_enum, default_value = "even")]
    pub arrivals: Arrivals,
    /// The table that keys are of; not one that keeps siblings
    #[arg(long, default_value = Table::DEFAULT_NAME)]
    pub table: String,
    /// How many replicas must answer: one, two, quorum, all, local_one, local_quorum, each_quorum, or a number
    #[arg(long, default_value_t = Level::Quorum)]
    pub level: Level,
    /// Deadline of each operation
    #[arg(long, default_value = "2s", value_parser = duration)]
    pub timeout: Duration,
    /// Seed of all draws: the same seed draws the same operations
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Write every record first
    #[arg(long)]
    pub load: bool,
    /// Check every value read against what was written, and read every record back at the end
    #[arg(long)]
    pub check: bool,
    /// Never wait in the kernel: latencies without the client's wake-up, at the price of a whole core
    #[arg(long)]
    pub spin: bool,
    /// Report the CPU time of these processes per operation, all threads and children included
    #[arg(long, value_delimiter = ',')]
    pub server_pid: Vec<u32>,
    /// Write an HdrHistogram log here, one interval a second
    #[arg(long)]
    pub hlog: Option<PathBuf>,
    /// Write a JSON summary here
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Print the result as one line of name=value fields
    #[arg(long)]
    pub line: bool,
    /// No line a second on the terminal
    #[arg(long)]
    pub quiet: bool,
}

impl Args {
    /// The run that was asked for.
    pub fn options(&self) -> Options {
        let args = self.clone();
        Options {
            target: args.target,
            workload: args.workload,
            distribution: args.distribution,
            records: args.records,
            value_size: args.value_size,
            key_order: args.keys,
            key_prefix: args.key_prefix,
            connections: args.connections,
            depth: args.depth,
            threads: args.threads,
            duration: if args.ops.is_some() || args.workload == Workload::Insert {
                Duration::ZERO
            } else {
                args.duration
            },
            ops: if args.workload == Workload::Insert {
                Some(args.ops.unwrap_or(u64::MAX))
            } else {
                args.ops
            },
            warmup: args.warmup,
            rate: args.rate,
            arrivals: args.arrivals,
            table: args.table,
            level: args.level,
            timeout: args.timeout,
            seed: args.seed,
            load: args.load,
            check: args.check,
            spin: args.spin,
            server_pids: args.server_pid,
            hlog: args.hlog,
            json: args.json,
            progress: !args.quiet && !args.line && std::io::stderr().is_terminal(),
        }
    }
}

/// `ferrite load`: runs, prints, and says how it went.
pub fn run(args: &Args) -> ExitCode {
    let options = args.options();
    if let Err(error) = options.validate() {
        eprintln!("error: {error}");
        return ExitCode::from(USAGE);
    }
    let summary =
        match crate::run(&options).and_then(|summary| write_json(&options, &summary).map(|()| summary)) {
            Ok(summary) => summary,
            Err(error) => {
                eprintln!("error: {error}");
                return ExitCode::FAILURE;
            }
        };
    if args.line {
        println!("{}", summary.line());
    } else {
        print!("{}", summary.text());
    }
    match summary.failure() {
        None => ExitCode::SUCCESS,
        Some(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn write_json(options: &Options, summary: &Summary) -> Result<(), String> {
    let Some(path) = &options.json else { return Ok(()) };
    let failed = |error: &dyn std::fmt::Display| format!("cannot write {}: {error}", path.display());
    let mut text = serde_json::to_string_pretty(summary).map_err(|error| failed(&error))?;
    text.push('\n');
    std::fs::write(path, text).map_err(|error| failed(&error))
}

/// Answer reads and writes at once and keep nothing: the yardstick for other servers.
///
/// Speaks the Ferrite protocol and RESP2 (GET, SET, PING) on one port, on one thread.
#[derive(Clone, Debug, clap::Args)]
pub struct NullArgs {
    /// Where to listen, host:port; port 0 picks a free one and prints it
    #[arg(long, default_value = "127.0.0.1:7199")]
    pub listen: String,
    /// Length of the value that every read is answered with, in bytes
    #[arg(long, default_value_t = 100)]
    pub value_size: usize,
}

/// `ferrite null`: serves until killed.
pub fn run_null(args: &NullArgs) -> ExitCode {
    if args.value_size > ferrite_wire::limits::VALUE_BYTES_MAX {
        eprintln!("error: a value is at most {} bytes long", ferrite_wire::limits::VALUE_BYTES_MAX);
        return ExitCode::from(USAGE);
    }
    let served = TcpListener::bind(&args.listen).and_then(|listener| {
        println!("listening on {}", listener.local_addr()?);
        null::serve(listener, None, null::Constant::new(args.value_size))
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: cannot serve on {} (host:port of this machine): {error}", args.listen);
            ExitCode::FAILURE
        }
    }
}

fn count(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.strip_suffix(['k', 'K']) {
        Some(digits) => (digits, 1000),
        None => text.strip_suffix(['m', 'M']).map_or((text, 1), |digits| (digits, 1_000_000)),
    };
    let number: u64 =
        digits.replace('_', "").parse().map_err(|_| "not a number such as 5000, 20k or 1M".to_owned())?;
    number.checked_mul(unit).ok_or_else(|| "too large".to_owned())
}

fn rate(text: &str) -> Result<f64, String> {
    match count(text) {
        Ok(rate) if rate > 0 => Ok(rate as f64),
        Ok(_) | Err(_) => text
            .parse()
            .ok()
            .filter(|rate: &f64| *rate > 0.0 && rate.is_finite())
            .ok_or_else(|| "not a number above zero".to_owned()),
    }
}

/// Reads a length of time from the command line: a number and a unit, `us`, `ms`, `s`, `m`, `h` or `d`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let units = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86_400.0)];
    let (number, unit) = units
        .iter()
        .find_map(|(unit, seconds)| text.strip_suffix(unit).map(|number| (number, *seconds)))
        .ok_or_else(|| "a duration needs a unit: 500us, 20ms, 3s, 5m, 1h or 1d".to_owned())?;
    let number: f64 = number.parse().map_err(|_| "not a duration such as 3s or 500ms".to_owned())?;
    Duration::try_from_secs_f64(number * unit).map_err(|_| "out of range".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn the_defaults_are_a_valid_run() {
        Command::command().debug_assert();
        let parsed = Command::try_parse_from(["load"]).expect("defaults");
        assert_eq!(parsed.args.options().validate(), Ok(()));
    }

    #[test]
    fn units_are_understood_and_wrong_ones_refused() {
        assert_eq!([count("20k"), count("1M"), count("5_000")], [Ok(20_000), Ok(1_000_000), Ok(5000)]);
        assert!(count("1G").is_err() && count("-1").is_err() && count("").is_err());
        assert_eq!(duration("1500ms"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("1.5d"), Ok(Duration::from_secs(36 * 3_600)));
        assert!(duration("3").is_err() && duration("-1s").is_err() && duration("xs").is_err());
        assert_eq!(rate("2.5"), Ok(2.5));
        assert!(rate("0").is_err());
    }

    #[test]
    fn an_insert_run_ends_with_its_pass() {
        let parsed = Command::try_parse_from(["load", "--workload", "insert"]).expect("arguments");
        let options = parsed.args.options();
        assert!(options.duration.is_zero() && options.validate().is_ok());
    }
}
