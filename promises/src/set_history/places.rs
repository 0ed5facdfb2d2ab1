//! Sets of writes of one key, by their places in its history.

/// A set of places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Places(Vec<u64>);

impl Places {
    /// Adds a place.
    pub(super) fn insert(&mut self, place: usize) {
        let word = place / 64;
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (place % 64);
    }

    /// Adds all places of another set.
    pub(super) fn merge(&mut self, other: &Places) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        self.0.iter_mut().zip(&other.0).for_each(|(word, more)| *word |= more);
    }

    /// Whether a place is in it.
    pub(super) fn contains(&self, place: usize) -> bool {
        self.0.get(place / 64).is_some_and(|word| word & 1 << (place % 64) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_what_was_put_in_and_nothing_else() {
        let (mut one, mut other) = (Places::default(), Places::default());
        [0, 63, 64, 200].into_iter().for_each(|place| one.insert(place));
        [1, 64].into_iter().for_each(|place| other.insert(place));
        let held = |set: &Places| (0..300).filter(|place| set.contains(*place)).collect::<Vec<_>>();
        assert_eq!(held(&one), [0, 63, 64, 200]);
        other.merge(&one);
        assert_eq!(held(&other), [0, 1, 63, 64, 200]);
        one.merge(&other);
        assert_eq!(held(&one), held(&other));
    }
}
