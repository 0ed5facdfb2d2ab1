//! Times the parts of the engine that a cached read and a write go through: memtable, filter, index, cache, block, merge.
//!
//! `cargo bench -p ferrite-benches --bench table -- 1000000` measures with a million records of 100 bytes; without a number
//! it runs at a size that proves only that it works. Each row says nanoseconds of CPU time per operation, the best of three rounds:
//! time on the clock says little on a machine that does other things, too.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::rc::Rc;

use ferrite_lsm::mem_disk::{MemDisk, run::block_on};
use ferrite_lsm::{
    BlockCache, BlockHandle, Class, Compression, Directory, Disk, FileId, Key, KeyHash, LastWriteWins,
    MemCursor, Memtable, Merge, NameOp, Prefix, Record, RecordFlags, Source, Table, TableBuilder,
    TableCursor, TableName, TableOptions,
};
use xxhash_rust::xxh3::xxh3_64_with_seed;

const SEED: u64 = 7;
const VALUE_BYTES: usize = 100;
const ROUNDS: usize = 3;

fn main() {
    let records = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(10_000);
    let keys: Vec<[u8; 16]> = (0..records).map(partition).collect();
    let tokens: Vec<u64> = keys.iter().map(|key| xxh3_64_with_seed(key, SEED)).collect();
    println!("{records} records of {VALUE_BYTES} bytes");
    let memtable = memtables(&keys, &tokens);
    let disk = MemDisk::new();
    block_on(disk.names(NameOp::CreateDirectory(Directory::Store(0))))
        .expect("a memory disk makes directories");
    let table = tables(&disk, memtable);
    lookups(&keys, &tokens, &table);
    merges(&disk, &keys, &tokens);
}

fn memtables(keys: &[[u8; 16]], tokens: &[u64]) -> Rc<Memtable> {
    let value = [7; VALUE_BYTES];
    let mut memtable = Memtable::new();
    time("memtable insert", keys.len(), || {
        memtable = Memtable::new();
        for (partition, &token) in keys.iter().zip(tokens) {
            memtable.insert(key(partition, token), record(1, &value));
        }
    });
    println!("{:<50}{:>8.1} bytes per record", "memtable", memtable.bytes() as f64 / keys.len() as f64);
    time("BTreeMap insert, for comparison", keys.len(), || {
        let mut map = BTreeMap::new();
        for (partition, &token) in keys.iter().zip(tokens) {
            map.insert((token, Box::<[u8]>::from(&partition[..])), (1u64, 2u64, Vec::from(value)));
        }
        black_box(map.len());
    });
    time("memtable get", keys.len(), || {
        for (partition, &token) in keys.iter().zip(tokens) {
            black_box(memtable.get(&key(partition, token)).expect("inserted"));
        }
    });
    time("memtable walk", keys.len(), || {
        black_box(memtable.iter().map(|(_, record)| record.order).sum::<u64>());
    });
    Rc::new(memtable)
}

fn tables(disk: &MemDisk, memtable: Rc<Memtable>) -> Rc<Table<MemDisk>> {
    let entries = memtable.len();
    let mut number = 0;
    for (row, compression, token_seed) in [
        ("table build, lz4", Compression::Lz4, Some(SEED)),
        ("table build, raw, tokens stored", Compression::None, None),
        ("table build, raw", Compression::None, Some(SEED)),
    ] {
        time(row, entries, || {
            number += 1;
            let options = TableOptions { compression, token_seed, ..TableOptions::default() };
            let meta = block_on(async {
                let mut cursor = MemCursor::new(Rc::clone(&memtable), None);
                let mut builder = builder(disk, number, options).await;
                while let Some((key, record)) = cursor.current() {
                    builder.add(key, record);
                    if builder.wants_flush() {
                        builder.flush().await.expect("a memory disk writes");
                    }
                    cursor.advance();
                }
                builder.finish(0).await.expect("a memory disk syncs")
            });
            let raw = meta.raw_bytes as f64;
            if number % ROUNDS as u64 == 0 {
                println!(
                    "{:<50}{:>8.3} of the keys and values",
                    format!("{row}: bytes"),
                    meta.bytes as f64 / raw
                );
            }
        });
    }
    block_on(open(disk, number))
}

fn lookups(keys: &[[u8; 16]], tokens: &[u64], table: &Rc<Table<MemDisk>>) {
    let cache = BlockCache::new(1 << 30);
    for block in 0..table.blocks() {
        block_on(cache.read(table, BlockHandle(block), Class::Read)).expect("the block is whole");
    }
    time("table get, cached: filter, index, cache, block", keys.len(), || {
        for (partition, &token) in keys.iter().zip(tokens) {
            let key = key(partition, token);
            assert!(table.may_contain(KeyHash::of(&key)));
            let handle = table.locate(&key).expect("added");
            let block = cache.get(table.number(), handle).expect("cached");
            black_box(block.get(&key).expect("added").value[0]);
        }
    });
    time("  of it the filter", keys.len(), || {
        for (partition, &token) in keys.iter().zip(tokens) {
            assert!(table.may_contain(KeyHash::of(&key(partition, token))));
        }
    });
    time("  of it the index", keys.len(), || {
        for (partition, &token) in keys.iter().zip(tokens) {
            black_box(table.locate(&key(partition, token)));
        }
    });
    let handles: Vec<_> =
        keys.iter().zip(tokens).map(|(partition, &token)| table.locate(&key(partition, token))).collect();
    time("  of it the cache", keys.len(), || {
        for handle in handles.iter().flatten() {
            black_box(cache.get(table.number(), *handle));
        }
    });
    for (row, count) in [("table get, a thousand hot keys", 1000), ("table get, ten hot keys", 10)] {
        time(row, keys.len(), || {
            for at in (0..keys.len().min(count)).cycle().take(keys.len()) {
                let key = key(&keys[at], tokens[at]);
                assert!(table.may_contain(KeyHash::of(&key)));
                let block =
                    table.locate(&key).and_then(|handle| cache.get(table.number(), handle)).expect("cached");
                black_box(block.get(&key).expect("added").value[0]);
            }
        });
    }
    time("table get, absent key", keys.len(), || {
        let mut passed = 0;
        for (partition, &token) in keys.iter().zip(tokens) {
            passed += usize::from(table.may_contain(KeyHash::of(&key(partition, !token))));
        }
        black_box(passed);
    });
    println!(
        "{:<50}{:>8.1} bytes per record",
        "index and filter",
        table.memory_bytes() as f64 / keys.len() as f64
    );
}

