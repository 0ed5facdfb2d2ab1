//! The engine against a map: random writes, jobs and reopenings.

use crate::rig::{
    Model, Random, Write, apart_options, apply, check, local_key, open, run_jobs, small_options, stage,
};
use ferrite_lsm::mem_disk::MemDisk;
use ferrite_lsm::mem_disk::run::block_on;
use ferrite_lsm::{Compression, Directory, FileName, OpenError, Options, Record, RecordFlags, Strategy};

const KEYS: u64 = 300;

fn random_write(random: &mut Random, clock: &mut u64) -> Write {
    *clock += random.below(3);
    // A tenth of the writes come late, as hints and repair do, and some tie in time.
    let late = if random.below(10) == 0 { random.below(200) } else { 0 };
    Write {
        key: random.below(KEYS),
        order: clock.saturating_sub(late) + 1,
        actor: random.below(3),
        bytes: match random.below(20) {
            0 => 5000,
            1..=4 => 0,
            _ => random.below(300) as usize,
        },
        tombstone: random.below(12) == 0,
    }
}

/// One history: how it ends in the disk's and the engine's counters is the caller's to look at.
fn history(seed: u64, rounds: usize, options: &dyn Fn(u128) -> Options) -> (MemDisk, Model) {
    let disk = MemDisk::new();
    let (mut random, mut model, mut clock) = (Random::new(seed), Model::new(), 0);
    let mut opens = 1;
    let (mut engine, recovery) = open(&disk, options(1)).expect("a fresh disk");
    assert!(recovery.fresh && !recovery.clean);
    for _ in 0..rounds {
        match random.below(100) {
            0..=79 => {
                let mut staged = Vec::new();
                for _ in 0..=random.below(12) {
                    let write = random_write(&mut random, &mut clock);
                    match stage(&engine, &write) {
                        Ok(seq) => staged.push((seq, write)),
                        Err(refusal) => {
                            assert_eq!(refusal, ferrite_lsm::Refusal::Overloaded);
                            block_on(run_jobs(&engine)).expect("no faults");
                        }
                    }
                }
                let durable = block_on(engine.commit()).expect("no faults");
                for (seq, write) in staged {
                    assert!(seq <= durable);
                    apply(&mut model, write);
                }
            }
            80..=92 => {
                if let Some(job) = engine.next_job() {
                    block_on(engine.run(job)).expect("no faults");
                }
            }
            93..=95 => block_on(engine.mark()),
            96 => check(&engine, &model, KEYS),
            ending => {
                let close = ending == 97;
                if close {
                    block_on(engine.close()).expect("no faults");
                }
                drop(engine);
                opens += 1;
                let (again, recovery) = open(&disk, options(opens)).expect("nothing was damaged");
                assert_eq!(recovery.clean, close);
                assert_eq!(u128::from(recovery.incarnation), opens);
                assert_eq!((recovery.cut_tail, &recovery.damage[..]), (None, &[][..]));
                engine = again;
            }
        }
    }
    check(&engine, &model, KEYS);
    block_on(run_jobs(&engine)).expect("no faults");
    check(&engine, &model, KEYS);
    (disk, model)
}

#[test]
fn histories_agree_with_a_map() {
    for seed in 0..12 {
        history(seed, 600, &small_options);
    }
}

#[test]
fn histories_agree_with_a_map_with_large_values_apart() {
    let compressed = |open| {
        let mut options = apart_options(open);
        options.strategy = if open % 2 == 0 { Strategy::Tiered } else { Strategy::Leveled };
        options.table.compression = Compression::Lz4;
        options
    };
    // Apart at some opens and not at others: what is apart stays readable, what is not stays where it is.
    let switching =
        |open: u128| if open.is_multiple_of(2) { small_options(open) } else { apart_options(open) };
    for seed in 0..8 {
        history(seed, 600, &apart_options);
        history(seed, 600, &compressed);
        history(seed, 600, &switching);
    }
}

