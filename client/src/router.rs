//! Which address serves a key: token → vnode → preference list → the replica's owning core.
//!
//! For each key there is an order of addresses to try: its replicas' owning cores in preference order, but those that the caller names
//! after the others; then the same
//! nodes' contact addresses, which serve everything where the network lets only one port through; then the seeds, which
//! may know a newer topology. Without a topology there are only the seeds.

use crate::pace::{Class, Pace};
use ferrite_wire::{Fault, Key, NodeId, Token, Topology, limits};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// Most addresses remembered; a topology that would add more is refused.
pub(crate) const ENDPOINTS_MAX: usize = 65_536;

/// An address the client may connect to; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EndpointId(pub(crate) u32);

/// What is known of an address.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) address: String,
    /// Failures in a row, since the last handshake.
    pub(crate) failures: u32,
    /// Not to be tried before.
    pub(crate) retry_at: Option<Instant>,
    /// Slots of its connections in the pipeline.
    pub(crate) connections: Vec<usize>,
    /// Why it failed last, for people.
    pub(crate) last_error: String,
    /// It answered, and will not have this client.
    pub(crate) refusal: Option<Fault>,
    reads: Pace,
    writes: Pace,
}

impl Endpoint {
    pub(crate) fn pace(&self, class: Class) -> &Pace {
        match class {
            Class::Read => &self.reads,
            Class::Write => &self.writes,
        }
    }

    pub(crate) fn pace_mut(&mut self, class: Class) -> &mut Pace {
        match class {
            Class::Read => &mut self.reads,
            Class::Write => &mut self.writes,
        }
    }
}

/// Replicas' addresses that are tried after the others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Last {
    endpoints: [EndpointId; limits::REPLICAS_MAX],
    len: usize,
}

impl Last {
    pub(crate) const NONE: Last = Last { endpoints: [EndpointId(0); limits::REPLICAS_MAX], len: 0 };

    pub(crate) fn push(&mut self, endpoint: EndpointId) {
        self.endpoints[self.len] = endpoint;
        self.len += 1;
    }

    fn has(&self, endpoint: EndpointId) -> bool {
        self.endpoints[..self.len].contains(&endpoint)
    }
}

/// What a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// One of the first so many replicas of this token: its table has no more.
    Token(Token, usize),
    /// Any member.
    Anyone,
    /// This address.
    Address(EndpointId),
}

struct Member {
    contact: EndpointId,
    cores: Vec<EndpointId>,
}

/// Addresses and the topology that orders them.
pub(crate) struct Router {
    endpoints: Vec<Endpoint>,
    by_address: BTreeMap<String, EndpointId>,
    seeds: Vec<EndpointId>,
    topology: Option<Arc<Topology>>,
    /// In the order of the topology's nodes.
    members: Vec<Member>,
}

impl Router {
    pub(crate) fn new(seeds: &[String]) -> Router {
        let mut router = Router {
            endpoints: Vec::new(),
            by_address: BTreeMap::new(),
            seeds: Vec::new(),
            topology: None,
            members: Vec::new(),
        };
        router.seeds = seeds.iter().map(|seed| router.endpoint_at(seed)).collect();
        router
    }

    pub(crate) fn endpoint_at(&mut self, address: &str) -> EndpointId {
        if let Some(known) = self.by_address.get(address) {
            return *known;
        }
        let id = EndpointId(self.endpoints.len() as u32);
        self.by_address.insert(address.to_owned(), id);
        self.endpoints.push(Endpoint {
            address: address.to_owned(),
            failures: 0,
            retry_at: None,
            connections: Vec::new(),
            last_error: String::new(),
            refusal: None,
            reads: Pace::default(),
            writes: Pace::default(),
        });
        id
    }

    pub(crate) fn endpoint(&self, id: EndpointId) -> &Endpoint {
        &self.endpoints[id.0 as usize]
    }

    pub(crate) fn endpoint_mut(&mut self, id: EndpointId) -> &mut Endpoint {
        &mut self.endpoints[id.0 as usize]
    }

    pub(crate) fn topology(&self) -> Option<&Arc<Topology>> {
        self.topology.as_ref()
    }

    pub(crate) fn target(&self, key: &Key<'_>) -> Target {
        match &self.topology {
            Some(topology) => {
                // Whoever is asked for a table that is not known here may know it.
                let replicas = topology
                    .tables
                    .get(key.table)
                    .map_or(limits::REPLICAS_MAX, |table| usize::from(table.replication));
                Target::Token(key.token(topology.hash_seed), replicas)
            }
            None => Target::Anyone,
        }
    }

