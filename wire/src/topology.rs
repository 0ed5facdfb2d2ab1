//! The topology as it travels: members, and an explicit replica list per vnode.
//!
//! ```text
//! topology := format:u16(1) epoch:u64 cluster:16 hash_seed:u64 vnodes:u32 node_count:u16 node* vnode*vnodes
//! node     := id:u16 incarnation:u64 name rack datacenter contact core_count:u16 endpoint*core_count mapped:u8 core:u16*(mapped ? vnodes : 0)
//! vnode    := epoch:u64 replica_count:u8 node_id:u16*replica_count
//! name, rack, datacenter, contact, endpoint := len:u8 text
//! ```

use crate::{ClusterId, CoreId, DecodeError, Epoch, HashSeed, NodeId, Reader, VnodeId, limits};

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeEntry {
    /// Its number.
    pub id: NodeId,
    /// Random per start of its process; 0 = not heard from yet.
    pub incarnation: u64,
    /// Its name, for people.
    pub name: String,
    /// Its rack.
    pub rack: String,
    /// Its datacenter.
    pub datacenter: String,
    /// `host:port` that serves everything.
    pub contact: String,
    /// `host:port` of each core; empty = not known yet.
    pub endpoints: Vec<String>,
    /// The owning core of each vnode; empty = not known yet (use the contact address).
    pub core_of_vnode: Vec<CoreId>,
}

/// Members and placement. The replica list of a vnode, in order, is its preference list; a smaller N takes a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Grows with every change.
    pub epoch: Epoch,
    /// Whose topology this is.
    pub cluster: ClusterId,
    /// Seed of the token hash.
    pub hash_seed: HashSeed,
    /// Members, by ascending id.
    pub nodes: Vec<NodeEntry>,
    /// Preference list per vnode; its length is the number of vnodes, a power of two.
    pub replicas: Vec<Vec<NodeId>>,
    /// Epoch of each vnode's list.
    pub vnode_epochs: Vec<Epoch>,
}

impl Topology {
    /// The number of vnodes.
    pub fn vnodes(&self) -> u32 {
        self.replicas.len() as u32
    }

    /// A member by its number.
    pub fn node(&self, id: NodeId) -> Option<&NodeEntry> {
        self.nodes.binary_search_by_key(&id, |node| node.id).ok().map(|at| &self.nodes[at])
    }

    /// A vnode's preference list.
    pub fn preference_list(&self, vnode: VnodeId) -> &[NodeId] {
        &self.replicas[vnode.0 as usize]
    }

