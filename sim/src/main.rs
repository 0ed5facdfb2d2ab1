//! Replays simulated runs by seed, and makes them for as long as is wanted.

#![expect(
    clippy::disallowed_methods,
    reason = "whoever waits for runs does so in real time, which no run sees"
)]

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use ferrite_sim::{Bug, Report, Run, SetTest, Tally, run_all};

/// How often a long run says how far it has come.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// Simulates clusters under faults and checks that they keep their promises.
///
/// Each seed is a run of its own: a cluster of one to seven nodes forms, with options drawn from the seed; clients write and read
/// while power fails, processes die or stand still, the network parts, clocks jump and disks misbehave; then everything is healed, every key
/// is read, written and read again, and the nodes must agree within a bound of simulated time. The same seed gives the same run: its trace is
/// a hash of everything that happened. The exit code is not zero if a promise was broken.
#[derive(Parser)]
#[command(name = "ferrite-sim", version)]
struct Args {
    /// Run this seed and say what happened.
    #[arg(long, conflicts_with_all = ["seeds", "for_time", "forever"])]
    seed: Option<u64>,
    /// Run these seeds: the first included, the last not [default: 1..101].
    #[arg(long, value_name = "FROM..TO", value_parser = parse_range, conflicts_with_all = ["for_time", "forever"])]
    seeds: Option<std::ops::Range<u64>>,
    /// Run one seed after the other until interrupted, then say what was met and what was not.
    #[arg(long)]
    forever: bool,
    /// The same for so long, such as 90s, 20m or 8h.
    #[arg(long = "for", value_name = "TIME", value_parser = parse_time, conflicts_with = "forever")]
    for_time: Option<Duration>,
    /// The first seed of a long run [default: one that differs from start to start].
    #[arg(long, value_name = "SEED")]
    from: Option<u64>,
    /// Runs at the same time.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Add to sets on both sides of partitions, in tables of both modes, and count what is lost.
    #[arg(long, conflicts_with_all = ["seed", "forever", "for_time", "bug"])]
    set_test: bool,
    /// Plant a bug, to see it caught.
    #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(Bug::ALL.map(|(name, _)| name)))]
    bug: Option<String>,
    /// Look only at how the cluster behaves, not at where replicas are placed.
    #[arg(long)]
    behaviour_only: bool,
}

fn parse_range(text: &str) -> Result<std::ops::Range<u64>, String> {
    let bounds = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    bounds
        .filter(|range: &std::ops::Range<u64>| !range.is_empty())
        .ok_or_else(|| format!("{text:?} is not a range like 1..101"))
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let at = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let unit_s = match unit {
        "s" => Some(1),
        "m" => Some(60),
        "h" => Some(3_600),
        "d" => Some(86_400),
        _ => None,
    };
    let seconds =
        unit_s.zip(number.parse::<u64>().ok()).and_then(|(unit_s, number)| number.checked_mul(unit_s));
    seconds.map(Duration::from_secs).ok_or_else(|| format!("{text:?} is not a time like 90s, 20m or 8h"))
}

fn main() -> ExitCode {
    let args = Args::parse();
    let bug = args.bug.as_deref().and_then(Bug::named);
    let run = |seed| Run { checks_placement: !args.behaviour_only, ..Run::new(seed, bug) };
    if let Some(seed) = args.seed {
        let report = run(seed).go();
        print!("{report}");
        return exit_code(u64::from(report.violation.is_some()));
    }
    if args.set_test {
        return set_test(args.seeds.unwrap_or(1..21));
    }
    let is_long = args.forever || args.for_time.is_some();
    let first = args.from.unwrap_or_else(|| if is_long { seed_of_now() } else { 1 });
    let seeds = match (args.seeds, is_long) {
        (Some(seeds), _) => seeds,
        (None, true) => first..u64::MAX,
        (None, false) => first..first + 100,
    };
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // The second one ends the process at once.
        let armed = interrupted.clone();
        let registered = signal_hook::flag::register_conditional_shutdown(signal, 1, armed)
            .and_then(|_| signal_hook::flag::register(signal, interrupted.clone()));
        if let Err(error) = registered {
            eprintln!("signals cannot be heard: {error}");
            return ExitCode::FAILURE;
        }
    }
    let started = Instant::now();
    let ended = || {
        interrupted.load(Ordering::Relaxed) || args.for_time.is_some_and(|length| started.elapsed() >= length)
    };
    if is_long {
        println!("seeds from {first}, on {} threads", args.threads);
    }
    let shows_progress = std::io::stderr().is_terminal();
    let mut said = started;
    let told = |report: &Report, tally: &Tally| {
        if shows_progress {
            eprint!("\r\x1b[K");
        }
        if report.violation.is_some() {
            print!("{report}");
            std::io::stdout().flush().ok();
        }
        if is_long && said.elapsed() >= SAY_EVERY {
            said = Instant::now();
            println!("{} s: {}", started.elapsed().as_secs(), tally.summary());
            std::io::stdout().flush().ok();
        }
        if shows_progress {
            eprint!("seed {}: {}", report.seed, tally.summary());
            std::io::stderr().flush().ok();
        }
    };
    let tally = run_all(seeds.map(run), args.threads, ended, told);
    if shows_progress {
        eprintln!();
    }
    if is_long {
        print!("{tally}");
    } else {
        println!("{}", tally.summary());
    }
    // What .ci/counts adds up.
    println!("counted: simulated runs {}", tally.runs);
    println!("counted: seconds simulated {}", tally.counts.virtual_ns / 1_000_000_000);
    exit_code(tally.failed)
}

fn set_test(seeds: std::ops::Range<u64>) -> ExitCode {
    match SetTest::go(seeds) {
        Ok(test) => {
            print!("{test}");
            exit_code(test.siblings.lost)
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn exit_code(failed: u64) -> ExitCode {
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A long run that is started again meets other seeds; the seed that it says it began with replays it.
fn seed_of_now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(1, |since| since.as_secs().wrapping_mul(1_000_000) >> 4)
}
