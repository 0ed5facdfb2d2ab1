//! Disks: when each operation completes, and how it fails.

use ferrite_lsm::mem_disk::{Fault, OpId, OpInfo, OpKind, ReadFault};
use ferrite_lsm::{BLOCK_BYTES, FileName, NameOp, Open, Sync};

use super::{Event, World};
use crate::executor::ProcessId;

/// No operation takes less.
const LATENCY_NS_MIN: u64 = 20_000;

/// How likely the disks misbehave; each is "one in so many", 0 = never.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DiskFaults {
    /// How long an ordinary operation takes at most, in nanoseconds, beyond [`LATENCY_NS_MIN`]. A slow disk has something in
    /// flight at any time, also when the power fails.
    pub(crate) latency_ns: u64,
    /// A read fails with EIO.
    pub(crate) read_one_in: u64,
    /// A read moves half of its blocks.
    pub(crate) short_read_one_in: u64,
    /// A read of a table or value file comes back with one bit flipped.
    pub(crate) flip_one_in: u64,
    /// One of them comes back with what stands elsewhere.
    pub(crate) misplaced_one_in: u64,
    /// A write that is to be durable, a sync or a change of names fails.
    pub(crate) sync_one_in: u64,
    /// A disk that is full has no room for a write within a file either, nor for a removal, as on a file system that copies what it changes. Some of
    /// the write may be there.
    pub(crate) full_one_in: u64,
    /// An operation takes long.
    pub(crate) slow_one_in: u64,
}

impl DiskFaults {
    /// Whether no operation ever fails.
    pub(crate) fn are_sound(&self) -> bool {
        let DiskFaults { read_one_in, short_read_one_in, flip_one_in, misplaced_one_in, sync_one_in, .. } =
            *self;
        let faults = [read_one_in, short_read_one_in, flip_one_in, misplaced_one_in, sync_one_in];
        faults.iter().all(|one_in| *one_in == 0)
    }
}

/// A disk that cannot be trusted: what is read of any file, log and manifest included, comes back damaged, and writes land elsewhere. Of the files that
/// all disks damage on the way, everything is found out when it is read again. Not so here: a flip in the last group of a log that is recovered cannot be
/// told from a write that a power cut interrupted, and a write that went elsewhere is lost. So no more than one node may have such a disk, and
/// whatever it does to that node's data is a loss of all of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Untrusted {
    /// Whose disk it is.
    pub(crate) node: usize,
    /// One read in so many comes back with a bit flipped, and as many with what stands elsewhere.
    pub(crate) read_one_in: u64,
    /// One write in so many lands elsewhere in its file; 0 = none.
    pub(crate) write_one_in: u64,
}

impl World {
    /// Sets how likely disks misbehave.
    pub(crate) fn set_disk_faults(&self, faults: DiskFaults) {
        self.disk_faults.set(faults);
    }

    /// Sets whose disk cannot be trusted.
    pub(crate) fn set_untrusted(&self, disk: Option<Untrusted>) {
        self.untrusted.set(disk);
    }

    /// Takes the room that a node's disk has left, or gives it some.
    pub(crate) fn set_full(&self, node: usize, is_full: bool) {
        self.disk(node).set_full(is_full);
        self.nodes.borrow_mut()[node].is_full = is_full;
    }

    /// Whether the disk that cannot be trusted has damaged something since the last call.
    pub(crate) fn take_damage(&self) -> bool {
        self.damage.take()
    }

    /// Gives every disk operation that was called since the last time the moment at which it completes.
    pub(super) fn schedule_disk(&self) {
        let mut calls = Vec::new();
        for node in self.nodes.borrow_mut().iter_mut().filter(|node| !node.is_stalled) {
            let Some(process) = node.process.as_mut() else { continue };
            for operation in process.disk.in_flight(process.last_op) {
                process.last_op = Some(operation.id);
                calls.push((process.id, operation.id));
            }
        }
        for (process, operation) in calls {
            let faults = self.disk_faults.get();
            let latency_ns = if self.happens(faults.slow_one_in) {
                self.between(2_000_000, 30_000_000)
            } else {
                LATENCY_NS_MIN + self.between(0, faults.latency_ns.max(LATENCY_NS_MIN))
            };
            self.after(latency_ns, Event::Disk(process, operation));
        }
    }

