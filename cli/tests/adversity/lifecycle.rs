//! Starting and stopping: what was promised is kept, and a directory that is not in order is not touched.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use ferrite_wire::{FrameKind, Role};
use rustix::process::{Pid, Signal, kill_process};

use crate::cluster::{Cluster, Wanted, wait_for};
use crate::ledger::{Ledger, Progress, StopAtEnd};
use crate::wire::{self, Raw, frame, request};

const SMALL: &str = "memtable = \"1MiB\"\nstores = 2";
const KEYS: usize = 100;
const VALUE_BYTES_MAX: usize = 4_000;
/// Acknowledged writes before and after each stop.
const WRITES: u64 = 100;
const SIGTERM: i32 = 15;

/// Stops each node in turn while clients write, and looks at what it left.
fn stop_in_turn_under_load(wanted: Wanted<'_>, rounds: usize) {
    let mut cluster = Cluster::start(wanted);
    let mut ledger = Ledger::new("rolling", KEYS, VALUE_BYTES_MAX);
    let (stop, progress) = (AtomicBool::new(false), Progress::default());
    std::thread::scope(|scope| {
        let mut client = cluster.client();
        let (ledger, stop, progress) = (&mut ledger, &stop, &progress);
        scope.spawn(move || ledger.write(&mut client, stop, progress));
        let _stopped = StopAtEnd(stop);
        for round in 0..rounds {
            let victim = round % wanted.nodes;
            progress.wait_for(WRITES);
            let status = cluster.local.stop(victim).expect("it stops");
            assert_eq!(status.code(), Some(0), "round {round}: {status}");
            let log = std::fs::read_to_string(cluster.local.log_file(victim)).expect("it has a log");
            assert!(!log.contains("ERROR"), "round {round}: {log}");
            cluster.local.start(victim).expect("it starts again");
            let found = cluster.status(&mut cluster.client(), victim);
            assert!(found.says("log_was_closed_cleanly"), "round {round}: {found:?}");
            assert!(!found.says("log_tail_was_cut"), "round {round}: {found:?}");
            assert_eq!(found.number("log_damage_found"), 0, "round {round}: {found:?}");
            progress.wait_for(WRITES);
        }
    });
    let found = ledger.check(&mut cluster.client(), "after all stops");
    let tally = ledger.tally();
    println!(
        "{} nodes, {rounds} stops: {} writes acknowledged, {} not applied, {} unknown; {found} keys read",
        wanted.nodes, tally.acknowledged, tally.not_applied, tally.unknown
    );
    cluster.local.kill(0).expect("it runs");
    cluster.local.start(0).expect("it recovers");
    let found = cluster.status(&mut cluster.client(), 0);
    assert!(!found.says("log_was_closed_cleanly"), "a kill is told from a stop: {found:?}");
}

#[test]
fn nodes_of_three_stopped_in_turn_under_load_drain_and_lose_nothing() {
    stop_in_turn_under_load(Wanted { nodes: 3, cores: 1, server: SMALL }, 6);
}

#[test]
fn the_only_node_stopped_under_load_drains_and_loses_nothing() {
    stop_in_turn_under_load(Wanted { nodes: 1, cores: 2, server: SMALL }, 4);
}

#[test]
fn connections_that_do_nothing_do_not_keep_a_node_from_stopping() {
    let mut cluster = Cluster::start(Wanted { nodes: 1, cores: 2, server: "" });
    let mut silent = Raw::connect(&cluster);
    let mut idle = Raw::greeted(&cluster, Role::Client);
    let mut half = Raw::greeted(&cluster, Role::Client);
    half.send(&request(&wire::put(b"half", b"sent"))[..40]);
    let mut done = Raw::greeted(&cluster, Role::Client);
    done.send(&request(&wire::put(b"whole", b"value")));
    assert_eq!(done.next().map(|said| said.kind), Some(FrameKind::Done));
    assert_eq!(cluster.local.stop(0).expect("it stops").code(), Some(0));
    idle.send(&frame(FrameKind::Ping, b""));
    for raw in [&mut silent, &mut idle, &mut half, &mut done] {
        raw.until_closed();
    }
    cluster.local.start(0).expect("it starts again");
    let value = cluster.client().get(ferrite_client::Key::plain(b"whole"), Default::default());
    assert_eq!(value.map(|value| value.map(|value| value.bytes)), Ok(Some(b"value".to_vec())));
}

