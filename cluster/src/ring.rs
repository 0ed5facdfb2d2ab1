//! The topology as a node looks things up in it: flat arrays, one index per question.
//!
//! A ring is built once per topology epoch. What members tell about themselves later (endpoints, which core owns which
//! vnode) is [learned](Ring::learn) in place: it says how to reach a replica, not who the replicas are, so no epoch changes.
//!
//! ```text
//! token ──top bits──► vnode ──starts──► replicas[start..end]   the preference list
//!                                       cores   [start..end]   the owning core at each of them, if known
//! ```

use std::ops::Range;

use ferrite_wire::{
    CoreId, Epoch, HashSeed, NodeEntry, NodeId, Table, TableId, Tables, Token, Topology, VnodeId, limits,
};

const NOT_A_REPLICA: u8 = u8::MAX;
const CORE_NOT_KNOWN: CoreId = CoreId(u16::MAX);

const _: () = assert!(limits::REPLICAS_MAX < NOT_A_REPLICA as usize && limits::CORES_MAX < u16::MAX as usize);

/// A topology as seen by one of its members.
#[derive(Clone, Debug)]
pub struct Ring {
    /// What travels. Invariant: the arrays below say the same.
    topology: Topology,
    me: NodeId,
    /// Where each vnode's preference list begins in `replicas` and `cores`; one more entry than vnodes.
    starts: Vec<u32>,
    replicas: Vec<NodeId>,
    cores: Vec<CoreId>,
    /// This node's place in each vnode's preference list, or [`NOT_A_REPLICA`].
    position_of_me: Vec<u8>,
}

impl Ring {
    /// The ring of a topology, for the node `me`.
    pub fn new(topology: Topology, me: NodeId) -> Ring {
        assert!(topology.replicas.len().is_power_of_two(), "the number of vnodes is a power of two");
        assert_eq!(topology.replicas.len(), topology.vnode_epochs.len(), "each vnode has an epoch");
        let mut starts = Vec::with_capacity(topology.replicas.len() + 1);
        let mut position_of_me = Vec::with_capacity(topology.replicas.len());
        let mut replicas = Vec::new();
        for list in &topology.replicas {
            assert!(list.len() <= limits::REPLICAS_MAX, "preference lists are bounded");
            let position = list.iter().position(|node| *node == me);
            position_of_me.push(position.map_or(NOT_A_REPLICA, |at| at as u8));
            starts.push(replicas.len() as u32);
            replicas.extend_from_slice(list);
        }
        starts.push(replicas.len() as u32);
        let cores = vec![CORE_NOT_KNOWN; replicas.len()];
        let mut ring = Ring { topology, me, starts, replicas, cores, position_of_me };
        for at in 0..ring.topology.nodes.len() {
            ring.place_cores(at);
        }
        ring
    }

