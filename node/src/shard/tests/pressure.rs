//! Writers and background work.

use ferrite_wire::Level;

use super::*;

/// A node that is alone, with so many stores and memtables of so many bytes.
pub(super) fn with_memtables_of(stores: u16, bytes: usize) -> ShardSettings {
    let mut settings = settings(1, 1, stores);
    settings.engine.memtable_bytes = bytes;
    settings
}

/// One whose level 0 is full after two tables, and is not merged.
pub(super) fn soon_behind() -> ShardSettings {
    let mut settings = with_memtables_of(1, 16 * 1024);
    (settings.engine.l0_tables_slow, settings.engine.l0_tables_max) = (0, 2);
    settings.engine.l0_tables_trigger = 100;
    settings
}

/// The engine says by how much writers are to be delayed while flushes and compactions are behind. Nobody asked it: writes came
/// at full speed until they were refused.
#[test]
fn writers_are_slowed_down_before_they_are_refused() {
    let bench = Bench::new(MemDisk::new());
    let shard = open(&bench, soon_behind()).expect("an empty disk opens");
    let connection = client(&bench, &shard);
    let value = [7; 8 * 1024];
    let mut number = 0;
    let delay_us = loop {
        number += 1;
        assert!(number < 1_000, "writes fill level 0 in the end");
        receive(&shard, connection, &request_frame(number, &put(&number.to_le_bytes(), &value, Level::One)));
        let delay_us = shard.engine.write_delay_us();
        shard.on_batch_end();
        bench.run();
        if delay_us > 0 {
            break delay_us;
        }
        bench.frames(connection);
    };
    assert!(bench.frames(connection).is_empty(), "it waits");
    bench.0.now_ns.set(bench.now_ns() + delay_us * 1_000);
    bench.run();
    assert_eq!(bench.frames(connection).len(), 1, "and is answered after its delay");
}
