//! Scans against a map: both directions, every kind of range, while the engine goes on underneath.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use crate::rig::{Random, TestEngine, VNODES, open, run_jobs, small_options};
use ferrite_lsm::mem_disk::run::{block_on, poll_once};
use ferrite_lsm::mem_disk::{MemDisk, ReadFault};
use ferrite_lsm::{Direction, Key, KeyBuf, KeyRange, Prefix, ReadError, Record, RecordFlags, ScanLimits};

type Model = BTreeMap<KeyBuf, (u64, Vec<u8>)>;

const TABLES: u64 = 3;

/// Keys of few partitions with many sort keys, over some tables and vnodes; many share a token.
fn key(n: u64) -> KeyBuf {
    let partition = n / 40;
    let prefix = Prefix {
        space: 1,
        vnode: (partition % u64::from(VNODES)) as u16,
        table: (partition / 4 % TABLES) as u32,
        token: (partition % 5).wrapping_mul(0x3333_3333_3333_3333),
    };
    let partition = format!("partition {}", partition / 7).into_bytes().into();
    KeyBuf { prefix, partition, sort: (n % 40).to_be_bytes()[8 - (n % 3) as usize - 1..].into() }
}

fn put(engine: &TestEngine, model: &mut Model, key: KeyBuf, order: u64, len: usize) {
    let value = vec![order as u8; len];
    let record = Record { order, actor: 1, flags: RecordFlags(0), expiry_ms: 0, value: &value };
    while engine.stage(key.as_key(), record, 0).is_err() {
        block_on(engine.commit()).expect("no faults");
        block_on(run_jobs(engine)).expect("no faults");
    }
    model.insert(key, (order, value));
}

fn ranges(random: &mut Random, keys: u64) -> KeyRange {
    let vnode = random.below(u64::from(VNODES)) as u16;
    let some = key(random.below(keys));
    match random.below(5) {
        0 => KeyRange::vnode(1, vnode),
        1 => KeyRange::table(1, vnode, random.below(TABLES) as u32),
        2 => KeyRange::partition(some.prefix, &some.partition),
        3 => KeyRange::vnode(1, some.prefix.vnode).after(&some.as_key()),
        _ => KeyRange::table(1, some.prefix.vnode, some.prefix.table).before(&some.as_key()),
    }
}

type Shown = Vec<(KeyBuf, (u64, Vec<u8>))>;

/// Walks a range in pieces of at most `records`.
fn walk(engine: &TestEngine, range: &KeyRange, direction: Direction, records: usize) -> Shown {
    let mut shown = Shown::new();
    let mut left = Some(range.clone());
    while let Some(range) = left {
        let before = shown.len();
        let visit = |key: Key<'_>, record: Record<'_>| {
            assert_eq!(record.flags.0 & !RecordFlags::OUTSIDE, 0, "the engine's marks stay inside");
            shown.push((key.to_buf(), (record.order, record.value.to_vec())));
            ControlFlow::Continue(())
        };
        left =
            block_on(engine.scan(&range, direction, ScanLimits::records(records), visit)).expect("no faults");
        assert!(shown.len() - before <= records);
        assert!(left.is_none() || shown.len() - before == records, "it ends early at a limit only");
        if let Some(left) = &left {
            // As a caller keeps it between requests.
            let mut bytes = Vec::new();
            left.encode(&mut bytes);
            assert_eq!(KeyRange::decode(&bytes).as_ref(), Some(left));
        }
    }
    shown
}

fn expected(model: &Model, range: &KeyRange, direction: Direction) -> Shown {
    let inside = model.iter().filter(|(key, _)| range.contains(&key.as_key()));
    let mut expected: Shown = inside.map(|(key, value)| (key.clone(), value.clone())).collect();
    if direction == Direction::Reverse {
        expected.reverse();
    }
    expected
}

#[test]
fn walks_agree_with_a_map() {
    (0..8).for_each(walks);
}

fn walks(seed: u64) {
    let (mut random, mut model, disk) = (Random::new(seed), Model::new(), MemDisk::new());
    let mut options = small_options(1);
    options.table.block_bytes = [512, 1024, 4096][seed as usize % 3];
    options.large_value_bytes = (seed % 2 == 1).then_some(60);
    let (mut engine, _) = open(&disk, options.clone()).expect("a fresh disk");
    let keys = 1500;
    for round in 0..60u64 {
        for _ in 0..random.below(60) {
            let len = if random.below(30) == 0 { 5000 } else { random.below(100) as usize };
            let order = model.len() as u64 + round * 100_000 + random.below(1000);
            let key = key(random.below(keys));
            if model.get(&key).is_none_or(|(present, _)| *present < order) {
                put(&engine, &mut model, key, order, len);
            }
        }
        block_on(engine.commit()).expect("no faults");
        match random.below(8) {
            0 => {
                drop(engine);
                options.entropy += 1;
                engine = open(&disk, options.clone()).expect("nothing was damaged").0;
            }
            1..=3 => block_on(run_jobs(&engine)).expect("no faults"),
            _ => {}
        }
        for direction in [Direction::Forward, Direction::Reverse] {
            let range = ranges(&mut random, keys);
            let records = [1, 2, 7, 100, 10_000][random.below(5) as usize];
            assert_eq!(walk(&engine, &range, direction, records), expected(&model, &range, direction));
        }
    }
    let stats = engine.stats();
    assert!(stats.tables.iter().sum::<u64>() > 3, "{stats:?}");
}

