//! A device that fails while the manifest is changed: after what the core takes no writes any more, and after what it goes on.

use crate::rig::{TestEngine, Write, lookup, open, run_jobs, small_options, stage};
use ferrite_lsm::mem_disk::run::block_on;
use ferrite_lsm::mem_disk::{CrashMode, Fault, MemDisk};
use ferrite_lsm::{AssignError, Directory, DiskErrorKind, FileName, Options};

/// It lives nowhere.
const HOMELESS: u16 = 9;
/// Attempts that stay before no more is begun.
const ATTEMPTS_MAX: u64 = 8;

/// An engine of which each change begins a new manifest.
fn opened() -> (MemDisk, TestEngine) {
    let disk = MemDisk::new();
    let (engine, _) =
        open(&disk, Options { manifest_bytes_max: 0, ..small_options(1) }).expect("a fresh disk");
    (disk, engine)
}

fn change(engine: &TestEngine) -> Result<(), DiskErrorKind> {
    block_on(engine.assign(&[(HOMELESS, 3)])).map_err(|error| match error {
        AssignError::Disk(error) => error.kind,
        other => panic!("{other}"),
    })
}

fn newest_manifest(disk: &MemDisk) -> u64 {
    let files = disk.list(Directory::Core(0)).into_iter();
    let numbers = files.filter_map(|(file, _)| match file {
        FileName::Manifest { number, .. } => Some(number),
        FileName::Segment { .. } | FileName::Table { .. } | FileName::Values { .. } => None,
    });
    numbers.max().expect("there is one")
}

/// A change was made, the sync of the directory that followed the removal of older manifests failed, and the core took writes on.
#[test]
fn a_failed_sync_after_a_change_was_made_fences() {
    let (mut made, mut fenced) = (Vec::new(), 0);
    for n in 0.. {
        let (disk, engine) = opened();
        let before = disk.steps();
        disk.fail_at(n, Fault::Io);
        let changed = change(&engine);
        if disk.steps() - before <= n {
            assert_eq!(changed, Ok(()));
            break;
        }
        match changed {
            Ok(()) => made.push(engine.is_fenced()),
            Err(kind) => assert_eq!((kind, engine.is_fenced()), (DiskErrorKind::Io, true), "step {n}"),
        }
        fenced += u64::from(engine.is_fenced());
    }
    // A file that cannot be unlinked stays a while; what was unlinked may come back.
    assert_eq!(made, [false, true]);
    assert!(fenced > 4, "{fenced} steps fence");
}

/// Where files that full disks had left of changes could not be removed, the next change was refused, and the core took no writes until a
/// restart, although nothing had been begun.
#[test]
fn a_change_that_is_refused_for_files_that_stay_fences_nothing() {
    let (disk, engine) = opened();
    let first = newest_manifest(&disk) + 1;
    (0..ATTEMPTS_MAX).for_each(|at| disk.stick(FileName::Manifest { core: 0, number: first + at }));
    for left in 0..ATTEMPTS_MAX {
        // Each that is left is tried, and a file made, which has no room.
        disk.fail_at(left + 2, Fault::NoSpace);
        assert_eq!(change(&engine), Err(DiskErrorKind::NoSpace), "{left} are left");
        assert_eq!(newest_manifest(&disk), first + left);
    }
    for _ in 0..2 {
        assert_eq!(change(&engine), Err(DiskErrorKind::Io));
        assert_eq!((newest_manifest(&disk), engine.is_fenced()), (first + ATTEMPTS_MAX - 1, false));
        let write = Write { key: 1, order: 7, actor: 1, bytes: 30, tombstone: false };
        stage(&engine, &write).expect("there is room");
        block_on(engine.commit()).expect("there is room");
    }
    disk.heal();
    assert_eq!(change(&engine), Ok(()));
    block_on(run_jobs(&engine)).expect("there is room");
    assert_eq!((lookup(&engine, 1).map(|found| found.0), engine.vnode_store(HOMELESS)), (Some(7), Some(3)));
}

/// The disk is full whenever a change is tried, and then the power is cut.
fn last_stays(n: u64) -> Result<(), String> {
    let (disk, engine) = opened();
    change(&engine).expect("there is room");
    for attempt in 0..3 {
        // The attempt before is unlinked, durably; then a file is made, written, synced.
        disk.fail_at(if attempt == 0 { n } else { n + 2 }, Fault::NoSpace);
        block_on(engine.assign(&[(HOMELESS + 1, 3)])).expect_err("the disk is full");
        let left = disk.image(CrashMode::None, &mut || 0);
        let (left, _) =
            open(&left, small_options(2)).map_err(|error| format!("attempt {attempt}: {error}"))?;
        if left.vnode_store(HOMELESS) != Some(3) {
            return Err(format!("attempt {attempt}: what was acknowledged is gone"));
        }
    }
    Ok(())
}

#[test]
fn the_last_manifest_stays_while_attempts_at_the_next_one_fail() {
    for n in 0..4 {
        assert_eq!(last_stays(n), Ok(()), "step {n}");
    }
}

#[cfg(feature = "planted-bugs")]
#[test]
fn an_attempt_that_takes_the_last_manifest_along_is_caught() {
    crate::rig::planted::caught(ferrite_lsm::planted::Bug::AttemptTakesLastManifest, 1..2, last_stays);
}
