//! Changes of the manifest of which memory and the disk may not say the same: nobody waited for their end, or a full disk kept what it
//! said it had no room for. What is written after such a drop, what a start finds, which files and tables are left.

use std::future::Future;

use crate::abandon::{due, litter};
use crate::rig::{self, TestEngine, VNODES, Write, lookup, open, run_jobs, small_options, stage};
use ferrite_lsm::mem_disk::run::{block_on, poll_once};
use ferrite_lsm::mem_disk::{CrashMode, Fault, MemDisk, MemPace};
use ferrite_lsm::{
    Directory, DiskErrorKind, Engine, Extent, FileName, KeyBuf, Options, Record, RecordFlags, Refusal,
    Strategy,
};

/// Key 1 is of vnode 1, which lives in store 5.
const VNODE: u16 = 1;
const KEY: u64 = 1;
const KEYS: u64 = 24;
/// It lives nowhere.
const HOMELESS: u16 = 9;

/// Each change begins a new manifest.
fn options(entropy: u128) -> Options {
    Options { manifest_bytes_max: 0, ..small_options(entropy) }
}

/// What is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Assign,
    Ingest,
    IngestMore,
    Move,
    DropVnode,
    DropTable,
    Flush,
    Merge,
    Mark,
}

impl Change {
    /// Those of vnodes.
    const EVERY: [Change; 6] = [
        Change::Assign,
        Change::Ingest,
        Change::IngestMore,
        Change::Move,
        Change::DropVnode,
        Change::DropTable,
    ];
    /// Those of tables.
    const UPKEEP: [Change; 3] = [Change::Flush, Change::Merge, Change::Mark];

    /// An engine in which to make it.
    fn begin(self, disk: &MemDisk, options: Options) -> TestEngine {
        let (engine, _) = open(disk, options).expect("a fresh disk");
        (0..KEYS).for_each(|key| put(disk, &engine, key, 5).expect("there is room"));
        match self {
            Change::Ingest => block_on(engine.drop_extent(Extent::vnode(VNODE))).expect("no faults"),
            Change::Flush => {
                block_on(run_jobs(&engine)).expect("no faults");
                freeze(&engine);
            }
            Change::Merge => {
                for order in 6..9 {
                    freeze(&engine);
                    flush(&engine);
                    (0..KEYS).for_each(|key| put(disk, &engine, key, order).expect("there is room"));
                }
                while let Some(job) = engine.next_job().filter(|job| !job.is_compaction()) {
                    block_on(engine.run(job)).expect("no faults");
                }
                assert!(engine.next_job().is_some(), "a merge is due");
            }
            Change::Mark => {
                freeze(&engine);
                block_on(run_jobs(&engine)).expect("no faults");
                let tables = disk.list(Directory::Store(5)).into_iter();
                tables.for_each(|(table, _)| assert!(disk.corrupt(table, 40, 0x10), "the first block"));
                let read = |key| block_on(engine.read(rig::key(key).as_key()));
                assert!((0..KEYS).any(|key| read(key).is_err()));
            }
            Change::Assign | Change::IngestMore | Change::Move | Change::DropVnode | Change::DropTable => {}
        }
        engine
    }

    /// What a start shows of it.
    fn shown(self, engine: &TestEngine) -> String {
        match Change::UPKEEP.contains(&self) {
            true => format!("{:?}, {:?}", engine.stats().tables, engine.quarantined()),
            false => format!("{:?}", seen(engine)),
        }
    }

    /// A key that it is about.
    fn key(self) -> KeyBuf {
        let mut key = rig::key(KEY);
        if self == Change::Assign {
            key.prefix.vnode = HOMELESS;
        }
        key
    }

