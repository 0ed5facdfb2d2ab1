//! The real disk: the engine's [`Disk`] over the core's ring, rooted at the data directory.
//!
//! Files are opened around the page cache (`O_DIRECT`) where the filesystem can; the engine has its own cache, and a write
//! that is synced one by one gains nothing from the kernel's. Buffers come from one pool per class, each with its budget, so
//! that compaction cannot starve the log.
//!
//! What is done to names rather than bytes is in `directory`.

mod directory;
pub mod names;

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use ferrite_lsm::{
    AlignedBuf, BLOCK_BYTES, Class, Directory, Disk, DiskError, DiskErrorKind, FileName, NameOp, NameReply,
    Open, Sync,
};

pub(crate) use self::directory::ZERO_BYTES_MAX;
use self::names::Root;
use crate::ring::{AlignedBuffer, OpenFlags, Pool, Ring};

/// Limits and habits of a core's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskOptions {
    /// Around the page cache. Off only where the filesystem cannot.
    pub direct: bool,
    /// Buffers of the log, in bytes.
    pub log_bytes_max: usize,
    /// Buffers of reads that clients wait for, in bytes.
    pub read_bytes_max: usize,
    /// Buffers of flushes, in bytes.
    pub flush_bytes_max: usize,
    /// Buffers of compaction and other background work, in bytes.
    pub background_bytes_max: usize,
}

impl Default for DiskOptions {
    fn default() -> DiskOptions {
        DiskOptions {
            direct: true,
            log_bytes_max: 16 << 20,
            read_bytes_max: 32 << 20,
            flush_bytes_max: 16 << 20,
            background_bytes_max: 32 << 20,
        }
    }
}

/// The disk of a core. Cheap to clone, bound to its thread.
#[derive(Clone)]
pub struct RingDisk {
    inner: Rc<Inner>,
    /// The checkpoint that this handle is rooted in.
    root: Root,
}

struct Inner {
    ring: Ring,
    root: Rc<File>,
    root_path: PathBuf,
    direct: bool,
    log: Pool,
    read: Pool,
    flush: Pool,
    background: Pool,
    zeros: Pool,
    /// Directories that were synced before, open: few, and a node's set hardly changes.
    directories: RefCell<Vec<(Root, Directory, Rc<File>)>>,
}

/// An open file of the engine.
#[derive(Clone)]
pub struct RingFile {
    file: Rc<File>,
    name: FileName,
}

/// Whether files in `directory` can be opened around the page cache.
///
/// # Errors
/// When not even an ordinary file can be made there.
pub fn supports_direct(directory: &Path) -> io::Result<bool> {
    let path = directory.join(format!(".direct-{}", std::process::id()));
    File::create(&path)?;
    let direct = File::options().read(true).custom_flags(libc::O_DIRECT).open(&path);
    std::fs::remove_file(&path)?;
    match direct {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(error) => Err(error),
    }
}

impl RingDisk {
    /// The disk rooted at `root`, which must exist.
    ///
    /// # Errors
    /// When `root` cannot be opened as a directory.
    pub fn new(ring: Ring, root: &Path, options: DiskOptions) -> io::Result<RingDisk> {
        let handle = File::options().read(true).custom_flags(libc::O_DIRECTORY).open(root)?;
        let inner = Inner {
            ring,
            root: Rc::new(handle),
            root_path: root.to_owned(),
            direct: options.direct,
            log: Pool::new(options.log_bytes_max),
            read: Pool::new(options.read_bytes_max),
            flush: Pool::new(options.flush_bytes_max),
            background: Pool::new(options.background_bytes_max),
            zeros: Pool::new(ZERO_BYTES_MAX),
            directories: RefCell::new(Vec::new()),
        };
        Ok(RingDisk { inner: Rc::new(inner), root: None })
    }

    /// Buffer bytes on loan in a class.
    pub fn lent_bytes(&self, class: Class) -> usize {
        self.inner.pool(class).lent_bytes()
    }
}

impl Inner {
    fn pool(&self, class: Class) -> &Pool {
        match class {
            Class::Log => &self.log,
            Class::Read => &self.read,
            Class::Flush => &self.flush,
            Class::Background => &self.background,
        }
    }
}

impl AlignedBuf for AlignedBuffer {
    fn set_len(&mut self, len: usize) {
        AlignedBuffer::set_len(self, len);
    }

    fn capacity(&self) -> usize {
        AlignedBuffer::capacity(self)
    }
}

impl Disk for RingDisk {
    type File = RingFile;
    type Buf = AlignedBuffer;

