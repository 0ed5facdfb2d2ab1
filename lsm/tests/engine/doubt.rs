//! Changes of the manifest of which memory and the disk may not say the same: nobody waited for their end, or a full disk kept what it
//! said it had no room for.

use std::future::Future;

use crate::rig::{TestEngine, Write, lookup, open, run_jobs, small_options, stage};
use ferrite_lsm::mem_disk::run::{block_on, poll_once};
use ferrite_lsm::mem_disk::{CrashMode, MemDisk, MemPace};
use ferrite_lsm::{Engine, Extent, Options, Refusal};

/// Key 1 is of vnode 1, which lives in store 5.
const VNODE: u16 = 1;
const KEY: u64 = 1;

/// Each change begins a new manifest.
fn options(entropy: u128) -> Options {
    Options { manifest_bytes_max: 0, ..small_options(entropy) }
}

/// Polls so often, has the disk do everything in between, and then waits no more; false if it ended before that.
fn is_left<T>(disk: &MemDisk, doing: impl Future<Output = T>, polls: usize) -> bool {
    let mut doing = Box::pin(doing);
    (0..polls).all(|_| {
        let is_pending = poll_once(doing.as_mut()).is_none();
        disk.complete_all();
        is_pending
    })
}

/// Polls to the end.
fn drive<T>(disk: &MemDisk, doing: impl Future<Output = T>) -> T {
    let mut doing = Box::pin(doing);
    loop {
        if let Some(done) = poll_once(doing.as_mut()) {
            return done;
        }
        disk.complete_all();
    }
}

fn put(disk: &MemDisk, engine: &TestEngine, order: u64) -> Result<(), Refusal> {
    stage(engine, &Write { key: KEY, order, actor: 1, bytes: 50, tombstone: false })?;
    drive(disk, engine.commit()).expect("no faults");
    Ok(())
}

/// The engine that a power cut leaves, with what was synced and nothing else.
fn cut(disk: &MemDisk, what: &str) -> TestEngine {
    let left = disk.image(CrashMode::None, &mut || 0);
    let opened = block_on(Engine::open(left, MemPace::new(), options(2)));
    opened.unwrap_or_else(|error| panic!("{what}: {error}")).0
}

/// A change showed in memory before the manifest that it had superseded was removed. A drop that nobody waited for any more just then
/// was taken for settled by the next change while its vnode still took writes, and the next start refused to put them anywhere.
#[test]
fn a_drop_that_is_left_at_any_moment_loses_no_write_after_it() {
    let (mut lived, mut polls) = (0, 1);
    loop {
        let disk = MemDisk::new();
        let (engine, _) = open(&disk, options(1)).expect("a fresh disk");
        put(&disk, &engine, 5).expect("there is room");
        disk.defer();
        if !is_left(&disk, engine.drop_extent(Extent::vnode(VNODE)), polls) {
            break;
        }
        let what = format!("left after {polls} polls");
        drive(&disk, run_jobs(&engine)).expect("no faults");
        let written = put(&disk, &engine, 9);
        assert_eq!((written, engine.vnode_store(VNODE)), (Ok(()), Some(5)), "{what}");
        lived += 1;
        let left = cut(&disk, &what);
        assert_eq!(left.vnode_store(VNODE), Some(5), "{what}");
        assert_eq!(lookup(&left, KEY).map(|found| found.0), Some(9), "{what}");
        polls += 1;
    }
    // It is created, written, synced, named, marked, and the one before it unlinked for good.
    assert!(lived > 6, "left {lived} times");
}
