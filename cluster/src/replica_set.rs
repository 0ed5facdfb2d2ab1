//! A small set of replicas, each named by its place in a key's preference list.

/// Up to 16 replicas as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplicaSet(u16);

impl ReplicaSet {
    /// Adds a replica.
    pub fn insert(&mut self, replica: u8) {
        self.0 |= 1 << replica;
    }

    /// Removes a replica.
    pub fn remove(&mut self, replica: u8) {
        self.0 &= !(1 << replica);
    }

    /// Whether a replica is in.
    pub fn contains(self, replica: u8) -> bool {
        self.0 & (1 << replica) != 0
    }

    /// How many are in.
    pub fn len(self) -> u8 {
        self.0.count_ones() as u8
    }

    /// Whether none is in.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The replicas, by place.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..16).filter(move |replica| self.contains(*replica))
    }

    /// The first by place.
    pub fn first(self) -> Option<u8> {
        (!self.is_empty()).then(|| self.0.trailing_zeros() as u8)
    }

    /// Those in this set and not in the other.
    pub fn without(self, other: ReplicaSet) -> ReplicaSet {
        ReplicaSet(self.0 & !other.0)
    }
}

impl FromIterator<u8> for ReplicaSet {
    fn from_iter<I: IntoIterator<Item = u8>>(replicas: I) -> Self {
        let mut set = ReplicaSet::default();
        replicas.into_iter().for_each(|replica| set.insert(replica));
        set
    }
}
