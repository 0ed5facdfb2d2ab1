//! The hybrid logical clock that orders writes (Kulkarni et al., "Logical Physical Clocks", 2014).
//!
//! An order is minted above every order this clock has minted or observed, above what the client has seen, above the wall
//! clock's millisecond, and above everything an earlier life may have minted. These guards keep that from going wrong:
//!
//! | guard | against | kept by |
//! |---|---|---|
//! | nothing is minted at or above the persisted bound | a restart with an earlier wall clock | [`Clock::lease`] |
//! | nothing is minted further ahead of the wall clock than `drift_max_ms` | a client's time that is wrong | [`MintError::Drift`] |
//! | nothing is minted while the wall clock is further ahead of most other nodes' than that | a wall clock that is wrong, here | [`Walls`](crate::Walls), and the host |
//! | what is further ahead of the wall clock than that is not observed | a wall clock that is wrong, elsewhere | [`Clock::observe`] |
//! | the bound is never persisted further ahead than `drift_max_ms + lease_ms`, and taken back where the wall clock is | one wrong order or clock poisoning later lives | [`Clock::lease`], [`Clock::relax`] |
//!
//! *One wrong clock stops nobody else.* A node that is ahead of most mints nothing, and the others do not follow it: the time of a peer's frame,
//! and the order of a record, move this clock up to the tolerated drift only. What lies beyond is left out of the clock, not
//! out of the data: a record that exists is applied, wherever it comes from, for refusing old or odd records would keep replicas from
//! converging. But a record must be beaten by what is written after it, or an acknowledged write would silently lose to it. So where the clock
//! has not followed a record, a write of *its key* is refused (`clock drift`), until its time has come; all other keys go on:
//!
//! | a record from further ahead | a later write of its key |
//! |---|---|
//! | last write wins | is refused by each replica that has the record, which looks before it takes a write while it may have such: the host's part |
//! | siblings | is minted above the key's set, which is read first anyhow, and so refused here as [`MintError::Drift`] |
//!
//! A client that has read such a record carries its time, and is refused too, whatever it writes: its next write must not lie before what it has seen.
//!
//! Orders that this node itself minted while its wall clock was ahead stay in the clock, and nothing is minted until their time has come: numbers of dots
//! must not repeat, and a node goes forward.
//!
//! After a crash the bound lies up to a lease ahead of the last mint. Orders start above it, and while it is further ahead
//! than `drift_max_ms` nothing is minted: at most `lease_ms`, less what the restart itself took. That is why a lease is
//! short. Rejected: a lease of many seconds with a tolerance to match. Every restart would push the cluster's time seconds
//! into the future, and other nodes would refuse the clients that have seen it.

use ferrite_wire::Order;

use crate::planted;

/// Tolerances of a clock, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct ClockSettings {
    /// How far ahead of the wall clock an order may be minted.
    pub drift_max_ms: u64,
    /// How far ahead of need the bound is persisted; it is renewed when half of it is used up.
    pub lease_ms: u64,
}

impl Default for ClockSettings {
    fn default() -> Self {
        ClockSettings { drift_max_ms: 500, lease_ms: 1_000 }
    }
}

/// Why nothing was minted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MintError {
    /// The order would be further ahead of this node's wall clock than is tolerated: the client has seen such a
    /// time, an earlier life of this node may have minted it, or this node's wall clock has fallen back.
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
    /// The highest order minted or observed in this life. Others may be told.
    latest: Order,
    /// An earlier life minted nothing at or above this. Others are not told: it lies ahead of what really happened.
    floor: Order,
    /// Orders below this may be minted. Invariant: a bound at least this high is durable.
    persisted: Order,
}

impl Clock {
    /// A clock for a new life of the node; `bound` is what the last life persisted (0 = none). It mints nothing until a
    /// bound has been persisted.
    pub fn restart(settings: ClockSettings, bound: Order) -> Clock {
        assert!(settings.lease_ms >= 2, "half a lease is at least a millisecond");
        let bound = if planted::active(planted::Bug::ClockNotPersisted) { Order(0) } else { bound };
        Clock { settings, latest: Order(0), floor: bound, persisted: bound }
    }

