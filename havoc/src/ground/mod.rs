//! What nodes stand on: addresses, and a network between them that can be cut one way at a time.
//!
//! Two grounds, with the same faults: [`Namespaces`], where each node has a network stack of its own, and [`Loopback`], where nodes meet
//! through a proxy. A third, plain loopback, has none, and is for figures. A client stands beside a node and shares its fate: what is cut for the node is cut for the client.

mod loopback;
mod namespaces;
mod proxy;

use std::ffi::OsStr;
use std::fmt;
use std::process::Command;
use std::time::Duration;

use ferrite_client::Dial;

use crate::Obstacle;
pub use loopback::Loopback;
pub use namespaces::{Namespaces, enter, inside, is_inside, why_not};

/// Which ground.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A network namespace for each node.
    Namespaces,
    /// Loopback, behind a fault proxy.
    Loopback,
    /// Loopback, and nothing between the nodes: nothing can be cut.
    Plain,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Namespaces => "network namespaces",
            Kind::Loopback => "loopback behind a fault proxy",
            Kind::Plain => "loopback",
        })
    }
}

/// The ground of one cluster.
pub enum Ground {
    /// See [`Namespaces`].
    Namespaces(Namespaces),
    /// See [`Loopback`].
    Loopback(Loopback),
}

impl Ground {
    /// A ground for so many nodes with so many cores each. That of namespaces has to be [entered](enter) before.
    pub fn new(kind: Kind, nodes: usize, cores: usize) -> Result<Ground, Obstacle> {
        match kind {
            Kind::Namespaces => Namespaces::create(nodes).map(Ground::Namespaces),
            Kind::Loopback => Loopback::create(nodes, cores).map(Ground::Loopback),
            Kind::Plain => Loopback::plain(nodes, cores).map(Ground::Loopback),
        }
    }

    /// Host and contact port of a node as the configuration of another, or its own, names them.
    pub fn address(&self, of: usize, seen_by: usize) -> (String, u16) {
        match self {
            Ground::Namespaces(ground) => ground.address(of),
            Ground::Loopback(ground) => ground.address(of, seen_by),
        }
    }

    /// Ports of the cores of a node.
    pub fn core_ports(&self, of: usize, cores: usize) -> Vec<u16> {
        let first = match self {
            Ground::Namespaces(ground) => ground.address(of).1,
            Ground::Loopback(ground) => ground.address(of, of).1,
        };
        (1..=cores as u16).map(|core| first + core).collect()
    }

    /// A command that runs a program where a node is.
    pub fn command(&self, at: usize, program: &OsStr) -> Command {
        match self {
            Ground::Namespaces(ground) => ground.command(at, program),
            Ground::Loopback(_) => Command::new(program),
        }
    }

    /// How a client beside a node reaches nodes.
    pub fn dial(&self, at: usize) -> Dial {
        match self {
            Ground::Namespaces(ground) => ground.dial(at),
            Ground::Loopback(ground) => ground.dial(at),
        }
    }

    /// Nothing that one node sends reaches the other, and nobody is told.
    pub fn cut(&self, from: usize, to: usize) -> Result<(), Obstacle> {
        match self {
            Ground::Namespaces(ground) => ground.cut(from, to),
            Ground::Loopback(ground) => {
                ground.cut(from, to);
                Ok(())
            }
        }
    }

    /// What one node sends reaches the other again.
    pub fn mend(&self, from: usize, to: usize) -> Result<(), Obstacle> {
        match self {
            Ground::Namespaces(ground) => ground.mend(from, to),
            Ground::Loopback(ground) => {
                ground.mend(from, to);
                Ok(())
            }
        }
    }

    /// What one node sends to the other takes so much longer. Namespaces cannot do that.
    pub fn delay(&self, from: usize, to: usize, by: Duration) -> Result<(), Obstacle> {
        match self {
            Ground::Namespaces(_) => Err(Obstacle::new("delay packets", "only the proxy on loopback can")),
            Ground::Loopback(ground) => {
                ground.delay(from, to, by);
                Ok(())
            }
        }
    }
}
