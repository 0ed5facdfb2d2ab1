use super::*;
use crate::Directory;
use crate::compaction::{Plan, Run};
use crate::manifest::LEVELS;
use crate::mem_disk::run::{block_on, poll_once};
use crate::mem_disk::{MemDisk, MemPace};
use crate::{Prefix, RecordFlags};

type TestEngine = Engine<MemDisk, MemPace>;

fn open() -> TestEngine {
    open_at(MemPace::new())
}

fn open_at(pace: MemPace) -> TestEngine {
    open_with(pace, None)
}

fn open_with(pace: MemPace, large_value_bytes: Option<usize>) -> TestEngine {
    let mut options = Options { large_value_bytes, ..Options::new(0, vec![1], 7) };
    options.log.segment_bytes = 256 << 10;
    options.log.group_bytes = 64 << 10;
    let (engine, _) = block_on(Engine::open(MemDisk::new(), pace, options)).expect("a fresh disk");
    block_on(engine.assign(&[(0, 1)])).expect("no faults");
    engine
}

fn key(partition: &[u8]) -> Key<'_> {
    Key {
        prefix: Prefix { space: 1, vnode: 0, table: 0, token: partition.len() as u64 },
        partition,
        sort: b"",
    }
}

fn put(engine: &TestEngine, partition: &[u8], order: u64, flags: u8) {
    let record = Record { order, actor: 1, flags: RecordFlags(flags), expiry_ms: 0, value: b"v" };
    engine.stage(key(partition), record, 0).expect("taken");
    block_on(engine.commit()).expect("no faults");
}

fn flush(engine: &TestEngine) {
    engine.0.stores.borrow_mut().freeze(0);
    block_on(engine.0.flush()).expect("no faults");
}

fn merge_all(engine: &TestEngine) {
    let plan = {
        let catalog = engine.0.manifest.catalog();
        let levels = &catalog.stores[&1].levels;
        let l0 = levels[0].iter().rev().map(|table| Run { level: 0, tables: vec![table.name] });
        let last =
            Run { level: LEVELS - 1, tables: levels[LEVELS - 1].iter().map(|table| table.name).collect() };
        let runs = l0.chain([last]).collect();
        Plan { store: 1, runs, output_level: LEVELS - 1, is_move: false, is_for_garbage: false, bytes: 0 }
    };
    block_on(engine.0.compact(plan, false)).expect("no faults");
}

fn orders(engine: &TestEngine, partitions: &[&[u8]]) -> Vec<Option<u64>> {
    let order = |partition: &&[u8]| {
        let found = block_on(engine.read(key(partition))).expect("the disk is sound");
        found.map(|found| found.record().order)
    };
    partitions.iter().map(order).collect()
}

#[test]
fn tombstones_stay_until_a_floor_covers_them_and_nothing_else_holds_their_key() {
    let engine = open();
    let keys: [&[u8]; 4] = [b"a", b"bb", b"ccc", b"dddd"];
    for key in keys {
        put(&engine, key, 1, 0);
    }
    flush(&engine);
    put(&engine, keys[0], 10, RecordFlags::TOMBSTONE);
    put(&engine, keys[1], 20, RecordFlags::TOMBSTONE);
    put(&engine, keys[2], 10, RecordFlags::TOMBSTONE);
    flush(&engine);
    let all = vec![Some(10), Some(20), Some(10), Some(1)];
    merge_all(&engine);
    assert_eq!(orders(&engine, &keys), all, "without a floor nothing goes");
    // A hint brings an old version of the third key: its tombstone must stay to beat it.
    put(&engine, keys[2], 5, 0);
    assert_eq!(orders(&engine, &keys), all);
    engine.set_floor(0, 0, 15);
    merge_all(&engine);
    assert_eq!(orders(&engine, &keys), [None, Some(20), Some(10), Some(1)]);
    assert_eq!(engine.stats().tables[LEVELS - 1], 1);
    flush(&engine);
    engine.set_floor(0, 0, 99);
    merge_all(&engine);
    assert_eq!(orders(&engine, &keys), [None, None, None, Some(1)]);
}

#[test]
fn a_merge_that_leaves_nothing_leaves_no_table() {
    let engine = open();
    put(&engine, b"a", 1, RecordFlags::TOMBSTONE);
    flush(&engine);
    engine.set_floor(0, 0, 5);
    merge_all(&engine);
    assert_eq!(engine.stats().tables.iter().sum::<u64>(), 0);
    assert_eq!(orders(&engine, &[b"a"]), [None]);
}

