//! The log of a core: what its stores will know after a crash.
//!
//! Records are *staged* into a group, the group is *committed* with one synced write, and only then may they be seen. While one
//! group is being written the next one fills; what arrives during a sync shares the next (group commit).
//!
//! - A group is one write on a block boundary, whole inside one segment; a synced block is never written again.
//! - At most one group is in flight. So when a group is found on disk, every group before it was synced; in
//!   [`CommitlogSync::Periodic`] mode it says itself how much was (its *mark*).
//! - The next segment is made ready ahead ([`Log::wants_segment`], [`Log::prepare`]): zeroing a file is slow, and a commit must not
//!   wait for it. A commit that finds none ready makes one.
//! - A failed or short write fences the log for good: what is on disk is unknown then. A full disk does not, as long as
//!   nothing was written: where a group's first block is read back and is not there, the group is let go of.
//! - Recovery ([`Log::recover`]) tells a cut tail from damage; see `recover` and the table in `verdict`.
//! - A file in which damage was found is never written over; when nothing in it is needed it is set aside, see `segments`.
//!
//! The log does not know what is in its records and when they may go: its owner says [`Log::retire_below`].
//!
//! Bounds: two groups of [`LogOptions::group_bytes`] (one filling, one in flight or being applied). How long the log may grow is
//! the owner's business, by [`Log::bytes`].

mod codec;
pub mod format;
mod gate;
mod group;
mod inspect;
mod options;
mod prepare;
mod recover;
mod scan;
mod segments;
mod staging;
mod verdict;
mod walk;

use std::cell::RefCell;
use std::rc::Rc;

pub use codec::{Entry, RecordFault, Records};
pub use group::Group;
pub(crate) use inspect::inspect;
pub use options::{CommitError, CommitlogSync, Fenced, LogError, LogOptions, StageError};
pub use recover::{CutTail, DAMAGE_REPORTS_MAX, LOG_END, LogDamage, LogRecovery};
pub use segments::{ASIDE_MAX, ASIDE_SLOT_MIN, SegmentInfo};

use self::format::{GroupHeader, Identity};
use self::gate::Gate;
use self::prepare::Prepared;
use self::segments::{Recyclable, Segments, Surplus};
use self::staging::{Filling, room_for};
use crate::planted::{self, Bug};
use crate::{
    AlignedBuf, BLOCK_BYTES, Class, Directory, Disk, DiskError, DiskErrorKind, FileName, Key, NameOp, Open,
    Record, Seq, Sync, cover,
};

/// Buffers: one filling, one in flight or being applied.
const BUFFERS_MAX: usize = 2;

/// A core's log. Clones are handles to the same log.
pub struct Log<D: Disk> {
    disk: D,
    core: u16,
    options: LogOptions,
    state: Rc<RefCell<State<D>>>,
    /// Held while a group is written.
    writer: Rc<Gate>,
    /// Held while the next segment is made ready, and while a file goes.
    preparer: Rc<Gate>,
}

impl<D: Disk> Clone for Log<D> {
    fn clone(&self) -> Self {
        Log {
            disk: self.disk.clone(),
            core: self.core,
            options: self.options,
            state: Rc::clone(&self.state),
            writer: Rc::clone(&self.writer),
            preparer: Rc::clone(&self.preparer),
        }
    }
}

struct State<D: Disk> {
    filling: Option<Filling<D::Buf>>,
    spare: Vec<D::Buf>,
    /// Buffers in existence.
    buffers: usize,
    segments: Segments,
    /// The current segment's file and identity.
    file: D::File,
    identity: Identity,
    prepared: Option<Prepared<D>>,
    /// There was no room yet for the first segment of this life, which will be in this slot: an old one without room stands in.
    first_slot: Option<u32>,
    next_id: u64,
    life_first: u64,
    life_after: u64,
    /// The next record's number.
    next_seq: u64,
    /// Last record written.
    written: u64,
    /// Last record known to be synced.
    synced: u64,
    /// The mark of the last group written.
    marked: u64,
    fenced: bool,
    groups: u64,
    syncs: u64,
}

