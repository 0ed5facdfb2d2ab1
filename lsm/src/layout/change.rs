//! Laying a node's data out for another number of cores; also its first layout, which has nothing to take over.

use std::ops::ControlFlow;
use std::rc::Rc;

use xxhash_rust::xxh3::xxh3_128_with_seed;

use super::{CORES_MAX, Found, Layout, LayoutMark, clean_bank, core_number};
use crate::engine::{NUMBER_BITS, OpenError, counter_of, left_counter_of};
use crate::manifest::{self, Catalog, Manifest, StoreEntry};
use crate::planted::{self, Bug};
use crate::{
    BuildError, Class, Direction, Directory, Disk, DiskError, Engine, FileId, FileName, KeyRange, Memtable,
    NameOp, Options, Pace, Prefix, Recovery, ScanLimits, TableBuilder, TableMeta, TableName, cover,
};

/// Most bytes of space 0 that are taken over: they are in memory for a moment, before any core has started. The host bounds what it keeps there
/// well below.
const LOCAL_BYTES_MAX: usize = 1 << 30;

/// How far a change has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The log of an old core was recovered.
    Recovered {
        /// Which.
        index: u16,
        /// Of how many.
        cores: u16,
        /// The number that names its directory.
        core: u16,
        /// What was found.
        recovery: Recovery,
    },
    /// What an old core's log held is in tables.
    Flushed {
        /// Which.
        index: u16,
        /// Of how many.
        cores: u16,
    },
    /// The new layout is durable, and counts.
    Committed {
        /// Its cores.
        cores: u16,
    },
    /// Logs and manifests of the old one are gone.
    Cleaned {
        /// How many files.
        files: u64,
    },
}

/// A change that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// The layout from now on.
    pub layout: Layout,
    /// The table files that the change wrote beside flushes: one for each new core, if space 0 holds anything.
    pub tables_written: u64,
}

/// Lays the data out for `cores` cores and at least `stores` stores, whose owner is their number modulo `cores`. `from` is what
/// [`super::find`] found. `options` says how the engine of an old core is opened, given its number and stores.
///
/// After an error, or a power cut at any step, the old layout counts or the new one does, each whole; the same call may be made
/// again.
///
/// # Panics
/// If there are no cores, more than [`CORES_MAX`], or fewer stores than cores.
pub async fn change<D: Disk, P: Pace>(
    disk: &D,
    pace: &P,
    from: Option<&Found>,
    (cores, stores): (u16, u16),
    options: impl Fn(u16, Vec<u16>) -> Options,
    mut progress: impl FnMut(Progress),
) -> Result<Changed, OpenError> {
    assert!((1..=CORES_MAX).contains(&cores), "{cores} cores");
    let stores = stores.max(from.map_or(0, |from| from.layout.stores));
    assert!(stores >= cores, "each core owns at least one store");
    let generation = from.map_or(1, |from| from.layout.generation + 1);
    if from.is_none() {
        refuse_leftovers(disk, stores).await?;
    }
    clean_bank(disk, generation).await?;

    let mut old = Old::default();
    for index in 0..from.map_or(0, |from| from.layout.cores) {
        let from = from.expect("it has cores");
        let owned = from.catalogs[usize::from(index)].stores.keys().copied().collect();
        let from = &from.layout;
        let options = Options { layout: Some(from.mark(index)), ..options(from.core_number(index), owned) };
        let (engine, recovery) = Engine::open(disk.clone(), pace.clone(), options).await?;
        let (cores, core) = (from.cores(), from.core_number(index));
        progress(Progress::Recovered { index, cores, core, recovery: recovery.clone() });
        old.take(&engine, &recovery).await?;
        progress(Progress::Flushed { index, cores: from.cores() });
    }
    if planted::active(Bug::LogRetiredBeforeLayout) && from.is_some() {
        clean_bank(disk, generation + 1).await?;
    }

    let mut catalogs = Vec::new();
    let mut tables_written = 0;
    let common = options(core_number(generation, 0), Vec::new());
    for store in 0..stores {
        disk.names(NameOp::CreateDirectory(Directory::Store(store))).await?;
    }
    for index in 0..cores {
        let core = core_number(generation, index);
        let mark = LayoutMark { generation, cores, index };
        let mut catalog = old.catalog(mark, (0..stores).filter(|store| store % cores == index));
        let home = catalog.home.expect("each core owns a store");
        catalog.next_number = next_number(disk, core, home, &old).await?;
        if old.has_local(index, cores) {
            let table = old.write_local(disk, (core, home), (index, cores), &mut catalog, &common).await?;
            catalog.stores.get_mut(&home).expect("its own store").levels[0].push(Rc::new(table));
            tables_written += 1;
        }
        catalogs.push(catalog);
    }
    // The first core's manifest makes it count, so it comes last.
    for index in (1..cores).chain([0]) {
        let core = core_number(generation, index);
        disk.names(NameOp::CreateDirectory(Directory::Core(core))).await?;
        let catalog = catalogs[usize::from(index)].clone();
        let life = common.entropy ^ u128::from(index) << 64;
        Manifest::begin(disk.clone(), core, life, 0, catalog, &[]).await?;
    }
    if from.is_some() {
        cover::mark("core count changed");
        progress(Progress::Committed { cores });
        let files = clean_bank(disk, generation + 1).await?;
        progress(Progress::Cleaned { files });
    }
    Ok(Changed { layout: Found::new(generation, catalogs).layout, tables_written })
}