#[test]
fn a_late_record_does_not_dominate_and_reads_go_on_behind_it() {
    let engine = open();
    put(&engine, b"a", 50, 0);
    flush(&engine);
    put(&engine, b"a", 40, 0);
    put(&engine, b"bb", 60, 0);
    let dominates = |partition: &[u8]| {
        let stores = engine.0.stores.borrow();
        let record = stores.stores[0].active.get(&key(partition)).expect("just written");
        record.flags.0 & RecordFlags::DOMINATES != 0
    };
    assert!(!dominates(b"a") && dominates(b"bb"));
    assert_eq!(orders(&engine, &[b"a", b"bb"]), [Some(50), Some(60)]);
    flush(&engine);
    assert_eq!(orders(&engine, &[b"a", b"bb"]), [Some(50), Some(60)]);
    merge_all(&engine);
    assert_eq!(orders(&engine, &[b"a", b"bb"]), [Some(50), Some(60)]);
}

#[test]
fn a_dropped_table_is_unlinked_after_its_last_reader() {
    let engine = open();
    put(&engine, b"a", 1, 0);
    flush(&engine);
    let reader = Rc::clone(&engine.0.stores.borrow().stores[0].levels);
    put(&engine, b"a", 2, 0);
    flush(&engine);
    merge_all(&engine);
    // The second table has no reader; the first one's waits.
    block_on(engine.run(engine.next_job().expect("a table to unlink"))).expect("no faults");
    assert_eq!(engine.next_job(), None);
    let files = || engine.0.disk.list(Directory::Store(1)).len();
    assert_eq!(files(), 2);
    drop(reader);
    block_on(engine.run(engine.next_job().expect("a table to unlink"))).expect("no faults");
    assert_eq!(files(), 1);
}

/// Records of three kilobytes: one to a block.
fn put_long(engine: &TestEngine, records: std::ops::Range<u64>, order: u64) {
    for token in records {
        let key = long_key(token);
        let record = Record { order, actor: 1, flags: RecordFlags(0), expiry_ms: 0, value: &[7; 3000] };
        engine.stage(key, record, 0).expect("taken");
        block_on(engine.commit()).expect("no faults");
    }
}

fn long_key(token: u64) -> Key<'static> {
    Key { prefix: Prefix { space: 1, vnode: 0, table: 0, token: token << 48 }, partition: b"p", sort: b"" }
}

/// Everything that the cache held of the tables that a merge replaced went in one go, and what queued for them was swept in another:
/// nothing else ran for milliseconds, the longest that anything waited. Now others run in between, and a sweep that ends half-way is
/// gone on with.
#[test]
fn what_the_cache_holds_of_replaced_tables_goes_a_part_at_a_time() {
    const RECORDS: u64 = 900;
    const AT_ONCE: usize = 256;
    let engine = open_at(MemPace::yielding(1));
    for order in 1..=2 {
        put_long(&engine, 0..RECORDS, order);
        flush(&engine);
    }
    let tables: Vec<_> = engine.0.tables.borrow().values().cloned().collect();
    for table in tables {
        for block in 0..table.blocks() {
            let handle = crate::BlockHandle(block);
            drop(block_on(engine.0.cache.read(&table, handle, crate::Class::Read)).expect("sound"));
        }
    }
    let held = || engine.0.cache.stats().blocks;
    let before = held();
    assert!(before as u64 >= 2 * RECORDS, "{before} blocks");
    merge_all(&engine);
    assert_eq!(held(), before, "a merge reads past the cache");
    let job = engine.next_job().expect("two tables to sweep");
    let mut polls = 0;
    let mut run = Box::pin(engine.run(job));
    while held() > before / 2 {
        let held_before = held();
        assert!(poll_once(run.as_mut()).is_none(), "half of it was done in {polls} polls");
        assert!(held_before - held() <= AT_ONCE, "{} in poll {polls}", held_before - held());
        polls += 1;
    }
    drop(run);
    let left = held();
    assert!(left > 0, "the sweep ended half-way");
    let mut run = Box::pin(engine.run(engine.next_job().expect("the rest")));
    loop {
        let held_before = held();
        let done = poll_once(run.as_mut());
        assert!(held_before - held() <= AT_ONCE, "{} in poll {polls}", held_before - held());
        polls += 1;
        if let Some(done) = done {
            break done.expect("no faults");
        }
    }
    drop(run);
    assert_eq!((held(), engine.next_job()), (0, None));
    assert!(polls > before / AT_ONCE, "{polls}");
}

