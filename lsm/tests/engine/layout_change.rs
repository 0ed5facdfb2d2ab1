//! Another number of cores: nothing is lost, nothing is rewritten, and a power cut at any step leaves one layout, whole.

use std::collections::{BTreeMap, BTreeSet};

use crate::rig::{self, Model, Random, TestEngine, VNODES, Write, apply, key, local_key, small_options};
use ferrite_lsm::layout::{self, Layout, Progress};
use ferrite_lsm::log::ASIDE_SLOT_MIN;
use ferrite_lsm::mem_disk::run::{block_on, try_run};
use ferrite_lsm::mem_disk::{CrashMode, Fault, MemDisk, MemPace};
use ferrite_lsm::{
    Direction, Directory, Engine, FileName, Key, KeyRange, OpenError, Options, Prefix, Record, RecordFlags,
    ScanLimits,
};
use std::ops::ControlFlow;

const STORES: u16 = 4;
const KEYS: u64 = 160;

fn options(core: u16, stores: Vec<u16>, entropy: u128) -> Options {
    // Some values lie apart from the tables, and are found where their tables are.
    Options { core, stores, large_value_bytes: Some(150), ..small_options(entropy) }
}

async fn change(disk: &MemDisk, cores: u16, entropy: u128) -> Result<Layout, OpenError> {
    let from = layout::find(disk).await?;
    if let Some(from) = &from {
        layout::clean(disk, &from.layout).await?;
        if from.layout.cores() == cores {
            return Ok(from.layout.clone());
        }
    }
    let opened = |core, stores| options(core, stores, entropy + u128::from(core) * 1_000_003);
    let pace = MemPace::new();
    Ok(layout::change(disk, &pace, from.as_ref(), (cores, STORES), opened, |_| {}).await?.layout)
}

/// A node: an engine per core.
struct Node {
    layout: Layout,
    engines: Vec<TestEngine>,
    /// The core of each vnode.
    core_of: BTreeMap<u16, usize>,
}

async fn start(disk: &MemDisk, cores: u16, entropy: u128) -> Result<Node, OpenError> {
    let layout = change(disk, cores, entropy).await?;
    let store_of: BTreeMap<u16, u16> = layout.vnodes().iter().copied().collect();
    let (mut engines, mut core_of) = (Vec::new(), BTreeMap::new());
    for index in 0..cores {
        let owned: Vec<u16> = (0..layout.stores()).filter(|store| store % cores == index).collect();
        let options = Options {
            layout: Some(layout.mark(index)),
            ..options(layout.core_number(index), owned.clone(), entropy + 77 + u128::from(index))
        };
        let (engine, _) = Engine::open(disk.clone(), MemPace::new(), options).await?;
        let place = |vnode: u16| store_of.get(&vnode).copied().unwrap_or(vnode % STORES);
        let mine: Vec<(u16, u16)> = (0..VNODES).map(|vnode| (vnode, place(vnode))).collect();
        let mine: Vec<(u16, u16)> = mine.into_iter().filter(|(_, store)| owned.contains(store)).collect();
        engine.assign(&mine).await?;
        core_of.extend(mine.iter().map(|&(vnode, _)| (vnode, usize::from(index))));
        engines.push(engine);
    }
    Ok(Node { layout, engines, core_of })
}

impl Node {
    fn engine(&self, n: u64) -> &TestEngine {
        &self.engines[self.core_of[&key(n).prefix.vnode]]
    }

    fn check(&self, model: &Model) -> Result<(), String> {
        for n in 0..KEYS {
            let key = key(n);
            let found =
                block_on(self.engine(n).read(key.as_key())).map_err(|error| format!("key {n}: {error}"))?;
            let found = found.map(|found| (found.record().order, found.record().value.to_vec()));
            let expected = model.get(&n).map(|write| (write.order, write.value()));
            if found != expected {
                return Err(format!(
                    "key {n}: {:?} instead of {:?}",
                    found.map(|f| f.0),
                    expected.map(|e| e.0)
                ));
            }
        }
        Ok(())
    }

    /// The bound that a core finds in the node's own space.
    fn bound(&self, index: usize) -> Option<u64> {
        let found = block_on(self.engines[index].read(local_key())).expect("no faults");
        found.map(|found| found.record().order)
    }

