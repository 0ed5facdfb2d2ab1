//! Drops of vnodes and of tables in them: what is seen, what comes back, and what power cuts and faults leave.

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;

use crate::rig::{self, Random, TestEngine, VNODES, apart_options, run_jobs, small_options};
use ferrite_lsm::mem_disk::run::{block_on, poll_once};
use ferrite_lsm::mem_disk::{CrashMode, Fault, MemDisk, MemPace};
use ferrite_lsm::{
    AssignError, CommitError, Direction, DiskError, DiskErrorKind, Engine, Extent, IngestError, Key, KeyBuf,
    Options, Prefix, Record, RecordFlags, Refusal, ScanLimits, Strategy,
};

const KEYS: u64 = 120;
const TABLES: u32 = 2;

fn key(n: u64) -> KeyBuf {
    let (vnode, table) = ((n % u64::from(VNODES)) as u16, (n / u64::from(VNODES) % u64::from(TABLES)) as u32);
    let prefix = Prefix { space: 1, vnode, table, token: n.wrapping_mul(0x9e37_79b9_7f4a_7c15) };
    KeyBuf { prefix, partition: n.to_be_bytes()[..].into(), sort: Box::default() }
}

fn value(order: u64, bytes: usize) -> Vec<u8> {
    let mut value = order.to_le_bytes().to_vec();
    value.resize(8 + bytes, order as u8);
    value
}

fn extents() -> Vec<Extent> {
    let tables = |vnode| (0..TABLES).map(move |table| Extent::table(vnode, table));
    (0..VNODES).flat_map(|vnode| tables(vnode).chain([Extent::vnode(vnode)])).collect()
}

/// Order and length of what a key has.
type Model = BTreeMap<u64, (u64, usize)>;

fn drop_from(model: &mut Model, extent: Extent) {
    model.retain(|&n, _| !extent.contains(key(n).prefix));
}

struct Host {
    random: Random,
    clock: u64,
    model: Model,
    /// Everything ever staged.
    written: Vec<(u64, u64, usize)>,
}

impl Host {
    fn new(seed: u64) -> Host {
        Host { random: Random::new(seed), clock: 0, model: Model::new(), written: Vec::new() }
    }

    fn stage(&mut self, engine: &TestEngine) -> Result<(u64, u64, usize), Refusal> {
        self.clock += 1;
        let late = if self.random.below(8) == 0 { self.random.below(60) } else { 0 };
        let (n, order) = (self.random.below(KEYS), self.clock.saturating_sub(late) + 1);
        let bytes = self.random.below(600) as usize;
        let (key, value) = (key(n), value(order, bytes));
        // The actor tells the writes of one order apart.
        let record = Record { order, actor: self.clock, flags: RecordFlags(0), expiry_ms: 0, value: &value };
        engine.stage(key.as_key(), record, 0)?;
        self.written.push((n, order, bytes));
        Ok((n, order, bytes))
    }

    fn apply(&mut self, (n, order, bytes): (u64, u64, usize)) {
        let slot = self.model.entry(n).or_insert((order, bytes));
        if order >= slot.0 {
            *slot = (order, bytes);
        }
    }

    fn go_on(&mut self, engine: &TestEngine, groups: usize) {
        for _ in 0..groups {
            let mut staged = Vec::new();
            for _ in 0..5 {
                match self.stage(engine) {
                    Ok(write) => staged.push(write),
                    Err(refusal) => {
                        assert!(
                            matches!(refusal, Refusal::UnknownVnode | Refusal::Overloaded),
                            "{refusal:?}"
                        );
                    }
                }
            }
            block_on(engine.commit()).expect("no faults");
            staged.into_iter().for_each(|write| self.apply(write));
            if self.random.below(3) > 0 {
                block_on(run_jobs(engine)).expect("no faults");
            }
        }
    }
}

