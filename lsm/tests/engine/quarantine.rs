//! Damaged tables and value files: what is damaged fails, what is not is right, never is an older version an answer, and
//! nothing waits for it. Through restarts, merges, power cuts and failing disks.

use std::collections::BTreeSet;

use crate::rig::{
    self, Model, Random, TestEngine, VNODES, Write, apart_options, apply, key, open, small_options, stage,
};
use ferrite_lsm::mem_disk::run::{block_on, try_run};
use ferrite_lsm::mem_disk::{CrashMode, Fault, MemDisk, MemPace, ReadFault};
use ferrite_lsm::{
    Direction, Directory, DiskErrorKind, Extent, FileName, KeyBuf, KeyRange, OpenError, Options, ReadError,
    ScanLimits, TableName,
};

const KEYS: u64 = 80;

fn fill(engine: &TestEngine, model: &mut Model, groups: u64, seed: u64) {
    let mut random = Random::new(seed);
    let mut clock = model.values().map(|write| write.order).max().unwrap_or(0);
    for _ in 0..groups {
        let mut staged = Vec::new();
        for _ in 0..6 {
            clock += 1;
            let (key, bytes) = (random.below(KEYS), random.below(900) as usize);
            let write = Write { key, order: clock, actor: clock, bytes, tombstone: random.below(15) == 0 };
            stage(engine, &write).expect("nothing holds writes back");
            staged.push(write);
        }
        block_on(engine.commit()).expect("no faults");
        staged.into_iter().for_each(|write| apply(model, write));
        run_all(engine);
    }
}

/// Runs what is due, also after jobs that fail.
fn run_all(engine: &TestEngine) -> u64 {
    let mut failures = 0;
    while let Some(job) = engine.next_job() {
        failures += u64::from(block_on(engine.run(job)).is_err());
        assert!(failures < 100, "a job fails for ever");
    }
    failures
}

/// What is answered is right; gives the keys that are not answered.
fn check_what_is_answered(engine: &TestEngine, model: &Model, context: &str) -> BTreeSet<u64> {
    let mut lost = BTreeSet::new();
    for n in 0..KEYS {
        let key = key(n);
        let expected = model.get(&n).map(|write| (write.order, write.value()));
        let quick =
            engine.get(key.as_key(), |record| record.map(|found| (found.order, found.value.to_vec())));
        let slow = block_on(engine.read(key.as_key()));
        if let Ok(quick) = &quick {
            assert_eq!(*quick, expected, "{context}: a get of key {n}");
        }
        match slow {
            Ok(found) => {
                let found = found.map(|found| (found.record().order, found.record().value.to_vec()));
                assert_eq!(found, expected, "{context}: a read of key {n}");
            }
            Err(ReadError::Damage(_) | ReadError::Quarantined(_) | ReadError::Disk(_)) => {
                assert!(quick.is_err() || engine.stats().cache_bytes > 0, "{context}: key {n}");
                lost.insert(n);
            }
            Err(ReadError::NoBuffer) => panic!("buffers are not bounded here"),
        }
    }
    let keys: Vec<KeyBuf> = (0..KEYS).map(key).collect();
    let keys: Vec<_> = keys.iter().map(KeyBuf::as_key).collect();
    engine.get_batch(&keys, |at, record| {
        let expected = model.get(&(at as u64)).map(|write| write.order);
        if let Ok(record) = record {
            assert_eq!(record.map(|record| record.order), expected, "{context}: a batch, key {at}");
        }
    });
    check_scans(engine, model, &lost, context);
    lost
}

/// A scan shows what there is, in order, up to what it says that it cannot read.
fn check_scans(engine: &TestEngine, model: &Model, lost: &BTreeSet<u64>, context: &str) {
    for vnode in 0..VNODES {
        for direction in [Direction::Forward, Direction::Reverse] {
            let mut expected: Vec<_> =
                (0..KEYS).filter(|n| n % u64::from(VNODES) == u64::from(vnode)).collect();
            expected.sort_by_key(|&n| key(n));
            if direction == Direction::Reverse {
                expected.reverse();
            }
            let mut shown = Vec::new();
            let range = KeyRange::vnode(1, vnode);
            let ended = block_on(engine.scan(&range, direction, ScanLimits::records(1000), |key, record| {
                shown.push((key.to_buf(), record.order));
                std::ops::ControlFlow::Continue(())
            }));
            let there = expected.iter().filter_map(|n| Some((key(*n), model.get(n)?.order)));
            let there: Vec<_> = there.take(shown.len()).collect();
            assert_eq!(shown, there, "{context}: a scan of vnode {vnode}, {direction:?}");
            if expected.iter().any(|n| lost.contains(n)) {
                assert!(ended.is_err(), "{context}: a scan over what is lost, vnode {vnode}");
            }
        }
    }
}

