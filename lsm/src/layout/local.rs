//! Space 0 on its way from the old cores to the new ones: read from all old homes at once, in order, and written as it comes.
//!
//! ```text
//! old core 0 ── a batch ─┐                        ┌─► tables of new core 0
//! old core 1 ── a batch ─┼─ least key, newest of ─┼─► tables of new core 1
//! ...                    ┘  those that are equal  └─► ...
//! ```
//!
//! In memory is a batch of each old core and a table's index and filter of each new one, however much there is: a queue that nobody has drained may be
//! longer than the memory of the node.
//!
//! What is damaged is passed over, told and counted: one block must not keep a node from another number of cores, and nothing else is lost
//! with it. A disk that fails says nothing of what is stored there: then the change is refused, and may be made again.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use xxhash_rust::xxh3::xxh3_128_with_seed;

use super::Progress;
use crate::engine::{NUMBER_BITS, OpenError};
use crate::manifest;
use crate::{
    BuildError, Class, Direction, Directory, Disk, DiskError, Engine, FileId, Key, KeyBuf, KeyRange, Options,
    Pace, Prefix, ReadError, Record, RecordFlags, ScanLimits, TableBuilder, TableMeta, TableName, cover,
};

/// Most records that are read from an old core at once.
const BATCH_RECORDS_MAX: usize = 1_024;
/// Bytes of them from which no more are.
const BATCH_BYTES_MAX: usize = 256 << 10;
/// Bytes from which a table is ended and another one begun: what is in memory for one grows with it.
const TABLE_BYTES_MAX: u64 = 64 << 20;
/// Stretches that cannot be read and are passed over, of each old core; what is behind the last one is found by nobody.
const HOLES_MAX: u64 = 64;

/// A record that is on its way.
struct Moved {
    key: KeyBuf,
    order: u64,
    actor: u64,
    flags: RecordFlags,
    expiry_ms: u64,
    value: Box<[u8]>,
}

impl Moved {
    fn new(key: Key<'_>, record: Record<'_>) -> Moved {
        let Record { order, actor, flags, expiry_ms, value } = record;
        Moved { key: key.to_buf(), order, actor, flags, expiry_ms, value: value.into() }
    }

    fn record(&self) -> Record<'_> {
        let Moved { order, actor, flags, expiry_ms, .. } = *self;
        Record { order, actor, flags, expiry_ms, value: &self.value }
    }
}

/// What is left to be read of an old core.
struct Source<'e, D: Disk, P: Pace> {
    index: u16,
    engine: &'e Engine<D, P>,
    left: Option<KeyRange>,
    batch: VecDeque<Moved>,
    holes: u64,
}

impl<D: Disk, P: Pace> Source<'_, D, P> {
    /// Reads the next batch, if the last one is used up.
    async fn fill(&mut self, progress: &mut impl FnMut(Progress)) -> Result<(), OpenError> {
        while self.batch.is_empty()
            && let Some(range) = self.left.take()
        {
            let batch = &mut self.batch;
            let limits = ScanLimits { records: BATCH_RECORDS_MAX, bytes: BATCH_BYTES_MAX };
            let take = |key: Key<'_>, record: Record<'_>| {
                batch.push_back(Moved::new(key, record));
                ControlFlow::Continue(())
            };
            self.left = match self.engine.scan(&range, Direction::Forward, limits, take).await {
                Ok(left) => left,
                Err(error @ (ReadError::Damage(_) | ReadError::Quarantined(_))) => {
                    cover::mark("space 0 passed over where it is damaged");
                    self.holes += 1;
                    progress(Progress::PassedOver { index: self.index, error });
                    let unread = match self.batch.back() {
                        Some(last) => range.after(&last.key.as_key()),
                        None => range,
                    };
                    match self.holes < HOLES_MAX {
                        true => self.engine.behind_unreadable(&unread).await,
                        false => None,
                    }
                }
                Err(error @ (ReadError::Disk(_) | ReadError::NoBuffer)) => return Err(error.into()),
            };
        }
        Ok(())
    }

    /// Leaves out what comes before.
    fn skip_to(&mut self, prefix: Prefix) {
        while self.batch.front().is_some_and(|moved| moved.key.prefix < prefix) {
            self.batch.pop_front();
        }
        if self.batch.is_empty()
            && let Some(left) = &self.left
        {
            self.left = Some(left.from(&Key { prefix, partition: b"", sort: b"" }));
        }
    }
}

/// The tables of a new core's part, as they are written.
pub(super) struct Home<D: Disk> {
    core: u16,
    store: u16,
    next_number: u64,
    builder: Option<TableBuilder<D>>,
    tables: Vec<TableMeta>,
}

