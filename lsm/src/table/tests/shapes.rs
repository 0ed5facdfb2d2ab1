//! Odd shapes: the largest and the smallest keys and values, one token for thousands of keys, a vnode per key.

use super::*;
use crate::BLOCK_BYTES;

fn ring(vnode: u16, table: u32, token: u64, partition: &[u8], sort: &[u8]) -> KeyBuf {
    KeyBuf {
        prefix: Prefix { space: 1, vnode, table, token },
        partition: partition.into(),
        sort: sort.into(),
    }
}

fn both(model: &Model, probes: &[KeyBuf]) {
    for compression in [Compression::None, Compression::Lz4] {
        for token_seed in [None, Some(SEED)] {
            let disk = disk();
            let meta =
                build(&disk, TableOptions { compression, token_seed, ..TableOptions::default() }, model);
            check(&disk, &meta, model, probes);
        }
    }
}

#[test]
fn the_smallest_and_the_largest() {
    let mut model = Model::new();
    for (n, key_len) in [0usize, 1, 127, 128, 4000, 5000, 65_535, 65_536].into_iter().enumerate() {
        for (m, value_len) in [0usize, 1, 127, 128, 3900, 4096, 70_000, 1 << 20].into_iter().enumerate() {
            let bytes = vec![n as u8; key_len];
            let (partition, sort) = bytes.split_at(key_len * m / 8);
            let token = xxh3_64_with_seed(partition, SEED);
            model.insert(
                ring(0, m as u32, token, partition, sort),
                record_of((n * 8 + m) as u64, 1, value_len),
            );
        }
    }
    both(&model, &[ring(0, 0, 0, b"", b""), ring(9, 9, u64::MAX, b"zz", b"zz")]);
}

#[test]
fn one_record() {
    let key = KeyBuf { prefix: Prefix::from_u128(0), partition: Box::default(), sort: Box::default() };
    let model: Model = [(key, record_of(0, 0, 0))].into();
    both(&model, &[ring(0, 0, 0, b"", b"")]);
}

#[test]
fn one_partition_with_thousands_of_sort_keys() {
    let token = xxh3_64_with_seed(b"cart", SEED);
    let sort = |n: u32| [&n.to_be_bytes()[..], b"a common tail"].concat();
    let mut model: Model = (0..3000u32)
        .map(|n| (ring(1, 1, token, b"cart", &sort(2 * n)), record_of(u64::from(n) + 4, 1, 30)))
        .collect();
    for (shift, partition) in [(-1i64, &b"before"[..]), (1, b"after")] {
        let key = ring(1, 1, token.wrapping_add_signed(shift), partition, b"");
        model.insert(key, record_of(1, 1, 30));
    }
    let probes: Vec<_> = (0..600).map(|n| ring(1, 1, token, b"cart", &sort(10 * n + 1))).collect();
    both(&model, &probes);
}

#[test]
fn thousands_of_partitions_with_one_token() {
    let partition = |n: u32| format!("partition with one token {n:07}").into_bytes();
    let model: Model =
        (0..2000).map(|n| (ring(1, 1, 5, &partition(3 * n), b""), record_of(u64::from(n), 1, 10))).collect();
    let probes: Vec<_> = (0..600).map(|n| ring(1, 1, 5, &partition(10 * n + 1), b"")).collect();
    both(&model, &probes);
}

#[test]
fn a_vnode_for_every_key_and_a_table_for_every_key() {
    let key = |n: u64| {
        let token = xxh3_64_with_seed(&n.to_le_bytes(), SEED);
        ring((token >> 48) as u16, (n % 100) as u32, token, &n.to_le_bytes(), b"")
    };
    let model: Model = (0..4000).map(|n| (key(n), record_of(n, n, 10))).collect();
    let probes: Vec<_> = (4000..4600).map(key).collect();
    both(&model, &probes);
}

#[test]
fn small_raw_records_lie_in_blocks_of_one_page() {
    let key = |n: u64| ring(1, 1, xxh3_64_with_seed(&n.to_le_bytes(), SEED), &n.to_le_bytes(), b"");
    let mut model: Model = (0..3000).map(|n| (key(n), record_of(4, 1, 100))).collect();
    // One record that is larger than a page makes the block after it shorter, and no more.
    model.insert(key(3000), record_of(4, 1, 10_000));
    let disk = disk();
    let meta = build(&disk, TableOptions { token_seed: Some(SEED), ..TableOptions::default() }, &model);
    let table = open(&disk, &meta);
    let page = |at: u64| at / BLOCK_BYTES as u64;
    let spanning = (0..meta.blocks)
        .map(|block| table.place(BlockHandle(block)))
        .filter(|place| page(u64::from(place.offset)) != page(place.end() - 1))
        .count();
    assert_eq!(spanning, 1);
    let blocks_bytes = u64::from(meta.blocks) * BLOCK_BYTES as u64;
    assert!(blocks_bytes < meta.raw_bytes * 115 / 100, "{blocks_bytes} for {}", meta.raw_bytes);
}

#[test]
fn records_of_a_kilobyte_do_not_waste_the_rest_of_their_pages() {
    let key = |n: u64| ring(1, 1, xxh3_64_with_seed(&n.to_le_bytes(), SEED), &n.to_le_bytes(), b"");
    for len in [700, 1024, 1500, 2500] {
        let model: Model = (0..600).map(|n| (key(n), record_of(4, 1, len))).collect();
        let disk = disk();
        let meta = build(&disk, TableOptions { token_seed: Some(SEED), ..TableOptions::default() }, &model);
        assert!(meta.bytes < meta.raw_bytes * 120 / 100, "{len}: {} for {}", meta.bytes, meta.raw_bytes);
        check(&disk, &meta, &model, &[]);
    }
}