fn own(record: Record<'_>) -> (u64, usize) {
    assert_eq!(record.value, value(record.order, record.value.len() - 8), "a record is whole");
    (record.order, record.value.len() - 8)
}

fn lookup(engine: &TestEngine, n: u64) -> Option<(u64, usize)> {
    let key = key(n);
    let quick = engine.get(key.as_key(), |record| record.map(own));
    let slow = block_on(engine.read(key.as_key())).expect("no faults").map(|found| own(found.record()));
    if let Ok(quick) = quick {
        assert_eq!(quick, slow, "key {n}");
    }
    slow
}

fn scanned(engine: &TestEngine, direction: Direction) -> Model {
    let mut found = Model::new();
    for vnode in 0..VNODES {
        let mut show = |key: Key<'_>, record: Record<'_>| {
            let n = u64::from_be_bytes(key.partition.try_into().expect("8 bytes"));
            assert_eq!(found.insert(n, own(record)), None);
            ControlFlow::Continue(())
        };
        let limits = ScanLimits::records(usize::MAX);
        block_on(engine.scan(&Extent::vnode(vnode).range(), direction, limits, &mut show))
            .expect("no faults");
    }
    found
}

fn check(engine: &TestEngine, model: &Model) {
    let orders = |model: &Model| model.iter().map(|(n, (order, _))| (*n, *order)).collect::<Vec<_>>();
    for n in 0..KEYS {
        assert_eq!(lookup(engine, n).map(|found| found.0), model.get(&n).map(|entry| entry.0), "key {n}");
    }
    for direction in [Direction::Forward, Direction::Reverse] {
        assert_eq!(orders(&scanned(engine, direction)), orders(model), "{direction:?}");
    }
}

fn assign(engine: &TestEngine, random: &mut Random) {
    let homeless: Vec<u16> = (0..VNODES).filter(|vnode| engine.vnode_store(*vnode).is_none()).collect();
    for vnode in homeless {
        // Into either store, whichever it was in.
        let store = [3, 5][random.below(2) as usize];
        block_on(engine.assign(&[(vnode, store)])).expect("no faults");
    }
}

fn open(disk: &MemDisk, options: Options) -> TestEngine {
    block_on(Engine::open(disk.clone(), MemPace::yielding(3), options)).expect("nothing was damaged").0
}

fn histories(seeds: std::ops::Range<u64>, options: fn(u128) -> Options) -> Result<(), String> {
    for seed in seeds {
        let disk = MemDisk::new();
        let mut engine = open(&disk, options(1));
        let mut host = Host::new(seed);
        assign(&engine, &mut host.random);
        for round in 0..60 {
            let groups = host.random.below(12) as usize;
            host.go_on(&engine, groups);
            let extent = extents()[host.random.below(extents().len() as u64) as usize];
            match host.random.below(5) {
                0..=2 => {
                    block_on(engine.drop_extent(extent)).expect("no faults");
                    drop_from(&mut host.model, extent);
                    assert!(extent.table.is_some() || engine.vnode_store(extent.vnode).is_none());
                    assert_eq!(engine.estimate(extent).keys, 0, "{extent:?}");
                }
                3 => {
                    drop(engine);
                    let reopened = block_on(Engine::open(disk.clone(), MemPace::new(), options(round + 2)));
                    engine = reopened.map_err(|error| format!("seed {seed}: {error}"))?.0;
                    assign(&engine, &mut host.random);
                }
                _ => assign(&engine, &mut host.random),
            }
            let found = scanned(&engine, Direction::Forward);
            if let Some(n) = found.keys().find(|n| !host.model.contains_key(n)) {
                return Err(format!("seed {seed}, round {round}: key {n} came back"));
            }
            check(&engine, &host.model);
        }
    }
    Ok(())
}

#[test]
fn what_is_dropped_is_gone_and_the_rest_stays() {
    histories(0..12, small_options).expect("nothing comes back");
    histories(0..6, apart_options).expect("nothing comes back");
    histories(0..6, |entropy| Options { strategy: Strategy::Tiered, ..small_options(entropy) })
        .expect("nothing comes back");
}

