//! Background work: what is due, in which order, and that each kind runs once at a time.
//!
//! A job that fails may fail for as long as it is tried (a file that cannot be unlinked, a segment for which there is no room), so
//! after it the other kinds that are due go first: one failure holds up nothing else. It is tried again when nothing else
//! is due, or after [`OTHERS_FIRST`] other jobs.

use std::cell::Cell;
use std::collections::BTreeSet;

use super::Core;
use super::obsolete;
use crate::compaction::{self, Plan, StoreShape};
use crate::log::CommitError as LogCommitError;
use crate::manifest::Catalog;
use crate::{Disk, DiskError, DiskErrorKind, FileName, KeyRange, Pace, Table, cover};

/// A piece of background work, to be given to [`Engine::run`](super::Engine::run).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job(Kind);

impl Job {
    /// Whether it merges tables: no writer waits for that right away.
    pub fn is_compaction(self) -> bool {
        self.0 == Kind::Compact
    }

    /// Whether it reads what is stored to see whether it is sound: nobody waits for that.
    pub fn is_scrub(self) -> bool {
        self.0 == Kind::Scrub
    }
}

/// Kinds of jobs, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Removes files that nothing names.
    Sweep,
    /// Makes the next log segment, and the change of the manifest that settles what is in doubt.
    Segment,
    /// Writes a frozen memtable into a table.
    Flush,
    /// Merges tables, or moves one a level down.
    Compact,
    /// Reads tables and value files, and quarantines what is damaged in them.
    Scrub,
}

impl Kind {
    /// What writers may come to wait for. What frees space goes first, but for [`Core::urgent`].
    const URGENT: [Kind; 3] = [Kind::Sweep, Kind::Segment, Kind::Flush];
    const EVERY: [Kind; 5] = [Kind::Sweep, Kind::Segment, Kind::Flush, Kind::Compact, Kind::Scrub];
}

/// Shortest table that is written anew for what was retired of it, in bytes: of shorter ones an index, which knows where blocks begin, tells
/// too little, and they would be written anew in vain.
const SPENT_BYTES_MIN: u64 = 64 << 10;

/// Jobs of other kinds that go before one of a kind that has failed, as long as some are due: few, for what a sweep frees may be what the
/// others need.
const OTHERS_FIRST: u32 = 8;

/// Times in a row that flushing, or making a segment, finds the disk full before writes are refused for it: there is room in the
/// memtables and in the segment at hand, and a file that is being removed may be all that is missing.
const SETBACKS_MAX: u32 = 2;

/// Which jobs run, and which have failed.
#[derive(Default)]
pub(super) struct Running {
    sweep: State,
    segment: State,
    flush: State,
    compact: State,
    scrub: State,
}

/// How it stands with a kind of job.
#[derive(Default)]
struct State {
    runs: Cell<bool>,
    /// Jobs of other kinds that go first, since it has failed.
    others_first: Cell<u32>,
    /// It has failed within the job that the host runs: it is left to the host, which pauses before it tries again.
    left_to_host: Cell<bool>,
}

impl Running {
    fn of(&self, kind: Kind) -> &State {
        match kind {
            Kind::Sweep => &self.sweep,
            Kind::Segment => &self.segment,
            Kind::Flush => &self.flush,
            Kind::Compact => &self.compact,
            Kind::Scrub => &self.scrub,
        }
    }

