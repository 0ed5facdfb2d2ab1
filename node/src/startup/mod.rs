//! Checks before a node starts: what the machine lacks is said in one line that names the remedy, before any data is touched.
//!
//! [`prepare`] does all of it in an order in which each step may rely on the ones before, and the first that changes
//! anything on disk is the last but two: CPUs, kernel, io_uring, limits, memory, ports, data directory, direct I/O, modes of tables.
//! It raises soft limits to what the process is allowed anyway and refuses huge pages; it changes nothing else about the machine.

mod cpus;
mod direct;
mod host;
mod patience;
mod ports;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use ferrite_wire::CoreId;

use crate::config::{ByteSize, Config, Node};
use crate::identity::{DataDirectory, Identity, IdentityError};
use crate::memory;
use crate::table_shapes::{self, TableShapesError};

pub use host::refuse_huge_pages;
pub(crate) use patience::{Patience, is_alive};
pub use ports::Holder;

/// What a process exits with when the machine, not the configuration, is at fault.
pub const EXIT_ENVIRONMENT: u8 = 1;
/// What a process exits with when its configuration or command line is at fault.
pub const EXIT_CONFIGURATION: u8 = 2;

/// What a node needs in order to start.
#[derive(Debug)]
pub struct Ready {
    /// The CPU of each core, in the order of cores.
    pub cpus: Vec<usize>,
    /// The memory of the whole node.
    pub memory: ByteSize,
    /// The data directory, locked until this is dropped.
    pub directory: DataDirectory,
}

/// Why a node cannot start.
#[derive(Debug)]
pub enum StartupError {
    /// Fewer CPUs than cores asked for.
    TooFewCpus {
        /// Cores asked for.
        wanted: usize,
        /// CPUs the process may use.
        allowed: usize,
    },
    /// A CPU in the list does not exist or is not ours to use.
    NoSuchCpu {
        /// Its number.
        cpu: u16,
        /// The CPUs the process may use.
        allowed: Vec<usize>,
    },
    /// `cores = "all"`, and `ports` lists another number.
    PortCount {
        /// Ports listed.
        ports: usize,
        /// Cores there would be.
        cores: usize,
    },
    /// The ports of all cores would go beyond 65535.
    PortRange {
        /// The contact port.
        contact: u16,
        /// Cores there would be.
        cores: usize,
    },
    /// The kernel is too old.
    Kernel {
        /// Its release.
        release: String,
    },
    /// io_uring is switched off for this process.
    UringDisabled {
        /// The value of `kernel.io_uring_disabled`.
        setting: u8,
    },
    /// A ring could not be made.
    UringRefused(io::Error),
    /// Too little memory may be locked.
    LockedMemory {
        /// Bytes allowed.
        limit: u64,
    },
    /// Too few files may be open.
    OpenFiles {
        /// How many.
        limit: u64,
    },
    /// `memory` is less than the cores need.
    MemoryPerCore {
        /// What there would be.
        memory: ByteSize,
        /// For so many cores.
        cores: usize,
        /// What they need.
        least: ByteSize,
    },
    /// A core could take no write with its share.
    EngineMemory {
        /// `memory` or `memtable`.
        setting: &'static str,
        /// What there would be.
        found: ByteSize,
        /// What is needed.
        least: ByteSize,
        /// For so many cores.
        cores: usize,
        /// And so many stores.
        stores: u16,
    },
    /// `memory` is more than the machine, or the control group, has.
    Memory {
        /// What was asked for.
        wanted: ByteSize,
        /// What there is, in bytes.
        found: u64,
    },
    /// Something about the machine could not be read.
    Unreadable {
        /// What.
        what: &'static str,
        /// The system's answer.
        error: io::Error,
    },
    /// A port is taken.
    PortInUse {
        /// The `host:port`.
        address: String,
        /// Who has it, if it can be seen.
        holder: Option<Holder>,
    },
    /// An address cannot be listened on, for another reason.
    CannotListen {
        /// The `host:port`.
        address: String,
        /// The system's answer.
        error: io::Error,
    },
    /// The file system of the data directory cannot do direct I/O.
    DirectIo {
        /// The directory.
        path: PathBuf,
        /// The system's answer.
        error: io::Error,
    },
    /// The data directory cannot be used.
    Directory(IdentityError),
    /// Its records are not as the configuration declares their tables.
    Tables(TableShapesError),
}

