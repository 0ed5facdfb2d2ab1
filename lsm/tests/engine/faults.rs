//! Disks that fail: at every I/O step once, full for a while, unreadable or wrong in one place, with files that are gone.

use crate::rig::{
    self, Model, Random, TestEngine, Write, apart_options, apply, check, key, lookup, open, open_with,
    run_jobs, small_options, stage,
};
use ferrite_lsm::mem_disk::run::{block_on, try_run};
use ferrite_lsm::mem_disk::{CrashMode, Fault, MemDisk, MemPace, ReadFault};
use ferrite_lsm::{
    Class, CommitError, Damage, Directory, Disk, DiskErrorKind, FileName, NameOp, OpenError, Options,
    ReadError, Refusal,
};

const KEYS: u64 = 80;
/// Times that a host tries again what a fault that is over made fail.
const RETRIES: usize = 5;

fn write(random: &mut Random, clock: &mut u64) -> Write {
    *clock += 1;
    let (key, bytes) = (random.below(KEYS), random.below(900) as usize);
    Write { key, order: *clock, actor: *clock, bytes, tombstone: random.below(15) == 0 }
}

/// What a host does with a small trace, whatever fails; gives what was acknowledged and what may or may not be there.
struct Host {
    model: Model,
    /// Staged when the engine fenced itself.
    in_doubt: Vec<Write>,
    failures: u64,
}

fn drive(engine: &TestEngine, groups: u64, first_order: u64) -> Host {
    let mut host = Host { model: Model::new(), in_doubt: Vec::new(), failures: 0 };
    let (mut random, mut clock) = (Random::new(7), first_order);
    for _ in 0..groups {
        let mut staged = Vec::new();
        for _ in 0..6 {
            let write = write(&mut random, &mut clock);
            match stage(engine, &write) {
                Ok(_) => staged.push(write),
                Err(refusal) => assert!(
                    matches!(refusal, Refusal::Fenced | Refusal::DiskFull | Refusal::Overloaded),
                    "{refusal:?}"
                ),
            }
        }
        match block_on(engine.commit()) {
            Ok(_) => staged.drain(..).for_each(|write| apply(&mut host.model, write)),
            Err(CommitError::DiskFull | CommitError::Overloaded) => host.failures += 1,
            Err(CommitError::Fenced) => {
                host.failures += 1;
                assert!(engine.is_fenced());
                host.in_doubt.append(&mut staged);
            }
        }
        for _ in 0..RETRIES {
            match block_on(run_jobs(engine)) {
                Ok(()) => break,
                Err(_) => host.failures += 1,
            }
        }
        block_on(engine.mark());
    }
    host
}

/// As [`check`], with writes that may or may not be there.
fn check_with_doubt(engine: &TestEngine, host: &Host) {
    let mut model = host.model.clone();
    for write in &host.in_doubt {
        let found = lookup(engine, write.key).map(|(order, ..)| order);
        if found == Some(write.order) {
            apply(&mut model, *write);
        }
    }
    check(engine, &model, KEYS);
}

fn fails_at_every_step(fault: Fault) {
    fails_at_every_step_with(fault, small_options);
}

