//! Marks on paths that simulated runs must reach: a fault schedule that never gets there proves nothing about them.
//!
//! Compiled to nothing unless a simulator builds with the `cover-marks` feature; counted for the calling thread.

#[cfg(feature = "cover-marks")]
mod counts {
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    thread_local! {
        static COUNTS: RefCell<BTreeMap<&'static str, u64>> = const { RefCell::new(BTreeMap::new()) };
    }

    /// This path was taken.
    pub fn mark(name: &'static str) {
        COUNTS.with_borrow_mut(|counts| *counts.entry(name).or_default() += 1);
    }

    /// Whether a path was taken on this thread since the last call of [`take`].
    pub fn was_taken(name: &str) -> bool {
        COUNTS.with_borrow(|counts| counts.contains_key(name))
    }

    /// How often each path was taken on this thread since the last call.
    pub fn take() -> BTreeMap<&'static str, u64> {
        COUNTS.take()
    }
}

#[cfg(feature = "cover-marks")]
pub use counts::{mark, take, was_taken};

/// This path was taken: nobody counts, without the `cover-marks` feature.
#[cfg(not(feature = "cover-marks"))]
#[inline(always)]
pub fn mark(_: &'static str) {}
