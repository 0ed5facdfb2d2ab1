//! Why tables have modes, as a number: clients on both sides of partitions add to the same sets, and afterwards it is counted what is left.
//!
//! Each client adds as applications do: it gets the set, puts its own element in and puts the result, at ONE, with the context of the get.
//! What was acknowledged on either side should be there when the partition has healed. Where the last write wins, one side's writes take
//! the other's place; with siblings both stay, and whoever reads merges them.

use std::fmt;

use ferrite_wire::Mode;

use crate::scenario::Adding;

/// What became of the elements that were added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetCounts {
    /// Elements whose put was acknowledged.
    pub added: u64,
    /// Of these, while some node was cut off: through that node.
    pub added_by_minority: u64,
    /// And through the others.
    pub added_by_majority: u64,
    /// Acknowledged elements that no read of all replicas shows in the end.
    pub lost: u64,
}

impl SetCounts {
    fn add(&mut self, other: SetCounts) {
        self.added += other.added;
        self.added_by_minority += other.added_by_minority;
        self.added_by_majority += other.added_by_majority;
        self.lost += other.lost;
    }
}

/// The same seeds in both modes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetTest {
    /// How many seeds.
    pub seeds: u64,
    /// With siblings.
    pub siblings: SetCounts,
    /// Where the last write wins.
    pub lww: SetCounts,
}

impl SetTest {
    /// Runs the seeds. The error says which seed's cluster could not be read in the end.
    pub fn go(seeds: std::ops::Range<u64>) -> Result<SetTest, String> {
        let mut test = SetTest::default();
        for seed in seeds {
            test.seeds += 1;
            test.siblings.add(Adding::go(seed, Mode::Siblings)?);
            test.lww.add(Adding::go(seed, Mode::Lww)?);
        }
        Ok(test)
    }
}

impl fmt::Display for SetTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "set test over {} seeds: three nodes, one of them cut off again and again", self.seeds)?;
        writeln!(
            f,
            "  {:<10} {:>12} {:>22} {:>12} {:>8} {:>8}",
            "mode", "acknowledged", "through the cut node", "the others", "lost", "share"
        )?;
        for (mode, counts) in [("siblings", self.siblings), ("lww", self.lww)] {
            let SetCounts { added, added_by_minority, added_by_majority, lost } = counts;
            let percent = if added > 0 { 100.0 * lost as f64 / added as f64 } else { 0.0 };
            writeln!(
                f,
                "  {mode:<10} {added:>12} {added_by_minority:>22} {added_by_majority:>12} {lost:>8} {percent:>7.1}%"
            )?;
        }
        Ok(())
    }
}
