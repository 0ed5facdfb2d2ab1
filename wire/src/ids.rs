//! Newtypes for everything that is numbered, so that no two bare integers can be swapped.

/// Position of a partition key on the token circle: `xxh3_64(partition key)` with the cluster's seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

impl Token {
    /// The vnode that owns this token when the circle has `vnodes` equal slices (a power of two): the token's top bits.
    pub fn vnode(self, vnodes: u32) -> VnodeId {
        assert!(vnodes.is_power_of_two(), "the number of vnodes is a power of two");
        let bits = vnodes.trailing_zeros();
        if bits == 0 { VnodeId(0) } else { VnodeId((self.0 >> (64 - bits)) as u16) }
    }
}

/// One of the cluster's equal slices of the token circle; at most 65,536 of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VnodeId(pub u16);

/// A node's number in its cluster, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u16);

/// A core (shard) of a node, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CoreId(pub u16);

/// A table's number; see [`crate::Table`] for how it comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableId(pub u32);

/// Version of the topology, or of one vnode's replica list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// A request's number, chosen by its sender, unique among that connection's requests in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Who minted a version: random, one per core and incarnation of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Actor(pub u64);

/// Hybrid logical time: milliseconds since the Unix epoch in the upper 48 bits, a counter in the lower 16.
/// (Kulkarni et al., "Logical Physical Clocks", 2014.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Order(pub u64);

impl Order {
    /// The smallest order of a wall-clock millisecond.
    pub fn from_wall_ms(ms: u64) -> Order {
        Order(ms << 16)
    }

    /// The wall-clock millisecond this order lies in.
    pub fn wall_ms(self) -> u64 {
        self.0 >> 16
    }
}

/// A cluster's identity: 128 random bits made once by `ferrite init`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClusterId(pub [u8; 16]);

impl std::fmt::Display for ClusterId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ClusterId({self})")
    }
}

impl std::str::FromStr for ClusterId {
    type Err = ();

    /// Parses 32 hexadecimal digits.
    fn from_str(text: &str) -> Result<ClusterId, ()> {
        if text.len() != 32 || !text.is_ascii() {
            return Err(());
        }
        let mut id = [0; 16];
        for (byte, pair) in id.iter_mut().zip(text.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| ())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| ())?;
        }
        Ok(ClusterId(id))
    }
}
