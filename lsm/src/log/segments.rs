//! Which segment is in which slot, what it holds, and which slot comes next. No I/O.
//!
//! Invariants: ids grow in the order in which segments are opened; of the recyclable slots the one with the lowest id is reused
//! first, so that a header torn while it is rewritten is always older than every segment that still counts.
//!
//! A file in which damage was found is somebody's evidence: nothing is written over it, and it is not removed with others. When its turn
//! comes it is *set aside* instead, under a slot number from [`ASIDE_SLOT_MIN`] on, where no recovery looks; the last [`ASIDE_MAX`] of
//! these stay. Its turn is that of the oldest, as ever: what is younger is not reused before, nor while the oldest is on its way out, for until
//! then a power cut brings it back, and what is younger would be a gap behind it.
//!
//! One that cannot be set aside, or cannot be removed when it was, holds up nothing: it stands where it is, others go by it, and it is tried
//! again when nothing else is to go. The gap behind it is below what its owner needs.

use std::collections::BTreeSet;

/// Slots from here on are names of files that were set aside. No log gets there by counting.
pub const ASIDE_SLOT_MIN: u32 = 1_000_000_000;
/// No log has counted up to here either: a file of a higher slot was put there by somebody, and is not counted on from, for behind it are
/// those that no recovery looks into.
const COUNTED_SLOT_MAX: u32 = ASIDE_SLOT_MIN / 2;
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
    /// To be set aside, under this number.
    Damaged(Recyclable, u32),
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
    /// Slots of the files that were set aside, or are about to be.
    aside: BTreeSet<u32>,
    /// Slots of files, damaged or set aside, that could not go when they were to.
    stuck: BTreeSet<u32>,
    /// What is on its way out: it is not gone before the sync after it, and stays on its way if that is given up half-way.
    leaving: Option<Surplus>,
    /// Slots that have a file, or may have.
    used: BTreeSet<u32>,
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
        // What stood in for it until there was room is not there any more: it was made of that.
        self.live.retain(|other| other.slot != segment.slot);
        self.used.insert(segment.slot);
        self.live.push(segment);
    }

    pub(super) fn recycle(&mut self, slot: Recyclable) {
        self.used.insert(slot.slot);
        self.recyclable.push(slot);
    }

    /// A file is made in this slot.
    pub(super) fn occupy(&mut self, slot: u32) {
        self.used.insert(slot);
    }

    fn new_slot(&mut self) -> u32 {
        let slot = slot_beside(&self.used);
        self.used.insert(slot);
        slot
    }

    /// Has the files of these slots set aside when their turn comes; `aside` are those that were before.
    pub(super) fn keep(&mut self, damaged: BTreeSet<u32>, aside: BTreeSet<u32>) {
        (self.damaged, self.aside) = (damaged, aside);
    }

    /// The slot to use next; `None` in its place = a new one. One with a file goes first: what it needs is there, also on a full disk.
    pub(super) fn take_slot(&mut self) -> (u32, Option<Recyclable>) {
        let waits = self.next_damaged().is_some()
            || matches!(self.leaving, Some(Surplus::Spare(_) | Surplus::Damaged(..)));
        let key = |slot: &Recyclable| (slot.file_bytes == 0, slot.id);
        let is_free =
            |slot: &Recyclable| !self.damaged.contains(&slot.slot) && (!waits || !self.is_ordered(slot));
        let oldest = (0..self.recyclable.len())
            .filter(|at| is_free(&self.recyclable[*at]))
            .min_by_key(|at| key(&self.recyclable[*at]));
        if let Some(at) = oldest {
            let recyclable = self.recyclable.swap_remove(at);
            return (recyclable.slot, Some(recyclable));
        }
        (self.new_slot(), None)
    }

    /// Whether no writes are expected for a while.
    pub(super) fn set_resting(&mut self, resting: bool) {
        self.resting = resting;
    }

    /// Whether a file is to go: more slots wait for reuse than will be needed soon, `prepared` of them, or of new ones, being made ready
    /// already; or it is a damaged one's turn; or too many are set aside.
    pub(super) fn has_surplus(&self, prepared: usize) -> bool {
        self.surplus(prepared).is_some()
    }

    /// What is to go first: it is on its way out from now on, until it [is gone](Segments::is_gone) or [stays](Segments::stays).
    pub(super) fn take_surplus(&mut self, prepared: usize) -> Option<Surplus> {
        let surplus = self.surplus(prepared)?;
        self.leave(surplus);
        Some(surplus)
    }

    /// As [`Segments::take_surplus`], of damaged files and those set aside alone, and whether or not it is their turn.
    pub(super) fn take_evidence(&mut self) -> Option<Surplus> {
        let damaged = || self.recyclable.iter().filter(|slot| self.damaged.contains(&slot.slot));
        let oldest = || Some(self.to_set_aside(*damaged().min_by_key(|slot| slot.id)?));
        let surplus = self.leaving.or_else(|| self.aside_surplus()).or_else(oldest)?;
        self.leave(surplus);
        Some(surplus)
    }

    fn surplus(&self, prepared: usize) -> Option<Surplus> {
        if self.leaving.is_some() {
            return self.leaving;
        }
        let most =
            if self.resting { RECYCLABLE_RESTING_MAX.saturating_sub(prepared) } else { RECYCLABLE_MAX };
        let spares = || self.recyclable.iter().filter(|slot| !self.is_stuck(slot));
        let damaged = || Some(self.to_set_aside(self.recyclable[self.next_damaged()?]));
        // The oldest, so that what is left on disk has no gap.
        let spare = || {
            let oldest = spares().min_by_key(|slot| slot.id).filter(|_| spares().count() > most)?;
            Some(Surplus::Spare(*oldest))
        };
        let stuck = || {
            let stuck = self.recyclable.iter().filter(|slot| self.is_stuck(slot));
            Some(self.to_set_aside(*stuck.min_by_key(|slot| slot.id)?))
        };
        let stuck_aside = || {
            let stuck = self.aside.iter().find(|aside| self.stuck.contains(*aside));
            stuck.filter(|_| self.aside.len() > ASIDE_MAX).map(|aside| Surplus::Aside(*aside))
        };
        self.aside_surplus().or_else(damaged).or_else(spare).or_else(stuck).or_else(stuck_aside)
    }

    /// Of too many that are set aside the oldest. One that cannot go takes none of their places.
    fn aside_surplus(&self) -> Option<Surplus> {
        let mut aside = self.aside.difference(&self.stuck);
        let oldest = aside.next()?;
        (aside.count() >= ASIDE_MAX).then_some(Surplus::Aside(*oldest))
    }

    fn to_set_aside(&self, slot: Recyclable) -> Surplus {
        Surplus::Damaged(slot, self.next_aside())
    }

    /// The number under which the next file is set aside. No file has it: what is there is evidence, too.
    fn next_aside(&self) -> u32 {
        let behind = self.aside.last().map_or(Some(ASIDE_SLOT_MIN), |last| last.checked_add(1));
        behind.unwrap_or_else(|| {
            (ASIDE_SLOT_MIN..).find(|slot| !self.aside.contains(slot)).expect("few files are set aside")
        })
    }

    fn leave(&mut self, surplus: Surplus) {
        self.leaving = Some(surplus);
        if let Surplus::Spare(slot) | Surplus::Damaged(slot, _) = surplus {
            self.recyclable.retain(|other| other.slot != slot.slot);
        }
        if let Surplus::Damaged(_, aside) = surplus {
            self.aside.insert(aside);
        }
    }

    /// What was on its way out is gone for good.
    pub(super) fn is_gone(&mut self) {
        match self.leaving.take().expect("it was on its way out") {
            Surplus::Spare(slot) | Surplus::Damaged(slot, _) => {
                self.damaged.remove(&slot.slot);
                self.stuck.remove(&slot.slot);
                self.used.remove(&slot.slot);
            }
            Surplus::Aside(aside) => {
                self.aside.remove(&aside);
                self.stuck.remove(&aside);
            }
        }
    }

    /// What was on its way out could not go, and is where it was.
    pub(super) fn stays(&mut self) {
        match self.leaving.take().expect("it was on its way out") {
            Surplus::Spare(slot) => self.recyclable.push(slot),
            Surplus::Damaged(slot, aside) => {
                self.aside.remove(&aside);
                self.stuck.insert(slot.slot);
                self.recyclable.push(slot);
            }
            Surplus::Aside(aside) => {
                self.stuck.insert(aside);
            }
        }
    }

    /// The damaged slot whose turn it is: nothing that waits for reuse is older, but what cannot go.
    fn next_damaged(&self) -> Option<usize> {
        let is_damaged = |at: &usize| self.damaged.contains(&self.recyclable[*at].slot);
        let has_turn = |slot: &Recyclable| self.is_ordered(slot) && !self.is_stuck(slot);
        let ordered = (0..self.recyclable.len()).filter(|at| has_turn(&self.recyclable[*at]));
        ordered.min_by_key(|at| (self.recyclable[*at].id, !is_damaged(at))).filter(is_damaged)
    }

    fn is_stuck(&self, slot: &Recyclable) -> bool {
        self.stuck.contains(&slot.slot)
    }

    /// Whether a slot has its turn: not if a recovery finds nothing in it, for then it may go at any time.
    fn is_ordered(&self, slot: &Recyclable) -> bool {
        slot.id != 0 || self.damaged.contains(&slot.slot)
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

/// A slot beside these: behind them, as long as that is one which a log may have counted up to.
pub(super) fn slot_beside(used: &BTreeSet<u32>) -> u32 {
    let behind = used.last().map_or(0, |last| last + 1);
    if behind < COUNTED_SLOT_MAX {
        return behind;
    }
    (0..).find(|slot| !used.contains(slot)).expect("a log has few files")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(id: u64, slot: u32, first: u64, next: u64) -> SegmentInfo {
        SegmentInfo { id, slot, first, next, bytes: 4096, file_bytes: 9 }
    }

    /// Lets the next file go, if one is to.
    fn rid(segments: &mut Segments, prepared: usize) -> Option<Surplus> {
        let surplus = segments.take_surplus(prepared)?;
        segments.is_gone();
        Some(surplus)
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
        assert_eq!(rid(&mut segments, 0), Some(Surplus::Spare(spare(12, 8))), "the oldest");
        assert_eq!(rid(&mut segments, 0), Some(Surplus::Spare(spare(13, 7))));
        assert_eq!(rid(&mut segments, 0), None);
        segments.set_resting(true);
        assert_eq!(rid(&mut segments, 0), Some(Surplus::Spare(spare(14, 6))), "one is enough at rest");
        assert_eq!(rid(&mut segments, 0), Some(Surplus::Spare(spare(15, 5))));
        assert_eq!(rid(&mut segments, 0), None);
        assert_eq!(segments.bytes(), 4096);
        // A slot whose file could not be made.
        segments.recycle(Recyclable { id: 0, slot: 3, file_bytes: 0 });
        assert_eq!(segments.take_slot().0, 4, "a file that is there goes first");
        assert_eq!(segments.take_slot().0, 3);
        segments.recycle(spare(16, 4));
        assert_eq!(rid(&mut segments, 1), Some(Surplus::Spare(spare(16, 4))), "none beside a prepared one");
    }

    fn slot(id: u32) -> Recyclable {
        Recyclable { id: id.into(), slot: id, file_bytes: 9 }
    }

    #[test]
    fn what_is_damaged_is_set_aside_in_its_turn_and_nothing_younger_is_used_before() {
        let mut segments = Segments::default();
        (1..=3).for_each(|id| segments.recycle(slot(id)));
        segments.keep([2].into(), [ASIDE_SLOT_MIN].into());
        assert_eq!(segments.take_surplus(0), None, "an older one is there");
        assert_eq!(segments.take_slot().0, 1);
        assert_eq!(segments.take_slot(), (4, None), "neither the damaged one nor one behind it");
        // What never held a segment has no turn.
        segments.recycle(Recyclable { id: 0, slot: 4, file_bytes: 0 });
        assert_eq!(segments.take_slot().0, 4);
        let aside = ASIDE_SLOT_MIN + 1;
        assert_eq!(segments.take_surplus(0), Some(Surplus::Damaged(slot(2), aside)));
        assert_eq!(segments.take_slot(), (5, None), "it is on its way out, and may come back");
        assert_eq!(
            segments.take_surplus(0),
            Some(Surplus::Damaged(slot(2), aside)),
            "it was given up half-way"
        );
        segments.is_gone();
        assert_eq!((segments.take_surplus(0), segments.take_slot().0), (None, 3));
        let more = [0, 1, 2, 3, 4].map(|more| ASIDE_SLOT_MIN + more);
        segments.keep([].into(), more.into());
        assert_eq!(rid(&mut segments, 0), Some(Surplus::Aside(ASIDE_SLOT_MIN)));
        assert_eq!(rid(&mut segments, 0), None);
        // One whose header is gone, of which nobody knows how old it is.
        segments.keep([7].into(), [].into());
        segments.recycle(Recyclable { id: 0, slot: 7, file_bytes: 0 });
        segments.recycle(slot(5));
        assert_eq!(segments.take_slot(), (8, None));
        assert!(matches!(segments.take_surplus(0), Some(Surplus::Damaged(Recyclable { slot: 7, .. }, _))));
    }

    #[test]
    fn what_cannot_go_holds_up_nothing_and_is_tried_again_when_nothing_else_is_to_go() {
        let mut segments = Segments::default();
        (1..=7).for_each(|id| segments.recycle(slot(id)));
        let aside: BTreeSet<u32> = (0..5).map(|more| ASIDE_SLOT_MIN + more).collect();
        segments.keep([1, 3].into(), aside);
        assert_eq!(segments.take_surplus(0), Some(Surplus::Aside(ASIDE_SLOT_MIN)));
        segments.stays();
        let number = ASIDE_SLOT_MIN + 5;
        assert_eq!(segments.take_surplus(0), Some(Surplus::Damaged(slot(1), number)));
        segments.stays();
        assert_eq!(rid(&mut segments, 0), Some(Surplus::Spare(slot(2))), "others go by it");
        assert_eq!(rid(&mut segments, 0), Some(Surplus::Damaged(slot(3), number)));
        assert_eq!(rid(&mut segments, 0), Some(Surplus::Aside(ASIDE_SLOT_MIN + 1)), "the last four stay");
        assert_eq!(rid(&mut segments, 0), Some(Surplus::Spare(slot(4))));
        assert_eq!(segments.take_surplus(0), Some(Surplus::Damaged(slot(1), number + 1)));
        segments.stays();
        assert_eq!(segments.take_slot().0, 5, "others are reused as ever");
        assert_eq!(rid(&mut segments, 0), Some(Surplus::Damaged(slot(1), number + 1)));
        assert_eq!(rid(&mut segments, 0), Some(Surplus::Aside(ASIDE_SLOT_MIN + 2)));
        assert_eq!(rid(&mut segments, 0), Some(Surplus::Aside(ASIDE_SLOT_MIN)), "it can go now");
        assert_eq!(rid(&mut segments, 0), None);
    }

    /// A file that somebody had put there under the last slot before those that no recovery looks into had the next segment go there.
    #[test]
    fn a_slot_that_no_log_has_counted_up_to_is_not_counted_on_from() {
        for stray in [COUNTED_SLOT_MAX - 1, COUNTED_SLOT_MAX, ASIDE_SLOT_MIN - 1] {
            let mut segments = Segments::default();
            segments.open(segment(1, 1, 1, 11));
            segments.recycle(Recyclable { id: 0, slot: stray, file_bytes: 0 });
            segments.keep([stray].into(), [u32::MAX].into());
            assert_eq!([(); 3].map(|()| segments.take_slot()), [(0, None), (2, None), (3, None)]);
            assert_eq!(segments.next_aside(), ASIDE_SLOT_MIN, "nor is the last number of all");
        }
    }
}
