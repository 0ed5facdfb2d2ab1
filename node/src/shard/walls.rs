//! Comparing this node's wall clock with the others', and what comes of it.
//!
//! Each link asks: with its hello, before it carries anything, and then with its pings. In the answers to these the header's time is the other
//! node's wall clock. What is made of it is [`Walls`](ferrite_cluster::Walls)'s; every core asks for itself, as it has its own links to every node.
//!
//! | while this node is ahead of most by more than the drift | because |
//! |---|---|
//! | it mints nothing: a write that it coordinates is refused (`clock drift`), and goes to another node | nobody could write the keys after it |
//! | a core that knows it asks no other core to mint a part of a request: that one may not know it | its client would have to be told how far ahead that may have minted |
//! | the clock's bound goes by the others' wall clocks | the next life would wait for it |
//! | so does what merges may do away with as expired | it has not expired |
//! | what readers are shown as expired goes by the others' wall clocks, also while it is behind | it would be back, or be gone too soon |
//! | it applies what others write, reads, and delivers hints | these mint nothing |
//!
//! A node that is behind most by more than the drift mints nothing either: others would take what it mints, and keep what they have.
//!
//! It goes on by itself once its wall clock is right.
//!
//! After its start a node has nothing to judge by. In a cluster of more than two it mints nothing until a majority of all members, itself included, is in
//! step, or as many have answered as it takes to judge; the first handshakes tell. Where nobody answers it waits for
//! [`judging_ns_max`](super::ShardSettings::judging_ns_max), and goes on by its own clock then: a node whose peers are all away serves what its own copies
//! are enough for. But where it is not known what it has minted before ([`super::clock_bounds`]) it waits for the others, and then begins above all
//! that it can have.

use ferrite_lsm::cover;
use ferrite_wire::{NodeId, Order, Reply};

use super::Shard;
use super::requester::Requester;
use crate::env::Env;

const MS: u64 = 1_000_000;
const SET_IT_RIGHT: &str =
    "set it right (it should be kept in step, by chrony for instance); writes go on by themselves then";

impl<E: Env> Shard<E> {
    /// Answers a peer's ping: with what this node's wall clock shows.
    pub(super) fn tell_wall(&self, requester: Requester) {
        self.answer_at(requester, &Reply::Pong, Order::from_wall_ms(self.env.wall_ms()));
    }

    /// Another node has told what its wall clock shows, in answer to a question that left at `asked_ns`.
    pub(super) fn compare_wall(&self, node: NodeId, asked_ns: Option<u64>, told: Order) {
        let Some(asked_ns) = asked_ns.filter(|_| told != Order(0)) else { return };
        let now_ms = self.env.now_ns() / MS;
        self.walls.borrow_mut().tell(now_ms, node, asked_ns / MS, told.wall_ms());
    }

    /// By how much this node's wall clock is ahead of most others', in milliseconds.
    fn wall_ahead_ms(&self) -> u64 {
        self.walls.borrow().ahead_ms(self.env.now_ns() / MS, self.env.wall_ms())
    }

    /// Whether that is more than is tolerated.
    pub(super) fn is_wall_ahead(&self) -> bool {
        self.wall_ahead_ms() > self.settings.clock_drift_max_ms
    }

    /// By how much it is behind most others', in milliseconds.
    fn wall_behind_ms(&self) -> u64 {
        self.walls.borrow().behind_ms(self.env.now_ns() / MS, self.env.wall_ms())
    }

    /// Whether it is so far ahead of most others', or behind them, that nothing may be minted by it.
    pub(super) fn is_wall_off(&self) -> bool {
        self.is_wall_ahead() || self.wall_behind_ms() > self.settings.clock_drift_max_ms
    }

    /// Whether nothing is minted yet: it is still to be found out, after the start, if the wall clock is in step with others'.
    #[inline]
    pub(super) fn is_unjudged(&self) -> bool {
        !self.is_judged.get() && !self.judge()
    }

