//! The configuration of a cluster that is about to be born: what `ferrite init` writes.
//!
//! Randomness is an argument: the caller draws the identity, so that this stays a function.

use std::fmt::Write as _;
use std::path::PathBuf;

use ferrite_wire::{ClusterId, HashSeed};

use super::Address;

/// Vnodes of a new cluster of up to 100 nodes.
pub const VNODES_DEFAULT: u32 = 4096;
/// Vnodes of a larger one.
const VNODES_LARGE: u32 = 16_384;
/// From more nodes than this on, [`VNODES_LARGE`].
const LARGE_CLUSTER_NODES: usize = 100;
/// Replicas of a new cluster, if it has as many nodes.
const REPLICATION_DEFAULT: usize = 3;
/// The contact ports of nodes on one host lie a multiple of this apart.
const PORT_STEP: usize = 10;

/// A cluster to be.
#[derive(Clone, Debug)]
pub struct Birth {
    /// Its name.
    pub name: String,
    /// 128 random bits.
    pub id: ClusterId,
    /// 64 random bits.
    pub hash_seed: HashSeed,
    /// How many nodes, at least 1.
    pub nodes: usize,
    /// One contact address per node; or one, for nodes on the same host with rising ports.
    pub addresses: Vec<Address>,
    /// Cores of each node, at least 1.
    pub cores: usize,
    /// CPUs of this machine that nodes which share it are spread over, at least one.
    pub cpus: Vec<usize>,
    /// Vnodes, or the default.
    pub vnodes: Option<u32>,
    /// Replicas, or the default.
    pub replication: Option<usize>,
    /// Memory of each node, or the server's own default.
    pub memory: Option<super::ByteSize>,
    /// Whether addresses that others can reach are meant.
    pub allow_insecure_network: bool,
    /// Parent of the data directories.
    pub data: PathBuf,
}

impl Birth {
    /// The contact address of each node; `None` if neither one nor `nodes` addresses were given, or ports run out.
    pub fn contacts(&self) -> Option<Vec<Address>> {
        if self.addresses.len() == self.nodes {
            return Some(self.addresses.clone());
        }
        let [first] = self.addresses.as_slice() else {
            return None;
        };
        let step = (self.cores + 1).next_multiple_of(PORT_STEP);
        let port = |index: usize| u16::try_from(first.port as usize + index * step).ok();
        (0..self.nodes).map(|index| port(index).map(|port| first.with_port(port))).collect()
    }

