//! The rows: what is done to an engine, and what of it is measured.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use clap::ValueEnum;

use crate::db::{Db, Setup};
use crate::keys::{self, Random, Values};
use crate::measure::{Figures, Mark, histogram};
use crate::space::Space;

/// A read from disk costs many cached ones: the row has so many times fewer.
pub const DISK_PART: u64 = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Row {
    /// All records once, in random order, in groups; until background work owes nothing.
    Load,
    /// As many puts again, of random records; until background work owes nothing.
    Overwrite,
    /// Gets of records that are there, after a restart, once everything was read.
    Hit,
    /// Gets of records that are not there, likewise.
    Miss,
    /// Sixteen gets at once, likewise.
    Hit16,
    /// A fifth of the operations: gets with 200 under way, or fewer if that suits the engine better, and a cache of 2 % of the data.
    Disk,
    /// As many: the device alone, 4 KiB at random places of a file of a GiB, 32 under way. Ferrite's ring does it.
    Device,
    /// A fiftieth of the operations: scans of a hundred records, cached.
    Scan,
    /// Gets and puts by turns; until background work owes nothing.
    Mixed,
    /// Gets at fixed times, at 30 % of what Hit reached; nothing else happens. An eighth of the memtable.
    Idle,
    /// The same while records are overwritten, so that flush and compaction run. Worst is the put's. Ferrite's background work
    /// ends its slice when the next request is due: to a node that would be an event of its ring.
    Busy,
    /// Puts, each synced before the next; five thousand at most.
    Synced,
}

/// What is the same for all rows of a run.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub keys: u64,
    pub operations: u64,
    pub value_bytes: usize,
    pub batch: u64,
    /// Gets per second of the paced rows.
    pub rate: f64,
    /// Puts per second of the busy row.
    pub put_rate: f64,
    pub seconds: f64,
}

/// Rows that one process runs on one open engine, one after another: those that need the same state of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session {
    /// One row, alone.
    Single(Row),
    /// Rows that begin with a restart and read everything first.
    Cached,
    /// As [`Session::Cached`], with an eighth of the memtable, so that the puts fill it several times.
    Paced,
}

impl Row {
    pub fn session(self) -> Session {
        match self {
            Row::Hit | Row::Miss | Row::Hit16 | Row::Scan | Row::Mixed => Session::Cached,
            Row::Idle | Row::Busy => Session::Paced,
            Row::Load | Row::Overwrite | Row::Disk | Row::Device | Row::Synced => Session::Single(self),
        }
    }

    pub fn name(self) -> String {
        let value = self.to_possible_value().expect("no row is hidden");
        value.get_name().to_owned()
    }
}

/// Runs the rows of one session, and hands over the figures of each as soon as they are known.
pub async fn run(
    rows: &[Row],
    mut db: impl Db,
    setup: &Setup,
    sizes: Sizes,
    mut done: impl FnMut(Row, Figures),
) {
    match rows[0].session() {
        Session::Cached | Session::Paced => {
            db.settle().await;
            warm(&mut db, sizes).await;
        }
        Session::Single(Row::Disk) => db.settle().await,
        Session::Single(_) => {}
    }
    let (&last, others) = rows.split_last().expect("a session has a row");
    for &row in others {
        done(row, one(row, &mut db, sizes).await);
    }
    let mut figures = one(last, &mut db, sizes).await;
    // What is on disk is known when the engine has ended.
    db.close().await;
    Space::of(&setup.directory).add_to(&mut figures);
    done(last, figures);
}

async fn one(row: Row, db: &mut impl Db, sizes: Sizes) -> Figures {
    let mut figures = match row {
        Row::Load => write(db, sizes, sizes.keys, |n| n).await,
        Row::Overwrite => {
            let mut random = Random::new(99);
            write(db, sizes, sizes.keys, |_| random.below(sizes.keys)).await
        }
        Row::Hit => gets(db, sizes, 0).await,
        Row::Miss => gets(db, sizes, sizes.keys).await,
        Row::Hit16 => batches(db, sizes).await,
        Row::Disk => from_disk(db, sizes).await,
        Row::Device => unreachable!("it needs no engine"),
        Row::Scan => scans(db, sizes).await,
        Row::Mixed => mixed(db, sizes).await,
        Row::Idle => paced(db, sizes, 0.0).await,
        Row::Busy => paced(db, sizes, sizes.put_rate).await,
        Row::Synced => synced(db, sizes).await,
    };
    figures.note.push_str(&db.note());
    figures
}

