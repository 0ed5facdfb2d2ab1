//! Which cores of other nodes are absent: what gossip holds of them, on every core of this node. What a coordinator makes of that is said in
//! [`super::reach`].
//!
//! The first core runs the gossip (`gossip`). It tells the others who is absent, and they tell it how they are:
//!
//! | from | to | what | when |
//! |---|---|---|---|
//! | each core | the first | [`Progress`]: how often it has come round, whether it is fenced, how busy it is, which list it has | every [`PROGRESS_INTERVAL_NS`] |
//! | the first | each core | [`Absences`]: all who are absent | when the list has changed, and to a core that says it has another |
//!
//! A core that stands still says nothing, which is how it is found out. The list is short, for it holds exceptions alone, and is
//! always whole, so that one that was lost for want of room in a queue is made good by the next.
//!
//! Absent is who is down, and of those that are up a core that stands still or is fenced. Who is suspected, or was never heard of,
//! counts as present: a request will tell. Nodes that are joining are nobody's replicas, and not listed.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use ferrite_cluster::gossip::{CoreVerdict, Membership, Verdict};
use ferrite_wire::{CoreId, NodeId};

use super::Shard;
use crate::env::{Env, Hop};

/// How often a core tells how it is, in nanoseconds: several times within the time after which one counts as stalled.
pub(super) const PROGRESS_INTERVAL_NS: u64 = 250_000_000;

/// How a core is, as it says itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// How often it has come round; wraps.
    pub turns: u32,
    /// Whether a sync failed: it serves reads only.
    pub is_fenced: bool,
    /// How full its bounds are, in thousandths.
    pub load_permille: u16,
    /// Version of the list of absences that it has.
    pub seen: u64,
}

/// In what way a core is absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absence {
    /// Its node is down, or it stands still; it may be there all the same, where gossip alone fails.
    Silent,
    /// A sync failed: it serves reads only.
    Fenced,
}

/// Who is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Absences {
    /// Ascends with each change; 0 = nothing has been heard yet, and nobody is absent.
    version: u64,
    /// Nodes that are down, ascending.
    nodes: Vec<NodeId>,
    /// Cores that stand still or are fenced, of nodes that are not down, ascending.
    cores: Vec<(NodeId, CoreId, Absence)>,
}

impl Absences {
    /// What a membership holds of those that own something, as a newer list than the one before.
    fn of(membership: &Membership, owns: impl Fn(NodeId) -> bool, before: &Absences) -> Absences {
        let is_down = |node| membership.member(node).is_some_and(|member| member.verdict == Verdict::Down);
        let nodes = membership.members().map(|member| member.identity.node()).filter(|node| owns(*node));
        let (down, others): (Vec<NodeId>, Vec<NodeId>) = nodes.partition(|node| is_down(*node));
        let cores = others.into_iter().filter_map(|node| membership.member(node)).flat_map(|member| {
            let cores = member.cores.iter().enumerate();
            cores.filter_map(|(at, core)| {
                let absence = match core.verdict {
                    CoreVerdict::Live => return None,
                    CoreVerdict::Stalled => Absence::Silent,
                    CoreVerdict::Fenced => Absence::Fenced,
                };
                Some((member.identity.node(), CoreId(at as u16), absence))
            })
        });
        Absences { version: before.version + 1, nodes: down, cores: cores.collect() }
    }

    /// A list of fenced cores, newer than the first.
    #[cfg(test)]
    pub(super) fn of_cores(cores: Vec<(NodeId, CoreId)>) -> Absences {
        let cores = cores.into_iter().map(|(node, core)| (node, core, Absence::Fenced)).collect();
        Absences { version: 1, nodes: Vec::new(), cores }
    }

    /// A list of nodes that are down, newer than the first.
    #[cfg(test)]
    pub(super) fn of_nodes(nodes: Vec<NodeId>) -> Absences {
        Absences { version: 1, nodes, cores: Vec::new() }
    }