#[test]
fn compression_is_kept_only_where_it_saves_an_eighth() {
    let key = |n: u64| ring(1, 1, n << 50, &n.to_le_bytes(), b"");
    let options = TableOptions { compression: Compression::Lz4, ..TableOptions::default() };
    let text: Model =
        (0..1000).map(|n| (key(n), RecordBuf { value: vec![b'x'; 100], ..RecordBuf::default() })).collect();
    let disk_text = disk();
    let meta = build(&disk_text, options, &text);
    assert!(meta.bytes < meta.raw_bytes / 2);
    check(&disk_text, &meta, &text, &[]);
    let noise = |n: u64| (0..100).map(|at| xxh3_64_with_seed(&[at], n) as u8).collect();
    let random: Model =
        (0..1000).map(|n| (key(n), RecordBuf { value: noise(n), ..RecordBuf::default() })).collect();
    let disk_random = disk();
    let meta = build(&disk_random, options, &random);
    let whole = disk_random.read_all(NAME.file()).unwrap();
    let table = open(&disk_random, &meta);
    for block in 0..meta.blocks {
        let place = table.place(BlockHandle(block));
        let codec = whole[place.end() as usize - stored::TRAILER_BYTES];
        assert!(stored::is_raw(codec));
        assert_eq!(place.offset as usize % BLOCK_BYTES, 0, "raw blocks in a row start with their pages");
    }
    check(&disk_random, &meta, &random, &[]);
}

/// What a compressor cannot do without: the key, half the value, and three bytes of order. What the table adds to that is told.
#[test]
fn small_records_compress_to_little_more_than_is_random_in_them() {
    const RECORDS: u64 = 20_000;
    let mut model = Model::new();
    for n in 0..RECORDS {
        let random = |salt: u64| xxh3_64_with_seed(&n.to_le_bytes(), salt);
        let partition = [random(1).to_le_bytes(), random(2).to_le_bytes()].concat();
        let token = xxh3_64_with_seed(&partition, SEED);
        let mut value = vec![b'.'; 100];
        value[..50].chunks_mut(8).zip(3..).for_each(|(part, salt)| {
            part.copy_from_slice(&random(salt).to_le_bytes()[..part.len()]);
        });
        let record = RecordBuf { order: n, actor: 1, value, ..RecordBuf::default() };
        model.insert(ring((token >> 52) as u16 & 15, 1, token, &partition, b""), record);
    }
    let disk = disk();
    let options =
        TableOptions { compression: Compression::Lz4, token_seed: Some(SEED), ..TableOptions::default() };
    let meta = build(&disk, options, &model);
    let each = meta.bytes as f64 / RECORDS as f64;
    println!("{each:.2} bytes a record, of which 68 are random");
    assert!(each < 83.0, "{each:.2} bytes a record");
    check(&disk, &meta, &model, &[]);
}

#[test]
fn a_cursor_seeks_in_both_directions() {
    let key = |n: u64| ring(1, 1, n << 48, &n.to_le_bytes(), b"");
    let model: Model = (0..2000).map(|n| (key(2 * n), record_of(n, 1, 50))).collect();
    let disk = disk();
    let meta = build(&disk, TableOptions::default(), &model);
    let table = open(&disk, &meta);
    let cache = Rc::new(BlockCache::new(1 << 20));
    for mut cursor in [
        TableCursor::streaming(table.clone(), Class::Background, None),
        TableCursor::cached(table, cache, Class::Read, None),
    ] {
        for n in [3999, 0, 17, 2000, 2001, 1999, 4001, 3, 3998] {
            cursor.seek(&key(n).as_key());
            block_on(cursor.fill()).unwrap();
            for (expected, _) in model.range(key(n)..).take(100) {
                assert_eq!(cursor.current().map(|(key, _)| key), Some(expected.as_key()), "from {n}");
                if !cursor.advance() {
                    block_on(cursor.fill()).unwrap();
                }
            }
        }
    }
}

/// A filter was built at once, in which a long table takes milliseconds: now in pieces, with the same result.
#[test]
fn a_filter_built_in_pieces_is_the_same() {
    let model: Model = (0..10_000).map(|n| (ring(1, 7, n << 40, b"p", b""), record_of(n, 1, 3))).collect();
    let files = [false, true].map(|in_pieces| {
        let disk = disk();
        block_on(async {
            let options = TableOptions::default();
            let created = TableBuilder::create(disk.clone(), NAME, ID, options, Class::Flush).await;
            let mut builder = created.unwrap();
            model.iter().for_each(|(key, record)| builder.add(key.as_key(), record.as_record()));
            if in_pieces {
                let pieces = (0..).take_while(|_| builder.build_filter()).count();
                assert_eq!(pieces, 10_000usize.div_ceil(4096));
                assert!(!builder.build_filter(), "it is whole");
            }
            builder.finish(77).await.unwrap();
        });
        disk.read_all(NAME.file()).unwrap()
    });
    assert_eq!(files[0], files[1]);
}

#[test]
#[should_panic(expected = "in order")]
fn keys_out_of_order_are_a_bug() {
    let disk = disk();
    let builder = TableBuilder::create(disk, NAME, ID, TableOptions::default(), Class::Flush);
    let mut builder = block_on(builder).unwrap();
    let record = record_of(0, 0, 0);
    builder.add(ring(1, 1, 2, b"", b"").as_key(), record.as_record());
    builder.add(ring(1, 1, 1, b"", b"").as_key(), record.as_record());
}
