//! The topology as it travels: members, tables, and an explicit replica list per vnode.
//!
//! ```text
//! topology := format:u16(2) epoch:u64 cluster:16 hash_seed:u64 vnodes:u32 node_count:u16 node* tables vnode*vnodes
//! node     := id:u16 incarnation:u64 name rack datacenter contact core_count:u16 endpoint*core_count
//! vnode    := epoch:u64 replica_count:u8 replica*replica_count
//! replica  := node_id:u16 core:u16          core = 0xffff: not known
//! name, rack, datacenter, contact, endpoint := len:u8 text
//! tables   := see [`crate::Tables`]
//! ```
//!
//! A core travels beside each replica and not as a map per node: a map of every vnode for every member would outgrow a
//! frame's body (300 members of 16,384 vnodes: 9.8 MB; this way 0.1 MB), and nobody asks where a node would keep a vnode
//! that it does not hold.

use crate::{ClusterId, CoreId, DecodeError, Epoch, HashSeed, NodeId, Reader, Tables, VnodeId, limits};

const FORMAT: u16 = 2;
const HEAD_BYTES: usize = 40;
const CORE_NOT_KNOWN: u16 = u16::MAX;

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
    /// The owning core of each vnode; empty = not known yet (use the contact address). Only the entries of vnodes whose
    /// replica list names this node mean anything to others and travel; the rest arrive as core 0.
    pub core_of_vnode: Vec<CoreId>,
}

/// Members, tables and placement. The replica list of a vnode, in order, is its preference list, as long as the largest replication
/// of any table asks for; a table with a smaller one takes a prefix.
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
    /// The tables.
    pub tables: Tables,
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

    /// Whether the topology keeps every limit and fits a frame's body; for whoever makes one. [`Topology::encode`]
    /// asserts what this checks.
    pub fn check(&self) -> Result<(), DecodeError> {
        let vnodes = self.replicas.len();
        if !vnodes.is_power_of_two() || vnodes > limits::VNODES_MAX {
            return Err(DecodeError::Unknown { field: "number of vnodes", value: vnodes as u64 });
        }
        bounded(self.nodes.len(), "nodes", limits::NODES_MAX)?;
        for node in &self.nodes {
            bounded(node.endpoints.len(), "cores", limits::CORES_MAX)?;
            for text in node.texts() {
                bounded(text.len(), "name", limits::NAME_BYTES_MAX)?;
            }
            if let Some(core) = node.core_of_vnode.iter().find(|core| core.0 as usize >= node.endpoints.len())
            {
                return Err(DecodeError::Unknown { field: "core", value: u64::from(core.0) });
            }
        }
        let mapped = self.nodes.iter().filter(|node| !node.core_of_vnode.is_empty()).count();
        bounded(mapped * vnodes, "core maps", limits::CORE_MAP_ENTRIES_MAX)?;
        for list in &self.replicas {
            bounded(list.len(), "replicas", limits::REPLICAS_MAX)?;
        }
        bounded(self.encoded_len(), "topology", limits::BODY_BYTES_MAX).map(|_| ())
    }

    /// Bytes of the encoded topology.
    pub fn encoded_len(&self) -> usize {
        let node = |node: &NodeEntry| 12 + node.texts().map(|text| 1 + text.len()).sum::<usize>();
        let vnode = |list: &Vec<NodeId>| 9 + 4 * list.len();
        HEAD_BYTES
            + self.nodes.iter().map(node).sum::<usize>()
            + self.tables.encoded_len()
            + self.replicas.iter().map(vnode).sum::<usize>()
    }

    /// Appends the topology.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&FORMAT.to_le_bytes());
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
        }
        self.tables.encode(out);
        assert_eq!(self.replicas.len(), self.vnode_epochs.len());
        for (vnode, (list, epoch)) in self.replicas.iter().zip(&self.vnode_epochs).enumerate() {
            out.extend_from_slice(&epoch.0.to_le_bytes());
            out.push(list.len() as u8);
            for id in list {
                let node = self.node(*id).expect("replicas are members");
                let core = node.core_of_vnode.get(vnode).map_or(CORE_NOT_KNOWN, |core| core.0);
                out.extend_from_slice(&id.0.to_le_bytes());
                out.extend_from_slice(&core.to_le_bytes());
            }
        }
    }

    /// Reads a topology and checks that it is whole: a power of two of vnodes, ascending ids, replicas that are members
    /// and distinct, cores that exist and are known for all of a node's vnodes or for none.
    pub fn decode(bytes: &[u8]) -> Result<Topology, DecodeError> {
        let mut reader = Reader::new(bytes);
        let format = reader.u16()?;
        if format != FORMAT {
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
            let node = decode_node(&mut reader)?;
            if nodes.last().is_some_and(|last| last.id >= node.id) {
                return Err(DecodeError::Unknown { field: "node order", value: u64::from(node.id.0) });
            }
            nodes.push(node);
        }
        let tables = Tables::decode(&mut reader)?;
        let (mut replicas, mut vnode_epochs) = (Vec::new(), Vec::new());
        let mut maps = CoreMaps { known: vec![None; node_count], vnodes, entries: 0 };
        for vnode in 0..vnodes {
            vnode_epochs.push(Epoch(reader.u64()?));
            let count = bounded(reader.u8()? as usize, "replicas", limits::REPLICAS_MAX)?;
            let mut list: Vec<NodeId> = Vec::with_capacity(count);
            for _ in 0..count {
                let (id, core) = (NodeId(reader.u16()?), reader.u16()?);
                let member = nodes.binary_search_by_key(&id, |node| node.id);
                match member {
                    Ok(at) if !list.contains(&id) => maps.learn(&mut nodes, at, vnode, core)?,
                    _ => return Err(DecodeError::Unknown { field: "replica", value: u64::from(id.0) }),
                }
                list.push(id);
            }
            replicas.push(list);
        }
        if !reader.rest().is_empty() {
            return Err(DecodeError::Trailing);
        }
        Ok(Topology { epoch, cluster, hash_seed, nodes, tables, replicas, vnode_epochs })
    }
}

