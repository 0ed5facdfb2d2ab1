//! Ranges of keys: what a scan walks.
//!
//! A range is half open, `low ≤ key < high`, and lies within one vnode. Its bytes, for a caller that keeps it between requests:
//!
//! ```text
//! range := bound bound                                                  low, high
//! bound := prefix:u128 partition_len:u32 sort_len:u32 partition sort    little-endian
//! ```

use crate::{Key, KeyBuf, Prefix};

/// Longest partition or sort key of a bound, in bytes: more is not decoded.
pub const BOUND_BYTES_MAX: usize = 1 << 16;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyRange {
    low: KeyBuf,
    high: KeyBuf,
}

impl KeyRange {
    /// All sort keys of a partition key.
    pub fn partition(prefix: Prefix, partition: &[u8]) -> KeyRange {
        let bound = |partition: Vec<u8>| KeyBuf { prefix, partition: partition.into(), sort: Box::default() };
        // Nothing lies between a string and the same string with a zero behind it.
        KeyRange { low: bound(partition.to_vec()), high: bound([partition, &[0]].concat()) }
    }

    /// All keys of a table in a vnode.
    pub fn table(space: u8, vnode: u16, table: u32) -> KeyRange {
        let low = Prefix { space, vnode, table, token: 0 }.to_u128();
        KeyRange::prefixes(low, low + (1 << 64))
    }

    /// All keys of a vnode.
    pub fn vnode(space: u8, vnode: u16) -> KeyRange {
        let low = Prefix { space, vnode, table: 0, token: 0 }.to_u128();
        KeyRange::prefixes(low, low + (1 << 96))
    }

    /// All keys of space 0, the node's own, of vnodes from this one on.
    pub fn local_from(vnode: u16) -> KeyRange {
        KeyRange::prefixes(Prefix { space: 0, vnode, table: 0, token: 0 }.to_u128(), 1 << 112)
    }

    /// The keys from `low` to before `high`; none if `high` is not after `low`.
    ///
    /// # Panics
    /// If the keys are of different vnodes.
    pub fn between(low: Key<'_>, high: Key<'_>) -> KeyRange {
        let vnode = |key: &Key<'_>| (key.prefix.space, key.prefix.vnode);
        assert_eq!(vnode(&low), vnode(&high), "a range lies within one vnode");
        KeyRange { low: low.to_buf(), high: high.to_buf() }
    }

    fn prefixes(low: u128, high: u128) -> KeyRange {
        let bound = |prefix| KeyBuf {
            prefix: Prefix::from_u128(prefix),
            partition: Box::default(),
            sort: Box::default(),
        };
        KeyRange { low: bound(low), high: bound(high) }
    }

    /// The first key that may be in it.
    #[inline]
    pub fn low(&self) -> Key<'_> {
        self.low.as_key()
    }

    /// The first key behind it.
    #[inline]
    pub fn high(&self) -> Key<'_> {
        self.high.as_key()
    }

    /// Whether a key is in it.
    #[inline]
    pub fn contains(&self, key: &Key<'_>) -> bool {
        self.low() <= *key && *key < self.high()
    }

    /// Whether no key can be in it.
    pub fn is_empty(&self) -> bool {
        self.high <= self.low
    }

    /// The part of it from `key` on.
    pub fn from(&self, key: &Key<'_>) -> KeyRange {
        KeyRange { low: key.to_buf().max(self.low.clone()), high: self.high.clone() }
    }

    /// The part of it behind `key`.
    pub fn after(&self, key: &Key<'_>) -> KeyRange {
        let sort = [key.sort, &[0]].concat().into();
        let behind = KeyBuf { prefix: key.prefix, partition: key.partition.into(), sort };
        KeyRange { low: behind.max(self.low.clone()), high: self.high.clone() }
    }

    /// The part of it before `key`.
    pub fn before(&self, key: &Key<'_>) -> KeyRange {
        KeyRange { low: self.low.clone(), high: key.to_buf().min(self.high.clone()) }
    }

    /// Appends its bytes; see the module.
    pub fn encode(&self, out: &mut Vec<u8>) {
        for bound in [&self.low, &self.high] {
            out.extend_from_slice(&bound.prefix.to_u128().to_le_bytes());
            out.extend_from_slice(&(bound.partition.len() as u32).to_le_bytes());
            out.extend_from_slice(&(bound.sort.len() as u32).to_le_bytes());
            out.extend_from_slice(&bound.partition);
            out.extend_from_slice(&bound.sort);
        }
    }

    /// Reads what [`KeyRange::encode`] wrote, all of `bytes`. `None` = it is malformed, or spans vnodes.
    pub fn decode(mut bytes: &[u8]) -> Option<KeyRange> {
        let low = decode_bound(&mut bytes)?;
        let high = decode_bound(&mut bytes)?;
        let vnode = |bound: &KeyBuf| bound.prefix.to_u128() >> 96;
        // The bound behind a whole vnode is the first key of the next one.
        let behind = vnode(&low) + 1 == vnode(&high)
            && high.prefix.to_u128() == vnode(&high) << 96
            && high.partition.is_empty()
            && high.sort.is_empty();
        (bytes.is_empty() && (vnode(&low) == vnode(&high) || behind)).then_some(KeyRange { low, high })
    }
}

