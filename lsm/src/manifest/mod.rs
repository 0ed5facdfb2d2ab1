//! The manifest: a core's durable memory of its stores, their tables and its vnodes, as a log of edits.
//!
//! Why: tables are written once and removed whole, so what the engine consists of at any time is a list; a change of that list
//! (a flush, a compaction, a vnode that arrives) must hold as a whole or not at all, also across a power cut.
//!
//! How: each change is one group of [`Edit`]s, written, synced and marked as synced before [`Manifest::commit`] returns. Every open begins a new
//! file with a snapshot, and so does a manifest that has grown long or whose last append failed: what a failed append left
//! on the disk is unknown, and nothing may be written behind it. The highest numbered file whose first group holds is the
//! current one.
//!
//! Invariants:
//! 1. The files an edit names, and their directories, are synced before the edit is written. The caller sees to it.
//! 2. [`Manifest::catalog`] shows durable state only, once the first change was made.
//! 3. A file is unlinked only after the edit that drops it is durable.
//! 4. A change that was acknowledged is never taken back without a word: it is below a mark (see `mark`).
//! 5. After a change that failed, the files it named stay until a new manifest is durable: the change may be found on the disk.
//! 6. Nothing is waited for from where a change shows in memory to the end of [`Manifest::commit`]: one that nobody waited for to its end
//!    is not there, and in doubt like one that failed.
//! 7. Of files that changes began and did not finish there are a few at most, however long the disk is full: before another is begun
//!    they are removed, which takes no room; where too many cannot be, the change is refused, and nothing is in doubt. The last file that
//!    was finished stays until the next one is.
//!
//! It refuses: a bad group below a mark or with a good one behind it, a file that lacks groups that were marked, an unknown version, another core's file, edits that contradict each other.

mod area;
mod catalog;
mod dropped;
mod format;
mod inspect;
mod mark;
mod turn;

use std::cell::{Ref, RefCell};

pub(crate) use area::Area;
use catalog::Contradiction;
pub(crate) use catalog::{Catalog, LEVELS, StoreEntry};
pub(crate) use dropped::{Drops, hides};
pub(crate) use format::Edit;
use format::{Fault, Identity, NUMBER_MAX};
pub(crate) use inspect::inspect;
pub(crate) use mark::bears_magic;
use mark::{MARKS_BYTES, Marks, encode_mark, mark_offset};
pub(crate) use turn::Turn;

use crate::planted::{self, Bug};
use crate::{
    BLOCK_BYTES, Class, Directory, Disk, DiskError, DiskErrorKind, FileName, NameOp, NameReply, Open,
    ReadError, Sync, cover,
};

/// Files that changes began and did not finish, and that cannot be removed, before no more is begun.
const ATTEMPTS_MAX: usize = 8;

/// Bytes moved by one read or write.
const TRANSFER_BYTES: usize = 256 << 10;

/// The open manifest of a core.
pub(crate) struct Manifest<D: Disk> {
    disk: D,
    core: u16,
    life: u128,
    /// Length of the edits behind the snapshot from which a new file is begun.
    edit_bytes_max: u64,
    turn: Turn,
    state: RefCell<State<D>>,
}

struct State<D: Disk> {
    catalog: Catalog,
    /// That of the file begun last.
    number: u64,
    /// The file that was finished last in this life, once one was.
    current: Option<u64>,
    /// Files older than that, finished or of an earlier life, that are not removed yet. One of them holds what was acknowledged
    /// until there is a current one.
    superseded: Vec<u64>,
    /// Files that were begun and not finished: a change that nobody was told of is in them, or nothing. At most [`ATTEMPTS_MAX`].
    attempts: Vec<u64>,
    /// `None`: the file cannot be appended to, and the next change begins a new one.
    tail: Option<Tail<D>>,
}

#[derive(Clone)]
struct Tail<D: Disk> {
    file: D::File,
    at: u64,
    index: u32,
    snapshot_bytes: u64,
}

/// Why a change was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CommitError {
    pub(crate) error: DiskError,
    /// The change may be found on the disk all the same: what it names must stay until a later change was made.
    pub(crate) in_doubt: bool,
    /// Nothing of it was begun, since what earlier ones left stays: the next may be made all the same.
    pub(crate) is_refused: bool,
}

