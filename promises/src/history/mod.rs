//! What was written, what was acknowledged, and what every read must therefore see.
//!
//! Truth is in versions, not in the order of wall clocks: last write wins by `(order, actor)`, and an acknowledgement names
//! the version it was given. So the checks hold under any clock skew:
//!
//! 1. *Nothing is invented.* A value read was written by somebody, to that key, and if its write was acknowledged or seen
//!    before then it has the same version as then, its expiry included.
//! 2. *Nothing acknowledged is lost, and nothing that was replaced, deleted or has expired comes back.* A read returns the version of the
//!    newest write that it must know of ([`Holdings::meet`]), or a newer one.
//! 3. *A session goes forward.* A client's acknowledged write has a higher order than everything that it had been told of, by any node, and of which it
//!    told this one. It is told at least the order of its own write, also where it is told that nobody knows what became of that.
//! 4. *A node goes forward.* Of two writes to a key through one node the later one has the higher order, also when the node was
//!    restarted in between, with whatever wall clock, unless its disk was emptied. (Through different nodes this is promised up to their
//!    drift only.)
//!
//! An answer "absent" names no version. It is right if the newest write that the read must know of is a delete, or may have expired by the
//! clock of some node, or there is none, or some delete or expiring put whose outcome nobody knows may be newer.
//!
//! Two writes may well have the same order, minted in the same tick by two nodes: then the actor decides. No two have both.

mod intent;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use ferrite_wire::{Order, Version};

pub use self::intent::{Answer, Intent, Told};
use crate::facts::{Facts, Holdings, Reading};

/// One write.
#[derive(Clone, Debug)]
struct Write {
    /// Its number: for puts also the value's content.
    id: u64,
    sent: Intent,
    /// The highest order of a write to this key through this node that had been acknowledged by then.
    above: Order,
    /// What its client was told.
    told: Told,
    told_ns: u64,
    /// The highest order that its client was told of with that; none = no answer came.
    time: Option<Order>,
    held: Holdings,
    /// The version under which a read has shown it.
    seen: Option<Version>,
}

impl Write {
    /// The version that it was given, if anybody has learnt of it.
    fn version(&self) -> Option<Version> {
        self.told.version().or(self.seen)
    }
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The key.
    pub key: u64,
    /// What is wrong.
    pub what: String,
}

/// All writes by key.
#[derive(Debug, Default)]
pub struct History {
    keys: BTreeMap<u64, Vec<Write>>,
    next: u64,
    ties: u64,
}

impl History {
    /// Begins a write and numbers it.
    pub fn begin(&mut self, sent: Intent, facts: &Facts) -> u64 {
        self.next += 1;
        let id = self.next;
        let writes = self.keys.entry(sent.key).or_default();
        // What a node minted before its disk was emptied it does not know of.
        let since_ns = facts.last_loss_ns(sent.node);
        let earlier =
            writes.iter().filter(|write| write.sent.node == sent.node && write.sent.now_ns > since_ns);
        let acknowledged = earlier.filter_map(|write| write.told.version());
        let above = acknowledged.map(|version| version.order).max().unwrap_or(Order(0));
        writes.push(Write {
            id,
            sent,
            above,
            told: Told::InDoubt,
            told_ns: 0,
            time: None,
            held: Holdings::default(),
            seen: None,
        });
        id
    }

    /// A write's client was told something.
    pub fn told(&mut self, key: u64, id: u64, answer: Answer) -> Result<(), Violation> {
        let violation = |what: String| Err(Violation { key, what });
        let Answer { told, acknowledged, time, at_ns } = answer;
        if let Some(version) = told.version() {
            self.compare_orders(key, id, version)?;
        }
        let write = self.find(key, id).expect("told of a write that was begun");
        (write.told, write.told_ns, write.time) = (told, at_ns, Some(time));
        if matches!(told, Told::Acknowledged(_)) {
            write.held.acknowledged(write.sent.acknowledged(at_ns, acknowledged));
        }
        let node = write.sent.node + 1;
        let seen = write.seen;
        if told == Told::NotApplied
            && let Some(seen) = seen
        {
            return violation(format!("write {id} was seen as {seen:?} and then reported as not applied"));
        }
        if let Some(what) = write.sent.mistold(told) {
            return violation(format!("write {id} {what}"));
        }
        if let Some(version) =
            write.version().filter(|version| version.order > time && told != Told::NotApplied)
        {
            return violation(format!("write {id} is {version:?}, but its client was told of {time:?} only"));
        }
        let Some(version) = told.version() else { return Ok(()) };
        let (above, had_seen) = (write.above, write.sent.seen);
        match seen {
            Some(seen) if version != seen => {
                violation(format!("write {id} was seen as {seen:?} and acknowledged as {version:?}"))
            }
            _ if version.order <= had_seen => {
                violation(format!("write {id} got {version:?}, but its client had seen {had_seen:?}"))
            }
            _ if version.order <= above => violation(format!(
                "write {id} got {version:?}, and {above:?} had been acknowledged through node {node} before it was sent"
            )),
            _ => Ok(()),
        }
    }

