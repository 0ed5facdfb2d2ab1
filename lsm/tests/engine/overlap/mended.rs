//! What overlapping operations on vnodes once did wrong, by itself.

use std::future::Future;
use std::pin::Pin;

use crate::rig::{Model, TestEngine, Write, apply, check, key, lookup, open, run_jobs, small_options, stage};
use ferrite_lsm::mem_disk::run::{block_on, poll_once};
use ferrite_lsm::mem_disk::{CrashMode, MemDisk, MemPace};
use ferrite_lsm::{AssignError, Disk, Engine, Extent, IngestError, Options, Refusal};

const KEYS: u64 = 40;
/// Keys of vnode 1, which lives in store 5.
const VNODE: u16 = 1;
const KEY: u64 = 1;

struct Host {
    disk: MemDisk,
    engine: TestEngine,
    model: Model,
    order: u64,
}

impl Host {
    /// An engine that holds something, on a disk that does nothing by itself from here on.
    fn new(options: Options) -> Host {
        let disk = MemDisk::new();
        let (engine, _) = open(&disk, options).expect("a fresh disk");
        let mut host = Host { disk, engine, model: Model::new(), order: 0 };
        (0..KEYS).for_each(|n| host.write(n, 100));
        host.disk.defer();
        host
    }

    /// A write that is acknowledged, or refused for want of room. What else is under way is not polled meanwhile.
    fn write(&mut self, n: u64, bytes: usize) {
        self.order += 1;
        let write = Write { key: n, order: self.order, actor: 1, bytes, tombstone: false };
        if let Err(refusal) = stage(&self.engine, &write) {
            assert_eq!(refusal, Refusal::Overloaded);
            return;
        }
        let mut commit = Box::pin(self.engine.commit());
        while poll_once(commit.as_mut()).is_none() {
            self.disk.complete_all();
        }
        apply(&mut self.model, write);
    }

    /// The engine that a power cut leaves, with all that was synced and nothing else.
    fn cut(&self, options: Options) -> TestEngine {
        let left = self.disk.image(CrashMode::None, &mut || 0);
        block_on(Engine::open(left, MemPace::new(), options)).expect("a power cut is no damage").0
    }
}

type Doing<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Polls so many times, and lets the disk do everything in between; false if it ended before that.
fn goes_on<T>(disk: &MemDisk, doing: &mut Doing<'_, T>, polls: usize) -> bool {
    (0..polls).all(|_| {
        let is_pending = poll_once(doing.as_mut()).is_none();
        disk.complete_all();
        is_pending
    })
}

/// Polls until it has ended.
fn drive<T>(disk: &MemDisk, mut doing: Doing<'_, T>) -> T {
    loop {
        if let Some(done) = poll_once(doing.as_mut()) {
            return done;
        }
        disk.complete_all();
    }
}

/// Polls two operations by turns until both have ended.
fn both<A, B>(disk: &MemDisk, mut one: Doing<'_, A>, mut other: Doing<'_, B>) -> (A, B) {
    let (mut first, mut second) = (None, None);
    loop {
        // The other one is begun at this moment, before anything else happens.
        second = second.or_else(|| poll_once(other.as_mut()));
        first = first.or_else(|| poll_once(one.as_mut()));
        match (first, second) {
            (Some(first), Some(second)) => return (first, second),
            pending => (first, second) = pending,
        }
        disk.complete_all();
    }
}

/// A checkpoint froze what was in memory, and then waited for its turn to flush it. A move that had the turn took what was frozen of
/// its vnode over into the other store's memory, which nobody froze, and the flush left it out: the checkpoint lacked it.
#[test]
fn a_checkpoint_beside_a_move_holds_what_was_acknowledged() {
    for polls in 1.. {
        let mut host = Host::new(small_options(1));
        let engine = host.engine.clone();
        let mut moving: Doing<'_, _> = Box::pin(engine.move_vnode(VNODE, 3));
        if !goes_on(&host.disk, &mut moving, polls) {
            assert!(polls > 10, "the move took {polls} polls");
            return;
        }
        host.write(KEY, 50);
        let made = both(&host.disk, moving, Box::pin(engine.checkpoint(9)));
        assert_eq!(made, (Ok(()), Ok(())), "{polls} polls");
        let left = host.disk.image(CrashMode::None, &mut || 0);
        let (made, _) = open(&left.checkpoint(9), small_options(2)).expect("it opens by itself");
        assert_eq!(
            lookup(&made, KEY).map(|found| found.0),
            Some(host.order),
            "after {polls} polls of the move"
        );
        check(&made, &host.model, KEYS);
    }
}

