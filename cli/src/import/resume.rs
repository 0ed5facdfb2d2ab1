//! The state of an import on disk: where to go on, and of what.
//!
//! ```text
//! ferrite import 1
//! cluster 8c1f7d2a54e94f0b9a3c6b1de2f40718
//! layout delimited delimiter=59 header=false key=column 1 value=the rest of the line
//! head 4096 1f3a90c2d4e5b687        the first bytes of the file and their xxh3, so that another file is noticed
//! bytes 1234567                     everything in front of this byte is acknowledged
//! lines 8901
//! ```
//!
//! It is written aside, synced and renamed: a crash leaves the old state or the new one, and both are true.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use ferrite_wire::ClusterId;
use xxhash_rust::xxh3::xxh3_64;

use super::lines::Place;
use crate::outcome::Failure;

const TITLE: &str = "ferrite import 1";
/// Longest head of the file that is compared, in bytes.
const HEAD_BYTES_MAX: u64 = 4096;
/// Longest state file that is read, in bytes.
const STATE_BYTES_MAX: u64 = 64 << 10;

/// A state file.
pub(crate) struct Resume {
    path: PathBuf,
    cluster: ClusterId,
    layout: String,
}

impl Resume {
    pub(crate) fn new(path: &Path, cluster: ClusterId, layout: String) -> Resume {
        Resume { path: path.to_owned(), cluster, layout }
    }

    /// Where to go on: what the state file says of this import of this file, or the beginning if there is none.
    pub(crate) fn load(&self, input: &mut File) -> Result<Place, Failure> {
        let mut text = String::new();
        match File::open(&self.path) {
            Ok(file) => {
                file.take(STATE_BYTES_MAX).read_to_string(&mut text).map_err(|error| self.io(error))?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Place::default()),
            Err(error) => return Err(self.io(error)),
        };
        let mut lines = text.lines();
        if lines.next() != Some(TITLE) {
            return Err(self.foreign("is not the state of an import"));
        }
        let mut field = |name: &str| -> Result<&str, Failure> {
            let value = lines.next().and_then(|line| line.strip_prefix(name)?.strip_prefix(' '));
            value.ok_or_else(|| self.foreign("is damaged"))
        };
        let (cluster, layout, head) = (field("cluster")?, field("layout")?, field("head")?);
        let mut number = |name| field(name)?.parse::<u64>().map_err(|_| self.foreign("is damaged"));
        let place = Place { bytes: number("bytes")?, lines: number("lines")? };
        if cluster != self.cluster.to_string() {
            return Err(self.foreign("belongs to an import into another cluster"));
        }
        if layout != self.layout {
            return Err(self.foreign("belongs to an import with other options"));
        }
        let length = input.metadata().map_err(Failure::failed)?.len();
        if length < place.bytes || head != head_of(input, place.bytes).map_err(Failure::failed)? {
            return Err(self.foreign("belongs to an import of another file"));
        }
        Ok(place)
    }

    /// Notes that everything in front of `place` is acknowledged.
    pub(crate) fn save(&self, input: &mut File, place: Place) -> Result<(), Failure> {
        let head = head_of(input, place.bytes).map_err(Failure::failed)?;
        let text = format!(
            "{TITLE}\ncluster {}\nlayout {}\nhead {head}\nbytes {}\nlines {}\n",
            self.cluster, self.layout, place.bytes, place.lines
        );
        let new = self.path.with_added_extension("new");
        let written = File::create(&new).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &self.path)
        });
        written.map_err(|error| self.io(error))
    }

    fn io(&self, error: io::Error) -> Failure {
        Failure::failed(format!("{}: {error}", self.path.display()))
    }

    fn foreign(&self, what: &str) -> Failure {
        Failure::usage(format!("{} {what}: remove it, or name another state file", self.path.display()))
    }
}

/// The length and hash of the first bytes of a file, at most `place` of them.
fn head_of(input: &mut File, place: u64) -> io::Result<String> {
    let mut head = vec![0; place.min(HEAD_BYTES_MAX) as usize];
    input.seek(SeekFrom::Start(0))?;
    input.read_exact(&mut head)?;
    Ok(format!("{} {:016x}", head.len(), xxh3_64(&head)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_is_for_one_import_of_one_file_into_one_cluster() {
        let temp = tempfile::tempdir().unwrap();
        let (state, data) = (temp.path().join("state"), temp.path().join("data"));
        fs::write(&data, "one\ntwo\nthree\n").unwrap();
        let mut input = File::open(&data).unwrap();
        let resume = |cluster, layout: &str| Resume::new(&state, ClusterId([cluster; 16]), layout.into());
        let ours = resume(1, "tsv");
        assert_eq!(ours.load(&mut input).unwrap(), Place::default(), "no state yet");
        let place = Place { bytes: 8, lines: 2 };
        ours.save(&mut input, place).unwrap();
        assert_eq!(ours.load(&mut input).unwrap(), place);
        assert!(resume(2, "tsv").load(&mut input).is_err());
        assert!(resume(1, "csv").load(&mut input).is_err());
        fs::write(&data, "one\ntwo\nthree and more\n").unwrap();
        assert_eq!(ours.load(&mut File::open(&data).unwrap()).unwrap(), place, "a file that has grown");
        for other in ["one\nTWO\nthree\n", "one\n"] {
            fs::write(&data, other).unwrap();
            assert!(ours.load(&mut File::open(&data).unwrap()).is_err());
        }
        for damaged in ["", "ferrite import 2\n", "ferrite import 1\ncluster x\n"] {
            fs::write(&state, damaged).unwrap();
            assert!(ours.load(&mut input).is_err());
        }
    }
}
