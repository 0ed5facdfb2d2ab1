//! Ferrite's engine on the ring of the node's reactor: one thread, background work as a task beside.

use std::cell::{Cell, RefCell};
use std::ops::ControlFlow;
use std::rc::Rc;
use std::time::Instant;

use ferrite_lsm::log::CommitlogSync;
use ferrite_lsm::{
    Class, Compression, Direction, Engine, Key, KeyRange, Options, Pace, Prefix, Record, RecordFlags,
    Refusal, ScanLimits,
};
use ferrite_node::Env;
use ferrite_node::disk::RingDisk;
use ferrite_node::reactor::{RingEnv, RingPace};
use hdrhistogram::Histogram;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::db::{Db, Setup};
use crate::keys;

type RingEngine = Engine<RingDisk, DuePace>;

/// The ring's pace, and background work also ends its slice when the next request is due: to a node that is an event of its ring,
/// but here nobody sends the requests.
#[derive(Clone)]
struct DuePace {
    ring: RingPace,
    due: Rc<Cell<Option<Instant>>>,
}

impl Pace for DuePace {
    fn should_yield(&self) -> bool {
        self.ring.should_yield() || self.due.get().is_some_and(|due| due <= Instant::now())
    }

    fn yield_now(&self) -> impl Future<Output = ()> + 'static {
        self.ring.yield_now()
    }

    fn throttle(&self, bytes: usize, class: Class) -> impl Future<Output = ()> + 'static {
        self.ring.throttle(bytes, class)
    }
}

const SEED: u64 = 7;
const VNODES: u16 = 4096;
const PAUSE_NS: u64 = 1_000_000;
/// Most reads from the device that others go on beside; as many as the row `disk` has under way.
const READS_MAX: usize = 200;
const CHECKPOINT: u64 = 1;

pub struct Ferrite {
    env: RingEnv,
    engine: RingEngine,
    pace: DuePace,
    job_runs: Rc<Cell<bool>>,
    /// Groups that are due to be written, since when; and whether a task writes them.
    dues: Rc<RefCell<Vec<Instant>>>,
    pump_runs: Rc<Cell<bool>>,
    /// Reads from the device that others go on beside.
    reads: Rc<Cell<usize>>,
    order: u64,
    value_bytes: usize,
}

impl Ferrite {
    pub async fn open(env: RingEnv, setup: &Setup) -> Ferrite {
        let entropy = u128::from(env.random()) << 64 | u128::from(env.random());
        let mut options = Options::new(0, (0..setup.stores).collect(), entropy);
        // What is compared is the memtables and the cache: there is room for everything else beside them.
        options.memory_bytes = setup.cache_bytes + 4 * setup.memtable_bytes + (512 << 20);
        options.memtable_bytes = setup.memtable_bytes;
        options.cache_bytes = setup.cache_bytes;
        options.large_value_bytes = setup.large_value_bytes;
        options.table.token_seed = Some(SEED);
        options.table.compression = if setup.lz4 { Compression::Lz4 } else { Compression::None };
        options.log.sync = if setup.synced { CommitlogSync::Batch } else { CommitlogSync::Periodic };
        let pace = DuePace { ring: env.pace(), due: Rc::default() };
        let (engine, recovery) =
            Engine::open(env.disk(), pace.clone(), options).await.unwrap_or_else(|error| panic!("{error}"));
        let places: Vec<_> = (0..VNODES).map(|vnode| (vnode, vnode % setup.stores)).collect();
        engine.assign(&places).await.expect("the disk works");
        // Above all orders of earlier processes: each writes fewer records than this.
        let order = recovery.incarnation << 40;
        let job_runs = Rc::new(Cell::new(false));
        let ferrite = Ferrite {
            env,
            engine,
            pace,
            job_runs,
            dues: Rc::default(),
            pump_runs: Rc::default(),
            reads: Rc::default(),
            order,
            value_bytes: setup.value_bytes,
        };
        ferrite.start_job();
        ferrite
    }

    /// Waits until no job is due.
    async fn rest(&self) {
        loop {
            self.start_job();
            if !self.job_runs.get() {
                return;
            }
            self.env.sleep_ns(PAUSE_NS).await;
        }
    }

    fn start_job(&self) {
        if self.job_runs.get() {
            return;
        }
        let Some(first) = self.engine.next_job() else { return };
        self.job_runs.set(true);
        let (engine, runs) = (self.engine.clone(), self.job_runs.clone());
        self.env.spawn(async move {
            let mut next = Some(first);
            while let Some(job) = next {
                engine.run(job).await.unwrap_or_else(|error| panic!("{error}"));
                next = engine.next_job();
            }
            runs.set(false);
        });
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / 1_048_576.0
}

fn of(partition: &[u8; 16]) -> Key<'_> {
    let token = xxh3_64_with_seed(partition, SEED);
    Key { prefix: Prefix { space: 1, vnode: (token >> 52) as u16, table: 1, token }, partition, sort: b"" }
}

