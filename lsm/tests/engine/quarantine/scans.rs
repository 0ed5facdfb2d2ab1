//! Scans over what is lost: they say so, and can go on behind it.

use super::{KEYS, check_what_is_answered, copy, eager, filled, run_all, tables};
use crate::rig::{Model, TestEngine, VNODES, Write, apply, key, open, small_options, stage};
use ferrite_lsm::mem_disk::run::block_on;
use ferrite_lsm::{Direction, FileName, KeyBuf, KeyRange, ReadError, ScanLimits, TableName};

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
