//! What a run showed, for people and for tests.

use std::collections::BTreeMap;
use std::fmt;

use ferrite_node::HintCounts;
use ferrite_promises::Violation;

use crate::bug::Bug;

/// What a run showed.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// The bug that was planted.
    pub bug: Option<Bug>,
    /// Hash of everything that happened.
    pub trace: u64,
    /// How many events that were.
    pub events: u64,
    /// Virtual time, in nanoseconds.
    pub virtual_ns: u64,
    /// Writes acknowledged, not applied, in doubt.
    pub writes: (u64, u64, u64),
    /// Reads that were judged.
    pub reads: u64,
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Errors that clients were answered, by code.
    pub errors: BTreeMap<&'static str, u64>,
    /// What clients met, by kind.
    pub met: BTreeMap<&'static str, u64>,
    /// What nodes did with hints.
    pub hints: HintCounts,
    /// Paths of the server that were taken, by name.
    pub marks: BTreeMap<&'static str, u64>,
    /// The first broken promise, with the key's history.
    pub violation: Option<(Violation, String)>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (acknowledged, refused, doubtful) = self.writes;
        writeln!(
            f,
            "seed {}: {} ms simulated, {} events",
            self.seed,
            self.virtual_ns / 1_000_000,
            self.events
        )?;
        writeln!(
            f,
            "  writes: {acknowledged} acknowledged, {refused} not applied, {doubtful} in doubt; {} reads judged",
            self.reads
        )?;
        let HintCounts { made, delivered, unreadable, dropped } = &self.hints;
        writeln!(f, "  hints: {made} made, {delivered} delivered, {unreadable} times passed over")?;
        let counted = [
            ("hints dropped", dropped),
            ("clients met", &self.met),
            ("faults", &self.faults),
            ("errors", &self.errors),
            ("marks", &self.marks),
        ];
        for (title, counts) in counted {
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
