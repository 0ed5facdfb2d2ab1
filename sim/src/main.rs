//! Replays simulated runs by seed.

use std::process::ExitCode;

use clap::Parser;
use ferrite_sim::{Bug, Report, run};

/// Simulates a three-node cluster under faults and checks that no acknowledged write is lost.
#[derive(Parser)]
struct Args {
    /// Run this seed and say what happened.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Run these seeds, "1..100": the first included, the last not.
    #[arg(long, value_parser = parse_range)]
    seeds: Option<std::ops::Range<u64>>,
    /// Plant a bug, to see it caught.
    #[arg(long, value_parser = parse_bug)]
    bug: Option<Bug>,
}

fn parse_range(text: &str) -> Result<std::ops::Range<u64>, String> {
    let bounds = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    bounds.ok_or_else(|| format!("{text:?} is not a range like 1..100"))
}

fn parse_bug(name: &str) -> Result<Bug, String> {
    let known = Bug::ALL.iter().find(|(known, _)| *known == name).map(|(_, bug)| *bug);
    known.ok_or_else(|| {
        let names: Vec<&str> = Bug::ALL.iter().map(|(name, _)| *name).collect();
        format!("no such bug; there are {}", names.join(", "))
    })
}

fn main() -> ExitCode {
    let args = Args::parse();
    let seeds = match (args.seed, args.seeds) {
        (Some(seed), _) => seed..seed + 1,
        (None, Some(seeds)) => seeds,
        (None, None) => 1..101,
    };
    let single = seeds.end - seeds.start == 1;
    let (mut runs, mut failed, mut virtual_ns) = (0u64, 0u64, 0u64);
    let (mut acknowledged, mut reads) = (0, 0);
    for seed in seeds {
        let report = run(seed, args.bug);
        runs += 1;
        virtual_ns += report.virtual_ns;
        acknowledged += report.writes.0;
        reads += report.reads;
        if single || report.violation.is_some() {
            print(&report, args.bug);
        }
        failed += u64::from(report.violation.is_some());
    }
    if !single {
        let seconds = virtual_ns / 1_000_000_000;
        println!(
            "{runs} runs, {seconds} s simulated, {acknowledged} writes acknowledged, {reads} reads judged, {failed} failed"
        );
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print(report: &Report, bug: Option<Bug>) {
    let (acknowledged, refused, doubtful) = report.writes;
    println!(
        "seed {}: {} ms simulated, {} events",
        report.seed,
        report.virtual_ns / 1_000_000,
        report.events
    );
    println!(
        "  writes: {acknowledged} acknowledged, {refused} not applied, {doubtful} in doubt; {} reads judged",
        report.reads
    );
    for (kind, count) in &report.faults {
        println!("  fault: {kind} × {count}");
    }
    println!("trace {:016x}", report.trace);
    if let Some((violation, history)) = &report.violation {
        println!("VIOLATION on key {}: {}", violation.key, violation.what);
        print!("{history}");
        let name =
            Bug::ALL.iter().find(|(_, known)| Some(*known) == bug).map(|(name, _)| format!(" --bug {name}"));
        let planted = name.unwrap_or_default();
        println!("replay: cargo run --release -p ferrite-sim -- --seed {}{planted}", report.seed);
    }
}
