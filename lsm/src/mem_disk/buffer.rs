//! Aligned buffers without unsafe code: a vector one block longer than asked, used from its first aligned byte.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use crate::{AlignedBuf, BLOCK_BYTES, Class};

/// Bytes kept for reuse by one disk.
const POOL_BYTES_MAX: usize = 16 << 20;
/// What a fresh buffer is filled with, so that code which relies on zeros is found out.
const POISON: u8 = 0xA5;

pub(super) const CLASSES: usize = 4;

fn class_index(class: Class) -> usize {
    match class {
        Class::Log => 0,
        Class::Read => 1,
        Class::Flush => 2,
        Class::Background => 3,
    }
}

/// Who has buffers, how many bytes they may have, and what was given back.
#[derive(Debug)]
pub(super) struct Pool {
    limits: [usize; CLASSES],
    out: [usize; CLASSES],
    free: Vec<Vec<u8>>,
    free_bytes: usize,
}

impl Pool {
    pub(super) fn new() -> Pool {
        Pool { limits: [usize::MAX; CLASSES], out: [0; CLASSES], free: Vec::new(), free_bytes: 0 }
    }

    pub(super) fn limit(&mut self, class: Class, bytes: usize) {
        self.limits[class_index(class)] = bytes;
    }

    /// Bytes that are out. What was given back is kept for speed only, and not counted.
    pub(super) fn all_out_bytes(&self) -> usize {
        self.out.iter().sum()
    }

    pub(super) fn out_bytes(&self, class: Class) -> usize {
        self.out[class_index(class)]
    }
}

pub(super) fn take(pool: &Rc<RefCell<Pool>>, len: usize, class: Class) -> Option<MemBuf> {
    assert!(len > 0 && len.is_multiple_of(BLOCK_BYTES), "a buffer of {len} bytes is not whole blocks");
    let class = class_index(class);
    let mut inner = pool.borrow_mut();
    if inner.limits[class].saturating_sub(inner.out[class]) < len {
        return None;
    }
    inner.out[class] += len;
    let wanted = len + BLOCK_BYTES;
    let bytes = match inner.free.iter().rposition(|bytes| bytes.len() == wanted) {
        Some(at) => {
            inner.free_bytes -= wanted;
            inner.free.swap_remove(at)
        }
        None => vec![POISON; wanted],
    };
    let start = bytes.as_ptr().align_offset(BLOCK_BYTES);
    assert!(start <= BLOCK_BYTES);
    Some(MemBuf { bytes, start, len, capacity: len, class, pool: Rc::clone(pool) })
}

/// A buffer of [`super::MemDisk`]; goes back to its disk's pool when dropped.
#[derive(Debug)]
pub struct MemBuf {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
    capacity: usize,
    class: usize,
    pool: Rc<RefCell<Pool>>,
}

impl Deref for MemBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }
}

impl DerefMut for MemBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

impl AlignedBuf for MemBuf {
    fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity, "a buffer of {} bytes cannot show {len}", self.capacity);
        self.len = len;
    }

    fn capacity(&self) -> usize {
        self.capacity
    }
}

impl Drop for MemBuf {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut pool = self.pool.borrow_mut();
        pool.out[self.class] -= self.capacity;
        if pool.free_bytes + bytes.len() <= POOL_BYTES_MAX {
            pool.free_bytes += bytes.len();
            pool.free.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_pooled_and_within_budget() {
        let pool = Rc::new(RefCell::new(Pool::new()));
        pool.borrow_mut().limit(Class::Log, 2 * BLOCK_BYTES);
        let mut first = take(&pool, BLOCK_BYTES, Class::Log).unwrap();
        let second = take(&pool, BLOCK_BYTES, Class::Log).unwrap();
        assert_eq!(first.as_ptr() as usize % BLOCK_BYTES, 0);
        assert_eq!(second.len(), BLOCK_BYTES);
        assert!(take(&pool, BLOCK_BYTES, Class::Log).is_none());
        assert!(take(&pool, BLOCK_BYTES, Class::Read).is_some());
        first.fill(7);
        first.set_len(16);
        drop(first);
        let again = take(&pool, BLOCK_BYTES, Class::Log).unwrap();
        assert_eq!(again.len(), BLOCK_BYTES);
        assert_eq!(pool.borrow().out_bytes(Class::Log), 2 * BLOCK_BYTES);
    }
}
