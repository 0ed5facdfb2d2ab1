//! Inspects a log: each segment's header, groups and records, then what recovery would make of all of them, given what the manifest says of
//! where the log begins and ends.

use super::codec::Records;
use super::format::{GroupHeader, SEGMENT_HEADER_BYTES, SegmentHeader};
use super::recover::{LOG_END, LogDamage, Source, open_sources};
use super::scan::{Gap, Window};
use super::walk::Walk;
use super::{LogError, LogRecovery};
use crate::inspect::{
    Field::{self, Flag, Hex, Key, Number, Text},
    Hides, Report, advice,
};
use crate::{BLOCK_BYTES, Damage, Disk, FileName, ReadError, manifest};

/// Inspects the log of a core, or one segment.
pub(crate) async fn inspect<D: Disk>(
    disk: &D,
    core: u16,
    only: Option<u32>,
    report: &mut Report<'_>,
) -> Result<(), ReadError> {
    match inspect_all(disk, core, only, report).await {
        Ok(()) => Ok(()),
        Err(LogError::NoBuffer) => Err(ReadError::NoBuffer),
        Err(LogError::Disk(error)) => {
            let at = error.name.unwrap_or(FileName::Segment { core, slot: 0 });
            report.failure(error.into(), (at, 0), Hides::Unknown, advice::LOG)
        }
        Err(LogError::Version { slot, found }) => {
            let (expected, found) = (super::format::VERSION.into(), found.into());
            let file = FileName::Segment { core, slot };
            let damage = Damage { file, offset: 0, what: "format version", expected, found };
            report.damage(damage, Hides::Unknown, advice::LOG_FOREIGN);
            Ok(())
        }
        Err(LogError::WrongCore { slot, found }) => {
            let (file, expected) = (FileName::Segment { core, slot }, core.into());
            let damage = Damage { file, offset: 0, what: "core", expected, found: found.into() };
            report.damage(damage, Hides::Unknown, advice::LOG_FOREIGN);
            Ok(())
        }
        Err(LogError::Twice(damage)) => {
            report.damage(damage, Hides::Unknown, advice::LOG_FOREIGN);
            Ok(())
        }
        Err(LogError::Missing { .. }) => unreachable!("an inspection does not know what is needed"),
    }
}

async fn inspect_all<D: Disk>(
    disk: &D,
    core: u16,
    only: Option<u32>,
    report: &mut Report<'_>,
) -> Result<(), LogError> {
    let (mut sources, _aside) = open_sources(disk, core, only).await?;
    sources.sort_by_key(|source| source.identity.map_or(0, |identity| identity.segment));
    for source in &sources {
        inspect_segment(disk, core, source, report).await?;
    }
    let mut nothing = |_, _: crate::Key<'_>, _: crate::Record<'_>, _| {};
    // One segment by itself neither begins nor ends the log.
    let known = if only.is_none() { known(disk, core).await } else { (0, 0) };
    let mut walk = Walk::new(disk, core, known, sources.is_empty(), &mut nothing);
    walk.check_twice(&sources)?;
    walk.run(&mut sources).await?;
    let missing = walk.missing;
    judge(core, &walk.recovery, report);
    if let Some(found) = missing {
        let file = FileName::Segment { core, slot: sources.first().map_or(0, |source| source.slot) };
        let (expected, found) = (known.0, found.unwrap_or(0));
        let damage = Damage { file, offset: 0, what: "start of the log", expected, found };
        report.damage(damage, Hides::Unknown, advice::LOG_MISSING);
    }
    Ok(())
}

/// From which number on a start needs the log, and up to which it was synced when it was closed; 0 = it is not known, also where the manifest
/// cannot be read: then no start comes to the log.
async fn known<D: Disk>(disk: &D, core: u16) -> (u64, u64) {
    let catalog = manifest::load(disk, core).await.ok().and_then(|found| found.catalog);
    let floor = catalog.as_ref().map_or(0, |catalog| catalog.log_floor);
    (floor, catalog.and_then(|catalog| catalog.closed).filter(|_| floor > 0).unwrap_or(0))
}

