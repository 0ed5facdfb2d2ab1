//! The tables of a cluster: the same on every node.
//!
//! ```text
//! tables := count:u16 table*count          by ascending id
//! ```
//!
//! Invariants, kept by whoever makes a list: at most [`limits::TABLES_MAX`]; ids ascend, names are distinct; the default table is
//! there, and first, for its id is the least; every table is within its bounds. So equal lists are equal bytes.

use std::collections::BTreeSet;

use crate::request::checked;
use crate::{DecodeError, Reader, Table, TableId, limits};

/// All tables of a cluster, by ascending id, the default table first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables {
    list: Vec<Table>,
}

impl Tables {
    /// The tables of a list, in any order. Refused where a bound or an invariant is broken.
    pub fn new(mut list: Vec<Table>) -> Result<Tables, DecodeError> {
        list.sort_by_key(|table| table.id);
        Tables::checked(list)
    }

    /// The default table alone, which keeps the last write for ever.
    pub fn only_default(replication: u8) -> Tables {
        Tables::new(vec![Table::default_of(replication)]).expect("a replication from 1 to the most there is")
    }

    fn checked(list: Vec<Table>) -> Result<Tables, DecodeError> {
        checked(list.len() as u32, "tables", limits::TABLES_MAX)?;
        let first = list.first().map_or(TableId(0), |table| table.id);
        if first != TableId::DEFAULT {
            return Err(DecodeError::Unknown { field: "first table", value: u64::from(first.0) });
        }
        if let Some(pair) = list.windows(2).find(|pair| pair[0].id >= pair[1].id) {
            return Err(DecodeError::Unknown { field: "table order", value: u64::from(pair[1].id.0) });
        }
        let mut names = BTreeSet::new();
        for table in &list {
            table.check()?;
            if !names.insert(&table.name) {
                let value = u64::from(table.id.0);
                return Err(DecodeError::Unknown { field: "second table of a name", value });
            }
        }
        Ok(Tables { list })
    }

    /// All of them, by ascending id.
    pub fn as_slice(&self) -> &[Table] {
        &self.list
    }

    /// A table by its number.
    #[inline]
    pub fn get(&self, id: TableId) -> Option<&Table> {
        // Most keys are the default table's, and it is the first.
        if id == TableId::DEFAULT {
            return self.list.first();
        }
        self.list.binary_search_by_key(&id, |table| table.id).ok().map(|at| &self.list[at])
    }

    /// A table by its name.
    pub fn named(&self, name: &str) -> Option<&Table> {
        self.list.iter().find(|table| table.name == name)
    }

    /// The largest replication of any table: the length of preference lists.
    pub fn replication_max(&self) -> usize {
        self.list.iter().map(|table| usize::from(table.replication)).max().unwrap_or(1)
    }

    /// The first difference between these tables, on `here`, and others, on `there`, in words; `None` = there is none.
    pub fn difference(&self, here: &str, other: &Tables, there: &str) -> Option<String> {
        let missing = |table: &Table, on: &str| format!("table {} is not known on {on}", table.name);
        let of_ours = self.list.iter().find_map(|table| match other.get(table.id) {
            Some(theirs) => table.difference(here, theirs, there),
            None => Some(missing(table, there)),
        });
        of_ours.or_else(|| {
            let only_theirs = other.list.iter().find(|table| self.get(table.id).is_none());
            only_theirs.map(|table| missing(table, here))
        })
    }

    /// Bytes of the encoded list, at most [`limits::TABLES_BYTES_MAX`].
    pub fn encoded_len(&self) -> usize {
        2 + self.list.iter().map(Table::encoded_len).sum::<usize>()
    }

    /// Appends the list.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.list.len() as u16).to_le_bytes());
        self.list.iter().for_each(|table| table.encode(out));
    }

    /// Reads a list, and checks that it keeps every invariant.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Tables, DecodeError> {
        let count = checked(u32::from(reader.u16()?), "tables", limits::TABLES_MAX)?;
        let mut list = Vec::new();
        for _ in 0..count {
            list.push(Table::decode(reader)?);
        }
        Tables::checked(list)
    }
}

/// A list of tables that is validated, still encoded, and borrowed: what a peer's hello carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableList<'a> {
    bytes: &'a [u8],
}

