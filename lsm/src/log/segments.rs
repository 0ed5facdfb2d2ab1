//! Which segment is in which slot, what it holds, and which slot comes next. No I/O.
//!
//! Invariants: ids grow in the order in which segments are opened; of the recyclable slots the one with the lowest id is reused
//! first, so that a header torn while it is rewritten is always older than every segment that still counts.
//!
//! A file in which damage was found is somebody's evidence: nothing is written over it, and it is not removed with others. When its turn
//! comes it is *set aside* instead, under a slot number from [`ASIDE_SLOT_MIN`] on, where no recovery looks; the last [`ASIDE_MAX`] of
//! these stay. Its turn is that of the oldest, as ever: what is younger is not reused before.

use std::collections::BTreeSet;

/// Slots from here on are names of files that were set aside. No log gets there by counting.
pub const ASIDE_SLOT_MIN: u32 = 1_000_000_000;
/// Files of a core that stay set aside; of more, the oldest are removed.
pub const ASIDE_MAX: usize = 4;
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

/// A file that is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Surplus {
    /// To be removed.
    Spare(Recyclable),
    /// To be set aside.
    Damaged(Recyclable),
    /// Set aside under this number, to be removed.
    Aside(u32),
}

/// All slots of a log.
#[derive(Clone, Debug, Default)]
pub(super) struct Segments {
    /// Oldest first; the last one is written to.
    live: Vec<SegmentInfo>,
    recyclable: Vec<Recyclable>,
    /// Slots whose files were found damaged.
    damaged: BTreeSet<u32>,
    /// Slots of the files that were set aside.
    aside: BTreeSet<u32>,
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

    /// Has the files of these slots set aside when their turn comes; `aside` are those that were before.
    pub(super) fn keep(&mut self, damaged: BTreeSet<u32>, aside: BTreeSet<u32>) {
        (self.damaged, self.aside) = (damaged, aside);
    }

