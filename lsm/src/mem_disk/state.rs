//! The disk's state, and what each operation does to it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::buffer::{MemBuf, Pool};
use super::faults::{Counts, Fault, Plan, ReadFault};
use super::inode::{Content, Inode, Pages};
use super::names::{Change, Names, Place, Root};
use super::operation::{Op, OpId, Outcome, Slot, subject};
use super::{MemFile, crash};
use crate::{BLOCK_BYTES, Directory, DiskError, DiskErrorKind, FileName, NameOp, NameReply, Open, Sync};

/// A fault of either kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AnyFault {
    Step(Fault),
    Read(ReadFault),
}

/// An operation that was called and has not completed.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) root: Root,
    pub(super) op: Op,
    pub(super) fault: Option<AnyFault>,
    /// The disk's time at the call.
    pub(super) called: u64,
    pub(super) slot: Rc<RefCell<Slot>>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) names: Names,
    pub(super) plan: Plan,
    pub(super) counts: Counts,
    pub(super) pool: Rc<RefCell<Pool>>,
    pub(super) deferred: bool,
    /// Nothing happens any more: the power was cut or the process died.
    pub(super) dead: bool,
    pub(super) in_flight: BTreeMap<OpId, InFlight>,
    pub(super) next_op: u64,
    pub(super) next_inode: u64,
    /// The disk's time: grows with each call and each completion.
    pub(super) stamp: u64,
}

impl State {
    pub(super) fn new(names: Names, next_inode: u64) -> State {
        State {
            names,
            plan: Plan::default(),
            counts: Counts::default(),
            pool: Rc::new(RefCell::new(Pool::new())),
            deferred: false,
            dead: false,
            in_flight: BTreeMap::new(),
            next_op: 0,
            next_inode,
            stamp: 1,
        }
    }

    pub(super) fn tick(&mut self) -> u64 {
        self.stamp += 1;
        self.stamp
    }

    /// Counts the operation and finds the fault that meets it.
    pub(super) fn begin(&mut self, op: &Op) -> Option<AnyFault> {
        let is_read = match op {
            Op::Open { mode, .. } => *mode != Open::Create,
            Op::Read { .. } => true,
            Op::Write { .. } | Op::Sync { .. } => false,
            Op::Names(NameOp::List(_) | NameOp::ListCheckpoints) => true,
            Op::Names(_) => false,
        };
        if is_read { self.plan.read().map(AnyFault::Read) } else { self.plan.step().map(AnyFault::Step) }
    }

    /// Does the operation. `called` is the disk's time at the call: a sync covers what completed before it.
    pub(super) fn execute(&mut self, root: Root, op: Op, fault: Option<AnyFault>, called: u64) -> Outcome {
        let stamp = self.tick();
        match op {
            Op::Open { name, mode } => Outcome::Open(self.open((root, name), mode, fault, stamp)),
            Op::Read { file, at, buf, .. } => self.read(&file, at, buf, fault),
            Op::Write { file, at, buf, sync, .. } => self.write(&file, at, buf, sync, fault, stamp),
            Op::Sync { file } => Outcome::Sync(self.sync(&file, fault, called)),
            Op::Names(op) => Outcome::Names(self.change_names(root, op, fault, called, stamp)),
        }
    }

    fn open(
        &mut self,
        place: Place,
        mode: Open,
        fault: Option<AnyFault>,
        stamp: u64,
    ) -> Result<MemFile, DiskError> {
        let name = place.1;
        let failed = |kind| DiskError { kind, operation: "open", name: Some(name) };
        if let Some(fault) = fault.filter(fails) {
            return Err(failed(kind_of(fault)));
        }
        match mode {
            Open::Read | Open::Write => {
                let inode = self.names.seen.get(&place).ok_or(failed(DiskErrorKind::NotFound))?;
                Ok(MemFile { name, inode: Rc::clone(inode), writable: mode == Open::Write })
            }
            Open::Create => {
                let inode = self.create(place, Content::default(), "open", stamp)?;
                Ok(MemFile { name, inode, writable: true })
            }
        }
    }

