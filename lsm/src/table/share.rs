//! How much of a table lies in a range of keys, from its index alone.

use super::reader::Table;
use crate::{Disk, Key, KeyRange};

/// A part of a table. Keys are taken to be spread evenly over its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TableShare {
    /// Of the file.
    pub(crate) bytes: u64,
    /// Of what it names in value files.
    pub(crate) value_bytes: u64,
    pub(crate) entries: u64,
    /// By how much `bytes` may be wrong: half of each block in which the range begins or ends.
    pub(crate) error_bytes: u64,
}

impl<D: Disk> Table<D> {
    /// What of it lies in `range`. Exact where all or nothing of it does.
    pub(crate) fn share(&self, range: &KeyRange) -> TableShare {
        let meta = self.meta();
        let (smallest, largest) = (meta.smallest.as_key(), meta.largest.as_key());
        if range.is_empty() || smallest >= range.high() || largest < range.low() {
            return TableShare::default();
        }
        let value_bytes = meta.values.iter().map(|share| share.bytes).sum();
        if range.contains(&smallest) && range.contains(&largest) {
            return TableShare { bytes: meta.bytes, value_bytes, entries: meta.entries, error_bytes: 0 };
        }
        let end = self.index.place(super::BlockHandle(self.blocks() - 1)).map_or(0, |place| place.end());
        let (from, from_error) = if smallest < range.low() { self.middle(&range.low()) } else { (0, 0) };
        let (to, to_error) = if largest >= range.high() { self.middle(&range.high()) } else { (end, 0) };
        // A range within one block: half of it, with as much error.
        let within = to.saturating_sub(from).max(from_error.min(to_error));
        let part = |whole: u64| (u128::from(whole) * u128::from(within) / u128::from(end.max(1))) as u64;
        TableShare {
            bytes: part(meta.bytes),
            value_bytes: part(value_bytes),
            entries: part(meta.entries),
            error_bytes: from_error + to_error,
        }
    }

    /// The middle of the block in which `key` lies, and half its length.
    fn middle(&self, key: &Key<'_>) -> (u64, u64) {
        let place = self.index.locate(key).and_then(|handle| self.index.place(handle));
        place.map_or((0, 0), |place| {
            let half = u64::from(place.bytes).div_ceil(2);
            (u64::from(place.offset) + half, half)
        })
    }
}