    fn buf(&self, len: usize, class: Class) -> Option<AlignedBuffer> {
        assert!(len.is_multiple_of(BLOCK_BYTES), "a buffer of {len} bytes is not whole blocks");
        self.inner.pool(class).take(len)
    }

    fn buffer_bytes(&self) -> usize {
        let disk = &self.inner;
        [&disk.log, &disk.read, &disk.flush, &disk.background, &disk.zeros].map(Pool::bytes).iter().sum()
    }

    fn open(
        &self,
        name: FileName,
        mode: Open,
    ) -> impl Future<Output = Result<RingFile, DiskError>> + 'static {
        let flags = OpenFlags {
            write: mode != Open::Read,
            create_new: mode == Open::Create,
            direct: self.inner.direct,
            ..OpenFlags::default()
        };
        let ticket = self.inner.ring.open(&self.inner.root, names::file_path(self.root, name), flags);
        async move {
            let file = ticket.await.into_file().map_err(|error| failure(&error, "open", Some(name)))?;
            Ok(RingFile { file: Rc::new(file), name })
        }
    }

    fn read(
        &self,
        file: &RingFile,
        at: u64,
        buf: AlignedBuffer,
        _class: Class,
    ) -> impl Future<Output = (AlignedBuffer, Result<usize, DiskError>)> + 'static {
        assert_aligned(at, &buf);
        let (ticket, name) = (self.inner.ring.read(&file.file, at, buf), file.name);
        async move {
            let (buf, count) = ticket.await.into_buffer();
            (buf, count.map_err(|error| failure(&error, "read", Some(name))))
        }
    }

    fn write(
        &self,
        file: &RingFile,
        at: u64,
        buf: AlignedBuffer,
        sync: Sync,
        _class: Class,
    ) -> impl Future<Output = (AlignedBuffer, Result<usize, DiskError>)> + 'static {
        assert_aligned(at, &buf);
        let (ticket, name) = (self.inner.ring.write(&file.file, at, buf, sync == Sync::Data), file.name);
        async move {
            let (buf, count) = ticket.await.into_buffer();
            (buf, count.map_err(|error| failure(&error, "write", Some(name))))
        }
    }

    fn sync(&self, file: &RingFile) -> impl Future<Output = Result<(), DiskError>> + 'static {
        let (ticket, name) = (self.inner.ring.sync(&file.file, true), file.name);
        async move { ticket.await.count().map(drop).map_err(|error| failure(&error, "sync", Some(name))) }
    }

    fn checkpoint(&self, number: u64) -> RingDisk {
        assert_eq!(self.root, None, "a checkpoint has no checkpoints");
        RingDisk { inner: Rc::clone(&self.inner), root: Some(number) }
    }

    fn names(&self, operation: NameOp) -> impl Future<Output = Result<NameReply, DiskError>> + 'static {
        self.start(operation).end()
    }
}

fn assert_aligned(at: u64, buf: &AlignedBuffer) {
    assert!(at.is_multiple_of(BLOCK_BYTES as u64), "offset {at} is not on a block");
    assert!(buf.len().is_multiple_of(BLOCK_BYTES), "{} bytes are not whole blocks", buf.len());
}

/// How devices and filesystems say that they cannot give or take what is asked of them. The kernel tells the causes apart, and a direct
/// read gets its number as it is; the engine only has to know that the device failed, and then leaves out what it cannot read.
const DEVICE_ERRORS: [i32; 11] = [
    libc::EIO,
    // The device is gone, or was taken off line.
    libc::ENXIO,
    libc::ENODEV,
    // A bad sector.
    libc::ENODATA,
    // The device failed in itself, did not answer in time, or could not be reached.
    libc::EREMOTEIO,
    libc::ETIMEDOUT,
    libc::ETIME,
    libc::ENOLINK,
    // Checksums do not hold: the device's, or the filesystem's.
    libc::EILSEQ,
    libc::EBADMSG,
    libc::EUCLEAN,
];

fn failure(error: &io::Error, operation: &'static str, name: Option<FileName>) -> DiskError {
    let kind = match error.raw_os_error() {
        Some(libc::ENOENT) => DiskErrorKind::NotFound,
        Some(libc::EEXIST) => DiskErrorKind::Exists,
        Some(libc::ENOSPC | libc::EDQUOT) => DiskErrorKind::NoSpace,
        Some(errno) if !DEVICE_ERRORS.contains(&errno) => DiskErrorKind::Os(errno),
        Some(_) | None => DiskErrorKind::Io,
    };
    DiskError { kind, operation, name }
}

#[cfg(test)]
mod tests;