fn fails_at_every_step_with(fault: Fault, options: fn(u128) -> Options) {
    let (mut failed, mut fenced) = (0, 0);
    for n in 0.. {
        let disk = MemDisk::new();
        let (engine, _) = open(&disk, options(1)).expect("no fault yet");
        let before = disk.steps();
        disk.fail_at(n, fault);
        let host = drive(&engine, 70, 0);
        failed += u64::from(host.failures > 0);
        // Reads go on, whatever happened to writes.
        check(&engine, &host.model, KEYS);
        let mut host = host;
        if !engine.is_fenced() {
            let late = Write { key: 1, order: 1 << 40, actor: 1, bytes: 3, tombstone: false };
            stage(&engine, &late).unwrap_or_else(|refusal| panic!("step {n}: {refusal} for good"));
            match block_on(engine.commit()) {
                Ok(_) => apply(&mut host.model, late),
                // This was step n.
                Err(CommitError::Fenced) => host.in_doubt.push(late),
                Err(CommitError::DiskFull | CommitError::Overloaded) => {}
            }
        }
        fenced += u64::from(engine.is_fenced());
        let passed = disk.steps() - before <= n;
        drop(engine);
        let disk = disk.kill(&mut || 0);
        let (engine, recovery) =
            open(&disk, options(2)).unwrap_or_else(|error| panic!("step {n}, {fault:?}: {error}"));
        assert!(recovery.damage.is_empty(), "step {n}: {:?}", recovery.damage);
        check_with_doubt(&engine, &host);
        if passed {
            rig::count("fail-at-N points", n);
            break;
        }
    }
    let fences = match fault {
        Fault::NoSpace => fenced == 0,
        Fault::NoSpaceAfter { .. } | Fault::Io | Fault::Short => fenced > 20,
        Fault::Misplaced { .. } => unreachable!("it fails no step"),
    };
    assert!(failed > fenced && fences, "{failed} steps failed, {fenced} fenced");
}

#[test]
fn no_space_at_any_step_loses_nothing_and_passes() {
    fails_at_every_step(Fault::NoSpace);
}

#[test]
fn no_space_for_the_rest_of_a_write_at_any_step_loses_nothing() {
    fails_at_every_step(Fault::NoSpaceAfter { blocks: 1 });
}

#[test]
fn no_fault_at_any_step_loses_a_value_that_is_apart() {
    fails_at_every_step_with(Fault::NoSpace, apart_options);
    fails_at_every_step_with(Fault::Io, apart_options);
}

#[test]
fn a_device_failure_at_any_step_loses_nothing() {
    fails_at_every_step(Fault::Io);
}

#[test]
fn a_short_write_at_any_step_loses_nothing() {
    fails_at_every_step(Fault::Short);
}

#[test]
fn a_failure_at_any_step_of_an_open_leaves_an_engine_that_opens() {
    let disk = MemDisk::new();
    let (engine, _) = open(&disk, small_options(1)).expect("no fault yet");
    let host = drive(&engine, 60, 0);
    drop(engine);
    for fault in [Fault::NoSpace, Fault::Io, Fault::Short] {
        for n in 0.. {
            let disk = disk.image(CrashMode::None, &mut || 0);
            disk.fail_at(n, fault);
            let before = disk.steps();
            let opened = open(&disk, small_options(2));
            let passed = disk.steps() - before <= n;
            if passed {
                assert!(opened.is_ok());
                rig::count("fail-at-N points", n);
                break;
            }
            let mut model = host.model.clone();
            if let Ok((engine, _)) = opened {
                // It goes on as soon as there is room again; and a short write is gone on with.
                assert_ne!(fault, Fault::Io, "step {n}");
                block_on(run_jobs(&engine)).unwrap_or_else(|error| panic!("step {n}, {fault:?}: {error}"));
                for write in drive(&engine, 10, 1 << 20).model.into_values() {
                    apply(&mut model, write);
                }
                check(&engine, &model, KEYS);
            }
            let (engine, _) =
                open(&disk, small_options(3)).unwrap_or_else(|error| panic!("step {n}, {fault:?}: {error}"));
            check(&engine, &model, KEYS);
        }
        for n in 0.. {
            let disk = disk.image(CrashMode::None, &mut || 0);
            disk.fail_read_at(n, ReadFault::Io);
            let before = disk.reads();
            let opened = open(&disk, small_options(2));
            let passed = disk.reads() - before <= n;
            if passed {
                assert!(opened.is_ok());
                rig::count("fail-at-N points", n);
                break;
            }
            drop(opened);
            let (engine, _) =
                open(&disk, small_options(3)).unwrap_or_else(|error| panic!("read {n}: {error}"));
            check(&engine, &host.model, KEYS);
        }
    }
}

