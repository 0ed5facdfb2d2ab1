//! Whether an idle core looks a little longer before it blocks.
//!
//! Blocking and being woken costs more than half of a lone client's round trip; spinning hides it but burns the core. So a
//! core spins for a short while, and each time that was in vain it skips more of the next idle moments, until an answer to
//! blocking comes so fast that spinning would have caught it.

/// Most idle moments skipped in a row.
const SKIPS_MAX: u32 = 255;

/// The spinning habit of a core.
#[derive(Debug)]
pub(super) struct Spin {
    limit_ns: u64,
    skips: u32,
    skips_next: u32,
}

impl Spin {
    /// Spins up to `limit_ns` at a time; 0 turns it off.
    pub(super) fn new(limit_ns: u64) -> Spin {
        Spin { limit_ns, skips: 0, skips_next: 0 }
    }

    /// How long to spin in this idle moment, in nanoseconds.
    pub(super) fn budget_ns(&mut self) -> u64 {
        if self.skips > 0 {
            self.skips -= 1;
            return 0;
        }
        self.limit_ns
    }

    /// Spinning has ended; `hit` if something came.
    pub(super) fn spun(&mut self, hit: bool) {
        if hit {
            self.skips_next = 0;
        } else {
            self.skips_next = (self.skips_next * 2 + 1).min(SKIPS_MAX);
            self.skips = self.skips_next;
        }
    }

    /// Blocking without spinning took so long.
    pub(super) fn blocked(&mut self, elapsed_ns: u64) {
        if elapsed_ns < self.limit_ns {
            self.skips = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vain_spinning_becomes_rare_and_a_fast_answer_brings_it_back() {
        let mut spin = Spin::new(50_000);
        let mut spun = 0;
        for _ in 0..1000 {
            if spin.budget_ns() > 0 {
                spun += 1;
                spin.spun(false);
            }
        }
        assert!(spun < 15, "{spun} of 1000 idle moments were spun in vain");
        spin.blocked(20_000);
        assert_eq!(spin.budget_ns(), 50_000);
        spin.spun(true);
        assert_eq!(spin.budget_ns(), 50_000, "a hit forgives");
    }

    #[test]
    fn zero_turns_it_off() {
        let mut spin = Spin::new(0);
        assert_eq!(spin.budget_ns(), 0);
        spin.blocked(0);
        assert_eq!(spin.budget_ns(), 0);
    }
}