#[test]
fn a_start_that_is_told_to_stop_leaves_a_directory_that_opens() {
    let mut cluster = Cluster::start(Wanted { nodes: 1, cores: 1, server: SMALL });
    let mut ledger = Ledger::new("interrupted", KEYS, VALUE_BYTES_MAX);
    let (stop, progress) = (AtomicBool::new(false), Progress::default());
    std::thread::scope(|scope| {
        let mut client = cluster.client();
        let (ledger, stop, progress) = (&mut ledger, &stop, &progress);
        scope.spawn(move || ledger.write(&mut client, stop, progress));
        let _stopped = StopAtEnd(stop);
        progress.wait_for(5 * WRITES);
        cluster.local.kill(0).expect("it runs");
    });
    for attempt in 0..5 {
        let lock = cluster.local.node(0).data.join("LOCK");
        let mut child = cluster.spawn(0);
        let holder = child.id().to_string();
        wait_for("the node takes its directory", || {
            let text = std::fs::read_to_string(&lock).unwrap_or_default();
            (text.trim() == holder).then_some(())
        });
        kill_process(Pid::from_child(&child), Signal::TERM).expect("it runs");
        let status = child.wait().expect("it was started here");
        // Before it listens for signals the signal itself ends it.
        let is_well = status.code() == Some(0) || status.signal() == Some(SIGTERM);
        assert!(is_well, "attempt {attempt}: {status}");
    }
    cluster.local.start(0).expect("it starts");
    ledger.check(&mut cluster.client(), "after interrupted starts");
}

/// Every file below a directory, with its bytes.
fn contents(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut todo = vec![directory.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in std::fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            let name = path.display().to_string();
            if path.is_dir() {
                found.insert(name, Vec::new());
                todo.push(path);
            } else {
                found.insert(name, std::fs::read(path).expect("a file"));
            }
        }
    }
    found
}

/// Starts the node; it must refuse in one line and leave its directory as it was.
fn refuses(cluster: &Cluster, what: &str, words: &str) -> i32 {
    let data = &cluster.local.node(0).data;
    let before = contents(data);
    let output = cluster.spawn(0).wait_with_output().expect("it was started here");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains(words), "{what}: {said}");
    assert_eq!(said.lines().count(), 1, "{what}: {said}");
    assert!(contents(data) == before, "{what}: the directory was touched");
    output.status.code().unwrap_or_else(|| panic!("{what}: {}", output.status))
}

#[test]
fn a_damaged_identity_is_refused_and_nothing_is_touched() {
    let mut cluster = Cluster::start(Wanted { nodes: 1, cores: 1, server: "" });
    assert_eq!(cluster.local.stop(0).expect("it stops").code(), Some(0));
    let file = cluster.local.node(0).data.join("IDENTITY");
    let ours = std::fs::read(&file).expect("it is there");
    // A bit of each field: magic, format, node, cores, padding, vnodes, padding, seed, cluster, checksum.
    for at in [0, 7, 8, 10, 12, 14, 16, 20, 24, 32, 47, 48, 55] {
        let mut flipped = ours.clone();
        flipped[at] ^= 0x10;
        std::fs::write(&file, &flipped).expect("it can be written");
        let (words, code) = if at == 8 { ("has format", 2) } else { ("IDENTITY", 1) };
        assert_eq!(refuses(&cluster, &format!("byte {at} flipped"), words), code, "byte {at}");
    }
    for len in [0, 9, 10, ours.len() - 1] {
        std::fs::write(&file, &ours[..len]).expect("it can be written");
        assert_eq!(refuses(&cluster, &format!("cut to {len} bytes"), "IDENTITY"), 1);
    }
    std::fs::write(&file, [&ours[..], b"x"].concat()).expect("it can be written");
    assert_eq!(refuses(&cluster, "a byte too many", "IDENTITY"), 1);
    std::fs::remove_file(&file).expect("it can be removed");
    assert_eq!(refuses(&cluster, "no IDENTITY beside data", "IDENTITY"), 2);
    std::fs::write(&file, &ours).expect("it can be written");
    cluster.local.start(0).expect("its own directory is taken again");
}
