//! Scans: every source of a store merged over a range of keys, in either direction.
//!
//! Tables and frozen memtables never change, so a walk holds the ones that were there when it began. The active memtable does
//! change: a few records at a time are copied from it and it is sought anew by key. When it is frozen in between, the walk
//! begins again behind the last key shown, with the sources that are there then; so nothing is missed and nothing
//! comes twice.
//!
//! A vnode that moves to another store freezes what is written to of its old one, so a walk of it comes here, too, and looks its store
//! up again. Until then it goes on with what it holds, which is all that was there when it began.
//!
//! A walk ends with an error where it comes upon a range in which keys may have been lost, whatever was written there since.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::rc::Rc;

use super::read::{is_separated, outside};
use super::scan_source::sources;
use super::{Core, Engine};
use crate::values::Resolved;
use crate::{Direction, Disk, Key, KeyBuf, KeyRange, Merge, Pace, Prefix, ReadError, Record, cover};

/// How much one call shows; what is left is walked by the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanLimits {
    /// Records, at least 1.
    pub records: usize,
    /// Bytes of keys and values, from which the call ends; so one record is shown however long it is.
    pub bytes: usize,
}

impl ScanLimits {
    /// As many records, however long they are.
    pub fn records(records: usize) -> ScanLimits {
        ScanLimits { records, bytes: usize::MAX }
    }
}

/// Records shown between two looks at whether something else waits for the core.
const SHOWN_BETWEEN_YIELDS: usize = 64;

impl<D: Disk, P: Pace> Core<D, P> {
    /// See [`super::Engine::scan`].
    pub(super) async fn scan(
        &self,
        range: &KeyRange,
        direction: Direction,
        limits: ScanLimits,
        mut visit: impl FnMut(Key<'_>, Record<'_>) -> ControlFlow<()>,
    ) -> Result<Option<KeyRange>, ReadError> {
        assert!(limits.records > 0, "a scan of nothing would never end");
        let mut left = range.clone();
        let (mut records, mut bytes) = (0, 0);
        let mut last = LastKey::default();
        while !left.is_empty() {
            // Asked anew: the vnode may have moved meanwhile. One that was dropped has nothing more to show.
            let Some(index) = self.stores.borrow().index_of(&left.low()) else { break };
            let is_stale = Rc::new(Cell::new(false));
            let lost = self.stores.borrow().stores[index].levels.first_lost(&left, direction);
            let readable = match (&lost, direction) {
                (Some(hole), Direction::Forward) => left.before(&hole.area.low.as_key()),
                (Some(hole), Direction::Reverse) => left.from(&hole.area.high.as_key()),
                (None, _) => left.clone(),
            };
            let piece = self.stores.borrow().stores[index].levels.piece(&readable, direction);
            let sources = sources(self, index, &piece, direction, &is_stale);
            let mut merge = Merge::toward(direction, sources, self.options.join);
            loop {
                let more = merge.next().await.inspect_err(|error| self.suspect(error))?;
                if is_stale.get() {
                    cover::mark("scan went on after a freeze");
                    if let Some(key) = last.take() {
                        left = rest(&left, &key.as_key(), direction);
                    }
                    break;
                }
                let current = if more { merge.current() } else { None };
                let Some((key, record)) = current.filter(|(key, _)| piece.contains(key)) else {
                    if piece != readable {
                        left = match direction {
                            Direction::Forward => left.from(&piece.high()),
                            Direction::Reverse => left.before(&piece.low()),
                        };
                        break;
                    }
                    return lost.map_or(Ok(None), |hole| Err(hole.error()));
                };
                let value = match is_separated(&record) {
                    true => {
                        let value = self.value_of(&key, &record).await;
                        Some(value.inspect_err(|error| self.suspect(error))?)
                    }
                    false => None,
                };
                let record = Record { value: value.as_ref().map_or(record.value, Resolved::value), ..record };
                records += 1;
                bytes += key.partition.len() + key.sort.len() + record.value.len();
                let went_on = visit(key, outside(record));
                if went_on.is_break() || records >= limits.records || bytes >= limits.bytes {
                    let left = rest(&left, &key, direction);
                    return Ok((!left.is_empty()).then_some(left));
                }
                last.set(&key);
                if records.is_multiple_of(SHOWN_BETWEEN_YIELDS) && self.pace.should_yield() {
                    self.pace.yield_now().await;
                }
            }
        }
        Ok(None)
    }
}

/// The last key shown, in buffers that are kept.
#[derive(Default)]
struct LastKey {
    prefix: Option<Prefix>,
    partition: Vec<u8>,
    sort: Vec<u8>,
}

impl LastKey {
    fn set(&mut self, key: &Key<'_>) {
        self.prefix = Some(key.prefix);
        self.partition.clear();
        self.partition.extend_from_slice(key.partition);
        self.sort.clear();
        self.sort.extend_from_slice(key.sort);
    }

    fn take(&mut self) -> Option<KeyBuf> {
        let prefix = self.prefix.take()?;
        Some(Key { prefix, partition: &self.partition, sort: &self.sort }.to_buf())
    }
}

/// What is left of a range behind a key, in the direction of the walk.
fn rest(range: &KeyRange, key: &Key<'_>, direction: Direction) -> KeyRange {
    match direction {
        Direction::Forward => range.after(key),
        Direction::Reverse => range.before(key),
    }
}

/// See [`Engine::behind_unreadable`].
pub(super) async fn behind_unreadable<D: Disk, P: Pace>(
    engine: &Engine<D, P>,
    range: &KeyRange,
) -> Option<KeyRange> {
    let (mut failed, end) = (range.low().prefix.to_u128(), range.high().prefix.to_u128());
    let mut step = 1;
    let mut sound = loop {
        let next = failed + step;
        if next >= end {
            break end;
        }
        if is_readable(engine, &range.from(&first_key(next))).await {
            break next;
        }
        failed = next;
        step *= 2;
    };
    while failed + 1 < sound {
        let middle = failed + (sound - failed) / 2;
        match is_readable(engine, &range.from(&first_key(middle))).await {
            true => sound = middle,
            false => failed = middle,
        }
    }
    (sound < end).then(|| range.from(&first_key(sound)))
}

/// Whether the first record of a range can be read, or there is none.
async fn is_readable<D: Disk, P: Pace>(engine: &Engine<D, P>, range: &KeyRange) -> bool {
    let visit = |_: Key<'_>, _: Record<'_>| ControlFlow::Break(());
    engine.scan(range, Direction::Forward, ScanLimits::records(1), visit).await.is_ok()
}

/// The first key that a prefix may have.
fn first_key(prefix: u128) -> Key<'static> {
    Key { prefix: Prefix::from_u128(prefix), partition: b"", sort: b"" }
}
