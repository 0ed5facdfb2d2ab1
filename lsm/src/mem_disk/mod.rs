//! A disk in memory that models crashes, for tests and simulation. Nothing in the server uses it.
//!
//! It exists because every promise of the engine is about what a power cut leaves. [`MemDisk`] keeps beside what reads see
//! what is durable, and the list of what is neither: writes at the grain of 512-byte sectors, changes of names per
//! directory. [`MemDisk::crash`] makes a new disk of the durable state and a chosen subset of the rest; the old one is dead,
//! its futures never complete.
//!
//! - Operations take effect when they are called, and their futures are ready at the first poll; on a *deferred* disk
//!   ([`MemDisk::defer`]) they wait until the owner says [`MemDisk::complete`], in any order.
//! - [`MemDisk::steps`] counts the steps that change something (writes, syncs, changes of names), so that a test can cut
//!   the power at each one ([`MemDisk::crash_at`]) or let each one fail ([`MemDisk::fail_at`]).
//! - What the [`Disk`] contract does not promise does not happen here: a synced write covers itself only, a sync covers
//!   what completed before it was called, a name is durable only after its directory's sync, and what a failed sync should
//!   have covered is covered by no later one.
//! - Offsets and lengths that `O_DIRECT` would refuse are bugs of the caller: it panics.
//!
//! Everything is deterministic: the same calls and the same random numbers give the same disk.

mod buffer;
mod crash;
mod faults;
mod inode;
mod names;
mod operation;
mod pace;
mod random;
pub mod run;
mod state;

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;

pub use buffer::MemBuf;
pub use crash::CrashMode;
pub use faults::{Counts, Fault, ReadFault};
pub use operation::{OpId, OpInfo, OpKind};
pub use pace::MemPace;
pub use random::random;

use self::inode::{Content, Inode, Pages};
use self::names::{Names, Root};
use self::operation::{Completion, Op, Outcome, Slot};
use self::state::{AnyFault, InFlight, State};
use crate::{BLOCK_BYTES, Class, Directory, Disk, DiskError, FileName, NameOp, NameReply, Open, Sync};

/// An open file of a [`MemDisk`].
#[derive(Clone, Debug)]
pub struct MemFile {
    name: FileName,
    inode: Rc<Inode>,
    writable: bool,
}

/// A disk in memory. Clones are handles to the same disk.
#[derive(Clone, Debug)]
pub struct MemDisk {
    state: Rc<RefCell<State>>,
    /// The checkpoint that this handle is rooted in.
    root: Root,
}

impl Default for MemDisk {
    fn default() -> MemDisk {
        MemDisk::new()
    }
}

impl MemDisk {
    /// An empty disk.
    pub fn new() -> MemDisk {
        MemDisk::of(State::new(Names::default(), 0))
    }

    fn of(state: State) -> MemDisk {
        MemDisk { state: Rc::new(RefCell::new(state)), root: None }
    }

    /// From now on operations wait for [`MemDisk::complete`].
    pub fn defer(&self) {
        self.state.borrow_mut().deferred = true;
    }

    /// The operations in flight, in the order of their calls; those called after `after` only, if given.
    pub fn in_flight(&self, after: Option<OpId>) -> Vec<OpInfo> {
        let state = self.state.borrow();
        let from = after.map_or(OpId(0), |id| OpId(id.0 + 1));
        state.in_flight.range(from..).map(|(id, flight)| flight.op.info(*id)).collect()
    }

    /// Lets an operation in flight take effect and complete; false if it is not in flight (or nothing happens any more).
    pub fn complete(&self, id: OpId) -> bool {
        self.complete_with(id, None)
    }

    /// Lets an operation in flight fail.
    pub fn fail(&self, id: OpId, fault: Fault) -> bool {
        self.complete_with(id, Some(AnyFault::Step(fault)))
    }

    /// Lets a read in flight fail.
    pub fn fail_read(&self, id: OpId, fault: ReadFault) -> bool {
        self.complete_with(id, Some(AnyFault::Read(fault)))
    }