    fn create(
        &mut self,
        place: Place,
        content: Content,
        operation: &'static str,
        stamp: u64,
    ) -> Result<Rc<Inode>, DiskError> {
        let (root, name) = place;
        let failed = |kind| DiskError { kind, operation, name: Some(name) };
        if !self.names.directories.contains(&(root, name.directory())) {
            return Err(failed(DiskErrorKind::NotFound));
        }
        if self.names.seen.contains_key(&place) {
            return Err(failed(DiskErrorKind::Exists));
        }
        if self.plan.full {
            return Err(failed(DiskErrorKind::NoSpace));
        }
        self.next_inode += 1;
        let inode = Inode::new(self.next_inode, content);
        self.names.change(Change::Add { name: place, inode: Rc::clone(&inode) }, stamp);
        self.counts.name_changes += 1;
        Ok(inode)
    }

    fn read(&mut self, file: &MemFile, at: u64, mut buf: MemBuf, fault: Option<AnyFault>) -> Outcome {
        let failed = |kind| DiskError { kind, operation: "read", name: Some(file.name) };
        let mut len = buf.len();
        match fault {
            Some(AnyFault::Read(ReadFault::Short)) => len = half(len),
            Some(AnyFault::Read(ReadFault::Flip { .. } | ReadFault::Misplaced { .. })) | None => {}
            Some(AnyFault::Read(ReadFault::Io) | AnyFault::Step(_)) => {
                return Outcome::Transfer(buf, Err(failed(DiskErrorKind::Io)));
            }
        }
        let first = (file.name, at / BLOCK_BYTES as u64);
        let behind = (file.name, (at + len as u64).div_ceil(BLOCK_BYTES as u64));
        if self.plan.bad_pages.range(first..behind).next().is_some() {
            return Outcome::Transfer(buf, Err(failed(DiskErrorKind::Io)));
        }
        let bytes = file.inode.content.borrow().seen.read(at, &mut buf[..len]);
        if let (Some(AnyFault::Read(ReadFault::Flip { bit })), true) = (fault, bytes > 0) {
            let bit = bit % (bytes as u64 * 8);
            buf[(bit / 8) as usize] ^= 1 << (bit % 8);
        }
        if let Some(AnyFault::Read(ReadFault::Misplaced { choice })) = fault {
            self.read_elsewhere(file, at, &mut buf[..bytes], choice);
        }
        self.counts.reads += 1;
        self.counts.read_bytes += bytes as u64;
        Outcome::Transfer(buf, Ok(bytes))
    }

    /// Reads what stands elsewhere: in half of all cases in the same file.
    fn read_elsewhere(&self, file: &MemFile, at: u64, into: &mut [u8], choice: u64) {
        let files: Vec<&Rc<Inode>> = self.names.seen.values().collect();
        let inode = match choice % 2 {
            0 => &file.inode,
            _ => files.get((choice / 2) as usize % files.len().max(1)).copied().unwrap_or(&file.inode),
        };
        let content = inode.content.borrow();
        let Some(place) = another_place(content.seen.len, into.len(), choice / 2) else { return };
        if inode.id != file.inode.id || place != at {
            content.seen.read(place, into);
        }
    }

