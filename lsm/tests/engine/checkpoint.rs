//! Checkpoints: what they hold, that they open by themselves, and what power cuts and faults leave of them.

use std::future::Future;
use std::pin::Pin;

use crate::host::{Habits, Host};
use crate::rig::{self, Model, Random, apart_options, apply, check, open, open_with, small_options, stage};
use ferrite_lsm::mem_disk::run::{block_on, poll_once};
use ferrite_lsm::mem_disk::{CrashMode, Fault, MemDisk, MemPace};
use ferrite_lsm::{Directory, Disk, DiskError, DiskErrorKind, NameOp, NameReply, Options};

const KEYS: u64 = 90;

const HABITS: Habits = Habits { keys: KEYS, bytes_max: 700, late: None, groups_per_jobs: None };

/// Opens a checkpoint, compares, writes to it, and opens it once more.
fn check_checkpoint(disk: &MemDisk, number: u64, options: fn(u128) -> Options, model: &Model) {
    let inside = disk.checkpoint(number);
    let (engine, recovery) = open(&inside, options(77)).expect("a checkpoint opens by itself");
    assert!(recovery.clean && recovery.replayed == 0, "{recovery:?}");
    check(&engine, model, KEYS);
    let mut history = Host::new(number, HABITS);
    (history.clock, history.model) = (1 << 30, model.clone());
    history.go_on(&engine, 12);
    check(&engine, &history.model, KEYS);
    drop(engine);
    let (engine, _) = open(&inside, options(78)).expect("nothing was damaged");
    check(&engine, &history.model, KEYS);
}

fn checkpoints(disk: &MemDisk) -> Vec<u64> {
    match block_on(disk.names(NameOp::ListCheckpoints)).expect("no faults") {
        NameReply::Checkpoints(numbers) => numbers,
        other => panic!("{other:?}"),
    }
}

fn checkpoints_hold_what_was_there(options: fn(u128) -> Options) {
    let disk = MemDisk::new();
    let (engine, _) = open(&disk, options(1)).expect("a fresh disk");
    let mut history = Host::new(3, HABITS);
    let mut models = Vec::new();
    for number in 0..5 {
        history.go_on(&engine, 25);
        block_on(engine.checkpoint(number)).expect("no faults");
        models.push(history.model.clone());
        let again = block_on(engine.checkpoint(number)).expect_err("the number is taken");
        assert_eq!(again.kind, DiskErrorKind::Exists);
    }
    history.go_on(&engine, 60);
    assert_eq!(block_on(engine.checkpoints()), Ok(vec![0, 1, 2, 3, 4]));
    for (number, model) in models.iter().enumerate() {
        check_checkpoint(&disk, number as u64, options, model);
    }
    check(&engine, &history.model, KEYS);
    for number in [1, 4, 0, 2, 3] {
        block_on(engine.remove_checkpoint(number)).expect("no faults");
        block_on(engine.remove_checkpoint(number)).expect("done already is fine");
        assert!(!checkpoints(&disk).contains(&number));
    }
    assert_eq!(checkpoints(&disk), []);
    check(&engine, &history.model, KEYS);
    drop(engine);
    let (engine, recovery) = open(&disk, options(2)).expect("nothing was damaged");
    assert_eq!(recovery.damage, []);
    check(&engine, &history.model, KEYS);
}

#[test]
fn a_checkpoint_holds_what_was_there() {
    checkpoints_hold_what_was_there(small_options);
}

#[test]
fn a_checkpoint_holds_values_that_are_apart() {
    checkpoints_hold_what_was_there(apart_options);
}

type Pending<T> = Option<Pin<Box<dyn Future<Output = T>>>>;

/// Writes, jobs and a checkpoint at once on a deferred disk; `look` is called before each completion.
fn overlapped(seed: u64, mut look: impl FnMut(&MemDisk, &Host, bool)) -> (MemDisk, Host) {
    let disk = MemDisk::new();
    let (engine, _) = open(&disk, apart_options(1)).expect("a fresh disk");
    let mut history = Host::new(seed, HABITS);
    history.go_on(&engine, 40);
    for _ in 0..200 {
        // Flushes and compactions wait then.
        let write = history.write();
        if stage(&engine, &write).is_ok() {
            block_on(engine.commit()).expect("no faults");
            apply(&mut history.model, write);
        }
    }
    let before = history.model.clone();
    disk.defer();
    let (mut job, mut commit): (Pending<Result<(), DiskError>>, Pending<()>) = (None, None);
    let taken = engine.clone();
    let mut checkpoint: Pending<Result<(), DiskError>> =
        Some(Box::pin(async move { taken.checkpoint(9).await }));
    let mut staged = Vec::new();
    let mut random = Random::new(seed);
    while checkpoint.is_some() || job.is_some() || commit.is_some() {
        if checkpoint.is_some() && commit.is_none() {
            let write = history.write();
            if stage(&engine, &write).is_ok() {
                staged.push(write);
            }
            let engine = engine.clone();
            commit = Some(Box::pin(async move { engine.commit().await.map(drop).expect("no faults") }));
        }
        if job.is_none()
            && let Some(next) = engine.next_job()
        {
            let engine = engine.clone();
            job = Some(Box::pin(async move { engine.run(next).await }));
        }
        if checkpoint.as_mut().and_then(|future| poll_once(future.as_mut())).is_some_and(|done| {
            done.expect("no faults");
            true
        }) {
            checkpoint = None;
        }
        if commit.as_mut().and_then(|future| poll_once(future.as_mut())).is_some() {
            commit = None;
            staged.drain(..).for_each(|write| apply(&mut history.model, write));
        }
        if job.as_mut().and_then(|future| poll_once(future.as_mut())).is_some_and(|done| {
            done.expect("no faults");
            true
        }) {
            job = None;
        }
        look(&disk, &history, checkpoint.is_none());
        let in_flight = disk.in_flight(None);
        if !in_flight.is_empty() {
            let chosen = in_flight[random.below(in_flight.len() as u64) as usize].id;
            assert!(disk.complete(chosen));
        }
    }
    // At least what was there when it began; at most what came while it was made.
    let disk = disk.kill(&mut || 0);
    check_between(&disk, &before, history.clock).expect("it holds what was there");
    (disk, history)
}

