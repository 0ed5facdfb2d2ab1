//! Which CPU carries which core.

use rustix::thread::{CpuSet, sched_getaffinity};

use super::StartupError;
use crate::config::Cores;

/// The CPUs this process may use, ascending.
pub(super) fn allowed() -> Result<Vec<usize>, StartupError> {
    let set = sched_getaffinity(None)
        .map_err(|error| StartupError::Unreadable { what: "the CPU affinity", error: error.into() })?;
    Ok((0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect())
}

/// The CPU of each core.
pub(super) fn assign(cores: &Cores, allowed: &[usize]) -> Result<Vec<usize>, StartupError> {
    match cores {
        Cores::All => Ok(allowed.to_vec()),
        Cores::Count(count) => {
            let wanted = *count as usize;
            let first = allowed.get(..wanted);
            first.map(<[usize]>::to_vec).ok_or(StartupError::TooFewCpus { wanted, allowed: allowed.len() })
        }
        Cores::Cpus(cpus) => match cpus.iter().find(|cpu| !allowed.contains(&(**cpu as usize))) {
            Some(cpu) => Err(StartupError::NoSuchCpu { cpu: *cpu, allowed: allowed.to_vec() }),
            None => Ok(cpus.iter().map(|cpu| *cpu as usize).collect()),
        },
    }
}