    /// Compares the version of a write with those of the others of its key.
    fn compare_orders(&mut self, key: u64, id: u64, version: Version) -> Result<(), Violation> {
        let writes = self.keys.get(&key).map_or(&[][..], Vec::as_slice);
        let others = writes.iter().filter(|write| write.id != id);
        let same = others.filter_map(|write| Some((write.id, write.version()?)));
        let mut same = same.filter(|(_, other)| other.order == version.order);
        match same.next() {
            None => {}
            Some((other, of_other)) if of_other.actor == version.actor => {
                let what = format!("write {id} got {version:?}, as write {other} did");
                return Err(Violation { key, what });
            }
            Some(_) => self.ties += 1,
        }
        Ok(())
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

    /// How many acknowledged writes had the order of another one to their key, minted elsewhere in the same tick.
    pub fn ties(&self) -> u64 {
        self.ties
    }

    /// How many writes were acknowledged sloppily.
    pub fn sloppy(&self) -> u64 {
        self.keys.values().flatten().filter(|write| matches!(write.told, Told::Sloppy(_))).count() as u64
    }

    fn find(&mut self, key: u64, id: u64) -> Option<&mut Write> {
        let writes = self.keys.get_mut(&key)?;
        writes.binary_search_by_key(&id, |write| write.id).ok().map(|at| &mut writes[at])
    }

    /// The newest version that a read must know of.
    fn floor(&self, key: u64, reading: Reading, facts: &Facts) -> Option<Version> {
        let known = self.keys.get(&key)?.iter().filter(|write| write.held.meet(reading, facts));
        let known = known.filter_map(Write::version);
        known.max_by_key(|version| (version.order, version.actor))
    }

    /// Judges a value that a read returned just now; `id` is what its content says, if it says anything.
    pub fn saw_value(
        &mut self,
        key: u64,
        (reading, now_ns): (Reading, u64),
        facts: &Facts,
        id: Option<u64>,
        version: Version,
    ) -> Result<(), Violation> {
        let violation = |what: String| Err(Violation { key, what });
        let floor = self.floor(key, reading, facts);
        let Some(id) = id else { return violation(format!("a value that nobody wrote, as {version:?}")) };
        let Some(write) = self.find(key, id) else {
            return violation(format!("value {id}, which nobody wrote to this key, as {version:?}"));
        };
        if write.sent.is_delete {
            return violation(format!("value {id}, which was a delete, as {version:?}"));
        }
        match write.told {
            Told::Acknowledged(told) | Told::Sloppy(told) if told != version => {
                return violation(format!("value {id} as {version:?}, acknowledged as {told:?}"));
            }
            Told::NotApplied => {
                return violation(format!("value {id} as {version:?}, reported as not applied"));
            }
            Told::Acknowledged(_) | Told::Sloppy(_) | Told::InDoubt => {}
        }
        if let Some(time) = write.time.filter(|time| version.order > *time) {
            return violation(format!("value {id} as {version:?}, but its client was told of {time:?} only"));
        }
        if let Some(seen) = write.seen
            && seen != version
        {
            return violation(format!("value {id} as {version:?}, seen before as {seen:?}"));
        }
        write.seen = Some(version);
        write.held.shown(reading, write.sent.holders, now_ns, facts);
        match floor {
            Some(floor) if floor.beats(&version) => {
                violation(format!("value {id} as {version:?}, older than what had to be seen: {floor:?}"))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Judges a read that found nothing.
    pub fn saw_nothing(&self, key: u64, reading: Reading, facts: &Facts) -> Result<(), Violation> {
        let Some(floor) = self.floor(key, reading, facts) else { return Ok(()) };
        if floor.flags.is_tombstone() || facts.may_have_passed(floor.expiry_ms) {
            return Ok(());
        }
        let writes = self.keys.get(&key).map_or(&[][..], Vec::as_slice);
        let may_hide = |write: &Write| match write.told {
            Told::InDoubt => write.sent.is_delete || write.sent.expires,
            Told::Acknowledged(version) | Told::Sloppy(version) => {
                let is_gone = write.sent.is_delete || facts.may_have_passed(version.expiry_ms);
                is_gone && version.beats(&floor)
            }
            Told::NotApplied => false,
        };
        if writes.iter().any(may_hide) {
            return Ok(());
        }
        Err(Violation { key, what: format!("nothing, but {floor:?} had to be seen") })
    }

    /// All keys that were written.
    pub fn keys(&self) -> Vec<u64> {
        self.keys.keys().copied().collect()
    }

    /// The writes of a key, for people.
    pub fn describe(&self, key: u64) -> String {
        let line = |write: &Write| {
            let Write { id, sent, told, told_ns, seen, .. } = write;
            let Intent { now_ns, node, needed, .. } = sent;
            let sloppy = if sent.may_be_sloppy { "sloppy " } else { "" };
            let kind = if sent.is_delete { "delete" } else { "put" };
            let node = node + 1;
            format!(
                "  {sloppy}{kind} {id} at {now_ns} ns through node {node}, to {needed}: {told:?} at {told_ns} ns, seen {seen:?}\n"
            )
        };
        self.keys.get(&key).map_or_else(String::new, |writes| writes.iter().map(line).collect())
    }

    /// Writes acknowledged, not applied, and in doubt.
    pub fn counts(&self) -> (u64, u64, u64) {
        Told::count(self.keys.values().flatten().map(|write| write.told))
    }
}
