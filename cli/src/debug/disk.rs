//! A disk for looking only: plain blocking reads, everything else refused.

use std::fs::{self, File};
use std::future::ready;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::rc::Rc;

use ferrite_lsm::{
    AlignedBuf, Class, Directory, Disk, DiskError, DiskErrorKind, FileName, NameOp, NameReply, Open, Sync,
};
use ferrite_node::disk::names;

use super::place::Place;

/// Longest buffer, in bytes: the largest block of a table and more. Files are never read at once.
const BUF_BYTES_MAX: usize = 32 << 20;

/// The files of a place. Reads go through the page cache, so buffers need no alignment.
#[derive(Clone)]
pub(crate) struct PlainDisk {
    /// A file by itself, or all of a data directory.
    alone: Option<(FileName, PathBuf)>,
    root: Rc<PathBuf>,
}

impl PlainDisk {
    pub(crate) fn new(place: &Place) -> PlainDisk {
        let alone = place.file().map(|name| (name, place.path_of(name)));
        PlainDisk { alone, root: Rc::new(place.root().to_owned()) }
    }

    fn path(&self, name: FileName) -> PathBuf {
        match &self.alone {
            Some((own, path)) if *own == name => path.clone(),
            Some(_) | None => {
                self.root.join(names::directory_path(None, name.directory())).join(names::leaf(name))
            }
        }
    }

    fn list(&self, directory: Directory) -> io::Result<Vec<(FileName, u64)>> {
        if let Some((name, path)) = &self.alone {
            let is_here = name.directory() == directory;
            return Ok(if is_here { vec![(*name, fs::metadata(path)?.len())] } else { Vec::new() });
        }
        let mut files = Vec::new();
        let entries = match fs::read_dir(self.root.join(names::directory_path(None, directory))) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(files),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            let leaf = entry.file_name();
            if let Some(name) = leaf.to_str().and_then(|leaf| names::parse(directory, leaf)) {
                files.push((name, entry.metadata()?.len()));
            }
        }
        files.sort_unstable();
        Ok(files)
    }
}

fn failed(error: &io::Error, operation: &'static str, name: Option<FileName>) -> DiskError {
    const EIO: i32 = 5;
    let kind = match (error.kind(), error.raw_os_error()) {
        (io::ErrorKind::NotFound, _) => DiskErrorKind::NotFound,
        (_, Some(EIO)) | (_, None) => DiskErrorKind::Io,
        (_, Some(errno)) => DiskErrorKind::Os(errno),
    };
    DiskError { kind, operation, name }
}

/// What a disk for looking answers to everything else.
fn refused(operation: &'static str, name: Option<FileName>) -> DiskError {
    const EROFS: i32 = 30;
    DiskError { kind: DiskErrorKind::Os(EROFS), operation, name }
}

/// An open file.
#[derive(Clone)]
pub(crate) struct PlainFile {
    file: Rc<File>,
    name: FileName,
}

/// A buffer.
pub(crate) struct PlainBuf {
    bytes: Vec<u8>,
    capacity: usize,
}

impl Deref for PlainBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for PlainBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl AlignedBuf for PlainBuf {
    fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity, "within what it was made with");
        self.bytes.resize(len, 0);
    }

    fn capacity(&self) -> usize {
        self.capacity
    }
}

impl Disk for PlainDisk {
    type File = PlainFile;
    type Buf = PlainBuf;

    fn buf(&self, len: usize, _class: Class) -> Option<PlainBuf> {
        (len <= BUF_BYTES_MAX).then(|| PlainBuf { bytes: vec![0; len], capacity: len })
    }

    fn buffer_bytes(&self) -> usize {
        0
    }

    fn open(
        &self,
        name: FileName,
        mode: Open,
    ) -> impl Future<Output = Result<PlainFile, DiskError>> + 'static {
        ready(match mode {
            Open::Read => match File::open(self.path(name)) {
                Ok(file) => Ok(PlainFile { file: Rc::new(file), name }),
                Err(error) => Err(failed(&error, "open", Some(name))),
            },
            Open::Write | Open::Create => Err(refused("open", Some(name))),
        })
    }

    fn read(
        &self,
        file: &PlainFile,
        at: u64,
        mut buf: PlainBuf,
        _class: Class,
    ) -> impl Future<Output = (PlainBuf, Result<usize, DiskError>)> + 'static {
        let mut moved = 0;
        let result = loop {
            match file.file.read_at(&mut buf[moved..], at + moved as u64) {
                Ok(0) => break Ok(moved),
                Ok(more) => moved += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(failed(&error, "read", Some(file.name))),
            }
        };
        ready((buf, result))
    }

    fn write(
        &self,
        file: &PlainFile,
        _at: u64,
        buf: PlainBuf,
        _sync: Sync,
        _class: Class,
    ) -> impl Future<Output = (PlainBuf, Result<usize, DiskError>)> + 'static {
        ready((buf, Err(refused("write", Some(file.name)))))
    }

    fn sync(&self, file: &PlainFile) -> impl Future<Output = Result<(), DiskError>> + 'static {
        ready(Err(refused("sync", Some(file.name))))
    }

    fn checkpoint(&self, _number: u64) -> PlainDisk {
        unreachable!("a checkpoint is a data directory of its own to whoever looks")
    }

    fn names(&self, operation: NameOp) -> impl Future<Output = Result<NameReply, DiskError>> + 'static {
        ready(match operation {
            NameOp::List(directory) => match self.list(directory) {
                Ok(files) => Ok(NameReply::Files(files)),
                Err(error) => Err(failed(&error, "list", None)),
            },
            _ => Err(refused("change names", None)),
        })
    }
}