impl CommitError {
    /// Whether nothing may be written any more: what the device has is not known.
    pub(crate) fn fences(&self) -> bool {
        !self.is_refused && self.error.kind != DiskErrorKind::NoSpace
    }
}

/// A change that was made.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Made {
    /// Value files that nothing names any more, and that went with it.
    pub(crate) dead: Vec<FileName>,
    /// It holds, and a sync after it has failed: nothing may be written any more.
    pub(crate) fences: bool,
}

/// What reading the manifests of a core found.
#[derive(Debug)]
pub(crate) struct Found {
    /// `None`: there is no manifest, or only one that was cut while the first was being made.
    pub(crate) catalog: Option<Catalog>,
    /// The current file's last group was incomplete.
    pub(crate) cut_tail: bool,
    /// All manifest files, by number.
    pub(crate) numbers: Vec<u64>,
}

/// Why the manifest could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LoadError {
    Read(ReadError),
    Version { number: u64, found: u16 },
}

impl From<DiskError> for LoadError {
    fn from(error: DiskError) -> Self {
        LoadError::Read(error.into())
    }
}

/// Reads the current manifest of a core.
pub(crate) async fn load<D: Disk>(disk: &D, core: u16) -> Result<Found, LoadError> {
    let mut files = Vec::new();
    for (name, bytes) in list(disk, Directory::Core(core)).await? {
        if let FileName::Manifest { number, .. } = name {
            files.push((number, bytes));
        }
    }
    files.sort_unstable();
    let numbers = files.iter().map(|(number, _)| *number).collect();
    for &(number, bytes) in files.iter().rev() {
        if number > NUMBER_MAX {
            let fault = Fault::Wrong { what: "manifest number", expected: NUMBER_MAX, found: number };
            return Err(LoadError::Read(fault.at(core, number, 0).into()));
        }
        let content = read_file(disk, FileName::Manifest { core, number }, bytes).await?;
        match replay(core, number, &content) {
            Replay::Empty => {}
            Replay::Whole { catalog, cut_tail } => {
                return Ok(Found { catalog: Some(catalog), cut_tail, numbers });
            }
            Replay::Damaged(Fault::Version { found }, _) => {
                return Err(LoadError::Version { number, found });
            }
            Replay::Damaged(fault, offset) => {
                return Err(LoadError::Read(fault.at(core, number, offset).into()));
            }
        }
    }
    Ok(Found { catalog: None, cut_tail: false, numbers })
}

/// What the bytes of one manifest file come to.
#[derive(Debug, PartialEq)]
enum Replay {
    /// Its snapshot was never finished.
    Empty,
    Whole {
        catalog: Catalog,
        cut_tail: bool,
    },
    Damaged(Fault, u64),
}

fn replay(core: u16, number: u64, bytes: &[u8]) -> Replay {
    let marks = match Marks::read(core, number, bytes) {
        Ok(marks) => marks,
        Err((fault, offset)) => return Replay::Damaged(fault, offset),
    };
    let mut catalog = Catalog::default();
    let mut at = MARKS_BYTES;
    let mut index = 0;
    let mut life = marks.life();
    let mut cut_tail = false;
    while at < bytes.len() {
        let group = match format::decode_group(core, number, &bytes[at..]) {
            Ok(group) => group,
            Err(fault @ (Fault::Version { .. } | Fault::Wrong { .. })) => {
                return Replay::Damaged(fault, at as u64);
            }
            Err(fault @ Fault::Damaged { .. }) => {
                if index < marks.groups || later_group(core, number, &bytes[at..], life) {
                    return Replay::Damaged(fault, at as u64);
                }
                cut_tail = true;
                break;
            }
        };
        if *life.get_or_insert(group.life) != group.life || group.index != index {
            let fault =
                Fault::Wrong { what: "group index", expected: index.into(), found: group.index.into() };
            return Replay::Damaged(fault, at as u64);
        }
        for edit in &group.edits {
            if let Err(Contradiction { what, subject }) = catalog.apply(edit) {
                return Replay::Damaged(Fault::Wrong { what, expected: 0, found: subject }, at as u64);
            }
        }
        at += group.bytes;
        index += 1;
    }
    if let Some(fault) = marks.judge(index) {
        return Replay::Damaged(fault, at as u64);
    }
    if let Err(Contradiction { what, subject }) = catalog.check() {
        return Replay::Damaged(Fault::Wrong { what, expected: 0, found: subject }, at as u64);
    }
    if index == 0 { Replay::Empty } else { Replay::Whole { catalog, cut_tail } }
}

