//! What a row asks of an engine.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;

use hdrhistogram::Histogram;

use crate::keys;

/// What an engine is opened with; the same for all.
#[derive(Clone, Debug)]
pub struct Setup {
    pub directory: PathBuf,
    /// Block cache, in bytes.
    pub cache_bytes: usize,
    /// Memtables that take writes, in bytes.
    pub memtable_bytes: usize,
    pub lz4: bool,
    /// Length from which Ferrite keeps values apart from the tree, in bytes; the others have that off, as they come.
    pub large_value_bytes: Option<usize>,
    /// Stores of Ferrite's engine; the others have one tree.
    pub stores: u16,
    pub value_bytes: usize,
    /// Each commit is synced before it returns.
    pub synced: bool,
    /// Reads come from the device: RocksDB then has several under way at once, which would only cost where all is cached.
    pub reads_device: bool,
}

/// An open engine. Called by one thread; what it does beside runs on the same processor.
#[allow(async_fn_in_trait, reason = "one thread, no trait objects")]
pub trait Db {
    /// Adds a record to the group that the next commit writes.
    async fn put(&mut self, key: &[u8; 16], value: &[u8]);
    /// Writes the group, to the log first.
    async fn commit(&mut self);
    /// As [`Db::commit`], of a group that was due at `due`, but need not wait: what comes next goes on beside it. How long the
    /// group took is recorded when it is written.
    async fn commit_beside(&mut self, due: Instant, latencies: &Rc<RefCell<Histogram<u64>>>) {
        self.commit().await;
        latencies.borrow_mut().saturating_record(due.elapsed().as_nanos() as u64);
    }
    /// Looks a key up; `seen` is told its value.
    async fn get<R>(&mut self, key: &[u8; 16], seen: impl FnOnce(&[u8]) -> R) -> Option<R>;
    /// Looks up a record that is there and was due at `due`. Where it has to be read from the device, what comes next may go on beside it.
    /// How long it took is recorded when it is there.
    async fn get_beside(
        &mut self,
        number: u64,
        value_bytes: usize,
        due: Instant,
        latencies: &Rc<RefCell<Histogram<u64>>>,
    ) {
        let whole = self.get(&keys::key(number), |value| keys::is_of(value, number, value_bytes)).await;
        assert_eq!(whole, Some(true), "record {number}");
        latencies.borrow_mut().saturating_record(due.elapsed().as_nanos() as u64);
    }
    /// Looks up several keys at once; `seen` is told the place and the value of each that is there.
    async fn get_many(&mut self, keys: &[[u8; 16]], seen: impl FnMut(usize, &[u8]));
    /// Looks up `total` keys with `depth` of them under way at any time; says how many were there.
    async fn get_deep(
        &mut self,
        numbers: impl FnMut() -> u64,
        total: u64,
        depth: usize,
        latencies: &mut Histogram<u64>,
    ) -> u64;
    /// Walks up to `count` records from the first not before `key`; says how many.
    async fn scan(&mut self, key: &[u8; 16], count: usize) -> usize;
    /// Gets under way at once that are worth trying where reads come from disk.
    fn depths(&self) -> &'static [usize];
    /// Writes what is in memtables into tables, and waits until background work owes nothing.
    async fn settle(&mut self);
    /// The next request is due then: background work that shares this thread should have ended its slice.
    fn expect(&mut self, _due: Instant) {}
    /// Lets background work that shares this thread run a little.
    async fn give_way(&mut self);
    /// Of interest beside the figures: where hits came from.
    fn note(&self) -> String;
    /// Waits for the reads that [`Db::get_beside`] left under way.
    async fn end_reads(&mut self) {}
    /// Ends in good order.
    async fn close(self);
}