fn decode_bound(bytes: &mut &[u8]) -> Option<KeyBuf> {
    let prefix = take_array(bytes).map(u128::from_le_bytes)?;
    let partition_len = take_array(bytes).map(u32::from_le_bytes)? as usize;
    let sort_len = take_array(bytes).map(u32::from_le_bytes)? as usize;
    if prefix >> 120 != 0 || partition_len.max(sort_len) > BOUND_BYTES_MAX + 1 {
        return None;
    }
    let (partition, rest) = bytes.split_at_checked(partition_len)?;
    let (sort, rest) = rest.split_at_checked(sort_len)?;
    *bytes = rest;
    Some(KeyBuf { prefix: Prefix::from_u128(prefix), partition: partition.into(), sort: sort.into() })
}

fn take_array<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (array, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*array)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(vnode: u16, token: u64, partition: &'static [u8], sort: &'static [u8]) -> Key<'static> {
        Key { prefix: Prefix { space: 1, vnode, table: 3, token }, partition, sort }
    }

    #[test]
    fn a_partition_has_its_sort_keys_and_no_neighbours() {
        let range = KeyRange::partition(key(1, 5, b"", b"").prefix, b"ab");
        for sort in [&b""[..], b"\0", b"\xff\xff\xff"] {
            assert!(range.contains(&Key { sort, ..key(1, 5, b"ab", b"") }));
        }
        for other in
            [key(1, 5, b"a", b"z"), key(1, 5, b"ab\0", b""), key(1, 6, b"ab", b""), key(2, 5, b"ab", b"")]
        {
            assert!(!range.contains(&other), "{other:?}");
        }
    }

    #[test]
    fn tables_and_vnodes_end_where_the_next_begins() {
        let (table, vnode) = (KeyRange::table(1, 7, 3), KeyRange::vnode(1, u16::MAX));
        assert!(table.contains(&key(7, 0, b"", b"")) && table.contains(&key(7, u64::MAX, b"z", b"z")));
        assert!(!table.contains(&Key {
            prefix: Prefix { table: 4, ..key(7, 0, b"", b"").prefix },
            ..key(7, 0, b"", b"")
        }));
        assert!(vnode.contains(&key(u16::MAX, u64::MAX, b"z", b"z")));
        assert!(!vnode.contains(&key(u16::MAX - 1, u64::MAX, b"z", b"z")));
    }

    #[test]
    fn what_is_behind_and_before_a_key_leaves_the_key_out() {
        let range = KeyRange::table(1, 7, 3);
        let here = key(7, 9, b"p", b"s");
        assert!(!range.after(&here).contains(&here) && !range.before(&here).contains(&here));
        assert!(range.from(&here).contains(&here) && !range.from(&here).contains(&key(7, 9, b"p", b"")));
        assert!(range.after(&here).contains(&key(7, 9, b"p", b"s\0")));
        assert!(range.before(&here).contains(&key(7, 9, b"p", b"r\xff")));
        assert!(range.before(&range.low()).is_empty());
        assert_eq!(range.after(&key(6, 0, b"", b"")), range, "a key outside cuts nothing off");
    }

    #[test]
    fn bytes_come_back_and_malformed_ones_do_not() {
        for range in [
            KeyRange::vnode(1, 7),
            KeyRange::table(0, 1, u32::MAX),
            KeyRange::partition(key(3, 4, b"", b"").prefix, b"p"),
            KeyRange::table(1, 7, 3).after(&key(7, 9, b"p", b"s")),
        ] {
            let mut bytes = Vec::new();
            range.encode(&mut bytes);
            assert_eq!(KeyRange::decode(&bytes), Some(range));
            for len in 0..bytes.len() {
                assert_eq!(KeyRange::decode(&bytes[..len]), None);
            }
            bytes.push(0);
            assert_eq!(KeyRange::decode(&bytes), None);
        }
        let mut bytes = Vec::new();
        KeyRange { low: key(1, 0, b"", b"").to_buf(), high: key(3, 0, b"", b"").to_buf() }.encode(&mut bytes);
        assert_eq!(KeyRange::decode(&bytes), None, "two vnodes");
        bytes[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(KeyRange::decode(&bytes), None, "a length that is not there");
    }
}
