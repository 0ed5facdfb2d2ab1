//! Merges sources in key order, or against it, into one record per key.
//!
//! Sources are given newest first. Where several hold a key, a [`Join`] decides what stays: under last-write-wins the record
//! with the highest (order, actor), and between equal ones the newest source's. Tombstones are records like others. Nothing
//! is dropped here; what may be is the caller's decision, per record that comes out.
//!
//! What comes out of a key is marked [`RecordFlags::DOMINATES`] if any of its records is. That is sound where the sources are
//! neighbours, and the result takes their place: behind the marked record there were only lower orders than its own, which is not
//! above the winner's; and what is behind the result was behind that record, too. Sibling sets are never marked.

use std::cmp::Ordering;
use std::future::Future;

use crate::{Disk, Key, MemCursor, ReadError, Record, RecordFlags, TableCursor};

/// Records in key order. What needs no I/O is synchronous.
pub trait Source {
    /// What it stands on; `None` at the end, and where [`Source::fill`] is needed.
    fn current(&self) -> Option<(Key<'_>, Record<'_>)>;
    /// Goes to the next record. False: call [`Source::fill`] before [`Source::current`].
    fn advance(&mut self) -> bool;
    /// Gets what comes next into memory, if it is not there and anything comes. After an error nothing has moved, and
    /// it may be called again.
    fn fill(&mut self) -> impl Future<Output = Result<(), ReadError>>;
    /// Whether what it stands on is read often: the block that it is in was in use in the cache.
    fn is_in_use(&self) -> bool {
        false
    }
}

impl Source for MemCursor {
    #[inline]
    fn current(&self) -> Option<(Key<'_>, Record<'_>)> {
        MemCursor::current(self)
    }

    #[inline]
    fn advance(&mut self) -> bool {
        MemCursor::advance(self);
        true
    }

    async fn fill(&mut self) -> Result<(), ReadError> {
        Ok(())
    }
}

/// A source of either kind.
pub enum AnySource<D: Disk> {
    /// A frozen memtable.
    Memory(MemCursor),
    /// A table.
    Table(TableCursor<D>),
}

impl<D: Disk> Source for AnySource<D> {
    #[inline]
    fn current(&self) -> Option<(Key<'_>, Record<'_>)> {
        match self {
            AnySource::Memory(cursor) => cursor.current(),
            AnySource::Table(cursor) => cursor.current(),
        }
    }

    #[inline]
    fn advance(&mut self) -> bool {
        match self {
            AnySource::Memory(cursor) => Source::advance(cursor),
            AnySource::Table(cursor) => cursor.advance(),
        }
    }

    async fn fill(&mut self) -> Result<(), ReadError> {
        match self {
            AnySource::Memory(cursor) => cursor.fill().await,
            AnySource::Table(cursor) => cursor.fill().await,
        }
    }
}

/// Which way a walk goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// In key order.
    Forward,
    /// Against key order.
    Reverse,
}

/// What a [`Join`] makes of two records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joined {
    /// The first as it is.
    Left,
    /// The second as it is.
    Right,
    /// What was put into the buffer.
    Both,
}

/// A record that owns its value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordBuf {
    /// As in [`Record`].
    pub order: u64,
    /// As in [`Record`].
    pub actor: u64,
    /// As in [`Record`].
    pub flags: RecordFlags,
    /// As in [`Record`].
    pub expiry_ms: u64,
    /// As in [`Record`].
    pub value: Vec<u8>,
}

impl RecordBuf {
    /// The record, borrowed.
    pub fn as_record(&self) -> Record<'_> {
        Record {
            order: self.order,
            actor: self.actor,
            flags: self.flags,
            expiry_ms: self.expiry_ms,
            value: &self.value,
        }
    }
}

