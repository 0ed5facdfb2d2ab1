//! The commands of `ferrite`, the one binary people run.
//!
//! Each command lives in a module of its own name and calls into the other crates; here they are only told apart. [`local`] is
//! public for the tests of the binary.
//!
//! Exit codes, the same for every command: 0 done, 1 failed (or: no such key), 2 the command line or the configuration is
//! wrong, 3 the outcome of a write is unknown.

mod connection;
mod debug;
mod demo;
mod hints;
mod import;
mod init;
mod keys;
pub mod local;
mod outcome;
mod serve;
mod status;
mod tables;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A replicated key-value store without a leader: put, get and delete by key, at a quorum of your choice.
#[derive(Parser)]
#[command(name = "ferrite", version, max_term_width = 100, after_help = EXAMPLES)]
struct Ferrite {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
See it work:
  ferrite demo                              three nodes, a kill, and every record read back

A cluster of three on this machine:
  ferrite init --name mine --nodes 3        writes ferrite.toml
  ferrite serve --node n1                   one terminal for each of n1, n2, n3
  ferrite put greeting hello
  ferrite get greeting

Exit codes: 0 done, 1 failed or no such key, 2 wrong command line or configuration, 3 outcome unknown.";

#[derive(Subcommand)]
enum Command {
    Init(init::Args),
    Serve(serve::Args),
    Get(keys::GetArgs),
    Put(keys::PutArgs),
    Del(keys::DelArgs),
    Status(status::Args),
    Hints(hints::Args),
    Tables(tables::Args),
    Import(import::Args),
    Demo(demo::Args),
    Debug(debug::Args),
    Load(ferrite_loadgen::cli::Args),
    Null(ferrite_loadgen::cli::NullArgs),
}

/// Does what the command line asks.
pub fn run() -> ExitCode {
    outcome::report(match Ferrite::parse().command {
        Command::Init(args) => init::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Get(args) => keys::get(&args),
        Command::Put(args) => keys::put(&args),
        Command::Del(args) => keys::del(&args),
        Command::Status(args) => status::run(&args),
        Command::Hints(args) => hints::run(&args),
        Command::Tables(args) => tables::run(&args),
        Command::Import(args) => import::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Debug(args) => debug::run(&args),
        Command::Load(args) => return ferrite_loadgen::cli::run(&args),
        Command::Null(args) => return ferrite_loadgen::cli::run_null(&args),
    })
}
