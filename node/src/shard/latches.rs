//! Latches: of the writes of a key with siblings that this core coordinates, one at a time reads, joins, mints and appends.
//!
//! Whoever comes while a key's latch is held waits for it, in the order of coming. The latch is held until the local record is applied,
//! for only then does a read here see it: a write that did not see the one before it would mint a dot above one that its set lacks,
//! and wherever that set arrives the first write would be gone, acknowledged or not. A write apart from its replicas holds it until it has
//! ended ([`super::apart`]).
//!
//! Bounds: so many wait for one key, and so many bytes for all of a core. Beyond either a write is refused as overloaded.

use std::collections::{BTreeMap, VecDeque};

use ferrite_cluster::planted;

use super::set_writes::SetWrite;
use super::slab::{OperationId, Slab};

/// Most writes that wait for one key. At a sync of 100 µs that is how many one key can take in a dozen milliseconds.
pub(super) const WAITERS_MAX: usize = 128;
/// Most bytes that wait for latches on a core.
pub(super) const WAITING_BYTES_MAX: usize = 8 << 20;

/// Names a latch that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LatchId(OperationId);

/// A key as latches know it.
pub(super) type LatchKey = (u32, Box<[u8]>, usize);

#[derive(Debug)]
struct Latch {
    key: LatchKey,
    waiting: VecDeque<SetWrite>,
}

/// What becomes of a write that wants a latch.
#[derive(Debug)]
pub(super) enum Entered {
    /// It has it.
    Holds(LatchId, SetWrite),
    /// It waits.
    Waits,
    /// There is no room to wait.
    Full(SetWrite),
}

/// The latches that are held.
#[derive(Debug)]
pub(super) struct Latches {
    by_key: BTreeMap<LatchKey, LatchId>,
    held: Slab<Latch>,
    waiting_bytes: usize,
}

impl Latches {
    /// None, and never more than `held_max`.
    pub(super) fn new(held_max: usize) -> Latches {
        Latches { by_key: BTreeMap::new(), held: Slab::new(held_max), waiting_bytes: 0 }
    }

    /// How many are held.
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// Takes the latch of a write's key, or has the write wait for it.
    pub(super) fn enter(&mut self, write: SetWrite) -> Entered {
        let key = write.latch_key();
        if let Some(id) = self.by_key.get(&key)
            && !planted::active(planted::Bug::LatchNotHeld)
        {
            let latch = self.held.get_mut(id.0).expect("a latch by its key is held");
            if latch.waiting.len() >= WAITERS_MAX || self.waiting_bytes + write.bytes() > WAITING_BYTES_MAX {
                return Entered::Full(write);
            }
            self.waiting_bytes += write.bytes();
            latch.waiting.push_back(write);
            return Entered::Waits;
        }
        if !self.held.has_room() {
            return Entered::Full(write);
        }
        let id = LatchId(self.held.insert(Latch { key: key.clone(), waiting: VecDeque::new() }));
        self.by_key.insert(key, id);
        Entered::Holds(id, write)
    }

    /// The key of a latch that is held.
    pub(super) fn key_of(&mut self, id: LatchId) -> &LatchKey {
        &self.held.get_mut(id.0).expect("whoever asks holds it").key
    }

    /// Lets the latch go, to the write that has waited longest, if any has.
    pub(super) fn leave(&mut self, id: LatchId) -> Option<SetWrite> {
        let latch = self.held.get_mut(id.0).expect("whoever lets a latch go holds it");
        if let Some(next) = latch.waiting.pop_front() {
            self.waiting_bytes -= next.bytes();
            return Some(next);
        }
        let latch = self.held.remove(id.0).expect("found above");
        self.by_key.remove(&latch.key);
        None
    }
}
