//! What was written to keys with siblings, and what every read of them must therefore show.
//!
//! A put or delete bears the context of a read, or none. What that read showed is what the write *saw*, and replaces, and with it all that
//! those writes had seen in their turn. A write that overwrites reads for itself, at its level: it *must* have seen what a read at that
//! level must know of ([`Holdings::meet`]), and *may* have seen all that was sent before it was acknowledged. Whatever the clocks, and whichever
//! node was asked:
//!
//! 1. *Nothing is invented.* A sibling is the value of a put to that key that was not reported as not applied, under the version that
//!    the put was acknowledged with, its expiry included.
//! 2. *Nothing acknowledged is lost.* A read shows every put that it must know of, but for those that some other write may have seen, and
//!    those that may have expired by the clock of some node.
//! 3. *Nothing replaced comes back.* A read shows nothing that a write must have seen which the read must know of.

mod places;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use ferrite_wire::Version;

use self::places::Places;
use crate::facts::{Facts, Holdings, Reading};
use crate::history::{Answer, Intent, Told, Violation};

/// Numbers of these writes begin here: none is that of a write of the other history.
const FIRST: u64 = 1 << 40;

/// What a write saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Saw {
    /// These puts.
    These(BTreeSet<u64>),
    /// What a read of its own shows.
    ItsOwnRead,
}

/// One write.
#[derive(Clone, Debug)]
struct Write {
    id: u64,
    sent: Intent,
    overwrites: bool,
    /// What it must have seen, if it was done: of one that overwrites, known when somebody has learnt that it was.
    must: Places,
    told: Told,
    told_ns: u64,
    held: Holdings,
    /// The version under which a read has shown it.
    seen: Option<Version>,
}

impl Write {
    /// Whether it may have seen, and so replaced, the write at a place, which was sent at a moment.
    fn may_have_seen(&self, place: usize, sent_ns: u64) -> bool {
        match self.told {
            Told::NotApplied => false,
            _ if !self.overwrites => self.must.contains(place),
            Told::InDoubt => true,
            Told::Acknowledged(_) | Told::Sloppy(_) => sent_ns <= self.told_ns,
        }
    }

    /// The version that it was given, if anybody has learnt of it.
    fn version(&self) -> Option<Version> {
        self.told.version().or(self.seen)
    }
}

/// All writes by key.
#[derive(Debug, Default)]
pub struct SetHistory {
    keys: BTreeMap<u64, Vec<Write>>,
    next: u64,
}

impl SetHistory {
    /// Begins a write and numbers it.
    pub fn begin(&mut self, sent: Intent, saw: &Saw) -> u64 {
        self.next += 1;
        let id = FIRST + self.next;
        let writes = self.keys.entry(sent.key).or_default();
        let mut must = Places::default();
        if let Saw::These(ids) = saw {
            for id in ids {
                let place = place_of(writes, *id).expect("what a write saw was written before");
                must.insert(place);
                must.merge(&writes[place].must);
            }
        }
        let overwrites = *saw == Saw::ItsOwnRead;
        writes.push(Write {
            id,
            sent,
            overwrites,
            must,
            told: Told::InDoubt,
            told_ns: 0,
            held: Holdings::default(),
            seen: None,
        });
        id
    }

    /// A write's client was told something.
    pub fn told(&mut self, key: u64, id: u64, answer: Answer, facts: &Facts) -> Result<(), Violation> {
        let Answer { told, acknowledged, time, at_ns } = answer;
        let writes = self.keys.get_mut(&key).expect("told of a key that was written");
        let place = place_of(writes, id).expect("told of a write that was begun");
        if told.version().is_some() {
            became_known(writes, place, facts);
        }
        let write = &mut writes[place];
        (write.told, write.told_ns) = (told, at_ns);
        if matches!(told, Told::Acknowledged(_)) {
            write.held.acknowledged(write.sent.acknowledged(at_ns, acknowledged));
        }
        let violation = |what: String| Err(Violation { key, what });
        if told == Told::NotApplied
            && let Some(seen) = write.seen
        {
            return violation(format!("sibling {id} was seen as {seen:?} and then reported as not applied"));
        }
        if let Some(what) = write.sent.mistold(told) {
            return violation(format!("sibling {id} {what}"));
        }
        let Some(version) = told.version() else { return Ok(()) };
        let had_seen = write.sent.seen;
        match write.seen {
            Some(seen) if version != seen => {
                violation(format!("sibling {id} was seen as {seen:?} and acknowledged as {version:?}"))
            }
            // A delete has the version of what it leaves.
            _ if version.order <= had_seen && !write.sent.is_delete => {
                violation(format!("sibling {id} got {version:?}, but its client had seen {had_seen:?}"))
            }
            _ if version.order > time => {
                violation(format!("sibling {id} got {version:?}, but its client was told of {time:?} only"))
            }
            _ => Ok(()),
        }
    }

