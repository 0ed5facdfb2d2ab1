//! Sets of siblings between the protocol, the algebra and the engine: how records that are sets join, and what a client sees of them.
//!
//! The payload of a record that is flagged `SIBLINGS` is an encoded [`SiblingSet`], and its version is the set's. The engine joins
//! such records wherever two meet: in a memtable, in a merge, in a read. A set is checked where it arrives, so one that does not
//! decode later is a bug or damage that checksums did not see: reads of it fail as damaged, and a join keeps the other one.

use std::cell::Cell;

use ferrite_cluster::{CausalClock, Context, SiblingSet};
use ferrite_lsm::{Joined, Key, Record, RecordBuf, RecordFlags, cover};
use ferrite_wire::{
    ErrorCode, Reader, Reply, SiblingValue, Siblings, TableId, Version, VersionFlags, limits::SET_BYTES_MAX,
};

use super::record::version_of;
use super::{Route, Shard};
use crate::env::Env;

/// Longest set that a join makes, in bytes: what the engine takes as a record, less its key. What writes leave stays far below it
/// however it is joined ([`ferrite_cluster::SetLimits`]); of two sets that would be longer together, or could not be encoded, the newer
/// stays as it is, and the other is told of in the log and [counted](left_out).
const JOINED_BYTES_MAX: usize = ferrite_lsm::RECORD_BYTES_MAX / 2;

thread_local! {
    /// A core is a thread, and what the engine calls to join two records has nothing else of the core's.
    static LEFT_OUT: Cell<u64> = const { Cell::new(0) };
}

/// How often this core left out a set because it could not be joined with another. One that lies in several places may be met more than once.
pub(super) fn left_out() -> u64 {
    LEFT_OUT.get()
}

/// Counts a set that is left out, and tells of it.
#[cold]
fn leave_out(joined: &SiblingSet<'_>) {
    LEFT_OUT.set(LEFT_OUT.get() + 1);
    tracing::error!(
        bytes = joined.encoded_bytes(),
        "siblings of a key are too long together: the older ones are left out"
    );
}

/// Options of an engine that joins sets wherever two of them meet, also where nothing but its log is read.
pub(crate) fn joining_sets(engine: ferrite_lsm::Options) -> ferrite_lsm::Options {
    ferrite_lsm::Options { join: ferrite_lsm::JoinByFlag(join_records), ..engine }
}

/// How the engine makes one record of two sets of a key.
fn join_records(_: &Key<'_>, left: &Record<'_>, right: &Record<'_>, out: &mut RecordBuf) -> Joined {
    let (one, other) = match (set_of(left), set_of(right)) {
        (Some(one), Some(other)) => (one, other),
        (Some(_), None) => return Joined::Left,
        (None, Some(_)) => return Joined::Right,
        (None, None) => return if right.beats(left) { Joined::Right } else { Joined::Left },
    };
    let joined = one.join(&other);
    if joined == one {
        return Joined::Left;
    }
    if joined == other {
        return Joined::Right;
    }
    if !is_bounded(&joined) {
        leave_out(&joined);
        return if right.beats(left) { Joined::Right } else { Joined::Left };
    }
    cover::mark("sets of siblings joined");
    let version = joined.version();
    (out.order, out.actor, out.expiry_ms) = (version.order.0, version.actor.0, 0);
    out.flags = RecordFlags(version.flags.0);
    out.value.clear();
    joined.encode(&mut out.value);
    Joined::Both
}

fn is_bounded(set: &SiblingSet<'_>) -> bool {
    set.is_encodable() && set.encoded_bytes() <= JOINED_BYTES_MAX
}

/// The set that a record is, if it is one.
pub(super) fn set_of<'r>(record: &Record<'r>) -> Option<SiblingSet<'r>> {
    if version_of(record).flags.has_siblings() { SiblingSet::decode(record.value).ok() } else { None }
}

/// The set that arrived under a version, if it is one and that is its version.
pub(super) fn arrived<'b>(version: &Version, bytes: &'b [u8]) -> Option<SiblingSet<'b>> {
    let set = if version.flags.has_siblings() { SiblingSet::decode(bytes).ok()? } else { return None };
    (set.version() == *version).then_some(set)
}

/// An arrived set together with those that came before it. `None` = they cannot be joined, as in [`join_records`].
pub(super) fn joined(kept: &[u8], arrived: &[u8]) -> Option<Vec<u8>> {
    let joined = match (SiblingSet::decode(kept), SiblingSet::decode(arrived)) {
        (Ok(one), Ok(other)) => one.join(&other),
        // Nothing came before it.
        (Err(_), Ok(other)) => other,
        (_, Err(_)) => unreachable!("a set is checked when it arrives"),
    };
    if !is_bounded(&joined) {
        leave_out(&joined);
        return None;
    }
    let mut out = Vec::with_capacity(joined.encoded_bytes());
    joined.encode(&mut out);
    Some(out)
}

/// What a read has seen of a key: the clock of what came.
pub(super) fn clock_of(bytes: &[u8]) -> CausalClock {
    SiblingSet::decode(bytes).map(|set| set.clock().clone()).unwrap_or_default()
}

