//! How many cores a node's data is laid out for, and the way from one number to another.
//!
//! Each core has a log and a manifest of its own, and owns whole stores. With another number of cores the stores are dealt
//! anew: what the old logs still hold is flushed into the stores it belongs to, manifests for the new cores name the tables
//! where they are, and the old logs and manifests go. No table is rewritten, none is moved.
//!
//! **Banks.** A layout has a generation, and the manifests of a core say which they belong to. Odd generations have their
//! cores' files in the directories of cores 0, 1, 2 …, even ones in those from [`BANK`] on, so that the old and the new lie
//! beside each other until the new is whole.
//!
//! **The point of no return** is the manifest of the first core: manifests 1, 2, … are made durable first, each before the
//! next, and 0 last. A bank counts if its manifest 0 holds, and the one with the higher generation is the layout. A power cut
//! before that leaves the old bank, which was only opened, flushed and closed, as it would be by any start; one after it
//! leaves files that nobody looks at. Either way [`clean`] removes the bank that does not count, last core first, each
//! directory synced before the next: what is left of a bank, whether half made or half removed, has no gaps
//! behind core 1. Files of logs that were set aside because damage was found in them stay where they are: nobody but an operator looks at
//! them, and the next core whose directory it is goes on from them, so that no more than its few stay.
//!
//! **Space 0** is the node's own, and has a home store in each core. Its records are read from all old homes, joined, and written
//! into tables for each new home, however many they are. Those of table 0 go to every core: a bound that one core had raised is not forgotten by any. Those of a
//! table n from 1 on go to one, number (n - 1) modulo the cores: a queue that core n - 1 had filled has one owner again, and comes back
//! to the core of its number when that is there. What such a table's mark says was retired (`Engine::retire`) stays behind.
//! A store that was a home once may still hold what was read from it, and shows it when it is a home again: a mark has to outlast its
//! records.

mod change;
mod local;

use crate::engine::OpenError;
use crate::log::ASIDE_SLOT_MIN;
use crate::manifest::{self, Catalog, LoadError, StoreEntry};
use crate::{Directory, Disk, DiskError, DiskErrorKind, FileName, NameOp};

pub use change::{Changed, Progress, change};

/// Most cores of a node.
pub const CORES_MAX: u16 = 1 << 10;
/// Where the directories of even generations begin.
pub const BANK: u16 = 1 << 15;

/// What a manifest says of the layout it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayoutMark {
    /// From 1.
    pub generation: u64,
    /// Cores of the node.
    pub cores: u16,
    /// This core, from 0.
    pub index: u16,
}

/// A node's layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    generation: u64,
    cores: u16,
    stores: u16,
    vnodes: Vec<(u16, u16)>,
}

/// A layout, with what its manifests say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The layout.
    pub layout: Layout,
    /// By core.
    catalogs: Vec<Catalog>,
}

impl Found {
    fn new(generation: u64, catalogs: Vec<Catalog>) -> Found {
        let numbers = catalogs.iter().flat_map(|catalog| catalog.stores.keys());
        let stores = numbers.max().map_or(0, |last| last + 1);
        let vnodes = catalogs.iter().flat_map(|catalog| catalog.vnodes.iter());
        let vnodes = vnodes.map(|(&vnode, at)| (vnode, at.store)).collect();
        Found { layout: Layout { generation, cores: catalogs.len() as u16, stores, vnodes }, catalogs }
    }
}

impl Found {
    /// Every store with what its manifest says of it.
    pub(crate) fn stores(&self) -> impl Iterator<Item = (u16, &StoreEntry)> {
        self.catalogs.iter().flat_map(|catalog| &catalog.stores).map(|(&store, entry)| (store, entry))
    }
}

impl Layout {
    /// How often the node's data was laid out.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// How many cores it is laid out for.
    pub fn cores(&self) -> u16 {
        self.cores
    }

    /// How many stores there are; they are numbered from 0.
    pub fn stores(&self) -> u16 {
        self.stores
    }

    /// Where vnodes live: `(vnode, store)`, in no order.
    pub fn vnodes(&self) -> &[(u16, u16)] {
        &self.vnodes
    }