#[test]
fn space_comes_back_and_the_drop_is_forgotten() {
    let disk = MemDisk::new();
    let engine = open(&disk, apart_options(1));
    let mut host = Host::new(3);
    assign(&engine, &mut host.random);
    host.go_on(&engine, 150);
    for extent in [Extent::table(0, 0), Extent::vnode(1), Extent::table(2, 1)] {
        block_on(engine.drop_extent(extent)).expect("no faults");
        drop_from(&mut host.model, extent);
    }
    // Everything that is left of the log goes into tables.
    block_on(engine.checkpoint(1)).expect("no faults");
    block_on(engine.remove_checkpoint(1)).expect("no faults");
    block_on(run_jobs(&engine)).expect("no faults");
    check(&engine, &host.model);
    for extent in [Extent::table(0, 0), Extent::vnode(1), Extent::table(2, 1)] {
        for store in [3, 5] {
            let files = disk.list(ferrite_lsm::Directory::Store(store));
            assert!(!files.is_empty());
        }
        block_on(engine.assign(&[(1, 3)])).expect("no faults");
        assert_eq!(
            engine.estimate(extent),
            ferrite_lsm::Estimate::default(),
            "no table holds anything of it"
        );
    }
    for vnode in 0..VNODES {
        block_on(engine.drop_extent(Extent::vnode(vnode))).expect("no faults");
    }
    block_on(run_jobs(&engine)).expect("no faults");
    let left: Vec<_> =
        [3, 5].into_iter().flat_map(|store| disk.list(ferrite_lsm::Directory::Store(store))).collect();
    assert_eq!(left, [], "no file is left of what is dropped");
}

#[test]
fn a_dropped_vnode_takes_no_writes_and_a_staged_one_goes_with_it() {
    let disk = MemDisk::new();
    let engine = open(&disk, small_options(1));
    block_on(engine.assign(&[(0, 3), (1, 5)])).expect("no faults");
    let record = |order, value| Record { order, actor: 1, flags: RecordFlags(0), expiry_ms: 0, value };
    engine.stage(key(0).as_key(), record(5, b"12345678"), 0).expect("taken");
    let last = engine.stage(key(1).as_key(), record(5, b"12345678"), 0).expect("taken");
    block_on(engine.drop_extent(Extent::vnode(0))).expect("no faults");
    assert_eq!(engine.stage(key(0).as_key(), record(6, b"v"), 0), Err(Refusal::UnknownVnode));
    // Its group is committed all the same; before that the vnode cannot be back.
    assert_eq!(block_on(engine.assign(&[(0, 5)])), Err(AssignError::Taken { vnode: 0 }));
    assert_eq!(block_on(engine.commit()), Ok(last));
    block_on(engine.assign(&[(0, 5)])).expect("no faults");
    engine.stage(key(1).as_key(), record(7, b"12345678"), 0).expect("taken");
    block_on(engine.commit()).expect("no faults");
    let order = |engine: &TestEngine, n| {
        let found = block_on(engine.read(key(n).as_key())).expect("no faults");
        found.map(|found| found.record().order)
    };
    assert_eq!((order(&engine, 0), order(&engine, 1)), (None, Some(7)));
    drop(engine);
    let engine = open(&disk, small_options(2));
    assert_eq!((order(&engine, 0), order(&engine, 1)), (None, Some(7)));
}

