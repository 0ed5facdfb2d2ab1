//! Scrubbing, and the verification of what is suspected: damage is found, and what is none leaves no mark.

use std::collections::BTreeSet;

use super::{KEYS, check_what_is_answered, copy, fill, filled, run_all, scrub_all, tables, value_files};
use crate::rig::{apart_options, key, open, small_options};
use ferrite_lsm::Directory;
use ferrite_lsm::mem_disk::ReadFault;
use ferrite_lsm::mem_disk::run::block_on;

#[test]
fn scrubbing_finds_what_nobody_reads() {
    let (disk, model) = filled(apart_options);
    let stores = [Directory::Store(3), Directory::Store(5)];
    let files: Vec<_> = stores.iter().flat_map(|&store| disk.list(store)).map(|(name, _)| name).collect();
    let (mut of_tables, mut of_values) = (0, 0);
    for file in files {
        let disk = copy(&disk);
        assert!(disk.corrupt(file, 60, 0x10), "the first block, or value");
        let (engine, _) = open(&disk, apart_options(2)).expect("the damage lies behind what opening reads");
        run_all(&engine);
        assert_eq!(engine.stats().scrub_passes, 0, "nothing allows it");
        while engine.stats().scrub_passes == 0 {
            engine.allow_scrub(1 << 20);
            run_all(&engine);
        }
        let (stats, quarantined) = (engine.stats(), engine.quarantined());
        assert!(stats.scrubbed_bytes > 0);
        let [found] = &quarantined[..] else { panic!("{file:?}: {quarantined:?}") };
        assert_eq!(found.file, file);
        of_tables += usize::from(found.blocks.is_some());
        of_values += usize::from(found.blocks.is_none());
        let lost = check_what_is_answered(&engine, &model, "scrubbed");
        let inside = |n: &u64| found.low <= key(*n) && key(*n) < found.high;
        assert!(lost.iter().all(inside));
        drop(engine);
        let (engine, recovery) = open(&disk, apart_options(3)).expect("a mark is no reason to refuse");
        assert_eq!(recovery.quarantined, quarantined);
        assert_eq!(run_all(&engine), 0);
        assert_eq!(check_what_is_answered(&engine, &model, "opened again"), lost);
    }
    assert!(of_tables > 1 && of_values > 1);
}

/// One page that the device did not give had the whole value file marked for good: nothing was collected from it any more, and every
/// start reported its keys as lost.
#[test]
fn a_page_of_a_value_file_that_cannot_be_read_marks_nothing() {
    let (disk, model) = filled(apart_options);
    let mut lost_somewhere = 0;
    for (file, bytes) in value_files(&disk) {
        for page in (0..bytes).step_by(4096) {
            let disk = copy(&disk);
            let (engine, _) = open(&disk, apart_options(2)).expect("sound");
            disk.break_page(file, page);
            let lost = check_what_is_answered(&engine, &model, "broken");
            assert_eq!(run_all(&engine), 0);
            scrub_all(&engine);
            assert_eq!((engine.quarantined(), engine.stats().damaged_tables), (vec![], 1), "byte {page}");
            lost_somewhere += lost.len();
            let mut model = model.clone();
            fill(&engine, &mut model, 30, page + 3);
            assert_eq!(run_all(&engine), 0, "merges go on");
            check_what_is_answered(&engine, &model, "written over");
            disk.heal();
            scrub_all(&engine);
            assert_eq!((engine.quarantined(), engine.stats().damaged_tables), (vec![], 0), "byte {page}");
            assert_eq!(check_what_is_answered(&engine, &model, "healed"), BTreeSet::new());
        }
    }
    assert!(lost_somewhere > 1);
}

/// Nor does damage count that is not there when the value is read again.
#[test]
fn a_bit_that_flips_while_a_value_file_is_verified_leaves_no_mark() {
    let (disk, model) = filled(apart_options);
    let (engine, _) = open(&disk, apart_options(2)).expect("sound");
    run_all(&engine);
    let mut failed = 0;
    for n in 0..60 {
        // A flip that scrubbing meets makes a suspect, and the next one is met while that is verified.
        disk.fail_read_at(n, ReadFault::Flip { bit: 999 });
        scrub_all(&engine);
        let reads = disk.reads();
        for n in 0..KEYS {
            disk.fail_read_at(0, ReadFault::Flip { bit: 999 });
            failed += usize::from(block_on(engine.read(key(n).as_key())).is_err());
        }
        assert!(disk.reads() > reads);
        disk.fail_read_at(n % 7, ReadFault::Flip { bit: 999 });
        run_all(&engine);
        assert_eq!(engine.quarantined(), [], "read {n}");
    }
    scrub_all(&engine);
    assert!(failed > 0);
    assert_eq!((engine.stats().damaged_tables, engine.quarantined()), (0, vec![]));
    assert_eq!(check_what_is_answered(&engine, &model, "cleared"), BTreeSet::new());
}

/// Found in time, damage around the blocks of a table costs nothing.
#[test]
fn a_table_that_could_not_be_opened_again_is_written_anew() {
    let (disk, model) = filled(small_options);
    let (mut rewritten, mut in_level_0) = (0, 0);
    for table in tables(&disk) {
        let disk = copy(&disk);
        let (engine, _) = open(&disk, small_options(2)).expect("sound");
        run_all(&engine);
        if !tables(&disk).contains(&table) {
            continue;
        }
        let bytes = disk.read_all(table).expect("it is there").len() as u64;
        assert!(disk.corrupt(table, bytes - 4096 + 20, 0x10), "the footer");
        while engine.stats().scrub_passes == 0 {
            engine.allow_scrub(1 << 20);
            run_all(&engine);
        }
        let frail = engine.stats().damaged_tables;
        drop(engine);
        let (engine, recovery) = open(&disk, small_options(3)).expect("the others are sound");
        // What stands in level 0 waits for its merge.
        assert_eq!(recovery.quarantined.len() as u64, frail);
        if frail == 0 {
            assert_eq!(check_what_is_answered(&engine, &model, "written anew"), BTreeSet::new());
        }
        rewritten += 1 - frail;
        in_level_0 += frail;
    }
    assert!(rewritten > 0, "{in_level_0} were in level 0");
}
