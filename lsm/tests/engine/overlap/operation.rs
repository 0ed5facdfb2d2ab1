//! Operations under way: what each was called for, and the future that does it.

use std::cell::Cell;
use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::model::{Content, Cut, Moments, Version, Window, key, number};
use crate::rig::TestEngine;
use ferrite_lsm::mem_disk::run::block_on;
use ferrite_lsm::mem_disk::{MemDisk, MemPace};
use ferrite_lsm::{
    AssignError, CommitError, Direction, DiskError, Engine, Extent, IngestError, Job, Key, Options,
    ReadError, Record, ScanLimits, Seq,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Assign,
    DropVnode,
    DropTable,
    Move,
    Ingest,
    Export,
    Checkpoint,
    Removal,
    Read,
    Scan,
    Commit,
    Merge,
    /// Flushes, sweeps, log segments.
    Upkeep,
}

/// What an operation was called for, and what its outcome is judged by.
pub(super) enum What {
    Assign {
        vnode: u16,
        store: u16,
    },
    DropVnode {
        vnode: u16,
    },
    DropTable(Cut),
    Move {
        vnode: u16,
        store: u16,
    },
    Ingest {
        transfer: Rc<Transfer>,
        store: u16,
        /// It has been told to finish.
        finishes: Rc<Cell<bool>>,
        /// A drop that touches it was done meanwhile.
        was_dropped: bool,
    },
    Export(Window),
    Checkpoint {
        number: u64,
        moments: Moments,
    },
    Removal,
    Read {
        n: u64,
        expected: Option<Version>,
    },
    Scan {
        window: Window,
        direction: Direction,
    },
    Commit,
    Job {
        is_merge: bool,
    },
}

impl What {
    pub(super) fn kind(&self) -> Kind {
        match self {
            What::Assign { .. } => Kind::Assign,
            What::DropVnode { .. } => Kind::DropVnode,
            What::DropTable(_) => Kind::DropTable,
            What::Move { .. } => Kind::Move,
            What::Ingest { .. } => Kind::Ingest,
            What::Export(_) => Kind::Export,
            What::Checkpoint { .. } => Kind::Checkpoint,
            What::Removal => Kind::Removal,
            What::Read { .. } => Kind::Read,
            What::Scan { .. } => Kind::Scan,
            What::Commit => Kind::Commit,
            What::Job { is_merge: true } => Kind::Merge,
            What::Job { is_merge: false } => Kind::Upkeep,
        }
    }

    /// The vnode that it is about; `None` = all of them.
    pub(super) fn vnode(&self) -> Option<u16> {
        match self {
            What::Assign { vnode, .. } | What::DropVnode { vnode } | What::Move { vnode, .. } => Some(*vnode),
            What::DropTable(cut) => Some(cut.extent.vnode),
            What::Ingest { transfer, .. } => Some(transfer.extent.vnode),
            What::Export(window) | What::Scan { window, .. } => Some(window.extent.vnode),
            What::Read { n, .. } => Some(super::model::vnode_of(*n)),
            What::Checkpoint { .. } | What::Removal | What::Commit | What::Job { .. } => None,
        }
    }

    /// Whether whoever called for it may lose interest, and drop the future.
    pub(super) fn may_be_dropped(&self) -> bool {
        match self {
            What::Ingest { finishes, .. } => !finishes.get(),
            What::Export(_) | What::Read { .. } | What::Scan { .. } => true,
            What::Assign { .. }
            | What::DropVnode { .. }
            | What::DropTable(_)
            | What::Move { .. }
            | What::Checkpoint { .. }
            | What::Removal
            | What::Commit
            | What::Job { .. } => false,
        }
    }
}

pub(super) enum Outcome {
    Assigned(Result<(), AssignError>),
    Done(Result<(), DiskError>),
    /// `None` = given up before its end.
    Ingested(Result<Option<u64>, IngestError>),
    Exported(Result<Vec<Vec<u8>>, ReadError>),
    Found(Result<Option<Version>, ReadError>),
    Shown(Result<Vec<(u64, Version)>, ReadError>),
    Committed(Result<Seq, CommitError>),
}

pub(super) type Doing = Pin<Box<dyn Future<Output = Outcome>>>;

pub(super) struct Operation {
    pub(super) what: What,
    pub(super) doing: Doing,
}

/// Pending so many times: a peer that is slow.
struct Pause(u64);

impl Future for Pause {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.0 == 0 {
            return Poll::Ready(());
        }
        self.0 -= 1;
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Chunks, and what is in them.
pub(super) struct Transfer {
    pub(super) extent: Extent,
    pub(super) chunks: Vec<Vec<u8>>,
    pub(super) records: Vec<(u64, Version)>,
}

fn scratch(options: Options) -> TestEngine {
    let options = Options { memtable_bytes: 1 << 20, ..options };
    block_on(Engine::open(MemDisk::new(), MemPace::new(), options)).expect("a fresh disk").0
}

impl Transfer {
    /// What another replica has of an extent.
    pub(super) fn of(extent: Extent, content: &Content, bytes_max: usize, options: Options) -> Transfer {
        let engine = scratch(options);
        block_on(engine.assign(&[(extent.vnode, 3)])).expect("no faults");
        for (&n, version) in content {
            while version.stage(n, &engine).is_err() {
                block_on(engine.commit()).expect("no faults");
            }
        }
        block_on(engine.commit()).expect("no faults");
        let Outcome::Exported(chunks) = block_on(export(&engine, extent, bytes_max, 0)) else {
            unreachable!("chunks were asked for")
        };
        let records = content.iter().map(|(&n, &version)| (n, version)).collect();
        Transfer { extent, chunks: chunks.expect("no faults"), records }
    }

