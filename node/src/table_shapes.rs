//! What a data directory remembers of its tables: mode and number of replicas of each that it may hold records of.
//!
//! Records of one mode make no sense in another: a set of siblings is no value, and a later write of a table that keeps the last one would
//! be lost to a set that it meets in a merge. With another number of replicas what was acknowledged goes out of sight: two replicas that are
//! new, and empty, are a quorum that answers `absent`; one that is left of three may be the one that missed the write. So a node does not
//! start with a table in another shape than its directory has it. A table that is declared no more stays in the file, for its records
//! stay too.
//!
//! Nor does it start where the largest number of replicas of any table is another than it was: that is how many nodes the claim gives
//! each vnode, and it comes to other nodes, or to the same ones in another order, for another number. The records of every table would be
//! looked for where they are not.
//!
//! The file `TABLES` beside `IDENTITY`, for people to read as well:
//!
//! ```text
//! file        := "ferrite tables 2" LF line* "checksum" SP hex16 LF   the checksum is the XXH3-64 of all before its line
//! line        := name SP mode SP replication LF                       by name, each once
//! mode        := "lww" | "siblings"
//! replication := "1" .. "16" | "-"                                    "-" = not known: a file of form 1 had the table, and it was not
//!                                                                     declared since
//! form 1      := "ferrite tables 1" LF (name SP mode LF)* "checksum" SP hex16 LF
//! ```
//!
//! A file of form 1 is read; its tables take the number that is declared now, and it is written again as form 2.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use ferrite_wire::limits::REPLICAS_MAX;
use ferrite_wire::{Mode, Tables};
use xxhash_rust::xxh3::xxh3_64;

const NAME: &str = "TABLES";
const NEW: &str = "TABLES.new";
const HEAD: &str = "ferrite tables 2\n";
const HEAD_1: &str = "ferrite tables 1\n";
const CHECKSUM: &str = "checksum ";
/// A number of replicas that is not known.
const UNKNOWN: &str = "-";
/// Longest file that is read: some ten thousand tables.
const BYTES_MAX: u64 = 1 << 20;

/// What of a table is for life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    mode: Mode,
    /// `None` = not known.
    replication: Option<u8>,
}

type Shapes = BTreeMap<String, Shape>;

/// Why a node does not start with these tables. Nothing was changed.
#[derive(Debug)]
pub enum TableShapesError {
    /// The system refused something.
    Io {
        /// What was attempted, as a verb: "read".
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Its answer.
        error: io::Error,
    },
    /// The file is none, or was changed.
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// A table is declared in another mode than its records are kept in.
    Mode {
        /// The file.
        path: PathBuf,
        /// The table.
        name: String,
        /// What its records are.
        found: Mode,
        /// What the configuration says.
        declared: Mode,
    },
    /// A table is declared with another number of replicas than its records have.
    Replication {
        /// The file.
        path: PathBuf,
        /// The table.
        name: String,
        /// How many its records have.
        found: u8,
        /// What the configuration says.
        declared: u8,
    },
    /// The largest number of replicas of any table is another than it was.
    Widest {
        /// The file.
        path: PathBuf,
        /// A table with the larger one of the two numbers.
        name: String,
        /// The largest number there was.
        found: u8,
        /// The largest number of the configuration.
        declared: u8,
    },
}

/// Checks the tables against those that the directory knows.
pub(crate) fn check(directory: &Path, tables: &Tables) -> Result<(), TableShapesError> {
    compare(directory, tables).map(|_| ())
}

/// The same, and makes it remember the new ones: to be called when nothing else keeps the node from taking records of them.
pub(crate) fn settle(directory: &Path, tables: &Tables) -> Result<(), TableShapesError> {
    let (known, shapes) = compare(directory, tables)?;
    // A file of form 1 knows no numbers, and some table is always declared: it is never as it should be.
    if shapes == known { Ok(()) } else { write(directory, &shapes) }
}