#[test]
fn value_files_give_back_what_is_overwritten() {
    let disk = MemDisk::new();
    let (mut engine, _) = open(&disk, apart_options(1)).expect("a fresh disk");
    let (mut random, mut model, mut worst) = (Random::new(11), Model::new(), 0.0_f64);
    let mut told_least = f64::MAX;
    for round in 1..=160 {
        for order in 0..10 {
            let write = Write {
                key: random.below(KEYS / 2),
                order: round * 10 + order,
                actor: 1,
                bytes: 1000,
                tombstone: false,
            };
            stage(&engine, &write).expect("jobs keep up");
            apply(&mut model, write);
        }
        block_on(engine.commit()).expect("no faults");
        block_on(run_jobs(&engine)).expect("no faults");
        if round % 40 == 0 {
            check(&engine, &model, KEYS);
            drop(engine);
            engine = open(&disk, apart_options(u128::from(round))).expect("nothing was damaged").0;
        }
        let stats = engine.stats();
        if round > 40 {
            // What is live, as callers see it, once.
            let live_bytes = model.len() as f64 * 1060.0;
            worst = worst.max(stats.value_bytes as f64 / live_bytes);
            let stored = stats.table_bytes.iter().sum::<u64>() + stats.value_bytes;
            told_least = told_least.min(stats.space_amplification() / (stored as f64 / live_bytes));
        }
        let files: Vec<_> = [3, 5].into_iter().flat_map(|store| disk.list(Directory::Store(store))).collect();
        let values = files.iter().filter(|file| matches!(file, (FileName::Values { .. }, _))).count();
        assert_eq!(values as u64, stats.value_files, "no value file is left that nothing names");
    }
    let stats = engine.stats();
    assert!(stats.value_live_bytes > 100 << 10, "{stats:?}");
    assert!(worst < 4.0, "value files took {worst} times what is live: {stats:?}");
    assert!(
        told_least > 0.75,
        "the space told was {told_least} times what was taken: named and superseded is not live"
    );
}

/// One store of each strategy, the other way around at every second open.
fn switching_options(open: u128) -> Options {
    let mut options = small_options(open);
    let tiered = options.stores[open as usize % 2];
    options.strategy_of.insert(tiered, Strategy::Tiered);
    options
}

#[test]
fn histories_agree_with_a_map_whatever_the_strategy() {
    let tiered = |open| Options { strategy: Strategy::Tiered, ..small_options(open) };
    for seed in 0..12 {
        history(seed, 600, &tiered);
        history(seed, 600, &switching_options);
    }
}

#[test]
fn a_store_is_given_another_strategy_without_rewriting() {
    let (disk, model) = history(3, 900, &small_options);
    let files = |disk: &MemDisk| -> Vec<_> {
        [3, 5].iter().flat_map(|&store| disk.list(Directory::Store(store))).collect()
    };
    let before = files(&disk);
    let tiered = |open| Options { strategy: Strategy::Tiered, ..small_options(open) };
    let (engine, _) = open(&disk, tiered(900)).expect("nothing was damaged");
    check(&engine, &model, KEYS);
    assert_eq!(files(&disk), before);
    // Both ways, with work in between.
    let (mut random, mut clock, mut model, mut engine) = (Random::new(5), 10_000_000, model, engine);
    for round in 0..6 {
        for _ in 0..40 {
            for _ in 0..10 {
                let write = random_write(&mut random, &mut clock);
                stage(&engine, &write).expect("jobs keep up");
                apply(&mut model, write);
            }
            block_on(engine.commit()).expect("no faults");
            block_on(run_jobs(&engine)).expect("no faults");
        }
        check(&engine, &model, KEYS);
        drop(engine);
        let options = if round % 2 == 0 { small_options(901 + round) } else { tiered(901 + round) };
        engine = open(&disk, options).expect("nothing was damaged").0;
        block_on(run_jobs(&engine)).expect("no faults");
        check(&engine, &model, KEYS);
    }
}

