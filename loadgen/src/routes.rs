//! Which endpoint a key goes to: learned from a member once, before the load begins.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use ferrite_wire::{
    ClusterId, Epoch, FrameFlags, FrameHeader, FrameKind, HashSeed, HelloReply, Key, Mode, Order, Parsed,
    Reply, Request, RequestId, TableId, Topology, VnodeId, finish_frame, limits, parse_frame, start_frame,
};

use crate::{ferrite::encode_hello, target::resolve};

/// Endpoints, and for each vnode those that own a replica of it.
#[derive(Clone, Debug)]
pub(crate) struct Routes {
    /// One address per core of each member; a member whose cores are not known has its contact address.
    pub endpoints: Vec<SocketAddr>,
    /// The cluster; all zero when it was not asked.
    pub cluster: ClusterId,
    /// The topology's epoch; 0 when it was not asked.
    pub epoch: Epoch,
    /// The table that keys are of.
    pub table: TableId,
    /// Replicas of a key; 1 when it was not asked.
    pub replicas: usize,
    seed: HashSeed,
    vnodes: u32,
    /// Per vnode, its replicas' endpoints in preference order, padded to `replicas` by repetition.
    owners: Vec<u16>,
}

impl Routes {
    /// Everything goes to one address.
    pub(crate) fn single(address: SocketAddr) -> Routes {
        Routes {
            endpoints: vec![address],
            cluster: ClusterId([0; 16]),
            epoch: Epoch(0),
            table: TableId::DEFAULT,
            replicas: 1,
            seed: HashSeed(0),
            vnodes: 1,
            owners: vec![0],
        }
    }

    /// Reads a topology, for keys of a table.
    pub(crate) fn new(topology: &Topology, table: &str) -> Result<Routes, String> {
        let table = topology.tables.named(table).ok_or_else(|| format!("there is no table \"{table}\""))?;
        if table.mode == Mode::Siblings {
            // Puts without a context would stand beside each other until the table takes no more, and what a read finds would not be one
            // value to check.
            return Err(format!(
                "table \"{}\" keeps siblings, which load neither merges nor replaces: name one that keeps the last write",
                table.name
            ));
        }
        let replication = usize::from(table.replication);
        let mut endpoints = Vec::new();
        let mut first_of_node = Vec::new();
        for node in &topology.nodes {
            first_of_node.push(endpoints.len());
            if node.endpoints.is_empty() || node.core_of_vnode.is_empty() {
                endpoints.push(resolve(&node.contact)?);
            } else {
                for address in &node.endpoints {
                    endpoints.push(resolve(address)?);
                }
            }
        }
        u16::try_from(endpoints.len()).map_err(|_| format!("{} endpoints are too many", endpoints.len()))?;
        let replicas = topology.replicas.iter().map(Vec::len).max().unwrap_or(0).min(replication);
        let mut owners = Vec::with_capacity(topology.replicas.len() * replicas);
        for (vnode, list) in topology.replicas.iter().enumerate() {
            let mut endpoint_of = list.iter().take(replication).map(|id| {
                let at = topology.nodes.binary_search_by_key(id, |node| node.id);
                let at = at.expect("a decoded topology's replicas are members");
                let core = topology.nodes[at].core_of_vnode.get(vnode).map_or(0, |core| usize::from(core.0));
                (first_of_node[at] + core) as u16
            });
            let first = endpoint_of.next().ok_or_else(|| format!("vnode {vnode} has no replica"))?;
            owners.push(first);
            owners.extend(endpoint_of.chain(std::iter::repeat(first)).take(replicas - 1));
        }
        Ok(Routes {
            endpoints,
            cluster: topology.cluster,
            epoch: topology.epoch,
            table: table.id,
            replicas,
            seed: topology.hash_seed,
            vnodes: topology.vnodes(),
            owners,
        })
    }

    /// Asks a member for the topology, and every member that it has not heard from for that member's own endpoints. One
    /// that does not answer keeps its contact address.
    pub(crate) fn learn(address: SocketAddr, table: &str, timeout: Duration) -> Result<Routes, String> {
        let mut topology = ask(address, timeout)?;
        for node in &mut topology.nodes {
            if !node.core_of_vnode.is_empty() {
                continue;
            }
            let told = resolve(&node.contact).and_then(|contact| ask(contact, timeout));
            if let Some(own) = told.ok().and_then(|told| told.node(node.id).cloned()) {
                *node = own;
            }
        }
        if topology.nodes.iter().any(|node| node.core_of_vnode.len() > topology.replicas.len()) {
            return Err(format!("{address}: members disagree about the number of vnodes"));
        }
        Routes::new(&topology, table).map_err(|error| format!("{address}: {error}"))
    }

    /// The endpoints of a key's replicas, the preferred one first; some may repeat.
    #[inline]
    pub(crate) fn owners(&self, key: &[u8]) -> &[u16] {
        let VnodeId(vnode) = Key::plain(key).token(self.seed).vnode(self.vnodes);
        &self.owners[usize::from(vnode) * self.replicas..][..self.replicas]
    }
}

