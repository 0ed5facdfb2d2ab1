//! The readers of log, table, value file and manifest against any bytes: the fuzz targets of these formats, on stable.
//!
//! `fuzz/corpus` has a directory for each. Its inputs are replayed, and changed from a seed (`FERRITE_READERS=2000` for that many
//! changes of each). They are made of a small engine's real files; after a change of a format
//! `FERRITE_CORPUS=write cargo test -p ferrite-lsm --test readers` makes them anew.

#![allow(unsafe_code, reason = "a counting allocator")]

mod exercise;
#[path = "../rig/heap.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod heap;
mod mutate;

use std::fs;
use std::path::PathBuf;

use exercise::input::{Input, PAGE};
use exercise::{Kind, run, sample};
use ferrite_lsm::FileName;
use heap::{CountingAllocator, live_bytes, take_peak_bytes};
use mutate::{Random, mutate};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Most memory that an input is worth: a few records of the greatest length, and the engine around them.
const HEAP_BYTES_MAX: i64 = 160 << 20;
/// Changes of each input of the corpus, where the environment does not say.
const CHANGES: u64 = 12;
/// Changed inputs in a corpus, beside the whole ones.
const CHANGED: u64 = 8;
/// Most bytes of all corpora together.
const CORPUS_BYTES_MAX: u64 = 300 << 10;
/// The input of [`a_table_that_is_added_twice_is_damage_to_the_manifest`].
const TABLE_TWICE: &str = "with-a-table-twice";
/// The input of [`a_pointer_that_is_none_is_damage_to_its_block`].
const NO_POINTER: &str = "without-a-pointer";
const KINDS: [(Kind, &str); 4] =
    [(Kind::Log, "log"), (Kind::Table, "table"), (Kind::Values, "values"), (Kind::Manifest, "manifest")];

fn corpus(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name)
}

/// The sample's own files of a kind, as an input.
fn whole(kind: Kind) -> Input {
    let files = kind.places().into_iter().map(|name| sample::disk().read_all(name).expect("it is there"));
    // Of tables and value files one by itself is enough.
    let most = if matches!(kind, Kind::Table | Kind::Values) { 1 } else { 3 };
    Input { reseal: false, files: files.take(most).collect() }
}

/// What the corpus of a kind is: whole files, the same to be sealed again, and some that were changed.
fn made(kind: Kind) -> Vec<(String, Vec<u8>)> {
    let whole = whole(kind);
    let sealed = Input { reseal: true, ..whole.clone() };
    let mut inputs = vec![("whole".to_owned(), whole.encode()), ("resealed".to_owned(), sealed.encode())];
    for seed in 1..=CHANGED {
        inputs.push((format!("changed-{seed}"), mutate(&whole, &mut Random::new(seed)).encode()));
    }
    if kind == Kind::Table {
        inputs.push((NO_POINTER.to_owned(), without_a_pointer(&whole).encode()));
    }
    if kind == Kind::Manifest {
        let beyond = beyond_all_numbers(&whole).into_iter();
        inputs.extend(beyond.map(|(what, input)| (format!("beyond-{what}"), input.encode())));
        inputs.push((TABLE_TWICE.to_owned(), with_a_table_twice(&whole).encode()));
    }
    inputs
}