impl<D: Disk> Home<D> {
    /// None yet. The first gets this number.
    pub(super) fn new(core: u16, store: u16, next_number: u64) -> Home<D> {
        Home { core, store, next_number, builder: None, tables: Vec::new() }
    }

    async fn add(
        &mut self,
        disk: &D,
        options: &Options,
        max_seq: u64,
        moved: &Moved,
    ) -> Result<(), DiskError> {
        if self.builder.is_none() {
            let number = u64::from(self.core) << NUMBER_BITS | self.next_number;
            self.next_number += 1;
            let name = TableName { store: self.store, number };
            let file_id = FileId(xxh3_128_with_seed(&options.entropy.to_le_bytes(), number));
            let builder =
                TableBuilder::create(disk.clone(), name, file_id, options.table, Class::Flush).await?;
            self.builder = Some(builder);
        }
        let builder = self.builder.as_mut().expect("just made");
        builder.add(moved.key.as_key(), moved.record());
        if builder.wants_flush() {
            builder.flush().await.map_err(failed)?;
        }
        if builder.bytes() >= TABLE_BYTES_MAX {
            self.end_table(max_seq).await?;
        }
        Ok(())
    }

    async fn end_table(&mut self, max_seq: u64) -> Result<(), DiskError> {
        if let Some(mut builder) = self.builder.take() {
            self.tables.push(builder.finish(max_seq).await.map_err(failed)?);
        }
        Ok(())
    }

    /// The tables, which lie beside each other in order, and the number of the next.
    pub(super) fn into_tables(self) -> (Vec<TableMeta>, u64) {
        assert!(self.builder.is_none(), "a table is ended before it is named");
        (self.tables, self.next_number)
    }
}

/// Moves all of space 0 to its new homes, synced. `max_seq`: no record has a higher sequence number. Gives how many stretches were passed over.
pub(super) async fn move_all<D: Disk, P: Pace>(
    disk: &D,
    engines: &[Engine<D, P>],
    homes: &mut [Home<D>],
    options: &Options,
    max_seq: u64,
    progress: &mut impl FnMut(Progress),
) -> Result<u64, OpenError> {
    let source = |(index, engine)| Source {
        index: index as u16,
        engine,
        left: Some(KeyRange::local_from(0)),
        batch: VecDeque::new(),
        holes: 0,
    };
    let mut sources: Vec<Source<'_, D, P>> = engines.iter().enumerate().map(source).collect();
    loop {
        for source in &mut sources {
            source.fill(progress).await?;
        }
        let Some(moved) = take_least(&mut sources) else { break };
        for index in homes_of(moved.key.prefix, homes.len()) {
            homes[index].add(disk, options, max_seq, &moved).await?;
        }
        let prefix = moved.key.prefix;
        if prefix.table > 0
            && prefix.token == 0
            && let Some(token) = moved.order.checked_add(1)
        {
            // A mark: what it has retired is not even read.
            sources.iter_mut().for_each(|source| source.skip_to(Prefix { token, ..prefix }));
        }
    }
    for home in homes {
        home.end_table(max_seq).await?;
        if !home.tables.is_empty() {
            manifest::sync_directory(disk, Directory::Store(home.store)).await?;
        }
    }
    Ok(sources.iter().map(|source| source.holes).sum())
}

/// Takes the least key out of all batches, with the record that wins.
fn take_least<D: Disk, P: Pace>(sources: &mut [Source<'_, D, P>]) -> Option<Moved> {
    let fronts = sources.iter().filter_map(|source| source.batch.front());
    let least = fronts.map(|moved| &moved.key).min()?.clone();
    let mut winner: Option<Moved> = None;
    for source in sources {
        if source.batch.front().is_some_and(|moved| moved.key == least) {
            let moved = source.batch.pop_front().expect("just seen");
            if winner.as_ref().is_none_or(|winner| moved.record().beats(&winner.record())) {
                winner = Some(moved);
            }
        }
    }
    winner
}

/// Whose a key of space 0 is, of so many cores: table 0 is every core's, table n the one's whose number is the remainder of n - 1.
fn homes_of(prefix: Prefix, cores: usize) -> std::ops::Range<usize> {
    match prefix.table {
        0 => 0..cores,
        table => {
            let index = (table - 1) as usize % cores;
            index..index + 1
        }
    }
}

fn failed(error: BuildError) -> DiskError {
    match error {
        BuildError::Disk(error) => error,
        BuildError::NoBuffer => DiskError::no_buffer("buffer a write", None),
    }
}