    /// Whether it was made.
    async fn make(self, engine: &TestEngine, chunk: &[u8]) -> bool {
        let extent = Extent::vnode(VNODE);
        match self {
            Change::Assign => engine.assign(&[(HOMELESS, 3)]).await.is_ok(),
            Change::Ingest | Change::IngestMore => {
                let mut ingest = engine.ingest(extent, 5).await.expect("reads do not fail");
                ingest.add(chunk).await.is_ok() && ingest.finish().await.is_ok()
            }
            Change::Move => engine.move_vnode(VNODE, 3).await.is_ok(),
            Change::DropVnode => engine.drop_extent(extent).await.is_ok(),
            Change::DropTable => engine.drop_extent(Extent::table(VNODE, 7)).await.is_ok(),
            Change::Flush => run_until(engine, |engine| engine.stats().flushes).await,
            Change::Merge => run_until(engine, |engine| engine.stats().compactions).await,
            Change::Mark => run_until(engine, |engine| engine.quarantined().len() as u64).await,
        }
    }
}

/// Runs jobs until one more of these is done, or one of the jobs fails.
async fn run_until(engine: &TestEngine, done: impl Fn(&TestEngine) -> u64) -> bool {
    let before = done(engine);
    while done(engine) == before {
        let job = engine.next_job().expect("it is due");
        if engine.run(job).await.is_err() {
            return false;
        }
    }
    true
}

/// Has store 5 freeze what it has in memory: nothing of this table is there.
fn freeze(engine: &TestEngine) {
    block_on(engine.drop_extent(Extent::table(VNODES - 1, 99))).expect("no faults");
}

fn flush(engine: &TestEngine) {
    assert!(block_on(run_until(engine, |engine| engine.stats().flushes)), "no faults");
}

/// What is taken in: newer versions of what is there.
fn chunk() -> Vec<u8> {
    let disk = MemDisk::new();
    let (donor, _) = open(&disk, small_options(9)).expect("a fresh disk");
    (0..KEYS).for_each(|key| put(&disk, &donor, key, 50).expect("there is room"));
    let exported = block_on(donor.export(&Extent::vnode(VNODE).range(), 4000)).expect("no faults");
    assert!(exported.left.is_none());
    exported.chunk
}

fn places(engine: &TestEngine) -> Vec<Option<u16>> {
    (0..=HOMELESS).map(|vnode| engine.vnode_store(vnode)).collect()
}

/// Where each vnode lives, and the order of what each key has.
type Seen = (Vec<Option<u16>>, Vec<Option<u64>>);

fn seen(engine: &TestEngine) -> Seen {
    (places(engine), (0..KEYS).map(|key| lookup(engine, key).map(|found| found.0)).collect())
}

/// Polls so often, has the disk do everything in between, and then waits no more; false if it ended before that.
fn is_left<T>(disk: &MemDisk, doing: impl Future<Output = T>, polls: usize) -> bool {
    let mut doing = Box::pin(doing);
    (0..polls).all(|_| {
        let is_pending = poll_once(doing.as_mut()).is_none();
        disk.complete_all();
        is_pending
    })
}

/// Polls to the end.
pub(crate) fn drive<T>(disk: &MemDisk, doing: impl Future<Output = T>) -> T {
    let mut doing = Box::pin(doing);
    loop {
        if let Some(done) = poll_once(doing.as_mut()) {
            return done;
        }
        disk.complete_all();
    }
}

fn put(disk: &MemDisk, engine: &TestEngine, key: u64, order: u64) -> Result<(), Refusal> {
    stage(engine, &Write { key, order, actor: 1, bytes: 50, tombstone: false })?;
    drive(disk, engine.commit()).expect("no faults");
    Ok(())
}

/// The engine that a power cut leaves.
fn cut(disk: &MemDisk, mode: CrashMode, what: &str) -> TestEngine {
    let left = disk.image(mode, &mut || 0);
    let opened = block_on(Engine::open(left, MemPace::new(), options(2)));
    opened.unwrap_or_else(|error| panic!("{what}: {error}")).0
}

