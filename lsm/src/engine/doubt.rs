//! Changes of the manifest of which memory and the disk may not say the same.
//!
//! A change that failed may be on the disk all the same: a full disk can say so after it has written. So may one that nobody waited for
//! to its end: that does not stop the disk. Memory does not have it, and a start may find it, until a later change is made: that begins
//! a manifest anew from what is in memory, and so settles that it is not there. Until then what it names stays on the disk.
//!
//! A start that finds it must find a place for what was acknowledged after it:
//!
//! | change | what is written after it | so |
//! |---|---|---|
//! | drop of a vnode | would be found with no vnode to put it into | the vnode takes no writes: the disk is full, or the next job settles it |
//! | drop of a table in a vnode | has numbers above the drop's, which it does not touch | writes go on |
//! | move of a vnode | has numbers above those that the move took along: the new store gets it | writes go on |
//! | assignment of a vnode, ingest that brings one | is refused: in memory the vnode lives nowhere | nothing is to be done |
//! | ingest into a vnode | is marked anew, against what was ingested as well | writes go on |
//! | flush, merge, mark of damage | is in the log | writes go on |
//!
//! It is a job to settle it ([`super::job`]), and so it is to say that something is so already: a vnode that lives in a store in memory
//! is assigned to it only when the disk says nothing else ([`Core::settle_doubt`]).

use std::collections::BTreeSet;

use super::Core;
use super::outcome::Refusal;
use crate::manifest::{CommitError, Edit};
use crate::planted::{self, Bug};
use crate::{Disk, DiskError, DiskErrorKind, FileName, Pace, cover};

/// What is in doubt.
#[derive(Debug, Default)]
pub(super) struct Doubt {
    /// A change may be on the disk that is not in memory.
    is_any: bool,
    /// There was no room to make it, or to settle it; else nobody waited for its end.
    is_full: bool,
    /// Vnodes that live here, and may be gone from the disk. Each once.
    dropped: Vec<u16>,
}

impl Doubt {
    pub(super) fn is_any(&self) -> bool {
        self.is_any
    }

    /// Whether there are vnodes that take no writes.
    #[inline]
    pub(super) fn closes_any(&self) -> bool {
        !self.dropped.is_empty()
    }

    /// Whether there may be room to settle it: then that is done first, for vnodes may take no writes until it is.
    pub(super) fn is_settled_soon(&self) -> bool {
        self.is_any && !self.is_full
    }

    /// Why a vnode takes no writes, if it takes none.
    pub(super) fn closes(&self, vnode: u16) -> Option<Refusal> {
        let refusal = if self.is_full { Refusal::DiskFull } else { Refusal::Overloaded };
        self.dropped.contains(&vnode).then_some(refusal)
    }

    fn raise(&mut self, vnodes: &[u16]) {
        self.is_any = true;
        for vnode in vnodes {
            if !self.dropped.contains(vnode) {
                self.dropped.push(*vnode);
            }
        }
    }

    /// A change was made.
    pub(super) fn settle(&mut self) {
        *self = Doubt::default();
    }
}

/// A change that is being made: in doubt if it is dropped before it was told how it ended.
pub(super) struct Changing<'a, D: Disk, P: Pace> {
    core: &'a Core<D, P>,
    /// Files that only this change names.
    files: Vec<FileName>,
    /// Vnodes that live nowhere with it.
    dropped: Vec<u16>,
    /// There was no room for it.
    is_full: bool,
    has_ended: bool,
}

impl<'a, D: Disk, P: Pace> Changing<'a, D, P> {
    pub(super) fn begin(core: &'a Core<D, P>, edits: &[Edit]) -> Self {
        let (files, dropped) = (new_files(edits), dropped_vnodes(edits));
        Changing { core, files, dropped, is_full: false, has_ended: false }
    }

    /// The change was made, or has failed.
    pub(super) fn ended(mut self, with: &Result<(), CommitError>) {
        self.is_full = with.as_ref().is_err_and(|failed| failed.error.kind == DiskErrorKind::NoSpace);
        match with {
            Ok(()) => self.has_ended = true,
            // Dropped now, as if nobody had waited for it.
            Err(failed) if failed.in_doubt => {}
            Err(_) => {
                self.has_ended = true;
                self.core.obsolete.borrow_mut().discard(self.files.drain(..));
            }
        }
    }
}

impl<D: Disk, P: Pace> Drop for Changing<'_, D, P> {
    fn drop(&mut self) {
        let mut stores = self.core.stores.borrow_mut();
        let doubt = &mut stores.doubt;
        if !self.has_ended {
            cover::mark(if self.dropped.is_empty() { "change in doubt" } else { "drop of a vnode in doubt" });
            doubt.raise(&self.dropped);
            self.core.obsolete.borrow_mut().doubt(self.files.drain(..));
        }
        doubt.is_full |= doubt.is_any && self.is_full;
    }
}

/// Files that nothing names without these edits. A table that only changes its place is removed with them, too.
fn new_files(edits: &[Edit]) -> Vec<FileName> {
    let (mut removed, mut files) = (BTreeSet::new(), Vec::new());
    for edit in edits {
        if let Edit::Remove { table } = edit {
            removed.insert(table.file());
        }
    }
    for edit in edits {
        if let Edit::AddValues { values } = edit {
            files.push(values.file());
        }
        if let Edit::Add { table, .. } = edit {
            files.push(table.name.file());
        }
    }
    files.retain(|file| !removed.contains(file));
    files
}

/// Vnodes that these edits take from here, and give no other store.
fn dropped_vnodes(edits: &[Edit]) -> Vec<u16> {
    let mut dropped = Vec::new();
    for edit in edits {
        if let Edit::Unassign { vnode } = edit {
            dropped.push(*vnode);
        }
        if let Edit::Assign { vnode, .. } = edit {
            dropped.retain(|other| other != vnode);
        }
    }
    dropped
}

impl<D: Disk, P: Pace> Core<D, P> {
    /// Settles what is in doubt, if something is: the disk says then what memory says.
    pub(super) async fn settle_doubt(&self) -> Result<(), DiskError> {
        if !self.stores.borrow().doubt.is_any() {
            return Ok(());
        }
        if planted::active(Bug::DoubtTakenForSettled) {
            self.stores.borrow_mut().doubt.settle();
            return Ok(());
        }
        self.change(&[]).await.map_err(|failed| failed.error)
    }
}
