//! Whether what was read may be read: the memory of one thread's writes.
//!
//! One thread writes a record, one write at a time, each with the next counter. What a read may return follows from
//! what was known when it was sent and what was sent by the time it was answered:
//!
//! | the value's counter | verdict |
//! |---|---|
//! | bytes that no write to this record sent | wrong |
//! | above every counter sent | wrong |
//! | of a write that was refused as not applied | wrong |
//! | at or above the floor | fine |
//! | below the floor, of a write whose outcome is unknown | fine: it may take effect late |
//! | below the floor otherwise, or of an earlier run | stale |
//! | no value, floor above zero | lost |
//! | no value, floor zero | fine |
//!
//! The *floor* is the highest counter acknowledged, or seen by an earlier read, before this read was sent; zero when this
//! process knows of none. Where the level's reads and writes need not overlap (`strict` is off), an old value or none
//! is legal: it is counted as weak, and a value seen raises no floor. Wrong bytes are never legal.

use std::collections::HashMap;

use crate::record::{Stamp, stamp_of};

/// Writes of unknown outcome, and refused writes, remembered per record; beyond that a record is only read.
const DOUBTS_PER_RECORD_MAX: usize = 64;

/// What is wrong with something that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The value may be there.
    Fine,
    /// An old value, or none, that the level allows.
    Weak,
    /// An acknowledged write was undone: an older value came back.
    Stale,
    /// An acknowledged write was undone: no value came back.
    Lost,
    /// Bytes that should not exist.
    Wrong,
}

impl Verdict {
    /// What a person is told of the key; `None` = nothing to complain of.
    pub(crate) fn complaint(self) -> Option<&'static str> {
        match self {
            Verdict::Fine | Verdict::Weak => None,
            Verdict::Stale => Some("went back to an older value"),
            Verdict::Lost => Some("has no value"),
            Verdict::Wrong => Some("holds bytes that should not exist"),
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// Highest counter acknowledged or seen.
    floor: u32,
    /// Highest counter sent.
    sent: u32,
    /// Whether a write is under way.
    writing: bool,
}

#[derive(Clone, Debug, Default)]
struct Doubts {
    unknown: Vec<u32>,
    refused: Vec<u32>,
}

/// What one thread knows of its records.
#[derive(Debug)]
pub struct Checker {
    run: u32,
    value_size: usize,
    strict: bool,
    threads: u64,
    known: Vec<Known>,
    doubts: HashMap<u64, Doubts>,
}

impl Checker {
    /// For the records of one of `threads` threads. `run` marks this process's values.
    pub fn new(run: u32, records: u64, threads: u64, value_size: usize, strict: bool) -> Checker {
        let known = vec![Known::default(); records.div_ceil(threads) as usize];
        Checker { run, value_size, strict, threads, known, doubts: HashMap::new() }
    }

    fn known(&mut self, record: u64) -> &mut Known {
        &mut self.known[(record / self.threads) as usize]
    }

    /// The counter for a write that is about to be sent; `None` when one is under way or the record's past writes are
    /// too doubtful to add to.
    pub fn begin_write(&mut self, record: u64) -> Option<u32> {
        let doubtful = self.doubts.get(&record).is_some_and(|doubts| {
            doubts.unknown.len() >= DOUBTS_PER_RECORD_MAX || doubts.refused.len() >= DOUBTS_PER_RECORD_MAX
        });
        let known = self.known(record);
        if known.writing || doubtful || known.sent == u32::MAX {
            return None;
        }
        known.writing = true;
        known.sent += 1;
        Some(known.sent)
    }

    fn end_write(&mut self, record: u64, counter: u32) -> &mut Known {
        let known = self.known(record);
        assert!(known.writing && known.sent == counter, "one write of a record is under way at a time");
        known.writing = false;
        known
    }

    /// The write was acknowledged.
    pub fn acknowledged(&mut self, record: u64, counter: u32) {
        let known = self.end_write(record, counter);
        known.floor = known.floor.max(counter);
    }

    /// The write was refused and has no effect.
    pub fn refused(&mut self, record: u64, counter: u32) {
        self.end_write(record, counter);
        self.doubts.entry(record).or_default().refused.push(counter);
    }

    /// The write may or may not take effect, now or later.
    pub fn unknown(&mut self, record: u64, counter: u32) {
        self.end_write(record, counter);
        self.doubts.entry(record).or_default().unknown.push(counter);
    }

    /// The floor for a read that is about to be sent.
    pub fn begin_read(&mut self, record: u64) -> u32 {
        self.known(record).floor
    }

