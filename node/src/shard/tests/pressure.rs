//! Writers and background work.

use ferrite_wire::Level;

use super::*;

/// The engine says by how much writers are to be delayed while flushes and compactions are behind. Nobody asked it: writes came
/// at full speed until they were refused.
#[test]
fn writers_are_slowed_down_before_they_are_refused() {
    let bench = Bench::new(MemDisk::new());
    let mut settings = settings(1, 1, 1);
    settings.engine.memtable_bytes = 16 * 1024;
    (settings.engine.l0_tables_slow, settings.engine.l0_tables_max) = (0, 2);
    settings.engine.l0_tables_trigger = 100;
    let shard = open(&bench, settings).expect("an empty disk opens");
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
