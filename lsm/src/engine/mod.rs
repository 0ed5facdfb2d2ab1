//! The engine of one core: stores behind one log, and the work that keeps them in shape.
//!
//! A write is *staged* (encoded into the next log group), *committed* (the group is written and synced) and only then
//! *applied* to its store's memtable, so that nothing is readable that a power cut could take back. A read goes from the
//! newest source to the oldest: the active memtable, frozen ones, tables of level 0, then one table of each level.
//!
//! The engine spawns nothing. Its host calls [`Engine::commit`] from one task while [`Engine::has_staged`], and runs what
//! [`Engine::next_job`] offers, asked after each commit and each job. A long job does the urgent ones on its way, so one task
//! for jobs is enough.
//!
//! Invariants:
//! 1. A record is in a memtable only after its group was synced (or, with a periodic log, written).
//! 2. Of two sources that hold a key, the one that is asked first holds the record that was applied later.
//! 3. A log segment is recycled only after the manifest says durably that every store has its records in tables.
//! 4. A table or value file is unlinked only after the manifest has dropped it durably and no read uses it.

mod apply;
mod batch;
mod checkpoint;
mod compact;
mod doubt;
mod export;
mod flush;
mod ingest;
mod job;
mod levels;
mod memory;
mod obsolete;
mod open;
mod options;
mod outcome;
mod output;
mod pending;
mod pressure;
mod quarantine;
mod read;
mod scan;
mod scan_source;
mod scrub;
mod stats;
mod store;
mod values;
mod vnode_drop;
mod vnode_move;
mod vnode_size;
mod write;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::ops::ControlFlow;
use std::rc::Rc;

use compact::Compacting;
pub use export::{CHUNK_BYTES_MAX, CHUNK_FORMAT, ChunkError, Exported};
pub use ingest::{Ingest, IngestError};
pub use job::Job;
use job::Running;
pub use memory::Memory;
use obsolete::Obsolete;
pub use options::Options;
pub use outcome::{AssignError, CommitError, Found, Miss, OpenError, Recovery, Refusal};
pub(crate) use output::{NUMBER_BITS, counter_of, left_counter_of};
use pending::Pending;
pub use quarantine::Quarantined;
pub use scan::ScanLimits;
pub use scrub::SCRUB_BYTES_AHEAD_MAX;
use scrub::Scrub;
use stats::Counters;
pub use stats::{Stats, StoreStats};
use store::Stores;
pub use vnode_size::Estimate;

use crate::compaction::Floors;
use crate::log::{Fenced, Log};
use crate::manifest::{Catalog, Edit, Manifest, Turn};
use crate::planted::{self, Bug};
use crate::record_cache::RecordCache;
use crate::{
    BlockCache, Direction, Disk, DiskError, Extent, Key, KeyRange, Pace, ReadError, Record, Seq, Table,
    TableName, ValueFile,
};

/// One core's engine. Clones are handles to the same engine; all live on one thread.
///
/// After an error of [`Engine::assign`], [`Engine::drop_extent`], [`Engine::move_vnode`] or [`Ingest::finish`] nothing has changed here.
/// Where it is [`DiskErrorKind::NoSpace`](crate::DiskErrorKind::NoSpace), and where the future was dropped before its end, the change is
/// in doubt: the disk may hold it all the same, and an open finds it made, or not. The next change that succeeds settles that it is not
/// made; [`Engine::next_job`] offers one.
pub struct Engine<D: Disk, P: Pace>(Rc<Core<D, P>>);

impl<D: Disk, P: Pace> Clone for Engine<D, P> {
    fn clone(&self) -> Self {
        Engine(Rc::clone(&self.0))
    }
}