    /// Nobody owes anything any more; `reached_all` says whether a write that was acknowledged must have come to all its replicas by that. Gives how many
    /// of them there are.
    pub fn drained(&mut self, now_ns: u64, reached_all: impl Fn(&Intent) -> bool) -> u64 {
        let mut count = 0;
        for write in self.keys.values_mut().flatten() {
            let everywhere = write.told.version().is_some() && reached_all(&write.sent);
            count += u64::from(everywhere);
            if let Some(written) = write.sent.drained(write.told, now_ns, everywhere) {
                write.held.acknowledged(written);
            }
        }
        count
    }

    /// How many writes were acknowledged sloppily.
    pub fn sloppy(&self) -> u64 {
        self.keys.values().flatten().filter(|write| matches!(write.told, Told::Sloppy(_))).count() as u64
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
        let writes = self.keys.get_mut(&key).map_or(&mut [][..], Vec::as_mut_slice);
        let mut shown = Places::default();
        for (id, version) in siblings {
            let Some(id) = *id else {
                return violation(format!("a sibling that nobody wrote, as {version:?}"));
            };
            let Some(place) = place_of(writes, id).filter(|place| !writes[*place].sent.is_delete) else {
                return violation(format!("sibling {id}, which nobody put to this key, as {version:?}"));
            };
            became_known(writes, place, facts);
            let write = &mut writes[place];
            match (write.told, write.seen) {
                (Told::NotApplied, _) => {
                    return violation(format!("sibling {id} as {version:?}, reported as not applied"));
                }
                (Told::Acknowledged(told) | Told::Sloppy(told), _) if told != *version => {
                    return violation(format!("sibling {id} as {version:?}, acknowledged as {told:?}"));
                }
                (_, Some(seen)) if seen != *version => {
                    return violation(format!("sibling {id} as {version:?}, seen before as {seen:?}"));
                }
                _ => write.seen = Some(*version),
            }
            if shown.contains(place) {
                return violation(format!("sibling {id} twice"));
            }
            shown.insert(place);
        }
        for (place, write) in writes.iter().enumerate() {
            let Some(version) = write.version().filter(|_| write.held.meet(reading, facts)) else { continue };
            let back = (0..writes.len()).find(|other| write.must.contains(*other) && shown.contains(*other));
            if let Some(back) = back {
                let (back, id) = (writes[back].id, write.id);
                return violation(format!("sibling {back} again, which write {id} had replaced"));
            }
            let is_hidden = write.sent.is_delete || facts.may_have_passed(version.expiry_ms);
            let replaces =
                |other: &Write| other.may_have_seen(place, write.sent.now_ns) && other.id != write.id;
            if !is_hidden && !shown.contains(place) && !writes.iter().any(replaces) {
                let id = write.id;
                return violation(format!(
                    "sibling {id} is lost: it had to be seen, and nothing that was written can have seen it"
                ));
            }
        }
        for (_, write) in writes.iter_mut().enumerate().filter(|(place, _)| shown.contains(*place)) {
            write.held.shown(reading, write.sent.holders, now_ns, facts);
        }
        Ok(())
    }

    /// All keys that were written.
    pub fn keys(&self) -> Vec<u64> {
        self.keys.keys().copied().collect()
    }

    /// The writes of a key, for people.
    pub fn describe(&self, key: u64) -> String {
        let writes = self.keys.get(&key).map_or(&[][..], Vec::as_slice);
        let line = |write: &Write| {
            let Write { id, sent, overwrites, must, told, told_ns, seen, .. } = write;
            let Intent { now_ns, node, needed, .. } = sent;
            let sloppy = if sent.may_be_sloppy { "sloppy " } else { "" };
            let kind = if sent.is_delete { "delete" } else { "put" };
            let saw: Vec<u64> =
                (0..writes.len()).filter(|at| must.contains(*at)).map(|at| writes[at].id).collect();
            let (node, reads) = (node + 1, if *overwrites { ", overwriting" } else { "" });
            format!(
                "  {sloppy}{kind} {id} at {now_ns} ns through node {node}, to {needed}{reads}, on top of {saw:?}: {told:?} at {told_ns} ns, seen {seen:?}\n"
            )
        };
        writes.iter().map(line).collect()
    }

    /// Writes acknowledged, not applied, and in doubt.
    pub fn counts(&self) -> (u64, u64, u64) {
        Told::count(self.keys.values().flatten().map(|write| write.told))
    }
}

fn place_of(writes: &[Write], id: u64) -> Option<usize> {
    writes.binary_search_by_key(&id, |write| write.id).ok()
}

/// Somebody has learnt that the write at a place was done: if it overwrites, then its own read met what it had to.
fn became_known(writes: &mut [Write], place: usize, facts: &Facts) {
    let write = &writes[place];
    if !write.overwrites || write.version().is_some() {
        return;
    }
    let reading = Reading::new(write.sent.now_ns, write.sent.needed);
    let mut must = Places::default();
    for (other, earlier) in writes.iter().enumerate() {
        if earlier.held.meet(reading, facts) {
            must.insert(other);
            must.merge(&earlier.must);
        }
    }
    writes[place].must = must;
}
