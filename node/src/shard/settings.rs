//! What a shard is told when it opens.

use std::net::SocketAddr;

use ferrite_cluster::gossip::GossipOptions;
use ferrite_cluster::hints::HintOptions;
use ferrite_wire::{CoreId, Key, NodeId, Topology, limits};

use super::comparisons::READS_PER_COMPARISON;
use super::sets::joining_sets;
use crate::{Place, Placement};

const MS: u64 = 1_000_000;

/// Longest time that a request may take, whatever its header says, in nanoseconds: what is admitted is kept in mind for as long.
pub const DEADLINE_MAX_NS: u64 = 60_000 * MS;

/// Most parts of requests of many keys in flight on a core, of all together: as many as single requests may be coordinated.
pub const PARTS_MAX: usize = 65_536;

/// More than what surrounds the key and the value of a record in the log, in bytes.
const AROUND_RECORD_BYTES: usize = 1024;

/// A node that is joining, as the configuration lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joining {
    /// Its number.
    pub node: NodeId,
    /// Its name, for people.
    pub name: String,
    /// Its contact address, `host:port`.
    pub contact: String,
}

/// Identity, topology and bounds of one shard. All times in nanoseconds unless the name says otherwise.
#[derive(Clone, Debug)]
pub struct ShardSettings {
    /// This node.
    pub node: NodeId,
    /// This core.
    pub core: CoreId,
    /// How many cores the node has.
    pub cores: u16,
    /// Random per start of the process.
    pub incarnation: u64,
    /// What tells the data directory from a copy of it.
    pub place: Place,
    /// Members and replica lists, with this node's own endpoints and core map filled in; one that is joining is not in it.
    pub topology: Topology,
    /// Nodes that the configuration lists and that own nothing yet. This node is among them, or in the topology.
    pub joining: Vec<Joining>,
    /// Where this node asks first for the others, as `host:port`; empty = at every node that the configuration lists.
    pub seeds: Vec<String>,
    /// Where others reach this node, if its contact address is a name.
    pub resolved: Option<SocketAddr>,
    /// The node's vnodes, stores and cores.
    pub placement: Placement,
    /// The engine's options.
    pub engine: ferrite_lsm::Options,
    /// Longest value taken, in bytes.
    pub value_bytes_max: usize,
    /// Deadline of a request that names none.
    pub request_timeout_ns: u64,
    /// Longest deadline that a request may name, where that is not shorter than the one of those that name none.
    pub deadline_max_ns: u64,
    /// How far ahead of this node's wall clock a client's or peer's time may be when minting, in milliseconds.
    pub clock_drift_max_ms: u64,
    /// In a cluster of more than two: how long after its start a node mints nothing, unless its wall clock is known to be in step with most others' before.
    pub judging_ns_max: u64,
    /// How often each peer connection is pinged.
    pub ping_interval_ns: u64,
    /// A peer connection that has been silent for so long is cut, and its node counts as down.
    pub peer_timeout_ns: u64,
    /// Timings of gossip.
    pub gossip: GossipOptions,
    /// Longest pause between attempts to reach a peer.
    pub reconnect_pause_max_ns: u64,
    /// A connection that has not finished its handshake after so long is closed; one that has not finished a frame after so long, and what the
    /// frame's length allows it, as well.
    pub half_sent_timeout_ns: u64,
    /// With `commitlog_sync = periodic`: how often the log is synced; `None` = batch, every acknowledgement waits for its sync.
    pub sync_interval_ns: Option<u64>,
    /// After so long without writes the log appends a mark that says that everything before it was synced.
    pub mark_after_ns: u64,
    /// Bytes that are read in a second, when nothing else is due, to verify what is stored; 0 = none.
    pub scrub_bytes_per_s: u64,
    /// Most requests of one client connection in flight.
    pub requests_per_connection_max: u32,
    /// Most coordinated requests in flight on this core.
    pub operations_max: usize,
    /// Most bytes of records that wait for room in the log on this core.
    pub waiting_bytes_max: usize,
    /// Most bytes that operations keep while they wait for others: what reads have found so far, writes of siblings on their way.
    pub operation_bytes_max: usize,
    /// Most bytes of answers to other cores that wait for room in their queues, each core an equal share; over that, reads are answered "overloaded".
    pub hop_backlog_bytes_max: usize,
    /// Most questions to other cores that are not answered, to each an equal share, from which on clients with more than a few requests in flight are refused: the answers, which are
    /// short where there is little room, may have to wait there.
    pub hops_max: usize,
    /// Most parts of requests of many keys in flight on this core.
    pub parts_max: usize,
    /// Most bytes of keys and records that writes keep in mind for what they may owe. Beyond it a write owes nothing, which is counted where it
    /// would have: it is not refused for that.
    pub debt_bytes_max: usize,
    /// Most bytes of sets of siblings that are kept in mind as they were written apart from their replicas, with their keys; over that, such writes
    /// are answered "overloaded", unless nobody is owed a hint.
    pub apart_bytes_max: usize,
    /// Of how many reads at ONE one is followed by a comparison of replicas.
    pub reads_per_comparison: u32,
    /// Most reads waiting for the disk on this core.
    pub disk_reads_max: usize,
    /// How much is kept for nodes that are away, and how fast it is delivered.
    pub hints: HintOptions,
    /// Nodes that are no members any more, whose hints are let go of.
    pub forget_hints_for: Vec<NodeId>,
    /// Members that will never take what is held back for them: it is let go of.
    pub forget_held_back_for: Vec<NodeId>,
    /// Memory set aside for what the engine does not see; for the status.
    pub reserve_bytes: usize,
}

