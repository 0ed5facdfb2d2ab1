//! Value files: what is written is read back, and every damage is found.

use super::*;
use crate::mem_disk::MemDisk;
use crate::mem_disk::run::block_on;
use crate::{BLOCK_BYTES, Class, Compression, Directory, Disk, FileId, FileName, NameOp, Prefix, ReadError};

const NAME: FileName = FileName::Values { store: 1, number: 9 };
const ID: FileId = FileId(0x1234_5678_9abc_def0_0fed_cba9_8765_4321);

fn prefix(n: u64) -> Prefix {
    Prefix { space: 1, vnode: n as u16, table: 7, token: n << 40 }
}

/// Half of it compresses.
fn value(n: u64, len: usize) -> Vec<u8> {
    let mut state = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let random = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    let mut value: Vec<u8> = (0..len / 2).map(random).collect();
    value.resize(len, n as u8);
    value
}

fn build(compression: Compression, lens: &[usize]) -> (MemDisk, ValuesMeta, Vec<(Pointer, Vec<u8>)>) {
    let disk = MemDisk::new();
    block_on(disk.names(NameOp::CreateDirectory(Directory::Store(1)))).expect("no faults");
    let format = (compression, 2 * BLOCK_BYTES);
    let created = ValueBuilder::create(disk.clone(), (1, 9), ID, format, Class::Flush);
    let mut builder = block_on(created).expect("no faults");
    let mut values = Vec::new();
    for (n, &len) in (1..).zip(lens) {
        let value = value(n, len);
        values.push((builder.add(prefix(n), &value), value));
        if builder.wants_flush() {
            block_on(builder.flush()).expect("no faults");
        }
    }
    let meta = block_on(builder.finish()).expect("no faults");
    (disk, meta, values)
}

fn open(disk: &MemDisk, bytes: u64) -> Result<ValueFile<MemDisk>, ReadError> {
    block_on(ValueFile::open(disk.clone(), NAME, bytes, Some(ID), Class::Read))
}

/// Verifies the file and reads every value; what comes out must be right. Whether verifying it found damage.
fn is_damaged(disk: &MemDisk, bytes: u64, values: &[(Pointer, Vec<u8>)]) -> bool {
    let file = match open(disk, bytes) {
        Ok(file) => file,
        Err(ReadError::Damage(damage)) => {
            assert_eq!(damage.file, NAME);
            return true;
        }
        Err(error) => panic!("{error}"),
    };
    let mut seen = Vec::new();
    let verified = block_on(file.verify(Class::Background, |prefix, offset, stored, raw| {
        seen.push((prefix, offset, stored, raw));
    }));
    for (pointer, value) in values {
        match block_on(file.read(pointer, Class::Read)) {
            Ok(read) => assert_eq!(read.value(), &value[..]),
            Err(ReadError::Damage(_)) => assert!(verified.is_err(), "verifying finds what a read finds"),
            Err(error) => panic!("{error}"),
        }
    }
    if let Ok(records) = verified {
        let expected = (1..)
            .zip(values)
            .map(|(n, (pointer, _))| (prefix(n), pointer.offset, pointer.stored_bytes, pointer.raw_bytes));
        assert_eq!((records, seen), (values.len() as u64, expected.collect::<Vec<_>>()));
    }
    verified.is_err()
}

#[test]
fn values_of_every_length_come_back() {
    for compression in [Compression::None, Compression::Lz4] {
        let lens = [1, 100, 4020, 4096, 70_000, 3 << 20, 5, 16 << 20];
        let (disk, meta, values) = build(compression, &lens);
        assert!(!is_damaged(&disk, meta.bytes, &values));
        let named: u64 = values.iter().map(|(pointer, _)| pointer.record_bytes()).sum();
        assert_eq!(named, meta.record_bytes);
        for (pointer, _) in values {
            assert_eq!(Pointer::decode(&pointer.encode()), Some(pointer));
        }
    }
}

#[test]
fn every_byte_flipped_is_found() {
    for compression in [Compression::None, Compression::Lz4] {
        let (disk, meta, values) = build(compression, &[300, 1, 2000, 700, 1500]);
        for at in 0..meta.bytes {
            let bit = 1 << (at % 8);
            assert!(disk.corrupt(NAME, at, bit));
            assert!(is_damaged(&disk, meta.bytes, &values), "byte {at}");
            disk.corrupt(NAME, at, bit);
        }
        assert!(!is_damaged(&disk, meta.bytes, &values));
    }
}

#[test]
fn every_length_cut_is_found() {
    let (disk, meta, values) = build(Compression::None, &[300, 1, 2000, 5700, 1500]);
    let whole = disk.read_all(NAME).expect("it is there");
    for len in 0..whole.len() {
        disk.write_all(NAME, &whole[..len]);
        assert!(is_damaged(&disk, meta.bytes, &values), "{len} bytes");
        if len % 64 == 0 {
            assert!(is_damaged(&disk, len as u64, &values), "named as {len} bytes");
        }
    }
    disk.write_all(NAME, &[&whole[..], &[0; BLOCK_BYTES]].concat());
    assert!(is_damaged(&disk, meta.bytes + BLOCK_BYTES as u64, &values));
}

#[test]
fn a_pointer_to_another_value_or_beyond_the_end_is_found() {
    let (disk, meta, values) = build(Compression::None, &[300, 300, 2000]);
    let file = open(&disk, meta.bytes).expect("it is whole");
    let [(first, _), (second, _), _] = values[..] else { panic!("three were added") };
    let wrong = [
        Pointer { offset: second.offset, ..first },
        Pointer { stored_bytes: 299, ..first },
        Pointer { raw_bytes: 301, ..first },
        Pointer { offset: meta.bytes - 10, ..first },
    ];
    for pointer in wrong {
        let read = block_on(file.read(&pointer, Class::Read));
        assert!(matches!(read, Err(ReadError::Damage(_))), "{pointer:?}: {read:?}");
    }
    for bytes in [&[][..], &[0; POINTER_BYTES], &[0xff; POINTER_BYTES], &[1; POINTER_BYTES + 1]] {
        assert_eq!(Pointer::decode(bytes), None);
    }
}
