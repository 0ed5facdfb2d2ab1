//! A B+-tree from (prefix, key in the arena) to where the entry is in the arena.
//!
//! Nodes hold arrays of integers and are searched as such; the arena is touched only where two prefixes are equal. Nodes
//! live in slabs that never move, are named by number, and are never removed: a memtable only grows until it is dropped
//! whole. Inner nodes remember an arena entry beside each separating prefix, for separators between equal prefixes; the
//! arena never changes the key of an entry, so that stays right after the entry's record was superseded.

use std::cmp::Ordering;

use super::arena::EntryRef;
use crate::prefetch::{prefetch, prefetch_all};

/// Most entries in a leaf.
const LEAF: usize = 48;
/// Most children of an inner node.
const FAN: usize = 48;
/// Deepest tree; half-full nodes of this depth would hold more entries than memory can.
const DEPTH_MAX: usize = 12;
/// Nodes in one allocation.
const SLAB: usize = 16;
/// Most bytes that an insertion takes: the nodes of a slab of either kind.
pub(crate) const STEP_BYTES: usize = SLAB * (size_of::<Leaf>() + size_of::<Inner>());
/// No leaf follows.
const NONE: u32 = u32::MAX;

struct Leaf {
    len: usize,
    next: u32,
    prefixes: [u128; LEAF],
    entries: [EntryRef; LEAF],
}

struct Inner {
    /// Number of children; one separator fewer.
    len: usize,
    prefixes: [u128; FAN - 1],
    keys: [EntryRef; FAN - 1],
    children: [u32; FAN],
}

/// A place in a leaf.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spot {
    leaf: u32,
    index: u32,
}

/// Where a key is, or would be, and the way there.
pub(super) struct Path {
    pub(super) found: bool,
    spot: Spot,
    inners: [(u32, u32); DEPTH_MAX],
}

/// See the module.
pub(super) struct Tree {
    leaves: Slab<Leaf>,
    inners: Slab<Inner>,
    /// Levels of inner nodes above the leaves.
    depth: usize,
    root: u32,
}

impl Tree {
    pub(super) fn new() -> Tree {
        let mut leaves = Slab::default();
        let root = leaves.push(Leaf::new());
        Tree { leaves, inners: Slab::default(), depth: 0, root }
    }

    /// Bytes reserved from the allocator.
    pub(super) fn bytes(&self) -> usize {
        self.leaves.bytes() + self.inners.bytes()
    }

    /// Gives some nodes back to the allocator; it is no tree any more then. False if there are none.
    pub(super) fn pop(&mut self) -> bool {
        self.leaves.pop() || self.inners.pop()
    }

    /// Finds the first place whose key is not before the sought one; `compare` says how an arena entry of the same prefix
    /// compares with it.
    #[inline]
    pub(super) fn seek(&self, prefix: u128, compare: impl Fn(EntryRef) -> Ordering) -> Path {
        let mut inners = [(0, 0); DEPTH_MAX];
        let mut node = self.root;
        for slot in &mut inners[..self.depth] {
            let inner = self.inners.get(node);
            let separators = inner.len - 1;
            let child =
                upper_bound(&inner.prefixes[..separators], &inner.keys[..separators], prefix, &compare);
            *slot = (node, child as u32);
            node = inner.children[child];
        }
        let leaf = self.leaves.get(node);
        let (index, found) =
            lower_bound(&leaf.prefixes[..leaf.len], &leaf.entries[..leaf.len], prefix, &compare);
        Path { found, spot: Spot { leaf: node, index: index as u32 }, inners }
    }

    /// The leaf in which a search for a key ends.
    #[inline]
    pub(super) fn leaf_of(&self, prefix: u128, compare: impl Fn(EntryRef) -> Ordering) -> u32 {
        let mut node = self.root;
        for _ in 0..self.depth {
            let inner = self.inners.get(node);
            let separators = inner.len - 1;
            let child =
                upper_bound(&inner.prefixes[..separators], &inner.keys[..separators], prefix, &compare);
            node = inner.children[child];
        }
        node
    }

    /// Asks for what a search in a leaf reads.
    #[inline]
    pub(super) fn prefetch_leaf(&self, leaf: u32) {
        let leaf = self.leaves.get(leaf);
        prefetch(&leaf.len);
        prefetch_all(&leaf.prefixes);
    }

    /// The first entry in a leaf with a prefix, if there is one.
    #[inline]
    pub(super) fn first_in(&self, leaf: u32, prefix: u128) -> Option<EntryRef> {
        let leaf = self.leaves.get(leaf);
        let prefixes = &leaf.prefixes[..leaf.len];
        let at = prefixes.partition_point(|&here| here < prefix);
        (prefixes.get(at) == Some(&prefix)).then(|| leaf.entries[at])
    }

