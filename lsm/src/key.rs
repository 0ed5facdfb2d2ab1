//! The engine's key, and the order of everything it stores.
//!
//! Keys sort by `(space, vnode, table, token, partition key, sort key)`: a vnode is a range, a table inside it is a range.
//! Space 0 is local to the node and outside the ring (hints, leases); space 1 is the ring's.

/// The part of a key that is compared as integers first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    /// 0 = local to the node, 1 = the ring.
    pub space: u8,
    /// The vnode.
    pub vnode: u16,
    /// The table.
    pub table: u32,
    /// Hash of the partition key; within a vnode of space 1 its top bits are the vnode.
    pub token: u64,
}

impl Prefix {
    /// All fields as one integer that sorts as the prefix does.
    #[inline]
    pub fn to_u128(self) -> u128 {
        u128::from(self.space) << 112
            | u128::from(self.vnode) << 96
            | u128::from(self.table) << 64
            | u128::from(self.token)
    }

    /// The prefix that [`Prefix::to_u128`] made.
    #[inline]
    pub fn from_u128(bits: u128) -> Prefix {
        Prefix {
            space: (bits >> 112) as u8,
            vnode: (bits >> 96) as u16,
            table: (bits >> 64) as u32,
            token: bits as u64,
        }
    }
}

/// A borrowed key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key<'a> {
    /// Compared first.
    pub prefix: Prefix,
    /// Compared next: two partition keys may share a token.
    pub partition: &'a [u8],
    /// Compared last.
    pub sort: &'a [u8],
}

impl Key<'_> {
    /// An owned copy.
    pub fn to_buf(&self) -> KeyBuf {
        KeyBuf { prefix: self.prefix, partition: self.partition.into(), sort: self.sort.into() }
    }
}

/// An owned key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyBuf {
    /// Compared first.
    pub prefix: Prefix,
    /// Compared next.
    pub partition: Box<[u8]>,
    /// Compared last.
    pub sort: Box<[u8]>,
}

impl KeyBuf {
    /// The key, borrowed.
    #[inline]
    pub fn as_key(&self) -> Key<'_> {
        Key { prefix: self.prefix, partition: &self.partition, sort: &self.sort }
    }
}
