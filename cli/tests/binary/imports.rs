//! import: good records arrive, bad ones are named, and an interrupted import goes on.

use ferrite_client::{Key, ReadOptions};

use crate::{client, cluster, directory, ferrite, outcome};

#[test]
fn bad_lines_are_named_and_passed_over_or_stop_the_import() {
    let home = directory();
    let cluster = cluster(home.path(), 1);
    let file = home.path().join("people.csv");
    std::fs::write(&file, "id,name\n1,ada\n2\n,nobody\n3,\"grace\nhopper\"\n4,\"open\n").unwrap();
    let import = ["import", "people.csv", "--format", "csv", "--key", "id", "--value", "name"];
    let (code, said) = outcome(&ferrite(home.path(), &[&import[..], &["--on-error", "skip"]].concat()));
    assert_eq!(code, 1, "{said}");
    for part in [
        "people.csv:3: there is no \"name\"",
        "people.csv:4: the key is empty",
        "people.csv:7: a quote is opened and never closed",
        "imported 2 records",
        "3 bad lines",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let mut reader = client(&cluster);
    let mut get =
        |key: &[u8]| reader.get(Key::plain(key), ReadOptions::default()).unwrap().map(|value| value.bytes);
    assert_eq!((get(b"1"), get(b"3")), (Some(b"ada".to_vec()), Some(b"grace\nhopper".to_vec())));
    assert_eq!((get(b"2"), get(b"4")), (None, None));

    std::fs::write(&file, "id,name\n10,ten\nbad\n11,eleven\n").unwrap();
    let stop = [&import[..], &["--resume", "state"]].concat();
    let (code, said) = outcome(&ferrite(home.path(), &stop));
    assert_eq!((code, said.contains("people.csv:3:")), (1, true), "{said}");
    assert_eq!((get(b"10"), get(b"11")), (Some(b"ten".to_vec()), None));
    // Mended, it goes on behind what was acknowledged.
    std::fs::write(&file, "id,name\n10,ten\n12,twelve\n11,eleven\n").unwrap();
    let (code, said) = outcome(&ferrite(home.path(), &stop));
    assert_eq!((code, said.contains("imported 2 records")), (0, true), "{said}");
    assert_eq!((get(b"12"), get(b"11")), (Some(b"twelve".to_vec()), Some(b"eleven".to_vec())));
    let (code, said) = outcome(&ferrite(home.path(), &stop));
    assert_eq!((code, said.contains("imported 0 records")), (0, true), "{said}");
    std::fs::write(&file, "id,name\n99,other\n").unwrap();
    let (code, said) = outcome(&ferrite(home.path(), &stop));
    assert_eq!((code, said.contains("an import of another file")), (2, true), "{said}");
}

#[test]
fn documents_and_the_rest_of_lines() {
    let home = directory();
    let cluster = cluster(home.path(), 1);
    std::fs::write(home.path().join("e.ndjson"), "{\"e\":{\"id\":7},\"v\":1}\n{oops\n").unwrap();
    let arguments = ["import", "e.ndjson", "--format", "ndjson", "--key", "e.id", "--on-error", "skip"];
    let (code, said) = outcome(&ferrite(home.path(), &arguments));
    assert_eq!((code, said.contains("e.ndjson:2: not JSON")), (1, true), "{said}");
    std::fs::write(home.path().join("u.txt"), b"0041;LATIN;\xff\n").unwrap();
    let arguments = ["import", "u.txt", "--format", "delimited", "--delimiter", ";", "--level", "all"];
    assert_eq!(outcome(&ferrite(home.path(), &arguments)).0, 0);
    let mut reader = client(&cluster);
    let mut get = |key: &[u8]| reader.get(Key::plain(key), ReadOptions::default()).unwrap().unwrap().bytes;
    assert_eq!(get(b"7"), b"{\"e\":{\"id\":7},\"v\":1}");
    assert_eq!(get(b"0041"), b"LATIN;\xff", "bytes are taken as they are");
}