impl NodeEntry {
    fn texts(&self) -> impl Iterator<Item = &String> {
        [&self.name, &self.rack, &self.datacenter, &self.contact].into_iter().chain(&self.endpoints)
    }
}

/// The core maps that a topology unfolds to, made as their nodes are first met and bounded in all.
struct CoreMaps {
    /// Per node: nothing met yet, or whether its cores are known.
    known: Vec<Option<bool>>,
    vnodes: usize,
    entries: usize,
}

impl CoreMaps {
    fn learn(
        &mut self,
        nodes: &mut [NodeEntry],
        at: usize,
        vnode: usize,
        core: u16,
    ) -> Result<(), DecodeError> {
        let node = &mut nodes[at];
        let is_known = core != CORE_NOT_KNOWN;
        let bad_core = DecodeError::Unknown { field: "core", value: u64::from(core) };
        if is_known && core as usize >= node.endpoints.len() {
            return Err(bad_core);
        }
        if *self.known[at].get_or_insert(is_known) != is_known {
            return Err(bad_core);
        }
        if is_known {
            if node.core_of_vnode.is_empty() {
                self.entries =
                    bounded(self.entries + self.vnodes, "core maps", limits::CORE_MAP_ENTRIES_MAX)?;
                node.core_of_vnode = vec![CoreId(0); self.vnodes];
            }
            node.core_of_vnode[vnode] = CoreId(core);
        }
        Ok(())
    }
}

fn decode_node(reader: &mut Reader<'_>) -> Result<NodeEntry, DecodeError> {
    let id = NodeId(reader.u16()?);
    let incarnation = reader.u64()?;
    let (name, rack) = (decode_text(reader)?, decode_text(reader)?);
    let (datacenter, contact) = (decode_text(reader)?, decode_text(reader)?);
    let cores = bounded(reader.u16()? as usize, "cores", limits::CORES_MAX)?;
    let endpoints = (0..cores).map(|_| decode_text(reader)).collect::<Result<Vec<_>, _>>()?;
    Ok(NodeEntry { id, incarnation, name, rack, datacenter, contact, endpoints, core_of_vnode: Vec::new() })
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