#[test]
fn a_full_disk_refuses_writes_serves_reads_and_recovers_when_space_returns() {
    let disk = MemDisk::new();
    let (engine, _) = open(&disk, small_options(1)).expect("a fresh disk");
    let before = drive(&engine, 40, 0);
    disk.set_full(true);
    let during = drive(&engine, 60, 1_000_000);
    assert!(during.failures > 0 && engine.stats().disk_full && !engine.is_fenced());
    let late = Write { key: 1, order: 1 << 40, actor: 1, bytes: 3, tombstone: false };
    assert_eq!(stage(&engine, &late), Err(Refusal::DiskFull));
    let mut model = before.model;
    during.model.into_values().for_each(|write| apply(&mut model, write));
    check(&engine, &model, KEYS);
    disk.set_full(false);
    block_on(run_jobs(&engine)).expect("there is space");
    assert!(!engine.stats().disk_full);
    assert!(stage(&engine, &late).is_ok());
    block_on(engine.commit()).expect("there is space");
    apply(&mut model, late);
    check(&engine, &model, KEYS);
}

/// A node whose disk had run full could not be started any more, not even to read from it or to find out what to remove.
#[test]
fn a_full_disk_at_start_serves_reads_and_takes_writes_when_space_returns() {
    for (closed, flushed) in [(true, false), (false, false), (true, true)] {
        let disk = MemDisk::new();
        let (engine, _) = open(&disk, small_options(1)).expect("a fresh disk");
        let mut model = drive(&engine, 60, 0).model;
        if flushed {
            let mut options = small_options(1);
            // What empty memtables take is more: whatever is written is flushed.
            options.memtable_bytes = Options::memtable_bytes_min(2);
            drop(engine);
            let (engine, _) = open(&disk, options).expect("no faults");
            block_on(run_jobs(&engine)).expect("no faults");
            block_on(engine.close()).expect("no faults");
        } else if closed {
            block_on(engine.close()).expect("no faults");
        }
        disk.set_full(true);
        for entropy in 2..5 {
            let (engine, recovery) = open(&disk, small_options(entropy)).expect("it need not write");
            assert_eq!((recovery.clean, recovery.fresh), (closed, false));
            check(&engine, &model, KEYS);
            let late = Write { key: 1, order: 1 << 40, actor: 1, bytes: 3, tombstone: false };
            assert_eq!(stage(&engine, &late), Err(Refusal::DiskFull));
            for _ in 0..RETRIES {
                assert!(block_on(run_jobs(&engine)).is_err(), "there is no room");
                assert!(engine.stats().disk_full && !engine.is_fenced());
            }
            check(&engine, &model, KEYS);
        }
        let (engine, _) = open(&disk, small_options(6)).expect("it need not write");
        disk.set_full(false);
        block_on(run_jobs(&engine)).expect("there is room");
        assert!(!engine.stats().disk_full);
        for write in drive(&engine, 40, 1 << 20).model.into_values() {
            apply(&mut model, write);
        }
        check(&engine, &model, KEYS);
        drop(engine);
        let (engine, _) = open(&disk, small_options(7)).expect("no faults");
        check(&engine, &model, KEYS);
    }
}

/// A spent budget of log buffers was taken for a full disk: the core refused writes as such, and an operator would have added a disk.
#[test]
fn a_spent_budget_of_log_buffers_is_overload_and_passes() {
    let disk = MemDisk::new();
    let (engine, _) = open(&disk, small_options(1)).expect("a fresh disk");
    let mut model = Model::new();
    let mut commit = |order| {
        let write = Write { key: order % KEYS, order, actor: 1, bytes: 10, tombstone: false };
        stage(&engine, &write).expect("there is room");
        let committed = block_on(engine.commit());
        if committed.is_ok() {
            apply(&mut model, write);
        }
        committed
    };
    commit(1).expect("no fault");
    disk.limit_buffers(Class::Log, disk.buffer_bytes(Class::Log));
    // A group takes a block: a segment is full after a few.
    let last = (2..100).find(|&order| commit(order).is_err()).expect("the next segment needs a buffer");
    for order in last + 1..last + 4 {
        assert_eq!(commit(order), Err(CommitError::Overloaded));
        let refused = block_on(run_jobs(&engine)).map_err(|error| error.kind);
        assert!(matches!(refused, Err(DiskErrorKind::Os(_))), "{refused:?}");
        assert!(!engine.stats().disk_full && !engine.is_fenced());
    }
    disk.limit_buffers(Class::Log, usize::MAX);
    commit(last + 4).expect("there are buffers");
    block_on(run_jobs(&engine)).expect("there are buffers");
    check(&engine, &model, KEYS);
    drop(engine);
    let (engine, _) = open(&disk.kill(&mut || 0), small_options(2)).expect("no fault");
    check(&engine, &model, KEYS);
}

