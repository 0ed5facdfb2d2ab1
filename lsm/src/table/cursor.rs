//! Walks a table in key order, through the cache or past it.
//!
//! Past the cache (for compaction) blocks are read in large runs, the next run while this one is worked on. A cursor stands
//! before its first entry until [`Source::fill`] is called, and again at the end of each block. Past the cache, quarantined
//! blocks are passed over: what they held is lost, and an area of the manifest stands for it.

use std::rc::Rc;

use super::block::Block;
use super::index::BlockHandle;
use super::reader::Table;
use super::transfer::InFlight;
use crate::merge::Source;
use crate::{BLOCK_BYTES, BlockCache, Class, Disk, Key, KeyBuf, ReadError, Record};

/// Largest run of blocks read at once past the cache, in bytes, unless one block is larger.
const RUN_BYTES_MAX: u64 = 256 * 1024;

/// See the module.
pub struct TableCursor<D: Disk> {
    table: Rc<Table<D>>,
    feed: Feed<D>,
    class: Class,
    /// Where to start; taken by the first fill.
    start: Option<KeyBuf>,
    /// The next block to load.
    next: u32,
    block: Option<Block>,
    at: usize,
    len: usize,
    /// Where to look whether blocks that are read past the cache are in use in it, and whether the one at hand is.
    watched: Option<Rc<BlockCache>>,
    in_use: bool,
}

enum Feed<D: Disk> {
    Cache(Rc<BlockCache>),
    Stream(Stream<D>),
}

/// Runs of blocks, read one ahead.
struct Stream<D: Disk> {
    /// The run at hand, and where it starts in the file.
    run: Option<(Run, D::Buf)>,
    ahead: Option<(Run, InFlight<D>)>,
}

#[derive(Clone, Copy)]
struct Run {
    first: u32,
    /// Past its last block.
    end: u32,
    at: u64,
    len: usize,
}

impl<D: Disk> TableCursor<D> {
    /// Starts at the first key not before `from`, or at the first at all. Blocks come from the cache and go into it.
    pub fn cached(table: Rc<Table<D>>, cache: Rc<BlockCache>, class: Class, from: Option<&Key<'_>>) -> Self {
        Self::new(table, Feed::Cache(cache), class, from)
    }

    /// As [`TableCursor::cached`], past the cache.
    pub fn streaming(table: Rc<Table<D>>, class: Class, from: Option<&Key<'_>>) -> Self {
        Self::new(table, Feed::Stream(Stream { run: None, ahead: None }), class, from)
    }

    /// As [`TableCursor::streaming`], and says of each block whether it is in use in `cache`.
    pub(crate) fn watching(
        table: Rc<Table<D>>,
        cache: Rc<BlockCache>,
        class: Class,
        from: Option<&Key<'_>>,
    ) -> Self {
        TableCursor { watched: Some(cache), ..Self::streaming(table, class, from) }
    }

    fn new(table: Rc<Table<D>>, feed: Feed<D>, class: Class, from: Option<&Key<'_>>) -> Self {
        let next = from.and_then(|key| table.index.locate(key)).map_or(0, |handle| handle.0);
        let start = from.map(Key::to_buf);
        let (watched, in_use) = (None, false);
        TableCursor { table, feed, class, start, next, block: None, at: 0, len: 0, watched, in_use }
    }

    /// Goes to the first key not before `from`, in either direction. [`Source::fill`] has to follow.
    pub fn seek(&mut self, from: &Key<'_>) {
        self.next = self.table.index.locate(from).map_or(0, |handle| handle.0);
        self.start = Some(from.to_buf());
        self.block = None;
    }

    /// The table it walks.
    pub fn table(&self) -> &Rc<Table<D>> {
        &self.table
    }

    async fn load(&mut self, number: u32) -> Result<Block, ReadError> {
        match &mut self.feed {
            Feed::Cache(cache) => cache.read(&self.table, BlockHandle(number), self.class).await,
            Feed::Stream(stream) => stream.load(&self.table, number, self.class).await,
        }
    }
}

impl<D: Disk> Source for TableCursor<D> {
    fn is_in_use(&self) -> bool {
        self.in_use
    }

    #[inline]
    fn current(&self) -> Option<(Key<'_>, Record<'_>)> {
        self.block.as_ref().map(|block| block.entry_at(self.at))
    }

    #[inline]
    fn advance(&mut self) -> bool {
        if self.at + 1 < self.len {
            self.at += 1;
            return true;
        }
        self.block = None;
        false
    }

    async fn fill(&mut self) -> Result<(), ReadError> {
        while self.block.is_none() {
            if let Feed::Stream(_) = self.feed {
                self.next = self.table.sound_from(self.next);
            }
            if self.next >= self.table.blocks() {
                break;
            }
            let block = self.load(self.next).await?;
            let number = self.table.number();
            let watched = self.watched.as_ref();
            self.in_use = watched.is_some_and(|cache| cache.is_in_use(number, BlockHandle(self.next)));
            self.next += 1;
            let at = self.start.take().map_or(0, |key| block.seek(&key.as_key()));
            self.len = block.len();
            // The key sought may be after the only block that might hold it; the next block starts after it.
            if at < self.len {
                self.at = at;
                self.block = Some(block);
            }
        }
        Ok(())
    }
}

impl<D: Disk> Stream<D> {
    async fn load(&mut self, table: &Table<D>, number: u32, class: Class) -> Result<Block, ReadError> {
        let at_hand = self.run.as_ref().is_some_and(|(run, _)| (run.first..run.end).contains(&number));
        if !at_hand {
            self.run = None;
            self.advance(table, number, class).await?;
        }
        let (run, bytes) = self.run.as_ref().expect("just read");
        table.check_block(BlockHandle(number), bytes, run.at)
    }

    /// Makes the run that starts at block `number` the one at hand and begins to read the one after it.
    async fn advance(&mut self, table: &Table<D>, number: u32, class: Class) -> Result<(), ReadError> {
        if self.ahead.as_ref().is_some_and(|(run, _)| run.first != number) {
            self.ahead = None;
        }
        if self.ahead.is_none() {
            self.ahead = Some(Self::begin(table, number, class).ok_or(ReadError::NoBuffer)?);
        }
        if let Some((run, future)) = &mut self.ahead {
            let (run, moved) = (*run, future.as_mut().await);
            self.ahead = None;
            let bytes = table.port.complete_read(run.at, moved, class).await?;
            // Without a buffer to spare, the next run is begun when it is needed.
            let next = table.sound_from(run.end);
            self.ahead = if next < table.blocks() { Self::begin(table, next, class) } else { None };
            self.run = Some((run, bytes));
        }
        Ok(())
    }

    fn begin(table: &Table<D>, first: u32, class: Class) -> Option<(Run, InFlight<D>)> {
        let page = BLOCK_BYTES as u64;
        let place = table.place(BlockHandle(first));
        let at = u64::from(place.offset) / page * page;
        let mut len = place.end().next_multiple_of(page) - at;
        let mut end = first + 1;
        while end < table.blocks() {
            let grown = table.place(BlockHandle(end)).end().next_multiple_of(page) - at;
            if grown > RUN_BYTES_MAX || table.is_quarantined(end) {
                break;
            }
            (len, end) = (grown, end + 1);
        }
        let run = Run { first, end, at, len: len as usize };
        let buf = table.port.disk.buf(run.len, class)?;
        Some((run, Box::pin(table.port.disk.read(&table.port.file, at, buf, class))))
    }
}
