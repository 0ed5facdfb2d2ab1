//! Sibling sets: all values of a key that no other value has replaced, and the clock of what the set has seen.
//!
//! These are the dotted version vectors of Preguiça et al. ("Dotted Version Vectors: Logical Clocks for Optimistic Replication",
//! 2010), kept for a whole set at once as in Almeida et al. ("Scalable and Accurate Causality Tracking for Eventually
//! Consistent Stores", DAIS 2014). A write is a *dot*: an actor and a number that the actor never used before. The *clock* has, for each actor, the highest
//! number seen, and stands for all lower ones of that actor. A dot that the clock covers and that has no sibling was replaced or deleted.
//!
//! Invariants:
//!
//! 1. Whoever holds dot (a, n) of a key has seen every earlier (a, m) of that key. That is why the set always travels as a whole, never a
//!    lone dot, and why an actor is never used again by a process that may have forgotten what it minted. It holds for writes apart from the key's
//!    replicas, too: whoever coordinates those keeps what it has sent, makes the next set on top of it, and has an actor for them alone,
//!    which ends with what it keeps.
//! 2. Every sibling's dot is covered by the clock; actors and dots are in strict order and occur once.
//! 3. A join is commutative, associative and idempotent, whatever was lost, repeated or late in between.
//!
//! Numbers are hybrid times that the actor's clock has minted, so they have gaps: what is invariant is that no write of the actor to that
//! key lies in one.
//!
//! What it does not do: look at a clock, mint a dot, or decide what has expired.

mod codec;
mod context;
#[cfg(test)]
mod tests;

pub use context::{Context, ContextError};

use ferrite_wire::{Actor, Order, Version, VersionFlags, limits};
use xxhash_rust::xxh3::Xxh3;

use crate::planted;

/// What a write may make of a set. A join is not bounded by it: what several replicas took in apart is kept together.
///
/// A set that joins have made larger than a write may leave it can be made smaller, in steps: such a write replaces `replicas` times what it
/// adds. So each replica may do the same to the same siblings at once, and what they have together is still no more than there was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetLimits {
    /// Most siblings.
    pub siblings_max: usize,
    /// Most actors in the clock. Actors are minted anew at unclean starts, after quarantines, and where a log refused a set that was
    /// sent already, so a key meets few; nothing retires them.
    pub actors_max: usize,
    /// Most bytes of the encoded set.
    pub bytes_max: usize,
    /// How many replicas may write at once without having seen each other.
    pub replicas: usize,
}

impl Default for SetLimits {
    fn default() -> Self {
        SetLimits {
            siblings_max: 32,
            actors_max: ACTORS_MAX,
            bytes_max: limits::VALUE_BYTES_MAX,
            replicas: 1,
        }
    }
}

/// Most actors in the clock of a key that a write may leave.
pub const ACTORS_MAX: usize = 512;

impl SetLimits {
    /// Those of a table: `replicas` sets, each as long as a write may leave it, make one that still travels. A coordinator that writes apart
    /// from the replicas is one writer more, and holds itself to the limits of so many. What the replicas and several such coordinators have
    /// may be too long to travel when it comes together; it is joined all the same, as far as a node stores it.
    pub fn of_table(siblings_max: usize, replicas: usize) -> SetLimits {
        let replicas = replicas.max(1);
        let bytes_max = (limits::SET_BYTES_MAX / replicas).min(limits::VALUE_BYTES_MAX);
        SetLimits { siblings_max, actors_max: ACTORS_MAX, bytes_max, replicas }
    }
}

/// One write: who made it, and which of its writes it is. Numbers begin at 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dot {
    /// The actor.
    pub actor: Actor,
    /// Its number.
    pub number: u64,
}

/// A value that nothing has replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sibling<'a> {
    /// The write that it comes from.
    pub dot: Dot,
    /// Hybrid logical time of that write.
    pub order: Order,
    /// Absolute expiry in milliseconds since the Unix epoch; 0 = never.
    pub expiry_ms: u64,
    /// The value.
    pub value: &'a [u8],
}

impl Sibling<'_> {
    /// Whether a reader at `now_ms` does not see it any more.
    pub fn is_expired(&self, now_ms: u64) -> bool {
        self.expiry_ms != 0 && self.expiry_ms <= now_ms
    }
}

/// For each actor, the highest number seen: all up to it have been.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// By actor, each once; numbers are not 0.
    dots: Vec<Dot>,
}

impl Clock {
    /// Its entries, by actor.
    pub fn dots(&self) -> &[Dot] {
        &self.dots
    }

    /// The highest number of an actor that was seen; 0 = none.
    pub fn number_of(&self, actor: Actor) -> u64 {
        let at = self.dots.binary_search_by_key(&actor, |dot| dot.actor);
        at.map_or(0, |at| self.dots[at].number)
    }

    /// Whether a write has been seen.
    pub fn covers(&self, dot: Dot) -> bool {
        dot.number <= self.number_of(dot.actor)
    }