    /// Whether the owning core of every replica is known.
    pub(crate) fn is_complete(&self) -> bool {
        self.topology.as_ref().is_some_and(|topology| {
            let is_open = |id: &NodeId| topology.node(*id).is_some_and(|node| node.core_of_vnode.is_empty());
            !topology.replicas.iter().flatten().any(is_open)
        })
    }

    /// Takes a topology unless it is older than the one at hand or of another cluster.
    pub(crate) fn install(&mut self, topology: Arc<Topology>) -> bool {
        if let Some(known) = &self.topology
            && (known.cluster != topology.cluster || known.epoch > topology.epoch)
        {
            return false;
        }
        let named: usize = topology.nodes.iter().map(|node| 1 + node.endpoints.len()).sum();
        if self.endpoints.len() + named > ENDPOINTS_MAX {
            return false;
        }
        self.members = topology
            .nodes
            .iter()
            .map(|node| Member {
                contact: self.endpoint_at(&node.contact),
                cores: node.endpoints.iter().map(|address| self.endpoint_at(address)).collect(),
            })
            .collect();
        self.topology = Some(topology);
        true
    }

    /// The replicas of a token in preference order: each one's place among the nodes.
    fn replicas<'r>(
        &self,
        topology: &'r Topology,
        token: Token,
        count: usize,
    ) -> impl Iterator<Item = usize> + use<'r> {
        let list = topology.preference_list(token.vnode(topology.vnodes()));
        list.iter().take(count).filter_map(|id| topology.nodes.binary_search_by_key(id, |node| node.id).ok())
    }

    /// How many replicas `target` has; 0 if that is not known, or it is no key.
    pub(crate) fn replicas_count(&self, target: Target) -> usize {
        match (target, &self.topology) {
            (Target::Token(token, count), Some(topology)) => self.replicas(topology, token, count).count(),
            _ => 0,
        }
    }

    /// The owning cores of the replicas of `target` in preference order, as far as they are known.
    pub(crate) fn owners(&self, target: Target) -> impl Iterator<Item = EndpointId> {
        let of_token = match (target, &self.topology) {
            (Target::Token(token, count), Some(topology)) => Some((token, count, topology)),
            _ => None,
        };
        of_token.into_iter().flat_map(move |(token, count, topology)| {
            let vnode = token.vnode(topology.vnodes());
            self.replicas(topology, token, count).filter_map(move |at| {
                let core = topology.nodes[at].core_of_vnode.get(vnode.0 as usize)?;
                Some(self.members[at].cores[core.0 as usize])
            })
        })
    }

    /// Visits the addresses for `target` in the order to try them, until `visit` says to stop. An address may come twice.
    pub(crate) fn candidates(&self, target: Target, last: &Last, mut visit: impl FnMut(EndpointId) -> Stop) {
        if let Target::Address(endpoint) = target {
            visit(endpoint);
            return;
        }
        if let (Target::Token(token, count), Some(topology)) = (target, &self.topology) {
            let in_turn = self.owners(target).filter(|endpoint| !last.has(*endpoint));
            let late = self.owners(target).filter(|endpoint| last.has(*endpoint));
            for endpoint in in_turn.chain(late) {
                if visit(endpoint) == Stop::Yes {
                    return;
                }
            }
            for at in self.replicas(topology, token, count) {
                if visit(self.members[at].contact) == Stop::Yes {
                    return;
                }
            }
        }
        let members = self.members.iter().map(|member| member.contact);
        let contacts = members.filter(|_| target == Target::Anyone);
        for endpoint in self.seeds.iter().copied().chain(contacts) {
            if visit(endpoint) == Stop::Yes {
                return;
            }
        }
    }

    /// The first address for `target`.
    pub(crate) fn preferred(&self, target: Target, last: &Last) -> Option<EndpointId> {
        let mut first = None;
        self.candidates(target, last, |endpoint| {
            first = Some(endpoint);
            Stop::Yes
        });
        first
    }
}

