//! A key as clients name it, and its token.

use crate::{TableId, Token};

/// The seed of the cluster's token hash, fixed for the cluster's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HashSeed(pub u64);

/// A borrowed key: table, partition key, sort key (possibly empty). All items of a partition key share a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key<'a> {
    /// The table.
    pub table: TableId,
    /// Decides the token.
    pub partition: &'a [u8],
    /// Orders items within a partition.
    pub sort: &'a [u8],
}

impl<'a> Key<'a> {
    /// A key of the default table without a sort key.
    pub fn plain(partition: &'a [u8]) -> Key<'a> {
        Key { table: TableId::DEFAULT, partition, sort: b"" }
    }

    /// The key's token: `xxh3_64(partition key)` with the cluster's seed.
    #[inline]
    pub fn token(&self, seed: HashSeed) -> Token {
        Token(xxhash_rust::xxh3::xxh3_64_with_seed(self.partition, seed.0))
    }
}