    /// The slot to use next; `None` in its place = a new one. One with a file goes first: what it needs is there, also on a full disk.
    pub(super) fn take_slot(&mut self) -> (u32, Option<Recyclable>) {
        let waits = self.next_damaged().is_some();
        let key = |slot: &Recyclable| (slot.file_bytes == 0, slot.id);
        let oldest = (0..self.recyclable.len())
            .filter(|&at| !waits || !self.is_ordered(&self.recyclable[at]))
            .min_by_key(|at| key(&self.recyclable[*at]));
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

    /// Whether a file is to go: more slots wait for reuse than will be needed soon, `prepared` of them, or of new ones, being made ready
    /// already; or it is a damaged one's turn; or too many are set aside.
    pub(super) fn has_surplus(&self, prepared: usize) -> bool {
        let most =
            if self.resting { RECYCLABLE_RESTING_MAX.saturating_sub(prepared) } else { RECYCLABLE_MAX };
        self.recyclable.len() > most || self.next_damaged().is_some() || self.aside.len() > ASIDE_MAX
    }

    /// Takes out what is to go first. Of slots the oldest, so that what is left on disk has no gap.
    pub(super) fn take_surplus(&mut self, prepared: usize) -> Option<Surplus> {
        if !self.has_surplus(prepared) {
            return None;
        }
        if self.aside.len() > ASIDE_MAX {
            return self.aside.pop_first().map(Surplus::Aside);
        }
        if let Some(at) = self.next_damaged() {
            return Some(Surplus::Damaged(self.recyclable.swap_remove(at)));
        }
        let oldest = (0..self.recyclable.len()).min_by_key(|at| self.recyclable[*at].id)?;
        Some(Surplus::Spare(self.recyclable.swap_remove(oldest)))
    }

    /// What could not go is taken out again the next time.
    pub(super) fn put_back(&mut self, surplus: Surplus) {
        match surplus {
            Surplus::Spare(slot) | Surplus::Damaged(slot) => self.recycle(slot),
            Surplus::Aside(aside) => self.set_aside(aside),
        }
    }

    /// The damaged slot whose turn it is: nothing that waits for reuse is older.
    fn next_damaged(&self) -> Option<usize> {
        let ordered = (0..self.recyclable.len()).filter(|&at| self.is_ordered(&self.recyclable[at]));
        let is_damaged = |at: &usize| self.damaged.contains(&self.recyclable[*at].slot);
        ordered.min_by_key(|at| (self.recyclable[*at].id, !is_damaged(at))).filter(is_damaged)
    }

    /// Whether a slot has its turn: not if a recovery finds nothing in it, for then it may go at any time.
    fn is_ordered(&self, slot: &Recyclable) -> bool {
        slot.id != 0 || self.damaged.contains(&slot.slot)
    }

    /// The number under which the next file is set aside.
    pub(super) fn next_aside(&self) -> u32 {
        self.aside.last().map_or(ASIDE_SLOT_MIN, |last| last.saturating_add(1))
    }

    /// A file is set aside under this number.
    pub(super) fn set_aside(&mut self, aside: u32) {
        self.aside.insert(aside);
    }

    /// No file in which damage was found stands in this slot any more.
    pub(super) fn is_rid(&mut self, slot: u32) {
        self.damaged.remove(&slot);
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

    /// Bytes of all segments' files, recyclable ones included, and those that are set aside not.
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
        let spare = |id, slot| Recyclable { id, slot, file_bytes: 9 };
        (4..9).for_each(|slot| segments.recycle(spare(20 - u64::from(slot), slot)));
        assert_eq!(segments.take_surplus(0), Some(Surplus::Spare(spare(12, 8))), "the oldest");
        assert_eq!(segments.take_surplus(0), Some(Surplus::Spare(spare(13, 7))));
        assert_eq!(segments.take_surplus(0), None);
        segments.set_resting(true);
        assert_eq!(segments.take_surplus(0), Some(Surplus::Spare(spare(14, 6))), "one is enough at rest");
        assert_eq!(segments.take_surplus(0), Some(Surplus::Spare(spare(15, 5))));
        assert_eq!(segments.take_surplus(0), None);
        assert_eq!(segments.bytes(), 4096);
        // A slot whose file could not be made.
        segments.recycle(Recyclable { id: 0, slot: 3, file_bytes: 0 });
        assert_eq!(segments.take_slot().0, 4, "a file that is there goes first");
        assert_eq!(segments.take_slot().0, 3);
        segments.recycle(spare(16, 4));
        assert_eq!(
            segments.take_surplus(1),
            Some(Surplus::Spare(spare(16, 4))),
            "none beside a prepared one"
        );
    }

    #[test]
    fn what_is_damaged_is_set_aside_in_its_turn_and_nothing_younger_is_used_before() {
        let mut segments = Segments::default();
        let slot = |id: u32| Recyclable { id: id.into(), slot: id, file_bytes: 9 };
        (1..=3).for_each(|id| segments.recycle(slot(id)));
        segments.keep([2].into(), [ASIDE_SLOT_MIN].into());
        assert_eq!(segments.take_surplus(0), None, "an older one is there");
        assert_eq!(segments.take_slot().0, 1);
        assert_eq!(segments.take_slot(), (4, None), "neither the damaged one nor one behind it");
        // What never held a segment has no turn.
        segments.recycle(Recyclable { id: 0, slot: 4, file_bytes: 0 });
        assert_eq!(segments.take_slot().0, 4);
        assert_eq!(segments.take_surplus(0), Some(Surplus::Damaged(slot(2))));
        segments.put_back(Surplus::Damaged(slot(2)));
        assert_eq!(segments.take_surplus(0), Some(Surplus::Damaged(slot(2))), "it failed");
        let aside = segments.next_aside();
        assert_eq!(aside, ASIDE_SLOT_MIN + 1);
        segments.set_aside(aside);
        segments.is_rid(2);
        assert_eq!((segments.take_surplus(0), segments.take_slot().0), (None, 3));
        (0..3).for_each(|more| segments.set_aside(aside + 1 + more));
        assert_eq!(segments.take_surplus(0), Some(Surplus::Aside(ASIDE_SLOT_MIN)));
        assert_eq!(segments.take_surplus(0), None);
        // One whose header is gone, of which nobody knows how old it is.
        segments.keep([7].into(), [].into());
        segments.recycle(Recyclable { id: 0, slot: 7, file_bytes: 0 });
        segments.recycle(slot(5));
        assert_eq!(segments.take_slot(), (8, None));
        assert!(matches!(segments.take_surplus(0), Some(Surplus::Damaged(Recyclable { slot: 7, .. }))));
    }
}
