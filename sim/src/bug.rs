//! The bugs that a run can plant to see them caught.

/// A bug to plant for a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// One of the engine's.
    Engine(ferrite_lsm::planted::Bug),
    /// One of the replication logic's.
    Cluster(ferrite_cluster::planted::Bug),
}

impl Bug {
    /// Every bug with its name on the command line.
    pub const ALL: [(&'static str, Bug); 31] = [
        ("ack-before-sync", Bug::Engine(ferrite_lsm::planted::Bug::AckBeforeSync)),
        ("stale-segment-replayed", Bug::Engine(ferrite_lsm::planted::Bug::StaleSegmentReplayed)),
        ("skipped-directory-sync", Bug::Engine(ferrite_lsm::planted::Bug::SkippedDirectorySync)),
        ("work-behind-the-end", Bug::Engine(ferrite_lsm::planted::Bug::WorkBehindTheEnd)),
        ("block-not-verified", Bug::Engine(ferrite_lsm::planted::Bug::BlockNotVerified)),
        ("quorum-off-by-one", Bug::Cluster(ferrite_cluster::planted::Bug::QuorumOffByOne)),
        ("tail-repeats-node", Bug::Cluster(ferrite_cluster::planted::Bug::TailRepeatsNode)),
        ("lone-dot-shipped", Bug::Cluster(ferrite_cluster::planted::Bug::LoneDotShipped)),
        ("actor-reused", Bug::Cluster(ferrite_cluster::planted::Bug::ActorReused)),
        ("join-keeps-one", Bug::Cluster(ferrite_cluster::planted::Bug::JoinKeepsOne)),
        ("digest-blind", Bug::Cluster(ferrite_cluster::planted::Bug::DigestBlind)),
        ("read-keeps-newest", Bug::Cluster(ferrite_cluster::planted::Bug::ReadKeepsNewest)),
        ("repair-unawaited", Bug::Cluster(ferrite_cluster::planted::Bug::RepairUnawaited)),
        ("repair-mints-anew", Bug::Cluster(ferrite_cluster::planted::Bug::RepairMintsAnew)),
        ("sloppy-hint-dropped", Bug::Cluster(ferrite_cluster::planted::Bug::SloppyHintDropped)),
        ("hint-mark-before-ack", Bug::Cluster(ferrite_cluster::planted::Bug::HintMarkBeforeAck)),
        ("hint-minted-anew", Bug::Cluster(ferrite_cluster::planted::Bug::HintMintedAnew)),
        ("join-forgets-replaced", Bug::Cluster(ferrite_cluster::planted::Bug::JoinForgetsReplaced)),
        ("delete-forgets-context", Bug::Cluster(ferrite_cluster::planted::Bug::DeleteForgetsContext)),
        ("context-ignored", Bug::Cluster(ferrite_cluster::planted::Bug::ContextIgnored)),
        ("overwrite-reads-one", Bug::Cluster(ferrite_cluster::planted::Bug::OverwriteReadsOne)),
        ("latch-not-held", Bug::Cluster(ferrite_cluster::planted::Bug::LatchNotHeld)),
        ("mints-below-session", Bug::Cluster(ferrite_cluster::planted::Bug::MintsBelowSession)),
        ("clock-not-persisted", Bug::Cluster(ferrite_cluster::planted::Bug::ClockNotPersisted)),
        ("expiry-by-local-clock", Bug::Cluster(ferrite_cluster::planted::Bug::ExpiryByLocalClock)),
        ("expired-shown", Bug::Cluster(ferrite_cluster::planted::Bug::ExpiredShown)),
        ("acked-before-replica-sync", Bug::Cluster(ferrite_cluster::planted::Bug::AckedBeforeReplicaSync)),
        ("lost-counts-as-ack", Bug::Cluster(ferrite_cluster::planted::Bug::LostCountsAsAck)),
        ("repeated-ack-counts", Bug::Cluster(ferrite_cluster::planted::Bug::RepeatedAckCounts)),
        ("recycled-answer-taken", Bug::Cluster(ferrite_cluster::planted::Bug::RecycledAnswerTaken)),
        ("timeout-says-not-applied", Bug::Cluster(ferrite_cluster::planted::Bug::TimeoutSaysNotApplied)),
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        let known = Bug::ALL.iter().find(|(_, bug)| *bug == self);
        known.expect("all bugs have a name").0
    }

    /// The bug of a name.
    pub fn named(name: &str) -> Option<Bug> {
        Bug::ALL.iter().find(|(known, _)| *known == name).map(|(_, bug)| *bug)
    }
}

/// Keeps a bug planted on this thread; whatever was planted is gone when this is dropped.
pub(crate) struct Planted;

impl Planted {
    /// Plants a bug, or makes sure that there is none.
    pub(crate) fn new(bug: Option<Bug>) -> Planted {
        let (engine, cluster) = match bug {
            None => (None, None),
            Some(Bug::Engine(bug)) => (Some(bug), None),
            Some(Bug::Cluster(bug)) => (None, Some(bug)),
        };
        ferrite_lsm::planted::plant(engine);
        ferrite_cluster::planted::plant(cluster);
        Planted
    }
}

impl Drop for Planted {
    fn drop(&mut self) {
        ferrite_lsm::planted::plant(None);
        ferrite_cluster::planted::plant(None);
    }
}
