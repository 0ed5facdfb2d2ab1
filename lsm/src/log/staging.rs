//! The group that is being filled: records are encoded where they will be written from.

use crate::{AlignedBuf, BLOCK_BYTES, Key, Record, Seq};

use super::codec::{Before, encoded_len_max};
use super::format::{GROUP_HEADER_BYTES, GroupHeader, Identity, TRAILER_BYTES, blocks_for};

/// A group to be.
#[derive(Debug)]
pub(super) struct Filling<B> {
    buf: B,
    body: usize,
    count: u32,
    first: u64,
    before: Before,
    token_seed: Option<u64>,
}

/// Bytes of records that a buffer of `capacity` bytes holds.
pub(super) fn room_for(capacity: usize) -> usize {
    capacity - GROUP_HEADER_BYTES - TRAILER_BYTES
}

impl<B: AlignedBuf> Filling<B> {
    /// An empty group whose first record will be `first`. With a seed, tokens that follow from their partition keys are left out.
    pub(super) fn new(mut buf: B, first: u64, token_seed: Option<u64>) -> Filling<B> {
        buf.set_len(buf.capacity());
        Filling { buf, body: 0, count: 0, first, before: Before::default(), token_seed }
    }

    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// Bytes that the group takes on disk, as it is now.
    pub(super) fn bytes(&self) -> usize {
        blocks_for(self.body) * BLOCK_BYTES
    }

    /// Bytes of records staged.
    pub(super) fn body(&self) -> usize {
        self.body
    }

    /// Whether a record surely fits.
    #[inline]
    pub(super) fn fits(&self, key: &Key<'_>, record: &Record<'_>) -> bool {
        self.body + encoded_len_max(key, record) <= room_for(self.buf.len())
    }

    /// Adds a record that fits.
    #[inline]
    pub(super) fn push(&mut self, key: &Key<'_>, record: &Record<'_>, vnode_epoch: u64) -> Seq {
        let seq = Seq(self.first + u64::from(self.count));
        let at = GROUP_HEADER_BYTES + self.body;
        self.body += self.before.encode(&mut self.buf[at..], key, record, vnode_epoch, self.token_seed);
        self.count += 1;
        seq
    }

    /// Lets go of its records: the number of the first, and the buffer.
    pub(super) fn abandon(self) -> (u64, B) {
        (self.first, self.buf)
    }

    /// Makes it ready to be written.
    pub(super) fn seal(mut self, identity: Identity, mark: u64) -> (GroupHeader, B) {
        let header = GroupHeader {
            identity,
            first: self.first,
            count: self.count,
            mark,
            token_seed: self.token_seed.unwrap_or(0),
            body: self.body as u32,
            blocks: blocks_for(self.body) as u32,
        };
        self.buf.set_len(header.bytes());
        header.seal(&mut self.buf);
        (header, self.buf)
    }
}
