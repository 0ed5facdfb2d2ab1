//! What this core has written of keys with siblings apart from their replicas: sloppily, while none of them could be reached.
//!
//! Stand-ins keep such a set as a hint and are never asked for it, so the coordinator keeps in mind what it has sent: the next write of the key
//! is made on top of it. That gives such writes what those of a replica have: limits that bind, and one actor for all of them, of which
//! whoever holds a dot has seen every earlier one of that key.
//!
//! ```text
//! latch ──► last set of this life ──► mint, put or delete ──► stand-ins ──► done, or unknown: the next set is the last one
//!   ▲                                                            └────────► not applied: the last one stays
//!   └──────────────────── let go when the write has ended ◄──────────────────────────────┘
//! ```
//!
//! The actor is random, drawn with the first such write of a life, and no other's. Sets that replicas have got meanwhile stay here, which harms
//! nothing: what was replaced there stays replaced wherever the sets are joined.
//!
//! Bounds: so many keys and bytes on a core. Beyond either a write is refused as overloaded, unless this core owes nobody a hint: then most of what it
//! kept is likely where it belongs, though other stand-ins may owe some still. All of it is forgotten, and with it the actor, which may not go on without it.

use std::collections::BTreeMap;
use std::rc::Rc;

use ferrite_wire::Actor;

use super::Shard;
use super::held::{Held, Holding};
use super::latches::{LatchId, LatchKey};
use crate::env::Env;

/// Most keys of which a core keeps in mind what it wrote apart.
pub(super) const APART_KEYS_MAX: usize = 16_384;

/// An encoded set.
#[derive(Debug)]
struct Kept {
    set: Box<[u8]>,
    /// Given back when this is dropped.
    _holding: Holding,
}

#[derive(Debug, Default)]
struct Entry {
    /// The last that may be with somebody.
    last: Option<Kept>,
    /// That of the write under way.
    next: Option<Kept>,
}

/// The last sets that this core sent to stand-ins alone, by key.
#[derive(Debug)]
pub(super) struct Apart {
    /// That of the dots; none before the first.
    actor: Option<Actor>,
    by_key: BTreeMap<LatchKey, Entry>,
    keys_max: usize,
    held: Held,
}

impl Apart {
    /// None yet, and never more than so many keys and bytes.
    pub(super) fn new(keys_max: usize, bytes_max: usize) -> Apart {
        Apart { actor: None, by_key: BTreeMap::new(), keys_max, held: Held::new(bytes_max) }
    }

    /// The actor of the dots to come.
    pub(super) fn actor(&mut self, random: impl FnOnce() -> u64) -> Actor {
        *self.actor.get_or_insert_with(|| Actor(random()))
    }

    /// The set on top of which the next write of a key is made.
    pub(super) fn last(&self, key: &LatchKey) -> Option<Box<[u8]>> {
        self.by_key.get(key)?.last.as_ref().map(|last| last.set.clone())
    }

    /// Keeps the set of a write that is about to be sent. False = there is no room.
    fn begin(&mut self, key: &LatchKey, set: &[u8]) -> bool {
        if self.by_key.len() >= self.keys_max && !self.by_key.contains_key(key) {
            return false;
        }
        let bytes = size_of::<Entry>() + key.1.len() + set.len();
        let Some(holding) = self.held.hold(bytes) else { return false };
        let entry = self.by_key.entry(key.clone()).or_default();
        assert!(entry.next.is_none(), "of the writes of a key one at a time is under way");
        entry.next = Some(Kept { set: set.into(), _holding: holding });
        true
    }

    /// The write of a key that was under way has ended. `may_be_kept`: somebody has it, or may have it.
    pub(super) fn end(&mut self, key: &LatchKey, may_be_kept: bool) {
        let entry = self.by_key.get_mut(key).expect("a write that is under way is kept in mind");
        let next = entry.next.take().expect("a write ends once");
        if may_be_kept {
            entry.last = Some(next);
        }
        if entry.last.is_none() {
            self.by_key.remove(key);
        }
    }

    /// Forgets all but what is under way. The next dots are of another actor.
    fn start_anew(&mut self) {
        self.by_key.retain(|_, entry| entry.next.is_some());
        self.actor = None;
    }
}

impl<E: Env> Shard<E> {
    /// Keeps the set of a write in mind that is about to be sent to stand-ins. False = there is no room. Where the others are forgotten for it, its dot is
    /// the last of their actor.
    pub(super) fn begin_apart(&self, key: &LatchKey, set: &[u8]) -> bool {
        let mut apart = self.apart.borrow_mut();
        if apart.begin(key, set) {
            return true;
        }
        // What is held back may never be taken: to wait for that would be to refuse for good.
        if self.hints.borrow().lanes().any(|(_, lane)| lane.owes()) {
            return false;
        }
        apart.start_anew();
        apart.begin(key, set)
    }

    /// A write apart from its replicas has ended: the next one of its key may begin.
    pub(super) fn end_apart(self: &Rc<Self>, latch: LatchId, may_be_kept: bool) {
        let key = self.latches.borrow_mut().key_of(latch).clone();
        self.apart.borrow_mut().end(&key, may_be_kept);
        self.release_latch(latch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &[u8]) -> LatchKey {
        (1, name.into(), name.len())
    }

    #[test]
    fn what_is_kept_in_mind_is_what_was_sent_last_and_may_be_somewhere() {
        let mut apart = Apart::new(8, 1_000);
        assert!(apart.begin(&key(b"k"), b"one"));
        assert_eq!(apart.last(&key(b"k")), None, "it is under way");
        apart.end(&key(b"k"), false);
        assert_eq!((apart.by_key.len(), apart.held.bytes()), (0, 0), "nobody has it");
        for (set, may_be_kept, expected) in
            [(b"two", true, b"two"), (b"six", false, b"two"), (b"ten", true, b"ten")]
        {
            assert!(apart.begin(&key(b"k"), set));
            apart.end(&key(b"k"), may_be_kept);
            assert_eq!(apart.last(&key(b"k")).as_deref(), Some(&expected[..]));
        }
        assert_eq!(apart.held.bytes(), size_of::<Entry>() + 1 + 3, "earlier ones are given back");
    }

    /// An actor that went on without what it wrote would take that from whoever has it.
    #[test]
    fn keys_and_bytes_are_bounded_and_whatever_is_forgotten_takes_its_actor_along() {
        let mut apart = Apart::new(2, 1_000);
        let first = apart.actor(|| 7);
        assert_eq!(apart.actor(|| 8), first, "one for all");
        assert!(apart.begin(&key(b"a"), b"a") && apart.begin(&key(b"b"), b"b"));
        apart.end(&key(b"a"), true);
        assert!(!apart.begin(&key(b"c"), b"c"), "a third key");
        assert!(!apart.begin(&key(b"a"), &[0; 1_000]), "too many bytes");
        assert_eq!(apart.last(&key(b"a")).as_deref(), Some(&b"a"[..]), "what was refused changes nothing");
        apart.start_anew();
        assert_ne!(apart.actor(|| 8), first);
        assert_eq!(apart.last(&key(b"a")), None);
        apart.end(&key(b"b"), true);
        assert_eq!(apart.last(&key(b"b")).as_deref(), Some(&b"b"[..]), "what is under way ends as any");
        assert!(apart.begin(&key(b"c"), b"c"));
    }
}
