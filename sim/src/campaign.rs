//! Many runs, on as many threads as are wanted, and what they showed together.
//!
//! Each run is on one thread from its beginning to its end, so what it does does not depend on how many there are, nor on which others ran.

use std::fmt;
use std::sync::Mutex;

use crate::counts::Counts;
use crate::report::Report;
use crate::scenario::Run;

/// Every mark that the code under test has.
pub const MARKS: &[&str] = include!(concat!(env!("OUT_DIR"), "/marks.rs"));
/// Most reports of failed runs that are kept.
const FAILURES_MAX: usize = 20;

/// What runs showed together.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// How many there were.
    pub runs: u64,
    /// How many of them broke a promise.
    pub failed: u64,
    /// What they met.
    pub counts: Counts,
    /// Reports of the first runs that failed.
    pub failures: Vec<Report>,
}

impl Tally {
    /// Adds a run.
    pub fn add(&mut self, report: Report) {
        self.runs += 1;
        self.counts.add(&report.counts);
        if report.violation.is_some() {
            self.failed += 1;
            if self.failures.len() < FAILURES_MAX {
                self.failures.push(report);
            }
        }
    }

    /// Marks of the code under test that no run has reached.
    pub fn marks_missed(&self) -> Vec<&'static str> {
        MARKS.iter().copied().filter(|name| !self.counts.marks.contains_key(name)).collect()
    }

    /// One line.
    pub fn summary(&self) -> String {
        let Tally {
            runs, failed, counts: Counts { virtual_ns, writes: (acknowledged, ..), reads, .. }, ..
        } = self;
        let seconds = virtual_ns / 1_000_000_000;
        format!(
            "{runs} runs, {seconds} s simulated, {acknowledged} writes acknowledged, {reads} reads judged, {failed} failed"
        )
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.summary())?;
        write!(f, "{}", self.counts)?;
        for (title, counts) in self.counts.by_name() {
            writeln!(f, "  {title}:")?;
            for (name, count) in counts {
                writeln!(f, "    {count:>12}  {name}")?;
            }
        }
        writeln!(f, "  marks never hit:")?;
        self.marks_missed().into_iter().try_for_each(|name| writeln!(f, "                  {name}"))
    }
}

/// Makes runs on `threads` threads until there are none left or `ended` says so, which is asked before each; `told` hears of each run when it
/// has ended, with the tally so far.
pub fn run_all(
    runs: impl Iterator<Item = Run> + Send,
    threads: usize,
    ended: impl Fn() -> bool + Sync,
    told: impl FnMut(&Report, &Tally) + Send,
) -> Tally {
    let (runs, shared) = (Mutex::new(runs), Mutex::new((Tally::default(), told)));
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while !ended() {
                    let next = runs.lock().expect("no holder panics").next();
                    let Some(run) = next else { break };
                    let report = run.go();
                    let (tally, told) = &mut *shared.lock().expect("no holder panics");
                    tally.add(report.clone());
                    told(&report, tally);
                }
            });
        }
    });
    shared.into_inner().expect("all holders have ended").0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_found_in_the_sources() {
        let missed = Tally::default().marks_missed();
        // The last one stands in a choice between two.
        for name in ["core fenced", "write in doubt", "nothing minted while the wall clock is behind"] {
            assert!(missed.contains(&name), "{name:?} is not among {missed:?}");
        }
    }

    #[test]
    fn the_same_runs_on_more_threads_add_up_to_the_same() {
        let runs = || (1..5).map(|seed| Run::new(seed, None));
        let tally = |threads| run_all(runs(), threads, || false, |_, _| ());
        let (one, three) = (tally(1), tally(3));
        assert_eq!((one.runs, one.counts), (4, three.counts));
    }
}