    /// What was exported, looked at by an engine that takes it in.
    pub(super) fn read(extent: Extent, chunks: Vec<Vec<u8>>, options: Options) -> Result<Transfer, String> {
        let engine = scratch(options);
        let ingest = async {
            let mut ingest = engine.ingest(extent, 3).await.expect("no faults");
            for chunk in &chunks {
                ingest.add(chunk).await?;
            }
            ingest.finish().await
        };
        block_on(ingest).map_err(|error| format!("what was exported is not taken in: {error}"))?;
        let Outcome::Shown(records) = block_on(scan(&engine, extent, Direction::Forward, (1000, 0))) else {
            unreachable!("records were asked for")
        };
        Ok(Transfer { extent, chunks, records: records.expect("no faults") })
    }
}

pub(super) fn assign(engine: &TestEngine, vnode: u16, store: u16) -> Doing {
    let engine = engine.clone();
    Box::pin(async move { Outcome::Assigned(engine.assign(&[(vnode, store)]).await) })
}

pub(super) fn drop_extent(engine: &TestEngine, extent: Extent) -> Doing {
    let engine = engine.clone();
    Box::pin(async move { Outcome::Done(engine.drop_extent(extent).await) })
}

pub(super) fn move_vnode(engine: &TestEngine, vnode: u16, store: u16) -> Doing {
    let engine = engine.clone();
    Box::pin(async move { Outcome::Done(engine.move_vnode(vnode, store).await) })
}

/// Takes a transfer in, with a pause before each chunk and the end. `finishes` is set there; `None` = it gives up instead.
pub(super) fn ingest(
    engine: &TestEngine,
    (transfer, store): (Rc<Transfer>, u16),
    pause: u64,
    finishes: Option<Rc<Cell<bool>>>,
) -> Doing {
    let engine = engine.clone();
    Box::pin(async move {
        let taken = async {
            let mut ingest = engine.ingest(transfer.extent, store).await.expect("reads do not fail");
            for chunk in &transfer.chunks {
                Pause(pause).await;
                ingest.add(chunk).await?;
            }
            Pause(pause).await;
            let Some(finishes) = finishes else { return Ok(None) };
            finishes.set(true);
            ingest.finish().await.map(Some)
        };
        Outcome::Ingested(taken.await)
    })
}

pub(super) fn export(engine: &TestEngine, extent: Extent, bytes_max: usize, pause: u64) -> Doing {
    let engine = engine.clone();
    Box::pin(async move {
        let (mut chunks, mut left) = (Vec::new(), Some(extent.range()));
        while let Some(range) = left {
            match engine.export(&range, bytes_max).await {
                Ok(exported) => {
                    chunks.push(exported.chunk);
                    left = exported.left;
                }
                Err(error) => return Outcome::Exported(Err(error)),
            }
            Pause(pause).await;
        }
        Outcome::Exported(Ok(chunks))
    })
}

pub(super) fn checkpoint(engine: &TestEngine, number: u64) -> Doing {
    let engine = engine.clone();
    Box::pin(async move { Outcome::Done(engine.checkpoint(number).await) })
}

pub(super) fn remove_checkpoint(engine: &TestEngine, number: u64) -> Doing {
    let engine = engine.clone();
    Box::pin(async move { Outcome::Done(engine.remove_checkpoint(number).await) })
}

pub(super) fn read(engine: &TestEngine, n: u64) -> Doing {
    let read = engine.read(key(n).as_key());
    Box::pin(async move {
        let found = read.await;
        Outcome::Found(found.map(|found| found.map(|found| Version::of(n, found.record()))))
    })
}

/// `at_once` records by a call, with a pause after each.
pub(super) fn scan(
    engine: &TestEngine,
    extent: Extent,
    direction: Direction,
    (at_once, pause): (usize, u64),
) -> Doing {
    let engine = engine.clone();
    Box::pin(async move {
        let (mut shown, mut left) = (Vec::new(), Some(extent.range()));
        while let Some(range) = left {
            let visit = |key: Key<'_>, record: Record<'_>| {
                let n = number(&key);
                shown.push((n, Version::of(n, record)));
                ControlFlow::Continue(())
            };
            match engine.scan(&range, direction, ScanLimits::records(at_once), visit).await {
                Ok(rest) => left = rest,
                Err(error) => return Outcome::Shown(Err(error)),
            }
            Pause(pause).await;
        }
        Outcome::Shown(Ok(shown))
    })
}

pub(super) fn commit(engine: &TestEngine) -> Doing {
    let engine = engine.clone();
    Box::pin(async move { Outcome::Committed(engine.commit().await) })
}

pub(super) fn job(engine: &TestEngine, job: Job) -> Doing {
    let engine = engine.clone();
    Box::pin(async move { Outcome::Done(engine.run(job).await) })
}