impl<'a> TableList<'a> {
    /// The list that `bytes` are, all of them.
    pub fn new(bytes: &'a [u8]) -> Result<TableList<'a>, DecodeError> {
        let mut reader = Reader::new(bytes);
        let list = TableList::read(&mut reader)?;
        if reader.rest().is_empty() { Ok(list) } else { Err(DecodeError::Trailing) }
    }

    pub(crate) fn read(reader: &mut Reader<'a>) -> Result<TableList<'a>, DecodeError> {
        let bytes = reader.rest();
        Tables::decode(reader)?;
        Ok(TableList { bytes: &bytes[..bytes.len() - reader.rest().len()] })
    }

    /// The encoded list. Equal lists are equal bytes.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The tables.
    pub fn tables(&self) -> Tables {
        Tables::decode(&mut Reader::new(self.bytes)).expect("checked when the list was made")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Mode;

    fn table(name: &str) -> Table {
        Table { id: TableId::of(name), name: name.to_owned(), ..Table::default_of(3) }
    }

    fn siblings(name: &str) -> Table {
        Table { mode: Mode::Siblings, max_siblings: 32, ..table(name) }
    }

    fn tables(more: &[Table]) -> Tables {
        Tables::new([&[Table::default_of(3)], more].concat()).expect("a sound list")
    }

    #[test]
    fn tables_are_found_by_number_and_by_name_whatever_their_order() {
        let one = tables(&[table("carts"), siblings("flags"), table("sessions")]);
        let other = tables(&[table("sessions"), table("carts"), siblings("flags")]);
        assert_eq!(one, other);
        for name in ["default", "carts", "flags", "sessions"] {
            let found = one.named(name).expect(name);
            assert_eq!((found.id, one.get(found.id)), (TableId::of(name), Some(found)));
        }
        assert_eq!((one.named("cart"), one.get(TableId(2))), (None, None));
    }

    #[test]
    fn the_longest_replication_is_that_of_any_table() {
        let wide = Table { replication: 5, ..table("wide") };
        assert_eq!(tables(&[wide, table("carts")]).replication_max(), 5);
        assert_eq!(Tables::only_default(2).replication_max(), 2);
    }

    #[test]
    fn what_breaks_an_invariant_is_no_list() {
        let with = |table: Table| Tables::new(vec![Table::default_of(3), table]);
        for (what, refused) in [
            ("no default table", Tables::new(vec![table("carts")])),
            ("nothing", Tables::new(Vec::new())),
            ("twice the default", with(Table::default_of(3))),
            ("a default of another mode", {
                let default = Table { mode: Mode::Siblings, max_siblings: 3, ..Table::default_of(3) };
                Tables::new(vec![default])
            }),
            ("one name twice", {
                let other = Table { id: TableId(77), ..table("carts") };
                Tables::new(vec![Table::default_of(3), table("carts"), other])
            }),
            ("a number that is set aside", with(Table { id: TableId(15), ..table("carts") })),
            ("a name that is none", with(Table { name: "Carts".to_owned(), ..table("carts") })),
            ("no replicas", with(Table { replication: 0, ..table("carts") })),
            ("too many replicas", with(Table { replication: 17, ..table("carts") })),
            ("siblings without room", with(Table { max_siblings: 0, ..siblings("carts") })),
            ("too many siblings", with(Table { max_siblings: 1025, ..siblings("carts") })),
            ("siblings of a last write", with(Table { max_siblings: 1, ..table("carts") })),
        ] {
            assert!(refused.is_err(), "{what}");
        }
        let many = (0..limits::TABLES_MAX).map(|number| table(&format!("t{number}"))).collect::<Vec<_>>();
        assert!(Tables::new([&[Table::default_of(3)][..], &many[1..]].concat()).is_ok());
        let refused = Tables::new([&[Table::default_of(3)][..], &many].concat());
        assert!(matches!(refused, Err(DecodeError::TooLong { field: "tables", .. })));
    }

    #[test]
    fn the_longest_list_has_the_bytes_it_is_bounded_by() {
        let named =
            |number: usize| table(&format!("{number:0>width$}", width = limits::TABLE_NAME_BYTES_MAX));
        let longest: Vec<Table> = (1..limits::TABLES_MAX).map(named).collect();
        let spare = limits::TABLE_NAME_BYTES_MAX - Table::DEFAULT_NAME.len();
        assert_eq!(tables(&longest).encoded_len() + spare, limits::TABLES_BYTES_MAX);
    }

    #[test]
    fn a_difference_is_named_in_words() {
        let ours = tables(&[siblings("carts"), table("flags")]);
        let differ = |theirs: &[Table]| ours.difference("n1", &tables(theirs), "n2");
        assert_eq!(differ(&[table("flags"), siblings("carts")]), None);
        for (theirs, words) in [
            (vec![table("carts"), table("flags")], "table carts: mode siblings on n1, lww on n2"),
            (vec![siblings("carts")], "table flags is not known on n2"),
            (vec![siblings("carts"), table("flags"), table("more")], "table more is not known on n1"),
            (
                vec![siblings("carts"), Table { replication: 2, ..table("flags") }],
                "table flags: replication 3 on n1, 2 on n2",
            ),
            (
                vec![siblings("carts"), Table { ttl_ms: 60_000, ..table("flags") }],
                "table flags: ttl none on n1, 1m on n2",
            ),
            (
                vec![Table { max_siblings: 7, ..siblings("carts") }, table("flags")],
                "table carts: max_siblings 32 on n1, 7 on n2",
            ),
        ] {
            assert_eq!(differ(&theirs).as_deref(), Some(words));
        }
        let renamed = Table { name: "other".to_owned(), ..table("flags") };
        let words = format!("table number {} is flags on n1, other on n2", renamed.id.0);
        assert_eq!(differ(&[siblings("carts"), renamed]), Some(words));
    }
}
