//! Which of the engine's files a path means, and whether a node is using it.

use std::fmt::Display;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use ferrite_lsm::{Directory, FileName, inspect};
use ferrite_node::disk::names;

/// What is to be inspected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Log,
    Table,
    Values,
    Manifest,
    Store,
}

/// What a path does not say where a file was copied to another name.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub(crate) struct Names {
    /// The core of a log segment or manifest that lies outside its directory
    #[arg(long)]
    core: Option<u16>,
    /// The store of a table or value file that lies outside its directory
    #[arg(long)]
    store: Option<u16>,
    /// The number of a file that does not bear its own name; a manifest cannot be verified without
    #[arg(long)]
    number: Option<u64>,
}

/// A file, or a directory of a core, of a store, or of a node.
#[derive(Debug)]
pub(crate) struct Place {
    /// The data directory, as far as there is one.
    root: PathBuf,
    at: At,
    is_live: bool,
}

#[derive(Debug)]
enum At {
    /// A file by itself, under whatever name.
    File(FileName, PathBuf),
    Directory(Directory),
    Node,
}

impl Place {
    /// Understands a path. The error says what would be understood.
    pub(crate) fn find(subject: Subject, path: &Path, given: &Names) -> Result<Place, String> {
        let path = fs::canonicalize(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let at = if path.is_dir() {
            directory(subject, &path)?
        } else {
            At::File(file(subject, &path, given)?, path.clone())
        };
        let above = match &at {
            At::File(..) => path.ancestors().nth(2),
            At::Directory(_) => path.parent(),
            At::Node => Some(&*path),
        };
        let root = above.unwrap_or(&path).to_owned();
        let is_live = is_locked(&root);
        Ok(Place { root, at, is_live })
    }

    /// Keeps nodes from starting on the directory while this is held. Refused where one runs and could write to what is read.
    pub(crate) fn lock(&self) -> Result<Option<File>, String> {
        let written_once = matches!(self.at, At::File(FileName::Table { .. } | FileName::Values { .. }, _));
        if written_once {
            return Ok(None);
        }
        let refused = || {
            format!(
                "a node is running on {}: stop it, or inspect single tables and value files, which are written once",
                self.root.display()
            )
        };
        match File::open(self.root.join(LOCK)) {
            Ok(lock) => match lock.try_lock_shared() {
                Ok(()) => Ok(Some(lock)),
                Err(TryLockError::WouldBlock) => Err(refused()),
                Err(TryLockError::Error(error)) => Err(format!("{}: {error}", self.root.display())),
            },
            // A copy, or a directory that no node has used: nobody to keep out.
            Err(_) => Ok(None),
        }
    }

    /// Whether a node runs on the data directory.
    pub(crate) fn is_live(&self) -> bool {
        self.is_live
    }

    /// The data directory.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The file, if it is one.
    pub(crate) fn file(&self) -> Option<FileName> {
        if let At::File(name, _) = self.at { Some(name) } else { None }
    }

    /// The path of a file.
    pub(crate) fn path_of(&self, name: FileName) -> PathBuf {
        match &self.at {
            At::File(own, path) if *own == name => path.clone(),
            At::File(..) | At::Directory(_) | At::Node => {
                self.root.join(names::directory_path(None, name.directory())).join(names::leaf(name))
            }
        }
    }

    /// The number of a core's or store's directory.
    pub(crate) fn directory(&self) -> u16 {
        match self.at {
            At::Directory(Directory::Core(number) | Directory::Store(number)) => number,
            At::File(..) | At::Node => unreachable!("the subject was checked with the path"),
        }
    }

    /// The store, if it is one's directory; `None` = all of a node.
    pub(crate) fn store(&self) -> Option<u16> {
        if let At::Directory(Directory::Store(store)) = self.at { Some(store) } else { None }
    }
}

const LOCK: &str = "LOCK";

/// How long the kernel may take to let go of the lock of a process that has ended: its ring is torn down behind it.
const LET_GO_WITHIN: Duration = Duration::from_secs(5);
const LET_GO_POLL: Duration = Duration::from_millis(10);

fn is_locked(root: &Path) -> bool {
    let Ok(lock) = File::open(root.join(LOCK)) else { return false };
    let holder = fs::read_to_string(root.join(LOCK)).unwrap_or_default();
    let is_alive = || Path::new("/proc").join(holder.trim()).exists();
    let deadline = Instant::now() + LET_GO_WITHIN;
    while matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)) {
        if is_alive() || Instant::now() > deadline {
            return true;
        }
        thread::sleep(LET_GO_POLL);
    }
    false
}