/// What is taken over from the old cores.
#[derive(Default)]
struct Old {
    catalogs: Vec<Catalog>,
    /// Space 0, joined over all cores.
    local: Memtable,
    /// No sequence number above this was given out.
    last_seq: u64,
    /// All cores had been closed, and were whole.
    is_clean: bool,
}

impl Old {
    async fn take<D: Disk, P: Pace>(
        &mut self,
        engine: &Engine<D, P>,
        recovery: &Recovery,
    ) -> Result<(), OpenError> {
        if !planted::active(Bug::LayoutForgetsLog) {
            engine.flush_all().await?;
        }
        let mut left = Some(KeyRange::local());
        while let Some(range) = left {
            let mut retired = None;
            let keep = |key: crate::Key<'_>, record: crate::Record<'_>| {
                self.local.insert(key, record);
                if key.prefix.table == 0 || key.prefix.token > 0 {
                    return ControlFlow::Continue(());
                }
                // A mark: what it has retired is not even read.
                retired = record.order.checked_add(1).map(|token| Prefix { token, ..key.prefix });
                ControlFlow::Break(())
            };
            left = engine.scan(&range, Direction::Forward, ScanLimits::records(1024), keep).await?;
            if let (Some(range), Some(prefix)) = (&left, retired) {
                left = Some(range.from(&crate::Key { prefix, partition: b"", sort: b"" }));
            }
            if self.local.bytes() > LOCAL_BYTES_MAX {
                return Err(OpenError::LocalTooLarge { bytes_max: LOCAL_BYTES_MAX as u64 });
            }
        }
        engine.close().await?;
        // The operator was told that these files stay.
        engine.set_damaged_log_aside().await?;
        let (catalog, last_seq) = engine.state();
        self.is_clean = recovery.clean && (self.is_clean || self.catalogs.is_empty());
        self.last_seq = self.last_seq.max(last_seq);
        self.catalogs.push(catalog);
        Ok(())
    }

