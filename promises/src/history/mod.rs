//! What was written, what was acknowledged, and what every read must therefore see.
//!
//! Truth is in versions, not in the order of wall clocks: last write wins by `(order, actor)`, and an acknowledgement names
//! the version it was given. So the checks hold under any clock skew:
//!
//! 1. *Nothing is invented.* A value read was written by somebody, to that key, and if its write was acknowledged or seen
//!    before then it has the same version as then, its expiry included.
//! 2. *Nothing acknowledged is lost, and nothing that was replaced, deleted or has expired comes back.* A read returns the version of the
//!    newest write that it must know of ([`crate::facts::Holdings::meet`]), or a newer one.
//! 3. *A session goes forward.* A client's acknowledged write has a higher order than everything that it had been told of, by any node, and of which it
//!    told this one. It is told at least the order of its own write, also where it is told that nobody knows what became of that.
//! 4. *A node goes forward.* Of two writes to a key through one node the later one has the higher order, also when the node was
//!    restarted in between, with whatever wall clock, unless its disk was emptied. (Through different nodes this is promised up to their
//!    drift only.)
//!
//! 5. *What a read has found gone does not come back.* A read of a majority that finds nothing where the newest write that it must know of is a
//!    value says that something newer has taken that away and is held by as many, whether or not that was ever acknowledged.
//!
//! An answer "absent" names no version. It is right if the newest write that the read must know of is a delete, or may have expired by the
//! clock of some node, or there is none, or some delete or expiring put whose outcome nobody knows may be newer. One is not newer than its client was told that
//! it may be, nor than what was written through its node after its time was over.
//!
//! Two writes may well have the same order, minted in the same tick by two nodes: then the actor decides. No two have both.

mod intent;
#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;
pub(crate) mod writes;

use std::collections::BTreeMap;

use ferrite_wire::{Actor, Order, Version};

pub use self::intent::{Answer, Intent, Told};
use self::writes::Writes;
use crate::facts::{Facts, Holdings, Reading, Why};

/// What is noted of a write besides.
#[derive(Clone, Debug)]
pub struct Minted {
    /// The highest order of a write to this key through this node that had been acknowledged by then.
    above: Order,
    /// The highest order that its client was told of with its answer; none = no answer came.
    time: Option<Order>,
}

type Write = writes::Write<Minted>;

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The key.
    pub key: u64,
    /// What is wrong.
    pub what: String,
}

/// All writes of keys whose last write wins.
#[derive(Debug, Default)]
pub struct History {
    /// Them.
    pub writes: Writes<Minted>,
    ties: u64,
    gone: BTreeMap<u64, Gone>,
}

/// By order and actor, versions of a key that something newer has taken away, and who holds that.
type Gone = BTreeMap<(Order, Actor), Holdings>;

impl History {
    /// Begins a write and numbers it.
    pub fn begin(&mut self, sent: Intent, facts: &Facts) -> u64 {
        // What a node minted before its disk was emptied it does not know of.
        let since_ns = facts.last_loss_ns(sent.node);
        let is_earlier = |write: &&Write| write.sent.node == sent.node && write.sent.now_ns > since_ns;
        let earlier = self.writes.of(sent.key).iter().filter(is_earlier);
        let acknowledged = earlier.filter_map(|write| write.told.version());
        let above = acknowledged.map(|version| version.order).max().unwrap_or(Order(0));
        self.writes.begin(sent, Minted { above, time: None })
    }

    /// A write's client was told something.
    pub fn told(&mut self, key: u64, id: u64, answer: Answer) -> Result<(), Violation> {
        let Answer { told, time, .. } = answer;
        if let Some(version) = told.version() {
            self.compare_orders(key, id, version)?;
        }
        let write = self.writes.find(key, id).expect("told of a write that was begun");
        let violation = |what: String| Err(Violation { key, what: format!("write {id} {what}") });
        write.more.time = Some(time);
        if let Some(what) = write.answered(answer) {
            return violation(what);
        }
        if let Some(version) =
            write.version().filter(|version| version.order > time && told != Told::NotApplied)
        {
            return violation(format!("is {version:?}, but its client was told of {time:?} only"));
        }
        let Some(version) = told.version() else { return Ok(()) };
        let (above, had_seen, node) = (write.more.above, write.sent.seen, write.sent.node + 1);
        if version.order <= had_seen {
            return violation(format!("got {version:?}, but its client had seen {had_seen:?}"));
        }
        if version.order <= above {
            return violation(format!(
                "got {version:?}, and {above:?} had been acknowledged through node {node} before it was sent"
            ));
        }
        Ok(())
    }

