//! Lists the marks that the code under test has, so that the simulator can say which of them no run has reached.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Where the code under test is, seen from this package.
const SOURCES: [&str; 3] = ["../lsm/src", "../cluster/src", "../node/src"];

fn main() {
    let mut names = BTreeSet::new();
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
        visit(Path::new(source), &mut names);
    }
    let listed: Vec<String> = names.iter().map(|name| format!("    {name:?},\n")).collect();
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets it")).join("marks.rs");
    fs::write(out, format!("&[\n{}]\n", listed.concat())).expect("the output directory can be written to");
}

fn visit(path: &Path, names: &mut BTreeSet<String>) {
    if path.is_dir() {
        let entries = fs::read_dir(path).expect("a package's sources can be listed");
        entries.for_each(|entry| visit(&entry.expect("an entry").path(), names));
    } else if path.extension().is_some_and(|extension| extension == "rs") {
        let text = fs::read_to_string(path).expect("a source is text");
        text.split("cover::mark(").skip(1).for_each(|call| names.extend(names_of(call)));
    }
}

/// The strings between the opening bracket of a call, which is before `call`, and its closing one.
fn names_of(call: &str) -> Vec<String> {
    let (mut names, mut depth, mut name) = (Vec::new(), 1, None::<String>);
    for letter in call.chars() {
        match (&mut name, letter) {
            (None, '"') => name = Some(String::new()),
            (Some(_), '"') => names.extend(name.take()),
            (Some(name), letter) => name.push(letter),
            (None, '(') => depth += 1,
            (None, ')') => depth -= 1,
            (None, _) => {}
        }
        if depth == 0 {
            break;
        }
    }
    names
}
