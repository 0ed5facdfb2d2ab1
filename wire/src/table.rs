//! A table: its name and number, and how its records are kept.
//!
//! ```text
//! table := id:u32 mode:u8 replication:u8 max_siblings:u16 ttl_ms:u64 name_len:u8 name
//! mode  := lww:1 | siblings:2
//! ```
//!
//! Mode 3 is set aside for linearizable tables and refused like any other that is not known.
//!
//! A table's number is part of every key, where it travels and where it is stored. Numbers follow from names
//! ([`TableId::of`]), so that every node comes to the same ones by itself and the order of declarations means nothing.
//! Rejected: numbering declarations in their order, where a line moved in a configuration would give one table's records to
//! another.

use crate::{DecodeError, Key, Reader, TableId, limits};

/// What becomes of concurrent writes of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Mode {
    /// The last one wins, by [`crate::Version::beats`].
    Lww = 1,
    /// All of them are kept, until a write that has seen them takes their place.
    Siblings = 2,
}

impl Mode {
    /// The mode that travels as `value`.
    pub fn from_u8(value: u8) -> Result<Mode, DecodeError> {
        match value {
            1 => Ok(Mode::Lww),
            2 => Ok(Mode::Siblings),
            _ => Err(DecodeError::Unknown { field: "table mode", value: u64::from(value) }),
        }
    }

    /// The mode as configurations write it.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Lww => "lww",
            Mode::Siblings => "siblings",
        }
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl TableId {
    /// The table that always exists, under the name [`Table::DEFAULT_NAME`].
    pub const DEFAULT: TableId = TableId(1);
    /// The least number that a name is given; those below are set aside.
    pub const NAMED_MIN: u32 = 16;

    /// The number of the table of a name: the upper half of the name's XXH3-64 (seed 0), moved up by [`TableId::NAMED_MIN`] where
    /// it falls below that. Two names may meet; whoever declares tables refuses that.
    pub fn of(name: &str) -> TableId {
        if name == Table::DEFAULT_NAME {
            return TableId::DEFAULT;
        }
        let upper = (xxhash_rust::xxh3::xxh3_64(name.as_bytes()) >> 32) as u32;
        TableId(if upper < TableId::NAMED_MIN { upper + TableId::NAMED_MIN } else { upper })
    }
}

/// A table as it is declared, the same on every node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its number, in every key.
    pub id: TableId,
    /// Its name: see [`Table::is_name`].
    pub name: String,
    /// What becomes of concurrent writes.
    pub mode: Mode,
    /// How many replicas of each record, 1 to [`limits::REPLICAS_MAX`]: the first so many of a vnode's preference list.
    pub replication: u8,
    /// Time to live of a write that names none, in milliseconds; 0 = for ever.
    pub ttl_ms: u64,
    /// Most siblings that a write may leave, 1 to [`limits::SIBLINGS_MAX`]; 0 in tables that keep the last write.
    pub max_siblings: u16,
}

impl Table {
    /// The name of the table that always exists.
    pub const DEFAULT_NAME: &'static str = "default";
    /// Bytes of an encoded table without its name.
    const HEAD_BYTES: usize = 17;

    /// The table that always exists, as it is where nobody declares it otherwise: the last write wins and lives for ever.
    pub fn default_of(replication: u8) -> Table {
        Table {
            id: TableId::DEFAULT,
            name: Table::DEFAULT_NAME.to_owned(),
            mode: Mode::Lww,
            replication,
            ttl_ms: 0,
            max_siblings: 0,
        }
    }

    /// Whether a table may have this name: 1 to [`limits::TABLE_NAME_BYTES_MAX`] of `a` to `z`, `0` to `9`, `-` and `_`.
    pub fn is_name(text: &str) -> bool {
        let is_plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
        (1..=limits::TABLE_NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_plain)
    }