    /// The number that names a core's directory and files: [`crate::Options::core`].
    pub fn core_number(&self, index: u16) -> u16 {
        core_number(self.generation, index)
    }

    /// What a core's manifest says of it: [`crate::Options::layout`].
    pub fn mark(&self, index: u16) -> LayoutMark {
        LayoutMark { generation: self.generation, cores: self.cores, index }
    }
}

fn core_number(generation: u64, index: u16) -> u16 {
    assert!(index < CORES_MAX, "a node of more than {CORES_MAX} cores");
    if generation.is_multiple_of(2) { BANK + index } else { index }
}

/// The layout of the data on a disk; `None` if there is none yet.
pub async fn find<D: Disk>(disk: &D) -> Result<Option<Found>, OpenError> {
    let mut first: Option<(LayoutMark, Catalog)> = None;
    for bank in [0, BANK] {
        let Some(catalog) = load(disk, bank).await? else { continue };
        let mark = catalog.layout.ok_or(OpenError::MissingLayout { core: bank })?;
        if first.as_ref().is_none_or(|(other, _)| other.generation < mark.generation) {
            first = Some((mark, catalog));
        }
    }
    // The other bank may be half gone.
    let Some((mark, catalog)) = first else { return Ok(None) };
    let mut catalogs = vec![catalog];
    for index in 1..mark.cores {
        let core = core_number(mark.generation, index);
        let file = FileName::Manifest { core, number: 0 };
        let catalog = load(disk, core).await?.ok_or(OpenError::MissingManifest { file })?;
        if catalog.layout != Some(LayoutMark { index, ..mark }) {
            return Err(OpenError::MissingLayout { core });
        }
        catalogs.push(catalog);
    }
    Ok(Some(Found::new(mark.generation, catalogs)))
}

/// Removes what is left of the bank that does not count. Returns how many files went. May be done again after an error.
pub async fn clean<D: Disk>(disk: &D, layout: &Layout) -> Result<u64, DiskError> {
    clean_bank(disk, layout.generation + 1).await
}

async fn clean_bank<D: Disk>(disk: &D, generation: u64) -> Result<u64, DiskError> {
    let mut cores = vec![core_number(generation, 0)];
    for index in 1..CORES_MAX {
        let core = core_number(generation, index);
        if list_bank(disk, core).await?.is_empty() {
            break;
        }
        cores.push(core);
    }
    let mut removed = 0;
    for core in cores.into_iter().rev() {
        let files = list_bank(disk, core).await?;
        if files.is_empty() {
            continue;
        }
        // The log first: a manifest without its log is less than nothing, a log without a manifest is a riddle.
        let (logs, manifests): (Vec<_>, Vec<_>) =
            files.into_iter().partition(|(name, _)| matches!(name, FileName::Segment { .. }));
        for (name, _) in logs.into_iter().chain(manifests) {
            match disk.names(NameOp::Unlink(name)).await {
                Ok(_) | Err(DiskError { kind: DiskErrorKind::NotFound, .. }) => removed += 1,
                Err(error) => return Err(error),
            }
        }
        manifest::sync_directory(disk, Directory::Core(core)).await?;
    }
    Ok(removed)
}

/// The files of a core, but those that were set aside.
async fn list_bank<D: Disk>(disk: &D, core: u16) -> Result<Vec<(FileName, u64)>, DiskError> {
    let mut files = manifest::list(disk, Directory::Core(core)).await?;
    files.retain(|(name, _)| !matches!(name, FileName::Segment { slot, .. } if *slot >= ASIDE_SLOT_MIN));
    Ok(files)
}

async fn load<D: Disk>(disk: &D, core: u16) -> Result<Option<Catalog>, OpenError> {
    match manifest::load(disk, core).await {
        Ok(found) => Ok(found.catalog),
        Err(LoadError::Read(error)) => Err(OpenError::Read(error)),
        Err(LoadError::Version { number, found }) => {
            Err(OpenError::Version { file: FileName::Manifest { core, number }, found })
        }
    }
}