/// The manifest with one number each that cannot be: so high that nothing follows it, or that it can be added to nothing.
fn beyond_all_numbers(whole: &Input) -> Vec<(&'static str, Input)> {
    let manifest = &whole.files[0];
    // Of the first group: what a snapshot begins with.
    let edits = 2 * PAGE + 40;
    assert_eq!([0, 9, 18, 27, 30].map(|edit| manifest[edits + edit]), [1, 7, 8, 2, 6], "its first edits");
    let find = |bytes: &[u8]| {
        let found = manifest[edits..].windows(bytes.len()).position(|at| at == bytes);
        found.map(|found| edits + found)
    };
    let layout = find(&[&[20][..], &1u64.to_le_bytes(), &[1, 0, 0, 0]].concat()).expect("it says its layout");
    let FileName::Values { number, .. } = Kind::Values.places()[0] else { unreachable!("it has its name") };
    let values = find(&number.to_le_bytes()).expect("it names the file");
    assert_eq!(manifest[values - 3], 11, "a value file is added before a table names it");
    // A table's shares begin with their number.
    let first_of = |count: u32| find(&[&count.to_le_bytes()[..], &number.to_le_bytes()].concat());
    let share = (1..9).find_map(first_of).expect("a table points into the file");
    let numbers = [
        ("incarnation", edits + 1, 8),
        ("file-number", edits + 10, 8),
        ("log-floor", edits + 19, 8),
        ("store", edits + 28, 2),
        ("flushed", edits + 33, 8),
        ("generation", layout + 1, 8),
        ("cores", layout + 9, 2),
        ("value-bytes", values + 8, 8),
        ("record-bytes", values + 16, 8),
        ("share", share + 12, 8),
    ];
    let input_of = |(what, at, len): (&'static str, usize, usize)| {
        let mut input = Input { reseal: true, ..whole.clone() };
        input.files[0][at..at + len].fill(0xff);
        (what, input)
    };
    numbers.map(input_of).into()
}

/// The manifest with its first table added once more, to level 0.
fn with_a_table_twice(whole: &Input) -> Input {
    let mut input = Input { reseal: true, ..whole.clone() };
    let manifest = &mut input.files[0];
    let u32_at =
        |at: usize| u32::from_le_bytes(manifest[at..at + 4].try_into().expect("four bytes")) as usize;
    let edits = 2 * PAGE + 40;
    // Tags and lengths of what stands in front of a store's tables in a snapshot.
    let before = [(1, 9), (7, 9), (8, 9), (2, 3), (6, 11), (11, 43)];
    let mut at = edits;
    while let Some((_, bytes)) = before.iter().find(|(tag, _)| manifest[at] == *tag) {
        at += bytes;
    }
    assert_eq!(manifest[at], 4, "a table is added");
    let table = at..at + 6 + u32_at(at + 2);
    let bytes = u32_at(edits - 12);
    let end = edits + bytes;
    assert!(end + table.len() <= end.next_multiple_of(PAGE), "there is room in the snapshot's page");
    manifest[edits - 12..edits - 8].copy_from_slice(&((bytes + table.len()) as u32).to_le_bytes());
    manifest.copy_within(table, end);
    manifest[end + 1] = 0;
    input
}

/// The table with its first value that is apart not pointed to: the pointer's lengths say that the value is longer stored than not.
fn without_a_pointer(whole: &Input) -> Input {
    let mut input = Input { reseal: true, ..whole.clone() };
    let values = Kind::Values.places()[0];
    let FileName::Values { number, .. } = values else { unreachable!("a value file has its name") };
    let table = &mut input.files[0];
    let pointer = table.windows(8).position(|bytes| bytes == number.to_le_bytes()).expect("it points there");
    table[pointer + 24..pointer + 32].copy_from_slice(&[0xff, 0xff, 0, 0, 1, 0, 0, 0]);
    input
}

fn read_corpus(name: &str) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(corpus(name)).expect("the corpus is part of the project");
    let mut inputs: Vec<(String, Vec<u8>)> = entries
        .map(|entry| {
            let path = entry.expect("readable").path();
            (path.display().to_string(), fs::read(&path).expect("readable"))
        })
        .collect();
    inputs.sort();
    inputs
}

/// Runs an input within the memory that it may take.
fn bounded(kind: Kind, input: &[u8], what: &dyn Fn() -> String) -> bool {
    sample::disk();
    take_peak_bytes();
    let before = live_bytes();
    let is_whole = run(kind, input);
    let most = take_peak_bytes() - before;
    assert!(most <= HEAP_BYTES_MAX, "{}: {most} bytes", what());
    is_whole
}

