//! The shard's hybrid clock and its persisted bound.
//!
//! No order is minted at or above the bound that the log holds, so a restart with an earlier wall clock still mints above
//! everything minted before. The bound is raised ahead of need by a record in the node's local space.

use std::rc::Rc;

use ferrite_cluster::{Clock, ClockSettings, MintError};
use ferrite_lsm::{Engine, Key, OpenError, Prefix, Record, RecordFlags};
use ferrite_wire::{ErrorCode, Order};

use super::log_pump::Ack;
use super::{Shard, ShardSettings};
use crate::env::Env;

/// The clock's record: in space 0, which is this node's own.
const KEY: Key<'static> =
    Key { prefix: Prefix { space: 0, vnode: 0, table: 0, token: 0 }, partition: b"clock", sort: b"" };

fn bound_record(bound: Order) -> Record<'static> {
    Record { order: bound.0, actor: 0, flags: RecordFlags(0), expiry_ms: 0, value: b"" }
}

/// Restores the clock of an earlier life and persists the first bound of this one.
pub(super) async fn restore<E: Env>(
    env: &E,
    settings: &ShardSettings,
    engine: &Engine<E::Disk, E::Pace>,
) -> Result<Clock, OpenError> {
    let found = engine.read(KEY).await.map_err(OpenError::from)?;
    let bound = found.map_or(Order(0), |found| Order(found.record().order));
    let clock_settings =
        ClockSettings { drift_max_ms: settings.clock_drift_max_ms, ..ClockSettings::default() };
    let mut clock = Clock::restart(clock_settings, bound);
    let settling_ms = clock.settling_ms(env.wall_ms());
    if settling_ms > 0 {
        // Better not yet there than there and refusing every write.
        env.sleep_ns(settling_ms * 1_000_000).await;
    }
    if let Some(next) = clock.lease(env.wall_ms())
        && engine.stage(KEY, bound_record(next), 0).is_ok()
        && engine.commit().await.is_ok()
        && is_durable(engine, settings).await
    {
        clock.persisted(next);
    }
    Ok(clock)
}

/// Whether what was committed is on the disk. Where the log is synced at intervals a bound does not wait for the next: an acknowledged
/// write may be lost with the power then, but its number must not be given out again.
async fn is_durable<D: ferrite_lsm::Disk, P: ferrite_lsm::Pace>(
    engine: &Engine<D, P>,
    settings: &ShardSettings,
) -> bool {
    settings.sync_interval_ns.is_none() || engine.sync_now().await.is_ok()
}

impl<E: Env> Shard<E> {
    /// The log has the next bound.
    pub(super) fn bound_written(self: &Rc<Self>, bound: Order) {
        if self.settings.sync_interval_ns.is_none() {
            return self.bound_durable(bound);
        }
        let shard = Rc::clone(self);
        self.env.spawn(async move {
            // Refused, it is raised again at the next tick, and the engine is fenced.
            if is_durable(&shard.engine, &shard.settings).await {
                shard.bound_durable(bound);
            } else {
                shard.lease_staged.set(false);
            }
        });
    }

    fn bound_durable(&self, bound: Order) {
        self.clock.borrow_mut().persisted(bound);
        self.lease_staged.set(false);
    }

    /// A version's order: above everything this core has seen, and what the client has.
    pub(super) fn mint(self: &Rc<Self>, seen: Order) -> Result<Order, ErrorCode> {
        let minted = self.clock.borrow_mut().mint(self.env.wall_ms(), seen);
        match minted {
            Ok(order) => Ok(order),
            Err(MintError::Drift { .. }) => Err(ErrorCode::ClockDrift),
            Err(MintError::BoundReached) => {
                // Where the bound cannot be raised, the reason is the answer: a full disk is not load.
                Err(self.raise_bound().err().unwrap_or(ErrorCode::Overloaded))
            }
        }
    }

    /// Raises the persisted bound ahead of need.
    pub(super) fn tend_clock(self: &Rc<Self>) {
        // What is refused now is tried again at the next tick.
        let _refused = self.raise_bound();
    }

    /// Stages the next bound, if one is due and none is on its way; the error says why it was refused.
    fn raise_bound(&self) -> Result<(), ErrorCode> {
        if self.lease_staged.get() {
            return Ok(());
        }
        let Some(bound) = self.clock.borrow().lease(self.env.wall_ms()) else { return Ok(()) };
        self.stage(KEY, bound_record(bound), 0, Ack::ClockBound(bound))?;
        self.lease_staged.set(true);
        Ok(())
    }
}