    /// Judges what a read returned, given the floor when it was sent.
    pub fn end_read(&mut self, record: u64, floor: u32, value: Option<&[u8]>) -> Verdict {
        let undone = |verdict| if self.strict { verdict } else { Verdict::Weak };
        let Some(value) = value else {
            return if floor == 0 { Verdict::Fine } else { undone(Verdict::Lost) };
        };
        let Some(Stamp { run, counter }) = stamp_of(record, value, self.value_size) else {
            return Verdict::Wrong;
        };
        if run != self.run {
            return if floor == 0 { Verdict::Fine } else { undone(Verdict::Stale) };
        }
        let doubts = self.doubts.get(&record);
        let among =
            |list: fn(&Doubts) -> &Vec<u32>| doubts.is_some_and(|doubts| list(doubts).contains(&counter));
        let late = among(|doubts| &doubts.unknown);
        if counter == 0 || among(|doubts| &doubts.refused) {
            return Verdict::Wrong;
        }
        let strict = self.strict;
        let known = self.known(record);
        if counter > known.sent {
            Verdict::Wrong
        } else if counter >= floor {
            if strict {
                known.floor = known.floor.max(counter);
            }
            Verdict::Fine
        } else if late {
            Verdict::Fine
        } else if strict {
            Verdict::Stale
        } else {
            Verdict::Weak
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::write_value;

    const RUN: u32 = 9;
    const SIZE: usize = 24;

    fn checker(strict: bool) -> Checker {
        Checker::new(RUN, 10, 1, SIZE, strict)
    }

    fn value(record: u64, run: u32, counter: u32) -> Vec<u8> {
        let mut out = Vec::new();
        write_value(record, Stamp { run, counter }, SIZE, &mut out);
        out
    }

    fn read(checker: &mut Checker, counter: Option<u32>) -> Verdict {
        let floor = checker.begin_read(3);
        let bytes = counter.map(|counter| value(3, RUN, counter));
        checker.end_read(3, floor, bytes.as_deref())
    }

    fn write(checker: &mut Checker) -> u32 {
        let counter = checker.begin_write(3).expect("no write is under way");
        checker.acknowledged(3, counter);
        counter
    }

    #[test]
    fn an_acknowledged_write_must_be_there() {
        let mut checker = checker(true);
        assert_eq!(read(&mut checker, None), Verdict::Fine, "nothing was written");
        assert_eq!((write(&mut checker), write(&mut checker)), (1, 2));
        assert_eq!(read(&mut checker, Some(2)), Verdict::Fine);
        assert_eq!(read(&mut checker, Some(1)), Verdict::Stale);
        assert_eq!(read(&mut checker, None), Verdict::Lost);
    }

    #[test]
    fn bytes_that_were_never_written_are_wrong_at_any_level() {
        for strict in [true, false] {
            let mut checker = checker(strict);
            write(&mut checker);
            assert_eq!(read(&mut checker, Some(2)), Verdict::Wrong, "a counter not yet sent");
            assert_eq!(read(&mut checker, Some(0)), Verdict::Wrong, "counters start at one");
            let mut damaged = value(3, RUN, 1);
            damaged[SIZE - 1] ^= 1;
            assert_eq!(checker.end_read(3, 0, Some(&damaged)), Verdict::Wrong);
            assert_eq!(
                checker.end_read(3, 0, Some(&value(4, RUN, 1))),
                Verdict::Wrong,
                "another record's value"
            );
        }
    }

    #[test]
    fn weak_levels_allow_old_values_but_not_wrong_ones() {
        let mut checker = checker(false);
        write(&mut checker);
        write(&mut checker);
        assert_eq!(read(&mut checker, Some(1)), Verdict::Weak);
        assert_eq!(read(&mut checker, None), Verdict::Weak);
        assert_eq!(read(&mut checker, Some(2)), Verdict::Fine);
    }

    #[test]
    fn a_write_under_way_may_or_may_not_be_seen() {
        let mut checker = checker(true);
        write(&mut checker);
        let second = checker.begin_write(3).expect("a counter");
        assert_eq!(checker.begin_write(3), None, "one write at a time");
        assert_eq!(read(&mut checker, Some(1)), Verdict::Fine);
        assert_eq!(read(&mut checker, Some(2)), Verdict::Fine);
        assert_eq!(read(&mut checker, Some(1)), Verdict::Stale, "once seen it stays");
        checker.acknowledged(3, second);
    }

    #[test]
    fn a_read_is_judged_by_what_was_known_when_it_was_sent() {
        let mut checker = checker(true);
        write(&mut checker);
        let floor = checker.begin_read(3);
        write(&mut checker);
        assert_eq!(checker.end_read(3, floor, Some(&value(3, RUN, 1))), Verdict::Fine);
    }

    #[test]
    fn an_unknown_write_widens_what_is_allowed() {
        let mut checker = checker(true);
        write(&mut checker);
        let doubtful = checker.begin_write(3).expect("a counter");
        checker.unknown(3, doubtful);
        assert_eq!(read(&mut checker, Some(1)), Verdict::Fine, "not applied so far");
        write(&mut checker);
        assert_eq!(read(&mut checker, Some(3)), Verdict::Fine);
        assert_eq!(read(&mut checker, Some(2)), Verdict::Fine, "applied late");
        assert_eq!(read(&mut checker, Some(1)), Verdict::Stale, "acknowledged writes came after it");
    }

    #[test]
    fn a_refused_write_must_not_appear() {
        let mut checker = checker(true);
        let refused = checker.begin_write(3).expect("a counter");
        checker.refused(3, refused);
        assert_eq!(read(&mut checker, Some(1)), Verdict::Wrong);
        assert_eq!(read(&mut checker, None), Verdict::Fine);
    }

    #[test]
    fn values_of_an_earlier_run_pass_until_this_run_has_written() {
        let mut checker = checker(true);
        let old = value(3, RUN - 1, 500);
        assert_eq!(checker.end_read(3, 0, Some(&old)), Verdict::Fine);
        write(&mut checker);
        let floor = checker.begin_read(3);
        assert_eq!(checker.end_read(3, floor, Some(&old)), Verdict::Stale);
    }

    #[test]
    fn doubts_are_bounded() {
        let mut checker = checker(true);
        for _ in 0..DOUBTS_PER_RECORD_MAX {
            let counter = checker.begin_write(3).expect("below the bound");
            checker.unknown(3, counter);
        }
        assert_eq!(checker.begin_write(3), None);
        assert!(checker.begin_write(4).is_some(), "other records are not affected");
    }
}
