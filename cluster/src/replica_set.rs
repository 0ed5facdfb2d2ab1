//! A small set of replicas, each named by its place in a key's preference list.

use ferrite_wire::limits::REPLICAS_MAX;

const _: () = assert!(REPLICAS_MAX <= u16::BITS as usize, "a replica is a bit");

/// Up to [`REPLICAS_MAX`] replicas as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplicaSet(u16);

impl ReplicaSet {
    /// Adds a replica.
    #[inline]
    pub fn insert(&mut self, replica: u8) {
        self.0 |= bit(replica);
    }

    /// Removes a replica.
    #[inline]
    pub fn remove(&mut self, replica: u8) {
        self.0 &= !bit(replica);
    }

    /// Whether a replica is in.
    #[inline]
    pub fn contains(self, replica: u8) -> bool {
        self.0 & bit(replica) != 0
    }

    /// How many are in.
    #[inline]
    pub fn len(self) -> u8 {
        self.0.count_ones() as u8
    }

    /// Whether none is in.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The replicas, by place.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        let mut left = self;
        std::iter::from_fn(move || {
            let next = left.first()?;
            left.remove(next);
            Some(next)
        })
    }

    /// The first by place.
    #[inline]
    pub fn first(self) -> Option<u8> {
        (!self.is_empty()).then(|| self.0.trailing_zeros() as u8)
    }

    /// Those in this set and not in the other.
    #[inline]
    pub fn without(self, other: ReplicaSet) -> ReplicaSet {
        ReplicaSet(self.0 & !other.0)
    }

    /// Those in either.
    #[inline]
    pub fn union(self, other: ReplicaSet) -> ReplicaSet {
        ReplicaSet(self.0 | other.0)
    }

    /// Whether every member has a place among the first `replicas`.
    #[inline]
    pub fn is_within(self, replicas: u8) -> bool {
        u32::from(self.0) >> replicas.min(REPLICAS_MAX as u8) == 0
    }
}

#[inline]
fn bit(replica: u8) -> u16 {
    assert!((replica as usize) < REPLICAS_MAX, "a preference list has at most {REPLICAS_MAX} replicas");
    1 << replica
}

impl FromIterator<u8> for ReplicaSet {
    fn from_iter<I: IntoIterator<Item = u8>>(replicas: I) -> Self {
        let mut set = ReplicaSet::default();
        replicas.into_iter().for_each(|replica| set.insert(replica));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn behaves_like_a_set(
            puts in prop::collection::vec((0u8..16, any::<bool>()), 0..40),
            others in prop::collection::btree_set(0u8..16, 0..16),
            replicas in 0u8..=16,
        ) {
            let (mut set, mut model) = (ReplicaSet::default(), BTreeSet::new());
            for (replica, insert) in puts {
                if insert {
                    set.insert(replica);
                    model.insert(replica);
                } else {
                    set.remove(replica);
                    model.remove(&replica);
                }
            }
            prop_assert_eq!(set.iter().collect::<Vec<_>>(), model.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(set.len() as usize, model.len());
            prop_assert_eq!(set.is_empty(), model.is_empty());
            prop_assert_eq!(set.first(), model.first().copied());
            prop_assert_eq!(set.is_within(replicas), model.iter().all(|replica| *replica < replicas));
            let difference: ReplicaSet = model.difference(&others).copied().collect();
            let others: ReplicaSet = others.into_iter().collect();
            prop_assert_eq!(set.without(others), difference);
            prop_assert_eq!(set.union(others), set.iter().chain(others.iter()).collect::<ReplicaSet>());
        }
    }

    #[test]
    #[should_panic(expected = "at most 16")]
    fn a_place_beyond_the_limit_is_a_bug() {
        ReplicaSet::default().insert(16);
    }
}
