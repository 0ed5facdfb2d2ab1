//! Moves of vnodes between stores: what is seen while they go on, and what power cuts and faults leave.

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;

use crate::host::{Habits, Host};
use crate::rig::{
    self, Model, Random, TestEngine, VNODES, Write, apart_options, apply, check, key, lookup, open, run_jobs,
    small_options, stage,
};
use ferrite_lsm::mem_disk::run::{block_on, poll_once};
use ferrite_lsm::mem_disk::{CrashMode, Fault, MemDisk, MemPace};
use ferrite_lsm::{
    Direction, DiskError, Engine, Extent, KeyBuf, KeyRange, Options, ReadError, Record, ScanLimits, Strategy,
};

const KEYS: u64 = 120;

const HABITS: Habits = Habits { keys: KEYS, bytes_max: 600, late: Some((6, 100)), groups_per_jobs: Some(3) };

fn histories(seed: u64, options: fn(u128) -> Options) {
    let disk = MemDisk::new();
    let mut engine = open(&disk, options(1)).expect("a fresh disk").0;
    let mut host = Host::new(seed, HABITS);
    for round in 0..60 {
        let groups = host.random.below(15);
        host.go_on(&engine, groups);
        let vnode = host.random.below(u64::from(VNODES)) as u16;
        let to = [3, 5][host.random.below(2) as usize];
        block_on(engine.move_vnode(vnode, to)).expect("no faults");
        assert_eq!(engine.vnode_store(vnode), Some(to));
        check(&engine, &host.model, KEYS);
        match host.random.below(6) {
            0 => {
                drop(engine);
                engine = open(&disk, options(round + 2)).expect("nothing was damaged").0;
                assert_eq!(engine.vnode_store(vnode), Some(to));
            }
            1 => {
                let vnode = host.random.below(u64::from(VNODES)) as u16;
                block_on(engine.drop_extent(Extent::vnode(vnode))).expect("no faults");
                host.model.retain(|&n, _| key(n).prefix.vnode != vnode);
                let to = [3, 5][host.random.below(2) as usize];
                block_on(engine.assign(&[(vnode, to)])).expect("no faults");
            }
            _ => {}
        }
        check(&engine, &host.model, KEYS);
    }
    block_on(run_jobs(&engine)).expect("no faults");
    check(&engine, &host.model, KEYS);
}

#[test]
fn vnodes_move_and_keep_what_they_hold() {
    for seed in 0..8 {
        histories(seed, small_options);
        histories(seed, apart_options);
        histories(seed, |entropy| Options { strategy: Strategy::Tiered, ..small_options(entropy) });
    }
}

type Pending<T> = Option<Pin<Box<dyn Future<Output = T>>>>;

