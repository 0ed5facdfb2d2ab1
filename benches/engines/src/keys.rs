//! Keys and values: 16-byte keys in random order, values of which half compresses.

/// A key: scattered first half, the record's number as the second, so that keys are unique and come in random order.
pub fn key(number: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&mix(number).to_be_bytes());
    key[8..].copy_from_slice(&number.to_be_bytes());
    key
}

/// SplitMix64's finaliser (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
pub fn mix(number: u64) -> u64 {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A stream of random numbers.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(mix(seed))
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(1);
        ((u128::from(mix(self.0)) * u128::from(bound)) >> 64) as u64
    }
}

/// Makes values: the record's number, random bytes up to the middle, then bytes that compress.
pub struct Values {
    pool: Vec<u8>,
    value: Vec<u8>,
    random: Random,
}

const POOL_BYTES: usize = 8 << 20;

impl Values {
    pub fn new(len: usize) -> Values {
        let pool = (0..POOL_BYTES as u64 / 8).flat_map(|n| mix(n ^ 0x5eed).to_le_bytes()).collect();
        Values { pool, value: vec![b'.'; len], random: Random::new(len as u64) }
    }

    pub fn of(&mut self, number: u64) -> &[u8] {
        let half = self.value.len() / 2;
        let at = self.random.below((POOL_BYTES - half) as u64) as usize;
        self.value[..half].copy_from_slice(&self.pool[at..at + half]);
        self.value[..8].copy_from_slice(&number.to_le_bytes());
        &self.value
    }
}

/// Whether a value is one that was written for this record.
pub fn is_of(value: &[u8], number: u64, len: usize) -> bool {
    value.len() == len && value[..8] == number.to_le_bytes()
}
