//! The quantile of recent latencies after which a read asks another replica.
//!
//! A histogram with buckets of an eighth of an octave, which forgets by halves: after every 1,024 answers each bucket counts half. So
//! the last few thousand answers decide, and a change shows after some hundreds.
//!
//! | answers so far | delay |
//! |---|---|
//! | fewer than 64 | 10 ms |
//! | more | the upper end of the bucket that 97 % lie in or below, at least 0.2 ms and at most 1 s |
//!
//! A bucket is at most 12.5 % wide, so the delay is never below the quantile and at most that much above it.

/// Share of answers that come before the delay is over, in percent.
const QUANTILE_PERCENT: u64 = 97;
/// Delay before there is anything to go by, in nanoseconds.
const DELAY_FIRST_NS: u64 = 10_000_000;
/// Shortest delay, in nanoseconds: below it, what is waited for is the next turn of a loop.
const DELAY_MIN_NS: u64 = 200_000;
/// Longest delay, in nanoseconds.
const DELAY_MAX_NS: u64 = 1_000_000_000;
/// Fewest answers to go by.
const ANSWERS_MIN: u64 = 64;
/// Answers after which what came before counts half.
const ANSWERS_HALVED: u64 = 1_024;
/// Answers after which the delay is worked out again.
const ANSWERS_REVIEWED: u64 = 64;
/// Parts of an octave.
const PARTS: u64 = 8;
/// Buckets: up to 2^31 µs.
const BUCKETS: usize = 32 * PARTS as usize;

/// Recent latencies.
#[derive(Clone, Debug)]
pub struct Latencies {
    counts: [u32; BUCKETS],
    total: u64,
    since_halved: u64,
    since_reviewed: u64,
    delay_ns: u64,
}

impl Default for Latencies {
    fn default() -> Latencies {
        Latencies {
            counts: [0; BUCKETS],
            total: 0,
            since_halved: 0,
            since_reviewed: 0,
            delay_ns: DELAY_FIRST_NS,
        }
    }
}

impl Latencies {
    /// An answer took so long.
    pub fn record(&mut self, latency_ns: u64) {
        self.counts[bucket_of(latency_ns / 1_000)] += 1;
        (self.total, self.since_halved) = (self.total + 1, self.since_halved + 1);
        self.since_reviewed += 1;
        if self.since_halved >= ANSWERS_HALVED {
            self.counts.iter_mut().for_each(|count| *count /= 2);
            self.total = self.counts.iter().map(|count| u64::from(*count)).sum();
            self.since_halved = 0;
        }
        if self.since_reviewed >= ANSWERS_REVIEWED && self.total >= ANSWERS_MIN {
            self.since_reviewed = 0;
            self.delay_ns = self.quantile_ns().clamp(DELAY_MIN_NS, DELAY_MAX_NS);
        }
    }

    /// How long to wait, in nanoseconds.
    pub fn delay_ns(&self) -> u64 {
        self.delay_ns
    }

    fn quantile_ns(&self) -> u64 {
        let enough = (self.total * QUANTILE_PERCENT).div_ceil(100);
        let mut below = 0;
        let at = self.counts.iter().position(|count| {
            below += u64::from(*count);
            below >= enough
        });
        end_of(at.unwrap_or(BUCKETS - 1)) * 1_000
    }
}

/// The bucket of a latency in microseconds: exact up to eight, then by the highest bit and the three below it.
fn bucket_of(us: u64) -> usize {
    if us < PARTS {
        return us as usize;
    }
    let octave = u64::from(us.ilog2());
    let part = us >> (octave - 3) & (PARTS - 1);
    (((octave - 2) * PARTS + part) as usize).min(BUCKETS - 1)
}

/// The first latency beyond a bucket, in microseconds.
fn end_of(bucket: usize) -> u64 {
    let (octave, part) = (bucket as u64 / PARTS, bucket as u64 % PARTS);
    if octave == 0 { part + 1 } else { (PARTS + part + 1) << (octave - 1) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const US: u64 = 1_000;

    proptest! {
        /// Against a sorted list of the same answers.
        #[test]
        fn the_delay_is_the_quantile_or_little_more(
            latencies in prop::collection::vec(1u64..2_000_000, ANSWERS_MIN as usize..ANSWERS_HALVED as usize),
        ) {
            let latencies = &latencies[..latencies.len() / 64 * 64];
            let mut known = Latencies::default();
            latencies.iter().for_each(|us| known.record(us * US));
            let mut sorted = latencies.to_vec();
            sorted.sort_unstable();
            let quantile = sorted[(sorted.len() * 97).div_ceil(100) - 1] * US;
            let (least, most) = (quantile.clamp(DELAY_MIN_NS, DELAY_MAX_NS), quantile + quantile / 8 + US);
            let delay_ns = known.delay_ns();
            prop_assert!(delay_ns >= least && delay_ns <= most.clamp(DELAY_MIN_NS, DELAY_MAX_NS), "{delay_ns} {quantile}");
        }

        #[test]
        fn every_latency_lies_in_its_bucket(us in 0u64..1 << 31) {
            let bucket = bucket_of(us);
            prop_assert!(us < end_of(bucket));
            prop_assert!(bucket == 0 || us >= end_of(bucket - 1));
        }
    }

    #[test]
    fn until_enough_is_known_the_delay_is_long() {
        let mut known = Latencies::default();
        (0..63).for_each(|_| known.record(50 * US));
        assert_eq!(known.delay_ns(), DELAY_FIRST_NS);
        known.record(50 * US);
        assert_eq!(known.delay_ns(), DELAY_MIN_NS);
    }

    #[test]
    fn what_has_changed_shows_within_some_thousands_of_answers() {
        let mut known = Latencies::default();
        (0..100_000).for_each(|_| known.record(500 * US));
        assert!((500 * US..570 * US).contains(&known.delay_ns()), "{}", known.delay_ns());
        (0..4_096).for_each(|_| known.record(4_000 * US));
        assert!((4_000 * US..4_600 * US).contains(&known.delay_ns()), "{}", known.delay_ns());
        (0..8_192).for_each(|_| known.record(500 * US));
        assert!((500 * US..570 * US).contains(&known.delay_ns()), "{}", known.delay_ns());
    }

    #[test]
    fn a_few_slow_answers_do_not_move_it() {
        let mut known = Latencies::default();
        (0..50_000).for_each(|at| known.record(if at % 50 == 0 { 50_000 * US } else { 400 * US }));
        assert!(known.delay_ns() < 460 * US, "{}", known.delay_ns());
    }
}