/// Whether a group of the same life stands anywhere behind the bad one at the start of `bytes`.
fn later_group(core: u16, number: u64, bytes: &[u8], life: Option<u128>) -> bool {
    (BLOCK_BYTES..bytes.len()).step_by(BLOCK_BYTES).any(|at| {
        format::decode_group(core, number, &bytes[at..])
            .is_ok_and(|group| life.is_none_or(|life| life == group.life))
    })
}

impl<D: Disk> Manifest<D> {
    /// Begins a new manifest that holds `catalog`, and removes the files of `old`.
    pub(crate) async fn begin(
        disk: D,
        core: u16,
        life: u128,
        edit_bytes_max: u64,
        catalog: Catalog,
        old: &[u64],
    ) -> Result<Manifest<D>, DiskError> {
        let manifest = Manifest::put_off(disk, core, life, edit_bytes_max, catalog, old);
        manifest.make_good().await?;
        Ok(manifest)
    }

    /// A manifest for a disk that has no room for one: the files of `old` stay, and what `catalog` has more than they say becomes
    /// durable with the first change. Until then the caller does nothing that relies on it.
    pub(crate) fn put_off(
        disk: D,
        core: u16,
        life: u128,
        edit_bytes_max: u64,
        catalog: Catalog,
        old: &[u64],
    ) -> Manifest<D> {
        let number = old.iter().copied().max().unwrap_or(0);
        let (superseded, attempts) = (old.to_vec(), Vec::new());
        let state = State { catalog, number, current: None, superseded, attempts, tail: None };
        Manifest { disk, core, life, edit_bytes_max, turn: Turn::default(), state: RefCell::new(state) }
    }

    /// Writes what was put off.
    pub(crate) async fn make_good(&self) -> Result<(), DiskError> {
        let catalog = self.catalog().clone();
        let tail = self.begin_file(&catalog).await.map_err(|failed| failed.error)?;
        if let Some(error) = self.remove_others().await? {
            return Err(error);
        }
        self.take_over(tail, catalog);
        Ok(())
    }

    /// The number of its file.
    pub(crate) fn number(&self) -> u64 {
        self.state.borrow().number
    }

