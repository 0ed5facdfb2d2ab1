//! What the engine's tests share: small options, numbered keys and values that say what they are, and a host that runs jobs.

#![allow(dead_code, reason = "each test binary uses its part")]

#[cfg(feature = "planted-bugs")]
pub(crate) mod planted;

use std::collections::BTreeMap;

use ferrite_lsm::log::LogOptions;
use ferrite_lsm::mem_disk::run::block_on;
use ferrite_lsm::mem_disk::{MemDisk, MemPace};
use ferrite_lsm::{
    Engine, Key, KeyBuf, OpenError, Options, Prefix, Record, RecordFlags, Recovery, TableOptions,
};

pub(crate) type TestEngine = Engine<MemDisk, MemPace>;

/// Vnodes in use; each core has two stores.
pub(crate) const VNODES: u16 = 4;

/// Says what a test tried and how often, for the script that adds it all up.
pub(crate) fn count(what: &str, number: u64) {
    println!("counted: {what} {number}");
}

/// A small generator whose state is its seed (xorshift).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound
    }
}

/// Options under which a few hundred records make flushes, compactions and several segments.
pub(crate) fn small_options(entropy: u128) -> Options {
    let mut options = Options::new(0, vec![3, 5], entropy);
    options.memtable_bytes = 96 << 10;
    options.cache_bytes = 128 << 10;
    options.record_cache_bytes = Some(40 << 10);
    options.log = LogOptions { segment_bytes: 128 << 10, group_bytes: 32 << 10, ..LogOptions::new(1) };
    options.table = TableOptions { write_bytes: 16 << 10, ..TableOptions::default() };
    options.table_bytes = 24 << 10;
    options.l0_tables_trigger = 2;
    options.level_base_bytes = 16 << 10;
    options.level_fanout = 2;
    options.manifest_bytes_max = 32 << 10;
    options
}

/// The same, with values from 150 bytes on apart from the tables.
pub(crate) fn apart_options(entropy: u128) -> Options {
    Options { large_value_bytes: Some(150), ..small_options(entropy) }
}

/// Key number `n`.
pub(crate) fn key(n: u64) -> KeyBuf {
    let mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let prefix = Prefix { space: 1, vnode: (n % u64::from(VNODES)) as u16, table: 7, token: mixed };
    let sort = if n.is_multiple_of(3) { b"s"[..].into() } else { Box::default() };
    KeyBuf { prefix, partition: n.to_be_bytes()[..].into(), sort }
}

/// A write: which key, in which version, and how long its value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Write {
    pub(crate) key: u64,
    pub(crate) order: u64,
    pub(crate) actor: u64,
    pub(crate) bytes: usize,
    pub(crate) tombstone: bool,
}

impl Write {
    /// The value, which tells its version.
    pub(crate) fn value(&self) -> Vec<u8> {
        if self.tombstone {
            return Vec::new();
        }
        let mut value = Vec::with_capacity(self.bytes + 24);
        for field in [self.key, self.order, self.actor] {
            value.extend_from_slice(&field.to_le_bytes());
        }
        let filler = self.order.wrapping_mul(31).wrapping_add(self.key) as u8;
        value.resize(24 + self.bytes, filler);
        value
    }

    pub(crate) fn record<'a>(&self, value: &'a [u8]) -> Record<'a> {
        let flags = RecordFlags(if self.tombstone { RecordFlags::TOMBSTONE } else { 0 });
        Record { order: self.order, actor: self.actor, flags, expiry_ms: 0, value }
    }
}

/// What was acknowledged: per key the winner.
pub(crate) type Model = BTreeMap<u64, Write>;

pub(crate) fn apply(model: &mut Model, write: Write) {
    let slot = model.entry(write.key).or_insert(write);
    if (write.order, write.actor) > (slot.order, slot.actor) {
        *slot = write;
    }
}

pub(crate) fn open(disk: &MemDisk, options: Options) -> Result<(TestEngine, Recovery), OpenError> {
    block_on(open_with(disk, MemPace::yielding(3), options))
}