fn tables(disk: &MemDisk) -> Vec<FileName> {
    let stores = [Directory::Store(3), Directory::Store(5)];
    let files = stores.iter().flat_map(|&store| disk.list(store)).map(|(name, _)| name);
    files.filter(|name| matches!(name, FileName::Table { .. })).collect()
}

fn copy(disk: &MemDisk) -> MemDisk {
    disk.image(CrashMode::All, &mut || 0)
}

fn filled(options: fn(u128) -> Options) -> (MemDisk, Model) {
    let disk = MemDisk::new();
    let (engine, _) = open(&disk, options(1)).expect("a fresh disk");
    let mut model = Model::new();
    fill(&engine, &mut model, 70, 7);
    (disk, model)
}

/// Merges that take everything.
fn eager(entropy: u128) -> Options {
    let mut options = small_options(entropy);
    options.l0_tables_trigger = 1;
    options.level_base_bytes = 1;
    options
}

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

/// Opens a disk with a damaged table, has it found, marked, and merged away.
/// Walks a range past all that is quarantined in it, as the documentation of scans says it is done.
fn walk_past(
    engine: &TestEngine,
    range: &KeyRange,
    direction: Direction,
    context: &str,
) -> Vec<(KeyBuf, u64)> {
    let (mut shown, mut left) = (Vec::new(), range.clone());
    loop {
        let mut walk = |range: &KeyRange| {
            block_on(engine.scan(range, direction, ScanLimits::records(1000), |key, record| {
                shown.push((key.to_buf(), record.order));
                std::ops::ControlFlow::Continue(())
            }))
        };
        match walk(&left) {
            Ok(None) => return shown,
            Err(ReadError::Quarantined(_)) => {}
            other => panic!("{context}, {range:?}, {direction:?}: {other:?}"),
        }
        if let Some((last, _)) = shown.last() {
            left = match direction {
                Direction::Forward => left.after(&last.as_key()),
                Direction::Reverse => left.before(&last.as_key()),
            };
        }
        let areas = engine.quarantined().into_iter();
        let areas = areas.filter(|area| area.low.as_key() < left.high() && left.low() < area.high.as_key());
        let (readable, behind) = match direction {
            Direction::Forward => {
                let area = areas.min_by(|a, b| a.low.cmp(&b.low)).expect("what failed the scan is listed");
                (left.before(&area.low.as_key()), left.from(&area.high.as_key()))
            }
            Direction::Reverse => {
                let area = areas.max_by(|a, b| a.high.cmp(&b.high)).expect("what failed the scan is listed");
                (left.from(&area.high.as_key()), left.before(&area.low.as_key()))
            }
        };
        let mut walk = |range: &KeyRange| {
            block_on(engine.scan(range, direction, ScanLimits::records(1000), |key, record| {
                shown.push((key.to_buf(), record.order));
                std::ops::ControlFlow::Continue(())
            }))
        };
        assert_eq!(walk(&readable), Ok(None), "it can be read up to the area");
        left = behind;
    }
}

