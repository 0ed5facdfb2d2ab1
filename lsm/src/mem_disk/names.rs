//! Names and directories: what is seen, what is durable, and the changes in between.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::inode::Inode;
use crate::{Directory, FileName};

/// The checkpoint in which a name is; `None` = none, it is the disk's own.
pub(super) type Root = Option<u64>;
/// A file's name among all of the disk.
pub(super) type Place = (Root, FileName);

/// One change of names, whole or not at all.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Add { name: Place, inode: Rc<Inode> },
    Remove { name: Place },
    Rename { from: Place, to: Place, inode: Rc<Inode> },
}

/// A change of names that no sync covers yet.
#[derive(Clone, Debug)]
pub(super) struct Unsynced {
    /// The disk's time at which it was done.
    pub(super) stamp: u64,
    pub(super) change: Change,
    /// A sync of its directory failed after it: no later sync makes it durable, though one may say so.
    pub(super) doomed: bool,
}

impl Change {
    /// Whether they change the same name.
    fn meets(&self, other: &Change) -> bool {
        let names = |change: &Change| match change {
            Change::Add { name, .. } | Change::Remove { name } => [*name, *name],
            Change::Rename { from, to, .. } => [*from, *to],
        };
        let others = names(other);
        names(self).iter().any(|name| others.contains(name))
    }

    fn directory(&self) -> (Root, Directory) {
        let (Change::Add { name: (root, name), .. }
        | Change::Remove { name: (root, name) }
        | Change::Rename { to: (root, name), .. }) = self;
        (*root, name.directory())
    }

    pub(super) fn apply(&self, names: &mut BTreeMap<Place, Rc<Inode>>) {
        match self {
            Change::Add { name, inode } => {
                names.insert(*name, Rc::clone(inode));
            }
            Change::Remove { name } => {
                names.remove(name);
            }
            Change::Rename { from, to, inode } => {
                names.remove(from);
                names.insert(*to, Rc::clone(inode));
            }
        }
    }
}

/// All names of a disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    /// A made directory is durable at once: there is no operation that would sync its parent.
    pub(super) directories: BTreeSet<(Root, Directory)>,
    /// Those that have a directory: durable at once as well.
    pub(super) checkpoints: BTreeSet<u64>,
    /// What opens and lists see.
    pub(super) seen: BTreeMap<Place, Rc<Inode>>,
    /// What survives a power cut for certain.
    pub(super) durable: BTreeMap<Place, Rc<Inode>>,
    /// What may survive, oldest first.
    pub(super) unsynced: Vec<Unsynced>,
}

impl Names {
    /// A completed change.
    pub(super) fn change(&mut self, change: Change, stamp: u64) {
        change.apply(&mut self.seen);
        self.unsynced.push(Unsynced { stamp, change, doomed: false });
    }

    /// A directory sync that was called at `stamp` succeeds.
    pub(super) fn sync(&mut self, directory: (Root, Directory), stamp: u64) {
        let mut left: Vec<Unsynced> = Vec::new();
        for done in std::mem::take(&mut self.unsynced) {
            if done.doomed || done.change.directory() != directory || done.stamp >= stamp {
                left.push(done);
                continue;
            }
            done.change.apply(&mut self.durable);
            // What was doomed does not come after what is durable now.
            left.retain(|older| !older.doomed || !older.change.meets(&done.change));
        }
        self.unsynced = left;
    }

    /// A directory sync fails: what it should have covered is lost to every later sync.
    pub(super) fn doom(&mut self, directory: (Root, Directory)) {
        for done in self.unsynced.iter_mut().filter(|done| done.change.directory() == directory) {
            done.doomed = true;
        }
    }

    /// Every file that has, had, or may get back a name; by id, so that the order is the same in every run.
    pub(super) fn inodes(&self) -> BTreeMap<u64, Rc<Inode>> {
        let changed = self.unsynced.iter().filter_map(|done| match &done.change {
            Change::Add { inode, .. } | Change::Rename { inode, .. } => Some(inode),
            Change::Remove { .. } => None,
        });
        self.seen
            .values()
            .chain(self.durable.values())
            .chain(changed)
            .map(|inode| (inode.id, Rc::clone(inode)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::inode::Content;
    use super::*;

    #[test]
    fn names_are_durable_after_a_sync_of_their_own_directory() {
        let table = |number| (None, FileName::Table { store: 1, number });
        let inode = Inode::new(1, Content::default());
        let mut names = Names::default();
        names.change(Change::Add { name: table(1), inode: Rc::clone(&inode) }, 1);
        names.sync((None, Directory::Core(0)), 2);
        assert!(names.durable.is_empty());
        names.sync((None, Directory::Store(1)), 1);
        assert!(names.durable.is_empty(), "done at the very moment of the call is not before it");
        names.sync((None, Directory::Store(1)), 2);
        assert_eq!(names.durable.keys().collect::<Vec<_>>(), [&table(1)]);
        names.change(Change::Rename { from: table(1), to: table(2), inode }, 3);
        assert_eq!(names.seen.keys().collect::<Vec<_>>(), [&table(2)]);
        assert_eq!(names.durable.keys().collect::<Vec<_>>(), [&table(1)]);
        assert_eq!(names.inodes().len(), 1);
    }

    #[test]
    fn a_failed_sync_dooms_the_changes_that_it_should_have_covered() {
        let table = |number| (None, FileName::Table { store: 1, number });
        let mut names = Names::default();
        let add = |number| Change::Add { name: table(number), inode: Inode::new(number, Content::default()) };
        names.change(add(1), 1);
        names.doom((None, Directory::Store(2)));
        names.sync((None, Directory::Store(1)), 2);
        assert!(names.durable.contains_key(&table(1)), "another directory's sync failed");
        names.change(Change::Remove { name: table(1) }, 3);
        names.doom((None, Directory::Store(1)));
        names.change(add(2), 4);
        names.sync((None, Directory::Store(1)), 5);
        assert_eq!(names.durable.keys().collect::<Vec<_>>(), [&table(1), &table(2)]);
        assert_eq!(names.unsynced.len(), 1, "it may be done all the same");
        names.change(add(1), 6);
        names.sync((None, Directory::Store(1)), 7);
        assert_eq!(names.unsynced.len(), 0, "not after a later change of the same name");
    }
}
