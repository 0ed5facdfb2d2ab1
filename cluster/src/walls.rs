//! Whether this node's wall clock is ahead of most others', or behind them, by what the others answered.
//!
//! A wall clock that is ahead mints versions that nobody can beat before their time has come. Which of two clocks is wrong nobody can say;
//! of three, the two that agree are believed. So a node compares, and while it is ahead of most it mints nothing ([`Clock`](crate::Clock) has
//! the whole of the rule).
//!
//! *Measuring.* A question is asked, a handshake or a ping, and the answer tells the other's wall clock. That was read after the question had left, however
//! long either of them took: so `told - asked` is the most by which that clock is ahead of this process's own time, which is never set. A late answer makes the
//! other look ahead of what it is; delay alone never makes this node think that it is ahead itself. Its own wall clock is read when somebody
//! wants to know: one that jumps is found at the very next write, not at the next answer.
//!
//! *Behind.* By the same measure `told - heard` is the least by which the other's clock is ahead, and delay makes it less. A node that is behind most others by
//! more than is tolerated would mint below what these have written, which nobody refuses: by their clocks that is no time from afar. It mints nothing either.
//!
//! Rejected: wall clocks in the reports that gossip passes on. Their age is not known, and any age makes others look as if they were behind.
//!
//! *Judging.* This node is ahead by what it is ahead of the last one of a majority of the known nodes, itself included:
//!
//! | known, with itself | behind it are |
//! |---|---|
//! | 1, 2 | never enough: alone and in twos a node goes on, whatever the other's clock says |
//! | 3 | both others |
//! | 4, 5 | three others |
//!
//! Known are those that have answered within [`COUNTS_MS`]: who has been away for longer may have been set meanwhile.
//!
//! Times are as exact as the host reads them: one that reads its clocks once a turn may be off by a turn.

use ferrite_wire::NodeId;

/// How long an answer counts, in milliseconds.
pub const COUNTS_MS: u64 = 60_000;

/// The latest answer of a node.
#[derive(Clone, Copy, Debug)]
struct Told {
    node: NodeId,
    /// Its wall clock less this process's time, at most, in milliseconds.
    ahead_ms: i64,
    /// The same at least.
    least_ms: i64,
    /// When the answer came, in this process's time.
    at_ms: u64,
}

/// What other nodes have answered.
#[derive(Clone, Debug, Default)]
pub struct Walls {
    /// By node, ascending: no more than a cluster has.
    told: Vec<Told>,
    /// The last wall clock of those that make a majority when they are behind, less this process's time, in milliseconds.
    most_ms: Option<i64>,
    /// The first wall clock of those that make a majority when they are ahead, less this process's time, in milliseconds.
    least_ms: Option<i64>,
}

impl Walls {
    /// A node has answered that its wall clock shows `wall_ms`; the question left at `asked_ms`, and it is `now_ms`, by this process's time.
    pub fn tell(&mut self, now_ms: u64, node: NodeId, asked_ms: u64, wall_ms: u64) {
        let (ahead_ms, least_ms) = (difference_ms(wall_ms, asked_ms), difference_ms(wall_ms, now_ms));
        let told = Told { node, ahead_ms, least_ms, at_ms: now_ms };
        match self.told.binary_search_by_key(&node, |told| told.node) {
            Ok(at) => self.told[at] = told,
            Err(at) => self.told.insert(at, told),
        }
        self.forget(now_ms);
    }

    /// Forgets what does not count any more.
    pub fn forget(&mut self, now_ms: u64) {
        self.told.retain(|told| now_ms.saturating_sub(told.at_ms) <= COUNTS_MS);
        let mut ahead: Vec<i64> = self.told.iter().map(|told| told.ahead_ms).collect();
        ahead.sort_unstable();
        // So many others are more than half of all, this node included.
        let majority = ahead.len().div_ceil(2) + 1;
        self.most_ms = ahead.get(majority - 1).copied();
        let mut least: Vec<i64> = self.told.iter().map(|told| told.least_ms).collect();
        least.sort_unstable_by(|one, other| other.cmp(one));
        self.least_ms = least.get(majority - 1).copied();
    }

    /// How many others are known.
    pub fn others(&self) -> usize {
        self.told.len()
    }

    /// Whether there are enough of them to judge.
    pub fn can_judge(&self) -> bool {
        self.most_ms.is_some()
    }

    /// How many others' wall clocks are within so many milliseconds of this node's, as far as can be told.
    pub fn in_step(&self, now_ms: u64, wall_ms: u64, drift_max_ms: u64) -> usize {
        let own_ms = difference_ms(wall_ms, now_ms);
        let drift_ms = i64::try_from(drift_max_ms).unwrap_or(i64::MAX);
        let is_in_step = |told: &&Told| {
            own_ms.saturating_sub(told.ahead_ms) <= drift_ms
                && told.least_ms.saturating_sub(own_ms) <= drift_ms
        };
        self.told.iter().filter(is_in_step).count()
    }

    /// By how much this node's wall clock is ahead of most others', in milliseconds. 0 = it is not, or nobody can tell.
    pub fn ahead_ms(&self, now_ms: u64, wall_ms: u64) -> u64 {
        let ahead_ms =
            self.most_ms.map_or(0, |most_ms| difference_ms(wall_ms, now_ms).saturating_sub(most_ms));
        u64::try_from(ahead_ms).unwrap_or(0)
    }

    /// By how much this node's wall clock is behind most others', in milliseconds. 0 = it is not, or nobody can tell.
    pub fn behind_ms(&self, now_ms: u64, wall_ms: u64) -> u64 {
        let behind_ms =
            self.least_ms.map_or(0, |least_ms| least_ms.saturating_sub(difference_ms(wall_ms, now_ms)));
        u64::try_from(behind_ms).unwrap_or(0)
    }
}

