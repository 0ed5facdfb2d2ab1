//! What passes between a membership and its host: what it begins with, and what it asks for.

use std::net::SocketAddr;

use ferrite_wire::{CoreId, NodeId};

use super::{CoreVerdict, Generation, GossipOptions, Identity, Scope, Verdict};

/// Most seeds.
pub const SEEDS_MAX: usize = 64;

/// What a membership begins with.
#[derive(Clone, Debug)]
pub struct Start {
    /// Who this node is.
    pub me: Identity,
    /// Which cluster it belongs to.
    pub scope: Scope,
    /// Version of its software: printable ASCII, at most [`super::VERSION_BYTES_MAX`] bytes.
    pub version: String,
    /// What it is called: printable ASCII, at most [`ferrite_wire::limits::NAME_BYTES_MAX`] bytes.
    pub name: String,
    /// Where other members may be, at most [`SEEDS_MAX`]; this node's own address among them does no harm.
    pub seeds: Vec<SocketAddr>,
    /// Random, another one for each start.
    pub random_seed: u64,
    /// Timings.
    pub options: GossipOptions,
}

/// What the host is to do, or to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a packet. If it cannot be sent at once or soon, drop it: it is worth nothing later.
    Send {
        /// Where to.
        to: SocketAddr,
        /// Whom to; `None` = whoever is there, as of a seed only its address is known. A host that reaches nodes in another way
        /// than by the address they name goes by this.
        node: Option<NodeId>,
        /// At most [`super::PACKET_BYTES_MAX`].
        bytes: Vec<u8>,
    },
    /// The verdict on a member has changed, or is on another life of it.
    Verdict {
        /// Whom it is on.
        identity: Identity,
        /// The verdict.
        verdict: Verdict,
    },
    /// The verdict on a core of a member has changed.
    Core {
        /// Which node.
        node: NodeId,
        /// Which of its cores.
        core: CoreId,
        /// The verdict.
        verdict: CoreVerdict,
    },
    /// The cluster had declared this node down, or has seen a higher life of it: it goes on under a new one.
    Renewed {
        /// The new life. The host begins its next one above.
        generation: Generation,
    },
}