/// Moves among writes and jobs; the power is cut in every mode before each completion.
fn cut_at_every_step(seed: u64, options: fn(u128) -> Options) -> u64 {
    let disk = MemDisk::new();
    let engine = open(&disk, options(1)).expect("a fresh disk").0;
    let mut host = Host::new(seed, HABITS);
    host.go_on(&engine, 50);
    disk.defer();
    let mut random = Random::new(seed + 1);
    let (mut images, mut moves) = (0, vec![(1, 3), (0, 5), (1, 5)]);
    let mut answered: BTreeMap<u16, u16> =
        (0..VNODES).map(|vnode| (vnode, [3, 5][usize::from(vnode % 2)])).collect();
    let mut under_way = None;
    let (mut job, mut commit, mut moving): (Pending<Result<(), DiskError>>, Pending<()>, Pending<()>) =
        (None, None, None);
    let mut staged = Vec::new();
    while !moves.is_empty() || moving.is_some() || job.is_some() || commit.is_some() {
        let goes_on = !moves.is_empty() || moving.is_some();
        if commit.is_none() && goes_on {
            let write = host.write();
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
        if moving.is_none() && !moves.is_empty() && random.below(10) == 0 {
            let (vnode, to) = moves.remove(0);
            under_way = Some((vnode, to));
            let engine = engine.clone();
            moving = Some(Box::pin(async move { engine.move_vnode(vnode, to).await.expect("no faults") }));
        }
        if commit.as_mut().and_then(|future| poll_once(future.as_mut())).is_some() {
            commit = None;
            staged.drain(..).for_each(|write| apply(&mut host.model, write));
        }
        if moving.as_mut().and_then(|future| poll_once(future.as_mut())).is_some() {
            moving = None;
            answered.extend(under_way.take());
        }
        if job.as_mut().and_then(|future| poll_once(future.as_mut())).is_some_and(|done| {
            done.expect("no faults");
            true
        }) {
            job = None;
        }
        let orders = |engine: &TestEngine, host: &Host, what: &str| {
            for (&n, write) in &host.model {
                let found = lookup(engine, n).map(|(order, ..)| order);
                assert!(found >= Some(write.order), "seed {seed}, {what}, key {n}: {found:?}, not {write:?}");
            }
        };
        if images % 25 == 0 {
            // Reads go on, while the disk answers nothing else.
            for (&n, write) in &host.model {
                if let Ok(found) = engine.get(key(n).as_key(), |record| record.map(|record| record.order)) {
                    assert!(found >= Some(write.order), "seed {seed}, key {n}");
                }
            }
        }
        for mode in CrashMode::EVERY {
            images += 1;
            let disk = disk.image(mode, &mut || random.next());
            let opened = block_on(Engine::open(disk, MemPace::new(), options(2)));
            let (engine, recovery) = opened.unwrap_or_else(|error| panic!("seed {seed}, {mode:?}: {error}"));
            assert!(recovery.damage.is_empty() && engine.quarantined().is_empty());
            for (&vnode, &store) in &answered {
                let found = engine.vnode_store(vnode);
                let may = under_way.filter(|(moving, _)| *moving == vnode).map(|(_, to)| to);
                assert!(found == Some(store) || found == may && may.is_some(), "vnode {vnode}: {found:?}");
            }
            orders(&engine, &host, "after a power cut");
        }
        let in_flight = disk.in_flight(None);
        if !in_flight.is_empty() {
            let chosen = in_flight[random.below(in_flight.len() as u64) as usize].id;
            assert!(disk.complete(chosen));
        }
    }
    images
}

#[test]
fn no_power_cut_leaves_a_vnode_in_two_places_or_in_none() {
    for (seed, options) in [(1, small_options as fn(u128) -> Options), (2, apart_options)] {
        let images = cut_at_every_step(seed, options);
        rig::count("crash states", images);
        assert!(images > 500, "{images} images");
    }
}

#[test]
fn a_fault_at_any_step_of_a_move_leaves_the_vnode_whole() {
    for fault in [Fault::NoSpace, Fault::Io, Fault::Short] {
        for n in 0.. {
            let disk = MemDisk::new();
            let engine = open(&disk, apart_options(1)).expect("a fresh disk").0;
            let mut host = Host::new(4, HABITS);
            host.go_on(&engine, 30);
            let before = disk.steps();
            disk.fail_at(n, fault);
            let mut moved = block_on(engine.move_vnode(1, 3));
            let passed = disk.steps() - before <= n;
            assert!(moved.is_ok() || !passed, "step {n}, {fault:?}: {moved:?}");
            assert_eq!(engine.vnode_store(1), Some(if moved.is_ok() { 3 } else { 5 }));
            check(&engine, &host.model, KEYS);
            if !passed && !engine.is_fenced() {
                moved = block_on(engine.move_vnode(1, 3));
                assert_eq!(moved, Ok(()), "step {n}, {fault:?}: the fault is over");
                host.go_on(&engine, 5);
                check(&engine, &host.model, KEYS);
            }
            drop(engine);
            let engine = open(&disk.kill(&mut || 0), apart_options(2)).expect("nothing was damaged").0;
            assert!(moved.is_err() || engine.vnode_store(1) == Some(3));
            check(&engine, &host.model, KEYS);
            if passed {
                rig::count("fail-at-N points", n);
                break;
            }
        }
    }
}

/// Completes all that a future asks of the disk until it is done.
fn drive<T>(disk: &MemDisk, future: impl Future<Output = T>) -> T {
    let mut future = Box::pin(future);
    loop {
        if let Some(done) = poll_once(future.as_mut()) {
            return done;
        }
        disk.complete_all();
    }
}

/// How often a vnode moves under a scan.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Moves {
    Once,
    AtEachStepAfter,
}

const SCANNED: u16 = 1;
const SCANNED_KEYS: u64 = 1600;