    fn write(&self, model: &mut Model, random: &mut Random, count: u64) {
        for _ in 0..count {
            let order = model.values().map(|write| write.order).max().unwrap_or(0) + 1;
            let write = Write {
                key: random.below(KEYS),
                order,
                actor: 1,
                bytes: random.below(600) as usize,
                tombstone: random.below(9) == 0,
            };
            let engine = self.engine(write.key);
            if rig::stage(engine, &write).is_err() {
                block_on(rig::run_jobs(engine)).expect("no faults");
                rig::stage(engine, &write).expect("jobs were done");
            }
            block_on(engine.commit()).expect("no faults");
            apply(model, write);
        }
    }

    fn raise_bound(&self, index: usize, order: u64) {
        let record = Record { order, actor: 0, flags: RecordFlags(0), expiry_ms: 0, value: b"" };
        self.engines[index].stage(local_key(), record, 0).expect("taken");
        block_on(self.engines[index].commit()).expect("no faults");
    }
}

fn tables(disk: &MemDisk) -> BTreeSet<FileName> {
    (0..STORES).flat_map(|store| disk.list(Directory::Store(store))).map(|(name, _)| name).collect()
}

/// A disk with data of two cores in tables, memtables and logs; the second core has the higher bound.
fn two_cores(seed: u64) -> (MemDisk, Model) {
    let (disk, mut model, mut random) = (MemDisk::new(), Model::new(), Random::new(seed));
    let node = block_on(start(&disk, 2, 1)).expect("a fresh disk");
    for round in 0..4 {
        node.write(&mut model, &mut random, 120);
        for engine in &node.engines {
            if round < 3 {
                block_on(rig::run_jobs(engine)).expect("no faults");
            }
        }
    }
    node.raise_bound(0, 500);
    node.raise_bound(1, 900);
    (disk, model)
}

#[test]
fn one_two_three_and_one_again_keep_everything_and_rewrite_no_table() {
    let (disk, mut model) = two_cores(3);
    let mut random = Random::new(8);
    for (round, cores) in [1, 2, 3, 1, 4, 2, 2].into_iter().enumerate() {
        let before = tables(&disk);
        let entropy = 1000 * (round as u128 + 1);
        let from = block_on(layout::find(&disk)).expect("no faults").expect("laid out").layout;
        let layout = block_on(change(&disk, cores, entropy)).expect("no faults");
        assert_eq!(layout.generation() > from.generation(), cores != from.cores());
        let after = tables(&disk);
        assert!(before.is_subset(&after), "no table is rewritten or removed");
        let found = block_on(layout::find(&disk)).expect("no faults");
        assert_eq!(found.map(|found| found.layout), Some(layout.clone()));

        let node = block_on(start(&disk, cores, entropy + 500)).expect("laid out");
        assert_eq!(node.layout, layout, "done once");
        node.check(&model).unwrap_or_else(|error| panic!("{cores} cores: {error}"));
        let bound = 900 + round as u64 * 10;
        for index in 0..usize::from(cores) {
            assert_eq!(node.bound(index), Some(bound), "core {index} of {cores} knows the highest bound");
        }
        // Only one core of them raises it, and the next layout's cores must know.
        node.raise_bound(usize::from(cores) - 1, bound + 10);
        node.write(&mut model, &mut random, 60);
        for (index, engine) in node.engines.iter().enumerate() {
            if index % 2 == 0 {
                block_on(rig::run_jobs(engine)).expect("no faults");
            }
        }
        node.check(&model).expect("no faults");
        if round == 5 {
            // The next round has the same layout: nothing hands the bound from one core to the other.
            node.raise_bound(0, bound + 10);
        }
    }
    let stray: Vec<_> = (0..8).flat_map(|core| disk.list(Directory::Core(core))).collect();
    let banked: Vec<_> = (0..8).flat_map(|core| disk.list(Directory::Core(layout::BANK + core))).collect();
    assert!(stray.is_empty() != banked.is_empty(), "one bank is left");
}

