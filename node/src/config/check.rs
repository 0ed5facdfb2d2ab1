//! From what is written to what is meant: ranges, distinctness, defaults.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use ferrite_wire::limits::{CORES_MAX, NAME_BYTES_MAX, NODES_MAX, REPLICAS_MAX, VALUE_BYTES_MAX, VNODES_MAX};
use ferrite_wire::{HashSeed, NodeId};
use toml::Spanned;

use super::choice::{CommitlogSync, Compaction, Cores, Spin};
use super::error::{ConfigError, Problem};
use super::raw::{RawCluster, RawConfig, RawNode, RawServer};
use super::table::tables;
use super::testing::testing;
use super::units::{ByteSize, Interval};
use super::{Cluster, Config, Node, Server};

const MEMORY_MIN: ByteSize = ByteSize::mib(32);
const MEMORY_MAX: ByteSize = ByteSize(1 << 44);
const MEMTABLE_MIN: ByteSize = ByteSize::mib(1);
const LARGE_VALUE_DEFAULT: ByteSize = ByteSize(4 << 10);
const LARGE_VALUE_MIN: ByteSize = ByteSize(256);
/// Above the longest value: all stay in the tables.
const LARGE_VALUE_MAX: ByteSize = ByteSize::mib(16);
/// A hundred gigabytes of a core in 28 hours, for a few thousandths of its time.
const SCRUB_DEFAULT: ByteSize = ByteSize::mib(1);
/// No scrubbing.
const SCRUB_MIN: ByteSize = ByteSize(0);
const SCRUB_MAX: ByteSize = ByteSize::mib(1024);
const VALUE_MIN: ByteSize = ByteSize(1);
const VALUE_MAX: ByteSize = ByteSize(VALUE_BYTES_MAX as u64);
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(2);
const TIMEOUT_MIN: Duration = Duration::from_millis(1);
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);
const DRIFT_DEFAULT: Duration = Duration::from_millis(500);
const DRIFT_MIN: Duration = Duration::from_millis(1);
const DRIFT_MAX: Duration = Duration::from_secs(60);

pub(super) fn parse(text: &str, file: &Path) -> Result<Config, ConfigError> {
    let place = Place { text, file };
    let raw: RawConfig = toml::from_str(text).map_err(|error| {
        let words = error.message().split('\n').map(str::trim).collect::<Vec<_>>().join(", ");
        place.fail(&error.span().unwrap_or(0..0), Problem::Grammar(words))
    })?;
    let server = server(&raw.server, &place)?;
    let server_cores = match &raw.server.cores {
        Some(cores) => checked_cores(cores, &place)?,
        None => Cores::All,
    };
    let nodes = nodes(&raw.nodes, &server_cores, &server, &place)?;
    let owners = nodes.iter().filter(|node| !node.joining).count();
    let cluster = cluster(raw.cluster, owners, &place)?;
    let tables = tables(&raw.table, &cluster, owners, &place)?;
    let gossip = super::gossip::gossip(&raw.gossip, &place)?;
    let hints = super::hints::hints(&raw.hints, &nodes, &place)?;
    let testing = testing(&raw.testing, &place)?;
    Ok(Config { cluster, nodes, tables, server, gossip, hints, testing })
}

/// The file, for turning a span into a line.
pub(super) struct Place<'a> {
    text: &'a str,
    file: &'a Path,
}

impl Place<'_> {
    pub(super) fn line(&self, span: &Range<usize>) -> usize {
        let start = span.start.min(self.text.len());
        1 + self.text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count()
    }

    pub(super) fn fail(&self, span: &Range<usize>, problem: Problem) -> ConfigError {
        ConfigError { file: self.file.to_owned(), line: self.line(span), problem }
    }

    fn name(&self, key: &'static str, name: &Spanned<String>) -> Result<String, ConfigError> {
        let text = name.get_ref();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if text.is_empty() || text.len() > NAME_BYTES_MAX || !text.bytes().all(plain) {
            return Err(self.fail(&name.span(), Problem::BadName { key, name: text.clone() }));
        }
        Ok(text.clone())
    }

    pub(super) fn within<T: PartialOrd + Copy + ToString>(
        &self,
        key: &'static str,
        value: &Spanned<T>,
        min: T,
        max: T,
    ) -> Result<T, ConfigError> {
        let found = *value.get_ref();
        if found < min || found > max {
            let (min, max) = (min.to_string(), max.to_string());
            let problem = Problem::OutOfRange { key, value: found.to_string(), min, max };
            return Err(self.fail(&value.span(), problem));
        }
        Ok(found)
    }

    /// A length of time in whole milliseconds.
    pub(super) fn whole_ms(
        &self,
        key: &'static str,
        value: &Spanned<Interval>,
        min: Interval,
        max: Interval,
    ) -> Result<u64, ConfigError> {
        let found = self.within(key, value, min, max)?.0;
        if found.subsec_micros() % 1_000 != 0 {
            let words = format!("{key} = {}: write whole milliseconds", Interval(found));
            return Err(self.fail(&value.span(), Problem::Grammar(words)));
        }
        Ok(found.as_millis() as u64)
    }

    /// A number of replicas, for which there are nodes.
    pub(super) fn replication(&self, value: &Spanned<u32>, nodes: usize) -> Result<usize, ConfigError> {
        let replication = self.within("replication", value, 1, REPLICAS_MAX as u32)?;
        if replication as usize > nodes {
            return Err(self.fail(&value.span(), Problem::Replication { replication, nodes }));
        }
        Ok(replication as usize)
    }
}

