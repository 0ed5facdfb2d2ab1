//! Writes a value file, in large aligned writes one behind the other.

use super::StoredValue;
use super::format::{HEADER_BYTES, Pointer, ValuesMeta, encode_header, encode_record};
use crate::planted::{self, Bug};
use crate::table::{BuildError, Compressor, InFlight, Port};
use crate::{
    BLOCK_BYTES, Class, Compression, Disk, DiskError, FileId, FileName, Open, Prefix, RECORD_BYTES_MAX, Sync,
};

/// See the module. Nothing names the file until its owner's manifest does.
pub(crate) struct ValueBuilder<D: Disk> {
    port: Port<D>,
    class: Class,
    compression: Compression,
    write_bytes: usize,
    meta: ValuesMeta,
    records: u64,
    compressor: Compressor,
    /// What is not handed to the disk yet: from `out_from` on, whose place in the file is `out_at`, a multiple of a page.
    out: Vec<u8>,
    out_from: usize,
    out_at: u64,
    in_flight: Option<(u64, InFlight<D>)>,
    sealed: bool,
}

impl<D: Disk> ValueBuilder<D> {
    /// Creates the file. `write_bytes` is a multiple of a page.
    pub(crate) async fn create(
        disk: D,
        (store, number): (u16, u64),
        file_id: FileId,
        (compression, write_bytes): (Compression, usize),
        class: Class,
    ) -> Result<ValueBuilder<D>, DiskError> {
        let name = FileName::Values { store, number };
        let file = disk.open(name, Open::Create).await?;
        Ok(ValueBuilder {
            port: Port { disk, file, name },
            class,
            compression,
            write_bytes,
            meta: ValuesMeta { store, number, bytes: 0, record_bytes: 0, file_id },
            records: 0,
            compressor: Compressor::default(),
            out: encode_header(file_id).to_vec(),
            out_from: 0,
            out_at: 0,
            in_flight: None,
            sealed: false,
        })
    }

    /// The file that it writes.
    pub(crate) fn file(&self) -> FileName {
        self.port.name
    }

    /// Whether it has no value yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Bytes so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.out_at + (self.out.len() - self.out_from) as u64
    }

    /// Bytes it has in memory.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.out.capacity() + self.compressor.memory_bytes()
    }

    /// Adds a value, which is not empty. Does no I/O; see [`ValueBuilder::wants_flush`].
    pub(crate) fn add(&mut self, prefix: Prefix, value: &[u8]) -> Pointer {
        let mut compressor = std::mem::take(&mut self.compressor);
        let (codec, stored) = compressor.choose(value, self.compression);
        let pointer = self.push(prefix, codec.into(), value.len() as u32, stored);
        self.compressor = compressor;
        pointer
    }

    /// Adds a value as another file stored it.
    pub(crate) fn add_stored(&mut self, prefix: Prefix, value: &StoredValue) -> Pointer {
        self.push(prefix, value.codec, value.raw_bytes, value.stored())
    }

    fn push(&mut self, prefix: Prefix, codec: u32, raw_bytes: u32, stored: &[u8]) -> Pointer {
        assert!(!self.sealed, "nothing is added after finish");
        assert!(!stored.is_empty() && raw_bytes as usize <= RECORD_BYTES_MAX, "bounded where it enters");
        let (offset, id) = (self.bytes(), self.meta.file_id);
        let checksum = encode_record(&mut self.out, id, offset, prefix.to_u128(), codec, raw_bytes, stored);
        self.records += 1;
        let stored_bytes = stored.len() as u32;
        Pointer { file: self.meta.number, offset, checksum, stored_bytes, raw_bytes }
    }

    /// Whether [`ValueBuilder::flush`] has a full write to make.
    pub(crate) fn wants_flush(&self) -> bool {
        self.out.len() - self.out_from >= self.write_bytes
    }

    /// Hands full writes to the disk. Returns while the last one is in flight.
    pub(crate) async fn flush(&mut self) -> Result<(), BuildError> {
        while self.wants_flush() {
            self.write(self.write_bytes).await?;
        }
        self.out.drain(..self.out_from);
        self.out_from = 0;
        Ok(())
    }

    /// Writes everything out and syncs the file. The name is not durable: syncing the directory is the caller's.
    pub(crate) async fn finish(&mut self) -> Result<ValuesMeta, BuildError> {
        if !self.sealed {
            self.meta.record_bytes = self.bytes() - HEADER_BYTES as u64;
            let (offset, records) = (self.bytes(), u128::from(self.records));
            encode_record(&mut self.out, self.meta.file_id, offset, records, 0, 0, &[]);
            self.meta.bytes = self.bytes().next_multiple_of(BLOCK_BYTES as u64);
            let padding = (self.meta.bytes - self.bytes()) as usize;
            self.out.resize(self.out.len() + padding, 0);
            self.sealed = true;
        }
        while self.out_from < self.out.len() {
            self.write(self.write_bytes.min(self.out.len() - self.out_from)).await?;
        }
        self.settle().await?;
        if !planted::active(Bug::ValuesNamedBeforeSync) {
            self.port.disk.sync(&self.port.file).await?;
        }
        Ok(self.meta)
    }

    /// Waits for the write in flight, then starts one of the next `len` bytes.
    async fn write(&mut self, len: usize) -> Result<(), BuildError> {
        self.settle().await?;
        let mut buf = self.port.disk.buf(len, self.class).ok_or(BuildError::NoBuffer)?;
        buf.copy_from_slice(&self.out[self.out_from..self.out_from + len]);
        let future = self.port.disk.write(&self.port.file, self.out_at, buf, Sync::No, self.class);
        self.in_flight = Some((self.out_at, Box::pin(future)));
        self.out_from += len;
        self.out_at += len as u64;
        Ok(())
    }

    async fn settle(&mut self) -> Result<(), BuildError> {
        let Some((at, future)) = &mut self.in_flight else { return Ok(()) };
        let (at, moved) = (*at, future.as_mut().await);
        self.in_flight = None;
        self.port.complete_write(at, moved, self.class).await
    }
}
