//! Starts over files that are damaged, or that the device does not give: what is opened without, and what refuses.

use std::collections::BTreeSet;

use super::{check_what_is_answered, copy, eager, fill, filled, run_all, tables};
use crate::rig::{VNODES, Write, apart_options, apply, key, open, small_options, stage};
use ferrite_lsm::inspect::{self, Event};
use ferrite_lsm::layout::LayoutMark;
use ferrite_lsm::mem_disk::run::block_on;
use ferrite_lsm::mem_disk::{MemDisk, ReadFault};
use ferrite_lsm::{Directory, DiskErrorKind, Extent, FileName, OpenError, Options, ReadError};

#[test]
fn a_table_too_damaged_to_be_opened_is_quarantined_whole() {
    let (disk, model) = filled(small_options);
    for table in tables(&disk) {
        for from_end in [1u64, 4096 - 20, 4096 + 900] {
            let disk = copy(&disk);
            let bytes = disk.read_all(table).expect("it is there").len() as u64;
            assert!(disk.corrupt(table, bytes - from_end, 0x10));
            let context = format!("{table:?}, {from_end} bytes from its end");
            let (engine, recovery) = open(&disk, small_options(2)).expect("the others are sound");
            if recovery.quarantined.is_empty() {
                assert_eq!(check_what_is_answered(&engine, &model, &context), BTreeSet::new());
                continue;
            }
            assert_eq!(recovery.quarantined.len(), 1);
            assert_eq!((recovery.quarantined[0].file, recovery.quarantined[0].is_used), (table, false));
            let lost = check_what_is_answered(&engine, &model, &context);
            let inside = |n: &u64| {
                recovery.quarantined.iter().any(|range| range.low <= key(*n) && key(*n) < range.high)
            };
            assert!(lost.iter().all(inside), "the keys outside go on");
            let mut model = model.clone();
            fill(&engine, &mut model, 30, 5);
            drop(engine);
            let (engine, again) = open(&disk, eager(3)).expect("a mark is no reason to refuse");
            assert_eq!(again.quarantined, recovery.quarantined);
            run_all(&engine);
            check_what_is_answered(&engine, &model, &context);
            assert!(tables(&disk).contains(&table), "there may be something to save in it");
        }
    }
}

/// A device that failed three reads in a row while a file was opened had a healthy table quarantined for good, and later kept the node
/// from starting. Now it is opened without that table: what is asked of it fails with the device's error, unless something newer is
/// found, and nothing is decided before it can be read.
#[test]
fn a_sector_that_cannot_be_read_while_a_file_is_opened_costs_its_keys_until_the_next_start() {
    let (disk, model) = filled(apart_options);
    let stores = [Directory::Store(3), Directory::Store(5)];
    let files: Vec<_> = stores.iter().flat_map(|&store| disk.list(store)).collect();
    let (mut of_tables, mut of_values, mut lost_somewhere) = (0, 0, 0);
    for (file, bytes) in files {
        for page in (0..bytes).step_by(4096) {
            let disk = copy(&disk);
            disk.break_page(file, page);
            let (engine, recovery) = open(&disk, apart_options(2)).expect("the others can be read");
            let context = format!("{file:?}, byte {page}");
            assert_eq!(recovery.quarantined, [], "{context}");
            assert_eq!(engine.unreadable(), recovery.unreadable);
            let lost = check_what_is_answered(&engine, &model, &context);
            of_values += u64::from(matches!(file, FileName::Values { .. }) && !lost.is_empty());
            if recovery.unreadable.is_empty() {
                continue;
            }
            of_tables += 1;
            let [found] = &recovery.unreadable[..] else { panic!("{context}: {:?}", recovery.unreadable) };
            assert_eq!(found.file, file);
            assert!(engine.stats().damaged_tables > 0);
            let inside = |n: &u64| found.low <= key(*n) && key(*n) < found.high;
            assert!(lost.iter().all(inside), "{context}: the keys outside go on");
            for &n in &lost {
                let Err(ReadError::Disk(error)) = block_on(engine.read(key(n).as_key())) else {
                    panic!("{context}: key {n} is the device's matter")
                };
                assert_eq!((error.kind, error.name), (DiskErrorKind::Io, Some(file)));
            }
            lost_somewhere += u64::from(!lost.is_empty());
            // Writes go on, flushes and the merges that do without the table; what is newer is found.
            let mut model = model.clone();
            fill(&engine, &mut model, 12, page + 5);
            let newest = model.values().map(|write| write.order).max().unwrap_or(0);
            let again = lost.iter().next().copied().unwrap_or(0);
            let write = Write { key: again, order: newest + 1, actor: 1, bytes: 100, tombstone: false };
            stage(&engine, &write).expect("nothing holds writes back");
            block_on(engine.commit()).expect("no faults");
            apply(&mut model, write);
            run_all(&engine);
            assert!(!check_what_is_answered(&engine, &model, &context).contains(&again), "{context}");
            assert_eq!((engine.quarantined(), engine.unreadable().len()), (vec![], 1), "{context}");
            drop(engine);
            let (engine, recovery) = open(&disk, eager(3)).expect("as before");
            assert_eq!(recovery.unreadable.len(), 1, "{context}: it is tried again, in vain");
            run_all(&engine);
            check_what_is_answered(&engine, &model, &context);
            drop(engine);
            disk.heal();
            let (engine, recovery) = open(&disk, eager(4)).expect("nothing is wrong with it");
            assert_eq!((recovery.quarantined, recovery.unreadable), (vec![], vec![]), "{context}");
            assert_eq!(check_what_is_answered(&engine, &model, "healed"), BTreeSet::new());
            run_all(&engine);
            assert_eq!(check_what_is_answered(&engine, &model, "healed and merged"), BTreeSet::new());
        }
    }
    assert!(
        of_tables > 1 && of_values > 1 && lost_somewhere > 1,
        "{of_tables} of tables, {lost_somewhere} lost something, {of_values} pages of value files"
    );
}