/// Whether a visit ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    Yes,
    No,
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrite_wire::{ClusterId, CoreId, Epoch, HashSeed, NodeEntry, Table, TableId, Tables};

    fn node(id: u16, cores: u16, vnodes: usize) -> NodeEntry {
        NodeEntry {
            id: NodeId(id),
            incarnation: 1,
            name: format!("n{id}"),
            rack: String::new(),
            datacenter: String::new(),
            contact: format!("n{id}:7100"),
            endpoints: (0..cores).map(|core| format!("n{id}:{}", 7101 + core)).collect(),
            core_of_vnode: (0..if cores == 0 { 0 } else { vnodes })
                .map(|vnode| CoreId(vnode as u16 % cores))
                .collect(),
        }
    }

    fn topology(epoch: u64) -> Topology {
        Topology {
            epoch: Epoch(epoch),
            cluster: ClusterId([1; 16]),
            hash_seed: HashSeed(9),
            nodes: vec![node(1, 2, 4), node(2, 0, 4), node(3, 2, 4)],
            tables: Tables::only_default(2),
            replicas: (0..4u16).map(|v| vec![NodeId(v % 3 + 1), NodeId((v + 1) % 3 + 1)]).collect(),
            vnode_epochs: vec![Epoch(1); 4],
        }
    }

    fn order(router: &Router, target: Target) -> Vec<&str> {
        order_but(router, target, &Last::NONE)
    }

    fn order_but<'r>(router: &'r Router, target: Target, last: &Last) -> Vec<&'r str> {
        let mut seen = Vec::new();
        router.candidates(target, last, |endpoint| {
            seen.push(router.endpoint(endpoint).address.as_str());
            Stop::No
        });
        seen
    }

    #[test]
    fn owning_cores_then_contacts_then_seeds() {
        let mut router = Router::new(&["seed:1".to_owned()]);
        assert_eq!(order(&router, Target::Anyone), ["seed:1"]);
        assert!(router.install(Arc::new(topology(2))));
        // Vnode 3 of 4: nodes 1 and 2; node 2's cores are not known.
        let token = Target::Token(Token(3 << 62), 2);
        assert_eq!(order(&router, token), ["n1:7102", "n1:7100", "n2:7100", "seed:1"]);
        // Vnode 2: nodes 3 and 1, core 0 of each.
        let token = Target::Token(Token(2 << 62), 2);
        assert_eq!(order(&router, token), ["n3:7101", "n1:7101", "n3:7100", "n1:7100", "seed:1"]);
        let mut last = Last::NONE;
        last.push(router.by_address["n3:7101"]);
        let but_n3 = ["n1:7101", "n3:7101", "n3:7100", "n1:7100", "seed:1"];
        assert_eq!(
            order_but(&router, token, &last),
            but_n3,
            "its core after the other's, and before all contacts"
        );
        assert_eq!(router.preferred(token, &last), Some(router.by_address["n1:7101"]));
        assert_eq!(order(&router, Target::Anyone), ["seed:1", "n1:7100", "n2:7100", "n3:7100"]);
    }

    #[test]
    fn a_table_with_fewer_replicas_has_the_first_of_them() {
        let mut router = Router::new(&["seed:1".to_owned()]);
        let single = Table { id: TableId::of("single"), name: "single".to_owned(), ..Table::default_of(1) };
        let tables = Tables::new(vec![Table::default_of(2), single.clone()]).unwrap();
        assert!(router.install(Arc::new(Topology { tables, ..topology(2) })));
        let partition = (0u64..)
            .map(u64::to_le_bytes)
            .find(|key| Key::plain(key).token(HashSeed(9)).vnode(4).0 == 2)
            .unwrap();
        let of = |key| order(&router, router.target(&key));
        assert_eq!(of(single.key(&partition)), ["n3:7101", "n3:7100", "seed:1"]);
        let both = ["n3:7101", "n1:7101", "n3:7100", "n1:7100", "seed:1"];
        assert_eq!(of(Key::plain(&partition)), both);
        let unknown = Key { table: TableId(77), partition: &partition, sort: b"" };
        assert_eq!(of(unknown), both, "whoever it is asked of may know it");
    }

    #[test]
    fn older_and_foreign_topologies_are_refused() {
        let mut router = Router::new(&["seed:1".to_owned()]);
        assert!(router.install(Arc::new(topology(2))));
        assert!(!router.install(Arc::new(topology(1))));
        assert!(!router.install(Arc::new(Topology { cluster: ClusterId([2; 16]), ..topology(3) })));
        assert!(router.install(Arc::new(topology(2))), "the same epoch may bring endpoints");
        assert_eq!(router.topology().unwrap().epoch, Epoch(2));
    }
}
