//! Until when what expires has expired for everybody: what merges may do away with.
//!
//! It is the wall clock less the drift that clocks may have. But a wall clock that is set ahead for a moment, by a time server that is wrong or a
//! machine that comes back from being suspended, must not have values deleted that expire tomorrow. So time passes here as it does for
//! a clock that is never set; a wall clock that has gone ahead of that is believed when it has stayed there for [`HELD_NS`].

/// How long a wall clock has to stay ahead, in nanoseconds.
const HELD_NS: u64 = 600_000_000_000;
/// By so much at once a clock is set ahead that is slewed, or read a moment late, in milliseconds.
const SLEWED_MS: i64 = 50;

/// See the module.
#[derive(Debug)]
pub(super) struct Passed {
    /// By how much the wall clock is ahead of the one that is never set, as far as it is believed.
    ahead_ms: i64,
    /// Since when it has been further ahead, and by how much in all when it went there.
    held: Option<(u64, i64)>,
}

impl Passed {
    /// The wall clock at the start of a process is believed.
    pub(super) fn new(now_ns: u64, wall_ms: u64) -> Passed {
        Passed { ahead_ms: ahead_ms(now_ns, wall_ms), held: None }
    }

    /// Milliseconds since the Unix epoch that have passed, less `drift_ms`.
    pub(super) fn at(&mut self, now_ns: u64, wall_ms: u64, drift_ms: u64) -> u64 {
        let ahead_ms = ahead_ms(now_ns, wall_ms);
        // One that has gone on ahead of where it is held is held anew.
        let held = self.held.filter(|(_, held_ms)| ahead_ms <= held_ms.saturating_add(SLEWED_MS));
        let is_believed = ahead_ms <= self.ahead_ms.saturating_add(SLEWED_MS)
            || held.is_some_and(|(since_ns, _)| now_ns.saturating_sub(since_ns) >= HELD_NS);
        if is_believed {
            (self.ahead_ms, self.held) = (ahead_ms, None);
        } else {
            self.held = held.or(Some((now_ns, ahead_ms)));
        }
        let passed_ms = self.ahead_ms.saturating_add_unsigned(now_ns / 1_000_000);
        u64::try_from(passed_ms).unwrap_or(0).saturating_sub(drift_ms)
    }
}

fn ahead_ms(now_ns: u64, wall_ms: u64) -> i64 {
    i64::try_from(wall_ms).unwrap_or(i64::MAX).saturating_sub_unsigned(now_ns / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: u64 = 86_400_000;
    const SECOND_NS: u64 = 1_000_000_000;

    /// A clock that was a day ahead for one look had every record purged that would have expired within that day.
    #[test]
    fn a_clock_that_jumps_ahead_and_back_lets_nothing_expire() {
        let mut passed = Passed::new(SECOND_NS, 50_000);
        assert_eq!(passed.at(2 * SECOND_NS, 51_000, 500), 50_500);
        assert_eq!(passed.at(3 * SECOND_NS, 52_000 + DAY_MS, 500), 51_500);
        assert_eq!(passed.at(4 * SECOND_NS, 53_000, 500), 52_500);
        // Another jump is held for its own time.
        assert_eq!(passed.at(4 * SECOND_NS + HELD_NS, 653_000 + DAY_MS, 500), 652_500);
    }

    #[test]
    fn a_clock_that_stays_ahead_is_believed_in_the_end() {
        let mut passed = Passed::new(0, 1_000);
        assert_eq!(passed.at(0, 1_000 + DAY_MS, 0), 1_000);
        let held_ms = HELD_NS / 1_000_000;
        assert_eq!(passed.at(HELD_NS - 1, held_ms + DAY_MS, 0), held_ms + 999);
        assert_eq!(passed.at(HELD_NS, 1_000 + held_ms + DAY_MS, 0), 1_000 + held_ms + DAY_MS);
    }

    /// A small step that was nearly held long enough had a day believed with it.
    #[test]
    fn each_jump_is_held_for_its_own_time() {
        let mut passed = Passed::new(0, 1_000);
        let at_ms = |ns: u64| 1_000 + ns / 1_000_000;
        assert_eq!(passed.at(0, at_ms(0) + 60, 0), at_ms(0));
        let nearly = HELD_NS - SECOND_NS;
        assert_eq!(passed.at(nearly, at_ms(nearly) + 60 + DAY_MS, 0), at_ms(nearly));
        assert_eq!(passed.at(HELD_NS, at_ms(HELD_NS) + 60 + DAY_MS, 0), at_ms(HELD_NS));
        let later = nearly + HELD_NS;
        assert_eq!(passed.at(later, at_ms(later) + 60 + DAY_MS, 0), at_ms(later) + 60 + DAY_MS);
    }

    #[test]
    fn a_clock_that_is_set_back_is_believed_at_once_and_one_that_is_slewed_all_the_time() {
        let mut passed = Passed::new(0, DAY_MS);
        assert_eq!(passed.at(SECOND_NS, 5_000, 500), 4_500);
        assert_eq!(passed.at(2 * SECOND_NS, 100, 500), 0, "earlier than any drift");
        let mut slewed = Passed::new(0, 1_000);
        for second in 1..100 {
            let wall_ms = 1_000 + second * 1_040;
            assert_eq!(slewed.at(second * SECOND_NS, wall_ms, 0), wall_ms);
        }
    }
}
