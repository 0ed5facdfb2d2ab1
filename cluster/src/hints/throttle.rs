//! How fast hints are delivered to one target: additive increase, multiplicative decrease.
//!
//! | what came | the window | the pause |
//! |---|---|---|
//! | as many fast acknowledgements as the window is wide | one more, up to the bound | none |
//! | a slow acknowledgement | halved, once for each window | none |
//! | a refusal, or nothing at all | halved | doubled, up to the bound |
//! | no room here to write again what was read | as it was | the shortest |
//!
//! Slow is what takes [`SLOW_FACTOR`] times as long as the target takes when it is well, and longer than the floor. How long that is, is learned: a faster
//! acknowledgement lowers it at once; slower ones raise it a little each, but only while the window is narrow, for a wide one may be what slows
//! the target down. So a target that is far away gets a wide window, too, and one that has become slower for good gets it back.

use super::HintOptions;

/// So many times what is usual is slow.
const SLOW_FACTOR: u64 = 4;
/// How much of the difference an acknowledgement that takes longer than usual adds: one in so many.
const RAISE_SHARE: u64 = 16;

/// The window of one target, and when it may be used.
#[derive(Clone, Debug)]
pub struct Throttle {
    window: u32,
    /// Fast acknowledgements since the window changed.
    fast: u32,
    /// Acknowledgements to come of what was sent before the window was halved last: they say nothing new.
    ignored: u32,
    /// How long an acknowledgement takes when the target is well; 0 = not known yet.
    usual_ns: u64,
    pause_ns: u64,
    rests_until_ns: u64,
}

/// The window that a lane begins with.
const WINDOW_FIRST: u32 = 8;

impl Throttle {
    /// A narrow window, to be used at once.
    pub fn new(options: &HintOptions) -> Throttle {
        Throttle {
            window: WINDOW_FIRST.min(options.window_max).max(1),
            fast: 0,
            ignored: 0,
            usual_ns: 0,
            pause_ns: options.pause_min_ns,
            rests_until_ns: 0,
        }
    }

    /// One like this, of which nothing is under way.
    pub(super) fn forked(&self) -> Throttle {
        Throttle { ignored: 0, fast: 0, ..self.clone() }
    }

    /// Takes over what another one of the same target has learned of how much is too much.
    pub(super) fn narrow_to(&mut self, other: &Throttle) {
        if other.window < self.window {
            (self.window, self.fast) = (other.window, 0);
        }
    }

    /// Most hints in flight, at least 1.
    pub fn window(&self) -> u32 {
        self.window
    }

    /// Whether nothing may be sent at this moment.
    pub fn rests(&self, now_ns: u64) -> bool {
        now_ns < self.rests_until_ns
    }

    /// An acknowledgement came after `latency_ns`, while `in_flight` others are under way.
    pub fn acked(&mut self, options: &HintOptions, latency_ns: u64, in_flight: u32) {
        self.pause_ns = options.pause_min_ns;
        if self.ignored > 0 {
            self.ignored -= 1;
            return;
        }
        self.learn(latency_ns);
        if latency_ns > self.slow_ns(options) {
            self.halve();
            self.ignored = in_flight;
        } else {
            self.fast += 1;
            if self.fast >= self.window {
                self.fast = 0;
                self.window = (self.window + 1).min(options.window_max.max(1));
            }
        }
    }

    fn slow_ns(&self, options: &HintOptions) -> u64 {
        options.latency_floor_ns.max(self.usual_ns.saturating_mul(SLOW_FACTOR))
    }

    fn learn(&mut self, latency_ns: u64) {
        if self.usual_ns == 0 || latency_ns < self.usual_ns {
            self.usual_ns = latency_ns.max(1);
        } else if self.window <= WINDOW_FIRST {
            self.usual_ns += (latency_ns - self.usual_ns) / RAISE_SHARE;
        }
    }

    /// The target refused, or is gone: everything in flight counts as not sent.
    pub fn failed(&mut self, options: &HintOptions, now_ns: u64) {
        self.halve();
        self.ignored = 0;
        self.rests_until_ns = now_ns + self.pause_ns;
        self.pause_ns = (self.pause_ns * 2).min(options.pause_max_ns);
    }

    /// What was read has no place to go at this moment, which says nothing of the target: the shortest pause, and as much as before after it.
    pub(super) fn rest(&mut self, options: &HintOptions, now_ns: u64) {
        self.rests_until_ns = self.rests_until_ns.max(now_ns + options.pause_min_ns);
    }

