//! The shard's hybrid clock and its persisted bound.
//!
//! No order is minted at or above the bound that the log holds, so a restart with an earlier wall clock still mints above
//! everything minted before. The bound is raised ahead of need by a record in the node's local space ([`super::clock_bounds`]). Where it is not known
//! what was minted before, the clock begins above all that a wall clock in step with others' can have had minted, and nothing is minted before it is known
//! to be in step; the log says that it is not known until then, however often the node is started.
//!
//! While the wall clock is ahead of most other nodes' nothing is minted, and the bound goes by theirs (`walls`).

use std::rc::Rc;

use ferrite_cluster::{Clock, ClockSettings, MintError};
use ferrite_lsm::{Engine, OpenError};
use ferrite_wire::{ErrorCode, Order};

use super::clock_bounds::{Bound, BoundKey, Earlier, find, record};
use super::log_pump::Ack;
use super::{Shard, ShardSettings};
use crate::env::Env;

const MS: u64 = 1_000_000;

/// Restores the clock of an earlier life and persists the first bound of this one. With the number under which that was staged, and whether it is known what
/// the earlier life minted.
pub(super) async fn restore<E: Env>(
    env: &E,
    settings: &ShardSettings,
    engine: &Engine<E::Disk, E::Pace>,
) -> Result<(Clock, u64, bool), OpenError> {
    let Earlier { bound, number, is_known } = find(env, settings, engine).await;
    let clock_settings =
        ClockSettings { drift_max_ms: settings.clock_drift_max_ms, ..ClockSettings::default() };
    let mut clock = Clock::restart(clock_settings, bound);
    let settling_ms = clock.settling_ms(env.wall_ms());
    if settling_ms > 0 {
        // Better not yet there than there and refusing every write.
        env.sleep_ns(settling_ms * 1_000_000).await;
    }
    // Others must not miss it, so it is written also where it is not known what came before; and says so.
    let value = |bound| Bound { bound, cores: settings.cores, is_known }.encode();
    if let Some(next) = clock.lease(env.wall_ms())
        && engine.stage(BoundKey::of(settings).key(), record(number, &value(next)), 0).is_ok()
        && engine.commit().await.is_ok()
        && is_durable(engine, settings).await
    {
        clock.persisted(next);
    }
    Ok((clock, number, is_known))
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
                shard.bound_refused();
            }
        });
    }

    /// It has not, or nobody knows.
    pub(super) fn bound_refused(&self) {
        self.is_bound_told_known.set(self.is_bound_known);
        self.lease_staged.set(false);
    }

    fn bound_durable(&self, bound: Order) {
        self.clock.borrow_mut().persisted(bound);
        self.lease_staged.set(false);
    }

    /// A version's order: above everything this core has seen, and what the client has.
    pub(super) fn mint(self: &Rc<Self>, seen: Order) -> Result<Order, ErrorCode> {
        if self.is_wall_off() {
            ferrite_lsm::cover::mark(match self.is_wall_ahead() {
                true => "nothing minted while the wall clock is ahead",
                false => "nothing minted while the wall clock is behind",
            });
            return Err(ErrorCode::ClockDrift);
        }
        if self.is_unjudged() {
            ferrite_lsm::cover::mark("nothing minted before the wall clock was compared");
            return Err(ErrorCode::ClockDrift);
        }
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

    /// No core of this node mints anything above this until then, unless the wall clock is set forward. Each goes by that clock, or by nothing while it finds it
    /// ahead: what this core knows of others' another may not.
    pub(super) fn minted_max_by(&self, until_ns: u64) -> Order {
        let left_ms = until_ns.saturating_sub(self.env.now_ns()).div_ceil(1_000_000);
        let ahead_ms = left_ms + self.settings.clock_drift_max_ms;
        // All that can be minted in the last millisecond lies below the next.
        Order::from_wall_ms(self.env.wall_ms().saturating_add(ahead_ms + 1))
    }

    /// Takes note of a time that a peer told, or a record has. False = it is too far ahead to be believed.
    #[inline]
    pub(super) fn observe(&self, order: Order) -> bool {
        self.clock.borrow_mut().observe(self.env.wall_ms(), order)
    }

    /// Whether an order lies further ahead than is believed.
    #[inline]
    pub(super) fn is_afar(&self, order: Order) -> bool {
        self.clock.borrow().is_afar(self.env.wall_ms(), order)
    }

    /// Compares wall clocks, and raises the persisted bound ahead of need, and the mark of records from afar if the log has refused it.
    pub(super) fn tend_clock(self: &Rc<Self>) {
        self.walls.borrow_mut().forget(self.env.now_ns() / MS);
        self.is_unjudged();
        self.tell_wall_ahead();
        // What is refused now is tried again at the next tick.
        let _refused = self.raise_bound();
        self.tend_mark();
    }

    /// What has expired for everybody, and may be done away with: by a wall clock that is not ahead of most others'. `None` = there are not enough
    /// to compare it with now; in a cluster of one or two there never are, and it is believed.
    pub(super) fn expired_ms(&self, now_ns: u64) -> Option<u64> {
        let must_compare = self.settings.topology.nodes.len() > 2;
        if must_compare && !self.walls.borrow().can_judge() {
            return None;
        }
        let drift_ms = self.settings.clock_drift_max_ms;
        Some(self.passed.borrow_mut().at(now_ns, self.believed_wall_ms(), drift_ms))
    }

    /// Stages the next bound, if one is due and none is on its way; the error says why it was refused.
    fn raise_bound(&self) -> Result<(), ErrorCode> {
        if self.lease_staged.get() {
            return Ok(());
        }
        let wall_ms = self.believed_wall_ms();
        // Once it was judged, everything that is minted from now on lies above what an earlier life can have had. A bound below that says
        // nothing of it, though, and the next life goes by the bound: it is told as known when it has come so far.
        let is_above = |clock: &Clock, bound| self.is_judged.get() && bound >= clock.floor();
        let (bound, is_known) = {
            let mut clock = self.clock.borrow_mut();
            let must_tell = !self.is_bound_told_known.get() && is_above(&clock, clock.bound());
            let bound = clock.lease(wall_ms).or_else(|| clock.relax(wall_ms));
            let Some(bound) = bound.or_else(|| must_tell.then(|| clock.bound())) else { return Ok(()) };
            (bound, self.is_bound_known || is_above(&clock, bound))
        };
        let number = self.bound_number.get() + 1;
        let value = Bound { bound, cores: self.settings.cores, is_known }.encode();
        let key = BoundKey::of(&self.settings);
        self.stage(key.key(), record(number, &value), 0, Ack::ClockBound(bound))?;
        self.bound_number.set(number);
        self.lease_staged.set(true);
        self.is_bound_told_known.set(is_known);
        Ok(())
    }
}
