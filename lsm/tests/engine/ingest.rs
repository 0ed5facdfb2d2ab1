//! Exports and ingests between two engines: what is seen before and after, and what power cuts and faults leave.

use std::future::Future;
use std::pin::Pin;

use crate::rig::{
    self, Model, Random, TestEngine, VNODES, Write, apart_options, apply, key, lookup, run_jobs,
    small_options, stage,
};
use ferrite_lsm::mem_disk::run::{block_on, poll_once};
use ferrite_lsm::mem_disk::{CrashMode, Fault, MemDisk, MemPace};
use ferrite_lsm::{ChunkError, DiskError, Engine, Extent, IngestError, KeyRange, Options, Refusal, Strategy};

const KEYS: u64 = 160;

fn open(disk: &MemDisk, options: Options) -> TestEngine {
    block_on(Engine::open(disk.clone(), MemPace::yielding(3), options)).expect("nothing was damaged").0
}

fn assign(engine: &TestEngine, but: Option<u16>) {
    for vnode in (0..VNODES).filter(|vnode| Some(*vnode) != but && engine.vnode_store(*vnode).is_none()) {
        block_on(engine.assign(&[(vnode, [3, 5][usize::from(vnode % 2)])])).expect("no faults");
    }
}

/// An engine and what it should hold.
struct Side {
    engine: TestEngine,
    model: Model,
}

struct Clock {
    random: Random,
    now: u64,
}

impl Clock {
    fn new(seed: u64) -> Clock {
        Clock { random: Random::new(seed), now: 0 }
    }

    fn write(&mut self) -> Write {
        self.now += 1;
        let late = if self.random.below(5) == 0 { self.random.below(150) } else { 0 };
        Write {
            key: self.random.below(KEYS),
            order: self.now.saturating_sub(late) + 1,
            actor: self.now,
            bytes: self.random.below(400) as usize,
            tombstone: self.random.below(12) == 0,
        }
    }

    fn go_on(&mut self, side: &mut Side, groups: u64) {
        for _ in 0..groups {
            let mut staged = Vec::new();
            for _ in 0..5 {
                let write = self.write();
                match stage(&side.engine, &write) {
                    Ok(_) => staged.push(write),
                    Err(refusal) => {
                        assert!(
                            matches!(refusal, Refusal::UnknownVnode | Refusal::Overloaded),
                            "{refusal:?}"
                        );
                    }
                }
            }
            block_on(side.engine.commit()).expect("no faults");
            staged.into_iter().for_each(|write| apply(&mut side.model, write));
            if self.random.below(3) == 0 {
                block_on(run_jobs(&side.engine)).expect("no faults");
            }
        }
    }
}

fn check(side: &Side) {
    for n in 0..KEYS {
        let expected =
            side.model.get(&n).map(|write| (write.order, write.actor, write.tombstone, write.value()));
        assert_eq!(lookup(&side.engine, n), expected, "key {n}");
    }
}

fn of_extent(model: &Model, extent: Extent) -> Vec<Write> {
    model.values().filter(|write| extent.contains(key(write.key).prefix)).copied().collect()
}

fn export_all(engine: &TestEngine, extent: Extent, bytes_max: usize) -> Vec<Vec<u8>> {
    let (mut chunks, mut left) = (Vec::new(), Some(extent.range()));
    while let Some(range) = left {
        let exported = block_on(engine.export(&range, bytes_max)).expect("no faults");
        chunks.push(exported.chunk);
        // A position survives as bytes.
        left = exported.left.map(|left| {
            let mut bytes = Vec::new();
            left.encode(&mut bytes);
            KeyRange::decode(&bytes).expect("a range comes back")
        });
    }
    chunks
}