/// Numbers that a full disk gives back are given out again, and a drop holds for those that had been staged when it came. To assign
/// the vnode before they have passed was answered "no space", to which an operator would have added a disk.
#[test]
fn a_vnode_that_cannot_come_back_yet_is_taken_which_is_no_full_disk() {
    let disk = MemDisk::new();
    let engine = open(&disk, small_options(1));
    block_on(engine.assign(&[(0, 3), (1, 5)])).expect("no faults");
    let record = |order| Record { order, actor: 1, flags: RecordFlags(0), expiry_ms: 0, value: b"value" };
    engine.stage(key(0).as_key(), record(5), 0).expect("taken");
    engine.stage(key(1).as_key(), record(5), 0).expect("taken");
    block_on(engine.drop_extent(Extent::vnode(0))).expect("no faults");
    disk.fail_at(0, Fault::NoSpace);
    assert_eq!(block_on(engine.commit()), Err(CommitError::DiskFull));
    block_on(run_jobs(&engine)).expect("the fault is over");
    let taken = |engine: &TestEngine| {
        assert_eq!(block_on(engine.assign(&[(0, 5)])), Err(AssignError::Taken { vnode: 0 }));
        let ingest = block_on(engine.ingest(Extent::vnode(0), 5)).expect("it may begin");
        assert_eq!(block_on(ingest.finish()), Err(IngestError::Taken { vnode: 0 }));
        assert_eq!(engine.vnode_store(0), None);
    };
    for order in 6..8 {
        taken(&engine);
        engine.stage(key(1).as_key(), record(order), 0).expect("there is room");
        block_on(engine.commit()).expect("there is room");
    }
    assert_eq!(block_on(engine.assign(&[(0, 5)])), Ok(()), "what was told to be done was done");
    assert!(matches!(engine.get(key(0).as_key(), |record| record.is_none()), Ok(true)));
}

/// A vnode was back before what had been staged when it was dropped was committed. Where a full disk gave those numbers out again, the
/// vnode's next records had them: they were acknowledged, left out of memory as if they had been dropped, and dead in the log.
#[test]
fn a_vnode_is_not_back_before_the_numbers_of_its_drop_have_passed() {
    let disk = MemDisk::new();
    let engine = open(&disk, small_options(1));
    block_on(engine.assign(&[(0, 3), (1, 5)])).expect("no faults");
    let record = |order| Record { order, actor: 1, flags: RecordFlags(0), expiry_ms: 0, value: b"12345678" };
    let write = |n, order| {
        engine.stage(key(n).as_key(), record(order), 0).expect("there is room");
        block_on(engine.commit()).expect("there is room");
    };
    engine.stage(key(0).as_key(), record(5), 0).expect("taken");
    engine.stage(key(1).as_key(), record(5), 0).expect("taken");
    block_on(engine.drop_extent(Extent::vnode(0))).expect("no faults");
    let mut assigned = block_on(engine.assign(&[(0, 5)]));
    disk.fail_at(0, Fault::NoSpace);
    assert_eq!(block_on(engine.commit()), Err(CommitError::DiskFull));
    block_on(run_jobs(&engine)).expect("the fault is over");
    let mut order = 5;
    while assigned == Err(AssignError::Taken { vnode: 0 }) {
        order += 1;
        write(1, order);
        assigned = block_on(engine.assign(&[(0, 5)]));
    }
    write(0, 9);
    let orders = |engine: &TestEngine| {
        [0, 1].map(|n| {
            let found = block_on(engine.read(key(n).as_key())).expect("no faults");
            found.map(|found| found.record().order)
        })
    };
    assert_eq!((assigned, orders(&engine)), (Ok(()), [Some(9), Some(7)]));
    let left = open(&disk.kill(&mut || 0), small_options(2));
    assert_eq!(orders(&left), [Some(9), Some(7)]);
}

