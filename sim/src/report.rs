//! What a run showed, for people and for tests.

use std::fmt;

use ferrite_promises::Violation;

use crate::bug::Bug;
use crate::counts::Counts;

/// What a run showed.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// The bug that was planted.
    pub bug: Option<Bug>,
    /// Hash of everything that happened.
    pub trace: u64,
    /// What it met.
    pub counts: Counts,
    /// The first broken promise, with the key's history.
    pub violation: Option<(Violation, String)>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}:", self.seed)?;
        write!(f, "{}", self.counts)?;
        for (title, counts) in self.counts.by_name() {
            let listed: Vec<String> =
                counts.iter().map(|(name, count)| format!("{name} × {count}")).collect();
            writeln!(
                f,
                "  {title}: {}",
                if listed.is_empty() { "none".to_owned() } else { listed.join(", ") }
            )?;
        }
        writeln!(f, "trace {:016x}", self.trace)?;
        if let Some((violation, history)) = &self.violation {
            writeln!(f, "VIOLATION on key {}: {}", violation.key, violation.what)?;
            write!(f, "{history}")?;
            let planted = self.bug.map(|bug| format!(" --bug {}", bug.name())).unwrap_or_default();
            writeln!(f, "replay: cargo run --release -p ferrite-sim -- --seed {}{planted}", self.seed)?;
        }
        Ok(())
    }
}