/// An engine whose records lie in tables of small blocks, and a map of them.
fn in_tables(disk: &MemDisk, keys: u64) -> (TestEngine, Model) {
    let mut options = small_options(1);
    options.table.block_bytes = 512;
    let (engine, _) = open(disk, options).expect("a fresh disk");
    let mut model = Model::new();
    for n in 0..keys {
        put(&engine, &mut model, key(n), n + 1, 60);
    }
    block_on(engine.commit()).expect("no faults");
    block_on(run_jobs(&engine)).expect("no faults");
    (engine, model)
}

#[test]
fn a_walk_can_be_resumed_behind_every_key() {
    let disk = MemDisk::new();
    let (engine, model) = in_tables(&disk, 1500);
    for direction in [Direction::Forward, Direction::Reverse] {
        let range = KeyRange::vnode(1, 2);
        let whole = expected(&model, &range, direction);
        assert!(whole.len() > 100);
        for (at, (key, _)) in whole.iter().enumerate() {
            let left = match direction {
                Direction::Forward => range.after(&key.as_key()),
                Direction::Reverse => range.before(&key.as_key()),
            };
            assert_eq!(walk(&engine, &left, direction, 9), whole[at + 1..]);
        }
    }
}

#[test]
fn writes_flushes_and_compactions_underneath_lose_and_repeat_nothing() {
    for seed in 0..6 {
        let disk = MemDisk::new();
        let (engine, before) = in_tables(&disk, 1500);
        let (mut random, mut model) = (Random::new(seed), before.clone());
        let direction = if seed % 2 == 0 { Direction::Forward } else { Direction::Reverse };
        let range = KeyRange::vnode(1, 1);
        let (mut shown, mut left) = (Shown::new(), Some(range.clone()));
        let mut order = 1_000_000;
        while let Some(range) = left {
            // Between two pieces, and within one: a piece is longer than what is copied from a memtable at once.
            let writes = random.below(300);
            for _ in 0..writes {
                order += 1;
                put(&engine, &mut model, key(random.below(3000)), order, 60);
            }
            block_on(engine.commit()).expect("no faults");
            if random.below(3) == 0 {
                block_on(run_jobs(&engine)).expect("no faults");
            }
            let visit = |key: Key<'_>, record: Record<'_>| {
                shown.push((key.to_buf(), (record.order, record.value.to_vec())));
                ControlFlow::Continue(())
            };
            left =
                block_on(engine.scan(&range, direction, ScanLimits::records(50), visit)).expect("no faults");
        }
        let in_order = |pair: &[(KeyBuf, (u64, Vec<u8>))]| match direction {
            Direction::Forward => pair[0].0 < pair[1].0,
            Direction::Reverse => pair[0].0 > pair[1].0,
        };
        assert!(shown.windows(2).all(in_order), "each key once, in order");
        for (key, (order, _)) in before.iter().filter(|(key, _)| range.contains(&key.as_key())) {
            let found = shown.iter().find(|(shown, _)| shown == key);
            assert!(found.is_some_and(|(_, (shown, _))| shown >= order), "{key:?} was there all the time");
        }
    }
}

#[test]
fn a_freeze_in_the_middle_of_a_walk_hides_nothing() {
    let disk = MemDisk::new();
    let mut options = small_options(1);
    options.memtable_bytes = 8 << 20;
    let (engine, _) = open(&disk, options).expect("a fresh disk");
    let mut model = Model::new();
    for n in 0..6000 {
        put(&engine, &mut model, key(n), n + 1, 60);
    }
    block_on(engine.commit()).expect("no faults");
    let range = KeyRange::vnode(1, 1);
    let expected = expected(&model, &range, Direction::Forward);
    let (mut shown, mut order) = (Shown::new(), 10_000_000);
    let mut churn = Model::new();
    let visit = |key: Key<'_>, record: Record<'_>| {
        shown.push((key.to_buf(), (record.order, record.value.to_vec())));
        ControlFlow::Continue(())
    };
    // Other keys of the same store are written between the polls until its memtable is frozen and flushed.
    let mut scan = Box::pin(engine.scan(&range, Direction::Forward, ScanLimits::records(10_000), visit));
    let flushes = engine.stats().flushes;
    let result = loop {
        if let Some(result) = poll_once(scan.as_mut()) {
            break result;
        }
        for n in 0..400 {
            order += 1;
            let mut other = key(40 * 5 + n % 40);
            other.prefix.table = 50 + n as u32;
            put(&engine, &mut churn, other, order, 9_000);
            if n % 3 == 0 {
                block_on(engine.commit()).expect("no faults");
            }
        }
        block_on(engine.commit()).expect("no faults");
        block_on(run_jobs(&engine)).expect("no faults");
    };
    drop(scan);
    assert_eq!(result, Ok(None));
    assert!(engine.stats().flushes > flushes, "the memtable was frozen meanwhile");
    let shown: Shown = shown.into_iter().filter(|(key, _)| key.prefix.table < 50).collect();
    assert_eq!(shown, expected);
}

