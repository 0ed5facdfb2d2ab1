//! What can be wrong with a configuration. Each prints as one line: the file, the line, what is wrong, what to do.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// A configuration that cannot be used.
#[derive(Debug)]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// The line it is about, from 1; 0 where it is about the file as a whole.
    pub line: usize,
    /// What is wrong.
    pub problem: Problem,
}

/// What is wrong with it.
#[derive(Debug)]
pub enum Problem {
    /// The file could not be read.
    Unreadable(io::Error),
    /// The file is not UTF-8.
    NotUtf8,
    /// Not TOML, an unknown or missing key, a wrong type or unit: in the parser's words, on one line.
    Grammar(String),
    /// A name is empty, too long or has odd characters.
    BadName {
        /// Which key.
        key: &'static str,
        /// The name.
        name: String,
    },
    /// A number or quantity is outside its range.
    OutOfRange {
        /// Which key.
        key: &'static str,
        /// What was written.
        value: String,
        /// The least allowed.
        min: String,
        /// The most allowed.
        max: String,
    },
    /// `vnodes` is not a power of two.
    NotPowerOfTwo {
        /// What was written.
        vnodes: u32,
    },
    /// There are no `[[nodes]]`.
    NoNodes,
    /// There are more nodes than a cluster can have.
    TooManyNodes {
        /// How many there are.
        nodes: usize,
        /// The most allowed.
        max: usize,
    },
    /// More replicas than nodes that own data.
    Replication {
        /// Replicas asked for.
        replication: u32,
        /// Nodes there are, without those that are joining.
        nodes: usize,
    },
    /// A table's name is empty, too long or has odd characters.
    BadTableName {
        /// The name.
        name: String,
    },
    /// A table is declared twice.
    TableTwice {
        /// Its name.
        name: String,
        /// The line of the first declaration.
        first_line: usize,
    },
    /// The names of two tables come to the same number.
    TableNumbers {
        /// The name of the second.
        name: String,
        /// The name of the first.
        first: String,
        /// Its line.
        first_line: usize,
    },
    /// There are more tables than a cluster can have.
    TooManyTables {
        /// The most allowed, the default table included.
        max: usize,
    },
    /// The default table is declared with another mode than `lww`.
    DefaultMode,
    /// `max_siblings` of a table that keeps none.
    NoSiblings,
    /// Two nodes share a name, id or data directory.
    Duplicate {
        /// Which key.
        key: &'static str,
        /// The value both have.
        value: String,
        /// The line of the first.
        first_line: usize,
    },
    /// Two listeners want the same port of the same host.
    PortClash {
        /// The `host:port`.
        address: String,
        /// Who has it already: a node, and which of its listeners.
        first: String,
        /// Who wants it too.
        second: String,
    },
    /// A core's port would be beyond 65535.
    PortRange {
        /// The contact port.
        contact: u16,
        /// How many cores follow it.
        cores: usize,
    },
    /// `ports` has not one port per core.
    PortCount {
        /// Ports listed.
        ports: usize,
        /// Cores the node has.
        cores: usize,
    },
    /// What was given away is more than there is.
    MemorySplit {
        /// Bytes of `memtable` and `block_cache` together, as text.
        parts: String,
        /// `memory`, as text.
        memory: String,
    },
    /// A seed is listed twice.
    SeedTwice {
        /// Its address.
        address: String,
    },
    /// There are more seeds than a node asks.
    TooManySeeds {
        /// How many there are.
        seeds: usize,
        /// The most allowed.
        max: usize,
    },
    /// Timings of gossip that contradict each other.
    Gossip {
        /// What they break.
        rule: &'static str,
    },
    /// Bounds of hints that contradict each other.
    Hints {
        /// What they break.
        rule: &'static str,
    },
    /// What is kept for a member is to be forgotten.
    ForgetsMember {
        /// Its number.
        id: u16,
        /// Its name.
        name: String,
    },
    /// What is held back for nobody is to be forgotten.
    ForgetsStranger {
        /// The number.
        id: u16,
    },
    /// An address that others can reach, and nothing that tells friend from foe.
    InsecureNetwork {
        /// The address.
        address: String,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file.display(), self.problem),
            line => write!(f, "{}:{line}: {}", self.file.display(), self.problem),
        }
    }
}

