//! Scrubbing: everything that is stored is read and verified, over and over, so that damage is found while replicas still
//! have what it hides, and not when somebody asks for it.
//!
//! The host says at which rate ([`super::Engine::allow_scrub`]). A slice of at most [`SLICE_BYTES`] (one block or value, if that is
//! longer) is offered when nothing else is due. A pass goes over the tables by number, then over the value files; where it
//! is, is kept in memory only. A table whose blocks are sound, and which could not be opened again, is written anew. What else it finds is suspected, and settled as any suspicion (see [`super::quarantine`]).

use std::cell::Cell;

use super::Core;
use crate::{Class, Disk, DiskError, FileName, Pace, ReadError, Table, cover};

/// Bytes that one job reads, about.
const SLICE_BYTES: u64 = 256 << 10;
/// Most bytes that may be allowed and not yet scrubbed.
pub const SCRUB_BYTES_AHEAD_MAX: u64 = 8 << 20;

/// How far scrubbing is.
#[derive(Default)]
pub(super) struct Scrub {
    /// Bytes that may be read.
    allowed: Cell<u64>,
    position: Cell<Position>,
    bytes: Cell<u64>,
    passes: Cell<u64>,
    /// The last verification failed: others go first.
    setback: Cell<bool>,
}

/// Where a pass is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Position {
    /// The tables are done.
    in_values: bool,
    /// The file, or the next one above.
    number: u64,
    /// The block of a table, the offset in a value file; 0 = its beginning.
    at: u64,
}

impl Scrub {
    pub(super) fn allow(&self, bytes: u64) {
        self.allowed.set(self.allowed.get().saturating_add(bytes).min(SCRUB_BYTES_AHEAD_MAX));
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    pub(super) fn passes(&self) -> u64 {
        self.passes.get()
    }
}

impl<D: Disk, P: Pace> Core<D, P> {
    /// Whether something is suspected that has not just failed to be verified.
    pub(super) fn verification_is_due(&self) -> bool {
        self.has_suspects() && !self.scrub.setback.get()
    }

    /// Whether a slice is due.
    pub(super) fn scrub_is_due(&self) -> bool {
        let is_allowed = || self.scrub.allowed.get() >= SLICE_BYTES;
        let has_files = || !self.tables.borrow().is_empty() || !self.values.borrow().is_empty();
        self.has_suspects() || is_allowed() && has_files()
    }

    fn has_suspects(&self) -> bool {
        !self.suspects.borrow().is_empty() || !self.suspect_values.borrow().is_empty()
    }

    /// Files of the pass that are done, in thousandths.
    pub(super) fn scrub_progress(&self) -> u64 {
        let Position { in_values, number, .. } = self.scrub.position.get();
        let (tables, values) = (self.tables.borrow(), self.values.borrow());
        let done = match in_values {
            false => tables.range(..number).count(),
            true => tables.len() + values.range(..number).count(),
        };
        done as u64 * 1000 / (tables.len() + values.len()).max(1) as u64
    }

    /// Verifies a suspect if there is one, else a slice of what is next.
    pub(super) async fn scrub(&self) -> Result<(), DiskError> {
        let table = self.suspects.borrow().first().copied();
        let values = self.suspect_values.borrow().first().copied();
        let done = match (table, values) {
            (Some(number), _) => self.verify_table(number).await,
            (None, Some(number)) => self.verify_values(number).await,
            (None, None) => self.scrub_slice().await,
        };
        self.scrub.setback.set(done.is_err());
        done
    }

    async fn scrub_slice(&self) -> Result<(), DiskError> {
        let position = self.scrub.position.get();
        let (next, bytes) = match position.in_values {
            false => self.scrub_table(position).await?,
            true => self.scrub_values(position).await?,
        };
        self.scrub.position.set(next);
        self.scrub.bytes.set(self.scrub.bytes.get() + bytes);
        self.scrub.allowed.set(self.scrub.allowed.get().saturating_sub(bytes));
        Ok(())
    }

    /// Verifies a run of blocks; gives where to go on, and the bytes read.
    async fn scrub_table(&self, position: Position) -> Result<(Position, u64), DiskError> {
        let next = self.tables.borrow().range(position.number..).next().map(|(_, table)| table.clone());
        let Some(table) = next else {
            return Ok((Position { in_values: true, ..Position::default() }, 0));
        };
        let number = table.number();
        let from = if number == position.number { position.at as u32 } else { 0 };
        let run = table.verify_run(from, Class::Background).await;
        let run = run.map_err(|error| self.unreadable(error))?;
        if !run.damaged.is_empty() || !run.unreadable.is_empty() {
            cover::mark("scrubbing found damage");
            self.suspects.borrow_mut().insert(number);
            self.survey_due.set(true);
            return Ok((Position { in_values: false, number: number + 1, at: 0 }, run.bytes));
        }
        if run.next >= table.blocks() {
            self.scrub_frame(&table).await?;
        }
        let next = match run.next < table.blocks() {
            true => Position { in_values: false, number, at: run.next.into() },
            false => Position { in_values: false, number: number + 1, at: 0 },
        };
        Ok((next, run.bytes))
    }

    /// Verifies what stands around a table's blocks, by opening it once more. What is wrong there is wrong on the disk only, and
    /// would cost the whole table at the next start: a merge writes it anew before.
    async fn scrub_frame(&self, table: &Table<D>) -> Result<(), DiskError> {
        let meta = table.meta();
        let open =
            || Table::open(self.disk.clone(), meta.name, meta.bytes, Some(meta.file_id), Class::Background);
        let mut opened = open().await;
        if opened.is_err() {
            opened = open().await;
        }
        match opened {
            Ok(_) => {}
            Err(error @ ReadError::NoBuffer) => return Err(self.unreadable(error)),
            Err(ReadError::Disk(_) | ReadError::Damage(_) | ReadError::Quarantined(_)) => {
                cover::mark("table to be written anew");
                self.frail.borrow_mut().insert(meta.name.number);
                self.survey_due.set(true);
            }
        }
        Ok(())
    }

    /// As [`Core::scrub_table`], of values.
    async fn scrub_values(&self, position: Position) -> Result<(Position, u64), DiskError> {
        let next = self.values.borrow().range(position.number..).next().map(|(_, file)| file.clone());
        let Some(file) = next else {
            self.scrub.passes.set(self.scrub.passes.get() + 1);
            cover::mark("scrubbed everything");
            return Ok((Position::default(), 0));
        };
        let FileName::Values { number, .. } = file.name() else { unreachable!("it is a value file") };
        let behind = Position { in_values: true, number: number + 1, at: 0 };
        let resumes = number == position.number && position.at > 0;
        let start = if resumes { Some(position.at) } else { file.first_record() };
        let Some(start) = start else { return Ok((behind, 0)) };
        let mut at = start;
        while at - start < SLICE_BYTES {
            match self.verify_value(&file, at).await {
                Ok(Some(next)) => at = next,
                Ok(None) => {
                    // The pass has been through all of it.
                    self.withhold_values(number, false);
                    return Ok((behind, at - start));
                }
                Err(error @ ReadError::NoBuffer) => return Err(self.unreadable(error)),
                Err(error) => {
                    cover::mark("scrubbing found damage");
                    self.suspect(&error);
                    return Ok((behind, at - start));
                }
            }
            self.give_way().await;
        }
        Ok((Position { in_values: true, number, at }, at - start))
    }
}