/// What is dropped goes, readable or not, and leaves the rest of the table as it was.
#[test]
fn a_vnode_can_be_dropped_of_a_table_that_cannot_be_opened() {
    let (disk, model) = filled(small_options);
    let mut unreadable = 0;
    for table in tables(&disk) {
        let disk = copy(&disk);
        let bytes = disk.read_all(table).expect("it is there").len() as u64;
        disk.break_page(table, bytes - 4096);
        let (engine, recovery) = open(&disk, small_options(2)).expect("the others can be read");
        assert_eq!(recovery.unreadable.len(), 1);
        let lost = check_what_is_answered(&engine, &model, "before");
        let FileName::Table { store, .. } = table else { panic!("{table:?}") };
        let vnode = (0..VNODES).find(|&vnode| engine.vnode_store(vnode) == Some(store)).expect("it has one");
        if !lost.is_empty() {
            let moved = block_on(engine.move_vnode(vnode, 8 - store)).expect_err("it cannot be copied");
            assert_eq!(moved.kind, DiskErrorKind::Io);
        }
        block_on(engine.drop_extent(Extent::vnode(vnode))).expect("nothing of it is needed");
        run_all(&engine);
        let mut model = model.clone();
        model.retain(|n, _| key(*n).prefix.vnode != vnode);
        let left = check_what_is_answered(&engine, &model, "dropped");
        assert!(left.iter().all(|n| lost.contains(n) && key(*n).prefix.vnode != vnode), "{left:?}");
        unreadable += engine.unreadable().len();
        drop(engine);
        disk.heal();
        let (engine, recovery) = open(&disk, eager(3)).expect("nothing is wrong with it");
        assert_eq!((recovery.quarantined, recovery.unreadable), (vec![], vec![]));
        run_all(&engine);
        assert_eq!(check_what_is_answered(&engine, &model, "healed"), BTreeSet::new());
    }
    assert!(unreadable > 1, "{unreadable} tables held other vnodes too");
}

/// What fails less often than it is tried does not keep a node from starting.
#[test]
fn a_read_that_fails_once_while_a_file_is_opened_is_tried_again() {
    let (disk, model) = filled(apart_options);
    let (mut went_on, mut n) = (0, 0);
    loop {
        let disk = copy(&disk);
        let before = disk.reads();
        disk.fail_read_at(n, ReadFault::Io);
        let opened = open(&disk, apart_options(2));
        if disk.reads() - before <= n {
            break;
        }
        if let Ok((engine, recovery)) = opened {
            assert_eq!(recovery.quarantined, [], "read {n}");
            assert_eq!(check_what_is_answered(&engine, &model, "went on"), BTreeSet::new());
            went_on += 1;
        }
        n += 1;
    }
    assert!(went_on > 4, "{went_on} of {n} failed reads were made good");
}

#[test]
fn a_page_of_the_log_or_the_manifest_that_cannot_be_read_is_refused_by_name() {
    let (disk, model) = filled(small_options);
    let files: Vec<FileName> = disk.list(Directory::Core(0)).into_iter().map(|(name, _)| name).collect();
    for file in files {
        let disk = copy(&disk);
        disk.break_page(file, 4096);
        let refused = open(&disk, small_options(2)).err();
        if let Some(OpenError::Read(ReadError::Disk(error))) = refused {
            assert_eq!((error.kind, error.name), (DiskErrorKind::Io, Some(file)));
        } else {
            // Of a manifest of one page.
            assert!(refused.is_none() && matches!(file, FileName::Manifest { .. }), "{file:?}: {refused:?}");
        }
        disk.heal();
        let (engine, _) = open(&disk, small_options(3)).expect("nothing was changed");
        assert_eq!(check_what_is_answered(&engine, &model, "healed"), BTreeSet::new());
    }
}

/// The file of a table that was quarantined and has gone from its store is kept, and was called litter that the next start removes and with
/// which nothing is lost.
#[test]
fn the_file_of_a_quarantined_table_is_no_litter_to_an_inspection() {
    // Else nobody says which manifests name what.
    let mark = Some(LayoutMark { generation: 1, cores: 1, index: 0 });
    let options = |entropy| Options { layout: mark, ..small_options(entropy) };
    let (disk, _) = filled(small_options);
    open(&disk, options(2)).expect("sound");
    let unnamed = |disk: &MemDisk| {
        let mut files = Vec::new();
        let mut see = |event: Event<'_>| {
            if let Event::Finding(finding) = event
                && finding.damage.what == "no manifest names it"
            {
                files.push(finding.damage.file);
            }
        };
        block_on(inspect::store(disk, None, &mut see)).expect("it can be read");
        files
    };
    let mut gone = 0;
    for table in tables(&disk) {
        let disk = copy(&disk);
        let bytes = disk.read_all(table).expect("it is there").len() as u64;
        assert!(disk.corrupt(table, bytes - 4096 + 20, 0x10), "the footer");
        let (engine, recovery) = open(&disk, options(3)).expect("the others are sound");
        assert!(recovery.quarantined.iter().all(|found| !found.is_used && found.file == table));
        run_all(&engine);
        drop(engine);
        gone += recovery.quarantined.len();
        assert_eq!(unnamed(&disk), []);
        let FileName::Table { store, number } = table else { panic!("{table:?}") };
        let stray = FileName::Table { store, number: number + (1 << 20) };
        disk.write_all(stray, &[0; 4096]);
        assert_eq!(unnamed(&disk), [stray], "this one is");
    }
    assert!(gone > 1, "{gone} were quarantined");
}
