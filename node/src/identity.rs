//! The data directory: whose it is, and that only one process uses it.
//!
//! Two files at its top say so. `LOCK` is held (`flock`) for as long as the process runs; the kernel lets go of it
//! when the process has died, however it died, and the last write that it had under way has ended (each core's ring holds
//! it too). `IDENTITY` is written once, when the directory is first used:
//!
//! ```text
//! identity := magic:8 format:u16 node:u16 zero:u32 vnodes:u32 zero:u32 hash_seed:u64 cluster:16 checksum:u64
//! magic    := "FERRITE" 0x1a
//! checksum := xxh3_64 of everything before it
//! ```
//!
//! All numbers are little-endian; `magic` and `format` never move, so that any version can refuse any other in words.
//! `format` is the format of the directory as a whole.
//!
//! A directory that is somebody else's is refused **untouched**: `IDENTITY` is read and compared before anything is
//! created, and again under the lock. Without `IDENTITY` only an empty directory is taken: files without a name on
//! them may be the last copy of something. The file is written aside, synced, renamed, and the directory synced, so a
//! crash leaves either nothing or all of it; a leftover `IDENTITY.new` counts as nothing.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use ferrite_wire::{ClusterId, HashSeed, NodeId};
use xxhash_rust::xxh3::xxh3_64;

use crate::startup::{Patience, is_alive};

/// The format of data directories that this version reads and writes.
pub const DIRECTORY_FORMAT: u16 = 2;

const MAGIC: [u8; 8] = *b"FERRITE\x1a";
const IDENTITY_BYTES: usize = 56;
const IDENTITY: &str = "IDENTITY";
const IDENTITY_NEW: &str = "IDENTITY.new";
const LOCK: &str = "LOCK";
/// What an otherwise empty directory may contain: our own beginnings, and what a fresh file system puts there.
const NOT_CONTENT: [&str; 3] = [LOCK, IDENTITY_NEW, "lost+found"];

/// Whose data a directory holds. Fixed for its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// Seed of the cluster's token hash.
    pub hash_seed: HashSeed,
    /// How many vnodes the cluster has.
    pub vnodes: u32,
    /// The node.
    pub node: NodeId,
}

/// A data directory that is ours, and locked until this is dropped.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    is_new: bool,
    lock: File,
}

/// Why a data directory cannot be used. Where it was somebody else's, nothing in it has been changed.
#[derive(Debug)]
pub enum IdentityError {
    /// The system refused something.
    Io {
        /// What was attempted, as a verb: "create".
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Its answer.
        error: io::Error,
    },
    /// Another process holds the lock.
    InUse {
        /// The directory.
        path: PathBuf,
        /// The process that wrote its number into the lock, if it can be read.
        pid: Option<u32>,
    },
    /// There are files, but no `IDENTITY`.
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// One of the files.
        found: String,
    },
    /// `IDENTITY` is not one, or is damaged.
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was looked at: "length", "magic", "checksum".
        what: &'static str,
        /// What should be there.
        expected: u64,
        /// What is there.
        found: u64,
    },
    /// The directory has a format that this version does not know.
    Format {
        /// The directory.
        path: PathBuf,
        /// Its format.
        found: u16,
    },
    /// The directory belongs to another cluster.
    ForeignCluster {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: ClusterId,
        /// Who we are.
        expected: ClusterId,
    },
    /// The directory belongs to another node of this cluster.
    ForeignNode {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: NodeId,
        /// Who we are.
        expected: NodeId,
    },
    /// A number that is fixed for life has been changed in the configuration.
    Changed {
        /// The directory.
        path: PathBuf,
        /// The configuration's key.
        key: &'static str,
        /// What the directory was made with, as the configuration writes it.
        found: String,
        /// What the configuration says now.
        expected: String,
    },
}