fn replay(kind: Kind, name: &str) {
    let inputs = read_corpus(name);
    assert!(inputs.len() as u64 >= CHANGED, "{} inputs for {name}", inputs.len());
    let changes = std::env::var("FERRITE_READERS").ok().and_then(|text| text.parse().ok()).unwrap_or(CHANGES);
    for (path, bytes) in inputs {
        bounded(kind, &bytes, &|| path.clone());
        let input = Input::decode(&bytes);
        for seed in 0..changes {
            let changed = mutate(&input, &mut Random::new(seed ^ bytes.len() as u64)).encode();
            let what = || format!("{path}, change {seed}");
            let outcome = std::panic::catch_unwind(|| bounded(kind, &changed, &what));
            assert!(outcome.is_ok(), "{} is not read without a panic", what());
        }
    }
}

#[test]
fn logs() {
    replay(Kind::Log, "log");
}

#[test]
fn tables() {
    replay(Kind::Table, "table");
}

#[test]
fn value_files() {
    replay(Kind::Values, "values");
}

#[test]
fn manifests() {
    replay(Kind::Manifest, "manifest");
}

/// An input that is refused at its first field tests nothing else: of each kind one is whole, to every reader.
#[test]
fn the_corpora_are_of_the_formats_that_are_read() {
    let writes = std::env::var("FERRITE_CORPUS").is_ok_and(|what| what == "write");
    let mut total = 0;
    for (kind, name) in KINDS {
        if writes {
            fs::create_dir_all(corpus(name)).expect("the project can be written to");
            for (input, bytes) in made(kind) {
                fs::write(corpus(name).join(input), bytes).expect("the project can be written to");
            }
        }
        for (input, bytes) in read_corpus(name) {
            total += bytes.len() as u64;
            let is_whole = input.ends_with("whole") || input.ends_with("resealed");
            let remedy = "after a change of a format, FERRITE_CORPUS=write makes the corpus anew";
            assert!(!is_whole || bounded(kind, &bytes, &|| input.clone()), "{input}: {remedy}");
        }
    }
    assert!(total <= CORPUS_BYTES_MAX, "{total} bytes of corpora");
}

/// A record that says that its value is apart, and has no pointer, passed the reader of blocks: the merge that met it panicked. The
/// checksum was right, so scrubbing did not find it either.
#[test]
fn a_pointer_that_is_none_is_damage_to_its_block() {
    let input = without_a_pointer(&whole(Kind::Table));
    assert!(!bounded(Kind::Table, &input.encode(), &|| "it is read".into()), "it is found");
}

/// The numbers of a manifest were trusted behind its checksums: one that was written so made what follows it, or the sum it is part of,
/// overflow.
#[test]
fn numbers_that_cannot_be_are_damage_to_the_manifest() {
    for (what, input) in beyond_all_numbers(&whole(Kind::Manifest)) {
        let input = input.encode();
        assert!(!bounded(Kind::Manifest, &input, &|| what.into()), "{what} is trusted");
    }
}

/// A table that a manifest added twice under right checksums was taken for two: the merge that had taken both panicked when they were to go.
#[test]
fn a_table_that_is_added_twice_is_damage_to_the_manifest() {
    let input = with_a_table_twice(&whole(Kind::Manifest)).encode();
    assert!(!bounded(Kind::Manifest, &input, &|| "it is read".into()), "it is found");
}

#[test]
fn an_input_is_what_it_was_made_of() {
    for (kind, _) in KINDS {
        let mut input = whole(kind);
        assert_eq!(Input::decode(&input.encode()), input, "{kind:?}");
        let last = input.files.last_mut().expect("there is a file");
        last.truncate(last.len() - 100);
        assert_eq!(Input::decode(&input.encode()), input, "{kind:?}, cut short");
    }
    for len in 0..40 {
        let _anything_goes = Input::decode(&vec![0xff; len]);
    }
}