    /// The configuration's text. What was asked for is written as it is; [`super::Config::parse`] judges it.
    pub fn render(&self) -> Option<String> {
        let contacts = self.contacts()?;
        let large = self.nodes > LARGE_CLUSTER_NODES;
        let vnodes = self.vnodes.unwrap_or(if large { VNODES_LARGE } else { VNODES_DEFAULT });
        let replication = self.replication.unwrap_or(self.nodes.min(REPLICATION_DEFAULT));
        assert!(!self.cpus.is_empty(), "whoever runs has a CPU");
        let shared_host = self.nodes > 1 && contacts.iter().all(|contact| contact.host == contacts[0].host);
        let memory = match self.memory {
            Some(memory) => format!("memory = \"{memory}\""),
            None => "# memory = \"1GiB\"  # of each node, for all that grows with load; without it a quarter of the machine's, up to 4GiB".to_owned(),
        };
        let allowed = if self.allow_insecure_network {
            "allow_insecure_network = true  # no authentication yet: the network itself is trusted\n"
        } else {
            ""
        };
        let mut text = format!(
            "# The configuration of one Ferrite cluster; every node reads the same file.\n\
             \n\
             # The cluster's identity. It is stamped into every data directory: never change it.\n\
             [cluster]\n\
             name = \"{name}\"\n\
             id = \"{id}\"\n\
             hash_seed = \"{seed:016x}\"\n\
             vnodes = {vnodes}\n\
             replication = {replication}\n\
             \n\
             # How each node uses its machine. Here and below, lines that are commented out show the defaults.\n\
             [server]\n\
             cores = {cores}  # a number, a list of CPUs like [0, 2], or \"all\"\n\
             {memory}\n\
             # commitlog_sync = \"batch\"  # or \"periodic:100ms\": faster, loses up to that on power loss\n\
             # compaction = \"leveled\"  # or \"tiered\": cheaper writes, more space and dearer reads; may be changed later\n\
             # request_timeout = \"2s\"\n\
             # large_value_threshold = \"4KiB\"  # values from this length on lie apart from the tables; may be changed later\n\
             # scrub_rate = \"1MiB\"  # read and verified in a second by each core that has nothing else to do; \"0MiB\" for never\n\
             # max_value_size = \"1MiB\"\n\
             # max_clock_drift = \"500ms\"\n\
             # spin = \"auto\"  # or \"off\", or a time like \"50us\"\n\
             {allowed}\
             \n\
             # Whom a node asks first for the others, and how soon one that is gone is held to be down. Timings are the same on every node.\n\
             # [gossip]\n\
             # seeds = []  # contact addresses, like [\"10.0.0.1:7100\"]; without any, those of all nodes below\n\
             # probe_interval = \"1s\"  # how often each node asks one other whether it lives\n\
             # probe_timeout = \"400ms\"  # how long an answer may take; at most half of the interval\n\
             # suspicion = \"4s\"  # how long a node stays suspect before it is down\n\
             # gossip_interval = \"200ms\"  # how often news is passed on\n\
             # stall = \"2s\"  # how long a core may stand still while its node answers\n\
             # fanout = 3  # how many others are asked to ask, and are sent news at a time\n\
             \n\
             # What each core keeps for nodes that are away.\n\
             # [hints]\n\
             # max_per_core = \"256MiB\"  # for all other nodes; beyond it sloppy writes are refused\n\
             # max_per_node = \"128MiB\"  # for one; beyond it what replicas miss is not kept, and they get it by reads\n\
             # max_age = \"3h\"  # a node whose oldest hint is older gets no more\n\
             # max_in_flight = \"16MiB\"  # under way at once\n\
             # max_per_second = 1000  # for a node that is there and was only slow\n\
             # forget = []  # numbers of nodes that have left, like [7]: what is kept for them goes\n\
             # forget_held_back = []  # numbers of members: what they refuse for good, and is held back for them, goes\n\
             \n\
             # Tables beside \"default\", which always exists. Every node must declare the same.\n\
             # [[table]]\n\
             # name = \"carts\"\n\
             # mode = \"siblings\"  # concurrent writes are kept until one that has seen them replaces them; without it \"lww\"; for life\n\
             # max_siblings = 32  # most of them for a key; only of a table with siblings\n\
             # replication = {replication}  # the cluster's, where a table does not say\n\
             # ttl = \"30d\"  # of writes that name none; without it records live for ever\n\
             \n\
             # The nodes. One with `joining = true` owns nothing yet: it asks its seeds for the others, which need not list it.\n",
            name = self.name,
            id = self.id,
            seed = self.hash_seed.0,
            cores = self.cores,
        );
        for (index, contact) in contacts.iter().enumerate() {
            let number = index + 1;
            let data = toml::Value::String(self.data.join(format!("n{number}")).display().to_string());
            // Writing into a String cannot fail.
            let _ = write!(
                text,
                "\n[[nodes]]\n\
                 name = \"n{number}\"\n\
                 id = {number}\n\
                 address = \"{contact}\"  # its cores listen on the ports that follow\n\
                 data = {data}\n"
            );
            if shared_host {
                let first = index * self.cores;
                let cpus: Vec<String> = (first..first + self.cores)
                    .map(|core| self.cpus[core % self.cpus.len()].to_string())
                    .collect();
                let _ = writeln!(text, "cores = [{}]  # the CPU of each core", cpus.join(", "));
            }
        }
        Some(text)
    }
}
