//! What was written to keys with siblings, and what every read of them must therefore show.
//!
//! A put or delete bears the context of a read, or none. What that read showed is what the write *saw*, and replaces, and with it all that
//! those writes had seen in their turn. A write that overwrites reads for itself, at its level: it *must* have seen what a read at that
//! level must know of ([`crate::facts::Holdings::meet`]), and *may* have seen all that was sent before it was acknowledged, or before its time was over if it
//! never was. Whatever the clocks, and whichever node was asked:
//!
//! 1. *Nothing is invented.* A sibling is the value of a put to that key that was not reported as not applied, under the version that
//!    the put was acknowledged with, its expiry included.
//! 2. *Nothing acknowledged is lost.* A read shows every put that it must know of, but for those that some other write may have taken from this very read
//!    ([`replacements`]), and those that may have expired by the clock of some node.
//! 3. *Nothing replaced comes back.* A read shows nothing that a write must have seen which the read must know of.

mod places;
mod replacements;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use ferrite_wire::Version;

use self::places::Places;
use self::replacements::Replacements;
use crate::facts::{Facts, Reading};
use crate::history::writes::{self, Writes, place_of};
use crate::history::{Answer, Intent, Told, Violation};

/// Numbers of these writes come after this one: none is that of a write of the other history.
const LAST_OF_OTHERS: u64 = 1 << 40;

/// What a write saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Saw {
    /// These puts.
    These(BTreeSet<u64>),
    /// What a read of its own shows.
    ItsOwnRead,
}

/// What is noted of a write besides.
#[derive(Clone, Debug)]
pub struct Replaced {
    /// Whether it reads for itself what it replaces.
    overwrites: bool,
    /// What it must have seen, if it was done: of one that overwrites, known when somebody has learnt that it was.
    must: Places,
}

type Write = writes::Write<Replaced>;

impl Write {
    /// Whether it may have seen, and so replaced, another, which is at a place.
    fn may_have_seen(&self, place: usize, other: &Write) -> bool {
        let may = self.more.overwrites || self.more.must.contains(place);
        may && self.told != Told::NotApplied && self.may_follow(other)
    }

    /// Whether it may have been minted on top of another, or of what was minted on top of that.
    fn may_follow(&self, other: &Write) -> bool {
        let read_by_ns = match self.told {
            // It bears what had been read before.
            _ if !self.more.overwrites => self.sent.now_ns,
            Told::Acknowledged(_) | Told::Sloppy(_) => self.told_ns,
            Told::InDoubt | Told::NotApplied => self.sent.minted_by_ns,
        };
        // A put is above all that it has seen, and a delete, which has no version of its own, is told as the newest of that.
        let is_below =
            self.version().zip(other.version()).is_some_and(|(this, other)| this.order < other.order);
        other.sent.now_ns <= read_by_ns && !is_below
    }
}

/// All writes of keys with siblings.
#[derive(Debug)]
pub struct SetHistory {
    /// Them.
    pub writes: Writes<Replaced>,
}

impl Default for SetHistory {
    fn default() -> SetHistory {
        SetHistory { writes: Writes::after(LAST_OF_OTHERS) }
    }
}

impl SetHistory {
    /// Begins a write and numbers it.
    pub fn begin(&mut self, sent: Intent, saw: &Saw) -> u64 {
        let writes = self.writes.of(sent.key);
        let mut must = Places::default();
        if let Saw::These(ids) = saw {
            for id in ids {
                let place = place_of(writes, *id).expect("what a write saw was written before");
                must.insert(place);
                must.merge(&writes[place].more.must);
            }
        }
        self.writes.begin(sent, Replaced { overwrites: *saw == Saw::ItsOwnRead, must })
    }

