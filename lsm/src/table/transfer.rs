//! Whole reads and writes over a disk whose operations may be short.

use std::pin::Pin;

use super::builder::BuildError;
use crate::{
    AlignedBuf, BLOCK_BYTES, Class, Damage, Disk, DiskError, DiskErrorKind, FileName, ReadError, Sync,
};

/// Operations spent on one transfer before it counts as failed: a disk that keeps moving a little is broken, too.
const TRIES_MAX: usize = 16;

/// What a read or write of a disk comes to.
pub(crate) type Moved<D> = (<D as Disk>::Buf, Result<usize, DiskError>);
/// A read or write in flight.
pub(crate) type InFlight<D> = Pin<Box<dyn Future<Output = Moved<D>>>>;

/// A file with what is needed to move its bytes.
pub(crate) struct Port<D: Disk> {
    pub(crate) disk: D,
    pub(crate) file: D::File,
    pub(crate) name: FileName,
}

impl<D: Disk> Port<D> {
    /// Reads exactly `len` bytes; `at` and `len` are multiples of a page. A file that ends before is damage.
    pub(crate) async fn read(&self, at: u64, len: usize, class: Class) -> Result<D::Buf, ReadError> {
        let buf = self.disk.buf(len, class).ok_or(ReadError::NoBuffer)?;
        let moved = self.disk.read(&self.file, at, buf, class).await;
        self.complete_read(at, moved, class).await
    }

    /// Reads what a first read of a whole buffer at `at` left out.
    pub(crate) async fn complete_read(
        &self,
        at: u64,
        moved: Moved<D>,
        class: Class,
    ) -> Result<D::Buf, ReadError> {
        let (mut buf, result) = moved;
        let len = buf.len();
        let mut done = result?.min(len);
        for _ in 1..TRIES_MAX {
            if done == len {
                return Ok(buf);
            }
            let from = done - done % BLOCK_BYTES;
            let rest = self.disk.buf(len - from, class).ok_or(ReadError::NoBuffer)?;
            let (rest, result) = self.disk.read(&self.file, at + from as u64, rest, class).await;
            let more = result?.min(rest.len());
            if from + more <= done {
                let (expected, found) = (at + len as u64, at + done as u64);
                return Err(
                    Damage { file: self.name, offset: found, what: "file length", expected, found }.into()
                );
            }
            buf[from..from + more].copy_from_slice(&rest[..more]);
            done = from + more;
        }
        if done == len { Ok(buf) } else { Err(self.stuck("read").into()) }
    }

    /// Writes what a first write of a whole buffer at `at` left out.
    pub(crate) async fn complete_write(
        &self,
        mut at: u64,
        moved: Moved<D>,
        class: Class,
    ) -> Result<(), BuildError> {
        let (mut buf, mut result) = moved;
        for _ in 1..TRIES_MAX {
            let done = result?.min(buf.len());
            if done == buf.len() {
                return Ok(());
            }
            let from = done - done % BLOCK_BYTES;
            buf.copy_within(from.., 0);
            buf.set_len(buf.len() - from);
            at += from as u64;
            (buf, result) = self.disk.write(&self.file, at, buf, Sync::No, class).await;
        }
        if result? >= buf.len() { Ok(()) } else { Err(self.stuck("write").into()) }
    }

    fn stuck(&self, operation: &'static str) -> DiskError {
        DiskError { kind: DiskErrorKind::Io, operation, name: Some(self.name) }
    }
}
