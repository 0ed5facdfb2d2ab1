//! Faults to come, and counts of what was done.

use std::collections::{BTreeMap, BTreeSet};

use crate::FileName;

/// What goes wrong with a write, a sync or an operation on names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No space: nothing is done.
    NoSpace,
    /// No space, found when so many blocks of a write were written already, or all of it if it has no more: they are there, and not
    /// durable. Of other operations nothing is done.
    NoSpaceAfter {
        /// The blocks.
        blocks: usize,
    },
    /// The device fails. Of a write, a part may have been done; after a failed sync, of a file or of a directory, no later sync covers what
    /// this one should have.
    Io,
    /// A write moves only the first half of its blocks. Other operations fail as with [`Fault::Io`].
    Short,
    /// A write is done, but elsewhere in its file, and says that all is well: what was there is destroyed, and where it should be is what was there
    /// before. Where there is no other place it is done right. Other operations are done.
    Misplaced {
        /// Chooses the place.
        choice: u64,
    },
}

/// What goes wrong with a read (or an open of an existing file).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFault {
    /// The device fails.
    Io,
    /// Only the first half of the blocks is read.
    Short,
    /// The bit at this position, modulo the bits read, is flipped.
    Flip {
        /// The bit.
        bit: u64,
    },
    /// What is read stands elsewhere, in this file or in another one. Where there is no other place it is read right.
    Misplaced {
        /// Chooses the place.
        choice: u64,
    },
}

/// What a disk was asked to do, counted when it was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Completed reads.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Completed writes without a sync.
    pub plain_writes: u64,
    /// Completed writes with `Sync::Data`.
    pub synced_writes: u64,
    /// Bytes written, `CreateZeroed` left out.
    pub written_bytes: u64,
    /// Completed file syncs.
    pub syncs: u64,
    /// Completed directory syncs.
    pub directory_syncs: u64,
    /// Completed changes of names: created, renamed, linked, unlinked.
    pub name_changes: u64,
}

impl Counts {
    /// Everything that made file data durable: synced writes and file syncs.
    pub fn data_syncs(&self) -> u64 {
        self.synced_writes + self.syncs
    }
}

/// The plan of faults, and the step counters it goes by.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Steps begun: writes, syncs and changes of names.
    pub(super) steps: u64,
    /// Reads begun, opens of existing files included.
    pub(super) reads: u64,
    pub(super) faults: BTreeMap<u64, Fault>,
    pub(super) read_faults: BTreeMap<u64, ReadFault>,
    /// From this step on nothing completes.
    pub(super) crash_at: Option<u64>,
    /// The power is off: some step reached `crash_at`.
    pub(super) off: bool,
    /// No file may grow.
    pub(super) full: bool,
    /// Pages that the device cannot read: file and number of the page.
    pub(super) bad_pages: BTreeSet<(FileName, u64)>,
    /// Files that cannot be unlinked, nor renamed.
    pub(super) stuck: BTreeSet<FileName>,
    /// Length from which there is no room for a file that is made whole.
    pub(super) zeroed_bytes_max: Option<u64>,
}

impl Plan {
    /// Begins a step: the fault that meets it.
    pub(super) fn step(&mut self) -> Option<Fault> {
        let step = self.steps;
        self.steps += 1;
        if self.crash_at.is_some_and(|crash| step >= crash) {
            self.off = true;
        }
        self.faults.remove(&step)
    }

    /// Begins a read: the fault that meets it.
    pub(super) fn read(&mut self) -> Option<ReadFault> {
        let read = self.reads;
        self.reads += 1;
        self.read_faults.remove(&read)
    }
}