/// Checks everything `node` needs, and takes its data directory.
pub fn prepare(config: &Config, node: &Node) -> Result<Ready, StartupError> {
    let cpus = cpus::assign(&node.cores, &cpus::allowed()?)?;
    host::check_kernel()?;
    refuse_huge_pages();
    host::raise_limits()?;
    host::check_uring()?;
    let memory = host::settle_memory(config.server.memory, cpus.len())?;
    let stores = config.server.stores_for(cpus.len()) as u16;
    memory::check(memory, &config.server, cpus.len() as u16, stores)?;
    check_port_count(node, cpus.len())?;
    ports::check(&node.address)?;
    for core in 0..cpus.len() {
        ports::check(&node.core_address(CoreId(core as u16)))?;
    }
    let identity = Identity {
        cluster: config.cluster.id,
        hash_seed: config.cluster.hash_seed,
        vnodes: config.cluster.vnodes,
        node: node.id,
    };
    let directory = DataDirectory::open(&node.data, &identity).map_err(StartupError::Directory)?;
    direct::check(directory.path())?;
    table_shapes::check(directory.path(), &config.tables).map_err(StartupError::Tables)?;
    Ok(Ready { cpus, memory, directory })
}

/// The CPUs this process may use, ascending: all of the machine's, or what `taskset` or a container left of them.
pub fn allowed_cpus() -> Result<Vec<usize>, StartupError> {
    cpus::allowed()
}

/// Whether the file system of a directory takes direct I/O, as data directories need. Writes a file and removes it.
pub fn check_direct_io(directory: &Path) -> Result<(), StartupError> {
    direct::check(directory)
}

/// `error` from listening on `address`, with who has the port if that is what it is about.
pub fn listen_error(address: &str, error: io::Error) -> StartupError {
    ports::explain(address, error)
}

/// What the configuration could not check while the number of cores was "all".
fn check_port_count(node: &Node, cores: usize) -> Result<(), StartupError> {
    match &node.ports {
        Some(ports) if ports.len() != cores => Err(StartupError::PortCount { ports: ports.len(), cores }),
        None if node.address.port as usize + cores > u16::MAX as usize => {
            Err(StartupError::PortRange { contact: node.address.port, cores })
        }
        Some(_) | None => Ok(()),
    }
}

impl StartupError {
    /// What the process exits with: [`EXIT_CONFIGURATION`] where another configuration would help, else
    /// [`EXIT_ENVIRONMENT`].
    pub fn exit_code(&self) -> u8 {
        match self {
            StartupError::TooFewCpus { .. }
            | StartupError::NoSuchCpu { .. }
            | StartupError::PortCount { .. }
            | StartupError::PortRange { .. }
            | StartupError::Memory { .. }
            | StartupError::MemoryPerCore { .. }
            | StartupError::EngineMemory { .. }
            | StartupError::PortInUse { .. }
            | StartupError::CannotListen { .. } => EXIT_CONFIGURATION,
            StartupError::Kernel { .. }
            | StartupError::UringDisabled { .. }
            | StartupError::UringRefused(_)
            | StartupError::LockedMemory { .. }
            | StartupError::OpenFiles { .. }
            | StartupError::Unreadable { .. }
            | StartupError::DirectIo { .. } => EXIT_ENVIRONMENT,
            StartupError::Directory(error) => error.exit_code(),
            StartupError::Tables(error) => error.exit_code(),
        }
    }
}

