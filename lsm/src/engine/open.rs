//! Opening: the manifest, the tables it names, then the log.
//!
//! What is decided by what is there:
//!
//! | manifest | other files | then |
//! |---|---|---|
//! | none, or one whose first snapshot was cut | none | fresh: a manifest is begun before anything else |
//! | none | segments or tables | refused: nobody knows what they are |
//! | whole, or its last change cut | all files named, a log that goes back to its floor | opened |
//! | whole | a named file is missing | refused: it was taken away, and may be put back |
//! | whole | a named file is damaged, or not the one that was named | opened, its range quarantined (see [`super::quarantine`]) |
//! | whole | a named table cannot be read, since the device fails, as often as it is tried | opened without it: nothing says that it is damaged, and nothing is written of it. See [`super::quarantine`] |
//! | whole | so a named value file | opened: each of its values is read by itself |
//! | whole | vnodes that will not be looked for here, or not those that will | refused |
//! | whole | no log, or one that lacks a part that its floor asks for | refused: it was taken away, and may be put back |
//! | whole | a log that is damaged in such a part | opened, and what is lost is reported |
//! | closed | a log that ends before what it held then | the same |
//! | damaged, another core's, another version's | any | refused |
//!
//! **A full disk.** Opening needs room for a log segment and a manifest. Where there is none, an engine that was opened before
//! opens all the same, with nothing changed on the disk: it serves reads and refuses writes, until a job has made both.
//!
//! Tables and value files that nothing names are removed, after everything else held. Nothing is changed before the log's recovery, and
//! nothing that counts before the new manifest.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::job::Running;
use super::levels::Levels;
use super::obsolete::Obsolete;
use super::outcome::{OpenError, Recovery};
use super::output::left_counter_of;
use super::pending::Pending;
use super::quarantine::{self, quarantined_in, unreadable_in};
use super::scrub::Scrub;
use super::stats::Counters;
use super::store::{Store, Stores};
use super::{Core, Engine, Options};
use crate::compaction::Floors;
use crate::log::{Log, LogOptions, LogRecovery};
use crate::manifest::{self, Catalog, Edit, LoadError, Manifest, Turn};
use crate::overlap::in_order;
use crate::planted::{self, Bug};
use crate::table::TABLE_FORMAT_FIELD;
use crate::values::VALUES_FORMAT_FIELD;
use crate::{
    BlockCache, Class, Damage, Directory, Disk, DiskError, DiskErrorKind, FileName, Key, NameOp, Pace,
    ReadError, Record, Seq, Table, TableMeta, ValueFile, cover,
};

type Tables<D> = BTreeMap<u64, Rc<Table<D>>>;
type Values<D> = BTreeMap<u64, Rc<ValueFile<D>>>;