fn directory(subject: Subject, path: &Path) -> Result<At, String> {
    let named = named_directory(path);
    match (subject, named) {
        (Subject::Log | Subject::Manifest, Some(core @ Directory::Core(_))) => Ok(At::Directory(core)),
        (Subject::Store, Some(store @ Directory::Store(_))) => Ok(At::Directory(store)),
        (Subject::Store, None) if is_data(path) => Ok(At::Node),
        (Subject::Log | Subject::Manifest, _) => Err(unlike(path, "a core's directory, like core-00000")),
        (Subject::Store, _) => {
            Err(unlike(path, "a store's directory, like store-00000, nor a data directory"))
        }
        (Subject::Table | Subject::Values, _) => Err(unlike(path, "a file")),
    }
}

fn unlike(path: &Path, what: impl Display) -> String {
    format!("{} is not {what}", path.display())
}

/// Which directory of the engine's bears the name of this one.
fn named_directory(path: &Path) -> Option<Directory> {
    let text = path.file_name()?.to_str()?;
    let (kind, number) = text.split_once('-')?;
    let number = number.parse().ok()?;
    let directory = match kind {
        "core" => Directory::Core(number),
        "store" => Directory::Store(number),
        _ => return None,
    };
    (names::directory_path(None, directory) == text).then_some(directory)
}

fn is_data(path: &Path) -> bool {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).any(|entry| matches!(named_directory(&entry), Some(Directory::Core(_))))
}

fn file(subject: Subject, path: &Path, given: &Names) -> Result<FileName, String> {
    let above = path.parent().and_then(named_directory);
    let core = given.core.or(match above {
        Some(Directory::Core(core)) => Some(core),
        Some(Directory::Store(_)) | None => None,
    });
    let store = given.store.or(match above {
        Some(Directory::Store(store)) => Some(store),
        Some(Directory::Core(_)) | None => None,
    });
    let leaf = path.file_name().and_then(|leaf| leaf.to_str()).unwrap_or("");
    let number_after = |kind: &str| leaf.strip_prefix(kind).and_then(|rest| rest.parse::<u64>().ok());
    let other = ["log-", "manifest-", "table-", "values-"]
        .into_iter()
        .any(|kind| number_after(kind).is_some() && kind != prefix_of(subject));
    if other && given.number.is_none() {
        return Err(unlike(
            path,
            format!("what is asked for: its name does not start with {}", prefix_of(subject)),
        ));
    }
    let number = given.number.or(number_after(prefix_of(subject)));
    let name = name_of(subject, path, (core, store, number))?;
    if number.is_none() && !bears_mark(name, path).map_err(|error| format!("{}: {error}", path.display()))? {
        let kind = prefix_of(subject).trim_end_matches('-');
        return Err(unlike(
            path,
            format!(
                "a {kind} file: it has neither the name nor the marks of one; if it was one, give --number"
            ),
        ));
    }
    Ok(name)
}

/// Whether what a file has at its ends is of the format that it is taken for.
fn bears_mark(name: FileName, path: &Path) -> io::Result<bool> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(false);
    }
    let len = metadata.len().min(inspect::MARK_BYTES as u64) as usize;
    let (mut first, mut last) = (vec![0; len], vec![0; len]);
    file.read_exact_at(&mut first, 0)?;
    file.read_exact_at(&mut last, metadata.len() - len as u64)?;
    Ok(inspect::bears_mark(name, &first, &last))
}

fn name_of(
    subject: Subject,
    path: &Path,
    (core, store, number): (Option<u16>, Option<u16>, Option<u64>),
) -> Result<FileName, String> {
    let needs = |what: &str| unlike(path, format!("under its own name: give {what}"));
    match subject {
        Subject::Log => {
            let slot = u32::try_from(number.unwrap_or(0)).map_err(|_| needs("--number"))?;
            Ok(FileName::Segment { core: core.ok_or_else(|| needs("--core"))?, slot })
        }
        Subject::Manifest => {
            let number = number.ok_or_else(|| needs("--number"))?;
            Ok(FileName::Manifest { core: core.ok_or_else(|| needs("--core"))?, number })
        }
        // Nothing in these depends on their names.
        Subject::Table => Ok(FileName::Table { store: store.unwrap_or(0), number: number.unwrap_or(0) }),
        Subject::Values => Ok(FileName::Values { store: store.unwrap_or(0), number: number.unwrap_or(0) }),
        Subject::Store => Err(unlike(path, "a directory")),
    }
}

fn prefix_of(subject: Subject) -> &'static str {
    match subject {
        Subject::Log => "log-",
        Subject::Table => "table-",
        Subject::Values => "values-",
        Subject::Manifest => "manifest-",
        Subject::Store => "store-",
    }
}
