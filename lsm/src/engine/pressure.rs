//! Back-pressure: what background work is behind by becomes a price per byte that writers pay in time.
//!
//! Each cause is a *lag* from 0 (nothing is behind) to 1 (the bound is reached):
//!
//! | cause | of | 0 at | 1 at |
//! |---|---|---|---|
//! | memtables, frozen and active | the core | [`MEMTABLES_SLOW`] targets | [`MEMTABLES_MAX`] targets |
//! | the log | the core | its cap | [`LOG_OVERSHOOT_MAX`] caps |
//! | tables in level 0 | a store | `l0_tables_slow` | `l0_tables_max` |
//! | a sorted level | a store | [`LEVEL_SCORE_SLOW`] target lengths | [`LEVEL_SCORE_MAX`] |
//!
//! A byte written to a store costs [`PRICE_MAX_PS`] × lag⁴, where lag is the largest of the core's and that store's. A price is a
//! rate: it rises until what comes in is what background work gets done, anywhere between gigabytes and tens of
//! kilobytes per second, so the bounds are not reached while writers wait as they are asked. The fourth power keeps the price
//! of small lags, which every flush makes, below what can be felt. A group owes the sum of its records' prices: whoever
//! writes to other stores pays nothing for the one that lags.
//!
//! The target of memtables is what [`super::memory`] has for those that are written to: `memtable_bytes`, or less.
//!
//! Only at a bound writes are refused: for the whole core if it is the core's, else for that store. No group waits longer than
//! `write_delay_max_us`; once one owes that, what comes next goes into another.

use super::Core;
use super::memory::MEMTABLES_MAX;
use super::outcome::Refusal;
use super::store::Stores;
use crate::{Disk, Pace};

/// Memtable targets that frozen and active memtables may take before writers are delayed: one that is written to, and half
/// of one that is being flushed.
const MEMTABLES_SLOW: f64 = 1.5;
/// The log may grow to this many times its cap before writes are refused.
const LOG_OVERSHOOT_MAX: u64 = 2;
/// Target lengths of a sorted level, in thousandths, from which writers are delayed.
const LEVEL_SCORE_SLOW: u64 = 4_000;
/// And where the delay is highest. Writes are not refused for it.
const LEVEL_SCORE_MAX: u64 = 16_000;
/// Price of a byte at a lag of one, in picoseconds: 60 KB per second.
const PRICE_MAX_PS: f64 = 16_000_000.0;
/// What a record costs beside its bytes.
const RECORD_COST_BYTES: u64 = 32;
/// Length of the group by which [`super::Stats::write_delay_us`] tells the price.
const TYPICAL_GROUP_BYTES: u64 = 64 << 10;

impl<D: Disk, P: Pace> Core<D, P> {
    /// Freezes what is due for a flush, and decides anew whether and how much writers are held back. Called when either may have changed.
    pub(super) fn weigh(&self) {
        let stores = &mut *self.stores.borrow_mut();
        let target = self.memtable_target_bytes();
        self.freeze_due(stores, target);
        self.share_memory(stores.claimed_bytes());
        self.refusal.set(self.refusal_of_core(stores, target));
        let core_lag = self.core_lag(stores, target);
        let options = &self.options;
        for store in &mut stores.stores {
            let l0_tables = store.levels.l0_tables();
            let l0_lag = lag(l0_tables as f64, options.l0_tables_slow as f64, options.l0_tables_max as f64);
            let score = store.counts.level_score as f64;
            let level_lag = lag(score, LEVEL_SCORE_SLOW as f64, LEVEL_SCORE_MAX as f64);
            store.price_ps = price_ps(core_lag.max(l0_lag).max(level_lag));
            store.is_overloaded = l0_tables >= options.l0_tables_max;
        }
    }

    fn freeze_due(&self, stores: &mut Stores<D>, target: usize) {
        while stores.active_bytes > target {
            let Some(index) = stores.largest().filter(|&index| !stores.is_target(index)) else { break };
            stores.freeze(index);
        }
        // Whatever waits for memory waits for a flush.
        if stores.frozen_bytes == 0
            && self.is_memory_spent(stores.claimed_bytes())
            && let Some(index) = stores.largest()
            && !stores.is_target(index)
        {
            stores.freeze(index);
        }
        // By files, not by their content: each start opens a new segment, and many short lives must not make a long recovery.
        let is_long = self.log.live_file_bytes() > self.options.log_bytes_max();
        // Where there is no room for a segment, one that nothing needs any more takes its place.
        let wants_old = self.disk_full.get() && self.log.live_file_bytes() > self.options.log.segment_bytes;
        if (is_long || wants_old)
            && let Some((index, _)) = stores.oldest()
            && stores.stores[index].frozen.is_empty()
            && !stores.is_target(index)
        {
            stores.freeze(index);
        }
    }