    /// Compares the version of a write with those of the others of its key.
    fn compare_orders(&mut self, key: u64, id: u64, version: Version) -> Result<(), Violation> {
        let others = self.writes.of(key).iter().filter(|write| write.id != id);
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

    /// How many acknowledged writes had the order of another one to their key, minted elsewhere in the same tick.
    pub fn ties(&self) -> u64 {
        self.ties
    }

    /// The newest version that a read must know of, and why it must.
    fn floor(&self, key: u64, reading: Reading, facts: &Facts) -> Option<(Version, Why)> {
        let known = self.writes.of(key).iter();
        let known = known.filter_map(|write| Some((write.version()?, write.held.meet(reading, facts)?)));
        known.max_by_key(|(version, _)| (version.order, version.actor))
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
        let gone = self.found_gone(key, reading, facts, &version);
        let Some(id) = id else { return violation(format!("a value that nobody wrote, as {version:?}")) };
        let Some(write) = self.writes.find(key, id) else {
            return violation(format!("value {id}, which nobody wrote to this key, as {version:?}"));
        };
        if write.sent.is_delete {
            return violation(format!("value {id}, which was a delete, as {version:?}"));
        }
        if let Some(what) = write.shown(version) {
            return violation(format!("value {id} {what}"));
        }
        if let Some(time) = write.more.time.filter(|time| version.order > *time) {
            return violation(format!("value {id} as {version:?}, but its client was told of {time:?} only"));
        }
        write.held.shown(reading, write.sent.holders, now_ns, facts);
        match floor {
            Some((floor, why)) if floor.beats(&version) => violation(format!(
                "value {id} as {version:?}, older than what had to be seen {why}: {floor:?}"
            )),
            _ if gone.is_some() => {
                violation(format!("value {id} as {version:?}, but a read had found {gone:?} gone"))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// What is at least as new as a version, and must be known to be gone.
    fn found_gone(&self, key: u64, reading: Reading, facts: &Facts, version: &Version) -> Option<Order> {
        let as_new = self.gone.get(&key)?.range((version.order, version.actor)..);
        let mut known = as_new.filter(|(_, held)| held.meet(reading, facts).is_some());
        known.next().map(|((order, _), _)| *order)
    }

    /// Judges a read that found nothing just now.
    pub fn saw_nothing(
        &mut self,
        key: u64,
        (reading, now_ns): (Reading, u64),
        facts: &Facts,
    ) -> Result<(), Violation> {
        let Some((floor, why)) = self.floor(key, reading, facts) else { return Ok(()) };
        if floor.flags.is_tombstone() || facts.may_have_passed(floor.expiry_ms) {
            return Ok(());
        }
        let writes = self.writes.of(key);
        let may_hide = |write: &Write| match (write.told, write.version()) {
            (Told::NotApplied, _) => false,
            (_, Some(version)) => {
                let is_gone = write.sent.is_delete || facts.may_have_passed(version.expiry_ms);
                is_gone && version.beats(&floor)
            }
            (_, None) => {
                let is_gone = write.sent.is_delete || write.sent.expires;
                is_gone && may_be_as_high(write, floor.order, writes, facts)
            }
        };
        if !writes.iter().any(may_hide) {
            return Err(Violation { key, what: format!("nothing, but {floor:?} had to be seen {why}") });
        }
        let holders = writes[0].sent.holders;
        let gone = self.gone.entry(key).or_default().entry((floor.order, floor.actor)).or_default();
        gone.shown(reading, holders, now_ns, facts);
        Ok(())
    }

    /// Nothing more is asked of a key.
    pub fn forget(&mut self, key: u64) {
        self.writes.forget(key);
        self.gone.remove(&key);
    }
}

/// Whether a write of unknown version may have this order, or a higher one.
fn may_be_as_high(write: &Write, order: Order, writes: &[Write], facts: &Facts) -> bool {
    let Intent { node, now_ns, minted_by_ns, .. } = write.sent;
    let is_above = |later: &&Write| later.sent.node == node && later.sent.now_ns > minted_by_ns;
    let mut above = writes.iter().filter(is_above).filter_map(Write::version);
    // What a node minted before its disk was emptied it does not know of.
    let goes_forward = facts.last_loss_ns(node) < now_ns;
    let is_below = goes_forward && above.any(|version| version.order <= order);
    write.more.time.is_none_or(|time| time >= order) && !is_below
}
