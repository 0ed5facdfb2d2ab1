//! What the engine answers: findings, refusals, failures.

use super::quarantine::Quarantined;
use crate::log::{CutTail, LogDamage, LogError};
use crate::values::Resolved;
use crate::{DiskError, FileName, ReadError, Record, RecordFlags};

/// What [`Engine::open`](super::Engine::open) found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// There was nothing: this is the first open.
    pub fresh: bool,
    /// The engine had been closed, and everything it had made durable is here.
    pub clean: bool,
    /// How often the engine was opened, this time included. It never repeats in one data directory, unless the disk is full
    /// (then [`super::Stats::disk_full`] is set): an open of which nothing could be written is not counted.
    pub incarnation: u64,
    /// The log ended in something incomplete, which was cut off. It may have been acknowledged (the bytes cannot tell a write
    /// that a power cut interrupted from a last group gone bad): its vnodes ask for repair, and new actors are minted.
    pub cut_tail: Option<CutTail>,
    /// The last change of the manifest was incomplete, and was cut off. Nobody was told of it: one that was acknowledged is
    /// marked, and refuses if it went bad.
    pub cut_manifest: bool,
    /// Damage in the log: what was synced and cannot be read any more, and segments that something cut short. Everything behind it was
    /// recovered. What it hid was acknowledged, and is lost here: [`LogDamage::lost`] names the records where that is known, and other
    /// replicas have them. The files stay as they are, and each open says so again, until the log needs nothing in them; then they are set
    /// aside, see [`ASIDE_SLOT_MIN`](crate::log::ASIDE_SLOT_MIN).
    pub damage: Vec<LogDamage>,
    /// What is quarantined, known before or found now: tables and value files that could not be opened, and blocks.
    pub quarantined: Vec<Quarantined>,
    /// Tables that could not be opened because the device failed: see [`super::Engine::unreadable`].
    pub unreadable: Vec<Quarantined>,
    /// Records that came from the log.
    pub replayed: u64,
    /// `(vnode, store)` of every vnode that lives here, by vnode.
    pub vnodes: Vec<(u16, u16)>,
}

/// Why vnodes were not put into stores. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AssignError {
    /// The disk failed.
    Disk(DiskError),
    /// The vnode was dropped, and what is left of it would come back with it, or take what is written next along: in memory, until the
    /// jobs that are due are done, or under the sequence numbers that were staged when it was dropped, until they are committed. A full
    /// disk gives these out again: then it takes as many records more.
    Taken {
        /// The vnode.
        vnode: u16,
    },
    /// Something else gave the vnode a store while this waited for its turn: an ingest that ended, say.
    LivesElsewhere {
        /// The vnode.
        vnode: u16,
        /// Where it lives.
        store: u16,
    },
}

impl std::fmt::Display for AssignError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            AssignError::Disk(error) => error.fmt(f),
            AssignError::Taken { vnode } => write!(
                f,
                "vnode {vnode} was dropped, and not all of it is gone yet: assign it again when the jobs that are due are \
                 done and further writes are committed"
            ),
            AssignError::LivesElsewhere { vnode, store } => {
                write!(
                    f,
                    "vnode {vnode} has come to live in store {store} meanwhile: move it, if it should not"
                )
            }
        }
    }
}

impl std::error::Error for AssignError {}

impl From<DiskError> for AssignError {
    fn from(error: DiskError) -> Self {
        AssignError::Disk(error)
    }
}

/// Why an engine was not opened. The data is as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// The disk failed, or a manifest or table is damaged.
    Read(ReadError),
    /// The log cannot be recovered.
    Log(LogError),
    /// A file was written by a version of this software that is not known here.
    Version {
        /// The file.
        file: FileName,
        /// Its version.
        found: u16,
    },
    /// A table or value file that the manifest names is not there.
    MissingTable(FileName),
    /// There are files of data, and no manifest that says what they are.
    MissingManifest {
        /// One of them.
        file: FileName,
    },
    /// The manifest of a core belongs to no layout of the node, or to another one than its neighbours.
    MissingLayout {
        /// The number of the core's directory.
        core: u16,
    },
    /// The log lacks records that are in no table.
    MissingLog {
        /// The log is needed from this sequence number on.
        needed: u64,
        /// It starts here; `None` if there is none.
        found: Option<u64>,
    },
    /// A store that holds data or vnodes is not among the options' stores.
    MissingStore(u16),
    /// The log holds a record of a vnode that lives in no store.
    UnplacedVnode(u16),
    /// A vnode lives here and would be looked for elsewhere, or will be looked for here and does not live here.
    MovedVnode(u16),
    /// A vnode that was dropped cannot live here again yet: [`AssignError::Taken`].
    TakenVnode(u16),
    /// An option of the memory is less than the engine works with: it would refuse every write as overloaded, for ever.
    TooLittle {
        /// Which: `memory_bytes` or `memtable_bytes` of [`super::Options`].
        what: &'static str,
        /// What it says.
        bytes: u64,
        /// What it must say at least, with these stores, buffers and groups.
        least: u64,
    },
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            OpenError::Read(error) => error.fmt(f),
            OpenError::Log(error) => error.fmt(f),
            OpenError::Version { file, found } => {
                write!(f, "{} has format version {found}, which is not known here", describe(*file))
            }
            OpenError::MissingTable(file) => {
                write!(f, "{} is named by the manifest, and missing", describe(*file))
            }
            OpenError::MissingManifest { file } => {
                write!(f, "{} is there, and no manifest that names it", describe(*file))
            }
            OpenError::MissingLayout { core } => {
                write!(f, "the manifest of core {core} does not belong with those of the other cores")
            }
            OpenError::MissingLog { needed, found: Some(found) } => {
                write!(f, "the log starts at record {found}, and is needed from record {needed}")
            }
            OpenError::MissingLog { needed, found: None } => {
                write!(f, "there is no log, and one is needed from record {needed}")
            }
            OpenError::MissingStore(store) => write!(f, "store {store} holds data and is not configured"),
            OpenError::UnplacedVnode(vnode) => {
                write!(f, "the log holds records of vnode {vnode}, which lives in no store")
            }
            OpenError::MovedVnode(vnode) => write!(
                f,
                "vnode {vnode} would not be found where its data is: the nodes, `replication` or `stores` of the \
                 configuration have changed since the data was written; put the old values back"
            ),
            OpenError::TakenVnode(vnode) => AssignError::Taken { vnode: *vnode }.fmt(f),
            OpenError::TooLittle { what, bytes, least } => {
                write!(f, "{what} = {bytes} is too little to take any write: at least {least} are needed")
            }
        }
    }
}