fn cluster(raw: RawCluster, nodes: usize, place: &Place<'_>) -> Result<Cluster, ConfigError> {
    let vnodes = place.within("vnodes", &raw.vnodes, 1, VNODES_MAX as u32)?;
    if !vnodes.is_power_of_two() {
        return Err(place.fail(&raw.vnodes.span(), Problem::NotPowerOfTwo { vnodes }));
    }
    let replication = place.replication(&raw.replication, nodes)?;
    Ok(Cluster {
        name: place.name("cluster name", &raw.name)?,
        id: raw.id,
        hash_seed: HashSeed(raw.hash_seed),
        vnodes,
        replication,
    })
}

fn server(raw: &RawServer, place: &Place<'_>) -> Result<Server, ConfigError> {
    let size = |key, value: &Option<Spanned<ByteSize>>, default, min, max| match value {
        Some(value) => place.within(key, value, min, max),
        None => Ok(default),
    };
    let time = |key, value: &Option<Spanned<Interval>>, default, min, max| match value {
        Some(value) => place.within(key, value, Interval(min), Interval(max)).map(|found| found.0),
        None => Ok(default),
    };
    let optional = |key, value: &Option<Spanned<ByteSize>>, min, max| {
        value.as_ref().map(|value| place.within(key, value, min, max)).transpose()
    };
    let memory = optional("memory", &raw.memory, MEMORY_MIN, MEMORY_MAX)?;
    let memtable = optional("memtable", &raw.memtable, MEMTABLE_MIN, MEMORY_MAX)?;
    let block_cache = optional("block_cache", &raw.block_cache, ByteSize(0), MEMORY_MAX)?;
    let parts = ByteSize([memtable, block_cache].into_iter().flatten().map(|part| part.0).sum());
    if let Some(memory) = memory
        && parts > memory
    {
        let written = [&raw.memory, &raw.memtable, &raw.block_cache].into_iter().flatten().next_back();
        let span = written.map_or(0..0, Spanned::span);
        let problem = Problem::MemorySplit { parts: parts.to_string(), memory: memory.to_string() };
        return Err(place.fail(&span, problem));
    }
    let stores = match &raw.stores {
        Some(stores) => Some(place.within("stores", stores, 1, Server::STORES_MAX)?),
        None => None,
    };
    Ok(Server {
        memory,
        memtable,
        block_cache,
        stores,
        compaction: raw.compaction.unwrap_or(Compaction::Leveled),
        commitlog_sync: raw.commitlog_sync.unwrap_or(CommitlogSync::Batch),
        request_timeout: time(
            "request_timeout",
            &raw.request_timeout,
            TIMEOUT_DEFAULT,
            TIMEOUT_MIN,
            TIMEOUT_MAX,
        )?,
        large_value_threshold: size(
            "large_value_threshold",
            &raw.large_value_threshold,
            LARGE_VALUE_DEFAULT,
            LARGE_VALUE_MIN,
            LARGE_VALUE_MAX,
        )?,
        scrub_rate: size("scrub_rate", &raw.scrub_rate, SCRUB_DEFAULT, SCRUB_MIN, SCRUB_MAX)?,
        max_value_size: size("max_value_size", &raw.max_value_size, VALUE_MAX, VALUE_MIN, VALUE_MAX)?,
        max_clock_drift: time("max_clock_drift", &raw.max_clock_drift, DRIFT_DEFAULT, DRIFT_MIN, DRIFT_MAX)?,
        spin: raw.spin.unwrap_or(Spin::Auto),
        allow_insecure_network: raw.allow_insecure_network.unwrap_or(false),
    })
}

fn checked_cores(cores: &Spanned<Cores>, place: &Place<'_>) -> Result<Cores, ConfigError> {
    if let Some(count) = cores.get_ref().count().filter(|count| *count > CORES_MAX) {
        let (min, max) = ("1".to_owned(), CORES_MAX.to_string());
        let problem = Problem::OutOfRange { key: "cores", value: count.to_string(), min, max };
        return Err(place.fail(&cores.span(), problem));
    }
    Ok(cores.get_ref().clone())
}

