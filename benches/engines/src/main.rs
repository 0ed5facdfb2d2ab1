//! Ferrite's storage engine side by side with RocksDB and fjall, each in a process of its own on one processor.

mod child;
mod db;
mod device;
mod ferrite;
mod fjall;
mod keys;
mod measure;
mod rocks;
mod row;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use row::Row;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Ferrite's storage engine side by side with RocksDB (as the system has it) and fjall.
///
/// Each row of each engine runs in a process of its own, pinned to one processor with all its threads, engine after engine and
/// round after round (A B C A B C): compare ratios. All get the same cache and memtable memory, 16-byte keys in random
/// order, values of which half compresses, direct I/O where the engine can (fjall cannot), groups of the same size,
/// and the same durability: rows but `synced` write the log without a sync, as a process that dies would need.
/// CPU is that of all threads; `written` what the process caused to be written to devices, by logical bytes where
/// there are any.
#[derive(Parser, Debug, Clone)]
struct Args {
    /// Rows, in the order they run; load comes first in each round whatever is asked.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Row::Load, Row::Overwrite, Row::Hit, Row::Miss, Row::Hit16, Row::Disk, Row::Scan, Row::Mixed, Row::Synced])]
    rows: Vec<Row>,
    /// Engines.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Engine::Ferrite, Engine::Rocksdb, Engine::Fjall])]
    engines: Vec<Engine>,
    /// Records.
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// Operations of a row that reads.
    #[arg(long, default_value_t = 1_000_000)]
    operations: u64,
    /// Bytes of a value.
    #[arg(long, default_value_t = 100)]
    value: usize,
    /// Puts of a group.
    #[arg(long, default_value_t = 64)]
    batch: u64,
    /// Block cache, in MiB; the disk row takes 2 % of the data instead.
    #[arg(long, default_value_t = 1024)]
    cache: usize,
    /// Memtable, in MiB.
    #[arg(long, default_value_t = 64)]
    memtable: usize,
    /// Stores of Ferrite's engine.
    #[arg(long, default_value_t = 16)]
    stores: u16,
    /// Length from which Ferrite keeps values apart from the tree (0 = never); the node's default.
    #[arg(long, default_value_t = 4096)]
    large: usize,
    /// Compress blocks with LZ4 (0 = not).
    #[arg(long, default_value_t = 1)]
    lz4: u8,
    /// Gets per second of the rows idle and busy; 0 = 30 % of what the same engine reached in hit.
    #[arg(long, default_value_t = 0.0)]
    rate: f64,
    /// Puts per second of the row busy.
    #[arg(long, default_value_t = 20_000.0)]
    put_rate: f64,
    /// Length of the rows idle and busy.
    #[arg(long, default_value_t = 10.0)]
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
    /// Also after 1, 2, 5 and 10 times as many records: what a get and a put cost as the data grows.
    #[arg(long)]
    curve: bool,
    /// One row of one engine, in this process: what the command starts itself with.
    #[arg(long, hide = true, value_enum)]
    child: Option<Row>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Engine {
    Ferrite,
    Rocksdb,
    Fjall,
}

impl Engine {
    fn name(self) -> &'static str {
        match self {
            Engine::Ferrite => "ferrite",
            Engine::Rocksdb => "rocksdb",
            Engine::Fjall => "fjall",
        }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(row) = args.child {
        println!("{}", child::run(row, &args).to_line());
        return ExitCode::SUCCESS;
    }
    match table::run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("engines: {error}");
            ExitCode::FAILURE
        }
    }
}
