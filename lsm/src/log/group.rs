//! A committed group: its records, borrowed from the buffer they were written from.

use std::cell::RefCell;
use std::rc::Rc;

use crate::{AlignedBuf, Disk, Seq};

use super::State;
use super::codec::{Entry, Records};
use super::format::{GROUP_HEADER_BYTES, GroupHeader};

/// A group that is on disk as durably as the log's mode promises. Its buffer goes back to the log when it is dropped.
pub struct Group<D: Disk> {
    header: GroupHeader,
    /// Taken when dropped only.
    buf: Option<D::Buf>,
    log: Rc<RefCell<State<D>>>,
}

impl<D: Disk> Group<D> {
    pub(super) fn new(header: GroupHeader, buf: D::Buf, log: Rc<RefCell<State<D>>>) -> Group<D> {
        Group { header, buf: Some(buf), log }
    }

    /// Records in it; at least one.
    pub fn len(&self) -> usize {
        self.header.count as usize
    }

    /// Never: a commit of nothing gives no group.
    pub fn is_empty(&self) -> bool {
        self.header.count == 0
    }

    /// Number of its first record.
    pub fn first_seq(&self) -> Seq {
        Seq(self.header.first)
    }

    /// Number of its last record.
    pub fn last_seq(&self) -> Seq {
        Seq(self.header.next() - 1)
    }

    /// Bytes that it takes on disk.
    pub fn bytes(&self) -> usize {
        self.header.bytes()
    }

    /// Its records in the order in which they were staged.
    pub fn iter(&self) -> impl Iterator<Item = Entry<'_>> {
        let buf = self.buf.as_ref().expect("a group has its buffer until it is dropped");
        let body = &buf[GROUP_HEADER_BYTES..GROUP_HEADER_BYTES + self.header.body as usize];
        Records::of(&self.header, body).map(|entry| entry.expect("a group reads back as it was staged"))
    }
}

impl<D: Disk> Drop for Group<D> {
    fn drop(&mut self) {
        if let Some(mut buf) = self.buf.take() {
            buf.set_len(buf.capacity());
            self.log.borrow_mut().give_back(buf);
        }
    }
}

impl<D: Disk> std::fmt::Debug for Group<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group").field("header", &self.header).finish_non_exhaustive()
    }
}