#[test]
fn a_power_cut_while_a_full_start_is_made_good_loses_nothing() {
    let disk = MemDisk::new();
    let (engine, _) = open(&disk, small_options(1)).expect("a fresh disk");
    let model = drive(&engine, 60, 0).model;
    drop(engine);
    let mut states = 0;
    for mode in CrashMode::EVERY {
        for step in 0.. {
            let disk = copy(&disk);
            disk.set_full(true);
            let mut model = model.clone();
            let late = Write { key: 1, order: 1 << 40, actor: 1, bytes: 3, tombstone: false };
            let mut committed = false;
            let ended = try_run(async {
                let (engine, _) = open_with(&disk, MemPace::new(), small_options(2)).await.expect("it opens");
                assert!(run_jobs(&engine).await.is_err());
                disk.set_full(false);
                disk.crash_at(disk.steps() + step);
                run_jobs(&engine).await.expect("there is room");
                stage(&engine, &late).expect("there is room");
                engine.commit().await.expect("there is room");
                committed = true;
                run_jobs(&engine).await.expect("there is room");
            });
            let mut random = Random::new(step + 1);
            let left = disk.crash(mode, &mut || random.next());
            let (engine, recovery) =
                open(&left, small_options(3)).unwrap_or_else(|error| panic!("{step}, {mode:?}: {error}"));
            assert!(recovery.damage.is_empty(), "{step}, {mode:?}: {:?}", recovery.damage);
            if committed || lookup(&engine, 1).map(|found| found.0) == Some(late.order) {
                apply(&mut model, late);
            }
            check(&engine, &model, KEYS);
            states += 1;
            if ended.is_some() {
                break;
            }
        }
    }
    rig::count("crash states", states);
    assert!(states > 20, "{states} states");
}

/// A manifest's write may fail and yet be found on the disk: what it names must outlive the process.
#[test]
fn what_a_failed_change_names_stays_until_a_later_change() {
    for n in 0.. {
        let disk = MemDisk::new();
        let mut options = small_options(1);
        // Each change begins a new manifest, whose sync may fail when it is written already.
        options.manifest_bytes_max = 0;
        let (engine, _) = open(&disk, options.clone()).expect("no fault yet");
        let (mut random, mut clock, mut model) = (Random::new(9), 0, Model::new());
        while engine.stats().frozen_bytes == 0 {
            let write = write(&mut random, &mut clock);
            stage(&engine, &write).expect("taken");
            block_on(engine.commit()).expect("no fault yet");
            apply(&mut model, write);
        }
        disk.fail_at(n, Fault::NoSpace);
        let before = disk.steps();
        let ended = block_on(run_jobs(&engine));
        let passed = disk.steps() - before <= n;
        // Not every failure fails the job: a superseded manifest may stay a while.
        assert!(ended.is_ok() || !passed, "step {n}");
        // Whatever may be unlinked now is.
        disk.set_full(true);
        let _also_fails = block_on(run_jobs(&engine));
        drop(engine);
        let disk = disk.kill(&mut || 0);
        disk.set_full(false);
        let (engine, _) = open(&disk, options).unwrap_or_else(|error| panic!("step {n}: {error}"));
        check(&engine, &model, KEYS);
        if passed {
            assert!(n > 8, "a flush has more steps");
            rig::count("fail-at-N points", n);
            break;
        }
    }
}

