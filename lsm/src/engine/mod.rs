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
//! 4. A table is unlinked only after the manifest has dropped it durably and no read uses it.

mod open;
mod options;
mod outcome;
mod read;
mod stats;
mod store;
mod write;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;

pub use options::Options;
pub use outcome::{Fenced, Found, Miss, OpenError, Recovery, Refusal};
use stats::Counters;
pub use stats::Stats;
use store::Stores;
use write::Pending;

use crate::manifest::{Edit, Manifest};
use crate::{Disk, DiskError, Key, Pace, ReadError, Record, Seq};

/// One core's engine. Clones are handles to the same engine; all live on one thread.
pub struct Engine<D: Disk, P: Pace>(Rc<Core<D, P>>);

impl<D: Disk, P: Pace> Clone for Engine<D, P> {
    fn clone(&self) -> Self {
        Engine(Rc::clone(&self.0))
    }
}

struct Core<D: Disk, P: Pace> {
    #[expect(dead_code, reason = "background jobs write with it")]
    disk: D,
    #[expect(dead_code, reason = "background jobs ask it")]
    pace: P,
    options: Options,
    manifest: Manifest<D>,
    stores: RefCell<Stores>,
    pending: RefCell<Pending>,
    counters: Counters,
    fenced: Cell<bool>,
}

/// A piece of background work, to be given to [`Engine::run`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job(JobKind);

#[derive(Clone, Debug, PartialEq, Eq)]
enum JobKind {}

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
    ///
    /// # Panics
    /// If a store is not this core's, or a vnode lives in another store: its records would be lost from sight.
    pub async fn assign(&self, vnodes: &[(u16, u16)]) -> Result<(), DiskError> {
        let mut edits = Vec::new();
        for &(vnode, store) in vnodes {
            assert!(self.0.options.stores.contains(&store), "store {store} is not this core's");
            match self.vnode_store(vnode) {
                Some(present) => assert_eq!(present, store, "vnode {vnode} lives in another store"),
                None => edits.push(Edit::Assign { vnode, store, epoch: 0 }),
            }
        }
        if edits.is_empty() {
            return Ok(());
        }
        self.0.change(&edits).await?;
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
        self.0.has_staged()
    }

    /// Makes what is staged durable, as one group, and readable; returns the highest durable number. One call at a time.
    pub async fn commit(&self) -> Result<Seq, Fenced> {
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

    /// Looks a key up, and waits for the disk where it must.
    pub fn read(&self, key: Key<'_>) -> impl Future<Output = Result<Option<Found>, ReadError>> + 'static {
        read::read(Rc::clone(&self.0), key)
    }

    /// The most urgent piece of background work, if any is due.
    pub fn next_job(&self) -> Option<Job> {
        None
    }

    /// Does a piece of background work. After an error it is offered again; the host pauses before it tries.
    pub async fn run(&self, job: Job) -> Result<(), DiskError> {
        match job.0 {}
    }

    /// Appends the log's mark, so that damage to what was acknowledged can be told from a cut tail. For a quiet moment.
    pub async fn mark(&self) {}

    /// Syncs what was committed. For a log that does not do so itself at each commit.
    pub async fn sync_now(&self) -> Result<Seq, Fenced> {
        self.commit().await
    }

    /// Commits what is staged and marks the engine as closed: the next open finds it clean. Flushes nothing. Nothing may be staged after.
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

impl<D: Disk, P: Pace> Core<D, P> {
    /// Makes a change of the manifest durable. What goes wrong with anything but space fences the core: the state of the file is not known.
    async fn change(&self, edits: &[Edit]) -> Result<(), DiskError> {
        self.manifest.commit(edits).await.map_err(|failed| {
            if failed.error.kind != crate::DiskErrorKind::NoSpace {
                self.fenced.set(true);
            }
            failed.error
        })
    }
}