/// Which keys were in what is lost, nobody knows: a scan that passed over it in silence would say that there were none but those that
/// were written again. So it reports the area until that is released, although a get of every such key finds its new version.
#[test]
fn a_scan_reports_what_is_lost_though_all_was_written_again_and_can_go_on_past_it() {
    let (disk, model) = filled(small_options);
    let (mut holes, mut in_use) = (0, 0);
    for table in tables(&disk) {
        let disk = copy(&disk);
        assert!(disk.corrupt(table, 40, 0x10), "the first block");
        let mut model = model.clone();
        let (engine, _) = open(&disk, small_options(2)).expect("the damage lies in a block");
        check_what_is_answered(&engine, &model, "before");
        run_all(&engine);
        let check_past = |engine: &TestEngine, model: &Model, context: &str| {
            let areas = engine.quarantined();
            let is_inside = |key: &KeyBuf| areas.iter().any(|area| area.low <= *key && *key < area.high);
            for vnode in 0..VNODES {
                for direction in [Direction::Forward, Direction::Reverse] {
                    let of_vnode = model.values().filter(|write| key(write.key).prefix.vnode == vnode);
                    let mut expected: Vec<_> = of_vnode.map(|write| (key(write.key), write.order)).collect();
                    expected.retain(|(key, _)| !is_inside(key));
                    expected.sort();
                    if direction == Direction::Reverse {
                        expected.reverse();
                    }
                    let mut shown = walk_past(engine, &KeyRange::vnode(1, vnode), direction, context);
                    // What a newer table has inside of an area of an older one may come before the damage is met.
                    shown.retain(|(key, _)| !is_inside(key));
                    assert_eq!(shown, expected, "{context}, vnode {vnode}, {direction:?}");
                }
            }
            areas.len()
        };
        in_use += check_past(&engine, &model, "marked");
        drop(engine);
        let (engine, _) = open(&disk, eager(3)).expect("a mark is no reason to refuse");
        run_all(&engine);
        check_past(&engine, &model, "merged");
        let newest = model.values().map(|write| write.order).max().unwrap_or(0);
        for n in 0..KEYS {
            let write = Write { key: n, order: newest + 1 + n, actor: 1, bytes: 100, tombstone: false };
            stage(&engine, &write).expect("nothing holds writes back");
            block_on(engine.commit()).expect("no faults");
            apply(&mut model, write);
        }
        run_all(&engine);
        check_past(&engine, &model, "written again");
        for area in engine.quarantined().into_iter().filter(|area| !area.is_used) {
            holes += 1;
            let range = KeyRange::between(area.low.as_key(), area.high.as_key());
            let nobody =
                |_: ferrite_lsm::Key<'_>, _: ferrite_lsm::Record<'_>| panic!("shown inside of what is lost");
            for direction in [Direction::Forward, Direction::Reverse] {
                let ended = block_on(engine.scan(&range, direction, ScanLimits::records(9), nobody));
                assert_eq!(ended, Err(ReadError::Quarantined(area.file)));
            }
            let inside = (0..KEYS).filter(|&n| range.contains(&key(n).as_key()));
            for n in inside {
                let found = block_on(engine.read(key(n).as_key())).expect("it is newer than what was lost");
                assert_eq!(found.map(|found| found.record().order), Some(newest + 1 + n));
            }
            let FileName::Table { store, number } = area.file else { panic!("{area:?}") };
            block_on(engine.release_quarantined(TableName { store, number })).expect("no faults");
            let mut shown = 0;
            let count = |_: ferrite_lsm::Key<'_>, _: ferrite_lsm::Record<'_>| {
                shown += 1;
                std::ops::ControlFlow::Continue(())
            };
            let ended = block_on(engine.scan(&range, Direction::Forward, ScanLimits::records(1000), count));
            assert!(ended == Ok(None) && shown > 0, "{ended:?} after {shown}");
        }
    }
    assert!(holes > 0 && in_use > 0, "{holes} holes, {in_use} areas of tables in use");
}

async fn quarantine(disk: &MemDisk, options: Options) -> Result<(), OpenError> {
    let (engine, _) = rig::open_with(disk, MemPace::yielding(3), options).await?;
    for n in 0..KEYS {
        let _fails_where_damaged = engine.read(key(n).as_key()).await;
    }
    let mut failures = 0;
    while let Some(job) = engine.next_job() {
        failures += usize::from(engine.run(job).await.is_err());
        if failures == 5 {
            break;
        }
    }
    Ok(())
}

/// A disk on which the first block of a table below level 0 is damaged.
fn damaged() -> (MemDisk, Model) {
    let (disk, model) = filled(small_options);
    let by_age = tables(&disk);
    let hurts = |table: &&FileName| {
        let disk = copy(&disk);
        assert!(disk.corrupt(**table, 40, 0x10));
        let (engine, _) = open(&disk, small_options(2)).expect("the damage lies in a block");
        !check_what_is_answered(&engine, &model, "some").is_empty()
    };
    let table = by_age.iter().find(hurts).expect("one of them is asked");
    assert!(disk.corrupt(*table, 40, 0x10));
    (disk, model)
}

