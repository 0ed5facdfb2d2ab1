//! Ferrite's storage engine side by side with RocksDB and fjall, each in a process of its own on one processor.

mod child;
mod contestant;
mod db;
mod device;
mod ferrite;
mod fjall;
mod keys;
mod measure;
mod part;
mod record;
mod rocks;
mod row;
mod run;
mod space;
mod table;
mod target;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use row::Row;

/// Why a run ended early, in words.
type Failure = Box<dyn std::error::Error>;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Ferrite's storage engine side by side with RocksDB and fjall.
///
/// Each session of each engine runs in a process of its own, pinned to one processor with all its threads, engine after engine and
/// round after round (A B C A B C): compare ratios. Rows that follow each other share a process if they need the same: those that
/// read from memory begin with a restart, after which all that is there is read, and then a part of it again.
///
/// The same for all: 16-byte keys in random order, values of which half compresses, bytes of the block cache (indexes and filters of
/// Ferrite and RocksDB are beside it, and some of fjall's), bytes of memtables that take writes, groups of the same size, LZ4 or not, blocks of 4 KiB,
/// filters of 10 bits a key (fjall's of level 0 have more), and direct I/O where the engine can: fjall cannot, and RocksDB writes its log through the page cache.
/// All rows but `synced` write the log without a sync, as a process that dies would need. Not the same: RocksDB allocates with the
/// allocator of the C library, the others with mimalloc; fjall reads one key at a time.
///
/// Settled is: what memtables hold was written into tables, and no work is due in the background. Ferrite is told by a checkpoint, which
/// is removed at once, and runs jobs until it offers none; RocksDB by Flush, until no flush or compaction is pending or runs; fjall by
/// rotating its memtable, until none is outstanding. Load, overwrite and mixed end so, and what it costs is a part of what they cost; rows
/// that read begin so. What is on disk is what is allocated after that, logs, segments kept for reuse and all else included.
///
/// CPU is that of all threads of the process; `written` is what the process caused to be written to devices (write_bytes of
/// /proc/self/io), by logical bytes where there are any: of files written through the page cache that counts also what was
/// removed before the kernel got to write it, which the figures name as `cancelled`. Memory is the peak of the resident set in
/// the row; the page cache is not in it.
///
/// RocksDB reads from disk with MultiGet, of as many keys at once as it does best with among several sizes up to 200; through io_uring
/// if it was built so (run.sh --built-rocksdb). Values of 4 KiB and more Ferrite keeps apart from its tables, as a node does (see
/// --large); the others have that off, as they come.
#[derive(Parser, Debug, Clone)]
#[command(name = "run.sh", max_term_width = 120)]
struct Args {
    /// Rows, in the order they run; load comes first in each round whatever is asked.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Row::Load, Row::Overwrite, Row::Hit, Row::Miss, Row::Hit16, Row::Scan, Row::Mixed, Row::Disk, Row::Device, Row::Synced])]
    rows: Vec<Row>,
    /// Engines.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Engine::Ferrite, Engine::Rocksdb, Engine::Fjall])]
    engines: Vec<Engine>,
    /// Records: 1,000,000, or 10,000,000 in the largest set of --final. At most that many, and 10 GB of keys and values.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    keys: Option<u64>,
    /// Operations of a row that reads; some rows do a part of them, see --rows.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1_000..))]
    operations: u64,
    /// Bytes of a value.
    #[arg(long, default_value_t = 100)]
    value: usize,
    /// Puts of a group.
    #[arg(long, default_value_t = 64)]
    batch: u64,
    /// Block cache, in MiB: 1024, or 2048 with --final. The disk row takes 2 % of the data instead.
    #[arg(long)]
    cache: Option<usize>,
    /// Memtable, in MiB; idle and busy take an eighth.
    #[arg(long, default_value_t = 64)]
    memtable: usize,
    /// Stores of Ferrite's engine: it takes part once with each of these. A node has 16 unless told otherwise.
    #[arg(long, value_delimiter = ',', default_values_t = [16, 1])]
    stores: Vec<u16>,
    /// Length from which Ferrite keeps values apart from the tree (0 = never); the node's default.
    #[arg(long, default_value_t = 4096)]
    large: usize,
    /// Compress blocks with LZ4 (0 = not); `1,0` runs everything with and then without.
    #[arg(long, value_delimiter = ',', default_values_t = [1], value_parser = clap::value_parser!(u8).range(0..=1))]
    lz4: Vec<u8>,
    /// Gets per second of the rows idle and busy; 0 = 30 % of what the same engine reached in hit.
    #[arg(long, default_value_t = 0.0)]
    rate: f64,
    /// Puts per second of the row busy.
    #[arg(long, default_value_t = 20_000.0)]
    put_rate: f64,
    /// Length of the rows idle and busy.
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
    /// Rounds; the table shows medians.
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Where the data goes; removed after. It must have room for every engine's data at once.
    #[arg(long, default_value = "target/engines")]
    dir: PathBuf,
    /// The processor of every engine.
    #[arg(long, default_value_t = 0)]
    cpu: usize,
    /// After 1, 2, 5 and 10 times as many records: what a get and a put cost as the data grows.
    #[arg(long)]
    curve: bool,
    /// All that the goals ask for, in parts one after another, in about half an hour of two quiet processors; ends with a table of the
    /// goals. Takes --keys (all sets shrink with the largest), --operations, --rounds, --seconds, --dir, --cpu, --memtable and --out.
    #[arg(long, conflicts_with_all = ["curve", "rows", "engines", "value", "stores", "lz4"])]
    r#final: bool,
    /// Where figures go as they come, a line each, so that a run that is cut off loses none. Default: a new file in --dir.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Prints the tables of such a file, with --final that of the goals too, and runs nothing.
    #[arg(long)]
    tables: Option<PathBuf>,
    /// Rows of one engine, in this process: what the command starts itself with.
    #[arg(long, hide = true, value_enum, value_delimiter = ',')]
    child: Vec<Row>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Engine {
    Ferrite,
    Rocksdb,
    Fjall,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if !args.child.is_empty() {
        child::run(&args.child, &part::Part::asked(&args)[0]);
        return ExitCode::SUCCESS;
    }
    let done = match &args.tables {
        Some(file) => record::read(file).map(|records| {
            print!("{}", table::all(&records));
            if args.r#final {
                print!("{}", target::table(&records));
            }
        }),
        None => run::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("engines: {error}");
            ExitCode::FAILURE
        }
    }
}
