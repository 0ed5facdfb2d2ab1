//! Merges sources in key order into one record per key.
//!
//! Sources are given newest first. Where several hold a key, a [`Join`] decides what stays: under last-write-wins the record
//! with the highest (order, actor), and between equal ones the newest source's. Tombstones are records like others. Nothing
//! is dropped here; what may be is the caller's decision, per record that comes out.

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

/// See the module.
pub struct Merge<S: Source, J: Join> {
    sources: Vec<S>,
    join: J,
    /// Prefix that each source stands on; `None` at its end.
    prefixes: Vec<Option<u128>>,
    /// Sources that stand on the current key, newest first.
    same: Vec<usize>,
    winner: Winner,
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
        let prefixes = vec![None; sources.len()];
        Merge {
            sources,
            join,
            prefixes,
            same: Vec::new(),
            winner: Winner::Joined,
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
            let ready = self.prefixes[at].is_some() && self.sources[at].advance();
            self.prefixes[at] = None;
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
        match self.winner {
            Winner::Source(at) if at == first => Some((key, record)),
            Winner::Source(at) => Some((key, self.sources[at].current()?.1)),
            Winner::Joined => Some((key, self.joined.as_record())),
        }
    }

    /// Whether more than one source held the current key.
    pub fn is_contested(&self) -> bool {
        self.same.len() > 1
    }

    async fn settle(&mut self, at: usize, ready: bool) -> Result<(), ReadError> {
        if !ready {
            self.sources[at].fill().await?;
        }
        self.prefixes[at] = self.sources[at].current().map(|(key, _)| key.prefix.to_u128());
        Ok(())
    }

    /// Finds the smallest key, who holds it, and who wins. Sources are few: a scan over integers beats a heap.
    #[inline]
    fn choose(&mut self) -> bool {
        self.same.clear();
        // No prefix is this large: prefixes have 120 bits.
        let mut least = u128::MAX;
        for (at, prefix) in self.prefixes.iter().enumerate() {
            let Some(prefix) = *prefix else { continue };
            if prefix > least {
                continue;
            }
            if prefix == least {
                let first = self.sources[self.same[0]].current().map(|(key, _)| key);
                let here = self.sources[at].current().map(|(key, _)| key);
                match here.cmp(&first) {
                    Ordering::Less => self.same.clear(),
                    Ordering::Equal => {}
                    Ordering::Greater => continue,
                }
            } else {
                self.same.clear();
            }
            least = prefix;
            self.same.push(at);
        }
        let Some(&first) = self.same.first() else { return false };
        self.winner = Winner::Source(first);
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