#[test]
fn a_failed_read_fails_that_read_only() {
    let disk = MemDisk::new();
    let (engine, _) = open(&disk, small_options(1)).expect("a fresh disk");
    let host = drive(&engine, 70, 0);
    drop(engine);
    for (fault, bit) in [(ReadFault::Io, 0), (ReadFault::Short, 0), (ReadFault::Flip { bit: 999 }, 999)] {
        let (engine, _) = open(&disk, small_options(2 + bit)).expect("nothing is damaged");
        let mut failed = 0;
        for n in 0..KEYS {
            let (key, expected) = (key(n), host.model.get(&n));
            if engine.get(key.as_key(), |_| ()).is_ok() {
                continue;
            }
            disk.fail_read_at(0, fault);
            match block_on(engine.read(key.as_key())) {
                Ok(found) => {
                    assert_eq!(found.map(|found| found.record().order), expected.map(|write| write.order));
                }
                Err(ReadError::Disk(_) | ReadError::Damage(_) | ReadError::Quarantined(_)) => failed += 1,
                Err(ReadError::NoBuffer) => panic!("buffers are not bounded here"),
            }
            let again = lookup(&engine, n).map(|found| found.0);
            assert_eq!(again, expected.map(|write| write.order), "key {n} after {fault:?}");
        }
        assert!(failed > 0 || fault == ReadFault::Short, "{fault:?} was never met");
    }
}

/// A disk with tables, segments and a manifest, and what is in it.
fn filled() -> (MemDisk, Host) {
    let disk = MemDisk::new();
    let (engine, _) = open(&disk, small_options(1)).expect("a fresh disk");
    let host = drive(&engine, 70, 0);
    drop(engine);
    (disk, host)
}

fn copy(disk: &MemDisk) -> MemDisk {
    disk.image(CrashMode::All, &mut || 0)
}

fn files(disk: &MemDisk) -> Vec<FileName> {
    let directories = [Directory::Core(0), Directory::Store(3), Directory::Store(5)];
    directories.iter().flat_map(|&directory| disk.list(directory)).map(|(name, _)| name).collect()
}

#[test]
fn a_missing_file_is_refused_by_name() {
    let (disk, _) = filled();
    let mut tables = 0;
    for file in files(&disk) {
        let disk = copy(&disk);
        block_on(disk.names(NameOp::Unlink(file))).expect("it is there");
        let refused = open(&disk, small_options(2)).err();
        match file {
            FileName::Table { .. } => {
                tables += 1;
                assert_eq!(refused, Some(OpenError::MissingTable(file)));
            }
            FileName::Manifest { .. } => {
                assert!(matches!(refused, Some(OpenError::MissingManifest { .. })), "{refused:?}");
            }
            FileName::Segment { .. } | FileName::Values { .. } => {}
        }
    }
    assert!(tables > 2);
    let disk = copy(&disk);
    for file in files(&disk) {
        if matches!(file, FileName::Segment { .. }) {
            block_on(disk.names(NameOp::Unlink(file))).expect("it is there");
        }
    }
    let refused = open(&disk, small_options(2)).err();
    assert!(matches!(refused, Some(OpenError::MissingLog { found: None, .. })), "{refused:?}");
}

#[test]
fn the_oldest_needed_segment_cannot_go_unnoticed() {
    let disk = MemDisk::new();
    let mut options = small_options(1);
    // Nothing is flushed, so every segment is needed.
    options.memtable_bytes = 64 << 20;
    let (engine, _) = open(&disk, options.clone()).expect("a fresh disk");
    drive(&engine, 60, 0);
    drop(engine);
    let segments = disk.list(Directory::Core(0));
    let segments: Vec<_> =
        segments.iter().filter(|(name, _)| matches!(name, FileName::Segment { .. })).collect();
    assert!(segments.len() > 2);
    block_on(disk.names(NameOp::Unlink(segments[0].0))).expect("it is there");
    let refused = open(&disk, options).err();
    assert!(matches!(refused, Some(OpenError::MissingLog { needed: 1, found: Some(_) })), "{refused:?}");
}

