//! A disk without space: writes are refused in words, reads go on, and writes work again once there is space.
//!
//! One node runs in a mount namespace of its own, where its data lies on a small file system in memory: nothing is mounted for
//! anyone else, no privilege is needed, and all of it is gone with the process. Where the system allows no such namespace, the
//! test says so and does nothing. Another has its data on ext4, which sets space aside, delays what it allocates and keeps a
//! journal; that needs root.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ferrite_client::{
    BlockingClient, ErrorCode, Key, ReadOptions, UnknownReason, WriteOptions, WriteOutcome,
};
use tempfile::TempDir;

use crate::cluster::{Cluster, WITHIN, Wanted, directory, program, wait_for};
use crate::image::{Image, in_a_namespace};

/// Room for the log's first segments and little more.
const DISK: &str = "200m";
const EXT4_BYTES: u64 = 200 << 20;
const VALUE_BYTES: usize = 100_000;
const WRITES_BEFORE: u64 = 50;
/// More than what fits into the space that a full disk has left in files made before.
const WRITES_MAX: u64 = 4_000;

/// A program that runs `ferrite` where `data` lies on a small file system; `None` if the system does not allow it.
fn on_a_small_disk(home: &Path, data: &Path) -> Option<PathBuf> {
    let mount = |then: &str| {
        format!(
            "exec unshare --map-root-user --mount sh -c 'mount -t tmpfs -o size={DISK} ferrite-test \"{data}\" && {then}' \
             ferrite \"$@\"",
            data = data.display()
        )
    };
    std::fs::create_dir_all(data).expect("a directory");
    let probe =
        mount(&format!("dd if=/dev/zero of=\"{}/probe\" bs=4096 count=1 oflag=direct,dsync", data.display()));
    let probed = Command::new("sh").args(["-c", &probe]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !probed.is_ok_and(|status| status.success()) {
        return None;
    }
    let script = home.join("ferrite-on-a-small-disk");
    let text = format!("#!/bin/sh\n{}\n", mount(&format!("exec \"{}\" \"$@\"", program().display())));
    std::fs::write(&script, text).expect("a file");
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    Some(script)
}

fn key(number: u64) -> Vec<u8> {
    format!("record {number}").into_bytes()
}

fn value(number: u64) -> Vec<u8> {
    number.to_le_bytes().iter().copied().cycle().take(VALUE_BYTES).collect()
}

fn put(client: &mut BlockingClient, number: u64) -> WriteOutcome {
    // That a disk is full is said at once.
    let options = WriteOptions { timeout: Some(WITHIN), ..WriteOptions::default() };
    client.put(Key::plain(&key(number)), &value(number), options)
}

fn all_are_there(client: &mut BlockingClient, acknowledged: &[u64], when: &str) {
    for number in acknowledged {
        let read = client.get(Key::plain(&key(*number)), ReadOptions::default());
        let read = read.unwrap_or_else(|error| panic!("{when}: record {number}: {error}"));
        assert!(read.is_some_and(|read| read.bytes == value(*number)), "{when}: record {number}");
    }
}

/// Takes all space there is.
fn fill(file: &Path) {
    let mut filler = File::create(file).expect("the node's file system can be reached");
    let chunk = [0; 64 * 1024];
    loop {
        match filler.write(&chunk) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::StorageFull => return,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_full_disk_refuses_writes_serves_reads_and_recovers() {
    let home = directory();
    let (root, data) = (home.path().to_owned(), home.path().join("data"));
    let Some(program) = on_a_small_disk(&root, &data) else {
        // Not by a macro whose output is kept from whoever runs the tests.
        let why =
            "SKIPPED a full disk: this system gives no namespace with a file system in memory to a test\n";
        std::io::stderr().write_all(why.as_bytes()).expect("stderr is there");
        return;
    };
    let mut cluster = small_cluster(&program, home);
    cluster.local.start_all().expect("it starts on a small disk");
    let filler = |pid| PathBuf::from(format!("/proc/{pid}/root{}/filler", data.display()));
    fill_and_free(&mut cluster, filler);
    assert_eq!(cluster.local.stop(0).expect("it stops").code(), Some(0));
}

#[test]
fn a_full_ext4_refuses_writes_serves_reads_and_recovers() {
    in_a_namespace("full_disk::a_full_ext4_refuses_writes_serves_reads_and_recovers", || {
        let home = directory();
        let (data, image) = (home.path().join("data"), home.path().join("disk.img"));
        let mut cluster = small_cluster(program(), home);
        let _mounted = Image::create(&image, EXT4_BYTES).mount(&data);
        cluster.local.start_all().expect("it starts on a small disk");
        let acknowledged = fill_and_free(&mut cluster, |_| data.join("filler"));
        cluster.local.kill(0).expect("it runs");
        cluster.local.start(0).expect("it recovers");
        all_are_there(&mut cluster.client(), &acknowledged, "after a kill");
        // Full while it starts, too: a node that was killed because of that comes back to a full disk.
        cluster.local.kill(0).expect("it runs");
        fill(&data.join("filler"));
        cluster.local.start(0).expect("a full disk is no reason to refuse");
        all_are_there(&mut cluster.client(), &acknowledged, "started on a full disk");
        std::fs::remove_file(data.join("filler")).expect("it was made here");
        assert_eq!(cluster.local.stop(0).expect("it stops").code(), Some(0));
        cluster.local.start(0).expect("it starts again");
        all_are_there(&mut cluster.client(), &acknowledged, "after a stop");
        assert_eq!(cluster.local.stop(0).expect("it stops").code(), Some(0));
    });
}

fn small_cluster(program: &Path, home: TempDir) -> Cluster {
    let wanted = Wanted { nodes: 1, cores: 1, server: "memtable = \"1MiB\"\nstores = 2" };
    Cluster::configure(program, home, wanted)
}

/// Writes while there is space, while there is none, and when there is some again. `filler` is where the space can be taken,
/// by the node's process. What was acknowledged.
fn fill_and_free(cluster: &mut Cluster, filler: impl FnOnce(u32) -> PathBuf) -> Vec<u64> {
    let mut client = cluster.client();
    let mut acknowledged = Vec::new();
    for number in 0..WRITES_BEFORE {
        let outcome = put(&mut client, number);
        assert!(outcome.is_done(), "{outcome}");
        acknowledged.push(number);
    }
    let filler = filler(cluster.local.pid(0).expect("it runs"));
    fill(&filler);

    let mut unknown = 0;
    let mut full = None;
    for number in WRITES_BEFORE..WRITES_MAX {
        match put(&mut client, number) {
            WriteOutcome::Done { .. } => acknowledged.push(number),
            // What was under way when the space ran out.
            WriteOutcome::Unknown(UnknownReason::Server(_)) => unknown += 1,
            WriteOutcome::NotApplied(fault) if fault.code == ErrorCode::DiskFull => {
                full = Some(number);
                break;
            }
            outcome => panic!("record {number}: {outcome}"),
        }
    }
    let full = full.expect("the disk is full at last");
    let status = cluster.status(&mut client, 0);
    assert!(status.says("engine.disk_full") && !status.says("fenced"), "{status:?}");
    all_are_there(&mut client, &acknowledged, "while the disk is full");
    let refused = put(&mut client, full);
    assert!(
        matches!(&refused, WriteOutcome::NotApplied(fault) if fault.code == ErrorCode::DiskFull),
        "{refused}"
    );
    let read = client.get(Key::plain(&key(full)), ReadOptions::default());
    assert_eq!(read, Ok(None), "what was refused is not there");

    std::fs::remove_file(&filler).expect("it was made here");
    wait_for("writes work again", || put(&mut client, full).is_done().then_some(()));
    acknowledged.push(full);
    for number in full + 1..full + WRITES_BEFORE {
        if put(&mut client, number).is_done() {
            acknowledged.push(number);
        }
    }
    all_are_there(&mut client, &acknowledged, "after there was space again");
    println!(
        "the disk was full after {} acknowledged writes ({unknown} unknown); {} are there",
        full - unknown,
        acknowledged.len()
    );
    acknowledged
}