    /// An operation completes, well or not.
    pub(super) fn complete(&self, process: ProcessId, operation: OpId) {
        let disk = {
            let nodes = self.nodes.borrow();
            match &nodes[process.node].process {
                Some(running) if running.id == process => running.disk.clone(),
                Some(_) | None => return,
            }
        };
        if self.postpone(process, None, || Event::Disk(process, operation)) {
            return;
        }
        let before = operation.0.checked_sub(1).map(OpId);
        let Some(info) = disk.in_flight(before).into_iter().next().filter(|info| info.id == operation) else {
            return;
        };
        self.note(6, [process.node as u64, operation.0, info.bytes as u64]);
        let fate = self.damage_of(process.node, &info).unwrap_or_else(|| self.fate(process.node, &info));
        let done = match fate {
            Fate::Well => disk.complete(operation),
            Fate::Read(fault, name) => {
                self.count(name);
                disk.fail_read(operation, fault)
            }
            Fate::Step(fault, name) => {
                self.count(name);
                disk.fail(operation, fault)
            }
        };
        assert!(done, "an operation in flight completes once");
    }

    /// What a disk that cannot be trusted makes of an operation.
    fn damage_of(&self, node: usize, info: &OpInfo) -> Option<Fate> {
        let disk = self.untrusted.get().filter(|disk| disk.node == node)?;
        let is_log = matches!(info.name, Some(FileName::Segment { .. } | FileName::Manifest { .. }));
        let fate = match info.kind {
            OpKind::Read if self.happens(disk.read_one_in) => {
                let name = if is_log { "bit flipped in a log or manifest" } else { "bit flipped" };
                Fate::Read(ReadFault::Flip { bit: self.random() }, name)
            }
            OpKind::Read if self.happens(disk.read_one_in) => {
                let name = if is_log { "read of a log or manifest misplaced" } else { "read misplaced" };
                Fate::Read(ReadFault::Misplaced { choice: self.random() }, name)
            }
            OpKind::Write(_) if self.happens(disk.write_one_in) => {
                Fate::Step(Fault::Misplaced { choice: self.random() }, "write misplaced")
            }
            OpKind::Open(_) | OpKind::Read | OpKind::Write(_) | OpKind::Sync | OpKind::Names(_) => {
                return None;
            }
        };
        self.damage.set(true);
        Some(fate)
    }

    fn fate(&self, node: usize, info: &OpInfo) -> Fate {
        let faults = self.disk_faults.get();
        let is_full = self.nodes.borrow()[node].is_full;
        match info.kind {
            OpKind::Write(_) if is_full && self.happens(faults.full_one_in) => {
                let blocks = self.between(0, (info.bytes / BLOCK_BYTES) as u64) as usize;
                Fate::Step(Fault::NoSpaceAfter { blocks }, "no room to write within a file")
            }
            OpKind::Names(NameOp::Rename { .. } | NameOp::Unlink(_))
                if is_full && self.happens(faults.full_one_in) =>
            {
                Fate::Step(Fault::NoSpace, "no room to rename or remove")
            }
            OpKind::Read => {
                let is_checked = matches!(info.name, Some(FileName::Table { .. } | FileName::Values { .. }));
                if self.happens(faults.read_one_in) {
                    Fate::Read(ReadFault::Io, "read failed")
                } else if self.happens(faults.short_read_one_in) {
                    Fate::Read(ReadFault::Short, "short read")
                } else if is_checked && self.happens(faults.flip_one_in) {
                    Fate::Read(ReadFault::Flip { bit: self.random() }, "bit flipped")
                } else if is_checked && self.happens(faults.misplaced_one_in) {
                    Fate::Read(ReadFault::Misplaced { choice: self.random() }, "read misplaced")
                } else {
                    Fate::Well
                }
            }
            OpKind::Open(Open::Create)
            | OpKind::Write(Sync::Data)
            | OpKind::Sync
            | OpKind::Names(
                NameOp::CreateZeroed { .. }
                | NameOp::Rename { .. }
                | NameOp::Link { .. }
                | NameOp::LinkInto { .. }
                | NameOp::CreateCheckpoint(_)
                | NameOp::RemoveCheckpoint(_)
                | NameOp::Unlink(_)
                | NameOp::SyncDirectory(_),
            ) if self.happens(faults.sync_one_in) => Fate::Step(Fault::Io, "sync failed"),
            OpKind::Open(_) | OpKind::Write(_) | OpKind::Sync | OpKind::Names(_) => Fate::Well,
        }
    }

    /// True once in `times` on average; never if 0.
    fn happens(&self, times: u64) -> bool {
        times > 0 && self.random.borrow_mut().one_in(times)
    }
}

/// What becomes of an operation.
enum Fate {
    Well,
    Read(ReadFault, &'static str),
    Step(Fault, &'static str),
}
