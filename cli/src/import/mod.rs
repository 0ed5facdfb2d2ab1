//! `ferrite import`: key/value records from a file into a cluster, as fast as the cluster acknowledges them.
//!
//! The file is streamed: at most `--window` records are in memory. Nothing depends on the order in which writes end, except
//! the resume state, which moves only over what has been acknowledged (see [`watermark`]). A file in which a key occurs
//! twice ends with either value: writes of a window are concurrent. In a table with siblings writes overwrite, since an import that is made
//! again, or goes on, must not put records beside themselves; a key that occurs twice may end with both values there.

mod csv;
mod fields;
mod lines;
mod progress;
mod records;
mod resume;
mod watermark;

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ferrite_client::{BlockingClient, Level, Mode, Record, Table, TableId, WriteOptions, WriteOutcome};

use crate::connection::{ClusterArgs, LevelArgs};
use crate::keys::parse_ttl;
use crate::outcome::Failure;
use crate::tables::TableArgs;
use fields::{Field, Pair};
use lines::Place;
use progress::Progress;
pub(crate) use progress::grouped;

use records::{Format, Layout, Records};
use resume::Resume;
use watermark::Watermark;

/// Import key/value records from a file
///
/// A column is named by its number, from 1, or by its name in the header line; in JSON by its member (a.b for a member of a
/// member). "rest" is what follows the key's column, "line" the whole line. The key defaults to column 1, the value to the
/// rest of the line (tsv, delimited), column 2 (csv) or the whole document (ndjson).
///
/// A line that is no record is told with its number and reason; --on-error says whether the rest goes on. With --resume, an
/// import that was interrupted goes on where everything before was acknowledged.
///
/// In a table with siblings each record takes the place of all that its key has, so that importing a file again changes nothing. Of a
/// key that occurs twice in the file both values may stay.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The file; "-" is stdin
    file: PathBuf,
    /// How its records are written
    #[arg(long, value_enum)]
    format: Format,
    /// Which part of a record is the key
    #[arg(long, value_name = "COLUMN")]
    key: Option<Field>,
    /// Which part of a record is the value
    #[arg(long, value_name = "COLUMN|rest|line")]
    value: Option<Field>,
    /// One character between columns, for --format delimited and csv
    #[arg(long, value_name = "CHARACTER", value_parser = delimiter)]
    delimiter: Option<u8>,
    /// The first line names the columns (implied when a column is given by name)
    #[arg(long)]
    header: bool,
    /// What to do when a line is no record or a write fails
    #[arg(long, value_enum, default_value_t = OnError::Stop)]
    on_error: OnError,
    /// Go on where this state file says, and keep it up to date
    #[arg(long, value_name = "STATE")]
    resume: Option<PathBuf>,
    /// Records under way at any time
    #[arg(long, default_value_t = WINDOW_DEFAULT, value_name = "RECORDS", value_parser = clap::value_parser!(u16).range(1..=16384))]
    window: u16,
    /// Let the records expire after this time, like 3h, or "never", instead of the table's own
    #[arg(long, value_name = "TIME", value_parser = parse_ttl)]
    ttl: Option<Duration>,
    #[command(flatten)]
    table: TableArgs,
    #[command(flatten)]
    level: LevelArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Records under way where nobody says otherwise.
const WINDOW_DEFAULT: u16 = 1024;

const EXAMPLES: &str = "\
Examples:
  ferrite import UnicodeData.txt --format delimited --delimiter ';'
  ferrite import users.csv --format csv --key id --value email
  ferrite import events.ndjson --format ndjson --key event.id --on-error skip --resume events.state";

/// What to do about a record that cannot be imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum OnError {
    /// Finish what is under way, then stop
    Stop,
    /// Tell it and go on
    Skip,
}

fn delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        [byte] if byte.is_ascii() && !matches!(byte, b'\n' | b'\r' | b'"') => Ok(*byte),
        b"\\t" => Ok(b'\t'),
        _ => Err("write one ASCII character, or \\t".into()),
    }
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let layout = layout(args)?;
    let mut client = args.cluster.connect()?;
    let options = WriteOptions { level: Some(args.level.level), ttl: args.ttl, ..WriteOptions::default() };
    let name = args.file.display().to_string();
    let (table, mode) = args.table.find_with_mode(&mut client)?;
    let (on_error, window) = (args.on_error, usize::from(args.window));
    let mut import = Import { name: &name, table, mode, on_error, window, options };
    let failures = if args.file == Path::new("-") {
        if args.resume.is_some() {
            return Err(Failure::usage("--resume needs a file: stdin cannot be read again"));
        }
        import.name = "stdin";
        let records = open(io::stdin(), layout, import.name)?;
        import.run(&mut client, records, Watermark::new(Place::default()), |_| Ok(()))?
    } else {
        from_file(args, layout, &import, &mut client)?
    };
    match failures {
        Failures { definite: 0, unknown: 0 } => Ok(()),
        Failures { definite: 0, unknown } => Err(Failure::with_code(
            3,
            format!("the outcome of {unknown} writes is unknown: import them again"),
        )),
        Failures { definite, unknown } => {
            let count = grouped(definite + unknown);
            let hint = match args.on_error {
                OnError::Stop => "stopped; --on-error skip goes on past such records",
                OnError::Skip => "the others were imported",
            };
            Err(Failure::failed(format!("records that failed: {count}; {hint}")))
        }
    }
}