/// Asks one member for the topology.
fn ask(address: SocketAddr, timeout: Duration) -> Result<Topology, String> {
    let told = |what: &str| format!("{address}: {what}");
    let mut stream = TcpStream::connect_timeout(&address, timeout)
        .map_err(|error| told(&format!("cannot connect: {error}")))?;
    let mut exchange = || -> std::io::Result<Vec<u8>> {
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        let mut out = Vec::new();
        encode_hello(ClusterId([0; 16]), &mut out);
        let start = start_frame(&mut out);
        let request = Request::Topology { have: Epoch(0) };
        request.encode(&mut out);
        let header = FrameHeader {
            kind: request.kind(),
            flags: FrameFlags(0),
            deadline_us: 0,
            request: RequestId(1),
            time: Order(0),
        };
        finish_frame(&mut out, start, &header);
        stream.write_all(&out)?;
        let hello = read_frame(&mut stream)?;
        match parse(&hello) {
            Some((FrameKind::HelloReply, body)) if HelloReply::decode(body).is_ok() => {}
            _ => return Ok(hello),
        }
        read_frame(&mut stream)
    };
    let frame = exchange().map_err(|error| told(&format!("no topology: {error}")))?;
    let (kind, body) = parse(&frame).ok_or_else(|| told("not a Ferrite server"))?;
    match Reply::decode(kind, body) {
        Ok(Reply::Topology(bytes)) => Topology::decode(bytes).map_err(|error| told(&error.to_string())),
        Ok(Reply::Error { code, text }) => Err(told(&format!("refused with error {}: {text}", code as u16))),
        Ok(_) | Err(_) => Err(told("an answer other than the topology")),
    }
}

/// Reads one whole frame, header included.
fn read_frame(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        let need = match parse_frame(&bytes, limits::BODY_BYTES_MAX) {
            Ok(Parsed::Frame { .. }) => return Ok(bytes),
            Ok(Parsed::Need { bytes }) => bytes,
            Err(error) => return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, error)),
        };
        let have = bytes.len();
        bytes.resize(need, 0);
        stream.read_exact(&mut bytes[have..])?;
    }
}

fn parse(bytes: &[u8]) -> Option<(FrameKind, &[u8])> {
    match parse_frame(bytes, limits::BODY_BYTES_MAX) {
        Ok(Parsed::Frame { frame, .. }) => Some((frame.header.kind, frame.body)),
        Ok(Parsed::Need { .. }) | Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use ferrite_wire::{CoreId, NodeEntry, NodeId, Table, Tables};

    use super::*;

    fn node(id: u16, endpoints: &[&str], cores: &[u16]) -> NodeEntry {
        NodeEntry {
            id: NodeId(id),
            incarnation: 0,
            name: String::new(),
            rack: String::new(),
            datacenter: String::new(),
            contact: format!("127.0.0.1:{id}"),
            endpoints: endpoints.iter().map(|text| (*text).to_owned()).collect(),
            core_of_vnode: cores.iter().map(|core| CoreId(*core)).collect(),
        }
    }

    fn topology() -> Topology {
        Topology {
            epoch: Epoch(5),
            cluster: ClusterId([1; 16]),
            hash_seed: HashSeed(3),
            nodes: vec![
                node(1, &["127.0.0.1:101", "127.0.0.1:102"], &[0, 1, 0, 1]),
                node(2, &[], &[]),
                node(7, &["127.0.0.1:701", "127.0.0.1:702"], &[1, 1, 0, 0]),
            ],
            tables: Tables::only_default(2),
            replicas: [[1, 2], [2, 7], [7, 1], [1, 7]].map(|list| list.map(NodeId).to_vec()).to_vec(),
            vnode_epochs: vec![Epoch(5); 4],
        }
    }

    #[test]
    fn keys_go_to_the_owning_cores_of_their_replicas() {
        let routes = Routes::new(&topology(), "default").expect("a whole topology");
        let ports: Vec<u16> = routes.endpoints.iter().map(SocketAddr::port).collect();
        assert_eq!(ports, [101, 102, 2, 701, 702]);
        let expected: [[u16; 2]; 4] = [[101, 2], [2, 702], [701, 101], [102, 701]];
        let mut seen = [false; 4];
        for record in 0..200u32 {
            let key = record.to_le_bytes();
            let vnode = usize::from(Key::plain(&key).token(HashSeed(3)).vnode(4).0);
            let owners: Vec<u16> = routes.owners(&key).iter().map(|at| ports[usize::from(*at)]).collect();
            assert_eq!(owners, expected[vnode]);
            seen[vnode] = true;
        }
        assert_eq!(seen, [true; 4]);
    }

    #[test]
    fn a_vnode_without_replicas_is_refused() {
        let mut topology = topology();
        topology.replicas[2].clear();
        assert!(Routes::new(&topology, "default").is_err());
    }

    #[test]
    fn a_table_with_fewer_replicas_has_the_first_of_them() {
        let single = Table { id: TableId::of("single"), name: "single".to_owned(), ..Table::default_of(1) };
        let tables = Tables::new(vec![Table::default_of(2), single]).expect("a sound list");
        let topology = Topology { tables, ..topology() };
        let routes = Routes::new(&topology, "single").expect("a whole topology");
        assert_eq!((routes.replicas, routes.table), (1, TableId::of("single")));
        let ports: Vec<u16> = routes.endpoints.iter().map(SocketAddr::port).collect();
        let owners: Vec<u16> = routes.owners.iter().map(|at| ports[usize::from(*at)]).collect();
        assert_eq!(owners, [101, 2, 701, 102]);
        assert_eq!(Routes::new(&topology, "double").unwrap_err(), "there is no table \"double\"");
    }
    /// The first put was well, the second one stood beside it, and a read of both was an answer that nobody had asked for.
    #[test]
    fn a_table_with_siblings_is_refused_in_words() {
        let carts = Table { id: TableId::of("carts"), name: "carts".to_owned(), ..Table::default_of(2) };
        let carts = Table { mode: Mode::Siblings, max_siblings: 32, ..carts };
        let tables = Tables::new(vec![Table::default_of(2), carts]).expect("a sound list");
        let topology = Topology { tables, ..topology() };
        assert!(Routes::new(&topology, "default").is_ok());
        let refused = Routes::new(&topology, "carts").expect_err("it is refused");
        assert!(
            refused.starts_with("table \"carts\" keeps siblings") && !refused.contains('\n'),
            "{refused}"
        );
    }
}