/// What a move takes over in memory stands beside what its target has there. The target froze that while it waited, and once it
/// was flushed the manifest said that everything up to then was in the target's tables: after a power cut the log's records of the
/// vnode that had come over were left out.
#[test]
fn a_power_cut_after_a_move_keeps_what_was_written_during_its_last_part() {
    let options = |entropy| {
        let mut options = small_options(entropy);
        // The room that a move sets aside is a multiple of it.
        options.log.group_bytes = 8 << 10;
        options
    };
    let mut host = Host::new(options(1));
    let engine = host.engine.clone();
    let mut moving: Doing<'_, _> = Box::pin(engine.move_vnode(VNODE, 3));
    let mut polls = 0;
    while goes_on(&host.disk, &mut moving, 1) {
        // The last part begins with a freeze of all that is in memory, and ends with the vnode in its new store.
        if engine.stats().frozen_bytes > 0 && engine.vnode_store(VNODE) == Some(5) {
            polls += 1;
            host.write(KEY, 50);
            // Of a vnode that lives in the target, which is frozen for that, if it may be.
            (0..3).for_each(|_| host.write(4 * host.order, 1_800));
        }
    }
    drop(moving);
    assert!(polls > 10, "the last part took {polls} polls");
    drive(&host.disk, Box::pin(run_jobs(&engine))).expect("no faults");
    let left = host.cut(options(2));
    assert_eq!(left.vnode_store(VNODE), Some(3));
    check(&left, &host.model, KEYS);
}

/// What an ingest is about to bring may be older than a deletion that came here after it began. A merge purged the deletion, since nothing
/// here held its key, and what was deleted came with the ingest.
#[test]
fn a_deletion_is_not_purged_while_an_ingest_may_bring_what_it_deletes() {
    let donor = open(&MemDisk::new(), small_options(1)).expect("a fresh disk").0;
    let put = |engine: &TestEngine, write: Write| {
        stage(engine, &write).expect("jobs keep up");
        block_on(engine.commit()).expect("no faults");
        block_on(run_jobs(engine)).expect("no faults");
    };
    put(&donor, Write { key: KEY, order: 20, actor: 1, bytes: 50, tombstone: false });
    let chunk = block_on(donor.export(&Extent::vnode(VNODE).range(), 1000)).expect("no faults").chunk;

    let flat = Options { level_base_bytes: 1 << 20, ..small_options(1) };
    let engine = open(&MemDisk::new(), flat).expect("a fresh disk").0;
    let mut ingest = block_on(engine.ingest(Extent::vnode(VNODE), 5)).expect("no faults");
    block_on(ingest.add(&chunk)).expect("what was exported");
    // The other one is of a vnode in the same store that takes nothing in.
    let other = 3;
    for n in [KEY, other] {
        put(&engine, Write { key: n, order: 30, actor: 1, bytes: 0, tombstone: true });
    }
    (0..4).for_each(|vnode| engine.set_floor(vnode, 7, 30));
    for order in 31..71 {
        (40..48)
            .for_each(|n| put(&engine, Write { key: n, order, actor: 1, bytes: 4_000, tombstone: false }));
    }
    assert!(engine.stats().compactions > 2, "{:?}", engine.stats());
    assert_eq!(lookup(&engine, other), None, "merges did purge");
    let deletion = Some((30, 1, true, Vec::new()));
    assert_eq!(lookup(&engine, KEY), deletion);
    assert_eq!(block_on(ingest.finish()), Ok(1));
    assert_eq!(lookup(&engine, KEY), deletion, "what was deleted stays deleted");
}

/// An assignment during a drop of its vnode was told that the vnode has its store already. Then the drop was done, and the vnode,
/// assigned by all that its host knew, lived nowhere.
#[test]
fn an_assignment_during_a_drop_comes_after_it() {
    for polls in 1.. {
        let host = Host::new(small_options(1));
        let engine = &host.engine;
        let mut dropping: Doing<'_, _> = Box::pin(engine.drop_extent(Extent::vnode(VNODE)));
        if !goes_on(&host.disk, &mut dropping, polls) {
            assert!(polls > 2, "the drop took {polls} polls");
            return;
        }
        let done = both(&host.disk, dropping, Box::pin(engine.assign(&[(VNODE, 5)])));
        assert_eq!(done, (Ok(()), Ok(())));
        for engine in [engine, &host.cut(small_options(2))] {
            assert_eq!(engine.vnode_store(VNODE), Some(5), "assigned after {polls} polls of the drop");
            assert!(matches!(engine.get(key(KEY).as_key(), |found| found.is_none()), Ok(true)));
        }
    }
}

