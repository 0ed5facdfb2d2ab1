//! What is done to the names of files, their directories and checkpoints.
//!
//! Operations on whole checkpoints, which are rare, use plain system calls.
//!
//! Two operations are not queued whole when called, as the rest of the contract is: listing reads the directory at once with
//! plain system calls (it happens at start only), and [`NameOp::CreateZeroed`] goes on only while it is polled. A file being
//! zeroed has a name of its own until it is whole and synced, so one that was abandoned is never taken for a segment.

use std::fs::File;
use std::io;
use std::rc::Rc;

use ferrite_lsm::{BLOCK_BYTES, Directory, DiskError, FileName, NameOp, NameReply};

use super::{Inner, RingDisk, failure, names};
use crate::ring::{OpenFlags, Ticket};

/// Bytes of zeros written at once when a file is made.
const ZERO_CHUNK_BYTES: usize = 1 << 20;
/// Most bytes of zeros in memory: for the file being made, and for one whose making was abandoned with a write in flight.
pub(crate) const ZERO_BYTES_MAX: usize = 2 * ZERO_CHUNK_BYTES;

/// A name operation after what can be done of it at once.
pub(super) enum Step {
    Ready(Result<NameReply, DiskError>),
    One { ticket: Ticket, operation: &'static str, name: Option<FileName>, exists_is_fine: bool },
    Zero { disk: RingDisk, opening: Ticket, name: FileName, bytes: u64 },
}

impl Step {
    /// Does the rest of it.
    pub(super) async fn end(self) -> Result<NameReply, DiskError> {
        match self {
            Step::Ready(reply) => reply,
            Step::One { ticket, operation, name, exists_is_fine } => match ticket.await.count() {
                Ok(_) => Ok(NameReply::Done),
                Err(error) if exists_is_fine && error.raw_os_error() == Some(libc::EEXIST) => {
                    Ok(NameReply::Done)
                }
                Err(error) => Err(failure(&error, operation, name)),
            },
            Step::Zero { disk, opening, name, bytes } => match disk.zero(opening, name, bytes).await {
                Ok(()) => Ok(NameReply::Done),
                Err(error) => Err(failure(&error, "create", Some(name))),
            },
        }
    }
}

impl RingDisk {
    /// Begins an operation, and queues what of it can be queued.
    pub(super) fn start(&self, operation: NameOp) -> Step {
        let Inner { ring, root, direct, .. } = &*self.inner;
        let one = |ticket, operation, name| Step::One { ticket, operation, name, exists_is_fine: false };
        match operation {
            NameOp::CreateDirectory(directory) => Step::One {
                ticket: ring
                    .make_directory(root, names::c_string(names::directory_path(self.root, directory))),
                operation: "create directory",
                name: None,
                exists_is_fine: true,
            },
            NameOp::CreateZeroed { name, bytes } => {
                assert!(bytes.is_multiple_of(BLOCK_BYTES as u64), "{bytes} bytes are not whole blocks");
                let flags =
                    OpenFlags { write: true, create_truncate: true, direct: *direct, ..OpenFlags::default() };
                let opening = ring.open(root, names::making_path(self.root, name), flags);
                Step::Zero { disk: self.clone(), opening, name, bytes }
            }
            NameOp::Rename { from, to } => {
                let ticket = ring.rename(
                    root,
                    names::file_path(self.root, from),
                    names::file_path(self.root, to),
                    true,
                );
                one(ticket, "rename", Some(from))
            }
            NameOp::Link { from, to } => one(
                ring.link(root, names::file_path(self.root, from), names::file_path(self.root, to)),
                "link",
                Some(from),
            ),
            NameOp::Unlink(name) => {
                one(ring.unlink(root, names::file_path(self.root, name)), "unlink", Some(name))
            }
            NameOp::List(directory) => Step::Ready(
                self.list(directory)
                    .map(NameReply::Files)
                    .map_err(|error| failure(&error, "list directory", None)),
            ),
            NameOp::SyncDirectory(directory) => match self.sync_directory(directory) {
                Ok(ticket) => one(ticket, "sync directory", None),
                Err(error) => Step::Ready(Err(error)),
            },
            NameOp::LinkInto { name, checkpoint } => {
                assert_eq!(self.root, None, "a checkpoint has no checkpoints");
                let (from, to) = (names::file_path(None, name), names::file_path(Some(checkpoint), name));
                one(ring.link(root, from, to), "link into checkpoint", Some(name))
            }
            NameOp::CreateCheckpoint(number) => Step::Ready(
                self.create_checkpoint(number)
                    .map(|()| NameReply::Done)
                    .map_err(|error| failure(&error, "create checkpoint", None)),
            ),
            NameOp::RemoveCheckpoint(number) => Step::Ready(
                self.remove_checkpoint(number)
                    .map(|()| NameReply::Done)
                    .map_err(|error| failure(&error, "remove checkpoint", None)),
            ),
            NameOp::ListCheckpoints => Step::Ready(
                self.list_checkpoints()
                    .map(NameReply::Checkpoints)
                    .map_err(|error| failure(&error, "list checkpoints", None)),
            ),
        }
    }

