//! Every dial of the client, with its unit, bound and default.

use ferrite_wire::{ClusterId, Level};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Most connections to one core of one node.
pub const CONNECTIONS_PER_CORE_MAX: usize = 64;
/// Most requests in flight on one connection, whatever [`Options::in_flight_per_connection`] says.
pub const IN_FLIGHT_MAX: usize = 4096;

/// Time to live of what is to live for ever in a table whose records else expire.
pub const FOR_EVER: Duration = Duration::MAX;

/// How a client behaves. [`Builder`] sets them.
#[derive(Clone, Debug)]
pub struct Options {
    /// `host:port` of any members; the rest of the cluster is learned from them.
    pub seeds: Vec<String>,
    /// The cluster to insist on; `None` = whichever the first member that answers belongs to.
    pub cluster: Option<ClusterId>,
    /// Time from submission to answer of a call that names none. Default 5 s.
    pub timeout: Duration,
    /// Level of a call that names none. Default `QUORUM`.
    pub level: Level,
    /// Connections to each core of a node, opened as load asks for them. Default 1, at most [`CONNECTIONS_PER_CORE_MAX`].
    pub connections_per_core: usize,
    /// Requests sent and unanswered on one connection; more wait in the client. Default 256, at most [`IN_FLIGHT_MAX`].
    pub in_flight_per_connection: usize,
    /// Calls accepted and unanswered in the whole client; more are refused as overloaded. Default 65,536.
    pub calls_max: usize,
    /// Time from opening a connection to the server's handshake. Default 1 s.
    pub connect_timeout: Duration,
    /// Wait after the first failure of an endpoint; it doubles with each one in a row. Default 10 ms.
    pub backoff_min: Duration,
    /// Longest wait between two attempts at an endpoint. Default 2 s.
    pub backoff_max: Duration,
    /// Seed of the jitter. Default random.
    pub jitter_seed: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            seeds: Vec::new(),
            cluster: None,
            timeout: Duration::from_secs(5),
            level: Level::Quorum,
            connections_per_core: 1,
            in_flight_per_connection: 256,
            calls_max: 65_536,
            connect_timeout: Duration::from_secs(1),
            backoff_min: Duration::from_millis(10),
            backoff_max: Duration::from_secs(2),
            jitter_seed: RandomState::new().hash_one(0u64),
        }
    }
}

/// Options of one read.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadOptions {
    /// How many replicas must answer; `None` = the client's level.
    pub level: Option<Level>,
    /// Time until the answer; `None` = the client's timeout.
    pub timeout: Option<Duration>,
}

/// Options of one write.
#[derive(Clone, Copy, Debug, Default)]
pub struct WriteOptions {
    /// How many replicas must acknowledge; `None` = the client's level.
    pub level: Option<Level>,
    /// Time until the answer; `None` = the client's timeout.
    pub timeout: Option<Duration>,
    /// Time to live of a put, in whole milliseconds; `None` = the table's, which may be for ever, and [`FOR_EVER`] is that in any table.
    pub ttl: Option<Duration>,
    /// Lets other nodes stand in for replicas that are away: they keep the write for them, and their acknowledgements count. The outcome says
    /// whether one did. A write can be done so while no replica of its key is there; but then no level makes reads see it before it
    /// is delivered.
    pub sloppy: bool,
}

/// Collects [`Options`], then connects.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    pub(crate) options: Options,
}

impl Builder {
    /// `host:port` of any members of the cluster.
    pub fn seeds<S: Into<String>>(mut self, seeds: impl IntoIterator<Item = S>) -> Builder {
        self.options.seeds = seeds.into_iter().map(Into::into).collect();
        self
    }

    /// Insists on this cluster.
    pub fn cluster(mut self, cluster: ClusterId) -> Builder {
        self.options.cluster = Some(cluster);
        self
    }

    /// Time from submission to answer of a call that names none.
    pub fn timeout(mut self, timeout: Duration) -> Builder {
        self.options.timeout = timeout;
        self
    }

    /// Level of a call that names none.
    pub fn level(mut self, level: Level) -> Builder {
        self.options.level = level;
        self
    }

    /// Connections to each core of a node.
    pub fn connections_per_core(mut self, count: usize) -> Builder {
        self.options.connections_per_core = count;
        self
    }

    /// Requests sent and unanswered on one connection.
    pub fn in_flight_per_connection(mut self, count: usize) -> Builder {
        self.options.in_flight_per_connection = count;
        self
    }

    /// Calls accepted and unanswered in the whole client.
    pub fn calls_max(mut self, count: usize) -> Builder {
        self.options.calls_max = count;
        self
    }

    /// Time from opening a connection to the server's handshake.
    pub fn connect_timeout(mut self, timeout: Duration) -> Builder {
        self.options.connect_timeout = timeout;
        self
    }

    /// Shortest and longest wait between two attempts at an endpoint.
    pub fn backoff(mut self, min: Duration, max: Duration) -> Builder {
        (self.options.backoff_min, self.options.backoff_max) = (min, max.max(min));
        self
    }

    /// The options so far.
    pub fn options(&self) -> &Options {
        &self.options
    }
}
