//! What tells a data directory that is as its node left it from one that was put back from a copy.
//!
//! A copy of a directory that was left in order is as whole as the directory itself, but older: whoever takes it for the newest forgets what
//! was written since, and, worse, uses again what it had used for that. So each start leaves an empty file `LIFE` of its own, and its
//! place is where the file system has it: device, inode, and the time of its last change there, with the boot of the machine.
//! None of these survives copying, whether files are replaced one by one or all together, nor does the boot survive putting back the image of a
//! machine. A reboot alone makes another place, too: that costs a new actor and nothing else.
//!
//! What this cannot see is a volume that is rolled back beneath a file system on a machine that goes on running.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use xxhash_rust::xxh3::Xxh3;

const LIFE: &str = "LIFE";
const LIFE_NEW: &str = "LIFE.new";
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// Where the last life left the directory, as found, and where this one will leave it; 0 = not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Before this start.
    pub found: u64,
    /// Since.
    pub now: u64,
}

impl Place {
    /// A place that stays what it is, for worlds without directories.
    pub const FIXED: Place = Place { found: 1, now: 1 };

    /// Takes the place of a directory for this life. On a full disk there is none, which is no reason not to start.
    pub(crate) fn take(directory: &Path) -> Place {
        let life = directory.join(LIFE);
        let found = of(&life).unwrap_or(0);
        let fresh = directory.join(LIFE_NEW);
        let renewed = File::create(&fresh).and_then(|_| fs::rename(&fresh, &life)).and_then(|()| of(&life));
        let now = renewed.unwrap_or_else(|error| {
            tracing::warn!(file = %life.display(), %error, "the directory cannot be told from a copy of it: sets get new actors at the next start");
            0
        });
        Place { found, now }
    }
}

fn of(life: &Path) -> io::Result<u64> {
    let at = fs::metadata(life)?;
    let mut hash = Xxh3::new();
    // Without it, only a machine that is put back as a whole goes unnoticed.
    hash.update(&fs::read(BOOT).unwrap_or_default());
    for part in [at.dev(), at.ino(), at.ctime() as u64, at.ctime_nsec() as u64] {
        hash.update(&part.to_le_bytes());
    }
    Ok(hash.digest().max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_life_finds_the_place_that_the_last_one_left() {
        let directory = tempfile::tempdir().unwrap();
        let first = Place::take(directory.path());
        assert_eq!(first.found, 0, "nobody was there");
        let second = Place::take(directory.path());
        assert_eq!(second.found, first.now);
        assert_ne!(second.now, first.now);
        assert_eq!(Place::take(directory.path()).found, second.now);
    }

    #[test]
    fn what_is_copied_or_copied_back_is_another_place() {
        let directory = tempfile::tempdir().unwrap();
        let backup = tempfile::tempdir().unwrap();
        let (there, kept) = (directory.path().join(LIFE), backup.path().join(LIFE));
        let left = Place::take(directory.path()).now;
        fs::copy(&there, &kept).unwrap();
        assert_ne!(Place::take(backup.path()).found, left, "a copy elsewhere");
        Place::take(directory.path());
        fs::copy(&kept, &there).unwrap();
        assert_ne!(Place::take(directory.path()).found, left, "a copy put back over it");
        fs::remove_file(&there).unwrap();
        assert_eq!(Place::take(directory.path()).found, 0, "a copy without it");
    }

    #[test]
    fn without_a_directory_nothing_is_known() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Place::take(&directory.path().join("absent")), Place { found: 0, now: 0 });
    }
}
