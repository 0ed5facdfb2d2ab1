//! Operations in flight, found again by a number that is never mistaken for an earlier operation's.

/// Names an operation: a slot and its generation, in 56 bits so that a replica's index fits beside it in a request id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OperationId {
    slot: u32,
    generation: u32,
}

const GENERATIONS: u32 = 1 << 24;

impl OperationId {
    /// The request id under which replica number `replica` is asked.
    pub(super) fn to_request(self, replica: u8) -> u64 {
        u64::from(self.slot) | u64::from(self.generation) << 32 | u64::from(replica) << 56
    }

    /// Operation and replica of a request id made by [`OperationId::to_request`].
    pub(super) fn from_request(request: u64) -> (OperationId, u8) {
        let id = OperationId { slot: request as u32, generation: (request >> 32) as u32 & (GENERATIONS - 1) };
        (id, (request >> 56) as u8)
    }
}

/// A bounded slab.
#[derive(Debug)]
pub(super) struct Slab<T> {
    entries: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
    len_max: usize,
}

impl<T> Slab<T> {
    /// An empty slab for at most `len_max` entries.
    pub(super) fn new(len_max: usize) -> Self {
        Slab { entries: Vec::new(), free: Vec::new(), len_max }
    }

    /// How many are in.
    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Whether another fits.
    pub(super) fn has_room(&self) -> bool {
        self.len() < self.len_max
    }

    /// Adds an entry; the caller has seen that there is room.
    pub(super) fn insert(&mut self, value: T) -> OperationId {
        assert!(self.has_room(), "admission is checked before an operation starts");
        let slot = self.free.pop().unwrap_or_else(|| {
            self.entries.push((0, None));
            self.entries.len() as u32 - 1
        });
        let entry = &mut self.entries[slot as usize];
        // None has generation 0: with slot 0 that would be the request number that stands for none.
        entry.0 = entry.0 % (GENERATIONS - 1) + 1;
        entry.1 = Some(value);
        OperationId { slot, generation: entry.0 }
    }

    /// What is where an operation was, or is.
    pub(super) fn in_place_of(&self, id: OperationId) -> OperationId {
        let now = self.entries.get(id.slot as usize).map_or(id.generation, |(generation, _)| *generation);
        OperationId { generation: now, ..id }
    }

    /// The entry, if it has not ended.
    pub(super) fn get_mut(&mut self, id: OperationId) -> Option<&mut T> {
        let (generation, value) = self.entries.get_mut(id.slot as usize)?;
        if *generation == id.generation { value.as_mut() } else { None }
    }

    /// All entries that have not ended.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.entries.iter_mut().filter_map(|(_, value)| value.as_mut())
    }

    /// Whether the entry has not ended.
    pub(super) fn contains(&self, id: OperationId) -> bool {
        let entry = self.entries.get(id.slot as usize);
        entry.is_some_and(|(generation, value)| *generation == id.generation && value.is_some())
    }

    /// Takes the entry out.
    pub(super) fn remove(&mut self, id: OperationId) -> Option<T> {
        let (generation, value) = self.entries.get_mut(id.slot as usize)?;
        if *generation != id.generation {
            return None;
        }
        let value = value.take()?;
        self.free.push(id.slot);
        Some(value)
    }

    /// The names of those entries of which something is so.
    pub(super) fn ids_where(&self, is_so: impl Fn(&T) -> bool) -> Vec<OperationId> {
        let named = |(slot, (generation, value)): (usize, &(u32, Option<T>))| {
            let is_named = value.as_ref().is_some_and(&is_so);
            is_named.then_some(OperationId { slot: slot as u32, generation: *generation })
        };
        self.entries.iter().enumerate().filter_map(named).collect()
    }

    /// The names of all entries.
    pub(super) fn ids(&self) -> Vec<OperationId> {
        self.ids_where(|_| true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ended_operation_is_not_found_under_a_reused_slot() {
        let mut slab = Slab::new(2);
        let first = slab.insert('a');
        assert_eq!(slab.remove(first), Some('a'));
        let second = slab.insert('b');
        assert_ne!(first, second);
        assert_eq!(slab.get_mut(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get_mut(second), Some(&mut 'b'));
        assert_eq!((slab.len(), slab.ids()), (1, vec![second]));
    }

    /// The number stands for no request: the answer to an operation that had it was taken for something else, and closed its link.
    #[test]
    fn no_operation_ever_has_request_number_zero() {
        let mut slab = Slab::new(1);
        slab.insert(());
        slab.entries[0].0 = GENERATIONS - 1;
        slab.remove(OperationId { slot: 0, generation: GENERATIONS - 1 });
        assert_ne!(slab.insert(()).to_request(0), 0);
    }

    #[test]
    fn request_ids_round_trip() {
        let mut slab = Slab::new(1);
        for replica in 0..16 {
            let id = slab.insert(());
            assert_eq!(OperationId::from_request(id.to_request(replica)), (id, replica));
            slab.remove(id);
        }
        assert!(slab.has_room());
    }
}