#[test]
fn a_damaged_table_fails_as_a_whole_or_in_its_damaged_block() {
    let (disk, host) = filled();
    let table =
        files(&disk).into_iter().find(|file| matches!(file, FileName::Table { .. })).expect("a table");
    let bytes = disk.read_all(table).expect("it is there").len() as u64;
    let (mut whole, mut failed) = (0, 0);
    // Every part of the file, not every byte: the table's own tests see to that.
    for offset in (0..bytes).step_by(509) {
        let disk = copy(&disk);
        assert!(disk.corrupt(table, offset, 0x10));
        match block_on(open_with(&disk, MemPace::new(), small_options(2))) {
            Err(error) => panic!("byte {offset}: {error}"),
            Ok((engine, recovery)) => {
                assert!(recovery.quarantined.iter().all(|range| range.file == table));
                whole += recovery.quarantined.len();
                for n in 0..KEYS {
                    match block_on(engine.read(key(n).as_key())) {
                        Ok(found) => {
                            let expected = host.model.get(&n).map(|write| write.order);
                            assert_eq!(found.map(|found| found.record().order), expected, "byte {offset}");
                        }
                        Err(ReadError::Damage(Damage { file, .. }) | ReadError::Quarantined(file)) => {
                            assert_eq!(file, table);
                            failed += 1;
                        }
                        Err(error) => panic!("byte {offset}: {error}"),
                    }
                }
            }
        }
    }
    assert!(whole > 0 && failed > whole, "{whole} times the whole table, {failed} reads failed");
}

/// A compaction that met damage used to be offered again at once, for ever, and no other store was ever compacted.
#[test]
fn a_compaction_that_meets_damage_passes_over_it() {
    let (disk, _) = filled();
    let tables: Vec<FileName> =
        files(&disk).into_iter().filter(|file| matches!(file, FileName::Table { .. })).collect();
    let mut met = 0;
    for table in tables {
        let disk = copy(&disk);
        // The first block: opening does not read it, merging does.
        assert!(disk.corrupt(table, 40, 0x10));
        let mut options = small_options(2);
        options.l0_tables_trigger = 1;
        options.level_base_bytes = 1;
        let (engine, _) = open(&disk, options).expect("the damage lies in a block");
        let mut failures = 0;
        for turn in 0.. {
            let Some(job) = engine.next_job() else { break };
            failures += usize::from(block_on(engine.run(job)).is_err());
            assert!(turn < 1_000, "the same job is offered for ever");
        }
        let marked = engine.stats().quarantined_areas;
        assert_eq!(
            (failures, engine.stats().damaged_tables),
            (marked as usize, marked),
            "one meeting is enough"
        );
        assert!(engine.quarantined().iter().all(|range| !range.is_used), "the next takes the table");
        met += marked;
    }
    assert!(met > 0, "no compaction met the damage");
}

#[test]
fn what_nothing_names_is_removed() {
    let (disk, host) = filled();
    let orphan = FileName::Table { store: 3, number: 999 };
    disk.write_all(orphan, &[7; 8192]);
    let (engine, _) = open(&disk, small_options(2)).expect("an orphan is no damage");
    block_on(run_jobs(&engine)).expect("no faults");
    assert!(!files(&disk).contains(&orphan));
    check(&engine, &host.model, KEYS);
}

#[test]
fn a_foreign_core_and_a_newer_format_are_refused() {
    let (disk, _) = filled();
    let manifest = files(&disk).into_iter().find(|file| matches!(file, FileName::Manifest { .. }));
    let bytes = disk.read_all(manifest.expect("a manifest")).expect("it is there");
    let foreign = MemDisk::new();
    foreign.write_all(FileName::Manifest { core: 1, number: 2 }, &bytes);
    foreign.write_all(FileName::Segment { core: 1, slot: 0 }, &[0; 4096]);
    let mut options = small_options(2);
    options.core = 1;
    assert!(open(&foreign, options).is_err());
}

