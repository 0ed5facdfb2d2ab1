//! What the one writer of a record knows of it, and what may therefore be read.
//!
//! One thread writes a record, one write at a time, and reads it in between, at QUORUM. The *floor* is the last write that is promised: it
//! was acknowledged by replicas, or a read has seen it, after which a majority holds it. What a read may find:
//!
//! | found | verdict |
//! |---|---|
//! | a value that no write to this record sent, or of one that was not applied | wrong |
//! | a value whose time was over before the read began | expired |
//! | the floor's value, or a later one | fine; it is the floor from now on |
//! | an older value of unknown outcome | fine: it may take effect late |
//! | another older value, with a delete after it up to the floor | deleted: it came back |
//! | another older value | stale |
//! | nothing, though no delete and no expired value from the floor on accounts for it, nor one of unknown outcome | lost |
//!
//! What others only stand in for is promised once they have delivered it ([`Memory::delivered`]); until then a read may miss it.
//!
//! Values expire by the clocks of nodes, which differ: each write and each read say by how much at most.

use std::time::{Duration, Instant};

use ferrite_client::Version;

/// Writes of a record that are remembered; after that another record takes its place.
pub(crate) const WRITES_MAX: usize = 4_096;
/// Writes of unknown outcome: each widens what may be read.
pub(crate) const UNKNOWN_MAX: usize = 64;

/// What a write does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Writes a value.
    Put,
    /// Writes a value that expires after this time.
    Expiring(Duration),
    /// Deletes.
    Delete,
}

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Not yet.
    UnderWay,
    /// Replicas acknowledged it, enough for its level.
    Acknowledged,
    /// Others acknowledged it in the place of replicas.
    StoodIn,
    /// It has no effect.
    NotApplied,
    /// Nobody can tell.
    Unknown,
}

/// A time, and by how much the clocks of nodes may differ from it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// When.
    pub(crate) at: Instant,
    /// Clocks that decide are off by so much at most.
    pub(crate) drift: Duration,
}

/// What a read must not have found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// Bytes that should not exist.
    Bytes,
    /// A value of a write that was said not to be applied.
    NotApplied,
    /// A value whose time was over.
    Expired,
    /// A value that was deleted.
    Deleted,
    /// A value that was overwritten.
    Stale,
    /// Nothing, although there is something.
    Lost,
}

#[derive(Clone, Copy, Debug)]
struct Write {
    what: What,
    fate: Fate,
    begun: Moment,
    /// When the outcome was known.
    ended: Instant,
}

impl Write {
    /// Whether its value may be gone by the time a read ends.
    fn may_have_expired(&self, read: Moment) -> bool {
        let What::Expiring(ttl) = self.what else { return false };
        read.at + read.drift + self.begun.drift >= self.begun.at + ttl
    }

    /// Whether its value is gone for certain by the time a read begins. One of unknown outcome may begin to live at any time.
    fn has_expired(&self, read: Moment) -> bool {
        let What::Expiring(ttl) = self.what else { return false };
        self.fate != Fate::Unknown && read.at > self.ended + ttl + self.begun.drift + read.drift
    }
}

/// The memory of one record. Writes are counted from 1.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    writes: Vec<Write>,
    floor: usize,
    unknown: usize,
    newest: Option<Version>,
}

impl Memory {
    /// Whether nothing more can be learned from this record.
    pub(crate) fn is_full(&self) -> bool {
        self.writes.len() >= WRITES_MAX || self.unknown >= UNKNOWN_MAX
    }

    /// The last write that is promised; 0 = none.
    pub(crate) fn floor(&self) -> usize {
        self.floor
    }

    /// A write is about to be sent: its number.
    pub(crate) fn begin(&mut self, what: What, begun: Moment) -> u32 {
        assert!(!self.is_full(), "a record that is full is given up");
        let is_free = self.writes.last().is_none_or(|write| write.fate != Fate::UnderWay);
        assert!(is_free, "one write of a record is under way at a time");
        self.writes.push(Write { what, fate: Fate::UnderWay, begun, ended: begun.at });
        self.writes.len() as u32
    }

    /// The last write has ended. What the version it was given is not above, if that is wrong: earlier versions of one writer are lower.
    pub(crate) fn end(&mut self, fate: Fate, version: Option<Version>, at: Instant) -> Option<Version> {
        let write = self.writes.last_mut().expect("a write was begun");
        (write.fate, write.ended) = (fate, at);
        match fate {
            Fate::Acknowledged => self.floor = self.writes.len(),
            Fate::Unknown => self.unknown += 1,
            Fate::StoodIn | Fate::NotApplied => {}
            Fate::UnderWay => unreachable!("it has ended"),
        }
        let version = version?;
        let earlier = self.newest.replace(version);
        earlier.filter(|earlier| !version.beats(earlier))
    }

