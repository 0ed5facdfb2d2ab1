//! How long what comes in may have waited in sockets, because this core stood still: its process was stopped, or its processor taken away.
//!
//! A request says how much time it has left, and that is counted from when it is read. A core that was stopped for a minute would carry out what
//! came in the meantime as if it were new: a write whose client has long been told that its outcome is unknown, and has written something else
//! since, through another node. That would be minted last and win. So the time that a core stood still is taken off.
//!
//! It is known by the rhythm of the core's own upkeep: what should have been done every 20 ms is late by as long as the core stood still.

use std::cell::Cell;

/// Upkeep that is late by less is a long turn, in nanoseconds.
const STILL_NS_MIN: u64 = 250_000_000;
/// Upkeep that is late by so much was stopped, and adds to an earlier standstill, in nanoseconds. What is late by less may be no more than turns that are
/// long, one after the other: added up, those would have a core that is slow refuse everything.
const STOPPED_NS_MIN: u64 = 1_000_000_000;
/// For so long after that what is read may have waited, in nanoseconds: it is not all read in one turn, and the turns after it are long.
const AFTER_NS: u64 = 2_000_000_000;
/// The same of what peers have sent, which is only done for nothing if it is old: they are few, and each is read from in the first turns.
const AFTER_OF_PEERS_NS: u64 = 250_000_000;

/// The last time that the core stood still.
#[derive(Debug, Default)]
pub(super) struct Standstill {
    lasted_ns: Cell<u64>,
    until_ns: Cell<u64>,
}

impl Standstill {
    /// The upkeep that was due is done.
    pub(super) fn kept_up(&self, now_ns: u64, due_ns: u64) {
        let late_ns = now_ns.saturating_sub(due_ns);
        let before_ns = if due_ns < self.until_ns.get() { self.lasted_ns.get() } else { 0 };
        let lasted_ns = match late_ns {
            // What was left from the time before has waited for both.
            STOPPED_NS_MIN.. => before_ns + late_ns,
            STILL_NS_MIN.. if late_ns >= before_ns => late_ns,
            _ => return,
        };
        self.lasted_ns.set(lasted_ns);
        self.until_ns.set(now_ns + AFTER_NS);
    }

    /// By how much what is read now may be older than it seems, in nanoseconds; `due_ns`: when the next upkeep is, or was to be.
    pub(super) fn waited_ns(&self, now_ns: u64, due_ns: u64) -> u64 {
        let late_ns = now_ns.saturating_sub(due_ns);
        let before_ns = if due_ns.min(now_ns) < self.until_ns.get() { self.lasted_ns.get() } else { 0 };
        before_ns + if late_ns >= STILL_NS_MIN { late_ns } else { 0 }
    }

    /// The same of what has been here for so long and could not be read: it may have waited before that, if the core had just stood still.
    pub(super) fn late_ns(&self, now_ns: u64, due_ns: u64, here_ns: u64) -> u64 {
        let (came_ns, until_ns) = (now_ns.saturating_sub(here_ns), self.until_ns.get());
        let had_stood_still = came_ns < until_ns && came_ns + AFTER_NS >= until_ns;
        let before_ns = if had_stood_still { self.lasted_ns.get() } else { 0 };
        self.waited_ns(now_ns, due_ns).max(here_ns + before_ns)
    }

    /// The same of what a peer has sent.
    pub(super) fn late_from_peer_ns(&self, now_ns: u64, due_ns: u64, here_ns: u64) -> u64 {
        let stands_still = now_ns.saturating_sub(due_ns) >= STILL_NS_MIN;
        let catches_up = now_ns + AFTER_NS < self.until_ns.get() + AFTER_OF_PEERS_NS;
        if stands_still || catches_up { self.late_ns(now_ns, due_ns, here_ns) } else { here_ns }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_after_a_standstill_is_as_much_older_and_later_nothing_is() {
        let (still, due_ns) = (Standstill::default(), 1_000_000_000);
        assert_eq!(still.waited_ns(due_ns + STILL_NS_MIN - 1, due_ns), 0, "a long turn");
        let now_ns = due_ns + 3_000_000_000;
        assert_eq!(still.waited_ns(now_ns, due_ns), 3_000_000_000, "before the upkeep is made up for");
        still.kept_up(now_ns, due_ns);
        let next_ns = now_ns + 20_000_000;
        assert_eq!(still.waited_ns(now_ns + 1, next_ns), 3_000_000_000, "what the next turn reads");
        still.kept_up(next_ns, next_ns);
        assert_eq!(still.waited_ns(next_ns + 1, next_ns + 20_000_000), 3_000_000_000);
        assert_eq!(still.waited_ns(now_ns + AFTER_NS, now_ns + AFTER_NS + 20_000_000), 0);
    }

    /// The longer of the two was taken for both.
    #[test]
    fn what_could_not_be_read_after_a_standstill_waited_for_both() {
        const S: u64 = 1_000_000_000;
        let (still, due_ns) = (Standstill::default(), 10 * S);
        still.kept_up(due_ns + 3 * S, due_ns);
        let late_ns = |now_ns, here_ns| still.late_ns(now_ns, now_ns, here_ns);
        assert_eq!(late_ns(14 * S, S), 4 * S);
        assert_eq!(late_ns(19 * S, 6 * S), 9 * S, "also when it is forgotten by then");
        assert_eq!(late_ns(19 * S, 4 * S), 4 * S, "what came so long after it had not waited");
        assert_eq!(late_ns(19 * S, 7 * S), 7 * S, "nor what was here before");
        assert_eq!(late_ns(14 * S, 0), 3 * S);
        assert_eq!(still.late_ns(19 * S, 15 * S, 5 * S), 8 * S, "it stands still once more");
    }

    /// The second time was taken for all that the core had stood still, and what had waited through both was new.
    #[test]
    fn one_standstill_soon_after_another_adds_to_it() {
        let (still, due_ns) = (Standstill::default(), 1_000_000_000);
        let first_ns = due_ns + 10_000_000_000;
        still.kept_up(first_ns, due_ns);
        let (due_ns, second_ns) = (first_ns + 20_000_000, first_ns + 1_420_000_000);
        assert_eq!(still.waited_ns(second_ns, due_ns), 11_400_000_000);
        still.kept_up(second_ns, due_ns);
        assert_eq!(still.waited_ns(second_ns + 1, second_ns + 20_000_000), 11_400_000_000);
        // A long turn takes nothing off that, and makes it last no longer.
        let (due_ns, third_ns) = (second_ns + 20_000_000, second_ns + 320_000_000);
        still.kept_up(third_ns, due_ns);
        assert_eq!(still.waited_ns(third_ns + 1, third_ns + 20_000_000), 11_400_000_000);
        let over_ns = second_ns + AFTER_NS;
        assert_eq!(still.waited_ns(over_ns, over_ns + 20_000_000), 0);
    }

    /// Each long turn was added to those before it, and after ten seconds of them whatever came was refused as too old.
    #[test]
    fn long_turns_one_after_another_do_not_add_up() {
        let (still, turn_ns, upkeep_ns) = (Standstill::default(), 400_000_000, 20_000_000);
        let mut due_ns = 1_000_000_000;
        for _ in 0..1_000 {
            let now_ns = due_ns + turn_ns;
            assert!(still.waited_ns(now_ns, due_ns) <= 2 * turn_ns, "{}", still.waited_ns(now_ns, due_ns));
            still.kept_up(now_ns, due_ns);
            due_ns = now_ns + upkeep_ns;
        }
    }
}
