//! What the load consists of: the standard mixes, and passes over every record.

use crate::chooser::{Chooser, Rng};

/// The mix of operations. The letters are YCSB's core workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Workload {
    /// Half reads, half updates.
    A,
    /// 95 % reads, 5 % updates.
    B,
    /// Reads only.
    C,
    /// Updates only.
    Update,
    /// One pass that writes every record once, in order.
    Insert,
}

impl Workload {
    /// Reads in a hundred operations.
    fn reads_of_100(self) -> u64 {
        match self {
            Workload::A => 50,
            Workload::B => 95,
            Workload::C => 100,
            Workload::Update | Workload::Insert => 0,
        }
    }

    /// In words, for reports.
    pub fn describe(self) -> &'static str {
        match self {
            Workload::A => "workload A (50 % reads, 50 % updates)",
            Workload::B => "workload B (95 % reads, 5 % updates)",
            Workload::C => "workload C (reads)",
            Workload::Update => "updates",
            Workload::Insert => "inserts",
        }
    }
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
}

/// Which records belong to one thread when values are checked: those whose number leaves `thread` when divided by
/// `threads`, so that everything known of a record is known to the one thread that touches it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    pub thread: u64,
    pub threads: u64,
}

impl Share {
    /// The record of this share next to `record`; there are at least as many records as threads.
    #[inline]
    fn nearest(self, record: u64, records: u64) -> u64 {
        let near = record - record % self.threads + self.thread;
        if near < records { near } else { near - self.threads }
    }
}

/// Where one thread's operations come from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// Each record of the thread's share once, in order.
    Pass { kind: Kind, next: u64, records: u64, step: u64 },
    /// An endless mix.
    Mix { reads_of_100: u64, chooser: Chooser, records: u64, only: Option<Share> },
}

impl Source {
    pub(crate) fn pass(kind: Kind, records: u64, share: Share) -> Source {
        Source::Pass { kind, next: share.thread, records, step: share.threads }
    }

    /// The source of a workload; `checked` keeps each thread to its share of the records.
    pub(crate) fn of(
        workload: Workload,
        chooser: Chooser,
        records: u64,
        share: Share,
        checked: bool,
    ) -> Source {
        match workload {
            Workload::Insert => Source::pass(Kind::Write, records, share),
            Workload::A | Workload::B | Workload::C | Workload::Update => Source::Mix {
                reads_of_100: workload.reads_of_100(),
                chooser,
                records,
                only: checked.then_some(share),
            },
        }
    }

    /// The next operation; `None` when the pass is over.
    #[inline]
    pub(crate) fn draw(&mut self, rng: &mut Rng) -> Option<(Kind, u64)> {
        match self {
            Source::Pass { kind, next, records, step } => {
                let record = *next;
                (record < *records).then(|| {
                    *next += *step;
                    (*kind, record)
                })
            }
            Source::Mix { reads_of_100, chooser, records, only } => {
                let record = chooser.next(rng);
                let record = only.map_or(record, |share| share.nearest(record, *records));
                let kind = match *reads_of_100 {
                    100 => Kind::Read,
                    0 => Kind::Write,
                    reads => [Kind::Write, Kind::Read][usize::from(rng.below(100) < reads)],
                };
                Some((kind, record))
            }
        }
    }

    /// Operations left in a pass; `None` = no end.
    pub(crate) fn left(&self) -> Option<u64> {
        match self {
            Source::Pass { next, records, step, .. } => Some(records.saturating_sub(*next).div_ceil(*step)),
            Source::Mix { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(workload: Workload, records: u64, share: Share, checked: bool) -> Source {
        Source::of(workload, Chooser::Uniform { records }, records, share, checked)
    }

    #[test]
    fn passes_of_all_threads_reach_every_record_once() {
        let mut seen = vec![0; 1001];
        for thread in 0..4 {
            let mut pass = source(Workload::Insert, 1001, Share { thread, threads: 4 }, false);
            while let Some((kind, record)) = pass.draw(&mut Rng::new(0)) {
                assert_eq!(kind, Kind::Write);
                seen[record as usize] += 1;
            }
        }
        assert!(seen.iter().all(|count| *count == 1));
    }

    #[test]
    fn mixes_keep_their_proportions() {
        for (workload, reads) in
            [(Workload::A, 50), (Workload::B, 95), (Workload::C, 100), (Workload::Update, 0)]
        {
            let mut mix = source(workload, 10, Share { thread: 0, threads: 1 }, false);
            let mut rng = Rng::new(1);
            let drawn = (0..20_000).filter_map(|_| mix.draw(&mut rng));
            let found = drawn.filter(|(kind, _)| *kind == Kind::Read).count() as u64;
            assert!(found.abs_diff(reads * 200) < 300, "{workload:?}: {found} reads of 20000");
        }
    }

    #[test]
    fn checked_mixes_stay_within_their_share() {
        for thread in 0..3 {
            let mut mix = source(Workload::A, 10, Share { thread, threads: 3 }, true);
            let mut rng = Rng::new(2);
            for _ in 0..1000 {
                let (_, record) = mix.draw(&mut rng).expect("endless");
                assert!(record < 10 && record % 3 == thread);
            }
        }
    }
}