fn from_file(
    args: &Args,
    layout: Layout,
    import: &Import<'_>,
    client: &mut BlockingClient,
) -> Result<Failures, Failure> {
    let open_file = || {
        File::open(&args.file).map_err(|error| Failure::usage(format!("{}: {error}", args.file.display())))
    };
    // Of two tables, one must not go on where the other stopped. The default table's states are as they always were.
    let fingerprint = match args.table.name() {
        Table::DEFAULT_NAME => layout.to_string(),
        table => format!("{layout} table={table}"),
    };
    let mut records = open(open_file()?, layout, import.name)?;
    let Some(state) = &args.resume else {
        return import.run(client, records, Watermark::new(Place::default()), |_| Ok(()));
    };
    let cluster = client.topology().map_err(Failure::failed)?.cluster;
    let resume = Resume::new(state, cluster, fingerprint);
    // Another handle: the reader's own must stay where it is.
    let mut head = open_file()?;
    let place = resume.load(&mut head)?;
    if place.bytes > 0 {
        records.seek(place).map_err(Failure::failed)?;
        eprintln!("import: going on behind line {} of {}", grouped(place.lines), import.name);
    }
    import.run(client, records, Watermark::new(place), |mark| resume.save(&mut head, mark.safe()))
}

fn open<R: Read>(input: R, layout: Layout, name: &str) -> Result<Records<R>, Failure> {
    Records::open(input, layout).map_err(|error| Failure::usage(format!("{name}: {error}")))
}

/// The layout that the arguments describe.
fn layout(args: &Args) -> Result<Layout, Failure> {
    let (delimiter, value_default) = match (args.format, args.delimiter) {
        (Format::Delimited, None) => {
            return Err(Failure::usage("--format delimited needs --delimiter, like --delimiter ';'"));
        }
        (Format::Tsv | Format::Ndjson, Some(_)) => {
            return Err(Failure::usage("--delimiter goes with --format delimited or csv"));
        }
        (Format::Delimited, Some(delimiter)) => (delimiter, Field::Rest),
        (Format::Tsv, None) => (b'\t', Field::Rest),
        (Format::Csv, delimiter) => (delimiter.unwrap_or(b','), Field::Column(2)),
        (Format::Ndjson, None) => (b'\n', Field::Line),
    };
    let key = match (&args.key, args.format) {
        (Some(Field::Rest | Field::Line), _) => return Err(Failure::usage("--key names one column")),
        (Some(key), _) => key.clone(),
        (None, Format::Ndjson) => {
            return Err(Failure::usage("--format ndjson needs --key with a member's name"));
        }
        (None, Format::Tsv | Format::Csv | Format::Delimited) => Field::Column(1),
    };
    let value = args.value.clone().unwrap_or(value_default);
    match (args.format, &value) {
        (Format::Csv, Field::Rest | Field::Line) => {
            return Err(Failure::usage(
                "--value names one column in CSV, where quotes make a line ambiguous",
            ));
        }
        (Format::Ndjson, Field::Rest) => {
            return Err(Failure::usage("--value of a JSON document is a member's name, or \"line\""));
        }
        (Format::Tsv | Format::Csv | Format::Delimited | Format::Ndjson, _) => {}
    }
    let is_named = [&key, &value].iter().any(|field| matches!(field, Field::Name(_)));
    let header = args.format != Format::Ndjson && (args.header || is_named);
    Ok(Layout { format: args.format, delimiter, header, key, value })
}

/// How records go into a cluster.
struct Import<'a> {
    /// What is imported, for messages.
    name: &'a str,
    /// Where to.
    table: TableId,
    /// What becomes of other values there.
    mode: Mode,
    on_error: OnError,
    window: usize,
    options: WriteOptions,
}

/// Records that were not imported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Failures {
    /// No record, or certainly not applied.
    pub(crate) definite: u64,
    /// Perhaps applied.
    pub(crate) unknown: u64,
}

