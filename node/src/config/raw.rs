//! The file as it is written: every key, its type, and where each value stands.
//!
//! What this grammar accepts is well-formed but not yet sensible; [`super::check`] decides that. Values that are
//! compared with others carry their place in the file, so that a complaint can name its line.

use ferrite_wire::ClusterId;
use serde::Deserialize;
use serde::de::{Deserializer, Error};
use toml::Spanned;

use super::address::Address;
use super::choice::{CommitlogSync, Compaction, Cores, Spin};
use super::gossip::RawGossip;
use super::hints::RawHints;
use super::table::RawTable;
use super::testing::RawTesting;
use super::units::{ByteSize, Interval};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConfig {
    pub(super) cluster: RawCluster,
    pub(super) nodes: Vec<RawNode>,
    #[serde(default)]
    pub(super) table: Vec<RawTable>,
    #[serde(default)]
    pub(super) server: RawServer,
    pub(super) gossip: Option<Spanned<RawGossip>>,
    pub(super) hints: Option<Spanned<RawHints>>,
    #[serde(default)]
    pub(super) testing: RawTesting,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCluster {
    pub(super) name: Spanned<String>,
    #[serde(deserialize_with = "cluster_id")]
    pub(super) id: ClusterId,
    #[serde(deserialize_with = "hash_seed")]
    pub(super) hash_seed: u64,
    pub(super) vnodes: Spanned<u32>,
    pub(super) replication: Spanned<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNode {
    pub(super) name: Spanned<String>,
    pub(super) id: Spanned<u16>,
    pub(super) address: Spanned<Address>,
    pub(super) ports: Option<Spanned<Vec<u16>>>,
    pub(super) cores: Option<Spanned<Cores>>,
    pub(super) rack: Option<Spanned<String>>,
    pub(super) datacenter: Option<Spanned<String>>,
    pub(super) data: Spanned<String>,
    #[serde(default)]
    pub(super) joining: bool,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawServer {
    pub(super) cores: Option<Spanned<Cores>>,
    pub(super) memory: Option<Spanned<ByteSize>>,
    pub(super) memtable: Option<Spanned<ByteSize>>,
    pub(super) block_cache: Option<Spanned<ByteSize>>,
    pub(super) stores: Option<Spanned<u32>>,
    pub(super) commitlog_sync: Option<CommitlogSync>,
    pub(super) compaction: Option<Compaction>,
    pub(super) request_timeout: Option<Spanned<Interval>>,
    pub(super) large_value_threshold: Option<Spanned<ByteSize>>,
    pub(super) scrub_rate: Option<Spanned<ByteSize>>,
    pub(super) max_value_size: Option<Spanned<ByteSize>>,
    pub(super) max_clock_drift: Option<Spanned<Interval>>,
    pub(super) spin: Option<Spin>,
    pub(super) allow_insecure_network: Option<bool>,
}

fn cluster_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ClusterId, D::Error> {
    let text = String::deserialize(deserializer)?;
    let hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match text.parse::<ClusterId>() {
        Ok(id) if hex && id != ClusterId([0; 16]) => Ok(id),
        Ok(_) | Err(()) => Err(D::Error::custom(format!(
            "\"{text}\" is not a cluster id: it is the 32 hexadecimal digits that `ferrite init` wrote"
        ))),
    }
}

fn hash_seed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    let hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match u64::from_str_radix(&text, 16) {
        Ok(seed) if hex => Ok(seed),
        Ok(_) | Err(_) => Err(D::Error::custom(format!(
            "\"{text}\" is not a hash seed: it is the 16 hexadecimal digits that `ferrite init` wrote"
        ))),
    }
}