    /// The durable state; and, while the manifest is put off, what it will be.
    pub(crate) fn catalog(&self) -> Ref<'_, Catalog> {
        Ref::map(self.state.borrow(), |state| &state.catalog)
    }

    /// Makes a change durable: all of `edits`, or none. With it go the value files that nothing names any more. Which those are is asked
    /// when the turn of the change has come: of two that wait, either may take the last name of one, and neither knows.
    pub(crate) async fn commit(&self, edits: &[Edit]) -> Result<Made, CommitError> {
        let _turn = self.turn.take().await;
        let mut catalog = self.state.borrow().catalog.clone();
        apply_own(&mut catalog, edits);
        // Behind a close there is no edit.
        let dead = if catalog.closed.is_some() { Vec::new() } else { catalog.dead_values() };
        let removed = dead.iter().map(|&file| match file {
            FileName::Values { store, number } => Edit::RemoveValues { store, number },
            FileName::Segment { .. } | FileName::Manifest { .. } | FileName::Table { .. } => {
                unreachable!("it is a value file")
            }
        });
        let removed: Vec<Edit> = removed.collect();
        apply_own(&mut catalog, &removed);
        let edits = [edits, &removed].concat();
        let tail = self.state.borrow().tail.clone();
        let mut fences = false;
        let tail = match tail {
            Some(tail) if tail.at - tail.snapshot_bytes < self.edit_bytes_max => {
                self.append(tail, &edits).await?
            }
            Some(_) | None => {
                cover::mark("manifest begun afresh");
                let tail = self.begin_file(&catalog).await?;
                // The change is made; a file that stays behind is tried again after the next rotation. A failed sync is another matter, as ever.
                let removed = self.remove_others().await;
                fences = removed.is_err_and(|error| error.kind != DiskErrorKind::NoSpace);
                tail
            }
        };
        self.take_over(tail, catalog);
        Ok(Made { dead, fences })
    }

    /// Shows in memory what is durable.
    fn take_over(&self, tail: Tail<D>, catalog: Catalog) {
        let state = &mut *self.state.borrow_mut();
        state.tail = Some(tail);
        state.catalog = catalog;
    }

    async fn append(&self, mut tail: Tail<D>, edits: &[Edit]) -> Result<Tail<D>, CommitError> {
        let number = self.state.borrow().number;
        let group = format::encode_group(self.identity(number), tail.index, edits);
        // Until the write has succeeded the tail's content is unknown.
        self.state.borrow_mut().tail = None;
        if let Err(error) = write_all(&self.disk, &tail.file, self.name(number), tail.at, &group).await {
            return Err(doubtful(error));
        }
        tail.at += group.len() as u64;
        tail.index += 1;
        self.mark(tail, number).await
    }

    /// Writes `catalog` as the snapshot of a new file, which is the current one then.
    async fn begin_file(&self, catalog: &Catalog) -> Result<Tail<D>, CommitError> {
        let clean = |error| CommitError { error, in_doubt: false, is_refused: false };
        // What the attempts before this one left takes room that this one may lack.
        let mut attempts = self.state.borrow().attempts.clone();
        if !attempts.is_empty() {
            if planted::active(Bug::AttemptTakesLastManifest) {
                attempts.extend(self.state.borrow().current);
            }
            let stays = match self.remove(attempts).await {
                Err(error) if error.kind == DiskErrorKind::NoSpace => Some(error),
                removed => removed.map_err(clean)?,
            };
            if let Some(error) = stays
                && self.state.borrow().attempts.len() >= ATTEMPTS_MAX
            {
                cover::mark("manifest not begun behind attempts that stay");
                return Err(CommitError { error, in_doubt: false, is_refused: true });
            }
        }
        // The number is spent even if this fails: a half-made file may keep its name.
        let number = {
            let state = &mut *self.state.borrow_mut();
            state.number += 1;
            state.attempts.push(state.number);
            state.tail = None;
            state.number
        };
        let name = self.name(number);
        let file = self.disk.open(name, Open::Create).await.map_err(clean)?;
        let group = format::encode_group(self.identity(number), 0, &catalog.to_edits());
        // The marks' blocks are written blank, so that a mark needs no space.
        let content = [&[0; MARKS_BYTES][..], &group].concat();
        write_all(&self.disk, &file, name, 0, &content).await.map_err(doubtful)?;
        self.disk.sync(&file).await.map_err(doubtful)?;
        self.sync_directory().await.map_err(doubtful)?;
        let snapshot_bytes = content.len() as u64;
        let tail = self.mark(Tail { file, at: snapshot_bytes, index: 1, snapshot_bytes }, number).await?;
        let state = &mut *self.state.borrow_mut();
        state.attempts.retain(|attempt| *attempt != number);
        state.superseded.extend(state.current.replace(number));
        Ok(tail)
    }

    /// Marks the groups before the tail as synced, which they are. Where that fails, the change is in doubt as after a failed write of
    /// its own: the device may have failed that one without a word, and a full disk leaves a change that rot could take back.
    async fn mark(&self, tail: Tail<D>, number: u64) -> Result<Tail<D>, CommitError> {
        let mark = encode_mark(self.identity(number), tail.index);
        let at = mark_offset(tail.index);
        write_all(&self.disk, &tail.file, self.name(number), at, &mark).await.map_err(doubtful)?;
        Ok(tail)
    }

    /// Removes all files but the current one for good, so that none can ever be taken for it. As [`Manifest::remove`].
    async fn remove_others(&self) -> Result<Option<DiskError>, DiskError> {
        let numbers = {
            let state = self.state.borrow();
            state.superseded.iter().chain(&state.attempts).copied().collect()
        };
        self.remove(numbers).await
    }

    /// Removes files for good: all that can be, with the error of the first that stays. It fails if what is gone may come back.
    async fn remove(&self, numbers: Vec<u64>) -> Result<Option<DiskError>, DiskError> {
        let (mut gone, mut failed) = (Vec::new(), None);
        for number in numbers {
            match self.disk.names(NameOp::Unlink(self.name(number))).await {
                Ok(_) | Err(DiskError { kind: DiskErrorKind::NotFound, .. }) => gone.push(number),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        self.sync_directory().await?;
        let state = &mut *self.state.borrow_mut();
        state.superseded.retain(|number| !gone.contains(number));
        state.attempts.retain(|number| !gone.contains(number));
        Ok(failed)
    }

    async fn sync_directory(&self) -> Result<(), DiskError> {
        sync_directory(&self.disk, Directory::Core(self.core)).await
    }

    fn name(&self, number: u64) -> FileName {
        FileName::Manifest { core: self.core, number }
    }

    fn identity(&self, number: u64) -> Identity {
        Identity { core: self.core, number, life: self.life }
    }
}

/// The failure of a change of which something may be on the disk.
fn doubtful(error: DiskError) -> CommitError {
    CommitError { error, in_doubt: true, is_refused: false }
}

fn apply_own(catalog: &mut Catalog, edits: &[Edit]) {
    for edit in edits {
        let applied = catalog.apply(edit);
        assert!(applied.is_ok(), "the engine's own edit contradicts its state: {applied:?}");
    }
}

/// Makes the names in a directory durable.
pub(crate) async fn sync_directory<D: Disk>(disk: &D, directory: Directory) -> Result<(), DiskError> {
    if planted::active(Bug::SkippedDirectorySync) {
        return Ok(());
    }
    disk.names(NameOp::SyncDirectory(directory)).await.map(|_| ())
}

/// The files of a directory with their lengths in bytes.
pub(crate) async fn list<D: Disk>(disk: &D, directory: Directory) -> Result<Vec<(FileName, u64)>, DiskError> {
    match disk.names(NameOp::List(directory)).await? {
        NameReply::Files(files) => Ok(files),
        NameReply::Done | NameReply::Checkpoints(_) => unreachable!("a listing is answered with files"),
    }
}

fn failed(operation: &'static str, name: FileName, kind: DiskErrorKind) -> DiskError {
    DiskError { kind, operation, name: Some(name) }
}

/// Reads a file of `bytes` bytes, rounded up to blocks; what lies behind its end reads as zeros.
async fn read_file<D: Disk>(disk: &D, name: FileName, bytes: u64) -> Result<Vec<u8>, LoadError> {
    let file = disk.open(name, Open::Read).await?;
    let len = (bytes as usize).next_multiple_of(BLOCK_BYTES);
    let mut content = vec![0; len];
    let mut at = 0;
    while at < len {
        let wanted = (len - at).min(TRANSFER_BYTES);
        let buf = disk.buf(wanted, Class::Background).ok_or(LoadError::Read(ReadError::NoBuffer))?;
        let (buf, moved) = disk.read(&file, at as u64, buf, Class::Background).await;
        let moved = moved?;
        content[at..at + moved].copy_from_slice(&buf[..moved]);
        if at + moved >= bytes as usize {
            break;
        }
        // A short read goes on from the last whole block.
        let whole = moved / BLOCK_BYTES * BLOCK_BYTES;
        if whole == 0 {
            return Err(failed("read", name, DiskErrorKind::Io).into());
        }
        at += whole;
    }
    Ok(content)
}

/// Writes whole blocks so that they are durable when this returns.
async fn write_all<D: Disk>(
    disk: &D,
    file: &D::File,
    name: FileName,
    at: u64,
    bytes: &[u8],
) -> Result<(), DiskError> {
    assert_eq!(bytes.len() % BLOCK_BYTES, 0, "whole blocks");
    let mut done = 0;
    while done < bytes.len() {
        let len = (bytes.len() - done).min(TRANSFER_BYTES);
        let Some(mut buf) = disk.buf(len, Class::Flush) else {
            return Err(DiskError::no_buffer("write", Some(name)));
        };
        buf.copy_from_slice(&bytes[done..done + len]);
        let (_, moved) = disk.write(file, at + done as u64, buf, Sync::Data, Class::Flush).await;
        let whole = moved? / BLOCK_BYTES * BLOCK_BYTES;
        if whole == 0 {
            return Err(failed("write", name, DiskErrorKind::Io));
        }
        done += whole;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
