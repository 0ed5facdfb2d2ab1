//! Nodes that are asked last, for they have lately been slow.
//!
//! ```text
//!             strikes in a row                 the pause is over
//!   in time ───────────────────► asked last ────────────────────► probed by one read, others still ask it last
//!      ▲                              ▲                              │
//!      │                              └──── silent: longer pause ────┤
//!      └───────────────────────── answers in time ───────────────────┘
//! ```

use ferrite_wire::NodeId;

/// Silences in a row after which a node is asked last.
const STRIKES: u32 = 3;
/// First pause until a node that is asked last is tried again, in nanoseconds.
const PAUSE_FIRST_NS: u64 = 100_000_000;
/// Longest pause, in nanoseconds.
const PAUSE_MAX_NS: u64 = 3_200_000_000;

#[derive(Clone, Copy, Debug)]
struct Laggard {
    node: NodeId,
    /// Silences since it last answered in time.
    strikes: u32,
    /// Until when it is asked last.
    until_ns: u64,
    pause_ns: u64,
    /// A read has been let through after the pause, and nothing is known of it yet.
    probing: bool,
}

/// The nodes that have been silent since they last answered in time: at most as many as there are.
#[derive(Clone, Debug, Default)]
pub(super) struct Laggards {
    all: Vec<Laggard>,
}

impl Laggards {
    pub(super) fn len(&self) -> usize {
        self.all.iter().filter(|laggard| laggard.strikes >= STRIKES).count()
    }

    pub(super) fn comes_last(&self, node: NodeId, now_ns: u64) -> bool {
        let known = self.all.iter().find(|laggard| laggard.node == node);
        known.is_some_and(|laggard| laggard.strikes >= STRIKES && now_ns < laggard.until_ns)
    }

    /// A node is asked. If its pause is over, this is the probe, and nobody else asks it until that is answered.
    pub(super) fn on_ask(&mut self, node: NodeId, now_ns: u64) {
        if let Some(laggard) = self.all.iter_mut().find(|laggard| laggard.node == node)
            && laggard.strikes >= STRIKES
            && now_ns >= laggard.until_ns
        {
            (laggard.until_ns, laggard.probing) = (now_ns + laggard.pause_ns, true);
        }
    }

    pub(super) fn on_time(&mut self, node: NodeId) {
        self.all.retain(|laggard| laggard.node != node);
    }

    pub(super) fn on_silence(&mut self, node: NodeId, now_ns: u64) {
        let Some(laggard) = self.all.iter_mut().find(|laggard| laggard.node == node) else {
            let first = Laggard { node, strikes: 1, until_ns: 0, pause_ns: PAUSE_FIRST_NS, probing: false };
            self.all.push(first);
            return;
        };
        if laggard.strikes < STRIKES {
            laggard.strikes += 1;
            laggard.until_ns = now_ns + laggard.pause_ns;
        } else if laggard.probing {
            laggard.probing = false;
            laggard.pause_ns = (laggard.pause_ns * 2).min(PAUSE_MAX_NS);
            laggard.until_ns = now_ns + laggard.pause_ns;
        }
        // Else it is the silence of a read that had asked before, and nothing new.
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(2);
    const MS: u64 = 1_000_000;

    fn struck(times: u32) -> Laggards {
        let mut laggards = Laggards::default();
        (0..times).for_each(|_| laggards.on_silence(NODE, 0));
        laggards
    }

    #[test]
    fn silences_in_a_row_make_a_laggard_and_an_answer_in_between_does_not() {
        let mut laggards = struck(STRIKES - 1);
        assert!(!laggards.comes_last(NODE, 1));
        laggards.on_time(NODE);
        laggards.on_silence(NODE, 0);
        assert!(!laggards.comes_last(NODE, 1));
        let laggards = struck(STRIKES);
        assert!(laggards.comes_last(NODE, 1) && !laggards.comes_last(NodeId(3), 1));
        assert_eq!(laggards.len(), 1);
    }

    /// All that were in flight when a node paused for a moment are silent at once: that must not keep it out for seconds.
    #[test]
    fn many_silences_at_once_are_one_pause() {
        let laggards = struck(1_000);
        assert!(laggards.comes_last(NODE, PAUSE_FIRST_NS - 1));
        assert!(!laggards.comes_last(NODE, PAUSE_FIRST_NS));
    }

    #[test]
    fn one_read_probes_and_its_silence_doubles_the_pause() {
        let mut laggards = struck(STRIKES);
        let (mut now_ns, mut probes) = (0, 0);
        while now_ns < 60_000 * MS {
            if !laggards.comes_last(NODE, now_ns) {
                laggards.on_ask(NODE, now_ns);
                assert!(laggards.comes_last(NODE, now_ns), "one read, and the others go on without it");
                probes += 1;
                laggards.on_silence(NODE, now_ns + MS);
            }
            now_ns += MS;
        }
        assert!((20..=26).contains(&probes), "{probes} probes in a minute");
        laggards.on_time(NODE);
        assert_eq!(laggards.len(), 0);
    }

    #[test]
    fn a_probe_of_which_nothing_is_heard_is_tried_again() {
        let mut laggards = struck(STRIKES);
        laggards.on_ask(NODE, PAUSE_FIRST_NS);
        assert!(laggards.comes_last(NODE, PAUSE_FIRST_NS));
        assert!(!laggards.comes_last(NODE, 2 * PAUSE_FIRST_NS));
    }
}
