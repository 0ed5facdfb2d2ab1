//! Deliberate bugs that prove the simulator's worth: compiled in only with the `planted-bugs` feature, and even then off
//! until switched on for the calling thread.

/// A bug the replication logic can be told to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bug {
    /// Every level needs one replica less than it should.
    QuorumOffByOne,
    /// The claim puts two replicas of a vnode at the tail of the ring on one node.
    TailRepeatsNode,
    /// A write of a key with siblings ships its own dot alone instead of the whole joined set.
    LoneDotShipped,
    /// A core has the same actor in every life, whatever the life before has lost.
    ActorReused,
    /// A join of two sets keeps the one with the higher version, as if the last write won.
    JoinKeepsOne,
    /// The version of a set is made of its highest order only: sets that differ in another sibling have the same.
    DigestBlind,
    /// A read takes the newest of the sets that answered instead of joining them.
    ReadKeepsNewest,
    /// A read at QUORUM answers before a majority holds what it found.
    RepairUnawaited,
    /// A repair mints a new version for the record that it writes.
    RepairMintsAnew,
    /// A sloppy write beyond the cap is told as kept, and is not.
    SloppyHintDropped,
    /// The watermark of hints passes what was sent, acknowledged or not.
    HintMarkBeforeAck,
    /// A hint is delivered with a version minted at that time.
    HintMintedAnew,
    /// A join keeps a sibling that either set has, whatever the other has seen replaced.
    JoinForgetsReplaced,
    /// A delete takes siblings out of the set and does not note that they were seen.
    DeleteForgetsContext,
    /// A write replaces nothing, whatever its context has seen.
    ContextIgnored,
    /// A write that overwrites reads one replica, whatever its level.
    OverwriteReadsOne,
    /// Writes of a key with siblings do not wait for one another.
    LatchNotHeld,
    /// A version is minted without regard to what its client has seen.
    MintsBelowSession,
    /// A node takes no notice of the bound that its clock's earlier life has left.
    ClockNotPersisted,
    /// A replica counts a record's expiry anew, by its own clock.
    ExpiryByLocalClock,
    /// Records are shown after they have expired.
    ExpiredShown,
    /// A replica acknowledges a record before it is synced.
    AckedBeforeReplicaSync,
    /// A replica whose connection broke counts as one that has acknowledged.
    LostCountsAsAck,
    /// An acknowledgement that comes a second time counts as another replica's.
    RepeatedAckCounts,
    /// An answer to an operation that has ended is taken for one to the operation that has its place.
    RecycledAnswerTaken,
    /// A write whose time is up is reported as not applied, also where replicas may have it.
    TimeoutSaysNotApplied,
}

#[cfg(feature = "planted-bugs")]
mod switch {
    use super::Bug;
    use std::cell::Cell;

    thread_local! {
        static ACTIVE: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Switches one bug on for this thread, or all off.
    pub fn plant(bug: Option<Bug>) {
        ACTIVE.set(bug);
    }

    /// Whether this thread has the bug.
    pub fn active(bug: Bug) -> bool {
        ACTIVE.get() == Some(bug)
    }
}

#[cfg(feature = "planted-bugs")]
pub use switch::{active, plant};

/// Whether this thread has the bug: never, without the `planted-bugs` feature.
#[cfg(not(feature = "planted-bugs"))]
#[inline(always)]
pub fn active(_: Bug) -> bool {
    false
}
