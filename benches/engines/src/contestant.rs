//! Who takes part: an engine, and of Ferrite's with how many stores.

use std::fmt;

use crate::Engine;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contestant {
    Ferrite { stores: u16 },
    Rocksdb,
    Fjall,
}

impl Contestant {
    /// Each engine once, and Ferrite's once with each number of stores.
    pub fn all(engines: &[Engine], stores: &[u16]) -> Vec<Contestant> {
        let of = |engine: &Engine| match engine {
            Engine::Ferrite => stores.iter().map(|&stores| Contestant::Ferrite { stores }).collect(),
            Engine::Rocksdb => vec![Contestant::Rocksdb],
            Engine::Fjall => vec![Contestant::Fjall],
        };
        engines.iter().flat_map(of).collect()
    }

    /// What the command line calls its engine.
    pub fn engine(self) -> &'static str {
        match self {
            Contestant::Ferrite { .. } => "ferrite",
            Contestant::Rocksdb => "rocksdb",
            Contestant::Fjall => "fjall",
        }
    }
}

/// The name in tables and of its directory: no slash.
impl fmt::Display for Contestant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Contestant::Ferrite { stores } => write!(f, "ferrite-{stores}"),
            Contestant::Rocksdb | Contestant::Fjall => f.write_str(self.engine()),
        }
    }
}