/// What the directory knows, and what it should know.
fn compare(directory: &Path, tables: &Tables) -> Result<(Shapes, Shapes), TableShapesError> {
    let path = directory.join(NAME);
    let known = read(&path)?;
    let mut shapes = known.clone();
    for table in tables.as_slice() {
        let (mode, replication) = (table.mode, Some(table.replication));
        let shape = shapes.entry(table.name.clone()).or_insert(Shape { mode, replication });
        let (path, name) = (path.clone(), table.name.clone());
        if shape.mode != mode {
            return Err(TableShapesError::Mode { path, name, found: shape.mode, declared: mode });
        }
        let found = *shape.replication.get_or_insert(table.replication);
        if found != table.replication {
            return Err(TableShapesError::Replication { path, name, found, declared: table.replication });
        }
    }
    let declared = tables.as_slice().iter().map(|table| (table.replication, &table.name)).max();
    let found = known.iter().filter_map(|(name, shape)| Some((shape.replication?, name))).max();
    if let (Some(declared), Some(found)) = (declared, found)
        && declared.0 != found.0
    {
        let (_, name) = declared.max(found);
        let (name, found, declared) = (name.clone(), found.0, declared.0);
        return Err(TableShapesError::Widest { path, name, found, declared });
    }
    Ok((known, shapes))
}

fn read(path: &Path) -> Result<Shapes, TableShapesError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Shapes::new()),
        Err(error) => return Err(failed("open", path, error)),
    };
    let mut bytes = Vec::new();
    file.take(BYTES_MAX).read_to_end(&mut bytes).map_err(|error| failed("read", path, error))?;
    decode(&bytes).ok_or_else(|| TableShapesError::Damaged { path: path.to_owned() })
}

/// A file is there as a whole, under its name, or not at all.
fn write(directory: &Path, shapes: &Shapes) -> Result<(), TableShapesError> {
    let (new, path) = (directory.join(NEW), directory.join(NAME));
    let mut file = File::create(&new).map_err(|error| failed("create", &new, error))?;
    file.write_all(encode(shapes).as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(|error| failed("write", &new, error))?;
    fs::rename(&new, &path).map_err(|error| failed("rename", &new, error))?;
    File::open(directory).and_then(|it| it.sync_all()).map_err(|error| failed("sync", directory, error))
}

fn encode(shapes: &Shapes) -> String {
    let line = |(name, shape): (&String, &Shape)| {
        let replication = shape.replication.map_or_else(|| UNKNOWN.to_owned(), |number| number.to_string());
        format!("{name} {} {replication}\n", shape.mode.name())
    };
    sealed(HEAD, shapes.iter().map(line).collect())
}

/// The former form, which knows modes only.
fn encode_1(shapes: &Shapes) -> String {
    let line = |(name, shape): (&String, &Shape)| format!("{name} {}\n", shape.mode.name());
    sealed(HEAD_1, shapes.iter().map(line).collect())
}

fn sealed(head: &str, lines: String) -> String {
    let text = format!("{head}{lines}");
    let checksum = xxh3_64(text.as_bytes());
    format!("{text}{CHECKSUM}{checksum:016x}\n")
}

fn decode(bytes: &[u8]) -> Option<Shapes> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (shapes, again) = if let Some(rest) = text.strip_prefix(HEAD_1) {
        let shapes = lines(rest, |line| {
            let (name, mode) = line.split_once(' ')?;
            Some((name.to_owned(), Shape { mode: mode_of(mode)?, replication: None }))
        })?;
        let again = encode_1(&shapes);
        (shapes, again)
    } else {
        let shapes = lines(text.strip_prefix(HEAD)?, |line| {
            let (name, rest) = line.split_once(' ')?;
            let (mode, replication) = rest.split_once(' ')?;
            Some((name.to_owned(), Shape { mode: mode_of(mode)?, replication: replication_of(replication)? }))
        })?;
        let again = encode(&shapes);
        (shapes, again)
    };
    // One content has one form: whatever was changed in it shows here.
    (again == text).then_some(shapes)
}

/// The lines before the checksum.
fn lines(rest: &str, entry: impl Fn(&str) -> Option<(String, Shape)>) -> Option<Shapes> {
    let (lines, _) = rest.rsplit_once(CHECKSUM)?;
    lines.lines().map(entry).collect()
}

