//! Who a member is: a node, in one of its lives, at an address.
//!
//! ```text
//! identity := node:u16 generation:u64 address
//! address  := 4:u8 ip:4 port:u16  |  6:u8 ip:16 port:u16
//! ```
//!
//! Invariant: of two identities of one node the one of the higher generation replaces the other wherever it is heard of, so a
//! process that was started anew takes the place of its former self at once, whatever the cluster thought of that.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ferrite_wire::{DecodeError, NodeId, Reader};

/// Most bytes of an identity.
pub(super) const IDENTITY_BYTES_MAX: usize = 2 + 8 + 1 + 16 + 2;

/// The life of a node's process, higher than that of any before. The host hands it in; the milliseconds of the wall clock, never
/// below a persisted bound, are such a number. A node that the cluster has declared down goes on one higher.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation(pub u64);

impl std::fmt::Display for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    node: NodeId,
    generation: Generation,
    address: SocketAddr,
}

impl Identity {
    /// A member whose connections for gossip are accepted at `address`. An IPv6 address loses its scope and flow label, which
    /// mean nothing to others.
    pub fn new(node: NodeId, generation: Generation, address: SocketAddr) -> Identity {
        Identity { node, generation, address: SocketAddr::new(address.ip(), address.port()) }
    }

    /// Which node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Which of its lives.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Where it is reached.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same node in a later life: above this one, and above another if one was heard of. `None` = there is no higher number.
    pub(super) fn renewed_above(&self, other: Generation) -> Option<Identity> {
        let generation = Generation(self.generation.max(other).0.checked_add(1)?);
        Some(Identity { generation, ..*self })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.node.0.to_le_bytes());
        out.extend_from_slice(&self.generation.0.to_le_bytes());
        match self.address.ip() {
            IpAddr::V4(ip) => {
                out.push(4);
                out.extend_from_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                out.push(6);
                out.extend_from_slice(&ip.octets());
            }
        }
        out.extend_from_slice(&self.address.port().to_le_bytes());
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Identity, DecodeError> {
        let (node, generation) = (NodeId(reader.u16()?), Generation(reader.u64()?));
        let ip = match reader.u8()? {
            4 => IpAddr::V4(Ipv4Addr::from(reader.u32()?.to_le_bytes())),
            6 => IpAddr::V6(Ipv6Addr::from(reader.bytes16()?)),
            kind => return Err(DecodeError::Unknown { field: "kind of address", value: kind.into() }),
        };
        Ok(Identity { node, generation, address: SocketAddr::new(ip, reader.u16()?) })
    }
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "node {} at {}, generation {}", self.node.0, self.address, self.generation)
    }
}

impl foca::Identity for Identity {
    type Addr = NodeId;

    fn renew(&self) -> Option<Identity> {
        self.renewed_above(self.generation)
    }

    fn addr(&self) -> NodeId {
        self.node
    }

    fn win_addr_conflict(&self, other: &Identity) -> bool {
        (self.generation, self.address) > (other.generation, other.address)
    }
}
