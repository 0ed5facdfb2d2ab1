//! Whether a port is free, and who has it if not.

use std::fmt;
use std::fs;
use std::io;
use std::net::{TcpListener, ToSocketAddrs};

use super::{Patience, StartupError};
use crate::config::Address;

/// The process that listens on a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its number.
    pub pid: u32,
    /// Its name.
    pub name: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({})", self.pid, self.name)
    }
}

/// Listens for a moment. A port can still be taken between this and the real thing: see [`explain`].
///
/// A port that is taken by nobody belongs to a process that has just died, and is waited for.
pub(super) fn check(address: &Address) -> Result<(), StartupError> {
    let mut patience = Patience::new();
    loop {
        match try_listen(address) {
            Err(StartupError::PortInUse { holder: None, .. }) if patience.wait() => {}
            other => return other,
        }
    }
}

fn try_listen(address: &Address) -> Result<(), StartupError> {
    let text = address.to_string();
    let listened = (address.host.as_str(), address.port).to_socket_addrs().and_then(|mut resolved| {
        let first = resolved.next().ok_or_else(|| io::Error::other("the host name has no address"))?;
        TcpListener::bind(first)
    });
    listened.map(drop).map_err(|error| explain(&text, error))
}

pub(super) fn explain(address: &str, error: io::Error) -> StartupError {
    let address = address.to_owned();
    if error.kind() != io::ErrorKind::AddrInUse {
        return StartupError::CannotListen { address, error };
    }
    let port = address.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    StartupError::PortInUse { holder: port.and_then(holder), address }
}

/// Who listens on `port`, as far as this process may see: the socket's number from the kernel's table, then the process that
/// has it open.
fn holder(port: u16) -> Option<Holder> {
    let socket = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .find_map(|table| listening_socket(&table, port))?;
    let link = format!("socket:[{socket}]");
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(descriptors) = fs::read_dir(entry.path().join("fd")) else {
            continue;
        };
        let mut targets =
            descriptors.flatten().filter_map(|descriptor| fs::read_link(descriptor.path()).ok());
        if targets.any(|target| target.as_os_str() == link.as_str()) {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            return Some(Holder { pid, name: name.trim().to_owned() });
        }
    }
    None
}

/// The inode of the socket that listens on `port`, from `/proc/net/tcp`:
/// `sl local_address rem_address st tx:rx tr:tm retrnsmt uid timeout inode ...`, state 0A = listening.
pub(super) fn listening_socket(table: &str, port: u16) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let local = fields.nth(1)?;
        let state = fields.nth(1)?;
        let inode = fields.nth(5)?;
        let (_, local_port) = local.rsplit_once(':')?;
        let is_it = state == "0A" && u16::from_str_radix(local_port, 16) == Ok(port);
        if is_it { inode.parse().ok() } else { None }
    })
}