async fn get<R>(engine: &RingEngine, key: &[u8; 16], seen: impl FnOnce(&[u8]) -> R) -> Option<R> {
    let mut seen = Some(seen);
    let mut tell = |value: &[u8]| seen.take().expect("called once")(value);
    match engine.get(of(key), |record| record.map(|record| tell(record.value))) {
        Ok(found) => found,
        Err(_) => {
            let found = engine.read(of(key)).await.unwrap_or_else(|error| panic!("{error}"));
            found.map(|found| tell(found.record().value))
        }
    }
}

impl Db for Ferrite {
    async fn put(&mut self, key: &[u8; 16], value: &[u8]) {
        self.order += 1;
        let record = Record { order: self.order, actor: 1, flags: RecordFlags(0), expiry_ms: 0, value };
        loop {
            match self.engine.stage(of(key), record, 0) {
                Ok(_) => return,
                Err(Refusal::Overloaded) if self.engine.has_staged() && !self.pump_runs.get() => {
                    self.commit().await
                }
                Err(Refusal::Overloaded) => {
                    self.start_job();
                    self.env.sleep_ns(PAUSE_NS).await;
                }
                Err(refusal) => panic!("{refusal}"),
            }
        }
    }

    async fn commit(&mut self) {
        let delay_us = self.engine.write_delay_us();
        if delay_us > 0 {
            self.env.sleep_ns(delay_us * 1_000).await;
        }
        self.engine.commit().await.unwrap_or_else(|error| panic!("{error}"));
        self.start_job();
    }

    async fn commit_beside(&mut self, due: Instant, latencies: &Rc<RefCell<Histogram<u64>>>) {
        self.dues.borrow_mut().push(due);
        if self.pump_runs.replace(true) {
            return;
        }
        let (env, engine, dues) = (self.env.clone(), self.engine.clone(), self.dues.clone());
        let (runs, latencies) = (self.pump_runs.clone(), latencies.clone());
        self.env.spawn(async move {
            while engine.has_staged() {
                let delay_us = engine.write_delay_us();
                if delay_us > 0 {
                    env.sleep_ns(delay_us * 1_000).await;
                }
                let written = std::mem::take(&mut *dues.borrow_mut());
                engine.commit().await.unwrap_or_else(|error| panic!("{error}"));
                let mut latencies = latencies.borrow_mut();
                written.iter().for_each(|due| latencies.saturating_record(due.elapsed().as_nanos() as u64));
            }
            runs.set(false);
        });
    }

    async fn get<R>(&mut self, key: &[u8; 16], seen: impl FnOnce(&[u8]) -> R) -> Option<R> {
        get(&self.engine, key, seen).await
    }

    /// As a node does: what is in memory is answered at once, and else a task waits for the device.
    async fn get_beside(
        &mut self,
        number: u64,
        value_bytes: usize,
        due: Instant,
        latencies: &Rc<RefCell<Histogram<u64>>>,
    ) {
        let key = keys::key(number);
        let is_whole = move |value: &[u8]| keys::is_of(value, number, value_bytes);
        let found = self.engine.get(of(&key), |record| record.map(|record| is_whole(record.value)));
        if let Ok(whole) = found {
            assert_eq!(whole, Some(true), "record {number}");
            return latencies.borrow_mut().saturating_record(due.elapsed().as_nanos() as u64);
        }
        while self.reads.get() >= READS_MAX {
            self.pace.yield_now().await;
        }
        self.reads.set(self.reads.get() + 1);
        let (engine, reads, latencies) = (self.engine.clone(), self.reads.clone(), latencies.clone());
        self.env.spawn(async move {
            assert_eq!(get(&engine, &key, is_whole).await, Some(true), "record {number}");
            latencies.borrow_mut().saturating_record(due.elapsed().as_nanos() as u64);
            reads.set(reads.get() - 1);
        });
    }

    async fn end_reads(&mut self) {
        while self.reads.get() > 0 {
            self.pace.yield_now().await;
        }
    }

