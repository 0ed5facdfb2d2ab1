//! What a memtable may hold: a Bloom filter over prefixes, so that a get of a key that is not there, which is what most gets
//! ask of a memtable, reads one word instead of descending the tree.
//!
//! A prefix sets three bits of one word. There is a word for every two to four keys: one probe in a hundred or fewer
//! finds a key that is not there. The sketch doubles as the memtable grows: the new one is filled from the tree, a few keys at a time.

use crate::prefetch::prefetch;

/// Words of the first sketch.
const WORDS_MIN: usize = 64;
/// Keys a word at which the sketch doubles.
const KEYS_PER_WORD_MAX: usize = 4;

/// See the module.
#[derive(Default)]
pub(super) struct Sketch {
    /// A power of two of them, or none.
    words: Vec<u64>,
}

impl Sketch {
    /// Bytes reserved from the allocator.
    pub(super) fn bytes(&self) -> usize {
        self.words.len() * size_of::<u64>()
    }

    /// Whether it has no words.
    pub(super) fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Whether there is room for `keys` keys.
    #[inline]
    pub(super) fn has_room(&self, keys: usize) -> bool {
        keys <= self.words.len() * KEYS_PER_WORD_MAX
    }

    /// An empty sketch of twice the size.
    pub(super) fn doubled(&self) -> Sketch {
        Sketch { words: vec![0; (self.words.len() * 2).max(WORDS_MIN)] }
    }

    #[inline]
    pub(super) fn insert(&mut self, prefix: u128) {
        let hash = hash(prefix);
        let at = hash as usize & (self.words.len() - 1);
        self.words[at] |= bits(hash);
    }

    /// False only if the prefix was not inserted.
    #[inline]
    pub(super) fn may_contain(&self, prefix: u128) -> bool {
        let hash = hash(prefix);
        let bits = bits(hash);
        self.word(hash).is_some_and(|word| word & bits == bits)
    }

    /// Asks for what [`Sketch::may_contain`] reads.
    #[inline]
    pub(super) fn prefetch(&self, prefix: u128) {
        if let Some(word) = self.word(hash(prefix)) {
            prefetch(word);
        }
    }

    #[inline]
    fn word(&self, hash: u64) -> Option<&u64> {
        self.words.get(hash as usize & self.words.len().wrapping_sub(1))
    }
}

/// On the ring a prefix's token is a hash already; elsewhere it may be anything.
#[inline]
fn hash(prefix: u128) -> u64 {
    let mixed = prefix as u64 ^ ((prefix >> 64) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ mixed >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    mixed ^ mixed >> 32
}

/// The bits of a word; those of the hash that choose the word are the lowest, these the highest.
#[inline]
fn bits(hash: u64) -> u64 {
    1 << (hash >> 58) | 1 << (hash >> 52 & 63) | 1 << (hash >> 46 & 63)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(n: u64) -> u128 {
        1 << 112 | u128::from(n % 16) << 96 | u128::from(n.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    #[test]
    fn holds_what_was_inserted_and_little_else() {
        let mut sketch = Sketch::default();
        assert!(!sketch.may_contain(prefix(0)) && !sketch.has_room(1));
        for len in 0..50_000 {
            if !sketch.has_room(len + 1) {
                sketch = sketch.doubled();
                (0..len as u64).for_each(|n| sketch.insert(prefix(n)));
            }
            sketch.insert(prefix(len as u64));
        }
        assert!((0..50_000).all(|n| sketch.may_contain(prefix(n))));
        let wrong = (50_000..150_000).filter(|&n| sketch.may_contain(prefix(n))).count();
        assert!(wrong < 2_000, "{wrong} false positives in 100000");
        assert!(sketch.bytes() <= 50_000 * 4 * 2);
    }
}
