//! Which segment is in which slot, what it holds, and which slot comes next. No I/O.
//!
//! Invariants: ids grow in the order in which segments are opened; of the recyclable slots the one with the lowest id is reused
//! first, so that a header torn while it is rewritten is always older than every segment that still counts.

/// Most slots kept for reuse. A life begins in a file of its own, so many short lives leave many behind.
const RECYCLABLE_MAX: usize = 3;
/// The same while no writes are expected, where no segment is prepared: what a first burst needs at once.
const RECYCLABLE_RESTING_MAX: usize = 1;

/// A segment of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its id; grows with each segment opened.
    pub id: u64,
    /// Its file.
    pub slot: u32,
    /// First sequence number in it, and the one after the last: equal if it holds no record.
    pub first: u64,
    /// See `first`.
    pub next: u64,
    /// Bytes in use, its header included.
    pub bytes: u64,
    /// Length of its file.
    pub file_bytes: u64,
}

/// A slot whose content does not count any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Recyclable {
    /// The segment that was in it; 0 if none was.
    pub(super) id: u64,
    pub(super) slot: u32,
    /// Length of its file; 0 if it is not known or there may be none.
    pub(super) file_bytes: u64,
}

/// All slots of a log.
#[derive(Clone, Debug, Default)]
pub(super) struct Segments {
    /// Oldest first; the last one is written to.
    live: Vec<SegmentInfo>,
    recyclable: Vec<Recyclable>,
    /// A slot never used before.
    next_slot: u32,
    /// No writes are expected for a while.
    resting: bool,
}

impl Segments {
    pub(super) fn live(&self) -> &[SegmentInfo] {
        &self.live
    }

    pub(super) fn current(&mut self) -> &mut SegmentInfo {
        self.live.last_mut().expect("an open log has a segment")
    }

    pub(super) fn open(&mut self, segment: SegmentInfo) {
        assert!(self.live.last().is_none_or(|last| last.id < segment.id), "segment ids grow");
        self.next_slot = self.next_slot.max(segment.slot + 1);
        self.live.push(segment);
    }

    pub(super) fn recycle(&mut self, slot: Recyclable) {
        self.next_slot = self.next_slot.max(slot.slot + 1);
        self.recyclable.push(slot);
    }

    /// The slot to use next; `None` in its place = a new one. One with a file goes first: what it needs is there, also on a full disk.
    pub(super) fn take_slot(&mut self) -> (u32, Option<Recyclable>) {
        let key = |slot: &Recyclable| (slot.file_bytes == 0, slot.id);
        let oldest = (0..self.recyclable.len()).min_by_key(|at| key(&self.recyclable[*at]));
        if let Some(at) = oldest {
            let recyclable = self.recyclable.swap_remove(at);
            return (recyclable.slot, Some(recyclable));
        }
        let slot = self.next_slot;
        self.next_slot += 1;
        (slot, None)
    }

    /// Whether no writes are expected for a while.
    pub(super) fn set_resting(&mut self, resting: bool) {
        self.resting = resting;
    }

    /// Whether more slots wait for reuse than will be needed soon; `prepared` of them, or of new ones, are made ready already.
    pub(super) fn has_surplus(&self, prepared: usize) -> bool {
        let most =
            if self.resting { RECYCLABLE_RESTING_MAX.saturating_sub(prepared) } else { RECYCLABLE_MAX };
        self.recyclable.len() > most
    }

    /// Takes the oldest slot out if there is a surplus. The oldest, so that what is left on disk has no gap.
    pub(super) fn take_surplus(&mut self, prepared: usize) -> Option<Recyclable> {
        let oldest = (0..self.recyclable.len()).min_by_key(|at| self.recyclable[*at].id)?;
        self.has_surplus(prepared).then(|| self.recyclable.swap_remove(oldest))
    }

    /// Segments wholly below `seq` become recyclable, the current one never.
    pub(super) fn retire_below(&mut self, seq: u64) {
        let kept = self.live.len().saturating_sub(1);
        let retired = self.live[..kept].iter().take_while(|segment| segment.next <= seq).count();
        for segment in self.live.drain(..retired) {
            let SegmentInfo { id, slot, file_bytes, .. } = segment;
            self.recyclable.push(Recyclable { id, slot, file_bytes });
        }
    }

    /// Bytes in use by segments that count.
    pub(super) fn bytes(&self) -> u64 {
        self.live.iter().map(|segment| segment.bytes).sum()
    }

    /// Bytes of all segments' files, recyclable ones included.
    pub(super) fn file_bytes(&self) -> u64 {
        let live: u64 = self.live.iter().map(|segment| segment.file_bytes).sum();
        live + self.recyclable.iter().map(|slot| slot.file_bytes).sum::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(id: u64, slot: u32, first: u64, next: u64) -> SegmentInfo {
        SegmentInfo { id, slot, first, next, bytes: 4096, file_bytes: 9 }
    }

    #[test]
    fn retires_from_the_old_end_and_reuses_the_oldest_first() {
        let mut segments = Segments::default();
        segments.open(segment(1, 0, 1, 11));
        segments.open(segment(2, 1, 11, 21));
        segments.open(segment(3, 2, 21, 31));
        segments.retire_below(11);
        assert_eq!(segments.live().iter().map(|s| s.id).collect::<Vec<_>>(), [2, 3]);
        segments.retire_below(100);
        assert_eq!(segments.live().iter().map(|s| s.id).collect::<Vec<_>>(), [3], "never the current one");
        assert_eq!(segments.take_slot(), (0, Some(Recyclable { id: 1, slot: 0, file_bytes: 9 })));
        assert_eq!(segments.take_slot(), (1, Some(Recyclable { id: 2, slot: 1, file_bytes: 9 })));
        assert_eq!(segments.take_slot(), (3, None));
        assert!(!segments.has_surplus(0));
        (4..9)
            .for_each(|slot| segments.recycle(Recyclable { id: 20 - u64::from(slot), slot, file_bytes: 9 }));
        assert_eq!(segments.take_surplus(0).map(|slot| slot.id), Some(12), "the oldest");
        assert_eq!(segments.take_surplus(0).map(|slot| slot.id), Some(13));
        assert_eq!(segments.take_surplus(0), None);
        segments.set_resting(true);
        assert_eq!(segments.take_surplus(0).map(|slot| slot.id), Some(14), "one is enough at rest");
        assert_eq!(segments.take_surplus(0).map(|slot| slot.id), Some(15));
        assert_eq!(segments.take_surplus(0), None);
        assert_eq!(segments.bytes(), 4096);
        // A slot whose file could not be made.
        segments.recycle(Recyclable { id: 0, slot: 3, file_bytes: 0 });
        assert_eq!(segments.take_slot().0, 4, "a file that is there goes first");
        assert_eq!(segments.take_slot().0, 3);
        segments.recycle(Recyclable { id: 16, slot: 4, file_bytes: 9 });
        assert_eq!(segments.take_surplus(1).map(|slot| slot.id), Some(16), "none beside a prepared one");
    }
}