fn difference_ms(wall_ms: u64, time_ms: u64) -> i64 {
    i64::try_from(wall_ms).unwrap_or(i64::MAX).saturating_sub_unsigned(time_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: u64 = 1_700_000_000_000;
    const HOUR_MS: i64 = 3_600_000;

    /// At 1,000 of this process's time, with a wall clock at [`T`]: the others are ahead by so much, and answered at once.
    fn walls(others_ahead_ms: &[i64]) -> Walls {
        let mut walls = Walls::default();
        for (at, ahead_ms) in others_ahead_ms.iter().enumerate() {
            walls.tell(1_000, NodeId(at as u16 + 2), 1_000, T.saturating_add_signed(*ahead_ms));
        }
        walls
    }

    #[test]
    fn ahead_is_who_is_ahead_of_most() {
        for (others_ahead_ms, expected_ms) in [
            (&[][..], 0),
            (&[-HOUR_MS], 0),
            (&[-HOUR_MS, -700], 700),
            (&[-HOUR_MS, 0], 0),
            (&[-HOUR_MS, 700], 0),
            (&[HOUR_MS, HOUR_MS], 0),
            (&[-HOUR_MS, -HOUR_MS, 0], 0),
            (&[-HOUR_MS, -HOUR_MS, -600], 600),
            (&[-HOUR_MS, 0, -HOUR_MS, -600], 600),
            (&[-HOUR_MS, 0, -HOUR_MS, HOUR_MS], 0),
        ] {
            let walls = walls(others_ahead_ms);
            assert_eq!(walls.ahead_ms(1_000, T), expected_ms, "{others_ahead_ms:?}");
            assert_eq!(walls.can_judge(), others_ahead_ms.len() >= 2);
        }
    }

    #[test]
    fn behind_is_who_is_behind_most() {
        for (others_ahead_ms, expected_ms) in [
            (&[][..], 0),
            (&[HOUR_MS], 0),
            (&[HOUR_MS, 700], 700),
            (&[HOUR_MS, 0], 0),
            (&[-HOUR_MS, -HOUR_MS], 0),
            (&[HOUR_MS, HOUR_MS, 0], 0),
            (&[HOUR_MS, HOUR_MS, 600], 600),
        ] {
            assert_eq!(walls(others_ahead_ms).behind_ms(1_000, T), expected_ms, "{others_ahead_ms:?}");
        }
        let mut late = Walls::default();
        for node in [2, 3] {
            // In step, read at once, and heard after 4 s.
            late.tell(5_000, NodeId(node), 1_000, T);
        }
        assert_eq!(late.behind_ms(5_000, T + 4_000), 0, "delay makes nobody look behind");
        assert_eq!(late.behind_ms(5_000, T - 1_000), 1_000, "but who is is seen");
    }

    #[test]
    fn in_step_is_who_may_be_within_the_drift() {
        let in_step = |others_ahead_ms: &[i64]| walls(others_ahead_ms).in_step(1_000, T, 500);
        assert_eq!(in_step(&[]), 0);
        assert_eq!(in_step(&[500, -500, 501, -501, HOUR_MS]), 2);
        let mut late = Walls::default();
        // Asked at 1,000, heard at 3,000: read at some time between.
        late.tell(3_000, NodeId(2), 1_000, T + 1_000);
        let at = |wall_ms| late.in_step(3_000, wall_ms, 500);
        assert_eq!([T + 499, T + 500, T + 3_500, T + 3_501].map(at), [0, 1, 1, 0]);
    }

    #[test]
    fn of_three_the_one_that_is_ahead_is_found_and_the_others_go_on() {
        let clocks = [0, 0, HOUR_MS];
        let ahead = |of: usize| {
            let others: Vec<i64> =
                (0..3).filter(|other| *other != of).map(|other| clocks[other] - clocks[of]).collect();
            walls(&others).ahead_ms(1_000, T)
        };
        assert_eq!([ahead(0), ahead(1), ahead(2)], [0, 0, HOUR_MS as u64]);
    }

    #[test]
    fn late_answers_make_nobody_look_ahead_and_a_jump_is_found_without_another_answer() {
        let mut walls = Walls::default();
        for node in [2, 3] {
            // Asked at 1,000, answered 300 ms later, heard after another 4 s.
            walls.tell(5_300, NodeId(node), 1_000, T + 300);
        }
        assert_eq!(walls.ahead_ms(5_300, T + 4_300), 0);
        assert_eq!(
            walls.ahead_ms(5_301, T + 4_301 + 60_000),
            59_700,
            "less what the question may have taken"
        );
        assert_eq!(walls.ahead_ms(9_000, T + 8_000), 0, "set back");
    }

    #[test]
    fn old_answers_do_not_count_and_newer_ones_replace_them() {
        let mut walls = walls(&[-HOUR_MS, -HOUR_MS]);
        walls.tell(2_000, NodeId(3), 2_000, T + 1_000);
        assert_eq!((walls.others(), walls.ahead_ms(2_000, T + 1_000)), (2, 0));
        walls.tell(2_000, NodeId(3), 2_000, T + 1_000 - 900);
        assert_eq!(walls.ahead_ms(2_000, T + 1_000), 900);
        walls.forget(1_000 + COUNTS_MS);
        assert_eq!(walls.others(), 2);
        walls.forget(1_001 + COUNTS_MS);
        assert_eq!(
            (walls.others(), walls.ahead_ms(2_000, T + 1_000)),
            (1, 0),
            "the first has been away for too long"
        );
    }
}
