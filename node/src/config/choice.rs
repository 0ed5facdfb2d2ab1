//! Settings that are a choice among a few words, or a word and a quantity.

use std::fmt;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

use super::units::Interval;

/// Which CPUs a node's cores are pinned to: one core per CPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cores {
    /// Every CPU the process may use: `"all"`.
    All,
    /// The first so many of the CPUs the process may use: `2`.
    Count(u16),
    /// These CPUs, in this order: `[0, 2]`. A CPU listed twice carries two cores (for tests on small machines).
    Cpus(Vec<u16>),
}

impl Cores {
    /// How many cores, where that does not depend on the machine.
    pub fn count(&self) -> Option<usize> {
        match self {
            Cores::All => None,
            Cores::Count(count) => Some(*count as usize),
            Cores::Cpus(cpus) => Some(cpus.len()),
        }
    }
}

/// When the log is synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitlogSync {
    /// Before a write is acknowledged: `"batch"`. An acknowledged write survives power loss.
    Batch,
    /// So often: `"periodic:100ms"`. A write is acknowledged after a buffered log write: it survives the death of
    /// the process; power loss loses at most the interval.
    Periodic(Duration),
}

/// How the tables of a store are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compaction {
    /// Into few runs: reads and space are cheap: `"leveled"`.
    Leveled,
    /// Into several runs of each length: writes are cheap: `"tiered"`. May be changed at any restart.
    Tiered,
}

/// How long an idle core looks for work before it sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spin {
    /// As measured while running, off where cores share a CPU: `"auto"`.
    Auto,
    /// Not at all: `"off"`.
    Off,
    /// So long: `"50us"`.
    For(Duration),
}

/// Longest spin; longer is a CPU burnt for nothing.
pub const SPIN_MAX: Duration = Duration::from_millis(10);

impl<'de> Deserialize<'de> for Cores {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CoresVisitor)
    }
}

struct CoresVisitor;

impl<'de> Visitor<'de> for CoresVisitor {
    type Value = Cores;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a number of cores, a list of CPU numbers like [0, 2], or \"all\"")
    }

    fn visit_i64<E: Error>(self, count: i64) -> Result<Cores, E> {
        match u16::try_from(count) {
            Ok(count) if count > 0 => Ok(Cores::Count(count)),
            Ok(_) | Err(_) => Err(E::custom(format!("cores = {count}: a node has at least one core"))),
        }
    }

    fn visit_u64<E: Error>(self, count: u64) -> Result<Cores, E> {
        self.visit_i64(i64::try_from(count).unwrap_or(i64::MAX))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Cores, E> {
        match text {
            "all" => Ok(Cores::All),
            _ => Err(E::custom(format!(
                "cores = \"{text}\": write a number, a list of CPU numbers like [0, 2], or \"all\""
            ))),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Cores, A::Error> {
        let mut cpus = Vec::new();
        while let Some(cpu) = list.next_element::<u16>()? {
            cpus.push(cpu);
        }
        if cpus.is_empty() {
            Err(A::Error::custom("cores = []: list at least one CPU"))
        } else {
            Ok(Cores::Cpus(cpus))
        }
    }
}

impl<'de> Deserialize<'de> for CommitlogSync {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "batch" {
            return Ok(CommitlogSync::Batch);
        }
        let Some(interval) = text.strip_prefix("periodic:") else {
            return Err(D::Error::custom(format!("\"{text}\": write \"batch\", or \"periodic:100ms\"")));
        };
        let Interval(interval) = interval.parse().map_err(D::Error::custom)?;
        if interval.is_zero() {
            return Err(D::Error::custom("an interval of 0 is \"batch\": write that, or a longer interval"));
        }
        Ok(CommitlogSync::Periodic(interval))
    }
}

impl<'de> Deserialize<'de> for Compaction {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "leveled" => Ok(Compaction::Leveled),
            "tiered" => Ok(Compaction::Tiered),
            text => Err(D::Error::custom(format!("\"{text}\": write \"leveled\" or \"tiered\""))),
        }
    }
}

impl<'de> Deserialize<'de> for Spin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "auto" => Ok(Spin::Auto),
            "off" => Ok(Spin::Off),
            text => match text.parse() {
                Ok(Interval(spin)) if spin.is_zero() => Ok(Spin::Off),
                Ok(Interval(spin)) if spin <= SPIN_MAX => Ok(Spin::For(spin)),
                Ok(Interval(spin)) => Err(D::Error::custom(format!(
                    "spin = \"{}\" is longer than {}: write less, or \"auto\"",
                    Interval(spin),
                    Interval(SPIN_MAX)
                ))),
                Err(_) => Err(D::Error::custom(format!(
                    "\"{text}\": write \"auto\", \"off\" or a time like \"50us\""
                ))),
            },
        }
    }
}