impl<D: Disk> State<D> {
    fn give_back(&mut self, buf: D::Buf) {
        assert!(self.spare.len() < BUFFERS_MAX, "a buffer came back that never left");
        self.spare.push(buf);
    }

    fn check_fence(&self) -> Result<(), Fenced> {
        if self.fenced { Err(Fenced) } else { Ok(()) }
    }
}

/// Fences the log unless the operation that holds it ends well: a future dropped half-way leaves the disk in a state that
/// nobody knows.
struct FenceUnlessDone<D: Disk> {
    state: Rc<RefCell<State<D>>>,
    done: bool,
}

impl<D: Disk> Drop for FenceUnlessDone<D> {
    fn drop(&mut self) {
        if !self.done {
            self.state.borrow_mut().fenced = true;
        }
    }
}

impl<D: Disk> Log<D> {
    /// Adds a record to the group that fills. It is neither durable nor to be seen before [`Log::commit`] gives it back.
    #[inline]
    pub fn stage(&self, key: Key<'_>, record: Record<'_>, vnode_epoch: u64) -> Result<Seq, StageError> {
        let state = &mut *self.state.borrow_mut();
        if state.fenced {
            return Err(StageError::Fenced);
        }
        if state.filling.is_none() {
            let buf = self.take_buffer(state).ok_or(StageError::Full)?;
            state.filling = Some(Filling::new(buf, state.next_seq, self.options.token_seed));
        }
        let filling = state.filling.as_mut().expect("made above");
        if !filling.fits(&key, &record) {
            let ever = codec::encoded_len_max(&key, &record) <= room_for(self.options.group_bytes);
            return Err(if ever { StageError::Full } else { StageError::TooLarge });
        }
        state.next_seq += 1;
        Ok(filling.push(&key, &record, vnode_epoch))
    }

    /// A buffer that is back, or a new one while there are fewer than two.
    fn take_buffer(&self, state: &mut State<D>) -> Option<D::Buf> {
        if let Some(buf) = state.spare.pop() {
            return Some(buf);
        }
        if state.buffers == BUFFERS_MAX {
            return None;
        }
        let buf = self.disk.buf(self.options.group_bytes, Class::Log)?;
        state.buffers += 1;
        Some(buf)
    }

    /// Whether there is something to commit.
    pub fn has_staged(&self) -> bool {
        self.state.borrow().filling.as_ref().is_some_and(|filling| filling.count() > 0)
    }

    /// Bytes of records staged.
    pub fn staged_bytes(&self) -> usize {
        self.state.borrow().filling.as_ref().map_or(0, Filling::body)
    }

    /// Lets go of what is staged, as if it had never been: its numbers are given out again. For an owner that cannot wait for
    /// space after [`CommitError::NoSpace`] or a buffer after [`CommitError::NoBuffer`], and after a fence, when none of it can be
    /// written any more.
    pub fn discard_staged(&self) {
        let state = &mut *self.state.borrow_mut();
        if let Some(filling) = state.filling.take() {
            let (first, buf) = filling.abandon();
            state.next_seq = first;
            state.give_back(buf);
        }
    }

    /// Writes everything staged as one group and gives it back to be applied; `None` if nothing was staged. Groups come back in
    /// order. Dropping the future after its first poll may fence the log.
    pub async fn commit(&self) -> Result<Option<Group<D>>, CommitError> {
        let _turn = self.writer.enter().await;
        if !self.has_staged() {
            self.state.borrow().check_fence()?;
            return Ok(None);
        }
        let (header, buf) = self.write(None).await?;
        Ok(Some(Group::new(header, buf, Rc::clone(&self.state))))
    }

    /// Whether an idle log should append a mark: the last group written does not know yet that it is synced.
    pub fn wants_mark(&self) -> bool {
        let state = self.state.borrow();
        state.marked < state.synced && !state.fenced
    }

