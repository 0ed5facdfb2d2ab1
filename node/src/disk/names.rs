//! Where the engine's files lie below the data directory.
//!
//! ```text
//! core-00003/log-00000017           a log segment
//! core-00003/manifest-00000000000000000042
//! store-00012/table-00000000000000000123
//! checkpoint-00000000000000000007/core-00003/…       a checkpoint: the same below it
//! ….making                          a file being zeroed; not one of the engine's until it is renamed
//! ```
//!
//! Numbers are decimal and padded, so that a listing sorts. Whatever does not read back to the same name is not ours and is
//! left alone.

use std::ffi::CString;

use ferrite_lsm::{Directory, FileName};

/// Ends the name of a file that is still being zeroed.
const MAKING: &str = ".making";

/// The checkpoint in which a name is; `None` = none, it lies in the data directory itself.
pub type Root = Option<u64>;

/// The path of the directory that a root's directories are in; empty for the data directory itself.
pub(super) fn root_path(root: Root) -> String {
    root.map_or(String::new(), |number| format!("checkpoint-{number:020}/"))
}

/// Which checkpoint's directory is called `text`, if one is.
pub(super) fn parse_checkpoint(text: &str) -> Option<u64> {
    let number = text.strip_prefix("checkpoint-")?.parse().ok()?;
    (root_path(Some(number)).trim_end_matches('/') == text).then_some(number)
}

/// The path of a directory.
pub fn directory_path(root: Root, directory: Directory) -> String {
    let root = root_path(root);
    match directory {
        Directory::Core(core) => format!("{root}core-{core:05}"),
        Directory::Store(store) => format!("{root}store-{store:05}"),
    }
}

/// The path of a file.
pub(super) fn file_path(root: Root, name: FileName) -> CString {
    c_string(format!("{}/{}", directory_path(root, name.directory()), leaf(name)))
}

/// The path a file has until it is whole.
pub(super) fn making_path(root: Root, name: FileName) -> CString {
    c_string(format!("{}/{}{MAKING}", directory_path(root, name.directory()), leaf(name)))
}

/// A path for the kernel.
pub(super) fn c_string(path: String) -> CString {
    CString::new(path).expect("names hold no zero byte")
}

/// Which file of `directory` is called `text`, if one of the engine's is.
pub fn parse(directory: Directory, text: &str) -> Option<FileName> {
    let (kind, number) = text.split_once('-')?;
    let name = match (directory, kind) {
        (Directory::Core(core), "log") => FileName::Segment { core, slot: number.parse().ok()? },
        (Directory::Core(core), "manifest") => FileName::Manifest { core, number: number.parse().ok()? },
        (Directory::Store(store), "table") => FileName::Table { store, number: number.parse().ok()? },
        (Directory::Store(store), "values") => FileName::Values { store, number: number.parse().ok()? },
        _ => return None,
    };
    (leaf(name) == text).then_some(name)
}

/// The name of a file in its directory.
pub fn leaf(name: FileName) -> String {
    match name {
        FileName::Segment { slot, .. } => format!("log-{slot:08}"),
        FileName::Manifest { number, .. } => format!("manifest-{number:020}"),
        FileName::Table { number, .. } => format!("table-{number:020}"),
        FileName::Values { number, .. } => format!("values-{number:020}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_strangers_do_not() {
        for name in [
            FileName::Segment { core: 3, slot: 17 },
            FileName::Segment { core: u16::MAX, slot: u32::MAX },
            FileName::Manifest { core: 0, number: u64::MAX },
            FileName::Table { store: 9, number: 1 },
            FileName::Values { store: 9, number: 2 },
        ] {
            assert_eq!(parse(name.directory(), &leaf(name)), Some(name));
        }
        let core = Directory::Core(3);
        for stranger in
            ["", "log", "log-", "log-1", "log-+0000001", "log-00000017.making", "table-1", "lost+found"]
        {
            assert_eq!(parse(core, stranger), None, "{stranger}");
        }
    }

    #[test]
    fn checkpoints_read_back_and_strangers_do_not() {
        for number in [0, 7, u64::MAX] {
            assert_eq!(parse_checkpoint(root_path(Some(number)).trim_end_matches('/')), Some(number));
        }
        for stranger in ["checkpoint-7", "checkpoint-", "core-00003", "checkpoint-+0000000000000000007"] {
            assert_eq!(parse_checkpoint(stranger), None, "{stranger}");
        }
    }

    #[test]
    fn a_listing_sorts_like_its_numbers() {
        let low = leaf(FileName::Table { store: 1, number: 9 });
        let high = leaf(FileName::Table { store: 1, number: 10 });
        assert!(low < high);
    }
}