    /// Marks the job as running until the guard is dropped; `None` if it runs already.
    fn start(&self, kind: Kind) -> Option<Guard<'_>> {
        let cell = &self.of(kind).runs;
        (!cell.replace(true)).then_some(Guard(cell))
    }

    pub(super) fn is_any(&self) -> bool {
        Kind::EVERY.into_iter().any(|kind| self.of(kind).runs.get())
    }

    /// The host begins a job.
    fn turn(&self) {
        Kind::EVERY.into_iter().for_each(|kind| self.of(kind).left_to_host.set(false));
    }

    /// A job has ended.
    fn ended(&self, kind: Kind, has_failed: bool) {
        for other in Kind::EVERY.into_iter().filter(|other| *other != kind) {
            let others_first = &self.of(other).others_first;
            others_first.set(others_first.get().saturating_sub(1));
        }
        let state = self.of(kind);
        state.others_first.set(if has_failed { OTHERS_FIRST } else { 0 });
        state.left_to_host.set(has_failed);
    }

    /// Of these kinds, the one to run: the first that has not failed of late, or the one whose failure is longest ago.
    fn choose(&self, due: impl Iterator<Item = Kind>) -> Option<Job> {
        due.min_by_key(|kind| self.of(*kind).others_first.get()).map(Job)
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
        if self.survey_due.get() {
            self.survey();
        }
        // What is suspected holds back compactions of its table, so it goes first, unless that has just failed.
        let others = match self.verification_is_due() {
            true => [Kind::Scrub, Kind::Compact],
            false => [Kind::Compact, Kind::Scrub],
        };
        let kinds = self.urgent().into_iter().chain(others);
        self.running.choose(kinds.filter(|kind| self.is_due(*kind)))
    }

    /// What writers may come to wait for, in its order. A drop that nobody waited for keeps its vnode from writes although there may be room.
    fn urgent(&self) -> [Kind; 3] {
        match self.stores.borrow().doubt.is_settled_soon() {
            true => [Kind::Segment, Kind::Sweep, Kind::Flush],
            false => Kind::URGENT,
        }
    }

    fn is_due(&self, kind: Kind) -> bool {
        if self.running.of(kind).runs.get() || self.fenced.get() || self.work_ended.get() {
            return false;
        }
        // Until this life has its log segment and its manifest, nothing else is written.
        let is_put_off = self.is_put_off.get();
        match kind {
            Kind::Sweep => self.obsolete.borrow().is_due() || self.trim_is_due(),
            Kind::Segment => {
                let is_in_doubt = self.stores.borrow().doubt.is_any();
                self.log.wants_segment() || is_put_off || self.log_full.get() || is_in_doubt
            }
            Kind::Flush => !is_put_off && self.stores.borrow().next_frozen().is_some(),
            Kind::Compact => !is_put_off && self.compaction_due.get() && !self.closing.get(),
            Kind::Scrub => !is_put_off && self.scrub_is_due() && !self.closing.get(),
        }
    }

    pub(super) async fn run(&self, job: Job) -> Result<(), DiskError> {
        self.running.turn();
        let Job(kind) = job;
        if Kind::URGENT.contains(&kind) {
            return self.run_urgent(job).await;
        }
        let Some(_running) = self.running.start(kind) else { return Ok(()) };
        let done = if kind == Kind::Compact { self.run_compaction().await } else { self.scrub().await };
        self.running.ended(kind, done.is_err());
        done
    }

    async fn run_compaction(&self) -> Result<(), DiskError> {
        let _turn = self.compact_turn.take().await;
        if self.closing.get() {
            return Ok(());
        }
        // Neither waits for the other for ever.
        let trims_first = !self.trimmed_last.get();
        let trim = || self.trim_plan().map(|plan| (plan, true));
        let merge = || self.pick().map(|plan| (plan, false));
        let next = if trims_first { trim().or_else(merge) } else { merge().or_else(trim) };
        let Some((plan, is_trim)) = next else { return Ok(()) };
        self.trimmed_last.set(is_trim);
        self.compact(plan, is_trim).await
    }

    async fn run_urgent(&self, Job(kind): Job) -> Result<(), DiskError> {
        let Some(_running) = self.running.start(kind) else { return Ok(()) };
        let done = match kind {
            Kind::Sweep => self.sweep().await,
            Kind::Segment => self.prepare_segment().await,
            Kind::Flush => self.flush().await,
            Kind::Compact | Kind::Scrub => unreachable!("nobody waits for it"),
        };
        self.running.ended(kind, done.is_err());
        if kind != Kind::Sweep {
            match done {
                Ok(()) => {
                    // A flush that found room says nothing of a log that has none.
                    self.disk_full.set(self.log_full.get());
                    self.setbacks.set(0);
                }
                Err(error) if error.kind == DiskErrorKind::NoSpace => {
                    cover::mark("background work found the disk full");
                    self.setbacks.set(self.setbacks.get().saturating_add(1));
                    if self.setbacks.get() >= SETBACKS_MAX {
                        self.disk_full.set(true);
                    }
                }
                Err(_) => {}
            }
        }
        self.weigh();
        done
    }

    /// Called by long work at each block: does what became urgent meanwhile.
    pub(super) async fn do_urgent(&self) {
        let is_due = |kind: &Kind| self.is_due(*kind) && !self.running.of(*kind).left_to_host.get();
        if let Some(job) = self.running.choose(self.urgent().into_iter().filter(is_due)) {
            // Whatever fails is left to the host, with the error that it meets.
            let _left_to_host = self.run_urgent(job).await;
        }
    }

    /// Lets everything else run if something waits.
    pub(super) async fn give_way(&self) {
        if self.pace.should_yield() {
            self.pace.yield_now().await;
        }
    }

    /// Whether a file of the log is to go. Until the manifest of this opening is on the disk, the one before it says what a start needs of
    /// the log, and what this one found to be lost may be a part of that: then the file where it was must stand there.
    fn trim_is_due(&self) -> bool {
        !self.is_put_off.get() && self.log.wants_trim()
    }

    /// Removes all that can be removed; gives the first error.
    async fn sweep(&self) -> Result<(), DiskError> {
        let mut trimmed = Ok(());
        // The oldest segment goes first, or none does.
        while trimmed.is_ok() && self.trim_is_due() {
            trimmed = self.log.trim().await;
        }
        if self.log.is_fenced() {
            self.fence();
        }
        while self.obsolete.borrow_mut().close_table() {
            self.give_way().await;
        }
        let files = self.obsolete.borrow_mut().take();
        self.count_tables();
        let values = |file: &FileName| match file {
            FileName::Values { number, .. } => Some(*number),
            FileName::Table { .. } | FileName::Segment { .. } | FileName::Manifest { .. } => None,
        };
        let values: Vec<u64> = files.iter().filter_map(values).collect();
        for number in &values {
            self.values.borrow_mut().remove(number);
            self.withheld_values.borrow_mut().remove(number);
        }
        let unlinked = obsolete::unlink(&self.disk, files).await.map_err(|(left, error)| {
            self.obsolete.borrow_mut().discard(left.into_iter());
            error
        });
        while self.obsolete.borrow_mut().forget_some(&self.cache) {
            self.give_way().await;
        }
        let mut rest = if values.is_empty() { None } else { Some(0) };
        while let Some(from) = rest {
            rest = self.cache.forget_values(&values, from);
            self.give_way().await;
        }
        while self.cache.tidy() {
            self.give_way().await;
        }
        trimmed.and(unlinked)
    }

    async fn prepare_segment(&self) -> Result<(), DiskError> {
        // What is in doubt is settled first, whether or not there is room for a segment, which takes more. Only an opening that was put
        // off makes its log first.
        let settled = if self.is_put_off.get() { Ok(()) } else { self.settle_doubt().await };
        if self.fenced.get() {
            return settled;
        }
        if self.log.wants_segment() {
            self.log.prepare().await.map_err(|error| match error {
                LogCommitError::NoSpace(error) => error,
                LogCommitError::NoBuffer => DiskError::no_buffer("prepare a log segment", None),
                LogCommitError::Fenced => {
                    self.fence();
                    DiskError { kind: DiskErrorKind::Io, operation: "prepare a log segment", name: None }
                }
            })?;
        }
        if self.is_put_off.get() {
            self.change(&[]).await.map_err(|failed| failed.error)?;
        }
        settled?;
        // Where the segment at hand was what had no room, only the next group can tell.
        self.log_full.set(false);
        Ok(())
    }

    fn limits(&self) -> compaction::Limits {
        let options = &self.options;
        // What level 0 brings at once, about: a shorter level would be rewritten as a whole each time, and spare nothing.
        let memtable_bytes = options.memtable_bytes / options.stores.len();
        let l0_bytes = (memtable_bytes * options.l0_tables_trigger) as u64;
        compaction::Limits {
            l0_tables: options.l0_tables_trigger,
            level_base_bytes: options.level_base_bytes.min(l0_bytes),
            level_fanout: options.level_fanout,
        }
    }

    /// What the picker sees. A table that may be damaged is left out of every plan, each attempt would meet the damage again until
    /// it is known which blocks to pass over; and so is one that could not be opened.
    fn shapes<'a>(
        &'a self,
        catalog: &'a Catalog,
        (damaged, wasteful, frail): (&'a BTreeSet<u64>, &'a BTreeSet<u64>, &'a BTreeSet<u64>),
    ) -> impl Iterator<Item = StoreShape<'a>> + Clone {
        let limits = self.limits();
        let strategy_of =
            |store| self.options.strategy_of.get(store).copied().unwrap_or(self.options.strategy);
        catalog.stores.iter().map(move |(store, entry)| StoreShape {
            store: *store,
            strategy: strategy_of(store),
            limits,
            levels: &entry.levels,
            damaged,
            wasteful,
            frail,
        })
    }

    /// Numbers of tables that are to be written anew, whatever the length of their level.
    fn to_write_anew(&self) -> BTreeSet<u64> {
        self.frail.borrow().union(&self.spent.borrow()).copied().collect()
    }

    /// Tables of which at least half of the bytes are retired, as far as their indexes tell.
    fn spent_tables(&self) -> BTreeSet<u64> {
        let floors = self.floors.borrow();
        let ranges: Vec<KeyRange> = floors.retired().collect();
        let is_spent = |table: &Table<D>| {
            // At least so much: what the index cannot tell does not count.
            let of = |range: &KeyRange| {
                let share = table.share(range);
                share.bytes.saturating_sub(share.error_bytes)
            };
            let retired: u64 = ranges.iter().map(of).sum();
            let (bytes, space) = (table.meta().bytes, table.meta().smallest.prefix.space);
            space == 0 && bytes >= SPENT_BYTES_MIN && retired * 2 >= bytes
        };
        let tables = self.tables.borrow();
        let spent = tables.iter().filter(|(_, table)| !ranges.is_empty() && is_spent(table));
        spent.map(|(&number, _)| number).collect()
    }

    fn pick(&self) -> Option<Plan> {
        let (catalog, damaged) = (self.manifest.catalog(), self.avoided());
        let (wasteful, frail) = (self.wasteful.borrow(), self.to_write_anew());
        compaction::pick(
            self.shapes(&catalog, (&damaged, &wasteful, &frail)),
            &self.floors.borrow(),
            &self.rewritten.borrow(),
        )
    }

    /// Looks anew whether a compaction is due and what is behind; called after each change of the tables.
    pub(super) fn survey(&self) {
        self.survey_due.set(false);
        self.rewritten.borrow_mut().retain(|number| self.tables.borrow().contains_key(number));
        self.frail.borrow_mut().retain(|number| self.tables.borrow().contains_key(number));
        *self.wasteful.borrow_mut() = self.wasteful_values();
        *self.spent.borrow_mut() = self.spent_tables();
        self.compaction_due.set(self.pick().is_some() || self.trim_plan().is_some());
        let (catalog, damaged) = (self.manifest.catalog(), self.avoided());
        let (wasteful, frail) = (self.wasteful.borrow(), self.to_write_anew());
        let shapes = self.shapes(&catalog, (&damaged, &wasteful, &frail));
        let mut debt_bytes = 0;
        for shape in shapes.clone() {
            let of_store = compaction::debt_bytes(&shape);
            let level_score = compaction::level_score(&shape);
            self.count_of_store(shape.store, |counts| {
                (counts.debt_bytes, counts.level_score) = (of_store, level_score);
            });
            debt_bytes += of_store;
        }
        self.debt_bytes.set(debt_bytes);
        let garbage_due_ms = shapes.filter_map(|shape| compaction::garbage_due_ms(&shape)).min();
        self.garbage_due_ms.set(garbage_due_ms.unwrap_or(u64::MAX));
    }
}
