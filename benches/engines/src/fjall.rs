//! fjall. What it cannot do: it reads and writes through the page cache, which it cannot go around, so that its gets from disk are
//! gets from the kernel's memory where that suffices, which no figure of this process's memory shows; it reads one key at a time.

use std::time::Duration;

use ::fjall::config::CompressionPolicy;
use ::fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use hdrhistogram::Histogram;

use crate::db::{Db, Setup};
use crate::keys;

pub struct Fjall {
    db: Database,
    items: Keyspace,
    batch: Vec<([u8; 16], Vec<u8>)>,
    mode: Option<PersistMode>,
    value_bytes: usize,
}

impl Fjall {
    pub fn open(setup: &Setup) -> Fjall {
        let builder =
            Database::builder(&setup.directory).cache_size(setup.cache_bytes as u64).worker_threads(2);
        let db = builder.open().unwrap_or_else(|error| panic!("fjall: {error}"));
        let compression = if setup.lz4 { CompressionType::Lz4 } else { CompressionType::None };
        let options = || {
            KeyspaceCreateOptions::default()
                .max_memtable_size(setup.memtable_bytes as u64)
                .data_block_compression_policy(CompressionPolicy::all(compression))
        };
        let items = db.keyspace("items", options).unwrap_or_else(|error| panic!("fjall: {error}"));
        let mode = setup.synced.then_some(PersistMode::SyncData);
        Fjall { db, items, batch: Vec::new(), mode, value_bytes: setup.value_bytes }
    }
}

impl Db for Fjall {
    async fn put(&mut self, key: &[u8; 16], value: &[u8]) {
        self.batch.push((*key, value.to_vec()));
    }

    async fn commit(&mut self) {
        let mut batch = self.db.batch().durability(self.mode);
        for (key, value) in self.batch.drain(..) {
            batch.insert(&self.items, &key[..], value);
        }
        batch.commit().unwrap_or_else(|error| panic!("fjall: {error}"));
    }

    async fn get<R>(&mut self, key: &[u8; 16], seen: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let value = self.items.get(key).unwrap_or_else(|error| panic!("fjall: {error}"));
        value.map(|value| seen(&value))
    }

    async fn get_many(&mut self, keys: &[[u8; 16]], mut seen: impl FnMut(usize, &[u8])) {
        for (at, key) in keys.iter().enumerate() {
            self.get(key, |value| seen(at, value)).await;
        }
    }

    async fn get_deep(
        &mut self,
        mut numbers: impl FnMut() -> u64,
        total: u64,
        _depth: usize,
        latencies: &mut Histogram<u64>,
    ) -> u64 {
        let (mut found, len) = (0, self.value_bytes);
        for _ in 0..total {
            let number = numbers();
            let start = std::time::Instant::now();
            let whole = self.get(&keys::key(number), |value| keys::is_of(value, number, len)).await;
            assert_ne!(whole, Some(false), "record {number}");
            found += u64::from(whole.is_some());
            latencies.saturating_record(start.elapsed().as_nanos() as u64);
        }
        found
    }

    async fn scan(&mut self, key: &[u8; 16], count: usize) -> usize {
        let mut walked = 0;
        for item in self.items.range(&key[..]..).take(count) {
            let (key, value) = item.into_inner().unwrap_or_else(|error| panic!("fjall: {error}"));
            assert!(key.len() == 16 && value.len() == self.value_bytes);
            walked += 1;
        }
        walked
    }

    fn depths(&self) -> &'static [usize] {
        &[1]
    }

    async fn settle(&mut self) {
        self.items.rotate_memtable_and_wait().unwrap_or_else(|error| panic!("fjall: {error}"));
        let (mut quiet, mut completed) = (0, 0);
        while quiet < 20 {
            let now = self.db.compactions_completed();
            let busy = self.db.outstanding_flushes() + self.db.active_compactions();
            quiet = if busy == 0 && now == completed { quiet + 1 } else { 0 };
            completed = now;
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    async fn give_way(&mut self) {}

    fn note(&self) -> String {
        "page cache in play".into()
    }

    async fn close(self) {
        drop(self.items);
        drop(self.db);
    }
}
