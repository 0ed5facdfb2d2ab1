//! Blocks that are damaged or cannot be read: marked alone, passed over by merges, and never answered around.

use std::collections::BTreeSet;

use super::{KEYS, check_what_is_answered, copy, eager, fill, filled, run_all, tables};
use crate::rig::{Write, apply, key, open, small_options, stage};
use ferrite_lsm::mem_disk::ReadFault;
use ferrite_lsm::mem_disk::run::block_on;
use ferrite_lsm::{FileName, TableName};

#[test]
fn damaged_blocks_are_quarantined_for_good_and_hold_nothing_back() {
    let (disk, model) = filled(small_options);
    let (mut lost_somewhere, mut holes) = (0, 0);
    for (at, table) in tables(&disk).into_iter().enumerate() {
        let disk = copy(&disk);
        assert!(disk.corrupt(table, 40, 0x10), "the first block");
        let mut model = model.clone();
        let (engine, recovery) = open(&disk, small_options(2)).expect("the damage lies in a block");
        assert_eq!(recovery.quarantined, [], "nobody has read it");
        let lost = check_what_is_answered(&engine, &model, "before");
        run_all(&engine);
        let quarantined = engine.quarantined();
        assert_eq!(quarantined.is_empty(), lost.is_empty(), "who reads it finds it");
        lost_somewhere += usize::from(!lost.is_empty());
        for n in &lost {
            let inside = |range: &ferrite_lsm::Quarantined| range.low <= key(*n) && key(*n) < range.high;
            assert!(quarantined.iter().any(inside), "the range of key {n} is reported");
        }
        assert_eq!(check_what_is_answered(&engine, &model, "marked"), lost);
        drop(engine);
        let (engine, recovery) = open(&disk, eager(3)).expect("a mark is no reason to refuse");
        assert_eq!(recovery.quarantined, quarantined);
        assert_eq!(check_what_is_answered(&engine, &model, "opened again"), lost);
        assert_eq!(run_all(&engine), u64::from(lost.is_empty() && engine.stats().quarantined_areas > 0));
        let after = check_what_is_answered(&engine, &model, "merged");
        assert!(after.is_superset(&lost), "nothing comes back");
        // Everything is written again: that goes on as if nothing had happened, and is found.
        fill(&engine, &mut model, 60, 11 + at as u64);
        let newest = model.values().map(|write| write.order).max().unwrap_or(0);
        for n in 0..KEYS {
            let write = Write { key: n, order: newest + 1 + n, actor: 1, bytes: 100, tombstone: false };
            stage(&engine, &write).expect("nothing holds writes back");
            block_on(engine.commit()).expect("no faults");
            apply(&mut model, write);
            run_all(&engine);
        }
        let still = engine.quarantined();
        let used = still.iter().any(|range| range.is_used);
        holes += usize::from(!still.is_empty() && !used);
        for n in 0..KEYS {
            let found = block_on(engine.read(key(n).as_key())).expect("it is newer than what was lost");
            assert_eq!(found.map(|found| found.record().order), Some(newest + 1 + n));
        }
        if let (Some(range), false) = (still.first(), used) {
            let FileName::Table { store, number } = range.file else { panic!("{range:?}") };
            assert!(tables(&disk).contains(&range.file), "there may be something to save in it");
            let name = TableName { store, number };
            assert_eq!(block_on(engine.release_quarantined(name)), Ok(true));
            assert_eq!(block_on(engine.release_quarantined(name)), Ok(false));
            run_all(&engine);
            assert!(!tables(&disk).contains(&range.file));
            assert_eq!(check_what_is_answered(&engine, &model, "released"), BTreeSet::new());
            drop(engine);
            let (engine, recovery) = open(&disk, small_options(4)).expect("sound");
            assert_eq!(recovery.quarantined, []);
            assert_eq!(check_what_is_answered(&engine, &model, "at last"), BTreeSet::new());
        }
    }
    assert!(lost_somewhere > 1 && holes > 1, "{lost_somewhere} lost something, {holes} outlived their table");
}

#[test]
fn a_bit_that_flips_on_its_way_leaves_no_mark() {
    let (disk, model) = filled(small_options);
    let (engine, _) = open(&disk, small_options(2)).expect("sound");
    let mut failed = 0;
    for n in 0..KEYS {
        if engine.get(key(n).as_key(), |_| ()).is_err() {
            disk.fail_read_at(0, ReadFault::Flip { bit: 999 });
            failed += usize::from(block_on(engine.read(key(n).as_key())).is_err());
        }
    }
    assert!(failed > 0 && engine.stats().damaged_tables > 0, "suspected");
    assert_eq!(run_all(&engine), 0);
    assert_eq!((engine.stats().damaged_tables, engine.quarantined()), (0, vec![]));
    assert_eq!(check_what_is_answered(&engine, &model, "cleared"), BTreeSet::new());
}

/// A sector that the device gives back no more is damage like any other: confirmed, marked, passed over.
#[test]
fn a_page_that_cannot_be_read_is_quarantined_alone() {
    let (disk, model) = filled(small_options);
    let mut marked = 0;
    for table in tables(&disk) {
        let disk = copy(&disk);
        disk.break_page(table, 0);
        let (engine, _) = open(&disk, eager(2)).expect("opening does not read it");
        let lost = check_what_is_answered(&engine, &model, "broken");
        let failures = run_all(&engine);
        assert!(failures <= 1, "one merge meets it");
        let quarantined = engine.quarantined();
        assert!(
            quarantined
                .iter()
                .all(|range| range.file == table && range.blocks.is_some_and(|(first, _)| first == 0))
        );
        marked += quarantined.len();
        assert!(check_what_is_answered(&engine, &model, "marked").is_superset(&lost));
        drop(engine);
        // Nor does a device that has recovered bring back what merges have passed over.
        disk.heal();
        let (engine, recovery) = open(&disk, eager(3)).expect("a mark is no reason to refuse");
        assert_eq!(recovery.quarantined, quarantined);
        check_what_is_answered(&engine, &model, "healed");
    }
    assert!(marked > 1);
}

/// A device that gives nothing of a table says nothing about it: no mark is made for good, and when it recovers, so does all.
#[test]
fn a_table_of_which_nothing_can_be_read_is_left_alone_until_the_device_recovers() {
    let (disk, model) = filled(small_options);
    for table in tables(&disk) {
        let disk = copy(&disk);
        let (engine, _) = open(&disk, small_options(2)).expect("sound");
        let bytes = disk.read_all(table).expect("it is there").len() as u64;
        (0..bytes).step_by(4096).for_each(|page| disk.break_page(table, page));
        if check_what_is_answered(&engine, &model, "dead").is_empty() {
            continue;
        }
        let mut failures = 0;
        while failures < 5 {
            let job = engine.next_job().expect("it is tried again");
            failures += u64::from(block_on(engine.run(job)).is_err());
        }
        assert_eq!((engine.quarantined(), engine.stats().damaged_tables), (vec![], 1));
        disk.heal();
        assert_eq!(run_all(&engine), 0);
        assert_eq!(engine.stats().damaged_tables, 0);
        assert_eq!(check_what_is_answered(&engine, &model, "recovered"), BTreeSet::new());
    }
}

#[cfg(feature = "planted-bugs")]
#[test]
fn a_merge_that_forgets_what_was_lost_is_caught() {
    crate::rig::planted::caught(ferrite_lsm::planted::Bug::MergeForgetsHole, 0..1, |_| {
        damaged_blocks_are_quarantined_for_good_and_hold_nothing_back();
        Ok(())
    });
}