struct Core<D: Disk, P: Pace> {
    disk: D,
    pace: P,
    options: Options,
    log: Log<D>,
    manifest: Manifest<D>,
    cache: Rc<BlockCache>,
    /// The stores have it, too, to tell it what they apply.
    records: Rc<RecordCache>,
    stores: RefCell<Stores<D>>,
    /// Every open table that the manifest names, by number. All that it names are, but for `unreadable`.
    tables: RefCell<BTreeMap<u64, Rc<Table<D>>>>,
    /// Every open value file that a table names, dropped or not, by number.
    values: RefCell<BTreeMap<u64, Rc<ValueFile<D>>>>,
    /// Numbers of value files that are mostly garbage, as the last survey found them.
    wasteful: RefCell<BTreeSet<u64>>,
    /// Numbers of value files from which a value could not be collected: left alone until it is known whether they are damaged.
    suspect_values: RefCell<BTreeSet<u64>>,
    /// Numbers of value files of which the device does not give something: nothing is collected from them.
    withheld_values: RefCell<BTreeSet<u64>>,
    obsolete: RefCell<Obsolete<D>>,
    /// Numbers of tables that could not be read somewhere: compactions leave them alone until it is known whether they are damaged.
    suspects: RefCell<BTreeSet<u64>>,
    /// Numbers of tables that are named and could not be opened, since the device failed.
    unreadable: RefCell<BTreeSet<u64>>,
    /// Numbers of tables whose index, filter or properties are damaged on the disk, and sound in memory.
    frail: RefCell<BTreeSet<u64>>,
    /// Numbers of tables that are mostly retired records: they are written anew without them.
    spent: RefCell<BTreeSet<u64>>,
    scrub: Scrub,
    /// Numbers of tables that were written because what they came from was mostly garbage.
    rewritten: RefCell<BTreeSet<u64>>,
    /// The next file number, without the core's part.
    next_number: Cell<u64>,
    running: Running,
    /// Held by whoever flushes: the oldest memtable of a store goes first, and alone.
    flush_turn: Turn,
    /// See [`apply`].
    commit_turn: Turn,
    /// Held by whoever merges, or must not have anybody merge.
    compact_turn: Turn,
    /// The last merge was of a table that something was dropped of.
    trimmed_last: Cell<bool>,
    compaction_due: Cell<bool>,
    /// What may be purged has changed since the last survey.
    survey_due: Cell<bool>,
    /// When the next table is due for its expired records, in milliseconds since the Unix epoch.
    garbage_due_ms: Cell<u64>,
    compacting: Cell<Option<Compacting>>,
    /// No compaction is offered any more.
    closing: Cell<bool>,
    /// No work at all is: the manifest says that the log is closed, or is about to, and whatever changed it after that would take that back.
    work_ended: Cell<bool>,
    floors: RefCell<Floors>,
    pending: Pending,
    debt_bytes: Cell<u64>,
    /// Bytes of the open tables in memory, as they were last counted.
    open_bytes: Cell<usize>,
    /// Bytes of the tables under construction, and of those finished that are not named yet.
    build_bytes: Cell<usize>,
    /// Why writes are refused, if they are.
    refusal: Cell<Option<Refusal>>,
    /// What the group that fills should wait, in picoseconds.
    owed_ps: Cell<u64>,
    disk_full: Cell<bool>,
    /// A group found no room: the next job looks whether there is any.
    log_full: Cell<bool>,
    /// There was no room for this life's log segment and manifest yet.
    is_put_off: Cell<bool>,
    /// Times in a row that background work found the disk full.
    setbacks: Cell<u32>,
    fenced: Cell<bool>,
    counters: Counters,
}

impl<D: Disk, P: Pace> Engine<D, P> {
    /// Opens the engine of a core and recovers what its log holds. After an error the data is as it was.
    pub async fn open(disk: D, pace: P, options: Options) -> Result<(Self, Recovery), OpenError> {
        open::open(disk, pace, options).await
    }

    /// The store where a vnode lives.
    pub fn vnode_store(&self, vnode: u16) -> Option<u16> {
        self.0.stores.borrow().number_of(vnode)
    }

