//! Replays simulated runs by seed.

use std::io::{IsTerminal, Write};
use std::ops::Range;
use std::process::ExitCode;

use clap::Parser;
use ferrite_sim::{Bug, Run};

/// Simulates a three-node cluster under faults and checks that it keeps its promises.
///
/// Each seed is a run of its own: a cluster forms, clients write and read while power fails, processes die or stand still,
/// the network parts and disks misbehave; then everything is healed and every key is read. The same seed gives the same run:
/// its trace is a hash of everything that happened. The exit code is not zero if a promise was broken.
#[derive(Parser)]
#[command(name = "ferrite-sim", version)]
struct Args {
    /// Run this seed and say what happened.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Run these seeds: the first included, the last not [default: 1..101].
    #[arg(long, value_name = "FROM..TO", value_parser = parse_range)]
    seeds: Option<Range<u64>>,
    /// Plant a bug, to see it caught.
    #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(Bug::ALL.map(|(name, _)| name)))]
    bug: Option<String>,
    /// Look only at how the cluster behaves, not at where replicas are placed.
    #[arg(long)]
    behaviour_only: bool,
}

fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let bounds = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    bounds
        .filter(|range: &Range<u64>| !range.is_empty())
        .ok_or_else(|| format!("{text:?} is not a range like 1..101"))
}

/// Sums over runs.
#[derive(Default)]
struct Sums {
    runs: u64,
    failed: u64,
    virtual_ns: u64,
    acknowledged: u64,
    reads: u64,
}

impl std::fmt::Display for Sums {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Sums { runs, failed, virtual_ns, acknowledged, reads } = self;
        let seconds = virtual_ns / 1_000_000_000;
        write!(
            f,
            "{runs} runs, {seconds} s simulated, {acknowledged} writes acknowledged, {reads} reads judged, {failed} failed"
        )
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let bug = args.bug.as_deref().and_then(Bug::named);
    let seeds = match (args.seed, args.seeds) {
        (Some(seed), _) => seed..seed + 1,
        (None, Some(seeds)) => seeds,
        (None, None) => 1..101,
    };
    let is_single = seeds.end - seeds.start == 1;
    let shows_progress = !is_single && std::io::stderr().is_terminal();
    let mut sums = Sums::default();
    for seed in seeds {
        let report = Run { checks_placement: !args.behaviour_only, ..Run::new(seed, bug) }.go();
        sums.runs += 1;
        sums.virtual_ns += report.virtual_ns;
        sums.acknowledged += report.writes.0;
        sums.reads += report.reads;
        sums.failed += u64::from(report.violation.is_some());
        if is_single || report.violation.is_some() {
            if shows_progress {
                eprint!("\r\x1b[K");
            }
            print!("{report}");
        }
        if shows_progress {
            eprint!("\r\x1b[Kseed {seed}: {sums}");
            std::io::stderr().flush().ok();
        }
    }
    if shows_progress {
        eprintln!();
    }
    if !is_single {
        println!("{sums}");
    }
    if sums.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