    fn complete_with(&self, id: OpId, fault: Option<AnyFault>) -> bool {
        let mut state = self.state.borrow_mut();
        if state.dead || state.plan.off {
            return false;
        }
        let Some(flight) = state.in_flight.remove(&id) else { return false };
        let outcome = state.execute(flight.root, flight.op, fault.or(flight.fault), flight.called);
        drop(state);
        let waker = flight.slot.borrow_mut().fill(outcome);
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// Completes everything in flight, what the woken tasks have not called yet left out; returns how many.
    pub fn complete_all(&self) -> usize {
        self.in_flight(None).into_iter().filter(|op| self.complete(op.id)).count()
    }

    /// Cuts the power: a new disk with what is left, chosen by `mode` and `rng`. This one is dead from now on.
    pub fn crash(&self, mode: CrashMode, rng: &mut dyn FnMut() -> u64) -> MemDisk {
        let left = self.image(mode, rng);
        self.state.borrow_mut().dead = true;
        left
    }

    /// What [`MemDisk::crash`] would leave, while this disk goes on.
    pub fn image(&self, mode: CrashMode, rng: &mut dyn FnMut() -> u64) -> MemDisk {
        MemDisk::of(self.state.borrow().after_power_cut(mode, rng))
    }

    /// Kills the process: a new disk on which everything written is seen, synced or not (what is not may still be lost in a
    /// later power cut). Operations in flight are done or not, as `rng` says. This one is dead from now on.
    pub fn kill(&self, rng: &mut dyn FnMut() -> u64) -> MemDisk {
        let mut state = self.state.borrow_mut();
        let left = state.after_process_death(&mut |_| rng().is_multiple_of(2));
        state.dead = true;
        MemDisk::of(left)
    }

    /// Steps begun so far: writes, syncs and changes of names.
    pub fn steps(&self) -> u64 {
        self.state.borrow().plan.steps
    }

    /// Reads begun so far; opens of existing files and lists count as reads.
    pub fn reads(&self) -> u64 {
        self.state.borrow().plan.reads
    }

    /// Step `step` (counted as by [`MemDisk::steps`]: 0 is the first ever) and everything after it never completes. Follow with
    /// [`MemDisk::crash`] or [`MemDisk::kill`].
    pub fn crash_at(&self, step: u64) {
        self.state.borrow_mut().plan.crash_at = Some(step);
    }

    /// Whether [`MemDisk::crash_at`] has been reached.
    pub fn is_off(&self) -> bool {
        self.state.borrow().plan.off
    }

    /// The `n`-th step from now (0 = the next) fails. May be called for several.
    pub fn fail_at(&self, n: u64, fault: Fault) {
        let plan = &mut self.state.borrow_mut().plan;
        plan.faults.insert(plan.steps + n, fault);
    }

    /// The `n`-th read from now (0 = the next) fails. May be called for several.
    pub fn fail_read_at(&self, n: u64, fault: ReadFault) {
        let plan = &mut self.state.borrow_mut().plan;
        plan.read_faults.insert(plan.reads + n, fault);
    }

    /// From now on the device fails each read of the page at `offset` of a file, until it is [`MemDisk::heal`]ed.
    pub fn break_page(&self, name: FileName, offset: u64) {
        self.state.borrow_mut().plan.bad_pages.insert((name, offset / BLOCK_BYTES as u64));
    }

    /// From now on the device fails each unlinking and each renaming of a file, until it is [`MemDisk::heal`]ed.
    pub fn stick(&self, name: FileName) {
        self.state.borrow_mut().plan.stuck.insert(name);
    }

    /// All pages can be read again, and all files be unlinked and renamed.
    pub fn heal(&self) {
        let plan = &mut self.state.borrow_mut().plan;
        plan.bad_pages.clear();
        plan.stuck.clear();
    }

    /// While full, no file can be made or grow.
    pub fn set_full(&self, full: bool) {
        self.state.borrow_mut().plan.full = full;
    }

    /// From now on there is no room for files of more bytes that are made whole ([`NameOp::CreateZeroed`]); others may grow.
    pub fn limit_zeroed(&self, bytes: u64) {
        self.state.borrow_mut().plan.zeroed_bytes_max = Some(bytes);
    }

    /// Bounds the bytes of buffers given out for a class.
    pub fn limit_buffers(&self, class: Class, bytes: usize) {
        self.state.borrow().pool.borrow_mut().limit(class, bytes);
    }

    /// Bytes of buffers of a class that are out.
    pub fn buffer_bytes(&self, class: Class) -> usize {
        self.state.borrow().pool.borrow().out_bytes(class)
    }

    /// What was done so far.
    pub fn counts(&self) -> Counts {
        self.state.borrow().counts
    }

    /// The files seen in a directory with their lengths, sorted.
    pub fn list(&self, directory: Directory) -> Vec<(FileName, u64)> {
        self.state.borrow().list(self.root, directory)
    }

    /// A file's content as reads see it.
    pub fn read_all(&self, name: FileName) -> Option<Vec<u8>> {
        let state = self.state.borrow();
        let content = state.names.seen.get(&(self.root, name))?.content.borrow();
        let mut bytes = vec![0; content.seen.len as usize];
        content.seen.read(0, &mut bytes);
        Some(bytes)
    }

    /// Replaces a file's content, durably and behind everyone's back; makes the file if there is none.
    pub fn write_all(&self, name: FileName, bytes: &[u8]) {
        let mut pages = Pages::default();
        pages.write(0, bytes);
        let content = Content { seen: pages.clone(), durable: pages, unsynced: Vec::new() };
        let mut state = self.state.borrow_mut();
        if let Some(inode) = state.names.seen.get(&(self.root, name)) {
            *inode.content.borrow_mut() = content;
            return;
        }
        state.next_inode += 1;
        let inode = Inode::new(state.next_inode, content);
        state.names.directories.insert((self.root, name.directory()));
        state.names.seen.insert((self.root, name), Rc::clone(&inode));
        state.names.durable.insert((self.root, name), inode);
    }

    /// Damages one byte of a file, durably; false if the file has no such byte.
    pub fn corrupt(&self, name: FileName, offset: u64, xor: u8) -> bool {
        let state = self.state.borrow();
        let Some(inode) = state.names.seen.get(&(self.root, name)) else { return false };
        let content = &mut *inode.content.borrow_mut();
        if offset >= content.seen.len {
            return false;
        }
        for pages in [&mut content.seen, &mut content.durable] {
            let mut byte = [0];
            if pages.read(offset, &mut byte) == 1 {
                pages.write(offset, &[byte[0] ^ xor]);
            }
        }
        for write in &mut content.unsynced {
            let Some(within) = offset.checked_sub(write.at) else { continue };
            if let Some(page) = write.pages.get_mut((within / BLOCK_BYTES as u64) as usize) {
                Rc::make_mut(page)[(within % BLOCK_BYTES as u64) as usize] ^= xor;
            }
        }
        true
    }

    fn submit(&self, op: Op) -> Completion {
        let mut state = self.state.borrow_mut();
        let called = state.tick();
        let fault = state.begin(&op);
        if !state.deferred && !state.dead && !state.plan.off {
            return Completion::Ready(Some(state.execute(self.root, op, fault, called)));
        }
        let slot = Rc::new(RefCell::new(Slot::default()));
        if !state.dead {
            let id = OpId(state.next_op);
            state.next_op += 1;
            state
                .in_flight
                .insert(id, InFlight { root: self.root, op, fault, called, slot: Rc::clone(&slot) });
        }
        Completion::Waiting(slot)
    }
}

impl Disk for MemDisk {
    type File = MemFile;
    type Buf = MemBuf;

