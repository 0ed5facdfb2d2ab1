//! Sets of options under which a history is replayed.

use super::steps::TOKEN_SEED;
use ferrite_lsm::{Compression, Options, Strategy};

/// A set of options.
#[derive(Clone, Copy)]
pub(super) struct Set {
    pub(super) name: &'static str,
    pub(super) stores: u16,
    /// Of each open, from 1.
    pub(super) cores: fn(u64) -> u16,
    pub(super) change: fn(&mut Options, u64),
}

pub(super) const SETS: [Set; 13] = [
    Set { name: "small", stores: 2, cores: |_| 1, change: |_, _| {} },
    Set { name: "tiered", stores: 2, cores: |_| 1, change: |o, _| o.strategy = Strategy::Tiered },
    Set { name: "one store", stores: 1, cores: |_| 1, change: |o, _| o.level_base_bytes = 1 << 20 },
    Set { name: "four stores", stores: 4, cores: |_| 1, change: |o, _| o.level_fanout = 4 },
    Set {
        name: "tiny blocks, compressed",
        stores: 2,
        cores: |_| 1,
        change: |o, _| (o.table.block_bytes, o.table.compression) = (512, Compression::Lz4),
    },
    Set {
        name: "long blocks, no cache",
        stores: 2,
        cores: |_| 1,
        change: |o, _| (o.table.block_bytes, o.cache_bytes) = (32 << 10, 0),
    },
    Set {
        name: "no filters, all cached",
        stores: 2,
        cores: |_| 1,
        change: |o, _| (o.table.filter_bits_per_key, o.cache_bytes) = (0, 8 << 20),
    },
    Set {
        name: "tokens left out",
        stores: 3,
        cores: |_| 1,
        change: |o, _| (o.table.token_seed, o.table.block_bytes) = (Some(TOKEN_SEED), 1024),
    },
    Set { name: "values apart", stores: 2, cores: |_| 1, change: |o, _| o.large_value_bytes = Some(100) },
    Set {
        name: "values apart, tiered, compressed",
        stores: 2,
        cores: |_| 1,
        change: |o, _| {
            o.large_value_bytes = Some(40);
            o.strategy = Strategy::Tiered;
            o.table.compression = Compression::Lz4;
        },
    },
    Set { name: "hardly a flush", stores: 2, cores: |_| 1, change: |o, _| o.memtable_bytes = 4 << 20 },
    Set { name: "one core and two", stores: 4, cores: |open| 1 + (open % 2) as u16, change: |_, _| {} },
    Set {
        name: "another with each open",
        stores: 3,
        cores: |open| [1, 3, 2, 2][open as usize % 4],
        change: |o, open| {
            o.large_value_bytes = (open % 3 == 1).then_some(200);
            o.strategy = if open % 2 == 0 { Strategy::Tiered } else { Strategy::Leveled };
            o.table.compression = if open % 5 < 2 { Compression::Lz4 } else { Compression::None };
            o.table.block_bytes = [700, 4096, 9000][open as usize % 3];
            o.cache_bytes = [0, 64 << 10, 1 << 20][open as usize % 3];
        },
    },
];
