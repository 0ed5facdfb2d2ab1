//! Stores against the manifests that name their files.

use std::collections::{BTreeMap, BTreeSet};

use super::report::Field::{Flag, Key, Number};
use super::{Hides, Report, advice, key_range};
use crate::engine::OpenError;
use crate::manifest::{StoreEntry, list};
use crate::table::Targets;
use crate::{Damage, Directory, Disk, DiskError, FileName, ReadError, layout, table, values};

pub(super) async fn inspect<D: Disk>(
    disk: &D,
    only: Option<u16>,
    report: &mut Report<'_>,
) -> Result<(), ReadError> {
    let found = match layout::find(disk).await {
        Ok(Some(found)) => found,
        Ok(None) => {
            let file = FileName::Manifest { core: 0, number: 0 };
            let damage =
                Damage { file, offset: 0, what: "manifest of the first core", expected: 1, found: 0 };
            report.damage(damage, Hides::Unknown, advice::MANIFEST);
            return Ok(());
        }
        Err(error) => return without_manifest(error, report),
    };
    let mut seen = false;
    for (store, entry) in found.stores() {
        if only.is_none_or(|only| only == store) {
            seen = true;
            inspect_store(disk, store, entry, report).await?;
        }
    }
    if let Some(store) = only.filter(|_| !seen) {
        let file = FileName::Table { store, number: 0 };
        let damage = Damage { file, offset: 0, what: "store is in no manifest", expected: 1, found: 0 };
        report.damage(damage, Hides::Unknown, advice::MISMATCH);
    }
    Ok(())
}

/// Nothing names the files: that is damage, and all that can be said.
fn without_manifest(error: OpenError, report: &mut Report<'_>) -> Result<(), ReadError> {
    let manifest = |core| FileName::Manifest { core, number: 0 };
    let damage = |file, what, found| Damage { file, offset: 0, what, expected: 0, found };
    let damage = match error {
        OpenError::Read(error) => {
            let at = match error {
                ReadError::Disk(DiskError { name: Some(name), .. }) => name,
                ReadError::Disk(_)
                | ReadError::Damage(_)
                | ReadError::NoBuffer
                | ReadError::Quarantined(_) => manifest(0),
            };
            return report.failure(error, (at, 0), Hides::Unknown, advice::MANIFEST);
        }
        OpenError::Version { file, found } => damage(file, "format version", found.into()),
        OpenError::MissingManifest { file } => damage(file, "manifest is missing", 0),
        OpenError::MissingLayout { core } => damage(manifest(core), "layout of the node", 0),
        other => unreachable!("finding a layout fails otherwise: {other}"),
    };
    report.damage(damage, Hides::Unknown, advice::MANIFEST);
    Ok(())
}

async fn inspect_store<D: Disk>(
    disk: &D,
    store: u16,
    entry: &StoreEntry,
    report: &mut Report<'_>,
) -> Result<(), ReadError> {
    let present: BTreeMap<FileName, u64> = list(disk, Directory::Store(store)).await?.into_iter().collect();
    let mut named = BTreeSet::new();
    let mut targets = Targets::new();
    for meta in entry.values.values() {
        let file = meta.file();
        named.insert(file);
        let before = report.verdict().damage;
        if let Some(&bytes) = present.get(&file) {
            differs(report, file, ("file length", meta.bytes, bytes));
            values::inspect(disk, file, bytes, Some(meta), report).await?;
        } else {
            missing(report, file, Hides::Unknown);
        }
        let is_whole = report.verdict().damage == before;
        targets.insert(meta.number, values::Target::open(disk, meta, is_whole).await);
    }
    for (level, tables) in entry.levels.iter().enumerate() {
        for meta in tables {
            let file = meta.name.file();
            named.insert(file);
            let fields = [("level", Number(level as u64)), ("entries", Number(meta.entries))];
            report.part(file, "table", (0, meta.bytes), &fields);
            let Some(&bytes) = present.get(&file) else {
                missing(report, file, key_range(&meta.smallest, &meta.largest));
                continue;
            };
            differs(report, file, ("file length", meta.bytes, bytes));
            table::inspect(disk, (meta.name, bytes), Some(meta), Some(&targets), report).await?;
        }
    }
    for area in &entry.areas {
        // Where the table is gone its file is kept for what may be saved of it.
        named.insert(area.table.file());
        let fields = [
            ("block", Number(area.block.into())),
            ("blocks", Number(area.blocks.into())),
            ("detached", Flag(area.detached)),
            ("order_max", Number(area.order_max)),
            ("low", Key(area.low.as_key())),
            ("high", Key(area.high.as_key())),
        ];
        report.part(area.table.file(), "quarantined", (0, 0), &fields);
    }
    for (&file, &bytes) in present.iter().filter(|(file, _)| !named.contains(file)) {
        let damage = Damage { file, offset: 0, what: "no manifest names it", expected: 0, found: bytes };
        report.notice(damage, Hides::Nothing, advice::ORPHAN);
    }
    Ok(())
}

fn missing(report: &mut Report<'_>, file: FileName, hides: Hides) {
    let damage = Damage { file, offset: 0, what: "file is missing", expected: 1, found: 0 };
    report.damage(damage, hides, advice::TABLE);
}

fn differs(report: &mut Report<'_>, file: FileName, (what, expected, found): (&'static str, u64, u64)) {
    if expected != found {
        report.damage(Damage { file, offset: 0, what, expected, found }, Hides::Unknown, advice::MISMATCH);
    }
}