/// Each life begins a segment of its own. A process that was killed again and again used to keep one for every life, for the
/// few records in it never filled a memtable, and each restart took longer than the last.
#[test]
fn many_short_lives_do_not_pile_up_segments() {
    let disk = MemDisk::new();
    let mut options = small_options(1);
    // Nothing is flushed for its size.
    options.memtable_bytes = 64 << 20;
    options.log_bytes_max = Some(4 * options.log.segment_bytes);
    let mut model = Model::new();
    for life in 0..40u64 {
        options.entropy = 100 + u128::from(life);
        let (engine, _) = open(&disk, options.clone()).expect("no faults");
        for write in drive(&engine, 1, 1_000 * life).model.into_values() {
            apply(&mut model, write);
        }
        check(&engine, &model, KEYS);
    }
    let segments = disk
        .list(Directory::Core(0))
        .iter()
        .filter(|(name, _)| matches!(name, FileName::Segment { .. }))
        .count();
    // Up to the log's cap, the one being written, and one made ready.
    assert!(segments <= 7, "{segments} segments");
}

fn nth_write(order: u64) -> Write {
    Write { key: order % KEYS, order, actor: order, bytes: 900, tombstone: false }
}

/// Fills, on a full disk, the segments that were made ready before, with so many groups at most; gives the first that found no room.
fn fill(groups: u64) -> (MemDisk, TestEngine, Option<u64>) {
    let disk = MemDisk::new();
    let (engine, _) = open(&disk, small_options(1)).expect("a fresh disk");
    disk.set_full(true);
    let full = (1..=groups).find(|&order| {
        stage(&engine, &nth_write(order)).expect("nobody has noticed yet");
        block_on(engine.commit()) == Err(CommitError::DiskFull)
    });
    (disk, engine, full)
}

/// What is staged when the disk is found full is not there any more, and nobody waits for it: an engine that was closed at that moment said that the device had failed.
#[test]
fn an_engine_that_finds_the_disk_full_when_it_is_closed_says_nothing_else() {
    let (_, _, full) = fill(1_000);
    let full = full.expect("a log has an end");
    let (_, engine, none) = fill(full - 1);
    assert_eq!(none, None);
    stage(&engine, &nth_write(full)).expect("nobody has noticed yet");
    let closed = block_on(engine.close()).map_err(|error| error.kind);
    assert_eq!((closed, engine.is_fenced()), (Err(DiskErrorKind::NoSpace), false));
}

/// A life that has no log of its own, since the disk was full when it began, leaves the end of the one it found as it was. Closed, it was taken for one that was killed, and that end was
/// told of once more (seed 51005050).
#[test]
fn a_cut_tail_is_told_of_once_though_the_disk_was_full_then() {
    let (disk, engine, full) = fill(1_000);
    assert!(full.is_some());
    drop(engine);
    let files = disk.list(Directory::Core(0)).into_iter().map(|(file, _)| file);
    let last =
        files.filter(|file| matches!(file, FileName::Segment { .. })).max().expect("a log has segments");
    let mut bytes = disk.read_all(last).expect("it is there");
    let end = bytes.iter().rposition(|byte| *byte != 0).expect("it was filled");
    bytes[end] ^= 1;
    disk.write_all(last, &bytes);
    let (engine, recovery) = open(&disk, small_options(2)).expect("it need not write");
    assert!(recovery.cut_tail.is_some(), "{recovery:?}");
    disk.set_full(false);
    block_on(engine.close()).expect("there is room for that");
    drop(engine);
    let (_, recovery) = open(&disk, small_options(3)).expect("no fault");
    assert_eq!((recovery.clean, recovery.cut_tail), (true, None));
}