    fn write(
        &mut self,
        file: &MemFile,
        mut at: u64,
        buf: MemBuf,
        sync: Sync,
        fault: Option<AnyFault>,
        stamp: u64,
    ) -> Outcome {
        let failed = |kind| DiskError { kind, operation: "write", name: Some(file.name) };
        let mut content = file.inode.content.borrow_mut();
        if self.plan.full && at + buf.len() as u64 > content.seen.len {
            drop(content);
            return Outcome::Transfer(buf, Err(failed(DiskErrorKind::NoSpace)));
        }
        if let Some(AnyFault::Step(Fault::Misplaced { choice })) = fault {
            at = another_place(content.seen.len, buf.len(), choice).unwrap_or(at);
        }
        let result = match fault {
            None | Some(AnyFault::Step(Fault::Misplaced { .. })) => Ok(buf.len()),
            Some(AnyFault::Step(Fault::Short)) => Ok(half(buf.len())),
            Some(fault @ AnyFault::Step(Fault::NoSpace)) => Err(failed(kind_of(fault))),
            Some(fault @ AnyFault::Step(Fault::NoSpaceAfter { blocks })) => {
                let bytes = blocks.saturating_mul(BLOCK_BYTES).min(buf.len());
                content.write(at, &buf[..bytes], false, stamp);
                Err(failed(kind_of(fault)))
            }
            Some(fault @ (AnyFault::Step(Fault::Io) | AnyFault::Read(_))) => {
                content.write(at, &buf[..half(buf.len())], false, stamp);
                content.doom();
                Err(failed(kind_of(fault)))
            }
        };
        if let Ok(bytes) = result {
            content.write(at, &buf[..bytes], sync == Sync::Data, stamp);
            self.counts.written_bytes += bytes as u64;
            match sync {
                Sync::No => self.counts.plain_writes += 1,
                Sync::Data => self.counts.synced_writes += 1,
            }
        }
        drop(content);
        Outcome::Transfer(buf, result)
    }

    fn sync(&mut self, file: &MemFile, fault: Option<AnyFault>, called: u64) -> Result<(), DiskError> {
        let mut content = file.inode.content.borrow_mut();
        if let Some(fault) = fault.filter(fails) {
            content.doom();
            return Err(DiskError { kind: kind_of(fault), operation: "sync", name: Some(file.name) });
        }
        content.sync(called);
        self.counts.syncs += 1;
        Ok(())
    }

    fn change_names(
        &mut self,
        root: Root,
        op: NameOp,
        fault: Option<AnyFault>,
        called: u64,
        stamp: u64,
    ) -> Result<NameReply, DiskError> {
        let operation = operation_name(op);
        let failed = |kind, name| DiskError { kind, operation, name };
        if let Some(fault) = fault.filter(fails) {
            // As with data; but where there was no room, nothing was done, and it may be done later.
            if let (NameOp::SyncDirectory(directory), DiskErrorKind::Io) = (op, kind_of(fault)) {
                self.names.doom((root, directory));
            }
            return Err(failed(kind_of(fault), subject(op)));
        }
        match op {
            NameOp::CreateDirectory(directory) => {
                if root.is_some_and(|number| !self.names.checkpoints.contains(&number)) {
                    return Err(failed(DiskErrorKind::NotFound, None));
                }
                self.names.directories.insert((root, directory));
            }
            NameOp::CreateZeroed { name, bytes } => {
                if self.plan.zeroed_bytes_max.is_some_and(|most| bytes > most) {
                    return Err(failed(DiskErrorKind::NoSpace, Some(name)));
                }
                let zeros = Pages::zeroed(bytes);
                let content = Content { seen: zeros.clone(), durable: zeros, unsynced: Vec::new() };
                self.create((root, name), content, operation, stamp)?;
            }
            NameOp::Rename { from, to } => {
                assert_eq!(from.directory(), to.directory(), "a rename stays in its directory");
                if self.plan.stuck.contains(&from) {
                    return Err(failed(DiskErrorKind::Io, Some(from)));
                }
                let inode = self.named((root, from), operation)?;
                self.names.change(Change::Rename { from: (root, from), to: (root, to), inode }, stamp);
                self.counts.name_changes += 1;
            }
            NameOp::Link { from, to } => self.link((root, from), (root, to), operation, stamp)?,
            NameOp::LinkInto { name, checkpoint } => {
                assert_eq!(root, None, "a checkpoint has no checkpoints");
                self.link((root, name), (Some(checkpoint), name), operation, stamp)?;
            }
            NameOp::Unlink(name) => {
                if self.plan.stuck.contains(&name) {
                    return Err(failed(DiskErrorKind::Io, Some(name)));
                }
                self.named((root, name), operation)?;
                self.names.change(Change::Remove { name: (root, name) }, stamp);
                self.counts.name_changes += 1;
            }
            NameOp::List(directory) => return Ok(NameReply::Files(self.list(root, directory))),
            NameOp::SyncDirectory(directory) => {
                self.names.sync((root, directory), called);
                self.counts.directory_syncs += 1;
            }
            NameOp::CreateCheckpoint(number) => {
                assert_eq!(root, None, "a checkpoint has no checkpoints");
                self.names.checkpoints.insert(number);
            }
            NameOp::RemoveCheckpoint(number) => self.remove_checkpoint(number),
            NameOp::ListCheckpoints => {
                return Ok(NameReply::Checkpoints(self.names.checkpoints.iter().copied().collect()));
            }
        }
        Ok(NameReply::Done)
    }

