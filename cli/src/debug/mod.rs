//! `ferrite debug`: prints and verifies the engine's files, without a node.
//!
//! It reads, and only reads. The data directory of a node that runs is refused, for what is being written to looks cut; tables and
//! value files are written once, so they may be read of a running node as well, and that is said.

mod disk;
mod place;
mod print;

use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use ferrite_lsm::inspect;
use ferrite_lsm::{DiskErrorKind, FileName, ReadError, TableName};

use self::disk::PlainDisk;
use self::place::{Names, Place, Subject};
use self::print::Printer;
use crate::outcome::Failure;

/// Print and verify files of a data directory: exit code 0 whole, 1 damaged, 2 not such a file
///
/// Every damage is said with its file, place, what should be there, what is there, which keys it may hide, and what to do.
/// A node that runs is not disturbed: its directory is refused, except for its tables and value files.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// A log: a core's directory (core-00000), or one segment in it (log-00000000)
    Log(Target),
    /// A table: store-00000/table-…
    Table(Target),
    /// A value file: store-00000/values-…
    Values(Target),
    /// A manifest: a core's directory (core-00000), or one manifest in it
    Manifest(Target),
    /// A store's directory (store-00000), or a data directory for all stores: its files against the manifests
    Store(Target),
}

#[derive(clap::Args)]
struct Target {
    /// A file or directory in a data directory
    path: PathBuf,
    /// Print every record, with its key
    #[arg(long)]
    keys: bool,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    names: Names,
}

/// Inspects what the command line names.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let (subject, target) = match &args.what {
        What::Log(target) => (Subject::Log, target),
        What::Table(target) => (Subject::Table, target),
        What::Values(target) => (Subject::Values, target),
        What::Manifest(target) => (Subject::Manifest, target),
        What::Store(target) => (Subject::Store, target),
    };
    let place = Place::find(subject, &target.path, &target.names).map_err(Failure::usage)?;
    let _lock = place.lock().map_err(Failure::usage)?;
    let alone = place.file().map(|name| (name, target.path.display().to_string()));
    let mut printer = Printer::new(target.json, target.keys, alone);
    if place.is_live() {
        printer.live();
    }
    let disk = PlainDisk::new(&place);
    let mut see = |event: inspect::Event<'_>| printer.event(event);
    let inspected = match (place.file(), subject) {
        (Some(FileName::Segment { core, slot }), _) => {
            finish(inspect::log(&disk, core, Some(slot), &mut see))
        }
        (Some(FileName::Manifest { core, number }), _) => {
            finish(inspect::manifest(&disk, core, Some(number), &mut see))
        }
        (Some(FileName::Table { store, number }), _) => {
            finish(inspect::table(&disk, TableName { store, number }, &mut see))
        }
        (Some(FileName::Values { store, number }), _) => {
            finish(inspect::values(&disk, (store, number), &mut see))
        }
        (None, Subject::Log) => finish(inspect::log(&disk, place.directory(), None, &mut see)),
        (None, Subject::Manifest) => finish(inspect::manifest(&disk, place.directory(), None, &mut see)),
        (None, Subject::Store) => finish(inspect::store(&disk, place.store(), &mut see)),
        (None, Subject::Table | Subject::Values) => unreachable!("these are files"),
    };
    let verdict = inspected.map_err(|error| match error {
        ReadError::Disk(error) if error.kind == DiskErrorKind::NotFound => Failure::usage(error),
        error => Failure::failed(error),
    })?;
    printer.verdict(&verdict);
    printer.finish().map_err(|error| Failure::failed(format!("cannot print: {error}")))?;
    if verdict.is_whole() {
        return Ok(());
    }
    let places = if verdict.damage == 1 { "place is" } else { "places are" };
    Err(Failure::failed(format!("{} {places} damaged in {}", verdict.damage, target.path.display())))
}

/// The end of a future that waits for nothing: a plain disk has done everything when it is asked.
fn finish<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("a plain disk never has anybody wait"),
    }
}
