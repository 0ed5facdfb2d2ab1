//! `ferrite debug`: says of a node's files that they are whole, of a damaged one where, and of anything else that it is none.

use std::fs;
use std::path::{Path, PathBuf};

use ferrite_client::{Key, WriteOptions};

use crate::{client, cluster, directory, ferrite, outcome};

const RECORDS: u64 = 2_000;

/// Files below `directory` whose name begins so.
fn files(directory: &Path, prefix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("it is there") {
        let path = entry.expect("it can be read").path();
        let name = path.file_name().expect("it has a name").to_string_lossy().into_owned();
        if path.is_dir() {
            found.extend(files(&path, prefix));
        } else if name.starts_with(prefix) {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn a_nodes_files_are_printed_and_verified() {
    let home = directory();
    let mut cluster = cluster(home.path(), 1);
    let data = cluster.node(0).data.clone();
    let mut writer = client(&cluster);
    for n in 0..RECORDS {
        // The last ones are long enough to be flushed, and to be kept apart.
        let value = vec![n as u8; if n < RECORDS - 400 { 100 } else { 60_000 }];
        let put = writer.put(Key::plain(format!("key {n}").as_bytes()), &value, WriteOptions::default());
        assert!(put.is_done(), "{put}");
    }
    let debug = |arguments: &[&str], path: &Path| {
        let path = path.to_str().expect("it is text");
        let output = ferrite(home.path(), &[&["debug"], arguments, &[path]].concat());
        let (code, said) = outcome(&output);
        (code, String::from_utf8(output.stdout).expect("it is text"), said)
    };
    let (code, _, said) = debug(&["store"], &data);
    assert_eq!(code, 2, "a node runs there: {said}");
    assert_eq!(cluster.stop(0).expect("it stops").code(), Some(0));

    let (code, text, said) = debug(&["store"], &data);
    assert_eq!((code, text.lines().last()), (0, Some("whole")), "{said}");
    let (tables, values) = (files(&data, "table-"), files(&data, "values-"));
    let (logs, manifests) = (files(&data, "log-"), files(&data, "manifest-"));
    assert!(!tables.is_empty() && !values.is_empty() && !logs.is_empty() && !manifests.is_empty());
    for (kind, path) in [("table", &tables[0]), ("values", &values[0]), ("manifest", &manifests[0])] {
        let (code, text, said) = debug(&[kind], path);
        assert_eq!((code, text.lines().last()), (0, Some("whole")), "{kind}: {said}");
    }
    let core = logs[0].parent().expect("it lies in a directory");
    let (code, text, said) = debug(&["log"], core);
    assert_eq!(code, 0, "{said}");
    assert!(text.contains("a start would replay"), "{text}");
    let (code, text, _) = debug(&["table", "--keys"], &tables[0]);
    assert!(code == 0 && text.contains("\"key "), "keys are shown");
    let (code, text, _) = debug(&["table", "--json"], &tables[0]);
    assert!(code == 0 && text.lines().all(|line| line.starts_with('{') && line.ends_with('}')), "{text}");

    let mut bytes = fs::read(&tables[0]).expect("it can be read");
    bytes[100] ^= 1;
    fs::write(&tables[0], &bytes).expect("it can be written");
    for (kind, path) in [("table", &tables[0]), ("store", &data)] {
        let (code, text, said) = debug(&[kind], path);
        assert_eq!(code, 1, "{said}");
        let number = tables[0].file_name().expect("it has a name").to_string_lossy().into_owned();
        let line = text.lines().find(|line| line.starts_with("DAMAGED")).expect("it is said where");
        assert!(line.contains(&number) && line.contains("at byte 0"), "{line}");
        assert!(text.contains("may hide keys from"), "{text}");
    }
    let (code, _, said) = debug(&["log"], &data.join("nothing"));
    assert!(code == 2 && said.contains("nothing"), "{said}");
}

/// A foreign file was called damaged, under the name of a table that it never was.
#[test]
fn what_is_no_file_of_the_engines_is_refused_as_such() {
    let home = directory();
    let mut cluster = cluster(home.path(), 1);
    let data = cluster.node(0).data.clone();
    let mut writer = client(&cluster);
    for n in 0..400u64 {
        let put = writer.put(Key::plain(&n.to_be_bytes()), &[n as u8; 60_000], WriteOptions::default());
        assert!(put.is_done(), "{put}");
    }
    assert_eq!(cluster.stop(0).expect("it stops").code(), Some(0));
    let own = [("log", "log-"), ("table", "table-"), ("values", "values-"), ("manifest", "manifest-")]
        .map(|(kind, prefix)| (kind, files(&data, prefix).remove(0)));

    let (empty, text) = (home.path().join("empty"), home.path().join("notes.txt"));
    fs::write(&empty, b"").expect("it can be written");
    fs::write(&text, "root:x:0:0:root:/root:/bin/bash\n".repeat(400)).expect("it can be written");
    let (missing, elsewhere) = (home.path().join("missing"), home.path().join("elsewhere"));
    fs::create_dir(&elsewhere).expect("it can be made");
    let debug = |arguments: &[&str], path: &Path| {
        let path = path.to_str().expect("it is text");
        let (code, said) = outcome(&ferrite(home.path(), &[&["debug"], arguments, &[path]].concat()));
        (code, said)
    };
    for kind in ["log", "table", "values", "manifest", "store"] {
        // A log segment or a manifest under another name wants to be told whose it is.
        let named = ["--core", "0", "--store", "0"];
        for path in [&empty, &text, &missing, &elsewhere] {
            for arguments in [vec![kind], [&[kind], &named[..]].concat()] {
                let (code, said) = debug(&arguments, path);
                let name = path.file_name().expect("it has a name").to_string_lossy();
                assert!(code == 2 && said.contains(&*name), "{arguments:?} {path:?}: {code}, {said}");
                assert!(!said.contains("damaged"), "{said}");
            }
        }
        // Another kind's file, in its place and under a name that says nothing.
        for (other, path) in own.iter().filter(|(other, _)| *other != kind) {
            let copy = home.path().join("copy");
            fs::copy(path, &copy).expect("it can be copied");
            for path in [path, &copy] {
                let (code, said) = debug(&[&[kind], &named[..]].concat(), path);
                assert_eq!(code, 2, "{kind} of a {other} file, {path:?}: {said}");
            }
        }
    }
    // What is one is taken for one under any name, and called by it.
    for (kind, path) in own.iter().filter(|(kind, _)| matches!(*kind, "table" | "values")) {
        let copy = home.path().join("copy of mine");
        fs::copy(path, &copy).expect("it can be copied");
        let output = ferrite(home.path(), &["debug", kind, copy.to_str().expect("it is text")]);
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(0), "{kind}: {shown}");
        assert!(shown.contains("copy of mine") && !shown.contains("store-0"), "{shown}");
        // In its own place an empty table is a damaged one.
        fs::write(path, b"").expect("it can be written");
        let (code, said) = debug(&[kind], path);
        assert_eq!(code, 1, "{kind}: {said}");
    }
}