fn nodes(
    raw: &[RawNode],
    server_cores: &Cores,
    server: &Server,
    place: &Place<'_>,
) -> Result<Vec<Node>, ConfigError> {
    let fail_whole = |problem| ConfigError { file: place.file.to_owned(), line: 0, problem };
    if raw.is_empty() {
        return Err(fail_whole(Problem::NoNodes));
    }
    if raw.len() > NODES_MAX {
        return Err(fail_whole(Problem::TooManyNodes { nodes: raw.len(), max: NODES_MAX }));
    }
    let mut names = Distinct::new("node name");
    let mut ids = Distinct::new("node id");
    let mut directories = Distinct::new("data directory");
    let mut ports = Ports::default();
    let mut nodes = Vec::with_capacity(raw.len());
    for raw in raw {
        let node = node(raw, server_cores, place)?;
        names.add(node.name.clone(), &raw.name.span(), place)?;
        ids.add(node.id.0.to_string(), &raw.id.span(), place)?;
        // Two hosts may well use the same path; two nodes of one host may not.
        let directory = format!("{} on {}", node.data.display(), node.address.host);
        directories.add(directory, &raw.data.span(), place)?;
        if !node.address.is_loopback() && !server.allow_insecure_network {
            let problem = Problem::InsecureNetwork { address: node.address.to_string() };
            return Err(place.fail(&raw.address.span(), problem));
        }
        ports.add(&node, &raw.address.span(), place)?;
        nodes.push(node);
    }
    nodes.sort_by_key(|node| node.id);
    Ok(nodes)
}

fn node(raw: &RawNode, server_cores: &Cores, place: &Place<'_>) -> Result<Node, ConfigError> {
    let name_or = |key, name: &Option<Spanned<String>>, default: &str| match name {
        Some(name) => place.name(key, name),
        None => Ok(default.to_owned()),
    };
    let address = raw.address.get_ref().clone();
    let cores = match &raw.cores {
        Some(cores) => checked_cores(cores, place)?,
        None => server_cores.clone(),
    };
    if let Some(ports) = &raw.ports {
        if let Some(port) = ports.get_ref().iter().find(|port| **port == 0) {
            let (min, max) = ("1".to_owned(), u16::MAX.to_string());
            let problem = Problem::OutOfRange { key: "ports", value: port.to_string(), min, max };
            return Err(place.fail(&ports.span(), problem));
        }
        let listed = ports.get_ref().len();
        if cores.count().is_some_and(|cores| cores != listed) {
            let problem = Problem::PortCount { ports: listed, cores: cores.count().unwrap_or(0) };
            return Err(place.fail(&ports.span(), problem));
        }
    } else if let Some(count) =
        cores.count().filter(|count| address.port as usize + count > u16::MAX as usize)
    {
        let problem = Problem::PortRange { contact: address.port, cores: count };
        return Err(place.fail(&raw.address.span(), problem));
    }
    if raw.data.get_ref().is_empty() {
        let problem = Problem::Grammar("data = \"\": name a directory".to_owned());
        return Err(place.fail(&raw.data.span(), problem));
    }
    let base = place.file.parent().unwrap_or(Path::new(""));
    Ok(Node {
        id: NodeId(place.within("node id", &raw.id, 1, u16::MAX)?),
        name: place.name("node name", &raw.name)?,
        ports: raw.ports.as_ref().map(|ports| ports.get_ref().clone()),
        cores,
        rack: name_or("rack", &raw.rack, "rack1")?,
        datacenter: name_or("datacenter", &raw.datacenter, "dc1")?,
        data: base.join(raw.data.get_ref()),
        joining: raw.joining,
        address,
    })
}

/// Values of one key that must differ between nodes, each with the line it was first seen on.
struct Distinct {
    key: &'static str,
    seen: BTreeMap<String, usize>,
}

impl Distinct {
    fn new(key: &'static str) -> Distinct {
        Distinct { key, seen: BTreeMap::new() }
    }

    fn add(&mut self, value: String, span: &Range<usize>, place: &Place<'_>) -> Result<(), ConfigError> {
        match self.seen.get(&value) {
            Some(&first_line) => {
                Err(place.fail(span, Problem::Duplicate { key: self.key, value, first_line }))
            }
            None => {
                self.seen.insert(value, place.line(span));
                Ok(())
            }
        }
    }
}

/// Who listens where.
#[derive(Default)]
struct Ports {
    taken: BTreeMap<(String, u16), String>,
}

impl Ports {
    fn add(&mut self, node: &Node, span: &Range<usize>, place: &Place<'_>) -> Result<(), ConfigError> {
        let mut wanted = vec![(node.address.port, format!("the contact port of {}", node.name))];
        // With `cores = "all"` the number is known only on the machine itself: one core at least.
        let cores = match &node.ports {
            Some(ports) => ports.len(),
            None => node.cores.count().unwrap_or(1),
        };
        for core in 0..cores {
            let port = match &node.ports {
                Some(ports) => ports[core],
                None => match u16::try_from(node.address.port as usize + 1 + core) {
                    Ok(port) => port,
                    Err(_) => {
                        let problem = Problem::PortRange { contact: node.address.port, cores };
                        return Err(place.fail(span, problem));
                    }
                },
            };
            wanted.push((port, format!("core {core} of {}", node.name)));
        }
        for (port, second) in wanted {
            let key = (node.address.host.clone(), port);
            if let Some(first) = self.taken.get(&key) {
                let address = node.address.with_port(port).to_string();
                return Err(place.fail(span, Problem::PortClash { address, first: first.clone(), second }));
            }
            self.taken.insert(key, second);
        }
        Ok(())
    }
}
