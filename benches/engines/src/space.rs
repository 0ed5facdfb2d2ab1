//! What a data directory takes on disk, by kind of file.

use std::collections::BTreeSet;
use std::fs::DirEntry;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::measure::Figures;

/// Allocated bytes: a file that has more than it holds counts with all it has, spare log segments among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Logs, and segments that wait for reuse.
    pub log_bytes: u64,
    pub table_bytes: u64,
    /// Values apart from the tables.
    pub value_bytes: u64,
    /// Manifests, and whatever else an engine keeps.
    pub other_bytes: u64,
}

impl Space {
    /// All files below a directory; names of one file count once.
    pub fn of(directory: &Path) -> Space {
        let mut space = Space::default();
        space.walk(directory, &mut BTreeSet::new());
        space
    }

    fn walk(&mut self, directory: &Path, seen: &mut BTreeSet<u64>) {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                self.walk(&entry.path(), seen);
            } else if seen.insert(meta.ino()) {
                *self.kind(&entry) += meta.blocks() * 512;
            }
        }
    }

    fn kind(&mut self, entry: &DirEntry) -> &mut u64 {
        let name = entry.file_name().to_string_lossy().into_owned();
        let above = entry.path().parent().and_then(Path::file_name).map(|name| name.to_os_string());
        let is_fjalls_table = above.is_some_and(|above| above == "tables");
        if name.starts_with("log-") || name.ends_with(".log") || name.ends_with(".jnl") {
            &mut self.log_bytes
        } else if name.starts_with("table-") || name.ends_with(".sst") || is_fjalls_table {
            &mut self.table_bytes
        } else if name.starts_with("values-") || name.ends_with(".blob") {
            &mut self.value_bytes
        } else {
            &mut self.other_bytes
        }
    }

    pub fn all_bytes(self) -> u64 {
        self.log_bytes + self.table_bytes + self.value_bytes + self.other_bytes
    }

    /// Adds itself to a row's figures.
    pub fn add_to(self, figures: &mut Figures) {
        figures.set("disk_bytes", self.all_bytes() as f64);
        figures.set("disk_log_bytes", self.log_bytes as f64);
        figures.set("disk_table_bytes", self.table_bytes as f64);
        figures.set("disk_value_bytes", self.value_bytes as f64);
        figures.set("disk_other_bytes", self.other_bytes as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_all_engines_count_once_and_by_their_kind() {
        let directory = std::env::temp_dir().join(format!("ferrite-engines-space.{}", std::process::id()));
        let _absent = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(directory.join("tables")).expect("a directory");
        let kinds = [
            ("log-00000001", 1),
            ("000012.log", 2),
            ("0.jnl", 3),
            ("table-00000000000000000001", 4),
            ("000013.sst", 5),
            ("tables/7", 6),
            ("values-00000000000000000002", 7),
            ("manifest-00000000000000000001", 8),
            ("LOG", 9),
        ];
        for (name, blocks) in kinds {
            std::fs::write(directory.join(name), vec![1; blocks * 65_536]).expect("written");
        }
        std::fs::hard_link(directory.join("000013.sst"), directory.join("second.sst")).expect("a link");
        // What is allocated is known once it is written.
        std::fs::File::open(&directory).and_then(|file| file.sync_all()).expect("synced");
        kinds.iter().for_each(|(name, _)| {
            std::fs::File::open(directory.join(name)).and_then(|file| file.sync_all()).expect("synced");
        });
        let space = Space::of(&directory);
        std::fs::remove_dir_all(&directory).expect("removed");
        let of = |blocks: u64| blocks * 65_536;
        assert_eq!(
            space,
            Space { log_bytes: of(6), table_bytes: of(15), value_bytes: of(7), other_bytes: of(17) }
        );
        assert_eq!(space.all_bytes(), of(45));
    }
}
