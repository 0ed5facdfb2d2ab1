//! A group that goes into the memtables in pieces: what may come between them, and what if nobody waits for the end.

use std::pin::Pin;

use crate::rig::{
    Model, TestEngine, Write, apply, check, key, lookup, open_with, run_jobs, small_options, stage,
};
use ferrite_lsm::mem_disk::run::{block_on, poll_once};
use ferrite_lsm::mem_disk::{CrashMode, MemDisk, MemPace};
use ferrite_lsm::{Extent, Job, Stats};

const KEYS: u64 = 200;
const VNODE: u16 = 1;

/// Has a merge be due, and a flush, by records of other keys.
fn make_due(engine: &TestEngine) {
    let mut order = 0;
    let mut write = || {
        order += 1;
        let write = Write { key: KEYS + order % 100, order, actor: 1, bytes: 400, tombstone: false };
        stage(engine, &write).expect("there is room");
        block_on(engine.commit()).expect("no faults");
    };
    while !engine.next_job().is_some_and(Job::is_compaction) {
        match engine.next_job() {
            Some(job) => block_on(engine.run(job)).expect("no faults"),
            None => write(),
        }
    }
    while engine.stats().frozen_bytes == 0 {
        write();
    }
}

/// An engine in which something always waits, jobs that are due among it, and a staged group of a record a key.
fn staged() -> (MemDisk, TestEngine, Model) {
    let disk = MemDisk::new();
    let opened = block_on(open_with(&disk, MemPace::yielding(1), small_options(1)));
    let (engine, _) = opened.expect("a fresh disk");
    make_due(&engine);
    let mut model = Model::new();
    for key in 0..KEYS {
        let write = Write { key, order: key + 1, actor: 1, bytes: 40, tombstone: false };
        stage(&engine, &write).expect("there is room");
        apply(&mut model, write);
    }
    (disk, engine, model)
}

fn found(engine: &TestEngine) -> u64 {
    (0..KEYS).filter(|&n| lookup(engine, n).is_some()).count() as u64
}

fn holds(engine: &TestEngine, model: &Model) -> bool {
    (0..KEYS).all(|n| lookup(engine, n).map(|found| found.0) == model.get(&n).map(|write| write.order))
}

/// A long group held up all else on its core until all of it was in memory, some milliseconds.
#[test]
fn others_run_while_a_group_is_applied() {
    let (_disk, engine, model) = staged();
    let mut commit = Box::pin(engine.commit());
    let mut seen = Vec::new();
    while poll_once(Pin::as_mut(&mut commit)).is_none() {
        seen.push(found(&engine));
    }
    seen.push(found(&engine));
    assert!(seen.is_sorted() && seen.len() > 4, "{seen:?}");
    assert!(seen.windows(2).all(|pair| pair[1] - pair[0] <= 32), "{seen:?}");
    assert_eq!(*seen.last().expect("one at least"), KEYS);
    check(&engine, &model, KEYS);
}

/// What a host may do beside a commit.
#[derive(Clone, Copy, Debug)]
enum Between {
    Drop,
    Move,
    Checkpoint,
    Jobs,
    Close,
}

#[test]
fn whatever_comes_between_two_pieces_of_a_group_it_is_whole_in_the_end() {
    for between in [Between::Drop, Between::Move, Between::Checkpoint, Between::Jobs, Between::Close] {
        for polls in 1.. {
            let (disk, engine, mut model) = staged();
            let mut commit = Box::pin(engine.commit());
            if (0..polls).any(|_| poll_once(Pin::as_mut(&mut commit)).is_some()) {
                assert!(polls > 4, "{polls} polls");
                break;
            }
            match between {
                Between::Drop => {
                    block_on(engine.drop_extent(Extent::vnode(VNODE))).expect("no faults");
                    model.retain(|&n, _| key(n).prefix.vnode != VNODE);
                }
                Between::Move => {
                    let to = if engine.vnode_store(VNODE) == Some(3) { 5 } else { 3 };
                    block_on(engine.move_vnode(VNODE, to)).expect("no faults");
                }
                Between::Checkpoint => block_on(engine.checkpoint(1)).expect("no faults"),
                Between::Jobs => {
                    let before = engine.stats();
                    block_on(run_jobs(&engine)).expect("no faults");
                    let after = engine.stats();
                    let merges = |stats: &Stats| stats.compactions + stats.moves;
                    assert!(after.flushes > before.flushes && merges(&after) > merges(&before));
                }
                Between::Close => {
                    let mut close = Box::pin(engine.close());
                    assert!(poll_once(Pin::as_mut(&mut close)).is_none(), "it waits for the group");
                    block_on(commit).expect("no faults");
                    block_on(close).expect("no faults");
                    commit = Box::pin(engine.commit());
                }
            }
            block_on(commit).expect("no faults");
            assert!(holds(&engine, &model), "{between:?} after {polls} polls");
            let left = disk.image(CrashMode::None, &mut || 0);
            let (again, _) = block_on(open_with(&left, MemPace::new(), small_options(2))).expect("no damage");
            assert!(holds(&again, &model), "{between:?} after {polls} polls, and a power cut");
        }
    }
}

/// The log has the whole group, and a start would show it; so does memory where its commit was given up half-way.
fn given_up(polls: usize) -> Result<bool, String> {
    let (_disk, engine, _) = staged();
    {
        let mut commit = Box::pin(engine.commit());
        if (0..polls).any(|_| poll_once(Pin::as_mut(&mut commit)).is_some()) {
            return Ok(false);
        }
    }
    match found(&engine) {
        KEYS => Ok(true),
        found => Err(format!("{found} of {KEYS} after {polls} polls")),
    }
}

#[test]
fn a_group_whose_commit_is_given_up_half_way_is_applied_all_the_same() {
    let ended = (1..).find(|&polls| !given_up(polls).expect("all of it")).expect("it ends");
    assert!(ended > 4, "{ended} polls");
}

#[cfg(feature = "planted-bugs")]
#[test]
fn a_group_left_half_applied_is_caught() {
    use ferrite_lsm::planted::Bug;

    crate::rig::planted::caught(Bug::AbandonedGroupHalfApplied, 1..2, |polls| {
        given_up(polls as usize).map(drop)
    });
}