impl DataDirectory {
    /// Takes the directory for `identity`: creates and stamps it if it is empty or absent, checks it if it is not.
    pub fn open(path: &Path, identity: &Identity) -> Result<DataDirectory, IdentityError> {
        let stamp = path.join(IDENTITY);
        // Before anything is created: a foreign directory is left as it was found.
        let is_known = match read_stamp(&stamp)? {
            Some(bytes) => check_stamp(path, &bytes, identity).map(|()| true)?,
            None => check_empty(path).map(|()| false)?,
        };
        if !is_known {
            fs::create_dir_all(path).map_err(|error| failed("create", path, error))?;
            // Each parent that was just made must be durable before something durable is put below it.
            for directory in path.ancestors().skip(1).take_while(|parent| !parent.as_os_str().is_empty()) {
                if sync_directory(directory).is_err() {
                    break; // A directory above ours that we may not open was not created by us.
                }
            }
        }
        let lock = lock(path)?;
        // Once more, now that nobody else can be in the middle of it.
        let is_new = match read_stamp(&stamp)? {
            Some(bytes) => check_stamp(path, &bytes, identity).map(|()| false)?,
            None => {
                check_empty(path)?;
                write_stamp(path, identity)?;
                true
            }
        };
        Ok(DataDirectory { path: path.to_owned(), is_new, lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Another handle on the lock: it is held until the last of them is closed.
    pub fn lock(&self) -> io::Result<File> {
        self.lock.try_clone()
    }

    /// Whether it was stamped just now.
    pub fn is_new(&self) -> bool {
        self.is_new
    }
}

impl Identity {
    fn encode(&self) -> [u8; IDENTITY_BYTES] {
        let mut bytes = [0; IDENTITY_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&DIRECTORY_FORMAT.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.node.0.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.vnodes.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.hash_seed.0.to_le_bytes());
        bytes[32..48].copy_from_slice(&self.cluster.0);
        let checksum = xxh3_64(&bytes[..48]);
        bytes[48..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads the fields; magic, format and checksum have been checked.
    fn decode(bytes: &[u8; IDENTITY_BYTES]) -> Identity {
        Identity {
            node: NodeId(u16::from_le_bytes([bytes[10], bytes[11]])),
            vnodes: u32::from_le_bytes([bytes[16], bytes[17], bytes[18], bytes[19]]),
            hash_seed: HashSeed(u64_at(bytes, 24)),
            cluster: ClusterId(std::array::from_fn(|at| bytes[32 + at])),
        }
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|index| bytes[at + index]))
}

fn failed(action: &'static str, path: &Path, error: io::Error) -> IdentityError {
    IdentityError::Io { action, path: path.to_owned(), error }
}

/// The stamp's bytes, at most one more than it should have; `None` if there is none.
fn read_stamp(stamp: &Path) -> Result<Option<Vec<u8>>, IdentityError> {
    let file = match File::open(stamp) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open", stamp, error)),
    };
    let mut bytes = Vec::new();
    let most = IDENTITY_BYTES as u64 + 1;
    file.take(most).read_to_end(&mut bytes).map_err(|error| failed("read", stamp, error))?;
    Ok(Some(bytes))
}

fn check_stamp(path: &Path, bytes: &[u8], ours: &Identity) -> Result<(), IdentityError> {
    let stamp = path.join(IDENTITY);
    let damaged =
        |what, expected, found| Err(IdentityError::Damaged { path: stamp.clone(), what, expected, found });
    if bytes.len() < 10 {
        return damaged("length", IDENTITY_BYTES as u64, bytes.len() as u64);
    }
    if bytes[..8] != MAGIC {
        return damaged("magic", u64::from_le_bytes(MAGIC), u64_at(bytes, 0));
    }
    let format = u16::from_le_bytes([bytes[8], bytes[9]]);
    if format != DIRECTORY_FORMAT {
        return Err(IdentityError::Format { path: path.to_owned(), found: format });
    }
    let Ok(bytes) = <&[u8; IDENTITY_BYTES]>::try_from(bytes) else {
        return damaged("length", IDENTITY_BYTES as u64, bytes.len() as u64);
    };
    let checksum = xxh3_64(&bytes[..48]);
    if checksum != u64_at(bytes, 48) {
        return damaged("checksum", checksum, u64_at(bytes, 48));
    }
    let theirs = Identity::decode(bytes);
    let path = path.to_owned();
    if theirs.cluster != ours.cluster {
        return Err(IdentityError::ForeignCluster { path, found: theirs.cluster, expected: ours.cluster });
    }
    if theirs.node != ours.node {
        return Err(IdentityError::ForeignNode { path, found: theirs.node, expected: ours.node });
    }
    let seed = |seed: HashSeed| format!("\"{:016x}\"", seed.0);
    let numbers = [
        ("hash_seed", seed(theirs.hash_seed), seed(ours.hash_seed)),
        ("vnodes", theirs.vnodes.to_string(), ours.vnodes.to_string()),
    ];
    match numbers.into_iter().find(|(_, found, expected)| found != expected) {
        Some((key, found, expected)) => Err(IdentityError::Changed { path, key, found, expected }),
        None => Ok(()),
    }
}

/// Whether an unstamped directory may be taken: it does not exist, or has nothing of anybody's in it.
fn check_empty(path: &Path) -> Result<(), IdentityError> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("list", path, error)),
    };
    for entry in entries {
        let name = entry.map_err(|error| failed("list", path, error))?.file_name();
        if !NOT_CONTENT.iter().any(|known| name == *known) {
            let found = name.to_string_lossy().into_owned();
            return Err(IdentityError::NotOurs { path: path.to_owned(), found });
        }
    }
    Ok(())
}