fn transfers(seed: u64, options: fn(u128) -> Options) {
    let (from, to) = (MemDisk::new(), MemDisk::new());
    let mut source = Side { engine: open(&from, options(1)), model: Model::new() };
    let mut target = Side { engine: open(&to, options(2)), model: Model::new() };
    let mut clock = Clock::new(seed);
    assign(&source.engine, None);
    assign(&target.engine, Some(1));
    for round in 0..30 {
        let groups = clock.random.below(12);
        clock.go_on(&mut source, groups);
        let groups = clock.random.below(12);
        clock.go_on(&mut target, groups);
        let vnode = clock.random.below(u64::from(VNODES)) as u16;
        let extent = if clock.random.below(2) == 0 { Extent::vnode(vnode) } else { Extent::table(vnode, 7) };
        if clock.random.below(2) == 0 {
            block_on(target.engine.drop_extent(extent)).expect("no faults");
            target.model.retain(|&n, _| !extent.contains(key(n).prefix));
        }
        let bytes_max = 200 + clock.random.below(4000) as usize;
        let chunks = export_all(&source.engine, extent, bytes_max);
        let given_up = clock.random.below(5) == 0;
        {
            let engine = target.engine.clone();
            let mut ingest = block_on(engine.ingest(extent, [3, 5][round % 2])).expect("no faults");
            for chunk in &chunks {
                block_on(ingest.add(chunk)).expect("what was exported");
                if clock.random.below(3) == 0 {
                    clock.go_on(&mut target, 2);
                }
            }
            check(&target);
            if !given_up {
                let wanted = of_extent(&source.model, extent);
                assert_eq!(block_on(ingest.finish()), Ok(wanted.len() as u64));
                wanted.into_iter().for_each(|write| apply(&mut target.model, write));
            }
        }
        check(&target);
        clock.go_on(&mut target, 6);
        check(&target);
        block_on(run_jobs(&target.engine)).expect("no faults");
        check(&target);
        if clock.random.below(3) == 0 {
            drop(target.engine);
            target.engine = open(&to, options(10 + round as u128));
            check(&target);
        }
    }
}

#[test]
fn what_is_exported_arrives_whole_and_the_newest_wins() {
    for seed in 0..8 {
        transfers(seed, small_options);
        transfers(seed, apart_options);
        transfers(seed, |entropy| Options { strategy: Strategy::Tiered, ..small_options(entropy) });
    }
}

fn source() -> Side {
    let mut source = Side { engine: open(&MemDisk::new(), small_options(1)), model: Model::new() };
    let mut clock = Clock::new(77);
    clock.now = 5000;
    assign(&source.engine, None);
    clock.go_on(&mut source, 60);
    source
}

#[test]
fn what_comes_to_an_empty_place_needs_no_merge() {
    let source = source();
    let engine = open(&MemDisk::new(), small_options(1));
    let chunks = export_all(&source.engine, Extent::vnode(1), 1000);
    assert!(chunks.len() > 3);
    let mut ingest = block_on(engine.ingest(Extent::vnode(1), 5)).expect("no faults");
    for chunk in &chunks {
        block_on(ingest.add(chunk)).expect("what was exported");
    }
    assert_eq!(engine.vnode_store(1), None);
    block_on(ingest.finish()).expect("no faults");
    assert_eq!(engine.vnode_store(1), Some(5));
    let stats = engine.stats();
    assert!(stats.tables[0] == 0 && *stats.tables.last().expect("levels") > 0, "{:?}", stats.tables);
}

#[test]
fn what_is_written_meanwhile_hides_nothing_newer() {
    let source = source();
    for is_new in [true, false] {
        let engine = open(&MemDisk::new(), small_options(1));
        block_on(engine.assign(&[(1, 5)])).expect("no faults");
        let wanted = of_extent(&source.model, Extent::vnode(1));
        let old = |order| Write { order, actor: 1, bytes: 10, tombstone: false, ..wanted[0] };
        if !is_new {
            stage(&engine, &old(3)).expect("taken");
            block_on(engine.commit()).expect("no faults");
        }
        let mut ingest = block_on(engine.ingest(Extent::vnode(1), 5)).expect("no faults");
        for chunk in export_all(&source.engine, Extent::vnode(1), 1000) {
            block_on(ingest.add(&chunk)).expect("what was exported");
        }
        // Newer than everything that is there, and older than what comes.
        stage(&engine, &old(7)).expect("taken");
        block_on(engine.commit()).expect("no faults");
        assert_eq!(lookup(&engine, wanted[0].key).map(|found| found.0), Some(7));
        block_on(ingest.finish()).expect("no faults");
        assert_eq!(lookup(&engine, wanted[0].key).map(|found| found.0), Some(wanted[0].order));
        // Newer than everything that was written here, and older than what came.
        stage(&engine, &old(9)).expect("taken");
        block_on(engine.commit()).expect("no faults");
        assert_eq!(lookup(&engine, wanted[0].key).map(|found| found.0), Some(wanted[0].order));
    }
}