pub(crate) async fn open_with(
    disk: &MemDisk,
    pace: MemPace,
    options: Options,
) -> Result<(TestEngine, Recovery), OpenError> {
    let stores = options.stores.clone();
    let (engine, recovery) = Engine::open(disk.clone(), pace, options).await?;
    let missing: Vec<(u16, u16)> = (0..VNODES)
        .filter(|&vnode| engine.vnode_store(vnode).is_none())
        .map(|vnode| (vnode, stores[usize::from(vnode) % stores.len()]))
        .collect();
    engine.assign(&missing).await?;
    Ok((engine, recovery))
}

/// What the engine says of a key; memory first, then the disk.
pub(crate) fn lookup(engine: &TestEngine, n: u64) -> Option<(u64, u64, bool, Vec<u8>)> {
    let key = key(n);
    let own = |record: Record<'_>| {
        assert_eq!(record.flags.0 & !RecordFlags::OUTSIDE, 0, "the engine's marks stay inside");
        (record.order, record.actor, record.flags.0 & RecordFlags::TOMBSTONE != 0, record.value.to_vec())
    };
    let quick = engine.get(key.as_key(), |record| record.map(own));
    let slow =
        block_on(engine.read(key.as_key())).expect("the disk is sound").map(|found| own(found.record()));
    if let Ok(quick) = quick {
        assert_eq!(quick, slow, "both paths say the same of key {n}");
    }
    slow
}

pub(crate) fn check(engine: &TestEngine, model: &Model, keys: u64) {
    for n in 0..keys {
        let expected = model.get(&n).map(|write| (write.order, write.actor, write.tombstone, write.value()));
        assert_eq!(lookup(engine, n), expected, "key {n}");
    }
    check_batches(engine, keys);
}

/// Batches of all lengths say what gets of their keys say, also of keys that live nowhere and of what is not in memory.
fn check_batches(engine: &TestEngine, keys: u64) {
    let mut start = 0;
    for len in (0..40).cycle() {
        if start >= 2 * keys {
            return;
        }
        let mut bufs: Vec<KeyBuf> = (start..start + len).map(|n| key(n * 7 % (keys + 20))).collect();
        if let Some(first) = bufs.first_mut().filter(|_| len % 5 == 0) {
            first.prefix.vnode = VNODES + 3;
        }
        start += len;
        let keys: Vec<Key<'_>> = bufs.iter().map(KeyBuf::as_key).collect();
        let own = |record: Record<'_>| (record.order, record.actor, record.flags, record.value.to_vec());
        let alone: Vec<_> = keys.iter().map(|key| engine.get(*key, |record| record.map(own))).collect();
        let before = engine.stats();
        let mut together = Vec::new();
        engine.get_batch(&keys, |at, record| {
            assert_eq!(at, together.len(), "in the order of the keys");
            together.push(record.map(|record| record.map(own)));
        });
        assert_eq!(together, alone);
        let after = engine.stats();
        let answered = |stats: &ferrite_lsm::Stats| {
            stats.gets_memtable + stats.gets_cached + stats.gets_absent + stats.record_cache_hits
        };
        let known =
            alone.iter().zip(&keys).filter(|(answer, key)| answer.is_ok() && key.prefix.vnode < VNODES);
        assert_eq!(answered(&after) - answered(&before), known.count() as u64);
    }
}

/// Stages a write.
pub(crate) fn stage(engine: &TestEngine, write: &Write) -> Result<ferrite_lsm::Seq, ferrite_lsm::Refusal> {
    let (key, value) = (key(write.key), write.value());
    engine.stage(key.as_key(), write.record(&value), 1)
}

/// Runs every job that is due. Gives up after the first that fails.
pub(crate) async fn run_jobs(engine: &TestEngine) -> Result<(), ferrite_lsm::DiskError> {
    while let Some(job) = engine.next_job() {
        engine.run(job).await?;
    }
    Ok(())
}

/// Runs so many jobs at most, as a host does: also after some have failed. How many failed.
pub(crate) async fn run_jobs_on(engine: &TestEngine, jobs: usize) -> usize {
    let mut failed = 0;
    for _ in 0..jobs {
        let Some(job) = engine.next_job() else { break };
        failed += usize::from(engine.run(job).await.is_err());
    }
    failed
}

/// Key of the space that is the node's own.
pub(crate) fn local_key() -> Key<'static> {
    Key { prefix: Prefix { space: 0, vnode: 0, table: 0, token: 0 }, partition: b"local", sort: b"" }
}