/// Changes from two cores to `cores` with the power cut at step `step`, then goes on.
fn cut_at(disk: &MemDisk, model: &Model, cores: u16, step: u64, mode: CrashMode) -> Result<bool, String> {
    let mut random = Random::new(step * 31 + 7);
    let disk = disk.image(CrashMode::All, &mut || 0);
    disk.crash_at(disk.steps() + step);
    let done = try_run(change(&disk, cores, 5_000)).is_some();
    let mut disk = disk.crash(mode, &mut || random.next());
    if step.is_multiple_of(3) {
        // And again, somewhere in the next attempt.
        disk.crash_at(disk.steps() + random.below(40));
        let _gone = try_run(change(&disk, cores, 6_000));
        disk = disk.crash(mode, &mut || random.next());
    }
    // With the old number, or with the new one, or with a third.
    let next = [2, cores, 3][(step % 3) as usize];
    let node = block_on(start(&disk, next, 7_000)).map_err(|error| format!("not started: {error}"))?;
    node.check(model)?;
    for index in 0..usize::from(next) {
        let bound = node.bound(index);
        if bound.is_none_or(|bound| bound < if next == 2 && !done { 500 } else { 900 })
            && node.layout.generation() > 1
        {
            return Err(format!("the bound of core {index} sank to {bound:?}"));
        }
    }
    Ok(done)
}

fn enumerate(cores: u16) -> Result<u64, String> {
    let (disk, model) = two_cores(5);
    let mut states = 0;
    for step in 0.. {
        let mut done = false;
        for mode in CrashMode::EVERY {
            done = cut_at(&disk, &model, cores, step, mode)
                .map_err(|error| format!("2 -> {cores}, step {step}, {mode:?}: {error}"))?;
            states += 1;
        }
        if done {
            return Ok(states);
        }
    }
    unreachable!("the change ends")
}

#[test]
fn a_power_cut_at_any_step_leaves_one_layout_whole() {
    for cores in [1, 3] {
        let states = enumerate(cores).unwrap_or_else(|error| panic!("{error}"));
        rig::count("crash states", states);
        assert!(states > 150, "{states} states");
    }
}

#[test]
fn a_failure_at_any_step_changes_nothing_or_everything() {
    let (sound, model) = two_cores(6);
    for fault in [Fault::NoSpace, Fault::Io] {
        for step in 0.. {
            let disk = sound.image(CrashMode::All, &mut || 0);
            let failing = disk.steps() + step;
            disk.fail_at(failing, fault);
            let done = block_on(change(&disk, 1, 5_000)).is_ok();
            if disk.steps() <= failing {
                assert!(done && step > 20, "{step} steps");
                rig::count("fail-at-N points", step);
                break;
            }
            let node = block_on(start(&disk, if step % 2 == 0 { 1 } else { 2 }, 7_000));
            let node = node.unwrap_or_else(|error| panic!("step {step}, {fault:?}: {error}"));
            node.check(&model).unwrap_or_else(|error| panic!("step {step}, {fault:?}: {error}"));
        }
    }
}

#[test]
fn what_happens_is_told_in_order() {
    let (disk, _) = two_cores(7);
    let from = block_on(layout::find(&disk)).expect("no faults");
    let mut told = Vec::new();
    let changed = block_on(layout::change(
        &disk,
        &MemPace::new(),
        from.as_ref(),
        (1, STORES),
        |core, stores| options(core, stores, 9),
        |progress| told.push(progress),
    ));
    assert_eq!(changed.expect("no faults").tables_written, 1);
    let recovered = |told: &Progress, at| matches!(told, Progress::Recovered { index, cores: 2, recovery, .. } if *index == at && recovery.replayed > 0);
    assert!(recovered(&told[0], 0) && recovered(&told[2], 1), "{told:?}");
    assert_eq!(told[1], Progress::Flushed { index: 0, cores: 2 });
    assert_eq!(told[3], Progress::Flushed { index: 1, cores: 2 });
    assert_eq!(told[4], Progress::Committed { cores: 1 });
    assert!(matches!(told[5], Progress::Cleaned { files } if files >= 4), "{told:?}");
}

