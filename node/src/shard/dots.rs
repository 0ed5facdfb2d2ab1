//! The actor of the dots that this core mints, and when it becomes another.
//!
//! An actor must not outlive what its core remembers: whoever holds a dot of it counts every earlier one as seen, so that a set which
//! lacks one that others have would take it from them. So
//!
//! | what happened | the actor |
//! |---|---|
//! | an orderly stop, and the next start finds the data as it was left | stays |
//! | the same, but the directory is not where it was left (`crate::place`): a copy was put back | new |
//! | any other start: after a crash, with a cut or damaged log, with something quarantined, with vnodes that were not here | new |
//! | a set was sent to other replicas, and the local log refused it | new |
//! | something was quarantined while the core runs | new |
//!
//! It is kept in the core's local space with the place where it was left, written as the last thing of a life and under that life's number: only
//! the very next life takes it, and only there. A life that does not end in order leaves none. Numbers are the clock's orders, which never
//! repeat.

use ferrite_cluster::planted;
use ferrite_lsm::{Engine, Key, Prefix, Record, RecordFlags, Recovery, cover};
use ferrite_wire::Actor;

use super::{Shard, ShardSettings};
use crate::env::Env;

const KEY: Key<'static> =
    Key { prefix: Prefix { space: 0, vnode: 0, table: 0, token: 0 }, partition: b"actor", sort: b"" };

/// The actor of a new life. `grew`: vnodes came that the last life did not have.
pub(super) async fn restore<E: Env>(
    env: &E,
    settings: &ShardSettings,
    engine: &Engine<E::Disk, E::Pace>,
    recovery: &Recovery,
    grew: bool,
) -> Actor {
    if planted::active(planted::Bug::ActorReused) {
        return Actor(u64::from(settings.node.0) << 16 | u64::from(settings.core.0));
    }
    let is_as_left = recovery.clean
        && recovery.cut_tail.is_none()
        && recovery.damage.is_empty()
        && recovery.quarantined.is_empty()
        && recovery.unreadable.is_empty()
        && !grew;
    if is_as_left
        && let Ok(Some(found)) = engine.read(KEY).await
        && found.record().order.checked_add(1) == Some(recovery.incarnation)
        && let Some((actor, place)) = decode(found.record().value)
    {
        if place == settings.place.found {
            cover::mark("actor kept");
            return actor;
        }
        cover::mark("actor of a copy not taken");
    }
    Actor(env.random())
}

impl<E: Env> Shard<E> {
    /// Takes another actor for the dots to come.
    pub(super) fn renew_actor(&self) {
        if planted::active(planted::Bug::ActorReused) {
            return;
        }
        cover::mark("actor renewed");
        self.dots.set(Actor(self.env.random()));
    }

    /// Leaves the actor for the next life, as the last record of this one. Refused, it is not left; nor is it if the next life could not tell
    /// where.
    pub(super) fn leave_actor(&self) {
        let place = self.settings.place.now;
        if place == 0 {
            return;
        }
        let value = encode(self.dots.get(), place);
        let record =
            Record { order: self.life, actor: 0, flags: RecordFlags(0), expiry_ms: 0, value: &value };
        self.engine.stage(KEY, record, 0).ok();
    }
}

/// `actor: u64 | place: u64`, little-endian.
fn encode(actor: Actor, place: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&actor.0.to_le_bytes());
    bytes[8..].copy_from_slice(&place.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<(Actor, u64)> {
    let (actor, place) = bytes.split_first_chunk::<8>()?;
    let place: &[u8; 8] = place.try_into().ok()?;
    Some((Actor(u64::from_le_bytes(*actor)), u64::from_le_bytes(*place)))
}
