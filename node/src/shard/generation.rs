//! The number of this node's life, by which others tell a process that was started anew from its former self.
//!
//! It is the wall clock's milliseconds, and above that of any earlier life, whatever the clock says: the last one is kept in the first
//! core's local space. Where it could not be written, or cannot be read, the clock decides alone, and the cluster, which has seen the last life, lifts the node
//! above it.

use ferrite_cluster::gossip::Generation;
use ferrite_lsm::{Engine, Key, Prefix, Record, RecordFlags};

use super::Shard;
use super::log_pump::Ack;
use crate::env::Env;

const KEY: Key<'static> =
    Key { prefix: Prefix { space: 0, vnode: 0, table: 0, token: 0 }, partition: b"generation", sort: b"" };

fn record(generation: Generation) -> Record<'static> {
    Record { order: generation.0, actor: 0, flags: RecordFlags(0), expiry_ms: 0, value: b"" }
}

/// The generation of a new life. It is staged, for whoever commits next.
pub(super) async fn begin<E: Env>(env: &E, engine: &Engine<E::Disk, E::Pace>) -> Generation {
    let last = match engine.read(KEY).await {
        Ok(found) => found.map_or(0, |found| found.record().order),
        Err(error) => {
            tracing::warn!(%error, "the number of this node's last life cannot be read: the clock decides alone");
            0
        }
    };
    let generation = Generation(env.wall_ms().max(last.saturating_add(1)));
    engine.stage(KEY, record(generation), 0).ok();
    generation
}

impl<E: Env> Shard<E> {
    /// The node goes on under another life: the next one begins above it.
    pub(super) fn keep_generation(&self, generation: Generation) {
        // Refused, it is as at a start that could not write it.
        self.stage(KEY, record(generation), 0, Ack::Nobody).ok();
    }
}