fn lock(path: &Path) -> Result<File, IdentityError> {
    let name = path.join(LOCK);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&name)
        .map_err(|error| failed("open", &name, error))?;
    let mut patience = Patience::new();
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) => {
                let pid = holder(&mut file);
                if pid.is_none_or(is_alive) || !patience.wait() {
                    return Err(IdentityError::InUse { path: path.to_owned(), pid });
                }
            }
            Err(TryLockError::Error(error)) => return Err(failed("lock", &name, error)),
        }
    }
    // For whoever is refused. The lock is what counts, so this need not be synced.
    let pid = format!("{}\n", std::process::id());
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(pid.as_bytes()))
        .map_err(|error| failed("write", &name, error))?;
    Ok(file)
}

/// The process that wrote its number into the lock.
fn holder(lock: &mut File) -> Option<u32> {
    let mut text = String::new();
    lock.rewind().and_then(|()| lock.take(16).read_to_string(&mut text)).ok()?;
    text.trim().parse().ok()
}

fn write_stamp(path: &Path, identity: &Identity) -> Result<(), IdentityError> {
    let (new, stamp) = (path.join(IDENTITY_NEW), path.join(IDENTITY));
    let mut file = File::create(&new).map_err(|error| failed("create", &new, error))?;
    file.write_all(&identity.encode())
        .and_then(|()| file.sync_all())
        .map_err(|error| failed("write", &new, error))?;
    fs::rename(&new, &stamp).map_err(|error| failed("rename", &new, error))?;
    sync_directory(path).map_err(|error| failed("sync", path, error))
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

impl IdentityError {
    /// What the process exits with: 1 where the machine is at fault, 2 where configuration and directory disagree.
    pub fn exit_code(&self) -> u8 {
        match self {
            IdentityError::Io { .. } | IdentityError::InUse { .. } | IdentityError::Damaged { .. } => 1,
            IdentityError::NotOurs { .. }
            | IdentityError::Format { .. }
            | IdentityError::ForeignCluster { .. }
            | IdentityError::ForeignNode { .. }
            | IdentityError::Changed { .. } => 2,
        }
    }
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IdentityError::Io { action, path, error } => {
                write!(f, "cannot {action} {}: {error}; check `data` and its permissions", path.display())
            }
            IdentityError::InUse { path, pid } => {
                write!(f, "data directory {} is in use by ", path.display())?;
                match pid {
                    Some(pid) => write!(f, "process {pid}: stop it first"),
                    None => write!(f, "another process: stop it first"),
                }
            }
            IdentityError::NotOurs { path, found } => write!(
                f,
                "data directory {} has files in it ({found}) but no IDENTITY: name an empty directory, or restore \
                 the file",
                path.display()
            ),
            IdentityError::Damaged { path, what, expected, found } => write!(
                f,
                "{} is damaged: its {what} is {found:#x}, not {expected:#x}; restore it, or start with an empty \
                 directory and let the other replicas fill it",
                path.display()
            ),
            IdentityError::Format { path, found } => write!(
                f,
                "data directory {} has format {found} and this version knows format {DIRECTORY_FORMAT}: use the \
                 version that wrote it",
                path.display()
            ),
            IdentityError::ForeignCluster { path, found, expected } => write!(
                f,
                "data directory {} belongs to cluster {found}, not {expected}: name this cluster's directory as \
                 `data`",
                path.display()
            ),
            IdentityError::ForeignNode { path, found, expected } => write!(
                f,
                "data directory {} belongs to node {}, not {}: name this node's own directory as `data`",
                path.display(),
                found.0,
                expected.0
            ),
            IdentityError::Changed { path, key, found, expected } => write!(
                f,
                "data directory {} was made with {key} = {found}, and the configuration says {expected}: put the old \
                 value back",
                path.display()
            ),
        }
    }
}

impl std::error::Error for IdentityError {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn ours() -> Identity {
        Identity {
            cluster: ClusterId(*b"0123456789abcdef"),
            hash_seed: HashSeed(0x1122_3344_5566_7788),
            vnodes: 4096,
            node: NodeId(2),
        }
    }

