//! What a fuzz target does: has files of any content read by everything that reads such files.
//!
//! A panic is a failure, and so are more reads than a bound: lengths are to be checked before they are trusted, and walks are to end.
//! Memory is bounded by whoever calls, the fuzzer or a test's allocator.

#[path = "input.rs"]
pub(crate) mod input;
#[path = "reseal.rs"]
mod reseal;
#[path = "../rig/mod.rs"]
mod rig;
#[path = "sample.rs"]
pub(crate) mod sample;

use std::ops::ControlFlow;

use ferrite_lsm::inspect::{self, Event};
use ferrite_lsm::log::{Log, LogOptions};
use ferrite_lsm::mem_disk::run::block_on;
use ferrite_lsm::mem_disk::{CrashMode, MemDisk};
use ferrite_lsm::{
    BlockHandle, Class, Direction, FileName, KeyRange, ScanLimits, Source, Table, TableCursor, TableName,
    ValueFile,
};
use input::Input;
use rig::{Write, key, stage};

/// Most reads that an input is worth, whatever it says.
const READS_MAX: u64 = 20_000;
/// Jobs that are run after an engine has opened.
const JOBS_MAX: usize = 16;
/// Records that a scan shows; a sample has fewer.
const SCANNED_MAX: usize = 1_000;

/// Which files an input is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Log,
    Table,
    Values,
    Manifest,
}

impl Kind {
    /// The names of a sample's files that an input stands in for.
    pub(crate) fn places(self) -> Vec<FileName> {
        sample::files()
            .into_iter()
            .filter(|file| match file {
                FileName::Segment { .. } => self == Kind::Log,
                FileName::Table { .. } => self == Kind::Table,
                FileName::Values { .. } => self == Kind::Values,
                FileName::Manifest { .. } => self == Kind::Manifest,
            })
            .collect()
    }

    fn reseal(self, name: FileName, file: &mut [u8]) {
        match (self, name) {
            (Kind::Log, _) => reseal::log(file),
            (Kind::Table, _) => reseal::table(file),
            (Kind::Values, _) => reseal::values(file),
            (Kind::Manifest, FileName::Manifest { number, .. }) => reseal::manifest(file, number),
            (Kind::Manifest, _) => unreachable!("a manifest has a manifest's name"),
        }
    }
}

/// Reads what an input says in every way. Whether every reader found it whole.
pub(crate) fn run(kind: Kind, bytes: &[u8]) -> bool {
    let mut input = Input::decode(bytes);
    let places = kind.places();
    let named: Vec<(FileName, Vec<u8>)> = places.into_iter().zip(input.files.drain(..)).collect();
    let alone = MemDisk::new();
    let among = sample::disk().image(CrashMode::None, &mut || 1);
    for (name, mut file) in named.clone() {
        if input.reseal {
            kind.reseal(name, &mut file);
        }
        alone.write_all(name, &file);
        among.write_all(name, &file);
    }
    let Some((first, _)) = named.first() else { return false };
    let inspected = inspect_alone(kind, *first, &alone);
    let read = block_on(read_alone(kind, *first, &alone));
    let store = block_on(inspect::store(&among, None, &mut |event| drop(format!("{event:?}"))));
    let opened = open_among(&among);
    assert!(alone.reads() + among.reads() <= READS_MAX, "{} and {} reads", alone.reads(), among.reads());
    inspected && read && opened && store.is_ok_and(|verdict| verdict.is_whole())
}

fn inspect_alone(kind: Kind, name: FileName, disk: &MemDisk) -> bool {
    let mut see = |event: Event<'_>| drop(format!("{event:?}"));
    let verdict = block_on(async {
        match name {
            FileName::Segment { core, slot } => {
                let one = inspect::log(disk, core, Some(slot), &mut see).await;
                inspect::log(disk, core, None, &mut see).await.and(one)
            }
            FileName::Table { store, number } => {
                inspect::table(disk, TableName { store, number }, &mut see).await
            }
            FileName::Values { store, number } => inspect::values(disk, (store, number), &mut see).await,
            FileName::Manifest { core, number } => {
                inspect::manifest(disk, core, Some(number), &mut see).await
            }
        }
    });
    verdict.unwrap_or_else(|error| panic!("{kind:?}: buffers are there: {error}")).is_whole()
}

