//! What the log holds of how far the clocks of this node's cores had come, and whether anything of that is missing.
//!
//! ```text
//! key   := space 0, table 0, "clock", generation:u64 core:u16     big-endian: the layout of the data under which it was written, and the core
//! value := bound:u64 cores:u16 known:u8                           little-endian: how many cores that layout had, and 1, or 0 where what came before is not known
//! order := a number that grows with each of a core's: the bound may be lowered
//! ```
//!
//! A core writes its own record alone, so none stands in another's way when the number of cores changes and every new core gets all of
//! them ([`ferrite_lsm::layout`]). The first start after that begins above the highest, since any key may have been the highest one's; from its own first
//! record on that one counts, for it is no lower than what it was made of.
//!
//! | found | the bound |
//! |---|---|
//! | the core's own record of this layout, which says that it is known | is its |
//! | none, and those of all cores of the latest layout before, which all say so | is the highest of all |
//! | nothing, in the first layout | is none: a new node |
//! | anything else, or what cannot be read | is not known: a higher one may be hidden |
//!
//! What is not known stays so over restarts: each life writes its record, for others must not miss it, and says in it that it is not known, until it was judged
//! by other nodes' clocks how far an earlier life can have come ([`super::walls`]). Before that it has minted nothing.
//!
//! A core that never got so far as to write its first record has minted nothing, but is taken for a hidden one too: that costs a moment at the start.

use std::ops::ControlFlow;

use ferrite_lsm::{Direction, Engine, Key, KeyRange, Prefix, Record, RecordFlags, ScanLimits, cover};
use ferrite_wire::Order;

use super::ShardSettings;
use crate::env::Env;

const PREFIX: Prefix = Prefix { space: 0, vnode: 0, table: 0, token: 0 };
const PARTITION: &[u8] = b"clock";

/// The place of a core's record: bytes of its sort key, in order of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BoundKey([u8; 10]);

impl BoundKey {
    /// That of this core, in the layout that its data has now.
    pub(super) fn of(settings: &ShardSettings) -> BoundKey {
        let generation = settings.engine.layout.map_or(0, |layout| layout.generation);
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&generation.to_be_bytes());
        bytes[8..].copy_from_slice(&settings.core.0.to_be_bytes());
        BoundKey(bytes)
    }

    pub(super) fn key(&self) -> Key<'_> {
        Key { prefix: PREFIX, partition: PARTITION, sort: &self.0 }
    }

    fn generation(&self) -> u64 {
        u64::from_be_bytes(*self.0.first_chunk().expect("ten bytes"))
    }
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bound {
    /// Nothing is minted at or above it.
    pub(super) bound: Order,
    /// How many cores the layout has.
    pub(super) cores: u16,
    /// It holds for all earlier lives as well.
    pub(super) is_known: bool,
}

impl Bound {
    /// The value of its record.
    pub(super) fn encode(&self) -> [u8; 11] {
        let mut bytes = [0; 11];
        bytes[..8].copy_from_slice(&self.bound.0.to_le_bytes());
        bytes[8..10].copy_from_slice(&self.cores.to_le_bytes());
        bytes[10] = self.is_known.into();
        bytes
    }

    fn decode(value: &[u8]) -> Option<Bound> {
        let value: &[u8; 11] = value.try_into().ok()?;
        let [bound @ .., _, _, _] = value;
        let is_known = match value[10] {
            0 => false,
            1 => true,
            _ => return None,
        };
        let cores = u16::from_le_bytes([value[8], value[9]]);
        Some(Bound { bound: Order(u64::from_le_bytes(*bound)), cores, is_known })
    }
}

/// A record of space 0 with this number.
pub(super) fn record(number: u64, value: &[u8]) -> Record<'_> {
    Record { order: number, actor: 0, flags: RecordFlags(0), expiry_ms: 0, value }
}

/// What earlier lives left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Earlier {
    /// Nothing was minted at or above it, as far as is known.
    pub(super) bound: Order,
    /// A number above that of any record of this core.
    pub(super) number: u64,
    /// Nothing is missing.
    pub(super) is_known: bool,
}

/// Finds it.
pub(super) async fn find<E: Env>(
    env: &E,
    settings: &ShardSettings,
    engine: &Engine<E::Disk, E::Pace>,
) -> Earlier {
    let own = BoundKey::of(settings);
    let found = match engine.read(own.key()).await {
        Ok(None) => return of_other_layouts::<E>(own, engine).await,
        Ok(Some(found)) => Bound::decode(found.record().value).map(|bound| (bound, found.record().order)),
        Err(error) => {
            tracing::warn!(%error, "how far this core's clock had come cannot be read");
            None
        }
    };
    match found {
        Some((Bound { bound, is_known, .. }, number)) => {
            if !is_known {
                cover::mark("clock's bound still not known");
                tracing::warn!("how far this core's clock had come was not known when it was started before");
            }
            Earlier { bound, number: number.saturating_add(1), is_known }
        }
        // Its number is above any that was counted.
        None => Earlier { bound: Order(0), number: env.wall_ms(), is_known: false },
    }
}

/// The same from what a change of the number of cores brought here.
async fn of_other_layouts<E: Env>(own: BoundKey, engine: &Engine<E::Disk, E::Pace>) -> Earlier {
    // As many as a node may have cores, for each layout that it has had.
    let mut left = Some(KeyRange::partition(PREFIX, PARTITION));
    let (mut bound, mut is_whole) = (Order(0), true);
    // The latest layout of which there is anything, how many cores it had, and how many of their records there are that say that theirs is known.
    let (mut latest, mut is_any) = ((0, 0, 0), false);
    while let Some(range) = left {
        let visit = |key: Key<'_>, record: Record<'_>| {
            let parsed = key.sort.try_into().ok().map(BoundKey).zip(Bound::decode(record.value));
            let Some((key, found)) = parsed else {
                is_whole = false;
                return ControlFlow::Continue(());
            };
            bound = bound.max(found.bound);
            is_any = true;
            // They come in order.
            let (at, of, before) = latest;
            let known = u16::from(found.is_known);
            latest = match at == key.generation() {
                true => (at, found.cores.max(of), before + known),
                false => (key.generation(), found.cores, known),
            };
            ControlFlow::Continue(())
        };
        left = match engine.scan(&range, Direction::Forward, ScanLimits::records(1_024), visit).await {
            Ok(left) => left,
            Err(error) => {
                tracing::warn!(%error, "how far the clocks of this node's cores had come cannot be read");
                is_whole = false;
                None
            }
        };
    }
    let (_, cores, known) = latest;
    if is_any {
        cover::mark("clock's bound taken from another layout");
    }
    // The first layout comes after none.
    let is_first = own.generation() <= 1;
    let is_known = is_whole && if is_any { known == cores } else { is_first };
    if !is_known {
        tracing::warn!(known, cores, "how far the clocks of all of this node's cores had come is not known");
    }
    Earlier { bound, number: 0, is_known }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_comes_back_as_it_was_and_bytes_that_are_none_do_not() {
        for is_known in [true, false] {
            let bound = Bound { bound: Order(77), cores: 3, is_known };
            let value = bound.encode();
            assert_eq!(Bound::decode(&value), Some(bound));
            for len in (0..value.len()).chain([12]) {
                assert_eq!(Bound::decode(&[value.as_slice(), &[0]].concat()[..len]), None, "{len} bytes");
            }
            assert_eq!(Bound::decode(&[&value[..10], &[2]].concat()), None);
        }
    }
}
