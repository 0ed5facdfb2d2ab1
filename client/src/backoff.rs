//! How long to wait before trying again: doubling, capped, jittered.
//!
//! The wait is drawn from the upper half of the doubled time, so that clients that lost the same server at the same
//! moment do not come back at the same moment. The random numbers are seeded, so that a test repeats.

use std::time::Duration;

/// A small seeded generator (SplitMix64, Steele et al. 2014); for jitter only.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(crate) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// The wait after the `failures`-th failure in a row (from 1): between half and all of `min · 2^(failures − 1)`, that
/// capped at `max`.
pub(crate) fn backoff(failures: u32, min: Duration, max: Duration, random: &mut Random) -> Duration {
    let doublings = failures.saturating_sub(1).min(20);
    jittered(min.saturating_mul(1 << doublings).min(max), random)
}

/// Between half and all of `whole`.
pub(crate) fn jittered(whole: Duration, random: &mut Random) -> Duration {
    let half_us = (whole.as_micros() / 2) as u64;
    Duration::from_micros(half_us + random.draw() % (half_us + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_differ() {
        let (min, max) = (Duration::from_millis(10), Duration::from_secs(2));
        let mut random = Random::new(7);
        for failures in 1..100 {
            let whole = min.saturating_mul(1 << (failures - 1).min(20)).min(max);
            let waits: Vec<Duration> = (0..50).map(|_| backoff(failures, min, max, &mut random)).collect();
            assert!(waits.iter().all(|wait| *wait >= whole / 2 && *wait <= whole), "{failures}: {waits:?}");
            assert!(waits.iter().any(|wait| *wait != waits[0]), "jitter");
        }
    }
}
