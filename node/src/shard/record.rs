//! Between the protocol's terms and the engine's.

use ferrite_lsm::{Prefix, Record, RecordFlags};
use ferrite_wire::{Actor, Key, Order, Token, Version, VersionFlags, VnodeId};

/// The space of everything that lies on the ring.
const RING_SPACE: u8 = 1;

// The flags that travel are the flags that are stored.
const _: () = assert!(VersionFlags::TOMBSTONE == RecordFlags::TOMBSTONE);
const _: () = assert!(VersionFlags::EXPIRES == RecordFlags::EXPIRES);
const _: () = assert!(VersionFlags::SIBLINGS == RecordFlags::SIBLINGS);

/// The engine's key.
#[inline]
pub(super) fn engine_key<'k>(key: &Key<'k>, vnode: VnodeId, token: Token) -> ferrite_lsm::Key<'k> {
    let prefix = Prefix { space: RING_SPACE, vnode: vnode.0, table: key.table.0, token: token.0 };
    ferrite_lsm::Key { prefix, partition: key.partition, sort: key.sort }
}

/// The version of a stored record.
#[inline]
pub(super) fn version_of(record: &Record<'_>) -> Version {
    Version {
        order: Order(record.order),
        actor: Actor(record.actor),
        flags: VersionFlags(record.flags.0 & RecordFlags::OUTSIDE),
        expiry_ms: record.expiry_ms,
    }
}

/// The record of a version.
#[inline]
pub(super) fn record_of<'v>(version: &Version, value: &'v [u8]) -> Record<'v> {
    Record {
        order: version.order.0,
        actor: version.actor.0,
        flags: RecordFlags(version.flags.0),
        expiry_ms: version.expiry_ms,
        value,
    }
}
