//! How an address has lately answered, and whether a call should try it after the other replicas of its key.
//!
//! ```text
//!            typical answer far above the best other's        the pause is over
//!   in turn ───────────────────────────────────────► last ──────────────────────► one call probes, the rest still try it last
//!      ▲                                               ▲                             │
//!      │                                               └──── slow: twice the pause ──┤
//!      └──────────────────────────── as fast as the others ──────────────────────────┘
//! ```
//!
//! A coordinator that is slow makes each of its answers slow, whatever the replicas behind it do, and any replica of a key may be its
//! coordinator. Slow is only what is slow beside another replica of the same key: where all are slow alike, or nothing is known of the
//! others, each keeps its turn. What is typical is the middle one of the last few answers, so that one long answer says nothing. Reads and
//! writes are told apart, for a disk that is slow to sync answers reads as ever.
//!
//! An address that owes an answer and says nothing at all has no answers to judge by: it is tried last for as long as that lasts.

use std::time::{Duration, Instant};

/// Answers that are remembered of an address.
const ANSWERS: usize = 8;
/// Answers without which nothing is typical.
const ANSWERS_MIN: usize = 3;
/// An answer faster than this is not slow, whatever others do.
const SLOW_MIN: Duration = Duration::from_millis(5);
/// So many times what another needs is slow; and so many times what is typical of itself is silence.
const SLOW_FACTOR: u32 = 4;
/// What is owed for less than this is not silence.
const SILENT_MIN: Duration = Duration::from_millis(50);
/// First pause until one call tries a slow address in its turn.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
/// Longest pause. It doubles with each probe that is slow again.
const PAUSE_MAX: Duration = Duration::from_secs(16);

/// What is told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Read,
    Write,
}

/// How an address answers calls of one class.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pace {
    /// A ring of the last answers, in microseconds.
    answers_us: [u32; ANSWERS],
    /// Answers there were, at most [`ANSWERS`].
    count: usize,
    next: usize,
    typical: Option<Duration>,
    pause: Option<Pause>,
}

#[derive(Clone, Copy, Debug)]
struct Pause {
    until: Instant,
    length: Duration,
}

impl Pace {
    /// An answer came after `took`. That of a probe stands for all before it.
    pub(crate) fn on_answer(&mut self, took: Duration, is_probe: bool) {
        let took_us = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        if is_probe {
            (self.answers_us, self.count) = ([took_us; ANSWERS], ANSWERS);
        } else {
            self.answers_us[self.next] = took_us;
            self.next = (self.next + 1) % ANSWERS;
            self.count = (self.count + 1).min(ANSWERS);
        }
        let mut sorted = self.answers_us;
        let sorted = &mut sorted[..self.count];
        sorted.sort_unstable();
        self.typical =
            (self.count >= ANSWERS_MIN).then(|| Duration::from_micros(u64::from(sorted[self.count / 2])));
    }

    /// It is slow: whether a call tries it last. If its pause is over and the call may probe, this is the probe, and until the next one all
    /// others try it last.
    pub(crate) fn rests(&mut self, now: Instant, may_probe: bool) -> bool {
        match self.pause {
            None => {
                self.pause = Some(Pause { until: now + PAUSE_FIRST, length: PAUSE_FIRST });
                true
            }
            Some(pause) if now < pause.until || !may_probe => true,
            Some(pause) => {
                let length = (pause.length * 2).min(PAUSE_MAX);
                self.pause = Some(Pause { until: now + length, length });
                false
            }
        }
    }

    /// It is not slow.
    pub(crate) fn keeps_up(&mut self) {
        self.pause = None;
    }

    pub(crate) fn typical(&self) -> Option<Duration> {
        self.typical
    }
}

/// What is known of an address when a call is about to be sent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Known {
    /// How long it takes to answer; `None` = too little is known.
    pub(crate) typical: Option<Duration>,
    /// For how long it has owed an answer and said nothing.
    pub(crate) silent: Duration,
}

impl Known {
    fn is_silent(&self) -> bool {
        self.silent > SILENT_MIN.max(self.typical.unwrap_or_default() * SLOW_FACTOR)
    }