/// A full disk may say so and yet keep what was written, or some of it. Where it kept a drop, the vnode was gone from the disk and lived
/// on in memory: writes to it went on, and the next start found them with no vnode to put them into, and refused.
#[test]
fn a_drop_that_a_full_disk_kept_takes_no_writes_until_that_is_settled() {
    let (extent, mut doubted, mut kept) = (Extent::vnode(1), 0, 0);
    for (blocks, manifest_bytes_max) in [(0, 32 << 10), (usize::MAX, 32 << 10), (1, 0), (usize::MAX, 0)] {
        for settles in [false, true] {
            for n in 0.. {
                let options = |entropy| Options { manifest_bytes_max, ..small_options(entropy) };
                let disk = MemDisk::new();
                let engine = open(&disk, options(1));
                let mut host = Host::new(9);
                assign(&engine, &mut host.random);
                host.go_on(&engine, 20);
                let before = disk.steps();
                disk.fail_at(n, Fault::NoSpaceAfter { blocks });
                let dropped = block_on(engine.drop_extent(extent));
                if disk.steps() - before <= n {
                    assert_eq!(dropped, Ok(()));
                    rig::count("fail-at-N points", n);
                    break;
                }
                if dropped.is_ok() {
                    // A superseded manifest stays a while.
                    continue;
                }
                if settles {
                    block_on(run_jobs(&engine)).expect("there is room");
                }
                let (order, value) = (1 << 40, value(1 << 40, 9));
                let record = Record { order, actor: 1, flags: RecordFlags(0), expiry_ms: 0, value: &value };
                let staged = engine.stage(key(1).as_key(), record, 0);
                match staged {
                    Ok(_) => {
                        block_on(engine.commit()).expect("there is room");
                        host.model.insert(1, (order, 9));
                    }
                    Err(refusal) => {
                        assert_eq!((refusal, settles), (Refusal::DiskFull, false), "step {n}");
                        doubted += 1;
                    }
                }
                check(&engine, &host.model);
                drop(engine);
                let engine = open(&disk.kill(&mut || 0), options(2));
                if staged.is_err() && engine.vnode_store(1).is_none() {
                    kept += 1;
                    drop_from(&mut host.model, extent);
                }
                check(&engine, &host.model);
            }
        }
    }
    assert!(doubted > kept && kept > 4, "{doubted} in doubt, {kept} of them kept");
}

/// To stop waiting for a drop does not stop the disk: it is in doubt like one that failed.
#[test]
fn a_drop_that_nobody_waits_for_takes_no_writes_until_that_is_settled() {
    let disk = MemDisk::new();
    let engine = open(&disk, small_options(1));
    block_on(engine.assign(&[(0, 3), (1, 5)])).expect("no faults");
    disk.defer();
    let mut dropping = Box::pin(engine.drop_extent(Extent::vnode(0)));
    assert!(poll_once(dropping.as_mut()).is_none());
    drop(dropping);
    assert_eq!(disk.complete_all(), 1, "the manifest is written all the same");
    let record = Record { order: 5, actor: 1, flags: RecordFlags(0), expiry_ms: 0, value: b"12345678" };
    assert_eq!(engine.stage(key(0).as_key(), record, 0), Err(Refusal::Overloaded), "there is room");
    engine.stage(key(1).as_key(), record, 0).expect("of another vnode nothing is in doubt");
    let left = open(&disk.image(CrashMode::All, &mut || 0), small_options(2));
    assert_eq!((left.vnode_store(0), left.vnode_store(1)), (None, Some(5)));
    let mut settling = Box::pin(engine.run(engine.next_job().expect("it is to be settled")));
    while poll_once(settling.as_mut()).is_none() {
        disk.complete_all();
    }
    engine.stage(key(0).as_key(), record, 0).expect("it is settled");
    let left = open(&disk.image(CrashMode::None, &mut || 0), small_options(2));
    assert_eq!((left.vnode_store(0), left.vnode_store(1)), (Some(3), Some(5)));
}