    /// The entry of a key in its leaf.
    #[inline]
    pub(super) fn find_in(
        &self,
        leaf: u32,
        prefix: u128,
        compare: impl Fn(EntryRef) -> Ordering,
    ) -> Option<EntryRef> {
        let leaf = self.leaves.get(leaf);
        let (at, found) =
            lower_bound(&leaf.prefixes[..leaf.len], &leaf.entries[..leaf.len], prefix, &compare);
        found.then(|| leaf.entries[at])
    }

    /// The entry that a search found.
    #[inline]
    pub(super) fn found(&self, path: &Path) -> Option<EntryRef> {
        path.found.then(|| self.leaves.get(path.spot.leaf).entries[path.spot.index as usize])
    }

    /// Points the key that a search found at another entry.
    pub(super) fn set(&mut self, path: &Path, entry: EntryRef) {
        assert!(path.found);
        self.leaves.get_mut(path.spot.leaf).entries[path.spot.index as usize] = entry;
    }

    /// Adds a key where a search, after which the tree has not changed, did not find it.
    #[inline]
    pub(super) fn insert(&mut self, path: &Path, prefix: u128, entry: EntryRef) {
        assert!(!path.found);
        let (number, index) = (path.spot.leaf, path.spot.index as usize);
        let leaf = self.leaves.get_mut(number);
        if leaf.len < LEAF {
            leaf.insert(index, prefix, entry);
            return;
        }
        let mut right = leaf.split(if leaf.next == NONE && index == LEAF { LEAF } else { LEAF / 2 });
        if index > leaf.len || leaf.len == LEAF {
            right.insert(index - leaf.len, prefix, entry);
        } else {
            leaf.insert(index, prefix, entry);
        }
        let separator = (right.prefixes[0], right.entries[0]);
        let right = self.leaves.push(right);
        self.leaves.get_mut(number).next = right;
        self.grow(path, separator, right);
    }

    /// Hangs `child`, whose smallest key is `separator`, into the inner nodes of `path`, splitting from the bottom up.
    fn grow(&mut self, path: &Path, mut separator: (u128, EntryRef), mut child: u32) {
        for &(number, index) in path.inners[..self.depth].iter().rev() {
            let index = index as usize;
            let inner = self.inners.get_mut(number);
            if inner.len < FAN {
                inner.insert(index, separator, child);
                return;
            }
            let (up, mut right) = inner.split();
            if index < inner.len {
                inner.insert(index, separator, child);
            } else {
                right.insert(index - inner.len, separator, child);
            }
            child = self.inners.push(right);
            separator = up;
        }
        assert!(self.depth < DEPTH_MAX, "a tree this deep does not fit in memory");
        let mut root = Inner::new();
        root.children[0] = self.root;
        root.len = 1;
        root.insert(0, separator, child);
        self.root = self.inners.push(root);
        self.depth += 1;
    }

    /// The last place whose key is before the one that was sought.
    pub(super) fn before(&self, path: &Path) -> Option<Spot> {
        if let Some(index) = path.spot.index.checked_sub(1) {
            return Some(Spot { leaf: path.spot.leaf, index });
        }
        // Up to where another child stands to the left, and there down the right side. No leaf but a lone root is empty.
        let up = path.inners[..self.depth].iter().rposition(|&(_, child)| child > 0)?;
        let (inner, child) = path.inners[up];
        let mut node = self.inners.get(inner).children[child as usize - 1];
        for _ in up + 1..self.depth {
            let inner = self.inners.get(node);
            node = inner.children[inner.len - 1];
        }
        let index = self.leaves.get(node).len as u32 - 1;
        Some(Spot { leaf: node, index })
    }

    /// The place before everything.
    pub(super) fn first(&self) -> Spot {
        let mut node = self.root;
        for _ in 0..self.depth {
            node = self.inners.get(node).children[0];
        }
        Spot { leaf: node, index: 0 }
    }

    /// What is at `spot` or at the next place that holds something; moves `spot` there.
    #[inline]
    pub(super) fn at(&self, spot: &mut Spot) -> Option<(u128, EntryRef)> {
        loop {
            let leaf = self.leaves.get(spot.leaf);
            let index = spot.index as usize;
            if index < leaf.len {
                return Some((leaf.prefixes[index], leaf.entries[index]));
            }
            if leaf.next == NONE {
                return None;
            }
            *spot = Spot { leaf: leaf.next, index: 0 };
        }
    }
}

impl Path {
    /// Where the key is, or the place before which it would be.
    pub(super) fn spot(&self) -> Spot {
        self.spot
    }
}

impl Spot {
    /// The place after this one.
    pub(super) fn next(self) -> Spot {
        Spot { leaf: self.leaf, index: self.index + 1 }
    }

