//! When a read asks one replica more than it needs, and which replicas it asks last.
//!
//! A read waits for the slowest of those it has asked. So when one of them has not answered for longer than nearly all answers take, another is
//! asked as well, and whichever comes first counts (Dean and Barroso, "The Tail at Scale", 2013). Three things keep that from
//! becoming load of its own:
//!
//! | part | what it decides | from what |
//! |---|---|---|
//! | [`Latencies`] | after how long | a high quantile of the recent answers |
//! | `Budget` | whether at all | one more for every twenty reads, never beyond |
//! | `Laggards` | who is asked last from the start | who was silent for that long several times in a row |
//!
//! The budget alone cannot hide a replica that is always slow: every other read may need it, and one in twenty may be doubled. Such a
//! replica is asked last until a probe finds it in time again.
//!
//! | what happens | then |
//! |---|---|
//! | a read asks others | the budget grows by a twentieth |
//! | an answer comes in time | its latency counts; its node is no laggard |
//! | an answer comes late, to a read that still waits | its latency counts |
//! | no answer within the delay | a strike against its node; another is asked if the budget has one |
//! | three strikes in a row | the node is asked last, and one read probes it after a pause |
//! | the probe is answered late or not | the pause doubles, to a bound |
//!
//! Time is an argument. What it refuses: knowing requests, or who holds what.

mod budget;
mod laggards;
mod latencies;

use ferrite_wire::NodeId;

use budget::Budget;
use laggards::Laggards;

pub use budget::READS_PER_HEDGE;
pub use latencies::Latencies;

/// What a core knows of how fast others answer.
#[derive(Clone, Debug, Default)]
pub struct Hedging {
    latencies: Latencies,
    budget: Budget,
    laggards: Laggards,
}

impl Hedging {
    /// A read asks other nodes for what it needs.
    pub fn on_read(&mut self) {
        self.budget.earn();
    }

    /// One of them is asked now.
    pub fn on_ask(&mut self, node: NodeId, now_ns: u64) {
        self.laggards.on_ask(node, now_ns);
    }

    /// How long a read waits before it asks another, in nanoseconds.
    pub fn delay_ns(&self) -> u64 {
        self.latencies.delay_ns()
    }

    /// A node has answered what it was asked first, after so long; `in_time` = before the delay was over.
    pub fn on_answer(&mut self, node: NodeId, latency_ns: u64, in_time: bool) {
        self.latencies.record(latency_ns);
        if in_time {
            self.laggards.on_time(node);
        }
    }

    /// A node has not answered within the delay.
    pub fn on_silence(&mut self, node: NodeId, now_ns: u64) {
        self.laggards.on_silence(node, now_ns);
    }

    /// Takes one more question out of the budget. False = it is spent.
    pub fn take(&mut self) -> bool {
        self.budget.take()
    }

    /// Whether a node is asked only where the others do not suffice.
    pub fn comes_last(&self, node: NodeId, now_ns: u64) -> bool {
        self.laggards.comes_last(node, now_ns)
    }

    /// How many nodes come last.
    pub fn laggards(&self) -> usize {
        self.laggards.len()
    }
}