#[test]
fn chunks_are_refused_that_do_not_follow_or_are_damaged() {
    let source = source();
    let engine = open(&MemDisk::new(), small_options(1));
    let chunks = export_all(&source.engine, Extent::vnode(1), 1000);
    let others = export_all(&source.engine, Extent::vnode(2), 1000);
    let mut damaged = chunks[0].clone();
    damaged[40] ^= 1;
    let malformed = |error| matches!(error, IngestError::Chunk(ChunkError::Malformed(_)));
    for (chunk, is_malformed) in [(&chunks[0], true), (&others[0], true), (&damaged, false)] {
        let mut ingest = block_on(engine.ingest(Extent::vnode(1), 5)).expect("no faults");
        block_on(ingest.add(&chunks[1])).expect("what was exported");
        let error = block_on(ingest.add(chunk)).expect_err("it does not follow");
        assert_eq!(malformed(error), is_malformed, "{error}");
    }
    let mut ingest = block_on(engine.ingest(Extent::vnode(1), 5)).expect("no faults");
    block_on(ingest.add(&chunks[0])).expect("what was exported");
    block_on(engine.assign(&[(1, 3)])).expect("no faults");
    assert_eq!(block_on(ingest.finish()), Err(IngestError::Superseded), "it lives elsewhere now");
    let mut ingest = block_on(engine.ingest(Extent::table(1, 7), 5)).expect("no faults");
    block_on(ingest.add(&chunks[0])).expect("what was exported");
    block_on(engine.drop_extent(Extent::vnode(1))).expect("no faults");
    assert_eq!(block_on(ingest.finish()), Err(IngestError::Superseded), "it was dropped");
    block_on(run_jobs(&engine)).expect("no faults");
    assert_eq!(engine.stats().tables.iter().sum::<u64>(), 0, "nothing is left of any of them");
}

/// A drop of a vnode that lived nowhere did nothing at all: an ingest that was under way brought the vnode after that.
#[test]
fn a_drop_of_what_lives_nowhere_ends_an_ingest_of_it() {
    let source = source();
    let chunks = export_all(&source.engine, Extent::vnode(1), 1000);
    for (dropped, is_ended) in [
        (Extent::vnode(1), true),
        (Extent::table(1, 7), true),
        (Extent::table(1, 8), true),
        (Extent::vnode(2), false),
    ] {
        let engine = open(&MemDisk::new(), small_options(1));
        let mut ingest = block_on(engine.ingest(Extent::vnode(1), 5)).expect("no faults");
        block_on(ingest.add(&chunks[0])).expect("what was exported");
        block_on(engine.drop_extent(dropped)).expect("no faults");
        assert_eq!(
            block_on(ingest.finish()).err(),
            is_ended.then_some(IngestError::Superseded),
            "{dropped:?}"
        );
        assert_eq!(engine.vnode_store(1), (!is_ended).then_some(5), "{dropped:?}");
    }
}

type Pending<T> = Option<Pin<Box<dyn Future<Output = T>>>>;

/// An ingest among writes and jobs, with a power cut in every mode before each completion.
fn cut_at_every_step(seed: u64, is_new: bool) -> Result<u64, String> {
    let (donor, extent) = (source(), Extent::vnode(1));
    let disk = MemDisk::new();
    let mut side = Side { engine: open(&disk, apart_options(1)), model: Model::new() };
    let mut clock = Clock::new(seed);
    assign(&side.engine, is_new.then_some(1));
    clock.go_on(&mut side, 40);
    let wanted = of_extent(&donor.model, extent);
    assert!(wanted.len() > 20);
    let chunks = export_all(&donor.engine, extent, 2000);
    disk.defer();
    let engine = side.engine.clone();
    let taken = async move {
        let mut ingest = engine.ingest(extent, 5).await.expect("no faults");
        for chunk in &chunks {
            ingest.add(chunk).await.expect("no faults");
        }
        ingest.finish().await.expect("no faults")
    };
    let mut ingest: Pending<u64> = Some(Box::pin(taken));
    let (mut job, mut commit): (Pending<Result<(), DiskError>>, Pending<()>) = (None, None);
    let (mut staged, mut images, mut random) = (Vec::new(), 0, Random::new(seed));
    while ingest.is_some() || job.is_some() || commit.is_some() {
        if commit.is_none() && ingest.is_some() {
            let write = clock.write();
            if stage(&side.engine, &write).is_ok() {
                staged.push(write);
            }
            let engine = side.engine.clone();
            commit = Some(Box::pin(async move { engine.commit().await.map(drop).expect("no faults") }));
        }
        if job.is_none()
            && let Some(next) = side.engine.next_job()
        {
            let engine = side.engine.clone();
            job = Some(Box::pin(async move { engine.run(next).await }));
        }
        if ingest.as_mut().and_then(|future| poll_once(future.as_mut())).is_some() {
            ingest = None;
        }
        if commit.as_mut().and_then(|future| poll_once(future.as_mut())).is_some() {
            commit = None;
            staged.drain(..).for_each(|write| apply(&mut side.model, write));
        }
        if job.as_mut().and_then(|future| poll_once(future.as_mut())).is_some() {
            job = None;
        }
        for mode in CrashMode::EVERY {
            images += 1;
            let disk = disk.image(mode, &mut || random.next());
            let opened = block_on(Engine::open(disk, MemPace::new(), apart_options(2)));
            let (engine, recovery) = opened.map_err(|error| format!("{mode:?}: {error}"))?;
            if !recovery.damage.is_empty() || !engine.quarantined().is_empty() {
                return Err(format!("{mode:?}: a power cut is no damage"));
            }
            // All of the ingested orders are above those written here.
            let arrived = wanted.iter().filter(|write| {
                let read = block_on(engine.read(key(write.key).as_key()));
                read.is_ok_and(|found| found.is_some_and(|found| found.record().order == write.order))
            });
            let arrived = arrived.count();
            if arrived != wanted.len() && (arrived > 0 || ingest.is_none()) {
                return Err(format!("{mode:?}: {arrived} of {} arrived", wanted.len()));
            }
            for (&n, write) in &side.model {
                let found = lookup(&engine, n).map(|(order, ..)| order);
                if found < Some(write.order) {
                    return Err(format!("{mode:?}, key {n}: {found:?}, not {write:?}"));
                }
            }
        }
        let in_flight = disk.in_flight(None);
        if !in_flight.is_empty() {
            let chosen = in_flight[random.below(in_flight.len() as u64) as usize].id;
            assert!(disk.complete(chosen));
        }
    }
    Ok(images)
}