    fn link(&mut self, from: Place, to: Place, operation: &'static str, stamp: u64) -> Result<(), DiskError> {
        let failed = |kind| DiskError { kind, operation, name: Some(to.1) };
        let inode = self.named(from, operation)?;
        if self.names.seen.contains_key(&to) {
            return Err(failed(DiskErrorKind::Exists));
        }
        if !self.names.directories.contains(&(to.0, to.1.directory())) {
            return Err(failed(DiskErrorKind::NotFound));
        }
        self.names.change(Change::Add { name: to, inode }, stamp);
        self.counts.name_changes += 1;
        Ok(())
    }

    fn remove_checkpoint(&mut self, number: u64) {
        let root = Some(number);
        let holds = |names: &Names, directory| {
            names.seen.keys().any(|(of, name)| *of == root && name.directory() == directory)
        };
        let names = &mut self.names;
        let empty: Vec<_> = names.directories.iter().filter(|(of, _)| *of == root).copied().collect();
        for (_, directory) in empty {
            if !holds(names, directory) {
                names.directories.remove(&(root, directory));
            }
        }
        if !names.directories.iter().any(|(of, _)| *of == root) {
            names.checkpoints.remove(&number);
        }
    }

    fn named(&self, place: Place, operation: &'static str) -> Result<Rc<Inode>, DiskError> {
        let missing = DiskError { kind: DiskErrorKind::NotFound, operation, name: Some(place.1) };
        self.names.seen.get(&place).map(Rc::clone).ok_or(missing)
    }

    pub(super) fn list(&self, root: Root, directory: Directory) -> Vec<(FileName, u64)> {
        let here = |(of, name): &Place| *of == root && name.directory() == directory;
        let files = self.names.seen.iter().filter(|(place, _)| here(place));
        files.map(|((_, name), inode)| (*name, inode.content.borrow().seen.len)).collect()
    }

    /// What is left after a power cut: operations in flight count as begun and unsynced.
    pub(super) fn after_power_cut(&self, mode: crash::CrashMode, rng: &mut dyn FnMut() -> u64) -> State {
        // On a copy, whose files are its own: this disk stays as it is.
        let mut copy = self.after_process_death(&mut |_| false);
        for op in self.in_flight.values().filter_map(|flight| begun(flight, rng)) {
            copy.apply_unsynced(op);
        }
        State::new(crash::power_cut(&copy.names, mode, rng), copy.next_inode)
    }

    /// What is left after the death of the process; `lands` says which operations in flight were done all the same.
    pub(super) fn after_process_death(&self, lands: &mut dyn FnMut(OpId) -> bool) -> State {
        let mut left = State::new(crash::process_death(&self.names), self.next_inode);
        left.stamp = self.stamp;
        for (id, flight) in &self.in_flight {
            if lands(*id)
                && let Some(op) = begun(flight, &mut || u64::MAX)
            {
                left.apply_unsynced(op);
            }
        }
        left
    }

