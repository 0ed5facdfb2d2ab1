//! `ferrite get`, `put` and `del`, for people and scripts.
//!
//! Values are bytes: they go to stdout and come from the argument or stdin exactly as they are, without a newline added. Of several keys
//! each has a line, in which what would break it is escaped. Of a key with several siblings all are shown on request, escaped, one on a line, with
//! the context that a write takes to replace them.
//!
//! Several keys are read or deleted at once, and each for itself: what is not there, or failed, is said of each on stderr, and the exit code is
//! that of the worst.

use std::io::{self, Read, Write};
use std::time::Duration;

use ferrite_client::{
    BlockingClient, Context, Entry, FOR_EVER, Key, ReadError, ReadOptions, Replaces, Siblings, TableId,
    WriteOptions, WriteOutcome,
};
use ferrite_node::config::Interval;
use ferrite_wire::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};

use crate::connection::{ClusterArgs, LevelArgs};
use crate::outcome::{Failure, unread, unwritten};
use crate::tables::TableArgs;

/// Exit code of a write that may or may not have been applied.
const EXIT_UNKNOWN: u8 = 3;

/// Print a key's value, byte for byte; of several keys a line each: key, tab, value
///
/// In such lines a backslash, a line's end and a tab are written \\, \n, \r and \t. Exit code 1 if a key has no value.
#[derive(clap::Args)]
pub(crate) struct GetArgs {
    /// The keys
    #[arg(required = true, value_name = "KEY")]
    keys: Vec<String>,
    /// Print the context of the read, and then all siblings, escaped, one on a line; of one key
    #[arg(long)]
    siblings: bool,
    #[command(flatten)]
    of: Of,
}

/// Where keys are, and how they are reached.
#[derive(clap::Args)]
struct Of {
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
    of: Of,
}

/// Delete keys; deleting what is not there succeeds
#[derive(clap::Args)]
pub(crate) struct DelArgs {
    /// The keys
    #[arg(required = true, value_name = "KEY")]
    keys: Vec<String>,
    #[command(flatten)]
    replaces: ReplacesArgs,
    #[command(flatten)]
    sloppy: SloppyArgs,
    #[command(flatten)]
    of: Of,
}

pub(crate) fn get(args: &GetArgs) -> Result<(), Failure> {
    let names = partitions(&args.keys)?;
    if args.siblings && names.len() > 1 {
        return Err(Failure::usage("--siblings shows those of one key: name one"));
    }
    let options = ReadOptions { level: Some(args.of.level.level), timeout: None };
    let mut client = args.of.cluster.connect()?;
    let table = args.of.table.find(&mut client)?;
    if let [name] = names[..] {
        let key = Key { table, partition: name, sort: b"" };
        let found = client.get_siblings(key, options).map_err(|error| Failure::failed(unread(&error)))?;
        args.of.verbose.tell(&client, table, "answered by", found.answered, "");
        if args.siblings {
            return show_siblings(&found, &args.keys[0]);
        }
        let value = value_of(Ok(found), &args.keys[0])?;
        let mut out = io::stdout().lock();
        return out.write_all(&value).and_then(|()| out.flush()).map_err(Failure::failed);
    }
    let keys: Vec<Key<'_>> = names.iter().map(|name| Key { table, partition: name, sort: b"" }).collect();
    let found = client.multi_get_siblings(&keys, options);
    let (mut out, mut missing) = (io::stdout().lock(), 0);
    for (name, found) in args.keys.iter().zip(found) {
        if let Ok(found) = &found {
            args.of.verbose.tell(&client, table, &format!("\"{name}\" answered by"), found.answered, "");
        }
        match value_of(found, name) {
            Ok(value) => {
                let line = [&escaped(name.as_bytes())[..], b"\t", &escaped(&value), b"\n"].concat();
                out.write_all(&line).map_err(Failure::failed)?;
            }
            Err(failure) => {
                failure.tell();
                missing += 1;
            }
        }
    }
    out.flush().map_err(Failure::failed)?;
    match missing {
        0 => Ok(()),
        _ => Err(Failure::failed(format!("{missing} of {} keys have no value to show", names.len()))),
    }
}

/// The one value of a key, or why there is none to show.
fn value_of(found: Result<Siblings, ReadError>, name: &str) -> Result<Vec<u8>, Failure> {
    match found.and_then(Siblings::single) {
        Ok(Some(value)) => Ok(value.bytes),
        Ok(None) => Err(Failure::failed(format!("\"{name}\" has no value"))),
        Err(ReadError::Siblings { count }) => Err(Failure::failed(format!(
            "\"{name}\" has {count} siblings: get --siblings shows them, and put --context writes one in their place"
        ))),
        Err(error) => Err(Failure::failed(format!("\"{name}\": {}", unread(&error)))),
    }
}

