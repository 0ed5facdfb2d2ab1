//! The kernel, io_uring, and the limits of this process.

use std::fs;
use std::io;
use std::path::Path;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::disable_transparent_huge_pages;

use super::StartupError;
use crate::config::ByteSize;
use crate::memory;
use crate::ring::Ring;

/// The oldest kernel with everything the ring asks for (DEFER_TASKRUN).
const KERNEL_MIN: (u32, u32) = (6, 1);
/// What an executor's own rings insist on, in bytes.
pub(super) const LOCKED_BYTES_MIN: u64 = 512 << 10;
/// Files, sockets and rings of a small node.
pub(super) const OPEN_FILES_MIN: u64 = 1024;

pub(super) fn check_kernel() -> Result<(), StartupError> {
    let path = "/proc/sys/kernel/osrelease";
    let release = fs::read_to_string(path)
        .map_err(|error| StartupError::Unreadable { what: "the kernel's release", error })?;
    let release = release.trim();
    if is_new_enough(release) { Ok(()) } else { Err(StartupError::Kernel { release: release.to_owned() }) }
}

/// Whether a release like `6.1.0-13-amd64` will do. One that cannot be read is given the benefit of the doubt: the ring
/// itself is tried next.
pub(super) fn is_new_enough(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= KERNEL_MIN,
        _ => true,
    }
}

pub(super) fn check_uring() -> Result<(), StartupError> {
    // 0 = everybody may, 1 = the privileged may, 2 = nobody may; absent before Linux 6.6.
    let setting = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok();
    let setting = setting.and_then(|text| text.trim().parse::<u8>().ok()).unwrap_or(0);
    match Ring::new(None) {
        Ok(_) => Ok(()),
        Err(error) if setting > 0 && error.kind() == io::ErrorKind::PermissionDenied => {
            Err(StartupError::UringDisabled { setting })
        }
        Err(error) => Err(StartupError::UringRefused(error)),
    }
}

/// Keeps huge pages away from this process: to clear one takes the kernel up to milliseconds, in which its core does nothing else.
/// A kernel that has none refuses, which is as good.
pub fn refuse_huge_pages() {
    let _best_effort = disable_transparent_huge_pages(true);
}

/// Raises the soft limits to the hard ones (to more, where we are privileged), and checks that they are enough.
pub(super) fn raise_limits() -> Result<(), StartupError> {
    let limit = raise(Resource::Memlock, LOCKED_BYTES_MIN);
    if limit < LOCKED_BYTES_MIN {
        return Err(StartupError::LockedMemory { limit });
    }
    let limit = raise(Resource::Nofile, OPEN_FILES_MIN);
    if limit < OPEN_FILES_MIN { Err(StartupError::OpenFiles { limit }) } else { Ok(()) }
}

/// Raises a soft limit as far as it goes and returns where it stands then.
fn raise(resource: Resource, least: u64) -> u64 {
    let old = getrlimit(resource);
    let hard = old.maximum.map(|hard| hard.max(least));
    // First beyond the hard limit if that is too low, which takes privilege; then up to it. A refusal shows in the result.
    for maximum in [hard, old.maximum] {
        if setrlimit(resource, Rlimit { current: maximum, maximum }).is_ok() {
            break;
        }
    }
    getrlimit(resource).current.unwrap_or(u64::MAX)
}

/// The memory that a node of so many cores takes: what is `wanted`, or a part of what there is.
pub(super) fn settle_memory(wanted: Option<ByteSize>, cores: usize) -> Result<ByteSize, StartupError> {
    let text = fs::read_to_string("/proc/meminfo")
        .map_err(|error| StartupError::Unreadable { what: "the size of memory", error })?;
    let machine = memory_total(&text).unwrap_or(u64::MAX);
    let found = group_limit().map_or(machine, |limit| limit.min(machine));
    let memory = wanted.unwrap_or_else(|| memory::default_for(found, cores));
    if memory.0 > found {
        return Err(StartupError::Memory { wanted: memory, found });
    }
    let least = ByteSize(memory::CORE_BYTES_MIN * cores as u64);
    if memory < least {
        return Err(StartupError::MemoryPerCore { memory, cores, least });
    }
    Ok(memory)
}

/// The limit of the control group that the process is in, and of those above it, where there is one (version 2 only).
fn group_limit() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let root = Path::new("/sys/fs/cgroup");
    let limits = Path::new(own).ancestors().filter_map(|group| {
        let text = fs::read_to_string(root.join(group).join("memory.max")).ok()?;
        text.trim().parse::<u64>().ok()
    });
    limits.min()
}

/// Bytes of memory by the first line of `/proc/meminfo`: `MemTotal: 16314832 kB`.
pub(super) fn memory_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}