    /// Appends an empty group that says how much is synced, so that damage to the last group will not pass for a cut tail. Does
    /// nothing if the last group says so already, or if records are staged: the next commit will say it.
    pub async fn append_mark(&self) -> Result<(), CommitError> {
        let _turn = self.writer.enter().await;
        if self.has_staged() || !self.wants_mark() {
            return Ok(self.state.borrow().check_fence()?);
        }
        let Some(buf) = self.disk.buf(BLOCK_BYTES, Class::Log) else { return Ok(()) };
        self.write(Some(buf)).await.map(drop)
    }

    /// Writes the group that fills, or an empty one in `mark`. The caller has the writer's turn.
    async fn write(&self, mark: Option<D::Buf>) -> Result<(GroupHeader, D::Buf), CommitError> {
        loop {
            let room = {
                let state = &mut *self.state.borrow_mut();
                state.check_fence()?;
                let segment = *state.segments.current();
                segment.file_bytes - segment.bytes
            };
            let needed = match &mark {
                Some(buf) => buf.len(),
                None => self.state.borrow().filling.as_ref().expect("something is staged").bytes(),
            };
            if needed as u64 <= room {
                break;
            }
            // What is staged may grow meanwhile: look again.
            self.next_segment().await?;
        }
        let sync = match self.options.sync {
            CommitlogSync::Batch if planted::active(Bug::AckBeforeSync) => Sync::No,
            CommitlogSync::Batch => Sync::Data,
            CommitlogSync::Periodic => Sync::No,
        };
        let is_mark = mark.is_some();
        let (header, at, write) = {
            let state = &mut *self.state.borrow_mut();
            let filling = match mark {
                Some(buf) => Filling::new(buf, state.written + 1, None),
                None => state.filling.take().expect("looked at above"),
            };
            let (header, buf) = filling.seal(state.identity, state.synced);
            assert_eq!(header.first, state.written + 1, "groups follow each other without a gap");
            let segment = state.segments.current();
            let at = segment.bytes;
            segment.bytes += header.bytes() as u64;
            segment.next = header.next();
            (header, at, self.disk.write(&state.file, at, buf, sync, Class::Log))
        };
        let mut fence = FenceUnlessDone { state: Rc::clone(&self.state), done: false };
        let (buf, result) = write.await;
        match result {
            Ok(bytes) if bytes == header.bytes() => fence.done = true,
            Err(error) if error.kind == DiskErrorKind::NoSpace => {
                let Some(buf) = self.read_absent(at, buf).await else { return Err(CommitError::Fenced) };
                fence.done = true;
                self.take_back(&header, (!is_mark).then_some(buf));
                return Err(CommitError::NoSpace(error));
            }
            Ok(_) | Err(_) => return Err(CommitError::Fenced),
        }
        let state = &mut *self.state.borrow_mut();
        if !is_mark {
            state.segments.set_resting(false);
        }
        state.groups += 1;
        state.syncs += u64::from(sync == Sync::Data);
        state.written = header.next() - 1;
        state.marked = header.mark;
        if self.options.sync == CommitlogSync::Batch {
            state.synced = state.written;
        }
        Ok((header, buf))
    }

    /// After a write that found no space: the buffer of `group`, if what is in the current segment at `at` is not its first block.
    /// Without that no recovery takes it for a group, so the next one may have its place. It is read into the group's own buffer, which
    /// holds nothing that is needed any more: there may be no other, and without a look the log would have to be fenced.
    async fn read_absent(&self, at: u64, mut group: D::Buf) -> Option<D::Buf> {
        let slot = self.state.borrow_mut().segments.current().slot;
        let name = FileName::Segment { core: self.core, slot };
        group.set_len(BLOCK_BYTES);
        let first = group.to_vec();
        let file = self.disk.open(name, Open::Read).await.ok()?;
        let (found, read) = self.disk.read(&file, at, group, Class::Log).await;
        (read == Ok(BLOCK_BYTES) && found[..] != first[..]).then_some(found)
    }

