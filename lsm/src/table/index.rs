//! A table's index: which block may hold a key. In memory it is flat arrays, and a lookup touches two places of them.
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
//!
//! Tokens are uniform, so a directory of equal slices of them, one or two to a block, narrows a search to a few
//! neighbours (an interpolation whose arithmetic is done once). With keys of several tables tokens do not ascend
//! through the whole index; then the slices are of vnodes. What the directory says is checked against the neighbours'
//! prefixes, and a search through everything is the rescue: it may be useless, never wrong.

use std::cmp::Ordering;

use super::format::take;
use crate::planted::{self, Bug};
use crate::prefetch::prefetch;
use crate::{Key, KeyBuf, Prefix};

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
    /// Prefix of each block's first key.
    firsts: Vec<u128>,
    places: Vec<Place>,
    separators: Vec<Separator>,
    /// Bytes of the keys in them.
    separator_bytes: usize,
    directory: Directory,
}

impl Index {
    /// Number of blocks.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// Adds a block. `separator` is given where its first key has the prefix of the last key before it.
    pub(super) fn push(&mut self, first: Prefix, separator: Option<(&[u8], &[u8])>, place: Place) {
        if let Some((partition, sort)) = separator {
            let block = self.places.len() as u32;
            self.separator_bytes += partition.len() + sort.len();
            self.separators.push(Separator { block, partition: partition.into(), sort: sort.into() });
        }
        self.firsts.push(first.to_u128());
        self.places.push(place);
    }

    pub(super) fn place(&self, block: BlockHandle) -> Option<Place> {
        self.places.get(block.0 as usize).copied()
    }

    /// The first key that may be in a block.
    pub(super) fn low(&self, block: BlockHandle) -> KeyBuf {
        let prefix = Prefix::from_u128(self.firsts[block.0 as usize]);
        let separator = self.separators.binary_search_by_key(&block.0, |separator| separator.block);
        let (partition, sort) = separator.map_or_else(
            |_| Default::default(),
            |at| (self.separators[at].partition.clone(), self.separators[at].sort.clone()),
        );
        KeyBuf { prefix, partition, sort }
    }

    /// Whether a key is not before [`Index::low`] of a block.
    pub(super) fn is_from(&self, block: BlockHandle, key: &Key<'_>) -> bool {
        match key.prefix.to_u128().cmp(&self.firsts[block.0 as usize]) {
            Ordering::Less => false,
            Ordering::Greater => true,
            Ordering::Equal => {
                let separator = self.separators.binary_search_by_key(&block.0, |separator| separator.block);
                separator.is_err() || separator.is_ok_and(|at| !self.separators[at].is_after(key))
            }
        }
    }

    /// Bytes in memory.
    pub(super) fn bytes(&self) -> usize {
        self.firsts.capacity() * size_of::<u128>()
            + self.places.capacity() * size_of::<Place>()
            + self.directory.starts.capacity() * size_of::<u32>()
            + self.separators.capacity() * size_of::<Separator>()
            + self.separator_bytes
    }

    /// The only block that may hold `key`; `None` = the key is before the first block.
    #[inline]
    pub(super) fn locate(&self, key: &Key<'_>) -> Option<BlockHandle> {
        let prefix = key.prefix.to_u128();
        let (from, to) = self.directory.slice(prefix);
        let mut after = from + self.firsts[from..to].partition_point(|&first| first <= prefix);
        let right = after == 0 || self.firsts[after - 1] <= prefix;
        let left = self.firsts.get(after).is_none_or(|&first| first > prefix);
        if !(left && right) {
            after = self.firsts.partition_point(|&first| first <= prefix);
        }
        let mut at = after.checked_sub(1)?;
        if planted::active(Bug::IndexOffByOne) && self.firsts[at] == prefix {
            at = at.saturating_sub(1);
        }
        if self.separators.is_empty() || self.firsts[at] != prefix {
            return Some(BlockHandle(at as u32));
        }
        Some(BlockHandle(self.before_separators(at, prefix, key)))
    }

    /// Asks for what [`Index::locate`] reads first.
    #[inline]
    pub(super) fn prefetch_directory(&self, prefix: Prefix) {
        prefetch(&self.directory.starts[self.directory.slice_of(prefix.to_u128())]);
    }

    /// Asks for what [`Index::locate`] reads next.
    #[inline]
    pub(super) fn prefetch_firsts(&self, prefix: Prefix) {
        let (from, _) = self.directory.slice(prefix.to_u128());
        // The block before the slice is compared too.
        for at in [from.saturating_sub(1), from + 1] {
            if let Some(first) = self.firsts.get(at) {
                prefetch(first);
            }
        }
    }

