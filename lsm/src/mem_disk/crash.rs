//! What is left after a power cut, or after the death of the process.
//!
//! The units that a cut keeps or loses are the *pieces*: each sector of each unsynced write, and each unsynced change of
//! names. Operations in flight are pieces too. The device may have written any of them in any order, so any subset is
//! a disk that recovery may meet.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::inode::{Content, Inode, Pages, SECTOR_BYTES, Unsynced};
use super::names::{self, Change, Names};

/// Which unsynced pieces a power cut keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CrashMode {
    /// None: the durable state only.
    None,
    /// All, as if everything had been synced just in time.
    All,
    /// The oldest, up to a random point.
    Prefix,
    /// A random subset.
    Random,
    /// A random subset; one write is cut in the middle, and the sector at the cut is garbage.
    Torn,
}

impl CrashMode {
    /// All modes, for enumeration.
    pub const EVERY: [CrashMode; 5] =
        [CrashMode::None, CrashMode::All, CrashMode::Prefix, CrashMode::Random, CrashMode::Torn];
}

/// Whether a piece survives, asked in the order in which the pieces were issued.
struct Choice<'a> {
    mode: CrashMode,
    rng: &'a mut dyn FnMut() -> u64,
    /// Pieces that a prefix still keeps.
    prefix_left: u64,
    /// Pieces out of eight that a random subset keeps.
    eighths: u64,
}

impl Choice<'_> {
    fn keeps(&mut self) -> bool {
        match self.mode {
            CrashMode::None => false,
            CrashMode::All => true,
            CrashMode::Prefix => {
                let keeps = self.prefix_left > 0;
                self.prefix_left = self.prefix_left.saturating_sub(1);
                keeps
            }
            CrashMode::Random | CrashMode::Torn => (self.rng)() % 8 < self.eighths,
        }
    }
}

/// The names and files that a power cut leaves.
pub(super) fn power_cut(names: &Names, mode: CrashMode, rng: &mut dyn FnMut() -> u64) -> Names {
    let inodes = names.inodes();
    let mut writes: Vec<(u64, u64, usize)> = Vec::new();
    let mut pieces = names.unsynced.len() as u64;
    for (id, inode) in &inodes {
        for (index, write) in inode.content.borrow().unsynced.iter().enumerate() {
            writes.push((write.stamp, *id, index));
            pieces += write.sectors() as u64;
        }
    }
    writes.sort_unstable();
    let torn = match mode {
        CrashMode::Torn if !writes.is_empty() => Some(rng() as usize % writes.len()),
        _ => None,
    };
    let prefix_left = if mode == CrashMode::Prefix { rng() % (pieces + 1) } else { 0 };
    let eighths = [1, 4, 7][(rng() % 3) as usize];
    let mut choice = Choice { mode, rng, prefix_left, eighths };

    let mut left: BTreeMap<u64, Pages> =
        inodes.iter().map(|(id, inode)| (*id, inode.content.borrow().durable.clone())).collect();
    let mut left_names = names.durable.clone();
    let mut changes = names.unsynced.iter().peekable();
    for (turn, (stamp, id, index)) in writes.iter().enumerate() {
        while let Some(done) = changes.next_if(|done| done.stamp <= *stamp) {
            if choice.keeps() {
                done.change.apply(&mut left_names);
            }
        }
        let content = inodes[id].content.borrow();
        let pages = left.get_mut(id).expect("every file has its durable state");
        keep_sectors(&content, &content.unsynced[*index], torn == Some(turn), pages, &mut choice);
    }
    for done in changes {
        if choice.keeps() {
            done.change.apply(&mut left_names);
        }
    }

    let mut made: BTreeMap<u64, Rc<Inode>> = BTreeMap::new();
    let survivors = left_names.into_iter().map(|(name, inode)| {
        let fresh = made.entry(inode.id).or_insert_with(|| {
            let pages = left[&inode.id].clone();
            Inode::new(inode.id, Content { seen: pages.clone(), durable: pages, unsynced: Vec::new() })
        });
        (name, Rc::clone(fresh))
    });
    let seen: BTreeMap<_, _> = survivors.collect();
    Names {
        directories: names.directories.clone(),
        checkpoints: names.checkpoints.clone(),
        durable: seen.clone(),
        seen,
        unsynced: Vec::new(),
    }
}

fn keep_sectors(content: &Content, write: &Unsynced, torn: bool, pages: &mut Pages, choice: &mut Choice<'_>) {
    let cut = torn.then(|| (choice.rng)() as usize % write.sectors());
    for index in 0..write.sectors() {
        let (at, bytes) = write.sector(index);
        let keeps = match cut {
            None => choice.keeps(),
            Some(cut) => index < cut,
        };
        if !write.live[index] {
            continue;
        }
        if cut == Some(index) {
            let mut garbage = [0; SECTOR_BYTES];
            for word in garbage.chunks_exact_mut(8) {
                word.copy_from_slice(&(choice.rng)().to_le_bytes());
            }
            pages.write(at, &garbage);
        } else if keeps {
            pages.write(at, bytes);
        }
    }
    // A file may have got its length without the data in it: it reads as zeros there.
    let grown = write.at + (write.sectors() * SECTOR_BYTES) as u64;
    let keeps_length = match choice.mode {
        CrashMode::None | CrashMode::Prefix => false,
        CrashMode::All => true,
        CrashMode::Random | CrashMode::Torn => (choice.rng)().is_multiple_of(2),
    };
    if keeps_length && grown <= content.seen.len {
        pages.len = pages.len.max(grown);
    }
}

/// The names and files that the death of the process leaves: everything written, synced or not.
pub(super) fn process_death(names: &Names) -> Names {
    let fresh: BTreeMap<u64, Rc<Inode>> = names
        .inodes()
        .into_iter()
        .map(|(id, inode)| (id, Inode::new(id, inode.content.borrow().clone())))
        .collect();
    let move_over = |inode: &Rc<Inode>| Rc::clone(&fresh[&inode.id]);
    let move_names =
        |old: &BTreeMap<_, Rc<Inode>>| old.iter().map(|(name, i)| (*name, move_over(i))).collect();
    let unsynced = names.unsynced.iter().map(|done| {
        let change = match &done.change {
            Change::Add { name, inode } => Change::Add { name: *name, inode: move_over(inode) },
            Change::Remove { name } => Change::Remove { name: *name },
            Change::Rename { from, to, inode } => {
                Change::Rename { from: *from, to: *to, inode: move_over(inode) }
            }
        };
        names::Unsynced { change, ..*done }
    });
    Names {
        directories: names.directories.clone(),
        checkpoints: names.checkpoints.clone(),
        seen: move_names(&names.seen),
        durable: move_names(&names.durable),
        unsynced: unsynced.collect(),
    }
}