/// The readers that the engine is made of, each by itself. Whether they found something whole.
async fn read_alone(kind: Kind, name: FileName, disk: &MemDisk) -> bool {
    let bytes = disk.read_all(name).map_or(0, |file| file.len() as u64);
    match kind {
        Kind::Log => {
            let options = LogOptions { segment_bytes: 20 << 10, group_bytes: 8 << 10, ..LogOptions::new(3) };
            let mut records = 0u64;
            let first = Log::recover(disk.clone(), 0, options, &mut |_, _, _, _| records += 1).await;
            let Ok((_, found)) = first else { return false };
            assert_eq!(found.records, records, "every record is shown");
            // What a recovery has decided, it decides again.
            let mut again = 0u64;
            let options = LogOptions { life: 4, ..options };
            let second = Log::recover(disk.clone(), 0, options, &mut |_, _, _, _| again += 1).await;
            assert!(second.is_ok(), "a log that was recovered is recovered again");
            assert_eq!(again, records, "the same records come back");
            found.damage.is_empty() && found.cut_tail.is_none()
        }
        Kind::Table => {
            let FileName::Table { store, number } = name else { unreachable!("a table has a table's name") };
            let name = TableName { store, number };
            let opened = Table::open(disk.clone(), name, bytes, None, Class::Read).await;
            let Ok(table) = opened else { return false };
            let mut is_whole = true;
            for block in 0..table.blocks() {
                match table.read_block(BlockHandle(block), Class::Read).await {
                    Ok(block) => (0..block.len()).for_each(|at| {
                        let (key, _) = block.entry_at(at);
                        table.locate(&key);
                        block.get(&key);
                        block.seek(&key);
                    }),
                    Err(_) => is_whole = false,
                }
            }
            let mut cursor = TableCursor::streaming(table, Class::Background, None);
            let mut shown = 0u64;
            while cursor.fill().await.is_ok() && cursor.current().is_some() {
                shown += 1;
                while cursor.advance() {
                    shown += 1;
                }
                // Entries take a byte at least.
                assert!(shown <= 16 << 20, "a walk of {bytes} bytes does not end");
            }
            is_whole
        }
        Kind::Values => {
            let opened = ValueFile::open(disk.clone(), name, bytes, None, Class::Read).await;
            let Ok(file) = opened else { return false };
            file.verify(Class::Read, |_, _, _, _| {}).await.is_ok()
        }
        // Its reader is the engine's open.
        Kind::Manifest => true,
    }
}

/// An engine among whose files the input's are: opened, read, written, put through its jobs. Whether nothing was wrong.
fn open_among(disk: &MemDisk) -> bool {
    let Ok((engine, recovery)) = rig::open(disk, sample::options(7)) else { return false };
    let mut is_whole =
        recovery.damage.is_empty() && recovery.quarantined.is_empty() && !recovery.cut_manifest;
    for n in 0..sample::KEYS + 2 {
        is_whole &= block_on(engine.read(key(n).as_key())).is_ok();
    }
    for vnode in 0..rig::VNODES {
        for direction in [Direction::Forward, Direction::Reverse] {
            let (range, limits) = (KeyRange::vnode(1, vnode), ScanLimits::records(SCANNED_MAX));
            let walk = engine.scan(&range, direction, limits, |_, _| ControlFlow::Continue(()));
            is_whole &= block_on(walk).is_ok();
        }
    }
    let write = Write { key: 3, order: 1 << 40, actor: 9, bytes: 300, tombstone: false };
    let _may_be_refused = stage(&engine, &write);
    let _may_fail = block_on(engine.commit());
    engine.allow_scrub(1 << 20);
    for _ in 0..JOBS_MAX {
        let Some(job) = engine.next_job() else { break };
        if block_on(engine.run(job)).is_err() {
            break;
        }
    }
    is_whole && engine.quarantined().is_empty()
}
