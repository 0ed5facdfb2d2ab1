//! Values that name the write they belong to, so that an invented, mixed or damaged one is seen as such.

use crate::random::Random;

/// A value that names its write and fills up with bytes that depend on it.
pub(super) fn value_of(id: u64, len: usize) -> Vec<u8> {
    let mut value = id.to_le_bytes().to_vec();
    let mut random = Random::new(id);
    value.extend((0..len).map(|_| random.bits() as u8));
    value
}

/// The write that a value names, if the value is whole.
pub(super) fn id_of(value: &[u8]) -> Option<u64> {
    let id = u64::from_le_bytes(*value.first_chunk::<8>()?);
    (value_of(id, value.len() - 8) == value).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_value_names_nobody() {
        let mut value = value_of(7, 100);
        assert_eq!(id_of(&value), Some(7));
        value[50] ^= 1;
        assert_eq!(id_of(&value), None);
        assert_eq!(id_of(b"short"), None);
    }
}