/// A change showed in memory before the manifest that it had superseded was removed. A drop that nobody waited for any more just then
/// was taken for settled by the next change while its vnode still took writes, and the next start refused to put them anywhere.
#[test]
fn a_drop_that_is_left_at_any_moment_loses_no_write_after_it() {
    let (mut lived, mut polls) = (0, 1);
    loop {
        let disk = MemDisk::new();
        let (engine, _) = open(&disk, options(1)).expect("a fresh disk");
        put(&disk, &engine, KEY, 5).expect("there is room");
        disk.defer();
        if !is_left(&disk, engine.drop_extent(Extent::vnode(VNODE)), polls) {
            break;
        }
        let what = format!("left after {polls} polls");
        drive(&disk, run_jobs(&engine)).expect("no faults");
        let written = put(&disk, &engine, KEY, 9);
        assert_eq!((written, engine.vnode_store(VNODE)), (Ok(()), Some(5)), "{what}");
        lived += 1;
        let left = cut(&disk, CrashMode::None, &what);
        assert_eq!(left.vnode_store(VNODE), Some(5), "{what}");
        assert_eq!(lookup(&left, KEY).map(|found| found.0), Some(9), "{what}");
        polls += 1;
    }
    // It is created, written, synced, named, marked, and the one before it unlinked for good.
    assert!(lived > 6, "left {lived} times");
}

/// A drop that nobody waited for any more refused the writes of its vnode as a full disk, until whatever else was due had been done.
#[test]
fn a_drop_that_nobody_waits_for_is_overload_until_the_next_job() {
    let mut refused = 0;
    for polls in 1.. {
        let what = format!("left after {polls} polls");
        let disk = MemDisk::new();
        let (engine, _) = open(&disk, options(1)).expect("a fresh disk");
        put(&disk, &engine, KEY, 5).expect("there is room");
        drop(engine);
        // This is to be swept.
        let stray = FileName::Table { store: 3, number: 1 << 20 };
        disk.write_all(stray, &[0; 4096]);
        let (engine, _) = open(&disk, options(2)).expect("no faults");
        disk.defer();
        if !is_left(&disk, engine.drop_extent(Extent::vnode(VNODE)), polls) {
            break;
        }
        match put(&disk, &engine, KEY, 8) {
            Ok(()) => {}
            Err(refusal) => {
                assert_eq!((refusal, engine.stats().disk_full), (Refusal::Overloaded, false), "{what}");
                refused += 1;
            }
        }
        let job = engine.next_job().expect("there is a stray file at least");
        drive(&disk, engine.run(job)).expect("no faults");
        assert_eq!(put(&disk, &engine, KEY, 9), Ok(()), "{what}");
        let left = cut(&disk, CrashMode::None, &what);
        assert_eq!(lookup(&left, KEY).map(|found| found.0), Some(9), "{what}");
    }
    assert!(refused > 3, "refused {refused} times");
}

/// Does every job that is due. After each of them everything that a start may find named is there.
fn settle(disk: &MemDisk, engine: &TestEngine, what: &str) {
    while let Some(job) = engine.next_job() {
        drive(disk, engine.run(job)).unwrap_or_else(|error| panic!("{what}: {error}"));
        cut(disk, CrashMode::All, what);
    }
    assert!(!engine.is_fenced(), "{what}");
    assert_eq!(litter(disk, engine), 0, "{what}");
}

/// Of all changes only drops of vnodes were settled. Any other could be found made by a start long after its failure had been told and the
/// disk had had room again.
#[test]
fn a_change_that_a_full_disk_kept_is_not_found_once_there_is_room() {
    let chunk = chunk();
    for change in Change::EVERY {
        let mut kept = 0;
        for manifest_bytes_max in [32 << 10, 0] {
            for n in 0.. {
                let what = format!("{change:?}, step {n}");
                let disk = MemDisk::new();
                let engine = change.begin(&disk, Options { manifest_bytes_max, ..small_options(1) });
                let (was, before) = (seen(&engine), disk.steps());
                disk.fail_at(n, Fault::NoSpaceAfter { blocks: usize::MAX });
                let is_made = block_on(change.make(&engine, &chunk));
                if disk.steps() - before <= n {
                    assert!(is_made, "{what}");
                    rig::count("fail-at-N points", n);
                    break;
                }
                if is_made {
                    // A superseded manifest stays a while.
                    continue;
                }
                assert_eq!(seen(&engine), was, "{what}");
                kept += usize::from(seen(&cut(&disk, CrashMode::All, &what)) != was);
                settle(&disk, &engine, &what);
                drop(engine);
                let left = block_on(Engine::open(disk.kill(&mut || 0), MemPace::new(), options(2)));
                assert_eq!(seen(&left.expect("nothing was damaged").0), was, "{what}");
            }
        }
        assert!(kept > 1, "{change:?}: {kept} were kept");
    }
}

