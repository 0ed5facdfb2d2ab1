//! Writes and answers that the tests of both histories begin with.

use ferrite_wire::{Actor, Order, Version};

use super::{Answer, Intent, Told};
use crate::facts::Holders;

/// Some version with this order.
pub(crate) fn version(order: u64) -> Version {
    Version { order: Order(order), actor: Actor(1), ..Version::default() }
}

/// A put to two of three replicas through the first node.
pub(crate) fn intent(now_ns: u64) -> Intent {
    Intent {
        key: 1,
        is_delete: false,
        expires: false,
        node: 0,
        needed: 2,
        holders: Holders::of(0..3),
        may_be_sloppy: false,
        may_come_again: false,
        seen: Order(0),
        now_ns,
        minted_by_ns: u64::MAX,
    }
}

/// A delete, sent likewise.
pub(crate) fn delete(now_ns: u64) -> Intent {
    Intent { is_delete: true, ..intent(now_ns) }
}

/// An answer that tells of any order.
pub(crate) fn answer(told: Told, at_ns: u64) -> Answer {
    Answer { told, acknowledged: 0, time: Order(u64::MAX), at_ns }
}
