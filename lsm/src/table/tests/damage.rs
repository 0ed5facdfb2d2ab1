//! Every byte of small tables flipped, every length cut, blocks exchanged: found, or provably unused.

use super::*;
use crate::BLOCK_BYTES;
use crate::Damage;

fn small(options: TableOptions) -> (MemDisk, TableMeta, Model) {
    let model: Model = (0..40)
        .map(|n: u64| {
            (
                key_of(n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20, n.is_multiple_of(2)),
                record_of(n, n % 3, 20),
            )
        })
        .collect();
    let disk = disk();
    let meta = build(&disk, options, &model);
    (disk, meta, model)
}

/// Reads everything in every way; what comes out must be right. The first damage that was reported, if any.
fn read_everything(disk: &MemDisk, meta: &TableMeta, model: &Model) -> Option<Damage> {
    let damage_in = |error| match error {
        ReadError::Damage(damage) => damage,
        other => panic!("{other}"),
    };
    let opened = block_on(Table::open(disk.clone(), meta.name, meta.bytes, Some(meta.file_id), Class::Read));
    let table = match opened {
        Ok(table) => table,
        Err(error) => return Some(damage_in(error)),
    };
    assert_eq!(table.meta(), meta);
    let mut found = None;
    for (key, record) in model {
        match get(&table, &key.as_key()) {
            Ok(read) => assert_eq!(read.as_ref(), Some(record)),
            Err(error) => found = Some(damage_in(error)),
        }
    }
    let mut expected = model.iter();
    let mut cursor = TableCursor::streaming(table, Class::Background, None);
    loop {
        if let Err(error) = block_on(cursor.fill()) {
            assert!(found.is_some(), "a walk finds the damage that lookups find");
            return Some(damage_in(error));
        }
        let Some((key, record)) = cursor.current() else { break };
        let (expected_key, expected_record) = expected.next().unwrap();
        assert_eq!((key, owned(&record)), (expected_key.as_key(), expected_record.clone()));
        cursor.advance();
    }
    assert!(expected.next().is_none());
    found
}

#[test]
fn every_byte_flipped_is_found_or_unused() {
    for (compression, token_seed) in [(Compression::None, Some(SEED)), (Compression::Lz4, None)] {
        let options = TableOptions { compression, token_seed, block_bytes: 512, ..TableOptions::default() };
        let (disk, meta, model) = small(options);
        assert_eq!(read_everything(&disk, &meta, &model), None);
        let table = open(&disk, &meta);
        let footer =
            block_on(table.port.read(meta.bytes - BLOCK_BYTES as u64, BLOCK_BYTES, Class::Read)).unwrap();
        let footer = format::Footer::decode(NAME.file(), meta.bytes, &footer).unwrap();
        let mut used = vec![false; meta.bytes as usize];
        let blocks = (0..meta.blocks).map(|block| table.place(BlockHandle(block)));
        let sections =
            [footer.index, footer.filter, footer.properties].map(|section| (section.offset, section.end()));
        for (from, to) in blocks.map(|place| (u64::from(place.offset), place.end())).chain(sections) {
            used[from as usize..to as usize].fill(true);
        }
        used[meta.bytes as usize - BLOCK_BYTES..].fill(true);
        assert!(used.iter().filter(|&&used| used).count() > 5_000 && meta.blocks > 4);
        for (at, &used) in used.iter().enumerate() {
            let bit = 1 << (at % 8);
            assert!(disk.corrupt(NAME.file(), at as u64, bit));
            let damage = read_everything(&disk, &meta, &model);
            assert_eq!(damage.is_some(), used, "byte {at}: {damage:?}");
            if let Some(damage) = damage {
                assert_eq!(damage.file, NAME.file());
                assert!(damage.offset <= at as u64, "byte {at}: {damage}");
            }
            disk.corrupt(NAME.file(), at as u64, bit);
        }
    }
}

#[test]
fn every_length_cut_is_found() {
    let (disk, meta, model) = small(TableOptions { block_bytes: 512, ..TableOptions::default() });
    let whole = disk.read_all(NAME.file()).unwrap();
    for len in 0..whole.len() {
        disk.write_all(NAME.file(), &whole[..len]);
        assert!(read_everything(&disk, &meta, &model).is_some(), "{len} of {} bytes", whole.len());
        let shorter = TableMeta { bytes: len as u64, ..meta.clone() };
        if len % 64 == 0 {
            assert!(read_everything(&disk, &shorter, &model).is_some(), "named as {len} bytes");
        }
    }
    let longer = TableMeta { bytes: meta.bytes + BLOCK_BYTES as u64, ..meta.clone() };
    disk.write_all(NAME.file(), &[&whole[..], &[0; BLOCK_BYTES]].concat());
    assert!(read_everything(&disk, &longer, &model).is_some());
}

