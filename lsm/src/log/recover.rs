//! Recovery: from the segments' files to the records that count, and a log that goes on after them.
//!
//! The segments are read in the order of their ids, each from its first group to the end of its file: after a group that is not
//! valid the search goes on, for what comes later says whether it was synced. [`super::verdict`] decides about each group. A
//! group in place is replayed at once; only a gap in the numbers makes recovery look ahead for the highest mark.
//!
//! What is found invalid:
//!
//! - *Damage*: it was synced, for a later mark or life says so. It is reported, and recovery goes on after it.
//! - *Cut tail*: nothing later says so. Everything from there on is left out, now and in every later recovery: the new life's
//!   headers say which number was the last to count. The tail may have been acknowledged (the bytes cannot tell a write that a
//!   power cut interrupted from the last group gone bad), so it is reported unless the place is empty.
//! - *Leftovers* of a recycled segment's previous life: somebody else's, or without an identity. They are not reported.
//!
//! Empty is, in a segment that was new, a tail of zeros; in a recycled one, a tail in which no block bears the segment's identity.
//!
//! *Where the log begins* is known to its owner only, who has said what may go ([`LogOptions::needed`]). If it begins later, then
//! what the owner needs in front was there once: each group of it was written before what is found. Is there a place that
//! held it (a segment of that life, or a file that is neither readable nor empty), it is damage, with the numbers that are
//! lost; is there none, a whole part was taken away, and recovery refuses before it has changed anything. What later lives counted
//! is needed as much as what later marks count: a life of which nothing is left is missing, or damaged, like a group. *Where the
//! log ends* is known to an owner that has closed it ([`LogOptions::through`]), and to no other: a last segment that is taken away from a
//! log that was not closed takes with it what nothing else knows of.
//!
//! A segment whose header is gone is known by its groups, for they carry their identity too. That is damage if it is younger than
//! the oldest segment with a header; else it was being recycled when the power failed, and counts as what it was.
//!
//! So is one whose header is valid by its checksum and makes no sense; that is always reported, since no power cut writes it.
//!
//! A segment whose file is *shorter* than its header says was cut by something else than the log and its power cuts: a file has its
//! length before it has its name, and its header comes last. What it lost shows by the groups behind it, as ever; where none is,
//! nobody knows, so the file is always reported. So is one without a header that is not even whole blocks, or empty.
//!
//! What the last life has written is synced before the new one counts it.
//!
//! The old segments are never written to, and one in which damage was found not even when it is not needed any more: see `segments`.
//! The new life starts in a segment of its own, in a file that held no group. One that nothing was ever written in is made anew: a header is
//! written when its file's name is durable, so without one nobody knows that, and no later sync of the directory would say it if the one
//! that was to make it so has failed. Where the
//! disk has no room for it, the log opens all the same, for what it says to be read: the segment is made when there is room,
//! and nothing is committed before.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::format::{HeaderFault, Identity, SEGMENT_HEADER_BYTES, SegmentHeader};
use super::gate::Gate;
use super::prepare::{self, Plan, PrepareError};
use super::scan::{Found, Scan, Window};
use super::segments::{ASIDE_SLOT_MIN, Recyclable, SegmentInfo, Segments, slot_beside};
use super::walk::Walk;
use super::{Log, LogError, LogOptions, State};
use crate::{
    BLOCK_BYTES, Damage, Directory, Disk, DiskError, DiskErrorKind, FileName, NameOp, NameReply, Open, Seq,
    cover,
};

/// Damaged places that a recovery reports one by one; more are counted.
pub const DAMAGE_REPORTS_MAX: usize = 1024;

/// What [`Damage::what`] says where a log ends before what it held when it was closed. The file is the one in which it ends now, and nothing is
/// wrong with that: one that came after it is not there any more.
pub const LOG_END: &str = "end of the log";

/// Records that were synced and cannot be read any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogDamage {
    /// Where, and what is wrong.
    pub damage: Damage,
    /// The records lost, first and last; `None` if none is, or if it cannot be told which.
    pub lost: Option<(Seq, Seq)>,
}

/// Where the log was cut: what was there may have been acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutTail {
    /// The segment's id.
    pub segment: u64,
    /// Its slot.
    pub slot: u32,
    /// Where the cut is in its file, in bytes.
    pub offset: u64,
}

/// What recovery found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogRecovery {
    /// There was no log.
    pub fresh: bool,
    /// Groups replayed, marks included.
    pub groups: u64,
    /// Records replayed.
    pub records: u64,
    /// The first and the last record replayed.
    pub replayed: Option<(Seq, Seq)>,
    /// The tail that was cut, if there was anything.
    pub cut_tail: Option<CutTail>,
    /// What was damaged; at most [`DAMAGE_REPORTS_MAX`].
    pub damage: Vec<LogDamage>,
    /// Damaged places beyond those.
    pub damage_unreported: u64,
}