    /// All that others stood in for has reached its replicas.
    pub(crate) fn delivered(&mut self) {
        for (at, write) in self.writes.iter_mut().enumerate().filter(|(_, write)| write.fate == Fate::StoodIn)
        {
            write.fate = Fate::Acknowledged;
            self.floor = self.floor.max(at + 1);
        }
    }

    /// A write, for people.
    pub(crate) fn tell_of(&self, number: usize) -> String {
        match number.checked_sub(1).and_then(|at| self.writes.get(at)) {
            None => "nothing".to_owned(),
            Some(Write { what, fate, .. }) => format!("write {number} ({what:?}, {fate:?})"),
        }
    }

    /// Judges what a read found: the number of the write whose value it was, or nothing. `drift` = of the clocks that may have decided.
    pub(crate) fn read(
        &mut self,
        begun: Instant,
        ended: Instant,
        drift: Duration,
        found: Option<u32>,
    ) -> Result<(), Wrong> {
        match found {
            Some(number) => self.found(Moment { at: begun, drift }, number as usize),
            None => self.found_nothing(Moment { at: ended, drift }),
        }
    }

    fn found(&mut self, begun: Moment, number: usize) -> Result<(), Wrong> {
        let write = number.checked_sub(1).and_then(|at| self.writes.get(at)).ok_or(Wrong::Bytes)?;
        if write.what == What::Delete {
            return Err(Wrong::Bytes);
        }
        if write.fate == Fate::NotApplied {
            return Err(Wrong::NotApplied);
        }
        if write.has_expired(begun) {
            return Err(Wrong::Expired);
        }
        if number >= self.floor {
            self.floor = number;
            return Ok(());
        }
        let since = &self.writes[number..self.floor];
        match write.fate {
            Fate::Unknown => Ok(()),
            _ if since.iter().any(|write| write.what == What::Delete && write.fate != Fate::NotApplied) => {
                Err(Wrong::Deleted)
            }
            _ => Err(Wrong::Stale),
        }
    }

