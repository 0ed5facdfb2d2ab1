//! What can be wrong with a packet. Whatever it is, the packet has changed nothing here.

use std::net::SocketAddr;

use ferrite_wire::{ClusterId, DecodeError, NodeId};

use super::{Generation, TablesHash};

/// Why a packet was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is not a packet of this protocol: cut, too long, or with a field that is out of bounds.
    Malformed(DecodeError),
    /// It comes from another cluster.
    ForeignCluster {
        /// Whose.
        cluster: ClusterId,
    },
    /// Its sender was configured with other tables than this node. What differs is said by comparing the lists, which the hello of
    /// a connection carries: [`ferrite_wire::Tables::difference`].
    TablesDiffer {
        /// The sender.
        node: NodeId,
        /// Hash of its tables.
        theirs: TablesHash,
        /// Hash of this node's.
        ours: TablesHash,
    },
    /// Another process answers to this node's number.
    Twin {
        /// Its life.
        generation: Generation,
        /// Where it is.
        address: SocketAddr,
    },
    /// It speaks of more nodes than a cluster may have.
    TooManyMembers {
        /// The most there may be.
        max: usize,
    },
    /// A reply that was to come through a third node came straight to the one that asked.
    Misdirected,
}

impl From<DecodeError> for Fault {
    fn from(error: DecodeError) -> Fault {
        Fault::Malformed(error)
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fault::Malformed(error) => write!(f, "not a gossip packet: {error}"),
            Fault::ForeignCluster { cluster } => write!(f, "the sender belongs to cluster {cluster}"),
            Fault::TablesDiffer { node, theirs, ours } => {
                write!(
                    f,
                    "node {} was configured with other tables: their hash is {theirs}, here it is {ours}",
                    node.0
                )
            }
            Fault::Twin { generation, address } => {
                write!(f, "another process at {address} has this node's number, generation {generation}")
            }
            Fault::TooManyMembers { max } => write!(f, "the packet speaks of more nodes than {max}"),
            Fault::Misdirected => write!(f, "an indirect message came straight to the node that asked"),
        }
    }
}

impl std::error::Error for Fault {}
