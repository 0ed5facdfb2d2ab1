//! Back-pressure in virtual time: writers that wait as they are asked settle at what background work sustains, and are not refused.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use crate::rig::{self, Random, VNODES, Write, key, small_options};
use ferrite_lsm::mem_disk::MemDisk;
use ferrite_lsm::mem_disk::run::{block_on, poll_once};
use ferrite_lsm::{Class, DiskError, Engine, OpenError, Options, Pace, Refusal, Strategy};

const US: u64 = 1_000;
const SECOND: u64 = 1_000_000_000;
/// What a commit takes.
const COMMIT_NS: u64 = 100 * US;
const GROUP: u64 = 16;
const KEYS: u64 = 24_000;

/// A device of a fixed bandwidth for background work, in virtual time.
#[derive(Clone)]
struct Device {
    now_ns: Rc<Cell<u64>>,
    /// When it has done what it was given.
    free_ns: Rc<Cell<u64>>,
    ns_per_byte: u64,
}

impl Pace for Device {
    fn should_yield(&self) -> bool {
        false
    }

    fn yield_now(&self) -> impl Future<Output = ()> + 'static {
        std::future::ready(())
    }

    fn throttle(&self, bytes: usize, _: Class) -> impl Future<Output = ()> + 'static {
        let done_ns = self.free_ns.get().max(self.now_ns.get()) + bytes as u64 * self.ns_per_byte;
        self.free_ns.set(done_ns);
        let now_ns = self.now_ns.clone();
        poll_fn(move |_| if now_ns.get() >= done_ns { Poll::Ready(()) } else { Poll::Pending })
    }
}

type DeviceEngine = Engine<MemDisk, Device>;

fn options(strategy: Strategy) -> Options {
    let mut options = small_options(1);
    options.strategy = strategy;
    options.memtable_bytes = 1 << 20;
    options.log_bytes_max = Some(4 << 20);
    options.table.write_bytes = 4 << 10;
    options.l0_tables_trigger = 4;
    options.level_base_bytes = 2 << 20;
    options.table_bytes = 256 << 10;
    options.level_fanout = 8;
    options
}

fn open(ns_per_byte: u64, options: Options) -> (DeviceEngine, Device) {
    let device = Device { now_ns: Rc::default(), free_ns: Rc::default(), ns_per_byte };
    let stores = options.stores.clone();
    let opened = block_on(Engine::open(MemDisk::new(), device.clone(), options));
    let (engine, _) = opened.expect("a fresh disk");
    let vnodes: Vec<(u16, u16)> = (0..VNODES).map(|vnode| (vnode, stores[usize::from(vnode) % 2])).collect();
    block_on(engine.assign(&vnodes)).expect("no faults");
    (engine, device)
}

fn stage(engine: &DeviceEngine, n: u64, order: u64) -> Result<usize, Refusal> {
    let write = Write { key: n, order, actor: 1, bytes: 200, tombstone: false };
    let value = write.value();
    engine.stage(key(n).as_key(), write.record(&value), 0).map(|_| value.len())
}

type Work = Pin<Box<dyn Future<Output = Result<(), DiskError>>>>;

/// Background work, one job at a time.
struct Background {
    engine: DeviceEngine,
    device: Device,
    job: Option<Work>,
}

impl Background {
    /// Lets time pass, and work go on as far as the device gets with it.
    fn advance(&mut self, until_ns: u64) {
        loop {
            while self.work() {}
            let free_ns = self.device.free_ns.get();
            if self.job.is_none() || free_ns > until_ns {
                self.device.now_ns.set(until_ns);
                return;
            }
            self.device.now_ns.set(free_ns);
        }
    }

    /// Whether there is more to do now.
    fn work(&mut self) -> bool {
        if self.job.is_none() {
            let Some(next) = self.engine.next_job() else { return false };
            let engine = self.engine.clone();
            self.job = Some(Box::pin(async move { engine.run(next).await }));
        }
        let done = self.job.as_mut().and_then(|job| poll_once(job.as_mut()));
        let Some(done) = done else { return false };
        done.expect("no faults");
        self.job = None;
        true
    }
}

/// A host that writes as fast as it is let, for so long; bytes written in each tenth of that time, and its longest wait.
fn overload(strategy: Strategy, ns_per_byte: u64, length_ns: u64) -> ([u64; 10], u64) {
    let (engine, device) = open(ns_per_byte, options(strategy));
    let mut background = Background { engine: engine.clone(), device: device.clone(), job: None };
    let (mut random, mut order) = (Random::new(1), 0);
    let mut written = [0; 10];
    let mut longest_us = 0;
    while device.now_ns.get() < length_ns {
        let tenth = (device.now_ns.get() * 10 / length_ns) as usize;
        for _ in 0..GROUP {
            order += 1;
            let staged = stage(&engine, random.below(KEYS), order);
            match staged {
                Ok(bytes) => written[tenth] += bytes as u64,
                // The group owes as much as one may: it goes first.
                Err(Refusal::Overloaded)
                    if engine.write_delay_us() == options(strategy).write_delay_max_us =>
                {
                    break;
                }
                Err(refusal) => panic!("{refusal:?} at {} ns: {:?}", device.now_ns.get(), engine.stats()),
            }
        }
        let delay_us = engine.write_delay_us();
        longest_us = longest_us.max(delay_us);
        background.advance(device.now_ns.get() + delay_us * US + COMMIT_NS);
        block_on(engine.commit()).expect("no faults");
    }
    let stats = engine.stats();
    assert!(
        stats.compactions > 10 && stats.l0_tables_max < options(strategy).l0_tables_max as u64,
        "{stats:?}"
    );
    (written, longest_us)
}