fn merges(disk: &MemDisk, keys: &[[u8; 16]], tokens: &[u64]) {
    const SOURCES: usize = 4;
    let value = [7; VALUE_BYTES];
    let tables: Vec<_> = (0..SOURCES)
        .map(|part| {
            let mut memtable = Memtable::new();
            for at in (part..keys.len()).step_by(SOURCES) {
                memtable.insert(key(&keys[at], tokens[at]), record(part as u64 + 1, &value));
            }
            let number = 1000 + part as u64;
            block_on(async {
                let options = TableOptions { token_seed: Some(SEED), ..TableOptions::default() };
                let mut builder = builder(disk, number, options).await;
                memtable.iter().for_each(|(key, record)| builder.add(key, record));
                builder.finish(0).await.expect("a memory disk writes");
                open(disk, number).await
            })
        })
        .collect();
    time("walk of one table", keys.len() / SOURCES, || {
        block_on(async {
            let mut cursor = TableCursor::streaming(Rc::clone(&tables[0]), Class::Background, None);
            cursor.fill().await.expect("the table is whole");
            while let Some((key, _)) = cursor.current() {
                black_box(key);
                if !cursor.advance() {
                    cursor.fill().await.expect("the table is whole");
                }
            }
        });
    });
    time("merge of four tables", keys.len(), || {
        block_on(async {
            let cursors = tables
                .iter()
                .map(|table| TableCursor::streaming(Rc::clone(table), Class::Background, None))
                .collect();
            let mut merge = Merge::new(cursors, LastWriteWins);
            let mut count = 0;
            while merge.next().await.expect("the tables are whole") {
                black_box(merge.current());
                count += 1;
            }
            assert_eq!(count, keys.len());
        });
    });
    let mut number = 2000;
    time("merge of four tables into one", keys.len(), || {
        number += 1;
        block_on(async {
            let cursors = tables
                .iter()
                .map(|table| TableCursor::streaming(Rc::clone(table), Class::Background, None))
                .collect();
            let mut merge = Merge::new(cursors, LastWriteWins);
            let options = TableOptions { token_seed: Some(SEED), ..TableOptions::default() };
            let mut builder = builder(disk, number, options).await;
            while merge.next().await.expect("the tables are whole") {
                let (key, record) = merge.current().expect("it stands on a key");
                builder.add(key, record);
                if builder.wants_flush() {
                    builder.flush().await.expect("a memory disk writes");
                }
            }
            builder.finish(0).await.expect("a memory disk syncs");
        });
    });
}

async fn builder(disk: &MemDisk, number: u64, options: TableOptions) -> TableBuilder<MemDisk> {
    let name = TableName { store: 0, number };
    TableBuilder::create(disk.clone(), name, FileId(u128::from(number)), options, Class::Flush)
        .await
        .expect("a memory disk makes files")
}

async fn open(disk: &MemDisk, number: u64) -> Rc<Table<MemDisk>> {
    let name = TableName { store: 0, number };
    let files = disk.list(Directory::Store(0));
    let bytes = files.iter().find(|(file, _)| *file == name.file()).expect("it was built").1;
    Table::open(disk.clone(), name, bytes, None, Class::Read).await.expect("the table is whole")
}

fn partition(number: usize) -> [u8; 16] {
    let mut key = *b"user000000000000";
    let mut rest = number;
    for digit in key.iter_mut().rev().take(12) {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    key
}

fn key(partition: &[u8; 16], token: u64) -> Key<'_> {
    let prefix = Prefix { space: 1, vnode: (token >> 52) as u16, table: 1, token };
    Key { prefix, partition, sort: b"" }
}

fn record(order: u64, value: &[u8]) -> Record<'_> {
    Record { order: (1 << 60) + order, actor: 99, flags: RecordFlags(0), expiry_ms: 0, value }
}

fn time(row: &str, operations: usize, mut run: impl FnMut()) {
    let best = (0..ROUNDS)
        .map(|_| {
            let start = cpu_ns();
            run();
            cpu_ns() - start
        })
        .min()
        .expect("there is a round");
    println!("{row:<50}{:>8.1} ns", best as f64 / operations as f64);
}

/// CPU time of this thread. Yielding makes the kernel bring the figure up to date; it would lag by up to a tick.
fn cpu_ns() -> u64 {
    std::thread::yield_now();
    let text =
        std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux says how long a thread ran");
    let first = text.split_whitespace().next().expect("the first field is there");
    first.parse().expect("it is a number")
}
