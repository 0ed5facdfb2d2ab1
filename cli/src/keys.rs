//! `ferrite get`, `put` and `del`: one key at a time, for people and scripts.
//!
//! Values are bytes: they go to stdout and come from the argument or stdin exactly as they are, without a newline added.

use std::io::{self, Read, Write};

use ferrite_client::{Key, ReadOptions, WriteOptions, WriteOutcome};
use ferrite_node::config::Interval;
use ferrite_wire::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};

use crate::connection::{ClusterArgs, LevelArgs};
use crate::outcome::Failure;
use crate::tables::TableArgs;

/// Exit code of a write that may or may not have been applied.
const EXIT_UNKNOWN: u8 = 3;

/// Print a key's value, byte for byte; exit code 1 if it has none
#[derive(clap::Args)]
pub(crate) struct GetArgs {
    /// The key
    key: String,
    #[command(flatten)]
    table: TableArgs,
    #[command(flatten)]
    level: LevelArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Write a key
#[derive(clap::Args)]
pub(crate) struct PutArgs {
    /// The key
    key: String,
    /// The value; "-" reads it from stdin
    #[arg(allow_hyphen_values = true)]
    value: String,
    /// Let the record expire after this time, like 3h, instead of the table's own
    #[arg(long, value_name = "TIME")]
    ttl: Option<Interval>,
    #[command(flatten)]
    table: TableArgs,
    #[command(flatten)]
    level: LevelArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Delete a key; deleting what is not there succeeds
#[derive(clap::Args)]
pub(crate) struct DelArgs {
    /// The key
    key: String,
    #[command(flatten)]
    table: TableArgs,
    #[command(flatten)]
    level: LevelArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
}

pub(crate) fn get(args: &GetArgs) -> Result<(), Failure> {
    let partition = partition(&args.key)?;
    let options = ReadOptions { level: Some(args.level.level), timeout: None };
    let mut client = args.cluster.connect()?;
    let key = Key { table: args.table.find(&mut client)?, partition, sort: b"" };
    let value = client.get(key, options).map_err(Failure::failed)?;
    let value = value.ok_or_else(|| Failure::failed(format!("\"{}\" has no value", args.key)))?;
    let mut out = io::stdout().lock();
    out.write_all(&value.bytes).and_then(|()| out.flush()).map_err(Failure::failed)
}

pub(crate) fn put(args: &PutArgs) -> Result<(), Failure> {
    let partition = partition(&args.key)?;
    let value = match args.value.as_str() {
        "-" => from_stdin()?,
        text => text.as_bytes().to_vec(),
    };
    if value.len() > VALUE_BYTES_MAX {
        return Err(Failure::usage(format!("the value is longer than {VALUE_BYTES_MAX} bytes")));
    }
    let ttl = args.ttl.map(|ttl| ttl.0);
    let options = WriteOptions { level: Some(args.level.level), timeout: None, ttl };
    let mut client = args.cluster.connect()?;
    let key = Key { table: args.table.find(&mut client)?, partition, sort: b"" };
    written(client.put(key, &value, options))
}

pub(crate) fn del(args: &DelArgs) -> Result<(), Failure> {
    let partition = partition(&args.key)?;
    let options = WriteOptions { level: Some(args.level.level), ..WriteOptions::default() };
    let mut client = args.cluster.connect()?;
    let key = Key { table: args.table.find(&mut client)?, partition, sort: b"" };
    written(client.delete(key, options))
}

fn partition(text: &str) -> Result<&[u8], Failure> {
    match text.len() {
        0 => Err(Failure::usage("the key is empty")),
        1..=KEY_BYTES_MAX => Ok(text.as_bytes()),
        _ => Err(Failure::usage(format!("the key is longer than {KEY_BYTES_MAX} bytes"))),
    }
}

/// All of stdin, or one byte more than a value may have.
fn from_stdin() -> Result<Vec<u8>, Failure> {
    let mut value = Vec::new();
    let most = VALUE_BYTES_MAX as u64 + 1;
    io::stdin().lock().take(most).read_to_end(&mut value).map_err(Failure::failed)?;
    Ok(value)
}

fn written(outcome: WriteOutcome) -> Result<(), Failure> {
    match outcome {
        WriteOutcome::Done { .. } => Ok(()),
        WriteOutcome::NotApplied(_) => Err(Failure::failed(outcome)),
        WriteOutcome::Unknown(_) => Err(Failure::with_code(
            EXIT_UNKNOWN,
            format!("{outcome}; the write may or may not have been applied: read the key, or write it again"),
        )),
    }
}