/// The number of a drop is that of the last record staged, which need not be in the log. Given out again by a start that found the drop
/// and no log, it would hide what is written then.
#[test]
fn what_is_written_after_a_drop_that_a_full_disk_kept_stays() {
    let disk = MemDisk::new();
    let engine = open(&disk, small_options(1));
    block_on(engine.assign(&[(0, 3), (1, 5)])).expect("no faults");
    let record = |order| Record { order, actor: 1, flags: RecordFlags(0), expiry_ms: 0, value: b"12345678" };
    for n in [0, 1, 4] {
        engine.stage(key(n).as_key(), record(5), 0).expect("taken");
    }
    disk.fail_at(0, Fault::NoSpaceAfter { blocks: usize::MAX });
    let dropped = block_on(engine.drop_extent(Extent::vnode(0)));
    assert_eq!(dropped.map_err(|error| error.kind), Err(DiskErrorKind::NoSpace));
    drop(engine);
    let disk = disk.kill(&mut || 0);
    let engine = open(&disk, small_options(2));
    assert_eq!((engine.vnode_store(0), engine.vnode_store(1)), (None, Some(5)), "the disk kept it");
    block_on(engine.assign(&[(0, 3)])).expect("nothing is left of it");
    engine.stage(key(0).as_key(), record(6), 0).expect("taken");
    block_on(engine.commit()).expect("no faults");
    drop(engine);
    let engine = open(&disk.kill(&mut || 0), small_options(3));
    let order = |n| {
        let found = block_on(engine.read(key(n).as_key())).expect("no faults");
        found.map(|found| found.record().order)
    };
    assert_eq!([0, 1, 4].map(order), [Some(6), None, None]);
}

type Pending<T> = Option<Pin<Box<dyn Future<Output = T>>>>;