fn mode_of(word: &str) -> Option<Mode> {
    [Mode::Lww, Mode::Siblings].into_iter().find(|mode| mode.name() == word)
}

/// A number of replicas that a table can have, or that it is not known; `None` = neither.
fn replication_of(word: &str) -> Option<Option<u8>> {
    if word == UNKNOWN {
        return Some(None);
    }
    word.parse().ok().filter(|number| (1..=REPLICAS_MAX).contains(&usize::from(*number))).map(Some)
}

fn failed(action: &'static str, path: &Path, error: io::Error) -> TableShapesError {
    TableShapesError::Io { action, path: path.to_owned(), error }
}

impl TableShapesError {
    /// What the process exits with: 1 where the machine is at fault, 2 where the configuration is.
    pub fn exit_code(&self) -> u8 {
        match self {
            TableShapesError::Io { .. } | TableShapesError::Damaged { .. } => {
                crate::startup::EXIT_ENVIRONMENT
            }
            TableShapesError::Mode { .. }
            | TableShapesError::Replication { .. }
            | TableShapesError::Widest { .. } => crate::startup::EXIT_CONFIGURATION,
        }
    }
}

impl fmt::Display for TableShapesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const ONLY_IF: &str = "only if nothing was ever written to any table, remove the file";
        match self {
            TableShapesError::Io { action, path, error } => {
                write!(f, "cannot {action} {}: {error}; check `data` and its permissions", path.display())
            }
            TableShapesError::Damaged { path } => write!(
                f,
                "{} is damaged: it says in which mode the records of each table are, and how many replicas they have; if neither \
                 was ever changed in the configuration, remove it, and it is written again",
                path.display()
            ),
            TableShapesError::Mode { path, name, found, declared } => write!(
                f,
                "table {name} is declared as {}, and {} says that its records are {}: a table's mode is for life; put the old \
                 mode back, or declare a table of another name; {ONLY_IF}",
                declared.name(),
                path.display(),
                found.name()
            ),
            TableShapesError::Replication { path, name, found, declared } => write!(
                f,
                "table {name} is declared with replication = {declared}, and {} says that its records have {found}: a table's number \
                 of replicas is for life; put replication = {found} back, or declare a table of another name and write the records there \
                 (`ferrite import`); {ONLY_IF}",
                path.display()
            ),
            TableShapesError::Widest { path, name, found, declared } if declared > found => write!(
                f,
                "table {name} is declared with replication = {declared}, and {} says that no table had more than {found}: which nodes hold \
                 what follows from the largest number of any table, and is for life; write replication = {found} or less, or begin a \
                 cluster with empty data directories and write the records there (`ferrite import`); {ONLY_IF}",
                path.display()
            ),
            TableShapesError::Widest { path, name, found, declared } => write!(
                f,
                "no table is declared with more than replication = {declared}, and {} says that table {name} has {found}: which nodes hold \
                 what follows from the largest number of any table, and is for life; declare that table again, or another with as many; \
                 {ONLY_IF}",
                path.display()
            ),
        }
    }
}

impl std::error::Error for TableShapesError {}

#[cfg(test)]
mod tests {
    use ferrite_cluster::{Member, claim};
    use ferrite_wire::{NodeId, Table, TableId};

    use super::*;

    /// Mode and number of replicas of each, beside a default table with so many.
    fn tables_beside(default: u8, declared: &[(&str, Mode, u8)]) -> Tables {
        let of = |(name, mode, replication): &(&str, Mode, u8)| Table {
            id: TableId::of(name),
            name: (*name).to_owned(),
            mode: *mode,
            max_siblings: if *mode == Mode::Siblings { 8 } else { 0 },
            ..Table::default_of(*replication)
        };
        Tables::new(declared.iter().map(of).chain([Table::default_of(default)]).collect()).expect("sound")
    }

    fn tables(declared: &[(&str, Mode, u8)]) -> Tables {
        tables_beside(3, declared)
    }

