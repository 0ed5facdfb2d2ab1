//! Whether the data directory's file system takes direct I/O.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::StartupError;

/// Removed again at once; a leftover of a crash is overwritten and removed at the next start.
const PROBE: &str = "DIRECT.probe";

#[repr(align(4096))]
struct Page([u8; 4096]);

/// Writes one aligned page past the page cache. A full disk says nothing against direct I/O, and is no reason not to start.
pub(super) fn check(directory: &Path) -> Result<(), StartupError> {
    let path = directory.join(PROBE);
    let result = match write_page(&path) {
        Err(error) if error.kind() == io::ErrorKind::StorageFull => Ok(()),
        other => other,
    };
    let removed = match fs::remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    result.and(removed).map_err(|error| StartupError::DirectIo { path: directory.to_owned(), error })
}

fn write_page(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).custom_flags(libc::O_DIRECT);
    options.open(path)?.write_all(&Page([0x5a; 4096]).0)
}