    /// A key of this table without a sort key.
    pub fn key<'k>(&self, partition: &'k [u8]) -> Key<'k> {
        self.item(partition, b"")
    }

    /// A key of this table.
    pub fn item<'k>(&self, partition: &'k [u8], sort: &'k [u8]) -> Key<'k> {
        Key { table: self.id, partition, sort }
    }

    /// The time to live in words: `30d`, `1500ms`, `none`.
    pub fn ttl_in_words(&self) -> String {
        const UNITS: [(u64, &str); 5] =
            [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")];
        let whole = |(ms, _): &&(u64, &str)| self.ttl_ms.is_multiple_of(*ms);
        match UNITS.iter().find(whole) {
            Some((ms, unit)) if self.ttl_ms > 0 => format!("{}{unit}", self.ttl_ms / ms),
            Some(_) | None => "none".to_owned(),
        }
    }

    /// The first thing in which this table, on `here`, is not as `other`, on `there`: in words.
    pub(crate) fn difference(&self, here: &str, other: &Table, there: &str) -> Option<String> {
        let Table { id, name, mode, replication, ttl_ms, max_siblings } = self;
        let differ = |what: &str, ours: &dyn std::fmt::Display, theirs: &dyn std::fmt::Display| {
            Some(format!("table {name}: {what} {ours} on {here}, {theirs} on {there}"))
        };
        if *name != other.name {
            return Some(format!("table number {} is {name} on {here}, {} on {there}", id.0, other.name));
        }
        if *mode != other.mode {
            return differ("mode", mode, &other.mode);
        }
        if *replication != other.replication {
            return differ("replication", replication, &other.replication);
        }
        if *ttl_ms != other.ttl_ms {
            return differ("ttl", &self.ttl_in_words(), &other.ttl_in_words());
        }
        if *max_siblings != other.max_siblings {
            return differ("max_siblings", max_siblings, &other.max_siblings);
        }
        None
    }

    /// Whether every field is within its bounds and they go together.
    pub(crate) fn check(&self) -> Result<(), DecodeError> {
        let odd = |field, value| Err(DecodeError::Unknown { field, value });
        if !Table::is_name(&self.name) {
            return odd("table name", u64::from(self.id.0));
        }
        let is_default = self.id == TableId::DEFAULT;
        let is_named = self.id.0 >= TableId::NAMED_MIN;
        if is_default != (self.name == Table::DEFAULT_NAME) || !(is_default || is_named) {
            return odd("table number", u64::from(self.id.0));
        }
        if is_default && self.mode != Mode::Lww {
            return odd("mode of the default table", self.mode as u64);
        }
        if !(1..=limits::REPLICAS_MAX).contains(&usize::from(self.replication)) {
            return odd("replication of a table", u64::from(self.replication));
        }
        let siblings = match self.mode {
            Mode::Lww => 0..=0,
            Mode::Siblings => 1..=limits::SIBLINGS_MAX,
        };
        if !siblings.contains(&usize::from(self.max_siblings)) {
            return odd("max_siblings of a table", u64::from(self.max_siblings));
        }
        Ok(())
    }

    pub(crate) fn encoded_len(&self) -> usize {
        Table::HEAD_BYTES + self.name.len()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id.0.to_le_bytes());
        out.push(self.mode as u8);
        out.push(self.replication);
        out.extend_from_slice(&self.max_siblings.to_le_bytes());
        out.extend_from_slice(&self.ttl_ms.to_le_bytes());
        out.push(self.name.len() as u8);
        out.extend_from_slice(self.name.as_bytes());
    }

    /// Reads a table; [`Table::check`] has still to judge it.
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Table, DecodeError> {
        let id = TableId(reader.u32()?);
        let (mode, replication) = (Mode::from_u8(reader.u8()?)?, reader.u8()?);
        let (max_siblings, ttl_ms) = (reader.u16()?, reader.u64()?);
        let len = reader.u8()? as usize;
        if len > limits::TABLE_NAME_BYTES_MAX {
            let (len, max) = (len as u64, limits::TABLE_NAME_BYTES_MAX as u64);
            return Err(DecodeError::TooLong { field: "table name", len, max });
        }
        let name = std::str::from_utf8(reader.take(len)?).map_err(|_| DecodeError::NotUtf8)?.to_owned();
        Ok(Table { id, name, mode, replication, ttl_ms, max_siblings })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_from_names() {
        assert_eq!(TableId::of("default"), TableId::DEFAULT);
        let names: Vec<String> = (0..1000).map(|number| format!("table-{number}")).collect();
        for name in &names {
            assert!(TableId::of(name).0 >= TableId::NAMED_MIN, "{name}");
            assert_eq!(TableId::of(name), TableId::of(name));
        }
        assert_ne!(TableId::of("carts"), TableId::of("flags"));
    }

    #[test]
    fn names_are_plain_and_bounded() {
        let long = "a".repeat(limits::TABLE_NAME_BYTES_MAX);
        for name in ["default", "a", "0", "carts_2-old", &long] {
            assert!(Table::is_name(name), "{name}");
        }
        for name in ["", "Carts", "a b", "a.b", "é", "a/b", &format!("{long}a")] {
            assert!(!Table::is_name(name), "{name}");
        }
    }

    #[test]
    fn times_are_told_in_their_largest_whole_unit() {
        let told = |ttl_ms| Table { ttl_ms, ..Table::default_of(3) }.ttl_in_words();
        for (ttl_ms, words) in [
            (0, "none"),
            (1, "1ms"),
            (1_500, "1500ms"),
            (90_000, "90s"),
            (120_000, "2m"),
            (10_800_000, "3h"),
            (2_592_000_000, "30d"),
        ] {
            assert_eq!(told(ttl_ms), words);
        }
    }
}