#[test]
fn limits_end_a_walk_and_a_visitor_may() {
    let disk = MemDisk::new();
    let (engine, model) = in_tables(&disk, 1500);
    let range = KeyRange::vnode(1, 0);
    let mut seen = 0;
    let count = |_: Key<'_>, _: Record<'_>| {
        seen += 1;
        ControlFlow::Continue(())
    };
    let limits = ScanLimits { records: 1000, bytes: 500 };
    let left = block_on(engine.scan(&range, Direction::Forward, limits, count)).expect("no faults");
    assert!(left.is_some() && (5..=8).contains(&seen), "{seen} records of about 75 bytes");
    let one = ScanLimits { records: 1000, bytes: 0 };
    let mut seen = 0;
    let count = |_: Key<'_>, _: Record<'_>| {
        seen += 1;
        ControlFlow::Continue(())
    };
    block_on(engine.scan(&range, Direction::Forward, one, count)).expect("no faults");
    assert_eq!(seen, 1, "one record however long");
    let last = model.keys().rfind(|key| range.contains(&key.as_key())).expect("not empty").clone();
    let stop = |key: Key<'_>, _: Record<'_>| {
        assert_eq!(key, last.as_key());
        ControlFlow::Break(())
    };
    let left =
        block_on(engine.scan(&range, Direction::Reverse, ScanLimits::records(9), stop)).expect("no faults");
    assert_eq!(left, Some(range.before(&last.as_key())));
    let nobody = |_: Key<'_>, _: Record<'_>| panic!("nothing is there");
    let limits = ScanLimits::records(9);
    for empty in [range.before(&range.low()), KeyRange::vnode(1, VNODES + 9)] {
        assert_eq!(block_on(engine.scan(&empty, Direction::Forward, limits, nobody)), Ok(None));
    }
}

#[test]
fn a_walk_leaves_the_cache_as_it_was_and_a_bad_block_fails_it_alone() {
    let disk = MemDisk::new();
    let (engine, model) = in_tables(&disk, 1500);
    let before = engine.stats();
    let range = KeyRange::vnode(1, 3);
    let whole = expected(&model, &range, Direction::Forward);
    assert_eq!(walk(&engine, &range, Direction::Forward, 1000), whole);
    let after = engine.stats();
    assert_eq!((after.cache_bytes, after.cache_hits), (before.cache_bytes, before.cache_hits));

    disk.defer();
    let mut seen = 0;
    let count = |_: Key<'_>, _: Record<'_>| {
        seen += 1;
        ControlFlow::Continue(())
    };
    let mut scan = Box::pin(engine.scan(&range, Direction::Reverse, ScanLimits::records(1000), count));
    let mut steps = 0;
    let failed = loop {
        if let Some(result) = poll_once(scan.as_mut()) {
            break result;
        }
        for op in disk.in_flight(None) {
            steps += 1;
            // A run of blocks, then the block alone.
            assert!(if (3..=4).contains(&steps) {
                disk.fail_read(op.id, ReadFault::Io)
            } else {
                disk.complete(op.id)
            });
        }
    };
    drop(scan);
    assert!(matches!(failed, Err(ReadError::Disk(_))), "{failed:?}");
    assert!(seen < whole.len());
    let mut shown = 0;
    let count = |key: Key<'_>, _: Record<'_>| {
        assert_eq!(key, whole[shown].0.as_key());
        shown += 1;
        ControlFlow::Continue(())
    };
    let mut again = Box::pin(engine.scan(&range, Direction::Forward, ScanLimits::records(1000), count));
    while poll_once(again.as_mut()).is_none() {
        disk.complete_all();
    }
    drop(again);
    assert_eq!(shown, whole.len(), "others go on");
}

#[cfg(feature = "planted-bugs")]
mod planted {
    use crate::rig::planted::caught;
    use ferrite_lsm::planted::Bug;

    /// A scan that is off by one at the edge of a block leaves out a key, and the first history shows it.
    #[test]
    fn a_scan_that_skips_the_edge_of_a_block_is_caught() {
        caught(Bug::ScanSkipsBlockEdge, 0..1, |seed| {
            super::walks(seed);
            Ok(())
        });
    }
}