    /// This node.
    #[inline]
    pub fn me(&self) -> NodeId {
        self.me
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

    /// The vnode that a token belongs to.
    #[inline]
    pub fn vnode(&self, token: Token) -> VnodeId {
        token.vnode(self.vnodes())
    }

    /// The tables.
    pub fn tables(&self) -> &Tables {
        &self.topology.tables
    }

    /// A table by its number.
    #[inline]
    pub fn table(&self, id: TableId) -> Option<&Table> {
        self.topology.tables.get(id)
    }

    /// How many of a vnode's replicas hold a table's records: the first so many of its preference list.
    #[inline]
    pub fn replicas_of(&self, table: &Table, vnode: VnodeId) -> usize {
        self.span(vnode).len().min(usize::from(table.replication))
    }

    /// A vnode's preference list, for the table with the most replicas.
    #[inline]
    pub fn replicas(&self, vnode: VnodeId) -> &[NodeId] {
        &self.replicas[self.span(vnode)]
    }

    /// Who stands in for replicas of a vnode that are away: the members that are none of its first `replicas`, in rendezvous order
    /// (Thaler and Ravishankar, 1998), which is the same on every node and another for every vnode: the load of a node that is away is spread over
    /// all the others, and one that joins or leaves changes no other's place.
    pub fn fallbacks(&self, vnode: VnodeId, replicas: usize) -> Vec<NodeId> {
        let listed = self.replicas(vnode);
        let listed = &listed[..replicas.min(listed.len())];
        let others = self.topology.nodes.iter().map(|node| node.id).filter(|id| !listed.contains(id));
        let mut others: Vec<(u64, NodeId)> = others.map(|id| (rendezvous(vnode, id), id)).collect();
        others.sort_unstable_by(|one, other| other.cmp(one));
        others.into_iter().map(|(_, id)| id).collect()
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

    /// The core that owns a vnode at one of its replicas, once that node has told.
    #[inline]
    pub fn core_of(&self, node: NodeId, vnode: VnodeId) -> Option<CoreId> {
        let position = self.replicas(vnode).iter().position(|replica| *replica == node)?;
        self.core_at(vnode, position)
    }

    /// The core that owns a vnode at the replica with this place in its preference list, once that node has told.
    #[inline]
    pub fn core_at(&self, vnode: VnodeId, position: usize) -> Option<CoreId> {
        let core = self.cores[self.span(vnode)][position];
        (core != CORE_NOT_KNOWN).then_some(core)
    }

    /// Takes over what a member says of itself: endpoints, cores, incarnation. Who is not a member is ignored, and so is a
    /// core map that does not fit the vnodes or the endpoints: that member is reached by its contact address.
    pub fn learn(&mut self, entry: &NodeEntry) {
        let Ok(at) = self.topology.nodes.binary_search_by_key(&entry.id, |node| node.id) else { return };
        let fits = entry.core_of_vnode.len() == self.position_of_me.len()
            && entry.core_of_vnode.iter().all(|core| (core.0 as usize) < entry.endpoints.len());
        let known = &mut self.topology.nodes[at];
        // A map of an earlier life stays only as long as it can be that of this one.
        let outlived = !fits && known.endpoints.len() != entry.endpoints.len();
        known.incarnation = entry.incarnation;
        known.endpoints.clone_from(&entry.endpoints);
        if fits {
            known.core_of_vnode.clone_from(&entry.core_of_vnode);
        } else if outlived {
            known.core_of_vnode.clear();
        }
        self.place_cores(at);
    }

    /// The topology, with what has been learned.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The topology as it travels.
    pub fn topology_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.topology.encoded_len());
        self.topology.encode(&mut bytes);
        bytes
    }

    #[inline]
    fn span(&self, vnode: VnodeId) -> Range<usize> {
        let at = vnode.0 as usize;
        self.starts[at] as usize..self.starts[at + 1] as usize
    }

    /// Spreads a member's core map over the preference lists that name it.
    fn place_cores(&mut self, member: usize) {
        let node = &self.topology.nodes[member];
        for (vnode, ends) in self.starts.windows(2).enumerate() {
            let span = ends[0] as usize..ends[1] as usize;
            if let Some(position) = self.replicas[span.clone()].iter().position(|replica| *replica == node.id)
            {
                let core = node.core_of_vnode.get(vnode).copied();
                self.cores[span][position] = core.unwrap_or(CORE_NOT_KNOWN);
            }
        }
    }
}