    /// Appends the topology.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&1u16.to_le_bytes());
        out.extend_from_slice(&self.epoch.0.to_le_bytes());
        out.extend_from_slice(&self.cluster.0);
        out.extend_from_slice(&self.hash_seed.0.to_le_bytes());
        out.extend_from_slice(&self.vnodes().to_le_bytes());
        out.extend_from_slice(&(self.nodes.len() as u16).to_le_bytes());
        for node in &self.nodes {
            out.extend_from_slice(&node.id.0.to_le_bytes());
            out.extend_from_slice(&node.incarnation.to_le_bytes());
            for text in [&node.name, &node.rack, &node.datacenter, &node.contact] {
                encode_text(text, out);
            }
            out.extend_from_slice(&(node.endpoints.len() as u16).to_le_bytes());
            node.endpoints.iter().for_each(|text| encode_text(text, out));
            assert!(node.core_of_vnode.is_empty() || node.core_of_vnode.len() == self.replicas.len());
            out.push(u8::from(!node.core_of_vnode.is_empty()));
            node.core_of_vnode.iter().for_each(|core| out.extend_from_slice(&core.0.to_le_bytes()));
        }
        assert_eq!(self.replicas.len(), self.vnode_epochs.len());
        for (list, epoch) in self.replicas.iter().zip(&self.vnode_epochs) {
            out.extend_from_slice(&epoch.0.to_le_bytes());
            out.push(list.len() as u8);
            list.iter().for_each(|id| out.extend_from_slice(&id.0.to_le_bytes()));
        }
    }

    /// Reads a topology and checks that it is whole: a power of two of vnodes, ascending ids, replicas that are members
    /// and distinct, cores that exist.
    pub fn decode(bytes: &[u8]) -> Result<Topology, DecodeError> {
        let mut reader = Reader::new(bytes);
        let format = reader.u16()?;
        if format != 1 {
            return Err(DecodeError::Unknown { field: "topology format", value: u64::from(format) });
        }
        let epoch = Epoch(reader.u64()?);
        let cluster = ClusterId(reader.bytes16()?);
        let hash_seed = HashSeed(reader.u64()?);
        let vnodes = reader.u32()? as usize;
        if !vnodes.is_power_of_two() || vnodes > limits::VNODES_MAX {
            return Err(DecodeError::Unknown { field: "number of vnodes", value: vnodes as u64 });
        }
        let node_count = bounded(reader.u16()? as usize, "nodes", limits::NODES_MAX)?;
        let mut nodes: Vec<NodeEntry> = Vec::new();
        for _ in 0..node_count {
            let node = decode_node(&mut reader, vnodes)?;
            if nodes.last().is_some_and(|last| last.id >= node.id) {
                return Err(DecodeError::Unknown { field: "node order", value: u64::from(node.id.0) });
            }
            nodes.push(node);
        }
        let (mut replicas, mut vnode_epochs) = (Vec::new(), Vec::new());
        for _ in 0..vnodes {
            vnode_epochs.push(Epoch(reader.u64()?));
            let count = bounded(reader.u8()? as usize, "replicas", limits::REPLICAS_MAX)?;
            let mut list: Vec<NodeId> = Vec::new();
            for _ in 0..count {
                let id = NodeId(reader.u16()?);
                if list.contains(&id) || nodes.binary_search_by_key(&id, |node| node.id).is_err() {
                    return Err(DecodeError::Unknown { field: "replica", value: u64::from(id.0) });
                }
                list.push(id);
            }
            replicas.push(list);
        }
        if !reader.rest().is_empty() {
            return Err(DecodeError::Trailing);
        }
        Ok(Topology { epoch, cluster, hash_seed, nodes, replicas, vnode_epochs })
    }
}

fn decode_node(reader: &mut Reader<'_>, vnodes: usize) -> Result<NodeEntry, DecodeError> {
    let id = NodeId(reader.u16()?);
    let incarnation = reader.u64()?;
    let (name, rack) = (decode_text(reader)?, decode_text(reader)?);
    let (datacenter, contact) = (decode_text(reader)?, decode_text(reader)?);
    let cores = bounded(reader.u16()? as usize, "cores", limits::CORES_MAX)?;
    let endpoints = (0..cores).map(|_| decode_text(reader)).collect::<Result<Vec<_>, _>>()?;
    let mut core_of_vnode = Vec::new();
    match reader.u8()? {
        0 => {}
        1 => {
            for _ in 0..vnodes {
                let core = reader.u16()?;
                if core as usize >= cores {
                    return Err(DecodeError::Unknown { field: "core", value: u64::from(core) });
                }
                core_of_vnode.push(CoreId(core));
            }
        }
        other => return Err(DecodeError::Unknown { field: "core map", value: u64::from(other) }),
    }
    Ok(NodeEntry { id, incarnation, name, rack, datacenter, contact, endpoints, core_of_vnode })
}

fn encode_text(text: &str, out: &mut Vec<u8>) {
    assert!(text.len() <= limits::NAME_BYTES_MAX, "names are bounded where they enter");
    out.push(text.len() as u8);
    out.extend_from_slice(text.as_bytes());
}

fn decode_text(reader: &mut Reader<'_>) -> Result<String, DecodeError> {
    let len = reader.u8()? as usize;
    Ok(std::str::from_utf8(reader.take(len)?).map_err(|_| DecodeError::NotUtf8)?.to_owned())
}

fn bounded(len: usize, field: &'static str, max: usize) -> Result<usize, DecodeError> {
    if len > max {
        return Err(DecodeError::TooLong { field, len: len as u64, max: max as u64 });
    }
    Ok(len)
}
