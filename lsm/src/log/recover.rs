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
//! A segment whose header is gone is known by its groups, for they carry their identity too. That is damage if it is younger than
//! the oldest segment with a header; else it was being recycled when the power failed, and counts as what it was.
//!
//! The old segments are never written to. The new life starts in a segment of its own, in a file that held no group. Where the
//! disk has no room for it, the log opens all the same, for what it says to be read: the segment is made when there is room,
//! and nothing is committed before.

use std::rc::Rc;

use super::codec::Records;
use super::format::{GroupFault, GroupHeader, HeaderFault, Identity, SEGMENT_HEADER_BYTES, SegmentHeader};
use super::gate::Gate;
use super::prepare::{self, Plan, PrepareError};
use super::scan::{Gap, Scan, Window};
use super::segments::{Recyclable, SegmentInfo, Segments};
use super::verdict::{Era, Verdict, decide, missing, place};
use super::{Log, LogError, LogOptions, State};
use crate::planted::{self, Bug};
use crate::{
    BLOCK_BYTES, Damage, Directory, Disk, DiskError, DiskErrorKind, FileName, NameOp, NameReply, Open, Seq,
    cover,
};

/// Damaged places that a recovery reports one by one; more are counted.
pub const DAMAGE_REPORTS_MAX: usize = 1024;

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
    /// The first and the last record replayed. An owner that knows of a lower number it still needs has lost a segment.
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
    slot: u32,
    pub(super) file: D::File,
    pub(super) file_bytes: u64,
    pub(super) header: Result<SegmentHeader, HeaderFault>,
    /// From the header, or else from its first group; `None` = it holds nothing.
    pub(super) identity: Option<Identity>,
    /// The highest id that its header speaks of, torn or not; 0 if none.
    highest_id: u64,
    /// Valid groups seen, counted or not.
    groups: u64,
    /// What counts: first record, the one after the last, and the end in bytes.
    kept: Option<(u64, u64, u64)>,
}

impl<D: Disk> Source<D> {
    pub(super) fn name(&self, core: u16) -> FileName {
        FileName::Segment { core, slot: self.slot }
    }

    fn recycled(&self) -> bool {
        self.header.is_ok_and(|header| header.recycled)
    }