    /// A write's client was told something.
    pub fn told(&mut self, key: u64, id: u64, answer: Answer, facts: &Facts) -> Result<(), Violation> {
        let Answer { told, time, .. } = answer;
        let writes = self.writes.of_mut(key);
        let place = place_of(writes, id).expect("told of a write that was begun");
        if told.version().is_some() {
            became_known(writes, place, facts);
        }
        let write = &mut writes[place];
        write.sent.may_come_again = false;
        let violation = |what: String| Err(Violation { key, what: format!("sibling {id} {what}") });
        if let Some(what) = write.answered(answer) {
            return violation(what);
        }
        let Some(version) = told.version() else { return Ok(()) };
        let had_seen = write.sent.seen;
        // A delete has the version of what it leaves.
        if version.order <= had_seen && !write.sent.is_delete {
            return violation(format!("got {version:?}, but its client had seen {had_seen:?}"));
        }
        if version.order > time {
            return violation(format!("got {version:?}, but its client was told of {time:?} only"));
        }
        Ok(())
    }

    /// Judges what a read showed just now; a sibling is what its content names, if it names anything, and its version.
    pub fn saw(
        &mut self,
        key: u64,
        (reading, now_ns): (Reading, u64),
        facts: &Facts,
        siblings: &[(Option<u64>, Version)],
    ) -> Result<(), Violation> {
        let violation = |what: String| Err(Violation { key, what });
        let writes = self.writes.of_mut(key);
        let mut shown = Places::default();
        for (id, version) in siblings {
            let Some(id) = *id else {
                return violation(format!("a sibling that nobody wrote, as {version:?}"));
            };
            let Some(place) = place_of(writes, id).filter(|place| !writes[*place].sent.is_delete) else {
                return violation(format!("sibling {id}, which nobody put to this key, as {version:?}"));
            };
            became_known(writes, place, facts);
            if let Some(what) = writes[place].shown(*version) {
                return violation(format!("sibling {id} {what}"));
            }
            if shown.contains(place) {
                return violation(format!("sibling {id} twice"));
            }
            shown.insert(place);
        }
        let replacements = Replacements { writes, shown: &shown, facts };
        for (place, write) in writes.iter().enumerate() {
            let (Some(version), Some(why)) = (write.version(), write.held.meet(reading, facts)) else {
                continue;
            };
            let back =
                (0..writes.len()).find(|other| write.more.must.contains(*other) && shown.contains(*other));
            if let Some(back) = back {
                let (back, id) = (writes[back].id, write.id);
                return violation(format!(
                    "sibling {back} again, which write {id} had replaced, that had to be seen {why}"
                ));
            }
            let is_hidden = write.sent.is_delete || facts.may_have_passed(version.expiry_ms);
            if !is_hidden && !shown.contains(place) && !replacements.may_have_taken(place) {
                let id = write.id;
                return violation(format!(
                    "sibling {id} is lost: it had to be seen {why}, and nothing that was written can have taken it from this read"
                ));
            }
        }
        let is_repaired = !facts.are_sets_too_long();
        let may_promise =
            |place: usize, write: &Write| is_repaired && shown.contains(place) && !write.sent.may_come_again;
        for (_, write) in writes.iter_mut().enumerate().filter(|(place, write)| may_promise(*place, write)) {
            write.held.shown(reading, write.sent.holders, now_ns, facts);
        }
        Ok(())
    }

    /// The writes of a key, for people.
    pub fn describe(&self, key: u64) -> String {
        let writes = self.writes.of(key);
        self.writes.describe(key, |Replaced { overwrites, must }| {
            let places = (0..writes.len()).filter(|place| must.contains(*place));
            let saw: Vec<u64> = places.map(|place| writes[place].id).collect();
            format!("{}, on top of {saw:?}", if *overwrites { ", overwriting" } else { "" })
        })
    }
}

/// Somebody has learnt that the write at a place was done: if it overwrites, then its own read met what it had to.
fn became_known(writes: &mut [Write], place: usize, facts: &Facts) {
    let write = &writes[place];
    if !write.more.overwrites || write.version().is_some() {
        return;
    }
    let reading = Reading::new(write.sent.now_ns, write.sent.needed);
    let mut must = Places::default();
    for (other, earlier) in writes.iter().enumerate() {
        if earlier.held.meet(reading, facts).is_some() {
            must.insert(other);
            must.merge(&earlier.more.must);
        }
    }
    writes[place].more.must = must;
}
