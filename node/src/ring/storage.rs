//! Files on the ring: queued when called, awaited by a [`Ticket`].

use std::ffi::CString;
use std::fs::File;
use std::rc::Rc;

use super::aligned::AlignedBuffer;
use super::operation::Operation;
use super::{Ring, Ticket};

/// How to open a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenFlags {
    /// For writing as well as reading.
    pub write: bool,
    /// Make it; its name must be free.
    pub create_new: bool,
    /// Make it, or cut what is there to nothing.
    pub create_truncate: bool,
    /// Around the page cache: offsets, lengths and addresses must be aligned.
    pub direct: bool,
    /// It is a directory.
    pub directory: bool,
}

impl OpenFlags {
    fn bits(self) -> i32 {
        let mut bits = if self.write { libc::O_RDWR } else { libc::O_RDONLY };
        for (on, bit) in [
            (self.create_new, libc::O_CREAT | libc::O_EXCL),
            (self.create_truncate, libc::O_CREAT | libc::O_TRUNC),
            (self.direct, libc::O_DIRECT),
            (self.directory, libc::O_DIRECTORY),
        ] {
            if on {
                bits |= bit;
            }
        }
        bits
    }
}

impl Ring {
    /// Reads up to `buffer.len()` bytes at `at`.
    pub fn read(&self, file: &Rc<File>, at: u64, buffer: AlignedBuffer) -> Ticket {
        self.queue_ticket(Operation::Read { file: file.clone(), at, buffer })
    }

    /// Writes `buffer` at `at`; with `data_sync` it is durable on completion.
    pub fn write(&self, file: &Rc<File>, at: u64, buffer: AlignedBuffer, data_sync: bool) -> Ticket {
        self.queue_ticket(Operation::Write { file: file.clone(), at, buffer, data_sync })
    }

    /// Makes completed writes durable; with `data_only` without timestamps and the like.
    pub fn sync(&self, file: &Rc<File>, data_only: bool) -> Ticket {
        self.queue_ticket(Operation::Sync { file: file.clone(), data_only })
    }

    /// Reserves space and extends the file over it.
    pub fn allocate(&self, file: &Rc<File>, at: u64, bytes: u64) -> Ticket {
        self.queue_ticket(Operation::Allocate { file: file.clone(), at, bytes })
    }

    /// Opens `path` below `directory`.
    pub fn open(&self, directory: &Rc<File>, path: CString, flags: OpenFlags) -> Ticket {
        self.queue_ticket(Operation::Open { directory: directory.clone(), path, flags: flags.bits() })
    }

    /// Makes a directory below `directory`.
    pub fn make_directory(&self, directory: &Rc<File>, path: CString) -> Ticket {
        self.queue_ticket(Operation::MakeDirectory { directory: directory.clone(), path })
    }

    /// Removes the name of a file below `directory`.
    pub fn unlink(&self, directory: &Rc<File>, path: CString) -> Ticket {
        self.queue_ticket(Operation::Unlink { directory: directory.clone(), path })
    }

    /// Renames below `directory`; without `replace` the new name must be free.
    pub fn rename(&self, directory: &Rc<File>, from: CString, to: CString, replace: bool) -> Ticket {
        self.queue_ticket(Operation::Rename { directory: directory.clone(), from, to, replace })
    }

    /// Gives a file a second name below `directory`.
    pub fn link(&self, directory: &Rc<File>, from: CString, to: CString) -> Ticket {
        self.queue_ticket(Operation::Link { directory: directory.clone(), from, to })
    }
}
