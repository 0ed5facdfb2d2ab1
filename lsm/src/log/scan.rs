//! Finds the valid groups of a segment, and what lies between them.

use crate::{BLOCK_BYTES, Class, Disk, DiskError, DiskErrorKind, FileName};

use super::LogError;
use super::format::{
    GROUP_HEADER_BYTES, GroupFault, GroupHeader, Identity, SEGMENT_HEADER_BYTES, bears, claimed_bytes,
    decode_group,
};
use crate::planted::{self, Bug};

/// Read at a time, in bytes.
const CHUNK_BYTES: usize = 256 << 10;
/// What most of a segment is. Comparing with it is one call, where a loop over bytes took most of a recovery's time.
static ZERO_BLOCK: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];
/// Reads that bring nothing, one after the other, before the device counts as failed.
const EMPTY_READS_MAX: u32 = 8;

/// A sliding view of a file, forwards only.
pub(super) struct Window<D: Disk> {
    disk: D,
    file: D::File,
    name: FileName,
    file_bytes: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl<D: Disk> Window<D> {
    pub(super) fn new(disk: D, file: D::File, name: FileName, file_bytes: u64) -> Window<D> {
        Window { disk, file, name, file_bytes, start: 0, bytes: Vec::new() }
    }

    /// The bytes from `at` on, `len` of them or what the file has. What is before `at` is forgotten.
    pub(super) async fn view(&mut self, at: u64, len: usize) -> Result<&[u8], LogError> {
        assert!(at >= self.start && at.is_multiple_of(BLOCK_BYTES as u64));
        let end = (at + len as u64).min(self.file_bytes);
        if end > self.start + self.bytes.len() as u64 {
            let gone = ((at - self.start) as usize).min(self.bytes.len());
            self.bytes.drain(..gone);
            self.start += gone as u64;
            if self.bytes.is_empty() {
                self.start = at;
            }
            while self.start + (self.bytes.len() as u64) < end {
                self.read_chunk().await?;
            }
        }
        let from = (at - self.start) as usize;
        let to = (end.max(at) - self.start) as usize;
        Ok(&self.bytes[from.min(self.bytes.len())..to.min(self.bytes.len())])
    }

    async fn read_chunk(&mut self) -> Result<(), LogError> {
        let at = self.start + self.bytes.len() as u64;
        for _ in 0..EMPTY_READS_MAX {
            let buf = self.disk.buf(CHUNK_BYTES, Class::Log).ok_or(LogError::NoBuffer)?;
            let (buf, result) = self.disk.read(&self.file, at, buf, Class::Log).await;
            let left = self.file_bytes - at;
            let got = result? as u64;
            // A short read may end anywhere; go on from a block boundary, unless the file ends there.
            let got = if got >= left { left } else { got / BLOCK_BYTES as u64 * BLOCK_BYTES as u64 };
            if got > 0 {
                self.bytes.extend_from_slice(&buf[..got as usize]);
                return Ok(());
            }
        }
        let (kind, name) = (DiskErrorKind::Io, Some(self.name));
        Err(LogError::Disk(DiskError { kind, operation: "read", name }))
    }

    /// The group's records, as [`super::Records`] wants them.
    pub(super) async fn body(&mut self, at: u64, header: &GroupHeader) -> Result<&[u8], LogError> {
        let group = self.view(at, header.bytes()).await?;
        Ok(&group[GROUP_HEADER_BYTES..GROUP_HEADER_BYTES + header.body as usize])
    }
}

/// What lies between two valid groups, or after the last one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Gap {
    /// Some block is not zeros.
    pub(super) nonzero: bool,
    /// Some block bears the segment's identity: it is, or was, part of a group of this life.
    pub(super) ours: bool,
    /// The first block that is not zeros and starts no group of someone else, and what is wrong with it.
    pub(super) fault: Option<(u64, GroupFault)>,
}

/// The next valid group, if there is one, and what lies before it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) gap: Gap,
    pub(super) group: Option<(u64, GroupHeader)>,
}

/// The groups of one segment, in order.
pub(super) struct Scan<D: Disk> {
    pub(super) window: Window<D>,
    /// Whose groups count; anyone's if `None`.
    identity: Option<Identity>,
    at: u64,
}

impl<D: Disk> Scan<D> {
    pub(super) fn new(window: Window<D>, identity: Option<Identity>) -> Scan<D> {
        Scan { window, identity, at: SEGMENT_HEADER_BYTES }
    }

    /// The next valid group. After a block that starts none, the search goes on at the next block: what is damaged may not
    /// hide what comes after it.
    pub(super) async fn next(&mut self) -> Result<Found, LogError> {
        let mut gap = Gap::default();
        loop {
            let block = self.window.view(self.at, BLOCK_BYTES).await?;
            if block.len() < BLOCK_BYTES {
                return Ok(Found { gap, group: None });
            }
            let nonzero = *block != ZERO_BLOCK;
            let ours = nonzero && self.identity.is_some_and(|identity| bears(block, identity));
            let fault = match claimed_bytes(block) {
                None => GroupFault::NoMagic,
                Some(len) => match decode_group(self.window.view(self.at, len).await?, self.identity) {
                    Ok((header, _)) => return Ok(self.found(gap, header)),
                    Err(GroupFault::Foreign(_)) if planted::active(Bug::StaleSegmentReplayed) => {
                        match decode_group(self.window.view(self.at, len).await?, None) {
                            Ok((header, _)) => return Ok(self.found(gap, header)),
                            Err(fault) => fault,
                        }
                    }
                    Err(fault) => fault,
                },
            };
            gap.nonzero |= nonzero;
            gap.ours |= ours;
            if nonzero && gap.fault.is_none() && !matches!(fault, GroupFault::Foreign(_)) {
                gap.fault = Some((self.at, fault));
            }
            self.at += BLOCK_BYTES as u64;
        }
    }

    fn found(&mut self, gap: Gap, header: GroupHeader) -> Found {
        let at = self.at;
        self.at += header.bytes() as u64;
        Found { gap, group: Some((at, header)) }
    }
}
