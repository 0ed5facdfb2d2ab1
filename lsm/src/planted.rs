//! Deliberate bugs that prove the simulator's worth: compiled in only with the `planted-bugs` feature, and even then off
//! until switched on for the calling thread.

/// A bug the engine can be told to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bug {
    /// Acknowledges a group before its write is synced.
    AckBeforeSync,
    /// Replays what a recycled segment held before.
    StaleSegmentReplayed,
    /// Does not sync a directory after naming a file in it.
    SkippedDirectorySync,
    /// Removes the old cores' logs and manifests before those of the new ones are durable.
    LogRetiredBeforeLayout,
    /// A read stops at the first record it finds, marked or not.
    StopsWithoutMark,
    /// A scan leaves out the last entry of a block.
    ScanSkipsBlockEdge,
    /// Does not tell the record cache of a write.
    RecordCacheMissesWrite,
    /// Leaves the block cache as large as it was while the other parts grow.
    CacheKeepsItsShare,
    /// Replays records of the log that were dropped.
    DropForgetsLog,
    /// Names a background table in the manifest without having synced it.
    TableNamedBeforeSync,
    /// Unlinks a value file although tables still name it.
    LiveValuesUnlinked,
    /// Reads answer from what is left where a newer version may have been lost.
    HoleIgnored,
    /// Purges a tombstone although a memtable holds its key.
    PurgeIgnoresMemtable,
    /// Purges a tombstone although what is on its way into a memtable may be older.
    PurgeIgnoresPending,
    /// Purges a tombstone although a table outside the merge may hold its key.
    PurgeIgnoresTables,
    /// Records can be read as soon as they are staged, before their group's write is synced.
    AppliedBeforeSync,
    /// Forgets what is left of a durable group when nobody waits for the end of its commit.
    AbandonedGroupHalfApplied,
    /// Looks for the first key of a block in the block before.
    IndexOffByOne,
    /// A filter is built without the last key of its table.
    FilterForgetsKey,
    /// Takes a block for what it should be without comparing its checksum.
    BlockNotVerified,
    /// Names a value file in the manifest without having synced it.
    ValuesNamedBeforeSync,
    /// Purges a tombstone although an ingest under way may bring an older version of its key.
    PurgeIgnoresIngest,
    /// Leaves records that were applied during the drop of their vnode where they are seen when it comes back.
    DropOverlooksArrivals,
    /// An assignment does not wait for what goes on with its vnode.
    AssignTakesNoTurn,
    /// A flush of everything freezes the memtables before it has its turn.
    FreezesBeforeTurn,
    /// Forgets what was lost with a table's damaged blocks when a merge takes the table.
    MergeForgetsHole,
    /// Offers work while it is closed and after.
    WorkBehindTheEnd,
    /// Leaves the newest records of a vnode, which are in memory only, behind when it moves.
    MoveForgetsMemtable,
    /// A vnode may come back while records that went with its drop are only staged.
    BackBeforeItsNumbers,
    /// Lets the store where a vnode goes freeze what it has in memory before the vnode's records are there.
    MoveLetsTargetFreeze,
    /// Marks what is written after an ingest as newer than everything, though what was ingested may be newer.
    IngestKeepsCeiling,
    /// Takes what is in doubt for settled, without a change that settles it.
    DoubtTakenForSettled,
    /// Removes the manifest that was finished last along with attempts at the next one.
    AttemptTakesLastManifest,
    /// Takes over an old core's tables in a change of the core count, not what is only in its log.
    LayoutForgetsLog,
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
