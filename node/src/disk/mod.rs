//! The real disk: the engine's [`Disk`] over the core's ring, rooted at the data directory.
//!
//! Files are opened around the page cache (`O_DIRECT`) where the filesystem can; the engine has its own cache, and a write
//! that is synced one by one gains nothing from the kernel's. Buffers come from one pool per class, each with its budget, so
//! that compaction cannot starve the log.
//!
//! Operations on whole checkpoints, which are rare, use plain system calls as well.
//!
//! Two operations are not queued whole when called, as the rest of the contract is: listing reads the directory at once with
//! plain system calls (it happens at start only), and [`NameOp::CreateZeroed`] goes on only while it is polled. A file being
//! zeroed has a name of its own until it is whole and synced, so one that was abandoned is never taken for a segment.

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

use self::names::Root;
use crate::ring::{AlignedBuffer, OpenFlags, Pool, Ring, Ticket};

/// Bytes of zeros written at once when a file is made.
const ZERO_CHUNK_BYTES: usize = 1 << 20;
/// Most bytes of zeros in memory: for the file being made, and for one whose making was abandoned with a write in flight.
pub(crate) const ZERO_BYTES_MAX: usize = 2 * ZERO_CHUNK_BYTES;

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
        let step = self.start(operation);
        async move {
            match step {
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
}

/// A name operation after what can be done of it at once.
enum Step {
    Ready(Result<NameReply, DiskError>),
    One { ticket: Ticket, operation: &'static str, name: Option<FileName>, exists_is_fine: bool },
    Zero { disk: RingDisk, opening: Ticket, name: FileName, bytes: u64 },
}

impl RingDisk {
    fn start(&self, operation: NameOp) -> Step {
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
}

fn assert_aligned(at: u64, buf: &AlignedBuffer) {
    assert!(at.is_multiple_of(BLOCK_BYTES as u64), "offset {at} is not on a block");
    assert!(buf.len().is_multiple_of(BLOCK_BYTES), "{} bytes are not whole blocks", buf.len());
}

fn failure(error: &io::Error, operation: &'static str, name: Option<FileName>) -> DiskError {
    let kind = match error.raw_os_error() {
        Some(libc::ENOENT) => DiskErrorKind::NotFound,
        Some(libc::EEXIST) => DiskErrorKind::Exists,
        Some(libc::ENOSPC | libc::EDQUOT) => DiskErrorKind::NoSpace,
        // EILSEQ, EUCLEAN and EBADMSG are how devices and filesystems report damage.
        Some(libc::EIO | libc::ENXIO | libc::EILSEQ | libc::EUCLEAN | libc::EBADMSG) | None => {
            DiskErrorKind::Io
        }
        Some(errno) => DiskErrorKind::Os(errno),
    };
    DiskError { kind, operation, name }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};
    use std::time::Duration;

    use super::*;
    use crate::ring::Wait;

    struct Bench {
        ring: Ring,
        disk: RingDisk,
        directory: tempfile::TempDir,
    }

    impl Bench {
        fn new(options: DiskOptions) -> Bench {
            let directory = tempfile::tempdir().unwrap();
            let direct = options.direct && supports_direct(directory.path()).unwrap();
            let ring = Ring::new(None).unwrap();
            let disk =
                RingDisk::new(ring.clone(), directory.path(), DiskOptions { direct, ..options }).unwrap();
            Bench { ring, disk, directory }
        }

        fn wait<F: Future>(&self, future: F) -> F::Output {
            let mut future = std::pin::pin!(future);
            let mut context = Context::from_waker(Waker::noop());
            loop {
                if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
                    return output;
                }
                self.ring.enter(Wait::For(Duration::from_secs(10))).unwrap();
                self.ring.harvest(&mut Vec::new());
            }
        }

        fn names(&self, operation: NameOp) -> Result<NameReply, DiskErrorKind> {
            self.wait(self.disk.names(operation)).map_err(|error| error.kind)
        }
    }

    const TABLE: FileName = FileName::Table { store: 4, number: 7 };
    const STORE: Directory = Directory::Store(4);

    #[test]
    fn a_table_is_made_written_synced_renamed_and_read() {
        let bench = Bench::new(DiskOptions::default());
        let disk = &bench.disk;
        assert_eq!(bench.names(NameOp::List(STORE)), Ok(NameReply::Files(vec![])));
        assert_eq!(bench.names(NameOp::CreateDirectory(STORE)), Ok(NameReply::Done));
        assert_eq!(bench.names(NameOp::CreateDirectory(STORE)), Ok(NameReply::Done));
        let file = bench.wait(disk.open(TABLE, Open::Create)).ok().unwrap();
        let taken = bench.wait(disk.open(TABLE, Open::Create)).err().unwrap();
        assert_eq!((taken.kind, taken.name), (DiskErrorKind::Exists, Some(TABLE)));

        let mut buf = disk.buf(8192, Class::Flush).unwrap();
        buf[..4096].fill(1);
        buf[4096..].fill(2);
        let (buf, wrote) = bench.wait(disk.write(&file, 4096, buf, Sync::No, Class::Flush));
        assert_eq!(wrote, Ok(8192));
        drop(buf);
        bench.wait(disk.sync(&file)).unwrap();
        assert_eq!(bench.names(NameOp::SyncDirectory(STORE)), Ok(NameReply::Done));
        assert_eq!(bench.names(NameOp::SyncDirectory(STORE)), Ok(NameReply::Done));

        let renamed = FileName::Table { store: 4, number: 8 };
        let linked = FileName::Table { store: 4, number: 9 };
        bench.names(NameOp::Rename { from: TABLE, to: renamed }).unwrap();
        bench.names(NameOp::Link { from: renamed, to: linked }).unwrap();
        std::fs::write(bench.directory.path().join("store-00004/stranger"), "x").unwrap();
        let files = NameReply::Files(vec![(renamed, 12288), (linked, 12288)]);
        assert_eq!(bench.names(NameOp::List(STORE)), Ok(files));
        bench.names(NameOp::Unlink(renamed)).unwrap();
        assert_eq!(bench.names(NameOp::Unlink(renamed)), Err(DiskErrorKind::NotFound));

        let missing = bench.wait(disk.open(TABLE, Open::Read)).err().unwrap();
        assert_eq!(missing.to_string(), "cannot open table 7 of store 4: not found");
        let file = bench.wait(disk.open(linked, Open::Read)).ok().unwrap();
        let buf = disk.buf(16384, Class::Read).unwrap();
        let (buf, read) = bench.wait(disk.read(&file, 8192, buf, Class::Read));
        assert_eq!(read, Ok(4096), "short at the end of the file");
        assert!(buf[..4096].iter().all(|byte| *byte == 2));
        let (buf, denied) = bench.wait(disk.write(&file, 0, buf, Sync::Data, Class::Log));
        assert_eq!(denied.unwrap_err().kind, DiskErrorKind::Os(libc::EBADF));
        drop(buf);
        assert_eq!(disk.lent_bytes(Class::Read), 0);
    }

    #[test]
    fn a_zeroed_file_is_whole_or_absent() {
        let bench = Bench::new(DiskOptions::default());
        let name = FileName::Segment { core: 0, slot: 1 };
        let create = NameOp::CreateZeroed { name, bytes: (2 << 20) + 4096 };
        assert_eq!(bench.names(create), Err(DiskErrorKind::NotFound), "no directory yet");
        bench.names(NameOp::CreateDirectory(Directory::Core(0))).unwrap();
        // Abandoned after its first step: leaves nothing that is taken for a segment, and does not hinder the next.
        drop(bench.disk.names(create));
        bench.wait(async { bench.names(NameOp::List(Directory::Core(0))).unwrap() });
        bench.names(create).unwrap();
        let files = NameReply::Files(vec![(name, (2 << 20) + 4096)]);
        assert_eq!(bench.names(NameOp::List(Directory::Core(0))), Ok(files));
        assert_eq!(bench.names(create), Err(DiskErrorKind::Exists));
        let bytes = std::fs::read(bench.directory.path().join("core-00000/log-00000001")).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 0));
        let leftovers = std::fs::read_dir(bench.directory.path().join("core-00000")).unwrap().count();
        assert_eq!(leftovers, 1, "a failed attempt cleans up after itself");
    }

    #[test]
    fn a_checkpoint_is_a_disk_below_with_links() {
        let bench = Bench::new(DiskOptions::default());
        let disk = &bench.disk;
        bench.names(NameOp::CreateDirectory(STORE)).unwrap();
        drop(bench.wait(disk.open(TABLE, Open::Create)).ok().unwrap());
        let inside = disk.checkpoint(7);
        let names = |operation| bench.wait(inside.names(operation)).map_err(|error| error.kind);
        assert_eq!(names(NameOp::CreateDirectory(STORE)), Err(DiskErrorKind::NotFound));
        assert_eq!(bench.names(NameOp::CreateCheckpoint(7)), Ok(NameReply::Done));
        assert_eq!(bench.names(NameOp::CreateCheckpoint(7)), Ok(NameReply::Done));
        names(NameOp::CreateDirectory(STORE)).unwrap();
        bench.names(NameOp::LinkInto { name: TABLE, checkpoint: 7 }).unwrap();
        names(NameOp::SyncDirectory(STORE)).unwrap();
        bench.names(NameOp::Unlink(TABLE)).unwrap();
        assert_eq!(names(NameOp::List(STORE)), Ok(NameReply::Files(vec![(TABLE, 0)])));
        assert_eq!(bench.names(NameOp::List(STORE)), Ok(NameReply::Files(vec![])));
        assert!(bench.wait(inside.open(TABLE, Open::Read)).is_ok());
        bench.names(NameOp::RemoveCheckpoint(7)).unwrap();
        assert_eq!(
            bench.names(NameOp::ListCheckpoints),
            Ok(NameReply::Checkpoints(vec![7])),
            "it has a file"
        );
        names(NameOp::Unlink(TABLE)).unwrap();
        bench.names(NameOp::RemoveCheckpoint(7)).unwrap();
        assert_eq!(bench.names(NameOp::ListCheckpoints), Ok(NameReply::Checkpoints(vec![])));
        assert_eq!(bench.names(NameOp::RemoveCheckpoint(7)), Ok(NameReply::Done), "done already is fine");
    }

    #[test]
    fn a_spent_budget_refuses_its_class_only() {
        let bench = Bench::new(DiskOptions { background_bytes_max: 8192, ..DiskOptions::default() });
        let held = bench.disk.buf(8192, Class::Background).unwrap();
        assert!(bench.disk.buf(4096, Class::Background).is_none());
        assert!(bench.disk.buf(4096, Class::Log).is_some());
        drop(held);
        assert!(bench.disk.buf(4096, Class::Background).is_some());
    }

    #[test]
    fn errors_fall_into_the_engine_s_kinds() {
        let kind = |errno| failure(&io::Error::from_raw_os_error(errno), "write", None).kind;
        assert_eq!(kind(libc::ENOSPC), DiskErrorKind::NoSpace);
        assert_eq!(kind(libc::EDQUOT), DiskErrorKind::NoSpace);
        assert_eq!(kind(libc::EIO), DiskErrorKind::Io);
        assert_eq!(kind(libc::EACCES), DiskErrorKind::Os(libc::EACCES));
    }
}
