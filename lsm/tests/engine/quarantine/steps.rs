//! A quarantine cut short or failing at each of its steps.

use super::{KEYS, check_what_is_answered, copy, eager, filled, run_all, tables};
use crate::rig::{self, Model, Random, key, open, small_options};
use ferrite_lsm::mem_disk::run::{block_on, try_run};
use ferrite_lsm::mem_disk::{CrashMode, Fault, MemDisk, MemPace, ReadFault};
use ferrite_lsm::{FileName, OpenError, Options};

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
