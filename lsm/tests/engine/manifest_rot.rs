//! Rot in the manifest's last change: it refuses by name, and is never taken back without a word.
//!
//! The story: the last group of a manifest was a cut tail if it did not hold, whatever had made it so. A vnode that had been
//! dropped, durably and acknowledged, was there again after one flipped bit.

use ferrite_lsm::mem_disk::run::block_on;
use ferrite_lsm::mem_disk::{CrashMode, MemDisk};
use ferrite_lsm::{Directory, Extent, FileName};

use crate::rig::{VNODES, Write, key, open, small_options, stage};

const KEYS: u64 = 12;

/// An engine whose last change was to drop vnode 1, as a kill leaves it, and its manifest.
fn dropped() -> (MemDisk, FileName) {
    let disk = MemDisk::new();
    let (engine, _) = open(&disk, small_options(1)).expect("a fresh disk");
    for n in 0..KEYS {
        stage(&engine, &Write { key: n, order: n + 1, actor: 1, bytes: 10, tombstone: false })
            .expect("it fits");
    }
    block_on(engine.commit()).expect("no fault");
    block_on(engine.drop_extent(Extent::vnode(1))).expect("no fault");
    drop(engine);
    let disk = disk.crash(CrashMode::None, &mut || 1);
    let files = disk.list(Directory::Core(0)).into_iter().map(|(name, _)| name);
    let manifests: Vec<_> = files.filter(|name| matches!(name, FileName::Manifest { .. })).collect();
    assert_eq!(manifests.len(), 1);
    (disk, manifests[0])
}

/// Opens; whether it opened. If so, the vnode is gone and everything else is there.
fn check(disk: &MemDisk, what: &str) -> bool {
    let Ok((engine, _)) = open(disk, small_options(2)) else { return false };
    for n in 0..KEYS {
        let found = block_on(engine.read(key(n).as_key())).expect("the disk is sound");
        assert_eq!(found.is_some(), n % u64::from(VNODES) != 1, "{what}: key {n}");
    }
    true
}

#[test]
fn a_drop_is_not_taken_back_by_any_flipped_byte() {
    let (disk, manifest) = dropped();
    let bytes = disk.read_all(manifest).expect("it is there").len() as u64;
    let mut opened = 0;
    for at in 0..bytes {
        let left = disk.image(CrashMode::None, &mut || 1);
        assert!(left.corrupt(manifest, at, 1 << (at % 8)));
        opened += u64::from(check(&left, &format!("byte {at} flipped")));
    }
    assert_eq!(opened, 8192, "either mark may rot, and nothing else");
}

#[test]
fn a_drop_is_not_taken_back_by_any_cut() {
    let (disk, manifest) = dropped();
    let bytes = disk.read_all(manifest).expect("it is there");
    for len in (0..bytes.len()).step_by(512) {
        let left = disk.image(CrashMode::None, &mut || 1);
        left.write_all(manifest, &bytes[..len]);
        // What is behind the end reads as zeros: a cut through the zeros at the end takes nothing.
        let is_padding = bytes[len..].iter().all(|byte| *byte == 0);
        assert_eq!(check(&left, &format!("cut to {len} bytes")), is_padding, "{len} bytes");
    }
    assert!(check(&disk, "whole"));
}