    /// In what way a core of a node, or the node as a whole where its core is not known, is absent.
    pub fn find(&self, node: NodeId, core: Option<CoreId>) -> Option<Absence> {
        if self.nodes.binary_search(&node).is_ok() {
            return Some(Absence::Silent);
        }
        let core = core?;
        let at = self.cores.binary_search_by_key(&(node, core), |(node, core, _)| (*node, *core)).ok()?;
        Some(self.cores[at].2)
    }

    /// How many nodes and single cores are absent.
    pub fn count(&self) -> usize {
        self.nodes.len() + self.cores.len()
    }
}

/// What a core knows.
#[derive(Debug, Default)]
pub(super) struct Liveness {
    absences: RefCell<Arc<Absences>>,
    turns: Cell<u32>,
    /// When the core told how it is, in nanoseconds.
    told_ns: Cell<Option<u64>>,
}

impl Liveness {
    /// The core has come round.
    pub(super) fn turn(&self) {
        self.turns.set(self.turns.get().wrapping_add(1));
    }

    pub(super) fn absences(&self) -> Arc<Absences> {
        self.absences.borrow().clone()
    }
}

impl<E: Env> Shard<E> {
    /// Whether gossip holds a core of another node to be absent: its node is down, or it stands still, or is fenced. Without a core,
    /// where it is not known yet, what counts is the node.
    #[inline]
    pub(super) fn counts_absent(&self, node: NodeId, core: Option<CoreId>) -> bool {
        self.absence(node, core).is_some()
    }

    /// The same, and in what way.
    #[inline]
    pub(super) fn absence(&self, node: NodeId, core: Option<CoreId>) -> Option<Absence> {
        self.liveness.absences.borrow().find(node, core)
    }

    /// How this core is.
    pub(super) fn progress(&self) -> Progress {
        let permille = |used: usize, max: usize| (used * 1_000 / max.max(1)).min(1_000) as u16;
        let operations =
            permille(self.operations.borrow().len() - self.debts.get(), self.settings.operations_max);
        let waiting = permille(self.waiting.borrow().bytes(), self.settings.waiting_bytes_max);
        Progress {
            turns: self.liveness.turns.get(),
            is_fenced: self.is_fenced(),
            load_permille: operations.max(waiting),
            seen: self.liveness.absences.borrow().version,
        }
    }

    /// Tells the first core how this one is, if it is time to. What finds no room is told again at the next tick.
    pub(super) fn tend_progress(&self, now_ns: u64) {
        let is_due = self.liveness.told_ns.get().is_none_or(|told| now_ns >= told + PROGRESS_INTERVAL_NS);
        if self.settings.core == CoreId(0) || !is_due {
            return;
        }
        if self.env.hop(CoreId(0), Hop::Progress(self.progress())).is_ok() {
            self.liveness.told_ns.set(Some(now_ns));
        }
    }

    /// The first core has told who is absent. Messages may overtake each other; lists do not go back.
    pub(super) fn on_absences(&self, absences: Arc<Absences>) {
        let mut held = self.liveness.absences.borrow_mut();
        if absences.version > held.version {
            *held = absences;
        }
    }

    /// On the first core: a verdict has changed. All cores are told.
    pub(super) fn spread_absences(&self, membership: &Membership) {
        let owns = |node| self.settings.topology.node(node).is_some();
        let absences = Arc::new(Absences::of(membership, owns, &self.liveness.absences.borrow()));
        *self.liveness.absences.borrow_mut() = absences;
        (1..self.settings.cores).for_each(|core| self.tell_absences(CoreId(core)));
    }

    /// On the first core: tells another one who is absent. If there is no room, it is told when it next says which list it has.
    pub(super) fn tell_absences(&self, core: CoreId) {
        self.env.hop(core, Hop::Absences(self.liveness.absences())).ok();
    }
}
