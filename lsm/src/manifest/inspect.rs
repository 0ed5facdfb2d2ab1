//! Inspects manifests: group by group, each edit, and whether they tell one story.

use super::catalog::{Catalog, Contradiction};
use super::format::{self, BLOCK, Edit, Fault, claimed_bytes};
use super::list;
use super::mark::{MARKS_BYTES, Marks};
use crate::inspect::{
    Field::{self, Flag, Hex, Key, Number},
    Hides, Report, advice,
};
use crate::table::Port;
use crate::{BLOCK_BYTES, Class, Damage, Directory, Disk, FileName, Open, ReadError};

/// Bytes of one read.
const READ_BYTES_MAX: u64 = 1 << 20;

/// Inspects all manifests of a core, or one.
pub(crate) async fn inspect<D: Disk>(
    disk: &D,
    core: u16,
    only: Option<u64>,
    report: &mut Report<'_>,
) -> Result<(), ReadError> {
    let mut current = None;
    let mut seen = 0;
    for (name, bytes) in list(disk, Directory::Core(core)).await? {
        if let FileName::Manifest { number, .. } = name
            && only.is_none_or(|only| only == number)
        {
            seen += 1;
            if let Some(catalog) = inspect_file(disk, (core, number), bytes, report).await? {
                current = Some((name, catalog));
            }
        }
    }
    match current {
        Some((name, catalog)) => show_catalog(name, &catalog, report),
        None => {
            let file = FileName::Manifest { core, number: only.unwrap_or(0) };
            let damage = Damage { file, offset: 0, what: "whole manifests", expected: 1, found: seen };
            report.damage(damage, Hides::Unknown, advice::MANIFEST);
        }
    }
    Ok(())
}

/// What its groups lead to, if the first of them holds and they agree.
async fn inspect_file<D: Disk>(
    disk: &D,
    (core, number): (u16, u64),
    bytes: u64,
    report: &mut Report<'_>,
) -> Result<Option<Catalog>, ReadError> {
    let name = FileName::Manifest { core, number };
    let port = Port { disk: disk.clone(), file: disk.open(name, Open::Read).await?, name };
    let mut catalog = Some(Catalog::default());
    let marks = match read_marks(&port, (core, number), bytes, report).await? {
        Some(marks) => marks,
        None => {
            catalog = None;
            Marks::default()
        }
    };
    let (mut at, mut index, mut life) = (MARKS_BYTES as u64, 0, marks.life());
    // The first bad group since the last good one: damage if a good one follows, else a cut tail.
    let mut bad: Option<(Fault, u64)> = None;
    while at < bytes {
        let content = match read_group(&port, at, bytes).await {
            Ok(content) => content,
            Err(error) => {
                report.failure(error, (name, at), Hides::Unknown, advice::MANIFEST)?;
                (catalog, at) = (None, at + BLOCK);
                continue;
            }
        };
        let group = match format::decode_group(core, number, &content) {
            Ok(group) => group,
            Err(fault @ Fault::Damaged { .. }) => {
                bad = bad.or(Some((fault, at)));
                at += BLOCK;
                continue;
            }
            Err(fault @ (Fault::Wrong { .. } | Fault::Version { .. })) => {
                report.damage(fault.at(core, number, at), Hides::Unknown, advice::MISMATCH);
                (catalog, at) = (None, at + BLOCK);
                continue;
            }
        };
        if let Some((fault, offset)) = bad.take() {
            report.damage(fault.at(core, number, offset), Hides::Unknown, advice::MANIFEST);
            (catalog, index) = (None, group.index);
        }
        let fields = [
            ("index", Number(group.index.into())),
            ("life", Hex(group.life)),
            ("edits", Number(group.edits.len() as u64)),
        ];
        report.part(name, "group", (at, group.bytes as u64), &fields);
        if *life.get_or_insert(group.life) != group.life || group.index != index {
            let (expected, found) = (index.into(), group.index.into());
            let damage = Damage { file: name, offset: at, what: "group index", expected, found };
            report.damage(damage, Hides::Unknown, advice::MANIFEST);
            (catalog, index) = (None, group.index);
        }
        for edit in &group.edits {
            describe(edit, |kind, fields| report.part(name, kind, (at, 0), fields));
            if let Some(Err(Contradiction { what, subject })) =
                catalog.as_mut().map(|state| state.apply(edit))
            {
                let damage = Damage { file: name, offset: at, what, expected: 0, found: subject };
                report.damage(damage, Hides::Unknown, advice::BUG);
                catalog = None;
            }
        }
        at += group.bytes as u64;
        index += 1;
    }
    if let Some((fault, offset)) = bad {
        let damage = fault.at(core, number, offset);
        match index < marks.groups {
            true => report.damage(damage, Hides::Unknown, advice::MANIFEST),
            false => report.notice(damage, Hides::Unknown, advice::CUT),
        }
    }
    if let (Some(fault), true) = (marks.judge(index), catalog.is_some()) {
        report.damage(fault.at(core, number, at), Hides::Unknown, advice::MANIFEST);
        catalog = None;
    }
    if let Some(Err(Contradiction { what, subject })) = catalog.as_ref().map(Catalog::check) {
        let damage = Damage { file: name, offset: at, what, expected: 0, found: subject };
        report.damage(damage, Hides::Unknown, advice::BUG);
        catalog = None;
    }
    Ok(catalog.filter(|_| index > 0))
}

