//! A small engine's files: what inputs stand in for, and what the corpus is made of.

use ferrite_lsm::layout::LayoutMark;
use ferrite_lsm::log::LogOptions;
use ferrite_lsm::mem_disk::run::block_on;
use ferrite_lsm::mem_disk::{CrashMode, MemDisk};
use ferrite_lsm::{Directory, FileName, Options};

use super::rig::{Write, apart_options, open, run_jobs, stage};

/// Keys that were written, from 0 on.
pub(crate) const KEYS: u64 = 24;

pub(crate) fn options(entropy: u128) -> Options {
    let mut options = apart_options(entropy);
    options.log = LogOptions { segment_bytes: 20 << 10, group_bytes: 8 << 10, ..LogOptions::new(1) };
    options.memtable_bytes = 20 << 10;
    options.layout = Some(LayoutMark { generation: 1, cores: 1, index: 0 });
    options
}

/// An engine that has flushed, merged, put values apart, and has records in its log; as a kill leaves it. Always the same.
fn make() -> MemDisk {
    let disk = MemDisk::new();
    let (engine, _) = open(&disk, options(1)).expect("a fresh disk");
    let mut order = 0;
    for round in 0..4u64 {
        for n in (0..KEYS).filter(|n| !(n + round).is_multiple_of(3)) {
            order += 1;
            let bytes = if (n + round).is_multiple_of(5) { 200 } else { 8 };
            let tombstone = (n * 7 + round).is_multiple_of(11);
            stage(&engine, &Write { key: n, order, actor: round, bytes, tombstone }).expect("it fits");
        }
        assert!(block_on(engine.commit()).is_ok());
        if round < 3 {
            block_on(run_jobs(&engine)).expect("no fault");
        }
    }
    drop(engine);
    disk.crash(CrashMode::None, &mut || 1)
}

thread_local! {
    static SAMPLE: MemDisk = make();
}

/// The disk, not to be changed.
pub(crate) fn disk() -> MemDisk {
    SAMPLE.with(MemDisk::clone)
}

/// Its files.
pub(crate) fn files() -> Vec<FileName> {
    let disk = disk();
    let directories = [Directory::Core(0), Directory::Store(3), Directory::Store(5)];
    directories.into_iter().flat_map(|directory| disk.list(directory)).map(|(name, _)| name).collect()
}