pub(super) async fn open<D: Disk, P: Pace>(
    disk: D,
    pace: P,
    options: Options,
) -> Result<(Engine<D, P>, Recovery), OpenError> {
    assert!(!options.stores.is_empty(), "a core without stores");
    options.check()?;
    let core = options.core;
    for directory in directories(&options) {
        disk.names(NameOp::CreateDirectory(directory)).await?;
    }
    let found = manifest::load(&disk, core).await.map_err(|error| match error {
        LoadError::Read(error) => OpenError::Read(error),
        LoadError::Version { number, found } => {
            OpenError::Version { file: FileName::Manifest { core, number }, found }
        }
    })?;
    let mut numbers = found.numbers;
    let mut catalog = match found.catalog {
        Some(catalog) => catalog,
        None => {
            refuse_leftovers(&disk, &options).await?;
            // Before the log: a log without a manifest would be refused after a power cut here.
            let begun =
                Manifest::begin(disk.clone(), core, options.entropy, 0, Catalog::default(), &numbers).await?;
            numbers = vec![begun.number()];
            Catalog::default()
        }
    };
    let fresh = catalog.incarnation == 0;
    let closed = catalog.closed;
    if let Some(&store) = catalog.stores.keys().find(|store| !options.stores.contains(store)) {
        return Err(OpenError::MissingStore(store));
    }
    check_vnodes(&options, &catalog)?;
    let OpenedTables { tables, lost: lost_tables, unreadable } = open_tables(&disk, &catalog).await?;
    let OpenedValues { values, lost: lost_values, withheld } = open_values(&disk, &catalog).await?;
    for edit in lost_tables.iter().chain(&lost_values) {
        cover::mark("file quarantined when it could not be opened");
        let applied = catalog.apply(edit);
        assert!(applied.is_ok(), "what was lost was there: {applied:?}");
    }
    let mut stores = make_stores(&options, &catalog, &tables);
    let (log, log_recovery) = replay(&disk, &options, (&catalog, closed), &mut stores).await?;

    catalog_opened(&mut catalog, &options, &stores, &log);
    let orphans = orphans(&disk, &options, &catalog).await?;
    let taken = orphans.iter().filter_map(|&file| left_counter_of(core, number_of(file))).max();
    let next_number = catalog.next_number.max(taken.map_or(1, |taken| taken + 1)).max(1);
    if log_recovery.records > 0 {
        cover::mark("log replayed");
    }
    // Behind what a log held when it was closed is what the life before had left there, which was told of then.
    let replayed = log_recovery.replayed.map_or(0, |(_, last)| last.0);
    let is_whole = closed.is_some_and(|closed| replayed.max(catalog.log_floor.saturating_sub(1)) >= closed);
    let cut_tail = log_recovery.cut_tail.filter(|_| !is_whole);
    if cut_tail.is_some() {
        cover::mark("log tail cut");
    }
    if found.cut_tail {
        cover::mark("manifest tail cut");
    }
    if !orphans.is_empty() {
        cover::mark("orphaned table removed");
    }
    let recovery = Recovery {
        fresh,
        clean: closed.is_some() && !found.cut_tail && cut_tail.is_none() && log_recovery.damage.is_empty(),
        incarnation: catalog.incarnation,
        cut_tail,
        cut_manifest: found.cut_tail,
        damage: log_recovery.damage,
        quarantined: quarantined_in(&catalog),
        unreadable: unreadable_in(&catalog, &unreadable),
        replayed: log_recovery.records,
        vnodes: catalog.vnodes.iter().map(|(&vnode, at)| (vnode, at.store)).collect(),
    };
    let (life, edit_bytes_max) = (options.entropy, options.manifest_bytes_max);
    let manifest = Manifest::put_off(disk.clone(), core, life, edit_bytes_max, catalog, &numbers);
    let mut is_put_off = !log.is_begun();
    if !is_put_off {
        match manifest.make_good().await {
            Err(error) if error.kind == DiskErrorKind::NoSpace && !fresh => is_put_off = true,
            made => made?,
        }
    }
    if is_put_off {
        cover::mark("opened on a full disk");
    } else {
        log.retire_below(Seq(manifest.catalog().log_floor));
    }
    let mut obsolete = Obsolete::default();
    obsolete.discard(orphans.into_iter());
    let core = Core {
        cache: Rc::new(BlockCache::new(0)),
        records: Rc::clone(&stores.records),
        disk,
        pace,
        options,
        log,
        manifest,
        stores: RefCell::new(stores),
        tables: RefCell::new(tables),
        values: RefCell::new(values),
        wasteful: RefCell::new(BTreeSet::new()),
        suspect_values: RefCell::new(BTreeSet::new()),
        withheld_values: RefCell::new(withheld),
        obsolete: RefCell::new(obsolete),
        suspects: RefCell::new(BTreeSet::new()),
        unreadable: RefCell::new(unreadable),
        frail: RefCell::new(BTreeSet::new()),
        spent: RefCell::new(BTreeSet::new()),
        scrub: Scrub::default(),
        rewritten: RefCell::new(BTreeSet::new()),
        next_number: Cell::new(next_number),
        running: Running::default(),
        flush_turn: Turn::default(),
        commit_turn: Turn::default(),
        compact_turn: Turn::default(),
        trimmed_last: Cell::new(false),
        compaction_due: Cell::new(false),
        survey_due: Cell::new(false),
        garbage_due_ms: Cell::new(u64::MAX),
        compacting: Cell::new(None),
        closing: Cell::new(false),
        work_ended: Cell::new(false),
        floors: RefCell::new(Floors::default()),
        pending: Pending::default(),
        debt_bytes: Cell::new(0),
        open_bytes: Cell::new(0),
        build_bytes: Cell::new(0),
        refusal: Cell::new(None),
        owed_ps: Cell::new(0),
        disk_full: Cell::new(is_put_off),
        log_full: Cell::new(false),
        is_put_off: Cell::new(is_put_off),
        setbacks: Cell::new(0),
        fenced: Cell::new(false),
        counters: Counters::default(),
    };
    core.count_tables();
    core.survey();
    core.weigh();
    Ok((Engine(Rc::new(core)), recovery))
}

