//! `ferrite get`, `put` and `del`: one key at a time, for people and scripts.
//!
//! Values are bytes: they go to stdout and come from the argument or stdin exactly as they are, without a newline added. Of a key with
//! several siblings all are shown on request, escaped, one on a line, with the context that a write takes to replace them.

use std::io::{self, Read, Write};
use std::time::Duration;

use ferrite_client::{
    BlockingClient, Context, FOR_EVER, Key, ReadError, ReadOptions, Replaces, Siblings, TableId,
    WriteOptions, WriteOutcome,
};
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
    /// Print the context of the read, and then all siblings, escaped, one on a line
    #[arg(long)]
    siblings: bool,
    #[command(flatten)]
    table: TableArgs,
    #[command(flatten)]
    level: LevelArgs,
    #[command(flatten)]
    verbose: VerboseArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// What a write of a key of a table with siblings replaces.
#[derive(clap::Args)]
struct ReplacesArgs {
    /// Replace what a read had seen, whose context this is, as `get --siblings` shows it
    #[arg(long, value_name = "HEX", value_parser = context)]
    context: Option<Context>,
    /// Replace all siblings there are
    #[arg(long, conflicts_with = "context")]
    overwrite: bool,
}

impl ReplacesArgs {
    fn get(&self) -> Option<Replaces<'_>> {
        match &self.context {
            Some(context) => Some(Replaces::Seen(context)),
            None => self.overwrite.then_some(Replaces::All),
        }
    }
}

/// Who may acknowledge a write.
#[derive(clap::Args)]
struct SloppyArgs {
    /// Let other nodes stand in for replicas that are away: they keep the write and deliver it later, and until then no level makes
    /// reads see it
    #[arg(long)]
    sloppy: bool,
}

/// Whether to say what became of a request beside its result.
#[derive(clap::Args)]
struct VerboseArgs {
    /// Say on stderr how many replicas answered, and of a write whether it was strict: done by replicas alone
    #[arg(long, short)]
    verbose: bool,
}

impl VerboseArgs {
    /// Says how many of the key's replicas there are answered.
    fn tell(&self, client: &BlockingClient, table: TableId, what: &str, answered: u8, how: &str) {
        if self.verbose {
            let known = client.known_topology().and_then(|topology| topology.tables.get(table));
            let of = known.map_or_else(String::new, |table| format!(" of {}", table.replication));
            eprintln!("ferrite: {what} {answered}{of} replicas{how}");
        }
    }
}

/// Write a key
#[derive(clap::Args)]
pub(crate) struct PutArgs {
    /// The key
    key: String,
    /// The value; "-" reads it from stdin
    #[arg(allow_hyphen_values = true)]
    value: String,
    /// Let the record expire after this time, like 3h, or "never", instead of the table's own
    #[arg(long, value_name = "TIME", value_parser = parse_ttl)]
    ttl: Option<Duration>,
    #[command(flatten)]
    replaces: ReplacesArgs,
    #[command(flatten)]
    sloppy: SloppyArgs,
    #[command(flatten)]
    table: TableArgs,
    #[command(flatten)]
    level: LevelArgs,
    #[command(flatten)]
    verbose: VerboseArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Delete a key; deleting what is not there succeeds
#[derive(clap::Args)]
pub(crate) struct DelArgs {
    /// The key
    key: String,
    #[command(flatten)]
    replaces: ReplacesArgs,
    #[command(flatten)]
    sloppy: SloppyArgs,
    #[command(flatten)]
    table: TableArgs,
    #[command(flatten)]
    level: LevelArgs,
    #[command(flatten)]
    verbose: VerboseArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
}

pub(crate) fn get(args: &GetArgs) -> Result<(), Failure> {
    let partition = partition(&args.key)?;
    let options = ReadOptions { level: Some(args.level.level), timeout: None };
    let mut client = args.cluster.connect()?;
    let key = Key { table: args.table.find(&mut client)?, partition, sort: b"" };
    let found = client.get_siblings(key, options).map_err(Failure::failed)?;
    args.verbose.tell(&client, key.table, "answered by", found.answered, "");
    if args.siblings {
        return show_siblings(&found, &args.key);
    }
    let value = found.single().map_err(|error| match error {
        ReadError::Siblings { count } => Failure::failed(format!(
            "\"{}\" has {count} siblings: get --siblings shows them, and put --context writes one in their place",
            args.key
        )),
        error => Failure::failed(error),
    })?;
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
    let (level, sloppy) = (Some(args.level.level), args.sloppy.sloppy);
    let options = WriteOptions { level, timeout: None, ttl: args.ttl, sloppy };
    let mut client = args.cluster.connect()?;
    let key = Key { table: args.table.find(&mut client)?, partition, sort: b"" };
    let outcome = match args.replaces.get() {
        None => client.put(key, &value, options),
        Some(replaces) => client.put_replacing(key, &value, replaces, options),
    };
    written(&client, key.table, outcome, &args.verbose)
}

pub(crate) fn del(args: &DelArgs) -> Result<(), Failure> {
    let partition = partition(&args.key)?;
    let (level, sloppy) = (Some(args.level.level), args.sloppy.sloppy);
    let options = WriteOptions { level, sloppy, ..WriteOptions::default() };
    let mut client = args.cluster.connect()?;
    let key = Key { table: args.table.find(&mut client)?, partition, sort: b"" };
    let outcome = match args.replaces.get() {
        None => client.delete(key, options),
        Some(replaces) => client.delete_replacing(key, replaces, options),
    };
    written(&client, key.table, outcome, &args.verbose)
}

/// The context, then the siblings.
fn show_siblings(found: &Siblings, name: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let mut show = || {
        if !found.context.is_empty() {
            let hex: String = found.context.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
            writeln!(out, "context {hex}")?;
        }
        found.values.iter().try_for_each(|value| writeln!(out, "value {}", value.bytes.escape_ascii()))?;
        out.flush()
    };
    show().map_err(Failure::failed)?;
    if found.values.is_empty() { Err(Failure::failed(format!("\"{name}\" has no value"))) } else { Ok(()) }
}

/// Reads a time to live.
pub(crate) fn parse_ttl(text: &str) -> Result<Duration, String> {
    match text {
        "never" => Ok(FOR_EVER),
        text => text.parse().map(|Interval(ttl)| ttl),
    }
}

/// A context from the digits that a get has shown.
fn context(text: &str) -> Result<Context, String> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let pair = |pair: &[u8]| match *pair {
        [high, low] => Some(digit(high)? << 4 | digit(low)?),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(pair).collect();
    match bytes {
        Some(bytes) if !bytes.is_empty() => Ok(Context::from_bytes(bytes)),
        _ => Err("write the digits as get --siblings shows them".to_owned()),
    }
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

fn written(
    client: &BlockingClient,
    table: TableId,
    outcome: WriteOutcome,
    verbose: &VerboseArgs,
) -> Result<(), Failure> {
    match outcome {
        WriteOutcome::Done { sloppy: true, .. } => {
            eprintln!("ferrite: {outcome}");
            Ok(())
        }
        WriteOutcome::Done { answered, .. } => {
            verbose.tell(client, table, "done on", answered, ", strict");
            Ok(())
        }
        WriteOutcome::NotApplied(_) => Err(Failure::failed(outcome)),
        WriteOutcome::Unknown(_) => Err(Failure::with_code(
            EXIT_UNKNOWN,
            format!("{outcome}; the write may or may not have been applied: read the key, or write it again"),
        )),
    }
}
