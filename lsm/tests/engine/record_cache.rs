//! The record cache ahead of the stores: who gets in, and that nothing which changes an answer leaves the old one there.

use std::future::Future;
use std::pin::Pin;

use crate::rig::{TestEngine, VNODES, Write, key, open, run_jobs, small_options, stage};
use ferrite_lsm::mem_disk::MemDisk;
use ferrite_lsm::mem_disk::run::{block_on, poll_once};
use ferrite_lsm::{Extent, Found, JoinByFlag, JoinSiblings, Miss, Options, ReadError, Record, RecordFlags};

const KEYS: u64 = 400;

fn options(entropy: u128) -> Options {
    Options { cache_bytes: 1 << 20, record_cache_bytes: Some(256 << 10), ..small_options(entropy) }
}

fn small(n: u64, order: u64) -> Write {
    Write { key: n, order, actor: 1, bytes: 60, tombstone: false }
}

fn write(engine: &TestEngine, write: &Write) {
    stage(engine, write).expect("background work keeps up");
    block_on(engine.commit()).expect("no faults");
}

/// Flushes everything: nothing of this table is there, and its drop freezes what the store has in memory.
fn settle(engine: &TestEngine) {
    for vnode in 0..VNODES {
        block_on(engine.drop_extent(Extent::table(vnode, 99))).expect("no faults");
    }
    block_on(run_jobs(engine)).expect("no faults");
}

/// An engine with [`KEYS`] records in tables, and none in its caches.
fn filled(options: Options) -> (MemDisk, TestEngine) {
    let disk = MemDisk::new();
    let (engine, _) = open(&disk, options).expect("a fresh disk");
    for n in 0..KEYS {
        write(&engine, &small(n, 1));
        block_on(run_jobs(&engine)).expect("no faults");
    }
    settle(&engine);
    (disk, engine)
}

type Seen = Option<(u64, bool, Vec<u8>)>;

fn seen(record: Option<Record<'_>>) -> Seen {
    record.map(|record| {
        assert_eq!(record.flags.0 & !RecordFlags::OUTSIDE, 0, "the engine's marks stay inside");
        (record.order, record.flags.0 & RecordFlags::TOMBSTONE != 0, record.value.to_vec())
    })
}

fn expected(write: &Write) -> Seen {
    Some((write.order, write.tombstone, write.value()))
}

fn get(engine: &TestEngine, n: u64) -> Result<Seen, Miss> {
    engine.get(key(n).as_key(), seen)
}

fn get_in_batch(engine: &TestEngine, n: u64) -> Result<Seen, Miss> {
    let key = key(n);
    let mut found = None;
    engine.get_batch(&[key.as_key()], |_, record| found = Some(record.map(seen)));
    found.expect("it was called")
}

fn read(engine: &TestEngine, n: u64) -> Seen {
    block_on(engine.read(key(n).as_key())).expect("no faults").and_then(|found| seen(Some(found.record())))
}

/// Whether the record cache answers for a key.
fn is_held(engine: &TestEngine, n: u64) -> bool {
    let before = engine.stats().record_cache_hits;
    get(engine, n).ok();
    engine.stats().record_cache_hits > before
}

#[test]
fn what_the_device_was_asked_for_enters_and_needs_no_block() {
    let (disk, engine) = filled(options(1));
    (0..KEYS).for_each(|n| assert_eq!(read(&engine, n), expected(&small(n, 1))));
    let stats = engine.stats();
    assert_eq!(stats.cached_records, KEYS);
    assert!(stats.memory.record_cache_bytes > KEYS * 100, "{stats:?}");
    let (reads, before) = (disk.counts().reads, stats);
    for n in 0..KEYS {
        assert_eq!(get(&engine, n), Ok(expected(&small(n, 1))), "key {n}");
        assert_eq!(get_in_batch(&engine, n), Ok(expected(&small(n, 1))), "key {n}, in a batch");
    }
    let after = engine.stats();
    assert_eq!(after.record_cache_hits - before.record_cache_hits, 2 * KEYS);
    assert_eq!((after.cache_hits, disk.counts().reads), (before.cache_hits, reads));
}