    /// The catalog of a new core that owns `stores`.
    fn catalog(&self, mark: LayoutMark, stores: impl Iterator<Item = u16>) -> Catalog {
        let mut catalog = Catalog {
            incarnation: self.catalogs.iter().map(|old| old.incarnation).max().unwrap_or(0),
            closed: self.is_clean.then_some(self.last_seq),
            layout: Some(mark),
            ..Catalog::default()
        };
        let mut vnodes = std::collections::BTreeMap::new();
        for store in stores {
            let old = self.catalogs.iter().find_map(|old| Some((old, old.stores.get(&store)?)));
            let mut entry = old.map_or_else(StoreEntry::default, |(_, entry)| entry.clone());
            // The new log begins behind all the old ones.
            entry.flushed_through = self.last_seq;
            catalog.stores.insert(store, entry);
            let here = old.into_iter().flat_map(|(old, _)| old.vnodes.iter());
            vnodes.extend(here.filter(|(_, at)| at.store == store).map(|(&vnode, &at)| (vnode, at)));
            catalog.home = catalog.home.or(Some(store));
        }
        catalog.vnodes = Rc::new(vnodes);
        catalog
    }

    /// Whether there is anything of space 0 for a core.
    fn has_local(&self, index: u16, cores: u16) -> bool {
        self.local.iter().any(|(key, _)| is_for(key.prefix, index, cores))
    }

    /// Writes what is a core's of space 0 into a table of `home`, synced.
    async fn write_local<D: Disk>(
        &self,
        disk: &D,
        (core, home): (u16, u16),
        (index, cores): (u16, u16),
        catalog: &mut Catalog,
        options: &Options,
    ) -> Result<TableMeta, DiskError> {
        let number = u64::from(core) << NUMBER_BITS | catalog.next_number;
        catalog.next_number += 1;
        let name = TableName { store: home, number };
        let file_id = FileId(xxh3_128_with_seed(&options.entropy.to_le_bytes(), number));
        let mut builder =
            TableBuilder::create(disk.clone(), name, file_id, options.table, Class::Flush).await?;
        for (key, record) in self.local.iter().filter(|(key, _)| is_for(key.prefix, index, cores)) {
            builder.add(key, record);
            if builder.wants_flush() {
                builder.flush().await.map_err(failed)?;
            }
        }
        let meta = builder.finish(self.last_seq).await.map_err(failed)?;
        manifest::sync_directory(disk, Directory::Store(home)).await?;
        Ok(meta)
    }
}

/// Whose a key of space 0 is: table 0 is every core's, table n the one's whose number is the remainder of n - 1.
fn is_for(prefix: Prefix, index: u16, cores: u16) -> bool {
    prefix.table == 0 || (prefix.table - 1) % u32::from(cores) == u32::from(index)
}

fn failed(error: BuildError) -> DiskError {
    match error {
        BuildError::Disk(error) => error,
        BuildError::NoBuffer => DiskError::no_buffer("buffer a write", None),
    }
}

/// A file number that no table of this core has: earlier layouts used the same core's, and so did a change that was cut short.
async fn next_number<D: Disk>(disk: &D, core: u16, home: u16, old: &Old) -> Result<u64, DiskError> {
    let tables = old.catalogs.iter().flat_map(Catalog::tables).map(|table| table.name.number);
    let stores = old.catalogs.iter().flat_map(|catalog| catalog.stores.values());
    let named = tables.chain(stores.flat_map(|store| store.values.keys().copied()));
    let left =
        manifest::list(disk, Directory::Store(home)).await?.into_iter().filter_map(|(file, _)| match file {
            FileName::Table { number, .. } | FileName::Values { number, .. } => Some(number),
            FileName::Segment { .. } | FileName::Manifest { .. } => None,
        });
    let named = named.filter_map(|number| counter_of(core, number));
    let taken = named.chain(left.filter_map(|number| left_counter_of(core, number))).max();
    Ok(taken.map_or(1, |taken| taken + 1))
}

/// Without a layout there may be no data.
async fn refuse_leftovers<D: Disk>(disk: &D, stores: u16) -> Result<(), OpenError> {
    let cores = [core_number(1, 0), core_number(2, 0)].map(Directory::Core);
    for directory in cores.into_iter().chain((0..stores).map(Directory::Store)) {
        for (file, _) in manifest::list(disk, directory).await? {
            if !matches!(file, FileName::Manifest { .. }) {
                return Err(OpenError::MissingManifest { file });
            }
        }
    }
    Ok(())
}