    /// The place before this one, if it is in the same leaf.
    pub(super) fn previous(self) -> Option<Spot> {
        Some(Spot { leaf: self.leaf, index: self.index.checked_sub(1)? })
    }
}

impl Leaf {
    fn new() -> Leaf {
        Leaf { len: 0, next: NONE, prefixes: [0; LEAF], entries: [EntryRef::default(); LEAF] }
    }

    #[inline]
    fn insert(&mut self, index: usize, prefix: u128, entry: EntryRef) {
        let len = self.len;
        self.prefixes.copy_within(index..len, index + 1);
        self.entries.copy_within(index..len, index + 1);
        self.prefixes[index] = prefix;
        self.entries[index] = entry;
        self.len = len + 1;
    }

    /// Keeps the first `keep` entries and returns the rest. Keeping all serves keys that arrive in order.
    fn split(&mut self, keep: usize) -> Leaf {
        let mut right = Leaf::new();
        right.len = self.len - keep;
        right.next = self.next;
        right.prefixes[..right.len].copy_from_slice(&self.prefixes[keep..self.len]);
        right.entries[..right.len].copy_from_slice(&self.entries[keep..self.len]);
        self.len = keep;
        right
    }
}

impl Inner {
    fn new() -> Inner {
        Inner { len: 0, prefixes: [0; FAN - 1], keys: [EntryRef::default(); FAN - 1], children: [0; FAN] }
    }

    /// Adds `child` after child `index`.
    fn insert(&mut self, index: usize, (prefix, key): (u128, EntryRef), child: u32) {
        let separators = self.len - 1;
        self.prefixes.copy_within(index..separators, index + 1);
        self.keys.copy_within(index..separators, index + 1);
        self.children.copy_within(index + 1..self.len, index + 2);
        self.prefixes[index] = prefix;
        self.keys[index] = key;
        self.children[index + 1] = child;
        self.len += 1;
    }

    /// Keeps the lower half; returns the separator between the halves, and the upper half.
    fn split(&mut self) -> ((u128, EntryRef), Inner) {
        let keep = FAN / 2;
        let mut right = Inner::new();
        right.len = self.len - keep;
        right.prefixes[..right.len - 1].copy_from_slice(&self.prefixes[keep..self.len - 1]);
        right.keys[..right.len - 1].copy_from_slice(&self.keys[keep..self.len - 1]);
        right.children[..right.len].copy_from_slice(&self.children[keep..self.len]);
        self.len = keep;
        ((self.prefixes[keep - 1], self.keys[keep - 1]), right)
    }
}

/// The first index whose key is not before the sought one, and whether it is the sought one.
#[inline]
fn lower_bound(
    prefixes: &[u128],
    entries: &[EntryRef],
    prefix: u128,
    compare: impl Fn(EntryRef) -> Ordering,
) -> (usize, bool) {
    let low = prefixes.partition_point(|&here| here < prefix);
    if low == prefixes.len() || prefixes[low] != prefix {
        return (low, false);
    }
    let equal = prefixes[low..].partition_point(|&here| here == prefix);
    let at = low + entries[low..low + equal].partition_point(|&entry| compare(entry) == Ordering::Less);
    (at, at < low + equal && compare(entries[at]) == Ordering::Equal)
}

/// The first index whose key is after the sought one.
#[inline]
fn upper_bound(
    prefixes: &[u128],
    entries: &[EntryRef],
    prefix: u128,
    compare: impl Fn(EntryRef) -> Ordering,
) -> usize {
    let low = prefixes.partition_point(|&here| here < prefix);
    if low == prefixes.len() || prefixes[low] != prefix {
        return low;
    }
    let equal = prefixes[low..].partition_point(|&here| here == prefix);
    low + entries[low..low + equal].partition_point(|&entry| compare(entry) != Ordering::Greater)
}

/// Numbered nodes that never move.
struct Slab<T> {
    chunks: Vec<Vec<T>>,
    len: usize,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab { chunks: Vec::new(), len: 0 }
    }
}

impl<T> Slab<T> {
    fn bytes(&self) -> usize {
        self.chunks.len() * SLAB * size_of::<T>()
    }

    fn pop(&mut self) -> bool {
        self.chunks.pop().is_some()
    }

    fn push(&mut self, node: T) -> u32 {
        if self.len == self.chunks.len() * SLAB {
            self.chunks.push(Vec::with_capacity(SLAB));
        }
        self.chunks[self.len / SLAB].push(node);
        self.len += 1;
        u32::try_from(self.len - 1).expect("memory holds fewer nodes than this")
    }

    #[inline]
    fn get(&self, number: u32) -> &T {
        &self.chunks[number as usize / SLAB][number as usize % SLAB]
    }

    #[inline]
    fn get_mut(&mut self, number: u32) -> &mut T {
        &mut self.chunks[number as usize / SLAB][number as usize % SLAB]
    }
}