#[test]
fn of_what_cached_blocks_answer_one_in_eight_enters_and_what_memtables_answer_does_not() {
    let (_disk, engine) = filled(options(1));
    // One record of each block, and the others from the block.
    let mut from_blocks = 0;
    for n in 0..KEYS {
        if get(&engine, n).is_err() {
            read(&engine, n);
        } else {
            from_blocks += 1;
        }
    }
    let stats = engine.stats();
    assert!(from_blocks > KEYS / 2);
    let from_device = KEYS - from_blocks;
    assert_eq!(stats.cached_records, from_device + from_blocks / 8);
    for n in 0..100 {
        write(&engine, &small(n, 2));
        (0..20).for_each(|_| assert_eq!(get(&engine, n), Ok(expected(&small(n, 2)))));
        read(&engine, n);
    }
    assert_eq!(engine.stats().record_cache_hits, stats.record_cache_hits, "what is written is not here");
}

/// A write is in the memtable and not here, whoever wins; after its flush the newest version enters.
#[test]
fn a_write_is_seen_at_once_and_after_its_flush() {
    let (_disk, engine) = filled(options(1));
    (0..KEYS).for_each(|n| drop(read(&engine, n)));
    let writes: Vec<Write> = (0..40)
        .map(|n| match n % 4 {
            0 => small(n, 5),
            1 => Write { tombstone: true, ..small(n, 5) },
            // It comes late, and loses.
            2 => Write { actor: 0, ..small(n, 1) },
            _ => Write { bytes: 2_100, ..small(n, 5) },
        })
        .collect();
    for write in &writes {
        stage(&engine, write).expect("room");
        assert!(is_held(&engine, write.key), "what is staged is not there yet");
    }
    block_on(engine.commit()).expect("no faults");
    for flushed in [false, true] {
        for write in &writes {
            let n = write.key;
            let expected = expected(&if n % 4 == 2 { small(n, 1) } else { *write });
            assert!(!is_held(&engine, n), "key {n}, flushed: {flushed}");
            assert_eq!(read(&engine, n), expected, "key {n}");
            assert_eq!(get(&engine, n), Ok(expected.clone()), "key {n}");
            assert_eq!(get_in_batch(&engine, n), Ok(expected), "key {n}");
            // Records of more than 2 KiB stay out; what a memtable holds does, too.
            assert_eq!(is_held(&engine, n), flushed && n % 4 != 3, "key {n}, flushed: {flushed}");
        }
        settle(&engine);
    }
}

type Reading = Pin<Box<dyn Future<Output = Result<Option<Found>, ReadError>>>>;

/// A read waits for its block; meanwhile its key is written, and perhaps flushed, or its vnode is dropped and comes back. What it had is
/// old then, and must not enter behind the write.
#[test]
fn a_read_that_was_overtaken_does_not_enter() {
    for (flushes, drops) in [(false, false), (true, false), (false, true)] {
        let (disk, engine) = filled(options(1));
        let n = 8;
        let bystander = (9..KEYS).find(|n| key(*n).prefix.vnode != key(8).prefix.vnode).expect("one");
        disk.defer();
        let start = |n: u64| -> Reading { Box::pin(engine.read(key(n).as_key())) };
        let mut readings = [start(n), start(bystander)];
        readings.iter_mut().for_each(|reading| assert!(poll_once(reading.as_mut()).is_none()));
        let blocks: Vec<_> = disk.in_flight(None).iter().map(|op| op.id).collect();
        // Everything else goes on while the blocks are on their way.
        let go_on = |mut work: Pin<Box<dyn Future<Output = ()> + '_>>| {
            while poll_once(work.as_mut()).is_none() {
                let others = disk.in_flight(None).into_iter().map(|op| op.id);
                others.filter(|id| !blocks.contains(id)).for_each(|id| assert!(disk.complete(id)));
            }
        };
        if drops {
            let vnode = key(n).prefix.vnode;
            go_on(Box::pin(async {
                engine.drop_extent(Extent::vnode(vnode)).await.expect("no faults");
                engine.assign(&[(vnode, 3)]).await.expect("no faults");
            }));
        } else {
            stage(&engine, &small(n, 9)).expect("room");
            go_on(Box::pin(async { engine.commit().await.map(|_| ()).expect("no faults") }));
        }
        if flushes {
            let vnode = key(n).prefix.vnode;
            go_on(Box::pin(async {
                engine.drop_extent(Extent::table(vnode, 99)).await.expect("no faults");
                run_jobs(&engine).await.expect("no faults");
            }));
        }
        disk.complete_all();
        for reading in &mut readings {
            let found = poll_once(reading.as_mut()).expect("its block is there").expect("no faults");
            let old = found.expect("it was there when the read began");
            assert_eq!(old.record().order, 1);
        }
        let held = is_held(&engine, n);
        assert!(!held, "flushed: {flushes}, dropped: {drops}");
        let expected = if drops { None } else { expected(&small(n, 9)) };
        go_on(Box::pin(async {
            let found = engine.read(key(n).as_key()).await.expect("no faults");
            assert_eq!(found.and_then(|found| seen(Some(found.record()))), expected);
        }));
    }
}