/// How strongly a node is drawn to a vnode.
fn rendezvous(vnode: VnodeId, node: NodeId) -> u64 {
    let pair = u32::from(vnode.0) << 16 | u32::from(node.0);
    xxhash_rust::xxh3::xxh3_64(&pair.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrite_wire::ClusterId;
    use proptest::prelude::*;

    const VNODES: usize = 8;

    fn entry(id: u16) -> NodeEntry {
        NodeEntry {
            id: NodeId(id),
            incarnation: 0,
            name: format!("n{id}"),
            rack: "r1".to_owned(),
            datacenter: "dc1".to_owned(),
            contact: format!("127.0.0.1:{}", 7000 + id),
            endpoints: Vec::new(),
            core_of_vnode: Vec::new(),
        }
    }

    fn told(id: u16, cores: u16) -> NodeEntry {
        NodeEntry {
            incarnation: 77,
            endpoints: (0..cores).map(|core| format!("127.0.0.1:{}", 7100 + id + core)).collect(),
            core_of_vnode: (0..VNODES as u16).map(|vnode| CoreId((vnode + id) % cores)).collect(),
            ..entry(id)
        }
    }

    /// Five members; vnode v is on v, v+1 and v+2, counted from 1 and round the members.
    fn topology() -> Topology {
        let member = |at: usize| NodeId((at % 5) as u16 + 1);
        Topology {
            epoch: Epoch(3),
            cluster: ClusterId([7; 16]),
            hash_seed: HashSeed(9),
            nodes: (1..=5).map(entry).collect(),
            tables: Tables::only_default(3),
            replicas: (0..VNODES).map(|vnode| (vnode..vnode + 3).map(member).collect()).collect(),
            vnode_epochs: (0..VNODES as u64).map(|vnode| Epoch(100 + vnode)).collect(),
        }
    }

    #[test]
    fn looks_up_what_the_topology_says() {
        let topology = topology();
        for me in 1..=6 {
            let ring = Ring::new(topology.clone(), NodeId(me));
            assert_eq!((ring.epoch(), ring.vnodes(), ring.hash_seed()), (Epoch(3), 8, HashSeed(9)));
            for at in 0..VNODES {
                let vnode = VnodeId(at as u16);
                let list = &topology.replicas[at];
                assert_eq!(ring.replicas(vnode), list);
                assert_eq!(ring.vnode_epoch(vnode), Epoch(100 + at as u64));
                assert_eq!(ring.position_of_me(vnode), list.iter().position(|node| *node == ring.me()));
                assert_eq!(ring.core_of(list[0], vnode), None, "nobody has told");
            }
        }
    }

    #[test]
    fn a_table_is_on_the_first_replicas_and_on_no_more_than_there_are() {
        let named = |name: &str, replication| Table {
            id: TableId::of(name),
            name: name.to_owned(),
            ..Table::default_of(replication)
        };
        let list = vec![Table::default_of(3), named("narrow", 2), named("wide", 9)];
        let tables = Tables::new(list).expect("a sound list");
        let ring = Ring::new(Topology { tables, ..topology() }, NodeId(1));
        for vnode in (0..8).map(VnodeId) {
            let of = |name| ring.replicas_of(ring.table(TableId::of(name)).expect(name), vnode);
            assert_eq!((of("default"), of("narrow"), of("wide")), (3, 2, 3));
        }
        assert!(ring.table(TableId(7)).is_none());
    }

    #[test]
    fn a_token_belongs_to_the_slice_it_lies_in() {
        let ring = Ring::new(topology(), NodeId(1));
        let slice = 1u64 << 61;
        for at in 0..VNODES as u64 {
            for token in [at * slice, at * slice + slice / 2, at * slice + (slice - 1)] {
                assert_eq!(ring.vnode(Token(token)), VnodeId(at as u16));
            }
        }
    }

    #[test]
    fn whoever_stands_in_is_no_replica_and_keeps_its_place_whoever_else_there_is() {
        let member = |at: usize| NodeId((at % 20) as u16 + 1);
        let of = |nodes: u16, me| {
            let topology = Topology {
                nodes: (1..=nodes).map(entry).collect(),
                replicas: (0..64).map(|vnode| (vnode..vnode + 3).map(member).collect()).collect(),
                vnode_epochs: vec![Epoch(1); 64],
                ..topology()
            };
            Ring::new(topology, NodeId(me))
        };
        let (ring, smaller) = (of(20, 1), of(19, 7));
        let mut firsts = std::collections::BTreeMap::<NodeId, u32>::new();
        for vnode in (0..64).map(VnodeId) {
            for replicas in 1..=4 {
                let fallbacks = ring.fallbacks(vnode, replicas);
                let listed = &ring.replicas(vnode)[..replicas.min(3)];
                assert!(fallbacks.iter().all(|node| !listed.contains(node)));
                let mut all = [listed, &fallbacks].concat();
                all.sort_unstable();
                assert_eq!(all, (1..=20).map(NodeId).collect::<Vec<_>>(), "each once");
                let without: Vec<_> = fallbacks.into_iter().filter(|node| *node != NodeId(20)).collect();
                assert_eq!(smaller.fallbacks(vnode, replicas), without);
            }
            *firsts.entry(ring.fallbacks(vnode, 3)[0]).or_default() += 1;
        }
        assert!(firsts.len() > 12 && firsts.values().all(|&count| count < 12), "{firsts:?}");
    }

    #[test]
    fn one_vnode_is_the_whole_circle() {
        let whole = Topology { replicas: vec![vec![NodeId(2)]], vnode_epochs: vec![Epoch(1)], ..topology() };
        let ring = Ring::new(whole, NodeId(2));
        assert_eq!(ring.vnode(Token(u64::MAX)), VnodeId(0));
        assert_eq!(ring.position_of_me(VnodeId(0)), Some(0));
    }

    #[test]
    fn learns_cores_without_a_new_epoch() {
        let mut ring = Ring::new(topology(), NodeId(1));
        let before: Vec<Epoch> = (0..8).map(|vnode| ring.vnode_epoch(VnodeId(vnode))).collect();
        ring.learn(&told(3, 4));
        for vnode in (0..8).map(VnodeId) {
            let replica = ring.replicas(vnode).contains(&NodeId(3));
            let core = CoreId((vnode.0 + 3) % 4);
            assert_eq!(ring.core_of(NodeId(3), vnode), replica.then_some(core));
            assert_eq!(ring.core_of(NodeId(2), vnode), None);
        }
        assert_eq!(ring.epoch(), Epoch(3));
        assert_eq!((0..8).map(|vnode| ring.vnode_epoch(VnodeId(vnode))).collect::<Vec<_>>(), before);
        assert_eq!(ring.topology().node(NodeId(3)).map(|node| node.incarnation), Some(77));
    }

    #[test]
    fn who_is_not_a_member_is_ignored() {
        let mut ring = Ring::new(topology(), NodeId(1));
        ring.learn(&told(9, 2));
        assert_eq!(ring.topology(), &topology());
    }

    #[test]
    fn a_member_that_comes_back_with_other_cores_is_not_reached_by_its_old_map() {
        let mut ring = Ring::new(topology(), NodeId(1));
        ring.learn(&told(2, 4));
        assert_eq!(ring.core_of(NodeId(2), VnodeId(1)), Some(CoreId(3)));
        ring.learn(&NodeEntry { core_of_vnode: Vec::new(), ..told(2, 4) });
        assert_eq!(ring.core_of(NodeId(2), VnodeId(1)), Some(CoreId(3)), "it may have restarted as it was");
        ring.learn(&NodeEntry { core_of_vnode: Vec::new(), ..told(2, 2) });
        assert_eq!(ring.core_of(NodeId(2), VnodeId(1)), None);
    }

    #[test]
    fn a_map_that_names_cores_without_an_endpoint_is_not_taken() {
        let mut ring = Ring::new(topology(), NodeId(1));
        let mut wrong = told(2, 2);
        wrong.core_of_vnode[5] = CoreId(2);
        ring.learn(&wrong);
        assert_eq!(ring.core_of(NodeId(2), VnodeId(1)), None);
        ring.learn(&NodeEntry { core_of_vnode: vec![CoreId(0); 3], ..told(2, 2) });
        assert_eq!(ring.core_of(NodeId(2), VnodeId(1)), None);
    }

    proptest! {
        /// Whatever has been learned, in whatever order: the arrays and the topology that travels say the same, and what
        /// travels is a topology that others accept.
        #[test]
        fn what_travels_is_what_is_looked_up(lessons in prop::collection::vec((1u16..7, 1u16..5, any::<bool>()), 0..12)) {
            let mut ring = Ring::new(topology(), NodeId(1));
            for (id, cores, mapped) in lessons {
                let mut entry = told(id, cores);
                if !mapped {
                    entry.core_of_vnode.clear();
                }
                ring.learn(&entry);
            }
            let decoded = Topology::decode(&ring.topology_bytes()).expect("what travels is whole");
            let again = Ring::new(decoded, NodeId(1));
            for vnode in (0..8).map(VnodeId) {
                prop_assert_eq!(ring.replicas(vnode), again.replicas(vnode));
                for (position, node) in ring.replicas(vnode).iter().enumerate() {
                    prop_assert_eq!(ring.core_of(*node, vnode), again.core_of(*node, vnode));
                    prop_assert_eq!(ring.core_of(*node, vnode), ring.core_at(vnode, position));
                }
            }
        }
    }
}
