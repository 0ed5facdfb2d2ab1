//! Loopback behind a fault proxy: what is left where nobody may make namespaces.
//!
//! Each node has a configuration of its own, in which the addresses of the others are those of proxies, one for each ordered pair of
//! nodes. A node tells others where its cores listen, and whoever was told connects there past any proxy; so nodes have one core here,
//! which its peers keep reaching at the contact address. Clients know all addresses, and take the proxies of the node they stand beside.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use ferrite_client::Dial;

use super::proxy::{Proxy, Way, Ways};
use crate::{Obstacle, failed};

const HOST: &str = "127.0.0.1";
/// Ports of a node lie in a block of this many.
const PORT_BLOCK: u16 = 10;
/// Where ports are searched: above what servers usually use, below what the system gives to outgoing connections, which would
/// otherwise take the port of a node that is down for a moment.
const PORTS: Range<u16> = 10_000..30_000;

/// The proxies of one cluster.
pub struct Loopback {
    /// First port of each node.
    ports: Vec<u16>,
    ways: Ways,
    /// Where the proxy from one node to another listens.
    proxies: Arc<Vec<Vec<Option<SocketAddr>>>>,
}

impl Loopback {
    /// Finds ports and starts the proxies, which end with the process.
    pub fn create(nodes: usize, cores: usize) -> Result<Loopback, Obstacle> {
        if cores != 1 {
            return Err(Obstacle::new("use the proxy", "nodes behind it have one core"));
        }
        let ports = free_blocks(nodes, cores)?;
        let ways = Ways::new(nodes);
        let mut proxies = vec![vec![None; nodes]; nodes];
        for (from, row) in proxies.iter_mut().enumerate() {
            for (to, proxy) in row.iter_mut().enumerate().filter(|(to, _)| *to != from) {
                let target = SocketAddr::from(([127, 0, 0, 1], ports[to]));
                let (there, back) = (ways.way(from, to), ways.way(to, from));
                *proxy = Some(Proxy::start(target, there, back).map_err(failed("start a proxy"))?);
            }
        }
        Ok(Loopback { ports, ways, proxies: Arc::new(proxies) })
    }

    /// The same without proxies: nothing can be cut or delayed, and what is measured is the nodes.
    pub fn plain(nodes: usize, cores: usize) -> Result<Loopback, Obstacle> {
        let ports = free_blocks(nodes, cores)?;
        Ok(Loopback { ports, ways: Ways::new(nodes), proxies: Arc::new(vec![vec![None; nodes]; nodes]) })
    }

    pub(super) fn address(&self, of: usize, seen_by: usize) -> (String, u16) {
        let port = self.proxies[seen_by][of].map_or(self.ports[of], |proxy| proxy.port());
        (HOST.to_owned(), port)
    }

    pub(super) fn dial(&self, at: usize) -> Dial {
        let (ports, proxies) = (self.ports.clone(), Arc::clone(&self.proxies));
        Arc::new(move |address: &str, timeout: Duration| -> io::Result<TcpStream> {
            let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
            // The contact port of a node or of its only core; proxies of other nodes are as good as what they stand for.
            let node = port.and_then(|port| {
                let proxied =
                    |of: usize| proxies.iter().any(|row| row[of].is_some_and(|proxy| proxy.port() == port));
                let own = |of: usize| (ports[of]..ports[of] + PORT_BLOCK).contains(&port);
                (0..ports.len()).find(|of| own(*of) || proxied(*of))
            });
            match node.and_then(|node| proxies[at][node]) {
                Some(proxy) => TcpStream::connect_timeout(&proxy, timeout),
                None => connect(address, timeout),
            }
        })
    }

    pub(super) fn cut(&self, from: usize, to: usize) {
        self.ways.way(from, to).change(|way| way.is_cut = true);
    }

    pub(super) fn mend(&self, from: usize, to: usize) {
        self.ways.way(from, to).change(|way| *way = Way::default());
    }

    pub(super) fn delay(&self, from: usize, to: usize, by: Duration) {
        self.ways.way(from, to).change(|way| way.delay = by);
    }
}

/// Connects to the first address of a name that answers.
pub(super) fn connect(address: &str, timeout: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// First ports of so many blocks in which nobody listens.
fn free_blocks(wanted: usize, cores: usize) -> Result<Vec<u16>, Obstacle> {
    if cores >= usize::from(PORT_BLOCK) {
        return Err(Obstacle::new("find ports", "a node's ports lie in a block of ten"));
    }
    let blocks = (PORTS.end - PORTS.start) / PORT_BLOCK;
    // A prime, so that processes with neighbouring numbers begin far apart.
    let first = (std::process::id().wrapping_mul(7919) % u32::from(blocks)) as u16;
    let mut found = Vec::new();
    for block in 0..blocks {
        let port = PORTS.start + (first + block) % blocks * PORT_BLOCK;
        if (port..=port + cores as u16).all(|port| TcpListener::bind((HOST, port)).is_ok()) {
            found.push(port);
        }
        if found.len() == wanted {
            return Ok(found);
        }
    }
    Err(Obstacle::new("find ports", "none are free on 127.0.0.1"))
}