    /// As if a group had never been sealed, nor anything been staged since: their numbers are given out again.
    fn take_back(&self, header: &GroupHeader, buf: Option<D::Buf>) {
        cover::mark("group taken back from a full disk");
        let state = &mut *self.state.borrow_mut();
        let segment = state.segments.current();
        segment.bytes -= header.bytes() as u64;
        segment.next = header.first;
        if let Some(buf) = buf {
            if let Some(later) = state.filling.take() {
                let (_, buf) = later.abandon();
                state.give_back(buf);
            }
            state.next_seq = header.first;
            state.give_back(buf);
        }
    }

    /// Makes everything committed so far durable, in [`CommitlogSync::Periodic`] mode; nothing is left to do in the other.
    pub async fn sync_now(&self) -> Result<Seq, Fenced> {
        let (sync, written) = {
            let state = self.state.borrow();
            state.check_fence()?;
            if state.synced == state.written {
                return Ok(Seq(state.synced));
            }
            // Older segments were synced when they were left.
            (self.disk.sync(&state.file), state.written)
        };
        let mut fence = FenceUnlessDone { state: Rc::clone(&self.state), done: false };
        if sync.await.is_err() {
            return Err(Fenced);
        }
        fence.done = true;
        let state = &mut *self.state.borrow_mut();
        state.synced = state.synced.max(written);
        state.syncs += 1;
        Ok(Seq(state.synced))
    }

    /// Whether this life has a segment; else there was no room for one when the log was opened, and nothing can be committed
    /// before [`Log::prepare`] has made one.
    pub fn is_begun(&self) -> bool {
        self.state.borrow().first_slot.is_none()
    }

    /// Whether the log was fenced.
    pub fn is_fenced(&self) -> bool {
        self.state.borrow().fenced
    }

    /// The number that the next record staged will get.
    pub fn next_seq(&self) -> Seq {
        Seq(self.state.borrow().next_seq)
    }

    /// The last record known to be synced.
    pub fn synced_seq(&self) -> Seq {
        Seq(self.state.borrow().synced)
    }

    /// Groups written in this life, marks included.
    pub fn groups(&self) -> u64 {
        self.state.borrow().groups
    }

    /// Syncs done in this life: groups that the disk was told to sync, and syncs by themselves.
    pub fn syncs(&self) -> u64 {
        self.state.borrow().syncs
    }