    /// Goes back from block `at`, whose first prefix is the key's, over blocks whose separator is after the key.
    #[cold]
    fn before_separators(&self, at: usize, prefix: u128, key: &Key<'_>) -> u32 {
        let to = self.separators.partition_point(|separator| separator.block as usize <= at);
        // Blocks that continue the same prefix are neighbours, and so are their separators.
        let mut same = 0;
        while same < to
            && self.separators[to - same - 1].block as usize == at - same
            && self.firsts[at - same] == prefix
        {
            same += 1;
        }
        let run = &self.separators[to - same..to];
        let not_after = run.partition_point(|separator| !separator.is_after(key));
        (at - (same - not_after)) as u32
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let high = |first: u128| (first >> 64) as u64;
        let starts_group = |&at: &usize| at == 0 || high(self.firsts[at - 1]) != high(self.firsts[at]);
        let groups: Vec<usize> = (0..self.firsts.len()).filter(starts_group).collect();
        for len in [self.places.len(), groups.len(), self.separators.len()] {
            out.extend_from_slice(&(len as u32).to_le_bytes());
        }
        for at in groups {
            out.extend_from_slice(&high(self.firsts[at]).to_le_bytes());
            out.extend_from_slice(&(at as u32).to_le_bytes());
        }
        self.firsts.iter().for_each(|&first| out.extend_from_slice(&(first as u64).to_le_bytes()));
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
        let (blocks, groups_len, separators) = (len()?, len()?, len()?);
        // Every count is checked against the bytes that are there before anything is reserved for it.
        let fixed = blocks.checked_mul(16)?.checked_add(groups_len.checked_mul(12)?)?;
        if blocks == 0 || groups_len == 0 || fixed.checked_add(separators.checked_mul(12)?)? > bytes.len() {
            return None;
        }
        let mut groups: Vec<(u64, u32)> = Vec::with_capacity(groups_len);
        for _ in 0..groups_len {
            let high = u64::from_le_bytes(take(&mut bytes)?);
            let first = u32::from_le_bytes(take(&mut bytes)?);
            let ascends = match groups.last() {
                Some(&(high_before, before)) => {
                    high_before < high && before < first && (first as usize) < blocks
                }
                None => first == 0,
            };
            if !ascends || high >> 56 != 0 {
                return None;
            }
            groups.push((high, first));
        }
        let mut index = Index {
            firsts: Vec::with_capacity(blocks),
            places: Vec::with_capacity(blocks),
            separators: Vec::with_capacity(separators),
            ..Index::default()
        };
        let mut group = 0;
        for block in 0..blocks as u32 {
            if groups.get(group + 1).is_some_and(|&(_, first)| first == block) {
                group += 1;
            }
            let token = u64::from_le_bytes(take(&mut bytes)?);
            index.firsts.push(u128::from(groups[group].0) << 64 | u128::from(token));
        }
        if !index.firsts.is_sorted() {
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
            index.separator_bytes += partition.len() + sort.len();
            index.separators.push(Separator { block, partition: partition.into(), sort: sort.into() });
        }
        index.directory = Directory::of(&index.firsts);
        bytes.is_empty().then_some(index)
    }
}

/// Equal slices of tokens, or of vnodes, and the block each starts with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Directory {
    by_token: bool,
    base: u64,
    shift: u32,
    /// One more than there are slices: the last is the number of blocks.
    starts: Vec<u32>,
}

impl Directory {
    fn of(firsts: &[u128]) -> Directory {
        let by_token = firsts.is_sorted_by_key(|&first| first as u64);
        let mut directory = Directory { by_token, base: 0, shift: 0, starts: Vec::new() };
        let (Some(&first), Some(&last)) = (firsts.first(), firsts.last()) else { return directory };
        directory.base = directory.sliced(first);
        let span = directory.sliced(last) - directory.base;
        while span >> directory.shift >= 2 * firsts.len() as u64 {
            directory.shift += 1;
        }
        let slices = (span >> directory.shift) as usize + 1;
        directory.starts.reserve_exact(slices + 1);
        for (block, &first) in firsts.iter().enumerate() {
            let slice = ((directory.sliced(first) - directory.base) >> directory.shift) as usize;
            let reached = directory.starts.len();
            directory.starts.resize(reached.max(slice + 1), block as u32);
        }
        directory.starts.push(firsts.len() as u32);
        directory
    }

    /// What of a prefix is sliced: the token, or space and vnode.
    #[inline]
    fn sliced(&self, prefix: u128) -> u64 {
        if self.by_token { prefix as u64 } else { (prefix >> 96) as u64 }
    }

    #[inline]
    fn slice_of(&self, prefix: u128) -> usize {
        let wanted = self.sliced(prefix).saturating_sub(self.base) >> self.shift;
        (wanted as usize).min(self.starts.len() - 2)
    }

    /// The blocks that start in the slice of a prefix, or in the nearest slice.
    #[inline]
    fn slice(&self, prefix: u128) -> (usize, usize) {
        let slice = self.slice_of(prefix);
        (self.starts[slice] as usize, self.starts[slice + 1] as usize)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn locates_as_a_plain_search_does(
            mut firsts in prop::collection::vec((0u32..3, 0u16..8, any::<u64>()), 1..2000),
            tables in 1u32..4,
            skew in 0u32..60,
            vnode_is_of_token in any::<bool>(),
            probes in prop::collection::vec((0u32..4, any::<u16>(), any::<u64>()), 30),
        ) {
            let prefix = |&(table, vnode, token): &(u32, u16, u64)| {
                let vnode = if vnode_is_of_token { (token >> 56) as u16 } else { vnode };
                Prefix { space: 1, vnode, table: table % tables, token }
            };
            firsts.iter_mut().skip(10).for_each(|first| first.2 >>= skew);
            firsts.sort_by_key(|first| prefix(first).to_u128());
            firsts.dedup_by_key(|first| prefix(first).to_u128());
            let mut index = Index::default();
            for (at, first) in firsts.iter().enumerate() {
                index.push(prefix(first), None, Place { offset: at as u32 * 64, bytes: 64 });
            }
            let mut bytes = Vec::new();
            index.encode(&mut bytes);
            let index = Index::decode(&bytes, firsts.len() as u64 * 64).unwrap();
            let ends = [(0, 0, 0), (u32::MAX, u16::MAX, u64::MAX)];
            for probe in firsts.iter().chain(&probes).chain(&ends) {
                let prefix_of = prefix(probe);
                let after = firsts.iter().filter(|first| prefix(first) <= prefix_of).count();
                let key = Key { prefix: prefix_of, partition: b"", sort: b"" };
                prop_assert_eq!(index.locate(&key), after.checked_sub(1).map(|at| BlockHandle(at as u32)));
            }
        }

        #[test]
        fn decoding_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Index::decode(&bytes, 1 << 20);
        }
    }
}