    fn member(id: u16) -> Member {
        Member {
            id: NodeId(id),
            name: format!("n{id}"),
            rack: "r1".to_owned(),
            datacenter: "dc1".to_owned(),
            contact: String::new(),
            weight: 1,
        }
    }

    fn known(home: &Path, name: &str) -> Option<Shape> {
        read(&home.join(NAME)).unwrap().get(name).copied()
    }

    /// What a refusal says, in one line.
    fn refusal(home: &Path, declared: &Tables) -> String {
        assert!(check(home, declared).is_err());
        let refused = settle(home, declared).unwrap_err();
        assert_eq!(refused.exit_code(), 2);
        let text = refused.to_string();
        assert!(!text.contains('\n') && text.contains("only if nothing was ever written"), "{text}");
        text
    }

    #[test]
    fn a_mode_is_for_life_also_when_its_table_was_away() {
        let home = tempfile::tempdir().unwrap();
        let carts = tables(&[("carts", Mode::Siblings, 3)]);
        settle(home.path(), &carts).expect("a new table");
        settle(home.path(), &carts).expect("as it was");
        settle(home.path(), &tables(&[])).expect("a table may go");
        let text = refusal(home.path(), &tables(&[("carts", Mode::Lww, 3), ("new", Mode::Lww, 3)]));
        assert!(text.contains("table carts is declared as lww") && text.contains("are siblings"), "{text}");
        assert_eq!(known(home.path(), "new"), None, "what is refused changes nothing");
        let expected = Shape { mode: Mode::Siblings, replication: Some(3) };
        assert_eq!(known(home.path(), "carts"), Some(expected));
    }

    /// From one replica to three the two new ones were empty, and a quorum of them said that nothing was there; from three to one the one
    /// that was left could be the one that had missed the write. Neither was refused, and nothing said why.
    #[test]
    fn a_number_of_replicas_is_for_life_also_when_its_table_was_away() {
        let home = tempfile::tempdir().unwrap();
        let carts = |replication| tables(&[("carts", Mode::Lww, replication)]);
        settle(home.path(), &carts(1)).expect("a new table");
        settle(home.path(), &tables(&[])).expect("a table may go");
        for other in [2, 3] {
            let text = refusal(home.path(), &carts(other));
            let said = format!("table carts is declared with replication = {other}, and ");
            assert!(text.starts_with(&said) && text.contains("put replication = 1 back"), "{text}");
        }
        settle(home.path(), &carts(1)).expect("as it was");
        for other in [1, 2, 4] {
            let text = refusal(home.path(), &tables_beside(other, &[("carts", Mode::Lww, 1)]));
            let said = format!("table default is declared with replication = {other}, and ");
            assert!(text.starts_with(&said) && text.contains("put replication = 3 back"), "{text}");
        }
        settle(home.path(), &tables(&[("carts", Mode::Lww, 1), ("new", Mode::Lww, 2)])).expect("a new table");
    }

    /// Preference lists are made for the largest number of replicas: with another one they are other lists, of all tables.
    #[test]
    fn the_largest_number_of_replicas_of_any_table_is_for_life() {
        let members: Vec<Member> = (1..=5).map(member).collect();
        let firsts = |replication| claim(64, &members, replication).into_iter().map(|list| list[0]);
        assert!(
            firsts(3).ne(firsts(4)),
            "who is first for a vnode, and all there is of a table with one replica"
        );
        let home = tempfile::tempdir().unwrap();
        let wide = ("wide", Mode::Lww, 3);
        settle(home.path(), &tables_beside(1, &[wide])).expect("new tables");
        let text = refusal(home.path(), &tables_beside(1, &[wide, ("wider", Mode::Lww, 4)]));
        assert!(text.starts_with("table wider is declared with replication = 4, and "), "{text}");
        assert!(text.contains("no table had more than 3"), "{text}");
        let text = refusal(home.path(), &tables_beside(1, &[]));
        assert!(text.starts_with("no table is declared with more than replication = 1, and "), "{text}");
        assert!(text.contains("table wide has 3"), "{text}");
        settle(home.path(), &tables_beside(1, &[("other", Mode::Lww, 3)]))
            .expect("as many, of another table");
    }