    /// The target is there again: the pauses of before say nothing of it.
    pub fn is_back(&mut self, options: &HintOptions) {
        self.pause_ns = options.pause_min_ns;
        self.rests_until_ns = 0;
    }

    fn halve(&mut self) {
        self.window = (self.window / 2).max(1);
        self.fast = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> HintOptions {
        HintOptions { window_max: 32, ..HintOptions::default() }
    }

    #[test]
    fn fast_answers_widen_it_by_one_a_window_up_to_its_bound() {
        let (options, mut throttle) = (options(), Throttle::new(&options()));
        for _ in 0..WINDOW_FIRST {
            assert_eq!(throttle.window(), WINDOW_FIRST);
            throttle.acked(&options, 1, 0);
        }
        assert_eq!(throttle.window(), WINDOW_FIRST + 1);
        (0..10_000).for_each(|_| throttle.acked(&options, 1, 0));
        assert_eq!(throttle.window(), 32);
    }

    #[test]
    fn slow_answers_halve_it_once_for_all_that_was_under_way() {
        let (options, mut throttle) = (options(), Throttle::new(&options()));
        (0..10_000).for_each(|_| throttle.acked(&options, 1, 0));
        for left in (0..32).rev() {
            throttle.acked(&options, options.latency_floor_ns + 1, left);
        }
        assert_eq!(throttle.window(), 16);
        assert!(!throttle.rests(0), "it is slow, not gone");
        (0..5).for_each(|_| throttle.acked(&options, options.latency_floor_ns + 1, 0));
        assert_eq!(throttle.window(), 1, "and never none");
    }

    /// With one bound for all, a target that is far away was always busy: its hints went one at a time.
    #[test]
    fn slow_is_measured_by_what_is_usual_for_the_target() {
        const MS: u64 = 1_000_000;
        let (options, mut throttle) = (options(), Throttle::new(&options()));
        (0..10_000).for_each(|_| throttle.acked(&options, 100 * MS, 0));
        assert_eq!(throttle.window(), 32, "a tenth of a second is how far away it is");
        throttle.acked(&options, 100 * SLOW_FACTOR * MS, 31);
        assert_eq!(throttle.window(), 32, "so much more is nothing yet");
        throttle.acked(&options, 100 * SLOW_FACTOR * MS + 1, 31);
        assert_eq!(throttle.window(), 16);
        // A window that slows the target down does not make that usual.
        let mut throttle = Throttle::new(&options);
        (0..10_000).for_each(|_| throttle.acked(&options, 10 * MS, 0));
        for latency_ms in 10..40 {
            (0..32).for_each(|_| throttle.acked(&options, latency_ms * MS, 0));
        }
        assert_eq!(throttle.window(), 32);
        throttle.acked(&options, 40 * MS + 1, 31);
        assert_eq!(throttle.window(), 16);
    }

    #[test]
    fn a_target_that_has_become_slower_for_good_gets_its_window_back() {
        const MS: u64 = 1_000_000;
        let (options, mut throttle) = (options(), Throttle::new(&options()));
        (0..10_000).for_each(|_| throttle.acked(&options, MS, 0));
        (0..5).for_each(|_| throttle.acked(&options, 200 * MS, 0));
        assert_eq!(throttle.window(), 1);
        (0..1_000).for_each(|_| throttle.acked(&options, 200 * MS, 0));
        assert!(throttle.window() > WINDOW_FIRST, "{}", throttle.window());
    }

    #[test]
    fn refusals_pause_it_longer_each_time_and_an_answer_ends_that() {
        let (options, mut throttle) = (options(), Throttle::new(&options()));
        let mut now_ns = 5;
        for doubled in [1, 2, 4, 8] {
            throttle.failed(&options, now_ns);
            let pause_ns = options.pause_min_ns * doubled;
            assert!(throttle.rests(now_ns + pause_ns - 1) && !throttle.rests(now_ns + pause_ns));
            now_ns += pause_ns;
        }
        assert_eq!(throttle.window(), 1);
        (0..20).for_each(|_| throttle.failed(&options, now_ns));
        assert!(!throttle.rests(now_ns + options.pause_max_ns));
        throttle.acked(&options, 1, 0);
        throttle.failed(&options, now_ns);
        assert!(!throttle.rests(now_ns + options.pause_min_ns));
    }
}
