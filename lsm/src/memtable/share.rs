//! How much of a memtable lies in a range of keys.

use super::Memtable;
use crate::{Key, KeyRange, Prefix};

/// Records of a table in a vnode that are counted one by one. Of more than these the rest is taken to be as dense, by token:
/// tokens are uniform, so the count is off by about one part in thirty.
const COUNTED_MAX: usize = 1024;

/// A part of a memtable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MemShare {
    pub(crate) keys: u64,
    /// Of keys and values.
    pub(crate) bytes: u64,
}

impl Memtable {
    /// About what lies in `range`, after a walk of at most [`COUNTED_MAX`] records in each table of it.
    pub(crate) fn share(&self, range: &KeyRange) -> MemShare {
        let mut share = MemShare::default();
        let mut left = range.clone();
        while let Some((first, _)) = self.iter_from(&left.low()).next().filter(|(key, _)| left.contains(key))
        {
            let here = Prefix { token: 0, ..first.prefix };
            let table = KeyRange::table(here.space, here.vnode, here.table);
            let end = table.high().min(left.high()).to_buf();
            let part = left.before(&end.as_key()).from(&first);
            let counted = self.share_of_table(&part);
            share.keys += counted.keys;
            share.bytes += counted.bytes;
            left = left.from(&end.as_key());
        }
        share
    }

    /// As [`Memtable::share`], of a range within one table of a vnode.
    fn share_of_table(&self, range: &KeyRange) -> MemShare {
        let mut share = MemShare::default();
        let mut last: Option<Key<'_>> = None;
        for (key, record) in self.iter_from(&range.low()).take_while(|(key, _)| range.contains(key)) {
            if share.keys == COUNTED_MAX as u64 {
                let behind = self.iter_back(&range.high()).next().map_or(key, |(key, _)| key);
                let walked = last.map_or(0, |last| last.prefix.token - range.low().prefix.token);
                let whole = behind.prefix.token - range.low().prefix.token;
                // One partition key with many sort keys: there is nothing to go by but what was counted.
                if walked > 0 {
                    let scaled = |count: u64| {
                        (u128::from(count) * u128::from(whole) / u128::from(walked)).min(u64::MAX.into())
                            as u64
                    };
                    return MemShare {
                        keys: scaled(share.keys).min(self.len() as u64),
                        bytes: scaled(share.bytes).min(self.bytes() as u64),
                    };
                }
            }
            share.keys += 1;
            share.bytes += (key.partition.len() + key.sort.len() + record.value.len()) as u64;
            last = Some(key);
        }
        share
    }
}