/// Its marks; `None` if they refuse the file.
async fn read_marks<D: Disk>(
    port: &Port<D>,
    (core, number): (u16, u64),
    bytes: u64,
    report: &mut Report<'_>,
) -> Result<Option<Marks>, ReadError> {
    let len = bytes.min(MARKS_BYTES as u64) / BLOCK * BLOCK;
    let content = match len {
        0 => Vec::new(),
        len => match port.read(0, len as usize, Class::Background).await {
            Ok(content) => content.to_vec(),
            Err(error) => {
                report.failure(error, (port.name, 0), Hides::Unknown, advice::MANIFEST)?;
                return Ok(None);
            }
        },
    };
    match Marks::read(core, number, &content) {
        Ok(marks) => {
            report.part(port.name, "marks", (0, len), &[("groups", Number(marks.groups.into()))]);
            for (slot, fault) in marks.faults.into_iter().enumerate() {
                let Some(fault) = fault else { continue };
                let damage = fault.at(core, number, slot as u64 * BLOCK);
                report.notice(damage, Hides::Nothing, advice::MARK);
            }
            Ok(Some(marks))
        }
        Err((fault, offset)) => {
            report.damage(fault.at(core, number, offset), Hides::Unknown, advice::MISMATCH);
            Ok(None)
        }
    }
}

/// The group at a place, or its first block where it does not say how long it is.
async fn read_group<D: Disk>(port: &Port<D>, at: u64, file_bytes: u64) -> Result<Vec<u8>, ReadError> {
    let left = file_bytes - at;
    if left < BLOCK {
        return Ok(Vec::new());
    }
    let first = port.read(at, BLOCK_BYTES, Class::Background).await?;
    let len = claimed_bytes(&first).filter(|len| *len <= left).unwrap_or(BLOCK);
    let mut content = first.to_vec();
    while (content.len() as u64) < len {
        let from = at + content.len() as u64;
        let piece = (at + len - from).min(READ_BYTES_MAX);
        content.extend_from_slice(&port.read(from, piece as usize, Class::Background).await?);
    }
    Ok(content)
}

fn show_catalog(file: FileName, catalog: &Catalog, report: &mut Report<'_>) {
    let mut fields = vec![
        ("incarnation", Number(catalog.incarnation)),
        ("next_number", Number(catalog.next_number)),
        ("log_floor", Number(catalog.log_floor)),
        ("stores", Number(catalog.stores.len() as u64)),
        ("vnodes", Number(catalog.vnodes.len() as u64)),
        ("tables", Number(catalog.tables().count() as u64)),
        ("closed", Flag(catalog.closed.is_some())),
    ];
    if let Some(mark) = catalog.layout {
        fields.push(("generation", Number(mark.generation)));
        fields.push(("cores", Number(mark.cores.into())));
        fields.push(("core_index", Number(mark.index.into())));
    }
    report.part(file, "current state", (0, 0), &fields);
    for (&store, entry) in &catalog.stores {
        let mut fields = vec![
            ("store", Number(store.into())),
            ("flushed_through", Number(entry.flushed_through)),
            ("value_files", Number(entry.values.len() as u64)),
            ("quarantined", Number(entry.areas.len() as u64)),
        ];
        const LEVELS: [&str; 4] = ["level_0", "level_1", "level_2", "level_3"];
        for (name, tables) in LEVELS.into_iter().zip(&entry.levels) {
            fields.push((name, Number(tables.len() as u64)));
        }
        let deeper = entry.levels.iter().skip(LEVELS.len()).map(Vec::len).sum::<usize>();
        fields.push(("deeper", Number(deeper as u64)));
        report.part(file, "state of store", (0, 0), &fields);
    }
}