    fn found_nothing(&mut self, ended: Moment) -> Result<(), Wrong> {
        if self.floor == 0 {
            return Ok(());
        }
        let accounts = |(number, write): &(usize, &Write)| {
            let counts = match write.fate {
                Fate::Unknown => true,
                Fate::NotApplied => false,
                Fate::UnderWay | Fate::Acknowledged | Fate::StoodIn => *number >= self.floor,
            };
            counts && (write.what == What::Delete || write.may_have_expired(ended))
        };
        let mut accounting = (1..).zip(&self.writes).filter(accounts).map(|(number, _)| number);
        let first = accounting.next().ok_or(Wrong::Lost)?;
        // Only where it was certainly that one is it promised from now on.
        let is_certain = accounting.next().is_none();
        if is_certain {
            self.floor = self.floor.max(first);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ferrite_client::Version;

    use super::*;

    const TTL: Duration = Duration::from_secs(10);
    const DRIFT: Duration = Duration::from_secs(1);

    struct Story {
        memory: Memory,
        now: Instant,
    }

    impl Story {
        fn begin() -> Story {
            Story { memory: Memory::default(), now: Instant::now() }
        }

        fn after(&mut self, time: Duration) -> &mut Story {
            self.now += time;
            self
        }

        fn write(&mut self, what: What, fate: Fate) -> &mut Story {
            self.memory.begin(what, Moment { at: self.now, drift: Duration::ZERO });
            assert_eq!(self.memory.end(fate, None, self.now), None);
            self
        }

        fn finds(&mut self, found: Option<u32>, verdict: Result<(), Wrong>) -> &mut Story {
            assert_eq!(self.memory.read(self.now, self.now, DRIFT, found), verdict, "{:?}", self.memory);
            self
        }
    }

    #[test]
    fn what_was_acknowledged_stays_until_it_is_overwritten_and_then_does_not_come_back() {
        let mut story = Story::begin();
        story.finds(None, Ok(())).finds(Some(1), Err(Wrong::Bytes)).finds(Some(0), Err(Wrong::Bytes));
        story.write(What::Put, Fate::Acknowledged).finds(Some(1), Ok(())).finds(None, Err(Wrong::Lost));
        story.write(What::Put, Fate::Acknowledged).finds(Some(2), Ok(())).finds(Some(1), Err(Wrong::Stale));
        story
            .write(What::Put, Fate::NotApplied)
            .finds(Some(3), Err(Wrong::NotApplied))
            .finds(Some(2), Ok(()));
    }

    #[test]
    fn what_was_deleted_does_not_come_back_and_what_is_written_after_it_stays() {
        let mut story = Story::begin();
        story.write(What::Put, Fate::Acknowledged).write(What::Delete, Fate::Acknowledged);
        assert_eq!(story.memory.tell_of(2), "write 2 (Delete, Acknowledged)");
        story.finds(None, Ok(())).finds(Some(1), Err(Wrong::Deleted)).finds(Some(2), Err(Wrong::Bytes));
        story.write(What::Put, Fate::Acknowledged).finds(Some(3), Ok(())).finds(None, Err(Wrong::Lost));
        story.finds(Some(1), Err(Wrong::Deleted));
    }

    #[test]
    fn a_delete_of_unknown_outcome_allows_both_until_a_read_has_seen_it() {
        let mut story = Story::begin();
        story.write(What::Put, Fate::Acknowledged).write(What::Delete, Fate::Unknown);
        story.finds(Some(1), Ok(())).finds(None, Ok(())).finds(Some(1), Err(Wrong::Deleted));
        // It may be carried out after what is written next.
        story
            .write(What::Put, Fate::Acknowledged)
            .finds(Some(3), Ok(()))
            .finds(None, Ok(()))
            .finds(Some(3), Ok(()));
    }

    #[test]
    fn what_expires_is_there_until_its_time_and_gone_after_it_give_or_take_the_clocks() {
        let mut story = Story::begin();
        story.write(What::Put, Fate::Acknowledged).write(What::Expiring(TTL), Fate::Acknowledged);
        story.finds(Some(2), Ok(())).finds(None, Err(Wrong::Lost)).finds(Some(1), Err(Wrong::Stale));
        story.after(TTL - DRIFT / 2).finds(Some(2), Ok(())).finds(None, Ok(())).finds(Some(2), Ok(()));
        story.after(DRIFT).finds(Some(2), Ok(())).finds(None, Ok(()));
        story
            .after(DRIFT)
            .finds(Some(2), Err(Wrong::Expired))
            .finds(None, Ok(()))
            .finds(Some(1), Err(Wrong::Stale));
    }

    #[test]
    fn an_expiring_write_of_unknown_outcome_may_begin_to_live_at_any_time() {
        let mut story = Story::begin();
        story.write(What::Put, Fate::Acknowledged).write(What::Expiring(TTL), Fate::Unknown);
        story.after(TTL * 3).finds(Some(2), Ok(())).finds(None, Ok(()));
        story.finds(Some(1), Err(Wrong::Stale));
    }

    #[test]
    fn what_others_stand_in_for_is_promised_once_it_was_delivered_or_seen() {
        let mut story = Story::begin();
        story.write(What::Put, Fate::Acknowledged).write(What::Put, Fate::StoodIn);
        story.finds(Some(1), Ok(()));
        story.memory.delivered();
        story.finds(Some(1), Err(Wrong::Stale)).finds(Some(2), Ok(())).finds(None, Err(Wrong::Lost));
        story.write(What::Put, Fate::StoodIn).finds(Some(2), Ok(())).finds(Some(3), Ok(()));
        story.finds(Some(2), Err(Wrong::Stale));
        story.write(What::Delete, Fate::StoodIn).finds(Some(3), Ok(()));
        story.memory.delivered();
        story.finds(None, Ok(())).finds(Some(3), Err(Wrong::Deleted));
    }

    #[test]
    fn an_older_value_of_unknown_outcome_may_take_effect_late() {
        let mut story = Story::begin();
        story.write(What::Put, Fate::Unknown).write(What::Put, Fate::Acknowledged);
        story.finds(Some(1), Ok(())).finds(Some(2), Ok(()));
    }

    #[test]
    fn versions_of_one_writer_rise_and_memory_is_bounded() {
        let mut memory = Memory::default();
        let moment = Moment { at: Instant::now(), drift: DRIFT };
        let version = |order| Some(Version { order: ferrite_wire::Order(order), ..Version::default() });
        let mut write = |fate, version| {
            memory.begin(What::Put, moment);
            memory.end(fate, version, moment.at)
        };
        assert_eq!(write(Fate::Acknowledged, version(7)), None);
        assert_eq!(write(Fate::StoodIn, version(9)), None);
        assert_eq!(write(Fate::Acknowledged, version(9)), version(9));
        for _ in 0..UNKNOWN_MAX {
            assert_eq!(write(Fate::Unknown, None), None);
        }
        assert!(memory.is_full());
    }
}
