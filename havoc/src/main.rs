//! `ferrite-havoc`: the long form. See the library beside it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use ferrite_havoc::Obstacle;
use ferrite_havoc::campaign::{self, Plan};
use ferrite_havoc::fault::Fault;
use ferrite_havoc::figures;
use ferrite_havoc::ground::{self, Kind};
use ferrite_havoc::home::Home;

/// Do everything to five real nodes that the world does to nodes, with checked writers through all of it
///
/// Partitions, one-way ones too, stops, kills, wrong clocks, wiped directories and full disks, until time is up. A full disk needs namespaces
/// of its own, which the system gives to root and, where it is so set up, to users; all else is done without them, too. Exit codes: 0 =
/// nothing was lost; 1 = something was, and the nodes' logs are kept, or a figure of `down`, `slow` or `flood` is not what its own --help
/// says it must be; 2 = it could not be done, or there was no fault to do.
#[derive(Parser)]
#[command(name = "ferrite-havoc", version, max_term_width = 100)]
struct Havoc {
    /// How long; no round begins after that
    #[arg(long = "for", value_name = "TIME", default_value = "1m", value_parser = ferrite_loadgen::cli::duration)]
    time: Duration,
    /// What is drawn at random; another one each time, if not given
    #[arg(long)]
    seed: Option<u64>,
    /// Only these faults: partition, one-way-partition, pause, kill, clock-offset, wiped-directory, and full-disk, which needs root or
    /// a user namespace
    #[arg(long, value_name = "FAULT", value_delimiter = ',')]
    only: Vec<Fault>,
    #[command(flatten)]
    where_: Where,
    #[command(subcommand)]
    figure: Option<Figure>,
}

/// What faults and levels cost, in a table each; the defaults are short enough for a try.
#[derive(clap::Subcommand)]
enum Figure {
    /// A node down under load, and back: reads at ONE on it second by second, and hints until they are delivered
    ///
    /// Exits with 1 where reads at ONE on the node are not all right within 10 s after its return, or in the end; where nothing was written while it
    /// was down; and where hints for it were not kept, or not delivered while it was watched.
    Down(figures::down::Options),
    /// Reads at QUORUM while one replica is slow
    ///
    /// Exits with 1 where the 99th percentile of answered reads is more than 2 times the healthy one, where extra reads are more than 5 %, or are not
    /// told, and where any read failed, or none was answered.
    Slow(figures::slow::Options),
    /// Memory, and p99 of established clients, while other connections do nothing good
    ///
    /// Exits with 1 where in any row the 99th percentile is more than 2 times what it is alone, more than 1 % of operations failed, none was done,
    /// or nobody else was connected; and where the node ever took more memory than it was given and a tenth.
    Flood(figures::flood::Options),
    /// The connections of the figure "flood" that do nothing good: a process of their own
    #[command(hide = true)]
    Crowd(figures::flood::CrowdOptions),
    /// CPU per operation: siblings against the last write, ONE against QUORUM against ALL
    Cost(figures::cost::Options),
    /// Throughput of three nodes together on one core against one node alone on it
    Together(figures::together::Options),
}

/// Where nodes run.
#[derive(clap::Args)]
struct Where {
    /// No namespaces, even where the system gives them: loopback behind a fault proxy
    #[arg(long, global = true)]
    no_root: bool,
    /// The ferrite binary; the one beside this program, if not given
    #[arg(long, global = true, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Where to put the nodes' directories; its file system must take direct I/O
    #[arg(long, global = true, value_name = "DIR", default_value = ".")]
    data: PathBuf,
}

impl Where {
    fn program(&self) -> Result<PathBuf, Obstacle> {
        let beside = || std::env::current_exe().ok()?.parent().map(|directory| directory.join("ferrite"));
        let program = self.program.clone().or_else(beside).unwrap_or_else(|| PathBuf::from("ferrite"));
        let program = std::path::absolute(&program).map_err(|error| Obstacle::new("find ferrite", error))?;
        if program.is_file() {
            return Ok(program);
        }
        let why = format!("{} is not there; `cargo build --release` makes it", program.display());
        Err(Obstacle::new("find ferrite", why))
    }

    fn home(&self) -> Result<Home, Obstacle> {
        Home::create(
            &std::path::absolute(&self.data).map_err(|error| Obstacle::new("find a directory", error))?,
        )
    }
}

fn main() -> ExitCode {
    let havoc = Havoc::parse();
    match run(&havoc) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(obstacle) => {
            eprintln!("ferrite-havoc: {obstacle}");
            ExitCode::from(2)
        }
    }
}

/// True = nothing was wrong.
fn run(havoc: &Havoc) -> Result<bool, Obstacle> {
    if let Some(Figure::Crowd(options)) = &havoc.figure {
        options.run();
        return Ok(true);
    }
    if let Some(figure) = &havoc.figure {
        let (program, home) = (havoc.where_.program()?, havoc.where_.home()?);
        let wrong = match figure {
            Figure::Down(options) => {
                let outcome = figures::down::run(&program, home.path(), *options)?;
                outcome.wrong().or_else(|| outcome.late())
            }
            Figure::Slow(options) => figures::slow::run(&program, home.path(), *options)?,
            Figure::Flood(options) => figures::flood::run(&program, home.path(), options)?,
            Figure::Crowd(_) => unreachable!("it needs no nodes"),
            Figure::Cost(options) => {
                figures::cost::run(&program, home.path(), *options)?;
                None
            }
            Figure::Together(options) => {
                figures::together::run(&program, home.path(), *options)?;
                None
            }
        };
        return Ok(is_well(wrong));
    }
    let kind = ground(havoc.where_.no_root)?;
    let (program, home) = (havoc.where_.program()?, havoc.where_.home()?);
    let seed = havoc.seed.unwrap_or_else(|| u64::from(std::process::id()) << 20 | now_s() & 0xf_ffff);
    println!("five nodes of {} on {kind}, seed {seed}", program.display());
    let plan = Plan { only: havoc.only.clone(), ..Plan::long(kind, seed, havoc.time) };
    let report = campaign::run(&program, home.path(), &plan, |line| println!("{line}"))?;
    println!("\n{report}");
    if report.violations.is_empty() {
        return Ok(true);
    }
    println!("the nodes' logs are kept:");
    for log in campaign::log_files(&home.keep()) {
        println!("  {}", log.display());
    }
    Ok(false)
}

/// Says what is wrong with a figure.
fn is_well(wrong: Option<String>) -> bool {
    if let Some(wrong) = &wrong {
        eprintln!("ferrite-havoc: {wrong}");
    }
    wrong.is_none()
}

/// Enters namespaces where that can be done, and says so.
fn ground(no_root: bool) -> Result<Kind, Obstacle> {
    if no_root {
        return Ok(Kind::Loopback);
    }
    if ground::is_inside() {
        return Ok(Kind::Namespaces);
    }
    match ground::why_not() {
        None => Err(ground::enter(std::env::args_os().skip(1))),
        Some(why) => {
            println!("no network namespaces here: {why}");
            Ok(Kind::Loopback)
        }
    }
}

fn now_s() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn help_names_every_fault_and_which_needs_root() {
        let help = Havoc::command().render_long_help().to_string();
        let only = help.split("--only").nth(1).expect("an option").split("--").next().expect("its text");
        let only = only.split_whitespace().collect::<Vec<_>>().join(" ");
        for fault in Fault::ALL {
            let name = fault.to_string().replace(' ', "-");
            assert!(only.contains(&name), "{name}: {only}");
        }
        assert!(only.contains("full-disk, which needs root"), "{only}");
    }
}
