//! A hashed timer wheel for request deadlines (Varghese and Lauck, 1987, scheme 6).
//!
//! Ending an operation does not look for its entry: it stays behind, and whoever is told of it finds the operation gone.
//! That makes starting and ending a request O(1), at the price of an entry's memory until its time. A client may name
//! deadlines of an hour, so what stays behind is bounded: the owner [prunes](Wheel::prune) when there is too much of it.

const SLOTS: usize = 1024;

/// Deadlines with a payload, at a fixed grain.
#[derive(Debug)]
pub(super) struct Wheel<T> {
    slots: Vec<Vec<(u64, T)>>,
    grain_ns: u64,
    /// The tick up to which, inclusive, all entries have been taken.
    swept: u64,
    len: usize,
}

impl<T> Wheel<T> {
    /// A wheel whose entries come at most `grain_ns` late.
    pub(super) fn new(now_ns: u64, grain_ns: u64) -> Self {
        Wheel { slots: (0..SLOTS).map(|_| Vec::new()).collect(), grain_ns, swept: now_ns / grain_ns, len: 0 }
    }

    /// Adds an entry.
    pub(super) fn add(&mut self, at_ns: u64, payload: T) {
        let tick = (at_ns / self.grain_ns).max(self.swept) + 1;
        self.slots[tick as usize % SLOTS].push((tick, payload));
        self.len += 1;
    }

    /// How many entries there are, of ended operations too.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Removes the entries that nobody waits for any more.
    pub(super) fn prune(&mut self, is_alive: impl Fn(&T) -> bool) {
        for slot in &mut self.slots {
            slot.retain(|(_, payload)| is_alive(payload));
        }
        self.len = self.slots.iter().map(Vec::len).sum();
    }

    /// When [`Wheel::take_due`] is worth calling next: the next tick while there are entries.
    pub(super) fn next(&self) -> Option<u64> {
        (self.len > 0).then(|| (self.swept + 1) * self.grain_ns)
    }

    /// Moves every entry that is due to `due`.
    pub(super) fn take_due(&mut self, now_ns: u64, due: &mut Vec<T>) {
        let now = now_ns / self.grain_ns;
        if self.len == 0 {
            self.swept = self.swept.max(now);
            return;
        }
        // After a long pause one turn of the wheel visits every slot; more turns would visit them again.
        let from = self.swept + 1;
        let to = now.min(self.swept + SLOTS as u64);
        for tick in from..=to {
            let slot = &mut self.slots[tick as usize % SLOTS];
            let mut at = 0;
            while at < slot.len() {
                if slot[at].0 <= now {
                    due.push(slot.swap_remove(at).1);
                    self.len -= 1;
                } else {
                    at += 1;
                }
            }
        }
        self.swept = self.swept.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_once_and_never_early() {
        let mut wheel = Wheel::new(5_000, 10);
        let deadlines: Vec<u64> = (0..2_000).map(|i| 5_000 + i * 37 % 30_000).collect();
        deadlines.iter().for_each(|at| wheel.add(*at, *at));
        let mut seen = Vec::new();
        let mut now = 5_000;
        while let Some(next) = wheel.next() {
            now = next.max(now + 13);
            let mut due = Vec::new();
            wheel.take_due(now, &mut due);
            assert!(due.iter().all(|at| *at <= now), "early at {now}");
            seen.append(&mut due);
        }
        seen.sort_unstable();
        let mut all = deadlines;
        all.sort_unstable();
        assert_eq!(seen, all);
    }

    #[test]
    fn pruning_keeps_the_living_and_their_time() {
        let mut wheel = Wheel::new(0, 10);
        (0..1_000).for_each(|i| wheel.add(i * 100, i));
        wheel.prune(|i| i % 10 == 0);
        assert_eq!(wheel.len(), 100);
        let mut due = Vec::new();
        wheel.take_due(50_000, &mut due);
        due.sort_unstable();
        assert_eq!(due, (0..500).step_by(10).collect::<Vec<u64>>());
        assert_eq!(wheel.len(), 50);
    }

    #[test]
    fn a_long_pause_loses_nothing() {
        let mut wheel = Wheel::new(0, 10);
        (0..100).for_each(|i| wheel.add(i * 10_000, i));
        let mut due = Vec::new();
        wheel.take_due(10_000_000, &mut due);
        assert_eq!(due.len(), 100);
        assert_eq!(wheel.next(), None);
    }
}