    /// How long to wait after a restart until minting is possible, in milliseconds. The bound of a life that ended a
    /// moment ago lies up to a lease beyond the tolerated drift. A bound further ahead than that says that the wall clock
    /// was set back; no reasonable wait helps then, and the answer is 0.
    pub fn settling_ms(&self, wall_ms: u64) -> u64 {
        let ahead_ms = self.floor.wall_ms().saturating_sub(wall_ms);
        let wait_ms = ahead_ms.saturating_sub(self.settings.drift_max_ms);
        if wait_ms <= self.settings.lease_ms { wait_ms } else { 0 }
    }

    /// The highest order minted or observed in this life.
    pub fn latest(&self) -> Order {
        self.latest
    }

    /// Takes note of a record's or peer's order. False = it is further ahead of the wall clock than is tolerated, and was left out: a record's key then
    /// takes no writes until its time has come, which is the caller's to see to.
    #[inline]
    pub fn observe(&mut self, wall_ms: u64, order: Order) -> bool {
        let is_near = !self.is_afar(wall_ms, order);
        if is_near {
            self.latest = self.latest.max(order);
        }
        is_near
    }

    /// Whether an order is further ahead of the wall clock than is tolerated.
    #[inline]
    pub fn is_afar(&self, wall_ms: u64, order: Order) -> bool {
        order.wall_ms() > wall_ms.saturating_add(self.settings.drift_max_ms)
    }

    /// From now on nothing is minted at or below this: an earlier life may have come so far.
    pub fn begin_above(&mut self, order: Order) {
        self.floor = self.floor.max(order);
    }

    /// An earlier life minted nothing above this: a bound below it says too little to a later one.
    pub fn floor(&self) -> Order {
        self.floor
    }

    /// An order for a new write, above `seen` (the highest its client has seen). A refusal changes nothing.
    #[inline]
    pub fn mint(&mut self, wall_ms: u64, seen: Order) -> Result<Order, MintError> {
        let seen = if planted::active(planted::Bug::MintsBelowSession) { Order(0) } else { seen };
        let above = self.latest.max(seen).max(self.floor);
        // Saturating: the highest order there is lies beyond any tolerated drift and is refused below.
        let next = Order(above.0.saturating_add(1)).max(Order::from_wall_ms(wall_ms));
        let ahead_ms = next.wall_ms() - wall_ms;
        if ahead_ms > self.settings.drift_max_ms {
            return Err(MintError::Drift { ahead_ms });
        }
        if next >= self.persisted {
            return Err(MintError::BoundReached);
        }
        self.latest = next;
        Ok(next)
    }

    /// The bound to persist now, if less than half a lease is left. Mints go on below the old bound until
    /// [`Clock::persisted`] says that the new one is durable.
    pub fn lease(&self, wall_ms: u64) -> Option<Order> {
        // Needed next is what could be minted next, and that is never beyond the tolerated drift.
        let above = self.latest.max(self.floor);
        let need_ms = above.wall_ms().clamp(wall_ms, wall_ms + self.settings.drift_max_ms);
        let low = Order::from_wall_ms(need_ms + self.settings.lease_ms / 2);
        (self.persisted < low).then(|| Order::from_wall_ms(need_ms + self.settings.lease_ms))
    }

    /// A lower bound to persist in place of the present one, if that lies far beyond what could be minted next: the wall clock was ahead when it was
    /// persisted, and nothing has been minted there. From now on nothing is minted at or above the lower one. Left as it is, the
    /// next life would have to wait for it.
    pub fn relax(&mut self, wall_ms: u64) -> Option<Order> {
        let ClockSettings { drift_max_ms, lease_ms } = self.settings;
        let above = self.latest.max(self.floor);
        let need_ms = above.wall_ms().max(wall_ms);
        let is_far = self.persisted > Order::from_wall_ms(need_ms + drift_max_ms + lease_ms);
        if !is_far || self.is_afar(wall_ms, above) {
            return None;
        }
        self.persisted = Order::from_wall_ms(need_ms + lease_ms);
        Some(self.persisted)
    }

    /// The bound below which it may mint.
    pub fn bound(&self) -> Order {
        self.persisted
    }

