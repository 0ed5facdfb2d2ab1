//! A value that was read from a value file and verified, as its reader sees it.

use std::rc::Rc;

use super::format::Pointer;

/// Bytes of its allocations beside the value's own: two counts, and what is kept of where it came from.
const OVERHEAD_BYTES: usize = 2 * size_of::<usize>() + size_of::<Content>();

/// See the module. Cloning shares it.
#[derive(Clone, Debug)]
pub(crate) struct Resolved(Rc<Content>);

#[derive(Debug)]
struct Content {
    /// That of its record, which covers where it lies, too.
    checksum: u64,
    /// The value starts here: what was stored raw keeps its record's header in front, and is not copied.
    start: usize,
    bytes: Box<[u8]>,
}

impl Resolved {
    /// What `pointer` names: `bytes` from `start` on.
    pub(super) fn new(pointer: &Pointer, start: usize, bytes: Box<[u8]>) -> Resolved {
        Resolved(Rc::new(Content { checksum: pointer.checksum, start, bytes }))
    }

    /// The value.
    #[inline]
    pub(crate) fn value(&self) -> &[u8] {
        &self.0.bytes[self.0.start..]
    }

    /// Whether it is what `pointer` names.
    #[inline]
    pub(crate) fn is_of(&self, pointer: &Pointer) -> bool {
        self.0.checksum == pointer.checksum && self.value().len() == pointer.raw_bytes as usize
    }

    /// Whether somebody else holds it, too.
    #[inline]
    pub(crate) fn is_shared(&self) -> bool {
        Rc::strong_count(&self.0) > 1
    }

    /// Bytes it keeps in memory.
    #[inline]
    pub(crate) fn memory_bytes(&self) -> usize {
        self.0.bytes.len() + OVERHEAD_BYTES
    }
}