/// As a part of a line.
fn escaped(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            other => out.push(*other),
        }
    }
    out
}

pub(crate) fn put(args: &PutArgs) -> Result<(), Failure> {
    let partition = partition(&args.key)?;
    let value = match args.value.as_str() {
        "-" => from_stdin()?,
        text => text.as_bytes().to_vec(),
    };
    if value.len() > VALUE_BYTES_MAX {
        return Err(Failure::usage(format!(
            "the value is longer than {VALUE_BYTES_MAX} bytes: cut it into several"
        )));
    }
    let (level, sloppy) = (Some(args.of.level.level), args.sloppy.sloppy);
    let options = WriteOptions { level, timeout: None, ttl: args.ttl, sloppy };
    let mut client = args.of.cluster.connect()?;
    let key = Key { table: args.of.table.find(&mut client)?, partition, sort: b"" };
    let outcome = match args.replaces.get() {
        None => client.put(key, &value, options),
        Some(replaces) => client.put_replacing(key, &value, replaces, options),
    };
    written(&client, key.table, None, outcome, &args.of.verbose)
}

pub(crate) fn del(args: &DelArgs) -> Result<(), Failure> {
    let names = partitions(&args.keys)?;
    if args.replaces.context.is_some() && names.len() > 1 {
        return Err(Failure::usage("--context is of one key: name that one"));
    }
    let (level, sloppy) = (Some(args.of.level.level), args.sloppy.sloppy);
    let options = WriteOptions { level, sloppy, ..WriteOptions::default() };
    let mut client = args.of.cluster.connect()?;
    let table = args.of.table.find(&mut client)?;
    let keys = names.iter().map(|name| Key { table, partition: name, sort: b"" });
    let outcomes: Vec<WriteOutcome> = match args.replaces.get() {
        None if names.len() == 1 => keys.map(|key| client.delete(key, options)).collect(),
        None => {
            let entries: Vec<Entry<'_>> = keys.map(|key| Entry::Delete { key, context: b"" }).collect();
            client.put_batch(&entries, options)
        }
        Some(replaces) => keys.map(|key| client.delete_replacing(key, replaces, options)).collect(),
    };
    let number = outcomes.len();
    let mut failures = Vec::new();
    for (name, outcome) in args.keys.iter().zip(outcomes) {
        let name = (number > 1).then_some(name.as_str());
        failures.extend(written(&client, table, name, outcome, &args.of.verbose).err());
    }
    if failures.len() <= 1 && number == 1 {
        return failures.pop().map_or(Ok(()), Err);
    }
    failures.iter().for_each(Failure::tell);
    let summary = format!("{} of {number} keys were not deleted, or may not have been", failures.len());
    match failures.iter().map(Failure::code).max() {
        None => Ok(()),
        Some(worst) => Err(Failure::with_code(worst, summary)),
    }
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
        text => match text.parse() {
            Ok(Interval(Duration::ZERO)) => {
                Err("what has no time to live is never there: write \"never\" for ever".into())
            }
            Ok(Interval(ttl)) => Ok(ttl),
            Err(error) => Err(format!("{error}, or \"never\"")),
        },
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

fn partitions(texts: &[String]) -> Result<Vec<&[u8]>, Failure> {
    texts.iter().map(|text| partition(text)).collect()
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

/// What became of a write; with the name of its key, if it is one of several.
fn written(
    client: &BlockingClient,
    table: TableId,
    name: Option<&str>,
    outcome: WriteOutcome,
    verbose: &VerboseArgs,
) -> Result<(), Failure> {
    let of = name.map_or_else(String::new, |name| format!("\"{name}\": "));
    match outcome {
        WriteOutcome::Done { sloppy: true, .. } => {
            eprintln!("ferrite: {of}{outcome}");
            Ok(())
        }
        WriteOutcome::Done { answered, .. } => {
            verbose.tell(client, table, &format!("{of}done on"), answered, ", strict");
            Ok(())
        }
        WriteOutcome::NotApplied(_) => Err(Failure::failed(format!("{of}{}", unwritten(&outcome)))),
        WriteOutcome::Unknown(_) => Err(Failure::with_code(
            EXIT_UNKNOWN,
            format!(
                "{of}{}; the write may or may not have been applied: read the key, or write it again",
                unwritten(&outcome)
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_one_line_of_two_columns_and_a_time_to_live_is_some_time_or_for_ever() {
        assert_eq!(parse_ttl("never"), Ok(FOR_EVER));
        assert_eq!(parse_ttl("3h"), Ok(Duration::from_secs(10_800)));
        for wrong in ["0s", "3", "forever", ""] {
            assert!(parse_ttl(wrong).is_err_and(|error| error.contains("\"never\"")), "{wrong}");
        }
        assert_eq!(escaped(b"a\tb\r\nc\\n\xff"), b"a\\tb\\r\\nc\\\\n\xff");
    }
}
