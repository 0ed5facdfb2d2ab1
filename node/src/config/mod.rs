//! The configuration: one TOML file, the same for every node of a cluster.
//!
//! It names the cluster's identity (made once by `ferrite init`), its nodes, and how a server uses its machine.
//! Everything but the identity and the nodes has a default. Keys that are not known, numbers without units, and
//! settings that contradict each other are refused with one line that names file, line and remedy; nothing is guessed
//! and nothing is ignored.
//!
//! ```toml
//! [cluster]
//! name = "demo"
//! id = "8c1f7d2a54e94f0b9a3c6b1de2f40718"
//! hash_seed = "1f3a90c2d4e5b687"
//! vnodes = 4096
//! replication = 3
//!
//! [server]
//! cores = 2
//! memory = "1GiB"
//!
//! [[nodes]]
//! name = "n1"
//! id = 1
//! address = "127.0.0.1:7100"      # cores listen on 7101, 7102, ...
//! data = "data/n1"                # relative to this file
//!
//! [[nodes]]
//! name = "n2"
//! id = 2
//! address = "127.0.0.1:7110"
//! data = "data/n2"
//! joining = true                  # owns nothing yet: other nodes find it by gossip and need not list it
//!
//! [gossip]
//! seeds = ["127.0.0.1:7100"]      # where a node that knows nobody asks; without any, all nodes that are listed
//!
//! [[table]]                       # beside "default", which always exists
//! name = "carts"
//! ttl = "30d"
//! ```

mod address;
mod birth;
mod check;
mod choice;
mod error;
mod gossip;
mod hints;
mod raw;
mod table;
mod testing;
mod units;

use std::path::{Path, PathBuf};
use std::time::Duration;

use ferrite_wire::{ClusterId, CoreId, HashSeed, NodeId, Tables};

pub use address::Address;
pub use birth::{Birth, VNODES_DEFAULT};
pub use choice::{CommitlogSync, Compaction, Cores, SPIN_MAX, Spin};
pub use error::{ConfigError, Problem};
pub use gossip::Gossip;
pub use hints::Hints;
pub use testing::Testing;
pub use units::{ByteSize, Interval, UnitError};

/// A configuration that has been checked: ids, names, data directories and ports are distinct, numbers are in range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What the cluster is.
    pub cluster: Cluster,
    /// Its members, by ascending id.
    pub nodes: Vec<Node>,
    /// Its tables.
    pub tables: Tables,
    /// How a server uses its machine; the same for all nodes but where a node says otherwise.
    pub server: Server,
    /// Whom a node asks first for the others, and how soon one that is gone is held to be down.
    pub gossip: Gossip,
    /// What is kept for nodes that are away.
    pub hints: Hints,
    /// What only tests set.
    pub testing: Testing,
}

/// The cluster's identity: fixed for life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Its name, for people.
    pub name: String,
    /// Its identity, for machines; never all zero.
    pub id: ClusterId,
    /// Seed of the token hash.
    pub hash_seed: HashSeed,
    /// How many vnodes: a power of two.
    pub vnodes: u32,
    /// How many replicas of each record of a table that does not say; at most the number of nodes that are not joining.
    pub replication: usize,
}

/// A member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its number, at least 1.
    pub id: NodeId,
    /// Its name, for people and for `--node`.
    pub name: String,
    /// Where it serves everything.
    pub address: Address,
    /// Ports of its cores where they do not simply follow the contact port; one per core.
    pub ports: Option<Vec<u16>>,
    /// Its cores.
    pub cores: Cores,
    /// Its rack: replicas go to distinct racks first.
    pub rack: String,
    /// Its datacenter.
    pub datacenter: String,
    /// Its data directory; relative paths have been resolved against the configuration's own directory.
    pub data: PathBuf,
    /// Whether it is yet to become an owner: placement is the same whether it is listed or not.
    pub joining: bool,
}

/// How a server uses its machine. Sizes are for the whole node, all cores together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// All memory that grows with load: memtables, caches, filters, indexes, buffers. `None` = a quarter of what the machine or the
    /// control group has, 4 GiB at most.
    pub memory: Option<ByteSize>,
    /// The part of it for memtables that are written to; `None` = a sixth.
    pub memtable: Option<ByteSize>,
    /// Most of it that is the block cache's; `None` = what the other parts leave.
    pub block_cache: Option<ByteSize>,
    /// Stores (LSM trees) of a node; `None` = by the number of cores.
    pub stores: Option<u32>,
    /// How the tables of its stores are merged.
    pub compaction: Compaction,
    /// When the log is synced.
    pub commitlog_sync: CommitlogSync,
    /// How long a request may take when the client does not say.
    pub request_timeout: Duration,
    /// Values from this length on, in bytes, are kept apart from the tables, so that merging does not copy them.
    pub large_value_threshold: ByteSize,
    /// Bytes that each core reads in a second, when nothing else is due, to verify what is stored; 0 = none.
    pub scrub_rate: ByteSize,
    /// Longest value, in bytes.
    pub max_value_size: ByteSize,
    /// How far a clock may be ahead before this node stops minting versions.
    pub max_clock_drift: Duration,
    /// How long an idle core looks for work before it sleeps.
    pub spin: Spin,
    /// Whether addresses that others can reach are allowed although there is no authentication.
    pub allow_insecure_network: bool,
}

impl Config {
    /// Reads and checks a file.
    pub fn load(file: &Path) -> Result<Config, ConfigError> {
        let fail = |problem| ConfigError { file: file.to_owned(), line: 0, problem };
        let bytes = std::fs::read(file).map_err(|error| fail(Problem::Unreadable(error)))?;
        let text = String::from_utf8(bytes).map_err(|_| fail(Problem::NotUtf8))?;
        Config::parse(&text, file)
    }

    /// Checks a text; `file` is where it came from, for messages and for relative paths.
    pub fn parse(text: &str, file: &Path) -> Result<Config, ConfigError> {
        check::parse(text, file)
    }

    /// A member by its name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// A member by its number.
    pub fn node_by_id(&self, id: NodeId) -> Option<&Node> {
        self.nodes.iter().find(|node| node.id == id)
    }
}

impl Node {
    /// Where a core of this node listens: its entry in `ports`, or the port that many after the contact port.
    pub fn core_address(&self, core: CoreId) -> Address {
        match &self.ports {
            Some(ports) => self.address.with_port(ports[core.0 as usize]),
            None => self.address.with_port(self.address.port + 1 + core.0),
        }
    }
}

impl Server {
    /// Fewest stores a node has where the configuration does not say.
    pub const STORES_DEFAULT_MIN: u32 = 16;
    /// Most stores of a node.
    pub const STORES_MAX: u32 = 1024;

    /// How many stores a node with so many cores has: at least one per core.
    pub fn stores_for(&self, cores: usize) -> u32 {
        let cores = cores as u32;
        let by_cores = Server::STORES_DEFAULT_MIN.max(4 * cores);
        self.stores.unwrap_or(by_cores).max(cores)
    }
}

#[cfg(test)]
mod tests;