/// Puts in groups, then settling, which is part of what is measured; latencies are those of a group.
async fn write(db: &mut impl Db, sizes: Sizes, count: u64, mut number: impl FnMut(u64) -> u64) -> Figures {
    let mut values = Values::new(sizes.value_bytes);
    let mut latencies = histogram();
    let mark = Mark::now();
    let mut last = Instant::now();
    for first in (0..count).step_by(sizes.batch as usize) {
        for n in first..count.min(first + sizes.batch) {
            let number = number(n);
            db.put(&keys::key(number), values.of(number)).await;
        }
        db.commit().await;
        db.give_way().await;
        let now = Instant::now();
        latencies.saturating_record((now - last).as_nanos() as u64);
        last = now;
    }
    let written = mark.elapsed_us();
    db.settle().await;
    let mut figures = Figures::of(&mark, count, &latencies);
    figures.set("settle_s", (mark.elapsed_us() - written) / 1e6);
    figures.set("logical_bytes", count as f64 * (16 + sizes.value_bytes) as f64);
    figures
}

/// Puts of one record each; how they are synced is the engine's setup.
async fn synced(db: &mut impl Db, sizes: Sizes) -> Figures {
    const PUTS_MAX: u64 = 5_000;
    let mut random = Random::new(16);
    let mut values = Values::new(sizes.value_bytes);
    let mut latencies = histogram();
    let count = sizes.operations.min(PUTS_MAX);
    let mark = Mark::now();
    for _ in 0..count {
        let number = random.below(sizes.keys);
        let start = Instant::now();
        db.put(&keys::key(number), values.of(number)).await;
        db.commit().await;
        latencies.saturating_record(start.elapsed().as_nanos() as u64);
    }
    Figures::of(&mark, count, &latencies)
}

/// Gets with many under way: as many as suit the engine best, up to 200.
async fn from_disk(db: &mut impl Db, sizes: Sizes) -> Figures {
    let mut random = Random::new(5);
    let count = (sizes.operations / DISK_PART).max(1);
    let depths = db.depths();
    let mut best = (0.0, depths[0]);
    for &depth in depths.iter().filter(|_| depths.len() > 1) {
        let mark = Mark::now();
        let probes = (count / 10).max(depth as u64);
        db.get_deep(|| random.below(sizes.keys), probes, depth, &mut histogram()).await;
        let rate = probes as f64 / mark.elapsed_us();
        if rate > best.0 {
            best = (rate, depth);
        }
    }
    let mut latencies = histogram();
    let mark = Mark::now();
    let found = db.get_deep(|| random.below(sizes.keys), count, best.1, &mut latencies).await;
    assert_eq!(found, count);
    let mut figures = Figures::of(&mark, count, &latencies);
    figures.note = format!("{} at once; ", best.1);
    figures
}

/// Reads every record once, in random order, several at once.
async fn warm(db: &mut impl Db, sizes: Sizes) {
    let mut found = 0;
    let mut random = Random::new(3);
    let mut latencies = histogram();
    for first in (0..sizes.keys).step_by(4096) {
        let mut next = first;
        let count = (sizes.keys - first).min(4096);
        let numbers = || {
            next += 1;
            next - 1
        };
        found += db.get_deep(numbers, count, 64, &mut latencies).await;
    }
    assert_eq!(found, sizes.keys, "every record is there");
    // Once more and at random: a cache that is resistant to scans keeps what comes back.
    db.get_deep(|| random.below(sizes.keys), sizes.keys.min(2_000_000), 64, &mut latencies).await;
}

async fn gets(db: &mut impl Db, sizes: Sizes, offset: u64) -> Figures {
    let mut random = Random::new(11);
    let mut latencies = histogram();
    let mark = Mark::now();
    let mut last = Instant::now();
    for _ in 0..sizes.operations {
        let number = random.below(sizes.keys) + offset;
        let whole = db.get(&keys::key(number), |value| keys::is_of(value, number, sizes.value_bytes)).await;
        assert_eq!(whole, (offset == 0).then_some(true), "record {number}");
        let now = Instant::now();
        latencies.saturating_record((now - last).as_nanos() as u64);
        last = now;
    }
    Figures::of(&mark, sizes.operations, &latencies)
}