#[test]
fn a_history_passes_through_every_kind_of_job() {
    let (disk, model) = history(99, 900, &small_options);
    let (engine, _) = open(&disk, small_options(777)).expect("nothing was damaged");
    let (mut random, mut clock, mut model) = (Random::new(5), 10_000_000, model);
    for _ in 0..400 {
        for _ in 0..10 {
            let write = random_write(&mut random, &mut clock);
            stage(&engine, &write).expect("jobs keep up");
            apply(&mut model, write);
        }
        block_on(engine.commit()).expect("no faults");
        block_on(run_jobs(&engine)).expect("no faults");
    }
    check(&engine, &model, KEYS);
    let stats = engine.stats();
    assert!(stats.flushes > 5 && stats.compactions > 3, "{stats:?}");
    assert!(stats.tables[1..].iter().filter(|&&tables| tables > 0).count() >= 2, "{stats:?}");
    assert!(stats.gets_cached > 0 && stats.gets_disk > 0 && stats.gets_memtable > 0, "{stats:?}");
    assert!(stats.log_bytes < 600 << 10, "segments are recycled: {stats:?}");
    let tables: u64 = stats.tables.iter().sum();
    let files: usize = [3, 5].iter().map(|&store| disk.list(Directory::Store(store)).len()).sum();
    assert_eq!(files as u64, tables, "no file is left that nothing names");
}

#[test]
fn a_lone_core_keeps_its_own_space_and_its_stores() {
    let disk = MemDisk::new();
    let (engine, _) = open(&disk, small_options(1)).expect("a fresh disk");
    let record = Record { order: 9, actor: 1, flags: RecordFlags(0), expiry_ms: 77, value: b"lease" };
    engine.stage(local_key(), record, 0).expect("taken");
    block_on(engine.commit()).expect("no faults");
    drop(engine);
    // Stores may come, in any place, and what lives in a store stays there.
    let mut more = small_options(2);
    more.stores = vec![1, 3, 5];
    let (engine, recovery) = open(&disk, more).expect("a store more");
    assert_eq!(recovery.replayed, 1);
    assert_eq!(recovery.vnodes, [(0, 3), (1, 5), (2, 3), (3, 5)]);
    assert_eq!(engine.get(local_key(), |found| found == Some(record)), Ok(true));
    assert_eq!(engine.vnode_store(9), None);
    drop(engine);
    let mut fewer = small_options(3);
    fewer.stores = vec![3];
    assert_eq!(open(&disk, fewer).err(), Some(OpenError::MissingStore(1)));
}

#[test]
fn every_acknowledged_group_has_its_sync() {
    let disk = MemDisk::new();
    let mut options = small_options(1);
    // One segment holds them all: beginning another takes a sync of its own.
    options.log.segment_bytes = 1 << 20;
    let (engine, _) = open(&disk, options).expect("a fresh disk");
    let (mut random, mut clock) = (Random::new(3), 0);
    let before = (disk.counts().data_syncs(), engine.stats().groups);
    for group in 1..=60 {
        for _ in 0..5 {
            let write = random_write(&mut random, &mut clock);
            stage(&engine, &Write { bytes: 10, ..write }).expect("taken");
            let syncs = disk.counts().data_syncs() - before.0;
            assert_eq!(syncs, group - 1, "staging writes nothing");
        }
        block_on(engine.commit()).expect("no faults");
        assert_eq!(disk.counts().data_syncs() - before.0, group, "one sync each");
        assert_eq!(engine.stats().groups - before.1, group);
    }
    assert_eq!(disk.counts().plain_writes, 0);
}

#[cfg(feature = "planted-bugs")]
mod planted {
    use crate::rig::planted::caught;
    use ferrite_lsm::planted::Bug;

    fn run(seed: u64) -> Result<(), String> {
        super::history(seed, 800, &super::small_options);
        Ok(())
    }

    /// Tables are not in the order of versions: who stops at the first record without its mark finds an old one.
    #[test]
    fn a_read_that_stops_without_the_mark_is_caught() {
        caught(Bug::StopsWithoutMark, 0..20, run);
    }

    #[test]
    fn an_index_that_is_off_by_one_at_a_blocks_edge_is_caught() {
        caught(Bug::IndexOffByOne, 0..5, run);
    }

    #[test]
    fn a_filter_that_forgets_a_key_is_caught() {
        caught(Bug::FilterForgetsKey, 0..5, run);
    }
}
