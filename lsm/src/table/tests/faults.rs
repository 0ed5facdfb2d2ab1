//! A disk that fails, is slow to give buffers, or moves less than it was asked to.

use super::*;
use crate::mem_disk::{Fault, ReadFault};
use crate::{BLOCK_BYTES, DiskErrorKind};

fn model() -> Model {
    (0..2500)
        .map(|n: u64| (key_of(n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 8, true), record_of(8, 1, 20)))
        .collect()
}

fn options() -> TableOptions {
    TableOptions { write_bytes: BLOCK_BYTES, ..TableOptions::default() }
}

/// Builds as an owner does who tries again when there was no buffer, up to a bound.
fn try_build(disk: &MemDisk, model: &Model, mut on_no_buffer: impl FnMut()) -> Result<TableMeta, BuildError> {
    block_on(async {
        let mut builder = TableBuilder::create(disk.clone(), NAME, ID, options(), Class::Flush).await?;
        for (key, record) in model {
            builder.add(key.as_key(), record.as_record());
            while let Err(error) = builder.flush().await {
                match error {
                    BuildError::NoBuffer => on_no_buffer(),
                    BuildError::Disk(_) => return Err(error),
                }
            }
        }
        loop {
            match builder.finish(77).await {
                Err(BuildError::NoBuffer) => on_no_buffer(),
                result => return result,
            }
        }
    })
}

#[test]
fn each_step_failing_fails_the_table_and_each_short_one_does_not() {
    let model = model();
    let clean = disk();
    let before = clean.steps();
    try_build(&clean, &model, || unreachable!("buffers are unlimited")).unwrap();
    let steps = clean.steps() - before;
    assert!(steps > 8);
    for step in 0..steps {
        for (fault, kind) in [(Fault::NoSpace, DiskErrorKind::NoSpace), (Fault::Io, DiskErrorKind::Io)] {
            let disk = disk();
            disk.fail_at(step, fault);
            match try_build(&disk, &model, || unreachable!("buffers are unlimited")) {
                Err(BuildError::Disk(error)) => assert_eq!(error.kind, kind),
                other => panic!("step {step}, {fault:?}: {other:?}"),
            }
        }
        let disk = disk();
        disk.fail_at(step, Fault::Short);
        // Only a write can be short; others fail.
        if let Ok(meta) = try_build(&disk, &model, || unreachable!("buffers are unlimited")) {
            check(&disk, &meta, &model, &[]);
        } else {
            assert!(step == 0 || step == steps - 1, "step {step} was a write");
        }
    }
}

#[test]
fn a_builder_without_buffers_goes_on_when_there_are_some() {
    let (model, disk) = (model(), disk());
    disk.limit_buffers(Class::Flush, 0);
    let mut refused = 0;
    let meta = try_build(&disk, &model, || {
        refused += 1;
        disk.limit_buffers(Class::Flush, if refused % 3 == 0 { BLOCK_BYTES } else { 0 });
    })
    .unwrap();
    assert!(refused >= 3);
    check(&disk, &meta, &model, &[]);
}

#[test]
fn each_read_failing_is_reported_and_each_short_one_does_not_matter() {
    let (model, disk) = (model(), disk());
    let meta = build(&disk, options(), &model);
    let count = |disk: &MemDisk| {
        let before = disk.reads();
        let table = block_on(Table::open(disk.clone(), NAME, meta.bytes, None, Class::Read))?;
        let mut cursor = TableCursor::streaming(table, Class::Background, None);
        let mut keys = 0;
        block_on(cursor.fill())?;
        while cursor.current().is_some() {
            keys += 1;
            if !cursor.advance() {
                block_on(cursor.fill())?;
            }
        }
        assert_eq!(keys, model.len());
        Ok::<_, ReadError>(disk.reads() - before)
    };
    let reads = count(&disk).unwrap();
    assert!(reads >= 6);
    for read in 0..reads {
        disk.fail_read_at(read, ReadFault::Io);
        assert!(matches!(count(&disk), Err(ReadError::Disk(_))), "read {read}");
        // The first is the open, which can only fail.
        if read > 0 {
            disk.fail_read_at(read, ReadFault::Flip { bit: 12_345 });
            match count(&disk) {
                // In the zeros behind a section nobody misses a bit.
                Err(ReadError::Damage(_)) | Ok(_) => {}
                Err(error) => panic!("read {read}: {error}"),
            }
            disk.fail_read_at(read, ReadFault::Short);
            match count(&disk) {
                Ok(_) => {}
                // Half of one page is nothing, and nothing is how a file ends.
                Err(ReadError::Damage(damage)) => assert_eq!(damage.what, "file length"),
                Err(error) => panic!("read {read}: {error}"),
            }
        }
    }
}

#[test]
fn a_cursor_without_buffers_goes_on_when_there_are_some() {
    let (model, disk) = (model(), disk());
    let meta = build(&disk, options(), &model);
    let table = open(&disk, &meta);
    let mut cursor = TableCursor::streaming(table, Class::Background, None);
    let mut expected = model.keys();
    loop {
        disk.limit_buffers(Class::Background, 0);
        let refused = block_on(cursor.fill());
        disk.limit_buffers(Class::Background, usize::MAX);
        if refused == Err(ReadError::NoBuffer) {
            block_on(cursor.fill()).unwrap();
        }
        let Some((key, _)) = cursor.current() else { break };
        assert_eq!(Some(key), expected.next().map(KeyBuf::as_key));
        cursor.advance();
    }
    assert!(expected.next().is_none());
}