/// Shows an edit: its kind, and what it says.
fn describe(edit: &Edit, mut show: impl FnMut(&'static str, &[(&'static str, Field<'_>)])) {
    let store_of = |store: u16| ("store", Number(store.into()));
    match edit {
        Edit::Opened { incarnation } => show("opened", &[("incarnation", Number(*incarnation))]),
        Edit::Store { store } => show("store", &[store_of(*store)]),
        Edit::Assign { vnode, store, epoch } => {
            show("vnode", &[("vnode", Number((*vnode).into())), store_of(*store), ("epoch", Number(*epoch))]);
        }
        Edit::Add { level, table } => show(
            "add table",
            &[
                store_of(table.name.store),
                ("number", Number(table.name.number)),
                ("level", Number((*level).into())),
                ("bytes", Number(table.bytes)),
                ("entries", Number(table.entries)),
                ("file_id", Hex(table.file_id.0)),
                ("smallest", Key(table.smallest.as_key())),
                ("largest", Key(table.largest.as_key())),
            ],
        ),
        Edit::Remove { table } => {
            show("remove table", &[store_of(table.store), ("number", Number(table.number))]);
        }
        Edit::Flushed { store, seq } => show("flushed", &[store_of(*store), ("seq", Number(*seq))]),
        Edit::NextNumber { number } => show("next number", &[("number", Number(*number))]),
        Edit::LogFloor { seq } => show("log floor", &[("seq", Number(*seq))]),
        Edit::Closed { seq } => show("closed", &[("seq", Number(*seq))]),
        Edit::Home { store } => show("home", &[store_of(*store)]),
        Edit::Layout(mark) => show(
            "layout",
            &[
                ("generation", Number(mark.generation)),
                ("cores", Number(mark.cores.into())),
                ("core_index", Number(mark.index.into())),
            ],
        ),
        Edit::AddValues { values } => show(
            "add value file",
            &[
                store_of(values.store),
                ("number", Number(values.number)),
                ("bytes", Number(values.bytes)),
                ("record_bytes", Number(values.record_bytes)),
                ("file_id", Hex(values.file_id.0)),
            ],
        ),
        Edit::RemoveValues { store, number } => {
            show("remove value file", &[store_of(*store), ("number", Number(*number))]);
        }
        Edit::Quarantine(area) => show(
            "quarantine",
            &[
                store_of(area.table.store),
                ("number", Number(area.table.number)),
                ("block", Number(area.block.into())),
                ("blocks", Number(area.blocks.into())),
                ("detached", Flag(area.detached)),
                ("order_max", Number(area.order_max)),
                ("low", Key(area.low.as_key())),
                ("high", Key(area.high.as_key())),
            ],
        ),
        Edit::Release { table } => {
            show("release", &[store_of(table.store), ("number", Number(table.number))]);
        }
        Edit::Drop { store, extent, seq, tables } => {
            let mut fields = vec![store_of(*store), ("vnode", Number(extent.vnode.into()))];
            fields.extend(extent.table.map(|table| ("table", Number(table.into()))));
            fields.push(("seq", Number(*seq)));
            fields.push(("tables", Number(tables.len() as u64)));
            show("drop", &fields);
        }
        Edit::ForgetDrop { store, extent, seq } => {
            let mut fields = vec![store_of(*store), ("vnode", Number(extent.vnode.into()))];
            fields.extend(extent.table.map(|table| ("table", Number(table.into()))));
            fields.push(("seq", Number(*seq)));
            show("forget drop", &fields);
        }
        Edit::Unassign { vnode } => show("unassign", &[("vnode", Number((*vnode).into()))]),
        Edit::DamagedValues { store, number } => {
            show("damaged value file", &[store_of(*store), ("number", Number(*number))]);
        }
        Edit::Keep { table, values } => {
            let files = ("value_files", Number(values.len() as u64));
            show("keep value files", &[store_of(table.store), ("number", Number(table.number)), files]);
        }
    }
}
