//! Making the next segment ready, and stepping into it.

use std::rc::Rc;

use super::format::{Identity, SEGMENT_HEADER_BYTES, SegmentHeader};
use super::segments::{Recyclable, SegmentInfo};
use super::{CommitError, CommitlogSync, FenceUnlessDone, Fenced, Log, State};
use crate::planted::{self, Bug};
use crate::{
    BLOCK_BYTES, Class, Directory, Disk, DiskError, DiskErrorKind, FileName, NameOp, Open, Sync, cover,
};

/// A segment whose header is synced and whose first group may be written.
pub(super) struct Prepared<D: Disk> {
    pub(super) file: D::File,
    pub(super) slot: u32,
    pub(super) identity: Identity,
}

/// What a segment is made from.
pub(super) struct Plan {
    pub(super) slot: u32,
    /// A file of the right length stands there already.
    pub(super) reuse: bool,
    /// A file of another length may be in the way.
    pub(super) remove: bool,
    pub(super) header: SegmentHeader,
}

/// Why a segment could not be made.
pub(super) enum PrepareError {
    /// The file could not be made; nothing that counts was touched.
    Create(DiskError),
    /// The header could not be written.
    Header,
    /// No buffer; nothing was touched.
    NoBuffer,
}

/// Makes a segment: its file, its name durable, its header synced.
pub(super) async fn make<D: Disk>(disk: &D, plan: &Plan) -> Result<Prepared<D>, PrepareError> {
    let name = FileName::Segment { core: plan.header.core, slot: plan.slot };
    // Before the file is made: without a header it would have been made in vain.
    let mut block = disk.buf(BLOCK_BYTES, Class::Log).ok_or(PrepareError::NoBuffer)?;
    if plan.remove {
        match disk.names(NameOp::Unlink(name)).await {
            Err(error) if error.kind != DiskErrorKind::NotFound => return Err(PrepareError::Create(error)),
            Ok(_) | Err(_) => {}
        }
    }
    if !plan.reuse {
        let created = disk.names(NameOp::CreateZeroed { name, bytes: plan.header.file_bytes }).await;
        if let Err(error) = created {
            if error.kind != DiskErrorKind::Exists {
                // A part of it may stand there; if it cannot be removed now, the next recovery removes it.
                let _best_effort = disk.names(NameOp::Unlink(name)).await;
            }
            return Err(PrepareError::Create(error));
        }
        if !planted::active(Bug::SkippedDirectorySync) {
            let directory = Directory::Core(plan.header.core);
            disk.names(NameOp::SyncDirectory(directory)).await.map_err(PrepareError::Create)?;
        }
    }
    let file = disk.open(name, Open::Write).await.map_err(PrepareError::Create)?;
    plan.header.encode(&mut block);
    let (block, result) = disk.write(&file, 0, block, Sync::Data, Class::Log).await;
    match result {
        Ok(bytes) if bytes == block.len() => {}
        // Whatever is there now, nothing refers to it, and it is written again.
        Err(error) if error.kind == DiskErrorKind::NoSpace => return Err(PrepareError::Create(error)),
        Ok(_) | Err(_) => return Err(PrepareError::Header),
    }
    Ok(Prepared { file, slot: plan.slot, identity: plan.header.identity })
}

impl<D: Disk> Log<D> {
    /// Whether [`Log::prepare`] should be called: no segment is ready, and the current one is half full.
    pub fn wants_segment(&self) -> bool {
        let state = &mut *self.state.borrow_mut();
        let segment = *state.segments.current();
        state.prepared.is_none() && !state.fenced && segment.bytes >= segment.file_bytes / 2
    }

    /// Makes the next segment ready, if none is.
    pub async fn prepare(&self) -> Result<(), CommitError> {
        let _turn = self.preparer.enter().await;
        let (plan, old) = {
            let state = &mut *self.state.borrow_mut();
            state.check_fence()?;
            if state.prepared.is_some() {
                return Ok(());
            }
            self.plan_segment(state)
        };
        let made = make(&self.disk, &plan).await;
        let state = &mut *self.state.borrow_mut();
        let error = match made {
            Ok(prepared) => {
                if plan.reuse {
                    cover::mark("log segment recycled");
                }
                state.prepared = Some(prepared);
                state.first_slot = None;
                return Ok(());
            }
            Err(PrepareError::Create(error)) if error.kind == DiskErrorKind::NoSpace => {
                CommitError::NoSpace(error)
            }
            Err(PrepareError::NoBuffer) => CommitError::NoBuffer,
            Err(PrepareError::Create(_) | PrepareError::Header) => {
                state.fenced = true;
                return Err(CommitError::Fenced);
            }
        };
        if state.first_slot.is_some() {
            return Err(error);
        }
        // The slot goes back, for the next attempt: its file as it was, or whatever is left of a new one.
        let unknown = Recyclable { id: 0, slot: plan.slot, file_bytes: 0 };
        state.segments.recycle(old.filter(|_| plan.reuse).unwrap_or(unknown));
        Err(error)
    }

    fn plan_segment(&self, state: &mut State<D>) -> (Plan, Option<Recyclable>) {
        let (slot, old) = match state.first_slot {
            // Not in a file that holds groups: see recovery.
            Some(slot) => (slot, Some(Recyclable { id: 0, slot, file_bytes: 0 })),
            None => state.segments.take_slot(),
        };
        let identity = Identity { segment: state.next_id, life: self.options.life };
        state.next_id += 1;
        let reuse = old.is_some_and(|old| old.file_bytes == self.options.segment_bytes);
        let header = SegmentHeader {
            core: self.core,
            identity,
            recycled: reuse,
            life_first: state.life_first,
            life_after: state.life_after,
            file_bytes: self.options.segment_bytes,
        };
        (Plan { slot, reuse, remove: old.is_some() && !reuse, header }, old)
    }

    /// Steps into the next segment, ready or not. The caller has the writer's turn.
    pub(super) async fn next_segment(&self) -> Result<(), CommitError> {
        if self.state.borrow().prepared.is_none() {
            self.prepare().await?;
        }
        if self.options.sync == CommitlogSync::Periodic {
            // So that a later sync needs to cover the current segment only.
            let sync = self.disk.sync(&self.state.borrow().file);
            let mut fence = FenceUnlessDone { state: Rc::clone(&self.state), done: false };
            sync.await.map_err(|_| Fenced)?;
            fence.done = true;
            let state = &mut *self.state.borrow_mut();
            state.synced = state.written;
            state.syncs += 1;
        }
        let state = &mut *self.state.borrow_mut();
        let prepared = state.prepared.take().expect("prepared above, and only the writer takes it");
        let next = state.segments.current().next;
        state.file = prepared.file;
        state.identity = prepared.identity;
        state.segments.open(SegmentInfo {
            id: prepared.identity.segment,
            slot: prepared.slot,
            first: next,
            next,
            bytes: SEGMENT_HEADER_BYTES,
            file_bytes: self.options.segment_bytes,
        });
        Ok(())
    }
}
