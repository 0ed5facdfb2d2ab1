//! How the commands that talk to a cluster find it.

use std::path::PathBuf;
use std::time::Duration;

use ferrite_client::{BlockingClient, Level, ReadError};
use ferrite_node::config::{Address, Config, Interval};

use crate::outcome::{Failure, unread};

/// Read when neither `--addr` nor `--config` is given, if it is there.
const CONFIG_DEFAULT: &str = "ferrite.toml";
/// Asked when nothing says where the cluster is.
const ADDRESS_DEFAULT: &str = "127.0.0.1:7100";

/// Where the cluster is.
#[derive(clap::Args)]
pub(crate) struct ClusterArgs {
    /// Any node of the cluster; may be given several times [default: the nodes in ./ferrite.toml if it is there, else
    /// 127.0.0.1:7100]
    #[arg(long = "addr", value_name = "HOST:PORT")]
    addresses: Vec<Address>,
    /// Take the nodes and the cluster's identity from this configuration
    #[arg(long, value_name = "FILE", conflicts_with = "addresses")]
    config: Option<PathBuf>,
    /// How long to wait for an answer
    #[arg(long, default_value = "5s", value_name = "TIME")]
    timeout: Interval,
}

/// How many replicas must answer.
#[derive(clap::Args)]
pub(crate) struct LevelArgs {
    /// How many replicas must answer: one, two, quorum, all, local_one, local_quorum, each_quorum or a number
    #[arg(long, default_value_t = Level::Quorum)]
    pub(crate) level: Level,
}

/// Why nobody could be asked, and what may be done about it.
fn unreached(described: &str, error: &ReadError) -> String {
    let what = format!("cannot reach {described}: {}", unread(error));
    match error {
        ReadError::Deadline(_) => {
            format!("{what}; `ferrite serve` starts a node, and --addr or --config says where there is one")
        }
        ReadError::Refused(_) | ReadError::Siblings { .. } => what,
    }
}

impl ClusterArgs {
    /// Connects: returns once a node has answered.
    pub(crate) fn connect(&self) -> Result<BlockingClient, Failure> {
        let mut builder = BlockingClient::builder().timeout(self.timeout.0);
        let default = PathBuf::from(CONFIG_DEFAULT);
        let config = match &self.config {
            Some(file) => Some(file),
            None if self.addresses.is_empty() && default.exists() => Some(&default),
            None => None,
        };
        let (seeds, described) = match config {
            Some(file) => {
                let config = Config::load(file).map_err(Failure::usage)?;
                builder = builder.cluster(config.cluster.id);
                let nodes: Vec<String> = config.nodes.iter().map(|node| node.address.to_string()).collect();
                (nodes, format!("cluster \"{}\" of {}", config.cluster.name, file.display()))
            }
            None if self.addresses.is_empty() => {
                (vec![ADDRESS_DEFAULT.to_owned()], ADDRESS_DEFAULT.to_owned())
            }
            None => {
                let given: Vec<String> = self.addresses.iter().map(Address::to_string).collect();
                let described = given.join(", ");
                (given, described)
            }
        };
        builder
            .seeds(seeds)
            .connect_blocking()
            .map_err(|error| Failure::failed(unreached(&described, &error)))
    }

    /// How long to wait for an answer.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout.0
    }
}
