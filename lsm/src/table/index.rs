//! A table's index: which block may hold a key. In memory it is flat arrays, searched by interpolation.
//!
//! ```text
//! index     := block_count:u32 group_count:u32 separator_count:u32 group* token:u64{block_count} place* separator*
//! group     := high:u64 first:u32                   blocks from `first` on start in this space, vnode and table
//! place     := offset:u32 bytes:u32                 stored bytes, trailer included
//! separator := block:u32 partition_len:u32 sort_len:u32 partition sort
//! ```
//!
//! A block's token is that of its first key. Where a block starts with the very prefix that the one before it ends with, a
//! separator tells them apart: the block holds keys not before it, the blocks before it only keys before it.

use std::cmp::Ordering;

use super::block::high_of;
use super::format::take;
use crate::{Key, Prefix};

/// Spans up to which binary search beats interpolation.
const BINARY_MAX: usize = 32;
/// Rounds of interpolation before a search goes binary: tokens are uniform, but nobody has to be.
const ROUNDS_MAX: usize = 4;

/// A block of a table, by number from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockHandle(pub u32);

/// Where a block is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) offset: u32,
    pub(super) bytes: u32,
}

impl Place {
    pub(super) fn end(self) -> u64 {
        u64::from(self.offset) + u64::from(self.bytes)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Separator {
    block: u32,
    partition: Box<[u8]>,
    sort: Box<[u8]>,
}

impl Separator {
    fn is_after(&self, key: &Key<'_>) -> bool {
        self.partition[..].cmp(key.partition).then_with(|| self.sort[..].cmp(key.sort)) == Ordering::Greater
    }
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Index {
    /// Space, vnode and table of each group, and its first block.
    highs: Vec<u64>,
    firsts: Vec<u32>,
    tokens: Vec<u64>,
    places: Vec<Place>,
    separators: Vec<Separator>,
}

impl Index {
    /// Number of blocks.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// Adds a block. `separator` is given where its first key has the prefix of the last key before it.
    pub(super) fn push(&mut self, first: Prefix, separator: Option<(&[u8], &[u8])>, place: Place) {
        let (high, block) = (high_of(&first), self.places.len() as u32);
        if self.highs.last() != Some(&high) {
            self.highs.push(high);
            self.firsts.push(block);
        }
        if let Some((partition, sort)) = separator {
            self.separators.push(Separator { block, partition: partition.into(), sort: sort.into() });
        }
        self.tokens.push(first.token);
        self.places.push(place);
    }

    pub(super) fn place(&self, block: BlockHandle) -> Option<Place> {
        self.places.get(block.0 as usize).copied()
    }

    /// Bytes in memory.
    pub(super) fn bytes(&self) -> usize {
        let separators =
            self.separators.iter().map(|separator| separator.partition.len() + separator.sort.len());
        self.highs.len() * (size_of::<u64>() + size_of::<u32>())
            + self.places.len() * (size_of::<Place>() + size_of::<u64>())
            + self.separators.len() * size_of::<Separator>()
            + separators.sum::<usize>()
    }

    /// The only block that may hold `key`; `None` = the key is before the first block.
    #[inline]
    pub(super) fn locate(&self, key: &Key<'_>) -> Option<BlockHandle> {
        let (high, token) = (high_of(&key.prefix), key.prefix.token);
        // Vnodes are spread about as evenly as tokens are.
        let after = count_not_above(&self.highs, high);
        let group = after.checked_sub(1)?;
        let end = self.firsts.get(after).map_or(self.tokens.len(), |&next| next as usize);
        if self.highs[group] < high {
            return Some(BlockHandle(end as u32 - 1));
        }
        let first = self.firsts[group] as usize;
        let at = (first + count_not_above(&self.tokens[first..end], token)).checked_sub(1)?;
        if self.separators.is_empty() || self.tokens[at] != token || at < first {
            return Some(BlockHandle(at as u32));
        }
        Some(BlockHandle(self.before_separators(first, at, key)))
    }

    /// Goes back from block `at`, whose first prefix is the key's, over blocks whose separator is after the key. `first` is
    /// the first block that starts in the key's space, vnode and table.
    #[cold]
    fn before_separators(&self, first: usize, at: usize, key: &Key<'_>) -> u32 {
        let to = self.separators.partition_point(|separator| separator.block as usize <= at);
        // Blocks that continue the same prefix are neighbours, and so are their separators.
        let mut same = 0;
        while same < to
            && at - same >= first
            && self.separators[to - same - 1].block as usize == at - same
            && self.tokens[at - same] == key.prefix.token
        {
            same += 1;
        }
        let run = &self.separators[to - same..to];
        let not_after = run.partition_point(|separator| !separator.is_after(key));
        (at - (same - not_after)) as u32
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        for len in [self.places.len(), self.highs.len(), self.separators.len()] {
            out.extend_from_slice(&(len as u32).to_le_bytes());
        }
        for (high, first) in self.highs.iter().zip(&self.firsts) {
            out.extend_from_slice(&high.to_le_bytes());
            out.extend_from_slice(&first.to_le_bytes());
        }
        self.tokens.iter().for_each(|token| out.extend_from_slice(&token.to_le_bytes()));
        for place in &self.places {
            out.extend_from_slice(&place.offset.to_le_bytes());
            out.extend_from_slice(&place.bytes.to_le_bytes());
        }
        for separator in &self.separators {
            for field in [separator.block, separator.partition.len() as u32, separator.sort.len() as u32] {
                out.extend_from_slice(&field.to_le_bytes());
            }
            out.extend_from_slice(&separator.partition);
            out.extend_from_slice(&separator.sort);
        }
    }

    /// Reads an index whose blocks lie, in order, before `blocks_end`. `None` = malformed.
    pub(super) fn decode(mut bytes: &[u8], blocks_end: u64) -> Option<Index> {
        let mut len = || take(&mut bytes).map(|bytes| u32::from_le_bytes(bytes) as usize);
        let (blocks, groups, separators) = (len()?, len()?, len()?);
        // Every count is checked against the bytes that are there before anything is reserved for it.
        let fixed = blocks.checked_mul(16)?.checked_add(groups.checked_mul(12)?)?;
        if blocks == 0 || groups == 0 || fixed.checked_add(separators.checked_mul(12)?)? > bytes.len() {
            return None;
        }
        let mut index = Index::default();
        for _ in 0..groups {
            let high = u64::from_le_bytes(take(&mut bytes)?);
            let first = u32::from_le_bytes(take(&mut bytes)?);
            let ascends = match (index.highs.last(), index.firsts.last()) {
                (Some(&high_before), Some(&before)) => {
                    high_before < high && before < first && (first as usize) < blocks
                }
                _ => first == 0,
            };
            if !ascends {
                return None;
            }
            index.highs.push(high);
            index.firsts.push(first);
        }
        for _ in 0..blocks {
            index.tokens.push(u64::from_le_bytes(take(&mut bytes)?));
        }
        let ends = index.firsts.iter().skip(1).map(|&first| first as usize).chain([blocks]);
        if index.firsts.iter().zip(ends).any(|(&first, end)| !index.tokens[first as usize..end].is_sorted()) {
            return None;
        }
        let mut end = 0;
        for _ in 0..blocks {
            let place = Place {
                offset: u32::from_le_bytes(take(&mut bytes)?),
                bytes: u32::from_le_bytes(take(&mut bytes)?),
            };
            if u64::from(place.offset) < end || place.end() > blocks_end {
                return None;
            }
            end = place.end();
            index.places.push(place);
        }
        for _ in 0..separators {
            let mut field = || take(&mut bytes).map(u32::from_le_bytes);
            let (block, partition_len, sort_len) = (field()?, field()? as usize, field()? as usize);
            let (partition, rest) = bytes.split_at_checked(partition_len)?;
            let (sort, rest) = rest.split_at_checked(sort_len)?;
            bytes = rest;
            let ascends = index.separators.last().map_or(block > 0, |before| before.block < block);
            if !ascends || block as usize >= blocks {
                return None;
            }
            index.separators.push(Separator { block, partition: partition.into(), sort: sort.into() });
        }
        bytes.is_empty().then_some(index)
    }
}

/// How many of the ascending `tokens` (or highs) are not above `token`.
#[inline]
fn count_not_above(tokens: &[u64], token: u64) -> usize {
    // The answer lies in `from..=to` all the time: everything before `from` is not above, everything from `to` on is.
    let (mut from, mut to) = (0, tokens.len());
    for _ in 0..ROUNDS_MAX {
        let span = to - from;
        if span <= BINARY_MAX {
            break;
        }
        let (low, high) = (tokens[from], tokens[to - 1]);
        if token < low {
            return from;
        }
        if token >= high {
            return to;
        }
        let share = (token - low) as f64 / (high - low) as f64;
        let guess = from + ((span - 1) as f64 * share) as usize;
        // Twice the deviation that uniform tokens have from where they are expected.
        let window = (span as f64).sqrt() as usize;
        let (left, right) = (guess.saturating_sub(window).max(from), (guess + window).min(to - 1));
        if tokens[left] <= token {
            from = left;
            if tokens[right] > token {
                to = right;
            } else {
                from = right;
            }
        } else {
            to = left;
        }
    }
    from + tokens[from..to].partition_point(|&here| here <= token)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn interpolation_counts_as_a_plain_search_does(mut tokens in prop::collection::vec(any::<u64>(), 0..3000), skew in 0u32..60, probes in prop::collection::vec(any::<u64>(), 20)) {
            tokens.iter_mut().skip(10).for_each(|token| *token >>= skew);
            tokens.sort_unstable();
            for token in tokens.iter().copied().chain(probes).chain([0, u64::MAX]) {
                prop_assert_eq!(count_not_above(&tokens, token), tokens.partition_point(|&here| here <= token));
            }
        }

        #[test]
        fn decoding_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Index::decode(&bytes, 1 << 20);
        }
    }
}