async fn inspect_segment<D: Disk>(
    disk: &D,
    core: u16,
    source: &Source<D>,
    report: &mut Report<'_>,
) -> Result<(), LogError> {
    let name = source.name(core);
    let mut window = Window::new(disk.clone(), source.file.clone(), name, source.file_bytes);
    show_header(name, source, SegmentHeader::copies(window.view(0, BLOCK_BYTES).await?), report);
    let mut scan = source.scan(disk, core);
    let mut at = SEGMENT_HEADER_BYTES;
    loop {
        let found = scan.next().await?;
        let until = found.group.map_or(source.file_bytes, |(offset, _)| offset);
        if until > at {
            show_gap(name, (at, until - at), found.gap, report);
        }
        let Some((offset, group)) = found.group else { return Ok(()) };
        show_group(name, offset, &group, report);
        let body = scan.window.body(offset, &group).await?;
        for entry in Records::of(&group, body) {
            // What does not decode is said by the walk.
            let Ok((seq, key, record, epoch)) = entry else { break };
            let fields = [
                ("seq", Number(seq.0)),
                ("key", Key(key)),
                ("order", Number(record.order)),
                ("actor", Hex(record.actor.into())),
                ("flags", Hex(record.flags.0.into())),
                ("expiry_ms", Number(record.expiry_ms)),
                ("epoch", Number(epoch)),
                ("value_bytes", Number(record.value.len() as u64)),
            ];
            report.record(name, "record", (offset, 0), &fields);
        }
        at = offset + group.bytes() as u64;
    }
}

fn show_header<D: Disk>(name: FileName, source: &Source<D>, copies: [bool; 2], report: &mut Report<'_>) {
    let at = (0, SEGMENT_HEADER_BYTES);
    match source.header {
        Ok(header) => {
            let fields = [
                ("core", Number(header.core.into())),
                ("id", Number(header.identity.segment)),
                ("life", Hex(header.identity.life.into())),
                ("life_first", Number(header.life_first)),
                ("life_after", Number(header.life_after)),
                ("file_bytes", Number(header.file_bytes)),
                ("recycled", Flag(header.recycled)),
            ];
            report.part(name, "header", at, &fields);
            for (copy, _) in copies.into_iter().enumerate().filter(|(_, is_valid)| !is_valid) {
                let damage = Damage {
                    file: name,
                    offset: 0,
                    what: "copy of the header",
                    expected: 1,
                    found: copy as u64,
                };
                report.notice(damage, Hides::Nothing, advice::UNUSED);
            }
        }
        Err(_) => {
            let fields = [("id", Number(source.identity.map_or(0, |identity| identity.segment)))];
            report.part(name, "no header", at, &fields);
        }
    }
}

fn show_group(name: FileName, offset: u64, group: &GroupHeader, report: &mut Report<'_>) {
    let fields: [(&'static str, Field<'_>); 4] = [
        ("first", Number(group.first)),
        ("records", Number(group.count.into())),
        ("mark", Number(group.mark)),
        ("body_bytes", Number(group.body.into())),
    ];
    report.part(name, "group", (offset, group.bytes() as u64), &fields);
}

fn show_gap(name: FileName, at: (u64, u64), gap: Gap, report: &mut Report<'_>) {
    let holds = match gap {
        Gap { nonzero: false, .. } => "zeros",
        Gap { ours: true, .. } => "no whole group, though some of it is of this segment",
        Gap { .. } => "leftovers, or damage",
    };
    report.part(name, "rest", at, &[("holds", Text(holds))]);
}

/// What recovery would report.
fn judge(core: u16, recovery: &LogRecovery, report: &mut Report<'_>) {
    for &LogDamage { damage, lost } in &recovery.damage {
        let hides =
            lost.map_or(Hides::Unknown, |(first, last)| Hides::Records { first: first.0, last: last.0 });
        let is_end = damage.what == LOG_END;
        report.damage(damage, hides, if is_end { advice::LOG_END } else { advice::LOG });
    }
    let file = |slot| FileName::Segment { core, slot };
    if recovery.damage_unreported > 0 {
        let found = recovery.damage_unreported;
        let damage = Damage { file: file(0), offset: 0, what: "further damaged places", expected: 0, found };
        report.damage(damage, Hides::Unknown, advice::LOG);
    }
    if let Some(cut) = recovery.cut_tail {
        let (offset, found) = (cut.offset, cut.segment);
        let damage =
            Damage { file: file(cut.slot), offset, what: "cut tail, in segment", expected: 0, found };
        report.notice(damage, Hides::Unknown, advice::CUT);
    }
    let (first, last) = recovery.replayed.map_or((0, 0), |(first, last)| (first.0, last.0));
    let fields = [
        ("groups", Number(recovery.groups)),
        ("records", Number(recovery.records)),
        ("first", Number(first)),
        ("last", Number(last)),
    ];
    report.part(file(0), "a start would replay", (0, 0), &fields);
}
