//! get, put, del and status against a running cluster: what they print, and what they exit with.

use std::io::Write;
use std::process::{Command, Stdio};

use ferrite_client::{Key, Level, ReadOptions};

use crate::{client, cluster, directory, ferrite, outcome, program};

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

/// Of several keys each has its line, or is said to have none.
#[test]
fn several_keys_are_read_and_deleted_at_once() {
    let home = directory();
    let _cluster = cluster(home.path(), 3);
    let run = |arguments: &[&str]| {
        let output = ferrite(home.path(), arguments);
        let (code, said) = outcome(&output);
        (code, String::from_utf8(output.stdout).unwrap(), said)
    };
    let nothing = String::new;
    for (key, value) in [("one", "1"), ("two", "a\tb\nc\\"), ("three", "")] {
        assert_eq!(run(&["put", key, value]), (0, nothing(), nothing()));
    }
    let lines = "one\t1\ntwo\ta\\tb\\nc\\\\\nthree\t\n".to_owned();
    assert_eq!(run(&["get", "one", "two", "three"]), (0, lines, nothing()));
    let (code, printed, said) = run(&["get", "none", "one", "nor this", "one", "--level", "all", "-v"]);
    assert_eq!((code, printed.as_str()), (1, "one\t1\none\t1\n"));
    let answered = |key| format!("ferrite: \"{key}\" answered by 3 of 3 replicas\n");
    let absent = |key| format!("{}ferrite: \"{key}\" has no value\n", answered(key));
    let summary = "ferrite: 2 of 4 keys have no value to show\n".to_owned();
    assert_eq!(
        said,
        [absent("none"), answered("one"), absent("nor this"), answered("one"), summary].concat()
    );

    let (code, printed, said) = run(&["del", "one", "none", "--level", "all", "--verbose"]);
    let done = |key| format!("ferrite: \"{key}\": done on 3 of 3 replicas, strict\n");
    assert_eq!((code, printed, said), (0, nothing(), done("one") + &done("none")));
    assert_eq!(run(&["get", "one", "two", "three"]).1, "two\ta\\tb\\nc\\\\\nthree\t\n");
    let (code, _, said) = run(&["del", "two", "three", "--level", "4"]);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!((code, lines.len()), (1, 3), "{said}");
    for (line, key) in lines.iter().zip(["two", "three"]) {
        assert!(
            line.starts_with(&format!("ferrite: \"{key}\": not applied: unavailable; fewer replicas")),
            "{line}"
        );
    }
    assert_eq!(lines[2], "ferrite: 2 of 2 keys were not deleted, or may not have been");
    assert_eq!(run(&["get", "two"]).1, "a\tb\nc\\");
    for wrong in [&["get", "one", "two", "--siblings"][..], &["del", "one", "two", "--context", "00"]] {
        let (code, _, said) = run(wrong);
        assert_eq!((code, said.lines().count(), said.contains("of one key")), (2, 1, true), "{said}");
    }
}

/// How many of its replicas stand behind an answer, and whether they alone, is what a level leaves open.
#[test]
fn how_many_replicas_answered_and_whether_a_write_was_strict_is_said_on_request() {
    let home = directory();
    let cluster = cluster(home.path(), 3);
    let run = |arguments: &[&str]| {
        let output = ferrite(home.path(), arguments);
        let (code, said) = outcome(&output);
        (code, String::from_utf8(output.stdout).unwrap(), said)
    };
    let (nothing, least) = (String::new(), |what: &str, how: &str| {
        [2, 3].map(|count| format!("ferrite: {what} {count} of 3 replicas{how}\n"))
    });
    let (code, printed, said) = run(&["put", "key", "value", "--level", "quorum", "--verbose"]);
    assert!(least("done on", ", strict").contains(&said), "{said}");
    assert_eq!((code, printed), (0, nothing.clone()));
    let (code, printed, said) = run(&["put", "key", "value", "--level", "all", "-v"]);
    assert_eq!(
        (code, printed, said.as_str()),
        (0, nothing.clone(), "ferrite: done on 3 of 3 replicas, strict\n")
    );
    let (code, printed, said) = run(&["get", "key", "--verbose"]);
    assert!(least("answered by", "").contains(&said), "{said}");
    assert_eq!((code, printed.as_str()), (0, "value"), "the bare value");
    let (code, printed, said) = run(&["get", "nothing", "--level", "all", "--verbose"]);
    assert_eq!((code, printed), (1, nothing.clone()));
    assert!(said.starts_with("ferrite: answered by 3 of 3 replicas\n"), "{said}");
    let (code, printed, said) = run(&["del", "key", "--level", "all", "--verbose"]);
    assert_eq!(
        (code, printed, said.as_str()),
        (0, nothing.clone(), "ferrite: done on 3 of 3 replicas, strict\n")
    );
    assert_eq!(run(&["put", "key", "value"]), (0, nothing.clone(), nothing), "not unasked");

    let mut client = client(&cluster);
    let options = |level| ReadOptions { level: Some(level), timeout: None };
    let keys = [Key::plain(b"key"), Key::plain(b"nothing")];
    for found in client.multi_get_siblings(&keys, options(Level::Quorum)).into_iter().map(Result::unwrap) {
        assert!((2..=3).contains(&found.answered), "{found:?}");
    }
    for found in client.multi_get_siblings(&keys, options(Level::All)).into_iter().map(Result::unwrap) {
        assert_eq!(found.answered, 3, "{found:?}");
    }
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
        &["put", "key", "value", "--ttl", "0s"],
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
    // What is dead is tried to the end.
    let (code, said) = run(&["status", "--timeout", "5s"]);
    assert_eq!((code, said.contains("no answer from n3")), (1, true), "{said}");
    assert_eq!(run(&["put", "key", "value"]).0, 0, "a quorum is left");
    let (code, said) = run(&["put", "key", "value", "--level", "all", "--timeout", "5s"]);
    assert!(
        code == 1 || code == 3,
        "not applied, or unknown if it went out before the loss was noticed: {code} {said}"
    );
    cluster.kill(1).unwrap();
    cluster.kill(0).unwrap();
    let (code, said) = run(&["get", "key", "--timeout", "200ms"]);
    assert_eq!((code, said.contains("cannot reach cluster \"test\"")), (1, true), "{said}");
    assert!(said.contains("`ferrite serve` starts a node"), "{said}");
}