    /// A bound has been made durable.
    pub fn persisted(&mut self, bound: Order) {
        self.persisted = self.persisted.max(bound);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node that was killed and came back within a second used to refuse all writes as clock drift until its clock had
    /// passed the bound of the life before.
    #[test]
    fn a_quick_restart_waits_for_its_bound_and_then_mints() {
        let settings = ClockSettings { drift_max_ms: 500, lease_ms: 1_000 };
        for (busy_ms, down_ms) in [(0, 0), (500, 0), (500, 300), (0, 700), (250, 5_000)] {
            let wall_ms = 1_000_000;
            let mut before = Clock::restart(settings, Order(0));
            assert!(before.observe(wall_ms, Order::from_wall_ms(wall_ms + busy_ms)));
            let bound = before.lease(wall_ms).expect("nothing is persisted yet");
            let mut clock = Clock::restart(settings, bound);
            let back_ms = wall_ms + down_ms;
            let ready_ms = back_ms + clock.settling_ms(back_ms);
            assert!(ready_ms - back_ms <= 1_000, "{busy_ms} {down_ms}");
            let next = clock.lease(ready_ms);
            clock.persisted(
                next.unwrap_or_else(|| panic!("{busy_ms} {down_ms}: a new life needs a new bound")),
            );
            let minted = clock.mint(ready_ms, Order(0)).expect("the wait was long enough");
            assert!(minted >= bound);
            if ready_ms > back_ms {
                assert!(clock.clone().mint(ready_ms - 1, Order(0)).is_err(), "the wait was too long");
            }
        }
        let clock_set_back = Clock::restart(settings, Order::from_wall_ms(9_000_000));
        assert_eq!(clock_set_back.settling_ms(1_000_000), 0);
    }
    use proptest::prelude::*;

    const T: u64 = 1_700_000_000_000;
    const NONE: Order = Order(0);
    const PER_MS: u64 = 1 << 16;

    fn settings() -> ClockSettings {
        ClockSettings { drift_max_ms: 500, lease_ms: 1_000 }
    }

    /// A clock in its first life with a durable bound.
    fn started(wall_ms: u64) -> Clock {
        let mut clock = Clock::restart(settings(), NONE);
        let bound = clock.lease(wall_ms).expect("nothing is persisted yet");
        clock.persisted(bound);
        clock
    }

    #[test]
    fn follows_the_wall_clock_and_counts_within_a_millisecond() {
        let mut clock = started(T);
        assert_eq!(clock.mint(T, NONE), Ok(Order::from_wall_ms(T)));
        assert_eq!(clock.mint(T, NONE), Ok(Order(Order::from_wall_ms(T).0 + 1)));
        assert_eq!(clock.mint(T + 1, NONE), Ok(Order::from_wall_ms(T + 1)));
    }

    #[test]
    fn a_burst_within_one_tick_runs_into_the_next_milliseconds() {
        let mut clock = started(T);
        let mut last = NONE;
        for _ in 0..3 * PER_MS {
            let next = clock.mint(T, NONE).expect("three milliseconds ahead is tolerated");
            assert!(next > last);
            last = next;
        }
        assert_eq!(last.wall_ms(), T + 2);
        assert_eq!(clock.mint(T + 1, NONE).map(Order::wall_ms), Ok(T + 3));
    }

    #[test]
    fn a_wall_clock_that_steps_back_does_not_take_time_with_it() {
        let mut clock = started(T);
        let before = clock.mint(T, NONE).expect("in lease");
        assert_eq!(clock.mint(T - 500, NONE), Ok(Order(before.0 + 1)));
        assert_eq!(clock.mint(T - 501, NONE), Err(MintError::Drift { ahead_ms: 501 }));
        assert_eq!(clock.mint(T - 500, NONE), Ok(Order(before.0 + 2)), "a refusal changes nothing");
    }

    #[test]
    fn mints_above_what_the_client_has_seen_up_to_the_tolerated_drift() {
        let mut clock = started(T);
        let tolerated = Order::from_wall_ms(T + 500);
        assert_eq!(clock.mint(T, tolerated), Ok(Order(tolerated.0 + 1)));
        for far in [Order::from_wall_ms(T + 501), Order(u64::MAX - 1), Order(u64::MAX)] {
            let ahead_ms = far.wall_ms() - T;
            assert_eq!(clock.mint(T, far), Err(MintError::Drift { ahead_ms }));
        }
        assert_eq!(
            clock.latest(),
            Order(tolerated.0 + 1),
            "a client's claim does not move the clock by itself"
        );
    }

    #[test]
    fn what_was_observed_is_beaten() {
        let mut clock = started(T);
        let near = Order::from_wall_ms(T + 500);
        assert!(clock.observe(T, near));
        assert_eq!(clock.mint(T, NONE), Ok(Order(near.0 + 1)));
    }

    /// One node with a clock that was a minute ahead, and one record of it, had every node that saw that record refuse all writes for a minute.
    #[test]
    fn a_time_from_far_ahead_does_not_move_the_clock_and_writes_go_on() {
        let mut clock = started(T);
        for far in [Order::from_wall_ms(T + 501), Order::from_wall_ms(T + 60_000), Order(u64::MAX)] {
            assert!(!clock.observe(T, far));
            assert!(clock.is_afar(T, far));
        }
        assert_eq!((clock.latest(), clock.mint(T, NONE)), (NONE, Ok(Order::from_wall_ms(T))));
        let far = Order::from_wall_ms(T + 501);
        assert_eq!(clock.mint(T, far), Err(MintError::Drift { ahead_ms: 501 }), "above it nothing is minted");
        assert!(clock.observe(T + 1, far), "its time has come");
        assert_eq!(clock.mint(T + 1, NONE), Ok(Order(far.0 + 1)));
    }

    #[test]
    fn one_wrong_order_does_not_reach_the_persisted_bound() {
        let mut clock = started(T);
        clock.observe(T, Order(u64::MAX));
        assert!(clock.mint(T, NONE).is_ok());
        assert_eq!(clock.lease(T), None, "more than half a lease is left");
        let bound = clock.lease(T + 501).expect("less than half a lease is left");
        assert_eq!(bound, Order::from_wall_ms(T + 1_501), "no further than the lease");
    }

    /// A node that was started with its clock a day ahead and set right before it had minted anything was fine, until it was started anew: then it waited
    /// for a day.
    #[test]
    fn a_bound_from_a_clock_that_was_ahead_is_taken_back_if_nothing_was_minted_there() {
        const DAY_MS: u64 = 86_400_000;
        let mut clock = Clock::restart(settings(), Order::from_wall_ms(T));
        clock.persisted(clock.lease(T + DAY_MS).expect("a new life"));
        assert_eq!(clock.relax(T + DAY_MS), None, "as far as it knows, that is the time");
        let relaxed = clock.relax(T).expect("the wall clock was set right");
        assert_eq!(relaxed, Order::from_wall_ms(T + 1_000));
        assert_eq!(clock.relax(T), None, "once");
        assert_eq!(clock.mint(T + 1_000, NONE), Err(MintError::BoundReached), "it counts at once");
        let mut minted = started(T + DAY_MS);
        minted.mint(T + DAY_MS, NONE).expect("in lease");
        assert_eq!(minted.relax(T), None, "the next life must mint above what this one has");
        assert_eq!(started(T).relax(T - 400), None, "a clock that is slewed moves no bounds");
    }

    #[test]
    fn nothing_is_minted_before_a_bound_is_durable_nor_at_it() {
        let mut clock = Clock::restart(settings(), NONE);
        assert_eq!(clock.mint(T, NONE), Err(MintError::BoundReached));
        let bound = clock.lease(T).expect("nothing is persisted yet");
        assert_eq!(clock.mint(T, NONE), Err(MintError::BoundReached), "asking for a lease is not having it");
        clock.persisted(bound);
        assert_eq!(clock.mint(T, NONE), Ok(Order::from_wall_ms(T)));
        assert_eq!(clock.mint(T + 1_000, NONE), Err(MintError::BoundReached));
        assert_eq!(clock.mint(T + 999, NONE), Ok(Order::from_wall_ms(T + 999)));
    }

    #[test]
    fn a_lease_is_renewed_when_half_of_it_is_left() {
        let mut clock = started(T);
        assert_eq!(clock.lease(T + 500), None);
        assert_eq!(clock.lease(T + 501), Some(Order::from_wall_ms(T + 1_501)));
        clock.persisted(Order::from_wall_ms(T + 1_501));
        assert_eq!(clock.lease(T + 501), None);
        clock.persisted(Order::from_wall_ms(T));
        assert_eq!(clock.lease(T + 501), None, "a bound that lands late does not lower a higher one");
    }

    #[test]
    fn a_restart_with_an_earlier_wall_clock_mints_above_the_earlier_life() {
        let mut first = started(T);
        let last = first.mint(T + 900, NONE).expect("in lease");
        let mut second = Clock::restart(settings(), Order::from_wall_ms(T + 1_000));
        assert_eq!(second.mint(T, NONE), Err(MintError::Drift { ahead_ms: 1_000 }), "the clock went back");
        second.persisted(second.lease(T + 600).expect("the bound is near"));
        let next = second.mint(T + 600, NONE).expect("within the tolerated drift");
        assert!(next > last);
        assert!(next > Order::from_wall_ms(T + 1_000));
    }

    #[test]
    fn a_restart_can_renew_at_once_and_mints_as_soon_as_drift_allows() {
        let earlier = Order::from_wall_ms(T + 900);
        let mut clock = Clock::restart(settings(), earlier);
        clock.persisted(clock.lease(T).expect("what is minted next lies at the old bound"));
        assert_eq!(clock.mint(T + 399, NONE), Err(MintError::Drift { ahead_ms: 501 }));
        assert_eq!(clock.mint(T + 400, NONE), Ok(Order(earlier.0 + 1)));
    }

    #[test]
    fn a_node_that_crashes_again_and_again_does_not_run_ahead() {
        let mut bound = NONE;
        for life in 0..100 {
            let mut clock = Clock::restart(settings(), bound);
            while let Some(next) = clock.lease(T + life) {
                clock.persisted(next);
                bound = next;
            }
            assert!(bound <= Order::from_wall_ms(T + life + 1_500));
        }
    }

    #[test]
    fn others_are_not_told_of_the_bound() {
        let clock = Clock::restart(settings(), Order::from_wall_ms(T + 1_000));
        assert_eq!(clock.latest(), NONE, "a restart would push everybody's time ahead");
    }

    #[derive(Clone, Debug)]
    enum Event {
        Mint { seen_ahead_ms: Option<i64> },
        Observe { ahead_ms: i64 },
        WallMoves { by_ms: i64 },
        LeaseStaged,
        LeaseLands,
        Restart,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            6 => prop::option::of(-2_000i64..800).prop_map(|seen_ahead_ms| Event::Mint { seen_ahead_ms }),
            2 => (-2_000i64..700).prop_map(|ahead_ms| Event::Observe { ahead_ms }),
            3 => (-800i64..900).prop_map(|by_ms| Event::WallMoves { by_ms }),
            1 => (-5_000i64..5_000).prop_map(|by_ms| Event::WallMoves { by_ms }),
            2 => Just(Event::LeaseStaged),
            2 => Just(Event::LeaseLands),
            1 => Just(Event::Restart),
        ]
    }

