//! The first frame in each direction: who is there, which protocol versions, which cluster.
//!
//! ```text
//! hello       := magic:u64 min:u16 max:u16 features:u64 cluster:16 role:u8 node:u16 core:u16 incarnation:u64 [tables]
//! hello_reply := magic:u64 version:u16 features:u64 cluster:16 node:u16 core:u16 cores:u16 incarnation:u64 epoch:u64 body_max:u32
//! ```
//!
//! Another node, whether a core of it or its gossip, says which tables it knows (`tables`, see [`crate::Tables`]), so that one that was configured otherwise is
//! refused before it can write; a client's hello ends without.
//!
//! The frame header and the fields up to `features` never change, so that any version can refuse any other in words.

use crate::{ClusterId, CoreId, DecodeError, Epoch, NodeId, Reader, TableList};

/// Oldest protocol version spoken.
pub const PROTOCOL_MIN: u16 = 1;
/// Newest protocol version spoken.
pub const PROTOCOL_MAX: u16 = 1;
/// Bytes of a hello's body up to the list of tables.
const HELLO_HEAD_BYTES: usize = 49;
const MAGIC: u64 = u64::from_le_bytes(*b"FERRITE\0");

/// Optional abilities, a bit each; none is defined yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(pub u64);

/// What the connecting side is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role<'a> {
    /// A client.
    Client,
    /// A core of another node of the cluster.
    Peer {
        /// Which node.
        node: NodeId,
        /// Which of its cores.
        core: CoreId,
        /// Random per start of the process.
        incarnation: u64,
        /// The tables it knows.
        tables: TableList<'a>,
    },
    /// The gossip of another node of the cluster, which has connections of its own so that it never waits behind data.
    Gossip {
        /// Which node.
        node: NodeId,
        /// Random per start of the process.
        incarnation: u64,
        /// The tables it knows.
        tables: TableList<'a>,
    },
}

/// What of another node a hello is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerPart {
    /// One of its cores.
    Core,
    /// Its gossip.
    Gossip,
}

/// Opens a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello<'a> {
    /// Oldest version the sender speaks.
    pub min: u16,
    /// Newest version the sender speaks.
    pub max: u16,
    /// What the sender can do beyond the version.
    pub features: Features,
    /// The cluster the sender expects; all zero (clients only) = whichever.
    pub cluster: ClusterId,
    /// What the sender is.
    pub role: Role<'a>,
}

