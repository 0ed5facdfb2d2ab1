//! What can be done to a cluster.

use std::fmt;
use std::str::FromStr;

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Two sides that hear nothing of each other.
    Partition,
    /// One side hears the other, which hears nothing.
    OneWay,
    /// A process is stopped for longer than it takes others to give it up, and goes on.
    Pause,
    /// A process is killed and started again.
    Kill,
    /// A node starts with its clock off: within the drift that is allowed, or beyond.
    Clock,
    /// A node loses all it has stored and starts again at the same address.
    Wipe,
    /// A disk is full for a while.
    FullDisk,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 7] = [
        Fault::Partition,
        Fault::OneWay,
        Fault::Pause,
        Fault::Kill,
        Fault::Clock,
        Fault::Wipe,
        Fault::FullDisk,
    ];
}

impl FromStr for Fault {
    type Err = String;

    /// A fault by its name, with `-` for spaces.
    fn from_str(text: &str) -> Result<Fault, String> {
        let named = |fault: &Fault| fault.to_string().replace(' ', "-");
        Fault::ALL.into_iter().find(|fault| named(fault) == text).ok_or_else(|| {
            format!(
                "\"{text}\": write one of {}",
                Fault::ALL.iter().map(named).collect::<Vec<_>>().join(", ")
            )
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::Partition => "partition",
            Fault::OneWay => "one-way partition",
            Fault::Pause => "pause",
            Fault::Kill => "kill",
            Fault::Clock => "clock offset",
            Fault::Wipe => "wiped directory",
            Fault::FullDisk => "full disk",
        })
    }
}