    proptest! {
        /// Over many lives and a wall clock that jumps: what is minted grows, across restarts too, beats what the client
        /// and this life have seen, stays within the drift, and lies below what was durable.
        #[test]
        fn minted_orders_grow_across_lives(events in prop::collection::vec(event(), 1..200)) {
            let (mut wall, mut durable, mut staged) = (T, NONE, None);
            let (mut last_minted, mut observed) = (NONE, NONE);
            let mut clock = Clock::restart(settings(), durable);
            let order = |wall: u64, ahead_ms: i64| Order::from_wall_ms(wall.saturating_add_signed(ahead_ms));
            for event in events {
                match event {
                    Event::Mint { seen_ahead_ms } => {
                        let seen = seen_ahead_ms.map_or(NONE, |ahead_ms| order(wall, ahead_ms));
                        if let Ok(minted) = clock.mint(wall, seen) {
                            prop_assert!(minted > last_minted && minted > observed && minted > seen);
                            prop_assert!(minted >= Order::from_wall_ms(wall));
                            prop_assert!(minted.wall_ms() <= wall + 500);
                            prop_assert!(minted < durable);
                            last_minted = minted;
                        }
                    }
                    Event::Observe { ahead_ms } => {
                        let told = order(wall, ahead_ms);
                        prop_assert_eq!(clock.observe(wall, told), ahead_ms <= 500);
                        if ahead_ms <= 500 {
                            observed = observed.max(told);
                        }
                    }
                    Event::WallMoves { by_ms } => wall = wall.saturating_add_signed(by_ms),
                    Event::LeaseStaged => if staged.is_none() {
                        staged = clock.lease(wall).or_else(|| clock.relax(wall));
                    },
                    Event::LeaseLands => if let Some(bound) = staged.take() {
                        durable = bound;
                        clock.persisted(bound);
                    },
                    Event::Restart => {
                        (staged, observed) = (None, NONE);
                        clock = Clock::restart(settings(), durable);
                    }
                }
            }
        }
    }
}
