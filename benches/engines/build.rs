//! Which RocksDB is linked, for the report; and a clear word if it is not installed.

use std::path::PathBuf;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // What `librocksdb-sys` tells those that depend on it: where its sources are.
    println!("cargo::rerun-if-env-changed=DEP_ROCKSDB_CARGO_MANIFEST_DIR");
    let (include, origin) = match std::env::var_os("DEP_ROCKSDB_CARGO_MANIFEST_DIR") {
        Some(sources) => (PathBuf::from(sources).join("rocksdb/include"), "built with io_uring"),
        None => (PathBuf::from("/usr/include"), "the system's"),
    };
    let header = std::fs::read_to_string(include.join("rocksdb/version.h")).unwrap_or_else(|_| {
        println!("cargo::error=RocksDB is not installed: apt-get install librocksdb-dev");
        std::process::exit(1)
    });
    let part = |name: &str| {
        let line = header.lines().find(|line| line.contains(name)).expect("version.h has it");
        line.split_whitespace().next_back().expect("a number").to_owned()
    };
    let version = [part("ROCKSDB_MAJOR"), part("ROCKSDB_MINOR"), part("ROCKSDB_PATCH")].join(".");
    println!("cargo::rustc-env=ROCKSDB_VERSION={version}, {origin}");
}
