//! Opening: the manifest, the tables it names, the log.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::outcome::{OpenError, Recovery};
use super::stats::Counters;
use super::store::Stores;
use super::write::Pending;
use super::{Core, Engine, Options};
use crate::manifest::{self, Edit, LoadError, Manifest};
use crate::{Directory, Disk, FileName, NameOp, Pace};

pub(super) async fn open<D: Disk, P: Pace>(
    disk: D,
    pace: P,
    options: Options,
) -> Result<(Engine<D, P>, Recovery), OpenError> {
    assert!(!options.stores.is_empty(), "a core without stores");
    for directory in directories(&options) {
        disk.names(NameOp::CreateDirectory(directory)).await?;
    }
    let found = manifest::load(&disk, options.core).await.map_err(|error| match error {
        LoadError::Read(error) => OpenError::Read(error),
        LoadError::Version { number, found } => {
            OpenError::Version { file: FileName::Manifest { core: options.core, number }, found }
        }
    })?;
    let fresh = found.catalog.is_none();
    let mut catalog = found.catalog.unwrap_or_default();
    let clean = catalog.closed.is_some() && !found.cut_tail;
    for edit in opening_edits(&options, catalog.incarnation + 1) {
        let applied = catalog.apply(&edit);
        assert!(applied.is_ok(), "opening contradicts nothing: {applied:?}");
    }
    if let Some(store) = catalog.stores.keys().find(|store| !options.stores.contains(store)) {
        return Err(OpenError::MissingStore(*store));
    }
    let mut stores = Stores::new(&options.stores);
    let vnodes: Vec<(u16, u16)> = catalog.vnodes.iter().map(|(&vnode, at)| (vnode, at.store)).collect();
    for &(vnode, store) in &vnodes {
        stores.place(vnode, store);
    }
    let recovery = Recovery { fresh, clean, incarnation: catalog.incarnation, vnodes, ..Recovery::default() };
    let life = options.entropy;
    let edit_bytes_max = options.manifest_bytes_max;
    let manifest =
        Manifest::begin(disk.clone(), options.core, life, edit_bytes_max, catalog, &found.numbers).await?;
    let core = Core {
        disk,
        pace,
        options,
        manifest,
        stores: RefCell::new(stores),
        pending: RefCell::new(Pending::default()),
        counters: Counters::default(),
        fenced: Cell::new(false),
    };
    Ok((Engine(Rc::new(core)), recovery))
}

fn directories(options: &Options) -> impl Iterator<Item = Directory> {
    std::iter::once(Directory::Core(options.core)).chain(options.stores.iter().copied().map(Directory::Store))
}

fn opening_edits(options: &Options, incarnation: u64) -> Vec<Edit> {
    let mut edits = vec![Edit::Opened { incarnation }];
    edits.extend(options.stores.iter().map(|&store| Edit::Store { store }));
    edits
}