#[test]
fn sustained_overload_settles_without_a_refusal() {
    for strategy in [Strategy::Leveled, Strategy::Tiered] {
        // Ten times slower, as much in ten times the time: the price finds the rate, whatever it is.
        let mut settled = Vec::new();
        for (ns_per_byte, seconds) in [(200, 40), (2_000, 400)] {
            let (written, longest_us) = overload(strategy, ns_per_byte, seconds * SECOND);
            let late = &written[4..];
            let (least, most) = (late.iter().min().unwrap_or(&0), late.iter().max().unwrap_or(&0));
            assert!(*least * 2 > *most, "{strategy:?}, {ns_per_byte} ns a byte: {written:?}");
            assert!(longest_us <= 30_000, "{longest_us} us");
            println!(
                "{strategy:?}, {ns_per_byte} ns a byte: longest wait {longest_us} us, {written:?} bytes"
            );
            settled.push(late.iter().sum::<u64>());
        }
        let ratio = settled[0] as f64 / settled[1] as f64;
        assert!((0.5..2.0).contains(&ratio), "{strategy:?}: {settled:?}");
    }
}

#[test]
fn the_delay_rises_with_level_0_of_the_store_that_lags_only() {
    let (engine, _) = open(0, options(Strategy::Leveled));
    let (mut order, mut delays) = (0, Vec::new());
    // Keys of one length, in the first store. Flushes run, compactions do not.
    let refused = loop {
        order += 1;
        match stage(&engine, order * 6 % KEYS, order) {
            Ok(_) => {}
            Err(refusal) => break refusal,
        }
        let (l0_tables, delay_us) = (engine.stats().l0_tables_max, engine.write_delay_us());
        delays.push((l0_tables, delay_us));
        block_on(engine.commit()).expect("no faults");
        while let Some(job) = engine.next_job() {
            if job.is_compaction() {
                break;
            }
            block_on(engine.run(job)).expect("no faults");
        }
    };
    assert_eq!(refused, Refusal::Overloaded);
    assert!(delays.is_sorted_by_key(|(l0_tables, _)| *l0_tables), "level 0 only grows here");
    assert!(delays.is_sorted_by_key(|(_, delay_us)| *delay_us), "and the delay with it");
    let limits = options(Strategy::Leveled);
    let at =
        |l0: usize| delays.iter().find(|(tables, _)| *tables == l0 as u64).map(|(_, delay_us)| *delay_us);
    assert_eq!(at(limits.l0_tables_slow), Some(0));
    let last = at(limits.l0_tables_max - 1).expect("it was reached");
    assert!(last > 200, "{last} us for one record");
    for l0 in limits.l0_tables_slow..limits.l0_tables_max - 1 {
        let step = at(l0 + 1).zip(at(l0)).map(|(after, before)| after - before);
        assert!(step.is_some_and(|step| step <= last / 3), "no step is a cliff: {step:?} of {last} at {l0}");
    }
    // The other store pays nothing.
    stage(&engine, 1, order).expect("its level 0 is empty");
    assert_eq!(engine.write_delay_us(), 0);
}

/// More than what two hundred records make the open tables take.
const TABLES_BYTES: usize = 1 << 20;

/// An engine with a few KiB for memtables answered every write with `Overloaded`, for ever and without a word why.
#[test]
fn memory_that_could_take_no_write_is_refused_by_name() {
    for stores in [1, 2, 7, 40, 700] {
        let numbers: Vec<u16> = (0..stores).collect();
        let small = Options { stores: numbers, ..small_options(1) };
        let memtable_bytes = Options::memtable_bytes_min(usize::from(stores));
        let least = Options { memtable_bytes, ..small.clone() };
        let memory_bytes = least.memory_bytes_min();
        let least = Options { memory_bytes, ..least };
        // Open tables take more, as the data grows.
        writes_go_on(Options { memory_bytes: memory_bytes + TABLES_BYTES, ..least.clone() });

        let less = Options { memtable_bytes: memtable_bytes - 1, ..least.clone() };
        assert_eq!(refused(less), ("memtable_bytes", memtable_bytes as u64 - 1, memtable_bytes as u64));
        let less = Options { memory_bytes: memory_bytes - 1, ..least };
        assert_eq!(refused(less), ("memory_bytes", memory_bytes as u64 - 1, memory_bytes as u64));
    }
}

fn refused(options: Options) -> (&'static str, u64, u64) {
    let disk = MemDisk::new();
    let refused = rig::open(&disk, options).map(|_| ()).expect_err("it could take no write");
    assert_eq!(disk.steps(), 0, "nothing was touched");
    let words = refused.to_string();
    let OpenError::TooLittle { what, bytes, least } = refused else { panic!("{words}") };
    assert!(words.starts_with(what) && words.contains(&least.to_string()), "{words}");
    (what, bytes, least)
}

/// Whatever is refused is taken once the jobs are done.
fn writes_go_on(options: Options) {
    let (engine, _) = rig::open(&MemDisk::new(), options.clone()).expect("it is enough");
    for order in 1..=200 {
        let write = Write { key: order, order, actor: 1, bytes: 1_000, tombstone: false };
        let value = write.value();
        for refusals in 0.. {
            match engine.stage(key(order).as_key(), write.record(&value), 0) {
                Ok(_) => break,
                Err(refusal) => assert_eq!((refusal, refusals), (Refusal::Overloaded, 0), "{options:?}"),
            }
            block_on(engine.commit()).expect("no faults");
            block_on(rig::run_jobs(&engine)).expect("no faults");
        }
        if order % 7 == 0 {
            block_on(engine.commit()).expect("no faults");
        }
    }
}
