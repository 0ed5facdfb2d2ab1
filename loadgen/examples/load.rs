//! The load generator and the null server without the rest of Ferrite: `cargo run --release -p ferrite-loadgen --example
//! load -- run --help`.

use std::process::ExitCode;

use clap::Parser;
use ferrite_loadgen::cli;

#[derive(Debug, Parser)]
enum Command {
    /// Load a server.
    Run(Box<cli::Args>),
    /// Be the null server.
    Null(cli::NullArgs),
}

fn main() -> ExitCode {
    match Command::parse() {
        Command::Run(args) => cli::run(&args),
        Command::Null(args) => cli::run_null(&args),
    }
}
