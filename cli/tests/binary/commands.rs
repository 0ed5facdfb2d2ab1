//! get, put, del and status against a running cluster: what they print, and what they exit with.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::{cluster, directory, ferrite, outcome, program};

#[test]
fn keys_are_written_read_and_deleted_byte_for_byte() {
    let home = directory();
    let _cluster = cluster(home.path(), 3);
    let run = |arguments: &[&str]| ferrite(home.path(), arguments);
    assert!(run(&["put", "greeting", "hello"]).status.success());
    let got = run(&["get", "greeting"]);
    assert_eq!((got.status.code(), got.stdout.as_slice()), (Some(0), &b"hello"[..]));
    assert!(run(&["put", "greeting", "", "--level", "all"]).status.success());
    let got = run(&["get", "greeting", "--level", "one"]);
    assert_eq!((got.status.code(), got.stdout.as_slice()), (Some(0), &b""[..]), "an empty value is a value");
    assert!(run(&["del", "greeting"]).status.success());
    let got = run(&["get", "greeting"]);
    assert_eq!((got.status.code(), got.stdout.as_slice()), (Some(1), &b""[..]));
    assert!(run(&["del", "greeting"]).status.success(), "deleting what is not there is done");

    let bytes: Vec<u8> = (0..300_000u32).map(|at| ((at * 31) >> 3) as u8).collect();
    let mut put = Command::new(program())
        .args(["put", "blob", "-"])
        .current_dir(home.path())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    put.stdin.take().unwrap().write_all(&bytes).unwrap();
    assert!(put.wait().unwrap().success());
    assert!(run(&["get", "blob"]).stdout == bytes, "bytes come back as they went");
}

#[test]
fn mistakes_are_told_from_failures() {
    let home = directory();
    let mut cluster = cluster(home.path(), 3);
    let run = |arguments: &[&str]| outcome(&ferrite(home.path(), arguments));
    for wrong in [
        &["get"][..],
        &["get", ""],
        &["put", "key", "value", "--level", "most"],
        &["put", "key", "value", "--ttl", "3"],
        &["get", "key", "--addr", "nowhere"],
        &["frobnicate"],
        &["import", "no-such-file", "--format", "tsv"],
        &["import", "x", "--format", "delimited"],
        &["import", "x", "--format", "ndjson"],
    ] {
        assert_eq!(run(wrong).0, 2, "{wrong:?}");
    }
    let (code, said) = run(&["status"]);
    assert_eq!((code, said.as_str()), (0, ""));
    cluster.kill(2).unwrap();
    let (code, said) = run(&["status"]);
    assert_eq!((code, said.contains("no answer from n3")), (1, true), "{said}");
    assert_eq!(run(&["put", "key", "value"]).0, 0, "a quorum is left");
    let (code, said) = run(&["put", "key", "value", "--level", "all"]);
    assert!(
        code == 1 || code == 3,
        "not applied, or unknown if it went out before the loss was noticed: {code} {said}"
    );
    cluster.kill(1).unwrap();
    cluster.kill(0).unwrap();
    let (code, said) = run(&["get", "key", "--timeout", "200ms"]);
    assert_eq!((code, said.contains("cannot reach cluster \"test\"")), (1, true), "{said}");
}