/// A segment's file, and what its header says.
pub(super) struct Source<D: Disk> {
    pub(super) slot: u32,
    pub(super) file: D::File,
    pub(super) file_bytes: u64,
    pub(super) header: Result<SegmentHeader, HeaderFault>,
    /// From the header, or else from its first group; `None` = it holds nothing.
    pub(super) identity: Option<Identity>,
    /// The highest id that its header speaks of, torn or not; 0 if none.
    highest_id: u64,
    /// It has no identity, and something stands in it all the same: the first of it.
    pub(super) nameless: Option<u64>,
    /// Valid groups seen, counted or not.
    pub(super) groups: u64,
    /// What counts: first record, the one after the last, and the end in bytes.
    pub(super) kept: Option<(u64, u64, u64)>,
}

impl<D: Disk> Source<D> {
    pub(super) fn name(&self, core: u16) -> FileName {
        FileName::Segment { core, slot: self.slot }
    }

    pub(super) fn recycled(&self) -> bool {
        self.header.is_ok_and(|header| header.recycled)
    }

    /// The length that its file was made with, if it is shorter now. Without a header, no more is known than what every segment has.
    pub(super) fn cut_from(&self) -> Option<u64> {
        let block = BLOCK_BYTES as u64;
        let made = match self.header {
            Ok(header) => header.file_bytes,
            Err(_) => self.file_bytes.next_multiple_of(block).max(block),
        };
        (self.file_bytes < made).then_some(made)
    }

    /// Whether nothing was ever written in it. Then its name may go with the power.
    fn is_unwritten(&self) -> bool {
        self.header == Err(HeaderFault::Blank) && self.identity.is_none() && self.nameless.is_none()
    }

    pub(super) fn life(&self) -> u64 {
        self.identity.expect("only segments with an identity are replayed").life
    }

    pub(super) fn scan(&self, disk: &D, core: u16) -> Scan<D> {
        let window = Window::new(disk.clone(), self.file.clone(), self.name(core), self.file_bytes);
        Scan::new(window, self.identity)
    }
}

impl<D: Disk> Log<D> {
    /// Replays the log of `core` through `replay`, in order, and opens a new life after it. An empty disk gives an empty log.
    pub async fn recover(
        disk: D,
        core: u16,
        options: LogOptions,
        replay: &mut dyn FnMut(Seq, crate::Key<'_>, crate::Record<'_>, u64),
    ) -> Result<(Log<D>, LogRecovery), LogError> {
        options.check();
        disk.names(NameOp::CreateDirectory(Directory::Core(core))).await?;
        let (mut sources, aside) = open_sources(&disk, core, None).await?;
        let known = (options.needed.0, options.through.0);
        let mut walk = Walk::new(&disk, core, known, sources.is_empty(), replay);
        sources.sort_by_key(|source| source.identity.map_or(0, |identity| identity.segment));
        walk.check_twice(&sources)?;
        walk.run(&mut sources).await?;
        if let Some(found) = walk.missing {
            return Err(LogError::Missing { needed: options.needed.0, found });
        }
        let Walk { recovery, damaged, counted, seen, .. } = walk;
        sync_last_life(&disk, &sources).await?;
        let seen = seen.max(options.seq_min.0 - 1);
        let (life_first, life_after) = (seen + 1, counted);

        let mut segments = Segments::default();
        let mut recyclable = Vec::new();
        let mut blank = None;
        let mut next_id = 1;
        for source in &sources {
            let id = source.identity.map_or(0, |identity| identity.segment);
            next_id = next_id.max(id + 1).max(source.highest_id + 1);
            let slot = source.slot;
            // Of one without a length nothing is used but the slot.
            let file_bytes = if source.is_unwritten() { 0 } else { source.file_bytes };
            match source.kept {
                Some((first, next, bytes)) => {
                    segments.open(SegmentInfo { id, slot, first, next, bytes, file_bytes });
                }
                // Of another length it would have to be removed first, and on a full disk nothing would stand in its place.
                None if file_bytes == options.segment_bytes
                    && source.groups == 0
                    && !damaged.contains(&source.slot)
                    && source.nameless.is_none()
                    && source.cut_from().is_none()
                    && blank.is_none() =>
                {
                    blank = Some(Recyclable { id, slot, file_bytes });
                }
                None => recyclable.push(Recyclable { id, slot, file_bytes }),
            }
        }
        // Not in a file that holds groups: should its new header be torn, they would still have to be told from others.
        let reuse = blank.is_some();
        let identity = Identity { segment: next_id, life: options.life };
        let file_bytes = options.segment_bytes;
        let header = SegmentHeader { core, identity, recycled: reuse, life_first, life_after, file_bytes };
        let used: BTreeSet<u32> = sources.iter().map(|source| source.slot).collect();
        let slot = blank.map_or_else(|| slot_beside(&used), |blank| blank.slot);
        let plan = Plan { slot, reuse, remove: false, header };
        let (file, first_slot) = match prepare::make(&disk, &plan).await {
            Ok(made) => {
                segments.open(SegmentInfo {
                    id: next_id,
                    slot,
                    first: life_first,
                    next: life_first,
                    bytes: SEGMENT_HEADER_BYTES,
                    file_bytes,
                });
                (made.file, None)
            }
            Err(PrepareError::Create(error))
                if error.kind == DiskErrorKind::NoSpace && !sources.is_empty() =>
            {
                cover::mark("log opened on a full disk");
                if segments.live().is_empty() {
                    let Recyclable { id, slot, file_bytes } =
                        recyclable.pop().or(blank).expect("every source is one or the other");
                    let (first, next) = (life_first, life_first);
                    segments.open(SegmentInfo { id, slot, first, next, bytes: file_bytes, file_bytes });
                }
                let current = segments.current();
                current.file_bytes = current.bytes;
                let stands_in = sources.iter().find(|source| source.slot == current.slot);
                // Beside it: it is the only one that says that there is a log, perhaps, and what is made in its place would have it removed first.
                let next = if current.slot == slot { slot_beside(&used) } else { slot };
                (stands_in.expect("it is one of them").file.clone(), Some(next))
            }
            Err(PrepareError::Create(error)) => return Err(LogError::Disk(error)),
            Err(PrepareError::NoBuffer) => return Err(LogError::NoBuffer),
            Err(PrepareError::Header) => {
                let name = Some(FileName::Segment { core, slot });
                return Err(LogError::Disk(DiskError { kind: DiskErrorKind::Io, operation: "write", name }));
            }
        };
        for slot in recyclable {
            segments.recycle(slot);
        }
        segments.keep(damaged, aside);
        segments.occupy(first_slot.unwrap_or(slot));
        let state = State {
            filling: None,
            spare: Vec::new(),
            buffers: 0,
            segments,
            file,
            identity,
            prepared: None,
            first_slot,
            next_id: next_id + 1,
            life_first,
            life_after,
            next_seq: life_first,
            written: seen,
            synced: seen,
            marked: seen,
            fenced: false,
            groups: 0,
            syncs: 0,
        };
        let log = Log {
            disk,
            core,
            options,
            state: Rc::new(std::cell::RefCell::new(state)),
            writer: Rc::new(Gate::default()),
            preparer: Rc::new(Gate::default()),
        };
        Ok((log, recovery))
    }
}