impl ShardSettings {
    /// The longest set of siblings of a key that travels between nodes and is taken by their logs, in bytes. What replicas have together may be longer.
    pub(super) fn set_bytes_max(&self, key: &Key<'_>) -> usize {
        let around_bytes = key.partition.len() + key.sort.len() + AROUND_RECORD_BYTES;
        self.engine.log.group_bytes.saturating_sub(around_bytes).min(limits::SET_BYTES_MAX)
    }

    /// Defaults for everything that has one.
    pub fn new(
        node: NodeId,
        core: CoreId,
        cores: u16,
        incarnation: u64,
        topology: Topology,
        placement: Placement,
        mut engine: ferrite_lsm::Options,
    ) -> ShardSettings {
        // Tables then leave the tokens out: they follow from the keys.
        engine.table.token_seed = Some(topology.hash_seed.0);
        ShardSettings {
            node,
            core,
            cores,
            incarnation,
            place: Place::FIXED,
            topology,
            joining: Vec::new(),
            seeds: Vec::new(),
            resolved: None,
            placement,
            engine: joining_sets(engine),
            value_bytes_max: limits::VALUE_BYTES_MAX,
            request_timeout_ns: 2_000 * MS,
            deadline_max_ns: DEADLINE_MAX_NS,
            clock_drift_max_ms: 500,
            judging_ns_max: 2_000 * MS,
            ping_interval_ns: 250 * MS,
            peer_timeout_ns: 1_000 * MS,
            gossip: GossipOptions::default(),
            reconnect_pause_max_ns: 1_000 * MS,
            half_sent_timeout_ns: 5_000 * MS,
            sync_interval_ns: None,
            mark_after_ns: 100 * MS,
            scrub_bytes_per_s: 0,
            requests_per_connection_max: 4_096,
            operations_max: 65_536,
            waiting_bytes_max: 32 << 20,
            operation_bytes_max: 32 << 20,
            hop_backlog_bytes_max: 16 << 20,
            hops_max: 65_536,
            parts_max: PARTS_MAX,
            debt_bytes_max: 16 << 20,
            apart_bytes_max: 16 << 20,
            reads_per_comparison: READS_PER_COMPARISON,
            disk_reads_max: 4_096,
            hints: HintOptions::default(),
            forget_hints_for: Vec::new(),
            forget_held_back_for: Vec::new(),
            reserve_bytes: 0,
        }
    }

    /// Whether this node is yet to become an owner.
    pub(super) fn is_joining(&self) -> bool {
        self.topology.node(self.node).is_none()
    }

    /// What this node is called.
    pub(super) fn own_name(&self) -> &str {
        self.listed(self.node).map_or("this node", |(name, _)| name)
    }

    /// Name and contact address of a node that the configuration lists.
    pub(super) fn listed(&self, node: NodeId) -> Option<(&str, &str)> {
        let owner = self.topology.node(node).map(|entry| (entry.name.as_str(), entry.contact.as_str()));
        owner.or_else(|| {
            let entry = self.joining.iter().find(|entry| entry.node == node)?;
            Some((entry.name.as_str(), entry.contact.as_str()))
        })
    }

    /// Every node that the configuration lists, with its contact address; ascending.
    pub(super) fn contacts(&self) -> Vec<(NodeId, &str)> {
        let owners = self.topology.nodes.iter().map(|entry| (entry.id, entry.contact.as_str()));
        let joining = self.joining.iter().map(|entry| (entry.node, entry.contact.as_str()));
        let mut all: Vec<(NodeId, &str)> = owners.chain(joining).collect();
        all.sort_unstable_by_key(|(node, _)| *node);
        all
    }
}