fn directories(options: &Options) -> impl Iterator<Item = Directory> {
    std::iter::once(Directory::Core(options.core)).chain(options.stores.iter().copied().map(Directory::Store))
}

/// Whether every vnode is where it will be looked for. Served on otherwise, records would be out of sight.
fn check_vnodes(options: &Options, catalog: &Catalog) -> Result<(), OpenError> {
    let Some(expected) = &options.vnodes else { return Ok(()) };
    if catalog.vnodes.is_empty() {
        return Ok(());
    }
    let found = catalog.vnodes.keys().copied();
    let astray = found.clone().find(|vnode| expected.binary_search(vnode).is_err());
    let missing = || expected.iter().copied().find(|vnode| !catalog.vnodes.contains_key(vnode));
    astray.or_else(missing).map_or(Ok(()), |vnode| Err(OpenError::MovedVnode(vnode)))
}

/// Without a manifest there may be nothing else.
async fn refuse_leftovers<D: Disk>(disk: &D, options: &Options) -> Result<(), OpenError> {
    for directory in directories(options) {
        for (file, _) in manifest::list(disk, directory).await? {
            match file {
                FileName::Manifest { .. } => {}
                FileName::Segment { .. } | FileName::Table { .. } | FileName::Values { .. } => {
                    return Err(OpenError::MissingManifest { file });
                }
            }
        }
    }
    Ok(())
}

/// Times that a file is opened before it is taken for unreadable.
const OPENS_MAX: usize = 3;

/// Files that are opened together. Each reads a piece of its index or filter at a time, which all of them may hold at once
/// within the least budget for background buffers that a node gives a core.
const OPENS_AT_ONCE_MAX: usize = 16;

/// The tables that a manifest names.
struct OpenedTables<D: Disk> {
    tables: Tables<D>,
    /// What becomes of those that are damaged.
    lost: Vec<Edit>,
    /// Numbers of those that the device did not give.
    unreadable: BTreeSet<u64>,
}

/// Opens every table that the manifest names, as far as they can be.
async fn open_tables<D: Disk>(disk: &D, catalog: &Catalog) -> Result<OpenedTables<D>, OpenError> {
    let (mut tables, mut lost, mut unreadable) = (BTreeMap::new(), Vec::new(), BTreeSet::new());
    let opens = catalog.tables().map(async |meta| {
        let (name, id) = (meta.name, Some(meta.file_id));
        let open = || Table::open(disk.clone(), name, meta.bytes, id, Class::Background);
        Ok::<_, OpenError>((meta, open_file(name.file(), open).await?))
    });
    in_order(opens, OPENS_AT_ONCE_MAX, |(meta, opened)| {
        let name = meta.name;
        match opened {
            // Merges take the manifest's word for which keys are in it.
            Ok(table) if !spans_alike(table.meta(), meta) => lost.extend(quarantine::whole(meta)),
            Ok(table) => {
                let areas = catalog.stores[&name.store].areas_of(name.number);
                areas.for_each(|area| table.quarantine(area.block, area.blocks));
                tables.insert(name.number, table);
            }
            Err(Unopened::Damaged) => lost.extend(quarantine::whole(meta)),
            Err(Unopened::Unreadable) => {
                cover::mark("table that cannot be read left alone");
                unreadable.insert(name.number);
            }
        }
        Ok(())
    })
    .await?;
    Ok(OpenedTables { tables, lost, unreadable })
}