    fn life(&self) -> u64 {
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
        let mut sources = open_sources(&disk, core, None).await?;
        let mut walk = Walk::new(&disk, core, sources.is_empty(), replay);
        sources.sort_by_key(|source| source.identity.map_or(0, |identity| identity.segment));
        walk.check_twice(&sources)?;
        walk.run(&mut sources).await?;
        let Walk { recovery, counted, seen, .. } = walk;
        let seen = seen.max(options.seq_min.0 - 1);
        let (life_first, life_after) = (seen + 1, counted);

        let mut segments = Segments::default();
        let mut recyclable = Vec::new();
        let mut blank = None;
        let mut next_id = 1;
        let mut next_slot = 0;
        for source in &sources {
            let id = source.identity.map_or(0, |identity| identity.segment);
            next_id = next_id.max(id + 1).max(source.highest_id + 1);
            next_slot = next_slot.max(source.slot + 1);
            let (slot, file_bytes) = (source.slot, source.file_bytes);
            match source.kept {
                Some((first, next, bytes)) => {
                    segments.open(SegmentInfo { id, slot, first, next, bytes, file_bytes });
                }
                None if source.groups == 0 && blank.is_none() => {
                    blank = Some(Recyclable { id, slot, file_bytes });
                }
                None => recyclable.push(Recyclable { id, slot, file_bytes }),
            }
        }
        // Not in a file that holds groups: should its new header be torn, they would still have to be told from others.
        let reuse = blank.is_some_and(|blank| blank.file_bytes == options.segment_bytes);
        let identity = Identity { segment: next_id, life: options.life };
        let header = SegmentHeader { core, identity, recycled: reuse, life_first, life_after };
        let slot = blank.map_or(next_slot, |blank| blank.slot);
        let plan = Plan { slot, reuse, remove: blank.is_some() && !reuse, header };
        let (file, first_slot) = match prepare::make(&disk, &plan, options.segment_bytes).await {
            Ok(made) => {
                segments.open(SegmentInfo {
                    id: next_id,
                    slot,
                    first: life_first,
                    next: life_first,
                    bytes: SEGMENT_HEADER_BYTES,
                    file_bytes: options.segment_bytes,
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
                (stands_in.expect("it is one of them").file.clone(), Some(slot))
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

/// Opens the segments of a core, or one of them.
pub(super) async fn open_sources<D: Disk>(
    disk: &D,
    core: u16,
    only: Option<u32>,
) -> Result<Vec<Source<D>>, LogError> {
    let files = match disk.names(NameOp::List(Directory::Core(core))).await? {
        NameReply::Files(files) => files,
        NameReply::Done | NameReply::Checkpoints(_) => unreachable!("a list answers with files"),
    };
    let mut sources = Vec::new();
    for (name, file_bytes) in files {
        let FileName::Segment { slot, .. } = name else { continue };
        if only.is_some_and(|only| only != slot) {
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
            Ok(_) | Err(HeaderFault::Blank | HeaderFault::Damaged { .. }) => {}
        }
        let identity = match header {
            Ok(header) => Some(header.identity),
            Err(_) => Scan::new(window, None).next().await?.group.map(|(_, group)| group.identity),
        };
        sources.push(Source { slot, file, file_bytes, header, identity, highest_id, groups: 0, kept: None });
    }
    Ok(sources)
}

/// The walk through all groups.
pub(super) struct Walk<'a, D: Disk> {
    disk: &'a D,
    core: u16,
    replay: &'a mut dyn FnMut(Seq, crate::Key<'_>, crate::Record<'_>, u64),
    recovery: LogRecovery,
    /// The number that should come next; unknown before the first group, for older ones may have been retired.
    next: Option<u64>,
    /// The last number that counts, replayed or lost.
    counted: u64,
    /// The highest number that any group or header speaks of.
    seen: u64,
    /// Since the last group that counts: where it ended, whether anything of ours came after it, and the first thing wrong.
    after: Option<(usize, u64)>,
    trace: bool,
    fault: Option<(u32, u64, GroupFault)>,
    cut: bool,
}

impl<'a, D: Disk> Walk<'a, D> {
    pub(super) fn new(
        disk: &'a D,
        core: u16,
        fresh: bool,
        replay: &'a mut dyn FnMut(Seq, crate::Key<'_>, crate::Record<'_>, u64),
    ) -> Walk<'a, D> {
        Walk {
            disk,
            core,
            replay,
            recovery: LogRecovery { fresh, ..LogRecovery::default() },
            next: None,
            counted: 0,
            seen: 0,
            after: None,
            trace: false,
            fault: None,
            cut: false,
        }
    }

    /// What was found.
    pub(super) fn recovery(&self) -> &LogRecovery {
        &self.recovery
    }

    pub(super) fn check_twice(&self, sources: &[Source<D>]) -> Result<(), LogError> {
        for pair in sources.windows(2) {
            if let (Some(first), Some(second)) = (pair[0].identity, pair[1].identity)
                && first.segment == second.segment
            {
                let file = pair[1].name(self.core);
                let (expected, found) = (first.segment + 1, second.segment);
                let what = "segment id";
                return Err(LogError::Twice(Damage { file, offset: 0, what, expected, found }));
            }
        }
        Ok(())
    }

    pub(super) async fn run(&mut self, sources: &mut [Source<D>]) -> Result<(), LogError> {
        let start = sources.iter().position(|source| source.identity.is_some()).unwrap_or(sources.len());
        let fences = fences(sources);
        let oldest_with_header = sources.iter().position(|source| source.header.is_ok());
        for index in start..sources.len() {
            let enters = index == start || sources[index].life() != sources[index - 1].life();
            if enters {
                self.enter_life(sources, start, index, &fences);
            }
            self.walk_segment(sources, index, fences[index]).await?;
            let source = &sources[index];
            if let Err(HeaderFault::Damaged { expected, found }) = source.header
                && source.kept.is_some()
                && oldest_with_header.is_some_and(|oldest| oldest < index)
            {
                let (file, what) = (source.name(self.core), "segment header checksum");
                let (expected, found) = (expected.into(), found.into());
                self.report(LogDamage {
                    damage: Damage { file, offset: 0, what, expected, found },
                    lost: None,
                });
            }
        }
        if self.trace {
            let (at, offset) = self.after.unwrap_or((start, SEGMENT_HEADER_BYTES));
            let segment = sources[at].identity.map_or(0, |identity| identity.segment);
            self.recovery.cut_tail = Some(CutTail { segment, slot: sources[at].slot, offset });
        }
        Ok(())
    }

    /// Leaves one life for the next: what the next one counted and was not found is damage.
    fn enter_life(&mut self, sources: &[Source<D>], start: usize, index: usize, fences: &[Option<u64>]) {
        if index > start
            && let (Some(fence), Some(next)) = (fences[index - 1], self.next)
            && next <= fence
        {
            self.damage_before(sources, index, fence + 1, fence + 1);
        }
        let life = sources[index].life();
        let known = sources[index..].iter().take_while(|source| source.life() == life);
        let header = known.filter_map(|source| source.header.ok()).next();
        self.next = None;
        if let Some(header) = header {
            self.seen = self.seen.max(header.life_first - 1);
            self.counted = self.counted.max(header.life_after);
            // Of the oldest life, groups may have been retired.
            if index > start {
                self.next = Some(header.life_first);
            }
        }
        (self.after, self.trace, self.fault) = (Some((index, SEGMENT_HEADER_BYTES)), false, None);
        self.cut = false;
    }

    async fn walk_segment(
        &mut self,
        sources: &mut [Source<D>],
        index: usize,
        fence: Option<u64>,
    ) -> Result<(), LogError> {
        let mut scan = sources[index].scan(self.disk, self.core);
        loop {
            let found = scan.next().await?;
            self.note(&sources[index], found.gap);
            let Some((at, group)) = found.group else { return Ok(()) };
            sources[index].groups += 1;
            self.seen = self.seen.max(group.next() - 1);
            if planted::active(Bug::StaleSegmentReplayed) {
                // As a log would that trusts what it finds.
                self.next = Some(group.first);
            }
            let next = match self.next {
                Some(next) => next,
                None => {
                    if at != SEGMENT_HEADER_BYTES || self.trace {
                        self.damage_unknown(sources, index, at);
                    }
                    group.first
                }
            };
            let verdict = self.judge(sources, index, (at, &group), next, fence).await?;
            match verdict {
                Verdict::Skip => {
                    self.trace |= fence.is_none();
                    continue;
                }
                Verdict::Stray => {
                    let (file, what) = (sources[index].name(self.core), "sequence number");
                    let damage = Damage { file, offset: at, what, expected: next, found: group.first };
                    self.report(LogDamage { damage, lost: None });
                    continue;
                }
                Verdict::Cut => {
                    (self.cut, self.trace) = (true, true);
                    continue;
                }
                Verdict::DamageAndCut => {
                    let synced = self.synced_later(sources, index, (at, &group)).await?;
                    self.damage_before(sources, index, synced + 1, group.first);
                    (self.cut, self.trace) = (true, true);
                    continue;
                }
                Verdict::DamageBefore => self.damage_before(sources, index, group.first, group.first),
                Verdict::Replay => {}
            }
            self.replay_group(&mut scan, &mut sources[index], at, &group).await?;
            self.after = Some((index, at + group.bytes() as u64));
            (self.trace, self.fault) = (false, None);
            if planted::active(Bug::StaleSegmentReplayed) {
                self.seen = self.counted;
            }
        }
    }

    async fn judge(
        &self,
        sources: &[Source<D>],
        index: usize,
        (at, group): (u64, &GroupHeader),
        next: u64,
        fence: Option<u64>,
    ) -> Result<Verdict, LogError> {
        let era = match fence {
            Some(fence) if group.next() - 1 > fence => Era::Cut,
            Some(_) => Era::Counted,
            None if self.cut => Era::BeyondCut,
            None => Era::Last,
        };
        let place = place(next, group.first);
        let mut lost = missing(next, group.first, group.mark);
        if era == Era::Last
            && decide(era, place, lost) != decide(era, place, missing(next, group.first, u64::MAX))
        {
            let synced = self.synced_later(sources, index, (at, group)).await?;
            lost = missing(next, group.first, synced);
        }
        Ok(decide(era, place, lost))
    }

    /// The highest number that this group or a later one of its life knows to be synced.
    async fn synced_later(
        &self,
        sources: &[Source<D>],
        index: usize,
        (at, group): (u64, &GroupHeader),
    ) -> Result<u64, LogError> {
        let mut synced = group.mark;
        let life = sources[index].life();
        for (ahead, source) in sources.iter().enumerate().skip(index).take_while(|(_, s)| s.life() == life) {
            let mut scan = source.scan(self.disk, self.core);
            while let Some((offset, later)) = scan.next().await?.group {
                if ahead > index || offset > at {
                    synced = synced.max(later.mark);
                }
            }
        }
        Ok(synced)
    }

    async fn replay_group(
        &mut self,
        scan: &mut Scan<D>,
        source: &mut Source<D>,
        at: u64,
        group: &GroupHeader,
    ) -> Result<(), LogError> {
        let body = scan.window.body(at, group).await?;
        let mut broken = None;
        for entry in Records::of(group, body) {
            match entry {
                Ok((seq, key, record, epoch)) => {
                    self.recovery.records += 1;
                    let first = self.recovery.replayed.map_or(seq, |(first, _)| first);
                    self.recovery.replayed = Some((first, seq));
                    (self.replay)(seq, key, record, epoch);
                }
                Err(fault) => broken = Some(fault),
            }
        }
        if let Some(fault) = broken {
            let (file, what) = (source.name(self.core), "records");
            let (expected, found) = (group.count.into(), fault.index.into());
            let lost = Some((Seq(group.first + u64::from(fault.index)), Seq(group.next() - 1)));
            self.report(LogDamage { damage: Damage { file, offset: at, what, expected, found }, lost });
        }
        self.recovery.groups += 1;
        self.next = Some(group.next());
        self.counted = group.next() - 1;
        let end = at + group.bytes() as u64;
        let first = source.kept.map_or(group.first, |(first, ..)| first);
        source.kept = Some((first, group.next(), end));
        Ok(())
    }

    fn note(&mut self, source: &Source<D>, gap: Gap) {
        self.trace |= gap.ours || (gap.nonzero && !source.recycled() && source.header.is_ok());
        if self.fault.is_none()
            && let Some((at, fault)) = gap.fault
        {
            self.fault = Some((source.slot, at, fault));
        }
    }

    /// Reports that the numbers from the next one to before `until` are lost; `found` came instead.
    fn damage_before(&mut self, sources: &[Source<D>], index: usize, until: u64, found: u64) {
        let next = self.next.expect("only what follows something can be missing");
        let damage = self.describe(sources, index, next, found);
        self.report(LogDamage { damage, lost: Some((Seq(next), Seq(until - 1))) });
        self.counted = self.counted.max(until - 1);
        self.next = Some(until);
    }

    /// Reports that something is lost before the first group of all, nobody knows what.
    fn damage_unknown(&mut self, sources: &[Source<D>], index: usize, at: u64) {
        let damage = self.describe(sources, index, SEGMENT_HEADER_BYTES, at);
        self.report(LogDamage { damage, lost: None });
    }

    fn describe(&self, sources: &[Source<D>], index: usize, expected: u64, found: u64) -> Damage {
        if let Some((slot, offset, fault)) = self.fault {
            let (what, expected, found) = match fault {
                GroupFault::Checksum { expected, found } => ("group checksum", expected.into(), found.into()),
                GroupFault::Length { claimed } => ("group length", BLOCK_BYTES as u64, claimed),
                GroupFault::NoMagic | GroupFault::Foreign(_) => ("group header", expected, found),
                GroupFault::Fields => ("group fields", expected, found),
            };
            let file = FileName::Segment { core: self.core, slot };
            return Damage { file, offset, what, expected, found };
        }
        let (at, offset) = self.after.unwrap_or((index, SEGMENT_HEADER_BYTES));
        let file = sources[at].name(self.core);
        Damage { file, offset, what: "sequence number", expected, found }
    }

    fn report(&mut self, damage: LogDamage) {
        if self.recovery.damage.len() < DAMAGE_REPORTS_MAX {
            self.recovery.damage.push(damage);
        } else {
            self.recovery.damage_unreported += 1;
        }
    }
}

/// For each segment, the last number of its life that a later life counted; `None` in the last life.
fn fences<D: Disk>(sources: &[Source<D>]) -> Vec<Option<u64>> {
    let mut fences = vec![None; sources.len()];
    let mut later: Option<(u64, Option<u64>)> = None;
    let mut fence = None;
    for (index, source) in sources.iter().enumerate().rev() {
        let Some(identity) = source.identity else { break };
        if let Some((life, after)) = later
            && life != identity.life
        {
            fence = after.or(fence);
            later = None;
        }
        let after = source.header.ok().map(|header| header.life_after);
        let known = later.and_then(|(_, after)| after);
        later = Some((identity.life, after.or(known)));
        fences[index] = fence;
    }
    fences
}
