//! The hybrid logical clock that orders writes (Kulkarni et al., "Logical Physical Clocks", 2014).
//!
//! Minted orders grow: above every order minted or observed here, above the client's, above the wall clock's millisecond, and
//! above the persisted bound of an earlier life. Drift is refused when *minting* only: refusing old or odd records from
//! repair would keep replicas from converging.
//!
//! Invariant: nothing is minted at or above `persisted`. The host persists a higher bound ahead of need ([`Clock::lease`]).

use ferrite_wire::Order;

/// Tolerances of a clock, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct ClockSettings {
    /// How far ahead of the wall clock a seen order may be when minting.
    pub drift_max_ms: u64,
    /// How far ahead of the wall clock the bound is persisted.
    pub lease_ms: u64,
}

impl Default for ClockSettings {
    fn default() -> Self {
        ClockSettings { drift_max_ms: 500, lease_ms: 10_000 }
    }
}

/// Why nothing was minted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MintError {
    /// The client or a peer has seen a time further ahead of this node's wall clock than is tolerated, or this node's wall
    /// clock has fallen behind.
    Drift {
        /// How far ahead, in milliseconds.
        ahead_ms: u64,
    },
    /// The persisted bound is reached: the host has not yet persisted a higher one.
    BoundReached,
}

/// A hybrid logical clock.
#[derive(Clone, Debug)]
pub struct Clock {
    settings: ClockSettings,
    /// The highest order minted or observed.
    latest: Order,
    /// Orders below this may be minted.
    persisted: Order,
}

impl Clock {
    /// A clock for a new life of the node; `bound` is what the last life persisted (0 = none). It mints nothing until a bound
    /// has been persisted.
    pub fn restart(settings: ClockSettings, bound: Order) -> Clock {
        Clock { settings, latest: bound, persisted: bound }
    }

    /// The highest order minted or observed.
    pub fn latest(&self) -> Order {
        self.latest
    }

    /// Takes note of a record's or peer's order. Orders beyond the tolerated drift are noted too: what exists must be beaten.
    pub fn observe(&mut self, order: Order) {
        self.latest = self.latest.max(order);
    }

    /// An order for a new write, above `seen` (the highest its client has seen).
    pub fn mint(&mut self, wall_ms: u64, seen: Order) -> Result<Order, MintError> {
        let floor = self.latest.max(seen);
        let ahead_ms = floor.wall_ms().saturating_sub(wall_ms);
        // The bound of an earlier life may lie a lease ahead of the clock; that is this node's own doing, not drift.
        if ahead_ms > self.settings.drift_max_ms + self.settings.lease_ms
            || seen.wall_ms().saturating_sub(wall_ms) > self.settings.drift_max_ms && seen > self.latest
        {
            return Err(MintError::Drift { ahead_ms });
        }
        let next = Order(floor.0 + 1).max(Order::from_wall_ms(wall_ms));
        if next >= self.persisted {
            return Err(MintError::BoundReached);
        }
        self.latest = next;
        Ok(next)
    }

    /// The bound to persist now, if the persisted one is less than half a lease ahead.
    pub fn lease(&self, wall_ms: u64) -> Option<Order> {
        let base_ms = wall_ms.max(self.latest.wall_ms());
        let low = Order::from_wall_ms(base_ms + self.settings.lease_ms / 2);
        (self.persisted < low).then(|| Order::from_wall_ms(base_ms + self.settings.lease_ms))
    }

    /// A bound has been persisted.
    pub fn persisted(&mut self, bound: Order) {
        self.persisted = self.persisted.max(bound);
    }
}
