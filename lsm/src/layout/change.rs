//! Laying a node's data out for another number of cores; also its first layout, which has nothing to take over.

use std::rc::Rc;

use super::local::{Home, move_all};
use super::{CORES_MAX, Found, Layout, LayoutMark, clean_bank, core_number};
use crate::engine::{OpenError, counter_of, left_counter_of};
use crate::manifest::{self, Catalog, Manifest, StoreEntry};
use crate::planted::{self, Bug};
use crate::{
    Directory, Disk, DiskError, Engine, FileName, NameOp, Options, Pace, ReadError, Recovery, cover,
};

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
    /// Records of the node's own that an old core had cannot be read, and are lost.
    PassedOver {
        /// The core.
        index: u16,
        /// Why.
        error: ReadError,
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
    /// The table files that the change wrote beside flushes: of what space 0 holds, for each new core that gets something of it.
    pub tables_written: u64,
    /// Stretches of space 0 that cannot be read, and were passed over.
    pub passed_over: u64,
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

    let mut engines = Vec::new();
    let mut is_clean = true;
    for index in 0..from.map_or(0, |from| from.layout.cores) {
        let from = from.expect("it has cores");
        let owned = from.catalogs[usize::from(index)].stores.keys().copied().collect();
        let from = &from.layout;
        let options = Options { layout: Some(from.mark(index)), ..options(from.core_number(index), owned) };
        let (engine, recovery) = Engine::open(disk.clone(), pace.clone(), options).await?;
        let (cores, core) = (from.cores(), from.core_number(index));
        is_clean &= recovery.clean;
        progress(Progress::Recovered { index, cores, core, recovery });
        if !planted::active(Bug::LayoutForgetsLog) {
            engine.flush_all().await?;
        }
        progress(Progress::Flushed { index, cores: from.cores() });
        engines.push(engine);
    }
    // All are open, and none will be again: each removes what it does not know from its stores, where new tables are written from here on.
    for store in 0..stores {
        disk.names(NameOp::CreateDirectory(Directory::Store(store))).await?;
    }
    let common = options(core_number(generation, 0), Vec::new());
    let mut homes = Vec::new();
    for index in 0..cores {
        // The first of its stores.
        let (core, home) = (core_number(generation, index), index);
        homes.push(Home::new(core, home, next_number(disk, core, home, &engines).await?));
    }
    let max_seq = engines.iter().map(|engine| engine.state().1).max().unwrap_or(0);
    let passed_over = move_all(disk, &engines, &mut homes, &common, max_seq, &mut progress).await?;
    let mut old = Old { is_clean: is_clean && !engines.is_empty(), ..Old::default() };
    for engine in engines {
        old.take(&engine).await?;
    }
    if planted::active(Bug::LogRetiredBeforeLayout) && from.is_some() {
        clean_bank(disk, generation + 1).await?;
    }

    let mut catalogs = Vec::new();
    let mut tables_written = 0;
    for (index, home) in (0..cores).zip(homes) {
        let mark = LayoutMark { generation, cores, index };
        let mut catalog = old.catalog(mark, (0..stores).filter(|store| store % cores == index));
        assert_eq!(catalog.home, Some(index), "each core owns the store of its number");
        let (tables, next_number) = home.into_tables();
        catalog.next_number = next_number;
        tables_written += tables.len() as u64;
        let levels = &mut catalog.stores.get_mut(&index).expect("its own store").levels;
        levels[0].extend(tables.into_iter().map(Rc::new));
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
    Ok(Changed { layout: Found::new(generation, catalogs).layout, tables_written, passed_over })
}

/// What is taken over from the old cores.
#[derive(Default)]
struct Old {
    catalogs: Vec<Catalog>,
    /// No sequence number above this was given out.
    last_seq: u64,
    /// All cores had been closed, and were whole.
    is_clean: bool,
}

impl Old {
    /// Takes over what a core leaves, which is closed.
    async fn take<D: Disk, P: Pace>(&mut self, engine: &Engine<D, P>) -> Result<(), OpenError> {
        engine.close().await?;
        // The operator was told that these files stay.
        engine.set_damaged_log_aside().await?;
        let (catalog, last_seq) = engine.state();
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
}

/// A file number that no table of this core has: earlier layouts used the same core's, and so did a change that was cut short.
async fn next_number<D: Disk, P: Pace>(
    disk: &D,
    core: u16,
    home: u16,
    engines: &[Engine<D, P>],
) -> Result<u64, DiskError> {
    let catalogs: Vec<Catalog> = engines.iter().map(|engine| engine.state().0).collect();
    let tables = catalogs.iter().flat_map(Catalog::tables).map(|table| table.name.number);
    let stores = catalogs.iter().flat_map(|catalog| catalog.stores.values());
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
