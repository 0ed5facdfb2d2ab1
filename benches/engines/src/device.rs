//! What the device does by itself, on the same ring.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

use ferrite_lsm::{BLOCK_BYTES, Class, Directory, Disk, FileName, NameOp, Open};
use ferrite_node::Env;
use ferrite_node::reactor::RingEnv;

use crate::keys::Random;
use crate::measure::{Figures, Mark, histogram};

const FILE_BYTES: u64 = 1 << 30;
const DEPTH: u64 = 32;
/// A core that no engine has.
const CORE: u16 = 999;

/// Reads blocks at random, `DEPTH` at a time.
pub async fn run(env: RingEnv, total: u64) -> Figures {
    let disk = env.disk();
    let name = FileName::Segment { core: CORE, slot: 0 };
    disk.names(NameOp::CreateDirectory(Directory::Core(CORE))).await.expect("the disk works");
    disk.names(NameOp::CreateZeroed { name, bytes: FILE_BYTES }).await.expect("the disk has a GiB");
    let file = disk.open(name, Open::Read).await.expect("it was made");
    let latencies = Rc::new(RefCell::new(histogram()));
    let (left, done) = (Rc::new(Cell::new(total)), Rc::new(Cell::new(0)));
    let mark = Mark::now();
    for task in 0..DEPTH {
        let (disk, file, latencies) = (disk.clone(), file.clone(), latencies.clone());
        let (left, done) = (left.clone(), done.clone());
        env.spawn(async move {
            let mut random = Random::new(task);
            while left.get() > 0 {
                left.set(left.get() - 1);
                let at = random.below(FILE_BYTES / BLOCK_BYTES as u64) * BLOCK_BYTES as u64;
                let buf = disk.buf(BLOCK_BYTES, Class::Read).expect("32 blocks fit the budget");
                let start = Instant::now();
                let (_, moved) = disk.read(&file, at, buf, Class::Read).await;
                assert_eq!(moved, Ok(BLOCK_BYTES));
                latencies.borrow_mut().saturating_record(start.elapsed().as_nanos() as u64);
            }
            done.set(done.get() + 1);
        });
    }
    while done.get() < DEPTH {
        env.sleep_ns(1_000_000).await;
    }
    let figures = Figures::of(&mark, total, &latencies.borrow());
    disk.names(NameOp::Unlink(name)).await.expect("the disk works");
    figures
}
