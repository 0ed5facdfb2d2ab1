//! What one run or many of them met, as numbers.

use std::collections::BTreeMap;
use std::fmt;

use ferrite_node::HintCounts;

/// How often something happened, by its name.
pub type ByName = BTreeMap<&'static str, u64>;

/// What was met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Virtual time, in nanoseconds.
    pub virtual_ns: u64,
    /// Events.
    pub events: u64,
    /// Writes acknowledged, not applied, in doubt.
    pub writes: (u64, u64, u64),
    /// Reads that were judged.
    pub reads: u64,
    /// Faults by kind.
    pub faults: ByName,
    /// Errors that clients were answered, by code.
    pub errors: ByName,
    /// What clients met, by kind.
    pub met: ByName,
    /// What nodes did with hints.
    pub hints: HintCounts,
    /// Paths of the server that were taken, by name.
    pub marks: ByName,
}

impl Counts {
    /// Adds what others met.
    pub fn add(&mut self, other: &Counts) {
        let Counts { virtual_ns, events, writes, reads, faults, errors, met, hints, marks } = other;
        self.virtual_ns += virtual_ns;
        self.events += events;
        self.writes = (self.writes.0 + writes.0, self.writes.1 + writes.1, self.writes.2 + writes.2);
        self.reads += reads;
        self.hints.add(hints);
        for (sums, counts) in [
            (&mut self.faults, faults),
            (&mut self.errors, errors),
            (&mut self.met, met),
            (&mut self.marks, marks),
        ] {
            for (name, count) in counts {
                *sums.entry(*name).or_default() += count;
            }
        }
    }

    /// What is counted by name, each with its title.
    pub(crate) fn by_name(&self) -> [(&'static str, &ByName); 5] {
        [
            ("hints dropped", &self.hints.dropped),
            ("clients met", &self.met),
            ("faults", &self.faults),
            ("errors", &self.errors),
            ("marks", &self.marks),
        ]
    }
}

/// The rest of it.
impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (acknowledged, refused, doubtful) = self.writes;
        writeln!(f, "  {} ms simulated, {} events", self.virtual_ns / 1_000_000, self.events)?;
        writeln!(f, "  writes: {acknowledged} acknowledged, {refused} not applied, {doubtful} in doubt")?;
        writeln!(f, "  reads: {} judged", self.reads)?;
        let HintCounts { made, delivered, unreadable, .. } = &self.hints;
        writeln!(f, "  hints: {made} made, {delivered} delivered, {unreadable} times passed over unread")
    }
}