#[test]
fn no_power_cut_leaves_a_part_of_an_ingest() {
    for seed in 0..2 {
        for is_new in [true, false] {
            let images = cut_at_every_step(seed, is_new).unwrap_or_else(|error| panic!("{is_new}, {error}"));
            rig::count("crash states", images);
            assert!(images > 100, "{images} images");
        }
    }
}

#[test]
fn a_fault_at_any_step_of_an_ingest_leaves_nothing_of_it() {
    let (donor, extent) = (source(), Extent::vnode(1));
    let chunks = export_all(&donor.engine, extent, 2000);
    for (fault, is_new) in [
        (Fault::NoSpace, true),
        (Fault::Io, true),
        (Fault::Short, true),
        (Fault::NoSpace, false),
        (Fault::Io, false),
    ] {
        for n in 0.. {
            let disk = MemDisk::new();
            let mut side = Side { engine: open(&disk, apart_options(1)), model: Model::new() };
            let mut clock = Clock::new(3);
            assign(&side.engine, is_new.then_some(1));
            clock.go_on(&mut side, 20);
            let before = disk.steps();
            disk.fail_at(n, fault);
            let engine = side.engine.clone();
            let take = || async {
                let mut ingest = engine.ingest(extent, 5).await.expect("reads do not fail");
                for chunk in &chunks {
                    ingest.add(chunk).await?;
                }
                ingest.finish().await
            };
            let mut done: Result<u64, IngestError> = block_on(take());
            let passed = disk.steps() - before <= n;
            assert!(done.is_ok() || !passed, "step {n}, {fault:?}: {done:?}");
            if done.is_err() {
                check(&side);
                if !engine.is_fenced() {
                    done = block_on(take());
                    assert!(done.is_ok(), "step {n}, {fault:?}: the fault is over");
                }
            }
            let is_doubtful = done.is_err();
            if done.is_ok() {
                of_extent(&donor.model, extent).into_iter().for_each(|write| apply(&mut side.model, write));
            }
            check(&side);
            drop((engine, side.engine));
            side.engine = open(&disk.kill(&mut || 0), apart_options(2));
            let first = of_extent(&donor.model, extent)[0];
            if is_doubtful && lookup(&side.engine, first.key).map(|found| found.0) == Some(first.order) {
                of_extent(&donor.model, extent).into_iter().for_each(|write| apply(&mut side.model, write));
            }
            check(&side);
            if passed {
                rig::count("fail-at-N points", n);
                break;
            }
        }
    }
}

#[cfg(feature = "planted-bugs")]
mod planted {
    use super::{cut_at_every_step, what_is_written_meanwhile_hides_nothing_newer};
    use crate::rig::planted::caught;
    use ferrite_lsm::planted::Bug;

    #[test]
    fn a_table_named_before_its_sync_is_caught() {
        caught(Bug::TableNamedBeforeSync, 0..4, |seed| cut_at_every_step(seed, true).map(drop));
    }

    #[test]
    fn a_mark_on_what_is_older_than_what_was_ingested_is_caught() {
        caught(Bug::IngestKeepsCeiling, 0..1, |_| {
            what_is_written_meanwhile_hides_nothing_newer();
            Ok(())
        });
    }
}