/// An assignment during a move of its vnode was told that the vnode stays where it was.
#[test]
fn an_assignment_during_a_move_is_told_where_the_vnode_went() {
    let mut elsewhere = 0;
    for polls in 1.. {
        let host = Host::new(small_options(1));
        let engine = &host.engine;
        let mut moving: Doing<'_, _> = Box::pin(engine.move_vnode(VNODE, 3));
        if !goes_on(&host.disk, &mut moving, polls) || engine.vnode_store(VNODE) != Some(5) {
            break;
        }
        let (moved, assigned) = both(&host.disk, moving, Box::pin(engine.assign(&[(VNODE, 5)])));
        assert_eq!((moved, engine.vnode_store(VNODE)), (Ok(()), Some(3)));
        match assigned {
            Ok(()) => assert_eq!(elsewhere, 0, "it came before the last part of the move, {polls} polls"),
            Err(AssignError::LivesElsewhere { vnode: VNODE, store: 3 }) => elsewhere += 1,
            Err(error) => panic!("{polls} polls: {error}"),
        }
        check(&host.cut(small_options(2)), &host.model, KEYS);
    }
    assert!(elsewhere > 3, "{elsewhere} times during the last part of the move");
}

/// An assignment at the end of an ingest gave the vnode another store than the one into which the ingest put its records, and they were
/// lost from sight.
#[test]
fn an_assignment_at_the_end_of_an_ingest_does_not_take_its_vnode_elsewhere() {
    let donor = Host::new(small_options(1));
    let range = Extent::vnode(VNODE).range();
    let exported = drive(&donor.disk, Box::pin(donor.engine.export(&range, 1 << 20)));
    let chunk = exported.expect("no faults").chunk;
    let (mut superseded, mut elsewhere) = (0, 0);
    for polls in 0.. {
        let disk = MemDisk::new();
        let opened = block_on(Engine::open(disk.clone(), MemPace::new(), small_options(2)));
        let engine = &opened.expect("a fresh disk").0;
        let mut ingest = block_on(engine.ingest(Extent::vnode(VNODE), 5)).expect("no faults");
        block_on(ingest.add(&chunk)).expect("what was exported");
        disk.defer();
        let mut finishing: Doing<'_, _> = Box::pin(ingest.finish());
        if !goes_on(&disk, &mut finishing, polls) {
            break;
        }
        let (finished, assigned) = both(&disk, finishing, Box::pin(engine.assign(&[(VNODE, 3)])));
        let found = match (finished, assigned) {
            (Err(IngestError::Superseded), Ok(())) => {
                superseded += 1;
                None
            }
            (Ok(records), Err(AssignError::LivesElsewhere { vnode: VNODE, store: 5 })) => {
                elsewhere += 1;
                assert_eq!(records, KEYS / 4);
                donor.model.get(&KEY).map(|write| write.order)
            }
            other => panic!("after {polls} polls of the end: {other:?}"),
        };
        let left = disk.image(CrashMode::None, &mut || 0);
        let opened = block_on(Engine::open(left, MemPace::new(), small_options(3)));
        let left = &opened.expect("a power cut is no damage").0;
        let store = if found.is_some() { 5 } else { 3 };
        assert_eq!(left.vnode_store(VNODE), Some(store));
        assert_eq!(lookup(left, KEY).map(|found| found.0), found, "after {polls} polls of the end");
    }
    assert!(superseded > 0 && elsewhere > 0, "{superseded} superseded, {elsewhere} elsewhere");
}

