//! Walks a part of a table in either direction, for scans.
//!
//! Blocks that the cache holds are taken from there; the others are read past it, in runs that grow from a few blocks to as
//! many as a merge reads at once, and are not put into it: a scan leaves the cache as it found it. It stands before its first
//! entry until [`Source::fill`] is called, and again at the end of each block.

use std::rc::Rc;

use super::block::Block;
use super::index::BlockHandle;
use super::reader::Table;
use crate::merge::Source;
use crate::planted::{self, Bug};
use crate::{BLOCK_BYTES, BlockCache, Class, Direction, Disk, Key, KeyRange, ReadError, Record};

/// Length of the first run that is read, in bytes: most scans are short.
const RUN_BYTES_MIN: u64 = 16 * 1024;
/// Length to which runs grow, in bytes.
const RUN_BYTES_MAX: u64 = 256 * 1024;

/// See the module.
pub(crate) struct TableWalk<D: Disk> {
    table: Rc<Table<D>>,
    cache: Rc<BlockCache>,
    direction: Direction,
    range: KeyRange,
    /// The bound to start at was not come to yet.
    is_ahead: bool,
    /// The block to load next.
    next: Option<u32>,
    block: Option<Block>,
    at: usize,
    run: Option<Run<D>>,
    run_bytes: u64,
}

/// Neighbouring blocks, read at once.
struct Run<D: Disk> {
    first: u32,
    /// Past its last block.
    end: u32,
    at: u64,
    bytes: D::Buf,
}

impl<D: Disk> TableWalk<D> {
    /// Starts at the end of `range` from which `direction` goes. It ends behind the last block that may hold a key of it; what else is
    /// in that block is the caller's to leave out.
    pub(crate) fn new(
        table: Rc<Table<D>>,
        cache: Rc<BlockCache>,
        range: &KeyRange,
        direction: Direction,
    ) -> Self {
        let next = match direction {
            Direction::Forward => Some(table.block_before(&range.low()).map_or(0, |handle| handle.0)),
            Direction::Reverse => table.block_before(&range.high()).map(|handle| handle.0),
        };
        TableWalk {
            table,
            cache,
            direction,
            range: range.clone(),
            is_ahead: true,
            next,
            block: None,
            at: 0,
            run: None,
            run_bytes: RUN_BYTES_MIN,
        }
    }

    /// The block behind one, in the direction of the walk.
    fn after(&self, number: u32) -> Option<u32> {
        match self.direction {
            Direction::Forward => Some(number + 1).filter(|&next| next < self.table.blocks()),
            Direction::Reverse => number.checked_sub(1),
        }
    }

    /// Whether all keys of a block are behind the range, in the direction of the walk.
    fn is_past(&self, number: u32) -> bool {
        match self.direction {
            Direction::Forward => self.table.low_of(number).as_key() >= self.range.high(),
            Direction::Reverse => self.table.low_of(number + 1).as_key() <= self.range.low(),
        }
    }

    /// Whether all keys of a block are before the range, in the direction of the walk.
    fn is_before(&self, number: u32) -> bool {
        match self.direction {
            Direction::Forward => self.table.low_of(number + 1).as_key() <= self.range.low(),
            Direction::Reverse => self.table.low_of(number).as_key() >= self.range.high(),
        }
    }

    async fn load(&mut self, number: u32) -> Result<Block, ReadError> {
        let handle = BlockHandle(number);
        let in_run = |run: &&Run<D>| (run.first..run.end).contains(&number);
        let is_read = self.run.as_ref().filter(in_run).is_some();
        if !is_read && let Some(block) = self.cache.peek(self.table.number(), handle) {
            return Ok(block);
        }
        // Also of a run that was read for the sake of its neighbour.
        if self.table.is_quarantined(number) {
            return Err(ReadError::Quarantined(self.table.meta().name.file()));
        }
        if !is_read {
            self.run = None;
            self.run = Some(match self.read_run(number, self.run_bytes).await {
                // What cannot be read may be another block of the run.
                Err(ReadError::Disk(_)) => self.read_run(number, 0).await?,
                read => read?,
            });
            self.run_bytes = (self.run_bytes * 2).min(RUN_BYTES_MAX);
        }
        let run = self.run.as_ref().expect("just read");
        self.table.check_block(handle, &run.bytes, run.at)
    }

    /// Reads the block and, as far as the run may be long, those behind it in the direction of the walk.
    async fn read_run(&self, number: u32, run_bytes: u64) -> Result<Run<D>, ReadError> {
        let page = BLOCK_BYTES as u64;
        let span = |first: u32, end: u32| {
            let at = u64::from(self.table.place(BlockHandle(first)).offset) / page * page;
            (at, self.table.place(BlockHandle(end - 1)).end().next_multiple_of(page) - at)
        };
        let (mut first, mut end) = (number, number + 1);
        loop {
            let (wider_first, wider_end) = match self.direction {
                Direction::Forward => (first, (end + 1).min(self.table.blocks())),
                Direction::Reverse => (first.saturating_sub(1), end),
            };
            if (wider_first, wider_end) == (first, end) || span(wider_first, wider_end).1 > run_bytes {
                break;
            }
            (first, end) = (wider_first, wider_end);
        }
        let (at, len) = span(first, end);
        Ok(Run { first, end, at, bytes: self.table.read_bytes(at, len as usize, Class::Read).await? })
    }
}

impl<D: Disk> Source for TableWalk<D> {
    #[inline]
    fn current(&self) -> Option<(Key<'_>, Record<'_>)> {
        self.block.as_ref().map(|block| block.entry_at(self.at))
    }

    #[inline]
    fn advance(&mut self) -> bool {
        let next = match self.direction {
            Direction::Forward => {
                let last = self.block.as_ref().map_or(0, Block::len);
                // As a bug: the last entry of a block is left out.
                let last = last - usize::from(planted::active(Bug::ScanSkipsBlockEdge) && last > 1);
                Some(self.at + 1).filter(|&at| at < last)
            }
            Direction::Reverse => self.at.checked_sub(1),
        };
        match next {
            Some(at) => self.at = at,
            None => self.block = None,
        }
        next.is_some()
    }

    async fn fill(&mut self) -> Result<(), ReadError> {
        while self.block.is_none()
            && let Some(number) = self.next
        {
            // What lies outside of the range is not asked for: it may be what cannot be read.
            if self.is_past(number) {
                self.next = None;
                break;
            }
            if self.is_ahead && self.is_before(number) {
                self.next = self.after(number);
                continue;
            }
            let block = self.load(number).await?;
            let is_first = std::mem::take(&mut self.is_ahead);
            self.next = self.after(number);
            // The bound may lie behind the only block that can hold it, seen in the direction of the walk.
            let at = match self.direction {
                Direction::Forward => {
                    let at = if is_first { block.seek(&self.range.low()) } else { 0 };
                    Some(at).filter(|&at| at < block.len())
                }
                Direction::Reverse => {
                    let end = if is_first { block.seek(&self.range.high()) } else { block.len() };
                    end.checked_sub(1)
                }
            };
            if let Some(at) = at {
                (self.at, self.block) = (at, Some(block));
            }
        }
        Ok(())
    }
}
