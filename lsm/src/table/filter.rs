//! A blocked Bloom filter: a key sets one bit in each of the eight words of one cache line, so a probe is one cache miss.
//!
//! ```text
//! filter := line*          line := word:u64{8}          no lines = no filter
//! ```
//!
//! At 10 bits a key about one probe in a hundred is a false positive: somewhat more than a plain Bloom filter's, for one
//! miss instead of seven (Putze, Sanders, Singler: Cache-, Hash- and Space-Efficient Bloom Filters).

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::Key;
use crate::planted::{self, Bug};
use crate::prefetch::prefetch;

/// Bytes of a line.
pub(super) const LINE_BYTES: usize = 64;
const LINE_BITS: u64 = 512;

/// The hash of a key that filters are asked with; computed once for all tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyHash(u64);

impl KeyHash {
    /// On the ring the token is a hash already; whatever it does not cover is mixed in. The vnode is part of the token there.
    #[inline]
    pub fn of(key: &Key<'_>) -> KeyHash {
        let prefix = &key.prefix;
        let table = u64::from(prefix.table) << 8 | u64::from(prefix.space);
        let mut hash = prefix.token ^ table.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        if prefix.space == 0 || !key.sort.is_empty() {
            hash = xxh3_64_with_seed(key.sort, xxh3_64_with_seed(key.partition, hash));
        }
        hash ^= hash >> 32;
        hash = hash.wrapping_mul(0xd6e8_feb8_6659_fd93);
        KeyHash(hash ^ hash >> 32)
    }

    /// Each of its bits is as good as any other.
    #[inline]
    pub(crate) fn bits(self) -> u64 {
        self.0
    }
}

#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Line([u64; 8]);

impl Line {
    /// The bit of each word that a hash stands for.
    #[inline]
    fn bits(hash: KeyHash) -> [u64; 8] {
        // The high bits choose the line, so the words' bits come from another mix.
        let mixed = hash.0.wrapping_mul(0xa24b_aed4_963e_e407) >> 16;
        std::array::from_fn(|word| 1 << (mixed >> (6 * word) & 63))
    }
}

/// Hashes that gather until their number is known; in pieces, so that they never take twice their bytes.
#[derive(Default)]
pub(super) struct Hashes {
    chunks: Vec<Vec<KeyHash>>,
    len: usize,
}

#[cfg(test)]
impl FromIterator<KeyHash> for Hashes {
    fn from_iter<I: IntoIterator<Item = KeyHash>>(hashes: I) -> Hashes {
        let mut all = Hashes::default();
        hashes.into_iter().for_each(|hash| all.push(hash));
        all
    }
}

/// Hashes of a piece, and of one step in building a filter: some tens of microseconds' work.
const HASHES_CHUNK: usize = 4096;

impl Hashes {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Bytes in memory.
    pub(super) fn bytes(&self) -> usize {
        self.chunks.len() * HASHES_CHUNK * size_of::<KeyHash>()
    }

    #[inline]
    pub(super) fn push(&mut self, hash: KeyHash) {
        if self.len.is_multiple_of(HASHES_CHUNK) {
            self.chunks.push(Vec::with_capacity(HASHES_CHUNK));
        }
        self.chunks[self.len / HASHES_CHUNK].push(hash);
        self.len += 1;
    }
}

/// See the module.
pub(super) struct Filter {
    lines: Vec<Line>,
}

impl Filter {
    /// A filter with room for so many keys, and none in it.
    pub(super) fn for_keys(keys: usize, bits_per_key: u32) -> Filter {
        let bits = keys as u64 * u64::from(bits_per_key);
        Filter { lines: vec![Line::default(); bits.div_ceil(LINE_BITS) as usize] }
    }

    /// Adds a piece of the keys. False if there is no such piece.
    pub(super) fn add_piece(&mut self, hashes: &Hashes, piece: usize) -> bool {
        let Some(chunk) = hashes.chunks.get(piece) else { return false };
        let is_last = piece + 1 == hashes.chunks.len();
        let known = chunk.len() - usize::from(planted::active(Bug::FilterForgetsKey) && is_last);
        for &hash in &chunk[..known] {
            if let Some(at) = place(hash, self.lines.len()) {
                for (word, bit) in self.lines[at].0.iter_mut().zip(Line::bits(hash)) {
                    *word |= bit;
                }
            }
        }
        true
    }

