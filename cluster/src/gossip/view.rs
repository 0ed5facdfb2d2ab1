//! What this node holds of the others: a verdict on each, since when, and what each last said of itself.

use std::collections::BTreeMap;

use ferrite_wire::{CoreId, NodeId};
use foca::{Incarnation, Member, State};

use super::{CoreDigest, Digest, Fence, Identity};

/// Whether a node lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It answers.
    Up,
    /// It did not answer somebody, and may yet object.
    Suspect,
    /// It did not object.
    Down,
}

/// Whether a core works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CoreVerdict {
    /// It comes round, and takes writes.
    Live,
    /// It has stood still for too long, though its node answers.
    Stalled,
    /// It serves reads only.
    Fenced,
}

/// A verdict on a core, and since when it is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoreView {
    /// The verdict.
    pub verdict: CoreVerdict,
    /// When it was come to, in the host's milliseconds; a core is stalled since it stands still.
    pub since_ms: u64,
}

/// What is known of a member.
#[derive(Clone, Debug)]
pub struct MemberView {
    /// Who it is, in the latest life that was heard of.
    pub identity: Identity,
    /// The verdict on it.
    pub verdict: Verdict,
    /// When that was come to, in the host's milliseconds. A new life is a new verdict.
    pub since_ms: u64,
    /// Verdicts on its cores, as many as it said it has in this life; none before it has.
    pub cores: Vec<CoreView>,
    incarnation: Incarnation,
}

impl MemberView {
    /// What is held of it, if it is addressed as `to` and has reason to object: it is suspected, or another life of it took its place.
    pub(super) fn objectionable_to(&self, to: &Identity) -> Option<Member<Identity>> {
        let is_surpassed = self.identity.generation() > to.generation();
        let state = match self.verdict {
            Verdict::Up if is_surpassed => State::Alive,
            Verdict::Suspect if is_surpassed || self.identity == *to => State::Suspect,
            Verdict::Down if is_surpassed => State::Down,
            Verdict::Up | Verdict::Suspect | Verdict::Down => return None,
        };
        Some(Member::new(self.identity, self.incarnation, state))
    }
}

/// All that is known.
#[derive(Debug)]
pub(super) struct View {
    members: BTreeMap<NodeId, MemberView>,
    /// Newest digest of each node, this one included; of some before they are members, as news travels by many ways.
    digests: BTreeMap<NodeId, Digest>,
    stall_ms: u64,
}

impl View {
    pub(super) fn new(stall_ms: u64) -> View {
        View { members: BTreeMap::new(), digests: BTreeMap::new(), stall_ms }
    }

    pub(super) fn member(&self, node: NodeId) -> Option<&MemberView> {
        self.members.get(&node)
    }

    pub(super) fn members(&self) -> impl Iterator<Item = &MemberView> {
        self.members.values()
    }

    /// The newest digest of a node, of whatever life: to be passed on.
    pub(super) fn digest(&self, node: NodeId) -> Option<&Digest> {
        self.digests.get(&node)
    }

    /// What a member said of itself in the life that is held.
    pub(super) fn digest_of_member(&self, node: NodeId) -> Option<&Digest> {
        let life = self.members.get(&node)?.identity.generation();
        self.digests.get(&node).filter(|digest| digest.generation >= life)
    }

    /// How many nodes anything is held of.
    pub(super) fn nodes(&self) -> usize {
        let only_digests = self.digests.keys().filter(|node| !self.members.contains_key(node));
        self.members.len() + only_digests.count()
    }

    pub(super) fn knows(&self, node: NodeId) -> bool {
        self.members.contains_key(&node) || self.digests.contains_key(&node)
    }

    /// Whether this is the very member, in the very state, that is held.
    pub(super) fn holds(&self, identity: &Identity, incarnation: Incarnation) -> bool {
        let held = self.members.get(&identity.node());
        held.is_some_and(|held| held.identity == *identity && held.incarnation == incarnation)
    }

    /// Whether this very member is suspect, and has not objected.
    pub(super) fn suspects(&self, identity: &Identity, incarnation: Incarnation) -> bool {
        let held = self.members.get(&identity.node());
        self.holds(identity, incarnation) && held.is_some_and(|held| held.verdict == Verdict::Suspect)
    }

    /// Takes over how foca holds a member; says whether the verdict is another than before, or on another life.
    pub(super) fn see(&mut self, now_ms: u64, member: &Member<Identity>) -> bool {
        let identity = *member.id();
        let verdict = match member.state() {
            State::Alive => Verdict::Up,
            State::Suspect => Verdict::Suspect,
            State::Down => Verdict::Down,
        };
        let incarnation = member.incarnation();
        if let Some(held) = self.members.get_mut(&identity.node())
            && held.identity == identity
        {
            held.incarnation = incarnation;
            let is_new = held.verdict != verdict;
            if is_new {
                (held.verdict, held.since_ms) = (verdict, now_ms);
            }
            return is_new;
        }
        let view = MemberView { identity, verdict, since_ms: now_ms, cores: Vec::new(), incarnation };
        self.members.insert(identity.node(), view);
        self.judge_cores(now_ms, identity.node());
        true
    }

    /// Takes a digest if it is newer than the one that is held.
    pub(super) fn learn(&mut self, now_ms: u64, digest: Digest) -> bool {
        let node = digest.node;
        if self.digests.get(&node).is_some_and(|held| !digest.is_newer_than(held)) {
            return false;
        }
        self.digests.insert(node, digest);
        self.judge_cores(now_ms, node);
        true
    }

    /// Verdicts on the cores of a member by its digest, if that is of the life that is held.
    fn judge_cores(&mut self, now_ms: u64, node: NodeId) {
        let (Some(member), Some(digest)) = (self.members.get_mut(&node), self.digests.get(&node)) else {
            return;
        };
        if digest.generation < member.identity.generation() {
            return;
        }
        let stall_ms = self.stall_ms;
        let views = digest.cores.iter().enumerate().map(|(core, now)| {
            let verdict = verdict_on(now, stall_ms);
            match member.cores.get(core) {
                Some(held) if held.verdict == verdict => *held,
                _ if verdict == CoreVerdict::Stalled => {
                    CoreView { verdict, since_ms: now_ms.saturating_sub(now.still_ms.into()) }
                }
                _ => CoreView { verdict, since_ms: now_ms },
            }
        });
        member.cores = views.collect();
    }

    pub(super) fn core(&self, node: NodeId, core: CoreId) -> Option<CoreView> {
        self.members.get(&node)?.cores.get(usize::from(core.0)).copied()
    }

    pub(super) fn forget(&mut self, node: NodeId) {
        self.members.remove(&node);
        self.digests.remove(&node);
    }
}

/// What a core's own report says of it. One that stands still is not heard to take reads either: that counts first.
pub(super) fn verdict_on(core: &CoreDigest, stall_ms: u64) -> CoreVerdict {
    match core.fence {
        _ if u64::from(core.still_ms) >= stall_ms => CoreVerdict::Stalled,
        Fence::Fenced => CoreVerdict::Fenced,
        Fence::Open => CoreVerdict::Live,
    }
}