#[test]
fn an_extent_that_is_dropped_or_ingested_is_forgotten_and_no_other() {
    let (_, source) = filled(options(7));
    let vnode = Extent::vnode(1);
    let of_vnode = |n: u64| key(n).prefix.vnode == 1;
    for n in (0..KEYS).filter(|&n| of_vnode(n)) {
        write(&source, &small(n, 5));
    }
    let exported = block_on(source.export(&vnode.range(), 8 << 20)).expect("no faults");
    assert!(exported.left.is_none());

    let (_disk, engine) = filled(options(1));
    let fill = || (0..KEYS).for_each(|n| drop(read(&engine, n)));
    fill();
    let mut ingest = block_on(engine.ingest(vnode, 5)).expect("no faults");
    block_on(ingest.add(&exported.chunk)).expect("what was exported");
    assert!((0..KEYS).all(|n| is_held(&engine, n)), "nothing is seen of it yet");
    block_on(ingest.finish()).expect("no faults");
    for n in 0..KEYS {
        assert_eq!(is_held(&engine, n), !of_vnode(n), "key {n}");
        let order = if of_vnode(n) { 5 } else { 1 };
        assert_eq!(read(&engine, n), expected(&small(n, order)), "key {n}");
        assert_eq!(get(&engine, n), Ok(expected(&small(n, order))), "key {n}");
    }
    assert!((0..KEYS).all(|n| is_held(&engine, n)));
    // What a move takes along says what it said.
    block_on(engine.move_vnode(2, 5)).expect("no faults");
    for n in 0..KEYS {
        let order = if of_vnode(n) { 5 } else { 1 };
        assert_eq!(get(&engine, n), Ok(expected(&small(n, order))), "key {n}");
    }
    block_on(engine.drop_extent(vnode)).expect("no faults");
    for n in 0..KEYS {
        let expected = if of_vnode(n) { None } else { expected(&small(n, 1)) };
        assert_eq!(is_held(&engine, n), !of_vnode(n), "key {n}");
        assert_eq!(get(&engine, n), Ok(expected), "key {n}");
    }
}

#[test]
fn sibling_sets_stay_out() {
    let join: JoinSiblings = |_, left, right, out| {
        let mut values: Vec<&[u8]> = left.value.chunks(1).chain(right.value.chunks(1)).collect();
        values.sort_unstable();
        values.dedup();
        out.order = left.order.max(right.order);
        out.actor = left.actor.max(right.actor);
        out.value = values.concat();
        ferrite_lsm::Joined::Both
    };
    let (_disk, engine) = filled(Options { join: JoinByFlag(join), ..options(1) });
    let n = KEYS + 5;
    for (order, value) in [(2, b"a"), (3, b"b")] {
        let flags = RecordFlags(RecordFlags::SIBLINGS);
        let record = Record { order, actor: 1, flags, expiry_ms: 0, value };
        read(&engine, n);
        engine.stage(key(n).as_key(), record, 0).expect("room");
        block_on(engine.commit()).expect("no faults");
        assert!(!is_held(&engine, n));
        settle(&engine);
    }
    for _ in 0..40 {
        let joined = read(&engine, n).expect("it is there");
        assert!(joined.2.contains(&b'a') && joined.2.contains(&b'b'));
        assert!(!is_held(&engine, n));
    }
}
