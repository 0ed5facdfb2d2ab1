//! The writes of a history by key, and what any history notes of one.

use std::collections::BTreeMap;

use ferrite_wire::Version;

use super::intent::{Answer, Intent, Told};
use crate::facts::Holdings;

/// One write; `M` is what its history notes besides.
#[derive(Clone, Debug)]
pub(crate) struct Write<M> {
    /// Its number: for puts also the value's content.
    pub(crate) id: u64,
    /// As it was sent.
    pub(crate) sent: Intent,
    /// What its client was told.
    pub(crate) told: Told,
    /// When.
    pub(crate) told_ns: u64,
    /// Who has it.
    pub(crate) held: Holdings,
    /// The version under which a read has shown it.
    pub(crate) seen: Option<Version>,
    /// What its history notes besides.
    pub(crate) more: M,
}

impl<M> Write<M> {
    /// The version that it was given, if anybody has learnt of it.
    pub(crate) fn version(&self) -> Option<Version> {
        self.told.version().or(self.seen)
    }

    /// Its client was told something; what is wrong with that, whatever the history.
    pub(crate) fn answered(&mut self, answer: Answer) -> Option<String> {
        let Answer { told, acknowledged, at_ns, .. } = answer;
        (self.told, self.told_ns) = (told, at_ns);
        if matches!(told, Told::Acknowledged(_)) {
            self.held.acknowledged(self.sent.acknowledged(at_ns, acknowledged));
        }
        match (self.seen, told) {
            (Some(seen), Told::NotApplied) => {
                Some(format!("was seen as {seen:?} and then reported as not applied"))
            }
            (Some(seen), Told::Acknowledged(version) | Told::Sloppy(version)) if version != seen => {
                Some(format!("was seen as {seen:?} and acknowledged as {version:?}"))
            }
            _ => self.sent.mistold(told),
        }
    }

    /// A read has shown it under a version; what is wrong with that, whatever the history.
    pub(crate) fn shown(&mut self, version: Version) -> Option<String> {
        let wrong = match (self.told, self.seen) {
            (Told::NotApplied, _) => Some(format!("as {version:?}, reported as not applied")),
            (Told::Acknowledged(told) | Told::Sloppy(told), _) if told != version => {
                Some(format!("as {version:?}, acknowledged {}as {told:?}", otherwise(&version, &told)))
            }
            (_, Some(seen)) if seen != version => {
                Some(format!("as {version:?}, seen before {}as {seen:?}", otherwise(&version, &seen)))
            }
            _ => None,
        };
        if wrong.is_none() {
            self.seen = Some(version);
        }
        wrong
    }
}

/// In what two versions of one write differ, where it is not in what it was minted as.
fn otherwise(one: &Version, other: &Version) -> &'static str {
    let is_same_write = (one.order, one.actor) == (other.order, other.actor);
    if is_same_write { "with another expiry, " } else { "" }
}

/// The place of a write among those of its key.
pub(crate) fn place_of<M>(writes: &[Write<M>], id: u64) -> Option<usize> {
    writes.binary_search_by_key(&id, |write| write.id).ok()
}

/// All writes by key.
#[derive(Debug)]
pub struct Writes<M> {
    keys: BTreeMap<u64, Vec<Write<M>>>,
    last: u64,
}

impl<M> Default for Writes<M> {
    fn default() -> Writes<M> {
        Writes::after(0)
    }
}

impl<M> Writes<M> {
    /// None yet; their numbers come after this one.
    pub(crate) fn after(last: u64) -> Writes<M> {
        Writes { keys: BTreeMap::new(), last }
    }

    /// Begins a write and numbers it.
    pub(crate) fn begin(&mut self, sent: Intent, more: M) -> u64 {
        self.last += 1;
        let (id, told, held) = (self.last, Told::InDoubt, Holdings::default());
        let write = Write { id, sent, told, told_ns: 0, held, seen: None, more };
        self.keys.entry(sent.key).or_default().push(write);
        id
    }

    /// Those of a key.
    pub(crate) fn of(&self, key: u64) -> &[Write<M>] {
        self.keys.get(&key).map_or(&[], Vec::as_slice)
    }

    /// Those of a key.
    pub(crate) fn of_mut(&mut self, key: u64) -> &mut [Write<M>] {
        self.keys.get_mut(&key).map_or(&mut [], Vec::as_mut_slice)
    }

    /// One of a key.
    pub(crate) fn find(&mut self, key: u64, id: u64) -> Option<&mut Write<M>> {
        let writes = self.of_mut(key);
        place_of(writes, id).map(|place| &mut writes[place])
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

    /// Nothing more is asked of a key.
    pub(crate) fn forget(&mut self, key: u64) {
        self.keys.remove(&key);
    }

    /// All keys that were written.
    pub fn keys(&self) -> Vec<u64> {
        self.keys.keys().copied().collect()
    }

    /// How many were acknowledged sloppily.
    pub fn sloppy(&self) -> u64 {
        self.keys.values().flatten().filter(|write| matches!(write.told, Told::Sloppy(_))).count() as u64
    }

    /// How many were acknowledged, not applied, and in doubt.
    pub fn counts(&self) -> (u64, u64, u64) {
        Told::count(self.keys.values().flatten().map(|write| write.told))
    }

    /// Those of a key, for people; `more` tells what is noted besides.
    pub fn describe(&self, key: u64, more: impl Fn(&M) -> String) -> String {
        let line = |write: &Write<M>| {
            let Write { id, sent, told, told_ns, seen, .. } = write;
            let Intent { now_ns, node, needed, .. } = sent;
            let sloppy = if sent.may_be_sloppy { "sloppy " } else { "" };
            let kind = if sent.is_delete { "delete" } else { "put" };
            let (node, more) = (node + 1, more(&write.more));
            format!(
                "  {sloppy}{kind} {id} at {now_ns} ns through node {node}, to {needed}{more}: {told:?} at {told_ns} ns, seen {seen:?}\n"
            )
        };
        self.of(key).iter().map(line).collect()
    }
}