#[test]
fn blocks_of_other_places_and_files_are_found() {
    let model: Model = (0..400)
        .map(|n: u64| (key_of(n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 8, true), record_of(8, 1, 20)))
        .collect();
    let disk = disk();
    let meta = build(&disk, TableOptions::default(), &model);
    let table = open(&disk, &meta);
    assert!(meta.blocks > 2);
    let whole = disk.read_all(NAME.file()).unwrap();
    let place = |block| table.place(BlockHandle(block));
    // A misdirected write: one block stands where another should.
    let mut moved = whole.clone();
    let (first, second) = (place(0), place(1));
    let len = first.bytes.min(second.bytes) as usize;
    moved.copy_within(second.offset as usize..second.offset as usize + len, first.offset as usize);
    disk.write_all(NAME.file(), &moved);
    assert!(matches!(block_on(table.read_block(BlockHandle(0), Class::Read)), Err(ReadError::Damage(_))));
    assert!(block_on(table.read_block(BlockHandle(1), Class::Read)).is_ok());
    // The same content under another id: an earlier life of the same space.
    let other = FileId(1);
    disk.write_all(NAME.file(), &whole);
    let wrong = block_on(Table::open(disk.clone(), NAME, meta.bytes, Some(other), Class::Read));
    assert!(matches!(wrong, Err(ReadError::Damage(Damage { what: "file id", .. }))));
    let id = |id: FileId| {
        let bytes = &whole[first.offset as usize..first.end() as usize];
        stored::read(bytes, NAME.file(), id, u64::from(first.offset), 0).map(|block| block.len())
    };
    assert!(id(ID).is_ok());
    assert!(id(other).is_err());
}

proptest! {
    #[test]
    fn a_malformed_payload_is_refused_or_answers_without_a_panic(
        mut flips in prop::collection::vec((any::<u16>(), any::<u8>()), 1..4),
        cut in prop::option::of(any::<u16>()),
    ) {
        // Payloads come after the checksum, so only a bug makes a malformed one; it must not take the process down either.
        let mut builder = block_builder::BlockBuilder::new(None);
        let model: Model = (0..20).map(|n| (key_of(n * 0x1_3579, false), record_of(n, n % 3, 10))).collect();
        for (key, record) in &model {
            builder.add(&key.as_key(), &record.as_record(), false);
        }
        let mut payload = Vec::new();
        builder.finish(&mut payload);
        flips.iter_mut().for_each(|(at, xor)| {
            let at = usize::from(*at) % payload.len();
            payload[at] ^= *xor;
        });
        payload.truncate(cut.map_or(payload.len(), |cut| usize::from(cut) % payload.len()));
        if let Ok(block) = Block::parse(&payload, 0) {
            for key in model.keys() {
                let _ = block.get(&key.as_key());
                let _ = block.seek(&key.as_key());
            }
            (0..block.len()).for_each(|at| drop(block.entry_at(at).0.to_buf()));
        }
    }

    #[test]
    fn a_malformed_index_or_meta_is_refused_or_answers_without_a_panic(
        flips in prop::collection::vec((any::<u16>(), any::<u8>()), 1..4),
    ) {
        let (_, meta, model) = small(TableOptions { block_bytes: 512, ..TableOptions::default() });
        let mut index = index::Index::default();
        for (at, key) in model.keys().enumerate() {
            let place = index::Place { offset: at as u32 * 100, bytes: 50 };
            index.push(key.prefix, (at % 3 == 1).then_some((&key.partition[..], &key.sort[..])), place);
        }
        let (mut index_bytes, mut meta_bytes) = (Vec::new(), Vec::new());
        index.encode(&mut index_bytes);
        meta.encode(&mut meta_bytes);
        prop_assert_eq!(TableMeta::decode(&mut &meta_bytes[..]), Some(meta));
        for &(at, xor) in &flips {
            let (index_at, meta_at) = (usize::from(at) % index_bytes.len(), usize::from(at) % meta_bytes.len());
            index_bytes[index_at] ^= xor;
            meta_bytes[meta_at] ^= xor;
        }
        let _ = TableMeta::decode(&mut &meta_bytes[..]);
        if let Some(index) = index::Index::decode(&index_bytes, 1 << 20) {
            for key in model.keys() {
                let block = index.locate(&key.as_key());
                prop_assert!(block.is_none_or(|block| (block.0 as usize) < index.len()));
            }
        }
    }
}