/// Whatever a start finds made, it has a place for what was acknowledged while that was in doubt.
#[test]
fn what_is_written_while_a_change_is_in_doubt_stays() {
    let chunk = chunk();
    for change in Change::EVERY.into_iter().chain(Change::UPKEEP) {
        let (mut kept, mut taken) = (0, 0);
        for n in 0.. {
            let what = format!("{change:?}, step {n}");
            let disk = MemDisk::new();
            let engine = change.begin(&disk, small_options(1));
            let (was, before) = (change.shown(&engine), disk.steps());
            disk.fail_at(n, Fault::NoSpaceAfter { blocks: usize::MAX });
            let is_made = block_on(change.make(&engine, &chunk));
            if disk.steps() - before <= n {
                break;
            }
            let is_kept = !is_made && change.shown(&cut(&disk, CrashMode::All, &what)) != was;
            kept += usize::from(is_kept);
            let key = change.key();
            let record = Record { order: 99, actor: 1, flags: RecordFlags(0), expiry_ms: 0, value: b"new" };
            match engine.stage(key.as_key(), record, 1) {
                Ok(_) => {
                    drive(&disk, engine.commit()).expect("no faults");
                    let left = cut(&disk, CrashMode::All, &what);
                    let found = block_on(left.read(key.as_key())).expect("it is newer than what was lost");
                    assert_eq!(found.map(|found| found.record().order), Some(99), "{what}");
                    taken += usize::from(is_kept);
                }
                Err(Refusal::DiskFull) => assert_eq!(change, Change::DropVnode, "{what}"),
                Err(refusal) => {
                    let lives_in = engine.vnode_store(key.prefix.vnode);
                    assert_eq!((refusal, lives_in), (Refusal::UnknownVnode, None), "{what}");
                }
            }
        }
        assert!(kept > 0, "{change:?}: none was kept");
        let goes_on = !matches!(change, Change::Assign | Change::Ingest | Change::DropVnode);
        assert_eq!(taken, if goes_on { kept } else { 0 }, "{change:?}: writes beside it");
    }
}

/// A change that nobody waited for any more was not settled, and the tables that it had written stayed open, and on the disk, until the
/// next start.
#[test]
fn a_change_that_is_left_at_any_moment_is_not_found_and_leaves_no_table() {
    let chunk = chunk();
    for change in Change::EVERY {
        let (mut kept, mut polls) = (0, 1);
        loop {
            let what = format!("{change:?}, left after {polls} polls");
            let disk = MemDisk::new();
            let engine = change.begin(&disk, options(1));
            let (_, content) = seen(&engine);
            disk.defer();
            if !is_left(&disk, change.make(&engine, &chunk), polls) {
                break;
            }
            // The end of a move is not waited for: it has moved then.
            let now = (places(&engine), content);
            kept += usize::from(seen(&cut(&disk, CrashMode::All, &what)) != now);
            settle(&disk, &engine, &what);
            let left = cut(&disk, CrashMode::None, &what);
            assert_eq!(seen(&left), now, "{what}");
            let (there, open) = (left.stats().memory.table_bytes, engine.stats().memory.table_bytes);
            assert_eq!(open, there, "{what}: bytes of open tables");
            polls += 1;
        }
        assert!(kept > 1, "{change:?}: {kept} were kept in {polls} polls");
    }
}