/// Whether two descriptions of a table agree about its first and its last key.
fn spans_alike(left: &TableMeta, right: &TableMeta) -> bool {
    (&left.smallest, &left.largest) == (&right.smallest, &right.largest)
}

/// The value files that a manifest names.
struct OpenedValues<D: Disk> {
    values: Values<D>,
    /// What becomes of those that are damaged.
    lost: Vec<Edit>,
    /// Numbers of those that were opened unread, since the device did not give what opening reads.
    withheld: BTreeSet<u64>,
}

/// Opens every value file that the manifest names, as far as they can be.
async fn open_values<D: Disk>(disk: &D, catalog: &Catalog) -> Result<OpenedValues<D>, OpenError> {
    let (mut values, mut lost, mut withheld) = (BTreeMap::new(), Vec::new(), BTreeSet::new());
    let opens = catalog.stores.values().flat_map(|store| store.values.values()).map(async |meta| {
        let (name, id) = (meta.file(), Some(meta.file_id));
        let open = || ValueFile::open(disk.clone(), name, meta.bytes, id, Class::Background);
        let opened = match open_file(name, open).await? {
            Ok(file) => Some((file, false)),
            Err(Unopened::Damaged) => None,
            // Its first page or its last: what else is in it is under checksums of its own.
            Err(Unopened::Unreadable) => {
                cover::mark("value file opened unread");
                let file = ValueFile::open_unread(disk.clone(), name, meta.bytes, meta.file_id).await?;
                Some((file, true))
            }
        };
        Ok::<_, OpenError>((meta, opened))
    });
    in_order(opens, OPENS_AT_ONCE_MAX, |(meta, opened)| {
        match opened {
            Some((file, is_withheld)) => {
                values.insert(meta.number, Rc::new(file));
                withheld.extend(is_withheld.then_some(meta.number));
            }
            None => lost.push(Edit::DamagedValues { store: meta.store, number: meta.number }),
        }
        Ok(())
    })
    .await?;
    Ok(OpenedValues { values, lost, withheld })
}

/// Why a file that is there was not opened.
enum Unopened {
    /// It is not what was written, which quarantines it.
    Damaged,
    /// The device fails. That says nothing of the file, and a mark is for good: whether it is whole shows when it can be read.
    Unreadable,
}

/// Opens a file, or says why it cannot be; fails if the node should not go on.
async fn open_file<T, F: Future<Output = Result<T, ReadError>>>(
    name: FileName,
    open: impl Fn() -> F,
) -> Result<Result<T, Unopened>, OpenError> {
    let mut last = open().await;
    for _ in 1..OPENS_MAX {
        if last.is_ok() {
            break;
        }
        last = open().await;
    }
    match last {
        Err(ReadError::Disk(DiskError { kind: DiskErrorKind::NotFound, .. })) => {
            Err(OpenError::MissingTable(name))
        }
        // Written by another version: nothing is wrong with it.
        Err(ReadError::Damage(Damage { what: TABLE_FORMAT_FIELD | VALUES_FORMAT_FIELD, found, .. })) => {
            Err(OpenError::Version { file: name, found: u16::try_from(found).unwrap_or(u16::MAX) })
        }
        Err(ReadError::Damage(_)) => Ok(Err(Unopened::Damaged)),
        Err(ReadError::Disk(DiskError { kind: DiskErrorKind::Io, .. })) => Ok(Err(Unopened::Unreadable)),
        Err(error @ (ReadError::Disk(_) | ReadError::NoBuffer | ReadError::Quarantined(_))) => {
            Err(OpenError::Read(error))
        }
        Ok(file) => Ok(Ok(file)),
    }
}

fn make_stores<D: Disk>(options: &Options, catalog: &Catalog, tables: &Tables<D>) -> Stores<D> {
    let empty = manifest::StoreEntry::default();
    let stores = options.stores.iter().map(|&number| {
        let entry = catalog.stores.get(&number).unwrap_or(&empty);
        let levels = Levels::of(entry, |meta| tables.get(&meta.name.number).cloned());
        Store::new(number, levels, entry.flushed_through)
    });
    let mut stores = Stores::new(
        stores.collect(),
        catalog.home.unwrap_or(options.stores[0]),
        options.join,
        Rc::default(),
        options.chunk_bytes(),
    );
    for (&vnode, at) in catalog.vnodes.iter() {
        stores.place(vnode, at.store);
    }
    stores
}