    /// Whether it says nothing while one of these may answer.
    pub(crate) fn is_silent_beside<'k>(&self, mut others: impl Iterator<Item = &'k Known>) -> bool {
        self.is_silent() && others.any(|other| !other.is_silent())
    }

    /// Whether one of these answers so much faster that it is better to ask that one.
    pub(crate) fn is_slow_beside<'k>(&self, others: impl Iterator<Item = &'k Known>) -> bool {
        let best = others.filter(|other| !other.is_silent()).filter_map(|other| other.typical).min();
        match (self.typical, best) {
            (Some(own), Some(best)) => own > SLOW_MIN.max(best * SLOW_FACTOR),
            (None, _) | (_, None) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn known(typical: Option<u64>, silent: u64) -> Known {
        Known { typical: typical.map(ms), silent: ms(silent) }
    }

    fn paced(answers_ms: &[u64]) -> Pace {
        let mut pace = Pace::default();
        answers_ms.iter().for_each(|took| pace.on_answer(ms(*took), false));
        pace
    }

    #[test]
    fn typical_is_the_middle_of_the_last_answers() {
        assert_eq!(paced(&[1, 1]).typical(), None, "too few");
        assert_eq!(paced(&[1, 900, 1]).typical(), Some(ms(1)));
        assert_eq!(paced(&[1, 1, 1, 900, 1, 1, 900, 1]).typical(), Some(ms(1)), "long ones are rare");
        assert_eq!(paced(&[1; 100]).typical(), Some(ms(1)));
        let turned = [[1; 20], [50; 20]].concat();
        assert_eq!(paced(&turned[..22]).typical(), Some(ms(1)));
        assert_eq!(paced(&turned[..24]).typical(), Some(ms(50)), "half of those that are remembered");
        let mut pace = paced(&turned);
        pace.on_answer(ms(2), true);
        assert_eq!(pace.typical(), Some(ms(2)), "a probe stands for all before it");
    }

    #[test]
    fn slow_is_what_another_would_have_answered_sooner() {
        let slow = |own: u64, others: &[Known]| known(Some(own), 0).is_slow_beside(others.iter());
        assert!(slow(50, &[known(Some(1), 0), known(Some(60), 0)]));
        assert!(!slow(50, &[known(Some(50), 0), known(Some(60), 0)]), "all alike");
        assert!(!slow(50, &[known(Some(13), 0)]), "not by so much");
        assert!(!slow(4, &[known(Some(0), 0)]), "nobody waits for that");
        assert!(!slow(50, &[known(None, 0)]), "nothing is known of the other");
        assert!(!slow(50, &[known(Some(1), 400)]), "which says nothing at all");
        assert!(!slow(50, &[]));
    }

    #[test]
    fn silence_counts_beside_one_that_may_answer() {
        let silent = |own: Known, other: Known| own.is_silent_beside([other].iter());
        assert!(silent(known(Some(1), 51), known(None, 0)), "it may be asked for the first time");
        assert!(!silent(known(Some(1), 50), known(Some(1), 0)));
        assert!(!silent(known(Some(40), 150), known(Some(1), 0)), "it takes its time, and that is known");
        assert!(!silent(known(Some(1), 500), known(Some(1), 500)), "it may be this side that stood still");
    }

    #[test]
    fn pauses_double_while_probes_are_slow_and_end_with_one_that_is_not() {
        let (start, mut pace) = (Instant::now(), Pace::default());
        let mut probes = Vec::new();
        for passed in 0..120_000 {
            if !pace.rests(start + ms(passed), true) {
                probes.push(passed);
                assert!(pace.rests(start + ms(passed), true), "one call, and the others go on without it");
            }
        }
        assert_eq!(probes[..7], [500, 1_500, 3_500, 7_500, 15_500, 31_500, 47_500]);
        assert!(pace.rests(start + ms(1_000_000), false), "not with a call that does not measure");
        pace.keeps_up();
        assert!(pace.rests(start, true), "the first pause again");
        assert!(!pace.rests(start + PAUSE_FIRST, true));
    }
}