    #[test]
    fn a_file_of_the_former_form_takes_the_numbers_that_are_declared_and_is_written_anew() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(NAME);
        let former = |names: &[&str]| {
            let shape = Shape { mode: Mode::Lww, replication: None };
            encode_1(&names.iter().map(|name| ((*name).to_owned(), shape)).collect())
        };
        let whole = former(&["away", "default"]);
        assert!(whole.starts_with("ferrite tables 1\naway lww\ndefault lww\nchecksum "), "{whole}");
        every_change_is_damage(home.path(), whole.as_bytes(), &tables(&[]));
        fs::write(&path, &whole).unwrap();
        check(home.path(), &tables(&[])).expect("any number");
        assert_eq!(fs::read_to_string(&path).unwrap(), whole, "what is only checked stays");
        settle(home.path(), &tables(&[])).expect("any number");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("ferrite tables 2\naway lww -\ndefault lww 3\nchecksum "), "{text}");
        every_change_is_damage(home.path(), text.as_bytes(), &tables(&[]));
        fs::write(&path, &text).unwrap();
        refusal(home.path(), &tables_beside(2, &[]));
        // What was away then takes the number that it comes back with, and keeps that.
        settle(home.path(), &tables(&[("away", Mode::Lww, 2)])).expect("any number");
        refusal(home.path(), &tables(&[("away", Mode::Lww, 1)]));
    }

    #[test]
    fn every_changed_byte_and_every_length_is_damage() {
        let home = tempfile::tempdir().unwrap();
        let declared = tables(&[("carts", Mode::Siblings, 2), ("seen", Mode::Lww, 1)]);
        settle(home.path(), &declared).unwrap();
        let whole = fs::read(home.path().join(NAME)).unwrap();
        every_change_is_damage(home.path(), &whole, &declared);
    }

    fn every_change_is_damage(home: &Path, whole: &[u8], declared: &Tables) {
        assert!(decode(whole).is_some());
        for at in 0..whole.len() {
            assert_eq!(decode(&whole[..at]), None, "cut at {at}");
            let mut changed = whole.to_vec();
            for byte in (0..=u8::MAX).filter(|byte| *byte != whole[at]) {
                changed[at] = byte;
                assert_eq!(decode(&changed), None, "byte {at} is {byte}");
            }
        }
        let longer = [whole, b"\n"].concat();
        fs::write(home.join(NAME), longer).unwrap();
        assert!(matches!(settle(home, declared), Err(TableShapesError::Damaged { .. })));
    }

    /// Whoever seals a file by hand may write what no table can be.
    #[test]
    fn what_no_table_can_be_is_damage_under_a_right_checksum_as_well() {
        let of = |lines: &str| decode(sealed(HEAD, lines.to_owned()).as_bytes());
        assert!(of("carts lww 16\n").is_some());
        for lines in [
            "carts lww 0\n",
            "carts lww 17\n",
            "carts lww 256\n",
            "carts lww 03\n",
            "carts lww +3\n",
            "carts lww\n",
            "carts lww 3 3\n",
            "carts last 3\n",
            "carts lww 3",
            "b lww 3\na lww 3\n",
            "a lww 3\na lww 3\n",
        ] {
            assert_eq!(of(lines), None, "{lines:?}");
        }
    }

    /// A power cut between the two steps of writing leaves the former file, and something that is not looked at.
    #[test]
    fn half_a_new_file_is_nobodys() {
        let home = tempfile::tempdir().unwrap();
        settle(home.path(), &tables(&[])).unwrap();
        fs::write(home.path().join(NEW), "ferrite tab").unwrap();
        settle(home.path(), &tables(&[("carts", Mode::Siblings, 3)])).unwrap();
        assert_eq!(read(&home.path().join(NAME)).unwrap().len(), 2);
        assert!(!home.path().join(NEW).exists(), "the new one takes the place of the former in one step");
    }
}
