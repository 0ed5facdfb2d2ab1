//! The disk on a real directory.

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
        let disk = RingDisk::new(ring.clone(), directory.path(), DiskOptions { direct, ..options }).unwrap();
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
    assert_eq!(bench.names(NameOp::ListCheckpoints), Ok(NameReply::Checkpoints(vec![7])), "it has a file");
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

/// A bad sector is `ENODATA` to a direct read. It was no failure of the device to the engine, which quarantined nothing: the merge that met
/// it was tried for ever.
#[test]
fn a_bad_sector_is_a_failure_of_the_device() {
    let kind = |errno| failure(&io::Error::from_raw_os_error(errno), "read", Some(TABLE)).kind;
    for errno in [libc::ENODATA, libc::EREMOTEIO, libc::ETIMEDOUT, libc::ETIME, libc::ENOLINK] {
        assert_eq!(kind(errno), DiskErrorKind::Io, "{errno}");
    }
    for errno in [libc::ENXIO, libc::ENODEV, libc::EILSEQ, libc::EBADMSG, libc::EUCLEAN] {
        assert_eq!(kind(errno), DiskErrorKind::Io, "{errno}");
    }
    // What says nothing of the device, or passes.
    for errno in [libc::ENOMEM, libc::EMFILE, libc::EINVAL, libc::EROFS] {
        assert_eq!(kind(errno), DiskErrorKind::Os(errno), "{errno}");
    }
}