/// A memtable's memory was given back in one go at the end of its flush.
#[test]
fn the_memory_of_a_flushed_memtable_is_given_back_a_part_at_a_time() {
    let engine = open_at(MemPace::yielding(1));
    put_long(&engine, 0..4000, 1);
    engine.0.stores.borrow_mut().freeze(0);
    let bytes = || engine.0.stores.borrow().memory_bytes();
    let before = bytes();
    assert!(before > 10 << 20, "{before} bytes");
    let mut flush = Box::pin(engine.0.flush());
    let (mut parts, mut done) = (0, None);
    while done.is_none() {
        let bytes_before = bytes();
        done = poll_once(flush.as_mut());
        let freed = bytes_before - bytes();
        assert!(freed <= 3 << 20, "{freed} bytes of {before} at once");
        parts += usize::from(freed > 0);
    }
    assert!(parts > 5 && bytes() < 1 << 20, "{} of {before} bytes after {parts} parts", bytes());
}

fn local(table: u32, token: u64) -> Key<'static> {
    Key { prefix: Prefix { space: 0, vnode: 3, table, token }, partition: b"", sort: b"" }
}

fn put_local(engine: &TestEngine, table: u32, tokens: std::ops::Range<u64>) {
    for token in tokens {
        // Nothing that compresses.
        let value: Vec<u8> = (0..13u64)
            .flat_map(|at| xxhash_rust::xxh3::xxh3_64_with_seed(&at.to_le_bytes(), token).to_le_bytes())
            .collect();
        let record = Record { order: 7, actor: 1, flags: RecordFlags(0), expiry_ms: 0, value: &value };
        engine.stage(local(table, token), record, 0).expect("taken");
        if token % 100 == 99 {
            block_on(engine.commit()).expect("no faults");
        }
    }
    block_on(engine.commit()).expect("no faults");
}

fn run_jobs(engine: &TestEngine) {
    for _ in 0..100 {
        let Some(job) = engine.next_job() else { return };
        block_on(engine.run(job)).expect("no faults");
    }
    panic!("there is always something to do");
}

/// What was drained stayed for ever: nothing is written over it, and no tombstone of space 0 is ever below a floor.
#[test]
fn what_the_host_has_retired_gives_its_space_back_and_the_rest_stays() {
    let engine = open();
    put_local(&engine, 1, 0..1500);
    put_local(&engine, 2, 1..1000);
    put(&engine, b"a", 1, 0);
    flush(&engine);
    run_jobs(&engine);
    let tables = |engine: &TestEngine| engine.stats().table_bytes.iter().sum::<u64>();
    let before = tables(&engine);
    engine.retire(3, 1, 100);
    run_jobs(&engine);
    assert_eq!(tables(&engine), before, "a tenth of a table is not worth a merge");
    engine.retire(3, 1, 1498);
    run_jobs(&engine);
    assert!(tables(&engine) < before / 2, "{} of {before} bytes", tables(&engine));
    let found = |key: Key<'_>| block_on(engine.read(key)).expect("the disk is sound").is_some();
    for (table, token, there) in
        [(1, 0, true), (1, 1, false), (1, 1498, false), (1, 1499, true), (2, 1, true), (2, 999, true)]
    {
        assert_eq!(found(local(table, token)), there, "table {table}, token {token}");
    }
    assert_eq!(orders(&engine, &[b"a"]), [Some(1)]);
    // What is retired before it is flushed is not written at all.
    engine.retire(3, 2, u64::MAX);
    put_local(&engine, 2, 1000..1500);
    let flushed = engine.stats().flush_bytes;
    flush(&engine);
    assert_eq!(engine.stats().flush_bytes, flushed);
    run_jobs(&engine);
    assert!(!found(local(2, 999)) && !found(local(2, 1499)) && found(local(1, 1499)));
}

/// Runs a future on a disk whose operations wait to be completed.
fn complete<T>(disk: &MemDisk, future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let steps = std::iter::repeat_with(|| {
        disk.complete_all();
        poll_once(future.as_mut())
    });
    steps.take(1_000).flatten().next().expect("it ends")
}

/// A flush began a table for hints that were all delivered, and so retired, while its file was made. Nothing was left to add, and it
/// asserted that a table has a key.
#[test]
fn a_flush_whose_records_are_all_retired_while_its_file_is_made_writes_nothing() {
    for large_value_bytes in [None, Some(1)] {
        let engine = open_with(MemPace::new(), large_value_bytes);
        put_local(&engine, 1, 1..100);
        let (disk, flushed) = (engine.0.disk.clone(), engine.stats().flush_bytes);
        engine.0.stores.borrow_mut().freeze(0);
        disk.defer();
        let mut flush = Box::pin(engine.0.flush());
        assert!(poll_once(flush.as_mut()).is_none(), "its first file is being made");
        engine.retire(3, 1, u64::MAX);
        complete(&disk, flush).expect("no faults");
        while let Some(job) = engine.next_job() {
            complete(&disk, engine.run(job)).expect("no faults");
        }
        assert_eq!(engine.stats().flush_bytes, flushed);
        assert_eq!(disk.list(Directory::Store(1)), [], "what was begun is gone");
    }
}
