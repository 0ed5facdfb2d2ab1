//! A network namespace for each node, joined by a bridge.
//!
//! All of it is inside a network and a mount namespace of the harness's own: whatever way the harness and its nodes end, the kernel
//! removes the rest with them, and names cannot clash with anybody's. The harness gets there by becoming `unshare` that becomes the
//! harness ([`enter`]); root needs no more, others get a user namespace too where the system gives one.
//!
//! A cut is a neighbour entry with an address that nobody has: packets leave and are lost, one way, and nobody is told. (A blackhole
//! route would refuse to send at once, which no broken network does.) There is no delay: kernels may lack `netem`.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use ferrite_client::Dial;
use rustix::process::geteuid;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::loopback::connect;
use crate::{Obstacle, failed};

/// Tells the harness that it is inside.
const INSIDE: &str = "FERRITE_HAVOC_INSIDE";
/// Contact port of every node.
const PORT: u16 = 7100;
/// Address of the first node; the others follow.
const NETWORK: &str = "10.77.0";
/// A hardware address that nobody has.
const NOBODY: &str = "02:fe:00:00:ff:ff";
/// Most nodes: the last byte of an address.
const NODES_MAX: usize = 250;
/// What has to work: all that [`Namespaces::create`] and [`Namespaces::cut`] do, once.
const PROBE: &str = "set -e; mount -t tmpfs ferrite-havoc /run; ip link set lo up; ip link add hub type bridge; ip netns add n1; \
                     ip link add v1 type veth peer name eth0 netns n1; \
                     ip -n n1 neigh replace 10.77.0.2 lladdr 02:fe:00:00:ff:ff dev eth0 nud permanent; \
                     nsenter --net=/run/netns/n1 true";

fn unshare() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--net"]);
    if !geteuid().is_root() {
        command.arg("--map-root-user");
    }
    command.arg("--");
    command
}

/// Whether this process has entered.
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// What this system lacks for namespaces; `None` = nothing.
pub fn why_not() -> Option<String> {
    if is_inside() {
        return None;
    }
    let probed = unshare().args(["sh", "-c", PROBE]).stdin(Stdio::null()).output();
    match probed {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ")),
        Err(error) => Some(format!("unshare: {error}")),
    }
}

/// A command that runs a program inside; what it runs is told by [`is_inside`].
pub fn inside(program: &Path) -> Command {
    let mut command = unshare();
    command.arg(program).env(INSIDE, "1");
    command
}

/// Becomes the same program with these arguments, inside; returns only if that fails.
pub fn enter<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Obstacle {
    match std::env::current_exe() {
        Ok(itself) => {
            let error = inside(&itself).args(arguments).exec();
            Obstacle::new("enter a namespace", error)
        }
        Err(error) => Obstacle::new("find this program", error),
    }
}

/// The network of one cluster.
#[derive(Debug)]
pub struct Namespaces {
    nodes: usize,
}

impl Namespaces {
    /// Makes one. The process is inside, and nobody made one before.
    pub fn create(nodes: usize) -> Result<Namespaces, Obstacle> {
        assert!(nodes <= NODES_MAX, "addresses are counted in one byte");
        if !is_inside() {
            return Err(Obstacle::new("make a network", "this process is not in a namespace of its own"));
        }
        // Names of namespaces are files here; nobody else sees them.
        run(Command::new("mount").args(["-t", "tmpfs", "ferrite-havoc", "/run"]))?;
        ip("link set lo up")?;
        ip("link add hub type bridge")?;
        ip("link set hub up")?;
        let ground = Namespaces { nodes };
        for node in 1..=nodes {
            ip(&format!("netns add n{node}"))?;
            ip(&format!("link add v{node} type veth peer name eth0 netns n{node}"))?;
            ip(&format!("link set v{node} master hub up"))?;
            ip(&format!("-n n{node} link set lo up"))?;
            ip(&format!("-n n{node} link set eth0 address {}", hardware(node)))?;
            ip(&format!("-n n{node} addr add {NETWORK}.{node}/24 dev eth0"))?;
            ip(&format!("-n n{node} link set eth0 up"))?;
        }
        // Nobody asks who has an address: all is said beforehand, so that a cut is one entry and is in force at once.
        for from in 0..nodes {
            for to in (0..nodes).filter(|to| *to != from) {
                ground.mend(from, to)?;
            }
        }
        Ok(ground)
    }

    pub(super) fn address(&self, of: usize) -> (String, u16) {
        (format!("{NETWORK}.{}", of + 1), PORT)
    }

    pub(super) fn command(&self, at: usize, program: &OsStr) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", file(at))).arg("--").arg(program);
        command
    }

    pub(super) fn dial(&self, at: usize) -> Dial {
        assert!(at < self.nodes, "a client stands beside a node");
        Arc::new(move |address: &str, timeout: Duration| -> io::Result<TcpStream> {
            // The connection's own thread goes there, and ends there.
            let namespace = File::open(file(at))?;
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            connect(address, timeout)
        })
    }

    pub(super) fn cut(&self, from: usize, to: usize) -> Result<(), Obstacle> {
        neighbour(from, to, NOBODY)
    }

    pub(super) fn mend(&self, from: usize, to: usize) -> Result<(), Obstacle> {
        neighbour(from, to, &hardware(to + 1))
    }
}

fn file(at: usize) -> String {
    format!("/run/netns/n{}", at + 1)
}

fn hardware(node: usize) -> String {
    format!("02:fe:00:00:00:{node:02x}")
}

fn neighbour(from: usize, to: usize, hardware: &str) -> Result<(), Obstacle> {
    ip(&format!(
        "-n n{} neigh replace {NETWORK}.{} lladdr {hardware} dev eth0 nud permanent",
        from + 1,
        to + 1
    ))
}

fn ip(arguments: &str) -> Result<(), Obstacle> {
    run(Command::new("ip").args(arguments.split(' ')))
}

fn run(command: &mut Command) -> Result<(), Obstacle> {
    let output = command.stdin(Stdio::null()).output().map_err(failed(format!("run {command:?}")))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Obstacle::new(format!("run {command:?}"), String::from_utf8_lossy(&output.stderr).trim()))
}
