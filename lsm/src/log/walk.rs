//! The walk of recovery through all groups of a log: what is replayed, what is damage, and what is cut. What recovery makes of them, and why,
//! is in `recover`; the decision about each group in `verdict`.
//!
//! It reads and reports; it changes nothing.

use std::collections::BTreeSet;

use super::LogError;
use super::codec::Records;
use super::format::{GroupFault, GroupHeader, HeaderFault, SEGMENT_HEADER_BYTES, SegmentHeader};
use super::recover::{CutTail, DAMAGE_REPORTS_MAX, LOG_END, LogDamage, LogRecovery, Source};
use super::scan::{Gap, Scan};
use super::verdict::{Era, Verdict, decide, missing, place};
use crate::planted::{self, Bug};
use crate::{BLOCK_BYTES, Damage, Disk, FileName, Seq};

/// The walk through all groups.
pub(super) struct Walk<'a, D: Disk> {
    disk: &'a D,
    core: u16,
    replay: &'a mut dyn FnMut(Seq, crate::Key<'_>, crate::Record<'_>, u64),
    pub(super) recovery: LogRecovery,
    /// The slots of the files in which damage was found.
    pub(super) damaged: BTreeSet<u32>,
    /// What the owner needs, and what it knows to have been synced; 0 = unknown.
    needed: u64,
    through: u64,
    /// The first number that the oldest life has to say, as far as it is needed; 0 = unknown.
    base: u64,
    /// The number that should come next; unknown before the first group, for older ones may have been retired.
    next: Option<u64>,
    /// What is needed begins in a part that is not there; with the number where the log begins, if it says one.
    pub(super) missing: Option<Option<u64>>,
    /// A place where something stands of which nothing can be read, not even whose it is, and that no damage was reported for.
    nameless: Option<usize>,
    /// The last number that counts, replayed or lost.
    pub(super) counted: u64,
    /// The highest number that any group or header speaks of.
    pub(super) seen: u64,
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
        (needed, through): (u64, u64),
        fresh: bool,
        replay: &'a mut dyn FnMut(Seq, crate::Key<'_>, crate::Record<'_>, u64),
    ) -> Walk<'a, D> {
        Walk {
            disk,
            core,
            replay,
            recovery: LogRecovery { fresh, ..LogRecovery::default() },
            damaged: BTreeSet::new(),
            needed,
            through,
            base: 0,
            next: None,
            missing: None,
            nameless: None,
            counted: 0,
            seen: 0,
            after: None,
            trace: false,
            fault: None,
            cut: false,
        }
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
        self.nameless = sources[..start].iter().position(|source| source.nameless.is_some());
        if start == sources.len() && self.needed > 0 {
            self.missing = Some(None);
        }
        let fences = fences(sources);
        let oldest_with_header = sources.iter().position(|source| source.header.is_ok());
        for index in start..sources.len() {
            let enters = index == start || sources[index].life() != sources[index - 1].life();
            if enters {
                self.enter_life(sources, start, index, &fences);
            }
            self.walk_segment(sources, (start, index), fences[index]).await?;
            let source = &sources[index];
            let is_younger = oldest_with_header.is_some_and(|oldest| oldest < index);
            let is_reported = match source.header {
                Err(HeaderFault::Damaged { .. }) => is_younger && source.kept.is_some(),
                Err(HeaderFault::Fields) => true,
                Ok(_) | Err(HeaderFault::Blank | HeaderFault::Version(_)) => false,
            };
            if is_reported {
                self.damage_header(source, None);
            }
        }
        self.check_end(sources);
        if let Some(at) = self.nameless {
            self.damage_header(&sources[at], None);
        }
        for source in sources.iter() {
            if let Some(expected) = source.cut_from() {
                let (file, what, found) = (source.name(self.core), "segment length", source.file_bytes);
                self.report(LogDamage {
                    damage: Damage { file, offset: found, what, expected, found },
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
            && let Some(fence) = fences[index - 1]
        {
            if self.next.is_none() && self.base > 0 {
                // Of the oldest life no group was found, though its segment was.
                self.next = Some(self.base);
            }
            match self.next {
                Some(next) if next <= fence => self.damage_before(sources, index, fence + 1, fence + 1),
                None if self.trace && self.needed == 0 => self.damage_unknown(sources, index, fence),
                Some(_) | None => {}
            }
        }
        let life = sources[index].life();
        let known = sources[index..].iter().take_while(|source| source.life() == life);
        let header = known.filter_map(|source| source.header.ok()).next();
        self.next = None;
        self.base = if index == start { self.needed } else { 0 };
        if let Some(header) = header {
            self.seen = self.seen.max(header.life_first - 1);
            self.counted = self.counted.max(header.life_after);
            if index > start {
                self.next = Some(header.life_first);
            } else if self.needed > 0 {
                // Of the oldest life, groups may have been retired.
                self.base = self.base.max(header.life_first);
                self.check_front(sources, &header);
            }
        }
        (self.after, self.trace, self.fault) = (Some((index, SEGMENT_HEADER_BYTES)), false, None);
        self.cut = false;
    }

    /// What the oldest life that is left counted of earlier ones was retired, or it is damaged, or missing.
    fn check_front(&mut self, sources: &[Source<D>], oldest: &SegmentHeader) {
        if oldest.life_after < self.needed {
            return;
        }
        match self.nameless.take() {
            Some(at) => self.damage_header(&sources[at], Some((Seq(self.needed), Seq(oldest.life_after)))),
            None => self.missing = Some(Some(oldest.life_first)),
        }
    }

    /// What the owner knows of the end of the log, and nothing here speaks of, is lost. Nothing needs to stand where it was: another
    /// segment has been opened for it, which is not there any more. The file where the log ends now is as it should be.
    fn check_end(&mut self, sources: &[Source<D>]) {
        let first = self.needed.max(self.seen + 1);
        let Some((at, offset)) = self.after else { return };
        if self.missing.is_none() && first <= self.through {
            let (file, what) = (sources[at].name(self.core), LOG_END);
            let damage = Damage { file, offset, what, expected: self.through, found: self.seen };
            self.tell(LogDamage { damage, lost: Some((Seq(first), Seq(self.through))) });
            (self.seen, self.counted) = (self.through, self.through);
        }
    }

    /// The number that should come first in the log, of which nothing was met before the group at `at`.
    fn expect_first(
        &mut self,
        sources: &[Source<D>],
        (start, index): (usize, usize),
        (at, group): (u64, &GroupHeader),
        fence: Option<u64>,
    ) -> u64 {
        let is_trace = at != SEGMENT_HEADER_BYTES || self.trace;
        if self.base == 0 || group.first <= self.base || fence.is_some_and(|fence| fence < self.base) {
            if is_trace {
                self.damage_unknown(sources, index, at);
            }
            return group.first;
        }
        // A place where it was: before the group, or in a file that is there.
        if is_trace || index > start || self.nameless.is_some() {
            self.next = Some(self.base);
            return self.base;
        }
        self.missing = Some(Some(group.first));
        group.first
    }

    async fn walk_segment(
        &mut self,
        sources: &mut [Source<D>],
        (start, index): (usize, usize),
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
                None => self.expect_first(sources, (start, index), (at, &group), fence),
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
        // Of what is not needed, a part without a trace is no loss: it was retired, and written over before what is older, which could
        // not go.
        if until > self.needed || self.trace || self.fault.is_some() {
            let damage = self.describe(sources, index, next, found);
            self.report(LogDamage { damage, lost: Some((Seq(next), Seq(until - 1))) });
        }
        self.counted = self.counted.max(until - 1);
        self.next = Some(until);
    }

    /// Reports that something is lost before the first group of all, nobody knows what.
    fn damage_unknown(&mut self, sources: &[Source<D>], index: usize, at: u64) {
        let damage = self.describe(sources, index, SEGMENT_HEADER_BYTES, at);
        self.report(LogDamage { damage, lost: None });
    }

    /// Reports a header that is not valid.
    fn damage_header(&mut self, source: &Source<D>, lost: Option<(Seq, Seq)>) {
        let (what, expected, found) = match source.header {
            Err(HeaderFault::Damaged { expected, found }) => {
                ("segment header checksum", expected.into(), found.into())
            }
            Err(HeaderFault::Fields) => ("segment header fields", 1, 0),
            Ok(_) | Err(HeaderFault::Blank | HeaderFault::Version(_)) => ("segment header", 1, 0),
        };
        let file = source.name(self.core);
        self.report(LogDamage { damage: Damage { file, offset: 0, what, expected, found }, lost });
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
        if let FileName::Segment { slot, .. } = damage.damage.file {
            self.damaged.insert(slot);
        }
        self.tell(damage);
    }

    fn tell(&mut self, damage: LogDamage) {
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