/// What the reading and the writing end of an import both touch.
struct Shared<'a, F> {
    import: &'a Import<'a>,
    progress: Progress,
    mark: Watermark,
    /// The line of each record under way, by number.
    line_of: HashMap<u64, u64>,
    save: F,
    taken: u64,
    is_stopped: bool,
    error: Option<Failure>,
}

impl Import<'_> {
    fn run<R: Read>(
        &self,
        client: &mut BlockingClient,
        mut records: Records<R>,
        mark: Watermark,
        save: impl FnMut(&Watermark) -> Result<(), Failure>,
    ) -> Result<Failures, Failure> {
        let shared = RefCell::new(Shared {
            import: self,
            progress: Progress::new(),
            mark,
            line_of: HashMap::new(),
            save,
            taken: 0,
            is_stopped: false,
            error: None,
        });
        let next = || shared.borrow_mut().next(&mut records);
        let (records, ended) = (std::iter::from_fn(next), |number, outcome: WriteOutcome| {
            shared.borrow_mut().ended(number, &outcome)
        });
        match self.mode {
            Mode::Lww => client.put_many(records, self.options, self.window, ended),
            Mode::Siblings => client.overwrite_many(records, self.options, self.window, ended),
        };
        let mut shared = shared.into_inner();
        shared.progress.finish();
        let saved = (shared.save)(&shared.mark);
        shared.error.map_or(Ok(()), Err).and(saved)?;
        let progress = &shared.progress;
        Ok(Failures { definite: progress.bad_lines + progress.not_applied, unknown: progress.unknown })
    }
}

impl<F: FnMut(&Watermark) -> Result<(), Failure>> Shared<'_, F> {
    /// The next record to write.
    fn next<R: Read>(&mut self, records: &mut Records<R>) -> Option<Record> {
        while !self.is_stopped {
            let record = match records.next() {
                Ok(record) => record?,
                Err(error) => {
                    self.stop(Failure::failed(format!("{}: {error}", self.import.name)));
                    return None;
                }
            };
            match record.pair {
                Ok(Pair { key, value }) => {
                    self.mark.take(record.end);
                    self.line_of.insert(self.taken, record.line);
                    self.taken += 1;
                    self.progress.bytes += (key.len() + value.len()) as u64;
                    return Some(Record { table: self.import.table, ..Record::plain(key, value) });
                }
                Err(bad) => {
                    self.progress.bad_lines += 1;
                    self.progress.tell(&format!("{}:{}: {bad}", self.import.name, record.line));
                    self.is_stopped = self.import.on_error == OnError::Stop;
                    // A line that stopped the import comes first when it is resumed, mended.
                    if !self.is_stopped {
                        self.mark.pass(record.end);
                    }
                    self.tick();
                }
            }
        }
        None
    }

    /// A record was written, or was not.
    fn ended(&mut self, number: u64, outcome: &WriteOutcome) -> ControlFlow<()> {
        let line = self.line_of.remove(&number).unwrap_or(0);
        match outcome {
            WriteOutcome::Done { .. } => {
                self.progress.records += 1;
                self.mark.done(number);
            }
            WriteOutcome::NotApplied(_) | WriteOutcome::Unknown(_) => {
                match outcome {
                    WriteOutcome::Unknown(_) => self.progress.unknown += 1,
                    WriteOutcome::NotApplied(_) | WriteOutcome::Done { .. } => self.progress.not_applied += 1,
                }
                self.mark.failed(number);
                self.progress.tell(&format!("{}:{line}: {outcome}", self.import.name));
                self.is_stopped |= self.import.on_error == OnError::Stop;
            }
        }
        self.tick();
        if self.is_stopped { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn tick(&mut self) {
        if self.progress.tick()
            && let Err(failure) = (self.save)(&self.mark)
        {
            self.stop(failure);
        }
    }

    fn stop(&mut self, failure: Failure) {
        self.is_stopped = true;
        self.error.get_or_insert(failure);
    }
}

/// Imports text that is in memory: the key is the first column, the value the rest of the line.
pub(crate) fn import_delimited(
    client: &mut BlockingClient,
    name: &str,
    text: &[u8],
    delimiter: u8,
    level: Level,
) -> Result<Failures, Failure> {
    let (key, value) = (Field::Column(1), Field::Rest);
    let layout = Layout { format: Format::Delimited, delimiter, header: false, key, value };
    let options = WriteOptions { level: Some(level), ..WriteOptions::default() };
    let (table, on_error) = (TableId::DEFAULT, OnError::Stop);
    let import = Import { name, table, mode: Mode::Lww, on_error, window: WINDOW_DEFAULT.into(), options };
    import.run(client, open(text, layout, name)?, Watermark::new(Place::default()), |_| Ok(()))
}