/// A start that found damage in a core's log, and said that the file stays, removed it a moment later with the rest of the log, as its number
/// of cores was another one. And so did every later start with what earlier ones had set aside.
#[test]
fn files_of_the_log_in_which_damage_was_found_stay_in_the_directory_of_their_core() {
    let (disk, _) = two_cores(9);
    let is_evidence =
        |name: &FileName| matches!(name, FileName::Segment { slot, .. } if *slot >= ASIDE_SLOT_MIN);
    let files = |core| disk.list(Directory::Core(core)).into_iter().map(|(name, _)| name);
    let log = |core| files(core).filter(|name| matches!(name, FileName::Segment { .. }));
    let earlier = FileName::Segment { core: 1, slot: ASIDE_SLOT_MIN };
    disk.write_all(earlier, b"set aside before");
    // The first group after the header, of the oldest segment of the first core.
    let harmed = log(0).next().expect("it has a log");
    assert!(disk.corrupt(harmed, 4096 + 60, 1));
    let bytes = disk.read_all(harmed);
    let changed = |cores, entropy| block_on(change(&disk, cores, entropy)).expect("no faults");
    assert_eq!(changed(1, 5_000).cores(), 1);
    let aside = FileName::Segment { core: 0, slot: ASIDE_SLOT_MIN };
    for (round, cores) in [1, 3, 2, 2].into_iter().enumerate() {
        changed(cores, 6_000 + 100 * round as u128);
        assert!(disk.read_all(aside) == bytes, "round {round}");
        assert_eq!(disk.read_all(earlier).as_deref(), Some(&b"set aside before"[..]), "round {round}");
        block_on(start(&disk, cores, 7_000 + 100 * round as u128)).expect("they are in nobody's way");
    }
    assert_eq!(files(0).chain(files(1)).filter(is_evidence).count(), 2);
    assert_eq!(files(0).chain(files(1)).filter(|name| !is_evidence(name)).count(), 0, "the rest is gone");
}

#[test]
fn files_of_data_without_a_layout_are_refused() {
    let disk = MemDisk::new();
    let node = block_on(start(&disk, 1, 1)).expect("a fresh disk");
    let manifests = disk.list(Directory::Core(0));
    drop(node);
    for (name, _) in manifests.into_iter().filter(|(name, _)| matches!(name, FileName::Manifest { .. })) {
        block_on(ferrite_lsm::Disk::names(&disk, ferrite_lsm::NameOp::Unlink(name))).expect("no faults");
    }
    let refused = block_on(change(&disk, 1, 2)).err();
    assert!(matches!(refused, Some(OpenError::MissingManifest { .. })), "{refused:?}");
}

#[cfg(feature = "planted-bugs")]
mod planted {
    use crate::rig::planted::caught;
    use ferrite_lsm::planted::Bug;

    fn enumerate(cores: u64) -> Result<(), String> {
        super::enumerate(cores as u16).map(drop)
    }

    #[test]
    fn a_log_that_goes_before_the_new_layout_is_durable_is_caught() {
        caught(Bug::LogRetiredBeforeLayout, 1..2, enumerate);
    }

    #[test]
    fn a_change_of_the_core_count_that_forgets_a_log_is_caught() {
        caught(Bug::LayoutForgetsLog, 1..2, enumerate);
    }
}

fn queued(table: u32, token: u64) -> Key<'static> {
    Key { prefix: Prefix { space: 0, vnode: 9, table, token }, partition: b"", sort: b"" }
}

