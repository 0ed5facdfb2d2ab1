//! Verifies a table's blocks, past the cache.

use super::index::BlockHandle;
use super::reader::Table;
use crate::{BLOCK_BYTES, Class, Disk, ReadError};

/// Most bytes read at once, unless one block is longer.
const RUN_BYTES_MAX: u64 = 256 * 1024;
/// Times that a block is read before it is taken for what it seems to be: buses and controllers flip bits too.
const READS_MAX: usize = 3;

/// What a run of blocks is like.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Verified {
    /// The block behind the run.
    pub(crate) next: u32,
    /// Bytes read.
    pub(crate) bytes: u64,
    /// Blocks that are what was written.
    pub(crate) sound: u32,
    /// Blocks that are not.
    pub(crate) damaged: Vec<u32>,
    /// Blocks that the device did not give.
    pub(crate) unreadable: Vec<u32>,
}

impl<D: Disk> Table<D> {
    /// Reads and checks blocks from `from` on, which must be one of its blocks, as many as one read takes. Quarantined ones are passed over. The
    /// only error is a missing buffer.
    pub(crate) async fn verify_run(&self, from: u32, class: Class) -> Result<Verified, ReadError> {
        let page = BLOCK_BYTES as u64;
        let first = self.sound_from(from);
        if first >= self.blocks() {
            return Ok(Verified { next: first, ..Verified::default() });
        }
        let at = u64::from(self.place(BlockHandle(first)).offset) / page * page;
        let len_to = |end: u32| self.place(BlockHandle(end - 1)).end().next_multiple_of(page) - at;
        let mut end = first + 1;
        while end < self.blocks() && !self.is_quarantined(end) && len_to(end + 1) <= RUN_BYTES_MAX {
            end += 1;
        }
        let mut verified = Verified { next: end, bytes: len_to(end), ..Verified::default() };
        let run = match self.read_bytes(at, verified.bytes as usize, class).await {
            Err(ReadError::NoBuffer) => return Err(ReadError::NoBuffer),
            run => run.ok(),
        };
        for block in first..end {
            if run.as_ref().is_some_and(|run| self.check_block(BlockHandle(block), run, at).is_ok()) {
                verified.sound += 1;
                continue;
            }
            match self.read_again(block, class).await {
                Ok(()) => verified.sound += 1,
                Err(ReadError::NoBuffer) => return Err(ReadError::NoBuffer),
                Err(ReadError::Damage(_) | ReadError::Quarantined(_)) => verified.damaged.push(block),
                Err(ReadError::Disk(_)) => verified.unreadable.push(block),
            }
        }
        Ok(verified)
    }

    async fn read_again(&self, block: u32, class: Class) -> Result<(), ReadError> {
        let mut last = Ok(());
        for _ in 0..READS_MAX {
            last = self.read_block(BlockHandle(block), class).await.map(|_| ());
            if matches!(last, Ok(()) | Err(ReadError::NoBuffer)) {
                break;
            }
        }
        last
    }
}