    /// Puts vnodes into stores of this core: `(vnode, store)`. Durable when it returns. What a vnode has already is kept.
    /// [`AssignError::Taken`] if one was dropped and not all of it is gone yet: none of them was assigned then, and the call may be
    /// made again. What drops, moves or takes in a vnode at the same time comes first.
    ///
    /// # Panics
    /// If a store is not this core's, or a vnode lives in another store: its records would be lost from sight.
    pub async fn assign(&self, vnodes: &[(u16, u16)]) -> Result<(), AssignError> {
        for &(vnode, store) in vnodes {
            assert!(self.0.options.stores.contains(&store), "store {store} is not this core's");
            let lives_in = self.vnode_store(vnode);
            assert!(lives_in.is_none_or(|present| present == store), "vnode {vnode} lives in another store");
        }
        // Drops, moves and the ends of ingests hold it while a vnode is on its way: where it lives is looked up when none of them is.
        let _flushing = match planted::active(Bug::AssignTakesNoTurn) {
            true => None,
            false => Some(self.0.flush_turn.take().await),
        };
        let mut edits = Vec::new();
        for &(vnode, store) in vnodes {
            match self.vnode_store(vnode) {
                Some(present) if present == store => {}
                Some(present) => return Err(AssignError::LivesElsewhere { vnode, store: present }),
                None => {
                    if self.0.is_taken(vnode, store) {
                        return Err(AssignError::Taken { vnode });
                    }
                    edits.push(Edit::Assign { vnode, store, epoch: 0 });
                }
            }
        }
        if edits.is_empty() {
            // They may live elsewhere on the disk, or nowhere.
            self.0.settle_doubt().await?;
            return Ok(());
        }
        self.0.change(&edits).await.map_err(|failed| failed.error)?;
        let mut stores = self.0.stores.borrow_mut();
        for &(vnode, store) in vnodes {
            stores.place(vnode, store);
        }
        Ok(())
    }

    /// Puts a record into the next group. It is readable and durable once [`Engine::commit`] has returned its number or a later one.
    #[inline]
    pub fn stage(&self, key: Key<'_>, record: Record<'_>, vnode_epoch: u64) -> Result<Seq, Refusal> {
        self.0.stage(key, record, vnode_epoch)
    }

    /// Whether a commit has something to do.
    #[inline]
    pub fn has_staged(&self) -> bool {
        self.0.log.has_staged()
    }

    /// Makes what is staged durable, as one group, and readable; returns the highest durable number. One call at a time.
    pub async fn commit(&self) -> Result<Seq, CommitError> {
        self.0.commit().await
    }