/// What cores of the node keep in queues of their own: one that was drained into another's is not lost, and not drained twice.
#[test]
fn queues_of_space_0_have_one_owner_and_what_was_retired_of_them_stays_behind() {
    let disk = MemDisk::new();
    let put = |engine: &TestEngine, key: Key<'_>, order: u64| {
        let record = Record { order, actor: 0, flags: RecordFlags(0), expiry_ms: 0, value: b"q" };
        engine.stage(key, record, 0).expect("taken");
        block_on(engine.commit()).expect("no faults");
    };
    let shown = |node: &Node, index: usize, table: u32| {
        let mut tokens = Vec::new();
        let keep = |key: Key<'_>, _: Record<'_>| {
            tokens.push(key.prefix.token);
            ControlFlow::Continue(())
        };
        let range = KeyRange::table(0, 9, table);
        let walk = node.engines[index].scan(&range, Direction::Forward, ScanLimits::records(100), keep);
        assert_eq!(block_on(walk).expect("no faults"), None);
        tokens
    };
    let node = block_on(start(&disk, 2, 1)).expect("a fresh disk");
    for index in 0..2u32 {
        let engine = &node.engines[index as usize];
        (1..=6).for_each(|token| put(engine, queued(index + 1, token), token));
        put(engine, queued(index + 1, 0), 2 + u64::from(index));
        block_on(rig::run_jobs(engine)).expect("no faults");
    }
    let node = block_on(start(&disk, 1, 1_000)).expect("laid out");
    // Its own home holds what it held; of the other's, what was retired stays behind.
    assert_eq!(shown(&node, 0, 1), [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(shown(&node, 0, 2), [0, 4, 5, 6]);
    // The one core drains some of the other's, and says so.
    put(&node.engines[0], queued(2, 0), 5);
    let node = block_on(start(&disk, 2, 2_000)).expect("laid out");
    assert_eq!(shown(&node, 0, 1), [0, 1, 2, 3, 4, 5, 6]);
    let left = shown(&node, 1, 2);
    assert!(left.contains(&6) && left.contains(&0), "{left:?}");
    let mark = block_on(node.engines[1].read(queued(2, 0))).expect("no faults").expect("it is there");
    assert_eq!(mark.record().order, 5, "the newest mark counts, whatever else comes to light again");
}

const QUEUED: u64 = 3_000;

/// Not to be made shorter by any compression.
fn value_of(token: u64) -> Vec<u8> {
    let mut random = Random::new(token);
    (0..15).flat_map(|_| random.next().to_le_bytes()).collect()
}

/// A disk with two cores, each of which has filled a queue: several batches, in tables and a log.
fn long_queues() -> MemDisk {
    let disk = MemDisk::new();
    let node = block_on(start(&disk, 2, 1)).expect("a fresh disk");
    for (engine, table) in node.engines.iter().zip(1..) {
        for token in 1..=QUEUED {
            let value = value_of(token);
            let record =
                Record { order: token, actor: 0, flags: RecordFlags(0), expiry_ms: 0, value: &value };
            if engine.stage(queued(table, token), record, 0).is_err() {
                block_on(engine.commit()).expect("no faults");
                block_on(rig::run_jobs(engine)).expect("no faults");
                engine.stage(queued(table, token), record, 0).expect("jobs were done");
            }
        }
        block_on(engine.commit()).expect("no faults");
    }
    disk
}

/// The tokens that a core shows of a queue, each with its value.
fn tokens(node: &Node, index: usize, table: u32) -> Vec<u64> {
    let mut tokens = Vec::new();
    let keep = |key: Key<'_>, record: Record<'_>| {
        assert!(record.value == value_of(key.prefix.token));
        tokens.push(key.prefix.token);
        ControlFlow::Continue(())
    };
    let range = KeyRange::table(0, 9, table);
    let walk = node.engines[index].scan(&range, Direction::Forward, ScanLimits::records(usize::MAX), keep);
    assert_eq!(block_on(walk).expect("no faults"), None);
    tokens
}

/// All of space 0 was held in memory at once, and more than a bound kept the node from starting.
#[test]
fn queues_of_any_length_go_to_their_new_owners_as_they_are_read() {
    let disk = long_queues();
    let all: Vec<u64> = (1..=QUEUED).collect();
    for (round, cores) in [(1, 1), (2, 3), (3, 2)] {
        let node = block_on(start(&disk, cores, 1_000 * round)).expect("laid out");
        for table in [1, 2] {
            let owner = (table as usize - 1) % usize::from(cores);
            assert!(tokens(&node, owner, table) == all, "queue {table} with {cores} cores");
        }
        for engine in &node.engines {
            block_on(rig::run_jobs(engine)).expect("no faults");
        }
    }
}

/// A damaged block of space 0 kept the node from any other number of cores, for ever.
#[test]
fn what_is_damaged_of_a_queue_is_passed_over_and_told_and_all_else_goes_on() {
    let disk = long_queues();
    let home = disk.list(Directory::Store(1)).into_iter();
    let tables = home.filter(|(name, _)| matches!(name, FileName::Table { .. }));
    let (table, bytes) = tables.max_by_key(|(_, bytes)| *bytes).expect("memtables were flushed");
    assert!(disk.corrupt(table, bytes / 3, 0x10));
    let from = block_on(layout::find(&disk)).expect("no faults");
    let mut told = 0;
    let changed = block_on(layout::change(
        &disk,
        &MemPace::new(),
        from.as_ref(),
        (1, STORES),
        |core, stores| options(core, stores, 9),
        |progress| told += u64::from(matches!(progress, Progress::PassedOver { index: 1, .. })),
    ));
    assert_eq!((changed.expect("all else is sound").passed_over, told), (1, 1));
    let node = block_on(start(&disk, 1, 1_000)).expect("laid out");
    assert!(tokens(&node, 0, 1) == (1..=QUEUED).collect::<Vec<u64>>(), "the other core's are whole");
    let left = tokens(&node, 0, 2);
    let (first, last) = (left.first(), left.last());
    assert_eq!((first, last), (Some(&1), Some(&QUEUED)), "what comes before and behind is there");
    assert!((QUEUED - 200..QUEUED).contains(&(left.len() as u64)), "{} of {QUEUED}", left.len());
}
