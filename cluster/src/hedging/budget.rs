//! How many more questions reads may ask: a token bucket that fills with the reads themselves.
//!
//! Invariant: never more were taken than a twentieth of the reads so far. It starts empty, so that this holds from the first read on.

/// For so many reads, one more question: 5 %.
pub const READS_PER_HEDGE: u32 = 20;
/// Most questions that are saved up. A replica that stops answering is met by as many reads at once, before it is known.
const SAVED_MAX: u32 = 128;

/// The bucket.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Budget {
    /// Reads that have not been spent.
    reads: u32,
}

impl Budget {
    pub(super) fn earn(&mut self) {
        self.reads = (self.reads + 1).min(SAVED_MAX * READS_PER_HEDGE);
    }

    pub(super) fn take(&mut self) -> bool {
        let left = self.reads.checked_sub(READS_PER_HEDGE);
        self.reads = left.unwrap_or(self.reads);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_more_than_a_twentieth_is_ever_taken(turns in prop::collection::vec(0u8..40, 0..4_000)) {
            let (mut budget, mut reads, mut taken) = (Budget::default(), 0u32, 0u32);
            for turn in turns {
                match turn {
                    0..30 => {
                        budget.earn();
                        reads += 1;
                    }
                    _ => taken += u32::from(budget.take()),
                }
                prop_assert!(taken * READS_PER_HEDGE <= reads, "{taken} of {reads}");
            }
        }
    }

    #[test]
    fn what_is_saved_is_bounded() {
        let mut budget = Budget::default();
        (0..1_000_000).for_each(|_| budget.earn());
        assert_eq!((0..10_000).filter(|_| budget.take()).count() as u32, SAVED_MAX);
    }
}
