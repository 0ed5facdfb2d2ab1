//! Up to where everything has been acknowledged, while outcomes come in any order.

use std::collections::VecDeque;

use super::lines::Place;

/// Records under way, by the order in which they were taken.
///
/// Invariant: every record that ends at or before [`Watermark::safe`] is acknowledged, or was passed over as no record.
/// The mark never moves past a write that failed, so that a resumed import tries it again.
pub(crate) struct Watermark {
    safe: Place,
    /// Records that are not behind the mark yet; the first is number `first`. None behind one that failed.
    waiting: VecDeque<Waiting>,
    first: u64,
    has_failed: bool,
}

struct Waiting {
    end: Place,
    is_done: bool,
}

impl Watermark {
    /// Begins at a place in front of which nothing is left to do.
    pub(crate) fn new(safe: Place) -> Watermark {
        Watermark { safe, waiting: VecDeque::new(), first: 0, has_failed: false }
    }

    /// Everything in front of it is acknowledged.
    pub(crate) fn safe(&self) -> Place {
        self.safe
    }

    /// A record was taken; they are numbered from 0.
    pub(crate) fn take(&mut self, end: Place) {
        if !self.has_failed {
            self.waiting.push_back(Waiting { end, is_done: false });
        }
    }

    /// Something that is no record was passed over.
    pub(crate) fn pass(&mut self, end: Place) {
        match self.waiting.back_mut() {
            _ if self.has_failed => {}
            Some(last) => last.end = end,
            None => self.safe = end,
        }
    }

    /// A record was acknowledged.
    pub(crate) fn done(&mut self, number: u64) {
        if let Some(waiting) = self.waiting.get_mut((number - self.first) as usize) {
            waiting.is_done = true;
        }
        while let Some(Waiting { end, is_done: true }) = self.waiting.front() {
            self.safe = *end;
            self.first += 1;
            self.waiting.pop_front();
        }
    }

    /// A record was not acknowledged: what comes behind it is no longer of interest.
    pub(crate) fn failed(&mut self, number: u64) {
        self.has_failed = true;
        self.waiting.truncate((number - self.first) as usize);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place(lines: u64) -> Place {
        Place { bytes: 10 * lines, lines }
    }

    #[test]
    fn lines_that_are_no_records_belong_to_the_record_before() {
        let mut mark = Watermark::new(place(0));
        mark.pass(place(1));
        assert_eq!(mark.safe(), place(1), "nothing is under way");
        mark.take(place(2));
        mark.pass(place(3));
        assert_eq!(mark.safe(), place(1));
        mark.done(0);
        assert_eq!(mark.safe(), place(3));
        mark.take(place(4));
        mark.failed(1);
        mark.pass(place(5));
        assert_eq!(mark.safe(), place(3), "the failed record comes next time");
    }

    proptest! {
        /// Against the plain statement: the mark stands in front of the first record that is not acknowledged.
        #[test]
        fn the_mark_stands_before_the_first_that_is_missing(
            outcomes in prop::collection::vec((any::<u32>(), prop::bool::weighted(0.95)), 1..60),
        ) {
            let mut order: Vec<usize> = (0..outcomes.len()).collect();
            order.sort_by_key(|at| outcomes[*at].0);
            let mut mark = Watermark::new(place(0));
            (0..outcomes.len() as u64).for_each(|number| mark.take(place(number + 1)));
            let mut done = vec![false; outcomes.len()];
            for at in order {
                if outcomes[at].1 {
                    done[at] = true;
                    mark.done(at as u64);
                } else {
                    mark.failed(at as u64);
                }
                let missing = done.iter().position(|done| !done).unwrap_or(done.len());
                prop_assert_eq!(mark.safe(), place(missing as u64));
            }
        }
    }
}
