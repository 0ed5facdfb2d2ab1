//! Comparing replicas behind reads that one of them answers.
//!
//! A read at ONE sees one copy, so it can find nothing to repair; where hints were dropped, or went with the node that held them, a copy would
//! stay as it is for as long as nobody reads at a higher level. So one in so many reads at ONE ([`READS_PER_COMPARISON`]) is followed by a
//! comparison of two replicas, once it has been answered: this node's own if it has one, and any of the others. What one of them lacks is written to
//! it as after any read below a majority ([`super::repairs`]). Nobody waits for it, and whatever becomes of it changes no answer.
//!
//! ```text
//!   a read at ONE ──(one in so many)──► answered ──► its copy │ the next other one's digest ──► equal: done
//!                                                                                           └─► differ: the repair
//! ```
//!
//! Bound: one question more to another node for so many reads, and so many comparisons of a core in flight at a time
//! ([`COMPARISONS_MAX`]), none while operations hold a quarter of what they may; what is beyond is left out, for the next read comes. They take no
//! part in what is measured of others' speed, and out of no budget of hedges. A core that stops does not wait for them.

use std::cell::Cell;
use std::rc::Rc;

use ferrite_cluster::{Candidates, Repairing, ReplicaSet};
use ferrite_lsm::cover;
use ferrite_wire::Key;

use super::reads::Plan;
use super::requester::Requester;
use super::{Route, Shard};
use crate::env::Env;

/// Of how many reads at ONE one is followed by a comparison: 1.6 % more questions to other nodes. A prime, so that of keys which are read round and round not
/// the same ones are compared each time.
pub(super) const READS_PER_COMPARISON: u32 = 61;
/// Most comparisons of a core in flight at a time.
pub(super) const COMPARISONS_MAX: usize = 8;
/// How long one takes at most, in nanoseconds.
const TIMEOUT_NS_MAX: u64 = 2_000_000_000;

/// When the next comparison is due.
#[derive(Debug, Default)]
pub(super) struct Comparisons {
    /// Reads since the last one.
    reads: Cell<u32>,
    /// Comparisons that have not ended.
    in_flight: Cell<usize>,
    /// Comparisons begun.
    pub(super) begun: Cell<u64>,
}

impl<E: Env> Shard<E> {
    /// Counts a read that `needed` of `replicas` answer. True = replicas are to be compared after it. Reads that ask several compare them anyway.
    #[inline]
    pub(super) fn is_compared_after(&self, needed: usize, replicas: usize) -> bool {
        if needed > 1 || replicas == 1 {
            return false;
        }
        let reads = self.comparisons.reads.get() + 1;
        let is_due = reads >= self.settings.reads_per_comparison;
        self.comparisons.reads.set(if is_due { 0 } else { reads });
        is_due
    }

    /// Comparisons in flight.
    pub(super) fn comparing(&self) -> usize {
        self.comparisons.in_flight.get()
    }

    /// Compares what this node, or else a replica that can be reached, has of a key with what another has. Nobody waits for it.
    pub(super) fn compare_replicas(self: &Rc<Self>, route: Route, key: &Key<'_>) {
        let comparisons = &self.comparisons;
        let has_room = comparisons.in_flight.get() < COMPARISONS_MAX
            && self.held.bytes() <= self.settings.operation_bytes_max / 4
            && self.has_room_to_coordinate();
        if self.stopping.get() || !has_room {
            return;
        }
        let reach = self.reach(route);
        let local = route.position.map(|at| at as u8).filter(|local| reach.live.contains(*local));
        let Some(one) = local.or(reach.live.first()) else { return };
        let mut others = reach.live;
        others.remove(one);
        if others.is_empty() {
            return;
        }
        let at = self.env.random() % u64::from(others.len());
        let other = others.iter().nth(at as usize).expect("so many are there");
        comparisons.in_flight.set(comparisons.in_flight.get() + 1);
        comparisons.begun.set(comparisons.begun.get() + 1);
        cover::mark("replicas compared behind a read");
        let nobody = ReplicaSet::default();
        let candidates = Candidates {
            replicas: route.replicas as u8,
            live: [one, other].into_iter().collect(),
            slow: nobody,
            absent: nobody,
            local,
        };
        let plan = Plan {
            candidates,
            needed: 2,
            repairing: Repairing::After,
            connections: reach.connections,
            nodes: self.laggards(route).0,
            is_timed: false,
        };
        let deadline_ns = self.env.now_ns() + self.settings.request_timeout_ns.min(TIMEOUT_NS_MAX);
        self.begin_read(Requester::Nobody, route, key, deadline_ns, plan, None);
    }

    /// A comparison has ended, whatever it has come to.
    pub(super) fn on_compared(&self) {
        self.comparisons.in_flight.set(self.comparisons.in_flight.get() - 1);
    }
}