async fn batches(db: &mut impl Db, sizes: Sizes) -> Figures {
    const TOGETHER: usize = 16;
    let mut random = Random::new(12);
    let mut latencies = histogram();
    let mark = Mark::now();
    let count = sizes.operations / TOGETHER as u64;
    let mut last = Instant::now();
    for _ in 0..count {
        let numbers: [u64; TOGETHER] = std::array::from_fn(|_| random.below(sizes.keys));
        let mut found = 0;
        let seen = |at: usize, value: &[u8]| {
            assert!(keys::is_of(value, numbers[at], sizes.value_bytes));
            found += 1;
        };
        db.get_many(&numbers.map(keys::key), seen).await;
        assert_eq!(found, TOGETHER);
        let now = Instant::now();
        latencies.saturating_record((now - last).as_nanos() as u64);
        last = now;
    }
    Figures::of(&mark, count * TOGETHER as u64, &latencies)
}

async fn scans(db: &mut impl Db, sizes: Sizes) -> Figures {
    const LENGTH: usize = 100;
    let mut random = Random::new(13);
    let mut latencies = histogram();
    let mark = Mark::now();
    let count = (sizes.operations / 50).max(100);
    let mut last = Instant::now();
    for _ in 0..count {
        let walked = db.scan(&keys::key(random.below(sizes.keys)), LENGTH).await;
        assert!((1..=LENGTH).contains(&walked));
        let now = Instant::now();
        latencies.saturating_record((now - last).as_nanos() as u64);
        last = now;
    }
    Figures::of(&mark, count, &latencies)
}

async fn mixed(db: &mut impl Db, sizes: Sizes) -> Figures {
    let mut random = Random::new(14);
    let mut values = Values::new(sizes.value_bytes);
    let mut latencies = histogram();
    let mark = Mark::now();
    let mut last = Instant::now();
    for n in 0..sizes.operations {
        let number = random.below(sizes.keys);
        if n % 2 == 0 {
            let whole =
                db.get(&keys::key(number), |value| keys::is_of(value, number, sizes.value_bytes)).await;
            assert_eq!(whole, Some(true), "record {number}");
        } else {
            db.put(&keys::key(number), values.of(number)).await;
        }
        if n % (2 * sizes.batch) == 2 * sizes.batch - 1 {
            db.commit().await;
            db.give_way().await;
        }
        let now = Instant::now();
        latencies.saturating_record((now - last).as_nanos() as u64);
        last = now;
    }
    db.commit().await;
    db.settle().await;
    Figures::of(&mark, sizes.operations, &latencies)
}

/// Gets after which the core is given away even if more are due.
const GETS_BETWEEN: u64 = 1024;

/// Gets due at fixed times whatever the engine does, counted from when they were due; puts beside them in groups, likewise.
async fn paced(db: &mut impl Db, sizes: Sizes, put_rate: f64) -> Figures {
    let mut random = Random::new(15);
    let mut values = Values::new(sizes.value_bytes);
    let [latencies, put_latencies] = [histogram(), histogram()].map(|of| Rc::new(RefCell::new(of)));
    let total = Duration::from_secs_f64(sizes.seconds);
    let get_every = Duration::from_secs_f64(1.0 / sizes.rate);
    let put_every =
        if put_rate > 0.0 { Duration::from_secs_f64(sizes.batch as f64 / put_rate) } else { total * 2 };
    let mark = Mark::now();
    let start = Instant::now();
    let (mut get_due, mut put_due) = (start, start);
    let mut gets = 0;
    while get_due < start + total {
        db.expect(get_due.min(put_due));
        let now = Instant::now();
        if put_due <= now && put_due < start + total {
            for _ in 0..sizes.batch {
                let number = random.below(sizes.keys);
                db.put(&keys::key(number), values.of(number)).await;
            }
            db.commit_beside(put_due, &put_latencies).await;
            // Now and then the core is given away even if gets are due, as a reactor does.
            db.give_way().await;
            put_due += put_every;
        }
        if get_due <= now {
            db.get_beside(random.below(sizes.keys), sizes.value_bytes, get_due, &latencies).await;
            get_due += get_every;
            gets += 1;
            if gets % GETS_BETWEEN == 0 {
                db.give_way().await;
            }
        } else {
            db.give_way().await;
        }
    }
    db.end_reads().await;
    let mut figures = Figures::of(&mark, gets, &latencies.borrow());
    let put_latencies = put_latencies.borrow();
    if put_rate > 0.0 {
        figures.set("worst_us", put_latencies.max() as f64 / 1e3);
        figures.set("put_p99_us", put_latencies.value_at_quantile(0.99) as f64 / 1e3);
        figures.set("puts_per_s", put_latencies.len() as f64 * sizes.batch as f64 / sizes.seconds);
    }
    figures
}