/// Decides what stays of two records of a key. Commutative but for ties, associative, idempotent.
pub trait Join {
    /// `left` comes from the newer source. `out` is scratch, and the result where the answer is [`Joined::Both`].
    fn join(&mut self, key: &Key<'_>, left: &Record<'_>, right: &Record<'_>, out: &mut RecordBuf) -> Joined;
}

/// The record with the higher (order, actor).
#[derive(Clone, Copy, Debug, Default)]
pub struct LastWriteWins;

impl Join for LastWriteWins {
    #[inline]
    fn join(&mut self, _: &Key<'_>, left: &Record<'_>, right: &Record<'_>, _: &mut RecordBuf) -> Joined {
        if right.beats(left) { Joined::Right } else { Joined::Left }
    }
}

/// Makes one sibling set of two of a key, a pure function: commutative, associative, idempotent. The order of what it makes is the higher
/// of the two orders.
pub type JoinSiblings = fn(&Key<'_>, &Record<'_>, &Record<'_>, &mut RecordBuf) -> Joined;

/// The engine's join: sibling sets ([`RecordFlags::SIBLINGS`]) by a function that it is given, all else by last write wins. The
/// records of a key are either all sibling sets or none is.
#[derive(Clone, Copy, Debug)]
pub struct JoinByFlag(pub JoinSiblings);

impl JoinByFlag {
    /// Whether `record` joins instead of replacing and being replaced.
    #[inline]
    pub(crate) fn joins(record: &Record<'_>) -> bool {
        record.flags.0 & RecordFlags::SIBLINGS != 0
    }
}

impl Default for JoinByFlag {
    /// Sibling sets replace each other, too.
    fn default() -> Self {
        JoinByFlag(|key, left, right, out| LastWriteWins.join(key, left, right, out))
    }
}

impl Join for JoinByFlag {
    #[inline]
    fn join(&mut self, key: &Key<'_>, left: &Record<'_>, right: &Record<'_>, out: &mut RecordBuf) -> Joined {
        if JoinByFlag::joins(left) || JoinByFlag::joins(right) {
            let joined = (self.0)(key, left, right, out);
            if joined == Joined::Both {
                out.flags = RecordFlags(out.flags.0 & RecordFlags::OUTSIDE | RecordFlags::SIBLINGS);
            }
            return joined;
        }
        LastWriteWins.join(key, left, right, out)
    }
}

/// See the module.
pub struct Merge<S: Source, J: Join> {
    sources: Vec<S>,
    join: J,
    direction: Direction,
    /// Rank of the prefix that each source stands on, see [`rank`]; `None` at its end.
    ranks: Vec<Option<u128>>,
    /// Sources that stand on the current key, newest first.
    same: Vec<usize>,
    winner: Winner,
    /// The mark of any record of the current key.
    mark: u8,
    joined: RecordBuf,
    scratch: RecordBuf,
    started: bool,
}

#[derive(Clone, Copy)]
enum Winner {
    Source(usize),
    Joined,
}

impl<S: Source, J: Join> Merge<S, J> {
    /// Merges `sources`, newest first. It stands before the first key until [`Merge::next`].
    pub fn new(sources: Vec<S>, join: J) -> Merge<S, J> {
        Merge::toward(Direction::Forward, sources, join)
    }

    /// As [`Merge::new`], of sources that all walk in `direction`.
    pub fn toward(direction: Direction, sources: Vec<S>, join: J) -> Merge<S, J> {
        let ranks = vec![None; sources.len()];
        Merge {
            sources,
            join,
            direction,
            ranks,
            same: Vec::new(),
            winner: Winner::Joined,
            mark: 0,
            joined: RecordBuf::default(),
            scratch: RecordBuf::default(),
            started: false,
        }
    }

    /// Goes to the next key; false at the end. After an error nothing is lost: call it again, or give up.
    pub async fn next(&mut self) -> Result<bool, ReadError> {
        if !self.started {
            for at in 0..self.sources.len() {
                self.settle(at, false).await?;
            }
            self.started = true;
        }
        // A source leaves the list only once it stands on its next key, so a failed fill is tried again.
        while let Some(&at) = self.same.last() {
            let ready = self.ranks[at].is_some() && self.sources[at].advance();
            self.ranks[at] = None;
            self.settle(at, ready).await?;
            self.same.pop();
        }
        Ok(self.choose())
    }

    /// The key and the record it has after the merge; `None` before the first [`Merge::next`] and at the end.
    #[inline]
    pub fn current(&self) -> Option<(Key<'_>, Record<'_>)> {
        let first = *self.same.first()?;
        let (key, record) = self.sources[first].current()?;
        let record = match self.winner {
            Winner::Source(at) if at == first => record,
            Winner::Source(at) => self.sources[at].current()?.1,
            Winner::Joined => self.joined.as_record(),
        };
        Some((key, Record { flags: RecordFlags(record.flags.0 | self.mark), ..record }))
    }

    /// Whether any source has the current key in use, see [`Source::is_in_use`].
    pub fn is_in_use(&self) -> bool {
        self.same.iter().any(|&at| self.sources[at].is_in_use())
    }

    /// Sources that hold the current key.
    pub fn width(&self) -> usize {
        self.same.len()
    }

    async fn settle(&mut self, at: usize, ready: bool) -> Result<(), ReadError> {
        if !ready {
            self.sources[at].fill().await?;
        }
        let prefix = self.sources[at].current().map(|(key, _)| key.prefix.to_u128());
        self.ranks[at] = prefix.map(|prefix| rank(prefix, self.direction));
        Ok(())
    }

    /// Finds the key that comes first, who holds it, and who wins. Sources are few: a scan over integers beats a heap.
    #[inline]
    fn choose(&mut self) -> bool {
        self.same.clear();
        // No rank is this large: prefixes have 120 bits.
        let mut least = u128::MAX;
        for (at, rank) in self.ranks.iter().enumerate() {
            let Some(rank) = *rank else { continue };
            if rank > least {
                continue;
            }
            if rank == least {
                let first = self.sources[self.same[0]].current().map(|(key, _)| key);
                let here = self.sources[at].current().map(|(key, _)| key);
                let order = here.cmp(&first);
                match if self.direction == Direction::Forward { order } else { order.reverse() } {
                    Ordering::Less => self.same.clear(),
                    Ordering::Equal => {}
                    Ordering::Greater => continue,
                }
            } else {
                self.same.clear();
            }
            least = rank;
            self.same.push(at);
        }
        let Some(&first) = self.same.first() else { return false };
        self.winner = Winner::Source(first);
        self.mark = 0;
        for &at in &self.same[1..] {
            let (Some((key, right)), Some((_, source))) =
                (self.sources[at].current(), self.sources[first].current())
            else {
                unreachable!("both stand on the current key")
            };
            let left = match self.winner {
                Winner::Source(winner) if winner == first => source,
                Winner::Source(winner) => {
                    self.sources[winner].current().expect("it stands on the current key").1
                }
                Winner::Joined => self.joined.as_record(),
            };
            self.mark |= (source.flags.0 | right.flags.0) & RecordFlags::DOMINATES;
            match self.join.join(&key, &left, &right, &mut self.scratch) {
                Joined::Left => {}
                Joined::Right => self.winner = Winner::Source(at),
                Joined::Both => {
                    std::mem::swap(&mut self.joined, &mut self.scratch);
                    self.winner = Winner::Joined;
                }
            }
        }
        true
    }
}

/// Prefixes as integers of which the smallest comes first.
#[inline]
fn rank(prefix: u128, direction: Direction) -> u128 {
    match direction {
        Direction::Forward => prefix,
        Direction::Reverse => (u128::MAX >> 1) - prefix,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::rc::Rc;

    use proptest::prelude::*;

    use super::*;
    use crate::mem_disk::{MemDisk, ReadFault, run::block_on};
    use crate::{
        Class, Directory, FileId, KeyBuf, Memtable, NameOp, Prefix, Table, TableBuilder, TableName,
        TableOptions,
    };

    type Model = BTreeMap<KeyBuf, RecordBuf>;

    fn key(bits: u16) -> KeyBuf {
        let prefix = Prefix { space: 1, vnode: bits >> 8 & 3, table: 1, token: u64::from(bits & 15) };
        KeyBuf {
            prefix,
            partition: vec![b'p'; usize::from(bits >> 4 & 3)].into(),
            sort: vec![b's'; usize::from(bits >> 6 & 3)].into(),
        }
    }

    async fn source(disk: &MemDisk, number: u64, records: &Model, is_table: bool) -> AnySource<MemDisk> {
        let mut memtable = Memtable::new();
        for (key, record) in records {
            memtable.insert(key.as_key(), record.as_record());
        }
        if !is_table || records.is_empty() {
            return AnySource::Memory(MemCursor::new(Rc::new(memtable), None));
        }
        let (name, options) =
            (TableName { store: 0, number }, TableOptions { block_bytes: 512, ..TableOptions::default() });
        disk.names(NameOp::CreateDirectory(Directory::Store(0))).await.unwrap();
        let mut builder =
            TableBuilder::create(disk.clone(), name, FileId(1), options, Class::Flush).await.unwrap();
        memtable.iter().for_each(|(key, record)| builder.add(key, record));
        let meta = builder.finish(0).await.unwrap();
        let table = Table::open(disk.clone(), name, meta.bytes, None, Class::Read).await.unwrap();
        AnySource::Table(TableCursor::streaming(table, Class::Background, None))
    }

    /// Keeps both values, in order; how sibling sets will join.
    struct Concatenate;

    impl Join for Concatenate {
        fn join(
            &mut self,
            _: &Key<'_>,
            left: &Record<'_>,
            right: &Record<'_>,
            out: &mut RecordBuf,
        ) -> Joined {
            out.order = left.order.max(right.order);
            out.value.clear();
            out.value.extend_from_slice(left.value);
            out.value.extend_from_slice(right.value);
            Joined::Both
        }
    }

    async fn collect<J: Join>(sources: Vec<AnySource<MemDisk>>, join: J) -> Vec<(KeyBuf, u64, u64, Vec<u8>)> {
        let mut merge = Merge::new(sources, join);
        assert!(merge.current().is_none());
        let mut found = Vec::new();
        while merge.next().await.unwrap() {
            let (key, record) = merge.current().unwrap();
            found.push((key.to_buf(), record.order, record.actor, record.value.to_vec()));
        }
        assert!(merge.current().is_none());
        assert!(!merge.next().await.unwrap());
        found
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn agrees_with_a_map(parts in prop::collection::vec((prop::collection::btree_map(0u16..1024, (0u64..6, 0u64..3), 0..120), any::<bool>()), 0..6)) {
            let parts: Vec<(Model, bool)> = parts.into_iter().enumerate().map(|(source, (records, is_table))| {
                // Which source a record is from shows in its value: of equal ones the newest source's must come out.
                let record = |(order, actor)| RecordBuf { order, actor, value: vec![source as u8], ..RecordBuf::default() };
                let records: Model = records.into_iter().map(|(bits, version)| (key(bits), record(version))).collect();
                (records, is_table)
            }).collect();
            let (mut last_write, mut concatenated): (Model, Model) = Default::default();
            for (records, _) in &parts {
                for (key, record) in records {
                    let slot = last_write.entry(key.clone()).or_insert_with(|| record.clone());
                    if record.as_record().beats(&slot.as_record()) {
                        *slot = record.clone();
                    }
                    let slot = concatenated.entry(key.clone()).or_default();
                    slot.order = slot.order.max(record.order);
                    slot.value.extend(&record.value);
                }
            }
            let disk = MemDisk::new();
            block_on(async {
                let mut sources = [Vec::new(), Vec::new()];
                for (copy, sources) in sources.iter_mut().enumerate() {
                    for (number, (records, is_table)) in parts.iter().enumerate() {
                        sources.push(source(&disk, (copy * 10 + number) as u64, records, *is_table).await);
                    }
                }
                let [first, second] = sources;
                let expected: Vec<_> = last_write.into_iter().map(|(key, record)| (key, record.order, record.actor, record.value)).collect();
                assert_eq!(collect(first, LastWriteWins).await, expected);
                let found = collect(second, Concatenate).await;
                let found: Vec<_> = found.into_iter().map(|(key, _, _, value)| (key, value)).collect();
                let expected: Vec<_> = concatenated.into_iter().map(|(key, record)| (key, record.value)).collect();
                assert_eq!(found, expected);
            });
        }
    }

    #[test]
    fn a_failed_read_loses_nothing() {
        let disk = MemDisk::new();
        let model = |from: u16| -> Model {
            (0..300)
                .map(|n| {
                    (
                        key(n * 3 + from),
                        RecordBuf { order: u64::from(n), value: vec![1; 60], ..RecordBuf::default() },
                    )
                })
                .collect()
        };
        let (left, right) = (model(0), model(1));
        let mut all = left.clone();
        all.extend(right.clone());
        block_on(async {
            let sources = vec![source(&disk, 1, &left, true).await, source(&disk, 2, &right, true).await];
            let mut merge = Merge::new(sources, LastWriteWins);
            let mut found = Vec::new();
            let mut failures = 0;
            loop {
                if failures < 5 {
                    disk.fail_read_at(0, ReadFault::Io);
                }
                match merge.next().await {
                    Ok(true) => found.push(merge.current().unwrap().0.to_buf()),
                    Ok(false) => break,
                    Err(ReadError::Disk(_)) => failures += 1,
                    Err(other) => panic!("{other}"),
                }
            }
            assert!(failures > 0);
            assert_eq!(found, all.into_keys().collect::<Vec<_>>());
        });
    }
}