impl std::error::Error for ConfigError {}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Unreadable(error) => {
                write!(f, "cannot read the configuration: {error}; `ferrite init` writes one")
            }
            Problem::NotUtf8 => write!(f, "the configuration is not UTF-8 text"),
            Problem::Grammar(words) => write!(f, "{words}"),
            Problem::BadName { key, name } => {
                write!(f, "{key} = \"{name}\": use 1 to 255 letters, digits, '-', '_' and '.'")
            }
            Problem::OutOfRange { key, value, min, max } => {
                write!(f, "{key} = {value}: write something from {min} to {max}")
            }
            Problem::NotPowerOfTwo { vnodes } => {
                let below = 1u32 << vnodes.checked_ilog2().unwrap_or(0);
                write!(
                    f,
                    "vnodes = {vnodes} is not a power of two: the nearest are {below} and {}",
                    below * 2
                )
            }
            Problem::NoNodes => write!(f, "there are no nodes: write a [[nodes]] section for each"),
            Problem::TooManyNodes { nodes, max } => write!(f, "{nodes} nodes are more than {max}"),
            Problem::Replication { replication, nodes } => write!(
                f,
                "replication = {replication} needs as many nodes, and there are {nodes}, joining ones left out: lower it or add [[nodes]]"
            ),
            Problem::BadTableName { name } => {
                write!(f, "table name = \"{name}\": use 1 to 64 of a-z, 0-9, '-' and '_'")
            }
            Problem::TableTwice { name, first_line } => {
                write!(f, "table {name} is already declared on line {first_line}: declare each table once")
            }
            Problem::TableNumbers { name, first, first_line } => write!(
                f,
                "table {name} comes to the same number as table {first} on line {first_line}: rename one of them"
            ),
            Problem::TooManyTables { max } => {
                write!(
                    f,
                    "this is one table more than a cluster can have ({max}, default included): declare fewer"
                )
            }
            Problem::DefaultMode => write!(
                f,
                "the default table keeps the last write: write mode = \"lww\", or declare a table of another name"
            ),
            Problem::NoSiblings => {
                write!(f, "max_siblings goes with mode = \"siblings\": remove it, or set the mode")
            }
            Problem::Duplicate { key, value, first_line } => {
                write!(f, "{key} {value} is already used on line {first_line}: give each node its own")
            }
            Problem::PortClash { address, first, second } => write!(
                f,
                "{address} is wanted by {first} and by {second}: a node listens on its contact port and on one port \
                 per core after it; move one of the nodes"
            ),
            Problem::PortRange { contact, cores } => write!(
                f,
                "the ports of {cores} cores after {contact} go beyond 65535: use a lower contact port, or list `ports`"
            ),
            Problem::PortCount { ports, cores } => {
                write!(f, "`ports` lists {ports} ports for {cores} cores: list one per core")
            }
            Problem::MemorySplit { parts, memory } => write!(
                f,
                "memtable and block_cache take {parts} together, more than memory = {memory}: raise memory or lower \
                 them"
            ),
            Problem::SeedTwice { address } => write!(f, "seed {address} is listed twice: list each once"),
            Problem::TooManySeeds { seeds, max } => {
                write!(f, "{seeds} seeds are more than {max}: a few that are seldom away together will do")
            }
            Problem::Gossip { rule } => {
                write!(f, "[gossip]: {rule}: change one of the two, or leave both out")
            }
            Problem::Hints { rule } => {
                write!(f, "[hints]: {rule}: change one of the two, or leave both out")
            }
            Problem::ForgetsMember { id, name } => write!(
                f,
                "forget = [{id}]: that is \"{name}\", which is a member and will want its hints: name only nodes that have left"
            ),
            Problem::ForgetsStranger { id } => write!(
                f,
                "forget_held_back = [{id}]: no node is listed with that number: name members only; what is kept for nodes that are no members \
                 any more goes with forget = [{id}]"
            ),
            Problem::InsecureNetwork { address } => write!(
                f,
                "{address} can be reached by others and this version has no authentication: use a loopback address, \
                 or write allow_insecure_network = true under [server] if the network itself is trusted"
            ),
        }
    }
}