#[test]
fn a_power_cut_at_any_step_of_a_quarantine_answers_nothing_wrong() {
    let (disk, model) = damaged();
    let mut steps = 0;
    for mode in CrashMode::EVERY {
        for step in 0.. {
            let disk = copy(&disk);
            disk.crash_at(disk.steps() + step);
            let ended = try_run(quarantine(&disk, eager(2)));
            let mut random = Random::new(step + 1);
            let left = disk.crash(mode, &mut || random.next());
            let (engine, _) =
                open(&left, eager(3)).unwrap_or_else(|error| panic!("{step}, {mode:?}: {error}"));
            let context = format!("step {step}, {mode:?}");
            let lost = check_what_is_answered(&engine, &model, &context);
            assert!(!lost.is_empty(), "{context}: what is damaged is not answered");
            run_all(&engine);
            assert!(check_what_is_answered(&engine, &model, &context).is_superset(&lost));
            steps += 1;
            if ended.is_some() {
                break;
            }
        }
    }
    rig::count("crash states", steps);
    assert!(steps > 100, "{steps} states");
}

#[test]
fn a_fault_at_any_step_of_a_quarantine_answers_nothing_wrong() {
    let (disk, model) = damaged();
    for fault in [Fault::NoSpace, Fault::Io, Fault::Short] {
        for n in 0.. {
            let disk = copy(&disk);
            disk.fail_at(n, fault);
            let before = disk.steps();
            let _opens_or_not = block_on(quarantine(&disk, eager(2)));
            let passed = disk.steps() - before <= n;
            let disk = disk.kill(&mut || 0);
            let (engine, _) = open(&disk, eager(3)).unwrap_or_else(|error| panic!("{n}, {fault:?}: {error}"));
            run_all(&engine);
            let lost = check_what_is_answered(&engine, &model, &format!("step {n}, {fault:?}"));
            assert!(!lost.is_empty());
            if passed {
                rig::count("fail-at-N points", n);
                break;
            }
        }
    }
}

#[test]
fn a_failed_read_at_any_step_of_a_quarantine_answers_nothing_wrong() {
    let (disk, model) = damaged();
    for n in 0.. {
        let disk = copy(&disk);
        disk.fail_read_at(n, ReadFault::Io);
        let before = disk.reads();
        let _opens_or_not = block_on(quarantine(&disk, eager(2)));
        let passed = disk.reads() - before <= n;
        let disk = disk.kill(&mut || 0);
        let (engine, _) = open(&disk, eager(3)).unwrap_or_else(|error| panic!("read {n}: {error}"));
        assert!(!check_what_is_answered(&engine, &model, &format!("read {n}")).is_empty());
        assert!(engine.quarantined().len() <= 1, "read {n}: one failure is no verdict");
        if passed {
            rig::count("fail-at-N points", n);
            break;
        }
    }
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

#[cfg(feature = "planted-bugs")]
#[test]
fn an_engine_that_answers_around_a_hole_is_caught() {
    use ferrite_lsm::planted::{Bug, plant};
    let (disk, model) = damaged();
    block_on(quarantine(&disk, eager(2))).expect("no faults");
    let (engine, _) = open(&disk, eager(3)).expect("a mark is no reason to refuse");
    run_all(&engine);
    assert!(engine.quarantined().iter().all(|range| !range.is_used));
    plant(Some(Bug::HoleIgnored));
    let wrong = (0..KEYS).filter(|n| {
        let found = block_on(engine.read(key(*n).as_key())).expect("it sees no hole");
        found.map(|found| found.record().order) != model.get(n).map(|write| write.order)
    });
    assert!(wrong.count() > 0);
    plant(None);
}

#[cfg(feature = "planted-bugs")]
#[test]
fn a_merge_that_forgets_what_was_lost_is_caught() {
    rig::planted::caught(ferrite_lsm::planted::Bug::MergeForgetsHole, 0..1, |_| {
        damaged_blocks_are_quarantined_for_good_and_hold_nothing_back();
        Ok(())
    });
}