/// Scans a vnode that moves once the scan has taken so many steps, among writes and flushes. False if it took no more than these.
fn scan_while_it_moves(step: u64, direction: Direction, moves: Moves, options: Options) -> bool {
    let disk = MemDisk::new();
    let engine = open(&disk, options).expect("a fresh disk").0;
    let (mut random, mut model, mut order) = (Random::new(step), Model::new(), 0);
    let mut write = |engine: &TestEngine, model: &mut Model, n| {
        order += 1;
        let write = Write { key: n, order, actor: 1, bytes: (n % 7 * 40) as usize, tombstone: n % 11 == 0 };
        while stage(engine, &write).is_err() {
            drive(&disk, engine.commit()).expect("no faults");
            drive(&disk, run_jobs(engine)).expect("no faults");
        }
        apply(model, write);
    };
    // Most of it lies in tables, the last part in the memtable.
    for n in 0..SCANNED_KEYS {
        write(&engine, &mut model, n * 11 % SCANNED_KEYS);
    }
    drive(&disk, engine.commit()).expect("no faults");
    let before = model.clone();
    disk.defer();
    let mut shown: Vec<(KeyBuf, u64, usize)> = Vec::new();
    let visit = |key: ferrite_lsm::Key<'_>, record: Record<'_>| {
        shown.push((key.to_buf(), record.order, record.value.len()));
        ControlFlow::Continue(())
    };
    let range = KeyRange::vnode(1, SCANNED);
    let mut scan = Box::pin(engine.scan(&range, direction, ScanLimits::records(10_000), visit));
    let (mut taken, mut to) = (0, [3, 5].into_iter().cycle());
    let ended: Result<Option<KeyRange>, ReadError> = loop {
        if let Some(ended) = poll_once(scan.as_mut()) {
            break ended;
        }
        if taken == step || taken > step && moves == Moves::AtEachStepAfter {
            for n in 0..20 {
                write(&engine, &mut model, n * 37 % SCANNED_KEYS);
            }
            let mut commit = Box::pin(engine.commit());
            let mut moving = Box::pin(engine.move_vnode(SCANNED, to.next().expect("endless")));
            let (mut committed, mut moved) = (false, false);
            while !committed || !moved {
                committed = committed || poll_once(commit.as_mut()).is_some();
                moved = moved || poll_once(moving.as_mut()).is_some_and(|moved| moved == Ok(()));
                // The scan goes on between the steps of the move, but for what it is waiting for.
                let in_flight = disk.in_flight(None);
                if !in_flight.is_empty() {
                    disk.complete(in_flight[random.below(in_flight.len() as u64) as usize].id);
                }
            }
            drop((commit, moving));
            drive(&disk, run_jobs(&engine)).expect("no faults");
        }
        disk.complete_all();
        taken += 1;
    };
    drop(scan);
    assert_eq!(ended, Ok(None));
    let in_order = |pair: &[(KeyBuf, u64, usize)]| match direction {
        Direction::Forward => pair[0].0 < pair[1].0,
        Direction::Reverse => pair[0].0 > pair[1].0,
    };
    assert!(shown.windows(2).all(in_order), "each key once, in order");
    let expected: Vec<_> = before
        .iter()
        .filter(|(n, _)| key(**n).prefix.vnode == SCANNED)
        .map(|(n, write)| (key(*n), *write))
        .collect();
    assert_eq!(shown.len(), expected.len(), "step {step}, {direction:?}");
    for (key, write) in expected {
        let (_, order, len) =
            shown.iter().find(|(shown, ..)| *shown == key).expect("it was there all the time");
        assert!(*order >= write.order && *len == write.value().len(), "step {step}, {direction:?}, {key:?}");
    }
    taken > step
}

/// A scan looked up once where its vnode lives. When that moved meanwhile, the scan ended early and said that this was all.
#[test]
fn a_scan_follows_its_vnode_wherever_it_moves() {
    for options in [small_options as fn(u128) -> Options, apart_options] {
        for direction in [Direction::Forward, Direction::Reverse] {
            let scan = |step, moves| scan_while_it_moves(step, direction, moves, options(1));
            let steps = (0..).take_while(|&step| scan(step, Moves::Once)).count();
            assert!(steps > 5, "{steps} steps");
            assert!(scan(0, Moves::AtEachStepAfter) && scan(1, Moves::AtEachStepAfter));
        }
    }
}

#[cfg(feature = "planted-bugs")]
#[test]
fn a_move_that_leaves_records_behind_in_memory_is_caught() {
    rig::planted::caught(ferrite_lsm::planted::Bug::MoveForgetsMemtable, 1..4, |seed| {
        cut_at_every_step(seed, small_options);
        Ok(())
    });
}
