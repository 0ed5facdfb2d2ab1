//! Work that nobody waits for any more, dropped where it waits, before it costs anything, and counted by what it waited for.
//!
//! A request's deadline travels with it, as time left: over a hop, to the replicas, and with a write that is handed on. Whoever asked has
//! its answer by then, or has gone; so what is still to be done is not.
//!
//! | waits | checked | counted as |
//! |---|---|---|
//! | in its socket, while this core stood still ([`super::standstill`]) or did not read from it, or half sent | when it is read | `in_socket` |
//! | for another core's turn, from a client | when that core takes it | `in_queue` |
//! | the same, from a peer, or in its socket | when that core takes it, or when it is read | `at_replica` |
//! | for room in the log | when there is room, and every 20 ms | `waiting_for_log` |
//! | for a key's latch | when it is free | `waiting_for_latch` |
//! | for the disk | before it is read, and after that if it writes | `waiting_for_disk` |
//! | a request of many keys, for one of its parts | every 20 ms | `waiting_for_part`, each part |
//!
//! What was not begun was not applied: the answer says so ([`ErrorCode::Expired`]). What became of a part that is given up nobody knows: it is a read that is late
//! ([`ErrorCode::Timeout`]), or a write in doubt ([`ErrorCode::Unknown`]). A stand-in drops what it was to keep as a replica does. A coordinator's
//! own copy of what it has sent to others is exempt, also one that it keeps as a hint: it is kept whatever has become of the client, as the others'
//! may be.

use std::cell::Cell;
use std::fmt::Write;

use ferrite_lsm::cover;
use ferrite_wire::ErrorCode;

use super::Shard;
use crate::env::Env;

/// A deadline that never comes: of what must be done whoever waits.
pub(super) const NEVER_NS: u64 = u64::MAX;

/// What expired work had waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waited {
    /// A client's request, in its socket, while this core stood still or did not read from it, or half sent.
    InSocket,
    /// A client's request, for another core.
    InQueue,
    /// A peer's, for another core of the replica, or in its socket.
    AtReplica,
    /// A record, for room in the log.
    ForLog,
    /// A write, for the latch of its key.
    ForLatch,
    /// A read, or a write that reads first, for the disk.
    ForDisk,
    /// A request of many keys, for a part.
    ForPart,
}

impl Waited {
    const ALL: [Waited; 7] = [
        Waited::InSocket,
        Waited::InQueue,
        Waited::AtReplica,
        Waited::ForLog,
        Waited::ForLatch,
        Waited::ForDisk,
        Waited::ForPart,
    ];

    fn name(self) -> &'static str {
        match self {
            Waited::InSocket => "in_socket",
            Waited::InQueue => "in_queue",
            Waited::AtReplica => "at_replica",
            Waited::ForLog => "waiting_for_log",
            Waited::ForLatch => "waiting_for_latch",
            Waited::ForDisk => "waiting_for_disk",
            Waited::ForPart => "waiting_for_part",
        }
    }
}

/// How much was dropped, by what it had waited for.
#[derive(Debug, Default)]
pub(super) struct ExpiredCounters([Cell<u64>; Waited::ALL.len()]);

impl ExpiredCounters {
    /// The status lines.
    pub(super) fn write(&self, text: &mut String) {
        for waited in Waited::ALL {
            let count = self.0[waited as usize].get();
            writeln!(text, "expired.{} {count}", waited.name()).expect("a string takes any text");
        }
    }
}

impl<E: Env> Shard<E> {
    /// Whether nobody waits any more for what had waited so; it is counted then.
    pub(super) fn is_expired(&self, deadline_ns: u64, waited: Waited) -> bool {
        let is_expired = self.env.now_ns() >= deadline_ns;
        if is_expired {
            self.count_expired(waited);
        }
        is_expired
    }

    /// Counts what nobody waits for any more.
    pub(super) fn count_expired(&self, waited: Waited) {
        cover::mark("expired work dropped");
        let count = &self.counters.expired.0[waited as usize];
        count.set(count.get() + 1);
    }

    /// The same as a code.
    pub(super) fn in_time(&self, deadline_ns: u64, waited: Waited) -> Result<(), ErrorCode> {
        if self.is_expired(deadline_ns, waited) { Err(ErrorCode::Expired) } else { Ok(()) }
    }
}