    /// The segments that count, oldest first; the last one is written to.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        self.state.borrow().segments.live().to_vec()
    }

    /// Bytes in use by segments that count.
    pub fn bytes(&self) -> u64 {
        self.state.borrow().segments.bytes()
    }

    /// Bytes of the files of segments that count, their unused ends included: what recovery has to look at.
    pub fn live_file_bytes(&self) -> u64 {
        self.state.borrow().segments.live().len() as u64 * self.options.segment_bytes
    }

    /// Bytes of all its files, those of recyclable segments included, and those that are set aside not.
    pub fn file_bytes(&self) -> u64 {
        self.state.borrow().segments.file_bytes()
    }

    /// Segments whose records are all below `seq` may be recycled; the current one never is.
    pub fn retire_below(&self, seq: Seq) {
        self.state.borrow_mut().segments.retire_below(seq.0);
    }

    /// No writes are expected for a while: until the next group only one segment is kept ready, prepared or for reuse.
    pub fn rest(&self) {
        self.state.borrow_mut().segments.set_resting(true);
    }

    /// Whether files of retired segments wait that will not be needed soon, or in which damage was found.
    pub fn wants_trim(&self) -> bool {
        let state = self.state.borrow();
        // Until the headers of this life say what counts, everything that was found may be needed to find it again.
        !state.fenced
            && state.first_slot.is_none()
            && state.segments.has_surplus(usize::from(state.prepared.is_some()))
    }

    /// Removes one such file, the oldest: its name is gone for good before the next one's, so that a power cut leaves no gap
    /// in what recovery finds. One in which damage was found is set aside instead, under a slot from [`ASIDE_SLOT_MIN`]
    /// on; of more than [`ASIDE_MAX`] of these the oldest is removed. After an error, or when it was dropped half-way, it is asked for
    /// again. A sync that fails fences the log: what a power cut leaves of its names is not known then.
    pub async fn trim(&self) -> Result<(), DiskError> {
        // While a segment is made of the oldest, the next one does not go: it might be gone before the other is written over.
        let _turn = self.preparer.enter().await;
        let surplus = {
            let state = &mut *self.state.borrow_mut();
            let prepared = usize::from(state.prepared.is_some());
            if state.fenced { None } else { state.segments.take_surplus(prepared) }
        };
        match surplus {
            Some(surplus) => self.be_rid_of(surplus).await,
            None => Ok(()),
        }
    }

    /// Sets aside every file in which damage was found, whether or not it is its turn: for an owner that needs nothing of the log any more, and
    /// leaves it. After an error it is to be asked for again.
    pub async fn set_damaged_aside(&self) -> Result<(), DiskError> {
        let _turn = self.preparer.enter().await;
        loop {
            let surplus = self.state.borrow_mut().segments.take_evidence();
            match surplus {
                Some(surplus) => self.be_rid_of(surplus).await?,
                None => return Ok(()),
            }
        }
    }

    /// Lets go of a file that is on its way out.
    async fn be_rid_of(&self, surplus: Surplus) -> Result<(), DiskError> {
        let file = |slot| FileName::Segment { core: self.core, slot };
        let operation = match surplus {
            Surplus::Spare(Recyclable { slot, .. }) | Surplus::Aside(slot) => NameOp::Unlink(file(slot)),
            Surplus::Damaged(Recyclable { slot, .. }, aside) => {
                NameOp::Rename { from: file(slot), to: file(aside) }
            }
        };
        match self.disk.names(operation).await {
            // An attempt that was given up half-way has done it, or somebody else.
            Ok(_) | Err(DiskError { kind: DiskErrorKind::NotFound, .. }) => {}
            Err(error) => {
                self.state.borrow_mut().segments.stays();
                return Err(error);
            }
        }
        let synced = self.disk.names(NameOp::SyncDirectory(Directory::Core(self.core))).await;
        let state = &mut *self.state.borrow_mut();
        match synced {
            Ok(_) => {
                state.segments.is_gone();
                if let Surplus::Damaged(..) = surplus {
                    cover::mark("damaged log file set aside");
                }
                Ok(())
            }
            // Nothing was done: it is on its way out until there is room.
            Err(error) if error.kind == DiskErrorKind::NoSpace => Err(error),
            Err(error) => {
                state.fenced = true;
                Err(error)
            }
        }
    }

    /// Leaves the current segment, so that it can retire: the next group opens another. For an owner whose records are all
    /// flushed and whose log is at its cap.
    pub async fn rotate(&self) -> Result<(), CommitError> {
        let _turn = self.writer.enter().await;
        {
            let state = &mut *self.state.borrow_mut();
            state.check_fence()?;
            let segment = state.segments.current();
            if segment.first == segment.next {
                return Ok(());
            }
        }
        self.next_segment().await
    }
}

impl LogOptions {
    fn check(&self) {
        let block = BLOCK_BYTES as u64;
        assert!(self.segment_bytes.is_multiple_of(block) && self.group_bytes.is_multiple_of(BLOCK_BYTES));
        assert!(self.group_bytes > 0 && self.group_bytes <= format::GROUP_BYTES_LIMIT);
        assert!(self.group_bytes as u64 + format::SEGMENT_HEADER_BYTES <= self.segment_bytes);
    }
}

#[cfg(test)]
mod tests;
