//! What a data directory remembers of its tables: the mode of each that it may hold records of.
//!
//! Records of one mode make no sense in another: a set of siblings is no value, and a later write of a table that keeps the last one would
//! be lost to a set that it meets in a merge. So a node does not start with a table in another mode than its directory has it. A table that
//! is declared no more stays in the file, for its records stay too.
//!
//! The file `TABLES` beside `IDENTITY`, for people to read as well:
//!
//! ```text
//! file     := "ferrite tables 1" LF line* "checksum" SP hex16 LF      the checksum is the XXH3-64 of all before its line
//! line     := name SP mode LF                                         by name, each once
//! mode     := "lww" | "siblings"
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use ferrite_wire::{Mode, Tables};
use xxhash_rust::xxh3::xxh3_64;

const NAME: &str = "TABLES";
const NEW: &str = "TABLES.new";
const HEAD: &str = "ferrite tables 1";
const CHECKSUM: &str = "checksum ";
/// Longest file that is read: some ten thousand tables.
const BYTES_MAX: u64 = 1 << 20;

type Modes = BTreeMap<String, Mode>;

/// Why a node does not start with these tables. Nothing was changed.
#[derive(Debug)]
pub enum TableModesError {
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
    Changed {
        /// The file.
        path: PathBuf,
        /// The table.
        name: String,
        /// What its records are.
        found: Mode,
        /// What the configuration says.
        declared: Mode,
    },
}

/// Checks the tables against those that the directory knows.
pub(crate) fn check(directory: &Path, tables: &Tables) -> Result<(), TableModesError> {
    compare(directory, tables).map(|_| ())
}

/// The same, and makes it remember the new ones: to be called when nothing else keeps the node from taking records of them.
pub(crate) fn settle(directory: &Path, tables: &Tables) -> Result<(), TableModesError> {
    let (known, modes) = compare(directory, tables)?;
    if modes == known { Ok(()) } else { write(directory, &modes) }
}

/// What the directory knows, and what it should know.
fn compare(directory: &Path, tables: &Tables) -> Result<(Modes, Modes), TableModesError> {
    let path = directory.join(NAME);
    let known = read(&path)?;
    let mut modes = known.clone();
    for table in tables.as_slice() {
        let found = *modes.entry(table.name.clone()).or_insert(table.mode);
        if found != table.mode {
            let (name, declared) = (table.name.clone(), table.mode);
            return Err(TableModesError::Changed { path, name, found, declared });
        }
    }
    Ok((known, modes))
}

fn read(path: &Path) -> Result<Modes, TableModesError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Modes::new()),
        Err(error) => return Err(failed("open", path, error)),
    };
    let mut bytes = Vec::new();
    file.take(BYTES_MAX).read_to_end(&mut bytes).map_err(|error| failed("read", path, error))?;
    let text = std::str::from_utf8(&bytes).ok();
    text.and_then(decode).ok_or_else(|| TableModesError::Damaged { path: path.to_owned() })
}

