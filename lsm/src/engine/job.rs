//! Background work: what is due, in which order, and that each kind runs once at a time.

use std::cell::Cell;

use super::Core;
use super::obsolete;
use crate::compaction::{self, Plan, StoreShape};
use crate::log::CommitError as LogCommitError;
use crate::manifest::Catalog;
use crate::{Disk, DiskError, DiskErrorKind, Pace, cover};

/// A piece of background work, to be given to [`Engine::run`](super::Engine::run).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Removes files that nothing names.
    Sweep,
    /// Makes the next log segment.
    Segment,
    /// Writes a frozen memtable into a table.
    Flush,
    /// Merges tables, or moves one a level down.
    Compact,
}

/// Which jobs run.
#[derive(Default)]
pub(super) struct Running {
    sweep: Cell<bool>,
    segment: Cell<bool>,
    flush: Cell<bool>,
    compact: Cell<bool>,
}

impl Running {
    fn of(&self, kind: Kind) -> &Cell<bool> {
        match kind {
            Kind::Sweep => &self.sweep,
            Kind::Segment => &self.segment,
            Kind::Flush => &self.flush,
            Kind::Compact => &self.compact,
        }
    }

    /// Marks the job as running until the guard is dropped; `None` if it runs already.
    fn start(&self, kind: Kind) -> Option<Guard<'_>> {
        let cell = self.of(kind);
        (!cell.replace(true)).then_some(Guard(cell))
    }
}

struct Guard<'a>(&'a Cell<bool>);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

impl<D: Disk, P: Pace> Core<D, P> {
    pub(super) fn next_job(&self) -> Option<Job> {
        self.urgent().or_else(|| self.if_due(Kind::Compact, || self.compaction_due.get()))
    }

    /// Work that writers may come to wait for.
    fn urgent(&self) -> Option<Job> {
        // What frees space goes first, and a fenced log needs no segment.
        self.if_due(Kind::Sweep, || self.obsolete.borrow().is_due() || self.log.wants_trim())
            .or_else(|| self.if_due(Kind::Segment, || self.log.wants_segment()))
            .or_else(|| self.if_due(Kind::Flush, || self.stores.borrow().next_frozen().is_some()))
    }

    fn if_due(&self, kind: Kind, due: impl FnOnce() -> bool) -> Option<Job> {
        let may_run = !self.running.of(kind).get() && !self.fenced.get();
        (may_run && due()).then_some(Job(kind))
    }

    pub(super) async fn run(&self, job: Job) -> Result<(), DiskError> {
        self.setback.set(false);
        match job.0 {
            Kind::Compact => {
                let Some(_running) = self.running.start(Kind::Compact) else { return Ok(()) };
                match self.pick() {
                    Some(plan) => self.compact(plan).await,
                    None => Ok(()),
                }
            }
            Kind::Sweep | Kind::Segment | Kind::Flush => self.run_urgent(job).await,
        }
    }

    async fn run_urgent(&self, Job(kind): Job) -> Result<(), DiskError> {
        let Some(_running) = self.running.start(kind) else { return Ok(()) };
        let done = match kind {
            Kind::Sweep => self.sweep().await,
            Kind::Segment => self.prepare_segment().await,
            Kind::Flush => self.flush().await,
            Kind::Compact => unreachable!("a compaction is not urgent"),
        };
        if kind != Kind::Sweep {
            match done {
                Ok(()) => self.disk_full.set(false),
                Err(error) if error.kind == DiskErrorKind::NoSpace => {
                    cover::mark("background work found the disk full");
                    self.disk_full.set(true);
                }
                Err(_) => {}
            }
        }
        self.weigh();
        done
    }

    /// Called by long work at each block: does what became urgent meanwhile.
    pub(super) async fn do_urgent(&self) {
        // What fails here is left to the host, which pauses before it tries again.
        if !self.setback.get()
            && let Some(job) = self.urgent()
        {
            self.setback.set(self.run_urgent(job).await.is_err());
        }
    }

    /// Lets everything else run if something waits.
    pub(super) async fn give_way(&self) {
        if self.pace.should_yield() {
            self.pace.yield_now().await;
        }
    }

    async fn sweep(&self) -> Result<(), DiskError> {
        while self.log.wants_trim() {
            self.log.trim().await?;
        }
        let tables = self.obsolete.borrow_mut().take(&self.cache);
        match obsolete::unlink(&self.disk, tables).await {
            Ok(()) => Ok(()),
            Err((left, error)) => {
                self.obsolete.borrow_mut().discard(left.into_iter());
                Err(error)
            }
        }
    }

    async fn prepare_segment(&self) -> Result<(), DiskError> {
        self.log.prepare().await.map_err(|error| match error {
            LogCommitError::NoSpace(error) => error,
            LogCommitError::Fenced => {
                self.fence();
                DiskError { kind: DiskErrorKind::Io, operation: "prepare a log segment", name: None }
            }
        })
    }

    fn limits(&self) -> compaction::Limits {
        compaction::Limits {
            l0_tables: self.options.l0_tables_trigger,
            level_base_bytes: self.options.level_base_bytes,
            level_fanout: self.options.level_fanout,
        }
    }

    fn pick(&self) -> Option<Plan> {
        self.pick_from(&self.manifest.catalog())
    }

    /// A store with a damaged table is left out: each attempt would meet the damage again, and keep the others waiting.
    fn pick_from(&self, catalog: &Catalog) -> Option<Plan> {
        let damaged = self.damaged_stores.borrow();
        compaction::pick(&self.limits(), shapes(catalog).filter(|shape| !damaged.contains(&shape.store)))
    }

    /// Looks anew whether a compaction is due and what is behind; called after each change of the tables.
    pub(super) fn survey(&self) {
        let catalog = self.manifest.catalog();
        let limits = self.limits();
        self.compaction_due.set(self.pick_from(&catalog).is_some());
        self.debt_bytes.set(shapes(&catalog).map(|shape| compaction::debt_bytes(&limits, shape)).sum());
    }
}

/// What the picker sees.
fn shapes(catalog: &Catalog) -> impl Iterator<Item = StoreShape<'_>> {
    catalog.stores.iter().map(|(&store, entry)| StoreShape { store, levels: &entry.levels })
}