    fn sync_directory(&self, directory: Directory) -> Result<Ticket, DiskError> {
        let mut known = self.inner.directories.borrow_mut();
        let at = match known.iter().position(|(root, name, _)| (*root, *name) == (self.root, directory)) {
            Some(at) => at,
            None => {
                let path = self.inner.root_path.join(names::directory_path(self.root, directory));
                let handle = File::open(path).map_err(|error| failure(&error, "sync directory", None))?;
                known.push((self.root, directory, Rc::new(handle)));
                known.len() - 1
            }
        };
        Ok(self.inner.ring.sync(&known[at].2, false))
    }

    fn list(&self, directory: Directory) -> io::Result<Vec<(FileName, u64)>> {
        let entries =
            match std::fs::read_dir(self.inner.root_path.join(names::directory_path(self.root, directory))) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                Err(error) => return Err(error),
            };
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry?;
            if let Some(name) = entry.file_name().to_str().and_then(|text| names::parse(directory, text)) {
                files.push((name, entry.metadata()?.len()));
            }
        }
        files.sort_unstable();
        Ok(files)
    }

    fn create_checkpoint(&self, number: u64) -> io::Result<()> {
        assert_eq!(self.root, None, "a checkpoint has no checkpoints");
        match std::fs::create_dir(self.inner.root_path.join(names::root_path(Some(number)))) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => {}
        }
        self.inner.root.sync_all()
    }

    fn remove_checkpoint(&self, number: u64) -> io::Result<()> {
        let path = self.inner.root_path.join(names::root_path(Some(number)));
        self.inner.directories.borrow_mut().retain(|(root, ..)| *root != Some(number));
        let removed = |result: io::Result<()>| match result {
            Err(error)
                if !matches!(
                    error.kind(),
                    io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Err(error)
            }
            Ok(()) | Err(_) => Ok(()),
        };
        match std::fs::read_dir(&path) {
            Ok(entries) => {
                for entry in entries {
                    removed(std::fs::remove_dir(entry?.path()))?;
                }
            }
            Err(error) => return removed(Err(error)),
        }
        removed(std::fs::remove_dir(&path))?;
        self.inner.root.sync_all()
    }

    fn list_checkpoints(&self) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for entry in std::fs::read_dir(&self.inner.root_path)? {
            numbers.extend(entry?.file_name().to_str().and_then(names::parse_checkpoint));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Makes `name` of written zeros. `opening` has been queued already.
    async fn zero(self, opening: Ticket, name: FileName, bytes: u64) -> io::Result<()> {
        let Inner { ring, root, .. } = &*self.inner;
        let file = Rc::new(opening.await.into_file()?);
        let filled = async {
            // Reserving first keeps the file in one piece; not every filesystem can.
            if let Err(error) = ring.allocate(&file, 0, bytes).await.count()
                && error.raw_os_error() != Some(libc::EOPNOTSUPP)
            {
                return Err(error);
            }
            let mut zeros = self.inner.zeros.take(ZERO_CHUNK_BYTES).ok_or(io::ErrorKind::OutOfMemory)?;
            zeros.fill(0);
            let mut at = 0;
            while at < bytes {
                zeros.set_len((bytes - at).min(ZERO_CHUNK_BYTES as u64) as usize);
                let (back, wrote) = ring.write(&file, at, zeros, false).await.into_buffer();
                zeros = back;
                // A short write is gone on with from its last whole block.
                let wrote = wrote? / BLOCK_BYTES * BLOCK_BYTES;
                if wrote == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                at += wrote as u64;
            }
            ring.sync(&file, false).await.count()?;
            ring.rename(root, names::making_path(self.root, name), names::file_path(self.root, name), false)
                .await
                .count()
        };
        match filled.await {
            Ok(_) => Ok(()),
            Err(error) => {
                // Space matters most when there is none; if this fails as well, the next attempt starts over the remains.
                let _ = ring.unlink(root, names::making_path(self.root, name)).await;
                Err(error)
            }
        }
    }
}