/// Writes, jobs and drops at once on a deferred disk; before each completion the power is cut in every mode.
fn cut_at_every_step(seed: u64, options: fn(u128) -> Options) -> (u64, u64) {
    let disk = MemDisk::new();
    let engine = open(&disk, options(1));
    let mut host = Host::new(seed);
    assign(&engine, &mut host.random);
    host.go_on(&engine, 60);
    disk.defer();
    let (mut job, mut commit, mut dropping): (Pending<Result<(), DiskError>>, Pending<()>, Pending<()>) =
        (None, None, None);
    let (mut staged, mut in_flight_extent) = (Vec::new(), None);
    let (mut images, mut drops, mut random) = (0, 0, Random::new(seed + 100));
    let plan = [Extent::table(0, 0), Extent::vnode(1), Extent::table(2, 1), Extent::vnode(3)];
    while drops < plan.len() || dropping.is_some() || job.is_some() || commit.is_some() {
        if commit.is_none() && drops < plan.len() {
            if let Ok(write) = host.stage(&engine) {
                staged.push((write, in_flight_extent));
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
        if dropping.is_none() && drops < plan.len() && random.below(20) == 0 {
            let (engine, extent) = (engine.clone(), plan[drops]);
            in_flight_extent = Some(extent);
            dropping = Some(Box::pin(async move { engine.drop_extent(extent).await.expect("no faults") }));
        }
        if commit.as_mut().and_then(|future| poll_once(future.as_mut())).is_some() {
            commit = None;
            for (write, _) in staged.drain(..) {
                host.apply(write);
            }
        }
        if dropping.as_mut().and_then(|future| poll_once(future.as_mut())).is_some() {
            dropping = None;
            drops += 1;
            in_flight_extent = None;
        }
        if job.as_mut().and_then(|future| poll_once(future.as_mut())).is_some() {
            job = None;
        }
        let dropped: Vec<Extent> =
            plan[..drops].iter().copied().filter(|extent| extent.table.is_none()).collect();
        for mode in CrashMode::EVERY {
            images += 1;
            let disk = disk.image(mode, &mut || random.next());
            let opened = block_on(Engine::open(disk, MemPace::new(), options(2)));
            let (engine, recovery) = opened.unwrap_or_else(|error| panic!("seed {seed}, {mode:?}: {error}"));
            assert!(recovery.damage.is_empty());
            for extent in &dropped {
                assert_eq!(engine.vnode_store(extent.vnode), None, "{extent:?} was answered for");
                block_on(engine.assign(&[(extent.vnode, 5)])).expect("no faults");
            }
            for n in 0..KEYS {
                let (found, prefix) = (lookup(&engine, n), key(n).prefix);
                let is_touched = |extent: &Extent| extent.contains(prefix);
                if dropped.iter().any(is_touched) {
                    assert_eq!(found, None, "seed {seed}, {mode:?}, key {n}");
                } else if !plan[..drops].iter().chain(&in_flight_extent).any(is_touched) {
                    let least = host.model.get(&n).map(|entry| entry.0);
                    assert!(found.map(|found| found.0) >= least, "seed {seed}, {mode:?}, key {n}: {found:?}");
                }
            }
        }
        let in_flight = disk.in_flight(None);
        if !in_flight.is_empty() {
            let chosen = in_flight[random.below(in_flight.len() as u64) as usize].id;
            assert!(disk.complete(chosen));
        }
    }
    (images, drops as u64)
}

#[test]
fn no_power_cut_brings_back_what_was_dropped() {
    for (seed, options) in [(1, small_options as fn(u128) -> Options), (2, apart_options)] {
        let (images, drops) = cut_at_every_step(seed, options);
        rig::count("crash states", images);
        assert!(images > 400 && drops == 4, "{images} images, {drops} drops");
    }
}

#[test]
fn a_fault_at_any_step_of_a_drop_leaves_all_or_nothing() {
    let part = |blocks| Fault::NoSpaceAfter { blocks };
    for fault in [Fault::NoSpace, part(1), part(usize::MAX), Fault::Io, Fault::Short] {
        for extent in [Extent::table(0, 0), Extent::vnode(1)] {
            for n in 0.. {
                let disk = MemDisk::new();
                let engine = open(&disk, apart_options(1));
                let mut host = Host::new(9);
                assign(&engine, &mut host.random);
                host.go_on(&engine, 40);
                let before = disk.steps();
                disk.fail_at(n, fault);
                let dropped = block_on(engine.drop_extent(extent));
                let trimmed = [(); 4].map(|()| block_on(run_jobs(&engine)))[3];
                let passed = disk.steps() - before <= n;
                if dropped.is_ok() {
                    drop_from(&mut host.model, extent);
                }
                check(&engine, &host.model);
                if !engine.is_fenced() && dropped.is_ok() {
                    assert_eq!(trimmed, Ok(()), "step {n}, {fault:?}");
                }
                if !engine.is_fenced() && dropped.is_err() {
                    block_on(engine.drop_extent(extent)).expect("the fault is over");
                    drop_from(&mut host.model, extent);
                    check(&engine, &host.model);
                }
                let is_doubtful = dropped.is_err() && engine.is_fenced();
                drop(engine);
                let engine = open(&disk.kill(&mut || 0), apart_options(2));
                if is_doubtful
                    && scanned(&engine, Direction::Forward).keys().all(|&n| !extent.contains(key(n).prefix))
                {
                    drop_from(&mut host.model, extent);
                }
                check(&engine, &host.model);
                if passed {
                    rig::count("fail-at-N points", n);
                    break;
                }
            }
        }
    }
}

#[cfg(feature = "planted-bugs")]
mod planted {
    use super::{histories, small_options};
    use crate::rig::planted::caught;
    use ferrite_lsm::planted::Bug;

    #[test]
    fn a_drop_that_forgets_the_log_is_caught() {
        caught(Bug::DropForgetsLog, 0..12, |seed| histories(seed..seed + 1, small_options).map(drop));
    }

    #[test]
    fn a_vnode_that_is_back_before_its_numbers_is_caught() {
        caught(Bug::BackBeforeItsNumbers, 0..1, |_| {
            super::a_vnode_is_not_back_before_the_numbers_of_its_drop_have_passed();
            Ok(())
        });
    }
}