impl<'a> Hello<'a> {
    /// Bytes of the body up to the list of tables: all of a client's hello.
    pub const HEAD_BYTES: usize = HELLO_HEAD_BYTES;

    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&MAGIC.to_le_bytes());
        out.extend_from_slice(&self.min.to_le_bytes());
        out.extend_from_slice(&self.max.to_le_bytes());
        out.extend_from_slice(&self.features.0.to_le_bytes());
        out.extend_from_slice(&self.cluster.0);
        let (role, node, core, incarnation, tables): (u8, _, _, u64, &[u8]) = match self.role {
            Role::Client => (0, NodeId(0), CoreId(0), 0, b""),
            Role::Peer { node, core, incarnation, tables } => (1, node, core, incarnation, tables.as_bytes()),
            Role::Gossip { node, incarnation, tables } => {
                (2, node, CoreId(0), incarnation, tables.as_bytes())
            }
        };
        out.push(role);
        out.extend_from_slice(&node.0.to_le_bytes());
        out.extend_from_slice(&core.0.to_le_bytes());
        out.extend_from_slice(&incarnation.to_le_bytes());
        out.extend_from_slice(tables);
    }

    /// Reads the body. Without a version in common nothing after `features` is looked at and the answer is
    /// [`DecodeError::Version`]; bytes after the known fields are left alone when `max` is newer than ours.
    pub fn decode(body: &'a [u8]) -> Result<Hello<'a>, DecodeError> {
        let mut reader = Reader::new(body);
        if reader.u64()? != MAGIC {
            return Err(DecodeError::Magic);
        }
        let (min, max) = (reader.u16()?, reader.u16()?);
        let features = Features(reader.u64()?);
        if min > max || min > PROTOCOL_MAX || max < PROTOCOL_MIN {
            return Err(DecodeError::Version { min, max });
        }
        let cluster = ClusterId(reader.bytes16()?);
        let role = reader.u8()?;
        let (node, core, incarnation) = (NodeId(reader.u16()?), CoreId(reader.u16()?), reader.u64()?);
        let role = match role {
            0 if (node, core, incarnation) != (NodeId(0), CoreId(0), 0) => {
                return Err(DecodeError::Unknown { field: "node of a client", value: u64::from(node.0) });
            }
            0 => Role::Client,
            1 => Role::Peer { node, core, incarnation, tables: TableList::read(&mut reader)? },
            2 if core != CoreId(0) => {
                return Err(DecodeError::Unknown { field: "core of a node's gossip", value: core.0.into() });
            }
            2 => Role::Gossip { node, incarnation, tables: TableList::read(&mut reader)? },
            _ => return Err(DecodeError::Unknown { field: "role", value: u64::from(role) }),
        };
        if max <= PROTOCOL_MAX && !reader.rest().is_empty() {
            return Err(DecodeError::Trailing);
        }
        Ok(Hello { min, max, features, cluster, role })
    }

    /// Whose hello this is, if it is another node's, by the beginning of its body, and whether of its gossip. Nothing of it has been
    /// checked: that comes with the whole of it.
    pub fn peer_of(begun: &[u8; HELLO_HEAD_BYTES]) -> Option<(ClusterId, NodeId, PeerPart)> {
        const CLUSTER_AT: usize = 20;
        let mut reader = Reader::new(&begun[CLUSTER_AT..]);
        let cluster = ClusterId(reader.bytes16().ok()?);
        let part = match reader.u8().ok()? {
            1 => PeerPart::Core,
            2 => PeerPart::Gossip,
            _ => return None,
        };
        Some((cluster, NodeId(reader.u16().ok()?), part))
    }

    /// The newest version both sides speak.
    pub fn version_in_common(&self) -> Option<u16> {
        let newest = self.max.min(PROTOCOL_MAX);
        (newest >= self.min.max(PROTOCOL_MIN)).then_some(newest)
    }
}

/// Accepts a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HelloReply {
    /// The version both will speak.
    pub version: u16,
    /// What the server can do beyond the version.
    pub features: Features,
    /// The server's cluster.
    pub cluster: ClusterId,
    /// The server's node.
    pub node: NodeId,
    /// The core that owns this connection.
    pub core: CoreId,
    /// How many cores the node has.
    pub cores: u16,
    /// Random per start of the server's process.
    pub incarnation: u64,
    /// The server's topology epoch.
    pub epoch: Epoch,
    /// Longest frame body the server takes, in bytes.
    pub body_bytes_max: u32,
}

impl HelloReply {
    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&MAGIC.to_le_bytes());
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&self.features.0.to_le_bytes());
        out.extend_from_slice(&self.cluster.0);
        out.extend_from_slice(&self.node.0.to_le_bytes());
        out.extend_from_slice(&self.core.0.to_le_bytes());
        out.extend_from_slice(&self.cores.to_le_bytes());
        out.extend_from_slice(&self.incarnation.to_le_bytes());
        out.extend_from_slice(&self.epoch.0.to_le_bytes());
        out.extend_from_slice(&self.body_bytes_max.to_le_bytes());
    }

    /// Reads the body.
    pub fn decode(body: &[u8]) -> Result<HelloReply, DecodeError> {
        let mut reader = Reader::new(body);
        if reader.u64()? != MAGIC {
            return Err(DecodeError::Magic);
        }
        let (version, features) = (reader.u16()?, Features(reader.u64()?));
        if !(PROTOCOL_MIN..=PROTOCOL_MAX).contains(&version) {
            return Err(DecodeError::Version { min: version, max: version });
        }
        let reply = HelloReply {
            version,
            features,
            cluster: ClusterId(reader.bytes16()?),
            node: NodeId(reader.u16()?),
            core: CoreId(reader.u16()?),
            cores: reader.u16()?,
            incarnation: reader.u64()?,
            epoch: Epoch(reader.u64()?),
            body_bytes_max: reader.u32()?,
        };
        if reader.rest().is_empty() { Ok(reply) } else { Err(DecodeError::Trailing) }
    }
}