/// A file is there as a whole, under its name, or not at all.
fn write(directory: &Path, modes: &Modes) -> Result<(), TableModesError> {
    let (new, path) = (directory.join(NEW), directory.join(NAME));
    let mut file = File::create(&new).map_err(|error| failed("create", &new, error))?;
    file.write_all(encode(modes).as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(|error| failed("write", &new, error))?;
    fs::rename(&new, &path).map_err(|error| failed("rename", &new, error))?;
    File::open(directory).and_then(|it| it.sync_all()).map_err(|error| failed("sync", directory, error))
}

fn encode(modes: &Modes) -> String {
    let lines: String = modes.iter().map(|(name, mode)| format!("{name} {}\n", mode.name())).collect();
    let text = format!("{HEAD}\n{lines}");
    let checksum = xxh3_64(text.as_bytes());
    format!("{text}{CHECKSUM}{checksum:016x}\n")
}

fn decode(text: &str) -> Option<Modes> {
    let (lines, _) = text.strip_prefix(HEAD)?.strip_prefix('\n')?.rsplit_once(CHECKSUM)?;
    let mode_of = |word: &str| [Mode::Lww, Mode::Siblings].into_iter().find(|mode| mode.name() == word);
    let entry = |line: &str| {
        let (name, mode) = line.split_once(' ')?;
        Some((name.to_owned(), mode_of(mode)?))
    };
    let modes: Modes = lines.lines().map(entry).collect::<Option<_>>()?;
    // One content has one form: whatever was changed in it shows here.
    (encode(&modes) == text).then_some(modes)
}

fn failed(action: &'static str, path: &Path, error: io::Error) -> TableModesError {
    TableModesError::Io { action, path: path.to_owned(), error }
}

impl TableModesError {
    /// What the process exits with: 1 where the machine is at fault, 2 where the configuration is.
    pub fn exit_code(&self) -> u8 {
        match self {
            TableModesError::Io { .. } | TableModesError::Damaged { .. } => crate::startup::EXIT_ENVIRONMENT,
            TableModesError::Changed { .. } => crate::startup::EXIT_CONFIGURATION,
        }
    }
}

impl fmt::Display for TableModesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TableModesError::Io { action, path, error } => {
                write!(f, "cannot {action} {}: {error}; check `data` and its permissions", path.display())
            }
            TableModesError::Damaged { path } => write!(
                f,
                "{} is damaged: it says in which mode the records of each table are; if the configuration's modes were never \
                 changed, remove it, and it is written again",
                path.display()
            ),
            TableModesError::Changed { path, name, found, declared } => write!(
                f,
                "table {name} is declared as {}, and {} says that its records are {}: a table's mode is for life; put the old \
                 mode back, or declare a table of another name; only if nothing was ever written to any table, remove the file",
                declared.name(),
                path.display(),
                found.name()
            ),
        }
    }
}

impl std::error::Error for TableModesError {}

#[cfg(test)]
mod tests {
    use ferrite_wire::{Table, TableId};

    use super::*;

    fn tables(declared: &[(&str, Mode)]) -> Tables {
        let of = |(name, mode): &(&str, Mode)| Table {
            id: TableId::of(name),
            name: (*name).to_owned(),
            mode: *mode,
            max_siblings: if *mode == Mode::Siblings { 8 } else { 0 },
            ..Table::default_of(3)
        };
        Tables::new(declared.iter().map(of).chain([Table::default_of(3)]).collect()).expect("sound")
    }

    #[test]
    fn a_mode_is_for_life_also_when_its_table_was_away() {
        let home = tempfile::tempdir().unwrap();
        let carts = tables(&[("carts", Mode::Siblings)]);
        settle(home.path(), &carts).expect("a new table");
        settle(home.path(), &carts).expect("as it was");
        settle(home.path(), &tables(&[])).expect("a table may go");
        let refused = settle(home.path(), &tables(&[("carts", Mode::Lww), ("new", Mode::Lww)])).unwrap_err();
        assert_eq!(refused.exit_code(), 2);
        let text = refused.to_string();
        assert!(text.contains("table carts is declared as lww") && text.contains("are siblings"), "{text}");
        let known = read(&home.path().join(NAME)).unwrap();
        assert!(!known.contains_key("new"), "what is refused changes nothing");
        assert_eq!(known.get("carts"), Some(&Mode::Siblings));
    }

    #[test]
    fn every_changed_byte_and_every_length_is_damage() {
        let home = tempfile::tempdir().unwrap();
        let declared = tables(&[("carts", Mode::Siblings), ("seen", Mode::Lww)]);
        settle(home.path(), &declared).unwrap();
        let path = home.path().join(NAME);
        let whole = fs::read(&path).unwrap();
        let refused = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            matches!(settle(home.path(), &declared), Err(TableModesError::Damaged { .. }))
        };
        for at in 0..whole.len() {
            assert!(refused(&whole[..at]), "cut at {at}");
            for bit in 0..8 {
                let mut flipped = whole.clone();
                flipped[at] ^= 1 << bit;
                assert!(refused(&flipped), "bit {bit} of byte {at}");
            }
        }
    }

    /// A power cut between the two steps of writing leaves the former file, and something that is not looked at.
    #[test]
    fn half_a_new_file_is_nobodys() {
        let home = tempfile::tempdir().unwrap();
        settle(home.path(), &tables(&[])).unwrap();
        fs::write(home.path().join(NEW), "ferrite tab").unwrap();
        settle(home.path(), &tables(&[("carts", Mode::Siblings)])).unwrap();
        assert_eq!(read(&home.path().join(NAME)).unwrap().len(), 2);
        assert!(!home.path().join(NEW).exists(), "the new one takes the place of the former in one step");
    }
}
