//! What came of a campaign, for people and for those who count.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::fault::Fault;
use crate::tally::Tally;

/// What came of the set test in rounds with a partition.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetTest {
    /// Adds acknowledged on each side.
    pub sides: [u64; 2],
    /// Adds to sets with siblings that were acknowledged, and how many of them were lost.
    pub siblings: (u64, u64),
    /// The same for sets in the table that keeps the last write.
    pub last_write: (u64, u64),
}

/// What came of a campaign.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Where the nodes stood.
    pub ground: String,
    /// What was drawn from.
    pub seed: u64,
    /// How long it took.
    pub time: Duration,
    /// How often what was done.
    pub faults: BTreeMap<Fault, u64>,
    /// Stops after which another node held the stopped one to be down before it went on.
    pub stops_noticed: u64,
    /// What could not be done here, and why.
    pub skipped: Vec<String>,
    /// Operations on registers.
    pub registers: Tally,
    /// Adds to sets.
    pub sets: Tally,
    /// Operations on carts.
    pub carts: Tally,
    /// The set test.
    pub set_test: SetTest,
    /// Everything that was wrong: none, unless the database is.
    pub violations: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { registers, carts, set_test, .. } = self;
        let all = self.registers.plus(self.sets).plus(self.carts);
        writeln!(f, "five nodes on {}, seed {}, {:.0} s", self.ground, self.seed, self.time.as_secs_f64())?;
        let faults: Vec<String> =
            self.faults.iter().map(|(fault, count)| format!("{fault} {count}")).collect();
        writeln!(f, "faults: {}", faults.join(", "))?;
        if let Some(stops) = self.faults.get(&Fault::Pause) {
            writeln!(
                f,
                "nodes that stood still until others held them to be down: {} of {stops}",
                self.stops_noticed
            )?;
        }
        for skipped in &self.skipped {
            writeln!(f, "skipped: {skipped}")?;
        }
        writeln!(
            f,
            "operations: {}; writes acknowledged {}, not applied {}, unknown {}; reads checked {}, unanswered {}",
            all.operations(),
            all.acknowledged,
            all.not_applied,
            all.unknown,
            all.reads,
            all.unread,
        )?;
        writeln!(f, "on registers: {registers}")?;
        writeln!(f, "on carts: {carts}")?;
        writeln!(
            f,
            "set test: {} and {} adds acknowledged on the two sides of partitions",
            set_test.sides[0], set_test.sides[1]
        )?;
        // What .ci/counts adds up.
        writeln!(f, "counted: faults done to real nodes {}", self.faults.values().sum::<u64>())?;
        writeln!(f, "counted: operations under them {}", all.operations())?;
        for (name, (acknowledged, lost)) in [("siblings", set_test.siblings), ("lww", set_test.last_write)] {
            writeln!(f, "  {name}: of {acknowledged} acknowledged adds {lost} lost")?;
        }
        write!(f, "violations: {}", self.violations.len())?;
        for violation in &self.violations {
            write!(f, "\n  {violation}")?;
        }
        Ok(())
    }
}