    /// Whether everything that `other` has seen was seen here.
    pub fn includes(&self, other: &Clock) -> bool {
        other.dots.iter().all(|dot| self.covers(*dot))
    }

    /// Takes note of everything that `other` has seen.
    pub fn merge(&mut self, other: &Clock) {
        if other.dots.is_empty() {
            return;
        }
        // Side by side: contexts are as long as clients make them, and each actor put in by itself would move all behind it.
        let mut merged = Vec::with_capacity(self.dots.len().max(other.dots.len()));
        let (mut mine, mut theirs) = (self.dots.iter().peekable(), other.dots.iter().peekable());
        while let (Some(one), Some(two)) = (mine.peek(), theirs.peek()) {
            merged.extend(match one.actor.cmp(&two.actor) {
                std::cmp::Ordering::Less => mine.next().copied(),
                std::cmp::Ordering::Greater => theirs.next().copied(),
                std::cmp::Ordering::Equal => mine.next().max(theirs.next()).copied(),
            });
        }
        merged.extend(mine.chain(theirs));
        self.dots = merged;
    }

    /// The highest number of any actor.
    pub fn order_max(&self) -> Order {
        Order(self.dots.iter().map(|dot| dot.number).max().unwrap_or(0))
    }

    fn see(&mut self, dot: Dot) {
        match self.dots.binary_search_by_key(&dot.actor, |dot| dot.actor) {
            Ok(at) => self.dots[at].number = self.dots[at].number.max(dot.number),
            Err(at) => self.dots.insert(at, dot),
        }
    }
}

/// Why a write was not put into a set. Nothing was changed. In words it names the way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// There would be more siblings than allowed: read, merge, and put with the context of that read.
    Siblings {
        /// How many may be.
        max: usize,
    },
    /// The clock would have more actors than allowed.
    Actors {
        /// How many may be.
        max: usize,
    },
    /// The set would be longer than allowed: as with siblings.
    Bytes {
        /// How many there may be.
        max: usize,
    },
    /// The value alone would make the set longer than allowed.
    Value {
        /// How many bytes the set may have.
        max: usize,
    },
}

impl std::fmt::Display for Full {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Full::Siblings { max } => write!(f, "the key has {max} siblings, the most it may")?,
            Full::Actors { max } => write!(f, "{max} actors have written the key, the most there may be")?,
            Full::Bytes { max } => write!(f, "the key's siblings would take more than {max} bytes together")?,
            Full::Value { max } => write!(f, "a value and its clock may take {max} bytes in this table")?,
        }
        match self {
            Full::Siblings { .. } | Full::Bytes { .. } => {
                f.write_str(": read it, merge them, and put the result with the context of that read")
            }
            Full::Actors { .. } => f.write_str(": move what it holds to another key"),
            Full::Value { .. } => f.write_str(": put less, or into a table with fewer replicas"),
        }
    }
}

/// The siblings of a key, and what has been seen of it. Values are borrowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SiblingSet<'a> {
    clock: Clock,
    /// By dot.
    siblings: Vec<Sibling<'a>>,
}

impl<'a> SiblingSet<'a> {
    /// What was seen.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The siblings, expired ones included, by dot.
    pub fn siblings(&self) -> &[Sibling<'a>] {
        &self.siblings
    }

    /// The version of the record that holds the set: the highest number that was seen, and a hash of everything in it but the values, which
    /// their dots stand for. Equal sets have equal versions, and other sets have others: it is the set's digest.
    pub fn version(&self) -> Version {
        let mut hash = Xxh3::new();
        let sibling_dots = self.siblings.iter().map(|sibling| sibling.dot);
        for dot in self.clock.dots.iter().copied().chain(sibling_dots) {
            if !planted::active(planted::Bug::DigestBlind) {
                hash.update(&dot.actor.0.to_le_bytes());
                hash.update(&dot.number.to_le_bytes());
            }
        }
        Version {
            order: self.clock.order_max(),
            actor: Actor(hash.digest()),
            flags: VersionFlags(VersionFlags::SIBLINGS),
            expiry_ms: 0,
        }
    }

    /// Takes out what has expired at `now_ms`, for good: the clock goes on covering it.
    pub fn expire(&mut self, now_ms: u64) {
        self.siblings.retain(|sibling| !sibling.is_expired(now_ms));
    }

