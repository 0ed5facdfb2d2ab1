//! Damaged tables: the node starts, says which keys are concerned, answers everything else, and never answers wrong.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ferrite_client::{BlockingClient, ErrorCode, Key, ReadError, ReadOptions, WriteOptions, WriteOutcome};

use crate::cluster::{Cluster, Wanted, wait_for};

const RECORDS: u64 = 6_000;
const VALUE_BYTES: usize = 1_000;

fn key(number: u64) -> Vec<u8> {
    format!("record {number}").into_bytes()
}

fn value(number: u64, version: u8) -> Vec<u8> {
    let mut value = number.to_le_bytes().to_vec();
    value.resize(VALUE_BYTES, version);
    value
}

fn write(client: &mut BlockingClient, version: u8) {
    for number in 0..RECORDS {
        let outcome = client.put(Key::plain(&key(number)), &value(number, version), WriteOptions::default());
        assert!(outcome.is_done(), "record {number}: {outcome}");
    }
}

/// Reads everything: what is answered is right. Gives how many are not answered, for their table is damaged.
fn check(client: &mut BlockingClient, version: u8, when: &str) -> u64 {
    let mut damaged = 0;
    for number in 0..RECORDS {
        match client.get(Key::plain(&key(number)), ReadOptions::default()) {
            Ok(Some(read)) => assert!(read.bytes == value(number, version), "{when}: record {number}"),
            Err(ReadError::Refused(fault)) if fault.code == ErrorCode::Damaged => damaged += 1,
            other => panic!("{when}: record {number}: {other:?}"),
        }
    }
    damaged
}

fn tables(data: &Path) -> Vec<PathBuf> {
    let mut tables = Vec::new();
    let entries =
        |path: &Path| std::fs::read_dir(path).expect("a directory").map(|entry| entry.expect("an entry"));
    for directory in entries(data).filter(|entry| entry.path().is_dir()) {
        let files = entries(&directory.path()).map(|entry| entry.path());
        tables
            .extend(files.filter(|path| {
                path.file_name().is_some_and(|name| name.to_string_lossy().contains("table"))
            }));
    }
    tables.sort();
    tables
}

fn flip(file: &Path, at: impl Fn(u64) -> u64) {
    let file: File = OpenOptions::new().read(true).write(true).open(file).expect("a table");
    let at = at(file.metadata().expect("its length").len());
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("it is there");
    file.write_all_at(&[byte[0] ^ 0x10], at).expect("it can be written");
}

#[test]
fn damaged_tables_cost_their_own_keys_until_these_are_written_again() {
    // It stops in order, so that no write need wait for a sync of its own.
    let server =
        "memtable = \"1MiB\"\nstores = 2\nscrub_rate = \"64MiB\"\ncommitlog_sync = \"periodic:100ms\"";
    let mut cluster = Cluster::start(Wanted { nodes: 1, cores: 1, server });
    write(&mut cluster.client(), 1);
    assert_eq!(cluster.local.stop(0).expect("it stops").code(), Some(0));
    let tables = tables(&cluster.local.node(0).data);
    assert!(tables.len() >= 2, "{tables:?}");
    flip(&tables[0], |_| 40);
    flip(&tables[1], |len| len - 4096 + 20);
    cluster.local.start(0).expect("damage is no reason to refuse");
    let mut client = cluster.client();
    let status = cluster.status(&mut client, 0);
    // What could not be opened; and the block, if the node's own records lie in it, which a start reads.
    assert!([1, 2].contains(&status.number("engine.quarantined_areas")), "{status:?}");
    wait_for("scrubbing finds the block", || {
        let status = cluster.status(&mut client, 0);
        (status.number("engine.quarantined_areas") == 2).then_some(())
    });
    let damaged = check(&mut client, 1, "damaged");
    assert!((1..RECORDS).contains(&damaged), "{damaged} records are damaged");
    assert_eq!(cluster.local.stop(0).expect("it stops").code(), Some(0));
    cluster.local.start(0).expect("nor is a mark");
    let mut client = cluster.client();
    assert!(check(&mut client, 1, "started again") >= damaged);
    // If the damage took the record of how far its clock had come, it begins above all that it can have minted, and waits until that is not ahead.
    wait_for("it mints again", || {
        let outcome = client.put(Key::plain(&key(0)), &value(0, 2), WriteOptions::default());
        let waits =
            matches!(&outcome, WriteOutcome::NotApplied(fault) if fault.code == ErrorCode::ClockDrift);
        assert!(outcome.is_done() || waits, "{outcome}");
        outcome.is_done().then_some(())
    });
    write(&mut client, 2);
    assert_eq!(check(&mut client, 2, "written again"), 0);
    assert_eq!(cluster.local.stop(0).expect("it stops").code(), Some(0));
}
