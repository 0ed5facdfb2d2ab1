//! Which record an operation touches: uniform, or the skew that YCSB made standard.
//!
//! The zipfian generator follows Gray et al., "Quickly Generating Billion-Record Synthetic Databases" (SIGMOD 1994),
//! with the parameters of YCSB's scrambled variant (Cooper et al., SoCC 2010): ranks are drawn over ten billion items at
//! skew 0.99, hashed with 64-bit FNV-1a, and folded onto the records. So the hot records lie scattered over the key
//! space, and their share does not depend on how many records there are.

/// A seeded generator of pseudo-random numbers (SplitMix64): the same seed gives the same draws.
#[derive(Clone, Debug)]
pub struct Rng {
    state: u64,
}

pub(crate) const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Spreads the bits of `x` over all 64: a bijection.
#[inline]
pub(crate) fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl Rng {
    /// Starts at `seed`.
    pub fn new(seed: u64) -> Rng {
        Rng { state: mix(seed ^ GOLDEN) }
    }

    /// The next 64 bits.
    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN);
        mix(self.state)
    }

    /// Uniform in `0..bound`, by multiplication: the bias is below `bound / 2^64`.
    #[inline]
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// Uniform in `[0, 1)`.
    #[inline]
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }
}

/// The zipfian constant of the standard workloads.
pub const THETA: f64 = 0.99;
/// Ranks are drawn over this many items, however many records there are.
const ITEMS: f64 = 1e10;
/// `sum(1 / i^0.99, i = 1..=10^10)`.
const ZETA_ITEMS: f64 = 26.469_028_201_783_02;
/// `1 / (1 - THETA)`, an integer, so that raising to it is eight multiplications rather than a call to `powf`.
const ALPHA: i32 = 100;

/// Draws records with a zipfian skew of 0.99, scattered by a hash.
#[derive(Clone, Copy, Debug)]
pub struct ScrambledZipfian {
    records: u64,
    eta: f64,
    second: f64,
}

impl ScrambledZipfian {
    /// Over `records` records, at least one.
    pub fn new(records: u64) -> ScrambledZipfian {
        assert!(records > 0, "there is a record to choose");
        let second = 1.0 + 0.5f64.powf(THETA);
        let eta = (1.0 - (2.0 / ITEMS).powf(1.0 - THETA)) / (1.0 - second / ZETA_ITEMS);
        ScrambledZipfian { records, eta, second }
    }

    /// A rank, 0 the hottest.
    #[inline]
    pub fn rank(&self, rng: &mut Rng) -> u64 {
        let u = rng.unit();
        let uz = u * ZETA_ITEMS;
        if uz < 1.0 {
            return 0;
        }
        if uz < self.second {
            return 1;
        }
        (ITEMS * (self.eta * u - self.eta + 1.0).powi(ALPHA)) as u64
    }

    /// The record that a rank falls on.
    #[inline]
    pub fn record_of(&self, rank: u64) -> u64 {
        fnv1a(rank) % self.records
    }
}

/// 64-bit FNV-1a over the number's eight little-endian bytes, as a non-negative signed number.
#[inline]
fn fnv1a(value: u64) -> u64 {
    let hash = value
        .to_le_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    hash.cast_signed().unsigned_abs()
}

/// How records are chosen.
#[derive(Clone, Copy, Debug)]
pub enum Chooser {
    /// Every record as likely as any other.
    Uniform {
        /// How many there are.
        records: u64,
    },
    /// A few records take most of the traffic.
    Zipfian(ScrambledZipfian),
}

impl Chooser {
    /// The next record, in `0..records`.
    #[inline]
    pub fn next(&self, rng: &mut Rng) -> u64 {
        match self {
            Chooser::Uniform { records } => rng.below(*records),
            Chooser::Zipfian(zipfian) => zipfian.record_of(zipfian.rank(rng)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWS: u64 = 400_000;

    #[test]
    fn the_hottest_ranks_have_their_zipfian_share() {
        let zipfian = ScrambledZipfian::new(1_000_000);
        let mut rng = Rng::new(7);
        let mut counts = [0u64; 8];
        for _ in 0..DRAWS {
            let rank = zipfian.rank(&mut rng);
            assert!(rank < ITEMS as u64);
            if let Some(count) = counts.get_mut(rank as usize) {
                *count += 1;
            }
        }
        // Ranks 0 and 1 are drawn exactly; the rest follow a continuous approximation, which is coarse for the next few.
        for (rank, tolerance) in [(0, 0.03), (1, 0.04)] {
            let expected = DRAWS as f64 / ((rank + 1) as f64).powf(THETA) / ZETA_ITEMS;
            let share = counts[rank] as f64 / expected;
            assert!(
                (share - 1.0).abs() < tolerance,
                "rank {rank}: {} draws, expected {expected:.0}",
                counts[rank]
            );
        }
        assert!(counts.windows(2).take(2).all(|pair| pair[0] > pair[1]), "{counts:?}");
    }

    #[test]
    fn a_few_records_take_much_of_the_zipfian_traffic() {
        let records = 100_000;
        let chooser = Chooser::Zipfian(ScrambledZipfian::new(records));
        let mut rng = Rng::new(3);
        let mut counts = vec![0u32; records as usize];
        (0..DRAWS).for_each(|_| counts[chooser.next(&mut rng) as usize] += 1);
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let hot: u64 = counts[..records as usize / 20].iter().map(|count| u64::from(*count)).sum();
        // Of the ranks, the first 5,000 take 35 %; the rest of the traffic is spread almost evenly.
        let share = hot as f64 / DRAWS as f64;
        assert!((0.35..0.45).contains(&share), "the hottest twentieth took {share}");
    }

    #[test]
    fn uniform_draws_cover_every_record_evenly() {
        let chooser = Chooser::Uniform { records: 100 };
        let mut rng = Rng::new(11);
        let mut counts = [0u64; 100];
        (0..DRAWS).for_each(|_| counts[chooser.next(&mut rng) as usize] += 1);
        let mean = DRAWS / 100;
        assert!(counts.iter().all(|count| count.abs_diff(mean) < mean / 10), "{counts:?}");
    }

    #[test]
    fn the_same_seed_draws_the_same_records() {
        let chooser = Chooser::Zipfian(ScrambledZipfian::new(1000));
        let draw = |seed| {
            let mut rng = Rng::new(seed);
            (0..64).map(|_| chooser.next(&mut rng)).collect::<Vec<_>>()
        };
        assert_eq!(draw(5), draw(5));
        assert_ne!(draw(5), draw(6));
    }

    #[test]
    fn the_hash_is_the_published_one() {
        // FNV-1a of eight zero bytes, from the definition: eight multiplications of the offset basis.
        let zeros = (0..8).fold(0xcbf2_9ce4_8422_2325u64, |hash, _| hash.wrapping_mul(0x100_0000_01b3));
        assert_eq!(fnv1a(0), zeros.cast_signed().unsigned_abs());
        assert_ne!(fnv1a(1), fnv1a(256), "every byte counts");
    }

    #[test]
    fn the_fast_exponent_is_the_exact_one() {
        assert!((f64::from(ALPHA) - 1.0 / (1.0 - THETA)).abs() < 1e-9);
    }
}
