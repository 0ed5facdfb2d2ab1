//! Compactions that end without having been: stopped between any two slices, by a full disk, by a host that closes.

use std::pin::Pin;

use crate::rig::{
    self, Model, Random, TestEngine, Write, apply, check, open_with, run_jobs, small_options, stage,
};
use ferrite_lsm::mem_disk::run::{block_on, poll_once};
use ferrite_lsm::mem_disk::{Fault, MemDisk, MemPace};
use ferrite_lsm::{Directory, DiskErrorKind, FileName, Options, Strategy};

const KEYS: u64 = 200;

fn options(entropy: u128, strategy: Strategy) -> Options {
    Options { strategy, l0_tables_trigger: 4, level_base_bytes: 1 << 20, ..small_options(entropy) }
}

/// An engine for which a compaction is due, and what is in it.
pub(crate) fn due(strategy: Strategy) -> (MemDisk, TestEngine, Model) {
    let disk = MemDisk::new();
    let opened = block_on(open_with(&disk, MemPace::yielding(1), options(1, strategy)));
    let (engine, _) = opened.expect("a fresh disk");
    let (mut random, mut model) = (Random::new(3), Model::new());
    for order in 1.. {
        let (key, bytes) = (random.below(KEYS), random.below(900) as usize);
        let write = Write { key, order, actor: order, bytes, tombstone: random.below(9) == 0 };
        stage(&engine, &write).expect("flushes keep up");
        apply(&mut model, write);
        block_on(engine.commit()).expect("no faults");
        while let Some(job) = engine.next_job() {
            if job.is_compaction() {
                return (disk, engine, model);
            }
            block_on(engine.run(job)).expect("no faults");
        }
    }
    unreachable!("level 0 fills in the end")
}

/// Tables on the disk that the engine does not count.
pub(crate) fn litter(disk: &MemDisk, engine: &TestEngine) -> usize {
    let of_store = |store| disk.list(Directory::Store(store)).into_iter();
    let files = [3, 5].into_iter().flat_map(of_store);
    let tables = files.filter(|(file, _)| matches!(file, FileName::Table { .. })).count();
    tables - engine.stats().tables.iter().sum::<u64>() as usize
}

/// Bytes of a merge's input between two looks at whether something else waits, at most: a block's worth, and the record behind it.
const SLICE_BYTES_MAX: u64 = 8 << 10;

#[test]
fn a_merge_lets_others_run_after_every_few_kilobytes() {
    for strategy in [Strategy::Leveled, Strategy::Tiered] {
        let (_disk, engine, _) = due(strategy);
        let before = engine.stats().compaction_read_bytes;
        let job = engine.next_job().expect("a compaction is due");
        let mut running = Box::pin(engine.run(job));
        let pauses = std::iter::from_fn(|| match poll_once(Pin::as_mut(&mut running)) {
            Some(done) => {
                done.expect("no faults");
                None
            }
            None => Some(()),
        });
        let pauses = pauses.count() as u64;
        let read = engine.stats().compaction_read_bytes - before;
        assert!(read > 50_000, "{read} bytes");
        assert!(pauses * SLICE_BYTES_MAX >= read, "{pauses} pauses in {read} bytes");
    }
}

#[test]
fn a_compaction_stopped_at_any_slice_changes_nothing() {
    for strategy in [Strategy::Leveled, Strategy::Tiered] {
        let mut stopped = 0;
        for polls in 0.. {
            let (disk, engine, model) = due(strategy);
            let before = engine.stats();
            let job = engine.next_job().expect("a compaction is due");
            let ended = {
                let mut running = Box::pin(engine.run(job));
                let early = (0..polls).find_map(|_| poll_once(Pin::as_mut(&mut running)));
                engine.stop_compactions();
                assert!(engine.next_job().is_none_or(|job| !job.is_compaction()), "none is begun any more");
                let ended = early.is_some();
                early.unwrap_or_else(|| block_on(running)).expect("no faults");
                ended
            };
            let after = engine.stats();
            if after.compactions == before.compactions {
                stopped += 1;
                assert_eq!(after.tables, before.tables);
            }
            check(&engine, &model, KEYS);
            block_on(engine.close()).expect("no faults");
            drop(engine);
            let opened = block_on(open_with(&disk, MemPace::new(), options(2, strategy)));
            let (engine, recovery) = opened.expect("nothing was damaged");
            assert!(recovery.clean);
            block_on(run_jobs(&engine)).expect("no faults");
            assert_eq!(litter(&disk, &engine), 0, "what was written in vain is removed");
            check(&engine, &model, KEYS);
            if ended {
                break;
            }
        }
        assert!(stopped > 5, "{strategy:?}: stopped {stopped} times only");
    }
}

#[test]
fn a_compaction_dropped_at_any_slice_is_litter_and_is_offered_again() {
    let mut dropped = 0;
    for polls in 1.. {
        let (disk, engine, model) = due(Strategy::Leveled);
        let job = engine.next_job().expect("a compaction is due");
        let ended = {
            let mut running = Box::pin(engine.run(job));
            (0..polls).any(|_| poll_once(Pin::as_mut(&mut running)).is_some())
        };
        if ended {
            break;
        }
        dropped += 1;
        check(&engine, &model, KEYS);
        block_on(run_jobs(&engine)).expect("no faults");
        assert!(engine.stats().compactions > 0);
        assert_eq!(litter(&disk, &engine), 0);
        check(&engine, &model, KEYS);
    }
    assert!(dropped > 5, "dropped {dropped} times only");
}

#[test]
fn a_full_disk_at_any_step_of_a_compaction_leaves_the_store_and_no_litter() {
    for strategy in [Strategy::Leveled, Strategy::Tiered] {
        let mut failed = 0;
        for n in 0.. {
            let (disk, engine, model) = due(strategy);
            let before = engine.stats();
            disk.fail_at(n, Fault::NoSpace);
            let ran = block_on(engine.run(engine.next_job().expect("a compaction is due")));
            let Err(error) = ran else { break };
            failed += 1;
            assert_eq!(error.kind, DiskErrorKind::NoSpace);
            assert_eq!(engine.stats().tables, before.tables);
            check(&engine, &model, KEYS);
            // Space is back: the outputs go, and the compaction is done after all.
            block_on(run_jobs(&engine)).expect("one fault only");
            assert!(engine.stats().compactions > 0 && !engine.is_fenced());
            assert_eq!(litter(&disk, &engine), 0, "step {n}");
            check(&engine, &model, KEYS);
        }
        rig::count("fail-at-N points", failed);
        assert!(failed > 8, "{strategy:?}: {failed} steps failed");
    }
}

/// What a job changes after the engine was closed would take back that it was.
#[test]
fn an_engine_that_is_closed_offers_no_work() {
    let (disk, engine, model) = due(Strategy::Leveled);
    assert!(engine.next_job().is_some());
    {
        let mut close = Box::pin(engine.close());
        while poll_once(Pin::as_mut(&mut close)).is_none() {
            assert!(engine.next_job().is_none());
        }
    }
    assert!(engine.next_job().is_none());
    drop(engine);
    let opened = block_on(open_with(&disk, MemPace::new(), options(2, Strategy::Leveled)));
    let (engine, recovery) = opened.expect("nothing was damaged");
    assert!(recovery.clean && engine.next_job().is_some(), "it is due then");
    check(&engine, &model, KEYS);
}