impl std::error::Error for OpenError {}

impl From<ReadError> for OpenError {
    fn from(error: ReadError) -> Self {
        OpenError::Read(error)
    }
}

impl From<LogError> for OpenError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Disk(error) => OpenError::Read(error.into()),
            LogError::NoBuffer => OpenError::Read(ReadError::NoBuffer),
            LogError::Missing { needed, found } => OpenError::MissingLog { needed, found },
            error @ (LogError::Version { .. } | LogError::WrongCore { .. } | LogError::Twice(_)) => {
                OpenError::Log(error)
            }
        }
    }
}

impl From<AssignError> for OpenError {
    fn from(error: AssignError) -> Self {
        match error {
            AssignError::Disk(error) => error.into(),
            AssignError::Taken { vnode } => OpenError::TakenVnode(vnode),
            AssignError::LivesElsewhere { .. } => unreachable!("an engine that opens has nobody beside it"),
        }
    }
}

impl From<DiskError> for OpenError {
    fn from(error: DiskError) -> Self {
        OpenError::Read(error.into())
    }
}

fn describe(file: FileName) -> String {
    match file {
        FileName::Segment { core, slot } => format!("log segment {slot} of core {core}"),
        FileName::Manifest { core, number } => format!("manifest {number} of core {core}"),
        FileName::Table { store, number } => format!("table {number} of store {store}"),
        FileName::Values { store, number } => format!("value file {number} of store {store}"),
    }
}

/// Why a record was not staged. It will never be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A sync failed earlier: until a restart this core takes no writes.
    Fenced,
    /// The disk is full; reads go on, and writes as soon as a background job has found space.
    DiskFull,
    /// A limit is reached: staged bytes, frozen memtables, level 0, or the log. Or a drop of the vnode is in doubt, which the next job
    /// settles.
    Overloaded,
    /// The vnode lives in no store of this core.
    UnknownVnode,
    /// The record would not fit into a log group.
    TooLarge,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Refusal::Fenced => "a sync failed: this core takes no writes until it is restarted",
            Refusal::DiskFull => "the disk is full",
            Refusal::Overloaded => "too many writes wait",
            Refusal::UnknownVnode => "the vnode does not live here",
            Refusal::TooLarge => "the record is too large",
        })
    }
}

impl std::error::Error for Refusal {}

/// Why a group was not committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitError {
    /// A sync failed, now or earlier. Records staged and not yet reported durable may or may not be found after a restart.
    Fenced,
    /// The disk is full. What was staged was let go of, and will never be found; its numbers are given out again.
    DiskFull,
    /// The budget for log buffers is spent. What was staged was let go of, as with [`CommitError::DiskFull`].
    Overloaded,
}

impl std::fmt::Display for CommitError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CommitError::Fenced => Refusal::Fenced.fmt(f),
            CommitError::DiskFull => Refusal::DiskFull.fmt(f),
            CommitError::Overloaded => f.write_str("the budget for log buffers is spent"),
        }
    }
}

impl std::error::Error for CommitError {}

/// The answer is not in memory: ask [`Engine::read`](super::Engine::read).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Miss;

/// A record that was read from the disk, and owns what it shows.
#[derive(Clone, Debug)]
pub struct Found {
    pub(super) order: u64,
    pub(super) actor: u64,
    pub(super) flags: RecordFlags,
    pub(super) expiry_ms: u64,
    pub(super) value: Value,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Copied(Box<[u8]>),
    /// Of a value file; perhaps the cache holds it, too.
    Shared(Resolved),
}

impl Found {
    pub(super) fn copy(record: Record<'_>) -> Found {
        let Record { order, actor, flags, expiry_ms, value } = record;
        Found { order, actor, flags, expiry_ms, value: Value::Copied(value.into()) }
    }

    /// The record.
    pub fn record(&self) -> Record<'_> {
        let Found { order, actor, flags, expiry_ms, .. } = *self;
        Record { order, actor, flags, expiry_ms, value: self.value() }
    }

    fn value(&self) -> &[u8] {
        match &self.value {
            Value::Copied(value) => value,
            Value::Shared(value) => value.value(),
        }
    }
}