/// Records of a vnode that were staged before its drop go with it. Those whose group came back from the log while the drop wrote its
/// change went into the memtable behind the one that it had frozen, and were there again when the vnode was assigned to its store anew.
#[test]
fn what_arrives_while_its_vnode_is_dropped_does_not_come_back_with_it() {
    let mut taken = 0;
    for polls in 1.. {
        let mut host = Host::new(small_options(1));
        let engine = host.engine.clone();
        let write = Write { key: KEY, order: 1000, actor: 1, bytes: 50, tombstone: false };
        stage(&engine, &write).expect("there is room");
        let mut dropping: Doing<'_, _> = Box::pin(engine.drop_extent(Extent::vnode(VNODE)));
        if !goes_on(&host.disk, &mut dropping, polls) {
            assert!(polls > 2 && taken > 0, "the drop took {polls} polls, taken {taken} times");
            return;
        }
        // Of another vnode, in the same group, and behind what the drop is of.
        host.write(0, 50);
        while goes_on(&host.disk, &mut dropping, 1) {}
        let assigned = drive(&host.disk, Box::pin(engine.assign(&[(VNODE, 5)])));
        if assigned == Err(AssignError::Taken { vnode: VNODE }) {
            taken += 1;
            let jobs = drive(&host.disk, Box::pin(run_jobs(&engine)));
            jobs.expect("no faults");
            let again = Box::pin(engine.assign(&[(VNODE, 5)]));
            assert_eq!(drive(&host.disk, again), Ok(()), "the jobs are done");
        } else {
            assert_eq!(assigned, Ok(()));
        }
        let is_gone =
            |engine: &TestEngine| engine.get(key(KEY).as_key(), |found| found.is_none()) == Ok(true);
        assert!(is_gone(&engine), "it came back, {polls} polls of the drop before it");
        assert!(is_gone(&host.cut(small_options(2))), "{polls} polls");
    }
}

/// A record that was staged when its vnode was dropped is dead in the log by its number. A move before its group came back put the number
/// of what had been applied in place of the drop's, and the next start found the record alive. The vnode is not back before that now.
#[test]
fn a_move_takes_nothing_back_of_a_drop_before_it() {
    let mut host = Host::new(small_options(1));
    let engine = host.engine.clone();
    let write = Write { key: KEY, order: 1000, actor: 1, bytes: 50, tombstone: false };
    stage(&engine, &write).expect("there is room");
    assert_eq!(drive(&host.disk, Box::pin(engine.drop_extent(Extent::vnode(VNODE)))), Ok(()));
    let assigned = drive(&host.disk, Box::pin(engine.assign(&[(VNODE, 5)])));
    assert_eq!(assigned, Err(AssignError::Taken { vnode: VNODE }));
    // In the same group as what was dropped.
    host.write(0, 50);
    assert_eq!(drive(&host.disk, Box::pin(engine.assign(&[(VNODE, 5)]))), Ok(()));
    assert_eq!(drive(&host.disk, Box::pin(engine.move_vnode(VNODE, 3))), Ok(()));
    host.write(0, 50);
    for engine in [&engine, &host.cut(small_options(2))] {
        assert_eq!(engine.vnode_store(VNODE), Some(3));
        assert_eq!(lookup(engine, 0).map(|found| found.0), Some(host.order), "the group was committed");
        assert_eq!(lookup(engine, KEY), None, "what was dropped stays dropped");
    }
}

/// Each of these tests fails where its mend is taken out.
#[cfg(feature = "planted-bugs")]
mod planted {
    use crate::rig::planted::caught;
    use ferrite_lsm::planted::Bug;

    fn caught_by(bug: Bug, test: fn()) {
        caught(bug, 0..1, |_| {
            test();
            Ok(())
        });
    }

    #[test]
    fn a_checkpoint_without_the_turn_is_caught() {
        caught_by(Bug::FreezesBeforeTurn, super::a_checkpoint_beside_a_move_holds_what_was_acknowledged);
    }

    #[test]
    fn a_target_frozen_during_a_move_is_caught() {
        caught_by(
            Bug::MoveLetsTargetFreeze,
            super::a_power_cut_after_a_move_keeps_what_was_written_during_its_last_part,
        );
    }

    #[test]
    fn what_arrives_during_a_drop_and_comes_back_is_caught() {
        caught_by(
            Bug::DropOverlooksArrivals,
            super::what_arrives_while_its_vnode_is_dropped_does_not_come_back_with_it,
        );
    }

    #[test]
    fn a_move_before_the_numbers_of_a_drop_is_caught() {
        caught_by(Bug::BackBeforeItsNumbers, super::a_move_takes_nothing_back_of_a_drop_before_it);
    }

    #[test]
    fn a_purge_beside_an_ingest_is_caught() {
        caught_by(
            Bug::PurgeIgnoresIngest,
            super::a_deletion_is_not_purged_while_an_ingest_may_bring_what_it_deletes,
        );
    }

    #[test]
    fn an_assignment_without_the_turn_is_caught_beside_each_operation() {
        for test in [
            super::an_assignment_during_a_drop_comes_after_it,
            super::an_assignment_during_a_move_is_told_where_the_vnode_went,
            super::an_assignment_at_the_end_of_an_ingest_does_not_take_its_vnode_elsewhere,
        ] {
            caught_by(Bug::AssignTakesNoTurn, test);
        }
    }
}