/// Recovers the log into the memtables of `stores`.
async fn replay<D: Disk>(
    disk: &D,
    options: &Options,
    (catalog, closed): (&Catalog, Option<u64>),
    stores: &mut Stores<D>,
) -> Result<(Log<D>, LogRecovery), OpenError> {
    let flushed = catalog.stores.values().map(|store| store.flushed_through).max().unwrap_or(0);
    let life = (options.entropy >> 64) as u64 ^ options.entropy as u64;
    let spent = flushed.max(catalog.dropped_through());
    // Numbers up to `spent` are left out by replays: should the log have lost its end, they must not be given out again.
    let log_options = LogOptions {
        life,
        seq_min: Seq(spent.max(catalog.log_floor.saturating_sub(1)) + 1),
        // The floor is 0 until the first open is through: then there may be no log yet.
        needed: Seq(catalog.log_floor),
        through: Seq(closed.filter(|_| catalog.log_floor > 0).unwrap_or(0)),
        token_seed: options.table.token_seed,
        ..options.log
    };
    let mut unplaced = None;
    let mut apply = |seq: Seq, key: Key<'_>, record: Record<'_>, _epoch: u64| {
        // Below the floor every record is in tables, or was dropped when it had been.
        let is_dead = catalog.is_dropped(key.prefix, seq.0) && !planted::active(Bug::DropForgetsLog);
        if is_dead || seq.0 < catalog.log_floor {
            return;
        }
        match stores.index_of(&key) {
            Some(index) if seq.0 > stores.stores[index].flushed_through => {
                stores.apply(index, seq.0, key, record);
            }
            Some(_) => {}
            None => unplaced = unplaced.or(Some(key.prefix.vnode)),
        }
    };
    let (log, recovery) = Log::recover(disk.clone(), options.core, log_options, &mut apply).await?;
    if let Some(vnode) = unplaced {
        return Err(OpenError::UnplacedVnode(vnode));
    }
    stores.applied = log.next_seq().0 - 1;
    Ok((log, recovery))
}

/// What opening changes in the catalog.
fn catalog_opened<D: Disk>(catalog: &mut Catalog, options: &Options, stores: &Stores<D>, log: &Log<D>) {
    let mut edits = vec![Edit::Opened { incarnation: catalog.incarnation + 1 }];
    edits.extend(options.stores.iter().map(|&store| Edit::Store { store }));
    if catalog.home.is_none() {
        edits.push(Edit::Home { store: options.stores[0] });
    }
    debug_assert_eq!(stores.applied + 1, log.next_seq().0);
    edits.extend(options.layout.map(Edit::Layout));
    edits.push(Edit::LogFloor { seq: stores.log_floor() });
    for edit in &edits {
        let applied = catalog.apply(edit);
        assert!(applied.is_ok(), "opening contradicts nothing: {applied:?}");
    }
}

/// Tables and value files that nothing names, nor is quarantined in: left by a power cut in a flush or compaction.
async fn orphans<D: Disk>(
    disk: &D,
    options: &Options,
    catalog: &Catalog,
) -> Result<Vec<FileName>, OpenError> {
    let values = catalog.stores.values().flat_map(|store| store.values.values());
    let areas = catalog.stores.values().flat_map(|store| store.areas.iter().map(|area| area.table.file()));
    let tables = catalog.tables().map(|table| table.name.file());
    let named: BTreeSet<FileName> = tables.chain(values.map(|values| values.file())).chain(areas).collect();
    let mut orphans = Vec::new();
    for &store in &options.stores {
        for (file, _) in manifest::list(disk, Directory::Store(store)).await? {
            if !named.contains(&file) {
                orphans.push(file);
            }
        }
    }
    Ok(orphans)
}

fn number_of(file: FileName) -> u64 {
    match file {
        FileName::Table { number, .. } | FileName::Values { number, .. } => number,
        FileName::Segment { .. } | FileName::Manifest { .. } => unreachable!("a store's directory has none"),
    }
}
