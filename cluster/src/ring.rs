//! The topology as a node looks things up in it: flat arrays, an index per question.

use ferrite_wire::{CoreId, Epoch, HashSeed, NodeEntry, NodeId, Topology, VnodeId};

/// A topology as seen by one of its members.
#[derive(Clone, Debug)]
pub struct Ring {
    topology: Topology,
    /// This node's place in each vnode's preference list; 0xff = not a replica.
    position_of_me: Vec<u8>,
}

const NOT_A_REPLICA: u8 = 0xff;

impl Ring {
    /// The ring of a topology, for the node `me`.
    pub fn new(topology: Topology, me: NodeId) -> Ring {
        let position = |list: &Vec<NodeId>| match list.iter().position(|node| *node == me) {
            Some(at) => at as u8,
            None => NOT_A_REPLICA,
        };
        let position_of_me = topology.replicas.iter().map(position).collect();
        Ring { topology, position_of_me }
    }

    /// The topology's epoch.
    #[inline]
    pub fn epoch(&self) -> Epoch {
        self.topology.epoch
    }

    /// The number of vnodes.
    #[inline]
    pub fn vnodes(&self) -> u32 {
        self.position_of_me.len() as u32
    }

    /// Seed of the token hash.
    #[inline]
    pub fn hash_seed(&self) -> HashSeed {
        self.topology.hash_seed
    }

    /// A vnode's preference list.
    #[inline]
    pub fn replicas(&self, vnode: VnodeId) -> &[NodeId] {
        self.topology.preference_list(vnode)
    }

    /// The epoch of a vnode's preference list.
    #[inline]
    pub fn vnode_epoch(&self, vnode: VnodeId) -> Epoch {
        self.topology.vnode_epochs[vnode.0 as usize]
    }

    /// This node's place in a vnode's preference list.
    #[inline]
    pub fn position_of_me(&self, vnode: VnodeId) -> Option<usize> {
        let at = self.position_of_me[vnode.0 as usize];
        (at != NOT_A_REPLICA).then_some(at as usize)
    }

    /// The core of a node that owns a vnode, once that node has told.
    #[inline]
    pub fn core_of(&self, node: NodeId, vnode: VnodeId) -> Option<CoreId> {
        self.topology.node(node)?.core_of_vnode.get(vnode.0 as usize).copied()
    }

    /// Takes over a member's own endpoints, cores and incarnation. These are not part of the placement: no epoch changes.
    pub fn learn(&mut self, entry: &NodeEntry) {
        let Ok(at) = self.topology.nodes.binary_search_by_key(&entry.id, |node| node.id) else { return };
        let mapped = entry.core_of_vnode.len() == self.position_of_me.len();
        let known = &mut self.topology.nodes[at];
        known.incarnation = entry.incarnation;
        known.endpoints.clone_from(&entry.endpoints);
        if mapped {
            known.core_of_vnode.clone_from(&entry.core_of_vnode);
        }
    }

    /// The topology.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The topology as it travels.
    pub fn topology_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.topology.encode(&mut bytes);
        bytes
    }
}
