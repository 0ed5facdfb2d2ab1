//! A disk in memory that is nothing else: every operation ends at once and well, and what files hold is left out of
//! [`super::heap`]'s count.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, ready};
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use ferrite_lsm::{
    AlignedBuf, Class, Disk, DiskError, DiskErrorKind, FileName, NameOp, NameReply, Open, Sync,
};

use super::heap::uncounted;

#[derive(Default)]
pub(crate) struct Content(RefCell<Vec<u8>>);

impl Drop for Content {
    fn drop(&mut self) {
        uncounted(|| drop(std::mem::take(self.0.get_mut())));
    }
}

#[derive(Default)]
struct Files {
    by_name: RefCell<BTreeMap<FileName, Rc<Content>>>,
    buffer_bytes: Cell<usize>,
}

#[derive(Clone, Default)]
pub(crate) struct PlainDisk(Rc<Files>);

impl PlainDisk {
    fn name(&self, operation: NameOp) -> Result<NameReply, DiskErrorKind> {
        let mut files = self.0.by_name.borrow_mut();
        match operation {
            NameOp::CreateDirectory(_) | NameOp::SyncDirectory(_) => {}
            NameOp::CreateZeroed { name, bytes } => {
                files.insert(name, Rc::new(Content(RefCell::new(vec![0; bytes as usize]))));
            }
            NameOp::Rename { from, to } => {
                let file = files.remove(&from).ok_or(DiskErrorKind::NotFound)?;
                files.insert(to, file);
            }
            NameOp::Link { from, to } => {
                let file = files.get(&from).ok_or(DiskErrorKind::NotFound)?.clone();
                files.insert(to, file);
            }
            NameOp::Unlink(name) => drop(files.remove(&name).ok_or(DiskErrorKind::NotFound)?),
            NameOp::CreateCheckpoint(_)
            | NameOp::LinkInto { .. }
            | NameOp::ListCheckpoints
            | NameOp::RemoveCheckpoint(_) => unreachable!("no test makes checkpoints here"),
            NameOp::List(directory) => {
                let here = files.iter().filter(|(name, _)| name.directory() == directory);
                let list = here.map(|(&name, file)| (name, file.0.borrow().len() as u64)).collect();
                return Ok(NameReply::Files(list));
            }
        }
        Ok(NameReply::Done)
    }
}

pub(crate) struct Buffer {
    bytes: Vec<u8>,
    len: usize,
    disk: PlainDisk,
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

impl AlignedBuf for Buffer {
    fn set_len(&mut self, len: usize) {
        assert!(len <= self.bytes.len());
        self.len = len;
    }

    fn capacity(&self) -> usize {
        self.bytes.len()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let out = &self.disk.0.buffer_bytes;
        out.set(out.get() - self.bytes.len());
    }
}

fn failure(kind: DiskErrorKind, operation: &'static str) -> DiskError {
    DiskError { kind, operation, name: None }
}

impl Disk for PlainDisk {
    type File = Rc<Content>;
    type Buf = Buffer;

    fn buf(&self, len: usize, _: Class) -> Option<Buffer> {
        let out = self.0.buffer_bytes.get() + len;
        self.0.buffer_bytes.set(out);
        Some(Buffer { bytes: vec![0; len], len, disk: self.clone() })
    }

    fn buffer_bytes(&self) -> usize {
        self.0.buffer_bytes.get()
    }

    fn open(
        &self,
        name: FileName,
        mode: Open,
    ) -> impl Future<Output = Result<Rc<Content>, DiskError>> + 'static {
        ready(uncounted(|| {
            let mut files = self.0.by_name.borrow_mut();
            match (mode, files.get(&name)) {
                (Open::Create, Some(_)) => Err(failure(DiskErrorKind::Exists, "open")),
                (Open::Create, None) => Ok(Rc::clone(files.entry(name).or_default())),
                (Open::Read | Open::Write, Some(file)) => Ok(Rc::clone(file)),
                (Open::Read | Open::Write, None) => Err(failure(DiskErrorKind::NotFound, "open")),
            }
        }))
    }

    fn read(
        &self,
        file: &Rc<Content>,
        at: u64,
        mut buf: Buffer,
        _: Class,
    ) -> impl Future<Output = (Buffer, Result<usize, DiskError>)> + 'static {
        let content = file.0.borrow();
        let from = content.get(at as usize..).unwrap_or_default();
        let len = buf.len().min(from.len());
        buf[..len].copy_from_slice(&from[..len]);
        ready((buf, Ok(len)))
    }

    fn write(
        &self,
        file: &Rc<Content>,
        at: u64,
        buf: Buffer,
        _: Sync,
        _: Class,
    ) -> impl Future<Output = (Buffer, Result<usize, DiskError>)> + 'static {
        let mut content = file.0.borrow_mut();
        let end = at as usize + buf.len();
        if content.len() < end {
            uncounted(|| content.resize(end, 0));
        }
        content[at as usize..end].copy_from_slice(&buf);
        let len = buf.len();
        ready((buf, Ok(len)))
    }

    fn checkpoint(&self, _: u64) -> PlainDisk {
        unreachable!("no test makes checkpoints here")
    }

    fn sync(&self, _: &Rc<Content>) -> impl Future<Output = Result<(), DiskError>> + 'static {
        ready(Ok(()))
    }

    fn names(&self, operation: NameOp) -> impl Future<Output = Result<NameReply, DiskError>> + 'static {
        // A list is the caller's to free.
        let done = match operation {
            NameOp::List(_) => self.name(operation),
            _ => uncounted(|| self.name(operation)),
        };
        ready(done.map_err(|kind| failure(kind, "name")))
    }
}