    #[cold]
    fn judge(&self) -> bool {
        let (now_ns, wall_ms) = (self.env.now_ns(), self.env.wall_ms());
        let drift_ms = self.settings.clock_drift_max_ms;
        let members = self.settings.topology.nodes.len();
        let is_in_step = {
            let walls = self.walls.borrow();
            let in_step = 1 + walls.in_step(now_ns / MS, wall_ms, drift_ms);
            in_step > members / 2 || walls.can_judge() && !self.is_wall_off()
        };
        let is_late = now_ns >= self.opened_ns.saturating_add(self.settings.judging_ns_max);
        let is_judged = members <= 2 || is_in_step || is_late && self.is_bound_known;
        if is_judged && !self.is_bound_known {
            // An earlier life's clock was no further from the right time than this one's is, and it minted as far ahead of it.
            cover::mark("clock begun above what may have been minted");
            self.clock.borrow_mut().begin_above(Order::from_wall_ms(wall_ms.saturating_add(3 * drift_ms)));
        }
        self.is_judged.set(is_judged);
        is_judged
    }

    /// This node's wall clock, or most others' while it is ahead of those.
    pub(super) fn believed_wall_ms(&self) -> u64 {
        let ahead_ms = if self.is_wall_ahead() { self.wall_ahead_ms() } else { 0 };
        self.env.wall_ms().saturating_sub(ahead_ms)
    }

    /// The time by which records expire for readers: this node's wall clock, or most others' while it is out of step with those.
    pub(super) fn expiry_wall_ms(&self) -> u64 {
        let behind_ms = self.wall_behind_ms();
        let is_behind = behind_ms > self.settings.clock_drift_max_ms;
        self.believed_wall_ms().saturating_add(if is_behind { behind_ms } else { 0 })
    }

    /// Tells in the log when the verdict has changed.
    pub(super) fn tell_wall_ahead(&self) {
        let is_off = self.is_wall_off();
        if self.is_ahead_told.replace(is_off) == is_off {
            return;
        }
        let (core, ahead_ms, behind_ms) = (self.settings.core.0, self.wall_ahead_ms(), self.wall_behind_ms());
        let others = self.walls.borrow().others();
        if is_off {
            tracing::error!(
                core,
                ahead_ms,
                behind_ms,
                others,
                "this node's wall clock is out of step with most others': it coordinates no writes; {SET_IT_RIGHT}"
            );
        } else {
            tracing::info!(core, others, "this node's wall clock is in step with most others' again");
        }
    }

    /// The text that goes with `clock drift`.
    pub(super) fn drift_text(&self) -> &'static str {
        if self.is_wall_ahead() {
            "this node's wall clock is ahead of most others': it coordinates no writes until it is set right; ask another node"
        } else if self.is_wall_off() {
            "this node's wall clock is behind most others': it coordinates no writes until it is set right; ask another node"
        } else if self.is_unjudged() && !self.is_bound_known {
            "how far this node's clock had come cannot be read: it coordinates no writes until most other nodes have told what their wall clocks \
             show: see to it that they run; ask another node"
        } else if self.is_unjudged() {
            "this node has just started, and its wall clock was not compared with most others' yet: it coordinates no writes for a moment; ask another node"
        } else {
            "the client has seen, the key holds, or an earlier life of this node may have minted, a time too far ahead of this node's wall clock"
        }
    }

    /// Calls `line` for each line of the status.
    pub(super) fn wall_lines(&self, mut line: impl FnMut(&str, &dyn std::fmt::Display)) {
        let (ahead_ms, others) = (self.wall_ahead_ms(), self.walls.borrow().others());
        if self.is_wall_ahead() {
            line(
                "wall_clock",
                &format_args!(
                    "ahead of most of {others} others by {ahead_ms} ms: no writes are coordinated; {SET_IT_RIGHT}"
                ),
            );
        } else if self.is_wall_off() {
            let behind_ms = self.wall_behind_ms();
            line(
                "wall_clock",
                &format_args!(
                    "behind most of {others} others by {behind_ms} ms: no writes are coordinated; {SET_IT_RIGHT}"
                ),
            );
        } else if self.is_unjudged() {
            line("wall_clock", &format_args!("compared with {others} others: no writes are coordinated yet"));
        } else {
            line("wall_clock", &format_args!("not ahead of most of {others} others"));
        }
        let afar = self.afar.mark();
        let until_ms = if self.is_afar(afar) { afar.wall_ms() } else { 0 };
        line("wall_clock.records_afar_until_ms", &until_ms);
    }
}