    /// What both sets say together: everything that either has seen, and the siblings that neither has seen replaced.
    pub fn join(&self, other: &SiblingSet<'a>) -> SiblingSet<'a> {
        if planted::active(planted::Bug::JoinKeepsOne) {
            let other_wins = other.version().beats(&self.version());
            return if other_wins { other.clone() } else { self.clone() };
        }
        let mut siblings = Vec::with_capacity(self.siblings.len().max(other.siblings.len()));
        let (mut mine, mut theirs) = (self.siblings.iter().peekable(), other.siblings.iter().peekable());
        loop {
            let side = match (mine.peek(), theirs.peek()) {
                (Some(mine), Some(theirs)) => mine.dot.cmp(&theirs.dot),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (None, None) => break,
            };
            match side {
                std::cmp::Ordering::Less => {
                    siblings.extend(mine.next().filter(|sibling| !other.clock.covers(sibling.dot)));
                }
                std::cmp::Ordering::Greater => {
                    siblings.extend(theirs.next().filter(|sibling| !self.clock.covers(sibling.dot)));
                }
                std::cmp::Ordering::Equal => {
                    siblings.extend(mine.next());
                    theirs.next();
                }
            }
        }
        let mut clock = self.clock.clone();
        clock.merge(&other.clock);
        if planted::active(planted::Bug::JoinForgetsReplaced) {
            siblings = self.siblings.iter().chain(&other.siblings).copied().collect();
            siblings.sort_by_key(|sibling: &Sibling<'_>| sibling.dot);
            siblings.dedup_by_key(|sibling| sibling.dot);
        }
        SiblingSet { clock, siblings }
    }

    /// Puts a value in that replaces exactly what `seen` covers. What is not covered stays beside it.
    ///
    /// # Panics
    /// If the dot, or a later one of its actor, has been seen: an actor's number was used twice, and something would be lost.
    pub fn put(&mut self, seen: &Clock, sibling: Sibling<'a>, limits: &SetLimits) -> Result<(), Full> {
        let Dot { actor, number } = sibling.dot;
        assert!(number > self.clock.number_of(actor), "number {number} of actor {:x} is not new", actor.0);
        assert!(number > seen.number_of(actor), "number {number} of actor {:x} was seen before", actor.0);
        let mut next = self.without(seen);
        next.clock.see(sibling.dot);
        let at = next.siblings.partition_point(|other| other.dot < sibling.dot);
        next.siblings.insert(at, sibling);
        next.check(self, limits)?;
        *self = next;
        Ok(())
    }

    /// Deletes exactly what `seen` covers. The actors alone may be too many for it: it adds nothing else.
    pub fn delete(&mut self, seen: &Clock, limits: &SetLimits) -> Result<(), Full> {
        let mut next = self.without(seen);
        if planted::active(planted::Bug::DeleteForgetsContext) {
            let of =
                |siblings: &[Sibling<'_>], actor| siblings.iter().any(|sibling| sibling.dot.actor == actor);
            let is_kept = |dot: &Dot| of(&next.siblings, dot.actor) || !of(&self.siblings, dot.actor);
            next.clock.dots.retain(is_kept);
        }
        next.check_actors(self, limits)?;
        *self = next;
        Ok(())
    }

    /// Why the set is refused where it may have no more than `max` bytes.
    pub fn too_long(&self, max: usize) -> Full {
        if self.siblings.len() == 1 { Full::Value { max } } else { Full::Bytes { max } }
    }

    /// What a planted bug ships in place of the set.
    pub fn lone(&self, dot: Dot) -> SiblingSet<'a> {
        let mut clock = Clock::default();
        clock.see(dot);
        let siblings = self.siblings.iter().filter(|sibling| sibling.dot == dot).copied().collect();
        SiblingSet { clock, siblings }
    }

    fn without(&self, seen: &Clock) -> SiblingSet<'a> {
        let mut clock = self.clock.clone();
        clock.merge(seen);
        let siblings = self.siblings.iter().filter(|sibling| !seen.covers(sibling.dot)).copied().collect();
        SiblingSet { clock, siblings }
    }

    /// Whether a write may make this of `before`.
    fn check(&self, before: &SiblingSet<'_>, limits: &SetLimits) -> Result<(), Full> {
        let SetLimits { siblings_max, bytes_max, replicas, .. } = *limits;
        let kept = self.siblings.iter().filter(|sibling| before.has(sibling.dot));
        let (kept, kept_bytes) =
            kept.fold((0, 0), |(count, bytes), sibling| (count + 1, bytes + sibling.bytes()));
        let (added, removed) = (self.siblings.len() - kept, before.siblings.len() - kept);
        if self.siblings.len() > siblings_max && added * replicas > removed {
            return Err(Full::Siblings { max: siblings_max });
        }
        self.check_actors(before, limits)?;
        let bytes = self.encoded_bytes();
        let removed_bytes = before.encoded_bytes() - before.clock_bytes() - kept_bytes;
        let added_bytes = bytes - before.clock_bytes() - kept_bytes;
        if bytes > bytes_max && added_bytes * replicas > removed_bytes {
            return Err(self.too_long(bytes_max));
        }
        Ok(())
    }

    fn check_actors(&self, before: &SiblingSet<'_>, limits: &SetLimits) -> Result<(), Full> {
        let (actors, actors_before) = (self.clock.dots.len(), before.clock.dots.len());
        let is_over = actors > limits.actors_max && actors > actors_before;
        if is_over { Err(Full::Actors { max: limits.actors_max }) } else { Ok(()) }
    }

    fn has(&self, dot: Dot) -> bool {
        self.siblings.binary_search_by_key(&dot, |sibling| sibling.dot).is_ok()
    }
}