    /// A filter of these keys.
    #[cfg(test)]
    pub(super) fn build(hashes: &Hashes, bits_per_key: u32) -> Filter {
        let mut filter = Filter::for_keys(hashes.len, bits_per_key);
        (0..).take_while(|&piece| filter.add_piece(hashes, piece)).for_each(drop);
        filter
    }

    /// False only if no such key was added.
    #[inline]
    pub(super) fn may_contain(&self, hash: KeyHash) -> bool {
        let Some(at) = place(hash, self.lines.len()) else { return true };
        let missing = self.lines[at]
            .0
            .iter()
            .zip(Line::bits(hash))
            .fold(0, |missing, (word, bit)| missing | (bit & !word));
        missing == 0
    }

    /// Asks for what [`Filter::may_contain`] reads.
    #[inline]
    pub(super) fn prefetch(&self, hash: KeyHash) {
        if let Some(at) = place(hash, self.lines.len()) {
            prefetch(&self.lines[at]);
        }
    }

    /// Bytes in memory, which are those on disk.
    pub(super) fn bytes(&self) -> usize {
        self.lines.len() * LINE_BYTES
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(self.bytes());
        self.lines.iter().flat_map(|line| line.0).for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
    }

    /// `None` = not whole lines.
    pub(super) fn decode(bytes: &[u8]) -> Option<Filter> {
        let (lines, rest) = bytes.as_chunks::<LINE_BYTES>();
        let line = |bytes: &[u8; LINE_BYTES]| {
            let words = bytes.as_chunks::<8>().0;
            Line(std::array::from_fn(|at| u64::from_le_bytes(words[at])))
        };
        rest.is_empty().then(|| Filter { lines: lines.iter().map(line).collect() })
    }
}

#[inline]
fn place(hash: KeyHash, lines: usize) -> Option<usize> {
    (lines > 0).then(|| ((u128::from(hash.0) * lines as u128) >> 64) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Prefix;

    fn hash(n: u64) -> KeyHash {
        let prefix = Prefix { space: 1, vnode: 0, table: 7, token: n.wrapping_mul(0x9e37_79b9_7f4a_7c15) };
        KeyHash::of(&Key { prefix, partition: b"", sort: b"" })
    }

    #[test]
    fn holds_what_was_added_and_little_else() {
        let hashes: Hashes = (0..20_000).map(hash).collect();
        let mut bytes = Vec::new();
        Filter::build(&hashes, 10).encode(&mut bytes);
        assert_eq!(bytes.len(), (20_000usize * 10).div_ceil(512) * 64);
        let filter = Filter::decode(&bytes).unwrap();
        assert!((0..20_000).all(|n| filter.may_contain(hash(n))));
        let wrong = (20_000..120_000).filter(|&n| filter.may_contain(hash(n))).count();
        assert!(wrong < 2_000, "{wrong} false positives in 100000");
    }

    #[test]
    fn no_filter_says_maybe_and_an_empty_one_never_panics() {
        assert!(Filter::build(&Hashes::from_iter([hash(1)]), 0).may_contain(hash(2)));
        assert!(Filter::build(&Hashes::default(), 10).may_contain(hash(2)));
        assert!(Filter::decode(&[0; 63]).is_none());
        assert!(!Filter::decode(&[0; 64]).unwrap().may_contain(hash(2)));
    }

    #[test]
    fn every_part_of_the_key_that_the_token_does_not_cover_counts() {
        let prefix = Prefix { space: 1, vnode: 3, table: 7, token: 99 };
        let key = Key { prefix, partition: b"p", sort: b"" };
        let base = KeyHash::of(&key);
        assert_ne!(base, KeyHash::of(&Key { prefix: Prefix { table: 8, ..prefix }, ..key }));
        assert_ne!(base, KeyHash::of(&Key { sort: b"s", ..key }));
        assert_ne!(KeyHash::of(&Key { sort: b"s", ..key }), KeyHash::of(&Key { sort: b"t", ..key }));
        let local = Key { prefix: Prefix { space: 0, ..prefix }, ..key };
        assert_ne!(KeyHash::of(&local), KeyHash::of(&Key { partition: b"q", ..local }));
    }
}
