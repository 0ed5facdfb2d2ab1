//! Tables against a map of what went in; against damage, and odd shapes, in the modules below.

mod damage;
mod faults;
mod shapes;

use std::collections::BTreeMap;
use std::rc::Rc;

use proptest::prelude::*;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::*;
use crate::Disk;
use crate::mem_disk::{MemDisk, run::block_on};
use crate::merge::Source;
use crate::{
    BlockCache, Class, Directory, Key, KeyBuf, NameOp, Prefix, ReadError, Record, RecordBuf, RecordFlags,
};

type Model = BTreeMap<KeyBuf, RecordBuf>;

const NAME: TableName = TableName { store: 3, number: 17 };
const ID: FileId = FileId(0x0123_4567_89ab_cdef_fedc_ba98_7654_3210);
const SEED: u64 = 99;

fn disk() -> MemDisk {
    let disk = MemDisk::new();
    block_on(disk.names(NameOp::CreateDirectory(Directory::Store(NAME.store)))).unwrap();
    disk
}

fn build(disk: &MemDisk, options: TableOptions, model: &Model) -> TableMeta {
    block_on(async {
        let mut builder = TableBuilder::create(disk.clone(), NAME, ID, options, Class::Flush).await.unwrap();
        for (key, record) in model {
            builder.add(key.as_key(), record.as_record());
            if builder.wants_flush() {
                builder.flush().await.unwrap();
            }
        }
        builder.finish(77).await.unwrap()
    })
}

fn open(disk: &MemDisk, meta: &TableMeta) -> Rc<Table<MemDisk>> {
    block_on(Table::open(disk.clone(), meta.name, meta.bytes, Some(meta.file_id), Class::Read)).unwrap()
}

/// What a lookup finds, past the cache.
fn get(table: &Table<MemDisk>, key: &Key<'_>) -> Result<Option<RecordBuf>, ReadError> {
    if !table.may_contain(KeyHash::of(key)) {
        return Ok(None);
    }
    let Some(handle) = table.locate(key) else { return Ok(None) };
    let block = block_on(table.read_block(handle, Class::Read))?;
    Ok(block.get(key).map(|record| owned(&record)))
}

fn owned(record: &Record<'_>) -> RecordBuf {
    let Record { order, actor, flags, expiry_ms, value } = *record;
    RecordBuf { order, actor, flags, expiry_ms, value: value.to_vec() }
}

fn walk(mut cursor: TableCursor<MemDisk>) -> Vec<(KeyBuf, RecordBuf)> {
    let mut found = Vec::new();
    block_on(async {
        cursor.fill().await.unwrap();
        while let Some((key, record)) = cursor.current() {
            found.push((key.to_buf(), owned(&record)));
            if !cursor.advance() {
                cursor.fill().await.unwrap();
            }
        }
    });
    found
}

fn check(disk: &MemDisk, meta: &TableMeta, model: &Model, probes: &[KeyBuf]) {
    let table = open(disk, meta);
    assert_eq!(table.meta(), meta);
    assert_eq!(meta.entries, model.len() as u64);
    assert_eq!(
        (&meta.smallest, &meta.largest),
        (model.keys().next().unwrap(), model.keys().next_back().unwrap())
    );
    assert_eq!(meta.max_order, model.values().map(|record| record.order).max().unwrap());
    assert_eq!(meta.min_order, model.values().map(|record| record.order).min().unwrap());
    assert_eq!(meta.bytes, disk.list(Directory::Store(NAME.store))[0].1);
    for (key, record) in model {
        assert!(table.may_contain(KeyHash::of(&key.as_key())));
        assert_eq!(get(&table, &key.as_key()).unwrap().as_ref(), Some(record));
    }
    let expected: Vec<_> = model.iter().map(|(key, record)| (key.clone(), record.clone())).collect();
    let cache = Rc::new(BlockCache::new(1 << 20));
    assert!(walk(TableCursor::streaming(table.clone(), Class::Background, None)) == expected);
    assert!(walk(TableCursor::cached(table.clone(), cache.clone(), Class::Read, None)) == expected);
    for probe in probes {
        assert_eq!(get(&table, &probe.as_key()).unwrap().as_ref(), model.get(probe));
        let mut cursor =
            TableCursor::cached(table.clone(), cache.clone(), Class::Read, Some(&probe.as_key()));
        block_on(cursor.fill()).unwrap();
        let next = model.range(probe.clone()..).next();
        assert_eq!(cursor.current().map(|(key, _)| key.to_buf()).as_ref(), next.map(|(key, _)| key));
    }
}

/// A key out of few tokens, partition keys and sort keys, so that all kinds of neighbours are common.
fn key_of(bits: u64, hashed: bool) -> KeyBuf {
    let partition: Box<[u8]> = (bits & 31).to_be_bytes()[7 - (bits >> 5 & 3) as usize..].into();
    let hash = xxh3_64_with_seed(&partition, SEED);
    let token = if hashed { hash } else { [hash, 5, bits >> 40, u64::MAX][(bits >> 7 & 3) as usize] };
    let space = u8::from(bits >> 9 & 7 != 0);
    let vnode = if bits >> 12 & 1 == 0 { (token >> 60) as u16 } else { (bits >> 13 & 1) as u16 };
    let prefix = Prefix { space, vnode, table: (bits >> 14 & 3) as u32, token };
    let sort =
        if bits >> 16 & 1 == 0 { &[][..] } else { &bits.to_be_bytes()[2..2 + (bits >> 17 & 5) as usize] };
    KeyBuf { prefix, partition, sort: sort.into() }
}

fn record_of(order: u64, actor: u64, len: usize) -> RecordBuf {
    let flags = RecordFlags(
        [0, RecordFlags::TOMBSTONE, RecordFlags::DOMINATES, RecordFlags::EXPIRES][order as usize % 4],
    );
    let value = (0..len).map(|at| ((at as u64 * order) >> 3) as u8).collect();
    RecordBuf {
        order: order << (order % 50),
        actor,
        flags,
        expiry_ms: if order % 4 == 3 { order << 20 } else { 0 },
        value,
    }
}

fn options() -> impl Strategy<Value = TableOptions> {
    let compression = prop_oneof![Just(Compression::None), Just(Compression::Lz4)];
    let block_bytes = prop_oneof![Just(512usize), Just(4096), Just(16384)];
    (compression, block_bytes, 0u32..12, prop::option::of(Just(SEED))).prop_map(
        |(compression, block_bytes, bits, token_seed)| TableOptions {
            compression,
            block_bytes,
            filter_bits_per_key: bits,
            token_seed,
            write_bytes: 8192,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn agrees_with_a_map(
        options in options(),
        hashed: bool,
        records in prop::collection::vec((any::<u64>(), 0u64..10_000, 0u64..5, 0usize..9000, any::<u8>()), 1..300),
        probes in prop::collection::vec(any::<u64>(), 60),
    ) {
        let model: Model = records.iter().map(|&(bits, order, actor, len, short)| {
            (key_of(bits, hashed), record_of(order, actor, if short < 230 { len % 120 } else { len }))
        }).collect();
        let probes: Vec<_> = probes.into_iter().map(|bits| key_of(bits, hashed)).collect();
        let disk = disk();
        let meta = build(&disk, options, &model);
        check(&disk, &meta, &model, &probes);
    }
}