/// Makes durable what the last life has written: what its process had in flight when it died, or was told that there is no room for, may be there and not
/// be synced. It was replayed like all else and will be seen, and the new life counts it; so it must not go with the power any more.
async fn sync_last_life<D: Disk>(disk: &D, sources: &[Source<D>]) -> Result<(), DiskError> {
    let life = sources.iter().rev().find_map(|source| source.identity).map(|identity| identity.life);
    let is_of_it = |source: &&Source<D>| source.identity.map(|identity| identity.life) == life;
    for source in sources.iter().filter(is_of_it).filter(|source| source.kept.is_some()) {
        disk.sync(&source.file).await?;
    }
    Ok(())
}

/// Opens the segments of a core, or one of them. Those that were set aside are left out unless asked for; their slots are given beside.
pub(super) async fn open_sources<D: Disk>(
    disk: &D,
    core: u16,
    only: Option<u32>,
) -> Result<(Vec<Source<D>>, BTreeSet<u32>), LogError> {
    let files = match disk.names(NameOp::List(Directory::Core(core))).await? {
        NameReply::Files(files) => files,
        NameReply::Done | NameReply::Checkpoints(_) => unreachable!("a list answers with files"),
    };
    let (mut sources, mut aside) = (Vec::new(), BTreeSet::new());
    for (name, file_bytes) in files {
        let FileName::Segment { slot, .. } = name else { continue };
        if only.is_some_and(|only| only != slot) {
            continue;
        }
        if only.is_none() && slot >= ASIDE_SLOT_MIN {
            aside.insert(slot);
            continue;
        }
        let file = disk.open(name, Open::Read).await?;
        let mut window = Window::new(disk.clone(), file.clone(), name, file_bytes);
        let block = window.view(0, BLOCK_BYTES).await?;
        let (header, highest_id) = (SegmentHeader::decode(block), SegmentHeader::highest_id(block));
        match header {
            Err(HeaderFault::Version(found)) => return Err(LogError::Version { slot, found }),
            Ok(header) if header.core != core => {
                return Err(LogError::WrongCore { slot, found: header.core });
            }
            Ok(_) | Err(HeaderFault::Blank | HeaderFault::Damaged { .. } | HeaderFault::Fields) => {}
        }
        let (identity, nameless) = match header {
            Ok(header) => (Some(header.identity), None),
            Err(_) => match Scan::new(window, None).next().await? {
                Found { group: Some((_, group)), .. } => (Some(group.identity), None),
                Found { gap, group: None } => (None, gap.fault.map(|(at, _)| at)),
            },
        };
        let (groups, kept) = (0, None);
        sources.push(Source { slot, file, file_bytes, header, identity, highest_id, nameless, groups, kept });
    }
    Ok((sources, aside))
}