    /// Looks a key up in memory, without waiting and without allocating: calls `found` with its record (tombstones and
    /// expired records included), or with `None` if there is none. After `Err(Miss)` it was not called, and
    /// [`Engine::read`] has the answer.
    ///
    /// `found` may stage, and may not wait for anything: the engine is borrowed while it runs.
    #[inline]
    pub fn get<R>(&self, key: Key<'_>, found: impl FnOnce(Option<Record<'_>>) -> R) -> Result<R, Miss> {
        self.0.get(key, found)
    }

    /// As one [`Engine::get`] of each key after the other, in their order, at less cost: `found` is called once for each, with
    /// the key's place among `keys`.
    ///
    /// `found` may stage, and may not wait for anything: the engine is borrowed while it runs.
    pub fn get_batch(&self, keys: &[Key<'_>], found: impl FnMut(usize, Result<Option<Record<'_>>, Miss>)) {
        self.0.get_batch(keys, found);
    }

    /// Looks a key up, and waits for the disk where it must.
    pub fn read(&self, key: Key<'_>) -> impl Future<Output = Result<Option<Found>, ReadError>> + 'static {
        read::read(Rc::clone(&self.0), key)
    }

    /// Walks the keys of `range` in `direction` and shows `visit` each with its record (tombstones and expired records
    /// included), until a limit is reached or `visit` breaks. Returns what is left of the range, `None` at its end: walk that to
    /// go on.
    ///
    /// Each key comes at most once, in strict order, with a version not older than when the walk began. A key that was there
    /// before the walk began is not missed; one that is written meanwhile may be. Flushes, compactions and moves of the vnode change
    /// nothing in this. What is in memory comes without waiting, and what is read does not enter the cache.
    ///
    /// After an error, what was shown was right: go on with [`KeyRange::after`] (or `before`) the last key shown. What is lost is an
    /// error until it is released ([`ReadError::Quarantined`]), also where all of it was written again and a get finds every
    /// key: which keys there were is lost, too, and to pass over them would say that there were none. The way past it is the
    /// caller's to choose: [`Engine::quarantined`] (or [`Engine::unreadable`]) names the area; walk what is left before its `low` ([`KeyRange::before`]),
    /// which succeeds, and then what is left from its `high` on ([`KeyRange::from`]); of the keys between, ask for those that are known.
    ///
    /// `visit` may stage, and may not wait for anything.
    pub async fn scan(
        &self,
        range: &KeyRange,
        direction: Direction,
        limits: ScanLimits,
        visit: impl FnMut(Key<'_>, Record<'_>) -> ControlFlow<()>,
    ) -> Result<Option<KeyRange>, ReadError> {
        self.0.scan(range, direction, limits, visit).await
    }

    /// What is left of a range behind its first keys, which cannot be read; `None` = nothing. For walks to which what is behind is worth more than
    /// to know what is lost.
    ///
    /// Where that begins is found out by trying, in steps that double and then between the last two: it is the same whether a device fails, a
    /// block is damaged, or a value. Of several stretches one after the other, what is between them may be passed over with them, and keys
    /// with the token of the first that cannot be read are.
    pub async fn behind_unreadable(&self, range: &KeyRange) -> Option<KeyRange> {
        scan::behind_unreadable(self, range).await
    }

    /// Drops a vnode of the ring, or a table in it: everything applied up to now, durably when it returns; readers see nothing of it from
    /// then on, and its space comes back with jobs. A vnode lives nowhere after that, until it is assigned again, and takes no writes
    /// meanwhile ([`Refusal::UnknownVnode`]); records of it that are staged and not committed go with it. A table in a vnode takes
    /// writes all the time: those that are applied later stay. What lives nowhere is dropped already, but for an ingest of it under way,
    /// which this ends.
    ///
    /// After an error nothing has changed. While it is in doubt (see [`Engine`]) whether a vnode was dropped, it takes no writes: they are
    /// refused with [`Refusal::DiskFull`] where there was no room for the drop, and where its future was dropped before its end with
    /// [`Refusal::Overloaded`], until the next job.
    pub async fn drop_extent(&self, extent: Extent) -> Result<(), DiskError> {
        self.0.drop_extent(extent).await
    }

    /// Reads the first records of a range in order into a chunk of at least `bytes_max` bytes (at most [`CHUNK_BYTES_MAX`]), if there
    /// are as many, and one record more than that at most. What is left is exported by the next call, also after a restart, or by
    /// another replica. What is written meanwhile may or may not be in it, as with [`Engine::scan`].
    pub async fn export(&self, range: &KeyRange, bytes_max: usize) -> Result<Exported, ReadError> {
        self.0.export(range, bytes_max).await
    }

    /// Begins to take in a vnode, or a table in it, in chunks that [`Engine::export`] gave: into the store where the vnode lives, or
    /// if it lives nowhere into `store`, of this core. Reads and writes of the extent go on meanwhile, and see nothing of it before
    /// it is finished; of two versions of a record the winner stays, wherever it came from.
    pub async fn ingest(&self, extent: Extent, store: u16) -> Result<Ingest<'_, D, P>, ReadError> {
        self.0.ingest(extent, store).await
    }

    /// Moves a vnode with all it holds into another store of this core, durably when it returns; what lives there, or nowhere, stays
    /// where it is. Reads and writes of it go on, and so do flushes but for a last short part; merges wait. Its tables are
    /// rewritten. After an error it is where it was, or in doubt (see [`Engine`]); one is [`DiskErrorKind::Io`](crate::DiskErrorKind::Io) if something of
    /// it is quarantined: what cannot be read cannot be moved.
    pub async fn move_vnode(&self, vnode: u16, store: u16) -> Result<(), DiskError> {
        self.0.move_vnode(vnode, store).await
    }

    /// About how many keys and bytes a vnode, or a table in it, has. Reads no disk; a walk of a few thousand records at most.
    pub fn estimate(&self, extent: Extent) -> Estimate {
        self.0.estimate(extent)
    }

    /// The most urgent piece of background work that is due and not running. Cheap: asked after each commit and each job.
    pub fn next_job(&self) -> Option<Job> {
        self.0.next_job()
    }

    /// Does a piece of background work. After an error nothing has changed but for files that are gone, and it is offered again once other
    /// work that is due was done; the host pauses before it asks.
    pub async fn run(&self, job: Job) -> Result<(), DiskError> {
        self.0.run(job).await
    }

    /// What cannot be read and is durably known to be so. Reads of keys in these ranges fail, unless a version is found that is newer
    /// than everything that may have been there.
    pub fn quarantined(&self) -> Vec<Quarantined> {
        self.0.quarantined()
    }

    /// Tables that could not be opened because the device failed, as ranges: of their keys what [`Engine::quarantined`] says holds, with
    /// the device's error, until the next start, which tries again. Nothing of them is lost: nothing changes them meanwhile, unless
    /// what they hold is dropped.
    pub fn unreadable(&self) -> Vec<Quarantined> {
        self.0.unreadable_tables()
    }

    /// How often something was quarantined since the engine was opened: cheap to ask, to see whether [`Engine::quarantined`] has more.
    pub fn quarantines(&self) -> u64 {
        self.0.counters.quarantines.get()
    }

    /// Says that whatever a table may have held where it is quarantined has been written again, from replicas: its ranges are
    /// readable as they are then, and its file is removed, with the value files that only it pointed into. `false`, and nothing has changed, while the table is still in
    /// use: compactions take what can be read of it into others first.
    pub async fn release_quarantined(&self, table: TableName) -> Result<bool, DiskError> {
        self.0.release(table).await
    }

    /// Allows scrubbing so many more bytes, at most [`SCRUB_BYTES_AHEAD_MAX`] at once: every block of every table and every value is read past the cache
    /// and verified, over and over. Called now and then with the rate times the time passed; scrubbing is offered by
    /// [`Engine::next_job`] when nothing else is due.
    pub fn allow_scrub(&self, bytes: u64) {
        self.0.scrub.allow(bytes);
    }

    /// Says that no version of a table in a vnode at or below `order` (that of a [`Record`]) will be staged any more: compactions
    /// may purge tombstones and expired records up to it. Floors only rise, and are not kept: the host sets them after each open.
    pub fn set_floor(&self, vnode: u16, table: u32, order: u64) {
        self.0.floors.borrow_mut().raise(vnode, table, order);
        self.0.survey_due.set(true);
    }

    /// Says that the host will not ask any more for keys of a table in a vnode of space 0, its own, whose tokens are from 1 to `token`:
    /// flushes and compactions leave them out, and tables that are mostly such are written anew. It only rises, and is not kept: the host says
    /// it after each open. So that a change of the core count knows it, too, the host keeps a *mark*: the record with token 0 and an
    /// empty key of a table from 1 on, whose order is the token. Table 0 is for what concerns the core as a whole.
    pub fn retire(&self, vnode: u16, table: u32, token: u64) {
        if self.0.floors.borrow_mut().retire(vnode, table, token) {
            self.0.survey_due.set(true);
        }
    }

    /// Says that what expires at `passed_ms` or before (milliseconds since the Unix epoch) has expired for everybody, clocks that
    /// differ included: compactions may do away with its values. It only rises.
    pub fn set_expired(&self, passed_ms: u64) {
        self.0.floors.borrow_mut().pass(passed_ms);
        if passed_ms >= self.0.garbage_due_ms.get() {
            self.0.survey_due.set(true);
        }
    }

    /// By how much the commit of what is staged should be delayed so that background work keeps up, in microseconds. Asked
    /// right before it.
    #[inline]
    pub fn write_delay_us(&self) -> u64 {
        self.0.write_delay_us()
    }

    /// Appends the log's mark, if it is due, so that damage to what was acknowledged can be told from a cut tail. For a quiet moment.
    pub async fn mark(&self) {
        self.0.mark().await;
    }

    /// Gives back, by [`Engine::next_job`], what the log keeps ready for writes beyond the first. For a host that has seen none for a
    /// while: files that are made anew at every pause of a moment would cost more than they take.
    pub fn rest(&self) {
        self.0.log.rest();
    }

    /// Syncs what was committed, with a periodic log; returns the highest durable number.
    pub async fn sync_now(&self) -> Result<Seq, Fenced> {
        let synced = self.0.log.sync_now().await;
        if synced.is_err() {
            self.0.fence();
        }
        synced
    }

    /// Ends compactions: none is offered any more, and one that runs ends without a change at its next slice. For a host
    /// that is about to close; other jobs go on, since writers may wait for them.
    pub fn stop_compactions(&self) {
        self.0.closing.set(true);
        self.0.options.stores.iter().for_each(|&store| self.0.abandon_compaction(store));
    }

    /// Makes a checkpoint of this core under a number of the caller's, which is the same for all cores of a node: a directory that
    /// opens as a data directory of its own ([`Disk::checkpoint`]). It is one point in time per core, not across cores: each part holds
    /// what was acknowledged when it was called for, and perhaps later records, of one store and not of another. It takes no space beside
    /// the manifest until compactions replace what it holds. Jobs and writes go on.
    ///
    /// [`DiskErrorKind::Exists`](crate::DiskErrorKind::Exists) if there is one with this number. After another error the same
    /// number may be tried again, but for a failed sync: then remove it and take another.
    pub async fn checkpoint(&self, number: u64) -> Result<(), DiskError> {
        self.0.checkpoint(number).await
    }

    /// Numbers of the checkpoints that hold this core's part, in order.
    pub async fn checkpoints(&self) -> Result<Vec<u64>, DiskError> {
        self.0.checkpoints().await
    }

    /// Removes this core's part of a checkpoint, which is not open, and its directory with the last part. May be done again after an error.
    pub async fn remove_checkpoint(&self, number: u64) -> Result<(), DiskError> {
        self.0.remove_checkpoint(number).await
    }

    /// Writes every memtable into a table. Nothing else may run meanwhile.
    pub(crate) async fn flush_all(&self) -> Result<(), DiskError> {
        let stores = self.0.stores.borrow().stores.len();
        (0..stores).for_each(|index| self.0.stores.borrow_mut().freeze(index));
        while self.0.stores.borrow().next_frozen().is_some() {
            self.0.flush().await?;
        }
        Ok(())
    }

    /// The durable state, and the last sequence number that was given out.
    pub(crate) fn state(&self) -> (Catalog, u64) {
        (self.0.manifest.catalog().clone(), self.0.log.next_seq().0 - 1)
    }

    /// Sets aside the files of the log in which damage was found, for whoever has flushed everything and leaves the log for good.
    pub(crate) async fn set_damaged_log_aside(&self) -> Result<(), DiskError> {
        self.0.log.set_damaged_aside().await
    }

    /// Ends all work: none is offered any more. For a host that closes at a later poll.
    ///
    /// # Panics
    /// When a job runs.
    pub fn stop_work(&self) {
        self.0.stop_work();
    }

    /// Commits what is staged and marks the engine as closed: the next open finds it clean. Flushes nothing. Nothing may be staged after, and from the first poll on no
    /// work is offered.
    ///
    /// # Panics
    /// When a job runs: what it changed would come after the mark.
    pub async fn close(&self) -> Result<(), DiskError> {
        self.0.close().await
    }

    /// Whether a sync failed: reads go on, writes are refused until a restart.
    #[inline]
    pub fn is_fenced(&self) -> bool {
        self.0.fenced.get()
    }

    /// Counts and sizes.
    pub fn stats(&self) -> Stats {
        self.0.stats()
    }
}

#[cfg(test)]
mod tests;