impl fmt::Display for StartupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartupError::TooFewCpus { wanted, allowed } => write!(
                f,
                "cores = {wanted}, and this process may use {allowed} CPUs: lower it (or list CPUs, like [0, 0], to \
                 let cores share one)"
            ),
            StartupError::NoSuchCpu { cpu, allowed } => {
                write!(f, "cores lists CPU {cpu}, and this process may use only ")?;
                write_list(f, allowed)?;
                write!(f, ": list one of those")
            }
            StartupError::PortCount { ports, cores } => {
                write!(f, "`ports` lists {ports} ports for {cores} cores: list one per core, or set `cores`")
            }
            StartupError::PortRange { contact, cores } => {
                write!(
                    f,
                    "the ports of {cores} cores after {contact} go beyond 65535: use a lower contact port"
                )
            }
            StartupError::Kernel { release } => {
                write!(f, "Linux {release} is too old for io_uring as used here: use 6.1 or newer")
            }
            StartupError::UringDisabled { setting } => write!(
                f,
                "io_uring is disabled (kernel.io_uring_disabled = {setting}): run `sysctl -w \
                 kernel.io_uring_disabled=0` as root"
            ),
            StartupError::UringRefused(error) => write!(
                f,
                "io_uring is refused: {error}; in a container, allow io_uring_setup, io_uring_enter and \
                 io_uring_register (docker: --security-opt seccomp=unconfined)"
            ),
            StartupError::LockedMemory { limit } => write!(
                f,
                "only {} KiB may be locked in memory and {} KiB are needed: run `ulimit -l unlimited`, or set \
                 LimitMEMLOCK=infinity in the systemd unit",
                limit >> 10,
                host::LOCKED_BYTES_MIN >> 10
            ),
            StartupError::OpenFiles { limit } => write!(
                f,
                "only {limit} files may be open and {} are needed: run `ulimit -n 65536`, or set LimitNOFILE=65536 \
                 in the systemd unit",
                host::OPEN_FILES_MIN
            ),
            StartupError::Memory { wanted, found } => write!(
                f,
                "memory = \"{wanted}\" is more than this process may have ({} MiB): lower `memory` under [server]",
                found >> 20
            ),
            StartupError::MemoryPerCore { memory, cores, least } => write!(
                f,
                "{memory} of memory are too little for {cores} cores: set `memory` under [server] to {least} or more, or \
                 lower `cores`"
            ),
            StartupError::EngineMemory { setting, found, least, cores, stores } => write!(
                f,
                "{setting} = \"{found}\" is too little for {stores} stores on {cores} cores: set `{setting}` under [server] \
                 to {least} or more, or lower `stores`"
            ),
            StartupError::Unreadable { what, error } => write!(f, "cannot read {what}: {error}"),
            StartupError::PortInUse { address, holder } => {
                write!(f, "{address} is in use by ")?;
                match holder {
                    Some(holder) => write!(f, "{holder}")?,
                    None => write!(f, "another process")?,
                }
                write!(f, ": stop that, or change the node's `address`")
            }
            StartupError::CannotListen { address, error } => {
                write!(f, "cannot listen on {address}: {error}; `address` must be one of this machine's own")
            }
            StartupError::DirectIo { path, error } => write!(
                f,
                "{} does not take direct I/O (O_DIRECT): {error}; put `data` on ext4 or xfs",
                path.display()
            ),
            StartupError::Directory(error) => write!(f, "{error}"),
            StartupError::Tables(error) => write!(f, "{error}"),
        }
    }
}

fn write_list(f: &mut fmt::Formatter<'_>, numbers: &[usize]) -> fmt::Result {
    for (index, number) in numbers.iter().enumerate() {
        write!(f, "{}{number}", if index == 0 { "" } else { ", " })?;
    }
    Ok(())
}

impl std::error::Error for StartupError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StartupError::Directory(error) => Some(error),
            StartupError::Tables(error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