    fn contents(path: &Path) -> BTreeMap<String, Vec<u8>> {
        fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
            .collect()
    }

    #[test]
    fn a_directory_is_made_once_and_known_again() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("a/b/n2");
        let first = DataDirectory::open(&path, &ours()).unwrap();
        assert!(first.is_new());
        assert_eq!(first.path(), path);
        drop(first);
        assert!(!DataDirectory::open(&path, &ours()).unwrap().is_new());
    }

    #[test]
    fn one_process_at_a_time() {
        let temp = tempfile::tempdir().unwrap();
        let held = DataDirectory::open(temp.path(), &ours()).unwrap();
        let error = DataDirectory::open(temp.path(), &ours()).unwrap_err();
        assert!(
            matches!(error, IdentityError::InUse { pid, .. } if pid == Some(std::process::id())),
            "{error}"
        );
        assert_eq!(error.exit_code(), 1);
        drop(held);
        DataDirectory::open(temp.path(), &ours()).unwrap();
    }

    #[test]
    fn what_is_not_ours_is_left_untouched() {
        type Check = fn(&IdentityError) -> bool;
        let cases: [(Identity, Check); 4] = [
            (Identity { cluster: ClusterId([9; 16]), ..ours() }, |e| {
                matches!(e, IdentityError::ForeignCluster { .. })
            }),
            (Identity { node: NodeId(3), ..ours() }, |e| matches!(e, IdentityError::ForeignNode { .. })),
            (Identity { vnodes: 8192, ..ours() }, |e| {
                matches!(e, IdentityError::Changed { key: "vnodes", .. })
            }),
            (Identity { hash_seed: HashSeed(1), ..ours() }, |e| {
                matches!(e, IdentityError::Changed { key: "hash_seed", .. })
            }),
        ];
        let temp = tempfile::tempdir().unwrap();
        drop(DataDirectory::open(temp.path(), &ours()).unwrap());
        fs::remove_file(temp.path().join(LOCK)).unwrap();
        let before = contents(temp.path());
        for (other, is_expected) in cases {
            let error = DataDirectory::open(temp.path(), &other).unwrap_err();
            assert!(is_expected(&error), "{error}");
            assert_eq!(error.exit_code(), 2);
            assert!(!error.to_string().contains('\n'));
            assert_eq!(contents(temp.path()), before);
        }
    }

    #[test]
    fn files_without_a_name_are_not_taken() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("thesis.tex"), "the only copy").unwrap();
        let error = DataDirectory::open(temp.path(), &ours()).unwrap_err();
        assert!(matches!(&error, IdentityError::NotOurs { found, .. } if found == "thesis.tex"), "{error}");
        assert_eq!(contents(temp.path()).len(), 1);
    }

    #[test]
    fn a_crash_in_the_middle_of_stamping_is_no_stamp() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join(IDENTITY_NEW), "half").unwrap();
        fs::write(temp.path().join(LOCK), "").unwrap();
        assert!(DataDirectory::open(temp.path(), &ours()).unwrap().is_new());
        assert_eq!(
            Identity::decode(&fs::read(temp.path().join(IDENTITY)).unwrap().try_into().unwrap()),
            ours()
        );
    }

    #[test]
    fn damage_at_any_byte_is_found_and_a_newer_format_is_named() {
        let temp = tempfile::tempdir().unwrap();
        let good = ours().encode();
        let stamp = temp.path().join(IDENTITY);
        for at in 0..good.len() {
            let mut bad = good;
            bad[at] ^= 0x40;
            fs::write(&stamp, bad).unwrap();
            let error = DataDirectory::open(temp.path(), &ours()).unwrap_err();
            let is_format = matches!(error, IdentityError::Format { .. });
            let is_damage = matches!(error, IdentityError::Damaged { .. });
            assert!(if (8..10).contains(&at) { is_format } else { is_damage }, "byte {at}: {error}");
            fs::write(&stamp, &good[..at]).unwrap();
            let error = DataDirectory::open(temp.path(), &ours()).unwrap_err();
            assert!(matches!(error, IdentityError::Damaged { what: "length", .. }), "cut at {at}: {error}");
        }
        fs::write(&stamp, [&good[..], &[0]].concat()).unwrap();
        assert!(DataDirectory::open(temp.path(), &ours()).is_err(), "a byte too many");
        assert_eq!(contents(temp.path()).len(), 1, "untouched");
    }
}