#[test]
fn a_merge_that_is_left_at_any_moment_leaves_no_table() {
    for polls in 1.. {
        let what = format!("left after {polls} polls");
        let (disk, engine, _) = due(Strategy::Leveled);
        let was = seen(&engine);
        let job = engine.next_job().expect("a merge is due");
        disk.defer();
        if !is_left(&disk, engine.run(job), polls) {
            assert!(polls > 20, "it took {polls} polls");
            break;
        }
        settle(&disk, &engine, &what);
        let left = cut(&disk, CrashMode::None, &what);
        assert_eq!(seen(&left), was, "{what}");
        let (there, open) = (left.stats().memory.table_bytes, engine.stats().memory.table_bytes);
        assert_eq!(open, there, "{what}: bytes of open tables");
    }
}

/// A vnode is assigned to where it lives, moved there, or dropped where it lives nowhere, without a change. While memory alone says so, that
/// was answered for all the same, and the next start said something else.
#[test]
fn what_is_so_already_is_answered_for_when_the_disk_says_so_too() {
    let chunk = chunk();
    type Asks<'a> = &'a dyn Fn(&TestEngine) -> bool;
    let asks: [(Change, Asks<'_>); 4] = [
        (Change::Move, &|engine| block_on(engine.assign(&[(VNODE, 5)])).is_ok()),
        (Change::Move, &|engine| block_on(engine.move_vnode(VNODE, 5)).is_ok()),
        (Change::Ingest, &|engine| block_on(engine.drop_extent(Extent::vnode(VNODE))).is_ok()),
        (Change::Assign, &|engine| block_on(engine.drop_extent(Extent::vnode(HOMELESS))).is_ok()),
    ];
    for (at, (change, ask)) in asks.into_iter().enumerate() {
        let mut kept = 0;
        for n in 0.. {
            let what = format!("{at}, step {n}");
            let disk = MemDisk::new();
            let engine = change.begin(&disk, options(1));
            let (was, before) = (seen(&engine), disk.steps());
            disk.fail_at(n, Fault::NoSpaceAfter { blocks: usize::MAX });
            let is_made = block_on(change.make(&engine, &chunk));
            if disk.steps() - before <= n {
                break;
            }
            if is_made {
                continue;
            }
            kept += usize::from(seen(&cut(&disk, CrashMode::All, &what)) != was);
            assert!(ask(&engine), "{what}: there is room");
            assert_eq!(seen(&cut(&disk, CrashMode::None, &what)), was, "{what}");
        }
        assert!(kept > 1, "{at}: {kept} were kept");
    }
}

/// A log that had no room for its next segment held up what is in doubt, which takes less.
#[test]
fn a_change_in_doubt_is_settled_where_a_log_segment_has_no_room() {
    let disk = MemDisk::new();
    let engine = Change::Assign.begin(&disk, Options { memtable_bytes: 1 << 20, ..small_options(1) });
    block_on(run_jobs(&engine)).expect("there is room");
    disk.limit_zeroed(0);
    for order in 6.. {
        put(&disk, &engine, 0, order).expect("the segment at hand has room");
        if let Some(job) = engine.next_job() {
            let failed = block_on(engine.run(job)).expect_err("it is the next segment that is due");
            assert_eq!(failed.kind, DiskErrorKind::NoSpace);
            break;
        }
    }
    let was = seen(&engine);
    disk.fail_at(0, Fault::NoSpaceAfter { blocks: usize::MAX });
    assert!(!block_on(Change::Assign.make(&engine, &[])), "there is no room");
    assert_ne!(seen(&cut(&disk, CrashMode::All, "kept")), was);
    let job = engine.next_job().expect("it is to be settled");
    block_on(engine.run(job)).expect_err("the segment has no room yet");
    assert_eq!(seen(&cut(&disk, CrashMode::All, "settled")), was);
}

#[cfg(feature = "planted-bugs")]
#[test]
fn a_doubt_that_is_taken_for_settled_is_caught() {
    rig::planted::caught(ferrite_lsm::planted::Bug::DoubtTakenForSettled, 0..1, |_| {
        a_change_that_a_full_disk_kept_is_not_found_once_there_is_room();
        Ok(())
    });
}