    fn apply_unsynced(&mut self, op: Begun) {
        let stamp = self.tick();
        match op {
            Begun::Write { inode, at, bytes } => {
                // A file whose last name is gone for good is gone too.
                if let Some(inode) = self.names.inodes().get(&inode) {
                    inode.content.borrow_mut().write(at, &bytes, false, stamp);
                }
            }
            Begun::Create { place, bytes } => {
                let zeros = Pages::zeroed(bytes);
                let content = Content { seen: zeros.clone(), durable: zeros, unsynced: Vec::new() };
                // Refused names fail as they would have.
                let _refused = self.create(place, content, "create", stamp);
            }
            Begun::Names(root, op) => {
                let _refused = self.change_names(root, op, None, 0, stamp);
            }
        }
    }
}

/// What an operation in flight may have done already.
enum Begun {
    Write { inode: u64, at: u64, bytes: Vec<u8> },
    Create { place: Place, bytes: u64 },
    Names(Root, NameOp),
}

/// What `flight` may have done; `rng` chooses how far a preallocation got.
fn begun(flight: &InFlight, rng: &mut dyn FnMut() -> u64) -> Option<Begun> {
    if flight.fault.is_some() {
        return None;
    }
    let begun = match &flight.op {
        Op::Open { name, mode: Open::Create } => Begun::Create { place: (flight.root, *name), bytes: 0 },
        Op::Open { .. } | Op::Read { .. } | Op::Sync { .. } => return None,
        Op::Write { file, at, buf, .. } => {
            Begun::Write { inode: file.inode.id, at: *at, bytes: buf.to_vec() }
        }
        Op::Names(NameOp::CreateZeroed { name, bytes }) => {
            let blocks = (bytes / BLOCK_BYTES as u64).max(1);
            let choice = rng();
            let bytes = if choice.is_multiple_of(2) {
                (1 + choice / 2 % blocks) * BLOCK_BYTES as u64
            } else {
                *bytes
            };
            Begun::Create { place: (flight.root, *name), bytes }
        }
        Op::Names(NameOp::List(_) | NameOp::ListCheckpoints | NameOp::SyncDirectory(_)) => return None,
        Op::Names(op) => Begun::Names(flight.root, *op),
    };
    Some(begun)
}

/// Whether an operation that moves no data fails by it.
fn fails(fault: &AnyFault) -> bool {
    !matches!(fault, AnyFault::Step(Fault::Misplaced { .. }) | AnyFault::Read(ReadFault::Misplaced { .. }))
}

/// A place in a file of this length at which so many bytes stand.
fn another_place(file_bytes: u64, bytes: usize, choice: u64) -> Option<u64> {
    let places = file_bytes.checked_sub(bytes as u64)? / BLOCK_BYTES as u64 + 1;
    Some(choice % places * BLOCK_BYTES as u64)
}

fn half(bytes: usize) -> usize {
    bytes / BLOCK_BYTES / 2 * BLOCK_BYTES
}

fn kind_of(fault: AnyFault) -> DiskErrorKind {
    match fault {
        AnyFault::Step(Fault::NoSpace | Fault::NoSpaceAfter { .. }) => DiskErrorKind::NoSpace,
        AnyFault::Step(Fault::Io | Fault::Short | Fault::Misplaced { .. }) | AnyFault::Read(_) => {
            DiskErrorKind::Io
        }
    }
}

fn operation_name(op: NameOp) -> &'static str {
    match op {
        NameOp::CreateDirectory(_) => "create directory",
        NameOp::CreateZeroed { .. } => "create",
        NameOp::Rename { .. } => "rename",
        NameOp::Link { .. } => "link",
        NameOp::Unlink(_) => "unlink",
        NameOp::List(_) => "list",
        NameOp::SyncDirectory(_) => "sync directory",
        NameOp::CreateCheckpoint(_) => "create checkpoint",
        NameOp::LinkInto { .. } => "link into checkpoint",
        NameOp::RemoveCheckpoint(_) => "remove checkpoint",
        NameOp::ListCheckpoints => "list checkpoints",
    }
}