/// The context hash of the engine's key.
pub(super) fn hash_of(key: &Key<'_>) -> u64 {
    let table = TableId(key.prefix.table);
    Context::hash_of(&ferrite_wire::Key { table, partition: key.partition, sort: key.sort })
}

impl Route {
    /// Whether the key's table keeps siblings.
    #[inline]
    pub(super) fn has_siblings(&self) -> bool {
        self.max_siblings > 0
    }

    /// The hash of its context, for a key of a table with siblings; 0 for others, which have no contexts.
    #[inline]
    pub(super) fn context_hash(&self, key: &ferrite_wire::Key<'_>) -> u64 {
        if self.has_siblings() { Context::hash_of(key) } else { 0 }
    }
}

impl<E: Env> Shard<E> {
    /// Makes the reply for a record as a client sees it, a value or siblings, and hands it on. `context_hash` is that of the key, and is
    /// asked for only if the record is a set.
    #[inline]
    pub(super) fn with_reply<R>(
        &self,
        context_hash: impl FnOnce() -> u64,
        version: &Version,
        value: &[u8],
        answered: u8,
        then: impl FnOnce(&Reply<'_>) -> R,
    ) -> R {
        if version.flags.has_siblings() {
            return self.with_siblings(context_hash(), value, answered, then);
        }
        then(&self.client_reply(version, value, answered))
    }

    #[cold]
    fn with_siblings<R>(
        &self,
        key_hash: u64,
        bytes: &[u8],
        answered: u8,
        then: impl FnOnce(&Reply<'_>) -> R,
    ) -> R {
        if bytes.len() > SET_BYTES_MAX {
            let text = "the key's siblings are longer together than a reply: put or delete it with overwrite, at ONE";
            return then(&Reply::Error { code: ErrorCode::TooLarge, text });
        }
        let Ok(set) = SiblingSet::decode(bytes) else {
            return then(&Reply::Error { code: ErrorCode::Damaged, text: "" });
        };
        let mut context = Vec::new();
        Context { key_hash, clock: set.clock().clone() }.encode(&mut context);
        let now_ms = self.expiry_wall_ms();
        let visible = set.siblings().iter().filter(|sibling| !sibling.is_expired(now_ms));
        let values: Vec<SiblingValue<'_>> = visible
            .map(|sibling| SiblingValue {
                version: Version {
                    order: sibling.order,
                    actor: sibling.dot.actor,
                    flags: VersionFlags(u8::from(sibling.expiry_ms > 0) * VersionFlags::EXPIRES),
                    expiry_ms: sibling.expiry_ms,
                },
                value: sibling.value,
            })
            .collect();
        let mut out = Vec::with_capacity(bytes.len() + context.len());
        Siblings::encode_parts(&context, values.into_iter(), &mut out);
        let siblings = Siblings::decode(&mut Reader::new(&out)).expect("just encoded");
        then(&Reply::Siblings { answered, siblings })
    }
}

#[cfg(test)]
mod tests {
    use ferrite_cluster::{Dot, SetLimits, Sibling};
    use ferrite_lsm::Prefix;
    use ferrite_wire::{Actor, Order};

    use super::*;

    /// As long as a write may leave them; so many writers that saw nothing of each other.
    fn set_of_writers(writers: std::ops::Range<u64>, value: &[u8]) -> SiblingSet<'_> {
        writers.fold(SiblingSet::default(), |set, writer| {
            let dot = Dot { actor: Actor(writer), number: writer };
            let sibling = Sibling { dot, order: Order(writer), expiry_ms: 0, value };
            let mut its = SiblingSet::default();
            its.put(&CausalClock::default(), sibling, &SetLimits::default()).expect("there is room");
            set.join(&its)
        })
    }

    fn encoded(set: &SiblingSet<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        set.encode(&mut out);
        out
    }

    fn record<'b>(set: &SiblingSet<'_>, value: &'b [u8]) -> Record<'b> {
        let Version { order, actor, flags, .. } = set.version();
        Record { order: order.0, actor: actor.0, flags: RecordFlags(flags.0), expiry_ms: 0, value }
    }

    /// Siblings that were acknowledged while no replica was there may be longer together than a record: only the log told of those left out.
    #[test]
    fn sets_that_are_left_out_because_they_are_too_long_together_are_counted() {
        let value = vec![b'v'; 900 * 1024];
        let [older, newer, small] = [1..6, 6..11, 11..12].map(|writers| set_of_writers(writers, &value));
        let join = |one: &SiblingSet<'_>, other: &SiblingSet<'_>| {
            let [left, right] = [one, other].map(encoded);
            let key = Key { prefix: Prefix::from_u128(0), partition: b"k", sort: b"" };
            join_records(&key, &record(one, &left), &record(other, &right), &mut RecordBuf::default())
        };
        let before = left_out();
        assert!(matches!(join(&small, &newer), Joined::Both));
        assert_eq!(left_out(), before);
        assert!(matches!(join(&older, &newer), Joined::Right), "the newer stays as it is");
        assert_eq!(left_out(), before + 1);
        assert_eq!(joined(&encoded(&older), &encoded(&newer)), None);
        assert_eq!(left_out(), before + 2);
    }
}