    fn buf(&self, len: usize, class: Class) -> Option<MemBuf> {
        buffer::take(&self.state.borrow().pool, len, class)
    }

    fn buffer_bytes(&self) -> usize {
        self.state.borrow().pool.borrow().all_out_bytes()
    }

    fn open(&self, name: FileName, mode: Open) -> impl Future<Output = Result<MemFile, DiskError>> + 'static {
        let completion = self.submit(Op::Open { name, mode });
        async move {
            match completion.await {
                Outcome::Open(result) => result,
                other => unreachable!("an open came back as {other:?}"),
            }
        }
    }

    fn read(
        &self,
        file: &MemFile,
        at: u64,
        buf: MemBuf,
        class: Class,
    ) -> impl Future<Output = (MemBuf, Result<usize, DiskError>)> + 'static {
        assert_aligned(at, buf.len());
        transfer(self.submit(Op::Read { file: file.clone(), at, buf, class }))
    }

    fn write(
        &self,
        file: &MemFile,
        at: u64,
        buf: MemBuf,
        sync: Sync,
        class: Class,
    ) -> impl Future<Output = (MemBuf, Result<usize, DiskError>)> + 'static {
        assert_aligned(at, buf.len());
        assert!(file.writable, "{:?} was opened for reading", file.name);
        transfer(self.submit(Op::Write { file: file.clone(), at, buf, sync, class }))
    }

    fn sync(&self, file: &MemFile) -> impl Future<Output = Result<(), DiskError>> + 'static {
        let completion = self.submit(Op::Sync { file: file.clone() });
        async move {
            match completion.await {
                Outcome::Sync(result) => result,
                other => unreachable!("a sync came back as {other:?}"),
            }
        }
    }

    fn checkpoint(&self, number: u64) -> MemDisk {
        assert_eq!(self.root, None, "a checkpoint has no checkpoints");
        MemDisk { state: Rc::clone(&self.state), root: Some(number) }
    }

    fn names(&self, operation: NameOp) -> impl Future<Output = Result<NameReply, DiskError>> + 'static {
        let completion = self.submit(Op::Names(operation));
        async move {
            match completion.await {
                Outcome::Names(result) => result,
                other => unreachable!("an operation on names came back as {other:?}"),
            }
        }
    }
}

async fn transfer(completion: Completion) -> (MemBuf, Result<usize, DiskError>) {
    match completion.await {
        Outcome::Transfer(buf, result) => (buf, result),
        other => unreachable!("a transfer came back as {other:?}"),
    }
}

fn assert_aligned(at: u64, len: usize) {
    assert!(at.is_multiple_of(BLOCK_BYTES as u64), "offset {at} is not on a block boundary");
    assert!(len > 0 && len.is_multiple_of(BLOCK_BYTES), "length {len} is not whole blocks");
}

#[cfg(test)]
mod tests;