    async fn get_many(&mut self, keys: &[[u8; 16]], mut seen: impl FnMut(usize, &[u8])) {
        let prefixed: Vec<_> = keys.iter().map(of).collect();
        let mut missed = Vec::new();
        self.engine.get_batch(&prefixed, |at, found| match found {
            Ok(Some(record)) => seen(at, record.value),
            Ok(None) => {}
            Err(_) => missed.push(at),
        });
        for at in missed {
            get(&self.engine, &keys[at], |value| seen(at, value)).await;
        }
    }

    async fn get_deep(
        &mut self,
        numbers: impl FnMut() -> u64,
        total: u64,
        depth: usize,
        latencies: &mut Histogram<u64>,
    ) -> u64 {
        // The stream of numbers is used up before, so that tasks need not borrow it.
        let numbers: Vec<u64> = std::iter::repeat_with(numbers).take(total as usize).collect();
        let shared = Rc::new((
            numbers,
            Cell::new(0),
            Cell::new(0),
            Cell::new(0),
            RefCell::new(crate::measure::histogram()),
        ));
        for _ in 0..depth {
            let (shared, engine, len) = (shared.clone(), self.engine.clone(), self.value_bytes);
            self.env.spawn(async move {
                let (numbers, next, found, done, latencies) = &*shared;
                while let Some(&number) = numbers.get(next.replace(next.get() + 1)) {
                    let start = std::time::Instant::now();
                    let whole =
                        get(&engine, &keys::key(number), |value| keys::is_of(value, number, len)).await;
                    assert_ne!(whole, Some(false), "record {number}");
                    found.set(found.get() + u64::from(whole.is_some()));
                    latencies.borrow_mut().saturating_record(start.elapsed().as_nanos() as u64);
                }
                done.set(done.get() + 1);
            });
        }
        while shared.3.get() < depth {
            self.env.sleep_ns(PAUSE_NS).await;
        }
        latencies.add(&*shared.4.borrow()).expect("equal bounds");
        shared.2.get()
    }

    async fn scan(&mut self, key: &[u8; 16], count: usize) -> usize {
        // Keys are in the order of their tokens, and a range ends with its vnode: then the next one follows.
        let from = of(key);
        let mut walked = 0;
        let mut range = KeyRange::vnode(1, from.prefix.vnode);
        range = range.from(&from);
        for vnode in from.prefix.vnode..VNODES {
            let limits = ScanLimits::records(count - walked);
            let visit = |key: Key<'_>, record: Record<'_>| {
                assert!(key.partition.len() == 16 && record.value.len() == self.value_bytes);
                walked += 1;
                ControlFlow::Continue(())
            };
            self.engine
                .scan(&range, Direction::Forward, limits, visit)
                .await
                .unwrap_or_else(|error| panic!("{error}"));
            if walked == count || vnode + 1 == VNODES {
                break;
            }
            range = KeyRange::vnode(1, vnode + 1);
        }
        walked
    }

    fn depths(&self) -> &'static [usize] {
        &[200]
    }

    async fn settle(&mut self) {
        self.rest().await;
        // An engine flushes by itself when it must, or for a checkpoint: links to its tables, which go again.
        self.engine.checkpoint(CHECKPOINT).await.expect("the disk works");
        self.engine.remove_checkpoint(CHECKPOINT).await.expect("the disk works");
        // As a node does that has had no writes for a while.
        self.engine.rest();
        self.rest().await;
    }

    fn expect(&mut self, due: Instant) {
        self.pace.due.set(Some(due));
    }

    async fn give_way(&mut self) {
        self.start_job();
        if self.job_runs.get() || self.pump_runs.get() || self.reads.get() > 0 {
            self.pace.yield_now().await;
        }
    }

    fn note(&self) -> String {
        let stats = self.engine.stats();
        let levels = stats.tables.iter().zip(&stats.table_bytes).enumerate();
        let levels = levels.filter(|(_, (tables, _))| **tables > 0).map(|(level, (tables, bytes))| {
            format!("level {level}: {tables} tables, {:.1} MiB", mib(*bytes))
        });
        format!(
            "gets: {} memtable, {} cached, {} by read; {}; {} flushes, {} compactions, {} moves; log that counts {:.1} MiB; \
             values that count {:.1} MiB; delay {} us",
            stats.gets_memtable,
            stats.gets_cached,
            stats.gets_disk,
            levels.collect::<Vec<_>>().join(", "),
            stats.flushes,
            stats.compactions,
            stats.moves,
            mib(stats.log_bytes),
            mib(stats.value_live_bytes),
            stats.write_delay_us
        )
    }

    async fn close(self) {
        while self.job_runs.get() || self.pump_runs.get() {
            self.env.sleep_ns(PAUSE_NS).await;
        }
        self.engine.close().await.expect("the disk works");
    }
}