/// At least what `least` says, and nothing newer than `most`.
fn check_between(disk: &MemDisk, least: &Model, most: u64) -> Result<(), String> {
    let inside = disk.checkpoint(9);
    let (engine, _) =
        block_on(open_with(&inside, MemPace::new(), apart_options(5))).map_err(|error| error.to_string())?;
    for n in 0..KEYS {
        let found = rig::lookup(&engine, n).map(|(order, ..)| order);
        let least = least.get(&n).map(|write| write.order);
        if found < least || found > Some(most) {
            return Err(format!("key {n}: {found:?}, not {least:?} to {most}"));
        }
    }
    Ok(())
}

#[test]
fn no_power_cut_leaves_a_checkpoint_that_counts_and_does_not_open() {
    let (mut images, mut whole) = (0, 0);
    for seed in 0..3 {
        let mut random = Random::new(seed);
        overlapped(seed, |disk, history, is_made| {
            for mode in CrashMode::EVERY {
                images += 1;
                let disk = disk.image(mode, &mut || random.next());
                let (engine, _) = block_on(open_with(&disk, MemPace::new(), apart_options(2)))
                    .unwrap_or_else(|error| panic!("{mode:?}: {error}"));
                let counts = block_on(engine.checkpoints()).expect("no faults");
                assert!(counts == [9] || (counts.is_empty() && !is_made), "what was answered stays");
                if counts.is_empty() {
                    // The same number may be taken, whatever is left of it.
                    if images % 10 == 0 {
                        block_on(engine.checkpoint(9)).expect("no faults");
                        check_between(&disk, &Model::new(), history.clock).expect("it opens");
                    }
                } else {
                    whole += 1;
                    let inside = disk.checkpoint(9);
                    block_on(open_with(&inside, MemPace::new(), apart_options(3))).expect("it opens");
                }
                block_on(engine.remove_checkpoint(9)).expect("no faults");
                assert_eq!(checkpoints(&disk), []);
            }
        });
    }
    rig::count("crash states", images);
    assert!(images > 500 && whole > 20, "{images} images, {whole} with a checkpoint");
}

#[test]
fn a_fault_at_any_step_of_a_checkpoint_leaves_the_engine_as_it_was() {
    for fault in [Fault::NoSpace, Fault::Io, Fault::Short] {
        for n in 0.. {
            let disk = MemDisk::new();
            let (engine, _) = open(&disk, apart_options(1)).expect("a fresh disk");
            let mut history = Host::new(5, HABITS);
            history.go_on(&engine, 20);
            let write = history.write();
            stage(&engine, &write).expect("taken");
            block_on(engine.commit()).expect("no faults");
            apply(&mut history.model, write);
            let before = disk.steps();
            disk.fail_at(n, fault);
            let made = block_on(engine.checkpoint(9));
            let passed = disk.steps() - before <= n;
            // A short write is gone on with where nobody waits for its sync.
            let is_fine = passed || fault == Fault::Short;
            assert!(made.is_ok() == passed || made.is_ok() && is_fine, "step {n}, {fault:?}: {made:?}");
            check(&engine, &history.model, KEYS);
            if passed {
                rig::count("fail-at-N points", n);
                break;
            }
            if made.is_ok() {
                check_checkpoint(&disk, 9, apart_options, &history.model);
            } else if !engine.is_fenced() {
                block_on(engine.remove_checkpoint(9)).expect("the fault is over");
                block_on(engine.checkpoint(10)).expect("the fault is over");
                check_checkpoint(&disk, 10, apart_options, &history.model);
            }
        }
    }
}

#[test]
fn removal_fails_and_is_done_again() {
    for n in 0.. {
        let disk = MemDisk::new();
        let (engine, _) = open(&disk, apart_options(1)).expect("a fresh disk");
        let mut history = Host::new(5, HABITS);
        history.go_on(&engine, 20);
        block_on(engine.checkpoint(9)).expect("no faults");
        let before = disk.steps();
        disk.fail_at(n, Fault::Io);
        let removed = block_on(engine.remove_checkpoint(9));
        let passed = disk.steps() - before <= n;
        assert_eq!(removed.is_ok(), passed, "step {n}");
        let mut disk = disk.crash(CrashMode::None, &mut || 0);
        if block_on(open(&disk, apart_options(2)).expect("no fault").0.checkpoints()) == Ok(vec![9]) {
            check_checkpoint(&disk, 9, apart_options, &history.model);
        }
        disk = disk.kill(&mut || 0);
        let (engine, _) = open(&disk, apart_options(3)).expect("nothing was damaged");
        block_on(engine.remove_checkpoint(9)).expect("no faults");
        assert_eq!(checkpoints(&disk), []);
        assert_eq!(disk.checkpoint(9).list(Directory::Store(3)), []);
        if passed {
            rig::count("fail-at-N points", n);
            break;
        }
    }
}