    fn refusal_of_core(&self, stores: &Stores<D>, target: usize) -> Option<Refusal> {
        let memtables = stores.claimed_bytes();
        let are_full = memtables > MEMTABLES_MAX * target || self.is_memory_spent(memtables);
        let log_bytes_max = self.options.log_bytes_max().saturating_mul(LOG_OVERSHOOT_MAX);
        if self.fenced.get() {
            Some(Refusal::Fenced)
        } else if self.disk_full.get() {
            Some(Refusal::DiskFull)
        } else if are_full || self.log.bytes() > log_bytes_max {
            Some(Refusal::Overloaded)
        } else {
            None
        }
    }

    fn core_lag(&self, stores: &Stores<D>, target: usize) -> f64 {
        let target = target as f64;
        let memtables = stores.memory_bytes() as f64;
        let log_bytes_max = self.options.log_bytes_max() as f64;
        let memtable_lag = lag(memtables, MEMTABLES_SLOW * target, MEMTABLES_MAX as f64 * target);
        let log_lag = lag(self.log.bytes() as f64, log_bytes_max, LOG_OVERSHOOT_MAX as f64 * log_bytes_max);
        memtable_lag.max(log_lag)
    }

    /// Whether the group that fills owes so much already that it should go first.
    #[inline]
    pub(super) fn is_group_dear(&self) -> bool {
        self.owed_ps.get() >= self.delay_max_ps() && self.log.has_staged()
    }

    /// Charges the group that fills for a record.
    #[inline]
    pub(super) fn charge(&self, price_ps: u64, bytes: usize) {
        if price_ps > 0 {
            let owed_ps = price_ps.saturating_mul(bytes as u64 + RECORD_COST_BYTES);
            self.owed_ps.set(self.owed_ps.get().saturating_add(owed_ps));
        }
    }

    /// What the group that fills should wait before it is committed, in microseconds.
    pub(super) fn write_delay_us(&self) -> u64 {
        self.owed_ps.get().min(self.delay_max_ps()) / PS_PER_US
    }

    /// What a group of [`TYPICAL_GROUP_BYTES`] to the store that lags most would wait.
    pub(super) fn typical_delay_us(&self) -> u64 {
        let price_ps = self.stores.borrow().stores.iter().map(|store| store.price_ps).max().unwrap_or(0);
        price_ps.saturating_mul(TYPICAL_GROUP_BYTES).min(self.delay_max_ps()) / PS_PER_US
    }

    fn delay_max_ps(&self) -> u64 {
        self.options.write_delay_max_us.saturating_mul(PS_PER_US)
    }
}

const PS_PER_US: u64 = 1_000_000;

/// How far `value` is on its way from `slow` to `max`.
fn lag(value: f64, slow: f64, max: f64) -> f64 {
    if value <= slow {
        0.0
    } else if max <= slow {
        1.0
    } else {
        ((value - slow) / (max - slow)).min(1.0)
    }
}

fn price_ps(lag: f64) -> u64 {
    (PRICE_MAX_PS * lag.powi(4)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_rise_with_the_lag_and_have_no_steps_of_their_own() {
        let prices: Vec<u64> = (0..=300).map(|value| price_ps(lag(f64::from(value), 100.0, 200.0))).collect();
        assert!(prices.is_sorted());
        assert_eq!((prices[100], prices[200], prices[300]), (0, PRICE_MAX_PS as u64, PRICE_MAX_PS as u64));
        let steepest = prices.windows(2).map(|pair| pair[1] - pair[0]).max();
        assert!(steepest.is_some_and(|step| step < PRICE_MAX_PS as u64 / 20), "{steepest:?}");
        assert_eq!(lag(5.0, 5.0, 5.0), 0.0);
        assert_eq!(lag(6.0, 5.0, 5.0), 1.0);
    }
}
