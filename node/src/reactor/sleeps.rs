//! Tasks that wait for a time: one heap per core, looked at once per turn.
//!
//! A sleep whose future was dropped stays in the heap until its time and then wakes nobody; sleeps are for background tasks,
//! so there are few.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::task::Waker;

struct Sleeper {
    wake_at_ns: u64,
    waker: Waker,
}

/// The sleeping tasks of a core.
#[derive(Default)]
pub(super) struct Sleeps {
    heap: BinaryHeap<Sleeper>,
}

impl Sleeps {
    pub(super) fn add(&mut self, wake_at_ns: u64, waker: Waker) {
        self.heap.push(Sleeper { wake_at_ns, waker });
    }

    /// When the next task is to be woken.
    pub(super) fn next_ns(&self) -> Option<u64> {
        self.heap.peek().map(|sleeper| sleeper.wake_at_ns)
    }

    /// A task whose time has come.
    pub(super) fn pop_due(&mut self, now_ns: u64) -> Option<Waker> {
        if self.next_ns()? > now_ns {
            return None;
        }
        self.heap.pop().map(|sleeper| sleeper.waker)
    }
}

// The heap gives its greatest first, and the earliest is wanted.
impl Ord for Sleeper {
    fn cmp(&self, other: &Sleeper) -> Ordering {
        other.wake_at_ns.cmp(&self.wake_at_ns)
    }
}

impl PartialOrd for Sleeper {
    fn partial_cmp(&self, other: &Sleeper) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Sleeper {
    fn eq(&self, other: &Sleeper) -> bool {
        self.wake_at_ns == other.wake_at_ns
    }
}

impl Eq for Sleeper {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_comes_first_and_none_too_soon() {
        let mut sleeps = Sleeps::default();
        for at in [30, 10, 20, 10] {
            sleeps.add(at, Waker::noop().clone());
        }
        assert_eq!(sleeps.next_ns(), Some(10));
        assert!(sleeps.pop_due(9).is_none());
        assert!(sleeps.pop_due(10).is_some() && sleeps.pop_due(10).is_some());
        assert!(sleeps.pop_due(10).is_none());
        assert_eq!(sleeps.next_ns(), Some(20));
    }
}
